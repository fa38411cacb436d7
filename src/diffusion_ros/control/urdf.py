"""The joints between two links of a URDF: their origins, axes and limits. Whatever else the text names is not opened.

Lengths are metres, angles radians.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Array = NDArray[np.float64]

MAX_CHARACTERS = 4_000_000
"""Of a URDF. Those of arms with their grippers and plug-ins have some 100,000."""
MOVING = ("revolute", "continuous", "prismatic")


@dataclass(frozen=True)
class Placement:
    """One frame in another: position (3) m, and rotation."""

    position: Array
    rotation: Rotation

    @classmethod
    def none(cls) -> Placement:
        return cls(np.zeros(3), Rotation.identity())

    def __matmul__(self, other: Placement) -> Placement:
        return Placement(self.position + self.rotation.apply(other.position), self.rotation * other.rotation)

    def inverse(self) -> Placement:
        back = self.rotation.inv()
        return Placement(-back.apply(self.position), back)


@dataclass(frozen=True)
class Joint:
    """A joint of the URDF; origin: its frame in the parent link, or in the moving joint's before it."""

    name: str
    kind: str
    parent: str
    child: str
    origin: Placement
    axis: Array
    low: float
    high: float
    speed: float
    mimics: str


def joints_between(text: str, base: str, tool: str, given: Sequence[str]) -> tuple[list[Joint], Placement]:
    """The given joints, from the base link ('' for the root) to the tool's, each one's origin in the one before; and
    the tool in the last one.

    A mimic joint there is held at 0. Raises ValueError in one line where the given ones are not all that lie between.
    """
    links, by_child = _parse(text, given)
    names = sorted(joint.name for joint in by_child.values())
    if not given:
        raise ValueError(f"joints is empty, names among {listed(names)} expected")
    for name in given:
        if name not in names:
            raise ValueError(f"joint {short(name)}: the robot has {listed(names)}")
        if given.count(name) > 1:
            raise ValueError(f"joint {short(name)} is named twice")
    base = base or _root(links, by_child)
    for link in (base, tool):
        if link not in links:
            raise ValueError(f"link {short(link)}: the robot has {listed(sorted(links))}")
    for joint in by_child.values():
        if joint.name in given and joint.kind not in MOVING:
            raise ValueError(f"joint {short(joint.name)} is {short(joint.kind)}, {listed(MOVING)} expected")
        if joint.name in given and joint.mimics:
            raise ValueError(f"joint {short(joint.name)} mimics {short(joint.mimics)}: it has no position of its own")
    above, below = _way(base, by_child), _way(tool, by_child)
    while above and below and above[0] is below[0]:
        del above[0], below[0]
    for joint in above:
        if joint.name in given or (joint.kind != "fixed" and not joint.mimics):
            raise ValueError(f"joint {short(joint.name)} moves the base {short(base)}, fixed joints expected")
    between = [joint.name for joint in below]
    for name in given:
        if name not in between:
            raise ValueError(
                f"joint {short(name)} is not between {short(base)} and {short(tool)}: "
                f"there are {listed([j.name for j in below if j.kind != 'fixed'])}"
            )
    for joint in below:
        if joint.name not in given and joint.kind != "fixed" and not joint.mimics:
            raise ValueError(
                f"joint {short(joint.name)} is between {short(base)} and {short(tool)}, and not among the joints"
            )
    place = Placement.none()
    for joint in above:
        place = place @ joint.origin
    place = place.inverse()
    placed: list[Joint] = []
    for joint in below:
        place = place @ joint.origin
        if joint.name in given:
            placed.append(replace(joint, origin=place))
            place = Placement.none()
    return placed, place


def _parse(text: str, given: Sequence[str]) -> tuple[set[str], dict[str, Joint]]:
    """The links' names, and the joints by the link that each moves; axes and limits of those given only, as others'
    are often zeros."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"a URDF of {len(text)} characters, at most {MAX_CHARACTERS} expected")
    # Entities are declared there and nowhere else: they grow without end, or name files.
    for word in ("<!DOCTYPE", "<!ENTITY"):
        if word in text:
            raise ValueError(f"a URDF with {word}, one without declarations of entities expected")
    try:
        robot = ET.fromstring(text)
    except (ET.ParseError, ValueError) as error:
        raise ValueError(f"a URDF that is not XML: {' '.join(str(error).split())}") from None
    if robot.tag != "robot":
        raise ValueError(f"a description whose root is {short(robot.tag)}, 'robot' expected: is it a URDF?")
    links = {str(link.get("name", "")) for link in robot.findall("link")}
    by_child: dict[str, Joint] = {}
    seen: set[str] = set()
    # Of the root only: transmissions and ros2_control have joints of their own inside.
    for element in robot.findall("joint"):
        joint = _joint(element, given)
        for link in (joint.parent, joint.child):
            if link not in links:
                raise ValueError(f"joint {short(joint.name)} names link {short(link)}, which the URDF has not")
        if joint.name in seen:
            raise ValueError(f"the URDF has two joints {short(joint.name)}")
        if joint.child in by_child:
            raise ValueError(f"link {short(joint.child)} is moved by two joints")
        seen.add(joint.name)
        by_child[joint.child] = joint
    return links, by_child


def _joint(element: ET.Element, given: Sequence[str]) -> Joint:
    name = element.get("name", "")
    if not name:
        raise ValueError("the URDF has a joint without a name")
    of = f"joint {short(name)}"
    kind = element.get("type", "")
    parent, child = (_attributes(element, tag).get("link", "") for tag in ("parent", "child"))
    origin = _attributes(element, "origin")
    position = _numbers(origin.get("xyz", "0 0 0"), 3, f"{of}: origin xyz")
    angles = _numbers(origin.get("rpy", "0 0 0"), 3, f"{of}: origin rpy")
    mimics = _attributes(element, "mimic").get("joint", "")
    axis, low, high, speed = np.array([1.0, 0.0, 0.0]), -np.inf, np.inf, np.inf
    if name in given and kind in MOVING and not mimics:
        axis = _numbers(_attributes(element, "axis").get("xyz", "1 0 0"), 3, f"{of}: axis xyz")
        if np.linalg.norm(axis) < 1e-6:
            raise ValueError(f"{of}: axis xyz is {axis.tolist()}, a direction expected")
        limit = _attributes(element, "limit")
        if kind != "continuous":
            low, high = (float(_numbers(limit.get(k, "0"), 1, f"{of}: {k} limit")[0]) for k in ("lower", "upper"))
            if not low < high:
                raise ValueError(f"{of}: limits {low:g} to {high:g}, lower below upper expected")
        if "velocity" in limit:
            speed = float(_numbers(limit["velocity"], 1, f"{of}: velocity limit")[0])
            if speed <= 0:
                raise ValueError(f"{of}: velocity limit is {speed:g}, more than 0 expected")
    rotation = Rotation.from_euler("xyz", angles)
    return Joint(name, kind, parent, child, Placement(position, rotation), axis, low, high, speed, mimics)


def _attributes(element: ET.Element, tag: str) -> Mapping[str, str]:
    child = element.find(tag)
    return {} if child is None else child.attrib


def _numbers(text: str, count: int, what: str) -> Array:
    try:
        numbers = np.array([float(word) for word in text.split()])
    except ValueError:
        numbers = np.zeros(0)
    if len(numbers) != count or not (abs(numbers) <= 1e4).all():
        raise ValueError(f"{what} is {short(text)}, {count} finite number{'s' * (count > 1)} expected")
    return numbers


def _root(links: set[str], by_child: Mapping[str, Joint]) -> str:
    roots = sorted(links - set(by_child))
    if len(roots) != 1:
        raise ValueError(f"the URDF has {len(roots)} root links ({listed(roots)}), one expected, or base")
    return roots[0]


def _way(link: str, by_child: Mapping[str, Joint]) -> list[Joint]:
    """The joints from the root to a link."""
    way: list[Joint] = []
    while link in by_child:
        way.append(by_child[link])
        link = by_child[link].parent
        if len(way) > len(by_child):
            raise ValueError(f"the URDF's links go round in a circle at {short(link)}")
    return way[::-1]


def short(value: str) -> str:
    """As Python writes it, so that it stays in its line, and no longer than a name is."""
    return repr(value if len(value) <= 60 else value[:60] + "...")


def listed(names: Sequence[str]) -> str:
    """Some of many, for a line."""
    shown = ", ".join(name if name.isprintable() and len(name) <= 60 else short(name) for name in names[:40])
    return (shown or "none") + (f" and {len(names) - 40} more" if len(names) > 40 else "")
