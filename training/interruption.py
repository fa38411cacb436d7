"""Ctrl-C and SIGTERM in a training: it ends where it can be gone on with, and says what was saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A training was interrupted; its text, one line, says what was saved and how it goes on."""

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number


class AfterTheStep:
    """Within, a signal waits for the step that is taken: `number` is the signal then, 0 before. A second one does not
    wait. A context manager; elsewhere than in the main thread, or not `active`, signals do what they did."""

    def __init__(self, active: bool) -> None:
        self.number = 0
        self._active = active and threading.current_thread() is threading.main_thread()
        self._before: dict[int, Any] = {}
        self._waits = True

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within, a signal ends what is done, which nothing that is saved depends on."""
        self._waits = False
        try:
            yield
        except KeyboardInterrupt:
            if not self.number:
                raise
        finally:
            self._waits = True

    def __enter__(self) -> AfterTheStep:
        if self._active:
            self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        again, self.number = bool(self.number), number
        if again or not self._waits:
            raise KeyboardInterrupt
