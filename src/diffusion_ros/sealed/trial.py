"""A trial in a process of its own with limits of time and memory, whose end says what is wrong.

The process is a copy of this one (fork): torch is imported there already, so it starts in hundredths of a second. It
has one thread, and uses nothing but torch on the CPU, as the workers of torch's data loaders do. What the trial found
is remembered by the file's SHA-256 and everything else that it depends on, so that a checkpoint is tried once and not
at every start. That memory is a folder of the user's own: where others can write, it is neither read nor written.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import hashlib
import os
import resource
import select
import signal
import stat
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from diffusion_ros.sealed.refusal import Refusal, shown

SECONDS = 60.0
"""Of the processor, for a trial. Those of shipped checkpoints take 2."""
_BUSY = 10.0
"""By how much a trial may take longer by the clock, on a machine that has other work."""
BYTES = 4 << 30
"""Of memory beyond what this process has already."""
MARKS = 1000
"""Trials that are remembered."""
VARIABLE = "DIFFUSION_ROS_TRIED"
"""The environment variable that names the folder of marks; else it is ~/.cache/diffusion_ros/tried."""
_ANSWER = 4096
"""Bytes of an answer."""
_PARENT_DIES = 1  # prctl's PR_SET_PDEATHSIG


def trial(work: Callable[[], str], seconds: float = SECONDS, memory: int = BYTES) -> str:
    """What `work` finds wrong, '' if nothing: run in a process with limits. A signal's exception ends it as well."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of threads that a copy lacks; `work` asks nothing of them.
        warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            _limited(seconds, memory)
            answer = work()
        except BaseException as error:
            answer = _reason(error)
        try:
            os.write(writing, b"\1" + answer.encode("utf-8", "replace")[: _ANSWER - 1])
        finally:
            os._exit(0)
    os.close(writing)
    status, answer_ = None, b""
    try:
        answer_ = _answer(reading, _BUSY * seconds)
    finally:
        os.close(reading)
        if not answer_:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if answer_ and os.WIFEXITED(status):
        return answer_[1:].decode("utf-8", "replace")
    return _ended(status, seconds)


def _answer(reading: int, seconds: float) -> bytes:
    """What the child says before the time is over; b'' where it says nothing."""
    end = time.monotonic() + seconds
    said = b""
    waiting = select.poll()  # which, unlike select, takes descriptors of any number
    waiting.register(reading, select.POLLIN)
    while (left := end - time.monotonic()) > 0:
        # Short waits, so that Python's handlers of signals run in between.
        if waiting.poll(1000 * min(left, 0.1)):
            part = os.read(reading, _ANSWER)
            if not part:
                return said
            said += part
    return b""


def _ended(status: int, seconds: float) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number in (signal.SIGKILL, signal.SIGXCPU):
            return f"did not end within {seconds:g} s, or took too much memory, on its own specification"
        return f"ended the process that tried it ({signal.Signals(number).name})"
    return "ended the process that tried it"


def _reason(error: BaseException) -> str:
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error) or "bad_alloc" in str(error):
        return f"takes more than {BYTES >> 30} GiB of memory on its own specification"
    if isinstance(error, Refusal):
        return str(error)
    lines = str(error).strip().splitlines()
    return (
        f"the module does not run on its own specification: {shown(lines[-1] if lines else type(error).__name__, 200)}"
    )


def _limited(seconds: float, memory: int) -> None:
    """Of this process: no signal handlers of ours, no file that grows, a bound of memory and of time."""
    gc.freeze()  # what came along, as nodes of ROS, must not be taken apart here
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    faulthandler.disable()  # which has a way of its own to stderr
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DIES, signal.SIGKILL, 0, 0, 0)
    nothing = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nothing, descriptor)
    statm = Path("/proc/self/statm")
    used = int(statm.read_text().split()[0]) * resource.getpagesize() if statm.exists() else 0
    cpu = int(time.process_time() + seconds) + 1
    for limit, value in (
        (resource.RLIMIT_AS, used + memory),
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, most = resource.getrlimit(limit)
        resource.setrlimit(limit, (value if most == resource.RLIM_INFINITY else min(value, most),) * 2)


def remembered(key: str, work: Callable[[], str]) -> str:
    """What `work` finds wrong, by a trial; one that found nothing wrong is not repeated for the same `key`."""
    folder = _folder()
    mark = folder / hashlib.sha256(key.encode()).hexdigest() if folder is not None else None
    if mark is not None and _is_ours(mark, stat.S_ISREG):
        return ""
    problem = trial(work)
    if not problem and folder is not None and mark is not None:
        try:
            _forget_oldest(folder)
            os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        except OSError:
            pass  # the next start tries it again
    return problem


def _forget_oldest(folder: Path) -> None:
    marks = sorted(folder.iterdir(), key=lambda mark: mark.lstat().st_mtime_ns)
    for mark in marks[: max(len(marks) - MARKS + 1, 0)]:
        mark.unlink()


def _folder() -> Path | None:
    """Where marks of trials are, None where others could make some."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if os.path.isabs(base) else Path(os.path.expanduser("~")) / ".cache"
    given = os.environ.get(VARIABLE, "")
    folder = Path(given) if os.path.isabs(given) else root / "diffusion_ros" / "tried"
    try:
        root.mkdir(parents=True, exist_ok=True)
        for made in (folder.parent, folder):
            made.mkdir(mode=0o700, exist_ok=True)
        folder = folder.resolve()
    except (OSError, RuntimeError):
        return None
    if not _is_ours(folder, stat.S_ISDIR) or any(_is_anybodys(place) for place in folder.parents):
        return None
    return folder


def _is_ours(place: Path, kind: Callable[[int], bool]) -> bool:
    """Whether it is of this kind, and nobody but us can write to it."""
    try:
        found = place.lstat()
    except OSError:
        return False
    return kind(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _is_anybodys(place: Path) -> bool:
    """Whether others could put another folder in the place of one in it."""
    found = place.lstat()
    theirs = found.st_uid not in (0, os.geteuid())
    return theirs or bool(found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX)
