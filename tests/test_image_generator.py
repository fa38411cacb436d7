"""Samples of an image model through the node: on request, decided by the seed, and the denoising as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros_graph import Graph, graph
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger
from torch import Tensor, nn

from diffusion_ros import checkpoint
from diffusion_ros.checkpoint import CheckpointError, exported
from diffusion_ros.models.image_generator import ImageGenerator, grid
from diffusion_ros.nodes.image_generator_node import ImageGeneratorNode
from diffusion_ros.ros import messages, topics
from diffusion_ros.spec import CheckpointSpec, TensorSpec


def spec(**changes: object) -> CheckpointSpec:
    fields: dict[str, object] = {
        "kind": "image model",
        "task": "digits",
        "environment": "",
        "inputs": (),
        "outputs": (TensorSpec("image", (8, 8, 1), "uint8", "", ""),),
        "rate": 0,
        "horizon": 1,
        "n_obs_steps": 1,
        "n_action_steps": 1,
        "action_low": (),
        "action_high": (),
        "sampler": "ddim",
        "sampler_steps": 4,
        "num_train_timesteps": 10,
    }
    return checkpoint.checked(CheckpointSpec(**{**fields, **changes}))


class Fade(nn.Module):
    """Images of level seed, with 10 for each step that is still to come."""

    def forward(self, seed: int, count: int, steps: int) -> Tensor:
        return self.sample(seed, count, steps)

    @exported
    def sample(self, seed: int, count: int, steps: int) -> Tensor:
        return self.denoised(seed, count, steps)[-1]

    @exported
    def denoised(self, seed: int, count: int, steps: int) -> Tensor:
        left = torch.arange(steps, -1, -1)
        return (seed + 10 * left)[:, None, None, None, None].expand(-1, count, 8, 8, 1).to(torch.uint8).contiguous()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "fade.pt"
    checkpoint.save(Fade(), spec(), path)
    return path


@pytest.fixture
def ros() -> Iterator[Graph]:
    with graph() as made:
        yield made


def test_samples_are_the_last_of_the_denoising(path: Path) -> None:
    generator = ImageGenerator(checkpoint.load(path, kind="image model"))
    frames = generator.denoised(7, 3)
    assert frames.shape == (5, 3, 8, 8, 1) and frames.dtype == np.uint8
    assert frames[:, 0, 0, 0, 0].tolist() == [47, 37, 27, 17, 7]
    assert generator.denoised(7, 3, steps=2).shape == (3, 3, 8, 8, 1)


def test_a_grid_shows_every_image_in_its_place() -> None:
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((5, 8, 8, 1), np.uint8)
    picture = grid(images, columns=3, height=16, gap=2)
    assert picture.shape == (2 * 18 + 2, 3 * 18 + 2, 3)
    assert picture[2 + 18, 2 + 18].tolist() == [4, 4, 4] and picture[19, 19].tolist() == [255, 255, 255]


def test_requests_are_answered_by_samples_and_a_stream(ros: Graph, path: Path) -> None:
    values = {"checkpoint": str(path), "seed": 3, "count": 4, "columns": 2, "rate": 50.0}
    node = ros.add(ImageGeneratorNode([Parameter(name, value=value) for name, value in values.items()]))
    person = ros.add(Node("person"))
    samples: list[np.ndarray] = []
    stream: list[np.ndarray] = []

    def keep(where: list[np.ndarray]) -> Any:
        return lambda msg: where.append(messages.image_from_msg(msg)[1])

    person.create_subscription(Image, topics.image("generated"), keep(samples), topics.DESCRIPTION_QOS)
    person.create_subscription(Image, topics.image("denoising"), keep(stream), topics.SENSOR_QOS)
    ros.spin_until(lambda: node._denoising.get_subscription_count())
    answer = ros.call(person, Trigger, "image_generator/generate", Trigger.Request())
    assert answer.success and answer.message == "4 samples, seed 3"
    ros.spin_until(lambda: samples and len(stream) == 5)
    assert samples[0].shape == (108, 108, 3) and samples[0][10, 10].tolist() == [3, 3, 3]
    assert [picture[10, 10, 0] for picture in stream] == [43, 33, 23, 13, 3]
    ros.call(person, Trigger, "image_generator/generate", Trigger.Request())
    ros.spin_until(lambda: len(samples) == 2)
    assert samples[1][10, 10].tolist() == [4, 4, 4]


def test_another_kind_of_checkpoint_is_refused(ros: Graph, tmp_path: Path) -> None:
    import fake_policy

    policy = fake_policy.save(tmp_path / "policy.pt")
    with pytest.raises(CheckpointError, match="is a policy, an image model is needed"):
        ImageGeneratorNode([Parameter("checkpoint", value=str(policy))])
