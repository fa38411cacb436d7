"""Diffusion policies and planners that move robots through ROS 2."""
