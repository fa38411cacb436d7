"""What was observed in the last moments, by its stamps."""

from __future__ import annotations

from bisect import bisect_left
from typing import Generic, TypeVar

T = TypeVar("T")


MOST = 16_384
"""Values that are kept at most: 4 s at 4 kHz."""


class History(Generic[T]):
    """Values of the last `span_ns` at least and twice that at most, whose stamps rise, and MOST of them. One that jumps
    back is the first of another run; of several with one stamp the first is kept."""

    def __init__(self, span_ns: int) -> None:
        self.span_ns = span_ns
        self.stamps: list[int] = []
        self.values: list[T] = []

    def add(self, stamp_ns: int, value: T) -> None:
        """The newest value."""
        if self.stamps and stamp_ns <= self.stamps[-1]:
            if stamp_ns == self.stamps[-1]:
                return
            self.clear()
        self.stamps.append(stamp_ns)
        self.values.append(value)
        # Not at each value: removing the first of a thousand moves the others.
        if self.stamps[0] < stamp_ns - 2 * self.span_ns:
            self.clear(bisect_left(self.stamps, stamp_ns - self.span_ns))
        if len(self.stamps) > MOST:
            self.clear(MOST // 4)

    def clear(self, count: int | None = None) -> None:
        """Forgets the oldest `count`, None for all."""
        del self.stamps[:count], self.values[:count]

    def nearest(self, stamp_ns: int) -> tuple[int, T] | None:
        """Stamp and value; of two that are as near the older one. None where there are none."""
        i = bisect_left(self.stamps, stamp_ns)
        near = [k for k in (i - 1, i) if 0 <= k < len(self.stamps)]
        if not near:
            return None
        k = min(near, key=lambda k: abs(self.stamps[k] - stamp_ns))
        return self.stamps[k], self.values[k]
