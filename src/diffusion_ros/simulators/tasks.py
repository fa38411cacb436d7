"""All tasks by name. The file is light to import, so that a command line can list them without a simulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffusion_ros.ranges import outside

Array = NDArray[np.float64]

_GREATEST_SPEED = 100.0
"""Of a joint that is believed [m/s, rad/s]; episodes end long before."""


@dataclass(frozen=True)
class ArmTask:
    """A robosuite task: its environment's name, the body that is handled and how long an episode may last."""

    environment: str
    body: str
    max_steps: int
    base_position: tuple[float, float, float] = (-0.56, 0.0, 0.912)
    """Where the robot stands in the world [m], its axes along the world's: robosuite's at a table."""

    @property
    def base_pose(self) -> tuple[float, ...]:
        """As a checkpoint's specification has it (7): position [m], quaternion xyzw."""
        return (*self.base_position, 0.0, 0.0, 0.0, 1.0)


ARM_RESPONSE = (88.2, 0.803, 34.2, 0.82)
"""How robosuite's arm follows its operational space controller, stiffness [1/s^2] and damping ratio of position and of
rotation (see CheckpointSpec.response): measured by training.response. The controller's own are 150 and 1."""
ARM_TASKS = {
    "lift": ArmTask("Lift", "cube_main", 200),
    "can": ArmTask("PickPlaceCan", "Can_main", 400, (-0.5, -0.1, 0.912)),
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


@dataclass(frozen=True)
class GymTask:
    """A Gymnasium task as a machine with joints: a cart on a rail and the links of a pole on it."""

    name: str
    environment: str
    """The Gymnasium id."""
    rate: float
    """Control steps a second [Hz]."""
    max_steps: int
    """After so many steps Gymnasium's time limit truncates an episode."""
    joints: tuple[str, ...]
    """The cart's [m], then each link's against the one before [rad]; 0 is upright."""
    links: tuple[float, ...]
    """Lengths [m]."""
    reach: float
    """How far from the middle of its rail the cart may go [m]."""
    efforts: tuple[float, ...]
    """What each discrete action puts on the first joint, by its number [N]; of a continuous action the limits, in the
    environment's unit."""
    discrete: bool
    observation: Callable[[Array, Array, Array], Array]
    """The environment's observation (n) from positions, velocities and efforts of the joints."""
    observation_size: int
    has_efforts: bool
    """Whether efforts are part of the observation."""

    @property
    def kind(self) -> str:
        """Of the checkpoints that act in it."""
        return "discrete policy" if self.discrete else "continuous policy"

    def effort(self, action: float) -> float:
        """What an action puts on the first joint. Raises ValueError for what is no action."""
        if not self.discrete:
            low, high = self.efforts
            if not low <= action <= high:  # so written for NaN
                raise ValueError(f"effort {action:g}, {low:g} to {high:g} expected")
            return float(action)
        if action not in range(len(self.efforts)):
            raise ValueError(f"action {action:g}, one of 0 to {len(self.efforts) - 1} expected")
        return self.efforts[int(action)]

    def action(self, effort: float) -> float:
        """The action that puts `effort` on the first joint. Raises ValueError where there is none."""
        if not self.discrete:
            return self.effort(effort)
        if effort not in self.efforts:
            raise ValueError(f"effort {effort:g}, one of {', '.join(f'{e:g}' for e in self.efforts)} expected")
        return self.efforts.index(effort)

    def impossible(self, positions: Array, velocities: Array) -> str:
        """Why no machine like this can be in such a state, '' for one that can be."""
        places = [2 * self.reach, *[2 * np.pi] * (len(self.joints) - 1)]
        speeds = [_GREATEST_SPEED] * len(self.joints)
        return outside("joint positions", positions, [-x for x in places], places) or outside(
            "joint velocities", velocities, [-x for x in speeds], speeds
        )

    def ends(self, positions: Array) -> Array:
        """(1 + links, 2) m: x and height of the cart's pivot and of each link's end."""
        angles = np.cumsum(positions[1:])
        steps = np.array(self.links)[:, None] * np.stack([np.sin(angles), np.cos(angles)], axis=1)
        ends: Array = np.array([positions[0], 0.0]) + np.vstack([np.zeros(2), np.cumsum(steps, axis=0)])
        return ends


def _cartpole_observation(positions: Array, velocities: Array, efforts: Array) -> Array:
    """
    ===== ============================= ========== ========
    index meaning                       fails at   unit
    ===== ============================= ========== ========
    0     position of the cart          +-2.4      m
    1     velocity of the cart                     m/s
    2     angle of the pole, 0 upright  +-0.209    rad
    3     angular velocity of the pole             rad/s
    ===== ============================= ========== ========
    """
    observation = np.array([positions[0], velocities[0], positions[1], velocities[1]])
    return observation.astype(np.float32).astype(np.float64)


def _double_pendulum_observation(positions: Array, velocities: Array, efforts: Array) -> Array:
    """
    ===== ======================================= ============ ============
    index meaning                                 clipped to   unit
    ===== ======================================= ============ ============
    0     position of the cart                                 m
    1-2   sine of the angles of hinge and hinge2               1
    3-4   their cosine                                         1
    5-7   velocities of slider, hinge and hinge2  +-10         m/s, rad/s
    8     constraint force on the cart            +-10         N
    ===== ======================================= ============ ============
    """
    return np.concatenate(
        [
            positions[:1],
            np.sin(positions[1:]),
            np.cos(positions[1:]),
            np.clip(velocities, -10, 10),
            np.clip(efforts, -10, 10)[:1],
        ]
    )


GYM_TASKS = {
    "cartpole": GymTask(
        name="cartpole",
        environment="CartPole-v1",
        rate=50.0,
        max_steps=500,
        joints=("cart", "pole"),
        links=(1.0,),
        reach=2.4,
        efforts=(-10.0, 10.0),
        discrete=True,
        observation=_cartpole_observation,
        observation_size=4,
        has_efforts=False,
    ),
    "double_pendulum": GymTask(
        name="double_pendulum",
        environment="InvertedDoublePendulum-v5",
        rate=20.0,
        max_steps=1000,
        joints=("slider", "hinge", "hinge2"),
        links=(0.6, 0.6),
        reach=1.0,
        efforts=(-1.0, 1.0),
        discrete=False,
        observation=_double_pendulum_observation,
        observation_size=9,
        has_efforts=True,
    ),
}


def gym_task(name: str) -> GymTask:
    """The task called `name`; ValueError names the ones there are."""
    if name not in GYM_TASKS:
        raise ValueError(f"unknown task {name!r}: expected one of {', '.join(GYM_TASKS)}")
    return GYM_TASKS[name]
