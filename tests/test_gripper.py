"""Goals for a gripper from a policy's rows, and the numbers of its driver."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from diffusion_ros.control.gripper import Goal, GripperLogic

TICK = 0.02


def drive(logic: GripperLogic, values: list[float], start: float = 0.0, takes: float = 1.0) -> list[tuple[float, Goal]]:
    """The goals and their times for rows at 20 Hz and ticks at 50 Hz, of a gripper that needs `takes` s for each."""
    sent: list[tuple[float, Goal]] = []
    rows = 0
    done = math.inf
    for tick in range(round(len(values) * 0.05 / TICK)):
        time = tick * TICK
        if time >= done:
            logic.result(sent[-1][1].number, "reached")
            done = math.inf
        while rows < len(values) and rows * 0.05 <= time + 1e-9:
            logic.row(values[rows])
            rows += 1
        goal = logic.due(start + time)
        if goal is not None:
            assert done == math.inf, "two goals at a time"
            sent.append((start + time, goal))
            done = time + takes
    return sent


def closing(sent: list[tuple[float, Goal]]) -> list[bool]:
    return [goal.close for _, goal in sent]


def test_chatter_about_the_threshold_gives_one_goal() -> None:
    rng = np.random.default_rng(3)
    chatter = [-1.0] * 20 + list(rng.uniform(-0.15, 0.6, 100)) + [1.0] * 20
    assert closing(drive(GripperLogic(), chatter)) == [False, True]
    # Without the gap between the thresholds, and at each row's word, the same rows give more.
    assert len(drive(GripperLogic(0.001, -0.001, rows_to_agree=1), chatter, takes=0.1)) > 2
    # A single row is no wish, and nor are zeros.
    assert closing(drive(GripperLogic(), [-1.0] * 20 + [1.0, -1.0] * 20 + [0.0] * 40)) == [False]
    assert drive(GripperLogic(), [0.0] * 100) == []
    # Rows that leave it as it is part those before from those after.
    assert drive(GripperLogic(), [1.0, 0.0] * 20) == []


def test_one_goal_at_a_time_and_the_newest_wish_next() -> None:
    logic = GripperLogic(rows_to_agree=1)
    logic.row(1.0)
    first = logic.due(0.0)
    assert first == Goal(1, True, "") and logic.in_flight
    for value, time in ((-1.0, 0.6), (1.0, 0.7), (-1.0, 0.8)):
        logic.row(value)
        assert logic.due(time) is None
    logic.result(1, "stalled")
    assert logic.closed is True
    assert logic.due(0.9) == Goal(2, False, "")
    # A wish that came and went while a goal was on its way is none.
    logic.row(1.0)
    logic.row(-1.0)
    logic.result(2, "reached")
    assert logic.due(5.0) is None and logic.closed is False


@pytest.mark.parametrize("takes", [0.02, 0.3, 2.0])
def test_goals_keep_their_interval(takes: float) -> None:
    restless = ([1.0] * 3 + [-1.0] * 3) * 40
    times = [time for time, _ in drive(GripperLogic(interval=0.7), restless, takes=takes)]
    assert len(times) > 4
    assert min(np.diff(times)) >= max(0.7, takes) - 1e-9


def test_nothing_is_sent_in_a_hold_and_nothing_repeated_after_it() -> None:
    logic = GripperLogic(rows_to_agree=1)
    logic.row(1.0)
    assert logic.due(0.0, held=True) is None
    assert logic.due(1.0) is None, "what was asked for before the hold is forgotten"
    logic.row(1.0)
    goal = logic.due(1.1)
    assert goal is not None
    # The result may come within the hold.
    assert logic.due(1.2, held=True) is None and logic.in_flight
    logic.result(goal.number, "reached")
    for time in np.arange(2.0, 4.0, TICK):
        logic.row(1.0)
        assert logic.due(float(time)) is None
    logic.row(-1.0)
    assert logic.due(4.0) == Goal(2, False, "")
    measured = GripperLogic(rows_to_agree=1)
    measured.closed = False
    measured.row(-1.0)
    assert measured.due(0.0) is None
    measured.row(1.0)
    assert measured.due(0.1) == Goal(1, True, "")


def test_an_aborted_goal_is_sent_once_more() -> None:
    logic = GripperLogic(rows_to_agree=1)
    logic.row(1.0)
    assert logic.due(0.0) == Goal(1, True, "")
    logic.result(1, "aborted")
    assert "close was aborted" in logic.reason and logic.closed is None
    assert logic.due(0.1) is None
    again = logic.due(0.5)
    assert again is not None and again.close and again.reason == logic.reason
    logic.result(2, "aborted")
    for time in np.arange(0.6, 10.0, 0.1):
        logic.row(1.0)
        assert logic.due(float(time)) is None
    assert "not sent again" in logic.reason
    logic.row(-1.0)
    assert logic.due(10.0) == Goal(3, False, "") and logic.reason == ""
    logic.result(3, "reached")
    logic.row(1.0)
    assert logic.due(11.0) == Goal(4, True, "")


def test_after_an_aborted_goal_the_newest_wish_comes_first() -> None:
    logic = GripperLogic(rows_to_agree=1)
    logic.row(1.0)
    logic.due(0.0)
    logic.row(-1.0)
    logic.result(1, "aborted")
    assert logic.due(0.5) == Goal(2, False, "")


def test_a_goal_without_a_result_times_out() -> None:
    logic = GripperLogic(rows_to_agree=1, timeout=3.0)
    logic.row(1.0)
    logic.due(0.0)
    logic.row(-1.0)
    assert logic.due(2.9) is None
    assert logic.due(3.0) == Goal(2, False, "")
    logic.result(1, "reached")
    assert logic.in_flight, "the first goal's result is not the second's"
    logic.result(2, "reached")
    assert logic.closed is False
    silent = GripperLogic(rows_to_agree=1, timeout=3.0)
    silent.row(1.0)
    goals = [goal for time in np.arange(0.0, 30.0, 0.1) if (goal := silent.due(float(time)))]
    assert [goal.number for goal in goals] == [1, 2] and "no result after 3 s" in goals[1].reason
    silent.result(2, "reached")
    assert silent.closed is True and silent.reason == "", "late is better than never"


def test_a_clock_that_is_set_back_does_not_silence_it() -> None:
    logic = GripperLogic(rows_to_agree=1)
    logic.row(1.0)
    assert logic.due(1000.0) is not None
    logic.result(1, "reached")
    logic.row(-1.0)
    assert logic.due(0.0) is None
    assert logic.due(0.5) == Goal(2, False, "")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"close_above": -0.3}, "open_below -0.2 and close_above -0.3: -1 <= open_below < close_above <= 1 expected"),
        ({"close_above": math.nan}, "open_below -0.2 and close_above nan: -1 <= open_below"),
        ({"open_below": -1.5}, "open_below -1.5"),
        ({"rows_to_agree": 0}, "rows_to_agree is 0, 1 or more expected"),
        ({"interval": -1.0}, "interval is -1 s, 0 or more expected"),
        ({"timeout": 0.0}, "timeout is 0 s, more than 0 expected"),
        ({"timeout": math.inf}, "timeout is inf s"),
    ],
)
def test_wrong_settings_are_refused(given: dict, line: str) -> None:
    with pytest.raises(ValueError, match=re.escape(line)) as error:
        GripperLogic(**given)
    assert str(error.value).startswith(line)


def test_a_row_without_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="the gripper's value is nan, -1 to 1 expected"):
        GripperLogic().row(math.nan)
