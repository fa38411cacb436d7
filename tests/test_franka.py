"""The Franka's driver over the robot's real protocol: franka-rs against franka-sim, which keeps the robot's limits.

All on the loopback interface. `make franka` makes the environments; without them the tests skip. Nothing is timed: on a
machine that is busy the simulated time stretches, so targets are sent in step with the poses that come.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from ros_graph import Graph, graph
from rosgraph_msgs.msg import Clock
from scipy.spatial.transform import Rotation, Slerp
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float64MultiArray
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros import robot_file, yaml_file
from diffusion_ros.checkpoint import read_spec
from diffusion_ros.control.action_chunk import ActionChunk
from diffusion_ros.control.frames import RobotFrames
from diffusion_ros.nodes.executor_node import ExecutorNode
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.messages import Status
from diffusion_ros.ros.sim_clock import START_NS

Array = NDArray[np.float64]
Pose = tuple[Array, Rotation]
Stamped = tuple[int, Array, Array]
"""Stamp [ns], position (3) m, quaternion (4) xyzw."""

ROOT = Path(__file__).parents[1]
PACKAGES = Path(os.environ.get("DIFFUSION_ROS_FRANKA", ROOT / ".venv-franka"))
SIMULATOR = Path(os.environ.get("DIFFUSION_ROS_FRANKA_SIM", ROOT / ".venv-franka-sim")) / "bin/python"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not (PACKAGES / "franka").is_dir(), reason=f"no franka-rs in {PACKAGES}: make franka"),
    pytest.mark.skipif(not SIMULATOR.exists(), reason=f"no {SIMULATOR}: make franka"),
]

START = np.array([0.38, -0.01, 0.26])
"""Where the flange begins, within the box: about where the training's hand does."""
DOWN = Rotation.from_matrix(np.array([[1, -1, 0], [-1, -1, 0], [0, 0, -np.sqrt(2)]]) / np.sqrt(2))
"""And how: the hand points down, its fingers open along y."""
RATE = 50
"""Targets a second."""
SHIPPED = ROOT / "config/robots/franka_fci.yaml"
HOST = "127.0.0.31"
"""Its ports are the protocol's own: an address that nobody else takes."""
TICK_NS = 10_000_000
"""Of the robot's time, between two poses."""
SLACK_NS = 20_000_000
"""By which a node may be behind the clock."""
NEARER = np.array([-0.08, -0.01, 0.056])
"""Where the training's robot would have to stand, in the arm's base: the can's bin is at the end of an arm's reach."""
FLANGE = {"frame": "fr3_link8", "xyz": [0.0, 0.0, 0.1034], "rpy": [0.0, 0.0, -np.pi / 4]}
"""Where the policy's hand is in the simulated arm's end effector, which is the flange."""


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("franka")
    command = [SIMULATOR, ROOT / "tests/franka_simulator.py", HOST, folder]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=_environment() | {"PYTHONPATH": ""})
    try:
        yield
        assert process.poll() is None, (folder / "log").read_text()[-3000:]
    finally:
        process.kill()
        process.wait()


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT / "src", ROOT, PACKAGES)))}


class Client:
    """What an executor is to the driver: sends targets and hears what the driver says."""

    def __init__(self, ros: Graph, process: subprocess.Popen[bytes]) -> None:
        self.ros, self.process = ros, process
        node = self.node = ros.add(Node("client"))
        self.poses: list[tuple[int, Array, Array]] = []
        self.ready: list[bool] = []
        self.joints = JointState()
        self.status = Status("", "", 0, "", {})
        self.refusals: list[str] = []
        self.sent: list[tuple[int, Array, Array]] = []
        # Deep: all poses count, and a test may be busy for a while.
        node.create_subscription(PoseStamped, topics.CURRENT_POSE, self._on_pose, QoSProfile(depth=1000))
        node.create_subscription(JointState, topics.JOINT_STATES, self._on_joints, 5)
        node.create_subscription(
            Bool, "franka_driver/ready", lambda msg: self.ready.append(msg.data), topics.DESCRIPTION_QOS
        )
        node.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_status, topics.DIAGNOSTICS_QOS)
        self._targets = node.create_publisher(PoseStamped, topics.TARGET_POSE, topics.COMMAND_QOS)
        self._widths = node.create_publisher(Float64MultiArray, topics.GRIPPER_COMMANDS, topics.COMMAND_QOS)
        ros.spin_until(lambda: self.ready[-1:] == [True] and self._targets.get_subscription_count(), timeout=90)
        ros.spin_until(lambda: self.poses)

    def _on_pose(self, msg: PoseStamped) -> None:
        assert msg.header.frame_id == "base"
        self.poses.append(messages.pose_from_msg(msg))

    def _on_joints(self, msg: JointState) -> None:
        self.joints = msg

    def _on_status(self, msg: Any) -> None:
        for status in messages.diagnostics_from_msg(msg):
            if status.name == "franka_driver":
                self.status = status

    @property
    def at(self) -> Pose:
        return self.poses[-1][1], Rotation.from_quat(self.poses[-1][2])

    def until(self, condition: Callable[[], Any]) -> Any:
        return self.ros.spin_until(condition, timeout=120)

    def wait(self, poses: int) -> None:
        """For so many poses, 10 ms of the robot's time each."""
        end = len(self.poses) + poses
        self.until(lambda: len(self.poses) >= end)

    def send(self, position: Array, turn: Rotation, frame: str = "base") -> None:
        stamp = self.node.get_clock().now().nanoseconds
        self.sent.append((stamp, position, turn.as_quat()))
        self._targets.publish(messages.pose_to_msg(position, turn.as_quat(), stamp, frame))

    def follow(self, way: Sequence[Pose]) -> None:
        """Sends a target every 20 ms of the robot's time, and the last one for a while."""
        for position, turn in [*way, *[way[-1]] * RATE]:
            self.send(position, turn)
            self.pause()

    def pause(self) -> None:
        """For 20 ms of the robot's time since the last target. Poses that have waited here for long do not count: a
        test that was held up goes on slower, and not in a jump."""
        since, end = self.sent[-1][0], len(self.poses) + 100 // RATE
        while self.poses[-1][0] < since or len(self.poses) < end:
            before = len(self.poses)
            self.until(lambda before=before: len(self.poses) > before)
            if self.poses[-1][0] < since:
                end = len(self.poses) + 100 // RATE

    def go(self, position: Array, turn: Rotation) -> None:
        """To a pose on a straight way, at up to 0.15 m/s."""
        begin, before = self.at
        self.follow(straight(begin, before, position, turn, 0.15))

    def width(self, width: float) -> None:
        self._widths.publish(messages.gripper_width_to_msg(width))

    def call(self, name: str) -> Trigger.Response:
        return self.ros.call(self.node, Trigger, f"franka_driver/{name}", Trigger.Request())

    def moved(self, since: Array) -> float:
        return float(np.linalg.norm(self.at[0] - since))


@pytest.fixture
def client(simulator: None) -> Iterator[Client]:
    with graph() as ros, driver() as process:
        yield Client(ros, process)
        assert process.poll() is None


@contextmanager
def driver(*parameters: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "diffusion_ros.nodes.franka_driver_node", "--ros-args"]
    for parameter in (f"host:={HOST}", "realtime:=ignore", *parameters):
        command += ["-p", parameter]
    process = subprocess.Popen(command, env=_environment())
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        finally:
            process.kill()


def straight(begin: Array, before: Rotation, end: Array, turn: Rotation, speed: float) -> list[Pose]:
    """Poses 20 ms apart, that begin and end gently."""
    angle = (turn * before.inv()).magnitude()
    n = max(2, round(1.5 * RATE * max(float(np.linalg.norm(end - begin)) / speed, angle / 0.5)))
    t = np.linspace(0, 1, n)
    s = t * t * (3 - 2 * t)
    turns = Slerp([0, 1], Rotation.concatenate([before, turn]))(s)
    return [(begin + x * (end - begin), turns[i]) for i, x in enumerate(s)]


class Stack:
    """A robot's file before an executor, the driver behind it, and the test in the place of the policy.

    The test is the clock, too, which follows the simulated robot's time: it goes on with each pose that comes, and
    waits for a node that has fallen behind. A machine that is busy slows everything down and changes nothing else.
    """

    def __init__(self, ros: Graph, process: subprocess.Popen[bytes], robot: Path, checkpoint: str) -> None:
        path = ROOT / "checkpoints" / checkpoint
        self.ros, self.process, self.spec, self.file = ros, process, read_spec(path), robot_file.read(robot)
        self.frames = RobotFrames(self.file, self.spec.base_pose)
        self.poses: list[Stamped] = []
        self.targets: list[Stamped] = []
        self.ready: list[bool] = []
        self.fingers: list[float] = []
        self.said: dict[str, Status] = {}
        self.clock_ns = START_NS
        node = self.node = ros.add(Node("policy"))
        self._clock = node.create_publisher(Clock, topics.CLOCK, topics.COMMAND_QOS)
        self._chunks = node.create_publisher(JointTrajectory, topics.ACTION_CHUNK, topics.COMMAND_QOS)
        values = {"robot": str(robot), "checkpoint": str(path), "enabled": True, "use_sim_time": True}
        self.executor: ExecutorNode = ros.add(ExecutorNode([Parameter(name, value=values[name]) for name in values]))
        # Deep: all poses count, and a test may be busy for a while.
        deep = QoSProfile(depth=1000)
        node.create_subscription(PoseStamped, topics.CURRENT_POSE, self._on_pose, deep)
        node.create_subscription(PoseStamped, topics.TARGET_POSE, self._on_target, deep)
        node.create_subscription(
            Bool, "franka_driver/ready", lambda msg: self.ready.append(msg.data), topics.DESCRIPTION_QOS
        )
        node.create_subscription(JointState, topics.JOINT_STATES, self._on_joints, 5)
        node.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_status, topics.DIAGNOSTICS_QOS)
        self.until(lambda: self.ready[-1:] == [True] and self.clock_ns > START_NS + 100 * TICK_NS)

    def _on_pose(self, msg: PoseStamped) -> None:
        pose = messages.pose_from_msg(msg)
        if self.clock_ns - min(pose[0], self.executor.now_ns()) <= SLACK_NS:
            self.poses.append(pose)
            self.clock_ns += TICK_NS
        self._clock.publish(messages.clock_to_msg(self.clock_ns))

    def _on_target(self, msg: PoseStamped) -> None:
        self.targets.append(messages.pose_from_msg(msg))

    def _on_joints(self, msg: JointState) -> None:
        self.fingers += msg.position[7:8]

    def _on_status(self, msg: Any) -> None:
        self.said |= {status.name: status for status in messages.diagnostics_from_msg(msg)}

    def until(self, condition: Callable[[], Any]) -> Any:
        return self.ros.spin_until(condition, timeout=120)

    def wait(self, seconds: float) -> None:
        """Of the robot's time."""
        self.wait_until(self.clock_ns + round(seconds * 1e9))

    def wait_until(self, time_ns: int) -> None:
        self.until(lambda: self.clock_ns >= time_ns)

    @property
    def hand(self) -> Pose:
        """In the policy's frame."""
        position, quaternion = self.frames.to_policy(*self.frames.hand(*self.poses[-1][1:]))
        return position, Rotation.from_quat(quaternion)

    def send(self, rows: Array, frame: str = "") -> None:
        """What a policy answers to the newest pose."""
        chunk = ActionChunk(self.poses[-1][0], rows, self.spec.period_ns)
        self._chunks.publish(messages.chunk_to_msg(chunk, frame or self.executor.frame_id))

    def go(self, position: Array, turn: Rotation) -> None:
        """To a pose in the policy's frame, on a straight way and gently, by chunks; then holds."""
        for _ in range(200):
            here, turned = self.hand
            way, angle = position - here, (turn * turned.inv()).as_rotvec()
            if np.linalg.norm(way) < 0.005 and np.linalg.norm(angle) < 0.03:
                break
            self.send(np.tile([*shortened(0.3 * way, 0.025), *shortened(0.3 * angle, 0.15), 0.0], (8, 1)))
            self.wait(0.2)
        else:
            raise AssertionError(f"the hand is {way} m and {angle} rad from where it is to go: {self.said}")
        self.send(np.zeros((1, 7)))
        self.wait(0.5)

    def play(self, chunks: Sequence[tuple[int, Array]]) -> None:
        """Chunks with the control steps that they were made at, and what is left of the last one."""
        began_ns, period_ns = self.clock_ns, self.spec.period_ns
        for step, rows in chunks:
            self.wait_until(began_ns + step * period_ns)
            self.send(rows)
        self.wait(len(rows) * period_ns / 1e9)


@contextmanager
def stack(folder: Path, checkpoint: str) -> Iterator[Stack]:
    """franka_fci as it is shipped, but for where this arm stands, and its end effector."""
    content = yaml_file.load(SHIPPED)
    content["tool"] = FLANGE
    content["base"]["xyz"] = NEARER.tolist()
    for corner in ("low", "high"):
        content["limits"][corner] = (content["limits"][corner] + NEARER).tolist()
    robot = folder / "franka.yaml"
    robot.write_text(yaml.safe_dump(content))
    with graph() as ros, driver() as process:
        Client(ros, process).go(START, DOWN)  # the arm begins high above
    with graph() as ros, driver("use_sim_time:=true") as process:
        yield Stack(ros, process, robot, checkpoint)
        assert process.poll() is None


def shortened(vector: Array, length: float) -> Array:
    return vector * min(1.0, length / max(float(np.linalg.norm(vector)), 1e-9))


@dataclass
class Episode:
    """Of the simulator, in the policy's frame: where the hand began and ended, and chunks with the control steps that
    they were made at."""

    begin: Pose
    end: Pose
    chunks: list[tuple[int, Array]]


def recorded_episodes(n: int, lead_steps: int) -> list[Episode]:
    """With at least n chunks of the shipped policy of the can's task, begun lead_steps before the end of the one
    before."""
    from diffusion_ros import checkpoint
    from diffusion_ros.control.observation import Frame
    from diffusion_ros.control.policy_controller import PolicyController
    from diffusion_ros.models.policy import Policy
    from diffusion_ros.simulators.arm import Simulation

    policy = Policy(checkpoint.load(ROOT / "checkpoints/can_state.pt", kind="policy"))
    spec, simulation = policy.spec, Simulation("can", ())
    episodes: list[Episode] = []
    while sum(len(episode.chunks) for episode in episodes) < n:
        controller = PolicyController(policy, 0, lead_steps)
        simulation.reset(100_000 + len(episodes))
        hands: list[Pose] = []
        chunks: list[tuple[int, Array]] = []
        while not simulation.success:
            step, frame = len(hands), simulation.observe(images=False)
            hands.append((frame["robot0_eef_pos"], Rotation.from_quat(frame["robot0_eef_quat"])))
            controller.push(Frame(step * spec.period_ns, {name: frame[name] for name in spec.input_names}))
            if controller.needs_chunk(step * spec.period_ns):
                chunks.append((step, controller.chunk().rows))
            simulation.step(chunks[-1][1][step - chunks[-1][0]].clip(spec.action_low, spec.action_high))
        episodes.append(Episode(hands[0], hands[-1], chunks))
    simulation.close()
    return episodes


def tracking(sent: Sequence[tuple[int, Array, Array]], poses: Sequence[tuple[int, Array, Array]]) -> dict[str, float]:
    """How the arm kept to its targets: the lag [s] at which the rms distance [m] is least, that, and others."""
    t0 = sent[0][0]
    t = np.array([(stamp - t0) / 1e9 for stamp, *_ in sent])
    s = np.array([(stamp - t0) / 1e9 for stamp, *_ in poses])
    targets, positions = np.array([p for _, p, _ in sent]), np.array([p for _, p, _ in poses])

    def distances(lag: float) -> Array:
        at = np.stack([np.interp(t + lag, s, axis) for axis in positions.T], axis=1)
        result: Array = np.linalg.norm(at - targets, axis=1)
        return result

    def rms(values: Array) -> float:
        return float(np.sqrt(np.mean(values**2)))

    lag = min(np.arange(0.0, 0.5, 0.005), key=lambda lag: rms(distances(lag)))
    near = np.searchsorted(s, t + lag).clip(0, len(s) - 1)
    turns = [
        (Rotation.from_quat(q) * Rotation.from_quat(poses[i][2]).inv()).magnitude()
        for (_, _, q), i in zip(sent, near, strict=True)
    ]
    return {
        "lag": float(lag),
        "rms": rms(distances(lag)),
        "max": float(distances(lag).max()),
        "rms_rad": rms(np.array(turns)),
        "ahead": float(distances(0.0).max()),
        "seconds": float(t[-1]),
        "poses": len(poses) / float(s[-1] - s[0]),
        "speed": float(np.percentile(np.linalg.norm(np.diff(targets, axis=0), axis=1), 99) * RATE),
    }


def test_the_makers_own_client_sees_the_same_arm(simulator: None) -> None:
    """franka-rs and franka-sim have one author: libfranka, with bindings of Franka's own, has another."""
    if not (PACKAGES / "pylibfranka").is_dir():
        pytest.skip(f"no pylibfranka in {PACKAGES}")
    script = f"""
import json, pylibfranka
robot = pylibfranka.Robot({HOST!r}, pylibfranka.RealtimeConfig.kIgnore)
state = robot.read_once()
print(json.dumps([list(state.q), list(state.O_T_EE)]))
"""
    for _ in range(60):  # the simulator may still be starting
        run = subprocess.run([sys.executable, "-c", script], env=_environment(), capture_output=True, text=True)
        if run.returncode == 0:
            break
    joints, pose = (np.array(values) for values in json.loads(run.stdout.splitlines()[-1]))
    matrix = pose.reshape(4, 4).T  # column by column
    with graph() as ros, driver() as process:
        client = Client(ros, process)
        client.until(lambda: len(client.joints.position) == 9)
        position, turn = client.at
        np.testing.assert_allclose(client.joints.position[:7], joints, atol=1e-3)
        np.testing.assert_allclose(position, matrix[:3, 3], atol=1e-3)
        np.testing.assert_allclose(turn.as_matrix(), matrix[:3, :3], atol=1e-3)


def followed(stack: Stack, spans: Sequence[tuple[int, int]]) -> dict[str, float]:
    """How the arm kept to its targets between these times [ns], where it never was to stop by itself."""
    stack.wait(0.6)
    assert False not in stack.ready[stack.ready.index(True) :], stack.said["franka_driver"].summary
    assert "refused" not in stack.said["franka_driver"].summary, stack.said["franka_driver"].summary
    sent = [target for target in stack.targets if any(begin <= target[0] < end for begin, end in spans)]
    assert len(sent) > 0.9 * RATE * sum(end - begin for begin, end in spans) / 1e9
    result = tracking(sent, stack.poses)
    print({name: round(value, 4) for name, value in result.items()})
    return result


def test_chunks_of_a_policy_are_followed(simulator: None, tmp_path: Path) -> None:
    # As the policy's node makes them: early by the arm's latency, and 0.1 s for picture and inference.
    episodes = recorded_episodes(100, math.ceil((robot_file.read(SHIPPED).action.latency + 0.1) * 20))
    with stack(tmp_path, "can_state.pt") as robot:
        spans = []
        for episode in episodes:
            robot.go(*episode.begin)
            began_ns = robot.clock_ns
            robot.play(episode.chunks)
            spans.append((began_ns, robot.clock_ns))
            # There is no scene: what carried the can there bears nothing here, and goes higher.
            assert np.linalg.norm(robot.hand[0] - episode.end[0]) < 0.25
            assert np.linalg.norm(robot.hand[0] - episode.begin[0]) > 0.4
        result = followed(robot, spans)
        assert min(robot.fingers) < 0.005 and max(robot.fingers) > 0.035, "the policy grasps and lets go"
    assert result["rms"] < 0.010
    assert result["lag"] < 0.3


def test_plans_are_followed(simulator: None, tmp_path: Path) -> None:
    from diffusion_ros import checkpoint
    from diffusion_ros.control.hand_follower import ArmFollower, arm_state
    from diffusion_ros.models.hand_planner import make_planner

    planner = make_planner(checkpoint.load(ROOT / "checkpoints/arm_planner.pt", kind="planner", task="arm"))
    rng = np.random.default_rng(100_000)
    with stack(tmp_path, "arm_planner.pt") as robot, ThreadPoolExecutor(1) as pool:
        period_ns = robot.spec.period_ns
        level = Rotation.from_quat([1.0, 0.0, 0.0, 0.0])
        robot.go(np.array([-0.04, -0.1, 1.02]), level)
        spans = []
        for seed in range(100_000, 100_010):
            here, turned = robot.hand
            goal = here
            while np.linalg.norm(goal - here) < 0.35:
                goal = rng.uniform([-0.1, -0.45, 0.95], [0.08, 0.25, 1.05])
            turn = Rotation.from_rotvec([0, 0, rng.uniform(-0.5, 0.5)]) * level
            ends = arm_state(here, turned.as_quat(), 0.08), arm_state(goal, turn.as_quat())
            planned = pool.submit(planner.plan, *ends, seed=seed)
            robot.until(planned.done)
            follower = ArmFollower(planned.result().best, robot.spec.rate)
            began_ns = robot.clock_ns
            # As the planner's node does: a chunk for each control step, from where the hand is then.
            for step in range(follower.steps + robot.spec.n_action_steps // 3):
                robot.wait_until(began_ns + step * period_ns)
                here, turned = robot.hand
                robot.send(follower.rows(step, here, turned.as_quat(), 10))
            spans.append((began_ns, robot.clock_ns))
            assert np.linalg.norm(robot.hand[0] - goal) < 0.05
        result = followed(robot, spans)
    assert result["rms"] < 0.010
    assert result["lag"] < 0.3


def test_what_is_refused_moves_nothing(client: Client) -> None:
    here, turn = client.at
    wrong: dict[str, Callable[[], None]] = {
        "m from the hand, at most": lambda: client.send(here + [0, 0.3, 0], turn),
        "finite numbers expected": lambda: client.send(here * np.nan, turn),
        "'base' expected": lambda: client.send(here + [0, 0.01, 0], turn, frame="world"),
    }

    def refused(send: Callable[[], None], rule: str) -> bool:
        send()
        client.wait(2)
        return rule in client.status.summary

    for rule, send in wrong.items():
        client.until(lambda send=send, rule=rule: refused(send, rule))
        assert "\n" not in client.status.summary and client.status.level == 2
        assert client.moved(here) < 1e-3
    client.go(here + [0, 0.05, 0], turn)
    assert client.moved(here + [0, 0.05, 0]) < 5e-3


def test_after_a_reflex_a_person_must_ask(client: Client) -> None:
    here, turn = client.at
    push(client, np.array([0, 0, -0.1]))
    # Its 1 kHz loop stands still, too: the robot misses more than 20 of its commands.
    client.process.send_signal(signal.SIGSTOP)
    client.ros.spin(0.5)
    client.process.send_signal(signal.SIGCONT)
    client.until(lambda: client.ready[-1] is False)
    client.until(lambda: "~/recover" in client.status.summary)
    assert "communication_constraints_violation" in client.status.summary and client.status.level == 2
    client.wait(20)
    stands = client.at[0]
    for _ in range(50):
        client.send(stands + [0, 0, 0.03], turn)
        client.pause()
    assert client.moved(stands) < 1e-3 and client.ready[-1] is False
    answer = client.call("recover")
    assert answer.success, answer.message
    client.until(lambda: client.ready[-1] is True)
    client.wait(50)
    assert client.moved(stands) < 1e-3, "it moves at a new target only"
    client.go(here, turn)
    assert client.moved(here) < 5e-3


def push(client: Client, offset: Array) -> None:
    """Sets the arm in motion, and leaves it there."""
    here, turn = client.at
    for position, rotation in straight(here, turn, here + offset, turn, 0.1)[:40]:
        client.send(position, rotation)
        client.pause()


def test_a_policy_that_is_wrong_moves_nothing(simulator: None, tmp_path: Path) -> None:
    with stack(tmp_path, "can_state.pt") as robot:
        here, rows = robot.poses[-1][1], np.tile([0.0, 0.02, 0.0, 0.0, 0.0, 0.0, 0.0], (8, 1))
        wrong = {
            "eef_dy of row 0 is 0.3": (rows * 15, ""),
            "is nan, a finite number": (rows * np.nan, ""),
            "in the frame 'camera'": (rows, "camera"),
        }
        for rule, (bad, frame) in wrong.items():

            def refused(rule: str = rule, bad: Array = bad, frame: str = frame) -> bool:
                robot.send(bad, frame)
                robot.wait(0.1)
                return rule in robot.said["executor"].summary

            robot.until(refused)
            robot.wait(0.3)
            assert np.linalg.norm(robot.poses[-1][1] - here) < 1e-3
        robot.send(rows)
        robot.wait(0.8)
        moved = robot.poses[-1][1] - here
        assert moved[1] > 0.02 and abs(moved[0]) < 0.005 and abs(moved[2]) < 0.005


def test_after_a_reflex_a_policy_waits_for_a_person(simulator: None, tmp_path: Path) -> None:
    with stack(tmp_path, "can_state.pt") as robot:

        def ask(row: Sequence[float]) -> None:
            """For 0.1 s; then the next one."""
            robot.send(np.tile([*row, 0.0, 0.0, 0.0, 0.0], (8, 1)))
            robot.wait(0.1)

        for _ in range(8):
            ask((0.0, 0.02, 0.0))
        robot.process.send_signal(signal.SIGSTOP)
        robot.ros.spin(0.5)
        robot.process.send_signal(signal.SIGCONT)
        robot.until(lambda: robot.ready[-1] is False)
        for _ in range(5):
            ask((0.0, 0.0, 0.0))
        stands = robot.poses[-1][1]
        robot.targets.clear()
        for _ in range(15):
            ask((0.0, 0.0, 0.02))
        assert not robot.targets, "or it would move when it is recovered"
        assert np.linalg.norm(robot.poses[-1][1] - stands) < 1e-3
        assert "franka_driver/ready: false" in robot.said["executor"].summary
        assert "~/recover" in robot.said["franka_driver"].summary
        answer = robot.ros.call(robot.node, Trigger, "franka_driver/recover", Trigger.Request())
        assert answer.success, answer.message
        for _ in range(10):
            ask((0.0, 0.0, 0.02))
        assert np.linalg.norm(robot.targets[0][1] - stands) < 0.005, "the target begins where the hand is"
        moved = robot.poses[-1][1] - stands
        assert moved[2] > 0.03 and np.linalg.norm(moved[:2]) < 0.005
        assert robot.ready[-1] is True and "refused" not in robot.said["franka_driver"].summary


def test_stop_and_the_end_of_the_driver_are_no_faults(simulator: None) -> None:
    with graph() as ros, driver() as process:
        client = Client(ros, process)
        push(client, np.array([0, 0.1, 0]))
        assert client.call("stop").success
        client.until(lambda: client.ready[-1] is False)
        client.until(lambda: client.status.values.get("mode") == "idle")
        assert "stopped by ~/stop" in client.status.summary and client.status.values["errors"] == "none"
        assert client.call("recover").success
        client.until(lambda: client.ready[-1] is True)
        push(client, np.array([0, -0.1, 0]))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    with graph() as ros, driver() as process:
        client = Client(ros, process)  # which waits for an arm that is ready
        assert client.ready == [True] or client.ready == [False, True]


def test_the_hand_opens_and_closes(client: Client) -> None:
    client.until(lambda: len(client.joints.position) == 9)
    for width in (0.0, 0.08, 0.03):

        def there(width: float = width) -> bool:
            client.width(width)
            client.wait(10)
            return bool(np.allclose(client.joints.position[7:], width / 2, atol=2e-3))

        client.until(there)
