"""Pictures of more demonstrations than memory holds: in a file without a name, mapped, written and read in order."""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

Pictures = NDArray[np.uint8]
IN_MEMORY = 0.4
"""Of the free memory that pictures may take; more of them are on the disk."""
_BLOCK = 1024
"""Pictures that are looked at together."""


def room(shape: tuple[int, ...], near: Path, on_disk: bool | None = None) -> Pictures:
    """Room for pictures (N, H, W, C), zeros. On the disk it is in the folder of `near`, or where that cannot be written
    in that of temporary files, and gone with the process.

    on_disk: None where the size decides. Raises ValueError, in one line, for a disk without that much room.
    """
    size = int(np.prod(shape, dtype=np.int64))
    if on_disk is None:
        on_disk = size > IN_MEMORY * psutil.virtual_memory().available
    if not on_disk or not size:
        return np.zeros(shape, np.uint8)
    for folder in (near.resolve().parent, Path(tempfile.gettempdir())):
        try:
            descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
        except OSError:
            continue
        try:
            os.posix_fallocate(descriptor, 0, size)  # a mapping of a full disk would end the process
            mapping = mmap.mmap(descriptor, size)
        except OSError as error:
            free = shutil.disk_usage(folder).free
            raise ValueError(
                f"{near}: its pictures take {size / 2**30:.1f} GiB on the disk, {folder} has {free / 2**30:.1f} GiB"
                f" ({error.strerror})"
            ) from None
        finally:
            os.close(descriptor)
        mapping.madvise(mmap.MADV_RANDOM)  # what is asked for, and nothing beside it
        return np.frombuffer(mapping, np.uint8).reshape(shape)
    raise ValueError(f"{near}: its pictures take {size / 2**30:.1f} GiB, and no folder can hold a file for them")


def mapping_of(array: NDArray[Any]) -> mmap.mmap | None:
    """The file that an array is in; None for one in memory."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    return base if isinstance(base, mmap.mmap) else None


def forget(array: NDArray[Any]) -> None:
    """What was read or written of an array on the disk no longer counts as this process's memory. It stays what it is,
    and in the system's cache as long as there is room."""
    if (mapping := mapping_of(array)) is not None:
        mapping.madvise(mmap.MADV_DONTNEED)


def joined(parts: Sequence[Pictures], near: Path) -> Pictures:
    """One after the other; on the disk where one of them is."""
    if all(mapping_of(part) is None for part in parts):
        return np.concatenate(parts)
    found = room((sum(map(len, parts)), *parts[0].shape[1:]), near, on_disk=True)
    at = 0
    for part in parts:
        for first in range(0, len(part), _BLOCK):
            block = part[first : first + _BLOCK]
            found[at : at + len(block)] = block
            at += len(block)
            forget(part)
            forget(found)
    return found


def feed(digest: Any, array: NDArray[Any]) -> None:
    """All bytes of an array to a hash, a block after the other."""
    for first in range(0, len(array), _BLOCK):
        digest.update(np.ascontiguousarray(array[first : first + _BLOCK]).data)
        forget(array)


def rows(array: Pictures, chosen: NDArray[np.int64]) -> Pictures:
    """array[chosen], read in the order in which it lies on the disk."""
    order = np.argsort(chosen, kind="stable")
    found = np.empty((len(chosen), *array.shape[1:]), np.uint8)
    found[order] = array[chosen[order]]
    forget(array)
    return found
