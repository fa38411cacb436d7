"""A camera guard: diffusion models of what each camera should show, and how far pictures are from what they make of it.

A picture is noised part of the way, and brought back by the model of its camera (as AnoDDPM does for scans, Wyatt et
al. 2022): what the model knows comes back, what it does not know comes back as something else. Far noise takes all but
the large shapes away, and tells a turned camera or another light; near noise tells small things that do not belong.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion_ros.checkpoint import exported
from training.networks.unet2d import Unet2d
from training.noise_schedule import NoiseSchedule

WAVES = (0.5, 1.0, 2.0, 4.0)
"""Of the sines and cosines that say where in the picture a pixel is [half waves from one side to the other]."""
PATCH = 12
"""Pixels, height and width, of the squares that errors are averaged over."""


def place_channels(height: int, width: int) -> Tensor:
    """(4 len(WAVES), H, W): sines and cosines of both coordinates. A camera that stands still shows the same there."""
    waves = []
    for size, axis in ((height, 0), (width, 1)):
        phase = torch.pi * torch.linspace(-1, 1, size) * torch.tensor(WAVES)[:, None]
        for wave in (phase.sin(), phase.cos()):
            shaped = wave[:, :, None] if axis == 0 else wave[:, None, :]
            waves.append(shaped.expand(len(WAVES), height, width))
    return torch.cat(waves)


class GuardModel(nn.Module):
    """One denoiser a camera, and the errors of good pictures that theirs are measured by.

    Args:
        cameras: how many.
        schedule: with prediction "sample".
        levels: steps of the schedule that pictures are noised to; from each the way back is one step.
        size: pixels, height and width, a multiple of PATCH.
        dim: channels of the denoisers' first level.
        dim_mults: see Unet2d.
    """

    def __init__(
        self,
        cameras: int,
        schedule: NoiseSchedule,
        levels: Sequence[int],
        size: int,
        dim: int,
        dim_mults: Sequence[int],
    ) -> None:
        super().__init__()
        if not levels or not all(0 <= level < schedule.num_train_timesteps for level in levels):
            raise ValueError(f"levels {list(levels)}: steps from 0 to {schedule.num_train_timesteps - 1} expected")
        self.schedule = schedule
        place = place_channels(size, size)
        self.denoisers = nn.ModuleList(
            Unet2d(3 + len(place), dim, dim_mults, out_dim=3, patch=3, head_dim=16) for _ in range(cameras)
        )
        self.patch = PATCH
        self.place = nn.Buffer(place[None])
        self.levels = nn.Buffer(torch.tensor(list(levels)))
        self.noise = nn.Buffer(torch.randn((len(levels), 3, size, size), generator=torch.Generator().manual_seed(0)))
        # Errors of good pictures by camera, level and square, what nearly all stay below; and the threshold of the
        # greatest of a picture's errors in parts of these.
        self.usual_scale = nn.Buffer(torch.ones((cameras, len(levels), size // PATCH, size // PATCH)))
        self.threshold_scale = nn.Buffer(torch.ones(cameras))

    def predict(self, x: Tensor, t: Tensor, camera: int) -> Tensor:
        """Clean pictures (B, 3, H, W) from noisy ones x at steps t (B,)."""
        inputs = torch.cat([x, self.place.expand(len(x), -1, -1, -1)], dim=1)
        result = x
        for index, denoiser in enumerate(self.denoisers):
            if index == camera:
                result = denoiser(inputs, t)
        return result

    @exported
    def errors(self, images: Tensor, camera: int) -> Tensor:
        """Mean squared errors (B, levels, h, w) of images (B, H, W, 3) uint8, by square of PATCH pixels."""
        clean = images.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0
        n, levels = clean.shape[0], self.noise.shape[0]
        x0 = clean.repeat_interleave(levels, 0)
        t = self.levels.repeat(n)
        x = self.schedule.q_sample(x0, self.noise.repeat(n, 1, 1, 1), t)
        error = (self.predict(x, t, camera) - x0).square().mean(1, keepdim=True)
        squares = F.avg_pool2d(error, self.patch)
        return squares.reshape(n, levels, squares.shape[2], squares.shape[3])

    @exported
    def score(self, images: Tensor, camera: int) -> tuple[Tensor, Tensor]:
        """Scores (B,) of images (B, H, W, 3) uint8, above 1 for what should not be seen, and where (B, h, w)."""
        parts = self.errors(images, camera) / self.usual_scale[camera]
        heat = parts.amax(1) / self.threshold_scale[camera]
        return heat.amax((1, 2)), heat

    def forward(self, images: Tensor, camera: int) -> tuple[Tensor, Tensor]:
        """As `score`."""
        return self.score(images, camera)

    @torch.no_grad()
    def calibrate(self, errors: Tensor, camera: int, usual: float, false_alarms: float) -> None:
        """Sets what is usual from the errors (N, levels, h, w) of good pictures.

        usual: share of them below the usual error of each square. false_alarms: share of the pictures that are to
        score above 1.
        """
        self.usual_scale[camera] = errors.quantile(usual, dim=0).clamp(min=1e-6)
        greatest = (errors / self.usual_scale[camera]).amax((1, 2, 3))
        self.threshold_scale[camera] = greatest.quantile(1 - false_alarms)


class GuardLoss(nn.Module):
    """Squared error of the clean pictures predicted at random steps: what Accelerate prepares."""

    def __init__(self, model: GuardModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """images (cameras, B, H, W, 3) uint8, noise (cameras, B, 3, H, W), t (cameras, B)."""
        losses = []
        for camera in range(len(images)):
            clean = images[camera].permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0
            x = self.model.schedule.q_sample(clean, noise[camera], t[camera])
            losses.append((self.model.predict(x, t[camera], camera).float() - clean).square().mean())
        return torch.stack(losses).mean()
