"""A page's keys, pads and gamepad as a person's rows for the executor, as teleop_node makes them of other devices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros import checkpoint, robot_file
from diffusion_ros.control.teleoperation import SILENT_SECONDS, Asked, PersonRows
from diffusion_ros.robot import RATE, WORLD_FRAME
from diffusion_ros.robot_check import steady_speed
from diffusion_ros.robot_file import Teleop
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.listener import MAX_BYTES, Listener
from diffusion_ros.ros.runner import RunnableNode


class WebDriver:
    """One page at a time holds the dead-man: the first that does, until it lets go, or says nothing for 0.3 s."""

    def __init__(
        self,
        node: RunnableNode,
        checkpoint_path: str,
        trust: Mapping[str, Any],
        robot_path: str,
        linear: float,
        angular: float,
    ) -> None:
        """linear, angular: the greatest speeds [m/s, rad/s], 0: the robot's. Raises ValueError."""
        spec = checkpoint.read_spec(checkpoint_path, **trust) if checkpoint_path else None
        robot = robot_file.read(robot_file.find(robot_path)) if robot_path else None
        own = robot.teleop if robot is not None and robot.teleop is not None else Teleop()
        self._linear, self._angular = linear or own.linear, angular or own.angular
        if robot is not None:
            self._linear = min(self._linear, robot.limits.linear)
            self._angular = min(self._angular, robot.limits.angular)
        rate = spec.rate if spec is not None else RATE
        frame = (spec.frame if spec is not None else robot.base.frame if robot is not None else "") or WORLD_FRAME
        response = spec.response[:2] + spec.response[-2:] if spec is not None else ()
        period = 1.0 / rate
        gains = [steady_speed(1.0, period, part) * period for part in (response[:2], response[2:])]
        greatest: tuple[float, ...] = ()
        if spec is not None:
            greatest = tuple(min(-low, high) for low, high in zip(spec.action_low, spec.action_high, strict=True))
        self._rows = PersonRows(period, self._linear, self._angular, (gains[0], gains[1]), greatest)
        self._node, self._frame, self._period_ns = node, frame, round(1e9 * period)
        self._holder: int | None = None
        """The page that drives."""
        self._heard = -math.inf
        self._twist: NDArray[np.float64] = np.zeros(6)
        self._grip = ""
        self._publisher = node.create_publisher(JointTrajectory, topics.TELEOP_ACTION, topics.COMMAND_QOS)
        self._others = Listener.of_publishers(node, JointTrajectory, topics.TELEOP_ACTION, topics.WATCHED_QOS)
        Listener(
            node,
            JointTrajectory,
            topics.EXECUTED_ACTION,
            lambda msg: self._rows.executed(*messages.executed_from_msg(msg)[1:3]),
            lambda error, msg: None,
            topics.WATCHED_QOS,
            max_bytes=MAX_BYTES,
        )
        node.every(period, self._tick)

    def asked(self, page: int, wanted: object) -> str:
        """What a page wants: {"twist": six parts of the greatest speeds, -1 to 1, "grip": ""}; None: it lets go.

        Returns why it is refused, or ''.
        """
        now = self._node.seconds()
        if self._holder is not None and self._holder != page and now - self._heard <= SILENT_SECONDS:
            return "another page drives" if wanted is not None else ""
        if wanted is None:
            self.left(page)
            return ""
        twist = _twist(wanted)
        if twist is None:
            self.left(page)
            return "drive: six numbers from -1 to 1 expected"
        if reason := self._others.conflict():
            self.left(page)
            return reason
        self._holder, self._heard = page, now
        self._twist = twist * np.repeat([self._linear, self._angular], 3)
        grip = wanted.get("grip") if isinstance(wanted, Mapping) else ""
        if grip in ("open", "close", "toggle"):
            self._grip = str(grip)
        return ""

    @property
    def drives(self) -> bool:
        """Whether a page holds the dead-man."""
        return self._holder is not None

    def left(self, page: int) -> None:
        """A page lets go, or is gone."""
        if self._holder == page:
            self._holder, self._grip = None, ""

    def _tick(self) -> None:
        """Once in each control step."""
        silent = self._node.seconds() - self._heard > SILENT_SECONDS
        if self._holder is None or silent:
            self._holder = None
            self._say(self._rows.row(None))
            return
        grip, self._grip = self._grip, ""
        self._say(self._rows.row(Asked(self._twist, grip)))

    def _say(self, row: NDArray[np.float64] | None) -> None:
        if row is not None:
            held = self._rows.driving
            msg = messages.teleop_to_msg(row, held, self._node.now_ns(), self._period_ns, self._frame)
            self._publisher.publish(msg)

    def close(self) -> None:
        """Lets go."""
        self._holder = None
        if self._rows.driving:
            self._say(self._rows.row(None))


def _twist(wanted: Any) -> NDArray[np.float64] | None:
    """(6) from -1 to 1, None for what is none."""
    values = wanted.get("twist") if isinstance(wanted, Mapping) else None
    if not isinstance(values, list) or len(values) != 6:
        return None
    if not all(isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x) for x in values):
        return None
    return np.clip(np.array(values, np.float64), -1.0, 1.0)
