"""What a person at the robot holds, in its YAML (robot_file): buttons, those of whoever records, and what drives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from diffusion_ros.robot_section import Section


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


def read_record(top: Section) -> RecordButtons:
    section = top.section("record")
    operator = read_buttons(top.section("buttons")) if "buttons" in top else None
    numbers = {name: _button(section, name) for name in ("start", "success", "failure", "discard")}
    record = RecordButtons(section.topic("topic", None if operator is None else operator.topic), **numbers)
    used = [number for number in numbers.values() if number is not None]
    if operator is not None and record.topic == operator.topic:
        used += [number for number in (operator.enable, operator.stop, operator.hold) if number is not None]
    if record.start is None or len(set(used)) != len(used):
        rule = "a button to start expected, and each another one, the operator's among them"
        raise section.error("start", f"start, success, failure and discard: {rule}")
    section.done()
    return record


def _button(section: Section, name: str) -> int | None:
    number = section.number(name, low=0, high=63) if name in section else None
    if number is not None and number != int(number):
        raise section.error(name, f"{number:g}, the number of a button expected")
    return None if number is None else int(number)


def read_teleop(section: Section) -> Teleop:
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


def read_buttons(section: Section) -> Buttons:
    numbers = {name: _button(section, name) for name in ("enable", "stop", "hold")}
    used = [number for number in numbers.values() if number is not None]
    if not used or len(set(used)) != len(used):
        raise section.error("enable", "enable, stop and hold: one of them at least, and each another button, expected")
    buttons = Buttons(section.topic("topic"), **numbers)
    section.done()
    return buttons
