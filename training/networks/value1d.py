"""A network that estimates the return of a trajectory, for a planner's guidance (Janner et al. 2022, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.networks.unet1d import TemporalConv


class ReturnEstimator(nn.Module):
    """The downward half of a temporal U-Net, averaged over time, with one number at its end.

    Rows also carry their place in time, since a discounted return depends on when something happens.

    Args:
        in_dim: channels of a row.
        widths: channels after each halving of the horizon.
    """

    def __init__(self, in_dim: int, widths: Sequence[int] = (32, 64, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = in_dim + 1
        for width in widths:
            layers += [TemporalConv(before, width, 5, stride=2), nn.LayerNorm(width), nn.SiLU()]
            before = width
        self.convolutions = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(before, before), nn.SiLU(), nn.Linear(before, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, H, in_dim) in [-1, 1]; returns (B,)."""
        when = torch.linspace(-1.0, 1.0, x.shape[1], device=x.device)[None, :, None].expand(x.shape[0], -1, -1)
        hidden = self.convolutions(torch.cat([x, when], dim=2)).mean(dim=1)
        y: Tensor = self.head(hidden)[:, 0]
        return y
