"""LeRobot's data sets, version 3.0, as episodes; lerobot_writer.py makes them. One episode at a time is in memory, and
of its pictures one.

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
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from diffusion_ros.action_kinds import ActionFormat
from diffusion_ros.atomic_file import read_lines
from diffusion_ros.control.pictures import decode
from diffusion_ros.robot import ACTION_SCALE
from diffusion_ros.spec import IMAGE_SUFFIX
from training.data.episodes import Episode, Layout, check_quaternions
from training.data.hdf5_file import check_memory
from training.data.videos import read_pictures

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


@dataclass(frozen=True)
class Foreign:
    """What is said of a data set that somebody else wrote."""

    action_kind: str = ""
    """delta, pose or joint_positions."""
    action_scale: tuple[float, float] | None = None
    """Of deltas from -1 to 1: how many metres and radians a full one is. None: they are metres and radians."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Our name -> a feature, or `feature[first:end]` for some of its numbers."""


@dataclass(frozen=True)
class Recording:
    """The episodes of a folder; read anew at each iteration."""

    folder: Path
    layout: Layout
    parts: Mapping[str, tuple[str, int, int]]
    """Observation -> the feature, and which of its numbers."""
    cameras: Mapping[str, str]
    """Our name of pictures -> the feature."""
    extras: Mapping[str, tuple[str, int]]
    left_out: tuple[str, ...]
    """What the data set has and episodes do not."""
    scale: tuple[float, ...]
    """(width) by which actions are multiplied."""
    info: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    """Of the episodes' table, without statistics."""
    tasks: Mapping[int, str]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Episode]:
        try:
            lines = read_lines(self.folder / ATTRIBUTES)
            attributes = {(line["episode_index"], line["action"]): line for line in lines}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.folder / ATTRIBUTES}: damaged ({error})") from None
        cache: dict[tuple[Path, tuple[int, ...]], Any] = {}
        for row in self.rows:
            yield self._episode(row, attributes, cache)

    def _episode(
        self,
        row: Mapping[str, Any],
        attributes: Mapping[tuple[int, str], Any],
        cache: dict[tuple[Path, tuple[int, ...]], Any],
    ) -> Episode:
        features, steps, index = self.info["features"], row["length"], row["episode_index"]
        path = _file(self.folder, self.info, "data_path", row, "data/")
        wanted = [*{home for home, _, _ in self.parts.values()}, ACTION, *(key for key, _ in self.extras.values())]
        wanted += [f"{OWN}.{key}" for key in (STATE, ENVIRONMENT, ACTION)]
        wanted += [STAMP, SUCCESS, NEXT_SUCCESS, PERSON, *INDICES]
        wanted += [EXECUTED_ACTION] * self.layout.executed
        columns = [key for key in dict.fromkeys(wanted) if key in features]
        table = _episode_table(path, index, columns, cache)
        where = f"{path}: episode {index}"
        if len(table) != steps:
            raise ValueError(f"{where}: {len(table)} rows, {steps} expected by {EPISODES_PATH.partition('/chunk')[0]}")
        found = {key: _values(table[key], features[key], f"{where}: {key}") for key in columns}
        if not np.array_equal(found["frame_index"], np.arange(steps)):
            raise ValueError(f"{where}: frame_index is not 0 to {steps - 1}")
        late = np.abs(found["timestamp"] - np.arange(steps) / self.layout.rate).max()
        if late >= 0.5 / self.layout.rate:
            raise ValueError(f"{where}: a timestamp is {late:.3g} s from frame_index / fps")

        def exact(key: str) -> NDArray[np.float64]:
            """In 64 bits where they are there, and LeRobot's 32 bits were not changed since."""
            values: NDArray[Any] = found[key].reshape(steps, -1)
            ours = found.get(f"{OWN}.{key}")
            if ours is None or not np.array_equal(ours.reshape(steps, -1).astype(np.float32), values):
                return values.astype(np.float64)
            return ours.reshape(steps, -1).astype(np.float64)

        states = {home: exact(home) for home, _, _ in self.parts.values()}
        rows = exact(ACTION)
        extras: dict[str, Any] = {
            name: found[key].reshape(steps, -1) if axes == 2 else found[key]
            for name, (key, axes) in self.extras.items()
        }
        own = self.info.get(OWN) or {}
        line = attributes.get((index, digest_of(found[ACTION])), {})
        extras |= {"task": self.tasks[int(found["task_index"][0])]}
        extras |= {key: own[key] for key in ("env_args", "names") if own.get(key)}
        extras |= {key: line[key] for key in ("attributes", "masks") if line.get(key)}
        if not own:
            extras["names"] = _foreign_names(features, self.parts)
        success: bool | None = None
        if SUCCESS in found:
            success = None if found[SUCCESS][0] < 0 else bool(found[SUCCESS][0])
        elif NEXT_SUCCESS in found:
            success = bool(found[NEXT_SUCCESS].any())
        person, executed = found.get(PERSON), found.get(EXECUTED_ACTION)
        stamps = found.get(STAMP, (np.arange(steps) * (1e9 / self.layout.rate)).round())
        numbers = {name: states[home][:, first:end] for name, (home, first, end) in self.parts.items()}
        for name, values in numbers.items():
            check_quaternions(f"{where}: {name}", name, values)
        return Episode(
            numbers=numbers,
            pictures={name: _Pictures(self, row, key) for name, key in self.cameras.items()},
            actions=rows * np.array(self.scale) if self.scale else rows,
            stamps=stamps.astype(np.int64),
            success=success,
            person=None if person is None or (person < 0).any() else person != 0,
            executed=None if executed is None else executed.reshape(steps, -1).astype(np.float64),
            extras=extras,
        )


@dataclass(frozen=True)
class _Pictures:
    """One camera's pictures of one episode, as often as they are asked for."""

    recording: Recording
    row: Mapping[str, Any]
    key: str

    def __call__(self) -> Iterator[NDArray[np.uint8]]:
        recording, steps = self.recording, self.row["length"]
        feature = recording.info["features"][self.key]
        shape = _picture_size(feature)
        if feature["dtype"] == "video":
            at = f"videos/{self.key}/"
            path = _file(recording.folder, recording.info, "video_path", self.row, at, self.key)
            first = round(self.row[f"{at}from_timestamp"] * recording.layout.rate)
            yield from read_pictures(path, first, steps, recording.layout.rate, shape)
            return
        path = _file(recording.folder, recording.info, "data_path", self.row, "data/")
        index = self.row["episode_index"]
        for cell in _episode_table(path, index, [self.key, "episode_index"], {})[self.key]:
            content = (cell.as_py() or {}).get("bytes")
            if not content:
                raise ValueError(f"{path}: episode {index}: {self.key}: a picture is not in the file itself")
            picture = decode(content)
            if picture.shape[:2] != shape:
                raise ValueError(f"{path}: {self.key}: a picture of {picture.shape[:2]}, {shape} expected")
            yield picture


def read(folder: Path, foreign: Foreign = Foreign()) -> tuple[Layout, Recording]:
    """What holds for all episodes of a data set, and these. ValueError, in one line, for what is missing, damaged, or
    not said."""
    info = _info(folder)
    features = info["features"]
    tasks = _read_tasks(folder)
    rows = _read_rows(folder, info)
    own = info.get(OWN)
    fps = float(info["fps"])
    if own is not None:
        if foreign != Foreign():
            raise ValueError(f"{folder}: says itself what it has: no action_kind, action_scale or map expected")
        try:
            if own["version"] != 1:
                raise ValueError(f"version {own['version']}, 1 expected")
            parts, places = {}, {STATE: 0, ENVIRONMENT: 0}
            for name, home, width in own["numbers"]:
                parts[name] = home, places[home], places[home] + width
                places[home] += width
            layout = Layout(
                environment=own["environment"],
                robot=own["robot"],
                rate=fps,
                actions=ActionFormat.from_json(own["actions"]),
                scale=tuple(own["scale"]),
                numbers={name: width for name, _, width in own["numbers"]},
                pictures={name: _picture_size(features[key]) for name, key in own["pictures"].items()},
                base_pose=tuple(own["base_pose"]),
                response=tuple(own["response"]),
                executed=EXECUTED_ACTION in features,
            )
            if layout.executed and features[EXECUTED_ACTION]["shape"] != features[ACTION]["shape"]:
                shapes = features[EXECUTED_ACTION]["shape"], features[ACTION]["shape"]
                raise ValueError(f"{EXECUTED_ACTION} has shape {shapes[0]}, {shapes[1]} expected as action")
            extras = {name: (key, axes) for name, (key, axes) in own["extras"].items()}
            used = [
                *(place[0] for place in parts.values()),
                *own["pictures"].values(),
                *(k for k, _ in extras.values()),
            ]
            for key in used:
                features[key]  # a KeyError
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder / INFO}: {OWN}: {error}") from None
        return layout, Recording(folder, layout, parts, own["pictures"], extras, (), (), info, rows, tasks)
    parts, cameras, extras, left_out = _foreign_features(features, foreign.names, folder)
    width = _width(features[ACTION])
    actions = _foreign_actions(folder, foreign.action_kind, features[ACTION])
    if actions.width != width:
        rule = f"{actions.width} of {foreign.action_kind} expected"
        raise ValueError(f"{folder}: actions of {width} numbers, {rule}")
    scale: tuple[float, ...] = ()
    if foreign.action_scale is not None:
        if actions.kind != "delta":
            raise ValueError(f"action_scale {foreign.action_scale}: of deltas only")
        far, turn = foreign.action_scale
        scale = (far, far, far, turn, turn, turn, 1.0)
    layout = Layout(
        environment=" / ".join(tasks.values()),
        robot=str(info.get("robot_type") or "unknown"),
        rate=fps,
        actions=actions,
        scale=scale or tuple(ACTION_SCALE.tolist()),
        numbers={name: end - first for name, (_, first, end) in parts.items()},
        pictures={name: _picture_size(features[key]) for name, key in cameras.items()},
    )
    found = Recording(folder, layout, parts, cameras, extras, left_out, scale, info, rows, tasks)
    if actions.kind == "delta" and not scale:
        layout = replace(layout, scale=_greatest(replace(found, cameras={})))
        found = replace(found, layout=layout)
    return layout, found


def _info(folder: Path) -> dict[str, Any]:
    path = folder / INFO
    try:
        info = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: damaged or not JSON ({error})") from None
    if not isinstance(info, dict) or not isinstance(info.get("codebase_version"), str):
        raise ValueError(f"{path}: no codebase_version")
    version = info["codebase_version"].lstrip("v")
    if version.startswith("2."):
        how = "LeRobot's own convert_dataset_v21_to_v30 makes one of it"
        raise ValueError(f"{folder}: LeRobot's format {version}, 3.0 expected: {how}")
    if version.partition(".")[0] != "3":
        raise ValueError(f"{folder}: LeRobot's format {version}, 3.0 expected")
    fps, features = info.get("fps"), info.get("features")
    if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 1 <= fps <= 1000:
        raise ValueError(f"{path}: fps {fps!r}, 1 to 1000 expected")
    if not isinstance(features, dict):
        raise ValueError(f"{path}: no features")
    for key, feature in features.items():
        shape = feature.get("shape") if isinstance(feature, dict) else None
        if not isinstance(shape, list) or not all(isinstance(n, int) and n > 0 for n in shape):
            raise ValueError(f"{path}: feature {key}: no shape")
        if not isinstance(feature.get("dtype"), str):
            raise ValueError(f"{path}: feature {key}: no dtype")
    for key in (ACTION, *INDICES):
        if key not in features:
            raise ValueError(f"{path}: no feature {key}")
    if len(features[ACTION]["shape"]) != 1:
        raise ValueError(f"{path}: action has shape {features[ACTION]['shape']}, one axis expected")
    return info


def _read_tasks(folder: Path) -> dict[int, str]:
    path = folder / "meta/tasks.parquet"
    table = _table(path)
    texts = [field.name for field in table.schema if pa.types.is_string(field.type) or _is_large(field.type)]
    if "task_index" not in table.column_names or len(texts) != 1:
        raise ValueError(f"{path}: columns {', '.join(table.column_names)}, task_index and the tasks expected")
    return dict(zip(table["task_index"].to_pylist(), table[texts[0]].to_pylist(), strict=True))


def _is_large(kind: Any) -> bool:
    return bool(pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _read_rows(folder: Path, info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of the episodes' table, in order."""
    paths = sorted((folder / "meta/episodes").glob("*/*.parquet"))
    if not paths:
        raise ValueError(f"{folder / 'meta/episodes'}: no tables of episodes")
    videos = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
    wanted: dict[str, type] = {"episode_index": int, "length": int, "data/chunk_index": int, "data/file_index": int}
    for key in videos:
        wanted |= {f"videos/{key}/chunk_index": int, f"videos/{key}/file_index": int}
        wanted |= {f"videos/{key}/from_timestamp": float}
    rows: list[dict[str, Any]] = []
    for path in paths:
        table = _table(path, lambda name: name in wanted)
        if missing := sorted(set(wanted) - set(table.column_names)):
            raise ValueError(f"{path}: no column {missing[0]}")
        for row in table.to_pylist():
            for key, kind in wanted.items():
                value: Any = row[key]
                number = isinstance(value, int) or (kind is float and isinstance(value, float))
                if not number or not value >= 0:
                    raise ValueError(f"{path}: {key} {value!r}, a number from 0 on expected")
            rows.append(row)
    rows.sort(key=lambda row: row["episode_index"])
    if [row["episode_index"] for row in rows] != list(range(len(rows))):
        raise ValueError(f"{folder / 'meta/episodes'}: episodes 0 to {len(rows) - 1}, each once, expected")
    total = info.get("total_episodes")
    if total is not None and total != len(rows):
        raise ValueError(f"{folder}: {len(rows)} episodes in meta/episodes, {total} in {INFO}")
    return rows


def _foreign_features(
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
        width = _width(features[key])
        first, end = (int(match[2]), int(match[3])) if match[2] else (0, width)
        if not first < end <= width:
            raise ValueError(f"map {name}={text}: of {width} numbers, first < end <= {width} expected")
        parts[name] = key, first, end
        numbers.update(range(first, end))
    for key, feature in features.items():
        if key in used:
            left_out += _rest(key, used[key], 0 if key in cameras.values() else _width(feature))
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
            parts[name] = key, 0, _width(feature)
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


_DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "float16", "float32", "float64")


def _foreign_actions(folder: Path, kind: str, feature: Mapping[str, Any]) -> ActionFormat:
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
    width = _width(feature)
    if isinstance(names, list) and len(names) == width and len(set(map(str, names))) == width:
        return [str(name) for name in names]
    return [f"{i}" for i in range(width)]


def _foreign_names(features: Mapping[str, Any], parts: Mapping[str, tuple[str, int, int]]) -> dict[str, list[str]]:
    found = {name: _flat_names(features[key])[first:end] for name, (key, first, end) in parts.items()}
    return found | {ACTION: _flat_names(features[ACTION])}


def _greatest(recording: Recording) -> tuple[float, ...]:
    """(7) The largest motion and the largest turn along any axis: what a full delta then means."""
    most = np.max([np.abs(episode.actions).max(axis=0) for episode in recording], axis=0)
    far, turn = (
        float(part.max()) or float(own) for part, own in ((most[:3], ACTION_SCALE[0]), (most[3:6], ACTION_SCALE[3]))
    )
    return far, far, far, turn, turn, turn, 1.0


def _width(feature: Mapping[str, Any]) -> int:
    return int(np.prod(feature["shape"]))


def _picture_size(feature: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width; LeRobot has the colours last, or first."""
    shape = feature["shape"]
    if len(shape) != 3 or 3 not in (shape[0], shape[2]):
        raise ValueError(f"pictures of shape {shape}, (height, width, 3) expected")
    return (shape[0], shape[1]) if shape[2] == 3 else (shape[1], shape[2])


def _file(
    folder: Path, info: Mapping[str, Any], pattern: str, row: Mapping[str, Any], at: str, video_key: str = ""
) -> Path:
    """A file of an episode. ValueError for one that would be outside of the folder."""
    numbers = {name: row[f"{at}{name}"] for name in ("chunk_index", "file_index")}
    try:
        name = str(info[pattern]).format(video_key=video_key, **numbers)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"{folder / INFO}: {pattern} {info.get(pattern)!r}: {error}") from None
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts:
        raise ValueError(f"{folder / INFO}: {pattern} leads to {name}, nothing outside of the folder expected")
    return folder / place


def _table(path: Path, wanted: Any = None) -> Any:
    """A whole table, or the wanted ones of its columns."""
    try:
        with pq.ParquetFile(path) as file:
            meta = file.metadata
            check_memory(path, sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups)))
            return file.read(None if wanted is None else [c for c in file.schema_arrow.names if wanted(c)])
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path}: damaged or cut short ({str(error).splitlines()[0]})") from None


def _episode_table(path: Path, index: int, columns: list[str], cache: dict[tuple[Path, tuple[int, ...]], Any]) -> Any:
    """The rows of one episode. cache: what was read last, since files by others have many episodes in one group."""
    try:
        with pq.ParquetFile(path) as file:
            meta, names = file.metadata, file.schema_arrow.names
            if missing := [column for column in columns if column not in names]:
                raise ValueError(f"{path}: no column {missing[0]}")
            groups = tuple(i for i in range(meta.num_row_groups) if _may_have(meta.row_group(i), index))
            if (path, groups) not in cache:
                check_memory(path, sum(meta.row_group(i).total_byte_size for i in groups))
                cache.clear()
                cache[path, groups] = file.read_row_groups(list(groups), columns=columns)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path}: damaged or cut short ({str(error).splitlines()[0]})") from None
    table = cache[path, groups]
    return table.filter(pc.equal(table["episode_index"], index))


def _may_have(group: Any, index: int) -> bool:
    """Whether a group of rows may have some of the episode."""
    for i in range(group.num_columns):
        column = group.column(i)
        found = column.statistics if column.path_in_schema == "episode_index" else None
        if found is not None and found.has_min_max:
            return bool(found.min <= index <= found.max)
    return True


def _values(column: Any, feature: Mapping[str, Any], where: str) -> NDArray[Any]:
    """(N), or (N, n) of a feature of n numbers. ValueError for gaps, other lengths and NaN."""
    width, steps = _width(feature), len(column)
    flat = column.combine_chunks()
    if column.null_count:
        raise ValueError(f"{where}: has gaps")
    if pa.types.is_list(flat.type) or pa.types.is_fixed_size_list(flat.type) or pa.types.is_large_list(flat.type):
        flat = flat.flatten()
        shape: tuple[int, ...] = (steps, width)
    else:
        shape = (steps,) if width == 1 else (steps, width)
    if flat.null_count or len(flat) != steps * width or not _is_number(flat.type):
        raise ValueError(f"{where}: {len(flat)} values {flat.type} in {steps} rows, {width} numbers a row expected")
    values = np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(shape)
    if not np.isfinite(values).all():
        raise ValueError(f"{where}: has values that are NaN or infinite")
    return values[:, 0] if shape == (steps, 1) else values


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def digest_of(rows: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows, np.float32).tobytes()).hexdigest()
