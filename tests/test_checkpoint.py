"""A checkpoint carries everything, repeats itself for a seed, and every bad file is refused in one line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_policy import FakePolicy, save, spec
from torch import nn

from diffusion_ros import checkpoint
from diffusion_ros.checkpoint import CheckpointError
from diffusion_ros.models.policy import FrameError, Policy, chunk_seed
from diffusion_ros.spec import CheckpointSpec, SpecError


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("checkpoint") / "policy.pt")


def test_spec_survives_and_is_read_without_torch(path: Path) -> None:
    assert checkpoint.read_spec(path) == spec()
    loaded = checkpoint.load(path, kind="policy", task="can")
    assert loaded.spec == spec()
    assert loaded.sha256 == checkpoint.file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    # In a process where nothing can import torch.
    script = """
import sys
sys.modules["torch"] = None
from diffusion_ros import checkpoint
print(checkpoint.read_spec(sys.argv[1]).to_json())
"""
    command = [sys.executable, "-c", script, str(path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    read = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (read.returncode, read.stderr) == (0, "")
    assert CheckpointSpec.from_json(read.stdout) == spec()


def test_steps_and_sampler_can_be_changed_at_load(path: Path) -> None:
    loaded = checkpoint.load(path, sampler="ddpm", sampler_steps=100)
    assert (loaded.spec.sampler, loaded.spec.sampler_steps) == ("ddpm", 100)
    with pytest.raises(CheckpointError, match="sampler_steps 101, at most num_train_timesteps 100"):
        checkpoint.load(path, sampler_steps=101)
    with pytest.raises(CheckpointError, match="sampler 'euler'"):
        checkpoint.load(path, sampler="euler")
    with pytest.raises(CheckpointError, match="timestep_spacing 'sideways', one of leading, trailing"):
        checkpoint.load(path, timestep_spacing="sideways")


def test_steps_that_a_module_cannot_choose_are_refused_with_what_mends_it(path: Path) -> None:
    assert checkpoint.load(path, timestep_spacing="leading").spec.timestep_spacing == "leading"
    with pytest.raises(CheckpointError, match=r"timestep_spacing 'trailing': .*export_again"):
        checkpoint.load(path, timestep_spacing="trailing")


def frame() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    values: dict[str, np.ndarray] = {}
    for tensor in spec().inputs:
        values[tensor.name] = (
            rng.integers(0, 256, tensor.shape, np.uint8) if tensor.dtype == "uint8" else np.ones(tensor.shape)
        )
    return values


def test_the_seed_decides(path: Path) -> None:
    policy = Policy(checkpoint.load(path))
    features = [policy.encode(frame())] * 2
    first = policy.sample(features, 7)
    np.testing.assert_array_equal(first, policy.sample(features, 7))
    assert np.abs(first - policy.sample(features, 8)).max() > 0
    assert first.shape == (9, 7) and first.dtype == np.float64
    assert chunk_seed(0, 5) == chunk_seed(0, 5) != chunk_seed(1, 5)


def test_frames_that_do_not_fit_are_refused(path: Path) -> None:
    policy = Policy(checkpoint.load(path))
    small = {**frame(), "agentview_image": np.zeros((64, 64, 3), np.uint8)}
    with pytest.raises(FrameError, match=r"agentview_image: shape \(64, 64, 3\)"):
        policy.encode(small)
    with pytest.raises(FrameError, match="finite"):
        policy.encode({**frame(), "robot0_eef_pos": np.array([0, np.nan, 0])})
    missing = frame()
    del missing["robot0_eye_in_hand_image"]
    with pytest.raises(FrameError, match="robot0_eye_in_hand_image: missing"):
        policy.encode(missing)


def test_half_precision_halves_the_file_and_computes_in_single(tmp_path: Path) -> None:
    class Wide(FakePolicy):
        def __init__(self) -> None:
            super().__init__(spec().input_names, spec().n_rows)
            self.layer = nn.Linear(300, 300)

    torch.manual_seed(0)
    module = Wide()
    weight = module.layer.weight.detach().clone()
    checkpoint.save(module, spec(), tmp_path / "half.pt", half=True)
    checkpoint.save(module, spec(), tmp_path / "single.pt")
    assert torch.equal(module.layer.weight, weight)
    assert (tmp_path / "half.pt").stat().st_size < 0.6 * (tmp_path / "single.pt").stat().st_size
    loaded = checkpoint.load(tmp_path / "half.pt")
    assert all(p.dtype == torch.float32 for p in loaded.module.parameters())


def test_scores_are_added_and_nothing_else_changes(tmp_path: Path) -> None:
    path = tmp_path / "policy.pt"
    checkpoint.save(FakePolicy(spec().input_names, spec().n_rows), spec(), path, half=True)
    before = checkpoint.load(path)
    size = path.stat().st_size
    checkpoint.record_scores(path, {"evaluation": {"success_rate": 0.5}})
    checkpoint.record_scores(path, {"more": 1})
    after = checkpoint.load(path)
    assert after.spec == dataclasses.replace(
        spec(), scores={**spec().scores, "evaluation": {"success_rate": 0.5}, "more": 1}
    )
    assert after.sha256 != before.sha256 and path.stat().st_size < size + 1000
    first, second = ([policy.encode(frame())] * 2 for policy in map(Policy, (before, after)))
    np.testing.assert_array_equal(Policy(before).sample(first, 7), Policy(after).sample(second, 7))
    assert [p.name for p in tmp_path.iterdir()] == ["policy.pt"]


def test_a_checkpoint_does_not_tell_where_it_was_made(path: Path) -> None:
    checkpoint.record_scores(path, {"more": 1})
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    here = str(Path(__file__).parent).encode()
    assert any(name.endswith("fake_policy.py") for name in contents)
    assert not [name for name, content in contents.items() if here in content]


def test_missing_truncated_and_foreign_files(path: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "none.pt")
    whole = path.read_bytes()
    short = tmp_path / "short.pt"
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        short.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="truncated, or not a TorchScript file"):
            checkpoint.load(short)
    foreign = tmp_path / "foreign.pt"
    torch.save({"weights": torch.zeros(3)}, foreign)
    with pytest.raises(CheckpointError, match=r"not a checkpoint of diffusion_ros: it has no spec\.json"):
        checkpoint.load(foreign)


def test_flipped_bytes_are_noticed(path: Path, tmp_path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry = next(info for info in archive.infolist() if "/data/" in info.filename)
    name, extra = struct.unpack("<HH", damaged[entry.header_offset + 26 : entry.header_offset + 30])
    damaged[entry.header_offset + 30 + name + extra + entry.file_size // 2] ^= 0x01
    bad = tmp_path / "damaged.pt"
    bad.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="checksum"):
        checkpoint.load(bad)


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_named(path: Path, device: str) -> None:
    with pytest.raises(CheckpointError, match=f"device '{device}': cannot be used: ") as error:
        checkpoint.load(path, device)
    assert "\n" not in str(error.value)


def test_kind_and_task_must_fit(path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a policy, a planner is needed"):
        checkpoint.load(path, kind="planner")
    with pytest.raises(CheckpointError, match="was trained on the task can, square is needed"):
        checkpoint.load(path, task="square")


class NotANumber(FakePolicy):
    def __init__(self, name: str, value: float) -> None:
        super().__init__(spec().input_names, spec().n_rows)
        self.register_buffer(name, torch.tensor([1.0, value]))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [("offset", float("nan"), "NaN or infinite"), ("scale", 0.0, "degenerate"), ("scale", -1.0, "degenerate")],
)
def test_bad_statistics_are_refused(tmp_path: Path, name: str, value: float, expected: str) -> None:
    with pytest.raises(CheckpointError, match=expected):
        checkpoint.save(NotANumber(name, value), spec(), tmp_path / "bad.pt")
    assert list(tmp_path.iterdir()) == []
    # Written by somebody else's program:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "_bad_weights", lambda module: "")
        checkpoint.save(NotANumber(name, value), spec(), tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match=expected):
        checkpoint.load(tmp_path / "bad.pt")


def test_module_must_do_what_its_spec_says(tmp_path: Path) -> None:
    names = spec().input_names
    checkpoint.save(FakePolicy(names, 5), spec(), tmp_path / "rows.pt")
    with pytest.raises(CheckpointError, match=r"chunks of shape \(1, 5, 7\), its specification says \(1, 9, 7\)"):
        checkpoint.load(tmp_path / "rows.pt")
    checkpoint.save(nn.Linear(3, 3), spec(), tmp_path / "linear.pt")
    with pytest.raises(CheckpointError, match="has no encode and no sample"):
        checkpoint.load(tmp_path / "linear.pt")
    checkpoint.save(FakePolicy((*names, "object_pos"), 9), spec(), tmp_path / "input.pt")
    with pytest.raises(CheckpointError, match="does not run on its own specification"):
        checkpoint.load(tmp_path / "input.pt")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"n_action_steps": 10}, "n_action_steps 10, at most 9"),
        ({"rate": 0.0}, "rate"),
        ({"kind": "poem"}, "kind 'poem'"),
        ({"action_low": (0.0,) * 7}, "action_low|below action_high"),
        ({"workspace_low": (float("nan"),) * 3}, "workspace_low"),
    ],
)
def test_specs_that_make_no_sense(change: dict[str, object], expected: str) -> None:
    high = {"action_high": (0.0,) * 7} if "action_low" in change else {}
    with pytest.raises(SpecError, match=expected):
        checkpoint.checked(dataclasses.replace(spec(), **change, **high))


def test_spec_json_with_unknown_or_missing_fields() -> None:
    text = spec().to_json()
    assert CheckpointSpec.from_json(text) == spec()
    with pytest.raises(SpecError, match="unknown colour"):
        CheckpointSpec.from_json(text.replace('"rate"', '"colour": 1, "rate"'))
    with pytest.raises(SpecError, match="horizon missing"):
        CheckpointSpec.from_json(text.replace('"horizon": 10,', ""))


OF_A_ROBOT = {
    "pictures": {"scale": "cover", "interpolation": "area"},
    "base_pose": (-0.5, -0.1, 0.912, 0.0, 0.0, 0.0, 1.0),
    "response": (150.0, 1.0),
}


def test_a_spec_says_what_a_real_robot_must_know_of_the_data_s_and_older_ones_need_not() -> None:
    whole = dataclasses.replace(spec(), **OF_A_ROBOT)
    assert CheckpointSpec.from_json(whole.to_json()) == whole
    old = json.loads(spec().to_json())
    for name in OF_A_ROBOT:
        del old[name]
    read = CheckpointSpec.from_json(json.dumps(old))
    assert read == spec() and (read.pictures, read.base_pose, read.response) == ({}, (), ())


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (
            "pictures",
            {"scale": "stretch", "interpolation": "area"},
            r"pictures \{'scale': 'stretch'.*, \{\} or \{.*expected",
        ),
        ("pictures", {"scale": "cover"}, "interpolation': 'area'} expected"),
        ("pictures", "cover", "pictures 'cover', an object expected"),
        ("base_pose", [0.0, 0.0, 0.9], r"base_pose \[0.0, 0.0, 0.9\], a position \(3\) \[m\] and a quaternion"),
        ("base_pose", [0.0, 0.0, 0.9, 0.0, 0.0, 0.0, 0.9], "a quaternion .* of length 1 expected"),
        ("base_pose", [float("inf"), 0.0, 0.9, 0.0, 0.0, 0.0, 1.0], "base_pose"),
        ("base_pose", [0.0, 0.0, 0.9, 0.0, 0.0, float("nan"), 1.0], "base_pose"),
        ("base_pose", ["0"] * 7, "base_pose .*, a list of numbers expected"),
        ("response", [150.0], r"response \[150.0\], stiffness and damping ratio above 0 expected"),
        ("response", [0.0, 1.0], "response"),
        ("response", [90.0, 0.8, 30.0], "response"),
        ("response", [150.0, float("nan")], "response"),
        ("response", [150.0, True], "response .*, a list of numbers expected"),
    ],
)
def test_what_it_says_of_the_data_s_robot_makes_sense(name: str, value: object, expected: str) -> None:
    with pytest.raises(SpecError, match=expected) as error:
        CheckpointSpec.from_json(json.dumps(json.loads(spec().to_json()) | {name: value}))
    assert str(error.value).startswith("spec: ") and "\n" not in str(error.value)
