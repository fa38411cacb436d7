"""How an arm follows its actions, found again in what it did."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from diffusion_ros.control.targets import TargetGenerator
from diffusion_ros.robot_file import Limits
from training.response import Motion, fit

SECONDS = 0.05


def motion(seed: int, response: tuple[float, ...], push: bool) -> Motion:
    """Of an arm that is the model. push: something is in its way for a while."""
    random = np.random.default_rng(seed)
    free = Limits(100.0, 100.0, 1e4, 1e4, (-100.0,) * 3, (100.0,) * 3)
    arm = TargetGenerator(free, SECONDS, response, leash=(100.0, 3.0))
    arm.start(np.zeros(3), Rotation.identity())
    kept: list[tuple[np.ndarray, ...]] = []
    for step in range(150):
        row = np.append(random.normal(0, 0.03, 3), [*random.normal(0, 0.1, 3), 0.0])
        now = arm.target()
        kept.append((row, now.position, now.quaternion, now.velocity, now.angular_velocity))
        if push and step % 50 == 0:
            arm.wait_at(now.position + 0.05, now.rotation)
        now = arm.target()
        arm.advance(SECONDS, row, step, now.position, now.rotation)
    return Motion(*(np.array(values) for values in zip(*kept, strict=True)))


@pytest.mark.parametrize("response", [(90.0, 0.8, 35.0, 1.3), (150.0, 1.0)])
@pytest.mark.parametrize("push", [False, True])
def test_the_response_is_found(response: tuple[float, ...], push: bool) -> None:
    found, missed = fit([motion(seed, response, push) for seed in range(2)], SECONDS)
    np.testing.assert_allclose(found, response if len(response) == 4 else 2 * response, rtol=0.02)
    assert max(missed) < 1e-4


def test_too_little_motion_is_refused() -> None:
    short = motion(0, (90.0, 0.8), False)
    few = Motion(*(values[:50] for values in vars(short).values()))
    with pytest.raises(ValueError, match="46 control steps, at least 100 expected"):
        fit([few], SECONDS)
    assert math.isfinite(fit([short], SECONDS)[1][0])
