"""SimClock: the time that a simulator gives to all nodes, on /clock, slower than the wall's."""

from __future__ import annotations

import time
from typing import Any

from rclpy.node import Node
from rosgraph_msgs.msg import Clock

from diffusion_ros.ros import messages, topics

START_NS = 1_000 * 1_000_000_000
"""Simulated time begins here and not at 0, which ROS takes for no time at all."""
_CATCH_UP_SECONDS = 0.25
"""Of wall time that a simulator has spent on its work, how much is made up for. What is more slows the clock down."""


class SimClock:
    """Simulated time, in steps. A simulator asks at each call of a steady timer whether the next one is `due`.

        while the timer of `step_seconds` calls:    if clock.due(): clock.advance(); <what happens at clock.now_ns>

    As a step is taken at most once a call, time never goes faster than the wall's, even where it catches up: whoever
    answers an observation has at least a control period of wall time for it, however long the simulator took to make
    it. On a machine that cannot keep up the clock is slower than asked for, and no step is left out.
    """

    def __init__(self, node: Node, speed: float, step_ns: int) -> None:
        """speed: simulated seconds in a second of wall time, more than 0."""
        self._node, self._speed, self.step_ns = node, speed, step_ns
        self.now_ns = START_NS
        self._due: float | None = None
        self._publisher: Any = None

    @property
    def step_seconds(self) -> float:
        return self.step_ns / 1e9

    @property
    def seconds(self) -> float:
        return self.now_ns / 1e9

    def publish(self) -> None:
        """From now on /clock says what time it is. Before, because there may be another simulator, nobody is told."""
        self._publisher = self._node.create_publisher(Clock, topics.CLOCK, topics.COMMAND_QOS)
        self._say()

    def due(self) -> bool:
        """Whether the wall's time has come for the next step."""
        if self._due is None:
            self._due = time.monotonic()
        return time.monotonic() >= self._due

    def advance(self) -> None:
        """A step further."""
        now = time.monotonic()
        due = now if self._due is None else max(self._due, now - _CATCH_UP_SECONDS)
        self._due = due + self.step_seconds / self._speed
        self.now_ns += self.step_ns
        self._say()

    def _say(self) -> None:
        if self._publisher is not None:
            self._publisher.publish(messages.clock_to_msg(self.now_ns))
