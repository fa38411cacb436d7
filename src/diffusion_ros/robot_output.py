"""How the robot is told what to do, in its YAML (robot_file): its arm, its gripper, and what it may do at all."""

from __future__ import annotations

from dataclasses import dataclass, replace

from diffusion_ros.robot_section import Section

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
_GRIPPER_ACTIONS = ("gripper_command", "parallel_gripper_command")
GRIPPER_OUTPUTS = (*_GRIPPER_ACTIONS, "joint_trajectory", "positions")


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


def read_action(section: Section, driver: str) -> ActionOutput:
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


def read_gripper(section: Section) -> GripperOutput:
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


def read_limits(section: Section) -> Limits:
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
