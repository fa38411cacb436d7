"""What a recording has of a robot: topics, their types, and what the contract says of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros.bags import OfferedQos
from diffusion_ros.robot import ACTION_SCALE, CAMERAS, EEF_POS, EEF_QUAT, GRIPPER_QPOS, OBJECT_POS, OBJECT_QUAT
from diffusion_ros.robot_file import JointsSource, PictureSource, PoseSource, RobotFile
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.hand_source import LATCHED_QOS
from diffusion_ros.spec import IMAGE_SUFFIX, CheckpointSpec

_PICTURES, _NUMBERS = 10, 200
"""Depth of queues: 0.3 s of pictures at 30 Hz, 0.2 s of joints at 1000 Hz."""
_FOREVER_NS = 2**63 - 1
_PACKAGES = {
    "PoseStamped": "geometry_msgs",
    "TwistStamped": "geometry_msgs",
    "Twist": "geometry_msgs",
    "JointTrajectory": "trajectory_msgs",
    "Float64MultiArray": "std_msgs",
}
"""Type of a motion output -> where it is defined."""


@dataclass(frozen=True)
class Recorded:
    """A topic that is recorded."""

    topic: str
    kind: type[Any]
    qos: QoSProfile
    keys: tuple[str, ...]
    """What the contract calls it: observations of the robot's file or inputs of the checkpoint, or the topic's role."""
    stream: bool = False
    """Whether it has stamps and comes at a rate, so that it can be seen what is missing."""
    always: bool = False
    """Whether it is written between episodes as well."""
    newest: bool = False
    """Whether only the newest message matters, so that none is missed."""


def _queue(qos: QoSProfile, depth: int) -> QoSProfile:
    """The profile with a deeper queue: a recorder keeps all that comes, not the newest."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=qos.reliability, durability=qos.durability
    )


def of_simulator(spec: CheckpointSpec | None, lockstep: bool) -> list[Recorded]:
    """Its sensors; of its cameras those that the checkpoint sees, as others would have to be drawn for the recording.
    Without a checkpoint, all."""
    qos = topics.sensor_qos(lockstep)
    numbers, pictures = _queue(qos, _NUMBERS), _queue(qos, _PICTURES)
    cameras = CAMERAS if spec is None else spec.cameras
    return [
        *(Recorded(topics.image(c), Image, pictures, (f"{c}{IMAGE_SUFFIX}",), stream=True) for c in cameras),
        Recorded(topics.EEF_POSE, PoseStamped, numbers, (EEF_POS, EEF_QUAT), stream=True),
        Recorded(topics.JOINT_STATES, JointState, numbers, (GRIPPER_QPOS, "joint_states"), stream=True),
        Recorded(topics.OBJECT_POSE, PoseStamped, numbers, (OBJECT_POS, OBJECT_QUAT), stream=True),
        Recorded(topics.EEF_COMMAND, JointTrajectory, _queue(topics.WATCHED_QOS, _NUMBERS), ("command",)),
    ]


def of_robot(robot: RobotFile) -> list[Recorded]:
    """What its file names: all observations, whether a checkpoint uses them or not, its joints, description and the
    arm's commands. Raises ValueError for a type of message that is not installed."""
    found: list[Recorded] = []
    sources: dict[str, PoseSource | JointsSource | PictureSource] = {
        **robot.poses,
        **robot.numbers,
        **{f"{camera}{IMAGE_SUFFIX}": source for camera, source in robot.pictures.items()},
    }
    for name, source in sources.items():
        kind: Any = JointState
        if isinstance(source, PictureSource):
            kind = CompressedImage if source.compressed else Image
        elif isinstance(source, PoseSource) and source.source != "fk":
            kind = PoseStamped if source.source == "pose" else messages.TFMessage
        if kind is None:
            raise ValueError(f"{robot.path}: observations.{name}: tf2_msgs is not installed here, tf needs it")
        depth = _PICTURES if isinstance(source, PictureSource) else _NUMBERS
        qos = _queue(topics.sensor_qos(source.reliable), depth)
        found.append(Recorded(source.topic, kind, qos, (name,), stream=kind is not messages.TFMessage))
        if kind is messages.TFMessage:
            found.append(Recorded(f"{source.topic}_static", kind, LATCHED_QOS, (f"{name}_static",), always=True))
    if robot.joints:
        qos = _queue(topics.BEST_EFFORT_QOS, _NUMBERS)
        found.append(Recorded(robot.joint_states, JointState, qos, ("joint_states",), stream=True))
    if robot.description is not None and robot.description.topic:
        found.append(Recorded(robot.description.topic, String, LATCHED_QOS, ("robot_description",), always=True))
    command = messages.message_type(f"{_PACKAGES[robot.action.type]}/{robot.action.type}")
    qos = _queue(topics.BEST_EFFORT_QOS, _NUMBERS)
    return [*found, Recorded(robot.action.topic, command, qos, ("command",))]


def of_graph() -> list[Recorded]:
    """What policy, executor, simulator and people say. The episodes first: rclpy takes what waits in this order, and
    the end of one comes before the next one's actions."""
    rows = _queue(topics.WATCHED_QOS, _NUMBERS)
    return [
        Recorded(topics.EPISODE, String, topics.EPISODE_QOS, ("episode",), always=True),
        Recorded(topics.EXECUTED_ACTION, JointTrajectory, rows, ("executed_action",)),
        Recorded(topics.TELEOP_ACTION, JointTrajectory, rows, ("teleop_action",)),
        Recorded(topics.ACTION_CHUNK, JointTrajectory, rows, ("action_chunk",)),
        Recorded(
            topics.DIAGNOSTICS, DiagnosticArray, _queue(topics.DIAGNOSTICS_QOS, 100), ("diagnostics",), always=True
        ),
    ]


def merged(found: Iterable[Recorded]) -> list[Recorded]:
    """Each topic once, with all of its keys. Raises ValueError where it has two types."""
    by_topic: dict[str, Recorded] = {}
    for one in found:
        first = by_topic.setdefault(one.topic, one)
        if first.kind is not one.kind:
            raise ValueError(f"{one.topic}: {first.kind.__name__} and {one.kind.__name__}, one type expected")
        keys = tuple(dict.fromkeys((*first.keys, *one.keys)))
        reliable = first.qos if first.qos.reliability == ReliabilityPolicy.RELIABLE else one.qos
        by_topic[one.topic] = replace(first, keys=keys, qos=reliable, stream=first.stream or one.stream)
    return list(by_topic.values())


def contract(
    robot: RobotFile | None,
    spec: CheckpointSpec | None,
    task: str,
    rate: float,
    names: dict[str, str],
    frame: str,
) -> dict[str, Any]:
    """The bag's first message. names: key -> topic in full."""
    description = ""
    if robot is not None and robot.description is not None and robot.description.file:
        description = Path(robot.description.file).read_text()
    scale = ACTION_SCALE
    low, high = (-scale).tolist(), scale.tolist()
    if spec is not None:
        low, high = list(spec.action_low), list(spec.action_high)
    elif robot is not None:
        high = [robot.limits.linear / rate] * 3 + [robot.limits.angular / rate] * 3 + [1.0]
        low = [-x for x in high]
    return {
        "version": 1,
        "robot": "" if robot is None else robot.path.read_text(),
        "robot_name": "simulation" if robot is None else robot.path.stem,
        "description": description,
        "spec": None if spec is None else json.loads(spec.to_json()),
        "task": task,
        "rate": rate,
        "action_low": low,
        "action_high": high,
        "frame": frame,
        # Deltas in the frame's axes, whatever a policy's rows are: what is recorded is executed_action.
        "action": {},
        "topics": names,
    }


# -- what a graph offers ----------------------------------------------------------------------------------------------


def type_name(kind: type[Any]) -> str:
    """ "package/msg/Type" of a message's class."""
    return f"{kind.__module__.partition('.')[0]}/msg/{kind.__name__}"


def offered(qos: QoSProfile) -> OfferedQos:
    def ns(duration: Any) -> int:
        return min(int(duration.nanoseconds), _FOREVER_NS) or _FOREVER_NS

    return OfferedQos(
        reliability=qos.reliability.name.lower(),
        durability=qos.durability.name.lower(),
        history=qos.history.name.lower(),
        depth=qos.depth,
        deadline_ns=ns(qos.deadline),
        lifespan_ns=ns(qos.lifespan),
        liveliness=qos.liveliness.name.lower(),
        lease_ns=ns(qos.liveliness_lease_duration),
    )


def as_offered(publishers: Iterable[TopicEndpointInfo]) -> QoSProfile:
    """How to hear all of them, and what they have said already."""
    profiles = [publisher.qos_profile for publisher in publishers]
    reliable = all(profile.reliability == ReliabilityPolicy.RELIABLE for profile in profiles)
    latched = all(profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for profile in profiles)
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=_NUMBERS,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )
