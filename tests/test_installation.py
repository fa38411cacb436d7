"""Commands where a library is not installed, and where a folder called training/ is in the current one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from diffusion_ros import installation
from diffusion_ros.simulators.arm import Simulation
from diffusion_ros.simulators.gym import GymSimulation
from diffusion_ros.simulators.maze import MazeSimulation
from training import collect_demos, collect_maze
from training.__main__ import COMMANDS, main

ROOT = Path(__file__).parents[1]

ABSENT = """
import os, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in os.environ["ABSENT"].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""
"""Python runs a module called sitecustomize when it starts."""


def _run(folder: Path, absent: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python <arguments>` in `folder`, without these libraries."""
    (folder / "absent").mkdir()
    (folder / "absent/sitecustomize.py").write_text(ABSENT)
    paths = [str(folder / "absent"), str(ROOT / "src"), str(ROOT)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "ABSENT": absent}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_a_users_own_package_called_training_is_left_alone(tmp_path: Path) -> None:
    own = tmp_path / "training"
    own.mkdir()
    (own / "__init__.py").write_text("import diffusion_ros\n")
    (own / "mine.py").write_text("print('mine ran')\n")
    result = _run(tmp_path, "h5py,tyro", "-m", "training.mine")
    assert (result.returncode, result.stdout) == (0, "mine ran\n"), result.stderr


@pytest.mark.parametrize(
    ("absent", "arguments", "line"),
    [
        ("torch", "diffusion_ros.nodes.policy_node", "torch: not installed (pip install torch)"),
        (
            "rclpy,yaml",
            "diffusion_ros.bringup simulation",
            "rclpy: not installed (source ROS 2's setup file, or pip install 'diffusion_ros[jazzy]');"
            " PyYAML: not installed (pip install PyYAML)",
        ),
        (
            "franka",
            "diffusion_ros.nodes.franka_driver_node --ros-args -p host:=127.0.0.1",
            "franka-rs: not installed (pip install 'diffusion_ros[franka]')",
        ),
        ("mujoco", "diffusion_ros.nodes.maze_node", "mujoco: not installed (pip install 'diffusion_ros[sim]')"),
        (
            "h5py,diffusers,gymnasium,tqdm",
            "training.train_ddpm --out x.pt",
            "diffusers, gymnasium, h5py, tqdm: not installed (pip install 'diffusion_ros[train]')",
        ),
        # A trainer's is above, a simulator's own word below.
        pytest.param(
            "robosuite",
            f"training.evaluate --checkpoint {ROOT}/checkpoints/lift_state.pt",
            "robosuite: not installed (pip install --no-deps robosuite==1.5.2)",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_is_not_installed_is_one_line(tmp_path: Path, absent: str, arguments: str, line: str) -> None:
    result = _run(tmp_path, absent, "-m", *arguments.split())
    assert (result.returncode, result.stderr, result.stdout) == (2, line + "\n", "")


@pytest.mark.parametrize(
    ("absent", "use"),
    [
        ("robosuite", lambda: Simulation("lift")),
        ("gymnasium", lambda: GymSimulation("cartpole")),
        ("mujoco", lambda: GymSimulation("double_pendulum")),
        ("gymnasium_robotics", lambda: MazeSimulation("umaze")),
        # Their workers would be started again for ever.
        ("robosuite", lambda: collect_demos.collect(collect_demos.Options("lift", Path("x.hdf5")))),
        ("mujoco", lambda: collect_maze.collect(collect_maze.Options("umaze", Path("x.hdf5")))),
    ],
)
def test_simulators_and_collectors_say_which_library_it_is(
    absent: str, use: Callable[[], object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, absent, None)  # importing it is an error now
    with pytest.raises(ModuleNotFoundError) as raised:
        use()
    assert (raised.value.name or "").partition(".")[0] == absent
    assert f"{absent.replace('_', '-')}: not installed (pip install" in installation.explain(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_bringup_says_what_its_node_has_said(tmp_path: Path) -> None:
    run = ["-m", "diffusion_ros.bringup", "simulation", "--output-dir", str(tmp_path / "run")]
    result = _run(tmp_path, "robosuite", *run)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == "robosuite: not installed (pip install --no-deps robosuite==1.5.2)"


def test_a_library_may_be_imported_without_what_its_commands_need(tmp_path: Path) -> None:
    result = _run(tmp_path, "rclpy,h5py", "-c", "import diffusion_ros.control.action_chunk, training.ranges")
    assert (result.returncode, result.stderr) == (0, "")


def test_an_error_about_anything_else_is_not_explained_away() -> None:
    error = ModuleNotFoundError("No module named 'diffusion_ros.nodse'", name="diffusion_ros.nodse")
    with pytest.raises(ModuleNotFoundError) as raised:
        installation.explain(error)
    assert raised.value is error


def test_every_module_is_named_as_it_is_imported() -> None:
    for module in (*installation.BASE, *installation.EXTRAS["sim"], *installation.EXTRAS["train"], "robosuite"):
        installation.require(module)


# As pip writes diffusion_ros_training: Python puts the script's folder on its path, not the current one.
SCRIPT = "import sys\nfrom training.__main__ import main\nsys.exit(main())\n"


def test_a_folder_called_training_hides_nothing_from_the_command(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "training/__init__.py").write_text("raise SystemExit('the one in the current folder')")
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin/diffusion_ros_training"
    script.write_text(SCRIPT)
    hidden = _run(tmp_path, "", "-m", "training.evaluate", "--help")
    assert hidden.returncode == 1
    assert "the one in the current folder" in hidden.stderr

    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}

    command = [sys.executable, str(script), "evaluate", "--checkpoint", "none.pt"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (2, "none.pt: no such checkpoint\n")


def test_the_command_lists_what_there_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["diffusion_ros_training"])
    main()
    overview = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in overview[2:]] == list(COMMANDS)
    assert all(len(line.split()) > 3 for line in overview[2:])
    monkeypatch.setattr(sys, "argv", ["diffusion_ros_training", "train"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("command 'train': expected one of collect_demos, ")


def test_every_command_is_listed() -> None:
    files = {path.stem for path in (ROOT / "training").glob("*.py") if "\ndef main() -> None:" in path.read_text()}
    assert files - {"__main__"} == set(COMMANDS)
