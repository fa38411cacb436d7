"""Writes the ranges of a policy's inputs into its checkpoint. Beyond them any answer of the policy is a guess.

    python -m training.ranges --checkpoint runs/old.pt      # for checkpoints that were trained before there were ranges

A range is what the data span, and half of that on either side. The six shipped policies succeeded in 592 of 600
episodes (100 each, seeds 100000 to 100099). In these no input went farther beyond its data than 1.6 % of their span, so
normal use stays far inside. Millimetres, a finger of the wrong sign and a hand that is elsewhere lie outside.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffusion_ros import checkpoint
from diffusion_ros.checkpoint import CheckpointError
from diffusion_ros.spec import TensorSpec
from training import command_line

MARGIN = 0.5
"""Of what the data span, on either side."""
LEAST_SPAN = 0.02
"""What counts as the span of an input that hardly varied, in its own unit: 2 cm of a finger that was never moved."""

_STATISTICS = {
    "robot0_eef_pos": ("encoder.hand_limits", slice(0, 3)),
    "robot0_gripper_qpos": ("encoder.hand_limits", slice(-2, None)),
    "object_pos": ("encoder.object_limits", slice(0, 3)),
}
"""Input -> where a policy's normaliser has the limits of its data."""


def with_range(tensor: TensorSpec, low: ArrayLike, high: ArrayLike) -> TensorSpec:
    """The input with the range that data from `low` (n) to `high` (n) allow.

    Raises ValueError for limits that are not finite.
    """
    least, greatest = np.asarray(low, np.float64), np.asarray(high, np.float64)
    if not (np.isfinite(least).all() and np.isfinite(greatest).all()):
        raise ValueError(f"{tensor.name}: data from {least.tolist()} to {greatest.tolist()}, finite numbers expected")
    margin = MARGIN * np.maximum(greatest - least, LEAST_SPAN)
    return dataclasses.replace(tensor, low=tuple((least - margin).tolist()), high=tuple((greatest + margin).tolist()))


def with_ranges(inputs: tuple[TensorSpec, ...], data: dict[str, NDArray[np.floating]]) -> tuple[TensorSpec, ...]:
    """Every input of numbers with the range of its data (N, n). Quaternions have theirs: their length is 1."""
    return tuple(
        with_range(tensor, data[tensor.name].min(axis=0), data[tensor.name].max(axis=0))
        if tensor.dtype == "float32" and not tensor.name.endswith("_quat")
        else tensor
        for tensor in inputs
    )


@dataclass(frozen=True)
class Options:
    """Writes the ranges of a policy's inputs into its specification, from the statistics in the checkpoint."""

    checkpoint: Path
    """A policy of our trainers."""


def record(path: Path) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
    """Least and greatest values by input, as they are in the file now. Raises CheckpointError."""
    spec = checkpoint.read_spec(path)
    if spec.kind != "policy":
        raise CheckpointError(f"{path}: is {checkpoint.with_article(spec.kind)}, a policy is needed")
    weights = checkpoint.weights(path)
    inputs = []
    for tensor in spec.inputs:
        # Those that have a range have it from their data; others are older than --inputs, and their order is fixed.
        name, part = ("", slice(None)) if tensor.low else _STATISTICS.get(tensor.name, ("", slice(None)))
        if name:
            if f"{name}.offset" not in weights:
                raise CheckpointError(f"{path}: has no statistics {name}: was it trained by train_diffusion_policy?")
            offset, scale = (weights[f"{name}.{what}"].double().numpy()[part] for what in ("offset", "scale"))
            tensor = with_range(tensor, offset - scale, offset + scale)
        inputs.append(tensor)
    checkpoint.replace_spec(path, dataclasses.replace(spec, inputs=tuple(inputs)))
    return {tensor.name: (tensor.low, tensor.high) for tensor in inputs if tensor.low}


def main() -> None:
    command_line.run(Options, _report, __doc__)


def _report(options: Options) -> None:
    for name, (low, high) in record(options.checkpoint).items():
        print(f"{name}: {np.round(low, 4).tolist()} to {np.round(high, 4).tolist()}")


if __name__ == "__main__":
    main()
