"""A camera guard: a diffusion model of what each camera should show, and the distance of a picture from it.

A picture gets some noise, and the model of its camera removes it again (as AnoDDPM does for scans, Wyatt et al. 2022).
What the model knows comes back; what it does not know comes back as something else. Much noise leaves only the large
shapes, and shows a turned camera or another light. Little noise shows small things that do not belong.

Good pictures differ from what comes back, too: a moving arm more than a table. So the score is how unlikely the
differences are beside those of good pictures, as a Mahalanobis distance (Lee et al. 2018, arXiv 1807.03888, do so with
a classifier's features). The picture's own colours are scored in the same way, because the model brings a turned
picture back almost as it was.

What is usual depends linearly on the hand's pose. A turned wrist camera shows what it would show if the hand were
turned, and only the hand's pose tells the two apart. Where the hand seldom is, less is known of what is usual, and
pictures may differ by more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from diffusion_ros.checkpoint import exported
from training.diffusion.noise_schedule import NoiseSchedule
from training.diffusion.policy import rotation_6d
from training.networks.unet2d import Unet2d

WAVES = (0.5, 1.0, 2.0, 4.0)
"""Of the sines and cosines that say where in the picture a pixel is [half waves from one side to the other]."""
PATCH = 12
"""Pixels, height and width, of the squares that differences are averaged over."""
TINY = 1e-6
"""Added to an error before its logarithm is taken."""
POSE_TERMS = 9
"""Position and 6-D rotation of the hand."""
SAME_POSE = 1e-3
"""Least deviation of a term of the pose that counts: a millimetre, or a milliradian."""
FARTHEST = 4.0
"""Deviations from the mean pose beyond which nothing is extrapolated."""
FAMILIAR = 1.25
"""Root mean square of the deviations of a pose's terms up to which as much is known of it as of any."""
STRANGEST = 4.0
"""How many times as large a threshold can get: a guard must not go blind because a hand leans."""
SAME_LOOK = 5e-4
"""Deviation that every feature is granted beside that of good pictures: what noise of three quarters of a grey level
leaves in the mean of a square. A simulator's pictures have none."""
RIDGE = 1e-3
"""Penalty of the regression on the pose, for each picture."""


def place_channels(height: int, width: int) -> Tensor:
    """(4 len(WAVES), H, W): sines and cosines of both coordinates. A camera that stands still shows the same there."""
    waves = []
    for size, axis in ((height, 0), (width, 1)):
        phase = torch.pi * torch.linspace(-1, 1, size) * torch.tensor(WAVES)[:, None]
        for wave in (phase.sin(), phase.cos()):
            shaped = wave[:, :, None] if axis == 0 else wave[:, None, :]
            waves.append(shaped.expand(len(WAVES), height, width))
    return torch.cat(waves)


def pose_terms(poses: Tensor) -> Tensor:
    """(B, POSE_TERMS) of poses (B, 7): position [m], quaternion xyzw."""
    return torch.cat([poses[:, :3], rotation_6d(poses[:, 3:])], dim=1)


class Familiarity(nn.Module):
    """How far features of a camera's pictures are from those of good ones, which count as Gaussian around a mean that
    is linear in the hand's pose.

    Args:
        cameras: how many.
        size: features, D.
    """

    def __init__(self, cameras: int, size: int) -> None:
        super().__init__()
        self.farthest, self.familiar, self.strangest = FARTHEST, FAMILIAR, STRANGEST  # TorchScript knows no globals
        self.pose_mean = nn.Buffer(torch.zeros((cameras, POSE_TERMS)), persistent=False)
        self.pose_scale = nn.Buffer(torch.ones((cameras, POSE_TERMS)), persistent=False)
        self.mean = nn.Buffer(torch.zeros((cameras, size)), persistent=False)
        self.slope = nn.Buffer(torch.zeros((cameras, POSE_TERMS, size)), persistent=False)
        """Of the mean, by terms of the pose of mean 0 and deviation 1."""
        self.whitening = nn.Buffer(torch.eye(size).repeat(cameras, 1, 1), persistent=False)
        """What makes the features independent and of variance 1."""
        self.threshold = nn.Buffer(torch.ones(cameras), persistent=False)

    def forward(self, features: Tensor, poses: Tensor, camera: int) -> Tensor:
        """Mahalanobis distances (B,), in parts of the threshold, of features (B, D) of pictures that were taken while
        the hand was at poses (B, 7): position [m], quaternion xyzw. The farther the hand is from where it is known to
        be, the larger is the threshold, in proportion."""
        place = self.standard_poses(poses, camera)
        usual = self.mean[camera] + place.clamp(-self.farthest, self.farthest) @ self.slope[camera]
        distance = ((features - usual) @ self.whitening[camera]).square().sum(1).sqrt()
        strangeness = (place.square().mean(1).sqrt() / self.familiar).clamp(1.0, self.strangest)
        return distance / strangeness / self.threshold[camera]

    def standard_poses(self, poses: Tensor, camera: int) -> Tensor:
        """(B, POSE_TERMS) of mean 0 and deviation 1."""
        return (pose_terms(poses) - self.pose_mean[camera]) / self.pose_scale[camera]

    @torch.no_grad()
    def fit(self, features: Tensor, poses: Tensor, camera: int) -> None:
        """To the features (N, D) and poses (N, 7) of N good pictures, by ridge regression on the poses and Ledoit and
        Wolf's (2004) covariance of what that leaves."""
        terms = pose_terms(poses)
        self.pose_mean[camera], self.pose_scale[camera] = terms.mean(0), terms.std(0).clamp(min=SAME_POSE)
        place = self.standard_poses(poses, camera).clamp(-self.farthest, self.farthest)
        x, y = (value.double().cpu().numpy() for value in (place, features))
        regression = Ridge(RIDGE * len(x)).fit(x, y)
        rest = y - regression.predict(x)
        deviation = np.sqrt(rest.var(0) + SAME_LOOK**2)
        covariance = LedoitWolf(assume_centered=True).fit(rest / deviation).covariance_
        precision = np.linalg.inv(covariance + np.diag((SAME_LOOK / deviation) ** 2))
        self.mean[camera] = torch.from_numpy(regression.intercept_)
        self.slope[camera] = torch.from_numpy(regression.coef_.T)
        self.whitening[camera] = torch.from_numpy(np.linalg.cholesky(precision) / deviation[:, None])

    @torch.no_grad()
    def set_threshold(self, features: Tensor, poses: Tensor, camera: int, false_alarms: float, margin: float) -> None:
        """To `margin` times what all but this share of other good pictures, with features (N, D) and poses (N, 7), stay
        below."""
        self.threshold[camera] = 1.0
        self.threshold[camera] = margin * self(features, poses, camera).quantile(1 - false_alarms)


class GuardModel(nn.Module):
    """One denoiser a camera, and how pictures differ from what it makes of them while all is good.

    Args:
        cameras: how many.
        schedule: with prediction_type "sample".
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
        self.patch, self.tiny = PATCH, TINY
        self.place = nn.Buffer(place[None])
        # Nothing below is trained.
        self.levels = nn.Buffer(torch.tensor(list(levels)), persistent=False)
        noise = torch.randn((len(levels), 3, size, size), generator=torch.Generator().manual_seed(0))
        self.noise = nn.Buffer(noise, persistent=False)
        # For the heat map: errors of good pictures by camera, level and square, what nearly all stay below.
        usual = torch.ones((cameras, len(levels), size // PATCH, size // PATCH))
        self.usual_scale = nn.Buffer(usual, persistent=False)
        squares = (size // PATCH) ** 2
        self.of_differences = Familiarity(cameras, 4 * len(levels) * squares)
        self.of_colours = Familiarity(cameras, 3 * squares)

    def predict(self, x: Tensor, t: Tensor, camera: int) -> Tensor:
        """Clean pictures (B, 3, H, W) from noisy ones x at steps t (B,)."""
        inputs = torch.cat([x, self.place.expand(len(x), -1, -1, -1)], dim=1)
        result = x
        for index, denoiser in enumerate(self.denoisers):
            if index == camera:
                result = denoiser(inputs, t)
        return result

    @exported
    def features(self, images: Tensor, camera: int) -> tuple[Tensor, Tensor, Tensor]:
        """What there is to tell good pictures by in images (B, H, W, 3) uint8, by square of PATCH pixels.

        Returns the mean squared errors of what comes back (B, levels, h, w); the differences (B, 4 levels h w), which
        are the logarithms of these errors and the means in red, green and blue; and the mean colours (B, 3 h w).
        """
        clean = images.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0
        n, levels = clean.shape[0], self.noise.shape[0]
        x0 = clean.repeat_interleave(levels, 0)
        t = self.levels.repeat(n)
        x = self.schedule.q_sample(x0, self.noise.repeat(n, 1, 1, 1), t)
        difference = self.predict(x, t, camera) - x0
        squares = F.avg_pool2d(difference.square().mean(1, keepdim=True), self.patch)
        errors = squares.reshape(n, levels, squares.shape[2], squares.shape[3])
        by_colour = F.avg_pool2d(difference, self.patch).reshape(n, -1)
        differences = torch.cat([(errors + self.tiny).log().reshape(n, -1), by_colour], dim=1)
        return errors, differences, F.avg_pool2d(clean, self.patch).reshape(n, -1)

    @exported
    def score(self, images: Tensor, poses: Tensor, camera: int) -> tuple[Tensor, Tensor]:
        """Scores (B,) of images (B, H, W, 3) uint8, above 1 for what should not be seen, and where (B, h, w).

        poses (B, 7): where the hand was, position [m] and quaternion xyzw. The greatest of where is the score.
        """
        errors, differences, colours = self.features(images, camera)
        of_differences = self.of_differences(differences, poses, camera)
        score = torch.maximum(of_differences, self.of_colours(colours, poses, camera))
        where = (errors / self.usual_scale[camera]).amax(1)
        return score, where * (score / where.amax((1, 2)))[:, None, None]

    def forward(self, images: Tensor, poses: Tensor, camera: int) -> tuple[Tensor, Tensor]:
        """As `score`."""
        return self.score(images, poses, camera)


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
