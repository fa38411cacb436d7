"""Demonstrations that others recorded: what they say of themselves is used or refused, and nothing else is read."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from diffusion_ros.robot import ACTION_SCALE
from training.data import hdf5_file
from training.data.demonstrations import joined, load_demonstrations, load_files, split_files
from training.data.trajectories import load_trajectories
from training.options.policy import Options
from training.policy_setup import make_spec
from training.trainers.policy import Trainer

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

Change = Callable[[h5py.File], object]


def write(path: Path, change: Change = lambda file: None, episodes: int = 4, env: Any = None) -> Path:
    """Made-up demonstrations of Can, 10 steps each, from state."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "PickPlaceCan", "type": 1, "env_kwargs": env or {}})
        for i in range(episodes):
            demo = data.create_group(f"demo_{i}")
            demo["actions"] = rng.uniform(-1, 1, (10, 7))
            demo["obs/robot0_eef_pos"] = rng.normal(size=(10, 3)) + 10 * i
            demo["obs/robot0_eef_quat"] = np.tile([1.0, 0, 0, 0], (10, 1))
            demo["obs/robot0_gripper_qpos"] = np.tile([0.04, -0.04], (10, 1))
            demo["obs/object"] = np.tile([0.1, 0.2, 0.3, 0, 0, 0, 1.0], (10, 1))
        change(file)
    return path


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        load_demonstrations(path, (), **options)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))
    return str(caught.value)


# -- what a file says of its robot ------------------------------------------------------------------------------------

FLAT = {
    "type": "OSC_POSE",
    "input_max": 1,
    "input_min": -1,
    "output_max": [0.02, 0.02, 0.02, 0.2, 0.2, 0.2],
    "output_min": [-0.02, -0.02, -0.02, -0.2, -0.2, -0.2],
    "kp": 150,
    "control_delta": True,
}
"""As robomimic has it up to 0.3, with robosuite 1.2 to 1.4."""
PARTS = {
    "type": "BASIC",
    "body_parts": {
        "right": {**FLAT, "input_type": "delta", "input_ref_frame": "base", "gripper": {"type": "GRIP"}},
    },
}
"""As with robosuite 1.5."""


@pytest.mark.parametrize("controller", [FLAT, PARTS], ids=["robosuite 1.4", "robosuite 1.5"])
def test_rate_and_scale_are_the_datas(controller: dict[str, Any], tmp_path: Path) -> None:
    env = {"robots": ["Sawyer"], "control_freq": 10, "controller_configs": controller}
    path = write(tmp_path / "sawyer.hdf5", env=env)
    data = load_demonstrations(path, ())
    with h5py.File(path) as file:
        rows = np.concatenate([file[f"data/demo_{i}/actions"][:] for i in range(4)])
    scale = [0.02, 0.02, 0.02, 0.2, 0.2, 0.2, 1.0]
    np.testing.assert_allclose(data.actions, rows * scale, rtol=1e-6)
    options = Options(data=(path,), out=tmp_path / "x.pt", observations="state", denoiser="unet", rollouts=0)
    spec = make_spec(options, data, data.recorded.actions)
    assert spec.rate == 10 and spec.action_high == tuple(scale) and spec.action_low == tuple(-x for x in scale)
    assert spec.base_pose == () and spec.response == (), "nobody has measured a Sawyer"
    with pytest.raises(
        ValueError, match=r"rollouts 20: the simulator has no can by Sawyer at 10 Hz, 0.02 m and 0.2 rad a"
    ):
        Trainer(Options(data=(path,), out=tmp_path / "x.pt", observations="state"))


def test_a_planner_is_for_the_simulators_robot(tmp_path: Path) -> None:
    path = write(tmp_path / "sawyer.hdf5", env={"robots": "Sawyer"})
    with pytest.raises(ValueError, match=r"sawyer.hdf5: can by Sawyer at 20 Hz.*, expected the simulator's robot"):
        load_trajectories((path,))


def test_without_settings_it_is_the_simulators_robot(tmp_path: Path) -> None:
    data = load_demonstrations(write(tmp_path / "x.hdf5"), ())
    assert data.recorded.own and data.recorded.scale == tuple(ACTION_SCALE)


@pytest.mark.parametrize(
    ("env", "why"),
    [
        (
            {"controller_configs": {**FLAT, "type": "JOINT_VELOCITY"}},
            "controller JOINT_VELOCITY, OSC_POSE, or JOINT_POSITION of",
        ),
        ({"controller_configs": {**FLAT, "type": "JOINT_POSITION"}}, "controller JOINT_POSITION, OSC_POSE, or"),
        (
            {"controller_configs": {**FLAT, "control_delta": False, "input_ref_frame": "tool"}},
            "the controller takes poses in the frame 'tool', base or world expected",
        ),
        ({"controller_configs": {**FLAT, "input_max": 2}}, "the controller's input_max is 2, 1 expected"),
        ({"controller_configs": {**FLAT, "output_max": [0.1, 0.2]}}, "output_max [0.1, 0.2], 6 numbers above 0"),
        (
            {"controller_configs": {**FLAT, "input_ref_frame": "eef"}},
            "input_ref_frame is 'eef', base, world, tool expected",
        ),
        ({"robots": ["Panda", "Panda"]}, "robots Panda, Panda: one robot with one arm expected"),
        ({"control_freq": 0}, "control_freq 0, 1 to 100 Hz expected"),
    ],
)
def test_what_is_not_supported_is_refused(env: dict[str, Any], why: str, tmp_path: Path) -> None:
    assert why in refused(write(tmp_path / "x.hdf5", env=env))


def test_an_objects_pose_may_be_in_two_parts(tmp_path: Path) -> None:
    def parted(file: h5py.File) -> None:
        for demo in file["data"].values():
            demo["obs/object_pos"], demo["obs/object_quat"] = demo["obs/object"][:, :3], demo["obs/object"][:, 3:7]
            del demo["obs/object"]

    one, two = (
        load_demonstrations(write(tmp_path / f"{i}.hdf5", *change), ()) for i, change in enumerate([(), (parted,)])
    )
    assert one.data_hash == two.data_hash
    np.testing.assert_array_equal(one.observations["object_quat"], two.observations["object_quat"])
    path = write(tmp_path / "x.hdf5", lambda file: parted(file) or file["data/demo_2/obs"].pop("object_quat"))
    assert refused(path).endswith(
        "demo_2/obs has no object_quat; it has object_pos, robot0_eef_pos, robot0_eef_quat, robot0_gripper_qpos"
    )


def test_env_args_in_bytes_and_of_rubbish(tmp_path: Path) -> None:
    def packed(file: h5py.File) -> None:
        file["data"].attrs["env_args"] = np.bytes_(file["data"].attrs["env_args"])

    assert load_demonstrations(write(tmp_path / "x.hdf5", packed), ()).episodes == 4
    path = write(tmp_path / "y.hdf5", lambda file: file["data"].attrs.modify("env_args", "{"))
    assert "env_args: not JSON" in refused(path)


# -- lists of demonstrations, and several files -----------------------------------------------------------------------


def masked(**lists: list[int]) -> Change:
    def change(file: h5py.File) -> None:
        for key, of in lists.items():
            file[f"mask/{key}"] = np.array([f"demo_{i}".encode() for i in of])

    return change


def episodes(data: Any) -> list[int]:
    """Which ones, by where the hand was."""
    return [round(float(data.observations["robot0_eef_pos"][start, 0]) / 10) for start in data.starts[:-1]]


def test_a_files_own_lists_decide(tmp_path: Path) -> None:
    path = write(tmp_path / "x.hdf5", masked(train=[3, 0], valid=[1], few=[0], few_train=[2], few_valid=[3]))
    data = load_demonstrations(path, ())
    assert episodes(data) == [0, 1, 3], "one that is in neither list is not read"
    train, held = split_files([data], 0.5, 0)
    assert (train.tolist(), held.tolist()) == ([0, 2], [1])
    data = load_demonstrations(path, (), filter_key="few")
    assert episodes(data) == [2, 3] and data.held is not None and data.held.tolist() == [1]
    path = write(tmp_path / "y.hdf5", masked(better=[0, 2, 3]))
    data = load_demonstrations(path, (), filter_key="better")
    assert episodes(data) == [0, 2, 3] and data.held is None
    assert load_demonstrations(path, ()).episodes == 4


@pytest.mark.parametrize(
    ("change", "key", "why"),
    [
        (masked(train=[0], valid=[1]), "worse", "has no mask/worse; it has train, valid"),
        (masked(train=[0, 1], valid=[1]), "", "demo_1 is in mask/train and in mask/valid"),
        (masked(train=[0], valid=[9]), "", "mask/valid names demo_9, which is not there"),
        (masked(train=[], valid=[1]), "", "mask/train names no demonstration"),
        (lambda file: None, "train", "has no mask/train; it has no masks"),
    ],
)
def test_lists_that_cannot_be_used(change: Change, key: str, why: str, tmp_path: Path) -> None:
    assert why in refused(write(tmp_path / "x.hdf5", change), filter_key=key)


def test_names_that_are_no_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "x.hdf5", lambda file: file.move("data/demo_2", "data/demo_0_retry"))
    assert episodes(load_demonstrations(path, ())) == [0, 2, 1, 3]


def test_several_files_and_their_weights(tmp_path: Path) -> None:
    paths = write(tmp_path / "a.hdf5", episodes=2), write(tmp_path / "b.hdf5", masked(train=[0, 1, 2], valid=[3]))
    files = load_files(paths, ())
    data = joined(files)
    assert episodes(data) == [0, 1, 0, 1, 2, 3] and len(data) == 60 and data.starts.tolist() == list(range(0, 61, 10))
    train, held = split_files(files, 0.5, 0)
    assert sorted([*train, *held]) == list(range(6)) and 5 in held and {2, 3, 4} <= set(train) and len(held) == 2
    weighted = Options(
        data=paths, out=tmp_path / "x.pt", observations="state", denoiser="unet", rollouts=0, data_weights=(3.0, 1.0)
    )
    trainer = Trainer(weighted)
    batch = trainer.draw(trainer.train, torch.Generator().manual_seed(0), 4000, crops=False)
    of_first = float((trainer.train.observed[batch["chosen"].numpy(), -1] < 20).mean())
    assert of_first == pytest.approx(0.75, abs=0.03), "10 of its steps stand against 30"
    with pytest.raises(ValueError, match="data_weights: 1 of them for 2 files"):
        Options(data=paths, out=tmp_path / "x.pt", data_weights=(1.0,))
    other = write(tmp_path / "c.hdf5", env={"control_freq": 10})
    with pytest.raises(ValueError, match=r"c.hdf5: PickPlaceCan by Panda at 10 Hz.* expected as in .*a.hdf5: .*20 Hz"):
        load_files((paths[0], other), ())


# -- what a file may make us read -------------------------------------------------------------------------------------


def test_links_lead_nowhere_else(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    write(tmp_path / "outside.hdf5")
    write(inside / "monday.hdf5")

    def linked(to: str) -> Change:
        def change(file: h5py.File) -> None:
            del file["data/demo_1"]
            file["data/demo_1"] = h5py.ExternalLink(to, "data/demo_0")

        return change

    assert load_demonstrations(write(inside / "merged.hdf5", linked("monday.hdf5")), ()).episodes == 4
    said = refused(write(inside / "bad.hdf5", linked("../outside.hdf5")))
    assert "data/demo_1 links to ../outside.hdf5, nothing outside of the file's folder expected" in said
    assert "links to gone.hdf5, which is not there" in refused(write(inside / "bad.hdf5", linked("gone.hdf5")))
    # Nor by way of a neighbour, nor by a symbolic link.
    write(inside / "tuesday.hdf5", linked(str(tmp_path / "outside.hdf5")))
    with pytest.raises(ValueError, match=r"tuesday.hdf5: data/demo_1 links to .*outside"):
        load_demonstrations(write(inside / "bad.hdf5", linked("tuesday.hdf5")), ())
    (inside / "alias.hdf5").symlink_to(tmp_path / "outside.hdf5")
    assert "links to alias.hdf5, nothing outside" in refused(write(inside / "bad.hdf5", linked("alias.hdf5")))


def test_arrays_in_other_files(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(8 * 70))
    write(tmp_path / "outside.hdf5")

    def raw(file: h5py.File) -> None:
        del file["data/demo_0/actions"]
        file["data/demo_0"].create_dataset("actions", (10, 7), "f8", external=[(str(secret), 0, 8 * 70)])

    def view(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((10, 7), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "outside.hdf5"), "data/demo_0/actions", (10, 7))
        del file["data/demo_0/actions"]
        file["data/demo_0"].create_virtual_dataset("actions", layout)

    assert f"data/demo_0/actions has its numbers in {secret}" in refused(write(inside / "raw.hdf5", raw))
    assert "data/demo_0/actions is a view of" in refused(write(inside / "view.hdf5", view))


def test_no_memory_is_taken_for_a_small_file_with_large_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n = 4_000_000

    def large(file: h5py.File) -> None:
        demo = file["data/demo_0"]
        for name, width in (("actions", 7), ("obs/robot0_eef_pos", 3), ("obs/robot0_eef_quat", 4)):
            del demo[name]
            demo.create_dataset(name, (n, width), "f8", chunks=(1000, width), compression="gzip")
        for name, width in (("obs/robot0_gripper_qpos", 2), ("obs/object", 7)):
            del demo[name]
            demo.create_dataset(name, (n, width), "f8", chunks=(1000, width), compression="gzip")

    path = write(tmp_path / "large.hdf5", large)
    assert path.stat().st_size < 1_000_000
    free = SimpleNamespace(available=2**29)
    monkeypatch.setattr(hdf5_file.psutil, "virtual_memory", lambda: free)
    said = refused(path)
    assert "its arrays take 0.7 GiB, at most 0.4 GiB expected" in said


def test_a_file_that_is_being_written_is_locked(tmp_path: Path) -> None:
    path = write(tmp_path / "x.hdf5")
    writer = "import h5py, sys; f = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", writer, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ)
    ) as other:
        assert other.stdout is not None and other.stdout.readline()
        said = refused(path)
        other.communicate()
    assert "locked: another program is writing it" in said


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda file: file.pop("data/demo_0/obs"), "demo_0 has no obs"),
        (lambda file: file.move("data/demo_0/actions", "data/demo_0/action"), "demo_0 has no actions; it has action"),
        (lambda file: file["data"].update(demo_9=h5py.SoftLink("/gone")), "demo_9 has no obs"),
    ],
)
def test_what_is_missing(change: Change, why: str, tmp_path: Path) -> None:
    assert why in refused(write(tmp_path / "x.hdf5", change))


@pytest.mark.parametrize("kind", ["text", "empty", "short"])
def test_arrays_of_other_things(kind: str, tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        del file["data/demo_0/actions"]
        if kind == "text":
            file["data/demo_0/actions"] = ["a", "b"]
        else:
            file["data/demo_0/actions"] = np.zeros((0 if kind == "empty" else 9, 7))

    why = {"text": "an array of numbers expected", "empty": "has no steps", "short": "lengths differ"}
    assert why[kind] in refused(write(tmp_path / "x.hdf5", change))


def test_a_folder_and_nothing(tmp_path: Path) -> None:
    for path, why in ((tmp_path, "a folder, a file expected"), (tmp_path / "gone", "no such file")):
        assert why in refused(path)
        with pytest.raises(ValueError, match=why):
            load_trajectories((path,))


def test_what_a_recording_says_of_its_checkpoints_frame_and_lag_is_the_policys(tmp_path: Path) -> None:
    said = {"base_pose": [0.1, 0.2, 0.3, 0, 0, 0, 1], "response": [80, 0.8, 30, 0.8]}
    env = {"robots": "my_arm", "diffusion_ros": said}
    path = write(tmp_path / "x.hdf5", env=env)
    data = load_demonstrations(path, ())
    options = Options(data=(path,), out=tmp_path / "x.pt", observations="state", denoiser="unet", rollouts=0)
    spec = make_spec(options, data, data.recorded.actions)
    assert spec.base_pose == tuple(said["base_pose"]) and spec.response == tuple(said["response"])
    other = write(tmp_path / "y.hdf5", env={"robots": "my_arm"})
    assert load_demonstrations(other, ()).data_hash != data.data_hash
    with pytest.raises(ValueError, match="in a checkpoint's frame, by an arm that lags"):
        load_files((other, path), ())
    for wrong in ({"base_pose": [1, 2]}, {"response": "soft"}):
        assert f"env_args: {next(iter(wrong))} " in refused(write(tmp_path / "z.hdf5", env={"diffusion_ros": wrong}))


def test_the_hash_knows_what_the_numbers_mean_and_who_is_held_out(tmp_path: Path) -> None:
    def masked(train: list[int], valid: list[int]) -> Change:
        def change(file: h5py.File) -> None:
            for key, numbers in (("train", train), ("valid", valid)):
                file[f"mask/{key}"] = [f"demo_{i}".encode() for i in numbers]

        return change

    tool = {"controller_configs": {"type": "OSC_POSE", "input_ref_frame": "tool"}}
    files = [
        write(tmp_path / "a.hdf5"),
        write(tmp_path / "b.hdf5", env=tool),
        write(tmp_path / "c.hdf5", masked([0, 1], [2, 3])),
        write(tmp_path / "d.hdf5", masked([2, 3], [0, 1])),
    ]
    assert len({load_demonstrations(path, ()).data_hash for path in files}) == 4


def test_corrections_are_split_among_those_in_which_a_person_acted(tmp_path: Path) -> None:
    def corrected(file: h5py.File) -> None:
        for i, demo in enumerate(file["data"].values()):
            demo["by_person"] = np.full((10, 1), i in (1, 3), np.uint8)

    data = load_demonstrations(write(tmp_path / "x.hdf5", corrected), ())
    assert data.person is not None and data.person.shape == (40,)
    for seed in range(6):
        train, held = split_files((data,), 0.04, seed, persons=True)
        assert sorted([*train, *held]) == [1, 3] and len(held) == 1
    wide = write(
        tmp_path / "y.hdf5", lambda file: file["data/demo_2"].create_dataset("by_person", data=np.ones((10, 2)))
    )
    assert refused(wide).endswith("demo_2/by_person has shape (10, 2), expected (N)")


def executed(*numbers: int) -> Change:
    """Half of the label acts, in those demonstrations."""

    def write_it(file: h5py.File) -> None:
        for i in numbers:
            file[f"data/demo_{i}/executed_actions"] = 0.5 * file[f"data/demo_{i}/actions"][:]

    return write_it


def test_what_was_executed_is_in_the_units_of_the_label(tmp_path: Path) -> None:
    env = {"controller_configs": FLAT}
    data = load_demonstrations(write(tmp_path / "x.hdf5", executed(0, 1, 2, 3), env=env), ())
    np.testing.assert_allclose(data.executed, 0.5 * data.actions, rtol=1e-6)
    assert data.executed.dtype == np.float32 and data.executed_missing == ""


def test_files_that_lack_what_was_executed_are_named(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.hdf5", executed(0, 1, 2, 3))
    lists = masked(x=[0, 2])
    some = write(tmp_path / "some.hdf5", lambda file: (executed(0, 2)(file), lists(file)))
    none = write(tmp_path / "none.hdf5")
    why = "no executed_actions: what acted is not known (collect_demos writes it)"
    for path, lacks in ((some, "demo_1 has"), (none, "has")):
        for paths in ((path,), (whole, path), (path, whole)):
            data = joined(load_files(paths, ()))
            assert data.executed is None and data.executed_missing == f"{path}: {lacks} {why}"
    chosen = load_demonstrations(some, (), filter_key="x")
    assert chosen.executed is not None and chosen.executed_missing == "", "those of the list have it"
    both = joined((load_demonstrations(whole, ()), chosen))
    assert both.executed_missing == "" and len(both) == 60
    np.testing.assert_allclose(both.executed, 0.5 * both.actions, rtol=1e-6)


def test_data_hash_covers_what_was_executed(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "a.hdf5"),
        write(tmp_path / "b.hdf5", executed(0, 1, 2, 3)),
        write(tmp_path / "c.hdf5", executed(0, 1)),
        write(tmp_path / "d.hdf5", executed(0, 2)),
        write(tmp_path / "e.hdf5", executed(0, 1, 2, 3)),
    ]
    with h5py.File(paths[4], "r+") as file:
        file["data/demo_3/executed_actions"][9, 6] = 0.25
    files = [load_demonstrations(path, ()) for path in paths]
    assert len({data.data_hash for data in files}) == 5
    # Without it the hash is what it was before there was such a thing: runs go on.
    plain = files[0]
    arrays = (plain.starts, plain.actions, *(plain.observations[name] for name in sorted(plain.observations)))
    assert plain.data_hash == hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (np.zeros((10, 6)), "demo_2/executed_actions has shape (10, 6), expected (N, 7)"),
        (np.zeros((9, 7)), "'executed_actions': 9"),
        (np.full((10, 7), np.nan), "demo_2/executed_actions has values that are NaN or infinite"),
        (np.full((10, 7), 2.0), "demo_2/executed_actions: an action of 2, expected -1 to 1"),
        (np.full((10, 7), b"none"), "demo_2: executed_actions is |S4, an array of numbers expected"),
    ],
)
def test_what_was_executed_has_the_shape_of_the_label(value: Any, why: str, tmp_path: Path) -> None:
    def wrong(file: h5py.File) -> None:
        file["data/demo_2/executed_actions"] = value

    assert why in refused(write(tmp_path / "x.hdf5", wrong))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"inputs": ("robot0_gripper_qpos",), "observations": "inputs"}, "without robot0_eef_pos nothing says where"),
        ({"inputs": ("robot0_gripper_qpos",)}, "with the object's pose robot0_eef_pos, robot0_eef_quat come first"),
        ({"inputs": ("robot0_eef_pos", "robot0_eef_quat", "object_pos")}, "inputs object_pos: read already"),
        (
            {"inputs": ("robot0_eef_pos",), "observations": "inputs", "action_kind": "relative_pose"},
            "relative_pose without robot0_eef_pos and robot0_eef_quat",
        ),
        (
            {"inputs": ("robot0_eef_pos", "force"), "observations": "inputs", "rollouts": 5},
            "the simulator shows no force",
        ),
    ],
)
def test_what_could_not_be_exported_is_refused_before_the_training(
    changes: dict[str, Any], why: str, tmp_path: Path
) -> None:
    def pushed(file: h5py.File) -> None:
        for demo in file["data"].values():
            demo["obs/force"] = np.ones((10, 2))

    path = write(tmp_path / "x.hdf5", pushed)
    small = {"observations": "state", "denoiser": "unet", "unet_widths": (16, 32), "rollouts": 0}
    with pytest.raises(ValueError, match=why):
        Trainer(Options(data=(path,), out=tmp_path / "x.pt", **{**small, **changes}))
