"""Three ways to drive a ball along a plan: pursue its path, keep to its times, or repeat its actions. No ROS.

Forces are (2), from -1 to 1, as parts of the largest. Call `force` once in each control step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # it brings torch, which who only brakes or follows does not need
    from diffusion_ros.models.planner import Plan

Array = NDArray[np.float64]


class Follower(Protocol):
    """Gives the force for a position (2) m and a velocity (2) m/s."""

    def force(self, position: Array, velocity: Array) -> Array: ...


def brake(velocity: Array) -> Array:
    """The force that stops the ball. For something that rolls on, this is what a hold means."""
    return np.asarray(np.clip(-velocity, -1.0, 1.0))


def drive_to(target: Array, position: Array, velocity: Array) -> Array:
    """The way-point controller: clip(10 (target - position) - velocity)."""
    return np.asarray(np.clip(10 * (target - position) - velocity, -1.0, 1.0))


class TimeFollower:
    """Aims at the point that is due next: clip(10 dp + dv). positions (T, 2) m, velocities (T, 2) m/s, every step."""

    def __init__(self, positions: Array, velocities: Array) -> None:
        self.positions, self.velocities = positions, velocities
        self.index = 0

    def force(self, position: Array, velocity: Array) -> Array:
        """Of the step that leads from point `index` to the next; then counts on."""
        self.index = min(self.index + 1, len(self.positions) - 1)
        gain = 10 * (self.positions[self.index] - position) + self.velocities[self.index] - velocity
        return np.asarray(np.clip(gain, -1.0, 1.0))


class PursuitFollower:
    """Drives in its own time at the first point of the path (T, 2) m that is `reach` metres away."""

    def __init__(self, positions: Array, reach: float = 0.6) -> None:
        self.positions = positions
        self.reach = reach
        self.index: int | None = None
        """Of the point that is aimed at; before the first force none."""

    def force(self, position: Array, velocity: Array) -> Array:
        """Begins beside the robot, which may have moved on since the plan's start; points that have come within reach
        are not aimed at again."""
        last = len(self.positions) - 1
        if self.index is None:
            self.index = int(np.linalg.norm(self.positions - position, axis=1).argmin())
        while self.index < last and np.linalg.norm(self.positions[self.index] - position) < self.reach:
            self.index += 1
        return drive_to(self.positions[self.index], position, velocity)


class ActionFollower:
    """Executes planned actions (H, 2), each for `stride` steps; only a new plan corrects what goes astray."""

    def __init__(self, actions: Array, stride: int) -> None:
        self.actions = actions
        self.stride = stride
        self.index = 0

    def force(self, position: Array, velocity: Array) -> Array:
        """Brakes after the plan's end."""
        row = self.index // self.stride
        self.index += 1
        return np.asarray(np.clip(self.actions[row], -1.0, 1.0)) if row < len(self.actions) else brake(velocity)


FOLLOWERS = ("pursuit", "time", "actions")


def make_follower(name: str, plan: Plan, rate: float) -> Follower:
    """The follower called `name` of FOLLOWERS, for a plan and `rate` control steps a second."""
    positions, velocities = plan.dense(rate)
    if name == "pursuit":
        return PursuitFollower(positions)
    if name == "time":
        return TimeFollower(positions, velocities)
    return ActionFollower(plan.part("action"), plan.stride)
