"""Long work in parts, by worker processes. A part is a file that appears whole; after a stop the rest is made."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
    settings, RuntimeError with the line of a part that could not be made.
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
    context = multiprocessing.get_context("spawn")
    with (
        context.Pool(min(workers, max(1, len(jobs))), start, arguments) as pool,
        tqdm(total=len(seeds), initial=len(seeds) - len(jobs), unit=unit, desc=name) as bar,
    ):
        for problem in pool.imap_unordered(work, jobs):
            if problem:
                raise RuntimeError(f"{problem}; {bar.n} {unit}s are kept in {folder}, run again to go on")
            bar.update()
    yield files
    shutil.rmtree(folder)
