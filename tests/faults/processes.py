"""The kinds that need processes of their own: a second executor, signals, a death under a stop, and a forged result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import fake_policy
import fake_rl
import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from ros_graph import ROOT, Graph
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros.control.action_chunk import ActionChunk
from diffusion_ros.robot import WORLD_FRAME
from diffusion_ros.ros import messages, topics

from .bench import PERIOD_NS
from .kinds import Verdict, fault

STARTING = 60.0


class Driver(Node):
    """A robot at 20 Hz with a policy that always says the same; keeps the rows that it is told."""

    def __init__(self) -> None:
        super().__init__("driver")
        self.rows: list[np.ndarray] = []
        self.summaries: dict[str, str] = {}
        self._pose = self.create_publisher(PoseStamped, topics.EEF_POSE, topics.SENSOR_QOS)
        self._chunk = self.create_publisher(JointTrajectory, topics.ACTION_CHUNK, topics.COMMAND_QOS)
        self.create_subscription(JointTrajectory, topics.EEF_COMMAND, self._on_command, 10)
        self.create_timer(0.05, self._sense)

    def _sense(self) -> None:
        stamp_ns = self.get_clock().now().nanoseconds
        rows = np.zeros((9, 7))
        rows[:, 0] = 0.01
        self._chunk.publish(messages.chunk_to_msg(ActionChunk(stamp_ns, rows, PERIOD_NS), WORLD_FRAME))
        self._pose.publish(messages.pose_to_msg((0, 0, 0), (0, 0, 0, 1), stamp_ns, WORLD_FRAME))

    def _on_command(self, msg: JointTrajectory) -> None:
        self.rows.append(messages.command_from_msg(msg)[1])

    def moves(self, last: int = 5) -> bool:
        return len(self.rows) >= last and all(row.any() for row in self.rows[-last:])

    def rests(self, last: int = 5) -> bool:
        return len(self.rows) >= last and not any(row.any() for row in self.rows[-last:])


def environment(folder: Path) -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return {**os.environ, "PYTHONPATH": paths, "TMPDIR": str(folder)}


@contextmanager
def executor(folder: Path, name: str = "executor") -> Iterator[subprocess.Popen[str]]:
    """An executor in a process of its own, enabled by its parameters, gone afterwards whatever happens."""
    path = folder / "policy.pt"
    if not path.exists():
        fake_policy.save(path, fake_policy.spec((*fake_policy.LOW_DIM, *fake_policy.OBJECT)))
    given = [f"checkpoint:={path}", "enabled:=true", "checkpoint_limits:=true"]
    arguments = [word for parameter in given for word in ("-p", parameter)]
    command = [sys.executable, "-m", "diffusion_ros.nodes.executor_node", "--ros-args", "-r", f"__node:={name}"]
    with subprocess.Popen(
        [*command, *arguments], env=environment(folder), stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def driven() -> Iterator[tuple[Graph, Driver]]:
    graph = Graph()
    try:
        yield graph, graph.add(Driver())
    finally:
        graph.close()


def call(graph: Graph, driver: Driver, name: str, data: bool | None = None) -> Any:
    kind, request = (Trigger, Trigger.Request()) if data is None else (SetBool, SetBool.Request(data=data))
    return graph.call(driver, kind, name, request)


@fault("executors: two of them", "both enabled, in two processes")
def two_executors(folder: Path) -> Verdict:
    with ExitStack() as stack:
        graph, driver = stack.enter_context(driven())
        stack.enter_context(executor(folder))
        graph.spin_until(driver.moves, STARTING)
        second = stack.enter_context(executor(folder, "second"))
        graph.spin_until(driver.rests, STARTING)
        driver.rows.clear()
        graph.spin(2.0)
        moved = float(sum(np.abs(row[:3]).sum() for row in driver.rows))
        second.send_signal(signal.SIGTERM)
        second.communicate(timeout=30)
        graph.spin_until(driver.moves, 10)
        return Verdict(moved, "2 publishers on /eef_command, one expected: /executor and /second", 2.0)


@fault("signals: SIGTERM to the executor", "five times in a row: a hold is its last word")
def sigterm(folder: Path) -> Verdict:
    moved = 0.0
    with driven() as (graph, driver):
        for _ in range(5):
            driver.rows.clear()
            with executor(folder) as process:
                graph.spin_until(driver.moves, STARTING)
                process.send_signal(signal.SIGTERM)
                graph.spin_until(lambda: process.poll() is not None, 30)
                graph.spin(0.2)
                assert process.returncode == 0
                moved += float(np.abs(driver.rows[-1][:3]).sum())
    return Verdict(moved, "the executor ends", None)


@fault("stop: kill -9 under it", "and another executor with the same parameters, which enable it")
def killed_under_a_stop(folder: Path) -> Verdict:
    with driven() as (graph, driver):
        with executor(folder) as process:
            graph.spin_until(driver.moves, STARTING)
            assert call(graph, driver, "/executor/estop").success
            process.kill()
            process.wait(30)
        driver.rows.clear()
        with executor(folder) as process:
            graph.spin_until(lambda: len(driver.rows) > 20, STARTING)
            moved = float(sum(np.abs(row[:3]).sum() for row in driver.rows))
            assert call(graph, driver, "/executor/set_enabled", True).success
            graph.spin_until(driver.moves, 10)
    return Verdict(moved, "not enabled (an emergency stop was latched when it ended and was started again)", 0.1)


@fault("episode: a forged result", "beside a whole run of bringup, with junk, 50 a second")
def forged(folder: Path) -> Verdict:
    policy = fake_rl.save(folder / "up.pt")
    result = folder / "result.json"
    words = ["cartpole", "--checkpoint", policy, "--mode", "lockstep", "--episodes", 2, "--max-steps", 40]
    words += ["--json", result, "--output-dir", folder / "run"]
    graph = Graph()
    try:
        stranger = graph.add(Node("stranger"))
        publisher = stranger.create_publisher(String, topics.EPISODE, topics.EPISODE_QOS)
        process = subprocess.Popen(
            [sys.executable, "-m", "diffusion_ros.bringup", *map(str, words)],
            env=environment(folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        heard: list[str] = []
        stranger.create_subscription(String, topics.EPISODE, lambda msg: heard.append(msg.data), topics.EPISODE_QOS)
        junk = ["{", "[]", '{"event": "end", "result": 3}', "[" * 50_000]
        count = 0
        while process.poll() is None:
            count += 1
            text = junk[count % len(junk)]
            if heard and count % 2 == 0:
                try:
                    true = json.loads(heard[-1])
                    text = json.dumps({**true, "event": "end", "result": {"index": 0, "return": 1e6, "steps": 1}})
                except (ValueError, RecursionError, TypeError):
                    pass
            publisher.publish(String(data=text))
            graph.spin(0.02)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        summary = json.loads(result.read_text())
        assert [r["return"] for r in summary["results"]] == [40.0, 40.0], summary["results"]
        assert count > 20
    finally:
        graph.close()
    return Verdict(0.0, "results are read from the simulator's file", 0.0)
