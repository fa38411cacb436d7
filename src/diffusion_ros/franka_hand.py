"""The fingers of a Franka Hand: one goal at a time, and their width meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from diffusion_ros.franka_connection import ArmError, HandConnection

GRIP_WIDTH = 0.01
"""Metres below which a goal means: close, and hold what is there. Others are widths to go to."""
_RETRY_SECONDS = 1.0
_HAND_SECONDS = 2.0
_HALT_SECONDS = 0.02
_SHORT_SECONDS = 1e-3
_SAME_WIDTH = 1e-3


@dataclass(frozen=True)
class HandLimits:
    """How the hand moves its fingers."""

    speed: float = 0.1
    """m/s."""
    force: float = 20.0
    """N with which it closes."""


@dataclass(frozen=True)
class HandState:
    """Width between the fingers [m] and how fast it grows [m/s]."""

    width: float
    rate: float


class Hand:
    """The hand's fingers: one goal at a time, and their width meanwhile. Three threads: a command waits for its end,
    and a stop must not wait for either."""

    def __init__(
        self,
        connect: Callable[[], HandConnection],
        limits: HandLimits,
        blocked: Callable[[], str] = lambda: "",
    ) -> None:
        """connect: to the hand, or raises ArmError; blocked: '' or why no goal may begin."""
        self._connect, self._limits, self._blocked = connect, limits, blocked
        self.state: HandState | None = None
        """The newest, None while there is no connection."""
        self.problem = "not connected yet"
        """'' or what is wrong with the connection."""
        self.result = ""
        """'' or why the last goal was not reached."""
        self._connection: HandConnection | None = None
        self._condition = threading.Condition()  # its lock is one that a thread can take twice
        self._goal: float | None = None
        self._last: float | None = None
        self._busy = False
        self._dropped = ""
        """Why the goal after the one that the fingers are busy with never begins: it was the last."""
        self._stopping = False
        """Whether the goal that the fingers are busy with is to end."""
        self._halting = False
        """Whether the hand is just being told to stop: it would stop the next goal, too."""
        self._closing = False
        self._threads = [
            threading.Thread(target=work, name="franka hand", daemon=True)
            for work in (self._watch, self._work, self._halt)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def busy(self) -> bool:
        """Whether the fingers have a goal that they have not reached."""
        with self._condition:
            return self._busy or self._goal is not None

    def move(self, width: float) -> None:
        """A new goal [m]: at once, or after the one that the fingers are busy with. The same again changes nothing."""
        with self._condition:
            same = self._last is not None and abs(width - self._last) < _SAME_WIDTH
            self._goal = None if same else width
            self._condition.notify_all()

    def drop(self, reason: str) -> None:
        """A goal that has not begun never does."""
        with self._condition:
            if self._goal is not None:
                self._goal, self.result, self._dropped = None, reason, reason if self._busy else ""

    def stop(self, reason: str) -> None:
        """Drops the goal that waits, and stops the fingers on their way to another; returns at once.

        Fingers that have come to their end are left alone: told to stop, they would let go of what they hold."""
        with self._condition:
            self.drop(reason)
            if self._busy:
                self._stopping, self._last = True, None
                self._condition.notify_all()

    def close(self) -> None:
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        end = time.monotonic() + _HAND_SECONDS
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, end - time.monotonic()))

    def _work(self) -> None:
        while True:
            with self._condition:
                while (self._goal is None or self._halting) and not self._closing:
                    self._condition.wait()
                if self._closing:
                    return
                assert self._goal is not None
                if reason := self._blocked():
                    self.drop(reason)
                    continue
                goal = self._last = self._goal
                self._goal, self._busy = None, True
            problem = self._command(partial(self._go, goal))
            with self._condition:
                if self._stopping:
                    problem = "stopped"
                if problem:
                    self._last = None  # asked for again, it is tried again
                self.result, self._dropped = self._dropped or problem, ""
                self._busy = self._stopping = False

    def _halt(self) -> None:
        """Tells the hand to stop until the goal has ended: it may have been on its way to the hand, still."""
        while True:
            with self._condition:
                while not self._stopping and not self._closing:
                    self._condition.wait()
                if self._closing:
                    return
                self._halting = True
            self._command(lambda hand: hand.stop())
            with self._condition:
                self._halting = False
                self._condition.notify_all()
                if self._stopping:
                    self._condition.wait(_HALT_SECONDS)

    def _go(self, width: float, hand: HandConnection) -> bool:
        p, state = self._limits, self.state
        if width < GRIP_WIDTH and (state is None or width < state.width):
            return hand.grasp(width, p.speed, p.force)
        return hand.move(width, p.speed)

    def _command(self, call: Callable[[HandConnection], bool]) -> str:
        connection = self._connection  # the other threads' too: `_watch` may take it away
        if connection is None:
            return f"no connection to the hand: {self.problem}"
        try:
            return "" if call(connection) else "the hand did not reach its goal"
        except ArmError as error:
            return str(error)

    def _watch(self) -> None:
        before: tuple[float, float] | None = None
        while not self._closing:
            try:
                if self._connection is None:
                    self._connection = self._connect()
                width = self._connection.width()
            except ArmError as error:
                self._connection, self.state, self.problem, before = None, None, str(error), None
                time.sleep(_RETRY_SECONDS)
                continue
            now = time.monotonic()
            rate = (width - before[1]) / max(now - before[0], _SHORT_SECONDS) if before else 0.0
            before = now, width
            self.state, self.problem = HandState(width, rate), ""
