"""Embedding of a diffusion time step."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class SinusoidalEmbedding(nn.Module):
    """Sines and cosines of the time at geometrically spaced frequencies (Vaswani et al. 2017, section 3.5).

    The frequencies run from 1 to 1 / max_period; the first half of the features are sines, the second cosines.
    """

    def __init__(self, dim: int, max_period: float = 10000.0) -> None:
        super().__init__()
        if dim < 4 or dim % 2:
            raise ValueError(f"dim is {dim}: a sinusoidal embedding needs an even number of at least 4")
        half = dim // 2
        self.frequencies = nn.Buffer(torch.exp(torch.arange(half) * (-math.log(max_period) / (half - 1))))

    def forward(self, t: Tensor) -> Tensor:
        """t (B,) int64 or float, in diffusion steps; returns (B, dim) float."""
        angles = t[:, None].to(self.frequencies.dtype) * self.frequencies[None]
        return torch.cat([angles.sin(), angles.cos()], dim=1)
