"""What moves in a camera's pictures from one to the next, in a coarse grid: small numbers, made as pictures come."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from diffusion_ros.control.pictures import Picture, fit

Array = NDArray[np.float64]

_WIDTH = 80
"""px to which pictures are scaled down: a hand at 0.1 m/s goes less than one between two of them."""
_CELL = 10
"""px, width and height of a cell."""
_NOISE = 4.0
"""Grey values squared and divided by px squared, of a cell in which there is nothing to see."""


class PictureMotion:
    """By Lucas and Kanade's equations (1981), one displacement for each cell of the grid."""

    def __init__(self) -> None:
        self.stamps: list[int] = []
        """ns"""
        self._steps: list[Array] = []
        self._last: Array | None = None

    def add(self, stamp_ns: int, picture: Picture) -> None:
        """picture (H, W, 3); one that is not newer than the last, or of another size, begins anew."""
        grey = _small(picture)
        if self._last is not None and (grey.shape != self._last.shape or stamp_ns <= self.stamps[-1]):
            self.stamps.clear()
            self._steps.clear()
            self._last = None
        if self._last is not None:
            self._steps.append(_moved(self._last, grey))
        self._last = grey
        self.stamps.append(stamp_ns)

    @property
    def steps(self) -> Array:
        """(pictures - 1, 2 * cells) px of the small picture."""
        return np.array(self._steps) if self._steps else np.zeros((0, 0))


def _small(picture: Picture) -> Array:
    """(h, w) grey."""
    height, width = picture.shape[:2]
    factor = max(1, math.ceil(width / _WIDTH))
    return np.asarray(fit(picture, max(1, height // factor), max(1, width // factor)).mean(axis=2), np.float64)


def _moved(before: Array, after: Array) -> Array:
    rows, columns = (max(1, side // _CELL) for side in before.shape)
    height, width = (side // n for side, n in zip(before.shape, (rows, columns), strict=True))
    part = slice(0, rows * height), slice(0, columns * width)
    if min(before.shape) < 2:
        return np.zeros(2 * rows * columns)
    mean = 0.5 * (before + after)
    down, right = np.asarray(np.gradient(mean, axis=0)), np.asarray(np.gradient(mean, axis=1))
    change = after - before
    change -= change.mean()  # the camera's exposure

    def cells(values: Array) -> Array:
        return np.asarray(values[part].reshape(rows, height, columns, width).sum(axis=(1, 3)).ravel(), np.float64)

    noise = _NOISE * height * width
    xx, yy, xy = cells(right * right) + noise, cells(down * down) + noise, cells(right * down)
    x, y = cells(right * change), cells(down * change)
    determinant = xx * yy - xy * xy
    return np.concatenate([(xy * y - yy * x) / determinant, (xy * x - xx * y) / determinant])
