"""Plans of an arm's hand. The checkpoint makes them in the frame of the way: start at the origin, goal along x."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import savgol_filter

from diffusion_ros.models.planner import HAND_STATE, Plan, PlanError, Planner, Plans, state_names

if TYPE_CHECKING:
    from diffusion_ros.models.kind import Checkpoint
    from diffusion_ros.spec import CheckpointSpec

Array = NDArray[np.float64]

SMOOTHED_ROWS = 9
"""Rows of a plan that a parabola is fitted to, to take the network's noise off its positions."""
_ACTION = 7
_VECTORS = (0, 3, 7, 10, 13)
"""Where vectors of three begin in a row: translation, rotation vector, position, the rotation's two columns."""


def way_frame(start: Array, end: Array) -> tuple[Array, Array]:
    """Origin (..., 3) and angle (...) of the frame of a way: at its start, x level towards its end, z up.

    How a hand moves does not depend on where it is and where it turns to, so a planner knows ways in this frame only:
    then a few hundred demonstrations, which all go the same way, are enough for every way.
    """
    level = end - start
    return np.array(start, np.float64), np.arctan2(level[..., 1], level[..., 0])


def turned(vectors: Array, angle: Array) -> Array:
    """Vectors (..., 3 or more), of which the first three are turned about z by angle (...)."""
    result = np.array(vectors, np.float64)
    cosine, sine = np.cos(angle), np.sin(angle)
    result[..., 0] = cosine * vectors[..., 0] - sine * vectors[..., 1]
    result[..., 1] = sine * vectors[..., 0] + cosine * vectors[..., 1]
    return result


def _moved(rows: Array, angle: Array, before: Array | float, after: Array | float, first: int = 0) -> Array:
    """Rows (..., D), whose first column is number `first` of a whole row: their positions moved by `before`, all
    vectors turned about z by `angle`, then the positions moved by `after`."""
    result = np.array(rows, np.float64)
    position = slice(_ACTION - first, _ACTION - first + 3)
    result[..., position] += before
    for at in _VECTORS:
        if at >= first:
            part = slice(at - first, at - first + 3)
            result[..., part] = turned(result[..., part], angle)
    result[..., position] += after
    return result


def in_way_frames(rows: Array) -> Array:
    """Trajectories (B, H, 17) in the world, each in the frame of its own way."""
    position = slice(_ACTION, _ACTION + 3)
    origin, angle = way_frame(rows[:, 0, position], rows[:, -1, position])
    return _moved(rows, -angle[:, None], -origin[:, None], 0.0)


def smoothed(rows: Array, way_points: Sequence[int] = ()) -> Array:
    """A plan (H, 17) whose positions are smoothed (Savitzky and Golay 1964); both ends and `way_points` stay."""
    rows = np.array(rows, np.float64)
    position = rows[:, _ACTION : _ACTION + 3]
    if len(position) >= SMOOTHED_ROWS:
        smooth = savgol_filter(position, SMOOTHED_ROWS, 2, axis=0)
        stay = [0, *sorted(way_points), len(position) - 1]
        every = np.arange(len(position))
        smooth += np.stack([np.interp(every, stay, axis) for axis in (position - smooth)[stay].T], axis=1)
        rows[:, _ACTION : _ACTION + 3] = smooth
    return rows


def plans_hands(spec: CheckpointSpec) -> bool:
    """Whether a planner's plans are a hand's, which turns and grips; a ball's have velocities instead."""
    return state_names(spec) == HAND_STATE


class HandPlanner(Planner):
    """Plans of a hand. The checkpoint's are in the frame of the way; `plan` takes and gives those in the world."""

    def plan(self, start: Array, goal: Array | None = None, **options: Any) -> Plans:
        """See Planner.plan; states, guides, warm starts and what comes back are in the world."""
        if goal is None:
            raise PlanError("goal: a hand's plan needs one")
        way_points, guides = options.get("way_points") or {}, options.get("guides") or {}
        self.known(options.get("horizon") or self.spec.horizon, start, goal, way_points)  # what does not fit ends here
        self.check_guides(guides)
        origin, angle = way_frame(start[:3], goal[:3])

        def state(world: Array) -> Array:
            return _moved(world, -angle, -origin, 0.0, _ACTION)

        def in_world(rows: Array) -> Array:
            return _moved(rows, angle, 0.0, origin)

        options["way_points"] = {row: state(point) for row, point in way_points.items()}
        options["guides"] = self._guides(guides, origin, angle)
        warm: Plan | None = options.get("warm")
        if warm is not None:
            options["warm"] = Plan(_moved(warm.rows, -angle, -origin, 0.0), warm.stride, warm.columns)
        plans = super().plan(state(start), state(goal), **options)
        candidates = [
            Plan(smoothed(in_world(plan.rows), list(way_points)), plan.stride, plan.columns)
            for plan in plans.candidates
        ]
        denoising = [in_world(estimate) for estimate in plans.denoising]
        return Plans(candidates, plans.costs, plans.steps, plans.seconds, denoising)

    @staticmethod
    def _guides(guides: Mapping[str, Array], origin: Array, angle: Array) -> dict[str, Array]:
        local = dict(guides)
        for name in ("obstacles", "goal"):
            if name in local:
                moved = np.array(local[name], np.float64)
                moved[..., :3] -= origin
                local[name] = turned(moved, -angle)
        return local


def make_planner(checkpoint: Checkpoint) -> Planner:
    """The planner for what a checkpoint plans for."""
    return (HandPlanner if plans_hands(checkpoint.spec) else Planner)(checkpoint)
