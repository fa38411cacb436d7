"""When a policy's chunk is drawn: before the robot first acts, as what it would do, and then while it acts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

HELD_SECONDS = 0.3
"""Of observations, after the last row that was executed; three control steps where those are longer. Then the robot
holds or was stopped, and what was predicted does not happen."""

Way = tuple[NDArray[np.float64], Sequence[int], int]
"""Points (N, 3) [m], when each is due [ns], and when the chunk was observed [ns]."""


class DrawnChunk:
    """Time is that of observations. May be called from several threads."""

    def __init__(self, draw: Callable[[NDArray[np.float64], Sequence[int], int], None], period_ns: int) -> None:
        self._draw = draw
        self._held_ns = max(round(HELD_SECONDS * 1e9), 3 * period_ns)
        self._lock = threading.Lock()
        self._way: Way | None = None
        self._drawn = False
        self._observed_ns = 0
        self._executed_ns: int | None = None
        """None: it has never acted."""

    def made(self, way: NDArray[np.float64], stamps_ns: Sequence[int], time_ns: int) -> None:
        """A chunk that counts now, in place of the one before."""
        with self._lock:
            self._way = way, stamps_ns, time_ns
            if self._acts():
                self._show()

    def observed(self, stamp_ns: int) -> None:
        """An observation; a robot that acts executes something for each."""
        with self._lock:
            self._observed_ns = stamp_ns
            if not self._acts():
                self._hide(stamp_ns)

    def executed(self) -> None:
        """A row of the policy's was executed."""
        with self._lock:
            self._executed_ns = self._observed_ns
            if not self._drawn:
                self._show()

    def gone(self, time_ns: int) -> None:
        """The chunk counts no more."""
        with self._lock:
            self._way = None
            self._hide(time_ns)

    def _acts(self) -> bool:
        return self._executed_ns is None or self._observed_ns - self._executed_ns <= self._held_ns

    def _show(self) -> None:
        if self._way is not None:
            self._draw(*self._way)
            self._drawn = True

    def _hide(self, time_ns: int) -> None:
        if self._drawn:
            self._drawn = False
            self._draw(np.zeros((0, 3)), [], time_ns)
