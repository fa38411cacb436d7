"""What holds of every checkpoint of a kind, beside what holds of all: one `Kind` in each of the other files here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffusion_ros.models.timesteps import TIMESTEP_SPACINGS
from diffusion_ros.spec import IMAGE_SUFFIX, CheckpointSpec, SpecError, box, positive

if TYPE_CHECKING:
    import torch

SAMPLERS = ("ddim", "ddpm")
MAX_TRANSLATION = 0.5
"""Metres in one control step that no arm's specification may allow more than: ten times what the simulated arm does."""
MAX_ROTATION = math.pi
"""Radians in one control step, likewise."""
MAX_BOX = 1000.0
"""Metres from the origin to a box's corner."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint."""

    module: Any
    """The TorchScript module, frozen, in float32, on `device`."""
    spec: CheckpointSpec
    sha256: str
    """Of the file."""
    device: torch.device
    signer: str = ""
    """The trusted key that the file is signed with; '' where nobody had to have signed it."""


@dataclass(frozen=True)
class Kind:
    """A kind of checkpoint: what its specification must hold, and what its module must be able to do."""

    name: str
    check: Callable[[CheckpointSpec], None]
    """Raises SpecError, one line, for a specification that does not fit the kind."""
    entry_points: tuple[str, ...]
    """Methods of the module that are called, beside forward."""
    dry_run: Callable[[Checkpoint], str]
    """Runs the module on made-up input: what is wrong with its answer, or ''."""
    optional: tuple[str, ...] = ()
    """Methods that are called where a module has them."""


def check_inputs(spec: CheckpointSpec) -> None:
    """What holds for all that observe something at a rate."""
    if not spec.inputs:
        raise SpecError("spec: inputs is empty, at least one observation expected")
    for tensor in spec.inputs:
        if not tensor.name.endswith(IMAGE_SUFFIX):
            continue
        if tensor.dtype != "uint8" or len(tensor.shape) != 3 or tensor.shape[2] != 3:
            raise SpecError(f"spec: {tensor.name}: {tensor.dtype} {list(tensor.shape)}, uint8 (H, W, 3) expected")
    positive("rate", spec.rate)
    for name in ("horizon", "n_obs_steps", "n_action_steps", "stride"):
        positive(name, getattr(spec, name))


def check_single(spec: CheckpointSpec, absent: tuple[str, ...]) -> None:
    """What holds for one answer to one observation; `absent`: what there is none of."""
    check_inputs(spec)
    names = ("horizon", "n_obs_steps", "n_action_steps", "stride")
    for name, expected in (*((name, 1) for name in names), ("sampler_steps", 0), ("num_train_timesteps", 0)):
        if getattr(spec, name) != expected:
            raise SpecError(f"spec: {name} {getattr(spec, name)}, {expected} expected in a {spec.kind}")
    for name in ("sampler", "timestep_spacing", *absent):
        if getattr(spec, name):
            raise SpecError(f"spec: {name} {getattr(spec, name)!r}, none expected in a {spec.kind}")


def check_sampler(spec: CheckpointSpec) -> None:
    """What holds for all that denoise."""
    for name in ("sampler_steps", "num_train_timesteps"):
        positive(name, getattr(spec, name))
    if spec.sampler not in SAMPLERS:
        raise SpecError(f"spec: sampler {spec.sampler!r}, one of {', '.join(SAMPLERS)} expected")
    if spec.timestep_spacing not in TIMESTEP_SPACINGS:
        spacings = ", ".join(TIMESTEP_SPACINGS)
        raise SpecError(f"spec: timestep_spacing {spec.timestep_spacing!r}, one of {spacings} expected")
    if spec.sampler_steps > spec.num_train_timesteps:
        raise SpecError(
            f"spec: sampler_steps {spec.sampler_steps}, at most num_train_timesteps {spec.num_train_timesteps} expected"
        )


def check_rows(spec: CheckpointSpec, action_size: int) -> None:
    """What holds for chunks and trajectories that a sampler makes."""
    check_inputs(spec)
    if any(tensor.dtype == "int64" for tensor in (*spec.inputs, *spec.outputs)):
        raise SpecError(f"spec: dtype 'int64', none expected in a {spec.kind}")
    if spec.n_obs_steps > spec.horizon:
        raise SpecError(f"spec: n_obs_steps {spec.n_obs_steps}, at most the horizon {spec.horizon} expected")
    if spec.n_action_steps > spec.n_rows:
        raise SpecError(
            f"spec: n_action_steps {spec.n_action_steps}, at most {spec.n_rows} expected (horizon - n_obs_steps + 1)"
        )
    check_sampler(spec)
    box("action", spec.action_low, spec.action_high, action_size)
    box("workspace", spec.workspace_low, spec.workspace_high, 3)
    if any(abs(x) > MAX_BOX for x in (*spec.workspace_low, *spec.workspace_high)):
        box_ = f"{list(spec.workspace_low)} to {list(spec.workspace_high)}"
        raise SpecError(f"spec: workspace {box_}, within {MAX_BOX:g} m of the origin expected")


def check_steps(spec: CheckpointSpec) -> None:
    """What holds for an arm's rows: translation (3) and rotation (3) of a step, then the gripper."""
    for what, part, most, unit in (
        ("translation", slice(0, 3), MAX_TRANSLATION, "m"),
        ("rotation", slice(3, 6), MAX_ROTATION, "rad"),
    ):
        greatest = max(map(abs, (*spec.action_low[part], *spec.action_high[part])))
        if greatest > most:
            raise SpecError(f"spec: a {what} of {greatest:g} {unit} in one step, at most {most:.4g} expected")
