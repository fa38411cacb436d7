"""An end for a process that no longer listens: Python's signal handlers run in its main thread, between two steps of
Python. A module of TorchScript that never ends has none. The other threads go on, and one of them counts signals."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def ended_by_signal(count: int) -> Iterator[None]:
    """In this context SIGINT and SIGTERM number `count` ends the process at once, whatever it does.

    It needs Python's handlers for both, which the first ones are left to. In another thread than the main one, where
    signals do not come, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    # The signals of a copy of this process are not ours.
    os.register_at_fork(after_in_child=lambda: _forget(writing))
    watcher = threading.Thread(target=_watch, args=(reading, count), name="signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)
        watcher.join()
        os.close(reading)


def _forget(descriptor: int) -> None:
    if threading.current_thread() is threading.main_thread():
        found = signal.set_wakeup_fd(-1)
        if found not in (descriptor, -1):
            signal.set_wakeup_fd(found)


def _watch(reading: int, count: int) -> None:
    came = 0
    while numbers := os.read(reading, 16):
        for number in numbers:
            came += number in _NUMBERS
            if came >= count:
                os._exit(128 + number)
