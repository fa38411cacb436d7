"""When a Franka arm may move: its motion begins with the first target, ends when targets stay away, and after anything
that ended it badly nothing moves until a person says so.

Tested on a simulator of the protocol only, never on an arm.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffusion_ros.franka_connection import MOVABLE, ArmError, ArmState, Connection, HandConnection

Array = NDArray[np.float64]

PERIOD = 0.01
"""Seconds of the robot's own time between two states that are told."""
_STALE_SECONDS = 1.0
_RETRY_SECONDS = 1.0
_REQUEST_SECONDS = 15.0
_POLL_SECONDS = 0.002
_BRAKE_SECONDS = 1.0
_STILL = 0.02
"""rad/s of all joints together below which the arm stands."""


@dataclass(eq=False)
class Recovery:
    """What a person has asked for. Whoever answers first decides, under the lock: the arm, the end of the wait for it,
    or a stop. Once answered, it has no effect any more."""

    answer: str | None = None
    """'' or why the arm was not recovered."""
    asked: float = field(default_factory=time.monotonic)


class Franka:
    """Keeps the connection, tells states, and moves the arm as long as nothing speaks against it.

    All talk with the arm is a thread's, started by `start`: nothing here waits for the arm, but `close`. `blocked` says
    why the arm must not move; it stays until a person asks to recover.
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
        self._recoveries: list[Recovery] = []
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
        """Brakes and stands; nothing moves until a person asks to recover."""
        with self._lock:
            if not self.blocked:
                self.blocked = reason
            self._target = None
            self._brake = True
            for recovery in list(self._recoveries):
                self._answer(recovery, f"not recovered: {reason}")

    def ask_to_recover(self) -> Recovery:
        """A person says that the arm may move again: lifts a reflex."""
        recovery = Recovery()
        with self._lock:
            self._recoveries.append(recovery)
        return recovery

    def answer_to(self, recovery: Recovery) -> str | None:
        """'' or why the arm was not recovered; None while it is not known yet. What has not answered in time lifts
        nothing afterwards."""
        if time.monotonic() - recovery.asked > _REQUEST_SECONDS:
            with self._lock:
                self._answer(recovery, f"no answer from the arm within {_REQUEST_SECONDS:g} s; nothing is lifted")
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

    def _answer(self, recovery: Recovery, answer: str) -> bool:
        """Whether this is the answer, and not another one that was there before. To be called with the lock."""
        if recovery.answer is not None:
            return False
        recovery.answer = answer
        self._recoveries.remove(recovery)
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

    def _lift(self, recovery: Recovery) -> str:
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
