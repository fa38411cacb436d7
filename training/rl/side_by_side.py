"""Several runs of one trainer side by side, a process each: seeds of a run, variants of an ablation."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from training.interruption import Interrupted
from training.options.shared import RunOptions, SeedOptions, of_seed
from training.parallel import Workers, each
from training.run import STATE_FILE, next_command

T = TypeVar("T")
R = TypeVar("R")
Run = TypeVar("Run", bound=SeedOptions)


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
            runs = [dataclasses.replace(run, resume=was) for run, was in zip(runs, begun, strict=True)]
        workers = Workers(options.workers, options.cluster)
        results = _or_interrupted(side_by_side(train_one, runs, workers, options.env_id), runs)
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
    print(f"next: {next_command(Path(result['out']))}")


def _or_interrupted(results: Iterable[R], runs: Sequence[RunOptions]) -> Iterator[R]:
    """The results; after Ctrl-C, Interrupted says which runs have saved something."""
    try:
        yield from results
    except KeyboardInterrupt:
        begun = sum((run.run_folder / STATE_FILE).exists() for run in runs)
        raise Interrupted(
            f"stopped; {begun} of {len(runs)} runs were saved: the same command with --resume goes on with all"
        ) from None


def side_by_side(job: Callable[[T], R], runs: Sequence[T], workers: Workers, name: str) -> Iterator[R]:
    """What `job` returns for each of `runs`, in the order in which they finish, with one progress bar for all.

    `job` is a function of a module. An error in one ends all, and so does whoever stops taking results. A run whose
    process was killed begins anew. Raises RuntimeError where one cannot be done.
    """
    with tqdm(total=len(runs), desc=name, unit="run") as bar:
        for _, result in each(partial(_quietly, job), runs, workers, "run"):
            bar.update()
            yield result


def _quietly(job: Callable[[T], R]) -> Callable[[T], R]:
    """`job` without progress bars: many would make none."""

    def do(run: T) -> R:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            return job(run)

    return do
