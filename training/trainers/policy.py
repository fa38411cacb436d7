"""The training of a diffusion policy: what `training.train_diffusion_policy` does once its options are read."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from diffusion_ros import checkpoint
from diffusion_ros.models.policy import Policy
from diffusion_ros.robot import EEF_POS, EEF_QUAT
from diffusion_ros.simulators.arm import Simulation
from diffusion_ros.simulators.tasks import ARM_TASKS
from diffusion_ros.spec import IMAGE_SUFFIX
from training.captured_step import adamw
from training.data.action_rows import converted, seen_from, with_widths
from training.data.demonstrations import HAND, OBJECT, Windows, joined, load_files, make_windows, split_files
from training.data.resident import Resident, ResidentWindows, steps_of
from training.diffusion.distillation import DistillationLoss, begin_as, go_on_as
from training.diffusion.export_proof import export
from training.diffusion.policy import (
    POSE_DIM,
    DiffusionPolicy,
    PolicyLoss,
    object_vector,
)
from training.diffusion.pose_points import camera_views, point_loss, project
from training.evaluation.rollout import roll_out
from training.networks.encoders import SmallConvEncoder, centre_offset, crop, random_offset
from training.networks.transformer import DiffusionTransformer
from training.options.policy import Options
from training.policy_setup import Inputs, Limits, arm_chain, build_policy, make_spec, restore_policy
from training.run import (
    FIRST_VALIDATION_SEED,
    ExponentialMovingAverage,
    Phase,
    Run,
    generator_on,
    step_generator,
)

POINT_WEIGHT = 0.1
"""Of the cross-entropy of the points that key-points are taught, beside the pose's loss."""
ENCODER_WEIGHT_DECAY = 1e-6
"""AdamW's, of an observation encoder that is trained end to end."""


class Trainer:
    """One run: batches, the two phases, saving, validation."""

    def __init__(self, options: Options) -> None:
        self.options = options
        files = load_files(
            options.data,
            options.cameras,
            options.needs_object,
            options.filter_key,
            options.read_numbers,
            options.fixed_size,
        )
        data = joined(files)
        if options.gripper_width is not None:
            data = with_widths(data, *options.gripper_width)
        chain = arm_chain(options, data)
        self.data, self.actions = converted(data, options.action_kind, chain)
        if self.actions.chain:  # the rows are made by it
            self._learns_from(repr(self.actions))
        if options.distil is not None:
            self._learns_from(checkpoint.file_sha256(options.distil))
        if options.rollouts and (not self.data.recorded.own or self.data.task not in ARM_TASKS):
            raise ValueError(
                f"rollouts {options.rollouts}: the simulator has no {self.data.task} by {self.data.recorded}, as the"
                " data are of; 0 expected"
            )
        if options.rollouts and (hidden := [name for name in options.inputs if name not in (*HAND, *OBJECT)]):
            raise ValueError(f"rollouts {options.rollouts}: the simulator shows no {', '.join(hidden)}; 0 expected")
        if options.max_delay and self.data.executed is None:
            raise ValueError(f"max_delay {options.max_delay}: {self.data.executed_missing}")
        self.bookkeeping = Run(options, self.data.data_hash)
        self.accelerator, self.device = self.bookkeeping.accelerator, self.bookkeeping.device
        persons = options.learn_from == "person"
        train, held = split_files(files, options.validation, options.seed, persons)
        person = self.data.person if persons else None
        window = (options.n_obs_steps, options.rows, options.action_steps_only, person)
        self.train = make_windows(self.data, train, *window)
        self.held = make_windows(self.data, held, *window)
        self.weights: Tensor | None = None
        """(n) of the windows to learn from."""
        if options.data_weights:
            ends = np.cumsum([len(file) for file in files])
            of = np.searchsorted(ends, self.train.observed[:, -1], side="right")
            share = np.array(options.data_weights) / np.maximum(np.bincount(of, minlength=len(files)), 1)
            self.weights = torch.from_numpy(share[of].astype(np.float32)).to(self.device)
        if not len(self.train) or not len(self.held):
            raise ValueError("data: no step of a person to learn from, or none to validate on")
        self.resident = Resident(self.data, self.device)
        self.turns: Tensor | None = None
        """(N, 3, 3) of the hand, where rows are seen from it."""
        if self.actions.kind == "relative_pose":
            matrices = Rotation.from_quat(self.data.observations[EEF_QUAT]).as_matrix()
            self.turns = torch.from_numpy(matrices.astype(np.float32)).to(self.device)
        self.pictures = tuple(f"{camera}{IMAGE_SUFFIX}" for camera in options.cameras)
        limits = Limits.of(options, self.data, self.actions, self._all_rows())
        self.policy = build_policy(options, limits, inputs := Inputs.of(options, self.data)).to(self.device)
        self.teacher: DiffusionPolicy | None = None
        if options.distil is not None:
            self.teacher = restore_policy(options.distil).to(self.device)
            begin_as(self.policy, self.teacher, options.distil)
            if options.start_from is not None:
                go_on_as(self.policy, restore_policy(options.start_from), options.start_from)
        self.spec = checkpoint.checked(make_spec(options, self.data, self.actions))
        checkpoint.script(self.policy)  # what cannot be exported must fail now, not after hours
        views = camera_views(self.data.task, options.cameras, inputs.picture_size[0]) if options.pose_points else []
        self.views = [view.to(self.device) for view in views]
        weight = torch.ones(POSE_DIM)
        weight[3:9] = options.rotation_weight
        self.pose_weight = weight.to(self.device)
        self.features: Tensor | None = None
        """(crops, N, F) of every step, where the encoder no longer changes."""

    def _learns_from(self, what: str) -> None:
        sha256 = hashlib.sha256((self.data.data_hash + what).encode()).hexdigest()
        self.data = replace(self.data, data_hash=sha256)

    def _all_rows(self) -> NDArray[np.float32]:
        """(n, A) that occur in windows."""
        if self.turns is None:
            return self.data.actions
        windows = ResidentWindows.of(self.train, self.device)
        chosen = torch.arange(len(windows), device=self.device)
        return self.rows(windows, chosen)[windows.valid].cpu().numpy()

    # -- batches ----------------------------------------------------------------------------------------------------

    def frames(self, steps: Tensor) -> dict[str, Tensor]:
        """Observations of the steps (n,), name -> (n, ...)."""
        return self.resident.frames(steps, self.pictures)

    def rows(self, windows: ResidentWindows, chosen: Tensor, of: Tensor | None = None) -> Tensor:
        """Rows (B, rows, A) of windows (B), as they are learnt; of (N, A): those of all steps, None: the labels."""
        rows = (self.resident.actions if of is None else of)[windows.acted[chosen]]
        if self.turns is None:
            return rows
        newest = windows.observed[chosen, -1]
        return seen_from(rows, self.resident.low_dim[EEF_POS][newest], self.turns[newest])

    def draw(self, windows: Windows, generator: torch.Generator, size: int, crops: bool) -> dict[str, Tensor]:
        """All that is random in a batch of windows. crops: random ones too."""
        options, device = self.options, self.device
        generator = generator_on(device, generator)
        draws = options.noise_draws
        of = {"generator": generator, "device": device}
        if windows is self.train and self.weights is not None:
            chosen = torch.multinomial(self.weights, size, replacement=True, generator=generator)
        else:
            chosen = torch.randint(0, len(windows), (size,), **of)
        batch = {
            "chosen": chosen,
            "noise": torch.randn((draws, size, options.rows, self.policy.width), **of),
            "t": torch.randint(0, options.num_train_timesteps, (draws, size), **of),
        }
        if options.max_delay:
            batch["known"] = torch.randint(0, self.policy.max_known + 1, (size,), **of)
        encoder = self.policy.encoder
        if crops and self.features is not None:
            batch["crops"] = torch.randint(0, len(self.features), (size, 1), **of)
        elif crops:
            batch["crops"] = random_offset(size, encoder.image_size, encoder.crop_size, generator)
        return batch

    def window_features(self, observed: Tensor, crops: Tensor | None) -> Tensor:
        """Features (B, T, F) of observed (B, T) steps. crops: which of the computed ones (B, 1), or the offsets (B, 2)
        of those to be cut; None: centred ones."""
        n, length = observed.shape
        if self.features is not None:
            return self.features[0][observed] if crops is None else self.features[crops, observed]
        encoder = self.policy.encoder
        if crops is None:
            crops = centre_offset(n, encoder.image_size, encoder.crop_size, self.device)
        frames = self.frames(rearrange(observed, "b t -> (b t)"))
        features: Tensor = encoder(frames, repeat(crops, "b xy -> (b t) xy", t=length))
        return rearrange(features, "(b t) f -> b t f", t=length)

    def pose_loss(self, features: Tensor, observed: Tensor) -> Tensor:
        """Smooth L1 between the estimated and the true pose of the object, both normalised; a scalar."""
        truth = self.policy.encoder.object_limits.normalize(object_vector(self.resident.numbers(observed)))
        loss = F.smooth_l1_loss(features[..., -POSE_DIM:].float(), truth, beta=0.02, reduction="none")
        return (loss * self.pose_weight).mean()

    # -- phases -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Trains from where it is to the end and exports."""
        options = self.options
        state = self.bookkeeping.saved(policy=self.policy)
        if state is None and options.cameras and self.teacher is None:
            if options.start_from is None:
                self._initialise_vision()
            else:
                self._take_vision(options.start_from)
        if options.encoder_iterations and (state is None or state["iteration"] == 0):
            self._train_encoder(state)
            state = None
        ema = self._train_denoiser(state)
        if self.bookkeeping.main:
            self._export(ema)

    def _take_vision(self, path: Path) -> None:
        encoder = self.policy.encoder
        theirs = {name.removeprefix("encoder."): value for name, value in checkpoint.weights(path).items()}
        mine = {n: v for n, v in encoder.state_dict().items() if n.startswith(("vision.", "pose_head."))}
        unfit = [name for name, value in mine.items() if name not in theirs or theirs[name].shape != value.shape]
        if unfit:
            raise ValueError(f"{path}: its image encoders or pose head are others than these, as {unfit[0]}")
        encoder.load_state_dict({name: theirs[name] for name in mine}, strict=False)

    def _initialise_vision(self) -> None:
        chosen = np.random.default_rng(self.options.seed).choice(len(self.data), min(64, len(self.data)), replace=False)
        steps = torch.from_numpy(np.sort(chosen)).to(self.device)
        encoder = self.policy.encoder
        frames = self.frames(steps)
        offset = torch.zeros((len(steps), 2), dtype=torch.int64, device=self.device)
        for camera, vision in zip(encoder.cameras, encoder.vision, strict=True):
            if isinstance(vision, SmallConvEncoder):
                image = crop(frames[f"{camera}_image"].permute(0, 3, 1, 2), offset, encoder.crop_size)
                vision.initialise_unit_variance(image.float() * (2 / 255) - 1)

    def _train_encoder(self, state: dict[str, Any] | None) -> None:
        """First phase: encoders and pose head on single frames."""
        options, encoder = self.options, self.policy.encoder
        steps = steps_of(self.train, self.device)
        size = options.batch_size * options.n_obs_steps

        def draw(generator: torch.Generator) -> tuple[dict[str, Tensor]]:
            generator = generator_on(self.device, generator)
            chosen = torch.randint(0, len(steps), (size,), generator=generator, device=self.device)
            offset = random_offset(size, encoder.image_size, encoder.crop_size, generator)
            return ({"steps": steps[chosen], "offset": offset},)

        rate = options.encoder_learning_rate
        phase = Phase(
            name="encoder",
            tag="encoder",
            objective=_PoseObjective(self),
            optimizer=adamw(
                [{"params": list(encoder.parameters()), "weight_decay": 0}], rate, options.betas, self.device
            ),
            draw=draw,
            stream=1,
            iterations=options.encoder_iterations,
            rates=[rate],
            warm_up=min(500, options.encoder_iterations // 10),
            save_every=options.save_every,
            counter="encoder_iteration",
            steady=self.resident.whole,
            state=lambda: {"policy": self.policy.state_dict(), "iteration": 0},
        )
        self.bookkeeping.fit(phase, state)
        if self.bookkeeping.main:
            error = self._pose_error(steps_of(self.held, self.device))
            print(f"pose error on held-out frames: {error * 1000:.1f} mm")
            self.bookkeeping.record("encoder/held_out_mm", error * 1000, phase.iteration)

    @torch.no_grad()
    def _pose_error(self, steps: Tensor) -> float:
        """Mean distance in metres between estimated and true position of the object, over `steps`."""
        encoder = self.policy.encoder.eval()
        total = 0.0
        for part in steps.split(256):
            frames = self.frames(part)
            features = self.policy.encode(frames)
            pose = encoder.object_limits.unnormalize(features[:, -POSE_DIM:])
            total += float((pose[:, :3] - frames["object_pos"]).norm(dim=1).sum())
        encoder.train()
        return total / len(steps)

    @torch.no_grad()
    def _cache_features(self) -> None:
        """Features of every step for the centred crop and, from pixels, for some random ones.

        All steps of an episode share a crop, as all frames of a window do.
        """
        options = self.options
        encoder = self.policy.encoder.eval()
        crops = options.cameras and encoder.crop_size != encoder.image_size
        variants = 1 + options.cached_crops if crops else 1
        steps = torch.arange(len(self.data), device=self.device)
        starts = torch.from_numpy(self.data.starts).to(self.device)
        episode = torch.searchsorted(starts, steps, right=True) - 1
        self.features = torch.empty((variants, len(steps), encoder.out_dim), device=self.device)
        bar = self.bookkeeping.bar("features", 0, variants * len(steps))
        for variant in range(variants):
            offset = centre_offset(self.data.episodes, encoder.image_size, encoder.crop_size, self.device)
            if variant:
                generator = generator_on(self.device, step_generator(options.seed, 2, variant))
                offset = random_offset(self.data.episodes, encoder.image_size, encoder.crop_size, generator)
            for part in steps.split(256):
                with self.accelerator.autocast():
                    features = encoder(self.frames(part), offset[episode[part]])
                self.features[variant, part] = features.float()
                bar.update(len(part))
        bar.close()
        encoder.train()

    def _train_denoiser(self, state: dict[str, Any] | None) -> ExponentialMovingAverage:
        """Second phase, or the only one; returns the average of all weights."""
        options = self.options
        if options.encoder_iterations or not options.cameras or self.teacher is not None:
            self.policy.encoder.requires_grad_(False)
            if state is None or state["iteration"] < options.iterations:
                self._cache_features()
        phase, ema = self.denoiser_phase()
        self.bookkeeping.fit(phase, state)
        return ema

    def denoiser_phase(self) -> tuple[Phase, ExponentialMovingAverage]:
        """The loop that trains what is not frozen, and the average of all weights."""
        options, policy = self.options, self.policy
        groups = (
            policy.denoiser.optimizer_groups(options.weight_decay)
            if isinstance(policy.denoiser, DiffusionTransformer)
            else [{"params": list(policy.denoiser.parameters()), "weight_decay": options.weight_decay}]
        )
        rates = [options.learning_rate] * len(groups)
        trained = [p for p in policy.encoder.parameters() if p.requires_grad]
        if trained:
            groups.append({"params": trained, "weight_decay": ENCODER_WEIGHT_DECAY})
            rates.append(options.encoder_learning_rate)
        policy.train()
        ema = ExponentialMovingAverage(policy, maximum=options.ema_decay)
        phase = Phase(
            name="denoiser",
            objective=_Objective(self, self.train),
            optimizer=adamw(groups, options.learning_rate, options.betas, self.device),
            draw=self._draw_to_learn,
            stream=3,
            iterations=options.iterations,
            rates=rates,
            warm_up=min(500, options.iterations // 10),
            ema=ema,
            steady=self.resident.whole,
            held_out=self._held_out_loss,
            held_out_draws=8,
            validate_every=options.validate_every,
            save_every=options.save_every,
            state=lambda: {"policy": policy.state_dict(), "encoder_iteration": options.encoder_iterations},
        )
        return phase, ema

    def _draw_to_learn(self, generator: torch.Generator) -> tuple[dict[str, Tensor]]:
        # Dropout draws from torch's own generator: seeded by the step too, a resumed run repeats it.
        torch.manual_seed(int(torch.randint(0, 2**62, (1,), generator=generator)))
        return (self.draw(self.train, generator, self.options.batch_size, crops=True),)

    def _held_out_loss(self, generator: torch.Generator) -> Tensor:
        self.policy.eval()
        loss: Tensor = _Objective(self, self.held)(self.draw(self.held, generator, 256, crops=False))
        self.policy.train()
        return loss

    def _export(self, ema: ExponentialMovingAverage) -> None:
        options = self.options
        with ema.applied():
            export(self.policy, self.spec, options.out, options, options.half_weights)
        # Whatever fails below, what was trained is there.
        if options.rollouts:
            checkpoint.record_scores(options.out, self._roll_out(Policy(checkpoint.load(options.out))))
        print(f"wrote {options.out}")

    def _roll_out(self, policy: Policy) -> dict[str, Any]:
        """Success on validation seeds."""
        options = self.options
        simulation = Simulation(self.data.task, options.cameras)
        episodes = []
        with self.bookkeeping.bar("validation episodes", 0, options.rollouts) as bar:
            for episode in roll_out(policy, simulation, options.rollouts, FIRST_VALIDATION_SEED):
                episodes.append(episode)
                bar.update()
        simulation.close()
        successes = sum(episode.success for episode in episodes)
        print(f"{successes} of {options.rollouts} validation episodes succeed", flush=True)
        self.bookkeeping.record("validation/success_rate", successes / options.rollouts, options.iterations)
        return {"validation_success_rate": successes / options.rollouts, "validation_episodes": options.rollouts}


class _PoseObjective(nn.Module):
    """From single frames to the loss of the first phase.

    Accelerate replaces the forward of what it prepares, which TorchScript could not read: so never the policy itself.
    """

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self.encoder = trainer.policy.encoder
        self._trainer = [trainer]  # in a list: not a submodule

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        trainer, steps, offset = self._trainer[0], batch["steps"], batch["offset"]
        features, maps = self.encoder.see(trainer.frames(steps), offset)
        loss = trainer.pose_loss(features, steps)
        for view, logits in zip(trainer.views, maps, strict=True):
            pixels = project(trainer.resident.numbers(steps), view)
            loss = loss + POINT_WEIGHT * point_loss(logits, pixels, offset, SmallConvEncoder.STRIDE)
        return loss


class _Objective(nn.Module):
    """From a batch of windows to the loss, features included: what several processes share the gradient of."""

    def __init__(self, trainer: Trainer, windows: Windows) -> None:
        super().__init__()
        self.loss = PolicyLoss(trainer.policy, trainer.options.certain_rows)
        self.distillation: DistillationLoss | None = None
        if trainer.teacher is not None:
            self.distillation = DistillationLoss(trainer.policy, trainer.teacher, trainer.options.distil_steps)
        self._windows = ResidentWindows.of(windows, trainer.device)
        self._trainer = [trainer]  # in a list: not a submodule

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        trainer, windows, chosen = self._trainer[0], self._windows, batch["chosen"]
        executed = None if "known" not in batch else trainer.rows(windows, chosen, trainer.resident.executed)
        if self.distillation is not None:
            features = trainer.window_features(windows.observed[chosen], batch.get("crops"))
            distance: Tensor = self.distillation(features, batch["noise"], executed, batch.get("known"))
            return distance
        acted = windows.acted[chosen]
        observed = acted if trainer.policy.inpainting else windows.observed[chosen]
        features = trainer.window_features(observed, batch.get("crops"))
        actions = trainer.rows(windows, chosen)
        loss: Tensor = self.loss(
            features, actions, windows.valid[chosen], batch["noise"], batch["t"], executed, batch.get("known")
        )
        if trainer.features is None and trainer.policy.encoder.has_pose_head:
            loss = loss + trainer.pose_loss(features, observed)
        return loss
