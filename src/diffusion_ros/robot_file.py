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
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from diffusion_ros import yaml_file
from diffusion_ros.resources import resource_folder
from diffusion_ros.robot_section import RobotFileError as RobotFileError
from diffusion_ros.robot_section import Section
from diffusion_ros.spec import IMAGE_SUFFIX

DRIVERS = ("crisp", "fci", "servo", "jtc", "kortex", "forward")
"""Whose rules a robot's motion input follows; rehearsal behaves like them."""
OUTPUTS = ("pose", "twist", "joint_trajectory", "joint_positions")
_DRIVERS_OF = {
    "pose": ("crisp", "fci", "servo"),
    "twist": ("servo", "kortex"),
    "joint_trajectory": ("jtc",),
    "joint_positions": ("forward",),
}
_KORTEX = {"type": "Twist", "axes": "tool"}
"""What ros2_kortex's twist controller takes, and nothing else."""
_MAX_LOOP_GAIN = 1.0
"""gain * latency of a twist output. The loop that makes up for what is missing swings up by itself beyond pi/2."""
_TYPES_OF = {
    "pose": ("PoseStamped",),
    "twist": ("TwistStamped", "Twist"),
    "joint_trajectory": ("JointTrajectory",),
    "joint_positions": ("Float64MultiArray",),
}
HAND, OBJECT = "hand", "object"
"""Observations that are poses; each gives two of a checkpoint's inputs, position and orientation."""
READY_TYPES = ("std_msgs/Bool", "std_msgs/Float64", "std_msgs/Int32", "moveit_msgs/ServoStatus")
_GRIPPER_ACTIONS = ("gripper_command", "parallel_gripper_command")
GRIPPER_OUTPUTS = (*_GRIPPER_ACTIONS, "joint_trajectory", "positions")


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
class ActionOutput:
    """How the arm is told where to go."""

    output: str
    type: str
    """Of the message."""
    topic: str
    rate: float
    """Commands a second [Hz]."""
    reference: str
    """commanded: each row goes on from the last target; measured: a chunk begins where the hand was seen."""
    leash: tuple[float, float]
    """What the target may be away from the measured hand [m, rad]."""
    latency: float
    """s from a command to the arm's answer: rows are sent so much earlier."""
    lag: float = 0.0
    """pose: s that a moving arm stays behind its target; it is sent so much ahead along its velocity."""
    inertia: float = 0.0
    """pose: s, the square root of the arm's mass over its stiffness; its square times the acceleration is sent, too."""
    axes: str = "base"
    """twist: base or tool, whose axes it is in."""
    gain: float = 2.0
    """twist: 1/s by which what is missing to the target is made up for."""


@dataclass(frozen=True)
class GripperOutput:
    """How the gripper is told what to do."""

    output: str
    name: str
    """Of the action, or of the topic."""
    joints: tuple[str, ...]
    """joint_trajectory, parallel_gripper_command: the joints that are named."""
    open: float
    """The driver's position of the open gripper: m or rad, a width, half of one, or a joint's."""
    closed: float
    effort: float
    """N, the most that an action may use; 0: the driver's."""
    interval: float
    """s between two goals at least."""
    timeout: float
    """s after which an action is not waited for any more."""
    latency: float
    """s from a goal to the fingers' motion: rows count so much earlier."""
    proportional: bool = False
    """Whether a row's value is a place between open and closed, which is sent on, and no wish for one of the two."""


@dataclass(frozen=True)
class Limits:
    """What the target may do. Required, all of it."""

    linear: float
    """m/s"""
    angular: float
    """rad/s"""
    linear_acceleration: float
    """m/s^2"""
    angular_acceleration: float
    """rad/s^2"""
    low: tuple[float, float, float]
    """Lower corner of the box that the hand stays in [m], in the base frame."""
    high: tuple[float, float, float]


@dataclass(frozen=True)
class RecordButtons:
    """Of whoever records: numbers of buttons of a sensor_msgs/Joy, None where there is none."""

    topic: str
    start: int | None = None
    """Pressed: an episode begins."""
    success: int | None = None
    """Pressed: it ends, and has succeeded."""
    failure: int | None = None
    """Pressed: it ends, and has failed."""
    discard: int | None = None
    """Pressed: it is thrown away, or the last one if none runs."""


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
class Buttons:
    """The operator's: numbers of buttons of a sensor_msgs/Joy, None where there is none."""

    topic: str
    enable: int | None = None
    """Pressed: the robot may move."""
    stop: int | None = None
    """Pressed: emergency stop, latched. Nothing moves before it was heard of."""
    hold: int | None = None
    """The robot moves only while it is pressed."""


TELEOP_AXES = ("x", "y", "z", "rx", "ry", "rz")
"""What a person's device moves: the hand along, and about, the axes of the policy's frame."""
TELEOP_TOPICS = {"joy": "/joy", "twist": "/cmd_vel", "twist_stamped": "/cmd_vel"}
"""Device -> its topic, where nothing else is said."""


@dataclass(frozen=True)
class Teleop:
    """How a person drives the arm. Numbers are of axes and buttons of a sensor_msgs/Joy, None where there is none; the
    defaults are those of an Xbox controller, or one like it, as joy_node has it."""

    type: str = "joy"
    """joy; or twist, twist_stamped: of a device that somebody else reads."""
    topic: str = "/joy"
    dead_man: int = 5
    """The person decides while it is held. RB."""
    axes: Mapping[str, tuple[int, float]] = field(
        default_factory=lambda: {"x": (1, 1.0), "y": (0, 1.0), "z": (4, 1.0), "rz": (3, 1.0)}
    )
    """Of TELEOP_AXES: number and factor, -1 to 1. Left stick: x and y; right one: z, and about z."""
    linear: float = 0.1
    """m/s at full deflection."""
    angular: float = 0.5
    """rad/s"""
    gripper: int | None = 0
    """Closes and opens the gripper in turn. A."""
    open: int | None = None
    close: int | None = None
    slow: int | None = 4
    """While it is held all goes by slow_factor. LB."""
    slow_factor: float = 0.3
    dead_zone: float = 0.1
    """Of an axis, that means nothing."""
    expo: float = 0.3
    """How much finer an axis is in the middle: 0 not at all, 1 as x^3."""


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
    action = _action(top.section("action"), driver)
    robot = RobotFile(
        path=path,
        driver=driver,
        base=_placement(top.section("base")),
        tool=_placement(top.section("tool")),
        joints=joints,
        joint_states=_joint_states(top, action, poses[HAND]),
        description=description,
        record=_record(top) if "record" in top else None,
        poses=poses,
        numbers=numbers,
        pictures=pictures,
        action=action,
        gripper=_gripper(top.section("gripper")) if "gripper" in top else None,
        limits=_limits(top.section("limits")),
        ready=tuple(_ready(section) for section in top.sections("ready")),
        buttons=_buttons(top.section("buttons")) if "buttons" in top else None,
        teleop=_teleop(top.section("teleop")) if "teleop" in top else None,
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


def button_twice(teleop: Teleop | None, buttons: Buttons | None, record: RecordButtons | None) -> str:
    """'' or which button of a gamepad means two things. teleop: of a gamepad that drives, what is usual included.

    The operator's hold may be the dead-man as well: both are kept down by whoever drives.
    """
    found: dict[tuple[str, int], str] = {}
    for section, said, names in (
        ("buttons", buttons, ("enable", "stop", "hold")),
        ("record", record, ("start", "success", "failure", "discard")),
        ("teleop", teleop, ("dead_man", "gripper", "open", "close", "slow")),
    ):
        if said is None:
            continue
        for name in names:
            number, key = getattr(said, name), f"{section}.{name}"
            if number is None:
                continue
            other = found.setdefault((said.topic, number), key)
            if other != key and (other, key) != ("buttons.hold", "teleop.dead_man"):
                return f"button {number} is {other} and {key}: another one expected for each"
    return ""


def _record(top: Section) -> RecordButtons:
    section = top.section("record")
    operator = _buttons(top.section("buttons")) if "buttons" in top else None
    numbers: dict[str, int] = {}
    for name in ("start", "success", "failure", "discard"):
        if name in section:
            number = section.number(name, low=0, high=63)
            if number != int(number):
                raise section.error(name, f"{number:g}, the number of a button expected")
            numbers[name] = int(number)
    record = RecordButtons(section.topic("topic", None if operator is None else operator.topic), **numbers)
    used = [*numbers.values()]
    if operator is not None and record.topic == operator.topic:
        used += [number for number in (operator.enable, operator.stop, operator.hold) if number is not None]
    if record.start is None or len(set(used)) != len(used):
        rule = "a button to start expected, and each another one, the operator's among them"
        raise section.error("start", f"start, success, failure and discard: {rule}")
    section.done()
    return record


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


def _action(section: Section, driver: str) -> ActionOutput:
    output = section.choice("output", OUTPUTS)
    if driver not in _DRIVERS_OF[output]:
        fits = [name for name in OUTPUTS if driver in _DRIVERS_OF[name]]
        raise section.error(
            "output", f"{output}, which the driver {driver} does not take: {' or '.join(fits)} expected"
        )
    leash = section.numbers("leash", 2, (0.05, 0.3), 0.005, 1.5)
    own = _KORTEX if driver == "kortex" else {}
    action = ActionOutput(
        output=output,
        type=section.choice("type", _TYPES_OF[output], own.get("type", _TYPES_OF[output][0])),
        topic=section.topic("topic"),
        rate=section.number("rate", low=20.0, high=100.0, unit="Hz"),
        reference=section.choice("reference", ("commanded", "measured"), "commanded"),
        leash=(leash[0], leash[1]),
        latency=section.number("latency", 0.0, low=0.0, high=0.5, unit="s"),
    )
    if output == "twist":
        action = replace(
            action,
            axes=section.choice("axes", ("base", "tool"), own.get("axes", "base")),
            gain=section.number("gain", 2.0, low=0.0, high=10.0, unit="1/s"),
        )
        if action.gain * action.latency > _MAX_LOOP_GAIN:
            product = (
                f"{action.gain:g} 1/s, with latency {action.latency:g} s it makes {action.gain * action.latency:g}"
            )
            raise section.error("gain", f"{product}, at most {_MAX_LOOP_GAIN:g} expected: the arm would swing")
    if output == "pose":
        action = replace(
            action,
            lag=section.number("lag", 0.0, low=0.0, high=0.3, unit="s"),
            inertia=section.number("inertia", 0.0, low=0.0, high=0.2, unit="s"),
        )
    if action.type == "Twist" and driver == "servo":
        raise section.error("type", "Twist, TwistStamped expected: Servo drops what has no stamp")
    for name, value in own.items():
        if getattr(action, name) != value:
            raise section.error(
                name, f"{getattr(action, name)}, {value} expected: the driver kortex takes nothing else"
            )
    section.done()
    return action


def _gripper(section: Section) -> GripperOutput:
    output = section.choice("output", GRIPPER_OUTPUTS)
    names_joints = output in ("joint_trajectory", "parallel_gripper_command")
    for name in ("effort", "timeout") if output not in _GRIPPER_ACTIONS else ():
        if name in section:
            raise section.error(name, f"not known to {output}, only to {' and '.join(_GRIPPER_ACTIONS)}")
    proportional = section.boolean("proportional", False)
    if proportional and output in _GRIPPER_ACTIONS:
        raise section.error("proportional", f"true, false expected with {output}: a goal takes about a second")
    gripper = GripperOutput(
        output=output,
        name=section.topic("name"),
        joints=section.texts("joints") if names_joints else (),
        open=section.number("open", low=-10.0, high=10.0),
        closed=section.number("closed", low=-10.0, high=10.0),
        effort=section.number("effort", 0.0, low=0.0, high=1000.0, unit="N"),
        interval=section.number("interval", 0.5, low=0.0, high=10.0, unit="s"),
        timeout=section.number("timeout", 5.0, low=0.1, high=120.0, unit="s"),
        latency=section.number("latency", 0.0, low=0.0, high=0.5, unit="s"),
        proportional=proportional,
    )
    if gripper.open == gripper.closed:
        raise section.error("closed", f"{gripper.closed:g}, another value than open's expected")
    section.done()
    return gripper


def _limits(section: Section) -> Limits:
    def corner(name: str) -> tuple[float, float, float]:
        x, y, z = section.numbers(name, 3, None, -10.0, 10.0, "m")
        return x, y, z

    limits = Limits(
        linear=section.number("linear", above=0.0, high=2.0, unit="m/s"),
        angular=section.number("angular", above=0.0, high=4.0, unit="rad/s"),
        linear_acceleration=section.number("linear_acceleration", above=0.0, high=13.0, unit="m/s^2"),
        angular_acceleration=section.number("angular_acceleration", above=0.0, high=25.0, unit="rad/s^2"),
        low=corner("low"),
        high=corner("high"),
    )
    if any(a >= b for a, b in zip(limits.low, limits.high, strict=True)):
        raise section.error("low", f"{list(limits.low)}, below high {list(limits.high)} in every component expected")
    section.done()
    return limits


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


def _button(section: Section, name: str) -> int | None:
    number = section.number(name, low=0, high=63) if name in section else None
    if number is not None and number != int(number):
        raise section.error(name, f"{number:g}, the number of a button expected")
    return None if number is None else int(number)


def _teleop(section: Section) -> Teleop:
    usual = Teleop()
    kind = section.choice("type", tuple(TELEOP_TOPICS), usual.type)
    teleop = Teleop(
        type=kind,
        topic=section.topic("topic", TELEOP_TOPICS[kind]),
        linear=section.number("linear", usual.linear, above=0.0, high=2.0, unit="m/s"),
        angular=section.number("angular", usual.angular, above=0.0, high=4.0, unit="rad/s"),
    )
    if kind == "joy":
        own = any(name in section for name in ("gripper", "open", "close"))
        dead_man = _button(section, "dead_man")
        teleop = replace(
            teleop,
            dead_man=usual.dead_man if dead_man is None else dead_man,
            axes=_teleop_axes(section.section("axes")) if "axes" in section else usual.axes,
            gripper=_button(section, "gripper") if own else usual.gripper,
            open=_button(section, "open"),
            close=_button(section, "close"),
            slow=_button(section, "slow") if "slow" in section or dead_man == usual.slow else usual.slow,
            slow_factor=section.number("slow_factor", usual.slow_factor, above=0.0, high=1.0),
            dead_zone=section.number("dead_zone", usual.dead_zone, low=0.0, high=0.9),
            expo=section.number("expo", usual.expo, low=0.0, high=1.0),
        )
        numbers = [teleop.dead_man, teleop.gripper, teleop.open, teleop.close, teleop.slow]
        used = [number for number in numbers if number is not None]
        if len(set(used)) != len(used):
            rule = "another button each expected of dead_man, gripper, open, close and slow"
            raise section.error("dead_man", f"buttons {', '.join(map(str, used))}: {rule}")
    section.done()
    return teleop


def _teleop_axes(section: Section) -> dict[str, tuple[int, float]]:
    axes = {}
    for name in TELEOP_AXES:
        if name in section:
            number, factor = section.numbers(name, 2, None, -1.0, 63.0)
            if number < 0 or number != int(number) or not 0.0 < abs(factor) <= 1.0:
                rule = "the number of an axis and a factor of -1 to 1, but not 0, expected"
                raise section.error(name, f"{[number, factor]}, {rule}")
            axes[name] = int(number), factor
    section.done()
    return axes


def _buttons(section: Section) -> Buttons:
    numbers = {name: _button(section, name) for name in ("enable", "stop", "hold")}
    used = [number for number in numbers.values() if number is not None]
    if not used or len(set(used)) != len(used):
        raise section.error("enable", "enable, stop and hold: one of them at least, and each another button, expected")
    buttons = Buttons(section.topic("topic"), **numbers)
    section.done()
    return buttons
