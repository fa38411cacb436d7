"""The U-Net of images: each block against its definition, every option, and eager equals script."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from einops import einsum, rearrange

from diffusion_ros.checkpoint import script
from training.networks.unet2d import (
    Downsample,
    FullAttention,
    LinearAttention,
    ResidualBlock,
    Unet2d,
    Upsample,
    WeightStandardizedConv2d,
)

VARIANTS: dict[str, dict[str, Any]] = {
    "grey": {"channels": 1},
    "colour, three levels": {"channels": 3, "dim_mults": (1, 2, 2)},
    "one level": {"channels": 1, "dim_mults": (1,)},
    "self-conditioning": {"channels": 3, "self_conditioning": True},
    "twice the output": {"channels": 3, "out_dim": 6},
    "groups": {"channels": 1, "groups": 8},
    "patches": {"channels": 3, "patch": 2, "self_conditioning": True},
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def unet(**changes: Any) -> Unet2d:
    """One that answers, as after some training."""
    network = Unet2d(**{"dim": 8, "dim_mults": (1, 2), "heads": 2, "head_dim": 4, **changes})
    network.head.reset_parameters()
    network.film.reset_parameters()
    return network


def inputs(network: Unet2d) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = torch.randn(2, network.channels, 8, 8)
    return x, torch.tensor([0, 250]), 0.5 * x.flip(3)


SLOW = ("one level", "twice the output", "self-conditioning")
"""Of each option one is in make test: patches have self-conditioning as well."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in VARIANTS]
)
def test_every_option_runs_scripted_alike_and_is_trained_everywhere(name: str) -> None:
    network = unet(**VARIANTS[name])
    x, t, estimate = inputs(network)
    y = network(x, t, estimate)
    assert y.shape == (2, VARIANTS[name].get("out_dim", network.channels), 8, 8)
    scripted = script(network)
    torch.testing.assert_close(scripted(x, t, estimate), y, atol=0, rtol=0)
    assert torch.equal(scripted(x, t), network(x, t))
    assert torch.equal(y, network(x, t)) == (not network.self_conditioning)
    assert not torch.allclose(y, network(x, t + 30, estimate))
    (y * torch.randn_like(y)).sum().backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().max()) > 0, parameter_name


def test_an_untrained_network_answers_0_and_learns() -> None:
    network = Unet2d(1, 8, (1, 2), heads=2, head_dim=4)
    x, t, _ = inputs(network)
    assert not network(x, t).any()
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(3):
        loss = (network(x, t) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < float(x.square().mean())
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


def test_samples_of_a_batch_do_not_mix() -> None:
    network = unet(channels=1)
    x, t, _ = inputs(network)
    torch.testing.assert_close(network(x[1:], t[1:]), network(x, t)[1:])


def test_no_estimate_is_an_estimate_of_zeros() -> None:
    network = unet(channels=1, self_conditioning=True)
    x, t, _ = inputs(network)
    assert torch.equal(network(x, t), network(x, t, torch.zeros_like(x)))


def test_weights_of_a_convolution_are_standardised() -> None:
    layer = WeightStandardizedConv2d(3, 4, 3, padding=1)
    x = torch.randn(2, 3, 5, 5)
    flat = layer.weight.flatten(1)
    weight = (flat - flat.mean(1, keepdim=True)) / (flat.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    expected = F.conv2d(x, weight.view_as(layer.weight), layer.bias, padding=1)
    torch.testing.assert_close(layer(x), expected)
    before = layer(x)
    layer.weight.data = 3 * layer.weight.data + 1.0  # neither scale nor offset matters
    torch.testing.assert_close(layer(x), before, atol=1e-2, rtol=1e-2)


def test_residual_block_by_its_definition() -> None:
    block = ResidualBlock(3, 4, groups=2)
    x, film = torch.randn(2, 3, 6, 6), torch.randn(2, 8)
    y = F.group_norm(block.conv1(x), 2) * (1 + film[:, :4, None, None]) + film[:, 4:, None, None]
    y = F.silu(F.group_norm(block.conv2(F.silu(y)), 2))
    torch.testing.assert_close(block(x, film), y + block.shortcut(x), atol=1e-5, rtol=1e-5)


def heads_of(layer: LinearAttention | FullAttention, x: torch.Tensor) -> list[torch.Tensor]:
    """Queries, keys and values (B, heads, D, pixels)."""
    parts = layer.qkv(F.group_norm(x, 1)).chunk(3, dim=1)
    return [rearrange(part, "b (h d) y x -> b h d (y x)", h=layer.heads) for part in parts]


def test_linear_attention_by_its_definition() -> None:
    layer = LinearAttention(8, heads=2, head_dim=4)
    x = torch.randn(2, 8, 3, 5)
    q, k, v = heads_of(layer, x)
    context = einsum(k.softmax(dim=-1), v, "b h d n, b h e n -> b h d e")
    y = einsum(context, q.softmax(dim=-2) / 2, "b h d e, b h d n -> b h e n")
    y = layer.out(rearrange(y, "b h d (y x) -> b (h d) y x", y=3))
    torch.testing.assert_close(layer(x), x + F.group_norm(y, 1), atol=1e-5, rtol=1e-5)


def test_full_attention_by_its_definition() -> None:
    layer = FullAttention(8, heads=2, head_dim=4)
    x = torch.randn(2, 8, 3, 5)
    q, k, v = heads_of(layer, x)
    weights = (einsum(q, k, "b h d i, b h d j -> b h i j") / 2).softmax(dim=-1)
    y = rearrange(einsum(weights, v, "b h i j, b h d j -> b h d i"), "b h d (y x) -> b (h d) y x", y=3)
    torch.testing.assert_close(layer(x), x + layer.out(y), atol=1e-5, rtol=1e-5)


def test_down_is_space_to_depth_and_up_is_nearest() -> None:
    x = torch.randn(2, 3, 4, 6)
    down, up = Downsample(3, 5), Upsample(3, 5)
    squares = rearrange(x, "b c (h i) (w j) -> b (c i j) h w", i=2, j=2)
    torch.testing.assert_close(down(x), down.conv(squares))
    doubled = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(up(x), up.conv(doubled))


def test_skips_come_from_both_blocks_of_each_level() -> None:
    network = unet(channels=1, dim_mults=(1, 2, 4))
    seen: list[tuple[int, int]] = []
    for level in network.up:
        for block in (level.block1, level.block2):
            block.register_forward_hook(
                lambda block, arguments, _: seen.append((arguments[0].shape[1], arguments[0].shape[2]))
            )
    network(torch.zeros(1, 1, 16, 16), torch.tensor([0]))
    # Channels from below and of a skip, and the height: 4 is the coarsest of 16, 8, 4.
    assert seen == [(32 + 16, 4), (32 + 16, 4), (16 + 8, 8), (16 + 8, 8), (8 + 8, 16), (8 + 8, 16)]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dim": 9}, "dim 9"),
        ({"dim": 8, "groups": 3}, "3 groups"),
        ({"dim_mults": ()}, "dim_mults"),
        ({"dim_mults": (1, 0)}, "dim_mults"),
        ({"patch": 0}, "patch 0"),
    ],
)
def test_bad_options(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        unet(channels=1, **changes)


def test_sizes_that_cannot_be_halved() -> None:
    network = unet(channels=1, dim_mults=(1, 2, 4))
    network.check_size(28, 28)
    with pytest.raises(ValueError, match="30 x 28: both must be multiples of 4 for 3 levels"):
        network.check_size(30, 28)
    with pytest.raises(ValueError, match="multiples of 8"):
        unet(channels=1, dim_mults=(1, 2, 4), patch=2).check_size(28, 28)
