"""diffusion_ros stop, enable and the others: what they find, what they do, and what they say where it is not done."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_policy
import pytest
import rclpy
import ros_graph
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_msgs.msg import String
from std_srvs.srv import Trigger

import diffusion_ros.running
from diffusion_ros import bringup, steer
from diffusion_ros.nodes.executor_node import ExecutorNode
from diffusion_ros.ros import topics
from diffusion_ros.running import RunningSystem, announced, running
from diffusion_ros.simulators.camera_faults import FAULTS
from diffusion_ros.systems.startup import UsageError

BOX: dict[str, Any] = {"workspace_low": (-1.0, -1.0, 0.8), "workspace_high": (1.0, 1.0, 1.5)}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems that run on this machine are none of the test's."""
    monkeypatch.setattr(diffusion_ros.running, "stop_folder", lambda: tmp_path / "own")
    monkeypatch.delenv("ROS_DOMAIN_ID", raising=False)


def system(domain_id: int = 12, namespace: str = "", process: int = 0) -> RunningSystem:
    environment = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    return RunningSystem("simulation", "can", domain_id, namespace, environment, "runs/x", process or os.getpid())


# What runs


def test_a_system_is_found_while_it_runs(tmp_path: Path) -> None:
    with announced(system()):
        assert running() == [system()]
    assert running() == []
    assert not list(tmp_path.iterdir())


def test_a_system_that_was_killed_is_not_found(tmp_path: Path) -> None:
    script = f"""
import os, pathlib, signal
import diffusion_ros.running
from diffusion_ros.running import RunningSystem, announced, running
diffusion_ros.running.stop_folder = lambda: pathlib.Path({str(tmp_path / "own")!r})
with announced(RunningSystem("maze", "large", 3, "", {{}}, "", os.getpid())):
    assert len(running()) == 1
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    assert len(list(tmp_path.rglob("running-*.json"))) == 1
    assert running() == []
    assert not list(tmp_path.rglob("running-*.json"))


def test_a_system_runs_where_nobody_can_be_told(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("not a folder")
    with announced(system()):
        assert running() == []


# What is meant


def test_of_several_systems_one_has_to_be_chosen() -> None:
    with announced(system(12, process=1)), announced(system(13, "left", process=2)):
        with pytest.raises(UsageError) as error:
            steer.targets("enable", "", "")
        assert str(error.value) == (
            "enable: 2 systems run: simulation can (domain 12); simulation can (domain 13, namespace left): choose one"
            " by --domain-id or --namespace"
        )
        assert [target.graph.domain_id for target in steer.targets("enable", "13", "")] == [13]
        assert [target.graph.domain_id for target in steer.targets("enable", "", "left")] == [13]
        # Nobody should have to look up a number first.
        assert [target.graph.domain_id for target in steer.targets("stop", "", "")] == [12, 13]


def test_of_several_systems_that_of_the_environment_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", "13")
    with announced(system(12, process=1)), announced(system(13, process=2)):
        assert [target.graph.domain_id for target in steer.targets("enable", "", "")] == [13]
        assert [target.graph.domain_id for target in steer.targets("stop", "", "")] == [12, 13]


def test_faults_are_those_of_the_simulator() -> None:
    assert steer.FAULTS == FAULTS


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["stop", "now"], "diffusion_ros stop: unrecognized arguments: now"),
        (["stop", "--domain-id", "300"], "ROS_DOMAIN_ID '300': expected 0 to 232"),
        (["reset", "--namespace", "a-b"], "--namespace 'a-b': expected names"),
        (["fault"], "the following arguments are required: FAULT CAMERA"),
        (["fault", "foggy", "agentview"], "fault 'foggy': expected one of covered, half covered"),
        (["fault", "covered", "sideview"], "camera 'sideview': expected one of agentview, robot0_eye_in_hand"),
        (["fault", "covered"], "fault 'covered': expected one of covered"),
        (["stopp"], "invalid choice: 'stopp'"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bringup.main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert expected in line


# What is done


class Simulator(Node):
    """Of a simulation what is steered."""

    def __init__(self) -> None:
        super().__init__("simulation")
        self.faults: list[str] = []
        self.resets = 0
        self.create_subscription(String, topics.CAMERA_FAULT, lambda m: self.faults.append(m.data), topics.COMMAND_QOS)
        self.create_service(Trigger, "~/reset", self._reset)

    def _reset(self, request: Any, response: Any) -> Any:
        self.resets += 1
        response.success, response.message = self.resets == 1, "not while drawing"
        if response.success:
            response.message = "episode 0 begins again"
        return response


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[tuple[ExecutorNode, Simulator, str]]:
    """An executor and a simulator that answer, and their domain."""
    checkpoint = fake_policy.save(tmp_path / "policy.pt", fake_policy.spec(task="lift", environment="Lift", **BOX))
    given = [Parameter("checkpoint", value=str(checkpoint)), Parameter("checkpoint_limits", value=True)]
    with ros_graph.graph() as made:
        executor = made.add(ExecutorNode(given))
        simulator = made.add(Simulator())
        ended = threading.Event()

        def turn() -> None:
            while not ended.is_set():
                made.spin(0.05)

        thread = threading.Thread(target=turn)
        thread.start()
        try:
            yield executor, simulator, os.environ["ROS_DOMAIN_ID"]
        finally:
            ended.set()
            thread.join()


def test_a_robot_is_stopped_released_and_enabled(
    graph: tuple[ExecutorNode, Simulator, str], capsys: pytest.CaptureFixture[str]
) -> None:
    executor, simulator, domain = graph
    logic = executor.executor_logic

    def said(*arguments: str) -> tuple[int, str]:
        status = bringup.main([*arguments, "--domain-id", domain])
        return status, capsys.readouterr().out.strip().removeprefix(f"domain {domain}: ")

    assert said("hold") == (0, "holds; `diffusion_ros enable` lets it go on")
    assert not logic.enabled
    assert said("enable") == (0, "enabled: the robot may move")
    assert logic.enabled
    assert said("stop")[0] == 0
    assert logic.estop_reason == "requested"
    assert said("enable") == (1, "is stopped: `diffusion_ros release` first, then `diffusion_ros enable`")
    assert said("release") == (0, "released; `diffusion_ros enable` lets it move")
    assert (logic.estop_reason, logic.enabled) == ("", False)
    assert said("reset") == (0, "episode 0 begins again")
    assert said("reset") == (1, "refused: not while drawing")
    assert said("fault", "half", "covered", "agentview")[0] == 0
    assert said("fault", "none") == (0, "the cameras are good again")
    deadline = time.monotonic() + 20
    while simulator.faults != ["half covered agentview", ""]:  # it has it, and takes it in its own time
        assert time.monotonic() < deadline, simulator.faults
        time.sleep(0.02)
    assert said("generate")[1].startswith("it has no image generator")
    assert said("status")[1].startswith("executor holding: ")


def test_a_system_that_is_announced_is_found_without_being_named(
    graph: tuple[ExecutorNode, Simulator, str], capsys: pytest.CaptureFixture[str]
) -> None:
    executor, _, domain = graph
    with announced(system(int(domain))), pytest.MonkeyPatch.context() as patch:
        patch.delenv("ROS_DOMAIN_ID")
        assert bringup.main(["stop"]) == 0
    assert executor.executor_logic.estop_reason == "requested"
    assert capsys.readouterr().out.startswith(f"simulation can (domain {domain}): stopped; ")


def test_where_nothing_runs_it_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steer, "_DISCOVERY_SECONDS", 0.5)
    with ros_graph.own_domain() as domain:
        deadline = time.monotonic() + 30
        while True:
            assert bringup.main(["stop"]) == 1
            said = capsys.readouterr().out
            if "it has no executor" not in said or time.monotonic() > deadline:
                break  # else nodes of a test before this one are still remembered
    assert said == (
        f"domain {domain}: no system of diffusion_ros is heard there; --domain-id and --namespace name one that"
        " `ros2 launch` started\n"
    )
    assert rclpy.ok() is False
