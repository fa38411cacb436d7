"""All systems, by name: which nodes each one has, and what can be chosen when it is started."""

from diffusion_ros.systems.arm import REAL_ROBOT, SIMULATION
from diffusion_ros.systems.gym import CARTPOLE, DOUBLE_PENDULUM
from diffusion_ros.systems.maze import MAZE

SYSTEMS = {system.name: system for system in (SIMULATION, MAZE, CARTPOLE, DOUBLE_PENDULUM, REAL_ROBOT)}
