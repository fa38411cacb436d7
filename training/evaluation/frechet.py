"""The Frechet distance between two sets of images, by their features, and what makes the features.

FID (Heusel et al. 2017, arXiv 1706.08500) is this distance with the features of one Inception network. Without that
network's file a small autoencoder is trained on the data at hand; distances by its features carry its name and can be
compared only with each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import linalg
from torch import Tensor, nn

from diffusion_ros import checkpoint
from training.diffusion.images import to_float
from training.run import step_generator

Features = NDArray[np.float64]
INCEPTION_FEATURES = 2048


def frechet_distance(mean1: Features, covariance1: Features, mean2: Features, covariance2: Features) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of two Gaussians (D,), (D, D): Dowson and Landau 1982.

    The trace of the root is that of (R C2 R)^(1/2), R the root of C1: symmetric, so its eigenvalues are real and, but
    for rounding, not negative, where a root of C1 C2 itself can be complex for covariances of few samples.
    """
    values, vectors = linalg.eigh(covariance1)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = linalg.eigvalsh(root @ covariance2 @ root)
    trace = float(np.trace(covariance1) + np.trace(covariance2) - 2 * np.sqrt(np.clip(cross, 0, None)).sum())
    return float(np.sum((mean1 - mean2) ** 2)) + trace


def feature_distance(features1: Features, features2: Features) -> float:
    """The Frechet distance of the Gaussians with the means and covariances of two sets of features (N, D).

    Raises ValueError for fewer than 2 in a set.
    """
    for features in (features1, features2):
        if len(features) < 2:
            raise ValueError(f"{len(features)} images: a covariance needs at least 2")
    moments = [(f.mean(axis=0), np.cov(f, rowvar=False).reshape(f.shape[1], -1)) for f in (features1, features2)]
    return max(0.0, frechet_distance(*moments[0], *moments[1]))


class Extractor:
    """Features of images.

    Args:
        name: how figures call the distance.
        features: uint8 images (N, H, W, C), a batch of them, to (N, D).
    """

    def __init__(self, name: str, features: Callable[[Tensor], Tensor], batch: int = 256) -> None:
        self.name = name
        self._features = features
        self._batch = batch

    @torch.no_grad()
    def __call__(self, images: NDArray[np.uint8]) -> Features:
        """Features (N, D) of images (N, H, W, C)."""
        parts = torch.from_numpy(images).split(self._batch)
        features: Features = torch.cat([self._features(part) for part in parts]).double().numpy()
        return features

    def distance(self, images1: NDArray[np.uint8], images2: NDArray[np.uint8]) -> float:
        """Between two sets of images (N, H, W, C)."""
        return feature_distance(self(images1), self(images2))


def inception(path: Path) -> Extractor:
    """FID, by a TorchScript Inception network as StyleGAN's authors publish it.

    Called as network(images (N, 3, H, W) uint8 or float 0 to 255, return_features=True), it resizes by itself and
    returns (N, 2048). Raises ValueError, in one line, where the file is missing or another network.
    """
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; expected the TorchScript Inception network of StyleGAN's authors"
            " (inception-2015-12-05.pt). Without --inception a stand-in is used and named"
        )
    try:
        network = checkpoint.foreign(path)
    except checkpoint.CheckpointError as error:
        raise ValueError(str(error)) from None

    def features(images: Tensor) -> Tensor:
        images = images.movedim(-1, 1)
        result: Tensor = network(images.expand(-1, 3, -1, -1), return_features=True)
        return result

    try:
        with torch.no_grad():
            found = tuple(features(torch.zeros(1, 32, 32, 3, dtype=torch.uint8)).shape)
    except (RuntimeError, TypeError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"{path}: not called as that Inception network is ({reason})") from None
    if found != (1, INCEPTION_FEATURES):
        raise ValueError(f"{path}: gives features of shape {found}, expected (1, {INCEPTION_FEATURES})")
    return Extractor("FID", features, batch=32)


class Autoencoder(nn.Module):
    """The stand-in: convolutions down to about 4 x 4, a bottleneck of `features` numbers, and the way back.

    Args:
        height: of an image; width and channels likewise.
        features: of the bottleneck.
    """

    def __init__(self, height: int, width: int, channels: int, features: int = 64, dim: int = 32) -> None:
        super().__init__()
        self.size = (height, width)
        levels = max(1, round(math.log2(min(height, width) / 4)))
        layers: list[nn.Module] = []
        before = channels
        for _ in range(levels):
            layers += [nn.Conv2d(before, dim, 3, stride=2, padding=1), nn.SiLU()]
            layers += [nn.Conv2d(dim, dim, 3, padding=1), nn.SiLU()]
            before = dim
        self.encoder = nn.Sequential(*layers)
        with torch.no_grad():
            self.shape = tuple(self.encoder(torch.zeros(1, channels, height, width)).shape[1:])
        self.squeeze = nn.Linear(math.prod(self.shape), features)
        self.unsqueeze = nn.Linear(features, math.prod(self.shape))
        layers = []
        for _ in range(levels):
            layers += [nn.Upsample(scale_factor=2.0), nn.Conv2d(dim, dim, 3, padding=1), nn.SiLU()]
        self.decoder = nn.Sequential(*layers, nn.Conv2d(dim, channels, 3, padding=1))

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] to features (B, D)."""
        y: Tensor = self.squeeze(self.encoder(x).flatten(1))
        return y

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] to the same, as far as the features tell."""
        y: Tensor = self.decoder(F.silu(self.unsqueeze(self.encode(x))).unflatten(1, self.shape))
        return y[:, :, : self.size[0], : self.size[1]]


def train_stand_in(
    images: NDArray[np.uint8],
    iterations: int = 1500,
    batch_size: int = 64,
    seed: int = 0,
    report: Callable[[int], object] = lambda done: None,
) -> Autoencoder:
    """An autoencoder of the training images (N, H, W, C); the same for the same images and seed.

    Features are scaled to variance 1 on average, so that figures have a size that means something.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Autoencoder(*images.shape[1:])
    optimizer: Any = torch.optim.AdamW(network.parameters(), 2e-3, fused=True)
    for iteration in range(iterations):
        generator = step_generator(seed, 7, iteration)
        chosen = torch.randint(0, len(images), (batch_size,), generator=generator).numpy()
        x = to_float(torch.from_numpy(images[chosen]))
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * 0.5 * (1 + math.cos(math.pi * iteration / iterations))
        loss = F.mse_loss(network(x), x)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        report(iteration + 1)
    with torch.no_grad():
        seen = to_float(torch.from_numpy(images[: min(len(images), 2048)]))
        scale = network.encode(seen).std(dim=0).mean().clamp(min=1e-6)
        network.squeeze.weight.div_(scale)
        network.squeeze.bias.div_(scale)
        network.unsqueeze.weight.mul_(scale)
    return network.eval()


def stand_in(network: Autoencoder) -> Extractor:
    """Distances by the features of an autoencoder, under its name."""
    features = network.squeeze.out_features
    return Extractor(f"Frechet distance, autoencoder-{features}", lambda images: network.encode(to_float(images)))
