"""A guard learns what cameras show: what it has seen scores low, what it has not scores high; runs can be resumed."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from scipy.spatial.transform import Rotation
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import Ridge

from diffusion_ros import checkpoint
from diffusion_ros.models.camera_guard import CameraGuard
from diffusion_ros.models.policy import Policy
from diffusion_ros.robot import CAMERAS
from training.diffusion.guard import (
    FAMILIAR,
    PATCH,
    RIDGE,
    SAME_LOOK,
    STRANGEST,
    Familiarity,
    GuardModel,
    place_channels,
)
from training.diffusion.noise_schedule import NoiseSchedule
from training.evaluation.rollout import roll_out
from training.options.guard import Options
from training.train_guard import train
from training.trainers import guard as guard_trainer
from training.trainers.guard import Trainer, expert_frames, policy_frames

pytestmark = pytest.mark.usefixtures("fresh_accelerate", "scripted_at_the_end")

CHECKPOINTS = Path(__file__).resolve().parents[1] / "checkpoints"
POSE = np.array([0.0, 0, 0, 1, 0, 0, 0])


def random_poses(n: int, seed: int) -> torch.Tensor:
    """(n, 7)."""
    rng = np.random.default_rng(seed)
    quaternions = Rotation.from_rotvec(rng.normal(0, 0.3, (n, 3))).as_quat()
    return torch.from_numpy(np.concatenate([rng.normal(0, 0.2, (n, 3)), quaternions], axis=1)).float()


def scene(camera: int, rng: np.random.Generator) -> np.ndarray:
    """A picture of two halves with a small square in one of four places; the halves' colours are the camera's."""
    image = np.full((84, 84, 3), 60 + 100 * camera, np.uint8)
    image[:, 42:] = (200, 120, 40)
    y, x = 14 + 36 * rng.integers(0, 2, 2)
    image[y : y + 8, x : x + 8] = 10
    return image


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "demos.hdf5"
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {}})
        for i in range(10):
            demo = data.create_group(f"demo_{i}")
            demo["actions"] = np.zeros((20, 7))
            demo["obs/robot0_eef_pos"] = np.zeros((20, 3))
            demo["obs/robot0_eef_quat"] = np.tile([1.0, 0, 0, 0], (20, 1))
            demo["obs/robot0_gripper_qpos"] = np.tile([0.04, -0.04], (20, 1))
            for index, camera in enumerate(CAMERAS):
                demo[f"obs/{camera}_image"] = np.stack([scene(index, rng) for _ in range(20)])
    return path


def options(demonstrations: Path, out: Path, **changes: object) -> Options:
    small = Options(
        data=demonstrations,
        out=out,
        dim=8,
        dim_mults=(1, 2),
        iterations=60,
        batch_size=4,
        learning_rate=3e-3,
        ema_decay=0.9,
        mixed_precision="no",
        held_out=0.3,
        calibration_stride=1,
        false_alarms=0.02,
        validation_episodes=0,
        save_every=30,
    )
    return dataclasses.replace(small, **changes)


@pytest.mark.slow  # it learns; the shipped guard's test shows the same of one that has
def test_what_was_seen_scores_low_and_what_was_not_high(demonstrations: Path, tmp_path: Path) -> None:
    train(options(demonstrations, tmp_path / "guard.pt", iterations=40))
    guard = CameraGuard(checkpoint.load(tmp_path / "guard.pt", kind="camera guard", task="lift"))
    rng = np.random.default_rng(7)
    for index, camera in enumerate(CAMERAS):
        good = [guard.look(camera, scene(index, rng), POSE).score for _ in range(10)]
        assert max(good) < 1.01
        swapped = [guard.look(camera, scene(index, rng)[..., ::-1], POSE).score for _ in range(5)]
        black = guard.look(camera, np.zeros((84, 84, 3), np.uint8), POSE)
        assert min(swapped) > 1 and black.score > 1
        odd = scene(index, rng)
        odd[24:36, 60:72] = (0, 255, 0)
        view = guard.look(camera, odd, POSE)
        assert view.score > 1 and np.unravel_index(view.heat.argmax(), view.heat.shape) == (2, 5)
    spec = guard.spec
    assert spec.cameras == CAMERAS and len(spec.data_hash) == 64
    assert spec.scores == {"fitted_frames": 40, "threshold_frames": 20}


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_weights_wherever_its_data_lie(demonstrations: Path, tmp_path: Path) -> None:
    here, there, out = tmp_path / "here.hdf5", tmp_path / "there.hdf5", tmp_path / "parts.pt"
    here.write_bytes(demonstrations.read_bytes())
    whole = options(here, tmp_path / "whole.pt", iterations=4, save_every=100, calibration_stride=8)
    train(whole)

    class Stop(Exception):
        pass

    stopped = Trainer(dataclasses.replace(whole, out=out, save_every=2))
    save = stopped.bookkeeping.save

    def save_and_stop(**state: object) -> None:
        save(**state)
        raise Stop

    stopped.bookkeeping.save = save_and_stop  # type: ignore[method-assign]
    with pytest.raises(Stop):
        stopped.run()
    here.rename(there)
    again = dataclasses.replace(whole, data=there, out=out, save_every=2, resume=True)
    train(again)
    one, other = (checkpoint.foreign(path).state_dict() for path in (whole.out, out))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    written = out.read_bytes()
    with h5py.File(there, "r+") as file:
        file["data/demo_3/obs/agentview_image"][5, 2, 0, 0] += 1
    with pytest.raises(ValueError, match=r"begun with data of SHA-256 \w{16}, .*there.hdf5 has \w{16} now") as error:
        train(again)
    assert "\n" not in str(error.value) and out.read_bytes() == written


def test_what_cannot_be_exported_fails_at_once(
    demonstrations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(module: torch.nn.Module) -> None:
        raise RuntimeError("not TorchScript")

    monkeypatch.setattr(guard_trainer.checkpoint, "script", script)
    with pytest.raises(RuntimeError, match="not TorchScript"):
        Trainer(options(demonstrations, tmp_path / "x.pt"))


def test_eager_equals_scripted_and_calibration_sets_its_quantiles() -> None:
    torch.manual_seed(0)
    model = GuardModel(2, NoiseSchedule(50, prediction_type="sample"), (10, 30), 84, 8, (1, 2)).eval()
    images = torch.randint(0, 256, (60, 84, 84, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    side = 84 // PATCH
    with torch.no_grad():
        errors, differences, colours = model.features(images, 1)
    assert errors.shape == (60, 2, side, side) and differences.shape == (60, 4 * 2 * side**2)
    expected = images.reshape(60, side, PATCH, side, PATCH, 3).float().mean((2, 4)).permute(0, 3, 1, 2) / 127.5 - 1
    assert torch.allclose(colours, expected.reshape(60, -1), atol=1e-5)
    poses = random_poses(60, 3)
    for familiarity, features in ((model.of_differences, differences), (model.of_colours, colours)):
        familiarity.fit(features, poses, 1)
        familiarity.set_threshold(features, poses, 1, false_alarms=0.1, margin=1.0)
        assert int((familiarity(features, poses, 1) > 1).sum()) == 6
    scripted = checkpoint.script(model)
    with torch.no_grad():
        score, heat = model.score(images, poses, 1)
        again, _ = scripted.score(images, poses, 1)
    assert torch.equal(score, again) and torch.allclose(score, heat.amax((1, 2)))
    parts = torch.stack((model.of_differences(differences, poses, 1), model.of_colours(colours, poses, 1)))
    assert torch.allclose(score, parts.amax(0)) and bool((parts.argmax(0).bincount(minlength=2) > 0).all())
    model.of_colours.set_threshold(colours, poses, 1, false_alarms=0.1, margin=2.0)
    assert torch.allclose(model.of_colours(colours, poses, 1), parts[1] / 2)


def test_familiarity_is_mahalanobis_distance_from_what_the_pose_lets_expect() -> None:
    """Against scipy's, with the regression and the covariance that scikit-learn gives."""
    generator = torch.Generator().manual_seed(2)
    poses = random_poses(90, 4)
    features = torch.randn((90, 40), generator=generator) @ torch.randn((40, 40), generator=generator) + 5
    features += poses[:, :3] @ torch.randn((3, 40), generator=generator) * 50
    familiarity = Familiarity(2, 40)
    familiarity.fit(features[:60], poses[:60], 1)

    rotation = Rotation.from_quat(poses[:, 3:].double().numpy()).as_matrix()
    terms = np.concatenate([poses[:, :3].double().numpy(), rotation[:, :, 0], rotation[:, :, 1]], axis=1)
    place = (terms - terms[:60].mean(0)) / terms[:60].std(0, ddof=1)
    strangeness = np.maximum(np.sqrt((place**2).mean(1)) / FAMILIAR, 1.0)
    assert 0 < int((strangeness[60:] > 1).sum()) < 30
    standard = np.clip(place, -4, 4)
    values = features.double().numpy()
    regression = Ridge(60 * RIDGE).fit(standard[:60], values[:60])
    rest = values - regression.predict(standard)
    std = rest[:60].std(0)
    covariance = LedoitWolf(assume_centered=True).fit(rest[:60] / std).covariance_ * np.outer(std, std)
    precision = np.linalg.inv(covariance + SAME_LOOK**2 * np.eye(40))
    expected = [mahalanobis(row, np.zeros(40), precision) for row in rest[60:]] / strangeness[60:]
    found = familiarity(features[60:], poses[60:], 1)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3)
    familiarity.set_threshold(features[60:], poses[60:], 1, false_alarms=0.5, margin=2.0)
    found = familiarity(features[60:], poses[60:], 1)
    np.testing.assert_allclose(found.numpy(), expected / np.median(expected) / 2, rtol=1e-3)


def test_a_turned_camera_is_told_from_a_turned_hand() -> None:
    """What a camera on the hand shows follows its pose: the same picture is good with one, and not with another."""
    rng = np.random.default_rng(5)
    poses = random_poses(400, 6)
    turn = torch.from_numpy(Rotation.from_quat(poses[:, 3:].numpy()).as_rotvec()).float()
    features = turn @ torch.from_numpy(rng.normal(0, 1, (3, 12))).float()
    features += torch.from_numpy(rng.normal(0, 0.02, features.shape)).float()
    familiarity = Familiarity(1, 12)
    familiarity.fit(features[:200], poses[:200], 0)
    familiarity.set_threshold(features[200:], poses[200:], 0, false_alarms=0.01, margin=1.5)
    assert float(familiarity(features[200:], poses[200:], 0).max()) < 1
    assert float((familiarity(features[200:], poses[200:].flip(0), 0) > 1).float().mean()) > 0.8


def test_where_the_hand_seldom_is_the_threshold_grows_but_not_for_ever() -> None:
    familiarity = Familiarity(1, 12)  # of mean 0 and deviation 1
    rotation = torch.tensor([0.0, 0, 0, 1])
    familiarity.pose_mean[0, 3:] = torch.tensor([1.0, 0, 0, 0, 1, 0])
    poses = torch.stack([torch.cat([torch.tensor([x, 0.0, 0.0]), rotation]) for x in (0.0, 3.0, 6.0, 300.0)])
    found = familiarity(torch.ones((4, 12)), poses, 0)
    # One of nine terms is so many deviations off: a third of them is the root mean square.
    np.testing.assert_allclose(found.numpy(), 12**0.5 / np.array([1, 1, 2 / FAMILIAR, STRANGEST]), rtol=1e-5)


def test_a_picture_that_never_changes_may_change_a_little() -> None:
    """An unchanging picture makes no guard that stops at the next renderer's rounding."""
    features, poses = torch.full((100, 12), 0.5), random_poses(100, 7)
    familiarity = Familiarity(1, 12)
    familiarity.fit(features, poses, 0)
    assert float(familiarity(features + SAME_LOOK, poses, 0).max()) < 12**0.5 + 0.01
    assert float(familiarity(features + 0.08, poses, 0).min()) > 100


@pytest.mark.slow
def test_what_guards_are_calibrated_on_is_seen_at_their_rate() -> None:
    first, again = (list(expert_frames("lift", 1)) for _ in range(2))
    (frames,) = first
    agentview, wrist = frames.images
    assert agentview.shape == wrist.shape and agentview.shape[1:] == (84, 84, 3) and agentview.dtype == torch.uint8
    assert 5 < len(agentview) < 60 and not torch.equal(agentview[0], agentview[-1])
    assert frames.poses.shape == (len(agentview), 7) and float(frames.poses[:, 2].min()) > 0.8  # above the table
    assert all(torch.equal(a, b) for a, b in zip(frames.images, again[0].images, strict=True))
    assert list(expert_frames("lift", 0)) == []


@pytest.mark.slow
def test_a_policys_episodes_are_looked_at_unless_they_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy(checkpoint.load(CHECKPOINTS / "lift_state.pt", kind="policy"))
    one, other = policy_frames(policy, 2)
    assert one.images[0].shape[1:] == (84, 84, 3) and 3 < len(one.poses) == len(one.images[1])
    assert not torch.equal(one.images[0][0], other.images[0][0])
    assert float(one.poses[:, 2].min()) > 0.8 and torch.allclose(one.poses[:, 3:].norm(dim=1), torch.tensor(1.0))
    monkeypatch.setattr("training.trainers.guard.roll_out", partial(roll_out, max_steps=8))
    assert list(policy_frames(policy, 2)) == []


def test_places_differ_and_lie_within_one() -> None:
    place = place_channels(84, 84)
    assert place.shape == (16, 84, 84) and float(place.abs().max()) <= 1
    flat = place.reshape(16, -1).T
    assert len(torch.unique(flat, dim=0)) == 84 * 84


def test_bad_values(demonstrations: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"held_out 1\.5: must lie between 0 and 1"):
        options(demonstrations, tmp_path / "x.pt", held_out=1.5)
    with pytest.raises(
        ValueError, match=r"colour_margin \(2\.0,\): one above 0 for each of agentview, robot0_eye_in_hand"
    ):
        options(demonstrations, tmp_path / "x.pt", colour_margin=(2.0,))
    with pytest.raises(ValueError, match=r"levels \[100\]: steps from 0 to 99 expected"):
        Trainer(options(demonstrations, tmp_path / "x.pt", levels=(100,)))
