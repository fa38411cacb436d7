"""A maze's stream as D4RL and Minari publish it: the same ways in the frame `map`, all of them used."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from some_slow import one_in

from diffusion_ros import checkpoint
from diffusion_ros.simulators.maze import load_map
from diffusion_ros.simulators.tasks import maze_task
from tests.foreign_mazes import write_d4rl, write_minari
from training.data.trajectories import Trajectories, load_maze
from training.options.planner import Options
from training.trainers.planner import Trainer

Stream = dict[str, np.ndarray]

pytestmark = pytest.mark.usefixtures("fresh_accelerate", "scripted_at_the_end")


@pytest.fixture(scope="module")
def d4rl(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Stream]:
    path = tmp_path_factory.mktemp("d4rl") / "maze2d-umaze-sparse-v1.hdf5"
    return path, write_d4rl(path)


@pytest.fixture(scope="module")
def minari(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Stream]:
    path = tmp_path_factory.mktemp("minari") / "main_data.hdf5"
    return path, write_minari(path)


def moves(data: Trajectories) -> np.ndarray:
    """(N - 1) m: how far the state is from where the velocity of the state before leads in 10 ms."""
    steps = np.diff(data.states[:, :2], axis=0) - 0.01 * data.states[1:, 2:]
    return np.linalg.norm(steps, axis=1)


def check_stream(data: Trajectories, stream: Stream, legs: np.ndarray) -> None:
    """`legs`: the last steps of those that ended at a goal."""
    n = len(stream["forces"])
    assert data.task == "umaze" and len(data) == n
    np.testing.assert_allclose(data.actions, stream["forces"], atol=1e-6)
    assert data.stream_ends.tolist() == [n - 1] * n, "one continuous stream"
    assert len(legs) > 10 and legs[-1] > 0.9 * n
    np.testing.assert_array_equal(np.unique(data.leg_ends[data.leg_ends >= 0]), legs)
    assert (data.leg_ends[: legs[-1] + 1] >= 0).all() and (data.leg_ends[legs[-1] + 1 :] < 0).all()
    walls = load_map(maze_task("umaze"))
    assert not any(walls.problem(position) for position in data.states[::50, :2].astype(np.float64))
    # A window of legs stays where its leg ended, one of the stream goes on.
    begin = np.array([legs[0] - 20])
    held, going = (data.windows(begin, 64, 2, hold=hold)[0, :, 2:] for hold in (True, False))
    np.testing.assert_array_equal(going, data.states[begin[0] : begin[0] + 128 : 2])
    np.testing.assert_array_equal(held[20:, :2], np.tile(data.states[legs[0], :2], (44, 1)))
    assert not held[20:, 2:].any()


def test_d4rls_stream_lies_in_our_map_and_all_legs_count(d4rl: tuple[Path, Stream]) -> None:
    path, stream = d4rl
    data = load_maze(path)
    reached = np.flatnonzero(stream["reached"])
    check_stream(data, stream, reached)
    expected = stream["states"][:-1].copy()
    expected[reached[reached < len(data) - 1] + 1] = expected[reached[reached < len(data) - 1]]
    np.testing.assert_allclose(data.states, expected, atol=1e-5)
    # Turned the wrong way the velocities would not lead from one position to the next.
    on = np.setdiff1d(np.arange(len(data) - 1), np.concatenate([reached, reached + 1]))
    assert moves(data)[on].max() < 1e-3


def test_d4rls_script_of_today_marks_goals_by_terminals(d4rl: tuple[Path, Stream], tmp_path: Path) -> None:
    path = tmp_path / "maze2d-umaze-v1.hdf5"
    write_d4rl(path, published=False)
    here, there = load_maze(path), load_maze(d4rl[0])
    assert here.data_hash == there.data_hash
    np.testing.assert_array_equal(here.leg_ends, there.leg_ends)


def test_minaris_episodes_are_one_stream(minari: tuple[Path, Stream]) -> None:
    path, stream = minari
    data = load_maze(path)
    reached = np.flatnonzero(stream["reached"])
    check_stream(data, stream, reached)
    np.testing.assert_allclose(data.states, stream["states"][:-1], atol=1e-6)
    assert moves(data).max() < 1e-3


def test_episodes_that_begin_elsewhere_break_the_stream(minari: tuple[Path, Stream], tmp_path: Path) -> None:
    path = tmp_path / "main_data.hdf5"
    with h5py.File(minari[0]) as whole, h5py.File(path, "w") as file:
        for new, old in enumerate((0, 1, 5, 3)):
            whole.copy(f"episode_{old}", file, f"episode_{new}")
        lengths = [len(file[f"episode_{i}/actions"]) for i in range(4)]
    (tmp_path / "metadata.json").write_bytes(minari[0].with_name("metadata.json").read_bytes())
    data = load_maze(path)
    ends = np.cumsum(lengths) - 1
    assert np.unique(data.stream_ends).tolist() == ends[1:].tolist()
    assert np.unique(data.leg_ends).tolist() == ends.tolist()


@pytest.mark.parametrize(("of", "windows"), one_in(3, itertools.product(["d4rl", "minari"], ["legs", "stream"])))
def test_a_diffuser_trains(of: str, windows: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    path, _ = request.getfixturevalue(of)
    out = tmp_path / "planner.pt"
    small = {
        "horizon": 8,
        "stride": 3,
        "widths": (16, 32),
        "iterations": 4,
        "save_every": 4,
        "validation": 0.1,
        "validate_every": 2,
    }
    Trainer(Options(data=(path,), out=out, windows=windows, **small)).run()
    spec = checkpoint.read_spec(out)
    assert spec.task == "umaze" and spec.environment == "PointMaze_UMaze-v3" and spec.rate == 100
    assert np.isfinite(spec.scores["validation_loss"])


def test_batches_begin_in_every_leg(d4rl: tuple[Path, Stream]) -> None:
    data = load_maze(d4rl[0])
    steps = np.flatnonzero(data.leg_ends >= 0)
    assert len(steps) > 0.9 * len(data)
    rows = data.draw(steps, 256, torch.Generator().manual_seed(0), 16, 2, hold=True)
    ends = torch.from_numpy(data.states[np.unique(data.leg_ends[steps]), :2])
    assert len(torch.unique(torch.cdist(rows[:, -1, 2:4], ends).argmin(dim=1))) > 10


# -- which maze -------------------------------------------------------------------------------------------------------


def refused(path: Path) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        load_maze(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    return str(caught.value)


def renamed(path: Path, to: Path) -> Path:
    to.write_bytes(path.read_bytes())
    return to


def test_a_name_that_does_not_say_the_maze(d4rl: tuple[Path, Stream], tmp_path: Path) -> None:
    assert load_maze(renamed(d4rl[0], tmp_path / "mine.hdf5")).data_hash == load_maze(d4rl[0]).data_hash
    path = renamed(d4rl[0], tmp_path / "short.hdf5")
    with h5py.File(path, "r+") as file:
        for name in ("observations", "actions", "infos/goal", "timeouts", "terminals"):
            values = file[name][:1]
            del file[name]
            file[name] = values
        file["observations"][0] = [1, 1, 0, 0]
    assert "its positions fit umaze, medium, large, expected the maze's name in the file's name" in refused(path)


def test_a_name_that_says_another_maze(d4rl: tuple[Path, Stream], tmp_path: Path) -> None:
    for maze in ("medium", "large"):
        said = refused(renamed(d4rl[0], tmp_path / f"maze2d-{maze}-dense-v1.hdf5"))
        assert f"in a wall of the maze {maze}, expected a free cell" in said
    for other in ("maze2d-eval-umaze", "maze2d-open", "bullet"):
        said = refused(renamed(d4rl[0], tmp_path / f"{other}-sparse.hdf5"))
        assert f"of {other}, expected one of umaze, medium, large" in said


def test_an_attribute_does_not_make_it_ours(d4rl: tuple[Path, Stream], tmp_path: Path) -> None:
    path = renamed(d4rl[0], tmp_path / "mine.hdf5")
    with h5py.File(path, "r+") as file:
        file.attrs["maze"] = "umaze"
    assert load_maze(path).data_hash == load_maze(d4rl[0]).data_hash


def test_positions_in_walls(d4rl: tuple[Path, Stream], tmp_path: Path) -> None:
    path = renamed(d4rl[0], tmp_path / "maze2d-umaze.hdf5")
    with h5py.File(path, "r+") as file:
        file["observations"][7, :2] = [1.9, 1.0]
    # Row 2 begins 0.3 m below the point of row 1 that D4RL calls 1.
    assert "step 7: (-0.80, -0.10) is in a wall of the maze umaze" in refused(path)
    with h5py.File(path, "r+") as file:
        file["observations"][7, :2] = [9.0, 1.0]
    assert "lies outside the map" in refused(path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda file: file.pop("timeouts") and file.pop("terminals"), "has no timeouts, terminals"),
        (lambda file: file.__setitem__("infos/goal", file.pop("infos/goal")[:] + 3), "no leg ends near its goal"),
        (lambda file: file.__setitem__("timeouts", file.pop("timeouts")[:9]), "timeouts is (9,), expected (2000,)"),
        (lambda file: file.__setitem__("actions", file.pop("actions")[:9]), "actions is (9, 2), expected finite"),
        (lambda file: file["actions"].__setitem__((3, 0), np.nan), "NaN or infinite, expected finite"),
    ],
)
def test_d4rls_arrays_that_do_not_fit(
    change: Callable[[h5py.File], object], why: str, d4rl: tuple[Path, Stream], tmp_path: Path
) -> None:
    path = renamed(d4rl[0], tmp_path / "maze2d-umaze.hdf5")
    with h5py.File(path, "r+") as file:
        change(file)
    assert why in refused(path)


def test_minaris_maze_is_its_environments(minari: tuple[Path, Stream], tmp_path: Path) -> None:
    path = renamed(minari[0], tmp_path / "main_data.hdf5")
    assert load_maze(path).data_hash == load_maze(minari[0]).data_hash, "where the ball has been fits one maze"
    for attributes in (True, False):
        folder = tmp_path / str(attributes)
        folder.mkdir()
        write_minari(folder / "main_data.hdf5", attributes=attributes, steps=300)
        assert load_maze(folder / "main_data.hdf5").task == "umaze"
    umaze = [[1, 1, 1, 1, 1], [1, "r", 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, "g", 1], [1, 1, 1, 1, 1]]
    for spec, why in (
        ({"id": "PointMaze_UMaze-v3", "kwargs": {"maze_map": umaze}}, ""),
        ({"id": "PointMaze_UMazeDense-v3", "kwargs": {}}, ""),
        ({"id": "PointMaze_Medium-v3", "kwargs": {"maze_map": umaze}}, ""),
        ({"id": "PointMaze_Medium-v3", "kwargs": {}}, "of the maze medium, expected a free cell"),
        ({"id": "PointMaze_Open-v3", "kwargs": {}}, "of PointMaze_Open-v3, expected the map of one of PointMaze_UMaze"),
        ({"id": "PointMaze_UMaze-v3", "kwargs": {"maze_map": [[1, 1], [1, 1]]}}, "UMaze-v3 with another map"),
        ({"kwargs": {}}, "env_spec cannot be read ('id'), expected"),
    ):
        (tmp_path / "metadata.json").write_text(json.dumps({"env_spec": json.dumps(spec)}))
        if why:
            assert why in refused(path)
        else:
            assert load_maze(path).task == "umaze"


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("actions", np.zeros((3, 2)), "episode_1: observation is ("),
        ("observations/desired_goal", np.zeros((3, 2)), "episode_1: desired_goal is (3, 2), expected ("),
        ("observations", np.zeros((3, 8)), "episode_1: observations is no group"),
    ],
)
def test_minaris_arrays_that_do_not_fit(
    name: str, value: np.ndarray, why: str, minari: tuple[Path, Stream], tmp_path: Path
) -> None:
    path = renamed(minari[0], tmp_path / "main_data.hdf5")
    with h5py.File(path, "r+") as file:
        del file[f"episode_1/{name}"]
        file[f"episode_1/{name}"] = value
    assert why in refused(path)
