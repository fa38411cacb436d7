"""Recorded sessions: from a bag's messages to episodes, by the code that makes a policy's frames live.

    bag -> ReplayNode -> RobotObservations or SimulatorObservations -> FrameSource -> frames   (as in nodes/policy_node)
        -> rows of executed_action, episodes of recording_event

Frames equal the live ones bit for bit. Messages are heard in their order of arrival, at their times of arrival, with
the same checks, latencies and interpolation. A bag does not know who sent a message: a second publisher, which makes a
policy hold, is not noticed here. Frames that a policy would not act on (a frozen camera, inputs that come too seldom)
are left out.

A step of an episode is a row that was executed, and the frame of its time:

- Simulator: the frame of the very stamp that the row answers.
- A robot's file: rows come at the executor's times, frames at the camera's. A row is due when it shows, action.latency
  after it began: a policy that is shown a frame of that time has to answer with that row. So rows are the clock, and
  frames are thinned by them as SpacedWindow thins them live: to each row the nearest frame, where one after it counts
  an eighth of a step more. Each row is there once, so that the sum of the motions is right. A frame is there twice
  only where a camera lost pictures, or is slower than the rows (`match`). A row without a frame within one step is left
  out, and so are frames before the first row and after the last.
- A hold leaves no steps: nothing is executed then. Its frames show a robot that waits for somebody, and a policy that
  learnt from them would wait as well. The episode goes on behind it. A robot that holds stays where it is: a window
  across the hold shows it standing once more, and has the rows behind the hold, which were to be done there.
- A row that is replaced within half a step of its beginning (by a new chunk, or a person who takes over) is left out:
  it has hardly moved anything. A policy's chunks do that often, as their rows begin at other times than those of the
  chunk before; in a rehearsal steps of 50 ms are 51 to 52 ms apart then, and would be 46 if fewer were left out.

At a rate that is a fraction of the session's the motions of several rows become one. Those at the end of a run that do
not fill one are left out.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros import robot_file, yaml_file
from diffusion_ros.bags import EVENT
from diffusion_ros.control.observation import HISTORY_NS, Frame
from diffusion_ros.control.pictures import PictureError, fit
from diffusion_ros.nodes.policy_node import PolicyParameters, frame_rules
from diffusion_ros.robot import EEF_POS, EEF_QUAT, FINGERS, GRIPPER_QPOS, OBJECT_POS, OBJECT_QUAT
from diffusion_ros.robot_check import POSES, compare_inputs
from diffusion_ros.robot_file import HAND, RobotFile
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.frame_source import FrameSource
from diffusion_ros.ros.robot_observations import RobotObservations
from diffusion_ros.ros.simulator_observations import SimulatorObservations
from diffusion_ros.spec import FITTED, IMAGE_SUFFIX, CheckpointSpec, TensorSpec
from training.data.bag_file import BagFile, Contract, read_contract, text_of
from training.data.episodes import Episode, Layout
from training.data.replay_node import ReplayNode
from training.data.row_frames import Kept, Row, folded, nearest, same_stamps

Array = NDArray[np.float64]
Picture = NDArray[np.uint8]

EXECUTED = "executed_action"
_COMMAND = "command"
"""What the contract calls eef_command."""
_NUMBERS = {EEF_POS: 3, EEF_QUAT: 4, GRIPPER_QPOS: len(FINGERS), OBJECT_POS: 3, OBJECT_QUAT: 4}
"""Of the simulator."""
_ENDS = {"success": True, "failure": False, "end": None, "discard": None}
_LOOSE = 256
"""Rows that are kept for an episode whose beginning is said after them."""
_TAIL_NS = HISTORY_NS + 500_000_000
"""How long after an episode's end its last frames may be complete: parts wait for each other for HISTORY_NS."""


@dataclass(frozen=True)
class _Event:
    """What is said of an episode."""

    name: str
    number: int
    stamp_ns: int
    """In the clock of the stamps."""


@dataclass
class _Recorded:
    """An episode while it is read."""

    start: _Event
    rows: list[Row] = field(default_factory=list)
    end: _Event | None = None
    ended_ns: int = 0
    """When its end came, by the clock of arrivals."""

    def has(self, row: Row) -> bool:
        """Whether a row began in it; the events may have come before or after it."""
        return self.start.stamp_ns <= row.stamp_ns and (self.end is None or row.stamp_ns <= self.end.stamp_ns)


class Bag:
    """One recorded session. Raises ValueError, in one line, here and while it is read."""

    def __init__(
        self,
        path: Path,
        observations: Sequence[str] | None = (),
        size: tuple[int, int] | None = None,
        rate: float | None = None,
        robot: Path | None = None,
    ) -> None:
        """observations: names of inputs (robot0_eef_pos, agentview_image, ...); () those of the session's checkpoint,
        or all where it had none; None: all that were recorded. size: height and width of pictures, fitted as live;
        None: as recorded, less the crop. rate: control steps a second, the session's or a whole fraction of it; None:
        the session's. robot: a YAML in the place of the one in the bag, for one whose latencies, say, were measured
        afterwards."""
        self.path = path
        self.file = BagFile(path)
        self.contract = read_contract(self.file)
        self.left_out: Counter[str] = Counter()
        """What did not become steps, and why; of the last reading."""
        self._fold = _fold(path, self.contract, rate)
        self._rate = self.contract.rate / self._fold
        self._robot = self._read_robot(robot)
        self._size = size
        self._names = self._choose(observations)
        self._spec = self._specification()
        self._check()
        self._events = {t for t in self.file.topics if t == f"{self.contract.namespace}/{EVENT}"}
        self._rows_topic, self._read_row = self._find_rows()
        self._labels = self._read_labels()
        if not self._labels:
            raise ValueError(f"{path}: no episode in it but such as were discarded, at least one expected")
        self.layout = self._make_layout()

    # What the session is

    def _read_robot(self, path: Path | None) -> RobotFile | None:
        if path is not None:
            return robot_file.read(path)
        if not self.contract.robot:
            return None
        # As long as this is: the description is read each time that the bag is.
        file = Path(tempfile.mkdtemp()) / "robot.yaml"
        weakref.finalize(self, shutil.rmtree, file.parent, ignore_errors=True)
        file.write_text(self.contract.robot)
        try:
            if self.contract.description:
                content = yaml_file.load(file)
                (file.parent / "robot.urdf").write_text(self.contract.description)
                file.write_text(yaml.safe_dump({**content, "description": {"file": "robot.urdf"}}))
            return replace(robot_file.read(file), path=self.path)
        except ValueError as error:
            raise ValueError(str(error).replace(str(file), f"{self.path}: the robot's YAML")) from None

    def _choose(self, wanted: Sequence[str] | None) -> tuple[str, ...]:
        """The observations, each with its topic in the bag."""
        offered = self._offered()
        # Of the simulator's some are published for some tasks only.
        there = [name for name, topic in offered.items() if self._robot is not None or topic in self.file.topics]
        if wanted is None:
            wanted = [name for name in there if offered[name] in self.file.topics]
        names = tuple(wanted or self._spec_names() or there)
        if not names or len(set(names)) != len(names):
            raise ValueError(f"{self.path}: observations {', '.join(names) or 'none'}: each once expected")
        for name in names:
            if name not in offered:
                whose = "the robot's YAML" if self._robot is not None else "the session"
                raise ValueError(
                    f"{self.path}: observation {name}: {whose} has none of that name, it has {', '.join(there)}"
                )
            if offered[name] not in self.file.topics:
                raise ValueError(f"{self.path}: observation {name}: its topic {offered[name]} is not in the bag")
        if (robot := self._robot) is not None and robot.poses[HAND].source == "fk" and robot.description is not None:
            described = self._node().resolve_topic_name(robot.description.topic or "/")
            if robot.description.topic and described not in self.file.topics:
                raise ValueError(f"{self.path}: observation {HAND}: the description {described} is not in the bag")
        return names

    def _offered(self) -> dict[str, str]:
        """Observation -> full name of its topic, of all that there may be."""
        node = self._node()
        if self._robot is None:
            named = (*self.contract.topics, *self._spec_names())
            names = {name: topics.source(name) for name in _NUMBERS}
            names |= {name: topics.source(name) for name in named if name.endswith(IMAGE_SUFFIX)}
        else:
            names = {name: source.topic for pose, source in self._robot.poses.items() for name in POSES[pose]}
            names |= {name: source.topic for name, source in self._robot.numbers.items()}
            names |= {f"{camera}{IMAGE_SUFFIX}": source.topic for camera, source in self._robot.pictures.items()}
        return {name: node.resolve_topic_name(topic) for name, topic in names.items()}

    def _spec_names(self) -> tuple[str, ...]:
        return () if self.contract.spec is None else self.contract.spec.input_names

    def _node(self) -> Any:
        """Any: it is no RunnableNode, but has all that is asked of one."""
        recorded = self.contract.topics
        if self._robot is None:
            keys: list[tuple[str, str]] = [(name, topics.source(name)) for name in _NUMBERS]
            keys += [(name, topics.source(name)) for name in recorded if name.endswith(IMAGE_SUFFIX)]
            keys += [(_COMMAND, topics.EEF_COMMAND)]
        else:
            robot = self._robot
            keys = [(name, source.topic) for pose, source in robot.poses.items() for name in (*POSES[pose], pose)]
            keys += [(name, source.topic) for name, source in robot.numbers.items()]
            keys += [(f"{name}_static", f"{source.topic}_static") for name, source in robot.poses.items()]
            keys += [(f"{camera}{IMAGE_SUFFIX}", source.topic) for camera, source in robot.pictures.items()]
            keys += [] if robot.description is None else [("robot_description", robot.description.topic)]
        names = {topic: recorded[key] for key, topic in [*keys, (EXECUTED, EXECUTED)] if key in recorded}
        return ReplayNode(names, self.contract.namespace, self.file.topics)

    def _specification(self) -> CheckpointSpec:
        """What a checkpoint of these observations would say, as far as observing goes."""
        contract = self.contract
        known = {} if contract.spec is None else {tensor.name: tensor for tensor in contract.spec.inputs}
        inputs = tuple(self._tensor(name, known.get(name)) for name in self._names)
        if contract.spec is not None:
            return replace(contract.spec, inputs=inputs, rate=self._rate, pictures=FITTED, typical={})
        return CheckpointSpec(
            kind="policy",
            task=contract.task,
            environment=contract.task,
            inputs=inputs,
            outputs=(TensorSpec("action", (contract.action.width,), "float32", "m, rad; gripper", contract.frame),),
            rate=self._rate,
            horizon=1,
            n_obs_steps=1,
            n_action_steps=1,
            action_low=contract.action_low,
            action_high=contract.action_high,
            pictures=FITTED,
        )

    def _check(self) -> None:
        if self._robot is not None and (wrong := compare_inputs(self._robot, self._spec)):
            raise ValueError(f"{self._robot.path}: {wrong[0]}")
        for tensor in self._spec.inputs:
            if tensor.name.endswith(IMAGE_SUFFIX):
                self._fitted(tensor.name, np.zeros(tensor.shape, np.uint8))

    def _tensor(self, name: str, known: TensorSpec | None) -> TensorSpec:
        if name.endswith(IMAGE_SUFFIX):
            recorded = self._recorded_size(name)
            # The simulator's are taken as they come, and fitted behind that.
            height, width = recorded if self._size is None or self._robot is None else self._size
            return TensorSpec(name, (height, width, 3), "uint8", "rgb", "")
        if known is not None:
            return known
        if name in _NUMBERS and (self._robot is None or name not in self._robot.numbers):
            return TensorSpec(name, (_NUMBERS[name],), "float32", "", self.contract.frame)
        assert self._robot is not None
        return TensorSpec(name, (len(self._robot.numbers[name].joints),), "float32", "", "")

    def _recorded_size(self, name: str) -> tuple[int, int]:
        """Height and width of the first picture that can be read, less the crop."""
        source = None if self._robot is None else self._robot.pictures[name.removesuffix(IMAGE_SUFFIX)]
        topic = self._offered()[name]
        kind = messages.message_type(self.file.topics[topic])
        wrong = "no picture of it in the bag"
        for _, _, content in self.file.messages([topic]):
            try:
                msg = deserialize_message(content, kind)
                packed = isinstance(msg, CompressedImage)
                _, image = messages.compressed_image_from_msg(msg) if packed else messages.image_from_msg(msg)
                if source is not None and source.crop is not None:
                    image = fit(image, source.crop[3], source.crop[2], source.crop)
            except (ValueError, RuntimeError) as error:
                wrong = str(error)
                continue
            return int(image.shape[0]), int(image.shape[1])
        raise ValueError(f"{self.path}: observation {name}: {topic}: {wrong}")

    def _make_layout(self) -> Layout:
        contract, spec = self.contract, self._spec
        most = np.maximum(np.abs(contract.action_low), np.abs(contract.action_high))
        if contract.action.kind == "delta":
            most[:6] *= self._fold
        pictures = {tensor.name: tensor.shape[:2] for tensor in spec.inputs if tensor.name.endswith(IMAGE_SUFFIX)}
        return Layout(
            environment=spec.environment,
            robot=contract.robot_name,
            rate=self._rate,
            actions=contract.action,
            scale=tuple(most.tolist()),
            numbers={tensor.name: tensor.shape[0] for tensor in spec.inputs if tensor.name not in pictures},
            pictures={name: self._size or (height, width) for name, (height, width) in pictures.items()},
            # A person's rows are like those of the session's checkpoint, and all is in its frame.
            base_pose=spec.base_pose if self._robot is not None else (),
            response=self._response(),
            executed=True,
        )

    def _response(self) -> tuple[float, ...]:
        """Of the session's checkpoint. The simulator's own arm needs none said."""
        if self._robot is None or not self._spec.response:
            return ()
        if self._fold > 1:
            rule = f"the session's {self.contract.rate:g} Hz expected: rows of an arm that lags cannot be joined"
            raise ValueError(f"{self.path}: rate {self._rate:g} Hz, {rule}")
        return self._spec.response

    # Rows and episodes

    def _find_rows(self) -> tuple[str, Callable[[bytes], tuple[int, Array, bool | None] | None]]:
        """The topic of the rows, and what reads one: stamp [ns], row, whether a person's; None for a hold."""
        node = self._node()
        executed = node.resolve_topic_name(EXECUTED)
        if executed in self.file.topics:
            return executed, _executed
        command = node.resolve_topic_name(topics.EEF_COMMAND)
        if self._robot is None and command in self.file.topics:
            return command, _commanded
        instead = f" nor {command}" if self._robot is None else ""
        raise ValueError(f"{self.path}: no {executed}{instead} in the bag: what was executed is not known")

    def _read_labels(self) -> dict[int, bool | None]:
        """Number -> success of the episodes that were not discarded."""
        labels: dict[int, bool | None] = {}
        discarded = set()
        for _, _, content in self.file.messages(self._events):
            event = self._event(content)
            if event.name == "start":
                labels[event.number] = None
            elif event.name == "discard":
                discarded.add(event.number)
            elif event.number in labels and _ENDS[event.name] is not None:
                labels[event.number] = _ENDS[event.name]
        return {number: success for number, success in labels.items() if number not in discarded}

    def _event(self, content: bytes) -> _Event:
        fields = text_of(content)
        fields = fields if isinstance(fields, dict) else {}
        event, number, stamp_ns = (fields.get(name) for name in ("event", "episode", "stamp_ns"))
        if event not in ("start", *_ENDS) or type(number) is not int or type(stamp_ns) is not int:
            known = ", ".join(("start", *_ENDS))
            raise ValueError(
                f"{self.path}: {EVENT} {event!r} of episode {number!r} at {stamp_ns!r}, one of {known}, a number and a"
                " stamp expected"
            )
        return _Event(event, number, stamp_ns)

    def episodes(self) -> Iterator[Episode]:
        """In order. Reads the bag once, and again the stretch of an episode for each call of one of its pictures."""
        self.left_out.clear()
        node = self._node()
        frames: deque[Kept] = deque()
        place = 0
        pictures = _Numbered()

        def observe(frame: Frame) -> None:
            if source.trusted():
                frames.append(Kept(frame, place, node.time_ns))
            else:
                self.left_out[f"frames: {'; '.join(source.frozen_reasons) or _words(source.too_slow())}"] += 1

        source = _IndexedFrames(node, self._spec, self._robot, self._rules(), observe, lambda: None, _UNSAID)
        source.pictures, source.left_out = pictures, self.left_out
        made = 0
        running: _Recorded | None = None
        ended: deque[_Recorded] = deque()
        loose: deque[Row] = deque(maxlen=_LOOSE)
        wanted = {*self._events, self._rows_topic, *node.subscriptions}
        for topic, time_ns, content in self.file.messages(wanted):
            place += 1
            if topic in self._events:
                event = self._event(content)
                if running is not None and (event.name == "start" or event.number == running.start.number):
                    running.end, running.ended_ns = event, time_ns
                    ended.append(running)
                    running = None
                if event.name == "start":
                    running = _Recorded(event)
                    for row in loose:
                        self._add_row(running, row)
                    loose.clear()
            elif topic == self._rows_topic:
                if (found := self._read(content, place)) is None:
                    continue
                if running is not None:
                    self._add_row(running, found)
                elif ended and ended[-1].has(found):
                    self._add_row(ended[-1], found)
                else:
                    loose.append(found)
            else:
                pictures.came(topic, time_ns)
                node.hear(topic, time_ns, content)
                while ended and time_ns - ended[0].ended_ns > _TAIL_NS:
                    for episode in self._finish(ended.popleft(), frames):
                        made += 1
                        yield episode
                if running is None and not ended:
                    while frames and time_ns - frames[0].time_ns > _TAIL_NS:
                        frames.popleft()
        if running is not None:  # whoever recorded was killed
            ended.append(running)
        for last in ended:
            for episode in self._finish(last, frames):
                made += 1
                yield episode
        if not made:
            why = "; ".join(f"{count} {what}" for what, count in self.left_out.most_common(3))
            raise ValueError(f"{self.path}: no episode has a step{f': {why}' if why else ''}")

    def _read(self, content: bytes, place: int) -> Row | None:
        """None for a hold, and for what is no row."""
        try:
            found = self._read_row(content)
        except ValueError as error:
            self.left_out[f"rows: {error}"] += 1
            return None
        if found is None:
            return None
        stamp_ns, values, person = found
        latency = 0.0 if self._robot is None else self._robot.action.latency
        return Row(stamp_ns, stamp_ns + round(latency * 1e9), values, person, place)

    def _add_row(self, recording: _Recorded, row: Row) -> None:
        if not recording.has(row):
            return
        rows = recording.rows
        if self._robot is None:
            # The same observation answered again: the last counts.
            if rows and rows[-1].stamp_ns == row.stamp_ns:
                rows.pop()
        elif rows and row.stamp_ns < rows[-1].stamp_ns:
            self._leave_out("rows: before the clock went back", len(rows))
            rows.clear()
        elif rows and row.stamp_ns - rows[-1].stamp_ns < self._row_ns // 2:
            self._leave_out("rows: replaced within half a step", 1)
            rows.pop()
        rows.append(row)

    @property
    def _row_ns(self) -> int:
        return round(1e9 / self.contract.rate)

    def _finish(self, recorded: _Recorded, frames: deque[Kept]) -> Iterator[Episode]:
        """The episode of what came: one, or none where it was discarded or has no steps."""
        if recorded.start.number not in self._labels:
            return
        rows = (
            recorded.rows
            if self._fold == 1
            else list(folded(recorded.rows, self._fold, self._row_ns, self.contract.action))
        )
        self._leave_out(
            "rows: a run too short for a step of the lower rate", len(recorded.rows) - self._fold * len(rows)
        )
        found = same_stamps(rows, frames) if self._robot is None else nearest(rows, frames, self._spec.period_ns)
        steps = [(row, kept.frame) for row, kept in zip(rows, found, strict=True) if kept is not None]
        self._leave_out("rows: no frame of their time", len(rows) - len(steps))
        if not steps:
            return
        values = {name: [frame.values[name] for _, frame in steps] for name in self._names}
        people = [row.person for row, _ in steps]
        executed = np.array([row.values for row, _ in steps], np.float64)
        yield Episode(
            numbers={name: np.array(values[name], np.float64) for name in self.layout.numbers},
            pictures={
                name: partial(self._pictures, name, [(int(key[0]), int(key[1])) for key in values[name]])
                for name in self.layout.pictures
            },
            actions=executed,
            stamps=np.array([frame.stamp_ns for _, frame in steps], np.int64),
            success=self._labels[recorded.start.number],
            person=None if None in people else np.array(people, np.bool_),
            executed=executed,
        )

    def _leave_out(self, what: str, count: int) -> None:
        if count:
            self.left_out[what] += count

    # Frames

    def _rules(self) -> Any:
        """The policy node's, by its defaults."""
        if self._robot is None:
            # What comes too late for its stamp to be used cannot be told in a simulator's own time.
            parameters = PolicyParameters(checkpoint="", mode="lockstep", frame_id=self.contract.frame)
        else:
            parameters = PolicyParameters(checkpoint="", sync_tolerance=self._spec.period_ns / 2e9)
        return frame_rules(parameters)

    def frames(self) -> Iterator[Frame]:
        """All that a policy node would have made, with their pictures, one after the other as they became complete;
        those that it would not have acted on are among them."""
        node = self._node()
        found: list[Frame] = []
        FrameSource(node, self._spec, self._robot, self._rules(), found.append, lambda: None, _UNSAID)
        for heard in self.file.messages([*node.subscriptions]):
            node.hear(*heard)
            while found:
                frame = found.pop(0)
                yield Frame(frame.stamp_ns, {name: self._fitted(name, part) for name, part in frame.values.items()})

    def _fitted(self, name: str, part: NDArray[Any]) -> NDArray[Any]:
        if self._size is None or not name.endswith(IMAGE_SUFFIX):
            return part
        try:
            return fit(part, *self._size)
        except PictureError as error:
            raise ValueError(f"{self.path}: observation {name}: {error}") from None

    def _pictures(self, name: str, keys: Sequence[tuple[int, int]]) -> Iterator[Picture]:
        """Those that came so, in that order."""
        node, reader = self._node(), _Reader()
        if self._robot is None:
            SimulatorObservations(node, self._spec, reader, self.contract.frame, FINGERS, (1.0, 1.0), True)
        else:
            RobotObservations(node, self._robot, self._spec, reader)
        topic = self._offered()[name]
        uses, ready = Counter(keys), dict[tuple[int, int], Picture]()
        waiting = deque(keys)
        numbered = _Numbered()
        times = [time_ns for time_ns, _ in keys]
        for _, time_ns, content in self.file.messages([topic], min(times), max(times)):
            numbered.came(topic, time_ns)
            if numbered.newest not in uses:
                continue
            reader.camera, reader.picture_read = name.removesuffix(IMAGE_SUFFIX), None
            node.hear(topic, time_ns, content)
            assert reader.picture_read is not None  # it could be read before
            ready[numbered.newest] = reader.picture_read
            while waiting and waiting[0] in ready:
                key = waiting.popleft()
                uses[key] -= 1
                picture: Picture = self._fitted(name, ready[key] if uses[key] else ready.pop(key))
                yield picture
        if waiting:
            raise ValueError(
                f"{self.path}: {topic}: {len(waiting)} pictures of an episode are gone, the bag has changed"
            )


def _fold(path: Path, contract: Contract, rate: float | None) -> int:
    """How many rows make a step."""
    if rate is None:
        return 1
    fold = round(contract.rate / rate) if 0 < rate < math.inf else 0
    if fold < 1 or abs(contract.rate / fold - rate) > 1e-6 * rate:
        raise ValueError(
            f"{path}: rate {rate:g} Hz, the session's {contract.rate:g} or a whole fraction of it expected"
        )
    if fold > 1 and contract.action.kind == "delta" and contract.action.axes == "tool":
        raise ValueError(f"{path}: rate {rate:g} Hz, of deltas in the tool's axes the session's expected")
    return fold


def _words(reason: str) -> str:
    """A reason without its numbers, so that those of one kind are counted together."""
    return "".join("#" if c.isdigit() else c for c in reason)


class _Unsaid:
    """Nobody asks for diagnostics."""

    def value(self, name: str, value: object) -> None:
        pass

    def tick(self, name: str) -> None:
        pass


_UNSAID = _Unsaid()


class _Numbered:
    """Numbers messages of a topic: time of arrival, and which of those that came then."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, int]] = {}
        self.newest = (0, 0)

    def came(self, topic: str, time_ns: int) -> None:
        last = self._last.get(topic)
        self.newest = time_ns, 0 if last is None or last[0] != time_ns else last[1] + 1
        self._last[topic] = self.newest


class _IndexedFrames(FrameSource):
    """In its frames stands for each picture where it is in the bag (2), so that a session needs no memory for them."""

    pictures: _Numbered
    left_out: Counter[str]

    def part(self, image: Picture) -> NDArray[Any]:
        return np.array(self.pictures.newest, np.int64)

    def refused(self, key: str, error: ValueError) -> None:
        super().refused(key, error)
        self.left_out[f"messages: {_words(self.faults[key])}"] += 1


class _Reader:
    """A Receiver that reads one camera's pictures."""

    camera = ""
    picture_read: Picture | None = None

    def values(self, key: str, stamp_ns: int, values: Mapping[str, Array]) -> None:
        pass

    def picture(self, key: str, camera: str, read: Callable[[], tuple[int, Picture]]) -> None:
        if camera == self.camera:
            self.picture_read = read()[1]

    def refused(self, key: str, error: ValueError) -> None:
        pass


def _executed(content: bytes) -> tuple[int, Array, bool]:
    executed = messages.executed_from_msg(deserialize_message(content, JointTrajectory))
    return executed.stamp_ns, executed.row, executed.person


def _commanded(content: bytes) -> tuple[int, Array, None] | None:
    """eef_command, whose zeros mean hold."""
    stamp_ns, row = messages.command_from_msg(deserialize_message(content, JointTrajectory))
    return (stamp_ns, row, None) if np.any(row) else None
