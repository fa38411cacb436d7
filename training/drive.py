"""The scripted expert at a gamepad: it drives a rehearsed robot as a person would, through the teleoperation input.

    diffusion_ros rehearsal --robot F --task can --teleop joy --policy false --record runs/session --domain-id 7
    python -m training.drive --robot F --task can --domain-id 7          # in another terminal

It sees the topics that the robot's file names, with the object's pose among them, which no real robot has, and presses
axes and buttons of sensor_msgs/Joy. So everything that a person's hands go through is gone through: teleop node,
executor, limits, driver, recorder. With --take-over it lets the policy drive first, and corrects it (HG-DAgger; Kelly
et al. 2019, arXiv 1810.02890).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from diffusion_ros import robot_file
from diffusion_ros.control.observation import Frame
from diffusion_ros.robot import (
    ACTION_SCALE,
    EEF_POS,
    EEF_QUAT,
    GRIPPER_QPOS,
    OBJECT_POS,
    OBJECT_QUAT,
    RATE,
    WORLD_FRAME,
)
from diffusion_ros.robot_file import OBJECT, TELEOP_AXES, Teleop
from diffusion_ros.simulators.tasks import ARM_TASKS, arm_task
from diffusion_ros.spec import CheckpointSpec, TensorSpec
from training import command_line
from training.data.experts import EXPERTS, Expert, ExpertView

Array = NDArray[np.float64]

GRIP_SITE = Rotation.from_euler("z", -90, degrees=True)
"""How the grip site, which experts look at, is turned to the hand."""
_INPUTS = ((EEF_POS, 3), (EEF_QUAT, 4), (GRIPPER_QPOS, 2), (OBJECT_POS, 3), (OBJECT_QUAT, 4))


@dataclass(frozen=True)
class Options:
    """Lets the scripted expert drive a rehearsed robot by gamepad."""

    robot: Path
    """The robot's YAML, with `teleop` of type joy, all six axes, buttons open and close, and the observation object."""
    task: str = "can"
    """lift, can or square."""
    gain: float = 0.6
    """Of the expert's commands: the arm that it was made for lags behind them, a robot's follows at once."""
    take_over: float = 0.0
    """Seconds of an episode that a policy drives before the expert takes over; 0: the expert drives all of it."""
    noise: float = 0.0
    """Strongest noise on the sticks, as a part of full deflection; each episode's is drawn from U(0, noise). The
    recorded actions have it too: what a person does is what they are seen to do."""
    seed: int = 0
    """Of the noise."""
    sim_time: bool = False
    """The time is /clock's: for rehearsals with --speed below 1."""
    domain_id: int | None = None
    """ROS_DOMAIN_ID of the rehearsal; without it the environment's."""

    def __post_init__(self) -> None:
        arm_task(self.task)
        for name, low, high in (("gain", 0.05, 2.0), ("take_over", 0.0, 1000.0), ("noise", 0.0, 1.0)):
            if not low <= (value := getattr(self, name)) <= high:
                raise ValueError(f"{name} {value}: {low:g} to {high:g} expected")
        if self.domain_id is not None and not 0 <= self.domain_id <= 232:
            raise ValueError(f"domain_id {self.domain_id}: 0 to 232 expected")


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
            axes[number] = float(np.clip(_before(value, teleop.dead_zone, teleop.expo) / factor, -1.0, 1.0))
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

    def __init__(self, options: Options) -> None:
        self._options = options
        self._view: ExpertView | None = None
        self._expert: Expert | None = None
        self._began = 0.0
        self._stepped_ns = 0
        self._episode: int | None = None
        self._rng = np.random.default_rng(options.seed)
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
            self._view, self._began, self._stepped_ns = seen, now, 0
            self._expert = EXPERTS[self._options.task](seen)
            self._spread = float(self._rng.uniform(0.0, self._options.noise))
        assert self._view is not None
        vars(self._view).update(vars(seen))
        if 0 <= frame.stamp_ns - self._stepped_ns < 0.9e9 / RATE:
            return None
        self._stepped_ns = frame.stamp_ns
        if now - self._began < self._options.take_over:
            # It begins from what the policy has made of it.
            self._expert = EXPERTS[self._options.task](self._view)
            return None
        row = next(self._expert, None)
        return None if row is None else (row, self._spread * self._rng.standard_normal(6))


def inputs_of(task: str) -> CheckpointSpec:
    """What the driver observes, as a policy's inputs, in the world."""
    kinds = {3: "m", 4: "1", 2: "m"}
    inputs = tuple(TensorSpec(name, (size,), "float32", kinds[size], WORLD_FRAME) for name, size in _INPUTS)
    return CheckpointSpec(
        "policy",
        task,
        ARM_TASKS[task].environment,
        inputs,
        (),
        RATE,
        1,
        1,
        1,
        (),
        (),
        base_pose=ARM_TASKS[task].base_pose,
    )


def drive(options: Options) -> None:
    """Until Ctrl-C."""
    if options.domain_id is not None:
        os.environ["ROS_DOMAIN_ID"] = str(options.domain_id)
    # rclpy is slow to import, and reads the domain when it starts.
    from diffusion_ros.ros.runner import run
    from training.data.gamepad_node import GamepadNode

    robot = robot_file.read(robot_file.find(str(options.robot)))
    if OBJECT not in robot.poses:
        raise ValueError(f"{robot.path}: observations.object is missing: an expert must see what it handles")
    teleop = robot.teleop or Teleop()
    sticks = Sticks(teleop, options.gain)
    status = run(
        lambda: GamepadNode(robot, teleop.topic, inputs_of(options.task), Driver(options), sticks, options.sim_time), []
    )
    if status:
        raise SystemExit(status)


def main() -> None:
    command_line.run(Options, drive, __doc__)


if __name__ == "__main__":
    main()
