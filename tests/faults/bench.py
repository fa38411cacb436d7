"""A robot, its policy and its executor in one process, in a time of their own.

The nodes are the real ones and take real messages, but nobody spins them: the bench hands every message over and turns
the clocks, a millisecond at a time. So a second of a robot at 1 kHz takes no second, and nothing depends on how busy
the machine is. What a middleware does on the way is not tested here; the tests of nodes on a bus do that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fake_policy
import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros.nodes.executor_node import ExecutorNode
from diffusion_ros.nodes.policy_node import PolicyNode
from diffusion_ros.robot import FINGERS, WORLD_FRAME, optical_frame
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.listener import Listener
from diffusion_ros.ros.runner import RunnableNode
from diffusion_ros.spec import TensorSpec

PERIOD = 0.05
PERIOD_NS = 50_000_000
START_NS = 1_700_000_000_000_000_000
SENSORS = b"the robot"
CAMERAS = fake_policy.CAMERAS

RANGES = {
    "robot0_eef_pos": ((-2.0, -2.0, -2.0), (2.0, 2.0, 2.0)),
    "robot0_gripper_qpos": ((-0.02, -0.06), (0.06, 0.02)),
    "object_pos": ((-2.0, -2.0, -2.0), (2.0, 2.0, 2.0)),
}


def ranged(inputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """Inputs of the fake policy with ranges such as a trained one has."""
    made = []
    for tensor in inputs:
        low, high = RANGES.get(tensor.name, ((), ()))
        made.append(TensorSpec(tensor.name, tensor.shape, tensor.dtype, tensor.unit, tensor.frame, low, high))
    return tuple(made)


@dataclass
class Clock:
    """Seconds since the bench began; what `time.monotonic` and the nodes' ROS clocks say."""

    seconds: float = 1000.0

    @property
    def ns(self) -> int:
        return START_NS + round((self.seconds - 1000.0) * 1e9)

    def now(self) -> Any:
        """As rclpy's clocks answer."""
        return type("Now", (), {"nanoseconds": self.ns})()


@contextmanager
def own_time(clock: Clock) -> Iterator[None]:
    """`time.monotonic` is the bench's."""
    real = time.monotonic
    time.monotonic = lambda: clock.seconds
    try:
        yield
    finally:
        time.monotonic = real


def info(sender: bytes) -> dict[str, Any]:
    """What rclpy says of a message, as far as a monitor asks."""
    return {"publisher_gid": {"data": sender}}


def deliver(listener: Listener[Any], msg: Any, sender: bytes) -> None:
    """Hands a message over as rclpy would, serialised where the listener wants it so."""
    listener.take(msg if listener._max_bytes is None else serialize_message(msg), info(sender))


def parameters(**values: Any) -> list[Parameter]:
    return [Parameter(name, value=value) for name, value in values.items()]


@dataclass
class Sent:
    """A command as the robot gets it."""

    seconds: float
    row: np.ndarray
    frame_id: str


@dataclass
class Robot:
    """What the drivers publish; a fault changes it. Rates in Hz, times in seconds."""

    position: np.ndarray = field(default_factory=lambda: np.array([0.1, -0.2, 0.3]))
    pose_hz: float = 20.0
    joints_hz: float = 20.0
    object_hz: float = 20.0
    camera_hz: float = 20.0
    jitter: float = 0.0
    """Of poses: up to so much earlier or later."""
    burst: int = 1
    """Poses that come at once, with the stamps they should have had."""
    frozen_stamp: bool = False
    silent: set[str] = field(default_factory=set)
    """Of pose, joints, object and the cameras."""
    offset: dict[str, float] = field(default_factory=dict)
    """Of the stamps, by the same names."""
    change: dict[str, Callable[[Any], Any]] = field(default_factory=dict)
    """By name: what becomes of a message before it is sent; None: nothing is sent."""
    moves: bool = True
    """Whether it does what it is told, seven tenths of it as an arm does."""
    frozen_camera: bool = False


class Bench:
    """Policy, executor and robot. `run` lets time pass; `moved` is what was commanded meanwhile."""

    def __init__(
        self,
        folder: Path,
        pixels: bool = False,
        executor_only: bool = False,
        checkpoint: Path | None = None,
        **changes: Any,
    ) -> None:
        """checkpoint: None for that of the fake policy. changes: parameters, `policy_<name>` and `executor_<name>`.
        rclpy must have been initialised."""
        self.clock = Clock()
        self._stack = ExitStack()
        self._stack.enter_context(own_time(self.clock))
        self.robot = Robot()
        self.hangs = False
        """Whether the policy is not waited for."""
        self.commands: list[Sent] = []
        self.chunks: list[JointTrajectory] = []
        self.tamper: Callable[[JointTrajectory], JointTrajectory | None] | None = None
        """What becomes of the policy's chunks on their way."""
        inputs = (
            (*fake_policy.images(), *fake_policy.LOW_DIM) if pixels else (*fake_policy.LOW_DIM, *fake_policy.OBJECT)
        )
        self.checkpoint = checkpoint or fake_policy.save(folder / f"{pixels}.pt", fake_policy.spec(ranged(inputs)))
        self.changes = changes
        self.pixels = pixels
        self.policy = None if executor_only else self._policy()
        self.executor = self.new_executor()
        self._due = dict.fromkeys(("pose", "joints", "object", "camera", "tick", "second"), 0.0)
        self._rng = np.random.default_rng(0)
        self._picture = 0
        self._stamp_ns = 0

    def _own(self, node: RunnableNode) -> None:
        """Gives a node the bench's clock."""
        node.get_clock = lambda: self.clock

    def _policy(self) -> PolicyNode:
        chosen = {k.removeprefix("policy_"): v for k, v in self.changes.items() if k.startswith("policy_")}
        node = PolicyNode(parameters(**{"checkpoint": str(self.checkpoint), "mode": "realtime", **chosen}))
        self._own(node)
        node._chunk_publisher.publish = self._chunk
        return node

    def new_executor(self, stops: Path | None = None) -> ExecutorNode:
        """Another one takes the place of the executor, as after its death."""
        chosen = {k.removeprefix("executor_"): v for k, v in self.changes.items() if k.startswith("executor_")}
        given = {"checkpoint": str(self.checkpoint), "enabled": True, "checkpoint_limits": True, **chosen}
        node = ExecutorNode(parameters(**given), stops)
        self._own(node)
        node._command_publisher.publish = self._command
        self.executor = node
        return node

    def close(self) -> None:
        """The time is the machine's again."""
        self._stack.close()
        if self.policy is not None:
            self.policy.close()
            self.policy.destroy_node()
        self.executor.destroy_node()

    # What goes out

    def _chunk(self, msg: JointTrajectory) -> None:
        self.chunks.append(msg)

    def _command(self, msg: JointTrajectory) -> None:
        _, row = messages.command_from_msg(msg)
        self.commands.append(Sent(self.clock.seconds, row, msg.header.frame_id))
        if self.robot.moves:
            self.robot.position = self.robot.position + 0.7 * row[:3]
        deliver(self.executor._commands, msg, b"executor")

    def send_chunk(self, msg: JointTrajectory, sender: bytes = b"policy") -> None:
        deliver(self.executor._chunks, msg, sender)

    # What comes in

    def send(self, name: str, msg: Any, sender: bytes = SENSORS) -> None:
        """A message of the robot's, to all who listen to it; first the policy, whose answer an executor may need."""
        change = self.robot.change.get(name)
        if change is not None:
            msg = change(msg)
        for one in msg if isinstance(msg, list) else [msg]:
            if one is None:
                continue
            topic = {"pose": topics.EEF_POSE, "joints": topics.JOINT_STATES, "object": topics.OBJECT_POSE}.get(
                name, topics.image(name)
            )
            simulator = self.policy._source.simulator if self.policy is not None else None
            if simulator is not None and topic in simulator.listeners:
                deliver(simulator.listeners[topic], one, sender)
            if name == "pose":
                deliver(self.executor._poses, one, sender)

    def stamp(self, name: str) -> int:
        return self.clock.ns + round(self.robot.offset.get(name, 0.0) * 1e9)

    def pose_msg(self, position: Any = None, frame: str = WORLD_FRAME, stamp_ns: int | None = None) -> PoseStamped:
        place = self.robot.position if position is None else position
        return messages.pose_to_msg(place, (0, 0, 0, 1), self.stamp("pose") if stamp_ns is None else stamp_ns, frame)

    def joints_msg(self, values: Any = (0.02, -0.02), names: Any = FINGERS) -> JointState:
        return messages.joint_state_to_msg(names, values, np.zeros(len(names)), self.stamp("joints"))

    def object_msg(self, position: Any = (0.0, 0.1, 0.8)) -> PoseStamped:
        return messages.pose_to_msg(position, (0, 0, 0, 1), self.stamp("object"), WORLD_FRAME)

    def picture_msg(self, camera: str, size: int = 84) -> Image:
        shade = 0 if self.robot.frozen_camera else self._picture % 200
        image = np.full((size, size, 3), 20 + shade, np.uint8)
        return messages.image_to_msg(image, self.stamp(camera), optical_frame(camera))

    # Time

    def run(self, seconds: float) -> None:
        """Lets time pass, a millisecond at a time."""
        for _ in range(round(seconds * 1000)):
            self.clock.seconds += 0.001
            self._sense()
            self._think()
            if self._is_due("tick", 100.0):
                self.executor._tick()
            if self._is_due("second", 1.0):
                self.executor._refresh()
                if self.policy is not None:
                    self.policy._refresh()

    def _is_due(self, what: str, hz: float) -> bool:
        if self.clock.seconds < self._due[what]:
            return False
        # By the schedule and not by when it was met: 137 Hz are 137 Hz.
        start = self._due[what] if self.clock.seconds - self._due[what] < 1 / hz else self.clock.seconds
        self._due[what] = start + 1 / hz
        return True

    def _sense(self) -> None:
        """Sensors of one rate are due in the same millisecond, and stamped alike, as in the simulator."""
        robot = self.robot
        if self.pixels and self._is_due("camera", robot.camera_hz):
            self._picture += 1
            for camera in CAMERAS:
                if camera not in robot.silent:
                    self.send(camera, self.picture_msg(camera))
        if self._is_due("joints", robot.joints_hz) and "joints" not in robot.silent:
            self.send("joints", self.joints_msg())
        if not self.pixels and self._is_due("object", robot.object_hz) and "object" not in robot.silent:
            self.send("object", self.object_msg())
        if self._is_due("pose", robot.pose_hz / robot.burst) and "pose" not in robot.silent:
            for k in reversed(range(robot.burst)):
                if not (robot.frozen_stamp and self._stamp_ns):
                    self._stamp_ns = self.stamp("pose") - round(k / robot.pose_hz * 1e9)
                self.send("pose", self.pose_msg(stamp_ns=self._stamp_ns))
            if robot.jitter:
                self._due["pose"] += self._rng.uniform(-robot.jitter, robot.jitter)

    def _think(self) -> None:
        """The policy's thread finishes what it is at; its chunks are delivered."""
        if self.policy is not None:
            waited = 0
            while self.policy.thinking and not self.hangs:
                time.sleep(0.0002)
                waited += 1
                assert waited < 100_000, "the policy thinks for ever"
        while self.chunks:
            msg: JointTrajectory | None = self.chunks.pop(0)
            if self.tamper is not None:
                msg = self.tamper(msg)
            if msg is not None:
                self.send_chunk(msg)

    # What came of it

    def since(self, seconds: float) -> list[Sent]:
        """The commands of the last so many seconds."""
        return [sent for sent in self.commands if sent.seconds > self.clock.seconds - seconds]

    def moved(self, seconds: float) -> float:
        """Metres that were commanded in the last so many seconds."""
        return float(sum(np.linalg.norm(sent.row[:3]) for sent in self.since(seconds)))

    def says(self) -> str:
        """Policy and executor, in one line."""
        self.executor._refresh()
        said = [self.executor.diagnostics.summary]
        if self.policy is not None:
            self.policy._refresh()
            said.append(f"policy: {self.policy.diagnostics.summary}")
        return "; ".join(said)
