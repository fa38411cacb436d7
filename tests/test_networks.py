"""The networks: shapes, known answers, what depends on what, and eager equals script."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion_ros.checkpoint import script
from training.diffusion.noise_schedule import NoiseSchedule
from training.networks.embeddings import SinusoidalEmbedding
from training.networks.encoders import (
    ResNet18Encoder,
    SmallConvEncoder,
    SpatialSoftmax,
    centre_offset,
    crop,
    gathered,
    random_offset,
)
from training.networks.transformer import DecoderLayer, DiffusionTransformer
from training.networks.unet1d import ConditionalUnet1d, TemporalConv


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A second thread only waits in such small networks, and for long when the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def generator() -> torch.Generator:
    torch.manual_seed(0)  # the weights of the networks
    return torch.Generator().manual_seed(1)


def small_transformer(n_obs_steps: int = 2, n_cond_layers: int = 0, causal: bool = True) -> DiffusionTransformer:
    return DiffusionTransformer(
        7, 5, n_obs_steps=n_obs_steps, n_layers=2, width=32, n_cond_layers=n_cond_layers, causal=causal
    ).eval()


DENOISERS: dict[str, Callable[[], nn.Module]] = {
    "unet": lambda: ConditionalUnet1d(7, 10, widths=(16, 32)),
    "unet_three": lambda: ConditionalUnet1d(7, 10, widths=(16, 32, 64), kernel_size=5),
    "unet_one": lambda: ConditionalUnet1d(7, 10, widths=(16,)),
    "transformer": small_transformer,
    "transformer_encoder": lambda: small_transformer(n_cond_layers=2),
    "transformer_all": lambda: small_transformer(causal=False),
    "transformer_inpaint": lambda: small_transformer(n_obs_steps=0),
}


def inputs(name: str, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """x (3, 10, 7), t (3,) and cond (3, To, 5)."""
    n_obs_steps = 0 if name == "transformer_inpaint" else 2
    x, cond = (torch.randn(3, n, d, generator=generator) for n, d in ((10, 7), (n_obs_steps, 5)))
    return x, torch.tensor([0, 50, 99]), cond


def assert_gradient_everywhere(network: nn.Module, output: Tensor, generator: torch.Generator) -> None:
    (output * torch.randn(output.shape, generator=generator)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().max()) > 0, name


def test_sinusoidal_embedding_known_values() -> None:
    embedding = SinusoidalEmbedding(8)
    frequencies = [10000.0 ** (-i / 3) for i in range(4)]
    expected = [[f(t * w) for f in (math.sin, math.cos) for w in frequencies] for t in (0, 3)]
    torch.testing.assert_close(embedding(torch.tensor([0, 3])), torch.tensor(expected))
    torch.testing.assert_close(embedding(torch.tensor([0.0, 3.0])), torch.tensor(expected))
    with pytest.raises(ValueError, match="7"):
        SinusoidalEmbedding(7)


@pytest.mark.parametrize("name", DENOISERS)
def test_denoiser_eager_equals_script(name: str, generator: torch.Generator) -> None:
    network = DENOISERS[name]()
    arguments = inputs(name, generator)
    expected = network(*arguments)
    assert expected.shape == (3, 10, 7)
    assert torch.equal(script(network)(*arguments), expected)


@pytest.mark.parametrize("name", DENOISERS)
def test_denoiser_traces(name: str, generator: torch.Generator) -> None:
    network = DENOISERS[name]().requires_grad_(False)
    x, t, cond = inputs(name, generator)
    with pytest.warns(DeprecationWarning, match="torch.jit.trace"):
        traced = torch.jit.trace(network, (x, t, cond), check_trace=False)
    assert torch.equal(traced(2 * x, t, cond - 1), network(2 * x, t, cond - 1))


@pytest.mark.parametrize("name", DENOISERS)
def test_denoiser_gradient_reaches_every_parameter(name: str, generator: torch.Generator) -> None:
    network = DENOISERS[name]()
    assert_gradient_everywhere(network, network(*inputs(name, generator)), generator)


@pytest.mark.parametrize("name", DENOISERS)
def test_denoiser_depends_on_every_input(name: str, generator: torch.Generator) -> None:
    network = DENOISERS[name]()
    arguments = [a.float().requires_grad_() for a in inputs(name, generator)]
    network(*arguments)[:, -1].sum().backward()
    for argument in arguments:
        assert argument.numel() == 0 or bool((argument.grad.reshape(3, -1).abs().amax(dim=1) > 0).all())


@pytest.mark.parametrize("name", ["unet", "transformer"])
def test_samples_of_a_batch_do_not_mix(name: str, generator: torch.Generator) -> None:
    network = DENOISERS[name]()
    x, t, cond = inputs(name, generator)
    torch.testing.assert_close(network(x[1:2], t[1:2], cond[1:2]), network(x, t, cond)[1:2])


@pytest.mark.parametrize("widths", [(8,), (8, 16), (8, 16, 32), (8, 16, 32, 64)])
@pytest.mark.parametrize("horizon", [1, 2, 5, 10, 48, 64])
def test_unet_takes_any_horizon(widths: tuple[int, ...], horizon: int) -> None:
    network = ConditionalUnet1d(6, 0, widths, out_dim=4)
    assert network(torch.zeros(2, horizon, 6), torch.tensor([1.0, 2.0]), torch.zeros(2, 0)).shape == (2, horizon, 4)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("rows", [9, 10])
def test_temporal_conv_equals_conv1d(stride: int, rows: int, generator: torch.Generator) -> None:
    layer = TemporalConv(3, 8, 5, stride)
    x = torch.randn(2, rows, 3, generator=generator)
    weight = layer.linear.weight.unflatten(1, (5, 3)).transpose(1, 2)
    expected = F.conv1d(x.transpose(1, 2), weight, layer.linear.bias, stride, padding=2).transpose(1, 2)
    torch.testing.assert_close(layer(x), expected)


def test_unet_halves_the_rows() -> None:
    network = ConditionalUnet1d(6, 0, (8, 16, 32, 64))
    rows: list[int] = []
    for stage in [*network.down, network.bottom[0], *network.up]:
        stage.register_forward_hook(lambda _module, _inputs, output: rows.append(output.shape[1]))
    network(torch.zeros(1, 10, 6), torch.zeros(1), torch.zeros(1, 0))
    assert rows == [10, 5, 3, 2, 3, 5, 10]


def test_unet_flattens_observation_steps(generator: torch.Generator) -> None:
    network = DENOISERS["unet"]()
    x, t, cond = inputs("unet", generator)
    assert torch.equal(network(x, t, cond), network(x, t, cond.reshape(3, 10)))


def test_unet_sees_the_whole_horizon(generator: torch.Generator) -> None:
    network = ConditionalUnet1d(7, 0)
    x = torch.randn(1, 10, 7, generator=generator, requires_grad=True)
    network(x, torch.tensor([3]), torch.zeros(1, 0))[0, 0].sum().backward()
    assert x.grad is not None and bool((x.grad[0].abs().amax(dim=1) > 0).all())


def test_unet_sizes() -> None:
    """0.64 to 0.9 million parameters for a policy: what was found to be enough."""
    sizes = [sum(p.numel() for p in ConditionalUnet1d(7, cond_dim).parameters()) for cond_dim in (44, 274)]
    assert sizes[0] == pytest.approx(0.73e6, rel=0.01) and sizes[1] == pytest.approx(1.09e6, rel=0.01)


def test_unet_bad_arguments() -> None:
    with pytest.raises(ValueError, match="kernel_size is 4"):
        ConditionalUnet1d(7, 0, kernel_size=4)
    with pytest.raises(ValueError, match="widths"):
        ConditionalUnet1d(7, 0, widths=())


def test_transformer_has_nine_million_parameters() -> None:
    network = DiffusionTransformer(7, 137)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(9.0e6, rel=0.005)
    assert len(network.decoder) == 8
    weights = torch.cat([m.weight.flatten() for m in network.modules() if isinstance(m, nn.Linear)])
    assert weights.detach().std().item() == pytest.approx(0.02, rel=0.01)


@pytest.mark.parametrize("causal", [True, False])
def test_transformer_causality(causal: bool, generator: torch.Generator) -> None:
    """Row i depends on rows up to i and on observations up to i; without the mask on all of them."""
    network = small_transformer(causal=causal)
    x, t, cond = inputs("transformer", generator)
    expected = network(x, t, cond)
    for row in (1, 6):
        changed = x.clone()
        changed[:, row] += 1.0
        moved = (network(changed, t, cond) - expected).abs().amax(dim=(0, 2)) > 0
        assert moved.tolist() == [i >= row or not causal for i in range(10)]
    changed = cond.clone()
    changed[:, 1] += 1.0
    moved = (network(x, t, changed) - expected).abs().amax(dim=(0, 2)) > 0
    assert moved.tolist() == [i >= 1 or not causal for i in range(10)]


def test_transformer_knows_the_order_of_rows(generator: torch.Generator) -> None:
    network = small_transformer(causal=False)
    for parameter in network.parameters():
        parameter.data *= 10.0  # as first drawn, it hardly tells tokens apart
    x, t, cond = inputs("transformer", generator)
    assert not torch.allclose(network(x.flip(1), t, cond).flip(1), network(x, t, cond), atol=1e-2)
    assert not torch.allclose(network(x, t, cond.flip(1)), network(x, t, cond), atol=1e-2)


def test_decoder_layer_equals_torch(generator: torch.Generator) -> None:
    ours, theirs = (
        DecoderLayer(32, 4, 0.0),
        nn.TransformerDecoderLayer(32, 4, 128, 0.0, activation="gelu", batch_first=True, norm_first=True),
    )
    with torch.no_grad():
        for mine, other in (
            (ours.self_attention, theirs.self_attn),
            (ours.cross_attention, theirs.multihead_attn),
        ):
            other.in_proj_weight.copy_(torch.cat([mine.query.weight, mine.key_value.weight]))
            other.in_proj_bias.copy_(torch.cat([mine.query.bias, mine.key_value.bias]))
            other.out_proj.load_state_dict(mine.output.state_dict())
        theirs.linear1.load_state_dict(ours.feed_forward[0].state_dict())
        theirs.linear2.load_state_dict(ours.feed_forward[3].state_dict())
    x, memory = (torch.randn(2, n, 32, generator=generator) for n in (10, 3))
    mask, memory_mask = torch.ones(10, 10).tril() > 0, torch.ones(10, 3).tril(1) > 0
    expected = theirs(x, memory, tgt_mask=~mask, memory_mask=~memory_mask)  # there, True hides
    torch.testing.assert_close(ours(x, memory, mask, memory_mask), expected, atol=1e-5, rtol=1e-5)


def test_transformer_dropout_only_in_training(generator: torch.Generator) -> None:
    network = small_transformer()
    arguments = inputs("transformer", generator)
    assert torch.equal(network(*arguments), network(*arguments))
    network.train()
    assert not torch.equal(network(*arguments), network(*arguments))


@pytest.mark.parametrize("n_cond_layers", [0, 1])
def test_optimizer_groups(n_cond_layers: int) -> None:
    network = small_transformer(n_cond_layers=n_cond_layers)
    decayed, free = network.optimizer_groups(1e-3)
    assert (decayed["weight_decay"], free["weight_decay"]) == (1e-3, 0.0)
    names = {id(p): name for name, p in network.named_parameters()}
    decayed_names, free_names = ([names[id(p)] for p in group["params"]] for group in (decayed, free))
    assert sorted(decayed_names + free_names) == sorted(names.values())
    assert all(name.endswith("weight") and "norm" not in name for name in decayed_names)
    assert all(
        name.endswith("bias") or "norm" in name or "positions" in name or name == "head.0.weight" for name in free_names
    )
    torch.optim.AdamW([decayed, free], lr=1e-4, betas=(0.9, 0.95))


def test_transformer_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="30"):
        DiffusionTransformer(7, 5, width=30)


@pytest.mark.parametrize("name", ["unet", pytest.param("transformer", marks=pytest.mark.slow)])  # two seconds each
def test_denoiser_learns_what_the_condition_says(name: str, generator: torch.Generator) -> None:
    """Rows that are all sign(first observation) / 2: after a second of training, samples follow the condition."""
    network: nn.Module
    if name == "unet":
        network = ConditionalUnet1d(1, 2, widths=(16, 32))
    else:
        network = DiffusionTransformer(1, 1, horizon=4, n_layers=2, width=32, attention_dropout=0.0, causal=False)
    schedule = NoiseSchedule(50, prediction_type="sample")
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(250):
        cond = torch.rand(64, 2, 1, generator=generator) * 2 - 1
        x0 = (cond[:, :1].sign() / 2).expand(64, 4, 1)
        noise = torch.randn(64, 4, 1, generator=generator)
        t = torch.randint(0, 50, (64,), generator=generator)
        loss = F.mse_loss(network(schedule.q_sample(x0, noise, t), t, cond), schedule.target(x0, noise))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    cond = torch.tensor([[[0.5], [-0.7]], [[-0.5], [0.7]]])
    x = torch.randn(2, 4, 1, generator=generator)
    steps = schedule.timesteps(10)
    with torch.no_grad():
        for t_now, t_next in zip(steps, [*steps[1:], -1], strict=True):
            x = schedule.ddim_step(network(x, torch.full((2,), t_now), cond), x, t_now, t_next)
    torch.testing.assert_close(x, torch.tensor([0.5, -0.5])[:, None, None].expand(2, 4, 1), atol=0.15, rtol=0)


# Encoders


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_crop_takes_the_named_pixels(memory_format: torch.memory_format) -> None:
    """Pixel value = 12 y + x, so the corner tells the offset: x first, then y."""
    images = torch.arange(144, dtype=torch.uint8).reshape(1, 1, 12, 12).expand(2, 3, 12, 12)
    images = images.contiguous(memory_format=memory_format)
    pieces = crop(images, torch.tensor([[1, 4], [3, 0]]), (8, 8))
    assert pieces.shape == (2, 3, 8, 8) and pieces.dtype == torch.uint8
    assert pieces.is_contiguous(memory_format=memory_format)
    assert pieces[:, 0, 0, 0].tolist() == [12 * 4 + 1, 3]
    assert pieces[:, 2, 7, 7].tolist() == [12 * 11 + 8, 12 * 7 + 10]


def test_crop_on_a_gpu_is_the_same(generator: torch.Generator) -> None:
    images = torch.randint(0, 256, (5, 20, 24, 3), generator=generator, dtype=torch.uint8).permute(0, 3, 1, 2)
    offset = torch.stack([torch.tensor([0, 8, 3, 5, 1]), torch.tensor([4, 0, 2, 1, 3])], dim=1)
    pieces, expected = gathered(images, offset, (16, 16)), crop(images, offset, (16, 16))
    assert torch.equal(pieces, expected) and pieces.stride() == expected.stride()


@pytest.mark.parametrize("offset", [[5, 0], [0, 5], [-1, 0]])
def test_crop_outside_the_image(offset: list[int]) -> None:
    with pytest.raises(ValueError, match="leaves the image"):
        crop(torch.zeros(1, 3, 12, 12), torch.tensor([offset]), (8, 8))


def test_offsets(generator: torch.Generator) -> None:
    offsets = random_offset(2000, (84, 84), (76, 76), generator)
    assert offsets.shape == (2000, 2) and set(offsets.flatten().tolist()) == set(range(9))
    assert centre_offset(2, (84, 84), (76, 76), torch.device("cpu")).tolist() == [[4, 4], [4, 4]]


def test_spatial_softmax_known_answer() -> None:
    """One sharp peak at cell (row 2, column 5) of stride 4, crop at x 3, y 6: pixel x 23, y 14 of 84."""
    layer = SpatialSoftmax(1, 2, stride=4, image_size=(84, 84))
    nn.init.constant_(layer.maps.weight, 1.0)
    features = torch.zeros(1, 1, 19, 19)
    features[0, 0, 2, 5] = 100.0
    x, y = 2 * 23 / 83 - 1, 2 * 14 / 83 - 1
    expected = torch.tensor([[x, x, y, y]])
    torch.testing.assert_close(layer(features, torch.tensor([[3, 6]])), expected)
    middle = layer(torch.zeros(1, 1, 19, 19), torch.tensor([[0, 0]]))
    torch.testing.assert_close(middle, torch.full((1, 4), 2 * 36 / 83 - 1))


def blob(x: int, y: int) -> Tensor:
    """A dark image (1, 3, 84, 84) with a bright disc around the pixel (x, y)."""
    rows, columns = torch.arange(84)[:, None], torch.arange(84)[None]
    return torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8.0).expand(1, 3, 84, 84).contiguous()


def test_keypoints_do_not_move_with_the_crop(generator: torch.Generator) -> None:
    """A network of positive weights looks for what is bright: it must name the blob's place in the whole image."""
    encoder = SmallConvEncoder()
    for parameter in encoder.parameters():
        parameter.data = parameter.data.abs() if parameter.dim() > 1 else torch.zeros_like(parameter.data)
    encoder.keypoints.maps.weight.data *= 1e4
    offsets = torch.tensor([[0, 0], [4, 0], [0, 8], [8, 4]])
    image = blob(28, 52)
    points = encoder(crop(image.expand(4, 3, 84, 84), offsets, (76, 76)), offsets).unflatten(1, (2, 32))
    torch.testing.assert_close(points, points[:1].expand(4, 2, 32), atol=1e-4, rtol=0)
    place = torch.tensor([2 * 28 / 83 - 1, 2 * 52 / 83 - 1])
    torch.testing.assert_close(points.mean(dim=2), place.expand(4, 2), atol=4 / 83, rtol=0)
    wrong = encoder(crop(image.expand(4, 3, 84, 84), offsets, (76, 76)), torch.zeros_like(offsets)).unflatten(
        1, (2, 32)
    )
    assert (wrong - wrong[:1]).abs().max().item() > 0.15
    moved = encoder(crop(blob(32, 52), offsets[:1], (76, 76)), offsets[:1]).unflatten(1, (2, 32))
    torch.testing.assert_close(moved[0, 0] - points[0, 0], torch.full((32,), 2 * 4 / 83), atol=1e-4, rtol=0)
    torch.testing.assert_close(moved[0, 1], points[0, 1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", [SmallConvEncoder, ResNet18Encoder])
def test_encoder(kind: type[SmallConvEncoder | ResNet18Encoder], generator: torch.Generator) -> None:
    encoder = kind()
    images = torch.rand(2, 3, 76, 76, generator=generator) * 2 - 1
    offset = random_offset(2, (84, 84), (76, 76), generator)
    features = encoder(images, offset)
    assert features.shape == (2, encoder.out_dim) == (2, 64)
    assert torch.equal(script(encoder)(images, offset), features)
    assert_gradient_everywhere(encoder, features, generator)
    stride = encoder.keypoints.stride
    assert encoder.convolutions(images).shape[2:] == (math.ceil(76 / stride), math.ceil(76 / stride))


def test_encoder_sizes() -> None:
    assert sum(p.numel() for p in SmallConvEncoder().parameters()) == pytest.approx(35_000, rel=0.02)
    assert sum(p.numel() for p in ResNet18Encoder().parameters()) == pytest.approx(11.2e6, rel=0.01)


def test_keypoints_stay_float32_under_autocast(generator: torch.Generator) -> None:
    encoder = SmallConvEncoder()
    images, offset = torch.rand(2, 3, 76, 76, generator=generator) * 2 - 1, torch.tensor([[3, 5], [0, 8]])
    with torch.autocast("cpu", torch.bfloat16):
        features = encoder(images, offset)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, encoder(images, offset), atol=2e-2, rtol=0)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_unit_variance(memory_format: torch.memory_format, generator: torch.Generator) -> None:
    encoder = SmallConvEncoder().to(memory_format=memory_format)
    images = F.interpolate(torch.rand(16, 3, 19, 19, generator=generator) * 2 - 1, scale_factor=4)
    encoder.initialise_unit_variance(images)
    x = images
    for layer in [*encoder.convolutions, encoder.keypoints.maps]:
        x = layer(x)
        if isinstance(layer, nn.Conv2d):
            std, mean = torch.std_mean(x, dim=(0, 2, 3))
            torch.testing.assert_close(std, torch.ones_like(std), atol=1e-3, rtol=0)
            if layer.bias is not None:
                torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-3, rtol=0)
    assert all(p.requires_grad and p.grad_fn is None for p in encoder.parameters())


def test_unit_variance_refuses_equal_images() -> None:
    encoder = SmallConvEncoder()
    with pytest.raises(ValueError, match="vary"):
        encoder.initialise_unit_variance(torch.zeros(4, 3, 76, 76))


def test_crop_scripts(generator: torch.Generator) -> None:
    class Cropper(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return crop(images, centre_offset(images.shape[0], (84, 84), (76, 76), images.device), (76, 76))

    images = torch.rand(2, 3, 84, 84, generator=generator)
    assert torch.equal(script(Cropper())(images), images[:, :, 4:80, 4:80])
