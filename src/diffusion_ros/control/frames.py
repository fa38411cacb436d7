"""Between a driver's tool in its base frame, the policy's hand, and the policy's own frame. No ROS.

    policy frame --base_pose--> training base <--base-- driver's base frame --pose--> tool --tool--> hand

base_pose is the checkpoint's (spec.base_pose), base and tool are the robot's file's. Positions are (3) m, quaternions
(4) xyzw.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from diffusion_ros.robot_file import RobotFile

Array = NDArray[np.float64]


class RobotFrames:
    """The fixed transforms of one robot with one checkpoint."""

    def __init__(self, robot: RobotFile, base_pose: Sequence[float] = ()) -> None:
        """base_pose (7): position and quaternion of the training robot's base in the policy's frame; () = the same."""
        place = np.array(base_pose, np.float64) if len(base_pose) else np.array([0, 0, 0, 0, 0, 0, 1.0])
        if place.shape != (7,):
            raise ValueError(f"base_pose of {len(place)} numbers, 7 expected")
        self._tool, self._tool_turn = robot.tool.position, robot.tool.rotation
        # The policy's frame in the driver's base frame: base * base_pose^-1.
        training = Rotation.from_quat(place[3:])
        self.turn: Rotation = robot.base.rotation * training.inv()
        """Of the policy's axes into the base's."""
        self.origin: Array = robot.base.position - self.turn.apply(place[:3])
        """Of the policy's frame, in the base's (3) m."""

    def hand(self, position: ArrayLike, quaternion: ArrayLike) -> tuple[Array, Array]:
        """The hand in the base frame, from the tool in it."""
        turn = Rotation.from_quat(np.asarray(quaternion, np.float64))
        at = np.asarray(position, np.float64) + turn.apply(self._tool)
        return at, np.asarray((turn * self._tool_turn).as_quat())

    def tool(self, position: ArrayLike, quaternion: ArrayLike) -> tuple[Array, Array]:
        """The tool in the base frame, from the hand in it."""
        turn = Rotation.from_quat(np.asarray(quaternion, np.float64)) * self._tool_turn.inv()
        return np.asarray(position, np.float64) - turn.apply(self._tool), np.asarray(turn.as_quat())

    def tool_twist(self, quaternion: ArrayLike, linear: ArrayLike, angular: ArrayLike) -> tuple[Array, Array]:
        """Velocities (3) m/s and (3) rad/s of the tool's origin, in base axes, from those of the hand, whose
        orientation in the base frame is `quaternion`."""
        turn = Rotation.from_quat(np.asarray(quaternion, np.float64)) * self._tool_turn.inv()
        spin = np.asarray(angular, np.float64)
        return np.asarray(linear, np.float64) - np.cross(spin, turn.apply(self._tool)), spin

    def to_policy(self, position: ArrayLike, quaternion: ArrayLike) -> tuple[Array, Array]:
        """From the base frame into the policy's."""
        back = self.turn.inv()
        turned = back * Rotation.from_quat(np.asarray(quaternion, np.float64))
        return back.apply(np.asarray(position, np.float64) - self.origin), np.asarray(turned.as_quat())

    def to_base(self, position: ArrayLike, quaternion: ArrayLike) -> tuple[Array, Array]:
        """From the policy's frame into the base's."""
        turned = self.turn * Rotation.from_quat(np.asarray(quaternion, np.float64))
        return self.turn.apply(np.asarray(position, np.float64)) + self.origin, np.asarray(turned.as_quat())

    def points_to_base(self, points: ArrayLike) -> Array:
        """Points (N, 3) m from the policy's frame into the base's."""
        there: Array = self.turn.apply(np.asarray(points, np.float64).reshape(-1, 3)) + self.origin
        return there

    def box_to_base(self, low: Sequence[float], high: Sequence[float]) -> tuple[Array, Array]:
        """Corners (3), (3) m of the smallest box along the base's axes around one along those of the policy's frame."""
        corners = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), axis=-1).reshape(-1, 3)
        there = self.turn.apply(corners) + self.origin
        return there.min(axis=0), there.max(axis=0)

    def row(self, row: Array) -> Array:
        """A row (7) of motion in the policy's axes, in the base's."""
        return np.concatenate([self.turn.apply(row[:3]), self.turn.apply(row[3:6]), row[6:]])

    def place(self, pose: Array) -> tuple[Array, Rotation]:
        """Where a row (7) of a pose in the policy's frame has the hand, in the base's: (3) m, and how it is turned."""
        turn = self.turn * Rotation.from_rotvec(pose[3:6])
        return self.turn.apply(pose[:3]) + self.origin, turn
