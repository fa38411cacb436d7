"""Trainers, collectors of demonstrations and evaluation: each module with a `main` is a command."""

from diffusion_ros.installation import exit_where_missing

exit_where_missing(__name__)
