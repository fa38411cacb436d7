"""What an arm's driver is told, as it stands in the message: whether it is any good is the driver's to say.

And pictures as cameras' drivers send them, in encodings other than ours.
"""

from __future__ import annotations

import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from geometry_msgs.msg import PoseStamped, Twist, TwistStamped
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros.ros.messages.fields import MessageError, header_to_msg, stamp_ns


@dataclass(frozen=True)
class Trajectory:
    """A JointTrajectory; lists by point, of what each has."""

    names: Sequence[str]
    start_ns: int
    """0: now."""
    times_ns: Sequence[int]
    """Of the points, after start_ns."""
    positions: Sequence[Sequence[float]]
    velocities: Sequence[Sequence[float]]
    accelerations: Sequence[Sequence[float]]
    efforts: Sequence[Sequence[float]]


def target_from_msg(msg: PoseStamped) -> tuple[str, int, list[float], list[float]]:
    """Frame, stamp [ns], position (3), quaternion (4) xyzw, whatever they are."""
    p, q = msg.pose.position, msg.pose.orientation
    return msg.header.frame_id, stamp_ns(msg.header.stamp), [p.x, p.y, p.z], [q.x, q.y, q.z, q.w]


def twist_from_msg(msg: TwistStamped | Twist) -> tuple[str, int, list[float]]:
    """Frame, stamp [ns], and (6) m/s and rad/s; of a Twist '' and 0."""
    frame, stamp = "", 0
    if isinstance(msg, TwistStamped):
        frame, stamp, msg = msg.header.frame_id, stamp_ns(msg.header.stamp), msg.twist
    v, w = msg.linear, msg.angular
    return frame, stamp, [v.x, v.y, v.z, w.x, w.y, w.z]


def joint_trajectory_from_msg(msg: JointTrajectory) -> Trajectory:
    """Raises MessageError for stamps that are no times."""
    points = list(msg.points)
    return Trajectory(
        names=list(msg.joint_names),
        start_ns=stamp_ns(msg.header.stamp),
        times_ns=[stamp_ns(point.time_from_start) for point in points],
        positions=[list(point.positions) for point in points],
        velocities=[list(point.velocities) for point in points],
        accelerations=[list(point.accelerations) for point in points],
        efforts=[list(point.effort) for point in points],
    )


def numbers_from_msg(msg: Float64MultiArray) -> list[float]:
    return list(msg.data)


def encoded_image_to_msg(pixels: NDArray[np.uint8], encoding: str, time_ns: int, frame_id: str) -> Image:
    """pixels (H, W, bytes of one), in an encoding of sensor_msgs/image_encodings."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3:
        raise MessageError(f"image {pixels.dtype} {pixels.shape}, uint8 (H, W, bytes) expected")
    height, width, size = pixels.shape
    data = array.array("B")  # the only type that the checked setter takes without looking at each byte
    data.frombytes(np.ascontiguousarray(pixels).data)
    return Image(
        header=header_to_msg(time_ns, frame_id),
        height=int(height),
        width=int(width),
        encoding=encoding,
        is_bigendian=0,
        step=int(size * width),
        data=data,
    )


def jpeg_to_msg(content: bytes, time_ns: int, frame_id: str, kind: str = "jpeg") -> CompressedImage:
    """As image_transport's `compressed` sends rgb8; kind: jpeg or png."""
    data = array.array("B")
    data.frombytes(content)
    return CompressedImage(header=header_to_msg(time_ns, frame_id), format=f"rgb8; {kind} compressed bgr8", data=data)
