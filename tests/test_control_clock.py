"""One command a control period, whatever the rate of the poses."""

from __future__ import annotations

import numpy as np
import pytest

from diffusion_ros.control.control_clock import ControlClock

PERIOD = 50_000_000


def sent(poses: np.ndarray, seconds: float) -> list[tuple[float, bool]]:
    """When commands are due, and whether with a pose; the timer ticks every 10 ms."""
    clock = ControlClock(PERIOD)
    events = sorted([(t, True) for t in poses] + [(t, False) for t in np.arange(0, seconds, 0.01)])
    return [(t, pose) for t, pose in events if (clock.pose(t) if pose else clock.tick(t))]


@pytest.mark.parametrize("hz", [10, 14, 16, 18, 20, 24, 25, 30, 50, 60, 100, 137, 250, 500, 1000])
def test_a_command_a_period(hz):
    times = np.array([t for t, _ in sent(0.003 + np.arange(0, 20, 1 / hz), 20)])
    # Poses that come a little too seldom may be answered one by one; what is missing between seldom ones is not.
    least = hz if hz >= 16 else 20
    assert min(least, 20) - 0.5 < len(times) / 20 < 20.5, len(times)
    assert np.diff(times).min() >= 0.0125 - 1e-9, "never two within a quarter of a period"


def test_poses_at_the_control_rate_are_all_answered_at_once():
    rng = np.random.default_rng(0)
    poses = np.arange(0, 60, 0.05) + rng.uniform(0, 0.01, 1200)
    times = sent(poses, 60)
    assert all(pose for _, pose in times) and [t for t, _ in times] == list(poses)


def test_a_clock_that_is_a_little_slower_or_faster_is_followed():
    for period in (0.0501, 0.0499):
        times = sent(np.arange(0, 60, period), 60)
        assert sum(pose for _, pose in times) >= 0.99 * 60 / period
        assert len(times) <= 1201


@pytest.mark.parametrize("phase", range(0, 50, 2))
def test_poses_that_come_again_at_another_phase_are_soon_answered_at_once(phase):
    """As after the pause between two episodes: the clock has gone on by itself meanwhile."""
    rng = np.random.default_rng(phase)
    again = 2.0 + phase / 1000 + np.arange(0, 10, 0.05)
    times = sent(np.concatenate([np.arange(0, 1, 0.05), again + rng.uniform(0, 0.004, 200)]), 12)
    settled = [pose for t, pose in times if t > 2.3 + phase / 1000]
    assert all(settled[:-2]) and len(settled) > 190


@pytest.mark.parametrize("late", [0.026, 0.03, 0.035])
def test_a_pose_that_is_late_is_answered_and_so_is_the_next_one(late):
    poses = np.arange(0, 10, 0.05)
    poses[60] += late
    assert [t for t, _ in sent(poses, 10)] == list(poses)


def test_nothing_is_made_up_for_after_a_standstill():
    clock = ControlClock(PERIOD)
    assert clock.pose(0.0)
    assert clock.tick(3.0) and not clock.tick(3.0) and not clock.pose(3.001)
    assert clock.pose(3.05)


def test_before_the_first_pose_nothing_is_due():
    clock = ControlClock(PERIOD)
    assert not clock.tick(10.0)
    with pytest.raises(ValueError, match="period 0 ns"):
        ControlClock(0)


def test_rows_follow_each_other_though_poses_come_a_little_early_or_late():
    clock = ControlClock(PERIOD)
    rng = np.random.default_rng(1)
    presents = [k * PERIOD + int(rng.integers(-20, 21)) * 1_000_000 for k in range(200)]
    rows = [round(clock.row_time(present) / PERIOD) for present in presents]
    assert np.diff(rows).tolist() == [1] * 199
    # The nearest row alone would not have done.
    shifted = [present + PERIOD // 2 for present in presents]
    assert np.diff([round(t / PERIOD) for t in shifted]).tolist() != [1] * 199
    assert clock.row_time(10**12) == 10**12, "another run"


@pytest.mark.parametrize("hz", [10, 20, 25, 30, 50, 100, 1000])
def test_hardly_a_row_is_left_out_or_given_twice_at_any_rate_of_poses(hz: int) -> None:
    """Commands that go with poses of another rate than theirs come unevenly, rows must not. A chunk is made from any
    pose; what comes before the first of its rows is held."""
    wrong = steps = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        clock = ControlClock(PERIOD)
        poses = rng.uniform(0, 0.05) + np.arange(0, 8, 1 / hz)
        poses += rng.uniform(0, min(0.004, 0.1 / hz), len(poses))
        begins = rng.uniform(2, 3)
        rows = []
        for t, pose in sorted([(t, True) for t in poses] + [(t, False) for t in np.arange(0, 8, 0.01)]):
            if clock.pose(t) if pose else clock.tick(t):
                rows.append((t, clock.row_time(round(t * 1e9), anew=t < begins)))
        times, rows_ns = np.array([row for row in rows if row[0] >= begins]).T
        for stamp in poses[(poses > begins - 0.3) & (poses < 7)][:: max(1, hz // 3)]:
            of_chunk = (times > stamp + 0.05) & (times < stamp + 0.75)
            advance = np.diff(np.floor((rows_ns[of_chunk] - stamp * 1e9) / PERIOD + 0.5))
            wrong += int((advance != 1).sum())
            steps += len(advance)
    assert steps > 500 and wrong <= 0.02 * steps, f"{wrong} of {steps}"


def test_after_a_hold_rows_are_those_of_the_present() -> None:
    clock = ControlClock(PERIOD)
    assert clock.row_time(0) == 0
    assert PERIOD < clock.row_time(PERIOD + 20_000_000) < PERIOD + 10_000_000, "in a row they follow each other"
    assert clock.row_time(2 * PERIOD + 20_000_000, anew=True) == 2 * PERIOD + 20_000_000
