"""Recorded sessions as episodes.

    bag -> replayed_frames -> frames, as a policy is given them
        -> rows of executed_action, episodes of recording_event

Frames that a policy would not act on (a frozen camera, inputs that come too seldom) are left out.

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

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray
from rclpy.serialization import deserialize_message
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros.bags import EVENT
from diffusion_ros.control.observation import HISTORY_NS
from diffusion_ros.ros import messages, topics
from training.data.bag_file import text_of
from training.data.episodes import Episode
from training.data.replayed_frames import TrustedFrames, pictures
from training.data.row_frames import Kept, Row, folded, nearest, same_stamps
from training.data.session import EXECUTED, Session

Array = NDArray[np.float64]

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

    def __init__(self, session: Session) -> None:
        self.session = session
        self.left_out: Counter[str] = Counter()
        """What did not become steps, and why; of the last reading."""
        self._events = {t for t in session.file.topics if t == f"{session.contract.namespace}/{EVENT}"}
        self._rows_topic, self._read_row = self._find_rows()
        self._labels = self._read_labels()
        if not self._labels:
            raise ValueError(f"{session.path}: no episode in it but such as were discarded, at least one expected")
        self.layout = session.layout()

    def _find_rows(self) -> tuple[str, Callable[[bytes], tuple[int, Array, bool | None] | None]]:
        """The topic of the rows, and what reads one: stamp [ns], row, whether a person's; None for a hold."""
        session = self.session
        node = session.node()
        executed = node.resolve_topic_name(EXECUTED)
        if executed in session.file.topics:
            return executed, _executed
        command = node.resolve_topic_name(topics.EEF_COMMAND)
        if session.robot is None and command in session.file.topics:
            return command, _commanded
        instead = f" nor {command}" if session.robot is None else ""
        raise ValueError(f"{session.path}: no {executed}{instead} in the bag: what was executed is not known")

    def _read_labels(self) -> dict[int, bool | None]:
        """Number -> success of the episodes that were not discarded."""
        labels: dict[int, bool | None] = {}
        discarded = set()
        for _, _, content in self.session.file.messages(self._events):
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
                f"{self.session.path}: {EVENT} {event!r} of episode {number!r} at {stamp_ns!r}, one of {known}, a"
                " number and a stamp expected"
            )
        return _Event(event, number, stamp_ns)

    def episodes(self) -> Iterator[Episode]:
        """In order. Reads the bag once, and again the stretch of an episode for each call of one of its pictures."""
        self.left_out.clear()
        heard = TrustedFrames(self.session, self.left_out)
        frames = heard.kept
        place = 0
        made = 0
        running: _Recorded | None = None
        ended: deque[_Recorded] = deque()
        loose: deque[Row] = deque(maxlen=_LOOSE)
        wanted = {*self._events, self._rows_topic, *heard.topics}
        for topic, time_ns, content in self.session.file.messages(wanted):
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
                heard.hear(topic, time_ns, content, place)
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
            raise ValueError(f"{self.session.path}: no episode has a step{f': {why}' if why else ''}")

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
        robot = self.session.robot
        latency = 0.0 if robot is None else robot.action.latency
        return Row(stamp_ns, stamp_ns + round(latency * 1e9), values, person, place)

    def _add_row(self, recording: _Recorded, row: Row) -> None:
        if not recording.has(row):
            return
        rows = recording.rows
        if self.session.robot is None:
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
        return round(1e9 / self.session.contract.rate)

    def _finish(self, recorded: _Recorded, frames: deque[Kept]) -> Iterator[Episode]:
        """The episode of what came: one, or none where it was discarded or has no steps."""
        session, fold = self.session, self.session.fold
        if recorded.start.number not in self._labels:
            return
        rows = recorded.rows
        if fold > 1:
            rows = list(folded(recorded.rows, fold, self._row_ns, session.contract.action))
        self._leave_out("rows: a run too short for a step of the lower rate", len(recorded.rows) - fold * len(rows))
        found = same_stamps(rows, frames) if session.robot is None else nearest(rows, frames, session.spec.period_ns)
        steps = [(row, kept.frame) for row, kept in zip(rows, found, strict=True) if kept is not None]
        self._leave_out("rows: no frame of their time", len(rows) - len(steps))
        if not steps:
            return
        values = {name: [frame.values[name] for _, frame in steps] for name in session.spec.input_names}
        people = [row.person for row, _ in steps]
        executed = np.array([row.values for row, _ in steps], np.float64)
        yield Episode(
            numbers={name: np.array(values[name], np.float64) for name in self.layout.numbers},
            pictures={
                name: partial(pictures, session, name, [(int(key[0]), int(key[1])) for key in values[name]])
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


def _executed(content: bytes) -> tuple[int, Array, bool]:
    executed = messages.executed_from_msg(deserialize_message(content, JointTrajectory))
    return executed.stamp_ns, executed.row, executed.person


def _commanded(content: bytes) -> tuple[int, Array, None] | None:
    """eef_command, whose zeros mean hold."""
    stamp_ns, row = messages.command_from_msg(deserialize_message(content, JointTrajectory))
    return (stamp_ns, row, None) if np.any(row) else None
