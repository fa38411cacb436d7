"""What stands where in LeRobot's data sets, version 3.0.

    meta/info.json  meta/stats.json  meta/tasks.parquet  meta/episodes/chunk-000/file-000.parquet
    data/chunk-000/file-000.parquet  videos/<feature>/chunk-000/file-000.mp4

What is ours and what LeRobot has no place for stands where its reader does not look:

feature or file                 what
observation.state               float32: all observations but `object`, one after the other; `names` say which
observation.environment_state   float32: `object`
action                          float32, in the units of its kind
diffusion_ros.<feature>         the same three, float64
diffusion_ros.stamp             ns
diffusion_ros.success           1 success, 0 failure, -1 nobody has said; next.success is LeRobot's, in the last frame
diffusion_ros.by_person         1 a person acted, 0 a policy, -1 unknown
diffusion_ros.executed_action   what acted, float64, in the units of `action`; where all episodes say it
next.reward, next.done          robomimic's rewards and dones
robomimic.<name>                its other arrays
info.json: diffusion_ros        what the layout says
meta/diffusion_ros.jsonl        an episode's attributes and lists, by its index and the SHA-256 of its `action`
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

VERSION = "v3.0"
INFO = "meta/info.json"
ATTRIBUTES = "meta/diffusion_ros.jsonl"
_FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA_PATH = f"data/{_FILE}.parquet"
VIDEO_PATH = f"videos/{{video_key}}/{_FILE}.mp4"
EPISODES_PATH = f"meta/episodes/{_FILE}.parquet"

STATE, ENVIRONMENT, ACTION = "observation.state", "observation.environment_state", "action"
IMAGES = "observation.images."
OWN = "diffusion_ros"
STAMP, SUCCESS, PERSON = f"{OWN}.stamp", f"{OWN}.success", f"{OWN}.by_person"
EXECUTED_ACTION = f"{OWN}.executed_action"
NEXT_SUCCESS = "next.success"
EXTRAS = {"rewards": "next.reward", "dones": "next.done"}
"""robomimic's name -> LeRobot's."""
INDICES = {"timestamp": "float32", **dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64")}
"""Features that every data set has."""


def width_of(feature: Mapping[str, Any]) -> int:
    """How many numbers a row has."""
    return int(np.prod(feature["shape"]))


def picture_size(feature: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width; LeRobot has the colours last, or first."""
    shape = feature["shape"]
    if len(shape) != 3 or 3 not in (shape[0], shape[2]):
        raise ValueError(f"pictures of shape {shape}, (height, width, 3) expected")
    return (shape[0], shape[1]) if shape[2] == 3 else (shape[1], shape[2])


def digest_of(rows: NDArray[Any]) -> str:
    """Of an episode's `action` (N, width), in LeRobot's 32 bits."""
    return hashlib.sha256(np.ascontiguousarray(rows, np.float32).tobytes()).hexdigest()
