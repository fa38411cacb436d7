"""A planner checkpoint whose plans are straight lines in constant time, so that tests know what a node should get."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from diffusion_ros.checkpoint import exported, save
from diffusion_ros.simulators.tasks import maze_task
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


class StraightReach(StraightLines):
    """The same for a hand: row (17) of action, position, rotation and gripper; actions that go there in equal steps."""

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
        first, last = known[:, :1, 7:], known[:, -1:, 7:]
        state = first + along * (last - first)
        action = torch.zeros(n, rows, 7)
        action[:, :-1, :3] = (last - first)[:, :, :3] / (2.0 * (rows - 1))
        action[:, :, 6] = -1.0
        return x, torch.cat([action, state], dim=2)


def fake_arm_planner(path: Path) -> Path:
    """Writes it for a hand at 20 Hz, 16 rows of 2 control steps, and returns the path."""
    columns = tuple(
        TensorSpec(name, (size,), "float32", "m", "world")
        for name, size in (("action", 7), ("position", 3), ("rotation", 6), ("gripper", 1))
    )
    spec = CheckpointSpec(
        kind="planner",
        task="arm",
        environment="Lift",
        inputs=columns[1:],
        outputs=columns,
        rate=20.0,
        horizon=16,
        n_obs_steps=1,
        n_action_steps=16,
        action_low=(-0.05, -0.05, -0.05, -0.5, -0.5, -0.5, -1.0),
        action_high=(0.05, 0.05, 0.05, 0.5, 0.5, 0.5, 1.0),
        workspace_low=(-0.5, -0.5, 0.8),
        workspace_high=(0.5, 0.5, 1.5),
        sampler="ddim",
        sampler_steps=2,
        num_train_timesteps=64,
        stride=2,
    )
    save(StraightReach(), spec, path)
    return path


def fake_planner(path: Path) -> Path:
    """Writes it for the U-maze and returns the path."""
    task = maze_task("umaze")
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
