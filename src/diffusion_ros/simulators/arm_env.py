"""The arm's simulator as a Gymnasium environment."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from diffusion_ros.robot import ACTION_SCALE, CAMERAS, IMAGE_SIZE, RATE
from diffusion_ros.simulators.arm import Simulation

Array = NDArray[np.float64]
Image = NDArray[np.uint8]


class SimulationEnv(gymnasium.Env[dict[str, NDArray[Any]], Array]):
    """:class:`Simulation` as a Gymnasium environment: actions in [-1, 1], reward 1 on success, which ends the episode.

    Observations are those of :meth:`Simulation.observe`. `reset(seed=s)` is that of the simulation; without a seed
    the next one is drawn from the environment's generator.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": int(RATE)}

    def __init__(
        self, task: str, images: bool = True, image_size: int = IMAGE_SIZE, render_mode: str | None = None
    ) -> None:
        self.simulation = Simulation(task, CAMERAS if images else (), image_size)
        self.render_mode = render_mode
        self.images = images
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (7,), np.float64)
        spaces: dict[str, gymnasium.Space[Any]] = {}
        for name, value in self.simulation.observe(images).items():
            if value.dtype == np.uint8:
                spaces[name] = gymnasium.spaces.Box(0, 255, value.shape, np.uint8)
            else:
                spaces[name] = gymnasium.spaces.Box(-np.inf, np.inf, value.shape, np.float64)
        self.observation_space: gymnasium.spaces.Dict = gymnasium.spaces.Dict(spaces)  # type: ignore[assignment]
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        super().reset(seed=seed)
        self.simulation.reset(int(self.np_random.integers(2**31)) if seed is None else seed)
        self._steps = 0
        return self.simulation.observe(self.images), {}

    def step(self, action: Array) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        self.simulation.step(np.asarray(action, dtype=np.float64) * ACTION_SCALE)
        self._steps += 1
        success = self.simulation.success
        truncated = self._steps >= self.simulation.task.max_steps
        return self.simulation.observe(self.images), float(success), success, truncated, {"success": success}

    def render(self) -> Image:
        return self.simulation.render("frontview", 256, 256)

    def close(self) -> None:
        self.simulation.close()
