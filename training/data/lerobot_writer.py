"""Episodes as a LeRobot data set, version 3.0; lerobot_format.py says what stands where. One episode at a time is in
memory, and of its pictures one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from diffusion_ros.action_kinds import ActionFormat
from diffusion_ros.atomic_file import add_line, atomic_folder, write_json
from diffusion_ros.robot import ACTION_NAMES
from diffusion_ros.spec import IMAGE_SUFFIX
from training.data.demonstrations import EXECUTED
from training.data.episodes import Episode, Layout
from training.data.lerobot_format import (
    ACTION,
    ATTRIBUTES,
    DATA_PATH,
    ENVIRONMENT,
    EPISODES_PATH,
    EXECUTED_ACTION,
    EXTRAS,
    IMAGES,
    INDICES,
    INFO,
    NEXT_SUCCESS,
    OWN,
    PERSON,
    STAMP,
    STATE,
    SUCCESS,
    VERSION,
    VIDEO_PATH,
    digest_of,
)
from training.data.lerobot_statistics import NumberStatistics, PictureStatistics
from training.data.videos import LOSSLESS, VideoWriter, read_pictures

_FILES_A_CHUNK = 1000
_COMPARED = 32
"""Pictures by which the codec's error is measured."""
_ROWS_A_GROUP = 50


@dataclass(frozen=True)
class Limits:
    """A file that would become larger is the last one before the next [MB]; LeRobot's defaults."""

    data: float = 100
    video: float = 200


@dataclass(frozen=True)
class CodecError:
    """How much pictures differ from what was written, in levels of 255."""

    mean: float
    most: int


@dataclass
class _Place:
    """Which file of a kind is being written."""

    chunk: int = 0
    file: int = 0

    def move_on(self) -> None:
        """To the next file."""
        self.file += 1
        if self.file == _FILES_A_CHUNK:
            self.chunk, self.file = self.chunk + 1, 0

    def __call__(self, pattern: str, **names: str) -> str:
        return pattern.format(chunk_index=self.chunk, file_index=self.file, **names)


def write(
    folder: Path,
    layout: Layout,
    episodes: Iterable[Episode],
    task: str = "",
    crf: int = 20,
    limits: Limits = Limits(),
) -> dict[str, CodecError]:
    """Episodes as a folder that appears when it is whole; what is in its place goes.

    task: LeRobot's, in words; '': an episode's own, or the layout's environment.
    crf: of the videos, 0 to 51; 0 is lossless.
    Returns the codec's error of each camera, measured on the first episode. ValueError, in one line, for episodes that
    do not fit the layout or each other, and for what LeRobot has no place for: so what was executed is only written
    where the layout says that all episodes have it.
    """
    if layout.rate != round(layout.rate):
        raise ValueError(f"rate {layout.rate:g} Hz: LeRobot's fps is a whole number")
    for name, (height, width) in layout.pictures.items():
        if crf != LOSSLESS and (height % 2 or width % 2):
            raise ValueError(f"{name}: pictures of {width} x {height}: this codec takes even sizes only")
    with atomic_folder(folder) as temporary, ExitStack() as stack:
        (temporary / INFO).parent.mkdir()
        writer = _Writer(temporary, layout, task, crf, limits)
        stack.callback(writer.abort)  # nothing, once it is finished
        for episode in episodes:
            writer.add(episode)
        if not writer.frames:
            raise ValueError(f"{folder}: no episodes to write")
        return writer.finish()


class _Camera:
    """One camera's pictures, in one video file after another."""

    def __init__(self, folder: Path, key: str, shape: tuple[int, int], rate: float, crf: int, limit: float) -> None:
        self.key, self.shape = key, shape
        self.statistics = PictureStatistics()
        self.kept: list[NDArray[np.uint8]] = []
        self._folder, self._rate, self._crf, self._limit = folder, rate, crf, limit
        self._place = _Place()
        self._writer: VideoWriter | None = None
        self._first = True

    def add(self, pictures: Iterable[NDArray[np.uint8]], steps: int, where: str) -> tuple[dict[str, Any], Any]:
        """An episode's; returns its columns and its statistics."""
        if self._writer is not None:
            a_frame = self._writer.size / self._writer.frames
            if self._writer.size + a_frame * steps >= self._limit * 2**20:
                self._writer.close()
                self._writer = None
                self._place.move_on()
        if self._writer is None:
            path = self._folder / self._place(VIDEO_PATH, video_key=self.key)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = VideoWriter(path, *self.shape, self._rate, self._crf)
        begin, count = self._writer.frames, 0
        for picture in pictures:
            if picture.shape != (*self.shape, 3) or picture.dtype != np.uint8:
                rule = f"uint8 {(*self.shape, 3)} expected"
                raise ValueError(f"{where}: {self.key}: a picture {picture.dtype} {picture.shape}, {rule}")
            self._writer.write(picture)
            if self._first and count < _COMPARED:
                self.kept.append(picture.copy())
            if count % PictureStatistics.every(steps) == 0:
                self.statistics.add(picture)
            count += 1
        if count != steps:
            raise ValueError(f"{where}: {self.key}: {count} pictures, {steps} expected")
        self._first = False
        at = f"videos/{self.key}"
        row = {f"{at}/chunk_index": self._place.chunk, f"{at}/file_index": self._place.file}
        times = {f"{at}/from_timestamp": begin / self._rate, f"{at}/to_timestamp": (begin + count) / self._rate}
        return row | times, self.statistics.end_episode()

    def error(self) -> CodecError:
        """Of the first pictures, once all is written."""
        path = self._folder / _Place()(VIDEO_PATH, video_key=self.key)
        read = read_pictures(path, 0, len(self.kept), self._rate, self.shape)
        total, most = 0.0, 0
        for before, after in zip(self.kept, read, strict=True):
            apart = np.abs(before.astype(np.int16) - after)
            total, most = total + float(apart.mean()), max(most, int(apart.max()))
        return CodecError(total / len(self.kept), most)

    def close(self) -> None:
        """Ends the last file."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def abort(self) -> None:
        """Ends it at once; nothing after close()."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.abort()


class _Writer:
    def __init__(self, folder: Path, layout: Layout, task: str, crf: int, limits: Limits) -> None:
        self.frames = self.episodes = 0
        self._folder, self._layout, self._task, self._crf, self._limits = folder, layout, task, crf, limits
        self._features: dict[str, dict[str, Any]] = {}
        self._extras: dict[str, tuple[str, int]] = {}
        self._told: dict[str, Any] = {}
        self._tasks: dict[str, int] = {}
        self._statistics: dict[str, NumberStatistics] = {}
        self._cameras = [
            _Camera(folder, IMAGES + name.removesuffix(IMAGE_SUFFIX), size, layout.rate, crf, limits.video)
            for name, size in layout.pictures.items()
        ]
        self._place, self._rows_place = _Place(), _Place()
        self._file: Any = None
        self._file_frames = 0
        self._rows: list[dict[str, Any]] = []
        self._rows_file: Any = None

    def add(self, episode: Episode) -> None:
        """Writes the next episode."""
        steps, where = len(episode), f"episode {self.episodes}"
        if not steps:
            raise ValueError(f"{where}: has no steps")
        columns, extras = _columns(self._layout, episode, where)
        task = self._task or episode.extras.get("task") or self._layout.environment
        index = self._tasks.setdefault(task, len(self._tasks))
        columns |= {
            "timestamp": (np.arange(steps) / self._layout.rate).astype(np.float32),
            "frame_index": np.arange(steps),
            "episode_index": np.full(steps, self.episodes),
            "index": np.arange(self.frames, self.frames + steps),
            "task_index": np.full(steps, index),
        }
        if not self._features:
            self._begin(episode, columns, extras)
        elif extras != self._extras:
            name = sorted(set(extras.items()) ^ set(self._extras.items()))[0][0]
            raise ValueError(f"{where}: {name} is not as in episode 0, alike in all expected")
        table = self._table(columns, where)
        if self._file is not None:
            size = (self._folder / self._place(DATA_PATH)).stat().st_size
            if size + size / self._file_frames * steps >= self._limits.data * 2**20:
                self._file.close()
                self._file = None
                self._place.move_on()
        if self._file is None:
            path = self._folder / self._place(DATA_PATH)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file, self._file_frames = pq.ParquetWriter(path, table.schema, compression="snappy"), 0
        self._file.write_table(table)  # one group of rows: it can be read without the others
        self._file_frames += steps
        statistics = {key: self._statistics[key].add(values) for key, values in columns.items()}
        row: dict[str, Any] = {"episode_index": self.episodes, "tasks": [task], "length": steps}
        row |= {"data/chunk_index": self._place.chunk, "data/file_index": self._place.file}
        row |= {"dataset_from_index": self.frames, "dataset_to_index": self.frames + steps}
        for name, camera in zip(self._layout.pictures, self._cameras, strict=True):
            place, statistics[camera.key] = camera.add(episode.pictures[name](), steps, where)
            row |= place
        row |= {f"stats/{key}/{name}": value for key, found in statistics.items() for name, value in found.items()}
        self._rows.append(row)
        if len(self._rows) == _ROWS_A_GROUP:
            self._write_rows()
        attributes = {"attributes": episode.extras.get("attributes"), "masks": episode.extras.get("masks")}
        if any(attributes.values()):
            key = {"episode_index": self.episodes, "action": digest_of(columns[ACTION])}
            add_line(self._folder / ATTRIBUTES, key | attributes)
        self.frames += steps
        self.episodes += 1

    def finish(self) -> dict[str, CodecError]:
        """Writes what stands over all episodes."""
        self._file.close()
        self._write_rows()
        self._rows_file.close()
        for camera in self._cameras:
            camera.close()
        errors = {camera.key: camera.error() for camera in self._cameras}
        statistics: dict[str, Any] = {key: found.all() for key, found in self._statistics.items()}
        statistics |= {camera.key: camera.statistics.all() for camera in self._cameras}
        write_json(self._folder / "meta/stats.json", statistics)
        pq.write_table(_tasks_table(list(self._tasks)), self._folder / "meta/tasks.parquet")
        own = self._told | {"codec": {key: vars(error) | {"crf": self._crf} for key, error in errors.items()}}
        info = {
            "codebase_version": VERSION,
            "robot_type": self._layout.robot,
            "total_episodes": self.episodes,
            "total_frames": self.frames,
            "total_tasks": len(self._tasks),
            "chunks_size": _FILES_A_CHUNK,
            "data_files_size_in_mb": self._limits.data,
            "video_files_size_in_mb": self._limits.video,
            "fps": round(self._layout.rate),
            "splits": {"train": f"0:{self.episodes}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if self._cameras else None,
            "features": self._features,
            OWN: own,
        }
        write_json(self._folder / INFO, info)
        return errors

    def abort(self) -> None:
        """Ends what runs; nothing after finish()."""
        for camera in self._cameras:
            camera.abort()
        for file in (self._file, self._rows_file):
            if file is not None:
                file.close()

    def _begin(self, episode: Episode, columns: Mapping[str, NDArray[Any]], extras: dict[str, tuple[str, int]]) -> None:
        """What the first episode decides."""
        layout = self._layout
        given: Mapping[str, list[str]] = episode.extras.get("names", {})

        def named(key: str, usual: list[str]) -> list[str]:
            return given[key] if len(given.get(key, ())) == len(usual) else usual

        actions = named(ACTION, _action_names(layout.actions))
        names = {ACTION: actions, EXECUTED_ACTION.removeprefix(f"{OWN}."): actions}
        for name, width in layout.numbers.items():
            names.setdefault(_home(name), []).extend(named(name, _names(name, width)))
        for key, values in columns.items():
            shape = values.shape[1:] or (1,)
            told = names.get(key.removeprefix(f"{OWN}."))
            dtype = INDICES.get(key, str(values.dtype))
            self._features[key] = {"dtype": dtype, "shape": list(shape), "names": told}
            self._statistics[key] = NumberStatistics()
        for camera in self._cameras:
            self._features[camera.key] = _video_feature(*camera.shape, round(layout.rate), self._crf)
        # As LeRobot has it: its own last.
        self._features = {k: v for k, v in self._features.items() if k not in INDICES} | {
            k: v for k, v in self._features.items() if k in INDICES
        }
        self._extras = extras
        self._told = {
            "version": 1,
            "environment": layout.environment,
            "robot": layout.robot,
            "rate": layout.rate,
            "actions": layout.actions.to_json(),
            "scale": list(layout.scale),
            "base_pose": list(layout.base_pose),
            "response": list(layout.response),
            "numbers": [[name, _home(name), width] for name, width in layout.numbers.items()],
            "pictures": {name: camera.key for name, camera in zip(layout.pictures, self._cameras, strict=True)},
            "extras": {name: list(where) for name, where in extras.items()},
            "env_args": episode.extras.get("env_args", ""),
            "names": dict(given),
        }

    def _table(self, columns: Mapping[str, NDArray[Any]], where: str) -> Any:
        arrays = {}
        for key, feature in self._features.items():
            if feature["dtype"] == "video":
                continue
            values = columns[key].astype(feature["dtype"], copy=False)
            if list(values.shape[1:] or (1,)) != feature["shape"] or values.dtype != columns[key].dtype:
                raise ValueError(
                    f"{where}: {key} is {columns[key].dtype} {columns[key].shape}, as in episode 0 expected"
                )
            flat = pa.array(values.reshape(-1))
            arrays[key] = flat if feature["shape"] == [1] else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        return pa.table(arrays)

    def _write_rows(self) -> None:
        """The episodes' rows that wait."""
        if not self._rows:
            return
        path = self._folder / self._rows_place(EPISODES_PATH)
        if self._rows_file is not None and path.stat().st_size >= self._limits.data * 2**20:
            self._rows_file.close()
            self._rows_file = None
            self._rows_place.move_on()
            path = self._folder / self._rows_place(EPISODES_PATH)
        place = {
            "meta/episodes/chunk_index": self._rows_place.chunk,
            "meta/episodes/file_index": self._rows_place.file,
        }
        rows = [row | place for row in self._rows]
        schema = pa.schema([(key, _row_type(key, value)) for key, value in rows[0].items()])
        if self._rows_file is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._rows_file = pq.ParquetWriter(path, schema, compression="snappy")
        self._rows_file.write_table(pa.Table.from_pylist(rows, schema=schema))
        self._rows.clear()


def _columns(
    layout: Layout, episode: Episode, where: str
) -> tuple[dict[str, NDArray[Any]], dict[str, tuple[str, int]]]:
    """Features of an episode, (N) or (N, n), and robomimic's name -> where its array is and its number of axes."""
    steps = len(episode)
    exact: dict[str, NDArray[np.float64]] = {}
    for home in (STATE, ENVIRONMENT):
        parts = []
        for name, width in layout.numbers.items():
            if _home(name) != home:
                continue
            values = episode.numbers.get(name)
            if values is None or values.shape != (steps, width):
                shape = None if values is None else values.shape
                raise ValueError(f"{where}: {name} has shape {shape}, ({steps}, {width}) expected")
            parts.append(values.astype(np.float64))
        if parts:
            exact[home] = np.concatenate(parts, axis=1)
    if episode.actions.shape != (steps, layout.actions.width):
        raise ValueError(f"{where}: actions of shape {episode.actions.shape}, (N, {layout.actions.width}) expected")
    exact[ACTION] = episode.actions.astype(np.float64)
    columns: dict[str, NDArray[Any]] = {key: values.astype(np.float32) for key, values in exact.items()}
    columns |= {f"{OWN}.{key}": values for key, values in exact.items()}
    if episode.stamps.shape != (steps,):
        raise ValueError(f"{where}: {len(episode.stamps)} stamps, {steps} expected")
    columns[STAMP] = episode.stamps.astype(np.int64)
    columns[SUCCESS] = np.full(steps, -1 if episode.success is None else int(episode.success), np.int8)
    columns[NEXT_SUCCESS] = np.zeros(steps, np.bool_)
    columns[NEXT_SUCCESS][-1] = bool(episode.success)
    person = np.full(steps, -1, np.int8) if episode.person is None else episode.person.astype(np.int8)
    columns[PERSON] = person
    if layout.executed:
        if episode.executed is None or episode.executed.shape != episode.actions.shape:
            shape = None if episode.executed is None else episode.executed.shape
            raise ValueError(f"{where}: {EXECUTED} of shape {shape}, {episode.actions.shape} expected as actions")
        columns[EXECUTED_ACTION] = episode.executed.astype(np.float64)
    extras: dict[str, tuple[str, int]] = {}
    for name, values in episode.extras.items():
        if not isinstance(values, np.ndarray) or (name == EXECUTED and not layout.executed):
            continue
        feature = EXTRAS.get(name, name if "." in name else f"robomimic.{name}")
        if feature in columns or feature in INDICES or values.ndim > 2 or values.shape[0] != steps:
            raise ValueError(f"{where}: {name} of shape {values.shape} has no place in LeRobot's format")
        extras[name] = feature, values.ndim
        columns[feature] = values.astype(np.float32) if values.dtype == np.float16 else values
    for key, values in columns.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{where}: {key} has values that are NaN or infinite")
    return columns, extras


def _home(name: str) -> str:
    """The feature that an observation is a part of."""
    return ENVIRONMENT if name == "object" else STATE


def _names(name: str, width: int) -> list[str]:
    axes = {("_pos", 3): "xyz", ("_quat", 4): "xyzw"}.get((name[name.rfind("_") :], width), range(width))
    return [f"{name}.{axis}" for axis in axes]


def _action_names(actions: ActionFormat) -> list[str]:
    if actions.kind == "joint_positions":
        return [*actions.joints, "gripper"]
    return list(ACTION_NAMES) if actions.kind == "delta" else ["x", "y", "z", "rx", "ry", "rz", "gripper"]


def _video_feature(height: int, width: int, fps: int, crf: int) -> dict[str, Any]:
    info = {
        "video.height": height,
        "video.width": width,
        "video.codec": "h264",
        "video.pix_fmt": "gbrp" if crf == LOSSLESS else "yuv420p",
        "video.is_depth_map": False,
        "video.fps": fps,
        "video.channels": 3,
        "has_audio": False,
    }
    return {"dtype": "video", "shape": [height, width, 3], "names": ["height", "width", "channels"], "info": info}


def _row_type(key: str, value: Any) -> Any:
    """Of a column of the episodes' table."""
    if isinstance(value, list):
        return pa.list_(_row_type(key, value[0]))
    if isinstance(value, str):
        return pa.string()
    return pa.float64() if isinstance(value, float) else pa.int64()


def _tasks_table(tasks: list[str]) -> Any:
    """As pandas writes a frame whose index is the task: LeRobot reads it by pandas."""
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})

    def column(name: str, of_pandas: str, of_numpy: str) -> dict[str, Any]:
        kinds = {"pandas_type": of_pandas, "numpy_type": of_numpy}
        return {"name": name, "field_name": name, **kinds, "metadata": None}

    columns = [column("task_index", "int64", "int64"), column("task", "unicode", "object")]
    told = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "pandas_version": "2.2.0"}
    return table.replace_schema_metadata({"pandas": json.dumps(told)})
