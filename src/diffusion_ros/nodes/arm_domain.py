"""An arm's hand, as a planner's domain."""

from __future__ import annotations

from collections import deque

import numpy as np
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros.control.action_chunk import ActionChunk, hold_chunk
from diffusion_ros.control.hand_follower import HAND_RADIUS, STRAY, ArmFollower, arm_state, rotation_of
from diffusion_ros.models.planner import Array, Plan, PlanError, clearance, leads_into
from diffusion_ros.nodes.planner_domain import IN_THE_WAY, PlannerHost
from diffusion_ros.ranges import outside
from diffusion_ros.robot import prefixed
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.listener import MAX_BYTES, JointFilter, Listener
from diffusion_ros.ros.runner import RunnableNode

_CHUNK_ROWS = 10
"""Of a plan: beyond the first they only bridge a pose that is late."""
_HELD_UP_SECONDS = 4.0
_HELD_UP_M = 0.01
"""A hand that moves less in that time is held up. Demonstrations do not stand still for so long, grasps included."""
_FAR = 0.5
"""Of the box that the planner knows: a hand that is farther outside of it is not believed to be there."""
_MAX_OPENING = 0.2
"""Metres: twice what a Panda's fingers open, so that millimetres are not taken for metres."""
_SETTLING_SECONDS = 1.0
"""After the plan's end, in which an arm is still brought to where it ends."""


class ArmDomain:
    """The hand's pose and the fingers in; action_chunk out for the executor, one for every pose while there is a plan.

    A plan ends with its last row and a second to settle, when an obstacle has come in its way, when the hand has been
    moved by somebody else, or when something holds it up: then there are no more chunks, and the executor holds. In the
    last two cases the goal is dropped too: plans that begin anew from where the hand is would push it on.
    """

    radius = HAND_RADIUS
    stray = STRAY
    line_width = 0.008

    def __init__(self, node: RunnableNode, host: PlannerHost) -> None:
        self.state_topic = topics.shown(node, topics.EEF_POSE)
        self._joint_topic = topics.shown(node, topics.JOINT_STATES)
        self._node, self._host = node, host
        spec = host.planner.spec
        frame = next(tensor.frame for tensor in spec.outputs if tensor.name == "position")
        self.frame = prefixed(host.parameters.frame_prefix, frame)
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
            concerns=JointFilter(host.parameters.gripper_joints),
        )

    def _on_joints(self, msg: JointState) -> None:
        """Both fingers, one positive and one negative."""
        if conflict := self._joints.conflict():
            raise messages.MessageError(conflict)
        _, fingers, _ = messages.joint_state_from_msg(msg, self._host.parameters.gripper_joints)
        opening = float(np.abs(fingers).sum())
        if opening > _MAX_OPENING:
            raise messages.MessageError(f"fingers {opening:.4g} m apart, at most {_MAX_OPENING:g} m expected")
        self._opening, self._opening_came = opening, self._node.seconds()

    def _on_bad_joints(self, error: messages.MessageError, msg: JointState | None) -> None:
        self._opening = float("nan")
        self._joint_fault = str(error)

    def _on_bad_pose(self, error: messages.MessageError, msg: PoseStamped | None) -> None:
        self._host.interrupt(f"{self.state_topic}: {error}")
        self._state = None

    def _on_pose(self, msg: PoseStamped) -> None:
        if conflict := self._poses.conflict():
            raise messages.MessageError(conflict)
        stamp_ns, position, quaternion = messages.pose_from_msg(msg)
        messages.check_frame(msg.header, self.frame)
        margin = _FAR * (self._high - self._low)
        if wrong := outside("the hand", position, self._low - margin, self._high + margin, "m"):
            raise messages.MessageError(wrong)
        now = self._node.seconds()
        if self._state is not None:
            _, state, came = self._state
            reach = np.linalg.norm(self._high - self._low)
            if now - came > self._host.parameters.max_state_age or np.linalg.norm(position - state[:3]) > 0.2 * reach:
                self._followed = None
                self._host.forget()
        self._host.diagnostics.tick(topics.EEF_POSE)
        self._state = stamp_ns, arm_state(position, quaternion), now
        if self._followed is None:
            self._way.clear()
        if self._followed is not None:
            self._publish_chunk(stamp_ns, position, quaternion)
        self._host.resume()

    def _publish_chunk(self, stamp_ns: int, position: Array, quaternion: Array) -> None:
        assert self._followed is not None
        follower, began_ns = self._followed
        period_ns = self._host.planner.spec.period_ns
        step = max(0, round((stamp_ns - began_ns) / period_ns))
        balls = self._host.obstacles
        ahead = np.vstack([position, follower.positions[min(step, follower.steps) :]])
        if leads_into(clearance(ahead, balls, HAND_RADIUS)):
            self.halt()
            self._host.refuse(IN_THE_WAY)
            return
        strayed = follower.strayed(step, position) or self._held_up(stamp_ns, position, follower.positions[-1])
        if strayed:
            self.halt()
            self._host.forget()
            self._host.refuse(strayed)
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
        hold = hold_chunk(self._state[0], self._host.planner.spec.period_ns)
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
        fingers = ", ".join(self._host.parameters.gripper_joints)
        why = f": {self._joint_fault}" if self._joint_fault and np.isnan(self._opening) else ""
        return f"no fingers ({fingers}) in {self._joint_topic}, or old ones{why}" if np.isnan(state[-1]) else ""

    def heed(self) -> None:
        """Nothing: each pose is answered with a look at the obstacles."""

    def state(self) -> tuple[int, Array, float] | None:
        if self._state is None:
            return None
        stamp_ns, state, came = self._state
        known = self._node.seconds() - self._opening_came <= self._host.parameters.max_state_age
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
        follower = ArmFollower(plan, self._host.planner.spec.rate)
        self._followed = follower, stamp_ns
        period_ns = plan.stride * self._host.planner.spec.period_ns
        opening = plan.part("gripper")
        quaternions = rotation_of(plan.part("rotation")).as_quat()
        states = np.hstack([plan.part("position"), quaternions, opening])
        self._trajectory.publish(messages.hand_trajectory_to_msg(states, period_ns, stamp_ns, self.frame))
