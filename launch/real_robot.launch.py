"""Policy and executor for a robot that has drivers and cameras of its own.

`ros2 launch diffusion_ros real_robot.launch.py robot:=mine.yaml checkpoint:=P`
`mine.yaml` describes the robot, as those in config/robots do; docs/robot.md says how. For a driver that takes
eef_command itself, `params_file:=mine.yaml` instead, a copy of config/real_robot.yaml with its limits and box.
Nothing moves until the service `executor/set_enabled` is called, unless enabled:=true is given.
"""

from pathlib import Path

from launch import LaunchDescription

from diffusion_ros.systems import REAL_ROBOT
from diffusion_ros.systems.launch_description import describe


def generate_launch_description() -> LaunchDescription:
    return describe(REAL_ROBOT, Path(__file__).resolve().parents[1])
