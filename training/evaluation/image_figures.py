"""Figures of a diffusion model of images: grids, loss curves, noising and denoising, real beside generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np

from diffusion_ros.atomic_file import atomic_write
from diffusion_ros.models.image_generator import Images
from diffusion_ros.models.image_generator import grid as grid
from diffusion_ros.simulators.video import Mp4Writer

matplotlib.use("agg")

from matplotlib import pyplot as plt

Curve = Sequence[tuple[float, float]]
PAPER = 255


def captioned(panels: Sequence[tuple[str, Images]], row: int = 4) -> Images:
    """Pictures of one size with a line of text above each, `row` of them side by side: one picture (H, W, 3)."""
    cells = []
    for text, panel in panels:
        head = np.full((22, panel.shape[1], 3), PAPER, np.uint8)
        cv2.putText(head, text, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (40, 40, 40), 1, cv2.LINE_AA)
        cells.append(np.concatenate([head, panel]))
    while len(cells) % row:
        cells.append(np.full_like(cells[0], PAPER))
    return np.concatenate([np.concatenate(cells[i : i + row], axis=1) for i in range(0, len(cells), row)])


def write_picture(path: Path, picture: Images) -> None:
    """A picture (H, W, 3) rgb as PNG."""
    done, content = cv2.imencode(".png", picture[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    if not done:
        raise OSError(f"{path}: cannot be encoded")
    with atomic_write(path) as temporary:
        temporary.write_bytes(content.tobytes())


def write_animation(path: Path, frames: Sequence[Images], fps: float, hold: float = 1.5) -> None:
    """Pictures of one size as <path>.gif and <path>.mp4; the last one stays for `hold` seconds."""
    from PIL import Image

    # Video encoders want even sizes, whole multiples of 16 best.
    height, width = (-(-n // 16) * 16 for n in frames[0].shape[:2])
    padded = []
    for frame in frames:
        canvas = np.full((height, width, 3), PAPER, np.uint8)
        canvas[: frame.shape[0], : frame.shape[1]] = frame
        padded.append(canvas)
    with Mp4Writer(path.with_suffix(".mp4"), fps) as video:
        for frame in padded + [padded[-1]] * round(hold * fps):
            video.write(frame)
    pictures = [Image.fromarray(frame).quantize(64) for frame in padded]
    durations = [round(1000 / fps)] * (len(pictures) - 1) + [round(1000 * hold)]
    with atomic_write(path.with_suffix(".gif")) as temporary:
        pictures[0].save(temporary, format="GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)


def write_curves(
    path: Path, curves: Mapping[str, Curve], x: str, y: str, log: bool = False, x_log: bool = False
) -> None:
    """Lines through (x, y) points, with their names; those of which there are none are left out."""
    figure, axes = plt.subplots(figsize=(5.2, 3.4), dpi=100)
    try:
        for name, points in curves.items():
            if points:
                axes.plot(
                    *zip(*points, strict=True), label=name, marker="o" if len(points) < 12 else None, markersize=3
                )
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        if log:
            axes.set_yscale("log")
        if x_log:
            axes.set_xscale("log", base=2)
        axes.grid(alpha=0.3)
        axes.legend()
        figure.tight_layout()
        with atomic_write(path) as temporary:
            figure.savefig(temporary, format="png")
    finally:
        plt.close(figure)


def shown_steps(num_train_timesteps: int) -> list[int]:
    """The steps that figures show: 0, 100, ..., 500 where there are so many, else six, evenly spaced."""
    if num_train_timesteps > 500:
        return [0, 100, 200, 300, 400, 500]
    last = num_train_timesteps - 1
    return sorted({round(i * last / 5) for i in range(6)})


def as_scores(values: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers rounded to what they are worth, for JSON."""
    return {name: float(f"{v:.4g}") if isinstance(v, float) else v for name, v in values.items()}
