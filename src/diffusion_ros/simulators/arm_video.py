"""The video of an arm's episode: the policy's cameras, the predicted chunk, and the arm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffusion_ros.simulators import video
from diffusion_ros.simulators.arm import Simulation
from diffusion_ros.simulators.episode import Episode

Image = NDArray[np.uint8]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class ArmStep:
    """What one picture of the video is made from; taken while the episode runs and drawn after it."""

    qpos: Array
    images: tuple[Image, ...]
    """The policy's cameras, as the policy saw them."""
    way: Array
    """(N, 3) m, where the hand is and where the rest of the newest chunk leads from there."""
    step: int
    reason: str
    """Why the robot held after this observation; '' when it acted."""
    success: bool


def pictures(simulation: Simulation, view: str, episode: Episode, recorded: Sequence[ArmStep]) -> Iterator[Image]:
    """The video's pictures, drawn one by one from recorded positions; the simulator's state is not touched."""
    size = video.VIEW_SIZE
    matrix = simulation.camera_matrix(view, size, size)
    for step in recorded:
        drawn = simulation.render(view, size, size, qpos=step.qpos)
        pixels = video.project(step.way, matrix, *simulation.camera_pose(view, qpos=step.qpos))
        title = f"{simulation.task_name}  episode {episode.index + 1}  seed {episode.seed}  step {step.step}"
        if step.success:
            state = ("success", video.GREEN)
        elif step.reason:
            state = (f"holding: {step.reason}", video.AMBER)
        else:
            state = ("acting", video.WHITE)
        drawn = video.draw_chunk_legend(video.draw_chunk(drawn, pixels))
        yield video.compose(step.images, drawn, [(title, video.WHITE), state])
