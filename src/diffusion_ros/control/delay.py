"""How late chunks come, in rows, and what is certain until the next one comes."""

from __future__ import annotations

import math
from collections import deque
from typing import Literal

import numpy as np
from numpy.typing import NDArray

LateStrategy = Literal["rtc", "latest", "blend", "ensemble", "wait"]
"""What to do about a chunk that comes late. rtc: it is made to go on from the rows that are executed until it comes
(real-time chunking). latest: nothing, the robot changes over to it. blend: it changes over in some rows. ensemble: each
row is the mean of all chunks that have it (Zhao et al. 2023). wait: the robot stands until it comes."""
_REMEMBERED = 10
"""Chunks."""


class ChunkDelay:
    """An estimate from the last chunks: which row of each was the first that was executed.

    It counts rows and no time, so the clocks of robot and policy may differ. A chunk counts if the robot was executing
    rows when it was asked for, and went on until it came or until they ran out. So the first one does not count, nor
    one that follows a hold, a pause, another episode or a person: why its first rows are over says nothing of the next.
    """

    def __init__(self, rows: int, period_ns: int) -> None:
        """rows: of a chunk; period_ns: from row to row."""
        self._rows, self._period_ns = rows, period_ns
        self.rows = 0
        """The most that the next chunk is expected to be late."""
        self._seen: deque[int] = deque(maxlen=_REMEMBERED)
        self._newest: int | None = None
        self._last = 0, 0
        """Of the row that was executed last: its time [ns], and its place in its chunk."""

    def executed(self, chunk_stamp_ns: int, row: int, at_ns: int | None = None) -> None:
        """A row of the chunk with this stamp is executed, at_ns in the clock of the stamps; None: when it is due."""
        at_ns = chunk_stamp_ns + row * self._period_ns if at_ns is None else at_ns
        if chunk_stamp_ns != self._newest:
            late = round((at_ns - chunk_stamp_ns) / self._period_ns)
            if self._counts(chunk_stamp_ns, at_ns):
                self._seen.append(late)
                self.rows = max(self._seen)
            elif not self._seen:  # better than nothing, until one counts
                self.rows = min(late, self._rows // 2)
        self._newest = chunk_stamp_ns
        self._last = at_ns, row

    def _counts(self, chunk_stamp_ns: int, at_ns: int) -> bool:
        """Of the first row of another chunk."""
        if self._newest is None or chunk_stamp_ns < self._newest:
            return False
        last_ns, last_row = self._last
        # A chunk's rows lie up to half a period beside those of the one before.
        next_ns = last_ns + 2 * self._period_ns
        ran_out = last_row == self._rows - 1
        return at_ns < next_ns or (ran_out and chunk_stamp_ns < next_ns)


def soft_weights(rows: int, certain: int, likely: int) -> NDArray[np.float64]:
    """(rows) 1 for the certain first ones, then less and less, 0 from `likely` on (arXiv 2506.07339, equation 5)."""
    weights = np.zeros(rows)
    weights[: min(certain, rows)] = 1.0
    for i in range(certain, min(likely, rows)):
        left = (likely - i) / (likely - certain + 1)
        weights[i] = left * math.expm1(left) / math.expm1(1.0)
    return weights
