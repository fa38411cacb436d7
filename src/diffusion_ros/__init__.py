"""Diffusion policies and planners that move robots through ROS 2."""

from diffusion_ros.installation import exit_where_missing

exit_where_missing(__name__)
