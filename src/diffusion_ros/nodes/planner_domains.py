"""What a planner plans for, a ball in a maze or an arm's hand: whence its state, what may be asked for, who follows.

The planner node has one of these; what is common to both, it does itself.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import OccupancyGrid, Odometry
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros.control.action_chunk import ActionChunk, hold_chunk, outside
from diffusion_ros.control.hand_follower import HAND_RADIUS, STRAY, ArmFollower, arm_state, rotation_of
from diffusion_ros.models.planner import Array, Plan, PlanError, clearance, leads_into
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.listener import MAX_BYTES, JointFilter, Listener
from diffusion_ros.simulators.maze import BALL_RADIUS, FRAME, MazeMap, jumped

if TYPE_CHECKING:
    from diffusion_ros.nodes.planner_node import PlannerNode

_CHUNK_ROWS = 10
"""Of an arm's plan: beyond the first they only bridge a pose that is late."""
_AHEAD_SECONDS = 0.5
"""Of a ball's plan that must be free of obstacles: it stops from 5 m/s in less."""
_HELD_UP_SECONDS = 4.0
_HELD_UP_M = 0.01
"""A hand that moves less in that time is held up. Demonstrations do not stand still for so long, grasps included."""
_IN_THE_WAY = "an obstacle has come in the way of the plan"
_FAR = 0.5
"""Of the box that the planner knows: a hand that is farther outside of it is not believed to be there."""
_MAX_OPENING = 0.2
"""Metres: twice what a Panda's fingers open, so that millimetres are not taken for metres."""
_SETTLING_SECONDS = 1.0
"""After the plan's end, in which an arm is still brought to where it ends."""


class Domain(Protocol):
    """All run on the node's thread, `state`, `unready` and `unfit` on the worker's too."""

    frame: str
    state_topic: str
    radius: float
    """Metres of what moves, about its position."""
    stray: float
    """Metres that it may be off its way: plans keep as far from obstacles."""
    line_width: float
    """Metres, of plans in RViz."""

    def missing(self) -> str:
        """What has not come yet and must, '' when all is there."""

    def state(self) -> tuple[int, Array, float] | None:
        """Stamp [ns], state (S) and when it came, of the newest; None before the first."""

    def state_at(self, pose: PoseStamped, name: str) -> Array:
        """State (S) of something at rest in a pose. Raises PlanError for where nothing can be."""

    def unready(self, state: Array) -> str:
        """Why no plan can begin in this state (S) of the robot, '' where one can."""

    def unfit(self, positions: Array) -> str:
        """Why positions (T, P) cannot be gone through, obstacles apart; '' where they can."""

    def heed(self) -> None:
        """The obstacles are others now: stops a robot that one has come in the way of."""

    def halt(self) -> bool:
        """Stops the robot where it is; whether it was following a plan."""

    def conflict(self) -> str:
        """'' or who else publishes what the state is made from."""

    def follow(self, plan: Plan, stamp_ns: int) -> None:
        """Passes a new plan on to who drives."""


class MazeDomain:
    """Map and odometry in, planned_trajectory out for the follower node.

    Where an obstacle comes in the way of the next moments of a plan, the trajectory that goes out is one that stays
    where the robot is.
    """

    frame = FRAME
    state_topic = topics.ODOMETRY
    radius = BALL_RADIUS
    stray = 0.0
    line_width = 0.04

    def __init__(self, node: PlannerNode) -> None:
        self._node = node
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
            lambda error, msg: node.refuse(f"{topics.MAP}: {error}"),
            topics.DESCRIPTION_QOS,
        )
        self._odometry = Listener(
            node, Odometry, topics.ODOMETRY, self._on_odometry, self._on_bad_odometry, topics.BEST_EFFORT_QOS
        )
        # Our own among them: a second planner is a second publisher, to us as to who drives.
        self._plans = Listener.of_publishers(node, JointTrajectory, topics.PLANNED_TRAJECTORY, topics.WATCHED_QOS)

    def _on_map(self, msg: OccupancyGrid) -> None:
        if conflict := self._maps.conflict():
            raise messages.MessageError(conflict)
        messages.check_frame(msg.header, FRAME)
        self.map = MazeMap(messages.grid_from_msg(msg))

    def _on_bad_odometry(self, error: messages.MessageError, msg: Odometry | None) -> None:
        self._node.interrupt(f"{topics.ODOMETRY}: {error}")
        self._state = None

    def _on_odometry(self, msg: Odometry) -> None:
        if conflict := self._odometry.conflict():
            raise messages.MessageError(conflict)
        messages.check_frame(msg.header, FRAME)
        stamp_ns, position, velocity = messages.odometry_from_msg(msg)
        now = time.monotonic()
        if self._state is not None:
            _, state, came = self._state
            if now - came > self._node.parameters.max_state_age or jumped(state[:2], position, now - came):
                # A new episode, or a robot that somebody has moved: the goal was another one's.
                self._followed = None
                self._node.forget()
        self._node.diagnostics.tick(topics.ODOMETRY)
        self._state = stamp_ns, np.append(position, velocity), now
        if conflict := self._plans.conflict():
            self._node.interrupt(conflict)
        self.heed()
        self._node.resume()

    def heed(self) -> None:
        if self._followed is None or self._state is None:
            return
        _, state, _ = self._state
        beside = int(np.linalg.norm(self._followed - state[:2], axis=1).argmin())
        rate = self._node.planner.spec.rate
        ahead = np.vstack([state[:2], self._followed[beside : beside + round(_AHEAD_SECONDS * rate)]])
        if leads_into(clearance(ahead, self._node.obstacles, BALL_RADIUS)):
            self.halt()
            self._node.refuse(_IN_THE_WAY)

    def halt(self) -> bool:
        if self._followed is None or self._state is None:
            return False
        stamp_ns, state, _ = self._state
        self._followed = None
        still = np.tile(np.append(state[:2], [0.0, 0.0]), (2, 1))
        period_ns = round(1e9 / self._node.planner.spec.rate)
        self._trajectory.publish(messages.trajectory_to_msg(still, period_ns, stamp_ns, FRAME))
        return True

    def conflict(self) -> str:
        return self._odometry.conflict() or self._plans.conflict()

    def missing(self) -> str:
        return "" if self.map is not None else topics.MAP

    def state(self) -> tuple[int, Array, float] | None:
        return self._state

    def state_at(self, pose: PoseStamped, name: str) -> Array:
        if self.map is None:
            raise PlanError(f"{name}: there is no {topics.MAP} yet")
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
        rate = self._node.planner.spec.rate
        states = np.hstack(plan.dense(rate))
        self._followed = states[:, :2]
        self._trajectory.publish(messages.trajectory_to_msg(states, round(1e9 / rate), stamp_ns, FRAME))


class ArmDomain:
    """The hand's pose and the fingers in; action_chunk out for the executor, one for every pose while there is a plan.

    A plan ends with its last row and a second to settle, when an obstacle has come in its way, when the hand has been
    moved by somebody else, or when something holds it up: then there are no more chunks, and the executor holds. In the
    last two cases the goal is dropped too: plans that begin anew from where the hand is would push it on.
    """

    state_topic = topics.EEF_POSE
    radius = HAND_RADIUS
    stray = STRAY
    line_width = 0.008

    def __init__(self, node: PlannerNode) -> None:
        self._node = node
        spec = node.planner.spec
        self.frame = next(tensor.frame for tensor in spec.outputs if tensor.name == "position")
        self._low, self._high = np.array(spec.workspace_low), np.array(spec.workspace_high)
        self._state: tuple[int, Array, float] | None = None
        self._opening = float("nan")
        self._opening_came = 0.0
        self._joint_fault = ""
        self._followed: tuple[ArmFollower, int] | None = None
        self._way: deque[tuple[int, Array]] = deque()
        """Stamps [ns] and positions (3) of the last seconds in which plans were followed."""
        self._chunks = node.create_publisher(JointTrajectory, topics.ACTION_CHUNK, topics.COMMAND_QOS)
        self._trajectory = node.create_publisher(JointTrajectory, topics.PLANNED_TRAJECTORY, topics.COMMAND_QOS)
        self._poses = Listener(
            node, PoseStamped, topics.EEF_POSE, self._on_pose, self._on_bad_pose, topics.BEST_EFFORT_QOS
        )
        self._joints = Listener(
            node,
            JointState,
            topics.JOINT_STATES,
            self._on_joints,
            self._on_bad_joints,
            topics.BEST_EFFORT_QOS,
            max_bytes=MAX_BYTES,
            concerns=JointFilter(node.parameters.gripper_joints),
        )

    def _on_joints(self, msg: JointState) -> None:
        """Both fingers, one positive and one negative."""
        if conflict := self._joints.conflict():
            raise messages.MessageError(conflict)
        _, fingers, _ = messages.joint_state_from_msg(msg, self._node.parameters.gripper_joints)
        opening = float(np.abs(fingers).sum())
        if opening > _MAX_OPENING:
            raise messages.MessageError(f"fingers {opening:.4g} m apart, at most {_MAX_OPENING:g} m expected")
        self._opening, self._opening_came = opening, time.monotonic()

    def _on_bad_joints(self, error: messages.MessageError, msg: JointState | None) -> None:
        self._opening = float("nan")
        self._joint_fault = str(error)

    def _on_bad_pose(self, error: messages.MessageError, msg: PoseStamped | None) -> None:
        self._node.interrupt(f"{topics.EEF_POSE}: {error}")
        self._state = None

    def _on_pose(self, msg: PoseStamped) -> None:
        if conflict := self._poses.conflict():
            raise messages.MessageError(conflict)
        stamp_ns, position, quaternion = messages.pose_from_msg(msg)
        messages.check_frame(msg.header, self.frame)
        margin = _FAR * (self._high - self._low)
        if wrong := outside("the hand", position, self._low - margin, self._high + margin, "m"):
            raise messages.MessageError(wrong)
        now = time.monotonic()
        if self._state is not None:
            _, state, came = self._state
            reach = np.linalg.norm(self._high - self._low)
            if now - came > self._node.parameters.max_state_age or np.linalg.norm(position - state[:3]) > 0.2 * reach:
                self._followed = None
                self._node.forget()
        self._node.diagnostics.tick(topics.EEF_POSE)
        self._state = stamp_ns, arm_state(position, quaternion), now
        if self._followed is None:
            self._way.clear()
        if self._followed is not None:
            self._publish_chunk(stamp_ns, position, quaternion)
        self._node.resume()

    def _publish_chunk(self, stamp_ns: int, position: Array, quaternion: Array) -> None:
        assert self._followed is not None
        follower, began_ns = self._followed
        period_ns = self._node.planner.spec.period_ns
        step = max(0, round((stamp_ns - began_ns) / period_ns))
        balls = self._node.obstacles
        ahead = np.vstack([position, follower.positions[min(step, follower.steps) :]])
        if leads_into(clearance(ahead, balls, HAND_RADIUS)):
            self.halt()
            self._node.refuse(_IN_THE_WAY)
            return
        strayed = follower.strayed(step, position) or self._held_up(stamp_ns, position, follower.positions[-1])
        if strayed:
            self.halt()
            self._node.forget()
            self._node.refuse(strayed)
            return
        if step > follower.steps + _SETTLING_SECONDS * 1e9 / period_ns:
            self._followed = None
            return
        rows = follower.rows(step, position, quaternion, _CHUNK_ROWS)
        self._chunks.publish(messages.chunk_to_msg(ActionChunk(stamp_ns, rows, period_ns), self.frame))

    def halt(self) -> bool:
        """The executor is told, too: it would go on to the end of the last chunk."""
        if self._followed is None or self._state is None:
            return False
        self._followed = None
        hold = hold_chunk(self._state[0], self._node.planner.spec.period_ns)
        self._chunks.publish(messages.chunk_to_msg(hold, self.frame))
        return True

    def conflict(self) -> str:
        return self._poses.conflict() or self._joints.conflict()

    def _held_up(self, stamp_ns: int, position: Array, end: Array) -> str:
        """Why a hand that should be on its way to `end` (3) is not, over plans that were each begun where it was."""
        self._way.append((stamp_ns, position))
        while stamp_ns - self._way[0][0] > _HELD_UP_SECONDS * 1e9:
            _, before = self._way.popleft()
            moved = float(np.linalg.norm(position - before))
            if moved < _HELD_UP_M and np.linalg.norm(end - position) > STRAY:
                return f"the hand has moved {moved:.3f} m in {_HELD_UP_SECONDS:g} s, and is not where the plan ends"
        return ""

    def missing(self) -> str:
        return ""

    def unready(self, state: Array) -> str:
        """A plan moves the gripper too, and must know how it stands."""
        fingers = ", ".join(self._node.parameters.gripper_joints)
        why = f": {self._joint_fault}" if self._joint_fault and np.isnan(self._opening) else ""
        return f"no fingers ({fingers}) in {topics.JOINT_STATES}, or old ones{why}" if np.isnan(state[-1]) else ""

    def heed(self) -> None:
        """Nothing: each pose is answered with a look at the obstacles."""

    def state(self) -> tuple[int, Array, float] | None:
        if self._state is None:
            return None
        stamp_ns, state, came = self._state
        known = time.monotonic() - self._opening_came <= self._node.parameters.max_state_age
        return stamp_ns, np.append(state[:-1], self._opening if known else np.nan), came

    def state_at(self, pose: PoseStamped, name: str) -> Array:
        try:
            _, position, quaternion = messages.pose_from_msg(pose)
        except messages.MessageError as error:
            raise PlanError(f"{name}: {error}") from None
        if (position < self._low).any() or (position > self._high).any():
            raise PlanError(
                f"{name} {np.round(position, 3).tolist()} lies outside the box that the planner knows,"
                f" {np.round(self._low, 3).tolist()} to {np.round(self._high, 3).tolist()} m"
            )
        return arm_state(position, quaternion)

    def unfit(self, positions: Array) -> str:
        inside = (positions >= self._low) & (positions <= self._high)
        return "" if inside.all() else "out of the box that the planner knows"

    def follow(self, plan: Plan, stamp_ns: int) -> None:
        follower = ArmFollower(plan, self._node.planner.spec.rate)
        self._followed = follower, stamp_ns
        period_ns = plan.stride * self._node.planner.spec.period_ns
        opening = plan.part("gripper")
        quaternions = rotation_of(plan.part("rotation")).as_quat()
        states = np.hstack([plan.part("position"), quaternions, opening])
        self._trajectory.publish(messages.hand_trajectory_to_msg(states, period_ns, stamp_ns, self.frame))


def domain_of(task: str) -> Callable[[PlannerNode], Domain]:
    """The class for a checkpoint's task."""
    return ArmDomain if task == "arm" else MazeDomain
