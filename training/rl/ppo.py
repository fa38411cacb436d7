"""Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347): advantages, statistics, loss, export."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffusion_ros import checkpoint
from training.diffusion.normalizer import AffineNormalizer
from training.networks.mlp import ActorCritic

Array = NDArray[Any]

CLIP = 10.0
"""Standard deviations beyond which normalised observations and scaled rewards are cut off."""


class RunningStatistics:
    """Mean and variance of all rows seen so far (Chan et al. 1983's formula for merging two samples).

    Args:
        size: D.
    """

    def __init__(self, size: int) -> None:
        self.mean, self.variance, self.count = np.zeros(size), np.ones(size), 0

    def update(self, rows: Array) -> None:
        """Takes rows (N, D) in."""
        if not len(rows):
            return
        mean, variance, count = rows.mean(axis=0), rows.var(axis=0), len(rows)
        total = self.count + count
        difference = mean - self.mean
        self.variance = (
            self.count * self.variance + count * variance + difference**2 * self.count * count / total
        ) / total
        self.mean = self.mean + difference * count / total
        self.count = total

    @property
    def std(self) -> Array:
        """(D,), positive."""
        return np.sqrt(self.variance + 1e-8)

    def state(self) -> dict[str, Any]:
        """For run.save_state."""
        return {"mean": torch.from_numpy(self.mean), "variance": torch.from_numpy(self.variance), "count": self.count}

    def restore(self, state: dict[str, Any]) -> None:
        """The opposite of :meth:`state`."""
        self.mean, self.variance, self.count = state["mean"].numpy(), state["variance"].numpy(), int(state["count"])


class RewardScaler:
    """Divides rewards by the running standard deviation of the discounted return, and never shifts them.

    Args:
        gamma: discount of a step.
        n_environments: E.
    """

    def __init__(self, gamma: float, n_environments: int) -> None:
        self.gamma = gamma
        self.statistics = RunningStatistics(1)
        self._returns = np.zeros(n_environments)

    def scale(self, reward: Array, done: Array, valid: Array) -> Array:
        """Rewards (T, E) of T steps, in units of the statistics with them; done and valid (T, E)."""
        returns = np.empty_like(reward)
        for t in range(len(reward)):
            self._returns = self.gamma * self._returns + reward[t]
            returns[t] = self._returns
            self._returns = self._returns * ~done[t]
        self.statistics.update(returns[valid][:, None])
        return np.clip(reward / self.statistics.std, -CLIP, CLIP)

    def restart(self) -> None:
        """When all environments start new episodes."""
        self._returns[:] = 0


def advantages(
    reward: Array, value: Array, terminated: Array, truncated: Array, gamma: float, gae_lambda: float
) -> Array:
    """Generalised advantage estimates (T, E) (Schulman et al. 2016, arXiv 1506.02438, eq. 16).

    Args:
        reward: (T, E).
        value: (T + 1, E), of the observation before each step and of the one after the last.
        terminated: (T, E): the episode ended for good, nothing follows.
        truncated: (T, E): it was cut off and would have gone on. The observation after it is still its own (see
            GymnasiumTask.environments), so that value[t + 1] is what it would have gone on with.
        gamma: discount of a step.
        gae_lambda: 0: one step's; 1: the whole episode's.
    """
    delta = reward + gamma * value[1:] * ~terminated - value[:-1]
    keep = gamma * gae_lambda * ~(terminated | truncated)
    result = np.empty_like(delta)
    following = np.zeros(reward.shape[1])
    for t in reversed(range(len(reward))):
        following = delta[t] + keep[t] * following
        result[t] = following
    return result


def clipped_loss(log_ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """-L^CLIP (Schulman et al. 2017, eq. 7): scalar, from the log of pi / pi_old (B,) and advantages (B,)."""
    ratio = log_ratio.exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()


class ContinuousPolicy(nn.Module):
    """What is exported: the mean action in the environment's units, with all normalisation inside.

    Args:
        network: actor and critic, of normalised observations.
        observations: their statistics.
        returns: statistics of the discounted return, whose scale is the critic's unit.
        action_low: (m,).
        action_high: (m,).
    """

    def __init__(
        self,
        network: ActorCritic,
        observations: RunningStatistics,
        returns: RunningStatistics,
        action_low: Array,
        action_high: Array,
    ) -> None:
        super().__init__()
        self.network, self.clip = network, CLIP  # TorchScript knows no globals
        self.observations = AffineNormalizer(observations.mean, observations.std)
        self.return_scale = nn.Buffer(torch.tensor(returns.std, dtype=torch.float32))
        low, high = np.asarray(action_low, np.float32), np.asarray(action_high, np.float32)
        self.low, self.high = nn.Buffer(torch.from_numpy(low)), nn.Buffer(torch.from_numpy(high))

    def normalize(self, observation: Tensor) -> Tensor:
        """observation (B, n); returns what the network sees."""
        return self.observations.normalize(observation).clamp(-self.clip, self.clip)

    def scale_action(self, action: Tensor) -> Tensor:
        """action (B, m) in units of half the range around its middle; returns it in the environment's, clipped."""
        scaled = (self.low + self.high) / 2 + action * ((self.high - self.low) / 2)
        return torch.minimum(torch.maximum(scaled, self.low), self.high)

    def forward(self, observation: Tensor) -> Tensor:
        """observation (B, n) float32; returns actions (B, m) float32."""
        return self.scale_action(self.network.mean(self.normalize(observation)))

    @checkpoint.exported
    def value(self, observation: Tensor) -> Tensor:
        """observation (B, n) float32; returns the expected discounted return (B,) of the stochastic policy."""
        return self.network.value(self.normalize(observation)) * self.return_scale
