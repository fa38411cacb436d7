"""A tiny policy checkpoint with known answers, to drive nodes and loops without training anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_ros import checkpoint
from diffusion_ros.checkpoint import exported
from diffusion_ros.spec import CheckpointSpec, TensorSpec

CAMERAS = ("agentview", "robot0_eye_in_hand")
LOW_DIM = (
    TensorSpec("robot0_eef_pos", (3,), "float32", "m", "world"),
    TensorSpec("robot0_eef_quat", (4,), "float32", "1", "world"),
    TensorSpec("robot0_gripper_qpos", (2,), "float32", "m", ""),
)
OBJECT = (
    TensorSpec("object_pos", (3,), "float32", "m", "world"),
    TensorSpec("object_quat", (4,), "float32", "1", "world"),
)
NAN_BEYOND = 9.0
"""The policy answers NaN when the hand's x is beyond this [m]."""


def images(size: int = 84) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(f"{camera}_image", (size, size, 3), "uint8", "rgb", camera) for camera in CAMERAS)


def spec(inputs: tuple[TensorSpec, ...] = (*images(), *LOW_DIM), **changes: object) -> CheckpointSpec:
    """horizon 10, 2 observation steps, 8 of 9 rows executed, 20 Hz; the box is a metre either way of the origin."""
    fields: dict[str, object] = {
        "kind": "policy",
        "task": "can",
        "environment": "PickPlaceCan",
        "inputs": inputs,
        "outputs": (TensorSpec("action", (7,), "float32", "m, rad per control step; gripper", "world"),),
        "rate": 20.0,
        "horizon": 10,
        "n_obs_steps": 2,
        "n_action_steps": 8,
        "action_low": (-0.05, -0.05, -0.05, -0.5, -0.5, -0.5, -1.0),
        "action_high": (0.05, 0.05, 0.05, 0.5, 0.5, 0.5, 1.0),
        "workspace_low": (-1.0, -1.0, -1.0),
        "workspace_high": (1.0, 1.0, 1.0),
        "sampler": "ddim",
        "sampler_steps": 10,
        "num_train_timesteps": 100,
        "git_commit": "0" * 40,
        "data_hash": "0" * 64,
    }
    return checkpoint.checked(CheckpointSpec(**{**fields, **changes}))


def relative(inputs: tuple[TensorSpec, ...], **changes: Any) -> CheckpointSpec:
    """Of a policy whose rows are poses as seen from the observed hand."""
    action = TensorSpec("action", (10,), "float32", "m, rad; gripper", "world")
    return spec(inputs, outputs=(action,), actions={"kind": "relative_pose", "axes": "base"}, **changes)


class FakePolicy(nn.Module):
    """Rows that depend on every input, on the seed, on the steps and on the order of the window."""

    def __init__(self, names: tuple[str, ...], n_rows: int, relative: bool = False) -> None:
        super().__init__()
        self.relative = relative
        self.names = list(names)
        self.n_rows = n_rows
        self.register_buffer("gain", torch.tensor([0.02, 0.02, 0.02, 0.1, 0.1, 0.1, 0.5]))

    @exported
    def encode(self, obs: dict[str, Tensor]) -> Tensor:
        parts = [obs["robot0_eef_pos"][:, :1]]
        for name in self.names:
            value = obs[name].to(torch.float32).flatten(1)
            weights = torch.arange(1, value.shape[1] + 1, dtype=torch.float32) % 7.0
            parts.append((value * weights).mean(1, keepdim=True))
        return torch.cat(parts, 1)

    @exported
    def sample(self, features: Tensor, seed: int, steps: int) -> Tensor:
        weights = torch.arange(1, features.shape[1] * features.shape[2] + 1, dtype=torch.float32)
        phase = (features.flatten(1) * weights).sum(1)[:, None, None] + 0.01 * float(seed % 1000) + 0.1 * float(steps)
        index = torch.arange(self.n_rows * 7, dtype=torch.float32).reshape(1, self.n_rows, 7)
        rows = self.gain * torch.sin(phase + 0.7 * index)
        if self.relative:  # nearly no turn, as the first two columns of its matrix
            one, (x, y, z) = torch.ones_like(rows[..., :1]), rows[..., 3:6].split(1, dim=2)
            rows = torch.cat([rows[..., :3], one, z, -y, -z, one, x, rows[..., 6:]], dim=2)
        lost = features[:, -1, 0] > 9.0
        return torch.where(lost[:, None, None], torch.full_like(rows, float("nan")), rows)


class LatePolicy(FakePolicy):
    """One whose chunks begin with the rows that are executed before they come."""

    @exported
    def sample_after(self, features: Tensor, executed: Tensor, weights: Tensor, seed: int, steps: int) -> Tensor:
        rows = self.sample(features, seed, steps)
        past = executed.shape[1] - self.n_rows
        return torch.where(weights[:, past:, None] >= 1.0, executed[:, past:], rows)


class CountingPolicy(FakePolicy):
    """One whose rows are numbers, each a `COUNT` more than the one before: a chunk goes on from the rows that it is
    given, and begins anew by its seed where it is given none."""

    @exported
    def sample(self, features: Tensor, seed: int, steps: int) -> Tensor:
        index = torch.arange(self.n_rows, dtype=torch.float32)[None, :, None]
        return 1e-6 * (1000.0 * (1.0 + float(seed % 20)) + index) * torch.ones(1, 1, 7) + 0.0 * features.sum()

    @exported
    def sample_after(self, features: Tensor, executed: Tensor, weights: Tensor, seed: int, steps: int) -> Tensor:
        known = int((weights[0] >= 1.0).sum())
        past = executed.shape[1] - self.n_rows
        index = torch.arange(self.n_rows, dtype=torch.float32)[None, :, None] - float(known - 1 - past)
        return executed[:, known - 1 : known] + 1e-6 * index


COUNT = 1e-6


def save(path: Path, spec_: CheckpointSpec | None = None, kind: type[FakePolicy] | None = None) -> Path:
    """Writes a checkpoint for `spec_` and returns its path."""
    spec_ = spec_ or spec()
    made = kind or (LatePolicy if spec_.max_delay else FakePolicy)
    checkpoint.save(made(spec_.input_names, spec_.n_rows, bool(spec_.actions)), spec_, path)
    return path
