"""Child processes that start together and end together: logs in files, restarts, and no orphans."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
_LOUD = ("[ERROR]", "[FATAL]")
_STATUS_BAD_INPUT = 2


@dataclass(frozen=True)
class Ended:
    """A process that is gone for good. `message` is the last line that it wrote, '' for none."""

    name: str
    status: int
    message: str


@dataclass
class _Child:
    name: str
    command: Sequence[str]
    restarts_left: int
    terminal: bool
    process: subprocess.Popen[bytes]
    log: IO[str]
    last_line: str = ""
    partial: str = ""


class Supervisor:
    """Runs commands, each in its own process group so that Ctrl-C reaches them through us and in our order.

    A child writes its output straight to `<folder>/<name>.log`, so it never waits for us; lines that report errors are
    passed to `show` as well. Children get SIGTERM if we die without having stopped them. A context manager.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], show: Callable[[str], None]) -> None:
        self._folder = folder
        self._environment = dict(environment)
        self._show = show
        self._children: dict[str, _Child] = {}
        self.restarted: dict[str, int] = {}

    def start(self, name: str, command: Sequence[str], restarts: int, terminal: bool = False) -> None:
        """Starts `command`; when it ends it is started again, `restarts` times at most. Call from the main thread.

        terminal: its standard input is ours. It is in a session of its own, so that Ctrl-C still comes to us alone.
        """
        path = self._folder / f"{name}.log"
        path.touch()
        log = path.open(errors="replace")
        log.seek(0, os.SEEK_END)  # what an earlier run has left there is not news
        self._children[name] = _Child(name, command, restarts, terminal, self._spawn(command, path, terminal), log)

    def poll(self) -> list[Ended]:
        """Shows new errors, starts again what may be, and returns the children that have ended and stay so.

        Status 2 is bad input: trying again would not help.
        """
        ended = []
        for child in list(self._children.values()):
            status = child.process.poll()
            self._read(child)
            if status is None:
                continue
            if child.restarts_left > 0 and status != _STATUS_BAD_INPUT:
                child.restarts_left -= 1
                self.restarted[child.name] = self.restarted.get(child.name, 0) + 1
                self._show(f"{child.name} {describe_status(status)}: starting it again")
                log = self._folder / f"{child.name}.log"
                child.process = self._spawn(child.command, log, child.terminal)
                continue
            child.log.close()
            del self._children[child.name]
            ended.append(Ended(child.name, status, child.last_line))
        return ended

    def stop(self, patience: float = 5.0) -> None:
        """Ends all children: SIGINT, after `patience` seconds SIGTERM, then SIGKILL; returns when they are gone."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            alive = [child.process for child in self._children.values() if child.process.poll() is None]
            for process in alive:
                process.send_signal(number)
            deadline = time.monotonic() + patience
            while any(process.poll() is None for process in alive) and time.monotonic() < deadline:
                time.sleep(0.02)
        for child in self._children.values():
            try:  # what a child may have started itself
                os.killpg(child.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            child.log.close()
        self._children.clear()

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _spawn(self, command: Sequence[str], log: Path, terminal: bool) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                stdin=None if terminal else subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def _read(self, child: _Child) -> None:
        text = child.partial + child.log.read()
        *lines, child.partial = text.split("\n")
        for line in lines:
            if line.strip():
                child.last_line = line.strip()
            if any(mark in line for mark in _LOUD):
                self._show(line)


def describe_status(status: int) -> str:
    """How a process ended, in words: `was killed by SIGKILL`, `ended with status 1`."""
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
