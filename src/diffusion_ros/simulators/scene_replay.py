"""What a simulator keeps of an episode for a replay in 3D: shapes once, and where their bodies were at each step.

Shapes are a file of their own, named by their hash, which episodes with the same shapes share. An episode that is not
over leaves no file. No pickles: who reads the files runs nothing that is in them.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffusion_ros.atomic_file import atomic_write
from diffusion_ros.simulators.scene import SceneGeom

Array = NDArray[np.float64]
FOLDER = "replay"
"""In a run's folder."""
RATE = 20.0
"""Poses a second that are kept, about [Hz]."""
MOST_POSES = 2000
"""Of an episode: of a longer one every second, fourth, ... of them is kept."""
_MOST_BYTES = 200_000_000
"""Of a part of a file, unpacked."""


@dataclass(frozen=True)
class SceneReplay:
    """An episode."""

    kind: str
    """arm, maze or cart: where one looks from."""
    rate: float
    """Poses a second of the robot's time [Hz]."""
    shapes: tuple[SceneGeom, ...]
    bodies: tuple[str, ...]
    poses: NDArray[np.float32]
    """(steps, bodies, 7): position [m] and quaternion xyzw in the world."""


def replay_path(folder: Path, index: int, seed: int) -> Path:
    """Of an episode. folder: the run's."""
    return folder / FOLDER / f"episode_{index + 1:03d}_seed_{seed}.npz"


class ReplayWriter:
    """Keeps one episode after the other."""

    def __init__(self, folder: Path, kind: str, rate: float) -> None:
        """folder: the run's; kind: as a replay has it; rate: control steps a second [Hz]."""
        self._folder, self._kind = folder, kind
        self._usual, self._rate = max(1, round(rate / RATE)), rate
        self._every = self._usual
        self._shapes: Sequence[SceneGeom] = ()
        self._bodies: tuple[str, ...] = ()
        self._poses: list[list[Array]] = []
        self._steps = 0

    def begin(self, shapes: Sequence[SceneGeom]) -> None:
        """Another episode. shapes: in the frames of their bodies."""
        self._shapes, self._bodies, self._poses, self._steps = shapes, (), [], 0
        self._every = self._usual

    def due(self) -> bool:
        """Whether the step that is about to be executed is kept; to be asked once a step."""
        self._steps += 1
        if len(self._poses) >= MOST_POSES:
            self._poses, self._every = self._poses[::2], 2 * self._every
        return (self._steps - 1) % self._every == 0

    def add(self, poses: Mapping[str, tuple[Array, Array]]) -> None:
        """Where the bodies are, by name: position (3) m and quaternion (4) xyzw; the same bodies each time."""
        self._bodies = self._bodies or tuple(poses)
        self._poses.append([np.concatenate(poses[name]) for name in self._bodies])

    def save(self, index: int, seed: int) -> Path:
        """Writes the episode. Raises OSError."""
        texts, triangles = [], []
        for shape in self._shapes:
            count = -1 if shape.triangles is None else len(shape.triangles)
            if shape.triangles is not None:
                triangles.append(shape.triangles)
            # Rounded [m]: of two episodes they differ by what was computed with.
            pose = np.round(np.append(shape.position, shape.quaternion), 6).tolist()
            texts.append([shape.name, shape.type, [*shape.size], pose, [*shape.rgba], shape.body, count])
        header = np.frombuffer(json.dumps(texts).encode(), np.uint8)
        corners = np.concatenate(triangles) if triangles else np.zeros((0, 3, 3), np.float32)
        name = f"shapes_{hashlib.sha256(header.tobytes() + corners.tobytes()).hexdigest()[:16]}.npz"
        path = replay_path(self._folder, index, seed)
        if not (shared := path.with_name(name)).exists():
            _write(shared, shapes=header, triangles=corners)
        said = {"kind": self._kind, "rate": self._rate / self._every, "bodies": self._bodies, "shapes": name}
        poses = np.array(self._poses, np.float32).reshape(-1, len(self._bodies), 7)
        _write(path, said=np.frombuffer(json.dumps(said).encode(), np.uint8), poses=poses)
        return path


def _write(path: Path, **arrays: NDArray[np.generic]) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content.getvalue())


def read_replay(path: Path) -> SceneReplay:
    """Raises ValueError, in one line with the file, for what is none; OSError."""
    try:
        episode = _read(path)
        said = json.loads(episode["said"].tobytes())
        shapes = _read(path.with_name(Path(str(said["shapes"])).name))
        corners, geoms, start = shapes["triangles"].astype(np.float32), [], 0
        for name, kind, size, pose, rgba, body, count in json.loads(shapes["shapes"].tobytes()):
            triangles = corners[start : start + count] if count >= 0 else None
            start += max(count, 0)
            place = np.array(pose, np.float64)
            a, b, c = map(float, size)
            red, green, blue, alpha = map(float, rgba)
            colour = red, green, blue, alpha
            geoms.append(
                SceneGeom(str(name), str(kind), (a, b, c), place[:3], place[3:7], colour, triangles, str(body))
            )
        bodies = tuple(map(str, said["bodies"]))
        poses = episode["poses"].astype(np.float32).reshape(-1, len(bodies), 7)
        if not np.isfinite(poses).all():
            raise ValueError("poses that are no numbers")
        return SceneReplay(str(said["kind"]), float(said["rate"]), tuple(geoms), bodies, poses)
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, RecursionError) as error:
        raise ValueError(f"{path}: damaged ({' '.join(str(error).split())})") from None


def _read(path: Path) -> dict[str, NDArray[np.generic]]:
    with zipfile.ZipFile(path) as archive:
        if any(one.file_size > _MOST_BYTES for one in archive.infolist()):
            raise ValueError(f"a part of more than {_MOST_BYTES / 1e6:.0f} MB")
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
