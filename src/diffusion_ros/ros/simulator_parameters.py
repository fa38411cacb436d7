"""Parameters that simulators have in common."""

from __future__ import annotations

from dataclasses import dataclass

from diffusion_ros.ros.params import parameter


@dataclass(frozen=True)
class SimulatorParameters:
    """Parameters that all of them have."""

    episodes: int = parameter(0, "number of episodes, after which the node ends; 0: without end", low=0)
    first_episode: int = parameter(0, "number of the episode to begin with, where those before are done", low=0)
    seed: int = parameter(100_000, "seed of the first episode; episode i is drawn from seed + i", low=0)
    max_steps: int = parameter(0, "length of an episode; 0: the task's own", low=0)
    pause: float = parameter(
        1.0, "in real time: silence between episodes, by which the other nodes notice a new one [s]", low=1.0, high=60.0
    )
    speed: float = parameter(
        1.0,
        "in real time: simulated seconds in a second; below 1 the time is published on /clock, for nodes with"
        " use_sim_time",
        low=0.05,
        high=1.0,
    )
    scene: bool = parameter(True, "publish the scene as markers for RViz")
    transforms: bool = parameter(True, "publish /tf and /tf_static where tf2_msgs is installed")
    output_dir: str = parameter("", "folder of the videos; '': the current folder")
    results: str = parameter("", "file to which each episode adds its result at its end, as one line of JSON")
    replay: bool = parameter(True, "keep beside `results` where all bodies were, for the replay in 3D of report.html")

    @property
    def lockstep(self) -> bool:
        """Whether the simulator waits for the command to each observation."""
        return False


@dataclass(frozen=True)
class TwoClocksParameters(SimulatorParameters):
    """And those of simulators that can wait."""

    mode: str = parameter(
        "realtime",
        "lockstep: waits for the command to each observation; realtime: keeps its rate of wall time",
        choices=("realtime", "lockstep"),
    )

    @property
    def lockstep(self) -> bool:
        return self.mode == "lockstep"

    def __post_init__(self) -> None:
        if self.lockstep and self.speed != 1.0:
            raise ValueError(f"parameter speed is {self.speed:g}, 1 expected in lockstep, which waits for each command")
