"""Writes what pictures and the hand's orientation were like in training into a policy's checkpoint.

By that `diffusion_ros check` tells exchanged cameras and a tool that is turned.

    python -m training.typical --checkpoint runs/old.pt   # for checkpoints that were trained before there was this

The trainer writes it from its data. This command has no data: it takes what the policy itself sees when it succeeds in
the simulator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from diffusion_ros import checkpoint
from diffusion_ros.checkpoint import CheckpointError
from diffusion_ros.control.pictures import fit
from diffusion_ros.models.policy import Policy
from diffusion_ros.robot import EEF_QUAT
from diffusion_ros.simulators.arm import Simulation
from diffusion_ros.spec import IMAGE_SUFFIX, TYPICAL_SIZE
from training import command_line

_STEP = 2000
"""Pictures whose sum is taken at a time."""
_EVERY = 4
"""Control steps between two pictures that are looked at in the simulator."""


def typical(names: tuple[str, ...], data: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Of the inputs `names` in data: pictures (N, H, W, 3) uint8, the hand's quaternion (N, 4) xyzw."""
    found: dict[str, Any] = {}
    for name in names:
        if name.endswith(IMAGE_SUFFIX):
            pictures = data[name]
            parts = (pictures[i : i + _STEP].sum(axis=0, dtype=np.int64) for i in range(0, len(pictures), _STEP))
            mean = np.rint(sum(parts, np.zeros(pictures.shape[1:], np.int64)) / len(pictures)).astype(np.uint8)
            found[name] = fit(mean, TYPICAL_SIZE, TYPICAL_SIZE).tolist()
        elif name == EEF_QUAT:
            turned = Rotation.from_quat(data[name])
            mean_turn = turned.mean()
            angle = float((turned * mean_turn.inv()).magnitude().max())
            found[name] = {"mean": [float(x) for x in mean_turn.as_quat(canonical=True)], "angle": angle}
    return found


@dataclass(frozen=True)
class Options:
    """Writes what the inputs of a policy are like into its specification, from episodes in the simulator."""

    checkpoint: Path
    """A policy of our trainers."""
    episodes: int = 12
    """How many, with validation seeds."""


def record(path: Path, episodes: int, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """What is in the file now. Raises CheckpointError."""
    from training.evaluation.rollout import roll_out
    from training.run import FIRST_VALIDATION_SEED

    policy = Policy(checkpoint.load(path, kind="policy"))
    spec = policy.spec
    wanted = [name for name in spec.input_names if name.endswith(IMAGE_SUFFIX) or name == EEF_QUAT]
    good: dict[str, list[NDArray[Any]]] = {name: [] for name in wanted}
    seen: dict[str, list[NDArray[Any]]] = {name: [] for name in wanted}
    """Of the episode that runs."""
    simulation = Simulation(spec.task, spec.cameras)

    def watch(step: int) -> None:
        frame = simulation.observe(images=step % _EVERY == 0)
        for name in wanted:
            if name in frame:
                seen[name].append(frame[name])

    try:
        for episode in roll_out(policy, simulation, episodes, FIRST_VALIDATION_SEED, watch=watch):
            say(f"episode {episode.index}: {'success' if episode.success else 'no success'} in {episode.steps} steps")
            for name, values in seen.items():
                good[name] += values if episode.success else []
                values.clear()
    finally:
        simulation.close()
    if not all(good.values()):
        raise CheckpointError(f"{path}: no success in {episodes} episodes, one at least expected")
    found = typical(tuple(wanted), {name: np.stack(values) for name, values in good.items()})
    checkpoint.replace_spec(path, dataclasses.replace(checkpoint.read_spec(path), typical=found))
    return found


def main() -> None:
    command_line.run(Options, _report, __doc__)


def _report(options: Options) -> None:
    if options.episodes < 1:
        raise CheckpointError(f"episodes {options.episodes}, at least 1 expected")
    for name, value in record(options.checkpoint, options.episodes, print).items():
        print(f"{name}: {value if name == EEF_QUAT else f'mean {np.mean(value):.0f} of 255'}")


if __name__ == "__main__":
    main()
