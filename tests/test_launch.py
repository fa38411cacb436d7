"""The launch files under the real launch and launch_ros, which are on every ROS installation but not on PyPI."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_policy
import fake_rl
import pytest
import ros_graph
import yaml
from fake_planner import fake_planner

from diffusion_ros import resources
from diffusion_ros.resources import resource_folder
from diffusion_ros.simulators.tasks import GYM_TASKS
from diffusion_ros.systems import SYSTEMS
from diffusion_ros.systems.arm import VIEWS
from diffusion_ros.systems.system import Argument, System

ROOT = Path(__file__).parents[1]
LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
arguments = [tuple(argument.split(":=", 1)) for argument in sys.argv[2:]]
service = LaunchService()
source = PythonLaunchDescriptionSource(sys.argv[1])
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments)]))
sys.exit(service.run())
"""

GRAPH = """
import sys, time
import rclpy
rclpy.init()
node = rclpy.create_node("observer")
deadline = time.monotonic() + 30
while time.monotonic() < deadline and not node.count_subscribers(sys.argv[1]):
    time.sleep(0.1)
time.sleep(0.5)
print(*[node.count_subscribers(topic) for topic in sys.argv[1:]])
rclpy.shutdown()
"""


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a launch file with arguments, in a domain of its own; whatever it started is gone afterwards."""
    pytest.importorskip("launch_ros", reason="launch and launch_ros come with a ROS installation")
    started = []

    def start(name: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(ROOT / "launch" / name), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
            start_new_session=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH")))),
                "ROS_LOG_DIR": str(tmp_path / "log"),
                "OVERRIDE_LAUNCH_PROCESS_OUTPUT": "screen",
                **environment,
            },
        )
        started.append(process)
        return process

    with ros_graph.own_domain():
        yield start
        for process in started:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.communicate()


def test_simulation_runs_to_its_end(launch: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    checkpoint = fake_policy.save(tmp_path / "policy.pt")
    mine = tmp_path / "mine.yaml"
    sections = {"simulation": {"max_steps": 10, "seed": 100_007}, "simulatoin": {"seed": 3}}
    mine.write_text(yaml.safe_dump({f"/**/{name}": {"ros__parameters": p} for name, p in sections.items()}))
    process = launch(
        "simulation.launch.py",
        f"checkpoint:={checkpoint}",
        "mode:=lockstep",
        "episodes:=1",
        "namespace:=left",
        "output_dir:=run",
        "log_level:=warn",
        f"params_file:={mine}",
    )
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    # The simulator ends by itself and takes the others with it. Processes are called after their nodes.
    for name in ("simulation-1", "policy-2", "executor-3"):
        assert f"[{name}]: process has finished cleanly" in output, output
    assert "/**/simulatoin is no node of simulation" in output
    assert "in force" not in output, "which is information, not a warning"
    (result,) = map(json.loads, (tmp_path / "run/results.jsonl").read_text().splitlines())
    assert (result["seed"], result["steps"]) == (100_007, 10)
    assert (tmp_path / "run/parameters/executor.yaml").exists()


def test_real_robot_starts_and_waits(launch: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    checkpoint = fake_policy.save(tmp_path / "policy.pt")
    mine = tmp_path / "mine.yaml"
    limits = {"action_low": [-0.02] * 7, "action_high": [0.02] * 7}
    box = {"workspace_low": [0.3, -0.3, 0.02], "workspace_high": [0.7, 0.3, 0.5]}
    mine.write_text(yaml.safe_dump({"/**/executor": {"ros__parameters": {**limits, **box}}}))
    process = launch(
        "real_robot.launch.py",
        f"checkpoint:={checkpoint}",
        f"params_file:={mine}",
        "agentview_image:=/camera/color/image_raw",
    )
    assert process.stdout is not None
    lines: list[str] = []
    deadline = time.monotonic() + 60
    while not (any("nothing received" in line for line in lines) and any("not enabled" in line for line in lines)):
        assert time.monotonic() < deadline, "".join(lines)
        lines.append(process.stdout.readline())
    graph = subprocess.run(
        [
            sys.executable,
            "-c",
            GRAPH,
            "/camera/color/image_raw",
            "/robot0_eye_in_hand/image_raw",
            "/agentview/image_raw",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert graph.stdout.split() == ["1", "1", "0"], graph.stderr
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: launch counts on it
    output = "".join(lines) + process.communicate(timeout=30)[0]
    assert output.count("process has finished cleanly") == 3, output  # with the lifecycle manager


def test_there_is_a_launch_file_of_every_systems_name() -> None:
    files = {path.name.removesuffix(".launch.py") for path in (ROOT / "launch").glob("*.launch.py")}
    assert files == {*SYSTEMS, "rviz", "planner", "rl"}, "the last two are older names"


@pytest.mark.parametrize("name", ["maze", "planner"])
def test_maze_runs_to_its_end(launch: Callable[..., subprocess.Popen[str]], tmp_path: Path, name: str) -> None:
    planner = fake_planner(tmp_path / "planner.pt")
    process = launch(f"{name}.launch.py", "size:=umaze", f"checkpoint:={planner}", "episodes:=1", "seed:=100001")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert output.count("process has finished cleanly") == 4, output  # with the lifecycle manager


def test_gymnasium_tasks_run_to_their_end(launch: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    paths = [fake_rl.save(tmp_path / f"{task}.pt", spec_=fake_rl.spec(task)) for task in GYM_TASKS]
    for arguments in ((f"checkpoint:={paths[0]}",), (f"checkpoint:={paths[1]}", "system:=double_pendulum")):
        process = launch("rl.launch.py", *arguments, "mode:=lockstep", "episodes:=1", "max_steps:=20")
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        assert output.count("process has finished cleanly") == 2, output
    # The other task's is refused before anything starts.
    process = launch("rl.launch.py", f"checkpoint:={paths[1]}")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "is a continuous policy, a discrete policy is needed" in output
    assert "process started" not in output


def test_two_robots_in_one_launch_have_their_own_settings(
    launch: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """Defaults that the first file has filled in are nothing that was given to the second."""
    checkpoint = fake_policy.save(tmp_path / "policy.pt")
    limits = {"action_low": [-0.02] * 7, "action_high": [0.02] * 7}
    box = {"workspace_low": [0.3, -0.3, 0.02], "workspace_high": [0.7, 0.3, 0.5]}
    included = []
    for side, steps in (("left", 0), ("right", 5)):
        mine = tmp_path / f"{side}.yaml"
        sections = {"/**/executor": {**limits, **box}, "/**/policy": {"sampler_steps": steps, "threads": 1}}
        mine.write_text(yaml.safe_dump({name: {"ros__parameters": values} for name, values in sections.items()}))
        names = {
            "checkpoint": str(checkpoint),
            "params_file": str(mine),
            "namespace": side,
            "output_dir": f"run_{side}",
        }
        included.append(
            f"IncludeLaunchDescription(PythonLaunchDescriptionSource({str(ROOT / 'launch/real_robot.launch.py')!r}),"
            f" launch_arguments={list(names.items())!r})"
        )
    both = tmp_path / "both.launch.py"
    both.write_text(
        "from launch import LaunchDescription\n"
        "from launch.actions import IncludeLaunchDescription\n"
        "from launch.launch_description_sources import PythonLaunchDescriptionSource\n"
        f"def generate_launch_description():\n    return LaunchDescription([{', '.join(included)}])\n"
    )
    process = launch(str(both))
    assert process.stdout is not None
    lines: list[str] = []
    deadline = time.monotonic() + 60
    while sum("not enabled" in line for line in lines) < 2:
        assert time.monotonic() < deadline, "".join(lines)
        lines.append(process.stdout.readline())
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    for side, steps in (("left", 0), ("right", 5)):
        written = yaml.safe_load((tmp_path / f"run_{side}/parameters/policy.yaml").read_text())
        assert written["/**"]["ros__parameters"]["sampler_steps"] == steps


def test_a_node_that_is_gone_for_good_ends_the_launch(
    launch: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    checkpoint = fake_policy.save(tmp_path / "policy.pt")
    # Without limits the executor ends with status 2; the policy alone would wait for ever.
    process = launch("real_robot.launch.py", f"checkpoint:={checkpoint}", "gaurd:=x.pt")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    assert "gaurd:= is no argument of real_robot; is guard:= meant?" in output
    assert "executor ended with status 2, and is not started again" in output


def test_bad_arguments_are_refused(launch: Callable[..., subprocess.Popen[str]]) -> None:
    process = launch("simulation.launch.py", "episodes:=none")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "episodes 'none': expected a number" in output
    process = launch("real_robot.launch.py")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "checkpoint '': expected the path of a policy" in output


def test_rviz_gets_its_configuration(launch: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """Under a stand-in for RViz that prints how it was called."""
    index = tmp_path / "prefix/share/ament_index/resource_index/packages"
    index.mkdir(parents=True)
    (index / "rviz2").touch()
    rviz = tmp_path / "prefix/lib/rviz2/rviz2"
    rviz.parent.mkdir(parents=True)
    rviz.write_text('#!/bin/sh\necho "called with $@"\n')
    rviz.chmod(0o755)
    prefix = {"AMENT_PREFIX_PATH": str(tmp_path / "prefix")}
    called = re.compile(r"called with -d (\S+) --ros-args -r __node:=rviz -r __ns:=/left")
    for argument, name in ((), "simulation"), (("system:=maze",), "maze"), (("system:=rl",), "cartpole"):
        process = launch("rviz.launch.py", "namespace:=left", *argument, **prefix)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        (path,) = called.findall(output)
        assert Path(path).name == f"{name}.rviz" and not Path(path).exists(), "it was for that run"
    process = launch("rviz.launch.py", "namespace:=left", "config:=mine.rviz", **prefix)
    assert called.findall(process.communicate(timeout=60)[0]) == ["mine.rviz"]
    # And beside a system, by its own launch file.
    planner = fake_planner(tmp_path / "planner.pt")
    short = ("size:=umaze", f"checkpoint:={planner}", "episodes:=1", "seed:=100001", "output_dir:=run")
    process = launch("maze.launch.py", "rviz:=true", "namespace:=left", *short, **prefix)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    (path,) = called.findall(output)
    assert path == str(tmp_path / "run/maze.rviz") and Path(path).exists()


# What needs no launch


@pytest.mark.parametrize(("system", "there", "frames"), [
    ("simulation", True, True), ("rehearsal", True, True), ("simulation", False, False), ("maze", True, False),
    ("real_robot", True, False),
])  # fmt: skip
def test_rviz_alone_has_frames_of_a_simulator_without_tf2_msgs(
    monkeypatch: pytest.MonkeyPatch, system: str, there: bool, frames: bool
) -> None:
    """Only where RViz's own environment has it, and only for simulators that publish scene_poses."""
    pytest.importorskip("launch_ros", reason="launch and launch_ros come with a ROS installation")
    from launch.actions import ExecuteProcess
    from launch.launch_context import LaunchContext
    from launch_ros.actions import Node

    from diffusion_ros.systems import launch_description

    monkeypatch.setattr(launch_description, "find_spec", lambda name: object() if there else None)
    context = LaunchContext()
    names = ("config", "robot", "frame_prefix", "fixed_frame", "compressed_pictures")
    context.launch_configurations.update({"system": system, "namespace": "left", **dict.fromkeys(names, "")})
    monkeypatch.setattr(launch_description, "_rviz", lambda *given: ExecuteProcess(cmd=["rviz2"]))
    found = launch_description.describe_rviz(ROOT).entities[-1].visit(context)
    started = [entity for entity in found if isinstance(entity, Node)]
    assert len(started) == frames and len(found) == (3 if frames else 1)


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=lambda system: system.name)
def test_systems_are_complete(system: System) -> None:
    """Every parameter that a system sets is one of its node, and every argument is used."""
    import importlib

    declared = {argument.name for argument in system.arguments}
    used = {*system.topics.values(), "output_dir"}
    for node in system.nodes:
        module = importlib.import_module(node.module)
        (parameters,) = (value for name, value in vars(module).items() if name.endswith("Parameters"))
        known = set(parameters.__dataclass_fields__)
        assert {*node.arguments, *node.given} <= known
        sections = yaml.safe_load((ROOT / "config" / node.config).read_text())
        mine = [sections[key]["ros__parameters"] for key in ("/**", f"/**/{node.name}") if key in sections]
        assert mine
        assert set().union(*mine) <= known
        used |= {*node.arguments.values(), *({node.needs} - {""})}
    assert used == declared


def test_arguments_say_what_they_expect() -> None:
    assert Argument("enabled", "").parse("True", False) is True
    assert Argument("seed", "").parse("7", 1) == 7
    with pytest.raises(ValueError, match="'yes': expected true or false"):
        Argument("enabled", "").parse("yes", False)
    with pytest.raises(ValueError, match="-1: expected at least 0"):
        Argument("seed", "", minimum=0).parse("-1", 1)
    with pytest.raises(ValueError, match="inf: expected a finite number"):
        Argument("rate", "").parse("inf", 1.0)
    with pytest.raises(ValueError, match="'walk': expected one of lift, can"):
        Argument("task", "", choices=("lift", "can")).parse("walk", "can")


def test_resources_are_found_in_every_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resource_folder() == ROOT
    # An installation: lib/python3.11/site-packages/diffusion_ros beside share/diffusion_ros; colcon's symlinks: only
    # the environment knows.
    module = tmp_path / "lib/python3.11/site-packages/diffusion_ros/resources.py"
    share = tmp_path / "share/diffusion_ros"
    elsewhere = tmp_path / "install/share/diffusion_ros"
    for folder in (share, elsewhere):
        (folder / "config").mkdir(parents=True)
        (folder / "config/simulation.yaml").touch()
    monkeypatch.setattr(resources, "__file__", str(module))
    assert resource_folder() == share
    (share / "config/simulation.yaml").unlink()
    with pytest.raises(FileNotFoundError, match="installed completely"):
        resource_folder()
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path / "install"))
    assert resource_folder() == elsewhere


def test_every_task_has_the_views() -> None:
    from diffusion_ros.simulators.arm import Simulation
    from diffusion_ros.simulators.tasks import ARM_TASKS

    for task in ARM_TASKS:
        simulation = Simulation(task)
        assert set(VIEWS) <= set(simulation.known_cameras)
        simulation.close()
