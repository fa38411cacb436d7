"""Files that appear whole or not at all, whatever stops the one that writes them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` at the end, and goes without a trace on an error.

    Makes the folder. Raises OSError where that or the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)  # mkstemp's files are for their owner alone
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_secret(path: Path, text: str) -> None:
    """Writes what only its owner may read. Makes the folder. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    Path(name).replace(path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes `content` as JSON. Raises ValueError for NaN, which JSON has no value for, and OSError."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def add_line(path: Path, content: Mapping[str, Any]) -> None:
    """Adds `content` to a file of JSON, one line each, and returns when it is on disk. Raises OSError, ValueError."""
    with path.open("a") as file:
        file.write(json.dumps(content, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """What add_line has written, but for a last line that is not whole; [] where there is no file."""
    try:
        lines = path.read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` to write to; it takes the place of `path` at the end, and of what is there, and goes
    without a trace on an error. Raises OSError where that cannot be done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp's folders are for their owner alone
        if path.exists():
            aside = temporary.with_name(f"{temporary.name}.before")
            path.rename(aside)  # a folder takes the place of an empty one alone
            try:
                temporary.rename(path)
            except OSError:
                aside.rename(path)
                raise
            shutil.rmtree(aside)
        else:
            temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
