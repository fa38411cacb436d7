"""Notices a second publisher on a topic. With two on a topic that moves a robot, nobody knows what it will do."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from diffusion_ros.ros.runner import RunnableNode

_NAMES_SECONDS = 1.0
"""How long the graph's names are good for: asking is slow, and a conflict is asked about at every command."""


_LEAP = 20
"""Messages in a row that a subscriber may have missed, beside those that came while it was busy."""


@dataclass(frozen=True)
class _Count:
    """How many messages a publisher has sent, when that was heard, and the seconds between two of them.

    Of the wall: /clock may stand still while a burst of messages is read.
    """

    count: int
    heard: float
    interval: float = float("inf")

    def leap(self, now: float) -> float:
        """By how much the count may have risen since: by anything while only one of its messages was heard, as a node
        that starts is busy, and at 1 kHz misses hundreds."""
        return self.interval if self.interval == float("inf") else _LEAP + 3 * (now - self.heard) / self.interval

    def next(self, count: int, now: float) -> _Count:
        new = max(1e-6, (now - self.heard) / (count - self.count))
        return _Count(count, now, new if self.interval == float("inf") else 0.8 * self.interval + 0.2 * new)


class PublisherMonitor:
    """Notices a second live publisher of a topic, or of several that one publisher must have alone.

    By the publishers that were heard and not by the graph: a process that was killed stays in the graph for up to
    20 s (FastDDS's lease), and the one that replaces it must not be refused for so long.

    From Kilted on a message says which publisher it is from. On Jazzy it has the publisher's own count of its messages:
    a count that falls, or leaps, is another publisher's, if the graph knows another one.
    """

    WINDOW_SECONDS = 2.0

    def __init__(
        self,
        node: RunnableNode,
        *topics: str,
        clock: Callable[[], float] | None = None,
        wall: Callable[[], float] = time.monotonic,
    ) -> None:
        """topics: their full names after remapping, as in Subscription.topic_name; clock: [s], None: the node's."""
        self._node = node
        self._topics = topics
        self._clock, self._wall = clock or node.seconds, wall
        self._heard: dict[Hashable, float] = {}
        self._counts: dict[tuple[str, int], _Count] = {}
        """Jazzy: by topic and a number of ours the last count of each publisher."""
        self._next_key = 0
        self._anonymous = False
        self._names: tuple[float, str] = (-_NAMES_SECONDS, "")

    def heard(self, info: Mapping[str, Any], topic: str = "") -> None:
        """A message came; info: what rclpy hands to a callback with two arguments; topic: where there are several."""
        now = self._clock()
        # One that is silent for so long is forgotten, and so is its count.
        self._heard = {key: t for key, t in self._heard.items() if now - t < self.WINDOW_SECONDS}
        key = self._key(info, topic)
        if key is not None:
            self._heard[key] = now

    def _key(self, info: Mapping[str, Any], topic: str) -> Hashable | None:
        gid = info.get("publisher_gid")
        if gid is not None:
            return bytes(gid["data"])
        count = info.get("publication_sequence_number")
        if count is None:  # a middleware that tells neither
            self._anonymous = True
            return None
        now = self._wall()
        self._counts = {key: known for key, known in self._counts.items() if key in self._heard}
        # Of those that it can follow the one that it follows most closely.
        before = [
            (known.count, key)
            for key, known in self._counts.items()
            if key[0] == topic and known.count < count <= known.count + known.leap(now)
        ]
        self._next_key += 1
        key = max(before)[1] if before else (topic, self._next_key)
        self._counts[key] = self._counts[key].next(count, now) if before else _Count(count, now)
        return key

    def reason(self, expected: int = 1) -> str:
        """'' or what is wrong. expected: how many may be heard; 0 on a topic of one's own on which one is silent."""
        now = self._clock()
        if self._anonymous:
            publishers = sum(self._node.count_publishers(topic) for topic in self._topics)
        else:
            publishers = sum(now - t < self.WINDOW_SECONDS for t in self._heard.values())
        if publishers > expected and self._counts:
            known = sum(self._node.count_publishers(topic) for topic in self._topics)
            publishers = min(publishers, known - (1 - expected))
        if publishers <= expected:
            return ""
        names = self._who(now)
        found = f"{publishers + 1 - expected} publishers on {' and '.join(self._topics)}, one expected"
        return f"{found}: {names}" if names else found

    def _who(self, now: float) -> str:
        """Their names, or on Jazzy those of all that the graph knows."""
        asked, names = self._names
        if now - asked < _NAMES_SECONDS:
            return names
        found = []
        for topic in self._topics:
            for publisher in self._node.get_publishers_info_by_topic(topic):
                known = {key for key in self._heard if isinstance(key, bytes)}
                if not known or bytes(publisher.endpoint_gid) in known:
                    found.append(f"{publisher.node_namespace.rstrip('/')}/{publisher.node_name}")
        self._names = now, " and ".join(sorted(found))
        return self._names[1]
