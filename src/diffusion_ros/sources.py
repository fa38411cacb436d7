"""Who publishes on a topic: two at once on a topic that moves a robot mean that nobody knows what it will do."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rclpy.node import Node


class SourceWatch:
    """Notices a second live publisher of a topic, or of several that one source must have alone.

    By the publishers that were heard and not by the graph: a process that was killed stays in the graph for up to
    20 s (FastDDS's lease), and the one that replaces it must not be refused for so long.
    """

    WINDOW_SECONDS = 2.0

    def __init__(self, node: Node, *topics: str, clock: Callable[[], float] = time.monotonic) -> None:
        """topics: their full names after remapping, as in Subscription.topic_name."""
        self._node = node
        self._topics = topics
        self._clock = clock
        self._heard: dict[bytes, float] = {}
        self._anonymous = False

    def heard(self, info: Mapping[str, Any]) -> None:
        """A message came; info: what rclpy hands to a callback with two arguments."""
        gid = info.get("publisher_gid")
        if gid is None:  # rclpy before Kilted does not tell
            self._anonymous = True
            return
        now = self._clock()
        self._heard = {k: t for k, t in self._heard.items() if now - t < self.WINDOW_SECONDS}
        self._heard[bytes(gid["data"])] = now

    def reason(self) -> str:
        """'' or what is wrong."""
        now = self._clock()
        if self._anonymous:
            publishers = sum(self._node.count_publishers(topic) for topic in self._topics)
        else:
            publishers = sum(now - t < self.WINDOW_SECONDS for t in self._heard.values())
        return f"{publishers} publishers on {' and '.join(self._topics)}, one expected" if publishers > 1 else ""
