"""What drivers refuse, in their words, without ROS: each rule returns '' or the reason.

Read from the drivers' own sources: CRISP, FZI's cartesian_controllers, MoveIt Servo, ros2_controllers. Times are int
nanoseconds of the driver's clock.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

JOINT_JOG, TWIST, POSE = 0, 1, 2
"""moveit_msgs/ServoCommandType."""


def one_publisher(topic: str, publishers: int) -> str:
    """CRISP: with more than one publisher on its topic every message is dropped."""
    return "" if publishers <= 1 else f"{publishers} publishers on {topic}: expected at most one, message dropped"


def frame(name: str, expected: str) -> str:
    """FZI: a target's frame must be the base link, as a string."""
    return "" if name == expected else f"target in frame {name!r}: expected {expected!r}, message dropped"


def numbers(name: str, values: Sequence[float] | Array) -> str:
    """FZI, Servo: NaN and infinity are dropped."""
    return "" if np.isfinite(np.asarray(values, dtype=np.float64)).all() else f"{name} has nan or inf, message dropped"


def servo(
    kind: int, command_type: int | None, frame_id: str, stamp_ns: int, now_ns: int, timeout_ns: int = 100_000_000
) -> str:
    """MoveIt Servo's checks of a command of a `kind` while `command_type` is chosen (None: never switched)."""
    if command_type is None:
        return "command type has not been set, cannot accept input"
    if kind != command_type:
        return f"a command of type {kind} came while {command_type} is active: switch_command_type first"
    if not frame_id:
        return "a command without frame_id, cannot accept input"
    if now_ns - stamp_ns >= timeout_ns:
        return f"command is {(now_ns - stamp_ns) * 1e-9:.3f} s old: at {timeout_ns * 1e-9:g} s it is stale, halting"
    return ""


def trajectory(
    names: Sequence[str],
    joints: Sequence[str],
    times_ns: Sequence[int],
    lengths: Sequence[tuple[int, int, int, int]],
    last_velocities: Sequence[float],
    start_ns: int,
    now_ns: int,
    allow_nonzero_velocity_at_end: bool = False,
) -> str:
    """joint_trajectory_controller's checks of a message with `names` at a controller of `joints`.

    lengths: of each point's positions, velocities, accelerations and effort. last_velocities: the last point's, empty
    if it has none. start_ns: the header's stamp, 0 for now.
    """
    if not times_ns:
        return "empty trajectory received"
    if len(names) != len(joints) or set(names) != set(joints):
        return f"joints {', '.join(names)} in the trajectory: expected {', '.join(joints)}"
    for i, (positions, velocities, accelerations, effort) in enumerate(lengths):
        if positions != len(joints):
            return f"point {i} has {positions} positions: expected {len(joints)}"
        for what, length in (("velocities", velocities), ("accelerations", accelerations)):
            if length not in (0, len(joints)):
                return f"point {i} has {length} {what}: expected 0 or {len(joints)}"
        if effort:
            return f"point {i} has effort: trajectories with effort fields are not supported"
    if any(velocity != 0 for velocity in last_velocities) and not allow_nonzero_velocity_at_end:
        return "velocity of the last trajectory point is not zero"
    for i, (before, after) in enumerate(itertools.pairwise(times_ns), start=1):
        if after <= before:
            return f"time between points {i - 1} and {i} is not strictly increasing"
    if times_ns[0] < 0:
        return "the first point's time is negative"
    if start_ns and start_ns + times_ns[-1] < now_ns:
        return f"trajectory ended {(now_ns - start_ns - times_ns[-1]) * 1e-9:.3f} s in the past"
    return ""


def joint_order(names: Sequence[str], joints: Sequence[str]) -> list[int]:
    """Columns of a message with `names` in the controller's order."""
    return [list(names).index(joint) for joint in joints]


def forward_command(values: Sequence[float] | Array, joints: int) -> str:
    """forward_command_controller: one number a joint."""
    return "" if len(values) == joints else f"command size ({len(values)}) does not match number of joints ({joints})"
