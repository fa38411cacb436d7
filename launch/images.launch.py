"""Images drawn by a diffusion model: `ros2 launch diffusion_ros images.launch.py rviz:=true`.

`ros2 service call /image_generator/generate std_srvs/srv/Trigger` draws the next ones.
"""

from pathlib import Path

from launch import LaunchDescription

from diffusion_ros.systems import IMAGES
from diffusion_ros.systems.launch_description import describe


def generate_launch_description() -> LaunchDescription:
    return describe(IMAGES, Path(__file__).resolve().parents[1])
