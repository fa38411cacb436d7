"""What the training of a planner is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.options.shared import SamplerOptions


@dataclass(frozen=True, kw_only=True)
class Options(SamplerOptions):
    """Trains a planner and exports it as a checkpoint."""

    data: tuple[Path, ...]
    """The stream of a maze (an HDF5 file of training.collect_maze, of D4RL's Maze2D, or Minari's main_data.hdf5 of a
    PointMaze), or one or several files of an arm's demonstrations in robomimic's format (training.collect_demos)."""
    horizon: int = 64
    """Rows of a trajectory."""
    stride: int = 2
    """Control steps between two rows. horizon * stride should cover the longest way."""
    windows: Literal["legs", "stream"] = "legs"
    """Windows to learn from. legs: they arrive at a goal and stay there; stream: they are cut from the stream anywhere,
    as in the paper."""
    waves: bool = True
    """The network also gets sines and cosines of the positions."""
    endpoints: bool = True
    """The network also gets the start and the goal. They are written back either way, as in the paper."""
    widths: tuple[int, ...] = (32, 64, 128, 256)
    """U-Net: channels at each temporal resolution."""
    num_train_timesteps: int = 64
    prediction_type: Literal["epsilon", "sample"] = "sample"
    action_weight: float = 1.0
    """Weight of the first row's action in the loss (the paper: 10 for locomotion, 1 for mazes)."""
    discount: float = 1.0
    """Discount factor of the loss from row to row."""
    num_inference_steps: int = 5
    iterations: int = 6000
    batch_size: int = 64
    """Windows in a batch, for each process."""
    learning_rate: float = 1e-3
    ema_decay: float = 0.998
    value_iterations: int = 0
    """Steps that first train a value function: how early a plan is at its goal. The guide `value` can use it. 0:
    none."""
    value_discount: float = 0.99
    """Discount factor of the value function from row to row."""
    distil: Path | None = None
    """A planner of the same network, whose plans of --distil-steps are learnt in one step."""
    distil_steps: int = 8
    """Denoising steps of that planner."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "bf16"
    validation: float = 0.02
    """Share of the stream, at its end, that is kept for the validation loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "stride")
        if self.horizon < 4:
            raise ValueError(f"horizon {self.horizon}: must be at least 4")
        if self.value_iterations < 0 or not 0 < self.value_discount <= 1:
            raise ValueError(
                f"value_iterations {self.value_iterations}, value_discount {self.value_discount}:"
                " must be at least 0, and above 0 and at most 1"
            )
        if self.distil is not None and self.steps != 1:
            raise ValueError(f"distil: num_inference_steps {self.steps}, 1 is what is learnt")
        if self.value_iterations and self.windows == "stream":
            raise ValueError("value_iterations needs windows 'legs': a window of the stream has no goal")
        if not 0 < self.validation < 1:
            raise ValueError(f"validation {self.validation}: must lie between 0 and 1")
