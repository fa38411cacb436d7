"""What position-controlled arms make of their inputs: trajectories, twists and poses, bare joint positions.

Each class is a source of :class:`~diffusion_ros.simulators.driven_arm.JointTracking`: `restart` at joint positions,
then `sample` at rising times. Joints are (n,) rad, times int ns.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffusion_ros.simulators.driven_arm import Array, DrivenArm, conjugate, finite, multiply, rotation_vector, turn
from diffusion_ros.simulators.driven_arm import unit_quaternion as unit

OK, APPROACHES_SINGULARITY, HALT_SINGULARITY, LEAVES_SINGULARITY, JOINT_BOUND, INVALID = 0, 1, 2, 3, 6, -1
"""MoveIt Servo's status numbers; 4 and 5 are collisions, which it does not look for here."""


class ForwardPositions:
    """forward_command_controller: joint positions as they come, without interpolation and without a time-out."""

    def __init__(self) -> None:
        self._positions = np.zeros(0)

    def restart(self, positions: Array, now_ns: int) -> None:
        self._positions = positions.copy()

    def command(self, positions: ArrayLike) -> None:
        """(n,) rad; raises ValueError and keeps the last ones."""
        self._positions = finite("joint positions", positions, self._positions.shape)

    def sample(self, now_ns: int) -> tuple[Array, Array, Array]:
        still = np.zeros_like(self._positions)
        return self._positions, still, still


class TrajectoryInterpolator:
    """joint_trajectory_controller: splines through the points of a trajectory, from the desired state.

    A segment is linear where its end has positions only, cubic with velocities, quintic with accelerations too. A new
    trajectory replaces the one before at once. After the last point it stays there.
    """

    def __init__(self) -> None:
        self._times: NDArray[np.int64] = np.zeros(1, dtype=np.int64)
        self._states = np.zeros((1, 3, 0))
        self._order = 1

    def restart(self, positions: Array, now_ns: int) -> None:
        self._times = np.array([now_ns])
        self._states = np.zeros((1, 3, len(positions)))
        self._states[0, 0] = positions
        self._order = 1

    def command(
        self,
        now_ns: int,
        times_ns: ArrayLike,
        positions: ArrayLike,
        velocities: ArrayLike | None = None,
        accelerations: ArrayLike | None = None,
        start_ns: int = 0,
    ) -> None:
        """Points (N, n) at `times_ns` (N,) after `start_ns`, 0 for now.

        Raises ValueError and keeps the last trajectory. What the controller refuses beside: driver_rules.trajectory.
        """
        times = np.asarray(times_ns, dtype=np.int64)
        shape = (len(times), self._states.shape[2])
        points = np.zeros((len(times), 3, shape[1]))
        for i, (name, values) in enumerate(
            (("positions", positions), ("velocities", velocities), ("accelerations", accelerations))
        ):
            if values is not None:
                points[:, i] = finite(f"a trajectory's {name}", values, shape)
        if not len(times) or (np.diff(times) <= 0).any():
            raise ValueError(f"a trajectory's times {times.tolist()}: expected rising ones")
        present = np.stack(self.sample(now_ns))
        self._states = np.concatenate((present[None], points))
        self._times = np.concatenate(([now_ns], times + (start_ns or now_ns)))
        self._order = 1 if velocities is None else 3 if accelerations is None else 5

    @property
    def end_ns(self) -> int:
        """When the last point is reached."""
        return int(self._times[-1])

    def sample(self, now_ns: int) -> tuple[Array, Array, Array]:
        # Points of a trajectory that began in the past are skipped; the present state only leads to a first point
        # that is still ahead.
        later = np.flatnonzero(self._times[1:] > now_ns)
        if not len(later):
            still = np.zeros(self._states.shape[2])
            return self._states[-1, 0], still, still
        after = int(later[0]) + 1
        start, end = self._states[after - 1], self._states[after]
        duration = float(self._times[after] - self._times[after - 1]) * 1e-9
        s = float(now_ns - self._times[after - 1]) * 1e-9
        (p0, v0, a0), (p1, v1, a1) = start, end
        step = p1 - p0
        if self._order == 1:
            return p0 + step * (s / duration), step / duration, np.zeros_like(step)
        if self._order == 3:
            c2 = 3 * step / duration**2 - (2 * v0 + v1) / duration
            c3 = -2 * step / duration**3 + (v0 + v1) / duration**2
            coefficients = np.stack((p0, v0, c2, c3))
        else:
            T = duration
            c3 = (20 * step - (8 * v1 + 12 * v0) * T - (3 * a0 - a1) * T**2) / (2 * T**3)
            c4 = (-30 * step + (14 * v1 + 16 * v0) * T + (3 * a0 - 2 * a1) * T**2) / (2 * T**4)
            c5 = (12 * step - 6 * (v1 + v0) * T - (a0 - a1) * T**2) / (2 * T**5)
            coefficients = np.stack((p0, v0, 0.5 * a0, c3, c4, c5))
        n = np.arange(len(coefficients))
        powers = s**n
        position = powers @ coefficients
        velocity = (n[1:] * powers[:-1]) @ coefficients[1:]
        acceleration = (n[2:] * n[1:-1] * powers[:-2]) @ coefficients[2:]
        return position, velocity, acceleration


class ServoLoop:
    """MoveIt Servo: twists or target poses become joint positions, every `period_ns`.

    A command is obeyed while it is younger than `timeout_ns` (None: for ever, as Kinova's twist controller does).
    Speeds above the caps are scaled down without a word. Towards a singularity it slows down from condition number
    `singularity[0]` on and halts at `singularity[1]`; at `margin` rad before a joint's limit it halts. `status` has
    Servo's numbers.
    """

    def __init__(
        self,
        arm: DrivenArm,
        linear_cap: float = 0.4,
        angular_cap: float = 0.8,
        singularity: tuple[float, float] = (17.0, 30.0),
        margin: float = 0.1,
        timeout_ns: int | None = 100_000_000,
        period_ns: int = 10_000_000,
        pose_gain: float = 10.0,
        damping: float = 1e-3,
    ) -> None:
        self._arm = arm
        self.caps = linear_cap, angular_cap
        self.singularity = singularity
        self.margin = margin
        self.timeout_ns = timeout_ns
        self.period_ns = period_ns
        self.pose_gain = pose_gain
        self.damping = damping
        self.status = OK
        self.condition = 0.0
        self._positions = self._velocities = np.zeros(len(arm.free))
        self._updated_ns = 0
        self._stamp_ns = 0
        self._wanted: Callable[[], Array] | None = None

    def restart(self, positions: Array, now_ns: int) -> None:
        self._positions, self._velocities = positions.copy(), np.zeros_like(positions)
        self._updated_ns = now_ns
        self._wanted, self.status = None, OK

    def twist(self, twist: ArrayLike, stamp_ns: int, in_tool: bool = False) -> None:
        """(6,) m/s and rad/s of the tool's origin, in axes of the base or of the tool itself."""
        values = finite("twist", twist, (6,))

        def wanted() -> Array:
            if not in_tool:
                return values
            quaternion = self._arm.pose_of(self._positions)[1]
            return np.concatenate((turn(quaternion, values[:3]), turn(quaternion, values[3:])))

        self._wanted, self._stamp_ns = wanted, stamp_ns

    def pose(self, position: ArrayLike, quaternion: ArrayLike, stamp_ns: int) -> None:
        """Where the tool shall be in the base frame."""
        goal = finite("position", position, (3,)), unit(quaternion)

        def wanted() -> Array:
            here = self._arm.pose_of(self._positions)
            turned = rotation_vector(multiply(goal[1], conjugate(here[1])))
            return self.pose_gain * np.concatenate((goal[0] - here[0], turned))

        self._wanted, self._stamp_ns = wanted, stamp_ns

    def halt(self) -> None:
        """Stays where it is until the next command."""
        self._wanted = None

    def sample(self, now_ns: int) -> tuple[Array, Array, Array]:
        while now_ns - self._updated_ns >= self.period_ns:
            self._positions = self._positions + self._velocities * self.period_ns * 1e-9
            self._updated_ns += self.period_ns
            self._velocities = self._cycle(self._updated_ns)
        since = (now_ns - self._updated_ns) * 1e-9
        return self._positions + self._velocities * since, self._velocities, np.zeros_like(self._positions)

    def _cycle(self, now_ns: int) -> Array:
        """Joint velocities (n,) for the next period."""
        still = np.zeros_like(self._positions)
        if self._wanted is None or (self.timeout_ns is not None and now_ns - self._stamp_ns >= self.timeout_ns):
            return still
        twist = self._wanted().copy()
        self.status = OK
        if not twist.any():
            return still
        for part, cap in zip((slice(0, 3), slice(3, 6)), self.caps, strict=True):
            twist[part] = twist[part] * min(1.0, cap / max(float(np.linalg.norm(twist[part])), 1e-9))
        jacobian = self._arm.jacobian_of(self._positions)
        u, s, vt = np.linalg.svd(jacobian, full_matrices=False)
        velocities: Array = vt.T @ (s / (s**2 + self.damping**2) * (u.T @ twist))
        velocities = velocities * self._near_singularity(float(s[0] / max(s[-1], 1e-9)), velocities)
        fastest = float((np.abs(velocities) / self._arm.velocity_limits).max())
        velocities = velocities / max(fastest, 1.0)
        low, high = self._arm.limits.T + np.array(((self.margin,), (-self.margin,)))
        ahead = self._positions + velocities * self.period_ns * 1e-9
        if (((ahead < low) & (velocities < 0)) | ((ahead > high) & (velocities > 0))).any():
            self.status = JOINT_BOUND
            return still
        return velocities

    def _near_singularity(self, condition: float, velocities: Array) -> float:
        """The factor (0 to 1) that remains of a motion."""
        self.condition = condition
        slow, halt = self.singularity
        if condition <= slow:
            return 1.0
        step = velocities * (0.01 / max(float(np.abs(velocities).max()), 1e-9))
        ahead = float(np.linalg.cond(self._arm.jacobian_of(self._positions + step)))
        if ahead <= condition:
            self.status = LEAVES_SINGULARITY
            return 1.0
        if condition >= halt:
            self.status = HALT_SINGULARITY
            return 0.0
        self.status = APPROACHES_SINGULARITY
        return 1.0 - (condition - slow) / (halt - slow)
