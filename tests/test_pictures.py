"""Pictures are cropped, scaled and unpacked as written down: against slow filters of our own."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from fake_policy import LOW_DIM, OBJECT, save, spec
from numpy.typing import NDArray

from diffusion_ros import checkpoint
from diffusion_ros.control.pictures import MAX_PIXELS, PictureError, cropped, decode, fit, kept
from diffusion_ros.models.policy import Policy
from diffusion_ros.simulators.arm import Simulation
from training import evaluate
from training.evaluation.rollout import roll_out

Picture = NDArray[np.uint8]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def noise(rng: np.random.Generator, height: int, width: int) -> Picture:
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def area_weights(n: int, source: int) -> NDArray[np.float64]:
    """(n, source): the share of each source pixel in each of n pixels."""
    edges = np.arange(n + 1) * source / n
    low, high = np.maximum(edges[:-1, None], np.arange(source)), np.minimum(edges[1:, None], np.arange(source) + 1)
    return np.maximum(high - low, 0) * n / source


def mean_of_areas(image: Picture, height: int, width: int) -> NDArray[np.float64]:
    rows, columns = area_weights(height, image.shape[0]), area_weights(width, image.shape[1])
    return np.einsum("ij,jkc,lk->ilc", rows, image.astype(float), columns, optimize=True)


@pytest.mark.parametrize("factor", [2, 3, 4, 5, 7])
def test_whole_factors_are_means_of_blocks_to_half_a_level(rng: np.random.Generator, factor: int) -> None:
    image = noise(rng, 12 * factor, 16 * factor)
    blocks = image.reshape(12, factor, 16, factor, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(fit(image, 12, 16) - blocks).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("size", [(480, 640), (720, 1280), (100, 85), (97, 300), (1080, 607)])
def test_other_factors_are_means_of_areas_of_the_middle(rng: np.random.Generator, size: tuple[int, int]) -> None:
    image = noise(rng, *size)
    side = min(size)
    y, x = ((n - side) // 2 for n in size)
    wanted = mean_of_areas(image[y : y + side, x : x + side], 84, 84)
    assert np.abs(fit(image, 84, 84) - wanted).max() < 0.501
    # No other place and no other filter is within that.
    assert np.abs(mean_of_areas(image[:side, :side], 84, 84) - wanted).max() > 10
    linear = cv2.resize(image[y : y + side, x : x + side], (84, 84), interpolation=cv2.INTER_LINEAR)
    assert np.abs(linear - wanted).max() > 2


def test_what_is_kept_is_in_the_middle_and_of_the_same_shape() -> None:
    assert kept(640, 480, 84, 84) == (80, 0, 480, 480)
    assert kept(480, 640, 84, 84) == (0, 80, 480, 480)
    assert kept(640, 480, 320, 240) == (0, 0, 640, 480)
    assert kept(1280, 720, 640, 480) == (160, 0, 960, 720)
    assert kept(641, 480, 84, 84) == (80, 0, 480, 480)
    assert kept(101, 35, 2, 1) == (15, 0, 70, 35)
    assert kept(100, 35, 3, 2) == (23, 0, 53, 35)  # 52.5, halves up
    for sw, sh, w, h in np.random.default_rng(0).integers(1, 400, (2000, 4)).tolist():
        x, y, a, b = kept(sw, sh, w, h)
        assert x >= 0 and y >= 0 and 1 <= a <= sw and 1 <= b <= sh and (a == sw or b == sh)
        assert abs(2 * x + a - sw) <= 1 and abs(2 * y + b - sh) <= 1
        assert a == 1 or b == 1 or abs(a * h - b * w) <= max(w, h) / 2


def test_a_flat_colour_stays_and_channels_are_not_mixed() -> None:
    image = np.empty((480, 640, 3), np.uint8)
    image[:] = (10, 120, 255)
    assert np.array_equal(fit(image, 84, 84), np.broadcast_to((10, 120, 255), (84, 84, 3)))


def test_a_picture_of_the_right_size_is_the_same_array(rng: np.random.Generator) -> None:
    image = noise(rng, 84, 84)
    assert fit(image, 84, 84) is image
    larger = noise(rng, 100, 120)
    part = fit(larger, 84, 84, crop=(7, 9, 84, 84))
    assert np.shares_memory(part, larger) and np.array_equal(part, larger[9:93, 7:91])
    assert np.shares_memory(fit(larger, 100, 84), larger), "only cut"


def test_a_crop_comes_first(rng: np.random.Generator) -> None:
    image = noise(rng, 480, 640)
    wanted = fit(np.ascontiguousarray(image[20:440, 100:520]), 84, 84)
    assert np.array_equal(fit(image, 84, 84, crop=(100, 20, 420, 420)), wanted)
    assert np.array_equal(cropped(image, [639, 479, 1, 1]), image[-1:, -1:])


@pytest.mark.parametrize(
    "crop", [(-1, 0, 9, 9), (0, -1, 9, 9), (0, 0, 0, 9), (0, 0, 9, 0), (632, 0, 9, 9), (0, 472, 9, 9)]
)
def test_a_crop_beyond_the_picture_is_refused(rng: np.random.Generator, crop: tuple[int, ...]) -> None:
    with pytest.raises(PictureError, match=r"^crop \[.*\] \(x, y, width, height\), inside of a picture of 640 x 480"):
        fit(noise(rng, 480, 640), 4, 4, crop)
    with pytest.raises(PictureError, match="four integers expected"):
        fit(noise(rng, 480, 640), 4, 4, [0, 0, 5])
    with pytest.raises(PictureError, match="four integers expected"):
        fit(noise(rng, 480, 640), 4, 4, [0, 0.5, 5, 5])  # type: ignore[list-item]


def test_what_cannot_be_fitted_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(PictureError, match=r"^picture of 64 x 48, at least 84 x 84 expected: none is enlarged$"):
        fit(noise(rng, 48, 64), 84, 84)
    with pytest.raises(PictureError, match="picture of 83 x 200 after the crop, at least 84 x 84"):
        fit(noise(rng, 480, 640), 84, 84, (0, 0, 83, 200))
    with pytest.raises(PictureError, match=r"picture float64 \(9, 9, 3\), uint8 \(H, W, 3\) expected"):
        fit(np.zeros((9, 9, 3)), 3, 3)  # type: ignore[arg-type]
    with pytest.raises(PictureError, match=r"picture uint8 \(9, 9\)"):
        fit(np.zeros((9, 9), np.uint8), 3, 3)


def test_any_layout_in_memory_gives_the_same(rng: np.random.Generator) -> None:
    image = noise(rng, 480, 640)
    wanted = fit(image, 84, 84)
    wide = np.zeros((480, 700, 4), np.uint8)
    wide[:, :640, :3] = image
    turned = np.ascontiguousarray(image.transpose(1, 0, 2)).transpose(1, 0, 2)
    backwards = np.ascontiguousarray(image[::-1, :, ::-1])[::-1, :, ::-1]
    frozen = np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape)
    for view in (wide[:, :640, :3], turned, backwards, frozen):
        before = view.tobytes()
        assert np.array_equal(fit(view, 84, 84), wanted) and view.tobytes() == before


# -- evaluation -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_policy_is_evaluated_on_larger_pictures(tmp_path: Path) -> None:
    """A made-up policy whose actions depend on every pixel."""
    policy = Policy(checkpoint.load(save(tmp_path / "lift.pt", spec(task="lift", environment="Lift"))))
    simulation = Simulation("lift")

    def actions(picture_size: tuple[int, int] | None) -> str:
        (episode,) = roll_out(policy, simulation, 1, 100_000, 12, picture_size=picture_size)
        return episode.actions_sha256

    plain, wide = actions(None), actions((160, 120))
    assert actions((84, 84)) == plain != wide

    def observe(images: bool = True) -> dict[str, NDArray[np.generic]]:
        frame = Simulation.observe(simulation, images=False)
        return frame | {
            f"{camera}_image": fit(simulation.render(camera, 120, 160), 84, 84) for camera in policy.spec.cameras
        }

    simulation.observe = observe  # type: ignore[method-assign]
    assert actions(None) == wide
    simulation.close()


@pytest.mark.parametrize(
    ("inputs", "size", "expected"),
    [
        ("pixels", "640*480", "picture_size '640*480': width and height are expected, as in 640x480"),
        ("pixels", "0x480", "picture_size '0x480'"),
        ("pixels", "64x48", "picture of 64 x 48, at least 84 x 84 expected: none is enlarged"),
        ("state", "640x480", "picture_size 640x480: for policies from pixels, this policy has no cameras"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(
    inputs: str, size: str, expected: str, tmp_path: Path, run_command: Callable[..., tuple[object, str]]
) -> None:
    policy = spec() if inputs == "pixels" else spec((*LOW_DIM, *OBJECT))
    path = save(tmp_path / "policy.pt", policy)
    status, said = run_command(evaluate.main, "--checkpoint", path, "--picture-size", size)
    assert status == 2 and expected in said and said.count("\n") == 1


# -- encoded pictures -------------------------------------------------------------------------------------------------


def smooth(height: int = 48, width: int = 64) -> Picture:
    """What JPEG keeps well, with other values in each channel."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x / width, 255 * y / height, 128 + 100 * np.sin(x / 9)], axis=2).astype(np.uint8)


def encoded(suffix: str, image: NDArray[np.generic], *options: int) -> bytes:
    done, content = cv2.imencode(suffix, image, options)
    assert done
    return content.tobytes()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_of(width: int, height: int, rows: bytes, bits: int = 8, colour: int = 2) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_png_is_exact() -> None:
    image = smooth()
    assert np.array_equal(decode(encoded(".png", image[..., ::-1])), image)
    grey = image[..., 0]
    assert np.array_equal(decode(encoded(".png", grey)), np.repeat(grey[..., None], 3, axis=2))
    alpha = np.dstack([image[..., ::-1], np.full(image.shape[:2], 7, np.uint8)])
    assert np.array_equal(decode(encoded(".png", alpha)), image), "transparency is left out"
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    assert np.array_equal(decode(png_of(64, 48, rows)), image), "not only OpenCV's own"


def test_jpeg_is_near_and_its_colours_are_in_order() -> None:
    image = smooth()
    for options in ((cv2.IMWRITE_JPEG_QUALITY, 95), (cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)):
        difference = decode(encoded(".jpg", image[..., ::-1], *options)).astype(int) - image
        assert np.abs(difference).mean() < 2 and np.abs(difference).max() < 16
    grey = image[..., 0]
    difference = decode(encoded(".jpg", grey)).astype(int) - grey[..., None]
    assert np.abs(difference).mean() < 2


def test_a_jpeg_s_comments_are_stepped_over_and_a_turn_is_not_made() -> None:
    image = smooth()
    content = encoded(".jpg", image[..., ::-1])
    comment = b"\xff\xfe\x00\x06\xff\xd9\xff\xc0"  # looks like an end and a frame
    assert np.array_equal(decode(content[:2] + comment + content[2:]), decode(content))
    orientation = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    turned = content[:2] + b"\xff\xe1" + struct.pack(">H", len(orientation) + 2) + orientation + content[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (64, 48, 3)
    assert np.array_equal(decode(turned), decode(content))
    assert np.array_equal(decode(content + b"\0" * 100), decode(content)), "cameras pad"


def test_a_bomb_is_refused_by_its_header() -> None:
    """A megabyte of zeros unpacks to a gigabyte: nothing is unpacked, so it takes no time and no memory."""
    side = 20_000
    bomb = png_of(side, side, b"\0" * 1_000_000)
    with pytest.raises(PictureError, match=rf"^PNG of 20000 x 20000, 1 to {MAX_PIXELS} pixels expected$"):
        decode(bomb)
    content = bytearray(encoded(".jpg", smooth()))
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
    with pytest.raises(PictureError, match=r"^JPEG of 60000 x 60000, 1 to"):
        decode(bytes(content))
    content[at + 5 : at + 9] = struct.pack(">HH", 0, 64)  # told at the end of the picture (DNL)
    with pytest.raises(PictureError, match=r"^JPEG of 64 x 0, 1 to"):
        decode(bytes(content))


def test_what_is_neither_of_8_bits_nor_of_colours_is_refused() -> None:
    with pytest.raises(PictureError, match=r"^PNG of 16 bits, 8 expected$"):
        decode(encoded(".png", np.zeros((4, 4), np.uint16)))
    content = bytearray(encoded(".jpg", smooth()))
    at = content.index(b"\xff\xc0")
    for place, value, expected in ((at + 4, 12, "JPEG of 12 bits, 8"), (at + 9, 4, "JPEG of 4 components, 1 or 3")):
        wrong = bytearray(content)
        wrong[place] = value
        with pytest.raises(PictureError, match=expected):
            decode(bytes(wrong))
    for other in (b"", b"GIF89a" + bytes(40), encoded(".bmp", smooth()), encoded(".webp", smooth())):
        with pytest.raises(PictureError, match="JPEG or PNG expected"):
            decode(other)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_cut_anywhere_it_is_refused(suffix: str) -> None:
    content = encoded(suffix, smooth(24, 32)[..., ::-1])
    last = len(content) - (2 if suffix == ".jpg" else 12)  # the end's own mark
    for length in range(last + 1):
        with pytest.raises(PictureError) as error:
            decode(content[:length])
        assert "\n" not in str(error.value) and len(str(error.value)) < 200


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_with_toppled_bits_it_is_a_picture_or_refused(suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    image = smooth(24, 32)
    content = encoded(suffix, image[..., ::-1])
    rng, refused = np.random.default_rng(1), set()
    for _ in range(300):
        wrong = bytearray(content)
        for at in rng.integers(0, len(content), rng.integers(1, 6)):
            wrong[at] ^= 1 << int(rng.integers(8))
        try:
            picture = decode(bytes(wrong))
        except PictureError as error:
            refused.add("\n" in str(error))
        else:
            assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    assert refused == {False}
    capfd.readouterr()  # the libraries' own complaints
