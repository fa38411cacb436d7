"""image_generator: draws images on request, and shows in a stream how they came out of noise."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from diffusion_ros import checkpoint
from diffusion_ros.models.image_generator import IMAGE_KIND, ImageGenerator, Images, grid
from diffusion_ros.models.kind import SAMPLERS
from diffusion_ros.robot import WORLD_FRAME
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.diagnostics import ERROR, OK, Diagnostics
from diffusion_ros.ros.params import declare, parameter
from diffusion_ros.ros.runner import RunnableNode, run
from diffusion_ros.ros.transform_broadcaster import TransformBroadcaster
from diffusion_ros.ros.trusted_checkpoint import TrustedCheckpoint, identity
from diffusion_ros.ros.worker import Worker, failure

_FRAME_ID = "generated"


@dataclass(frozen=True)
class ImageGeneratorParameters(TrustedCheckpoint):
    """Parameters of the image generator node."""

    checkpoint: str = parameter(description="path of an image model's checkpoint (.pt)")
    device: str = parameter("cpu", "torch device that the model runs on")
    threads: int = parameter(1, "torch threads; more than one take time from the other nodes", low=1)
    seed: int = parameter(0, "seed of the first request; each further request has the next seed", low=0)
    count: int = parameter(16, "number of images for each request", low=1, high=256)
    columns: int = parameter(4, "columns of the picture that shows them", low=1)
    sampler: str = parameter("", "sampler; '': the checkpoint's own", choices=("", *SAMPLERS))
    sampler_steps: int = parameter(0, "denoising steps; 0: the checkpoint's own", low=0)
    at_start: bool = parameter(False, "true: the first samples are drawn without a request")
    rate: float = parameter(10.0, "pictures of the denoising that are shown in a second [Hz]", low=0.1, high=100.0)


class ImageGeneratorNode(RunnableNode):
    """Serves ~/generate; publishes generated/image_raw (the samples) and denoising/image_raw (the way there)."""

    def __init__(self, parameter_overrides: Sequence[Parameter[Any]] = ()) -> None:
        """Raises ValueError (parameters, checkpoint) in one line."""
        super().__init__("image_generator", parameter_overrides)
        self.parameters = p = declare(self, ImageGeneratorParameters, _completed)
        torch.set_num_threads(p.threads)
        self.generator = ImageGenerator(
            checkpoint.load(
                p.checkpoint,
                p.device,
                kind=IMAGE_KIND,
                sampler=p.sampler,
                sampler_steps=p.sampler_steps,
                **p.trust,
            )
        )
        loaded = self.generator.checkpoint
        self.get_logger().info(identity(p.checkpoint, loaded.sha256, loaded.signer))
        self._seed = p.seed
        self._fault = ""
        self._frames: list[Images] = []
        """Pictures of the denoising that are still to be shown."""
        self._samples = self.create_publisher(Image, topics.GENERATED, topics.DESCRIPTION_QOS)
        self._denoising = self.create_publisher(Image, topics.GENERATION, topics.SENSOR_QOS)
        # A picture is nowhere, but RViz asks where its frame is.
        self._transforms = TransformBroadcaster(self)
        self._transforms.send_always([((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0), WORLD_FRAME, _FRAME_ID)])
        self.diagnostics = Diagnostics(self, "image generator", self._refresh)
        self.diagnostics.value("checkpoint", p.checkpoint)
        self.diagnostics.value("sha256", self.generator.checkpoint.sha256)
        self._worker = Worker("sampling", self._take, self._work)
        self._wanted = p.at_start
        self._busy = False
        self._worker.start()
        self.create_service(Trigger, "~/generate", self._on_generate)
        self.every(1.0 / p.rate, self._show)

    def _on_generate(self, request: Any, response: Any) -> Any:
        """Draws new samples and shows how they come about."""
        with self._worker.condition:
            response.success = not self._busy and not self._wanted
            if response.success:
                self._wanted = True
                self._worker.condition.notify()
        p = self.parameters
        response.message = f"{p.count} samples, seed {self._seed}" if response.success else "others are being made"
        return response

    def _take(self) -> int | None:
        """The seed of the samples that are wanted."""
        if not self._wanted:
            return None
        self._wanted, self._busy = False, True
        return self._seed

    def _work(self, seed: int) -> None:
        try:
            began = time.monotonic()
            path = self.generator.denoised(seed, self.parameters.count)
            self.diagnostics.latency("sampling", time.monotonic() - began)
            pictures = [grid(images, self.parameters.columns) for images in path]
            self._samples.publish(self._message(pictures[-1]))
            self._fault = ""
            with self._worker.condition:
                self._frames = pictures
        except Exception as error:
            self.get_logger().error(traceback.format_exc())
            self._fault = failure("sampling", error)
        finally:
            with self._worker.condition:
                self._seed += 1
                self._busy = False

    def _show(self) -> None:
        """The next picture of the denoising."""
        with self._worker.condition:
            picture = self._frames.pop(0) if self._frames else None
        if picture is not None:
            self._denoising.publish(self._message(picture))

    def _message(self, picture: Images) -> Image:
        return messages.image_to_msg(np.ascontiguousarray(picture), self.now_ns(), _FRAME_ID)

    def _refresh(self) -> None:
        state = "sampling" if self._busy else "showing the denoising" if self._frames else "waiting for ~/generate"
        self.diagnostics.value("next seed", self._seed)
        self.diagnostics.report(ERROR if self._fault else OK, self._fault or state)

    def close(self) -> None:
        self._worker.close(timeout=30.0)


def _completed(p: ImageGeneratorParameters) -> ImageGeneratorParameters:
    """What was given, and the checkpoint's where nothing was."""
    spec = checkpoint.read_spec(p.checkpoint, **p.trust)
    return replace(
        p,
        sampler=p.sampler or spec.sampler,
        sampler_steps=p.sampler_steps or spec.sampler_steps,
    )


def main() -> int:
    return run(ImageGeneratorNode)


if __name__ == "__main__":
    raise SystemExit(main())
