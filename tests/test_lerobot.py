"""LeRobot's data sets: what we write is laid out as its reader expects, and what its writer makes is read."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import imageio_ffmpeg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffusion_ros.robot import ACTION_SCALE
from tests.recordings import CAMERAS, episodes, layout, pictures
from training.data import lerobot, lerobot_format, lerobot_writer
from training.data.lerobot_foreign import Foreign
from training.data.lerobot_statistics import NumberStatistics, PictureStatistics
from training.data.lerobot_writer import Limits
from training.data.videos import VideoWriter, read_pictures

FEATURES = {
    "observation.state": ("float32", [9]),
    "observation.environment_state": ("float32", [10]),
    "action": ("float32", [7]),
    "diffusion_ros.observation.state": ("float64", [9]),
    "diffusion_ros.observation.environment_state": ("float64", [10]),
    "diffusion_ros.action": ("float64", [7]),
    "diffusion_ros.stamp": ("int64", [1]),
    "diffusion_ros.success": ("int8", [1]),
    "next.success": ("bool", [1]),
    "diffusion_ros.by_person": ("int8", [1]),
    "observation.images.agentview": ("video", [48, 64, 3]),
    "observation.images.robot0_eye_in_hand": ("video", [32, 32, 3]),
    "timestamp": ("float32", [1]),
    "frame_index": ("int64", [1]),
    "episode_index": ("int64", [1]),
    "index": ("int64", [1]),
    "task_index": ("int64", [1]),
}
STATISTICS = {"min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes of two cameras, to be read only."""
    folder = tmp_path_factory.mktemp("lerobot") / "set"
    given = episodes(layout())
    given[2] = replace(given[2], success=True)
    lerobot_writer.write(folder, layout(), given, task="put the can away")
    return folder


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(written, tmp_path / "set"))


def info_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "meta/info.json").read_text())
    return found


def change_info(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    info = info_of(folder)
    change(info)
    (folder / "meta/info.json").write_text(json.dumps(info))


def refused(folder: Path, **said: Any) -> str:
    def read() -> None:
        for episode in lerobot.read(folder, Foreign(**said))[1]:
            for call in episode.pictures.values():
                list(call())

    with pytest.raises(ValueError, match=r".") as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- what is written --------------------------------------------------------------------------------------------------


def test_info_is_as_lerobot_has_it(written: Path) -> None:
    info = info_of(written)
    assert {key: info[key] for key in list(info)[:12]} == {
        "codebase_version": "v3.0",
        "robot_type": "Panda",
        "total_episodes": 3,
        "total_frames": 36,
        "total_tasks": 1,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": 20,
        "splits": {"train": "0:3"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    assert type(info["fps"]) is int
    features = info["features"]
    assert {key: (value["dtype"], value["shape"]) for key, value in features.items()} == FEATURES
    assert list(features) == list(FEATURES)
    assert features["action"]["names"][:2] == ["eef_dx", "eef_dy"]
    assert features["observation.state"]["names"][2:5] == ["robot0_eef_pos.z", "robot0_eef_quat.x", "robot0_eef_quat.y"]
    assert features["timestamp"]["names"] is None
    camera = features["observation.images.agentview"]
    assert camera["names"] == ["height", "width", "channels"]
    assert (camera["info"]["video.codec"], camera["info"]["video.pix_fmt"], camera["info"]["video.fps"]) == (
        *("h264", "yuv420p"),
        20,
    )
    assert sorted(str(path.relative_to(written)) for path in written.rglob("*") if path.is_file()) == [
        "data/chunk-000/file-000.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
        "meta/info.json",
        "meta/stats.json",
        "meta/tasks.parquet",
        "videos/observation.images.agentview/chunk-000/file-000.mp4",
        "videos/observation.images.robot0_eye_in_hand/chunk-000/file-000.mp4",
    ]


def test_data_has_a_column_for_each_feature_but_videos(written: Path) -> None:
    """LeRobot's reader casts by its features, and refuses any other column."""
    file = pq.ParquetFile(written / "data/chunk-000/file-000.parquet")
    types = {
        "float32": pa.float32(),
        "float64": pa.float64(),
        "int64": pa.int64(),
        "int8": pa.int8(),
        "bool": pa.bool_(),
    }
    expected = {
        key: types[dtype] if shape == [1] else pa.list_(types[dtype], shape[0])
        for key, (dtype, shape) in FEATURES.items()
        if dtype != "video"
    }
    assert {field.name: field.type for field in file.schema_arrow} == expected
    assert file.num_row_groups == 3
    table = file.read()
    assert table["index"].to_pylist() == list(range(36))
    assert table["episode_index"].to_pylist() == [0] * 12 + [1] * 9 + [2] * 15
    frames = [*range(12), *range(9), *range(15)]
    assert table["frame_index"].to_pylist() == frames and set(table["task_index"].to_pylist()) == {0}
    np.testing.assert_array_equal(table["timestamp"].to_numpy(), (np.array(frames) / 20).astype(np.float32))
    assert table["next.success"].to_pylist() == [False] * 35 + [True]
    given = np.concatenate([episode.actions for episode in episodes(layout())])
    np.testing.assert_array_equal(np.stack(table["action"].to_numpy()), given.astype(np.float32))
    np.testing.assert_array_equal(np.stack(table["diffusion_ros.action"].to_numpy()), given)
    state = np.stack(table["observation.state"].to_numpy())[:12]
    np.testing.assert_array_equal(state[:, 3:7], episodes(layout())[0].numbers["robot0_eef_quat"].astype(np.float32))


def test_a_row_for_each_episode(written: Path) -> None:
    table = pq.read_table(written / "meta/episodes/chunk-000/file-000.parquet")
    rows = table.to_pylist()
    for row, begin, end in zip(rows, (0, 12, 21), (12, 21, 36), strict=True):
        assert row["length"] == end - begin and row["tasks"] == ["put the can away"]
        assert (row["dataset_from_index"], row["dataset_to_index"]) == (begin, end)
        for place in ("data", "meta/episodes", "videos/observation.images.agentview"):
            assert (row[f"{place}/chunk_index"], row[f"{place}/file_index"]) == (0, 0)
        times = [row[f"videos/observation.images.agentview/{edge}_timestamp"] for edge in ("from", "to")]
        assert times == [begin / 20, end / 20]
    found = {name.split("/", 1)[1] for name in table.column_names if name.startswith("stats/")}
    assert found == {f"{key}/{name}" for key in FEATURES for name in STATISTICS}
    assert np.shape(rows[0]["stats/observation.images.agentview/mean"]) == (3, 1, 1)
    assert np.shape(rows[0]["stats/action/q99"]) == (7,) and rows[1]["stats/action/count"] == [9]


def test_tasks_are_a_frame_of_pandas_whose_index_is_the_task(written: Path) -> None:
    table = pq.read_table(written / "meta/tasks.parquet")
    assert table.to_pylist() == [{"task_index": 0, "task": "put the can away"}]
    told = json.loads(table.schema.metadata[b"pandas"])
    assert told["index_columns"] == ["task"] and [column["name"] for column in told["columns"]] == [
        "task_index",
        "task",
    ]


def test_statistics_are_those_of_the_data(written: Path) -> None:
    found = json.loads((written / "meta/stats.json").read_text())
    assert set(found) == set(FEATURES) and all(set(value) == STATISTICS for value in found.values())
    rows = np.concatenate([episode.actions for episode in episodes(layout())]).astype(np.float32).astype(np.float64)
    for name, value in {
        "min": rows.min(axis=0),
        "max": rows.max(axis=0),
        "mean": rows.mean(axis=0),
        "std": rows.std(axis=0),
        "q01": np.quantile(rows, 0.01, axis=0),
        "q90": np.quantile(rows, 0.9, axis=0),
    }.items():
        np.testing.assert_allclose(found["action"][name], value, rtol=1e-9, atol=1e-12, err_msg=name)
    assert found["action"]["count"] == [36] and found["observation.images.agentview"]["count"] == [36]
    colours = np.concatenate([pictures(48, 64, n, 17 * i) for i, n in enumerate((12, 9, 15))]).reshape(-1, 3) / 255
    camera = {name: np.ravel(value) for name, value in found["observation.images.agentview"].items()}
    assert np.shape(found["observation.images.agentview"]["min"]) == (3, 1, 1)
    np.testing.assert_allclose(camera["mean"], colours.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(camera["std"], colours.std(axis=0), rtol=1e-9)
    np.testing.assert_allclose([camera["min"], camera["max"]], [colours.min(axis=0), colours.max(axis=0)])
    np.testing.assert_allclose(camera["q50"], np.quantile(colours, 0.5, axis=0), atol=1 / 255)


def test_statistics_of_more_than_is_kept() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(90_000, 2)) * [1, 5] + [0, 100]
    numbers = NumberStatistics()
    for part in np.array_split(rows, 77):
        numbers.add(part)
    found = numbers.all()
    np.testing.assert_allclose(found["mean"], rows.mean(axis=0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found["std"], rows.std(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found["q90"], np.quantile(rows, 0.9, axis=0), atol=0.15)
    assert found["count"] == [90_000]
    assert [PictureStatistics.every(n) for n in (1, 100, 101, 1000)] == [1, 1, 2, 10]


def test_videos_have_every_second_picture_whole_and_begin_at_zero(written: Path) -> None:
    path = written / "videos/observation.images.agentview/chunk-000/file-000.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-skip_frame", "nokey", "-i", str(path), "-f", "null", "-"]
    said = subprocess.run(command, capture_output=True, text=True).stderr
    assert "h264" in said and "yuv420p" in said and "64x48" in said and "20 fps" in said
    assert "start: 0.000000" in said and "frame=   18 " in said


def test_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file begins anew; an episode is in one of them."""
    # ffmpeg writes when it likes.
    monkeypatch.setattr(VideoWriter, "size", property(lambda self: 1000 * self.frames))
    given = [replace(episode, success=i % 2 == 0) for i, episode in enumerate(episodes(layout(), (12, 9, 15, 8, 11)))]
    folder = tmp_path / "x"
    lerobot_writer.write(folder, layout(), given, crf=0, limits=Limits(data=0.012, video=0.025))
    rows = pq.read_table(folder / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    key = "videos/observation.images.agentview"
    assert [row["data/file_index"] for row in rows][-1] > 0
    assert [row[f"{key}/file_index"] for row in rows] == [0, 0, 1, 1, 2]
    for before, row in pairwise(rows):
        same = before[f"{key}/file_index"] == row[f"{key}/file_index"]
        assert row[f"{key}/from_timestamp"] == (before[f"{key}/to_timestamp"] if same else 0.0)
    assert len(list(folder.glob("data/*/*.parquet"))) == rows[-1]["data/file_index"] + 1
    for before, after in zip(given, lerobot.read(folder)[1], strict=True):
        np.testing.assert_array_equal(before.actions, after.actions)
        for name in CAMERAS:
            np.testing.assert_array_equal(
                np.stack(list(before.pictures[name]())), np.stack(list(after.pictures[name]()))
            )


def test_a_thousand_files_fill_a_chunk() -> None:
    place = lerobot_writer._Place(0, 998)
    place.move_on()
    assert place(lerobot_format.DATA_PATH) == "data/chunk-000/file-999.parquet"
    place.move_on()
    assert place(lerobot_format.VIDEO_PATH, video_key="x") == "videos/x/chunk-001/file-000.mp4"


def test_what_lerobot_has_no_place_for(tmp_path: Path) -> None:
    what, given = layout(cameras=False), episodes(layout(cameras=False))

    def line(changed: Any, *rest: Any) -> str:
        with pytest.raises(ValueError, match=r".") as caught:
            lerobot_writer.write(tmp_path / "x", changed, [*rest] or given)
        assert not list(tmp_path.iterdir()) and "\n" not in str(caught.value)
        return str(caught.value)

    assert line(replace(what, rate=12.5)) == "rate 12.5 Hz: LeRobot's fps is a whole number"
    rewards = {"rewards": np.zeros(12)}
    assert (
        line(what, replace(given[0], extras=rewards), given[1])
        == "episode 1: rewards is not as in episode 0, alike in all expected"
    )
    assert "depth of shape (12, 3, 3) has no place" in line(
        what, replace(given[0], extras={"depth": np.zeros((12, 3, 3))})
    )
    wrong = replace(given[0], numbers=given[1].numbers)
    assert "episode 0: robot0_eef_pos has shape (9, 3), (12, 3) expected" in line(what, wrong)
    assert "episode 0: actions of shape (12, 6), (N, 7) expected" in line(
        what, replace(given[0], actions=given[0].actions[:, :6])
    )
    assert "action has values that are NaN" in line(what, replace(given[0], actions=given[0].actions * np.nan))
    few = replace(episodes(layout())[0], pictures=episodes(layout())[1].pictures)
    assert "episode 0: observation.images.agentview: 9 pictures, 12 expected" in line(layout(), few)


# -- what others write ------------------------------------------------------------------------------------------------


def foreign(folder: Path, steps: tuple[int, ...] = (6, 4)) -> np.ndarray:
    """As LeRobot's converter of older sets writes it: lists without a length, all episodes in one group of rows."""
    rng = np.random.default_rng(0)
    n = sum(steps)
    action = rng.uniform(-1, 1, (n, 7)).astype(np.float32)
    photos = pictures(20, 30, n, 0)
    column: dict[str, Any] = {
        "observation.state": pa.array(list(rng.normal(size=(n, 4)).astype(np.float32))),
        "action": pa.array(list(action)),
        "next.reward": pa.array(np.linspace(0, 1, n).astype(np.float32)),
        "next.success": pa.array([False] * (n - 1) + [True]),
        "language": pa.array(["word"] * n),
        "observation.images.wrist": pa.array(
            [{"bytes": cv2.imencode(".png", photo[..., ::-1])[1].tobytes(), "path": "x.png"} for photo in photos]
        ),
        "frame_index": pa.array(np.concatenate([np.arange(k) for k in steps])),
        "episode_index": pa.array(np.repeat(np.arange(len(steps)), steps)),
        "index": pa.array(np.arange(n)),
        "task_index": pa.array(np.zeros(n, np.int64)),
    }
    column["timestamp"] = pa.array((np.asarray(column["frame_index"]) / 10).astype(np.float32))
    for part in ("data/chunk-000", "meta/episodes/chunk-000", "videos/observation.images.top/chunk-000"):
        (folder / part).mkdir(parents=True)
    pq.write_table(pa.table(column), folder / "data/chunk-000/file-000.parquet")
    video = VideoWriter(folder / "videos/observation.images.top/chunk-000/file-000.mp4", 24, 36, 10, 0)
    for picture in pictures(24, 36, n, 5):
        video.write(picture)
    video.close()
    rows = []
    for i, length in enumerate(steps):
        row = {"episode_index": i, "length": length, "tasks": ["pick"], "data/chunk_index": 0, "data/file_index": 0}
        key = "videos/observation.images.top"
        row |= {f"{key}/chunk_index": 0, f"{key}/file_index": 0, f"{key}/from_timestamp": sum(steps[:i]) / 10}
        rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows), folder / "meta/episodes/chunk-000/file-000.parquet")
    tasks = pa.table({"task_index": [0], "__index_level_0__": ["pick"]})
    pq.write_table(tasks, folder / "meta/tasks.parquet")
    axes = {"motors": ["x", "y", "z", "grip"]}
    features: dict[str, Any] = {
        "observation.state": {"dtype": "float32", "shape": [4], "names": axes},
        "action": {"dtype": "float32", "shape": [7], "names": None},
        "next.reward": {"dtype": "float32", "shape": [1], "names": None},
        "next.success": {"dtype": "bool", "shape": [1], "names": None},
        "language": {"dtype": "string", "shape": [1], "names": None},
        "observation.images.wrist": {"dtype": "image", "shape": [20, 30, 3], "names": ["height", "width", "channels"]},
        "observation.images.top": {"dtype": "video", "shape": [3, 24, 36], "names": ["channels", "height", "width"]},
    }
    features |= {key: {"dtype": dtype, "shape": [1], "names": None} for key, dtype in lerobot_format.INDICES.items()}
    info = {"codebase_version": "v3.0", "fps": 10, "features": features, "robot_type": "so100"}
    info |= {
        "total_episodes": len(steps),
        "data_path": lerobot_format.DATA_PATH,
        "video_path": lerobot_format.VIDEO_PATH,
    }
    (folder / "meta/info.json").write_text(json.dumps(info))
    return action


def test_a_set_of_somebody_else(tmp_path: Path) -> None:
    action = foreign(tmp_path / "x")
    what, found = lerobot.read(tmp_path / "x", Foreign("delta"))
    assert (what.robot, what.rate, what.environment) == ("so100", 10.0, "pick")
    assert what.numbers == {"state": 4} and what.pictures == {"wrist_image": (20, 30), "top_image": (24, 36)}
    assert found.left_out == ("language",)
    far, turn = np.abs(action[:, :3]).max(), np.abs(action[:, 3:6]).max()
    np.testing.assert_array_equal(what.scale, [far] * 3 + [turn] * 3 + [1.0])
    both = list(found)
    np.testing.assert_array_equal(np.concatenate([episode.actions for episode in both]), action)
    assert [episode.success for episode in both] == [False, True] and both[0].person is None
    assert both[1].stamps.tolist() == [0, 100_000_000, 200_000_000, 300_000_000]
    assert both[0].extras["names"]["state"] == ["x", "y", "z", "grip"] and len(both[0].extras["rewards"]) == 6
    for name, size, start in (("wrist_image", (20, 30), 0), ("top_image", (24, 36), 5)):
        read = np.stack([picture for episode in both for picture in episode.pictures[name]()])
        np.testing.assert_array_equal(read, pictures(*size, 10, start))


def test_names_and_units_for_a_set_of_somebody_else(tmp_path: Path) -> None:
    action = foreign(tmp_path / "x")
    names = {"robot0_eef_pos": "observation.state[0:3]", "agentview_image": "observation.images.top"}
    what, found = lerobot.read(tmp_path / "x", Foreign("delta", (0.02, 0.2), names))
    assert what.numbers == {"robot0_eef_pos": 3} and set(what.pictures) == {"agentview_image", "wrist_image"}
    assert what.scale == (0.02, 0.02, 0.02, 0.2, 0.2, 0.2, 1.0)
    first = next(iter(found))
    np.testing.assert_array_equal(first.actions, action[:6].astype(np.float64) * np.array(what.scale))
    assert first.extras["names"]["robot0_eef_pos"] == ["x", "y", "z"]
    assert found.left_out == ("observation.state[3:4]", "language")
    names = {"a": "observation.state[1:2]", "b": "observation.state[2:3]"}
    assert lerobot.read(tmp_path / "x", Foreign("delta", names=names))[1].left_out[:2] == (
        "observation.state[0:1]",
        "observation.state[3:4]",
    )
    what, _ = lerobot.read(tmp_path / "x", Foreign("joint_positions"))
    assert what.actions.joints == ("0", "1", "2", "3", "4", "5") and what.actions.width == 7
    assert lerobot.read(tmp_path / "x", Foreign("pose"))[0].scale == tuple(ACTION_SCALE)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({}, "does not say what its actions are: action_kind delta, pose or joint_positions expected"),
        ({"action_kind": "pose", "action_scale": (1, 1)}, "action_scale (1, 1): of deltas only"),
        ({"action_kind": "pose", "names": {"a": "b"}}, "map a=b: a feature of"),
        ({"action_kind": "pose", "names": {"a": "observation.state[2:9]"}}, "of 4 numbers, first < end <= 4 expected"),
        ({"action_kind": "pose", "names": {"a": "observation.images.top"}}, "a name that ends with _image"),
        (
            {"action_kind": "pose", "names": {"wrist_image": "observation.images.top"}},
            "observation.images.top and observation.images.wrist are both called wrist_image: a map of one to",
        ),
        (
            {"action_kind": "pose", "names": {"wrist_image": "observation.state"}},
            "observation.state and observation.images.wrist are both called wrist_image",
        ),
        (
            {"action_kind": "pose", "names": {"state": "next.reward"}},
            "next.reward and observation.state are both called state",
        ),
    ],
)
def test_what_is_said_of_it_must_fit(said: dict[str, Any], why: str, tmp_path: Path) -> None:
    foreign(tmp_path / "x")
    assert why in refused(tmp_path / "x", **said)


# -- what is damaged --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            lambda i: i.update(codebase_version="v2.1"),
            "LeRobot's format 2.1, 3.0 expected: LeRobot's own convert_dataset_v21_to_v30 makes one of it",
        ),
        (lambda i: i.update(codebase_version="v4.0"), "LeRobot's format 4.0, 3.0 expected"),
        (lambda i: i.pop("codebase_version"), "no codebase_version"),
        (lambda i: i.update(fps=0), "fps 0, 1 to 1000 expected"),
        (lambda i: i["features"].pop("action"), "no feature action"),
        (lambda i: i["features"].pop("observation.state"), "diffusion_ros: 'observation.state'"),
        (lambda i: i["features"]["action"].pop("shape"), "feature action: no shape"),
        (lambda i: i["features"]["action"].update(shape=[8]), "96 values"),
        (
            lambda i: i.update(data_path="../{chunk_index}/{file_index}"),
            "leads to ../0/0, nothing outside of the folder",
        ),
        (lambda i: i.update(video_path="/etc/{video_key}"), "leads to /etc/observation.images.agentview"),
        (lambda i: i.update(data_path="{chunk}"), "data_path '{chunk}': 'chunk'"),
        (
            lambda i: i["features"]["observation.images.agentview"].update(shape=[64, 48, 3]),
            "pictures of 64 x 48, 48 x 64",
        ),
        (lambda i: i.update(total_episodes=4), "3 episodes in meta/episodes, 4 in meta/info.json"),
        (lambda i: i["diffusion_ros"].update(version=2), "diffusion_ros: version 2, 1 expected"),
        (lambda i: i["diffusion_ros"].pop("scale"), "diffusion_ros: 'scale'"),
        (lambda i: i["diffusion_ros"].update(actions={"kind": "x"}), "actions: kind 'x', one of"),
        (lambda i: i.update(fps=19), "a timestamp is"),
    ],
)
def test_an_info_that_does_not_fit(change: Callable[[dict[str, Any]], Any], why: str, copy: Path) -> None:
    change_info(copy, change)
    line = refused(copy)
    if "values" in why:
        assert line.endswith("in 12 rows, 8 numbers a row expected"), line
    else:
        assert why in line, line


DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
VIDEO = "videos/observation.images.agentview/chunk-000/file-000.mp4"


@pytest.mark.parametrize("name", ["meta/info.json", "meta/tasks.parquet", EPISODES, DATA, VIDEO])
@pytest.mark.parametrize("how", ["missing", "cut", "rubbish"])
def test_a_file_that_is_missing_or_damaged(name: str, how: str, copy: Path) -> None:
    path = copy / name
    content = path.read_bytes()
    path.unlink()
    if how != "missing":
        path.write_bytes(content[: len(content) // 2] if how == "cut" else b"rubbish" * 100)
    line = refused(copy)
    if name == EPISODES and how == "missing":
        assert line == f"{copy}/meta/episodes: no tables of episodes"
    else:
        words = {"missing": "no such file", "cut": "damaged", "rubbish": "damaged"}
        assert line.startswith(str(path)) and (words[how] in line or "pictures from picture" in line)


def test_attributes_that_are_damaged(copy: Path) -> None:
    (copy / lerobot_format.ATTRIBUTES).write_text("{}\n")
    assert refused(copy) == f"{copy}/meta/diffusion_ros.jsonl: damaged ('episode_index')"


@pytest.mark.parametrize("said", [{"action_kind": "pose"}, {"action_scale": (1, 1)}, {"names": {"x": "action"}}])
def test_our_own_sets_say_what_they_have(said: dict[str, Any], written: Path) -> None:
    rule = "says itself what it has: no action_kind, action_scale or map expected"
    assert refused(written, **said) == f"{written}: {rule}"


def change_table(path: Path, name: str, values: Any) -> None:
    table = pq.read_table(path)
    at = table.column_names.index(name)
    column = pa.array(values(table[name].to_pylist()), table.schema.field(at).type)
    pq.write_table(table.set_column(at, table.schema.field(at), column), path)


@pytest.mark.parametrize(
    ("name", "column", "values", "why"),
    [
        (EPISODES, "length", lambda v: [13, *v[1:]], "episode 0: 12 rows, 13 expected by meta/episodes"),
        (EPISODES, "length", lambda v: [None, *v[1:]], "length None, a number from 0 on expected"),
        (EPISODES, "episode_index", lambda v: [0, 2, 2], "episodes 0 to 2, each once, expected"),
        (EPISODES, "data/file_index", lambda v: [1, 0, 0], "file-001.parquet: no such file"),
        (
            EPISODES,
            "videos/observation.images.agentview/from_timestamp",
            lambda v: [*v[:2], 1.5],
            "6 pictures from picture 30 on, 15 expected",
        ),
        (DATA, "frame_index", lambda v: [1, 0, *v[2:]], "episode 0: frame_index is not 0 to 11"),
        (DATA, "timestamp", lambda v: [0.5, *v[1:]], "a timestamp is 0.5 s from frame_index / fps"),
        (DATA, "action", lambda v: [[np.nan] * 7, *v[1:]], "action: has values that are NaN or infinite"),
        (DATA, "action", lambda v: [None, *v[1:]], "action: has gaps"),
    ],
)
def test_a_table_that_does_not_fit(name: str, column: str, values: Any, why: str, copy: Path) -> None:
    change_table(copy / name, column, values)
    assert why in refused(copy)


def test_what_somebody_changed_in_32_bits_counts(copy: Path) -> None:
    """LeRobot's own tools know nothing of our 64 bits."""
    change_table(copy / DATA, "action", lambda v: [[0.25] * 7, *v[1:]])
    first, second, _ = lerobot.read(copy)[1]
    given = episodes(layout())
    assert (first.actions[0] == 0.25).all()
    np.testing.assert_array_equal(first.actions[1:], given[0].actions[1:].astype(np.float32))
    np.testing.assert_array_equal(second.actions, given[1].actions)


def test_a_file_like_any_other_is_read_from_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    given = pictures(32, 48, 50, 0)
    video = VideoWriter(path, 32, 48, 30, 0)
    for picture in given:
        video.write(picture)
    video.close()
    for first, count in ((0, 50), (1, 3), (29, 2), (49, 1)):
        np.testing.assert_array_equal(
            np.stack(list(read_pictures(path, first, count, 30, (32, 48)))), given[first:][:count]
        )
    some = read_pictures(path, 0, 50, 30, (32, 48))
    next(some)
    some.close()  # ends ffmpeg, which is not at its end
    with pytest.raises(ValueError, match=r"x.mp4: 0 pictures from picture 50 on, 1 expected"):
        list(read_pictures(path, 50, 1, 30, (32, 48)))


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    video = VideoWriter(Path("/dev/full"), 32, 48, 30, 20)

    def write() -> None:
        for picture in pictures(32, 48, 400, 0):
            video.write(picture)
        video.close()

    with pytest.raises(OSError, match=r"^full: \S.*$") as caught:
        write()
    assert "\n" not in str(caught.value)
