"""Scores a planner in its maze, beside the oracle on the same starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffusion_ros import checkpoint
from diffusion_ros.control.path_follower import Follower, make_follower
from diffusion_ros.models.planner import Array, Plan, Planner
from diffusion_ros.simulators.maze import GOAL_RADIUS, RATE, MazeSimulation, WaypointController
from diffusion_ros.simulators.tasks import maze_task
from training.evaluation.episodes import MakeLines, Result, check_same, no_lines, run_episodes
from training.options.evaluation import PlannerOptions
from training.parallel import Prepared, Workers


@dataclass(frozen=True)
class MazeEvaluation:
    """Episode i resets with seed + i."""

    path: Path
    sha256: str
    episodes: int
    seed: int
    options: PlannerOptions
    overrides: tuple[tuple[str, Any], ...] = ()
    """Of checkpoint.load."""

    @property
    def name(self) -> str:
        return checkpoint.read_spec(self.path).task

    def worker(self) -> Callable[[int], Result]:
        torch.set_num_threads(1)
        planner = Planner(checkpoint.load(self.path, kind="planner", **dict(self.overrides)))
        check_same(self, planner.checkpoint)
        simulation = MazeSimulation(planner.spec.task)

        def episode(index: int) -> Result:
            goal = None
            if self.options.goals == "multi":
                rng = np.random.default_rng([self.seed + index, 2])
                cells = simulation.map.free_cells
                goal = simulation.map.centre(cells[rng.integers(len(cells))]) + rng.uniform(-0.25, 0.25, 2)
            result = _episode(simulation, planner, self.seed + index, goal, self.options)
            simulation.reset(self.seed + index, goal=goal)
            oracle = WaypointController(simulation.map, simulation.goal)
            result["oracle_return"] = sum(
                simulation.step(oracle.force(simulation.position, simulation.velocity))
                for _ in range(simulation.task.max_steps)
            )
            return {"index": index, "seed": self.seed + index, **result}

        return Prepared(episode, simulation.close)

    def score(self, results: Sequence[Result]) -> str:
        task = maze_task(self.name)
        return f"score={task.score(float(np.mean([result['return'] for result in results]))):.1f}"


def evaluate_planner(
    path: Path,
    episodes: int,
    seed: int,
    options: PlannerOptions,
    quiet: bool = False,
    workers: Workers | None = None,
    lines: MakeLines = no_lines,
    **overrides: Any,
) -> dict[str, Any]:
    """The summary: score, mean_return, per-episode results, and the oracle's; `overrides` are those of `load`."""
    planner = Planner(checkpoint.load(path, kind="planner", **overrides))
    sha256 = planner.checkpoint.sha256
    evaluation = MazeEvaluation(path, sha256, episodes, seed, options, tuple(overrides.items()))
    task = maze_task(planner.spec.task)
    began = time.monotonic()
    (results,) = run_episodes([evaluation], workers, lines([evaluation]), quiet)
    returns = np.array([r["return"] for r in results])
    oracle_return = float(np.mean([r["oracle_return"] for r in results]))
    return {
        "task": task.name,
        "episodes": episodes,
        "seed": seed,
        "score": task.score(float(returns.mean())),
        "score_error": task.score(float(returns.mean() + returns.std() / np.sqrt(episodes)))
        - task.score(returns.mean()),
        "mean_return": float(returns.mean()),
        "std_return": float(returns.std()),
        "oracle_score": task.score(oracle_return),
        "oracle_ratio": float(returns.mean()) / oracle_return,
        "reached": float(np.mean([r["reached"] for r in results])),
        "planning_ms": 1000 * float(np.median([r["planning_seconds"] for r in results])),
        "follow": options.follow,
        "goals": options.goals,
        "replan": options.replan,
        "value": options.value,
        "sampler": planner.spec.sampler,
        "sampler_steps": planner.spec.sampler_steps,
        "timestep_spacing": planner.spec.timestep_spacing,
        "checkpoint": str(path),
        "checkpoint_sha256": planner.checkpoint.sha256,
        "seconds": round(time.monotonic() - began, 1),
        "results": results,
    }


def _episode(
    simulation: MazeSimulation, planner: Planner, seed: int, goal: Array | None, options: PlannerOptions
) -> dict[str, Any]:
    simulation.reset(seed, goal=goal)
    end = np.append(simulation.goal, [0.0, 0.0])
    total, reached, seconds = 0.0, -1, []
    guides = {"value": np.array([options.value])} if options.value else {}
    plan: Plan | None = None
    follower: Follower | None = None
    for step in range(simulation.task.max_steps):
        position, velocity = simulation.position, simulation.velocity
        if plan is None or (options.replan and step % options.replan == 0):
            warm = None
            if plan is not None and options.warm:
                warm = planner.shifted(plan, round(options.replan / plan.stride))
            plans = planner.plan(np.append(position, velocity), end, seed=seed + step, warm=warm, guides=guides)
            plan = plans.best
            seconds.append(plans.seconds)
            follower = make_follower(options.follow, plan, RATE)
        assert follower is not None
        reward = simulation.step(follower.force(position, velocity))
        total += reward
        if reached < 0 and np.linalg.norm(simulation.position - simulation.goal) <= GOAL_RADIUS:
            reached = step + 1
    return {"return": total, "reached": reached >= 0, "steps_to_goal": reached, "planning_seconds": max(seconds)}
