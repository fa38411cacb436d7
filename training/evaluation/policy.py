"""Scores a policy of the arm: how often it succeeds, with chunks in time or late."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffusion_ros import checkpoint
from diffusion_ros.models.policy import Policy
from diffusion_ros.simulators.arm import Simulation
from diffusion_ros.spec import CheckpointSpec
from training.evaluation.episodes import MakeLines, Result, check_same, no_lines, run_episodes
from training.evaluation.rollout import Late, late_figures, roll_out
from training.parallel import Prepared, Workers


@dataclass(frozen=True)
class PolicyEvaluation:
    """Episode i resets with seed + i."""

    path: Path
    sha256: str
    episodes: int
    seed: int
    sampler: str | None = None
    """This, and what follows, instead of the checkpoint's; None: as it says."""
    sampler_steps: int | None = None
    timestep_spacing: str | None = None
    n_action_steps: int | None = None
    max_steps: int | None = None
    """Of an episode; None: the task's."""
    policy_seed: int = 0
    """Of the policy's noise."""
    pictures: tuple[int, int] | None = None
    """Width and height of the cameras' pictures [px]; None: the policy's."""
    late: Late | None = None
    """Chunks come late."""

    @property
    def name(self) -> str:
        task = checkpoint.read_spec(self.path).task
        return task if self.late is None else f"{task}, {1000 * self.late.delay:g} ms"

    def load(self) -> Policy:
        """Raises CheckpointError and ValueError for what does not fit."""
        loaded = checkpoint.load(
            self.path,
            kind="policy",
            sampler=self.sampler,
            sampler_steps=self.sampler_steps,
            timestep_spacing=self.timestep_spacing,
        )
        policy = Policy(loaded)
        if self.n_action_steps is not None:
            policy.spec = with_action_steps(policy.spec, self.n_action_steps)
        return policy

    def worker(self) -> Callable[[int], Result]:
        torch.set_num_threads(1)
        policy = self.load()
        check_same(self, policy.checkpoint)
        simulation = Simulation(policy.spec.task, policy.spec.cameras)

        def episode(index: int) -> Result:
            (result,) = roll_out(
                policy,
                simulation,
                index + 1,
                self.seed,
                self.max_steps,
                self.policy_seed,
                first=index,
                picture_size=self.pictures,
                late=self.late,
            )
            return dataclasses.asdict(result)

        return Prepared(episode, simulation.close)

    def score(self, results: Sequence[Result]) -> str:
        return f"success={sum(result['success'] for result in results)}/{len(results)}"


def with_action_steps(spec: CheckpointSpec, n: int) -> CheckpointSpec:
    """Raises ValueError for more than there are rows."""
    if not 1 <= n <= spec.n_rows:
        raise ValueError(f"n_action_steps {n}: from 1 to the {spec.n_rows} rows of a chunk expected")
    return dataclasses.replace(spec, n_action_steps=n)


def evaluate_policy(
    evaluation: PolicyEvaluation,
    lateness: Sequence[Late | None] = (None,),
    workers: Workers | None = None,
    lines: MakeLines = no_lines,
) -> list[dict[str, Any]]:
    """A summary for each lateness: success_rate, mean_length, per-episode results. `evaluation` says the rest."""
    spec = evaluation.load().spec  # what does not fit ends it before anything is started
    evaluations = [dataclasses.replace(evaluation, late=late) for late in lateness]
    began = time.monotonic()
    of_each = run_episodes(evaluations, workers, lines(evaluations))
    seconds = round(time.monotonic() - began, 1)
    return [_summary(one, spec, results, seconds) for one, results in zip(evaluations, of_each, strict=True)]


def _summary(one: PolicyEvaluation, spec: CheckpointSpec, results: list[Result], seconds: float) -> dict[str, Any]:
    delayed: dict[str, Any] = {}
    if one.late is not None:
        late = one.late
        delayed = {"delay_ms": 1000 * late.delay, "jitter_ms": 1000 * late.jitter, "late": late.strategy}
        delayed |= late_figures(results)
    return {
        "task": spec.task,
        "episodes": one.episodes,
        "seed": one.seed,
        "success_rate": float(np.mean([result["success"] for result in results])),
        "mean_length": float(np.mean([result["steps"] for result in results])),
        "mode": "without ROS",
        "sampler": spec.sampler,
        "sampler_steps": spec.sampler_steps,
        "timestep_spacing": spec.timestep_spacing,
        "policy_seed": one.policy_seed,
        **({} if one.n_action_steps is None else {"n_action_steps": one.n_action_steps}),
        **({} if one.pictures is None else {"picture_size": "x".join(map(str, one.pictures))}),
        **delayed,
        "checkpoint": str(one.path),
        "checkpoint_sha256": one.sha256,
        "seconds": seconds,
        "results": results,
    }
