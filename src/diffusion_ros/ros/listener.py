"""Listener: a subscription to what moves a robot. Its publishers are watched, its messages bounded, its errors caught.

The callback reads the message. For one that must not be used it raises messages.MessageError; then `refused` is called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState

from diffusion_ros.ros.messages import MessageError, printable
from diffusion_ros.ros.publisher_monitor import PublisherMonitor
from diffusion_ros.ros.runner import RunnableNode

M = TypeVar("M")


class JointFilter:
    """Picks the joint_states that a node needs, because two drivers may publish arm and fingers."""

    def __init__(self, joints: Sequence[str], whole: bool = False) -> None:
        """whole: messages with some of the joints only are others' as well."""
        self.joints = tuple(joints)
        self._wanted = all if whole else any
        self._others = ""

    def __call__(self, msg: JointState) -> bool:
        if self._wanted(name in msg.name for name in self.joints):
            return True
        self._others = printable(", ".join(msg.name[:16]) or "none", 120)
        return False

    def nothing(self) -> str:
        """What to say when nothing of them has come."""
        others = f" of {', '.join(self.joints)}, but of {self._others}" if self._others else ""
        return f"nothing received{others}"


MAX_BYTES = 65_536
"""Of messages with lists, where nothing else is said: rclpy takes 30 us to read one point of a trajectory, so that a
message of 60,000 would blind a node for two seconds. A chunk of 256 rows is 24,000 bytes."""


class Listener(Generic[M]):
    """Subscribes `node` to `topic`.

    Args:
        callback: takes a message.
        refused: takes why a message is not used and the message, None where it was too large to be read.
        max_bytes: serialised messages that are longer are not even read, with 0 none is: only who publishes is noted;
            None where the type has no lists of messages.
        monitor: that of several topics which one publisher must have alone; None: one of this topic's own.
        concerns: whether a message counts at all, where a topic has several publishers by right.
        timeless: whether it does not matter when a message came. What else comes while the node does not know the
            time (RunnableNode.without_time) is refused.
    """

    def __init__(
        self,
        node: RunnableNode,
        kind: type[M],
        topic: str,
        callback: Callable[[M], object],
        refused: Callable[[MessageError, M | None], object],
        qos: QoSProfile,
        max_bytes: int | None = None,
        monitor: PublisherMonitor | None = None,
        concerns: Callable[[M], bool] | None = None,
        timeless: bool = False,
    ) -> None:
        self._node, self._timeless = node, timeless
        self._kind, self._callback, self._refused = kind, callback, refused
        self._max_bytes = max_bytes
        self._concerns = concerns
        self._subscription = node.create_subscription(kind, topic, self.take, qos, raw=max_bytes is not None)
        self.topic_name: str = self._subscription.topic_name
        """After remapping."""
        self.monitor = PublisherMonitor(node, self.topic_name) if monitor is None else monitor

    def take(self, received: Any, info: Any) -> None:
        """What rclpy calls: a message, serialised where it is bounded, and who sent it."""
        msg: M | None = None
        problem = ""
        if self._max_bytes is None:
            msg = received
        elif len(received) > self._max_bytes:
            problem = f"{len(received)} bytes, at most {self._max_bytes} expected"
        else:
            try:
                msg = deserialize_message(bytes(received), self._kind)
            except RuntimeError as error:  # the middleware's own
                problem = f"cannot be read: {' '.join(str(error).split())}"
        if msg is not None and self._concerns is not None and not self._concerns(msg):
            return
        self.monitor.heard(info, self.topic_name)
        self._node.reading.begin(info.get("received_timestamp", 0))
        try:
            if msg is None:
                raise MessageError(problem)
            if not self._timeless and (unknown := self._node.without_time()):
                raise MessageError(unknown)
            self._callback(msg)
        except MessageError as error:
            self._refused(error, msg)
        finally:
            self._node.reading.end()

    @classmethod
    def of_publishers(cls, node: RunnableNode, kind: type[M], topic: str, qos: QoSProfile) -> Listener[M]:
        """Reads nothing: only who publishes on a topic of one's own is noted, oneself among them."""
        return cls(node, kind, topic, lambda msg: None, lambda error, msg: None, qos, max_bytes=0)

    def take_waiting(self) -> None:
        """Takes what waits in the queue now: rclpy runs timers first, however long a message has been there."""
        for _ in range(self._subscription.qos_profile.depth):
            with self._subscription.handle:
                waiting = self._subscription.handle.take_message(self._kind, self._max_bytes is not None)
            if waiting is None:
                return
            self.take(*waiting)

    def stop(self) -> None:
        """Hears no more."""
        self._node.destroy_subscription(self._subscription)

    def conflict(self, expected: int = 1) -> str:
        """'' or who else publishes here. expected: how many may."""
        return self.monitor.reason(expected)
