"""Image encoders whose features are key-points: where in the image each learned feature is.

Both encoders see a crop and give key-points in the coordinates of the whole image: x to the right and y down, -1 at the
centre of the first pixel and +1 at that of the last. So a random crop in training changes neither what a key-point says
about the scene nor what the centred crop in use says. Every convolution pads by half its kernel, so that cell i of a
feature map looks at pixel i * stride of the crop.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size = tuple[int, int]
"""Height and width [px]."""


def crop(images: Tensor, offset: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut a part of that height and width out of each image.

    Args:
        images: (B, C, H, W), any dtype; the memory format (channels_last or not) is kept.
        offset: (B, 2) int64, the x (column) and y (row) of the upper left pixel, 0 <= x <= W - size[1].
        size: rows and columns to keep.

    Returns:
        (B, C, *size).
    """
    n, height, width = images.shape[0], images.shape[2], images.shape[3]
    if images.device.type != "cpu":
        return gathered(images, offset, size)
    corners: list[list[int]] = offset.tolist()
    pieces: list[Tensor] = []
    for i in range(n):
        x, y = corners[i][0], corners[i][1]
        if x < 0 or y < 0 or x + size[1] > width or y + size[0] > height:
            part = f"{size[1]} x {size[0]}"
            raise ValueError(f"crop offset ({x}, {y}) with {part} pixels leaves the image of {width} x {height} pixels")
        pieces.append(images[i : i + 1, :, y : y + size[0], x : x + size[1]])
    return torch.cat(pieces)


def gathered(images: Tensor, offset: Tensor, size: tuple[int, int]) -> Tensor:
    """What `crop` gives, without reading anything back from the device: what leaves the image is the device's error."""
    rows = offset[:, 1, None] + torch.arange(size[0], device=images.device)
    columns = offset[:, 0, None] + torch.arange(size[1], device=images.device)
    of = torch.arange(images.shape[0], device=images.device)[:, None, None]
    return images.permute(0, 2, 3, 1)[of, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def random_offset(n: int, image_size: Size, crop_size: Size, generator: torch.Generator) -> Tensor:
    """Offsets (n, 2) int64 of random crops, uniform over all that fit, on the generator's device. Used in training."""
    down, across = image_size[0] - crop_size[0] + 1, image_size[1] - crop_size[1] + 1
    of: dict[str, Any] = {"generator": generator, "device": generator.device}
    if down == across:
        return torch.randint(0, down, (n, 2), **of)
    return torch.cat([torch.randint(0, across, (n, 1), **of), torch.randint(0, down, (n, 1), **of)], dim=1)


def centre_offset(n: int, image_size: tuple[int, int], crop_size: tuple[int, int], device: torch.device) -> Tensor:
    """Offsets (n, 2) int64 of the centred crop. Used outside training."""
    across, down = (image_size[1] - crop_size[1]) // 2, (image_size[0] - crop_size[0]) // 2
    corners = [torch.full((n,), side, dtype=torch.int64, device=device) for side in (across, down)]
    return torch.stack(corners, dim=1)


class SpatialSoftmax(nn.Module):
    """Key-points: the expected position under a softmax over each of K maps (Finn et al. 2016, arXiv 1509.06113).

    Args:
        in_dim: channels of the features, from which a 1x1 convolution makes the maps.
        n_keypoints: K.
        stride: pixels between two cells of the features.
        image_size: height and width of the whole image, before the crop [px].
    """

    def __init__(self, in_dim: int, n_keypoints: int, stride: int, image_size: Size) -> None:
        super().__init__()
        self.maps = nn.Conv2d(in_dim, n_keypoints, 1, bias=False)  # a softmax does not see a bias
        self.n_keypoints = n_keypoints
        self.stride = stride
        self.image_size = image_size

    def forward(self, features: Tensor, offset: Tensor) -> Tensor:
        """features (B, in_dim, h, w), offset (B, 2) x and y in pixels; returns (B, 2 K): all x, then all y."""
        return self.locate(self.maps(features).float(), offset)

    def locate(self, logits: Tensor, offset: Tensor) -> Tensor:
        """logits (B, K, h, w) float32 of the maps, offset (B, 2); returns (B, 2 K): all x, then all y."""
        _, _, x, y = self._means(logits)
        return self._places(x, y, offset)

    def read(self, logits: Tensor, offset: Tensor) -> Tensor:
        """logits (B, K, h, w) float32 of the maps, offset (B, 2); returns (B, 3 K): x, y, and how far a map spreads.

        The spread is the standard deviation of the position under the softmax, in the same units.
        Computed in float32 and without a matrix product, which autocast would take to bfloat16: its 8 bits are a pixel.
        """
        across, down, x, y = self._means(logits)
        column = torch.arange(logits.shape[3], device=logits.device, dtype=torch.float32)
        row = torch.arange(logits.shape[2], device=logits.device, dtype=torch.float32)
        variance = (across * (column - x[:, :, None]) ** 2).sum(dim=2) + (down * (row - y[:, :, None]) ** 2).sum(dim=2)
        spread = (variance + 1e-6).sqrt() * (self.stride * (2.0 / (max(self.image_size) - 1)))
        return torch.cat([self._places(x, y, offset), spread], dim=1)

    def _means(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The softmax's sums over rows (B, K, w) and columns (B, K, h), and the mean x and y (B, K), in cells."""
        p = logits.flatten(2).softmax(dim=2).unflatten(2, [logits.shape[2], logits.shape[3]])
        across, down = p.sum(dim=2), p.sum(dim=3)
        x = (across * torch.arange(logits.shape[3], device=p.device, dtype=torch.float32)).sum(dim=2)
        y = (down * torch.arange(logits.shape[2], device=p.device, dtype=torch.float32)).sum(dim=2)
        return across, down, x, y

    def _places(self, x: Tensor, y: Tensor, offset: Tensor) -> Tensor:
        """(B, 2 K) in the whole image, of cells x and y (B, K) of a crop at offset (B, 2)."""
        height, width = self.image_size
        pixels = torch.stack([x, y], dim=1) * self.stride + offset[:, :, None]
        if height == width:
            places = pixels * (2.0 / (width - 1)) - 1.0
        else:
            places = torch.stack([pixels[:, 0] * (2.0 / (width - 1)), pixels[:, 1] * (2.0 / (height - 1))], dim=1) - 1.0
        return places.flatten(1)


class Coarse(nn.Module):
    """Adds to a map what lies around each place: three convolutions at half its resolution, 41 of its cells wide."""

    def __init__(self, dim: int, coarse_dim: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(dim, coarse_dim, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(coarse_dim, coarse_dim, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(coarse_dim, coarse_dim, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(coarse_dim, dim, 1),
        )

    def layers(self) -> list[Tensor]:
        """Weight and bias of each convolution, in their order."""
        found: list[Tensor] = []
        for layer in self.convolutions:
            if hasattr(layer, "weight"):
                weight, bias = layer.weight, layer.bias
                assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
                found.append(weight)
                found.append(bias)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """x (B, dim, h, w); returns the same shape."""
        size = [x.shape[2], x.shape[3]]
        return x + F.interpolate(self.convolutions(x), size, mode="bilinear", align_corners=False)


def logits_side_by_side(images: Tensor, layers: list[Tensor], cameras: int) -> Tensor:
    """What the `logits` of several small encoders make, by grouped convolutions: fewer and larger products.

    images (B, 3 cameras, h, w) in [-1, 1]; layers: those of `SmallConvEncoder.layers`, of all cameras one after the
    other along the first axis. Returns (B, cameras K, rows, columns) float32.
    """
    x = images.to(layers[0].dtype)
    x = F.relu(F.conv2d(x, layers[0], layers[1], stride=2, padding=2, groups=cameras))
    x = F.relu(F.conv2d(x, layers[2], layers[3], stride=2, padding=1, groups=cameras))
    if len(layers) > 7:
        y = F.relu(F.conv2d(x, layers[4], layers[5], stride=2, padding=1, groups=cameras))
        y = F.relu(F.conv2d(y, layers[6], layers[7], padding=1, groups=cameras))
        y = F.relu(F.conv2d(y, layers[8], layers[9], padding=1, groups=cameras))
        y = F.conv2d(y, layers[10], layers[11], groups=cameras)
        x = x + F.interpolate(y, [x.shape[2], x.shape[3]], mode="bilinear", align_corners=False)
    x = F.relu(F.conv2d(x, layers[-3], layers[-2], padding=1, groups=cameras))
    return F.conv2d(x, layers[-1], None, groups=cameras).float()


class KeypointEncoder(nn.Module):
    """Convolutions and a spatial softmax over what they make of a crop."""

    def __init__(
        self, convolutions: nn.Sequential, keypoints: SpatialSoftmax, image_size: Size, crop_size: Size
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.image_size_after_crop = crop_size
        self.convolutions = convolutions
        self.keypoints = keypoints
        self.out_dim = 2 * keypoints.n_keypoints

    def logits(self, images: Tensor) -> Tensor:
        """images (B, 3, h, w) float in [-1, 1]; returns (B, K, rows, columns) float32, what the softmax is over."""
        logits: Tensor = self.keypoints.maps(self.convolutions(images))
        return logits.float()

    def read(self, logits: Tensor, offset: Tensor) -> Tensor:
        """(B, 3 K): x, y and spread of every key-point; see :meth:`SpatialSoftmax.read`."""
        return self.keypoints.read(logits, offset)

    def locate(self, logits: Tensor, offset: Tensor) -> Tensor:
        """(B, 2 K): x and y of every key-point; see :meth:`SpatialSoftmax.locate`."""
        return self.keypoints.locate(logits, offset)

    def layers(self) -> list[Tensor]:
        """What `logits_side_by_side` needs of this encoder: weights, biases; none where it does not know such a one."""
        nothing: list[Tensor] = []
        return nothing


class SmallConvEncoder(KeypointEncoder):
    """Four convolutions and a spatial softmax, 35,000 parameters: cheap enough to train on one CPU thread.

    With `coarse` there are five more, 135,000 parameters in all: without them a key-point knows 17 pixels around it.

    There are no normalisation layers: they gain nothing from bfloat16 and would take most of the time. Call
    `initialise_unit_variance` with a batch of images instead, once, before training.

    Args:
        image_size: height and width of the whole image [px].
        image_size_after_crop: and of the crop that `forward` gets.
        n_keypoints: key-points, half the number of features.
        coarse: whether places are seen in their surroundings.
    """

    STRIDE = 4
    """Pixels between two cells of the maps."""

    def __init__(
        self,
        image_size: Size = (84, 84),
        image_size_after_crop: Size = (76, 76),
        n_keypoints: int = 32,
        coarse: bool = False,
    ) -> None:
        convolutions = nn.Sequential(
            nn.Conv2d(3, 24, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(24, 48, 3, stride=2, padding=1),
            nn.ReLU(),
            *([Coarse(48, 64)] if coarse else []),
            nn.Conv2d(48, 48, 3, padding=1),
            nn.ReLU(),
        )
        keypoints = SpatialSoftmax(48, n_keypoints, self.STRIDE, image_size)
        super().__init__(convolutions, keypoints, image_size, image_size_after_crop)

    def forward(self, images: Tensor, offset: Tensor) -> Tensor:
        """images (B, 3, h, w) float in [-1, 1], cropped; offset (B, 2) int64 of the crop; returns (B, out_dim)."""
        features: Tensor = self.keypoints(self.convolutions(images), offset)
        return features

    def layers(self) -> list[Tensor]:
        """Weight and bias of each convolution, in their order; of the maps the weight alone."""
        found: list[Tensor] = []
        for layer in self.convolutions:
            if hasattr(layer, "weight"):
                weight, bias = layer.weight, layer.bias
                assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
                found.append(weight)
                found.append(bias)
            if hasattr(layer, "layers"):
                found += layer.layers()  # type: ignore[operator]
        found.append(self.keypoints.maps.weight)
        return found

    @torch.no_grad()
    def initialise_unit_variance(self, images: Tensor) -> None:
        """Rescale the weights, layer by layer, until every channel has variance 1, and mean 0 before a ReLU.

        Data-dependent initialisation (Krahenbuhl et al. 2016, arXiv 1511.06856; Salimans and Kingma 2016).

        Args:
            images: (B, 3, h, w) float in [-1, 1], some dozens of the training set.

        Raises:
            ValueError: a channel does not vary over the batch.
        """
        _to_unit_variance([*self.convolutions, self.keypoints.maps], images)


def _to_unit_variance(layers: Iterable[nn.Module], x: Tensor) -> None:
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            y = layer(x)
            std, mean = torch.std_mean(y, dim=(0, 2, 3))
            if not bool((std > 1e-6).all()):
                raise ValueError("the images given to initialise_unit_variance do not vary: give different images")
            layer.weight /= std[:, None, None, None]
            if layer.bias is not None:
                layer.bias.sub_(mean).div_(std)
        elif isinstance(layer, Coarse):
            _to_unit_variance(layer.convolutions, x)
        x = layer(x)


class BasicBlock(nn.Module):
    """The residual block of ResNet-18 with GroupNorm, 16 channels a group."""

    def __init__(self, in_dim: int, out_dim: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_dim, out_dim, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(out_dim // 16, out_dim)
        self.conv2 = nn.Conv2d(out_dim, out_dim, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(out_dim // 16, out_dim)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_dim != out_dim:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_dim, out_dim, 1, stride=stride, bias=False), nn.GroupNorm(out_dim // 16, out_dim)
            )

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in, h, w); returns (B, out, h / stride, w / stride)."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet18Encoder(KeypointEncoder):
    """ResNet-18 (He et al. 2015, arXiv 1512.03385) for a policy from pixels (Chi et al. 2023, section 3.2).

    As there, GroupNorm stands in place of BatchNorm, whose running statistics quarrel with an EMA of the weights, and a
    spatial softmax in place of average pooling. 11.2 million parameters: for a GPU.

    Args:
        image_size: height and width of the whole image [px].
        image_size_after_crop: and of the crop that `forward` gets.
        n_keypoints: key-points of the spatial softmax.
        out_dim: numbers in the feature vector.
    """

    def __init__(
        self,
        image_size: Size = (84, 84),
        image_size_after_crop: Size = (76, 76),
        n_keypoints: int = 32,
        out_dim: int = 64,
    ) -> None:
        convolutions = nn.Sequential(
            nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
            nn.GroupNorm(4, 64),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
            BasicBlock(64, 64, 1),
            BasicBlock(64, 64, 1),
            BasicBlock(64, 128, 2),
            BasicBlock(128, 128, 1),
            BasicBlock(128, 256, 2),
            BasicBlock(256, 256, 1),
            BasicBlock(256, 512, 2),
            BasicBlock(512, 512, 1),
        )
        super().__init__(
            convolutions, SpatialSoftmax(512, n_keypoints, 32, image_size), image_size, image_size_after_crop
        )
        self.out_dim = out_dim
        self.head = nn.Linear(2 * n_keypoints, out_dim)

    def forward(self, images: Tensor, offset: Tensor) -> Tensor:
        """images (B, 3, h, w) float in [-1, 1], cropped; offset (B, 2) int64 of the crop; returns (B, out_dim)."""
        features: Tensor = self.head(self.keypoints(self.convolutions(images), offset))
        return features
