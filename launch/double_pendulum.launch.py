"""An inverted double pendulum and its PPO policy: `ros2 launch diffusion_ros double_pendulum.launch.py`."""

from pathlib import Path

from launch import LaunchDescription

from diffusion_ros.systems import DOUBLE_PENDULUM
from diffusion_ros.systems.launch_description import describe


def generate_launch_description() -> LaunchDescription:
    return describe(DOUBLE_PENDULUM, Path(__file__).resolve().parents[1])
