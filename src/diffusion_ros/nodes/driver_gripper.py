"""What a gripper's driver takes, for the rehearsal: an action, positions or a trajectory, as the robot's file says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros.nodes.driver_sensors import DRIVER_QOS
from diffusion_ros.robot_file import GripperOutput
from diffusion_ros.ros import messages
from diffusion_ros.ros.gripper_actions import GripperActions, GripperState
from diffusion_ros.ros.gripper_output import rehearsed_topic
from diffusion_ros.ros.listener import MAX_BYTES, Listener
from diffusion_ros.ros.runner import RunnableNode
from diffusion_ros.simulators.driven_arm import Gripper


class DriverGripper:
    """The driver of a simulated `gripper`. Where the type of an action is not installed, it takes positions on
    <name>/commands.

    driver: of the arm; listening: whether it takes commands now; refused: is told why one is not taken.
    """

    def __init__(
        self,
        node: RunnableNode,
        driver: str,
        file: GripperOutput,
        gripper: Gripper,
        listening: Callable[[], bool],
        refused: Callable[[Exception], object],
    ) -> None:
        self._file, self._gripper = file, gripper
        self.told = 0.0
        """-1 it was told to open, +1 to close, 0 nothing; whoever counts sets it back."""
        self._actions: GripperActions | None = None
        topic, kind = file.name, Float64MultiArray
        callback: Callable[[Any], None] = self._on_positions
        if file.output == "joint_trajectory":
            kind, callback = JointTrajectory, self._on_trajectory
        elif file.output != "positions":
            action = messages.gripper_action_type(file.output)
            if action is not None:
                self._actions = GripperActions(
                    self._move,
                    self._state,
                    parallel=file.output == "parallel_gripper_command",
                    stalling_fails=driver in ("crisp", "fci"),
                )
                self._actions.serve(node, action, file.name)
                return
            topic = rehearsed_topic(file.name)

        def take(msg: Any) -> None:
            if listening():
                try:
                    callback(msg)
                except ValueError as error:
                    raise messages.MessageError(str(error)) from None

        Listener(node, kind, topic, take, lambda error, msg: refused(error), DRIVER_QOS, MAX_BYTES)

    def restart(self) -> None:
        """It was switched on again."""
        self.told = 0.0
        if self._actions is not None:
            self._actions.restart()

    def check(self) -> None:
        """In each step of the clock: has a goal been reached?"""
        if self._actions is not None:
            self._actions.check()

    def _on_positions(self, msg: Float64MultiArray) -> None:
        values = messages.numbers_from_msg(msg)
        if len(values) != 1:
            raise ValueError(f"{len(values)} numbers, one expected")
        self._move(values[0], 0.0)

    def _on_trajectory(self, msg: JointTrajectory) -> None:
        t, joint = messages.joint_trajectory_from_msg(msg), self._file.joints[0]
        if not t.positions or joint not in t.names or len(t.positions[-1]) != len(t.names):
            raise ValueError(f"joints {', '.join(t.names)}: points of {joint} expected")
        self._move(t.positions[-1][list(t.names).index(joint)], 0.0)

    def _move(self, position: float, effort: float) -> None:
        """To a position in the driver's units. Raises ValueError."""
        share = (position - self._file.closed) / (self._file.open - self._file.closed)
        self._gripper.command(Gripper.WIDTH * share, effort=effort)
        self.told = -1.0 if share > 0.5 else 1.0

    def _state(self) -> GripperState:
        file, own = self._file, self._gripper
        position = file.closed + own.width / Gripper.WIDTH * (file.open - file.closed)
        return GripperState(position, own.reached, own.stalled)
