"""Trains a Diffuser (Janner et al. 2022, arXiv 2205.09991) on a maze's stream, or on an arm's demonstrations."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from diffusion_ros import checkpoint
from diffusion_ros.robot import ACTION_SCALE, RATE
from diffusion_ros.simulators import maze
from diffusion_ros.simulators.tasks import ARM_RESPONSE, ARM_TASKS, maze_task
from diffusion_ros.spec import CheckpointSpec, TensorSpec
from training import command_line
from training.data.trajectories import Trajectories, load_trajectories
from training.diffusion.diffuser import Diffuser, DiffuserLoss, loss_weights
from training.diffusion.distillation import PlanDistillationLoss, begin_as
from training.diffusion.export_proof import export
from training.diffusion.noise_schedule import NoiseSchedule
from training.diffusion.normalizer import LimitsNormalizer
from training.networks.value1d import ReturnEstimator
from training.run import (
    ExponentialMovingAverage,
    Phase,
    Run,
    SamplerOptions,
    current_options,
    git_commit,
    options_json,
    train_timed,
)

WORKSPACE_MARGIN = 0.05
"""Metres beyond where demonstrations have been that an arm may go."""


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


def build_diffuser(options: Options, limits: LimitsNormalizer, action_dim: int, position_dim: int) -> Diffuser:
    """An untrained planner."""
    schedule = NoiseSchedule(
        options.num_train_timesteps, options.beta_schedule, options.prediction_type, options.timestep_spacing
    )
    value = ReturnEstimator(int(limits.scale.shape[0])) if options.value_iterations else None
    return Diffuser(limits, action_dim, position_dim, schedule, options.widths, options.waves, options.endpoints, value)


def options_of(spec: CheckpointSpec) -> Options:
    """Those that a planner was trained with."""
    known = {field.name for field in dataclasses.fields(Options)}
    values = {name: value for name, value in current_options(Options, spec.training).items() if name in known}
    return Options(**{**values, "data": (), "widths": tuple(values["widths"])})


def restore_diffuser(path: Path) -> Diffuser:
    """The eager module of an exported planner, for comparisons. Raises CheckpointError."""
    spec = checkpoint.read_spec(path)
    options = options_of(spec)
    sizes = {tensor.name: tensor.shape[0] for tensor in spec.outputs}
    width = sum(sizes.values())
    placeholder = LimitsNormalizer(-np.ones(width), np.ones(width))  # the true ones are among the weights
    diffuser = build_diffuser(options, placeholder, sizes["action"], sizes["position"])
    diffuser.load_state_dict(checkpoint.weights(path))
    return diffuser.eval()


def make_spec(options: Options, data: Trajectories, scores: dict[str, Any]) -> CheckpointSpec:
    """What a robot has to know of the planner."""
    state = [column for column in data.columns if column.name != "action"]
    response: tuple[float, ...]
    base_pose: tuple[float, ...]
    if data.task == "arm":
        rate, limits, response = RATE, ACTION_SCALE, ARM_RESPONSE
        # Of several tasks' data the first one's. Ways are learnt wherever they are: only the box is in this frame.
        environment = data.environment.split(", ")[0]
        base_pose = next(task.base_pose for task in ARM_TASKS.values() if task.environment == environment)
        visited = data.states[:, : data.position_dim].astype(float)
        low, high = visited.min(axis=0) - WORKSPACE_MARGIN, visited.max(axis=0) + WORKSPACE_MARGIN
    else:
        rate, limits, response, base_pose = maze.RATE, np.ones(2), (), ()
        high = np.array([*maze.load_map(maze_task(data.task)).size, 2.0]) / 2
        low = -high
    return CheckpointSpec(
        kind="planner",
        task=data.task,
        environment=data.environment,
        inputs=(*state, TensorSpec("goal", (data.position_dim,), "float32", "m", state[0].frame)),
        outputs=data.columns,
        rate=rate,
        horizon=options.horizon,
        n_obs_steps=1,
        n_action_steps=options.horizon,
        action_low=tuple((-limits).tolist()),
        action_high=tuple(limits.tolist()),
        workspace_low=tuple(low.tolist()),
        workspace_high=tuple(high.tolist()),
        base_pose=base_pose,
        response=response,
        sampler=options.sampler,
        sampler_steps=options.steps,
        timestep_spacing=options.timestep_spacing,
        num_train_timesteps=options.num_train_timesteps,
        stride=options.stride,
        git_commit=git_commit(),
        data_hash=data.data_hash,
        training=options_json(options),
        scores=scores,
    )


class Trainer:
    """One run."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.data = load_trajectories(options.data)
        if options.distil is not None:
            learnt = self.data.data_hash + checkpoint.file_sha256(options.distil)
            self.data = dataclasses.replace(self.data, data_hash=hashlib.sha256(learnt.encode()).hexdigest())
        self.bookkeeping = Run(options, self.data.data_hash)
        self.device = self.bookkeeping.device
        if self.data.any_goal and options.windows != "legs":
            raise ValueError(f"windows {options.windows!r}: an arm's are legs, each in the frame of its way")
        steps = np.arange(len(self.data))
        if options.windows == "legs":
            steps = steps[self.data.leg_ends >= 0]
        cut = int(len(steps) * (1 - options.validation))
        self.train_steps, self.held_steps = steps[:cut], steps[cut:]
        extremes = self.data.extremes(options.horizon, options.stride)
        self.width = extremes.shape[1]
        self.diffuser = build_diffuser(
            options, LimitsNormalizer.from_data(extremes), self.data.actions.shape[1], self.data.position_dim
        ).to(self.device)
        checkpoint.script(self.diffuser)  # what cannot be exported must fail now, not after hours
        weights = loss_weights(
            options.horizon, self.width, self.data.actions.shape[1], options.action_weight, options.discount
        )
        self.loss: DiffuserLoss | PlanDistillationLoss = DiffuserLoss(self.diffuser, weights).to(self.device)
        if options.distil is not None:
            teacher = restore_diffuser(options.distil).to(self.device)
            begin_as(self.diffuser, teacher, options.distil)
            self.loss = PlanDistillationLoss(self.diffuser, teacher, options.distil_steps)

    def batch(self, steps: np.ndarray, generator: torch.Generator, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rows, mask, noise and t of a random batch: start and goal are known, the actions there are not."""
        options = self.options
        rows = self.data.draw(steps, size, generator, options.horizon, options.stride, options.windows == "legs").to(
            self.device
        )
        mask = torch.zeros_like(rows, dtype=torch.bool)
        mask[:, [0, -1], self.diffuser.action_dim :] = True
        noise = torch.randn(rows.shape, generator=generator).to(self.device)
        t = torch.randint(0, options.num_train_timesteps, (size,), generator=generator).to(self.device)
        return rows, mask, noise, t

    def run(self) -> None:
        """Trains from where it is to the end and exports."""
        options = self.options
        state = self.bookkeeping.saved(diffuser=self.diffuser)
        if state is None and options.value_iterations and options.distil is None:
            self._train_value()
        self.diffuser.value.requires_grad_(False)  # it has been learnt; processes that share gradients wait for none
        ema = ExponentialMovingAverage(self.diffuser, maximum=options.ema_decay)
        phase = Phase(
            name=f"{self.data.task} planner",
            objective=_Objective(self.loss),
            optimizer=torch.optim.AdamW(
                self.diffuser.parameters(), options.learning_rate, weight_decay=options.weight_decay, fused=True
            ),
            draw=lambda generator: self.batch(self.train_steps, generator, options.batch_size),
            stream=3,
            iterations=options.iterations,
            rates=[options.learning_rate],
            warm_up=min(200, options.iterations // 10),
            ema=ema,
            held_out=lambda generator: self.loss(*self.batch(self.held_steps, generator, 256)),
            validate_every=options.validate_every,
            save_every=options.save_every,
            state=lambda: {"diffuser": self.diffuser.state_dict()},
        )
        self.bookkeeping.fit(phase, state)
        if self.bookkeeping.main:
            scores = {"validation_loss": phase.validation_curve[-1][1]} if phase.validation_curve else {}
            with ema.applied():
                spec = make_spec(options, self.data, scores)
                export(self.diffuser, spec, options.out, options, options.half_weights)
            print(f"wrote {options.out}")

    def returns(self, rows: Tensor) -> Tensor:
        """(B,) discounted shares of the rows (B, H, D) that are at the goal, which is where a window ends."""
        first = self.diffuser.action_dim
        position = rows[:, :, first : first + self.diffuser.position_dim]
        there = (position - position[:, -1:]).norm(dim=2) < self.data.goal_radius
        discount = torch.tensor(self.options.value_discount) ** torch.arange(rows.shape[1])
        returns: Tensor = (there * discount.to(rows.device)).mean(dim=1)
        return returns

    def _train_value(self) -> None:
        """Before the rest, and anew when a run is stopped in it: it is short."""
        options, value = self.options, self.diffuser.value

        def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
            rows = self.batch(self.train_steps, generator, options.batch_size)[0]
            return self.diffuser.limits.normalize(rows), self.returns(rows)

        optimizer = torch.optim.AdamW(value.parameters(), options.learning_rate, weight_decay=options.weight_decay)
        phase = Phase(
            name="value",
            tag="value",
            objective=_ValueObjective(value),
            optimizer=optimizer,
            draw=draw,
            stream=5,
            iterations=options.value_iterations,
            rates=[options.learning_rate],
            warm_up=min(200, options.value_iterations // 10),
        )
        self.bookkeeping.fit(phase)


class _Objective(torch.nn.Module):
    """The loss, in a module of its own for Accelerate to prepare."""

    def __init__(self, loss: DiffuserLoss | PlanDistillationLoss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, rows: Tensor, mask: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        result: Tensor = self.loss(rows, mask, noise, t)
        return result


class _ValueObjective(torch.nn.Module):
    """Mean squared error of the value function."""

    def __init__(self, value: torch.nn.Module) -> None:
        super().__init__()
        self.value = value

    def forward(self, rows: Tensor, returns: Tensor) -> Tensor:
        return torch.nn.functional.mse_loss(self.value(rows), returns)


def train(options: Options) -> None:
    """Trains and exports. ValueError, in one line, for data or options that do not fit."""
    train_timed(Trainer, options)


def main() -> None:
    command_line.run(Options, train, __doc__, command_line.BEFORE_TRAINING)


if __name__ == "__main__":
    main()
