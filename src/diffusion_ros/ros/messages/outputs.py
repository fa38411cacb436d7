"""What drivers of arms and grippers are told."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from geometry_msgs.msg import Twist, TwistStamped
from numpy.typing import ArrayLike, NDArray
from sensor_msgs.msg import Joy
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from diffusion_ros.ros.messages.fields import MessageError, duration_to_msg, finite, floats, header_to_msg, stamp_ns

Array = NDArray[np.float64]


def twist_to_msg(linear: ArrayLike, angular: ArrayLike) -> Twist:
    """linear (3) m/s, angular (3) rad/s."""
    msg = Twist()
    msg.linear.x, msg.linear.y, msg.linear.z = floats(linear, 3, "linear velocity")
    msg.angular.x, msg.angular.y, msg.angular.z = floats(angular, 3, "angular velocity")
    return msg


def stamped_twist_to_msg(linear: ArrayLike, angular: ArrayLike, time_ns: int, frame_id: str) -> TwistStamped:
    """linear (3) m/s, angular (3) rad/s, in the axes of frame_id."""
    return TwistStamped(header=header_to_msg(time_ns, frame_id), twist=twist_to_msg(linear, angular))


def twist_from_msg(msg: Twist) -> tuple[Array, Array]:
    """linear (3) m/s, angular (3) rad/s. Raises MessageError for values that are not finite."""
    linear = [finite("linear velocity", x) for x in (msg.linear.x, msg.linear.y, msg.linear.z)]
    angular = [finite("angular velocity", x) for x in (msg.angular.x, msg.angular.y, msg.angular.z)]
    return np.array(linear), np.array(angular)


def numbers_to_msg(values: ArrayLike) -> Float64MultiArray:
    """As ros2_control's forward_command_controller takes them: a number a joint."""
    return Float64MultiArray(data=np.asarray(values, np.float64).ravel().tolist())


def numbers_from_msg(msg: Float64MultiArray) -> Array:
    """Raises MessageError for values that are not finite."""
    return np.array([finite("value", x) for x in msg.data])


def joint_trajectory_to_msg(
    joints: Sequence[str],
    times_ns: Sequence[int],
    positions: ArrayLike,
    velocities: ArrayLike | None = None,
    time_ns: int = 0,
) -> JointTrajectory:
    """positions and velocities (N, joints) rad or m, and a second; times_ns (N) after the stamp. Stamp 0 means now."""
    places = np.asarray(positions, np.float64).reshape(len(times_ns), len(joints))
    speeds = None if velocities is None else np.asarray(velocities, np.float64).reshape(places.shape)
    msg = JointTrajectory(header=header_to_msg(time_ns, ""), joint_names=list(joints))
    for i, after_ns in enumerate(times_ns):
        point = JointTrajectoryPoint(positions=places[i].tolist(), time_from_start=duration_to_msg(int(after_ns)))
        if speeds is not None:
            point.velocities = speeds[i].tolist()
        msg.points.append(point)
    return msg


def joint_trajectory_from_msg(msg: JointTrajectory) -> tuple[int, list[str], list[int], Array, Array | None]:
    """Stamp [ns], joints, times (N) [ns] after it, positions (N, joints) and velocities, None where there are none.

    Raises MessageError for points of other lengths and values that are not finite.
    """
    joints = list(msg.joint_names)
    for name in ("positions", "velocities"):
        for i, point in enumerate(msg.points):
            many = len(getattr(point, name))
            if many != len(joints) and not (many == 0 and name == "velocities"):
                raise MessageError(f"point {i} has {many} {name}, {len(joints)} expected")
    positions = np.array([[finite("position", x) for x in point.positions] for point in msg.points])
    velocities = None
    if msg.points and all(len(point.velocities) for point in msg.points):
        velocities = np.array([[finite("velocity", x) for x in point.velocities] for point in msg.points])
    times_ns = [stamp_ns(point.time_from_start) for point in msg.points]
    return stamp_ns(msg.header.stamp), joints, times_ns, positions, velocities


def buttons_from_msg(msg: Joy) -> list[bool]:
    """Which are pressed."""
    return [button != 0 for button in msg.buttons]
