"""maze.launch.py by its older name."""

from pathlib import Path

from launch import LaunchDescription

from diffusion_ros.systems import MAZE
from diffusion_ros.systems.launch_description import describe


def generate_launch_description() -> LaunchDescription:
    return describe(MAZE, Path(__file__).resolve().parents[1])
