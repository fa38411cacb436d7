"""What is looked at before anything starts, and a node's help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_ros import bringup, preflight
from diffusion_ros.robot_check import problem, warning
from diffusion_ros.ros.robot_judge import InputRow, Report
from diffusion_ros.simulators import render_backend

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("arguments", "backend", "expected"),
    [
        (["cartpole", "--device", "nonsense"], "egl", "device 'nonsense': "),
        (["simulation", "--task", "lift"], "vulkan", "MUJOCO_GL 'vulkan': expected egl, osmesa or glfw"),
    ],
)
def test_what_is_missing_is_one_line_before_anything_starts(
    arguments: list[str],
    backend: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MUJOCO_GL", backend)
    assert bringup.main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith(expected)
    assert list(tmp_path.iterdir()) == []


def test_what_mujoco_draws_with_is_found_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setattr(render_backend.ctypes.util, "find_library", lambda name: None)
    with pytest.raises(OSError, match=r"^MUJOCO_GL=egl: no EGL on this machine: install libegl1 and libgl1-mesa-dri$"):
        render_backend.check_it_opens()
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(OSError, match=r"^MUJOCO_GL=osmesa: its library is not installed"):
        render_backend.check_it_opens()


def test_the_list_has_what_is_wrong_first() -> None:
    report = Report(
        [warning("clock: 3 ms ahead"), problem("hand: nobody publishes it", "is the driver running?")],
        [
            InputRow("hand", "/pose", None, None, None, 0.0, "", []),
            InputRow("image", "/image", 30.0, 0, 0, 0.0, "", []),
        ],
    )
    assert preflight.listed(report) == [
        "[!!] hand: nobody publishes it: is the driver running?",
        "[ ?] clock: 3 ms ahead",
        "[ok] image: 30 Hz on /image, from nobody",
    ]


@pytest.mark.parametrize("node", ["executor", "maze"])
def test_a_node_has_a_help(node: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", f"diffusion_ros.nodes.{node}_node", "--help"],
        cwd=ROOT / "src",
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stderr == ""
    assert run.stdout.startswith(f"usage: {node}_node [--ros-args")
    assert {"executor": "  guard []", "maze": "  size ["}[node] in run.stdout


def test_the_help_needs_no_torch() -> None:
    script = "import sys; from diffusion_ros.bringup import main; main(['simulation', '--help'])"
    script = f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); {script}"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT / "src", capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "False"
