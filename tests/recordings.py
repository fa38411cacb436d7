"""Made-up recordings: smooth pictures, and numbers that need all their bits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from diffusion_ros.action_kinds import ActionFormat
from diffusion_ros.robot import ACTION_SCALE
from training.data.episodes import Episode, Layout

CAMERAS = {"agentview_image": (48, 64), "robot0_eye_in_hand_image": (32, 32)}
NUMBERS = {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2, "object": 10}
RATE = 20.0
DELTAS = ActionFormat()


def pictures(height: int, width: int, steps: int, start: int) -> NDArray[np.uint8]:
    """(N, H, W, 3), each unlike the one before: a slope that wanders."""
    y, x, t = np.mgrid[:height, :width][0], np.mgrid[:height, :width][1], np.arange(steps)[:, None, None] + start
    wave = [127 + 120 * np.sin((x + 3 * t) / 9), 127 + 120 * np.cos((y - 2 * t) / 11), 2 * (x + y) % 200 + 0 * t]
    return np.stack(wave, axis=-1).astype(np.uint8)


def layout(cameras: bool = True, actions: ActionFormat = DELTAS) -> Layout:
    return Layout(
        environment="PickPlaceCan",
        robot="Panda",
        rate=RATE,
        actions=actions,
        scale=tuple(ACTION_SCALE.tolist()),
        numbers=dict(NUMBERS),
        pictures=dict(CAMERAS) if cameras else {},
    )


def episodes(what: Layout, lengths: tuple[int, ...] = (12, 9, 15)) -> list[Episode]:
    rng = np.random.default_rng(0)
    found = []
    for i, steps in enumerate(lengths):
        found.append(
            Episode(
                numbers={name: rng.normal(size=(steps, width)) for name, width in what.numbers.items()},
                pictures={
                    name: (lambda size=size, n=steps, at=17 * i: iter(pictures(*size, n, at)))
                    for name, size in what.pictures.items()
                },
                actions=rng.uniform(-1, 1, (steps, what.actions.width)) * 0.05,
                stamps=np.arange(steps) * 50_000_000 + i * 10**12 + 7,
            )
        )
    return found


def write_hdf5(path: Path, lengths: tuple[int, ...] = (12, 9, 15), cameras: bool = True, executed: bool = True) -> Path:
    """As collect_demos writes it, with lists of demonstrations and who acted. executed: and what."""
    rng = np.random.default_rng(1)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        told = {"robots": "Panda", "control_freq": 20.0, "camera_names": ["agentview"], "reward_shaping": False}
        data.attrs["env_args"] = json.dumps({"env_name": "PickPlaceCan", "type": 1, "env_kwargs": told})
        data.attrs["total"] = sum(lengths)
        for i, steps in enumerate(lengths):
            demo = data.create_group(f"demo_{i}")
            demo["actions"] = rng.uniform(-1, 1, (steps, 7))
            for name, width in NUMBERS.items():
                demo[f"obs/{name}"] = rng.normal(size=(steps, width))
            if cameras:
                for name, size in CAMERAS.items():
                    demo[f"obs/{name}"] = pictures(*size, steps, 17 * i)
            demo["states"] = rng.normal(size=(steps, 30))
            demo["rewards"] = rng.uniform(size=steps)
            demo["dones"] = np.eye(steps, dtype=np.int64)[-1]
            demo["by_person"] = (np.arange(steps) % 5 < 3).astype(np.uint8)
            if executed:
                demo["executed_actions"] = np.clip(demo["actions"][:] + rng.normal(size=(steps, 7)), -1, 1)
            demo.attrs.update(
                num_samples=steps, model_file="<mujoco/>" * 9000, seed=i, noise_sigma=0.1 * i, success=i != 1
            )
        file["mask/train"] = np.array([f"demo_{i}".encode() for i in range(1, len(lengths))])
        file["mask/valid"] = np.array([b"demo_0"])
    return path


def arrays(path: Path) -> Iterator[tuple[str, Any]]:
    """All that a file has: arrays, and attributes."""
    with h5py.File(path) as file:
        found: dict[str, Any] = {}

        def look(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                found[name] = item[()]
            found.update({f"{name}@{key}": value for key, value in item.attrs.items()})

        file.visititems(look)
    yield from sorted(found.items())
