"""What a robot is, said once: cameras, joints, fingers, frames, and what its actions are called and scaled by.

robosuite's Panda, which the shipped policies were trained on. Observations are called as robomimic's are.
"""

import numpy as np

ACTION_NAMES = ("eef_dx", "eef_dy", "eef_dz", "eef_drx", "eef_dry", "eef_drz", "gripper")
ACTION_SIZE = len(ACTION_NAMES)
TOOL_ACTION_NAMES = ("tool_dx", "tool_dy", "tool_dz", "tool_drx", "tool_dry", "tool_drz", "gripper")
"""Of rows whose motion is along the hand's own axes."""
POSE_NAMES = ("eef_x", "eef_y", "eef_z", "eef_rx", "eef_ry", "eef_rz", "gripper")
"""Of rows that say where the hand is to be."""
RATE = 20.0
"""Control steps a second [Hz]."""
CAMERAS = ("agentview", "robot0_eye_in_hand")
IMAGE_SIZE = 84
"""Pixels, height and width, of what a policy sees."""
FINGERS = ("gripper0_right_finger_joint1", "gripper0_right_finger_joint2")
"""Their names in joint_states; one opens to positive positions, the other to negative ones [m]."""
EEF_POS = "robot0_eef_pos"
"""The grip site (3) [m]."""
EEF_QUAT = "robot0_eef_quat"
"""Of the hand (4), xyzw."""
HAND_DOWN = (1.0, 0.0, 0.0, 0.0)
"""robosuite's Panda with its hand down, xyzw. A quaternion and its negative are the same orientation but not the same
numbers to a network; those of the demonstrations are the ones on this one's side."""
GRIPPER_QPOS = "robot0_gripper_qpos"
"""Of the fingers (2) [m]."""
OBJECT_POS, OBJECT_QUAT = "object_pos", "object_quat"
"""Of what is handled (3) [m], (4) xyzw."""
TRANSLATION_SCALE = 0.05
"""Metres in one control step at robosuite's full command."""
ROTATION_SCALE = 0.5
"""Radians in one control step at robosuite's full command."""
ACTION_SCALE = np.array([TRANSLATION_SCALE] * 3 + [ROTATION_SCALE] * 3 + [1.0])
WORLD_FRAME = "world"
HAND_FRAME = "robot0_eef"


FRAME_PREFIX = "before the names of frames that nobody else gives, for several robots: 'left/'"
"""What the parameter frame_prefix is."""


def prefixed(prefix: str, frame: str) -> str:
    """A frame's name with the prefix before it; one that has it already stays as it is."""
    return frame if frame.startswith(prefix) else f"{prefix}{frame}"


def optical_frame(camera: str) -> str:
    """The frame of a camera's pictures: z ahead, x right, y down."""
    return f"{camera}_optical_frame"
