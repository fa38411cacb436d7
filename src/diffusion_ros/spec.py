"""CheckpointSpec: everything that training and the robot have to agree on, as JSON beside the TorchScript module."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KINDS = ("policy", "planner", "discrete policy", "continuous policy", "image model", "camera guard")
REACTIVE_KINDS = ("discrete policy", "continuous policy")
"""Policies from reinforcement learning: one action for one observation, without a sampler."""
IMAGE_KIND = "image model"
GUARD_KIND = "camera guard"
SAMPLERS = ("ddim", "ddpm")
ACTION_SIZE = 7
"""dx dy dz, drx dry drz, gripper."""
IMAGE_SUFFIX = "_image"


class SpecError(ValueError):
    """A specification that cannot be used; one line that names the value and the rule."""


@dataclass(frozen=True)
class TensorSpec:
    """One named array that enters or leaves a checkpoint, without batch and time axes."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """'uint8' for images (H, W, 3), 'int64' for discrete actions, else 'float32'."""
    unit: str
    """'m', 'rad', '1', 'rgb', ..."""
    frame: str
    """The frame that the values are expressed in, '' where none applies."""
    low: tuple[float, ...] = ()
    """Of an input, least values that are believed, one for each of its numbers; () where none are known.

    Those of the data, less a margin (training.ranges): what lies beyond is no observation that anything was learnt of.
    """
    high: tuple[float, ...] = ()
    """The greatest ones."""

    def __post_init__(self) -> None:
        if not self.name:
            raise SpecError("spec: a tensor has no name")
        if not self.shape or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in self.shape):
            raise SpecError(f"spec: {self.name}: shape {list(self.shape)}, positive integers expected")
        if self.dtype not in ("uint8", "int64", "float32"):
            raise SpecError(f"spec: {self.name}: dtype {self.dtype!r}, 'uint8', 'int64' or 'float32' expected")
        if self.low or self.high:
            if len(self.shape) != 1 or self.dtype != "float32":
                raise SpecError(f"spec: {self.name}: a range, none expected of {self.dtype} {list(self.shape)}")
            _box(self.name, self.low, self.high, self.shape[0])


@dataclass(frozen=True)
class CheckpointSpec:
    """The contract of a checkpoint.

    A planner's rows are a trajectory: `outputs` lists their columns in order, the action first. A policy's time in
    rows, for horizon 10, n_obs_steps 2, n_action_steps 8 (o: observed, the newest at row 0):

        step        -1   0   1   2   3   4   5   6   7   8
        observed     o   o
        generated    x   x   x   x   x   x   x   x   x   x     horizon rows
        published        0   1   2   3   4   5   6   7   8     n_rows = horizon - n_obs_steps + 1
        executed         0   1   2   3   4   5   6   7         n_action_steps; the rest bridges a late next chunk

    A discrete or a continuous policy answers one `observation` (n) by one `action`: all horizons are 1, and it has
    neither sampler nor workspace. A discrete action is a number from 0 to n - 1, of shape (1,); its limits say 0 and
    n - 1.

    An image model makes one output, `image` (H, W, C) with C 1 or 3, from a seed; it has a sampler and nothing of a
    robot: its rate is 0, its horizons are 1. Inputs are empty, or the images that it can be compared with.

    A camera guard's inputs are the images of the cameras that it knows and the hand's pose, its output is `score` (1):
    all horizons are 1, and it has neither actions nor sampler.
    """

    kind: str
    task: str
    environment: str
    inputs: tuple[TensorSpec, ...]
    """What one observation frame must contain, in the order that the module was trained with."""
    outputs: tuple[TensorSpec, ...]
    rate: float
    """Control steps a second [Hz]; 0 of an image model."""
    horizon: int
    n_obs_steps: int
    n_action_steps: int
    action_low: tuple[float, ...]
    """Least command of one control step: of a policy (7) m, rad, gripper; else as long as the action."""
    action_high: tuple[float, ...]
    workspace_low: tuple[float, ...] = ()
    """Corner of the box that the end effector stays in (3) [m], in the frame of eef_pose."""
    workspace_high: tuple[float, ...] = ()
    sampler: str = ""
    sampler_steps: int = 0
    num_train_timesteps: int = 0
    stride: int = 1
    """Control steps between two rows; more than 1 for planners."""
    git_commit: str = ""
    data_hash: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SpecError(f"spec: kind {self.kind!r}, one of {', '.join(KINDS)} expected")
        names = self.input_names
        if not names and self.kind != IMAGE_KIND:
            raise SpecError("spec: inputs is empty, at least one observation expected")
        if len(set(names)) != len(names):
            raise SpecError(f"spec: inputs {', '.join(names)}: every name may appear once")
        if self.kind == IMAGE_KIND:
            self._check_images()
            return
        for tensor in self.inputs:
            if tensor.name.endswith(IMAGE_SUFFIX) and (
                tensor.dtype != "uint8" or len(tensor.shape) != 3 or tensor.shape[2] != 3
            ):
                raise SpecError(f"spec: {tensor.name}: {tensor.dtype} {list(tensor.shape)}, uint8 (H, W, 3) expected")
        _positive("rate", self.rate)
        for name in ("horizon", "n_obs_steps", "n_action_steps", "stride"):
            _positive(name, getattr(self, name))
        if self.kind in REACTIVE_KINDS:
            self._check_reactive()
        elif self.kind == GUARD_KIND:
            self._check_guard()
        else:
            self._check_sampled()

    def _check_single(self, absent: tuple[str, ...]) -> None:
        """What holds for one answer to one observation; `absent`: what there is none of."""
        names = ("horizon", "n_obs_steps", "n_action_steps", "stride")
        for name, expected in (*((name, 1) for name in names), ("sampler_steps", 0), ("num_train_timesteps", 0)):
            if getattr(self, name) != expected:
                raise SpecError(f"spec: {name} {getattr(self, name)}, {expected} expected in a {self.kind}")
        for name in ("sampler", *absent):
            if getattr(self, name):
                raise SpecError(f"spec: {name} {getattr(self, name)!r}, none expected in a {self.kind}")

    def _check_guard(self) -> None:
        """What holds for a guard of cameras."""
        self._check_single(("action_low", "action_high", "workspace_low", "workspace_high"))
        others = [(tensor.name, tensor.shape) for tensor in self.inputs[len(self.cameras) :]]
        if not self.cameras or others != [("robot0_eef_pos", (3,)), ("robot0_eef_quat", (4,))]:
            raise SpecError(
                f"spec: inputs {', '.join(self.input_names)}, images, robot0_eef_pos (3) and robot0_eef_quat (4)"
                f" expected in a {self.kind}"
            )
        if [(tensor.name, tensor.shape) for tensor in self.outputs] != [("score", (1,))]:
            raise SpecError(f"spec: outputs {', '.join(t.name for t in self.outputs)}, score (1) alone expected")

    def _check_reactive(self) -> None:
        """What holds for one action after one observation."""
        self._check_single(("workspace_low", "workspace_high"))
        if self.input_names != ("observation",):
            raise SpecError(f"spec: inputs {', '.join(self.input_names)}, observation alone expected")
        observation = self.inputs[0]
        if observation.dtype != "float32" or len(observation.shape) != 1:
            raise SpecError(
                f"spec: observation: {observation.dtype} {list(observation.shape)}, float32 of one axis expected"
            )
        if [tensor.name for tensor in self.outputs] != ["action"]:
            raise SpecError(f"spec: outputs {', '.join(t.name for t in self.outputs)}, action alone expected")
        action = self.outputs[0]
        dtype = "int64" if self.kind == "discrete policy" else "float32"
        if action.dtype != dtype or len(action.shape) != 1:
            raise SpecError(f"spec: action: {action.dtype} {list(action.shape)}, {dtype} of one axis expected")
        _box("action", self.action_low, self.action_high, action.shape[0])
        if self.kind == "discrete policy" and (
            action.shape != (1,) or self.action_low[0] != 0 or self.action_high[0] != int(self.action_high[0])
        ):
            raise SpecError(
                f"spec: action of shape {list(action.shape)} from {list(self.action_low)} to {list(self.action_high)},"
                " one number from 0 to a whole number expected in a discrete policy"
            )

    def _check_images(self) -> None:
        """What holds for a model of images."""
        for name, expected in (("rate", 0), ("horizon", 1), ("n_obs_steps", 1), ("n_action_steps", 1), ("stride", 1)):
            if getattr(self, name) != expected:
                raise SpecError(f"spec: {name} {getattr(self, name)}, {expected} expected in an {self.kind}")
        for name in ("action_low", "action_high", "workspace_low", "workspace_high"):
            if getattr(self, name):
                raise SpecError(f"spec: {name} {list(getattr(self, name))}, none expected in an {self.kind}")
        if [tensor.name for tensor in self.outputs] != ["image"]:
            raise SpecError(f"spec: outputs {', '.join(t.name for t in self.outputs) or 'none'}, image alone expected")
        for tensor in (*self.inputs, *self.outputs):
            if tensor.dtype != "uint8" or len(tensor.shape) != 3 or tensor.shape[2] not in (1, 3):
                raise SpecError(
                    f"spec: {tensor.name}: {tensor.dtype} {list(tensor.shape)}, uint8 (H, W, 1) or (H, W, 3) expected"
                )
        self._check_sampler()

    def _check_sampled(self) -> None:
        """What holds for chunks and trajectories that a sampler makes."""
        if any(tensor.dtype == "int64" for tensor in (*self.inputs, *self.outputs)):
            raise SpecError(f"spec: dtype 'int64', none expected in a {self.kind}")
        if self.n_obs_steps > self.horizon:
            raise SpecError(f"spec: n_obs_steps {self.n_obs_steps}, at most the horizon {self.horizon} expected")
        if self.n_action_steps > self.n_rows:
            raise SpecError(
                f"spec: n_action_steps {self.n_action_steps}, at most {self.n_rows} expected"
                " (horizon - n_obs_steps + 1)"
            )
        self._check_sampler()
        action = ACTION_SIZE
        if self.kind == "policy" and [(t.name, t.shape, t.dtype) for t in self.outputs] != [
            ("action", (ACTION_SIZE,), "float32")
        ]:
            made = ", ".join(f"{t.name} {t.dtype} {list(t.shape)}" for t in self.outputs) or "none"
            raise SpecError(f"spec: outputs {made}, action float32 [{ACTION_SIZE}] alone expected in a policy")
        if self.kind == "planner":
            action = next((t.shape[0] for t in self.outputs if t.name == "action"), 0)
            if not action:
                raise SpecError(f"spec: outputs {', '.join(t.name for t in self.outputs)}: an action expected")
        _box("action", self.action_low, self.action_high, action)
        _box("workspace", self.workspace_low, self.workspace_high, 3)

    def _check_sampler(self) -> None:
        for name in ("sampler_steps", "num_train_timesteps"):
            _positive(name, getattr(self, name))
        if self.sampler not in SAMPLERS:
            raise SpecError(f"spec: sampler {self.sampler!r}, one of {', '.join(SAMPLERS)} expected")
        if self.sampler_steps > self.num_train_timesteps:
            raise SpecError(
                f"spec: sampler_steps {self.sampler_steps}, at most num_train_timesteps"
                f" {self.num_train_timesteps} expected"
            )

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(tensor.name for tensor in self.inputs)

    @property
    def frame(self) -> str:
        """The frame that a policy's actions are expressed in, '' where its specification has none."""
        return next((tensor.frame for tensor in self.outputs if tensor.frame), "")

    def range_of(self, name: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Least and greatest values that are believed of an input; None where none are known, or no such input is."""
        tensor = next((tensor for tensor in self.inputs if tensor.name == name), None)
        return (tensor.low, tensor.high) if tensor is not None and tensor.low else None

    @property
    def cameras(self) -> tuple[str, ...]:
        """The cameras whose images enter the policy, in the order of the inputs."""
        return tuple(name.removesuffix(IMAGE_SUFFIX) for name in self.input_names if name.endswith(IMAGE_SUFFIX))

    @property
    def n_rows(self) -> int:
        """Rows of a published chunk: from the newest observation's step to the end of the horizon."""
        return self.horizon - self.n_obs_steps + 1

    @property
    def period_ns(self) -> int:
        """One control step [ns]."""
        return round(1e9 / self.rate)

    def to_json(self) -> str:
        """Raises SpecError for what JSON has no value for (NaN in a score)."""
        try:
            return json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise SpecError(f"spec: cannot be written as JSON: {error}") from None

    @staticmethod
    def from_json(text: str | bytes) -> CheckpointSpec:
        """Raises SpecError, in one line, for text that is no complete specification."""
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise SpecError(f"spec: not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise SpecError(f"spec: {type(fields).__name__}, a JSON object expected")
        known = {f.name: f for f in dataclasses.fields(CheckpointSpec)}
        unknown = sorted(set(fields) - set(known))
        if unknown:
            raise SpecError(f"spec: unknown {', '.join(unknown)}")
        missing = [
            name
            for name, f in known.items()
            if name not in fields and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise SpecError(f"spec: {', '.join(missing)} missing")
        values = dict(fields)
        for name in ("inputs", "outputs"):
            values[name] = _tensors(name, fields[name])
        for name in ("action_low", "action_high", "workspace_low", "workspace_high"):
            values[name] = _numbers(name, fields.get(name, []))
        for name in ("kind", "task", "environment", "sampler", "git_commit", "data_hash"):
            if not isinstance(values.get(name, ""), str):
                raise SpecError(f"spec: {name} {values[name]!r}, a string expected")
        for name in ("horizon", "n_obs_steps", "n_action_steps", "sampler_steps", "num_train_timesteps", "stride"):
            if isinstance(values.get(name, 1), bool) or not isinstance(values.get(name, 1), int):
                raise SpecError(f"spec: {name} {values[name]!r}, an integer expected")
        for name in ("training", "scores"):
            if not isinstance(values.get(name, {}), dict):
                raise SpecError(f"spec: {name} {values[name]!r}, an object expected")
        return CheckpointSpec(**values)


def _tensors(name: str, value: object) -> tuple[TensorSpec, ...]:
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise SpecError(f"spec: {name}, a list of objects expected")
    known = {f.name for f in dataclasses.fields(TensorSpec)}
    wanted = known - {"low", "high"}  # which checkpoints of 0.1 do not have
    tensors = []
    for item in value:
        if not wanted <= set(item) <= known:
            raise SpecError(f"spec: {name}: fields {', '.join(sorted(item))}, {', '.join(sorted(wanted))} expected")
        if not isinstance(item["shape"], list):
            raise SpecError(f"spec: {name}: shape {item['shape']!r}, a list expected")
        ranges = {end: _numbers(f"{name}: {end}", item.get(end, [])) for end in ("low", "high")}
        tensors.append(TensorSpec(**{**item, "shape": tuple(item["shape"]), **ranges}))
    return tuple(tensors)


def _numbers(name: str, value: object) -> tuple[float, ...]:
    if not isinstance(value, list) or any(isinstance(x, bool) or not isinstance(x, (int, float)) for x in value):
        raise SpecError(f"spec: {name} {value!r}, a list of numbers expected")
    return tuple(float(x) for x in value)


def _positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise SpecError(f"spec: {name} {value!r}, more than 0 expected")


def _box(name: str, low: tuple[float, ...], high: tuple[float, ...], size: int) -> None:
    for end, corner in (("low", low), ("high", high)):
        if len(corner) != size or not all(math.isfinite(x) for x in corner):
            raise SpecError(f"spec: {name}_{end} {list(corner)}, {size} finite numbers expected")
    if any(a >= b for a, b in zip(low, high, strict=True)):
        raise SpecError(f"spec: {name}_low {list(low)}, below {name}_high {list(high)} in every component expected")
