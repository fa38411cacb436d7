"""The shapes that a simulator shows in RViz and on the page."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SceneGeom:
    """A body's geometry for viewers: `size` in metres (MuJoCo's half extents), pose in the frame of `body`, xyzw."""

    name: str
    type: str
    size: tuple[float, float, float]
    position: Array
    quaternion: Array
    rgba: tuple[float, float, float, float]
    triangles: NDArray[np.float32] | None = None
    """(N, 3, 3) metres in the geometry's own frame, for `type` 'mesh'."""
    body: str = ""
    """What it moves with; '': it stands still, and the frame is the world."""
