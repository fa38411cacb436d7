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
    return checkpoint.checked(CheckpointSpec(**{**fields, **changes}))


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


class Upright(nn.Module):
    """Linear-quadratic regulation of the double pendulum: up for 1,000 steps from every start, return 9360."""

    def __init__(self) -> None:
        super().__init__()
        # Of cart, sines, (cosines), velocities, (constraint force).
        gains = (0.042, 0.411, 3.23, 0.0, 0.0, 0.0918, 0.3726, 0.4671, 0.0)
        self.register_buffer("gains", torch.tensor(gains))

    def forward(self, observation: Tensor) -> Tensor:
        return torch.clamp(-(observation @ self.gains), -1.0, 1.0)[:, None]


def last_bits(observation: Tensor) -> Tensor:
    """(B) in [-1, 1]: another number altogether where one of (B, n) differs in its last bit."""
    return torch.sin(2.0**27 * observation).mean(1)  # a power of two loses none of them


class EveryBitDiscrete(Balance):
    """An action that changes with the last bits of every number observed, so that any difference shows."""

    @exported
    def values(self, observation: Tensor) -> Tensor:
        push = observation @ self.gains + 0.3 * last_bits(observation)
        return torch.stack([-push, push], 1)


class EveryBitContinuous(Upright):
    """Likewise: a part of the effort depends on the last bits of every number observed."""

    def forward(self, observation: Tensor) -> Tensor:
        noise = 0.05 * last_bits(observation)
        return torch.clamp(noise - observation @ self.gains, -1.0, 1.0)[:, None]


def save(path: Path, module: nn.Module | None = None, spec_: CheckpointSpec | None = None) -> Path:
    """Writes `module` (of the spec's task, by default) with `spec_` and returns the path."""
    spec_ = spec_ or spec()
    if module is None:
        module = Balance() if spec_.kind == "discrete policy" else Upright()
    checkpoint.save(module, spec_, path)
    return path
