"""An image generator: it draws on request, and shows how its pictures come out of noise."""

from __future__ import annotations

from diffusion_ros.models.image_generator import IMAGE_KIND
from diffusion_ros.systems.observer import Observer
from diffusion_ros.systems.system import WEB, Argument, NodeDescription, System, same_names, web_node


class ImagesObserver(Observer):
    """An image generator has no episodes: what it says of itself."""

    actor = "image_generator"


IMAGES = System(
    name="images",
    description="images drawn by a diffusion model, on request",
    observer=ImagesObserver,
    kind=IMAGE_KIND,
    checkpoint="ddpm_digits.pt",
    arguments=(
        Argument("checkpoint", "the image model (.pt); default: checkpoints/ddpm_digits.pt", "", path=True),
        Argument("at_start", "true: the first ones are drawn without being asked for"),
        Argument("count", "images for each request", minimum=1, maximum=256),
        Argument("columns", "columns of the picture that shows them", minimum=1),
        Argument("seed", "seed of the first request; each further request has the next", minimum=0),
        Argument("sampler_steps", "denoising steps; 0: the checkpoint's own", minimum=0),
        Argument("rate", "pictures of the denoising that are shown in a second [Hz]", minimum=0.1, maximum=100.0),
        Argument("device", "torch device that the model runs on"),
        Argument("output_dir", "folder for logs and parameters; default: runs/images-<time>", "", path=True),
        *WEB,
    ),
    nodes=(
        NodeDescription(
            "image_generator",
            "diffusion_ros.nodes.image_generator_node",
            "image_generator.yaml",
            same_names("checkpoint", "at_start", "count", "columns", "seed", "sampler_steps", "rate", "device"),
            restarts=3,
        ),
        web_node("images"),
    ),
)
