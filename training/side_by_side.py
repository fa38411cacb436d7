"""Several runs of one trainer side by side, a process each: seeds of a run, variants of an ablation."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tqdm import tqdm

T = TypeVar("T")
R = TypeVar("R")


class SeedOptions(Protocol):
    """What :func:`train_seeds` reads of a trainer's options, a dataclass."""

    @property
    def out(self) -> Path: ...
    @property
    def environment(self) -> str: ...
    @property
    def seeds(self) -> tuple[int, ...]: ...
    @property
    def workers(self) -> int: ...


Run = TypeVar("Run", bound=SeedOptions)


def of_seed(options: Run, seed: int) -> Run:
    """The run of one of several seeds; its checkpoint is <out>_seed<n>.pt."""
    out = options.out.with_name(f"{options.out.stem}_seed{seed}{options.out.suffix}")
    changed: Run = dataclasses.replace(options, out=out, seed=seed, seeds=())  # type: ignore[type-var]
    return changed


def train_seeds(train_one: Callable[[Run], dict[str, Any]], options: Run) -> None:
    """Trains the one seed of `options`, or its several side by side; prints what each gave.

    `train_one` returns at least out, validation_return and, if there was one, the evaluation.
    """
    results: Iterable[dict[str, Any]]
    if options.seeds:
        runs = [of_seed(options, seed) for seed in options.seeds]
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

    `job` is a function of a module. An error in one ends all, and so does whoever stops taking results.
    """
    if not runs:
        return
    context = multiprocessing.get_context("spawn")
    with (
        context.Pool(min(workers, len(runs)), _begin, maxtasksperchild=1) as pool,
        tqdm(total=len(runs), desc=name, unit="run") as bar,
    ):
        for result in pool.imap_unordered(job, runs):
            bar.update()
            yield result


def _begin(*_: Any) -> None:
    """In a worker: Ctrl-C is for the parent to handle, and many progress bars would make none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (for as long as the process lives)
