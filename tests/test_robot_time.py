"""The robot's time: what nodes measure and wait by, where `use_sim_time` says that it is /clock's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ros_graph
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock

from diffusion_ros.ros import messages, runner, topics
from diffusion_ros.ros.diagnostics import OK, WARN, Diagnostics
from diffusion_ros.ros.listener import Listener
from diffusion_ros.ros.runner import RunnableNode

SIMULATED = (Parameter("use_sim_time", Parameter.Type.BOOL, True),)


@pytest.fixture
def graph() -> Iterator[ros_graph.Graph]:
    with ros_graph.graph() as made:
        yield made


class ClockNode(Node):
    """Publishes /clock when it is told to."""

    def __init__(self) -> None:
        super().__init__("clock")
        self._publisher = self.create_publisher(Clock, topics.CLOCK, topics.COMMAND_QOS)

    def show(self, graph: ros_graph.Graph, node: RunnableNode, seconds: float) -> None:
        """Until the node has seen it."""
        stamp_ns = round(seconds * 1e9)

        def seen() -> bool:
            self._publisher.publish(messages.clock_to_msg(stamp_ns))
            return node.now_ns() == stamp_ns

        graph.spin_until(seen)


def forever_later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Wall time leaps, for those who ask for how long /clock has stood still."""
    real = runner.time.monotonic
    monkeypatch.setattr(runner.time, "monotonic", lambda: real() + seconds)


def test_time_is_that_of_the_wall_unless_a_parameter_says_otherwise(
    graph: ros_graph.Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, node = graph.add(ClockNode()), graph.add(RunnableNode("robot"))
    clock._publisher.publish(messages.clock_to_msg(5_000_000_000))
    called: list[float] = []
    node.every(0.01, lambda: called.append(node.seconds()))
    graph.spin_until(lambda: len(called) >= 3)
    monkeypatch.setattr(runner.time, "monotonic", lambda: 7.25)
    assert node.seconds() == 7.25 and node.without_time() == "" and not node.follows_clock
    assert node.now_ns() > 1e18


def test_simulated_time_is_what_is_measured_and_waited_by(graph: ros_graph.Graph) -> None:
    clock, node = graph.add(ClockNode()), graph.add(RunnableNode("robot", SIMULATED))
    called: list[float] = []
    node.every(0.05, lambda: called.append(node.seconds()))
    graph.spin(0.3)
    assert (node.seconds(), node.without_time(), called) == (0.0, "no /clock yet", [])
    clock.show(graph, node, 1000.0)
    graph.spin_until(lambda: called)
    called.clear()
    assert node.seconds() == 1000.0 and node.without_time() == ""
    graph.spin(0.3)
    assert called == []
    for tick in range(1, 21):
        clock.show(graph, node, 1000.0 + 0.01 * tick)
        graph.spin(0.01)
    # Four periods in 0.2 s, whatever time passed on the wall.
    assert len(called) == 4 and node.seconds() == pytest.approx(1000.2)


def test_a_clock_that_stands_still_is_said_and_one_that_goes_on_is_good_again(
    graph: ros_graph.Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, node = graph.add(ClockNode()), graph.add(RunnableNode("robot", SIMULATED))
    diagnostics = Diagnostics(node)
    diagnostics.publish()
    assert (diagnostics.level, diagnostics.summary) == (WARN, "holding: no /clock yet")
    clock.show(graph, node, 1000.0)
    diagnostics.report(OK, "acting")
    diagnostics.publish()
    assert diagnostics.level == OK
    forever_later(monkeypatch, 1.5)
    diagnostics.publish()
    assert (diagnostics.level, diagnostics.summary) == (WARN, "holding: /clock stands still for 1.5 s")
    clock.show(graph, node, 1000.1)
    assert node.without_time() == ""


def test_a_clock_that_goes_back_makes_all_old_and_time_goes_on(graph: ros_graph.Graph) -> None:
    clock, node = graph.add(ClockNode()), graph.add(RunnableNode("robot", SIMULATED))
    called: list[float] = []
    node.every(0.05, lambda: called.append(node.seconds()))
    clock.show(graph, node, 1500.0)
    before = node.seconds()
    clock.show(graph, node, 1000.0)
    assert node.seconds() == before + 60.0
    called.clear()
    for tick in range(1, 21):
        clock.show(graph, node, 1000.0 + 0.01 * tick)
        graph.spin(0.01)
    assert len(called) >= 3
    assert node.seconds() == pytest.approx(before + 60.2) and node.now_ns() == 1_000_200_000_000


def test_rates_and_ages_are_in_the_robots_time(graph: ros_graph.Graph) -> None:
    clock, node = graph.add(ClockNode()), graph.add(RunnableNode("robot", SIMULATED))
    diagnostics = Diagnostics(node)
    for step in range(21):
        clock.show(graph, node, 1000.0 + 0.05 * step)
        diagnostics.tick("step")
    assert diagnostics.rate("step") == pytest.approx(20.0)
    clock.show(graph, node, 1003.0)
    assert diagnostics.age("step") == pytest.approx(2.0)


@pytest.mark.parametrize("timeless", [False, True])
def test_what_comes_before_the_clock_is_refused_unless_its_time_does_not_matter(
    timeless: bool, graph: ros_graph.Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, node = graph.add(ClockNode()), graph.add(RunnableNode("robot", SIMULATED))
    said: list[str] = []

    listener = Listener(
        node,
        PoseStamped,
        topics.EEF_POSE,
        lambda msg: said.append("taken"),
        lambda error, msg: said.append(str(error)),
        topics.COMMAND_QOS,
        timeless=timeless,
    )
    listener.take(PoseStamped(), {})
    clock.show(graph, node, 1000.0)
    listener.take(PoseStamped(), {})
    forever_later(monkeypatch, 2.0)
    listener.take(PoseStamped(), {})
    good = ["taken"] * 3
    assert said == (good if timeless else ["no /clock yet", "taken", "/clock stands still for 2.0 s"])
