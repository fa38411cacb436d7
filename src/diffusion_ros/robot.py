"""What a robot is, said once: cameras, joints, fingers, frames, and what its actions are called and scaled by.

robosuite's Panda, which the shipped policies were trained on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

ACTION_NAMES = ("eef_dx", "eef_dy", "eef_dz", "eef_drx", "eef_dry", "eef_drz", "gripper")
ACTION_SIZE = len(ACTION_NAMES)
RATE = 20.0
CAMERAS = ("agentview", "robot0_eye_in_hand")
IMAGE_SIZE = 84
"""Pixels, height and width, of what a policy sees."""
TRANSLATION_SCALE = 0.05
"""Metres in one control step at robosuite's full command."""
ROTATION_SCALE = 0.5
"""Radians in one control step at robosuite's full command."""
ACTION_SCALE: Array = np.array([TRANSLATION_SCALE] * 3 + [ROTATION_SCALE] * 3 + [1.0])
WORLD_FRAME = "world"


def optical_frame(camera: str) -> str:
    """The frame of a camera's pictures: z ahead, x right, y down."""
    return f"{camera}_optical_frame"
