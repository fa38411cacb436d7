"""What every trainer's run has: a folder that can be resumed, moving averages, learning rates, where it came from."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from diffusion_ros.atomic_file import atomic_write

STATE_FILE = "state.pt"
"""In a run's folder: what --resume goes on from."""
FIRST_VALIDATION_SEED = 90_000
"""Training resets with smaller seeds, evaluation with 100,000 and above."""


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors and numbers; the file appears, or replaces the one before, only when it is whole."""
    with atomic_write(path) as temporary:
        torch.save(state, temporary)


def load_state(path: Path) -> dict[str, Any]:
    """What :func:`save_state` wrote. Raises ValueError, in one line, for a missing or damaged file."""
    if not path.exists():
        raise ValueError(f"{path}: nothing to resume from")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path}: damaged ({str(error).splitlines()[0]})") from None
    return state


def step_generator(seed: int, *indices: int) -> torch.Generator:
    """The randomness of one training step, from its number alone: a resumed run draws what it would have drawn."""
    generator = torch.Generator()
    value = seed
    for index in indices:
        value = (value * 6364136223846793005 + 1442695040888963407 + index) % 2**63
    generator.manual_seed(value)
    return generator


class ExponentialMovingAverage:
    """Averaged weights; the decay grows with the steps: 1 - (1 + step / inv_gamma) ** -power, in [minimum, maximum].

    The warm-up of Chi et al. 2023's runs (SPEC: inv_gamma 1, power 0.75, 0 to 0.9999).
    """

    def __init__(
        self,
        module: nn.Module,
        inv_gamma: float = 1.0,
        power: float = 0.75,
        minimum: float = 0.0,
        maximum: float = 0.9999,
    ) -> None:
        self.inv_gamma, self.power, self.minimum, self.maximum = inv_gamma, power, minimum, maximum
        self.step = 0
        self._live = list(module.parameters())
        self.average = [parameter.detach().clone() for parameter in self._live]

    def decay(self, step: int) -> float:
        """Weight of the average at the update after `step` updates."""
        value = 1 - (1 + step / self.inv_gamma) ** -self.power if step > 0 else 0.0
        return min(max(value, self.minimum), self.maximum)

    @torch.no_grad()
    def update(self) -> None:
        """Takes the live weights in."""
        torch._foreach_lerp_(self.average, [p.detach() for p in self._live], 1 - self.decay(self.step))
        self.step += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the module has the averaged weights."""
        live = [parameter.detach().clone() for parameter in self._live]
        self._set(self.average)
        try:
            yield
        finally:
            self._set(live)

    @torch.no_grad()
    def _set(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self._live, values, strict=True):
            parameter.copy_(value)

    def state(self) -> dict[str, Any]:
        """For :func:`save_state`."""
        return {"step": self.step, "average": self.average}

    def restore(self, state: dict[str, Any]) -> None:
        """The opposite of :meth:`state`."""
        self.step = int(state["step"])
        for mine, saved in zip(self.average, state["average"], strict=True):
            mine.copy_(saved)


def warm_cosine(step: int, steps: int, warm_up: int) -> float:
    """Factor of the learning rate: linear from 0 over `warm_up` steps, then half a cosine down to 0 at `steps`."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


class RunOptions(Protocol):
    """What a run reads of its options, a dataclass."""

    @property
    def run_folder(self) -> Path: ...
    @property
    def mixed_precision(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def resume(self) -> bool: ...


def options_json(options: RunOptions) -> dict[str, Any]:
    """All options as JSON has them, for the specification of what comes out."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(options), default=str))  # type: ignore[call-overload]
    return values


class Run:
    """The bookkeeping of one training: processes, progress, TensorBoard, and what --resume goes on from."""

    def __init__(self, options: RunOptions, defaults: RunOptions, free: Collection[str]) -> None:
        """defaults: the options where only what has no default is given, for those that a saved run did not know yet.
        free: the names of those that do not change the weights."""
        if options.mixed_precision == "fp16" and not torch.cuda.is_available():
            raise ValueError("mixed_precision fp16: needs a GPU; bf16 works on a CPU too")
        self.accelerator = Accelerator(mixed_precision=options.mixed_precision, cpu=not torch.cuda.is_available())
        self.device = self.accelerator.device
        self.main = self.accelerator.is_main_process
        torch.manual_seed(options.seed)
        self._options, self._defaults, self._free = options, defaults, {"resume", "out", "threads", *free}
        self._state_path = options.run_folder / STATE_FILE
        self._writer: SummaryWriter | None = None

    @property
    def _log(self) -> SummaryWriter:
        """Made when it is first written to: bad input leaves no folder behind."""
        if self._writer is None:
            self._writer = SummaryWriter(str(self._options.run_folder))
        return self._writer

    def _identity(self, options: RunOptions) -> dict[str, Any]:
        """The options that decide the weights."""
        return {name: value for name, value in options_json(options).items() if name not in self._free}

    def saved(self) -> dict[str, Any] | None:
        """What the run to resume has saved, None for a new one. Raises ValueError, in one line, if that was another.

        A new run drops what one before it has saved there: it would be resumed in its place.
        """
        if not self._options.resume:
            if self.main:
                self._state_path.unlink(missing_ok=True)
            return None
        state = load_state(self._state_path)
        then = {name: value for name, value in json.loads(state["options"]).items() if name not in self._free}
        then, now = self._identity(self._defaults) | then, self._identity(self._options)
        other = [f"{name} {then.get(name)!r}, now {value!r}" for name, value in now.items() if then.get(name) != value]
        if other or then.keys() != now.keys():
            raise ValueError(f"{self._state_path}: was begun with other options than these: {'; '.join(other)}")
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        return state

    def save(self, **state: Any) -> None:
        """Saves it, once all processes are here."""
        self.accelerator.wait_for_everyone()
        scaler = self.accelerator.scaler  # of float16's gradients, on a GPU
        if scaler is not None:
            state["scaler"] = scaler.state_dict()
        if self.main:
            save_state(self._state_path, {"options": json.dumps(self._identity(self._options)), **state})

    def bar(self, name: str, done: int, total: int) -> tqdm[Any]:
        """A progress bar in the main process."""
        return tqdm(total=total, initial=done, desc=name, disable=not self.main, mininterval=2.0, unit="it")

    def record(self, name: str, value: float, iteration: int) -> None:
        """To TensorBoard."""
        if self.main:
            self._log.add_scalar(name, value, iteration)

    def record_picture(self, name: str, picture: NDArray[np.uint8], iteration: int) -> None:
        """A picture (H, W, 3) to TensorBoard."""
        if self.main:
            self._log.add_image(name, picture, iteration, dataformats="HWC")

    def update(self, loss: Tensor, optimizer: Any, clip_norm: float | None = None) -> None:
        """One step down the gradient, whose norm is clipped where `clip_norm` is given."""
        optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        if clip_norm is not None:
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            self.accelerator.clip_grad_norm_(weights, clip_norm)
        optimizer.step()


class Trainer(Protocol):
    """A run that a command starts."""

    bookkeeping: Run

    def run(self) -> None: ...


def train_timed(trainer: Trainer) -> None:
    """Runs it to the end and says how long that took."""
    began = time.monotonic()
    trainer.run()
    if trainer.bookkeeping.main:
        print(f"took {(time.monotonic() - began) / 60:.1f} minutes")


def set_rates(optimizer: Any, rates: Collection[float], factor: float) -> None:
    """Learning rates of the optimiser's groups: `rates` times `factor`."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * factor


def git_commit() -> str:
    """The commit of the source tree, with '+' behind it when files differ from it; '' outside a repository."""
    where = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(where), *words], capture_output=True, text=True, check=True).stdout

    try:
        commit = git("rev-parse", "--short=12", "HEAD").strip()
        return commit + ("+" if git("status", "--porcelain", "--untracked-files=no").strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
