"""LeRobot's data sets, version 3.0, as episodes; lerobot_writer.py makes them, and lerobot_format.py says what stands
where. One episode at a time is in memory, and of its pictures one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from diffusion_ros.action_kinds import ActionFormat
from diffusion_ros.atomic_file import read_lines
from diffusion_ros.control.pictures import decode
from diffusion_ros.robot import ACTION_SCALE
from training.data.episodes import Episode, Layout, check_quaternions
from training.data.lerobot_foreign import UNSAID, Foreign, names_of_numbers, take
from training.data.lerobot_format import (
    ACTION,
    ATTRIBUTES,
    ENVIRONMENT,
    EPISODES_PATH,
    EXECUTED_ACTION,
    INDICES,
    INFO,
    NEXT_SUCCESS,
    OWN,
    PERSON,
    STAMP,
    STATE,
    SUCCESS,
    digest_of,
    picture_size,
    width_of,
)
from training.data.parquet_file import episode_rows, read_numbers, read_table
from training.data.videos import read_pictures


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
        table = episode_rows(path, index, columns, cache)
        where = f"{path}: episode {index}"
        if len(table) != steps:
            raise ValueError(f"{where}: {len(table)} rows, {steps} expected by {EPISODES_PATH.partition('/chunk')[0]}")
        found = {key: read_numbers(table[key], width_of(features[key]), f"{where}: {key}") for key in columns}
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
            extras["names"] = names_of_numbers(features, self.parts)
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
        shape = picture_size(feature)
        if feature["dtype"] == "video":
            at = f"videos/{self.key}/"
            path = _file(recording.folder, recording.info, "video_path", self.row, at, self.key)
            first = round(self.row[f"{at}from_timestamp"] * recording.layout.rate)
            yield from read_pictures(path, first, steps, recording.layout.rate, shape)
            return
        path = _file(recording.folder, recording.info, "data_path", self.row, "data/")
        index = self.row["episode_index"]
        for cell in episode_rows(path, index, [self.key, "episode_index"], {})[self.key]:
            content = (cell.as_py() or {}).get("bytes")
            if not content:
                raise ValueError(f"{path}: episode {index}: {self.key}: a picture is not in the file itself")
            picture = decode(content)
            if picture.shape[:2] != shape:
                raise ValueError(f"{path}: {self.key}: a picture of {picture.shape[:2]}, {shape} expected")
            yield picture


def read(folder: Path, foreign: Foreign = UNSAID) -> tuple[Layout, Recording]:
    """What holds for all episodes of a data set, and these. ValueError, in one line, for what is missing, damaged, or
    not said."""
    info = _info(folder)
    features = info["features"]
    tasks = _read_tasks(folder)
    rows = _read_rows(folder, info)
    own = info.get(OWN)
    fps = float(info["fps"])
    if own is not None:
        if foreign != UNSAID:
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
                pictures={name: picture_size(features[key]) for name, key in own["pictures"].items()},
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
    taken = take(folder, features, foreign)
    layout = Layout(
        environment=" / ".join(tasks.values()),
        robot=str(info.get("robot_type") or "unknown"),
        rate=fps,
        actions=taken.actions,
        scale=taken.scale or tuple(ACTION_SCALE.tolist()),
        numbers={name: end - first for name, (_, first, end) in taken.parts.items()},
        pictures={name: picture_size(features[key]) for name, key in taken.cameras.items()},
    )
    found = Recording(
        folder, layout, taken.parts, taken.cameras, taken.extras, taken.left_out, taken.scale, info, rows, tasks
    )
    if taken.actions.kind == "delta" and not taken.scale:
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
    table = read_table(path)
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
        table = read_table(path, lambda name: name in wanted)
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


def _greatest(recording: Recording) -> tuple[float, ...]:
    """(7) The largest motion and the largest turn along any axis: what a full delta then means."""
    most = np.max([np.abs(episode.actions).max(axis=0) for episode in recording], axis=0)
    far, turn = (
        float(part.max()) or float(own) for part, own in ((most[:3], ACTION_SCALE[0]), (most[3:6], ACTION_SCALE[3]))
    )
    return far, far, far, turn, turn, turn, 1.0


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
