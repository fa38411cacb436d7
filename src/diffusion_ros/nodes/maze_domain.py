"""A ball in a maze, as a planner's domain."""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import OccupancyGrid, Odometry
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros.models.planner import Array, Plan, PlanError, clearance, leads_into
from diffusion_ros.nodes.planner_domain import IN_THE_WAY, PlannerHost
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.listener import Listener
from diffusion_ros.ros.runner import RunnableNode
from diffusion_ros.simulators.maze import BALL_RADIUS, FRAME, MazeMap, jumped

_AHEAD_SECONDS = 0.5
"""Of a plan that must be free of obstacles: the ball stops from 5 m/s in less."""


class MazeDomain:
    """Map and odometry in, planned_trajectory out for the follower node.

    Where an obstacle comes in the way of the next moments of a plan, the trajectory that goes out is one that stays
    where the robot is.
    """

    radius = BALL_RADIUS
    stray = 0.0
    line_width = 0.04

    def __init__(self, node: RunnableNode, host: PlannerHost) -> None:
        self._node, self._host = node, host
        self.frame = f"{host.parameters.frame_prefix}{FRAME}"
        self.state_topic = topics.shown(node, topics.ODOMETRY)
        self._map_topic = topics.shown(node, topics.MAP)
        self.map: MazeMap | None = None
        self._state: tuple[int, Array, float] | None = None
        self._followed: Array | None = None
        """Positions (T, 2) of the plan, a control step apart."""
        self._trajectory = node.create_publisher(JointTrajectory, topics.PLANNED_TRAJECTORY, topics.COMMAND_QOS)
        self._maps = Listener(
            node,
            OccupancyGrid,
            topics.MAP,
            self._on_map,
            lambda error, msg: host.refuse(f"{self._map_topic}: {error}"),
            topics.DESCRIPTION_QOS,
            timeless=True,
        )
        self._odometry = Listener(
            node, Odometry, topics.ODOMETRY, self._on_odometry, self._on_bad_odometry, topics.BEST_EFFORT_QOS
        )
        # Our own among them: a second planner is a second publisher, to us as to who drives.
        self._plans = Listener.of_publishers(node, JointTrajectory, topics.PLANNED_TRAJECTORY, topics.WATCHED_QOS)

    def _on_map(self, msg: OccupancyGrid) -> None:
        if conflict := self._maps.conflict():
            raise messages.MessageError(conflict)
        messages.check_frame(msg.header, self.frame)
        self.map = MazeMap(messages.grid_from_msg(msg))

    def _on_bad_odometry(self, error: messages.MessageError, msg: Odometry | None) -> None:
        self._host.interrupt(f"{self.state_topic}: {error}")
        self._state = None

    def _on_odometry(self, msg: Odometry) -> None:
        if conflict := self._odometry.conflict():
            raise messages.MessageError(conflict)
        messages.check_frame(msg.header, self.frame)
        stamp_ns, position, velocity = messages.odometry_from_msg(msg)
        now = self._node.seconds()
        if self._state is not None:
            _, state, came = self._state
            if now - came > self._host.parameters.max_state_age or jumped(state[:2], position, now - came):
                # A new episode, or a robot that somebody has moved: the goal was another one's.
                self._followed = None
                self._host.forget()
        self._host.diagnostics.tick(topics.ODOMETRY)
        self._state = stamp_ns, np.append(position, velocity), now
        if conflict := self._plans.conflict():
            self._host.interrupt(conflict)
        self.heed()
        self._host.resume()

    def heed(self) -> None:
        if self._followed is None or self._state is None:
            return
        _, state, _ = self._state
        beside = int(np.linalg.norm(self._followed - state[:2], axis=1).argmin())
        rate = self._host.planner.spec.rate
        ahead = np.vstack([state[:2], self._followed[beside : beside + round(_AHEAD_SECONDS * rate)]])
        if leads_into(clearance(ahead, self._host.obstacles, BALL_RADIUS)):
            self.halt()
            self._host.refuse(IN_THE_WAY)

    def halt(self) -> bool:
        if self._followed is None or self._state is None:
            return False
        stamp_ns, state, _ = self._state
        self._followed = None
        still = np.tile(np.append(state[:2], [0.0, 0.0]), (2, 1))
        period_ns = round(1e9 / self._host.planner.spec.rate)
        self._trajectory.publish(messages.trajectory_to_msg(still, period_ns, stamp_ns, self.frame))
        return True

    def conflict(self) -> str:
        return self._odometry.conflict() or self._plans.conflict()

    def missing(self) -> str:
        return "" if self.map is not None else self._map_topic

    def state(self) -> tuple[int, Array, float] | None:
        return self._state

    def state_at(self, pose: PoseStamped, name: str) -> Array:
        if self.map is None:
            raise PlanError(f"{name}: there is no {self._map_topic} yet")
        position = np.array([pose.pose.position.x, pose.pose.position.y])
        problem = self.map.problem(position, margin=BALL_RADIUS)
        if problem:
            raise PlanError(f"{name} {problem}")
        return np.append(position, [0.0, 0.0])

    def unready(self, state: Array) -> str:
        problem = "" if self.map is None else self.map.problem(state[:2])
        return f"the robot at {problem}" if problem else ""

    def unfit(self, positions: Array) -> str:
        assert self.map is not None
        return "through a wall" if float(self.map.wall_distance(positions).min()) <= 0 else ""

    def follow(self, plan: Plan, stamp_ns: int) -> None:
        rate = self._host.planner.spec.rate
        states = np.hstack(plan.dense(rate))
        self._followed = states[:, :2]
        self._trajectory.publish(messages.trajectory_to_msg(states, round(1e9 / rate), stamp_ns, self.frame))
