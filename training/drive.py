"""The scripted expert at a gamepad: it drives a rehearsed robot as a person would, through the teleoperation input.

    diffusion_ros rehearsal --robot F --task can --teleop joy --policy false --record runs/session --domain-id 7
    python -m training.drive --robot F --task can --domain-id 7          # in another terminal

It sees the topics that the robot's file names, with the object's pose among them, which no real robot has, and presses
axes and buttons of sensor_msgs/Joy. So everything that a person's hands go through is gone through: teleop node,
executor, limits, driver, recorder. Without --robot it drives the simulator (`simulation --teleop topic`), by rows.

With --take-over it lets the policy drive first, and corrects it (HG-DAgger; Kelly et al. 2019, arXiv 1810.02890).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from diffusion_ros import robot_file
from diffusion_ros.robot import EEF_POS, EEF_QUAT, GRIPPER_QPOS, OBJECT_POS, OBJECT_QUAT, RATE, WORLD_FRAME
from diffusion_ros.robot_file import OBJECT, Teleop
from diffusion_ros.simulators.tasks import ARM_TASKS, arm_task
from diffusion_ros.spec import CheckpointSpec, TensorSpec
from training import command_line
from training.data.gamepad import Driver, Sticks

if TYPE_CHECKING:
    from diffusion_ros.ros.runner import RunnableNode

_INPUTS = ((EEF_POS, 3, "m"), (EEF_QUAT, 4, "1"), (GRIPPER_QPOS, 2, "m"), (OBJECT_POS, 3, "m"), (OBJECT_QUAT, 4, "1"))


@dataclass(frozen=True)
class Options:
    """Lets the scripted expert drive a rehearsed robot by gamepad."""

    robot: Path | None = None
    """The robot's YAML, with `teleop` of type joy, all six axes, buttons open and close, and the observation object;
    without it the simulator."""
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


def inputs_of(task: str) -> CheckpointSpec:
    """What the driver observes, as a policy's inputs, in the world."""
    return CheckpointSpec(
        kind="policy",
        task=task,
        environment=ARM_TASKS[task].environment,
        inputs=tuple(TensorSpec(name, (size,), "float32", unit, WORLD_FRAME) for name, size, unit in _INPUTS),
        outputs=(),
        rate=RATE,
        horizon=1,
        n_obs_steps=1,
        n_action_steps=1,
        action_low=(),
        action_high=(),
        base_pose=ARM_TASKS[task].base_pose,
    )


def drive(options: Options) -> None:
    """Until Ctrl-C."""
    if options.domain_id is not None:
        os.environ["ROS_DOMAIN_ID"] = str(options.domain_id)
    # rclpy is slow to import, and reads the domain when it starts.
    from diffusion_ros.ros.runner import run
    from training.data.gamepad_node import ExpertNode, GamepadHands, Hands, RowHands

    hands: Callable[[RunnableNode], Hands] = RowHands
    robot = None
    if options.robot is not None:
        robot = robot_file.read(robot_file.find(str(options.robot)))
        if OBJECT not in robot.poses:
            raise ValueError(f"{robot.path}: observations.object is missing: an expert must see what it handles")
        teleop = robot.teleop or Teleop()
        hands = partial(GamepadHands, topic=teleop.topic, sticks=Sticks(teleop, options.gain))
    driver = Driver(options.task, options.take_over, options.noise, options.seed)
    status = run(lambda: ExpertNode(robot, inputs_of(options.task), driver, hands, options.sim_time), [])
    if status:
        raise SystemExit(status)


def main() -> None:
    command_line.run(Options, drive, __doc__)


if __name__ == "__main__":
    main()
