"""Rows of demonstrations as a policy learns them, whatever the file says them as.

delta            (N, 7)        as it is executed
pose             (N, 10)       position [m], first two columns of the rotation, gripper
relative_pose    (N, 10)       the same here; each window's are seen from its newest observed hand (`seen_from`)
joint_positions  (N, J + 1)    [rad], gripper
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from diffusion_ros.action_kinds import (
    ActionFormat,
    delta_to,
    forward,
    poses_of_deltas,
    with_rotations_6d,
)
from diffusion_ros.robot import EEF_POS, EEF_QUAT
from training.data.demonstrations import EXECUTED, JOINT_POSITIONS, Demonstrations
from training.diffusion.normalizer import LimitsNormalizer

Array = NDArray[np.float64]

_LEAST_SHARE = 0.05
"""Of a full delta that an axis counts as used for: one that is not used varies by a numerical trace."""
_LEAST_SPAN = 0.02
"""m or rad, of places and joints that hardly vary."""
_ROUNDS = 15
_DAMPING = 3e-3
_REACHED = 0.05, 0.25
"""m, rad: what may be left to where the arm was told to go, at the edge of its reach."""
_NEAR = 0.2
"""m between where hands were told to go and where they were, in the middle of all."""
_AGREES = 0.35
"""rad between where hands were told to turn and where they were, on average, beside a constant turn."""


def converted(
    data: Demonstrations, kind: str, chain: ActionFormat | None = None
) -> tuple[Demonstrations, ActionFormat]:
    """The demonstrations with rows as they are learnt, and what those say; what was executed likewise. kind: '' the
    file's own, else one of action_kinds.KINDS. chain: the arm's, for joint_positions.

    ValueError, in one line, where the file does not allow it. Where it allows it of the labels alone, `executed` is
    None and `executed_missing` says why: an arm may not reach where noise sent it.
    """
    own = data.recorded.actions
    kind = kind or own.kind
    if kind == own.kind == "delta":
        return data, own
    if own.kind == "joint_positions":
        if chain is None or chain.joints != own.joints:
            known = ", ".join(chain.joints) if chain is not None else "nothing"
            raise ValueError(
                f"actions of the joints {', '.join(own.joints)}: where they take the hand is not known;"
                f" the arm's description has {known}"
            )
        if kind == own.kind:
            return data, chain
    if kind == "joint_positions" and chain is None:
        raise ValueError("action_kind joint_positions: only with the arm's description")
    hands = _hands(data)
    quarter = _quarter(data.actions.astype(np.float64), *hands) if own.kind == "pose" else Rotation.identity()

    def of_kind(given: NDArray[np.float32]) -> NDArray[np.float32]:
        rows = given.astype(np.float64)
        if own.kind == "delta":
            poses = poses_of_deltas(rows, *hands, own.axes)
        elif own.kind == "pose":
            poses = rows.copy()
            poses[:, 3:6] = (Rotation.from_rotvec(rows[:, 3:6]) * quarter.inv()).as_rotvec()
        else:
            assert chain is not None
            positions, rotations = forward(chain, rows[:, :-1])
            poses = np.concatenate((positions, rotations.as_rotvec(), rows[:, -1:]), axis=1)
        if kind == "delta":
            made = [delta_to(row, at, turn) for row, at, turn in zip(poses, hands[0], hands[1], strict=True)]
            return np.array(made, np.float32)
        if kind == "joint_positions":
            assert chain is not None
            joints = joint_goals(chain, _joints(data), poses[:, :3], Rotation.from_rotvec(poses[:, 3:6]))
            return np.hstack((joints, rows[:, -1:])).astype(np.float32)
        return with_rotations_6d(poses).astype(np.float32)

    said = chain if chain is not None and kind == "joint_positions" else ActionFormat(kind)
    changed = replace(data, actions=of_kind(data.actions))
    if data.executed is not None:
        try:
            changed = replace(changed, executed=of_kind(data.executed))
        except ValueError as error:
            changed = replace(changed, executed=None, executed_missing=f"{EXECUTED}: {error}")
    return changed, said


def with_widths(data: Demonstrations, closed: float, opened: float) -> Demonstrations:
    """The demonstrations whose last column was a width [m] between the fingers, as -1 open to +1 closed. ValueError
    where one is not near those two."""
    actions = _of_widths("actions", data.actions, closed, opened)
    executed = None if data.executed is None else _of_widths(EXECUTED, data.executed, closed, opened)
    return replace(data, actions=actions, executed=executed)


def _of_widths(what: str, rows: NDArray[np.float32], closed: float, opened: float) -> NDArray[np.float32]:
    widths = rows[:, -1]
    slack = 0.1 * (opened - closed)
    if widths.min() < closed - slack or widths.max() > opened + slack:
        rule = f"{closed:g} to {opened:g} expected (gripper_width)"
        raise ValueError(f"{what}: widths of the gripper from {widths.min():.3g} to {widths.max():.3g} m, {rule}")
    rows = rows.copy()
    rows[:, -1] = np.clip(1 - 2 * (widths - closed) / (opened - closed), -1, 1)
    return rows


def _hands(data: Demonstrations) -> tuple[Array, Rotation]:
    missing = [name for name in (EEF_POS, EEF_QUAT) if name not in data.observations]
    if missing:
        raise ValueError(f"action_kind: without {', '.join(missing)} among the inputs nobody knows where the hand was")
    return data.observations[EEF_POS].astype(np.float64), Rotation.from_quat(data.observations[EEF_QUAT])


def _quarter(rows: Array, positions: Array, hands: Rotation) -> Rotation:
    """How the rotations of pose rows (N, 7) are turned beside the hand's. robosuite's poses turn the grip site, which
    stands a quarter of a turn beside the hand: by how many quarters, the data say. ValueError where it is none."""
    away = float(np.median(np.linalg.norm(rows[:, :3] - positions, axis=1)))
    if away > _NEAR:
        rule = f"at most {_NEAR:g} m expected: they are in another frame than the hand's"
        raise ValueError(f"actions: poses {away:.2f} m from where the hand was, {rule}")
    told = Rotation.from_rotvec(rows[:, 3:6])
    apart = (hands.inv() * told).mean()
    quarter = Rotation.from_euler("z", np.pi / 2 * round(2 / np.pi * apart.as_euler("zyx")[0]))
    if (apart * quarter.inv()).magnitude() > _AGREES:
        rule = "a turn about the vertical of the hand by quarters of a turn expected"
        raise ValueError(f"actions: poses are turned by {np.round(apart.as_rotvec(), 2)} to the hand's: {rule}")
    return quarter


def _joints(data: Demonstrations) -> Array:
    if JOINT_POSITIONS not in data.observations:
        raise ValueError(f"action_kind joint_positions: the data have no {JOINT_POSITIONS}, the joints as measured")
    return data.observations[JOINT_POSITIONS].astype(np.float64)


def joint_goals(chain: ActionFormat, joints: Array, positions: Array, rotations: Rotation) -> Array:
    """Joint positions (N, J) [rad] that take the hand to positions (N, 3) [m] and rotations (N), from joints (N, J) by
    the least motion (damped least squares; Wampler 1986). ValueError where it does not get there."""
    joints = joints.copy()
    for _ in range(_ROUNDS):
        at, turned = forward(chain, joints)
        error = np.concatenate((positions - at, (rotations * turned.inv()).as_rotvec()), axis=1)
        jacobian = _jacobians(chain, joints, at)
        square = jacobian @ jacobian.swapaxes(1, 2) + _DAMPING * np.eye(6)
        joints = joints + np.einsum("nij,ni->nj", jacobian, np.linalg.solve(square, error[:, :, None])[:, :, 0])
    at, turned = forward(chain, joints)
    away = np.linalg.norm(positions - at, axis=1), (rotations * turned.inv()).magnitude()
    if any(float(values.max()) > most for values, most in zip(away, _REACHED, strict=True)):
        raise ValueError(
            f"action_kind joint_positions: the arm does not reach what it was told: {away[0].max():.3f} m and"
            f" {away[1].max():.2f} rad are left"
        )
    return joints


def _jacobians(chain: ActionFormat, joints: Array, tips: Array) -> Array:
    """(N, 6, J) of the hand's position and rotation, in the frame of the chain."""
    position, rotation = np.zeros((len(joints), 3)), Rotation.identity(len(joints))
    columns = []
    for link, angle in zip(chain.chain, joints.T, strict=True):
        position = position + rotation.apply(np.array(link[:3]))
        rotation = rotation * Rotation.from_quat(link[3:7])
        axis = rotation.apply(np.array(link[7:]))
        columns.append(np.concatenate((np.cross(axis, tips - position), axis), axis=1))
        rotation = rotation * Rotation.from_rotvec(angle[:, None] * np.array(link[7:]))
    return np.stack(columns, axis=2)


def row_limits(data: Demonstrations, actions: ActionFormat, rows: NDArray[np.floating]) -> LimitsNormalizer:
    """To [-1, 1], of rows (n, A) as they are learnt."""
    low, high = rows.min(axis=0).astype(np.float64), rows.max(axis=0).astype(np.float64)
    if actions.kind == "delta":
        floor = _LEAST_SHARE * np.array(data.recorded.scale)
        return LimitsNormalizer(np.minimum(low, -floor), np.maximum(high, floor))
    least = np.full(rows.shape[1], _LEAST_SPAN)
    middle, span = (low + high) / 2, np.maximum((high - low) / 2, least / 2)
    low, high = middle - span, middle + span
    if actions.checkpoint_width == 10:
        low[3:9], high[3:9] = -1.0, 1.0
    low[-1], high[-1] = min(low[-1], -1.0), max(high[-1], 1.0)
    return LimitsNormalizer(low, high)


def seen_from(rows: Tensor, position: Tensor, turn: Tensor) -> Tensor:
    """Poses (B, n, 10) as seen from hands at positions (B, 3), turned by matrices (B, 3, 3)."""
    back = turn.transpose(1, 2)[:, None]

    def turned(vectors: Tensor) -> Tensor:
        return (back * vectors[:, :, None, :]).sum(dim=-1)

    moved = turned(rows[..., :3] - position[:, None])
    return torch.cat([moved, turned(rows[..., 3:6]), turned(rows[..., 6:9]), rows[..., 9:]], dim=-1)
