"""Plans of an arm's hand: its state as a planner has it, the commands that follow a plan, what a plan keeps clear of.

A state is (10): position [m], the first two columns of the rotation matrix, the gripper's opening [m]. No ROS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.signal import savgol_filter
from scipy.spatial.transform import Rotation, Slerp

from diffusion_ros.planner import Plan, PlanError, Planner, Plans

if TYPE_CHECKING:
    from diffusion_ros.checkpoint import Checkpoint

Array = NDArray[np.float64]

HAND_RADIUS = 0.05
"""Metres about the grip site that count as the hand: the fingers and their tips."""
REMAINS = 0.7
"""Of a distance after a control step that commanded all of it: a pose controller goes part of its way."""
STRAY = 0.05
"""Metres that a hand may be off its way."""
LAG = 0.12
"""Metres that it may be from where it is to be by now."""
STEP_LENGTH = 0.007
"""Metres that an arm is asked to go in a control step; commands of 0.05 m go about 0.013 m."""
STEP_ANGLE = 0.07
"""Radians, likewise; commands of 0.5 rad go about 0.13 rad."""
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


class HandPlanner(Planner):
    """Plans of a hand: the checkpoint has them in the frame of the way, whoever asks has them in the world."""

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
    """The planner for what a checkpoint was trained on."""
    return HandPlanner(checkpoint) if checkpoint.spec.task == "arm" else Planner(checkpoint)


def arm_state(position: ArrayLike, quaternion: ArrayLike, opening: float = float("nan")) -> Array:
    """(10) from position (3) m, quaternion (4) xyzw and the gripper's opening, NaN where it is left to the planner."""
    matrix = Rotation.from_quat(np.asarray(quaternion, np.float64)).as_matrix()
    return np.concatenate([np.asarray(position, np.float64), matrix[:, 0], matrix[:, 1], [opening]])


def rotation_of(columns: Array) -> Rotation:
    """The rotation (N) nearest to planned first two columns (N, 6), which a network gives roughly (Gram-Schmidt)."""
    first = columns[:, :3] / np.linalg.norm(columns[:, :3], axis=1, keepdims=True)
    second = columns[:, 3:] - (first * columns[:, 3:]).sum(axis=1, keepdims=True) * first
    second = second / np.linalg.norm(second, axis=1, keepdims=True)
    return Rotation.from_matrix(np.stack([first, second, np.cross(first, second)], axis=2))


class ArmFollower:
    """Commands that lead along a plan's positions and rotations, with the gripper as planned.

    A plan that asks for more in a control step than an arm can go takes longer: an arm that lagged behind would cut the
    corners, and they may be there for a reason. A row is what the step is to go and the way back to where the plan is
    by now; a pose controller goes part of what it is told (REMAINS), so what a step is to go is commanded larger. Not
    the plan's own actions: where a guide has bent a way, they still lead along the one that demonstrations went. The
    way back is in all rows, less in each: an executor that has a chunk for every observation answers one with the
    second row of the chunk before.
    """

    def __init__(self, plan: Plan, rate: float) -> None:
        """rate: control steps a second [Hz]."""
        positions, _ = plan.dense(rate)
        rows = np.arange(len(positions)) / plan.stride
        turns = Slerp(np.arange(len(plan.rows)), rotation_of(plan.part("rotation")))
        angles = (turns(rows[1:]) * turns(rows[:-1]).inv()).magnitude()
        lengths = np.linalg.norm(np.diff(positions, axis=0), axis=1)
        parts = np.maximum(lengths / STEP_LENGTH, angles / STEP_ANGLE)
        # Where each control step begins, in steps of the plan.
        begins = np.concatenate([k + np.arange(n) / n for k, n in enumerate(np.maximum(1, np.ceil(parts)).astype(int))])
        begins = np.append(begins, len(positions) - 1.0)
        steps = np.arange(len(positions))
        self.positions: Array = np.stack([np.interp(begins, steps, axis) for axis in positions.T], axis=1)
        """(steps + 1, 3) m, where the hand is to be at each control step."""
        self.rotations = turns(begins / plan.stride)
        self._gripper = plan.part("action")[np.minimum(begins / plan.stride, len(plan.rows) - 2).astype(int), 6]
        onward = (self.rotations[1:] * self.rotations[:-1].inv()).as_rotvec()
        self._onward = np.hstack([np.diff(self.positions, axis=0), onward])
        """(steps, 6): what each control step is to go."""

    @property
    def steps(self) -> int:
        """Control steps from the plan's start to its end."""
        return len(self._onward)

    def strayed(self, step: int, position: Array) -> str:
        """Why a hand at position (3) m is not to go on along the plan, '' where it may: something holds it up."""
        distances = np.linalg.norm(self.positions - position, axis=1)
        off, behind = float(distances.min()), float(distances[min(step, self.steps)])
        if off > STRAY:
            return f"the hand is {off:.3f} m off its way, at most {STRAY:g} m expected"
        if behind > LAG:
            return f"the hand is {behind:.3f} m from where it is to be by now, at most {LAG:g} m expected"
        return ""

    def rows(self, step: int, position: Array, quaternion: Array, n: int) -> Array:
        """Rows (n, 7) from control step `step` on, for a hand at position (3) m and quaternion (4) xyzw.

        After the plan's end they keep the hand where it ends, and the gripper as it is there.
        """
        due = min(step, self.steps)
        rows = np.zeros((n, 7))
        for i in range(n):
            at = min(step + i, self.steps)
            rows[i, 6] = self._gripper[at]
            if at < self.steps:
                rows[i, :6] = self._onward[at] / (1 - REMAINS)
        turn_back = (self.rotations[due] * Rotation.from_quat(quaternion).inv()).as_rotvec()
        rows[:, :6] += REMAINS ** np.arange(n)[:, None] * np.append(self.positions[due] - position, turn_back)
        return rows
