"""Every hostile file of data, pictures and settings is refused in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hostile_files import ROWS

ROOT = Path(__file__).resolve().parents[1]


def test_all_are_refused_in_one_line_within_their_memory() -> None:
    """In a process of its own, whose memory is limited meanwhile."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    command = [sys.executable, "-m", "tests.hostile_files"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.splitlines()[-1] == f"{len(ROWS)} of {len(ROWS)} refused in one line, 0 did anything else"
    assert run.stderr == ""
