"""Demonstrations where the network is: a batch is put together there, and nothing is fetched step by step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.data.demonstrations import Demonstrations, Windows
from training.data.picture_store import mapping_of, rows

_SHARE = 0.6
"""Of a GPU's free memory that pictures may take; more of them stay on the host."""


@dataclass(frozen=True)
class ResidentWindows:
    """Windows, as tensors: see :class:`training.data.demonstrations.Windows`."""

    observed: Tensor
    acted: Tensor
    valid: Tensor

    @staticmethod
    def of(windows: Windows, device: torch.device) -> ResidentWindows:
        arrays = windows.observed, windows.acted, windows.valid
        return ResidentWindows(*(torch.from_numpy(array).to(device) for array in arrays))

    def __len__(self) -> int:
        return len(self.observed)


class Resident:
    """The steps of demonstrations on a device. Pictures that do not fit there stay on the host, or on the disk where
    memory does not hold them (`whole` is False)."""

    def __init__(self, data: Demonstrations, device: torch.device) -> None:
        self.device = device
        tensors = {name: torch.from_numpy(value) for name, value in data.observations.items()}
        pictures = {name: value for name, value in tensors.items() if value.dtype == torch.uint8}
        size = sum(value.nbytes for value in pictures.values())
        self._stored = {n: data.observations[n] for n in pictures if mapping_of(data.observations[n]) is not None}
        """Pictures that memory does not hold."""
        self.whole = not self._stored and (device.type != "cuda" or size <= _SHARE * torch.cuda.mem_get_info(device)[0])
        self.pictures = {
            n: value.to(device) if self.whole else value.pin_memory()
            for n, value in pictures.items()
            if n not in self._stored
        }
        self.low_dim = {n: value.to(device) for n, value in tensors.items() if n not in pictures}
        self.actions = torch.from_numpy(data.actions).to(device)
        self.executed = None if data.executed is None else torch.from_numpy(data.executed).to(device)

    def frames(self, steps: Tensor, pictures: tuple[str, ...] = ()) -> dict[str, Tensor]:
        """Observations of steps (n,): all numbers, and the pictures that are named; name -> (n, ...)."""
        frames = self.numbers(steps)
        at = steps if self.whole else steps.cpu()
        for name in pictures:
            if name in self._stored:
                frames[name] = torch.from_numpy(rows(self._stored[name], at.numpy())).to(self.device)
                continue
            frames[name] = self.pictures[name].index_select(0, at).to(self.device, non_blocking=True)
        return frames

    def numbers(self, steps: Tensor) -> dict[str, Tensor]:
        """What of the observations is no picture, of steps of any shape (...); name -> (..., n)."""
        return {name: value[steps] for name, value in self.low_dim.items()}


def steps_of(windows: Windows, device: torch.device) -> Tensor:
    """All steps that are observed in windows, each once, in order."""
    return torch.from_numpy(np.unique(windows.observed)).to(device)
