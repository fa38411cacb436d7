"""Observations on their way to a policy: parts are joined to frames, and frames to a window.

No ROS here: stamps are integers [ns], values are arrays.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
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
LATE_NS = 100_000_000
"""A stamp that is behind the newest by at most this is one that was overtaken, and left out; by more, another run's."""
_INTERVALS = 8
"""Between the last values of a stream: their median is its period."""
_LOST = 2
"""Values in a row of a stream that may be lost."""
_MAX_BRIDGE_NS = 500_000_000
"""Between two values that are interpolated, however slow their stream is."""


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


class InterpolatingAssembler:
    """Joins the streams of a real robot, each of its own rate, to frames at the times of a reference.

    The reference is the first picture, without pictures the first name. Of the other pictures a frame has the nearest,
    within the tolerance; of everything else the value *at* the reference's time: between two values linear, for
    quaternions along the shortest turn. Nothing is extrapolated. Where a stream has no value yet at or after that time:

    - its next is waited for if it is due within half a control period, so always where it comes more often than that;
    - else, or where it is overdue, its last is held, if no more than two of its values can have been lost since: a
      gripper at 15 Hz would otherwise delay pictures by up to 67 ms.

    Between two values that are farther apart than two control periods and than two lost ones explain nothing is known,
    and there is no frame. Without pictures nothing is waited for: the reference then is as quick as any.

    A value that is stamped before the newest of its name, by LATE_NS at most, is left out; one that is stamped even
    earlier begins another run. The stamps of frames grow, a quarter of a control period at least, unless the reference
    begins another run. Parts wait for each other for HISTORY_NS.
    """

    def __init__(
        self,
        names: Iterable[str],
        period_ns: int,
        tolerance_ns: int,
        pictures: Collection[str] = (),
        quaternions: Collection[str] = (),
    ) -> None:
        """period_ns: of the control steps. pictures, quaternions (4 numbers, xyzw): which of the names are such."""
        self.names = tuple(names)
        if not self.names or len(set(self.names)) != len(self.names):
            raise ValueError(f"frame parts {', '.join(self.names) or 'none'}: at least one, each once, expected")
        if period_ns < 1 or tolerance_ns < 0:
            raise ValueError(
                f"period {period_ns} ns, tolerance {tolerance_ns} ns: more than 0, and at least 0, expected"
            )
        self._pictures = frozenset(pictures)
        self._quaternions = frozenset(quaternions)
        self.reference = next((name for name in self.names if name in self._pictures), self.names[0])
        self.tolerance_ns = tolerance_ns
        self._wait_ns = period_ns // 2 if self._pictures else 0
        self._bridge_ns = 2 * period_ns
        self._min_gap_ns = max(1, period_ns // 4)
        self._by_name: dict[str, History[NDArray[Any]]] = {name: History(HISTORY_NS) for name in self.names}
        self._last_ns: int | None = None

    def put(self, stamp_ns: int, values: Mapping[str, NDArray[Any]]) -> Frame | None:
        """Adds the parts of one message; returns the newest frame that they complete. Raises ValueError for a name that
        is not expected."""
        first_ns: int | None = None
        last_ns = stamp_ns
        for name, value in values.items():
            if name not in self._by_name:
                raise ValueError(f"{name} is no part of the frame, {', '.join(self.names)} expected")
            if self.late(name, stamp_ns):
                continue
            history = self._by_name[name]
            before = history.stamps[-1] if history.stamps and history.stamps[-1] < stamp_ns else None
            if name == self.reference and before is None:
                self._last_ns = None
            history.add(stamp_ns, value)
            # No other references can have become complete.
            if name == self.reference:
                begin = stamp_ns
            elif name in self._pictures:
                begin, last_ns = stamp_ns - self.tolerance_ns, max(last_ns, stamp_ns + self.tolerance_ns)
            else:
                begin, last_ns = 0 if before is None else before + 1, max(last_ns, stamp_ns + _MAX_BRIDGE_NS)
            first_ns = begin if first_ns is None else min(first_ns, begin)
        return None if first_ns is None else self._newest(first_ns, last_ns)

    def late(self, name: str, stamp_ns: int) -> bool:
        """Whether a value was overtaken by its next ones, or is the newest again; such are left out."""
        stamps = self._by_name[name].stamps
        return bool(stamps) and stamps[-1] - LATE_NS <= stamp_ns <= stamps[-1]

    def clear(self) -> None:
        """Forgets all parts: what is waited for must come anew."""
        self._last_ns = None
        for history in self._by_name.values():
            history.clear()

    def missing(self) -> tuple[str, int] | None:
        """Name of what the newest reference has no value of, and by how much [ns] its newest is stamped before; None
        where there is no reference or nothing is missing."""
        references = self._by_name[self.reference].stamps
        if not references:
            return None
        for name in self.names:
            stamps = self._by_name[name].stamps
            if stamps and self._value(name, references[-1]) is None:
                return name, references[-1] - stamps[-1]
        return None

    def _newest(self, first_ns: int, last_ns: int) -> Frame | None:
        """The newest complete frame of the references stamped so."""
        references = self._by_name[self.reference].stamps
        for i in range(bisect_right(references, last_ns) - 1, bisect_left(references, first_ns) - 1, -1):
            if self._last_ns is not None and references[i] < self._last_ns + self._min_gap_ns:
                return None
            values = {}
            for name in self.names:
                value = self._value(name, references[i])
                if value is None:
                    break
                values[name] = value
            else:
                self._last_ns = references[i]
                return Frame(references[i], values)
        return None

    def _value(self, name: str, time_ns: int) -> NDArray[Any] | None:
        """Of the part at a reference's time; None while there is none."""
        history = self._by_name[name]
        if name in self._pictures:
            found = history.nearest(time_ns)
            return None if found is None or abs(found[0] - time_ns) > self.tolerance_ns else found[1]
        i = bisect_left(history.stamps, time_ns)
        if i < len(history.stamps) and history.stamps[i] == time_ns:
            return history.values[i]
        if i == 0:
            return None
        before_ns, period_ns = history.stamps[i - 1], self._period_ns(history.stamps)
        if i == len(history.stamps):
            return history.values[-1] if self._held(time_ns - before_ns, period_ns) else None
        apart_ns = history.stamps[i] - before_ns
        bridge_ns = max(self._bridge_ns, 0 if period_ns is None else period_ns * (2 * _LOST + 3) // 2)
        if apart_ns > min(bridge_ns, _MAX_BRIDGE_NS):
            return None
        between = turned if name in self._quaternions else _straight
        return between(history.values[i - 1], history.values[i], (time_ns - before_ns) / apart_ns)

    def _held(self, age_ns: int, period_ns: int | None) -> bool:
        """Whether the last value of a stream stands in for the one at a time that is so much later."""
        if period_ns is None or period_ns <= self._wait_ns:
            return False
        if 0 < period_ns - age_ns <= self._wait_ns:
            return False
        return age_ns <= min(period_ns * (2 * _LOST + 1) // 2, _MAX_BRIDGE_NS)

    def _period_ns(self, stamps: list[int]) -> int | None:
        """Of a stream, by its last values; None while three intervals are not known."""
        last = stamps[-_INTERVALS - 1 :]
        if len(last) < 4:
            return None
        return sorted(b - a for a, b in pairwise(last))[(len(last) - 1) // 2]


def _straight(a: NDArray[Any], b: NDArray[Any], part: float) -> NDArray[Any]:
    return np.asarray(a + part * (b - a))


def turned(a: NDArray[Any], b: NDArray[Any], part: float) -> NDArray[Any]:
    """The unit quaternion (4) xyzw that is `part` of the way from a to b, along the shortest turn; of the two that mean
    it the one on a's side (Shoemake 1985)."""
    cosine = float(a @ b)
    if cosine < 0:
        b, cosine = -b, -cosine
    angle = math.acos(min(1.0, cosine))
    # Below that the sine is the angle to the last bit.
    weights = (1 - part, part) if angle < 1e-8 else (math.sin((1 - part) * angle), math.sin(part * angle))
    mixed = weights[0] * a + weights[1] * b
    return np.asarray(mixed / np.linalg.norm(mixed))


class FrameRate:
    """Checks that an input comes often enough: values far apart in time show another motion than training did."""

    _INTERVALS = 4

    def __init__(self, name: str, period_ns: int, least: float, min_gap_ns: int = 0, late_ns: int = 0) -> None:
        """least: of the rate that period_ns means, in parts of it; 0: any. min_gap_ns: what comes sooner after the last
        that counted is not used, and does not count. late_ns: nor what is stamped before it by no more than this."""
        self._name = name
        self._period_ns = period_ns
        self._least = least
        self._min_gap_ns = min_gap_ns
        self._late_ns = late_ns
        self._stamps: deque[int] = deque(maxlen=self._INTERVALS + 1)

    def add(self, stamp_ns: int) -> None:
        if self._stamps and stamp_ns < self._stamps[-1] - self._late_ns:
            self._stamps.clear()
        if not self._stamps or stamp_ns >= self._stamps[-1] + max(1, self._min_gap_ns):
            self._stamps.append(stamp_ns)

    @property
    def rate(self) -> float | None:
        """Times a second by the median of the last intervals, so that one that is missing counts for nothing; None
        while two intervals are not known."""
        if len(self._stamps) < 3:
            return None
        intervals = sorted(b - a for a, b in pairwise(self._stamps))
        middle = len(intervals) // 2
        return 2e9 / (intervals[middle] + intervals[-middle - 1])

    def reason(self) -> str:
        """'' or why no frame should be used yet."""
        if self._least == 0:
            return ""
        wanted, rate = 1e9 / self._period_ns, self.rate
        if rate is None:
            return f"{self._name}: how often it comes is not known yet, {wanted:g} Hz expected"
        if rate < self._least * wanted:
            least = self._least * wanted
            return f"{self._name}: comes at {rate:.1f} Hz, at least {least:g} of {wanted:g} Hz expected"
        return ""

    def slow(self) -> str:
        """'' or that it comes less often than in training, though often enough."""
        wanted = 1e9 / self._period_ns
        if self._least == 0 or self.rate is None or self.rate >= _SLOW * wanted:
            return ""
        return f"{self._name} comes at {self.rate:.1f} Hz, trained at {wanted:g} Hz"


class _Window(Generic[T]):
    """Items by their stamps, oldest first."""

    _items: deque[tuple[int, T]]

    @property
    def newest_stamp_ns(self) -> int | None:
        return self._items[-1][0] if self._items else None

    def clear(self) -> None:
        self._items.clear()

    def __len__(self) -> int:
        return len(self._items)


class ObservationWindow(_Window[T]):
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


class SpacedWindow(_Window[T]):
    """n_obs_steps items a control step apart, chosen from all that came, oldest first: for cameras of another rate than
    the policy's.

    Pictures at 30 Hz are never 50 ms apart. Of those before the newest the ones are taken that are nearest to one, two,
    ... control steps before it; of two that are about as near the older one, so that jitter does not choose. As in
    ObservationWindow, a history with a hole in it, or from before time went back, is dropped.
    """

    def __init__(self, n_obs_steps: int, period_ns: int, max_gap_ns: int) -> None:
        if n_obs_steps < 1:
            raise ValueError(f"n_obs_steps {n_obs_steps}, at least 1 expected")
        if not 0 < period_ns <= max_gap_ns:
            raise ValueError(f"period {period_ns} ns, above 0 and at most max_gap {max_gap_ns} ns expected")
        self.n_obs_steps = n_obs_steps
        self.period_ns = period_ns
        self.max_gap_ns = max_gap_ns
        self._items: deque[tuple[int, T]] = deque()

    def push(self, stamp_ns: int, item: T) -> bool:
        """Returns False, and keeps what it has, for the newest stamp again."""
        if self._items:
            gap = stamp_ns - self._items[-1][0]
            if gap == 0:
                return False
            if gap < 0 or gap > self.max_gap_ns:
                self._items.clear()
        self._items.append((stamp_ns, item))
        while stamp_ns - self._items[0][0] > self.n_obs_steps * self.period_ns + self.max_gap_ns:
            self._items.popleft()
        return True

    def items(self) -> list[T]:
        """n_obs_steps items; at the start of an episode the oldest stands in for those before it, as in training."""
        if not self._items:
            raise ValueError("the observation window is empty")
        newest_ns = self._items[-1][0]
        chosen = len(self._items) - 1
        window = [self._items[chosen][1]]
        for step in range(1, self.n_obs_steps):
            wanted_ns = newest_ns - step * self.period_ns
            # The newest is nobody's past, however near it is: a hand that moves would seem to stand.
            before = range(chosen)
            chosen = min(before, key=lambda k: (self._off(k, wanted_ns), k), default=0)
            window.insert(0, self._items[chosen][1])
        return window

    def _off(self, k: int, wanted_ns: int) -> int:
        """How far an item is from a time; those after it count an eighth of a control step more."""
        off_ns = self._items[k][0] - wanted_ns
        return -off_ns if off_ns <= 0 else off_ns + self.period_ns // 8
