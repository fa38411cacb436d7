"""From a policy's rows to a target that an arm's driver can follow: smooth, within limits, on a clock of its own.

A row says what one control step of the arm that the policy was trained on was told, which is not where that arm went:
robosuite's pose controller (OSC), told to go 0.05 m in each step of 0.05 s, goes 0.013 m. So the target is that arm, as
a model. Where nothing is in its way its hand obeys

    x'' = k (goal - x) - 2 d sqrt(k) x',      goal = x at the row's beginning + the row    (Khatib 1987, eq. 30-33)

for position and, about the axes of the base, rotation; k [1/s^2] and d of either are the checkpoint's (spec.response).
Without them a row is gone through evenly within its step. Either way position and velocity have no jumps, whatever
chunks follow each other, and the real arm's driver is left nothing to smooth.

No ROS here and no clock: time is an argument. All in the driver's base frame, metres, radians, seconds.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from diffusion_ros.robot_file import Limits

Array = NDArray[np.float64]

_SUBSTEP = 0.01
"""s, at most, in which the model goes on: exactly where no limit holds it back."""
_HISTORY_SECONDS = 1.0
_GLIDE = 0.05
"""m/s by which a target goes over to where the hand is measured."""
_GLIDE_ANGLE = 0.25
"""rad/s, likewise."""
_REJOIN_ROWS = 5
"""In so many rows a target makes up for what a chunk's own rows would have led it elsewhere since its observation."""
_MAX_PREVIEW = 1000
LOST = 2.0
"""Times the leash: a hand that is farther from its target is not following it."""
_GENTLE = 0.3
"""Of the limits of acceleration, at least, a hold brakes with; more where the model brakes harder."""


@dataclass(frozen=True)
class Target:
    """Where the hand is to be now, and how it moves there."""

    position: Array
    """(3) m."""
    rotation: Rotation
    velocity: Array
    """(3) m/s."""
    angular_velocity: Array
    """(3) rad/s about the axes of the base."""

    @property
    def quaternion(self) -> Array:
        """(4) xyzw."""
        return np.asarray(self.rotation.as_quat())

    @property
    def moving(self) -> bool:
        return bool(np.any(self.velocity) or np.any(self.angular_velocity))


@dataclass(frozen=True)
class Goal:
    """A row that says where the hand is to be at its end, not how it moves."""

    position: Array
    """(3) m."""
    rotation: Rotation
    beyond: float = 0.0
    """m that the rows behind it go on: where they do, nothing has to stop there."""
    beyond_turn: float = 0.0
    """rad, likewise."""


def goals(places: Sequence[tuple[Array, Rotation]]) -> list[Goal]:
    """Rows of places (3) m, one after the other."""
    made: list[Goal] = []
    for position, rotation in reversed(places):
        far = turned = 0.0
        if made:
            far = made[-1].beyond + float(np.linalg.norm(made[-1].position - position))
            turned = made[-1].beyond_turn + float((made[-1].rotation * rotation.inv()).magnitude())
        made.append(Goal(position, rotation, far, turned))
    return made[::-1]


class TargetGenerator:
    """The target of one arm: `start` it where the hand is, then `advance` it in every period of the output.

    row_seconds: a row's control step. response: k and d of position and of rotation (4), or of both (2), or () for rows
    that are reached within their steps.
    reference 'commanded': each row goes on from the target. 'measured': each chunk, too, but what the hand was away
    from its target when the chunk's observation was made is gone back slowly, so that the target follows a hand that
    cannot follow. Either way a chunk that begins some time after its observation ends where it would have ended had it
    begun there (`anchor`). leash [m, rad]: the target does not go farther than that from the hand.
    latency [s]: what the arm's driver lags behind; the measured hand is compared with the target of so long before,
    so that a hand which only lags is not one that does not follow.
    """

    def __init__(
        self,
        limits: Limits,
        row_seconds: float,
        response: Sequence[float] = (),
        reference: str = "commanded",
        leash: tuple[float, float] = (0.05, 0.3),
        latency: float = 0.0,
    ) -> None:
        if row_seconds <= 0:
            raise ValueError(f"row_seconds {row_seconds}, more than 0 expected")
        if len(response) not in (0, 2, 4) or not all(math.isfinite(x) and x > 0 for x in response):
            raise ValueError(f"response {list(response)}, stiffness and damping ratio above 0 expected")
        if reference not in ("commanded", "measured"):
            raise ValueError(f"reference {reference!r}, commanded or measured expected")
        self.limits = limits
        self.row_seconds = row_seconds
        self.response = tuple(response)
        self._of_position, self._of_rotation = self.response[:2], self.response[-2:]
        self.reference = reference
        self.leash = leash
        self.latency = latency
        self._low, self._high = np.array(limits.low), np.array(limits.high)
        self._started = False
        self._row: Array | Goal | None = None
        self._row_key: object = None
        self._pace = np.zeros(6)
        """m/s, rad/s of the row, gone through evenly."""
        self._goal = np.zeros(3)
        self._turn_goal = np.zeros(3)
        self._position = np.zeros(3)
        self._velocity = np.zeros(3)
        # The rotation is turned away from where it was at the row's beginning.
        self._from = Rotation.identity()
        self._turn = np.zeros(3)
        self._turn_velocity = np.zeros(3)
        self._left = np.zeros(3)
        """What is still to be gone back to the measured hand [m], and turned back [rad]."""
        self._left_turn = np.zeros(3)
        self._gain, self._coasts = _answers(self._of_position, row_seconds)
        self._turn_gain, self._turn_coasts = _answers(self._of_rotation, row_seconds)
        self._more, self._more_rows, self._more_waits = np.zeros(6), 0, False
        """What is added to so many rows that come; and whether the first of them is over too soon for it."""
        self._trace: deque[tuple[float, Target]] = deque()
        self._time = 0.0
        self.hard = False
        """Whether a hold brakes as hard as the limits allow: an emergency stop does."""

    @property
    def started(self) -> bool:
        return self._started

    def start(self, position: Array, rotation: Rotation) -> None:
        """Takes the target anew from the measured hand: when the robot is enabled, and after a hold.

        A target that the hand still follows goes over slowly, as its driver would jump with it.
        """
        before = self.target() if self._started else None
        self._started = True
        self._row, self._row_key = None, None
        self._velocity, self._turn_velocity = np.zeros(3), np.zeros(3)
        self._turn = np.zeros(3)
        self._left, self._left_turn = np.zeros(3), np.zeros(3)
        self._more_rows = 0
        self._position, self._from = np.array(position, np.float64), rotation
        if before is not None:
            left = self._position - before.position
            turn = (rotation * before.rotation.inv()).as_rotvec()
            if np.linalg.norm(left) <= LOST * self.leash[0] and np.linalg.norm(turn) <= LOST * self.leash[1]:
                self._position, self._from = before.position, before.rotation
                self._left, self._left_turn = left, turn
        self._goal, self._turn_goal = self._position.copy(), np.zeros(3)
        self._trace.clear()

    def wait_at(self, position: Array, rotation: Rotation) -> None:
        """An arm that could not follow has got as far as this: the target rests there and goes on from there."""
        goal = self._goal - self._position
        self._position, self._from, self._turn = np.array(position, np.float64), rotation, np.zeros(3)
        self._goal = self._position + goal
        self._velocity, self._turn_velocity = np.zeros(3), np.zeros(3)

    def begin_alone(self) -> None:
        """The rows that come are no chunk's: nothing of an earlier one is made up for by them."""
        self._left, self._left_turn = np.zeros(3), np.zeros(3)
        self._more_rows, self._more_waits = 0, False

    def stop(self) -> None:
        """Forgets the target: the next one is where the hand is then."""
        self._started = False

    def astray(self, position: Array, rotation: Rotation) -> str:
        """Why the measured hand is not following the target, or ''."""
        if not self._started:
            return ""
        was = self._lagged(0.0)
        away = float(np.linalg.norm(position - was.position))
        angle = float((rotation * was.rotation.inv()).magnitude())
        if away > LOST * self.leash[0]:
            return f"the hand is {away:.3f} m from its target, at most {LOST * self.leash[0]:g} m expected (leash)"
        if angle > LOST * self.leash[1]:
            return f"the hand is {angle:.2f} rad from its target, at most {LOST * self.leash[1]:g} rad expected (leash)"
        return ""

    def anchor(self, position: Array, rotation: Rotation, seconds_ago: float, rows: Array) -> None:
        """A chunk begins that answers an observation of the hand there (3), so long before the target of now.

        rows (N, 7): the chunk's, from its first one to the one that is due. They are motions and no places, and since
        the observation the arm has gone by those of the chunk before: the rest alone would lead it as far beside its
        aim as the two chunks differ in what is over. The rows that come make up for that.
        """
        if not self._started or not self._trace:
            return
        was, now = self._lagged(seconds_ago), self.target()
        there = self._followed(was, rows, seconds_ago + self.latency)
        # And how far either would go on by its speed.
        missing = there.position - now.position + self._coasts * (there.velocity - now.velocity)
        turn = (there.rotation * now.rotation.inv()).as_rotvec()
        turn = turn + self._turn_coasts * (there.angular_velocity - now.angular_velocity)
        self._more = np.concatenate((missing / self._gain, turn / self._turn_gain)) / _REJOIN_ROWS
        self._more_rows = _REJOIN_ROWS
        self._more_waits = (seconds_ago + self.latency) % self.row_seconds > 0.1 * self.row_seconds
        if self.reference == "measured":
            self._left = position - was.position
            self._left_turn = (rotation * was.rotation.inv()).as_rotvec()

    def _followed(self, start: Target, rows: Array, seconds: float) -> Target:
        """The target that rows (N, 7) lead to in so many seconds [s] from one of before."""
        ghost = copy.copy(self)
        ghost._trace, ghost.latency = deque(), 0.0
        ghost._position, ghost._velocity = start.position, start.velocity
        ghost._from, ghost._turn, ghost._turn_velocity = start.rotation, np.zeros(3), start.angular_velocity
        ghost._left, ghost._left_turn, ghost._more_rows = np.zeros(3), np.zeros(3), 0
        ghost._row, target = None, start
        for number, row in enumerate(rows):
            part = min(self.row_seconds, seconds)
            if part <= 1e-6:
                break
            seconds -= part
            target = ghost.advance(part, row, number, target.position, target.rotation)
        return target

    def advance(
        self, seconds: float, row: Array | Goal | None, key: object, position: Array, rotation: Rotation
    ) -> Target:
        """The target `seconds` after the last one.

        row (7): the one that is due, in the axes of the base, or None to hold: the target brakes and stays. key: which
        row it is, so that one that is due for several periods begins once. position, rotation: the hand as measured.
        """
        if not self._started:
            self.start(position, rotation)
        if row is None:
            self._row, self._row_key = None, None
            self._left, self._left_turn = np.zeros(3), np.zeros(3)
            self._more_rows = 0
        elif self._row is None or key != self._row_key:
            self._begin(row, key)
        # Where the hand will be when it has come to the target of now, if it goes on following as it does.
        was = self._lagged(0.0)
        position = position + self._position - was.position
        rotation = Rotation.from_rotvec(self._turn) * self._from * was.rotation.inv() * rotation
        turn = self._turn
        before = (Rotation.from_rotvec(turn) * self._from * rotation.inv()).magnitude()
        parts = math.ceil(seconds / _SUBSTEP - 1e-6)
        for _ in range(parts):
            self._substep(seconds / parts, position)
        self._time += seconds
        target = self.target()
        away = (target.rotation * rotation.inv()).magnitude()
        if away > self.leash[1] and away > before:
            self._turn, self._turn_velocity = turn, np.zeros(3)
            target = self.target()
        self._trace.append((self._time, target))
        while self._trace[0][0] < self._time - _HISTORY_SECONDS:
            self._trace.popleft()
        return target

    def _lagged(self, seconds_ago: float) -> Target:
        """The target that the hand, as it was seen so long ago, was answering: of `latency` before."""
        then = self._time - seconds_ago - self.latency
        for time, target in reversed(self._trace):
            if time <= then + 1e-9:
                return target
        return self._trace[0][1] if self._trace else self.target()

    def lagged(self) -> Target:
        """What the hand, as it is measured now, answers: the target of `latency` ago, moving as it does now."""
        return replace(self._lagged(0.0), velocity=self._velocity.copy(), angular_velocity=self._turn_velocity.copy())

    def target(self) -> Target:
        return Target(
            self._position.copy(),
            Rotation.from_rotvec(self._turn) * self._from,
            self._velocity.copy(),
            self._turn_velocity.copy(),
        )

    def preview(
        self, rows: Array | Sequence[Array | Goal], step: float, remaining: float | None = None
    ) -> list[Target]:
        """Targets after each `step` seconds [s] from now, on through rows (N, 7) and until the target stands still.

        The first row is the one that is due now, for `remaining` seconds [s]; None: for all of its time.
        """
        ahead = copy.copy(self)
        ahead._trace, ahead.latency = deque(), 0.0  # a hand that is where its target is
        targets: list[Target] = []
        here, turned = self._position, Rotation.from_rotvec(self._turn) * self._from
        number, left_of_row = 0, self.row_seconds if remaining is None else remaining
        while len(targets) < _MAX_PREVIEW and (number < len(rows) or not targets or targets[-1].moving):
            left = step
            while left > 1e-6:
                if number < len(rows):
                    key = self._row_key if number == 0 and self._row is not None else ("preview", number)
                    seconds = min(left, left_of_row)
                    target = ahead.advance(seconds, rows[number], key, here, turned)
                    left_of_row -= seconds
                    if left_of_row <= 1e-6:
                        number, left_of_row = number + 1, self.row_seconds
                else:
                    seconds = left
                    target = ahead.advance(seconds, None, None, here, turned)
                here, turned = target.position, target.rotation
                left -= seconds
            targets.append(target)
        return targets

    def _begin(self, row: Array | Goal, key: object) -> None:
        self._row_key = key
        if isinstance(row, Goal):
            # A place is a place, whatever was made of the rows before it.
            self._more_rows, self._more_waits = 0, False
            self._left, self._left_turn = np.zeros(3), np.zeros(3)
            self._row, self._goal = row, np.array(row.position, np.float64)
            self._from, self._turn = Rotation.from_rotvec(self._turn) * self._from, np.zeros(3)
            self._turn_goal = (row.rotation * self._from.inv()).as_rotvec()
            self._pace = np.concatenate((self._goal - self._position, self._turn_goal)) / self.row_seconds
            return
        self._row = np.array(row, np.float64)
        if self._more_waits:
            self._more_waits = False
        elif self._more_rows:
            self._row[:6] += self._more
            self._more_rows -= 1
        self._from, self._turn = Rotation.from_rotvec(self._turn) * self._from, np.zeros(3)
        self._goal = self._position + self._row[:3]
        self._turn_goal = self._row[3:6].copy()
        self._pace = self._row[:6] / self.row_seconds

    def _substep(self, dt: float, position: Array) -> None:
        limits = self.limits
        if self._row is None:
            # The same target from now on, as soon as it can be: the model's own damping, or a gentle brake.
            gentle = 1.0 if self.hard else _GENTLE
            linear, angular = gentle * limits.linear_acceleration, gentle * limits.angular_acceleration
            wanted = _braked(self._velocity, _damping(self._of_position), linear, dt)
            turning = _braked(self._turn_velocity, _damping(self._of_rotation), angular, dt)
            way, turned = 0.5 * dt * (self._velocity + wanted), 0.5 * dt * (self._turn_velocity + turning)
        elif self.response:
            way, wanted = answered(self._of_position, self._position - self._goal, self._velocity, dt)
            turned, turning = answered(self._of_rotation, self._turn - self._turn_goal, self._turn_velocity, dt)
        else:
            wanted, turning = self._pace[:3], self._pace[3:]
            if isinstance(self._row, Goal):
                # No faster than it could stop where the rows that are known end.
                left = float(np.linalg.norm(self._goal - self._position)) + self._row.beyond
                turn_left = float(np.linalg.norm(self._turn_goal - self._turn)) + self._row.beyond_turn
                wanted = shortened(wanted, _stoppable(left, limits.linear_acceleration, dt))
                turning = shortened(turning, _stoppable(turn_left, limits.angular_acceleration, dt))
            way, turned = wanted * dt, turning * dt
        self._velocity, way = _within(self._velocity, wanted, way, limits.linear, limits.linear_acceleration * dt, dt)
        self._turn_velocity, turned = _within(
            self._turn_velocity, turning, turned, limits.angular, limits.angular_acceleration * dt, dt
        )
        # Towards a wall of the box no faster than it can stop there.
        toward = np.where(self._velocity > 0, self._high - self._position, self._position - self._low)
        stop = np.sqrt(limits.linear_acceleration * np.maximum(toward, 0.0))
        slowed = np.clip(self._velocity, -stop, stop)
        way, self._velocity = np.where(slowed == self._velocity, way, slowed * dt), slowed
        moved = self._position + shortened(way + self._glide(dt), limits.linear * dt)
        # Inside the box up to its walls, outside only inwards; and no farther from the hand than the leash, but back.
        boxed = np.clip(moved, np.minimum(self._low, self._position), np.maximum(self._high, self._position))
        boxed = _leashed(self._position, boxed, position, self.leash[0])
        self._velocity = np.where(boxed == moved, self._velocity, 0.0)
        self._position = boxed
        self._turn = self._turn + shortened(turned + self._glide_turn(dt), limits.angular * dt)

    def _glide(self, dt: float) -> Array:
        step = shortened(self._left, _GLIDE * dt)
        self._left = self._left - step
        self._goal = self._goal + step
        return step

    def _glide_turn(self, dt: float) -> Array:
        step = shortened(self._left_turn, _GLIDE_ANGLE * dt)
        self._left_turn = self._left_turn - step
        self._turn_goal = self._turn_goal + step
        return step


def on_course(step: Array, velocity: Array, least: float, most: float) -> float:
    """How long an even course at velocity (3) [m/s] takes to come nearest to a step (3) [m], least to most [s]."""
    squared = float(velocity @ velocity)
    return min(max(float(step @ velocity) / squared, least), most) if squared > 0.0 else most


def _stoppable(distance: float, braking: float, dt: float) -> float:
    """The speed v that a braking [1/s^2] ends within a distance, when it goes on for dt: v dt + v^2 / 2 a = d."""
    step = braking * dt
    return math.sqrt(step * step + 2.0 * braking * distance) - step


def shortened(vector: Array, length: float) -> Array:
    """A vector, no longer than `length`."""
    norm = float(np.linalg.norm(vector))
    return vector if norm <= length else vector * (length / norm)


def _damping(response: Sequence[float]) -> float:
    """By which the model brakes [1/s]."""
    return 2.0 * response[1] * math.sqrt(response[0]) if response else 0.0


def answered(response: Sequence[float], error: Array, velocity: Array, dt: float) -> tuple[Array, Array]:
    """The way that the model of response (2) goes in dt [s], and its velocity then, without limits. error (..., 3) m or
    rad: from the goal to it; velocity (..., 3).

    By the exponential of dt times its matrix A: by Cayley and Hamilton exp(s dt) (c I + q (A - s I)), where s is half
    of A's trace.
    """
    stiffness, ratio = response
    s = -ratio * math.sqrt(stiffness)
    root = math.sqrt(stiffness * abs(ratio**2 - 1.0))
    c, q = (math.cosh(root * dt), math.sinh(root * dt)) if ratio > 1 else (math.cos(root * dt), math.sin(root * dt))
    q = q / root if root * dt > 1e-6 else dt
    fading = math.exp(s * dt)
    after = fading * ((c - q * s) * error + q * velocity)
    return after - error, fading * (-q * stiffness * error + (c + q * s) * velocity)


def _answers(response: Sequence[float], seconds: float) -> tuple[float, float]:
    """How far the model goes in all for a row of 1, and for a speed of 1/s in rows of nothing [s]."""
    if not response:
        return 1.0, 0.0
    way, speed = answered(response, np.array(-1.0), np.array(0.0), seconds)
    further, slower = answered(response, np.array(0.0), np.array(1.0), seconds)
    coasts = float(further / (1.0 - slower))
    return float(way + speed * coasts), coasts


def _braked(velocity: Array, damping: float, gentle: float, dt: float) -> Array:
    speed = float(np.linalg.norm(velocity))
    slower = max(damping * speed, gentle) * dt
    return np.zeros(3) if speed <= slower else velocity * (1.0 - slower / speed)


def _within(before: Array, wanted: Array, way: Array, speed: float, change: float, dt: float) -> tuple[Array, Array]:
    """The wanted velocity, changed by at most `change` and not faster than `speed`, and the way that it goes in dt."""
    velocity = shortened(before + shortened(shortened(wanted, speed) - before, change), speed)
    if velocity is wanted or np.array_equal(velocity, wanted):
        return velocity, shortened(way, speed * dt)
    return velocity, shortened(0.5 * dt * (before + velocity), speed * dt)


def _leashed(before: Array, moved: Array, hand: Array, length: float) -> Array:
    away = moved - hand
    distance = float(np.linalg.norm(away))
    if distance <= length or distance <= float(np.linalg.norm(before - hand)):
        return moved
    return before
