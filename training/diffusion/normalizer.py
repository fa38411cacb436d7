"""Scales observations and actions to [-1, 1] and back. The statistics are part of the checkpoint."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def _rows(data: NDArray[np.floating]) -> NDArray[np.float64]:
    """data (..., D) as (N, D) float64; ValueError when it is empty or has a value that is not finite."""
    if data.ndim < 2 or data.size == 0:
        raise ValueError(f"data of shape {data.shape} cannot be normalised: it must be (..., D) and not empty")
    rows = data.reshape(-1, data.shape[-1]).astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=0))
    if bad.size:
        raise ValueError(f"data has NaN or infinite values in dimension {bad[0]}: every value must be finite")
    return rows


class AffineNormalizer(nn.Module):
    """y = (x - offset) / scale in each dimension of the last axis.

    Args:
        offset: (D,), what becomes 0.
        scale: (D,), what becomes 1 when added to offset; positive.

    Raises:
        ValueError: statistics that are not finite or a scale that is not positive.
    """

    def __init__(self, offset: NDArray[np.floating], scale: NDArray[np.floating]) -> None:
        super().__init__()
        offset, scale = np.asarray(offset, np.float64), np.asarray(scale, np.float64)
        if offset.ndim != 1 or offset.shape != scale.shape:
            raise ValueError(f"statistics have shapes {offset.shape} and {scale.shape}: both must be (D,)")
        if not (np.isfinite(offset).all() and np.isfinite(scale).all() and (scale > 0).all()):
            raise ValueError(f"offset is {offset}, scale is {scale}: both must be finite and the scale positive")
        self.offset = nn.Buffer(torch.tensor(offset, dtype=torch.float32))
        self.scale = nn.Buffer(torch.tensor(scale, dtype=torch.float32))

    def normalize(self, x: Tensor) -> Tensor:
        """x (..., D) in its own units; returns (..., D)."""
        return (x - self.offset) / self.scale

    def unnormalize(self, y: Tensor) -> Tensor:
        """The inverse of `normalize`: y (..., D); returns (..., D) in the data's units."""
        return y * self.scale + self.offset


class LimitsNormalizer(AffineNormalizer):
    """The smallest value of each dimension to -1, the largest to +1.

    Args:
        minimum: (D,).
        maximum: (D,), not less than minimum.
        min_range: a dimension that varies less than this, in the data's units, is scaled as if it varied by as much. So
            a constant becomes 0; neither does sensor noise on it become huge, nor the network's error a motion.
    """

    def __init__(self, minimum: NDArray[np.floating], maximum: NDArray[np.floating], min_range: float = 1e-3) -> None:
        low, high = np.asarray(minimum, np.float64), np.asarray(maximum, np.float64)
        if low.shape != high.shape or not (low <= high).all():
            raise ValueError(f"minimum is {low}, maximum is {high}: no minimum may exceed its maximum or be NaN")
        super().__init__((low + high) / 2, np.maximum(high - low, min_range) / 2)

    @classmethod
    def from_data(cls, data: NDArray[np.floating], min_range: float = 1e-3) -> LimitsNormalizer:
        """Limits over all but the last axis of data (..., D); ValueError when a value is not finite."""
        rows = _rows(data)
        return cls(rows.min(axis=0), rows.max(axis=0), min_range)
