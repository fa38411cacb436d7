"""What a survey of a robot's drivers means for a checkpoint: findings, and rows of a table."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_ros import robot_check
from diffusion_ros.control.kinematics import Arm
from diffusion_ros.robot_check import Finding, note, problem, problems, warning
from diffusion_ros.robot_file import HAND, OBJECT, RobotFile
from diffusion_ros.ros import messages
from diffusion_ros.ros.hand_source import JOINT_SLACK, read_arm
from diffusion_ros.ros.readiness import wrong as not_ready
from diffusion_ros.ros.robot_outputs import MAX_JOINTS_AGE
from diffusion_ros.ros.robot_survey import ARM_JOINTS, Endpoint, RobotSurvey, Stream
from diffusion_ros.spec import IMAGE_SUFFIX, CheckpointSpec

Array = np.ndarray[Any, np.dtype[np.float64]]

MAX_AGE = 0.5
"""s; the policy node does not use what is stamped farther from its clock (its parameter max_input_age)."""
LEAST_RATE = 0.6
"""Of the policy's rate; it does not use what comes less often (its parameter min_frame_rate)."""
_AHEAD = 0.002
"""s by which a clock must be ahead to be said."""
_SILENT = 1.0
"""s without a message at the end of listening that are said."""
SIMULATED = 86_400.0
"""s; stamps so far away are of another kind of time."""


@dataclass(frozen=True)
class InputRow:
    """A line of the table: what came of one thing."""

    name: str
    topic: str
    rate: float | None
    """Hz"""
    age: float | None
    """s, the median, less the latency that the file says."""
    worst_age: float | None
    ahead: float
    """s by which the driver's clock is ahead at least, 0 where nothing shows that it is."""
    what: str
    """Type, and what is in it."""
    publishers: list[Endpoint]


@dataclass(frozen=True)
class OutputRow:
    """A line of the table: where commands go."""

    name: str
    topic: str
    type: str
    listeners: list[Endpoint]
    others: list[Endpoint]
    """Who else publishes there."""


@dataclass
class Report:
    """All that was found out."""

    findings: list[Finding] = field(default_factory=list)
    inputs: list[InputRow] = field(default_factory=list)
    outputs: list[OutputRow] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        return not problems(self.findings)

    @property
    def verdict(self) -> str:
        """The last line."""
        many = len(problems(self.findings))
        if many:
            return f"not ready: {many} {'thing' if many == 1 else 'things'}"
        warnings = sum(finding.level == "warning" for finding in self.findings)
        said = f", {warnings} {'warning' if warnings == 1 else 'warnings'}" if warnings else ""
        return f"ready: nothing stands against enabling it{said}"


def names(endpoints: Sequence[Endpoint]) -> str:
    """Of the nodes, each once."""
    return ", ".join(dict.fromkeys(one.node for one in endpoints))


class Judge:
    """Turns what a survey heard into findings and rows."""

    def __init__(
        self, robot: RobotFile, spec: CheckpointSpec, guard: CheckpointSpec | None, survey: RobotSurvey, report: Report
    ) -> None:
        """Of the policy's checkpoint and, if there is one, the camera guard's."""
        self.robot, self.spec, self.guard = robot, spec, guard
        self.survey, self.report = survey, report
        self._pictures: dict[str, Any] = {}
        self._arm: Arm | None = None
        """By the description; None where nothing needs it, or what is wrong with it has been said."""

    def all(self) -> None:
        """Adds all of them to the report."""
        self._read_description()
        self._arm_joints()
        for name in (*self.robot.poses, *self.robot.numbers, *(f"{c}{IMAGE_SUFFIX}" for c in self.robot.pictures)):
            self._input(name)
        self.report.findings += robot_check.check_cameras(self.spec, self._pictures)
        for i in range(len(self.robot.ready)):
            self._ready(i)
        self._buttons()
        self._action()
        self._gripper()

    def _say(self, *findings: Finding) -> None:
        self.report.findings += findings

    # -- inputs

    def _needed(self, name: str) -> bool:
        """Whether anything depends on an observation."""
        if name == HAND:
            return True
        if name == OBJECT:
            return bool(set(robot_check.POSES[OBJECT]) & set(self.spec.input_names))
        guarded = self.guard is not None and name in self.guard.input_names
        return name in self.spec.input_names or guarded

    def _input(self, name: str) -> None:
        stream = self.survey.streams[name]
        wrong = self._silence(stream)
        what = stream.kind.split("/")[-1]
        if not wrong:
            said, wrong = self._content(stream)
            what = f"{what} {said}".rstrip()
            # What is read wrongly is not judged by its time as well: one line for one mistake.
            wrong = wrong if problems(wrong) else [*wrong, *self._timing(stream)]
        if not self._needed(name):
            wrong = [note(str(finding)) for finding in wrong]
        self._say(*wrong)
        self.report.inputs.append(self._row(stream, what))

    def _row(self, stream: Stream, what: str) -> InputRow:
        latency = self._latency(stream.name)
        ages = [age + latency for age in stream.ages]
        return InputRow(
            stream.name,
            stream.topic,
            stream.rate,
            float(np.median(ages)) if ages else None,
            max(ages, default=None),
            self._ahead(stream),
            what,
            stream.publishers,
        )

    def _latency(self, name: str) -> float:
        source = self.robot.poses.get(name) or self.robot.numbers.get(name)
        if source is not None:
            return source.latency
        picture = self.robot.pictures.get(name.removesuffix(IMAGE_SUFFIX))
        return picture.latency if picture is not None else 0.0

    def _ahead(self, stream: Stream) -> float:
        """s by which the driver's clock is ahead at least: its values come before their time."""
        if not stream.ages:
            return 0.0
        ahead = -(float(np.median(stream.ages)) + min(0.0, self._latency(stream.name)))
        return ahead if ahead > _AHEAD else 0.0

    def _silence(self, stream: Stream) -> list[Finding]:
        """Why nothing was heard, or nothing that counts."""
        where = f"{stream.name}: {stream.topic}"
        if stream.not_installed:
            package = stream.kind.split("/")[0]
            return [problem(f"{where}: {package} is not installed here", f"it is needed to read {stream.kind}")]
        others = [one for one in stream.publishers if one.type != stream.kind]
        if others and len(others) == len(stream.publishers):
            return [problem(f"{where}: {others[0].node} publishes {others[0].type}", f"{stream.kind} expected")]
        if stream.count:
            return []
        if stream.faults:
            return [problem(f"{where}: {next(iter(stream.faults))}")]
        if stream.foreign:
            return [self._other_joints(stream, sorted(stream.foreign), stream.joints)]
        if not stream.publishers:
            known = self.survey.topics_of(stream.kind)
            near = difflib.get_close_matches(stream.topic, known, 1, 0.5) or known[:1]
            hint = f" (there is {near[0]})" if near and near[0] != stream.topic else ""
            return [problem(f"{where}: nobody publishes it{hint}", "is the driver running, the topic's name right?")]
        who = stream.publishers[0]
        if stream.transforms is not None and stream.others:
            return [problem(f"{where}: {self._no_pose(stream)}")]
        if stream.reliable and not who.reliable:
            return [problem(f"{where}: {who.node} publishes best effort", "qos: best_effort expected, not reliable")]
        if stream.latched and not who.transient:
            return [problem(f"{where}: {who.node} does not keep what it has published", "latched: false expected")]
        return [problem(f"{where}: nothing received", f"{who.node} publishes it, but is silent")]

    @staticmethod
    def _no_pose(stream: Stream) -> str:
        """Why what came on /tf did not say where the frame is."""
        assert stream.transforms is not None
        try:
            stream.transforms.pose(*stream.frames)
        except ValueError as error:
            return str(error)
        parent, child = stream.frames
        return f"nothing of {child!r} in {parent!r} has a stamp, a transform that moves with the arm expected"

    @staticmethod
    def _other_joints(stream: Stream, have: Sequence[str], missing: Sequence[str]) -> Finding:
        shown = ", ".join(have[:10]) + (" ..." if len(have) > 10 else "")
        return problem(f"{stream.name}: {stream.topic} has no joint {', '.join(missing)}", f"it has {shown}")

    def _missing_joints(self, stream: Stream) -> list[Finding]:
        missing = [name for name in stream.joints if name not in stream.newest]
        if missing:
            return [self._other_joints(stream, sorted(stream.newest), missing)]
        if not stream.whole:
            rule = "one driver for all of them expected"
            return [problem(f"{stream.name}: {stream.topic}: no message has all of {', '.join(stream.joints)}", rule)]
        return []

    def _timing(self, stream: Stream) -> list[Finding]:
        found = []
        where = f"{stream.name}: {stream.topic}"
        latency = self._latency(stream.name)
        if stream.ages:
            age = float(np.median(stream.ages)) + latency
            ahead = self._ahead(stream)
            if abs(age) > SIMULATED:
                rule = "the clock's time expected: does the driver stamp with /clock (--use-sim-time), or not at all?"
                return [problem(f"{where}: stamped {abs(age):.0f} s {'behind' if age > 0 else 'ahead of'} now", rule)]
            if abs(age) > MAX_AGE:
                side = "behind" if age > 0 else "ahead of"
                found.append(
                    problem(
                        f"{where}: stamped {abs(age):.3f} s {side} the clock, latency {latency:g} s",
                        f"at most {MAX_AGE:g} s expected: synchronise the clocks, or mend latency",
                    )
                )
            elif ahead and ahead + latency > _AHEAD:
                found.append(
                    warning(
                        f"{where}: its driver's clock is {1000 * ahead:.0f} ms ahead of ours",
                        "synchronised clocks, or a negative latency, expected",
                    )
                )
        return found + self._flow(stream, LEAST_RATE * self.spec.rate, self.spec.rate)

    def _flow(self, stream: Stream, least: float, usual: float) -> list[Finding]:
        """What is wrong with how often it comes, whatever its stamps; `least` and `usual` in Hz."""
        found = []
        where = f"{stream.name}: {stream.topic}"
        newest = max(other.last for other in self.survey.streams.values())
        if newest - stream.last > _SILENT:
            found.append(problem(f"{where}: silent for the last {newest - stream.last:.1f} s", "it was heard before"))
        elif stream.rate is None:
            many = f"{stream.count} message{'' if stream.count == 1 else 's'}"
            found.append(problem(f"{where}: {many}", f"about {usual:g} a second expected"))
        elif stream.rate < least:
            found.append(problem(f"{where}: comes at {stream.rate:.1f} Hz", f"at least {least:g} Hz expected"))
        if stream.conflict:
            found.append(problem(f"{stream.name}: {stream.conflict}"))
        return found

    def _content(self, stream: Stream) -> tuple[str, list[Finding]]:
        """What the messages hold, in words, and what of it is wrong."""
        try:
            if stream.name in self.robot.poses:
                return self._pose(stream)
            if stream.name in self.robot.numbers:
                return self._joints(stream)
            return self._picture(stream)
        except messages.MessageError as error:
            return "", [problem(f"{stream.name}: {stream.topic}: {error}")]

    def _pose(self, stream: Stream) -> tuple[str, list[Finding]]:
        source, base = self.robot.poses[stream.name], self.robot.base.frame
        if source.source == "pose":
            msg = stream.kept[-1]
            frame = messages.printable(msg.header.frame_id, 60)
            said = f"in {frame}"
            if msg.header.frame_id != base:
                return said, [
                    problem(f"{stream.name}: {stream.topic}: frame {frame!r}", f"base.frame {base!r} expected")
                ]
            _, position, quaternion = messages.pose_from_msg(msg)
        elif source.source == "tf":
            said = f"{source.child} in {source.parent}"
            assert stream.transforms is not None
            try:
                _, position, quaternion = stream.transforms.pose(source.parent, source.child)
            except ValueError as error:
                return said, [problem(f"{stream.name}: {stream.topic}: {error}")]
        else:
            said = f"{len(self.robot.joints)} joints"
            if wrong := self._missing_joints(stream):
                return said, wrong
            if self._arm is None:
                return said, []  # which has been said
            joints = [stream.newest[name] for name in self.robot.joints]
            try:
                position, quaternion = self._arm.forward(joints)
            except ValueError as error:
                return said, [problem(f"{stream.name}: {stream.topic}: {error}")]
            if beyond := self._arm.outside(joints, JOINT_SLACK):
                return said, [problem(f"{stream.name}: {stream.topic}: {beyond}")]
        if stream.name != HAND:
            return said, []
        return said, robot_check.check_hand(self.robot, self.spec, position, quaternion)

    def _joints(self, stream: Stream) -> tuple[str, list[Finding]]:
        joints = stream.joints
        said = f"of {', '.join(dict.fromkeys(joints))}"
        if wrong := self._missing_joints(stream):
            return said, wrong
        positions = np.array([stream.newest[name] for name in joints])
        if not np.all(np.isfinite(positions)):
            return said, [problem(f"{stream.name}: {stream.topic}: {positions.tolist()}", "finite numbers expected")]
        known = next((t for t in self.spec.inputs if t.name == stream.name), None)
        if known is None or known.shape != positions.shape:
            return said, []  # which compare has said
        return said, robot_check.check_numbers(self.robot, self.spec, stream.name, positions)

    def _picture(self, stream: Stream) -> tuple[str, list[Finding]]:
        msg, camera = stream.kept[-1], stream.name.removesuffix(IMAGE_SUFFIX)
        frame = messages.printable(msg.header.frame_id, 60)
        if self.robot.pictures[camera].compressed:
            said = messages.printable(msg.format, 40)
            _, image = messages.compressed_image_from_msg(msg)
        else:
            said = messages.printable(msg.encoding, 20)
            _, image = messages.image_from_msg(msg)
        said = f"{said} {image.shape[1]} x {image.shape[0]} in {frame or '?'}"
        found = robot_check.check_picture(self.robot, self.spec, camera, image)
        if not found and stream.name in self.spec.input_names:
            self._pictures[stream.name] = robot_check.fitted(self.robot, self.spec, camera, image)
        return said, found

    # -- what else is listened to

    def _read_description(self) -> None:
        where = self.robot.description
        if where is None:
            return
        needed = self.robot.needs_kinematics
        if where.file:
            try:
                texts = [Path(where.file).read_text()] if needed else []
            except (OSError, UnicodeDecodeError) as error:
                self._say(problem(f"description: {where.file}: {error}"))
                return
            self._fit(where.file, texts)
            return
        stream = self.survey.streams["description"]
        wrong = self._silence(stream)
        self._say(*(wrong if needed else [note(str(finding), "and nothing needs it") for finding in wrong]))
        # Once each, and the newest first, as that is the one which the executor takes of those that fit.
        texts = list(dict.fromkeys(str(msg.data) for msg in reversed(stream.kept)))
        if needed and not wrong:
            self._fit(stream.topic, texts)
        self.report.inputs.append(self._row(stream, f"{len(texts[0])} characters" if texts else "String"))

    def _fit(self, name: str, texts: Sequence[str]) -> None:
        """Takes the first of the descriptions that fits the file, as the executor does however many have come."""
        faults = []
        for text in texts:
            try:
                arm = read_arm(self.robot, text)
            except ValueError as error:
                faults.append(str(error))
            else:
                self._arm = self._arm or arm
        if self._arm is None and faults:
            self._say(problem(f"description: {name}: {faults[0]}"))
        elif faults:
            rule = "the arm's alone expected: it holds the robot if it comes while that moves"
            self._say(warning(f"description: {name}: another one does not fit: {faults[0]}", rule))

    def _arm_joints(self) -> None:
        """Of a joint output: where the arm is, by which it is moved on. Nobody asks for their stamps."""
        stream = self.survey.streams.get(ARM_JOINTS)
        if stream is None:
            return
        wrong = self._silence(stream) or self._missing_joints(stream)
        if not wrong:
            positions = [stream.newest[name] for name in stream.joints]
            if not np.all(np.isfinite(positions)):
                wrong = [problem(f"{stream.name}: {stream.topic}: {positions}", "finite numbers expected")]
        self._say(*(wrong or self._flow(stream, 1.0 / MAX_JOINTS_AGE, self.spec.rate)))
        self.report.inputs.append(self._row(stream, f"JointState {len(stream.joints)} joints"))

    def _ready(self, i: int) -> None:
        condition, stream = self.robot.ready[i], self.survey.streams[f"ready[{i}]"]
        what = stream.kind.split("/")[-1]
        if stream.not_installed and condition.optional:
            package = stream.kind.split("/")[0]
            self._say(note(f"{stream.name}: {stream.topic}: not watched, as {package} is not installed here"))
        elif wrong := self._silence(stream):
            self._say(*wrong)
        else:
            msg = stream.kept[-1]
            value = msg.code if hasattr(msg, "code") else msg.data
            what = f"{what} {str(value).lower() if isinstance(value, bool) else f'{value:g}'}"
            if reason := not_ready(condition, msg):
                self._say(problem(f"{stream.name}: {stream.topic}: {reason}", "the driver is not ready"))
            elif condition.max_age > 0 and not condition.latched:
                newest = max(other.last for other in self.survey.streams.values())
                if newest - stream.last > condition.max_age:
                    silent = f"silent for {newest - stream.last:.1f} s"
                    self._say(problem(f"{stream.name}: {stream.topic}: {silent}", f"max_age {condition.max_age:g} s"))
        self.report.inputs.append(self._row(stream, what))

    def _buttons(self) -> None:
        buttons = self.robot.buttons
        if buttons is None:
            self._say(note("the file has no buttons: enabled and stopped by services only"))
            return
        stream = self.survey.streams["buttons"]
        what = "Joy"
        if wrong := self._silence(stream):
            self._say(*wrong)
        else:
            many = len(stream.kept[-1].buttons)
            what = f"Joy of {many} buttons"
            for name, number in (("enable", buttons.enable), ("stop", buttons.stop), ("hold", buttons.hold)):
                if number is not None and number >= many:
                    self._say(
                        problem(f"buttons.{name}: {number}, {stream.topic} has {many}", "0 to that less 1 expected")
                    )
        self.report.inputs.append(self._row(stream, what))

    # -- outputs

    def _action(self) -> None:
        action = self.robot.action
        package = {"PoseStamped": "geometry", "TwistStamped": "geometry", "Twist": "geometry"}.get(action.type)
        package = package or {"JointTrajectory": "trajectory"}.get(action.type, "std")
        self._output("action", action.topic, f"{package}_msgs/msg/{action.type}")

    def _output(self, name: str, topic: str, kind: str) -> None:
        listeners, others = self.survey.subscribers(topic), self.survey.publishers(topic)
        wrong = [one for one in listeners if one.type != kind]
        if not listeners:
            self._say(
                problem(f"{name}: nobody listens to {topic}", "is the controller active, the topic's name right?")
            )
        elif len(wrong) == len(listeners):
            self._say(problem(f"{name}: {topic}: {wrong[0].node} takes {wrong[0].type}", f"{kind} would be sent"))
        if others:
            self._say(
                problem(f"{name}: {names(others)} publishes {topic} already", "one commander expected, this executor")
            )
        self.report.outputs.append(OutputRow(name, topic, kind.split("/")[-1], listeners, others))

    def _gripper(self) -> None:
        gripper = self.robot.gripper
        if gripper is None:
            return
        if gripper.output in ("joint_trajectory", "positions"):
            kind = "trajectory_msgs/msg/JointTrajectory"
            self._output(
                "gripper",
                gripper.name,
                kind if gripper.output == "joint_trajectory" else "std_msgs/msg/Float64MultiArray",
            )
            return
        action = messages.GRIPPER_ACTIONS[gripper.output]
        if messages.gripper_action_type(gripper.output) is None:
            self._say(problem("gripper: control_msgs is not installed here", f"it is needed for the action {action}"))
        # Those of an action that only its servers publish.
        servers = self.survey.publishers(f"{gripper.name}/_action/feedback")
        wrong = [one for one in servers if f"/{action}_" not in one.type]
        if not servers:
            self._say(problem(f"gripper: there is no action {gripper.name}", "is the gripper's driver running?"))
        elif wrong:
            kind = wrong[0].type.removesuffix("_FeedbackMessage")
            self._say(problem(f"gripper: {gripper.name} is of type {kind}", f"{action} expected"))
        self.report.outputs.append(OutputRow("gripper", gripper.name, action, servers, []))
