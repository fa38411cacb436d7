"""Chooses the off-screen OpenGL that MuJoCo draws with. This must happen before MuJoCo is imported."""

from __future__ import annotations

import ctypes.util
import os


def choose_render_backend() -> str:
    """Sets MUJOCO_GL, unless it is set, to EGL or else OSMesa, whichever this machine can load.

    Must run before MuJoCo is imported. Raises OSError, in one line, where the distribution offers neither.
    """
    if "MUJOCO_GL" not in os.environ:
        if ctypes.util.find_library("EGL"):
            os.environ["MUJOCO_GL"] = "egl"
        elif ctypes.util.find_library("OSMesa"):
            os.environ["MUJOCO_GL"] = "osmesa"
        else:
            raise OSError("no off-screen OpenGL: install libegl1 and libgl1-mesa-dri (or libosmesa6)")
    # PyOpenGL takes its platform from here, whatever MuJoCo was told.
    os.environ.setdefault("PYOPENGL_PLATFORM", os.environ["MUJOCO_GL"])
    return os.environ["MUJOCO_GL"]
