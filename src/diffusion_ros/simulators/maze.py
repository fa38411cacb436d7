"""The mazes of gymnasium-robotics' PointMaze: the map, the way-point oracle and the simulator. The only file for them.

A maze lies in the frame `map`: metres, origin at its centre, x to the right and y up in its drawing; a cell is a square
metre. The robot is a ball pushed by forces, 100 steps a second: here in parts of the largest (-1 to 1 in x and y).
"""

from __future__ import annotations

import io
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffusion_ros.control.path_follower import drive_to
from diffusion_ros.installation import require
from diffusion_ros.simulators.render_backend import choose_render_backend
from diffusion_ros.simulators.tasks import MazeTask, maze_task

Array = NDArray[np.float64]
Cell = tuple[int, int]

RATE = 100.0
"""Control steps a second [Hz]."""
BALL_RADIUS = 0.1
"""Metres."""
GOAL_RADIUS = 0.45
"""Metres within which the environment gives a reward of 1 a step."""
MAX_SPEED = 5.0
"""m/s in each axis."""
MAX_FORCE = 100.0
"""Newtons in each axis: the gear of the model's motors, which take parts of it."""
FRAME = "map"
BALL_FRAME = "base_link"
"""The ball's: its centre on the ground, its axes those of the map (REP 105's name for a robot's body)."""


@dataclass(frozen=True, eq=False)
class MazeMap:
    """Which cells are walls, (rows, columns) bool; row 0 is at the top."""

    walls: NDArray[np.bool_]

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in metres."""
        return float(self.walls.shape[1]), float(self.walls.shape[0])

    @cached_property
    def free_cells(self) -> list[Cell]:
        """All cells that are not walls, row by row."""
        return [(int(row), int(column)) for row, column in np.argwhere(~self.walls)]

    def centre(self, cell: Cell) -> Array:
        """(2) m of a cell's centre."""
        width, height = self.size
        return np.array([cell[1] + 0.5 - width / 2, height / 2 - cell[0] - 0.5])

    def cell(self, position: Array) -> Cell:
        """The cell that a position (2) m lies in; beyond the border it is no cell of the map."""
        width, height = self.size
        return int(np.floor(height / 2 - position[1])), int(np.floor(position[0] + width / 2))

    def problem(self, position: Array, margin: float = 0.0) -> str:
        """Why a ball could not be at a position (2) m, or ''; `margin` metres are kept from every wall."""
        if not np.isfinite(position).all():
            return f"({position[0]}, {position[1]}) is not finite"
        row, column = self.cell(position)
        if not (0 <= row < self.walls.shape[0] and 0 <= column < self.walls.shape[1]):
            width, height = self.size
            return (
                f"({position[0]:.2f}, {position[1]:.2f}) lies outside the map of {width:g} x {height:g} m"
                " about the origin"
            )
        distance = float(self.wall_distance(position[None])[0])
        if distance <= margin:
            where = "in a wall" if distance <= 0 else f"{distance:.2f} m from a wall, less than {margin:g} m"
            return f"({position[0]:.2f}, {position[1]:.2f}) is {where}"
        return ""

    @cached_property
    def _wall_centres(self) -> Array:
        return np.array([self.centre((int(row), int(column))) for row, column in np.argwhere(self.walls)])

    def wall_distance(self, positions: Array) -> Array:
        """Metres from positions (N, 2) to the nearest wall (N); 0 inside one."""
        outside = np.maximum(np.abs(positions[:, None] - self._wall_centres[None]) - 0.5, 0.0)
        nearest: Array = np.linalg.norm(outside, axis=2).min(axis=1)
        return nearest

    def steps_to(self, goal: Cell) -> NDArray[np.int64]:
        """Cells between each cell and the goal on the shortest way (rows, columns), by breadth-first search; -1: none.

        Raises ValueError for a goal in a wall.
        """
        if self.walls[goal]:
            raise ValueError(f"cell {goal}: is a wall")
        steps = np.full(self.walls.shape, -1)
        steps[goal] = 0
        queue = deque([goal])
        while queue:
            row, column = queue.popleft()
            for near in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
                if not self.walls[near] and steps[near] < 0:
                    steps[near] = steps[row, column] + 1
                    queue.append(near)
        return steps


def load_map(task: MazeTask) -> MazeMap:
    """The map as gymnasium-robotics has it."""
    with _import_quietly():
        from gymnasium_robotics.envs.maze import maps

    grid = {"umaze": maps.U_MAZE, "medium": maps.MEDIUM_MAZE, "large": maps.LARGE_MAZE}[task.name]
    return MazeMap(np.array([[cell == 1 for cell in row] for row in grid]))


class WaypointController:
    """The oracle: it knows the map and drives through the centres of the cells on the shortest way to a goal.

    The next cell's centre is the target once the ball is within `switch` metres of the one before.
    """

    def __init__(self, maze: MazeMap, goal: Array, switch: float = 0.5) -> None:
        self.maze = maze
        self.goal = np.asarray(goal, dtype=np.float64)
        self.switch = switch
        self._steps = maze.steps_to(maze.cell(self.goal))
        self._target: Cell | None = None

    def force(self, position: Array, velocity: Array) -> Array:
        """(2) in [-1, 1] for a position (2) m and velocity (2) m/s."""
        row, column = self.maze.cell(position)
        goal_cell = self.maze.cell(self.goal)
        if self._target is None:
            self._target = (row, column)
        while self._target != goal_cell:
            if np.linalg.norm(self.maze.centre(self._target) - position) > self.switch:
                break
            self._target = self._next(self._target)
        target = self.goal if self._target == goal_cell else self.maze.centre(self._target)
        return drive_to(target, position, velocity)

    def _next(self, cell: Cell) -> Cell:
        row, column = cell
        nears = ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1))
        return min((near for near in nears if self._steps[near] >= 0), key=lambda near: self._steps[near])


@contextmanager
def _import_quietly() -> Iterator[None]:
    """For importing gymnasium-robotics: it brings MuJoCo, and prints every time which other environments have changed.

    A maze draws nothing itself, but MuJoCo binds whatever this process will draw with when it is imported.
    """
    with suppress(OSError):
        choose_render_backend()
    with redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def jumped(before: Array, after: Array, seconds: float) -> bool:
    """Whether a ball cannot have gone from one position (2) m to the other in that time: it was set somewhere else."""
    return bool(np.linalg.norm(after - before) > np.sqrt(2) * MAX_SPEED * max(0.0, seconds) + BALL_RADIUS)


class MazeSimulation:
    """PointMaze without an end: 100 steps a second, reward 1 within 0.45 m of the goal."""

    def __init__(self, task: str) -> None:
        """Raises ValueError for an unknown maze."""
        self.task = maze_task(task)
        require("gymnasium", "mujoco")
        self.map = load_map(self.task)
        with _import_quietly():
            import gymnasium
            import gymnasium_robotics

            gymnasium.register_envs(gymnasium_robotics)
            env: Any = gymnasium.make(
                self.task.environment, continuing_task=True, reset_target=False, max_episode_steps=2**31
            )
        self._env = env
        self._maze = env.unwrapped
        # Read by now; it would stay in the temporary folder for ever.
        Path(self._maze.tmp_xml_file_path).unlink(missing_ok=True)
        self._point = env.unwrapped.point_env
        self.goal = np.zeros(2)
        self.reset(0)

    def reset(self, seed: int, start: Array | None = None, goal: Array | None = None) -> None:
        """At rest, start and goal drawn from `seed` where they are not given (2) m: a cell's centre +- 0.25 m.

        The goal that is drawn lies in the task's goal cell. Raises ValueError for a start or goal in a wall.
        """
        self._env.reset(seed=seed, options={"goal_cell": np.array(self.task.goal_cell)})
        for name, value in (("start", start), ("goal", goal)):
            if value is not None and (problem := self.map.problem(np.asarray(value, dtype=np.float64))):
                raise ValueError(f"{name} {problem}")
        self.goal = np.array(self._maze.goal if goal is None else goal, dtype=np.float64)
        if start is not None:
            self._point.set_state(np.asarray(start, dtype=np.float64), np.zeros(2))

    @property
    def position(self) -> Array:
        """(2) m."""
        return np.array(self._point.data.qpos)

    @property
    def velocity(self) -> Array:
        """(2) m/s."""
        return np.array(self._point.data.qvel)

    def step(self, force: Array) -> float:
        """Pushes for one step with a force (2), clipped to [-1, 1]; returns the reward."""
        force = np.asarray(force, dtype=np.float64)
        if force.shape != (2,) or not np.isfinite(force).all():
            raise ValueError(f"force {force.tolist()}: expected 2 finite numbers")
        self._point.step(force)
        return float(np.linalg.norm(self.position - self.goal) <= GOAL_RADIUS)

    def close(self) -> None:
        """Frees the environment."""
        self._env.close()
