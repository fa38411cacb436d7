"""A person drives the simulated arm; the keyboard is for `diffusion_ros teleoperate`, as launch has no terminal.

`ros2 launch diffusion_ros teleoperate.launch.py task:=can teleop:=joy`
"""

from pathlib import Path

from launch import LaunchDescription

from diffusion_ros.systems import TELEOPERATE
from diffusion_ros.systems.launch_description import describe


def generate_launch_description() -> LaunchDescription:
    return describe(TELEOPERATE, Path(__file__).resolve().parents[1])
