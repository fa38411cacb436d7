"""A maze's recorded stream in the frame `map`: files of training.collect_maze, D4RL's Maze2D and Minari's PointMaze.

The three tell differently where a leg ends, where the recording breaks, and where the origin lies:

| | training.collect_maze | D4RL | Minari |
|---|---|---|---|
| a leg ends where | `infos/goal` changes, at rest | `timeouts` is set, on the move | an episode ends, on the move |
| the recording breaks where | `timeouts` or `terminals` is set | the ball jumps | an episode begins elsewhere |
| the maze is named by | the attribute `maze` | the file's name, or where the ball has been | `env_spec` |
| x and y are | the map's | the rows and columns of its drawing | the map's |
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from diffusion_ros.simulators.maze import BALL_RADIUS, GOAL_RADIUS, MAX_SPEED, RATE, MazeMap, load_map
from diffusion_ros.simulators.tasks import MAZE_TASKS, MazeTask, maze_task
from training.data.hdf5_file import check_memory, dataset, opened

_STEP = np.sqrt(2) * MAX_SPEED * 2 / RATE + BALL_RADIUS
"""Metres that a ball may seem to go in a step. D4RL has each leg's first state one step late, so two of them."""
_D4RL_CORNER = 0.7
"""Metres from D4RL's origin to the outer corner of its first cell, in both axes: its ball is a body at (1.2, 1.2) whose
joints are the positions, and its first cell, a wall, a box of a metre about (1, 1) (d4rl/pointmaze/maze_model.py)."""
Origin = Callable[[MazeMap], NDArray[np.float32]]
"""(2) m of a file's origin in the map."""
_METADATA = "metadata.json"
"""What Minari writes beside its HDF5 file since 0.4.3; before, the same stood in the file's attributes."""


@dataclass(frozen=True)
class MazeStream:
    """N steps, one after the other."""

    task: str
    states: NDArray[np.float32]
    """(N, 4): position (m) and velocity (m/s)."""
    actions: NDArray[np.float32]
    """(N, 2): parts of the largest force."""
    goals: NDArray[np.float32]
    """(N, 2) m: where the ball was on its way to."""
    ends: NDArray[np.bool_]
    """(N): a leg's last step."""
    arrived: NDArray[np.bool_]
    """(N): of these the ones at their goal. Not so where the recording or the time was over before."""
    breaks: NDArray[np.bool_]
    """(N): the last step before the recording breaks."""
    data_hash: str
    """SHA-256 over all of these."""


def read_stream(path: Path) -> MazeStream:
    """Whichever of the three the file is. Raises ValueError, in one line, for what does not fit."""
    with opened(path) as file:
        if _episodes(file):
            return _minari(file, path)
        # What only D4RL has, should somebody have named the maze in its file.
        own = "maze" in file.attrs and not any(name in file for name in ("infos/qpos", "rewards"))
        return _own(file, path) if own else _d4rl(file, path)


def _own(file: h5py.File, path: Path) -> MazeStream:
    """Parts of training.collect_maze, each begun anew; a leg that a part's end breaks off does not end at its goal."""
    states, actions, goals, breaks = _flat(file, path, ("timeouts", "terminals"))
    task = maze_task(str(file.attrs["maze"])).name
    ends = breaks | _changes(goals) | _last(len(states))
    arrived = ends & ~breaks
    breaks = breaks | _last(len(states))
    return MazeStream(
        task, states, actions, goals, ends, arrived, breaks, _hash(states, actions, goals, breaks)
    )  # goals and breaks say the rest


def _d4rl(file: h5py.File, path: Path) -> MazeStream:
    """Fu et al. 2020, arXiv 2004.07219 (scripts/generation/generate_maze2d_datasets.py).

    One continuous stream. `timeouts` does not say that the time was over but that the goal was reached: the ball goes
    on from there to another one. `terminals` is never set in the published files. Who runs the script gets no
    `timeouts`, and `terminals` where a goal was reached or, seldom, the time was over. A leg ends on the move, within
    about 0.3 m of its goal, and the state there is repeated as the first of the next leg.
    """
    flags = [name for name in ("timeouts", "terminals") if name in file] or ["timeouts", "terminals"]
    rows, forces, goals, flagged = _flat(file, path, flags)
    # x goes along the rows of the drawing, downwards, y along its columns: a quarter turn from the map.
    states = np.stack([rows[:, 1], -rows[:, 0], rows[:, 3], -rows[:, 2]], axis=1)
    targets = np.stack([goals[:, 1], -goals[:, 0]], axis=1)
    task = _task(path, _said_by_d4rl(file, path), states[:, :2], _d4rl_origin)
    origin = _d4rl_origin(load_map(maze_task(task)))
    states[:, :2] += origin
    targets += origin
    jumps = np.append(np.linalg.norm(np.diff(states[:, :2], axis=0), axis=1) > _STEP, False)
    reached = flagged | _changes(goals)
    breaks = jumps | _last(len(states))
    # As the environment does, should a file have more.
    actions = np.clip(np.stack([forces[:, 1], -forces[:, 0]], axis=1), -1, 1)
    return _foreign(path, task, states, actions, targets, reached | breaks, reached, breaks)


def _minari(file: h5py.File, path: Path) -> MazeStream:
    """gymnasium-robotics' PointMaze as Minari has it (D4RL/pointmaze): groups `episode_0` and so on.

    An episode of T actions has T + 1 observations. `truncations` is set at its end, which is where the ball came within
    0.45 m of its goal; it goes on from there, so that the next episode's first observation is this one's last. Its
    first `desired_goal` is the one before's (Minari issue 265).
    """
    names = _episodes(file)
    arrays = []
    for name in names:
        where = f"{path}: {name}"
        group = file[name]
        if not isinstance(group.get("observations"), h5py.Group):
            raise ValueError(f"{where}: observations is no group, expected observation, achieved_goal, desired_goal")
        found = (
            dataset(group["observations"], "observation", f"{where}/observations"),
            dataset(group["observations"], "desired_goal", f"{where}/observations"),
            dataset(group, "actions", where),
        )
        steps = len(found[2]) if found[2].shape else 0
        for array, shape in zip(found, ((steps + 1, 4), (steps + 1, 2), (steps, 2)), strict=True):
            if array.shape != shape:
                raise ValueError(f"{where}: {array.name.rsplit('/', 1)[1]} is {array.shape}, expected {shape}")
        arrays.append(found)
    check_memory(path, sum(16 * array.size for found in arrays for array in found))
    states, goals, actions = [], [], []
    ends: list[NDArray[np.bool_]] = []
    breaks: list[NDArray[np.bool_]] = []
    before: NDArray[np.float64] | None = None
    for name, found in zip(names, arrays, strict=True):
        observed, desired, forces = (np.asarray(array, dtype=np.float64) for array in found)
        for label, values in (("observation", observed), ("desired_goal", desired), ("actions", forces)):
            _check_finite(f"{path}: {name}", label, values)
        if not len(forces):
            continue
        if before is not None:
            breaks[-1][-1] = not np.array_equal(before, observed[0])
        before = observed[-1]
        states.append(observed[:-1])
        goals.append(desired[1:])
        actions.append(np.clip(forces, -1, 1))  # as the environment does
        ends.append(_last(len(forces)))
        breaks.append(np.zeros(len(forces), dtype=bool))
    if not states:
        raise ValueError(f"{path}: its episodes have no steps")
    breaks[-1][-1] = True
    rows = np.concatenate(states).astype(np.float32)
    task = _task(path, _said_by_minari(file, path), rows[:, :2], _no_offset)
    last = np.concatenate(ends)
    return _foreign(
        path,
        task,
        rows,
        np.concatenate(actions).astype(np.float32),
        np.concatenate(goals).astype(np.float32),
        last,
        last,
        np.concatenate(breaks),
    )


def _foreign(
    path: Path,
    task: str,
    states: NDArray[np.float32],
    actions: NDArray[np.float32],
    goals: NDArray[np.float32],
    ends: NDArray[np.bool_],
    reached: NDArray[np.bool_],
    breaks: NDArray[np.bool_],
) -> MazeStream:
    """`reached` counts where the ball is at its goal. ValueError where it never is: the goals mean something else."""
    arrived = reached & (np.linalg.norm(states[:, :2] - goals, axis=1) <= GOAL_RADIUS + MAX_SPEED / RATE)
    if reached.any() and not arrived.any():
        raise ValueError(f"{path}: no leg ends near its goal, expected one within {GOAL_RADIUS:g} m")
    digest = _hash(states, actions, goals, ends, arrived, breaks)
    return MazeStream(task, states, actions, goals, ends, arrived, breaks, digest)


def _hash(*arrays: NDArray[Any]) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def _flat(
    file: h5py.File, path: Path, flags: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Observations (N, 4), actions (N, 2), goals (N, 2) and whether any of the `flags` is set (N)."""
    names = ("observations", "actions", "infos/goal", *flags)
    if missing := [name for name in names if name not in file]:
        raise ValueError(f"{path}: has no {', '.join(missing)}, expected D4RL's maze format")
    arrays = [dataset(file, name, str(path)) for name in names]
    check_memory(path, sum(8 * array.size for array in arrays))
    states, actions, goals = (np.asarray(array, dtype=np.float32) for array in arrays[:3])
    for name, value, width in (("observations", states, 4), ("actions", actions, 2), ("infos/goal", goals, 2)):
        if value.ndim != 2 or value.shape != (len(states), width) or not len(states):
            raise ValueError(f"{path}: {name} is {value.shape}, expected finite (N, {width})")
        _check_finite(str(path), name, value)
    for array in arrays[3:]:
        if array.shape not in ((len(states),), (len(states), 1)):
            raise ValueError(f"{path}: {array.name[1:]} is {array.shape}, expected ({len(states)},)")
    # Flags are floats in some of D4RL's files.
    marked = np.zeros(len(states), dtype=bool)
    for array in arrays[3:]:
        marked |= np.asarray(array).reshape(-1) != 0
    return states, actions, goals, marked


def _check_finite(where: str, name: str, value: NDArray[Any]) -> None:
    if not np.isfinite(value).all():
        raise ValueError(f"{where}: {name} is {value.shape} with NaN or infinite, expected finite")


def _last(n: int) -> NDArray[np.bool_]:
    marks = np.zeros(n, dtype=bool)
    marks[-1:] = True
    return marks


def _changes(goals: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(N): whether the next step has another goal."""
    return np.append((goals[1:] != goals[:-1]).any(axis=1), False)


def _episodes(file: h5py.File) -> list[str]:
    """Minari's groups, in their order."""
    names = [name for name in file if re.fullmatch(r"episode_\d+", name) and isinstance(file.get(name), h5py.Group)]
    return sorted(names, key=lambda name: int(name.rsplit("_", 1)[1]))


# -- which maze -------------------------------------------------------------------------------------------------------


def _no_offset(maze: MazeMap) -> NDArray[np.float32]:
    return np.zeros(2, dtype=np.float32)


def _d4rl_origin(maze: MazeMap) -> NDArray[np.float32]:
    """(2) m of D4RL's origin in the map, once x and y are turned: from the map's upper left corner."""
    width, height = maze.size
    return np.array([_D4RL_CORNER - width / 2, height / 2 - _D4RL_CORNER], dtype=np.float32)


def _said_by_d4rl(file: h5py.File, path: Path) -> str:
    """By the attribute, or as the published files are called: maze2d-umaze-sparse-v1.hdf5. '': nothing."""
    if "maze" in file.attrs:
        return maze_task(str(file.attrs["maze"])).name
    name = path.stem.lower()
    if other := re.search(r"bullet|maze2d-open|maze2d-eval-[a-z]+", name):
        raise ValueError(
            f"{path}: of {other[0]}, expected one of {', '.join(MAZE_TASKS)}: the mazes that are simulated"
        )
    said = {maze for maze in MAZE_TASKS if re.search(rf"(?<![a-z]){maze}(?![a-z])", name)}
    return said.pop() if len(said) == 1 else ""


def _said_by_minari(file: h5py.File, path: Path) -> str:
    """By the environment's map or name. '': nothing."""
    text: Any = file.attrs.get("env_spec")
    beside = path.with_name(_METADATA)
    try:
        if text is None and beside.is_file() and beside.resolve().parent == path.resolve().parent:
            text = json.loads(beside.read_text()).get("env_spec")
        spec = json.loads(text) if isinstance(text, (str, bytes)) else text
        if spec is None:
            return ""
        name, walls = str(spec["id"]), (spec.get("kwargs") or {}).get("maze_map")
        grid = None if walls is None else np.array([[cell == 1 for cell in row] for row in walls], dtype=bool)
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: env_spec cannot be read ({error}), expected a Gymnasium environment's") from None
    for task in MAZE_TASKS.values():
        if grid is not None:
            if np.array_equal(grid, load_map(task).walls):
                return task.name
        elif name.split("-")[0].lower() in (f"pointmaze_{task.name}", f"pointmaze_{task.name}dense"):
            return task.name
    raise ValueError(
        f"{path}: of {name}{'' if grid is None else ' with another map'}, expected the map of one of"
        f" {', '.join(task.environment for task in MAZE_TASKS.values())}"
    )


def _task(path: Path, said: str, positions: NDArray[np.float32], origin: Origin) -> str:
    """The maze that the file names, if the ball could be where the positions (N, 2) say; else the only one where so."""
    names = [said] if said else list(MAZE_TASKS)
    placed = {name: _outside(maze_task(name), positions, origin) for name in names}
    fitting = [name for name in names if placed[name] is None]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        name, (step, problem) = max(((n, p) for n, p in placed.items() if p), key=lambda item: item[1][0])
        raise ValueError(f"{path}: step {step}: {problem} of the maze {name}, expected a free cell")
    raise ValueError(
        f"{path}: its positions fit {', '.join(fitting)}, expected the maze's name in the file's name, as in"
        " maze2d-umaze-sparse-v1.hdf5"
    )


def _outside(task: MazeTask, positions: NDArray[np.float32], origin: Origin) -> tuple[int, str] | None:
    """The first of the positions (N, 2) that lies in no free cell, and where that is; None: all do."""
    maze = load_map(task)
    placed = positions + origin(maze)
    width, height = maze.size
    cells = np.floor(np.stack([height / 2 - placed[:, 1], placed[:, 0] + width / 2], axis=1)).astype(int)
    inside = np.asarray(((cells >= 0) & (cells < maze.walls.shape)).all(axis=1))
    free = inside.copy()
    free[inside] = ~maze.walls[tuple(cells[inside].T)]
    if free.all():
        return None
    step = int(np.argmin(free))
    return step, maze.problem(placed[step].astype(np.float64))
