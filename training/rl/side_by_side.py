"""Several runs of one trainer side by side, a process each: seeds of a run, variants of an ablation."""

from __future__ import annotations

import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tqdm import tqdm

from training.run import STATE_FILE

T = TypeVar("T")
R = TypeVar("R")


class SeedOptions(Protocol):
    """What :func:`train_seeds` reads of a trainer's options, a dataclass."""

    @property
    def out(self) -> Path: ...
    @property
    def run_folder(self) -> Path: ...
    @property
    def environment(self) -> str: ...
    @property
    def resume(self) -> bool: ...
    @property
    def seeds(self) -> tuple[int, ...]: ...
    @property
    def workers(self) -> int: ...


Run = TypeVar("Run", bound=SeedOptions)


def of_seed(options: Run, seed: int) -> Run:
    """The run of one of several seeds; its checkpoint is <out>_seed<n>.pt."""
    out = options.out.with_name(f"{options.out.stem}_seed{seed}{options.out.suffix}")
    return _replaced(options, out=out, seed=seed, seeds=())


def _replaced(options: Run, **changes: Any) -> Run:
    changed: Run = dataclasses.replace(options, **changes)  # type: ignore[type-var]  # no protocol can ask for a dataclass
    return changed


def train_seeds(train_one: Callable[[Run], dict[str, Any]], options: Run) -> None:
    """Trains the one seed of `options`, or its several side by side; prints what each gave.

    `train_one` returns at least out, validation_return and, if there was one, the evaluation.
    """
    results: Iterable[dict[str, Any]]
    if options.seeds:
        runs = [of_seed(options, seed) for seed in options.seeds]
        if options.resume:
            begun = [(run.run_folder / STATE_FILE).exists() for run in runs]
            if not any(begun):
                raise ValueError(f"{runs[0].run_folder / STATE_FILE}, nor for the other seeds: nothing to resume from")
            # Those that had not been begun are begun now.
            runs = [_replaced(run, resume=was) for run, was in zip(runs, begun, strict=True)]
        results = side_by_side(train_one, runs, options.workers, options.environment)
    else:
        results = [train_one(options)]
    for result in results:
        line = f"wrote {result['out']}: validation {result['validation_return']:.1f}"
        evaluation = result.get("evaluation")
        if evaluation:
            line += (
                f", {evaluation['episodes']} evaluation episodes {evaluation['mean_return']:.1f}"
                f" (the worst {evaluation['min_return']:.1f})"
            )
        print(line)


def side_by_side(job: Callable[[T], R], runs: Sequence[T], workers: int, name: str) -> Iterator[R]:
    """What `job` returns for each of `runs`, in the order in which they finish, with one progress bar for all.

    `job` is a function of a module; each run has a process of its own. An error in one ends all, and so does whoever
    stops taking results. Raises RuntimeError where a process has died.
    """
    context = multiprocessing.get_context("spawn")
    waiting = list(reversed(runs))
    running: dict[Any, SpawnProcess] = {}
    try:
        with tqdm(total=len(runs), desc=name, unit="run") as bar:
            while waiting or running:
                while waiting and len(running) < workers:
                    mine, theirs = context.Pipe(duplex=False)
                    running[mine] = context.Process(target=_do, args=(theirs, job, waiting.pop()), daemon=True)
                    running[mine].start()
                    theirs.close()  # so that the end of the process is the end of the pipe
                ready: list[Any] = multiprocessing.connection.wait(list(running))
                for pipe in ready:
                    try:
                        result = pipe.recv()
                    except EOFError:
                        running[pipe].join()
                        status = running[pipe].exitcode
                        raise RuntimeError(f"{name}: a process ended with status {status} before its run did") from None
                    running.pop(pipe).join()
                    if isinstance(result, Exception):
                        raise result
                    bar.update()
                    yield result
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.join()


def _do(pipe: Connection, job: Callable[[T], R], run: T) -> None:
    """In a worker."""
    _begin()
    try:
        result: R | Exception = job(run)
    except Exception as error:
        result = error
    pipe.send(result)


def _begin() -> None:
    """Ctrl-C is for the parent to handle, and many progress bars would make none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (for as long as the process lives)
