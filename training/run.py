"""What every trainer's run has: a folder that can be resumed, moving averages, learning rates, where it came from."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_ros.whole_file import whole_file


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors and numbers; the file appears, or replaces the one before, only when it is whole."""
    with whole_file(path) as temporary:
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
