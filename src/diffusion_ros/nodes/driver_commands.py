"""What an arm's driver takes, for the rehearsal: poses, twists, trajectories or joints, as the robot's file says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from geometry_msgs.msg import PoseStamped, Twist, TwistStamped
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros.robot_file import RobotFile
from diffusion_ros.ros import messages
from diffusion_ros.ros.runner import RunnableNode
from diffusion_ros.simulators import driver_rules
from diffusion_ros.simulators.arm_driver import ArmDriver

try:
    from moveit_msgs.srv import ServoCommandType  # where MoveIt is, but not on PyPI
except ImportError:
    ServoCommandType = None


class DriverCommands:
    """Hands messages of `robot`'s action to `driver`. Subscribing is the node's."""

    def __init__(
        self,
        node: RunnableNode,
        robot: RobotFile,
        driver: ArmDriver,
        of_arm: Callable[[int], int],
        accepted: Callable[[int], object],
    ) -> None:
        """of_arm: a command's stamp in the arm's time [ns], 0 stays 0; accepted: called with the stamp of each that is
        taken."""
        self._node, self._robot, self._driver = node, robot, driver
        self._of_arm, self._accepted = of_arm, accepted
        self._topic = node.resolve_topic_name(robot.action.topic)
        kinds: dict[str, tuple[type[Any], Callable[[Any], None]]] = {
            "PoseStamped": (PoseStamped, self._on_pose),
            "TwistStamped": (TwistStamped, self._on_twist),
            "Twist": (Twist, self._on_twist),
            "JointTrajectory": (JointTrajectory, self._on_trajectory),
            "Float64MultiArray": (Float64MultiArray, self._on_positions),
        }
        self.kind, self.take = kinds[robot.action.type]
        """Type of the messages, and what takes one: raises ValueError for one that the driver refuses."""
        if ServoCommandType is not None and robot.driver == "servo":
            name = f"{robot.action.topic.rpartition('/')[0]}/switch_command_type"
            node.create_service(ServoCommandType, name, self._on_command_type)

    def _on_pose(self, msg: PoseStamped) -> None:
        frame, stamp, position, quaternion = messages.target_from_msg(msg)
        if reason := self.several():
            self._driver.refuse(reason)
        self._driver.pose(frame, self._of_arm(stamp), position, quaternion)
        self._accepted(stamp)

    def _on_twist(self, msg: TwistStamped | Twist) -> None:
        frame, stamp, twist = messages.twist_from_msg(msg)
        self._driver.twist(frame, self._of_arm(stamp), twist)
        self._accepted(stamp)

    def _on_trajectory(self, msg: JointTrajectory) -> None:
        t = messages.joint_trajectory_from_msg(msg)
        start = self._of_arm(t.start_ns)
        self._driver.trajectory(t.names, start, t.times_ns, t.positions, t.velocities, t.accelerations, t.efforts)
        self._accepted(t.start_ns)

    def _on_positions(self, msg: Float64MultiArray) -> None:
        self._driver.positions(messages.numbers_from_msg(msg))
        self._accepted(0)

    def _on_command_type(self, request: Any, response: Any) -> Any:
        """MoveIt Servo's: which kind of commands it takes from now on."""
        response.success = request.command_type in (driver_rules.TWIST, driver_rules.POSE)
        if response.success:
            self._driver.command_type = int(request.command_type)
        return response

    def several(self) -> str:
        """'' or CRISP's reason: by the graph, as it does."""
        if self._robot.driver != "crisp":
            return ""
        return driver_rules.one_publisher(self._topic, self._node.count_publishers(self._topic))
