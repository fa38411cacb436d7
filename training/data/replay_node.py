"""A node without a graph: what subscribes to it is given the messages of a recording, at the times at which they came.

What makes frames live runs on it unchanged: it asks a node for subscriptions, the time and names, and for nothing else.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image

from diffusion_ros.ros.chunk_budget import Reading
from diffusion_ros.ros.messages import MessageError, compressed_image_from_msg, image_to_msg

_SENDER = {"publisher_gid": {"data": b"the recording"}}
"""Who sent a message, as rclpy tells it. A recording does not know: one for each topic."""


@dataclass(frozen=True)
class Subscription:
    """As rclpy's, as far as it is asked for."""

    topic_name: str
    """In full."""
    kind: type[Any]
    callback: Callable[..., object]
    raw: bool
    """Whether the callback is given bytes."""
    told: bool
    """Whether it is also told who sent a message, as Listener is."""


class ReplayNode:
    """Stands in for a RunnableNode."""

    def __init__(self, names: Mapping[str, str], namespace: str, kinds: Mapping[str, str]) -> None:
        """names: topics as they are subscribed to -> full names in the recording. Others are in namespace. kinds: full
        name -> type of its messages. Pictures may have been compressed for the recording."""
        self._names, self._namespace, self._kinds = dict(names), namespace, kinds
        self.time_ns = 0
        """When the message came that is being heard."""
        self.reading = Reading()
        self.subscriptions: dict[str, list[Subscription]] = {}
        """By full name."""

    def hear(self, topic: str, time_ns: int, content: bytes) -> None:
        """A serialized message came. topic: in full."""
        self.time_ns = time_ns
        for subscription in self.subscriptions.get(topic, ()):
            try:
                msg = content if subscription.raw else self._read(topic, subscription.kind, content)
            except (RuntimeError, MessageError):  # the middleware's own: what cannot be read, a bus does not deliver
                continue
            subscription.callback(msg, _SENDER) if subscription.told else subscription.callback(msg)

    def _read(self, topic: str, kind: type[Any], content: bytes) -> Any:
        if kind is not Image or not self._kinds[topic].endswith("/CompressedImage"):
            return deserialize_message(content, kind)
        packed = deserialize_message(content, CompressedImage)
        stamp_ns, image = compressed_image_from_msg(packed)
        return image_to_msg(image, stamp_ns, packed.header.frame_id)

    # What a node is asked for

    def create_subscription(
        self, msg_type: Any, topic: str, callback: Callable[..., object], qos_profile: Any, **options: Any
    ) -> Subscription:
        told = len(inspect.signature(callback).parameters) == 2  # which rclpy goes by, too
        found = Subscription(self.resolve_topic_name(topic), msg_type, callback, bool(options.get("raw", False)), told)
        self.subscriptions.setdefault(found.topic_name, []).append(found)
        return found

    def resolve_topic_name(self, topic: str) -> str:
        if topic in self._names:
            return self._names[topic]
        return topic if topic.startswith("/") else f"{self._namespace}/{topic}"

    def get_namespace(self) -> str:
        return self._namespace or "/"

    def get_logger(self) -> logging.Logger:
        return logging.getLogger("replay")

    def now_ns(self) -> int:
        return self.time_ns

    def seconds(self) -> float:
        return self.time_ns / 1e9

    def without_time(self) -> str:
        return ""
