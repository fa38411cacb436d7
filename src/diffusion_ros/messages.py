"""numpy <-> ROS messages: the only file that fills or reads one.

Unchecked message fields take a wrong type silently and send garbage (Point.x = 1 arrives as 1e-315): every number is
cast here. Reading checks encoding, size, order and finiteness and raises MessageError, one line; callers add the topic.
"""

from __future__ import annotations

import array
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from builtin_interfaces.msg import Duration, Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Point, Pose, PoseStamped, TransformStamped, WrenchStamped
from nav_msgs.msg import OccupancyGrid, Odometry, Path
from numpy.typing import ArrayLike, NDArray
from rclpy.serialization import serialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Float64, Header, Int64, String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
from visualization_msgs.msg import Marker, MarkerArray

from diffusion_ros.action_chunk import ACTION_NAMES, MAX_ROWS, ActionChunk

try:
    from tf2_msgs.msg import TFMessage as TFMessage  # on every ROS installation, but not on PyPI
except ImportError:
    TFMessage = None

if TYPE_CHECKING:
    from diffusion_ros.simulation import SceneGeom

Array = NDArray[np.float64]


_LINE = 300
"""Characters of what is said of a message: who names a joint by a megabyte shall not fill logs with it."""
_FAR = 1e9
"""Metres, and metres a second: beyond it nothing is, and squares of it overflow sooner or later."""
_NAME = 60
"""Characters of a name from outside, so that the rule behind it is still said."""
MAX_SECONDS = 2**31 - 1 - 86_400
"""Stamps are 32 bits of seconds; a day before their end, so that what is reckoned from one is a stamp as well."""


def printable(text: str, limit: int = _LINE) -> str:
    """Text from outside as one line for logs and terminals: no control characters, and not longer than `limit`."""
    line = "".join(c if c.isprintable() else "?" for c in text[: 4 * limit])
    return line if len(line) <= limit else f"{line[: limit - 4]} ..."


class MessageError(ValueError):
    """A message that must not be used; one line with the value and the rule."""

    def __init__(self, reason: str) -> None:
        super().__init__(printable(reason))


# Time


def stamp_to_msg(stamp_ns: int) -> Time:
    return Time(sec=int(stamp_ns // 1_000_000_000), nanosec=int(stamp_ns % 1_000_000_000))


def stamp_ns(stamp: Time | Duration) -> int:
    """Raises MessageError for one that is no time: before 1970, at the end of its 32 bits, a second of nanoseconds."""
    seconds, nanoseconds = int(stamp.sec), int(stamp.nanosec)
    if not 0 <= seconds <= MAX_SECONDS or nanoseconds >= 1_000_000_000:
        raise MessageError(f"stamp of {seconds} s and {nanoseconds} ns, 0 to {MAX_SECONDS} s and below 1 s expected")
    return seconds * 1_000_000_000 + nanoseconds


def duration_to_msg(duration_ns: int) -> Duration:
    return Duration(sec=int(duration_ns // 1_000_000_000), nanosec=int(duration_ns % 1_000_000_000))


def clock_to_msg(time_ns: int) -> Clock:
    return Clock(clock=stamp_to_msg(time_ns))


def _header(time_ns: int, frame_id: str) -> Header:
    return Header(stamp=stamp_to_msg(time_ns), frame_id=frame_id)


# Sensors


def image_to_msg(image: NDArray[np.uint8], time_ns: int, frame_id: str) -> Image:
    """image (H, W, 3) uint8 rgb, upright."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise MessageError(f"image {image.dtype} {image.shape}, uint8 (H, W, 3) expected")
    height, width = image.shape[:2]
    data = array.array("B")  # the only type that the checked setter takes without looking at each byte
    data.frombytes(np.ascontiguousarray(image).data)
    return Image(
        header=_header(time_ns, frame_id),
        height=int(height),
        width=int(width),
        encoding="rgb8",
        is_bigendian=0,
        step=3 * int(width),
        data=data,
    )


def image_from_msg(msg: Image) -> tuple[int, NDArray[np.uint8]]:
    """Stamp [ns] and (H, W, 3) uint8 rgb; a view of the message where its bytes are in that order already."""
    if msg.encoding not in ("rgb8", "bgr8"):
        raise MessageError(f"encoding {msg.encoding!r}, 'rgb8' or 'bgr8' expected")
    height, width, step = int(msg.height), int(msg.width), int(msg.step)
    if height < 1 or width < 1:
        raise MessageError(f"size {width} x {height}, at least 1 x 1 expected")
    if step < 3 * width or len(msg.data) != height * step:
        raise MessageError(
            f"{len(msg.data)} bytes in rows of {step} for {width} x {height} {msg.encoding},"
            f" {3 * width * height} expected"
        )
    rows = np.frombuffer(msg.data, np.uint8).reshape(height, step)
    image = rows[:, : 3 * width].reshape(height, width, 3)
    return stamp_ns(msg.header.stamp), image[..., ::-1] if msg.encoding == "bgr8" else image


def camera_info_to_msg(matrix: ArrayLike, height: int, width: int, time_ns: int, frame_id: str) -> CameraInfo:
    """matrix: K (3, 3) [px] of an undistorted camera."""
    k = np.asarray(matrix, np.float64).reshape(3, 3)
    return CameraInfo(
        header=_header(time_ns, frame_id),
        height=int(height),
        width=int(width),
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=k.ravel().tolist(),
        r=np.eye(3).ravel().tolist(),
        p=np.hstack([k, np.zeros((3, 1))]).ravel().tolist(),
    )


def camera_info_from_msg(msg: CameraInfo) -> tuple[int, Array, int, int]:
    """Stamp [ns], K (3, 3) [px], height, width."""
    matrix = np.array(msg.k, np.float64).reshape(3, 3)
    if not np.all(np.isfinite(matrix)) or matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        raise MessageError(f"camera matrix {matrix.ravel().tolist()}, finite with focal lengths above 0 expected")
    return stamp_ns(msg.header.stamp), matrix, int(msg.height), int(msg.width)


def joint_state_to_msg(
    names: Sequence[str],
    positions: ArrayLike,
    velocities: ArrayLike,
    time_ns: int,
    frame_id: str = "",
    efforts: ArrayLike = (),
) -> JointState:
    """positions, velocities (len(names)): rad or m, and the same per second; efforts: N or N m, none or as many."""
    msg = JointState(header=_header(time_ns, frame_id), name=list(names))
    msg.position = _floats(positions, len(names), "positions")
    msg.velocity = _floats(velocities, len(names), "velocities")
    if np.size(efforts):
        msg.effort = _floats(efforts, len(names), "efforts")
    return msg


def joint_state_from_msg(msg: JointState, names: Sequence[str] | None = None) -> tuple[int, Array, Array]:
    """Stamp [ns], positions and velocities of `names`, in that order whatever the message's; None: as they come.

    Velocities are NaN where the message has none. Raises MessageError for a joint that is missing or not finite.
    """
    have = list(msg.name)
    wanted = have if names is None else list(names)
    missing = [name for name in wanted if name not in have]
    if missing:
        raise MessageError(f"joint {', '.join(missing)} missing, the message has {', '.join(have) or 'none'}")
    if len(msg.position) != len(have):
        raise MessageError(f"{len(msg.position)} positions for {len(have)} joints")
    if len(msg.velocity) not in (0, len(have)):
        raise MessageError(f"{len(msg.velocity)} velocities for {len(have)} joints")
    index = [have.index(name) for name in wanted]
    positions = np.array(msg.position, np.float64)[index]
    velocities = np.array(msg.velocity, np.float64)[index] if msg.velocity else np.full(len(index), np.nan)
    for name, position in zip(wanted, positions.tolist(), strict=True):
        if not math.isfinite(position):
            raise MessageError(f"joint {name} at {position}, a finite number expected")
    return stamp_ns(msg.header.stamp), positions, velocities


def joint_motion_from_msg(msg: JointState, names: Sequence[str], efforts: bool) -> tuple[int, Array, Array, Array]:
    """Stamp [ns], positions, velocities and efforts of `names`; (0) efforts unless they are asked for.

    Raises MessageError for what is missing or not finite, velocities and efforts included.
    """
    time_ns, positions, velocities = joint_state_from_msg(msg, names)
    forces = np.zeros(0)
    if efforts:
        if len(msg.effort) != len(msg.name):
            raise MessageError(f"{len(msg.effort)} efforts for {len(msg.name)} joints")
        forces = np.array(msg.effort, np.float64)[[list(msg.name).index(name) for name in names]]
    for what, values in (("velocity", velocities), ("effort", forces)):
        if not np.all(np.isfinite(values)):
            raise MessageError(f"{what} {values.tolist()} of {', '.join(names)}, finite numbers expected")
    return time_ns, positions, velocities, forces


def joint_command_to_msg(joint: str, effort: float, time_ns: int) -> JointState:
    """effort of one joint; time_ns: the stamp of the joint states that it answers."""
    return JointState(header=_header(time_ns, ""), name=[joint], effort=[float(effort)])


def joint_command_from_msg(msg: JointState, joint: str) -> tuple[int, float]:
    """Stamp [ns] of the joint states that it answers, and the joint's effort."""
    if list(msg.name) != [joint] or len(msg.effort) != 1 or len(msg.position) or len(msg.velocity):
        raise MessageError(
            f"{len(msg.effort)} efforts, {len(msg.position)} positions and {len(msg.velocity)} velocities for"
            f" {', '.join(msg.name) or 'no joint'}, one effort for {joint} expected"
        )
    return stamp_ns(msg.header.stamp), _finite("effort", msg.effort[0])


def effort_to_msg(effort: float) -> Float64:
    return Float64(data=float(effort))


def effort_from_msg(msg: Float64) -> float:
    return _finite("effort", msg.data)


def discrete_action_to_msg(action: int) -> Int64:
    return Int64(data=int(action))


def discrete_action_from_msg(msg: Int64) -> int:
    return int(msg.data)


def _finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise MessageError(f"{name} {value}, a finite number expected")
    return float(value)


def _short(values: Array) -> list[float]:
    """As it stands in a reason."""
    rounded: list[float] = np.round(values, 4).tolist()
    return rounded


def pose_to_msg(position: ArrayLike, quaternion: ArrayLike, time_ns: int, frame_id: str) -> PoseStamped:
    """position (3) [m], quaternion (4) xyzw."""
    return PoseStamped(header=_header(time_ns, frame_id), pose=_pose(position, quaternion))


def pose_from_msg(msg: PoseStamped) -> tuple[int, Array, Array]:
    """Stamp [ns], position (3) [m], quaternion (4) xyzw, of unit length within 1 %."""
    p, q = msg.pose.position, msg.pose.orientation
    position = np.array([p.x, p.y, p.z], np.float64)
    quaternion = np.array([q.x, q.y, q.z, q.w], np.float64)
    if not np.all(np.abs(position) <= _FAR):  # so written for NaN
        raise MessageError(f"position {_short(position)}, finite numbers expected, at most {_FAR:g} m")
    norm = math.hypot(*quaternion)
    if not abs(norm - 1.0) < 0.01:  # so written for NaN
        raise MessageError(f"quaternion {_short(quaternion)}, unit length expected")
    return stamp_ns(msg.header.stamp), position, quaternion


# Actions


def chunk_to_msg(chunk: ActionChunk, frame_id: str) -> JointTrajectory:
    """frame_id: the frame of the deltas. Row i is done, not begun, at time_from_start = (i + 1) periods."""
    return JointTrajectory(
        header=_header(chunk.stamp_ns, frame_id),
        joint_names=list(ACTION_NAMES),
        points=[
            JointTrajectoryPoint(positions=row.tolist(), time_from_start=duration_to_msg((i + 1) * chunk.period_ns))
            for i, row in enumerate(np.asarray(chunk.rows, np.float64))
        ],
    )


def chunk_from_msg(msg: JointTrajectory) -> ActionChunk:
    """Raises MessageError for other or reordered joint names, missing values, NaN, or uneven spacing in time."""
    if list(msg.joint_names) != list(ACTION_NAMES):
        raise MessageError(f"joint names {', '.join(msg.joint_names) or 'none'}, {', '.join(ACTION_NAMES)} expected")
    if not 1 <= len(msg.points) <= MAX_ROWS:
        raise MessageError(f"{len(msg.points)} points, 1 to {MAX_ROWS} expected")
    period_ns = stamp_ns(msg.points[0].time_from_start)
    if period_ns < 1:
        raise MessageError(f"the first point is done after {period_ns} ns, more than 0 expected")
    for i, point in enumerate(msg.points):
        if len(point.positions) != len(ACTION_NAMES):
            raise MessageError(f"point {i} has {len(point.positions)} positions, {len(ACTION_NAMES)} expected")
        if stamp_ns(point.time_from_start) != (i + 1) * period_ns:
            raise MessageError(
                f"point {i} is done after {stamp_ns(point.time_from_start)} ns, {(i + 1) * period_ns} expected"
            )
    rows = np.array([point.positions for point in msg.points], np.float64)
    if not np.all(np.isfinite(rows)):
        i, j = (int(k) for k in np.argwhere(~np.isfinite(rows))[0])
        raise MessageError(f"{ACTION_NAMES[j]} of point {i} is {rows[i, j]}, a finite number expected")
    return ActionChunk(stamp_ns(msg.header.stamp), rows, period_ns)


def command_to_msg(row: ArrayLike, time_ns: int, period_ns: int, frame_id: str) -> JointTrajectory:
    """row (7) as in ActionChunk, all zero to hold; time_ns: the stamp of the observation that it answers."""
    values = np.asarray(row, np.float64).reshape(1, -1)
    return chunk_to_msg(ActionChunk(time_ns, values, period_ns), frame_id)


def command_from_msg(msg: JointTrajectory) -> tuple[int, Array]:
    """Stamp [ns] of the observation that it answers, and the row (7)."""
    chunk = chunk_from_msg(msg)
    if len(chunk.rows) != 1:
        raise MessageError(f"{len(chunk.rows)} points, one expected")
    row: Array = chunk.rows[0]
    return chunk.stamp_ns, row


# Episodes and diagnostics


def episode_to_msg(episode: Mapping[str, Any]) -> String:
    """index, seed, step, reward, success, and what else the simulator has to say."""
    return String(data=json.dumps(dict(episode), allow_nan=False))


def episode_from_msg(msg: String) -> dict[str, Any]:
    try:
        episode = json.loads(msg.data)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"not JSON: {error}") from None
    if not isinstance(episode, dict):
        raise MessageError(f"{type(episode).__name__}, a JSON object expected")
    return episode


OK, WARN, ERROR, STALE = 0, 1, 2, 3


@dataclass(frozen=True)
class Status:
    """One DiagnosticStatus."""

    name: str
    hardware_id: str
    level: int
    """OK, WARN, ERROR or STALE."""
    summary: str
    values: Mapping[str, str]


def status_to_msg(status: Status) -> DiagnosticStatus:
    return DiagnosticStatus(
        level=bytes([status.level]),  # a byte in Python, not an int
        name=status.name,
        message=status.summary,
        hardware_id=status.hardware_id,
        values=[KeyValue(key=str(k), value=str(v)) for k, v in status.values.items()],
    )


def status_from_msg(msg: DiagnosticStatus) -> Status:
    level = msg.level[0] if isinstance(msg.level, bytes) else int(msg.level)
    return Status(msg.name, msg.hardware_id, level, msg.message, {pair.key: pair.value for pair in msg.values})


def diagnostics_to_msg(statuses: Sequence[Status], time_ns: int) -> DiagnosticArray:
    return DiagnosticArray(header=_header(time_ns, ""), status=[status_to_msg(status) for status in statuses])


def diagnostics_from_msg(msg: DiagnosticArray) -> list[Status]:
    return [status_from_msg(status) for status in msg.status]


# For RViz


def path_to_msg(positions: ArrayLike, stamps_ns: Sequence[int], time_ns: int, frame_id: str) -> Path:
    """positions (N, 3) [m] with the time of each."""
    msg = Path(header=_header(time_ns, frame_id))
    for position, when in zip(np.asarray(positions, np.float64).reshape(-1, 3), stamps_ns, strict=True):
        msg.poses.append(pose_to_msg(position, (0.0, 0.0, 0.0, 1.0), when, frame_id))
    return msg


def path_from_msg(msg: Path) -> tuple[Array, list[int]]:
    """positions (N, 3) [m] and their stamps [ns]."""
    points = [pose_from_msg(pose) for pose in msg.poses]
    return np.array([position for _, position, _ in points]).reshape(-1, 3), [when for when, _, _ in points]


_MARKERS = {
    "box": Marker.CUBE,
    "plane": Marker.CUBE,
    "sphere": Marker.SPHERE,
    "ellipsoid": Marker.SPHERE,
    "cylinder": Marker.CYLINDER,
    "capsule": Marker.CYLINDER,
    "mesh": Marker.TRIANGLE_LIST,
}
_PLANE = 5.0
"""Half the side of what stands for an infinite plane [m]."""


def scene_to_msg(geoms: Sequence[SceneGeom], time_ns: int, frame_id: str) -> MarkerArray:
    """One marker a geom, in MuJoCo's conventions for sizes (half extents; radius and half length)."""
    return MarkerArray(markers=[_marker(i, geom, time_ns, frame_id) for i, geom in enumerate(geoms)])


class SerializedScene:
    """scene_to_msg in its serialized form, which publishers take as well, with poses that can be replaced.

    A mesh is thousands of points, and rclpy serializes them one by one: 40 ms for a scene, most of a control period.
    """

    def __init__(self, geoms: Sequence[SceneGeom], time_ns: int, frame_id: str) -> None:
        msg = scene_to_msg(geoms, time_ns, frame_id)
        # Poses that occur nowhere else, to find out where each is: seven numbers, one after the other.
        marks = [np.array([-1.5e300, i, 0.0, 0.0, 0.0, 0.0, 1.0]) for i in range(len(geoms))]
        for marker, mark in zip(msg.markers, marks, strict=True):
            marker.pose = _pose(mark[:3], mark[3:])
        self._data = bytearray(serialize_message(msg))
        self._offsets = [self._data.find(mark.tobytes()) for mark in marks]
        assert min(self._offsets, default=0) >= 0

    def moved(self, geoms: Sequence[SceneGeom]) -> bytes:
        """The message with the poses of `geoms`, the same ones again."""
        for offset, geom in zip(self._offsets, geoms, strict=True):
            pose = np.array([*geom.position, *geom.quaternion], np.float64).tobytes()
            self._data[offset : offset + len(pose)] = pose
        return bytes(self._data)


def _marker(index: int, geom: SceneGeom, time_ns: int, frame_id: str) -> Marker:
    if geom.type not in _MARKERS:
        raise MessageError(f"geom {geom.name!r}: type {geom.type!r}, one of {', '.join(_MARKERS)} expected")
    a, b, c = (float(x) for x in geom.size)
    if geom.type == "sphere":
        a = b = c = a
    elif geom.type == "plane":
        a, b, c = a or _PLANE, b or _PLANE, 0.0005
    elif geom.type == "cylinder":
        a, b, c = a, a, b
    elif geom.type == "capsule":
        a, b, c = a, a, a + b
    marker = Marker(header=_header(time_ns, frame_id), ns="scene", id=index, type=_MARKERS[geom.type])
    marker.action = Marker.ADD
    marker.pose = _pose(geom.position, geom.quaternion)
    marker.color.r, marker.color.g, marker.color.b, marker.color.a = (float(x) for x in geom.rgba)
    if geom.type == "mesh":
        if geom.triangles is None:
            raise MessageError(f"geom {geom.name!r}: a mesh without triangles")
        marker.points = [Point(x=x, y=y, z=z) for x, y, z in geom.triangles.reshape(-1, 3).astype(np.float64).tolist()]
        a = b = c = 0.5
    marker.scale.x, marker.scale.y, marker.scale.z = 2.0 * a, 2.0 * b, 2.0 * c
    return marker


def transform_to_msg(
    position: ArrayLike, quaternion: ArrayLike, time_ns: int, frame_id: str, child_frame_id: str
) -> TransformStamped:
    """The pose of the child in frame_id: position (3) [m], quaternion (4) xyzw."""
    pose = _pose(position, quaternion)
    msg = TransformStamped(header=_header(time_ns, frame_id), child_frame_id=child_frame_id)
    t = msg.transform.translation
    t.x, t.y, t.z = pose.position.x, pose.position.y, pose.position.z
    msg.transform.rotation = pose.orientation
    return msg


def _pose(position: ArrayLike, quaternion: ArrayLike) -> Pose:
    pose = Pose()
    p, q = pose.position, pose.orientation
    p.x, p.y, p.z = _floats(position, 3, "position")
    q.x, q.y, q.z, q.w = _floats(quaternion, 4, "quaternion")
    return pose


def _floats(values: ArrayLike, size: int, name: str) -> list[float]:
    floats: list[float] = np.asarray(values, np.float64).ravel().tolist()
    if len(floats) != size:
        raise MessageError(f"{len(floats)} {name}, {size} expected")
    return floats


# Mazes and plans


def odometry_to_msg(position: ArrayLike, velocity: ArrayLike, time_ns: int, frame_id: str) -> Odometry:
    """position (2) [m], velocity (2) [m/s] in the axes of frame_id: the robot is a ball and has no heading."""
    msg = Odometry(header=_header(time_ns, frame_id), child_frame_id=frame_id)
    x, y = _floats(position, 2, "position")
    msg.pose.pose = _pose((x, y, 0.0), (0.0, 0.0, 0.0, 1.0))
    msg.twist.twist.linear.x, msg.twist.twist.linear.y = _floats(velocity, 2, "velocity")
    return msg


def check_frame(header: Header, frame_id: str) -> None:
    """Raises MessageError for another frame: its numbers mean something else."""
    if header.frame_id != frame_id:
        raise MessageError(f"frame {printable(header.frame_id, _NAME)!r}, {frame_id!r} expected")


def odometry_from_msg(msg: Odometry) -> tuple[int, Array, Array]:
    """Stamp [ns], position (2) [m], velocity (2) [m/s]. Raises MessageError for values that are not finite."""
    p, v = msg.pose.pose.position, msg.twist.twist.linear
    position, velocity = np.array([p.x, p.y], np.float64), np.array([v.x, v.y], np.float64)
    for name, value in (("position", position), ("velocity", velocity)):
        if not np.all(np.abs(value) <= _FAR):  # so written for NaN
            raise MessageError(f"{name} {_short(value)}, finite numbers expected, at most {_FAR:g}")
    return stamp_ns(msg.header.stamp), position, velocity


def force_to_msg(force: ArrayLike, time_ns: int, frame_id: str) -> WrenchStamped:
    """force (2), in parts of the largest, -1 to 1."""
    msg = WrenchStamped(header=_header(time_ns, frame_id))
    msg.wrench.force.x, msg.wrench.force.y = _floats(force, 2, "force")
    return msg


def force_from_msg(msg: WrenchStamped) -> tuple[int, Array]:
    """Stamp [ns] of the odometry that it answers, and the force (2). Raises MessageError for NaN and beyond -1 to 1."""
    force = np.array([msg.wrench.force.x, msg.wrench.force.y], np.float64)
    if not np.all(np.abs(force) <= 1.0):  # so written for NaN
        raise MessageError(f"force {force.tolist()}, -1 to 1 expected")
    return stamp_ns(msg.header.stamp), force


def grid_to_msg(walls: NDArray[np.bool_], time_ns: int, frame_id: str) -> OccupancyGrid:
    """walls (rows, columns), row 0 at the top, cells of a square metre about the origin: 100 in a wall, else 0."""
    rows, columns = walls.shape
    msg = OccupancyGrid(header=_header(time_ns, frame_id))
    msg.info.resolution = 1.0
    msg.info.height, msg.info.width = int(rows), int(columns)
    msg.info.origin = _pose((-columns / 2, -rows / 2, 0.0), (0.0, 0.0, 0.0, 1.0))
    msg.data = array.array("b", (100 * walls[::-1].astype(np.int8)).ravel().tolist())
    return msg


def grid_from_msg(msg: OccupancyGrid) -> NDArray[np.bool_]:
    """What grid_to_msg was given. Raises MessageError for another resolution or origin, or a wrong number of cells."""
    rows, columns = int(msg.info.height), int(msg.info.width)
    origin = msg.info.origin.position
    if len(msg.data) != rows * columns or not rows or not columns:
        raise MessageError(f"{len(msg.data)} cells for {columns} x {rows}")
    off = (msg.info.resolution - 1.0, origin.x + columns / 2, origin.y + rows / 2)
    if not all(abs(value) <= 1e-6 for value in off):  # so written for NaN
        raise MessageError(
            f"resolution {msg.info.resolution:g} m, origin ({origin.x:g}, {origin.y:g}): cells of 1 m about the origin"
            " expected"
        )
    # Unknown (-1) is no place to plan through.
    return np.asarray(np.array(msg.data, np.int8).reshape(rows, columns)[::-1] != 0)


STATE_NAMES = ("x", "y", "vx", "vy")
HAND_NAMES = ("eef_x", "eef_y", "eef_z", "eef_qx", "eef_qy", "eef_qz", "eef_qw", "gripper")


def trajectory_to_msg(states: ArrayLike, period_ns: int, time_ns: int, frame_id: str) -> JointTrajectory:
    """states (N, 4): x y [m] and their rates [m/s]; state i is due i periods after time_ns."""
    points = []
    for i, state in enumerate(np.asarray(states, np.float64).reshape(-1, 4).tolist()):
        when = duration_to_msg(i * period_ns)
        points.append(JointTrajectoryPoint(positions=state[:2], velocities=state[2:], time_from_start=when))
    return JointTrajectory(header=_header(time_ns, frame_id), joint_names=list(STATE_NAMES[:2]), points=points)


def hand_trajectory_to_msg(states: ArrayLike, period_ns: int, time_ns: int, frame_id: str) -> JointTrajectory:
    """states (N, 8): a hand's position [m], quaternion xyzw, gripper opening [m]; i is due i periods after time_ns."""
    points = [
        JointTrajectoryPoint(positions=state, time_from_start=duration_to_msg(i * period_ns))
        for i, state in enumerate(np.asarray(states, np.float64).reshape(-1, 8).tolist())
    ]
    return JointTrajectory(header=_header(time_ns, frame_id), joint_names=list(HAND_NAMES), points=points)


def trajectory_from_msg(msg: JointTrajectory) -> tuple[int, int, Array]:
    """Stamp [ns], period [ns] and states (N, 4). Raises MessageError for other names, NaN or uneven spacing in time."""
    if list(msg.joint_names) != list(STATE_NAMES[:2]):
        raise MessageError(f"joint names {', '.join(msg.joint_names) or 'none'}, {', '.join(STATE_NAMES[:2])} expected")
    if len(msg.points) < 2:
        raise MessageError(f"{len(msg.points)} points, at least 2 expected")
    period_ns = stamp_ns(msg.points[1].time_from_start)
    for i, point in enumerate(msg.points):
        if len(point.positions) != 2 or len(point.velocities) != 2:
            raise MessageError(f"point {i}: {len(point.positions)} positions, {len(point.velocities)} velocities")
        if period_ns < 1 or stamp_ns(point.time_from_start) != i * period_ns:
            raise MessageError(f"point {i} is due after {stamp_ns(point.time_from_start)} ns, {i * period_ns} expected")
    states = np.array([[*point.positions, *point.velocities] for point in msg.points], np.float64)
    if not np.all(np.abs(states) <= _FAR):  # so written for NaN
        raise MessageError(f"NaN or infinite values, finite numbers expected, at most {_FAR:g}")
    return stamp_ns(msg.header.stamp), period_ns, states


def lines_to_msg(
    lines: Sequence[ArrayLike],
    colours: Sequence[tuple[float, float, float, float]],
    namespace: str,
    frame_id: str,
    width: float = 0.04,
) -> MarkerArray:
    """Each line (N, 3) [m] as a strip of its colour rgba and `width` [m]; older ones of the namespace go."""
    markers = [Marker(header=_header(0, frame_id), ns=namespace, action=Marker.DELETEALL)]
    for i, (line, colour) in enumerate(zip(lines, colours, strict=True)):
        marker = Marker(header=_header(0, frame_id), ns=namespace, id=i, type=Marker.LINE_STRIP, action=Marker.ADD)
        marker.pose = _pose((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))
        marker.scale.x = width
        marker.color.r, marker.color.g, marker.color.b, marker.color.a = (float(c) for c in colour)
        marker.points = [Point(x=x, y=y, z=z) for x, y, z in np.asarray(line, np.float64).reshape(-1, 3).tolist()]
        markers.append(marker)
    return MarkerArray(markers=markers)


def lines_from_msg(msg: MarkerArray) -> list[Array]:
    """The points (N, 3) [m] of every strip."""
    return [
        np.array([[p.x, p.y, p.z] for p in marker.points], np.float64).reshape(-1, 3)
        for marker in msg.markers
        if marker.type == Marker.LINE_STRIP and marker.action == Marker.ADD
    ]


def balls_to_msg(
    balls: ArrayLike, colour: tuple[float, float, float, float], namespace: str, frame_id: str
) -> MarkerArray:
    """balls (N, 4): centre and radius [m]."""
    markers = [Marker(header=_header(0, frame_id), ns=namespace, action=Marker.DELETEALL)]
    for i, (*centre, radius) in enumerate(np.asarray(balls, np.float64).reshape(-1, 4).tolist()):
        marker = Marker(header=_header(0, frame_id), ns=namespace, id=i, type=Marker.SPHERE, action=Marker.ADD)
        marker.pose = _pose(centre, (0.0, 0.0, 0.0, 1.0))
        marker.scale.x = marker.scale.y = marker.scale.z = 2.0 * radius
        marker.color.r, marker.color.g, marker.color.b, marker.color.a = (float(c) for c in colour)
        markers.append(marker)
    return MarkerArray(markers=markers)


def balls_from_msg(msg: MarkerArray, frame_id: str) -> Array:
    """Centre and radius [m] (N, 4) of the spheres to be added.

    Raises MessageError for values that are not finite and for spheres in another frame.
    """
    spheres = [m for m in msg.markers if m.type == Marker.SPHERE and m.action == Marker.ADD]
    for sphere in spheres:
        check_frame(sphere.header, frame_id)
    balls = [[m.pose.position.x, m.pose.position.y, m.pose.position.z, m.scale.x / 2] for m in spheres]
    values = np.array(balls, np.float64).reshape(-1, 4)
    if not np.all(np.abs(values) <= _FAR) or (values[:, 3:] <= 0).any():  # so written for NaN
        raise MessageError(f"spheres {values.tolist()}, finite places and radii above 0 expected")
    return values
