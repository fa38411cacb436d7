"""Bags as recorder_node writes them, with whatever messages a test wants in them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from diffusion_ros.robot import ACTION_NAMES, ACTION_SCALE
from diffusion_ros.ros.messages import duration_to_msg
from diffusion_ros.ros.messages.fields import header_to_msg

STEP_NS = 50_000_000


@dataclass(frozen=True)
class Sent:
    """A message: when it came [ns], and where."""

    came_ns: int
    topic: str
    msg: Any
    content: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "content", bytes(serialize_message(self.msg)))


def contract(**changes: Any) -> dict[str, Any]:
    """Of the simulator, without a checkpoint."""
    return {
        "version": 1,
        "robot": "",
        "robot_name": "simulation",
        "spec": None,
        "task": "can",
        "rate": 20.0,
        "action_low": (-ACTION_SCALE).tolist(),
        "action_high": ACTION_SCALE.tolist(),
        "frame": "world",
        "action": {},
        "topics": {"executed_action": "/executed_action"},
        **changes,
    }


def event(came_ns: int, name: str, episode: int, stamp_ns: int | None = None, namespace: str = "") -> Sent:
    said = {"event": name, "episode": episode, "stamp_ns": came_ns if stamp_ns is None else stamp_ns}
    return Sent(came_ns, f"{namespace}/recording_event", String(data=json.dumps(said)))


def executed(
    came_ns: int, stamp_ns: int, row: Sequence[float], person: bool = True, topic: str = "/executed_action"
) -> Sent:
    values = [*(float(x) for x in row), float(person)]
    msg = JointTrajectory(
        header=header_to_msg(stamp_ns, "world"),
        joint_names=[*ACTION_NAMES, "person"],
        points=[JointTrajectoryPoint(positions=values, time_from_start=duration_to_msg(STEP_NS))],
    )
    return Sent(came_ns, topic, msg)


def row(number: int) -> list[float]:
    """One that is no other's."""
    return (np.array([1e-4 * number, -2e-4 * number, 3e-5, 1e-3 * number, 0.0, 0.0, 1.0])).tolist()


def write(folder: Path, said: Mapping[str, Any] | None, sent: Iterable[Sent], namespace: str = "") -> Path:
    """said: the contract, None for a bag without one. Messages in the order given, each when it came."""
    types = get_typestore(Stores.ROS2_JAZZY)
    first = [] if said is None else [Sent(0, f"{namespace}/recording_contract", String(data=json.dumps(said)))]
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections: dict[str, Any] = {}
        for one in [*first, *sent]:
            if one.topic not in connections:
                package = type(one.msg).__module__.partition(".")[0]
                kind = f"{package}/msg/{type(one.msg).__name__}"
                connections[one.topic] = writer.add_connection(one.topic, kind, typestore=types)
            writer.write(connections[one.topic], one.came_ns, one.content)
            if one.came_ns == 0:
                storage: Any = writer.storage
                storage.close_chunk()  # a recorder writes its contract at once
    return folder


def cut(folder: Path, kept: float) -> Path:
    """As a recorder leaves it that was killed: a part of the file, and no metadata."""
    (file,) = folder.glob("*.mcap")
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    (folder / "metadata.yaml").unlink()
    return folder
