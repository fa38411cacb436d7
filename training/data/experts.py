"""Scripted experts that solve Lift, Can and Square from privileged object poses.

Each expert is a generator that reads from top to bottom like the job it does: it yields one command row (7,) a control
step, in metres, radians and gripper (see :mod:`diffusion_ros.simulators.arm`), and looks at `view`, which the caller
keeps up to date. Positions are of the grip site in the world; yaw 0 is the gripper pointing down, closing along world
y.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.spatial.transform import Rotation

from diffusion_ros.robot import ACTION_SCALE, ROTATION_SCALE, TRANSLATION_SCALE
from diffusion_ros.simulators.arm import Array, Simulation

POINTING_DOWN = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
OPEN, CLOSE = -1.0, 1.0
CAN_DROP = np.array([0.165, 0.365])
"""Where in the can's bin the can is let go: its centre is out of reach at carrying height."""
PEG = np.array([0.23, 0.10])
HANDLE = np.array([0.060, 0.0, 0.0])
"""From the square nut's origin to its handle, in the nut's frame; 6 mm outside the middle, clear of the ring."""

NOISE_PARTS = np.array([1, 1, 1, 0.3, 0.3, 0.3, 0])
"""Of the noise on each command, in parts of the full one: rotation gets less of it, the gripper none."""
WANDER_LOW = np.array([-0.4, -0.4, -0.3, 0, 0, -0.3, -1])
"""Of the commands of a wandering hand, in parts of full scale: it turns about the vertical, fingers open ..."""
WANDER_HIGH = np.array([0.4, 0.4, 0.2, 0, 0, 0.3, -1])
"""... and up to here."""

Expert = Generator[Array, None, None]


@dataclass
class ExpertView:
    """What an expert may look at."""

    hand: Array
    """(3) m, grip site."""
    hand_rotation: Array
    """(3, 3), grip site."""
    width: float
    """m, between the fingers."""
    object: Array
    """(3) m."""
    object_rotation: Array
    """(3, 3)."""

    @staticmethod
    def of(simulation: Simulation) -> ExpertView:
        """What there is to see now."""
        nothing = np.zeros(0)
        view = ExpertView(nothing, nothing, 0.0, nothing, nothing)
        view.look(simulation)
        return view

    def look(self, simulation: Simulation) -> None:
        """Brings the view up to date."""
        frame = simulation.observe(images=False)
        self.hand = frame["robot0_eef_pos"]
        self.hand_rotation = simulation.grip_matrix()
        self.width = float(frame["robot0_gripper_qpos"][0] - frame["robot0_gripper_qpos"][1])
        self.object = frame["object_pos"]
        self.object_rotation = Rotation.from_quat(frame["object_quat"]).as_matrix()

    def holds(self, reach: float, lifted: float) -> bool:
        """Whether the closed hand has the object, `reach` (m) away at most, above the height `lifted` (m)."""
        near = float(np.linalg.norm(self.object - self.hand)) < reach
        return near and self.object[2] > lifted and self.width < 0.075

    @property
    def object_yaw(self) -> float:
        """Radians about the world's z."""
        return float(np.arctan2(self.object_rotation[1, 0], self.object_rotation[0, 0]))

    @property
    def hand_yaw(self) -> float:
        """Radians about the world's z; 0 is `POINTING_DOWN`."""
        turned = self.hand_rotation @ POINTING_DOWN.T
        return float(np.arctan2(turned[1, 0], turned[0, 0]))


class Servo:
    """Proportional-integral control of the grip site by deltas; a new one for each phase.

    Without the integral the impedance controller stops one to two centimetres short.
    """

    def __init__(self, view: ExpertView) -> None:
        self.view = view
        self.integral = np.zeros(3)
        self.error = np.inf
        self.angle = np.inf

    def to(self, position: Array, yaw: float, gripper: float) -> Array:
        """The row that moves towards `position` (m) and `yaw` (radians)."""
        error = position - self.view.hand
        self.error = float(np.linalg.norm(error))
        if self.error < 0.04:
            self.integral = np.clip(self.integral + 0.12 * error, -0.04, 0.04)
        goal = Rotation.from_euler("z", yaw).as_matrix() @ POINTING_DOWN
        turn = Rotation.from_matrix(goal @ self.view.hand_rotation.T).as_rotvec()
        self.angle = float(np.linalg.norm(turn))
        translation = np.clip(1.3 * error + self.integral, -TRANSLATION_SCALE, TRANSLATION_SCALE)
        return np.concatenate([translation, np.clip(turn, -ROTATION_SCALE, ROTATION_SCALE), [gripper]])


def wrap(angle: float) -> float:
    """`angle` in [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _hover(view: ExpertView, target: Callable[[], Array], height: float, yaw: float) -> Expert:
    """Opens and moves to `height` (m) above the target (3) (m), until it is over it and turned to `yaw` (radians)."""
    servo = Servo(view)
    while True:
        yield servo.to(target() + [0, 0, height], yaw, OPEN)
        if np.linalg.norm((target() - view.hand)[:2]) < 0.012 and servo.angle < 0.15:
            return


def _close(view: ExpertView, yaw: float) -> Expert:
    """Closes where the hand is, until the fingers stop."""
    servo, at, last = Servo(view), view.hand.copy(), np.inf
    for step in range(14):
        yield servo.to(at, yaw, CLOSE)
        if step >= 7 and abs(view.width - last) < 1e-3:
            return
        last = view.width


def _stay(view: ExpertView, position: Array, yaw: float, gripper: float, steps: int) -> Expert:
    servo = Servo(view)
    for _ in range(steps):
        yield servo.to(position, yaw, gripper)


def _above(position: Array, z: float) -> Array:
    return np.array([position[0], position[1], z])


def lift(view: ExpertView) -> Expert:
    """Grasps the cube at its centre and lifts it; again if it drops."""
    while True:
        servo, up = Servo(view), _above(view.hand, 0.95)
        while view.holds(0.03, lifted=0.835):
            yield servo.to(up, view.hand_yaw, CLOSE)
        yaw = wrap(4 * view.object_yaw) / 4  # the cube looks alike every quarter turn
        yield from _hover(view, lambda: view.object, 0.05, yaw)
        servo = Servo(view)
        while servo.error > 0.008:
            yield servo.to(view.object, yaw, OPEN)
        yield from _close(view, yaw)
        servo, up = Servo(view), _above(view.hand, 0.95)
        while np.linalg.norm(view.object - view.hand) < 0.04:
            yield servo.to(up, yaw, CLOSE)


def can(view: ExpertView) -> Expert:
    """Grasps the can from above, carries it over the walls and lets it go in its bin; again if it slips."""
    yaw = 0.0
    while True:
        if not view.holds(0.04, lifted=0.88):
            yield from _grasp_can(view, yaw)
        if (yield from _carry_can(view, yaw)):
            yield from _stay(view, view.hand.copy(), yaw, OPEN, 4)
            servo, up = Servo(view), _above(view.hand, 1.0)
            while view.object[1] > 0.2:  # in the bin on the right: done, stay away from it
                yield servo.to(up, yaw, OPEN)


def _grasp_can(view: ExpertView, yaw: float) -> Expert:
    yield from _hover(view, lambda: view.object, 0.10, yaw)
    servo = Servo(view)
    while servo.error > 0.010:
        yield servo.to(view.object + [0, 0, 0.015], yaw, OPEN)
    yield from _close(view, yaw)


def _carry_can(view: ExpertView, yaw: float) -> Generator[Array, None, bool]:
    """From the grasp to just above the bin's floor; False as soon as hand and can part."""

    def held() -> bool:
        return bool(np.linalg.norm(view.object - view.hand) < 0.07)

    servo, up = Servo(view), _above(view.hand, 1.0)
    while held() and view.hand[2] < 0.98:
        yield servo.to(up, yaw, CLOSE)
    servo = Servo(view)
    while held() and np.linalg.norm(CAN_DROP - view.object[:2]) > 0.03:
        # Bring the can, not the hand, to the place.
        yield servo.to(np.append(view.hand[:2] + CAN_DROP - view.object[:2], 0.98), yaw, CLOSE)
    servo, down = Servo(view), _above(view.hand, 0.915)
    while held() and view.hand[2] > 0.925:
        yield servo.to(down, yaw, CLOSE)
    return held()


def square(view: ExpertView) -> Expert:
    """Grasps the nut's handle, turns the nut to fit the square peg, lowers and lets it go; again if it slips."""
    while True:
        if not view.holds(0.075, lifted=0.88):
            yield from _grasp_nut(view)
        if (yield from _place_nut(view)):
            yield from _stay(view, view.hand.copy(), view.hand_yaw, OPEN, 5)
            servo, up, yaw = Servo(view), _above(view.hand, 1.0), view.hand_yaw
            while np.linalg.norm(view.object[:2] - PEG) < 0.03 and view.object[2] < 0.87:
                yield servo.to(up, yaw, OPEN)
            while view.hand[2] < 0.98:  # it hangs on the peg's edge: rise and try again
                yield servo.to(up, yaw, OPEN)


def _grasp_nut(view: ExpertView) -> Expert:
    grasp_yaw = np.deg2rad((np.rad2deg(view.object_yaw) + 85) % 180 - 85)

    def handle() -> Array:
        return np.asarray(view.object + view.object_rotation @ HANDLE)

    yield from _hover(view, handle, 0.06, grasp_yaw)
    servo = Servo(view)
    while True:
        # A funnel: down only as far as the hand is over the handle.
        off = float(np.linalg.norm((handle() - view.hand)[:2]))
        goal = handle() + [0, 0, -0.003 + min(0.06, 6 * max(0.0, off - 0.006))]
        yield servo.to(goal, grasp_yaw, OPEN)
        if abs(goal[2] - view.hand[2]) < 0.006 and off < 0.007:
            break
    yield from _close(view, grasp_yaw)


def _place_nut(view: ExpertView) -> Generator[Array, None, bool]:
    """From the grasp to the nut around the peg; False as soon as hand and nut part."""
    reach = float(np.linalg.norm(view.object - view.hand)) + 0.03

    def held() -> bool:
        return bool(np.linalg.norm(view.object - view.hand) < reach)

    # The nut fits every quarter turn; 0 would bring the hand between peg and base. Take the smallest turn within reach.
    turns = [wrap(np.deg2rad(yaw) - view.object_yaw) for yaw in (90, -90, 180)]
    allowed = [t for t in turns if -110 <= np.rad2deg(view.hand_yaw + t) <= 190]
    turn = min(allowed or turns, key=abs)
    nut_yaw = view.object_yaw + turn

    def towards_yaw() -> float:
        return view.hand_yaw + float(np.clip(wrap(nut_yaw - view.object_yaw), -0.6, 0.6))

    servo, up, yaw = Servo(view), _above(view.hand, 1.005), view.hand_yaw
    while held() and view.hand[2] < 0.985:
        yield servo.to(up, yaw, CLOSE)
    servo = Servo(view)
    while held():
        off = PEG - view.object[:2]
        if np.linalg.norm(off) < 0.005 and abs(wrap(nut_yaw - view.object_yaw)) < 0.07:
            break
        yield servo.to(np.append(view.hand[:2] + off, 0.985), towards_yaw(), CLOSE)
    servo = Servo(view)
    while held() and view.object[2] > 0.915 - 0.06:
        off = PEG - view.object[:2]
        if view.object[2] < 0.915:
            return True
        yield servo.to(np.append(view.hand[:2] + off, view.hand[2] - 0.05), towards_yaw(), CLOSE)
    return held()


EXPERTS = {"lift": lift, "can": can, "square": square}


BURST = 10
"""Steps that a disturbance lasts at most."""
REST = 6
"""Steps that the hand follows the expert at least, after a disturbance."""
DRIVEN = 0.7
"""Part of the disturbances that are another's driving, where there is another."""
FLIPPED = 0.15
"""Part of the disturbances in which the gripper does the opposite of what the expert says."""


class Other(Protocol):
    """Drives for a while in the expert's place."""

    def begin(self, rng: np.random.Generator) -> int:
        """For how many steps from now on."""

    def row(self, row: Array) -> Array:
        """What is executed in a step in which the expert would execute `row`, (7) both."""


class NoisyExpert:
    """The task's expert drives from where the simulation is; what it does is noisy, what it says is not.

    Args:
        simulation: of an arm; its step is taken here.
        spread: (7) deviation of the noise on each command, in metres, radians and gripper; see NOISE_PARTS.
        rng: of the noise.
        wander: in so many steps first the hand goes anywhere, a new random way every 10 steps.
        quiet: the noise comes as disturbances of 1 to BURST steps, and between two of them the hand follows the expert
            for REST to `quiet` steps; 0: noise in every step.
        other: drives in most of those disturbances.
    """

    def __init__(
        self,
        simulation: Simulation,
        spread: Array,
        rng: np.random.Generator,
        wander: int = 0,
        quiet: int = 0,
        other: Other | None = None,
    ) -> None:
        self._simulation, self._spread, self._rng, self._wander = simulation, spread, rng, wander
        self._quiet = quiet
        self._other, self._driven = other, False
        self._disturbed_until = self._quiet_until = 0
        self._drift, self._share, self._white, self._gripper = np.zeros(7), 1.0, 0.0, 1.0
        self._view = ExpertView.of(simulation)
        self._expert = EXPERTS[simulation.task_name](self._view)
        self._steps = 0
        self._way = np.zeros(7)
        self.executed = np.zeros(7)
        """(7) The command of the last step, noise and all; the simulation clips it to full scale."""

    def step(self) -> Array:
        """Takes a control step; returns the row (7) that the expert would have executed."""
        row = next(self._expert)
        if self._steps < self._wander:
            if self._steps % 10 == 0:
                self._way = ACTION_SCALE * self._rng.uniform(WANDER_LOW, WANDER_HIGH)
            self.executed = self._way
        elif self._quiet:
            self.executed = self._disturbed(row)
        else:
            self.executed = row + self._spread * self._rng.standard_normal(7)
        self._simulation.step(self.executed)
        self._steps += 1
        self._view.look(self._simulation)
        return row

    def _disturbed(self, row: Array) -> Array:
        """What is executed in place of a row: in a disturbance a part of it and a drift, with or without noise, as a
        policy errs that has misjudged where the hand is. It says nothing about what the expert sees."""
        rng = self._rng
        if self._steps >= self._quiet_until:
            self._driven = self._other is not None and rng.uniform() < DRIVEN
            length = self._other.begin(rng) if self._other and self._driven else int(rng.integers(1, BURST + 1))
            self._disturbed_until = self._steps + length
            self._quiet_until = self._disturbed_until + int(rng.integers(REST, self._quiet + 1))
            self._drift = self._spread * rng.standard_normal(7) * rng.uniform()
            self._share = float(rng.uniform(-0.2, 1.5))
            self._white = float(rng.integers(2)) * float(rng.uniform())
            self._gripper = -1.0 if rng.uniform() < FLIPPED else 1.0
        if self._steps >= self._disturbed_until:
            return row
        if self._other and self._driven:
            return self._other.row(row)
        part = np.append(np.full(6, self._share), self._gripper)
        done: Array = part * row + self._drift + self._white * self._spread * rng.standard_normal(7)
        return done
