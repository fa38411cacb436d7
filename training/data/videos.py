"""Pictures as H.264, many episodes in one file, and back, one picture at a time. imageio-ffmpeg's wheel carries ffmpeg.

Picture i of a file is at i / rate seconds.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

LOSSLESS = 0
"""The constant rate factor without any error: red, green and blue are coded as they are."""
_KEY_FRAMES = "2"
"""Every second picture can be read without another: who trains reads them in any order."""


class VideoWriter:
    """Writes pictures of one size. Raises OSError, in one line, where ffmpeg fails (a full disk)."""

    def __init__(self, path: Path, height: int, width: int, rate: float, crf: int) -> None:
        """crf: x264's constant rate factor, 1 (best) to 51; LOSSLESS."""
        self.path = path
        self.frames = 0
        self._shape = (height, width, 3)
        colours = ["libx264rgb", "rgb24"] if crf == LOSSLESS else ["libx264", "yuv420p"]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the writer)
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{rate:g}", "-i", "-"]
        # Without pictures that refer to later ones, the first one is at 0.
        codec = ["-c:v", colours[0], "-pix_fmt", colours[1], "-crf", str(crf), "-g", _KEY_FRAMES, "-bf", "0"]
        self._process = _ffmpeg(
            [*source, *codec, "-movflags", "+faststart", "-f", "mp4", str(path)], subprocess.PIPE, None, self._errors
        )

    @property
    def size(self) -> int:
        """Bytes on the disk so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def write(self, picture: Picture) -> None:
        """Appends `picture` (H, W, 3) rgb."""
        assert picture.shape == self._shape and self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(picture).data)
        except BrokenPipeError:
            self.close()
        self.frames += 1

    def close(self) -> None:
        """Ends the file."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        status = self._process.wait()
        with self._errors:
            if status:
                raise OSError(f"{self.path.name}: {_last_line(self._errors) or f'ffmpeg ended with status {status}'}")

    def abort(self) -> None:
        """Ends ffmpeg at once."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        self._errors.close()


def read_pictures(path: Path, first: int, count: int, rate: float, shape: tuple[int, int]) -> Iterator[Picture]:
    """`count` pictures of a file from picture `first` on, (H, W, 3) rgb each.

    shape: height and width that are expected. ValueError, in one line, for a file that is damaged, is missing, ends
    before, or has other pictures.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    # From between two pictures on, so that rounding does not lose one.
    start = ["-ss", f"{(first - 0.5) / rate:.9f}"] if first else []
    # Each picture with its size: of raw ones two might be taken for three.
    target = ["-frames:v", str(count), "-fps_mode", "passthrough", "-c:v", "ppm", "-f", "image2pipe", "-"]
    with tempfile.TemporaryFile() as errors:
        process = _ffmpeg([*start, "-i", str(path), "-an", *target], None, subprocess.PIPE, errors)
        assert process.stdout is not None
        given = 0
        try:
            while (found := _read_ppm(process.stdout)) is not None:
                if found.shape[:2] != shape:
                    size = " x ".join(map(str, found.shape[1::-1]))
                    raise ValueError(f"{path}: pictures of {size}, {shape[1]} x {shape[0]} expected")
                given += 1
                yield found
            process.wait()
            if given != count or process.returncode:
                line = _last_line(errors)
                reason = f" ({line})" if line else ""
                raise ValueError(f"{path}: {given} pictures from picture {first} on, {count} expected{reason}")
        finally:
            process.kill()
            process.stdout.close()
            process.wait()


def _ffmpeg(arguments: list[str], source: int | None, target: int | None, errors: IO[bytes]) -> subprocess.Popen[bytes]:
    import imageio_ffmpeg

    try:
        executable = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:
        raise OSError("no ffmpeg: install the imageio-ffmpeg wheel or the distribution's ffmpeg") from None
    return subprocess.Popen(
        [executable, "-y", "-nostdin", "-loglevel", "error", *arguments],
        stdin=subprocess.DEVNULL if source is None else source,
        stdout=subprocess.DEVNULL if target is None else target,
        stderr=errors,
        start_new_session=True,  # Ctrl-C is for us to handle
    )


def _read_ppm(stream: IO[bytes]) -> Picture | None:
    """The next picture; None at the end, also in the middle of one."""
    header = [stream.readline() for _ in range(3)]
    if header[0] != b"P6\n" or header[2] != b"255\n":
        return None
    width, height = map(int, header[1].split())
    data = stream.read(width * height * 3)
    if len(data) < width * height * 3:
        return None
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return re.sub(r"\[[^\]]* @ 0x[0-9a-f]+\] ", "", lines[-1]).strip() if lines else ""  # parts of ffmpeg, by address
