"""RViz beside a system that runs, `system:=simulation|planner|rl|images`.

simulation: cameras, scene, the hand's way and the predicted chunk; a guard's heat maps can be switched on. planner:
maze, plan, candidates and their denoising, and a tool that sets goals. rl: the cart and its pole. images: what
image_generator draws, and how.
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node


def generate_launch_description() -> LaunchDescription:
    folder = Path(__file__).resolve().parents[1] / "config"
    return LaunchDescription(
        [
            DeclareLaunchArgument("namespace", default_value="", description="of the system to look at"),
            DeclareLaunchArgument(
                "system",
                default_value="simulation",
                description="what runs",
                choices=["simulation", "planner", "rl", "images"],
            ),
            DeclareLaunchArgument(
                "config",
                default_value=[f"{folder}/", LaunchConfiguration("system"), ".rviz"],
                description="what to show (.rviz)",
            ),
            # The topics in the configuration are relative: they are looked for in RViz's own namespace.
            Node(
                package="rviz2",
                executable="rviz2",
                name="rviz",
                namespace=LaunchConfiguration("namespace"),
                arguments=["-d", LaunchConfiguration("config")],
                output="screen",
            ),
        ]
    )
