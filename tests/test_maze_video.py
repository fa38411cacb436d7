"""The video of a maze: everything where it is, and a file that plays."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from diffusion_ros.simulators.maze import load_map
from diffusion_ros.simulators.maze_video import FPS, MazePicture, Moment, Shown, pictures
from diffusion_ros.simulators.tasks import maze_task
from diffusion_ros.simulators.video import Mp4Writer

MAP = load_map(maze_task("umaze"))


def test_things_are_drawn_where_they_are() -> None:
    picture = MazePicture(MAP)
    red = (255, 0, 0)
    drawn = picture.draw(np.array([1.0, 1.0]), "", balls=[(np.array([-1.0, -1.0]), 0.1, red)])
    assert drawn.shape[0] % 16 == drawn.shape[1] % 16 == 0
    rows, columns = np.nonzero((drawn == red).all(axis=2))
    x = (columns.mean() + 0.5) / picture.scale - 2.5
    y = 2.5 - (rows.mean() + 0.5) / picture.scale
    np.testing.assert_allclose([x, y], [-1.0, -1.0], atol=0.01)
    wall = drawn[picture.scale // 2, picture.scale // 2].tolist()
    assert drawn[round(2.5 * picture.scale), round(1.5 * picture.scale)].tolist() == wall  # the middle bar of the U


def test_a_video_shows_the_denoising_and_the_drive(tmp_path: Path) -> None:
    lines = [np.array([[-1.0, -1.0, 0.0], [1.0, -1.0, 0.0]])]
    moments = [Moment(np.array([-1 + 0.02 * i, -1.0]), np.array([[0.0, -1.0, 0.1, 0.1]]), lines, i) for i in range(41)]
    path = tmp_path / "a.mp4"
    with Mp4Writer(path, FPS) as writer:
        for picture in pictures(MAP, np.array([1.0, -1.0]), Shown(denoising=lines * 2), moments, "umaze"):
            writer.write(picture)
    video, frames = cv2.VideoCapture(str(path)), []
    while (read := video.read())[0]:
        frames.append(read[1])
    video.release()
    assert len(frames) == 2 * 12 + 11
    scale = MazePicture(MAP).scale

    def at(frame: np.ndarray, x: float, y: float) -> np.ndarray:
        """The colour (3) rgb of a place in metres."""
        row, column = round((2.5 - y) * scale), round((x + 2.5) * scale)
        return np.median(frame[row - 1 : row + 2, column - 1 : column + 2].reshape(-1, 3), axis=0)[::-1]

    blue, orange, green, red, grey = (40, 80, 220), (235, 140, 40), (25, 170, 60), (200, 40, 40), (245, 245, 240)
    for frame, places in {
        0: {(-1.0, -1.0): blue, (0.5, -1.0): orange, (0.0, -1.05): grey},
        24: {(-1.0, -1.0): blue, (0.5, -1.0): green, (0.0, -1.05): red},
        34: {(-1.0, -1.05): grey, (-0.2, -1.0): blue, (0.5, -1.0): green, (0.0, -1.05): red},
    }.items():
        for place, colour in places.items():
            # A line of two pixels loses some of its colour in H.264, which keeps it for blocks of four.
            np.testing.assert_allclose(at(frames[frame], *place), colour, atol=60, err_msg=f"frame {frame} at {place}")
    assert list(tmp_path.iterdir()) == [path]
