"""What an executor leaves for the one that takes its place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from diffusion_ros.control.stop_record import StopRecord, stop_folder

READ = """
import sys
from pathlib import Path
from diffusion_ros.control.stop_record import StopRecord
print(StopRecord("/left/executor", 7, Path(sys.argv[1])).read())
"""


def test_a_stop_is_read_by_who_has_the_same_starter_and_by_nobody_else(tmp_path: Path) -> None:
    record = StopRecord("/left/executor", 7, tmp_path / "stops")
    assert record.read() == ""
    record.write("stopped")
    assert StopRecord("/left/executor", 7, tmp_path / "stops").read() == "stopped"
    assert StopRecord("/right/executor", 7, tmp_path / "stops").read() == ""
    assert StopRecord("/left/executor", 8, tmp_path / "stops").read() == ""
    # A process that we start has another starter: ourselves.
    command = [sys.executable, "-c", READ, str(tmp_path / "stops")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "\n"
    record.clear()
    assert record.read() == "" and not (tmp_path / "stops").exists()
    record.clear()


def test_a_record_that_cannot_be_read_is_a_stop(tmp_path: Path) -> None:
    record = StopRecord("executor", 7, tmp_path)
    record.write("stopped")
    (path,) = tmp_path.iterdir()
    for content in ("{", "[]", json.dumps({"reason": "x"})):
        path.write_text(content)
        assert record.read() == "a record of a stop that cannot be read"


def test_the_folder_is_the_users_own(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    assert stop_folder() == tmp_path / f"diffusion_ros-{os.getuid()}"
