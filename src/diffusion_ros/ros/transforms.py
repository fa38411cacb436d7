"""The newest transforms of /tf, and where a frame is in another one by them. Nothing is interpolated."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

Array = NDArray[np.float64]

_MOST = 1024
"""Frames that are kept; whoever sends more starts it anew."""


class Transforms:
    """Frames by name, each with its parent."""

    def __init__(self) -> None:
        self._parents: dict[str, tuple[str, int, Array, Rotation]] = {}
        """Child -> parent, stamp [ns], position and rotation."""

    def put(self, stamp_ns: int, parent: str, child: str, position: ArrayLike, quaternion: ArrayLike) -> None:
        """The child's pose in the parent: position (3) [m], quaternion (4) xyzw. stamp_ns: 0 where it is so always."""
        if len(self._parents) >= _MOST:
            self._parents.clear()
        place = np.asarray(position, np.float64), Rotation.from_quat(quaternion)
        self._parents[child.lstrip("/")] = (parent.lstrip("/"), stamp_ns, *place)

    def pose(self, parent: str, child: str) -> tuple[int, Array, Array]:
        """The oldest stamp [ns] on the way between them, 0 where there is none, and the child's pose in the parent:
        position (3) [m], quaternion (4) xyzw. Raises ValueError, in one line, where they are not connected."""
        parent, child = parent.lstrip("/"), child.lstrip("/")
        up, down = self._to_root(child), self._to_root(parent)
        common = next((frame for frame in up if frame in down), None)
        if common is None:
            unknown = [frame for frame in (parent, child) if not self._knows(frame)]
            what = f"no frame {' and no '.join(map(repr, unknown))}" if unknown else "the two are not connected"
            raise ValueError(f"{child!r} in {parent!r}: {what}")
        here_ns, position, rotation = self._in(child, common)
        there_ns, origin, turned = self._in(parent, common)
        back = turned.inv()
        return (
            min(filter(None, (here_ns, there_ns)), default=0),
            back.apply(position - origin),
            np.asarray((back * rotation).as_quat()),
        )

    def _knows(self, frame: str) -> bool:
        return frame in self._parents or any(parent == frame for parent, *_ in self._parents.values())

    def _to_root(self, frame: str) -> list[str]:
        """The frame and those above it; a circle ends where it closes."""
        way = [frame]
        while way[-1] in self._parents and self._parents[way[-1]][0] not in way:
            way.append(self._parents[way[-1]][0])
        return way

    def _in(self, frame: str, above: str) -> tuple[int, Array, Rotation]:
        oldest_ns, position, rotation = 0, np.zeros(3), Rotation.identity()
        while frame != above:
            frame, stamp_ns, shift, turn = self._parents[frame]
            oldest_ns = min(filter(None, (oldest_ns, stamp_ns)), default=0)
            position, rotation = turn.apply(position) + shift, turn * rotation
        return oldest_ns, position, rotation
