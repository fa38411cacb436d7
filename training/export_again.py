"""Writes a checkpoint of a policy or planner anew by today's code: the same weights, and what older exports lacked.

    python -m training.export_again --checkpoint old.pt --out new.pt

An old file's sampler visits leading steps, and its chunks cannot go on from rows that are executed already. What a
policy answers stays the same, until other steps are asked for; the proof against diffusers is made again.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_ros import checkpoint
from diffusion_ros.checkpoint import CheckpointError
from diffusion_ros.models.timesteps import TimestepSpacing
from training import command_line


@dataclass(frozen=True)
class Options:
    """Writes a policy's or a planner's checkpoint anew by today's code."""

    checkpoint: Path
    """A policy or a planner of our trainers."""
    out: Path
    """The file that is written; it may be the same."""
    timestep_spacing: TimestepSpacing | None = None
    """Which diffusion steps its sampler visits from now on."""
    sampler_steps: int | None = None
    """And how many."""


def export_again(options: Options) -> None:
    """Raises CheckpointError, in one line, for what is none of ours, RuntimeError where the proof fails."""
    import torch

    from training import policy_setup
    from training.diffusion.export_proof import export
    from training.trainers import planner as planners

    spec = checkpoint.read_spec(options.checkpoint)
    if spec.kind not in ("policy", "planner"):
        kind = checkpoint.with_article(spec.kind)
        raise CheckpointError(f"{options.checkpoint}: is {kind}, a policy or a planner is needed")
    if options.timestep_spacing is not None:
        spec = dataclasses.replace(spec, timestep_spacing=options.timestep_spacing)
    if options.sampler_steps is not None:
        spec = dataclasses.replace(spec, sampler_steps=options.sampler_steps)
    spacing: Any = spec.timestep_spacing
    half = torch.float16 in {value.dtype for value in checkpoint.foreign(options.checkpoint).parameters()}
    if spec.kind == "policy":
        policy = policy_setup.restore_policy(options.checkpoint)
        policy.schedule.timestep_spacing = spacing
        trained = dataclasses.replace(policy_setup.options_of(spec), timestep_spacing=spacing)
        export(policy, spec, options.out, trained, half)
    else:
        planner = planners.restore_diffuser(options.checkpoint)
        planner.schedule.timestep_spacing = spacing
        plans = dataclasses.replace(planners.options_of(spec), timestep_spacing=spacing)
        export(planner, spec, options.out, plans, half)


def main() -> None:
    command_line.run(Options, _report, __doc__)


def _report(options: Options) -> None:
    export_again(options)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
