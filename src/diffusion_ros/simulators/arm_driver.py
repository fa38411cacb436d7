"""What a robot's driver makes of commands, around the simulated arm: its rules, its controller, what it was told.

An :class:`ArmDriver` takes poses, twists, trajectories or joint positions as one of the drivers does that a robot's
file can name, refuses what that one refuses (`driver_rules`), and counts both. No ROS here: times are int nanoseconds
of the arm (`DrivenArm.time_ns`), poses are of the driver's tool in its base frame.

======== ========================== ===========================================================================
driver   output                     what it is
======== ========================== ===========================================================================
crisp    pose                       CRISP's Cartesian impedance; no time-out, one publisher or none
fci      pose                       this package's driver of a Franka arm: the same, for targets in its frame
servo    twist, pose                MoveIt Servo: stamps, caps, singularities; it halts after 0.1 s of silence
jtc      joint_trajectory           joint_trajectory_controller
forward  joint_positions            forward_command_controller; no time-out
kortex   twist                      ros2_kortex's twist controller: in the tool's axes, and for ever
======== ========================== ===========================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from diffusion_ros.control.targets import on_course
from diffusion_ros.simulators import driver_rules
from diffusion_ros.simulators.driven_arm import (
    Array,
    CartesianImpedance,
    Controller,
    DrivenArm,
    JointTracking,
    Pose,
    compose,
    conjugate,
    multiply,
    rotation_vector,
    unit_quaternion,
)
from diffusion_ros.simulators.joint_setpoints import ForwardPositions, ServoLoop, TrajectoryInterpolator

SERVO_CAPS = 0.4, 0.8
"""m/s and rad/s of Servo's default configuration."""
SINGULARITY, UR_SINGULARITY = (17.0, 30.0), (100.0, 200.0)
"""Condition numbers from which on Servo is slower, and halts: its default configuration's, and ur_moveit_config's. The
simulated arm has 12 in the middle of its tasks, and with six joints more than 50 at their edges."""
KORTEX_CAPS = 0.5, 0.87
"""m/s and rad/s: the Gen3's own limits for a twist (its user guide: 50 cm/s, 50 deg/s)."""
_WATCHED_NS = 10_000_000
"""Between two looks at where a controller's own set-point has got to."""
_STALE_NS = 100_000_000
"""Servo's default: a command that is older is none."""


class Refused(ValueError):
    """A command that the driver does not take; one line."""


@dataclass
class CommandedMotion:
    """How fast and how evenly the hand's target moved, as it was commanded since `restart`."""

    period: float
    """s between two commands."""
    linear: float = 0.0
    """m/s, the greatest."""
    angular: float = 0.0
    """rad/s"""
    step: float = 0.0
    """m between two targets, the greatest."""
    jump: float = 0.0
    """m between a target and where it would be had it gone on evenly, the greatest."""
    jump_at: float = 0.0
    """s after the start, when that was."""
    commands: int = 0

    def __post_init__(self) -> None:
        self._last: tuple[float, Pose] | None = None
        self._velocity = np.zeros(3)
        self._began = 0.0

    def restart(self, pose: Pose, now: float) -> None:
        """The target is this, and rests."""
        self.linear = self.angular = self.step = self.jump = self.jump_at = 0.0
        self.commands, self._began = 0, now
        self._last, self._velocity = (now, pose), np.zeros(3)

    def target(self, pose: Pose, now: float, stamped: bool = True) -> None:
        """The target at a time [s]. stamped: by whoever made it. Else `now` is when it came, and where two come
        closer together than they were sent, that is not taken for a speed. A target that is late may have waited: it
        is on its course wherever that went between a period and now."""
        if self._last is not None:
            before, (position, quaternion) = self._last
            seconds = now - before if stamped else max(now - before, self.period)
            step = pose[0] - position
            went = on_course(step, self._velocity, min(seconds, self.period), seconds)
            distance = float(np.linalg.norm(step - self._velocity * went))
            if distance > self.jump:
                self.jump, self.jump_at = distance, now - self._began
            self.step = max(self.step, float(np.linalg.norm(step)))
            if seconds > 0.0:
                turned = rotation_vector(multiply(pose[1], conjugate(quaternion)))
                self.moved(step / seconds, turned / seconds)
                self._velocity = step / went
        self._last = now, pose

    def moved(self, linear: Array, angular: Array) -> None:
        """At velocities (3) m/s and (3) rad/s."""
        self.linear = max(self.linear, float(np.linalg.norm(linear)))
        self.angular = max(self.angular, float(np.linalg.norm(angular)))

    def report(self) -> dict[str, float | int]:
        """For a result."""
        return {
            "commands": self.commands,
            "max_linear_speed": round(self.linear, 4),
            "max_angular_speed": round(self.angular, 4),
            "largest_step": round(self.step, 5),
            "largest_jump": round(self.jump, 5),
            "largest_jump_at": round(self.jump_at, 3),
        }


class ArmDriver:
    """One driver. `base` and `tool`: what its frames are called; joints: its names of them, () where it needs none.

    A command that is not taken raises Refused, is counted in `refused`, and changes nothing.
    """

    def __init__(
        self,
        arm: DrivenArm,
        name: str,
        output: str,
        base: str,
        tool: str,
        joints: Sequence[str],
        rate: float,
        servo_caps: tuple[float, float] = SERVO_CAPS,
        servo_singularity: tuple[float, float] | None = None,
    ) -> None:
        """rate: commands a second that are expected [Hz]; servo_singularity: None for UR's with six joints, else
        Servo's own."""
        self.arm, self.name, self.output = arm, name, output
        self.base, self.tool, self.joints = base, tool, tuple(joints)
        self.command_type = driver_rules.POSE if output == "pose" else driver_rules.TWIST
        """Servo's, as if somebody had called ~/switch_command_type for it."""
        self.motion = CommandedMotion(1.0 / rate)
        self.refused: dict[str, int] = {}
        """Since `restart`: the first reason of each kind, and how many."""
        self._kinds: dict[str, str] = {}
        self._target: Pose = arm.tool_pose()
        self._impedance: CartesianImpedance | None = None
        self._servo: ServoLoop | None = None
        self._trajectory: TrajectoryInterpolator | None = None
        self._positions: ForwardPositions | None = None
        law: Controller
        if name in ("crisp", "fci"):
            self._impedance = law = CartesianImpedance()
        elif name == "kortex":
            # Its controller writes the last twist again in each cycle, whatever became of who sent it.
            caps, singular = KORTEX_CAPS, (1e9, 1e9)
            self._servo = ServoLoop(arm, *caps, singularity=singular, margin=0.0, timeout_ns=None)
        elif name == "servo":
            own = UR_SINGULARITY if len(arm.free) == 6 else SINGULARITY
            self._servo = ServoLoop(arm, *servo_caps, singularity=servo_singularity or own)
        elif name == "jtc":
            self._trajectory = TrajectoryInterpolator()
        else:
            self._positions = ForwardPositions()
        setpoints = self._servo or self._trajectory or self._positions
        if setpoints is not None:
            law = JointTracking(setpoints)
        arm.controller = law
        self.restart()

    def restart(self) -> None:
        """After the arm was reset: it holds where it is, and nothing was said yet."""
        self._target = self.arm.tool_pose()
        self.motion.restart(self._hand(self.setpoint()), self._now)
        self.refused, self._kinds = {}, {}

    @property
    def _now(self) -> float:
        return self.arm.time_ns * 1e-9

    @property
    def status(self) -> int | None:
        """MoveIt Servo's number, None of another driver."""
        return self._servo.status if self._servo is not None and self.name == "servo" else None

    def setpoint(self) -> Pose:
        """Where the tool is to be now."""
        if self._impedance is not None:
            return self._target
        return self.arm.pose_of(self._sampled())

    def _hand(self, tool: Pose) -> Pose:
        """The hand, which limits are of, for the tool that drivers know."""
        return compose(tool, self.arm.tool)

    def watch(self) -> None:
        """After each step of the arm: where has the set-point of a controller got to that interpolates by itself?"""
        if self.output in ("twist", "joint_trajectory") and self.arm.time_ns % _WATCHED_NS == 0:
            self.motion.target(self._hand(self.setpoint()), self._now)

    def _sampled(self) -> Array:
        setpoints = self._servo or self._trajectory or self._positions
        assert setpoints is not None
        return setpoints.sample(self.arm.time_ns)[0]

    # -- commands ---------------------------------------------------------------------------------------------------

    def pose(self, frame: str, stamp_ns: int, position: Sequence[float], quaternion: Sequence[float]) -> None:
        """A target; stamp_ns in the arm's time."""
        self._take(driver_rules.numbers("pose", (*position, *quaternion)))
        if self.name == "servo":
            self._take(self._of_servo(driver_rules.POSE, frame, stamp_ns))
        elif self.name == "fci":
            self._take(driver_rules.frame(frame, self.base))
        try:
            target = np.array(position, np.float64), unit_quaternion(quaternion)
        except ValueError as error:
            self.refuse(str(error))
        if self._impedance is not None:
            self._impedance.set_target(*target)
        elif self._servo is not None:
            self._servo.pose(*target, stamp_ns)
        self._target = target
        self.motion.commands += 1
        self.motion.target(self._hand(target), stamp_ns * 1e-9 if stamp_ns else self._now, bool(stamp_ns))

    def twist(self, frame: str, stamp_ns: int, twist: Sequence[float]) -> None:
        """(6) m/s and rad/s of the tool's origin. kortex: without frame and stamp, in the tool's axes."""
        assert self._servo is not None
        self._take(driver_rules.numbers("twist", twist))
        in_tool = self.name == "kortex"
        if not in_tool:
            self._take(self._of_servo(driver_rules.TWIST, frame, stamp_ns))
            in_tool = frame == self.tool
        self._servo.twist(twist, stamp_ns, in_tool)
        self.motion.commands += 1
        self.motion.moved(np.array(twist[:3]), np.array(twist[3:]))

    def trajectory(
        self,
        names: Sequence[str],
        start_ns: int,
        times_ns: Sequence[int],
        positions: Sequence[Sequence[float]],
        velocities: Sequence[Sequence[float]],
        accelerations: Sequence[Sequence[float]],
        efforts: Sequence[Sequence[float]],
    ) -> None:
        """Points at `times_ns` after `start_ns`, 0 for now."""
        interpolator, arm = self._trajectory, self.arm
        assert interpolator is not None
        points = zip(positions, velocities, accelerations, efforts, strict=True)
        lengths = [(len(p), len(v), len(a), len(e)) for p, v, a, e in points]
        last = velocities[-1] if velocities else ()
        self._take(driver_rules.trajectory(names, self.joints, times_ns, lengths, last, start_ns, arm.time_ns))
        numbers = [x for point in (*positions, *velocities, *accelerations) for x in point]
        self._take(driver_rules.numbers("trajectory", numbers))
        order = driver_rules.joint_order(names, self.joints)
        rows = np.array(positions, np.float64)[:, order]
        v = np.array(velocities, np.float64)[:, order] if all(velocities) else None
        a = np.array(accelerations, np.float64)[:, order] if all(accelerations) and v is not None else None
        interpolator.command(arm.time_ns, times_ns, rows, v, a, start_ns)
        self.motion.commands += 1
        # The speed that it asks for, by what is between its points.
        poses = [self._hand(arm.pose_of(row)) for row in rows]
        for (p, q), (before_p, before_q), seconds in zip(
            poses[1:], poses, np.diff(np.array(times_ns)) * 1e-9, strict=False
        ):
            self.motion.moved((p - before_p) / seconds, rotation_vector(multiply(q, conjugate(before_q))) / seconds)

    def positions(self, values: Sequence[float]) -> None:
        """(n) rad."""
        assert self._positions is not None
        self._take(driver_rules.forward_command(values, len(self.joints)))
        self._take(driver_rules.numbers("command", values))
        self._positions.command(values)
        self.motion.commands += 1
        self.motion.target(self._hand(self.arm.pose_of(np.array(values, np.float64))), self._now, stamped=False)

    def refuse(self, reason: str, who: str = "") -> NoReturn:
        """Counts a refusal, and raises Refused. who: 'gripper', else the driver itself."""
        text = f"{who or self.name}: {reason}"
        first = self._kinds.setdefault("".join(c for c in text if not c.isdigit()), text)
        self.refused[first] = self.refused.get(first, 0) + 1
        raise Refused(reason)

    def _take(self, reason: str) -> None:
        if reason:
            self.refuse(reason)

    def _of_servo(self, kind: int, frame: str, stamp_ns: int) -> str:
        reason = driver_rules.servo(kind, self.command_type, frame, stamp_ns, self.arm.time_ns, _STALE_NS)
        known = (self.base, self.tool) if kind == driver_rules.TWIST else (self.base,)
        if not reason and frame not in known:
            return f"frame {frame!r}: no transform to {self.base!r}"
        return reason
