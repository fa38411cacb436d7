"""recorder: writes what a robot sees and does into a bag, and where the episodes in it begin and end.

Callbacks stamp what has come and hand it over as it is; a thread of its own writes. Between episodes only the last
second is kept, which the next one begins with. Whatever goes wrong here, the robot goes on.
"""

from __future__ import annotations

import json
import os
import struct
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy
from sensor_msgs.msg import Joy
from std_msgs.msg import String
from std_srvs.srv import Trigger

from diffusion_ros import checkpoint, robot_file
from diffusion_ros.bags import BagWriter, json_of, stamp_ns
from diffusion_ros.control.recorded_episodes import EpisodeError, RecordedEpisodes
from diffusion_ros.control.stream_gaps import StreamGaps
from diffusion_ros.robot import FRAME_PREFIX, RATE, WORLD_FRAME, prefixed
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.bag_thread import CLOSED, FLUSH_SECONDS, BagThread, Kind, free_bytes, size
from diffusion_ros.ros.diagnostics import ERROR, OK, WARN, Diagnostics
from diffusion_ros.ros.params import declare, parameter
from diffusion_ros.ros.recorded_topics import (
    Recorded,
    as_offered,
    contract,
    merged,
    of_graph,
    of_robot,
    of_simulator,
    offered,
    type_name,
)
from diffusion_ros.ros.runner import RunnableNode, run
from diffusion_ros.ros.trusted_checkpoint import TrustedCheckpoint

_NICENESS = 5
"""Where processors are scarce, who moves the robot has them first."""
_DISCOVERY_SECONDS = 1.0
_RECENT_SECONDS = 5.0
"""How long it is said that something was dropped."""

_MOST_STEPS = 1_000_000
"""Of an episode: no news of one come so late."""


@dataclass(frozen=True)
class RecorderParameters(TrustedCheckpoint):
    """Parameters of the recorder node."""

    bag: str = parameter("", "the bag, a new folder, or a new file named *.mcap; '': runs/<task>-bag-<time>")
    robot: str = parameter(
        "",
        "YAML of a robot with drivers of its own, or a shipped one's name, whose topics are recorded; '': the"
        " simulator's",
    )
    checkpoint: str = parameter("", "policy checkpoint (.pt) whose inputs are recorded; '': none")
    task: str = parameter("", "what is done, for those who train on it; '': the checkpoint's task")
    mode: str = parameter(
        "realtime",
        "lockstep: stamps are a simulator's that waits, and no message may be lost; realtime: neither",
        choices=("realtime", "lockstep"),
    )
    rate: float = parameter(
        0.0, "control steps a second, for those who train on it [Hz]; 0: the checkpoint's, or 20", low=0
    )
    frame_prefix: str = parameter("", FRAME_PREFIX)
    compress: str = parameter(
        "", "how pictures are stored that come uncompressed; '': as they come", choices=("", "jpeg", "png")
    )
    jpeg_quality: int = parameter(95, "of JPEG pictures", low=1, high=100)
    topics: tuple[str, ...] = parameter((), "other topics that are recorded as soon as somebody publishes them")
    follow_episodes: bool = parameter(
        True, "whether a simulator's or a rehearsal's episodes are the recording's: from acting on to their end"
    )
    between_episodes: bool = parameter(False, "whether what comes between episodes is recorded, too")
    margin: float = parameter(
        1.0, "what is recorded before and after each episode [s], for what comes late", low=0.1, high=10.0
    )
    late: float = parameter(0.1, "a message that comes so much later than usual after its stamp is late [s]", low=0.0)
    max_queue: int = parameter(256, "what may wait for the disk [MB]; what comes beyond it is dropped", low=1)
    min_free: float = parameter(1.0, "free space on the disk below which the recording ends [GB]", low=0.0)


class RecorderNode(RunnableNode):
    """Subscribes to what the robot's file or the checkpoint's inputs name, and to what is made of it.

    Publishes recording and diagnostics. Services: ~/start, ~/success, ~/failure, ~/discard.
    """

    def __init__(self, parameter_overrides: Sequence[Parameter[Any]] = ()) -> None:
        """Raises ValueError (parameters, checkpoint, robot, bag) in one line, OSError."""
        super().__init__("recorder", parameter_overrides)
        self.parameters = p = declare(self, RecorderParameters, _completed)
        self._lockstep = p.mode == "lockstep"
        self.follows_clock &= not self._lockstep
        spec = checkpoint.read_spec(p.checkpoint, **p.trust) if p.checkpoint else None
        if spec is not None and spec.kind != "policy":
            raise ValueError(f"{p.checkpoint}: is {checkpoint.with_article(spec.kind)}, a policy is needed")
        self.robot = robot_file.read(Path(p.robot)) if p.robot else None
        own = of_simulator(spec, self._lockstep) if self.robot is None else of_robot(self.robot)
        recorded = merged([*of_graph(), *own])
        self._full_names = {one.topic: self.resolve_topic_name(one.topic) for one in recorded}
        frame = prefixed(p.frame_prefix, (spec.frame if spec is not None else "") or WORLD_FRAME)
        if self.robot is not None and (spec is None or not spec.frame):
            frame = self.robot.base.frame
        names = {key: self._stored(one) for one in recorded for key in one.keys}
        said = contract(self.robot, spec, p.task, p.rate, names, frame)
        self._max_bytes = p.max_queue * 1_000_000
        self._thread = self._begin(Path(p.bag), said)

        self.episodes = RecordedEpisodes()
        self._before: deque[tuple[float, str, Kind, int, bytes]] = deque()
        """What came before an episode: when [s], and what the bag is given."""
        self._before_bytes = 0
        self._early: dict[bool, deque[tuple[str, Kind, bytes]]] = {True: deque(), False: deque()}
        """What is always written, and came before the time was known: topics, and what is said once (True) or not."""
        self._early_bytes = 0
        self._until = -1.0
        """When what comes after an episode is not recorded any more [s]."""
        self._newest_ns = 0
        """Of the stamps that have come."""
        self._steps = 0
        """Actions that were executed in the episode."""
        self._kinds: dict[str, Kind] = {}
        self._gaps = {one.topic: StreamGaps(round(p.late * 1e9)) for one in recorded if one.stream}
        self._lost: Counter[str] = Counter()
        """By topic: what the middleware says that it has lost, and what was too much before the time was known."""
        self._dropped_before, self._dropped_at = 0, -_RECENT_SECONDS
        self._ignored = 0
        """What was said on the topic of episodes and is no news of one."""
        self._pressed: list[bool] | None = None

        self._publisher = self.create_publisher(String, topics.RECORDING, topics.DIAGNOSTICS_QOS)
        self.diagnostics = Diagnostics(self, "recorder", self._refresh)
        self.diagnostics.value("bag", p.bag)
        self._subscriptions_made = [self._subscribe(one) for one in recorded]
        cameras = [topic for one in recorded if (topic := _camera_info(one))]
        taken = {*self._full_names.values(), *names.values()}
        awaited = {self.resolve_topic_name(topic): topic for topic in (*cameras, *p.topics)}
        self._awaited = {name: topic for name, topic in awaited.items() if name not in taken}
        """By name in full: topics that are recorded once somebody publishes them, as the graph knows them then."""
        if self.robot is not None and self.robot.record is not None:
            self.create_subscription(Joy, self.robot.record.topic, self._on_joy, topics.WATCHED_QOS)
        for name, callback in (
            ("start", self._on_start),
            ("success", self._on_success),
            ("failure", self._on_failure),
            ("discard", self._on_discard),
        ):
            self.create_service(Trigger, f"~/{name}", callback)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(FLUSH_SECONDS, self._tell, clock=steady)
        self.create_timer(_DISCOVERY_SECONDS, self._look_around, clock=steady)

    def _begin(self, folder: Path, said: Mapping[str, Any]) -> BagThread:
        """Raises ValueError, OSError."""
        p = self.parameters
        parent = next(path for path in folder.absolute().parents if path.exists())
        if (free := free_bytes(parent)) < p.min_free * 1e9:
            raise ValueError(f"bag {folder}: {free / 1e9:.2f} GB free, at least min_free {p.min_free:g} GB expected")
        prefix = self.resolve_topic_name("x").removesuffix("x")
        writer = BagWriter(folder, said, prefix)
        return BagThread(writer, self._max_bytes, round(p.min_free * 1e9), p.compress, p.jpeg_quality)

    def _stored(self, one: Recorded) -> str:
        """What a topic is called in the bag."""
        packed = self.parameters.compress and type_name(one.kind) == "sensor_msgs/msg/Image"
        return self._full_names[one.topic] + ("/compressed" if packed else "")

    def _subscribe(self, one: Recorded) -> Any:
        callback = partial(self._on_message, one)
        if one.newest:
            return self.create_subscription(one.kind, one.topic, callback, one.qos, raw=True)
        events = SubscriptionEventCallbacks(message_lost=partial(self._on_lost, one.topic))
        try:
            return self.create_subscription(one.kind, one.topic, callback, one.qos, raw=True, event_callbacks=events)
        except UnsupportedEventTypeError:  # this middleware does not tell
            return self.create_subscription(one.kind, one.topic, callback, one.qos, raw=True)

    def _look_around(self) -> None:
        """Subscribes to what was awaited, once somebody publishes it."""
        for name, topic in list(self._awaited.items()):
            publishers = self.get_publishers_info_by_topic(name)
            if not publishers:
                continue
            del self._awaited[name]
            kind = messages.message_type(publishers[0].topic_type)
            if kind is None:
                self.get_logger().warning(f"{name}: {publishers[0].topic_type} is not installed here: not recorded")
                continue
            self._full_names.setdefault(topic, name)
            asked = topic in self.parameters.topics
            one = Recorded(topic, kind, as_offered(publishers), (), always=asked, newest=not asked)
            self._subscriptions_made.append(self._subscribe(one))

    # Callbacks: stamp and hand over

    def _on_message(self, one: Recorded, content: bytes) -> None:
        now_ns, content = self.now_ns(), bytes(content)
        self.diagnostics.tick(one.topic)
        if self._thread.stopped:  # no episode begins any more
            return
        stamp = stamp_ns(content) if one.stream or one.topic == topics.EXECUTED_ACTION else None
        if stamp is not None:
            self._newest_ns = stamp
        if one.topic == topics.EPISODE:
            self._follow(content)
        elif one.topic == topics.EXECUTED_ACTION:
            if self.parameters.follow_episodes:
                self._note(self.episodes.acted(self._lockstep), stamp)
            self._steps += self.episodes.running
        elif one.stream and stamp is not None:
            # In lockstep stamps are of another clock, which stands still at times.
            self._gaps[one.topic].came(stamp, stamp if self._lockstep else now_ns, self.episodes.running)
        name, kind = self._full_names[one.topic], self._kind(one)
        if self.follows_clock and now_ns == 0:  # no /clock yet: the bag would begin in 1970
            if one.always:
                self._keep(one, kind, content)
            return
        self._write_early(now_ns)
        if one.always or self._writes():
            self._thread.put(name, kind, now_ns, content)
        else:
            self._before.append((self.seconds(), name, kind, now_ns, content))
            self._before_bytes += size(content)
            self._forget()

    def _keep(self, one: Recorded, kind: Kind, content: bytes) -> None:
        """Until the time is known; without it nothing is too old, but there may be too much. Then the oldest goes that
        is said again, and what is said once only if there is nothing else."""
        once = one.qos.durability == DurabilityPolicy.TRANSIENT_LOCAL
        self._early[once].append((one.topic, kind, content))
        self._early_bytes += size(content)
        while self._early_bytes > self._max_bytes // 2:
            topic, _, forgotten = (self._early[False] or self._early[True]).popleft()
            self._early_bytes -= size(forgotten)
            self._lost[topic] += 1

    def _write_early(self, now_ns: int) -> None:
        for waiting in self._early.values():
            for topic, kind, content in waiting:
                self._thread.put(self._full_names[topic], kind, now_ns, content)
            waiting.clear()
        self._early_bytes = 0

    def _writes(self) -> bool:
        return self.episodes.running or self.parameters.between_episodes or self.seconds() < self._until

    def _forget(self) -> None:
        oldest = self.seconds() - self.parameters.margin
        most = self._max_bytes // 2  # so that it can all be handed over at once
        while self._before and (self._before[0][0] < oldest or self._before_bytes > most):
            self._before_bytes -= size(self._before.popleft()[-1])

    def _kind(self, one: Recorded) -> Kind:
        """Asked of the graph once, when the first message of a topic has come: then its publisher is known."""
        if one.topic not in self._kinds:
            publishers = self.get_publishers_info_by_topic(self._full_names[one.topic])
            profile = publishers[0].qos_profile if publishers else one.qos
            self._kinds[one.topic] = type_name(one.kind), offered(profile)
        return self._kinds[one.topic]

    def _on_lost(self, topic: str, status: Any) -> None:
        self._lost[topic] += status.total_count_change

    def _follow(self, content: bytes) -> None:
        if not self.parameters.follow_episodes:
            return
        try:
            news, steps = _news(content, self.parameters.rate)
        except (ValueError, TypeError, OverflowError, RecursionError, IndexError, struct.error) as error:
            self._ignored += 1
            self.diagnostics.value("episode news ignored", self._ignored)
            self.diagnostics.report(WARN, f"{topics.EPISODE}: ignored: {' '.join(str(error).split())}")
            return
        event = self.episodes.heard(news)
        # Nobody has said which rows were executed: the news come a few steps after the first.
        self._note(event, self._stamp() - (steps if event and event["event"] == "start" else 0))

    # Episodes

    def _note(self, event: dict[str, Any] | None, stamp: int | None = None) -> None:
        """Writes an event; stamp: when it was in the clock of the stamps [ns], now by default."""
        if event is None:
            return
        stamp = self._stamp() if stamp is None else stamp
        if event["event"] == "start":
            self._steps = 0
            self._forget()
            for _, name, kind, received_ns, content in self._before:
                self._thread.put(name, kind, received_ns, content)
            self._before.clear()
            self._before_bytes = 0
        else:
            event = {**event, "steps": self._steps}
            self._until = self.seconds() + self.parameters.margin
        self._thread.event(self.now_ns(), {**event, "stamp_ns": stamp})

    def _stamp(self) -> int:
        """Now, in the clock of the stamps [ns]."""
        return self._newest_ns if self._lockstep else self.now_ns()

    def _asked(self, act: Callable[[], dict[str, Any]]) -> str:
        """'' where it was done, or why not."""
        if self._thread.stopped:
            return f"stopped: {self._thread.stopped}"
        try:
            self._note(act())
        except EpisodeError as error:
            return str(error)
        return ""

    def _answer(self, response: Any, act: Callable[[], dict[str, Any]]) -> Any:
        why = self._asked(act)
        counts = ", ".join(f"{many} {name}" for name, many in self.episodes.counts.items() if many)
        response.success = not why
        response.message = why or f"episode {self.episodes.number}" + (f"; {counts}" if counts else "")
        return response

    def _on_start(self, request: Any, response: Any) -> Any:
        """An episode begins."""
        return self._answer(response, self.episodes.start)

    def _on_success(self, request: Any, response: Any) -> Any:
        """The episode ends, and has succeeded."""
        return self._answer(response, partial(self.episodes.finish, "success"))

    def _on_failure(self, request: Any, response: Any) -> Any:
        """The episode ends, and has failed."""
        return self._answer(response, partial(self.episodes.finish, "failure"))

    def _on_discard(self, request: Any, response: Any) -> Any:
        """The episode is thrown away, or the last one if none runs."""
        return self._answer(response, self.episodes.discard)

    def _on_joy(self, msg: Joy) -> None:
        assert self.robot is not None and self.robot.record is not None
        record, before, now = self.robot.record, self._pressed, messages.buttons_from_msg(msg)
        self._pressed = now
        if before is None:  # a button that is held since before we listened
            return
        for number, act in (
            (record.start, self.episodes.start),
            (record.success, partial(self.episodes.finish, "success")),
            (record.failure, partial(self.episodes.finish, "failure")),
            (record.discard, self.episodes.discard),
        ):
            if _is_down(now, number) and not _is_down(before, number) and (why := self._asked(act)):
                self.get_logger().warning(why)

    # What it says of itself

    def dropped(self) -> dict[str, int]:
        """By topic, where any are: messages that are not in the bag and should be."""
        names = [*self._full_names]
        missing = {name: self._gaps[name].missing if name in self._gaps else 0 for name in names}
        # A message that the middleware lost is a gap in the stamps as well.
        found = {
            name: max(missing[name], self._lost[name]) + self._thread.dropped[self._full_names[name]] for name in names
        }
        return {name: count for name, count in found.items() if count}

    def state(self) -> dict[str, Any]:
        """What `recording` says."""
        thread = self._thread
        stopped = thread.stopped
        return {
            "state": "stopped" if stopped else "recording" if self.episodes.running else "idle",
            "reason": stopped,
            "episode": self.episodes.number,
            "episodes": dict(self.episodes.counts),
            "steps": self._steps,
            "messages": thread.written,
            "dropped": sum(self.dropped().values()),
            "late": sum(gaps.late for gaps in self._gaps.values()),
            "disk_free_gb": round(thread.free / 1e9, 3),
            "bag": self.parameters.bag,
        }

    def _tell(self) -> None:
        thread = self._thread
        thread.tick()
        if thread.full and not thread.stopped:
            self._end(thread.full)
            thread.close(thread.full)
        elif thread.stopped and self.episodes.running:
            self.episodes.finish("end", thread.stopped)
        state = self.state()
        if state["dropped"] > self._dropped_before:
            self._dropped_before, self._dropped_at = state["dropped"], time.monotonic()
        self._publisher.publish(messages.episode_to_msg(state))

    def _refresh(self) -> None:
        state, dropped = self.state(), self.dropped()
        for name in ("state", "episode", "steps", "messages", "dropped", "late", "disk_free_gb"):
            self.diagnostics.value(name, state[name])
        for name, count in dropped.items():
            self.diagnostics.value(f"{topics.shown(self, name)} dropped", count)
        by_topic = ", ".join(f"{topics.shown(self, name)} {count}" for name, count in dropped.items())
        if state["reason"]:
            self.diagnostics.report(ERROR, f"stopped: {state['reason']}")
        elif faults := self._thread.faults.copy():  # the thread may add one meanwhile
            self.diagnostics.report(WARN, _listed(faults))
        elif time.monotonic() - self._dropped_at < _RECENT_SECONDS:
            why = _listed(self._thread.refused.copy())
            self.diagnostics.report(WARN, f"messages dropped: {by_topic}{'; ' if why else ''}{why}")
        elif self.episodes.running:
            self.diagnostics.report(OK, f"recording episode {self.episodes.number}")
        else:
            self.diagnostics.report(OK, "no episode runs")

    def _end(self, reason: str) -> None:
        """Of an episode that nobody ended."""
        if self.episodes.running:
            self._note(self.episodes.finish("end", reason))

    def close(self) -> None:
        """What has come and waits for its turn is recorded, too: the end of the last episode is in it. A bag that is
        not whole, or ended before its time, is an error, and its exit status 1."""
        try:
            self._take_what_waits()
            self._end("the recorder was stopped")
        finally:
            self._thread.close()
            if self._thread.stopped != CLOSED:
                self.get_logger().error(f"stopped: {self._thread.stopped}")
                self.exit_status = 1

    def _take_what_waits(self) -> None:
        for subscription in self._subscriptions_made:
            for _ in range(subscription.qos_profile.depth):
                with subscription.handle:
                    waiting = subscription.handle.take_message(subscription.msg_type, True)
                if waiting is None:
                    break
                subscription.callback(waiting[0])


def _news(content: bytes, rate: float) -> tuple[dict[str, Any], int]:
    """What a simulator says of its episode, and how long its `step` steps take [ns].

    Raises ValueError, TypeError, OverflowError, RecursionError, IndexError, struct.error for what is no news.
    """
    news = json_of(content)
    if not isinstance(news, dict):
        raise ValueError(f"{str(news)[:50]!r}, a JSON object expected")
    json.dumps([news.get("index"), news.get("seed")], allow_nan=False)  # an event is written so, which has them
    steps = int(news.get("step") or 0)
    if not 0 <= steps <= _MOST_STEPS:
        raise ValueError(f"step {str(steps)[:50]}, 0 to {_MOST_STEPS} expected")
    return news, round(steps / rate * 1e9)


def _listed(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{topic}: {why}" for topic, why in reasons.items())


def _is_down(pressed: Sequence[bool], number: int | None) -> bool:
    return number is not None and number < len(pressed) and pressed[number]


def _camera_info(one: Recorded) -> str:
    """The topic of the camera's matrix beside its pictures, '' for what are no pictures."""
    if type_name(one.kind) not in ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"):
        return ""
    folder = one.topic.removesuffix("/compressed").rpartition("/")[0]
    return f"{folder}/camera_info" if folder else ""


def _completed(p: RecorderParameters) -> RecorderParameters:
    """What was given, and the checkpoint's where nothing was."""
    spec = checkpoint.read_spec(p.checkpoint, **p.trust) if p.checkpoint else None
    task = p.task or (spec.task if spec is not None else "")
    name = f"{task or 'session'}-bag-{time.strftime('%Y%m%d-%H%M%S')}"
    return replace(
        p,
        robot=str(robot_file.find(p.robot)) if p.robot else "",
        task=task,
        rate=p.rate or (spec.rate if spec is not None else RATE),
        bag=str(Path(p.bag or Path("runs", name)).absolute()),
    )


def main() -> int:
    os.nice(_NICENESS)
    return run(RecorderNode)


if __name__ == "__main__":
    raise SystemExit(main())
