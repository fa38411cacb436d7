"""The worked example of docs/data.md: its very commands, with fewer episodes and iterations, one after the other."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from ros_graph import own_domain

from diffusion_ros import checkpoint

ROOT = Path(__file__).resolve().parents[1]
FEWER = (
    (r"--episodes \d+", "--episodes 2"),
    (r"--encoder-iterations \d+", "--encoder-iterations 4"),
    (r"--iterations \d+", "--iterations 8"),
    (r"--take-over \d+", "--take-over 1"),
    (r"--speed 0\.9", "--speed 0.5"),
    (r" --mixed-precision bf16", " --batch-size 8"),
)


def commands() -> Iterator[list[str]]:
    """Of the block below the heading, each as its words."""
    page = (ROOT / "docs/data.md").read_text()
    block = page.split("## From your hands to a policy")[1].split("```")[1]
    for line in block.replace("\\\n", " ").splitlines():
        if line and not line.startswith("#"):
            for wide, small in FEWER:
                line = re.sub(wide, small, line)
            yield shlex.split(line)


def started(words: list[str], folder: Path, domain: str) -> subprocess.Popen[str]:
    module = ["diffusion_ros"] if words[0] == "diffusion_ros" else words[2:3]
    rest = words[1:] if words[0] == "diffusion_ros" else words[3:]
    if "--domain-id" in rest:
        rest[rest.index("--domain-id") + 1] = domain
    if "rehearsal" in rest and "--teleop" not in rest:
        rest += ["--max-steps", "40", "--domain-id", domain]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", *module, *rest],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_command_of_the_page_works(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "data").mkdir()
    (tmp_path / "runs").mkdir()
    waiting: subprocess.Popen[str] | None = None
    with own_domain():
        domain = os.environ["ROS_DOMAIN_ID"]
        for words in commands():
            process = started(list(words), tmp_path, domain)
            if "--teleop" in words:
                waiting = process
                continue
            if "training.drive" in words:
                assert waiting is not None
                said, _ = waiting.communicate(timeout=400)
                assert waiting.returncode == 0, said[-3000:]
                waiting = None
                process.send_signal(signal.SIGINT)
                said, _ = process.communicate(timeout=30)
                assert process.returncode == 0, said
                continue
            said, _ = process.communicate(timeout=600)
            assert process.returncode == 0, f"{' '.join(words)}\n{said[-3000:]}"
    with h5py.File(tmp_path / "data/practice.hdf5") as file:
        assert len(file["data"]) == 2, "both succeeded"
        assert all(np.all(demo["by_person"]) for demo in file["data"].values())
    with h5py.File(tmp_path / "data/corrections.hdf5") as file:
        persons = [demo["by_person"][:] for demo in file["data"].values()]
        assert persons and all(0 < np.mean(person) < 1 for person in persons), "policy first, then the person"
    for name in ("practice", "better"):
        spec = checkpoint.read_spec(tmp_path / f"runs/{name}.pt")
        assert spec.response == () and spec.base_pose == (), "of the robot that was driven, not of the simulator's"
        assert spec.rate == 20
    summary = json.loads((tmp_path / "practice.json").read_text())
    assert summary["episodes"] == 2 and summary["refused"] == {}
