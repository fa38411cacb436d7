"""What inputs may be: from the data, into the specification, and what lies beyond."""

from __future__ import annotations

from pathlib import Path

import fake_policy
import numpy as np
import pytest

from diffusion_ros import checkpoint
from diffusion_ros.models.policy import Policy, RangeError
from diffusion_ros.ranges import outside
from diffusion_ros.spec import CheckpointSpec, SpecError, TensorSpec
from training.ranges import with_range, with_ranges

FINGERS = TensorSpec("robot0_gripper_qpos", (2,), "float32", "m", "")


def test_the_range_is_the_datas_and_half_of_what_it_spans():
    tensor = with_range(TensorSpec("x", (2,), "float32", "m", ""), [0.0, 5.0], [1.0, 5.0])
    np.testing.assert_allclose(tensor.low, [-0.5, 4.99])
    np.testing.assert_allclose(tensor.high, [1.5, 5.01])
    with pytest.raises(ValueError, match="finite"):
        with_range(FINGERS, [0.0, np.nan], [1.0, 1.0])
    data = {"robot0_gripper_qpos": np.array([[0.0, -0.04], [0.04, 0.0]], np.float32)}
    quaternion = TensorSpec("robot0_eef_quat", (4,), "float32", "1", "world")
    made = with_ranges((FINGERS, quaternion), data)
    np.testing.assert_allclose(made[0].low, [-0.02, -0.06], atol=1e-7)
    assert made[1] == quaternion


def test_ranges_go_through_json_and_old_specifications_have_none():
    spec = fake_policy.spec((with_range(FINGERS, [0, 0], [1, 1]), *fake_policy.LOW_DIM[:2]))
    again = CheckpointSpec.from_json(spec.to_json())
    assert again == spec and again.range_of("robot0_gripper_qpos") == ((-0.5, -0.5), (1.5, 1.5))
    assert again.range_of("robot0_eef_pos") is None and again.range_of("nothing") is None
    old = spec.to_json().replace('"low"', '"lowest"')
    with pytest.raises(SpecError, match="lowest"):
        CheckpointSpec.from_json(old)


@pytest.mark.parametrize(
    ("shape", "low", "high", "reason"),
    [
        ((2,), (0.0,), (1.0,), "x_low"),
        ((2,), (0.0, 0.0), (), "x_high"),
        ((2,), (0.0, 2.0), (1.0, 1.0), "below x_high"),
        ((2,), (0.0, float("nan")), (1.0, 1.0), "finite"),
        ((2, 2), (0.0, 0.0), (1.0, 1.0), "none expected"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(shape, low, high, reason):
    with pytest.raises(SpecError, match=reason):
        TensorSpec("x", shape, "float32", "m", "", low, high)


def test_what_lies_beyond_is_named_with_its_value_and_the_rule(tmp_path: Path):
    inputs = tuple(
        with_range(tensor, [-1.0] * 3, [1.0] * 3) if tensor.name == "robot0_eef_pos" else tensor
        for tensor in (*fake_policy.LOW_DIM, *fake_policy.OBJECT)
    )
    policy = Policy(checkpoint.load(fake_policy.save(tmp_path / "x.pt", fake_policy.spec(inputs)), kind="policy"))
    frame = {t.name: np.zeros(t.shape) for t in inputs}
    policy.check(frame)
    frame["robot0_eef_pos"] = np.array([0.0, 1e6, 0.0])
    with pytest.raises(RangeError, match=r"^robot0_eef_pos\[1\] is 1e\+06 m, -2 to 2 expected$"):
        policy.encode(frame)
    assert outside("x", np.array([np.nan]), [0.0], [1.0]) == "x is nan, 0 to 1 expected"


def test_every_shipped_policy_has_ranges():
    for path in sorted((Path(__file__).parents[1] / "checkpoints").glob("*.pt")):
        spec = checkpoint.read_spec(path)
        if spec.kind != "policy":
            continue
        wanted = {"robot0_eef_pos", "robot0_gripper_qpos"} | ({"object_pos"} & set(spec.input_names))
        assert {t.name for t in spec.inputs if t.low} == wanted, path
        # Millimetres, a finger of the wrong sign, and the shipped box.
        low, high = spec.range_of("robot0_gripper_qpos")
        assert high[1] < 0.03 and high[0] < 0.1
        low, high = spec.range_of("robot0_eef_pos")
        assert all(a < b < c for a, b, c in zip(low, spec.workspace_low, spec.workspace_high, strict=True))
