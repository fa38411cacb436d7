"""Chunks: the rows that a policy wants executed, each at its time. No ROS here and no clock."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from diffusion_ros.robot import ACTION_NAMES, ACTION_SIZE, POSE_NAMES, TOOL_ACTION_NAMES

ROW_NAMES = {"delta": ACTION_NAMES, "tool_delta": TOOL_ACTION_NAMES, "pose": POSE_NAMES}
"""Kind of a chunk -> what its columns are called."""
MAX_ROWS = 256
"""Rows of a chunk that is read at all."""


@dataclass(frozen=True)
class ActionChunk:
    """Rows of actions; row i is due i * period_ns after the first one, which is due at stamp_ns.

    rows (N, 7) float64: dx dy dz [m per control step], drx dry drz [rad per control step, a rotation vector], both in
    the axes of eef_pose's frame, and the gripper, -1 open to +1 closed, 0 as it is.

    kind 'tool_delta': the same in the hand's own axes. 'pose': where the hand is to be at the end of the step, x y z
    [m] and a rotation vector, in eef_pose's frame.
    """

    stamp_ns: int
    """Stamp of the newest observation that the chunk was made from: row 0 answers it."""
    rows: NDArray[np.float64]
    period_ns: int
    kind: str = "delta"
    begins_ns: int | None = None
    """When row 0 is due instead, because it came late to a robot that stood still until then."""

    def __post_init__(self) -> None:
        rows = np.asarray(self.rows, np.float64)
        if self.kind not in ROW_NAMES:
            raise ValueError(f"chunk of kind {self.kind!r}, one of {', '.join(ROW_NAMES)} expected")
        if rows.ndim != 2 or rows.shape[0] < 1 or rows.shape[1] != ACTION_SIZE:
            raise ValueError(f"chunk of shape {rows.shape}, (N, {ACTION_SIZE}) with N at least 1 expected")
        if self.period_ns < 1:
            raise ValueError(f"chunk with a period of {self.period_ns} ns, more than 0 expected")
        object.__setattr__(self, "rows", rows)

    @property
    def is_hold(self) -> bool:
        """Whether its sender asks for a hold: motions that are all zero."""
        return self.kind != "pose" and not np.any(self.rows)

    @property
    def first_ns(self) -> int:
        """When row 0 is due."""
        return self.stamp_ns if self.begins_ns is None else self.begins_ns

    def index_at(self, t_ns: int) -> int:
        """The row whose due time is nearest to t_ns, whether the chunk has it or not; a tie goes to the later one.

        Nearest and not the last one due: observations of a real clock come a little early and late, and rounding
        down would then give one row twice and leave the next one out. Integers, so exact for any stamp.
        """
        return (2 * (t_ns - self.first_ns) + self.period_ns) // (2 * self.period_ns)

    def row(self, t_ns: int) -> NDArray[np.float64] | None:
        """(7), or None outside the chunk."""
        index = self.index_at(t_ns)
        if not 0 <= index < len(self.rows):
            return None
        row: NDArray[np.float64] = self.rows[index]
        return row


def chunk_positions(
    eef_pos: NDArray[np.float64], rows: NDArray[np.float64], kind: str = "delta", rotation: Rotation | None = None
) -> NDArray[np.float64]:
    """Where a chunk leads: positions (N + 1, 3), metres, from `eef_pos` (3) and the rows (N, 7) of a kind.

    Of motions the sum of the commands, that is what the policy asks for: an arm that lags behind ends short of it.
    rotation: the hand's, for motions in its own axes; None: nobody knows where they lead.
    """
    deltas = np.asarray(rows, dtype=np.float64)[:, :3]
    if kind == "pose":
        return np.vstack([np.asarray(eef_pos, dtype=np.float64), deltas])
    if kind == "tool_delta":
        deltas = np.zeros((0, 3)) if rotation is None else rotation.apply(deltas.reshape(-1, 3))
    ways = np.vstack([np.zeros(3), np.cumsum(deltas, axis=0)])
    return np.asarray(np.asarray(eef_pos, dtype=np.float64) + ways)


def hold_chunk(stamp_ns: int, period_ns: int) -> ActionChunk:
    """The chunk of a sender that has no answer to this observation. It means: hold, and forget my earlier chunks."""
    return ActionChunk(stamp_ns, np.zeros((1, ACTION_SIZE)), period_ns)
