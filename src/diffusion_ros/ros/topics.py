"""Names and qualities of service of all topics; relative names, so that a namespace or a remapping moves a robot."""

from __future__ import annotations

from collections.abc import Iterable

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from diffusion_ros.robot import EEF_POS, EEF_QUAT, GRIPPER_QPOS, OBJECT_POS, OBJECT_QUAT
from diffusion_ros.robot_file import TELEOP_TOPICS
from diffusion_ros.spec import IMAGE_SUFFIX

JOINT_STATES = "joint_states"
"""Positions of all joints, arm and gripper; several drivers may share it. CartPole's and the pendulum's have velocities
and efforts too."""
EEF_POSE = "eef_pose"
"""The hand: position of the grip point [m] and orientation, in the robot's frame."""
CURRENT_POSE = "current_pose"
"""A driver's pose of the hand, by the names of CRISP's controllers: of the tool that the driver knows, in its base."""
TARGET_POSE = "target_pose"
"""A driver's target for the hand, by the names of CRISP's controllers: in the frame of current_pose."""
GRIPPER_COMMANDS = "gripper/commands"
"""A driver's target for the fingers: one number, the width between them [m]."""
DRIVER_READY = "~/ready"
"""Whether the arm would follow a target now."""
OBJECT_POSE = "object_pose"
"""Simulation only: the pose of the object, which policies from state need."""
ACTION_CHUNK = "action_chunk"
"""The motion of the next control steps, a row each: eef_dx, eef_dy, eef_dz [m], eef_drx, eef_dry, eef_drz [rad],
gripper. Rows of poses are eef_x to eef_rz, motions in the hand's own axes tool_dx to tool_drz. The stamp is that of the
newest observation used."""
EEF_COMMAND = "eef_command"
"""The motion of one control step: one row like those of action_chunk. Zeros mean hold."""
EXECUTED_ACTION = "executed_action"
"""The row whose execution begins, within the limits of a step; `row`, which of its chunk it is, from 0 on, -1 of a
person's; `age`, how long ago its chunk was observed [s]; and `person`: 1 where it is theirs, 0 where the policy's.
Nothing while it holds. The stamp is that of the observation that it answers; where none came for it, the row's own
time; with a robot's YAML, when it begins."""
TELEOP_ACTION = "teleop_action"
"""What a person asks for: one row like those of action_chunk in each control step, stamped now, while they decide. The
gripper is 0 where nothing is known of it: as it is. Last comes `held`: 1 while the dead-man is held, 0 gives back, as
silence does. Without `held`, seven columns, a row of zeros gives back."""
JOINT_COMMAND = "joint_command"
"""The effort of one joint, with the stamp of the joint_states that it answers."""
EFFORT_COMMAND = "effort_command"
"""For scripts, double pendulum: an effort without a stamp. It answers the newest joint_states."""
DISCRETE_ACTION = "discrete_action"
"""For scripts, CartPole: the number of an action, without a stamp. It answers the newest joint_states."""
IMAGE = "image_raw"
"""A drawing of the cart and its pole or poles. It is drawn only while somebody listens."""
GENERATED = "generated/image_raw"
"""What image_generator has drawn."""
GENERATION = "denoising/image_raw"
"""How it came about, from noise to the picture."""
RECORDING = "recording"
"""JSON, twice a second: state (idle, recording, stopped), why, episode, steps, messages, dropped, late, and the GB that
are free on the disk of the bag."""
EPISODE = "episode"
"""JSON: index, seed, step, reward, success and more, a few times a second. The event 'end' carries the result."""
SCENE = "scene"
"""What the simulator contains, as markers: an arm's once, in the frames of the bodies that move (`scene_poses`)."""
SCENE_POSES = "scene_poses"
"""Where the bodies of `scene` are, by the names of their frames."""
EEF_PATH = "eef_path"
"""Where the hand has been. With a robot's YAML in its base frame."""
PREDICTED_PATH = "predicted_path"
"""Where the hand would go if it reached every row of the newest chunk; empty while no chunk is made. With a robot's
YAML in its base frame."""
MAP = "map"
"""The maze's walls."""
ODOMETRY = "odom"
"""Position [m] and velocity [m/s] of the ball in the maze."""
FORCE_COMMAND = "force_command"
"""The force on the ball for one control step [N]. Its stamp is that of the odometry that it answers."""
GOAL = "goal_pose"
"""Where to go; RViz's goal tool publishes it too."""
PLAN = "plan"
"""The plan as a path."""
PLANNED_TRAJECTORY = "planned_trajectory"
"""The plan with all its states, for whoever follows it."""
CANDIDATES = "plan_candidates"
"""All plans that were sampled, as lines for RViz; the chosen one is green."""
DENOISING = "plan_denoising"
"""The first plan after each denoising step, as lines for RViz."""
OBSTACLES = "obstacles"
"""Balls that plans keep clear of: sphere markers."""
CAMERA_GUARD = "camera_guard"
"""The camera guard's verdict and its scores. The executor holds unless the level is OK."""
CAMERA_FAULT = "camera_fault"
"""Simulation only: makes a camera fail, '<fault> <camera>'; '' ends it."""
CLOCK = "/clock"
"""The time of a simulator in lockstep, or below speed 1."""
TF = "/tf"
"""Where tf2_msgs is installed: the hand, the cameras, the bodies of `scene` and the arm's links in the world, the ball
in the maze, the cart and its links."""
TF_STATIC = "/tf_static"
"""The same for frames that do not move, and for an image generator's pictures."""
ROBOT_DESCRIPTION = "robot_description"
"""The simulated arm as URDF, for RViz's RobotModel. Its meshes are files of the simulator's machine."""
JOY = TELEOP_TOPICS["joy"]
"""A person's gamepad."""
CMD_VEL = TELEOP_TOPICS["twist"]
"""The hand's speed as a person wants it [m/s, rad/s], for as long as it is published."""
DIAGNOSTICS = "/diagnostics"
"""Once a second: state, reasons for holding, rates, ages, latencies, checkpoint."""


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
TF_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=100,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
"""As tf2_ros's."""
DESCRIPTION_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
"""What a late subscriber still has to get: camera_info, scene, robot_description, /tf_static."""
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
    """A camera's picture, rgb8 and upright."""
    return f"{camera}/image_raw"


def compressed(picture: str) -> str:
    """The same picture as JPEG, by image_transport's name."""
    return f"{picture}/compressed"


def camera_info(camera: str) -> str:
    """The camera's intrinsic matrix."""
    return f"{camera}/camera_info"


def guard_heat(camera: str) -> str:
    """The camera's picture; what should not be there is red."""
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
