"""Cameras that show the same picture while the robot moves."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_POSITIONS = 4096
"""Positions that are remembered: some seconds even at 1 kHz."""


@dataclass
class _Camera:
    image: NDArray[np.uint8]
    changed_ns: int
    """Stamp of the first image with this content."""
    newest_ns: int
    reason: str = ""


@dataclass
class FrozenCameras:
    """Notices a camera that goes on publishing the same picture while the robot moves.

    Equal pictures alone prove nothing: a simulated scene at rest is equal bit for bit. Nor do commands: a robot that
    another stop holds does not move however long it is told to. So the end effector must have been seen elsewhere,
    between the stamps of the equal pictures (topics overtake each other), farther than it can go without a pixel
    changing. A frozen camera stays so until its picture changes.
    """

    max_frozen_ns: int
    """How long the picture may stay the same; 0 turns the check off."""
    moved_m: float = 0.01
    _cameras: dict[str, _Camera] = field(default_factory=dict)
    _positions: deque[tuple[int, NDArray[np.float64]]] = field(default_factory=lambda: deque(maxlen=_POSITIONS))

    def image(self, camera: str, stamp_ns: int, image: NDArray[np.uint8]) -> None:
        """image (H, W, 3)."""
        known = self._cameras.get(camera)
        if known is None or stamp_ns < known.newest_ns or not np.array_equal(known.image, image):
            self._cameras[camera] = _Camera(np.array(image), stamp_ns, stamp_ns)
        else:
            known.newest_ns = stamp_ns

    def position(self, stamp_ns: int, position: NDArray[np.float64]) -> None:
        """The end effector was observed there (3) [m]."""
        if self._positions and stamp_ns < self._positions[-1][0]:
            self._positions.clear()  # another run
        self._positions.append((stamp_ns, np.array(position)))

    def reasons(self) -> list[str]:
        """One line for each frozen camera."""
        return [reason for name, camera in self._cameras.items() if (reason := self._reason(name, camera))]

    def _reason(self, name: str, camera: _Camera) -> str:
        still_ns = camera.newest_ns - camera.changed_ns
        if camera.reason or self.max_frozen_ns == 0 or still_ns <= self.max_frozen_ns:
            return camera.reason
        way = [position for t, position in self._positions if camera.changed_ns <= t <= camera.newest_ns]
        moved = float(np.max(np.linalg.norm(np.array(way) - way[0], axis=1))) if way else 0.0
        if moved > self.moved_m:
            camera.reason = (
                f"{name} is frozen: the same image for {still_ns / 1e9:.2f} s while the robot moved {moved:.3f} m"
            )
        return camera.reason
