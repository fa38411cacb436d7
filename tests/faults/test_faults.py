"""Every kind of fault: nothing moves that should not, the reason is said, and the robot goes on once it is over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import rclpy
import ros_graph
from some_slow import one_in

from . import others, processes  # noqa: F401
from .kinds import FAULTS, Fault

SLOW = (
    "stop: kill -9 under it",  # the record of a stop is in test_stop_record.py
    "executors: two of them",  # two processes that must find each other and be given up
    "signals: SIGTERM to the executor",  # test_nodes.py has the last word, and the signal once
    "episode: a forged result",  # the reading of a result's file is in test_bringup.py
)
QUICK = [one for one in FAULTS if one.name not in SLOW]


@pytest.fixture(scope="module", autouse=True)
def ros() -> Iterator[None]:
    with ros_graph.own_domain():
        rclpy.init()
        yield
        rclpy.try_shutdown()


@pytest.mark.parametrize(
    "fault",
    [*one_in(2, QUICK), *(pytest.param(one, marks=pytest.mark.slow) for one in FAULTS if one.name in SLOW)],
    ids=lambda fault: fault.name,
)
def test_fault(fault: Fault, tmp_path: Path) -> None:
    verdict = fault.check(tmp_path)
    assert verdict.moved == 0.0, f"{verdict.moved:.3f} m of wrong motion"
    assert verdict.recovered is None or verdict.recovered < 3.0


def test_the_documentation_has_them_all() -> None:
    """`python -m tests.faults --markdown` prints the table."""
    text = (ros_graph.ROOT / "docs" / "faults.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    told = {row[0].removeprefix("| "): row for row in rows if len(row) == 5}
    assert set(told) - {"fault"} == {fault.name for fault in FAULTS}
    assert all(told[fault.name][2] == "0" and told[fault.name][1] == fault.what for fault in FAULTS)
    assert f"{len(FAULTS)} kinds of fault" in text
    assert f"{len(FAULTS)} kinds of fault" in (ros_graph.ROOT / "README.md").read_text()
