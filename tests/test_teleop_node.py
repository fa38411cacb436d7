"""A person takes over on a real bus: in the simulator's interface, on a robot's, by gamepad, twist and keyboard."""

from __future__ import annotations

import itertools
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_policy
import numpy as np
import pytest
import ros_graph
from geometry_msgs.msg import PoseStamped, Twist, TwistStamped
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros_graph import ROOT, Graph
from sensor_msgs.msg import Image, Joy
from std_srvs.srv import SetBool, Trigger
from test_robot_outputs import HOME, Bench
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros.control.action_chunk import ActionChunk
from diffusion_ros.nodes.executor_node import ExecutorNode
from diffusion_ros.nodes.teleop_node import TeleopNode
from diffusion_ros.nodes.terminal import Terminal, blocks
from diffusion_ros.robot import WORLD_FRAME
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.params import ParameterError

PERIOD_NS = 50_000_000
PERSON = np.array([0.0, 0.012, 0.0, 0.0, 0.0, 0.0, 1.0])
POLICY = np.array([0.01, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])


class World(Node):
    """A robot by eef_command, a policy, and somebody who takes over, each as the test wants them."""

    def __init__(self) -> None:
        super().__init__("world")
        self.pose = self.create_publisher(PoseStamped, topics.EEF_POSE, topics.SENSOR_QOS)
        self.chunks = self.create_publisher(JointTrajectory, topics.ACTION_CHUNK, topics.COMMAND_QOS)
        self.person = self.create_publisher(JointTrajectory, topics.TELEOP_ACTION, topics.COMMAND_QOS)
        self.commands: list[np.ndarray] = []
        self.executed: list[messages.Executed] = []
        self.create_subscription(
            JointTrajectory,
            topics.EEF_COMMAND,
            lambda msg: self.commands.append(messages.command_from_msg(msg)[1]),
            topics.WATCHED_QOS,
        )
        self.create_subscription(
            JointTrajectory,
            topics.EXECUTED_ACTION,
            lambda msg: self.executed.append(messages.executed_from_msg(msg)),
            topics.WATCHED_QOS,
        )
        self.row: np.ndarray | None = None
        """What the person says in each control step."""
        self.policy = True
        self.late_ns = 0
        """By which the policy's observations are older."""
        self.create_timer(0.05, self._step)
        self.create_timer(0.1, self._think)

    def now(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _step(self) -> None:
        self.pose.publish(messages.pose_to_msg((0.1, 0.0, 1.0), (1, 0, 0, 0), self.now(), WORLD_FRAME))
        if self.row is not None:
            self.say(self.row)

    def _think(self) -> None:
        if self.policy:
            chunk = ActionChunk(self.now() - self.late_ns, np.tile(POLICY, (9, 1)), PERIOD_NS)
            self.chunks.publish(messages.chunk_to_msg(chunk, WORLD_FRAME))

    def say(self, row: np.ndarray, ago_ns: int = 0, frame: str = WORLD_FRAME, period_ns: int = PERIOD_NS) -> None:
        self.person.publish(messages.command_to_msg(row, self.now() - ago_ns, period_ns, frame))

    def say_of_kind(self, kind: str) -> None:
        chunk = ActionChunk(self.now(), PERSON[np.newaxis], PERIOD_NS, kind)
        self.person.publish(messages.chunk_to_msg(chunk, WORLD_FRAME))


@pytest.fixture
def graph() -> Iterator[Graph]:
    with ros_graph.graph() as made:
        yield made


@pytest.fixture
def bench(graph: Graph, tmp_path: Path) -> tuple[Graph, World, ExecutorNode]:
    world = graph.add(World())
    values = {
        "checkpoint": str(fake_policy.save(tmp_path / "policy.pt")),
        "checkpoint_limits": True,
        "enabled": True,
        "teleop": "topic",
    }
    executor = graph.add(ExecutorNode([Parameter(name, value=value) for name, value in values.items()]))
    graph.spin_until(lambda: len(world.commands) > 5 and np.array_equal(world.commands[-1], POLICY))
    return graph, world, executor


def lately(world: World) -> list[np.ndarray]:
    return world.commands[-3:]


def test_a_person_takes_over_from_the_policy_and_gives_back(bench: tuple[Graph, World, ExecutorNode]) -> None:
    graph, world, executor = bench
    assert not any(one.person for one in world.executed)
    world.row = PERSON
    graph.spin_until(lambda: np.array_equal(lately(world), [PERSON] * 3))
    graph.spin(0.4)
    assert executor.diagnostics.summary == "acting for a person"
    assert executor.diagnostics.values()["decides"] == "a person"
    assert np.array_equal(world.commands[-6:], [PERSON] * 6), "whatever the policy says meanwhile"
    said = [(one.row, one.person) for one in world.executed]
    assert said[0][1] is False and said[-1][1] is True
    assert all(np.array_equal(row, PERSON if person else POLICY) for row, person in said)
    stamps = [stamp for stamp, *_ in world.executed]
    assert len(set(stamps)) == len(stamps) and stamps == sorted(stamps)
    # A policy that still answers what it saw before has nothing to say.
    world.late_ns = 400_000_000
    world.row = np.zeros(7)
    graph.spin_until(lambda: not lately(world)[-1].any())
    released = world.now()
    world.row = None
    graph.spin_until(lambda: lately(world)[-1].any())
    assert world.now() - released > 300_000_000, "held until a chunk came whose observation is of after the release"
    assert np.array_equal(lately(world)[-1], POLICY)


def test_who_stands_still_holds_the_policy_back(bench: tuple[Graph, World, ExecutorNode]) -> None:
    graph, world, executor = bench
    world.row = np.array([0, 0, 0, 0, 0, 0, -1.0])
    graph.spin_until(lambda: np.array_equal(lately(world), [world.row] * 3))
    assert executor.diagnostics.summary.startswith("acting for a person")


def test_who_holds_the_dead_man_holds_the_policy_back_though_nothing_is_known_of_the_gripper(
    bench: tuple[Graph, World, ExecutorNode],
) -> None:
    graph, world, executor = bench

    def hold() -> bool:
        world.person.publish(messages.teleop_to_msg(np.zeros(7), True, world.now(), PERIOD_NS, WORLD_FRAME))
        graph.spin(0.03)
        return len(world.commands) > 5 and not np.any(world.commands[-5:])

    graph.spin_until(hold)
    assert executor.diagnostics.summary == "acting for a person"
    world.person.publish(messages.teleop_to_msg(np.zeros(7), False, world.now(), PERIOD_NS, WORLD_FRAME))
    graph.spin_until(lambda: np.array_equal(lately(world)[-1], POLICY))


def test_a_person_who_falls_silent_has_let_go(bench: tuple[Graph, World, ExecutorNode]) -> None:
    graph, world, executor = bench
    world.policy = False
    world.row = PERSON
    graph.spin_until(lambda: np.array_equal(lately(world), [PERSON] * 3))
    world.row = None
    graph.spin_until(lambda: not lately(world)[-1].any(), 2.0)
    assert executor._person is not None and not executor._person.takeover.decides
    graph.spin(0.2)
    assert "holding: no chunk yet" in executor.diagnostics.summary
    world.row = PERSON
    graph.spin_until(lambda: np.array_equal(lately(world), [PERSON] * 3))
    assert executor.diagnostics.summary == "acting for a person", "no policy is needed"


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"row": np.full(7, np.nan)}, "a finite number expected"),
        ({"ago_ns": 400_000_000}, "s old, at most 0.25 s expected"),
        ({"ago_ns": -400_000_000}, "s ahead of the clock"),
        ({"frame": "tool0"}, "frame 'tool0', 'world' expected"),
        ({"period_ns": 2 * PERIOD_NS}, "a row of 100000000 ns, one of 50000000 ns expected"),
        ({"kind": "pose"}, "joint names eef_x, eef_y, eef_z, eef_rx, eef_ry, eef_rz, gripper, eef_dx, "),
        ({"kind": "tool_delta"}, "joint names tool_dx, tool_dy, tool_dz, "),
        ({"row": np.array([0.3, 0, 0, 0, 0, 0, 0])}, "eef_dx of a person is 0.3, at most 0.25 expected"),
    ],
    ids=["nan", "old", "ahead", "frame", "period", "pose", "tool", "gross"],
)
def test_what_a_person_cannot_have_meant_is_a_hold(
    bench: tuple[Graph, World, ExecutorNode], wrong: dict[str, Any], why: str
) -> None:
    graph, world, executor = bench
    seen = []

    def held() -> bool:
        if "kind" in wrong:
            world.say_of_kind(**wrong)
        else:
            world.say(**{"row": PERSON, **wrong})
        graph.spin(0.03)
        seen.append(executor.diagnostics.summary)
        return not any(row.any() for row in world.commands[-5:])

    graph.spin_until(held)
    assert any(why in summary and summary.startswith("holding") for summary in seen), seen[-1]


def test_of_two_persons_nobody_moves_it(bench: tuple[Graph, World, ExecutorNode]) -> None:
    graph, world, executor = bench
    other = graph.add(Node("other"))
    second = other.create_publisher(JointTrajectory, topics.TELEOP_ACTION, topics.COMMAND_QOS)
    world.row = PERSON

    def conflict() -> bool:
        second.publish(messages.command_to_msg(-PERSON, world.now(), PERIOD_NS, WORLD_FRAME))
        graph.spin(0.03)
        return "2 publishers on /teleop_action, one expected" in executor.diagnostics.summary

    graph.spin_until(conflict)
    world.commands.clear()
    for _ in range(10):
        assert conflict()
    assert world.commands and not np.any(world.commands)


def test_the_emergency_stop_stops_a_person_too(bench: tuple[Graph, World, ExecutorNode]) -> None:
    graph, world, _ = bench
    world.row = PERSON
    graph.spin_until(lambda: np.array_equal(lately(world), [PERSON] * 3))
    graph.call(world, Trigger, "executor/estop", Trigger.Request())
    graph.spin(0.1)
    world.commands.clear()
    graph.spin(0.3)
    assert world.commands and not np.any(world.commands)
    assert not graph.call(world, SetBool, "executor/set_enabled", SetBool.Request(data=True)).success
    graph.call(world, Trigger, "executor/estop_reset", Trigger.Request())
    graph.spin(0.2)
    assert not np.any(world.commands), "released is not enabled"
    graph.call(world, SetBool, "executor/set_enabled", SetBool.Request(data=True))
    graph.spin_until(lambda: np.array_equal(lately(world), [PERSON] * 3))


def test_nobody_takes_over_where_it_was_not_asked_for(graph: Graph, tmp_path: Path) -> None:
    path = str(fake_policy.save(tmp_path / "policy.pt"))
    node = graph.add(ExecutorNode([Parameter("checkpoint", value=path), Parameter("checkpoint_limits", value=True)]))
    assert "/teleop_action" not in {subscription.topic_name for subscription in node.subscriptions}
    with pytest.raises(ParameterError, match="parameter teleop is 'joy', '' expected in lockstep"):
        ExecutorNode(
            [
                Parameter(name, value=value)
                for name, value in {"checkpoint": path, "mode": "lockstep", "teleop": "joy"}.items()
            ]
        )


# On a robot


def steady(targets: list[tuple[float, Any]], linear: float, angular: float) -> None:
    """No jump: velocities change within the limits of acceleration."""
    for (_, before), (seconds, after) in itertools.pairwise(targets):
        assert np.linalg.norm(after.velocity - before.velocity) <= linear * seconds + 1e-9
        assert np.linalg.norm(after.angular_velocity - before.angular_velocity) <= angular * seconds + 1e-9


@pytest.mark.parametrize("output", ["pose", "joint_trajectory"])
def test_handing_over_does_not_jump(graph: Graph, tmp_path: Path, output: str) -> None:
    # On a busy machine the hand is seen late: the leash and its age, which stop a target, are other tests'.
    far = ", leash: [1.5, 1.5]"
    bench = Bench(graph, tmp_path, output, "teleop: {type: twist}\n", action=far, max_observation_age=5.0)
    person = bench.node.create_publisher(JointTrajectory, topics.TELEOP_ACTION, topics.COMMAND_QOS)
    executed: list[messages.Executed] = []
    bench.node.create_subscription(
        JointTrajectory,
        topics.EXECUTED_ACTION,
        lambda msg: executed.append(messages.executed_from_msg(msg)),
        topics.WATCHED_QOS,
    )
    said: list[np.ndarray | None] = [None]

    def say() -> None:
        if said[0] is not None:
            person.publish(messages.command_to_msg(said[0], bench._now(), PERIOD_NS, bench.executor.frame_id))

    bench.node.create_timer(0.05, say)
    robot = bench.executor._robot
    assert robot is not None and bench.executor._person is not None
    log: list[tuple[float, Any]] = []
    act, period = robot.act, 1.0 / robot.robot.action.rate

    def logged(logic: Any, held: str, now_ns: int, *rest: Any) -> Any:
        since = period if robot._advanced_ns is None else (now_ns - robot._advanced_ns) / 1e9
        command = act(logic, held, now_ns, *rest)
        if robot.targets.started:
            target = robot.targets.target()
            log.append((min(since, 3 * period), target))
            bench.place = [target.position - target.rotation.apply([0, 0, 0.1]), target.rotation]  # the arm follows
        return command

    robot.act = logged
    bench.act(0.02, 0.0, 0.0, 0.0, 0.0, 0.1, -1.0)
    graph.spin_until(lambda: log and log[-1][1].velocity[0] < -0.1)
    graph.spin(0.3)
    said[0] = np.array([-0.02, 0.01, 0.0, 0.0, 0.1, 0.0, 1.0])
    before = len(log)
    graph.spin_until(lambda: log[-1][1].velocity[0] > 0.1)
    assert all(target.moving for _, target in log[before:]), "no stop between them"
    graph.spin_until(lambda: bench.gripper and bench.gripper[-1] == 0.0)
    graph.spin(0.4)
    said[0] = np.zeros(7)
    graph.spin_until(lambda: log[-1][1].velocity[0] < -0.1)
    graph.spin_until(lambda: bench.gripper[-1] == 0.08)
    assert len(log) > 20
    steady(log, 10.0, 20.0)
    whose = [one.person for one in executed]
    assert whose.count(True) >= 3 and whose == sorted(whose[: whose.index(True)]) + whose[whose.index(True) :]
    rows = np.array([one.row for one in executed if one.person])
    assert np.array_equal(rows, np.tile([-0.02, 0.01, 0, 0, 0.1, 0, 1.0], (len(rows), 1)))
    stamps = np.array([one.stamp_ns for one in executed if one.person]) / 1e9
    # Each step begins with the first period of the output after it is due, however late a busy machine makes that.
    assert np.all(np.diff(stamps) > 0) and len(stamps) <= (stamps[-1] - stamps[0]) / 0.05 + 2, (
        "one for each control step"
    )


def test_a_person_alone_needs_no_checkpoint(graph: Graph, tmp_path: Path) -> None:
    bench = Bench(graph, tmp_path, "pose", "teleop: {type: twist}\n", checkpoint="")
    p = bench.executor.parameters
    assert (p.rate, bench.executor.frame_id) == (20.0, "base")
    np.testing.assert_allclose(p.action_high, [0.025] * 3 + [0.1] * 3 + [1.0])
    teleop = graph.add(TeleopNode([Parameter("device", value="twist"), Parameter("robot", value=p.robot)]))
    assert teleop.parameters.frame_id == "base" and teleop.parameters.topic == "/cmd_vel"
    twists = bench.node.create_publisher(Twist, "/cmd_vel", 1)
    msg = Twist()
    msg.linear.x, msg.angular.z = 0.1, 0.2
    bench.node.create_timer(0.05, lambda: twists.publish(msg))
    graph.spin_until(lambda: bench.received)
    first = bench.executor._robot.targets.target()
    graph.spin_until(lambda: bench.executor._robot.targets.target().velocity[0] < -0.09)
    target = bench.executor._robot.targets.target()
    # Its base is turned by half a turn in the driver's.
    np.testing.assert_allclose(target.velocity, [-0.1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(target.angular_velocity, [0, 0, 0.2], atol=1e-6)
    assert np.linalg.norm(first.position - HOME) < 0.11
    bench.silent = True
    graph.spin(0.6)
    assert "silent" in bench.executor.diagnostics.summary, "a reason to hold is a person's, too"
    bench.received.clear()
    graph.spin(0.3)
    assert not bench.received, "the target is forgotten until the hand is seen again"


def test_without_a_checkpoint_and_a_person_the_rows_have_no_meaning(graph: Graph, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="parameter checkpoint is required with a robot's YAML: it says what"):
        Bench(graph, tmp_path, "pose", checkpoint="")


# What a person has in their hands


def teleop(graph: Graph, **values: Any) -> TeleopNode:
    return graph.add(TeleopNode([Parameter(name, value=value) for name, value in values.items()]))


class Hands(Node):
    """Hears what the teleop node says, and publishes what the test does with a device."""

    def __init__(self) -> None:
        super().__init__("hands")
        self.said: list[np.ndarray] = []
        """Rows, of those who let go zeros."""
        self.held: list[bool] = []
        self.create_subscription(JointTrajectory, topics.TELEOP_ACTION, self._hear, topics.WATCHED_QOS)
        self.joy = self.create_publisher(Joy, "/joy", 1)
        self.twist = self.create_publisher(TwistStamped, "/cmd_vel", 1)
        self.executed = self.create_publisher(JointTrajectory, topics.EXECUTED_ACTION, topics.WATCHED_QOS)
        self.msg: Any = None
        self.create_timer(0.02, self._publish)

    def _hear(self, msg: JointTrajectory) -> None:
        row = messages.teleop_from_msg(msg)[1]
        self.said.append(np.zeros(7) if row is None else row)
        self.held.append(row is not None)

    def _publish(self) -> None:
        if self.msg is not None:
            (self.joy if isinstance(self.msg, Joy) else self.twist).publish(self.msg)


def joy(*down: int, **axes: float) -> Joy:
    values = [0.0] * 8
    for name, value in axes.items():
        values[int(name[1:])] = value
    return Joy(axes=values, buttons=[int(number in down) for number in range(11)])


def test_a_gamepads_rows_come_while_it_is_held_and_end_with_zeros(graph: Graph) -> None:
    hands = graph.add(Hands())
    node = teleop(graph, device="joy", linear=0.2)
    graph.spin_until(lambda: hands.count_subscribers("/joy") and hands.count_publishers("teleop_action"))
    graph.spin(0.3)
    hands.msg = joy()
    graph.spin(0.1)
    hands.msg = joy(5)
    graph.spin_until(lambda: len(hands.said) > 2)
    assert not np.any(hands.said) and all(hands.held), "held still, and nothing known of the gripper: not let go"
    hands.msg = joy()
    graph.spin_until(lambda: not hands.held[-1])
    hands.said.clear()
    hands.executed.publish(messages.executed_to_msg(messages.Executed(1, -PERSON, False, 3, 0), PERIOD_NS, WORLD_FRAME))
    hands.msg = joy(_1=1.0)
    graph.spin(0.3)
    assert not hands.said
    hands.msg = joy(5, _1=1.0)
    graph.spin_until(lambda: len(hands.said) > 4)
    np.testing.assert_allclose(hands.said[-1], [0.01, 0, 0, 0, 0, 0, -1.0], err_msg="the gripper as it was told last")
    hands.msg = joy(5, 0)
    graph.spin_until(lambda: hands.said[-1][6] == 1.0)
    hands.msg = joy(5, 0, _1=float("nan"))
    graph.spin_until(lambda: not hands.said[-1].any())
    graph.spin(0.3)
    assert not hands.said[-1].any() and "finite numbers expected" in _refreshed(node)
    count = len(hands.said)
    graph.spin(0.2)
    assert len(hands.said) == count, "zeros once, then silence"
    hands.msg = joy()
    graph.spin(0.1)
    hands.msg = joy(5, _1=1.0)
    graph.spin_until(lambda: hands.said[-1].any())
    hands.msg = None
    graph.spin_until(lambda: not hands.said[-1].any(), 2.0)
    hands.msg = joy(5, _1=1.0)
    graph.spin(0.3)
    assert not hands.said[-1].any(), "after a silence the dead-man must be seen up"
    hands.msg = joy()
    graph.spin(0.1)
    hands.msg = joy(5, _1=1.0)
    graph.spin_until(lambda: hands.said[-1].any())
    graph.remove(node)
    graph.spin_until(lambda: not hands.said[-1].any(), 2.0)


def _refreshed(node: TeleopNode) -> str:
    node._refresh()
    return node.diagnostics.summary


def test_a_twist_in_another_frame_is_not_taken(graph: Graph) -> None:
    hands = graph.add(Hands())
    node = teleop(graph, device="twist_stamped")
    graph.spin_until(lambda: hands.count_subscribers("/cmd_vel") and hands.count_publishers("teleop_action"))
    msg = TwistStamped()
    msg.twist.linear.z = 0.05
    msg.header.frame_id = "tool0"
    hands.msg = msg
    graph.spin_until(lambda: "frame 'tool0', 'world' or '' expected" in _refreshed(node))
    assert not hands.said
    msg.header.frame_id = ""
    graph.spin_until(lambda: hands.said)
    np.testing.assert_allclose(hands.said[-1], [0, 0, 0.0025, 0, 0, 0, 0])
    assert graph.call(hands, SetBool, "teleop/close_gripper", SetBool.Request(data=True)).success
    graph.spin_until(lambda: hands.said[-1][6] == 1.0)
    hands.msg = None
    graph.spin_until(lambda: not node.rows.driving)
    assert "nobody drives" in graph.call(hands, SetBool, "teleop/close_gripper", SetBool.Request(data=False)).message


def test_rows_are_like_the_checkpoints(graph: Graph, tmp_path: Path) -> None:
    spec = fake_policy.spec(response=(88.2, 0.803, 34.2, 0.82))
    path = str(fake_policy.save(tmp_path / "policy.pt", spec))
    node = teleop(graph, device="twist", checkpoint=path, linear=2.0)
    assert node.parameters.rate == 20.0 and node.parameters.response == spec.response
    from diffusion_ros.control.teleoperation import Asked

    row = node.rows.row(Asked(np.array([0.1, 0.0, 0, 0, 0, 0])))
    assert row is not None and 0.015 < row[0] < 0.025, "the arm goes a quarter of a row in its step"
    far = node.rows.row(Asked(np.array([2.0, 0.0, 0, 0, 0, 0])))
    assert far is not None and far[0] == 0.05, "no more than the checkpoint commands"
    with pytest.raises(ParameterError, match="parameter rate is 10, the checkpoint's 20 expected"):
        TeleopNode(
            [Parameter("device", value="twist"), Parameter("checkpoint", value=path), Parameter("rate", value=10.0)]
        )


@pytest.mark.parametrize(
    ("section", "why"),
    [
        ("buttons: {topic: /joy, enable: 0}\n", "button 0 is buttons.enable and teleop.gripper: another one expected"),
        ("record: {topic: /joy, start: 5}\n", "button 5 is record.start and teleop.dead_man: another one expected"),
    ],
)
def test_a_gamepads_usual_buttons_mean_nothing_else_in_the_robots_file(tmp_path: Path, section: str, why: str) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text((ROOT / "config/robots/franka_crisp.yaml").read_text().split("\nbuttons:")[0] + "\n" + section)
    with ros_graph.graph():
        values = {"device": "joy", "robot": str(path)}
        with pytest.raises(ParameterError, match=why):
            TeleopNode([Parameter(name, value=value) for name, value in values.items()])
        TeleopNode([Parameter(name, value=value) for name, value in {**values, "topic": "/pad"}.items()]).destroy_node()


# The keyboard


@pytest.fixture
def keys() -> Iterator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


def settings(descriptor: int) -> list[Any]:
    return termios.tcgetattr(descriptor)


def test_the_keyboard_drives(graph: Graph, keys: tuple[int, int]) -> None:
    ours, theirs = keys
    before = settings(theirs)
    hands = graph.add(Hands())
    node = graph.add(
        TeleopNode(
            [Parameter("linear", value=0.2), Parameter("picture", value="agentview/image_raw")], descriptor=theirs
        )
    )
    assert not settings(theirs)[3] & (termios.ICANON | termios.ECHO) and settings(theirs)[3] & termios.ISIG
    assert b"lets go" in os.read(ours, 4096)
    graph.spin_until(lambda: hands.count_publishers("teleop_action"))
    graph.spin(0.2)
    os.write(ours, b"w")
    graph.spin_until(lambda: hands.said)
    np.testing.assert_allclose(hands.said[-1], [0.01, 0, 0, 0, 0, 0, 0])
    os.write(ours, b"g")
    graph.spin_until(lambda: hands.said[-1][6] == 1.0)
    graph.spin_until(lambda: not hands.said[-1].any(), 3.0)  # nobody presses anything
    pictures = hands.create_publisher(Image, "agentview/image_raw", topics.SENSOR_QOS)
    picture = np.full((84, 84, 3), 72, np.uint8)
    drawn = b""

    def draw() -> bool:
        nonlocal drawn
        pictures.publish(messages.image_to_msg(picture, hands.get_clock().now().nanoseconds, "camera"))
        os.set_blocking(ours, False)
        try:
            drawn += os.read(ours, 65536)
        except BlockingIOError:
            pass
        return b"72;72;72" in drawn and b"nobody drives" in drawn

    termios.tcsetwinsize(theirs, (40, 100))
    graph.spin_until(draw)
    graph.remove(node)
    assert settings(theirs) == before


@pytest.mark.parametrize("drawn", [False, True], ids=["read", "drawn"])
def test_a_terminal_that_is_gone_is_one_line_and_lets_go(
    graph: Graph, capfd: pytest.CaptureFixture[str], drawn: bool
) -> None:
    ours, theirs = pty.openpty()
    hands = graph.add(Hands())
    node = graph.add(TeleopNode([Parameter("linear", value=0.2)], descriptor=theirs))
    graph.spin_until(lambda: hands.count_publishers("teleop_action"))
    graph.spin(0.2)
    os.write(ours, b"w")
    graph.spin_until(lambda: hands.said and hands.held[-1])
    node._drawn = 0.0
    os.close(ours)
    if drawn:
        node._on_picture(messages.image_to_msg(np.zeros((8, 8, 3), np.uint8), 10**18, "camera"))
    graph.spin_until(lambda: node.exit_status == 1 and not hands.held[-1])
    graph.spin(0.3)
    node._on_picture(messages.image_to_msg(np.zeros((8, 8, 3), np.uint8), 10**18, "camera"))
    graph.remove(node)
    os.close(theirs)
    assert capfd.readouterr().err.count("the terminal is gone: Input/output error") == 1


def test_a_picture_is_as_large_as_fits() -> None:
    picture = np.zeros((84, 120, 3), np.uint8)
    assert blocks(picture, 200, 100).count("\u2580") == 120 * 42, "but no larger"
    lines = blocks(picture, 60, 100).split("\r\n")[:-1]
    assert len(lines) == 21 and lines[0].count("\u2580") == 60
    assert blocks(picture, 0, 0) == "\x1b[H"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_terminal_is_as_it_was_however_the_node_ends(keys: tuple[int, int], number: signal.Signals) -> None:
    _, theirs = keys
    before = settings(theirs)
    with ros_graph.own_domain():
        command = [sys.executable, "-m", "diffusion_ros.nodes.teleop_node"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.DEVNULL, env=environment)
        end = time.monotonic() + 30
        while settings(theirs) == before and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        assert settings(theirs) != before
        process.send_signal(number)
        process.wait(20)
    while settings(theirs) != before and time.monotonic() < end:
        time.sleep(0.05)
    assert settings(theirs) == before


def test_a_keyboard_needs_a_terminal(graph: Graph) -> None:
    with open(os.devnull) as nothing:
        with pytest.raises(ParameterError, match="device keyboard: the standard input is no terminal: start it in one"):
            TeleopNode(descriptor=nothing.fileno())
        with pytest.raises(ValueError, match="no terminal"):
            Terminal(nothing.fileno())
