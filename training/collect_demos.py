"""Demonstrations of the scripted experts in robomimic's HDF5 format.

The arm executes the expert's action plus noise, and the file records the expert's own action as the label (`actions`).
So the data show how to recover from a policy's errors (Laskey et al. 2017, DART, arXiv 1703.09327). What was executed
stands beside it (`executed_actions`). Episode i uses seed `seed + i`. Each episode is written to a part of its own, and
the file appears when all are there. If a collection was stopped, the same command goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from diffusion_ros import checkpoint
from diffusion_ros.atomic_file import atomic_write
from diffusion_ros.installation import require
from diffusion_ros.models.policy import Policy
from diffusion_ros.robot import ACTION_SCALE, CAMERAS, IMAGE_SIZE, RATE
from diffusion_ros.simulators.arm import Simulation
from diffusion_ros.simulators.episode import episode_stamp_ns
from diffusion_ros.simulators.tasks import arm_task
from training import command_line
from training.data.demonstrations import EXECUTED, JOINT_POSITIONS
from training.data.experts import NOISE_PARTS, REST, NoisyExpert
from training.data.hdf5_file import opened
from training.data.parts import Job, parts
from training.parallel import Workers

if TYPE_CHECKING:
    from training.evaluation.rollout import Driver, Late

EVALUATION_SEEDS = 100_000
"""Seeds from here on are kept for evaluation; demonstrations must not use them."""

TRIES = 8
"""Of an episode until the expert counts as unable."""
SCENES = 200
"""That a policy is tried in, to find one where it is stuck."""
SCENE_SEEDS = 80_000
"""Such scenes are drawn from the seeds below; validation has its own above."""
AFTER_SUCCESS = 10
"""Steps recorded after the task has succeeded."""


@dataclass(frozen=True)
class Options:
    """Collects demonstrations of a scripted expert."""

    task: str
    """lift, can or square."""
    out: Path
    """The HDF5 file to write."""
    episodes: int = 200
    """Number of successful episodes."""
    seed: int = 0
    """Seed of the first episode; episode i uses seed + i. All must be below 100,000."""
    images: bool = True
    """Record both cameras (42 kB a step), not only states."""
    quiet: int = 0
    """Noise comes as disturbances of 1 to 10 steps, with 6 to `quiet` steps between two of them; 0: in every step. In a
    disturbance the hand does a part of what the expert says, drifts, and now and then moves its fingers the other way,
    as that of a policy that errs. What a policy is to predict for later steps (--max-delay) is certain only as far as
    no disturbance comes between."""
    noise: float = 0.5
    """Strongest noise on the commands, as a part of the full command. Each episode's is drawn from U(0, noise);
    rotations get 0.3 of it."""
    wander: int = 0
    """In the first U(0, wander) steps the hand does not follow the expert. It moves in a random direction, a new one
    every 10 steps. So the data show the object to a hand that is turned wrong. A policy that has only seen an expert's
    hand may infer the object's place from its own hand."""
    policy: Path | None = None
    """A policy's checkpoint that drives first. The expert takes over at a random step, and only its part is recorded.
    So the data show the way out of where this policy goes astray (DAgger, Ross et al. 2011, arXiv 1011.0686). One that
    was trained with --max-delay drives late, in each episode by another number of rows up to that."""
    late_policy: Path | None = None
    """With --quiet: a policy's checkpoint that drives in most disturbances, its chunks late by up to --max-delay rows
    that it was trained with. So the data show what its own rows lead to. With --policy the same file."""
    takeover: int = 200
    """With --policy: the expert takes over at a step drawn from U(lead, takeover)."""
    lead: int = 0
    """With --policy: the least number of steps that it drives. If it succeeds before the expert takes over, another
    scene is drawn. So the data show the way out of where the policy is stuck."""
    include: Path | None = None
    """A file of demonstrations that come first in the new file."""
    workers: int = 2
    """Number of processes."""
    cluster: str | None = None
    """The address of a Dask scheduler, as tcp://host:8786: its workers do the work instead. They must see the same
    folders."""

    def __post_init__(self) -> None:
        arm_task(self.task)
        Workers(self.workers, self.cluster)
        if self.episodes < 1:
            raise ValueError(f"episodes {self.episodes}: must be at least 1")
        if self.seed < 0 or self.seed + self.episodes > EVALUATION_SEEDS:
            raise ValueError(f"seeds {self.seed} to {self.seed + self.episodes - 1}: must lie in 0 to 99999")
        if self.policy is not None and not 0 <= self.lead < self.takeover:
            raise ValueError(f"lead {self.lead}, takeover {self.takeover}: 0 <= lead < takeover is expected")
        if self.wander < 0:
            raise ValueError(f"wander {self.wander}: must not be negative")
        if self.quiet and self.quiet < REST:
            raise ValueError(f"quiet {self.quiet}: must be 0, or {REST} at least")
        if self.late_policy is not None and not self.quiet:
            raise ValueError("late_policy goes with --quiet")
        if None not in (self.policy, self.late_policy) and self.policy != self.late_policy:
            raise ValueError(f"late_policy {self.late_policy}: with policy {self.policy} the same file is expected")
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise {self.noise}: must lie in [0, 1]")


class LateDriving:
    """A policy drives in an expert's disturbances, each with a delay of its own; where it has no row, the expert does.

    `frame` is what is observed now.
    """

    LONGEST = 30
    """Steps that it drives at most, from its first row on."""

    def __init__(self, policy: Policy, scene: int) -> None:
        self._policy, self._scene = policy, scene
        self._step = 0
        self.frame: dict[str, Any] = {}
        self._driver: Driver | None = None

    def begin(self, rng: np.random.Generator) -> int:
        """For how many steps from now on."""
        from training.evaluation.rollout import Driver

        rows, late = _lateness(self._policy, rng)
        self._driver = Driver(self._policy, int(rng.integers(2**31)), late, self._scene)
        return rows + int(rng.integers(4, self.LONGEST + 1))

    def row(self, row: NDArray[np.float64]) -> NDArray[np.float64]:
        """(7) what is executed where the expert would execute row (7)."""
        assert self._driver is not None
        stamp = episode_stamp_ns(0, self._step)
        self._step += 1
        command = self._driver.command(stamp, self.frame)
        if not command.acting:
            command = replace(command, row=row)
        self._driver.executed(stamp, command)
        return command.row


def _lateness(policy: Policy, rng: np.random.Generator) -> tuple[int, Late]:
    """By how many rows it is late, out of those that it was trained for, and the same in seconds."""
    from training.evaluation.rollout import Late

    rows = int(rng.integers(policy.spec.max_delay + 1))
    return rows, Late(rows * policy.spec.period_ns / 1e9)


def record_episode(simulation: Simulation, options: Options, seed: int, policy: Policy | None = None) -> dict[str, Any]:
    """One successful demonstration as robomimic's arrays; a try that fails is repeated with half the noise and lead,
    or with `lead` in another scene.

    Raises RuntimeError if the expert fails without any noise as well, or if the policy succeeds in every scene.
    """
    from training.evaluation.rollout import roll_out

    rng = np.random.default_rng([seed, 1])
    sigma = rng.uniform(0, options.noise)
    takeover, scene = options.takeover, seed
    for _ in range(SCENES if options.lead else TRIES):
        simulation.reset(scene)
        if options.policy is not None and policy is not None:
            steps = int(rng.integers(options.lead, takeover))
            late = _lateness(policy, rng)[1] if policy.spec.max_delay else None
            drive = partial(roll_out, policy, simulation, scene + 1, 0, policy_seed=seed, first=scene)
            for _ in drive(max_steps=steps, late=late):
                pass
        if not simulation.success:
            other = LateDriving(policy, scene) if options.late_policy is not None and policy is not None else None
            episode = _attempt(simulation, options, sigma, rng, other)
            if episode is not None:
                return episode
            sigma = sigma / 2 if sigma > 0.05 else 0.0
        # The policy had succeeded, or left what no expert can mend.
        if options.lead:
            scene = int(rng.integers(SCENE_SEEDS))
        else:
            takeover = (takeover + 1) // 2
    if options.lead:
        raise RuntimeError(f"{options.policy} succeeds in {SCENES} scenes of seed {seed}; a lower lead is needed")
    raise RuntimeError(f"the {options.task} expert fails on seed {seed}")


def _attempt(
    simulation: Simulation, options: Options, sigma: float, rng: np.random.Generator, other: LateDriving | None
) -> dict[str, Any] | None:
    frames, states, actions, executed, rewards = [], [], [], [], []
    left = None
    wander = int(rng.integers(options.wander + 1)) if options.wander else 0
    expert = NoisyExpert(simulation, ACTION_SCALE * (sigma * NOISE_PARTS), rng, wander, options.quiet, other)
    for _ in range(simulation.task.max_steps):
        frames.append(simulation.observe(options.images) | {JOINT_POSITIONS: simulation.joint_positions()[:7]})
        states.append(simulation.flat_state())
        if other is not None:
            other.frame = frames[-1]
        actions.append(np.clip(expert.step() / ACTION_SCALE, -1, 1))
        executed.append(np.clip(expert.executed / ACTION_SCALE, -1, 1))  # as Simulation.step does
        rewards.append(float(simulation.success))
        if left is None and rewards[-1]:
            left = AFTER_SUCCESS
        elif left is not None:
            left -= 1
        if left == 0:
            break
    if left != 0:
        return None
    obs = {name: np.stack([frame[name] for frame in frames]) for name in frames[0]}
    # robomimic's `object` begins with the object's position and quaternion, for all three tasks.
    position, quaternion = obs.pop("object_pos"), obs.pop("object_quat")
    obs["object"] = np.concatenate([position, quaternion, position - obs["robot0_eef_pos"]], axis=1)
    dones = np.zeros(len(actions), dtype=np.int64)
    dones[-1] = 1
    return {
        "obs": obs,
        "actions": np.stack(actions),
        EXECUTED: np.stack(executed),
        "states": np.stack(states),
        "rewards": np.array(rewards),
        "dones": dones,
        "sigma": sigma,
    }


def _write_part(path: Path, simulation: Simulation, options: Options, seed: int, policy: Policy | None) -> None:
    episode = record_episode(simulation, options, seed, policy)
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        group = file.create_group("demo")
        for name, value in episode["obs"].items():
            group.create_dataset(f"obs/{name}", data=value)
        for name in ("actions", EXECUTED, "states", "rewards", "dones"):
            group.create_dataset(name, data=episode[name])
        group.attrs["num_samples"] = len(episode["actions"])
        group.attrs["model_file"] = simulation.xml()
        group.attrs["seed"] = seed
        group.attrs["noise_sigma"] = episode["sigma"]


def _worker(options: Options) -> Callable[[Job], None]:
    """Prepares a worker: what it returns records an episode."""
    import torch

    torch.set_num_threads(1)
    policy = None
    if path := options.policy or options.late_policy:
        policy = Policy(checkpoint.load(path, kind="policy", task=options.task))
    simulation = Simulation(options.task)

    def record(job: Job) -> None:
        seed, path = job
        _write_part(path, simulation, options, seed, policy)

    return record


def _merge(options: Options, files: list[Path]) -> None:
    """All parts in one file, which appears only when it is whole."""
    task = arm_task(options.task)
    with atomic_write(options.out) as temporary, h5py.File(temporary, "w") as file:
        data = file.create_group("data")
        total = 0
        if options.include is not None:
            with opened(options.include) as earlier:
                for i in range(len(earlier["data"])):
                    earlier["data"].copy(f"demo_{i}", data)
                total += int(earlier["data"].attrs["total"])
        for i, path in enumerate(files, start=len(data)):
            with h5py.File(path, "r") as part:
                part.copy("demo", data, f"demo_{i}")
                total += int(part["demo"].attrs["num_samples"])
        data.attrs["total"] = total
        data.attrs["env_args"] = json.dumps(
            {
                "env_name": task.environment,
                "type": 1,
                "env_version": "1.5.2",
                "env_kwargs": {
                    "robots": "Panda",
                    "control_freq": RATE,
                    "camera_names": list(CAMERAS) if options.images else [],
                    "camera_heights": IMAGE_SIZE,
                    "camera_widths": IMAGE_SIZE,
                },
            }
        )


def collect(options: Options) -> None:
    """Records what is missing and writes the file; OSError and RuntimeError say in one line what went wrong."""
    require("robosuite", "mujoco")
    settings = {k: v for k, v in vars(options).items() if k not in ("out", "workers", "cluster", "episodes")}
    settings[EXECUTED] = True  # parts that were begun before lack it
    seeds = [options.seed + i for i in range(options.episodes)]
    team = Workers(options.workers, options.cluster)
    with parts(options.out, seeds, settings, partial(_worker, options), team, options.task, "episode") as files:
        _merge(options, files)


def main() -> None:
    command_line.run(Options, collect, __doc__, "stopped; the same command goes on from here")


if __name__ == "__main__":
    main()
