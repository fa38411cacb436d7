"""A person's hands without ROS: what a device's words become, and who decides."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from diffusion_ros.control.chunk_executor import ChunkExecutor, ExecutorLimits
from diffusion_ros.control.targets import TargetGenerator
from diffusion_ros.control.teleoperation import (
    HELD_SECONDS,
    MOTION_SECONDS,
    SILENT_SECONDS,
    Asked,
    Gamepad,
    Keyboard,
    PersonRows,
    Takeover,
    Twists,
    shaped,
)
from diffusion_ros.robot_check import steady_speed
from diffusion_ros.robot_file import Limits, Teleop

PERIOD_NS = 50_000_000
STILL = Asked(np.zeros(6))
ROW = np.array([0.01, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
ZEROS = np.zeros(7)


def pad(*down: int) -> list[bool]:
    return [number in down for number in range(8)]


def sticks(**values: float) -> list[float]:
    axes = [0.0] * 8
    for name, value in values.items():
        axes[int(name[1:])] = value
    return axes


def test_an_axis_has_a_dead_zone_and_is_finer_in_the_middle() -> None:
    assert shaped(0.1, 0.1, 0.0) == shaped(-0.05, 0.1, 0.5) == 0.0
    assert shaped(1.0, 0.1, 0.7) == 1.0 and shaped(-1.0, 0.2, 0.0) == -1.0
    assert shaped(0.55, 0.1, 0.0) == pytest.approx(0.5), "from the zone's edge on, without a jump"
    assert shaped(-0.55, 0.1, 0.4) == pytest.approx(-(0.6 * 0.5 + 0.4 * 0.125))
    assert shaped(1.3, 0.1, 0.3) == 1.0


def test_a_gamepad_moves_only_while_its_dead_man_is_held() -> None:
    device = Gamepad(Teleop(dead_zone=0.0, expo=0.0, linear=0.2, angular=0.5))
    device.heard(sticks(_1=1.0), pad(), 0.0)
    assert device.asked(0.0) is None
    device.heard(sticks(_1=1.0, _3=-1.0), pad(5), 0.1)
    asked = device.asked(0.1)
    assert asked is not None
    np.testing.assert_allclose(asked.twist, [0.2, 0, 0, 0, 0, -0.5])
    device.heard(sticks(_1=1.0), pad(5, 4), 0.2)
    slow = device.asked(0.2)
    assert slow is not None
    np.testing.assert_allclose(slow.twist, [0.06, 0, 0, 0, 0, 0])
    assert device.asked(0.2 + SILENT_SECONDS) is not None
    assert device.asked(0.21 + SILENT_SECONDS) is None, "silent: let go"
    device.heard(sticks(_1=1.0), pad(), 1.0)
    assert device.asked(1.0) is None


def test_a_dead_man_that_was_down_from_the_first_may_be_stuck() -> None:
    device = Gamepad(Teleop())
    device.heard(sticks(_1=1.0), pad(5), 0.0)
    assert device.asked(0.0) is None
    device.heard(sticks(), pad(), 0.1)
    device.heard(sticks(_1=1.0), pad(5), 0.2)
    assert device.asked(0.2) is not None


def test_a_dead_man_is_seen_up_again_after_a_silence() -> None:
    device = Gamepad(Teleop(gripper=0))
    device.heard(sticks(), pad(), 0.0)
    device.heard(sticks(_1=1.0), pad(5), 0.2)
    assert device.asked(0.2) is not None
    device.heard(sticks(_1=1.0), pad(5, 0), 0.3 + SILENT_SECONDS)
    assert device.asked(0.3 + SILENT_SECONDS) is None
    device.heard(sticks(), pad(0), 0.7)
    device.heard(sticks(), pad(5, 0), 0.8)
    asked = device.asked(0.8)
    assert asked is not None and asked.grip == "", "nobody saw when that button went down"


def test_a_gamepad_that_says_nonsense_is_let_go() -> None:
    device = Gamepad(Teleop())
    device.heard(sticks(), pad(), 0.0)
    device.heard(sticks(), pad(), 0.9)
    for axes, buttons, why in (
        (sticks(_1=float("nan")), pad(5), "finite numbers expected"),
        ([0.0, 0.0], pad(5), "2 axes, an axis 4 expected"),
        (sticks(), [True], "1 buttons, a button 5 expected"),
    ):
        device.heard(sticks(_1=1.0), pad(5), 1.0)
        assert device.asked(1.0) is not None
        with pytest.raises(ValueError, match=why):
            device.heard(axes, buttons, 1.0)
        assert device.asked(1.0) is None
    device.heard(sticks(_2=float("nan")), pad(5), 1.1)
    assert device.asked(1.1) is not None, "an axis that nothing uses"


def test_a_grippers_button_counts_once_when_it_goes_down() -> None:
    device = Gamepad(Teleop(gripper=None, open=1, close=0))
    grips = []
    for time, down in enumerate([(), (5,), (5, 0), (5, 0), (5,), (5, 1)]):
        device.heard(sticks(), pad(*down), 0.01 * time)
        asked = device.asked(0.01 * time)
        grips.append(None if asked is None else asked.grip)
    assert grips == [None, "", "close", "", "", "open"]


def test_whoever_publishes_twists_holds_the_dead_man() -> None:
    device = Twists()
    assert device.asked(0.0) is None
    device.heard(np.zeros(6), 1.0)
    assert device.asked(1.2) is not None and device.asked(1.31) is None
    device.heard(np.ones(6), 2.0)
    with pytest.raises(ValueError, match="finite numbers expected"):
        device.heard([0, 0, np.inf, 0, 0, 0], 2.1)
    assert device.asked(2.1) is None


def test_a_key_moves_while_it_is_repeated_and_keeps_for_longer() -> None:
    device = Keyboard(0.2, 0.5)
    assert device.asked(0.0) is None
    device.heard("w", 1.0)
    asked = device.asked(1.0)
    assert asked is not None
    np.testing.assert_allclose(asked.twist, [0.2, 0, 0, 0, 0, 0])
    pause = device.asked(1.01 + MOTION_SECONDS)
    assert pause is not None and not pause.twist.any(), "until it is repeated it does not move, and is held"
    for time in np.arange(1.5, 2.5, 0.04):
        device.heard("w", time)
        assert device.asked(time).twist[0] == 0.2
    assert device.asked(2.45 + HELD_SECONDS) is not None and device.asked(2.6 + HELD_SECONDS) is None
    device.heard("\x1b[Dj", 5.0)
    both = device.asked(5.0)
    assert both is not None
    np.testing.assert_allclose(both.twist, [0, 0.2, 0, 0, 0, 0.5])
    for opposite, along in (("w", 1.0), ("s", -1.0), ("w", 1.0)):
        device.heard(opposite, 5.01)
        assert device.asked(5.01).twist[0] == along * 0.2, "the newer of two opposite keys"
    device.heard(" ", 5.01)
    held = device.asked(5.01)
    assert held is not None and not held.twist.any()
    for key in ("x", "\x1b"):
        device.heard("w", 6.0)
        device.heard(key, 6.0)
        assert device.asked(6.0) is None, "let go at once"
    device.heard("q?\x00", 7.0)
    assert device.asked(7.0) is None, "other keys are no dead-man"


def test_keys_change_the_speed_within_bounds() -> None:
    device = Keyboard(0.2, 0.5)
    device.heard("+" * 50, 0.0)
    assert device.speed == 2.0 and device.asked(0.0) is None
    device.heard("-" * 50, 0.0)
    assert device.speed == 0.1
    device.heard("wg", 0.0)
    asked = device.asked(0.0)
    assert asked is not None and asked.twist[0] == pytest.approx(0.02) and asked.grip == "toggle"


def test_rows_are_of_one_step_within_the_speeds_and_end_with_zeros() -> None:
    rows = PersonRows(0.05, 0.2, 1.0)
    assert rows.row(None) is None
    row = rows.row(Asked(np.array([3.0, 4.0, 0.0, 0.0, 0.0, -9.0])))
    assert row is not None
    np.testing.assert_allclose(row, [0.006, 0.008, 0, 0, 0, -0.05, 0])
    still = rows.row(STILL)
    assert still is not None and not still.any() and rows.driving, "nothing is known of the gripper"
    assert not rows.row(None).any()
    assert rows.row(None) is None, "then it is silent"
    tight = PersonRows(0.05, 1.0, 1.0, greatest=(0.01,) * 6 + (1.0,))
    np.testing.assert_allclose(tight.row(Asked(np.full(6, 0.5)))[:3], 0.01)


def test_the_gripper_stays_as_it_was_told_until_the_person_says_more() -> None:
    rows = PersonRows(0.05, 0.2, 1.0)
    rows.executed(np.array([0, 0, 0, 0, 0, 0, 0.4]), False)
    assert rows.row(STILL)[6] == 0.4, "the policy had closed it, and taking over drops nothing"
    rows.executed(np.array([0, 0, 0, 0, 0, 0, -1.0]), True)
    assert rows.row(STILL)[6] == 0.4, "what is heard of one's own row comes late"
    assert [rows.row(Asked(np.zeros(6), grip))[6] for grip in ("toggle", "", "close", "toggle", "open")] == [
        *(-1.0, -1.0, 1.0, -1.0, -1.0)
    ]
    rows.executed(np.array([0, 0, 0, 0, 0, 0, 1.0]), False)
    assert rows.row(STILL)[6] == -1.0, "nor a policy's, which the person has overruled"
    fresh = PersonRows(0.05, 0.2, 1.0)
    assert fresh.row(Asked(np.zeros(6), "toggle"))[6] == 1.0


def test_taking_over_tells_the_gripper_what_it_was_told_last() -> None:
    rows = PersonRows(0.05, 0.2, 1.0)
    for value in (1.0, -0.05):
        rows.executed(np.array([0, 0, 0, 0, 0, 0, value]), False)
        assert rows.row(STILL)[6] == value
        rows.row(None)
    assert rows.row(Asked(np.zeros(6), "toggle"))[6] == 1.0, "by the sign alone"
    rows.row(None)
    rows.executed(ZEROS, True)
    assert rows.row(STILL)[6] == 1.0
    rows.row(None)
    rows.executed(ZEROS, False)
    assert rows.row(STILL)[6] == 0.0, "a policy's: as it is, or in the middle"
    assert rows.row(Asked(np.zeros(6), "toggle"))[6] == -1.0


def test_the_gripper_is_learnt_from_the_policy_while_a_person_holds_on() -> None:
    rows = PersonRows(0.05, 0.2, 1.0)
    assert rows.row(STILL)[6] == 0.0
    rows.executed(np.array([0, 0, 0, 0, 0, 0, -1.0]), True)
    assert rows.row(STILL)[6] == 0.0, "one's own, heard late"
    rows.executed(np.array([0, 0, 0, 0, 0, 0, -1.0]), False)
    assert rows.row(STILL)[6] == -1.0


@pytest.mark.parametrize("response", [(), (88.2, 0.803)])
def test_the_hand_goes_by_the_speed_that_was_asked_for(response: tuple[float, ...]) -> None:
    gain = steady_speed(1.0, 0.05, response) * 0.05
    rows = PersonRows(0.05, 0.2, 1.0, (gain, 1.0))
    limits = Limits(2.0, 4.0, 13.0, 25.0, (-9.0,) * 3, (9.0,) * 3)
    targets = TargetGenerator(limits, 0.05, response, leash=(1.5, 1.5))
    targets.start(np.zeros(3), Rotation.identity())
    places = []
    for number in range(60):
        row = rows.row(Asked(np.array([0.15, 0, 0, 0, 0, 0])))
        for _ in range(5):
            at = targets.target()
            targets.advance(0.01, row, number, at.position, at.rotation)
        places.append(targets.target().position[0])
    assert (places[-1] - places[-21]) / 1.0 == pytest.approx(0.15, rel=0.02)


# Who decides


def test_a_row_takes_over_and_letting_go_or_silence_gives_back() -> None:
    person = Takeover(PERIOD_NS)
    assert not person.update(0, 0.0, 0) and person.sets_aside(0) == ""
    person.say(None, 10**9, 10**9, 1.0)
    assert not person.update(10**9, 1.0, 0), "who lets go takes nothing over"
    person.say(ROW, 10**9, 10**9, 1.0)
    assert person.update(10**9, 1.0, 0) and person.sets_aside(2 * 10**9) == "chunk set aside: a person drives"
    assert person.update(10**9 + 250_000_000, 1.25, 0)
    assert not person.update(10**9 + 260_000_000, 1.26, 10**9 + 255_000_000), "silence"
    assert "while a person drove" in person.sets_aside(10**9 + 260_000_000)
    assert person.sets_aside(10**9 + 260_000_001) == ""
    person.say(ROW, 2 * 10**9, 2 * 10**9, 2.0)
    person.say(None, 2 * 10**9, 2 * 10**9, 2.0)
    assert not person.update(2 * 10**9, 2.0, 2 * 10**9 + 30_000_000)
    assert person.sets_aside(2 * 10**9 + 30_000_000), "of an observation that is stamped ahead of the clock, too"


def test_who_holds_still_decides() -> None:
    person = Takeover(PERIOD_NS)
    person.say(ZEROS, 10**9, 10**9, 1.0)
    due = person.row(10**9)
    assert person.update(10**9, 1.0, 0) and due is not None and not due.row.any() and due.gripper is None


def test_age_counts_by_receipt_and_by_stamp() -> None:
    person = Takeover(PERIOD_NS)
    person.say(ROW, 0, 240_000_000, 1.0)
    assert person.update(240_000_000, 1.0, 0)
    assert not person.update(260_000_000, 1.02, 0), "its stamp is too old, though it was heard just now"
    for stamp, why in ((0, r"0\.30 s old"), (600_000_000, "0\\.30 s ahead of the clock")):
        with pytest.raises(ValueError, match=why):
            person.say(ROW, stamp, 300_000_000, 2.0)


def test_what_cannot_be_used_holds_until_something_better_comes() -> None:
    person = Takeover(PERIOD_NS)
    person.refuse("NaN", 10**9, 1.0)
    assert person.update(10**9, 1.0, 0) and person.reason == "NaN"
    person.say(ROW, 10**9, 10**9, 1.0)
    assert person.update(10**9, 1.0, 0) and person.reason == ""
    person.refuse("NaN", 10**9, 1.1)
    assert person.update(10**9, 1.2, 0) and not person.update(2 * 10**9, 2.0, 0)
    assert person.reason == "" and person.sets_aside(2 * 10**9)


def test_one_row_begins_in_each_step_at_whatever_pace_they_come() -> None:
    person = Takeover(PERIOD_NS)
    rng = np.random.default_rng(0)
    keys, values = [], []
    for k in range(200):
        now = 10**18 + 10_000_000 * k
        if rng.random() < 0.3:
            person.say(np.full(7, k + 1.0), now, now, 0.01 * k)
        if person.update(now, 0.01 * k, 0):
            due = person.row(now)
            assert due is not None
            keys.append(due.key)
            values.append(due.row[0])
    numbers = [number for _, number in keys]
    assert numbers == sorted(numbers) and set(numbers) == set(range(numbers[-1] + 1)), "none is left out"
    changes = [i for i in range(1, len(values)) if values[i] != values[i - 1]]
    assert changes and all(numbers[i] != numbers[i - 1] for i in changes), "a row stays what it was when it began"


def test_a_takeover_has_nothing_of_the_one_before() -> None:
    person = Takeover(PERIOD_NS)
    person.say(ROW, 10**9, 10**9, 1.0)
    person.say(None, 10**9, 10**9, 1.0)
    assert not person.update(10**9, 1.0, 0)
    person.refuse("NaN", 2 * 10**9, 2.0)
    assert person.update(2 * 10**9, 2.0, 0) and person.row(2 * 10**9) is None and not person.newest.any()
    person.say(2 * ROW, 2 * 10**9, 2 * 10**9, 2.0)
    due = person.row(2 * 10**9 + 1)
    assert due is not None and np.array_equal(due.row, 2 * ROW), "within the period of what was refused"


def test_a_time_that_begins_again_forgets_when_it_was_released() -> None:
    person = Takeover(PERIOD_NS)
    person.say(ROW, 50 * 10**9, 50 * 10**9, 1.0)
    person.say(None, 50 * 10**9, 50 * 10**9, 1.0)
    person.update(50 * 10**9, 1.0, 0)
    assert person.sets_aside(10**9)
    person.update(10**9, 61.0, 0)
    assert person.sets_aside(10**9) == ""


def executor(**values: float) -> ChunkExecutor:
    limits = ExecutorLimits((-0.05,) * 6 + (-1.0,), (0.05,) * 6 + (1.0,), (-1.0,) * 3, (1.0,) * 3)
    return ChunkExecutor(limits, PERIOD_NS, 250_000_000, max_ahead_ns=250_000_000)


def test_limits_box_and_every_reason_to_hold_are_the_persons_too() -> None:
    logic = executor()
    assert logic.person_command(0, ROW, 0).reason == "no observation yet"
    logic.observe(10**9, np.array([0.99, 0.0, 0.0]))
    command = logic.person_command(10**9, np.array([0.2, 0, 0, 0, 0, 0, 1.0]), 10**9, (5, 2))
    assert command.acting and command.person and command.key == (5, 2)
    np.testing.assert_allclose(command.row, [0.01, 0, 0, 0, 0, 0, 1.0])
    assert command.clipped == "limits and workspace"
    gross = logic.person_command(10**9, np.array([0, 0, 0.26, 0, 0, 0, 0]), 10**9)
    assert not gross.acting and gross.reason == "eef_dz of a person is 0.26, at most 0.25 expected"
    assert not logic.person_command(10**9, np.full(7, np.nan), 10**9).acting
    assert "0.300 s old" in logic.person_command(10**9, ROW, 1_300_000_000).reason
    assert "ahead of the clock" in logic.person_command(10**9, ROW, 700_000_000).reason
    logic.set_enabled(False)
    assert logic.person_command(10**9, ROW, 10**9).reason == "not enabled"
    logic.set_enabled(True)
    logic.estop("requested")
    assert logic.person_command(10**9, ROW, 10**9).reason == "emergency stop: requested"
