"""One hostile input, and the judgement of what its use does: in a process of its own, whose every word is read."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CANARY = "canary"
"""A file that hostile input tries to write, beside it."""
LONGEST = 600
"""Characters of a refusal."""
PATIENCE = 60.0
"""Seconds until a use counts as one that does not end."""


@dataclass(frozen=True)
class Hostile:
    """An input that must be refused."""

    kind: str
    """What it is: operator, code, pickle, archive, specification, ..."""
    name: str
    use: Callable[[Path], object]
    """Makes it in an empty folder and uses it."""
    refuses: tuple[type[Exception], ...]
    """What a refusal raises, as those who use such files expect it."""
    expected: str = ""
    """Words that the line has."""


def judged(case: Hostile) -> tuple[bool, str]:
    """Whether its use did nothing but raise a refusal of one line, and what it did."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as name:
        folder = Path(name)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _used(case, folder, writing)
        os.close(writing)
        said, ended = _heard(reading, child)
        os.close(reading)
        written = (folder / CANARY).exists()
    if written:
        return False, "wrote a file"
    if not ended:
        return False, f"did not end within {PATIENCE:g} s"
    verdict, _, line = said.decode("utf-8", "replace").partition(" ")
    if verdict != "refused":
        return False, line or "ended the process"
    if not line.isprintable() or not line or len(line) > LONGEST:
        return False, f"a refusal of more than one printable line of {LONGEST}: {line[:200]!r}"
    return case.expected in line, line


def _used(case: Hostile, folder: Path, writing: int) -> None:
    """In the child: nothing may come on stdout and stderr, which are the same pipe as the verdict."""
    verdict = "ended"
    gc.freeze()  # what came along from other tests, as nodes of ROS, must not be taken apart here
    try:
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        os.chdir(folder)
        try:
            case.use(folder)
            verdict = "accepted it was used"
        except case.refuses as error:
            verdict = f"refused {error}"
        except BaseException as error:
            verdict = f"escaped {type(error).__name__}: {error}"
        os.write(writing, verdict.encode("utf-8", "backslashreplace")[:60_000])
    finally:
        os._exit(0)


def _heard(reading: int, child: int) -> tuple[bytes, bool]:
    """All that the child says, and whether it ended by itself."""
    os.set_blocking(reading, False)
    end, said, ended = time.monotonic() + PATIENCE, b"", False
    while not ended and time.monotonic() < end:
        ended = os.waitpid(child, os.WNOHANG)[0] == child
        try:
            said += os.read(reading, 65_536)
        except BlockingIOError:
            pass
        if not ended:
            time.sleep(0.005)
    if not ended:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return said, ended
