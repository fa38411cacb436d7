"""Long work in parts, by workers here or on a cluster. A part is a file that appears whole; after a stop the rest is
made."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
from tqdm import tqdm

from diffusion_ros.atomic_file import atomic_write
from training.parallel import Workers, each, say

Job = tuple[int, Path]
"""A seed, and the part to write."""
LITTLE = 2**24
"""Bytes: a disk that has less is full."""


@contextmanager
def parts(
    out: Path,
    seeds: list[int],
    settings: Mapping[str, Any],
    make: Callable[[], Callable[[Job], None]],
    workers: Workers,
    name: str,
    unit: str,
) -> Iterator[list[Path]]:
    """Makes what is missing, one HDF5 file a seed, and yields their paths to be merged into `out`; then removes them.

    `make` is that of parallel.each; what it returns writes a part. `settings` decide what the parts contain. A part
    that is cut short is named and made again. Raises ValueError where `out` exists or parts were begun with other
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
    with atomic_write(begun) as temporary:
        temporary.write_text(mine)
    files = [folder / f"{seed:06d}.hdf5" for seed in seeds]
    jobs = [(seed, file.absolute()) for seed, file in zip(seeds, files, strict=True) if not _is_whole(file)]
    with tqdm(total=len(seeds), initial=len(seeds) - len(jobs), unit=unit, desc=name) as bar:
        try:
            for (_, file), _ in each(make, jobs, workers, unit):
                if not file.exists():
                    raise RuntimeError(f"{file}: a worker wrote it, and it is not here: all must see the same folder")
                bar.update()
        except (OSError, RuntimeError) as error:
            problem = str(error)
            if isinstance(error, OSError) and (error.errno == errno.ENOSPC or shutil.disk_usage(folder).free < LITTLE):
                problem = f"{folder}: the disk is full"
            raise RuntimeError(f"{problem}; {bar.n} {unit}s are kept in {folder}, run again to go on") from None
    yield files
    shutil.rmtree(folder)


def _is_whole(path: Path) -> bool:
    """Whether there is such a part. One that is cut short is named, and made again."""
    if not path.exists():
        return False
    try:
        with h5py.File(path, "r") as file:
            if len(file):
                return True
            reason = "it is empty"
    except OSError as error:
        reason = str(error).splitlines()[0]
    say(f"{path}: damaged or cut short ({reason}); it is made again")
    return False
