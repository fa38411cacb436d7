"""The newest transforms of /tf, and where a frame is in another one by them. Nothing is interpolated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from geometry_msgs.msg import TransformStamped
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from diffusion_ros.ros.messages import MessageError, printable, transform_from_msg

Array = NDArray[np.float64]

_MOST = 1024
"""Frames that are kept; whoever sends more starts it anew."""
_READ = 64
"""Of a message, so many are read."""
_NAME = 60
"""Characters of a frame's name that are said."""


@dataclass(frozen=True)
class _Link:
    """A frame in its parent."""

    parent: str
    stamp_ns: int = 0
    position: Array = field(default_factory=lambda: np.zeros(3))
    rotation: Rotation = field(default_factory=Rotation.identity)
    fault: str = ""
    """Why the last that was said of it cannot be used."""


class Transforms:
    """Frames by name, each with its parent."""

    def __init__(self) -> None:
        self._links: dict[str, _Link] = {}
        """By child."""

    def take(self, transforms: Sequence[TransformStamped], always: bool = False) -> None:
        """Those of a message. One that cannot be used counts against its own child only, until that comes again.
        always: whether they are so whatever their stamps, as on /tf_static."""
        for one in transforms[:_READ]:
            try:
                stamp_ns, parent, child, position, quaternion = transform_from_msg(one)
            except MessageError as error:
                self._spoil(one.header.frame_id, one.child_frame_id, str(error))
            else:
                self.put(0 if always else stamp_ns, parent, child, position, quaternion)

    def put(self, stamp_ns: int, parent: str, child: str, position: ArrayLike, quaternion: ArrayLike) -> None:
        """The child's pose in the parent: position (3) [m], quaternion (4) xyzw. stamp_ns: 0 where it is so always."""
        place = np.asarray(position, np.float64), Rotation.from_quat(quaternion)
        self._keep(child, _Link(parent.lstrip("/"), stamp_ns, *place))

    def _spoil(self, parent: str, child: str, fault: str) -> None:
        # On the way that is known: from wherever the bad one came, it is not to be gone.
        known = self._links.get(child.lstrip("/"))
        self._keep(child, _Link(known.parent if known is not None else parent.lstrip("/"), fault=fault))

    def _keep(self, child: str, link: _Link) -> None:
        if len(self._links) >= _MOST:
            self._links.clear()
        self._links[child.lstrip("/")] = link

    def pose(self, parent: str, child: str) -> tuple[int, Array, Array]:
        """The oldest stamp [ns] on the way between them, 0 where there is none, and the child's pose in the parent:
        position (3) [m], quaternion (4) xyzw. Raises ValueError, in one line, where they are not connected, and of
        these errors MessageError where one on the way cannot be used."""
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
        return frame in self._links or any(link.parent == frame for link in self._links.values())

    def _to_root(self, frame: str) -> list[str]:
        """The frame and those above it; a circle ends where it closes."""
        way = [frame]
        while way[-1] in self._links and self._links[way[-1]].parent not in way:
            way.append(self._links[way[-1]].parent)
        return way

    def _in(self, frame: str, above: str) -> tuple[int, Array, Rotation]:
        oldest_ns, position, rotation = 0, np.zeros(3), Rotation.identity()
        while frame != above:
            link = self._links[frame]
            if link.fault:
                names = (printable(name, _NAME) for name in (frame, link.parent))
                raise MessageError(f"{' in '.join(map(repr, names))}: {link.fault}")
            oldest_ns = min(filter(None, (oldest_ns, link.stamp_ns)), default=0)
            position, rotation = link.rotation.apply(position) + link.position, link.rotation * rotation
            frame = link.parent
        return oldest_ns, position, rotation
