"""The training of a planner: what `python -m training.train_diffuser` does once its options are read."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion_ros import checkpoint
from diffusion_ros.robot import ACTION_SCALE, RATE
from diffusion_ros.simulators import maze
from diffusion_ros.simulators.tasks import ARM_RESPONSE, ARM_TASKS, maze_task
from diffusion_ros.spec import CheckpointSpec, TensorSpec
from training.data.trajectories import Trajectories, load_trajectories
from training.diffusion.diffuser import Diffuser, DiffuserLoss, loss_weights
from training.diffusion.distillation import PlanDistillationLoss, begin_as
from training.diffusion.export_proof import export
from training.diffusion.noise_schedule import NoiseSchedule
from training.diffusion.normalizer import LimitsNormalizer
from training.networks.value1d import ReturnEstimator
from training.options.planner import Options
from training.options.shared import current_options, options_json
from training.run import (
    ExponentialMovingAverage,
    Phase,
    Run,
    git_commit,
)

WORKSPACE_MARGIN = 0.05
"""Metres beyond where demonstrations have been that an arm may go."""


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
