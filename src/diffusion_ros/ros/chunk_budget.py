"""What the time of a chunk goes into, from the arrival of the newest picture until the chunk is under way.

    receive   until ROS has handed over the picture and the rest of its frame, and the worker thread is free
    convert   messages to arrays, frames, and what is asked of them
    encode    features of the frames that have none yet
    denoise   rows, of the features
    publish   the rows as a message

Without pictures it begins with the message that completed the frame.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

PARTS = ("receive", "convert", "encode", "denoise", "publish")
WHOLE = "arrival to chunk"
_LONGEST_WAIT = 1.0
"""s that a message may have waited. Where it seems more, the system's clock was set."""


class Begun(NamedTuple):
    """The state of a node's reading when it began to read a message."""

    arrived: float
    """When the middleware had the message [s of the reading's clock]."""
    spent: float
    """s that were spent on reading before it."""


class Reading:
    """What a node spends on its messages, and since when the middleware has had the one that it reads.

    Args:
        clock: [s], never goes back; None: time.monotonic.
        wall: the system's clock [ns], which the middleware stamps arrivals by.
    """

    def __init__(self, clock: Callable[[], float] | None = None, wall: Callable[[], int] = time.time_ns) -> None:
        self._clock, self._wall = clock, wall
        self._begun = Begun(0.0, 0.0)
        self._since: float | None = None
        """When it began to read the message that it reads."""
        self._spent = 0.0
        """Before that message."""

    def seconds(self) -> float:
        """The time [s] by which all is measured."""
        return time.monotonic() if self._clock is None else self._clock()

    def begin(self, received_ns: int) -> None:
        """A message is read from now on. received_ns: when the middleware had it, by the system's clock; 0: it does not
        say."""
        now = self.seconds()
        waited = (self._wall() - received_ns) / 1e9 if received_ns > 0 else 0.0
        self._begun = Begun(now - waited if 0.0 <= waited <= _LONGEST_WAIT else now, self._spent)
        self._since = now

    def end(self) -> None:
        """It has been read."""
        self._spent, self._since = self.spent, None

    @property
    def spent(self) -> float:
        """s that were spent on messages, with the one that is read."""
        return self._spent + (0.0 if self._since is None else self.seconds() - self._since)

    @property
    def begun(self) -> Begun:
        """Of the message that is read, or was read last."""
        return self._begun


class ChunkBudget:
    """One frame's parts [s], and with them those of the chunk that is made when it comes."""

    def __init__(self, begun: Begun, reading: Reading) -> None:
        """begun: with which message; the frame has just become complete."""
        self._reading = reading
        self._last = begun.arrived
        self.parts = dict.fromkeys(PARTS, 0.0)
        self.parts["convert"] = reading.spent - begun.spent

    def taken(self, at: float) -> None:
        """The worker thread took the frame then [s of the reading's clock]."""
        self.parts["receive"] = at - self._last - self.parts["convert"]
        self._last = at

    def lap(self, part: str) -> None:
        """What was done since the last call was that part."""
        now = self._reading.seconds()
        self.parts[part] += now - self._last
        self._last = now

    def latencies(self) -> dict[str, float]:
        """s by the names that diagnostics have: the parts, and all of them together."""
        return {**self.parts, WHOLE: sum(self.parts.values())}
