"""Faults of cameras, made in the simulator: to calibrate a guard, to measure it, and to try a system out.

Turned cameras, lights and objects change the scene before it is drawn. The other faults change the picture.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from diffusion_ros.simulators.arm import Simulation
from diffusion_ros.simulators.scene import SceneGeom

Image = NDArray[np.uint8]

FAULTS = ("covered", "half covered", "turned", "dark", "swapped", "frozen", "noise", "blur", "object")
TURN = np.deg2rad(10.0)
"""Of a turned camera, about a random axis across its view [rad]."""


class CameraFault:
    """One fault of one camera. Its extent is drawn from the seed, and stays while it lasts."""

    def __init__(self, fault: str, camera: str, seed: int = 0) -> None:
        """Raises ValueError for a fault that is not among FAULTS."""
        if fault not in FAULTS:
            raise ValueError(f"fault {fault!r}: expected one of {', '.join(FAULTS)}")
        self.fault, self.camera = fault, camera
        self._rng = np.random.default_rng([seed, FAULTS.index(fault)])
        self._colour = self._rng.integers(0, 90, 3)
        self._direction = self._rng.uniform(0, 2 * np.pi)
        self._extent = self._rng.uniform()
        self._object = self._draw_object() if fault == "object" else None
        self._first: Image | None = None

    def set_scene(self, simulation: Simulation) -> None:
        """Makes the part of it that is in the scene; `Simulation.disturb_view()` ends it."""
        if self.fault == "turned":
            axis = np.array([np.cos(self._direction), np.sin(self._direction), 0.0])
            simulation.disturb_view(turned={self.camera: TURN * axis})
        elif self.fault == "dark":
            simulation.disturb_view(brightness=0.15 * self._extent)
        elif self._object is not None:
            simulation.disturb_view(shapes=[self._object])
        else:
            simulation.disturb_view()

    def picture(self, image: Image) -> Image:
        """The faulty picture (H, W, 3) in the place of a good one."""
        height, width = image.shape[:2]
        if self.fault == "frozen":
            self._first = image.copy() if self._first is None else self._first
            return self._first
        if self.fault == "swapped":
            return np.ascontiguousarray(image[..., ::-1])
        if self.fault == "noise":
            sigma = 30 + 30 * self._extent
            return np.clip(image + self._rng.normal(0, sigma, image.shape), 0, 255).astype(np.uint8)
        if self.fault == "blur":
            return np.asarray(cv2.GaussianBlur(image, (0, 0), 2.0 + 2.0 * self._extent), np.uint8)
        if self.fault in ("covered", "half covered"):
            # Not one colour: what lies on a lens is out of focus and lets some light through at its edge.
            cover = self._colour + self._rng.normal(0, 1.5, image.shape)
            where = np.ones((height, width, 1))
            if self.fault == "half covered":
                y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
                across = np.cos(self._direction) * x + np.sin(self._direction) * y
                where = np.clip(0.5 + 8 * across, 0, 1)[..., None]
            return np.clip((1 - where) * image + where * cover, 0, 255).astype(np.uint8)
        return image

    def _draw_object(self) -> SceneGeom:
        """A box, ball or cylinder of 3 to 6 cm on the table's middle, in a strong colour."""
        rng = self._rng
        colour = np.roll([0.9, rng.uniform(0, 0.9), 0.1], rng.integers(3))
        size = rng.uniform(0.03, 0.06, 3)
        at = np.array([rng.uniform(-0.15, 0.15), rng.uniform(-0.2, 0.2), 0.83 + size[2]])
        turn = rng.uniform(0, np.pi)
        return SceneGeom(
            "unknown object",
            str(rng.choice(["box", "sphere", "cylinder"])),
            (float(size[0]), float(size[1]), float(size[2])),
            at,
            np.array([0.0, 0.0, np.sin(turn / 2), np.cos(turn / 2)]),
            (float(colour[0]), float(colour[1]), float(colour[2]), 1.0),
        )
