"""Frames of a recorded session, by the code that makes a policy's frames live.

    bag -> ReplayNode -> RobotObservations or SimulatorObservations -> FrameSource -> frames   (as in nodes/policy_node)

They equal the live ones bit for bit. Messages are heard in their order of arrival, at their times of arrival, with the
same checks, latencies and interpolation. A bag does not know who sent a message: a second publisher, which makes a
policy hold, is not noticed here.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffusion_ros.control.observation import Frame
from diffusion_ros.nodes.policy_parameters import PolicyParameters, frame_rules
from diffusion_ros.robot import FINGERS
from diffusion_ros.ros.frame_source import FrameRules, FrameSource
from diffusion_ros.ros.robot_observations import RobotObservations
from diffusion_ros.ros.simulator_observations import SimulatorObservations
from diffusion_ros.spec import IMAGE_SUFFIX
from training.data.row_frames import Kept
from training.data.session import Session

Array = NDArray[np.float64]
Picture = NDArray[np.uint8]


def frames(session: Session) -> Iterator[Frame]:
    """All that a policy node would have made, with their pictures, one after the other as they became complete; those
    that it would not have acted on are among them."""
    node = session.node()
    found: list[Frame] = []
    FrameSource(node, session.spec, session.robot, _rules(session), found.append, lambda: None, _UNSAID)
    for heard in session.file.messages([*node.subscriptions]):
        node.hear(*heard)
        while found:
            frame = found.pop(0)
            yield Frame(frame.stamp_ns, {name: session.fitted(name, part) for name, part in frame.values.items()})


class TrustedFrames:
    """Frames that a policy would have acted on, of messages that are heard one after the other. In each stands for a
    picture where it is in the bag (2): time of arrival and which of those that came then. So a session needs no memory
    for its pictures. A frozen camera's frames are left out, and those of inputs that come too seldom."""

    def __init__(self, session: Session, left_out: Counter[str]) -> None:
        """left_out: counts what does not become frames, and why."""
        self.kept: deque[Kept] = deque()
        """The oldest first; who needs one no longer takes it away."""
        self._left_out = left_out
        self._node = session.node()
        self._place = 0
        self._numbered = _Numbered()
        self._source = _IndexedFrames(
            self._node, session.spec, session.robot, _rules(session), self._observe, lambda: None, _UNSAID
        )
        self._source.numbered, self._source.left_out = self._numbered, left_out
        self.topics = frozenset(self._node.subscriptions)
        """Full names of what is to be heard."""

    def hear(self, topic: str, time_ns: int, content: bytes, place: int) -> None:
        """A serialized message came. place: among all that came, in their order."""
        self._place = place
        self._numbered.came(topic, time_ns)
        self._node.hear(topic, time_ns, content)

    def _observe(self, frame: Frame) -> None:
        source = self._source
        if source.trusted():
            self.kept.append(Kept(frame, self._place, self._node.time_ns))
        else:
            self._left_out[f"frames: {'; '.join(source.frozen_reasons) or _words(source.too_slow())}"] += 1


def pictures(session: Session, name: str, keys: Sequence[tuple[int, int]]) -> Iterator[Picture]:
    """One camera's, by where they are in the bag (`TrustedFrames`), in that order. name: the observation."""
    node, reader = session.node(), _Reader()
    if session.robot is None:
        SimulatorObservations(node, session.spec, reader, session.contract.frame, FINGERS, (1.0, 1.0), True)
    else:
        RobotObservations(node, session.robot, session.spec, reader)
    topic = session.topic(name)
    uses, ready = Counter(keys), dict[tuple[int, int], Picture]()
    waiting = deque(keys)
    numbered = _Numbered()
    times = [time_ns for time_ns, _ in keys]
    for _, time_ns, content in session.file.messages([topic], min(times), max(times)):
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
            picture: Picture = session.fitted(name, ready[key] if uses[key] else ready.pop(key))
            yield picture
    if waiting:
        raise ValueError(
            f"{session.path}: {topic}: {len(waiting)} pictures of an episode are gone, the bag has changed"
        )


def _rules(session: Session) -> FrameRules:
    """The policy node's, by its defaults."""
    if session.robot is None:
        # What comes too late for its stamp to be used cannot be told in a simulator's own time.
        parameters = PolicyParameters(checkpoint="", mode="lockstep", frame_id=session.contract.frame)
    else:
        parameters = PolicyParameters(checkpoint="", sync_tolerance=session.spec.period_ns / 2e9)
    return frame_rules(parameters)


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
    """With where a picture is in the place of each."""

    numbered: _Numbered
    left_out: Counter[str]

    def part(self, image: Picture) -> NDArray[Any]:
        return np.array(self.numbered.newest, np.int64)

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
