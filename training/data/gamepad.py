"""A scripted expert's hands on a gamepad: when it drives, and what the sticks say. No ROS here; times are arguments."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from diffusion_ros.control.observation import Frame
from diffusion_ros.robot import ACTION_SCALE, EEF_POS, EEF_QUAT, GRIPPER_QPOS, OBJECT_POS, OBJECT_QUAT, RATE
from diffusion_ros.robot_file import TELEOP_AXES, Teleop
from training.data.experts import EXPERTS, Expert, ExpertView

Array = NDArray[np.float64]

GRIP_SITE = Rotation.from_euler("z", -90, degrees=True)
"""How the grip site, which experts look at, is turned to the hand."""


class Sticks:
    """From an expert's rows to what a gamepad would say."""

    def __init__(self, teleop: Teleop, gain: float) -> None:
        """Raises ValueError for a gamepad by which an expert cannot say all that it wants."""
        missing = [name for name in TELEOP_AXES if name not in teleop.axes or not teleop.axes[name][1]]
        if teleop.type != "joy" or missing or teleop.open is None or teleop.close is None:
            lacks = f"axes {', '.join(missing)}" if missing else "buttons open and close"
            raise ValueError(f"teleop: joy with six axes, open and close expected, this {teleop.type} lacks {lacks}")
        self._teleop, self._gain = teleop, gain
        self._closed: bool | None = None
        # More than any button that the robot's file names: it refuses a gamepad that lacks one.
        self._axes = max(8, 1 + max(number for number, _ in teleop.axes.values()))
        buttons = (teleop.dead_man, teleop.gripper, teleop.open, teleop.close, teleop.slow)
        self._buttons = max(32, 1 + max(number for number in buttons if number is not None))

    def rest(self) -> tuple[list[float], list[bool]]:
        """Axes and buttons of a gamepad that lies on the table."""
        self._closed = None
        return [0.0] * self._axes, [False] * self._buttons

    def held(self, row: Array, noise: Array) -> tuple[list[float], list[bool]]:
        """Of a row (7) in metres and radians a step; noise (6) in parts of full deflection."""
        teleop = self._teleop
        wanted = np.clip(self._gain * row[:6] / ACTION_SCALE[:6] + noise, -1.0, 1.0)
        axes, buttons = [0.0] * self._axes, [False] * self._buttons
        for value, name in zip(wanted, TELEOP_AXES, strict=True):
            number, factor = teleop.axes[name]
            axes[number] = _before(float(np.clip(value / factor, -1.0, 1.0)), teleop.dead_zone, teleop.expo)
        buttons[teleop.dead_man] = True
        closed = bool(row[6] > 0)
        if closed != self._closed:  # pressed once: a finger comes up again
            button = teleop.close if closed else teleop.open
            assert button is not None
            buttons[button], self._closed = True, closed
        return axes, buttons


def _before(value: float, dead_zone: float, expo: float) -> float:
    """What a stick says that means `value` after dead zone and expo (teleoperation.shaped)."""
    if value == 0.0:
        return 0.0
    size = abs(value)
    x = size if expo == 0 else max(r.real for r in np.roots([expo, 0.0, 1.0 - expo, -size]) if abs(r.imag) < 1e-9)
    return float(np.copysign(dead_zone + x * (1.0 - dead_zone), value))


def view_of(values: dict[str, Array]) -> ExpertView:
    """What an expert may look at, of a frame."""
    hand = Rotation.from_quat(values[EEF_QUAT]) * GRIP_SITE
    fingers = values[GRIPPER_QPOS]
    return ExpertView(
        values[EEF_POS],
        hand.as_matrix(),
        float(fingers[0] - fingers[1]),
        values[OBJECT_POS],
        Rotation.from_quat(values[OBJECT_QUAT]).as_matrix(),
    )


class Driver:
    """When the expert drives, and what it wants: a frame after the other. No ROS; times in seconds."""

    def __init__(self, task: str, take_over: float, noise: float, seed: int) -> None:
        """take_over: seconds of an episode that somebody else drives; noise: strongest, in parts of full deflection."""
        self._task, self._take_over, self._noise = task, take_over, noise
        self._view: ExpertView | None = None
        self._expert: Expert | None = None
        self._began = 0.0
        self._stepped_ns: int | None = None
        self._episode: int | None = None
        self._rng = np.random.default_rng(seed)
        self._spread = 0.0

    def episode(self, index: int, running: bool) -> bool:
        """What the rehearsal says. Another episode is another expert: whether it is another."""
        another = index != self._episode or not running
        if another:
            self._episode, self._expert = index, None
        return another

    def away(self) -> None:
        """Nothing has come for a while."""
        self._expert = None

    def step(self, frame: Frame, now: float) -> tuple[Array, Array] | None:
        """Row (7) and noise (6) of a control step, or None: it is not the expert's turn, or no step is due."""
        seen = view_of({name: np.asarray(value, np.float64) for name, value in frame.values.items()})
        if self._expert is None:
            self._view, self._began, self._stepped_ns = seen, now, None
            self._expert = EXPERTS[self._task](seen)
            self._spread = float(self._rng.uniform(0.0, self._noise))
        assert self._view is not None
        vars(self._view).update(vars(seen))
        if self._stepped_ns is not None and 0 <= frame.stamp_ns - self._stepped_ns < 0.9e9 / RATE:
            return None
        self._stepped_ns = frame.stamp_ns
        if now - self._began < self._take_over:
            # It begins from what the policy has made of it.
            self._expert = EXPERTS[self._task](self._view)
            return None
        row = next(self._expert, None)
        return None if row is None else (row, self._spread * self._rng.standard_normal(6))
