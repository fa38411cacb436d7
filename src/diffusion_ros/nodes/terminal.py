"""The terminal that a node was started in: keys as they are pressed, lines, and pictures of coloured blocks."""

from __future__ import annotations

import errno
import os
import select
import subprocess
import termios

import numpy as np
from numpy.typing import NDArray

_ROWS_BELOW = 4
"""Of the terminal, under a picture: for the keys and the progress."""


class Terminal:
    """The terminal of a file descriptor, without echo and line by line, until `close`. Ctrl-C stays what it is.

    What it was before is set again by a process of its own as well, for a node that is killed cannot.
    """

    def __init__(self, descriptor: int = 0) -> None:
        """Raises ValueError where it is no terminal."""
        try:
            self._before = termios.tcgetattr(descriptor)
            name = os.ttyname(descriptor)
            saved = subprocess.run(
                ["stty", "-g"], stdin=descriptor, capture_output=True, text=True, check=True
            ).stdout.strip()
        except (OSError, termios.error, subprocess.CalledProcessError):
            raise ValueError("the standard input is no terminal") from None
        self._descriptor = descriptor
        # Opened anew: what does not block here blocks for whoever else has the terminal, else.
        self._screen = os.open(name, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
        self._unwritten = b""
        self._hung_up = select.poll()
        self._hung_up.register(descriptor, 0)
        # It reads until we are gone, in whatever way.
        self._keeper = subprocess.Popen(
            ["sh", "-c", 'cat > /dev/null; stty "$0" < "$1"', saved, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        ours = termios.tcgetattr(descriptor)
        ours[3] &= ~(termios.ICANON | termios.ECHO)
        ours[6][termios.VMIN] = ours[6][termios.VTIME] = 0  # reading does not wait
        termios.tcsetattr(descriptor, termios.TCSANOW, ours)

    def read(self) -> str:
        """What was typed since the last time. Raises OSError where the terminal is gone."""
        self._write("")
        if self._hung_up.poll(0):
            # Reading says nothing of it: it gives '', as where nothing was typed.
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return os.read(self._descriptor, 4096).decode(errors="ignore")

    def show(self, *lines: str) -> None:
        """Lines that stay."""
        self._write("".join(f"\r\x1b[K{line}\r\n" for line in lines))

    def draw(self, picture: NDArray[np.uint8], below: str) -> None:
        """A picture (H, W, 3) rgb at the top, as large as fits, and a line under it; none while the terminal still has
        to take the last one. Raises OSError where the terminal is gone."""
        self._write("")
        if self._unwritten:
            return
        columns, rows = os.get_terminal_size(self._screen)
        self._write(blocks(picture, columns, rows - _ROWS_BELOW) + f"\x1b[K{below[: columns - 1]}\r\n")

    def _write(self, text: str) -> None:
        """As much as the terminal takes now: whoever stops it stops nothing else."""
        self._unwritten += text.encode()
        try:
            while self._unwritten:
                self._unwritten = self._unwritten[os.write(self._screen, self._unwritten) :]
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Sets all as it was before."""
        try:
            termios.tcsetattr(self._descriptor, termios.TCSANOW, self._before)
        except termios.error:
            pass  # the terminal is gone
        self._keeper.communicate()
        os.close(self._screen)


def blocks(picture: NDArray[np.uint8], columns: int, rows: int) -> str:
    """A picture (H, W, 3) as half blocks, two pixels above each other in one character, from the screen's top left."""
    height, width = picture.shape[:2]
    scale = min(columns / width, 2.0 * rows / height, 1.0)
    wide, high = int(width * scale), int(height * scale) // 2 * 2
    if wide < 1 or high < 2:
        return "\x1b[H"
    # In steps of 8: the fewer colours, the less there is to be sent.
    small = picture[np.arange(high) * height // high][:, np.arange(wide) * width // wide] & 0xF8
    text = ["\x1b[H"]
    for upper, lower in zip(small[::2].tolist(), small[1::2].tolist(), strict=True):
        last = None
        for a, b in zip(upper, lower, strict=True):
            if (a, b) != last:
                text.append(f"\x1b[38;2;{a[0]};{a[1]};{a[2]};48;2;{b[0]};{b[1]};{b[2]}m")
            text.append("\u2580")
            last = a, b
        text.append("\x1b[0m\x1b[K\r\n")
    return "".join(text)
