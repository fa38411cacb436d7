"""The policy and executor nodes on a real bus, with a robot of a few lines at the other end."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fake_policy
import numpy as np
import pytest
import ros_graph
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Path as PathMessage
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros import checkpoint
from diffusion_ros.control.action_chunk import ActionChunk
from diffusion_ros.control.chunk_executor import ChunkExecutor, ExecutorLimits
from diffusion_ros.control.observation import Frame
from diffusion_ros.control.policy_controller import PolicyController
from diffusion_ros.models.policy import Policy
from diffusion_ros.nodes import executor_node as executor_node_module
from diffusion_ros.nodes import policy_node as policy_node_module
from diffusion_ros.nodes.executor_node import ExecutorNode
from diffusion_ros.nodes.policy_node import PolicyNode
from diffusion_ros.robot import FINGERS, WORLD_FRAME, optical_frame
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.publisher_monitor import PublisherMonitor

PERIOD = 50_000_000
STATE_INPUTS = (*fake_policy.LOW_DIM, *fake_policy.OBJECT)


class Plant:
    """A robot that does what it is told, and what its sensors say of it."""

    def __init__(self) -> None:
        self.position = np.array([0.1, -0.2, 0.3])
        self.gripper = 0.02

    def step(self, row: np.ndarray) -> None:
        self.position = self.position + row[:3] * 0.7
        self.gripper = float(np.clip(self.gripper - 0.003 * row[6], 0.0, 0.04))

    def frame(self) -> dict[str, np.ndarray]:
        shade = int(abs(self.position).sum() * 1e6)
        picture = (np.arange(84 * 84 * 3, dtype=np.int64).reshape(84, 84, 3) * 7 + shade) % 256
        angle = self.position[0]
        return {
            "agentview_image": picture.astype(np.uint8),
            "robot0_eye_in_hand_image": picture[::-1].astype(np.uint8),
            "robot0_eef_pos": self.position,
            "robot0_eef_quat": np.array([0.0, np.sin(angle / 2), 0.0, np.cos(angle / 2)]),
            "robot0_gripper_qpos": np.array([self.gripper, -self.gripper]),
            "object_pos": self.position * 0.5,
            "object_quat": np.array([0.0, 0.0, 0.0, 1.0]),
        }


class Robot(Node):
    """The plant on the bus. Publishes when asked; keeps all that it hears."""

    def __init__(self, name: str = "robot") -> None:
        super().__init__(name)
        self.plant = Plant()
        self.images = {
            camera: self.create_publisher(Image, topics.image(camera), topics.SENSOR_QOS)
            for camera in fake_policy.CAMERAS
        }
        self.pose = self.create_publisher(PoseStamped, topics.EEF_POSE, topics.SENSOR_QOS)
        self.object = self.create_publisher(PoseStamped, topics.OBJECT_POSE, topics.SENSOR_QOS)
        self.joints = self.create_publisher(JointState, topics.JOINT_STATES, topics.SENSOR_QOS)
        self.commands: list[tuple[int, np.ndarray]] = []
        self.chunks: list[ActionChunk] = []
        self.executed: list[messages.Executed] = []
        self.create_subscription(
            JointTrajectory,
            topics.EXECUTED_ACTION,
            lambda msg: self.executed.append(messages.executed_from_msg(msg)),
            topics.WATCHED_QOS,
        )
        self.paths: dict[str, np.ndarray] = {}
        self.status: dict[str, messages.Status] = {}
        self.create_subscription(JointTrajectory, topics.EEF_COMMAND, self._on_command, topics.COMMAND_QOS)
        self.create_subscription(JointTrajectory, topics.ACTION_CHUNK, self._on_chunk, topics.COMMAND_QOS)
        self.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, topics.DIAGNOSTICS_QOS)

    def watch_paths(self) -> None:
        for topic in (topics.EEF_PATH, topics.PREDICTED_PATH):
            self.create_subscription(
                PathMessage,
                topic,
                lambda msg, topic=topic: self.paths.update({topic: messages.path_from_msg(msg)[0]}),
                topics.COMMAND_QOS,
            )

    def _on_command(self, msg: JointTrajectory) -> None:
        self.commands.append(messages.command_from_msg(msg))

    def _on_chunk(self, msg: JointTrajectory) -> None:
        with contextlib.suppress(messages.MessageError):  # tests send such as well
            self.chunks.append(messages.chunk_from_msg(msg))

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        self.status.update({status.name: status for status in messages.diagnostics_from_msg(msg)})

    def publish(self, stamp: int, skip: tuple[str, ...] = ()) -> None:
        frame = self.plant.frame()
        for camera, publisher in self.images.items():
            if camera not in skip:
                publisher.publish(messages.image_to_msg(frame[f"{camera}_image"], stamp, optical_frame(camera)))
        self.joints.publish(
            messages.joint_state_to_msg(
                ("joint1", *FINGERS), (0.0, *frame["robot0_gripper_qpos"]), (0.0, 0.0, 0.0), stamp
            )
        )
        for publisher, name in ((self.object, "object"), (self.pose, "robot0_eef")):
            pose = messages.pose_to_msg(frame[f"{name}_pos"], frame[f"{name}_quat"], stamp, WORLD_FRAME)
            publisher.publish(pose)

    def publish_pose(self, stamp: int, position: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> None:
        self.pose.publish(messages.pose_to_msg(position, (0, 0, 0, 1), stamp, WORLD_FRAME))

    def publish_now(self) -> int:
        stamp = int(self.get_clock().now().nanoseconds)
        self.publish(stamp)
        return stamp

    def answer(self, stamp: int) -> np.ndarray | None:
        return next((row for when, row in reversed(self.commands) if when == stamp), None)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        "pixels": fake_policy.save(folder / "pixels.pt"),
        "state": fake_policy.save(folder / "state.pt", fake_policy.spec(STATE_INPUTS)),
        "late": fake_policy.save(folder / "late.pt", fake_policy.spec(horizon=13, max_delay=4)),
    }


@pytest.fixture
def graph() -> Iterator[ros_graph.Graph]:
    with ros_graph.graph() as made:
        yield made


def policy_node(path: Path, **parameters: object) -> PolicyNode:
    parameters = {"mode": "lockstep", **parameters}
    return PolicyNode(
        [Parameter("checkpoint", value=str(path)), *(Parameter(k, value=v) for k, v in parameters.items())]
    )


def executor_node(path: Path, **parameters: object) -> ExecutorNode:
    parameters = {"mode": "lockstep", "enabled": True, "checkpoint_limits": True, **parameters}
    return ExecutorNode(
        [Parameter("checkpoint", value=str(path)), *(Parameter(k, value=v) for k, v in parameters.items())]
    )


def connect(graph: ros_graph.Graph, robot: Robot, executor: bool = True, policy: bool = True) -> None:
    """Waits for discovery: what is published before reaches nobody."""
    graph.spin_until(
        lambda: (
            (not executor or (robot.count_publishers("eef_command") and robot.count_subscribers("eef_pose")))
            and (not policy or (robot.count_publishers("action_chunk") and robot.count_subscribers("joint_states")))
        )
    )
    graph.spin(0.2)


def lockstep(graph: ros_graph.Graph, robot: Robot, stamp: int) -> np.ndarray:
    """One step, with the observation repeated as the simulator does."""
    for _ in range(5):
        robot.publish(stamp)
        try:
            return graph.spin_until(lambda: [robot.answer(stamp)] if robot.answer(stamp) is not None else None, 1.0)[0]
        except AssertionError:
            continue
    raise AssertionError(f"no command for {stamp}")


def stamp_of(episode: int, step: int) -> int:
    return 10**9 + episode * 1000 * 10**9 + step * PERIOD


def plain_loop(path: Path, episodes: int, steps: int) -> list[np.ndarray]:
    """The same without ROS."""
    policy = Policy(checkpoint.load(path, kind="policy"))
    spec = policy.spec
    controller = PolicyController(policy, 5)
    executor = ChunkExecutor(
        ExecutorLimits(spec.action_low, spec.action_high, spec.workspace_low, spec.workspace_high),
        spec.period_ns,
        spec.period_ns,
        max_rows=spec.n_action_steps,
    )
    rows = []
    for episode in range(episodes):
        plant = Plant()
        for step in range(steps):
            stamp = stamp_of(episode, step)
            frame = plant.frame()
            controller.push(Frame(stamp, {name: frame[name] for name in spec.input_names}))
            executor.observe(stamp, frame["robot0_eef_pos"])
            if controller.needs_chunk(stamp):
                assert executor.add_chunk(controller.chunk()) == ""
            command = executor.command(stamp)
            assert command.acting
            rows.append(command.row)
            plant.step(command.row)
    return rows


# Lockstep


@pytest.mark.parametrize("kind", ["pixels", "state"])
def test_in_lockstep_the_bus_changes_no_bit(graph, checkpoints, kind):
    expected = plain_loop(checkpoints[kind], episodes=3, steps=20)
    robot = graph.add(Robot())
    policy = graph.add(policy_node(checkpoints[kind], policy_seed=5))
    graph.add(executor_node(checkpoints[kind]))
    robot.watch_paths()
    connect(graph, robot)
    got = []
    for episode in range(3):
        robot.plant = Plant()
        for step in range(20):
            row = lockstep(graph, robot, stamp_of(episode, step))
            got.append(row)
            robot.plant.step(row)
    assert len(got) == len(expected)
    for i, (ours, theirs) in enumerate(zip(got, expected, strict=True)):
        assert np.array_equal(ours, theirs), f"step {i}: {ours - theirs}"
    graph.spin_until(lambda: len(robot.executed) == len(got), 2.0)
    stamps = [stamp_of(episode, step) for episode in range(3) for step in range(20)]
    assert [one.stamp_ns for one in robot.executed] == stamps and not any(one.person for one in robot.executed)
    assert np.array_equal([one.row for one in robot.executed], got), "each row that begins is said, once"
    assert len({row.tobytes() for row in got}) > 20, "a policy that always says the same would prove nothing"
    assert sorted({chunk.stamp_ns for chunk in robot.chunks}) == [stamp_of(e, k) for e in range(3) for k in (0, 8, 16)]
    # What is shown in RViz: where the hand was, and where the chunk leads from there.
    graph.spin_until(lambda: topics.EEF_PATH in robot.paths)
    chunk = robot.chunks[-1]
    way = robot.paths[topics.PREDICTED_PATH]
    np.testing.assert_allclose(np.diff(way, axis=0), chunk.rows[:, :3], atol=1e-12)
    cameras = {topics.image(camera) for camera in fake_policy.CAMERAS}
    subscribed = {s.topic_name.removeprefix("/") for s in policy.subscriptions}
    assert subscribed >= {"eef_pose", "joint_states"}
    assert (subscribed >= cameras) == (kind == "pixels") and ("object_pose" in subscribed) == (kind == "state")


def test_what_is_asked_again_is_answered_again_with_the_same(graph, checkpoints):
    robot = graph.add(Robot())
    graph.add(policy_node(checkpoints["state"]))
    graph.add(executor_node(checkpoints["state"]))
    connect(graph, robot)
    row = lockstep(graph, robot, stamp_of(0, 0))
    graph.spin(0.2)
    robot.commands.clear()
    robot.chunks.clear()
    robot.publish(stamp_of(0, 0))
    graph.spin_until(lambda: robot.commands and robot.chunks)
    graph.spin(0.2)
    assert robot.chunks[0].stamp_ns == stamp_of(0, 0) and len(robot.chunks) == 1
    assert len(robot.executed) == 1, "what is said again does not begin again"
    for stamp, again in robot.commands:
        assert stamp == stamp_of(0, 0) and np.array_equal(again, row)


def test_a_policy_that_is_restarted_in_mid_episode_goes_on_while_the_robot_waits(graph, checkpoints):
    robot = graph.add(Robot())
    first = graph.add(policy_node(checkpoints["state"]))
    executor = graph.add(executor_node(checkpoints["state"]))
    connect(graph, robot)
    for step in range(8):
        lockstep(graph, robot, stamp_of(0, step))
    graph.remove(first)
    robot.publish(stamp_of(0, 8))
    graph.spin(1.5)
    assert robot.answer(stamp_of(0, 8)) is None, "it waits: nothing moves without a chunk"
    graph.spin_until(lambda: "waiting for a chunk" in executor.diagnostics.summary)
    graph.add(policy_node(checkpoints["state"]))
    connect(graph, robot)
    for step in range(8, 20):
        assert lockstep(graph, robot, stamp_of(0, step)).any()


def test_an_executor_that_is_restarted_in_mid_chunk_goes_on_with_the_same_row(graph, checkpoints):
    expected = plain_loop(checkpoints["state"], episodes=1, steps=10)
    robot = graph.add(Robot())
    graph.add(policy_node(checkpoints["state"], policy_seed=5))
    first = graph.add(executor_node(checkpoints["state"]))
    connect(graph, robot)
    for step in range(10):
        if step == 3:
            graph.remove(first)
            graph.add(executor_node(checkpoints["state"]))
            connect(graph, robot)
        row = lockstep(graph, robot, stamp_of(0, step))
        assert np.array_equal(row, expected[step])
        robot.plant.step(row)


def test_another_run_that_begins_with_the_very_same_stamp_is_not_taken_for_a_repetition(graph, checkpoints):
    robot = graph.add(Robot())
    graph.add(policy_node(checkpoints["state"]))
    graph.add(executor_node(checkpoints["state"]))
    connect(graph, robot)
    rows = []
    for x in (0.1, 0.2):
        robot.commands.clear()
        robot.plant.position = np.array([x, 0.0, 0.0])
        robot.publish(stamp_of(0, 0))
        graph.spin_until(lambda: robot.answer(stamp_of(0, 0)) is not None)
        rows.append(robot.answer(stamp_of(0, 0)))
    assert not np.array_equal(*rows)


# Stops


def test_the_emergency_stop_is_latched_and_enabling_does_not_release_it(graph, checkpoints):
    robot = graph.add(Robot())
    graph.add(policy_node(checkpoints["state"]))
    executor = graph.add(executor_node(checkpoints["state"]))
    connect(graph, robot)
    assert lockstep(graph, robot, stamp_of(0, 0)).any()
    assert graph.call(robot, Trigger, "/executor/estop", Trigger.Request()).success
    for step in (1, 2):
        assert not lockstep(graph, robot, stamp_of(0, step)).any()
    answer = graph.call(robot, SetBool, "/executor/set_enabled", SetBool.Request(data=True))
    assert not answer.success and "latched" in answer.message
    assert not lockstep(graph, robot, stamp_of(0, 3)).any()
    status = graph.spin_until(lambda: _said(robot, "executor", "emergency stop: requested"))
    assert status.level == messages.ERROR and status.values["estop"] == "requested"
    assert executor.diagnostics.summary == "holding: emergency stop: requested"
    assert graph.call(robot, Trigger, "/executor/estop_reset", Trigger.Request()).success
    assert not lockstep(graph, robot, stamp_of(0, 7)).any(), "a reset moves nothing"
    assert graph.call(robot, SetBool, "/executor/set_enabled", SetBool.Request(data=True)).success
    assert lockstep(graph, robot, stamp_of(0, 8)).any()
    graph.spin_until(lambda: _said(robot, "executor", "acting"))


def _said(robot: Robot, name: str, text: str) -> messages.Status | None:
    status = robot.status.get(name)
    return status if status is not None and text in status.summary else None


def test_nothing_moves_unless_enabled(graph, checkpoints):
    robot = graph.add(Robot())
    graph.add(policy_node(checkpoints["state"]))
    graph.add(executor_node(checkpoints["state"], enabled=False))
    connect(graph, robot)
    assert not lockstep(graph, robot, stamp_of(0, 0)).any()
    graph.spin_until(lambda: _said(robot, "executor", "holding: not enabled"))
    assert graph.call(robot, SetBool, "/executor/set_enabled", SetBool.Request(data=True)).success
    assert lockstep(graph, robot, stamp_of(0, 8)).any()
    assert graph.call(robot, SetBool, "/executor/set_enabled", SetBool.Request(data=False)).success
    assert not lockstep(graph, robot, stamp_of(0, 9)).any()


def test_a_real_robot_does_not_move_by_default():
    with ros_graph.graph() as graph:
        node = graph.add(
            ExecutorNode(
                [
                    Parameter("rate", value=20),
                    Parameter("n_action_steps", value=8),
                    Parameter("action_low", value=[-1.0] * 7),
                    Parameter("action_high", value=[1.0] * 7),
                    Parameter("workspace_low", value=[-1, -1, -1]),
                    Parameter("workspace_high", value=[1, 1, 1]),
                ]
            )
        )
        assert not node.executor_logic.enabled and node.executor_logic.period_ns == PERIOD


class Chunker(Node):
    """A policy that says what the test wants."""

    def __init__(self, name: str = "chunker") -> None:
        super().__init__(name)
        self.publisher = self.create_publisher(JointTrajectory, topics.ACTION_CHUNK, topics.COMMAND_QOS)

    def send(self, stamp: int, value: float = 0.01, frame_id: str = WORLD_FRAME) -> None:
        rows = np.zeros((9, 7))
        rows[:, 0] = value
        self.publisher.publish(messages.chunk_to_msg(ActionChunk(stamp, rows, PERIOD), frame_id))


@pytest.fixture
def bench(graph, checkpoints):
    """Robot, chunker and a real-time executor."""
    robot, chunker = graph.add(Robot()), graph.add(Chunker())
    executor = graph.add(executor_node(checkpoints["state"], mode="realtime"))
    connect(graph, robot, policy=False)
    # Before there is a pose no chunk can be told from one of another time.
    robot.publish_pose(now(robot))
    graph.spin_until(lambda: robot.commands)
    robot.commands.clear()
    return graph, robot, chunker, executor


def now(node: Node) -> int:
    return int(node.get_clock().now().nanoseconds)


def ask(graph, robot, position=(0.0, 0.0, 0.0)) -> np.ndarray:
    """The executor's answer to one of the poses that come from now on, every 20 ms."""
    stamps: list[int] = []

    def answer() -> list[np.ndarray]:
        if not stamps or now(robot) - stamps[-1] > 20_000_000:
            stamps.append(now(robot))
            robot.publish_pose(stamps[-1], position)
        return [row for stamp in stamps if (row := robot.answer(stamp)) is not None]

    return graph.spin_until(answer)[-1]


def test_in_real_time_the_hold_goes_out_at_once_and_the_row_when_its_chunk_comes(bench):
    graph, robot, chunker, executor = bench
    assert not ask(graph, robot).any()
    assert executor.diagnostics.summary == "holding: no chunk yet"
    stamp = robot.commands[-1][0]
    chunker.send(stamp, 0.02)
    graph.spin_until(lambda: robot.answer(stamp).any())
    np.testing.assert_array_equal(robot.answer(stamp), [0.02, 0, 0, 0, 0, 0, 0])
    assert ask(graph, robot).any()


def test_a_pose_that_stops_coming_holds_and_one_that_comes_too_late_holds(bench):
    graph, robot, chunker, executor = bench
    chunker.send(now(robot))
    graph.spin(0.1)
    assert ask(graph, robot).any()
    # Its clock goes on, to the age that a pose may have.
    graph.spin_until(lambda: not robot.commands[-1][1].any())
    assert "eef_pose: silent for" in executor.diagnostics.summary
    graph.spin(0.3)
    assert not robot.commands[-1][1].any(), "and it goes on saying so"
    chunker.send(now(robot))
    graph.spin(0.1)
    for _ in range(10):
        robot.publish_pose(now(robot) - 300_000_000)
        graph.spin(0.02)
    assert not robot.commands[-1][1].any() and "s old" in executor.diagnostics.summary
    chunker.send(now(robot))
    assert ask(graph, robot).any(), "and goes on with the next one that is in time"


def test_an_executor_that_ends_tells_the_robot_to_hold(bench):
    graph, robot, chunker, executor = bench
    chunker.send(now(robot))
    graph.spin(0.1)
    assert ask(graph, robot).any()
    graph.remove(executor)
    graph.spin_until(lambda: not robot.commands[-1][1].any())


def test_a_chunk_that_runs_out_holds(bench):
    graph, robot, chunker, executor = bench
    chunker.send(now(robot) - 10 * PERIOD)
    graph.spin(0.1)
    assert not ask(graph, robot).any()
    chunker.send(now(robot) - 8 * PERIOD)
    graph.spin(0.1)
    graph.spin(0.1)
    assert not ask(graph, robot).any()
    assert "no chunk covers the present" in executor.diagnostics.summary


@pytest.mark.parametrize(
    ("value", "frame_id", "reason"),
    [
        (float("nan"), "world", "eef_dx of point 0 is nan, a finite number expected"),
        (0.3, "world", "eef_dx of row 0 is 0.3, at most 0.25 expected"),
        (0.01, "camera", "deltas in the frame 'camera', 'world' (eef_pose's) expected"),
    ],
)
def test_a_chunk_that_must_not_be_executed_is_refused_with_its_reason(bench, value, frame_id, reason):
    graph, robot, chunker, executor = bench
    chunker.send(now(robot), value, frame_id)
    graph.spin_until(lambda: executor._counts["chunks refused"] == 1)
    assert not ask(graph, robot).any()
    assert reason in executor.diagnostics.summary
    graph.spin_until(lambda: _said(robot, "executor", reason))


def test_a_pose_with_nan_holds(bench):
    graph, robot, chunker, executor = bench
    chunker.send(now(robot))
    graph.spin(0.1)
    assert ask(graph, robot).any()
    assert not ask(graph, robot, (0.0, float("nan"), 0.0)).any()
    assert "eef_pose: position [0.0, nan, 0.0]" in executor.diagnostics.summary
    assert ask(graph, robot).any()


def test_commands_are_clipped_to_limits_and_box_on_the_bus(bench):
    graph, robot, chunker, executor = bench
    chunker.send(now(robot), 0.2)
    graph.spin(0.1)
    np.testing.assert_array_equal(ask(graph, robot)[:3], [0.05, 0, 0])
    assert executor.diagnostics.summary == "acting, clipped to limits"
    executor.executor_logic.max_speed = None
    ask(graph, robot, (0.98, 0.0, 0.0))
    chunker.send(now(robot), 0.2)
    np.testing.assert_allclose(ask(graph, robot, (0.98, 0.0, 0.0))[:3], [0.02, 0, 0], atol=1e-12)


@pytest.mark.parametrize("topic", ["action_chunk", "eef_pose"])
def test_two_publishers_are_one_too_many(bench, topic):
    graph, robot, chunker, executor = bench
    second = graph.add(Chunker("second") if topic == "action_chunk" else Robot("second"))
    graph.spin(0.5)
    ask(graph, robot)
    chunker.send(now(robot))
    graph.spin(0.1)
    assert ask(graph, robot).any(), "there, but silent"
    if topic == "action_chunk":
        second.send(now(robot))
    else:
        second.publish_pose(now(robot))
    graph.spin(0.1)
    assert not ask(graph, robot).any()
    other = "chunker" if topic == "action_chunk" else "robot"
    who = f"/{other} and /second"
    assert executor.diagnostics.summary == f"holding: 2 publishers on /{topic}, one expected: {who}"


class Watching:
    """A node, as far as a monitor needs one."""

    def count_publishers(self, topic: str) -> int:
        return 2

    def get_publishers_info_by_topic(self, topic: str) -> list[object]:
        return []


@pytest.mark.parametrize("distribution", ["kilted", "jazzy"])
def test_a_publisher_that_was_replaced_is_no_second_one(distribution):
    """On Jazzy a message does not say whose it is, only how many its publisher has sent."""
    time_, sent = [0.0], {b"a": 1000, b"b": 0}
    watch = PublisherMonitor(Watching(), "/x", clock=lambda: time_[0], wall=lambda: time_[0])

    def hear(publisher: bytes) -> str:
        sent[publisher] += 1
        number = {"publication_sequence_number": sent[publisher]}
        watch.heard({"publisher_gid": {"data": publisher}} if distribution == "kilted" else number)
        return watch.reason()

    assert not hear(b"a") and not hear(b"a")
    time_[0] = 1.0
    assert hear(b"b") == "2 publishers on /x, one expected"
    time_[0] = 1.9
    assert hear(b"b"), "a was heard 1.9 s ago"
    time_[0] = 3.1
    assert not hear(b"b")
    assert hear(b"a") and hear(b"b")
    time_[0] = 9.0
    # Counts so near each other that the second one could be the first one after a loss: known when that speaks again.
    sent[b"b"], sent[b"a"] = 50, 40
    assert not hear(b"a")
    assert bool(hear(b"b")) == (distribution == "kilted") and hear(b"a")
    for _ in range(50):
        assert hear(b"b").startswith("2 publishers") and hear(b"a").startswith("2 publishers")


def test_who_has_missed_hundreds_of_messages_at_its_start_has_heard_one_publisher():
    """At 1 kHz, and for half a second nothing is taken."""
    time_ = [0.0]
    watch = PublisherMonitor(Watching(), "/x", clock=lambda: time_[0], wall=lambda: time_[0])
    for time_[0], count in ((0.0, 7), (0.5, 507), (0.501, 508), (0.502, 509), (0.9, 907)):
        watch.heard({"publication_sequence_number": count})
        assert not watch.reason(), count
    # Another one that began with it is known as soon as the first one speaks again.
    watch = PublisherMonitor(Watching(), "/x", clock=lambda: time_[0], wall=lambda: time_[0])
    watch.heard({"publication_sequence_number": 7})
    watch.heard({"publication_sequence_number": 507})
    watch.heard({"publication_sequence_number": 8})
    assert watch.reason() == "2 publishers on /x, one expected"


def test_a_burst_with_losses_while_the_robots_time_stands_still_is_of_one_publisher():
    """At 1 kHz in a slow simulation: /clock waits in the queue as well."""
    wall = [0.0]
    watch = PublisherMonitor(Watching(), "/x", clock=lambda: 5.0, wall=lambda: wall[0])
    for i in range(100):
        wall[0] = 0.01 * i
        watch.heard({"publication_sequence_number": i})
    wall[0] += 0.5
    watch.heard({"publication_sequence_number": 150})
    assert not watch.reason()
    watch.heard({"publication_sequence_number": 20})
    assert watch.reason() == "2 publishers on /x, one expected"


# What a policy refuses


def robot_and_policy(graph, path: Path, **parameters: object) -> tuple[Robot, PolicyNode]:
    robot = graph.add(Robot())
    policy = graph.add(policy_node(path, **parameters))
    connect(graph, robot, executor=False)
    return robot, policy


def deliver(graph, robot: Robot, policy: PolicyNode, stamp: int, skip: tuple[str, ...] = ()) -> None:
    """Publishes an observation and waits until the policy has all of it and has thought about it."""
    robot.publish(stamp, skip)
    wanted = [topic for topic in policy._source.topics if topic.split("/")[0] not in skip]
    graph.spin_until(lambda: all(policy._source.stamps.get(topic) == stamp for topic in wanted))
    graph.spin_until(lambda: not policy.thinking)


def test_a_camera_that_is_absent_or_of_another_size_is_named_and_no_chunk_made(graph, checkpoints):
    robot, policy = robot_and_policy(graph, checkpoints["pixels"])
    graph.spin_until(lambda: _said(robot, "policy", "agentview/image_raw: nothing received"))
    for step in range(5):
        deliver(graph, robot, policy, stamp_of(0, step), skip=("agentview",))
    assert policy.reasons() == ["agentview/image_raw: nothing received"]
    small = messages.image_to_msg(np.zeros((96, 128, 3), np.uint8), stamp_of(0, 5), "camera")
    robot.images["agentview"].publish(small)
    reason = "agentview/image_raw: 128 x 96 pixels, the checkpoint expects 84 x 84"
    graph.spin_until(lambda: policy.reasons() == [reason])
    small.encoding = "mono16"
    robot.images["agentview"].publish(small)
    graph.spin_until(lambda: "encoding 'mono16'" in policy.reasons()[0])
    graph.spin_until(lambda: _said(robot, "policy", "encoding 'mono16'"))
    assert robot.status["policy"].level == messages.ERROR
    assert not robot.chunks
    for step in (6, 7):
        robot.publish(stamp_of(0, step))
        graph.spin(0.2)
    assert policy.reasons() == ["agentview/image_raw: good again, but not for 3 pictures yet"] and not robot.chunks
    deliver(graph, robot, policy, stamp_of(0, 8))
    graph.spin_until(lambda: robot.chunks)
    graph.spin_until(lambda: _said(robot, "policy", "publishing chunks"))
    assert robot.status["policy"].values["sha256"] == policy.policy.checkpoint.sha256


def test_an_input_that_falls_silent_is_named(graph, checkpoints):
    robot, policy = robot_and_policy(graph, checkpoints["state"], mode="realtime", max_input_age=0.3)
    deliver(graph, robot, policy, now(robot))
    graph.spin_until(lambda: _said(robot, "policy", "joint_states: silent for "))


def test_a_chunk_that_counts_no_more_is_drawn_no_more(graph, checkpoints):
    robot, policy = robot_and_policy(
        graph, checkpoints["state"], mode="realtime", max_input_age=0.5, min_frame_rate=0.0
    )
    robot.watch_paths()
    graph.spin(0.3)

    def drawn() -> int:
        return len(robot.paths.get(topics.PREDICTED_PATH, ()))

    def moves() -> bool:
        deliver(graph, robot, policy, now(robot))
        return drawn() > 1

    graph.spin_until(moves)
    graph.spin_until(lambda: _said(robot, "policy", "silent for ") and not drawn())
    # And at once where the policy tells the executor to hold.
    graph.spin_until(moves)
    robot.publish_pose(now(robot), (0.0, float("nan"), 0.0))
    graph.spin_until(lambda: not robot.chunks[-1].rows.any() and not drawn())


def test_a_chunk_is_drawn_no_more_once_the_executor_is_stopped(graph, checkpoints):
    """The policy goes on with what it observes; the robot does nothing of it."""
    robot = graph.add(Robot())
    policy = graph.add(policy_node(checkpoints["state"], mode="realtime", max_input_age=5.0, min_frame_rate=0.0))
    executor = graph.add(executor_node(checkpoints["state"], mode="realtime", max_observation_age=5.0))
    connect(graph, robot)
    robot.watch_paths()
    graph.spin(0.3)

    def drawn() -> int:
        deliver(graph, robot, policy, now(robot))
        return len(robot.paths.get(topics.PREDICTED_PATH, ()))

    graph.spin_until(lambda: drawn() > 1 and robot.executed)
    executor._stop("requested")
    graph.spin_until(lambda: not drawn())
    count = len(robot.chunks)
    graph.spin_until(lambda: not drawn() and len(robot.chunks) > count + 1)
    executor.executor_logic.estop_reset()
    executor.executor_logic.set_enabled(True)
    graph.spin_until(lambda: drawn() > 1)


def test_a_pose_with_nan_or_a_missing_finger_is_named_and_no_chunk_made(graph, checkpoints):
    robot, policy = robot_and_policy(graph, checkpoints["state"])
    robot.publish_pose(stamp_of(0, 0), (0.0, float("nan"), 0.0))
    graph.spin_until(lambda: any("position [0.0, nan, 0.0]" in reason for reason in policy.reasons()))
    robot.joints.publish(messages.joint_state_to_msg(("joint1",), (0.0,), (0.0,), stamp_of(0, 0)))
    said = f"joint_states: nothing received of {', '.join(FINGERS)}, but of joint1"
    graph.spin_until(lambda: said in policy.reasons())
    robot.joints.publish(messages.joint_state_to_msg(FINGERS[:1], (0.0,), (0.0,), stamp_of(0, 0)))
    graph.spin_until(lambda: any(f"joint {FINGERS[1]} missing" in reason for reason in policy.reasons()))
    graph.spin(0.2)
    assert not robot.chunks


def test_a_policy_that_answers_nan_publishes_nothing_and_says_so(graph, checkpoints):
    robot, policy = robot_and_policy(graph, checkpoints["state"])
    robot.plant.position = np.array([fake_policy.NAN_BEYOND + 1, 0.0, 0.0])
    robot.publish(stamp_of(0, 0))
    graph.spin_until(lambda: "the policy's chunk has NaN or infinite values" in policy.reasons())
    assert not robot.chunks
    robot.plant.position = np.zeros(3)
    robot.publish(stamp_of(0, 1))
    graph.spin_until(lambda: robot.chunks)
    graph.spin_until(lambda: not policy.reasons())


def test_a_frozen_camera_stops_the_chunks_until_it_is_back(graph, checkpoints):
    robot, policy = robot_and_policy(graph, checkpoints["pixels"], max_frozen=0.4)
    still = robot.plant.frame()["agentview_image"]

    def move(steps: range, frozen: bool) -> None:
        for step in steps:
            robot.plant.position = robot.plant.position + [0.005, 0, 0]
            stamp = stamp_of(0, step)
            if frozen:
                robot.images["agentview"].publish(messages.image_to_msg(still, stamp, "camera"))
            deliver(graph, robot, policy, stamp, skip=("agentview",) if frozen else ())

    def made() -> list[int]:
        graph.spin(0.3)
        return [round((chunk.stamp_ns - stamp_of(0, 0)) / PERIOD) for chunk in robot.chunks]

    move(range(10), frozen=False)
    assert not policy.reasons()
    move(range(10, 40), frozen=True)
    (reason,) = policy.reasons()
    # 0.4 s are 8 steps, from the first picture (10) to the last that is believed (18).
    assert reason.startswith("agentview is frozen: the same image for 0.45 s while the robot moved 0.04")
    assert made() == [0, 8, 16]
    graph.spin_until(lambda: _said(robot, "policy", "agentview is frozen"))
    move(range(40, 42), frozen=False)
    assert made() == [0, 8, 16, 40]
    assert not policy.reasons()


def test_a_camera_whose_stamps_stand_still_is_named(graph, checkpoints):
    robot, policy = robot_and_policy(graph, checkpoints["pixels"], max_frozen=0.3)
    image = robot.plant.frame()["agentview_image"]
    for step in range(10):
        robot.images["agentview"].publish(messages.image_to_msg(image, stamp_of(0, 0), "camera"))
        deliver(graph, robot, policy, stamp_of(0, step), skip=("agentview",))
    assert policy.reasons() == ["agentview/image_raw: its stamps stand still, 0.45 s behind the other inputs"]
    assert len(robot.chunks) <= 1


def test_cameras_with_clocks_of_their_own_work_within_the_tolerance(graph, checkpoints):
    robot, policy = robot_and_policy(graph, checkpoints["pixels"], sync_tolerance=0.02)
    frame = robot.plant.frame()
    for step in range(4):
        stamp = stamp_of(0, step)
        for offset, (camera, publisher) in zip((0, 9_000_000), robot.images.items(), strict=True):
            publisher.publish(messages.image_to_msg(frame[f"{camera}_image"], stamp + offset, "camera"))
        deliver(graph, robot, policy, stamp - 7_000_000, skip=fake_policy.CAMERAS)
    graph.spin_until(lambda: robot.chunks)
    graph.spin_until(lambda: not policy.reasons())


def test_sensors_faster_than_the_control_rate_are_thinned_out(graph, checkpoints):
    robot, policy = robot_and_policy(graph, checkpoints["state"])
    for step in range(90):  # 100 Hz
        deliver(graph, robot, policy, stamp_of(0, 0) + step * PERIOD // 5)
    graph.spin(0.3)
    assert [round((chunk.stamp_ns - stamp_of(0, 0)) / PERIOD) for chunk in robot.chunks] == [0, 8, 16]


def test_in_lockstep_an_input_out_of_range_is_a_hold_and_the_next_observation_goes_on(graph, tmp_path):
    """A simulation in which something falls off the table must not wait for ever."""
    inputs = tuple(
        dataclasses.replace(tensor, low=(-5.0,) * 3, high=(5.0,) * 3) if tensor.name == "object_pos" else tensor
        for tensor in STATE_INPUTS
    )
    robot = graph.add(Robot())
    path = fake_policy.save(tmp_path / "policy.pt", fake_policy.spec(inputs))
    policy = graph.add(policy_node(path))
    graph.add(executor_node(path))
    connect(graph, robot)
    assert lockstep(graph, robot, stamp_of(0, 0)).any()
    frame = robot.plant.frame
    moved = []
    for step in range(1, 20):
        fallen = {"object_pos": np.array([0.0, 0.0, -9.0])} if step in (3, 8, 9, 10) else {}
        robot.plant.frame = lambda fallen=fallen: {**frame(), **fallen}
        moved.append(lockstep(graph, robot, stamp_of(0, step)).any())
        if fallen:  # the executor may have answered before the policy has looked
            graph.spin_until(lambda: policy.reasons() == ["object_pos[2] is -9 m, -5 to 5 expected"])
    # Rows of a chunk that was made already are executed, whether its robot or its policy hears of step 3 first.
    assert moved == [step not in (8, 9, 10) for step in range(1, 20)]
    graph.spin_until(lambda: not policy.reasons())


# Parameters


def test_limits_and_box_are_a_robots_own(graph, checkpoints):
    with pytest.raises(
        ValueError, match="action_low, action_high, workspace_low, workspace_high is required: a robot's"
    ):
        executor_node(checkpoints["state"], checkpoint_limits=False)
    own = {"action_low": [-0.02] * 7, "action_high": [0.02] * 7}
    with pytest.raises(ValueError, match="workspace_low, workspace_high is required: a robot's"):
        executor_node(checkpoints["state"], checkpoint_limits=False, **own)
    # The checkpoint's box has the checkpoint's frame.
    with pytest.raises(
        ValueError, match="workspace_low, workspace_high is required: the checkpoint's box is in its frame"
    ):
        executor_node(checkpoints["state"], frame_id="panda_link0")
    box = {"workspace_low": [0.3, -0.3, 0.0], "workspace_high": [0.7, 0.3, 0.5]}
    node = graph.add(executor_node(checkpoints["state"], checkpoint_limits=False, frame_id="panda_link0", **own, **box))
    assert node.frame_id == "panda_link0" and node.executor_logic.limits.workspace_high == (0.7, 0.3, 0.5)


@pytest.mark.filterwarnings("ignore:Deprecated in favor of:DeprecationWarning")  # rclpy of itself
@pytest.mark.parametrize(
    ("mode", "override", "heard"),
    [("realtime", None, True), ("lockstep", None, False), ("realtime", "reliable", False)],
)
def test_best_effort_sensors_are_heard_in_real_time_unless_parameters_say_otherwise(
    graph, checkpoints, mode, override, heard
):
    robot = graph.add(Node("driver"))
    publisher = robot.create_publisher(PoseStamped, topics.EEF_POSE, qos_profile_sensor_data)
    overrides = {"qos_overrides./eef_pose.subscription.reliability": override} if override else {}
    executor = graph.add(executor_node(checkpoints["state"], mode=mode, **overrides))
    graph.spin_until(lambda: robot.count_subscribers("eef_pose"))
    for _ in range(20):
        publisher.publish(messages.pose_to_msg((0, 0, 0), (0, 0, 0, 1), now(robot), WORLD_FRAME))
        graph.spin(0.02)
    assert (executor._received is not None) == heard


# Real time


def test_the_next_chunk_is_made_before_the_last_is_used_up_and_nothing_holds_in_between(
    graph, checkpoints, monkeypatch
):
    for_ever = 1e10  # the stamps' time is the test's, so that a busy machine cannot fail it
    robot = graph.add(Robot())
    policy = graph.add(
        policy_node(checkpoints["pixels"], mode="realtime", lead_steps=2, max_input_age=for_ever, min_frame_rate=0.0)
    )
    executor = graph.add(executor_node(checkpoints["pixels"], mode="realtime", max_observation_age=for_ever))
    connect(graph, robot)
    for step in range(40):
        stamp = stamp_of(0, step)
        monkeypatch.setattr(executor, "seconds", lambda stamp=stamp: stamp / 1e9)
        deliver(graph, robot, policy, stamp)
        row = graph.spin_until(lambda stamp=stamp: [robot.answer(stamp)] if robot.answer(stamp) is not None else None)[
            0
        ]
        if step == 0:
            graph.spin_until(lambda stamp=stamp: robot.answer(stamp).any())
            row = robot.answer(stamp)
        robot.plant.step(row)
        assert row.any(), step
    graph.spin_until(lambda: len(robot.chunks) >= 7)
    assert [(chunk.stamp_ns - stamp_of(0, 0)) // PERIOD for chunk in robot.chunks] == [0, 6, 12, 18, 24, 30, 36]


def test_a_late_chunk_goes_on_from_the_rows_that_are_executed_until_it_comes(graph, checkpoints, monkeypatch):
    for_ever = 1e10
    robot = graph.add(Robot())
    policy = graph.add(policy_node(checkpoints["late"], mode="realtime", max_input_age=for_ever, min_frame_rate=0.0))
    executor = graph.add(executor_node(checkpoints["late"], mode="realtime", max_observation_age=for_ever))
    connect(graph, robot)
    graph.spin_until(lambda: robot.count_subscribers("executed_action") == 2)
    publish, made, sent = policy._publish, [], 0
    monkeypatch.setattr(policy, "_publish", lambda *what: made.append(what))
    delays = []
    for step in range(40):
        stamp = stamp_of(0, step)
        while sent < len(made) and made[sent][0].stamp_ns <= stamp - 2 * PERIOD:
            publish(*made[sent])
            sent += 1
            graph.spin_until(lambda count=sent: len(robot.chunks) == count)
        monkeypatch.setattr(executor, "seconds", lambda stamp=stamp: stamp / 1e9)
        deliver(graph, robot, policy, stamp)
        graph.spin_until(lambda stamp=stamp: robot.answer(stamp) is not None)
        assert (robot.answer(stamp) != 0).any() == (step >= 2), "it holds until the first chunk is there, and only then"
        graph.spin_until(lambda stamp=stamp, step=step: step < 2 or robot.executed[-1].stamp_ns == stamp)
        graph.spin(0.02)
        delays.append(policy._delay.rows)
    chunks = [chunk for chunk, *_ in made]
    assert [(chunk.stamp_ns - stamp_of(0, 0)) // PERIOD for chunk in chunks] == [0, 9, 17, 25, 33]
    assert delays[-1] == 2
    # The first one began when it came, in answer to the observation before, so the second expects to be one row late.
    assert np.array_equal(chunks[1].rows[0], chunks[0].rows[8])
    for before, after in itertools.pairwise(chunks[1:]):
        assert np.array_equal(after.rows[:2], before.rows[8:10])
        assert not np.array_equal(after.rows[2], before.rows[10])
    executed = {one.stamp_ns: one for one in robot.executed}
    assert [executed[stamp_of(0, step)].place for step in (2, 18, 19, 20)] == [1, 9, 2, 3]


def test_inference_does_not_block_the_sensors(graph, checkpoints, monkeypatch):
    """The inference is stopped by the test for as long as it likes; meanwhile every observation must arrive."""
    robot, policy = robot_and_policy(graph, checkpoints["state"], max_input_age=1e10)
    begun, go_on = threading.Event(), threading.Event()
    sample = policy.policy.sample

    def stopped(*arguments, **more):
        begun.set()
        assert go_on.wait(60)
        return sample(*arguments, **more)

    monkeypatch.setattr(policy.policy, "sample", stopped)
    robot.publish(stamp_of(0, 0))
    graph.spin_until(begun.is_set)
    for step in range(1, 13):
        robot.publish(stamp_of(0, step))
        wanted = stamp_of(0, step)
        graph.spin_until(
            lambda wanted=wanted: all(policy._source.stamps.get(topic) == wanted for topic in policy._source.topics)
        )
    assert not robot.chunks
    go_on.set()
    # The chunk that follows is made from the newest observation, not from one that waited in a queue.
    # (The first may be replaced on its way: the topic keeps one.)
    graph.spin_until(lambda: robot.chunks and robot.chunks[-1].stamp_ns == stamp_of(0, 12))
    assert {(chunk.stamp_ns - stamp_of(0, 0)) // PERIOD for chunk in robot.chunks} <= {0, 12}


# Processes


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(ros_graph.ROOT / "src"), str(ros_graph.ROOT)])
    return {**os.environ, "PYTHONPATH": paths}


STARTING = 120.0
"""Seconds that a process may take to import torch on a machine that is busy with trainings."""


@contextlib.contextmanager
def started(node: str, *parameters: str) -> Iterator[subprocess.Popen[str]]:
    """A node in a process of its own, which is gone afterwards whatever happened."""
    arguments = [part for parameter in parameters for part in ("-p", parameter)]
    with subprocess.Popen(
        [sys.executable, "-m", f"diffusion_ros.nodes.{node}", "--ros-args", *arguments],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


BAD_PARAMETERS = [
    (policy_node_module, ["checkpoint:=nowhere.pt"], "nowhere.pt: no such checkpoint"),
    (policy_node_module, [], "policy: parameter checkpoint is required"),
    (
        policy_node_module,
        ["checkpoint:=x.pt", "lead_steps:=soon"],
        "policy: parameter lead_steps is 'soon', an integer expected",
    ),
    (executor_node_module, ["rate:=20.0"], "executor: parameter n_action_steps, action_low, "),
    (
        executor_node_module,
        ["max_observation_age:=-1"],
        "executor: parameter max_observation_age is -1.0, at least 0.01",
    ),
]


@pytest.mark.parametrize(("module", "parameters", "line"), BAD_PARAMETERS)
def test_bad_parameters_are_one_line_and_status_2(module, parameters, line, monkeypatch, capfd):
    words = [word for parameter in parameters for word in ("-p", parameter)]
    monkeypatch.setattr(sys, "argv", ["node", "--ros-args", *words])
    with ros_graph.own_domain():
        assert module.main() == 2
    errors = capfd.readouterr().err
    assert errors.count("\n") == 1 and errors.startswith(line), errors


@pytest.mark.parametrize("broken", [False, True])
def test_a_parameter_file_that_is_missing_or_broken_is_one_line_and_status_2(broken, tmp_path, monkeypatch, capfd):
    path = tmp_path / "x.yaml"
    if broken:
        path.write_text("executor: [")
    monkeypatch.setattr(sys, "argv", ["node", "--ros-args", "--params-file", str(path)])
    with ros_graph.own_domain():
        assert executor_node_module.main() == 2
    errors = capfd.readouterr().err
    assert errors.count("\n") == 1 and str(path) in errors, errors


def test_a_process_of_bad_parameters_ends_with_status_2():
    _, parameters, line = BAD_PARAMETERS[-1]
    with ros_graph.own_domain(), started("executor_node", *parameters) as process:
        _, errors = process.communicate(timeout=STARTING)
    assert process.returncode == 2
    assert errors.count("\n") == 1 and errors.startswith(line), errors


@pytest.mark.parametrize(
    ("node", "number"),
    [
        ("policy_node", signal.SIGINT),
        ("executor_node", signal.SIGTERM),
        # One handler has both, and one function runs every node.
        pytest.param("policy_node", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("executor_node", signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_a_node_cleanly(graph, checkpoints, node, number):
    robot = graph.add(Robot())
    name = node.removesuffix("_node")
    limits = ["checkpoint_limits:=true"] if node == "executor_node" else []
    with started(node, f"checkpoint:={checkpoints['state']}", *limits) as process:
        # Its first word, not its name: that is in the graph before the node is made.
        graph.spin_until(lambda: _said(robot, name, ""), STARTING)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0 and "Traceback" not in errors, errors
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
    # It said goodbye: what it published on is gone long before its lease, 20 s, ends. Its name says less: where a list
    # of names is read after the goodbye, it is back for ever (rmw_dds_common's update_participant_entities).
    graph.spin_until(lambda: not robot.count_publishers(topics.DIAGNOSTICS), 10.0)


@pytest.mark.slow
def test_a_policy_that_is_killed_is_replaced_without_waiting_for_its_lease(graph, checkpoints):
    robot = graph.add(Robot())
    graph.add(executor_node(checkpoints["state"]))
    parameters = (f"checkpoint:={checkpoints['state']}", "mode:=lockstep", "policy_seed:=5")
    with started("policy_node", *parameters) as policy:
        graph.spin_until(lambda: robot.count_publishers("action_chunk"), STARTING)
        connect(graph, robot)
        for step in range(8):
            assert lockstep(graph, robot, stamp_of(0, step)).any()
        policy.kill()
        policy.communicate(timeout=30)
    robot.publish(stamp_of(0, 8))
    graph.spin(1.0)
    assert robot.answer(stamp_of(0, 8)) is None
    with started("policy_node", *parameters):
        restarted = time.monotonic()
        while robot.answer(stamp_of(0, 8)) is None:
            assert time.monotonic() - restarted < STARTING
            robot.publish(stamp_of(0, 8))
            graph.spin(1.0)
        assert robot.answer(stamp_of(0, 8)).any(), "no hold for a second publisher that is dead"
        for step in range(9, 12):
            assert lockstep(graph, robot, stamp_of(0, step)).any()
