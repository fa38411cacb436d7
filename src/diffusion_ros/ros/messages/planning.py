"""Plans and what is in their way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from nav_msgs.msg import Path
from numpy.typing import ArrayLike, NDArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
from visualization_msgs.msg import Marker, MarkerArray

from diffusion_ros.ros.messages.fields import (
    FAR,
    MessageError,
    check_frame,
    duration_to_msg,
    header_to_msg,
    pose_fields,
    stamp_ns,
)
from diffusion_ros.ros.messages.markers import clearing
from diffusion_ros.ros.messages.sensors import pose_from_msg, pose_to_msg

Array = NDArray[np.float64]


def path_to_msg(positions: ArrayLike, stamps_ns: Sequence[int], time_ns: int, frame_id: str) -> Path:
    """positions (N, 3) [m] with the time of each."""
    msg = Path(header=header_to_msg(time_ns, frame_id))
    for position, when in zip(np.asarray(positions, np.float64).reshape(-1, 3), stamps_ns, strict=True):
        msg.poses.append(pose_to_msg(position, (0.0, 0.0, 0.0, 1.0), when, frame_id))
    return msg


def path_from_msg(msg: Path) -> tuple[Array, list[int]]:
    """positions (N, 3) [m] and their stamps [ns]."""
    points = [pose_from_msg(pose) for pose in msg.poses]
    return np.array([position for _, position, _ in points]).reshape(-1, 3), [when for when, _, _ in points]


STATE_NAMES = ("x", "y", "vx", "vy")
HAND_NAMES = ("eef_x", "eef_y", "eef_z", "eef_qx", "eef_qy", "eef_qz", "eef_qw", "gripper")


def trajectory_to_msg(states: ArrayLike, period_ns: int, time_ns: int, frame_id: str) -> JointTrajectory:
    """states (N, 4): x y [m] and their rates [m/s]; state i is due i periods after time_ns."""
    points = []
    for i, state in enumerate(np.asarray(states, np.float64).reshape(-1, 4).tolist()):
        when = duration_to_msg(i * period_ns)
        points.append(JointTrajectoryPoint(positions=state[:2], velocities=state[2:], time_from_start=when))
    return JointTrajectory(header=header_to_msg(time_ns, frame_id), joint_names=list(STATE_NAMES[:2]), points=points)


def hand_trajectory_to_msg(states: ArrayLike, period_ns: int, time_ns: int, frame_id: str) -> JointTrajectory:
    """states (N, 8): a hand's position [m], quaternion xyzw, gripper opening [m]; i is due i periods after time_ns."""
    points = [
        JointTrajectoryPoint(positions=state, time_from_start=duration_to_msg(i * period_ns))
        for i, state in enumerate(np.asarray(states, np.float64).reshape(-1, 8).tolist())
    ]
    return JointTrajectory(header=header_to_msg(time_ns, frame_id), joint_names=list(HAND_NAMES), points=points)


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
    if not np.all(np.abs(states) <= FAR):  # so written for NaN
        raise MessageError(f"NaN or infinite values, finite numbers expected, at most {FAR:g}")
    return stamp_ns(msg.header.stamp), period_ns, states


def balls_to_msg(
    balls: ArrayLike, colour: tuple[float, float, float, float], namespace: str, frame_id: str
) -> MarkerArray:
    """balls (N, 4): centre and radius [m]."""
    markers = [clearing(namespace, frame_id)]
    for i, (*centre, radius) in enumerate(np.asarray(balls, np.float64).reshape(-1, 4).tolist()):
        marker = Marker(header=header_to_msg(0, frame_id), ns=namespace, id=i, type=Marker.SPHERE, action=Marker.ADD)
        marker.pose = pose_fields(centre, (0.0, 0.0, 0.0, 1.0))
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
    if not np.all(np.abs(values) <= FAR) or (values[:, 3:] <= 0).any():  # so written for NaN
        raise MessageError(f"spheres {values.tolist()}, finite places and radii above 0 expected")
    return values
