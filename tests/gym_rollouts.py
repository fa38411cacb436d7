"""Episodes of a checkpoint in Gymnasium itself: no ROS, none of our simulators."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from diffusion_ros import checkpoint
from diffusion_ros.simulators.render_backend import choose_render_backend
from diffusion_ros.simulators.tasks import gym_task


def gym_rollouts(path: Path, episodes: int, seed: int, max_steps: int | None = None) -> list[dict[str, Any]]:
    """What the simulator's node reports of the same episodes, as far as the clock does not decide it."""
    loaded = checkpoint.load(path)
    task = gym_task(loaded.spec.task)
    choose_render_backend()  # this brings MuJoCo, and tests that draw may follow in this process
    env = gymnasium.make(loaded.spec.environment, max_episode_steps=max_steps or task.max_steps)
    physics: Any = env.unwrapped
    results = []
    for index in range(episodes):
        observation, _ = env.reset(seed=seed + index)
        total, steps, terminated, truncated = 0.0, 0, False, False
        efforts = hashlib.sha256()
        while not (terminated or truncated):
            with torch.inference_mode():
                action = loaded.module(torch.tensor(np.asarray(observation, np.float32))[None])[0].numpy()
            observation, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            steps += 1
            efforts.update(np.array([task.effort(float(action.reshape(-1)[0]))]).tobytes())
        state = np.concatenate([physics.data.qpos, physics.data.qvel]) if hasattr(physics, "data") else physics.state
        if task.name == "cartpole":
            state = state[[0, 2, 1, 3]]
        results.append(
            {
                "index": index,
                "seed": seed + index,
                "steps": steps,
                "return": total,
                "terminated": terminated,
                "actions_sha256": efforts.hexdigest(),
                "state_sha256": hashlib.sha256(state.tobytes()).hexdigest(),
            }
        )
    env.close()
    return results
