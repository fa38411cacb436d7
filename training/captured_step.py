"""A step of the optimiser as one CUDA graph: the GPU replays it, and Python is no longer what training waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

Batch = tuple[dict[str, Tensor], ...]
"""What an objective is called with, and each tensor of it has the same shape in every step."""
_WARM_UPS = 3
"""Steps before the capture, as CUDA's libraries choose their kernels in the first ones."""


class CapturedStep:
    """Loss, gradient and update for batches that all have one shape.

    Random numbers are the batch's; torch's own generator, which dropout draws from, is replayed by its seed. The
    learning rates are tensors (`adamw`), so that they may change from step to step.
    """

    def __init__(
        self,
        objective: nn.Module,
        optimizer: torch.optim.Optimizer,
        batch: Batch,
        autocast: Callable[[], AbstractContextManager[Any]],
        max_grad_norm: float | None = None,
    ) -> None:
        """batch: any one. Neither weights nor the optimiser's state are changed."""
        self._batch = tuple({name: value.clone() for name, value in part.items()} for part in batch)

        def step() -> Tensor:
            with autocast():
                loss: Tensor = objective(*self._batch)
            loss.backward()
            if max_grad_norm is not None:
                weights = [weight for group in optimizer.param_groups for weight in group["params"]]
                nn.utils.clip_grad_norm_(weights, max_grad_norm, foreach=True)
            optimizer.step()
            return loss.detach()

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), unchanged(objective, optimizer):
            for _ in range(_WARM_UPS):
                optimizer.zero_grad(set_to_none=True)
                step()
        torch.cuda.current_stream().wait_stream(side)
        optimizer.zero_grad(set_to_none=True)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._loss = step()

    def __call__(self, batch: Batch) -> Tensor:
        """The loss (), which the next step writes over."""
        for mine, given in zip(self._batch, batch, strict=True):
            for name, value in given.items():
                mine[name].copy_(value)
        self._graph.replay()
        return self._loss


class unchanged:
    """Within it steps may be taken. Afterwards weights, buffers and the optimiser's state are what they were, in the
    same memory."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._module, self._optimizer = module, optimizer

    def __enter__(self) -> None:
        self._tensors = [(tensor, tensor.detach().clone()) for tensor in self._all()]
        self._known = {id(tensor) for tensor, _ in self._tensors}

    def __exit__(self, *error: object) -> None:
        with torch.no_grad():
            for tensor, before in self._tensors:
                tensor.copy_(before)
            for tensor in self._all():
                if id(tensor) not in self._known:
                    tensor.zero_()  # the optimiser's, made by its first step: nothing was averaged yet

    def _all(self) -> Iterable[Tensor]:
        yield from self._module.parameters()
        yield from self._module.buffers()
        for state in self._optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


def adamw(
    groups: list[dict[str, Any]], learning_rate: float, betas: tuple[float, float], device: torch.device
) -> torch.optim.AdamW:
    """AdamW; on a GPU fused, with rates of its own for each group that a captured step reads anew."""
    if device.type != "cuda":
        return torch.optim.AdamW(groups, learning_rate, betas)
    rates = [torch.tensor(learning_rate, device=device) for _ in groups]
    groups = [{**group, "lr": rate} for group, rate in zip(groups, rates, strict=True)]
    return torch.optim.AdamW(groups, rates[0], betas, fused=True, capturable=True)
