"""Faults with each output of a robot of its own: the arm stands within the time that is known, whatever its driver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import rclpy
import ros_graph

from .driven import BRAKE, DRIVEN, OUTPUTS, DrivenFault

QUICK = {
    "pose: silent": OUTPUTS,
    "chunk: NaN": ("twist", "joint_positions"),
    "command: a second commander": ("pose", "joint_trajectory"),
    "stop: emergency stop": OUTPUTS,
}
"""Fault -> outputs with which it is in make test: what is not known any more, and what is asked for, with each."""


@pytest.fixture(scope="module", autouse=True)
def ros() -> Iterator[None]:
    with ros_graph.own_domain():
        rclpy.init()
        yield
        rclpy.try_shutdown()


@pytest.mark.parametrize(
    ("fault", "output"),
    [
        pytest.param(
            one,
            output,
            marks=() if output in QUICK.get(one.name, ()) else pytest.mark.slow,
            id=f"{one.name}-{output}",
        )
        for one in DRIVEN
        for output in one.only
    ],
)
def test_fault(fault: DrivenFault, output: str, tmp_path: Path) -> None:
    assert fault.check(tmp_path, output).moved == 0.0


def test_the_documentation_has_them_all() -> None:
    """`python -m tests.faults --markdown` prints this table too."""
    text = (ros_graph.ROOT / "docs" / "faults.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    told = {row[0]: row for row in rows if len(row) == 2 + len(OUTPUTS) + 1}
    assert set(told) - {"fault"} == {fault.name for fault in DRIVEN}
    for fault in DRIVEN:
        stood = told[fault.name][2 : 2 + len(OUTPUTS)]
        assert told[fault.name][1] == fault.what
        assert [output for output, cell in zip(OUTPUTS, stood, strict=True) if cell != "-"] == list(fault.only)
        assert all(float(cell.removesuffix(" s")) <= fault.after + BRAKE for cell in stood if cell != "-")
    assert f"{len(DRIVEN)} faults with each output" in text
