"""A gripper's action as its driver serves it, where control_msgs is installed: one goal at a time, the newest one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.action.server import ActionServer, CancelResponse, GoalResponse
from rclpy.node import Node

from diffusion_ros.ros import messages


@dataclass(frozen=True)
class GripperState:
    """What a driver knows of its gripper, in its own units."""

    position: float
    reached: bool
    """Whether it is where it was told to go."""
    stalled: bool
    """Whether it stopped on the way."""


class GripperActions:
    """Serves one of the two actions. `check` is to be called again and again: it ends a goal that is done."""

    def __init__(
        self,
        command: Callable[[float, float], None],
        state: Callable[[], GripperState],
        parallel: bool,
        stalling_fails: bool,
    ) -> None:
        """command: takes a position and an effort [N], and raises ValueError for what is none. stalling_fails: whether
        a goal is aborted where the gripper stops on the way, as franka_gripper's is when it grasps something thick."""
        self._command, self._state = command, state
        self._parallel, self._stalling_fails = parallel, stalling_fails
        self._goal: Any = None

    def serve(self, node: Node, kind: Any, name: str) -> Any:
        return ActionServer(
            node,
            kind,
            name,
            lambda handle: self._result(handle, kind.Result()),
            goal_callback=self.asked,
            handle_accepted_callback=self.accepted,
            cancel_callback=lambda goal: CancelResponse.ACCEPT,
        )

    def asked(self, goal: Any) -> GoalResponse:
        """Whether a goal is one."""
        try:
            self._command(*messages.gripper_goal_from_msg(goal, self._parallel))
        except ValueError:
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def accepted(self, handle: Any) -> None:
        """The one before is given up."""
        before, self._goal = self._goal, handle
        if before is not None:
            before.execute()

    def check(self) -> None:
        """Ends the goal if it is over. (It is executed only then, so that no coroutine keeps the node awake.)"""
        goal, state = self._goal, self._state()
        if goal is not None and (state.reached or state.stalled or goal.is_cancel_requested):
            self._goal = None
            goal.execute()

    def restart(self) -> None:
        """Gives up what is under way."""
        before, self._goal = self._goal, None
        if before is not None:
            before.execute()

    def _result(self, handle: Any, result: Any) -> Any:
        """What becomes of a goal that is over, one way or the other."""
        state = self._state()
        if handle.is_cancel_requested:
            handle.canceled()
        elif state.reached or (state.stalled and not self._stalling_fails):
            handle.succeed()
        else:
            handle.abort()
        if self._parallel:
            result.state.position = [state.position]
        else:
            result.position = state.position
        result.reached_goal, result.stalled = state.reached, state.stalled
        return result
