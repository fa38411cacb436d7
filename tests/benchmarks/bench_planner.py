"""A plan for the Large maze, and a warm-started replan, against the same network run eagerly with 256 DDPM steps.

All on one thread, in turns, in this process; the figures to look at are the ratios. Then the curve: the score of 100
episodes, planned once, against the denoising steps.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from bench_policy import CHECKPOINTS, median_ms
from diffusers import DDPMScheduler

from diffusion_ros import checkpoint
from diffusion_ros.models.planner import Planner
from diffusion_ros.simulators.maze import MazeSimulation
from training.evaluation.maze import PlannerOptions, evaluate_planner
from training.trainers.planner import restore_diffuser

REFERENCE_STEPS = 256
CURVE = (1, 2, 3, 5, 8, 16, 32, 64)


def main(path: Path = CHECKPOINTS / "maze_large.pt", episodes: int = 100) -> None:
    torch.set_num_threads(1)
    planner = Planner(checkpoint.load(path, kind="planner"))
    eager = restore_diffuser(path)
    simulation = MazeSimulation(planner.spec.task)
    start, goal = np.append(simulation.position, [0.0, 0.0]), np.append(simulation.goal, [0.0, 0.0])
    before = planner.plan(start, goal, seed=0).best
    known, mask = (torch.from_numpy(a)[None] for a in planner.known(planner.spec.horizon, start, goal, {}))
    known = eager.limits.normalize(known.float())
    # The network was trained on fewer steps than the paper's; what they cost does not depend on it.
    scheduler = DDPMScheduler(
        REFERENCE_STEPS, beta_schedule="squaredcos_cap_v2", prediction_type=eager.schedule.prediction_type
    )

    @torch.inference_mode()
    def reference() -> object:
        scheduler.set_timesteps(REFERENCE_STEPS)
        x = torch.randn(known.shape)
        for t in scheduler.timesteps:
            steps = t[None] * planner.spec.num_train_timesteps // REFERENCE_STEPS
            x = torch.where(mask, known, scheduler.step(eager(x, steps, known, mask), t, x).prev_sample)
        return eager.limits.unnormalize(x)

    def replan() -> object:
        return planner.plan(start, goal, seed=1, warm=planner.shifted(before, 1))

    what = f"{planner.spec.sampler_steps} {planner.spec.timestep_spacing} steps"
    ours, theirs = median_ms(lambda: planner.plan(start, goal, seed=1), reference, 11)
    warm, again = median_ms(replan, reference, 11)
    print(
        f"a plan for {planner.spec.task}, {planner.spec.sampler.upper()} {what}:"
        f" {ours:.1f} ms, eager with diffusers' DDPM, {REFERENCE_STEPS} steps: {theirs:.1f} ms;"
        f" ratio {theirs / ours:.1f} (at least 100, with 100 % reached and a score within 1 of the most steps')"
    )
    print(f"warm-started, as many: {warm:.1f} ms; ratio {again / warm:.1f} (at least 30)")
    for steps in sorted({*CURVE, planner.spec.sampler_steps}):
        result = evaluate_planner(path, episodes, 100_000, PlannerOptions(), sampler_steps=steps, quiet=True)
        own = " (its own)" if steps == planner.spec.sampler_steps else ""
        print(
            f"{steps:3d} steps{own}: score {result['score']:.1f}, {100 * result['oracle_ratio']:.0f} % of the oracle's"
            f" return, {100 * result['reached']:.0f} % reached"
        )


if __name__ == "__main__":
    main()
