"""Scores an arm's planner: plans that avoid a ball which no demonstration had, and their execution in the simulator."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from diffusion_ros import checkpoint
from diffusion_ros.control.hand_follower import HAND_RADIUS, STRAY, ArmFollower, arm_state
from diffusion_ros.models.hand_planner import make_planner
from diffusion_ros.models.planner import Array, Plan, Planner, clearance, obstacle_guides
from diffusion_ros.simulators.arm import Simulation
from diffusion_ros.simulators.tasks import ARM_TASKS
from training.evaluation.episodes import MakeLines, Result, check_same, no_lines, run_episodes
from training.parallel import Prepared, Workers

BALL_RADIUS = 0.06
"""Metres."""
MARGIN = 0.08
"""Metres beyond contact from which guidance pushes away."""
WEIGHT = 3.0
"""Of that guidance."""
CANDIDATES = 16
LEAST_WAY = 0.35
"""Metres from start to goal, so that neither is in the ball."""
LEAST_HEIGHT = 0.95
"""Metres of a goal: the tasks' bins and pegs end below."""
FLOOR = 0.93
"""Metres: guidance keeps the hand above."""
REACH = 0.7
"""Metres from the robot's base, horizontally, within which a hand that points down can be."""
SETTLING_STEPS = 10


def least(positions: Array, balls: Array) -> float:
    """The hand's least clearance [m] along positions (T, 3)."""
    return float(clearance(positions, balls, HAND_RADIUS).min())


def plan_clear(planner: Planner, start: Array, goal: Array, balls: Array, seed: int) -> Plan | None:
    """The first of the ranked candidates that keeps away from the balls, None where none does."""
    # The table, too: to a hand, a ball of 5 m below it is flat. The tasks' own things are lower than FLOOR.
    everything = np.vstack([balls, [*(start[:2] + goal[:2]) / 2, FLOOR - 5.0 - HAND_RADIUS - MARGIN, 5.0]])
    guides = obstacle_guides(everything, 3, HAND_RADIUS + MARGIN, WEIGHT)
    plans = planner.plan(start, goal, guides=guides, candidates=CANDIDATES, seed=seed)
    for plan in plans.candidates:
        way = plan.dense(planner.spec.rate)[0]
        if least(way, balls) > STRAY and way[:, 2].min() > FLOOR - STRAY:
            return plan
    return None


@dataclass(frozen=True)
class ArmEvaluation:
    """Episode i is drawn from seed + i.

    The ball is on the way of the plan without guidance, as far from the start as from the goal: those plans hit it.
    """

    path: Path
    sha256: str
    episodes: int
    seed: int
    overrides: tuple[tuple[str, Any], ...] = ()
    """Of checkpoint.load."""
    name: str = "arm"

    def worker(self) -> Callable[[int], Result]:
        torch.set_num_threads(1)
        planner = make_planner(checkpoint.load(self.path, kind="planner", task="arm", **dict(self.overrides)))
        check_same(self, planner.checkpoint)
        spec = planner.spec
        names = [name for name, task in ARM_TASKS.items() if task.environment in spec.environment.split(", ")]
        simulations = [Simulation(name) for name in names]
        low, high = np.array(spec.workspace_low) + 0.1, np.array(spec.workspace_high) - 0.1
        low[2] = LEAST_HEIGHT

        def episode(index: int) -> Result:
            rng = np.random.default_rng([self.seed + index, 3])
            simulation = simulations[index % len(simulations)]
            simulation.reset(self.seed + index)
            hand = simulation.observe(images=False)
            at, turn = hand["robot0_eef_pos"], Rotation.from_quat(hand["robot0_eef_quat"])
            opening = float(hand["robot0_gripper_qpos"][0] - hand["robot0_gripper_qpos"][1])
            to, base = at, simulation.base_position()
            while np.linalg.norm(to - at) < LEAST_WAY or np.linalg.norm((to - base)[:2]) > REACH:
                to = rng.uniform(low, high)
            goal_turn = Rotation.from_rotvec([0, 0, rng.uniform(-0.5, 0.5)]) * turn
            start, goal = arm_state(at, turn.as_quat(), opening), arm_state(to, goal_turn.as_quat())
            free = planner.plan(start, goal, seed=self.seed + index).best
            way = free.dense(spec.rate)[0]
            distances = [np.linalg.norm(way - end, axis=1) for end in (at, to)]
            middle = way[np.argmin(np.abs(distances[0] - distances[1]))]
            balls = np.append(middle + rng.uniform(-0.03, 0.03, 3), BALL_RADIUS)[None]
            plan = plan_clear(planner, start, goal, balls, self.seed + index)
            result: dict[str, Any] = {
                "index": index,
                "seed": self.seed + index,
                "free_clearance": least(way, balls),
                "planned": plan is not None,
            }
            if plan is not None:
                limits = np.array([spec.action_low, spec.action_high])
                executed, strayed = _execute(simulation, ArmFollower(plan, spec.rate), limits)
                end = simulation.observe(images=False)
                result |= {
                    "clearance": least(plan.dense(spec.rate)[0], balls),
                    "executed_clearance": least(executed, balls),
                    "strayed": strayed,
                    "position_error": float(np.linalg.norm(end["robot0_eef_pos"] - to)),
                    "rotation_error": float((goal_turn * Rotation.from_quat(end["robot0_eef_quat"]).inv()).magnitude()),
                }
            return result

        def close() -> None:
            for simulation in simulations:
                simulation.close()

        return Prepared(episode, close)

    def score(self, results: Sequence[Result]) -> str:
        return f"planned={sum(result['planned'] for result in results)}/{len(results)}"


def evaluate_arm(
    path: Path,
    episodes: int,
    seed: int,
    workers: Workers | None = None,
    lines: MakeLines = no_lines,
    **overrides: Any,
) -> dict[str, Any]:
    """Contacts of planned and of executed ways with and without guidance, and how near to their goals they end."""
    planner = make_planner(checkpoint.load(path, kind="planner", task="arm", **overrides))
    spec = planner.spec
    evaluation = ArmEvaluation(path, planner.checkpoint.sha256, episodes, seed, tuple(overrides.items()))
    began = time.monotonic()
    (results,) = run_episodes([evaluation], workers, lines([evaluation]))
    planned = [r for r in results if r["planned"]]
    return {
        "task": "arm",
        "episodes": episodes,
        "seed": seed,
        "planned": len(planned),
        "contacts_without_guidance": sum(r["free_clearance"] < 0 for r in results),
        "contacts": sum(r["clearance"] < 0 for r in planned),
        "executed_contacts": sum(r["executed_clearance"] < 0 for r in planned),
        "strayed": sum(bool(r["strayed"]) for r in planned),
        "position_error_mm": 1000 * float(np.median([r["position_error"] for r in planned])) if planned else None,
        "rotation_error_deg": float(np.rad2deg(np.median([r["rotation_error"] for r in planned]))) if planned else None,
        "sampler": spec.sampler,
        "sampler_steps": spec.sampler_steps,
        "checkpoint": str(path),
        "checkpoint_sha256": planner.checkpoint.sha256,
        "seconds": round(time.monotonic() - began, 1),
        "results": results,
    }


def _execute(simulation: Simulation, follower: ArmFollower, limits: Array) -> tuple[Array, str]:
    """Positions (T, 3) m of the hand while it follows the plan and settles at its end; and why it gave up, or ''."""
    positions = []
    strayed = ""
    for step in range(follower.steps + SETTLING_STEPS):
        hand = simulation.observe(images=False)
        positions.append(hand["robot0_eef_pos"])
        strayed = follower.strayed(step, positions[-1])
        if strayed:
            break
        row = follower.rows(step, hand["robot0_eef_pos"], hand["robot0_eef_quat"], 1)[0]
        simulation.step(np.clip(row, limits[0], limits[1]))
    return np.array([*positions, simulation.observe(images=False)["robot0_eef_pos"]]), strayed
