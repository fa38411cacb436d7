"""A Franka arm and its hand over the robot's own network interface (FCI): the only file that knows franka-rs.

franka-rs keeps the 1 kHz loop on a thread of its own, without Python, and shapes the way to each target so that it
stays within limits of speed, acceleration and jerk. What is here decides when that loop may run: it begins with the
first target, ends when targets stay away, and after anything that ended it badly nothing moves until a person says so.

Tested on a simulator of the protocol only, never on an arm.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from diffusion_ros import installation

Array = NDArray[np.float64]

JOINTS = 7
MAX_WIDTH = 0.08
"""Metres between the fingers of a Franka Hand that is open."""
GRIP_WIDTH = 0.01
"""Metres below which a goal means: close, and hold what is there. Others are widths to go to."""
PERIOD = 0.01
"""Seconds of the robot's own time between two states that are told."""
MOVABLE = ("idle", "move")
"""Modes in which the arm obeys. In any other it has stopped, or a person has it."""
_STALE_SECONDS = 1.0
_RETRY_SECONDS = 1.0
_REQUEST_SECONDS = 15.0
_POLL_SECONDS = 0.002
_BRAKE_SECONDS = 1.0
_HAND_SECONDS = 2.0
_HALT_SECONDS = 0.02
_SHORT_SECONDS = 1e-3
_SAME_WIDTH = 1e-3
_STILL = 0.02
"""rad/s of all joints together below which the arm stands."""


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


@dataclass(eq=False)
class _Recovery:
    """A person's call of `recover`. Whoever answers first decides, under the lock: the arm, the end of the wait for it,
    or a stop. Once answered, it has no effect any more."""

    answer: str | None = None
    """'' or why the arm was not recovered."""
    answered: threading.Event = field(default_factory=threading.Event)


class Franka:
    """Keeps the connection, tells states, and moves the arm as long as nothing speaks against it.

    All talk with the arm is a thread's, started by `start`. `blocked` says why the arm must not move; it stays until
    `recover`, which is for a person to call.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        told: Callable[[ArmState], None] = lambda state: None,
        silence: float = 1.0,
    ) -> None:
        """connect: makes a connection, or raises ArmError; told: called with each state, by the thread;
        silence: seconds without a target after which a motion is ended."""
        self._connect, self._told, self._silence = connect, told, silence
        self.state: ArmState | None = None
        """The newest, None while there is no connection."""
        self._state_came = float("-inf")
        self.blocked = ""
        """'' or why the arm must not move."""
        self.problem = "not connected yet"
        """'' or what is wrong with the connection."""
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        self._target: tuple[Array, Array] | None = None
        self._target_came = 0.0
        self._moving = False
        self._brake = False
        self._recoveries: list[_Recovery] = []
        """Those without an answer."""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="franka", daemon=True)

    # What the node calls

    def start(self) -> None:
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether a target would move the arm."""
        state = self.state
        fresh = time.monotonic() - self._state_came < _STALE_SECONDS
        return not self.blocked and not self.problem and fresh and state is not None and state.mode in MOVABLE

    @property
    def moving(self) -> bool:
        """Whether the arm follows targets."""
        return self._moving

    def target(self, position: ArrayLike, quaternion: ArrayLike) -> None:
        """Where the hand is to be: position (3) m, quaternion (4) xyzw, in the arm's base. Without effect where the arm
        is not ready."""
        turn = np.asarray(quaternion, np.float64)
        with self._lock:
            if not self.ready:
                return
            self._target = np.array(position, np.float64), turn / np.linalg.norm(turn)
            self._target_came = time.monotonic()
            if self._moving and self._connection is not None:
                try:
                    self._connection.move_to(*self._target)
                except ArmError:
                    pass  # the thread will find out why

    def stop(self, reason: str) -> None:
        """Brakes and stands; nothing moves until `recover`."""
        with self._lock:
            if not self.blocked:
                self.blocked = reason
            self._target = None
            self._brake = True
            for recovery in list(self._recoveries):
                self._answer(recovery, f"not recovered: {reason}")

    def recover(self) -> str:
        """A person says that the arm may move again: lifts a reflex. Returns '' or why it cannot; waits for the arm.
        What has not answered by then lifts nothing afterwards."""
        recovery = _Recovery()
        with self._lock:
            self._recoveries.append(recovery)
        if not recovery.answered.wait(_REQUEST_SECONDS):
            with self._lock:
                self._answer(recovery, f"no answer from the arm within {_REQUEST_SECONDS:g} s; nothing is lifted")
        assert recovery.answer is not None
        return recovery.answer

    def hand(self) -> HandConnection:
        """Raises ArmError."""
        connection = self._connection
        if connection is None:
            raise ArmError(self.problem)
        return connection.hand()

    def close(self) -> None:
        """Brakes, stands and lets go of the arm."""
        self.stop("closing")
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(_REQUEST_SECONDS)

    def _answer(self, recovery: _Recovery, answer: str) -> bool:
        """Whether this is the answer, and not another one that was there before. To be called with the lock."""
        if recovery.answer is not None:
            return False
        recovery.answer = answer
        self._recoveries.remove(recovery)
        recovery.answered.set()
        return True

    # The thread

    def _run(self) -> None:
        due = 0.0
        while not self._closing.is_set():
            try:
                if self._connection is None:
                    self._connection = self._connect()
                    due = 0.0
                state = self._step()
            except (ArmError, ModuleNotFoundError) as error:
                self._lost(str(error))
                self._recover()
                self._closing.wait(_RETRY_SECONDS)
                continue
            self._recover()
            if state.time >= due or state.time < due - 2 * PERIOD:  # its clock begins anew with a new connection
                due = max(due + PERIOD, state.time + PERIOD / 2) if due else state.time + PERIOD
                self._told(state)
        try:
            if self._connection is not None and self._moving:
                self._stand()
        except ArmError:
            pass

    def _step(self) -> ArmState:
        """Begins or ends a motion where that is due, and reads a state."""
        assert self._connection is not None
        if self._moving:
            self._watch()
        elif self._wanted():
            self._begin()
        if self._moving:
            time.sleep(_POLL_SECONDS)
        state = self._connection.state()
        self._notice(state)
        return state

    def _wanted(self) -> bool:
        with self._lock:
            return self._target is not None and self.ready

    def _begin(self) -> None:
        assert self._connection is not None
        try:
            self._connection.begin()
        except ArmError as error:
            self._block(f"the arm cannot move: {error}")
            return
        with self._lock:
            self._moving = True  # a stop since the target came has asked to brake: that stays
            if self._target is not None and not self.blocked:
                self._connection.move_to(*self._target)

    def _watch(self) -> None:
        assert self._connection is not None
        if not self._connection.running():
            reason = "the motion ended"
            try:
                self._connection.end()
            except ArmError as error:
                reason = str(error)
            self._ended(f"the arm has stopped: {reason}")
            return
        with self._lock:
            silent = time.monotonic() - self._target_came > self._silence
            stop = silent or self._brake
        if stop:
            self._stand()

    def _stand(self) -> None:
        """Ends a motion where the arm is: the last target may be some way ahead of it."""
        assert self._connection is not None
        with self._lock:
            # What comes from here on is for the next motion: `end` would go to it, whatever is said meanwhile.
            self._target, self._moving = None, False
            brake, self._brake = self._brake, False
            if brake and self.state is not None:
                self._connection.move_to(self.state.position, self.state.quaternion)
        began = time.monotonic()
        while brake and self._connection.running() and time.monotonic() - began < _BRAKE_SECONDS:
            time.sleep(_POLL_SECONDS)
            if np.linalg.norm(self._connection.state().velocities) < _STILL:
                break
        try:
            self._connection.end()
        except ArmError as error:
            self._ended(f"the arm has stopped: {error}")

    def _notice(self, state: ArmState) -> None:
        if self.state is None or state.time != self.state.time:
            self._state_came = time.monotonic()
        self.state, self.problem = state, ""
        if state.mode not in MOVABLE:
            self._block(said(state.mode, state.errors))

    def _block(self, reason: str) -> None:
        with self._lock:
            self._target = None
            if not self.blocked:
                self.blocked = reason

    def _ended(self, reason: str) -> None:
        self._moving = False
        self._block(reason)

    def _lost(self, reason: str) -> None:
        if self._connection is not None:  # it was there: who knows what has happened meanwhile
            self._block(f"the connection was lost: {reason}")
        with self._lock:  # `target` may be using the connection
            self._connection, self.state, self._moving = None, None, False
            self.problem = reason

    def _recover(self) -> None:
        """Does what persons have asked for."""
        with self._lock:
            recoveries = list(self._recoveries)
        for recovery in recoveries:
            if recovery.answer is not None:
                continue
            try:
                problem = self._lift(recovery)
            except ArmError as error:
                problem = str(error)
            with self._lock:
                self._answer(recovery, problem)

    def _lift(self, recovery: _Recovery) -> str:
        if self._connection is None:
            return f"no connection: {self.problem}"
        if self._moving:
            return "it moves already" if not self.blocked else "it is still stopping"
        if self.state is None or self.state.mode not in MOVABLE or self.state.errors:
            self._connection.recover()
        state = self._connection.state()
        if state.mode not in MOVABLE:
            return f"{said(state.mode, state.errors)}; not lifted"
        with self._lock:
            if self._answer(recovery, ""):
                self.state, self.blocked, self._target, self._brake = state, "", None, False
        return ""


def said(mode: str, errors: tuple[str, ...]) -> str:
    """A mode in which the arm does not obey, and why, for people."""
    meaning = {
        "reflex": "the arm has stopped by a reflex",
        "user_stopped": "the arm's user stop is pressed",
        "guiding": "the arm is guided by hand",
    }.get(mode, f"the arm is in mode {mode}")
    return f"{meaning}: {', '.join(errors)}" if errors else meaning


@dataclass(frozen=True)
class HandLimits:
    """How the hand moves its fingers."""

    speed: float = 0.1
    """m/s."""
    force: float = 20.0
    """N with which it closes."""


@dataclass(frozen=True)
class HandState:
    """Width between the fingers [m] and how fast it grows [m/s]."""

    width: float
    rate: float


class Hand:
    """The hand's fingers: one goal at a time, and their width meanwhile. Three threads: a command waits for its end,
    and a stop must not wait for either."""

    def __init__(
        self,
        connect: Callable[[], HandConnection],
        limits: HandLimits,
        blocked: Callable[[], str] = lambda: "",
    ) -> None:
        """connect: to the hand, or raises ArmError; blocked: '' or why no goal may begin."""
        self._connect, self._limits, self._blocked = connect, limits, blocked
        self.state: HandState | None = None
        """The newest, None while there is no connection."""
        self.problem = "not connected yet"
        """'' or what is wrong with the connection."""
        self.result = ""
        """'' or why the last goal was not reached."""
        self._connection: HandConnection | None = None
        self._condition = threading.Condition()  # its lock is one that a thread can take twice
        self._goal: float | None = None
        self._last: float | None = None
        self._busy = False
        self._dropped = ""
        """Why the goal after the one that the fingers are busy with never begins: it was the last."""
        self._stopping = False
        """Whether the goal that the fingers are busy with is to end."""
        self._halting = False
        """Whether the hand is just being told to stop: it would stop the next goal, too."""
        self._closing = False
        self._threads = [
            threading.Thread(target=work, name="franka hand", daemon=True)
            for work in (self._watch, self._work, self._halt)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def busy(self) -> bool:
        """Whether the fingers have a goal that they have not reached."""
        with self._condition:
            return self._busy or self._goal is not None

    def move(self, width: float) -> None:
        """A new goal [m]: at once, or after the one that the fingers are busy with. The same again changes nothing."""
        with self._condition:
            same = self._last is not None and abs(width - self._last) < _SAME_WIDTH
            self._goal = None if same else width
            self._condition.notify_all()

    def drop(self, reason: str) -> None:
        """A goal that has not begun never does."""
        with self._condition:
            if self._goal is not None:
                self._goal, self.result, self._dropped = None, reason, reason if self._busy else ""

    def stop(self, reason: str) -> None:
        """Drops the goal that waits, and stops the fingers on their way to another; returns at once.

        Fingers that have come to their end are left alone: told to stop, they would let go of what they hold."""
        with self._condition:
            self.drop(reason)
            if self._busy:
                self._stopping, self._last = True, None
                self._condition.notify_all()

    def close(self) -> None:
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        end = time.monotonic() + _HAND_SECONDS
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, end - time.monotonic()))

    def _work(self) -> None:
        while True:
            with self._condition:
                while (self._goal is None or self._halting) and not self._closing:
                    self._condition.wait()
                if self._closing:
                    return
                assert self._goal is not None
                if reason := self._blocked():
                    self.drop(reason)
                    continue
                goal = self._last = self._goal
                self._goal, self._busy = None, True
            problem = self._command(partial(self._go, goal))
            with self._condition:
                if self._stopping:
                    problem = "stopped"
                if problem:
                    self._last = None  # asked for again, it is tried again
                self.result, self._dropped = self._dropped or problem, ""
                self._busy = self._stopping = False

    def _halt(self) -> None:
        """Tells the hand to stop until the goal has ended: it may have been on its way to the hand, still."""
        while True:
            with self._condition:
                while not self._stopping and not self._closing:
                    self._condition.wait()
                if self._closing:
                    return
                self._halting = True
            self._command(lambda hand: hand.stop())
            with self._condition:
                self._halting = False
                self._condition.notify_all()
                if self._stopping:
                    self._condition.wait(_HALT_SECONDS)

    def _go(self, width: float, hand: HandConnection) -> bool:
        p, state = self._limits, self.state
        if width < GRIP_WIDTH and (state is None or width < state.width):
            return hand.grasp(width, p.speed, p.force)
        return hand.move(width, p.speed)

    def _command(self, call: Callable[[HandConnection], bool]) -> str:
        connection = self._connection  # the other threads' too: `_watch` may take it away
        if connection is None:
            return f"no connection to the hand: {self.problem}"
        try:
            return "" if call(connection) else "the hand did not reach its goal"
        except ArmError as error:
            return str(error)

    def _watch(self) -> None:
        before: tuple[float, float] | None = None
        while not self._closing:
            try:
                if self._connection is None:
                    self._connection = self._connect()
                width = self._connection.width()
            except ArmError as error:
                self._connection, self.state, self.problem, before = None, None, str(error), None
                time.sleep(_RETRY_SECONDS)
                continue
            now = time.monotonic()
            rate = (width - before[1]) / max(now - before[0], _SHORT_SECONDS) if before else 0.0
            before = now, width
            self.state, self.problem = HandState(width, rate), ""
