"""When a predicted chunk is drawn: as a preview, while the robot acts, and not when it holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from diffusion_ros.nodes.drawn_chunk import HELD_SECONDS, DrawnChunk

PERIOD_NS = 50_000_000
SLOW_NS = 10_000_000_000


class Screen:
    def __init__(self, period_ns: int = PERIOD_NS) -> None:
        self.drawn: list[int] = []
        """How many points, each time something is drawn."""
        self.chunk = DrawnChunk(self._draw, period_ns)

    def _draw(self, way: NDArray[np.float64], stamps_ns: Sequence[int], time_ns: int) -> None:
        assert len(way) == len(stamps_ns)
        self.drawn.append(len(way))

    def made(self, step: int, points: int = 5) -> None:
        self.chunk.made(np.zeros((points, 3)), [step * PERIOD_NS] * points, step * PERIOD_NS)


def test_what_the_robot_would_do_is_drawn_before_it_first_acts() -> None:
    screen = Screen()
    for step in range(100):
        screen.chunk.observed(step * PERIOD_NS)
        if step % 8 == 0:
            screen.made(step)
    assert screen.drawn == [5] * 13


@pytest.mark.parametrize("period_ns", [PERIOD_NS, SLOW_NS])
def test_it_goes_when_the_robot_holds_and_comes_back_when_it_acts(period_ns: int) -> None:
    screen = Screen(period_ns)
    for step in range(10):
        screen.chunk.observed(step * period_ns)
        if step % 8 == 0:
            screen.made(step)
        screen.chunk.executed()
    assert screen.drawn == [5, 5]
    # Stopped: nothing is executed, while the policy goes on with what it observes.
    allowed = max(HELD_SECONDS * 1e9, 3 * period_ns)
    for step in range(10, 60):
        screen.chunk.observed(step * period_ns)
        if (step - 9) * period_ns > allowed:
            assert screen.drawn[-1] == 0
        screen.made(step)
    assert screen.drawn.count(0) == 1 and screen.drawn[-1] == 0
    # The chunk that counts now is there with the first row of it that is executed, once.
    screen.made(60, points=3)
    assert screen.drawn[-1] == 0
    screen.chunk.executed()
    screen.chunk.executed()
    assert screen.drawn[-2:] == [0, 3]


def test_a_chunk_that_counts_no_more_is_gone_at_once_and_for_good() -> None:
    screen = Screen()
    screen.made(0)
    screen.chunk.gone(0)
    screen.chunk.gone(0)
    screen.chunk.executed()
    assert screen.drawn == [5, 0]


def test_stamps_that_begin_anew_hide_nothing() -> None:
    """As in a new episode."""
    screen = Screen()
    screen.chunk.observed(900 * PERIOD_NS)
    screen.made(900)
    screen.chunk.executed()
    screen.chunk.observed(0)
    assert screen.drawn == [5]
