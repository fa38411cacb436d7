"""The mazes: the map is gymnasium-robotics', the oracle arrives, data can be collected and cut into windows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import h5py
import numpy as np
import pytest

from diffusion_ros.simulators.maze import MAX_FORCE, MazeMap, MazeSimulation, WaypointController
from diffusion_ros.simulators.tasks import MAZE_TASKS, maze_task
from training import collect_maze
from training.collect_maze import Options, collect
from training.data.trajectories import load_maze

CORRIDOR = MazeMap(np.array([[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 1, 1, 1, 1]], dtype=bool))


@pytest.mark.parametrize("name", MAZE_TASKS)
def test_map_is_the_environments(name: str) -> None:
    simulation = MazeSimulation(name)
    theirs = simulation._maze.maze
    assert len(simulation.map.free_cells) == len(theirs.unique_goal_locations)
    for cell in simulation.map.free_cells:
        np.testing.assert_allclose(simulation.map.centre(cell), theirs.cell_rowcol_to_xy(np.array(cell)))
        assert simulation.map.cell(simulation.map.centre(cell) + 0.49) == cell
    assert not simulation.map.problem(simulation.map.centre(simulation.task.goal_cell))
    simulation.close()


@pytest.mark.parametrize("name", MAZE_TASKS)
def test_oracle_arrives_and_stays(name: str) -> None:
    simulation = MazeSimulation(name)
    simulation.reset(100_003)
    start = simulation.position
    controller = WaypointController(simulation.map, simulation.goal)
    rewards = [
        simulation.step(controller.force(simulation.position, simulation.velocity))
        for _ in range(simulation.task.max_steps)
    ]
    assert all(rewards[-20:])
    simulation.reset(100_003)
    np.testing.assert_array_equal(simulation.position, start)
    simulation.close()


def test_shortest_way() -> None:
    assert CORRIDOR.steps_to((2, 3)).tolist() == [[-1] * 5, [-1, 3, 2, 1, -1], [-1, -1, -1, 0, -1], [-1] * 5]
    with pytest.raises(ValueError, match=r"cell \(0, 0\): is a wall"):
        CORRIDOR.steps_to((0, 0))


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ((0.0, 0.0), "is in a wall"),
        ((9.0, 0.0), "outside the map of 5 x 4 m"),
        ((float("nan"), 0.0), "not finite"),
        ((-1.4, 0.5), "0.10 m from a wall, less than 0.15 m"),
    ],
)
def test_what_is_wrong_with_a_position(position: tuple[float, float], expected: str) -> None:
    assert expected in CORRIDOR.problem(np.array(position), margin=0.15)
    assert not CORRIDOR.problem(np.array([-1.0, 0.5]), margin=0.15)


def test_wall_distance() -> None:
    positions = np.array([[-1.0, 0.5], [-0.6, 0.3], [0.9, 0.05], [0.0, -1.0]])
    np.testing.assert_allclose(CORRIDOR.wall_distance(positions), [0.5, 0.3, np.hypot(0.4, 0.05), 0.0], atol=1e-12)


def test_score_is_d4rls() -> None:
    assert maze_task("large").score(273.99) == pytest.approx(100)
    assert maze_task("large").score(6.7) == pytest.approx(0)
    with pytest.raises(ValueError, match="unknown maze 'huge'"):
        maze_task("huge")


def test_the_largest_force_is_the_models() -> None:
    """In newtons: what its motors put on the joints at a command of 1."""
    simulation = MazeSimulation("umaze")
    simulation.step(np.array([1.0, -0.25]))
    np.testing.assert_array_equal(simulation._point.data.qfrc_actuator, [MAX_FORCE, -0.25 * MAX_FORCE])
    simulation.close()


def test_bad_starts_goals_and_forces() -> None:
    simulation = MazeSimulation("umaze")
    with pytest.raises(ValueError, match=r"goal \(0\.00, 0\.00\) is in a wall"):
        simulation.reset(0, goal=np.zeros(2))
    with pytest.raises(ValueError, match=r"start .* outside"):
        simulation.reset(0, start=np.array([7.0, 0.0]))
    with pytest.raises(ValueError, match="expected 2 finite numbers"):
        simulation.step(np.array([np.nan, 0.0]))
    simulation.close()


def test_no_file_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    MazeSimulation("umaze").reset(1)  # not closed: a process may be killed
    assert list(tmp_path.iterdir()) == []


MadeHere = Callable[[], AbstractContextManager[pytest.MonkeyPatch]]


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory, parts_made_here: MadeHere) -> Path:
    path = tmp_path_factory.mktemp("maze") / "umaze.hdf5"
    with parts_made_here():
        collect(Options(size="umaze", out=path, steps=3000, part=1000, workers=1))
    return path


def test_collecting_goes_on_where_it_was(stream: Path, tmp_path: Path, parts_made_here: MadeHere) -> None:
    out = tmp_path / "again.hdf5"
    worker = collect_maze._worker

    def stopped(options: Options) -> Callable[[tuple[int, Path]], None]:
        made = worker(options)

        def part(job: tuple[int, Path]) -> None:
            if job[0]:
                raise RuntimeError("stopped")
            made(job)

        return part

    options = Options(size="umaze", out=out, steps=3000, part=1000, workers=1)
    with parts_made_here() as patch:
        patch.setattr(collect_maze, "_worker", stopped)
        with pytest.raises(RuntimeError, match="stopped; 1 parts are kept"):
            collect(options)
    collect(options)
    with h5py.File(out) as mine, h5py.File(stream) as whole:
        for name in ("observations", "actions", "infos/goal", "timeouts"):
            np.testing.assert_array_equal(mine[name], whole[name])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["again.hdf5"]


def test_held_windows_arrive_and_stay(stream: Path) -> None:
    data = load_maze(stream)
    starts = np.flatnonzero(data.leg_ends >= 0)[::97]
    windows = data.windows(starts, 64, 2, hold=True)
    for start, window in zip(starts, windows, strict=True):
        np.testing.assert_array_equal(window[0, 2:], data.states[start])
        end = data.leg_ends[start]
        within = (end - start) // 2
        np.testing.assert_allclose(window[0, :2], data.actions[start : start + 2].mean(axis=0), rtol=1e-5, atol=1e-6)
        if within < 63:
            np.testing.assert_array_equal(window[within + 1 :, 2:4], np.tile(data.states[end, :2], (63 - within, 1)))
            assert not window[within + 1 :, :2].any()
            assert not window[within + 1 :, 4:].any()


def test_stream_windows_go_on_and_never_cross_a_break(stream: Path) -> None:
    data = load_maze(stream)
    windows = data.windows(np.array([0, 500]), 64, 2, hold=False)
    np.testing.assert_array_equal(windows[1, :, 2:], data.states[500:628:2])
    assert data.stream_ends[999] == 999
    assert data.stream_ends[1000] == 1999


def test_unusable_streams(stream: Path, tmp_path: Path) -> None:
    broken = tmp_path / "x.hdf5"
    with h5py.File(broken, "w") as file:
        file["observations"] = np.zeros((3, 4))
    with pytest.raises(ValueError, match="has no actions, infos/goal, timeouts"):
        load_maze(broken)
    with pytest.raises(ValueError, match=r"steps 5: must be a positive multiple of part"):
        Options(size="umaze", out=tmp_path / "y.hdf5", steps=5)
