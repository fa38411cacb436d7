"""How soon the robot of `make sim` holds when a camera fails in the middle of an episode, and goes on when it is back.

One fault an episode, in real time, with the guard that ships; times are from the publication of the fault, or of its
end, to the first command that holds, or moves, as somebody hears it who is no part of the graph.

    python tests/benchmarks/bench_guard.py [rounds of all faults, 1]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros.bringup import free_domain_id
from diffusion_ros.ros import messages, topics

GUARD = Path(__file__).resolve().parents[2] / "checkpoints" / "guard_can.pt"
FAULTS = (
    *("covered agentview", "turned agentview", "dark agentview", "swapped agentview", "frozen agentview"),
    *("covered robot0_eye_in_hand", "swapped robot0_eye_in_hand", "frozen robot0_eye_in_hand", "noise agentview"),
)
FIRST_STEP = 20
"""Of an episode, at which its fault begins."""
LASTS = 1.0
"""Seconds between the hold and the end of the fault."""
PATIENCE = 3.0
"""Seconds in which a fault is to be noticed."""
EPISODE_SECONDS = 30.0
"""More than one takes, unless the robot holds and never goes on."""


class Saboteur(Node):
    """Lets a camera fail once in each episode, and takes the time."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("saboteur")
        self.faults = faults
        self.held: dict[int, float] = {}
        """Seconds from fault to hold by episode."""
        self.went_on: dict[int, float] = {}
        self.state, self.since, self.index = "waiting", 0.0, -1
        self.fault = self.create_publisher(String, topics.CAMERA_FAULT, topics.COMMAND_QOS)
        self.create_subscription(String, topics.EPISODE, self.on_episode, topics.EPISODE_QOS)
        self.create_subscription(JointTrajectory, topics.EEF_COMMAND, self.on_command, topics.COMMAND_QOS)

    def say(self, fault: str, state: str) -> None:
        self.fault.publish(String(data=fault))
        self.state, self.since = state, time.monotonic()

    def on_episode(self, msg: String) -> None:
        news = messages.episode_from_msg(msg)
        if news["event"] != "running":
            if self.state != "waiting" and news["index"] > self.index:
                self.say("", "waiting")
        elif self.state == "waiting" and news["index"] > self.index and news["step"] >= FIRST_STEP and news["acting"]:
            self.index = news["index"]
            self.say(self.faults[self.index], "failing")

    def on_command(self, msg: JointTrajectory) -> None:
        moves = bool(messages.command_from_msg(msg)[1].any())
        after = time.monotonic() - self.since
        if self.state == "failing" and not moves:
            self.held[self.index] = after
            self.state = "held"
        elif self.state == "failing" and after > PATIENCE:
            self.say("", "waiting")
        elif self.state == "held" and after > self.held[self.index] + LASTS:
            self.say("", "back")
        elif self.state == "back" and moves:
            self.went_on[self.index] = after
            self.state = "waiting"


def run(faults: list[str], folder: Path) -> tuple[Saboteur, dict[str, Any]]:
    domain = free_domain_id()
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    words = ["--task", "can", "--mode", "realtime", "--episodes", len(faults), "--json", folder / "summary.json"]
    words += ["--output-dir", folder / "run", "--domain-id", domain, "--guard", GUARD]
    rclpy.init(domain_id=domain)
    node = Saboteur(faults)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    command = [sys.executable, "-m", "diffusion_ros.bringup", "simulation", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as system:
        deadline = time.monotonic() + EPISODE_SECONDS * len(faults)
        while system.poll() is None:
            executor.spin_once(timeout_sec=0.05)
            if time.monotonic() > deadline:
                system.terminate()
                raise SystemExit(f"guard: not done after {EPISODE_SECONDS:.0f} s an episode: a hold has not ended")
    executor.shutdown()
    rclpy.shutdown()
    return node, json.loads((folder / "summary.json").read_text())


def main() -> None:
    faults = list(FAULTS) * (int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    with tempfile.TemporaryDirectory() as name:
        node, summary = run(faults, Path(name))
    for i, fault in enumerate(faults):
        held, went_on = (f"{times[i]:.2f} s" if i in times else "never" for times in (node.held, node.went_on))
        print(f"guard: {fault}: holds after {held}, goes on after {went_on}")
    if node.held and node.went_on:
        print(
            f"guard: {len(node.held)} of {len(faults)} faults held, after {statistics.median(node.held.values()):.2f} s"
            f" median, {max(node.held.values()):.2f} s at most (0.5); on after"
            f" {statistics.median(node.went_on.values()):.2f} s; {summary['successes']} of {len(faults)} episodes"
            f" succeeded, {summary['missed']} periods without a command"
        )


if __name__ == "__main__":
    main()
