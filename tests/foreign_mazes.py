"""Files in the layouts of D4RL's Maze2D and Minari's PointMaze: their keys and frames, our simulator's numbers.

D4RL: scripts/generation/generate_maze2d_datasets.py and d4rl/pointmaze/maze_model.py, at 89141a6. Minari: 0.5.3,
minari/dataset/_storages/hdf5_storage.py and docs/tutorials/dataset_creation/point_maze_dataset.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from diffusion_ros.simulators.maze import MazeMap, MazeSimulation, WaypointController

D4RL_BODY = 1.2
"""Where D4RL's ball is in its world while its joints, the observed positions, are zero."""


def d4rl_position(maze: MazeMap, point: np.ndarray) -> np.ndarray:
    """(2) as D4RL observes it: its walls are boxes of a metre about (row + 1, column + 1) of the world."""
    width, height = maze.size
    down, right = height / 2 - point[1], point[0] + width / 2  # from the map's upper left corner
    return np.array([down + 0.5, right + 0.5]) - D4RL_BODY


def d4rl_vector(vector: np.ndarray) -> np.ndarray:
    """(2): a velocity or a force along D4RL's rows and columns."""
    return np.array([-vector[1], vector[0]])


def drive(
    simulation: MazeSimulation,
    steps: int,
    seed: int,
    goal_offset: tuple[float, float],
    reached: Callable[[np.ndarray, np.ndarray], bool],
) -> dict[str, np.ndarray]:
    """A stream of one ball in the frame `map`: states (N + 1, 4), forces (N, 2), goals (N, 2), reached (N).

    It drives on to another goal as soon as the last is `reached`, as both do, and never rests.
    """
    rng = np.random.default_rng(seed)
    maze = simulation.map

    def draw() -> np.ndarray:
        cell = maze.free_cells[rng.integers(len(maze.free_cells))]
        return maze.centre(cell) + goal_offset + rng.uniform(-0.1, 0.1, 2)

    simulation.reset(seed, start=draw())
    states = [np.append(simulation.position, simulation.velocity)]
    forces, goals, flags = [], [], []
    goal = draw()
    controller = WaypointController(maze, goal)
    for _ in range(steps):
        force = np.clip(controller.force(states[-1][:2], states[-1][2:]) + 0.1 * rng.standard_normal(2), -1, 1)
        simulation.step(force)
        states.append(np.append(simulation.position, simulation.velocity))
        forces.append(force)
        goals.append(goal)
        flags.append(reached(states[-1][:2], goal))
        while flags[-1] and reached(states[-1][:2], goal):
            goal = draw()
            controller = WaypointController(maze, goal)
    return {
        name: np.array(value)
        for name, value in zip(("states", "forces", "goals", "reached"), (states, forces, goals, flags), strict=True)
    }


def write_d4rl(path: Path, maze: str = "umaze", steps: int = 2000, published: bool = True) -> dict[str, np.ndarray]:
    """D4RL's keys, all float32. Returns the stream in the frame `map`.

    published: `timeouts` where a goal was reached and `terminals` nowhere, both floats; otherwise as the script writes
        it today, `terminals` alone, bool.
    """
    simulation = MazeSimulation(maze)
    # A goal's cell is at (row, column) of the joints: 0.2 m down and right of the cell's centre.
    stream = drive(simulation, steps, 0, (0.2, -0.2), lambda at, goal: bool(np.linalg.norm(at - goal) < 0.1))
    observed = np.array(
        [np.append(d4rl_position(simulation.map, s[:2]), d4rl_vector(s[2:])) for s in stream["states"][:-1]]
    )
    goals = np.array([d4rl_position(simulation.map, goal) for goal in stream["goals"]])
    exact = observed.copy()
    # After a goal the script keeps the observation, although the ball has moved.
    late = np.flatnonzero(stream["reached"][:-1])
    observed[late + 1] = observed[late]
    with h5py.File(path, "w") as file:
        for name, value in (
            ("observations", observed),
            ("actions", np.array([d4rl_vector(force) for force in stream["forces"]])),
            ("rewards", np.zeros(steps)),
            ("infos/goal", goals),
            ("infos/qpos", exact[:, :2]),
            ("infos/qvel", exact[:, 2:]),
        ):
            file.create_dataset(name, data=value.astype(np.float32), compression="gzip")
        if published:
            file["timeouts"] = stream["reached"].astype(np.float32)
            file["terminals"] = np.zeros(steps, np.float32)
        else:
            file["terminals"] = stream["reached"]
    simulation.close()
    return stream


def write_minari(
    path: Path, maze: str = "umaze", steps: int = 2000, attributes: bool = False, **kwargs: Any
) -> dict[str, np.ndarray]:
    """Minari's main_data.hdf5 and metadata.json beside it. Returns the stream in the frame `map`.

    attributes: the environment stands in the file's attributes, as before Minari 0.4.3.
    """
    simulation = MazeSimulation(maze)
    stream = drive(simulation, steps, 0, (0.0, 0.0), lambda at, goal: bool(np.linalg.norm(at - goal) <= 0.45))
    states, goals = stream["states"], stream["goals"]
    last = np.append(np.flatnonzero(stream["reached"][:-1]), steps - 1)
    first = np.append(0, last[:-1] + 1)
    with h5py.File(path, "w", track_order=True) as file:
        for number, (begin, end) in enumerate(zip(first, last, strict=True)):
            n = end - begin + 1
            rows = states[begin : end + 2]
            # The goal stands in the observation that was made before another was drawn.
            desired = goals[np.maximum(np.arange(begin - 1, end + 1), 0)]
            group = file.create_group(f"episode_{number}")
            group.attrs["id"], group.attrs["total_steps"] = number, n
            flags = np.arange(n) == n - 1
            for name, value in (
                ("observations/observation", rows),
                ("observations/achieved_goal", rows[:, :2]),
                ("observations/desired_goal", desired),
                ("actions", stream["forces"][begin : end + 1]),
                ("rewards", flags.astype(float)),
                ("terminations", np.zeros(n, bool)),
                ("truncations", flags),
                ("infos/success", np.append(number > 0, flags)),
                ("infos/goal", desired),
                ("infos/qpos", rows[:, :2]),
                ("infos/qvel", rows[:, 2:]),
            ):
                group.create_dataset(name, data=value, chunks=True, maxshape=(None, *value.shape[1:]))
        environment = {"umaze": "UMaze", "medium": "Medium", "large": "Large"}[maze]
        spec = json.dumps(
            {
                "id": f"PointMaze_{environment}-v3",
                "entry_point": "gymnasium_robotics.envs.maze.point_maze:PointMazeEnv",
                "max_episode_steps": 1000000,
                "kwargs": {"reward_type": "sparse", "continuing_task": True, "reset_target": True, **kwargs},
            }
        )
        about = {"total_episodes": len(last), "total_steps": steps, "dataset_id": f"D4RL/pointmaze/{maze}-v2"}
        if attributes:
            file.attrs.update({**about, "env_spec": spec})
        else:
            path.with_name("metadata.json").write_text(json.dumps({**about, "data_format": "hdf5", "env_spec": spec}))
    simulation.close()
    return stream
