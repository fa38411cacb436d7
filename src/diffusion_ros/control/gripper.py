"""When a real gripper is sent a goal, and what the goal is. No ROS; times are arguments [s], of any one clock.

A policy says -1 open to +1 closed in each row, and 0 for as it is. A gripper's driver wants goals, takes about a second
for one, and some queue or drop what comes meanwhile.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["reached", "stalled", "aborted"]
"""Of a goal. stalled: it stopped on the way, as it does on what it has grasped; aborted: also rejected or cancelled."""


@dataclass(frozen=True)
class Goal:
    """To be sent now. Its result goes to GripperLogic.result."""

    number: int
    """Of this goal, so that the late result of another is known."""
    close: bool
    reason: str
    """'' or one line: why it is sent again."""


class GripperLogic:
    """Goals from a policy's rows: with hysteresis, one at a time, not too often.

    Call `row` once for each row that falls due, and `due` at each tick of the executor.
    """

    def __init__(
        self,
        close_above: float = 0.2,
        open_below: float = -0.2,
        rows_to_agree: int = 2,
        interval: float = 0.5,
        timeout: float = 5.0,
    ) -> None:
        """close_above, open_below: a row's value beyond which it asks to close or open; between them it asks for
        nothing. rows_to_agree: rows in a row that must ask for the same. interval: seconds from one goal's start to the
        next's, at least. timeout: seconds after which a goal without a result is given up. Raises ValueError."""
        if not -1 <= open_below < close_above <= 1:
            thresholds = f"open_below {open_below:g} and close_above {close_above:g}"
            raise ValueError(f"{thresholds}: -1 <= open_below < close_above <= 1 expected")
        if rows_to_agree < 1:
            raise ValueError(f"rows_to_agree is {rows_to_agree}, 1 or more expected")
        if not 0 <= interval < math.inf:
            raise ValueError(f"interval is {interval:g} s, 0 or more expected")
        if not 0 < timeout < math.inf:
            raise ValueError(f"timeout is {timeout:g} s, more than 0 expected")
        self._close_above, self._open_below = close_above, open_below
        self._rows_to_agree = rows_to_agree
        self._interval, self._timeout = interval, timeout
        self._asked: bool | None = None
        self._rows = 0
        self._wish: bool | None = None
        self._sent: Goal | None = None
        self._sent_at = -math.inf
        self._in_flight = False
        self._failures = 0
        self.closed: bool | None = None
        """Where the last goal has left it; None before the first, and after one that failed. May be assigned what was
        measured before it is enabled, so that a policy's first row does not repeat it."""
        self.reason = ""
        """What is wrong with the gripper, in one line; '' where nothing is."""

    @property
    def in_flight(self) -> bool:
        """Whether a goal has been sent that has no result yet."""
        return self._in_flight

    def row(self, value: float) -> None:
        """A row's gripper value, -1 open to +1 closed. Raises ValueError where it is no number."""
        if not math.isfinite(value):
            raise ValueError(f"the gripper's value is {value}, -1 to 1 expected")
        asked = True if value > self._close_above else False if value < self._open_below else None
        self._rows = self._rows + 1 if asked == self._asked else 1
        self._asked = asked
        if asked is not None and self._rows >= self._rows_to_agree:
            self._wish = asked

    def due(self, time: float, held: bool = False) -> Goal | None:
        """The goal to send now, if any. held: nothing is sent, and what the rows asked for before is forgotten; a goal
        in flight goes on, as a gripper that lets go in the middle would drop things."""
        if time < self._sent_at:
            self._sent_at = time  # the clock was set back, as a simulator's is by a new episode
        if self._in_flight and time - self._sent_at >= self._timeout:
            self._failed(f"had no result after {self._timeout:g} s")
        if held:
            self._asked, self._rows, self._wish = None, 0, None
            return None
        if self._in_flight or self._wish is None or self._wish == self.closed:
            return None
        if time - self._sent_at < self._interval:
            return None
        again = self._failures > 0 and self._sent is not None and self._sent.close == self._wish
        if again and self._failures > 1:
            return None
        if not again:
            self._failures, self.reason = 0, ""
        self._sent = Goal(1 if self._sent is None else self._sent.number + 1, self._wish, self.reason if again else "")
        self._sent_at, self._in_flight, self.closed = time, True, None
        return self._sent

    def forget(self) -> None:
        """Where the gripper stands is not known any more: what the rows ask for next is sent, whatever was before."""
        self._asked, self._rows, self._wish = None, 0, None
        self._failures, self.closed, self.reason = 0, None, ""

    def result(self, number: int, outcome: Outcome) -> None:
        """Of the goal of that number. One that comes after its time-out counts if no other was sent since."""
        if self._sent is None or number != self._sent.number:
            return
        if outcome == "aborted":
            if self._in_flight:
                self._failed("was aborted")
            return
        self._in_flight, self._failures, self.reason = False, 0, ""
        self.closed = self._sent.close

    def _failed(self, why: str) -> None:
        assert self._sent is not None
        self._in_flight = False
        self._failures += 1
        self.closed = None
        then = (
            "it is sent once more"
            if self._failures == 1
            else "it is not sent again until the policy asks for the other"
        )
        self.reason = f"the gripper's goal to {'close' if self._sent.close else 'open'} {why}: {then}"
