"""RViz beside a system that runs, `system:=` its name; `rviz:=true` of its own launch file starts both.

An arm's: cameras, scene, the arm, the hand's way and the predicted chunk. maze: its map, plan, candidates and their
denoising, and a tool that sets goals. cartpole, double_pendulum: the cart and what it balances. images: what
image_generator draws, and how. For rehearsal and real_robot `robot:=` says what the robot's topics and frames are.
"""

from pathlib import Path

from launch import LaunchDescription

from diffusion_ros.systems.launch_description import describe_rviz


def generate_launch_description() -> LaunchDescription:
    return describe_rviz(Path(__file__).resolve().parents[1])
