"""numpy <-> ROS messages: the only room that fills or reads one.

Unchecked message fields take a wrong type silently and send garbage (Point.x = 1 arrives as 1e-315): every number is
cast here. Reading checks encoding, size, order and finiteness and raises MessageError, one line; callers add the topic.
"""

from diffusion_ros.ros.messages.actions import (
    GRIPPER_ACTIONS as GRIPPER_ACTIONS,
)
from diffusion_ros.ros.messages.actions import (
    Executed as Executed,
)
from diffusion_ros.ros.messages.actions import (
    chunk_from_msg as chunk_from_msg,
)
from diffusion_ros.ros.messages.actions import (
    chunk_to_msg as chunk_to_msg,
)
from diffusion_ros.ros.messages.actions import (
    command_from_msg as command_from_msg,
)
from diffusion_ros.ros.messages.actions import (
    command_to_msg as command_to_msg,
)
from diffusion_ros.ros.messages.actions import (
    discrete_action_from_msg as discrete_action_from_msg,
)
from diffusion_ros.ros.messages.actions import (
    discrete_action_to_msg as discrete_action_to_msg,
)
from diffusion_ros.ros.messages.actions import (
    effort_from_msg as effort_from_msg,
)
from diffusion_ros.ros.messages.actions import (
    effort_to_msg as effort_to_msg,
)
from diffusion_ros.ros.messages.actions import (
    executed_from_msg as executed_from_msg,
)
from diffusion_ros.ros.messages.actions import (
    executed_to_msg as executed_to_msg,
)
from diffusion_ros.ros.messages.actions import (
    force_from_msg as force_from_msg,
)
from diffusion_ros.ros.messages.actions import (
    force_to_msg as force_to_msg,
)
from diffusion_ros.ros.messages.actions import (
    gripper_action_type as gripper_action_type,
)
from diffusion_ros.ros.messages.actions import (
    gripper_goal_from_msg as gripper_goal_from_msg,
)
from diffusion_ros.ros.messages.actions import (
    gripper_goal_problem as gripper_goal_problem,
)
from diffusion_ros.ros.messages.actions import (
    gripper_goal_to_msg as gripper_goal_to_msg,
)
from diffusion_ros.ros.messages.actions import (
    gripper_width_from_msg as gripper_width_from_msg,
)
from diffusion_ros.ros.messages.actions import (
    gripper_width_to_msg as gripper_width_to_msg,
)
from diffusion_ros.ros.messages.actions import (
    joint_command_from_msg as joint_command_from_msg,
)
from diffusion_ros.ros.messages.actions import (
    joint_command_to_msg as joint_command_to_msg,
)
from diffusion_ros.ros.messages.actions import (
    teleop_from_msg as teleop_from_msg,
)
from diffusion_ros.ros.messages.actions import (
    teleop_to_msg as teleop_to_msg,
)
from diffusion_ros.ros.messages.driver_inputs import (
    Trajectory as Trajectory,
)
from diffusion_ros.ros.messages.driver_inputs import (
    encoded_image_to_msg as encoded_image_to_msg,
)
from diffusion_ros.ros.messages.driver_inputs import (
    joint_trajectory_from_msg as joint_trajectory_from_msg,
)
from diffusion_ros.ros.messages.driver_inputs import (
    jpeg_to_msg as jpeg_to_msg,
)
from diffusion_ros.ros.messages.driver_inputs import (
    numbers_from_msg as numbers_from_msg,
)
from diffusion_ros.ros.messages.driver_inputs import (
    target_from_msg as target_from_msg,
)
from diffusion_ros.ros.messages.driver_inputs import (
    twist_from_msg as twist_from_msg,
)
from diffusion_ros.ros.messages.fields import (
    MAX_SECONDS as MAX_SECONDS,
)
from diffusion_ros.ros.messages.fields import (
    MessageError as MessageError,
)
from diffusion_ros.ros.messages.fields import (
    check_frame as check_frame,
)
from diffusion_ros.ros.messages.fields import (
    clock_to_msg as clock_to_msg,
)
from diffusion_ros.ros.messages.fields import (
    duration_to_msg as duration_to_msg,
)
from diffusion_ros.ros.messages.fields import (
    message_type as message_type,
)
from diffusion_ros.ros.messages.fields import (
    printable as printable,
)
from diffusion_ros.ros.messages.fields import (
    stamp_ns as stamp_ns,
)
from diffusion_ros.ros.messages.fields import (
    stamp_to_msg as stamp_to_msg,
)
from diffusion_ros.ros.messages.markers import (
    lines_from_msg as lines_from_msg,
)
from diffusion_ros.ros.messages.markers import (
    lines_to_msg as lines_to_msg,
)
from diffusion_ros.ros.messages.markers import (
    poses_from_msg as poses_from_msg,
)
from diffusion_ros.ros.messages.markers import (
    poses_to_msg as poses_to_msg,
)
from diffusion_ros.ros.messages.markers import (
    scene_from_msg as scene_from_msg,
)
from diffusion_ros.ros.messages.markers import (
    scene_to_msg as scene_to_msg,
)
from diffusion_ros.ros.messages.planning import (
    HAND_NAMES as HAND_NAMES,
)
from diffusion_ros.ros.messages.planning import (
    STATE_NAMES as STATE_NAMES,
)
from diffusion_ros.ros.messages.planning import (
    balls_from_msg as balls_from_msg,
)
from diffusion_ros.ros.messages.planning import (
    balls_to_msg as balls_to_msg,
)
from diffusion_ros.ros.messages.planning import (
    hand_trajectory_to_msg as hand_trajectory_to_msg,
)
from diffusion_ros.ros.messages.planning import (
    path_from_msg as path_from_msg,
)
from diffusion_ros.ros.messages.planning import (
    path_to_msg as path_to_msg,
)
from diffusion_ros.ros.messages.planning import (
    trajectory_from_msg as trajectory_from_msg,
)
from diffusion_ros.ros.messages.planning import (
    trajectory_to_msg as trajectory_to_msg,
)
from diffusion_ros.ros.messages.sensors import (
    camera_info_from_msg as camera_info_from_msg,
)
from diffusion_ros.ros.messages.sensors import (
    camera_info_to_msg as camera_info_to_msg,
)
from diffusion_ros.ros.messages.sensors import (
    compressed_image_from_msg as compressed_image_from_msg,
)
from diffusion_ros.ros.messages.sensors import (
    grid_from_msg as grid_from_msg,
)
from diffusion_ros.ros.messages.sensors import (
    grid_to_msg as grid_to_msg,
)
from diffusion_ros.ros.messages.sensors import (
    image_from_msg as image_from_msg,
)
from diffusion_ros.ros.messages.sensors import (
    image_to_msg as image_to_msg,
)
from diffusion_ros.ros.messages.sensors import (
    joint_motion_from_msg as joint_motion_from_msg,
)
from diffusion_ros.ros.messages.sensors import (
    joint_state_from_msg as joint_state_from_msg,
)
from diffusion_ros.ros.messages.sensors import (
    joint_state_to_msg as joint_state_to_msg,
)
from diffusion_ros.ros.messages.sensors import (
    odometry_from_msg as odometry_from_msg,
)
from diffusion_ros.ros.messages.sensors import (
    odometry_to_msg as odometry_to_msg,
)
from diffusion_ros.ros.messages.sensors import (
    pose_from_msg as pose_from_msg,
)
from diffusion_ros.ros.messages.sensors import (
    pose_to_msg as pose_to_msg,
)
from diffusion_ros.ros.messages.sensors import (
    transform_from_msg as transform_from_msg,
)
from diffusion_ros.ros.messages.sensors import (
    transform_to_msg as transform_to_msg,
)
from diffusion_ros.ros.messages.status import (
    ERROR as ERROR,
)
from diffusion_ros.ros.messages.status import (
    OK as OK,
)
from diffusion_ros.ros.messages.status import (
    STALE as STALE,
)
from diffusion_ros.ros.messages.status import (
    WARN as WARN,
)
from diffusion_ros.ros.messages.status import (
    Status as Status,
)
from diffusion_ros.ros.messages.status import (
    diagnostics_from_msg as diagnostics_from_msg,
)
from diffusion_ros.ros.messages.status import (
    diagnostics_to_msg as diagnostics_to_msg,
)
from diffusion_ros.ros.messages.status import (
    episode_from_msg as episode_from_msg,
)
from diffusion_ros.ros.messages.status import (
    episode_to_msg as episode_to_msg,
)
from diffusion_ros.ros.messages.status import (
    status_from_msg as status_from_msg,
)
from diffusion_ros.ros.messages.status import (
    status_to_msg as status_to_msg,
)

try:
    from tf2_msgs.msg import TFMessage as TFMessage  # on every ROS installation, but not on PyPI
except ImportError:
    TFMessage = None
from diffusion_ros.ros.messages.outputs import axes_from_msg as axes_from_msg
from diffusion_ros.ros.messages.outputs import buttons_from_msg as buttons_from_msg
from diffusion_ros.ros.messages.outputs import joint_trajectory_to_msg as joint_trajectory_to_msg
from diffusion_ros.ros.messages.outputs import joy_to_msg as joy_to_msg
from diffusion_ros.ros.messages.outputs import numbers_to_msg as numbers_to_msg
from diffusion_ros.ros.messages.outputs import stamped_twist_to_msg as stamped_twist_to_msg
from diffusion_ros.ros.messages.outputs import twist_to_msg as twist_to_msg
