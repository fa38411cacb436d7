"""Images to train a diffusion model on: digits, Fashion-MNIST, CIFAR-10, a folder, the cameras of demonstrations.

All are uint8 (N, H, W, C), C 1 or 3, in three parts: training, validation and test. If the data have a test set, it is
the third part, and the rest is split 80 / 20. Otherwise the parts are 70 / 15 / 15 of the whole.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import math
import pickle
import pickletools
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray

from training.data.demonstrations import demonstration_names
from training.data.hdf5_file import check_memory, opened

Images = NDArray[np.uint8]
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff")
SOURCES = "digits, fashion-mnist:DIR, cifar10:DIR, folder:DIR or demos:FILE:CAMERA"
CIFAR_RECORD = 1 + 3 * 32 * 32
MOST_OF_BATCH = 100_000 * CIFAR_RECORD // 8
"""Bytes of a file with a batch of CIFAR-10: a little more than it has."""
MOST_UNPACKED = 1032
"""Times its own size that deflate unpacks at most."""
BACKGROUND = 255
"""What shows through transparent pictures: white."""
MAX_NAMED = 5
"""Corrupt files that are named; the rest are only counted."""


@dataclass(frozen=True)
class ImageData:
    """A data set in its three parts."""

    name: str
    train: Images
    validation: Images
    test: Images
    flip: bool
    """Whether an image's mirror image could be one of the data as well: digits and fixed cameras have a right side."""
    data_hash: str
    """SHA-256 over all images."""
    corrupt: tuple[str, ...] = ()
    """Files that were skipped."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = self.train.shape[1:]
        return height, width, channels


def load_images(source: str, size: int | None = None, limit: int | None = None, seed: int = 0) -> ImageData:
    """Reads what `source` names, one of SOURCES.

    Args:
        size: height and width that images are brought to: the middle square, area-averaged. None: as they are, and all
            must be of one size.
        limit: at most so many images, evenly spaced over the whole (of a test set that is apart: as many again).
        seed: of the split, where there is no order to split by.

    Raises:
        ValueError: in one line, what is missing or damaged, what was expected, and where to put it.
    """
    kind, _, rest = source.partition(":")
    if kind == "digits" and not rest:
        return _split("digits", _resize(_every(read_digits(), limit), size), seed, flip=False)
    if kind == "fashion-mnist" and rest:
        return _with_test("fashion-mnist", read_fashion_mnist(Path(rest)), size, limit, seed)
    if kind == "cifar10" and rest:
        return _with_test("cifar10", read_cifar10(Path(rest)), size, limit, seed)
    if kind == "folder" and rest:
        images, corrupt = read_folder(Path(rest), size, limit)
        return _split(Path(rest).resolve().name, images, seed, flip=True, corrupt=corrupt)
    if kind == "demos" and rest:
        file, _, camera = rest.rpartition(":")
        if not file or not camera:
            raise ValueError(f"data {source!r}: demos:FILE:CAMERA expected, as demos:data/can.hdf5:agentview")
        parts = read_demonstrations(Path(file), camera, size, limit, seed)
        return ImageData(camera, *parts, flip=False, data_hash=_hash(*parts))
    raise ValueError(f"data {source!r}: {SOURCES} expected")


def read_digits() -> Images:
    """scikit-learn's 1,797 handwritten digits (UCI, Alpaydin and Kaynak 1998), (1797, 8, 8, 1); they come with it."""
    from sklearn.datasets import load_digits

    grey: NDArray[np.float64] = load_digits().images  # 0 to 16
    return np.rint(grey[..., None] * (255 / 16)).astype(np.uint8)


def read_idx(path: Path) -> Images:
    """Images (N, H, W, 1) of an IDX file as MNIST and Fashion-MNIST have them, gzipped or not. Raises ValueError.

    What the header asks for is checked before it is read or unpacked.
    """
    try:
        with path.open("rb") as plain:
            zipped = plain.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else path.open("rb") as file:
            head = file.read(16)
            if len(head) < 16 or head[:4] != b"\x00\x00\x08\x03":
                raise ValueError(
                    f"{path}: begins with {head[:4].hex(' ') or 'nothing'}, expected an IDX file of images: 00 00 08 03"
                )
            count, height, width = struct.unpack(">3I", head[4:])
            size = count * height * width
            held, known = path.stat().st_size - 16, ""
            if zipped:
                held, known = MOST_UNPACKED * (held + 16), "at most "  # deflate cannot hold more
            if size <= held:
                check_memory(path, size, "its header asks for")
                pixels = bytearray(size + 1)  # one more than there should be
                view, held, known = memoryview(pixels), 0, ""
                while held < len(pixels) and (read := file.readinto(view[held:])):
                    held += read
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: damaged or cut short ({error}); download it again") from None
    if held != size or not count:
        known = "at least " if held > size else known
        raise ValueError(
            f"{path}: holds {known}{held:,} bytes of pixels, its header says {count} images of {height} x {width}:"
            f" {size:,} expected"
        )
    return np.frombuffer(pixels, np.uint8, count=size).reshape(count, height, width, 1)


def read_fashion_mnist(folder: Path) -> tuple[Images, Images]:
    """Training and test images (N, 28, 28, 1) from the two IDX files of images in `folder`."""
    parts = []
    for name in ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte"):
        found = [path for path in (folder / f"{name}.gz", folder / name) if path.is_file()]
        if not found:
            raise ValueError(f"{folder}: has no {name}.gz and no {name}; put Fashion-MNIST's IDX files there")
        images = read_idx(found[0])
        if images.shape[1:] != (28, 28, 1):
            raise ValueError(f"{found[0]}: images of {images.shape[1]} x {images.shape[2]}, 28 x 28 expected")
        parts.append(images)
    return parts[0], parts[1]


def read_cifar10(folder: Path) -> tuple[Images, Images]:
    """Training and test images (N, 32, 32, 3) from CIFAR-10's python or binary batches in `folder` or its subfolder."""
    forms: tuple[tuple[str, str, Callable[[Path], Images]], ...] = (
        ("cifar-10-batches-py", "", read_cifar_python),
        ("cifar-10-batches-bin", ".bin", read_cifar_binary),
    )
    for subfolder, suffix, read in forms:
        for place in (folder, folder / subfolder):
            if any((place / f"{name}{suffix}").is_file() for name in ("data_batch_1", "test_batch")):
                names = [f"data_batch_{i}{suffix}" for i in range(1, 6)] + [f"test_batch{suffix}"]
                missing = [name for name in names if not (place / name).is_file()]
                if missing:
                    raise ValueError(f"{place}: has no {', '.join(missing)}; put all six batches of CIFAR-10 there")
                batches = [read(place / name) for name in names]
                return np.concatenate(batches[:5]), batches[5]
    raise ValueError(
        f"{folder}: has no data_batch_1 and no data_batch_1.bin; put CIFAR-10's batches (python or binary version)"
        " there"
    )


def read_cifar_binary(path: Path) -> Images:
    """Images (N, 32, 32, 3) of one binary batch: a byte of label and 3,072 of pixels each. Raises ValueError."""
    if path.stat().st_size > MOST_OF_BATCH:
        raise ValueError(f"{path}: {path.stat().st_size:,} bytes, a batch of CIFAR-10 has {10_000 * CIFAR_RECORD:,}")
    content = np.fromfile(path, np.uint8)
    if not len(content) or len(content) % CIFAR_RECORD or content[::CIFAR_RECORD].max() > 9:
        raise ValueError(
            f"{path}: {len(content):,} bytes are no whole records of {CIFAR_RECORD} bytes (label 0 to 9, then 32 x 32"
            " pixels of red, green, blue); damaged, or not CIFAR-10's binary version"
        )
    return _planes(content.reshape(-1, CIFAR_RECORD)[:, 1:])


class _CifarUnpickler(pickle.Unpickler):
    """Makes numpy arrays and nothing else: a pickle from the internet could otherwise run any program."""

    _allowed: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),
        **{(f"numpy.{core}.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0] for core in ("core", "_core")},
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"asks for {module}.{name}")
        return self._allowed[module, name]


def _check_sizes(file: IO[bytes]) -> None:
    """ValueError for a pickle that asks for more memory than it has bytes, which Python gives it at once."""
    for code, argument, _ in pickletools.genops(file):
        if code.name in ("BYTEARRAY8", "NEXT_BUFFER") or ("PUT" in code.name and int(argument or 0) > MOST_OF_BATCH):
            raise ValueError(f"{code.name} {argument}")


def read_cifar_python(path: Path) -> Images:
    """Images (N, 32, 32, 3) of one python batch: a pickled dict whose data are (N, 3072) uint8. Raises ValueError."""
    if path.stat().st_size > MOST_OF_BATCH:
        raise ValueError(f"{path}: {path.stat().st_size:,} bytes, a batch of CIFAR-10 has {10_000 * CIFAR_RECORD:,}")
    try:
        with path.open("rb") as file:
            _check_sizes(file)
            file.seek(0)
            batch = _CifarUnpickler(file, encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path}: damaged, or not a batch of CIFAR-10's python version ({reason})") from None
    data = batch.get(b"data", batch.get("data")) if isinstance(batch, dict) else None
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        found = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else "nothing"
        raise ValueError(f"{path}: its data are {found}, uint8 (N, 3072) expected")
    return _planes(data)


def read_folder(folder: Path, size: int | None = None, limit: int | None = None) -> tuple[Images, tuple[str, ...]]:
    """All images in `folder` and below, in the order of their names, and the files that could not be read.

    All must be of one size, unless `size` is given, and all of them grey or all in colour.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise ValueError(f"{folder}: has no images ({', '.join(SUFFIXES)})")
    if limit is not None and len(paths) > limit:
        paths = [paths[i] for i in _evenly(len(paths), limit)]
    images: list[Images] = []
    corrupt: list[str] = []
    first = paths[0]
    for path in paths:
        image = _read_image(path)
        if image is None:
            corrupt.append(str(path))
            continue
        if size is not None:
            image = _resize(image[None], size)[0]
        if not images:
            first = path
            check_memory(folder, 2 * image.nbytes * len(paths), f"{len(paths)} images as {path.name} take")
        elif image.shape[2] != images[0].shape[2]:
            kinds = {1: "grey", 3: "in colour"}
            raise ValueError(
                f"{path}: is {kinds[image.shape[2]]}, {first.name} is {kinds[images[0].shape[2]]}: all must be alike"
            )
        elif image.shape != images[0].shape:
            raise ValueError(
                f"{path}: {image.shape[1]} x {image.shape[0]} pixels, {first.name} has {images[0].shape[1]} x"
                f" {images[0].shape[0]}: make them alike, or give --image-size"
            )
        images.append(image)
    if not images:
        raise ValueError(f"{folder}: none of its {len(paths)} images can be read, as {paths[0].name}")
    return np.stack(images), tuple(corrupt)


def read_demonstrations(
    path: Path, camera: str, size: int | None = None, limit: int | None = None, seed: int = 0
) -> tuple[Images, Images, Images]:
    """Frames of a camera from demonstrations in robomimic's format: each episode is in one of the three parts.

    A part's frames are shuffled, so that the first so many of them are from all of its episodes.
    """
    key = f"{camera}_image"
    with opened(path) as file:
        if not isinstance(file.get("data"), h5py.Group):
            raise ValueError(f"{path}: not robomimic's format: no group 'data'")
        names = demonstration_names(file["data"])
        if len(names) < 3:
            raise ValueError(f"{path}: {len(names)} demonstrations, at least 3 expected: one for each part")
        frames = []
        expected: tuple[int, ...] = ()
        for name in names:
            observed = file["data"][name].get("obs", {})
            if key not in observed:
                raise ValueError(f"{path}: {name} has no obs/{key}; it has {', '.join(sorted(observed))}")
            shape, dtype = observed[key].shape, observed[key].dtype
            expected = expected or shape[1:]
            if len(shape) != 4 or shape[3] not in (1, 3) or dtype != np.uint8 or shape[1:] != expected:
                wanted = ", ".join(map(str, expected)) if len(expected) == 3 else "H, W, 3"
                raise ValueError(f"{path}: {name}/obs/{key} is {dtype} {shape}, uint8 (N, {wanted}) expected")
            frames.append(shape[0])
        ends = np.cumsum(frames)
        total = int(ends[-1])
        kept = total if limit is None else min(total, limit)
        check_memory(path, 3 * kept * math.prod(expected), f"{kept} frames of obs/{key} take")
        chosen_frames = np.arange(total) if limit is None or limit >= total else _evenly(total, limit)
        parts: list[Images] = []
        for chosen in _shares(len(names), seed):
            part = []
            for i in np.sort(chosen):
                first = ends[i] - frames[i]
                mine = chosen_frames[(chosen_frames >= first) & (chosen_frames < ends[i])] - first
                part.append(file["data"][names[i]]["obs"][key][mine])
            order = np.random.default_rng([seed, len(parts)]).permutation(sum(map(len, part)))
            if not len(order):
                raise ValueError(f"{path}: limit {limit}: leaves none for one of the three parts of the episodes")
            parts.append(_resize(np.concatenate(part)[order], size))
    return parts[0], parts[1], parts[2]


def _planes(pixels: Images) -> Images:
    """(N, 3072), a plane of 32 x 32 for each colour, to (N, 32, 32, 3)."""
    return np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _read_image(path: Path) -> Images | None:
    """(H, W, 1) or (H, W, 3) rgb; None for a file that is no whole image, or would take too much memory.

    Turned as its EXIF orientation says, on a white background where it is transparent, and grey where its palette has
    greys alone.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings(), contextlib.ExitStack() as stack:
            warnings.simplefilter("ignore")  # of Pillow, about what is damaged; sizes are checked here
            image = stack.enter_context(Image.open(path))
            check_memory(path, 8 * image.width * image.height, "its pixels take")
            image.load()
            if image.mode in ("I", "F"):
                return None  # no range that 0 to 255 could stand for
            turned = ImageOps.exif_transpose(image)
            if turned.mode.startswith("I;16"):
                return (np.asarray(turned) // 257).astype(np.uint8)[..., None]
            colours = turned.getpalette("RGB") if turned.mode in ("P", "PA") else None
            grey = turned.mode in ("1", "L", "LA", "La")
            if colours is not None:
                used = np.unique(np.asarray(turned if turned.mode == "P" else turned.getchannel(0)))
                table = np.array(colours).reshape(-1, 3)
                table = table[used[used < len(table)]]
                grey = bool((table == table[:, :1]).all())
            if turned.has_transparency_data:
                over = turned.convert("RGBA")
                white = Image.new("RGBA", over.size, (BACKGROUND,) * 4)
                turned = Image.alpha_composite(white, over)
            pixels = np.asarray(turned.convert("L" if grey and colours is None else "RGB"))
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error, Image.DecompressionBombError):
        return None
    except (TypeError, KeyError, IndexError, OverflowError, ZeroDivisionError):  # Pillow, of a damaged header or EXIF
        return None
    if grey and pixels.ndim == 3:
        pixels = pixels[..., 0]  # all three are alike
    return pixels[..., None] if grey else pixels


def _resize(images: Images, size: int | None) -> Images:
    """The middle square of images (N, H, W, C), brought to size x size; all of each where size is None."""
    if size is None or images.shape[1:3] == (size, size):
        return images
    height, width = images.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    how = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    square = images[:, top : top + side, left : left + side]
    resized = [cv2.resize(image, (size, size), interpolation=how).reshape(size, size, -1) for image in square]
    return np.stack(resized).astype(np.uint8)


def _evenly(count: int, limit: int) -> NDArray[np.int64]:
    return np.linspace(0, count - 1, limit).round().astype(np.int64)


def _every(images: Images, limit: int | None) -> Images:
    return images if limit is None or len(images) <= limit else images[_evenly(len(images), limit)]


def _shares(count: int, seed: int) -> tuple[NDArray[np.int64], ...]:
    """Indices of 70, 15 and 15 % of `count` things, at least one of each."""
    order = np.random.default_rng(seed).permutation(count)
    held = max(1, round(0.15 * count))
    return order[2 * held :], order[:held], order[held : 2 * held]


def _split(name: str, images: Images, seed: int, flip: bool, corrupt: tuple[str, ...] = ()) -> ImageData:
    if len(images) < 3:
        raise ValueError(f"{name}: {len(images)} images, at least 3 expected: one for each part")
    train, validation, test = (images[chosen] for chosen in _shares(len(images), seed))
    return ImageData(name, train, validation, test, flip, _hash(images), corrupt)


def _with_test(name: str, parts: tuple[Images, Images], size: int | None, limit: int | None, seed: int) -> ImageData:
    whole, test = (_resize(_every(part, limit), size) for part in parts)
    order = np.random.default_rng(seed).permutation(len(whole))
    held = max(1, round(0.2 * len(whole)))
    return ImageData(name, whole[order[held:]], whole[order[:held]], test, True, _hash(whole, test))


def _hash(*parts: Images) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()
