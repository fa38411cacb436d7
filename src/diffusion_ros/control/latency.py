"""How late a robot's streams are, by correlation with a small motion that was commanded. No ROS and no clock.

Times are s of one clock, in order; what they are counted from does not matter. Positions are along the axis of the
motion, in m. A delay is found where the normalised cross-correlation is greatest, between samples by a parabola.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.signal import cont2discrete, lfilter

Array = NDArray[np.float64]

MAX_DELAY = 0.8
"""s that an arm is looked for behind its commands."""
MAX_OFFSET = 1.0
"""s by which a stream is looked for before and after the hand."""
_GRID = 0.005
"""s between two delays that are tried."""
_SAMPLES = 100.0
"""Hz in which a hand's poses are compared: its motion has less than 2 Hz."""
_SMOOTH = 0.064
"""s over which a hand's poses are averaged before pictures are compared with them."""
_FILTER = 0.0025
"""s, the step of a simulated lag."""
_COMPONENTS = 3
"""Of what is seen in pictures: something else may move there, too."""
_GAP = 0.25
"""s between two pictures, beyond which what moved meanwhile is not known."""
_LEAST_STEPS = 30
_MOST_INERTIA = 1.7
"""Times its lag, an arm's inertia at most: with more it would swing, its damping ratio less than 0.3."""
_EXPLAINS = 0.7
"""Of what a lag alone leaves unexplained, what an inertia leaves at most where it is taken for one."""


@dataclass(frozen=True)
class Delay:
    """By how much one signal is behind another."""

    seconds: float
    correlation: float
    """-1 to 1, at that delay; below 0 for an arm that goes the other way."""


@dataclass(frozen=True)
class Response:
    """An arm's: nothing for `dead`, then inertia^2 x'' + lag x' = target - x."""

    dead: float
    """s"""
    lag: float
    """s: the damping over the stiffness."""
    inertia: float
    """s: the square root of the mass over the stiffness, which is 1 over the natural frequency in rad/s."""
    gain: float
    """m of the hand for a m of the command."""
    correlation: float
    """Between what such an arm would do and what the hand did."""


def arm_delay(command_times: ArrayLike, commands: ArrayLike, hand_times: ArrayLike, hand: ArrayLike) -> Delay:
    """By how much the hand (M) is behind the commands (N)."""
    sent, told = np.asarray(command_times, np.float64), np.asarray(commands, np.float64)
    times, seen = _resampled(hand_times, hand)
    return _best(-0.25 * MAX_DELAY, MAX_DELAY, lambda delay: _correlation(np.interp(times - delay, sent, told), seen))


def arm_response(
    command_times: ArrayLike,
    commands: ArrayLike,
    hand_times: ArrayLike,
    hand: ArrayLike,
    max_dead: float,
    max_lag: float,
    max_inertia: float = 0.0,
) -> Response:
    """Dead time, lag and inertia [s], each of 0 to its greatest, that explain the hand (M) best by the commands (N).

    What tells them apart is what becomes of fast and of slow: a lag delays and weakens a faster motion in another
    measure than a slower one, an inertia strengthens it. The commands need several frequencies. An inertia is
    found only where it explains much of what a lag alone leaves unexplained.
    """
    sent, told = np.asarray(command_times, np.float64), np.asarray(commands, np.float64)
    times, seen = _resampled(hand_times, hand)
    grid = np.arange(sent[0], max(sent[-1], times[-1]) + _FILTER, _FILTER)
    even = np.interp(grid, sent, told)

    def answer(dead: float, lag: float, inertia: float) -> Array:
        return np.interp(times - dead, grid, lagging(even, lag, _FILTER, inertia))

    def fit(most: tuple[float, float, float]) -> tuple[tuple[float, float, float], float]:
        found, best = (0.0, 0.0, 0.0), -math.inf
        centre = wide = (0.5 * most[0], 0.5 * most[1], 0.5 * most[2])
        for _ in range(8):
            # The best of a grid, and then of a finer one around it.
            deads, lags, inertias = (_around(*of) for of in zip(centre, wide, most, strict=True))
            for lag, inertia in itertools.product(lags, inertias):
                if inertia > _MOST_INERTIA * lag:
                    continue
                filtered = lagging(even, lag, _FILTER, inertia)
                for dead in deads:
                    correlation = _correlation(np.interp(times - dead, grid, filtered), seen)
                    if correlation > best:
                        found, best = (dead, lag, inertia), correlation
            centre = found
            wide = (0.5 * wide[0], 0.5 * wide[1], 0.5 * wide[2])
        return found, best

    found, best = fit((max_dead, max_lag, 0.0))
    if max_inertia > 0:
        swinging, better = fit((max_dead, max_lag, max_inertia))
        if 1 - better < _EXPLAINS * (1 - best):
            found, best = swinging, better
    model = _detrended(answer(*found))
    power = float(model @ model)
    gain = float(model @ _detrended(seen)) / power if power > 0 else 0.0
    return Response(*found, gain, best)


def stream_delay(times: ArrayLike, steps: ArrayLike, hand_times: ArrayLike, hand: ArrayLike) -> Delay | None:
    """By how much a stream's stamps are behind the hand's.

    times (N), steps (N - 1, k): what moved in the stream from one stamp to the next, in any unit and direction, in k
    places. hand (M). None where too little came. The correlation is 0 to 1: which way a camera looks is not known.
    """
    stamps, moved = np.asarray(times, np.float64), np.asarray(steps, np.float64)
    hand_stamps, places = _smoothed(hand_times, hand)
    if len(stamps) < 2:
        return None
    if len(stamps) != len(moved) + 1:
        raise ValueError(f"{len(moved)} steps between {len(stamps)} stamps, one fewer expected")
    before, after = stamps[:-1], stamps[1:]
    usable = (after - before > 0) & (after - before < _GAP) & np.isfinite(moved).all(axis=1)
    before, after, moved = before[usable], after[usable], moved[usable]
    if len(moved) < _LEAST_STEPS or not np.any(moved):
        return None
    moved = moved - moved.mean(axis=0)
    _, _, axes = np.linalg.svd(moved, full_matrices=False)
    best: Delay | None = None
    for axis in axes[:_COMPONENTS]:
        signal = moved @ axis

        def correlation(delay: float, signal: Array = signal) -> float:
            way = np.interp(after - delay, hand_stamps, places) - np.interp(before - delay, hand_stamps, places)
            return abs(_normalised(way - way.mean(), signal))

        found = _best(-MAX_OFFSET, MAX_OFFSET, correlation)
        if best is None or found.correlation > best.correlation:
            best = found
    return best


def onset(sent: float, times: ArrayLike, values: ArrayLike, least: float) -> float | None:
    """s from a goal at `sent` to the moment that a value (N) began to move; None where it moved by less than `least`.

    The beginning is where the line through 10 % and 30 % of the way meets 0.
    """
    stamps, seen = np.asarray(times, np.float64), np.asarray(values, np.float64)
    later = stamps >= sent
    if not later.any() or later.all():
        return None
    start, end = float(seen[~later][-1]), float(seen[-1])
    if abs(end - start) < least:
        return None
    share = (seen - start) / (end - start)
    crossed = []
    for level in (0.1, 0.3):
        at = next(i for i in range(len(share)) if later[i] and share[i] >= level)
        low, high = share[at - 1], share[at]
        part = (level - low) / (high - low) if high > low else 1.0
        crossed.append(float(stamps[at - 1] + part * (stamps[at] - stamps[at - 1])))
    return max(0.0, crossed[0] - 0.5 * (crossed[1] - crossed[0]) - sent)


def lagging(values: Array, lag: float, step: float, inertia: float = 0.0) -> Array:
    """What inertia^2 x'' + lag x' = value - x makes of values (N) that are `step` s apart and straight lines between,
    from rest. lag [s] 0: the values; inertia [s]: none where it is less than a step."""
    if lag <= 0:
        return values
    system = ([1.0], [inertia**2, lag, 1.0] if inertia > step else [lag, 1.0])
    numerator, denominator, _ = cont2discrete(system, step, method="foh")
    return np.asarray(lfilter(np.ravel(numerator), denominator, values - values[0]) + values[0], np.float64)


def _around(centre: float, wide: float, high: float) -> list[float]:
    return sorted({float(x) for x in np.clip(np.linspace(centre - wide, centre + wide, 9), 0.0, high)})


def _resampled(times: ArrayLike, values: ArrayLike) -> tuple[Array, Array]:
    stamps = np.asarray(times, np.float64)
    even = np.arange(stamps[0], stamps[-1], 1 / _SAMPLES)
    return even, np.interp(even, stamps, np.asarray(values, np.float64))


def _smoothed(times: ArrayLike, values: ArrayLike) -> tuple[Array, Array]:
    """Noise between whose samples one interpolates is weaker there, so that delays would be drawn to such places."""
    stamps = np.asarray(times, np.float64)
    even = np.arange(stamps[0], stamps[-1], _SMOOTH / 16)
    window = np.hanning(19)
    padded = np.pad(np.interp(even, stamps, np.asarray(values, np.float64)), 9, mode="edge")
    return even, np.convolve(padded, window / window.sum(), mode="valid")


def _best(low: float, high: float, correlation: Callable[[float], float]) -> Delay:
    """Where a correlation is farthest from 0."""
    delays = np.arange(low, high + 0.5 * _GRID, _GRID)
    found = np.array([correlation(float(delay)) for delay in delays])
    at = int(np.argmax(np.abs(found)))
    delay = float(delays[at])
    if 0 < at < len(delays) - 1:
        left, middle, right = (float(x) for x in np.abs(found[at - 1 : at + 2]))
        bend = left - 2 * middle + right
        if bend < 0:
            delay += 0.5 * _GRID * (left - right) / bend
    return Delay(delay, float(found[at]))


def _correlation(a: Array, b: Array) -> float:
    """Of what is left when straight lines are taken away: an arm may drift meanwhile."""
    return _normalised(_detrended(a), _detrended(b))


def _normalised(a: Array, b: Array) -> float:
    power = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / power if power > 0 else 0.0


def _detrended(values: Array) -> Array:
    x = np.linspace(-1.0, 1.0, len(values))
    centred = values - values.mean()
    return np.asarray(centred - x * (float(x @ centred) / float(x @ x)))
