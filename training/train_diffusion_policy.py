"""Trains a diffusion policy (Chi et al. 2023, arXiv 2303.04137) on robomimic-format demonstrations.

The defaults are those of the published transformer. On a CPU use `--denoiser unet --vision small`. From pixels, also
use the two phases of `--encoder-iterations`. In the first phase the image encoders alone learn where the object is. In
the second they stay as they are, and the denoiser trains on their features, which are computed once for a few random
crops of every image.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from diffusion_ros import checkpoint
from diffusion_ros.models.policy import Policy
from diffusion_ros.robot import CAMERAS, IMAGE_SIZE
from diffusion_ros.simulators.arm import Simulation
from diffusion_ros.simulators.tasks import ARM_RESPONSE, arm_task
from diffusion_ros.spec import FITTED, IMAGE_SUFFIX, CheckpointSpec, TensorSpec
from training import command_line
from training.captured_step import adamw
from training.data.demonstrations import Demonstrations, Windows, joined, load_files, make_windows, split_files
from training.data.resident import Resident, ResidentWindows, steps_of
from training.diffusion.export_proof import export
from training.diffusion.noise_schedule import NoiseSchedule
from training.diffusion.normalizer import LimitsNormalizer
from training.diffusion.policy import (
    POSE_DIM,
    DiffusionPolicy,
    ObservationEncoder,
    PolicyLoss,
    hand_vector,
    make_denoiser,
    object_vector,
)
from training.diffusion.pose_points import camera_views, point_loss, project
from training.evaluation.rollout import roll_out
from training.networks.encoders import SmallConvEncoder, centre_offset, crop, random_offset
from training.networks.transformer import DiffusionTransformer
from training.ranges import with_ranges
from training.run import (
    FIRST_VALIDATION_SEED,
    ExponentialMovingAverage,
    Phase,
    Run,
    SamplerOptions,
    current_options,
    generator_on,
    git_commit,
    options_json,
    step_generator,
    train_timed,
)
from training.typical import typical

WORKSPACE_MARGIN = 0.05
"""Metres beyond where demonstrations have been that a robot may go."""

POINT_WEIGHT = 0.1
"""Of the cross-entropy of the points that key-points are taught, beside the pose's loss."""
ENCODER_WEIGHT_DECAY = 1e-6
"""AdamW's, of an observation encoder that is trained end to end."""


@dataclass(frozen=True, kw_only=True)
class Options(SamplerOptions):
    """Trains a diffusion policy and exports it as a checkpoint."""

    data: tuple[Path, ...]
    """Demonstrations in robomimic's HDF5 format, one file or several."""
    data_weights: tuple[float, ...] = ()
    """How often each file is drawn from, in relation to the others; none given: all steps alike."""
    filter_key: str = ""
    """Only the demonstrations that this list below `mask` in the file names. Without it mask/train and mask/valid
    decide, where a file has them."""
    observations: Literal["state", "pixels", "both"] = "pixels"
    """What the policy sees beside the hand. state: the object's pose; pixels: the two cameras; both: all."""
    denoiser: Literal["transformer", "unet"] = "transformer"
    """The network that denoises."""
    conditioning: Literal["observation", "inpainting"] = "observation"
    """observation: the observations are the network's condition; inpainting: they are denoised together with the
    actions."""
    action_steps_only: bool = False
    """Generate no actions before the newest observation, and only n_action_steps from there on."""
    horizon: int = 10
    """Rows of a generated chunk."""
    n_obs_steps: int = 2
    """Number of frames that the policy sees."""
    n_action_steps: int = 8
    """Rows that are executed before the next chunk. --resume can change it afterwards."""
    layers: int = 8
    """Transformer: decoder layers."""
    heads: int = 4
    """Transformer: attention heads."""
    width: int = 256
    """Transformer: features of a token."""
    condition_layers: int = 0
    """Transformer: encoder layers over [time step, observations]; 0: an MLP."""
    attention_dropout: float = 0.3
    """Transformer: dropout in attention."""
    unet_widths: tuple[int, ...] = (64, 128)
    """U-Net: channels at each temporal resolution."""
    vision: Literal["resnet18", "small"] = "resnet18"
    """Image encoder: ResNet-18 with group norm and spatial softmax, or a small one for CPUs."""
    crop: int = 76
    """Side of the crop of an image in pixels. It is random in training and centred in use."""
    pose_head: bool = False
    """From pixels: estimate the object's pose too, and give it to the denoiser. The data must contain poses; a running
    policy needs none."""
    pose_points: bool = False
    """With pose_head: key-points learn where the cameras see the object's frame, and the pose is estimated from
    them."""
    rotation_weight: float = 1.0
    """With pose_head: weight of the rotation in the loss of the pose. Make it small for an object that looks alike from
    all sides."""
    encoder_iterations: int = 0
    """Iterations of a first phase, which trains only the image encoders and the pose head. 0: one phase, end to end."""
    start_from: Path | None = None
    """A checkpoint whose image encoders and pose head the training begins with."""
    cached_crops: int = 4
    """In the second phase: random crops of each image whose features are computed once."""
    num_inference_steps: int = 10
    iterations: int = 20_000
    batch_size: int = 64
    """Windows in a batch, for each process."""
    noise_draws: int = 1
    """Draws of noise and diffusion step for each window. More pay off when the encoding of an image is slow."""
    learning_rate: float = 1e-4
    encoder_learning_rate: float = 1e-4
    """Learning rate of the image encoders."""
    betas: tuple[float, float] = (0.9, 0.95)
    """The two betas of AdamW."""
    weight_decay: float = 1e-3
    ema_decay: float = 0.9999
    half_weights: bool = False
    validation: float = 0.04
    """Share of the demonstrations that is kept for the validation loss."""
    validate_every: int = 2000
    rollouts: int = 20
    """Episodes in the simulator at the end, with validation seeds; 0: none."""
    save_every: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "noise_draws", "cached_crops")
        if self.data_weights and len(self.data_weights) != len(self.data):
            raise ValueError(f"data_weights: {len(self.data_weights)} of them for {len(self.data)} files of data")
        if any(not 0 < weight < math.inf for weight in self.data_weights):
            raise ValueError(f"data_weights {list(self.data_weights)}: must be above 0")
        if self.n_action_steps > self.horizon - self.n_obs_steps + 1:
            raise ValueError(
                f"n_action_steps {self.n_action_steps}: at most horizon - n_obs_steps + 1 ="
                f" {self.horizon - self.n_obs_steps + 1} rows lie in the future"
            )
        if self.crop > IMAGE_SIZE or self.crop < 8:
            raise ValueError(f"crop {self.crop}: must lie in 8 to {IMAGE_SIZE}")
        if self.observations == "state" and (self.pose_head or self.encoder_iterations):
            raise ValueError("pose_head and encoder_iterations are for images, observations is 'state'")
        if self.encoder_iterations and not self.pose_head:
            raise ValueError("encoder_iterations needs --pose-head: the encoders learn from the pose")
        if self.pose_points and not (self.pose_head and self.vision == "small"):
            raise ValueError("pose_points needs --pose-head and --vision small: it says how the pose is estimated")
        if self.pose_points and not self.encoder_iterations:
            raise ValueError("pose_points needs --encoder-iterations: key-points are taught in the first phase")
        if self.action_steps_only and self.conditioning == "inpainting":
            raise ValueError("action_steps_only and inpainting exclude each other: observed rows must be generated")

    @property
    def free(self) -> frozenset[str]:
        # Where whole chunks are generated it does not matter how much of them is executed.
        return super().free | {"rollouts"} | (set() if self.action_steps_only else {"n_action_steps"})

    @property
    def rows(self) -> int:
        """Rows that the network generates."""
        return self.n_action_steps if self.action_steps_only else self.horizon

    @property
    def cameras(self) -> tuple[str, ...]:
        """The cameras that the policy sees."""
        return () if self.observations == "state" else CAMERAS

    @property
    def use_object(self) -> bool:
        """Whether the policy is given the object's pose."""
        return self.observations != "pixels"


@dataclass(frozen=True)
class Limits:
    """Normalisers fitted to demonstrations."""

    hand: LimitsNormalizer
    object: LimitsNormalizer
    action: LimitsNormalizer

    @staticmethod
    def of(data: Demonstrations) -> Limits:
        """Limits of hand and object vectors (see :mod:`training.diffusion.policy`) and of actions."""
        low_dim = {name: torch.from_numpy(v) for name, v in data.observations.items() if v.dtype != np.uint8}
        pose = unit_limits(POSE_DIM)
        if "object_pos" in low_dim:
            pose = LimitsNormalizer.from_data(object_vector(low_dim).numpy(), min_range=1e-2)
        low, high = data.actions.min(axis=0).astype(np.float64), data.actions.max(axis=0).astype(np.float64)
        # An axis that is not used varies by a numerical trace: it must not be blown up to [-1, 1].
        floor = 0.05 * np.array(data.recorded.scale)
        return Limits(
            LimitsNormalizer.from_data(hand_vector(low_dim).numpy(), min_range=1e-2),
            pose,
            LimitsNormalizer(np.minimum(low, -floor), np.maximum(high, floor)),
        )


def unit_limits(size: int) -> LimitsNormalizer:
    """Limits that change nothing."""
    return LimitsNormalizer(-np.ones(size), np.ones(size))


def build_policy(options: Options, limits: Limits) -> DiffusionPolicy:
    """An untrained policy."""
    encoder = ObservationEncoder(
        options.cameras,
        options.use_object,
        limits.hand,
        limits.object,
        options.vision,
        options.pose_head,
        options.pose_points,
        crop_size=options.crop,
    )
    inpainting = options.conditioning == "inpainting"
    width = 7 + (encoder.out_dim if inpainting else 0)
    n_conditions = 0 if inpainting else options.n_obs_steps
    extra: dict[str, Any] = {"widths": options.unet_widths}
    if options.denoiser == "transformer":
        extra = {
            "n_layers": options.layers,
            "n_heads": options.heads,
            "width": options.width,
            "attention_dropout": options.attention_dropout,
            "n_cond_layers": options.condition_layers,
            # Where the first row is that of the newest observation, every row may see every observation.
            "causal": not options.action_steps_only,
        }
    denoiser = make_denoiser(options.denoiser, width, options.rows, n_conditions, encoder.out_dim, **extra)
    return DiffusionPolicy(
        encoder,
        denoiser,
        NoiseSchedule(options.num_train_timesteps, options.beta_schedule, options.prediction_type),
        limits.action,
        options.n_obs_steps,
        options.rows,
        options.conditioning,
        options.action_steps_only,
        options.sampler,
    )


def restore_policy(path: Path) -> DiffusionPolicy:
    """The eager module of an exported checkpoint, for comparisons and for training on. Raises CheckpointError."""
    spec = checkpoint.read_spec(path)
    values = current_options(Options, spec.training) | {"data": (), "data_weights": ()}
    for name in ("unet_widths", "betas"):
        values[name] = tuple(values[name])
    known = {field.name for field in dataclasses.fields(Options)}
    options = Options(**{name: value for name, value in values.items() if name in known})
    policy = build_policy(options, Limits(unit_limits(11), unit_limits(POSE_DIM), unit_limits(7)))
    policy.load_state_dict(checkpoint.weights(path))
    return policy.eval()


def make_spec(options: Options, data: Demonstrations) -> CheckpointSpec:
    """What a robot has to know of the policy."""
    frame = "world"
    inputs = [
        TensorSpec(f"{camera}_image", (IMAGE_SIZE, IMAGE_SIZE, 3), "uint8", "rgb", camera) for camera in options.cameras
    ]
    inputs += [
        TensorSpec("robot0_eef_pos", (3,), "float32", "m", frame),
        TensorSpec("robot0_eef_quat", (4,), "float32", "1", frame),
        TensorSpec("robot0_gripper_qpos", (2,), "float32", "m", ""),
    ]
    if options.use_object:
        inputs.append(TensorSpec("object_pos", (3,), "float32", "m", frame))
        inputs.append(TensorSpec("object_quat", (4,), "float32", "1", frame))
    visited = data.observations["robot0_eef_pos"]
    horizon = options.n_obs_steps - 1 + options.rows if options.action_steps_only else options.horizon
    scale, own = data.recorded.scale, data.recorded.own
    return CheckpointSpec(
        kind="policy",
        task=data.task,
        environment=arm_task(data.task).environment,
        inputs=with_ranges(tuple(inputs), data.observations),
        outputs=(TensorSpec("action", (7,), "float32", "m, rad per control step; gripper", frame),),
        rate=data.recorded.rate,
        horizon=horizon,
        n_obs_steps=options.n_obs_steps,
        n_action_steps=options.n_action_steps,
        action_low=tuple(-value for value in scale),
        action_high=scale,
        workspace_low=tuple((visited.min(axis=0).astype(float) - WORKSPACE_MARGIN).tolist()),
        workspace_high=tuple((visited.max(axis=0).astype(float) + WORKSPACE_MARGIN).tolist()),
        pictures=FITTED if options.cameras else {},
        # Of another robot nobody has told where it stood, or measured how it followed.
        base_pose=arm_task(data.task).base_pose if own else (),
        response=ARM_RESPONSE if own else (),
        sampler=options.sampler,
        sampler_steps=options.steps,
        num_train_timesteps=options.num_train_timesteps,
        git_commit=git_commit(),
        data_hash=data.data_hash,
        training=options_json(options),
        typical=typical(tuple(tensor.name for tensor in inputs), data.observations),
    )


class Trainer:
    """One run: batches, the two phases, saving, validation."""

    def __init__(self, options: Options) -> None:
        self.options = options
        needs_pose = options.use_object or options.pose_head
        files = load_files(options.data, options.cameras, needs_pose, options.filter_key)
        self.data = joined(files)
        if options.rollouts and not self.data.recorded.own:
            raise ValueError(
                f"rollouts {options.rollouts}: the simulator is no {self.data.recorded}, as the data are of; 0 expected"
            )
        self.bookkeeping = Run(options, self.data.data_hash)
        self.accelerator, self.device = self.bookkeeping.accelerator, self.bookkeeping.device
        train, held = split_files(files, options.validation, options.seed)
        window = (options.n_obs_steps, options.rows, options.action_steps_only)
        self.train = make_windows(self.data, train, *window)
        self.held = make_windows(self.data, held, *window)
        self.weights: Tensor | None = None
        """(n) of the windows to learn from."""
        if options.data_weights:
            ends = np.cumsum([len(file) for file in files])
            of = np.searchsorted(ends, self.train.observed[:, -1], side="right")
            share = np.array(options.data_weights) / np.maximum(np.bincount(of, minlength=len(files)), 1)
            self.weights = torch.from_numpy(share[of].astype(np.float32)).to(self.device)
        self.resident = Resident(self.data, self.device)
        self.pictures = tuple(f"{camera}{IMAGE_SUFFIX}" for camera in options.cameras)
        self.policy = build_policy(options, Limits.of(self.data)).to(self.device)
        checkpoint.script(self.policy)  # what cannot be exported must fail now, not after hours
        views = camera_views(self.data.task, options.cameras, IMAGE_SIZE) if options.pose_points else []
        self.views = [view.to(self.device) for view in views]
        weight = torch.ones(POSE_DIM)
        weight[3:9] = options.rotation_weight
        self.pose_weight = weight.to(self.device)
        self.features: Tensor | None = None
        """(crops, N, F) of every step, where the encoder no longer changes."""

    # -- batches ----------------------------------------------------------------------------------------------------

    def frames(self, steps: Tensor) -> dict[str, Tensor]:
        """Observations of the steps (n,), name -> (n, ...)."""
        return self.resident.frames(steps, self.pictures)

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
        if state is None and options.cameras:
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
        crops = options.cameras and encoder.crop_size < encoder.image_size
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
        if options.encoder_iterations or not options.cameras:
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
            export(self.policy, make_spec(options, self.data), options.out, options, options.half_weights)
        # Whatever fails below, what was trained is there.
        if options.rollouts:
            checkpoint.record_scores(options.out, self._roll_out(Policy(checkpoint.load(options.out))))
        print(f"wrote {options.out}")

    def _roll_out(self, policy: Policy) -> dict[str, Any]:
        """Success on validation seeds."""
        options = self.options
        simulation = Simulation(self.data.task, options.cameras)
        episodes = list(roll_out(policy, simulation, options.rollouts, FIRST_VALIDATION_SEED))
        simulation.close()
        successes = sum(episode.success for episode in episodes)
        print(f"{successes} of {options.rollouts} validation episodes succeed", flush=True)
        self.bookkeeping.record("validation/success_rate", successes / options.rollouts, options.iterations)
        return {"validation_success_rate": successes / options.rollouts, "validation_episodes": options.rollouts}


def train(options: Options) -> None:
    """Trains and exports. ValueError, in one line, for data or options that do not fit."""
    train_timed(Trainer, options)


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
        self.loss = PolicyLoss(trainer.policy)
        self._windows = ResidentWindows.of(windows, trainer.device)
        self._trainer = [trainer]  # in a list: not a submodule

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        trainer, windows, chosen = self._trainer[0], self._windows, batch["chosen"]
        acted = windows.acted[chosen]
        observed = acted if trainer.policy.inpainting else windows.observed[chosen]
        features = trainer.window_features(observed, batch.get("crops"))
        actions = trainer.resident.actions[acted]
        loss: Tensor = self.loss(features, actions, windows.valid[chosen], batch["noise"], batch["t"])
        if trainer.features is None and trainer.policy.encoder.has_pose_head:
            loss = loss + trainer.pose_loss(features, observed)
        return loss


def main() -> None:
    command_line.run(Options, train, __doc__, "stopped; --resume goes on from the last save")


if __name__ == "__main__":
    main()
