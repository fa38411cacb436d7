"""A video of an episode: the policy's cameras, a larger view with the predicted chunk drawn in, and what happened.

No ROS and no simulator here: pictures, points and text in, an H.264 file out. imageio-ffmpeg's wheel carries ffmpeg.
"""

from __future__ import annotations

import subprocess
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from diffusion_ros.atomic_file import NamelessFile, named_errors
from diffusion_ros.installation import explain

Array = NDArray[np.float64]
Image = NDArray[np.uint8]
Colour = tuple[int, int, int]

VIEW_SIZE = 384
"""Pixels: height and width of the larger view; the policy's cameras share a column of that height."""
TEXT_HEIGHT = 48
WHITE = (235, 235, 235)
GREEN = (90, 220, 110)
AMBER = (255, 180, 60)
RED = (255, 95, 80)
_BACKGROUND = 24
_CHUNK_START = np.array([255.0, 230.0, 60.0])
_CHUNK_END = np.array([255.0, 60.0, 160.0])


def project(points: Array, matrix: Array, position: Array, quaternion: Array) -> Array:
    """Pixels (N, 2), x to the right and y down, of `points` (N, 3) in the world; NaN for what is not ahead.

    `matrix` is K (3, 3); `position` (3) and `quaternion` (4) xyzw are those of the camera's optical frame in the world.
    """
    in_camera = Rotation.from_quat(quaternion).inv().apply(np.asarray(points, dtype=np.float64) - position)
    depth = in_camera[:, 2:]
    ahead = np.where(depth > 1e-6, depth, np.nan)
    return np.asarray((in_camera / ahead) @ matrix.T)[:, :2]


def draw_chunk(view: Image, pixels: Array) -> Image:
    """`view` (H, W, 3) with a line through `pixels` (N, 2), yellow (now) to pink (the chunk's end); NaN is skipped."""
    drawn = view.copy()
    if not len(pixels):
        return drawn
    # Far outside the picture a coordinate would not fit the integers that the drawing routines take.
    seen = np.isfinite(pixels).all(axis=1) & (np.abs(np.nan_to_num(pixels)) < 4 * max(view.shape)).all(axis=1)
    points = [(int(x), int(y)) for x, y in np.rint(np.where(seen[:, None], pixels, 0.0))]
    for i in range(1, len(points)):
        if not (seen[i - 1] and seen[i]):
            continue
        weight = (i - 1) / max(1, len(points) - 2)
        colour = _CHUNK_START + weight * (_CHUNK_END - _CHUNK_START)
        cv2.line(drawn, points[i - 1], points[i], colour.tolist(), 2, cv2.LINE_AA)
    if seen[0]:
        cv2.circle(drawn, points[0], 4, _CHUNK_START.tolist(), -1, cv2.LINE_AA)
    return drawn


def draw_chunk_legend(view: Image) -> Image:
    """`view` (H, W, 3) with what the line of `draw_chunk` is, at its top."""
    drawn = view.copy()
    drawn[:22] = (drawn[:22] * 0.4).astype(np.uint8)
    for x in range(60):
        colour = _CHUNK_START + x / 59 * (_CHUNK_END - _CHUNK_START)
        cv2.line(drawn, (8 + x, 8), (8 + x, 13), colour.tolist(), 1)
    text = "predicted motion, from now to its end"
    cv2.putText(drawn, text, (76, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, WHITE, 1, cv2.LINE_AA)
    return drawn


def compose(cameras: Sequence[Image], view: Image, lines: Sequence[tuple[str, tuple[int, int, int]]]) -> Image:
    """One picture: `cameras` (each square) as a column, `view` (VIEW_SIZE, VIEW_SIZE, 3) beside it, text lines below.

    `lines` are texts with their colours, two at most. Width and height are multiples of 16, as video encoders like.
    """
    cell = VIEW_SIZE // max(1, len(cameras))
    column = np.full((VIEW_SIZE, cell if cameras else 0, 3), _BACKGROUND, dtype=np.uint8)
    for i, image in enumerate(cameras):
        column[i * cell : (i + 1) * cell] = cv2.resize(image, (cell, cell), interpolation=cv2.INTER_NEAREST)
    picture = np.concatenate([column, view], axis=1)
    width = -(-picture.shape[1] // 16) * 16
    frame = np.full((VIEW_SIZE + TEXT_HEIGHT, width, 3), _BACKGROUND, dtype=np.uint8)
    frame[:VIEW_SIZE, : picture.shape[1]] = picture
    for i, (text, colour) in enumerate(lines):
        origin = (8, VIEW_SIZE + 18 + 20 * i)
        cv2.putText(frame, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)
    return frame


def draw_legend(picture: Image, entries: Sequence[tuple[str, Colour]], origin: tuple[int, int], colour: Colour) -> None:
    """Writes what colours mean into `picture`, side by side from `origin` (column, row of the base line) on."""
    x, y = origin
    for text, shown in entries:
        cv2.rectangle(picture, (x, y - 8), (x + 14, y), shown, -1)
        cv2.putText(picture, text, (x + 20, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
        x += 20 + cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.42, 1)[0][0] + 16


def _ending(picture: Image, success: bool) -> Image:
    """The last picture (H, W, 3) of a video, with SUCCESS or FAILED across it."""
    said, colour = ("SUCCESS", GREEN) if success else ("FAILED", RED)
    drawn = (picture * 0.45).astype(np.uint8)
    height, width = picture.shape[:2]
    scale = width / 260
    (across, up), _ = cv2.getTextSize(said, cv2.FONT_HERSHEY_DUPLEX, scale, 2)
    origin = ((width - across) // 2, (height + up) // 2)
    cv2.putText(drawn, said, origin, cv2.FONT_HERSHEY_DUPLEX, scale, colour, 2, cv2.LINE_AA)
    return drawn


class Mp4Writer:
    """Writes pictures of one size as H.264; the file has its name only once it is whole.

    A context manager: leaving it by an exception leaves nothing behind, and neither does kill -9: until then the file
    has no name at all. Raises OSError, in one line, where there is no ffmpeg or where it fails (a full disk).
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path = path
        self.frames = 0
        self._fps = fps
        self._file: NamelessFile | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._shape: tuple[int, ...] = ()

    def write(self, picture: Image) -> None:
        """Appends `picture` (H, W, 3) rgb; all have the shape of the first, of even height and width."""
        if self._process is None:
            self._shape = picture.shape
            self._process = self._start(picture.shape[1], picture.shape[0])
        if picture.shape != self._shape:
            raise ValueError(f"picture of shape {picture.shape}: the video's is {self._shape}")
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(picture).data)
        except BrokenPipeError:
            raise OSError(f"{self.path}: {self._end()}") from None
        self.frames += 1

    def close(self) -> None:
        """Ends the file and gives it its name."""
        if self._process is None:
            return
        message = self._end()
        if message:
            raise OSError(f"{self.path}: {message}")
        assert self._file is not None
        try:
            with named_errors(self.path):
                self._file.name()
        finally:
            self._file.close()

    def abort(self) -> None:
        """Ends ffmpeg and removes what there is; nothing happens after :meth:`close`."""
        if self._process is not None:
            self._process.kill()
            self._end()
            if self._file is not None:
                self._file.close()

    def __enter__(self) -> Mp4Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _start(self, width: int, height: int) -> subprocess.Popen[bytes]:
        try:
            import imageio_ffmpeg

            executable = imageio_ffmpeg.get_ffmpeg_exe()
        except ModuleNotFoundError as error:
            raise OSError(explain(error)) from None
        except RuntimeError:
            raise OSError("no ffmpeg: install the imageio-ffmpeg wheel or the distribution's ffmpeg") from None
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(self._fps), "-i", "-"]
        codec = ["-c:v", "libx264", "-preset", "veryfast", "-crf", "20", "-pix_fmt", "yuv420p", "-threads", "1"]
        self._file = NamelessFile(self.path)
        target = ["-movflags", "+faststart", "-f", "mp4", self._file.writable]
        return subprocess.Popen(
            [executable, "-y", "-loglevel", "error", *source, *codec, *target],
            pass_fds=(self._file.descriptor,),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us to handle; ffmpeg ends when its input does
        )

    def _end(self) -> str:
        """Waits for ffmpeg; removes the part and says why if it failed."""
        process, self._process = self._process, None
        assert process is not None and process.stdin is not None and process.stderr is not None
        try:
            process.stdin.close()
        except BrokenPipeError:
            pass
        errors = process.stderr.read().decode(errors="replace").strip().splitlines()
        process.stderr.close()
        if process.wait() == 0:
            return ""
        assert self._file is not None
        self._file.close()
        return f"ffmpeg failed: {errors[-1]}" if errors else f"ffmpeg ended with status {process.returncode}"


def write_episode(path: Path, fps: float, pictures: Iterable[Image], success: bool) -> Generator[None, None, None]:
    """Writes an episode's video: a picture each time that it is asked, at the end the last one for a second more, with
    the outcome across it. Raises OSError as Mp4Writer."""
    with Mp4Writer(path, fps) as writer:
        picture = None
        for picture in pictures:
            writer.write(picture)
            yield
        if picture is not None:
            last = _ending(picture, success)
            for _ in range(round(fps)):
                writer.write(last)
                yield
