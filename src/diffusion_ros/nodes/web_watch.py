"""What a page shows of a running system beside its status: scene, paths, maze and pictures, heard while somebody looks.

Messages are kept as they came and read only when they are shown: pictures come more often than a page needs them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import OccupancyGrid, Odometry, Path
from numpy.typing import NDArray
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image, MultiDOFJointState
from visualization_msgs.msg import MarkerArray

from diffusion_ros.control.pictures import PictureError, encode, reduced
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.runner import RunnableNode
from diffusion_ros.web.status import GROUPS

if TYPE_CHECKING:
    from diffusion_ros.web.server import PageServer
    from diffusion_ros.web.view import View

Array = NDArray[np.float64]

_MAX_BYTES = {Image: 24_000_000, CompressedImage: 8_000_000, MarkerArray: 16_000_000}
_MAX_OTHER_BYTES = 262_144
_MAX_CAMERAS = 6
_JPEG_QUALITY = 85
_LARGE_BYTES = 100_000
_WIDEST = 480
"""Pixels of a picture's longer side on a page."""
_TRAIL_SECONDS = 8.0
_TRAIL_METRES = 0.002
_HAND, _CHUNK, _PLAN, _CANDIDATE, _NOISE = (
    (76, 141, 255),
    (255, 176, 64),
    (70, 211, 138),
    (98, 112, 140),
    (170, 110, 220),
)
LEGEND = {
    "hand": ("#4c8dff", "the robot's way"),
    "chunk": ("#ffb040", "predicted chunk"),
    "plan": ("#46d38a", "plan"),
    "candidates": ("#62708c", "candidates"),
    "denoising": ("#aa6edc", "denoising"),
}
_IMAGES = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/CompressedImage": CompressedImage}


class Watch:
    """Subscribes while somebody looks; fills the view and the server."""

    def __init__(self, node: RunnableNode, view: View, server: PageServer) -> None:
        self._node, self._view, self._server = node, view, server
        self._heard: dict[str, tuple[Any, Any]] = {}
        """Topic -> type and the subscription."""
        self._waiting: dict[str, bytes] = {}
        """Topic -> the newest message that was not shown yet."""
        self._readers: dict[str, tuple[Any, Callable[[Any], None]]] = {
            topics.SCENE: (MarkerArray, self._scene),
            topics.SCENE_POSES: (MultiDOFJointState, self._poses),
            topics.EEF_POSE: (PoseStamped, self._hand),
            topics.PREDICTED_PATH: (Path, self._chunk),
            topics.PLAN: (Path, self._plan),
            topics.CANDIDATES: (MarkerArray, self._candidates),
            topics.DENOISING: (MarkerArray, self._denoising),
            topics.OBSTACLES: (MarkerArray, self._obstacles),
            topics.MAP: (OccupancyGrid, self._walls),
            topics.ODOMETRY: (Odometry, self._odometry),
            topics.GOAL: (PoseStamped, self._goal),
        }
        self._cameras: dict[str, Any] = {}
        """Topic of each camera's picture -> its type."""
        self._trail: deque[tuple[float, Array]] = deque()
        self.acting = True
        """Whether the robot acts: a chunk that is not executed is not shown."""
        self.map: dict[str, Any] = {}
        """A maze from above, for pages without WebGL."""
        self.quaternion = np.array([0.0, 0.0, 0.0, 1.0])
        """How the hand is turned."""
        self._walled = False
        self.seen: set[str] = set()
        """What there is a line of."""

    @property
    def has_hand(self) -> bool:
        """Whether it is an arm."""
        return topics.EEF_POSE in self._heard

    def legend(self) -> list[tuple[str, str]]:
        """Colour and name of each line that is shown."""
        return [LEGEND[n] for n in LEGEND if n in self.seen and self._view.visible.get(n, True)]

    def shows(self) -> list[str]:
        """What there is to show and to hide, of the view's groups."""
        there = {"walls": self._walled, "lines": bool(self.seen)}
        return [name for name in GROUPS if there.get(name, name in self.seen)]

    # Subscriptions

    def survey(self) -> None:
        """Finds cameras; once a second."""
        prefix = f"{self._node.get_namespace().rstrip('/')}/"
        found = {}
        for topic, kinds in self._node.get_topic_names_and_types():
            kind = next((_IMAGES[name] for name in kinds if name in _IMAGES), None)
            if kind is not None and topic.startswith(prefix) and self._node.count_publishers(topic):
                found[topic] = kind
        for topic in [t for t in found if f"{t}/compressed" in found]:
            del found[f"{topic}/compressed"]
        self._cameras = dict(sorted(found.items())[:_MAX_CAMERAS])

    @property
    def pictures(self) -> list[str]:
        """Names of the cameras."""
        prefix = f"{self._node.get_namespace().rstrip('/')}/"
        return [topic.removeprefix(prefix) for topic in self._cameras]

    def listen(self, wanted: bool) -> None:
        """Subscribes to what there is, or to nothing where nobody looks."""
        topics_wanted = {t: kind for t, (kind, _) in self._readers.items() if wanted or t == topics.GOAL}
        if wanted:
            topics_wanted |= self._cameras
        for topic in set(self._heard) - set(topics_wanted):
            self._node.destroy_subscription(self._heard.pop(topic)[1])
            self._waiting.pop(topic, None)
            if topic not in self._readers:
                self._server.drop(self._name(topic))
        for topic, kind in topics_wanted.items():
            # Before there is a publisher it is not known how it can be heard.
            if topic not in self._heard and self._node.count_publishers(self._node.resolve_topic_name(topic)):
                self._heard[topic] = kind, self._subscribe(topic, kind)

    def _name(self, topic: str) -> str:
        return topic.removeprefix(f"{self._node.get_namespace().rstrip('/')}/")

    def _subscribe(self, topic: str, kind: Any) -> Any:
        qos = topics.DESCRIPTION_QOS if self._latched(topic) else topics.BEST_EFFORT_QOS
        most = _MAX_BYTES.get(kind, _MAX_OTHER_BYTES)

        def came(data: bytes) -> None:
            if len(data) <= most:
                self._waiting[topic] = bytes(data)

        return self._node.create_subscription(kind, topic, came, qos, raw=True)

    def _latched(self, topic: str) -> bool:
        """Whether its publisher keeps the last message for those who come late."""
        infos = self._node.get_publishers_info_by_topic(self._node.resolve_topic_name(topic))
        return bool(infos) and all(info.qos_profile.durability == topics.DESCRIPTION_QOS.durability for info in infos)

    # What is shown

    def show(self) -> None:
        """All that has come and is drawn; a few times a second."""
        for topic in [t for t in self._waiting if t in self._readers]:
            kind, read = self._readers[topic]
            self._read(topic, kind, read)

    def show_pictures(self, beat: int) -> None:
        """The cameras' newest pictures; of large ones every second beat's."""
        for topic, kind in self._cameras.items():
            if topic in self._waiting and (beat % 2 == 0 or len(self._waiting[topic]) < _LARGE_BYTES):
                self._read(topic, kind, partial(self._picture, topic))

    def _read(self, topic: str, kind: Any, read: Callable[[Any], None]) -> None:
        """What cannot be read is not shown: nothing is decided by it."""
        data = self._waiting.pop(topic)
        try:
            read(deserialize_message(data, kind))
        except (messages.MessageError, PictureError, RuntimeError) as error:
            self._node.get_logger().warning(f"{topic}: not shown: {error}", throttle_duration_sec=10.0)

    def _picture(self, topic: str, msg: Any) -> None:
        if isinstance(msg, CompressedImage):
            stamp_ns, image = messages.compressed_image_from_msg(msg)
        else:
            stamp_ns, image = messages.image_from_msg(msg)
        jpeg = encode(reduced(image, _WIDEST), "jpeg", _JPEG_QUALITY)
        # In lockstep stamps are no times of day.
        wall = time.time_ns()
        taken = stamp_ns if abs(wall - stamp_ns) < 60e9 else wall
        self._server.show(self._name(topic), jpeg, round(taken / 1e6))

    def _scene(self, msg: MarkerArray) -> None:
        geoms = [replace(g, body=g.body if "scene/" in g.body else "") for g in messages.scene_from_msg(msg)]
        if any(geom.body for geom in geoms):
            self._view.look("arm")
        elif len(geoms) > 1:
            self._view.look("cart")
        self._walled = any(geom.name.startswith("walls/") for geom in geoms)
        self._view.scene(geoms)

    def _poses(self, msg: MultiDOFJointState) -> None:
        self._view.poses(messages.poses_from_msg(msg)[1])

    def _hand(self, msg: PoseStamped) -> None:
        _, position, self.quaternion = messages.pose_from_msg(msg)
        self._trace(position)

    def _trace(self, position: Array) -> None:
        now = time.monotonic()
        if self._trail and np.linalg.norm(position - self._trail[-1][1]) > 0.2:
            self._trail.clear()  # another episode
        while self._trail and now - self._trail[0][0] > _TRAIL_SECONDS:
            self._trail.popleft()
        if not self._trail or np.linalg.norm(position - self._trail[-1][1]) > _TRAIL_METRES:
            self._trail.append((now, position))
            self._lines("hand", [np.array([place for _, place in self._trail])], [_HAND], 3.0)

    def _lines(self, name: str, lines: list[Array], colours: list[tuple[int, int, int]], width: float) -> None:
        self._view.lines(name, lines, colours, width)
        if any(len(line) > 1 for line in lines):
            self.seen.add(name)
        else:
            self.seen.discard(name)

    def _chunk(self, msg: Path) -> None:
        self._lines("chunk", [messages.path_from_msg(msg)[0]] if self.acting else [], [_CHUNK], 4.0)

    def holds(self) -> None:
        """The robot does not act: what was predicted does not happen."""
        if "chunk" in self.seen:
            self._lines("chunk", [], [_CHUNK], 4.0)

    def _plan(self, msg: Path) -> None:
        plan = messages.path_from_msg(msg)[0]
        self._lines("plan", [plan + [0.0, 0.0, 0.03]] if "walls" in self.map else [plan], [_PLAN], 4.0)
        self.map["plan"] = _flat(plan)
        if len(plan) and "goal" not in self.map:
            self.said_goal(plan[-1])

    def _candidates(self, msg: MarkerArray) -> None:
        lines = messages.lines_from_msg(msg)
        self._lines("candidates", lines if len(lines) > 1 else [], [_CANDIDATE], 1.5)
        self.map["candidates"] = [_flat(line) for line in lines[:64]]

    def _denoising(self, msg: MarkerArray) -> None:
        lines = messages.lines_from_msg(msg)
        shown = lines[:: max(1, len(lines) // 8)]
        parts = np.linspace(0.25, 1.0, len(shown))[:, None]
        shades = [(int(r), int(g), int(b)) for r, g, b in (parts * np.array(_NOISE)).round()]
        self._lines("denoising", shown, shades, 1.0)

    def _obstacles(self, msg: MarkerArray) -> None:
        frames = {marker.header.frame_id for marker in msg.markers}
        balls = messages.balls_from_msg(msg, next(iter(frames), ""))
        self._view.balls("obstacles", balls, (216, 72, 77))
        self.map["obstacles"] = np.round(balls, 3).tolist()

    def _walls(self, msg: OccupancyGrid) -> None:
        walls = messages.grid_from_msg(msg)
        self._view.look("maze", max(walls.shape[0] / 9.0, walls.shape[1] / 12.0))
        self._view.grid(walls)
        self.map |= {"walls": walls.astype(int).tolist(), "rows": walls.shape[0], "columns": walls.shape[1]}

    def _odometry(self, msg: Odometry) -> None:
        _, position, _ = messages.odometry_from_msg(msg)
        self._trace(np.append(position, 0.06))
        self.map["ball"] = np.round(position, 3).tolist()
        self.map["trail"] = [np.round(place[:2], 3).tolist() for _, place in list(self._trail)[::4]]

    def _goal(self, msg: PoseStamped) -> None:
        _, position, _ = messages.pose_from_msg(msg)
        self.said_goal(position)

    def in_wall(self, position: Array) -> bool:
        """Whether a place (3) [m] is in a maze's wall or outside the maze; the planner knows better what it reaches."""
        if "walls" not in self.map:
            return False
        column = int(np.floor(position[0] + self.map["columns"] / 2))
        row = int(np.floor(self.map["rows"] / 2 - position[1]))
        inside = 0 <= row < self.map["rows"] and 0 <= column < self.map["columns"]
        return not inside or bool(self.map["walls"][row][column])

    def again_goal(self) -> None:
        """The goal that is still the robot's, for who has dragged it elsewhere."""
        if "goal" in self.map:
            self._view.goal(np.array(self.map["goal"]))

    def said_goal(self, position: Array) -> None:
        """Where the robot is to go."""
        self._view.goal(position)
        self.map["goal"] = np.round(position, 3).tolist()


def _flat(line: Array) -> list[list[float]]:
    flat: list[list[float]] = np.round(line[:, :2], 3).tolist()
    return flat
