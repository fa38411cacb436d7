"""Where each camera sees the object's frame: its origin and the tips of its axes. Key-points learn to be there.

A network that must tell the nut's place in metres learns a map from whole images. A network that must tell its place in
the image learns what a nut looks like, wherever it lies, from a tenth of the frames. Training needs the object's pose
in the demonstrations and the cameras' geometry, which the simulator has. A running policy needs neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from diffusion_ros.simulators.arm import Simulation
from training.diffusion.policy import POSE_POINTS, rotation_6d

AXIS = 0.05
"""Metres from the object's origin to the tips."""


@dataclass(frozen=True)
class CameraView:
    """A camera without distortion, fixed in the world or to the hand."""

    in_hand: bool
    matrix: Tensor
    """Intrinsics (3, 3) in pixels, (0, 0) at the centre of the upper left one."""
    position: Tensor
    """(3) of the optical frame (x right, y down, z ahead) in the world or in the hand's frame, metres."""
    rotation: Tensor
    """(3, 3), optical frame to the world or the hand's frame."""

    def to(self, device: torch.device) -> CameraView:
        """The same on another device."""
        return CameraView(self.in_hand, self.matrix.to(device), self.position.to(device), self.rotation.to(device))


def camera_views(task: str, cameras: tuple[str, ...], image_size: int) -> list[CameraView]:
    """The simulator's cameras. One that keeps its place when the hand moves is fixed in the world."""
    simulation = Simulation(task)
    poses: list[Any] = []
    simulation.reset(0)
    for _ in range(2):
        for _ in range(10):
            simulation.step(np.array([0.03, 0.02, 0.0, 0.1, 0.2, 0.3, -1.0]))
        frame = simulation.observe(images=False)
        hand = frame["robot0_eef_pos"], Rotation.from_quat(frame["robot0_eef_quat"])
        poses.append((hand, [simulation.camera_pose(camera) for camera in cameras]))
    views = []
    (_, before), ((at, turn), after) = poses
    for i, camera in enumerate(cameras):
        in_hand = not np.allclose(before[i][0], after[i][0], atol=1e-6)
        position, rotation = after[i][0], Rotation.from_quat(after[i][1])
        if in_hand:
            position, rotation = turn.inv().apply(position - at), turn.inv() * rotation
        matrix = simulation.camera_matrix(camera, image_size, image_size)
        views.append(CameraView(in_hand, *(torch.tensor(v).float() for v in (matrix, position, rotation.as_matrix()))))
    simulation.close()
    return views


def _matrix(quaternion: Tensor) -> Tensor:
    first, second = rotation_6d(quaternion).split(3, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=-1)


def project(frames: dict[str, Tensor], view: CameraView) -> Tensor:
    """Pixels (B, POSE_POINTS, 2) of the object's frame in a camera; NaN behind it."""
    device = view.matrix.device
    offsets = torch.cat([torch.zeros(1, 3, device=device), AXIS * torch.eye(3, device=device)])[:POSE_POINTS]
    world = frames["object_pos"][:, None] + offsets @ _matrix(frames["object_quat"]).transpose(1, 2)
    position, rotation = view.position, view.rotation
    if view.in_hand:
        turn = _matrix(frames["robot0_eef_quat"])
        position = (frames["robot0_eef_pos"] + turn @ position)[:, None]
        rotation = turn @ rotation
    seen = (world - position) @ rotation @ view.matrix.T
    return torch.where(seen[..., 2:] > 1e-3, seen[..., :2] / seen[..., 2:], torch.nan)


def point_loss(logits: Tensor, pixels: Tensor, offset: Tensor, stride: int) -> Tensor:
    """Cross-entropy between the first POSE_POINTS maps and where the points are; a scalar.

    The target is spread over the four cells around a point so that its expectation is the point; for a point that
    the crop does not show it is every cell alike, which the map's spread then tells.

    Args:
        logits: (B, K, h, w).
        pixels: (B, POSE_POINTS, 2) in the whole image.
        offset: (B, 2) of the crop.
        stride: pixels between cells.
    """
    rows, columns = logits.shape[2], logits.shape[3]
    log_p = logits[:, :POSE_POINTS].flatten(2).log_softmax(dim=2)
    cells = (pixels - offset[:, None]) / stride
    x, y = cells.unbind(-1)
    shown = (x >= 0) & (x <= columns - 1) & (y >= 0) & (y <= rows - 1)  # False for NaN
    cells = torch.where(shown[..., None], cells, torch.zeros_like(cells))
    corner = cells.floor()
    corner = torch.stack([corner[..., 0].clamp(max=columns - 2), corner[..., 1].clamp(max=rows - 2)], dim=-1)
    part = cells - corner
    likelihood = torch.zeros_like(log_p[..., 0])
    for i in (0, 1):
        for j in (0, 1):
            index = ((corner[..., 1] + j) * columns + corner[..., 0] + i).long()
            weight = (part[..., 0] if i else 1 - part[..., 0]) * (part[..., 1] if j else 1 - part[..., 1])
            likelihood = likelihood + weight * log_p.gather(2, index[..., None])[..., 0]
    return -torch.where(shown, likelihood, log_p.mean(dim=2)).mean()
