"""Observations on their way to a policy: parts are joined to frames, and frames to a window.

No ROS here: stamps are integers [ns], values are arrays.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffusion_ros.control.history import History

T = TypeVar("T")

HISTORY_NS = 1_000_000_000
"""How long a part waits for the others: a time and not a count. 32 poses are 1.6 s of one robot, 32 ms of another."""
_PENDING = 2000
"""Incomplete frames that are kept at most, should a robot's stamps come faster than any robot's."""
_SLOW = 0.85
"""Of the rate in training, below which it is said that frames come slower."""


@dataclass(frozen=True)
class Frame:
    """Everything that was observed at one time: name -> array, in the names, units and frames of the checkpoint."""

    stamp_ns: int
    values: Mapping[str, NDArray[Any]]


class FrameAssembler:
    """Joins parts that arrive one by one, each with its stamp, to frames.

    tolerance_ns 0: parts belong together when their stamps are equal (simulation, hardware-triggered cameras). A stamp
    that comes again in all its parts gives its frame again, so that whoever was lost can be answered again.

    tolerance_ns > 0: the first name is the reference. A frame is its value and, for each other name, the value nearest
    in time, all within the tolerance; it carries the reference's stamp, and the stamps of frames only grow, unless the
    reference jumps back (a driver that was restarted), which starts anew.

    Either way parts wait for each other for HISTORY_NS, however many there are.
    """

    def __init__(self, names: Iterable[str], tolerance_ns: int = 0) -> None:
        self.names = tuple(names)
        if not self.names or len(set(self.names)) != len(self.names):
            raise ValueError(f"frame parts {', '.join(self.names) or 'none'}: at least one, each once, expected")
        if tolerance_ns < 0:
            raise ValueError(f"tolerance {tolerance_ns} ns, at least 0 expected")
        self.tolerance_ns = tolerance_ns
        self._by_stamp: dict[int, dict[str, NDArray[Any]]] = {}
        self._by_name: dict[str, History[NDArray[Any]]] = {name: History(HISTORY_NS) for name in self.names}
        self._last_ns: int | None = None

    def put(self, name: str, stamp_ns: int, value: NDArray[Any]) -> Frame | None:
        """Adds one part; returns the frame that it completes. Raises ValueError for a name that is not expected."""
        if name not in self._by_name:
            raise ValueError(f"{name} is no part of the frame, {', '.join(self.names)} expected")
        if self.tolerance_ns == 0:
            return self._put_exact(name, stamp_ns, value)
        return self._put_near(name, stamp_ns, value)

    def clear(self) -> None:
        """Forgets all parts: what is waited for must come anew."""
        self._by_stamp = {}
        self._last_ns = None
        for history in self._by_name.values():
            history.clear()

    def _put_exact(self, name: str, stamp_ns: int, value: NDArray[Any]) -> Frame | None:
        parts = self._by_stamp.setdefault(stamp_ns, {})
        parts[name] = value
        if len(parts) < len(self.names):
            # By arrival, not by stamp: after a jump back in time the oldest stamps are the newest parts.
            while abs((oldest := next(iter(self._by_stamp))) - stamp_ns) > HISTORY_NS or len(self._by_stamp) > _PENDING:
                del self._by_stamp[oldest]
            return None
        self._by_stamp = {stamp: rest for stamp, rest in self._by_stamp.items() if stamp > stamp_ns}
        return Frame(stamp_ns, {key: parts[key] for key in self.names})

    def _put_near(self, name: str, stamp_ns: int, value: NDArray[Any]) -> Frame | None:
        history, references = self._by_name[name], self._by_name[self.names[0]]
        if name == self.names[0] and history.stamps and stamp_ns < history.stamps[-1]:
            self._last_ns = None
        history.add(stamp_ns, value)
        # No other reference can have become complete by this part.
        first = bisect_left(references.stamps, stamp_ns - self.tolerance_ns)
        last = bisect_right(references.stamps, stamp_ns + self.tolerance_ns)
        for i in range(last - 1, first - 1, -1):
            if self._last_ns is not None and references.stamps[i] <= self._last_ns:
                return None
            frame = self._near(references.stamps[i])
            if frame is not None:
                self._last_ns = frame.stamp_ns
                return frame
        return None

    def _near(self, reference_ns: int) -> Frame | None:
        """The frame of a reference's stamp, None while it is not complete."""
        values = {}
        for name in self.names:
            found = self._by_name[name].nearest(reference_ns)
            if found is None or abs(found[0] - reference_ns) > self.tolerance_ns:
                return None
            values[name] = found[1]
        return Frame(reference_ns, values)


class FrameRate:
    """Checks that an input comes often enough: values far apart in time show another motion than training did."""

    _INTERVALS = 4

    def __init__(self, name: str, period_ns: int, least: float, min_gap_ns: int = 0) -> None:
        """least: of the rate that period_ns means, in parts of it; 0: any. min_gap_ns: what comes sooner after the last
        that counted is not used, and does not count."""
        self._name = name
        self._period_ns = period_ns
        self._least = least
        self._min_gap_ns = min_gap_ns
        self._stamps: deque[int] = deque(maxlen=self._INTERVALS + 1)

    def add(self, stamp_ns: int) -> None:
        if self._stamps and stamp_ns < self._stamps[-1]:
            self._stamps.clear()
        if not self._stamps or stamp_ns >= self._stamps[-1] + max(1, self._min_gap_ns):
            self._stamps.append(stamp_ns)

    @property
    def rate(self) -> float | None:
        """Times a second by the median of the last intervals, so that one that is missing counts for nothing; None
        while two intervals are not known."""
        if len(self._stamps) < 3:
            return None
        return 1e9 / float(np.median(np.diff(self._stamps)))

    def reason(self) -> str:
        """'' or why no frame should be used yet."""
        wanted = 1e9 / self._period_ns
        if self._least == 0:
            return ""
        if self.rate is None:
            return f"{self._name}: how often it comes is not known yet, {wanted:g} Hz expected"
        if self.rate < self._least * wanted:
            least = self._least * wanted
            return f"{self._name}: comes at {self.rate:.1f} Hz, at least {least:g} of {wanted:g} Hz expected"
        return ""

    def slow(self) -> str:
        """'' or that it comes less often than in training, though often enough."""
        wanted = 1e9 / self._period_ns
        if self._least == 0 or self.rate is None or self.rate >= _SLOW * wanted:
            return ""
        return f"{self._name} comes at {self.rate:.1f} Hz, trained at {wanted:g} Hz"


class ObservationWindow(Generic[T]):
    """The last n_obs_steps items, oldest first.

    A history with a hole in it, or from before time went back, describes another situation: it is dropped.
    min_gap_ns: sensors faster than the control rate would fill the window with steps shorter than those of training;
    items that come sooner than that after the newest are not taken.
    """

    def __init__(self, n_obs_steps: int, max_gap_ns: int, min_gap_ns: int = 0) -> None:
        if n_obs_steps < 1:
            raise ValueError(f"n_obs_steps {n_obs_steps}, at least 1 expected")
        if not 0 <= min_gap_ns < max_gap_ns:
            raise ValueError(f"min_gap {min_gap_ns} ns, from 0 to below max_gap {max_gap_ns} ns expected")
        self.n_obs_steps = n_obs_steps
        self.max_gap_ns = max_gap_ns
        self.min_gap_ns = min_gap_ns
        self._items: deque[tuple[int, T]] = deque(maxlen=n_obs_steps)

    def push(self, stamp_ns: int, item: T) -> bool:
        """Returns False, and keeps what it has, for the newest stamp again and for one less than min_gap after it."""
        if self._items:
            gap = stamp_ns - self._items[-1][0]
            if gap == 0 or 0 < gap < self.min_gap_ns:
                return False
            if gap < 0 or gap > self.max_gap_ns:
                self._items.clear()
        self._items.append((stamp_ns, item))
        return True

    def items(self) -> list[T]:
        """n_obs_steps items; at the start of an episode the oldest stands in for those before it, as in training."""
        if not self._items:
            raise ValueError("the observation window is empty")
        items = [item for _, item in self._items]
        return [items[0]] * (self.n_obs_steps - len(items)) + items

    @property
    def newest_stamp_ns(self) -> int | None:
        return self._items[-1][0] if self._items else None

    def clear(self) -> None:
        self._items.clear()

    def __len__(self) -> int:
        return len(self._items)
