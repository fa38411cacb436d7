"""What files of others call their observations, and how they lay them beside the actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from diffusion_ros.robot import EEF_POS, EEF_QUAT, GRIPPER_QPOS

_CLOSE = 0.1
"""m: a pose that the hand is told to go to in a step is no farther away."""
_LONG = 1.0
"""A delta of -1 to 1 has no component beyond; the rotation vector of a hand that points down is about pi long."""


@dataclass(frozen=True)
class FileLayout:
    """robomimic's by default."""

    names: Mapping[str, str] = field(default_factory=dict)
    """Our names -> the file's, where they differ."""
    late: bool = False
    """Whether a row's observations are those after its action."""
    upside_down: bool = False
    """Whether pictures are."""
    rotation_vectors: bool = False
    """Whether the hand's orientation is one, and no quaternion."""

    def name(self, key: str) -> str:
        """What the file calls an observation."""
        return self.names.get(key, key)

    def width(self, key: str, width: int) -> int:
        """How many numbers the file has of one that has `width`."""
        return 3 if self.rotation_vectors and key == EEF_QUAT else width

    def actions(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Those (N, A) whose observations are there."""
        return rows[1:] if self.late else rows

    def numbers(self, key: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """An observation (N, ...) before each of the actions, (n, m)."""
        values = (values[:-1] if self.late else values).reshape(len(values) - self.late, -1)
        if self.rotation_vectors and key == EEF_QUAT:
            return np.asarray(Rotation.from_rotvec(values).as_quat(), np.float32)
        return values

    def pictures(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Those (N, H, W, 3) before each of the actions, upright."""
        images = images[:-1] if self.late else images
        return images[:, ::-1] if self.upside_down else images


LIBERO = FileLayout(
    names={
        "agentview_image": "agentview_rgb",
        "robot0_eye_in_hand_image": "eye_in_hand_rgb",
        EEF_POS: "ee_pos",
        EEF_QUAT: "ee_ori",
        GRIPPER_QPOS: "gripper_states",
        "robot0_joint_pos": "joint_states",
    },
    late=True,
    upside_down=True,
    rotation_vectors=True,
)
"""Its scripts/create_dataset.py plays each action and then observes; pictures are as MuJoCo draws them."""


def layout_of(file: h5py.File) -> FileLayout:
    """Which one a file has."""
    return LIBERO if "bddl_file_name" in file["data"].attrs else FileLayout()


def are_poses(rows: NDArray[np.float64], positions: NDArray[np.float32]) -> bool:
    """Whether rows (N, 7) that are said to be deltas are poses: diffusion_policy's absolute variants of robomimic's
    files are copies whose actions alone were rewritten (its robomimic_dataset_conversion.py). positions (N, 3): of the
    hand [m]."""
    if rows.shape[1:] != (7,) or np.abs(rows[:, 3:6]).max() <= _LONG + 1e-6:
        return False
    return bool(
        np.abs(rows[:, :3] - positions).max() < _CLOSE and np.linalg.norm(rows[:, 3:6], axis=1).max() < 2 * np.pi
    )
