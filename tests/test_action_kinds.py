"""What rows of actions say, and how one kind becomes another."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from diffusion_ros.action_kinds import (
    ActionFormat,
    absolute_from,
    delta_to,
    forward,
    poses_of_deltas,
    relative_to,
    rotation_from_6d,
    rotation_to_6d,
)

RNG = np.random.default_rng(0)
POSITIONS = RNG.uniform(-1, 1, (20, 3))
ROTATIONS = Rotation.random(20, random_state=1)
ROWS = np.concatenate((RNG.uniform(-0.05, 0.05, (20, 3)), RNG.uniform(-0.4, 0.4, (20, 3)), np.ones((20, 1))), axis=1)


def test_a_rotation_survives_as_its_first_two_columns() -> None:
    back = rotation_from_6d(rotation_to_6d(ROTATIONS))
    assert (back * ROTATIONS.inv()).magnitude() == pytest.approx(0, abs=1e-7)
    # A network's answer is never quite orthonormal: the length does not matter.
    assert (rotation_from_6d(3 * rotation_to_6d(ROTATIONS)) * ROTATIONS.inv()).magnitude() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("values", [np.zeros(6), np.array([1.0, 0, 0, 2, 0, 0]), np.full(6, np.nan)])
def test_what_is_no_rotation_is_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="parallel"):
        rotation_from_6d(values)


def test_deltas_of_the_base_come_back_from_the_poses_they_ask_for() -> None:
    poses = poses_of_deltas(ROWS, POSITIONS, ROTATIONS)
    for row, pose, position, rotation in zip(ROWS, poses, POSITIONS, ROTATIONS, strict=True):
        assert delta_to(pose, position, rotation) == pytest.approx(row, abs=1e-9)


def test_deltas_of_the_tool_are_along_its_own_axes() -> None:
    down = Rotation.from_euler("x", 180, degrees=True)
    row = np.array([[0.0, 0, 0.03, 0, 0, 0.2, -1.0]])
    pose = poses_of_deltas(row, np.array([[0.5, 0.1, 0.4]]), Rotation.concatenate([down]), axes="tool")[0]
    assert pose[:3] == pytest.approx([0.5, 0.1, 0.37])
    assert delta_to(pose, np.array([0.5, 0.1, 0.4]), down) == pytest.approx([0, 0, -0.03, 0, 0, -0.2, -1])


def test_what_is_seen_from_the_hand_does_not_change_when_hand_and_goal_are_moved_together() -> None:
    poses = poses_of_deltas(ROWS, POSITIONS, ROTATIONS)
    seen = relative_to(poses, POSITIONS[3], ROTATIONS[3])
    assert absolute_from(seen, POSITIONS[3], ROTATIONS[3])[:, :3] == pytest.approx(poses[:, :3])
    turn, shift = Rotation.from_euler("z", 1.0), np.array([0.3, -0.2, 0.1])
    moved = poses.copy()
    moved[:, :3] = turn.apply(poses[:, :3]) + shift
    moved[:, 3:6] = (turn * Rotation.from_rotvec(poses[:, 3:6])).as_rotvec()
    again = relative_to(moved, turn.apply(POSITIONS[3]) + shift, turn * ROTATIONS[3])
    assert again[:, :3] == pytest.approx(seen[:, :3])
    apart = Rotation.from_rotvec(again[:, 3:6]) * Rotation.from_rotvec(seen[:, 3:6]).inv()
    assert apart.magnitude() == pytest.approx(0, abs=1e-7)


def test_a_chain_of_two_joints_reaches_where_trigonometry_says() -> None:
    two = ActionFormat(
        "joint_positions",
        joints=("a", "b"),
        chain=((0, 0, 0.2, 0, 0, 0, 1, 0, 0, 1), (0.5, 0, 0, 0, 0, 0, 1, 0, 0, 1)),
        tip=(0.25, 0, 0, 0, 0, 0, 1),
    )
    angles = np.array([[0.3, 0.4], [1.0, -2.0]])
    positions, rotations = forward(two, angles)
    a, b = angles[:, 0], angles.sum(axis=1)
    assert positions[:, 0] == pytest.approx(0.5 * np.cos(a) + 0.25 * np.cos(b))
    assert positions[:, 1] == pytest.approx(0.5 * np.sin(a) + 0.25 * np.sin(b))
    assert positions[:, 2] == pytest.approx(0.2)
    assert rotations.as_rotvec()[:, 2] == pytest.approx(b)


@pytest.mark.parametrize(
    "actions",
    [
        ActionFormat(),
        ActionFormat(axes="tool"),
        ActionFormat("pose"),
        ActionFormat("relative_pose"),
        ActionFormat(
            "joint_positions", joints=("a",), chain=((0, 0, 0.1, 0, 0, 0, 1, 0, 1, 0),), tip=(0, 0, 0.1, 0, 0, 0, 1)
        ),
    ],
)
def test_a_format_survives_json(actions: ActionFormat) -> None:
    assert ActionFormat.from_json(json.loads(json.dumps(actions.to_json()))) == actions
    assert ActionFormat().to_json() == {}


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"kind": "velocity"}, "kind 'velocity'"),
        ({"kind": "pose", "axes": "tool"}, "axes 'tool'"),
        ({"kind": "joint_positions"}, "joints none"),
        ({"joints": ["a"]}, "joints a of kind delta"),
        ({"kind": "joint_positions", "joints": ["a", "a"]}, "each once"),
        ({"kind": "joint_positions", "joints": ["a"], "chain": [[0.0] * 10], "tip": [0.0] * 7}, "length 1"),
        ({"kind": "joint_positions", "joints": ["a"], "chain": ["x"]}, "lists of numbers"),
        ({"speed": 1}, "unknown speed"),
    ],
)
def test_what_is_no_format_is_refused(fields: dict, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        ActionFormat.from_json(fields)
