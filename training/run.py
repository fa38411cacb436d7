"""What every trainer's run has: options, the loop, a folder that can be resumed, moving averages, learning rates."""

from __future__ import annotations

import json
import math
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from diffusion_ros.atomic_file import atomic_write
from diffusion_ros.checkpoint import read_spec
from diffusion_ros.models.image_generator import IMAGE_KIND
from training.captured_step import CapturedStep
from training.interruption import AfterTheStep, Interrupted
from training.options.shared import RunOptions, current_options, options_json

STATE_FILE = "state.pt"
"""In a run's folder: what --resume goes on from."""
FIRST_VALIDATION_SEED = 90_000
"""Training resets with smaller seeds, evaluation with 100,000 and above."""
VALIDATION_STREAM = 4
"""Of a run's random numbers: those of validation losses, which are the same each time."""
LOG_EVERY = 100
"""Iterations between mean losses in the log."""


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


def generator_on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """A generator of the CPU where that is the device, else one there that it seeds."""
    if device.type == "cpu":
        return generator
    there = torch.Generator(device)
    there.manual_seed(int(torch.randint(0, 2**62, (1,), generator=generator)))
    return there


class ExponentialMovingAverage:
    """Averaged weights; the decay grows with the steps: 1 - (1 + step) ** -0.75, up to `maximum`.

    The warm-up of Chi et al. 2023's runs.
    """

    POWER = 0.75

    def __init__(self, module: nn.Module, maximum: float) -> None:
        self.maximum = maximum
        self.step = 0
        self._live = list(module.parameters())
        self.average = [parameter.detach().clone() for parameter in self._live]

    def decay(self, step: int) -> float:
        """Weight of the average at the update after `step` updates."""
        value: float = 1 - (1 + step) ** -self.POWER
        return min(value, self.maximum)

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


T = TypeVar("T", bound=RunOptions)


@dataclass(kw_only=True)
class Phase:
    """A loop of optimiser steps: what :meth:`Run.fit` does."""

    name: str
    """Of the progress bar."""
    objective: nn.Module
    """From a batch to the loss (). A module of its own, never the one that is exported: Accelerate replaces the forward
    of what it prepares, which TorchScript could not read then."""
    optimizer: Any
    draw: Callable[[torch.Generator], tuple[Any, ...]]
    """A batch, of the step's random numbers alone."""
    stream: int
    """Which of the run's streams of random numbers that is."""
    iterations: int
    rates: Sequence[float]
    """Learning rates of the optimiser's groups after the warm-up."""
    warm_up: int
    """Iterations."""
    tag: str = "train"
    """In TensorBoard."""
    max_grad_norm: float | None = None
    ema: ExponentialMovingAverage | None = None
    held_out: Callable[[torch.Generator], Tensor] | None = None
    """The loss () on data that are not trained on."""
    held_out_draws: int = 4
    validate_every: int = 0
    """Iterations between its means over so many draws, with the averaged weights."""
    validate_last: bool = False
    """Whether there is one at the end in any case."""
    hook: Callable[[int], None] = lambda iteration: None
    """What else is done, told how many iterations are over ..."""
    hook_every: int = 0
    """... after every so many; 0: never."""
    save_every: int = 0
    """Iterations between saves; 0: none, the phase begins anew."""
    state: Callable[[], dict[str, Any]] = dict
    """What is saved beside the optimiser, the average and the curves."""
    counter: str = "iteration"
    """What its iterations are called in what is saved."""
    steady: bool = False
    """Whether a batch is a tuple of dicts of tensors whose shapes never change, all is on the device, and a step asks
    for nothing back: then it can be captured (training/captured_step.py)."""
    iteration: int = 0
    """How many are done."""
    train_curve: list[tuple[float, float]] = field(default_factory=list)
    """(iteration, mean loss since the one before)."""
    validation_curve: list[tuple[float, float]] = field(default_factory=list)
    """(iteration, held-out loss)."""

    def saved(self) -> dict[str, Any]:
        """For :meth:`Run.save`."""
        average = {} if self.ema is None else {"ema": self.ema.state()}
        curves = {"train_curve": self.train_curve, "validation_curve": self.validation_curve}
        return {
            self.counter: self.iteration,
            "optimizer": self.optimizer.state_dict(),
            **average,
            **curves,
        } | self.state()

    def restore(self, state: dict[str, Any]) -> None:
        """The opposite of :meth:`saved`, but for what is in `state`."""
        self.iteration = int(state[self.counter])
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate  # on this device; it is set anew in each step
        if self.ema is not None:
            self.ema.restore(state["ema"])
        for name in ("train_curve", "validation_curve"):
            setattr(self, name, [(float(x), float(y)) for x, y in state.get(name, ())])


class Segmented(Protocol):
    """A training in segments, each of which can begin from what the ones before have left: see :meth:`Run.segments`."""

    @property
    def done(self) -> int: ...
    @property
    def total(self) -> int: ...
    def segment(self, bar: tqdm[Any]) -> None: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: dict[str, Any]) -> None: ...


class Run:
    """One training: processes, the loop, progress, TensorBoard, and what --resume goes on from."""

    def __init__(self, options: RunOptions, data_hash: str = "") -> None:
        """data_hash: of all that is learnt from, '' where there is nothing."""
        if options.precision == "fp16" and not torch.cuda.is_available():
            raise ValueError("mixed_precision fp16: needs a GPU; bf16 works on a CPU too")
        self.accelerator = Accelerator(mixed_precision=options.precision, cpu=not torch.cuda.is_available())
        self.device = self.accelerator.device
        self.main = self.accelerator.is_main_process
        torch.manual_seed(options.seed)
        self._options, self._data_hash = options, data_hash
        self._state_path = options.run_folder / STATE_FILE
        self._writer: SummaryWriter | None = None
        self.saved_at = ""
        """How far the run was when it was saved last, for people; '': it was not."""

    @property
    def _log(self) -> SummaryWriter:
        """Made when it is first written to: bad input leaves no folder behind."""
        if self._writer is None:
            self._writer = SummaryWriter(str(self._options.run_folder))
        return self._writer

    # -- what --resume goes on from ---------------------------------------------------------------------------------

    def saved(self, **modules: nn.Module) -> dict[str, Any] | None:
        """What the run to resume has saved, its weights put into `modules`; None for a new run.

        What a run before a new one has saved there stays until the new one saves. Raises ValueError, in one line, for a
        run with other options or on other data.
        """
        if not self._options.resume:
            return None
        state = load_state(self._state_path)
        self._check_options(state)
        self._check_data(state, modules)
        for name, module in modules.items():
            module.load_state_dict(state[name])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.saved_at = "where it was resumed"
        return state

    def _check_options(self, state: dict[str, Any]) -> None:
        """Those that decide the weights."""
        then = current_options(type(self._options), json.loads(state["options"]))
        now = options_json(self._options)
        other = [
            f"{name} {then.get(name)!r}, now {now.get(name)!r}"
            for name in {**then, **now}
            if name not in self._options.free and then.get(name) != now.get(name)
        ]
        if other:
            raise ValueError(f"{self._state_path}: was begun with other options than these: {'; '.join(other)}")

    def _check_data(self, state: dict[str, Any], modules: Mapping[str, nn.Module]) -> None:
        """By what they contain: they may lie elsewhere now."""
        if not self._data_hash:
            return
        given = options_json(self._options)["data"]
        now = ", ".join(given) if isinstance(given, list) else given
        # In 0.1 only runs of images and guards had one; a guard's did not take in all that it does now.
        begun_with = state.get("data_sha256", state.get("data_hash"))
        if begun_with is not None:
            if begun_with != self._data_hash:
                raise ValueError(
                    f"{self._state_path}: was begun with data of SHA-256 {begun_with[:16]}, {now} has"
                    f" {self._data_hash[:16]} now: only the same data can be gone on with"
                )
            return
        # What was fitted to the data, and is not trained, tells most others.
        then = json.loads(state["options"]).get("data")
        if then not in (given, now):  # where there may be several files now, there was one
            raise ValueError(
                f"{self._state_path}: was begun with data {then} and without their hash, now {now}: where they were"
                " then is where they must be"
            )
        for name, module in modules.items():
            for buffer, value in module.named_buffers():
                saved = state[name].get(buffer)
                if saved is not None and not torch.equal(saved, value.cpu()):
                    raise ValueError(
                        f"{self._state_path}: was begun with other data than {now} holds now: {buffer}, which is"
                        " computed from them, was another"
                    )

    def save(self, **state: Any) -> None:
        """Saves it, once all processes are here."""
        self.accelerator.wait_for_everyone()
        scaler = self.accelerator.scaler  # of float16's gradients, on a GPU
        if scaler is not None:
            state["scaler"] = scaler.state_dict()
        if self.main:
            options = json.dumps(options_json(self._options))
            save_state(self._state_path, {"options": options, "data_sha256": self._data_hash, **state})

    def interrupted(self) -> str:
        """What is said when it ends before its end."""
        if not self.saved_at:
            return "stopped; nothing was saved yet: the same command begins anew"
        again = "the same command" if self._options.resume else "the same command with --resume"
        return f"stopped; saved at {self.saved_at}: {again} goes on from there"

    # -- the loops --------------------------------------------------------------------------------------------------

    def fit(self, phase: Phase, state: dict[str, Any] | None = None) -> None:
        """Takes the steps that are missing; `state` is what :meth:`saved` gave."""
        if state is not None:
            phase.restore(state)
        step = self.stepper(phase)
        bar = self.bar(phase.name, phase.iteration, phase.iterations)
        recent: list[Tensor] = []  # on the device: nothing waits for it

        def log() -> None:
            phase.train_curve.append((float(phase.iteration), float(torch.stack(recent).double().mean())))
            recent.clear()
            self.record(f"{phase.tag}/loss", phase.train_curve[-1][1], phase.iteration)
            shown = {"loss": phase.train_curve, "held_out": phase.validation_curve}
            bar.set_postfix({name: f"{curve[-1][1]:.4f}" for name, curve in shown.items() if curve}, refresh=False)

        def due(every: int, at_the_end: bool = True) -> bool:
            last = at_the_end and phase.iteration == phase.iterations
            return every > 0 and (last or phase.iteration % every == 0)

        # One of several processes must not stop by itself: the others would wait for it.
        with bar, AfterTheStep(phase.save_every > 0 and self.accelerator.num_processes == 1) as signals:
            while phase.iteration < phase.iterations:
                generator = step_generator(
                    self._options.seed, phase.stream, phase.iteration, self.accelerator.process_index
                )
                set_rates(phase.optimizer, phase.rates, warm_cosine(phase.iteration, phase.iterations, phase.warm_up))
                recent.append(step(phase.draw(generator)))
                if phase.ema is not None:
                    phase.ema.update()
                phase.iteration += 1
                bar.update()
                if due(LOG_EVERY):
                    log()
                if due(phase.validate_every, phase.validate_last):
                    self._validate(phase)
                if due(phase.hook_every, False):
                    with signals.at_once():
                        phase.hook(phase.iteration)
                if due(phase.save_every) or signals.number:
                    self.save(**phase.saved())
                    self.saved_at = f"iteration {phase.iteration} of {phase.iterations} ({phase.name})"
                if signals.number:
                    raise Interrupted(self.interrupted(), signals.number)

    def stepper(self, phase: Phase) -> Callable[[tuple[Any, ...]], Tensor]:
        """What takes a step with a batch and returns its loss (), on the device."""
        alone = self.accelerator.num_processes == 1 and self.accelerator.scaler is None
        if phase.steady and alone and self.device.type == "cuda":
            captured: list[CapturedStep] = []

            def replayed(batch: tuple[Any, ...]) -> Tensor:
                if not captured:
                    captured.append(
                        CapturedStep(
                            phase.objective, phase.optimizer, batch, self.accelerator.autocast, phase.max_grad_norm
                        )
                    )
                return captured[0](batch).clone()

            return replayed
        objective, phase.optimizer = self.accelerator.prepare(phase.objective, phase.optimizer)

        def taken(batch: tuple[Any, ...]) -> Tensor:
            with self.accelerator.autocast():
                loss: Tensor = objective(*batch)
            self.update(loss, phase.optimizer, phase.max_grad_norm)
            return loss.detach()

        return taken

    @torch.no_grad()
    def _validate(self, phase: Phase) -> None:
        """Loss of the averaged weights on what is held out, with the same random numbers each time."""
        if not self.main or phase.ema is None or phase.held_out is None:
            return
        generators = [step_generator(self._options.seed, VALIDATION_STREAM, i) for i in range(phase.held_out_draws)]
        with phase.ema.applied():
            loss = float(np.mean([float(phase.held_out(generator)) for generator in generators]))
        phase.validation_curve.append((float(phase.iteration), loss))
        self.record("validation/loss", loss, phase.iteration)

    def segments(self, name: str, trainer: Segmented) -> None:
        """Does the segments that are missing and saves after each. Raises Interrupted after Ctrl-C: what was done since
        the last save cannot be gone on with."""
        try:
            self._segments(name, trainer)
        except KeyboardInterrupt:
            raise Interrupted(self.interrupted()) from None

    def _segments(self, name: str, trainer: Segmented) -> None:
        state = self.saved()
        if state is not None:
            trainer.restore(state)
        self.saved_at = f"{trainer.done} of {trainer.total}"
        with self.bar(name, trainer.done, trainer.total) as bar:
            while trainer.done < trainer.total:
                trainer.segment(bar)
                self.save(**trainer.state())
                self.saved_at = f"{trainer.done} of {trainer.total}"

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

    def update(self, loss: Tensor, optimizer: Any, max_grad_norm: float | None = None) -> None:
        """One step down the gradient, whose norm is clipped where `max_grad_norm` is given."""
        optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        if max_grad_norm is not None:
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            self.accelerator.clip_grad_norm_(weights, max_grad_norm)
        optimizer.step()


class Trainer(Protocol):
    """A run that a command starts."""

    bookkeeping: Run

    def run(self) -> None: ...


def train_timed(make: Callable[[T], Trainer], options: T) -> None:
    """Makes the trainer, runs it to the end and says how long that took, and what comes next."""
    torch.set_num_threads(options.threads)
    trainer = make(options)
    began = time.monotonic()
    try:
        trainer.run()
    except Interrupted:
        raise
    except KeyboardInterrupt:
        raise Interrupted(trainer.bookkeeping.interrupted()) from None
    if trainer.bookkeeping.main:
        print(
            f"took {(time.monotonic() - began) / 60:.1f} minutes; its curves: tensorboard --logdir {options.run_folder}"
        )
        print(f"next: {next_command(options.out)}")


def next_command(out: Path) -> str:
    """What to do with a checkpoint that was just made."""
    kind = read_spec(out).kind
    if kind == IMAGE_KIND:
        return f"python -m diffusion_ros.nodes.image_generator_node --ros-args -p checkpoint:={out}"
    return f"python -m training.evaluate --checkpoint {out}"


def set_rates(optimizer: Any, rates: Collection[float], factor: float) -> None:
    """Learning rates of the optimiser's groups: `rates` times `factor`."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate * factor)
        else:
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
