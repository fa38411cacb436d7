"""ImageGenerator: an image model's checkpoint behind numpy, and its samples as one picture. No ROS."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffusion_ros.models.kind import Checkpoint, Kind, check_sampler
from diffusion_ros.spec import CheckpointSpec, SpecError

IMAGE_KIND = "image model"


Images = NDArray[np.uint8]
_GAP_LEVEL = 255


class ImageGenerator:
    """Images from noise; the seed decides them."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.spec: CheckpointSpec = checkpoint.spec

    def denoised(self, seed: int, count: int, steps: int | None = None) -> Images:
        """(steps + 1, count, H, W, C): noise first, the images last. steps: None for the spec's."""
        import torch

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


def _check(spec: CheckpointSpec) -> None:
    """What holds for a model of images."""
    for name, expected in (("rate", 0), ("horizon", 1), ("n_obs_steps", 1), ("n_action_steps", 1), ("stride", 1)):
        if getattr(spec, name) != expected:
            raise SpecError(f"spec: {name} {getattr(spec, name)}, {expected} expected in an {spec.kind}")
    for name in ("action_low", "action_high", "workspace_low", "workspace_high"):
        if getattr(spec, name):
            raise SpecError(f"spec: {name} {list(getattr(spec, name))}, none expected in an {spec.kind}")
    if [tensor.name for tensor in spec.outputs] != ["image"]:
        raise SpecError(f"spec: outputs {', '.join(t.name for t in spec.outputs) or 'none'}, image alone expected")
    for tensor in (*spec.inputs, *spec.outputs):
        if tensor.dtype != "uint8" or len(tensor.shape) != 3 or tensor.shape[2] not in (1, 3):
            raise SpecError(
                f"spec: {tensor.name}: {tensor.dtype} {list(tensor.shape)}, uint8 (H, W, 1) or (H, W, 3) expected"
            )
    check_sampler(spec)


def _dry_run(checkpoint: Checkpoint) -> str:
    import torch

    spec = checkpoint.spec
    steps = min(2, spec.num_train_timesteps)
    expected = (steps + 1, 1, *spec.outputs[0].shape)
    with torch.inference_mode():
        images, path = checkpoint.module.sample(0, 1, steps), checkpoint.module.denoised(0, 1, steps)
    for answer, shape in ((images, expected[1:]), (path, expected)):
        if answer.dtype != torch.uint8 or tuple(answer.shape) != shape:
            found = f"{str(answer.dtype).removeprefix('torch.')} {tuple(answer.shape)}"
            return f"gives images {found}, its specification says uint8 {shape}"
    return ""


KIND = Kind(IMAGE_KIND, _check, ("sample", "denoised"), _dry_run)
"""sample(seed, count, steps) gives images uint8 (count, H, W, C); denoised(seed, count, steps) gives uint8
(steps + 1, count, H, W, C): noise first, the images last."""
