"""What a data set says of the robot that it was recorded with: used, or refused. Never passed over."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusion_ros.robot import ACTION_SCALE, RATE, ROTATION_SCALE, TRANSLATION_SCALE

OWN_ROBOT = "Panda"
"""robosuite's, which the simulator has."""
_FRAMES = ("base", "world")
"""robosuite's names of frames whose axes are the base's."""


@dataclass(frozen=True)
class RecordedWith:
    """A robosuite environment's settings, as robomimic's env_args have them."""

    environment: str
    robot: str = OWN_ROBOT
    rate: float = RATE
    """Control steps a second [Hz]."""
    scale: tuple[float, ...] = tuple(ACTION_SCALE.tolist())
    """(7) of a full action: m, rad, and 1 of the gripper."""

    @property
    def own(self) -> bool:
        """Whether the simulator is such a robot."""
        return self == RecordedWith(self.environment)

    def __str__(self) -> str:
        return f"{self.robot} at {self.rate:g} Hz, {self.scale[0]:g} m and {self.scale[3]:g} rad a step"


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
    return RecordedWith(arguments["env_name"], str(names[0]), float(rate), _scale(settings.get("controller_configs")))


def _scale(controller: Any) -> tuple[float, ...]:
    """(7) of robosuite's controller; None: its default."""
    if controller is None:
        return tuple(ACTION_SCALE.tolist())
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
    if kind != "OSC_POSE":
        raise ValueError(f"env_args: controller {kind}, OSC_POSE expected: what its actions mean is not known here")
    if not controller.get("control_delta", True) or controller.get("input_type", "delta") != "delta":
        raise ValueError("env_args: the controller takes absolute poses, differences to the hand's pose expected")
    frame = controller.get("input_ref_frame", "base")
    if frame not in _FRAMES:
        raise ValueError(f"env_args: the controller's input_ref_frame is {frame!r}, {' or '.join(_FRAMES)} expected")
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
    return (*high, 1.0)


def _numbers(controller: Mapping[str, Any], name: str, default: list[float]) -> list[float]:
    value = controller.get(name, default)
    numbers = value if isinstance(value, list) else [value]
    if any(isinstance(x, bool) or not isinstance(x, (int, float)) or not math.isfinite(x) for x in numbers):
        raise ValueError(f"env_args: the controller's {name} is {value!r}, numbers expected")
    numbers = [float(x) for x in numbers]
    return numbers * len(default) if len(numbers) == 1 else numbers
