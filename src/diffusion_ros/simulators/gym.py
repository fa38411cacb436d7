"""Gymnasium's CartPole and inverted double pendulum behind reset / step / observe, as a robot's driver would have them.

A policy's observation is a function of the joints (`GymTask.observation`). So joint states carry all of it, and give
back the environment's own observation bit for bit. No ROS here. Gymnasium and MuJoCo are imported only when a
simulation is made.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from diffusion_ros.installation import require
from diffusion_ros.simulators.render_backend import choose_render_backend
from diffusion_ros.simulators.scene import SceneGeom
from diffusion_ros.simulators.tasks import GymTask, gym_task

Array = NDArray[np.float64]
Image = NDArray[np.uint8]

IMAGE_SHAPE = (240, 320)
"""Height and width [px]."""
_MARGIN = 0.5
"""Metres beyond either end of the rail that a picture shows."""
_LEVEL = 0.68
"""Of the rail, as a part of the picture's height."""
_SKY, _RAIL, _CART = (238, 241, 245), (120, 125, 130), (45, 50, 60)
_POLES = ((202, 120, 60), (60, 130, 200))


def scene(task: GymTask, positions: Array) -> list[SceneGeom]:
    """Rail, cart and links for viewers; the rail along x at height 0, angles about y."""
    x = float(positions[0])
    upright = np.array([0.0, 0.0, 0.0, 1.0])
    along_x = np.array([0.0, np.sqrt(0.5), 0.0, np.sqrt(0.5)])
    rail = SceneGeom("rail", "cylinder", (0.02, task.reach, 0.0), np.zeros(3), along_x, (0.5, 0.5, 0.55, 1.0))
    cart = SceneGeom("cart", "box", (0.2, 0.1, 0.1), np.array([x, 0.0, 0.0]), upright, (0.45, 0.5, 0.6, 1.0))
    geoms = [rail, cart]
    for i, (start, end) in enumerate(zip(ends := task.ends(positions), ends[1:], strict=False)):
        angle = float(np.sum(positions[1 : i + 2]))
        red, green, blue = (level / 255 for level in _POLES[i])
        geoms.append(
            SceneGeom(
                name=task.joints[1 + i],
                type="capsule",
                size=(0.045, task.links[i] / 2, 0.0),
                position=np.array([(start[0] + end[0]) / 2, 0.0, (start[1] + end[1]) / 2]),
                quaternion=np.array([0.0, np.sin(angle / 2), 0.0, np.cos(angle / 2)]),
                rgba=(red, green, blue, 1.0),
            )
        )
    return geoms


def link_poses(task: GymTask, positions: Array, world: str, prefix: str = "") -> list[tuple[Array, Array, str, str]]:
    """Of the cart and of each link at the joint that turns it, called after their joints: position (3) m and quaternion
    (4) xyzw in the one before, its name and theirs. A link's z is along it, 0 in its joint upright.
    prefix: before all names."""
    found = [(np.array([float(positions[0]), 0.0, 0.0]), np.array([0.0, 0.0, 0.0, 1.0]), world, task.joints[0])]
    above = 0.0
    for i, (joint, before) in enumerate(zip(task.joints[1:], task.joints, strict=False)):
        angle = float(positions[1 + i])
        turned = np.array([0.0, np.sin(angle / 2), 0.0, np.cos(angle / 2)])
        found.append((np.array([0.0, 0.0, above]), turned, before, joint))
        above = task.links[i]
    return [(place, turn, f"{prefix}{parent}", f"{prefix}{child}") for place, turn, parent, child in found]


def draw(task: GymTask, positions: Array, effort: float = 0.0, shape: tuple[int, int] = IMAGE_SHAPE) -> Image:
    """(*shape, 3) rgb of the cart and its links from the side, with an arrow for the effort on the cart."""
    height, width = shape
    scale = width / (2 * (task.reach + _MARGIN))
    picture = np.full((height, width, 3), _SKY, dtype=np.uint8)
    fraction = 4  # bits of a pixel that the drawing routines take

    def pixel(x: float, z: float) -> tuple[int, int]:
        # Far outside a coordinate would not fit the drawing routines' integers.
        column, row = np.clip([width / 2 + scale * x, height * _LEVEL - scale * z], -4 * width, 4 * width)
        return round(float(column) * 2**fraction), round(float(row) * 2**fraction)

    def line(start: Any, end: Any, colour: tuple[int, int, int], thickness: int) -> None:
        cv2.line(picture, pixel(*start), pixel(*end), colour, thickness, cv2.LINE_AA, fraction)

    x = float(positions[0])
    line((-task.reach, 0.0), (task.reach, 0.0), _RAIL, width // 160)
    cv2.rectangle(picture, pixel(x - 0.2, 0.1), pixel(x + 0.2, -0.1), _CART, -1, cv2.LINE_AA, fraction)
    ends = task.ends(positions)
    for start, end, colour in zip(ends, ends[1:], _POLES, strict=False):
        line(start, end, colour, width // 64)
    cv2.circle(picture, pixel(*ends[0]), width * 2**fraction // 107, _RAIL, -1, cv2.LINE_AA, fraction)
    if effort:
        tip = x + 0.6 * effort / max(abs(e) for e in task.efforts)
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
