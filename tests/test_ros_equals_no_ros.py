"""In lockstep the ROS graph gives what training.evaluate gives: actions and final simulator state, bit for bit."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fake_rl
import pytest
import torch
from fake_policy import LOW_DIM, OBJECT, relative, save, spec
from gym_rollouts import gym_rollouts
from ros_graph import own_domain

from diffusion_ros import checkpoint
from diffusion_ros.models.policy import Policy
from diffusion_ros.simulators.arm import Simulation
from training import evaluate
from training.evaluation.rollout import roll_out

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINTS = ROOT / "checkpoints"
RunCommand = Callable[..., tuple[object, str]]
COMPARED = ("index", "seed", "success", "steps", "actions_sha256", "state_sha256")


def run(module: str, *words: object) -> str:
    """What it prints."""
    with own_domain():
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", module, *map(str, words)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def balanced(checkpoint: Path, task: str, episodes: int, folder: Path, *more: object) -> list[dict]:
    """Episodes of a Gymnasium task through the graph, reduced to what Gymnasium itself gives."""
    run("diffusion_ros.bringup", task, "--mode", "lockstep", "--checkpoint", checkpoint, "--episodes", episodes,
        "--seed", 100_000, "--json", folder / "graph.json", "--output-dir", folder / "run", *more)  # fmt: skip
    results = json.loads((folder / "graph.json").read_text())["results"]
    names = ("index", "seed", "steps", "return", "terminated", "actions_sha256", "state_sha256")
    return [{name: result[name] for name in names} for result in results]


def through_graph(checkpoint: Path, task: str, episodes: int, folder: Path, *more: object) -> tuple[object, ...]:
    """Runs episodes through the graph, with graph.json as the result; returns the words that evaluate takes too."""
    common = ("--checkpoint", checkpoint, "--episodes", episodes, "--seed", 100_000, *more)
    said = run("diffusion_ros.bringup", "simulation", "--task", task, "--mode", "lockstep", "--namespace", "left",
        "--json", folder / "graph.json", *common, "--output-dir", folder / "run")  # fmt: skip
    assert said.startswith(f"{task}: ") and said.endswith(f" of {episodes} succeeded; {folder}/graph.json\n")
    return common


def both(
    run_command: RunCommand, checkpoint: Path, task: str, episodes: int, folder: Path, *more: object
) -> tuple[list[dict], list[dict]]:
    """Episodes through the graph and without it, reduced to what must be equal."""
    common = through_graph(checkpoint, task, episodes, folder, *more)
    graph, plain = folder / "graph.json", folder / "plain.json"
    status, said = run_command(evaluate.main, "--json", plain, *common)
    assert status == 0, said
    summaries = [json.loads(path.read_text()) for path in (graph, plain)]
    for key in ("task", "episodes", "seed", "success_rate", "checkpoint_sha256"):
        assert summaries[0][key] == summaries[1][key], key
    first, second = ([{k: e[k] for k in COMPARED} for e in summary["results"]] for summary in summaries)
    return first, second


def test_every_input_matters_and_every_bit_arrives(tmp_path: Path, run_command: RunCommand) -> None:
    """A made-up policy whose actions depend on every pixel, pose and joint: any difference would show."""
    path = save(tmp_path / "lift.pt", spec(task="lift", environment="Lift"))
    graph, plain = both(run_command, path, "lift", 2, tmp_path, "--max-steps", 17)
    assert graph == plain
    assert graph[0]["steps"] == 17
    summary = json.loads((tmp_path / "graph.json").read_text())
    assert (summary["mode"], summary["missed"], summary["held"], summary["restarted"]) == ("lockstep", 0, 0, {})
    assert summary["checkpoint_sha256"] == checkpoint.file_sha256(path)
    logs = {log.name for log in (tmp_path / "run").iterdir()}
    assert {f"{name}.log" for name in ("simulation", "policy", "executor")} <= logs
    assert graph[0]["actions_sha256"] != graph[1]["actions_sha256"]


@pytest.mark.slow
def test_poses_seen_from_the_hand(tmp_path: Path, run_command: RunCommand) -> None:
    path = save(tmp_path / "lift.pt", relative((*LOW_DIM, *OBJECT), task="lift", environment="Lift"))
    graph, plain = both(run_command, path, "lift", 2, tmp_path, "--max-steps", 40)
    assert graph == plain and graph[0]["actions_sha256"] != graph[1]["actions_sha256"]
    assert json.loads((tmp_path / "graph.json").read_text())["held"] == 0


@pytest.mark.slow  # a hold of this kind is in test_nodes.py, on a bus, and in test_control_loop.py
def test_from_state_and_what_lies_out_of_range_is_held_alike(tmp_path: Path) -> None:
    """Fingers that open and close: now in the range, now beyond it."""
    inputs = tuple(
        dataclasses.replace(tensor, low=(-0.1, -0.03), high=(0.03, 0.1)) if "gripper" in tensor.name else tensor
        for tensor in (*LOW_DIM, *OBJECT)
    )
    path = save(tmp_path / "lift.pt", spec(inputs, task="lift", environment="Lift"))
    through_graph(path, "lift", 2, tmp_path, "--max-steps", 60)
    # What training.evaluate's worker does; the command itself is compared above.
    simulation, policy = Simulation("lift", ()), Policy(checkpoint.load(path))
    try:
        plain = [dataclasses.asdict(episode) for episode in roll_out(policy, simulation, 2, 100_000, 60)]
    finally:
        simulation.close()
    graph = json.loads((tmp_path / "graph.json").read_text())["results"]
    for first, second in zip(graph, plain, strict=True):
        assert {name: first[name] for name in COMPARED} == {name: second[name] for name in COMPARED}
    held = [episode["held"] for episode in graph]
    assert 0 < sum(held) < 120, held


@pytest.mark.slow  # test_bringup.py compares an episode of these with Gymnasium's, too
@pytest.mark.parametrize(
    ("task", "module"),
    [
        ("cartpole", fake_rl.EveryBitDiscrete()),
        ("double_pendulum", fake_rl.EveryBitContinuous()),
    ],
)
def test_gymnasium_tasks(task: str, module: torch.nn.Module, tmp_path: Path, run_command: RunCommand) -> None:
    """Made-up policies whose every action depends on the last bits of every number observed, in Gymnasium itself."""
    path = fake_rl.save(tmp_path / "policy.pt", module, fake_rl.spec(task))
    plain = gym_rollouts(path, 3, 100_000, 120)
    graph = balanced(path, task, 3, tmp_path, "--max-steps", 120)
    assert graph == plain
    status, said = run_command(evaluate.main, "--checkpoint", path, "--episodes", 3, "--seed", 100_000,
        "--max-steps", 120, "--json", tmp_path / "plain.json")  # fmt: skip
    assert status == 0, said
    evaluated = json.loads((tmp_path / "plain.json").read_text())["results"]
    assert [{name: episode[name] for name in evaluated[0]} for episode in graph] == evaluated
    assert len({episode["state_sha256"] for episode in plain}) == 3
    assert max(episode["steps"] for episode in plain) > 50


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["cartpole_rainbow", "double_pendulum_ppo"])
def test_shipped_policies_of_gymnasium_tasks(name: str, tmp_path: Path) -> None:
    path = CHECKPOINTS / f"{name}.pt"
    if not path.exists():
        pytest.skip(f"{path} is not there yet")
    assert balanced(path, name.rpartition("_")[0], 20, tmp_path) == gym_rollouts(path, 20, 100_000)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["can_pixels", "square_state"])
def test_shipped_policies_over_20_seeds(name: str, tmp_path: Path, run_command: RunCommand) -> None:
    graph, plain = both(run_command, CHECKPOINTS / f"{name}.pt", name.split("_")[0], 20, tmp_path)
    assert graph == plain
    assert len({episode["state_sha256"] for episode in graph}) == 20
