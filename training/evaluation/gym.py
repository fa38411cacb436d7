"""Scores a discrete or continuous policy in its Gymnasium task, one episode after another."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffusion_ros import checkpoint
from diffusion_ros.models.rl_policy import REACTIVE_KINDS
from diffusion_ros.simulators.video import Mp4Writer
from training.evaluation.episodes import MakeLines, Result, check_same, no_lines, run_episodes
from training.parallel import Prepared, Workers
from training.rl.gymnasium_task import LONGEST, make


@dataclass(frozen=True)
class GymEvaluation:
    """Episode i resets with seed + i."""

    path: Path
    sha256: str
    episodes: int
    seed: int
    max_steps: int | None = None
    """Of an episode, beside the task's own limit. None: that one, and where there is none LONGEST."""

    @property
    def name(self) -> str:
        return checkpoint.read_spec(self.path).task

    def worker(self) -> Callable[[int], Result]:
        torch.set_num_threads(1)
        loaded = checkpoint.load(self.path, kind=REACTIVE_KINDS)
        check_same(self, loaded)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of what a task of one's own does not say about pictures
            environment = make(loaded.spec.environment, disable_env_checker=True)
        limit = self.max_steps
        if limit is None and (environment.spec is None or environment.spec.max_episode_steps is None):
            limit = LONGEST  # it may go on for ever

        @torch.inference_mode()
        def episode(index: int) -> Result:
            observation, _ = environment.reset(seed=self.seed + index)
            total, steps, terminated, truncated = 0.0, 0, False, False
            while not (terminated or truncated or steps == limit):
                batch = torch.from_numpy(np.asarray(observation, np.float32)[None])
                action = loaded.module(batch)[0].numpy()
                observation, reward, terminated, truncated, _ = environment.step(action)
                total += float(reward)
                steps += 1
            seed = self.seed + index
            return {"index": index, "seed": seed, "return": total, "steps": steps, "terminated": bool(terminated)}

        return Prepared(episode, environment.close)

    def score(self, results: Sequence[Result]) -> str:
        return f"mean_return={np.mean([result['return'] for result in results]):.1f}"


def evaluate_gym(
    path: Path,
    episodes: int,
    seed: int,
    max_steps: int | None = None,
    workers: Workers | None = None,
    lines: MakeLines = no_lines,
) -> dict[str, Any]:
    """The summary: mean_return, std_return, mean_length, per-episode results; GymEvaluation has the arguments."""
    loaded = checkpoint.load(path, kind=REACTIVE_KINDS)
    evaluation = GymEvaluation(path, loaded.sha256, episodes, seed, max_steps)
    began = time.monotonic()
    (results,) = run_episodes([evaluation], workers, lines([evaluation]))
    returns = np.array([result["return"] for result in results])
    return {
        "task": loaded.spec.task,
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
