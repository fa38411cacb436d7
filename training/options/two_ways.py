"""What the comparison of samplers on a task of two ways is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NUM_TRAIN_TIMESTEPS = 100
"""Diffusion steps in training."""


@dataclass(frozen=True)
class Options:
    """Trains on both ways, distils a policy of one step, and compares samplers."""

    json: Path
    """File for the summary, whose table is printed too."""
    picture: Path | None = None
    """PNG of the ways taken, sampler beside sampler."""
    demonstrations: int = 500
    """Number of the expert's episodes, about half of them each way."""
    iterations: int = 2_000
    """Optimiser steps of the teacher."""
    distil_iterations: int = 3_500
    """Optimiser steps of the student."""
    teacher_steps: int = 8
    """DDIM steps of the teacher, whose samples the student learns."""
    batch_size: int = 256
    """Windows in a batch, of both trainings."""
    learning_rate: float = 1e-3
    """Highest learning rate of AdamW, of both trainings."""
    episodes: int = 500
    """Starts that each sampler drives from."""
    seed: int = 100_000
    """Seed of the first start."""
    training_seed: int = 0
    """Seed of demonstrations and trainings."""
    threads: int = 1
    """Number of CPU threads of torch."""

    def __post_init__(self) -> None:
        for name in ("demonstrations", "iterations", "distil_iterations", "batch_size", "episodes", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least 1")
        if not 1 <= self.teacher_steps <= NUM_TRAIN_TIMESTEPS:
            raise ValueError(f"teacher_steps {self.teacher_steps}: must be 1 to {NUM_TRAIN_TIMESTEPS}")
        for path in (self.json, self.picture):
            if path is not None and not path.parent.exists():
                raise ValueError(f"{path}: its folder does not exist")
