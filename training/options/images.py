"""What the training of a diffusion model of images is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.options.shared import SamplerOptions


@dataclass(frozen=True, kw_only=True)
class Options(SamplerOptions):
    """Trains a diffusion model of images and exports it as a checkpoint."""

    data: str
    """digits, fashion-mnist:DIR, cifar10:DIR, folder:DIR or demos:FILE:CAMERA."""
    image_size: int | None = None
    """Height and width of the images in pixels. The middle square is scaled to it. None: images stay as they are."""
    limit: int | None = None
    """Largest number of images to use, evenly spaced. None: all."""
    flip: bool | None = None
    """Mirror images at random. None: yes, except for digits and a robot's cameras."""
    dim: int = 32
    """U-Net: channels at the first level."""
    dim_mults: tuple[int, ...] = (1, 2, 4)
    """U-Net: channels of each level, as multiples of dim; each level but the last halves height and width."""
    groups: int = 4
    """U-Net: groups of the group norms."""
    heads: int = 4
    """U-Net: attention heads."""
    head_dim: int = 32
    """U-Net: features of a head."""
    patch: int = 1
    """U-Net: side of the squares of pixels that enter as channels. For large images."""
    self_conditioning: bool = False
    """U-Net: it also gets its estimate of the clean image from the step before."""
    num_train_timesteps: int = 300
    beta_schedule: Literal["linear", "cosine", "quadratic", "sigmoid"] = "linear"
    """Noise schedule."""
    loss: Literal["l1", "l2", "huber"] = "huber"
    """Loss of the prediction."""
    sampler: Literal["ddim", "ddpm"] = "ddpm"
    num_inference_steps: int | None = None
    """Denoising steps of the sampler. They can be changed when the checkpoint is loaded. Default: all for ddpm, 25 for
    ddim."""
    iterations: int = 10_000
    batch_size: int = 128
    """Images in a batch, for each process."""
    learning_rate: float = 1e-3
    ema_decay: float = 0.999
    inception: Path | None = None
    """TorchScript file of an Inception network. With it the distance is FID. None: an autoencoder is trained for the
    features, and the figures say so."""
    stand_in_iterations: int = 1500
    """Training steps of that autoencoder."""
    evaluation_images: int = 1000
    """Number of images to generate at the end, at most as many as the test set has."""
    sample_every: int = 1000
    """Iterations after which a picture of samples is written."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "sample_every", "groups", "heads", "head_dim", "stand_in_iterations")
        self.check_at_least(2, "evaluation_images")
        for name, least in (("limit", 3), ("image_size", 4)):
            if getattr(self, name) is not None:
                self.check_at_least(least, name)

    @property
    def steps(self) -> int:
        if self.num_inference_steps is None and self.sampler == "ddim":
            return min(25, self.num_train_timesteps)
        return super().steps

    @property
    def free(self) -> frozenset[str]:
        return super().free | {"sample_every", "inception", "stand_in_iterations", "evaluation_images"}
