"""executor: chunks in, one command for each control period out. It alone decides what the robot does.

chunk_executor.ChunkExecutor decides, and in real time also control_clock.ControlClock. This node converts, asks them
and publishes. In lockstep the robot waits, so the executor waits for the chunk that it needs. In real time the executor
sends one command in every period of its own clock, at any rate of poses: the row that is due, or a hold.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from rclpy.duration import Duration
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros import checkpoint, robot_file
from diffusion_ros.control.chunk_executor import Command
from diffusion_ros.control.control_clock import ControlClock
from diffusion_ros.control.stop_record import StopRecord, stop_folder
from diffusion_ros.control.teleoperation import PersonRow
from diffusion_ros.nodes.executor_parameters import ExecutorParameters, alone, completed, make_executor, spec_of_person
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.diagnostics import ERROR, OK, WARN, Diagnostics
from diffusion_ros.ros.driven_robot import DrivenRobot
from diffusion_ros.ros.guard_listener import GuardListener
from diffusion_ros.ros.listener import MAX_BYTES, Listener
from diffusion_ros.ros.managed_node import ManagedNode
from diffusion_ros.ros.params import declare
from diffusion_ros.ros.path_publisher import PathPublisher
from diffusion_ros.ros.person_listener import PersonListener
from diffusion_ros.ros.runner import run
from diffusion_ros.spec import CheckpointSpec

_TICKS = 5
"""Of the timer, a control period."""
_FAREWELL_SECONDS = 1.0
"""How long the last word may take to be heard."""
_REFRESH_SECONDS = 0.1
"""Between two looks at what a driven robot's diagnostics say; its output is ten times as fast."""


class ExecutorNode(ManagedNode):
    """Subscribes to eef_pose and action_chunk; publishes eef_command, eef_path and diagnostics; serves the switches."""

    def __init__(self, parameter_overrides: Sequence[Parameter[Any]] = (), stops: Path | None = None) -> None:
        """stops: where a stop is recorded for whoever takes this one's place; None: it is not.

        Raises ValueError (parameters, checkpoint) in one line.
        """
        super().__init__("executor", parameter_overrides)
        self._spec: CheckpointSpec | None = None
        self.parameters = p = declare(self, ExecutorParameters, self._complete)
        self._lockstep = p.mode == "lockstep"
        self.follows_clock &= not self._lockstep
        self.frame_id = p.frame_id
        """The one frame of poses, chunks, commands and box."""
        self.executor_logic = make_executor(self.get_name(), p, self._spec)
        """Once: a stop outlives a life."""
        self._stop_folder = stops
        self.start(p.autostart)

    def configure(self) -> None:
        p = self.parameters
        self._control_clock = ControlClock(self.executor_logic.period_ns)
        self._pending_ns: int | None = None
        """Lockstep: the observation that has no answer."""
        self._replaceable: tuple[int, int, int] | None = None
        """Real time, of a hold that went out in this period and that a chunk may still replace: the stamp that it
        answers, the time of its row, and when it begins."""
        self._received: float | None = None
        """When a pose came last."""
        self._answering = 0.0
        """The same in wall time [s], for the latency."""
        self._stamp_ns = 0
        self._stamped = 0.0
        """When the newest stamp came first."""
        self._answered: Command | None = None
        self._fault = ""
        """What was wrong with the last eef_pose message."""
        self._refused = ""
        """Why the last chunk was refused."""
        self._said: dict[str, str] = {}
        """What diagnostics say of the robot."""
        self._next_refresh = 0.0
        self._lost = ""
        """Why a robot was disabled by us: somebody has to look."""
        self._executed: tuple[int, int] | None = None
        """Which row a driven robot has begun last."""
        self._counts = {"acted": 0, "held": 0, "clipped": 0, "chunks refused": 0}
        self._record: StopRecord | None = None
        self._stopped_before = ""
        """Why the executor before this one was stopped."""
        if self._stop_folder is not None:
            self._record = StopRecord(self.get_fully_qualified_name(), self.context.get_domain_id(), self._stop_folder)
            self._stopped_before = self._record.read()
            if self._stopped_before:
                self.executor_logic.set_enabled(False)

        self._executed_publisher = self.create_publisher(JointTrajectory, topics.EXECUTED_ACTION, topics.WATCHED_QOS)
        self._robot: DrivenRobot | None = None
        if p.robot:
            self._robot = self._drive(p)
        else:
            self._obey()
        driven = self._robot
        self._path = PathPublisher(
            self,
            self.executor_logic.period_ns,
            self.frame_id if driven is None else driven.robot.base.frame,
            None if driven is None else driven.frames,
        )
        self._chunks = Listener(
            self,
            JointTrajectory,
            topics.ACTION_CHUNK,
            self._on_chunk,
            self._on_bad_chunk,
            topics.WATCHED_QOS,
            max_bytes=MAX_BYTES,
        )
        self._person: PersonListener | None = None
        """None where none may decide."""
        if p.teleop or (driven is not None and driven.robot.teleop is not None):
            self._person = PersonListener(
                self, self.executor_logic.period_ns, self.frame_id, self._person_decides, self._note
            )
        self._guard = GuardListener(self, p.max_guard_age, self._note) if p.guard else None
        self.create_service(SetBool, "~/set_enabled", self._on_set_enabled)
        self.create_service(Trigger, "~/estop", self._on_estop)
        self.create_service(Trigger, "~/estop_reset", self._on_estop_reset)
        self.diagnostics = Diagnostics(self, "executor", self._refresh)
        if self._robot is not None:
            self.every(1.0 / self._robot.robot.action.rate, self._drive_on)
        elif not self._lockstep:
            self.every(self.executor_logic.period_ns / 1e9 / _TICKS, self._tick)
        self.every(0.5, self._path.publish)

    def activate(self) -> None:
        """What was said before does not count, and a target begins anew."""
        self.executor_logic.clear()
        if self._robot is not None:
            self._robot.forget()
        self._answer()
        self._refresh()

    def deactivate(self) -> None:
        """It holds at once, and goes on to say so: a robot must not be left with its last command."""
        self.executor_logic.clear()
        self._hold_now()
        self._refresh()

    def _obey(self) -> None:
        """The simulator's interface, and of drivers that take rows as they are: eef_pose in, eef_command out."""
        self._command_publisher = self.create_publisher(JointTrajectory, topics.EEF_COMMAND, topics.COMMAND_QOS)
        sensors = topics.sensor_qos(self._lockstep)
        self._poses = Listener(self, PoseStamped, topics.EEF_POSE, self._on_pose, self._on_bad_pose, sensors)
        # Our own among them: a second executor is a second publisher, to us as to the robot.
        self._commands = Listener.of_publishers(self, JointTrajectory, topics.EEF_COMMAND, topics.WATCHED_QOS)

    def _drive(self, p: ExecutorParameters) -> DrivenRobot:
        """A robot with drivers of its own."""
        robot = robot_file.read(robot_file.find(p.robot))
        for name, value in {"robot": p.robot, "output": f"{robot.action.output} on {robot.action.topic}"}.items():
            self._said[name] = value
        return DrivenRobot(
            self,
            robot,
            self._spec or spec_of_person(p),
            self._on_hand,
            lambda error: self._on_bad_pose(error, None),
            enable=lambda: self._enable(True),
            stop=lambda: self._stop("the operator's button"),
            rehearsal=p.rehearsal,
        )

    def _complete(self, p: ExecutorParameters) -> ExecutorParameters:
        """What was given, and the checkpoint's where nothing was."""
        self._spec = spec = checkpoint.read_spec(p.checkpoint, **p.trust) if p.checkpoint else None
        return completed(self.get_name(), p if spec is not None else alone(self.get_name(), p), spec)

    # What comes in

    def _on_pose(self, msg: PoseStamped) -> None:
        stamp_ns, position, quaternion = messages.pose_from_msg(msg)
        messages.check_frame(msg.header, self.frame_id)
        self._fault = ""
        repeated = self.executor_logic.observed(stamp_ns, position)
        if not repeated:
            self.executor_logic.observe(stamp_ns, position, quaternion)
            self._path.add(stamp_ns, position)
        self._came(stamp_ns, repeated)

    def _on_hand(self, stamp_ns: int, position: NDArray[np.float64], quaternion: NDArray[np.float64]) -> None:
        """A driven robot's, in the policy's frame."""
        self._fault = ""
        if not self.executor_logic.observed(stamp_ns, position):
            self.executor_logic.observe(stamp_ns, position, quaternion)
            self._path.add(stamp_ns, position)
        self._heard(stamp_ns)

    @property
    def _pose_name(self) -> str:
        """What the hand's pose comes from, for messages."""
        return self._robot.source.name if self._robot is not None else topics.shown(self, topics.EEF_POSE)

    def _on_bad_pose(self, error: messages.MessageError, msg: PoseStamped | None) -> None:
        self._fault = f"{self._pose_name}: {error}"
        if self._robot is not None:
            return
        try:
            stamp_ns = messages.stamp_ns(msg.header.stamp) if msg is not None else self._stamp_ns
        except messages.MessageError:
            stamp_ns = self._stamp_ns
        self._came(stamp_ns, False)

    def _came(self, stamp_ns: int, repeated: bool) -> None:
        """A pose came, usable or not, to be answered."""
        self._heard(stamp_ns)
        if not self._lockstep:
            if self._control_clock.pose(self.seconds()):
                self._act()
            return
        if repeated and self._answered is not None and self._answered.stamp_ns == stamp_ns:
            # The same observation again: our answer was lost. Not computed anew, as it was executed as it was.
            self._send(self._answered, stamp_ns)
            return
        self._pending_ns = stamp_ns
        self._answer()

    def _heard(self, stamp_ns: int) -> None:
        now = self.seconds()
        self._received, self._answering = now, time.monotonic()
        if stamp_ns != self._stamp_ns:
            self._stamp_ns, self._stamped = stamp_ns, now
        self.diagnostics.tick(topics.EEF_POSE)

    def _on_chunk(self, msg: JointTrajectory) -> None:
        self.diagnostics.tick(topics.ACTION_CHUNK)
        if self._chunks.conflict():
            # Of two that cannot be told apart nothing is kept, so that nothing of it outlives the conflict.
            self.executor_logic.clear()
            return
        if msg.header.frame_id != self.frame_id:
            self.executor_logic.clear()
            frame = messages.printable(msg.header.frame_id, 60)
            raise messages.MessageError(f"deltas in the frame {frame!r}, {self.frame_id!r} (eef_pose's) expected")
        try:
            chunk = messages.chunk_from_msg(msg)
        except messages.MessageError:
            self.executor_logic.clear()
            raise
        self._person_decides()
        if self._person is not None and (aside := self._person.takeover.sets_aside(chunk.stamp_ns)):
            self._refused = aside
            return
        self._refused = self.executor_logic.add_chunk(chunk)
        if self._refused:
            self._counts["chunks refused"] += 1
        elif self._lockstep:
            self._answer()
        elif self._robot is None:
            self._replace_hold()

    def _on_bad_chunk(self, error: messages.MessageError, msg: JointTrajectory | None) -> None:
        if msg is None:
            self.executor_logic.clear()
        self._refused = f"chunk refused: {error}"
        self._counts["chunks refused"] += 1
        if self._lockstep:
            self._answer()

    def _note(self, topic: str) -> None:
        """A message came on a topic."""
        self.diagnostics.tick(topic)

    # A person

    def _person_decides(self) -> bool:
        """Whether a person decides now. What the policy said before does not count afterwards."""
        if self._person is None:
            return False
        if not self._person.takeover.update(self.now_ns(), self.seconds(), self._stamp_ns):
            return False
        self._replaceable = None
        self.executor_logic.clear()
        return True

    # Lockstep

    def _answer(self) -> None:
        """Answers the pending observation, as far as that can be done now."""
        stamp_ns = self._pending_ns
        if stamp_ns is None or not self.active:
            return  # whoever is not active says nothing, and a robot in lockstep waits
        stop = self._stop_reason()
        if stop:
            self._publish(self.executor_logic.hold(stamp_ns, stop), stamp_ns)
        elif self.executor_logic.covers(stamp_ns):
            self._publish(self.executor_logic.command(stamp_ns), stamp_ns)

    # Real time

    def _tick(self) -> None:
        """A period without a pose has its command too; before the first pose none is told anything."""
        if self._received is not None and self._control_clock.tick(self.seconds()):
            self._act()

    def _act(self) -> None:
        """The command of this period."""
        now, now_ns = self.seconds(), self.now_ns()
        stop = self._stop_reason()
        if stop:
            silent = self._silent() > self.parameters.max_observation_age
            stamp_ns = now_ns if silent else self._stamp_ns
            self._replaceable = None
            self._publish(self.executor_logic.hold(stamp_ns, stop), stamp_ns)
            return
        # A stamp that is repeated, or none at all, does not stop the time.
        present_ns = self._stamp_ns + round((now - self._stamped) * 1e9)
        held = self._answered is None or not self._answered.acting
        row_ns = self._control_clock.row_time(present_ns, anew=held)
        # A command without a pose answers the last one again, but its row is of another time.
        alone = 2 * (present_ns - self._stamp_ns) >= self.executor_logic.period_ns
        begins_ns = row_ns if alone else self._stamp_ns
        if self._person_decides():
            assert self._person is not None
            logic, why, row = self.executor_logic, self._person.takeover.reason, self._person.takeover.newest
            command = logic.hold(row_ns, why) if why else logic.person_command(row_ns, row, now_ns)
            self._publish(command, self._stamp_ns, begins_ns)
            return
        command = self.executor_logic.command(row_ns, now_ns)
        # The hold goes out at once; a chunk that comes within the period may still replace it.
        self._replaceable = None if command.acting else (self._stamp_ns, row_ns, begins_ns)
        self._publish(command, self._stamp_ns, begins_ns)

    def _replace_hold(self) -> None:
        """A chunk came: its row takes the place of the hold that this period has had. Motion there is once a period."""
        if self._replaceable is None or self._stop_reason():
            return
        stamp_ns, row_ns, begins_ns = self._replaceable
        command = self.executor_logic.command(row_ns, self.now_ns())
        if command.acting:
            self._replaceable = None
            self._publish(command, stamp_ns, begins_ns)

    def _drive_on(self) -> None:
        """A period of a driven robot's output."""
        assert self._robot is not None
        logic, before = self.executor_logic, self._answered
        held = self._stop_reason()
        if self._silence():
            # A driver that is gone starts anew when it comes back, and so does its target.
            self._robot.forget()
            if self._lost and self.parameters.rehearsal:
                # Drivers that start anew are the next episode, and the person who looks and enables it again.
                self._enable(True)
        if not held and before is not None and before.acting and (lost := self._robot.astray()):
            self._lost = held = lost
            logic.set_enabled(False)
            self.get_logger().error(f"disabled: {lost}")
        now_ns = self.now_ns()
        person: PersonRow | None = None
        if self._person_decides():
            assert self._person is not None
            held, person = held or self._person.takeover.reason, self._person.takeover.row(now_ns)
        self._answered = command = self._robot.act(logic, held, now_ns, person)
        if command.acting and command.key != self._executed:
            self._executed = command.key
            self._say_executed(command, now_ns)
        self._counts["acted" if command.acting else "held"] += 1
        self._counts["clipped"] += bool(command.clipped)
        self.diagnostics.tick(self._robot.robot.action.topic)
        if self.seconds() >= self._next_refresh:
            self._next_refresh = self.seconds() + _REFRESH_SECONDS
            self._refresh()

    # Reasons to hold

    def _stop_reason(self) -> str:
        """Why nothing may move whatever chunk comes, or ''."""
        logic = self.executor_logic
        if logic.estop_reason or not logic.enabled:
            why = self._lost or self._stopped_before
            return logic.stopped() + (f" ({why})" if why else "")
        return (
            ("" if self.active else "not active")
            or self.without_time()
            or (self._fault if self._robot is not None else "")  # which is why nothing more is heard of it
            or self._silence()
            or self._robot_reason()
            or self._chunk_conflict()
            or (self._person.conflict() if self._person is not None else "")
            or self._fault
            or (self._guard.reason() if self._guard is not None else "")
            or logic.stopped()
        )

    def _robot_reason(self) -> str:
        if self._robot is not None:
            nothing = self._robot.source.missing() if self._received is None else ""
            return nothing or self._robot.reason()
        return self._poses.conflict() or self._commands.conflict()

    def _silence(self) -> str:
        """Real time: why a robot that is not heard any more must not move."""
        silent = self._silent()
        if self._lockstep or silent <= self.parameters.max_observation_age:
            return ""
        return f"{self._pose_name}: silent for {silent:.2f} s"

    def _silent(self) -> float:
        """Seconds since a pose came; 0 before the first."""
        return 0.0 if self._received is None else self.seconds() - self._received

    def _chunk_conflict(self) -> str:
        conflict = self._chunks.conflict()
        if conflict:
            self.executor_logic.clear()
        return conflict

    # What goes out

    def _publish(self, command: Command, stamp_ns: int, begins_ns: int | None = None) -> None:
        """stamp_ns: of the observation that it answers; begins_ns: when it begins, None: then."""
        self._pending_ns = None
        self._answered = command
        self._counts["acted" if command.acting else "held"] += 1
        self._counts["clipped"] += bool(command.clipped)
        self._send(command, stamp_ns)
        if not self._lockstep:
            self.executor_logic.sent(command)
        if command.acting:
            self._say_executed(command, stamp_ns if begins_ns is None else begins_ns)
        self.diagnostics.latency("observation to command", time.monotonic() - self._answering)
        self._refresh()

    def _send(self, command: Command, stamp_ns: int) -> None:
        """stamp_ns: of the observation that it answers."""
        period_ns = self.executor_logic.period_ns
        self._command_publisher.publish(messages.command_to_msg(command.row, stamp_ns, period_ns, self.frame_id))
        self.diagnostics.tick(topics.EEF_COMMAND)

    def _say_executed(self, command: Command, stamp_ns: int) -> None:
        """A row begins."""
        period_ns = self.executor_logic.period_ns
        chunk_ns, place = (stamp_ns, -1) if command.person or command.key is None else command.key
        executed = messages.Executed(stamp_ns, command.row, command.person, place, chunk_ns)
        self._executed_publisher.publish(messages.executed_to_msg(executed, period_ns, self.frame_id))

    # Services

    def _on_set_enabled(self, request: Any, response: Any) -> Any:
        """Lets the robot move, or not. It is refused while an emergency stop is latched."""
        enabled = bool(request.data)
        response.success = self._enable(enabled)
        if response.success:
            response.message = "enabled" if enabled else "not enabled"
        else:
            response.message = "refused: the emergency stop is latched; ~/estop_reset first"
        return response

    def _enable(self, enabled: bool) -> bool:
        again = enabled and not self.executor_logic.enabled
        done = self.executor_logic.set_enabled(enabled)
        if done:
            self._stopped_before = self._lost = ""
            self._remember("" if enabled else "it was disabled before it ended and was started again")
            if again and self._robot is not None:
                self._robot.forget()
        self._answer()
        self.diagnostics.publish()  # at once: somebody waits for it
        return done

    def _on_estop(self, request: Any, response: Any) -> Any:
        """Emergency stop: the robot holds at once. The stop is latched and outlives the executor."""
        self._stop("requested")
        response.success = True
        response.message = "stopped; latched until ~/estop_reset, then until ~/set_enabled"
        return response

    def _stop(self, reason: str) -> None:
        self.executor_logic.estop(reason)
        self._hold_now()
        self._remember("an emergency stop was latched when it ended and was started again")
        self._refresh()

    def _hold_now(self) -> None:
        """Something has stopped it: the robot is told so at once."""
        self._replaceable = None
        if self._lockstep:
            self._answer()
        elif self._robot is not None:
            self._drive_on()
        elif self._received is not None:
            now_ns = self.now_ns()
            self._publish(self.executor_logic.hold(now_ns, self._stop_reason()), now_ns)

    def _on_estop_reset(self, request: Any, response: Any) -> Any:
        """Releases the emergency stop. The robot moves again only after `~/set_enabled`."""
        self.executor_logic.estop_reset()
        self.diagnostics.publish()
        response.success = True
        response.message = "enabled" if self.executor_logic.enabled else "released, but not enabled: ~/set_enabled"
        return response

    def _remember(self, reason: str) -> None:
        """Writes a stop down, '' for its end."""
        if self._record is None:
            return
        try:
            if reason:
                self._record.write(reason)
            else:
                self._record.clear()
        except OSError as error:
            self.get_logger().error(f"a stop cannot be written down for an executor after this one: {error}")

    # Diagnostics

    def _refresh(self) -> None:
        logic = self.executor_logic
        self.diagnostics.value("enabled", logic.enabled)
        self.diagnostics.value("estop", logic.estop_reason or "released")
        self.diagnostics.value("frame", self.frame_id)
        if self._person is not None:
            self.diagnostics.value("decides", "a person" if self._person.takeover.decides else "the policy")
        self.diagnostics.value("last chunk", self._refused or "accepted")
        for name, value in {**self._said, **self._counts}.items():
            self.diagnostics.value(name, value)
        stop = self._stop_reason()
        refused = f" ({self._refused})" if self._refused else ""
        if stop:
            self.diagnostics.report(ERROR if logic.estop_reason else WARN, f"holding: {stop}{refused}")
        elif self._lockstep and self._pending_ns is not None:
            waited = self._silent()
            if waited > 1.0:
                self.diagnostics.report(WARN, f"waiting for a chunk for {waited:.1f} s{refused}")
        elif self._answered is not None and not self._answered.acting:
            self.diagnostics.report(WARN, f"holding: {self._answered.reason}{refused}")
        elif self._answered is not None:
            clipped = self._answered.clipped
            trouble = self._robot.trouble() if self._robot is not None else ""
            if trouble:
                self.diagnostics.report(WARN, f"acting, though {trouble}")
            else:
                whose = "acting for a person" if self._answered.person else "acting"
                self.diagnostics.report(OK, f"{whose}, clipped to {clipped}" if clipped else whose)

    def cleanup(self) -> None:
        """The last word to a robot that does not wait: hold. It must have been heard before the publisher is gone."""
        if self._robot is not None:
            self._robot.close()
            return
        if not self._lockstep and self._received is not None:
            now_ns = self.now_ns()
            self._send(self.executor_logic.hold(now_ns, "the executor ends"), now_ns)
            self._command_publisher.wait_for_all_acked(Duration(seconds=_FAREWELL_SECONDS))


def main() -> int:
    return run(lambda: ExecutorNode(stops=stop_folder()))


if __name__ == "__main__":
    raise SystemExit(main())
