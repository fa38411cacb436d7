"""The training of a diffusion model of images: what `python -m training.train_ddpm` does once its options are read."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from diffusion_ros import checkpoint
from diffusion_ros.atomic_file import write_json
from diffusion_ros.spec import CheckpointSpec, TensorSpec
from training.data.images import MAX_NAMED, ImageData, load_images
from training.diffusion.export_proof import export
from training.diffusion.images import ImageDiffusion, ImageDiffusionLoss, to_float, to_uint8
from training.diffusion.noise_schedule import NoiseSchedule
from training.evaluation import image_figures
from training.evaluation.frechet import Autoencoder, Extractor, feature_distance, inception, stand_in, train_stand_in
from training.networks.unet2d import Unet2d
from training.options.images import Options
from training.options.shared import options_json
from training.run import (
    ExponentialMovingAverage,
    Phase,
    Run,
    git_commit,
    load_state,
    save_state,
)

SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2", "quadratic": "quadratic", "sigmoid": "sigmoid"}
"""How the options call the schedules of training/diffusion/noise_schedule.py."""
SAMPLE_BATCH = 256
"""Images that are generated at once, fewer where they are large: so many that there are at most ..."""
SAMPLE_VALUES = 2**20
"""... numbers in them."""
MAX_GRAD_NORM = 1.0
"""Longer gradients are shortened to it."""


def build_diffusion(options: Options, shape: tuple[int, int, int]) -> ImageDiffusion:
    """An untrained model of images of `shape` (height, width, channels)."""
    height, width, channels = shape
    denoiser = Unet2d(
        channels,
        options.dim,
        options.dim_mults,
        groups=options.groups,
        self_conditioning=options.self_conditioning,
        heads=options.heads,
        head_dim=options.head_dim,
        patch=options.patch,
    )
    schedule = NoiseSchedule(
        options.num_train_timesteps,
        SCHEDULES[options.beta_schedule],
        options.prediction_type,
        timestep_spacing=options.timestep_spacing,
    )
    return ImageDiffusion(denoiser, schedule, height, width, options.sampler)


def make_spec(options: Options, data: ImageData) -> CheckpointSpec:
    """What a node has to know of the model."""
    unit = "rgb" if data.shape[2] == 3 else "grey"
    return CheckpointSpec(
        kind="image model",
        task=data.name,
        environment="",
        inputs=(),
        outputs=(TensorSpec("image", data.shape, "uint8", unit, ""),),
        rate=0.0,
        horizon=1,
        n_obs_steps=1,
        n_action_steps=1,
        action_low=(),
        action_high=(),
        sampler=options.sampler,
        sampler_steps=options.steps,
        timestep_spacing=options.timestep_spacing,
        num_train_timesteps=options.num_train_timesteps,
        git_commit=git_commit(),
        data_hash=data.data_hash,
        training=options_json(options),
    )


class Trainer:
    """One run: batches, validation, samples, saving, and the figures at the end."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.data = load_images(options.data, options.image_size, options.limit, options.seed)
        self.bookkeeping = Run(options, self.data.data_hash)
        self.device = self.bookkeeping.device
        if self.bookkeeping.main:
            report_corrupt(self.data)
        for part, images in (("training", self.data.train), ("testing", self.data.test)):
            if len(images) < 2:
                raise ValueError(f"{self.data.name}: {len(images)} image for {part}, a distance needs at least 2")
        self.flip = self.data.flip if options.flip is None else options.flip
        # Read now: a wrong file must be known before hours of training.
        self.inception = (
            inception(options.inception) if options.inception is not None and self.bookkeeping.main else None
        )
        # Channels last: the order in which a CPU convolves fastest.
        self.diffusion = build_diffusion(options, self.data.shape).to(self.device)
        self.diffusion.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        checkpoint.script(self.diffusion)  # and so must what cannot be exported
        self.loss = ImageDiffusionLoss(self.diffusion, options.loss)
        self.ema = ExponentialMovingAverage(self.diffusion, maximum=options.ema_decay)
        iterations = options.iterations
        self.phase = Phase(
            name=f"{self.data.name} images",
            objective=self.loss,
            optimizer=torch.optim.AdamW(
                self.diffusion.parameters(), options.learning_rate, weight_decay=options.weight_decay, fused=True
            ),
            draw=self._draw_to_learn,
            stream=3,
            iterations=iterations,
            rates=[options.learning_rate],
            warm_up=max(1, min(200, iterations // 10)),
            max_grad_norm=MAX_GRAD_NORM,
            ema=self.ema,
            held_out=self._held_out_loss,
            validate_every=options.validate_every,
            validate_last=True,
            hook=self._show_samples,
            hook_every=options.sample_every,
            save_every=options.save_every,
            state=lambda: {"diffusion": self.diffusion.state_dict()},
        )

    def batch(self, images: NDArray[np.uint8], generator: torch.Generator, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """x_0 in [-1, 1], noise (B, C, H, W) and t (B,): half of the images mirrored, where that is wanted."""
        chosen = torch.randint(0, len(images), (size,), generator=generator)
        x = to_float(torch.from_numpy(images[chosen.numpy()]))
        mirrored = torch.rand(size, generator=generator) < 0.5
        if self.flip:
            x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
        noise = torch.randn(x.shape, generator=generator)
        t = torch.randint(0, self.options.num_train_timesteps, (size,), generator=generator)
        x, noise = (images.to(self.device, memory_format=torch.channels_last) for images in (x, noise))
        return x, noise, t.to(self.device)

    def _draw_to_learn(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, bool]:
        batch = self.batch(self.data.train, generator, self.options.batch_size)
        return *batch, self.options.self_conditioning and bool(torch.rand((), generator=generator) < 0.5)

    def _held_out_loss(self, generator: torch.Generator) -> Tensor:
        images = self.data.validation
        loss: Tensor = self.loss(*self.batch(images, generator, min(256, len(images))))
        return loss

    def run(self) -> None:
        """Trains from where it is to the end, exports, and draws the figures."""
        self.bookkeeping.fit(self.phase, self.bookkeeping.saved(diffusion=self.diffusion))
        if self.bookkeeping.main:
            with self.ema.applied():
                self._finish()

    def generate(self, count: int, seed: int) -> NDArray[np.uint8]:
        """Images (count, H, W, C) of the weights that the model has now."""
        size = max(1, min(SAMPLE_BATCH, SAMPLE_VALUES // int(np.prod(self.data.shape))))
        parts = []
        steps = self.options.steps
        with torch.inference_mode(), denoising_bar(self.diffusion, "generating", count * steps) as of_each:
            for done in range(0, count, size):
                of_each.images = min(size, count - done)
                parts.append(self.diffusion.sample(seed + done, of_each.images, steps).cpu().numpy())
        return np.concatenate(parts)

    def _show_samples(self, iteration: int) -> None:
        if not self.bookkeeping.main:
            return
        with self.ema.applied():
            picture = image_figures.grid(self.generate(32, self.options.seed), 8)
        image_figures.write_picture(self.options.run_folder / "samples" / f"{iteration:07d}.png", picture)
        self.bookkeeping.record_picture("samples", picture, iteration)

    def _extractor(self) -> Extractor:
        """Inception's features, or those of an autoencoder, which is trained once for a run."""
        if self.inception is not None:
            return self.inception
        options = self.options
        path = options.run_folder / "autoencoder.pt"
        made_of = [self.data.data_hash, options.seed, options.stand_in_iterations]
        if path.exists():
            state = load_state(path)
            if state.get("made_of") == made_of:
                network = Autoencoder(*self.data.shape)
                network.load_state_dict(state["autoencoder"])
                return stand_in(network.eval())
        iterations = options.stand_in_iterations
        with tqdm(total=iterations, desc="autoencoder for the distance", mininterval=2.0, unit="it") as bar:
            network = train_stand_in(self.data.train, iterations, seed=options.seed, report=lambda _: bar.update())
        save_state(path, {"made_of": made_of, "autoencoder": network.state_dict()})
        return stand_in(network)

    def _finish(self) -> None:
        """The checkpoint and the figures, from the averaged weights."""
        options, data = self.options, self.data
        folder = options.run_folder
        # First of all: whatever fails below, what was trained is there.
        export(self.diffusion, make_spec(options, data), options.out, options, options.half_weights)
        count = min(options.evaluation_images, len(data.test), len(data.train))
        generated = self.generate(count, options.seed + 1)
        curves, scores = compare(self._extractor(), generated, data)
        scores["validation_loss"] = self.phase.validation_curve[-1][1]
        scores = image_figures.as_scores(scores)
        checkpoint.record_scores(options.out, scores)
        write_json(folder / "scores.json", scores)
        losses = {"training": self.phase.train_curve, "validation, averaged weights": self.phase.validation_curve}
        image_figures.write_curves(folder / "loss.png", losses, "iterations", f"{options.loss} loss")
        self.bookkeeping.record("test/distance", scores["distance"], options.iterations)
        name = str(scores["features"])
        image_figures.write_curves(folder / "distance.png", curves, "images compared", name, log=True, x_log=True)
        draw(self.diffusion, data, generated, folder, options)
        print(f"wrote {options.out} and figures in {folder}")
        ratio = scores["distance"] / max(1e-12, scores["distance_of_held_out_images"])
        print(
            f"{name} of {count} generated images to the test set {scores['distance']:.4g}, of as many real ones"
            f" {scores['distance_of_held_out_images']:.4g}: {ratio:.2f} times"
        )


@dataclass
class _OfEach:
    """How many images a step of the denoising is for."""

    images: int = 0


@contextmanager
def denoising_bar(diffusion: ImageDiffusion, name: str, total: int) -> Iterator[_OfEach]:
    """A bar that moves with each step of the denoising, times the images that it is for; `total` of them."""
    of_each = _OfEach()
    with tqdm(total=total, desc=name, unit="step", unit_scale=True, leave=False) as bar:
        handle = diffusion.denoiser.register_forward_hook(lambda *_: bar.update(of_each.images) and None)
        try:
            yield of_each
        finally:
            handle.remove()


def report_corrupt(data: ImageData) -> None:
    """Names on stderr the files that were skipped."""
    for name in data.corrupt[:MAX_NAMED]:
        print(f"{name}: cannot be read as an image, skipped", file=sys.stderr)
    if data.corrupt:
        read = len(data.train) + len(data.validation) + len(data.test)
        print(f"{data.name}: {len(data.corrupt)} corrupt files skipped, {read} images read", file=sys.stderr)


def compare(
    extractor: Extractor, generated: NDArray[np.uint8], data: ImageData
) -> tuple[dict[str, list[tuple[float, float]]], dict[str, Any]]:
    """The distance to the test set against the number of images: of generated ones, and of real ones held out from it.

    Returns the curves and the scores, which are the distances of the largest number that both have. The real ones are
    of the validation set, and of the training set where that has too few.
    """
    count = min(len(generated), len(data.validation) + len(data.train))
    real = np.concatenate([data.validation, data.train[: max(0, count - len(data.validation))]])[:count]
    test, made, held = extractor(data.test), extractor(generated[:count]), extractor(real)
    numbers = sorted({*(2**k for k in range(4, 20) if 2**k < count), count})
    curves: dict[str, list[tuple[float, float]]] = {"generated": [], "real, held out": []}
    for n in numbers:
        for name, features in (("generated", made), ("real, held out", held)):
            curves[name].append((float(n), feature_distance(features[:n], test)))
    distances = {name: curve[-1][1] for name, curve in curves.items()}
    return curves, {
        "features": extractor.name,
        "images": count,
        "test_images": len(test),
        "distance": distances["generated"],
        "distance_of_held_out_images": distances["real, held out"],
    }


def draw(
    diffusion: ImageDiffusion, data: ImageData, generated: NDArray[np.uint8], folder: Path, options: Options
) -> None:
    """The figures that show images: forward, reverse, real beside generated, and the animation."""
    shown = image_figures.shown_steps(options.num_train_timesteps)
    device = diffusion.schedule.alphas_cumprod.device
    x0 = to_float(torch.from_numpy(data.test[:6])).to(device)
    generator = torch.Generator().manual_seed(options.seed)
    noise = torch.randn(x0.shape, generator=generator).to(device)
    panels = []
    for t in shown:
        steps = torch.full((len(x0),), t, dtype=torch.int64, device=device)
        pictures = to_uint8(diffusion.schedule.q_sample(x0, noise, steps)).cpu().numpy()
        panels.append((f"t = {t}", image_figures.grid(pictures, 1)))
    image_figures.write_picture(folder / "forward.png", image_figures.captioned(panels, len(panels)))
    count = options.num_train_timesteps
    with torch.inference_mode(), denoising_bar(diffusion, "the way from noise", 16 * count) as of_each:
        of_each.images = 16
        path = diffusion.denoised(options.seed + 2, 16, count).cpu().numpy()
    # path[k] is x at t = T - 1 - k, and the last what x_0 comes out as.
    panels = []
    for t in reversed(shown):
        k = options.num_train_timesteps - 1 - t if t else -1
        panels.append((f"t = {t}", image_figures.grid(path[k][:6], 1)))
    image_figures.write_picture(folder / "reverse.png", image_figures.captioned(panels, len(panels)))
    frames = [image_figures.grid(path[k], 4) for k in np.linspace(0, len(path) - 1, min(60, len(path))).astype(int)]
    image_figures.write_animation(folder / "denoising", frames, fps=20)
    both = min(32, len(data.test), len(generated))
    beside = [
        ("real", image_figures.grid(data.test[:both], 8)),
        ("generated", image_figures.grid(generated[:both], 8)),
    ]
    image_figures.write_picture(folder / "real_beside_generated.png", image_figures.captioned(beside, 2))
