"""Moves a robot's hand a little through the robot's own output, and notes when what came: for control/latency.

Nothing is sent before `run`. Whatever is wrong there ends the motion at once: the target brakes, holds, and no more is
sent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.executors import SingleThreadedExecutor
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CompressedImage, Image, JointState

from diffusion_ros.control.frames import RobotFrames
from diffusion_ros.control.picture_motion import PictureMotion
from diffusion_ros.control.pictures import PictureError
from diffusion_ros.control.small_motion import SmallMotion, sideways
from diffusion_ros.control.targets import Target, TargetGenerator
from diffusion_ros.robot_file import HAND, JointsSource, PictureSource, RobotFile
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.driven_robot import why_apart
from diffusion_ros.ros.gripper_output import GripperOutput
from diffusion_ros.ros.hand_source import DescribedArm, HandSource
from diffusion_ros.ros.listener import MAX_BYTES, JointFilter, Listener
from diffusion_ros.ros.readiness import OperatorButtons, Readiness
from diffusion_ros.ros.robot_outputs import POINT_SECONDS, JointOutput, make_output
from diffusion_ros.ros.runner import RunnableNode

Array = NDArray[np.float64]

_SILENT = 0.3
"""s without a pose, after which nobody knows where the hand is."""
_STILL_SECONDS, _STILL = 0.5, 0.002
"""A hand that has not moved by so much [m] for so long stands still."""
_RESTS = 5
"""Periods in which a target that has braked is said again: on a busy machine what is sent may be behind it."""
_SETTLE = 1.2
"""s of standing still behind the motion: what is late comes then."""
_AHEAD = 0.6
"""s of the motion that a trajectory tells in advance."""
_BRAKE = 0.3
"""Of the acceleration's limit, with which a trajectory ends."""
_GRIPPER_SECONDS = 2.5
"""Between two goals."""
_OPEN_CLOSE_OPEN = (-1.0, 1.0, -1.0)
_GRAPH_SECONDS = 0.5
"""Between two questions who else commands the arm: asking is slow."""
_MIN_POSE_GAP_NS = 4_000_000


@dataclass
class Stream:
    """Values and when they came."""

    stamps: list[int] = field(default_factory=list)
    """ns, less the latency of the robot's file."""
    values: list[Array] = field(default_factory=list)
    ages: list[float] = field(default_factory=list)
    """s from each of those stamps to when it was read; negative where the driver's clock is ahead."""
    refused: str = ""
    """Why the last message that could not be read could not."""


@dataclass
class Recording:
    """What came while the hand moved."""

    axis: Array = field(default_factory=lambda: np.zeros(3))
    """(3), of the motion, in the base frame."""
    command_stamps: list[int] = field(default_factory=list)
    """ns, of our clock."""
    commands: list[Array] = field(default_factory=list)
    """(3) m, of the hand."""
    hand: Stream = field(default_factory=Stream)
    """(3) m."""
    numbers: dict[str, Stream] = field(default_factory=dict)
    """By observation."""
    pictures: dict[str, PictureMotion] = field(default_factory=dict)
    """By camera. Stamps are as they came."""
    picture_ages: dict[str, list[float]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    """By camera: why its pictures cannot be read."""
    goals: list[int] = field(default_factory=list)
    """ns, when the gripper was sent to the other end."""


class LatencyProbe:
    """One robot. Raises ValueError, one line, where its file names what is not installed."""

    def __init__(self, node: RunnableNode, robot: RobotFile, gripper: bool) -> None:
        self._node = node
        # What is sent is the target itself: nothing is put ahead, and nothing made up for.
        self.robot = replace(robot, action=replace(robot.action, lag=0.0, inertia=0.0, gain=0.0, latency=0.0))
        self.recording = Recording()
        self._hand: tuple[Array, Rotation] | None = None
        self._came = 0.0
        self._recent: list[tuple[float, Array]] = []
        self._frames = RobotFrames(robot)
        described = DescribedArm(node, robot) if robot.description is not None and robot.needs_kinematics else None
        refused = lambda error: setattr(self.recording.hand, "refused", str(error))  # noqa: E731
        self._source = HandSource(
            node, robot, self._frames, self._on_hand, refused, described, min_gap_ns=_MIN_POSE_GAP_NS
        )
        self._output = make_output(node, self.robot, self._frames, described)
        self._listeners: list[Listener[Any]] = []
        if isinstance(self._output, JointOutput) and robot.poses[HAND].source != "fk":
            self._listen_to_arm(self._output)
        for name, source in robot.numbers.items():
            self._listen_to_numbers(name, source)
        for camera, picture in robot.pictures.items():
            self._listen_to_camera(camera, picture)
        self._gripper = GripperOutput(node, robot) if gripper else None
        self._readiness = Readiness(node, robot)
        self._stopped = ""
        self._buttons = (
            OperatorButtons(node, robot.buttons, lambda: None, self._on_stop) if robot.buttons is not None else None
        )
        self._targets = TargetGenerator(robot.limits, POINT_SECONDS, (), "commanded", robot.action.leash)
        self._others: tuple[float, str] = (-_GRAPH_SECONDS, "")
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(node)
        # Of the motion
        self._motion: SmallMotion | None = None
        self._start = np.zeros(3)
        self._phase = "idle"
        self._since = self._advanced = 0.0
        self._ticks = 0
        self._rests = 0
        """Periods in which the target has stood still."""
        self._goals = 0
        self._fault = self._unreachable = ""

    # What comes in

    def _on_hand(self, stamp_ns: int, position: Array, quaternion: Array) -> None:
        self._hand, self._came = (position, Rotation.from_quat(quaternion)), self._node.seconds()
        self._recent.append((self._came, position))
        while self._recent[0][0] < self._came - _STILL_SECONDS:
            self._recent.pop(0)
        if isinstance(self._output, JointOutput) and self._source.joints is not None:
            self._output.measured = self._source.joints
        self._keep(self.recording.hand, stamp_ns, position)

    def _keep(self, stream: Stream, stamp_ns: int, values: Array) -> None:
        if stream.stamps and stamp_ns <= stream.stamps[-1]:
            return
        stream.stamps.append(stamp_ns)
        stream.values.append(values)
        stream.ages.append((self._node.now_ns() - stamp_ns) / 1e9)

    def _listen_to_arm(self, output: JointOutput) -> None:
        joints = self.robot.joints

        def take(msg: JointState) -> None:
            output.measured = messages.joint_state_from_msg(msg, joints)[1]

        self._listen(JointState, self.robot.joint_states, take, lambda error: None, False, JointFilter(joints, True))

    def _listen_to_numbers(self, name: str, source: JointsSource) -> None:
        stream = self.recording.numbers[name] = Stream()
        scale, offset = np.array(source.scale), np.array(source.offset)
        latency_ns = round(1e9 * source.latency)

        def take(msg: JointState) -> None:
            stamp_ns, positions, _ = messages.joint_state_from_msg(msg, source.joints)
            self._keep(stream, stamp_ns - latency_ns, scale * positions + offset)

        refused = lambda error: setattr(stream, "refused", str(error))  # noqa: E731
        self._listen(JointState, source.topic, take, refused, source.reliable, JointFilter(source.joints, True))

    def _listen_to_camera(self, camera: str, source: PictureSource) -> None:
        motion = self.recording.pictures[camera] = PictureMotion()
        ages = self.recording.picture_ages[camera] = []
        read: Any = messages.compressed_image_from_msg if source.compressed else messages.image_from_msg

        def take(msg: Any) -> None:
            stamp_ns, picture = read(msg)
            ages.append((self._node.now_ns() - stamp_ns) / 1e9)
            try:
                motion.add(stamp_ns, picture)
            except PictureError as error:
                raise messages.MessageError(str(error)) from None

        refused = lambda error: self.recording.refused.__setitem__(camera, str(error))  # noqa: E731
        self._listen(CompressedImage if source.compressed else Image, source.topic, take, refused, source.reliable)

    def _listen(
        self,
        kind: Any,
        topic: str,
        take: Callable[[Any], None],
        refused: Callable[[Exception], object],
        reliable: bool,
        concerns: JointFilter | None = None,
    ) -> None:
        qos = topics.SENSOR_QOS if reliable else topics.BEST_EFFORT_QOS
        answer = lambda error, msg: refused(error)  # noqa: E731
        limit = None if concerns is None else MAX_BYTES
        self._listeners.append(Listener(self._node, kind, topic, take, answer, qos, max_bytes=limit, concerns=concerns))

    def _on_stop(self) -> None:
        self._stopped = "the operator's stop button was pressed"

    # Before it moves

    def spin(self, seconds: float) -> None:
        """Takes what comes for so long at most [s of the wall]."""
        self._executor.spin_once(timeout_sec=seconds)

    def seconds(self) -> float:
        """The robot's time [s]."""
        return self._node.seconds()

    def has_time(self) -> bool:
        """Whether it is known."""
        return not self._node.without_time()

    def blocked(self) -> str:
        """Why the robot must not move, or ''."""
        node = self._node
        if self._hand is None:
            refused = self.recording.hand.refused
            return node.without_time() or (f"{self._source.name}: {refused}" if refused else self._source.missing())
        silent = node.seconds() - self._came
        return (
            node.without_time()
            or self._stopped
            or (f"{self._source.name}: silent for {silent:.2f} s" if silent > _SILENT else "")
            or self._source.conflict()
            or self._output.conflict()
            or self._other_commanders()
            or self._output.missing()
            or self._readiness.reason()
            or self._output.deaf()
            or (self._gripper.conflict() or self._gripper.deaf() if self._gripper is not None else "")
            or (self._buttons.reason() if self._buttons is not None else "")
        )

    def _other_commanders(self) -> str:
        """By the graph: also those who are silent now and would answer the motion."""
        asked, found = self._others
        node = self._node
        if node.seconds() - asked < _GRAPH_SECONDS:
            return found
        name = node.resolve_topic_name(self._output.topic)
        own = node.get_name(), node.get_namespace()
        others = [
            f"{one.node_namespace.rstrip('/')}/{one.node_name}"
            for one in node.get_publishers_info_by_topic(name)
            if (one.node_name, one.node_namespace) != own
        ]
        found = ""
        if others:
            who = messages.printable(" and ".join(sorted(others)), 120)
            found = f"{topics.shown(node, self._output.topic)}: {who} publishes there too, no other commander expected"
        self._others = node.seconds(), found
        return found

    def restless(self) -> str:
        """Why the hand does not stand still, or ''."""
        places = np.array([position for _, position in self._recent])
        way = float(np.max(np.ptp(places, axis=0))) if len(places) else 0.0
        return f"the hand moves by {1000 * way:.1f} mm, one that stands still expected" if way > _STILL else ""

    def axis(self, amplitude: float) -> int:
        """Along which axis of the base the hand may move. Raises ValueError."""
        assert self._hand is not None
        return sideways(self._hand[0], amplitude, self.robot.limits)

    @property
    def position(self) -> Array:
        """Where the hand is (3) m."""
        assert self._hand is not None
        return self._hand[0]

    # The motion

    def run(self, motion: SmallMotion, axis: int, stop: Callable[[], bool]) -> str:
        """Moves, and the gripper after it. Returns '' or why it ended before its end."""
        assert self._hand is not None
        node = self._node
        self._motion = motion
        place = self._output.place(*self._hand)
        if apart := why_apart(place, self._hand, self.robot, self._source.name):
            return apart
        self._start = place[0].copy()
        self.recording.axis = np.eye(3)[axis]
        self._targets.start(*place)
        self._output.restart(*place)
        self._since = self._advanced = node.seconds()
        self._phase = "moving"
        timer = node.every(1.0 / self.robot.action.rate, self._tick)
        while self._phase != "over":
            self._executor.spin_once(timeout_sec=0.05)
            if stop():
                self._stopped = self._stopped or "stopped by a signal"
            if still := node.without_time():
                # Without time no target brakes: what holds by itself is told so in `close`.
                self._fault, self._phase = still, "over"
        node.destroy_timer(timer)
        self._output.close()
        return self._fault

    def close(self) -> None:
        self._executor.remove_node(self._node)
        self._executor.shutdown()

    def _tick(self) -> None:
        node, now = self._node, self._node.seconds()
        period = 1.0 / self.robot.action.rate
        elapsed = min(max(now - self._advanced, 0.2 * period), 3.0 * period)
        self._advanced = now
        if self._phase in ("moving", "settling", "gripping") and (why := self.blocked() or self._astray()):
            self._fault, self._phase = why, "braking"
        assert self._motion is not None and self._hand is not None
        t = now - self._since
        if self._phase == "moving" and t > self._motion.seconds:
            self._next("settling", now)
        elif self._phase == "settling" and t > _SETTLE:
            self._next("gripping" if self._gripper is not None else "over", now)
        if self._phase == "moving":
            target = self._move(t, elapsed)
            self.recording.command_stamps.append(node.now_ns())
            self.recording.commands.append(target.position)
            return
        target = self._targets.advance(elapsed, None, None, *self._hand)
        self._output.now_ns = self._node.now_ns()
        self._output.hold(target, elapsed, lambda step: self._targets.preview(np.zeros((0, 7)), step))
        self._rests = 0 if target.moving else self._rests + 1
        if self._phase == "braking" and self._rests > _RESTS:
            self._phase = "over"
        if self._phase == "gripping":
            self._grip(now, node.now_ns())

    def _next(self, phase: str, now: float) -> None:
        self._phase, self._since = phase, now

    def _move(self, t: float, elapsed: float) -> Target:
        assert self._motion is not None and self._hand is not None
        axis = self.recording.axis
        wanted = self._start + axis * self._motion.position(t)
        row = np.zeros(7)
        row[:3] = (wanted - self._targets.target().position) * (POINT_SECONDS / elapsed)
        self._ticks += 1
        target = self._targets.advance(elapsed, row, self._ticks, *self._hand)
        target = replace(target, velocity=axis * self._motion.velocity(t))
        self._output.now_ns = self._node.now_ns()
        self._output.send(target, elapsed, self._hand, target, partial(self._ahead, t, target))
        short = self._output.fell_short()
        self._unreachable = "" if short is None else short[0]
        return target

    def _ahead(self, t: float, target: Target, step: float) -> list[Target]:
        """The motion of the next moments, and how it would end if nothing more came."""
        assert self._motion is not None
        axis, motion, found = self.recording.axis, self._motion, []
        for i in range(1, round(_AHEAD / step) + 1):
            at = self._start + axis * motion.position(t + i * step)
            found.append(replace(target, position=at, velocity=axis * motion.velocity(t + i * step)))
        place, speed = motion.position(t + len(found) * step), motion.velocity(t + len(found) * step)
        while speed:
            slower = np.sign(speed) * max(0.0, abs(speed) - _BRAKE * self.robot.limits.linear_acceleration * step)
            place, speed = place + 0.5 * step * (speed + slower), float(slower)
            found.append(replace(target, position=self._start + axis * place, velocity=axis * speed))
        return found

    def _astray(self) -> str:
        if self._unreachable:
            return f"the arm cannot go on: {self._unreachable}"
        assert self._hand is not None
        target, leash = self._targets.target(), self.robot.action.leash
        away = float(np.linalg.norm(self._hand[0] - target.position))
        angle = float((self._hand[1] * target.rotation.inv()).magnitude())
        if away > leash[0]:
            return f"the hand is {away:.3f} m from its target, at most {leash[0]:g} m expected (leash)"
        if angle > leash[1]:
            return f"the hand is {angle:.2f} rad from its target, at most {leash[1]:g} rad expected (leash)"
        return ""

    def _grip(self, now: float, now_ns: int) -> None:
        gripper = self._gripper
        assert gripper is not None and self.robot.gripper is not None
        wait = max(_GRIPPER_SECONDS, self.robot.gripper.interval + 0.1)
        if now - self._since > wait:
            self._since, self._goals = now, self._goals + 1
        if self._goals == len(_OPEN_CLOSE_OPEN):
            self._phase = "over"
            return
        before = gripper.logic.closed, gripper.logic.in_flight
        gripper.row(_OPEN_CLOSE_OPEN[self._goals])
        gripper.tick(False)
        after = gripper.logic.closed, gripper.logic.in_flight
        if after != before and (after[1] or after[0] != before[0]) and len(self.recording.goals) <= self._goals:
            self.recording.goals.append(now_ns)
