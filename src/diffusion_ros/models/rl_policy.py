"""A discrete or continuous policy's checkpoint behind numpy: the joints' state in, the effort on the cart out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion_ros.simulators.tasks import GYM_TASKS, GymTask

if TYPE_CHECKING:
    from diffusion_ros.checkpoint import Checkpoint

Array = NDArray[np.float64]

_WARM_UP = 4
"""TorchScript looks at its first calls and compiles in the next ones, which takes longer than a control period."""


class RlPolicyError(ValueError):
    """A checkpoint that does not fit its task, or no action for what was observed; one line."""


class RlPolicy:
    """One effort for one state of the joints. It remembers nothing, so it can be started again at any time."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Raises RlPolicyError for a checkpoint of a task without known joints, or that differs from its task."""
        self.checkpoint = checkpoint
        self.spec = spec = checkpoint.spec
        if spec.task not in GYM_TASKS:
            raise RlPolicyError(
                f"was trained on the task {spec.task}, whose joints are unknown: one of {', '.join(GYM_TASKS)} expected"
            )
        self.task: GymTask = GYM_TASKS[spec.task]
        limits = (0.0, len(self.task.efforts) - 1.0) if self.task.discrete else self.task.efforts
        expected = {
            "kind": (spec.kind, self.task.kind),
            "environment": (spec.environment, self.task.environment),
            "rate": (spec.rate, self.task.rate),
            "observation": (spec.inputs[0].shape, (self.task.observation_size,)),
            "action limits": ((*spec.action_low, *spec.action_high), limits),
        }
        for name, (has, wanted) in expected.items():
            if has != wanted:
                raise RlPolicyError(f"{name} {_text(has)}: the task {spec.task} has {_text(wanted)}")
        for _ in range(_WARM_UP):
            self.action(np.zeros(self.task.observation_size))

    def action(self, observation: Array) -> float:
        """The action for an observation (n): its number, or the environment's unit. Raises RlPolicyError."""
        if not np.all(np.isfinite(observation)):
            raise RlPolicyError(f"observation {observation.tolist()}, finite numbers expected")
        batch = torch.from_numpy(observation.astype(np.float32))[None].to(self.checkpoint.device)
        with torch.inference_mode():
            action = float(self.checkpoint.module(batch).reshape(-1)[0])
        if not math.isfinite(action):
            raise RlPolicyError("the policy's action is NaN or infinite")
        return action

    def effort(self, positions: Array, velocities: Array, efforts: Array) -> float:
        """The effort for the joints' state, (joints) each. Raises RlPolicyError."""
        if wrong := self.task.impossible(positions, velocities):
            raise RlPolicyError(wrong)
        try:
            return self.task.effort(self.action(self.task.observation(positions, velocities, efforts)))
        except RlPolicyError:
            raise
        except ValueError as error:
            raise RlPolicyError(f"the policy's {error}") from None
        except RuntimeError as error:
            raise RlPolicyError(f"inference failed: {' '.join(str(error).split())[-300:]}") from None


def _text(value: object) -> str:
    return " ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)
