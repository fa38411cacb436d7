"""A planner checkpoint whose plans are straight lines in constant time, so that tests know what a node should get."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from diffusion_ros.checkpoint import exported, save
from diffusion_ros.maze import maze_named
from diffusion_ros.spec import CheckpointSpec, TensorSpec

HORIZON, STRIDE = 32, 4


class StraightLines(nn.Module):
    """From the known start to the known goal; the first row's action counts the guides it was given."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    @exported
    def noised(self, plan: Tensor, noise: Tensor, t: int) -> Tensor:
        return plan

    @exported
    def step(
        self,
        x: Tensor,
        known: Tensor,
        mask: Tensor,
        noise: Tensor,
        t: int,
        previous: int,
        guides: dict[str, Tensor],
    ) -> tuple[Tensor, Tensor]:
        n, rows = x.shape[0], x.shape[1]
        along = torch.linspace(0.0, 1.0, rows)[None, :, None]
        first, last = known[:, :1, 2:4], known[:, -1:, 2:4]
        position = first + along * (last - first)
        velocity = (last - first).expand(n, rows, 2) * (100.0 / 4 / (rows - 1))
        action = torch.zeros(n, rows, 2) + float(len(guides))
        return x, torch.cat([action, position, velocity], dim=2)

    @exported
    def weighted_return(self, plan: Tensor, guides: dict[str, Tensor]) -> Tensor:
        return torch.zeros(plan.shape[0])


def fake_planner(path: Path) -> Path:
    """Writes it for the U-maze and returns the path."""
    task = maze_named("umaze")
    columns = tuple(TensorSpec(n, (2,), "float32", "m", "map") for n in ("action", "position", "velocity"))
    spec = CheckpointSpec(
        kind="planner",
        task=task.name,
        environment=task.environment,
        inputs=columns[1:],
        outputs=columns,
        rate=100.0,
        horizon=HORIZON,
        n_obs_steps=1,
        n_action_steps=HORIZON,
        action_low=(-1.0, -1.0),
        action_high=(1.0, 1.0),
        workspace_low=(-2.5, -2.5, -1.0),
        workspace_high=(2.5, 2.5, 1.0),
        sampler="ddim",
        sampler_steps=2,
        num_train_timesteps=64,
        stride=STRIDE,
    )
    save(StraightLines(), spec, path)
    return path
