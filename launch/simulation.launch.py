"""Simulator, policy and executor: `ros2 launch diffusion_ros simulation.launch.py task:=can view:=frontview`."""

from pathlib import Path

from launch import LaunchDescription

from diffusion_ros.systems import SIMULATION
from diffusion_ros.systems.launch_description import describe


def generate_launch_description() -> LaunchDescription:
    return describe(SIMULATION, Path(__file__).resolve().parents[1])
