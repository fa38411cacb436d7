"""A simulator that must have its topics alone: two on the same would move each other's robots, so that the second one
must not start.
"""

from __future__ import annotations

from typing import Any

from rclpy.qos import QoSProfile

from diffusion_ros.ros import topics
from diffusion_ros.ros.listener import Listener
from diffusion_ros.ros.runner import RunnableNode

_DISCOVERY_SECONDS = 1.5
_LEASE_SECONDS = 21.0
"""A process that was killed stays in the graph for FastDDS's lease of 20 s; who is still there after that lives."""


class TopicTaken(ValueError):
    """Another simulator or robot lives; one line that says what to do."""


class SoleSimulator:
    """Watches a topic of the simulator's sensors, before it publishes there and afterwards."""

    def __init__(self, node: RunnableNode, kind: type[Any], topic: str, qos: QoSProfile, clock: bool) -> None:
        """kind, topic: by what another simulator would be noticed; qos: how it is heard; clock: whether this one tells
        the time as well."""
        self._node, self._clock = node, clock
        self.listener: Listener[Any] = Listener(node, kind, topic, self._on_sensor, lambda *_: None, qos)
        self.topic = self.listener.topic_name
        """As it is called after remapping, which questions about the graph do not follow."""
        self.silent = ""
        """What is waited for, where there is a publisher that says nothing."""
        self._heard = False

    def _on_sensor(self, msg: Any) -> None:
        """The simulator's own, or that of another simulator or robot."""
        self._heard = True

    def alone(self, waited: float) -> bool:
        """Whether the simulator may begin to publish. waited: seconds since the node was made. Raises TopicTaken."""
        if waited < _DISCOVERY_SECONDS:
            return False
        topic = self.topic
        others = self._node.get_publishers_info_by_topic(topic)
        if self._clock and not others:
            # Between two clocks that others follow, time would go to and fro.
            topic = topics.CLOCK
            others = self._node.get_publishers_info_by_topic(topic)
        if not others:
            return True
        if self._heard or waited > _LEASE_SECONDS:
            name = f"{others[0].node_namespace.rstrip('/')}/{others[0].node_name}"
            raise TopicTaken(
                f"{topic} has a publisher already, {name} in ROS domain {self._node.context.get_domain_id()}:"
                " stop it, or choose another ROS_DOMAIN_ID or namespace"
            )
        self.silent = f"{topic} has a silent publisher: waiting for it to go away"
        return False

    def conflict(self) -> str:
        """'' or who else publishes there."""
        return self.listener.conflict()

    def stop(self) -> None:
        """Hears no more."""
        self.listener.stop()
