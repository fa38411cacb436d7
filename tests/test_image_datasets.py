"""Image data: small files in the true formats, and what is said of those that are damaged or missing."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from training.data.images import load_images, read_digits, read_folder


def pictures(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def idx(images: np.ndarray) -> bytes:
    return struct.pack(">4B3I", 0, 0, 8, 3, *images.shape) + images.tobytes()


def rows(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


def test_digits_need_no_file() -> None:
    data = load_images("digits")
    assert data.shape == (8, 8, 1) and not data.flip
    assert (len(data.train), len(data.validation), len(data.test)) == (1257, 270, 270)
    assert data.train.min() == 0 and data.train.max() == 255
    # The first digit of the set is a zero: a dark middle in a bright ring.
    zero = read_digits()[0, :, :, 0]
    assert zero[3:5, 3:5].max() < 40 and zero[0, 3] > 200
    again = load_images("digits")
    assert again.data_hash == data.data_hash and np.array_equal(again.test, data.test)
    assert not np.array_equal(load_images("digits", seed=1).test, data.test)
    small = load_images("digits", limit=100, size=16)
    assert small.shape == (16, 16, 1) and len(small.train) == 70


@pytest.mark.parametrize("zipped", [False, True])
def test_fashion_mnist(tmp_path: Path, zipped: bool) -> None:
    train, test = pictures(20, 28, 28), pictures(7, 28, 28, seed=1)
    for name, images in (("train-images-idx3-ubyte", train), ("t10k-images-idx3-ubyte", test)):
        path = tmp_path / (f"{name}.gz" if zipped else name)
        path.write_bytes(gzip.compress(idx(images)) if zipped else idx(images))
    data = load_images(f"fashion-mnist:{tmp_path}")
    assert data.shape == (28, 28, 1) and data.flip
    assert (len(data.train), len(data.validation)) == (16, 4)
    assert rows(data.train) | rows(data.validation) == rows(train)
    np.testing.assert_array_equal(data.test[..., 0], test)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (idx(pictures(3, 28, 28))[:-1], "2,351 bytes of pixels, its header says 3 images of 28 x 28: 2,352 expected"),
        (b"", "begins with nothing, expected an IDX file of images"),
        (struct.pack(">4B1I", 0, 0, 8, 1, 8) + bytes(8), "begins with 00 00 08 01"),
        (gzip.compress(idx(pictures(3, 28, 28)))[:-200], "damaged or cut short"),
        (idx(pictures(3, 14, 14)), "images of 14 x 14, 28 x 28 expected"),
    ],
    ids=["cut", "empty", "labels", "gzip cut", "size"],
)
def test_damaged_idx_files(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(ValueError, match=expected) as error:
        load_images(f"fashion-mnist:{tmp_path}")
    assert "train-images-idx3-ubyte" in str(error.value) and "\n" not in str(error.value)


def test_missing_idx_file_says_where_to_put_it(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(pictures(3, 28, 28)))
    with pytest.raises(ValueError, match=r"has no t10k-images-idx3-ubyte\.gz and no .*; put Fashion-MNIST's IDX files"):
        load_images(f"fashion-mnist:{tmp_path}")


def cifar(folder: Path, form: str) -> np.ndarray:
    """Six batches of 5 images; returns these, (30, 32, 32, 3). Only the true files have 10,000."""
    images = pictures(30, 32, 32, 3)
    folder.mkdir()
    for i, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        planes = images[5 * i : 5 * i + 5].transpose(0, 3, 1, 2).reshape(5, 3072)
        if form == "bin":
            labels = np.arange(5, dtype=np.uint8)[:, None]
            (folder / f"{name}.bin").write_bytes(np.concatenate([labels, planes], axis=1).tobytes())
        else:
            # As Python 2 and the numpy of its time wrote it.
            batch: dict[bytes, Any] = {b"data": np.ascontiguousarray(planes), b"labels": [0] * 5, b"batch_label": b"x"}
            content = pickle.dumps(batch, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            (folder / name).write_bytes(content)
    return images


@pytest.mark.parametrize("form", ["py", "bin"])
def test_cifar10(tmp_path: Path, form: str) -> None:
    images = cifar(tmp_path / f"cifar-10-batches-{form}", form)
    for place in (tmp_path, tmp_path / f"cifar-10-batches-{form}"):
        data = load_images(f"cifar10:{place}")
        assert data.shape == (32, 32, 3) and data.flip
        assert (len(data.train), len(data.validation), len(data.test)) == (20, 5, 5)
        assert rows(data.train) | rows(data.validation) == rows(images[:25])
        np.testing.assert_array_equal(data.test, images[25:])


def test_damaged_cifar10(tmp_path: Path) -> None:
    binary, python = tmp_path / "bin", tmp_path / "py"
    cifar(binary, "bin")
    cifar(python, "py")
    cut = binary / "data_batch_3.bin"
    cut.write_bytes(cut.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"data_batch_3\.bin: 15,358 bytes are no whole records of 3073 bytes"):
        load_images(f"cifar10:{binary}")
    (python / "data_batch_2").write_bytes((python / "data_batch_2").read_bytes()[:-900])
    with pytest.raises(ValueError, match="data_batch_2: damaged, or not a batch"):
        load_images(f"cifar10:{python}")
    (python / "data_batch_2").unlink()
    with pytest.raises(ValueError, match="has no data_batch_2; put all six batches of CIFAR-10 there"):
        load_images(f"cifar10:{python}")
    with pytest.raises(ValueError, match="put CIFAR-10's batches"):
        load_images(f"cifar10:{tmp_path}")


def test_a_batch_cannot_run_a_program(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "exploded",)

    cifar(tmp_path / "py", "py")
    (tmp_path / "py" / "data_batch_1").write_bytes(pickle.dumps({b"data": Bomb()}))
    with pytest.raises(ValueError, match="damaged, or not a batch"):
        load_images(f"cifar10:{tmp_path / 'py'}")
    assert not (tmp_path / "exploded").exists()


def folder_of(folder: Path, count: int, mode: str = "RGB", size: tuple[int, int] = (12, 10)) -> Path:
    folder.mkdir(exist_ok=True)
    for i in range(count):
        shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
        Image.fromarray(pictures(*shape, seed=i)).save(folder / f"{i:04d}.png")
    return folder


def test_folder_of_images_skips_and_counts_what_is_corrupt(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "views", 30)
    (folder / "below").mkdir()
    Image.fromarray(pictures(10, 12, 3, seed=99)).save(folder / "below" / "x.JPG")
    (folder / "notes.txt").write_text("no image")
    whole = (folder / "0007.png").read_bytes()
    (folder / "0007.png").write_bytes(whole[: len(whole) // 2])
    (folder / "0011.png").write_bytes(b"")
    (folder / "0030.pgm").write_bytes(b"P5 60000 60000 255\n")  # a header that Pillow takes for an attack
    data = load_images(f"folder:{folder}")
    assert data.name == "views" and data.shape == (10, 12, 3) and data.flip
    assert len(data.train) + len(data.validation) + len(data.test) == 29
    assert [Path(name).name for name in data.corrupt] == ["0007.png", "0011.png", "0030.pgm"]
    assert pictures(10, 12, 3, seed=3).tobytes() in rows(data.train) | rows(data.validation) | rows(data.test)


def test_folder_with_other_sizes_and_kinds(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images", 5)
    Image.fromarray(pictures(8, 8, 3)).save(folder / "small.png")
    with pytest.raises(ValueError, match=r"small\.png: 8 x 8 pixels, 0000\.png has 12 x 10: .* --image-size"):
        load_images(f"folder:{folder}")
    assert load_images(f"folder:{folder}", size=6).shape == (6, 6, 3)
    Image.fromarray(pictures(10, 12)).save(folder / "plain.png")
    for size in (None, 6):
        with pytest.raises(ValueError, match=r"plain\.png: is grey, 0000\.png is in colour"):
            load_images(f"folder:{folder}", size=size)
    assert load_images(f"folder:{folder_of(tmp_path / 'grey', 4, 'L')}").shape == (10, 12, 1)


def test_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        load_images(f"folder:{tmp_path / 'none'}")
    with pytest.raises(ValueError, match=r"has no images \(\.png"):
        load_images(f"folder:{tmp_path}")
    (tmp_path / "a.png").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"none of its 1 images can be read, as a\.png"):
        load_images(f"folder:{tmp_path}")
    with pytest.raises(ValueError, match="2 images, at least 3 expected"):
        load_images(f"folder:{folder_of(tmp_path / 'two', 2)}")


def test_deep_grey_keeps_its_range(tmp_path: Path) -> None:
    for i in range(3):
        Image.fromarray(np.array([[0, 257 * 100], [257 * 255, 300]], np.uint16)).save(tmp_path / f"{i}.png")
    np.testing.assert_array_equal(load_images(f"folder:{tmp_path}").train[0, :, :, 0], [[0, 100], [255, 1]])


def test_resizing_averages_the_middle_square(tmp_path: Path) -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    image[:, 1:3, 0] = 200  # the left half of the middle square
    for i in range(3):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    data = load_images(f"folder:{tmp_path}", size=2)
    np.testing.assert_array_equal(data.train[0, :, :, 0], [[200, 0], [200, 0]])


def demonstrations(path: Path, episodes: int = 10, **changes: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        for i in range(episodes):
            frames = np.full((5, 84, 84, 3), i, np.uint8)
            file[f"data/demo_{i}/obs/agentview_image"] = changes.get(f"demo_{i}", frames)
    return path


def test_camera_frames_are_split_by_episode(tmp_path: Path) -> None:
    path = demonstrations(tmp_path / "demos.hdf5")
    data = load_images(f"demos:{path}:agentview", size=42)
    assert data.name == "agentview" and data.shape == (42, 42, 3) and not data.flip
    parts = [set(part[:, 0, 0, 0].tolist()) for part in (data.train, data.validation, data.test)]
    assert [len(part) for part in parts] == [6, 2, 2] and len(set.union(*parts)) == 10
    assert len(load_images(f"demos:{path}:agentview", limit=25).train) in range(12, 19)
    few = load_images(f"demos:{path}:agentview", limit=10)
    assert len(few.train) + len(few.validation) + len(few.test) == 10


def test_damaged_demonstrations(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        load_images(f"demos:{tmp_path / 'none.hdf5'}:agentview")
    path = demonstrations(tmp_path / "demos.hdf5")
    with pytest.raises(ValueError, match="demo_0 has no obs/wrist_image; it has agentview_image"):
        load_images(f"demos:{path}:wrist")
    odd = demonstrations(tmp_path / "odd.hdf5", demo_4=np.zeros((5, 42, 42, 3), np.uint8))
    with pytest.raises(
        ValueError, match=r"demo_4/obs/agentview_image is uint8 \(5, 42, 42, 3\), uint8 \(N, 84, 84, 3\)"
    ):
        load_images(f"demos:{odd}:agentview")
    with pytest.raises(ValueError, match="2 demonstrations, at least 3"):
        load_images(f"demos:{demonstrations(tmp_path / 'two.hdf5', 2)}:agentview")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="damaged or cut short"):
        load_images(f"demos:{path}:agentview")


@pytest.mark.parametrize("source", ["mnist", "digits:here", "folder", "cifar10:", "demos:file.hdf5", ""])
def test_other_sources(source: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        load_images(source)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_exif_says(tmp_path: Path, orientation: int) -> None:
    """By all eight: what is stored is turned back, by another way than the reader's, to the same picture."""
    upright = pictures(10, 12, 3)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    images, corrupt = read_folder(tmp_path)
    assert not corrupt
    np.testing.assert_array_equal(images[0], upright)


def test_what_is_transparent_shows_white(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[..., 0] = 200
    pixels[0, :, 3], pixels[1, :, 3], pixels[2:, :, 3] = 0, 128, 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    colour = read_folder(tmp_path)[0][0]
    assert colour[0, 0].tolist() == [255, 255, 255] and colour[2, 0].tolist() == [200, 0, 0]
    np.testing.assert_allclose(colour[1, 0], [227, 127, 127], atol=1)
    (tmp_path / "a.png").unlink()
    Image.fromarray(pixels[..., [0, 3]]).save(tmp_path / "b.png")  # grey
    grey = read_folder(tmp_path)[0][0]
    assert grey.shape == (4, 4, 1) and grey[[0, 2], 0, 0].tolist() == [255, 200]
    (tmp_path / "b.png").unlink()
    palette = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "L")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "c.png", transparency=1)
    assert read_folder(tmp_path)[0][0].tolist() == [[[255, 0, 0], [255] * 3], [[0, 0, 255], [255] * 3]]


def test_a_palette_of_greys_is_grey_and_one_of_colours_is_not(tmp_path: Path) -> None:
    indices = np.array([[0, 1], [2, 1]], np.uint8)
    for name, colours, expected in (
        ("a.png", [9, 9, 9, 80, 80, 80, 200, 200, 200], (2, 2, 1)),
        ("b.png", [9, 9, 9, 80, 80, 80, 200, 200, 201], (2, 2, 3)),
        # A colour that no pixel has is none of the picture's.
        ("c.png", [9, 9, 9, 80, 80, 80, 200, 200, 200, 255, 0, 0], (2, 2, 1)),
    ):
        image = Image.fromarray(indices, "L")
        image.putpalette(colours)
        image.save(tmp_path / name)
        found = read_folder(tmp_path)[0][0]
        assert found.shape == expected
        assert found[..., 0].tolist() == [[9, 80], [200, 80]]
        (tmp_path / name).unlink()
