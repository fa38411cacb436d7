"""Which row is due, what is late, how chunks join, and what never reaches a robot."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from diffusion_ros.control.action_chunk import ActionChunk, hold_chunk
from diffusion_ros.control.chunk_executor import ChunkExecutor, ExecutorLimits

PERIOD = 50_000_000
START = 1_000_000_000
LIMITS = ExecutorLimits(
    action_low=(-0.05, -0.05, -0.05, -0.5, -0.5, -0.5, -1.0),
    action_high=(0.05, 0.05, 0.05, 0.5, 0.5, 0.5, 1.0),
    workspace_low=(-0.2, -0.2, 0.8),
    workspace_high=(0.2, 0.2, 1.2),
)
CENTRE = np.array([0.0, 0.0, 1.0])


def rows(value: float = 0.01, n: int = 9) -> np.ndarray:
    """Row i moves x by value * (i + 1) / 10 and closes the gripper."""
    out = np.zeros((n, 7))
    out[:, 0] = value * np.arange(1, n + 1) / 10
    out[:, 6] = 1.0
    return out


def chunk(step: int = 0, value: float = 0.01, n: int = 9) -> ActionChunk:
    return ActionChunk(START + step * PERIOD, rows(value, n), PERIOD)


def executor(**changes: object) -> ChunkExecutor:
    arguments: dict[str, object] = {
        "limits": LIMITS,
        "period_ns": PERIOD,
        "max_observation_age_ns": 250_000_000,
        **changes,
    }
    made = ChunkExecutor(**arguments)
    made.observe(START, CENTRE)
    return made


def at(step: int) -> int:
    return START + step * PERIOD


# The chunk


def test_row_i_is_due_at_its_time_exactly_whatever_the_period():
    for period in (PERIOD, 33_333_333, 16_666_667, 1, 3):
        for stamp in (0, 7, 1_700_000_000_123_456_789):
            made = ActionChunk(stamp, rows(), period)
            assert [made.index_at(stamp + i * period) for i in range(-2, 12)] == list(range(-2, 12))


def test_the_nearest_row_is_due_so_that_jitter_neither_repeats_nor_skips_one():
    made = chunk()
    rng = np.random.default_rng(0)
    jitter = rng.integers(-PERIOD // 2 + 1, PERIOD // 2, 9)
    assert [made.index_at(at(i) + int(jitter[i])) for i in range(9)] == list(range(9))
    assert made.index_at(at(3) + PERIOD // 2) == 4 and made.index_at(at(3) + PERIOD // 2 - 1) == 3
    assert made.row(at(0) - PERIOD // 2 - 1) is None
    assert made.row(at(8) + PERIOD // 2 - 1) is not None and made.row(at(8) + PERIOD // 2) is None


@pytest.mark.parametrize("shape", [(0, 7), (9, 6), (7,), (1, 9, 7)])
def test_a_chunk_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"\(N, 7\)"):
        ActionChunk(0, np.zeros(shape), PERIOD)
    with pytest.raises(ValueError, match="period"):
        ActionChunk(0, rows(), 0)


# Which row


def test_rows_come_in_time_and_a_hold_where_there_is_none():
    e = executor()
    held = e.command(at(0))
    assert not held.acting and held.reason == "no chunk yet" and not held.row.any()
    assert e.add_chunk(chunk()) == ""
    for i in range(9):
        e.observe(at(i), CENTRE)
        command = e.command(at(i))
        assert command.acting and command.stamp_ns == at(i)
        assert np.array_equal(command.row, rows()[i]), "a row within all limits passes bit for bit"
        assert np.array_equal(e.command(at(i)).row, command.row), "asking again gives the same"
    e.observe(at(9), CENTRE)
    held = e.command(at(9))
    assert not held.acting and held.reason == "no chunk covers the present: the newest is 0.450 s old"
    assert not held.row.any(), "a hold leaves the gripper as it is, too"


def test_late_rows_are_dropped_by_their_time():
    e = executor()
    e.observe(at(3), CENTRE)
    e.add_chunk(chunk(0))
    assert np.array_equal(e.command(at(3)).row, rows()[3]), "not row 0"


def first_rows(executor_: ChunkExecutor, steps: range) -> list[tuple[int, int] | None]:
    """Which row is executed at each step: its chunk's step and its place there; None: a hold."""
    found: list[tuple[int, int] | None] = []
    for step in steps:
        executor_.observe(at(step), np.array([0.0, 0.0, 1.0]))
        key = executor_.command(at(step)).key
        found.append(None if key is None else ((key[0] - at(0)) // PERIOD, key[1]))
    return found


def test_a_chunk_that_comes_late_to_a_robot_that_stood_still_begins_with_its_first_row():
    robot = realtime()
    assert first_rows(robot, range(3)) == [None] * 3
    assert robot.add_chunk(chunk(1)) == ""
    assert first_rows(robot, range(3, 6)) == [(1, 0), (1, 1), (1, 2)]
    assert len(robot.rest(at(5))) == 7 and len(robot.begun(at(5))) == 3, "its rows are due from then on"
    robot.add_chunk(chunk(4))
    assert first_rows(robot, range(6, 8)) == [(4, 2), (4, 3)], "the next one finds a robot that moves"


def test_a_chunk_from_before_a_hold_goes_on_where_its_rows_are_due():
    robot = realtime()
    robot.add_chunk(chunk(0, n=2))
    assert first_rows(robot, range(4)) == [(0, 0), (0, 1), None, None]
    robot.add_chunk(chunk(1))
    assert first_rows(robot, range(4, 6)) == [(1, 3), (1, 4)], "its observation is of a robot that still moved"


def test_after_a_person_a_chunk_goes_on_where_its_rows_are_due():
    robot = realtime()
    assert first_rows(robot, range(2)) == [None] * 2
    robot.observe(at(2), np.array([0.0, 0.0, 1.0]))
    assert robot.person_command(at(2), rows()[0], at(2)).acting
    robot.add_chunk(chunk(1))
    assert first_rows(robot, range(3, 5)) == [(1, 2), (1, 3)]


def test_a_chunk_that_is_late_as_a_whole_is_refused_and_one_row_in_time_is_not():
    e = executor()
    e.observe(at(9), CENTRE)
    assert e.add_chunk(chunk(0)) == "chunk refused: all rows late, made from an observation 0.450 s old"
    assert e.add_chunk(chunk(1)) == ""
    assert np.array_equal(e.command(at(9)).row, rows()[8])


def test_the_newest_chunk_decides_and_an_older_one_is_refused():
    e = executor()
    assert e.add_chunk(chunk(0, 0.01)) == ""
    assert e.add_chunk(chunk(4, 0.02)) == ""
    assert e.add_chunk(chunk(2, 0.03)) == "chunk refused: 0.100 s older than the newest"
    e.observe(at(3), CENTRE)
    assert np.array_equal(e.command(at(3)).row, rows(0.01)[3]), "the new one does not cover this yet"
    e.observe(at(4), CENTRE)
    assert np.array_equal(e.command(at(4)).row, rows(0.02)[0])
    assert e.add_chunk(chunk(4, 0.04)) == "", "the same stamp again replaces"
    assert np.array_equal(e.command(at(4)).row, rows(0.04)[0])


def test_in_lockstep_rows_beyond_n_action_steps_are_not_executed():
    e = executor(max_rows=8)
    e.add_chunk(chunk())
    e.observe(at(7), CENTRE)
    assert e.covers(at(7))
    e.observe(at(8), CENTRE)
    assert not e.covers(at(8)) and not e.command(at(8)).acting
    e.add_chunk(chunk(8, 0.02))
    assert np.array_equal(e.command(at(8)).row, rows(0.02)[0])


def test_blending_goes_over_linearly_in_motion_but_not_in_the_gripper():
    e = executor(join="blend", blend_rows=3)
    old, new = rows(0.01), rows(0.05)
    new[:, 6] = -1.0
    e.add_chunk(ActionChunk(at(0), old, PERIOD))
    e.observe(at(5), CENTRE)
    assert np.array_equal(e.command(at(5)).row, old[5])
    e.add_chunk(ActionChunk(at(4), new, PERIOD))  # its row 0 is late: the fade begins with the first that is used
    for used, step in enumerate(range(6, 9)):
        e.observe(at(step), CENTRE)
        weight = (used + 1) / 4
        row = e.command(at(step)).row
        np.testing.assert_allclose(row[0], (1 - weight) * old[step, 0] + weight * new[step - 4, 0], rtol=1e-12)
        assert row[6] == -1.0
        assert np.array_equal(row, e.command(at(step)).row)
    e.observe(at(9), CENTRE)
    assert np.array_equal(e.command(at(9)).row, new[5])
    # The wrong setting must differ.
    latest = executor()
    latest.add_chunk(ActionChunk(at(0), old, PERIOD))
    latest.add_chunk(ActionChunk(at(4), new, PERIOD))
    latest.observe(at(6), CENTRE)
    assert np.array_equal(latest.command(at(6)).row, new[2])


@pytest.mark.parametrize("kind", ["delta", "tool_delta", "pose"])
@pytest.mark.parametrize("join", [{"join": "latest"}, {"join": "blend", "blend_rows": 3}, {"join": "ensemble"}])
@pytest.mark.parametrize("beside", [0, 7_000_000])
def test_the_rest_of_a_chunk_is_what_its_commands_will_be(kind: str, join: dict[str, object], beside: int) -> None:
    """Its rows are joined and limited before they are due: a driver's trajectory is made from them."""
    e = executor(**join, max_ahead_ns=0)
    rng = np.random.default_rng(4)
    for step in (0, 4):
        values = rng.uniform(-1.5, 1.5, (9, 7)) * LIMITS.action_high
        values[:, :3] = values[:, :3] / 20 + (CENTRE if kind == "pose" else 0.0)
        values[:, 3] *= 1.0 if kind == "delta" else 0.1
        if kind == "pose":
            values[:, 3:6] = (Rotation.from_rotvec(values[:, 3:6] / 20) * Rotation.from_quat(DOWN)).as_rotvec()
        observed = at(step) + (beside if step else 0)
        e.observe(observed, CENTRE, DOWN)
        assert e.add_chunk(ActionChunk(observed, values, PERIOD, kind)) == ""
    now = at(6) - PERIOD // 3
    e.observe(now, CENTRE, DOWN)
    e.command(now)
    coming = e.rest(now)
    # Each row begins when it is the nearest one.
    begins = [now, *(at(4) + beside + i * PERIOD - PERIOD // 2 for i in range(3, 9))]
    commands = [e.command(t, now) for t in begins]
    assert all(command.acting for command in commands) and len(coming) == 7
    np.testing.assert_allclose(coming, [c.row if c.pose is None else c.pose for c in commands], atol=1e-12)


def test_a_row_that_is_asked_for_at_an_earlier_time_does_not_let_the_fade_begin_earlier() -> None:
    """The gripper's row is not the arm's where the arm is later than its gripper."""
    rows_ = []
    for asked in (False, True):
        e = executor(join="blend", blend_rows=3)
        e.add_chunk(chunk(0, 0.01))
        e.add_chunk(chunk(2, 0.05))
        e.observe(at(4), CENTRE)
        for step in (4, 5, 6):
            rows_.append(e.command(at(step)).row)
            if asked:
                e.command(at(step - 2))
    np.testing.assert_array_equal(rows_[:3], rows_[3:])


def test_what_a_chunk_would_have_done_so_far_is_its_own_or_the_mean_that_it_is_part_of() -> None:
    chunks = [chunk(0, 0.01), chunk(1, 0.03), chunk(3, 0.05)]
    for join in ({"join": "latest"}, {"join": "blend", "blend_rows": 3}, {"join": "ensemble"}):
        e = executor(**join)
        for made in chunks:
            assert e.add_chunk(made) == ""
        e.observe(at(5), CENTRE)
        own = rows(0.05)[:3]
        means = [
            np.average([c.rows[3 + i - k] for c, k in zip(chunks, (0, 1, 3), strict=True)], axis=0) for i in range(3)
        ]
        expected = means if join["join"] == "ensemble" else own
        np.testing.assert_allclose(e.begun(at(5)), expected, rtol=0.01)  # the older ones weigh a little more
        assert np.abs(means - own).max() > 0.002


def test_time_that_goes_back_drops_the_chunks_of_the_other_run():
    e = executor()
    e.observe(at(100), CENTRE)
    e.add_chunk(chunk(100))
    assert e.covers(at(100))
    assert e.observe(at(0), CENTRE) == ""
    assert not e.covers(at(100))
    assert e.add_chunk(chunk(0)) == ""
    assert e.command(at(0)).acting
    assert e.observed(at(0), CENTRE)
    e.observe(at(0), CENTRE)
    assert e.command(at(0)).acting, "the same observation again changes nothing"
    e.observe(at(0), CENTRE + 0.01)
    assert not e.command(at(0)).acting, "another position at the same time is another run"


def realtime(**changes: object) -> ChunkExecutor:
    return executor(max_ahead_ns=250_000_000, max_speed=3.0, **changes)


def test_who_asks_for_a_hold_means_now_however_old_its_observation():
    e = realtime()
    e.add_chunk(chunk(0))
    e.observe(at(3), CENTRE)
    assert e.command(at(3)).acting
    assert e.add_chunk(hold_chunk(at(1), PERIOD)) == ""
    held = e.command(at(3))
    assert not held.acting and "sender asked for it" in held.reason
    assert e.add_chunk(chunk(3)) == "" and e.command(at(3)).acting


def test_a_chunk_from_before_the_first_pose_blocks_none():
    e = ChunkExecutor(LIMITS, PERIOD, 250_000_000, max_ahead_ns=250_000_000)
    assert "no eef_pose yet" in e.add_chunk(chunk(6000))
    waits = ChunkExecutor(LIMITS, PERIOD, 250_000_000)
    assert waits.add_chunk(chunk(6000)) == "", "in lockstep the chunk may come before its pose"
    waits.observe(at(0), CENTRE)
    assert waits.add_chunk(chunk(0)) == "" and waits.command(at(0)).acting


# What must not pass


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_chunk_that_is_not_finite_is_refused_whole(value):
    e = executor()
    bad = rows()
    bad[8, 4] = value
    assert e.add_chunk(ActionChunk(at(0), bad, PERIOD)) == "chunk refused: NaN or infinite values"
    assert not e.command(at(0)).acting


def test_a_little_beyond_the_limit_is_clipped_and_far_beyond_refused():
    e = executor()
    high = rows()
    high[0] = [0.06, -0.06, 0.0, 0.6, 0.0, 0.0, 1.5]
    assert e.add_chunk(ActionChunk(at(0), high, PERIOD)) == ""
    command = e.command(at(0))
    assert command.clipped == "limits" and command.acting
    np.testing.assert_array_equal(command.row, [0.05, -0.05, 0.0, 0.5, 0.0, 0.0, 1.0])
    high[5, 2] = 0.26  # more than 5 x 0.05
    reason = e.add_chunk(ActionChunk(at(1), high, PERIOD))
    assert reason == "chunk refused: eef_dz of row 5 is 0.26, at most 0.25 expected"
    high[5, 2] = 0.25
    assert e.add_chunk(ActionChunk(at(1), high, PERIOD)) == ""


def test_another_period_is_refused():
    e = executor()
    assert "100000000 ns apart, 50000000 ns expected" in e.add_chunk(ActionChunk(at(0), rows(), 2 * PERIOD))


def one_command(position: list[float], delta: list[float]) -> tuple[np.ndarray, str]:
    e = executor()
    row = np.zeros((1, 7))
    row[0, :3] = delta
    e.observe(START, np.array(position))
    assert e.add_chunk(ActionChunk(START, row, PERIOD)) == ""
    command = e.command(START)
    assert command.acting
    return command.row[:3], command.clipped


@pytest.mark.parametrize(
    ("position", "delta", "expected", "clipped"),
    [
        ([0.0, 0.0, 1.0], [0.05, -0.05, 0.05], [0.05, -0.05, 0.05], ""),
        ([0.19, 0.0, 1.0], [0.05, 0.0, 0.0], [0.01, 0.0, 0.0], "workspace"),
        ([0.2, 0.0, 1.0], [0.05, 0.01, 0.0], [0.0, 0.01, 0.0], "workspace"),
        ([0.0, 0.0, 0.81], [0.0, 0.0, -0.04], [0.0, 0.0, -0.01], "workspace"),
        # Outside already: inwards only, and not faster than asked.
        ([0.3, 0.0, 1.0], [0.01, 0.0, 0.0], [0.0, 0.0, 0.0], "workspace"),
        ([0.3, 0.0, 1.0], [-0.03, 0.0, 0.0], [-0.03, 0.0, 0.0], ""),
        ([-0.3, 0.0, 0.7], [0.02, 0.0, -0.02], [0.02, 0.0, 0.0], "workspace"),
        ([0.0, -0.21, 1.0], [0.09, 0.05, 0.0], [0.05, 0.05, 0.0], "limits"),
        ([0.19, 0.0, 1.0], [0.09, 0.0, 0.0], [0.01, 0.0, 0.0], "limits and workspace"),
    ],
)
def test_the_hand_stays_in_the_box(position, delta, expected, clipped):
    row, what = one_command(position, delta)
    np.testing.assert_allclose(row, expected, atol=1e-15)
    assert what == clipped


def test_a_long_push_at_the_wall_never_leaves_the_box():
    e = executor()
    position = CENTRE.copy()
    push = np.tile([0.05, 0.05, -0.05, 0, 0, 0, 0], (9, 1))
    for step in range(40):
        e.observe(at(step), position)
        e.add_chunk(ActionChunk(at(step), push, PERIOD))
        position = position + e.command(at(step)).row[:3]
    np.testing.assert_allclose(position, [0.2, 0.2, 0.8], atol=1e-12)


# Stops


def test_a_stale_observation_holds_and_a_fresh_one_does_not():
    e = executor()
    e.add_chunk(chunk())
    assert e.command(at(0), now_ns=at(0) + 250_000_000).acting
    held = e.command(at(0), now_ns=at(0) + 251_000_000)
    assert not held.acting and held.reason == "eef_pose is 0.251 s old"
    assert "ahead of the clock" in e.command(at(0), now_ns=at(0) - 251_000_000).reason


@pytest.mark.parametrize("position", [[np.nan, 0, 1], [0, 0, np.inf], [0, 1]])
def test_a_pose_that_is_no_pose_holds_until_there_is_one(position):
    e = executor()
    e.add_chunk(chunk())
    assert "3 finite numbers expected" in e.observe(at(1), np.array(position))
    held = e.command(at(1))
    assert not held.acting and "eef_pose refused" in held.reason
    assert e.observe(at(2), CENTRE) == ""
    assert e.command(at(2)).acting


def test_before_any_observation_it_holds():
    e = ChunkExecutor(LIMITS, PERIOD, 0)
    e.add_chunk(chunk())
    assert e.command(at(0)).reason == "no observation yet"


def test_the_emergency_stop_is_latched_and_forgets_the_chunks():
    e = executor()
    e.add_chunk(chunk())
    e.estop("button")
    e.estop("later")
    assert e.command(at(0)).reason == "emergency stop: button"
    assert e.add_chunk(chunk(1)) == ""
    e.observe(at(1), CENTRE)
    assert not e.set_enabled(True)
    assert not e.command(at(1)).acting, "neither a new chunk nor enabling releases it"
    e.estop_reset()
    assert e.command(at(1)).reason == "not enabled", "a reset moves nothing"
    assert e.set_enabled(True)
    assert e.command(at(1)).reason == "no chunk yet", "chunks from during the stop do not count"
    e.add_chunk(chunk(2))
    e.observe(at(2), CENTRE)
    assert e.command(at(2)).acting


def test_nothing_moves_unless_enabled_and_old_chunks_do_not_count_afterwards():
    e = executor(enabled=False)
    e.add_chunk(chunk())
    assert e.command(at(0)).reason == "not enabled"
    e.set_enabled(True)
    assert e.command(at(0)).reason == "no chunk yet"
    e.add_chunk(chunk())
    assert e.command(at(0)).acting
    e.set_enabled(True)
    assert e.command(at(0)).acting, "enabling what is enabled changes nothing"
    e.estop()
    e.set_enabled(False)
    e.estop_reset()
    assert e.command(at(0)).reason == "not enabled"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action_low": (-0.05,) * 6}, "7 finite numbers"),
        ({"workspace_high": (0.2, 0.2, np.nan)}, "3 finite numbers"),
        ({"workspace_low": (-0.2, -0.2, 1.3)}, "below workspace_high"),
        ({"action_low": (0.01,) * 7}, "0 inside"),
    ],
)
def test_limits_that_make_no_sense_are_refused(change, message):
    fields = {name: getattr(LIMITS, name) for name in ("action_low", "action_high", "workspace_low", "workspace_high")}
    with pytest.raises(ValueError, match=message):
        ExecutorLimits(**{**fields, **change})


@pytest.mark.parametrize(
    "change",
    [{"join": "average"}, {"join": "blend", "blend_rows": 0}, {"period_ns": 0}, {"max_rows": 0}],
)
def test_an_executor_that_makes_no_sense_is_refused(change):
    with pytest.raises(ValueError, match="expected"):
        executor(**change)


# Rows that are no motions in the frame's axes

DOWN = np.array([1.0, 0.0, 0.0, 0.0])
"""A hand that points down, xyzw."""


def poses(*positions: tuple[float, float, float], turn: float = 0.0) -> np.ndarray:
    """Rows of poses, the hand down and turned about the vertical [rad]."""
    rotation = (Rotation.from_euler("z", turn) * Rotation.from_quat(DOWN)).as_rotvec()
    return np.array([[*position, *rotation, 1.0] for position in positions])


def test_a_pose_is_the_way_there_from_where_the_hand_was_seen():
    made = executor()
    made.add_chunk(ActionChunk(START, poses((0.02, 0, 1), (0.04, 0, 1), turn=0.1), PERIOD, "pose"))
    made.observe(START, CENTRE, DOWN)
    command = made.command(START)
    np.testing.assert_allclose(command.row, [0.02, 0, 0, 0, 0, 0.1, 1], atol=1e-9)
    np.testing.assert_allclose(command.pose[:3], [0.02, 0, 1])
    # An arm that has lagged behind is told more, not the same again.
    made.observe(at(1), np.array([0.005, 0.0, 1.0]), DOWN)
    assert made.command(at(1)).row[0] == pytest.approx(0.035)


def test_a_pose_is_held_to_a_steps_limits_and_to_the_box():
    made = executor()
    made.observe(START, CENTRE, DOWN)
    made.add_chunk(ActionChunk(START, poses((0.1, 0, 1), (0.3, 0, 1)), PERIOD, "pose"))
    command = made.command(START)
    assert command.row[0] == pytest.approx(0.05)
    assert command.clipped == "limits"
    made.observe(at(1), np.array([0.19, 0.0, 1.0]), DOWN)
    command = made.command(at(1))
    assert command.row[0] == pytest.approx(0.01)
    assert command.clipped == "limits and workspace"


def test_a_pose_far_from_the_hand_is_no_command():
    made = executor()
    made.observe(START, CENTRE, DOWN)
    assert made.add_chunk(ActionChunk(START, poses((0.5, 0, 1), (0.5, 0, 1)), PERIOD, "pose")) == ""
    command = made.command(START)
    assert not command.acting
    assert command.reason == "the row that is due is 0.5 away in eef_x, at most 0.25 expected"


def test_poses_that_jump_from_row_to_row_are_refused():
    made = executor()
    chunk = ActionChunk(START, poses((0, 0, 1), (0, 0, 1000)), PERIOD, "pose")
    assert made.add_chunk(chunk) == "chunk refused: eef_z of row 1 changes by 999, at most 0.25 expected"


def test_a_pose_of_zeros_is_a_place_and_no_hold():
    assert not ActionChunk(START, np.zeros((1, 7)), PERIOD, "pose").is_hold
    assert hold_chunk(START, PERIOD).is_hold


def test_motions_of_the_tool_are_turned_as_the_hand_is():
    made = executor()
    made.observe(START, CENTRE, DOWN)
    made.add_chunk(ActionChunk(START, np.array([[0, 0.02, 0.03, 0, 0, 0.2, -1.0]]), PERIOD, "tool_delta"))
    np.testing.assert_allclose(made.command(START).row, [0, -0.02, -0.03, 0, 0, -0.2, -1], atol=1e-12)
    np.testing.assert_allclose(made.rest(START), [[0, -0.02, -0.03, 0, 0, -0.2, -1]], atol=1e-12)


@pytest.mark.parametrize("kind", ["pose", "tool_delta"])
def test_without_knowing_how_the_hand_is_turned_it_holds(kind: str):
    made = executor()
    made.add_chunk(ActionChunk(START, poses((0.02, 0, 1)) if kind == "pose" else rows(), PERIOD, kind))
    command = made.command(START)
    assert not command.acting
    assert "how the hand is turned" in command.reason


def test_poses_of_two_chunks_are_blended_along_the_shortest_turn():
    made = executor(join="blend", blend_rows=1)
    made.observe(START, CENTRE, DOWN)
    made.add_chunk(ActionChunk(START, np.repeat(poses((0.02, 0, 1)), 4, axis=0), PERIOD, "pose"))
    made.add_chunk(ActionChunk(at(1), np.repeat(poses((0.04, 0, 1), turn=0.2), 4, axis=0), PERIOD, "pose"))
    made.observe(at(1), CENTRE, DOWN)
    np.testing.assert_allclose(made.command(at(1)).row, [0.03, 0, 0, 0, 0, 0.1, 1], atol=1e-9)


def test_between_two_observations_a_pose_is_not_asked_for_twice():
    """On a clock of its own: what was commanded since counts as gone and as turned."""
    made = executor(max_ahead_ns=250_000_000)
    made.observe(START, CENTRE, DOWN)
    made.add_chunk(ActionChunk(START, np.repeat(poses((0.02, 0, 1), turn=0.2), 4, axis=0), PERIOD, "pose"))
    rows_ = []
    for step in range(4):
        command = made.command(at(step), at(step))
        made.sent(command)
        rows_.append(command.row)
    np.testing.assert_allclose(np.sum(rows_, axis=0)[:6], [0.02, 0, 0, 0, 0, 0.2], atol=1e-9)


def test_a_kind_that_is_none_is_refused():
    with pytest.raises(ValueError, match="kind 'speed'"):
        ActionChunk(START, rows(), PERIOD, "speed")
