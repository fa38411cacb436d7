"""A robot's drivers, simulated by its own file, with policy and executor as on the robot.

`ros2 launch diffusion_ros rehearsal.launch.py robot:=franka_crisp task:=can speed:=0.5`
"""

from pathlib import Path

from launch import LaunchDescription

from diffusion_ros.systems import REHEARSAL
from diffusion_ros.systems.launch_description import describe


def generate_launch_description() -> LaunchDescription:
    return describe(REHEARSAL, Path(__file__).resolve().parents[1])
