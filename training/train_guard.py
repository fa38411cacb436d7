"""Trains a camera guard on the frames of robomimic-format demonstrations, and calibrates it on frames held out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion_ros import checkpoint
from diffusion_ros.simulation import CAMERAS, IMAGE_SIZE, Simulation, task_named
from diffusion_ros.simulation import RATE as SIMULATION_RATE
from diffusion_ros.spec import GUARD_KIND, CheckpointSpec, TensorSpec
from training import command_line
from training.camera_guard import TINY, GuardLoss, GuardModel
from training.datasets import load_demonstrations, split_episodes
from training.evaluate_guard import drive, picture
from training.noise_schedule import NoiseSchedule
from training.run import (
    FIRST_VALIDATION_SEED,
    ExponentialMovingAverage,
    Run,
    git_commit,
    options_json,
    set_rates,
    step_generator,
    train_timed,
    warm_cosine,
)

RATE = 5.0
"""Pictures a second of each camera that a guard is meant to score [Hz]."""
FREE = ("save_every", "levels", "usual", "false_alarms", "calibration_stride", "validation_episodes", "margin")
"""Options that do not change the weights."""


@dataclass(frozen=True)
class Options:
    """Trains a guard of both cameras and exports it as a checkpoint."""

    data: Path
    """Demonstrations with images, in robomimic's format (training.collect_demos)."""
    out: Path
    """The checkpoint to write. The run's folder beside it, <out>.run, holds the log and what --resume needs."""
    dim: int = 16
    """Channels of the denoisers' first level."""
    dim_mults: tuple[int, ...] = (1, 2, 4)
    """Channels at each level, as multiples of dim."""
    levels: tuple[int, ...] = (10, 30, 70)
    """Of num_train_timesteps: how far pictures are noised."""
    num_train_timesteps: int = 100
    """Diffusion steps in training."""
    iterations: int = 5_000
    """Optimiser steps."""
    batch_size: int = 16
    """Pictures of each camera a step."""
    learning_rate: float = 1e-3
    """AdamW, with a warm-up and a cosine to zero."""
    weight_decay: float = 1e-4
    """AdamW."""
    ema_decay: float = 0.998
    """Largest decay of the averaged weights."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "bf16"
    """Of the training."""
    held_out: float = 0.2
    """Part of the episodes that the guard is calibrated on and not trained on."""
    calibration_stride: int = 1
    """Every so many of their frames."""
    usual: float = 0.99
    """Part of good pictures whose error in a square counts as usual there, in the heat map."""
    false_alarms: float = 0.01
    """Part of good pictures that are to be farther off than the threshold's margin allows for ..."""
    margin: float = 1.7
    """... which is so many times as far: a robot that holds shows the guard the same picture again and again, so that a
    false alarm would last."""
    validation_episodes: int = 120
    """Of an expert with noise in the simulator, from seed 90,000 on: among them are some that go wrong, as no
    demonstration does. Half of them count as the held-out frames do, the others set the threshold. 0: the last third of
    the held-out frames sets it."""
    save_every: int = 500
    """Iterations between saves of what --resume needs."""
    resume: bool = False
    """Go on with the run of the same --out, to the same weights as if it had not been stopped."""
    seed: int = 0
    """Of everything random."""
    threads: int = 1
    """CPU threads of torch."""

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_size", "save_every", "calibration_stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least 1")
        for name in ("held_out", "usual", "false_alarms"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must lie between 0 and 1")

    @property
    def run_folder(self) -> Path:
        """Log and resumable state."""
        return self.out.with_name(self.out.name + ".run")


def make_spec(options: Options, task: str, data_hash: str, scores: dict[str, Any]) -> CheckpointSpec:
    """What a robot has to know of the guard."""
    return CheckpointSpec(
        kind=GUARD_KIND,
        task=task,
        environment=task_named(task).environment,
        inputs=tuple(
            TensorSpec(f"{camera}_image", (IMAGE_SIZE, IMAGE_SIZE, 3), "uint8", "rgb", "") for camera in CAMERAS
        ),
        outputs=(TensorSpec("score", (1,), "float32", "1", ""),),
        rate=RATE,
        horizon=1,
        n_obs_steps=1,
        n_action_steps=1,
        action_low=(),
        action_high=(),
        git_commit=git_commit(),
        data_hash=data_hash,
        training=options_json(options),
        scores=scores,
    )


def validation_frames(task: str, episodes: int) -> Iterator[list[Tensor]]:
    """Pictures (N, H, W, 3) uint8 of each camera at a guard's rate, of experts' episodes that are for validation."""
    if not episodes:
        return
    simulation = Simulation(task, CAMERAS)
    stride = round(SIMULATION_RATE / RATE)
    for seed in range(FIRST_VALIDATION_SEED, FIRST_VALIDATION_SEED + episodes):
        rng = np.random.default_rng([seed, 4])
        way, _ = drive(simulation, seed, rng)
        steps = range(int(rng.integers(stride)), len(way), stride)
        yield [
            torch.from_numpy(np.stack([picture(simulation, camera, way[step]) for step in steps])) for camera in CAMERAS
        ]
    simulation.close()


class Trainer:
    """One run."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.bookkeeping = Run(options, Options(options.data, options.out), FREE)
        self.device = self.bookkeeping.device
        self.data = load_demonstrations(options.data, CAMERAS, use_object=False)
        episode = np.searchsorted(self.data.starts, np.arange(len(self.data)), side="right") - 1
        train, held = split_episodes(self.data.episodes, options.held_out, options.seed)
        self.train_steps = np.flatnonzero(np.isin(episode, train))
        self.held_steps = np.flatnonzero(np.isin(episode, held))[:: options.calibration_stride]
        schedule = NoiseSchedule(options.num_train_timesteps, prediction="sample")
        self.model = GuardModel(len(CAMERAS), schedule, options.levels, IMAGE_SIZE, options.dim, options.dim_mults).to(
            self.device
        )
        checkpoint.script(self.model)  # what cannot be exported must fail now, not after hours
        self.ema = ExponentialMovingAverage(self.model, maximum=options.ema_decay)
        self.iteration = 0

    def images(self, camera: int, steps: NDArray[np.int64]) -> Tensor:
        """(N, H, W, 3) uint8."""
        frames = self.data.observations[f"{CAMERAS[camera]}_image"][steps]
        return torch.from_numpy(frames).to(self.device)

    def run(self) -> None:
        """Trains from where it is to the end, calibrates and exports."""
        options, bookkeeping = self.options, self.bookkeeping
        optimizer: Any = torch.optim.AdamW(
            self.model.parameters(), options.learning_rate, weight_decay=options.weight_decay
        )
        state = bookkeeping.saved()
        if state is not None:
            if state["data_hash"] != self.data.data_hash:
                raise ValueError(f"{options.run_folder}: was begun with other data than {options.data} holds now")
            self.model.load_state_dict(state["model"])
            self.ema.restore(state["ema"])
            optimizer.load_state_dict(state["optimizer"])
            self.iteration = int(state["iteration"])
        objective: Any = GuardLoss(self.model)
        objective, optimizer = bookkeeping.accelerator.prepare(objective, optimizer)
        bar = bookkeeping.bar(f"{self.data.task} guard", self.iteration, options.iterations)
        batch = (len(CAMERAS), options.batch_size)
        mean = 0.0
        while self.iteration < options.iterations:
            generator = step_generator(options.seed, 6, self.iteration, bookkeeping.accelerator.process_index)
            factor = warm_cosine(self.iteration, options.iterations, min(200, options.iterations // 10))
            set_rates(optimizer, [options.learning_rate], factor)
            chosen = self.train_steps[torch.randint(0, len(self.train_steps), batch, generator=generator).numpy()]
            images = torch.stack([self.images(camera, steps) for camera, steps in enumerate(chosen)])
            noise = torch.randn((*batch, 3, IMAGE_SIZE, IMAGE_SIZE), generator=generator).to(self.device)
            t = torch.randint(0, options.num_train_timesteps, batch, generator=generator).to(self.device)
            with bookkeeping.accelerator.autocast():
                loss = objective(images, noise, t)
            bookkeeping.update(loss, optimizer)
            self.ema.update()
            self.iteration += 1
            mean += loss.item()
            bar.update()
            if self.iteration % 100 == 0:
                bookkeeping.record("train/loss", mean / 100, self.iteration)
                bar.set_postfix(loss=f"{mean / 100:.5f}", refresh=False)
                mean = 0.0
            if self.iteration % options.save_every == 0:
                self._save(optimizer)
        bar.close()
        self._save(optimizer)
        if bookkeeping.main:
            with self.ema.applied():
                for parameter in self.model.parameters():  # as the checkpoint has them
                    parameter.data = parameter.data.half().to(parameter.dtype)
                scores = self._calibrate()
                spec = make_spec(options, self.data.task, self.data.data_hash, scores)
                checkpoint.save(self.model.cpu(), spec, options.out, half=True)
            print(f"wrote {options.out}")

    @torch.no_grad()
    def _calibrate(self) -> dict[str, Any]:
        """By the held-out frames and the validation episodes. How it does on others is for training.evaluate to say."""
        options, held, model = self.options, self.held_steps, self.model
        model.eval()
        frames = np.array_split(held, max(3, len(held) // 64))
        demonstrations = ([self.images(camera, part) for camera in range(len(CAMERAS))] for part in frames)
        episodes = validation_frames(self.data.task, options.validation_episodes)
        total = len(frames) + options.validation_episodes
        first = len(frames) + options.validation_episodes // 2 if options.validation_episodes else 2 * total // 3
        bar = self.bookkeeping.bar("calibration", 0, total)
        found: list[list[tuple[Tensor, ...]]] = [[] for _ in CAMERAS]
        for part in itertools.chain(demonstrations, episodes):
            for camera, images in enumerate(part):
                found[camera].append(model.features(images.to(self.device), camera))
            bar.update()
        bar.close()
        for camera, looks in enumerate(found):
            errors, *fitted = (torch.cat(parts) for parts in zip(*looks[:first], strict=True))
            _, *others = (torch.cat(parts) for parts in zip(*looks[first:], strict=True))
            model.usual_scale[camera] = errors.quantile(options.usual, dim=0).clamp(min=TINY)
            for familiarity, good, other in zip((model.of_differences, model.of_colours), fitted, others, strict=True):
                familiarity.fit(good, camera)
                familiarity.set_threshold(other, camera, options.false_alarms, options.margin)
        return {"held_out_frames": len(held), "threshold_frames": len(others[0])}

    def _save(self, optimizer: Any) -> None:
        self.bookkeeping.save(
            data_hash=self.data.data_hash,
            model=self.model.state_dict(),
            ema=self.ema.state(),
            optimizer=optimizer.state_dict(),
            iteration=self.iteration,
        )


def train(options: Options) -> None:
    """Trains, calibrates and exports. ValueError, in one line, for data or options that do not fit."""
    torch.set_num_threads(options.threads)
    train_timed(Trainer(options))


def main() -> None:
    command_line.run(Options, train, __doc__, "stopped; --resume goes on from the last save")


if __name__ == "__main__":
    main()
