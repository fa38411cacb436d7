"""TorchScript for tests, without the warning that it is deprecated."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn


def script(module: nn.Module) -> Any:
    """The scripted module. Exactly the deprecation warning of `torch.jit.script` is silenced."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.script", category=DeprecationWarning)
        return torch.jit.script(module)
