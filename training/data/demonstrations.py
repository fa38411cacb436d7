"""Demonstrations in robomimic's HDF5 format, and the windows that a policy is trained on."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
from numpy.typing import NDArray

from diffusion_ros.action_kinds import ActionFormat
from diffusion_ros.control.pictures import PictureError, fit
from diffusion_ros.robot import EEF_POS, EEF_QUAT, GRIPPER_QPOS, IMAGE_SIZE, OBJECT_POS, OBJECT_QUAT
from diffusion_ros.simulators.tasks import ARM_TASKS
from training.data import recorded_with
from training.data.episodes import check_quaternions
from training.data.file_layouts import FileLayout, are_poses, layout_of
from training.data.hdf5_file import check_memory, dataset, opened, strings
from training.data.picture_store import IN_MEMORY, feed, forget, room
from training.data.picture_store import joined as join_pictures
from training.data.recorded_with import RecordedWith

LOW_DIM_SHAPES = {EEF_POS: (3,), EEF_QUAT: (4,), GRIPPER_QPOS: (2,)}
"""What a hand is, in the simulator's names."""
HAND = tuple(LOW_DIM_SHAPES)
OBJECT = ("object", OBJECT_POS, OBJECT_QUAT)
JOINT_POSITIONS = "robot0_joint_pos"
"""robomimic's name for the joints as measured."""
"""What an object's pose is, in robomimic's names and in the simulator's."""
EXECUTED = "executed_actions"
"""What acted, in the units of `actions`, which are the label."""
_MISSING = f"no {EXECUTED}: what acted is not known (collect_demos writes it)"
LARGEST = 128
"""Pixels: pictures that are no wider and higher are learnt from as they are; larger ones in the simulator's size."""


@dataclass(frozen=True)
class Demonstrations:
    """All steps of all episodes, one after the other."""

    task: str
    """lift, can or square; of other environments what they are called."""
    observations: dict[str, NDArray[Any]]
    """name -> (N, ...), as :meth:`diffusion_ros.simulators.arm.Simulation.observe` names them; images uint8, all of one
    size, whatever the file's."""
    actions: NDArray[np.float32]
    """(N, A) as `recorded.actions` says: deltas are in metres and radians per control step, gripper."""
    starts: NDArray[np.int64]
    """(E + 1): episode e is steps starts[e] to starts[e + 1]."""
    data_hash: str
    """SHA-256 over all that was read: observations, actions, what was executed, and where episodes begin."""
    recorded: RecordedWith
    """The robot's settings."""
    held: NDArray[np.int64] | None = None
    """The episodes that the file itself keeps for validation; None: it does not say."""
    person: NDArray[np.bool_] | None = None
    """(N) whether a person acted, and not a policy; None: always."""
    executed: NDArray[np.float32] | None = None
    """(N, A) what acted, in the units and of the kind of `actions`, which are the label; None: of one episode at least
    nobody knows."""
    executed_missing: str = f"demonstrations have {_MISSING}"
    """Why `executed` is None, in one line that names the file."""

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
    demonstrations: Demonstrations,
    episodes: NDArray[np.int64],
    n_obs_steps: int,
    rows: int,
    action_steps_only: bool,
    person: NDArray[np.bool_] | None = None,
) -> Windows:
    """One window for each step t of `episodes`: observations t - To + 1 to t, actions from the first of these on.

    With `action_steps_only` actions start at t. person (N): only windows whose newest step is a person's, and of their
    rows only the person's count; None: all.
    """
    observed, acted, valid = [], [], []
    first = 0 if action_steps_only else 1 - n_obs_steps
    for episode in episodes:
        start, end = demonstrations.starts[episode], demonstrations.starts[episode + 1]
        t = np.arange(start, end)[:, None]
        if person is not None:
            t = t[person[start:end]]
        observed.append(np.maximum(t + np.arange(1 - n_obs_steps, 1), start))
        steps = t + first + np.arange(rows)
        acted.append(np.clip(steps, start, end - 1))
        # Rows before the start repeat the first action: as a policy starts with its first frame repeated.
        valid.append(steps < end)
        if person is not None:
            valid[-1] &= person[acted[-1]]
    return Windows(np.concatenate(observed), np.concatenate(acted), np.concatenate(valid))


def split_episodes(n: int, validation: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of training and of validation episodes; at least one of each."""
    if n < 2:
        raise ValueError(f"{n} demonstrations: at least 2 are needed, one of them to validate on")
    order = np.random.default_rng(seed).permutation(n)
    held = min(n - 1, max(1, round(n * validation)))
    return np.sort(order[held:]), np.sort(order[:held])


@dataclass(frozen=True)
class Selection:
    """What is read of a file."""

    cameras: tuple[str, ...]
    use_object: bool = True
    """Whether the object's pose is."""
    filter_key: str = ""
    """Only the demonstrations that this list below `mask` names; '': all, or where the file has mask/train and
    mask/valid, those of both."""
    numbers: tuple[str, ...] = HAND
    """Low-dimensional observations, of any length."""
    picture_size: tuple[int, int] | None = (IMAGE_SIZE, IMAGE_SIZE)
    """Height and width [px] that pictures are brought to; None: their own, or where they are larger than LARGEST the
    simulator's."""


def load_demonstrations(
    path: Path,
    cameras: tuple[str, ...],
    use_object: bool = True,
    filter_key: str = "",
    numbers: tuple[str, ...] = HAND,
    picture_size: tuple[int, int] | None = (IMAGE_SIZE, IMAGE_SIZE),
) -> Demonstrations:
    """Reads a robomimic-format file; see `Selection`. ValueError, in one line, says what is missing or wrong, and
    where."""
    with opened(path) as file:
        return _read(file, path, Selection(cameras, use_object, filter_key, numbers, picture_size))


def load_files(
    paths: Sequence[Path],
    cameras: tuple[str, ...],
    use_object: bool = True,
    filter_key: str = "",
    numbers: tuple[str, ...] = HAND,
    picture_size: tuple[int, int] | None = (IMAGE_SIZE, IMAGE_SIZE),
) -> list[Demonstrations]:
    """Several files of one task and one kind of robot. ValueError, in one line, for what does not go together."""
    files = []
    for path in paths:
        files.append(load_demonstrations(path, cameras, use_object, filter_key, numbers, picture_size))
        if cameras:  # of the others the size of the first one's
            picture_size = files[0].observations[f"{cameras[0]}_image"].shape[1:3]
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
    known = [file.executed for file in files if file.executed is not None]
    return replace(
        files[0],
        observations={
            name: join_pictures([file.observations[name] for file in files], Path("pictures"))
            if name.endswith("_image")
            else np.concatenate([file.observations[name] for file in files])
            for name in files[0].observations
        },
        actions=np.concatenate([file.actions for file in files]),
        starts=np.concatenate([*starts, steps[-1:]]),
        data_hash=hashlib.sha256("".join(file.data_hash for file in files).encode()).hexdigest(),
        held=None,
        person=None if all(file.person is None for file in files) else np.concatenate([_persons(f) for f in files]),
        executed=np.concatenate(known) if len(known) == len(files) else None,
        executed_missing=next((file.executed_missing for file in files if file.executed is None), ""),
    )


def _persons(data: Demonstrations) -> NDArray[np.bool_]:
    return np.ones(len(data), np.bool_) if data.person is None else data.person


def split_files(
    files: Sequence[Demonstrations], validation: float, seed: int, persons: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of training and of validation episodes among all files' together: what a file says of its own, else a
    random share. persons: of those alone in which a person acted."""
    train, held, first = [], [], 0
    for file in files:
        acted = _persons(file) if persons else np.ones(len(file), np.bool_)
        pairs = zip(file.starts[:-1], file.starts[1:], strict=True)
        of_use = np.flatnonzero([acted[start:end].any() for start, end in pairs])
        if file.held is not None:
            mine = np.setdiff1d(of_use, file.held), np.intersect1d(of_use, file.held)
        elif len(of_use) < 2 and len(files) > 1:
            mine = of_use, np.arange(0)
        else:
            part = split_episodes(len(of_use), validation, seed)
            mine = of_use[part[0]], of_use[part[1]]
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
        chosen = set(strings(path, masks[key], f"mask/{key}"))
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


def _read(file: h5py.File, path: Path, selection: Selection) -> Demonstrations:
    if not isinstance(file.get("data"), h5py.Group) or "env_args" not in file["data"].attrs:
        raise ValueError(f"{path}: not robomimic's format: no group 'data' with the attribute env_args")
    try:
        recorded = recorded_with.read(file["data"].attrs["env_args"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    tasks = {task.environment: name for name, task in ARM_TASKS.items()}
    names, held = _names(file, path, selection.filter_key)
    pictures = [f"{camera}_image" for camera in selection.cameras]
    layout = layout_of(file)
    found = {name: _arrays(file, path, name, recorded.actions.width, selection, pictures, layout) for name in names}
    shapes = {found[name][key].shape[1:3] for name in names for key in pictures}
    size = selection.picture_size or _common_size(path, shapes)
    check_memory(
        path,
        sum(8 * a.size for arrays in found.values() for key, a in arrays.items() if key not in pictures)
        + max((arrays[key].nbytes for arrays in found.values() for key in pictures), default=0),
    )
    steps = sum(len(arrays["actions"]) - layout.late for arrays in found.values())
    together = steps * size[0] * size[1] * 3 * max(1, len(pictures))
    on_disk = together > IN_MEMORY * psutil.virtual_memory().available
    shown = {key: room((steps, *size, 3), path, on_disk) for key in pictures}
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in selection.numbers}
    if selection.use_object:
        parts |= {"object_pos": [], "object_quat": []}
    actions, persons = [], []
    executed: dict[str, NDArray[np.float32]] = {}
    rewritten = False
    for name, arrays in found.items():
        rows = layout.actions(_finite(path, name, "actions", np.asarray(arrays["actions"], dtype=np.float64)))
        acted = arrays.get("by_person")
        persons.append(None if acted is None else layout.actions(acted[:].reshape(-1)) != 0)
        for key in selection.numbers:
            value = _finite(path, name, key, np.asarray(arrays[key], dtype=np.float32))
            parts[key].append(layout.numbers(key, value))
            check_quaternions(f"{path}: {name}/{key}", key, parts[key][-1])
        if EEF_POS in parts and recorded.actions.kind == "delta" and are_poses(rows, parts[EEF_POS][-1]):
            recorded, rewritten = replace(recorded, actions=ActionFormat("pose")), True
        actions.append(_in_units(path, name, "actions", rows, recorded))
        if EXECUTED in arrays and not rewritten:  # else they are deltas still
            acting = layout.actions(_finite(path, name, EXECUTED, np.asarray(arrays[EXECUTED], dtype=np.float64)))
            executed[name] = _in_units(path, name, EXECUTED, acting, recorded)
        first = sum(map(len, actions[:-1]))
        for key in pictures:
            images = _fitted(path, name, key, layout.pictures(np.asarray(arrays[key])), size)
            shown[key][first : first + len(images)] = images
            forget(shown[key])
        if selection.use_object:
            pose = [_finite(path, name, key, np.asarray(arrays[key], np.float32)) for key in OBJECT if key in arrays]
            parts["object_pos"].append(pose[0][:, :3])
            parts["object_quat"].append(pose[1] if len(pose) > 1 else pose[0][:, 3:7])
            check_quaternions(f"{path}: {name}/object", OBJECT_QUAT, parts["object_quat"][-1])
    observations = {key: np.concatenate(value) for key, value in parts.items()} | shown
    all_actions = np.concatenate(actions)
    starts = np.cumsum([0] + [len(rows) for rows in actions])
    digest = hashlib.sha256(starts.tobytes())
    for array in (all_actions, *(observations[key] for key in sorted(observations))):
        feed(digest, array)
    if recorded != RecordedWith(recorded.environment):
        digest.update(repr(recorded).encode())
    if held is not None:
        digest.update(repr(sorted(held)).encode())
    kept = None if held is None else np.flatnonzero([name in held for name in names])
    person = None
    if any(one is not None for one in persons):
        marked = [np.ones(len(r), np.bool_) if p is None else p for p, r in zip(persons, actions, strict=True)]
        person = np.concatenate(marked)
        digest.update(person.tobytes())
    for name, units in executed.items():
        digest.update(f"{EXECUTED} {names.index(name)}".encode() + units.tobytes())
    task = tasks.get(recorded.environment, recorded.environment)
    return Demonstrations(
        task,
        observations,
        all_actions,
        starts,
        digest.hexdigest(),
        recorded,
        kept,
        person,
        executed=np.concatenate(list(executed.values())) if len(executed) == len(names) else None,
        executed_missing=_why_missing(path, names, executed, rewritten),
    )


def _why_missing(path: Path, names: Sequence[str], executed: Container[str], rewritten: bool) -> str:
    """A line for the first demonstration that does not say what acted; '' where all do."""
    without = [name for name in names if name not in executed]
    if rewritten:
        return f"{path}: actions are poses that env_args calls deltas: nobody knows what {EXECUTED} are"
    if not without:
        return ""
    return f"{path}: {'' if len(without) == len(names) else f'{without[0]} '}has {_MISSING}"


def _in_units(
    path: Path, demo: str, what: str, rows: NDArray[np.float64], recorded: RecordedWith
) -> NDArray[np.float32]:
    """Deltas, which a file has in parts of the full ones, in metres and radians; other kinds are."""
    if recorded.actions.kind == "delta":
        if np.abs(rows).max() > 1 + 1e-6:
            raise ValueError(f"{path}: {demo}/{what}: an action of {np.abs(rows).max():.3g}, expected -1 to 1")
        rows = rows * np.array(recorded.scale)
    elif np.abs(rows[:, -1]).max() > 1 + 1e-6:
        raise ValueError(f"{path}: {demo}/{what}: a gripper of {np.abs(rows[:, -1]).max():.3g}, expected -1 to 1")
    return rows.astype(np.float32)


def _common_size(path: Path, shapes: set[tuple[int, ...]]) -> tuple[int, int]:
    """Height and width that all pictures are brought to where nobody has said: see `Selection`."""
    if len(shapes) == 1 and max(shape := next(iter(shapes))) <= LARGEST:
        return shape[0], shape[1]
    if shapes and min(min(shape) for shape in shapes) < IMAGE_SIZE:
        sizes = ", ".join(f"{width}x{height}" for height, width in sorted(shapes))
        raise ValueError(f"{path}: pictures of {sizes} pixels: no size goes for all; --picture-size names one")
    return IMAGE_SIZE, IMAGE_SIZE


def _arrays(
    file: h5py.File,
    path: Path,
    name: str,
    actions: int,
    selection: Selection,
    pictures: Sequence[str],
    layout: FileLayout,
) -> dict[str, h5py.Dataset]:
    """One demonstration's arrays, whose shapes fit; nothing is read yet."""
    demo, where = file["data"].get(name), f"{path}: {name}"
    if not isinstance(demo, h5py.Group) or not isinstance(demo.get("obs"), h5py.Group):
        raise ValueError(f"{where} has no obs")
    arrays = {"actions": dataset(demo, "actions", where)}
    # robomimic's array, which begins with the object's pose; a recording has its two parts.
    whole = "object" in demo["obs"] or OBJECT_POS not in demo["obs"]
    objects = () if not selection.use_object else OBJECT[:1] if whole else OBJECT[1:]
    for key in (*selection.numbers, *objects, *pictures):
        arrays[key] = dataset(demo["obs"], layout.name(key), f"{where}/obs")
    steps = len(arrays["actions"]) - layout.late if arrays["actions"].shape else 0
    if steps < 1:
        raise ValueError(f"{where}: has no steps")
    wanted = {
        "actions": actions,
        **{key: layout.width(key, LOW_DIM_SHAPES.get(key, (0,))[0]) for key in selection.numbers},
    }
    if EXECUTED in demo:
        arrays[EXECUTED], wanted[EXECUTED] = dataset(demo, EXECUTED, where), actions
    for key, width in wanted.items():
        shape = arrays[key].shape
        if (len(shape) != 2 or shape[1] != width) if width else len(shape) not in (1, 2):
            raise ValueError(f"{where}/{key} has shape {shape}, expected (N, {width or 'n'})")
    for key in objects:
        shape, width = arrays[key].shape, {OBJECT_POS: 3, OBJECT_QUAT: 4}.get(key, 0)
        if len(shape) != 2 or (shape[1] != width if width else shape[1] < 7):
            raise ValueError(f"{where}/{key} has shape {shape}, expected (N, {width or '7 or more'})")
    if "by_person" in demo:
        arrays["by_person"] = dataset(demo, "by_person", where)
        if arrays["by_person"].size != len(arrays["by_person"]):
            raise ValueError(f"{where}/by_person has shape {arrays['by_person'].shape}, expected (N)")
    for key in pictures:
        shape, kind = arrays[key].shape, arrays[key].dtype
        if len(shape) != 4 or kind != np.uint8 or shape[3] != 3:
            raise ValueError(f"{where}/obs/{key} is {kind} {shape}, expected uint8 (N, H, W, 3)")
    lengths = {key: len(array) for key, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"{where}: lengths differ: {lengths}")
    return arrays


def _fitted(path: Path, demo: str, key: str, images: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Images (N, H, W, 3) in that height and width, as a robot's are brought to it."""
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
