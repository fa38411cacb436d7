"""Writes a policy's checkpoint anew by today's code: the same weights, and what exports of before could not do yet.

    python -m training.export_again --checkpoint old.pt --out new.pt

An old file's sampler visits leading steps, and its chunks cannot go on from rows that are executed already. What a
policy answers stays the same, until other steps are asked for; the proof against diffusers is made again.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from diffusion_ros import checkpoint
from diffusion_ros.checkpoint import CheckpointError
from training import command_line
from training.diffusion.export_proof import export
from training.policy_setup import options_of, restore_policy


@dataclass(frozen=True)
class Options:
    """Writes a policy's checkpoint anew by today's code."""

    checkpoint: Path
    """A policy of our trainers."""
    out: Path
    """The file that is written; it may be the same."""
    timestep_spacing: Literal["leading", "trailing"] | None = None
    """Which diffusion steps its sampler visits from now on."""
    sampler_steps: int | None = None
    """And how many."""


def export_again(options: Options) -> None:
    """Raises CheckpointError, in one line, for what is no policy of ours, RuntimeError where the proof fails."""
    spec = checkpoint.read_spec(options.checkpoint)
    if spec.kind != "policy":
        raise CheckpointError(f"{options.checkpoint}: is {checkpoint.with_article(spec.kind)}, a policy is needed")
    if options.timestep_spacing is not None:
        spec = dataclasses.replace(spec, timestep_spacing=options.timestep_spacing)
    if options.sampler_steps is not None:
        spec = dataclasses.replace(spec, sampler_steps=options.sampler_steps)
    policy = restore_policy(options.checkpoint)
    policy.schedule.timestep_spacing = spec.timestep_spacing
    spacing: Any = spec.timestep_spacing
    trained = dataclasses.replace(options_of(spec), timestep_spacing=spacing)
    stored = {value.dtype for value in checkpoint.foreign(options.checkpoint).parameters()}
    export(policy, spec, options.out, trained, half=torch.float16 in stored)


def main() -> None:
    command_line.run(Options, _report, __doc__)


def _report(options: Options) -> None:
    export_again(options)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
