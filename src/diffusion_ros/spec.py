"""CheckpointSpec: everything that training and the robot have to agree on, as JSON beside the TorchScript module."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from diffusion_ros.action_kinds import ActionFormat
from diffusion_ros.sealed import json_text
from diffusion_ros.sealed.refusal import Refusal, shown

IMAGE_SUFFIX = "_image"
TYPICAL_SIZE = 8
"""Pixels, height and width, of a mean picture in `typical`."""
FITTED = {"scale": "cover", "interpolation": "area"}
"""What a specification's `pictures` say of pictures that control/pictures.fit brings to their size.

cover: so that the picture covers the size; what is beyond it is cut off, alike on both sides. area: each pixel is the
mean of what it covers, so that nothing fine turns into noise.
"""


MAX_TENSORS = 64
"""Inputs or outputs of a specification."""
MAX_NUMBERS = 1 << 26
"""In one tensor: a picture of 4,700 pixels square."""
MAX_WORD = 200
"""Characters of a name."""
RATES = (0.1, 1000.0)
"""Control steps a second that a robot may have [Hz]."""
MAX_ROWS = 4096
"""Of a horizon, and whatever else is counted in steps of control."""
MAX_STEPS = 10_000
"""Of denoising."""


class SpecError(ValueError):
    """A specification that cannot be used; one printable line that names the value and the rule."""

    def __init__(self, message: str) -> None:
        super().__init__(shown(message, 500))


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
        for what in ("name", "unit", "frame"):
            _word(f"{what} of a tensor", getattr(self, what))
        if not self.shape or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in self.shape):
            raise SpecError(f"spec: {self.name}: shape {list(self.shape)}, positive integers expected")
        if len(self.shape) > 4 or math.prod(self.shape) > MAX_NUMBERS:
            raise SpecError(
                f"spec: {self.name}: shape {list(self.shape)}, at most 4 axes and {MAX_NUMBERS} numbers expected"
            )
        if self.dtype not in ("uint8", "int64", "float32"):
            raise SpecError(f"spec: {self.name}: dtype {self.dtype!r}, 'uint8', 'int64' or 'float32' expected")
        if self.low or self.high:
            if len(self.shape) != 1 or self.dtype != "float32":
                raise SpecError(f"spec: {self.name}: a range, none expected of {self.dtype} {list(self.shape)}")
            box(self.name, self.low, self.high, self.shape[0])


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
    actions: dict[str, Any] = field(default_factory=dict)
    """What a policy's rows say (action_kinds.ActionFormat); {}: motions in the axes of the policy's frame."""
    pictures: dict[str, Any] = field(default_factory=dict)
    """How pictures of another size are brought to the inputs': `FITTED`. {}: the policy learnt from pictures that were
    made in their size, and nobody has tried others."""
    base_pose: tuple[float, ...] = ()
    """Where the base of the robot stood that the data are from, in the frame of the actions (7): position [m],
    quaternion xyzw. (): that frame is the base's."""
    response: tuple[float, ...] = ()
    """How the arm of the data followed its actions: stiffness k [1/s^2] and damping ratio d of
    x'' = k (goal - x) - 2 d sqrt(k) x', where the goal is the action away from where the arm was; of position and of
    rotation (4), or the same of both (2). (): within a step."""
    sampler: str = ""
    sampler_steps: int = 0
    timestep_spacing: str = ""
    """Which diffusion steps the sampler visits: models.timesteps. "": as before it was a choice, which is leading for a
    policy, else trailing."""
    max_delay: int = 0
    """Rows after the newest observation that may be given to a policy, because they are executed anyway before its
    chunk comes: it was trained to go on from them. 0: it was not."""
    num_train_timesteps: int = 0
    stride: int = 1
    """Control steps between two rows; more than 1 for planners."""
    git_commit: str = ""
    data_hash: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    typical: dict[str, Any] = field(default_factory=dict)
    """Of inputs that have no range, what they were like in the data. Of a picture: the mean of all, TYPICAL_SIZE pixels
    high and wide (lists of 0 to 255). Of the hand's quaternion: {'mean': xyzw, 'angle': the largest from it, rad}."""

    def __post_init__(self) -> None:
        # What holds for all; the rest is its kind's (models/), and checkpoint.checked asks for it.
        for what in ("kind", "task", "environment", "sampler", "timestep_spacing", "git_commit", "data_hash"):
            _word(what, getattr(self, what))
        for what, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            if len(tensors) > MAX_TENSORS:
                raise SpecError(f"spec: {len(tensors)} {what}, at most {MAX_TENSORS} expected")
        for what in ("horizon", "n_obs_steps", "n_action_steps", "stride", "sampler_steps", "num_train_timesteps"):
            most = MAX_STEPS if what in ("sampler_steps", "num_train_timesteps") else MAX_ROWS
            if getattr(self, what) > most:
                raise SpecError(f"spec: {what} {getattr(self, what)}, at most {most} expected")
        if self.rate and not RATES[0] <= self.rate <= RATES[1]:
            raise SpecError(f"spec: rate {self.rate!r}, {RATES[0]} to {RATES[1]} Hz expected")
        names = self.input_names
        if len(set(names)) != len(names):
            raise SpecError(f"spec: inputs {', '.join(names)}: every name may appear once")
        if self.pictures and self.pictures != FITTED:
            raise SpecError(f"spec: pictures {self.pictures!r}, {{}} or {FITTED!r} expected")
        if self.sampler and not self.timestep_spacing:
            object.__setattr__(self, "timestep_spacing", "leading" if self.kind == "policy" else "trailing")
        if not 0 <= self.max_delay < (self.n_rows if self.kind == "policy" else 1):
            raise SpecError(f"spec: max_delay {self.max_delay}, in a policy from 0 to below its rows expected, else 0")
        if self.base_pose and (
            len(self.base_pose) != 7
            or not all(math.isfinite(x) for x in self.base_pose)
            or abs(math.hypot(*self.base_pose[3:]) - 1) > 1e-3
        ):
            raise SpecError(
                f"spec: base_pose {list(self.base_pose)}, a position (3) [m] and a quaternion (4) of length 1 expected"
            )
        if len(self.response) not in (0, 2, 4) or not all(0 < x < math.inf for x in self.response):
            raise SpecError(f"spec: response {list(self.response)}, stiffness and damping ratio above 0 expected")
        for name, value in self.typical.items():
            _check_typical(name, value, names)
        try:
            ActionFormat.from_json(self.actions)
        except ValueError as error:
            raise SpecError(f"spec: {error}") from None

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(tensor.name for tensor in self.inputs)

    @cached_property
    def action_format(self) -> ActionFormat:
        """Of a policy's rows."""
        return ActionFormat.from_json(self.actions)

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
            fields = json_text.parse(text)
        except Refusal as error:
            raise SpecError(f"spec: {error}") from None
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
        for name in ("action_low", "action_high", "workspace_low", "workspace_high", "base_pose", "response"):
            values[name] = _numbers(name, fields.get(name, []))
        for name in ("kind", "task", "environment", "sampler", "timestep_spacing", "git_commit", "data_hash"):
            if not isinstance(values.get(name, ""), str):
                raise SpecError(f"spec: {name} {values[name]!r}, a string expected")
        if isinstance(values["rate"], bool) or not isinstance(values["rate"], (int, float)):
            raise SpecError(f"spec: rate {values['rate']!r}, a number expected")
        for name in (
            "horizon",
            "n_obs_steps",
            "n_action_steps",
            "sampler_steps",
            "num_train_timesteps",
            "stride",
            "max_delay",
        ):
            if isinstance(values.get(name, 1), bool) or not isinstance(values.get(name, 1), int):
                raise SpecError(f"spec: {name} {values[name]!r}, an integer expected")
        for name in ("training", "scores", "pictures", "typical", "actions"):
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


def _check_typical(name: str, value: object, inputs: tuple[str, ...]) -> None:
    if name not in inputs:
        raise SpecError(f"spec: typical {name}, one of the inputs {', '.join(inputs)} expected")
    if name.endswith(IMAGE_SUFFIX):
        size = TYPICAL_SIZE
        rows = value if isinstance(value, list) and len(value) == size else []
        pixels = [pixel for row in rows if isinstance(row, list) and len(row) == size for pixel in row]
        numbers = [x for pixel in pixels if isinstance(pixel, list) and len(pixel) == 3 for x in pixel]
        if len(numbers) != 3 * size * size or not all(type(x) is int and 0 <= x <= 255 for x in numbers):
            raise SpecError(f"spec: typical {name}: lists of {size} x {size} pixels of 3 integers 0 to 255 expected")
        return
    mean, angle = (value.get("mean"), value.get("angle")) if isinstance(value, Mapping) else (None, None)
    if (
        not isinstance(mean, (list, tuple))
        or len(mean) != 4
        or not all(isinstance(x, float) for x in (*mean, angle))
        or not abs(math.hypot(*mean) - 1) <= 1e-3
        or not 0 <= angle <= math.pi  # type: ignore[operator]
    ):
        raise SpecError(f"spec: typical {name}: a mean quaternion of length 1 and an angle of 0 to pi expected")


def _word(name: str, value: object) -> None:
    if not isinstance(value, str) or len(value) > MAX_WORD or not value.isprintable():
        raise SpecError(f"spec: {name} {value!r}, a printable text of at most {MAX_WORD} characters expected")


def positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise SpecError(f"spec: {name} {value!r}, more than 0 expected")


def box(name: str, low: tuple[float, ...], high: tuple[float, ...], size: int) -> None:
    for end, corner in (("low", low), ("high", high)):
        if len(corner) != size or not all(math.isfinite(x) for x in corner):
            raise SpecError(f"spec: {name}_{end} {list(corner)}, {size} finite numbers expected")
    if any(a >= b for a, b in zip(low, high, strict=True)):
        raise SpecError(f"spec: {name}_low {list(low)}, below {name}_high {list(high)} in every component expected")
