"""All systems, by name: which nodes each one has, and what can be chosen when it is started."""

from diffusion_ros.systems.arm import REAL_ROBOT as REAL_ROBOT
from diffusion_ros.systems.arm import REHEARSAL, SIMULATION
from diffusion_ros.systems.arm import TELEOPERATE as TELEOPERATE
from diffusion_ros.systems.gym import CARTPOLE as CARTPOLE
from diffusion_ros.systems.gym import DOUBLE_PENDULUM as DOUBLE_PENDULUM
from diffusion_ros.systems.gym import GYM_SYSTEMS as GYM_SYSTEMS
from diffusion_ros.systems.images import IMAGES
from diffusion_ros.systems.maze import MAZE

SYSTEMS = {
    system.name: system for system in (SIMULATION, MAZE, *GYM_SYSTEMS, REHEARSAL, REAL_ROBOT, TELEOPERATE, IMAGES)
}
