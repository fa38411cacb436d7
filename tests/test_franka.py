"""The Franka's driver over the robot's real protocol: franka-rs against franka-sim, which keeps the robot's limits.

All on the loopback interface. `make franka` makes the environments; without them the tests skip. Nothing is timed: on a
machine that is busy the simulated time stretches, so targets are sent in step with the poses that come.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import QoSProfile
from ros_graph import Graph, graph
from scipy.spatial.transform import Rotation, Slerp
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float64MultiArray
from std_srvs.srv import Trigger

from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.messages import Status

Array = NDArray[np.float64]
Pose = tuple[Array, Rotation]

ROOT = Path(__file__).parents[1]
PACKAGES = Path(os.environ.get("DIFFUSION_ROS_FRANKA", ROOT / ".venv-franka"))
SIMULATOR = Path(os.environ.get("DIFFUSION_ROS_FRANKA_SIM", ROOT / ".venv-franka-sim")) / "bin/python"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not (PACKAGES / "franka").is_dir(), reason=f"no franka-rs in {PACKAGES}: make franka"),
    pytest.mark.skipif(not SIMULATOR.exists(), reason=f"no {SIMULATOR}: make franka"),
]

RATE = 50
"""Targets a second."""
HOST = "127.0.0.31"
"""Its ports are the protocol's own: an address that nobody else takes."""
START = np.array([0.38, -0.01, 0.26])
"""Where the flange begins: the training's hand, with the arm nearer to the table. Where the training stands, the can's
bin is at the end of an arm's reach."""
DOWN = Rotation.from_matrix(np.array([[1, -1, 0], [-1, -1, 0], [0, 0, -np.sqrt(2)]]) / np.sqrt(2))
"""And how: the hand points down, its fingers open along y."""
TOOL = np.array([0.0, 0.0, -0.1034])
"""The training's hand in the flange, which points down."""


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
def driver() -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "diffusion_ros.nodes.franka_driver_node", "--ros-args"]
    command += ["-p", f"host:={HOST}", "-p", "realtime:=ignore"]
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


class SmoothTargets:
    """Rows of a policy as smooth poses, 20 ms apart: the motion of the arm that it was trained on.

    robosuite's controller in free space is a critically damped spring: x'' = k (goal - x) - 2 sqrt(k) x', k = 150 /s^2.
    """

    def __init__(self, begin: Pose) -> None:
        self.targets: list[Pose] = []
        self._position, self._turn = begin
        self._velocity, self._rate = np.zeros(3), np.zeros(3)
        self._steps = 0

    @property
    def pose(self) -> Pose:
        return self._position, self._turn

    def add(self, hand: Pose, row: Array) -> None:
        """The next of 20 rows (7) in a second; hand: where the hand was that it was made for."""
        k, dt = 150.0, 0.002
        goal, goal_turn = hand[0] + row[:3], Rotation.from_rotvec(row[3:6]) * hand[1]
        for _ in range(25):
            if self._steps % 10 == 0:
                self.targets.append(self.pose)
            self._steps += 1
            self._velocity = self._velocity + dt * (k * (goal - self._position) - 2 * np.sqrt(k) * self._velocity)
            away = (goal_turn * self._turn.inv()).as_rotvec()
            self._rate = self._rate + dt * (k * away - 2 * np.sqrt(k) * self._rate)
            self._position = self._position + dt * self._velocity
            self._turn = Rotation.from_rotvec(dt * self._rate) * self._turn


def recorded_chunks(n: int) -> list[list[tuple[Pose, Array]]]:
    """At least n chunks of the shipped policy of the can's task, episode by episode: hand and row of each step."""
    from diffusion_ros import checkpoint
    from diffusion_ros.models.policy import Policy
    from diffusion_ros.simulators.arm import Simulation
    from training.evaluation.rollout import roll_out

    policy = Policy(checkpoint.load(ROOT / "checkpoints/can_state.pt", kind="policy"))
    steps: list[tuple[Pose, Array]] = []

    class Recorder(Simulation):
        def step(self, row: Array) -> None:
            hand = self.observe(images=False)
            turn = Rotation.from_quat(hand["robot0_eef_quat"])
            steps.append(((hand["robot0_eef_pos"], turn), np.array(row)))
            super().step(row)

    simulation = Recorder("can", ())
    episodes: list[list[tuple[Pose, Array]]] = []
    for result in roll_out(policy, simulation, 100, 100_000):
        assert len(steps) == result.steps
        episodes.append(list(steps))
        steps.clear()
        if sum(len(episode) // policy.spec.n_action_steps for episode in episodes) >= n:
            break
    simulation.close()
    return episodes


def in_base(hand: Pose, first: Pose, home: Pose) -> Pose:
    """A pose of the training's hand as one of the flange, such that a hand at `first` is a flange at `home`."""
    return home[0] + hand[0] - first[0], hand[1] * first[1].inv() * home[1]


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


def replay(client: Client, ways: Sequence[Sequence[Pose]]) -> dict[str, float]:
    """Sends all ways, goes gently from the end of one to the begin of the next, and says how the arm kept to them."""
    sent: list[tuple[int, Array, Array]] = []
    for way in ways:
        client.go(*way[0])
        client.sent.clear()
        client.follow(way)
        sent += client.sent
        assert client.ready[-1] is True and "refused" not in client.status.summary, client.status.summary
    client.wait(60)
    result = tracking(sent, [pose for pose in client.poses if pose[0] >= sent[0][0]])
    print({name: round(value, 4) for name, value in result.items()}, client.status.values)
    return result


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


def test_chunks_of_a_policy_are_followed(client: Client) -> None:
    episodes = recorded_chunks(100)
    home = START, DOWN
    ways = []
    first = episodes[0][0][0]
    for episode in episodes:
        targets = SmoothTargets(episode[0][0])
        for hand, row in episode:
            targets.add(hand, row)
        ways.append([in_base(pose, first, home) for pose in targets.targets])
    result = replay(client, ways)
    assert result["rms"] < 0.010
    assert result["lag"] < 0.4


def test_plans_are_followed(client: Client) -> None:
    from diffusion_ros import checkpoint
    from diffusion_ros.control.hand_follower import ArmFollower, arm_state
    from diffusion_ros.models.hand_planner import make_planner

    planner = make_planner(checkpoint.load(ROOT / "checkpoints/arm_planner.pt", kind="planner", task="arm"))
    spec = planner.spec
    rng = np.random.default_rng(100_000)
    base = np.array([-0.56, 0.0, 0.912])
    home = START, DOWN
    first = START + TOOL + base, Rotation.from_quat([1.0, 0.0, 0.0, 0.0])
    hand: Pose = first
    ways = []
    for seed in range(100_000, 100_010):
        goal = hand[0]
        while np.linalg.norm(goal - hand[0]) < 0.35:
            goal = base + rng.uniform([0.3, -0.4, 0.09], [0.5, 0.4, 0.19])
        turn = Rotation.from_rotvec([0, 0, rng.uniform(-0.5, 0.5)]) * first[1]
        start = arm_state(hand[0], hand[1].as_quat(), 0.08)
        plan = planner.plan(start, arm_state(goal, turn.as_quat()), seed=seed).best
        follower = ArmFollower(plan, spec.rate)
        # In a closed loop with the arm that the planner was trained on.
        targets = SmoothTargets(hand)
        for step in range(follower.steps + 10):
            hand = targets.pose
            row = follower.rows(step, hand[0], hand[1].as_quat(), 1)[0]
            targets.add(hand, np.clip(row, spec.action_low, spec.action_high))
        hand = targets.pose
        assert np.linalg.norm(hand[0] - goal) < 0.05, "the plan itself leads there"
        ways.append([in_base(pose, first, home) for pose in targets.targets])
    result = replay(client, ways)
    assert result["rms"] < 0.010
    assert result["lag"] < 0.4


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
