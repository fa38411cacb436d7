"""What a node says of itself: one line, and not as much as somebody else likes."""

from __future__ import annotations

from pathlib import Path

import pytest
import ros_graph
import yaml

from diffusion_ros.ros.diagnostics import ERROR, OK, WARN, Diagnostics
from diffusion_ros.ros.messages import printable
from diffusion_ros.ros.runner import RunnableNode
from diffusion_ros.systems import SYSTEMS

ROOT = Path(__file__).parents[1]


class Log:
    """A logger that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warning = self.error = self.lines.append


def test_a_sender_of_new_complaints_does_not_fill_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    with ros_graph.graph() as graph:
        node = graph.add(RunnableNode("watched"))
        log = Log()
        monkeypatch.setattr(node, "get_logger", lambda: log)
        diagnostics = Diagnostics(node)
        for i in range(10_000):
            diagnostics.report(WARN, f"eef_pose: frame {chr(97 + i % 26) * (1 + i % 300)!r}, 'world' expected")
        assert len(log.lines) <= 8
        diagnostics.report(ERROR, "a\n\x1b[31m" * 10_000)
        assert diagnostics.summary.isprintable() and len(diagnostics.summary) <= 1000
        diagnostics.report(OK, "acting")
        assert (diagnostics.level, diagnostics.summary) == (OK, "acting")


def test_text_from_outside_is_one_line() -> None:
    assert printable("joint\n\x1b[31m") == "joint??[31m"
    assert printable("x" * 1000, 20) == "x" * 16 + " ..."
    assert printable("Würfel") == "Würfel"


def test_the_aggregator_has_one_place_for_each_node() -> None:
    """As GenericAnalyzer matches: a status belongs where its name contains one of the words."""
    config = yaml.safe_load((ROOT / "config/diagnostics.yaml").read_text())["/**"]["ros__parameters"]
    groups = {name: group["contains"] for name, group in config.items() if isinstance(group, dict)}
    nodes = {node.name for system in SYSTEMS.values() for node in system.nodes} | {"franka_driver"}
    for node in nodes:
        for name in (node, f"left/{node}"):
            found = [group for group, words in groups.items() if any(word in name for word in words)]
            assert len(found) == 1, f"{name}: {found}"
    for group in groups:
        assert config[group]["type"] == "diagnostic_aggregator/GenericAnalyzer" and config[group]["path"]
