"""What the rehearsal node is told."""

from __future__ import annotations

from dataclasses import dataclass

from diffusion_ros.robot import FRAME_PREFIX
from diffusion_ros.ros.params import parameter
from diffusion_ros.ros.simulator_parameters import SimulatorParameters
from diffusion_ros.simulators import arm_driver, driver_streams
from diffusion_ros.simulators.tasks import ARM_TASKS


@dataclass(frozen=True)
class RehearsalParameters(SimulatorParameters):
    """Parameters of the rehearsal node."""

    robot: str = parameter("franka_crisp", "the robot: a YAML file, or the name of one that comes with the package")
    task: str = parameter("can", "the robot's task", choices=tuple(ARM_TASKS))
    stop_after_success: int = parameter(0, "steps for which an episode goes on after its success", low=0)
    clock_offset: float = parameter(0.0, "what the drivers' clocks are ahead of ours [s]", low=-3600.0, high=3600.0)
    picture_size: str = parameter("640x480", "width and height of the cameras' pictures [px]")
    picture_rate: float = parameter(30.0, "pictures a second of each camera [Hz]", low=1.0, high=120.0)
    picture_delay: float = parameter(0.035, "from a picture's exposure to its publication [s]", low=0.0, high=1.0)
    picture_jitter: float = parameter(0.008, "by which that is more or less [s]", low=0.0, high=1.0)
    jitter_seed: int = parameter(0, "seed of the pictures' delays", low=0)
    encoding: str = parameter(
        "", "of the pictures; '': what the camera's preset sends", choices=("", *driver_streams.ENCODINGS)
    )
    pose_rate: float = parameter(0.0, "poses and joints a second [Hz]; 0: as the driver", low=0.0, high=1000.0)
    servo_caps: tuple[float, ...] = parameter(
        arm_driver.SERVO_CAPS, "MoveIt Servo: its scale.linear and scale.rotational [m/s, rad/s]", low=0.001, high=10.0
    )
    servo_singularity: tuple[float, ...] = parameter(
        (), "MoveIt Servo: condition numbers at which it slows down and halts; []: its own, with six joints UR's", low=1
    )
    gripper_speed: float = parameter(0.2, "of the gripper's width [m/s]; a Franka Hand's is 0.1", low=0.01, high=1.0)
    frame_prefix: str = parameter("", FRAME_PREFIX)
    view: str = parameter("", "camera of the larger view in the videos; '': no videos")

    def __post_init__(self) -> None:
        driver_streams.picture_size(self.picture_size)
        for name, values in (("servo_caps", self.servo_caps), ("servo_singularity", self.servo_singularity)):
            if len(values) not in ((2,) if name == "servo_caps" else (0, 2)):
                raise ValueError(f"parameter {name} is {list(values)}, two numbers expected")

    @property
    def size(self) -> tuple[int, int]:
        """Width, height [px]."""
        return driver_streams.picture_size(self.picture_size)
