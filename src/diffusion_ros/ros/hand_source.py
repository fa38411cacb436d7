"""Where a robot's hand is, whatever its drivers publish: poses, transforms, or joints and a description."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from diffusion_ros.control import kinematics
from diffusion_ros.control.frames import RobotFrames
from diffusion_ros.robot_file import HAND, Description, PoseSource, RobotFile
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.listener import MAX_BYTES, JointFilter, Listener
from diffusion_ros.ros.runner import RunnableNode
from diffusion_ros.ros.transforms import Transforms

Array = NDArray[np.float64]
Moved = Callable[[int, Array, Array], object]

JOINT_SLACK = 0.1
"""rad or m that a joint may be measured beyond its limit."""
LATCHED_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=100,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
"""Descriptions and transforms that never change: published once, and by several, so that with a queue of one the last
would hide the others."""
_SETTLING = 5.0
"""s of the wall's time after the first description that fits. Those that come within them were there before, in any
order; those that do not fit are of another robot."""


def read_arm(robot: RobotFile, text: str) -> kinematics.Arm:
    """The arm of a robot's file by its URDF. Raises ValueError, one line, where they do not fit, or without MuJoCo."""
    try:
        return kinematics.Arm.from_urdf(text, robot.joints, robot.base.frame, robot.tool.frame)
    except (ValueError, ModuleNotFoundError) as error:
        raise ValueError(messages.printable(str(error))) from None


class DescribedArm:
    """The arm's kinematics, as soon as its description has come, and from then on.

    A gripper may publish a description of its own on the same topic. One that does not fit never takes the arm away;
    after the start it is a reason to hold, until one comes that fits. Raises ValueError where the description is a file
    that cannot be used.
    """

    def __init__(self, node: RunnableNode, robot: RobotFile) -> None:
        self._node, self._robot = node, robot
        self.arm: kinematics.Arm | None = None
        self.fault = ""
        """Why a description that came cannot be used."""
        self._settled = float("inf")
        """When the start is over [s]."""
        where = robot.description
        assert where is not None  # robot_file sees to that
        self._where: Description = where
        if where.file:
            try:
                with open(where.file) as file:
                    self._take(file.read())
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"{where.file}: {error}") from None
            if self.fault:
                raise ValueError(f"{where.file}: {self.fault}")
        else:
            node.create_subscription(String, where.topic, self._on_description, LATCHED_QOS)

    def missing(self) -> str:
        """'' or why the arm must not move by what is known of it."""
        if self.arm is not None and not self.fault:
            return ""
        name = topics.shown(self._node, self._where.topic)
        if self.arm is not None:
            return f"{name}: another came, which does not fit: {self.fault}"
        return f"{name}: {self.fault}" if self.fault else f"{name}: no robot description received"

    def _on_description(self, msg: String) -> None:
        self._take(msg.data)

    def _take(self, text: str) -> None:
        now = time.monotonic()
        try:
            arm = read_arm(self._robot, text)
        except ValueError as error:
            if self.arm is None or now > self._settled:
                self.fault = str(error)
            return
        if self.arm is None:
            self._settled = now + _SETTLING
        self.arm, self.fault = arm, ""


class HandSource:
    """Calls `moved(stamp [ns], position (3) m, quaternion (4) xyzw)` with the hand in the base frame.

    The stamp is the driver's less the latency of the robot's file. `refused` takes why a message is not used, one line.
    described: needed for source fk. min_gap_ns: a pose that is stamped less than that after the last one is read, but
    not handed on, as a driver's 1000 in a second cost more than they tell.
    """

    def __init__(
        self,
        node: RunnableNode,
        robot: RobotFile,
        frames: RobotFrames,
        moved: Moved,
        refused: Callable[[messages.MessageError], object],
        described: DescribedArm | None = None,
        min_gap_ns: int = 0,
    ) -> None:
        self._node, self._robot, self._frames = node, robot, frames
        self._min_gap_ns = min_gap_ns
        self._given_ns: int | None = None
        """Stamp of the last pose that was handed on, the driver's."""
        self._moved, self._described = moved, described
        self.source: PoseSource = robot.poses[HAND]
        self._latency_ns = round(self.source.latency * 1e9)
        self._transforms = Transforms()
        self.joints: Array | None = None
        """fk: the arm's joints as they came last (n)."""
        qos = topics.SENSOR_QOS if self.source.reliable else topics.BEST_EFFORT_QOS
        self._filter = JointFilter(robot.joints, whole=True)
        self._listeners: list[Listener[Any]] = []

        def listen(kind: Any, callback: Callable[[Any], object], **options: Any) -> None:
            topic = self.source.topic
            answer = lambda error, msg: refused(error)  # noqa: E731
            self._listeners.append(Listener(node, kind, topic, callback, answer, qos, **options))

        if self.source.source == "pose":
            listen(PoseStamped, self._on_pose)
        elif self.source.source == "fk":
            listen(JointState, self._on_joints, max_bytes=MAX_BYTES, concerns=self._filter)
        else:
            if messages.TFMessage is None:
                raise ValueError(f"{robot.path}: observations.hand.source: tf needs tf2_msgs, which is not installed")
            for topic, quality in ((self.source.topic, qos), (f"{self.source.topic}_static", LATCHED_QOS)):
                node.create_subscription(
                    messages.TFMessage, topic, partial(self._on_transforms, refused, topic), quality, raw=False
                )

    @property
    def name(self) -> str:
        """Of the topic, for messages."""
        return topics.shown(self._node, self.source.topic)

    def conflict(self) -> str:
        """'' or who else publishes what only one may."""
        return next(filter(None, (listener.conflict() for listener in self._listeners)), "")

    def missing(self) -> str:
        """What to say where nothing has come."""
        if self.source.source == "fk":
            assert self._described is not None
            return self._described.missing() or f"{self.name}: {self._filter.nothing()}"
        if self.source.source == "tf":
            return f"{self.name}: no transforms from {self.source.parent} to {self.source.child} received"
        return f"{self.name}: nothing received"

    def _wanted(self, stamp_ns: int) -> bool:
        """Whether a pose stamped so is to be handed on."""
        if self._given_ns is not None and 0 <= stamp_ns - self._given_ns < self._min_gap_ns:
            return False
        self._given_ns = stamp_ns
        return True

    def _give(self, stamp_ns: int, position: Array, quaternion: Array) -> None:
        self._moved(stamp_ns - self._latency_ns, *self._frames.hand(position, quaternion))

    def _on_pose(self, msg: PoseStamped) -> None:
        stamp_ns, position, quaternion = messages.pose_from_msg(msg)
        messages.check_frame(msg.header, self._robot.base.frame)
        if self._wanted(stamp_ns):
            self._give(stamp_ns, position, quaternion)

    def _on_joints(self, msg: JointState) -> None:
        assert self._described is not None
        arm = self._described.arm
        if arm is None:
            return
        if wrong := self._described.missing():
            raise messages.MessageError(wrong)
        stamp_ns, positions, _ = messages.joint_state_from_msg(msg, self._robot.joints)
        if wrong := arm.outside(positions, JOINT_SLACK):
            raise messages.MessageError(wrong)
        self.joints = positions
        if self._wanted(stamp_ns):
            self._give(stamp_ns, *arm.forward(positions))

    def _on_transforms(self, refused: Callable[[messages.MessageError], object], topic: str, msg: Any) -> None:
        self._transforms.take(msg.transforms, always=topic != self.source.topic)
        try:
            self._take_transforms()
        except messages.MessageError as error:
            refused(error)

    def _take_transforms(self) -> None:
        """What is missing yet is waited for; most of what is on /tf is none of the hand's."""
        try:
            stamp_ns, position, quaternion = self._transforms.pose(self.source.parent, self.source.child)
        except messages.MessageError:
            raise
        except ValueError:
            return
        if stamp_ns and stamp_ns != self._given_ns and self._wanted(stamp_ns):
            self._give(stamp_ns, position, quaternion)
