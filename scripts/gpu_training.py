"""Proves and times training on a GPU: `PYTHONPATH=src:. python scripts/gpu_training.py` from the repository's root.

For the published policy from state and from pixels, on made-up demonstrations: the losses of the first steps on the GPU
are those on the CPU; steps captured as a CUDA graph give the weights that steps one by one give; and how many of each
the GPU takes in a second. Exit status 1 where something differs, 2 without a GPU.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import h5py
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from training import run
from training.options.policy import Options
from training.run import set_rates, step_generator
from training.trainers.policy import Trainer

COMPARED = 5
"""Steps, whose losses and weights are compared."""
LOSS_MAY_DIFFER = {"no": 2e-3, "bf16": 5e-2}
WEIGHTS_MAY_DIFFER = 1e-3
"""Ten times the learning rate: Adam goes by as much as that in a step, whichever way rounding points."""
WARM_UP, SECONDS = 5, 15.0
"""Steps before, and for how long the steps of each kind are timed."""


def demonstrations(path: Path, episodes: int = 40, steps: int = 100) -> None:
    """Random ones, in robomimic's format."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "PickPlaceCan", "type": 1, "env_kwargs": {}})
        for i in range(episodes):
            demo = data.create_group(f"demo_{i}")
            demo["actions"] = rng.uniform(-1, 1, (steps, 7))
            demo["obs/robot0_eef_pos"] = rng.normal(size=(steps, 3))
            demo["obs/robot0_eef_quat"] = np.tile([1.0, 0, 0, 0], (steps, 1))
            demo["obs/robot0_gripper_qpos"] = rng.uniform(0, 0.04, (steps, 2))
            demo["obs/object"] = np.concatenate([rng.normal(size=(steps, 3)), np.tile([0, 0, 0, 1.0], (steps, 1))], 1)
            for camera in ("agentview", "robot0_eye_in_hand"):
                demo[f"obs/{camera}_image"] = rng.integers(0, 256, (steps, 84, 84, 3), np.uint8)


class HostDraws(Trainer):
    """Its batches are drawn by the host and carried over: a GPU's own generator gives other numbers."""

    def draw(self, *given: Any, **more: Any) -> dict[str, torch.Tensor]:
        device, self.device = self.device, torch.device("cpu")
        try:
            return {name: value.to(device) for name, value in super().draw(*given, **more).items()}
        finally:
            self.device = device


class Steps:
    """A training from the start, a step at a time."""

    def __init__(self, options: Options, captured: bool = False, kind: type[Trainer] = Trainer) -> None:
        self.trainer = kind(options)
        if not options.cameras:
            self.trainer.policy.encoder.requires_grad_(False)
            self.trainer._cache_features()
        self._phase, self._ema = self.trainer.denoiser_phase()
        self._phase.steady = captured
        self._step = self.trainer.bookkeeping.stepper(self._phase)
        self._taken = 0

    def take(self) -> torch.Tensor:
        set_rates(self._phase.optimizer, self._phase.rates, 1.0)
        loss = self._step(self._phase.draw(step_generator(0, 3, self._taken)))
        self._ema.update()
        self._taken += 1
        return loss

    def losses(self) -> list[float]:
        return [float(self.take()) for _ in range(COMPARED)]

    def per_second(self) -> float:
        for _ in range(WARM_UP):
            self.take()
        began, done = self._now(), 0
        while self._now() - began < SECONDS:
            for _ in range(WARM_UP):
                self.take()
            done += WARM_UP
        return done / (self._now() - began)

    def weights(self) -> torch.Tensor:
        return torch.cat([p.detach().flatten().cpu() for p in self.trainer.policy.parameters()])

    def _now(self) -> float:
        if self.trainer.device.type == "cuda":
            torch.cuda.synchronize()
        return time.monotonic()


def losses_on_the_host(options: Options) -> list[float]:
    """With the CPU as the device, whatever there is."""
    with patch.object(run, "Accelerator", lambda **given: Accelerator(**{**given, "cpu": True})):
        AcceleratorState._reset_state(True)
        losses = Steps(options).losses()
    AcceleratorState._reset_state(True)
    return losses


def compare(observations: str, precision: str, batch: int, data: Path) -> bool:
    """Prints a line; returns whether all is the same."""
    AcceleratorState._reset_state(True)  # that of another precision
    common: dict[str, Any] = {
        "data": (data,),
        "out": data.with_name("x.pt"),
        "observations": observations,
        "mixed_precision": precision,
    }
    small = Options(**common, batch_size=8, attention_dropout=0.0)
    one, graph = Steps(small, kind=HostDraws), Steps(small, captured=True, kind=HostDraws)
    expected = one.losses()
    others = {"captured": graph.losses()}
    if precision == "no":
        others["on the CPU"] = losses_on_the_host(small)
    away = {name: max(abs(a - b) for a, b in zip(expected, other, strict=True)) for name, other in others.items()}
    moved = float((one.weights() - graph.weights()).abs().max())
    large = Options(**common, batch_size=batch)
    rates = [Steps(large, captured).per_second() for captured in (False, True)]
    good = max(away.values()) < LOSS_MAY_DIFFER[precision] and moved < WEIGHTS_MAY_DIFFER
    print(
        f"{observations}, {precision}: of {COMPARED} losses the largest difference is"
        f" {', '.join(f'{x:.1e} {name}' for name, x in away.items())}; of weights {moved:.1e}"
        f"{'' if good else ': TOO MUCH'}; batch {batch}: {rates[0]:.1f} steps/s one by one, {rates[1]:.1f} captured",
        flush=True,
    )
    return good


def main() -> int:
    if not torch.cuda.is_available():
        print("no GPU: nothing to prove here", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.hdf5"
        demonstrations(data)
        good = [
            compare(observations, precision, batch, data)
            for observations, batch in (("state", 256), ("pixels", 64))
            for precision in ("no", "bf16")
        ]
    return int(not all(good))


if __name__ == "__main__":
    raise SystemExit(main())
