"""Checkpoints of made-up policies for CartPole and the double pendulum, with known answers, trained on nothing."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from diffusion_ros import checkpoint
from diffusion_ros.checkpoint import exported
from diffusion_ros.spec import CheckpointSpec, TensorSpec

BALANCE = (0.1, 0.4, 2.0, 1.2)
"""Feedback of cart position and velocity, pole angle and its rate: CartPole stays up for as long as one likes."""


def spec(task: str = "cartpole", **changes: object) -> CheckpointSpec:
    """Of a discrete policy for `cartpole` or a continuous one for `double_pendulum`."""
    discrete = task == "cartpole"
    fields: dict[str, object] = {
        "kind": "discrete policy" if discrete else "continuous policy",
        "task": task,
        "environment": "CartPole-v1" if discrete else "InvertedDoublePendulum-v5",
        "inputs": (TensorSpec("observation", (4 if discrete else 9,), "float32", "", ""),),
        "outputs": (TensorSpec("action", (1,), "int64" if discrete else "float32", "1" if discrete else "N", ""),),
        "rate": 50.0 if discrete else 20.0,
        "horizon": 1,
        "n_obs_steps": 1,
        "n_action_steps": 1,
        "action_low": (0.0,) if discrete else (-1.0,),
        "action_high": (1.0,),
    }
    return CheckpointSpec(**{**fields, **changes})


class Balance(nn.Module):
    """Pushes to the side that a linear feedback of the state points to."""

    def __init__(self, gains: tuple[float, ...] = BALANCE) -> None:
        super().__init__()
        self.register_buffer("gains", torch.tensor(gains))

    def forward(self, observation: Tensor) -> Tensor:
        return self.values(observation).argmax(1)

    @exported
    def values(self, observation: Tensor) -> Tensor:
        push = observation @ self.gains
        return torch.stack([-push, push], 1)


class EveryBitDiscrete(Balance):
    """An action that changes with the last bits of every number observed, so that any difference shows."""

    @exported
    def values(self, observation: Tensor) -> Tensor:
        weights = torch.arange(1, observation.shape[1] + 1, dtype=torch.float32, device=observation.device)
        phase = torch.sin(1e5 * (observation * weights).sum(1))
        # Its sign alone decides, half of the time against what would balance.
        push = observation @ self.gains + 0.5 * phase
        return torch.stack([-push, push], 1)


class EveryBitContinuous(nn.Module):
    """A feedback that keeps the double pendulum up for a while, and a part that depends on every bit observed."""

    def __init__(self, size: int = 9) -> None:
        super().__init__()
        self.register_buffer("weights", torch.arange(1, size + 1, dtype=torch.float32))

    def forward(self, observation: Tensor) -> Tensor:
        return 0.2 * torch.sin(1e4 * (observation * self.weights).sum(1, keepdim=True))


def save(path: Path, module: nn.Module | None = None, spec_: CheckpointSpec | None = None) -> Path:
    """Writes `module` (of the spec's task, by default) with `spec_` and returns the path."""
    spec_ = spec_ or spec()
    if module is None:
        module = Balance() if spec_.kind == "discrete policy" else EveryBitContinuous()
    checkpoint.save(module, spec_, path)
    return path
