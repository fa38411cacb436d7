"""The training of a camera guard: what `python -m training.train_guard` does once its options are read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion_ros import checkpoint
from diffusion_ros.models.camera_guard import GUARD_KIND
from diffusion_ros.models.policy import Policy
from diffusion_ros.robot import CAMERAS, IMAGE_SIZE
from diffusion_ros.robot import RATE as SIMULATION_RATE
from diffusion_ros.simulators.arm import Simulation
from diffusion_ros.simulators.tasks import arm_task
from diffusion_ros.spec import CheckpointSpec, TensorSpec
from training.data.demonstrations import load_demonstrations, split_episodes
from training.diffusion.guard import TINY, GuardLoss, GuardModel
from training.diffusion.noise_schedule import NoiseSchedule
from training.evaluation.guard import drive, hand_pose, picture
from training.evaluation.rollout import roll_out
from training.options.guard import Options
from training.options.shared import options_json
from training.run import (
    FIRST_VALIDATION_SEED,
    ExponentialMovingAverage,
    Phase,
    Run,
    git_commit,
)

RATE = 5.0
"""Pictures a second of each camera that a guard is meant to score [Hz]."""
USUAL = 0.99
"""Part of good pictures whose error in a square counts as usual there, in the heat map."""


def make_spec(options: Options, task: str, data_hash: str, scores: dict[str, Any]) -> CheckpointSpec:
    """What a robot has to know of the guard."""
    return CheckpointSpec(
        kind=GUARD_KIND,
        task=task,
        environment=arm_task(task).environment,
        inputs=(
            *(TensorSpec(f"{camera}_image", (IMAGE_SIZE, IMAGE_SIZE, 3), "uint8", "rgb", "") for camera in CAMERAS),
            TensorSpec("robot0_eef_pos", (3,), "float32", "m", "world"),
            TensorSpec("robot0_eef_quat", (4,), "float32", "1", "world"),
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


@dataclass(frozen=True)
class Frames:
    """Good pictures, and where the hand was."""

    images: list[Tensor]
    """(N, H, W, 3) uint8 of each camera."""
    poses: Tensor
    """(N, 7): position [m], quaternion xyzw."""


def expert_frames(task: str, episodes: int) -> Iterator[Frames]:
    """What a guard would look at in experts' episodes that are for validation."""
    if not episodes:  # a simulation takes seconds to make
        return
    simulation = Simulation(task, CAMERAS)
    stride = round(SIMULATION_RATE / RATE)
    for seed in range(FIRST_VALIDATION_SEED, FIRST_VALIDATION_SEED + episodes):
        rng = np.random.default_rng([seed, 4])
        way, poses = drive(simulation, seed, rng)
        steps = range(int(rng.integers(stride)), len(way), stride)
        images = [[picture(simulation, camera, way[step]) for step in steps] for camera in CAMERAS]
        yield _frames(images, [poses[step] for step in steps])
    simulation.close()


def policy_frames(policy: Policy, episodes: int) -> Iterator[Frames]:
    """What a guard would look at in those of a policy's episodes from the same starts that succeed.

    One that fails shows one view all along, and too many pictures of what should not be.
    """
    simulation = Simulation(policy.spec.task, CAMERAS)
    stride = round(SIMULATION_RATE / RATE)
    images: list[list[NDArray[np.uint8]]] = [[] for _ in CAMERAS]
    poses: list[NDArray[np.float64]] = []

    def look(step: int) -> None:
        if step % stride == 0:
            poses.append(hand_pose(simulation))
            for seen, camera in zip(images, CAMERAS, strict=True):
                seen.append(picture(simulation, camera, simulation.data.qpos))

    for episode in roll_out(policy, simulation, episodes, FIRST_VALIDATION_SEED, watch=look):
        if episode.success:
            yield _frames(images, poses)
        poses.clear()
        for seen in images:
            seen.clear()
    simulation.close()


def _frames(images: list[list[NDArray[np.uint8]]], poses: list[NDArray[np.float64]]) -> Frames:
    return Frames([torch.from_numpy(np.stack(seen)) for seen in images], torch.from_numpy(np.stack(poses)).float())


class Trainer:
    """One run."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.data = load_demonstrations(options.data, CAMERAS, use_object=False)
        self.bookkeeping = Run(options, self.data.data_hash)
        self.device = self.bookkeeping.device
        episode = np.searchsorted(self.data.starts, np.arange(len(self.data)), side="right") - 1
        train, held = split_episodes(self.data.episodes, options.held_out, options.seed)
        self.train_steps = np.flatnonzero(np.isin(episode, train))
        held_steps = np.flatnonzero(np.isin(episode, held))[:: options.calibration_stride]
        self.held_parts = np.array_split(held_steps, max(3, len(held_steps) // 64))
        self.policy: Policy | None = None
        if options.policy is not None:
            self.policy = Policy(checkpoint.load(options.policy, kind="policy", task=self.data.task))
        schedule = NoiseSchedule(options.num_train_timesteps, prediction_type="sample")
        self.model = GuardModel(len(CAMERAS), schedule, options.levels, IMAGE_SIZE, options.dim, options.dim_mults).to(
            self.device
        )
        checkpoint.script(self.model)  # what cannot be exported must fail now, not after hours

    def images(self, camera: int, steps: NDArray[np.int64]) -> Tensor:
        """(N, H, W, 3) uint8."""
        frames = self.data.observations[f"{CAMERAS[camera]}_image"][steps]
        return torch.from_numpy(frames).to(self.device)

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures (cameras, B, H, W, 3) uint8, noise (cameras, B, 3, H, W) and t (cameras, B)."""
        batch = (len(CAMERAS), self.options.batch_size)
        chosen = self.train_steps[torch.randint(0, len(self.train_steps), batch, generator=generator).numpy()]
        images = torch.stack([self.images(camera, steps) for camera, steps in enumerate(chosen)])
        noise = torch.randn((*batch, 3, IMAGE_SIZE, IMAGE_SIZE), generator=generator).to(self.device)
        t = torch.randint(0, self.options.num_train_timesteps, batch, generator=generator).to(self.device)
        return images, noise, t

    def run(self) -> None:
        """Trains from where it is to the end, calibrates and exports."""
        options = self.options
        state = self.bookkeeping.saved(model=self.model)
        ema = ExponentialMovingAverage(self.model, maximum=options.ema_decay)
        phase = Phase(
            name=f"{self.data.task} guard",
            objective=GuardLoss(self.model),
            optimizer=torch.optim.AdamW(
                self.model.parameters(), options.learning_rate, weight_decay=options.weight_decay
            ),
            draw=self.draw,
            stream=6,
            ema=ema,
            iterations=options.iterations,
            rates=[options.learning_rate],
            warm_up=min(200, options.iterations // 10),
            save_every=options.save_every,
            state=lambda: {"model": self.model.state_dict()},
        )
        self.bookkeeping.fit(phase, state)
        if self.bookkeeping.main:
            with ema.applied():
                for parameter in self.model.parameters():  # as the checkpoint has them
                    parameter.data = parameter.data.half().to(parameter.dtype)
                scores = self._calibrate()
                spec = make_spec(options, self.data.task, self.data.data_hash, scores)
                checkpoint.save(self.model.cpu(), spec, options.out, half=True)
            print(f"wrote {options.out}")

    def _good_frames(self) -> Iterator[tuple[Frames, bool]]:
        """All that the guard is calibrated on, a part at a time, and whether the threshold is set by it."""
        options, task = self.options, self.data.task
        hand = [self.data.observations[name] for name in ("robot0_eef_pos", "robot0_eef_quat")]
        for index, steps in enumerate(self.held_parts):
            poses = torch.from_numpy(np.concatenate([values[steps] for values in hand], axis=1)).float()
            images = [self.images(camera, steps) for camera in range(len(CAMERAS))]
            yield Frames(images, poses), not options.validation_episodes and index % 3 == 2
        for index, frames in enumerate(expert_frames(task, options.validation_episodes)):
            yield frames, index % 2 == 1
        if self.policy is not None:
            for index, frames in enumerate(policy_frames(self.policy, options.validation_episodes)):
                yield frames, index % 2 == 1

    @torch.no_grad()
    def _calibrate(self) -> dict[str, Any]:
        """By the held-out frames and the validation episodes. How it does on others is for training.evaluate to say."""
        options, model = self.options, self.model
        model.eval()
        sources = 1 if self.policy is None else 2
        bar = self.bookkeeping.bar("calibration", 0, len(self.held_parts) + sources * options.validation_episodes)
        looks: dict[tuple[int, bool], list[tuple[Tensor, ...]]] = defaultdict(list)
        for frames, for_threshold in self._good_frames():
            poses = frames.poses.to(self.device)
            for camera, images in enumerate(frames.images):
                looks[camera, for_threshold].append((*model.features(images.to(self.device), camera), poses))
            bar.update()
        bar.close()
        for camera in range(len(CAMERAS)):
            errors, *fitted, poses = (torch.cat(parts) for parts in zip(*looks[camera, False], strict=True))
            _, *others, other_poses = (torch.cat(parts) for parts in zip(*looks[camera, True], strict=True))
            model.usual_scale[camera] = errors.quantile(USUAL, dim=0).clamp(min=TINY)
            parts = (model.of_differences, options.difference_margin), (model.of_colours, options.colour_margin)
            for (familiarity, margin), good, other in zip(parts, fitted, others, strict=True):
                familiarity.fit(good, poses, camera)
                familiarity.set_threshold(other, other_poses, camera, options.false_alarms, margin[camera])
        return {"fitted_frames": len(poses), "threshold_frames": len(other_poses)}
