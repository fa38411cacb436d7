"""What this machine must have for a system, looked at before anything starts: a device, and OpenGL to draw with.

Each look is in a process of its own, so that drivers and libraries are not loaded here.
"""

from __future__ import annotations

import subprocess
import sys

from diffusion_ros.systems.startup import Startup, UsageError

DRAWING = ("simulation", "rehearsal")
"""Nodes that draw with OpenGL."""
_DEVICE = """
import sys
import torch
try:
    torch.zeros(1, device=sys.argv[1])
except Exception as error:
    sys.exit(str(error).splitlines()[0])
"""
_DRAWING = """
import sys
from diffusion_ros.simulators.render_backend import check_it_opens
try:
    check_it_opens()
except OSError as error:
    sys.exit(str(error))
"""
_SECONDS = 60.0


def check_machine(startup: Startup) -> None:
    """Raises UsageError, one line, for what is missing."""
    device = str(startup.values.get("device", "cpu"))
    if device != "cpu" and (wrong := _said(_DEVICE, device)):
        raise UsageError(f"device {device!r}: {wrong}; cpu always works")
    if any(node.name in DRAWING for node in startup.nodes) and (wrong := _said(_DRAWING)):
        raise UsageError(wrong)


def _said(script: str, *words: str) -> str:
    """The last line of stderr of a script that fails, '' of one that does not."""
    try:
        run = subprocess.run(
            [sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"did not answer within {_SECONDS:g} s"
    if run.returncode == 0:
        return ""
    lines = [line for line in run.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"ended with status {run.returncode}"
