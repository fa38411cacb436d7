"""The robot's time: what nodes measure and wait by, where `use_sim_time` says that it is /clock's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_policy
import numpy as np
import pytest
import ros_graph
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from test_nodes import Robot, connect, executor_node, policy_node

from diffusion_ros.control.action_chunk import ActionChunk
from diffusion_ros.nodes.executor_node import ExecutorNode
from diffusion_ros.nodes.follower_node import FollowerNode
from diffusion_ros.robot import WORLD_FRAME
from diffusion_ros.ros import messages, runner, sim_clock, topics
from diffusion_ros.ros.diagnostics import OK, WARN, Diagnostics
from diffusion_ros.ros.listener import Listener
from diffusion_ros.ros.runner import RunnableNode
from diffusion_ros.ros.sim_clock import SimClock
from diffusion_ros.simulators.maze import FRAME

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


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
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
    later(monkeypatch, 1.5)
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
    later(monkeypatch, 2.0)
    listener.take(PoseStamped(), {})
    good = ["taken"] * 3
    assert said == (good if timeless else ["no /clock yet", "taken", "/clock stands still for 2.0 s"])


def test_simulated_time_keeps_its_speed_and_makes_up_for_little(monkeypatch: pytest.MonkeyPatch) -> None:
    wall = [0.0]
    monkeypatch.setattr(sim_clock.time, "monotonic", lambda: wall[0])
    said: list[int] = []
    node = SimpleNamespace(
        create_publisher=lambda *_: SimpleNamespace(publish=lambda m: said.append(messages.stamp_ns(m.clock)))
    )
    clock = SimClock(node, 0.5, 5_000_000)  # type: ignore[arg-type]

    def call(seconds: float) -> float:
        """The timer, for so long; by how much time went on."""
        before = clock.now_ns
        for _ in range(round(seconds / clock.step_seconds)):
            wall[0] += clock.step_seconds
            if clock.due():
                clock.advance()
        return (clock.now_ns - before) / 1e9

    assert call(1.0) == pytest.approx(0.5, abs=0.01) and said == []
    clock.publish()
    assert call(1.0) == pytest.approx(0.5, abs=0.01)
    assert said[0] > 1_000 * 10**9 and set(np.diff(said)) == {5_000_000}
    wall[0] += 0.1  # a picture is drawn: made up for, but never faster than the wall
    assert call(0.1) == pytest.approx(0.1, abs=0.006)
    assert call(0.9) == pytest.approx(0.45, abs=0.01)
    wall[0] += 10.0  # and a machine that cannot keep up is not chased
    assert call(1.0) == pytest.approx(0.5 + 0.125, abs=0.01)


# Nodes


@pytest.fixture(scope="module")
def policy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_policy.save(tmp_path_factory.mktemp("checkpoint") / "policy.pt")


def pose_at(stamp_ns: int) -> PoseStamped:
    return messages.pose_to_msg((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0), stamp_ns, WORLD_FRAME)


class Arm:
    """An executor in real time on a simulated clock, and what it has sent."""

    def __init__(self, graph: ros_graph.Graph, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.graph, self.clock = graph, graph.add(ClockNode())
        self.node: ExecutorNode = graph.add(executor_node(path, mode="realtime", use_sim_time=True))
        self.sent: list[bool] = []
        """Of each command whether it moves."""
        monkeypatch.setattr(self.node, "_send", lambda command, stamp_ns: self.sent.append(command.acting))

    def observe(self, seconds: float) -> None:
        self.node._poses.take(pose_at(round(seconds * 1e9)), {})

    def chunk(self, seconds: float) -> str:
        return self.node.executor_logic.add_chunk(ActionChunk(round(seconds * 1e9), np.full((9, 7), 0.01), 50_000_000))

    def until(self, seconds: float) -> None:
        """The clock goes on in steps of 10 ms."""
        now = self.node.now_ns() / 1e9
        for tick in range(1, round((seconds - now) / 0.01) + 1):
            self.clock.show(self.graph, self.node, now + 0.01 * tick)
            self.graph.spin(0.005)

    def reason(self) -> str:
        self.node.diagnostics.publish()
        return self.node.diagnostics.summary


@pytest.fixture
def arm(graph: ros_graph.Graph, policy_file: Path, monkeypatch: pytest.MonkeyPatch) -> Arm:
    return Arm(graph, policy_file, monkeypatch)


def test_an_observation_is_as_old_as_the_robots_time_says(arm: Arm, monkeypatch: pytest.MonkeyPatch) -> None:
    arm.clock.show(arm.graph, arm.node, 1000.0)
    arm.observe(1000.0)
    assert arm.chunk(1000.0) == ""
    later(monkeypatch, 0.4)
    arm.sent.clear()
    arm.until(1000.2)
    assert arm.sent and all(arm.sent), arm.reason()
    arm.until(1000.4)
    assert not arm.sent[-1] and arm.reason().startswith("holding: eef_pose: silent for 0.")


def test_an_executor_without_a_clock_moves_nothing(arm: Arm, monkeypatch: pytest.MonkeyPatch) -> None:
    arm.observe(0.0)
    arm.chunk(0.0)
    arm.observe(0.05)
    arm.graph.spin(0.3)
    assert not any(arm.sent) and arm.reason() == "holding: no /clock yet"
    arm.clock.show(arm.graph, arm.node, 1000.0)
    arm.observe(1000.0)
    arm.chunk(1000.0)
    arm.until(1000.1)
    assert arm.sent[-1]
    later(monkeypatch, 1.5)
    arm.sent.clear()
    arm.observe(1000.15)
    arm.chunk(1000.15)
    arm.node._replace_hold()
    arm.node._act()
    arm.graph.spin(0.3)
    assert arm.sent and not any(arm.sent) and arm.reason().startswith("holding: /clock stands still for 1.")


def test_an_executor_goes_on_after_its_simulator_was_started_again(arm: Arm) -> None:
    for _ in range(2):
        arm.clock.show(arm.graph, arm.node, 1000.0)
        arm.sent.clear()
        for step in range(6):
            arm.observe(1000.0 + 0.05 * step)
            if step == 0:
                assert arm.chunk(1000.0) == ""
            arm.until(1000.05 + 0.05 * step)
        assert sum(arm.sent) >= 4, arm.reason()


def test_a_follower_without_a_clock_drives_nowhere(graph: ros_graph.Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = graph.add(ClockNode())
    node = graph.add(FollowerNode(SIMULATED))
    forces: list[Any] = []
    monkeypatch.setattr(node, "_publisher", SimpleNamespace(publish=forces.append))
    odometry = messages.odometry_to_msg(np.zeros(2), np.ones(2), 1_000_000_000_000, FRAME)
    node._odometry.take(odometry, {})
    assert forces == [] and node._reason == "odom: no /clock yet"
    clock.show(graph, node, 1000.0)
    node._odometry.take(odometry, {})
    assert len(forces) == 1
    later(monkeypatch, 1.5)
    node._odometry.take(odometry, {})
    assert len(forces) == 1 and "odom: /clock stands still" in node._reason


def test_policy_and_executor_on_a_clock_that_begins_again(graph: ros_graph.Graph, policy_file: Path) -> None:
    """Slower than real time by far, and no input is too old for it."""
    clock, robot = graph.add(ClockNode()), graph.add(Robot())
    policy = graph.add(policy_node(policy_file, mode="realtime", use_sim_time=True))
    executor = graph.add(executor_node(policy_file, mode="realtime", use_sim_time=True))
    connect(graph, robot)
    for step in range(5):
        robot.publish(10**9 + step * 50_000_000)
        graph.spin(0.05)
    assert robot.chunks == [] or not any(chunk.rows.any() for chunk in robot.chunks)
    assert not any(row.any() for _, row in robot.commands)
    policy.diagnostics.publish()
    assert policy.diagnostics.summary == "holding: no /clock yet"
    for run in range(2):
        robot.commands.clear()
        for step in range(20):
            for node in (policy, executor):
                clock.show(graph, node, 1000.0 + 0.05 * step)
            stamp = 10**12 + step * 50_000_000
            robot.publish(stamp)
            graph.spin_until(lambda stamp=stamp: robot.answer(stamp) is not None)
            graph.spin_until(lambda: not policy.thinking)
            graph.spin(0.05)
            robot.plant.step(robot.answer(stamp))
        assert sum(row.any() for _, row in robot.commands) >= 15, (run, policy.reasons(), executor.diagnostics.summary)
