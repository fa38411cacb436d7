"""The U-Net that denoises images: the annotated form of Ho et al. 2020 (arXiv 2006.11239), images (B, C, H, W).

    image -> stem -+-> level 0 -> level 1 -> ... -> middle -> ... -> level 1 -> level 0 -> joined with the stem -> out
                   |      \\________ skips of both blocks of a level ________/      |              |
                   +--------------------------------------------------------------- | ------------+

A level is two residual blocks (convolutions with standardised weights, Qiao et al. 2019; group norm; the diffusion step
as scale and shift) and linear attention (Shen et al. 2018), which costs as much per pixel at any size; the middle has
full attention. Down is space-to-depth and a 1x1 convolution, up is nearest-neighbour and a 3x3 convolution.

What differs serves speed on a CPU: one Linear makes the scales and shifts of all blocks, and `patch` lets large images
in as squares of pixels, so that no level works at full resolution.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops.layers.torch import Rearrange
from torch import Tensor, nn

from training.networks.embeddings import SinusoidalEmbedding


class WeightStandardizedConv2d(nn.Conv2d):
    """A convolution whose weights have, for each output channel, mean 0 and variance 1 (arXiv 1903.10520)."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        weight = (self.weight - mean) * torch.rsqrt(variance + 1e-5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each with group norm and SiLU; the first is scaled and shifted by the diffusion step."""

    def __init__(self, in_dim: int, out_dim: int, groups: int) -> None:
        super().__init__()
        self.conv1 = WeightStandardizedConv2d(in_dim, out_dim, 3, padding=1)
        self.norm1 = nn.GroupNorm(groups, out_dim)
        self.conv2 = WeightStandardizedConv2d(out_dim, out_dim, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out_dim)
        self.shortcut = nn.Identity() if in_dim == out_dim else nn.Conv2d(in_dim, out_dim, 1)

    def forward(self, x: Tensor, film: Tensor) -> Tensor:
        """x (B, in, H, W), film (B, 2 out): scale - 1, then shift; returns (B, out, H, W)."""
        scale, shift = film[:, :, None, None].chunk(2, dim=1)
        y = self.norm1(self.conv1(x))
        y = F.silu(torch.addcmul(shift, y, 1.0 + scale))
        y = F.silu(self.norm2(self.conv2(y)))
        z: Tensor = y + self.shortcut(x)
        return z


class LinearAttention(nn.Module):
    """Attention whose cost grows with the pixels, not with their square; pre-normed and residual.

    Queries are softmaxed over features and keys over pixels, so that keys and values can be multiplied first.
    """

    def __init__(self, dim: int, heads: int = 4, head_dim: int = 32) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = head_dim
        self.norm = nn.GroupNorm(1, dim)
        self.qkv = nn.Conv2d(dim, 3 * heads * head_dim, 1, bias=False)
        self.split = Rearrange("b (three heads d) h w -> three b heads d (h w)", three=3, heads=heads)
        self.join = Rearrange("b heads d pixels -> b (heads d) pixels")
        self.out = nn.Conv2d(heads * head_dim, dim, 1)
        self.out_norm = nn.GroupNorm(1, dim)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W); returns the same shape."""
        q, k, v = self.split(self.qkv(self.norm(x))).unbind()
        q = q.softmax(dim=2) * self.head_dim**-0.5  # (B, heads, head_dim, pixels)
        context = k.softmax(dim=3) @ v.transpose(2, 3)  # (B, heads, head_dim of k, head_dim of v)
        y = self.join(context.transpose(2, 3) @ q).unflatten(2, x.shape[2:])
        z: Tensor = x + self.out_norm(self.out(y))
        return z


class FullAttention(nn.Module):
    """Attention of every pixel to every other; pre-normed and residual."""

    def __init__(self, dim: int, heads: int = 4, head_dim: int = 32) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(1, dim)
        self.qkv = nn.Conv2d(dim, 3 * heads * head_dim, 1, bias=False)
        self.split = Rearrange("b (three heads d) h w -> three b heads (h w) d", three=3, heads=heads)
        self.join = Rearrange("b heads pixels d -> b (heads d) pixels")
        self.out = nn.Conv2d(heads * head_dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W); returns the same shape."""
        q, k, v = self.split(self.qkv(self.norm(x))).unbind()
        y = F.scaled_dot_product_attention(q, k, v)  # (B, heads, pixels, head_dim)
        z: Tensor = x + self.out(self.join(y).unflatten(2, x.shape[2:]))
        return z


class Downsample(nn.Module):
    """Half the height and width: the four pixels of a square become channels, which a 1x1 convolution mixes."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.squares = Rearrange("b c (h i) (w j) -> b (c i j) h w", i=2, j=2)
        self.conv = nn.Conv2d(4 * in_dim, out_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(self.squares(x))
        return y


class Upsample(nn.Module):
    """Twice the height and width: every pixel becomes a square of four, which a 3x3 convolution smooths."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_dim, out_dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return y


class DownLevel(nn.Module):
    """Two residual blocks with attention between the second and the way down; both blocks' outputs are skips."""

    def __init__(self, dim: int, out_dim: int, last: bool, groups: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.block1 = ResidualBlock(dim, dim, groups)
        self.block2 = ResidualBlock(dim, dim, groups)
        self.attention = LinearAttention(dim, heads, head_dim)
        self.change = nn.Conv2d(dim, out_dim, 3, padding=1) if last else Downsample(dim, out_dim)

    def forward(self, x: Tensor, film: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, dim, H, W), film (B, 4 dim); returns what goes down, and two skips (B, dim, H, W)."""
        film1, film2 = film.chunk(2, dim=1)
        skip1 = self.block1(x, film1)
        skip2 = self.attention(self.block2(skip1, film2))
        return self.change(skip2), skip1, skip2


class UpLevel(nn.Module):
    """The way back of a :class:`DownLevel`, whose second skip comes first."""

    def __init__(
        self, dim: int, skip_dim: int, out_dim: int, last: bool, groups: int, heads: int, head_dim: int
    ) -> None:
        super().__init__()
        self.block1 = ResidualBlock(dim + skip_dim, dim, groups)
        self.block2 = ResidualBlock(dim + skip_dim, dim, groups)
        self.attention = LinearAttention(dim, heads, head_dim)
        self.change = nn.Conv2d(dim, out_dim, 3, padding=1) if last else Upsample(dim, out_dim)

    def forward(self, x: Tensor, skip1: Tensor, skip2: Tensor, film: Tensor) -> Tensor:
        """x (B, dim, H, W), skips (B, skip_dim, H, W), film (B, 4 dim); returns (B, out, 2 H, 2 W); the last H, W."""
        film1, film2 = film.chunk(2, dim=1)
        x = self.block1(torch.cat([x, skip2], dim=1), film1)
        x = self.block2(torch.cat([x, skip1], dim=1), film2)
        y: Tensor = self.change(self.attention(x))
        return y


class Unet2d(nn.Module):
    """Denoises images, told the diffusion step and, with self_conditioning, an earlier estimate of the clean image.

    Args:
        channels: of an image.
        dim: channels at the first level.
        dim_mults: channels at each level, as multiples of dim; each level but the last halves height and width.
        out_dim: channels of the output; those of an image when None.
        groups: of the group norms.
        self_conditioning: whether an estimate of the clean image is a second input (Chen et al. 2022, 2208.04202).
        heads: of the attentions.
        head_dim: features of a head.
        patch: squares of so many pixels by so many enter as channels, and leave so.
    """

    def __init__(
        self,
        channels: int,
        dim: int = 32,
        dim_mults: Sequence[int] = (1, 2, 4),
        out_dim: int | None = None,
        groups: int = 4,
        self_conditioning: bool = False,
        heads: int = 4,
        head_dim: int = 32,
        patch: int = 1,
    ) -> None:
        super().__init__()
        if not dim_mults or min(dim_mults) < 1:
            raise ValueError(f"dim_mults {tuple(dim_mults)}: positive multiples of dim expected, one for each level")
        if dim < 4 or dim % 2 or dim % groups:
            raise ValueError(f"dim {dim}: an even number, at least 4, that the {groups} groups divide expected")
        if patch < 1:
            raise ValueError(f"patch {patch}: must be at least 1")
        self.channels = channels
        self.patch = patch
        self.self_conditioning = self_conditioning
        self.multiple = patch * 2 ** (len(dim_mults) - 1)
        inputs = channels * patch**2 * (2 if self_conditioning else 1)
        dims = [dim, *(dim * m for m in dim_mults)]
        self.patches = Rearrange("b c (h i) (w j) -> b (c i j) h w", i=patch, j=patch)
        self.pixels = Rearrange("b (c i j) h w -> b c (h i) (w j)", i=patch, j=patch)
        self.stem = nn.Conv2d(inputs, dim, 1)
        time_dim = 4 * dim
        self.time_embedding = nn.Sequential(
            SinusoidalEmbedding(dim), nn.Linear(dim, time_dim), nn.GELU(), nn.Linear(time_dim, time_dim)
        )
        levels = list(itertools.pairwise(dims))
        end = len(levels) - 1
        self.down = nn.ModuleList(
            [DownLevel(a, b, i == end, groups, heads, head_dim) for i, (a, b) in enumerate(levels)]
        )
        middle = dims[-1]
        self.middle1 = ResidualBlock(middle, middle, groups)
        self.middle_attention = FullAttention(middle, heads, head_dim)
        self.middle2 = ResidualBlock(middle, middle, groups)
        self.up = nn.ModuleList(
            [UpLevel(b, a, a, i == end, groups, heads, head_dim) for i, (a, b) in enumerate(reversed(levels))]
        )
        self.last = ResidualBlock(2 * dim, dim, groups)
        self.head = nn.Conv2d(dim, (channels if out_dim is None else out_dim) * patch**2, 1)
        # Sizes of the slices of the scales and shifts, in the order in which the blocks run.
        self.film_sizes = [4 * a for a, _ in levels] + [2 * middle] * 2 + [4 * b for _, b in reversed(levels)]
        self.film_sizes.append(2 * dim)
        self.film = nn.Linear(time_dim, sum(self.film_sizes))
        # It begins by answering 0, as Ho et al.'s code does, and without scale or shift in any block, as DiT (Peebles
        # and Xie 2022): better images after few steps.
        for parameter in (*self.head.parameters(), *self.film.parameters()):
            nn.init.zeros_(parameter)

    def check_size(self, height: int, width: int) -> None:
        """Raises ValueError for images that the levels cannot halve."""
        if height % self.multiple or width % self.multiple or height < 1 or width < 1:
            raise ValueError(
                f"images of {height} x {width}: both must be multiples of {self.multiple} for {len(self.down)} levels"
                f" and patches of {self.patch}; take fewer levels, or another image size"
            )

    def forward(self, x: Tensor, t: Tensor, estimate: Tensor | None = None) -> Tensor:
        """Denoise a batch of images.

        Args:
            x: noisy images (B, C, H, W) float; H and W multiples of `multiple`.
            t: diffusion steps (B,) int64.
            estimate: with self_conditioning, what the clean images (B, C, H, W) were estimated to be; None: nothing.

        Returns:
            (B, out_dim, H, W): the noise, or whatever the network is trained to predict.
        """
        if self.self_conditioning:
            x = torch.cat([x, torch.zeros_like(x) if estimate is None else estimate], dim=1)
        if self.patch > 1:
            x = self.patches(x)
        films = torch.split(self.film(F.silu(self.time_embedding(t))), self.film_sizes, dim=1)
        used = 0
        x = self.stem(x)
        stem = x
        skips: list[Tensor] = []
        for level in self.down:
            x, skip1, skip2 = level(x, films[used])
            used += 1
            skips.append(skip1)
            skips.append(skip2)
        x = self.middle1(x, films[used])
        x = self.middle_attention(x)
        x = self.middle2(x, films[used + 1])
        used += 2
        for level in self.up:
            skip2 = skips.pop()
            skip1 = skips.pop()
            x = level(x, skip1, skip2, films[used])
            used += 1
        y: Tensor = self.head(self.last(torch.cat([x, stem], dim=1), films[used]))
        if self.patch > 1:
            y = self.pixels(y)
        return y
