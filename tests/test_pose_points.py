"""Points of an object's frame: where the cameras see them, and what teaches key-points to be there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from diffusion_ros.robot import CAMERAS
from diffusion_ros.simulators.arm import Simulation
from training.diffusion.pose_points import AXIS, camera_views, point_loss, project
from training.networks.encoders import SpatialSoftmax


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return Simulation("lift")


def test_points_are_where_the_simulator_draws_them(simulation: Simulation) -> None:
    """The cube's pixels, found by their colour, lie about the projection of its origin, wherever the hand is."""
    views = camera_views("lift", CAMERAS, 84)
    assert [view.in_hand for view in views] == [False, True]
    simulation.reset(3)
    seen = 0
    for _ in range(4):
        for _ in range(8):
            simulation.step(np.array([0.0, 0.01, -0.015, 0.05, 0.0, 0.1, -1.0]))
        frame = simulation.observe()
        frames = {name: torch.tensor(frame[name])[None].float() for name in frame if not name.endswith("_image")}
        for camera, view in zip(CAMERAS, views, strict=True):
            red, green, blue = frame[f"{camera}_image"].astype(int).transpose(2, 0, 1)
            rows, columns = np.nonzero((red > 90) & (red > 2 * green) & (red > 2 * blue))
            inside = len(rows) and columns.min() > 2 and columns.max() < 81 and rows.min() > 2 and rows.max() < 81
            if not inside:
                continue
            seen += 1
            size = max(np.ptp(rows), np.ptp(columns))
            found = project(frames, view)[0, 0].numpy()
            np.testing.assert_allclose(found, [columns.mean(), rows.mean()], atol=1 + 0.2 * size)
    assert seen >= 5


def test_tips_are_those_of_the_axes(simulation: Simulation) -> None:
    """Against MuJoCo's own camera, point by point."""
    (view,) = camera_views("lift", CAMERAS[:1], 84)
    simulation.reset(5)
    frame = simulation.observe(images=False)
    turn = Rotation.from_quat([0.1, -0.4, 0.3, 0.8])
    frames = {name: torch.tensor(value)[None].float() for name, value in frame.items()}
    frames["object_quat"] = torch.tensor(turn.as_quat())[None].float()
    position, quaternion = simulation.camera_pose(CAMERAS[0])
    points = frame["object_pos"] + np.vstack([np.zeros(3), AXIS * turn.as_matrix().T])
    there = (
        simulation.camera_matrix(CAMERAS[0], 84, 84) @ Rotation.from_quat(quaternion).inv().apply(points - position).T
    ).T
    np.testing.assert_allclose(project(frames, view)[0].numpy(), there[:, :2] / there[:, 2:], atol=1e-3)
    frames["object_pos"] = frames["object_pos"] + torch.tensor([5.0, 0.0, 3.0])  # behind the camera
    assert project(frames, view).isnan().all()


def test_the_least_loss_reads_as_the_point() -> None:
    """Logits that minimise it: their key-point is the point, between cells too; one out of sight is everywhere."""
    pixels = torch.tensor([[[30.0, 41.3], [10.2, 8.0], [6.0, 79.0], [float("nan"), 4.0]]])
    offset = torch.tensor([[2, 5]])
    logits = torch.zeros((1, 5, 19, 19), requires_grad=True)
    optimizer = torch.optim.Adam([logits], 0.2)
    for _ in range(600):
        optimizer.zero_grad()
        point_loss(logits, pixels, offset, 4).backward()
        optimizer.step()
    read = SpatialSoftmax(1, 5, 4, (84, 84)).read(logits.detach(), offset)
    found = (torch.stack([read[0, :5], read[0, 5:10]], dim=1) + 1) * 83 / 2
    np.testing.assert_allclose(found[:2], pixels[0, :2], atol=0.2)
    spread = read[0, 10:] * 83 / 2
    assert (spread[:2] < 4).all()
    uniform = 4 * np.sqrt(2 * (19**2 - 1) / 12)
    np.testing.assert_allclose(spread[2:], uniform, rtol=1e-3)  # below the crop, behind the camera, not taught
    assert float(logits.grad[0, 4].abs().max()) == 0.0
