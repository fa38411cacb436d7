"""What a robot and its cameras say: pictures, joints, poses, odometry, maps."""

from __future__ import annotations

import array
import math
from collections.abc import Callable, Sequence

import numpy as np
from geometry_msgs.msg import PoseStamped, TransformStamped
from nav_msgs.msg import OccupancyGrid, Odometry
from numpy.typing import ArrayLike, NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState

from diffusion_ros.control.pictures import Picture, PictureError, decode, from_grey, from_uyvy, from_yuyv
from diffusion_ros.ros.messages.fields import (
    FAR,
    MAX_NAME,
    MessageError,
    floats,
    header_to_msg,
    pose_fields,
    printable,
    short,
    stamp_ns,
)

Array = NDArray[np.float64]

ENCODINGS: dict[str, tuple[int, Callable[[Picture], Picture]]] = {
    "rgb8": (3, lambda pixels: pixels),
    "bgr8": (3, lambda pixels: pixels[..., ::-1]),
    "rgba8": (4, lambda pixels: pixels[..., :3]),
    "bgra8": (4, lambda pixels: pixels[..., 2::-1]),
    "mono8": (1, from_grey),
    "yuv422": (2, from_uyvy),
    "uyvy": (2, from_uyvy),
    "yuv422_yuy2": (2, from_yuyv),
    "yuyv": (2, from_yuyv),
}
"""Of pictures that are understood, by sensor_msgs' names: bytes of a pixel, and what makes (H, W, bytes) rgb. yuyv and
uyvy are the newer names of the last two kinds."""


def image_to_msg(image: NDArray[np.uint8], time_ns: int, frame_id: str) -> Image:
    """image (H, W, 3) uint8 rgb, upright."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise MessageError(f"image {image.dtype} {image.shape}, uint8 (H, W, 3) expected")
    height, width = image.shape[:2]
    data = array.array("B")  # the only type that the checked setter takes without looking at each byte
    data.frombytes(np.ascontiguousarray(image).data)
    return Image(
        header=header_to_msg(time_ns, frame_id),
        height=int(height),
        width=int(width),
        encoding="rgb8",
        is_bigendian=0,
        step=3 * int(width),
        data=data,
    )


def image_from_msg(msg: Image) -> tuple[int, NDArray[np.uint8]]:
    """Stamp [ns] and (H, W, 3) uint8 rgb; a view of the message where its bytes are red, green and blue already.

    Of any size and row step, in the encodings of `ENCODINGS`. Raises MessageError.
    """
    if msg.encoding not in ENCODINGS:
        raise MessageError(f"encoding {printable(msg.encoding, MAX_NAME)!r}, one of {', '.join(ENCODINGS)} expected")
    size, to_rgb = ENCODINGS[msg.encoding]
    height, width, step = int(msg.height), int(msg.width), int(msg.step)
    if height < 1 or width < 1:
        raise MessageError(f"size {width} x {height}, at least 1 x 1 expected")
    if step < size * width or len(msg.data) != height * step:
        raise MessageError(
            f"{len(msg.data)} bytes in rows of {step} for {width} x {height} {msg.encoding},"
            f" {size * width * height} expected"
        )
    if to_rgb in (from_uyvy, from_yuyv) and width % 2:
        raise MessageError(f"width {width} of {msg.encoding}, in which two pixels share a colour: an even one expected")
    rows = np.frombuffer(msg.data, np.uint8).reshape(height, step)
    return stamp_ns(msg.header.stamp), to_rgb(rows[:, : size * width].reshape(height, width, size))


def compressed_image_from_msg(msg: CompressedImage) -> tuple[int, NDArray[np.uint8]]:
    """Stamp [ns] and (H, W, 3) uint8 rgb of a JPEG or PNG of 8 bits, grey or in colour, as image_transport's
    `compressed` and cameras' drivers write them: format 'jpeg', 'png', 'rgb8; jpeg compressed bgr8' and the like.

    Raises MessageError, also for 'compressed rgb8': image_transport reads it as a file in which red and blue are
    exchanged, but who writes so need not mean that.
    """
    words = msg.format.lower().replace(";", " ").split()
    if not {"jpeg", "jpg", "png"} & set(words) or {"compresseddepth", "rvl"} & set(words):
        raise MessageError(f"format {printable(msg.format, MAX_NAME)!r}, jpeg or png expected")
    if words[-2:] in (["compressed", "rgb8"], ["compressed", "rgba8"]):
        raise MessageError(
            f"format {printable(msg.format, MAX_NAME)!r}, 'compressed bgr8' expected: red and blue may be exchanged"
        )
    try:
        return stamp_ns(msg.header.stamp), decode(bytes(msg.data))
    except PictureError as error:
        raise MessageError(str(error)) from None


def camera_info_to_msg(matrix: ArrayLike, height: int, width: int, time_ns: int, frame_id: str) -> CameraInfo:
    """matrix: K (3, 3) [px] of an undistorted camera."""
    k = np.asarray(matrix, np.float64).reshape(3, 3)
    return CameraInfo(
        header=header_to_msg(time_ns, frame_id),
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
    msg = JointState(header=header_to_msg(time_ns, frame_id), name=list(names))
    msg.position = floats(positions, len(names), "positions")
    msg.velocity = floats(velocities, len(names), "velocities")
    if np.size(efforts):
        msg.effort = floats(efforts, len(names), "efforts")
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


def pose_to_msg(position: ArrayLike, quaternion: ArrayLike, time_ns: int, frame_id: str) -> PoseStamped:
    """position (3) [m], quaternion (4) xyzw."""
    return PoseStamped(header=header_to_msg(time_ns, frame_id), pose=pose_fields(position, quaternion))


def pose_from_msg(msg: PoseStamped) -> tuple[int, Array, Array]:
    """Stamp [ns], position (3) [m], quaternion (4) xyzw, of unit length within 1 %."""
    p, q = msg.pose.position, msg.pose.orientation
    position = np.array([p.x, p.y, p.z], np.float64)
    quaternion = np.array([q.x, q.y, q.z, q.w], np.float64)
    if not np.all(np.abs(position) <= FAR):  # so written for NaN
        raise MessageError(f"position {short(position)}, finite numbers expected, at most {FAR:g} m")
    norm = math.hypot(*quaternion)
    if not abs(norm - 1.0) < 0.01:  # so written for NaN
        raise MessageError(f"quaternion {short(quaternion)}, unit length expected")
    return stamp_ns(msg.header.stamp), position, quaternion


def transform_to_msg(
    position: ArrayLike, quaternion: ArrayLike, time_ns: int, frame_id: str, child_frame_id: str
) -> TransformStamped:
    """The pose of the child in frame_id: position (3) [m], quaternion (4) xyzw."""
    pose = pose_fields(position, quaternion)
    msg = TransformStamped(header=header_to_msg(time_ns, frame_id), child_frame_id=child_frame_id)
    t = msg.transform.translation
    t.x, t.y, t.z = pose.position.x, pose.position.y, pose.position.z
    msg.transform.rotation = pose.orientation
    return msg


def transform_from_msg(msg: TransformStamped) -> tuple[int, str, str, Array, Array]:
    """Stamp [ns], parent and child frame, position (3) [m] and quaternion (4) xyzw of the child in the parent."""
    pose = PoseStamped(header=msg.header)
    t = msg.transform.translation
    pose.pose.position.x, pose.pose.position.y, pose.pose.position.z = t.x, t.y, t.z
    pose.pose.orientation = msg.transform.rotation
    time_ns, position, quaternion = pose_from_msg(pose)
    return time_ns, msg.header.frame_id, msg.child_frame_id, position, quaternion


def odometry_to_msg(
    position: ArrayLike, velocity: ArrayLike, time_ns: int, frame_id: str, child_frame_id: str = "base_link"
) -> Odometry:
    """position (2) [m] of the child in frame_id, velocity (2) [m/s] in the child's axes, which are those of frame_id:
    the robot is a ball and has no heading."""
    msg = Odometry(header=header_to_msg(time_ns, frame_id), child_frame_id=child_frame_id)
    x, y = floats(position, 2, "position")
    msg.pose.pose = pose_fields((x, y, 0.0), (0.0, 0.0, 0.0, 1.0))
    msg.twist.twist.linear.x, msg.twist.twist.linear.y = floats(velocity, 2, "velocity")
    return msg


def odometry_from_msg(msg: Odometry) -> tuple[int, Array, Array]:
    """Stamp [ns], position (2) [m], velocity (2) [m/s]. Raises MessageError for values that are not finite."""
    p, v = msg.pose.pose.position, msg.twist.twist.linear
    position, velocity = np.array([p.x, p.y], np.float64), np.array([v.x, v.y], np.float64)
    for name, value in (("position", position), ("velocity", velocity)):
        if not np.all(np.abs(value) <= FAR):  # so written for NaN
            raise MessageError(f"{name} {short(value)}, finite numbers expected, at most {FAR:g}")
    return stamp_ns(msg.header.stamp), position, velocity


def grid_to_msg(walls: NDArray[np.bool_], time_ns: int, frame_id: str) -> OccupancyGrid:
    """walls (rows, columns), row 0 at the top, cells of a square metre about the origin: 100 in a wall, else 0."""
    rows, columns = walls.shape
    msg = OccupancyGrid(header=header_to_msg(time_ns, frame_id))
    msg.info.resolution = 1.0
    msg.info.height, msg.info.width = int(rows), int(columns)
    msg.info.origin = pose_fields((-columns / 2, -rows / 2, 0.0), (0.0, 0.0, 0.0, 1.0))
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
