"""LeRobot's data sets by somebody else: which features are observations, pictures and other arrays, and what their
actions are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_ros.action_kinds import ActionFormat
from diffusion_ros.spec import IMAGE_SUFFIX
from training.data.lerobot_format import ACTION, EXTRAS, IMAGES, INDICES, NEXT_SUCCESS, width_of

_DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "float16", "float32", "float64")
"""Of features that are read."""


@dataclass(frozen=True)
class Foreign:
    """What is said of a data set that somebody else wrote."""

    action_kind: str = ""
    """delta, pose or joint_positions."""
    action_scale: tuple[float, float] | None = None
    """Of deltas from -1 to 1: how many metres and radians a full one is. None: they are metres and radians."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Our name -> a feature, or `feature[first:end]` for some of its numbers."""


UNSAID = Foreign()


@dataclass(frozen=True)
class Taken:
    """What a data set's features are taken for."""

    parts: Mapping[str, tuple[str, int, int]]
    """Observation -> the feature, and which of its numbers."""
    cameras: Mapping[str, str]
    """Our name of pictures -> the feature."""
    extras: Mapping[str, tuple[str, int]]
    """Other arrays -> the feature, and how many axes they have."""
    left_out: tuple[str, ...]
    """What is none of these."""
    actions: ActionFormat
    scale: tuple[float, ...]
    """(width) by which actions are multiplied; empty: by nothing."""


def take(folder: Path, features: Mapping[str, Any], foreign: Foreign) -> Taken:
    """ValueError, in one line, for what is not said, or does not fit. folder: for errors."""
    parts, cameras, extras, left_out = _features(features, foreign.names, folder)
    width = width_of(features[ACTION])
    actions = _actions(folder, foreign.action_kind, features[ACTION])
    if actions.width != width:
        rule = f"{actions.width} of {foreign.action_kind} expected"
        raise ValueError(f"{folder}: actions of {width} numbers, {rule}")
    scale: tuple[float, ...] = ()
    if foreign.action_scale is not None:
        if actions.kind != "delta":
            raise ValueError(f"action_scale {foreign.action_scale}: of deltas only")
        far, turn = foreign.action_scale
        scale = (far, far, far, turn, turn, turn, 1.0)
    return Taken(parts, cameras, extras, left_out, actions, scale)


def _features(
    features: Mapping[str, Any], names: Mapping[str, str], folder: Path
) -> tuple[dict[str, tuple[str, int, int]], dict[str, str], dict[str, tuple[str, int]], tuple[str, ...]]:
    """Observations, cameras, other arrays, and what is none of these."""
    parts: dict[str, tuple[str, int, int]] = {}
    cameras: dict[str, str] = {}
    extras: dict[str, tuple[str, int]] = {}
    left_out = []
    used: dict[str, set[int]] = {}  # feature that is mapped -> which of its numbers

    def claim(name: str, key: str) -> None:
        """Refuses a name that is another feature's already: one of the two would be lost."""
        other = cameras.get(name) or parts.get(name, ("",))[0]
        if other:
            raise ValueError(f"{folder}: {other} and {key} are both called {name}: a map of one to another expected")

    for name, text in names.items():
        match = re.fullmatch(r"([^\[\]]+)(?:\[(\d+):(\d+)\])?", text)
        key = match[1] if match else text
        if match is None or key not in features:
            raise ValueError(f"map {name}={text}: a feature of {folder} expected, with [first:end] or without")
        numbers = used.setdefault(key, set())
        claim(name, key)
        if features[key]["dtype"] in ("video", "image"):
            if not name.endswith(IMAGE_SUFFIX) or match[2]:
                raise ValueError(f"map {name}={text}: a name that ends with {IMAGE_SUFFIX}, and all of it, expected")
            cameras[name] = key
            continue
        width = width_of(features[key])
        first, end = (int(match[2]), int(match[3])) if match[2] else (0, width)
        if not first < end <= width:
            raise ValueError(f"map {name}={text}: of {width} numbers, first < end <= {width} expected")
        parts[name] = key, first, end
        numbers.update(range(first, end))
    for key, feature in features.items():
        if key in used:
            left_out += _rest(key, used[key], 0 if key in cameras.values() else width_of(feature))
            continue
        if key in (ACTION, *INDICES, NEXT_SUCCESS):
            continue
        if feature["dtype"] in ("video", "image"):
            name = key.removeprefix(IMAGES).removeprefix("observation.") + IMAGE_SUFFIX
            claim(name, key)
            cameras[name] = key
        elif len(feature["shape"]) != 1 or feature["dtype"] not in _DTYPES:
            left_out.append(key)
        elif key.startswith("observation."):
            name = key.removeprefix("observation.")
            claim(name, key)
            parts[name] = key, 0, width_of(feature)
        else:
            original = {there: ours for ours, there in EXTRAS.items()}.get(key, key)
            if original in extras:
                raise ValueError(f"{folder}: {extras[original][0]} and {key} are both {original}, one of them expected")
            extras[original] = key, 1 if feature["shape"] == [1] else 2
    return parts, cameras, extras, tuple(left_out)


def _rest(key: str, used: set[int], width: int) -> list[str]:
    """What a map leaves of a feature's numbers, as `feature[first:end]`."""
    edges = np.flatnonzero(np.diff([0, *(i not in used for i in range(width)), 0])).reshape(-1, 2)
    return [f"{key}[{first}:{end}]" for first, end in edges.tolist()]


def _actions(folder: Path, kind: str, feature: Mapping[str, Any]) -> ActionFormat:
    if not kind:
        rule = "action_kind delta, pose or joint_positions expected"
        raise ValueError(f"{folder}: does not say what its actions are: {rule}")
    if kind != "joint_positions":
        return ActionFormat(kind)
    names = _flat_names(feature)
    return ActionFormat(kind, joints=tuple(names[:-1]))


def _flat_names(feature: Mapping[str, Any]) -> list[str]:
    """A name of each number; LeRobot has lists, and lists below a word."""
    names = feature.get("names")
    if isinstance(names, dict):
        names = [name for part in names.values() for name in (part if isinstance(part, list) else [part])]
    width = width_of(feature)
    if isinstance(names, list) and len(names) == width and len(set(map(str, names))) == width:
        return [str(name) for name in names]
    return [f"{i}" for i in range(width)]


def names_of_numbers(features: Mapping[str, Any], parts: Mapping[str, tuple[str, int, int]]) -> dict[str, list[str]]:
    """Of each observation and of the action; as many as it has numbers."""
    found = {name: _flat_names(features[key])[first:end] for name, (key, first, end) in parts.items()}
    return found | {ACTION: _flat_names(features[ACTION])}
