"""Plans of an arm's hand: its state as a planner has it, the commands that follow a plan, what a plan keeps clear of.

A state is (10): position [m], the first two columns of the rotation matrix, the gripper's opening [m]. No ROS.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from diffusion_ros.planner import Plan

Array = NDArray[np.float64]

HAND_RADIUS = 0.05
"""Metres about the grip site that count as the hand: the fingers and their tips."""
REMAINS = 0.7
"""Of a distance to the plan after a control step that commanded all of it: a pose controller goes part of its way."""


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
    """Commands from a plan: its own actions, and the way back to where the plan is by now.

    The way back is in all rows, less in each: an executor that has a chunk for every observation answers one with the
    second row of the chunk before.
    """

    def __init__(self, plan: Plan, rate: float) -> None:
        """rate: control steps a second [Hz]."""
        self.plan = plan
        self.positions, _ = plan.dense(rate)
        self.rotations = rotation_of(plan.part("rotation"))

    @property
    def steps(self) -> int:
        """Control steps from the plan's start to its end."""
        return len(self.positions) - 1

    def rows(self, step: int, position: Array, quaternion: Array, n: int) -> Array:
        """Rows (n, 7) from control step `step` on, for a hand at position (3) m and quaternion (4) xyzw.

        After the plan's end they keep the hand where it ends, and the gripper as it is there.
        """
        due = min(step, self.steps)
        rows = np.zeros((n, 7))
        for i in range(n):
            at = step + i
            if at < self.steps:
                rows[i] = self.plan.part("action")[at // self.plan.stride]
            else:
                rows[i, 6] = self.plan.part("action")[-2, 6]
        row = due // self.plan.stride
        back = np.append(
            self.positions[due] - position, (self.rotations[row] * Rotation.from_quat(quaternion).inv()).as_rotvec()
        )
        rows[:, :6] += REMAINS ** np.arange(n)[:, None] * back
        return rows
