"""Poses of a robot's drivers in the policy's frame, and back: the tool, both bases, and what is where in which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from diffusion_ros.robot_file import Placement

Array = NDArray[np.float64]


class HandFrames:
    """Between the driver's base frame and the frame that a policy's poses and actions are in.

    base, tool: of a robot's file. base_pose: of the checkpoint's specification (7) m and xyzw; (): the policy's frame
    is that of the base which it was trained on. Positions (3) are metres.
    """

    def __init__(self, base: Placement, tool: Placement, base_pose: Sequence[float] = ()) -> None:
        there = np.asarray(base_pose if base_pose else (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0), np.float64)
        self._tool, self._tool_turn = tool.position, tool.rotation
        self.turn: Rotation = Rotation.from_quat(there[3:]) * base.rotation.inv()
        """Turns what is in the axes of the driver's base into those of the policy's frame."""
        self._shift: Array = there[:3] - self.turn.apply(base.position)

    def hand(self, position: ArrayLike, rotation: Rotation) -> tuple[Array, Rotation]:
        """The hand's pose where the tool's is this; both in the same frame."""
        return np.asarray(position, np.float64) + rotation.apply(self._tool), rotation * self._tool_turn

    def to_policy(self, position: ArrayLike, rotation: Rotation) -> tuple[Array, Rotation]:
        """A pose in the driver's base frame, in the policy's."""
        return self.turn.apply(np.asarray(position, np.float64)) + self._shift, self.turn * rotation

    def to_base(self, position: ArrayLike, rotation: Rotation) -> tuple[Array, Rotation]:
        """A pose in the policy's frame, in the driver's base frame."""
        back = self.turn.inv()
        return back.apply(np.asarray(position, np.float64) - self._shift), back * rotation

    def box_in_base(self, low: Sequence[float], high: Sequence[float]) -> tuple[Array, Array]:
        """Corners (3), (3) of the smallest box along the base's axes around one along those of the policy's frame."""
        corners = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), axis=-1).reshape(-1, 3)
        there = self.turn.inv().apply(corners - self._shift)
        return there.min(axis=0), there.max(axis=0)
