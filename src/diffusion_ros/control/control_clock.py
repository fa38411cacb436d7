"""ControlClock: when the command of a control period is due, at any rate of poses. No ROS; time is an argument.

    due times       |         |         |         |         |
    a pose within   [----|----)[---|----)[---|----)             half a period either way: the command goes with it
    no pose                                       -----!        else without one, at the end of that time

If a pose comes every period (from a simulator, or a driver at the control rate), it is answered at once; a late one is
waited for half a period longer. Of a thousand poses a second, one in fifty is answered. On average there is at most one
command a period, and two commands are at least a quarter of a period apart.
"""

from __future__ import annotations

_PULL = 0.1
"""Part of a late pose's lateness by which the due times follow: a robot's clock is not ours. Early poses do not pull,
for where poses come often one is always early."""
_LOST_STEP = 2.5
"""Periods without a command that went with a pose, though poses come."""
_PACE = 1.25
"""Periods between poses at most, and half a one at least, that are meant to be answered one by one."""
_FOLLOW = 32
"""The rows' time follows the poses' stamps by so small a part of what they differ: commands go with poses, a little
early and late, and rows must not."""


class ControlClock:
    """The executor's clock in real time. Times are seconds of one steady clock, stamps nanoseconds of the poses'."""

    def __init__(self, period_ns: int) -> None:
        if period_ns < 1:
            raise ValueError(f"period {period_ns} ns, more than 0 expected")
        self.period_ns = period_ns
        self._period = period_ns / 1e9
        self._due: float | None = None
        self._sent = self._with_pose = -float("inf")
        """When the last command went, and the last one that went with a pose."""
        self._heard = -float("inf")
        self._one_by_one = False
        """Whether poses come about once a period."""
        self._row_ns: int | None = None

    def pose(self, now: float) -> bool:
        """A pose came. Whether the command of a period is due with it."""
        gap, self._heard = now - self._heard, now
        if self._due is None:
            self._with_pose = now
            self._advance(now, now)
            return True
        self._one_by_one = self._period / 2 < gap < _PACE * self._period
        if now < self._due - self._period / 2 or now < self._sent + self._period / 4:
            if self._one_by_one and now > self._with_pose + _LOST_STEP * self._period:
                # Poses that come just after each command would never be answered: the next one is to be in time.
                self._due = now + self._period
            return False
        late = now - self._due
        self._with_pose = now
        self._advance(now, self._due + (_PULL * late if late > 0 else 0.0))
        return True

    def tick(self, now: float) -> bool:
        """Time has passed. Whether the command of a period is due without a pose; before the first pose never."""
        if self._due is None or now < self._due + self._period * (1.0 if self._one_by_one else 0.5):
            return False
        self._advance(now, self._due)
        return True

    def _advance(self, now: float, due: float) -> None:
        self._sent = now
        # After a standstill of more than a period nothing is made up for.
        self._due = (due if now - due <= self._period + 1e-9 else now) + self._period

    def row_time(self, present_ns: int, anew: bool = False) -> int:
        """The time whose row is due, given the time of the observations now, in the clock of their stamps. anew: no row
        was executed in the period before.

        Rows follow each other by periods, though the poses that commands go with come early or late, or more seldom
        than commands; so that none is left out or given twice. A present that is three quarters of a period off is
        taken as it is.
        """
        if self._row_ns is not None and not anew:
            expected_ns = self._row_ns + self.period_ns
            off_ns = present_ns - expected_ns
            if 4 * abs(off_ns) < 3 * self.period_ns:
                self._row_ns = expected_ns + off_ns // _FOLLOW
                return self._row_ns
        self._row_ns = present_ns
        return present_ns
