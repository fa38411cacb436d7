"""A camera guard with known answers: what is darker than it should be scores above 1."""

from __future__ import annotations

from pathlib import Path

import torch
from fake_policy import LOW_DIM, images
from torch import Tensor, nn

from diffusion_ros import checkpoint
from diffusion_ros.checkpoint import exported
from diffusion_ros.spec import CheckpointSpec


def spec(**changes: object) -> CheckpointSpec:
    """Of a guard for both cameras of Can."""
    from diffusion_ros.spec import TensorSpec

    fields: dict[str, object] = {
        "kind": "camera guard",
        "task": "can",
        "environment": "PickPlaceCan",
        "inputs": (*images(), *LOW_DIM[:2]),
        "outputs": (TensorSpec("score", (1,), "float32", "1", ""),),
        "rate": 5.0,
        "horizon": 1,
        "n_obs_steps": 1,
        "n_action_steps": 1,
        "action_low": (),
        "action_high": (),
    }
    return checkpoint.checked(CheckpointSpec(**{**fields, **changes}))


class Brightness(nn.Module):
    """Scores 0.5 for mean level 100, 1 for 50, 2 for 0; twice that for the second camera; and 1 more for each metre by
    which the hand is below 0."""

    def forward(self, images: Tensor, poses: Tensor, camera: int) -> tuple[Tensor, Tensor]:
        return self.score(images, poses, camera)

    @exported
    def score(self, images: Tensor, poses: Tensor, camera: int) -> tuple[Tensor, Tensor]:
        heat = (camera + 1) * torch.exp2(1 - images.float().mean(3) / 50)
        heat = heat - poses[:, 2].clamp(max=0.0)[:, None, None]
        return heat.mean((1, 2)), heat[:, ::4, ::4]


def save(path: Path) -> Path:
    """Writes the guard and returns its path."""
    checkpoint.save(Brightness(), spec(), path)
    return path
