"""What a command shows while it works: a line that is overwritten on a terminal, and lines that stay."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

_PROGRESS_SECONDS = 0.2
_PLAIN_PROGRESS_SECONDS = 10.0
"""Between lines where they cannot be overwritten (a file, a pipe)."""
_GAP = "  "
_CUT = "..."


def fitted(parts: Sequence[str], width: int) -> str:
    """As many of `parts`, the most important first, as fit into `width` columns; the first is cut where it alone is too
    long."""
    shown = ""
    for i, part in enumerate(part for part in parts if part):
        longer = part if i == 0 else f"{shown}{_GAP}{part}"
        if len(longer) > width:
            return shown if i else f"{part[: max(0, width - len(_CUT))]}{_CUT}"[:width]
        shown = longer
    return shown


class Screen:
    """On stderr: stdout is for the outcome."""

    def __init__(self) -> None:
        self._overwrites = sys.stderr.isatty()
        self._next = 0.0

    def progress(self, parts: Sequence[str]) -> None:
        """What is so now, the most important first; on a terminal what does not fit its width is dropped."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (_PROGRESS_SECONDS if self._overwrites else _PLAIN_PROGRESS_SECONDS)
        if self._overwrites:
            width = os.get_terminal_size(sys.stderr.fileno()).columns or 80  # some terminals do not tell
            print(f"\r\x1b[K{fitted(parts, width - 1)}", end="", file=sys.stderr, flush=True)
        else:
            print(_GAP.join(filter(None, parts)), file=sys.stderr, flush=True)

    def show(self, line: str) -> None:
        """A line that stays."""
        print(f"\r\x1b[K{line}" if self._overwrites else line, file=sys.stderr, flush=True)

    def end(self, message: str) -> None:
        """Removes the progress; a last line, unless it is ''."""
        if message:
            self.show(" ".join(message.split()))
        elif self._overwrites:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
