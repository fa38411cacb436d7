"""DDPM on images (Ho et al. 2020): the module that is trained, and that an "image model" checkpoint contains."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffusion_ros.checkpoint import exported
from training.diffusion.noise_schedule import NoiseSchedule, denoising_loss
from training.networks.unet2d import Unet2d


def to_float(images: Tensor) -> Tensor:
    """uint8 (B, H, W, C) to float (B, C, H, W) in [-1, 1]."""
    return images.movedim(-1, 1).to(torch.float32) / 127.5 - 1.0


def to_uint8(images: Tensor) -> Tensor:
    """Float (B, C, H, W) in [-1, 1] to uint8 (B, H, W, C), the nearest value; what lies outside is clipped."""
    return ((images + 1.0) * 127.5).round().clamp(0.0, 255.0).to(torch.uint8).movedim(1, -1).contiguous()


class ImageDiffusion(nn.Module):
    """Denoiser, schedule and sampler of images of one size.

    Args:
        denoiser: for images of `channels`.
        schedule: of trailing steps, where few of them are to do.
        height: of an image; width likewise.
        sampler: "ddim", deterministic but for the first noise, in any number of steps; or "ddpm", the ancestral
            sampling of algorithm 2.
    """

    def __init__(
        self,
        denoiser: Unet2d,
        schedule: NoiseSchedule,
        height: int,
        width: int,
        sampler: str = "ddim",
    ) -> None:
        super().__init__()
        denoiser.check_size(height, width)
        self.denoiser = denoiser
        self.schedule = schedule
        self.channels = denoiser.channels
        self.height = height
        self.width = width
        self.sampler = sampler
        self.self_conditioning = denoiser.self_conditioning

    def forward(self, seed: int, count: int, steps: int) -> Tensor:
        """Images (count, H, W, C) uint8: see `sample`."""
        return self.sample(seed, count, steps)

    @exported
    def sample(self, seed: int, count: int, steps: int) -> Tensor:
        """Images (count, H, W, C) uint8, made from noise in `steps` denoising steps; the seed decides the noise."""
        return self.trajectory(seed, count, steps, False)[-1]

    @exported
    def denoised(self, seed: int, count: int, steps: int) -> Tensor:
        """What `sample` passes through, (steps + 1, count, H, W, C) uint8: noise first, the images last."""
        return torch.stack(self.trajectory(seed, count, steps, True))

    def trajectory(self, seed: int, count: int, steps: int, whole: bool) -> list[Tensor]:
        """Images (count, H, W, C) uint8 of x at the end; with `whole` also at the start and after each of the steps."""
        device = self.schedule.alphas_cumprod.device
        shape = [count, self.channels, self.height, self.width]
        generator = torch.Generator(device=device)
        generator.manual_seed(seed)
        x = torch.randn(shape, generator=generator, device=device)
        visited = self.schedule.timesteps(steps)
        estimate = torch.zeros_like(x)
        path: list[Tensor] = []
        for i in range(steps):
            if whole:
                path.append(to_uint8(x))
            t, previous = visited[i], visited[i + 1] if i + 1 < steps else -1
            steps_t = torch.full([count], t, dtype=torch.int64, device=device)
            output = self.denoiser(x, steps_t, estimate)
            if self.self_conditioning:
                estimate = self.schedule.predict_x0(output, x, steps_t).clamp(-1.0, 1.0)
            if self.sampler == "ddim":
                x = self.schedule.ddim_step(output, x, t, previous, True)
            else:
                noise = torch.randn(shape, generator=generator, device=device)
                x = self.schedule.ddpm_step(output, x, t, previous, noise)
        path.append(to_uint8(x))
        return path


class ImageDiffusionLoss(nn.Module):
    """The error of the denoiser's prediction at a random step, and nothing else: Accelerate prepares it.

    With self-conditioning half of the batches are told what the network, without being told, makes of the same x
    (Chen et al. 2022, algorithm 1); no gradient flows through that.
    """

    def __init__(self, diffusion: ImageDiffusion, loss: str) -> None:
        super().__init__()
        self.diffusion = diffusion
        self.loss = loss

    def forward(self, x0: Tensor, noise: Tensor, t: Tensor, condition: bool = False) -> Tensor:
        """x0 and noise (B, C, H, W), t (B,) int64; returns ()."""
        schedule, denoiser = self.diffusion.schedule, self.diffusion.denoiser
        x = schedule.q_sample(x0, noise, t)
        estimate: Tensor | None = None
        if condition:
            with torch.no_grad():
                estimate = schedule.predict_x0(denoiser(x, t).float(), x, t).clamp(-1.0, 1.0)
        output = denoiser(x, t, estimate)
        return denoising_loss(output.float(), schedule.target(x0, noise), self.loss)
