"""A robot with drivers of its own, as the executor sees it: its hand, whether it is ready, and how it is told to move.

The executor decides which row is due, or that there is none; here it becomes a target, and the target what the driver
understands. A hold brakes the target and stays there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import JointState

from diffusion_ros.control.chunk_executor import ChunkExecutor, Command
from diffusion_ros.control.frames import RobotFrames
from diffusion_ros.control.targets import Goal, Target, TargetGenerator, goals
from diffusion_ros.control.teleoperation import PersonRow
from diffusion_ros.robot_file import HAND, RobotFile
from diffusion_ros.ros import messages
from diffusion_ros.ros.gripper_output import GripperOutput
from diffusion_ros.ros.hand_source import DescribedArm, HandSource
from diffusion_ros.ros.listener import MAX_BYTES, JointFilter, Listener
from diffusion_ros.ros.readiness import OperatorButtons, Readiness
from diffusion_ros.ros.robot_outputs import POINT_SECONDS, JointOutput, make_output
from diffusion_ros.ros.runner import RunnableNode
from diffusion_ros.ros.topics import BEST_EFFORT_QOS
from diffusion_ros.spec import CheckpointSpec

Array = NDArray[np.float64]

_HISTORY_NS = 1_500_000_000
_STOOD_SECONDS = 0.3
"""A target that has stood still for so long in a hold is taken anew from the hand afterwards."""


@dataclass(frozen=True)
class Hand:
    """Where the hand was."""

    stamp_ns: int
    position: Array
    """(3) m, in the base frame."""
    rotation: Rotation


class DrivenRobot:
    """One robot.

    moved: called with the stamp [ns], the hand's position (3) [m] and quaternion (4) xyzw in the policy's frame, for
    each that is read;
    refused: with why one is not. enable, stop: what the operator's buttons do. Raises ValueError in one line.
    """

    def __init__(
        self,
        node: RunnableNode,
        robot: RobotFile,
        spec: CheckpointSpec,
        moved: Callable[[int, Array, Array], object],
        refused: Callable[[messages.MessageError], object],
        enable: Callable[[], object],
        stop: Callable[[], object],
        rehearsal: bool = False,
    ) -> None:
        self._node, self.robot = node, robot
        self.frames = RobotFrames(robot, spec.base_pose)
        self._moved = moved
        described = DescribedArm(node, robot) if robot.description is not None and robot.needs_kinematics else None
        self._described = described
        self._hands: deque[Hand] = deque()
        self.source = HandSource(node, robot, self.frames, self._on_hand, refused, described)
        self.output = make_output(node, robot, self.frames, described)
        self._joint_listener: Listener[JointState] | None = None
        if isinstance(self.output, JointOutput) and robot.poses[HAND].source != "fk":
            self._joint_listener = self._listen_to_joints(self.output)
        self.gripper = GripperOutput(node, robot, rehearsal) if robot.gripper is not None else None
        self.readiness = Readiness(node, robot)
        self.buttons = (
            OperatorButtons(node, robot.buttons, enable, stop, awaited=not rehearsal)
            if robot.buttons is not None
            else None
        )
        limits, smoothed = robot.limits, self.output.smoothed
        self.targets = TargetGenerator(
            replace(limits, linear=smoothed * limits.linear, angular=smoothed * limits.angular),
            spec.period_ns / 1e9,
            spec.response,
            robot.action.reference,
            robot.action.leash,
            robot.action.latency,
        )
        self._period_ns = spec.period_ns
        self._latency_ns = round(robot.action.latency * 1e9)
        self._gripper_ns = round((robot.gripper.latency if robot.gripper is not None else 0.0) * 1e9)
        self._gripper_key: tuple[int, int] | None = None
        self._chunk_ns = 0
        """Stamp of the chunk that decided last."""
        self._stood: float | None = None
        """Since when the target stands still."""
        self._still_ns = 0
        """Stamp from which on a hand was seen while its target stood still."""
        self._forgetting = False
        """Whether the target brakes, to be forgotten when it stands."""
        self._advanced_ns: int | None = None
        self._goal_key: tuple[int, int] | None = None
        self._goal: Array | Goal | None = None
        """Of the row of a pose that is due, once for the row: the output has several periods for each."""
        self._limited = ""
        """Why the arm could not go all the way to its last target."""

    def _listen_to_joints(self, output: JointOutput) -> Listener[JointState]:
        joints = self.robot.joints

        def take(msg: JointState) -> None:
            output.measured = messages.joint_state_from_msg(msg, joints)[1]

        return Listener(
            self._node,
            JointState,
            self.robot.joint_states,
            take,
            lambda error, msg: None,
            BEST_EFFORT_QOS,
            max_bytes=MAX_BYTES,
            concerns=JointFilter(joints, whole=True),
        )

    # What comes in

    def _on_hand(self, stamp_ns: int, position: Array, quaternion: Array) -> None:
        if self._hands and stamp_ns < self._hands[-1].stamp_ns:
            self._hands.clear()
        self._hands.append(Hand(stamp_ns, position, Rotation.from_quat(quaternion)))
        while self._hands[0].stamp_ns < stamp_ns - _HISTORY_NS:
            self._hands.popleft()
        if isinstance(self.output, JointOutput) and self.source.joints is not None:
            self.output.measured = self.source.joints
        self._moved(stamp_ns, *self.frames.to_policy(position, quaternion))

    @property
    def hand(self) -> Hand | None:
        """The newest."""
        return self._hands[-1] if self._hands else None

    # Reasons to hold

    def reason(self) -> str:
        """Why the robot must not move, or ''."""
        return (
            self.source.conflict()
            or self.output.conflict()
            or self._joints_conflict()
            or (self.gripper.conflict() or self.gripper.deaf() if self.gripper is not None else "")
            or self.output.missing()
            or self.readiness.reason()
            or self.output.deaf()
            or (self.buttons.reason() if self.buttons is not None else "")
        )

    def _joints_conflict(self) -> str:
        return self._joint_listener.conflict() if self._joint_listener is not None else ""

    def _silenced(self) -> bool:
        """Whether nothing is to be sent.

        Either the driver obeys nobody now and would go to a target that it was told meanwhile: an arm that stopped by
        itself must not move when somebody makes it ready again. Or somebody else commands it, whom it is not to obey in
        turns with us.
        """
        return bool(self.output.conflict()) or (self.output.goes_back and bool(self.readiness.reason()))

    def astray(self) -> str:
        """Why somebody has to look before it moves on, or ''."""
        hand = self.hand
        return "" if hand is None else self.targets.astray(hand.position, hand.rotation)

    def trouble(self) -> str:
        """What does not go as it should while it acts, or ''."""
        if self._limited:
            return f"the arm cannot go all the way: {self._limited}"
        return self.gripper.logic.reason if self.gripper is not None else ""

    # What goes out

    def act(self, logic: ChunkExecutor, held: str, now_ns: int, person: PersonRow | None = None) -> Command:
        """Once in every period of the output. held: why nothing may move, or ''; person: the row of one who decides.
        Returns what was decided."""
        period = 1.0 / self.robot.action.rate
        since = period if self._advanced_ns is None else (now_ns - self._advanced_ns) / 1e9
        # 0: a second call at one time, of a busy machine or a clock in steps. The target is where it is.
        elapsed = min(max(since, 0.0), 3.0 * period)
        if since < 0.0:
            self._still_ns = 0  # in a time that begins again
        self._advanced_ns = self.output.now_ns = now_ns
        if held:
            command = logic.hold(now_ns, held)
        elif person is not None:
            command = logic.person_command(now_ns, person.row, now_ns, person.key)
        else:
            command = logic.command(self._row_ns(now_ns), now_ns)
        self.targets.hard = bool(logic.estop_reason)
        command = self._move_arm(logic, command, elapsed, now_ns)
        self._move_gripper(logic, command, now_ns, person)
        return command

    def _move_arm(self, logic: ChunkExecutor, command: Command, elapsed: float, now_ns: int) -> Command:
        """By the row that is due, `elapsed` seconds after the last time. Returns what became of it."""
        hand, now = self.hand, self._node.seconds()
        if self._silenced():
            self.forget()
        elif not command.acting and hand is not None and self.targets.astray(hand.position, hand.rotation):
            # Whoever has moved the arm meanwhile, or set it somewhere else, does not want it back.
            self.forget()
        if self._forgetting:
            self._fade(elapsed, now)
            return logic.hold(now_ns, "it brakes, to start anew") if command.acting else command
        if hand is None or (not command.acting and not self.targets.started) or (command.acting and not elapsed):
            return command
        if command.acting and (not self.targets.started or self._has_stood(now)):
            if hand.stamp_ns < self._still_ns:
                # It was still moving then: what comes first after a silence may be old.
                command = logic.hold(now_ns, f"{self.source.name}: the hand was not seen since it stopped")
            elif apart := self._start(hand):
                command = logic.hold(now_ns, apart)
        if not self.targets.started:
            return command
        row = self._due_row(logic, command, now_ns) if command.acting else None
        if command.key is not None and command.key[0] != self._chunk_ns:
            self._chunk_ns = command.key[0]
            self.output.renew()
            if command.person:
                self.targets.begin_alone()
            elif command.pose is None:
                self._anchor(logic, now_ns - round(elapsed * 1e9))
        target = self.targets.advance(elapsed, row, command.key, hand.position, hand.rotation)
        if command.acting:
            self._stood = None

            def preview(step: float) -> list[Target]:
                coming = [command.row] if command.person else logic.rest(self._row_ns(now_ns))
                rows = self._in_base(coming, command.pose is not None)
                return self.targets.preview(rows, step, self._remaining(command, now_ns))

            measured = hand.position, hand.rotation
            self.output.send(target, elapsed, measured, self.targets.lagged(), preview)
            short = self.output.fell_short()
            self._limited = "" if short is None else short[0]
            if short is not None:
                # The target waits where the arm has got to: at the edge of its reach, or while its joints are too slow.
                self.targets.wait_at(short[1], Rotation.from_quat(short[2]))
        else:
            self._hold(target, elapsed, now)
        return command

    def _in_base(self, rows: Sequence[Array] | Array, poses: bool) -> list[Array | Goal]:
        """Rows (7) of motion, or poses (7), in the driver's base."""
        return [*goals([self.frames.place(row) for row in rows])] if poses else [self.frames.row(row) for row in rows]

    def _due_row(self, logic: ChunkExecutor, command: Command, now_ns: int) -> Array | Goal:
        if command.pose is None:
            return self.frames.row(command.row)
        if command.key == self._goal_key and self._goal is not None:
            return self._goal
        coming = logic.rest(self._row_ns(now_ns))[1:]
        self._goal_key, self._goal = command.key, self._in_base([command.pose, *coming], True)[0]
        return self._goal

    def _start(self, hand: Hand) -> str:
        """The target anew, from where the hand is. Returns '' or why not."""
        place = self.output.place(hand.position, hand.rotation)
        if apart := why_apart(place, (hand.position, hand.rotation), self.robot, self.source.name):
            return apart
        self._stood = None
        if not self.output.springs:
            # Only an arm that hangs in its target as on a spring would jump with it.
            self.targets.stop()
        if not self.targets.started:
            self.output.restart(*place)
        self.targets.start(*place)
        return ""

    def _hold(self, target: Target, elapsed: float, now: float) -> None:
        if target.moving:
            self._stood = None
        elif self._stood is None:
            self._stood, self._still_ns = now, self._advanced_ns or 0
        self.output.hold(target, elapsed, lambda step: self.targets.preview(np.zeros((0, 7)), step))

    def _fade(self, elapsed: float, now: float) -> None:
        """Brakes a target that is to be forgotten. A driver that was told to move, and then nothing, may go on."""
        last = self.targets.target()
        target = self.targets.advance(elapsed, None, None, last.position, last.rotation)
        self._hold(target, elapsed, now)
        if not target.moving and (self._has_stood(now) or not self.output.goes_on):
            self.targets.stop()
            self._forgetting, self._stood = False, None

    def _row_ns(self, now_ns: int) -> int:
        """A row is due from its time on for a period; the logic takes the one that is nearest."""
        return now_ns + self._latency_ns - self._period_ns // 2

    def _remaining(self, command: Command, now_ns: int) -> float:
        """Seconds for which the row that is due goes on."""
        assert command.key is not None
        done_ns = (now_ns + (0 if command.person else self._latency_ns) - command.key[0]) % self._period_ns
        return (self._period_ns - done_ns) / 1e9

    def _has_stood(self, now: float) -> bool:
        return self._stood is not None and now - self._stood >= _STOOD_SECONDS

    def _anchor(self, logic: ChunkExecutor, then_ns: int) -> None:
        """A chunk begins to decide, which was made from the hand as it was at its stamp. then_ns: the target's time."""
        near = min(self._hands, key=lambda hand: abs(hand.stamp_ns - self._chunk_ns), default=None)
        if near is not None:
            rows = np.array([self.frames.row(row) for row in logic.begun(self._row_ns(then_ns))])
            self.targets.anchor(near.position, near.rotation, (then_ns - self._chunk_ns) / 1e9, rows)

    def _move_gripper(self, logic: ChunkExecutor, command: Command, now_ns: int, person: PersonRow | None) -> None:
        """By the row that is due now, which is not the arm's: its fingers have another latency."""
        if self.gripper is None:
            return
        held = not command.acting
        if not held:
            due = command
            if not command.person:
                due = logic.command(now_ns + self._gripper_ns - self._period_ns // 2, now_ns)
            if due.key is not None and due.key != self._gripper_key:
                self._gripper_key = due.key
                as_it_is = command.person and person is not None and person.gripper is None
                self.gripper.row(None if as_it_is else float(due.row[6]))
        self.gripper.tick(held)

    def forget(self) -> None:
        """The target brakes, and when it stands nothing more is sent; the next one is where the hand is then."""
        self._forgetting = self.targets.started
        self._hands.clear()
        if self.gripper is not None:
            self.gripper.logic.forget()

    def close(self) -> None:
        if self.targets.started:
            self.output.now_ns = self._node.now_ns()
            still = self.targets.preview(np.zeros((0, 7)), POINT_SECONDS)
            self.output.hold(self.targets.target(), POINT_SECONDS, lambda step: still)
            self.output.close()


def why_apart(place: tuple[Array, Rotation], hand: tuple[Array, Rotation], robot: RobotFile, name: str) -> str:
    """Why the place of the first target cannot be where the hand is that was measured by `name`, or ''."""
    away = float(np.linalg.norm(place[0] - hand[0]))
    angle = float((place[1] * hand[1].inv()).magnitude())
    if away <= robot.action.leash[0] and angle <= robot.action.leash[1]:
        return ""
    return (
        f"{robot.joint_states}: by the joints and the description the hand is {away:.3f} m and {angle:.2f} rad from "
        f"where {name} has it, at most {robot.action.leash[0]:g} m and {robot.action.leash[1]:g} rad expected (leash)"
    )
