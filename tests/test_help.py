"""--help is there at once: no command imports torch, a simulator or its trainers before its options are read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from some_slow import one_in

from diffusion_ros.systems import SYSTEMS
from training.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "accelerate", "diffusers", "gymnasium", "robosuite", "mujoco", "tensorboard", "matplotlib", "lerobot")

SCRIPT = f"""
import runpy, sys
module, *words = sys.argv[1:]
sys.argv = [module, *words, "--help"]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert not end.code, end.code
print("imported", *(name for name in {HEAVY!r} if name in sys.modules))
"""


def said(module: str, *words: str) -> tuple[str, list[str]]:
    """The help, and which heavy libraries were imported for it."""
    command = [sys.executable, "-c", SCRIPT, module, *words]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    text, _, imported = run.stdout.rpartition("imported")
    return text, imported.split()


@pytest.mark.parametrize("name", one_in(4, COMMANDS))
def test_the_help_of_a_training_command_needs_no_torch(name: str) -> None:
    text, imported = said(f"training.{name}")
    assert "usage:" in text and "--help" in text
    assert imported == []


def test_nor_does_the_list_of_commands() -> None:
    text, imported = said("training")
    assert all(name in text for name in COMMANDS)
    assert imported == []


@pytest.mark.parametrize("words", ["", *one_in(4, SYSTEMS), "check", "stop"])
def test_nor_does_that_of_diffusion_ros(words: str) -> None:
    text, imported = said("diffusion_ros", *words.split())
    assert "usage:" in text
    assert imported == []


def test_what_is_imported_is_seen(tmp_path: Path) -> None:
    module = tmp_path / "heavy.py"
    module.write_text("import torch\n")
    script = SCRIPT.replace("import runpy, sys\n", f"import runpy, sys\nsys.path.insert(0, {str(tmp_path)!r})\n")
    run = subprocess.run([sys.executable, "-c", script, "heavy"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "torch" in run.stdout.split()
