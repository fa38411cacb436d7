"""Several runs of one trainer side by side, a process each: seeds of a run, variants of an ablation."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from training.interruption import Interrupted
from training.parallel import Workers, each
from training.run import STATE_FILE, RunOptions, next_command

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class SeedOptions(RunOptions):
    """What the options of the trainers share that learn from a Gymnasium task, with one seed or several."""

    env_id: str
    """A Gymnasium task."""
    total_timesteps: int
    """Number of environment steps, in all environments together."""
    num_envs: int
    """Number of environments that step together."""
    widths: tuple[int, ...]
    """Sizes of the hidden layers."""
    learning_rate: float
    """Learning rate of Adam."""
    gamma: float
    """Discount factor of one step."""
    evaluation_episodes: int = 100
    """Episodes that evaluate the checkpoint, from seed 100,000 on; 0: none."""
    seeds: tuple[int, ...] = ()
    """Train with each of these seeds at once. The checkpoints are <out>_seed<n>.pt."""
    workers: int = 2
    """With --seeds: number of processes."""
    cluster: str | None = None
    """With --seeds: the address of a Dask scheduler, as tcp://host:8786. Its workers do the work instead; they must see
    the same folders."""

    def __post_init__(self) -> None:
        Workers(self.workers, self.cluster)
        self.check_at_least(1, "total_timesteps", "num_envs", "threads")
        self.check_at_least(0, "evaluation_episodes")
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths {self.widths}: at least one hidden layer, each at least 1 wide, is needed")
        self.check_shares("gamma")
        self.check_positive("learning_rate")

    def check_shares(self, *names: str) -> None:
        """ValueError for a number that is no share of 1."""
        for name in names:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)}: must lie between 0 and 1")

    def check_positive(self, *names: str) -> None:
        """ValueError for a number that is not finite, or not above 0."""
        for name in names:
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name)}: must be above 0")

    @property
    def free(self) -> frozenset[str]:
        return super().free | {"seeds", "workers", "cluster", "evaluation_episodes"}


Run = TypeVar("Run", bound=SeedOptions)


def of_seed(options: Run, seed: int) -> Run:
    """The run of one of several seeds; its checkpoint is <out>_seed<n>.pt."""
    out = options.out.with_name(f"{options.out.stem}_seed{seed}{options.out.suffix}")
    return dataclasses.replace(options, out=out, seed=seed, seeds=())


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
