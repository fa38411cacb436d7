"""Episodes on their way from one format to another: bag, robomimic's HDF5, LeRobot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffusion_ros.action_kinds import ActionFormat

LEAST_LENGTH = 0.1
"""Of a quaternion. Those of simulators and drivers have 1, but for rounding; 0 stands where nobody knew."""


@dataclass(frozen=True)
class Layout:
    """What holds for all episodes of a data set."""

    environment: str
    """What robosuite calls its environment (PickPlaceCan), or what the task is in one's own words."""
    robot: str
    rate: float
    """Control steps a second [Hz]."""
    actions: ActionFormat
    scale: tuple[float, ...]
    """(7) what a full delta means: m, rad, and 1 of the gripper; of other kinds the most that one control step goes."""
    numbers: Mapping[str, int]
    """Name of an observation, in robomimic's names where there is one (robot0_eef_pos) -> how many numbers."""
    pictures: Mapping[str, tuple[int, int]]
    """Name, which ends with _image -> height and width [px]."""
    base_pose: tuple[float, ...] = ()
    """Where the robot's base stands in the frame of poses and deltas, as a checkpoint's specification has it (7); ():
    that frame is the base's, or the simulator's own."""
    response: tuple[float, ...] = ()
    """How the arm follows rows, likewise (4); (): within a step, or as the simulator's own."""
    executed: bool = False
    """Whether all episodes say what was executed."""


@dataclass(frozen=True)
class Episode:
    """One episode of N control steps."""

    numbers: Mapping[str, NDArray[np.float64]]
    """Name -> (N, n), in metres, radians, quaternions xyzw."""
    pictures: Mapping[str, Callable[[], Iterable[NDArray[np.uint8]]]]
    """Name -> a call that gives N pictures (H, W, 3) rgb one after the other: all together may be more than memory."""
    actions: NDArray[np.float64]
    """(N, width) in the units of the layout's format."""
    stamps: NDArray[np.int64]
    """(N) ns, of the observations."""
    success: bool | None = None
    """None: nobody has said."""
    person: NDArray[np.bool_] | None = None
    """(N) whether a person acted, and not a policy; None: nothing is known."""
    executed: NDArray[np.float64] | None = None
    """(N, width) what acted, in the units of `actions`; these may be a label instead. None: nothing is known."""
    extras: Mapping[str, Any] = field(default_factory=dict)
    """What a format has beside that, by its own names (robomimic's states, rewards): kept where the other has it."""

    def __len__(self) -> int:
        return len(self.actions)


def check_quaternions(where: str, name: str, values: NDArray[Any]) -> None:
    """ValueError, which begins with `where`, for quaternions (N, 4) of (nearly) no length: they are no orientation.

    By their name, as robomimic has it; other arrays are left alone.
    """
    if not name.endswith("_quat") or values.ndim != 2 or values.shape[1] != 4:
        return
    lengths = np.linalg.norm(values, axis=1)
    if len(lengths) and lengths.min() < LEAST_LENGTH:
        row = int(lengths.argmin())
        raise ValueError(f"{where} has a quaternion of length {lengths[row]:.2g} in row {row}, 1 expected")
