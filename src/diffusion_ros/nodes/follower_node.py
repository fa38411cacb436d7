"""follower: drives along the planned trajectory with one force for each odometry. Without a usable plan it brakes.

Followers reckon in parts of the largest force, and the topic carries newtons. The way there and back rounds: a part may
differ from the follower's in its last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from geometry_msgs.msg import WrenchStamped
from nav_msgs.msg import Odometry
from rclpy.parameter import Parameter
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros.control.path_follower import Array, PursuitFollower, TimeFollower, brake
from diffusion_ros.robot import FRAME_PREFIX
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.diagnostics import ERROR, OK, WARN, Diagnostics
from diffusion_ros.ros.listener import Listener
from diffusion_ros.ros.params import declare, parameter
from diffusion_ros.ros.runner import RunnableNode, run
from diffusion_ros.simulators.maze import FRAME, MAX_FORCE, jumped

_PLAN_BYTES = 1_000_000
"""Of a plan: 100 points a second, for minutes."""


@dataclass(frozen=True)
class FollowerParameters:
    """Parameters of the follower node."""

    follow: str = parameter(
        "pursuit",
        "pursuit: the path, in the robot's own time; time: each point when it is due",
        choices=("pursuit", "time"),
    )
    reach: float = parameter(0.6, "pursuit: how far ahead on the path the robot aims [m]", low=0.05, high=5.0)
    max_distance: float = parameter(1.0, "a plan that is farther away is not followed [m]", low=0.0)
    frame_prefix: str = parameter("", FRAME_PREFIX)
    max_odometry_gap: float = parameter(0.2, "after a longer silence of the odometry the plan is dropped [s]", low=0.01)


class FollowerNode(RunnableNode):
    """Subscribes to planned_trajectory and odom; publishes force_command."""

    def __init__(self, parameter_overrides: Sequence[Parameter[Any]] = ()) -> None:
        """Raises ValueError (parameters) in one line."""
        super().__init__("follower", parameter_overrides)
        self.parameters = declare(self, FollowerParameters)
        self._frame = f"{self.parameters.frame_prefix}{FRAME}"
        self._follower: PursuitFollower | TimeFollower | None = None
        self._stamp_ns = 0
        self._period_ns = 1
        self._came = 0.0
        self._position: Array | None = None
        self._reason = "no plan yet"
        self._fault = False
        self._publisher = self.create_publisher(WrenchStamped, topics.FORCE_COMMAND, topics.COMMAND_QOS)
        self.diagnostics = Diagnostics(self, "follower", self._refresh)
        self._odometry = Listener(
            self,
            Odometry,
            topics.ODOMETRY,
            self._on_odometry,
            partial(self._refused, topics.ODOMETRY),
            topics.BEST_EFFORT_QOS,
        )
        self._plans = Listener(
            self,
            JointTrajectory,
            topics.PLANNED_TRAJECTORY,
            self._on_plan,
            partial(self._refused, topics.PLANNED_TRAJECTORY),
            topics.WATCHED_QOS,
            max_bytes=_PLAN_BYTES,
        )
        # Our own among them: a second follower is a second publisher, to us as to the robot.
        self._forces = Listener.of_publishers(self, WrenchStamped, topics.FORCE_COMMAND, topics.WATCHED_QOS)

    def _refused(self, topic: str, error: messages.MessageError, msg: object) -> None:
        self._hold(f"{topics.shown(self, topic)}: {error}", fault=True)

    def _conflict(self) -> str:
        return self._odometry.conflict() or self._plans.conflict() or self._forces.conflict()

    def _on_plan(self, msg: JointTrajectory) -> None:
        p = self.parameters
        if conflict := self._plans.conflict():
            raise messages.MessageError(conflict)
        stamp_ns, period_ns, states = messages.trajectory_from_msg(msg)
        messages.check_frame(msg.header, self._frame)
        if self._position is not None:
            away = float(np.linalg.norm(states[:, :2] - self._position, axis=1).min())
            if away > p.max_distance:
                raise messages.MessageError(f"{away:.2f} m away, at most {p.max_distance:g} m expected")
        self._stamp_ns, self._period_ns = stamp_ns, period_ns
        positions, velocities = states[:, :2], states[:, 2:]
        self._follower = (
            PursuitFollower(positions, p.reach) if p.follow == "pursuit" else TimeFollower(positions, velocities)
        )
        self._reason, self._fault = "", False
        self.diagnostics.tick(topics.PLANNED_TRAJECTORY)

    def _on_odometry(self, msg: Odometry) -> None:
        now = self.seconds()
        gap, self._came = now - self._came, now
        messages.check_frame(msg.header, self._frame)
        stamp_ns, position, velocity = messages.odometry_from_msg(msg)
        last, self._position = self._position, position
        if self._odometry.conflict():
            return  # which of the two is the robot's nobody knows: without a force it brakes by itself
        conflict = self._plans.conflict() or self._forces.conflict()
        if self._follower is not None:
            if gap > self.parameters.max_odometry_gap:
                self._hold(f"{topics.shown(self, topics.ODOMETRY)} was silent for {gap:.2f} s: the plan is dropped")
            elif last is not None and jumped(last, position, gap):
                self._hold("the robot was set somewhere else: the plan is dropped")
        if self._follower is None or conflict:
            force = brake(velocity)
        else:
            if isinstance(self._follower, TimeFollower):
                self._follower.index = max(0, (stamp_ns - self._stamp_ns) // self._period_ns)
            force = self._follower.force(position, velocity)
        self._publisher.publish(messages.force_to_msg(MAX_FORCE * force, stamp_ns, self._frame))
        self.diagnostics.tick(topics.FORCE_COMMAND)

    def _hold(self, reason: str, fault: bool = False) -> None:
        self._follower = None
        self._reason, self._fault = reason, fault
        self._refresh()

    def _refresh(self) -> None:
        age = self.diagnostics.age(topics.FORCE_COMMAND)
        if conflict := self._conflict():
            self.diagnostics.report(ERROR, f"holding: {conflict}")
        elif age is None or age > 1.0:
            self.diagnostics.report(WARN, f"holding: no {topics.shown(self, topics.ODOMETRY)}")
        elif self._follower is None:
            self.diagnostics.report(ERROR if self._fault else WARN, f"holding: {self._reason}")
        else:
            self.diagnostics.report(OK, "following")


def main() -> int:
    return run(FollowerNode)


if __name__ == "__main__":
    raise SystemExit(main())
