"""An arm's forward and inverse kinematics from the URDF that its driver publishes as /robot_description. No ROS.

Of the URDF only the joints from base to tool are read: their origins, axes, limits. MuJoCo is given a chain made of
these numbers, not the text, so meshes, plug-ins and whatever else the text names are neither compiled nor opened.

Lengths are metres, angles radians, quaternions (4) xyzw. Joint positions q (n) are in the order of `joints`; those of
prismatic joints are metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffusion_ros.control.urdf import Joint, Placement, joints_between, listed, short

Array = NDArray[np.float64]

MARGIN = 0.02
"""Radians or metres that a solution keeps from a joint's limits, at most a hundredth of its range."""
SINGULAR = 0.03
"""Smallest singular value of the Jacobian (m and rad) below which steps are damped."""
DAMPING = 0.03
"""Of the Jacobian where it is singular; less before, by the singular value."""
REACHED = 1e-4, 1e-3
"""Metres and radians within which a target counts as reached."""
CONVERGED = 1e-6
"""Metres and radians within which nothing is left to do."""
SOLVE_STEPS = 200
"""Of `solve` at most."""
TRACK_STEPS = 6
"""Of `track` at most."""
CAUTION = 0.1
"""Damping after a step of `track` that went away from its target; three times as much after the next."""
NEVER_WORSE = 5e-4
"""Metres and radians from the target up to which a step of `track` may go away from it, for the rest posture."""
SOLVE_STEP = 0.3
"""Radians or metres that a joint goes in one step of `solve`."""
SOLVE_ERROR = 0.2, 0.6
"""Metres and radians of the target's difference that one step of `solve` aims at: the Jacobian holds no further."""
NEAR = 0.05
"""Metres and radians to the target from which on `solve` damps its steps less."""
PATIENCE = 25
"""Steps of `solve` without getting nearer before it ends."""
PULL = 0.5
"""Parts a second of the way to the rest posture that `track` goes with what the task leaves free."""
SOLVE_PULL = 0.05
"""Parts of that way in a step of `solve`."""

Cause = Literal["", "limit", "singular", "speed", "posture", "target"]


@dataclass(frozen=True)
class Solution:
    """Joint positions for a target pose, and what they miss of it."""

    q: Array
    """(n), always within the joints' limits if the first was."""
    position_error: float
    """Metres from the target; NaN where the target is no pose."""
    angle_error: float
    """Radians, likewise."""
    reason: str
    """'' where the target is reached, else one line: how far off, and what is in the way."""
    cause: Cause
    """The reason as one word. limit: a joint is at its end; singular: the arm cannot go there from this posture, or
    only slowly; speed: it needs more time; posture: another posture may reach it; target: it is no pose."""
    smallest_singular_value: float
    """Of the Jacobian at q (m and rad): 0 where the arm cannot go in some direction."""
    condition: float
    """Largest by smallest singular value there."""


class Arm:
    """Joints in a row from a base link to a tool link. Not for two threads at once: MuJoCo's data are kept."""

    def __init__(self, joints: Sequence[Joint], order: Sequence[str], after: Placement) -> None:
        """joints: from base to tool; order: their names as in q; after: the tool in the last one. Use from_urdf."""
        import mujoco  # of the extra: who drives a robot by poses or twists needs none of it

        self.joints = tuple(order)
        named = {joint.name: joint for joint in joints}
        self.low: Array = np.array([named[name].low for name in order])
        """(n), -inf for continuous joints."""
        self.high: Array = np.array([named[name].high for name in order])
        """(n), inf for continuous joints."""
        self.speeds: Array = np.array([named[name].speed for name in order])
        """(n) rad/s or m/s, inf where the URDF says none."""
        bounded = np.isfinite(self.low)
        self._margin = np.where(bounded, np.minimum(MARGIN, 0.01 * np.where(bounded, self.high - self.low, 1.0)), 0.0)
        self.rest: Array = np.where(
            bounded, 0.5 * (np.where(bounded, self.low, 0) + np.where(bounded, self.high, 0)), 0
        )
        """(n), where what the task leaves free of a redundant arm is drawn to: at first the middle between the limits.
        Assign the posture that the arm starts from to keep to it."""
        path = [joint.name for joint in joints]
        self._of_path = np.array([self.joints.index(name) for name in path])
        self._of_order = np.array([path.index(name) for name in order])
        self._mujoco = mujoco
        self._model: Any = mujoco.MjModel.from_xml_string(_chain(joints, after))
        self._data: Any = mujoco.MjData(self._model)
        self._body = int(mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_BODY, "tool"))
        self._path_jacobian = np.zeros((6, len(path)))
        self._difference = np.zeros(4)
        self._error = np.zeros(6)

    @classmethod
    def from_urdf(cls, text: str, joints: Sequence[str], base: str, tool: str) -> Arm:
        """The arm of a URDF's text whose `joints` move link `tool` against link `base` ('' = the URDF's root).

        joints: all that lie between the two, in any order, which becomes that of q. A mimic joint there is held at 0;
        joints elsewhere do not matter. Raises ValueError in one line, ModuleNotFoundError without MuJoCo.
        """
        given = list(joints)
        placed, after = joints_between(text, base, tool, given)
        return cls(placed, given, after)

    def forward(self, q: ArrayLike) -> tuple[Array, Array]:
        """The tool's position (3) m and quaternion (4) xyzw in the base's axes."""
        self._place(self._positions(q, "q"))
        return self._data.xpos[self._body].copy(), self._data.xquat[self._body][[1, 2, 3, 0]]

    def jacobian(self, q: ArrayLike) -> Array:
        """(6, n): the tool's velocity in the base's axes, linear (3) then angular (3), by that of each joint."""
        self._place(self._positions(q, "q"))
        return self._jacobian()

    def singular_values(self, q: ArrayLike) -> Array:
        """(min(6, n)) of the Jacobian, the largest first. The condition number is the first by the last."""
        return np.asarray(np.linalg.svd(self.jacobian(q), compute_uv=False))

    def outside(self, q: ArrayLike, slack: float = 0.0) -> str:
        """'' where q (n) is within the joints' limits, else a line about the first that is not. slack: rad or m that it
        may be beyond them, as measured joints that are held at a limit are."""
        value = self._positions(q, "q")
        for name, x, low, high in zip(self.joints, value, self.low - slack, self.high + slack, strict=True):
            if not low <= x <= high:
                return f"joint {short(name)} is at {x:.4g}, {low:.4g} to {high:.4g} expected"
        return ""

    def solve(self, position: ArrayLike, quaternion: ArrayLike, q0: ArrayLike, steps: int = SOLVE_STEPS) -> Solution:
        """Joint positions for the tool at position (3) m and quaternion (4) xyzw, near q0 (n).

        Damped least squares from q0 on (Nakamura and Hanafusa 1986; steps bounded as in Buss, "Introduction to inverse
        kinematics", 2009), no restarts elsewhere: neighbouring targets have neighbouring solutions.
        """
        q = np.clip(self._positions(q0, "q0"), self.low, self.high)
        target, why = _target(position, quaternion)
        if target is None:
            return self._missed(q, why)
        low, high = np.minimum(self.low + self._margin, q), np.maximum(self.high - self._margin, q)
        box = np.full(len(q), SOLVE_STEP)
        best, nearest, waited = q, np.inf, 0
        blocked = np.zeros(len(q), np.bool_)
        for step in range(steps + 1):
            error = self._to(target, q)
            off = float(error @ error)
            # Of what is nearest, so that a result says what it is; a thousandth nearer counts as getting nearer.
            waited = 0 if off < 0.998 * nearest else waited + 1
            if off < nearest:
                best, nearest = q, off
            if (abs(error) < CONVERGED).all() or waited > PATIENCE or step == steps:
                break
            aim = error.copy()
            for part, most in ((slice(0, 3), SOLVE_ERROR[0]), (slice(3, 6), SOLVE_ERROR[1])):
                aim[part] *= min(1.0, most / max(float(np.linalg.norm(aim[part])), 1e-12))
            # Less of both the nearer the target is: a singular posture could not be reached otherwise.
            far = min(1.0, float(np.sqrt(off)) / NEAR)
            pull = far * SOLVE_PULL * (self.rest - q)
            move, blocked, _ = self._step(q, aim, pull, low, high, -box, box, far * DAMPING)
            q = np.clip(q + move, low, high)
        return self._result(target, best, low, high, blocked)

    def track(
        self,
        position: ArrayLike,
        quaternion: ArrayLike,
        q_last: ArrayLike,
        dt: float,
        max_joint_speed: ArrayLike | None = None,
    ) -> Solution:
        """The next joint positions of a stream for the tool at position (3) m and quaternion (4) xyzw.

        q_last (n): those commanded dt seconds before; no joint goes further than its speed times dt, and all slow down
        together where one has to. max_joint_speed: rad/s or m/s, one or (n), no more than the URDF's are allowed.
        Steps are damped near singular postures by the smallest singular value (Chiaverini, Siciliano and Egeland 1994).
        """
        last = self._positions(q_last, "q_last")
        if not 0 < dt < np.inf:
            raise ValueError(f"dt is {dt!r}, more than 0 s expected")
        box = dt * self._speed_limits(max_joint_speed)
        target, why = _target(position, quaternion)
        if target is None:
            return self._missed(last, why)
        inside = np.clip(last, self.low, self.high)
        low, high = np.minimum(self.low + self._margin, inside), np.maximum(self.high - self._margin, inside)
        q = last
        blocked = np.zeros(len(q), np.bool_)
        slowed = -1
        pull = np.clip(PULL * dt * (self.rest - q), -0.2 * box, 0.2 * box)
        error = self._to(target, q).copy()
        cautious = 0.0
        for step in range(TRACK_STEPS):
            if step and (abs(error) < 10 * CONVERGED).all():
                break
            # What is left of the way that each joint may go.
            room = last - box - q, last + box - q
            # What is free is pulled once; what is lost in each step, as the next would undo it.
            move, blocked, slowed = self._step(q, error, pull, low, high, *room, DAMPING, cautious, step > 0)
            then = np.clip(q + move, last - box, last + box)
            left = self._to(target, then)
            if float(left @ left) > max(float(error @ error), NEVER_WORSE**2):
                # Too far along a curved way, as with a target beyond the arm's reach: it would go to and fro.
                cautious = max(CAUTION, 3 * cautious)
                self._place(q)
                continue
            q, error = then, left.copy()
            if slowed >= 0:
                break
        return self._result(target, q, low, high, blocked, slowed)

    def _positions(self, q: ArrayLike, name: str) -> Array:
        value = np.array(q, np.float64)
        if value.shape != self.low.shape:
            raise ValueError(f"{name} has shape {value.shape}, ({len(self.low)},) expected: {listed(self.joints)}")
        if not np.isfinite(value).all():
            raise ValueError(f"{name} is {value.tolist()}, finite numbers expected")
        return value

    def _speed_limits(self, most: ArrayLike | None) -> Array:
        if most is None:
            limits = self.speeds
        else:
            given = np.asarray(most, np.float64)
            if given.shape not in ((), self.low.shape) or not (given > 0).all():
                raise ValueError(f"max_joint_speed is {given.tolist()}, one or {len(self.low)} above 0 expected")
            limits = np.minimum(given, self.speeds)
        if not np.isfinite(limits).all():
            name = self.joints[int(np.flatnonzero(~np.isfinite(limits))[0])]
            raise ValueError(f"joint {short(name)} has no speed limit in the URDF: max_joint_speed expected")
        return np.asarray(limits)

    def _place(self, q: Array) -> None:
        self._data.qpos[:] = q[self._of_path]
        self._mujoco.mj_kinematics(self._model, self._data)

    def _jacobian(self) -> Array:
        """Where the arm was placed last."""
        self._mujoco.mj_comPos(self._model, self._data)
        jacobian = self._path_jacobian
        self._mujoco.mj_jacBody(self._model, self._data, jacobian[:3], jacobian[3:], self._body)
        return np.asarray(jacobian[:, self._of_order])

    def _to(self, target: Array, q: Array) -> Array:
        """(6): from the tool at q to target (7, position and quaternion wxyz) in the base's axes, m and a rotation
        vector. Places the arm there."""
        self._place(q)
        data, difference, error = self._data, self._difference, self._error
        error[:3] = target[:3] - data.xpos[self._body]
        w, x, y, z = data.xquat[self._body]
        self._mujoco.mju_mulQuat(difference, target[3:], np.array([w, -x, -y, -z]))
        self._mujoco.mju_quat2Vel(error[3:], difference, 1.0)
        return error

    def _step(
        self,
        q: Array,
        error: Array,
        pull: Array,
        low: Array,
        high: Array,
        back: Array,
        ahead: Array,
        damping: float,
        cautious: float = 0.0,
        again: bool = False,
    ) -> tuple[Array, NDArray[np.bool_], int]:
        """One step (n) from q, where the arm is placed, for an error (6); which joints their limits kept; and the joint
        for whose room, from `back` to `ahead`, the step was made shorter, or -1.

        A joint that would leave low to high is kept there, and the others do the rest (as Flacco, De Luca and Khatib
        2012 do in the null space). pull (n) goes where it does not move the tool (Liegeois 1977), but for
        `again`, and where it hardly does. damping counts near singular postures, cautious everywhere (Levenberg and
        Marquardt's).
        """
        jacobian = self._jacobian()
        free = np.ones(len(q), np.bool_)
        step = np.zeros(len(q))
        slowed = -1
        while True:
            if free.all():
                left, columns = error, jacobian
            else:
                left, columns = error - jacobian[:, ~free] @ step[~free], jacobian[:, free]
            u, values, vt = np.linalg.svd(columns)
            size = len(values)
            near = max(0.0, 1.0 - (values[-1] / SINGULAR) ** 2)
            damped = near * damping**2
            squares = values**2 + damped + cautious**2 + 1e-12
            inverse = values / squares
            move = vt[:size].T @ (inverse * (u[:, :size].T @ left))
            # Where a direction is lost, the pull has it: a stretched elbow would bend either way, and the wrong one
            # ends at a limit.
            move += vt[:size].T @ (damped / squares * (vt[:size] @ pull[free]))
            if len(vt) > 6 and not again:
                move += vt[6:].T @ (vt[6:] @ pull[free])
            step[free] = move
            ratio = np.where(step > 0, ahead, back) / np.where(step == 0, np.inf, step)
            ratio[(step == 0) | ~free] = np.inf
            tightest = int(ratio.argmin())
            slowed = tightest if ratio[tightest] < 1 else -1
            if slowed >= 0:
                step[free] *= max(0.0, float(ratio[tightest]))
            beyond = np.where(free, np.maximum(q + step - high, low - q - step), 0.0)
            worst = int(beyond.argmax())
            if beyond[worst] <= 1e-12:
                return step, ~free, slowed
            free[worst] = False
            end = high[worst] if q[worst] + step[worst] > high[worst] else low[worst]
            step[worst] = np.clip(end - q[worst], back[worst], ahead[worst])
            if not free.any():
                return step, ~free, -1

    def _result(
        self, target: Array, q: Array, low: Array, high: Array, blocked: NDArray[np.bool_], slowed: int = -1
    ) -> Solution:
        error = self._to(target, q)
        position, angle = float(np.linalg.norm(error[:3])), float(np.linalg.norm(error[3:]))
        values = np.linalg.svd(self._jacobian(), compute_uv=False)
        smallest = float(values[-1])
        condition = float(values[0] / smallest) if smallest > 0 else float("inf")
        cause: Cause = ""
        reason = ""
        if position > REACHED[0] or angle > REACHED[1]:
            at = [i for i in np.flatnonzero(blocked) if min(q[i] - low[i], high[i] - q[i]) < 1e-6]
            if at:
                cause = "limit"
                ends = [self.low[i] if q[i] - low[i] < high[i] - q[i] else self.high[i] for i in at]
                reason = " and ".join(
                    f"joint {short(self.joints[i])} is at its limit of {end:.4g}"
                    for i, end in zip(at, ends, strict=True)
                )
            elif smallest < SINGULAR:
                cause, reason = "singular", f"singular, smallest singular value {smallest:.2g}, {SINGULAR:g} expected"
            elif slowed >= 0:
                cause, reason = "speed", f"joint {short(self.joints[slowed])} is at its speed limit"
            else:
                cause, reason = "posture", "out of reach from this posture"
            reason = f"{position:.4f} m and {angle:.3f} rad off the target: {reason}"
        return Solution(q, position, angle, reason, cause, smallest, condition)

    def _missed(self, q: Array, why: str) -> Solution:
        self._place(q)
        values = np.linalg.svd(self._jacobian(), compute_uv=False)
        condition = float(values[0] / values[-1]) if values[-1] > 0 else float("inf")
        return Solution(q, float("nan"), float("nan"), why, "target", float(values[-1]), condition)


def _chain(joints: Sequence[Joint], after: Placement) -> str:
    """The joints as MuJoCo's XML: numbers only. Inertias are there because it wants some; nothing is moved by them."""
    inertia = '<inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/>'
    opened = "".join(
        f"<body {_attributes(joint.origin)}>{inertia}"
        f'<joint type="{"slide" if joint.kind == "prismatic" else "hinge"}" axis="{_text(joint.axis)}"/>'
        for joint in joints
    )
    tool = f'<body name="tool" {_attributes(after)}>{inertia}</body>'
    return (
        '<mujoco><compiler angle="radian"/><worldbody>'
        + opened
        + tool
        + "</body>" * len(joints)
        + "</worldbody></mujoco>"
    )


def _attributes(place: Placement) -> str:
    """As MuJoCo's bodies have them."""
    x, y, z, w = place.rotation.as_quat()
    return f'pos="{_text(place.position)}" quat="{_text([w, x, y, z])}"'


def _text(numbers: ArrayLike) -> str:
    return " ".join(repr(float(x)) for x in np.asarray(numbers))


def _target(position: ArrayLike, quaternion: ArrayLike) -> tuple[Array | None, str]:
    """(7): position and normalised quaternion wxyz; or None and why not."""
    p, q = np.asarray(position, np.float64), np.asarray(quaternion, np.float64)
    if p.shape != (3,) or q.shape != (4,):
        raise ValueError(f"a target of shapes {p.shape} and {q.shape}, (3,) and (4,) expected")
    if not (np.isfinite(p).all() and np.isfinite(q).all()):
        return None, f"the target is {p.tolist()}, {q.tolist()}: finite numbers expected"
    norm = float(np.linalg.norm(q))
    if abs(norm - 1) > 0.01:
        return None, f"the target's quaternion {q.tolist()} has length {norm:.4g}, 1 expected"
    return np.concatenate([p, q[[3, 0, 1, 2]] / norm]), ""
