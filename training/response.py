"""Measures how the hand of the arm that a policy was trained on follows its actions (`response` in a checkpoint).

    python -m training.response --checkpoint checkpoints/can_state.pt
    python -m training.response --checkpoint checkpoints/can_state.pt --write checkpoints/can_pixels.pt

By it `diffusion_ros real_robot` makes of a policy's rows what the arm in training made of them. Position and rotation
each follow x'' = k (goal - x) - 2 d sqrt(k) x', with the goal the action away from where the hand was: a model, fitted
to what the hand did in episodes of the simulator. robosuite's controller has k = 150 and d = 1, but not its arm.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from diffusion_ros import checkpoint
from diffusion_ros.checkpoint import CheckpointError
from diffusion_ros.control.targets import answered
from diffusion_ros.models.policy import Policy
from diffusion_ros.robot import EEF_POS, EEF_QUAT
from diffusion_ros.simulators.arm import Simulation
from training import command_line

Array = NDArray[np.float64]

_SHARE = 0.75
"""Of the stretches, the best: in the others the hand touches something, or carries it."""
STEPS = 4
"""For which the model is let alone from a state that was measured, and then compared."""


@dataclass(frozen=True)
class Motion:
    """What a hand did in one episode, at the beginning of each of N control steps."""

    rows: Array
    """(N, 7) what it was told then."""
    positions: Array
    """(N, 3) m"""
    rotations: Array
    """(N, 4) xyzw"""
    velocities: Array
    """(N, 3) m/s"""
    angular_velocities: Array
    """(N, 3) rad/s about the axes of the frame"""


def fit(motions: Sequence[Motion], seconds: float) -> tuple[tuple[float, ...], tuple[float, float]]:
    """Response (4): k [1/s^2] and d of position, then of rotation; and what it misses by after STEPS steps of
    `seconds` [s], the mean of the best three quarters [m, rad]. Raises ValueError for too little motion."""
    rows, positions, turns, velocities, spins = [], [], [], [], []
    ends, end_turns = [], []
    for motion in motions:
        for t in range(len(motion.rows) - STEPS):
            rows.append(motion.rows[t : t + STEPS, :6])
            positions.append(motion.positions[t])
            turns.append(motion.rotations[t])
            velocities.append(motion.velocities[t])
            spins.append(motion.angular_velocities[t])
            ends.append(motion.positions[t + STEPS])
            end_turns.append(motion.rotations[t + STEPS])
    if len(rows) < 100:
        raise ValueError(f"{len(rows)} control steps, at least 100 expected")
    told, start, began = np.array(rows), np.array(positions), Rotation.from_quat(turns)
    end, ended = np.array(ends), Rotation.from_quat(end_turns)

    def error(k: float, d: float, rotation: bool) -> float:
        speed = np.array(spins if rotation else velocities)
        at, turned = start, began
        for step in range(STEPS):
            row = told[:, step, 3:] if rotation else told[:, step, :3]
            way, speed = answered((k, d), -row, speed, seconds)
            at, turned = (at, Rotation.from_rotvec(way) * turned) if rotation else (at + way, turned)
        off = (ended * turned.inv()).as_rotvec() if rotation else end - at
        away = np.sort(np.linalg.norm(off, axis=1))
        return float(np.mean(away[: int(_SHARE * len(away))]))

    found, missed = [], []
    for rotation in (False, True):
        # By logarithms both stay above 0.
        best = minimize(
            lambda x, rotation=rotation: error(math.exp(x[0]), math.exp(x[1]), rotation),
            [math.log(100.0), 0.0],
            method="Nelder-Mead",
            options={"xatol": 1e-3, "fatol": 1e-7},
        )
        found += [float(math.exp(x)) for x in best.x]
        missed.append(float(best.fun))
    return tuple(found), (missed[0], missed[1])


class _Watched(Simulation):
    """Keeps what it was told and did."""

    def __init__(self, task: str, cameras: Sequence[str]) -> None:
        self.kept: list[tuple[Array, Array, Array, Array]] = []
        super().__init__(task, tuple(cameras))

    def step(self, row: Array) -> None:
        import mujoco

        frame, moving = self.observe(images=False), np.zeros(6)
        mujoco.mj_objectVelocity(self.model, self.data, mujoco.mjtObj.mjOBJ_SITE, self.grip_site, moving, 0)
        self.kept.append((np.array(row, np.float64), frame[EEF_POS], frame[EEF_QUAT], moving))
        super().step(row)

    def motion(self) -> Motion:
        """Of the episode that has ended."""
        rows, positions, rotations, moving = (np.array(values) for values in zip(*self.kept, strict=True))
        self.kept.clear()
        return Motion(rows, positions, rotations, moving[:, 3:], moving[:, :3])


@dataclass(frozen=True)
class Options:
    """Measures how an arm in the simulator follows a policy's actions."""

    checkpoint: Path
    """A policy of our trainers, whose episodes are looked at."""
    episodes: int = 8
    """How many, with validation seeds."""
    write: tuple[Path, ...] = ()
    """Checkpoints of the same arm, into whose specifications it is written."""


def measure(path: Path, episodes: int) -> tuple[tuple[float, ...], tuple[float, float]]:
    """As `fit`, of the arm that a policy's task has. Raises CheckpointError."""
    from training.evaluation.rollout import roll_out
    from training.run import FIRST_VALIDATION_SEED

    policy = Policy(checkpoint.load(path, kind="policy"))
    simulation = _Watched(policy.spec.task, policy.spec.cameras)
    try:
        motions = [simulation.motion() for _ in roll_out(policy, simulation, episodes, FIRST_VALIDATION_SEED)]
    finally:
        simulation.close()
    return fit(motions, policy.spec.period_ns / 1e9)


def main() -> None:
    command_line.run(Options, _report, __doc__)


def _report(options: Options) -> None:
    if options.episodes < 1:
        raise CheckpointError(f"episodes {options.episodes}, at least 1 expected")
    specs = [checkpoint.read_spec(path) for path in options.write]
    response, missed = measure(options.checkpoint, options.episodes)
    rounded = tuple(float(f"{value:.3g}") for value in response)
    print(f"position: k {rounded[0]:g} 1/s2, d {rounded[1]:g}; {1e3 * missed[0]:.1f} mm off after {STEPS} steps")
    print(f"rotation: k {rounded[2]:g} 1/s2, d {rounded[3]:g}; {missed[1]:.3f} rad off after {STEPS} steps")
    for path, spec in zip(options.write, specs, strict=True):
        checkpoint.replace_spec(path, dataclasses.replace(spec, response=rounded))
        print(path)


if __name__ == "__main__":
    main()
