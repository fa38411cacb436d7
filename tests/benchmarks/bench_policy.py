"""A chunk of the shipped Can and Square policies from pixels, against their networks with diffusers' DDPM, 100 steps.

Both on one thread, in turns, in this process; the figure to look at is the ratio. A frame is part of two windows. In
use it is encoded once, when it comes, so that a chunk waits for the newest frame alone: the first line. In the second
line both frames are encoded on both sides. bench_ros.py has the time of a chunk through ROS.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler

from diffusion_ros import checkpoint
from diffusion_ros.control.observation import Frame
from diffusion_ros.control.policy_controller import PolicyController
from diffusion_ros.models.policy import Policy
from diffusion_ros.robot import WORLD_FRAME
from diffusion_ros.ros import messages
from training import command_line
from training.policy_setup import restore_policy

CHECKPOINTS = Path(__file__).resolve().parents[2] / "checkpoints"
REFERENCE_STEPS = 100
_ROUNDS = 21


@dataclass(frozen=True)
class Options:
    """Times chunks against the networks run eagerly with diffusers' DDPM, 100 steps."""

    checkpoints: tuple[Path, ...] = (CHECKPOINTS / "can_pixels.pt", CHECKPOINTS / "square_pixels.pt")
    """Of policies (.pt)."""
    steps: tuple[int, ...] = ()
    """Denoising steps beside the checkpoints' own."""


def median_ms(
    run: Callable[[], object],
    reference: Callable[[], object],
    rounds: int,
    before: Callable[[], object] = lambda: None,
) -> tuple[float, float]:
    """Median milliseconds of both, run in turns so that a busy moment hits both. before: called before each `run`, and
    not timed."""
    ours, theirs = [], []
    for _ in range(rounds):
        before()
        for times, function in ((ours, run), (theirs, reference)):
            begin = time.perf_counter()
            function()
            times.append(1000 * (time.perf_counter() - begin))
    return statistics.median(ours[1:]), statistics.median(theirs[1:])


def made_up(policy: Policy) -> dict[str, Any]:
    """An observation that no policy finds strange."""
    rng = np.random.default_rng(0)
    frame = {}
    for tensor in policy.spec.inputs:
        if tensor.dtype == "uint8":
            frame[tensor.name] = rng.integers(0, 256, tensor.shape, np.uint8)
        elif tensor.low:
            frame[tensor.name] = (np.array(tensor.low) + np.array(tensor.high)) / 2
        else:
            frame[tensor.name] = np.full(tensor.shape, 0.5)
    return frame


def eagerly(path: Path, frame: dict[str, Any]) -> Callable[[], object]:
    """A chunk of two such frames as the paper's code makes it."""
    eager = restore_policy(path)
    batch = {
        name: torch.from_numpy(np.stack([v, v])).to(torch.uint8 if v.dtype == np.uint8 else torch.float32)
        for name, v in frame.items()
    }
    scheduler = DDPMScheduler(
        eager.schedule.num_train_timesteps,
        beta_schedule="squaredcos_cap_v2",
        prediction_type=eager.schedule.prediction_type,
    )
    mask = torch.zeros((1, eager.rows, eager.width), dtype=torch.bool)

    @torch.inference_mode()
    def chunk() -> object:
        cond = eager.encode(batch)[None]
        scheduler.set_timesteps(REFERENCE_STEPS)
        x = torch.randn((1, eager.rows, eager.width))
        for t in scheduler.timesteps:
            x = scheduler.step(eager.predict(x, t[None], cond, mask), t, x).prev_sample
        return eager.action_limits.unnormalize(x)

    return chunk


class Ahead:
    """The policy's part of the node: frames of which the older ones were encoded when they came."""

    def __init__(self, policy: Policy, frame: dict[str, Any]) -> None:
        self._controller = PolicyController(policy, 0)
        self._frame, self._period_ns = frame, policy.spec.period_ns
        self._steps = policy.spec.n_action_steps
        self._stamp_ns = 10**9

    def come(self) -> None:
        """All frames before that which the next chunk is due with."""
        for _ in range(self._steps - 1):
            self._come()
            self._controller.encode_ahead()

    def chunk(self) -> object:
        """From that frame to the message."""
        self._come()
        assert self._controller.needs_chunk(self._stamp_ns)
        return messages.chunk_to_msg(self._controller.chunk(), WORLD_FRAME)

    def _come(self) -> None:
        self._stamp_ns += self._period_ns
        self._controller.push(Frame(self._stamp_ns, self._frame))


def compare(path: Path, steps: int | None) -> None:
    policy = Policy(checkpoint.load(path, sampler_steps=steps))
    frame = made_up(policy)
    reference = eagerly(path, frame)
    policy.sample([policy.encode(frame)] * policy.spec.n_obs_steps, 0)  # once more than `load`: then it is compiled
    spec = policy.spec
    what = f"{path.stem}, {spec.sampler.upper()} {spec.sampler_steps} {spec.timestep_spacing} steps"

    def whole() -> object:
        return policy.sample([policy.encode(frame) for _ in range(spec.n_obs_steps)], 0)

    ahead = Ahead(policy, frame)
    ahead.come()
    ahead.chunk()
    ours, theirs = median_ms(ahead.chunk, reference, _ROUNDS, ahead.come)
    print(
        f"a chunk of {what}: {ours:.1f} ms after its frame, eager with diffusers' DDPM, {REFERENCE_STEPS} steps:"
        f" {theirs:.1f} ms; ratio {theirs / ours:.1f} (at least 50)"
    )
    ours, theirs = median_ms(whole, reference, _ROUNDS)
    print(f"  with both frames encoded at once: {ours:.1f} ms, {theirs:.1f} ms; ratio {theirs / ours:.1f}")


def bench(options: Options) -> None:
    torch.set_num_threads(1)
    for path in options.checkpoints:
        for steps in (None, *options.steps):
            compare(path, steps)


if __name__ == "__main__":
    command_line.run(Options, bench, __doc__)
