"""What a robot is told: chunks, commands, efforts, forces."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from geometry_msgs.msg import WrenchStamped
from numpy.typing import ArrayLike, NDArray
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64, Float64MultiArray, Int64
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from diffusion_ros.control.action_chunk import MAX_ROWS, ROW_NAMES, ActionChunk
from diffusion_ros.robot import ACTION_NAMES
from diffusion_ros.ros.messages.fields import MessageError, duration_to_msg, finite, floats, header_to_msg, stamp_ns

Array = NDArray[np.float64]

_EXECUTED_NAMES = (*ACTION_NAMES, "row", "age", "person")
_EXECUTED_NAMES_02 = (*ACTION_NAMES, "person")
"""Of the first bags."""
_LONGEST_AGE = 3600.0
"""s, of the observation that an executed row was made from."""
_TELEOP_NAMES = (*ACTION_NAMES, "held")
GRIPPER_ACTIONS = {"gripper_command": "GripperCommand", "parallel_gripper_command": "ParallelGripperCommand"}
"""Output of a robot's file -> control_msgs' action."""


def joint_command_to_msg(joint: str, effort: float, time_ns: int) -> JointState:
    """effort of one joint; time_ns: the stamp of the joint states that it answers."""
    return JointState(header=header_to_msg(time_ns, ""), name=[joint], effort=[float(effort)])


def joint_command_from_msg(msg: JointState, joint: str) -> tuple[int, float]:
    """Stamp [ns] of the joint states that it answers, and the joint's effort."""
    if list(msg.name) != [joint] or len(msg.effort) != 1 or len(msg.position) or len(msg.velocity):
        raise MessageError(
            f"{len(msg.effort)} efforts, {len(msg.position)} positions and {len(msg.velocity)} velocities for"
            f" {', '.join(msg.name) or 'no joint'}, one effort for {joint} expected"
        )
    return stamp_ns(msg.header.stamp), finite("effort", msg.effort[0])


def effort_to_msg(effort: float) -> Float64:
    return Float64(data=float(effort))


def effort_from_msg(msg: Float64) -> float:
    return finite("effort", msg.data)


def discrete_action_to_msg(action: int) -> Int64:
    return Int64(data=int(action))


def discrete_action_from_msg(msg: Int64) -> int:
    return int(msg.data)


def chunk_to_msg(chunk: ActionChunk, frame_id: str) -> JointTrajectory:
    """frame_id: the frame of the deltas. Row i is done, not begun, at time_from_start = (i + 1) periods."""
    return JointTrajectory(
        header=header_to_msg(chunk.stamp_ns, frame_id),
        joint_names=list(ROW_NAMES[chunk.kind]),
        points=[
            JointTrajectoryPoint(positions=row.tolist(), time_from_start=duration_to_msg((i + 1) * chunk.period_ns))
            for i, row in enumerate(np.asarray(chunk.rows, np.float64))
        ],
    )


def chunk_from_msg(msg: JointTrajectory) -> ActionChunk:
    """Raises MessageError for other or reordered joint names, missing values, NaN, or uneven spacing in time."""
    kind = next((kind for kind, names in ROW_NAMES.items() if list(msg.joint_names) == list(names)), None)
    if kind is None:
        raise MessageError(f"joint names {', '.join(msg.joint_names) or 'none'}, {', '.join(ACTION_NAMES)} expected")
    if not 1 <= len(msg.points) <= MAX_ROWS:
        raise MessageError(f"{len(msg.points)} points, 1 to {MAX_ROWS} expected")
    period_ns = stamp_ns(msg.points[0].time_from_start)
    if period_ns < 1:
        raise MessageError(f"the first point is done after {period_ns} ns, more than 0 expected")
    for i, point in enumerate(msg.points):
        if len(point.positions) != len(ACTION_NAMES):
            raise MessageError(f"point {i} has {len(point.positions)} positions, {len(ACTION_NAMES)} expected")
        if stamp_ns(point.time_from_start) != (i + 1) * period_ns:
            raise MessageError(
                f"point {i} is done after {stamp_ns(point.time_from_start)} ns, {(i + 1) * period_ns} expected"
            )
    rows = np.array([point.positions for point in msg.points], np.float64)
    if not np.all(np.isfinite(rows)):
        i, j = (int(k) for k in np.argwhere(~np.isfinite(rows))[0])
        raise MessageError(f"{ROW_NAMES[kind][j]} of point {i} is {rows[i, j]}, a finite number expected")
    return ActionChunk(stamp_ns(msg.header.stamp), rows, period_ns, kind)


def command_to_msg(row: ArrayLike, time_ns: int, period_ns: int, frame_id: str) -> JointTrajectory:
    """row (7) as in ActionChunk, all zero to hold; time_ns: the stamp of the observation that it answers."""
    values = np.asarray(row, np.float64).reshape(1, -1)
    return chunk_to_msg(ActionChunk(time_ns, values, period_ns), frame_id)


def command_from_msg(msg: JointTrajectory) -> tuple[int, Array]:
    """Stamp [ns] of the observation that it answers, and the row (7)."""
    chunk = chunk_from_msg(msg)
    if len(chunk.rows) != 1:
        raise MessageError(f"{len(chunk.rows)} points, one expected")
    if chunk.kind != "delta":
        raise MessageError(f"joint names {', '.join(msg.joint_names)}, {', '.join(ACTION_NAMES)} expected")
    row: Array = chunk.rows[0]
    return chunk.stamp_ns, row


class Executed(NamedTuple):
    """A row whose execution begins."""

    stamp_ns: int
    """When, or the stamp of the observation that it answers [ns]."""
    row: Array
    """(7) as in ActionChunk."""
    person: bool
    """Whether it is a person's."""
    place: int
    """In its chunk, from 0 on; -1: nobody knows."""
    chunk_ns: int
    """Stamp of that chunk [ns]; this row's own where nobody knows."""


def executed_to_msg(executed: Executed, period_ns: int, frame_id: str) -> JointTrajectory:
    age = (executed.stamp_ns - executed.chunk_ns) / 1e9
    row = [*np.asarray(executed.row, np.float64).tolist(), float(executed.place), age]
    return _with_flag(_EXECUTED_NAMES, row, executed.person, executed.stamp_ns, period_ns, frame_id)


def executed_from_msg(msg: JointTrajectory) -> Executed:
    """Raises MessageError."""
    stamp = stamp_ns(msg.header.stamp)
    if list(msg.joint_names) == list(_EXECUTED_NAMES_02):
        return Executed(stamp, *_row_and_flag(msg, _EXECUTED_NAMES_02), -1, stamp)
    values, person = _row_and_flag(msg, _EXECUTED_NAMES)
    place, age = (float(value) for value in values[-2:])
    if not (place == int(place) and -1 <= place < MAX_ROWS):
        raise MessageError(f"row {place:g}, an integer from -1 to {MAX_ROWS - 1} expected")
    if abs(age) > _LONGEST_AGE:
        raise MessageError(f"age {age:g} s, at most {_LONGEST_AGE:g} expected")
    return Executed(stamp, values[:-2], person, int(place), stamp - round(1e9 * age))


def teleop_to_msg(row: ArrayLike, held: bool, time_ns: int, period_ns: int, frame_id: str) -> JointTrajectory:
    """row (7) as in ActionChunk; held: whether the person holds the dead-man, else they let go."""
    return _with_flag(_TELEOP_NAMES, row, held, time_ns, period_ns, frame_id)


def teleop_from_msg(msg: JointTrajectory) -> tuple[int, Array | None, int]:
    """Stamp [ns], a person's row (7), None where they let go, and its period [ns]. Without `held` a row that is all
    zero lets go. Raises MessageError."""
    if list(msg.joint_names) == list(_TELEOP_NAMES):
        row, held = _row_and_flag(msg, _TELEOP_NAMES)
    else:
        row = command_from_msg(msg)[1]
        held = bool(np.any(row))
    return stamp_ns(msg.header.stamp), row if held else None, stamp_ns(msg.points[0].time_from_start)


def _with_flag(
    names: Sequence[str], row: ArrayLike, flag: bool, time_ns: int, period_ns: int, frame_id: str
) -> JointTrajectory:
    """A row (7) and, last, whether what the last name says is so."""
    values = [*np.asarray(row, np.float64).tolist(), float(flag)]
    return JointTrajectory(
        header=header_to_msg(time_ns, frame_id),
        joint_names=list(names),
        points=[JointTrajectoryPoint(positions=values, time_from_start=duration_to_msg(period_ns))],
    )


def _row_and_flag(msg: JointTrajectory, names: Sequence[str]) -> tuple[Array, bool]:
    if list(msg.joint_names) != list(names):
        raise MessageError(f"joint names {', '.join(msg.joint_names) or 'none'}, {', '.join(names)} expected")
    if len(msg.points) != 1 or len(msg.points[0].positions) != len(names):
        raise MessageError(f"{len(msg.points)} points, one of {len(names)} positions expected")
    values = np.array(msg.points[0].positions, np.float64)
    if not np.all(np.isfinite(values)):
        j = int(np.argmin(np.isfinite(values)))
        raise MessageError(f"{names[j]} of point 0 is {values[j]}, a finite number expected")
    if values[-1] not in (0.0, 1.0):
        raise MessageError(f"{names[-1]} {values[-1]:g}, 0 or 1 expected")
    return values[:-1], bool(values[-1])


def force_to_msg(force: ArrayLike, time_ns: int, frame_id: str) -> WrenchStamped:
    """force (2) [N]; time_ns: the stamp of the odometry that it answers."""
    msg = WrenchStamped(header=header_to_msg(time_ns, frame_id))
    msg.wrench.force.x, msg.wrench.force.y = floats(force, 2, "force")
    return msg


def force_from_msg(msg: WrenchStamped) -> tuple[int, Array]:
    """Stamp [ns] of the odometry that it answers, and the force (2) [N]. Raises MessageError for NaN."""
    force = np.array([msg.wrench.force.x, msg.wrench.force.y], np.float64)
    if not np.all(np.isfinite(force)):
        raise MessageError(f"force {force.tolist()}, finite numbers expected")
    return stamp_ns(msg.header.stamp), force


def gripper_width_to_msg(width: float) -> Float64MultiArray:
    """width between the fingers [m]."""
    return Float64MultiArray(data=[float(width)])


def gripper_width_from_msg(msg: Float64MultiArray, most: float) -> float:
    """Width [m] between the fingers, 0 to `most`. Raises MessageError."""
    if len(msg.data) != 1:
        raise MessageError(f"{len(msg.data)} numbers, one expected: the width between the fingers")
    return _width(float(msg.data[0]), most)


def gripper_goal_problem(command: Any, most: float) -> str:
    """'' or what is wrong with a control_msgs/GripperCommand, whose position is half the width [m] (franka_gripper)."""
    try:
        _width(2 * float(command.position), most)
    except MessageError as error:
        return str(error)
    return ""


def gripper_action_type(output: str) -> Any:
    """The class of the action that an output uses; None for other outputs, and where control_msgs is not installed."""
    if output not in GRIPPER_ACTIONS:
        return None
    try:
        # On every ROS installation, but not on PyPI.
        return getattr(importlib.import_module("control_msgs.action"), GRIPPER_ACTIONS[output], None)
    except ModuleNotFoundError:
        return None


def gripper_goal_to_msg(kind: Any, joints: Sequence[str], position: float, effort: float) -> Any:
    """A goal of one of the two actions; effort 0: the driver's own. joints: of a ParallelGripperCommand, whose goal is
    a JointState; () for a GripperCommand."""
    goal = kind.Goal()
    if not joints:
        goal.command.position, goal.command.max_effort = float(position), float(effort)
        return goal
    goal.command.name = list(joints)
    goal.command.position = [float(position)] * len(joints)
    if effort:
        goal.command.effort = [float(effort)] * len(joints)
    return goal


def gripper_goal_from_msg(goal: Any, parallel: bool) -> tuple[float, float]:
    """Position and effort [N] of one of the two actions' goals. Raises MessageError."""
    if not parallel:
        return float(goal.command.position), float(goal.command.max_effort)
    positions, efforts = list(goal.command.position), list(goal.command.effort)
    if not positions:
        raise MessageError("0 positions, one at least expected")
    return float(positions[0]), float(efforts[0]) if efforts else 0.0


def _width(width: float, most: float) -> float:
    if not 0 <= width <= most:  # so written for NaN
        raise MessageError(f"width {width:g} m, 0 to {most:g} m expected")
    return width
