"""CartPole and its Rainbow policy: `ros2 launch diffusion_ros cartpole.launch.py rviz:=true`."""

from pathlib import Path

from launch import LaunchDescription

from diffusion_ros.systems import CARTPOLE
from diffusion_ros.systems.launch_description import describe


def generate_launch_description() -> LaunchDescription:
    return describe(CARTPOLE, Path(__file__).resolve().parents[1])
