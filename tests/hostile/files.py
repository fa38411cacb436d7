"""Hostile and damaged files of data, pictures and settings: each is refused before it takes memory."""

from __future__ import annotations

import gzip
import json
import resource
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from diffusion_ros import robot_file
from diffusion_ros.atomic_file import read_lines
from diffusion_ros.systems import parameter_files
from tests.hostile.case import Hostile
from training.data import images, robomimic
from training.data.demonstrations import load_demonstrations
from training.data.maze_streams import read_stream
from training.data.parts import parts
from training.parallel import Workers

Use = Callable[[Path], object]
Row = tuple[str, str, Use, tuple[type[Exception], ...], str]
MEMORY = 3 << 30
"""Bytes that a refusal may take beyond what is in use already."""
HUGE = 10**12
"""Elements of an array that no machine holds; in a file it takes no room."""


def demonstrations(change: Callable[[h5py.File], object], trainer: bool = True, converter: bool = True) -> Use:
    """A file of demonstrations, with a change, that a trainer and the converter refuse, or one of them."""

    def use(folder: Path) -> None:
        path = folder / "in" / "demos.hdf5"
        path.parent.mkdir()
        with h5py.File(path, "w") as file:
            data = file.create_group("data")
            data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {}})
            for i in range(3):
                demo = data.create_group(f"demo_{i}")
                demo["actions"] = np.zeros((8, 7))
                demo["obs/robot0_eef_pos"] = np.zeros((8, 3))
                demo["obs/robot0_eef_quat"] = np.tile([0.0, 0, 0, 1], (8, 1))
                demo["obs/robot0_gripper_qpos"] = np.zeros((8, 2))
                demo["obs/object"] = np.tile([0.0, 0, 0, 0, 0, 0, 1], (8, 1))
                demo["obs/agentview_image"] = np.zeros((8, 84, 84, 3), np.uint8)
            change(file)
        said: list[str] = []
        readers: list[Callable[[Path], object]] = [trained] * trainer + [converted] * converter
        for read in readers:
            try:
                read(path)
            except ValueError as error:
                said.append(str(error))
        if len(said) == trainer + converter:
            raise ValueError(said[0])
        raise AssertionError(f"read as if it were one; said: {said}")

    return use


def trained(path: Path) -> None:
    """What a trainer reads."""
    load_demonstrations(path, ("agentview",))


def converted(path: Path) -> None:
    """All that a converter reads."""
    for episode in robomimic.read(path)[1]:
        for pictures in episode.pictures.values():
            list(pictures())


def replaced(name: str, value: Any) -> Callable[[h5py.File], object]:
    """Of the first demonstration."""

    def change(file: h5py.File) -> None:
        del file[f"data/demo_0/{name}"]
        file[f"data/demo_0/{name}"] = value

    return change


def empty(name: str, shape: tuple[int, ...], dtype: Any, **more: Any) -> Callable[[h5py.File], object]:
    """An array whose header says much and that takes no room."""

    def change(file: h5py.File) -> None:
        place = name if name.startswith("mask/") else f"data/demo_0/{name}"
        if place in file:
            del file[place]
        file.create_dataset(place, shape, dtype, chunks=more.pop("chunks", True), **more)

    return change


def outside(file: h5py.File) -> None:
    del file["data/demo_0/actions"]
    file["data/demo_0/actions"] = h5py.ExternalLink("/etc/passwd", "/actions")


def above(file: h5py.File) -> None:
    (Path(file.filename).parent.parent / "other.hdf5").touch()
    del file["data/demo_0"]
    file["data/demo_0"] = h5py.ExternalLink("../other.hdf5", "/demo")


def storage(file: h5py.File) -> None:
    del file["data/demo_0/actions"]
    file["data/demo_0"].create_dataset("actions", (8, 7), "f8", external=[("/etc/passwd", 0, 8 * 7 * 8)])


def view(file: h5py.File) -> None:
    del file["data/demo_0/actions"]
    layout = h5py.VirtualLayout((8, 7), "f8")
    layout[:] = h5py.VirtualSource("/etc/hostname", "actions", (8, 7))
    file["data/demo_0"].create_virtual_dataset("actions", layout)


def many_names(file: h5py.File) -> None:
    file.create_dataset("mask/train", (HUGE,), "S16", chunks=(1 << 16,))


def nested(file: h5py.File) -> None:
    file["data"].attrs["env_args"] = "[" * 20_000


def idx(header: tuple[int, int, int], pixels: bytes, zipped: bool) -> Use:
    def use(folder: Path) -> None:
        content = b"\0\0\x08\x03" + struct.pack(">3I", *header) + pixels
        path = folder / "train-images-idx3-ubyte.gz"
        path.write_bytes(gzip.compress(content) if zipped else content)
        images.read_idx(path)

    return use


def bomb(folder: Path) -> None:
    """4 GiB of zeros in 4 MB, behind a header that asks for them."""
    path = folder / "train-images-idx3-ubyte.gz"
    head = b"\0\0\x08\x03" + struct.pack(">3I", 65535, 65535, 1000)
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = bytes(1 << 24)
    with path.open("wb") as file:
        file.write(packer.compress(head))
        for _ in range(16):
            file.write(packer.compress(block))
        file.write(packer.flush())
    images.read_idx(path)


def picture(content: Callable[[], bytes], name: str = "0.png") -> Use:
    def use(folder: Path) -> None:
        (folder / name).write_bytes(content())
        images.read_folder(folder)

    return use


def png(width: int, height: int, colour: int = 2, depth: int = 8, rest: bytes = b"") -> bytes:
    """A picture whose header says that size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + rest
        + chunk(b"IDAT", zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )


def cifar(content: bytes) -> Use:
    def use(folder: Path) -> None:
        path = folder / "data_batch_1"
        path.write_bytes(content)
        images.read_cifar_python(path)

    return use


def settings(text: str) -> Use:
    """Of a collection that was begun."""

    def use(folder: Path) -> None:
        begun = folder / "x.hdf5.parts"
        begun.mkdir()
        (begun / "settings.json").write_text(text)
        with parts(folder / "x.hdf5", [0], {}, dict, Workers(), "x", "part"):
            raise AssertionError("gone on with")

    return use


def robot(text: str) -> Use:
    def use(folder: Path) -> None:
        (folder / "robot.yaml").write_text(text)
        robot_file.read(folder / "robot.yaml")

    return use


def node_parameters(text: str) -> Use:
    def use(folder: Path) -> None:
        (folder / "p.yaml").write_text(text)
        parameter_files.read(folder / "p.yaml")

    return use


def lines(text: str) -> Use:
    def use(folder: Path) -> None:
        (folder / "s.jsonl").write_text(text)
        read_lines(folder / "s.jsonl")

    return use


def maze(change: Callable[[h5py.File], object]) -> Use:
    def use(folder: Path) -> None:
        path = folder / "maze.hdf5"
        with h5py.File(path, "w") as file:
            file.attrs["maze"] = "umaze"
            for name, width in (("observations", 4), ("actions", 2), ("infos/goal", 2)):
                file[name] = np.zeros((10, width), np.float32)
            for name in ("timeouts", "terminals"):
                file[name] = np.zeros(10, bool)
            change(file)
        read_stream(path)

    return use


def maze_array(file: h5py.File) -> None:
    for name, width in (("observations", 4), ("actions", 2), ("infos/goal", 2)):
        del file[name]
        file.create_dataset(name, (HUGE, width), "f4", chunks=(1024, width))
    for name in ("timeouts", "terminals"):
        del file[name]
        file.create_dataset(name, (HUGE,), "?", chunks=(1024,))


BILLION_LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(9)
)
VALUE = (ValueError,)
ROWS: tuple[Row, ...] = (
    ("HDF5", "a link to /etc/passwd", demonstrations(outside), VALUE, "outside of the file's folder"),
    ("HDF5", "a link to the folder above", demonstrations(above), VALUE, "outside of the file's folder"),
    ("HDF5", "numbers in /etc/passwd", demonstrations(storage), VALUE, "in the file itself expected"),
    ("HDF5", "a view of /etc/hostname", demonstrations(view), VALUE, "outside of the file's folder"),
    ("HDF5", "10^12 actions", demonstrations(empty("actions", (HUGE, 7), "f8")), VALUE, ""),
    ("HDF5", "10^12 pictures", demonstrations(empty("obs/agentview_image", (HUGE, 84, 84, 3), "u1")), VALUE, ""),
    ("HDF5", "one huge chunk", demonstrations(empty("rewards", (1 << 19, 1 << 17), "f8", chunks=(1 << 19, 1 << 17))),
        VALUE, "a chunk of"),
    ("HDF5", "10^12 names in a list", demonstrations(many_names, trainer=False), VALUE, "names expected"),
    ("HDF5", "a quaternion of zeros", demonstrations(replaced("obs/robot0_eef_quat", np.zeros((8, 4)))), VALUE,
        "a quaternion of length 0"),
    ("HDF5", "an object's quaternion of zeros",
        demonstrations(replaced("obs/object", np.zeros((8, 7))), converter=False), VALUE, "a quaternion of length 0"),
    ("HDF5", "NaN actions", demonstrations(replaced("actions", np.full((8, 7), np.nan))), VALUE, "NaN"),
    ("HDF5", "text for actions", demonstrations(replaced("actions", [b"x"] * 8)), VALUE, ""),
    ("HDF5", "env_args nested 20,000 deep", demonstrations(nested), VALUE, ""),
    ("HDF5", "a maze of 10^12 steps", maze(maze_array), VALUE, "GiB"),
    ("IDX", "2^48 pixels, none there", idx((1 << 16, 1 << 16, 1 << 16), b"", False), VALUE, "pixels"),
    ("IDX", "2^48 pixels, none there, gzipped", idx((1 << 16, 1 << 16, 1 << 16), b"", True), VALUE, "pixels"),
    ("IDX", "the largest numbers", idx((2**32 - 1, 2**32 - 1, 2**32 - 1), b"", True), VALUE, "pixels"),
    ("IDX", "more than the header says", idx((1, 28, 28), bytes(1 << 20), True), VALUE, "at least"),
    ("IDX", "no images", idx((0, 28, 28), b"", True), VALUE, "0 images"),
    ("IDX", "a bomb of gzip", bomb, VALUE, ""),
    ("picture", "60,000 x 60,000 pixels", picture(lambda: png(60_000, 60_000)), VALUE, "can be read"),
    ("picture", "2^31 x 2^31 pixels", picture(lambda: png(2**31 - 1, 2**31 - 1)), VALUE, "can be read"),
    ("picture", "12,000 x 12,000 pixels, none there", picture(lambda: png(12_000, 12_000)), VALUE, "can be read"),
    ("picture", "no pixels", picture(lambda: png(0, 0)), VALUE, "can be read"),
    ("picture", "a palette without colours", picture(lambda: png(64, 64, colour=3)), VALUE, "can be read"),
    ("picture", "a PGM of a million columns", picture(lambda: b"P5 1000000 1000000 255\n", "0.pgm"), VALUE,
        "can be read"),
    ("picture", "a TIFF of nothing", picture(lambda: b"II*\0\x08\0\0\0\xff\xff" + bytes(64), "0.tif"), VALUE,
        "can be read"),
    ("pickle", "a memo of 2^32", cifar(b"\x80\x02}r\xff\xff\xff\xff."), VALUE, "LONG_BINPUT"),
    ("pickle", "2^40 bytes, none there", cifar(b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"."), VALUE, ""),
    ("pickle", "a program", cifar(b"cos\nsystem\n(S'touch canary'\ntR."), VALUE, "os.system"),
    ("settings", "of another collection", settings("[1, 2]"), VALUE, "begun with other settings"),
    ("settings", "a robot that multiplies itself", robot(BILLION_LAUGHS), VALUE, ""),
    ("settings", "a robot that makes objects", robot("!!python/object/apply:os.system ['touch canary']"), VALUE, ""),
    ("settings", "a robot nested 20,000 deep", robot("[" * 20_000), VALUE, ""),
    ("settings", "parameters that make objects",
        node_parameters("!!python/object/apply:os.system ['touch canary']"), VALUE, ""),
    ("settings", "parameters nested 20,000 deep", node_parameters("[" * 20_000), VALUE, ""),
    ("settings", "results nested 100,000 deep", lines("[" * 100_000 + "\n"), VALUE, "line 1 is damaged"),
    ("settings", "results that are none", lines("1\n"), VALUE, "line 1 is damaged"),
)  # fmt: skip


def within_memory(use: Use) -> Use:
    """Its process may not take more than MEMORY beyond what it has."""

    def limited(folder: Path) -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
        use(folder)

    return limited


def cases() -> list[Hostile]:
    return [Hostile(kind, name, within_memory(use), refuses, expected) for kind, name, use, refuses, expected in ROWS]
