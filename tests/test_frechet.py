"""The Frechet distance against its closed forms, and what its features are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import nn

from diffusion_ros.checkpoint import script
from training.data.images import read_digits
from training.evaluation.frechet import feature_distance, frechet_distance, inception, stand_in, train_stand_in


def covariance(rng: np.random.Generator, size: int) -> np.ndarray:
    root = rng.normal(size=(size, size))
    return root @ root.T


def test_closed_forms() -> None:
    rng = np.random.default_rng(0)
    mean, c = rng.normal(size=4), covariance(rng, 4)
    assert frechet_distance(mean, c, mean, c) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(mean, c, mean + 2.0, c) == pytest.approx(16, abs=1e-9)
    # One dimension: (m1 - m2)^2 + (s1 - s2)^2; and so for any that commute.
    assert frechet_distance(np.array([1.0]), np.array([[4.0]]), np.array([3.0]), np.array([[25.0]])) == pytest.approx(
        13
    )
    a, b = np.array([1.0, 9.0, 0.0]), np.array([4.0, 1.0, 0.25])
    expected = ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    rotated = [turn @ np.diag(values) @ turn.T for values in (a, b)]
    assert frechet_distance(np.zeros(3), rotated[0], np.zeros(3), rotated[1]) == pytest.approx(expected, abs=1e-6)


def test_equals_the_root_of_the_product() -> None:
    rng = np.random.default_rng(1)
    c1, c2 = covariance(rng, 6), covariance(rng, 6)
    m1, m2 = rng.normal(size=(2, 6))
    root = linalg.sqrtm(c1 @ c2)
    expected = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * root.real)
    assert frechet_distance(m1, c1, m2, c2) == pytest.approx(expected, rel=1e-9)


def test_samples_of_gaussians() -> None:
    rng = np.random.default_rng(2)
    one = rng.normal(size=(40_000, 3))
    two = 1.0 + 3.0 * rng.normal(size=(40_000, 3))
    assert feature_distance(one, two) == pytest.approx(3 * (1 + 4), rel=0.02)
    few = rng.normal(size=(3, 8))  # fewer than dimensions: singular, and finite all the same
    assert np.isfinite(feature_distance(few, one[:5, :1].repeat(8, axis=1)))
    with pytest.raises(ValueError, match="1 images"):
        feature_distance(one[:1], two)


def test_the_stand_in_tells_digits_from_noise_and_says_its_name() -> None:
    digits = read_digits()[:600]
    network = train_stand_in(digits, iterations=60, batch_size=32)
    again = train_stand_in(digits, iterations=60, batch_size=32)
    for ours, theirs in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    extractor = stand_in(network)
    assert extractor.name == "Frechet distance, autoencoder-64" and "FID" not in extractor.name
    assert extractor(digits[:10]).shape == (10, 64)
    noise = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 1), np.uint8)
    assert extractor.distance(noise, digits[:300]) > 5 * extractor.distance(digits[300:], digits[:300])


class FakeInception(nn.Module):
    """Called as StyleGAN's Inception network is: uint8 or float 0 to 255, three channels."""

    def __init__(self, features: int = 2048) -> None:
        super().__init__()
        self.features = features

    def forward(self, img: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert img.shape[1] == 3 and return_features
        return img.float().mean(dim=(1, 2, 3), keepdim=True)[:, :, 0, 0].repeat(1, self.features)


def save(module: nn.Module, path: Path) -> Path:
    script(module).save(str(path))
    return path


@pytest.mark.filterwarnings("ignore:.torch.jit.*is deprecated:DeprecationWarning")
def test_inception_from_a_file_is_called_fid(tmp_path: Path) -> None:
    extractor = inception(save(FakeInception(), tmp_path / "inception.pt"))
    assert extractor.name == "FID"
    images = np.full((2, 8, 8, 1), 51, np.uint8)  # grey too: it becomes three channels
    np.testing.assert_array_equal(extractor(images), np.full((2, 2048), 51.0))


@pytest.mark.filterwarnings("ignore:.torch.jit.*is deprecated:DeprecationWarning")
def test_inception_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no such file; expected the TorchScript Inception"):
        inception(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("no network")
    with pytest.raises(ValueError, match="not a TorchScript file"):
        inception(tmp_path / "text.pt")
    with pytest.raises(ValueError, match=r"features of shape \(1, 5\), expected \(1, 2048\)"):
        inception(save(FakeInception(5), tmp_path / "five.pt"))
    with pytest.raises(ValueError, match="not called as that Inception network is"):
        inception(save(nn.Flatten(), tmp_path / "other.pt"))
