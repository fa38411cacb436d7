"""Files that appear whole or not at all, whatever stops the one that writes them: Ctrl-C, kill -9, a power cut.

What is half written has a hidden name beside the file, `.<name>.<host>-<process>-<random>.part`. Who was killed leaves
it there; the next one to write the file removes it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` at the end, and goes without a trace on an error.

    At the end it is on the disk, and its mode is what the umask allows. Makes the folder. Raises OSError where that or
    the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = part_beside(path)
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        to_disk(temporary)
        temporary.replace(path)
        to_disk(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def part_beside(path: Path) -> Path:
    """A name beside `path` for what is not whole yet. What processes that have gone left there is removed."""
    host = re.sub(r"[^\w.]", "_", os.uname().nodename)[:32]
    ours = re.compile(re.escape(f".{path.name}.{host}-") + r"(\d+)-[0-9a-f]{8}\.part(\.before)?")
    try:
        beside = [entry.name for entry in os.scandir(path.parent) if entry.name.startswith(f".{path.name}.")]
    except OSError:
        beside = []
    for name in beside:
        found = ours.fullmatch(name)
        if found and not _runs(int(found[1])):
            if found[2] and not path.exists():  # killed while it was changing the one for the other
                path.with_name(name).rename(path)
            else:
                _remove(path.with_name(name))
    return path.with_name(f".{path.name}.{host}-{os.getpid()}-{secrets.token_hex(4)}.part")


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def to_disk(path: Path) -> None:
    """Returns when what `path` contains, a file's bytes or a folder's names, would outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_secret(path: Path, text: str) -> None:
    """Writes what only its owner may read. Makes the folder. Raises OSError."""
    with atomic_write(path) as temporary:
        temporary.chmod(0o600)
        temporary.write_text(text)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes `content` as JSON. Raises ValueError for NaN, which JSON has no value for, and OSError."""
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    with named_errors(path), atomic_write(path) as temporary:
        temporary.write_text(text)


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Within, an OSError that names no file (a full disk) names this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def add_line(path: Path, content: Mapping[str, Any]) -> None:
    """Adds `content` to a file of JSON, one line each, and returns when it is on disk. A last line that is not whole,
    of somebody who was killed, is dropped first. Raises OSError, which names the file, and ValueError for NaN."""
    line = json.dumps(content, allow_nan=False) + "\n"
    with named_errors(path):
        new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            whole = _whole(size, lambda start, count: os.pread(descriptor, count, start))
            os.ftruncate(descriptor, whole)
            try:
                rest = line.encode()
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, whole)  # a part of a line would be no result
                raise
        finally:
            os.close(descriptor)
        if new:
            to_disk(path.parent)


def _whole(size: int, read: Callable[[int, int], bytes], block: int = 4096) -> int:
    """Bytes of a file up to the end of its last whole line."""
    while size:
        start = max(0, size - block)
        end = read(start, size - start).rfind(b"\n")
        if end >= 0:
            return start + end + 1
        size = start
    return 0


def read_lines(path: Path) -> list[dict[str, Any]]:
    """What add_line has written, but for a last line that is not whole; [] where there is no file.

    ValueError, which names the file and the line, for another one that is none.
    """
    try:
        lines = path.read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    found = []
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            break
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            raise ValueError(f"{path}: line {number} is damaged: no JSON") from None
        if not isinstance(content, dict):
            raise ValueError(f"{path}: line {number} is damaged: an object of JSON expected")
        found.append(content)
    return found


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` to write to; it takes the place of `path` at the end, and of what is there, and goes
    without a trace on an error. At the end it is on the disk. Raises OSError where that cannot be done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = part_beside(path)
    temporary.mkdir()
    try:
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                to_disk(Path(folder, name))
            to_disk(Path(folder))
        if path.exists():
            aside = temporary.with_name(f"{temporary.name}.before")
            path.rename(aside)  # a folder takes the place of an empty one alone
            try:
                temporary.rename(path)
            except OSError:
                aside.rename(path)
                raise
            to_disk(path.parent)
            shutil.rmtree(aside)
        else:
            temporary.rename(path)
            to_disk(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


class NamelessFile:
    """A file in the folder of `path` that has no name until :meth:`name`: of who is killed before, nothing is left.

    Another process can write to it by `writable`, if it is given `descriptor`. Where a file system has no such files
    (NFS), it has the name of a part. Raises OSError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part: Path | None = None
        try:
            self.descriptor = os.open(path.parent, os.O_TMPFILE | os.O_RDWR, 0o666)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
            self._part = part_beside(path)
            self.descriptor = os.open(self._part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)

    @property
    def writable(self) -> str:
        return f"/proc/self/fd/{self.descriptor}"

    def name(self) -> None:
        """Gives it its name, in the place of a file that has it."""
        os.fsync(self.descriptor)
        if self._part is None:
            self._part = part_beside(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:  # with a folder's descriptor, as os.link follows links only then
                os.link(self.writable, self._part.name, dst_dir_fd=folder, follow_symlinks=True)
            finally:
                os.close(folder)
        self._part.replace(self._path)
        self._part = None
        to_disk(self._path.parent)

    def close(self) -> None:
        """Without :meth:`name` before, it is gone."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
        if self._part is not None:
            self._part.unlink(missing_ok=True)
            self._part = None
