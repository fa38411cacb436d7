"""What RViz would make of a layout, without RViz: a node that subscribes as its displays do and says what they would.

RViz's rules, as its sources and its messages have them: a publisher must offer what a display asks for (QoS), frames of
what comes must be connected with the fixed frame by TF, no two markers of a message may share namespace and id, poses
need a quaternion that is one, and a marker a size and a colour that can be seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import yaml
from fake_transforms import TFMessage, transforms_of
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import OccupancyGrid, Path
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String
from visualization_msgs.msg import Marker, MarkerArray

from diffusion_ros.ros import topics
from diffusion_ros.ros.transforms import Transforms

KINDS = {
    "Image": Image,
    "Map": OccupancyGrid,
    "MarkerArray": MarkerArray,
    "Path": Path,
    "RobotModel": String,
}
"""Class of a display -> type of its messages."""
WITHOUT_TOPIC = ("Grid", "TF")


def profile(topic: dict[str, Any]) -> QoSProfile:
    """That a display asks for."""
    reliable, latched = topic["Reliability Policy"] == "Reliable", topic["Durability Policy"] == "Transient Local"
    return QoSProfile(
        depth=int(topic["Depth"]),
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


class Viewer(Node):
    """RViz with a layout's text. `complaints` is what would be red or yellow now."""

    def __init__(self, layout: str, namespace: str = "") -> None:
        super().__init__("rviz", namespace=namespace)
        content = yaml.safe_load(layout)
        manager = content["Visualization Manager"]
        self.state = bytes.fromhex(content["Window Geometry"]["QMainWindow State"])
        self.fixed_frame: str = manager["Global Options"]["Fixed Frame"]
        self.tools = {tool["Class"].split("/")[1]: tool for tool in manager["Tools"]}
        self.displays = {display["Name"]: display for display in manager["Displays"]}
        assert len(self.displays) == len(manager["Displays"])
        self.transforms = Transforms()
        self.frames: set[str] = set()
        self._parents: dict[str, str] = {}
        self.heard: dict[str, Any] = {}
        """The last message of each display."""
        self._bad: dict[str, str] = {}
        for name, display in self.shown():
            kind, topic = self.kind(display), self.topic(display)
            self.create_subscription(
                kind, topic["Value"], lambda msg, name=name: self._on_message(name, msg), profile(topic)
            )
        moving = QoSProfile(depth=100)
        fixed = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        for name, qos in ((topics.TF, moving), (topics.TF_STATIC, fixed)):
            self.create_subscription(
                TFMessage, name, lambda msg, always=qos is fixed: self._on_transforms(msg, always), qos
            )

    def shown(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Displays that are switched on and have a topic."""
        for name, display in self.displays.items():
            if display["Enabled"] and display["Class"].split("/")[1] not in WITHOUT_TOPIC:
                yield name, display

    @staticmethod
    def topic(display: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = display["Topic"] if "Topic" in display else display["Description Topic"]
        return found

    def kind(self, display: dict[str, Any]) -> Any:
        kind = KINDS[display["Class"].split("/")[1]]
        return CompressedImage if kind is Image and self.topic(display)["Value"].endswith("/compressed") else kind

    def _on_transforms(self, msg: String, always: bool) -> None:
        said = transforms_of(msg)
        for transform in said:
            child, parent = transform.child_frame_id, transform.header.frame_id
            before = self._parents.setdefault(child, parent)
            if before != parent:
                self._bad[f"TF {child}"] = f"it is in {parent} and in {before}"
            self.frames |= {child, parent}
        self.transforms.take(said, always=always)

    def _on_message(self, name: str, msg: Any) -> None:
        self.heard[name] = msg
        self._bad.pop(name, None)
        wrong = ""
        if isinstance(msg, MarkerArray):
            wrong = markers_fault(msg)
        elif isinstance(msg, Path):
            wrong = next(filter(None, (pose_fault(pose) for pose in msg.poses)), "")
        if wrong:
            self._bad[name] = wrong

    def _frames_of(self, msg: Any) -> set[str]:
        if isinstance(msg, MarkerArray):
            return {marker.header.frame_id for marker in msg.markers}
        if isinstance(msg, String):
            return {link.attrib["name"] for link in ElementTree.fromstring(msg.data).iter("link")}
        if isinstance(msg, (Image, CompressedImage)):
            return set()  # a picture is shown wherever its camera is
        return {msg.header.frame_id}

    def complaints(self) -> list[str]:
        """What is red or yellow now, a line each."""
        found = [f"{name}: {wrong}" for name, wrong in self._bad.items()]
        if self.fixed_frame not in self.frames:
            found.append(f"Global Status: frame [{self.fixed_frame}] does not exist")
        types = dict(self.get_topic_names_and_types())
        for name, display in self.shown():
            topic = self.topic(display)
            full = self.resolve_topic_name(topic["Value"])
            kind = self.kind(display)
            expected = f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"
            if types.get(full, [expected]) != [expected]:
                found.append(f"{name}: {full} is a {types[full]}, {expected} expected")
            for publisher in self.get_publishers_info_by_topic(full):
                fits, why = qos_check_compatible(publisher.qos_profile, profile(topic))
                if fits == QoSCompatibility.ERROR:
                    found.append(f"{name}: {full} of {publisher.node_name}: {why}")
            for frame in self._frames_of(self.heard[name]) if name in self.heard else ():
                try:
                    if frame != self.fixed_frame:
                        self.transforms.pose(self.fixed_frame, frame)
                except ValueError as error:
                    found.append(f"{name}: {error}")
        return found

    def silent(self) -> list[str]:
        """Displays that are on and have heard nothing."""
        return [name for name, _ in self.shown() if name not in self.heard]


def pose_fault(pose: PoseStamped) -> str:
    """'' or why RViz would not draw it."""
    p, q = pose.pose.position, pose.pose.orientation
    if not all(math.isfinite(value) for value in (p.x, p.y, p.z)):
        return "a position that is not finite"
    norm = math.hypot(q.x, q.y, q.z, q.w)
    return "" if abs(norm - 1.0) < 1e-3 else f"a quaternion of norm {norm:g}"


def markers_fault(msg: MarkerArray) -> str:
    """'' or why RViz would refuse a message."""
    names = [(marker.ns, marker.id) for marker in msg.markers]
    if twice := next((name for name in names if names.count(name) > 1), None):
        return f"Duplicate Marker Check: {twice}"
    for marker in msg.markers:
        if marker.action != Marker.ADD:
            continue
        if wrong := pose_fault(PoseStamped(pose=marker.pose)):
            return f"{marker.ns} {marker.id}: {wrong}"
        line = marker.type in (Marker.LINE_STRIP, Marker.LINE_LIST)
        scale = marker.scale
        if not (scale.x > 0 and (line or (scale.y > 0 and scale.z > 0))):
            return f"{marker.ns} {marker.id}: a scale of ({scale.x:g}, {scale.y:g}, {scale.z:g})"
        if not 0 < marker.color.a <= 1 and not marker.colors:
            return f"{marker.ns} {marker.id}: cannot be seen, alpha {marker.color.a:g}"
    return ""
