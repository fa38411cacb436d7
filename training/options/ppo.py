"""What the training of PPO is told."""

from __future__ import annotations

import math
from dataclasses import dataclass

from training.options.shared import SeedOptions


@dataclass(frozen=True, kw_only=True)
class Options(SeedOptions):
    """Trains a policy with a tested checkpoint every few iterations, exports the best and evaluates it."""

    env_id: str = "InvertedDoublePendulum-v5"
    """A Gymnasium task with continuous actions."""
    total_timesteps: int = 400_000
    """Number of environment steps, in all environments together. It is rounded up to whole iterations."""
    num_envs: int = 16
    num_steps: int = 256
    """Steps of each environment in one iteration."""
    episode_steps: int | None = 80
    """Longest training episode in steps. Long episodes that go well would make the policy forget the rare starts. None:
    the task's own limit."""
    update_epochs: int = 10
    """Number of passes over the steps of an iteration."""
    minibatch_size: int = 256
    """Steps in a minibatch."""
    widths: tuple[int, ...] = (64, 64)
    """Sizes of the hidden layers of actor and critic."""
    log_std: float = -0.5
    """First logarithm of the actor's standard deviation. Its unit is half the range of an action."""
    statistics_steps: int = 100_000
    """Environment steps after which the statistics that normalise observations no longer change."""
    learning_rate: float = 5e-4
    """First learning rate of Adam. It falls to 0 along a line."""
    gamma: float = 0.99
    gae_lambda: float = 0.95
    """Lambda of the generalised advantage estimate."""
    clip_coef: float = 0.2
    """Clipping of the ratio of probabilities: it stays within 1 - clip and 1 + clip."""
    vf_coef: float = 0.5
    """Weight of the critic's squared error in the loss."""
    ent_coef: float = 0.0
    """Weight of the entropy in the loss."""
    max_grad_norm: float = 0.5
    """Longest gradient. Longer ones are shortened to it."""
    checkpoint_every: int = 10
    """Iterations after which a checkpoint is made and tested. Training episodes are cut there, as by a time limit."""
    test_episodes: int = 100
    """Episodes in each test, at most 1,000 steps long."""
    videos: bool = True
    """Record a video of the first checkpoint and one of the exported checkpoint, where the task can be shown."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "num_steps", "update_epochs", "checkpoint_every", "test_episodes", "statistics_steps")
        if self.minibatch_size < 2:
            raise ValueError(
                f"minibatch_size {self.minibatch_size}: at least 2 are needed, whose advantages are compared"
            )
        if self.episode_steps is not None:
            self.check_at_least(1, "episode_steps")
        self.check_shares("gae_lambda")
        self.check_positive("clip_coef", "max_grad_norm")

    @property
    def free(self) -> frozenset[str]:
        return super().free | {"videos"}

    @property
    def iterations(self) -> int:
        return math.ceil(self.total_timesteps / (self.num_envs * self.num_steps))
