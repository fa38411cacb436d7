"""Targets: they move as the arm in training did, within the limits, and never jump."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

from diffusion_ros.control.targets import LOST, Goal, Target, TargetGenerator, goals
from diffusion_ros.robot_file import Limits

Array = NDArray[np.float64]

WIDE = Limits(5.0, 10.0, 100.0, 200.0, (-2.0,) * 3, (2.0,) * 3)
TIGHT = Limits(0.3, 1.0, 3.0, 10.0, (-0.2, -0.2, 0.8), (0.2, 0.2, 1.2))
K = 150.0
HOME = np.array([0.0, 0.0, 1.0])


class Follower:
    """A generator and a hand that is where the target was `delay` periods ago."""

    def __init__(self, generator: TargetGenerator, seconds: float = 0.02, delay: int = 0) -> None:
        self.generator, self.seconds = generator, seconds
        self.poses = [(HOME, Rotation.identity())] * (delay + 1)
        self.targets: list[Target] = []
        generator.start(*self.poses[0])

    def go(self, row: Array | None, key: object) -> Target:
        target = self.generator.advance(self.seconds, row, key, *self.poses[0])
        self.poses = [*self.poses[1:], (target.position, target.rotation)]
        self.targets.append(target)
        return target


def row(*values: float) -> Array:
    return np.array([*values, *[0.0] * (7 - len(values))])


def test_a_row_moves_it_as_the_spring_does() -> None:
    """x'' = k (goal - x) - 2 sqrt(k) x' from rest: x = d (1 - (1 + w t) exp(-w t)), w = sqrt(k)."""
    follower = Follower(TargetGenerator(WIDE, 0.05, (K, 1.0)), 0.01)
    for i in range(1, 6):
        target = follower.go(row(0.05, 0, -0.02, 0, 0.4), 0)
        part = 1 - (1 + np.sqrt(K) * 0.01 * i) * np.exp(-np.sqrt(K) * 0.01 * i)
        np.testing.assert_allclose(target.position - HOME, [0.05 * part, 0, -0.02 * part], atol=1e-9)
        np.testing.assert_allclose(target.rotation.as_rotvec(), [0, 0.4 * part, 0], atol=1e-9)


@pytest.mark.parametrize("ratio", [0.4, 1.0, 2.5])
def test_any_damping_is_the_exponential_of_its_matrix(ratio: float) -> None:
    follower = Follower(TargetGenerator(WIDE, 0.05, (K, ratio)), 0.01)
    matrix = np.array([[0.0, 1.0], [-K, -2 * ratio * np.sqrt(K)]])
    for i in range(1, 6):
        target = follower.go(row(0.05), 0)
        error, speed = expm(0.01 * i * matrix) @ [-0.05, 0.0]
        assert target.position[0] == pytest.approx(0.05 + error, abs=1e-12)
        assert target.velocity[0] == pytest.approx(speed, abs=1e-11)


def test_full_rows_give_the_speed_of_the_arm_in_training() -> None:
    follower = Follower(TargetGenerator(WIDE, 0.05, (K, 1.0)), 0.01)
    for i in range(100):
        target = follower.go(row(0.05), i // 5)
    # 0.013 m in a step of 0.05 s is what robosuite's arm goes.
    assert target.velocity[0] == pytest.approx(0.27, abs=0.02)


def test_without_a_response_a_row_is_reached_within_its_step() -> None:
    follower = Follower(TargetGenerator(WIDE, 0.05), 0.01)
    for i in range(10):
        target = follower.go(row(0.02, 0.01), i // 5)
    np.testing.assert_allclose(target.position - HOME, [0.04, 0.02, 0], atol=1e-3)


@pytest.mark.parametrize(
    ("reference", "response"),
    [
        ("commanded", (K, 1.0)),
        ("measured", ()),
        # The other two of the four, of which make test has each half.
        pytest.param("commanded", (), marks=pytest.mark.slow),
        pytest.param("measured", (K, 1.0), marks=pytest.mark.slow),
    ],
)
def test_never_faster_than_the_limits_nor_out_of_the_box(reference: str, response: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    generator = TargetGenerator(TIGHT, 0.05, response, reference, latency=0.06)
    follower, seconds = Follower(generator, 0.02, 3), 0.02
    last = generator.target()
    for i in range(3000):
        if i % 97 == 50:
            generator.start(*follower.poses[0])
        if i % 60 == 0:
            generator.anchor(*follower.poses[0], 0.1, rng.uniform(-0.05, 0.05, (3, 7)))
        command = None if rng.random() < 0.1 else rng.uniform(-1, 1, 7) * ([0.05] * 3 + [0.5] * 3 + [1])
        target = follower.go(command, i // 3)
        step = np.linalg.norm(target.position - last.position)
        turn = (target.rotation * last.rotation.inv()).magnitude()
        assert step <= TIGHT.linear * seconds + 1e-9
        assert turn <= TIGHT.angular * seconds + 1e-9
        if i % 97 != 50:
            # At a wall, where it is stopped, and may be turned away from in the same period, it may change faster.
            wall = np.min(np.abs([target.position - TIGHT.low, target.position - TIGHT.high])) < 0.02
            assert wall or np.linalg.norm(target.velocity - last.velocity) <= TIGHT.linear_acceleration * seconds + 1e-9
        assert (target.position >= np.array(TIGHT.low) - 1e-9).all()
        assert (target.position <= np.array(TIGHT.high) + 1e-9).all()
        last = target


def test_outside_of_the_box_it_goes_only_inwards() -> None:
    generator = TargetGenerator(TIGHT, 0.05, (K, 1.0))
    outside = np.array([0.4, 0.0, 1.0])
    generator.start(outside, Rotation.identity())
    for i in range(50):
        target = generator.advance(0.02, row(0.05, 0.05), i // 3, outside, Rotation.identity())
    assert target.position[0] <= 0.4 and target.position[1] > 0.0
    for i in range(50, 100):
        target = generator.advance(0.02, row(-0.05), i // 3, target.position, Rotation.identity())
    assert target.position[0] < 0.35


def test_a_hold_brakes_and_stays() -> None:
    follower = Follower(TargetGenerator(TIGHT, 0.05, (K, 1.0)))
    for i in range(30):
        follower.go(row(0.05, 0, 0, 0, 0, 0.3), i // 3)
    speed = np.linalg.norm(follower.targets[-1].velocity)
    assert speed > 0.2
    for _ in range(40):
        held = follower.go(None, None)
    assert not held.moving
    again = follower.go(None, None)
    np.testing.assert_array_equal(again.position, held.position)
    assert np.linalg.norm(held.position - follower.targets[29].position) < 0.5 * speed**2 / (0.3 * 3.0) + 0.01


def test_a_hand_that_is_held_stops_the_target_at_the_leash_and_is_astray_beyond() -> None:
    generator = TargetGenerator(WIDE, 0.05, (K, 1.0), leash=(0.05, 0.3))
    generator.start(HOME, Rotation.identity())
    for i in range(100):
        target = generator.advance(0.02, row(0.05, 0, 0, 0, 0, 0.5), i // 3, HOME, Rotation.identity())
    assert np.linalg.norm(target.position - HOME) <= 0.05 + 1e-6
    assert target.rotation.magnitude() <= 0.3 + 1e-6
    assert generator.astray(HOME, Rotation.identity()) == ""
    pulled = HOME - [LOST * 0.05, 0, 0]
    assert "from its target" in generator.astray(pulled, Rotation.identity())


def test_a_hand_that_only_lags_is_not_held_back() -> None:
    """0.27 m/s and a lag of 0.3 s are 8 cm, more than the leash; known as latency they are none."""
    follower = Follower(TargetGenerator(WIDE, 0.05, (K, 1.0), leash=(0.05, 0.3), latency=0.3), 0.02, 15)
    for i in range(100):
        target = follower.go(row(0.05), i // 3)
    assert target.velocity[0] > 0.25
    assert follower.generator.astray(*follower.poses[0]) == ""


def test_after_a_hold_it_goes_over_to_the_hand_without_a_jump() -> None:
    generator = TargetGenerator(TIGHT, 0.05, (K, 1.0))
    generator.start(HOME, Rotation.identity())
    sunk = HOME - [0, 0, 0.03]
    generator.start(sunk, Rotation.identity())
    heights = [generator.advance(0.02, row(), i // 3, sunk, Rotation.identity()).position[2] for i in range(60)]
    assert np.all(np.abs(np.diff([1.0, *heights])) <= 0.3 * 0.02 + 1e-9)
    assert heights[-1] == pytest.approx(0.97, abs=1e-3)
    generator.stop()
    generator.start(HOME + 0.5, Rotation.identity())
    np.testing.assert_array_equal(generator.target().position, HOME + 0.5)


def test_measured_takes_a_standing_offset_back_and_commanded_does_not() -> None:
    ends = {}
    for reference in ("commanded", "measured"):
        generator = TargetGenerator(WIDE, 0.05, (K, 1.0), reference)
        generator.start(HOME, Rotation.identity())
        low = HOME - [0, 0, 0.01]
        for i in range(100):
            if i % 20 == 0 and i < 40:
                generator.anchor(low, Rotation.identity(), 0.0, row()[None])
            target = generator.advance(0.02, row(), i // 3, low, Rotation.identity())
        ends[reference] = target.position[2]
    assert ends["commanded"] == pytest.approx(1.0)
    assert ends["measured"] < 0.992


@pytest.mark.parametrize("response", [(), (K, 1.0), (88.2, 0.8, 34.2, 0.82)])
def test_a_late_chunk_ends_where_it_would_have_ended_in_time(response: tuple[float, ...]) -> None:
    """A chunk goes the other way than the one before, and decides 0.12 s after its observation."""

    def end(late: int, anchored: bool) -> Target:
        generator = TargetGenerator(WIDE, 0.05, response)
        follower = Follower(generator, 0.01)
        before, after = row(0.03, 0.01, 0, 0.05, 0, 0.02), row(-0.02, 0.03, 0.01, 0, -0.03, 0.02)
        for i in range(50 + late):
            follower.go(before, ("before", i // 5))
        if anchored:
            generator.anchor(*follower.poses[0], 0.01 * late, np.tile(after, (late // 5 + 1, 1)))
        for i in range(late, 40):
            follower.go(after, ("after", i // 5))
        for i in range(60):
            follower.go(row(), ("rest", i // 5))
        return follower.targets[-1]

    in_time, alone, anchored = end(0, False), end(12, False), end(12, True)
    beside = [np.linalg.norm(one.position - in_time.position) for one in (alone, anchored)]
    turned = [(one.rotation * in_time.rotation.inv()).magnitude() for one in (alone, anchored)]
    assert beside[0] > 0.012 and beside[1] < 0.1 * beside[0]
    assert turned[0] > 0.015 and turned[1] < 0.15 * turned[0]


def test_a_preview_is_what_comes() -> None:
    generator = TargetGenerator(TIGHT, 0.05, (K, 1.0))
    follower = Follower(generator, 0.01)
    rng = np.random.default_rng(1)
    rows = rng.uniform(-1, 1, (6, 7)) * ([0.05] * 3 + [0.3] * 3 + [1])
    follower.go(rows[0], 0)
    follower.go(rows[0], 0)
    before = generator.target()
    ahead = generator.preview(rows, 0.05, remaining=0.03)
    np.testing.assert_array_equal(generator.target().position, before.position)
    ticks = [0] * 3 + [k for k in range(1, 6) for _ in range(5)] + [None] * 40
    real = [follower.go(None if k is None else rows[k], k) for k in ticks]
    for i, target in enumerate(ahead[:-1]):
        np.testing.assert_allclose(target.position, real[5 * i + 4].position, atol=2e-4)
    assert not ahead[-1].moving


def test_an_emergency_stop_brakes_as_hard_as_the_limits_allow() -> None:
    ways = {}
    for hard in (False, True):
        generator = TargetGenerator(TIGHT, 0.05)
        follower = Follower(generator)
        for i in range(30):
            follower.go(row(0.01), i // 3)
        generator.hard = hard
        speed = follower.targets[-1].velocity[0]
        assert speed == pytest.approx(0.2)
        while follower.targets[-1].moving:
            before = follower.targets[-1].velocity[0]
            assert before - follower.go(None, None).velocity[0] <= TIGHT.linear_acceleration * 0.02 + 1e-9
        ways[hard] = follower.targets[-1].position[0] - follower.targets[29].position[0]
    # v^2 / 2a, and a third of a where it is gentle.
    assert ways[True] == pytest.approx(0.2**2 / (2 * 3.0), rel=0.05)
    assert ways[False] == pytest.approx(0.2**2 / (2 * 0.3 * 3.0), rel=0.05)


def test_a_preview_is_of_a_hand_that_follows_however_it_lags() -> None:
    """There and back, farther than the leash: what comes back is not held by where a hand that lags would be."""
    ahead = {}
    for delay in (0, 15):
        generator = TargetGenerator(WIDE, 0.05, (K, 1.0), leash=(0.03, 0.3), latency=0.02 * delay)
        follower = Follower(generator, 0.02, delay)
        for i in range(60):
            follower.go(row(0.05), i // 3)
        rows = np.array([row(0.05)] * 8 + [row(-0.05)] * 8)
        ahead[delay] = np.array([target.position for target in generator.preview(rows, 0.05)])
    np.testing.assert_allclose(ahead[15], ahead[0], atol=1e-12)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"row_seconds": 0.0}, "row_seconds 0.0, more than 0 expected"),
        ({"response": (150.0,)}, "stiffness and damping ratio above 0 expected"),
        ({"response": (150.0, float("nan"))}, "stiffness and damping ratio above 0 expected"),
        ({"reference": "wished"}, "commanded or measured expected"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, object], rule: str) -> None:
    settings: dict[str, object] = {"limits": replace(TIGHT), "row_seconds": 0.05, **change}
    with pytest.raises(ValueError, match=rule):
        TargetGenerator(**settings)  # type: ignore[arg-type]


def place(*values: float, turn: float = 0.0) -> Goal:
    return Goal(HOME + np.array([*values, *[0.0] * (3 - len(values))]), Rotation.from_euler("z", turn))


def test_a_place_is_reached_within_its_step_without_a_response() -> None:
    follower = Follower(TargetGenerator(WIDE, 0.05), 0.01)
    for _ in range(5):
        follower.go(place(0.01, turn=0.02), 0)
    for _ in range(5):
        target = follower.go(place(0.03, turn=0.06), 1)
    np.testing.assert_allclose(target.position - HOME, [0.03, 0, 0], atol=2e-3)
    assert target.rotation.as_rotvec()[2] == pytest.approx(0.06, abs=4e-3)
    for i in range(10):
        target = follower.go(place(0.03, turn=0.06), 2 + i // 5)
    np.testing.assert_allclose(target.position - HOME, [0.03, 0, 0], atol=1e-4)


def test_a_place_pulls_as_the_spring_of_training_does() -> None:
    """The same as a row of motion from the same rest; but the next row's is the place, not the place and more."""
    spring = (K, 1.0)
    moved, placed = (Follower(TargetGenerator(WIDE, 0.05, spring), 0.01) for _ in range(2))
    for _ in range(5):
        np.testing.assert_allclose(
            moved.go(row(0.05, 0, 0, 0, 0, 0.3), 0).position, placed.go(place(0.05, turn=0.3), 0).position, atol=1e-12
        )
    for i in range(300):
        target = placed.go(place(0.05, turn=0.3), 1 + i // 5)
    np.testing.assert_allclose(target.position - HOME, [0.05, 0, 0], atol=1e-6)
    assert target.rotation.as_rotvec()[2] == pytest.approx(0.3, abs=1e-6)


def test_a_place_far_away_is_gone_to_within_the_limits() -> None:
    follower = Follower(TargetGenerator(TIGHT, 0.05, leash=(1.0, 3.0)))
    speeds = [np.linalg.norm(follower.go(place(0.15), i).velocity) for i in range(100)]
    assert max(speeds) <= TIGHT.linear + 1e-9
    assert max(np.abs(np.diff(speeds))) <= TIGHT.linear_acceleration * 0.02 + 1e-9


@pytest.mark.parametrize(("speed", "acceleration"), [(0.25, 1.0), (0.4, 2.0), (0.1, 0.5), (0.8, 8.0)])
def test_it_stops_at_a_place_and_not_behind_it(speed: float, acceleration: float) -> None:
    """However slowly it may brake, and whether the place was there all the time or was being gone along to."""
    limits = replace(WIDE, linear=speed, linear_acceleration=acceleration)
    for moving in (False, True):
        follower = Follower(TargetGenerator(limits, 0.05, leash=(1.0, 3.0)), 0.01)
        rows = [min(0.1, 0.012 * (i + 1)) if moving else 0.1 for i in range(120)]
        coming = goals([(place(x).position, place(x).rotation) for x in rows])
        reached = [follower.go(coming[i // 5], i // 5).position[0] for i in range(600)]
        assert max(reached) <= 0.1 + 2e-3
        assert reached[-1] == pytest.approx(0.1, abs=1e-4)


def test_a_preview_of_places_is_what_comes() -> None:
    generator = TargetGenerator(WIDE, 0.05, (K, 1.0))
    follower = Follower(generator, 0.025)
    goals = [place(0.02), place(0.04), place(0.05)]
    follower.go(goals[0], 0)
    ahead = generator.preview(goals, 0.025, 0.025)
    come = [follower.go(goal, i) for i, goal in enumerate(goals) for _ in range(1 if i == 0 else 2)]
    for expected, target in zip(come, ahead, strict=False):
        np.testing.assert_allclose(target.position, expected.position, atol=1e-9)
