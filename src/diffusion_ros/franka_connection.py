"""A Franka arm and its hand over the robot's own network interface (FCI): the only file that knows franka-rs.

franka-rs keeps the 1 kHz loop on a thread of its own, without Python, and shapes the way to each target so that it
stays within limits of speed, acceleration and jerk.

Tested on a simulator of the protocol only, never on an arm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from diffusion_ros import installation

Array = NDArray[np.float64]

JOINTS = 7
MAX_WIDTH = 0.08
"""Metres between the fingers of a Franka Hand that is open."""
MOVABLE = ("idle", "move")
"""Modes in which the arm obeys. In any other it has stopped, or a person has it."""


class ArmError(RuntimeError):
    """What the arm, or the connection to it, said; one line."""


@dataclass(frozen=True)
class MotionLimits:
    """How franka-rs shapes the way to a target, and how far and hard the arm follows."""

    linear: float = 0.6
    """m/s; likewise per s^2 and s^3."""
    linear_acceleration: float = 4.0
    linear_jerk: float = 500.0
    angular: float = 2.0
    """rad/s; likewise per s^2 and s^3. Translation and rotation end together: the slower one decides for both."""
    angular_acceleration: float = 10.0
    angular_jerk: float = 1000.0
    deviation: float = 1.0
    """m from where the motion began, beyond which franka-rs ends it; `angular_deviation` in rad."""
    angular_deviation: float = 3.0
    stiffness: float = 750.0
    """N/m of the spring between hand and target."""
    leash: tuple[float, float] = (0.05, 0.3)
    """m and rad that the shaped target may be ahead of the hand: with the stiffness it bounds the force on what holds
    the hand."""


@dataclass(frozen=True)
class ArmState:
    """One state of the arm."""

    time: float
    """Seconds of the robot's clock."""
    joints: Array
    """(7) rad."""
    velocities: Array
    """(7) rad/s."""
    position: Array
    """(3) m of the end effector as Desk has it, in the arm's base; `quaternion` (4) xyzw."""
    quaternion: Array
    mode: str
    errors: tuple[str, ...]
    success_rate: float
    """Share of the last 100 commands that came in time, 0 while nothing moves."""
    tool: Array
    """(4, 4) the end effector in the flange, as Desk has it."""


class Connection(Protocol):
    """What FrankaConnection is, and what tests put in its place. All methods raise ArmError."""

    def state(self) -> ArmState: ...
    def begin(self) -> None: ...
    def move_to(self, position: Array, quaternion: Array) -> None: ...
    def running(self) -> bool: ...
    def end(self) -> None: ...
    def recover(self) -> None: ...
    def hand(self) -> HandConnection: ...


class HandConnection(Protocol):
    """What FrankaHand is, likewise."""

    def width(self) -> float: ...
    def move(self, width: float, speed: float) -> bool: ...
    def grasp(self, width: float, speed: float, force: float) -> bool: ...
    def stop(self) -> bool: ...


class FrankaConnection:
    """franka.Robot and its Cartesian target control, for one thread, except for `move_to`."""

    def __init__(self, host: str, realtime: str, limits: MotionLimits) -> None:
        """host: the robot's address; realtime: 'enforce' or 'ignore' (without a real-time kernel). Raises ArmError."""
        self._franka = library()
        self._limits = limits
        self._targets: Any = None
        self._robot = self._try(lambda: self._franka.Robot(host, realtime=realtime))

    def _try(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (self._franka.FrankaError, ValueError) as error:
            raise ArmError(" ".join(str(error).split())) from None

    def state(self) -> ArmState:
        """The next state; while the arm moves, the newest."""
        targets = self._targets
        state = self._try(self._robot.read_once if targets is None else targets.state)
        pose = np.asarray(state.O_T_EE, np.float64)
        return ArmState(
            time=float(state.time),
            joints=np.array(state.q, np.float64),
            velocities=np.array(state.dq, np.float64),
            position=pose[:3, 3].copy(),
            quaternion=Rotation.from_matrix(pose[:3, :3]).as_quat(),
            mode=str(state.robot_mode),
            errors=tuple(state.current_errors) or (tuple(state.last_motion_errors) if _ended(state) else ()),
            success_rate=float(state.control_command_success_rate),
            tool=np.array(state.F_T_EE, np.float64),
        )

    def begin(self) -> None:
        """Starts the loop that follows targets; the first target is where the arm is."""
        p = self._limits
        self._targets = self._try(
            lambda: self._robot.cartesian_targets(
                max_velocity=p.linear,
                max_acceleration=p.linear_acceleration,
                max_jerk=p.linear_jerk,
                max_angular_velocity=p.angular,
                max_angular_acceleration=p.angular_acceleration,
                max_angular_jerk=p.angular_jerk,
                max_deviation=p.deviation,
                max_angular_deviation=p.angular_deviation,
                cartesian_stiffness=p.stiffness,
                leash=p.leash,
            )
        )

    def move_to(self, position: Array, quaternion: Array) -> None:
        """A new target, position (3) m and quaternion (4) xyzw; returns at once."""
        targets = self._targets
        if targets is not None:
            self._try(lambda: targets.move_to(np.concatenate([position, quaternion])))

    def running(self) -> bool:
        """Whether the loop that `begin` started still runs."""
        return self._targets is not None and bool(self._targets.running)

    def end(self) -> None:
        """Goes to the last target, stands there and ends the loop. Raises ArmError with the reason where the loop has
        ended by itself."""
        targets, self._targets = self._targets, None
        if targets is not None:
            self._try(targets.stop)

    def recover(self) -> None:
        """Lifts what a reflex has locked."""
        self._try(self._robot.automatic_error_recovery)

    def hand(self) -> FrankaHand:
        """Raises ArmError where the arm has none."""
        return FrankaHand(self._try(self._robot.gripper), self._try)


class FrankaHand:
    """franka.Gripper. `width` may be read while another thread waits for the end of a command."""

    def __init__(self, gripper: Any, call: Callable[[Callable[[], Any]], Any]) -> None:
        self._gripper, self._try = gripper, call

    def width(self) -> float:
        """Metres between the fingers, from the hand's next state."""
        return float(self._try(self._gripper.read_once).width)

    def move(self, width: float, speed: float) -> bool:
        return bool(self._try(lambda: self._gripper.move(width, speed)))

    def grasp(self, width: float, speed: float, force: float) -> bool:
        """Closes to `width` and holds whatever is between the fingers, at any width: it is what they close for."""
        return bool(self._try(lambda: self._gripper.grasp(width, speed, force, MAX_WIDTH, MAX_WIDTH)))

    def stop(self) -> bool:
        return bool(self._try(self._gripper.stop))


def _ended(state: Any) -> bool:
    return str(state.robot_mode) not in MOVABLE


def library() -> ModuleType:
    """franka-rs. Raises ModuleNotFoundError."""
    installation.require("franka")
    import franka

    module: ModuleType = franka
    return module
