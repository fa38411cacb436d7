"""Demonstrations in robomimic's HDF5 format, and the windows that a policy is trained on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from diffusion_ros.control.pictures import PictureError, fit
from diffusion_ros.robot import ACTION_SCALE, IMAGE_SIZE
from diffusion_ros.simulators.tasks import ARM_TASKS

LOW_DIM_SHAPES = {"robot0_eef_pos": (3,), "robot0_eef_quat": (4,), "robot0_gripper_qpos": (2,)}


@dataclass(frozen=True)
class Demonstrations:
    """All steps of all episodes, one after the other."""

    task: str
    """lift, can or square."""
    observations: dict[str, NDArray[Any]]
    """name -> (N, ...), as :meth:`diffusion_ros.simulators.arm.Simulation.observe` names them; images uint8, in the
    size that policies see, whatever the file's."""
    actions: NDArray[np.float32]
    """(N, 7) metres and radians per control step, gripper."""
    starts: NDArray[np.int64]
    """(E + 1): episode e is steps starts[e] to starts[e + 1]."""
    data_hash: str
    """SHA-256 over all that was read: observations, actions, and where episodes begin."""

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def episodes(self) -> int:
        """How many there are."""
        return len(self.starts) - 1


@dataclass(frozen=True)
class Windows:
    """For every step of the chosen episodes, where its observations and actions lie; `n` windows."""

    observed: NDArray[np.int64]
    """(n, To) steps; before an episode's start its first step stands in, as it does when a policy starts."""
    acted: NDArray[np.int64]
    """(n, rows) steps; the last step stands in after the end."""
    valid: NDArray[np.bool_]
    """(n, rows): False after the end. Those rows are no example of anything, so the loss leaves them out."""

    def __len__(self) -> int:
        return len(self.observed)


def make_windows(
    demonstrations: Demonstrations, episodes: NDArray[np.int64], n_obs_steps: int, rows: int, action_steps_only: bool
) -> Windows:
    """One window for each step t of `episodes`: observations t - To + 1 to t, actions from the first of these on.

    With `action_steps_only` actions start at t.
    """
    observed, acted, valid = [], [], []
    first = 0 if action_steps_only else 1 - n_obs_steps
    for episode in episodes:
        start, end = demonstrations.starts[episode], demonstrations.starts[episode + 1]
        t = np.arange(start, end)[:, None]
        observed.append(np.maximum(t + np.arange(1 - n_obs_steps, 1), start))
        steps = t + first + np.arange(rows)
        acted.append(np.clip(steps, start, end - 1))
        # Rows before the start repeat the first action: as a policy starts with its first frame repeated.
        valid.append(steps < end)
    return Windows(np.concatenate(observed), np.concatenate(acted), np.concatenate(valid))


def split_episodes(n: int, validation: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of training and of validation episodes; at least one of each."""
    if n < 2:
        raise ValueError(f"{n} demonstrations: at least 2 are needed, one of them to validate on")
    order = np.random.default_rng(seed).permutation(n)
    held = min(n - 1, max(1, round(n * validation)))
    return np.sort(order[held:]), np.sort(order[:held])


def load_demonstrations(path: Path, cameras: tuple[str, ...], use_object: bool = True) -> Demonstrations:
    """Reads a robomimic-format file; ValueError, in one line, says what is missing or wrong, and where."""
    try:
        with h5py.File(path, "r") as file:
            return _read(file, path, cameras, use_object)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path}: damaged or cut short, or not HDF5 ({str(error).splitlines()[0]})") from None


def _read(file: h5py.File, path: Path, cameras: tuple[str, ...], use_object: bool) -> Demonstrations:
    if "data" not in file or "env_args" not in file["data"].attrs:
        raise ValueError(f"{path}: not robomimic's format: no group 'data' with the attribute env_args")
    environment = json.loads(file["data"].attrs["env_args"]).get("env_name")
    tasks = {task.environment: name for name, task in ARM_TASKS.items()}
    if environment not in tasks:
        raise ValueError(f"{path}: environment {environment!r}, expected one of {', '.join(tasks)}")
    names = sorted((name for name in file["data"] if name.startswith("demo_")), key=lambda name: int(name[5:]))
    if not names:
        raise ValueError(f"{path}: has no demonstrations")
    shapes: dict[str, tuple[int, ...] | None] = {**LOW_DIM_SHAPES, **{f"{camera}_image": None for camera in cameras}}
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in shapes}
    if use_object:
        parts |= {"object_pos": [], "object_quat": []}
    actions = []
    for name in names:
        demo = file["data"][name]
        for key in ("actions", "obs"):
            if key not in demo:
                raise ValueError(f"{path}: {name} has no {key}")
        rows = _finite(path, name, "actions", np.asarray(demo["actions"], dtype=np.float64), (7,))
        if np.abs(rows).max() > 1 + 1e-6:
            raise ValueError(f"{path}: {name}: an action of {np.abs(rows).max():.3g}, expected -1 to 1")
        actions.append((rows * ACTION_SCALE).astype(np.float32))
        for key, shape in shapes.items():
            if key not in demo["obs"]:
                raise ValueError(f"{path}: {name} has no obs/{key}; it has {', '.join(sorted(demo['obs']))}")
            value = np.asarray(demo["obs"][key])
            if shape is None:
                parts[key].append(_fitted(path, name, key, value))
            else:
                parts[key].append(_finite(path, name, key, value.astype(np.float32), shape))
        if use_object:
            if "object" not in demo["obs"]:
                raise ValueError(f"{path}: {name} has no obs/object, which holds the object's pose")
            pose = _finite(path, name, "object", np.asarray(demo["obs"]["object"], dtype=np.float32), None)
            parts["object_pos"].append(pose[:, :3])
            parts["object_quat"].append(pose[:, 3:7])
        lengths = {key: len(value[-1]) for key, value in parts.items()} | {"actions": len(rows)}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"{path}: {name}: lengths differ: {lengths}")
    observations = {key: np.concatenate(value) for key, value in parts.items()}
    all_actions = np.concatenate(actions)
    starts = np.cumsum([0] + [len(rows) for rows in actions])
    digest = hashlib.sha256(starts.tobytes())
    for array in (all_actions, *(observations[key] for key in sorted(observations))):
        digest.update(np.ascontiguousarray(array).data)
    return Demonstrations(tasks[environment], observations, all_actions, starts, digest.hexdigest())


def _fitted(path: Path, demo: str, key: str, images: NDArray[Any]) -> NDArray[np.uint8]:
    """Images (N, H, W, 3) in the size that policies see, as a robot's are brought to it."""
    size = (IMAGE_SIZE, IMAGE_SIZE)
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[3] != 3:
        raise ValueError(f"{path}: {demo}/obs/{key} is {images.dtype} {images.shape}, expected uint8 (N, H, W, 3)")
    if images.shape[1:3] == size:
        return images
    try:
        return np.stack([fit(image, *size) for image in images])
    except PictureError as error:
        raise ValueError(f"{path}: {demo}/obs/{key}: {error}") from None


def _finite(path: Path, demo: str, key: str, value: NDArray[Any], shape: tuple[int, ...] | None) -> NDArray[Any]:
    if value.ndim != 2 or (shape is not None and value.shape[1:] != shape) or (shape is None and value.shape[1] < 7):
        raise ValueError(
            f"{path}: {demo}/{key} has shape {value.shape}, expected (N, {shape[0] if shape else '7 or more'})"
        )
    if not np.isfinite(value).all():
        raise ValueError(f"{path}: {demo}/{key} has values that are NaN or infinite")
    return value
