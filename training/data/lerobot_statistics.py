"""What LeRobot keeps of each feature, for an episode and for all: min, max, mean, std, count, and five quantiles.

Of numbers for each column, of pictures for each colour, as parts of 255, from a hundred pictures of an episode.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
NAMES = ("min", "max", "mean", "std", *QUANTILES)
"""Beside the count."""
_ROWS = 20_000
"""That quantiles over all episodes are made of, at most."""
_SAMPLES = 100
_PIXELS = 150
"""Pictures of twice this size and more are thinned to about it."""


class NumberStatistics:
    """Of rows (N, n), episode by episode. Quantiles over all are those of every k-th row."""

    def __init__(self) -> None:
        self._count = 0
        self._low = self._high = self._mean = self._square = np.zeros(0)
        self._rows: list[Array] = []
        self._stride = 1

    def add(self, values: NDArray[Any]) -> dict[str, Any]:
        """The episode's own."""
        rows = values.reshape(len(values), -1).astype(np.float64)
        mine = {"min": rows.min(axis=0), "max": rows.max(axis=0), "mean": rows.mean(axis=0), "std": rows.std(axis=0)}
        quantiles = np.quantile(rows, list(QUANTILES.values()), axis=0)
        first = -self._count % self._stride
        if not self._count:
            self._low, self._high = mine["min"], mine["max"]
            self._mean, self._square = np.zeros_like(mine["mean"]), np.zeros_like(mine["mean"])
        # Chan, Golub and LeVeque 1979: joins means and sums of squares without losing digits.
        total = self._count + len(rows)
        apart = mine["mean"] - self._mean
        self._square = self._square + mine["std"] ** 2 * len(rows) + apart**2 * (self._count * len(rows) / total)
        self._mean = self._mean + apart * (len(rows) / total)
        self._low, self._high = np.minimum(self._low, mine["min"]), np.maximum(self._high, mine["max"])
        self._count = total
        self._rows.append(rows[first :: self._stride])
        while sum(map(len, self._rows)) > _ROWS:
            self._rows = [np.concatenate(self._rows)[::2]]
            self._stride *= 2
        return _entry(mine | dict(zip(QUANTILES, quantiles, strict=True)), len(rows))

    def all(self) -> dict[str, Any]:
        """Of all episodes so far."""
        quantiles = np.quantile(np.concatenate(self._rows), list(QUANTILES.values()), axis=0)
        mine = {"min": self._low, "max": self._high, "mean": self._mean, "std": np.sqrt(self._square / self._count)}
        return _entry(mine | dict(zip(QUANTILES, quantiles, strict=True)), self._count)


class PictureStatistics:
    """Of pictures (H, W, 3), which are given one by one: how often each level of each colour was seen."""

    def __init__(self) -> None:
        self._all = np.zeros((3, 256), np.int64)
        self._episode = np.zeros((3, 256), np.int64)
        self._counts = [0, 0]

    @staticmethod
    def every(steps: int) -> int:
        """Of an episode's pictures, every such one is wanted."""
        return -(-steps // _SAMPLES)

    def add(self, picture: NDArray[np.uint8]) -> None:
        """One picture of the episode."""
        thin = max(1, max(picture.shape[:2]) // _PIXELS) if max(picture.shape[:2]) >= 2 * _PIXELS else 1
        part = picture[::thin, ::thin]
        for colour in range(3):
            self._episode[colour] += np.bincount(part[..., colour].ravel(), minlength=256)
        self._counts[1] += 1

    def end_episode(self) -> dict[str, Any]:
        """The episode's own."""
        mine, count = self._episode, self._counts[1]
        self._all += mine
        self._counts = [self._counts[0] + count, 0]
        self._episode = np.zeros_like(mine)
        return _of_histogram(mine, count)

    def all(self) -> dict[str, Any]:
        """Of all episodes so far."""
        return _of_histogram(self._all, self._counts[0])


def _of_histogram(seen: NDArray[np.int64], pictures: int) -> dict[str, Any]:
    levels = np.arange(256) / 255
    parts = seen / seen.sum(axis=1, keepdims=True)
    mean = parts @ levels
    found = {
        "min": levels[(seen > 0).argmax(axis=1)],
        "max": levels[255 - (seen[:, ::-1] > 0).argmax(axis=1)],
        "mean": mean,
        "std": np.sqrt(np.maximum(parts @ levels**2 - mean**2, 0)),
    }
    below = parts.cumsum(axis=1)
    for name, part in QUANTILES.items():
        found[name] = levels[np.minimum((below < part).sum(axis=1), 255)]
    return _entry({name: value.reshape(3, 1, 1) for name, value in found.items()}, pictures)


def _entry(found: Mapping[str, Array], count: int) -> dict[str, Any]:
    return {**{name: found[name].tolist() for name in ("min", "max", "mean", "std")}, "count": [count]} | {
        name: found[name].tolist() for name in QUANTILES
    }
