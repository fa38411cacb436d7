"""What drivers of arms and grippers are told."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from geometry_msgs.msg import Twist, TwistStamped
from numpy.typing import ArrayLike, NDArray
from sensor_msgs.msg import Joy
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from diffusion_ros.ros.messages.fields import duration_to_msg, floats, header_to_msg

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


def numbers_to_msg(values: ArrayLike) -> Float64MultiArray:
    """As ros2_control's forward_command_controller takes them: a number a joint."""
    return Float64MultiArray(data=np.asarray(values, np.float64).ravel().tolist())


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


def joy_to_msg(axes: Sequence[float], buttons: Sequence[bool], time_ns: int) -> Joy:
    """axes from -1 to 1; buttons: which are pressed."""
    pressed = [int(button) for button in buttons]
    return Joy(header=header_to_msg(time_ns, "joy"), axes=[float(x) for x in axes], buttons=pressed)


def axes_from_msg(msg: Joy) -> list[float]:
    """As they are, NaN included."""
    return [float(axis) for axis in msg.axes]


def buttons_from_msg(msg: Joy) -> list[bool]:
    """Which are pressed."""
    return [button != 0 for button in msg.buttons]
