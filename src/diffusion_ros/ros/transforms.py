"""The newest transforms of /tf, and where a frame is in another one by them. Nothing is interpolated."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

Array = NDArray[np.float64]


@dataclass
class Transforms:
    """Frames by name, each with its parent."""

    _parents: dict[str, tuple[str, Array, Rotation]] = field(default_factory=dict)

    def put(self, parent: str, child: str, position: ArrayLike, quaternion: ArrayLike) -> None:
        """The child's pose in the parent: position (3) [m], quaternion (4) xyzw."""
        self._parents[child.lstrip("/")] = (
            parent.lstrip("/"),
            np.asarray(position, np.float64),
            Rotation.from_quat(quaternion),
        )

    def pose(self, parent: str, child: str) -> tuple[Array, Rotation]:
        """The child's pose in the parent. Raises ValueError, in one line, where they are not connected."""
        up, down = self._to_root(child), self._to_root(parent)
        if parent not in up or child not in up:
            common = next((frame for frame in up if frame in down), None)
            if common is None or not self._knows(child) or not self._knows(parent):
                unknown = [frame for frame in (parent, child) if not self._knows(frame)]
                what = f"no frame {' and no '.join(map(repr, unknown))}" if unknown else "the two are not connected"
                raise ValueError(f"{child!r} in {parent!r}: {what}")
        common = next(frame for frame in up if frame in down)
        position, rotation = self._in(child, common)
        origin, turned = self._in(parent, common)
        return turned.inv().apply(position - origin), turned.inv() * rotation

    def _knows(self, frame: str) -> bool:
        return frame in self._parents or any(parent == frame for parent, _, _ in self._parents.values())

    def _to_root(self, frame: str) -> list[str]:
        way = [frame]
        while way[-1] in self._parents and self._parents[way[-1]][0] not in way:
            way.append(self._parents[way[-1]][0])
        return way

    def _in(self, frame: str, above: str) -> tuple[Array, Rotation]:
        position, rotation = np.zeros(3), Rotation.identity()
        while frame != above:
            frame, shift, turn = self._parents[frame]
            position, rotation = turn.apply(position) + shift, turn * rotation
        return position, rotation
