"""cartpole.launch.py, or another Gymnasium task: `ros2 launch diffusion_ros rl.launch.py system:=double_pendulum`."""

from pathlib import Path

from launch import LaunchDescription

from diffusion_ros.systems import GYM_SYSTEMS
from diffusion_ros.systems.launch_description import describe_one_of


def generate_launch_description() -> LaunchDescription:
    return describe_one_of(GYM_SYSTEMS, Path(__file__).resolve().parents[1])
