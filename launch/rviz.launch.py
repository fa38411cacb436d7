"""RViz with both cameras, the scene, the way of the hand and the predicted chunk, beside a system that runs."""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node


def generate_launch_description() -> LaunchDescription:
    config = Path(__file__).resolve().parents[1] / "config" / "simulation.rviz"
    return LaunchDescription(
        [
            DeclareLaunchArgument("namespace", default_value="", description="of the system to look at"),
            DeclareLaunchArgument("config", default_value=str(config), description="what to show (.rviz)"),
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
