"""Scores a checkpoint without ROS, in lockstep. The ROS graph gives the same for the same seeds, bit for bit."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import queue
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from diffusion_ros.atomic_file import write_json
from diffusion_ros.control.delay import LateStrategy
from diffusion_ros.control.pictures import fit
from diffusion_ros.installation import require
from diffusion_ros.models.camera_guard import GUARD_KIND
from diffusion_ros.models.rl_policy import REACTIVE_KINDS
from diffusion_ros.models.timesteps import TimestepSpacing
from diffusion_ros.spec import IMAGE_SUFFIX, CheckpointSpec
from training import command_line
from training.evaluation.arm import evaluate_arm
from training.evaluation.guard import evaluate_guard, watch_policy
from training.evaluation.gym import evaluate_gym
from training.evaluation.maze import PlannerOptions, evaluate_planner

if TYPE_CHECKING:
    from training.evaluation.rollout import Late

IDENTITY = ("checkpoint", "checkpoint_sha256")
"""Of a summary: which file it is about."""


@dataclass(frozen=True)
class Options:
    """Rolls a checkpoint out in the task it was trained on and writes a JSON summary."""

    checkpoint: Path
    """The checkpoint (.pt) of a policy, a planner or a camera guard."""
    episodes: int = 100
    """Number of episodes; episode i resets with seed + i."""
    seed: int = 100_000
    """Seed of the first episode. Evaluation uses 100,000 to 199,999; smaller seeds are for demonstrations."""
    json: Path | None = None
    """File for the summary, which is printed too."""
    record: bool = False
    """Also write the scores into the checkpoint's specification."""
    sampler: str | None = None
    """Sampler, ddim or ddpm, instead of the checkpoint's."""
    sampler_steps: int | None = None
    """Denoising steps instead of the checkpoint's."""
    timestep_spacing: TimestepSpacing | None = None
    """Which diffusion steps the sampler visits, instead of the checkpoint's choice."""
    max_steps: int | None = None
    """Longest episode in steps, instead of the task's."""
    policy_seed: int = 0
    """Seed of the policy's noise."""
    workers: int = 1
    """Policies only: number of processes. Results do not depend on it."""
    n_action_steps: int | None = None
    """Policies only: rows that are executed before the next chunk, instead of the checkpoint's."""
    delay_ms: tuple[float, ...] = ()
    """Policies only: chunks come so late [ms] and the robot does not wait. Several: one after the other."""
    jitter_ms: float = 0.0
    """And up to so much later, drawn anew for each chunk."""
    late: LateStrategy = "rtc"
    """What is done about it. rtc: a chunk goes on from the rows that are executed until it comes (real-time
    chunking); latest: the robot changes over to it; blend: in four rows; ensemble: each row is the mean of all chunks;
    wait: the robot stands until it comes."""
    planner: PlannerOptions = field(default_factory=PlannerOptions)
    """For planners only."""
    picture_size: str | None = None
    """Policies from pixels only: the size of the cameras' pictures, as 640x480. They are cropped and scaled to what the
    policy sees, as a robot's are; without it they are rendered in that size."""
    policy: Path | None = None
    """Guards only: a policy's checkpoint, to count how many of its episodes the guard would stop."""

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.workers < 1:
            raise ValueError(f"episodes {self.episodes}, workers {self.workers}: both must be at least 1")
        if self.json is not None and not self.json.parent.exists():
            raise ValueError(f"{self.json}: its folder does not exist")
        if any(not 0 <= delay <= 2000 for delay in (*self.delay_ms, self.jitter_ms)):
            raise ValueError(f"delay_ms {list(self.delay_ms)}, jitter_ms {self.jitter_ms}: from 0 to 2000 expected")
        if self.record and self.delay_ms:
            raise ValueError("record goes without delay_ms: a checkpoint has the scores of chunks that are not late")
        if self.jitter_ms and not self.delay_ms:
            raise ValueError("jitter_ms goes with delay_ms")
        if self.picture_size is not None:
            command_line.width_and_height(self.picture_size)

    @property
    def pictures(self) -> tuple[int, int] | None:
        """Width and height of the cameras' pictures; None: as large as the policy's."""
        return None if self.picture_size is None else command_line.width_and_height(self.picture_size)


def _evaluate_share(options: Options, late: Late | None, indices: list[int], results: Any) -> None:
    import torch

    from diffusion_ros.models.policy import Policy
    from diffusion_ros.simulators.arm import Simulation
    from training.evaluation.rollout import roll_out

    if options.workers > 1:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    policy = Policy(_load(options))
    if options.n_action_steps is not None:
        policy.spec = with_action_steps(policy.spec, options.n_action_steps)
    simulation = Simulation(policy.spec.task, policy.spec.cameras)
    for index in indices:
        for episode in roll_out(
            policy,
            simulation,
            index + 1,
            options.seed,
            options.max_steps,
            options.policy_seed,
            first=index,
            picture_size=options.pictures,
            late=late,
        ):
            results.put(episode)
    simulation.close()


def _load(options: Options) -> Any:
    from diffusion_ros import checkpoint

    return checkpoint.load(
        options.checkpoint,
        kind="policy",
        sampler=options.sampler,
        sampler_steps=options.sampler_steps,
        timestep_spacing=options.timestep_spacing,
    )


def with_action_steps(spec: CheckpointSpec, n: int) -> CheckpointSpec:
    """Raises ValueError for more than there are rows."""
    if not 1 <= n <= spec.n_rows:
        raise ValueError(f"n_action_steps {n}: from 1 to the {spec.n_rows} rows of a chunk expected")
    return dataclasses.replace(spec, n_action_steps=n)


def check_pictures(spec: CheckpointSpec, width: int, height: int) -> None:
    """Raises ValueError where the policy sees no pictures, or larger ones."""
    if spec.kind != "policy" or not spec.cameras:
        raise ValueError(f"picture_size {width}x{height}: for policies from pixels, this {spec.kind} has no cameras")
    for tensor in spec.inputs:
        if tensor.name.endswith(IMAGE_SUFFIX):
            fit(np.zeros((height, width, 3), np.uint8), tensor.shape[0], tensor.shape[1])


def evaluate(options: Options) -> dict[str, Any]:
    """The summary: task, episodes, seed, success_rate, score or mean_return, per-episode results, the
    checkpoint's hash."""
    from diffusion_ros import checkpoint
    from diffusion_ros.models.hand_planner import plans_hands

    spec = checkpoint.read_spec(options.checkpoint)
    if options.pictures is not None:
        check_pictures(spec, *options.pictures)
    if spec.kind == GUARD_KIND:
        of_policy: dict[str, Any] = {}
        if options.policy is not None:
            of_policy["policy"] = watch_policy(options.checkpoint, options.policy, options.episodes, options.seed)
        return evaluate_guard(options.checkpoint, options.episodes, options.seed) | of_policy
    if options.policy is not None:
        raise ValueError(f"policy {options.policy}: a guard watches one, {options.checkpoint} is of kind {spec.kind!r}")
    if spec.kind == "planner":
        overrides: dict[str, Any] = {
            "sampler": options.sampler,
            "sampler_steps": options.sampler_steps,
            "timestep_spacing": options.timestep_spacing,
        }
        if plans_hands(spec):
            return evaluate_arm(options.checkpoint, options.episodes, options.seed, **overrides)
        return evaluate_planner(options.checkpoint, options.episodes, options.seed, options.planner, **overrides)
    if spec.kind in REACTIVE_KINDS:
        return evaluate_gym(options.checkpoint, options.episodes, options.seed, options.max_steps)
    require("robosuite", "mujoco")
    from training.evaluation.rollout import Late

    if not options.delay_ms:
        return _evaluate_policy(options, None)
    of_each = [
        _evaluate_policy(options, Late(delay / 1000, options.jitter_ms / 1000, options.late))
        for delay in options.delay_ms
    ]
    return of_each[0] if len(of_each) == 1 else {"task": spec.task, "episodes": options.episodes, "delays": of_each}


def _evaluate_policy(options: Options, late: Late | None) -> dict[str, Any]:
    loaded = _load(options)
    if options.n_action_steps is not None:
        with_action_steps(loaded.spec, options.n_action_steps)
    began = time.monotonic()
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    shares = [list(range(options.episodes))[worker :: options.workers] for worker in range(options.workers)]
    workers = [
        context.Process(target=_evaluate_share, args=(options, late, share, results)) for share in shares if share
    ]
    for worker in workers:
        worker.start()
    episodes: list[dict[str, Any]] = []
    what = loaded.spec.task if late is None else f"{loaded.spec.task}, {1000 * late.delay:g} ms"
    try:
        with tqdm(total=options.episodes, unit="episode", desc=what) as bar:
            while len(episodes) < options.episodes:
                try:
                    episodes.append(dataclasses.asdict(results.get(timeout=1.0)))
                except queue.Empty:
                    if not any(worker.is_alive() for worker in workers) and results.empty():
                        raise RuntimeError("a worker ended before its episodes") from None
                    continue
                bar.update()
                bar.set_postfix(success=f"{sum(e['success'] for e in episodes)}/{len(episodes)}")
    finally:
        for worker in workers:
            if len(episodes) < options.episodes:
                worker.terminate()
            worker.join()
    episodes.sort(key=lambda episode: episode["index"])
    delayed: dict[str, Any] = {}
    if late is not None:
        from training.evaluation.rollout import late_figures

        delayed = {"delay_ms": 1000 * late.delay, "jitter_ms": 1000 * late.jitter, "late": late.strategy}
        delayed |= late_figures(episodes)
    return {
        "task": loaded.spec.task,
        "episodes": options.episodes,
        "seed": options.seed,
        "success_rate": float(np.mean([episode["success"] for episode in episodes])),
        "mean_length": float(np.mean([episode["steps"] for episode in episodes])),
        "mode": "without ROS",
        "sampler": loaded.spec.sampler,
        "sampler_steps": loaded.spec.sampler_steps,
        "timestep_spacing": loaded.spec.timestep_spacing,
        "policy_seed": options.policy_seed,
        **({} if options.n_action_steps is None else {"n_action_steps": options.n_action_steps}),
        **({} if options.picture_size is None else {"picture_size": options.picture_size}),
        **delayed,
        "checkpoint": str(options.checkpoint),
        "checkpoint_sha256": loaded.sha256,
        "seconds": round(time.monotonic() - began, 1),
        "results": episodes,
    }


def main() -> None:
    command_line.run(Options, _report, __doc__)


def _report(options: Options) -> None:
    from diffusion_ros import checkpoint

    summary = evaluate(options)
    if options.record:
        scores = {name: value for name, value in summary.items() if name not in ("results", *IDENTITY)}
        checkpoint.record_scores(options.checkpoint, {"evaluation": scores})
        summary["checkpoint_sha256"] = checkpoint.file_sha256(options.checkpoint)
    if options.json is not None:
        write_json(options.json, summary)
    for of_one in summary.get("delays", [summary]):
        print(json.dumps({key: value for key, value in of_one.items() if key != "results"}))


if __name__ == "__main__":
    main()
