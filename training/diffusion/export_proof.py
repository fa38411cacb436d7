"""The proof before a checkpoint is written: its sampler makes what diffusers' scheduler makes of the trained network.

The file is written beside its place, loaded as a node loads it, and asked for a sample. The same noise goes through the
network that was trained, eagerly, and through diffusers' DDPM or DDIM scheduler, which is made from the options of the
training and not from our own schedule. Only if both agree does the file appear. So it cannot be that a network that
predicts noise is read as one that predicts clean samples, that another schedule than that of the training is in the
file, that known entries are not written back, or that TorchScript computes something else.
"""

from __future__ import annotations

import copy
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler as _DDIMScheduler
from diffusers import DDPMScheduler as _DDPMScheduler
from torch import Tensor, nn

from diffusion_ros import checkpoint
from diffusion_ros.atomic_file import atomic_write
from diffusion_ros.checkpoint import Checkpoint, CheckpointError
from diffusion_ros.models.timesteps import timesteps
from diffusion_ros.spec import CheckpointSpec
from training.diffusion.diffuser import Diffuser
from training.diffusion.images import ImageDiffusion
from training.diffusion.policy import DiffusionPolicy
from training.options.shared import SamplerOptions

# diffusers has no types.
DDIMScheduler: Any = _DDIMScheduler
DDPMScheduler: Any = _DDPMScheduler

TOLERANCE = 1e-3
"""Of samples whose values are in [-1, 1]. Both sides compute in single precision, in another order: the shipped
policies, planners and image model are at most 2e-5 off, with either sampler. The least that a wrong schedule makes of
them is 0.019 (lift_pixels, which predicts clean actions, read with linear betas); a wrong prediction type makes 2."""
LEVEL = 1 / 255
"""Half the distance of two grey levels in [-1, 1]: what an image loses in becoming uint8."""
MAX_STEPS = 10
"""Denoising steps of a policy and of an image model that are compared, fewer where the checkpoint takes fewer. The path
of a network that has hardly been trained may be chaotic: what rounding leaves grows at each step."""
SEED = 0
BETA_SCHEDULES = {"cosine": "squaredcos_cap_v2", "quadratic": "scaled_linear"}
"""What diffusers calls those that the options call otherwise."""


def export(module: nn.Module, spec: CheckpointSpec, path: Path, options: SamplerOptions, half: bool) -> None:
    """Writes the checkpoint of a policy, planner or image model, if its sampler is right; see `checkpoint.save`.

    Raises RuntimeError, in one line, where it is not, and CheckpointError for what cannot be loaded; nothing is written
    then.
    """
    with atomic_write(path) as candidate:
        try:
            checkpoint.save(module, spec, candidate, half)
            loaded = checkpoint.load(candidate)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(str(candidate), str(path))) from None
        problem = disagreement(loaded, module, options, half)
        if problem:
            raise RuntimeError(f"{path}: not written: {problem}")


@torch.no_grad()
def disagreement(loaded: Checkpoint, module: nn.Module, options: SamplerOptions, half: bool) -> str:
    """Why the checkpoint's samples are not what the network and diffusers make, or ''."""
    network = copy.deepcopy(module).eval().cpu()
    if half:
        for parameter in network.parameters():  # as the checkpoint has them
            parameter.data = parameter.data.half().to(parameter.dtype)
    if isinstance(network, DiffusionPolicy):
        error = _policy_error(loaded, network, options)
    elif isinstance(network, Diffuser):
        error = _planner_error(loaded, network, options)
    elif isinstance(network, ImageDiffusion):
        error = _image_error(loaded, network, options)
    else:
        raise TypeError(f"{type(network).__name__}: no module that samples")
    if error <= TOLERANCE:  # False for NaN
        return ""
    return (
        f"its {loaded.spec.sampler.upper()} samples are {error:.2g} off what diffusers' scheduler makes of the network"
        f" with beta_schedule {options.beta_schedule!r} and prediction_type {options.prediction_type!r}, at most"
        f" {TOLERANCE:g} expected"
    )


class Scheduler:
    """diffusers' scheduler for a checkpoint's sampler, as the options of its training say.

    Args:
        prediction_type: what `step` is given.
        steps: how many there are from noise to a sample.
    """

    def __init__(self, loaded: Checkpoint, options: SamplerOptions, prediction_type: str, steps: int) -> None:
        settings = {
            "num_train_timesteps": options.num_train_timesteps,
            "beta_start": 1e-4,
            "beta_end": 0.02,
            "beta_schedule": BETA_SCHEDULES.get(options.beta_schedule, options.beta_schedule),
            "prediction_type": prediction_type,
            "timestep_spacing": "trailing" if options.timestep_spacing == "cubic" else options.timestep_spacing,
        }
        self._scheduler = DDPMScheduler(**settings, variance_type="fixed_small")
        self._ddim = loaded.spec.sampler == "ddim"
        if self._ddim:  # which knows no sigmoid, but betas
            betas = self._scheduler.betas.numpy()
            self._scheduler = DDIMScheduler(**{**settings, "beta_schedule": "linear"}, trained_betas=betas)
        self._scheduler.set_timesteps(steps)
        # For some numbers of trailing steps (7 of 300) rounding gives one too many, to -1.
        self._scheduler.timesteps = self._scheduler.timesteps[:steps]
        if options.timestep_spacing == "cubic":  # which diffusers has not
            visited = timesteps("cubic", options.num_train_timesteps - 1, steps)
            self._scheduler.timesteps = torch.tensor(visited)
        self.timesteps: list[int] = self._scheduler.timesteps.tolist()
        self._previous = dict(zip(self.timesteps, [*self.timesteps[1:], -1], strict=True))

    def step(
        self, output: Tensor, t: int, x: Tensor, generator: torch.Generator, clipped: bool = False
    ) -> tuple[Tensor, Tensor]:
        """x (B, ...) at the next of the steps, and the clean sample (B, ...) that `output` at t implies.

        generator: of DDPM's noise, which our samplers draw in the same order, after the first sample. clipped: whether
        DDIM takes the noise from the clipped clean sample.
        """
        extra: dict[str, Any] = {"generator": generator}
        if self._ddim:
            # It goes to T // n below t, whichever step comes next: where n does not divide T, to none of them.
            self._scheduler.num_inference_steps = Fraction(
                self._scheduler.config.num_train_timesteps, t - self._previous[t]
            )
            extra = {"use_clipped_model_output": clipped}
        stepped = self._scheduler.step(output, t, x, **extra)
        return stepped.prev_sample, stepped.pred_original_sample


def _policy_error(loaded: Checkpoint, policy: DiffusionPolicy, options: SamplerOptions) -> float:
    scheduler = Scheduler(loaded, options, options.prediction_type, _steps(loaded))
    features = torch.randn((2, policy.n_obs_steps, policy.encoder.out_dim), generator=_generator(SEED + 1))
    cond = features[:, :0] if policy.inpainting else features
    generator = _generator(SEED)
    x = torch.randn((2, policy.rows, policy.width), generator=generator)
    # Of the second chunk as much is executed before it comes as it was trained for.
    executed = 0.6 * torch.rand((2, policy.rows, policy.action_dim), generator=_generator(SEED + 2)) - 0.3
    before = torch.zeros((2, policy.rows), dtype=torch.bool)
    before[1, : policy.max_known] = True

    def known(x: Tensor) -> Tensor:
        x = x.clone()
        x[..., : policy.action_dim][before] = executed[before]
        if policy.inpainting:
            x[:, : policy.n_obs_steps, policy.action_dim :] = features
        return x

    for t in scheduler.timesteps:
        x = known(x)
        seen = torch.cat([x, before[..., None].float()], dim=2) if policy.max_known else x
        x, _ = scheduler.step(policy.denoiser(seen, torch.full((2,), t), cond), t, x, generator)
    theirs = known(x)[:, policy.first_row :, : policy.action_dim]
    rows = policy.action_limits.unnormalize(executed)
    sampled = loaded.module.sample_after(features, rows, before.float(), SEED, _steps(loaded))
    ours = policy.action_limits.normalize(sampled)
    return float((ours - theirs).abs().max())


def _planner_error(loaded: Checkpoint, diffuser: Diffuser, options: SamplerOptions) -> float:
    """Of each step of a plan from a state to a state, without guides, which diffusers does not know.

    Steps are what a planner's checkpoint has, so each is taken from where diffusers' has led.
    """
    rows, width = loaded.spec.horizon, diffuser.row_dim
    reading = Scheduler(loaded, options, options.prediction_type, loaded.spec.sampler_steps)
    # Of the clean plan, the known written into it.
    stepping = Scheduler(loaded, options, "sample", loaded.spec.sampler_steps)
    known, mask = torch.zeros((1, rows, width)), torch.zeros((1, rows, width), dtype=torch.bool)
    mask[:, [0, -1], diffuser.action_dim :] = True
    known[:, [0, -1]] = 0.8 * torch.rand((2, width), generator=_generator(SEED + 1)) - 0.4
    given = diffuser.limits.unnormalize(known)
    visited = timesteps(options.timestep_spacing, options.num_train_timesteps - 1, loaded.spec.sampler_steps)
    error = 0.0 if visited == reading.timesteps else math.inf
    x = torch.randn((1, rows, width), generator=_generator(SEED))
    for t, previous in zip(reading.timesteps, [*reading.timesteps[1:], -1], strict=True):
        noise = torch.randn(x.shape, generator=_generator(SEED + t)) if loaded.spec.sampler == "ddpm" else x[:0]
        ours, plan = loaded.module.step(x, given, mask, noise, t, previous, {})
        x = torch.where(mask, known, x)
        _, clean = reading.step(diffuser(x, torch.full((1,), t), known, mask), t, x, _generator(0))
        x, _ = stepping.step(torch.where(mask, known, clean), t, x, _generator(SEED + t))
        x = torch.where(mask, known, x)
        error = max(error, float((ours - x).abs().nan_to_num(math.inf).max()))
    return max(error, float((diffuser.limits.normalize(plan) - x).abs().nan_to_num(math.inf).max()))


def _image_error(loaded: Checkpoint, diffusion: ImageDiffusion, options: SamplerOptions) -> float:
    """Over all of the way from noise to the image, less what rounding to grey levels takes."""
    scheduler = Scheduler(loaded, options, options.prediction_type, _steps(loaded))
    generator = _generator(SEED)
    x = torch.randn((1, diffusion.channels, diffusion.height, diffusion.width), generator=generator)
    way, estimate = [x], torch.zeros_like(x)
    for t in scheduler.timesteps:
        output = diffusion.denoiser(x, torch.full((1,), t), estimate)
        x, clean = scheduler.step(output, t, x, generator, clipped=True)
        estimate = clean if diffusion.self_conditioning else estimate
        way.append(x)
    theirs = torch.stack(way).movedim(2, -1).clamp(-1.0, 1.0)
    ours = loaded.module.denoised(SEED, 1, _steps(loaded)).float() / 127.5 - 1.0
    return float((ours - theirs).abs().max()) - LEVEL


def _steps(loaded: Checkpoint) -> int:
    return min(loaded.spec.sampler_steps, MAX_STEPS)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
