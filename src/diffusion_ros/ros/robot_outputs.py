"""How an arm's driver is told where the hand is to be: as a pose, a twist, a trajectory of joints, or joint positions.

Each output says what holding is: the same pose again, a twist of zeros, a trajectory that ends where the arm can stop
and then nothing, the same positions again. Targets are the hand's, in the driver's base frame; drivers are told of the
tool. Stamps are now.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped, Twist, TwistStamped
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros.control.frames import RobotFrames
from diffusion_ros.control.kinematics import Arm
from diffusion_ros.control.targets import Target, on_course, shortened
from diffusion_ros.robot_file import RobotFile
from diffusion_ros.ros import messages
from diffusion_ros.ros.hand_source import DescribedArm
from diffusion_ros.ros.runner import RunnableNode
from diffusion_ros.ros.sole_publisher import SolePublisher

Array = NDArray[np.float64]
Preview = Callable[[float], Sequence[Target]]
"""Targets from now on, so many seconds apart, until the hand stands still."""

POINT_SECONDS = 0.05
"""Between two points of a trajectory."""
_FIRST_POINT = 2
"""Of a trajectory. Where it comes sooner than the one before it did, the controller is behind, and makes up for that on
the way to this point: the farther it is, the less speed that takes."""
MAX_JOINTS_AGE = 0.5
"""s: joints that were heard of so long ago are not where the arm is."""
JOINT_SPEED = 2.0
"""rad/s of a joint at most, or what the description says if that is less."""
MISSED = 0.005, 0.05
"""Metres and radians that joint positions may miss a target by; beyond them the target waits for the arm."""
_UNEVEN = 0.004
"""m that a target may be from where it would be had those before gone on evenly, a period of the output apart; at low
rates as far as the limit of acceleration says."""
_RESTS = 2
"""Targets that rest at the beginning: a soft arm hangs some millimetres beside what its driver was told before. That
is to be no part of the first step."""
_ACCELERATION_SECONDS = 0.02
"""s over which a target's acceleration is averaged."""
_FAREWELL_SECONDS = 1.0


class RobotOutput(ABC):
    """The one publisher of an arm's commands."""

    kind: Any
    """Of its messages."""
    goes_on = False
    """Whether a driver may go on with the last word for ever, so that one stop that is lost is too few."""
    smoothed = 1.0
    """Of the limits of speed, so much for targets: a controller that goes by splines is faster between its points, and
    one that is told no stamps goes on whenever a message arrives, now earlier and now later."""
    springs = False
    """Whether the driver holds the arm at the target as on a spring, so that it does not quite get there."""
    goes_back = False
    """Whether a driver that has not been ready goes to what it was told meanwhile, wherever the arm was moved to."""

    def __init__(self, node: RunnableNode, robot: RobotFile, frames: RobotFrames) -> None:
        self.node, self.robot, self.frames = node, robot, frames
        self.topic = robot.action.topic
        self.now_ns = 0
        """The stamp of what goes out: the time that targets are reckoned for."""
        self.publisher = SolePublisher(node, self.kind, self.topic)

    def conflict(self) -> str:
        """'' or who else commands the arm."""
        return self.publisher.conflict()

    def deaf(self) -> str:
        """'' or that nobody listens."""
        deaf = self.publisher.deaf()
        return f"{deaf}, the driver {self.robot.driver} expected" if deaf else ""

    def missing(self) -> str:
        """'' or what is still needed before anything can be sent."""
        return ""

    def place(self, position: Array, rotation: Rotation) -> tuple[Array, Rotation]:
        """Where the first target is to be, of a hand that is measured there (3) m."""
        return position, rotation

    def restart(self, position: Array, rotation: Rotation) -> None:  # noqa: B027
        """The next targets begin at this place of the hand, and have nothing to do with those before."""

    def renew(self) -> None:  # noqa: B027
        """Another chunk decides from now on."""

    def fell_short(self) -> tuple[str, Array, Array] | None:
        """Why the arm could not go all the way to the last target, and how far it went, as the hand's position (3) and
        quaternion (4); None where it could."""
        return None

    @abstractmethod
    def send(
        self, target: Target, seconds: float, hand: tuple[Array, Rotation], lagged: Target, preview: Preview
    ) -> None:
        """Tells the driver. seconds: since the last; hand: as measured; lagged: the target that it answers."""

    @abstractmethod
    def hold(self, target: Target, seconds: float, preview: Preview) -> None:
        """Says hold, in every period of one. The target may still be braking."""

    def close(self) -> None:  # noqa: B027
        """The last word; what drivers hold by themselves needs none."""


class _Pace:
    """Of targets that a driver goes to at once: none is farther from the last than the limits allow in two periods of
    the output (one where they have no stamps), also where the last is older, and none leaves an even course by much."""

    def __init__(self, robot: RobotFile, stamped: bool = True) -> None:
        """stamped: whether a driver knows when a target was made. Where it only sees that it came, one that is late
        goes no farther than another: the next may come sooner for it."""
        self._limits, self._rate = robot.limits, robot.action.rate
        self._most = (2.0 if stamped else 1.0) / robot.action.rate
        self._low, self._high = np.array(robot.limits.low), np.array(robot.limits.high)
        self._uneven = max(_UNEVEN, robot.limits.linear_acceleration / self._rate**2)
        self.begin(np.zeros(3), Rotation.identity())

    def begin(self, position: Array, rotation: Rotation) -> None:
        """At rest at a place of the hand, (3) m."""
        self._position, self._rotation, self._velocity = position, rotation, np.zeros(3)
        self._rests = _RESTS

    def step(self, position: Array, rotation: Rotation, seconds: float) -> tuple[Array, Rotation]:
        """As far towards position (3) m and rotation as may be gone `seconds` after the last."""
        if self._rests:
            self._rests -= 1
            return self._position, self._rotation
        period = 1.0 / self._rate
        seconds = min(seconds, self._most)
        step = shortened(position - self._position, self._limits.linear * seconds)
        # One that is late may have waited: it is on its course wherever that went since.
        went = on_course(step, self._velocity, min(seconds, period), seconds)
        uneven = self._uneven * min(1.0, seconds / period) ** 2
        step = went * self._velocity + shortened(step - went * self._velocity, uneven)
        # An even course may lead out of the box. From outside it only goes inwards.
        low, high = np.minimum(self._low, self._position), np.maximum(self._high, self._position)
        step = np.clip(self._position + step, low, high) - self._position
        if seconds > 0.0:
            self._velocity = step / went
        turn = shortened((rotation * self._rotation.inv()).as_rotvec(), self._limits.angular * seconds)
        self._position, self._rotation = self._position + step, Rotation.from_rotvec(turn) * self._rotation
        return self._position, self._rotation

    def behind(self, target: Target) -> bool:
        """Whether what was sent last is not yet where the target is."""
        off = float((target.rotation * self._rotation.inv()).magnitude())
        return off > 1e-6 or float(np.linalg.norm(target.position - self._position)) > 1e-6


class _Lead:
    """Where an arm on a spring must be sent that obeys inertia^2 x'' + lag x' = sent - x, so that x is the target."""

    def __init__(self, lag: float, inertia: float) -> None:
        """lag, inertia: s"""
        self._lag, self._mass = lag, inertia**2
        self.begin()

    def begin(self) -> None:
        """The target rests."""
        self._velocity = np.zeros(6)
        self._acceleration = np.zeros(6)

    def ahead(self, target: Target, seconds: float) -> tuple[Array, Rotation]:
        """Position (3) m and rotation to be sent for a target, `seconds` after the last."""
        velocity = np.concatenate((target.velocity, target.angular_velocity))
        if seconds > 0.0:
            # A target's acceleration jumps with each row.
            share = 1.0 - math.exp(-seconds / _ACCELERATION_SECONDS)
            self._acceleration += share * ((velocity - self._velocity) / seconds - self._acceleration)
            self._velocity = velocity
        way = self._lag * velocity + self._mass * self._acceleration
        return target.position + way[:3], Rotation.from_rotvec(way[3:]) * target.rotation


class PoseOutput(RobotOutput):
    """Where the tool is to be."""

    kind = PoseStamped
    springs = goes_back = True

    def __init__(self, node: RunnableNode, robot: RobotFile, frames: RobotFrames) -> None:
        super().__init__(node, robot, frames)
        self._pace = _Pace(robot)
        self._lead = _Lead(robot.action.lag, robot.action.inertia)

    def restart(self, position: Array, rotation: Rotation) -> None:
        self._pace.begin(position, rotation)
        self._lead.begin()

    def _publish(self, target: Target, seconds: float) -> None:
        ahead, turned = self._lead.ahead(target, seconds)
        # Not out of the box, which what is ahead of the target may leave though the target does not.
        low = np.minimum(self.robot.limits.low, target.position)
        high = np.maximum(self.robot.limits.high, target.position)
        position, rotation = self._pace.step(np.clip(ahead, low, high), turned, seconds)
        at, quaternion = self.frames.tool(position, np.asarray(rotation.as_quat()))
        frame = self.robot.base.frame
        self.publisher.publish(messages.pose_to_msg(at, quaternion, self.now_ns, frame))

    def send(
        self, target: Target, seconds: float, hand: tuple[Array, Rotation], lagged: Target, preview: Preview
    ) -> None:
        self._publish(target, seconds)

    def hold(self, target: Target, seconds: float, preview: Preview) -> None:
        self._publish(target, seconds)


class TwistOutput(RobotOutput):
    """How the tool is to move: as the target does, and back to it where it is off."""

    goes_on = True

    def __init__(self, node: RunnableNode, robot: RobotFile, frames: RobotFrames) -> None:
        self.kind = TwistStamped if robot.action.type == "TwistStamped" else Twist
        super().__init__(node, robot, frames)

    def _publish(self, linear: Array, angular: Array, quaternion: Array) -> None:
        limits, action = self.robot.limits, self.robot.action
        linear, angular = self.frames.tool_twist(quaternion, linear, angular)
        linear, angular = shortened(linear, limits.linear), shortened(angular, limits.angular)
        if action.axes == "tool":
            _, turned = self.frames.tool(np.zeros(3), quaternion)
            back = Rotation.from_quat(turned).inv()
            linear, angular = back.apply(linear), back.apply(angular)
        if self.kind is Twist:
            self.publisher.publish(messages.twist_to_msg(linear, angular))
            return
        frame = self.robot.base.frame if action.axes == "base" else self.robot.tool.frame
        self.publisher.publish(messages.stamped_twist_to_msg(linear, angular, self.now_ns, frame))

    def send(
        self, target: Target, seconds: float, hand: tuple[Array, Rotation], lagged: Target, preview: Preview
    ) -> None:
        gain = self.robot.action.gain
        off = lagged.position - hand[0]
        turned = (lagged.rotation * hand[1].inv()).as_rotvec()
        quaternion = np.asarray(hand[1].as_quat())
        self._publish(target.velocity + gain * off, target.angular_velocity + gain * turned, quaternion)

    def hold(self, target: Target, seconds: float, preview: Preview) -> None:
        self._publish(target.velocity, target.angular_velocity, target.quaternion)

    def close(self) -> None:
        self._publish(np.zeros(3), np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]))
        self.publisher.wait_until_heard(_FAREWELL_SECONDS)


class JointOutput(RobotOutput):
    """What joint outputs have in common: inverse kinematics that goes on from the last positions."""

    def __init__(self, node: RunnableNode, robot: RobotFile, frames: RobotFrames, described: DescribedArm) -> None:
        super().__init__(node, robot, frames)
        self._described = described
        self._joints: Array | None = None
        """As commanded last."""
        self._measured: Array | None = None
        self._heard_at = 0.0
        self._short = ""

    def missing(self) -> str:
        if self._described.missing():
            return self._described.missing()
        if self._measured is None:
            return f"joints {', '.join(self.robot.joints)}: nothing received"
        silent = self.node.seconds() - self._heard_at
        return f"{self.robot.joint_states}: silent for {silent:.2f} s" if silent > MAX_JOINTS_AGE else ""

    @property
    def measured(self) -> Array | None:
        """The joints as they are (n), kept up by whoever listens to joint_states."""
        return self._measured

    @measured.setter
    def measured(self, joints: Array) -> None:
        self._measured, self._heard_at = joints, self.node.seconds()

    def place(self, position: Array, rotation: Rotation) -> tuple[Array, Rotation]:
        """By the joints and the description, by which the arm is sent on: a driver's own pose may be some millimetres
        beside it."""
        assert self._measured is not None
        at, quaternion = self.frames.hand(*self._arm.forward(self._measured))
        return at, Rotation.from_quat(quaternion)

    def restart(self, position: Array, rotation: Rotation) -> None:
        self._joints = None

    @property
    def _arm(self) -> Arm:
        assert self._described.arm is not None
        return self._described.arm

    def _follow(self, target: Target, seconds: float) -> Array:
        """Goes on to the target's joint positions."""
        if self._joints is None:
            assert self._measured is not None
            self._joints = self._arm.rest = self._measured
        if seconds > 0.0:
            self._joints, self._short = self._tracked(self._joints, target, seconds)
        return self._joints

    def fell_short(self) -> tuple[str, Array, Array] | None:
        if not self._short or self._joints is None:
            return None
        return self._short, *self.frames.hand(*self._arm.forward(self._joints))

    def _tracked(self, joints: Array, target: Target, seconds: float) -> tuple[Array, str]:
        position, quaternion = self.frames.tool(target.position, target.quaternion)
        found = self._arm.track(position, quaternion, joints, seconds, JOINT_SPEED)
        far = found.position_error > MISSED[0] or found.angle_error > MISSED[1]
        return found.q, found.reason if far else ""


class JointPositionsOutput(JointOutput):
    """Where the joints are to be."""

    kind = Float64MultiArray
    goes_back = True
    smoothed = 0.8

    def __init__(self, node: RunnableNode, robot: RobotFile, frames: RobotFrames, described: DescribedArm) -> None:
        super().__init__(node, robot, frames, described)
        self._pace = _Pace(robot, stamped=False)

    def restart(self, position: Array, rotation: Rotation) -> None:
        super().restart(position, rotation)
        self._pace.begin(position, rotation)

    def _paced(self, target: Target, seconds: float) -> Array:
        position, rotation = self._pace.step(target.position, target.rotation, seconds)
        return self._follow(replace(target, position=position, rotation=rotation), seconds)

    def send(
        self, target: Target, seconds: float, hand: tuple[Array, Rotation], lagged: Target, preview: Preview
    ) -> None:
        self.publisher.publish(messages.numbers_to_msg(self._paced(target, seconds)))

    def hold(self, target: Target, seconds: float, preview: Preview) -> None:
        if self._joints is None:
            return
        if target.moving or self._pace.behind(target):
            self._paced(target, seconds)
        self.publisher.publish(messages.numbers_to_msg(self._joints))


class JointTrajectoryOutput(JointOutput):
    """The whole rest of the chunk and how it ends, anew after each point's time and with each chunk."""

    kind = JointTrajectory
    smoothed = 0.85

    def __init__(self, node: RunnableNode, robot: RobotFile, frames: RobotFrames, described: DescribedArm) -> None:
        super().__init__(node, robot, frames, described)
        self._ends = True
        """Whether the last trajectory that went is the one to brake, or none did."""
        self._since = float("inf")
        """s since it went."""

    def renew(self) -> None:
        self._since = float("inf")  # at once, while the controller is still where the target is

    def send(
        self, target: Target, seconds: float, hand: tuple[Array, Rotation], lagged: Target, preview: Preview
    ) -> None:
        self._follow(target, seconds)
        self._since += seconds
        if self._since > POINT_SECONDS - 0.5 * seconds:
            self._since, self._ends = 0.0, False
            self._publish(preview(POINT_SECONDS))

    def hold(self, target: Target, seconds: float, preview: Preview) -> None:
        """The way to a stop, once; then nothing."""
        if self._joints is None:
            return
        if target.moving:
            # So that a chunk which comes meanwhile goes on from there.
            self._follow(target, seconds)
        if not self._ends:
            self._since, self._ends = float("inf"), True
            self._publish(preview(POINT_SECONDS))

    def _publish(self, targets: Sequence[Target]) -> None:
        assert self._joints is not None
        joints, way = self._joints, [self._joints]
        for target in targets:
            joints, _ = self._tracked(joints, target, POINT_SECONDS)
            way.append(joints)
        places = np.array(way)
        # Central differences, and at rest in the end.
        speeds = np.zeros_like(places)
        speeds[1:-1] = (places[2:] - places[:-2]) / (2 * POINT_SECONDS)
        times = [round(i * POINT_SECONDS * 1e9) for i in range(len(places))]
        first = min(_FIRST_POINT, len(places) - 1)
        trajectory = times[first:], places[first:], speeds[first:]
        self.publisher.publish(messages.joint_trajectory_to_msg(self.robot.joints, *trajectory))

    def close(self) -> None:
        self.publisher.wait_until_heard(_FAREWELL_SECONDS)


def make_output(
    node: RunnableNode, robot: RobotFile, frames: RobotFrames, described: DescribedArm | None
) -> RobotOutput:
    """The output that the robot's file names."""
    kind = robot.action.output
    if kind == "pose":
        return PoseOutput(node, robot, frames)
    if kind == "twist":
        return TwistOutput(node, robot, frames)
    assert described is not None  # robot_file sees to that
    if kind == "joint_positions":
        return JointPositionsOutput(node, robot, frames, described)
    return JointTrajectoryOutput(node, robot, frames, described)
