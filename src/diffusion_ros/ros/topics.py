"""Names and qualities of service of all topics; relative names, so that a namespace or a remapping moves a robot."""

from __future__ import annotations

from collections.abc import Iterable

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from diffusion_ros.robot import EEF_POS, EEF_QUAT, GRIPPER_QPOS, OBJECT_POS, OBJECT_QUAT
from diffusion_ros.spec import IMAGE_SUFFIX

JOINT_STATES = "joint_states"
EEF_POSE = "eef_pose"
OBJECT_POSE = "object_pose"
"""Simulation only: what a state policy knows of the object."""
ACTION_CHUNK = "action_chunk"
EEF_COMMAND = "eef_command"
JOINT_COMMAND = "joint_command"
"""sensor_msgs/JointState: the effort of one joint, with the stamp of the joint_states that it answers."""
EFFORT_COMMAND = "effort_command"
"""std_msgs/Float64, for scripts: without a stamp it answers the joint_states that are out."""
DISCRETE_ACTION = "discrete_action"
"""std_msgs/Int64, likewise."""
IMAGE = "image_raw"
EPISODE = "episode"
SCENE = "scene"
EEF_PATH = "eef_path"
PREDICTED_PATH = "predicted_path"
MAP = "map"
ODOMETRY = "odom"
FORCE_COMMAND = "force_command"
"""geometry_msgs/WrenchStamped: newtons on the ball, with the stamp of the odom that it answers."""
GOAL = "goal_pose"
"""As RViz's goal tool calls it."""
PLAN = "plan"
PLANNED_TRAJECTORY = "planned_trajectory"
CANDIDATES = "plan_candidates"
DENOISING = "plan_denoising"
OBSTACLES = "obstacles"
CAMERA_GUARD = "camera_guard"
CAMERA_FAULT = "camera_fault"
"""Simulation only: what is to go wrong with a camera."""
CLOCK = "/clock"
TF = "/tf"
DIAGNOSTICS = "/diagnostics"


# Published reliable throughout: a best-effort publisher is invisible to a reliable subscriber; let subscribers choose.
# Each node's can be changed by ROS's parameters qos_overrides.<topic>.subscription.reliability, .depth and .history.
SENSOR_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=5,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
BEST_EFFORT_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=5,
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
)
COMMAND_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
"""Chunks and commands as they are published: only the newest counts."""
WATCHED_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=10,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
"""Chunks and commands as they are heard: with a queue of one, a second publisher's could hide the first one's."""
DESCRIPTION_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
"""What a late subscriber still has to get: camera_info, scene."""
EPISODE_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=100,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
"""Deep: the end of an episode must not be lost because news of the next one followed at once."""
DIAGNOSTICS_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=10,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)

_SOURCES = {
    EEF_POS: EEF_POSE,
    EEF_QUAT: EEF_POSE,
    GRIPPER_QPOS: JOINT_STATES,
    OBJECT_POS: OBJECT_POSE,
    OBJECT_QUAT: OBJECT_POSE,
}


def sensor_qos(lockstep: bool) -> QoSProfile:
    """How sensors are heard: in real time best effort, as many drivers publish; in lockstep none may be lost."""
    return SENSOR_QOS if lockstep else BEST_EFFORT_QOS


def shown(node: Node, topic: str) -> str:
    """What a topic is called after remapping, for messages to people; without the node's own namespace."""
    return node.resolve_topic_name(topic).removeprefix(f"{node.get_namespace().rstrip('/')}/")


def image(camera: str) -> str:
    return f"{camera}/image_raw"


def camera_info(camera: str) -> str:
    return f"{camera}/camera_info"


def guard_heat(camera: str) -> str:
    """Where a camera does not show what it should, over its picture."""
    return f"{camera}/guard_heat"


def source(input_name: str) -> str:
    """The topic that a checkpoint's input comes from. Raises ValueError for an input that no topic carries."""
    if input_name.endswith(IMAGE_SUFFIX):
        return image(input_name.removesuffix(IMAGE_SUFFIX))
    if input_name not in _SOURCES:
        raise ValueError(
            f"checkpoint input {input_name!r}: no topic carries it, <camera>_image or {', '.join(_SOURCES)} expected"
        )
    return _SOURCES[input_name]


def sources(input_names: Iterable[str]) -> tuple[str, ...]:
    """The topics that a checkpoint's inputs come from, each once, in order."""
    return tuple(dict.fromkeys(source(name) for name in input_names))
