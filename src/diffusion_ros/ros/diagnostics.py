"""The status that every node publishes on /diagnostics once a second: rates, ages, latencies, reasons for holding."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock
from rclpy.clock_type import ClockType

from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.messages import ERROR, OK, STALE, WARN
from diffusion_ros.ros.runner import RunnableNode

__all__ = ["ERROR", "OK", "STALE", "WARN", "Diagnostics", "median_key"]

_RATE_SECONDS = 5.0
_LATENCIES = 200
_LOG_SECONDS = 5.0
_SUMMARY = 1000
"""Characters of a summary."""
_LOG_KINDS = 8
"""Different complaints that are logged within that time: whoever makes up new ones shall not fill the disk."""


def median_key(latency: str) -> str:
    """Under which name a latency's median [ms] is published."""
    return f"{latency} median [ms]"


class Diagnostics:
    """Collects and publishes. Rates and ages are in the robot's time; it publishes by wall time, for that of the robot
    may stand still.

    `tick` and `latency` may be called from another thread.
    """

    def __init__(
        self, node: RunnableNode, hardware_id: str = "", before_publishing: Callable[[], None] | None = None
    ) -> None:
        """before_publishing: called once a second, to bring `report` and `value` up to date."""
        self._node = node
        self._hardware_id = hardware_id
        self._before = before_publishing
        self._ticks: dict[str, deque[float]] = {}
        self._latencies: dict[str, deque[float]] = {}
        self._values: dict[str, str] = {}
        self._level = OK
        self._summary = "starting"
        self._logged: dict[str, float] = {}
        self._publisher = node.create_publisher(DiagnosticArray, topics.DIAGNOSTICS, topics.DIAGNOSTICS_QOS)
        self._timer = node.create_timer(1.0, self.publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def tick(self, name: str) -> None:
        """Something happened that has a rate: a message came or went."""
        self._ticks.setdefault(name, deque(maxlen=2000)).append(self._node.seconds())

    def age(self, name: str) -> float | None:
        """Seconds since the last tick, None before the first."""
        ticks = self._ticks.get(name)
        return self._node.seconds() - ticks[-1] if ticks else None

    def rate(self, name: str) -> float:
        """Ticks a second over the last 5 s."""
        now = self._node.seconds()
        recent = [t for t in list(self._ticks.get(name, ())) if now - t < _RATE_SECONDS]
        if len(recent) < 2:
            return len(recent) / _RATE_SECONDS
        return (len(recent) - 1) / max(now - recent[0], 1e-9)

    def latency(self, name: str, seconds: float) -> None:
        self._latencies.setdefault(name, deque(maxlen=_LATENCIES)).append(seconds)

    def latencies(self, seconds: Mapping[str, float]) -> None:
        """Several that belong together, by name."""
        for name, value in seconds.items():
            self.latency(name, value)

    def value(self, name: str, value: object) -> None:
        """A line that stays until it is changed."""
        self._values[name] = str(value)

    def report(self, level: int, summary: str) -> None:
        """The node's state, and for anything but OK the reason, which is logged at most every 5 s."""
        summary = messages.printable(summary, _SUMMARY)
        self._level, self._summary = level, summary
        if level == OK:
            return
        # Numbers change from one time to the next: the same complaint, not a new one.
        kind = "".join(c for c in summary if not c.isdigit())
        now = time.monotonic()
        if now - self._logged.get(kind, -_LOG_SECONDS) < _LOG_SECONDS:
            return
        self._logged = {k: t for k, t in self._logged.items() if now - t < _LOG_SECONDS}
        if len(self._logged) >= _LOG_KINDS:
            return
        self._logged[kind] = now
        # rclpy wants one severity for each line of source.
        if level == WARN:
            self._node.get_logger().warning(summary)
        else:
            self._node.get_logger().error(summary)

    @property
    def summary(self) -> str:
        return self._summary

    @property
    def level(self) -> int:
        return self._level

    def values(self) -> Mapping[str, str]:
        """What is published: values, then rates [Hz], ages [s] and latencies [ms] by name."""
        lines = dict(self._values)
        for name in list(self._ticks):
            shown = topics.shown(self._node, name)
            lines[f"{shown} rate [Hz]"] = f"{self.rate(name):.2f}"
            lines[f"{shown} age [s]"] = f"{self.age(name) or 0.0:.3f}"
        for name, latencies in list(self._latencies.items()):
            milliseconds = 1000.0 * np.array(list(latencies))
            lines[median_key(name)] = f"{np.median(milliseconds):.2f}"
            lines[f"{name} max [ms]"] = f"{np.max(milliseconds):.2f}"
        return lines

    def publish(self) -> None:
        if self._before is not None:
            self._before()
        if problem := self._node.without_time():
            self.report(WARN, f"holding: {problem}")
        name = self._node.get_fully_qualified_name().removeprefix("/")
        status = messages.Status(name, self._hardware_id, self._level, self._summary, self.values())
        self._publisher.publish(messages.diagnostics_to_msg([status], self._node.now_ns()))
