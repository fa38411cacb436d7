"""Commands that are typed wrongly, and runs that are interrupted: each leaves one line that tells what to do next."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import fake_rl
import pytest
import ros_graph

from diffusion_ros import bringup
from training import __main__ as training

ROOT = Path(__file__).parents[1]
NEXT = r"expected|required|one of|--help|choose from|pip install|`diffusion_ros"
"""What tells how it is done."""


@pytest.mark.parametrize(
    "words",
    [
        "diffusion_ros simulaton --task can",
        "diffusion_ros simulation --task cann",
        "diffusion_ros simulation --task can --episodes three",
        "diffusion_ros simulation --task can --video above",
        "diffusion_ros maze --size huge",
        "diffusion_ros cartpole --checkpoint nowhere.pt",
        "diffusion_ros real_robot --robot nobody --checkpoint nowhere.pt",
        "diffusion_ros fault foggy agentview",
        "diffusion_ros enable --domain-id 999",
        "diffusion_ros_training trian_ppo",
        "diffusion_ros_training train_ppo --out x.pt --total-timestep 5",
        "diffusion_ros_training train_rainbow --out x.pt --n-steps ten",
    ],
)
def test_a_command_typed_wrongly_is_one_line_that_tells_what_to_do(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "Popen", None)
    command, *rest = words.split()
    if command == "diffusion_ros":
        status: object = bringup.main(rest)
    else:
        handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
        monkeypatch.setattr(sys, "argv", [command, *rest])
        try:
            with pytest.raises(SystemExit) as ended:
                training.main()
        finally:
            for number, handler in handlers:
                signal.signal(number, handler)
        status = ended.value.code
    assert status == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert re.search(NEXT, line) or "no such checkpoint" in line, line
    assert list(tmp_path.iterdir()) == []


CARTPOLE = "diffusion_ros cartpole --checkpoint cart.pt --mode lockstep --no-video --output-dir run --episodes 400"
REST = (
    r"to go on: \S+ -m diffusion_ros cartpole --checkpoint cart.pt --mode lockstep --no-video --episodes 400 --resume"
    r" --output-dir /\S+/run"
)
PPO = "training train_ppo --env-id InvertedPendulum-v5 --out x.pt --total-timesteps 1000000 --evaluation-episodes 0"
RAINBOW = "training train_rainbow --out x.pt --save-every 500"
DIGITS = "training train_ddpm --data digits --out x.pt --iterations 100000 --dim 8 --sample-every 100000"


def exists(name: str) -> Callable[[Path, str], bool]:
    return lambda folder, said: (folder / name).exists()


def says(text: str) -> Callable[[Path, str], bool]:
    return lambda folder, said: text in said


def episodes(folder: Path, said: str) -> bool:
    results = folder / "run/results.jsonl"
    return results.exists() and len(results.read_text().splitlines()) >= 2


def moves(folder: Path, said: str) -> bool:
    """The bar has moved."""
    return re.search(r"[^0-9][1-9]\d*/\d+ \[", said) is not None


def saved_twice(folder: Path, said: str) -> bool:
    """After a segment: the first checkpoint is there, or the bar has moved."""
    return moves(folder, said) and (folder / "x.pt.run/state.pt").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "number", "until", "expected"),
    [
        (CARTPOLE, signal.SIGINT, says("ROS_DOMAIN_ID"), r"stopped by SIGINT: no episode was finished; logs: /.*run"),
        (CARTPOLE, signal.SIGINT, says("importing"), r"stopped by SIGINT: no episode was finished; logs: /.*run"),
        (CARTPOLE, signal.SIGTERM, says("importing"), r"stopped by SIGTERM: no episode was finished; logs: /.*run"),
        (CARTPOLE, signal.SIGINT, episodes, REST),
        (CARTPOLE, signal.SIGTERM, episodes, REST),
        (PPO, signal.SIGINT, saved_twice, r"stopped; saved at .* --resume goes on from there"),
        (RAINBOW, signal.SIGINT, saved_twice, r"stopped; saved at .* --resume goes on from there"),
        (DIGITS, signal.SIGINT, moves, r"stopped; saved at iteration \d+ of 100000 .* --resume goes on.*"),
        (DIGITS, signal.SIGTERM, moves, r"stopped; saved at iteration \d+ of 100000 .* --resume goes on.*"),
        (
            "training collect_maze --size umaze --out maze.hdf5 --steps 200000",
            signal.SIGINT,
            exists("maze.hdf5.parts/settings.json"),
            "stopped; the same command goes on from here",
        ),
    ],
)
def test_a_run_that_is_interrupted_says_what_to_do_next(
    words: str, number: signal.Signals, until: Callable[[Path, str], bool], expected: str, tmp_path: Path
) -> None:
    fake_rl.save(tmp_path / "cart.pt")
    package, *rest = words.split()
    log = tmp_path / "said.txt"
    with ros_graph.own_domain(), log.open("w") as said:
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", package, *rest], cwd=tmp_path, stdout=said, stderr=said, env=environment
        )
        try:
            deadline = time.monotonic() + 240
            while not until(tmp_path, log.read_text()):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            process.send_signal(number)
            assert process.wait(120) == 128 + number, log.read_text()
        finally:
            process.kill()
            process.wait()
    text = log.read_text()
    assert "Traceback" not in text
    assert expected is not REST or re.search(r"^interrupted after \d+ of 400 .*run/summary.json$", text, re.MULTILINE)
    assert re.fullmatch(expected, text.strip().splitlines()[-1].rpartition("\r")[2]), text
