"""ImageGenerator: an image model's checkpoint behind numpy, and its samples as one picture. No ROS."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion_ros.spec import CheckpointSpec

if TYPE_CHECKING:
    from diffusion_ros.checkpoint import Checkpoint

Images = NDArray[np.uint8]
_GAP_LEVEL = 255


class ImageGenerator:
    """Images from noise; the seed decides them."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.spec: CheckpointSpec = checkpoint.spec

    def denoised(self, seed: int, count: int, steps: int | None = None) -> Images:
        """(steps + 1, count, H, W, C): noise first, the images last. steps: None for the spec's."""
        with torch.inference_mode():
            frames: torch.Tensor = self.checkpoint.module.denoised(
                seed, count, self.spec.sampler_steps if steps is None else steps
            )
        return frames.cpu().numpy()


def grid(images: Images, columns: int, height: int = 48, gap: int = 4) -> Images:
    """Images (N, H, W, C) side by side and below each other, each `height` pixels high: one picture (H, W, 3) rgb."""
    scale = max(1, round(height / images.shape[1]))
    tile = (images.shape[1] * scale, images.shape[2] * scale)
    rows = -(-len(images) // columns)
    picture = np.full((rows * (tile[0] + gap) + gap, columns * (tile[1] + gap) + gap, 3), _GAP_LEVEL, np.uint8)
    for i, image in enumerate(images):
        top, left = (gap + place * (length + gap) for place, length in zip(divmod(i, columns), tile, strict=True))
        large = np.repeat(np.repeat(image, scale, axis=0), scale, axis=1)
        picture[top : top + tile[0], left : left + tile[1]] = large
    return picture
