"""A publisher that must have its topic alone: of two that command a robot neither may."""

from __future__ import annotations

from typing import Any

from rclpy.duration import Duration

from diffusion_ros.ros import topics
from diffusion_ros.ros.listener import Listener
from diffusion_ros.ros.publisher_monitor import PublisherMonitor
from diffusion_ros.ros.runner import RunnableNode

_ON_ITS_WAY_SECONDS = 0.5
"""A message takes no longer until it is heard."""


class SolePublisher:
    """Publishes, and listens to who else does, before the first message of our own and after the last, too."""

    def __init__(self, node: RunnableNode, kind: type[Any], topic: str) -> None:
        self._node, self._topic = node, topic
        self._publisher = node.create_publisher(kind, topic, topics.COMMAND_QOS)
        # Our own among them.
        self._heard = Listener.of_publishers(node, kind, topic, topics.WATCHED_QOS)
        self._told = -float("inf")
        """When we published last [s]."""

    @property
    def name(self) -> str:
        """Of the topic, as people know it."""
        return topics.shown(self._node, self._topic)

    def publish(self, msg: Any) -> None:
        self._told = self._node.seconds()
        self._publisher.publish(msg)

    def conflict(self) -> str:
        """'' or who else publishes."""
        silent = abs(self._node.seconds() - self._told) > PublisherMonitor.WINDOW_SECONDS + _ON_ITS_WAY_SECONDS
        return self._heard.conflict(0 if silent else 1)

    def deaf(self) -> str:
        """'' or that nobody else listens."""
        return "" if self._publisher.get_subscription_count() > 1 else f"{self.name}: nobody listens"

    def wait_until_heard(self, seconds: float) -> None:
        """Until all that was published has been taken by those who listen, so long at most."""
        self._publisher.wait_for_all_acked(Duration(seconds=seconds))
