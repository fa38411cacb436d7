"""Our U-Net against diffusers' UNet2DModel of equal size: time of a training step, and distance after equal steps.

Both on one thread, in turns, in this process, on the same batches of scikit-learn's digits; the figures to look at are
the ratios. Time is that of the processor, so that what else the machine does counts for neither.

    python tests/benchmarks/bench_ddpm.py [training steps, 1000] [images compared, 270]
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DModel as _UNet2DModel
from torch import Tensor, nn

from training.data.images import load_images
from training.diffusion.images import to_float, to_uint8
from training.diffusion.noise_schedule import NoiseSchedule, denoising_loss
from training.evaluation.frechet import stand_in, train_stand_in
from training.networks.unet2d import Unet2d
from training.run import ExponentialMovingAverage, step_generator, warm_cosine

UNet2DModel: Any = _UNet2DModel  # diffusers has no types
BATCH = 64
T = 300
SAMPLER_STEPS = 50
DRAWS = 5
"""Sets of images whose distances are averaged: one set's is off by more than the networks differ."""


class Theirs(nn.Module):
    """diffusers' network, called as ours is: of as many parameters, two residual blocks a level on the way down (three
    on the way up), attention at each level."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.network = UNet2DModel(
            sample_size=8,
            in_channels=channels,
            out_channels=channels,
            layers_per_block=2,
            block_out_channels=(32, 56),
            down_block_types=("AttnDownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "AttnUpBlock2D"),
            norm_num_groups=4,
            attention_head_dim=8,
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        result: Tensor = self.network(x, t).sample
        return result


class Run:
    """One network's training."""

    def __init__(self, network: nn.Module, steps: int) -> None:
        self.network = network.to(memory_format=torch.channels_last)
        self.steps = steps
        self.schedule = NoiseSchedule(T, "squaredcos_cap_v2", timestep_spacing="trailing")
        self.ema = ExponentialMovingAverage(network, maximum=0.995)
        self.optimizer: Any = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=1e-4, fused=True)
        self.times: list[float] = []
        self.parameters = sum(parameter.numel() for parameter in network.parameters())

    def step(self, iteration: int, images: np.ndarray) -> None:
        generator = step_generator(0, 3, iteration)
        chosen = torch.randint(0, len(images), (BATCH,), generator=generator).numpy()
        x0 = to_float(torch.from_numpy(images[chosen])).contiguous(memory_format=torch.channels_last)
        noise = torch.randn(x0.shape, generator=generator)
        t = torch.randint(0, T, (BATCH,), generator=generator)
        x = self.schedule.q_sample(x0, noise, t)
        for group in self.optimizer.param_groups:
            group["lr"] = 1e-3 * warm_cosine(iteration, self.steps, min(100, self.steps // 10 or 1))
        begin = time.process_time()
        loss = denoising_loss(self.network(x, t), noise, "huber")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.times.append(time.process_time() - begin)
        self.ema.update()

    @torch.no_grad()
    def generate(self, count: int, shape: tuple[int, int, int], seed: int) -> np.ndarray:
        height, width, channels = shape
        x = torch.randn((count, channels, height, width), generator=torch.Generator().manual_seed(seed))
        visited = self.schedule.timesteps(SAMPLER_STEPS)
        with self.ema.applied():
            for t, previous in zip(visited, [*visited[1:], -1], strict=True):
                output = self.network(x, torch.full((count,), t))
                x = self.schedule.ddim_step(output, x, t, previous, True)
        return to_uint8(x).numpy()


def main() -> None:
    torch.set_num_threads(1)
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 270
    data = load_images("digits")
    runs = []
    for make in (lambda: Unet2d(data.shape[2], 32, (1, 2)), lambda: Theirs(data.shape[2])):
        torch.manual_seed(0)
        runs.append(Run(make(), steps))
    ours, theirs = runs
    for iteration in range(steps):
        for run in runs:
            run.step(iteration, data.train)
    times = [1000 * statistics.median(run.times[1:] or run.times) for run in runs]
    print(
        f"a training step on {BATCH} digits of 8 x 8: ours ({ours.parameters:,} parameters) {times[0]:.1f} ms,"
        f" diffusers' UNet2DModel ({theirs.parameters:,}) {times[1]:.1f} ms; ratio {times[1] / times[0]:.2f}"
        " (at least 1)"
    )
    extractor = stand_in(train_stand_in(data.train))
    drawn = [
        [extractor.distance(run.generate(count, data.shape, seed), data.test) for seed in range(DRAWS)] for run in runs
    ]
    distances = [statistics.mean(found) for found in drawn]
    spread = max(statistics.stdev(found) for found in drawn)
    held = extractor.distance(data.validation[:count], data.test)
    print(
        f"{extractor.name}, to the test set after {steps} steps: ours {distances[0]:.3g}, diffusers'"
        f" {distances[1]:.3g} (means of {DRAWS} sets, which vary by {spread:.2g}), held-out real images {held:.3g};"
        f" ratio {distances[1] / distances[0]:.2f} (at least 1)"
    )


if __name__ == "__main__":
    main()
