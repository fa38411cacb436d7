"""A run of a simulation that was killed goes on with its missing episodes, or says why it does not."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fake_rl
import pytest
import ros_graph

from diffusion_ros import bringup
from diffusion_ros.atomic_file import add_line
from diffusion_ros.systems.resuming import to_go_on

ROOT = Path(__file__).parents[1]


def words(checkpoint: Path, folder: Path, *more: object) -> list[str]:
    given = ("cartpole", "--checkpoint", checkpoint, "--episodes", 4, "--mode", "lockstep", "--max-steps", 30,
        "--video", "false", "--output-dir", folder, *more)  # fmt: skip
    return list(map(str, given))


def system(arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "diffusion_ros.bringup", *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT}/src"},
    )


def run(arguments: list[str]) -> None:
    process = system(arguments)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors


def episodes(folder: Path) -> list[dict[str, Any]]:
    summary = json.loads((folder / "summary.json").read_text())
    timed = ("timings_ms", "missed", "overruns")
    return [{name: value for name, value in result.items() if name not in timed} for result in summary["results"]]


@pytest.mark.slow  # four graphs
def test_a_killed_run_goes_on_to_the_same_results(tmp_path: Path) -> None:
    policy = fake_rl.save(tmp_path / "c.pt", fake_rl.EveryBitDiscrete(), fake_rl.spec())
    with ros_graph.own_domain():
        run(words(policy, tmp_path / "whole"))
        lines = tmp_path / "half/results.jsonl"
        process = system(words(policy, tmp_path / "half", "--episodes", 400))
        while not lines.exists() or len(lines.read_text().splitlines()) < 2:
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
        process.communicate()
        done = len(lines.read_text().splitlines())
        run(words(policy, tmp_path / "half", "--resume", "--episodes", done + 2))
        assert len(lines.read_text().splitlines()) == done + 2
        run(words(policy, tmp_path / "half", "--resume"))  # all there: nothing is started
    assert episodes(tmp_path / "half") == episodes(tmp_path / "whole")


def begun(tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint, and the folder of a run with it that was stopped after 2 of 4 episodes."""
    policy = fake_rl.save(tmp_path / "c.pt", fake_rl.EveryBitDiscrete(), fake_rl.spec())
    request = bringup.parse(words(policy, tmp_path / "run"))
    request.startup.output_dir.mkdir()
    bringup.note(request.startup)
    for index in (0, 1):
        add_line(request.startup.results, {"index": index})
    return policy, tmp_path / "run"


def test_the_first_missing_episode_is_the_first(tmp_path: Path) -> None:
    policy, folder = begun(tmp_path)
    request = bringup.parse(words(policy, folder, "--resume"))
    assert request.first_episode == 2
    assert request.startup.parameters["gym_simulation"]["first_episode"] == 2
    with (folder / "results.jsonl").open("a") as file:
        file.write('{"index": 2')  # the last line of who was killed
    assert bringup.parse(words(policy, folder, "--resume", "--episodes", 9)).first_episode == 2
    assert bringup.parse(words(policy, folder)).first_episode is None


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--seed", 5), "was begun with other settings: gym_simulation: seed 100000, now 5"),
        (("--output-dir", ""), "--resume: expected with --output-dir, the folder of the run that was stopped"),
        (("--output-dir", "elsewhere"), "elsewhere: has no run to resume"),
    ],
)
def test_only_the_same_run_is_gone_on_with(tmp_path: Path, more: tuple[object, ...], said: str) -> None:
    policy, folder = begun(tmp_path)
    with pytest.raises(bringup.UsageError) as raised:
        bringup.parse(words(policy, folder, "--resume", *more))
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_another_checkpoint_and_damaged_files_are_refused(tmp_path: Path) -> None:
    policy, folder = begun(tmp_path)
    fake_rl.save(policy, fake_rl.Balance(), fake_rl.spec())
    with pytest.raises(bringup.UsageError, match=r"other settings: a checkpoint of SHA-256 [0-9a-f]{16}, now [0-9a-f]"):
        bringup.parse(words(policy, folder, "--resume"))
    (folder / "results.jsonl").write_text("{\n")
    with pytest.raises(bringup.UsageError, match=r"results\.jsonl: line 1 is damaged: no JSON"):
        bringup.parse(words(policy, folder, "--resume"))
    (folder / "begun.json").write_text("{")
    with pytest.raises(bringup.UsageError, match=r"begun\.json: damaged \("):
        bringup.parse(words(policy, folder, "--resume"))


def test_the_command_to_go_on_with_is_one_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, folder = begun(tmp_path)
    given = words(policy, folder)
    request = bringup.parse(given)
    for started in (given, [*given, "--resume"], [*given, f"--output-dir={folder}"]):
        said = to_go_on(started, request.startup)
        program, module, name, *rest = shlex.split(said)
        assert (program, module, name) == (sys.executable, "-m", "diffusion_ros")
        assert rest[-3:] == ["--resume", "--output-dir", str(folder)] and rest.count("--output-dir") == 1
        assert bringup.parse(rest).first_episode == 2
    monkeypatch.setattr(sys, "argv", ["/no/such/folder/diffusion_ros"])
    assert to_go_on(given, request.startup).startswith("/no/such/folder/diffusion_ros cartpole ")


@pytest.mark.parametrize("name", ["bag", "lift.mcap"])
def test_a_recorded_run_goes_on_into_a_new_bag(tmp_path: Path, name: str) -> None:
    """In a folder whose name a shell has to be given in quotes."""
    home = tmp_path / "a b"
    home.mkdir()
    given = ["simulation", "--task", "lift", "--checkpoint", str(ROOT / "checkpoints/lift_state.pt")]
    given += ["--output-dir", str(home / "run"), "--record", str(home / name)]
    request = bringup.parse(given)
    (home / "run").mkdir()
    bringup.note(request.startup)
    stem, suffix = Path(name).stem, Path(name).suffix
    for taken in (name, f"{stem}-2{suffix}"):
        (home / taken).mkdir()
        (home / taken / "metadata.yaml").touch()
    rest = shlex.split(to_go_on(request.words, request.startup))[3:]
    assert rest[rest.index("--record") + 1] == str(home / f"{stem}-3{suffix}") and rest.count("--record") == 1
    assert bringup.parse(rest).first_episode == 0
