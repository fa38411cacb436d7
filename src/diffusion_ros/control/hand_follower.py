"""How an arm's hand follows a plan: its state as the planner has it, and the commands along the way.

A state is (10): position [m], the first two columns of the rotation matrix, the gripper's opening [m]. No ROS.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation, Slerp

from diffusion_ros.models.planner import Plan

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
