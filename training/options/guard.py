"""What the training of a camera guard is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffusion_ros.robot import CAMERAS
from training.options.shared import DiffusionOptions


@dataclass(frozen=True, kw_only=True)
class Options(DiffusionOptions):
    """Trains a guard of both cameras and exports it as a checkpoint."""

    data: Path
    """Demonstrations with images, in robomimic's format (training.collect_demos)."""
    dim: int = 16
    """Channels of the denoisers' first level."""
    dim_mults: tuple[int, ...] = (1, 2, 4)
    """Channels at each level, as multiples of dim."""
    levels: tuple[int, ...] = (10, 30, 70)
    """Diffusion steps, of num_train_timesteps, up to which pictures are noised."""
    iterations: int = 5_000
    batch_size: int = 16
    """Pictures of each camera in a batch, for each process."""
    learning_rate: float = 1e-3
    ema_decay: float = 0.998
    mixed_precision: Literal["no", "bf16", "fp16"] = "bf16"
    held_out: float = 0.2
    """Share of the episodes that calibrate the guard and do not train it."""
    calibration_stride: int = 4
    """Use every n-th frame of the held-out episodes. 4 makes the guard's 5 Hz out of 20 Hz."""
    false_alarms: float = 0.01
    """Share of good pictures whose score may lie above the base of the threshold. The two margins multiply that
    base."""
    colour_margin: tuple[float, ...] = (6.0, 2.3)
    """Factor of the threshold for a picture's own colours, for each camera."""
    difference_margin: tuple[float, ...] = (6.0, 4.0)
    """Factor of the threshold for the difference to what comes back, for each camera. Both margins lie between the
    scores of a policy that goes astray and those of faults, in validation episodes of Can. A false alarm would last,
    because a robot that holds shows the guard the same picture again."""
    validation_episodes: int = 120
    """Episodes of an expert with noise, from seed 90,000 on. Some go wrong, as no demonstration does. Every second one
    joins the held-out frames, and the others set the threshold. 0: a third of the held-out frames sets it."""
    policy: Path | None = None
    """The checkpoint of the policy to guard. As many of its episodes are added to the expert's, without those that
    fail, because it goes where no expert goes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "calibration_stride")
        for name in ("held_out", "false_alarms"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must lie between 0 and 1")
        for name in ("colour_margin", "difference_margin"):
            margin = getattr(self, name)
            if len(margin) != len(CAMERAS) or min(margin) <= 0:
                raise ValueError(f"{name} {margin}: one above 0 for each of {', '.join(CAMERAS)} expected")

    @property
    def free(self) -> frozenset[str]:
        calibration = {"levels", "false_alarms", "calibration_stride", "colour_margin", "difference_margin"}
        return super().free | calibration | {"validation_episodes", "policy"}
