"""A guard learns what cameras show: what it has seen scores low, what it has not scores high; runs can be resumed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf

from diffusion_ros import checkpoint
from diffusion_ros.camera_guard import CameraGuard
from diffusion_ros.simulation import CAMERAS
from training.camera_guard import PATCH, Familiarity, GuardModel, place_channels
from training.noise_schedule import NoiseSchedule
from training.train_guard import Options, Trainer, train, validation_frames

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


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
        demonstrations,
        out,
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


def test_what_was_seen_scores_low_and_what_was_not_high(demonstrations: Path, tmp_path: Path) -> None:
    train(options(demonstrations, tmp_path / "guard.pt"))
    guard = CameraGuard(checkpoint.load(tmp_path / "guard.pt", kind="camera guard", task="lift"))
    rng = np.random.default_rng(7)
    for index, camera in enumerate(CAMERAS):
        good = [guard.look(camera, scene(index, rng)).score for _ in range(20)]
        assert max(good) < 1.01
        swapped = [guard.look(camera, scene(index, rng)[..., ::-1]).score for _ in range(5)]
        black = guard.look(camera, np.zeros((84, 84, 3), np.uint8))
        assert min(swapped) > 1 and black.score > 1
        odd = scene(index, rng)
        odd[24:36, 60:72] = (0, 255, 0)
        view = guard.look(camera, odd)
        assert view.score > 1 and np.unravel_index(view.heat.argmax(), view.heat.shape) == (2, 5)
    spec = guard.spec
    assert spec.cameras == CAMERAS and len(spec.data_hash) == 64
    assert spec.scores == {"held_out_frames": 60, "threshold_frames": 20}


def test_a_resumed_run_ends_with_the_same_weights(demonstrations: Path, tmp_path: Path) -> None:
    whole = options(demonstrations, tmp_path / "whole.pt", iterations=6, save_every=100)
    train(whole)

    class Stop(Exception):
        pass

    stopped = Trainer(dataclasses.replace(whole, out=tmp_path / "parts.pt", save_every=3))
    saved = stopped._save

    def save_and_stop(optimizer: object) -> None:
        saved(optimizer)
        raise Stop

    stopped._save = save_and_stop  # type: ignore[method-assign]
    with pytest.raises(Stop):
        stopped.run()
    train(dataclasses.replace(whole, out=tmp_path / "parts.pt", save_every=3, resume=True))
    one, other = (checkpoint.weights(tmp_path / f"{name}.pt") for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_eager_equals_scripted_and_calibration_sets_its_quantiles() -> None:
    torch.manual_seed(0)
    model = GuardModel(2, NoiseSchedule(50, prediction="sample"), (10, 30), 84, 8, (1, 2)).eval()
    images = torch.randint(0, 256, (60, 84, 84, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    side = 84 // PATCH
    with torch.no_grad():
        errors, differences, colours = model.features(images, 1)
    assert errors.shape == (60, 2, side, side) and differences.shape == (60, 4 * 2 * side**2)
    expected = images.reshape(60, side, PATCH, side, PATCH, 3).float().mean((2, 4)).permute(0, 3, 1, 2) / 127.5 - 1
    assert torch.allclose(colours, expected.reshape(60, -1), atol=1e-5)
    for familiarity, features in ((model.of_differences, differences), (model.of_colours, colours)):
        familiarity.fit(features, 1)
        familiarity.set_threshold(features, 1, false_alarms=0.1, margin=1.0)
        assert int((familiarity(features, 1) > 1).sum()) == 6
    scripted = checkpoint.script(model)
    with torch.no_grad():
        score, heat = model.score(images, 1)
        again, _ = scripted.score(images, 1)
    assert torch.equal(score, again) and torch.allclose(score, heat.amax((1, 2)))
    parts = torch.stack((model.of_differences(differences, 1), model.of_colours(colours, 1)))
    assert torch.allclose(score, parts.amax(0)) and bool((parts.argmax(0).bincount(minlength=2) > 0).all())
    model.of_colours.set_threshold(colours, 1, false_alarms=0.1, margin=2.0)
    assert torch.allclose(model.of_colours(colours, 1), parts[1] / 2)


def test_familiarity_is_mahalanobis_distance() -> None:
    """Against scipy's, with the covariance that scikit-learn gives."""
    generator = torch.Generator().manual_seed(2)
    features = torch.randn((90, 40), generator=generator) @ torch.randn((40, 40), generator=generator) + 5
    familiarity = Familiarity(2, 40)
    familiarity.fit(features[:60], 1)
    first = features[:60].double().numpy()
    mean, std = first.mean(0), first.std(0, ddof=1)
    precision = LedoitWolf(assume_centered=True).fit((first - mean) / std).precision_ / np.outer(std, std)
    expected = [mahalanobis(row, mean, precision) for row in features[60:].double().numpy()]
    np.testing.assert_allclose(familiarity(features[60:], 1).numpy(), expected, rtol=1e-4)
    familiarity.set_threshold(features[60:], 1, false_alarms=0.5, margin=2.0)
    np.testing.assert_allclose(familiarity(features[60:], 1).numpy(), expected / np.median(expected) / 2, rtol=1e-4)


def test_validation_frames_are_an_experts_at_the_guards_rate() -> None:
    first, again = (list(validation_frames("lift", 1)) for _ in range(2))
    ((agentview, wrist),) = first
    assert agentview.shape == wrist.shape and agentview.shape[1:] == (84, 84, 3) and agentview.dtype == torch.uint8
    assert 5 < len(agentview) < 60 and not torch.equal(agentview[0], agentview[-1])
    assert all(torch.equal(a, b) for a, b in zip(first[0], again[0], strict=True))
    assert list(validation_frames("lift", 0)) == []


def test_places_differ_and_lie_within_one() -> None:
    place = place_channels(84, 84)
    assert place.shape == (16, 84, 84) and float(place.abs().max()) <= 1
    flat = place.reshape(16, -1).T
    assert len(torch.unique(flat, dim=0)) == 84 * 84


def test_bad_values(demonstrations: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"held_out 1\.5: must lie between 0 and 1"):
        options(demonstrations, tmp_path / "x.pt", held_out=1.5)
    with pytest.raises(ValueError, match=r"levels \[100\]: steps from 0 to 99 expected"):
        Trainer(options(demonstrations, tmp_path / "x.pt", levels=(100,)))
