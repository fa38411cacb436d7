"""A person's hands: from a gamepad, twists or keys to rows of one control step; and who decides, person or policy.

No ROS here and no clock: times are arguments. `seconds` are of any steady clock, stamps [ns] of the observations'. The
axes are those of the policy's frame; speeds are metres and radians a second.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffusion_ros.control.targets import shortened
from diffusion_ros.robot import ACTION_SIZE
from diffusion_ros.robot_file import TELEOP_AXES, Teleop

Array = NDArray[np.float64]

DEVICES = ("joy", "twist", "twist_stamped", "keyboard")
SILENT_SECONDS = 0.3
"""A gamepad, or a sender of twists, that says nothing for so long was let go."""
FRESH_SECONDS = 0.25
"""A person's row counts for so long."""
MOTION_SECONDS = 0.15
"""A key moves the hand for so long after it was heard. A key that is held is heard again each 30 to 50 ms, after a
first pause of a quarter to half a second."""
HELD_SECONDS = 0.75
"""And for so long, the pause of a key that is held included, the person keeps what was taken."""
_FASTER = 1.25
"""Keys that change the speed, by so much each."""
_SPEEDS = 0.1, 2.0
"""Of the speed that was set, the least and the greatest that keys can choose."""


@dataclass(frozen=True)
class Asked:
    """What a person who holds the dead-man asks for."""

    twist: Array
    """(6) m/s and rad/s."""
    grip: str = ""
    """Of the gripper, since the last time: open, close, toggle, or '' for nothing."""


def shaped(value: float, dead_zone: float, expo: float) -> float:
    """An axis from -1 to 1 without its dead zone, and finer in the middle: (1 - expo) x + expo x^3."""
    beyond = (abs(value) - dead_zone) / (1.0 - dead_zone)
    if beyond <= 0.0:
        return 0.0
    x = math.copysign(min(beyond, 1.0), value)
    return (1.0 - expo) * x + expo * x**3


class Gamepad:
    """Axes and buttons. The dead-man must be seen up before it counts: one that is down at first, or after a silence,
    may be stuck."""

    def __init__(self, teleop: Teleop) -> None:
        self._teleop = teleop
        self._axes: Array = np.zeros(6)
        self._pressed: list[bool] = []
        self._heard = -math.inf
        self._came = -math.inf
        """When it said anything, of use or not."""
        self._seen_up = False
        self._grip = ""

    def heard(self, axes: Sequence[float], buttons: Sequence[bool], now: float) -> None:
        """Raises ValueError for a gamepad with other axes and buttons, or with values that are none."""
        teleop = self._teleop
        before, self._heard = self._pressed, -math.inf  # of no use, unless all is well
        if now - self._came > SILENT_SECONDS:
            # It may be another one, or have been put down meanwhile.
            before, self._seen_up = [], False
        self._came = now
        most = max((number for number, _ in teleop.axes.values()), default=-1)
        if most >= len(axes):
            raise ValueError(f"{len(axes)} axes, an axis {most} expected")
        numbers = [teleop.dead_man, teleop.gripper, teleop.open, teleop.close, teleop.slow]
        last = max(number for number in numbers if number is not None)
        if last >= len(buttons):
            raise ValueError(f"{len(buttons)} buttons, a button {last} expected")
        values = [(axes[number], sign) for number, sign in (teleop.axes.get(n, (0, 0.0)) for n in TELEOP_AXES)]
        if not all(math.isfinite(value) for value, sign in values if sign):
            raise ValueError(f"axes {[round(float(x), 3) for x in axes]}, finite numbers expected")
        self._axes = np.array([sign and sign * shaped(x, teleop.dead_zone, teleop.expo) for x, sign in values])
        self._pressed, self._heard = list(buttons), now
        self._seen_up |= not self._pressed[teleop.dead_man]
        for number, grip in ((teleop.gripper, "toggle"), (teleop.open, "open"), (teleop.close, "close")):
            if number is not None and self._pressed[number] and before and not before[number]:
                self._grip = grip

    def asked(self, now: float) -> Asked | None:
        """None: let go."""
        teleop, grip = self._teleop, self._grip
        self._grip = ""
        if now - self._heard > SILENT_SECONDS or not self._seen_up or not self._pressed[teleop.dead_man]:
            return None
        slow = teleop.slow_factor if teleop.slow is not None and self._pressed[teleop.slow] else 1.0
        speeds = np.repeat([teleop.linear, teleop.angular], 3)
        return Asked(slow * speeds * self._axes, grip)


class Twists:
    """Of somebody else's device: whoever publishes holds the dead-man."""

    def __init__(self) -> None:
        self._twist: Array = np.zeros(6)
        self._heard = -math.inf

    def heard(self, twist: ArrayLike, now: float) -> None:
        """twist (6). Raises ValueError for values that are none."""
        self._heard = -math.inf
        values = np.asarray(twist, np.float64)
        if not np.all(np.isfinite(values)):
            raise ValueError(f"twist {values.tolist()}, finite numbers expected")
        self._twist, self._heard = values, now

    def asked(self, now: float) -> Asked | None:
        """None: let go."""
        return None if now - self._heard > SILENT_SECONDS else Asked(self._twist)


_PAIRS = (("w", "s"), ("a", "d"), ("r", "f"), ("u", "o"), ("i", "k"), ("j", "l"))
_ARROWS = (("\x1b[A", "\x1b[B"), ("\x1b[D", "\x1b[C"))
_MOTIONS: Mapping[str, tuple[int, float]] = {
    key: (axis, sign)
    for pairs in (_PAIRS, _ARROWS)
    for axis, pair in enumerate(pairs)
    for key, sign in zip(pair, (1.0, -1.0), strict=True)
}
"""Key -> axis of the twist, and its sign."""
_GRIPS = {"g": "toggle", "c": "close", "v": "open"}
_KEY = re.compile("\x1b\\[[A-D]|\x1b|[^\x1b]")
HELP = (
    "keys: w s (up down) along x, a d (left right) along y, r f along z; u o, i k, j l turn about x, y, z",
    "g gripper (c close, v open), space holds still, + - speed, x or Esc lets go. Hold a key to go on; Ctrl-C ends.",
)
"""What a person at the keyboard must know."""


class Keyboard:
    """Keys of a terminal, which says when one goes down and repeats it, but never when it goes up."""

    def __init__(self, linear: float, angular: float) -> None:
        self._speeds = np.repeat([linear, angular], 3)
        self._moved: dict[str, float] = {}
        """When a motion's key was heard last."""
        self._heard = -math.inf
        self._grip = ""
        self.speed = 1.0
        """Of what was set."""

    def heard(self, text: str, now: float) -> None:
        """What came from the terminal since the last time."""
        for key in _KEY.findall(text):
            if key in ("+", "="):
                self.speed = min(self.speed * _FASTER, _SPEEDS[1])
            elif key == "-":
                self.speed = max(self.speed / _FASTER, _SPEEDS[0])
            elif key in ("x", "\x1b"):
                self._heard, self._grip = -math.inf, ""
                self._moved.clear()
            elif key in _MOTIONS:
                self._moved.pop(key, None)  # of two opposite keys the newer counts, which is the last
                self._moved[key] = self._heard = now
            elif key in _GRIPS:
                self._grip, self._heard = _GRIPS[key], now
            elif key == " ":
                self._heard = now
                self._moved.clear()

    def asked(self, now: float) -> Asked | None:
        """None: let go."""
        grip, self._grip = self._grip, ""
        if now - self._heard > HELD_SECONDS:
            return None
        twist = np.zeros(6)
        for key, when in self._moved.items():
            if now - when <= MOTION_SECONDS:
                axis, sign = _MOTIONS[key]
                twist[axis] = sign
        return Asked(self.speed * self._speeds * twist, grip)


class PersonRows:
    """Rows of one control step from what a person asks for.

    linear, angular: the greatest speeds [m/s, rad/s]. gains (2): the way that an arm goes in a step, for a step's row
    of 1, in position and in rotation; 1 where rows are reached within their steps. greatest (7): of a row.
    """

    def __init__(
        self,
        period: float,
        linear: float,
        angular: float,
        gains: tuple[float, float] = (1.0, 1.0),
        greatest: Sequence[float] = (),
    ) -> None:
        self._linear, self._angular = linear, angular
        self._steps = np.repeat([period / gains[0], period / gains[1]], 3)
        self._greatest = np.array(greatest) if len(greatest) else np.full(ACTION_SIZE, np.inf)
        self._gripper = 0.0
        """-1 open to 1 closed, as the last row had it; 0 as it is, also before anything is known of it."""
        self._side = 0.0
        """Its last sign, -1 or 1, for whoever toggles it; 0 before anything is known of it."""
        self._chosen = False
        """Whether the person has said what the gripper is to do, since they took over."""
        self.driving = False

    def executed(self, row: Array, person: bool) -> None:
        """A row (7) that was executed, and whether it was a person's: what the gripper was told last stays until the
        person says more. One's own rows are heard late, and a policy's last ones may be, too."""
        if self.driving and (person or self._chosen):
            return
        if row[6] or not person:  # a person's 0 is what their device does not know
            self._gripper = float(row[6])
        if row[6]:
            self._side = math.copysign(1.0, row[6])

    def row(self, asked: Asked | None) -> Array | None:
        """(7), once in each control step: zeros for the step in which the person lets go, None after it. `driving` says
        whether the person holds on, for theirs may be all zero, too."""
        if asked is None:
            before, self.driving, self._chosen = self.driving, False, False
            return np.zeros(ACTION_SIZE) if before else None
        self.driving = True
        if asked.grip:
            self._chosen = True
            # Of a gripper that nothing is known of, nobody toggles what it holds.
            self._gripper = self._side = {"open": -1.0, "close": 1.0}.get(asked.grip, -self._side or 1.0)
        speeds = np.concatenate((shortened(asked.twist[:3], self._linear), shortened(asked.twist[3:], self._angular)))
        row = np.append(self._steps * speeds, self._gripper)
        limited: Array = np.clip(row, -self._greatest, self._greatest)
        return limited


@dataclass(frozen=True)
class PersonRow:
    """The person's row that is due."""

    row: Array
    """(7) as in ActionChunk."""
    key: tuple[int, int]
    """When the person took over [ns], and how many rows ago."""

    @property
    def gripper(self) -> float | None:
        """-1 open to 1 closed; None: as it is, for nothing is known of it."""
        return float(self.row[6]) or None


class Takeover:
    """Whether a person decides, and their row that is due.

    A row takes over, also one that is all zero: they hold still. None, or silence, gives back. A row that cannot be
    used holds. Afterwards a policy's chunk counts if its observation was made when the person had let go
    (`sets_aside`).
    """

    def __init__(self, period_ns: int, max_age: float = FRESH_SECONDS) -> None:
        self._period_ns, self._max_age = period_ns, max_age
        self._max_age_ns = round(max_age * 1e9)
        self.decides = False
        self.reason = ""
        """Why nothing moves though a person decides, or ''."""
        self.newest: Array = np.zeros(ACTION_SIZE)
        """The row that was heard last (7), since the person took over."""
        self._stamp_ns, self._heard = 0, -math.inf
        self._began_ns: int | None = None
        self._due: PersonRow | None = None
        self._released_ns: int | None = None

    def say(self, row: Array | None, stamp_ns: int, now_ns: int, seconds: float) -> None:
        """The person's row (7); None: they let go. Raises ValueError for one of another time."""
        age = (now_ns - stamp_ns) / 1e9
        if abs(age) > self._max_age:
            when = f"{age:.2f} s old" if age > 0 else f"stamped {-age:.2f} s ahead of the clock"
            raise ValueError(f"{when}, at most {self._max_age:g} s expected")
        if row is not None:
            self._take(stamp_ns, seconds, "")
            self.newest = row
        elif self.decides:
            self._heard = -math.inf

    def refuse(self, why: str, now_ns: int, seconds: float) -> None:
        """Something came from a person that cannot be used."""
        self._take(now_ns, seconds, why)

    def _take(self, stamp_ns: int, seconds: float, reason: str) -> None:
        if not self.decides:
            self.decides, self._began_ns, self._due, self.newest = True, None, None, np.zeros(ACTION_SIZE)
        self._stamp_ns, self._heard, self.reason = stamp_ns, seconds, reason

    def update(self, now_ns: int, seconds: float, seen_ns: int) -> bool:
        """Whether a person decides now. seen_ns: stamp of the newest observation."""
        if self._released_ns is not None and now_ns < self._released_ns - self._max_age_ns:
            self._released_ns = None  # in a time that begins again
        fresh = seconds - self._heard <= self._max_age and now_ns - self._stamp_ns <= self._max_age_ns
        if self.decides and not fresh:
            self.decides, self.reason = False, ""
            self._released_ns = max(now_ns, seen_ns)
        return self.decides

    def row(self, now_ns: int) -> PersonRow | None:
        """The row that is due: one for each control step from when the person took over, at whatever pace they come.
        None while what they say cannot be used."""
        if self.reason:
            return None
        if self._began_ns is None or now_ns < self._began_ns:
            self._began_ns, self._due = now_ns, None
        key = self._began_ns, (now_ns - self._began_ns) // self._period_ns
        if self._due is None or self._due.key != key:
            self._due = PersonRow(self.newest, key)
        return self._due

    def sets_aside(self, stamp_ns: int) -> str:
        """Why a policy's chunk of that stamp does not count, or ''."""
        if self.decides:
            return "chunk set aside: a person drives"
        if self._released_ns is not None and stamp_ns <= self._released_ns:
            return "chunk set aside: made from what was seen while a person drove"
        return ""
