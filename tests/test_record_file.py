"""--record F.mcap: one file, whatever ends the recorder."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffusion_ros import bag_recovery, bags
from tests.browser import end_with_the_tests
from tests.ros_graph import ROOT, own_domain
from training.data.bag_file import BagFile, read_contract

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def recorder_of(folder: Path) -> int:
    """Process of the recorder of a run, whose parameters are in its folder."""
    wanted = str(folder / "parameters" / "recorder.yaml").encode()
    (found,) = (
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if wanted in (path.read_bytes() if path.exists() else b"").split(b"\0")
    )
    return found


@pytest.mark.parametrize("kill", [False, True])
def test_a_simulation_is_recorded_into_one_file(tmp_path: Path, kill: bool) -> None:
    folder, file = tmp_path / "run", tmp_path / "lift.mcap"
    command = [
        *(sys.executable, "-m", "diffusion_ros.bringup", "simulation", "--task", "lift", "--mode", "lockstep"),
        *("--checkpoint", str(ROOT / "checkpoints/lift_state.pt"), "--episodes", "300" if kill else "1"),
        *("--no-video", "--output-dir", str(folder), "--record", str(file)),
    ]
    with own_domain():
        process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": f"{ROOT}/src"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=end_with_the_tests,
        )
        try:
            if kill:
                end = time.monotonic() + 200
                while not file.exists() or file.stat().st_size < 100_000:
                    assert process.poll() is None and time.monotonic() < end
                    time.sleep(0.05)
                time.sleep(random.Random(3).uniform(0.0, 2.0))
                os.kill(recorder_of(folder), signal.SIGKILL)
            _, said = process.communicate(timeout=300)
        finally:
            process.terminate()
            process.wait(60)
    assert process.returncode == (1 if kill else 0), said
    assert [path.name for path in tmp_path.glob("*.mcap*")] == ["lift.mcap"]
    bag = BagFile(file)
    assert bag.cut == kill and read_contract(bag).task == "lift"
    messages = list(bag.messages(list(bag.topics)))
    assert sum(topic == "/executed_action" for topic, _, _ in messages) > 10
    events = [bags.json_of(content)["event"] for topic, _, content in messages if topic == "/recording_event"]
    assert events[0] == "start" and (kill or events == ["start", "success"])
    made = bag_recovery.recover(file)
    assert made.whole != kill and made.messages - len(messages) in (0, 1)
    assert not BagFile(file).cut
