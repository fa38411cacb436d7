"""Gymnasium tasks of somebody's own, registered when this module is imported: `own_tasks:Name-v0`."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np


class Own(gymnasium.Env[Any, Any]):
    """Push a number to 0. It says nothing about pictures, and has no limit of its own."""

    metadata: dict[str, Any] = {"render_fps": None}

    def __init__(self, discrete: bool = True, fault: str = "", render_mode: str | None = None) -> None:
        self.observation_space = gymnasium.spaces.Box(-10, 10, (2,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2) if discrete else gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self._discrete, self._fault, self.render_mode = discrete, fault, render_mode
        self._state, self._steps = np.zeros(2, np.float32), 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._state, self._steps = self.np_random.uniform(-1, 1, 2).astype(np.float32), 0
        return self._state.copy(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        push = 2.0 * action - 1 if self._discrete else float(action[0])
        self._state[0] = np.clip(self._state[0] + 0.1 * push, -10, 10)
        self._steps += 1
        if self._fault == "step":
            raise KeyError("my own mistake")
        if self._fault == "nan":
            self._state[1] = np.nan
        return self._state.copy(), -abs(float(self._state[0])), self._steps == 30, False, {}

    def render(self) -> Any:
        raise NotImplementedError("nobody has drawn it")


class Shown(Own):
    """Says that it can be shown, and cannot."""

    metadata: dict[str, Any] = {"render_fps": 20, "render_modes": ["rgb_array"]}


for name, entry, options in (
    ("Own-v0", Own, {}),
    ("Own-v3", Own, {}),
    ("OwnForce-v0", Own, {"discrete": False}),
    ("OwnShown-v0", Shown, {"discrete": False}),
    ("OwnBroken-v0", Own, {"fault": "step"}),
    ("OwnNan-v0", Own, {"fault": "nan"}),
):
    gymnasium.register(name, entry_point=f"own_tasks:{entry.__name__}", kwargs=options)
