"""What the options of several trainers share, and how they are kept."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from diffusion_ros.models.timesteps import TimestepSpacing
from training.parallel import Workers

FORMER_NAMES = {
    "prediction": "prediction_type",
    "sampler_steps": "num_inference_steps",
    "ema_max_decay": "ema_decay",
    "environment": "env_id",
    "steps": "total_timesteps",
    "environments": "num_envs",
    "rollout": "num_steps",
    "epochs": "update_epochs",
    "batch_size": "minibatch_size",
    "clip": "clip_coef",
    "value_weight": "vf_coef",
    "entropy_weight": "ent_coef",
    "capacity": "buffer_size",
    "epsilon_end": "end_e",
    "epsilon_fraction": "exploration_fraction",
    "alpha": "prioritized_replay_alpha",
    "beta": "prioritized_replay_beta",
    "atoms": "n_atoms",
}
"""What 0.1 called options of some trainers, as they stand in its checkpoints and saved runs, and what they are now."""
CONSTANTS = {
    "embedding_dropout": 0.0,
    "pose_weight": 1.0,
    "encoder_weight_decay": 1e-6,
    "demonstrations": None,
    "clip_norm": 1.0,
    "rollout_every": 0,
    "usual": 0.99,
}
"""Options of 0.1 that can no longer be chosen, and what they are."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What the options of all trainers share."""

    out: Path
    """The checkpoint to write. The run's folder beside it, <out>.run, holds the log and what --resume needs."""
    resume: bool = False
    """Go on with the run of the same --out. The weights become the same as without a stop. The data may lie
    elsewhere."""
    seed: int = 0
    """Seed of everything random."""
    threads: int = 1
    """Number of CPU threads of torch."""

    @property
    def free(self) -> frozenset[str]:
        """The options that do not change the weights; the data have a hash of their own."""
        return frozenset(("out", "resume", "threads", "data"))

    @property
    def run_folder(self) -> Path:
        """Log and resumable state."""
        return self.out.with_name(self.out.name + ".run")

    @property
    def precision(self) -> str:
        """What Accelerate is to compute in: "no" for single precision."""
        return "no"

    def check_at_least(self, least: float, *names: str) -> None:
        """ValueError for a number below `least`."""
        for name in names:
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least {least}")


@dataclass(frozen=True, kw_only=True)
class DiffusionOptions(RunOptions):
    """What the options of those share that train a denoiser."""

    num_train_timesteps: int = 100
    """Number of diffusion steps in training."""
    iterations: int
    """Number of optimiser steps."""
    batch_size: int
    """Samples in a batch, for each process."""
    learning_rate: float
    """Highest learning rate of AdamW. It rises in a warm-up and then falls along a cosine to 0."""
    weight_decay: float = 1e-4
    """Weight decay of AdamW."""
    ema_decay: float
    """Largest decay of the averaged weights."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision of the training. Checkpoints are in single precision."""
    save_every: int = 500
    """Iterations after which the run is saved for --resume."""

    def __post_init__(self) -> None:
        self.check_at_least(1, "num_train_timesteps", "iterations", "batch_size", "save_every", "threads")

    @property
    def free(self) -> frozenset[str]:
        return super().free | {"save_every"}

    @property
    def precision(self) -> str:
        return self.mixed_precision


@dataclass(frozen=True, kw_only=True)
class SamplerOptions(DiffusionOptions):
    """What the options of those share whose checkpoints sample."""

    beta_schedule: str = "squaredcos_cap_v2"
    """Noise schedule; see training/diffusion/noise_schedule.py."""
    prediction_type: Literal["epsilon", "sample"] = "epsilon"
    """The network predicts: epsilon, the noise; sample, the clean sample."""
    sampler: Literal["ddim", "ddpm"] = "ddim"
    """Sampler of the checkpoint. It can be changed when the checkpoint is loaded."""
    num_inference_steps: int | None
    """Denoising steps of the sampler. They can be changed when the checkpoint is loaded."""
    timestep_spacing: TimestepSpacing = "trailing"
    """Which diffusion steps the sampler visits: trailing begins at the last, leading ends at the first, cubic begins at
    the last and has most of them near the first. It can be changed when the checkpoint is loaded."""
    half_weights: bool = True
    """Store the checkpoint's weights in half precision."""
    validate_every: int = 500
    """Iterations after which the validation loss is computed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "validate_every")
        if not 1 <= self.steps <= self.num_train_timesteps:
            raise ValueError(
                f"num_inference_steps {self.steps}: must be 1 to num_train_timesteps, {self.num_train_timesteps}"
            )

    @property
    def steps(self) -> int:
        """Denoising steps of the exported sampler."""
        return self.num_train_timesteps if self.num_inference_steps is None else self.num_inference_steps

    @property
    def free(self) -> frozenset[str]:
        return super().free | {"sampler", "num_inference_steps", "timestep_spacing", "half_weights", "validate_every"}


@dataclass(frozen=True, kw_only=True)
class SeedOptions(RunOptions):
    """What the options of the trainers share that learn from a Gymnasium task, with one seed or several."""

    env_id: str
    """A Gymnasium task."""
    total_timesteps: int
    """Number of environment steps, in all environments together."""
    num_envs: int
    """Number of environments that step together."""
    widths: tuple[int, ...]
    """Sizes of the hidden layers."""
    learning_rate: float
    """Learning rate of Adam."""
    gamma: float
    """Discount factor of one step."""
    evaluation_episodes: int = 100
    """Episodes that evaluate the checkpoint, from seed 100,000 on; 0: none."""
    seeds: tuple[int, ...] = ()
    """Train with each of these seeds at once. The checkpoints are <out>_seed<n>.pt."""
    workers: int = 2
    """With --seeds: number of processes."""
    cluster: str | None = None
    """With --seeds: the address of a Dask scheduler, as tcp://host:8786. Its workers do the work instead; they must see
    the same folders."""

    def __post_init__(self) -> None:
        Workers(self.workers, self.cluster)
        self.check_at_least(1, "total_timesteps", "num_envs", "threads")
        self.check_at_least(0, "evaluation_episodes")
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths {self.widths}: at least one hidden layer, each at least 1 wide, is needed")
        self.check_shares("gamma")
        self.check_positive("learning_rate")

    def check_shares(self, *names: str) -> None:
        """ValueError for a number that is no share of 1."""
        for name in names:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)}: must lie between 0 and 1")

    def check_positive(self, *names: str) -> None:
        """ValueError for a number that is not finite, or not above 0."""
        for name in names:
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name)}: must be above 0")

    @property
    def free(self) -> frozenset[str]:
        return super().free | {"seeds", "workers", "cluster", "evaluation_episodes"}


Run = TypeVar("Run", bound=SeedOptions)


def of_seed(options: Run, seed: int) -> Run:
    """The run of one of several seeds; its checkpoint is <out>_seed<n>.pt."""
    out = options.out.with_name(f"{options.out.stem}_seed{seed}{options.out.suffix}")
    return dataclasses.replace(options, out=out, seed=seed, seeds=())


def options_json(options: RunOptions) -> dict[str, Any]:
    """All options as JSON has them, for the specification of what comes out."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(options), default=str))
    return values


def current_options(kind: type[RunOptions], saved: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they were saved, also by 0.1, under the names that they have in `kind` now.

    Those that were no options yet have their default; those that are none any more are left out if they were what they
    are now.
    """
    fields = {f.name: f.default for f in dataclasses.fields(kind)}
    defaults = {name: value for name, value in fields.items() if value is not dataclasses.MISSING}
    values: dict[str, Any] = json.loads(json.dumps(defaults, default=str))
    for name, value in saved.items():
        if name not in fields and FORMER_NAMES.get(name) in fields:
            name = FORMER_NAMES[name]
        if name in fields or name not in CONSTANTS or value != CONSTANTS[name]:
            values[name] = value
    return values
