"""Videos: geometry with known answers, and files that are whole or not there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from diffusion_ros.atomic_file import NamelessFile
from diffusion_ros.control.action_chunk import chunk_positions
from diffusion_ros.simulators import video

MATRIX = np.array([[200.0, 0.0, 191.5], [0.0, 200.0, 191.5], [0.0, 0.0, 1.0]])
STRAIGHT = np.array([0.0, 0.0, 0.0, 1.0])


PICTURE = np.zeros((64, 96, 3), np.uint8)


def decode(path: Path, height: int, width: int) -> np.ndarray:
    """(N, H, W, 3) of a video file."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24"]
    raw = subprocess.run([*command, "-"], capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def record(path: Path, *pictures: np.ndarray, error: BaseException | None = None) -> None:
    """Writes a video, or begins to and fails."""
    with video.Mp4Writer(path, 20.0) as writer:
        for picture in pictures:
            writer.write(picture)
        if error is not None:
            raise error


def test_chunk_positions_add_up() -> None:
    rows = np.zeros((3, 7))
    rows[:, 0] = [0.01, 0.02, 0.03]
    rows[:, 3:] = 9.0  # rotation and gripper do not move the hand
    positions = chunk_positions(np.array([1.0, 2.0, 3.0]), rows)
    np.testing.assert_allclose(positions, [[1.0, 2.0, 3.0], [1.01, 2.0, 3.0], [1.03, 2.0, 3.0], [1.06, 2.0, 3.0]])
    assert len(chunk_positions(np.zeros(3), np.zeros((0, 7)))) == 1


def test_projection_of_a_camera_that_looks_along_z() -> None:
    points = np.array([[0.0, 0.0, 2.0], [1.0, 0.0, 2.0], [0.0, 0.5, 2.0], [0.0, 0.0, -2.0]])
    pixels = video.project(points, MATRIX, np.zeros(3), STRAIGHT)
    np.testing.assert_allclose(pixels[:3], [[191.5, 191.5], [291.5, 191.5], [191.5, 241.5]])
    assert np.isnan(pixels[3]).all()  # behind the camera


def test_projection_of_a_camera_that_was_turned_and_moved() -> None:
    """The same picture when world and camera are moved alike; the inverse rotation would miss."""
    turn = Rotation.from_euler("xyz", [0.3, -0.8, 1.1])
    shift = np.array([0.4, -0.2, 1.3])
    points = np.array([[0.1, 0.2, 2.0], [-0.3, 0.1, 1.5]])
    straight = video.project(points, MATRIX, np.zeros(3), STRAIGHT)
    moved = video.project(turn.apply(points) + shift, MATRIX, shift, turn.as_quat())
    np.testing.assert_allclose(moved, straight, atol=1e-9)
    assert np.abs(video.project(turn.apply(points) + shift, MATRIX, shift, turn.inv().as_quat()) - straight).max() > 10


def test_chunk_is_drawn_where_it_leads() -> None:
    view = np.zeros((100, 200, 3), np.uint8)
    drawn = video.draw_chunk(view, np.array([[20.0, 50.0], [100.0, 50.0], [180.0, 50.0]]))
    assert not view.any()
    rows, columns = np.nonzero(drawn.any(axis=2))
    assert rows.min() >= 44 and rows.max() <= 56
    assert columns.min() <= 20 and columns.max() >= 179
    # Yellow at the beginning, pink at the end: green goes down.
    assert drawn[50, 60, 1] > 200 > 100 > drawn[50, 150, 1]
    # What cannot be seen is left out, and does not fail.
    far = np.array([[np.nan, np.nan], [1e12, 0.0], [20.0, 50.0]])
    assert not video.draw_chunk(view, far).any()
    assert not video.draw_chunk(view, np.zeros((0, 2))).any()


def test_composition_keeps_every_pixel_of_the_cameras() -> None:
    cameras = [np.full((84, 84, 3), 50 * (i + 1), np.uint8) for i in range(2)]
    view = np.full((video.VIEW_SIZE, video.VIEW_SIZE, 3), 200, np.uint8)
    plain = video.compose(cameras, view, [])
    assert plain.shape == (432, 576, 3)
    assert (plain[:192, :192] == 50).all() and (plain[192:384, :192] == 100).all()
    assert (plain[:384, 192:] == 200).all()
    written = video.compose(cameras, view, [("can  episode 0", video.WHITE), ("acting", video.GREEN)])
    assert (written[:384] == plain[:384]).all() and (written[384:] != plain[384:]).any()
    # A state policy has no cameras.
    assert video.compose([], view, []).shape == (432, 384, 3)


def test_mp4_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "episode.mp4"
    levels = [20, 90, 160, 230]
    with video.Mp4Writer(path, 20.0) as writer:
        for level in levels:
            writer.write(np.full((64, 96, 3), level, np.uint8))
        assert not path.exists()  # not before it is whole
    frames = decode(path, 64, 96)
    assert frames.shape == (4, 64, 96, 3)
    np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), levels, atol=4)
    assert [file.name for file in tmp_path.iterdir()] == ["episode.mp4"]
    streams = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path)], capture_output=True, text=True, check=False
    ).stderr
    assert "h264" in streams and "yuv420p" in streams and "20 fps" in streams


def test_failure_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "episode.mp4"
    with pytest.raises(KeyboardInterrupt):
        record(path, PICTURE, error=KeyboardInterrupt())
    with pytest.raises(ValueError, match="the video's is"):
        record(path, PICTURE, PICTURE[:32])
    assert list(tmp_path.iterdir()) == []
    # An earlier video stays as it was.
    path.write_bytes(b"earlier")
    with pytest.raises(ZeroDivisionError):
        record(path, PICTURE, error=ZeroDivisionError())
    assert path.read_bytes() == b"earlier"


def test_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "episode.mp4"
    monkeypatch.setattr(NamelessFile, "writable", "/dev/full")
    noise = np.random.default_rng(0).integers(0, 255, (50, 64, 96, 3), dtype=np.uint8)
    with pytest.raises(OSError, match=r"episode\.mp4: ffmpeg") as failure:
        record(path, *noise)
    assert "\n" not in str(failure.value)
    assert list(tmp_path.iterdir()) == []


def test_no_ffmpeg_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing() -> str:
        raise RuntimeError("a paragraph")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", nothing)
    with pytest.raises(OSError, match="no ffmpeg: install"):
        record(tmp_path / "episode.mp4", PICTURE)


def test_nothing_written_is_no_file(tmp_path: Path) -> None:
    record(tmp_path / "episode.mp4")
    assert list(tmp_path.iterdir()) == []
