"""One episode as the simulator runs it: when it is over, what is counted, and what is kept for a video.

No ROS here. `actions_sha256` and `state_sha256` of two runs are equal exactly when the runs were, bit for bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffusion_ros.robot import RATE
from diffusion_ros.simulators.tasks import MazeTask

Array = NDArray[np.float64]
Image = NDArray[np.uint8]


@dataclass
class Episode:
    """Counts of one episode. It ends `stop_after_success` steps after the first success, or with step `max_steps`."""

    index: int
    seed: int
    max_steps: int
    stop_after_success: int = 0
    steps: int = 0
    success: bool = False
    held: int = 0
    """Steps that executed a hold: the executor's, or the simulator's own for want of a command."""
    missed: int = 0
    """Of those, the steps for want of a command (real time only)."""
    overruns: int = 0
    """Periods that the simulator itself began more than half a period late (real time only)."""
    timings_s: dict[str, list[float]] = field(default_factory=dict)
    """By name, one value a step, in seconds."""
    _actions: Any = field(default_factory=hashlib.sha256)
    _steps_after: int = 0

    def executed(self, row: Array, success: bool, missed: bool = False) -> None:
        """A step with the command row (7) was done and left the task in `success`."""
        if self.success:
            self._steps_after += 1
        self.steps += 1
        self.success |= success
        self.held += not np.any(row)
        self.missed += missed
        self._actions.update(np.ascontiguousarray(row, dtype="<f8").tobytes())

    def took(self, name: str, seconds: float) -> None:
        """Adds a duration to `timings_s`."""
        self.timings_s.setdefault(name, []).append(seconds)

    @property
    def over(self) -> bool:
        succeeded = self.success and self._steps_after >= self.stop_after_success
        return succeeded or self.steps >= self.max_steps

    def result(self, state_sha256: str) -> dict[str, Any]:
        """What is reported of a finished episode; `state_sha256` is that of the simulator's last state."""
        return {
            "index": self.index,
            "seed": self.seed,
            "steps": self.steps,
            "success": self.success,
            "held": self.held,
            "missed": self.missed,
            "overruns": self.overruns,
            "timings_ms": {name: milliseconds(values) for name, values in self.timings_s.items()},
            "actions_sha256": self._actions.hexdigest(),
            "state_sha256": state_sha256,
        }


@dataclass
class BalanceEpisode(Episode):
    """An episode of a Gymnasium task: it ends when the task fails, or succeeds with step `max_steps`."""

    total: float = 0.0
    """The return: the sum of the rewards."""
    terminated: bool = False
    """Whether the task has failed."""

    def rewarded(self, reward: float, terminated: bool) -> None:
        """What the step brought that was just counted by `executed`."""
        self.total += reward
        self.terminated = terminated
        self.success = self.steps >= self.max_steps and not terminated

    @property
    def over(self) -> bool:
        return self.terminated or self.steps >= self.max_steps

    def result(self, state_sha256: str) -> dict[str, Any]:
        """What is reported of a finished episode."""
        return {**super().result(state_sha256), "return": self.total, "terminated": self.terminated}


@dataclass
class MazeEpisode(Episode):
    """An episode in a maze: it goes on after the goal was reached, to step `max_steps`, or without end."""

    task: MazeTask = field(kw_only=True)
    endless: bool = False
    total: float = 0.0
    """The return: the sum of the rewards."""
    reached: int = -1
    """Steps until the goal was reached; -1: not yet."""

    def executed(self, row: Array, success: bool, missed: bool = False) -> None:
        """A step with the force row (2) was done and left the ball at the goal, or not."""
        super().executed(row, success, missed)
        if success and self.reached < 0:
            self.reached = self.steps

    def took(self, name: str, seconds: float) -> None:
        """Keeps the last duration only: an episode without end would fill the memory."""
        self.timings_s[name] = [seconds]

    @property
    def over(self) -> bool:
        return not self.endless and self.steps >= self.max_steps

    def result(self, state_sha256: str = "") -> dict[str, Any]:
        """What is reported of a finished episode; no hashes, because no two runs in real time are equal."""
        return {
            "index": self.index,
            "seed": self.seed,
            "return": self.total,
            "score": self.task.score(self.total),
            "reached": self.success,
            "steps_to_goal": self.reached,
            "missed": self.missed,
            "overruns": self.overruns,
            "steps": self.steps,
        }


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum of at least one duration, in milliseconds."""
    median, p99, largest = np.percentile(seconds, [50, 99, 100])
    return {name: round(1e3 * float(x), 3) for name, x in (("median", median), ("p99", p99), ("max", largest))}


EPISODE_SPACING_NS = 1_000 * 1_000_000_000
"""Simulated time from the start of one lockstep episode to the start of the next: no episode lasts so long."""


def episode_stamp_ns(episode_index: int, step: int, rate: float = RATE) -> int:
    """Lockstep time of observation `step` (0 is the reset) of an episode, in nanoseconds from 1 s on; rate in Hz."""
    return 1_000_000_000 + episode_index * EPISODE_SPACING_NS + step * round(1e9 / rate)
