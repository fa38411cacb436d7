"""Collects the data of a maze as D4RL did for Maze2D (Fu et al. 2020, arXiv 2004.07219), in its HDF5 format.

A way-point controller drives from one random goal to the next. The file records the executed forces, noise included.
Each leg ends when the ball has come to rest at its goal.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from diffusion_ros.atomic_file import atomic_write
from diffusion_ros.installation import require
from diffusion_ros.simulators.maze import MazeSimulation, WaypointController
from diffusion_ros.simulators.tasks import maze_task
from training import command_line
from training.data.parts import Job, parts
from training.parallel import Workers

GOAL_NOISE = 0.25
"""Goals lie in the middle half of a cell, as the environment's own do [m]."""
ARRIVED = 0.05
"""A leg is over this near to its goal [m] ..."""
AT_REST = 0.1
"""... and this slow [m/s]."""


@dataclass(frozen=True)
class Options:
    """Collects a stream of legs between random goals in a maze."""

    size: str
    """umaze, medium or large."""
    out: Path
    """The HDF5 file to write."""
    steps: int = 1_000_000
    """Number of control steps, 10 ms each."""
    seed: int = 0
    """Seed of the starts, goals and noise."""
    noise: float = 0.2
    """Each leg's noise on the forces has a deviation drawn from U(0, noise), in parts of the largest force."""
    part: int = 20_000
    """Steps of a part. A stopped collection repeats at most one part for each process."""
    workers: int = 2
    """Number of processes."""
    cluster: str | None = None
    """The address of a Dask scheduler, as tcp://host:8786: its workers do the work instead. They must see the same
    folders."""

    def __post_init__(self) -> None:
        maze_task(self.size)
        Workers(self.workers, self.cluster)
        if self.part < 1:
            raise ValueError(f"part {self.part}: must be at least 1")
        if self.steps < 1 or self.steps % self.part:
            raise ValueError(f"steps {self.steps}: must be a positive multiple of part, {self.part}")
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise {self.noise}: must lie in [0, 1]")


def record(simulation: MazeSimulation, steps: int, noise: float, seed: int) -> dict[str, np.ndarray]:
    """A stream of `steps`: observations (N, 4) m and m/s, actions (N, 2), infos/goal (N, 2) m, in float32."""
    rng = np.random.default_rng(seed)
    maze = simulation.map

    def draw() -> np.ndarray:
        cell = maze.free_cells[rng.integers(len(maze.free_cells))]
        return maze.centre(cell) + rng.uniform(-GOAL_NOISE, GOAL_NOISE, 2)

    simulation.reset(seed, start=draw())
    observations, actions, goals = (np.empty((steps, width), np.float32) for width in (4, 2, 2))
    controller: WaypointController | None = None
    sigma = 0.0
    for i in range(steps):
        position, velocity = simulation.position, simulation.velocity
        if controller is None or (
            np.linalg.norm(position - controller.goal) < ARRIVED and np.linalg.norm(velocity) < AT_REST
        ):
            controller = WaypointController(maze, draw())
            sigma = rng.uniform(0, noise)
        force = np.clip(controller.force(position, velocity) + sigma * rng.standard_normal(2), -1, 1)
        observations[i] = [*position, *velocity]
        actions[i], goals[i] = force, controller.goal
        simulation.step(force)
    return {"observations": observations, "actions": actions, "infos/goal": goals}


def _worker(options: Options) -> Callable[[Job], None]:
    """Prepares a worker: what it returns records a part."""
    simulation = MazeSimulation(options.size)

    def record_part(job: Job) -> None:
        seed, path = job
        stream = record(simulation, options.part, options.noise, seed)
        with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
            for name, value in stream.items():
                file.create_dataset(name, data=value)

    return record_part


def collect(options: Options) -> None:
    """Records what is missing and writes the file; OSError and RuntimeError say in one line what went wrong."""
    require("gymnasium_robotics", "mujoco")
    settings = {k: v for k, v in vars(options).items() if k not in ("out", "workers", "cluster", "steps")}
    team = Workers(options.workers, options.cluster)
    # Seeds of different collections are far apart, so that neither repeats a part of the other.
    seeds = [options.seed * 1_000_003 + i for i in range(options.steps // options.part)]
    with (
        parts(options.out, seeds, settings, partial(_worker, options), team, options.size, "part") as files,
        atomic_write(options.out) as temporary,
        h5py.File(temporary, "w") as file,
    ):
        opened = [h5py.File(part, "r") for part in files]
        for name in ("observations", "actions", "infos/goal"):
            file.create_dataset(name, data=np.concatenate([part[name] for part in opened]))
        for part in opened:
            part.close()
        ends = np.zeros(options.steps, dtype=bool)
        ends[options.part - 1 :: options.part] = True
        file.create_dataset("timeouts", data=ends)
        file.create_dataset("terminals", data=np.zeros(options.steps, dtype=bool))
        file.attrs["maze"] = options.size
        file.attrs["settings"] = json.dumps(settings, default=str)


def main() -> None:
    command_line.run(Options, collect, __doc__, "stopped; the same command goes on from here")


if __name__ == "__main__":
    main()
