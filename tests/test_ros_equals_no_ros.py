"""In lockstep the ROS graph gives what training.evaluate gives: actions and final simulator state, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_policy import LOW_DIM, OBJECT, save, spec
from ros_graph import own_domain

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINTS = ROOT / "checkpoints"
COMPARED = ("index", "seed", "success", "steps", "actions_sha256", "state_sha256")


def run(module: str, *words: object) -> None:
    with own_domain():
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", module, *map(str, words)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]


def both(checkpoint: Path, task: str, episodes: int, folder: Path, *more: object) -> tuple[list[dict], list[dict]]:
    """Episodes through the graph and without it, reduced to what must be equal."""
    common = ("--checkpoint", checkpoint, "--episodes", episodes, "--seed", 100_000, *more)
    graph, plain = folder / "graph.json", folder / "plain.json"
    run("diffusion_ros.bringup", "simulation", "--task", task, "--mode", "lockstep", "--json", graph, *common,
        "--output-dir", folder / "run")  # fmt: skip
    run("training.evaluate", "--json", plain, *common)
    summaries = [json.loads(path.read_text()) for path in (graph, plain)]
    for key in ("task", "episodes", "seed", "success_rate", "checkpoint_sha256"):
        assert summaries[0][key] == summaries[1][key], key
    first, second = ([{k: e[k] for k in COMPARED} for e in summary["results"]] for summary in summaries)
    return first, second


def test_every_input_matters_and_every_bit_arrives(tmp_path: Path) -> None:
    """A made-up policy whose actions depend on every pixel, pose and joint: any difference would show."""
    path = save(tmp_path / "lift.pt", spec(task="lift", environment="Lift"))
    graph, plain = both(path, "lift", 2, tmp_path, "--max-steps", 25)
    assert graph == plain
    assert graph[0]["steps"] == 25
    assert graph[0]["actions_sha256"] != graph[1]["actions_sha256"]


def test_from_state_too(tmp_path: Path) -> None:
    path = save(tmp_path / "lift.pt", spec((*LOW_DIM, *OBJECT), task="lift", environment="Lift"))
    graph, plain = both(path, "lift", 2, tmp_path, "--max-steps", 25)
    assert graph == plain


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["can_pixels", "square_state"])
def test_shipped_policies_over_20_seeds(name: str, tmp_path: Path) -> None:
    graph, plain = both(CHECKPOINTS / f"{name}.pt", name.split("_")[0], 20, tmp_path)
    assert graph == plain
    assert len({episode["state_sha256"] for episode in graph}) == 20
