"""What a row of actions says: a motion, a place of the hand, a place as seen from the hand, or places of the joints.

kind               columns                                      where it is used
delta              dx dy dz, rotation vector, gripper           data, checkpoints, chunks
pose               x y z, rotation vector, gripper              data, chunks; in checkpoints the rotation is 6-D
relative_pose      the same, seen from the observed hand        checkpoints (Chi et al. 2024, UMI, arXiv 2402.10329)
joint_positions    a position of each joint, gripper            data, checkpoints

Metres and radians; the gripper is -1 open to +1 closed, a width a value between. A delta is of one control step, in the
axes of the policy's frame or of the tool. A pose is where the hand is to be at the end of the step, in the policy's
frame. No ROS here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Array = NDArray[np.float64]

KINDS = ("delta", "pose", "relative_pose", "joint_positions")
AXES = ("base", "tool")
_LINK = 10
"""Numbers of a joint in a chain: position (3) [m], quaternion (4) xyzw, axis (3)."""


@dataclass(frozen=True)
class ActionFormat:
    """What the rows of a data set or a checkpoint say."""

    kind: str = "delta"
    axes: str = "base"
    """Of deltas."""
    joints: tuple[str, ...] = ()
    """Their names, of joint_positions."""
    chain: tuple[tuple[float, ...], ...] = ()
    """Of joint_positions in a checkpoint, joint after joint: where it is in the frame of the one before, the first in
    the policy's frame, and its axis (_LINK)."""
    tip: tuple[float, ...] = ()
    """And where the hand is in the last joint's frame (7)."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"actions: kind {self.kind!r}, one of {', '.join(KINDS)} expected")
        if self.axes not in AXES or (self.axes == "tool" and self.kind != "delta"):
            rule = "base or, of deltas, tool"
            raise ValueError(f"actions: axes {self.axes!r} of kind {self.kind}, {rule} expected")
        if bool(self.joints) != (self.kind == "joint_positions") or len(set(self.joints)) != len(self.joints):
            rule = "each once, of joint_positions, and of them alone, expected"
            raise ValueError(f"actions: joints {', '.join(self.joints) or 'none'} of kind {self.kind}: {rule}")
        if not self.chain and not self.tip:
            return
        numbers = [*self.tip, *(x for link in self.chain for x in link)]
        if (
            len(self.chain) != len(self.joints)
            or any(len(link) != _LINK for link in self.chain)
            or len(self.tip) != 7
            or not all(math.isfinite(x) for x in numbers)
            or any(abs(math.hypot(*q) - 1) > 1e-3 for q in (self.tip[3:], *(link[3:7] for link in self.chain)))
            or any(abs(math.hypot(*link[7:]) - 1) > 1e-3 for link in self.chain)
        ):
            rule = f"{_LINK} numbers a joint and 7 of the tip, quaternions and axes of length 1, expected"
            raise ValueError(f"actions: the chain of {len(self.joints)} joints: {rule}")

    @property
    def width(self) -> int:
        """Numbers of a row of data."""
        return len(self.joints) + 1 if self.joints else 7

    @property
    def checkpoint_width(self) -> int:
        """Numbers of a row that a checkpoint gives: rotations of poses are 6-D there."""
        return 10 if self.kind in ("pose", "relative_pose") else self.width

    def to_json(self) -> dict[str, Any]:
        """{} for deltas in the axes of the base: what checkpoints before 0.3 have."""
        fields: dict[str, Any] = {"kind": self.kind, "axes": self.axes}
        if self.joints:
            fields |= {"joints": list(self.joints), "chain": [list(link) for link in self.chain], "tip": list(self.tip)}
        return {} if self == ActionFormat() else fields

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> ActionFormat:
        """ValueError, in one line, for what is none."""
        known = {"kind", "axes", "joints", "chain", "tip"}
        if unknown := sorted(set(fields) - known):
            raise ValueError(f"actions: unknown {', '.join(unknown)}")
        kind, axes = fields.get("kind", "delta"), fields.get("axes", "base")
        joints, chain, tip = fields.get("joints", []), fields.get("chain", []), fields.get("tip", [])
        if not isinstance(joints, list) or not all(isinstance(name, str) and name for name in joints):
            raise ValueError(f"actions: joints {joints!r}, a list of names expected")
        if not isinstance(chain, list) or not all(map(_is_numbers, chain)) or not _is_numbers(tip):
            raise ValueError("actions: chain and tip: lists of numbers expected")
        return ActionFormat(kind, axes, tuple(joints), tuple(tuple(map(float, link)) for link in chain), tuple(tip))


def rotation_to_6d(rotation: Rotation) -> Array:
    """The first two columns of the matrix, (N, 6) (Zhou et al. 2019, arXiv 1812.07035)."""
    columns: Array = rotation.as_matrix()[..., :2]
    return np.concatenate((columns[..., 0], columns[..., 1]), axis=-1)


def rotation_from_6d(values: Array) -> Rotation:
    """The rotation whose first two columns are nearest to values (N, 6), by Gram and Schmidt. ValueError where the two
    are parallel, or nothing."""
    first, second = values[..., :3], values[..., 3:]
    length = np.linalg.norm(first, axis=-1, keepdims=True)
    x = first / np.maximum(length, 1e-12)
    across = second - (x * second).sum(axis=-1, keepdims=True) * x
    width = np.linalg.norm(across, axis=-1, keepdims=True)
    if not (np.all(length > 1e-3) and np.all(width > 1e-3)):  # so written for NaN
        raise ValueError("a rotation of two directions that are parallel, or of length 0")
    y = across / width
    return Rotation.from_matrix(np.stack((x, y, np.cross(x, y)), axis=-1))


def poses_of_deltas(rows: Array, positions: Array, rotations: Rotation, axes: str = "base") -> Array:
    """Pose rows (N, 7) that deltas (N, 7) ask for, of hands at positions (N, 3) turned by `rotations` (N)."""
    moved, turned = rows[:, :3], Rotation.from_rotvec(rows[:, 3:6])
    if axes == "tool":
        moved, goal = rotations.apply(moved), rotations * turned
    else:
        goal = turned * rotations
    return np.concatenate((positions + moved, goal.as_rotvec(), rows[:, 6:]), axis=1)


def with_rotations_6d(poses: Array) -> Array:
    """Pose rows (N, 10) as a checkpoint has them, of rows (N, 7) whose rotations are vectors."""
    turned = rotation_to_6d(Rotation.from_rotvec(poses[:, 3:6]))
    return np.concatenate((poses[:, :3], turned, poses[:, 6:]), axis=1)


def delta_to(row: Array, position: Array, rotation: Rotation) -> Array:
    """The delta (7), in the axes of the base, that takes the hand from there to a pose row (7)."""
    turn = (Rotation.from_rotvec(row[3:6]) * rotation.inv()).as_rotvec()
    return np.concatenate((row[:3] - position, turn, row[6:]))


def relative_to(rows: Array, position: Array, rotation: Rotation) -> Array:
    """Pose rows (N, 7), as seen from the hand there."""
    seen = rotation.inv()
    turned = (seen * Rotation.from_rotvec(rows[:, 3:6])).as_rotvec()
    return np.concatenate((seen.apply(rows[:, :3] - position), turned, rows[:, 6:]), axis=1)


def absolute_from(rows: Array, position: Array, rotation: Rotation) -> Array:
    """Pose rows (N, 7) of those that are seen from the hand there."""
    turned = (rotation * Rotation.from_rotvec(rows[:, 3:6])).as_rotvec()
    return np.concatenate((position + rotation.apply(rows[:, :3]), turned, rows[:, 6:]), axis=1)


def forward(actions: ActionFormat, joints: Array) -> tuple[Array, Rotation]:
    """Positions (N, 3) and rotations (N) of the hand, in the frame of the chain, at joint positions (N, J) [rad]."""
    position, rotation = np.zeros((len(joints), 3)), Rotation.identity(len(joints))
    for link, angle in zip(actions.chain, joints.T, strict=True):
        position = position + rotation.apply(np.array(link[:3]))
        turn = Rotation.from_rotvec(angle[:, None] * np.array(link[7:]))
        rotation = rotation * Rotation.from_quat(link[3:7]) * turn
    tip = np.array(actions.tip)
    return position + rotation.apply(tip[:3]), rotation * Rotation.from_quat(tip[3:])


def chain_of(joints: Sequence[str], hand: Callable[[Array], tuple[Array, Array]]) -> ActionFormat:
    """Joint positions of an arm of which only is known where the hand (position (3) m, quaternion (4) xyzw) is at joint
    positions (J) [rad]. Raises ValueError for a joint that does not turn.

    All frames stand as the one of the chain where the joints are 0 (product of exponentials; Brockett 1984): a quarter
    of a turn of each joint tells its axis, and the point that stays.
    """
    at, turned = hand(np.zeros(len(joints)))
    rest, last, chain = Rotation.from_quat(turned), np.zeros(3), []
    for name, quarter in zip(joints, np.pi / 2 * np.eye(len(joints)), strict=True):
        there, now = hand(quarter)
        turn = Rotation.from_quat(now) * rest.inv()
        if abs(turn.magnitude() - np.pi / 2) > 1e-6:
            raise ValueError(f"joint {name}: it does not turn the hand as far as it turns itself")
        axis = turn.as_rotvec() / turn.magnitude()
        matrix = turn.as_matrix()
        anchor = np.linalg.lstsq(np.eye(3) - matrix, there - matrix @ at, rcond=None)[0]
        chain.append((*(anchor - last).tolist(), 0.0, 0.0, 0.0, 1.0, *axis.tolist()))
        last = anchor
    tip = (*(at - last).tolist(), *(float(x) for x in turned))
    return ActionFormat("joint_positions", joints=tuple(joints), chain=tuple(chain), tip=tip)


def _is_numbers(value: object) -> bool:
    return isinstance(value, Sequence) and all(type(x) in (int, float) for x in value)
