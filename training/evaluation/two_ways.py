"""A task that can be done in two ways: a point goes round a disc, past its left or its right, and to a goal.

Demonstrations go either way with probability 1/2, and nothing that is observed before says which. The mean of both
goes into the disc. So it shows whether a sampler keeps the modes of what was learnt.

World, in metres: the disc is at the origin; the point starts before it, where x < 0, and the goal is behind it. Left is
y > 0. Observed is the position (x, y), an action is the displacement of a step. All functions take many episodes at
once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DISC_RADIUS = 0.3
"""Metres; who is nearer to the origin has failed."""
START_LOW, START_HIGH = np.array([-1.1, -0.1]), np.array([-0.85, 0.1])
"""Corners of the region of starts [m]."""
GOAL = np.array([0.9, 0.0])
GOAL_RADIUS = 0.15
"""Metres; who is nearer to the goal has succeeded."""
MAX_STEP = 0.08
"""Longest displacement of a step [m]."""
MAX_STEPS = 50
"""Steps in which the goal must be reached."""
CLEARANCE = 0.5
"""Metres from the origin that the expert keeps to ..."""
TURN = 0.8
"""... once it is nearer than this; before, it goes straight to the goal, and nothing says which way it will take."""
LABEL_NOISE = 0.01
"""Deviation of what is executed from what is demonstrated [m], each axis: so that demonstrations also come back."""
POSITION = "position"
"""Name of the only input, 2 numbers."""


def starts(n: int, seed: int) -> Array:
    """(n, 2), uniform; start i depends on seed + i alone."""
    return np.stack([np.random.default_rng(seed + i).uniform(START_LOW, START_HIGH) for i in range(n)])


def expert(position: Array, left: NDArray[np.bool_]) -> Array:
    """Displacements (n, 2) of length MAX_STEP at positions (n, 2), for those who pass on the left (n) and the others.

    Straight to the goal; nearer to the disc than TURN along the tangent to the circle of CLEARANCE, until the straight
    way to the goal is free of it.
    """
    distance = np.linalg.norm(position, axis=1)
    to_origin = np.arctan2(-position[:, 1], -position[:, 0])
    to_goal = np.arctan2(GOAL[1] - position[:, 1], GOAL[0] - position[:, 0])
    half = np.arcsin(np.minimum(1.0, CLEARANCE / distance))  # of the angle that the circle is seen under
    side = np.where(left, 1.0, -1.0)
    beside = side * ((to_goal - to_origin + np.pi) % (2 * np.pi) - np.pi)  # how far on our side of the origin it is
    straight = (beside >= half) | (distance > TURN)
    heading = np.where(straight, to_goal, to_origin + side * half)
    return MAX_STEP * np.stack([np.cos(heading), np.sin(heading)], axis=1)


@dataclass(frozen=True)
class Episodes:
    """What became of n episodes."""

    positions: Array
    """(n, MAX_STEPS + 1, 2) [m]; who has reached the goal or the disc stays there."""
    steps: NDArray[np.int64]
    """(n) until the goal or the disc, or MAX_STEPS."""
    success: NDArray[np.bool_]
    """(n)"""
    left: NDArray[np.bool_]
    """(n): whether the disc was passed on its left, as seen on the way to the goal; of successes this is the way."""

    @property
    def success_rate(self) -> float:
        """Part of all."""
        return float(self.success.mean())


def run(start: Array, act: Callable[[Array, int], Array]) -> Episodes:
    """Episodes from starts (n, 2). `act` is given the positions so far (n, step + 1, 2) and the step, and returns
    displacements (n, 2), which are shortened to MAX_STEP."""
    n = len(start)
    positions = np.repeat(start[:, None], MAX_STEPS + 1, axis=1)
    steps = np.full(n, MAX_STEPS)
    success, over = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    for step in range(MAX_STEPS):
        moved = act(positions[:, : step + 1], step)
        moved = moved * np.minimum(1.0, MAX_STEP / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-9))
        now = positions[:, step] + np.where(over[:, None], 0.0, moved)
        positions[:, step + 1 :] = now[:, None]
        arrived = ~over & (np.linalg.norm(now - GOAL, axis=1) <= GOAL_RADIUS)
        crashed = ~over & (np.linalg.norm(now, axis=1) < DISC_RADIUS)
        success |= arrived
        steps[arrived | crashed] = step + 1
        over |= arrived | crashed
    nearest = np.argmin(np.abs(positions[:, :, 0]), axis=1)  # beside the disc
    return Episodes(positions, steps, success, positions[np.arange(n), nearest, 1] > 0)


def demonstrations(n: int, seed: int) -> tuple[Episodes, Array]:
    """n episodes of the expert and its displacements (n, MAX_STEPS, 2) [m], without the noise with which they were
    executed."""
    rng = np.random.default_rng([seed, 1])
    left = rng.random(n) < 0.5
    labels = np.zeros((n, MAX_STEPS, 2))

    def act(positions: Array, step: int) -> Array:
        labels[:, step] = expert(positions[:, -1], left)
        return labels[:, step] + LABEL_NOISE * rng.standard_normal((n, 2))

    return run(starts(n, seed), act), labels
