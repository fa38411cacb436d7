"""StopRecord: remembers that somebody has stopped an executor, for the executor that takes its place if it dies.

bringup, `ros2 launch` and service managers start a node again with its first parameters, which may say `enabled: true`.
So a stop is written to a file in the machine's temporary folder, with the process that starts the nodes. If a person
starts the whole system anew, that process is another one, and the record does not count.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from diffusion_ros.atomic_file import write_json


def stop_folder() -> Path:
    """The user's own folder in the machine's temporary folder."""
    return Path(tempfile.gettempdir()) / f"diffusion_ros-{os.getuid()}"


class StopRecord:
    """The record of one executor: by its name with namespace, and its ROS domain."""

    def __init__(self, name: str, domain_id: int, folder: Path) -> None:
        self._path = folder / f"stop-{domain_id}-{name.strip('/').replace('/', '-')}.json"

    def write(self, reason: str) -> None:
        """Raises OSError, which the caller handles: a stop that cannot be recorded is still a stop."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(self._path, {"started_by": _starter(), "reason": reason})

    def read(self) -> str:
        """Why the executor before this one was stopped; '' if it was not."""
        try:
            record = json.loads(self._path.read_text())
            mine = self._path.stat().st_uid == os.getuid() and record["started_by"] == _starter()
            return str(record["reason"]) if mine else ""
        except FileNotFoundError:
            return ""
        except (OSError, ValueError, KeyError, TypeError):
            return "a record of a stop that cannot be read"

    def clear(self) -> None:
        try:
            self._path.unlink(missing_ok=True)
            self._path.parent.rmdir()
        except OSError:
            pass  # there are others', or there was none


def _starter() -> list[str]:
    """Process id and start time of our parent: together no other process has them until the machine starts again."""
    parent = os.getppid()
    try:
        stat = Path(f"/proc/{parent}/stat").read_text()
        # After the name, which may hold anything: field 22 is the start time.
        return [str(parent), stat.rpartition(")")[2].split()[19]]
    except (OSError, IndexError):
        return [str(parent), ""]
