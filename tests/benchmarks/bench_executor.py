"""What a message that comes alone costs a node: our executor (ros/message_executor.py) beside rclpy's.

The node is the arm's executor node with six more topics. Both executors take turns in this process.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

import fake_policy  # noqa: E402
import ros_graph  # noqa: E402
from geometry_msgs.msg import PoseStamped  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from diffusion_ros.nodes.executor_node import ExecutorNode  # noqa: E402
from diffusion_ros.ros.message_executor import MessageExecutor  # noqa: E402
from training import command_line  # noqa: E402

TOPICS = 6


@dataclass(frozen=True)
class Options:
    """Times messages through our executor and rclpy's."""

    messages: int = 1200
    """For each executor and turn."""
    turns: int = 3


def cost_ms(executor: Any, publishers: list[Any], heard: list[Any], messages: int) -> float:
    """Median processor time [ms] from a message's being there until it was handed over."""
    costs = []
    for i in range(messages):
        count = len(heard)
        publishers[i % TOPICS].publish(PoseStamped())
        time.sleep(0.0005)
        begin = time.process_time()
        while len(heard) == count:
            executor.spin_once(timeout_sec=0.1)
        costs.append(time.process_time() - begin)
    return 1000 * statistics.median(costs)


def bench(options: Options) -> None:
    with tempfile.TemporaryDirectory() as folder, ros_graph.graph():
        path = fake_policy.save(Path(folder) / "policy.pt")
        given = {"checkpoint": str(path), "checkpoint_limits": True, "mode": "lockstep"}
        node = ExecutorNode([Parameter(name, value=value) for name, value in given.items()])
        heard: list[PoseStamped] = []
        for i in range(TOPICS):
            node.create_subscription(PoseStamped, f"topic_{i}", heard.append, 10)
        publishers = [node.create_publisher(PoseStamped, f"topic_{i}", 10) for i in range(TOPICS)]
        costs: dict[type[Any], list[float]] = {SingleThreadedExecutor: [], MessageExecutor: []}
        for _ in range(options.turns):
            for kind, found in costs.items():
                executor = kind()
                executor.add_node(node)
                end = time.monotonic() + 1
                while time.monotonic() < end:  # discovery
                    executor.spin_once(timeout_sec=0.01)
                found.append(cost_ms(executor, publishers, heard, options.messages))
                executor.shutdown()
        node.close()
        node.destroy_node()
    theirs, ours = (statistics.median(found) for found in costs.values())
    print(f"a message that comes alone: {ours:.3f} ms of processor time, rclpy's executor {theirs:.3f} ms;", end=" ")
    print(f"ratio {theirs / ours:.1f}")


if __name__ == "__main__":
    command_line.run(Options, bench, __doc__)
