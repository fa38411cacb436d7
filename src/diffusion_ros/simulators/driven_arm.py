"""The simulated arm as a driver's controller would move it: physics at 500 Hz under laws of our own, without ROS.

:class:`DrivenArm` holds the scene of :class:`~diffusion_ros.simulators.arm.Simulation` and takes robosuite's controller
out: every 2 ms one of the laws here computes the torques. What a driver refuses is in ``driver_rules.py``, what it
makes of trajectories, twists and joint positions in ``joint_setpoints.py``.

Poses are position (3) float64 m and quaternion (4) xyzw. The driver's base frame and its tool frame are those of a
robot's file: `base` says where the simulated arm stands in the driver's base frame, `tool` where the policy's hand
(position: grip site, orientation: hand body) sits in the driver's tool frame. Times are int nanoseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffusion_ros.simulators.arm import Simulation

if TYPE_CHECKING:
    import mujoco

Array = NDArray[np.float64]
Pose = tuple[Array, Array]

STEP_NS = 2_000_000
ROTOR_INERTIA = (0.2, 0.2, 0.2, 0.2, 0.075, 0.075, 0.075)
"""kg m2 seen by each joint. robosuite's Panda has 5 to 0.7: its hand weighs 25 kg sideways, and an impedance law that
fits a real arm would swing. These are of the size that published models of the Panda and the FR3 have."""
VELOCITY_LIMITS = (2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61)
"""rad/s: the Panda's data sheet."""
_LOCK_INERTIA = 1e4
"""kg m2: a locked joint is one that cannot be accelerated, so neither impacts nor the other joints move it."""


def finite(name: str, values: ArrayLike, shape: tuple[int, ...]) -> Array:
    """`values` as float64; raises ValueError unless they have this shape and are finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        expected = " x ".join(map(str, shape))
        raise ValueError(f"{name} {array.tolist()}: expected {expected} finite numbers")
    return array


def unit_quaternion(values: ArrayLike) -> Array:
    """xyzw (4), normalised; raises ValueError unless it is finite and within 1 % of a unit one."""
    quaternion = finite("orientation", values, (4,))
    norm = float(np.linalg.norm(quaternion))
    if abs(norm - 1.0) > 0.01:
        raise ValueError(f"orientation {quaternion.tolist()}: its norm is {norm:.3f}, expected 1")
    return quaternion / norm


def multiply(a: Array, b: Array) -> Array:
    """Product of two quaternions xyzw: first b, then a."""
    ax, ay, az, aw = a.tolist()
    bx, by, bz, bw = b.tolist()
    return np.array(
        (
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
            aw * bw - ax * bx - ay * by - az * bz,
        )
    )


def conjugate(quaternion: Array) -> Array:
    return quaternion * (-1.0, -1.0, -1.0, 1.0)


def turn(quaternion: Array, vector: Array) -> Array:
    """A vector (3) turned by a quaternion xyzw."""
    x, y, z, w = quaternion.tolist()
    a, b, c = vector.tolist()
    tx, ty, tz = 2 * (y * c - z * b), 2 * (z * a - x * c), 2 * (x * b - y * a)
    return np.array((a + w * tx + y * tz - z * ty, b + w * ty + z * tx - x * tz, c + w * tz + x * ty - y * tx))


def rotation_vector(quaternion: Array) -> Array:
    """The shorter rotation vector (3) rad of a quaternion xyzw."""
    if quaternion[3] < 0:
        quaternion = -quaternion
    sine = float(np.sqrt(quaternion[:3] @ quaternion[:3]))
    if sine < 1e-12:
        return 2.0 * quaternion[:3]
    vector: Array = quaternion[:3] * (2.0 * float(np.arctan2(sine, quaternion[3])) / sine)
    return vector


def from_rotation_vector(vector: Array) -> Array:
    """Quaternion (4) xyzw of a rotation vector (3) rad."""
    angle = float(np.sqrt(vector @ vector))
    scale = 0.5 if angle < 1e-9 else float(np.sin(0.5 * angle)) / angle
    return np.append(vector * scale, np.cos(0.5 * angle))


def compose(a: Pose, b: Pose) -> Pose:
    """T_a T_b."""
    return a[0] + turn(a[1], b[0]), multiply(a[1], b[1])


def invert(a: Pose) -> Pose:
    back = conjugate(a[1])
    return -turn(back, a[0]), back


def identity() -> Pose:
    return np.zeros(3), np.array((0.0, 0.0, 0.0, 1.0))


class Controller(Protocol):
    """A law for the arm's torques, called every 2 ms; see :class:`CartesianImpedance` and :class:`JointTracking`."""

    def restart(self, arm: DrivenArm) -> None:
        """Takes the arm's present state as its target: at first, after a reset, when it is put in charge."""

    def torques(self, arm: DrivenArm) -> Array:
        """(7,) Nm for `arm`'s present state; whoever locks joints overwrites theirs."""


class CartesianImpedance:
    """CRISP's Cartesian impedance law: tau = J^T (K e - D v) + nullspace + gravity and Coriolis terms.

    The target is the driver's tool pose in its base frame. It is smoothed by a factor at each cycle of 1 kHz, the error
    is clipped, and the last target is held without a time-out. `stiffness` (6): N/m and Nm/rad in base axes. Damping is
    2 zeta sqrt(K m) with the mass that the tool has where the law takes over. (CRISP's own rule, 2 sqrt(K), suits
    an arm of about 1 kg. This one shows 8 to 17 kg, and swings by 25 mm under it.)
    """

    def __init__(
        self,
        stiffness: Sequence[float] = (2000.0, 2000.0, 2000.0, 100.0, 100.0, 100.0),
        damping_ratio: float = 0.6,
        smoothing: float = 0.1,
        error_clip: tuple[float, float] = (0.1, 0.5),
        nullspace_stiffness: float = 5.0,
    ) -> None:
        self.stiffness = finite("stiffness", stiffness, (6,))
        self.damping_ratio = damping_ratio
        self.damping = np.zeros(6)
        self.smoothing = 1.0 - (1.0 - smoothing) ** (STEP_NS / 1e6)
        self.error_clip = np.repeat(error_clip, 3)
        self.nullspace_stiffness = nullspace_stiffness
        self._target = self._smoothed = identity()
        self._posture = np.zeros(7)

    def restart(self, arm: DrivenArm) -> None:
        self._target = self._smoothed = arm.tool_pose()
        self._posture = arm.arm_positions()
        jacobian = arm.tool_jacobian()[:, arm.free]
        mass = arm.mass_matrix()[np.ix_(arm.free, arm.free)]
        tool_mass = np.linalg.inv(jacobian @ np.linalg.solve(mass, jacobian.T))
        self.damping = 2.0 * self.damping_ratio * np.sqrt(self.stiffness * np.diag(tool_mass))

    def set_target(self, position: ArrayLike, quaternion: ArrayLike) -> None:
        """Where the driver's tool frame shall be in its base frame; raises ValueError and keeps the last one."""
        self._target = finite("position", position, (3,)), unit_quaternion(quaternion)

    def torques(self, arm: DrivenArm) -> Array:
        step = rotation_vector(multiply(self._target[1], conjugate(self._smoothed[1])))
        self._smoothed = (
            self._smoothed[0] + self.smoothing * (self._target[0] - self._smoothed[0]),
            multiply(from_rotation_vector(self.smoothing * step), self._smoothed[1]),
        )
        position, quaternion = arm.tool_pose()
        turned = rotation_vector(multiply(self._smoothed[1], conjugate(quaternion)))
        error = np.concatenate((self._smoothed[0] - position, turned))
        error = np.minimum(np.maximum(error, -self.error_clip), self.error_clip)
        jacobian = arm.tool_jacobian()
        velocities = arm.arm_velocities()
        wrench = self.stiffness * error - self.damping * (jacobian @ velocities)
        posture = self.nullspace_stiffness * (self._posture - arm.arm_positions())
        posture -= 2.0 * np.sqrt(self.nullspace_stiffness) * velocities
        # The part of the posture's torque that the hand does not feel: I - J^T (J J^T)^-1 J, slightly damped.
        inner = jacobian @ jacobian.T
        inner.flat[::7] += 1e-6
        posture -= jacobian.T @ np.linalg.solve(inner, jacobian @ posture)
        torques: Array = jacobian.T @ wrench + posture + arm.bias_torques()
        return torques


class JointSetpoints(Protocol):
    """What a position-controlled arm follows; the classes are in ``joint_setpoints.py``."""

    def restart(self, positions: Array, now_ns: int) -> None:
        """Stay at these joint positions (n,)."""

    def sample(self, now_ns: int) -> tuple[Array, Array, Array]:
        """Positions (n,) rad, velocities (n,) and accelerations (n,) that are due at a time."""


class JointTracking:
    """A position-controlled arm (ros2_control's position interface): tau = M (a + kp e + kd e') + bias.

    `setpoints` says where the free joints shall be. kp is `stiffness` in 1/s2, the damping critical.
    """

    def __init__(self, setpoints: JointSetpoints, stiffness: float = 5000.0) -> None:
        self.setpoints = setpoints
        self.stiffness = stiffness
        self.damping = 2.0 * float(np.sqrt(stiffness))

    def restart(self, arm: DrivenArm) -> None:
        self.setpoints.restart(arm.joint_positions(), arm.time_ns)

    def torques(self, arm: DrivenArm) -> Array:
        free = arm.free
        positions, velocities, accelerations = self.setpoints.sample(arm.time_ns)
        wanted = np.zeros(7)
        wanted[free] = (
            accelerations
            + self.stiffness * (positions - arm.arm_positions()[free])
            + self.damping * (velocities - arm.arm_velocities()[free])
        )
        torques: Array = arm.mass_matrix() @ wanted + arm.bias_torques()
        return torques


class Gripper:
    """Two fingers that go to a commanded width at a limited speed and force, and stop at what is between them.

    Widths are metres between the fingers, 0 to 0.08. `speed` is the width's, m/s: 0.2 crosses the whole stroke in
    0.4 s. Effort is N a finger, 20 at most.
    """

    WIDTH = 0.08
    GAIN = 1000.0
    """N/m of the model's position actuators."""
    EFFORT = 20.0

    def __init__(self, speed: float = 0.2) -> None:
        self.speed = speed
        self._limit = speed
        self._effort = self.EFFORT
        self._goal = self._setpoint = self.width = self.velocity = 0.0
        self._still = 0

    def restart(self, positions: Array) -> None:
        """Stay where the fingers (2) are."""
        self.width = self._goal = self._setpoint = float(positions[0] - positions[1])
        self._limit, self._effort, self._still = self.speed, self.EFFORT, 0

    def command(self, width: float, speed: float | None = None, effort: float | None = None) -> None:
        """A width (m), clipped to the stroke; slower or weaker where asked. Raises ValueError and keeps the last."""
        values = [width, self.speed if speed is None else speed, self.EFFORT if effort is None else effort]
        wanted, limit, force = finite("gripper's width, speed and effort", values, (3,)).tolist()
        if limit <= 0 or force < 0:
            raise ValueError(f"gripper's speed {limit:g} and effort {force:g}: expected above 0, and 0 or more")
        self._goal = min(max(wanted, 0.0), self.WIDTH)
        self._limit = min(limit, self.speed)
        self._effort = min(force, self.EFFORT) or self.EFFORT  # 0 means the driver's own limit, as in GripperCommand
        self._still = 0

    def stop(self) -> None:
        """Stays at the present width."""
        self._goal = self._setpoint = self.width

    @property
    def reached(self) -> bool:
        """Within 3 mm of the commanded width: the fingers' friction alone leaves 2."""
        return abs(self.width - self._goal) < 0.003

    @property
    def stalled(self) -> bool:
        """Has not moved for 0.1 s although it is not there: it holds something."""
        return self._still >= 50 and not self.reached

    def controls(self, fingers: Array, velocities: Array) -> Array:
        """Set-points (2) of both fingers' actuators for their positions (2) m and velocities (2), every 2 ms."""
        self.width, self.velocity = float(fingers[0] - fingers[1]), float(velocities[0] - velocities[1])
        step = self._limit * STEP_NS * 1e-9
        self._setpoint += min(max(self._goal - self._setpoint, -step), step)
        self._still = 0 if self._setpoint != self._goal or abs(self.velocity) > 0.004 else self._still + 1
        reach = self._effort / self.GAIN
        half = 0.5 * self._setpoint
        return np.array(
            (
                min(max(half, fingers[0] - reach), fingers[0] + reach),
                min(max(-half, fingers[1] - reach), fingers[1] + reach),
            )
        )


class DrivenArm:
    """A robosuite scene with a Panda under `controller` and `gripper`, 2 ms a step.

    locked: joints (0 to 6) that are held at the posture's own value, so that the Panda is an arm of fewer joints; they
    are set there at each reset, and neither reported nor commanded. base, tool: see the module. `time_ns` is the
    simulated time; who drives it by a clock sets it once and then only advances.
    """

    def __init__(
        self,
        task: str,
        locked: Sequence[int] = (),
        base: Pose | None = None,
        tool: Pose | None = None,
        cameras: Sequence[str] | None = None,
        rotor_inertia: Sequence[float] = ROTOR_INERTIA,
        start_ns: int = 0,
    ) -> None:
        """Raises ValueError for an unknown task, camera or joint."""
        wrong = [joint for joint in locked if joint not in range(7)]
        if wrong or len(set(locked)) > 1:
            raise ValueError(f"locked joints {list(locked)}: expected at most one, 0 to 6")
        self.simulation = Simulation(task) if cameras is None else Simulation(task, tuple(cameras))
        import mujoco

        self._mj: Any = mujoco
        simulation = self.simulation
        self.model: mujoco.MjModel = simulation.model
        self.data: mujoco.MjData = simulation.data
        self.time_ns = start_ns
        self.locked = tuple(locked)
        self.free = np.array([joint for joint in range(7) if joint not in self.locked])
        self.base = identity() if base is None else (finite("base", base[0], (3,)), unit_quaternion(base[1]))
        self.tool = identity() if tool is None else (finite("tool", tool[0], (3,)), unit_quaternion(tool[1]))
        self.joint_names = [simulation.joint_names[i] for i in self.free]
        """Of the free joints, in the simulator's names."""
        self._q = simulation.qpos_indices[:7]
        self._v = simulation.qvel_indices[:7]
        self._fingers = simulation.qpos_indices[7:], simulation.qvel_indices[7:]
        self._arm_actuators = self._actuators(self._q)
        self._finger_actuators = self._actuators(self._fingers[0])
        self.torque_limits = self.model.actuator_ctrlrange[self._arm_actuators].copy()
        self.limits = self.model.jnt_range[[self.model.joint(name).id for name in self.joint_names]].copy()
        """(n, 2) rad, of the free joints."""
        self.velocity_limits = np.array(VELOCITY_LIMITS)[self.free]
        self.posture = np.array(simulation.env.robots[0].init_qpos, dtype=np.float64)
        """(7,) rad that resets scatter about; a locked joint has exactly its value."""
        self._site, self._hand = simulation.grip_site, simulation.hand_body
        root = self.model.body("robot0_base").id
        world = self.data.xpos[root].copy(), self._rotation(self.data.xquat[root])
        self._driver: Pose = compose(self.base, invert(world))
        """The world in the driver's base frame."""
        self._driver_matrix = self._matrix(self._driver[1])
        self._hand_to_tool = invert(self.tool)
        self._tool_offset = self._hand_to_tool[0]
        armature = self.model.dof_armature.copy()
        armature[self._v] = finite("rotor inertia", rotor_inertia, (7,))
        armature[self._v[list(self.locked)]] = _LOCK_INERTIA
        self.model.dof_armature[:] = armature
        self._look = mujoco.MjData(self.model)
        mujoco.mj_setConst(self.model, self._look)  # how stiff contacts are depends on the inertia
        self._mass = np.zeros((self.model.nv, self.model.nv))
        self._translation = np.zeros((3, self.model.nv))
        self._turning = np.zeros((3, self.model.nv))
        self.gripper = Gripper()
        self._controller: Controller | None = None
        self.reset(0)

    # -- in time ----------------------------------------------------------------------------------------------------

    @property
    def controller(self) -> Controller | None:
        """The law in charge. Without one the arm only carries its own weight."""
        return self._controller

    @controller.setter
    def controller(self, controller: Controller | None) -> None:
        self._controller = controller
        if controller is not None:
            controller.restart(self)

    def reset(self, seed: int) -> None:
        """The start state of `seed`, as Simulation.reset draws it (but for a locked joint). Time goes on."""
        self.simulation.reset(seed)
        for joint in self.locked:
            self.data.qpos[self._q[joint]] = self.posture[joint]
        self._mj.mj_forward(self.model, self.data)
        self.gripper.restart(self.data.qpos[self._fingers[0]])
        self.controller = self._controller

    def advance(self, substeps: int = 1) -> None:
        """`substeps` times 2 ms."""
        for _ in range(substeps):
            self.step()

    def step(self) -> None:
        """2 ms of physics under the controller and the gripper."""
        model, data = self.model, self.data
        self._mj.mj_step1(model, data)
        torques = self.bias_torques() if self._controller is None else self._controller.torques(self)
        if self.locked:
            joints = list(self.locked)
            error = self.posture[joints] - data.qpos[self._q[joints]]
            torques[joints] = self.bias_torques()[joints] + _LOCK_INERTIA * (
                100.0 * error - 20.0 * data.qvel[self._v[joints]]
            )
        limits = self.torque_limits
        data.ctrl[self._arm_actuators] = np.minimum(np.maximum(torques, limits[:, 0]), limits[:, 1])
        fingers, speeds = self._fingers
        data.ctrl[self._finger_actuators] = self.gripper.controls(data.qpos[fingers], data.qvel[speeds])
        self._mj.mj_step2(model, data)
        self.time_ns += STEP_NS

    # -- what a driver reports --------------------------------------------------------------------------------------

    def joint_positions(self) -> Array:
        """(n,) rad of the free joints."""
        return np.array(self.data.qpos[self._q[self.free]])

    def joint_velocities(self) -> Array:
        """(n,) rad/s of the free joints."""
        return np.array(self.data.qvel[self._v[self.free]])

    def finger_positions(self) -> Array:
        """(2,) m as the policies know them: the first 0 to 0.04, the second -0.04 to 0."""
        return np.array(self.data.qpos[self._fingers[0]])

    def hand_pose(self) -> Pose:
        """The policy's hand in the driver's base frame, in the state that the law sees (one step old after a step)."""
        hand = self.data.site_xpos[self._site], self._rotation(self.data.xquat[self._hand])
        return compose(self._driver, hand)

    def tool_pose(self) -> Pose:
        """The driver's tool frame in its base frame."""
        return compose(self.hand_pose(), self._hand_to_tool)

    def measured_pose(self) -> Pose:
        """:meth:`tool_pose` of the positions at `time_ns` exactly: what a driver publishes."""
        return self.pose_of(self.joint_positions())

    def hand_in_world(self) -> Pose:
        """The hand as Simulation.observe has it: in the scene's frame, at `time_ns`."""
        self._mj.mj_kinematics(self.model, self._posed(self.joint_positions()))
        return self._look.site_xpos[self._site].copy(), self._rotation(self._look.xquat[self._hand])

    @property
    def success(self) -> bool:
        """robosuite's own test of success."""
        return self.simulation.success

    # -- what laws are made of --------------------------------------------------------------------------------------

    def arm_positions(self) -> Array:
        """(7,) rad, locked joints too."""
        return np.array(self.data.qpos[self._q])

    def arm_velocities(self) -> Array:
        """(7,) rad/s, locked joints too."""
        return np.array(self.data.qvel[self._v])

    def bias_torques(self) -> Array:
        """(7,) Nm of gravity, Coriolis and centrifugal forces."""
        return np.array(self.data.qfrc_bias[self._v])

    def mass_matrix(self) -> Array:
        """(7, 7) kg m2."""
        self._mj.mj_fullM(self.model, self._mass, self.data.qM)
        return self._mass[self._v[0] : self._v[0] + 7, self._v[0] : self._v[0] + 7]

    def tool_jacobian(self) -> Array:
        """(6, 7): velocity of the tool frame's origin and its angular velocity, in base axes; 0 for locked joints."""
        return self._jacobian(self.data)

    def pose_of(self, positions: Array) -> Pose:
        """Tool pose in the base frame for joint positions (n,) of the free joints."""
        view = self._posed(positions)
        self._mj.mj_kinematics(self.model, view)
        hand = view.site_xpos[self._site].copy(), self._rotation(view.xquat[self._hand])
        return compose(compose(self._driver, hand), self._hand_to_tool)

    def jacobian_of(self, positions: Array) -> Array:
        """(6, n) like :meth:`tool_jacobian`, for joint positions (n,) of the free joints."""
        view = self._posed(positions)
        self._mj.mj_kinematics(self.model, view)
        self._mj.mj_comPos(self.model, view)
        return self._jacobian(view)[:, self.free]

    def _posed(self, positions: Array) -> mujoco.MjData:
        self._look.qpos[:] = self.data.qpos
        self._look.qpos[self._q[self.free]] = positions
        return self._look

    def _jacobian(self, data: mujoco.MjData) -> Array:
        self._mj.mj_jacSite(self.model, data, self._translation, self._turning, self._site)
        first = self._v[0]
        turning = self._turning[:, first : first + 7]
        translation = self._translation[:, first : first + 7]
        jacobian = np.empty((6, 7))
        if self._tool_offset.any():
            x, y, z = turn(self._rotation(data.xquat[self._hand]), self._tool_offset).tolist()
            translation = translation + np.array(((0.0, z, -y), (-z, 0.0, x), (y, -x, 0.0))) @ turning
        jacobian[:3] = self._driver_matrix @ translation
        jacobian[3:] = self._driver_matrix @ turning
        for joint in self.locked:
            jacobian[:, joint] = 0.0
        return jacobian

    def _actuators(self, addresses: NDArray[np.int_]) -> NDArray[np.int_]:
        joints = self.model.actuator_trnid[:, 0]
        of = {int(self.model.jnt_qposadr[joint]): i for i, joint in enumerate(joints)}
        return np.array([of[int(address)] for address in addresses])

    @staticmethod
    def _rotation(wxyz: Array) -> Array:
        return np.array((wxyz[1], wxyz[2], wxyz[3], wxyz[0]))

    def _matrix(self, quaternion: Array) -> Array:
        return np.stack([turn(quaternion, axis) for axis in np.eye(3)], axis=1)

    def close(self) -> None:
        """Frees the OpenGL contexts."""
        self.simulation.close()
