"""Chunks that come late, at the robot: which row is executed, and what a driver's targets are made from.

The executor is the real one, in a time of its own (faults/bench.py): nothing depends on how busy the machine is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
import ros_graph
from faults.bench import PERIOD
from faults.driven import OUTPUTS, DrivenBench
from numpy.typing import NDArray

Array = NDArray[np.float64]


@pytest.fixture(scope="module", autouse=True)
def ros() -> Iterator[None]:
    with ros_graph.own_domain():
        rclpy.init()
        yield
        rclpy.try_shutdown()


# A robot with drivers of its own


@pytest.fixture
def arms(tmp_path: Path) -> Iterator[Any]:
    made: list[DrivenBench] = []

    def arm(output: str, **parameters: Any) -> DrivenBench:
        made.append(DrivenBench(tmp_path, output, **parameters))
        return made[-1]

    yield arm
    for one in made:
        one.close()


def of_two_minds(bench: DrivenBench) -> None:
    """Chunks in turn say 0.26 m/s one way and 0.06 m/s the other, 0.1 m/s in the mean."""
    count = [0]

    def rows() -> Array:
        count[0] += 1
        values = np.zeros((9, 7))
        values[:, 0] = PERIOD * (0.1 + 0.16 * (-1) ** count[0])
        return values

    bench.rows = rows


@pytest.mark.parametrize("output", OUTPUTS)
def test_an_ensemble_goes_the_way_of_the_mean_however_late_its_chunks_are(arms: Any, output: str) -> None:
    """And not after each newest one alone, to make up for what that would have done so far."""
    bench = arms(output, join="ensemble")
    of_two_minds(bench)
    bench.chunk_hz, bench.delay = 20.0, lambda: 0.225
    bench.run(3.0)
    places = np.array([place[0] for at, place, _ in bench.way if at > bench.clock.seconds - 2.0])
    speeds = np.diff(places[::10]) / 0.05
    assert -np.mean(speeds) == pytest.approx(0.1, rel=0.06)
    assert np.std(speeds) < 0.04


@pytest.mark.parametrize(
    "parameters", [{"join": "blend", "blend_rows": 4}, {"join": "ensemble"}], ids=lambda p: p["join"]
)
def test_a_trajectory_goes_through_the_joined_rows_that_are_to_come(arms: Any, parameters: dict[str, Any]) -> None:
    bench = arms("joint_trajectory", **parameters)
    of_two_minds(bench)
    seen: list[tuple[float, Array, list[Array]]] = []
    send = bench.driven.output.send

    def watch(target: Any, seconds: float, hand: Any, lagged: Any, preview: Any) -> None:
        ahead = [one.position for one in preview(0.02)] if len(seen) == 0 else []
        seen.append((bench.clock.seconds, target.position, ahead))
        send(target, seconds, hand, lagged, preview)

    bench.run(0.75)
    bench.tamper = lambda msg: None  # no other chunk comes: what is seen ahead is what happens
    bench.driven.output.send = watch
    bench.run(0.3)
    (_, _, ahead), *following = seen
    assert len(following) > 10
    for expected, (_, position, _) in zip(ahead, following, strict=False):
        np.testing.assert_allclose(position, expected, atol=2e-3)
