"""What the training of Rainbow is told."""

from __future__ import annotations

from dataclasses import dataclass

from training.options.shared import SeedOptions

SWITCHES = ("double", "prioritised", "dueling", "noisy", "categorical", "n_step")
"""The additions to DQN."""


@dataclass(frozen=True, kw_only=True)
class Options(SeedOptions):
    """Trains a policy, keeps the weights that do best on validation episodes, exports and evaluates them."""

    env_id: str = "CartPole-v1"
    """A Gymnasium task with discrete actions."""
    total_timesteps: int = 15_000
    double: bool = True
    """Double DQN: the network chooses the next action, and the target network evaluates it."""
    prioritised: bool = True
    """Prioritised replay."""
    dueling: bool = True
    """Dueling network."""
    noisy: bool = True
    """Explore with noisy layers. Without them, exploration is epsilon-greedy."""
    categorical: bool = True
    """C51: predict distributions of the return instead of its mean."""
    n_step: bool = True
    """Returns over --n-steps steps instead of one."""
    widths: tuple[int, ...] = (128, 128)
    num_envs: int = 8
    gamma: float = 0.995
    learning_rate: float = 2e-3
    batch_size: int = 64
    """Transitions in a batch."""
    updates_per_step: float = 1.0
    """Number of updates for each environment step."""
    learning_starts: int = 1000
    """Environment steps before the first update, with random actions. With noisy weights alone all environments would
    go the same way at first, and some seeds would never learn another."""
    buffer_size: int = 8000
    """Number of transitions that the replay keeps. Old ones have returns of an old policy, so keep it small with
    --n-step."""
    target_every: int = 50
    """Updates after which the network is copied to the target network."""
    end_e: float = 0.04
    """Without noisy: last share of random actions. The first is 1."""
    exploration_fraction: float = 0.2
    """Without noisy: share of all steps in which the random actions fall from 1 to --end-e."""
    prioritized_replay_alpha: float = 0.5
    """With prioritised: how much the priorities count. 0: not at all."""
    prioritized_replay_beta: float = 0.4
    """With prioritised: share of the bias that the importance weights correct at the start. At the end it is all."""
    n_atoms: int = 51
    """With categorical: number of atoms of the distributions."""
    v_min: float = 0.0
    """With categorical: least return of the distributions."""
    v_max: float = 200.0
    """With categorical: greatest return of the distributions. CartPole's is 1 / (1 - gamma)."""
    n_steps: int = 10
    """With n_step: number of steps of the returns."""
    validate_every: int = 500
    """Environment steps after which a validation runs."""
    validation_episodes: int = 100
    """Episodes in each validation."""
    save_every: int = 5000
    """Environment steps after which the run is saved for --resume. Episodes are cut there, as by a time limit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "batch_size", "buffer_size", "target_every", "n_steps")
        self.check_at_least(1, "validate_every", "validation_episodes", "save_every")
        self.check_shares("end_e", "exploration_fraction", "prioritized_replay_alpha", "prioritized_replay_beta")
        self.check_positive("updates_per_step")
        for name in ("learning_starts", "buffer_size"):
            if getattr(self, name) < self.batch_size:
                raise ValueError(f"{name} {getattr(self, name)}: at least a batch, {self.batch_size}, is needed")
        for name in ("learning_starts", "validate_every"):
            if getattr(self, name) > self.total_timesteps:
                raise ValueError(
                    f"{name} {getattr(self, name)}: must be at most total_timesteps, {self.total_timesteps}"
                )
        if self.categorical and (self.n_atoms < 2 or not self.v_min < self.v_max):
            raise ValueError(
                f"n_atoms {self.n_atoms} from v_min {self.v_min} to v_max {self.v_max}: at least two, ascending, are"
                " needed"
            )
