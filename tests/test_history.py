"""What was observed in the last moments takes no more room than that."""

from __future__ import annotations

import pytest

from diffusion_ros.control.history import MOST, History

SECOND = 1_000_000_000


@pytest.mark.parametrize("step_ns", [0, 1, SECOND // 100_000])
def test_it_is_bounded_whatever_the_stamps_do(step_ns: int) -> None:
    """A clock that stands still, one that hardly goes, and messages that come at 100 kHz."""
    history: History[int] = History(2 * SECOND)
    for i in range(50_000):
        history.add(SECOND + i * step_ns, i)
        assert len(history.stamps) == len(history.values) <= MOST
    last = 49_999 if step_ns else 0
    assert history.nearest(SECOND + 60_000 * step_ns) == (SECOND + last * step_ns, last)


def test_the_last_span_is_there() -> None:
    history: History[int] = History(SECOND)
    for i in range(10_000):
        history.add(i * SECOND // 1000, i)
    assert SECOND <= history.stamps[-1] - history.stamps[0] <= 2 * SECOND
    assert history.nearest(9_500 * SECOND // 1000 + 10) == (9_500 * SECOND // 1000, 9_500)


def test_a_jump_back_is_another_run() -> None:
    history: History[int] = History(SECOND)
    for stamp in (5, 6, 3):
        history.add(stamp, stamp)
    assert history.stamps == [3]
