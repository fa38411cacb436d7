"""robomimic's HDF5 files as episodes, and episodes as such a file. One episode at a time is in memory, and of its
pictures a block.

What others put beside what a policy needs goes along in an episode's extras, and is written again:

name         what
env_args     the file's own text (str), the same for all episodes
names        LeRobot's, of the numbers of an observation or of `action`; here the attribute lerobot_names of `data`
attributes   of the demonstration: name -> str, number or list of them
masks        the lists below `mask` that name it
any other    an array (N) or (N, n) beside obs: states, rewards, dones, and `actions` and `executed_actions` as the file
             has them
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from diffusion_ros.action_kinds import ActionFormat
from diffusion_ros.atomic_file import atomic_write
from diffusion_ros.robot import EEF_POS, EEF_QUAT
from diffusion_ros.spec import IMAGE_SUFFIX
from training.data import recorded_with
from training.data.demonstrations import EXECUTED, demonstration_names
from training.data.episodes import Episode, Layout, check_quaternions
from training.data.file_layouts import FileLayout, are_poses, layout_of
from training.data.hdf5_file import check_memory, dataset, opened, strings

SUFFIXES = (".hdf5", ".h5")
_BLOCK = 16
"""Pictures that are in memory at once."""
_OF_ACTIONS = ("actions", "states", "rewards", "dones")
"""Arrays that stand beside the action in any layout."""
_PERSON = "by_person"
_OWN = ("num_samples", "success")
"""Attributes of a demonstration that are made anew."""


@dataclass(frozen=True)
class _Inventory:
    """What one demonstration has."""

    steps: int
    """In which something was done that an observation comes before."""
    numbers: dict[str, int]
    """Observation -> how many numbers."""
    pictures: dict[str, tuple[str, tuple[int, int]]]
    """Our name -> the file's, height and width."""
    arrays: dict[str, tuple[int, ...]]
    """What stands beside obs, but who acted and what -> its shape but for the first axis."""
    executed: bool = False
    """Whether it says what acted."""
    left_out: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class FileEpisodes:
    """The episodes of a file; read anew at each iteration."""

    path: Path
    names: tuple[str, ...]
    actions: ActionFormat
    scale: NDArray[np.float64]
    rate: float
    layout: FileLayout
    """How the file lays observations beside actions."""
    inventory: _Inventory
    """Of the first demonstration; of arrays only those that all have."""
    masks: dict[str, tuple[str, ...]]
    """Demonstration -> the lists that name it."""
    rewritten: bool
    """Whether actions alone are poses, and what was executed is deltas still."""
    left_out: tuple[str, ...]
    """What the file has and episodes do not."""

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Episode]:
        with opened(self.path) as file:
            told = {"env_args": _text(file["data"].attrs["env_args"])}
            names = file["data"].attrs.get("lerobot_names")
            told |= {} if names is None else {"names": json.loads(names)}
            for name in self.names:
                yield self._episode(file["data"][name], name, told)

    def _episode(self, demo: h5py.Group, name: str, told: dict[str, Any]) -> Episode:
        where = f"{self.path}: {name}"
        found, layout = _inventory(demo, where, self.layout), self.layout
        a_step = sum(found.numbers.values()) + sum(math.prod(shape) for shape in found.arrays.values())
        a_step += math.prod(found.arrays["actions"]) * found.executed
        check_memory(self.path, 8 * a_step * found.steps)
        obs = demo["obs"]
        numbers = {}
        for key in self.inventory.numbers:
            values = _finite(f"{where}/obs/{key}", np.asarray(obs[layout.name(key)], np.float64))
            numbers[key] = np.asarray(layout.numbers(key, values), np.float64)
            check_quaternions(f"{where}/obs/{key}", key, numbers[key])
        pictures = {
            key: _Pictures(self.path, f"data/{name}/obs/{there}", layout) for key, (there, _) in found.pictures.items()
        }
        extras: dict[str, Any] = {key: layout.actions(np.asarray(demo[key])) for key in self.inventory.arrays}
        # Each demonstration's own, like who acted: a file may have some with it and some without.
        if found.executed and not self.rewritten:
            extras[EXECUTED] = layout.actions(np.asarray(demo[EXECUTED]))
        for key, values in extras.items():
            _finite(f"{where}/{key}", values)
        scale = self.scale if self.actions.kind == "delta" else 1.0
        # Each demonstration's own, as a trainer reads it: a policy's steps stay so beside demonstrations without it.
        person = layout.actions(demo[_PERSON][:].reshape(-1)) if _PERSON in demo else None
        if person is not None:
            _finite(f"{where}/{_PERSON}", person)
        success = demo.attrs.get("success")
        attributes, _ = _attributes(demo)
        return Episode(
            numbers=numbers,
            pictures=pictures,
            actions=np.asarray(extras["actions"], np.float64) * scale,
            stamps=(np.arange(found.steps) * (1e9 / self.rate)).round().astype(np.int64),
            success=None if success is None else bool(success),
            person=None if person is None else person != 0,
            executed=np.asarray(extras[EXECUTED], np.float64) * scale if EXECUTED in extras else None,
            extras=extras | told | {"attributes": attributes, "masks": self.masks.get(name, ())},
        )


@dataclass(frozen=True)
class _Pictures:
    """One camera's pictures of one demonstration, as often as they are asked for."""

    path: Path
    place: str
    layout: FileLayout

    def __call__(self) -> Iterator[NDArray[np.uint8]]:
        try:
            with h5py.File(self.path, "r") as file:
                array = file[self.place]
                # A chunk is unpacked as a whole for each part of it.
                block = max(_BLOCK, array.chunks[0] if array.chunks else 0)
                check_memory(self.path, block * math.prod(array.shape[1:]))
                for first in range(0, len(array) - self.layout.late, block):
                    images = array[first : min(first + block, len(array) - self.layout.late)]
                    yield from images[:, ::-1] if self.layout.upside_down else images
        except (OSError, RuntimeError, KeyError) as error:
            raise ValueError(f"{self.path}: {self.place}: damaged ({str(error).splitlines()[0]})") from None


def read(path: Path) -> tuple[Layout, FileEpisodes]:
    """What holds for all demonstrations of a file, and these. ValueError, in one line, for what is missing, damaged or
    not alike in all of them."""
    with opened(path) as file:
        data = file.get("data")
        if not isinstance(data, h5py.Group) or "env_args" not in data.attrs:
            raise ValueError(f"{path}: not robomimic's format: no group 'data' with the attribute env_args")
        try:
            recorded = recorded_with.read(data.attrs["env_args"])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        names = demonstration_names(data)
        if not names:
            raise ValueError(f"{path}: has no demonstrations")
        laid = layout_of(file)
        inventories = [_inventory(data[name], f"{path}: {name}", laid) for name in names]
        masks = _masks(file, path, names)
        actions, rewritten = recorded.actions, False
        if actions.kind == "delta" and EEF_POS in inventories[0].numbers:
            a_step = math.prod(inventories[0].arrays["actions"]) + inventories[0].numbers[EEF_POS]
            check_memory(path, 8 * a_step * inventories[0].steps)
            rows, hand = data[names[0]]["actions"][:].astype(float), data[names[0]]["obs"][laid.name(EEF_POS)][:]
            if are_poses(laid.actions(rows), laid.numbers(EEF_POS, hand)):
                actions, rewritten = ActionFormat("pose"), True
    first = inventories[0]
    for name, other in zip(names, inventories, strict=True):
        for mine, its in ((first.numbers, other.numbers), (first.pictures, other.pictures)):
            if different := sorted(set(mine.items()) ^ set(its.items())):
                key = different[0][0]
                raise ValueError(f"{path}: obs/{key} is not the same in {names[0]} and {name}, alike in all expected")
    arrays = {k: v for k, v in first.arrays.items() if all(other.arrays.get(k) == v for other in inventories)}
    left_out = set().union(*(other.left_out | (set(other.arrays) - set(arrays)) for other in inventories))
    if rewritten and any(other.executed for other in inventories):
        left_out.add(EXECUTED)
    if arrays.get("actions") != (actions.width,):
        widths = {other.arrays["actions"][0] for other in inventories} - {actions.width}
        raise ValueError(f"{path}: actions of {widths.pop()} numbers, {actions.width} of {actions.kind} expected")
    layout = Layout(
        environment=recorded.environment,
        robot=recorded.robot,
        rate=recorded.rate,
        actions=actions,
        scale=recorded.scale,
        numbers=dict(first.numbers),
        pictures={key: size for key, (_, size) in first.pictures.items()},
        base_pose=recorded.base_pose,
        response=recorded.response,
        executed=not rewritten and all(other.executed for other in inventories),
    )
    inventory = _Inventory(first.steps, first.numbers, first.pictures, arrays)
    scale = np.array(recorded.scale)
    return layout, FileEpisodes(
        path, tuple(names), actions, scale, recorded.rate, laid, inventory, masks, rewritten, tuple(sorted(left_out))
    )


def write(path: Path, layout: Layout, episodes: Iterable[Episode]) -> None:
    """Episodes as a file that appears when it is whole. ValueError, in one line, for those that do not fit the layout,
    and where there are none."""
    masks: dict[str, list[str]] = {}
    names: dict[str, Any] = {}
    total = count = 0
    text = ""
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        data = file.create_group("data")
        for count, episode in enumerate(episodes, start=1):
            name = f"demo_{count - 1}"
            _write_episode(data.create_group(name), layout, episode, f"episode {count - 1}")
            for key in episode.extras.get("masks", ()):
                masks.setdefault(key, []).append(name)
            if count == 1:
                text = _kept(episode.extras.get("env_args"), layout)
                names = {k: v for k, v in episode.extras.get("names", {}).items() if k in (*layout.numbers, "action")}
            total += len(episode)
        if not count:
            raise ValueError(f"{path}: no episodes to write")
        data.attrs["total"] = total
        data.attrs["env_args"] = text or env_args(layout)
        if names:
            data.attrs["lerobot_names"] = json.dumps(names)
        for key, members in masks.items():
            file[f"mask/{key}"] = np.array([member.encode() for member in members])


def env_args(layout: Layout) -> str:
    """What robomimic's env_args say of a robot; :func:`recorded_with.read` reads it."""
    high = list(layout.scale[:6])
    controller: dict[str, Any] = {"type": "OSC_POSE", "input_max": 1, "input_min": -1, "control_delta": True}
    controller |= {"output_max": high, "output_min": [-value for value in high]}
    controller |= {"input_type": "delta", "input_ref_frame": "base"}
    if layout.actions.kind == "pose":
        controller |= {"control_delta": False, "input_type": "absolute"}
    elif layout.actions.kind == "joint_positions":
        controller |= {"type": "JOINT_POSITION", "control_delta": False, "input_type": "absolute"}
        controller |= {"joints": list(layout.actions.joints)}
    elif layout.actions.kind != "delta":
        raise ValueError(f"actions of kind {layout.actions.kind}: a file has delta, pose or joint_positions")
    elif layout.actions.axes == "tool":
        controller |= {"input_ref_frame": "tool"}
    sizes = set(layout.pictures.values())
    settings: dict[str, Any] = {
        "robots": [layout.robot],
        "control_freq": layout.rate,
        "controller_configs": controller,
        "camera_names": [name.removesuffix(IMAGE_SUFFIX) for name in layout.pictures],
    }
    if layout.base_pose or layout.response:
        settings[recorded_with.KEY] = {"base_pose": list(layout.base_pose), "response": list(layout.response)}
    if len(sizes) == 1:
        height, width = sizes.pop()
        settings |= {"camera_heights": height, "camera_widths": width}
    return json.dumps({"env_name": layout.environment, "type": 1, "env_kwargs": settings})


# -- reading ----------------------------------------------------------------------------------------------------------


def _inventory(demo: Any, where: str, layout: FileLayout) -> _Inventory:
    """ValueError for a demonstration without steps, and for arrays of several lengths."""
    obs = demo.get("obs") if isinstance(demo, h5py.Group) else None
    if not isinstance(obs, h5py.Group):
        raise ValueError(f"{where} has no obs")
    rows = demo.get("actions")
    if not isinstance(rows, h5py.Dataset) or rows.ndim != 2 or not rows.shape[1] or rows.dtype.kind not in "buif":
        raise ValueError(f"{where} has no actions (N, n)")
    steps = len(rows)
    if not steps:
        raise ValueError(f"{where}: has no steps")
    numbers: dict[str, int] = {}
    pictures: dict[str, tuple[str, tuple[int, int]]] = {}
    arrays: dict[str, tuple[int, ...]] = {}
    left_out: set[str] = set()
    ours = {there: name for name, there in layout.names.items()}
    for key, item in obs.items():
        kind = item.dtype.kind if isinstance(item, h5py.Dataset) else ""
        if kind and item.ndim and len(item) != steps:
            raise ValueError(f"{where}/obs/{key} has {len(item)} steps, {steps} expected as in actions")
        if kind == "u" and item.ndim == 4 and item.dtype == np.uint8 and item.shape[3] == 3:
            name = ours.get(key, key if key.endswith(IMAGE_SUFFIX) else key.removesuffix("_rgb") + IMAGE_SUFFIX)
            if name in pictures:
                raise ValueError(f"{where}/obs has {pictures[name][0]} and {key}, one of them expected")
            pictures[name] = key, (item.shape[1], item.shape[2])
        elif kind and kind in "buif" and item.ndim in (1, 2) and math.prod(item.shape):
            name, width = ours.get(key, key), item.shape[1] if item.ndim == 2 else 1
            numbers[name] = 4 if layout.rotation_vectors and name == EEF_QUAT else width
        else:
            left_out.add(f"obs/{key}")
    for key, item in demo.items():
        if key == "obs":
            continue
        if key == _PERSON:
            if dataset(demo, key, where).size != steps or item.shape[:1] != (steps,):
                raise ValueError(f"{where}/{key} has shape {item.shape}, ({steps},) expected as in actions")
            continue
        if key == EXECUTED:
            if dataset(demo, key, where).shape != rows.shape:
                raise ValueError(f"{where}/{key} has shape {item.shape}, {rows.shape} expected as in actions")
            continue
        fits = isinstance(item, h5py.Dataset) and item.shape[:1] == (steps,) and item.ndim <= 2 and item.size
        # Where observations come late, nobody knows of other arrays which way they go.
        if fits and item.dtype.kind in "buif" and (not layout.late or key in _OF_ACTIONS):
            arrays[key] = item.shape[1:]
        else:
            left_out.add(key)
    left_out.update(_attributes(demo)[1])
    if not steps - layout.late:
        raise ValueError(f"{where}: has one step, and no observation before it")
    return _Inventory(steps - layout.late, numbers, pictures, arrays, EXECUTED in demo, left_out)


def _masks(file: h5py.File, path: Path, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Demonstration -> the lists that name it."""
    found: dict[str, tuple[str, ...]] = dict.fromkeys(names, ())
    group = file.get("mask")
    for key in sorted(group) if isinstance(group, h5py.Group) else []:
        for name in strings(path, group[key], f"mask/{key}"):
            if name not in found:
                raise ValueError(f"{path}: mask/{key} names {name}, which is not there")
            found[name] += (key,)
    return found


def _finite(where: str, values: NDArray[Any]) -> NDArray[Any]:
    if not np.isfinite(values).all():
        raise ValueError(f"{where} has values that are NaN or infinite")
    return values


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _attributes(demo: h5py.Group) -> tuple[dict[str, Any], list[str]]:
    """A demonstration's attributes as JSON has them, and the names of those that it has not."""
    plain: dict[str, Any] = {}
    left_out = []
    for key in demo.attrs:
        if key in _OWN:
            continue
        try:
            plain[key] = _plain(demo.attrs[key])
        except (OSError, TypeError, ValueError):  # the first and the last are h5py's, of types that NumPy has not
            left_out.append(f"attribute {key}")
    return plain, left_out


def _plain(value: Any) -> Any:
    """An attribute, or a part of one, as JSON has it. TypeError for what it has not: NaN, an empty or compound one."""
    if isinstance(value, (np.generic, np.ndarray)) and value.dtype.kind != "V":
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise TypeError(f"{type(value).__name__} is no JSON")


# -- writing ----------------------------------------------------------------------------------------------------------


def _kept(text: Any, layout: Layout) -> str:
    """A file's own env_args where they say what the layout says, else ''."""
    if not isinstance(text, str):
        return ""
    try:
        recorded = recorded_with.read(text)
    except ValueError:
        return ""
    told = (recorded.environment, recorded.robot, recorded.rate, recorded.scale, recorded.actions)
    return text if told == (layout.environment, layout.robot, layout.rate, layout.scale, layout.actions) else ""


def _write_episode(group: h5py.Group, layout: Layout, episode: Episode, where: str) -> None:
    steps = len(episode)
    for key, width in layout.numbers.items():
        values = episode.numbers.get(key)
        if values is None or values.shape != (steps, width):
            shape = None if values is None else values.shape
            raise ValueError(f"{where}: {key} has shape {shape}, ({steps}, {width}) expected")
        group[f"obs/{key}"] = values
    for key, (height, width) in layout.pictures.items():
        array = group.create_dataset(f"obs/{key}", (steps, height, width, 3), np.uint8)
        for first, block in _blocks(episode.pictures[key](), f"{where}: {key}", (height, width, 3), steps):
            array[first : first + len(block)] = block
    group["actions"] = _rows(layout, episode.actions, episode.extras.get("actions"), where, "action")
    if episode.executed is not None:
        own = episode.extras.get(EXECUTED)
        group[EXECUTED] = _rows(layout, episode.executed, own, where, "executed action")
        if len(episode.executed) != steps:
            raise ValueError(f"{where}: {EXECUTED} of {len(episode.executed)} steps, {steps} expected")
    for key, values in episode.extras.items():
        if isinstance(values, np.ndarray) and key not in ("actions", EXECUTED):
            group[key] = values
    if episode.person is not None:
        group[_PERSON] = episode.person.astype(np.uint8)
    for key, value in episode.extras.get("attributes", {}).items():
        group.attrs[key] = value
    group.attrs["num_samples"] = steps
    if episode.success is not None:
        group.attrs["success"] = episode.success


def _rows(layout: Layout, rows: NDArray[np.float64], own: Any, where: str, what: str) -> NDArray[np.float64]:
    """Actions (N, width) as a file has them: deltas as parts of the scale, the rest as they are. own: those of the file
    that they come from, or None."""
    if rows.shape[1:] != (layout.actions.width,):
        raise ValueError(f"{where}: {what}s of shape {rows.shape}, (N, {layout.actions.width}) expected")
    if layout.actions.kind != "delta":
        return rows
    scale = np.array(layout.scale)
    if own is not None and np.array_equal(np.asarray(own, np.float64) * scale, rows):
        return np.asarray(own)  # to the last bit, which a division would lose
    rows = rows / scale
    if np.abs(rows).max() > 1 + 1e-6:
        raise ValueError(f"{where}: an {what} of {np.abs(rows).max():.3g} times the full one, at most 1 expected")
    return np.asarray(np.clip(rows, -1, 1))


def _blocks(
    pictures: Iterable[NDArray[np.uint8]], where: str, shape: tuple[int, int, int], steps: int
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Where each block begins, and its pictures (n, H, W, 3). ValueError for other shapes, and more or fewer."""
    waiting: list[NDArray[np.uint8]] = []
    given = 0
    for picture in pictures:
        if picture.shape != shape or picture.dtype != np.uint8:
            raise ValueError(f"{where}: a picture {picture.dtype} {picture.shape}, uint8 {shape} expected")
        waiting.append(picture)
        given += 1
        if len(waiting) == _BLOCK:
            yield given - len(waiting), np.stack(waiting)
            waiting.clear()
    if given != steps:
        raise ValueError(f"{where}: {given} pictures, {steps} expected")
    if waiting:
        yield given - len(waiting), np.stack(waiting)
