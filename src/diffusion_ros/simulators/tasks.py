"""All tasks by name. The file is light to import, so that a command line can list them without a simulator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ArmTask:
    """A robosuite task: its environment's name, the body that is handled and how long an episode may last."""

    environment: str
    body: str
    max_steps: int


ARM_TASKS = {
    "lift": ArmTask("Lift", "cube_main", 200),
    "can": ArmTask("PickPlaceCan", "Can_main", 400),
    "square": ArmTask("NutAssemblySquare", "SquareNut_main", 400),
}


def arm_task(name: str) -> ArmTask:
    """The task called `name`; ValueError names the ones there are."""
    if name not in ARM_TASKS:
        raise ValueError(f"unknown task {name!r}: expected one of {', '.join(ARM_TASKS)}")
    return ARM_TASKS[name]


@dataclass(frozen=True)
class MazeTask:
    """One of D4RL's three (Fu et al. 2020, arXiv 2004.07219) as gymnasium-robotics has them today."""

    name: str
    environment: str
    goal_cell: tuple[int, int]
    """Row and column of the one goal of single-task evaluation."""
    max_steps: int
    low_score: float
    """Return of a random policy, D4RL's reference minimum."""
    high_score: float
    """Return of D4RL's controller, its reference maximum."""

    def score(self, mean_return: float) -> float:
        """D4RL's normalisation: 0 for its random policy, 100 for its controller."""
        return 100 * (mean_return - self.low_score) / (self.high_score - self.low_score)


MAZE_TASKS = {
    task.name: task
    for task in (
        MazeTask("umaze", "PointMaze_UMaze-v3", (3, 1), 300, 23.85, 161.86),
        MazeTask("medium", "PointMaze_Medium-v3", (6, 6), 600, 13.13, 277.39),
        MazeTask("large", "PointMaze_Large-v3", (7, 10), 800, 6.7, 273.99),
    )
}


def maze_task(name: str) -> MazeTask:
    """The maze called `name`; ValueError names the ones there are."""
    if name not in MAZE_TASKS:
        raise ValueError(f"unknown maze {name!r}: expected one of {', '.join(MAZE_TASKS)}")
    return MAZE_TASKS[name]
