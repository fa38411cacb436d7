"""Demonstrations in robomimic's HDF5 format, and the windows that a policy is trained on."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from diffusion_ros.control.pictures import PictureError, fit
from diffusion_ros.robot import IMAGE_SIZE
from diffusion_ros.simulators.tasks import ARM_TASKS
from training.data import recorded_with
from training.data.hdf5_file import check_memory, dataset, opened
from training.data.recorded_with import RecordedWith

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
    recorded: RecordedWith
    """The robot's settings."""
    held: NDArray[np.int64] | None = None
    """The episodes that the file itself keeps for validation; None: it does not say."""

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


def load_demonstrations(
    path: Path, cameras: tuple[str, ...], use_object: bool = True, filter_key: str = ""
) -> Demonstrations:
    """Reads a robomimic-format file; ValueError, in one line, says what is missing or wrong, and where.

    filter_key: only the demonstrations that this list below `mask` names; '': all, or where the file has mask/train and
    mask/valid, those of both.
    """
    with opened(path) as file:
        return _read(file, path, cameras, use_object, filter_key)


def load_files(
    paths: Sequence[Path], cameras: tuple[str, ...], use_object: bool = True, filter_key: str = ""
) -> list[Demonstrations]:
    """Several files of one task and one kind of robot. ValueError, in one line, for what does not go together."""
    files = [load_demonstrations(path, cameras, use_object, filter_key) for path in paths]
    if not files:
        raise ValueError("data: at least one file expected")
    for path, other in zip(paths, files, strict=True):
        if other.recorded != files[0].recorded:
            raise ValueError(
                f"{path}: {other.recorded.environment} by {other.recorded}, expected as in {paths[0]}:"
                f" {files[0].recorded.environment} by {files[0].recorded}"
            )
    return files


def joined(files: Sequence[Demonstrations]) -> Demonstrations:
    """One after the other."""
    if len(files) == 1:
        return files[0]
    steps = np.cumsum([0, *(len(file) for file in files)])
    starts = [file.starts[:-1] + offset for file, offset in zip(files, steps[:-1], strict=True)]
    return replace(
        files[0],
        observations={
            name: np.concatenate([file.observations[name] for file in files]) for name in files[0].observations
        },
        actions=np.concatenate([file.actions for file in files]),
        starts=np.concatenate([*starts, steps[-1:]]),
        data_hash=hashlib.sha256("".join(file.data_hash for file in files).encode()).hexdigest(),
        held=None,
    )


def split_files(
    files: Sequence[Demonstrations], validation: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of training and of validation episodes among all files' together: what a file says of its own, else a
    random share."""
    train, held, first = [], [], 0
    for file in files:
        if file.held is not None:
            mine = np.setdiff1d(np.arange(file.episodes), file.held), file.held
        elif file.episodes == 1 and len(files) > 1:
            mine = np.arange(1), np.arange(0)
        else:
            mine = split_episodes(file.episodes, validation, seed)
        train.append(mine[0] + first)
        held.append(mine[1] + first)
        first += file.episodes
    if not sum(len(part) for part in held):
        raise ValueError(f"{first} demonstrations, one a file: one file with 2 at least is needed, one to validate on")
    return np.concatenate(train), np.concatenate(held)


def demonstration_names(data: h5py.Group) -> list[str]:
    """By their numbers, whatever stands behind them; those without one last."""

    def number(name: str) -> tuple[int, str]:
        digits = re.match("[0-9]*", name[5:])
        return (int(digits[0]) if digits and digits[0] else sys.maxsize, name)

    return sorted((name for name in data if name.startswith("demo_")), key=number)


def _names(file: h5py.File, path: Path, filter_key: str) -> tuple[list[str], set[str] | None]:
    """The demonstrations to be read, in order, and those of them to validate on, None where the file does not say."""
    names = demonstration_names(file["data"])
    if not names:
        raise ValueError(f"{path}: has no demonstrations")
    masks = file.get("mask")
    known = sorted(masks) if isinstance(masks, h5py.Group) else []

    def listed(key: str) -> set[str]:
        values = np.asarray(masks[key]).ravel().tolist()
        chosen = {value.decode() if isinstance(value, bytes) else str(value) for value in values}
        if unknown := sorted(chosen - set(names)):
            raise ValueError(f"{path}: mask/{key} names {unknown[0]}, which is not there")
        if not chosen:
            raise ValueError(f"{path}: mask/{key} names no demonstration")
        return chosen

    if filter_key and filter_key not in known and not {f"{filter_key}_train", f"{filter_key}_valid"} <= set(known):
        raise ValueError(f"{path}: has no mask/{filter_key}; it has {', '.join(known) or 'no masks'}")
    prefix = f"{filter_key}_" if filter_key else ""
    if {f"{prefix}train", f"{prefix}valid"} <= set(known):
        train, valid = listed(f"{prefix}train"), listed(f"{prefix}valid")
        if both := sorted(train & valid):
            raise ValueError(f"{path}: {both[0]} is in mask/{prefix}train and in mask/{prefix}valid, in one expected")
        return [name for name in names if name in train | valid], valid
    if filter_key:
        chosen = listed(filter_key)
        valid = listed("valid") - chosen if "valid" in known else set()
        return [name for name in names if name in chosen | valid], valid or None
    return names, None


def _read(file: h5py.File, path: Path, cameras: tuple[str, ...], use_object: bool, filter_key: str) -> Demonstrations:
    if not isinstance(file.get("data"), h5py.Group) or "env_args" not in file["data"].attrs:
        raise ValueError(f"{path}: not robomimic's format: no group 'data' with the attribute env_args")
    try:
        recorded = recorded_with.read(file["data"].attrs["env_args"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    tasks = {task.environment: name for name, task in ARM_TASKS.items()}
    if recorded.environment not in tasks:
        raise ValueError(f"{path}: environment {recorded.environment!r}, expected one of {', '.join(tasks)}")
    names, held = _names(file, path, filter_key)
    low_dim: dict[str, int | None] = {name: shape[0] for name, shape in LOW_DIM_SHAPES.items()}
    if use_object:
        low_dim["object"] = None
    pictures = [f"{camera}_image" for camera in cameras]
    found = {name: _arrays(file, path, name, low_dim, pictures) for name in names}
    size = IMAGE_SIZE * IMAGE_SIZE * 3
    check_memory(
        path,
        sum(8 * a.size for arrays in found.values() for key, a in arrays.items() if key not in pictures)
        + sum(2 * size * len(arrays[key]) for arrays in found.values() for key in pictures)
        + max((arrays[key].nbytes for arrays in found.values() for key in pictures), default=0),
    )
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in (*LOW_DIM_SHAPES, *pictures)}
    if use_object:
        parts |= {"object_pos": [], "object_quat": []}
    actions = []
    for name, arrays in found.items():
        rows = _finite(path, name, "actions", np.asarray(arrays["actions"], dtype=np.float64))
        if np.abs(rows).max() > 1 + 1e-6:
            raise ValueError(f"{path}: {name}: an action of {np.abs(rows).max():.3g}, expected -1 to 1")
        actions.append((rows * np.array(recorded.scale)).astype(np.float32))
        for key in LOW_DIM_SHAPES:
            parts[key].append(_finite(path, name, key, np.asarray(arrays[key], dtype=np.float32)))
        for key in pictures:
            parts[key].append(_fitted(path, name, key, np.asarray(arrays[key])))
        if use_object:
            pose = _finite(path, name, "object", np.asarray(arrays["object"], dtype=np.float32))
            parts["object_pos"].append(pose[:, :3])
            parts["object_quat"].append(pose[:, 3:7])
    observations = {key: np.concatenate(value) for key, value in parts.items()}
    all_actions = np.concatenate(actions)
    starts = np.cumsum([0] + [len(rows) for rows in actions])
    digest = hashlib.sha256(starts.tobytes())
    for array in (all_actions, *(observations[key] for key in sorted(observations))):
        digest.update(np.ascontiguousarray(array).data)
    if not recorded.own:
        digest.update(repr(recorded).encode())
    kept = None if held is None else np.flatnonzero([name in held for name in names])
    return Demonstrations(
        tasks[recorded.environment], observations, all_actions, starts, digest.hexdigest(), recorded, kept
    )


def _arrays(
    file: h5py.File, path: Path, name: str, low_dim: Mapping[str, int | None], pictures: Sequence[str]
) -> dict[str, h5py.Dataset]:
    """One demonstration's arrays, whose shapes fit; nothing is read yet."""
    demo, where = file["data"].get(name), f"{path}: {name}"
    if not isinstance(demo, h5py.Group) or not isinstance(demo.get("obs"), h5py.Group):
        raise ValueError(f"{where} has no obs")
    arrays = {"actions": dataset(demo, "actions", where)}
    for key in (*low_dim, *pictures):
        arrays[key] = dataset(demo["obs"], key, f"{where}/obs")
    steps = len(arrays["actions"]) if arrays["actions"].shape else 0
    if not steps:
        raise ValueError(f"{where}: has no steps")
    for key, width in {"actions": 7, **low_dim}.items():
        shape = arrays[key].shape
        if len(shape) != 2 or (shape[1] != width if width is not None else shape[1] < 7):
            raise ValueError(f"{where}/{key} has shape {shape}, expected (N, {width or '7 or more'})")
    for key in pictures:
        shape, kind = arrays[key].shape, arrays[key].dtype
        if len(shape) != 4 or kind != np.uint8 or shape[3] != 3:
            raise ValueError(f"{where}/obs/{key} is {kind} {shape}, expected uint8 (N, H, W, 3)")
    lengths = {key: len(array) for key, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"{where}: lengths differ: {lengths}")
    return arrays


def _fitted(path: Path, demo: str, key: str, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images (N, H, W, 3) in the size that policies see, as a robot's are brought to it."""
    size = (IMAGE_SIZE, IMAGE_SIZE)
    if images.shape[1:3] == size:
        return images
    try:
        return np.stack([fit(image, *size) for image in images])
    except PictureError as error:
        raise ValueError(f"{path}: {demo}/obs/{key}: {error}") from None


def _finite(path: Path, demo: str, key: str, value: NDArray[Any]) -> NDArray[Any]:
    if not np.isfinite(value).all():
        raise ValueError(f"{path}: {demo}/{key} has values that are NaN or infinite")
    return value
