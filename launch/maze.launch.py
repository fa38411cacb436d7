"""A maze, its planner and a follower: `ros2 launch diffusion_ros maze.launch.py size:=large replan_rate:=2.0`.

A goal set by RViz's goal tool is planned to at once.
"""

from pathlib import Path

from launch import LaunchDescription

from diffusion_ros.systems import MAZE
from diffusion_ros.systems.launch_description import describe


def generate_launch_description() -> LaunchDescription:
    return describe(MAZE, Path(__file__).resolve().parents[1])
