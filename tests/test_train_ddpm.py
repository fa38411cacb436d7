"""Training a diffusion model of images: what it learns, resumes, exports, draws and refuses."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import imageio.v3
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from fake_policy import save as save_policy
from PIL import Image
from processes_training import trained_by_two_and_one
from some_slow import but
from torch import nn

from diffusion_ros import checkpoint
from diffusion_ros.checkpoint import CheckpointError
from diffusion_ros.spec import CheckpointSpec, SpecError, TensorSpec
from training import train_ddpm
from training.diffusion.images import ImageDiffusion, ImageDiffusionLoss, to_float, to_uint8
from training.diffusion.noise_schedule import NoiseSchedule
from training.evaluation.image_figures import grid, shown_steps
from training.networks.unet2d import Unet2d
from training.options.images import Options
from training.trainers import images as images_trainer
from training.trainers.images import Trainer, report_corrupt

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(["src", ".", os.environ.get("PYTHONPATH", "")]),
    "OMP_NUM_THREADS": "1",
}
pytestmark = pytest.mark.usefixtures("fresh_accelerate", "scripted_at_the_end")


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Images with a rule: one bright column of four in a dark picture."""
    folder = tmp_path_factory.mktemp("stripes")
    for i in range(40):
        image = np.full((4, 4), 20, np.uint8)
        image[:, i % 4] = 240
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    return f"folder:{folder}"


def options(data: str, out: Path, **changes: object) -> Options:
    small: dict[str, object] = {
        "dim": 8,
        "dim_mults": (1, 2),
        "heads": 1,
        "head_dim": 8,
        "num_train_timesteps": 20,
        "beta_schedule": "cosine",
        "iterations": 6,
        "batch_size": 8,
        "sampler": "ddim",
        "num_inference_steps": 5,
        "stand_in_iterations": 2,
        "flip": False,
    }
    return Options(data=data, out=out, **{**small, **changes})  # type: ignore[arg-type]


@pytest.mark.slow
def test_learns_what_the_images_have_in_common(stripes: str, tmp_path: Path) -> None:
    out = tmp_path / "stripes.pt"
    Trainer(options(stripes, out, iterations=80, batch_size=16, learning_rate=8e-3, ema_decay=0.95)).run()
    images = checkpoint.load(out).module.sample(0, 64, 20)[..., 0].numpy().astype(float)
    columns = images.mean(axis=1)  # (64, 4)
    bright = columns.max(axis=1)
    assert np.mean(bright) > 190 and np.mean(np.sort(columns, axis=1)[:, :3]) < 60
    assert len(set(columns.argmax(axis=1))) == 4


VARIANTS: dict[str, dict[str, object]] = {
    "digits, ddpm": {
        "data": "digits",
        "sampler": "ddpm",
        "num_inference_steps": None,
        "half_weights": False,
        "evaluation_images": 9,
    },
    "self-conditioning": {"self_conditioning": True, "prediction_type": "sample", "loss": "l1"},
    "patches, flipped, bf16": {
        "patch": 2,
        "dim_mults": (1,),
        "flip": True,
        "mixed_precision": "bf16",
        "loss": "l2",
        "half_weights": False,
    },
}
SLOW = ("digits, ddpm", "self-conditioning")
"""The data are in test_image_datasets.py, the sampler is below and in test_noise_schedule.py."""


@pytest.mark.parametrize("variant", but(SLOW, VARIANTS))
def test_every_option_trains_exports_and_loads(variant: str, stripes: str, tmp_path: Path) -> None:
    out = tmp_path / "model.pt"
    chosen = {"data": stripes, **VARIANTS[variant]}
    made = options(out=out, **chosen)  # type: ignore[arg-type]
    trainer = Trainer(made)
    trainer.run()
    loaded = checkpoint.load(out, kind="image model")
    spec = loaded.spec
    assert spec.inputs == () and spec.outputs[0].shape == ((8, 8, 1) if variant.startswith("digits") else (4, 4, 1))
    assert (spec.sampler, spec.sampler_steps) == (made.sampler, made.steps)
    assert spec.scores["features"] == "Frechet distance, autoencoder-64"
    images = loaded.module.sample(3, 5, spec.sampler_steps)
    path = loaded.module.denoised(3, 5, spec.sampler_steps)
    assert images.dtype == torch.uint8 and images.shape == (5, *spec.outputs[0].shape)
    assert path.shape == (spec.sampler_steps + 1, *images.shape) and torch.equal(path[-1], images)
    assert not torch.equal(loaded.module.sample(4, 5, spec.sampler_steps), images)
    if not made.half_weights:
        with trainer.ema.applied(), torch.inference_mode():
            assert torch.equal(trainer.diffusion.sample(3, 5, spec.sampler_steps), images)


def shows(picture: np.ndarray, part: np.ndarray) -> bool:
    """Whether `part` is somewhere in `picture`, pixel for pixel."""
    height, width = part.shape[:2]
    return any(
        np.array_equal(picture[y : y + height, x : x + width, :3], part)
        for y in range(picture.shape[0] - height + 1)
        for x in range(picture.shape[1] - width + 1)
    )


def shown_at_the_end(trainer: Trainer) -> np.ndarray:
    """The images that the figures of its end show."""
    with trainer.ema.applied():
        return trainer.generate(min(6, len(trainer.data.test)), trainer.options.seed + 1)


def test_what_cannot_be_exported_fails_at_once(stripes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(module: torch.nn.Module) -> None:
        raise RuntimeError("not TorchScript")

    monkeypatch.setattr(images_trainer.checkpoint, "script", script)
    with pytest.raises(RuntimeError, match="not TorchScript"):
        Trainer(options(stripes, tmp_path / "x.pt"))


@pytest.mark.slow
def test_figures_at_the_end(stripes: str, tmp_path: Path) -> None:
    out = tmp_path / "model.pt"
    trainer = Trainer(options(stripes, out, sample_every=3, validate_every=2, learning_rate=2e-2))
    trainer.run()
    folder = trainer.options.run_folder
    for name in ("loss", "distance", "forward", "reverse", "real_beside_generated", "samples/0000003"):
        picture = imageio.v3.imread(folder / f"{name}.png")
        assert min(picture.shape[:2]) > 40 and picture.std() > 10, name  # and not blank
    # What they show. Forward: test images with the noise of each step; beside: the same images, and generated ones.
    data, generated = trainer.data, shown_at_the_end(trainer)
    forward = imageio.v3.imread(folder / "forward.png")
    x0 = to_float(torch.from_numpy(data.test[:6]))
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(trainer.options.seed))
    for t in shown_steps(20):
        kept = trainer.diffusion.schedule.alphas_cumprod[t]
        assert shows(forward, grid(to_uint8(kept.sqrt() * x0 + (1 - kept).sqrt() * noise).numpy(), 1)), t
    with trainer.ema.applied(), torch.inference_mode():
        path = trainer.diffusion.denoised(trainer.options.seed + 2, 16, 20).numpy()
    reverse = imageio.v3.imread(folder / "reverse.png")
    assert shows(reverse, grid(path[0][:6], 1)) and shows(reverse, grid(path[-1][:6], 1))
    beside = imageio.v3.imread(folder / "real_beside_generated.png")
    assert shows(beside, grid(data.test[:6], 8)) and shows(beside, grid(generated[:6], 8))
    with Image.open(folder / "denoising.gif") as animation:
        assert animation.n_frames == 21
        frames_of_gif = []
        for index in (0, 20):
            animation.seek(index)
            frames_of_gif.append(np.asarray(animation.convert("RGB")).astype(int))
    for frame, images in zip(frames_of_gif, (path[0], path[-1]), strict=True):
        expected = grid(images, 4)
        assert np.abs(frame[: len(expected), : expected.shape[1]] - expected).mean() < 8
    frames, _ = imageio_ffmpeg.count_frames_and_secs(str(folder / "denoising.mp4"))
    assert frames >= 21
    assert [step for step, _ in trainer.phase.validation_curve] == [2, 4, 6]
    assert not list(folder.rglob(".*"))
    scores = checkpoint.read_spec(out).scores
    assert scores["images"] == 6 and scores["distance"] > 0 and scores["distance_of_held_out_images"] > 0


@pytest.mark.slow
def test_resumed_run_has_the_same_weights_wherever_its_data_lie(stripes: str, tmp_path: Path) -> None:
    changes: dict[str, object] = {
        "iterations": 4,
        "save_every": 2,
        "self_conditioning": True,
        "half_weights": False,
        "dim_mults": (1,),
    }
    here, there, whole, stopped = (tmp_path / name for name in ("here", "there", "whole.pt", "stopped.pt"))
    shutil.copytree(stripes.removeprefix("folder:"), here)
    Trainer(options(f"folder:{here}", whole, **changes)).run()
    trainer = Trainer(options(f"folder:{here}", stopped, **changes))
    save = trainer.bookkeeping.save

    def save_and_stop(**state: object) -> None:
        save(**state)
        raise KeyboardInterrupt

    trainer.bookkeeping.save = save_and_stop  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert trainer.phase.iteration == 2 and not stopped.exists()
    here.rename(there)
    again = options(f"folder:{there}", stopped, **changes, resume=True)
    Trainer(again).run()
    first, second = (checkpoint.foreign(path).state_dict() for path in (whole, stopped))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    written = stopped.read_bytes()
    with pytest.raises(ValueError, match=r"begun with other options than these: num_train_timesteps 20, now 30"):
        Trainer(dataclasses.replace(again, num_train_timesteps=30)).run()
    Image.fromarray(np.full((4, 4), 21, np.uint8)).save(there / "07.png")
    with pytest.raises(ValueError, match=r"begun with data of SHA-256 \w{16}, folder:.*there has \w{16} now") as error:
        Trainer(again).run()
    assert "\n" not in str(error.value) and stopped.read_bytes() == written


@pytest.mark.slow  # test_training has the same of the same code
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    words = "data='digits', dim=8, dim_mults=(1,), iterations=3, batch_size=4, num_train_timesteps=4,"
    words += " stand_in_iterations=1, limit=40"
    two, one = trained_by_two_and_one("images", "diffusion", "_finish", words, tmp_path)
    assert len(two) == 2 and two[0] == two[1] != one[0]
    checkpoint.load(tmp_path / "x.pt", kind="image model")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--data", "mnist"], "data 'mnist': digits, fashion-mnist:DIR"),
        (
            ["--data", "digits", "--dim-mults", "1", "2", "4", "8", "16"],
            "images of 8 x 8: both must be multiples of 16",
        ),
        (
            ["--data", "digits", "--num-inference-steps", "400"],
            "num_inference_steps 400: must be 1 to num_train_timesteps, 300",
        ),
        (["--data", "digits", "--beta-schedule", "squared"], "invalid choice"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], expected: str, tmp_path: Path, run_command: Callable[..., tuple[object, str]]
) -> None:
    out = tmp_path / "kept.pt"
    out.write_text("not overwritten")
    status, said = run_command(train_ddpm.main, "--out", out, *words)
    assert status == 2 and expected in said
    assert len(said.strip().splitlines()) == 1
    assert out.read_text() == "not overwritten" and [path.name for path in tmp_path.iterdir()] == ["kept.pt"]


@pytest.mark.slow  # six seconds of imports, for one line
def test_a_process_of_the_command_says_no_more_than_that_line(tmp_path: Path) -> None:
    """Nor does what it imports."""
    command = [sys.executable, "-m", "training.train_ddpm", "--out", str(tmp_path / "x.pt"), "--data", "mnist"]
    result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=280, check=False)
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"iterations": 0}, "iterations 0: must be at least 1"),
        ({"limit": 2}, "limit 2: must be at least 3"),
        ({"num_inference_steps": 0}, "num_inference_steps 0"),
    ],
)
def test_bad_options(changes: dict[str, object], expected: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=expected):
        options("digits", tmp_path / "x.pt", **changes)


def test_corrupt_files_are_named_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from training.data.images import load_images

    for i in range(12):
        content = np.full((4, 4), i, np.uint8)
        Image.fromarray(content).save(tmp_path / f"{i:02d}.png")
        if i >= 4:
            (tmp_path / f"{i:02d}.png").write_bytes(b"\x89PNG")
    report_corrupt(load_images(f"folder:{tmp_path}"))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6 and "04.png: cannot be read" in lines[0]
    assert lines[-1].endswith("8 corrupt files skipped, 4 images read")


def test_pixels_survive() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).repeat(2, 1, 1, 3)
    x = to_float(images)
    assert x.shape == (2, 3, 16, 16) and float(x.min()) == -1.0 and float(x.max()) == 1.0
    assert torch.equal(to_uint8(x), images)
    assert int(to_uint8(2 * x).min()) == 0 and int(to_uint8(2 * x).max()) == 255  # and nothing wraps around
    assert torch.equal(to_uint8(2 * x)[0, :, :, 0].flatten().int().diff() >= 0, torch.ones(255, dtype=torch.bool))


class KnowsTheImage(Unet2d):
    """A denoiser that knows the only image there is: the noise is what is left."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, estimate: torch.Tensor | None = None) -> torch.Tensor:
        return torch.full_like(x, 0.25)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("steps", [1, 10, 50, 300])
def test_a_perfect_denoiser_gives_the_image(sampler: str, steps: int) -> None:
    network = KnowsTheImage(1, 8, (1,))
    schedule = NoiseSchedule(300, "linear", "sample", timestep_spacing="trailing")
    diffusion = ImageDiffusion(network, schedule, 4, 4, sampler)
    assert bool((diffusion.sample(0, 2, steps) == round(1.25 * 127.5)).all())


def test_loss_is_that_of_the_closed_form() -> None:
    network = KnowsTheImage(1, 8, (1,))
    diffusion = ImageDiffusion(network, NoiseSchedule(300, "linear", "sample"), 4, 4)
    x0, noise = torch.full((3, 1, 4, 4), 0.75), torch.randn(3, 1, 4, 4)
    for loss, expected in (("l1", 0.5), ("l2", 0.25), ("huber", 0.125)):
        value = ImageDiffusionLoss(diffusion, loss)(x0, noise, torch.tensor([0, 100, 299]))
        assert float(value) == pytest.approx(expected)


def test_shown_steps_and_grids() -> None:
    assert shown_steps(1000) == [0, 100, 200, 300, 400, 500]
    assert shown_steps(300) == [0, 60, 120, 179, 239, 299] and shown_steps(2) == [0, 1]
    picture = grid(np.full((5, 8, 8, 1), 9, np.uint8), columns=3, height=16, gap=2)
    assert picture.shape == (2 * 18 + 2, 3 * 18 + 2, 3)
    assert int((picture == 9).sum()) == 5 * 16 * 16 * 3


def image_spec(**changes: object) -> CheckpointSpec:
    values: dict[str, object] = {
        "kind": "image model",
        "task": "digits",
        "environment": "",
        "inputs": (),
        "outputs": (TensorSpec("image", (8, 8, 1), "uint8", "grey", ""),),
        "rate": 0.0,
        "horizon": 1,
        "n_obs_steps": 1,
        "n_action_steps": 1,
        "action_low": (),
        "action_high": (),
        "sampler": "ddim",
        "sampler_steps": 2,
        "num_train_timesteps": 20,
    }
    return checkpoint.checked(CheckpointSpec(**{**values, **changes}))  # type: ignore[arg-type]


def test_spec_of_an_image_model() -> None:
    assert CheckpointSpec.from_json(image_spec().to_json()) == image_spec()
    frame = TensorSpec("agentview_image", (84, 84, 3), "uint8", "rgb", "agentview")
    assert image_spec(inputs=(frame,)).cameras == ("agentview",)
    for changes, expected in (
        ({"rate": 20.0}, "rate 20.0, 0 expected"),
        ({"horizon": 4}, "horizon 4, 1 expected"),
        ({"action_low": (0.0,)}, r"action_low \[0.0\], none expected"),
        ({"outputs": ()}, "outputs none, image alone expected"),
        ({"outputs": (TensorSpec("image", (8, 8, 2), "uint8", "1", ""),)}, r"\[8, 8, 2\], uint8 \(H, W, 1\) or"),
        ({"sampler": "euler"}, "sampler 'euler'"),
        ({"sampler_steps": 21}, "sampler_steps 21, at most num_train_timesteps 20"),
    ):
        with pytest.raises(SpecError, match=expected):
            image_spec(**changes)  # type: ignore[arg-type]


class NotAnImageModel(nn.Module):
    """Gives floats."""

    def forward(self, seed: int, count: int, steps: int) -> torch.Tensor:
        return self.sample(seed, count, steps)

    @checkpoint.exported
    def sample(self, seed: int, count: int, steps: int) -> torch.Tensor:
        return torch.zeros([count, 8, 8, 1])

    @checkpoint.exported
    def denoised(self, seed: int, count: int, steps: int) -> torch.Tensor:
        return torch.zeros([steps + 1, count, 8, 8, 1])


def test_modules_that_are_no_image_models_are_refused(tmp_path: Path) -> None:
    diffusion = ImageDiffusion(Unet2d(1, 8, (1,), heads=1, head_dim=4), NoiseSchedule(20), 8, 8)
    checkpoint.save(diffusion, image_spec(), tmp_path / "good.pt")
    assert checkpoint.load(tmp_path / "good.pt", sampler="ddpm").spec.sampler == "ddpm"
    with pytest.raises(CheckpointError, match="is an image model, a policy is needed"):
        checkpoint.load(tmp_path / "good.pt", kind="policy")
    with pytest.raises(CheckpointError, match="is a policy, an image model is needed"):
        checkpoint.load(save_policy(tmp_path / "policy.pt"), kind="image model")
    checkpoint.save(NotAnImageModel(), image_spec(), tmp_path / "floats.pt")
    with pytest.raises(CheckpointError, match=r"gives images float32 .*, its specification says uint8 \(1, 8, 8, 1\)"):
        checkpoint.load(tmp_path / "floats.pt")
    other = image_spec(outputs=(TensorSpec("image", (16, 16, 1), "uint8", "grey", ""),))
    checkpoint.save(diffusion, other, tmp_path / "size.pt")
    with pytest.raises(CheckpointError, match=r"says uint8 \(1, 16, 16, 1\)"):
        checkpoint.load(tmp_path / "size.pt")
