"""A camera guard: diffusion models of what each camera should show, and how far pictures are from what they make of it.

A picture is noised part of the way, and brought back by the model of its camera (as AnoDDPM does for scans, Wyatt et
al. 2022): what the model knows comes back, what it does not know comes back as something else. Far noise takes all but
the large shapes away, and tells a turned camera or another light; near noise tells small things that do not belong.

How much and in which colour a picture differs from what comes back is not the same for all good pictures: an arm that
moves leaves more than a table. What counts is how unlikely the differences are beside those of good pictures, as a
Mahalanobis distance (Lee et al. 2018, arXiv 1807.03888, do so with a classifier's features).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from sklearn.covariance import LedoitWolf
from torch import Tensor, nn

from diffusion_ros.checkpoint import exported
from training.networks.unet2d import Unet2d
from training.noise_schedule import NoiseSchedule

WAVES = (0.5, 1.0, 2.0, 4.0)
"""Of the sines and cosines that say where in the picture a pixel is [half waves from one side to the other]."""
PATCH = 12
"""Pixels, height and width, of the squares that differences are averaged over."""
TINY = 1e-6
"""Added to an error before its logarithm is taken."""


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
    """One denoiser a camera, and how pictures differ from what it makes of them while all is good.

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
        denoisers = [Unet2d(3 + len(place), dim, dim_mults, out_dim=3, patch=3, head_dim=16) for _ in range(cameras)]
        for denoiser in denoisers:
            denoiser.check_size(size, size)
        self.denoisers = nn.ModuleList(denoisers)
        self.patch, self.tiny = PATCH, TINY  # TorchScript knows no globals
        self.place = nn.Buffer(place[None])
        # None of these is trained; all but the first two are of good pictures.
        self.levels = nn.Buffer(torch.tensor(list(levels)), persistent=False)
        noise = torch.randn((len(levels), 3, size, size), generator=torch.Generator().manual_seed(0))
        self.noise = nn.Buffer(noise, persistent=False)
        squares = (size // PATCH) ** 2
        features = 4 * len(levels) * squares
        # For the heat map: errors by camera, level and square, what nearly all stay below.
        usual = torch.ones((cameras, len(levels), size // PATCH, size // PATCH))
        self.usual_scale = nn.Buffer(usual, persistent=False)
        # Mean of the features, what makes them independent and of variance 1, and the distance that few exceed.
        self.feature_mean = nn.Buffer(torch.zeros((cameras, features)), persistent=False)
        self.whitening = nn.Buffer(torch.eye(features).repeat(cameras, 1, 1), persistent=False)
        self.threshold_scale = nn.Buffer(torch.ones(cameras), persistent=False)

    def predict(self, x: Tensor, t: Tensor, camera: int) -> Tensor:
        """Clean pictures (B, 3, H, W) from noisy ones x at steps t (B,)."""
        inputs = torch.cat([x, self.place.expand(len(x), -1, -1, -1)], dim=1)
        result = x
        for index, denoiser in enumerate(self.denoisers):
            if index == camera:
                result = denoiser(inputs, t)
        return result

    @exported
    def differences(self, images: Tensor, camera: int) -> tuple[Tensor, Tensor]:
        """What images (B, H, W, 3) uint8 lose on the way, by square of PATCH pixels.

        Returns the mean squared errors (B, levels, h, w) and the features (B, 4 levels h w): their logarithms, and the
        mean differences in red, green and blue.
        """
        clean = images.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0
        n, levels = clean.shape[0], self.noise.shape[0]
        x0 = clean.repeat_interleave(levels, 0)
        t = self.levels.repeat(n)
        x = self.schedule.q_sample(x0, self.noise.repeat(n, 1, 1, 1), t)
        difference = self.predict(x, t, camera) - x0
        squares = F.avg_pool2d(difference.square().mean(1, keepdim=True), self.patch)
        errors = squares.reshape(n, levels, squares.shape[2], squares.shape[3])
        colours = F.avg_pool2d(difference, self.patch).reshape(n, -1)
        return errors, torch.cat([(errors + self.tiny).log().reshape(n, -1), colours], dim=1)

    def distances(self, features: Tensor, camera: int) -> Tensor:
        """Mahalanobis distances (B,) of features (B, 4 levels h w) from those of good pictures."""
        return ((features - self.feature_mean[camera]) @ self.whitening[camera]).square().sum(1).sqrt()

    @exported
    def score(self, images: Tensor, camera: int) -> tuple[Tensor, Tensor]:
        """Scores (B,) of images (B, H, W, 3) uint8, above 1 for what should not be seen, and where (B, h, w).

        The greatest of where is the score.
        """
        errors, features = self.differences(images, camera)
        score = self.distances(features, camera) / self.threshold_scale[camera]
        where = (errors / self.usual_scale[camera]).amax(1)
        return score, where * (score / where.amax((1, 2)))[:, None, None]

    def forward(self, images: Tensor, camera: int) -> tuple[Tensor, Tensor]:
        """As `score`."""
        return self.score(images, camera)

    @torch.no_grad()
    def calibrate(self, errors: Tensor, features: Tensor, camera: int, usual: float) -> None:
        """Sets what is usual from the differences of N good pictures: errors (N, levels, h, w), features (N, 4 ...).

        Features vary with Ledoit and Wolf's (2004) covariance. usual: share below the usual error of each square.
        """
        self.usual_scale[camera] = errors.quantile(usual, dim=0).clamp(min=TINY)
        mean, std = features.double().mean(0), features.double().std(0).clamp(min=TINY)
        standard = ((features.double() - mean) / std).cpu().numpy()
        precision = torch.from_numpy(LedoitWolf(assume_centered=True).fit(standard).precision_)
        self.feature_mean[camera] = mean
        self.whitening[camera] = torch.linalg.cholesky(precision.to(std)) / std[:, None]

    @torch.no_grad()
    def set_threshold(self, features: Tensor, camera: int, false_alarms: float, margin: float) -> None:
        """To `margin` times what all but this share of other good pictures, with features (N, 4 ...), stay below."""
        self.threshold_scale[camera] = margin * self.distances(features, camera).quantile(1 - false_alarms)


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
