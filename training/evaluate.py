"""Scores a checkpoint without ROS, in lockstep. The ROS graph gives the same for the same seeds, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_ros.atomic_file import write_json
from diffusion_ros.control.delay import LateStrategy
from diffusion_ros.control.pictures import fit
from diffusion_ros.installation import require
from diffusion_ros.models.camera_guard import GUARD_KIND
from diffusion_ros.models.rl_policy import REACTIVE_KINDS
from diffusion_ros.models.timesteps import TimestepSpacing
from diffusion_ros.spec import IMAGE_SUFFIX, CheckpointSpec
from training import command_line
from training.evaluation.episodes import Evaluation, Lines
from training.options.evaluation import PlannerOptions
from training.parallel import Workers

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
    """Number of processes. Results do not depend on it."""
    cluster: str | None = None
    """The address of a Dask scheduler, as tcp://host:8786: its workers do the episodes instead. They must see the
    checkpoint under the same name."""
    resume: bool = False
    """With --json: go on with the episodes that are missing. Each one's result is beside the summary, in a .jsonl, when
    it has ended."""
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
        Workers(self.workers, self.cluster)
        if self.episodes < 1:
            raise ValueError(f"episodes {self.episodes}: must be at least 1")
        if self.json is not None and not self.json.parent.exists():
            raise ValueError(f"{self.json}: its folder does not exist")
        if self.json is not None and (self.json.is_dir() or self.json.suffix == ".jsonl"):
            raise ValueError(f"{self.json}: a file's name expected, and not .jsonl, which is for the episodes")
        if self.resume and self.json is None:
            raise ValueError("resume goes with --json: the results of episodes are beside it")
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

    def lines(self, evaluations: Sequence[Evaluation], of: str = "") -> Lines | None:
        """Where results of episodes go; of: of which part of the summary, '' for all of it."""
        if self.json is None:
            return None
        return Lines(self.json.with_name(f"{self.json.stem}{of}.jsonl"), evaluations, self.resume)


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
    common: dict[str, Any] = {"workers": Workers(options.workers, options.cluster), "lines": options.lines}
    path, episodes, seed = options.checkpoint, options.episodes, options.seed
    if spec.kind == GUARD_KIND:
        from training.evaluation.guard import evaluate_guard, watch_policy

        of_policy: dict[str, Any] = {}
        if options.policy is not None:
            apart = {**common, "lines": partial(options.lines, of="_policy")}
            of_policy["policy"] = watch_policy(path, options.policy, episodes, seed, **apart)
        return evaluate_guard(path, episodes, seed, **common) | of_policy
    if options.policy is not None:
        raise ValueError(f"policy {options.policy}: a guard watches one, {options.checkpoint} is of kind {spec.kind!r}")
    if spec.kind == "planner":
        overrides: dict[str, Any] = {
            "sampler": options.sampler,
            "sampler_steps": options.sampler_steps,
            "timestep_spacing": options.timestep_spacing,
        }
        if plans_hands(spec):
            from training.evaluation.arm import evaluate_arm

            return evaluate_arm(path, episodes, seed, **common, **overrides)
        from training.evaluation.maze import evaluate_planner

        return evaluate_planner(path, episodes, seed, options.planner, **common, **overrides)
    if spec.kind in REACTIVE_KINDS:
        from training.evaluation.gym import evaluate_gym

        return evaluate_gym(path, episodes, seed, options.max_steps, **common)
    require("robosuite", "mujoco")
    from training.evaluation.policy import PolicyEvaluation, evaluate_policy
    from training.evaluation.rollout import Late

    evaluation = PolicyEvaluation(
        options.checkpoint,
        checkpoint.file_sha256(options.checkpoint),
        options.episodes,
        options.seed,
        options.sampler,
        options.sampler_steps,
        options.timestep_spacing,
        options.n_action_steps,
        options.max_steps,
        options.policy_seed,
        options.pictures,
    )
    late = [Late(delay / 1000, options.jitter_ms / 1000, options.late) for delay in options.delay_ms]
    of_each = evaluate_policy(evaluation, late or [None], **common)
    return of_each[0] if len(of_each) == 1 else {"task": spec.task, "episodes": options.episodes, "delays": of_each}


def main() -> None:
    command_line.run(Options, report, __doc__, "stopped; with --json, --resume goes on from here")


def report(options: Options) -> None:
    from diffusion_ros import checkpoint

    summary = evaluate(options)
    if options.record:
        scores = {name: value for name, value in summary.items() if name not in ("results", *IDENTITY)}
        checkpoint.record_scores(options.checkpoint, {"evaluation": scores})
        # The same module, with these scores: what was evaluated stays `checkpoint_sha256`.
        summary["recorded_sha256"] = checkpoint.file_sha256(options.checkpoint)
    if options.json is not None:
        write_json(options.json, summary)
    for of_one in summary.get("delays", [summary]):
        print(json.dumps({key: value for key, value in of_one.items() if key != "results"}))


if __name__ == "__main__":
    main()
