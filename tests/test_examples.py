"""The examples do what they say, as a newcomer starts them: a process each, in a folder that is not the project's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ros_graph

from diffusion_ros import checkpoint

ROOT = Path(__file__).parents[1]


def run(name: str, folder: Path, *arguments: str) -> list[str]:
    """The lines that examples/<name> prints."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    command = [sys.executable, str(ROOT / "examples" / name), *arguments]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout.splitlines()


def test_ask_for_a_chunk(tmp_path: Path) -> None:
    lines = run("ask_for_a_chunk.py", tmp_path)
    assert lines[0] == "lift, trained at 20 Hz; it sees"
    assert "chunk (15, 7); the first 8 rows are executed before it is asked again:" in lines
    rows = np.array([[float(word) for word in re.findall(r"-?[\d.]+", line)] for line in lines[-15:]])
    assert rows.shape == (15, 7)
    # Down to the cube, with the hand open.
    assert rows[:, 2].sum() < -0.1 and rows[:8, 6].max() < -0.9


@pytest.mark.slow  # policy and executor on a bus are in test_nodes.py
def test_fake_robot(tmp_path: Path) -> None:
    with ros_graph.own_domain() as domain:
        lines = run("fake_robot.py", tmp_path, "--seconds", "2.5", "--domain", str(domain))
    assert any("holding: not enabled" in line or "starting" in line for line in lines), "it waits to be enabled"
    commands, moved = map(float, re.findall(r"[\d.]+", lines[-1])[:2])
    assert re.fullmatch(r"\d+ commands moved the hand by [\d.]+ cm", lines[-1])
    assert commands > 10 and moved > 1
    assert any("executor: acting" in line for line in lines)
    places = [re.match(r"hand at \[(.+?)\] m", line) for line in lines[:-1]]
    hands = np.array([[float(word) for word in place.group(1).split(",")] for place in places if place])
    assert len(hands) == len(lines) - 1
    # In the box that the executor was given.
    assert np.all(hands >= [-0.1501, -0.1001, 0.8499]) and np.all(hands <= [0.0501, 0.1001, 1.0201])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow  # a training from a file is in test_training.py
def test_train_on_your_data(tmp_path: Path) -> None:
    *_, last = run("train_on_your_data.py", tmp_path, "own", "--iterations", "12")
    assert last.startswith("own/policy.pt: a chunk (9, 7) that leads by [")
    spec = checkpoint.read_spec(tmp_path / "own/policy.pt")
    assert spec.task == "lift" and spec.training["data"] == ["own/recordings.hdf5"]
