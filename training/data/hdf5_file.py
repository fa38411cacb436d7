"""HDF5 files that somebody else may have written: read without leaving their folder, and within the memory there is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import psutil

MOST_NAMES = 1_000_000
"""Of demonstrations in a list."""
_SHARE = 0.8
"""Of the free memory that a file's arrays may take."""


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The file, to be read. ValueError, in one line: there is none, it is damaged, another program is writing it, or it
    has its data in files elsewhere."""
    try:
        with h5py.File(path, "r") as file:
            _check_inside(file, path, {path.resolve()})
            yield file
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ValueError(f"{path}: a folder, a file expected") from None
    except BlockingIOError:
        raise ValueError(f"{path}: locked: another program is writing it") from None
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path}: damaged or cut short, or not HDF5 ({str(error).splitlines()[0]})") from None


def check_memory(path: Path, size: int, what: str = "its arrays take") -> None:
    """ValueError where so many bytes of a file are too many to be read. What a file takes on the disk says nothing: its
    arrays may be compressed, or empty."""
    free = psutil.virtual_memory().available
    if size > _SHARE * free:
        raise ValueError(
            f"{path}: {what} {size / 2**30:.1f} GiB, at most {_SHARE * free / 2**30:.1f} GiB expected:"
            f" {_SHARE:.0%} of the free memory"
        )


def strings(path: Path, found: h5py.Dataset, where: str) -> list[str]:
    """A short list of names. ValueError where it is too long to be one, or holds anything else."""
    if isinstance(found, h5py.Dataset) and not found.size:
        return []
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "OSU" or found.size > MOST_NAMES:
        size = f" of {found.size}" if isinstance(found, h5py.Dataset) else ""
        raise ValueError(f"{path}: {where}: a list of at most {MOST_NAMES} names expected, and not one{size}")
    check_memory(path, found.size * found.dtype.itemsize, f"{where} takes")
    values = np.asarray(found).ravel().tolist()
    return [value.decode(errors="replace") if isinstance(value, bytes) else str(value) for value in values]


def dataset(group: h5py.Group, name: str, where: str) -> h5py.Dataset:
    """An array of numbers. ValueError, which begins with `where`, where it is missing or something else."""
    try:
        found = group[name]
    except KeyError:
        raise ValueError(f"{where} has no {name}; it has {', '.join(sorted(group)) or 'nothing'}") from None
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "buif":
        kind = found.dtype if isinstance(found, h5py.Dataset) else "a group"
        raise ValueError(f"{where}: {name} is {kind}, an array of numbers expected")
    return found


def _check_inside(file: h5py.File, path: Path, seen: set[Path]) -> None:
    """ValueError for links and arrays that lead out of the file's folder."""
    folder = path.resolve().parent

    def other(name: str, at: str, how: str) -> Path:
        there = (folder / name).resolve()
        if not there.is_relative_to(folder):
            raise ValueError(f"{path}: {at} {how} {name}, nothing outside of the file's folder expected")
        if not there.is_file():
            raise ValueError(f"{path}: {at} {how} {name}, which is not there")
        return there

    # Collected first: h5py ends in a SystemError where a visitor raises.
    links: list[tuple[str, str]] = []
    arrays: list[tuple[str, h5py.Dataset]] = []
    blocks: list[tuple[int, str]] = []

    def look_at_link(name: str, link: object) -> None:
        if isinstance(link, h5py.ExternalLink):
            links.append((name, link.filename))

    def look_at(name: str, item: object) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        if item.is_virtual or item.external:
            arrays.append((name, item))
        if item.chunks is not None:
            blocks.append((math.prod(item.chunks) * item.dtype.itemsize, name))

    file.visititems_links(look_at_link)
    file.visititems(look_at)
    if blocks:  # which are unpacked as a whole, however little of them is read
        size, name = max(blocks)
        check_memory(path, size, f"a chunk of {name} takes")
    linked = {other(to, name, "links to") for name, to in links}
    for name, array in arrays:
        if array.external:
            raise ValueError(f"{path}: {name} has its numbers in {array.external[0][0]}, in the file itself expected")
        sources = {source.file_name for source in array.virtual_sources()} - {"."}
        linked |= {other(source, name, "is a view of") for source in sources}
    for there in sorted(linked - seen):
        seen.add(there)
        with h5py.File(there, "r") as also:
            _check_inside(also, there, seen)
