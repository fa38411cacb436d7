"""How a gripper's driver is told to open and close: an action's goal, a trajectory of one point, or a number."""

from __future__ import annotations

import importlib
from typing import Any

from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros.control.gripper import Goal, GripperLogic
from diffusion_ros.robot_file import RobotFile
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.runner import RunnableNode
from diffusion_ros.ros.sole_publisher import SolePublisher

_POINT_NS = 400_000_000
"""In which a trajectory's one point is to be reached."""
_SUCCEEDED = 4
"""action_msgs/GoalStatus."""


def rehearsed_topic(name: str) -> str:
    """Where an action's positions go in a rehearsal without control_msgs."""
    return f"{name}/commands"


class GripperOutput:
    """One gripper. `row` takes each row's value once, `tick` sends what is due.

    rehearsal: where control_msgs is not installed, the goals' positions go to `<name>/commands` as numbers. Raises
    ValueError, one line, where it is no rehearsal.
    """

    def __init__(self, node: RunnableNode, robot: RobotFile, rehearsal: bool = False) -> None:
        assert robot.gripper is not None
        self._node, self._file = node, robot.gripper
        self.logic = GripperLogic(interval=self._file.interval, timeout=self._file.timeout)
        self._client: Any = None
        self._type = messages.gripper_action_type(self._file.output)
        self._publisher: SolePublisher | None = None
        self._place: float | None = None
        """The driver's position that is to be sent, where rows are places."""
        self._sent: float | None = None
        if self._type is not None:
            action = importlib.import_module("rclpy.action")
            self._client = action.ActionClient(node, self._type, self._file.name)
            return
        name, kind = self._file.name, JointTrajectory
        if self._file.output != "joint_trajectory":
            kind = Float64MultiArray
            if self._file.output in messages.GRIPPER_ACTIONS:
                if not rehearsal:
                    raise ValueError(
                        f"{robot.path}: gripper.output: {self._file.output} needs control_msgs, which is not installed"
                    )
                name = rehearsed_topic(name)
                node.get_logger().info(f"control_msgs is not installed: the gripper's positions go to {name}")
        self._publisher = SolePublisher(node, kind, name)

    @property
    def name(self) -> str:
        return topics.shown(self._node, self._file.name)

    def conflict(self) -> str:
        """'' or who else commands the gripper."""
        return self._publisher.conflict() if self._publisher is not None else ""

    def deaf(self) -> str:
        """'' or that nobody listens."""
        if self._publisher is not None:
            return self._publisher.deaf()
        return "" if self._client.server_is_ready() else f"{self.name}: no action server"

    def row(self, value: float | None) -> None:
        """-1 open to +1 closed, None as it is; once for each row that falls due."""
        if value is None:
            if not self._file.proportional:
                self.logic.row(0.0)
        elif self._file.proportional:
            part = (1.0 + min(max(value, -1.0), 1.0)) / 2.0
            self._place = self._file.open + part * (self._file.closed - self._file.open)
        else:
            self.logic.row(value)

    def tick(self, held: bool) -> None:
        """Sends a goal where one is due; held: none is."""
        if self._file.proportional:
            if held:
                self._place = self._sent = None
            elif self._place is not None and self._place != self._sent:
                self._sent = self._place
                self._tell(self._place)
            return
        goal = self.logic.due(self._node.seconds(), held)
        if goal is None:
            return
        position = self._file.closed if goal.close else self._file.open
        if self._publisher is None:
            self._send(goal, position)
            return
        self._tell(position)
        # Nobody answers: it counts as done, and the interval keeps the next one apart.
        self.logic.result(goal.number, "reached")

    def _tell(self, position: float) -> None:
        assert self._publisher is not None
        if self._file.output == "joint_trajectory":
            places = [position] * len(self._file.joints)
            self._publisher.publish(messages.joint_trajectory_to_msg(self._file.joints, [_POINT_NS], [places]))
        else:
            self._publisher.publish(messages.numbers_to_msg([position]))

    def _send(self, goal: Goal, position: float) -> None:
        joints = self._file.joints if self._file.output == "parallel_gripper_command" else ()
        goal_msg = messages.gripper_goal_to_msg(self._type, joints, position, self._file.effort)
        future = self._client.send_goal_async(goal_msg)
        future.add_done_callback(lambda done: self._accepted(goal.number, done))

    def _accepted(self, number: int, future: Any) -> None:
        handle = future.result()
        if handle is None or not handle.accepted:
            self.logic.result(number, "aborted")
            return
        handle.get_result_async().add_done_callback(lambda done: self._done(number, done))

    def _done(self, number: int, future: Any) -> None:
        """A gripper that stalls has grasped something: also where its driver calls that a failure."""
        answer = future.result()
        result = getattr(answer, "result", None)
        if result is not None and getattr(result, "reached_goal", False):
            self.logic.result(number, "reached")
        elif result is not None and getattr(result, "stalled", False):
            self.logic.result(number, "stalled")
        else:
            succeeded = getattr(answer, "status", 0) == _SUCCEEDED
            self.logic.result(number, "reached" if succeeded else "aborted")
