"""Data sets in the layouts that others publish them in, and what is made of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tests.foreign_layouts import (
    BASE,
    OBJECT_WIDTHS,
    controller,
    write_absolute,
    write_libero,
    write_mimicgen,
    write_robomimic,
    write_robosuite,
)
from training.data import robomimic
from training.data.action_rows import converted
from training.data.demonstrations import Demonstrations, load_demonstrations

CAMERAS = ("agentview", "robot0_eye_in_hand")
VERSIONS = ("0.2", "0.3", "0.4", "0.5")


def rows(path: Path, key: str) -> np.ndarray:
    """All demonstrations' `key`, one after the other."""
    with h5py.File(path) as file:
        return np.concatenate([demo[key][:] for demo in file["data"].values()])


def check_deltas(data: Demonstrations, path: Path) -> None:
    """Actions by a full action's 5 cm and 0.5 rad, observations as they are."""
    scale = [0.05] * 3 + [0.5] * 3 + [1.0]
    np.testing.assert_allclose(data.actions, rows(path, "actions") * scale, rtol=1e-6)
    assert data.recorded.own and data.episodes == 2
    for key in ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"):
        np.testing.assert_allclose(data.observations[key], rows(path, f"obs/{key}"), rtol=1e-6)


# -- robomimic --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_name", ["Lift", "PickPlaceCan", "NutAssemblySquare"])
@pytest.mark.parametrize("version", VERSIONS)
def test_robomimics_low_dim(version: str, env_name: str, tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "low_dim.hdf5", version=version, env_name=env_name)
    data = load_demonstrations(path, ())
    check_deltas(data, path)
    assert data.held is not None and data.held.tolist() == [1], "mask/valid"
    thing = rows(path, "obs/object")
    assert thing.shape[1] == OBJECT_WIDTHS[env_name]
    np.testing.assert_allclose(data.observations["object_pos"], thing[:, :3], rtol=1e-6)
    np.testing.assert_allclose(data.observations["object_quat"], thing[:, 3:7], rtol=1e-6)


@pytest.mark.parametrize("version", VERSIONS)
def test_robomimics_pictures(version: str, tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "image.hdf5", version=version, cameras=CAMERAS)
    data = load_demonstrations(path, CAMERAS)
    check_deltas(data, path)
    for camera in CAMERAS:
        np.testing.assert_array_equal(data.observations[f"{camera}_image"], rows(path, f"obs/{camera}_image"))
        brightness = data.observations[f"{camera}_image"].mean(axis=(0, 2, 3))
        assert brightness[:10].mean() > brightness[-10:].mean() + 100, "upright"


def test_robomimics_own_lists(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "low_dim.hdf5", episodes=4)
    data = load_demonstrations(path, (), filter_key="50_percent")
    assert data.episodes == 4 and data.held is not None and data.held.tolist() == [3]


def test_absolute_actions_beside_the_deltas_change_nothing(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "image_v15.hdf5", version="0.5", action_dict=True)
    check_deltas(load_demonstrations(path, ()), path)


def test_raw_demonstrations_have_no_observations(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"demo_v15.hdf5: demo_1 has no obs"):
        load_demonstrations(write_robosuite(tmp_path / "demo_v15.hdf5"), ())


# -- others -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env_name", "cameras", "size"),
    [("ToolHang", ("sideview", "robot0_eye_in_hand"), 240), ("NutAssemblySquare", CAMERAS, 84)],
)
def test_a_task_that_the_simulator_has_not(env_name: str, cameras: tuple[str, ...], size: int, tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "x.hdf5", env_name=env_name, cameras=cameras, size=size, version="0.5")
    data = load_demonstrations(path, cameras, use_object=False)
    check_deltas(data, path)
    assert data.task == {"NutAssemblySquare": "square"}.get(env_name, env_name)
    assert {value.shape[1:] for name, value in data.observations.items() if "image" in name} == {(84, 84, 3)}
    thing = load_demonstrations(path, (), use_object=False, numbers=("robot0_eef_pos", "object"))
    assert thing.observations["object"].shape[1] == OBJECT_WIDTHS[env_name]


@pytest.mark.parametrize("env_name", ["Stack_D0", "Square_D1"])
def test_mimicgens(env_name: str, tmp_path: Path) -> None:
    path = write_mimicgen(tmp_path / "x.hdf5", env_name=env_name)
    data = load_demonstrations(path, CAMERAS, use_object=False)
    check_deltas(data, path)
    assert data.task == env_name
    for camera in CAMERAS:
        np.testing.assert_array_equal(data.observations[f"{camera}_image"], rows(path, f"obs/{camera}_image"))


def absolute_controller(path: Path) -> Path:
    """diffusion_policy's rows, of a file whose env_args say so."""
    write_absolute(path)
    with h5py.File(path, "r+") as file:
        said = json.loads(file["data"].attrs["env_args"])
        said["env_kwargs"]["controller_configs"] = controller("1.4", control_delta=False)
        file["data"].attrs["env_args"] = json.dumps(said)
    return path


@pytest.mark.parametrize("write", [write_absolute, absolute_controller], ids=["said to be deltas", "said to be poses"])
def test_absolute_poses(write: Callable[[Path], Path], tmp_path: Path) -> None:
    """The deltas that lead to them are no larger than a full action's, position and rotation alike."""
    data = load_demonstrations(write(tmp_path / "x_abs.hdf5"), ())
    assert data.recorded.actions.kind == "pose" and data.recorded.own
    deltas, _ = converted(data, "delta")
    assert np.abs(deltas.actions[:, :3]).max() <= 0.05 + 1e-6
    assert np.abs(deltas.actions[:, 3:6]).max() <= 0.5 + 1e-5


def test_deltas_that_were_executed_beside_absolute_poses_are_not_taken_for_poses(tmp_path: Path) -> None:
    """diffusion_policy rewrites the actions alone, and env_args call them deltas still."""
    path = write_absolute(tmp_path / "x_abs.hdf5")
    plain = load_demonstrations(path, ())
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            demo["executed_actions"] = np.full((len(demo["actions"]), 7), 0.5)
    data = load_demonstrations(path, ())
    assert data.executed is None and data.data_hash == plain.data_hash
    assert data.executed_missing == f"{path}: actions are poses that env_args calls deltas: nobody knows what" + (
        " executed_actions are"
    )
    layout, found = robomimic.read(path)
    assert not layout.executed and "executed_actions" in found.left_out
    assert all(episode.executed is None for episode in found)


def test_poses_in_another_frame_than_the_hand_are_refused(tmp_path: Path) -> None:
    path = absolute_controller(tmp_path / "x_abs.hdf5")
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            demo["actions"][:, :3] -= BASE
    with pytest.raises(ValueError, match=r"actions: poses 1\.\d+ m from where the hand was"):
        converted(load_demonstrations(path, ()), "")


def test_liberos(tmp_path: Path) -> None:
    """Each action with what was seen before it, pictures upright, the rotation vector as a quaternion."""
    path = write_libero(tmp_path / "x_demo.hdf5")
    data = load_demonstrations(
        path,
        CAMERAS,
        use_object=False,
        numbers=("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos", "robot0_joint_pos"),
        picture_size=None,
    )
    with h5py.File(path) as file:
        demos = [file[f"data/demo_{i}"] for i in range(2)]
        steps = [len(demo["actions"]) - 1 for demo in demos]
        assert data.starts.tolist() == [0, steps[0], sum(steps)]
        first, demo = slice(0, steps[0]), demos[0]
        scale = np.array([0.05] * 3 + [0.5] * 3 + [1.0])
        np.testing.assert_allclose(data.actions[first], demo["actions"][1:] * scale, rtol=1e-6)
        np.testing.assert_allclose(data.observations["robot0_eef_pos"][first], demo["obs/ee_pos"][:-1], rtol=1e-6)
        turned = Rotation.from_quat(data.observations["robot0_eef_quat"][first])
        assert (turned * Rotation.from_rotvec(demo["obs/ee_ori"][:-1]).inv()).magnitude().max() < 1e-6
        # A full action is told as 5 cm and moves the hand by 2 cm: each leads from its own row to the next.
        moved = np.diff(data.observations["robot0_eef_pos"][first], axis=0)
        np.testing.assert_allclose(moved, 0.4 * data.actions[first][:-1, :3], atol=1e-6)
        seen = data.observations["agentview_image"]
        assert seen.shape == (sum(steps), 128, 128, 3)
        np.testing.assert_array_equal(seen[first], demo["obs/agentview_rgb"][:-1][:, ::-1])
        brightness = seen.mean(axis=(0, 2, 3))
        assert brightness[:10].mean() > brightness[-10:].mean() + 100, "upright"


def test_what_was_executed_goes_with_what_was_seen_before_it(tmp_path: Path) -> None:
    path = write_libero(tmp_path / "x_demo.hdf5", pictures=False)
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            demo["executed_actions"] = 0.5 * demo["actions"][:]
    data = load_demonstrations(path, (), use_object=False)
    np.testing.assert_allclose(data.executed, 0.5 * data.actions, rtol=1e-6)
    layout, found = robomimic.read(path)
    assert layout.executed
    for episode in found:
        np.testing.assert_allclose(episode.executed, 0.5 * episode.actions, rtol=1e-12)


def test_two_arms_are_refused(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "x.hdf5", env_name="TwoArmTransport")
    with pytest.raises(ValueError, match=r"x.hdf5: env_args: robots Panda, Panda: one robot with one arm expected"):
        load_demonstrations(path, ())
