"""A discrete or continuous policy's checkpoint behind numpy: the joints' state in, the effort on the cart out."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from diffusion_ros.models.kind import Checkpoint, Kind, check_single
from diffusion_ros.simulators.tasks import GYM_TASKS, GymTask
from diffusion_ros.spec import CheckpointSpec, SpecError, box

Array = NDArray[np.float64]

DISCRETE_KIND = "discrete policy"
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
        import torch

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


def _check(spec: CheckpointSpec) -> None:
    """What holds for one action after one observation."""
    check_single(spec, ("workspace_low", "workspace_high"))
    if spec.input_names != ("observation",):
        raise SpecError(f"spec: inputs {', '.join(spec.input_names)}, observation alone expected")
    observation = spec.inputs[0]
    if observation.dtype != "float32" or len(observation.shape) != 1:
        raise SpecError(
            f"spec: observation: {observation.dtype} {list(observation.shape)}, float32 of one axis expected"
        )
    if [tensor.name for tensor in spec.outputs] != ["action"]:
        raise SpecError(f"spec: outputs {', '.join(t.name for t in spec.outputs)}, action alone expected")
    action = spec.outputs[0]
    dtype = "int64" if spec.kind == DISCRETE_KIND else "float32"
    if action.dtype != dtype or len(action.shape) != 1:
        raise SpecError(f"spec: action: {action.dtype} {list(action.shape)}, {dtype} of one axis expected")
    box("action", spec.action_low, spec.action_high, action.shape[0])
    if spec.kind == DISCRETE_KIND and (
        action.shape != (1,) or spec.action_low[0] != 0 or spec.action_high[0] != int(spec.action_high[0])
    ):
        raise SpecError(
            f"spec: action of shape {list(action.shape)} from {list(spec.action_low)} to {list(spec.action_high)},"
            " one number from 0 to a whole number expected in a discrete policy"
        )


def _dry_run(checkpoint: Checkpoint) -> str:
    import torch

    spec = checkpoint.spec
    discrete = spec.kind == DISCRETE_KIND
    # Far from what any task shows, too: the limits must hold everywhere.
    levels = torch.tensor([0.0, 1.0, -1.0, 100.0, -100.0], device=checkpoint.device)
    observation = levels[:, None].repeat(1, spec.inputs[0].shape[0])
    with torch.inference_mode():
        answers = {"actions": checkpoint.module(observation)}
        if discrete:
            answers["values"] = checkpoint.module.values(observation)
    n = len(levels)
    expected = {"actions": (torch.float32, (n, *spec.outputs[0].shape))}
    if discrete:
        expected = {
            "actions": (torch.int64, (n,)),
            "values": (torch.float32, (n, int(spec.action_high[0]) + 1)),
        }
    for name, answer in answers.items():
        dtype, shape = expected[name]
        if answer.dtype != dtype or tuple(answer.shape) != shape:
            return (
                f"gives {name} {str(answer.dtype).removeprefix('torch.')} {tuple(answer.shape)},"
                f" its specification says {str(dtype).removeprefix('torch.')} {shape}"
            )
        if not bool(answer.isfinite().all()):
            return f"gives {name} that are NaN or infinite"
    low, high = (torch.tensor(limits, device=checkpoint.device) for limits in (spec.action_low, spec.action_high))
    actions = answers["actions"].reshape(n, -1)
    if bool((actions < low).any()) or bool((actions > high).any()):
        return f"gives actions beyond its limits, {list(spec.action_low)} to {list(spec.action_high)}"
    return ""


DISCRETE = Kind(DISCRETE_KIND, _check, ("values",), _dry_run)
"""forward takes observation (B, n) float32, gives action (B,) int64; values(observation) are (B, actions) float32."""
CONTINUOUS = Kind("continuous policy", _check, (), _dry_run)
"""forward gives action (B, m) float32 within the environment's limits."""
REACTIVE_KINDS = (DISCRETE.name, CONTINUOUS.name)
"""Policies from reinforcement learning: one action for one observation, without a sampler."""
