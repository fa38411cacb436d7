"""Gymnasium's CartPole and inverted double pendulum behind reset / step / observe, as a robot's driver would have them.

What a policy observes is a function of the joints (`GymTask.observation`), so that joint states carry all of it: from
them comes the environment's own observation, bit for bit. No ROS here; Gymnasium and MuJoCo are imported only when a
simulation is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from diffusion_ros.control.action_chunk import outside
from diffusion_ros.installation import require
from diffusion_ros.simulators.render_backend import choose_render_backend
from diffusion_ros.simulators.scene import SceneGeom

Array = NDArray[np.float64]
Image = NDArray[np.uint8]

IMAGE_SHAPE = (240, 320)
"""Height and width [px]."""
_GREATEST_SPEED = 100.0
"""Of a joint that is believed [m/s, rad/s]; episodes end long before."""
_MARGIN = 0.5
"""Metres beyond either end of the rail that a picture shows."""
_LEVEL = 0.68
"""Of the rail, as a part of the picture's height."""
_SKY, _RAIL, _CART = (238, 241, 245), (120, 125, 130), (45, 50, 60)
_POLES = ((202, 120, 60), (60, 130, 200))


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

    def scene(self, positions: Array) -> list[SceneGeom]:
        """Rail, cart and links for viewers; the rail along x at height 0, angles about y."""
        x = float(positions[0])
        upright = np.array([0.0, 0.0, 0.0, 1.0])
        along_x = np.array([0.0, np.sqrt(0.5), 0.0, np.sqrt(0.5)])
        rail = SceneGeom("rail", "cylinder", (0.02, self.reach, 0.0), np.zeros(3), along_x, (0.5, 0.5, 0.55, 1.0))
        cart = SceneGeom("cart", "box", (0.2, 0.1, 0.1), np.array([x, 0.0, 0.0]), upright, (0.18, 0.2, 0.24, 1.0))
        geoms = [rail, cart]
        for i, (start, end) in enumerate(zip(ends := self.ends(positions), ends[1:], strict=False)):
            angle = float(np.sum(positions[1 : i + 2]))
            red, green, blue = (level / 255 for level in _POLES[i])
            geoms.append(
                SceneGeom(
                    name=self.joints[1 + i],
                    type="capsule",
                    size=(0.045, self.links[i] / 2, 0.0),
                    position=np.array([(start[0] + end[0]) / 2, 0.0, (start[1] + end[1]) / 2]),
                    quaternion=np.array([0.0, np.sin(angle / 2), 0.0, np.cos(angle / 2)]),
                    rgba=(red, green, blue, 1.0),
                )
            )
        return geoms

    def ends(self, positions: Array) -> Array:
        """(1 + links, 2) m: x and height of the cart's pivot and of each link's end."""
        angles = np.cumsum(positions[1:])
        steps = np.array(self.links)[:, None] * np.stack([np.sin(angles), np.cos(angles)], axis=1)
        ends: Array = np.array([positions[0], 0.0]) + np.vstack([np.zeros(2), np.cumsum(steps, axis=0)])
        return ends

    def draw(self, positions: Array, effort: float = 0.0, shape: tuple[int, int] = IMAGE_SHAPE) -> Image:
        """(*shape, 3) rgb of the cart and its links from the side, with an arrow for the effort on the cart."""
        height, width = shape
        scale = width / (2 * (self.reach + _MARGIN))
        picture = np.full((height, width, 3), _SKY, dtype=np.uint8)
        fraction = 4  # bits of a pixel that the drawing routines take

        def pixel(x: float, z: float) -> tuple[int, int]:
            # Far outside a coordinate would not fit the drawing routines' integers.
            column, row = np.clip([width / 2 + scale * x, height * _LEVEL - scale * z], -4 * width, 4 * width)
            return round(float(column) * 2**fraction), round(float(row) * 2**fraction)

        def line(start: Any, end: Any, colour: tuple[int, int, int], thickness: int) -> None:
            cv2.line(picture, pixel(*start), pixel(*end), colour, thickness, cv2.LINE_AA, fraction)

        x = float(positions[0])
        line((-self.reach, 0.0), (self.reach, 0.0), _RAIL, width // 160)
        cv2.rectangle(picture, pixel(x - 0.2, 0.1), pixel(x + 0.2, -0.1), _CART, -1, cv2.LINE_AA, fraction)
        ends = self.ends(positions)
        for start, end, colour in zip(ends, ends[1:], _POLES, strict=False):
            line(start, end, colour, width // 64)
        cv2.circle(picture, pixel(*ends[0]), width * 2**fraction // 107, _RAIL, -1, cv2.LINE_AA, fraction)
        if effort:
            tip = x + 0.6 * effort / max(abs(e) for e in self.efforts)
            cv2.arrowedLine(
                picture,
                pixel(x, -0.25),
                pixel(tip, -0.25),
                (200, 60, 60),
                width // 160,
                cv2.LINE_AA,
                fraction,
                tipLength=0.25,
            )
        return picture


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


class GymSimulation:
    """One of the tasks, without Gymnasium's time limit: how long an episode lasts is for the caller to say."""

    def __init__(self, task: str) -> None:
        """Raises ValueError for an unknown task."""
        self.task = gym_task(task)
        require("gymnasium", *([] if self.task.discrete else ["mujoco"]))
        # Nothing here draws with OpenGL, but MuJoCo binds whatever this process will draw with when it is imported.
        with suppress(OSError):
            choose_render_backend()
        import gymnasium

        self._env: Any = gymnasium.make(self.task.environment).unwrapped
        self._mujoco = hasattr(self._env, "data")
        self._observation: Array = np.zeros(self.task.observation_size)
        self.terminated = False
        """Whether the task has failed: the pole has fallen, or the cart has left the rail."""
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Gymnasium's own start state of that seed."""
        observation, _ = self._env.reset(seed=seed)
        self._observation = np.array(observation, dtype=np.float64)
        self.terminated = False

    def observe(self) -> Array:
        """(n) float64: the environment's observation; a policy takes it as float32."""
        return self._observation.copy()

    def step(self, effort: float) -> float:
        """A control step with `effort` on the cart; returns the reward.

        CartPole's environment pushes to the left or to the right and knows nothing else. Effort 0, a hold, is a step of
        the same physics with a force of 0 N: the pole is not pushed by a guess, and it falls if nobody balances it.
        Raises ValueError for an effort that no action has.
        """
        if not self.task.discrete:
            action: Any = np.array([self.task.action(effort)])
        elif effort:
            action = int(self.task.action(effort))
        else:
            action = 0
        force = getattr(self._env, "force_mag", None)
        try:
            if force is not None and not effort:
                self._env.force_mag = 0.0
            observation, reward, terminated, _, _ = self._env.step(action)
        finally:
            if force is not None:
                self._env.force_mag = force
        self._observation = np.array(observation, dtype=np.float64)
        self.terminated = bool(terminated)
        return float(reward)

    @property
    def joint_positions(self) -> Array:
        """(joints) m for the cart, rad for the links."""
        if self._mujoco:
            return np.array(self._env.data.qpos)
        return np.array(self._env.state[[0, 2]])

    @property
    def joint_velocities(self) -> Array:
        """(joints) m/s, rad/s."""
        if self._mujoco:
            return np.array(self._env.data.qvel)
        return np.array(self._env.state[[1, 3]])

    @property
    def joint_efforts(self) -> Array:
        """(joints) N, N m: what constraints (the ends of the rail) put on the joints; (0) where nothing observes it."""
        return np.array(self._env.data.qfrc_constraint) if self._mujoco else np.zeros(0)

    def state(self) -> Array:
        """(2 joints) positions, then velocities, as the physics has them."""
        return np.concatenate([self.joint_positions, self.joint_velocities])

    def state_hash(self) -> str:
        """SHA-256 of :meth:`state`: equal exactly when two simulators are in the same state, bit for bit."""
        return hashlib.sha256(self.state().tobytes()).hexdigest()

    def close(self) -> None:
        """Frees the environment."""
        self._env.close()
