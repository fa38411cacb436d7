"""Long work in parts, by worker processes. A part is a file that appears whole; after a stop the rest is made."""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from tqdm import tqdm

Job = tuple[int, Path]
"""A seed, and the part to write."""


@contextmanager
def parts(
    out: Path,
    seeds: list[int],
    settings: Mapping[str, Any],
    work: Callable[[Job], str],
    start: Callable[..., None],
    arguments: tuple[Any, ...],
    workers: int,
    name: str,
    unit: str,
) -> Iterator[list[Path]]:
    """Makes what is missing, one part a seed, and yields their paths to be merged into `out`; then removes them.

    `start(*arguments)` prepares a worker process, `work` makes a part and returns '' or a line on why it could not.
    `settings` decide what the parts contain. Raises ValueError where `out` exists or parts were begun with other
    settings, RuntimeError with the line of a part that could not be made, or of a worker that was killed.
    """
    if out.exists():
        raise ValueError(f"{out}: exists already; remove it or choose another name")
    folder = out.with_name(out.name + ".parts")
    folder.mkdir(parents=True, exist_ok=True)
    begun = folder / "settings.json"
    mine = json.dumps(dict(settings), default=str)
    if begun.exists() and begun.read_text() != mine:
        raise ValueError(f"{folder}: begun with other settings {begun.read_text()}; remove it or use those")
    begun.write_text(mine)
    files = [folder / f"{seed:06d}.hdf5" for seed in seeds]
    jobs = [(seed, file) for seed, file in zip(seeds, files, strict=True) if not file.exists()]
    with tqdm(total=len(seeds), initial=len(seeds) - len(jobs), unit=unit, desc=name) as bar:
        for problem in _made(work, start, arguments, jobs, workers):
            if problem:
                raise RuntimeError(f"{problem}; {bar.n} {unit}s are kept in {folder}, run again to go on")
            bar.update()
    yield files
    shutil.rmtree(folder)


def _made(
    work: Callable[[Job], str],
    start: Callable[..., None],
    arguments: tuple[Any, ...],
    jobs: list[Job],
    workers: int,
) -> Iterator[str]:
    """What `work` says to each job, in the order in which they are done; errors that it or `start` raises are raised.

    A worker whose process ends, as when the system runs out of memory, says so. A Pool would wait for it for ever.
    """
    context = multiprocessing.get_context("spawn")
    waiting = list(reversed(jobs))
    running: dict[Any, SpawnProcess] = {}
    try:
        for _ in range(min(workers, len(jobs))):
            mine, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, work, start, arguments), daemon=True)
            process.start()  # before it is among those that are ended: Ctrl-C may come meanwhile
            running[mine] = process
            theirs.close()  # so that the end of the process is the end of the pipe
            mine.send(waiting.pop())
        busy = list(running)
        while busy:
            ready: list[Any] = multiprocessing.connection.wait(busy)
            for pipe in ready:
                try:
                    result = pipe.recv()
                except (EOFError, ConnectionResetError):
                    running[pipe].join()
                    result = f"a worker process ended with status {running[pipe].exitcode}"
                if isinstance(result, Exception):
                    raise result
                if not result and waiting:
                    pipe.send(waiting.pop())
                else:
                    busy.remove(pipe)
                yield result
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.join()


def _serve(
    pipe: Connection, work: Callable[[Job], str], start: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    """In a worker, until it is terminated or nobody listens any more."""
    with suppress(EOFError, BrokenPipeError):
        try:
            start(*arguments)
            while True:
                pipe.send(work(pipe.recv()))
        except EOFError:
            raise
        except Exception as error:
            pipe.send(error)
