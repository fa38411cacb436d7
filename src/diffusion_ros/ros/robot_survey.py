"""Listens to everything that a robot's file names, for a while, and notes what comes. Nothing is ever published."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from geometry_msgs.msg import PoseStamped
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image, JointState, Joy
from std_msgs.msg import String

from diffusion_ros.robot_file import HAND, PictureSource, ReadyCondition, RobotFile
from diffusion_ros.ros.hand_source import LATCHED_QOS
from diffusion_ros.ros.listener import MAX_BYTES
from diffusion_ros.ros.messages import MessageError, message_type, printable
from diffusion_ros.ros.publisher_monitor import PublisherMonitor
from diffusion_ros.ros.runner import RunnableNode
from diffusion_ros.ros.transforms import Transforms
from diffusion_ros.spec import IMAGE_SUFFIX

ARM_JOINTS = "arm joints"
"""Stream of the joints that a joint output needs, where the hand does not come from them."""
TF_KIND = "tf2_msgs/msg/TFMessage"
_KEEP_SECONDS = 0.1
"""Between two messages that are kept whole; of all others only the stamp is read."""
_KEEP_PICTURE_SECONDS = 0.5


_DISCOVERY_SECONDS = 3.0


@dataclass(frozen=True)
class Endpoint:
    """Who publishes or subscribes."""

    node: str
    type: str
    reliable: bool
    transient: bool
    """Whether what was published before is still had."""


@dataclass
class Stream:
    """What came of one thing that was listened to."""

    name: str
    """The observation, or what else it is for."""
    topic: str
    """After remapping."""
    kind: str
    """The message's type, as the graph names it."""
    reliable: bool = False
    latched: bool = False
    joints: tuple[str, ...] = ()
    """Those of a joint_states that count; a message with none of them does not."""
    keep_every: float = _KEEP_SECONDS
    count: int = 0
    first: float = 0.0
    """s, of the steady clock."""
    last: float = 0.0
    ages: list[float] = field(default_factory=list)
    """s from each stamp to when it was received; negative where the driver's clock is ahead."""
    kept: list[Any] = field(default_factory=list)
    """Some of the messages."""
    last_kept: float = 0.0
    newest: dict[str, float] = field(default_factory=dict)
    """Of joint_states: the newest position of every joint."""
    foreign: set[str] = field(default_factory=set)
    """Joints in messages that have none of those that count."""
    whole: int = 0
    """Messages that have all of the joints that count."""
    transforms: Transforms | None = None
    """What came on /tf and /tf_static, where that is listened to."""
    frames: tuple[str, str] = ("", "")
    """Parent and child on /tf: what makes the pose between them no newer does not count."""
    stamp_ns: int = 0
    """Of the newest such pose."""
    others: int = 0
    """Messages on /tf that made it no newer."""
    faults: dict[str, int] = field(default_factory=dict)
    """Why messages could not be read, and how many."""
    conflict: str = ""
    """'' or who else sends the same."""
    publishers: list[Endpoint] = field(default_factory=list)
    not_installed: bool = False
    """Whether the message's type is not known here, so that nothing could be listened to."""

    @property
    def rate(self) -> float | None:
        """Messages a second [Hz]; None for fewer than three."""
        return (self.count - 1) / (self.last - self.first) if self.count > 2 and self.last > self.first else None


class RobotSurvey:
    """Subscriptions of a node to what a robot's file names.

    now: the clock that stamps are compared with [ns]; None: when the middleware received the message.
    """

    def __init__(self, node: RunnableNode, robot: RobotFile, now: Callable[[], int] | None = None) -> None:
        self._node, self._now = node, now
        self.streams: dict[str, Stream] = {}
        """By name: observations as in the file, and ARM_JOINTS, 'description', 'buttons', 'ready[i]'."""
        self._monitors: dict[str, PublisherMonitor] = {}
        self._to: dict[str, list[Stream]] = {}
        for stream in _streams(robot):
            self._listen(stream)

    def _listen(self, stream: Stream) -> None:
        stream.topic = self._node.resolve_topic_name(stream.topic)
        self.streams[stream.name] = stream
        key = f"{stream.topic} {stream.kind} {stream.reliable} {stream.latched}"
        others = self._to.setdefault(key, [])
        others.append(stream)
        self._monitors[stream.name] = PublisherMonitor(self._node, stream.topic)
        if len(others) > 1:
            return
        cls = message_type(stream.kind)
        if cls is None:
            stream.not_installed = True
            return
        stamped = "header" in cls.get_fields_and_field_types()
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=LATCHED_QOS.depth if stream.latched else 10,
            reliability=ReliabilityPolicy.RELIABLE
            if stream.reliable or stream.latched
            else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if stream.latched else DurabilityPolicy.VOLATILE,
        )

        def take(raw: bytes, info: Mapping[str, Any]) -> None:
            self._take(others, cls, stamped, raw, info)

        # What does not fit is told from the graph, once and in words: not by rclpy's own warning.
        quiet = SubscriptionEventCallbacks(use_default_callbacks=False)
        self._node.create_subscription(cls, stream.topic, take, qos, raw=True, event_callbacks=quiet)

    def _take(
        self, streams: Iterable[Stream], cls: Any, stamped: bool, received: bytes, info: Mapping[str, Any]
    ) -> None:
        if self._now is None:
            here, now = time.monotonic(), int(info["received_timestamp"])
        elif (now := self._now()) > 0:
            here = now / 1e9
        else:
            return  # there is no time yet
        raw = bytes(received)
        age = (now - _stamp_ns(raw)) / 1e9 if stamped and len(raw) >= 12 else None
        msg: Any = None
        for stream in streams:
            due = not stream.kept or here - stream.last_kept >= stream.keep_every
            if msg is None and (due or stream.joints or stream.transforms is not None):
                limit = MAX_BYTES if cls is JointState else None
                try:
                    if limit is not None and len(raw) > limit:
                        raise MessageError(f"{len(raw)} bytes, at most {limit} expected")
                    msg = deserialize_message(raw, cls)
                except (MessageError, RuntimeError) as error:
                    line = printable(" ".join(str(error).split()))
                    stream.faults[line] = stream.faults.get(line, 0) + 1
                    continue
            if stream.joints and not self._concerns(stream, msg):
                continue
            if stream.transforms is None:
                self._monitors[stream.name].heard(info, stream.topic)
            elif self._renews(stream.transforms, stream, msg):  # and of /tf there are many publishers by right
                age = (now - stream.stamp_ns) / 1e9
            else:
                stream.others += 1
                continue
            stream.first = stream.first or here
            stream.last = here
            stream.count += 1
            if age is not None:
                stream.ages.append(age)
            if due:
                stream.last_kept = here
                stream.kept.append(msg)

    @staticmethod
    def _renews(transforms: Transforms, stream: Stream, msg: Any) -> bool:
        """Whether a message on /tf gives the pose a stamp that it did not have."""
        transforms.take(msg.transforms, always=stream.latched)
        try:
            stamp_ns = transforms.pose(*stream.frames)[0]
        except ValueError:
            return False
        if not stamp_ns or stamp_ns == stream.stamp_ns:
            return False
        stream.stamp_ns = stamp_ns
        return True

    @staticmethod
    def _concerns(stream: Stream, msg: JointState) -> bool:
        names = list(msg.name)
        if not set(names) & set(stream.joints):
            stream.foreign.update(printable(name, 60) for name in names[:32])
            return False
        stream.whole += set(stream.joints) <= set(names)
        stream.newest.update(zip(names, msg.position, strict=False))
        return True

    def listen(self, seconds: float, stop: Callable[[], bool] = lambda: False) -> None:
        """Takes what comes for so long, then asks the graph who it is from. The time until the first of the robot's
        nodes is found, of _DISCOVERY_SECONDS at most, does not count."""
        executor = SingleThreadedExecutor(context=self._node.context)
        executor.add_node(self._node)
        try:
            end = time.monotonic() + _DISCOVERY_SECONDS
            while time.monotonic() < end and not stop() and not self._found():
                executor.spin_once(timeout_sec=0.05)
            end = time.monotonic() + seconds
            while time.monotonic() < end and not stop():
                executor.spin_once(timeout_sec=0.05)
        finally:
            executor.remove_node(self._node)
            executor.shutdown()
        for stream in self.streams.values():
            stream.publishers = self.publishers(stream.topic)
            stream.conflict = self._monitors[stream.name].reason()

    def _found(self) -> bool:
        return any(self.publishers(stream.topic) for stream in self.streams.values())

    def publishers(self, topic: str) -> list[Endpoint]:
        """Of a topic, or what it is called after remapping; none of our own."""
        return self._endpoints(self._node.get_publishers_info_by_topic(self._node.resolve_topic_name(topic)))

    def subscribers(self, topic: str) -> list[Endpoint]:
        return self._endpoints(self._node.get_subscriptions_info_by_topic(self._node.resolve_topic_name(topic)))

    def topics_of(self, kind: str) -> list[str]:
        """All topics of a type that are published."""
        return [
            topic
            for topic, kinds in self._node.get_topic_names_and_types()
            if kind in kinds and self._node.count_publishers(topic)
        ]

    def _endpoints(self, infos: Iterable[Any]) -> list[Endpoint]:
        found = []
        for info in infos:
            name = f"{info.node_namespace.rstrip('/')}/{info.node_name}"
            if name != self._node.get_fully_qualified_name():
                qos = info.qos_profile
                found.append(
                    Endpoint(
                        printable(name, 80),
                        info.topic_type,
                        qos.reliability == ReliabilityPolicy.RELIABLE,
                        qos.durability == DurabilityPolicy.TRANSIENT_LOCAL,
                    )
                )
        return found


def _streams(robot: RobotFile) -> list[Stream]:
    found = []
    for name, pose in robot.poses.items():
        kind = {"pose": _kind(PoseStamped), "tf": TF_KIND, "fk": _kind(JointState)}[pose.source]
        joints = robot.joints if pose.source == "fk" else ()
        stream = Stream(name, pose.topic, kind, pose.reliable, joints=joints)
        found.append(stream)
        if pose.source == "tf":
            stream.transforms, stream.frames = Transforms(), (pose.parent, pose.child)
            static = Stream(f"{name}: static", f"{pose.topic}_static", kind, latched=True)
            static.transforms, static.frames = stream.transforms, stream.frames
            found.append(static)
    if robot.action.output.startswith("joint_") and robot.poses[HAND].source != "fk":
        found.append(Stream(ARM_JOINTS, robot.joint_states, _kind(JointState), joints=robot.joints))
    for name, source in robot.numbers.items():
        found.append(Stream(name, source.topic, _kind(JointState), source.reliable, joints=source.joints))
    for camera, picture in robot.pictures.items():
        found.append(_picture_stream(camera, picture))
    if robot.description is not None and robot.description.topic:
        found.append(Stream("description", robot.description.topic, _kind(String), latched=True, keep_every=0.0))
    for i, condition in enumerate(robot.ready):
        found.append(_ready_stream(i, condition))
    if robot.buttons is not None:
        found.append(Stream("buttons", robot.buttons.topic, _kind(Joy)))
    return found


def _picture_stream(camera: str, picture: PictureSource) -> Stream:
    kind = _kind(CompressedImage if picture.compressed else Image)
    return Stream(f"{camera}{IMAGE_SUFFIX}", picture.topic, kind, picture.reliable, keep_every=_KEEP_PICTURE_SECONDS)


def _ready_stream(i: int, condition: ReadyCondition) -> Stream:
    package, name = condition.type.split("/")
    return Stream(f"ready[{i}]", condition.topic, f"{package}/msg/{name}", latched=condition.latched, keep_every=0.0)


def _kind(cls: Any) -> str:
    package = cls.__module__.split(".")[0]
    return f"{package}/msg/{cls.__name__}"


def _stamp_ns(raw: bytes) -> int:
    """Of a serialised message that begins with a header: CDR's four bytes, then seconds and nanoseconds."""
    seconds, nanoseconds = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)
