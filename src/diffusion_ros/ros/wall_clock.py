"""The wall's time in steps, for what goes on by them in real time as well as in simulated time (SimClock)."""

from __future__ import annotations

import time
from typing import Protocol

from diffusion_ros.ros.runner import RunnableNode

_BEHIND_NS = 250_000_000
"""What a busy machine may make up for later. What is more is lost, and can be seen by `now_ns`."""


class SteppedClock(Protocol):
    """What SimClock and WallClock have in common."""

    now_ns: int
    step_ns: int

    def due(self) -> bool: ...

    def advance(self) -> None: ...


class WallClock:
    """The wall's time in steps: the system's where it begins, then as steady as the machine's own."""

    def __init__(self, node: RunnableNode, step_ns: int) -> None:
        self.step_ns = step_ns
        self.now_ns = int(node.get_clock().now().nanoseconds)
        self._ahead_ns = self.now_ns - time.monotonic_ns()

    def _wall_ns(self) -> int:
        return time.monotonic_ns() + self._ahead_ns

    def due(self) -> bool:
        return self._wall_ns() - self.now_ns >= self.step_ns

    def advance(self) -> None:
        """A step further. What is too much to be made up for is left out."""
        self.now_ns += self.step_ns
        behind = self._wall_ns() - self.now_ns
        if behind > _BEHIND_NS:
            self.now_ns += behind
