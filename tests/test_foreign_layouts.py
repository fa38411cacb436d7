"""Data sets in the layouts that others publish them in: which of them load, and why the others do not yet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

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


# -- what the generators claim ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [write_absolute, write_robomimic], ids=["diffusion_policy", "robomimic 0.5"])
def test_absolute_rows_are_poses_that_the_deltas_lead_to(write: Callable[..., Path], tmp_path: Path) -> None:
    """Positions of the hand's site, at most a full action away; the site's rotations, not robot0_eef_quat's body's."""
    if write is write_absolute:
        path, key, base = write(tmp_path / "low_dim_abs.hdf5"), "actions", np.zeros(3)
    else:
        settings = controller("1.5", input_ref_frame="base")
        path = write(tmp_path / "x.hdf5", version="0.5", action_dict=True, controllers=settings)
        key, base = "actions_abs", BASE
    poses = rows(path, key)
    away = np.abs(poses[:, :3] + base - rows(path, "obs/robot0_eef_pos"))
    assert away.max() <= 0.05 + 1e-9
    body = Rotation.from_quat(rows(path, "obs/robot0_eef_quat"))
    turned = (body.inv() * Rotation.from_rotvec(poses[:, 3:6])).as_euler("zyx", degrees=True)
    assert np.median(turned[:, 0]) == pytest.approx(-90, abs=10), "a quarter turn about the hand's own axis"
    assert np.linalg.norm(poses[:, 3:6], axis=1).max() > 1, "a delta cannot be so long"


def test_liberos_rows_observe_what_their_action_has_done(tmp_path: Path) -> None:
    path = write_libero(tmp_path / "x_demo.hdf5")
    with h5py.File(path) as file:
        demo = file["data/demo_0"]
        moved = np.diff(demo["obs/ee_pos"][:], axis=0)
        # The movement to row t is row t's own action's.
        np.testing.assert_allclose(moved, 0.02 * demo["actions"][1:, :3], atol=1e-12)
        brightness = demo["obs/agentview_rgb"][:].mean(axis=(0, 2, 3))
        assert brightness[:10].mean() < brightness[-10:].mean() - 100, "upside down"


# -- what does not load yet -------------------------------------------------------------------------------------------

LATER = [
    (
        "ToolHang, 240 x 240",
        lambda path: write_robomimic(
            path, env_name="ToolHang", cameras=("sideview", "robot0_eye_in_hand"), size=240, version="0.5"
        ),
        ("sideview", "robot0_eye_in_hand"),
        "environment 'ToolHang', expected one of Lift, PickPlaceCan, NutAssemblySquare",
    ),
    (
        "a controller of absolute poses",
        lambda path: write_robomimic(path, version="0.3", controllers=controller("1.4", control_delta=False)),
        (),
        "env_args: the controller takes absolute poses, differences to the hand's pose expected",
    ),
    (
        "diffusion_policy's absolute actions, whose env_args say deltas",
        write_absolute,
        (),
        "demo_0: an action of 2.55, expected -1 to 1",
    ),
    (
        "MimicGen's Stack_D0",
        lambda path: write_mimicgen(path, env_name="Stack_D0"),
        CAMERAS,
        "environment 'Stack_D0', expected one of Lift, PickPlaceCan, NutAssemblySquare",
    ),
    (
        "MimicGen's Square_D1",
        lambda path: write_mimicgen(path, env_name="Square_D1"),
        CAMERAS,
        "environment 'Square_D1', expected one of Lift, PickPlaceCan, NutAssemblySquare",
    ),
    (
        "LIBERO",
        write_libero,
        (),
        "environment 'Libero_Tabletop_Manipulation', expected one of Lift, PickPlaceCan, NutAssemblySquare",
    ),
]


@pytest.mark.parametrize(
    ("write", "cameras"),
    [
        pytest.param(write, cameras, id=name, marks=pytest.mark.xfail(raises=ValueError, strict=True, reason=reason))
        for name, write, cameras, reason in LATER
    ],
)
def test_loads(write: Callable[[Path], Path], cameras: tuple[str, ...], tmp_path: Path) -> None:
    assert load_demonstrations(write(tmp_path / "x.hdf5"), cameras, use_object=False).episodes == 2


@pytest.mark.parametrize(("name", "write", "cameras", "why"), LATER, ids=[name for name, *_ in LATER])
def test_until_then_it_is_refused_in_one_line(
    name: str, write: Callable[[Path], Path], cameras: tuple[str, ...], why: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "x.hdf5")
    with pytest.raises(ValueError, match=r".") as caught:
        load_demonstrations(path, cameras, use_object=False)
    assert str(caught.value) == f"{path}: {why}"


def test_two_arms_are_refused(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "x.hdf5", env_name="TwoArmTransport")
    with pytest.raises(ValueError, match=r"x.hdf5: env_args: robots Panda, Panda: one robot with one arm expected"):
        load_demonstrations(path, ())


@pytest.mark.parametrize(
    "write",
    [write_robomimic, write_robosuite, write_absolute, write_mimicgen, write_libero],
    ids=lambda write: write.__name__,
)
def test_totals_are_those_of_the_demonstrations(write: Callable[..., Any], tmp_path: Path) -> None:
    path = write(tmp_path / "x.hdf5", episodes=3, steps=7)
    with h5py.File(path) as file:
        demos = file["data"].values()
        assert file["data"].attrs["total"] == 21 == sum(int(demo.attrs["num_samples"]) for demo in demos)
        assert all(len(demo["actions"]) == len(demo["states"]) == 7 for demo in demos)
