"""The normalisers, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffusion_ros.checkpoint import script
from training.diffusion.normalizer import AffineNormalizer, LimitsNormalizer


@pytest.fixture
def data() -> NDArray[np.float64]:
    """(200, 10, 3): a wide, a constant and a shifted dimension."""
    rng = np.random.default_rng(0)
    return np.stack(
        [rng.uniform(-3, 7, (200, 10)), np.full((200, 10), 0.4), rng.normal(100.0, 2.0, (200, 10))], axis=-1
    )


def test_limits_map_to_one(data: NDArray[np.float64]) -> None:
    normalizer = LimitsNormalizer.from_data(data)
    y = normalizer.normalize(torch.tensor(data, dtype=torch.float32))
    torch.testing.assert_close(y.amin(dim=(0, 1)), torch.tensor([-1.0, 0.0, -1.0]), atol=2e-5, rtol=0)
    torch.testing.assert_close(y.amax(dim=(0, 1)), torch.tensor([1.0, 0.0, 1.0]), atol=2e-5, rtol=0)


def test_known_limits() -> None:
    normalizer = LimitsNormalizer(np.array([-1.0, 2.0]), np.array([3.0, 2.5]))
    torch.testing.assert_close(normalizer.normalize(torch.tensor([[0.0, 2.125]])), torch.tensor([[-0.5, -0.5]]))
    torch.testing.assert_close(normalizer.unnormalize(torch.tensor([[1.0, 0.0]])), torch.tensor([[3.0, 2.25]]))


def test_round_trip_and_script(data: NDArray[np.float64]) -> None:
    class RoundTrip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.normalizer: AffineNormalizer = LimitsNormalizer.from_data(data)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.normalizer.unnormalize(self.normalizer.normalize(x))
            return y

    x = torch.tensor(data, dtype=torch.float32)
    module = RoundTrip()
    torch.testing.assert_close(module(x), x)
    assert torch.equal(script(module)(x), module(x))
    assert set(module.state_dict()) == {"normalizer.offset", "normalizer.scale"}


def test_constant_dimension_is_safe_both_ways() -> None:
    """Sensor noise on a constant stays moderate, and the network's error there hardly moves the robot."""
    normalizer = LimitsNormalizer.from_data(np.full((5, 1), 0.4))
    assert abs(float(normalizer.normalize(torch.tensor([0.401])))) < 3
    assert float(normalizer.unnormalize(torch.tensor([0.1]))) == pytest.approx(0.4, abs=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_data_is_refused(bad: float) -> None:
    rows = np.zeros((4, 3))
    rows[2, 1] = bad
    with pytest.raises(ValueError, match="dimension 1"):
        LimitsNormalizer.from_data(rows)
    with pytest.raises(ValueError, match="empty"):
        LimitsNormalizer.from_data(np.zeros((0, 3)))


def test_bad_statistics_are_refused() -> None:
    with pytest.raises(ValueError, match="minimum"):
        LimitsNormalizer(np.array([1.0]), np.array([0.0]))
    with pytest.raises(ValueError, match="minimum"):
        LimitsNormalizer(np.array([np.nan]), np.array([0.0]))
    with pytest.raises(ValueError, match="scale"):
        AffineNormalizer(np.zeros(2), np.array([1.0, 0.0]))
