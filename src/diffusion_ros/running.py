"""What runs on this machine: each system that `diffusion_ros` started is a small file while its process lives.

The file names the ROS domain and the namespace, so that another terminal finds the system without being told. A lock on
it says that its process lives: the system frees it however the process ends, and no process id is taken for another's.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from diffusion_ros.control.stop_record import stop_folder

TRANSPORT = (
    "RMW_IMPLEMENTATION",
    "ROS_AUTOMATIC_DISCOVERY_RANGE",
    "FASTDDS_DEFAULT_PROFILES_FILE",
    "FASTRTPS_DEFAULT_PROFILES_FILE",
)
"""Environment variables without which another process may not hear a system."""
_PREFIX = "running-"


@dataclass(frozen=True)
class RunningSystem:
    """A system that was started here."""

    system: str
    """Its name, as simulation."""
    task: str
    domain_id: int
    namespace: str
    """Of all its nodes, without slashes at its ends; '' for none."""
    environment: Mapping[str, str]
    """What of its environment says whom it can hear: TRANSPORT's variables, those that are set."""
    output_dir: str
    process: int
    """Process id of the command that started it."""

    def __str__(self) -> str:
        space = f", namespace {self.namespace}" if self.namespace else ""
        task = f" {self.task}" if self.task and self.task != self.system else ""
        return f"{self.system}{task} (domain {self.domain_id}{space})"


@contextmanager
def announced(system: RunningSystem) -> Iterator[None]:
    """Within, the system is among those that :func:`running` finds. Where its file cannot be written it runs all the
    same, and has to be named to whoever wants to steer it."""
    path = stop_folder() / f"{_PREFIX}{system.process}-{system.domain_id}.json"
    file: int | None = None
    try:
        file = _written(path, json.dumps(asdict(system)))
    except OSError:
        pass
    try:
        yield
    finally:
        if file is not None:
            path.unlink(missing_ok=True)
            os.close(file)
            try:
                path.parent.rmdir()
            except OSError:
                pass  # there are others' files


def _written(path: Path, text: str) -> int:
    """Writes a file that nobody finds before it is whole and locked; returns its descriptor, which holds the lock."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}")
    file = os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(file, text.encode())
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        part.replace(path)
    except BaseException:
        os.close(file)
        part.unlink(missing_ok=True)
        raise
    return file


def running() -> list[RunningSystem]:
    """The user's systems on this machine, the oldest first. What others have left there does not count."""
    found = []
    for path in stop_folder().glob(f"{_PREFIX}*.json"):
        try:
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            status = os.fstat(file)
            if status.st_uid != os.getuid():
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:  # its process lives
                content = json.loads(os.read(file, 65536))
                found.append((status.st_mtime, RunningSystem(**content)))
            else:
                path.unlink(missing_ok=True)
        except (OSError, ValueError, TypeError):
            continue
        finally:
            os.close(file)
    return [system for _, system in sorted(found, key=lambda pair: pair[0])]
