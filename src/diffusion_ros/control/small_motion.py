"""The motion by which latencies are measured: a few centimetres to and fro along a line, gently, from rest to rest.

It has three frequencies, because one would fit again a period later, and because a lag is told from a dead time only
by what it makes of slow and of fast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffusion_ros.robot_file import Limits

Array = NDArray[np.float64]

_SINES = ((0.35, 0.5), (0.8, 0.3), (1.6, 0.2))
"""Hz, and share of the amplitude."""
_RAMP = 1.0
"""s in which it begins and ends."""
_SHARE = 0.5
"""Of the limits of speed and acceleration that it goes up to at most."""
_SLOWEST = 0.5
"""Times the frequencies at least; what is slower still would hardly tell a latency."""
_LEAST = 0.005
"""m; what moves less is lost in the noise of pictures."""
_MARGIN = 0.005
"""m that it stays away from the box's walls: the hand may go a little farther than its target."""


@dataclass(frozen=True)
class SmallMotion:
    """Where to be, t s after the beginning."""

    amplitude: float
    """m to each side, at most."""
    seconds: float
    pace: float = 1.0
    """Times the frequencies."""

    def position(self, t: float) -> float:
        """m"""
        return float(self.positions(np.array([t]))[0])

    def velocity(self, t: float) -> float:
        """m/s"""
        near = self.positions(np.array([t - 1e-4, t + 1e-4]))
        return float(near[1] - near[0]) / 2e-4

    def positions(self, times: Array) -> Array:
        """(N) m."""
        inside = np.clip(times, 0.0, self.seconds)
        ramp = np.minimum(1.0, np.minimum(inside, self.seconds - inside) / _RAMP)
        envelope = 0.5 - 0.5 * np.cos(np.pi * ramp)
        way = sum(share * np.sin(2 * math.pi * self.pace * frequency * inside) for frequency, share in _SINES)
        return np.asarray(self.amplitude * envelope * way, np.float64)

    @property
    def speed(self) -> float:
        """m/s, the greatest."""
        return float(np.max(np.abs(np.gradient(self._path, 0.002))))

    @property
    def acceleration(self) -> float:
        """m/s^2, the greatest."""
        return float(np.max(np.abs(np.gradient(np.gradient(self._path, 0.002), 0.002))))

    @property
    def _path(self) -> Array:
        return self.positions(np.arange(0.0, self.seconds, 0.002))


def small_motion(amplitude: float, seconds: float, limits: Limits) -> SmallMotion:
    """As large as asked for, slower where the limits want it, and then smaller. Raises ValueError."""
    usual = SmallMotion(amplitude, seconds)
    pace = min(
        1.0,
        _SHARE * limits.linear / usual.speed,
        math.sqrt(_SHARE * limits.linear_acceleration / usual.acceleration),
    )
    motion = SmallMotion(amplitude, seconds, max(pace, _SLOWEST))
    room = min(1.0, _SHARE * limits.linear / motion.speed, _SHARE * limits.linear_acceleration / motion.acceleration)
    motion = SmallMotion(amplitude * room, seconds, motion.pace)
    if motion.amplitude < _LEAST:
        raise ValueError(
            f"{limits.linear:g} m/s and {limits.linear_acceleration:g} m/s^2 let the hand move by"
            f" {1000 * motion.amplitude:.1f} mm only, {1000 * _LEAST:g} mm at least expected"
        )
    return motion


def sideways(position: ArrayLike, amplitude: float, limits: Limits) -> int:
    """The horizontal axis of the base, 0 or 1, along which the hand at (3) m may move: sideways, if there is room in
    the box, else to and from the base. Raises ValueError."""
    at, low, high = np.asarray(position, np.float64), np.array(limits.low), np.array(limits.high)
    where = f"the hand is at [{', '.join(f'{x:.3f}' for x in at)}] m"
    if np.any(at < low) or np.any(at > high):
        raise ValueError(f"{where}, inside the limits {list(limits.low)} to {list(limits.high)} expected")
    first = 1 if abs(at[0]) >= abs(at[1]) else 0
    for axis in (first, 1 - first):
        if min(at[axis] - low[axis], high[axis] - at[axis]) >= amplitude + _MARGIN:
            return axis
    raise ValueError(
        f"{where}, {1000 * (amplitude + _MARGIN):.0f} mm from the limits {list(limits.low)} to {list(limits.high)}"
        " expected along x or y"
    )
