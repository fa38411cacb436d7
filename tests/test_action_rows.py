"""Demonstrations whose rows say where the hand or the joints are to be: read, learnt, and run as what they say."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from some_slow import but

from diffusion_ros import checkpoint
from diffusion_ros.action_kinds import chain_of, forward, poses_of_deltas, relative_to, rotation_from_6d
from diffusion_ros.models.policy import FrameError, Policy
from diffusion_ros.robot import ACTION_SCALE
from diffusion_ros.simulators.arm import Simulation
from training.data.action_rows import converted, joint_goals, seen_from, with_widths
from training.data.demonstrations import Demonstrations, load_demonstrations, make_windows
from training.options.policy import Options
from training.policy_setup import Inputs, restore_policy
from training.trainers.policy import Trainer

STEPS = 20
QUARTER = Rotation.from_euler("z", -90, degrees=True)
"""Of robosuite's grip site to the hand."""
ABSOLUTE = {"controller_configs": {"type": "OSC_POSE", "control_delta": False}}
JOINTS = {"controller_configs": {"type": "JOINT_POSITION", "input_type": "absolute"}}

pytestmark = pytest.mark.usefixtures("fresh_accelerate", "scripted_at_the_end")


@pytest.fixture(scope="module")
def can() -> Simulation:
    return Simulation("can", ())


def hands(rng: np.random.Generator) -> tuple[np.ndarray, Rotation]:
    """A hand that goes along a line and turns a little, pointing down."""
    at = np.array([0.0, -0.2, 1.1]) + np.cumsum(rng.uniform(-0.01, 0.01, (STEPS, 3)), axis=0)
    turned = Rotation.from_rotvec(np.outer(np.linspace(0, 0.5, STEPS), [0, 0, 1])) * Rotation.from_quat([1.0, 0, 0, 0])
    return at, turned


def write(path: Path, env: dict[str, Any], kind: str = "delta", name: str = "PickPlaceCan", **extra: Any) -> Path:
    """Four made-up episodes of the same motions, as deltas, as robosuite's absolute poses, or as joint positions."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": name, "type": 1, "env_kwargs": env})
        for i in range(4):
            rng = np.random.default_rng(i)
            at, turned = hands(rng)
            rows = rng.uniform(-0.3, 0.3, (STEPS, 7))
            rows[:, 6] = np.where(rows[:, 6] > 0, 1, -1)
            demo = data.create_group(f"demo_{i}")
            demo["obs/robot0_eef_pos"], demo["obs/robot0_eef_quat"] = at, turned.as_quat()
            demo["obs/robot0_gripper_qpos"] = np.tile([0.04, -0.04], (STEPS, 1))
            demo["obs/object"] = np.tile([0.1, 0.2, 0.3, 0, 0, 0, 1.0], (STEPS, 1))
            for key, value in extra.items():
                demo[f"obs/{key}"] = value(i) if callable(value) else np.tile(value, (STEPS, 1))
            if kind == "pose":
                rows = poses_of_deltas(rows * ACTION_SCALE, at, turned)
                rows[:, 3:6] = (Rotation.from_rotvec(rows[:, 3:6]) * QUARTER).as_rotvec()
            demo["actions"] = demo["obs/robot0_joint_pos"][:] if kind == "joints" else rows
            if kind == "joints":
                del demo["actions"]
                demo["actions"] = np.hstack((demo["obs/robot0_joint_pos"][:] + 0.01, rows[:, -1:]))
    return path


def test_poses_of_a_file_are_the_hands_however_robosuite_turns_its_grip_site(tmp_path: Path) -> None:
    deltas = load_demonstrations(write(tmp_path / "deltas.hdf5", {}), ())
    absolute = load_demonstrations(write(tmp_path / "poses.hdf5", ABSOLUTE, "pose"), ())
    assert absolute.recorded.actions.kind == "pose" and absolute.data_hash != deltas.data_hash
    mine, said = converted(deltas, "pose")
    theirs, also = converted(absolute, "")
    assert said == also and mine.actions.shape == (4 * STEPS, 10)
    np.testing.assert_allclose(mine.actions, theirs.actions, atol=1e-5)
    back, _ = converted(absolute, "delta")
    np.testing.assert_allclose(back.actions, deltas.actions, atol=1e-6)


def executed_beside(path: Path) -> Path:
    """What acts is the label of three steps later, which no observation is beside."""
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            demo["executed_actions"] = np.roll(demo["actions"][:], 3, axis=0)
    return path


def with_label(data: Demonstrations) -> Demonstrations:
    """Demonstrations whose label is what was executed."""
    assert data.executed is not None
    return replace(data, actions=data.executed, executed=None)


@pytest.mark.parametrize("kind", ["", "pose", "relative_pose", "delta"])
@pytest.mark.parametrize(("env", "file"), [({}, "delta"), (ABSOLUTE, "pose")], ids=["deltas", "poses"])
def test_what_was_executed_is_of_the_kind_of_the_label(
    kind: str, env: dict[str, Any], file: str, tmp_path: Path
) -> None:
    data = load_demonstrations(executed_beside(write(tmp_path / "x.hdf5", env, file)), ())
    made, said = converted(data, kind)
    alone, also = converted(with_label(data), kind)
    assert made.executed is not None and made.executed_missing == "" and said == also
    np.testing.assert_array_equal(made.executed, alone.actions)
    np.testing.assert_array_equal(made.actions, converted(replace(data, executed=None), kind)[0].actions)
    assert not np.array_equal(made.executed, made.actions) and made.executed.dtype == np.float32


def test_poses_that_are_turned_by_anything_else_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "poses.hdf5", ABSOLUTE, "pose")
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            demo["actions"][:, 3:6] = (
                Rotation.from_euler("x", 1.0) * Rotation.from_rotvec(demo["actions"][:, 3:6])
            ).as_rotvec()
    with pytest.raises(ValueError, match="by quarters of a turn expected"):
        converted(load_demonstrations(path, ()), "")


def test_deltas_of_the_tool_are_learnt_and_said_as_such(tmp_path: Path) -> None:
    tool = {"controller_configs": {"type": "OSC_POSE", "input_ref_frame": "tool"}}
    data = load_demonstrations(write(tmp_path / "tool.hdf5", tool), ())
    same, said = converted(data, "")
    assert same is data and said.axes == "tool"
    poses, _ = converted(data, "pose")
    at, turned = data.observations["robot0_eef_pos"], Rotation.from_quat(data.observations["robot0_eef_quat"])
    np.testing.assert_allclose(poses.actions[:, :3], at + turned.apply(data.actions[:, :3]), atol=1e-6)


def test_rows_seen_from_the_hand_are_those_of_numpy(tmp_path: Path) -> None:
    data = load_demonstrations(write(tmp_path / "deltas.hdf5", {}), ())
    rows = converted(data, "relative_pose")[0].actions[:10].astype(np.float64)
    at = data.observations["robot0_eef_pos"][3].astype(np.float64)
    turned = Rotation.from_quat(data.observations["robot0_eef_quat"][3])
    seen = seen_from(
        torch.from_numpy(rows[None]), torch.from_numpy(at[None]), torch.from_numpy(turned.as_matrix()[None])
    )[0].numpy()
    poses = np.concatenate((rows[:, :3], rotation_from_6d(rows[:, 3:9]).as_rotvec(), rows[:, 9:]), axis=1)
    expected = relative_to(poses, at, turned)
    np.testing.assert_allclose(seen[:, :3], expected[:, :3], atol=1e-9)
    apart = rotation_from_6d(seen[:, 3:9]) * Rotation.from_rotvec(expected[:, 3:6]).inv()
    assert apart.magnitude() == pytest.approx(0, abs=1e-6)


def test_the_arms_chain_is_the_simulators(can: Simulation) -> None:
    chain = chain_of([f"joint{i}" for i in range(1, 8)], can.hand_at)
    joints = can.joint_positions()[:7] + np.random.default_rng(0).uniform(-0.5, 0.5, (20, 7))
    positions, rotations = forward(chain, joints)
    for q, position, rotation in zip(joints, positions, rotations, strict=True):
        at, turned = can.hand_at(q)
        np.testing.assert_allclose(position, at, atol=1e-9)
        assert (rotation * Rotation.from_quat(turned).inv()).magnitude() < 1e-7


def test_joint_goals_take_the_hand_where_it_was_told_to_go(can: Simulation) -> None:
    chain = chain_of([f"joint{i}" for i in range(1, 8)], can.hand_at)
    joints = np.tile(can.joint_positions()[:7], (30, 1)) + np.random.default_rng(0).uniform(-0.1, 0.1, (30, 7))
    at, turned = forward(chain, joints)
    rng = np.random.default_rng(1)
    goals = at + rng.uniform(-0.02, 0.02, at.shape)
    turns = Rotation.from_rotvec(rng.uniform(-0.1, 0.1, at.shape)) * turned
    found = joint_goals(chain, joints, goals, turns)
    there, turned = forward(chain, found)
    assert np.abs(there - goals).max() < 1e-4 and (turned * turns.inv()).magnitude().max() < 1e-3
    assert np.abs(found - joints).max() < 0.6, "by a small motion"
    with pytest.raises(ValueError, match="the arm does not reach what it was told"):
        joint_goals(chain, joints, goals + 3.0, turns)


def trained(path: Path, tmp_path: Path, **changes: Any) -> Path:
    small: dict[str, Any] = {
        "observations": "state",
        "denoiser": "unet",
        "unet_widths": (16, 32),
        "iterations": 2,
        "save_every": 2,
        "rollouts": 0,
        "vision": "small",
        "batch_size": 8,
        "num_inference_steps": 2,
    }
    out = tmp_path / "policy.pt"
    Trainer(Options(data=(path,), out=out, **{**small, **changes})).run()
    return out


def joints_near(can: Simulation) -> Any:
    return lambda i: can.joint_positions()[:7] + np.random.default_rng(i).uniform(-0.02, 0.02, (STEPS, 7))


@pytest.mark.parametrize(
    "kind", but(["delta", "pose", "joint_positions"], ["delta", "pose", "relative_pose", "joint_positions"])
)
def test_a_policy_of_each_kind_trains_and_says_what_an_executor_understands(
    kind: str, tmp_path: Path, can: Simulation
) -> None:
    if kind == "joint_positions":
        path = write(tmp_path / "joints.hdf5", JOINTS, "joints", robot0_joint_pos=joints_near(can))
    else:
        path = write(tmp_path / "deltas.hdf5", {})
    out = trained(path, tmp_path, action_kind="" if kind == "joint_positions" else kind)
    policy = Policy(checkpoint.load(out))
    assert policy.spec.action_format.kind == kind
    assert policy.row_kind == ("delta" if kind == "delta" else "pose")
    frame = {
        "robot0_eef_pos": np.array([0.0, -0.2, 1.1]),
        "robot0_eef_quat": np.array([1.0, 0, 0, 0]),
        "robot0_gripper_qpos": np.array([0.04, -0.04]),
        "object_pos": np.array([0.1, 0.2, 0.3]),
        "object_quat": np.array([0, 0, 0, 1.0]),
    }
    rows = policy.sample([policy.encode(frame)] * 2, 0)
    made = policy.executable(rows, frame)
    assert rows.shape == (9, policy.spec.action_format.checkpoint_width) and made.shape == (9, 7)
    if kind == "delta":
        np.testing.assert_array_equal(made, rows)
    elif kind == "pose":
        np.testing.assert_array_equal(made[:, :3], rows[:, :3])
    elif kind == "relative_pose":
        # The same rows of a hand that is elsewhere lead elsewhere, by as much.
        moved = policy.executable(rows, frame | {"robot0_eef_pos": np.array([0.1, 0.0, 1.1])})
        np.testing.assert_allclose(moved[:, :3] - made[:, :3], np.tile([0.1, 0.2, 0.0], (9, 1)), atol=1e-9)
    else:
        at, _ = can.hand_at(rows[4, :7])
        np.testing.assert_allclose(made[4, :3], at, atol=1e-6)
        assert policy.spec.action_format.chain
    assert restore_policy(out).action_limits.scale.shape[0] == rows.shape[1]


@pytest.mark.slow
def test_a_rotation_that_is_none_or_nan_is_no_command(tmp_path: Path, can: Simulation) -> None:
    path = write(tmp_path / "joints.hdf5", JOINTS, "joints", robot0_joint_pos=joints_near(can))
    joints = Policy(checkpoint.load(trained(path, tmp_path)))
    with pytest.raises(FrameError, match="NaN"):
        joints.executable(np.full((9, 8), np.nan), {})
    policy = Policy(checkpoint.load(trained(write(tmp_path / "deltas.hdf5", {}), tmp_path, action_kind="pose")))
    with pytest.raises(FrameError, match="parallel"):
        policy.executable(np.zeros((9, 10)), {})


def test_joint_positions_come_from_deltas_of_the_simulators_arm(tmp_path: Path, can: Simulation) -> None:
    start = can.joint_positions()[:7]
    at, turned = can.hand_at(start)
    path = write(tmp_path / "deltas.hdf5", {}, robot0_joint_pos=start)
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            demo["obs/robot0_eef_pos"][:], demo["obs/robot0_eef_quat"][:] = at, turned
    data = load_demonstrations(path, (), numbers=("robot0_eef_pos", "robot0_eef_quat", "robot0_joint_pos"))
    chain = chain_of([f"joint{i}" for i in range(1, 8)], can.hand_at)
    made, said = converted(data, "joint_positions", chain)
    poses, _ = converted(data, "pose")
    np.testing.assert_allclose(forward(said, made.actions[:, :7])[0], poses.actions[:, :3], atol=1e-3)
    with pytest.raises(ValueError, match="only with the arm's description"):
        converted(data, "joint_positions")
    executed_beside(path)
    data = load_demonstrations(path, (), numbers=("robot0_eef_pos", "robot0_eef_quat", "robot0_joint_pos"))
    beside = converted(data, "joint_positions", chain)[0]
    np.testing.assert_array_equal(beside.actions, made.actions)
    np.testing.assert_array_equal(beside.executed, converted(with_label(data), "joint_positions", chain)[0].actions)
    # Where noise sent the hand out of reach, the labels can be learnt all the same.
    far = replace(data, executed=data.executed + np.float32(1.0))
    beside = converted(far, "joint_positions", chain)[0]
    np.testing.assert_array_equal(beside.actions, made.actions)
    assert beside.executed is None
    assert re.match(
        "executed_actions: .*: the arm does not reach what it was told: .* are left$", beside.executed_missing
    )


def test_a_task_of_ones_own_with_cameras_and_inputs_of_any_name_and_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = {
        f"{name}_image": lambda i: rng.integers(0, 255, (STEPS, 48, 64, 3), np.uint8) for name in ("top", "wrist")
    }
    path = write(tmp_path / "mine.hdf5", {}, name="FoldTowel", force=[0.1, 0.2, 0.3, 1.0, 2.0], **pictures)
    out = trained(
        path,
        tmp_path,
        observations="pixels",
        camera_names=("top", "wrist"),
        inputs=("robot0_eef_pos", "robot0_eef_quat", "force"),
    )
    spec = checkpoint.read_spec(out)
    assert spec.task == spec.environment == "FoldTowel" and spec.base_pose == () and spec.response == ()
    shapes = {tensor.name: tensor.shape for tensor in spec.inputs}
    assert shapes == {
        "top_image": (48, 64, 3),
        "wrist_image": (48, 64, 3),
        "robot0_eef_pos": (3,),
        "robot0_eef_quat": (4,),
        "force": (5,),
    }
    assert spec.range_of("force") is not None
    options = Options(data=(path,), out=out, camera_names=("top", "wrist"), inputs=("robot0_eef_pos",))
    inputs = Inputs.of_spec(options, spec)
    assert (inputs.picture_size, inputs.crop_size) == ((48, 64), (43, 58))
    with pytest.raises(ValueError, match="crop 60: pictures of 64x48 pixels are smaller"):
        trained(path, tmp_path, observations="pixels", camera_names=("top",), crop=60)


def test_pictures_are_brought_to_a_size_that_is_asked_for(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = write(
        tmp_path / "x.hdf5", {}, agentview_image=lambda i: rng.integers(0, 255, (STEPS, 130, 200, 3), np.uint8)
    )
    for asked, size in (((40, 60), (40, 60)), (None, (84, 84))):
        data = load_demonstrations(path, ("agentview",), picture_size=asked)
        assert data.observations["agentview_image"].shape[1:3] == size


def test_of_corrections_only_the_persons_steps_are_learnt(tmp_path: Path) -> None:
    path = write(tmp_path / "corrections.hdf5", {})
    person = np.zeros(STEPS, np.uint8)
    person[8:14] = 1
    with h5py.File(path, "r+") as file:
        for name in ("demo_0", "demo_1"):
            file["data"][name]["by_person"] = person
    data = load_demonstrations(path, ())
    assert data.person is not None and data.person.sum() == 2 * 6 + 2 * STEPS
    windows = make_windows(data, np.array([0]), 2, 4, False, data.person)
    np.testing.assert_array_equal(windows.observed[:, -1], np.arange(8, 14))
    # Rows before the takeover and after it were a policy's: no example of anything.
    np.testing.assert_array_equal(windows.valid[0], [False, True, True, True])
    np.testing.assert_array_equal(windows.valid[-1], [True, True, False, False])
    whole = make_windows(data, np.array([0]), 2, 4, False)
    assert len(whole) == STEPS
    assert load_demonstrations(write(tmp_path / "plain.hdf5", {}), ()).person is None


def test_widths_of_a_gripper(tmp_path: Path) -> None:
    path = write(tmp_path / "x.hdf5", {})
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            demo["actions"][:, 6] = np.linspace(0.0, 0.08, STEPS)
    data = load_demonstrations(path, ())
    made = with_widths(data, 0.0, 0.08)
    np.testing.assert_allclose(made.actions[:STEPS, 6], np.linspace(1, -1, STEPS), atol=1e-6)
    assert data.actions[0, 6] == 0.0, "the file's own stay"
    assert made.executed is None
    executed = data.actions[::-1].copy()
    np.testing.assert_array_equal(with_widths(replace(data, executed=executed), 0.0, 0.08).executed, made.actions[::-1])
    executed[3, 6] = 0.2
    with pytest.raises(ValueError, match=r"^executed_actions: widths of the gripper from 0 to 0.2 m, 0 to 0.08 exp"):
        with_widths(replace(data, executed=executed), 0.0, 0.08)
    with pytest.raises(ValueError, match=r"from 0 to 0.08 m, 0 to 0.04 expected"):
        with_widths(data, 0.0, 0.04)
