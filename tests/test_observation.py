"""Frames from parts, windows from frames, frozen cameras."""

from __future__ import annotations

import numpy as np
import pytest

from diffusion_ros.control.frozen_cameras import FrozenCameras
from diffusion_ros.control.observation import FrameAssembler, ObservationWindow

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
