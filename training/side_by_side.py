"""Several runs of one trainer side by side, a process each: seeds of a run, variants of an ablation."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")
R = TypeVar("R")


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
