"""Frames from parts, windows from frames, frozen cameras."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation, Slerp

from diffusion_ros.control.frozen_cameras import FrozenCameras
from diffusion_ros.control.observation import (
    LATE_NS,
    FrameAssembler,
    FrameRate,
    InterpolatingAssembler,
    ObservationWindow,
    SpacedWindow,
    turned,
)

MS = 1_000_000


def value(x: float) -> np.ndarray:
    return np.array([x])


def test_parts_with_equal_stamps_make_a_frame_in_the_order_of_the_names():
    assembler = FrameAssembler(("a", "b"))
    assert assembler.put("b", 5, value(1)) is None
    assert assembler.put("a", 6, value(2)) is None  # another stamp: nothing to do with b
    frame = assembler.put("a", 5, value(3))
    assert frame is not None and frame.stamp_ns == 5
    assert list(frame.values) == ["a", "b"] and frame.values["a"] == 3 and frame.values["b"] == 1
    # The part stamped 6 is newer than that frame and still counts.
    frame = assembler.put("b", 6, value(4))
    assert frame is not None and frame.values["a"] == 2 and frame.values["b"] == 4


def test_a_stamp_that_is_sent_again_in_all_parts_gives_its_frame_again_and_an_earlier_run_does_too():
    assembler = FrameAssembler(("a", "b"))
    for stamp in (7, 7, 3):
        assert assembler.put("a", stamp, value(stamp)) is None
        frame = assembler.put("b", stamp, value(stamp))
        assert frame is not None and frame.stamp_ns == stamp


def test_incomplete_frames_do_not_pile_up_and_a_late_part_does_not_bring_an_old_frame():
    assembler = FrameAssembler(("a", "b"))
    for stamp in range(5000):
        assembler.put("a", stamp * MS, value(stamp))
    assert len(assembler._by_stamp) == 1001, "a second of them, whatever their rate"
    assert assembler.put("b", 3998 * MS, value(0)) is None, "its other half was dropped"
    assert assembler.put("b", 3999 * MS, value(0)) is not None
    assert assembler.put("b", 3999 * MS - 1, value(0)) is None


def test_within_the_tolerance_the_nearest_values_join_the_reference():
    assembler = FrameAssembler(("camera", "pose"), tolerance_ns=5 * MS)
    for t in (0, 10, 20):
        assert assembler.put("pose", t * MS, value(t)) is None
    frame = assembler.put("camera", 13 * MS, value(-1))
    assert frame is not None and frame.stamp_ns == 13 * MS and frame.values["pose"] == 10
    assert assembler.put("pose", 13 * MS, value(13)) is None, "one frame for one reference"
    # 6 ms apart is too far, until a nearer pose arrives.
    assert assembler.put("camera", 46 * MS, value(-2)) is None
    assert assembler.put("pose", 40 * MS, value(40)) is None
    frame = assembler.put("pose", 50 * MS, value(50))
    assert frame is not None and frame.stamp_ns == 46 * MS and frame.values["pose"] == 50
    # A driver that starts again begins anew.
    assert assembler.put("pose", 1 * MS, value(1)) is None
    frame = assembler.put("camera", 2 * MS, value(-3))
    assert frame is not None and frame.stamp_ns == 2 * MS


def test_exact_assembly_does_not_take_what_a_tolerance_would():
    assembler = FrameAssembler(("camera", "pose"))
    assembler.put("pose", 10 * MS, value(1))
    assert assembler.put("camera", 10 * MS + 1, value(2)) is None


@pytest.mark.parametrize(("names", "tolerance"), [((), 0), (("a", "a"), 0), (("a",), -1)])
def test_an_assembler_that_cannot_work_is_refused(names, tolerance):
    with pytest.raises(ValueError, match="expected"):
        FrameAssembler(names, tolerance)
    with pytest.raises(ValueError, match="no part of the frame"):
        FrameAssembler(("a",)).put("b", 0, value(0))


def test_the_window_repeats_its_oldest_item_at_the_start_and_then_slides():
    window: ObservationWindow[str] = ObservationWindow(3, max_gap_ns=10)
    with pytest.raises(ValueError, match="empty"):
        window.items()
    assert window.push(0, "a") and window.items() == ["a", "a", "a"]
    assert window.push(5, "b") and window.items() == ["a", "a", "b"]
    assert window.push(15, "c") and window.items() == ["a", "b", "c"]
    assert window.push(20, "d") and window.items() == ["b", "c", "d"]
    assert window.newest_stamp_ns == 20 and len(window) == 3


def test_a_gap_or_a_jump_back_starts_a_new_history_and_a_repetition_changes_nothing():
    window: ObservationWindow[str] = ObservationWindow(2, max_gap_ns=10)
    window.push(0, "a")
    assert not window.push(0, "again") and window.items() == ["a", "a"]
    window.push(10, "b")
    assert window.items() == ["a", "b"], "a gap of exactly max_gap is none"
    window.push(21, "c")
    assert window.items() == ["c", "c"]
    window.push(3, "d")
    assert window.items() == ["d", "d"]


def test_sensors_faster_than_the_control_rate_do_not_shorten_the_steps():
    window: ObservationWindow[int] = ObservationWindow(2, max_gap_ns=150 * MS, min_gap_ns=37 * MS)
    taken = [t for t in range(0, 201, 10) if window.push(t * MS, t)]  # 100 Hz
    assert taken == [0, 40, 80, 120, 160, 200]


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)


def frozen_after(cameras: FrozenCameras, picture: np.ndarray, step_m: float) -> int | None:
    """Time [ms] at which a still picture is called frozen while the robot moves step_m every 50 ms."""
    for t in range(0, 4000, 50):
        cameras.image("agentview", t * MS, picture.copy())
        cameras.position(t * MS, np.array([t / 50 * step_m, 0, 0]))
        if cameras.reasons():
            return t
    return None


def test_a_still_picture_is_frozen_only_when_the_robot_moves_and_only_after_max_frozen(picture):
    assert frozen_after(FrozenCameras(1000 * MS), picture, 0.01) == 1050
    assert frozen_after(FrozenCameras(1000 * MS), picture, 0.0002) == 2550, "as soon as it is 1 cm away"
    assert frozen_after(FrozenCameras(1000 * MS), picture, 0.0) is None, "a scene at rest"
    assert frozen_after(FrozenCameras(0), picture, 0.01) is None, "turned off"


def test_a_pose_that_only_trembles_does_not_move(picture):
    cameras = FrozenCameras(1000 * MS)
    rng = np.random.default_rng(0)
    for t in range(4000):
        cameras.image("agentview", t * MS, picture)
        cameras.position(t * MS, rng.normal(0, 0.001, 3))  # a way of metres, to nowhere
    assert not cameras.reasons()


def test_a_changing_picture_is_not_frozen_and_a_frozen_one_recovers(picture):
    cameras = FrozenCameras(1000 * MS)
    for t in range(0, 4000, 50):
        picture[0, 0, 0] = (t // 50) % 200  # one pixel is enough
        cameras.image("agentview", t * MS, picture.copy())
        cameras.position(t * MS, np.array([t / 1000, 0, 0]))
        assert not cameras.reasons()
    assert frozen_after(FrozenCameras(1000 * MS), picture, 0.02) == 1050
    for t in range(4000, 6000, 50):
        cameras.image("agentview", t * MS, picture)
        cameras.position(t * MS, np.array([t / 1000, 0, 0]))
    assert "agentview is frozen" in cameras.reasons()[0]
    cameras.image("agentview", 6000 * MS, picture + np.uint8(1))
    assert not cameras.reasons()


def test_each_camera_is_judged_alone(picture):
    cameras = FrozenCameras(1000 * MS)
    for t in range(0, 2000, 50):
        cameras.image("still", t * MS, picture)
        cameras.image("alive", t * MS, picture + np.uint8(t // 50))
        cameras.position(t * MS, np.array([0, t / 1000, 0]))
    (reason,) = cameras.reasons()
    assert reason.startswith("still is frozen")


def test_moves_from_before_the_picture_do_not_count_however_late_they_are_heard(picture):
    cameras = FrozenCameras(1000 * MS)
    for t in (2000, 3100):
        cameras.image("agentview", t * MS, picture)
    for t in range(0, 2001, 50):  # a second topic, delivered after the first
        cameras.position(t * MS, np.array([t / 1000, 0, 0]))
    assert not cameras.reasons()
    cameras.position(2050 * MS, np.array([2.05, 0, 0]))
    assert cameras.reasons()


# Streams of a real robot, each of its own rate

PERIOD = 50 * MS


def interpolating(*names: str, tolerance: int = 20 * MS) -> InterpolatingAssembler:
    """camera..., pose, turn, gripper: by their names."""
    return InterpolatingAssembler(
        names, PERIOD, tolerance, [n for n in names if n.startswith("camera")], [n for n in names if n == "turn"]
    )


def fill(assembler: InterpolatingAssembler, name: str, stamps: list[int]) -> None:
    """Values that are their stamps [ms]."""
    for stamp in stamps:
        assembler.put(stamp * MS, {name: value(stamp)})


@pytest.mark.parametrize("late", [(0, 1), (40, 60), (200, 450)])
def test_values_at_the_pictures_time_are_those_of_numpy_and_scipy(late):
    """Poses at 1000 Hz in bursts, a gripper at 15 Hz and two cameras at 30 Hz, whose pictures come late."""
    rng = np.random.default_rng(1)
    end = 3_000
    turns = Rotation.from_rotvec(np.cumsum(rng.normal(scale=0.1, size=(end + 1, 3)), axis=0))
    quaternions = turns.as_quat() * rng.choice([-1, 1], (end + 1, 1))  # whichever of the two a driver likes
    events = []
    for stamp in range(end):
        events.append((stamp // 7 * 7 + 7 + 2, "pose", stamp))  # seven at once
    grippers = np.cumsum(rng.uniform(60, 74, 48)).astype(int)
    events += [(stamp + 5, "gripper", stamp) for stamp in grippers.tolist()]
    for name, phase in (("camera", 0.0), ("camera2", 11.0)):
        stamps = (phase + 100 / 3 * np.arange(85) + rng.uniform(-2, 2, 85) + 20).astype(int)
        heard = np.maximum.accumulate(stamps + rng.uniform(*late, 85))  # a publisher's messages come in their order
        events += [(when, name, stamp) for when, stamp in zip(heard.tolist(), stamps.tolist(), strict=True)]
    assembler = interpolating("camera", "camera2", "pose", "turn", "gripper")
    arrived: dict[str, list[int]] = {name: [] for name in ("camera", "camera2", "pose", "gripper")}
    frames = []
    for _, name, stamp in sorted(events):
        if not arrived[name] or stamp > arrived[name][-1]:
            arrived[name].append(stamp)
        values = {"turn": quaternions[stamp]} if name == "pose" else {}
        frame = assembler.put(stamp * MS, {name: np.array([stamp, stamp % 2.0]), **values})
        if frame is None:
            continue
        frames.append(frame)
        t = frame.stamp_ns // MS
        assert frame.values["camera"][0] == t and arrived["pose"][-1] >= t, "nothing is extrapolated"
        near = min(arrived["camera2"], key=lambda other: abs(other - t))
        assert frame.values["camera2"][0] == near and abs(near - t) <= 20
        np.testing.assert_allclose(frame.values["pose"], [t, t % 2.0], rtol=0, atol=1e-9)
        assert (Rotation.from_quat(frame.values["turn"]) * turns[t].inv()).magnitude() < 1e-7
        known = arrived["gripper"]
        if known[-1] >= t:
            expected = [np.interp(t, known, column) for column in (known, [k % 2.0 for k in known])]
            np.testing.assert_allclose(frame.values["gripper"], expected, rtol=0, atol=1e-9)
        else:
            assert frame.values["gripper"][0] == known[-1] and t - known[-1] < 67 + 25
    stamps = [frame.stamp_ns for frame in frames]
    assert stamps == sorted(set(stamps))
    # Those of the first 0.3 s are from before the gripper's period was known.
    assert len(frames) > 0.85 * 85, "nearly every picture makes a frame"


def test_between_two_orientations_the_shortest_turn_is_followed_at_an_even_pace():
    rng = np.random.default_rng(2)
    for _ in range(50):
        a, b = Rotation.random(2, random_state=int(rng.integers(1 << 30)))
        part = float(rng.uniform())
        sign = rng.choice([-1.0, 1.0])
        mixed = turned(a.as_quat(), sign * b.as_quat(), part)
        expected = Slerp([0, 1], Rotation.concatenate([a, b]))(part)
        assert (Rotation.from_quat(mixed) * expected.inv()).magnitude() < 1e-7
        assert mixed @ a.as_quat() > 0, "the numbers go on from the first ones"
    same = Rotation.random(random_state=3).as_quat()
    np.testing.assert_allclose(turned(same, -same, 0.3), same, atol=1e-15)


@pytest.mark.parametrize(
    ("period", "after", "expected"),
    [
        (67, 10, "held"),  # its next is due in 57 ms
        (67, 41, "held"),
        (67, 43, "waits"),  # due in 24 ms
        (67, 66, "waits"),
        (67, 100, "held"),  # one was lost
        (67, 167, "held"),  # two were
        (67, 168, "waits"),
        (10, 5, "waits"),
        (25, 20, "waits"),
        (25, 60, "waits"),
        (200, 480, "held"),
        (240, 510, "waits"),  # longer than anything is held
    ],
)
def test_a_value_that_has_not_come_yet_is_waited_for_if_it_is_near_else_the_last_one_is_held(period, after, expected):
    assembler = interpolating("camera", "gripper")
    fill(assembler, "gripper", [k * period for k in range(5)])
    last = 4 * period
    frame = assembler.put((last + after) * MS, {"camera": value(-1)})
    if expected == "held":
        assert frame is not None and frame.values["gripper"] == last
        return
    assert frame is None
    if after < 67:
        frame = assembler.put((last + after + 1) * MS, {"gripper": value(last + after + 1)})
        assert frame is not None and frame.values["gripper"] == pytest.approx(last + after)


def test_of_a_stream_whose_rate_is_not_known_nothing_is_held():
    assembler = interpolating("camera", "gripper")
    fill(assembler, "gripper", [0, 67, 134])
    assert assembler.put(140 * MS, {"camera": value(-1)}) is None
    frame = assembler.put(201 * MS, {"gripper": value(201)})
    assert frame is not None and frame.values["gripper"] == pytest.approx(140)


@pytest.mark.parametrize(
    ("period", "hole", "bridged"),
    [(1, 99, True), (1, 101, False), (67, 201, True), (67, 268, False), (200, 520, False)],
)
def test_over_a_hole_that_lost_values_do_not_explain_there_is_no_frame(period, hole, bridged):
    assembler = interpolating("camera", "pose")
    fill(assembler, "pose", [k * period for k in range(10)])
    last = 9 * period
    fill(assembler, "pose", [last + hole])
    frame = assembler.put((last + hole // 2) * MS, {"camera": value(-1)})
    assert (frame is not None) == bridged
    if frame is not None:
        assert frame.values["pose"] == pytest.approx(last + hole // 2)
    fill(assembler, "pose", [last + hole + period])
    frame = assembler.put((last + hole + period // 2) * MS, {"camera": value(-1)})
    assert frame is not None, "and after it there is one again"


def test_a_value_that_was_overtaken_is_left_out_and_a_clock_that_went_back_begins_anew():
    assembler = interpolating("camera", "pose")
    fill(assembler, "pose", [*range(0, 1000, 10)])
    fill(assembler, "pose", [985, 990, 990 - LATE_NS // MS])
    assembler.put(990 * MS, {"pose": value(-7)})
    frame = assembler.put(985 * MS, {"camera": value(-1)})
    assert frame is not None and frame.values["pose"] == 985
    assert assembler.put(985 * MS, {"camera": value(-1)}) is None, "once"
    assert assembler.put(970 * MS, {"camera": value(-1)}) is None, "overtaken"
    # The camera's driver is started again, and its clock is behind: no pose is that old.
    assert assembler.put(100 * MS, {"camera": value(-2)}) is not None, "there was one then"
    assert assembler.put(-500 * MS, {"camera": value(-2)}) is None
    # So is the arm's.
    fill(assembler, "pose", [-520, -510])
    frame = assembler.put(-500 * MS, {"pose": value(-500)})
    assert frame is not None and frame.stamp_ns == -500 * MS


def test_frames_are_a_quarter_of_a_control_step_apart_at_least():
    assembler = interpolating("camera")
    stamps = [t for t in range(0, 100, 5) if assembler.put(t * MS, {"camera": value(t)}) is not None]
    assert stamps == [0, 15, 30, 45, 60, 75, 90]


def test_without_a_camera_the_hand_is_the_reference_and_waits_for_nobody():
    assembler = interpolating("pose", "turn", "gripper")
    frames = []
    for t in range(1000):
        if t % 67 == 3:
            assembler.put(t * MS, {"gripper": value(t)})
        frame = assembler.put(
            t * MS, {"pose": value(t), "turn": np.array([0.0, 0.0, np.sin(t / 500), np.cos(t / 500)])}
        )
        if frame is not None:
            assert frame.stamp_ns == t * MS and frame.values["pose"] == t
            assert frame.values["turn"][2] == np.sin(t / 500), "of the same message"
            assert 0 <= t - frame.values["gripper"] < 67
            frames.append(t)
    late = [t for t in frames if t > 300]
    assert np.diff(late).max() <= 13 and len(late) > 50


def test_what_a_frame_lacks_is_named():
    assembler = interpolating("camera", "camera2", "pose")
    assert assembler.missing() is None
    assembler.put(0, {"camera2": value(0)})
    fill(assembler, "pose", [*range(0, 100, 10)])
    assembler.put(50 * MS, {"camera": value(0)})
    assert assembler.missing() == ("camera2", 50 * MS)
    assert assembler.put(60 * MS, {"camera2": value(60)}) is not None and assembler.missing() is None
    assembler.put(120 * MS, {"camera2": value(0)})
    assert assembler.put(120 * MS, {"camera": value(0)}) is None
    assert assembler.missing() == ("pose", 30 * MS)
    assembler.clear()
    assert assembler.missing() is None
    fill(assembler, "pose", [130])
    assert assembler.put(120 * MS, {"camera": value(0)}) is None, "what was before is forgotten"


def test_an_interpolating_assembler_that_cannot_work_is_refused():
    for names, period, tolerance in (((), 1, 0), (("a", "a"), 1, 0), (("a",), 0, 0), (("a",), 1, -1)):
        with pytest.raises(ValueError, match="expected"):
            InterpolatingAssembler(names, period, tolerance)
    with pytest.raises(ValueError, match="no part of the frame"):
        interpolating("pose").put(0, {"b": value(0)})


def test_a_rate_is_not_forgotten_for_a_stamp_that_was_overtaken():
    strict, lenient = FrameRate("x", PERIOD, 0.6), FrameRate("x", PERIOD, 0.6, late_ns=LATE_NS)
    for rate in (strict, lenient):
        for stamp in (0, 50, 100, 150, 140):
            rate.add(stamp * MS)
    assert strict.rate is None and lenient.rate == pytest.approx(20.0)
    lenient.add(-LATE_NS)
    assert lenient.rate is None


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        ([0], [0, 0]),
        ([0, 50], [0, 50]),
        ([0, 33], [0, 33]),  # the beginning: the oldest stands in
        ([0, 33, 67, 100], [33, 100]),  # at 30 Hz, of two that are as near, the older one ...
        ([0, 32, 68, 100], [32, 100]),
        ([0, 36, 64, 100], [36, 100]),  # ... and jitter does not choose
        ([0, 20, 48, 70, 100], [48, 100]),
        ([0, 16, 33, 50, 67, 83, 100], [50, 100]),
        ([0, 100], [0, 100]),  # one that is late is no reason to see it twice
        ([0, 151], [151, 151]),  # a hole
        ([500, 0, 40], [0, 40]),  # time went back
    ],
)
def test_a_chunks_frames_are_those_nearest_to_a_control_step_apart(stamps, expected):
    window: SpacedWindow[int] = SpacedWindow(2, PERIOD, 3 * PERIOD)
    for stamp in stamps:
        assert window.push(stamp * MS, stamp)
    assert window.items() == expected and window.newest_stamp_ns == stamps[-1] * MS
    assert not window.push(stamps[-1] * MS, 7) and window.items() == expected


def test_a_longer_window_goes_back_a_step_at_a_time_and_keeps_no_more_than_it_needs():
    window: SpacedWindow[int] = SpacedWindow(4, PERIOD, 3 * PERIOD)
    with pytest.raises(ValueError, match="empty"):
        window.items()
    for stamp in range(0, 10_000, 10):
        window.push(stamp * MS, stamp)
    assert window.items() == [9840, 9890, 9940, 9990] and len(window) <= 36
    window.clear()
    assert len(window) == 0 and window.newest_stamp_ns is None
    for n, period, gap in ((0, 1, 1), (1, 0, 1), (1, 2, 1)):
        with pytest.raises(ValueError, match="expected"):
            SpacedWindow(n, period, gap)
