"""A robot of its own, said by one YAML: what its drivers publish and accept, where its frames are, what it may do.

docs/robot.md shows how to write one; config/robots/ has those that come with the package. Everything that can be said
wrong is refused here, in one line: the file, the key, the value and the rule. Nothing of what a robot may do has a
default.

Frames. The *hand* is the policy's: for the shipped policies the point between the fingertips, with the orientation of
robosuite's hand body. The driver speaks of a *tool* in its *base* frame. `tool` says where the hand is in the tool,
`base` where the base of the robot that the policy was trained on stands in the driver's base frame; where that base
stands in the policy's own frame is the checkpoint's to say (spec.base_pose).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from diffusion_ros import yaml_file
from diffusion_ros.resources import resource_folder
from diffusion_ros.robot_output import DRIVERS as DRIVERS
from diffusion_ros.robot_output import GRIPPER_OUTPUTS as GRIPPER_OUTPUTS
from diffusion_ros.robot_output import OUTPUTS as OUTPUTS
from diffusion_ros.robot_output import ActionOutput as ActionOutput
from diffusion_ros.robot_output import GripperOutput as GripperOutput
from diffusion_ros.robot_output import Limits as Limits
from diffusion_ros.robot_output import read_action, read_gripper, read_limits
from diffusion_ros.robot_person import TELEOP_AXES as TELEOP_AXES
from diffusion_ros.robot_person import TELEOP_TOPICS as TELEOP_TOPICS
from diffusion_ros.robot_person import Buttons as Buttons
from diffusion_ros.robot_person import RecordButtons as RecordButtons
from diffusion_ros.robot_person import Teleop as Teleop
from diffusion_ros.robot_person import button_twice as button_twice
from diffusion_ros.robot_person import read_buttons, read_record, read_teleop
from diffusion_ros.robot_section import RobotFileError as RobotFileError
from diffusion_ros.robot_section import Section
from diffusion_ros.spec import IMAGE_SUFFIX

HAND, OBJECT = "hand", "object"
"""Observations that are poses; each gives two of a checkpoint's inputs, position and orientation."""
READY_TYPES = ("std_msgs/Bool", "std_msgs/Float64", "std_msgs/Int32", "moveit_msgs/ServoStatus")


@dataclass(frozen=True)
class Placement:
    """Where something is in a named frame."""

    frame: str
    xyz: tuple[float, float, float]
    """m."""
    rpy: tuple[float, float, float]
    """rad about the fixed axes x, y, z, in that order, as in URDF."""

    @cached_property
    def position(self) -> NDArray[np.float64]:
        return np.array(self.xyz)

    @cached_property
    def rotation(self) -> Rotation:
        return Rotation.from_euler("xyz", self.rpy)


@dataclass(frozen=True)
class PoseSource:
    """A pose: `pose` from a PoseStamped topic; `tf` from /tf; `fk` from the joints' positions and the description."""

    source: str
    topic: str
    latency: float
    """s from the moment that a value shows to its stamp: it counts as of stamp - latency."""
    reliable: bool
    parent: str = ""
    """tf: the frame that the pose is in; else ''."""
    child: str = ""
    """tf: the frame whose pose it is."""


@dataclass(frozen=True)
class JointsSource:
    """Numbers from joint_states: scale * position + offset of each joint, in the order of the checkpoint's input."""

    topic: str
    joints: tuple[str, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    latency: float
    reliable: bool


@dataclass(frozen=True)
class PictureSource:
    """A camera's pictures: sensor_msgs/Image, or CompressedImage where the topic's name ends in /compressed."""

    topic: str
    crop: tuple[int, int, int, int] | None
    """x, y, width, height [px] of what is used of a picture, before it is scaled; None: all of it."""
    latency: float
    reliable: bool

    @property
    def compressed(self) -> bool:
        return self.topic.endswith("/compressed")


@dataclass(frozen=True)
class ReadyCondition:
    """Something that must be so before the robot may move."""

    topic: str
    type: str
    value: bool | None = None
    """Bool: what it must be."""
    low: float | None = None
    """Numbers: the least that will do."""
    high: float | None = None
    values: tuple[int, ...] = ()
    """Int32, ServoStatus: those that will do."""
    latched: bool = False
    """Whether it is published once, to whoever comes later as well."""
    max_age: float = 0.0
    """s after which silence counts as not ready; 0: it may be silent."""
    optional: bool = False
    """Whether it is left out where its message type is not installed."""

    def wrong(self, value: float, said: str = "") -> str:
        """'' or why a value will not do, without the topic; said: what the driver says to it."""
        if self.value is not None:
            good, rule = bool(value) == self.value, str(self.value).lower()
            return "" if good else f"{str(bool(value)).lower()}, {rule} expected"
        said = f" ({said})" if said else ""
        if self.values:
            return "" if value in self.values else f"{value:g}{said}, {' or '.join(map(str, self.values))} expected"
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        if low <= value <= high:  # so written for NaN
            return ""
        rules = [f"at least {low:g}"] * (low > -math.inf) + [f"at most {high:g}"] * (high < math.inf)
        return f"{value:g}{said}, {' and '.join(rules)} expected"


@dataclass(frozen=True)
class Description:
    """Where the robot's URDF is: a topic (std_msgs/String, latched) or a file."""

    topic: str = ""
    file: str = ""


@dataclass(frozen=True)
class RobotFile:
    """One robot."""

    path: Path
    driver: str
    base: Placement
    """Where the base of the robot that the policy was trained on stands, in the frame of the driver's poses."""
    tool: Placement
    """Where the policy's hand is, in the tool that the driver speaks of."""
    joints: tuple[str, ...]
    joint_states: str
    """The topic of their positions, for joint outputs whose hand is not told by them already."""
    description: Description | None
    record: RecordButtons | None
    poses: Mapping[str, PoseSource]
    """hand, and perhaps object."""
    numbers: Mapping[str, JointsSource]
    """By the checkpoint's input."""
    pictures: Mapping[str, PictureSource]
    """By camera."""
    action: ActionOutput
    gripper: GripperOutput | None
    limits: Limits
    ready: tuple[ReadyCondition, ...]
    buttons: Buttons | None
    teleop: Teleop | None = None

    @property
    def needs_kinematics(self) -> bool:
        """Whether the output or a pose goes by the arm's description."""
        return self.action.output.startswith("joint_") or any(pose.source == "fk" for pose in self.poses.values())


def shipped(resources: Path | None = None) -> dict[str, Path]:
    """The robots that come with the package, by name."""
    folder = (resource_folder() if resources is None else resources) / "config" / "robots"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find(text: str) -> Path:
    """A path, or the name of a shipped robot. Raises RobotFileError."""
    path, names = Path(text), shipped()
    if path.suffix in (".yaml", ".yml") or path.exists():
        return path.absolute()
    if text not in names:
        raise RobotFileError(f"robot {text!r}: expected a YAML file, or one of {', '.join(names)}")
    return names[text]


def read(path: Path) -> RobotFile:
    """Raises RobotFileError."""
    try:
        content = yaml_file.load(path)
    except ValueError as error:
        raise RobotFileError(str(error)) from None
    top = Section(str(path), content)
    driver = top.choice("driver", DRIVERS)
    joints = top.texts("joints", ())
    description = _description(top, path)
    poses, numbers, pictures = _observations(top.section("observations"), path)
    action = read_action(top.section("action"), driver)
    robot = RobotFile(
        path=path,
        driver=driver,
        base=_placement(top.section("base")),
        tool=_placement(top.section("tool")),
        joints=joints,
        joint_states=_joint_states(top, action, poses[HAND]),
        description=description,
        record=read_record(top) if "record" in top else None,
        poses=poses,
        numbers=numbers,
        pictures=pictures,
        action=action,
        gripper=read_gripper(top.section("gripper")) if "gripper" in top else None,
        limits=read_limits(top.section("limits")),
        ready=tuple(_ready(section) for section in top.sections("ready")),
        buttons=read_buttons(top.section("buttons")) if "buttons" in top else None,
        teleop=read_teleop(top.section("teleop")) if "teleop" in top else None,
    )
    top.done()
    _check(robot, top)
    return robot


def _check(robot: RobotFile, top: Section) -> None:
    """What keys say together."""
    needs = [f"observations.{name}" for name, source in robot.poses.items() if source.source == "fk"]
    needs += ["action.output"] if robot.action.output.startswith("joint_") else []
    if needs and not robot.joints:
        raise top.error("joints", f"missing, the arm's joints expected as {needs[0]} needs them")
    if needs and robot.description is None:
        raise top.error("description", f"missing, a topic or a file with the URDF expected as {needs[0]} needs it")
    if len(set(robot.joints)) != len(robot.joints):
        raise top.error("joints", f"{', '.join(robot.joints)}: each once expected")
    source = robot.poses[HAND]
    if source.source == "tf" and source.parent != robot.base.frame:
        raise top.error("observations.hand.parent", f"{source.parent!r}, the base frame {robot.base.frame!r} expected")
    if source.source == "tf" and source.child != robot.tool.frame:
        raise top.error("observations.hand.child", f"{source.child!r}, the tool's frame {robot.tool.frame!r} expected")
    teleop = robot.teleop if robot.teleop is not None and robot.teleop.type == "joy" else None
    if twice := button_twice(teleop, robot.buttons, robot.record):
        raise top.error("record" if teleop is None else "teleop", twice)
    topics = [(f"{name}{IMAGE_SUFFIX}", picture.topic) for name, picture in robot.pictures.items()]
    for i, (name, topic) in enumerate(topics):
        twin = next((other for other, known in topics[:i] if known == topic), None)
        if twin is not None:
            raise top.error(
                f"observations.{name}.topic", f"{topic}, which is {twin}'s as well: one camera each expected"
            )


def _joint_states(top: Section, action: ActionOutput, hand: PoseSource) -> str:
    if "joint_states" in top and (not action.output.startswith("joint_") or hand.source == "fk"):
        used = "a joint output and a hand whose source is not fk"
        raise top.error("joint_states", f"nothing reads it, {used} expected beside it")
    return top.topic("joint_states", "/joint_states")


def _placement(section: Section) -> Placement:
    xyz = section.numbers("xyz", 3, (0.0, 0.0, 0.0), -10.0, 10.0, "m")
    rpy = section.numbers("rpy", 3, (0.0, 0.0, 0.0), -2 * math.pi, 2 * math.pi, "rad")
    placement = Placement(section.text("frame"), (xyz[0], xyz[1], xyz[2]), (rpy[0], rpy[1], rpy[2]))
    section.done()
    return placement


def _description(top: Section, path: Path) -> Description | None:
    if "description" not in top:
        return None
    section = top.section("description")
    topic = section.topic("topic", "")
    file = section.text("file", "")
    section.done()
    if bool(topic) == bool(file):
        raise top.error("description", "one of topic and file expected")
    if file:
        file = str((path.parent / file).absolute())
        if not Path(file).is_file():
            raise top.error("description.file", f"{file}: no such file")
    return Description(topic, file)


def _latency(section: Section) -> float:
    """Negative where a driver's clock is behind ours."""
    return section.number("latency", 0.0, low=-10.0, high=10.0, unit="s")


def _reliable(section: Section) -> bool:
    return section.choice("qos", ("best_effort", "reliable"), "best_effort") == "reliable"


def _observations(
    section: Section, path: Path
) -> tuple[dict[str, PoseSource], dict[str, JointsSource], dict[str, PictureSource]]:
    poses: dict[str, PoseSource] = {}
    numbers: dict[str, JointsSource] = {}
    pictures: dict[str, PictureSource] = {}
    for name in section.names():
        one = section.section(name)
        if name in (HAND, OBJECT):
            poses[name] = _pose(one)
        elif name.endswith(IMAGE_SUFFIX):
            pictures[name.removesuffix(IMAGE_SUFFIX)] = _picture(one, path)
        else:
            numbers[name] = _joints(one)
        one.done()
    if HAND not in poses:
        raise section.error(HAND, "missing: where the hand is has to be known")
    section.done()
    return poses, numbers, pictures


def _pose(section: Section) -> PoseSource:
    source = section.choice("source", ("pose", "tf", "fk"))
    parent = child = ""
    if source == "tf":
        parent, child = section.text("parent"), section.text("child")
        topic = section.topic("topic", "/tf")
    else:
        topic = section.topic("topic")
    return PoseSource(source, topic, _latency(section), _reliable(section), parent, child)


def _joints(section: Section) -> JointsSource:
    section.choice("source", ("joints",), "joints")
    joints = section.texts("joints")
    many = len(joints)
    scale = section.numbers("scale", many, (1.0,) * many)
    if not all(scale):
        raise section.error("scale", f"{list(scale)}, other numbers than 0 expected")
    return JointsSource(
        topic=section.topic("topic"),
        joints=joints,
        scale=scale,
        offset=section.numbers("offset", many, (0.0,) * many),
        latency=_latency(section),
        reliable=_reliable(section),
    )


def _picture(section: Section, path: Path) -> PictureSource:
    section.choice("source", ("picture",), "picture")
    camera = section.text("camera", "")
    if camera:
        section.under(_camera(section, camera, path))
    crop = section.numbers("crop", 4, (), unit="px")
    if crop and (any(x != int(x) for x in crop) or min(crop[:2]) < 0 or min(crop[2:]) < 1):
        raise section.error("crop", f"{list(crop)}, whole pixels x, y, width, height expected, inside the picture")
    return PictureSource(
        topic=section.topic("topic"),
        crop=(int(crop[0]), int(crop[1]), int(crop[2]), int(crop[3])) if crop else None,
        latency=_latency(section),
        reliable=_reliable(section),
    )


def _camera(section: Section, name: str, path: Path) -> Mapping[str, Any]:
    """What config/robots/cameras/ says of a camera's driver."""
    folders = (path.parent / "cameras", resource_folder() / "config" / "robots" / "cameras")
    known = {file.stem: file for folder in reversed(folders) for file in sorted(folder.glob("*.yaml"))}
    if name not in known:
        raise section.error("camera", f"{name!r}, one of {', '.join(known)} expected")
    try:
        content = yaml_file.load(known[name])
    except ValueError as error:
        raise RobotFileError(str(error)) from None
    if not isinstance(content, Mapping):
        raise RobotFileError(f"{known[name]}: keys and values expected")
    return content


def _ready(section: Section) -> ReadyCondition:
    kind = section.choice("type", READY_TYPES)
    topic = section.topic("topic")
    value: bool | None = None
    low: float | None = None
    high: float | None = None
    values: tuple[int, ...] = ()
    if kind == "std_msgs/Bool":
        value = section.boolean("value")
    elif kind == "std_msgs/Float64":
        low = section.number("low") if "low" in section else None
        high = section.number("high") if "high" in section else None
        if low is None and high is None:
            raise section.error("low", "missing, low or high expected: what will do")
    else:
        numbers = section.numbers("values", None)
        if any(number != int(number) for number in numbers):
            raise section.error("values", f"{list(numbers)}, integers expected")
        values = tuple(int(number) for number in numbers)
    condition = ReadyCondition(
        topic=topic,
        type=kind,
        value=value,
        low=low,
        high=high,
        values=values,
        latched=section.boolean("latched", False),
        max_age=section.number("max_age", 0.0, low=0.0, high=60.0, unit="s"),
        optional=section.boolean("optional", False),
    )
    if condition.latched and condition.max_age:
        raise section.error(
            "max_age", f"{condition.max_age:g} s, none expected with latched: it is published only once"
        )
    section.done()
    return condition
