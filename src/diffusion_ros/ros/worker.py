"""The thread for a node's slow work, so that its callbacks only check and store."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Worker(Generic[T]):
    """Works on one thing after the other. Hold `condition` to change what `take` looks at, and notify it then.

    Args:
        name: of the thread.
        take: what is due, None for nothing; `condition` is held.
        work: does it, without `condition`. It must not raise: a thread that dies silently looks like one that works.
    """

    def __init__(self, name: str, take: Callable[[], T | None], work: Callable[[T], None]) -> None:
        self.condition = threading.Condition()
        self._take, self._work = take, work
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Once all that `take` and `work` need is there."""
        self._thread.start()

    def close(self, timeout: float = 5.0) -> None:
        """Waits at most `timeout` seconds for the end of what is being worked on."""
        with self.condition:
            self._closing = True
            self.condition.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            with self.condition:
                thing = None
                while not self._closing and (thing := self._take()) is None:
                    self.condition.wait()
                if thing is None:
                    return
            self._work(thing)


def failure(what: str, error: Exception) -> str:
    """One line for an error that nobody expected."""
    return f"{what} failed: {' '.join(str(error).split())[-300:]}"
