"""Scores a discrete or continuous policy in its Gymnasium task, one episode after another."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from diffusion_ros import checkpoint
from diffusion_ros.models.rl_policy import REACTIVE_KINDS
from diffusion_ros.simulators.video import Mp4Writer
from training.rl.gymnasium_task import make


def evaluate_gym(path: Path, episodes: int, seed: int, max_steps: int | None = None) -> dict[str, Any]:
    """The summary: mean_return, std_return, mean_length, per-episode results. Episode i resets with seed + i.

    max_steps: of an episode, beside the task's own limit.
    """
    loaded = checkpoint.load(path, kind=REACTIVE_KINDS)
    spec = loaded.spec
    environment = make(spec.environment, disable_env_checker=True)
    began = time.monotonic()
    results: list[dict[str, Any]] = []
    with tqdm(range(episodes), unit="episode", desc=spec.task) as bar, torch.inference_mode():
        for index in bar:
            observation, _ = environment.reset(seed=seed + index)
            total, steps, terminated, truncated = 0.0, 0, False, False
            while not (terminated or truncated or steps == max_steps):
                batch = torch.from_numpy(np.asarray(observation, np.float32)[None])
                action = loaded.module(batch)[0].numpy()
                observation, reward, terminated, truncated, _ = environment.step(action)
                total += float(reward)
                steps += 1
            results.append(
                {"index": index, "seed": seed + index, "return": total, "steps": steps, "terminated": terminated}
            )
            bar.set_postfix(mean_return=f"{np.mean([r['return'] for r in results]):.1f}", refresh=False)
    environment.close()
    returns = np.array([result["return"] for result in results])
    return {
        "task": spec.task,
        "episodes": episodes,
        "seed": seed,
        "mean_return": float(returns.mean()),
        "std_return": float(returns.std()),
        "min_return": float(returns.min()),
        "mean_length": float(np.mean([result["steps"] for result in results])),
        "mode": "without ROS",
        "checkpoint": str(path),
        "checkpoint_sha256": loaded.sha256,
        "seconds": round(time.monotonic() - began, 1),
        "results": results,
    }


def evaluate_and_record(path: Path, episodes: int, max_steps: int | None = None) -> dict[str, Any]:
    """What a trainer says of what it exported: scores from seed 100,000 on, which go into the specification too."""
    summary = evaluate_gym(path, episodes, 100_000, max_steps)
    names = ("episodes", "seed", "mean_return", "std_return", "min_return", "mean_length")
    scores = {name: summary[name] for name in names}
    checkpoint.record_scores(path, {"evaluation": scores})
    return scores


def record_video(path: Path, video: Path, seed: int, max_steps: int) -> int:
    """One episode of the checkpoint as an H.264 file in real time; returns the steps that it lasted."""
    loaded = checkpoint.load(path, kind=REACTIVE_KINDS)
    environment = make(loaded.spec.environment, render_mode="rgb_array", disable_env_checker=True)
    observation, _ = environment.reset(seed=seed)
    steps, done = 0, False
    with Mp4Writer(video, loaded.spec.rate) as writer, torch.inference_mode():
        while not done and steps < max_steps:
            writer.write(np.asarray(environment.render(), np.uint8))
            batch = torch.from_numpy(np.asarray(observation, np.float32)[None])
            observation, _, terminated, truncated, _ = environment.step(loaded.module(batch)[0].numpy())
            done = terminated or truncated
            steps += 1
    environment.close()
    return steps
