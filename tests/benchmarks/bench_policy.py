"""One chunk of the shipped Can policy from pixels, against its network run eagerly with diffusers' DDPM, 100 steps.

Both on one thread, in turns, in this process; the figure to look at is the ratio.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler

from diffusion_ros import checkpoint
from diffusion_ros.models.policy import Policy
from training.policy_setup import restore_policy

CHECKPOINTS = Path(__file__).resolve().parents[2] / "checkpoints"


def median_ms(run: Callable[[], object], reference: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median milliseconds of both, run in turns so that a busy moment hits both."""
    ours, theirs = [], []
    for _ in range(rounds):
        for times, function in ((ours, run), (theirs, reference)):
            begin = time.perf_counter()
            function()
            times.append(1000 * (time.perf_counter() - begin))
    return statistics.median(ours[1:]), statistics.median(theirs[1:])


def main() -> None:
    torch.set_num_threads(1)
    path = CHECKPOINTS / "can_pixels.pt"
    policy = Policy(checkpoint.load(path))
    eager = restore_policy(path)
    rng = np.random.default_rng(0)
    frame = {}
    for tensor in policy.spec.inputs:
        value = rng.integers(0, 256, tensor.shape, np.uint8) if tensor.dtype == "uint8" else np.full(tensor.shape, 0.1)
        frame[tensor.name] = value
    batch = {
        name: torch.from_numpy(np.stack([v, v])).to(torch.uint8 if v.dtype == np.uint8 else torch.float32)
        for name, v in frame.items()
    }
    scheduler = DDPMScheduler(
        policy.spec.num_train_timesteps,
        beta_schedule="squaredcos_cap_v2",
        prediction_type=eager.schedule.prediction_type,
    )

    def shipped() -> object:
        # In use a frame is encoded once and is part of two windows; here both frames are encoded, as in the reference.
        features = [policy.encode(frame), policy.encode(frame)]
        return policy.sample(features, 0)

    @torch.inference_mode()
    def reference() -> object:
        cond = eager.encode(batch)[None]
        scheduler.set_timesteps(100)
        x = torch.randn((1, eager.rows, eager.width))
        for t in scheduler.timesteps:
            x = scheduler.step(eager.denoiser(x, t[None], cond), t, x).prev_sample
        return eager.action_limits.unnormalize(x)

    ours, theirs = median_ms(shipped, reference, 21)
    print(
        f"a chunk of can_pixels, {policy.spec.sampler.upper()} {policy.spec.sampler_steps} steps: {ours:.1f} ms,"
        f" eager with diffusers' DDPM, 100 steps: {theirs:.1f} ms; ratio {theirs / ours:.1f} (at least 15)"
    )


if __name__ == "__main__":
    main()
