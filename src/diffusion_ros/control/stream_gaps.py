"""What a stream of stamped messages has lost on its way, by its stamps alone."""

from __future__ import annotations

import statistics
from collections import deque

GAP = 1.5
"""Of the typical period: stamps that are farther apart have lost something between them."""
_LEAST_NS = 5_000_000
"""Of a gap beyond the period: stamps of fast streams are set by busy programs, and are off by milliseconds."""
_KNOWN = 31
"""Last periods and delays that tell the typical ones; fewer than _FEW tell none."""
_FEW = 5


class StreamGaps:
    """Counts what is missing in a stream, and what came late.

    missing: messages that should have come between two stamps. late: messages that came more than `late_ns` later after
    their stamp than those before them usually did, whatever the clock of their stamps is ahead of ours.
    """

    def __init__(self, late_ns: int) -> None:
        self.missing = 0
        self.late = 0
        self._late_ns = late_ns
        self._last_ns: int | None = None
        self._periods: deque[int] = deque(maxlen=_KNOWN)
        self._delays: deque[int] = deque(maxlen=_KNOWN)

    def came(self, stamp_ns: int, received_ns: int, counted: bool) -> None:
        """counted: whether it is missed; between episodes a stream may rest."""
        last, self._last_ns = self._last_ns, stamp_ns
        delay = received_ns - stamp_ns
        if counted and len(self._delays) >= _FEW and delay - statistics.median(self._delays) > self._late_ns:
            self.late += 1
        self._delays.append(delay)
        if last is None or stamp_ns <= last:  # said again, or a clock that was set back
            return
        period = stamp_ns - last
        if len(self._periods) >= _FEW:
            typical = statistics.median(self._periods)
            if counted and period > max(GAP * typical, typical + _LEAST_NS):
                self.missing += max(1, round(period / typical) - 1)
        self._periods.append(period)
