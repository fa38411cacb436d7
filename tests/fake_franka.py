"""A Franka of tests: the arm is at once where it is told to be, and fails when it is told to."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from diffusion_ros.franka_connection import ArmError, ArmState, Array

HOME = np.array([0.45, 0.0, 0.3])
DOWN = np.array([1.0, 0.0, 0.0, 0.0])


class FakeHand:
    """Fingers that take as long as they are `held` to come to their goal, or until they are told to stop."""

    def __init__(self) -> None:
        self.at = 0.08
        self.calls: list[tuple[str, float]] = []
        self.held = False
        self.late = False
        """Whether a goal is still on its way to the hand: a stop that comes before it has no effect on it."""
        self.fails = ""
        self._stops = 0

    def width(self) -> float:
        time.sleep(0.005)
        return self.at

    def _go(self, name: str, width: float) -> bool:
        while self.late:
            time.sleep(0.002)
        stops = self._stops
        self.calls.append((name, width))
        while self.held:
            time.sleep(0.002)
            if self._stops != stops:
                return False
        if self.fails:
            raise ArmError(self.fails)
        self.at = width
        return True

    def move(self, width: float, speed: float) -> bool:
        return self._go("move", width)

    def grasp(self, width: float, speed: float, force: float) -> bool:
        return self._go("grasp", width)

    def stop(self) -> bool:
        self.calls.append(("stop", self.at))
        self._stops += 1
        return True


class FakeFranka:
    """Stands for the arm itself and for each connection to it; a state takes 2 ms and is 10 ms of the robot's time."""

    def __init__(self) -> None:
        self.now = ArmState(
            0.0, np.linspace(-0.3, 0.3, 7), np.zeros(7), HOME.copy(), DOWN.copy(), "idle", (), 0.0, np.eye(4)
        )
        self.moves: list[tuple[Array, Array]] = []
        self.begun = self.ended = self.recovered = 0
        self.refuses = ""
        """Why a motion cannot begin."""
        self.aborts = ""
        """Why the motion ends by itself."""
        self.gone = ""
        """Why there is no connection."""
        self.locked = False
        """Whether recovery does not help, as with the user stop pressed."""
        self.fingers = FakeHand()

    def connect(self) -> FakeFranka:
        if self.gone:
            raise ArmError(self.gone)
        return self

    def reflex(self, *errors: str) -> None:
        """What a reflex does: the motion is aborted and the mode says so."""
        if self.now.mode == "move":
            self.aborts = "motion aborted by reflex!"
        self.now = replace(self.now, mode="reflex", errors=errors)

    def state(self) -> ArmState:
        if self.gone:
            raise ArmError(self.gone)
        time.sleep(0.002)
        self.now = replace(self.now, time=self.now.time + 0.01)
        return self.now

    def begin(self) -> None:
        if self.refuses:
            raise ArmError(self.refuses)
        self.begun += 1
        self.now = replace(self.now, mode="move", success_rate=1.0)

    def move_to(self, position: Array, quaternion: Array) -> None:
        self.moves.append((position, quaternion))
        if self.now.mode == "move":
            self.now = replace(self.now, position=position, quaternion=quaternion)

    def running(self) -> bool:
        return self.now.mode == "move" and not self.aborts

    def end(self) -> None:
        self.ended += 1
        reason, self.aborts = self.aborts, ""
        if self.now.mode == "move":
            self.now = replace(self.now, mode="idle", success_rate=0.0)
        if reason:
            raise ArmError(reason)

    def recover(self) -> None:
        self.recovered += 1
        if not self.locked:
            self.now = replace(self.now, mode="idle", errors=())

    def hand(self) -> FakeHand:
        return self.fingers
