"""What a data set says of the robot that it was recorded with: used, or refused. Never passed over."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from diffusion_ros.action_kinds import ActionFormat
from diffusion_ros.robot import ACTION_SCALE, RATE, ROTATION_SCALE, TRANSLATION_SCALE

KEY = "diffusion_ros"
"""Of env_kwargs: what robosuite does not know."""
OWN_ROBOT = "Panda"
"""robosuite's, which the simulator has."""
_FRAMES = {"base": "base", "world": "base", "tool": "tool"}
"""What a controller calls the frame of its input -> the axes of deltas. robosuite's world has the base's axes."""


@dataclass(frozen=True)
class RecordedWith:
    """A robosuite environment's settings, as robomimic's env_args have them."""

    environment: str
    robot: str = OWN_ROBOT
    rate: float = RATE
    """Control steps a second [Hz]."""
    scale: tuple[float, ...] = tuple(ACTION_SCALE.tolist())
    """(7) of a full action: m, rad, and 1 of the gripper. Of other kinds than deltas the most that a step goes."""
    actions: ActionFormat = field(default_factory=ActionFormat)
    """What the rows say."""
    base_pose: tuple[float, ...] = ()
    response: tuple[float, ...] = ()
    """Of a robot that was driven by a checkpoint's frame and rows: see episodes.Layout."""

    @property
    def own(self) -> bool:
        """Whether the simulator is such a robot."""
        return replace(self, actions=ActionFormat()) == RecordedWith(self.environment)

    def __str__(self) -> str:
        text = f"{self.robot} at {self.rate:g} Hz, {self.scale[0]:g} m and {self.scale[3]:g} rad a step"
        said = {"delta": "in the tool's axes" if self.actions.axes == "tool" else "", "pose": "as poses"}
        hows = [said.get(self.actions.kind, "as joint positions")]
        hows += ["in a checkpoint's frame"] * bool(self.base_pose) + ["by an arm that lags"] * bool(self.response)
        return ", ".join([text, *filter(None, hows)])


def read(text: Any) -> RecordedWith:
    """Of env_args, JSON as str or bytes. ValueError, in one line, for what is not understood or not supported."""
    try:
        arguments = json.loads(text)
    except (TypeError, ValueError) as error:
        raise ValueError(f"env_args: not JSON: {error}") from None
    if not isinstance(arguments, Mapping) or not isinstance(arguments.get("env_name"), str):
        raise ValueError("env_args: no env_name")
    settings = arguments.get("env_kwargs") or {}
    if not isinstance(settings, Mapping):
        raise ValueError(f"env_args: env_kwargs {settings!r}, an object expected")
    robots = settings.get("robots", OWN_ROBOT)
    names = [robots] if isinstance(robots, str) else list(robots)
    if len(names) != 1:
        raise ValueError(f"env_args: robots {', '.join(map(str, names))}: one robot with one arm expected")
    rate = settings.get("control_freq", RATE)
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 1 <= rate <= 100:
        raise ValueError(f"env_args: control_freq {rate!r}, 1 to 100 Hz expected")
    scale, actions = _controller(settings.get("controller_configs"))
    frame, lag = (_of_checkpoint(settings, name, sizes) for name, sizes in (("base_pose", (7,)), ("response", (2, 4))))
    return RecordedWith(arguments["env_name"], str(names[0]), float(rate), scale, actions, frame, lag)


def _of_checkpoint(settings: Mapping[str, Any], name: str, sizes: tuple[int, ...]) -> tuple[float, ...]:
    """What recordings say beside robosuite's settings, below the key diffusion_ros."""
    own = settings.get(KEY)
    value = own.get(name, []) if isinstance(own, Mapping) else []
    numbers = isinstance(value, list) and all(type(x) in (int, float) and math.isfinite(x) for x in value)
    if not numbers or len(value) not in (0, *sizes):
        raise ValueError(f"env_args: {name} {value!r}, {' or '.join(map(str, sizes))} numbers expected")
    return tuple(map(float, value))


def _controller(controller: Any) -> tuple[tuple[float, ...], ActionFormat]:
    """Scale (7) and rows of robosuite's controller; None: its default."""
    if controller is None:
        return tuple(ACTION_SCALE.tolist()), ActionFormat()
    if isinstance(controller, list) and len(controller) == 1:
        controller = controller[0]
    if not isinstance(controller, Mapping):
        raise ValueError(f"env_args: controller_configs {controller!r}, an object expected")
    parts = controller.get("body_parts")
    if isinstance(parts, Mapping):  # robosuite 1.5: a controller for each part of a body
        arms = [name for name in ("right", "left") if name in parts]
        if len(arms) != 1:
            raise ValueError(f"env_args: controllers of {', '.join(parts) or 'nothing'}: one arm expected")
        controller = parts[arms[0]]
    kind = controller.get("type", "OSC_POSE")
    absolute = not controller.get("control_delta", True) or controller.get("input_type", "delta") == "absolute"
    if kind == "JOINT_POSITION" and absolute:
        return tuple(ACTION_SCALE.tolist()), ActionFormat("joint_positions", joints=_joints(controller))
    if kind != "OSC_POSE":
        rule = "OSC_POSE, or JOINT_POSITION of input_type absolute, expected: what its actions mean is not known here"
        raise ValueError(f"env_args: controller {kind}, {rule}")
    frame = controller.get("input_ref_frame", "base")
    if frame not in _FRAMES:
        raise ValueError(f"env_args: the controller's input_ref_frame is {frame!r}, {', '.join(_FRAMES)} expected")
    for name, least in (("input_max", 1.0), ("input_min", -1.0)):
        if any(value != least for value in _numbers(controller, name, [least])):
            raise ValueError(f"env_args: the controller's {name} is {controller[name]}, {least:g} expected")
    full = [TRANSLATION_SCALE] * 3 + [ROTATION_SCALE] * 3
    high = _numbers(controller, "output_max", full)
    low = _numbers(controller, "output_min", [-value for value in high])
    if len(high) != 6 or any(not value > 0 or value != -other for value, other in zip(high, low, strict=True)):
        raise ValueError(
            f"env_args: the controller's output_min {low} and output_max {high}, 6 numbers above 0 and their negatives"
            " expected"
        )
    if absolute:
        if _FRAMES[frame] != "base":
            raise ValueError(f"env_args: the controller takes poses in the frame {frame!r}, base or world expected")
        return (*high, 1.0), ActionFormat("pose")
    return (*high, 1.0), ActionFormat(axes=_FRAMES[frame])


def _joints(controller: Mapping[str, Any]) -> tuple[str, ...]:
    """Their names, in the order of the actions; robosuite's Panda's where the file has none."""
    names = controller.get("joints", [f"joint{i}" for i in range(1, 8)])
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"env_args: the controller's joints {names!r}, a list of names expected")
    return tuple(names)


def _numbers(controller: Mapping[str, Any], name: str, default: list[float]) -> list[float]:
    value = controller.get(name, default)
    numbers = value if isinstance(value, list) else [value]
    if any(isinstance(x, bool) or not isinstance(x, (int, float)) or not math.isfinite(x) for x in numbers):
        raise ValueError(f"env_args: the controller's {name} is {value!r}, numbers expected")
    numbers = [float(x) for x in numbers]
    return numbers * len(default) if len(numbers) == 1 else numbers
