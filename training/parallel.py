"""The same work many times, by anything that is a `concurrent.futures.Executor`: this process, processes of this
machine, or the workers of a Dask cluster on many.

What comes out does not depend on who did it: a job says all that decides its result. A worker that dies is replaced,
and its job is done again.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import multiprocessing
import multiprocessing.connection
import os
import platform
import signal
import sys
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from tqdm import tqdm

from diffusion_ros.installation import require

Job = TypeVar("Job")
Result = TypeVar("Result")
Make = Callable[[], Callable[[Any], Any]]
"""Prepares a worker; what it returns does the jobs."""

MOST_DEATHS = 3
"""Of workers with the same job, until it counts as one that kills them."""
LIBRARIES = ("numpy", "torch", "mujoco", "gymnasium", "h5py")
"""Of which workers elsewhere must have our versions: others compute other numbers."""
CONNECTING_SECONDS = 10.0
WAITING_SECONDS = 600.0
"""Until a cluster without workers is given up ..."""
SAYING_SECONDS = 30.0
"""... and between lines that say so."""
AT_ONCE_PER_THREAD = 4
"""Jobs that are sent ahead to each thread of a cluster."""


@dataclass(frozen=True)
class Workers:
    """Who does the work."""

    count: int = 1
    """Processes of this machine; 1: this process."""
    cluster: str | None = None
    """In their place: the address of a Dask scheduler."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"workers {self.count}: must be at least 1")
        if self.cluster is not None and "://" not in self.cluster:
            raise ValueError(f"cluster {self.cluster!r}: the address of a scheduler is expected, as tcp://host:8786")


@dataclass(frozen=True)
class Prepared(Generic[Job, Result]):
    """What does jobs, and what is done when there are no more of them."""

    do: Callable[[Job], Result]
    close: Callable[[], None]

    def __call__(self, job: Job) -> Result:
        return self.do(job)


def say(line: str) -> None:
    """On stderr, above progress bars."""
    tqdm.write(line, file=sys.stderr)


def each(
    make: Callable[[], Callable[[Job], Result]],
    jobs: Sequence[Job],
    workers: Workers,
    unit: str,
    say: Callable[[str], None] = say,
) -> Iterator[tuple[Job, Result]]:
    """Each job and what became of it, in the order in which they are done.

    `make`, a function of a module (or a partial of one, or a method of what can be pickled), prepares a worker: it is
    called once in each, and what it returns (a Prepared, where there is something to close) does the jobs. An error of
    either is raised here. `say` is told of workers that died, and what is done about it. Raises RuntimeError where a
    job has killed MOST_DEATHS workers, and where a cluster has no workers; ValueError where there is no cluster. Who
    stops taking results ends all work on this machine.
    """
    if not jobs:
        return
    team = _team(workers, len(jobs))
    token = uuid.uuid4().hex
    waiting = deque(range(len(jobs)))
    running: dict[Future[Any], int] = {}
    deaths: Counter[int] = Counter()
    try:
        while waiting or running:
            lost: list[int] = []
            while waiting and len(running) < team.at_once and not lost:
                index = waiting.popleft()
                try:
                    running[team.submit(token, make, jobs[index])] = index
                except BrokenExecutor:  # a worker died between two jobs
                    lost.append(index)
            done, _ = wait(running, None if lost else team.patience, ALL_COMPLETED if lost else FIRST_COMPLETED)
            if any(_is_lost(future) for future in done):
                done, _ = wait(running)  # a broken executor ends all; some have a result
            for future in sorted(done, key=running.__getitem__):
                index = running.pop(future)
                if _is_lost(future):
                    lost.append(index)
                else:
                    yield jobs[index], team.result(future)
            if lost:
                deaths.update(lost)
                _check(deaths, jobs, unit)
                again = ", ".join(_named(jobs[index]) for index in lost)
                say(f"a worker process was killed; another one begins {unit} {again} anew")
                waiting.extendleft(reversed(lost))
                team.renew()
            elif not done:
                team.look(say)
    finally:
        team.close()


@contextmanager
def starting(workers: Workers, jobs: int, *modules: str) -> Iterator[None]:
    """Within it, processes of this machine begin to start and to import what their work needs, while something else is
    done here. The next `each` with so many takes them."""
    count = min(workers.count, jobs)
    if workers.cluster is not None or count < 2:
        yield
        return
    team = _Processes(count)
    team.prepare(modules)
    _started.append(team)
    try:
        yield
    finally:
        if team in _started:
            _started.remove(team)
            team.close()


def ordered(jobs: Sequence[Job], results: Iterator[tuple[Job, Result]]) -> Iterator[Result]:
    """What `each` gives for `jobs`, which are different ones, in their order, each as soon as those before it are
    there."""
    waiting: dict[Job, Result] = {}
    wanted = iter(jobs)
    following = next(wanted, None)
    for job, result in results:
        waiting[job] = result
        while following is not None and following in waiting:
            yield waiting.pop(following)
            following = next(wanted, None)


def _is_lost(future: Future[Any]) -> bool:
    return not future.cancelled() and isinstance(future.exception(), BrokenExecutor)


def _named(job: object) -> str:
    """A job in a message: itself if it is short, else what it is a job of."""
    first = job[0] if isinstance(job, tuple) and job else job
    seed = getattr(first, "seed", first)
    return str(seed)


def _check(deaths: Counter[int], jobs: Sequence[Any], unit: str) -> None:
    index, count = deaths.most_common(1)[0]
    if count >= MOST_DEATHS:
        raise RuntimeError(
            f"{count} worker processes ended before they had done {unit} {_named(jobs[index])}: they could not start,"
            " or were killed, as the system does when memory runs out"
        )


class _Team(Protocol):
    """An executor, and what is to be known about it."""

    @property
    def at_once(self) -> int:
        """Jobs that it is given at once."""

    @property
    def patience(self) -> float | None:
        """Seconds without a result after which `look` is called; None: it is not."""

    def submit(self, token: str, make: Make, job: Any) -> Future[Any]: ...
    def result(self, future: Future[Any]) -> Any: ...
    def renew(self) -> None: ...
    def look(self, say: Callable[[str], None]) -> None: ...
    def close(self) -> None: ...


def _team(workers: Workers, jobs: int) -> _Team:
    if workers.cluster is not None:
        return _Cluster(workers.cluster)
    if workers.count == 1:
        return _Here()
    count = min(workers.count, jobs)
    if _started and _started[-1].at_once == count:
        return _started.pop()
    return _Processes(count)


_started: list[_Processes] = []
"""Those that `starting` has begun, and nobody has taken."""


# -- in a worker ------------------------------------------------------------------------------------------------------

_prepared = threading.local()
"""What `make` has returned, by the token of its work. A thread of its own has its own: pictures are drawn in one."""
_at_work = threading.Lock()
"""One job at a time in a process, whatever its threads: libraries have settings that are the process's."""


def _do(token: str, make: Make, job: Any) -> Any:
    """Does a job."""
    with _at_work:
        if getattr(_prepared, "token", None) != token:
            _drop()  # first
            _prepared.work = make()
            _prepared.token = token
        return _prepared.work(job)


def _drop() -> None:
    """Closes what was prepared in this thread."""
    work = getattr(_prepared, "work", None)
    _prepared.token = _prepared.work = None
    if isinstance(work, Prepared):
        work.close()


def _import(modules: Sequence[str]) -> None:
    for module in modules:
        importlib.import_module(module)


def _do_in_process(token: str, make: Make, job: Any) -> Any:
    """In a process of ours, which ends where it is told to. Its half-written files are gone by then."""
    try:
        return _do(token, make, job)
    except SystemExit:
        os._exit(128 + signal.SIGTERM)


def _do_elsewhere(token: str, make: Make, job: Any, theirs: dict[str, str]) -> Any:
    """On a cluster. theirs: the versions of who asks."""
    mine = versions()
    if other := [f"{name} {mine[name]}, {theirs[name]} expected" for name in theirs if mine.get(name) != theirs[name]]:
        raise RuntimeError(f"worker on {platform.node()}: {'; '.join(other)}: it would compute other numbers")
    return _do(token, make, job)


def versions() -> dict[str, str]:
    """Of Python and of the libraries that decide numbers; 'none' where one is not installed."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def _begin(stop: Connection) -> None:
    """Of a process of ours. Ctrl-C is for its parent to handle, whose end is its own end too, however it comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_end_with_parent, args=(stop,), daemon=True).start()


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """By an exception, so that temporary files go too."""
    raise SystemExit(128 + number)


def _end_with_parent(stop: Connection) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([stop, parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    _at_work.acquire(timeout=5.0)
    os._exit(0)


# -- executors --------------------------------------------------------------------------------------------------------


class _AtOnce(Executor):
    """Does what it is given when it is given it. Ctrl-C is no result: it is raised where it comes."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class _Here:
    """This process, which may be a worker itself."""

    at_once: int = 1
    patience: float | None = None

    def __init__(self) -> None:
        self._executor = _AtOnce()
        self._work: Callable[[Any], Any] | None = None

    def submit(self, token: str, make: Make, job: Any) -> Future[Any]:
        return self._executor.submit(self._do, make, job)

    def _do(self, make: Make, job: Any) -> Any:
        if self._work is None:
            self._work = make()
        return self._work(job)

    def result(self, future: Future[Any]) -> Any:
        return future.result()

    def renew(self) -> None: ...
    def look(self, say: Callable[[str], None]) -> None: ...

    def close(self) -> None:
        if isinstance(self._work, Prepared):
            self._work.close()
        self._work = None


class _Processes:
    """Processes of this machine."""

    patience: float | None = None

    def __init__(self, count: int) -> None:
        self.at_once = count
        self._open()

    def _open(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._theirs, self._stopping = context.Pipe(duplex=False)
        self._executor = ProcessPoolExecutor(self.at_once, context, _begin, (self._theirs,))

    def prepare(self, modules: Sequence[str]) -> None:
        """Starts all of them at once, and has them import these."""
        for _ in range(self.at_once):
            self._executor.submit(_import, modules)

    def submit(self, token: str, make: Make, job: Any) -> Future[Any]:
        return self._executor.submit(_do_in_process, token, make, job)

    def result(self, future: Future[Any]) -> Any:
        return future.result()

    def renew(self) -> None:
        self.close()
        self._open()

    def look(self, say: Callable[[str], None]) -> None: ...

    def close(self) -> None:
        """Ends the processes, also in the middle of a job."""
        self._stopping.close()
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._theirs.close()


class _Cluster:
    """The workers of a Dask scheduler; its own business is to start them, and to repeat what one that died had begun.

    A job that has been begun goes on there when we stop.
    """

    patience: float | None = 5.0

    def __init__(self, address: str) -> None:
        require("distributed")
        distributed: Any = importlib.import_module("distributed")
        self._address = address
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what is to be said is said by us
        try:
            self._client: Any = distributed.Client(address, timeout=CONNECTING_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ValueError(f"cluster {address}: no scheduler answers there ({reason[0]})") from None
        self._killed: type[Exception] = distributed.KilledWorker
        self._versions = versions()
        self._alone_since: float | None = None
        self._said = 0.0
        self._executor: Executor = self._client.get_executor(pure=False)

    @property
    def at_once(self) -> int:
        return AT_ONCE_PER_THREAD * max(1, self._threads())

    def _threads(self) -> int:
        try:
            return sum(self._client.nthreads().values())
        except (OSError, RuntimeError) as error:
            raise RuntimeError(f"cluster {self._address}: its scheduler has gone ({type(error).__name__})") from None

    def submit(self, token: str, make: Make, job: Any) -> Future[Any]:
        return self._executor.submit(_do_elsewhere, token, make, job, self._versions)

    def result(self, future: Future[Any]) -> Any:
        try:
            return future.result()
        except CancelledError:
            raise RuntimeError(f"cluster {self._address}: its scheduler has gone") from None
        except self._killed as error:
            raise RuntimeError(f"cluster {self._address}: {' '.join(str(error).split())}") from None

    def renew(self) -> None: ...

    def look(self, say: Callable[[str], None]) -> None:
        """Whether there are workers."""
        now = time.monotonic()
        if self._threads():
            self._alone_since = None
            return
        if self._alone_since is None:
            self._alone_since = now
        if now - self._alone_since > WAITING_SECONDS:
            raise RuntimeError(f"cluster {self._address}: no workers for {WAITING_SECONDS:g} s")
        if now - self._said > SAYING_SECONDS:
            say(f"cluster {self._address}: no workers; waiting for some")
            self._said = now

    def close(self) -> None:
        with suppress(Exception):  # the scheduler may have gone
            self._executor.shutdown(wait=False)
        self._client.close(timeout=2)
