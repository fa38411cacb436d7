"""Chooses the off-screen OpenGL that MuJoCo draws with. This must happen before MuJoCo is imported."""

from __future__ import annotations

import ctypes.util
import os

_PLATFORM_DEVICE = 0x313F
"""EGL_PLATFORM_DEVICE_EXT."""
_MOST_DEVICES = 32


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


def check_it_opens() -> None:
    """Raises OSError, in one line, where MuJoCo would not find what it draws with: the backend that is chosen, and for
    EGL a device that opens, by the calls that MuJoCo makes (EGL_EXT_device_enumeration). Loads the drivers: for a
    process of its own."""
    backend = choose_render_backend()
    if backend != "egl":
        library = {"osmesa": "OSMesa", "glfw": "glfw"}.get(backend)
        if library is None:
            raise OSError(f"MUJOCO_GL {backend!r}: expected egl, osmesa or glfw")
        if not ctypes.util.find_library(library):
            raise OSError(f"MUJOCO_GL={backend}: its library is not installed; MUJOCO_GL=egl or none expected")
        return
    name = ctypes.util.find_library("EGL")
    if name is None:
        raise OSError("MUJOCO_GL=egl: no EGL on this machine: install libegl1 and libgl1-mesa-dri")
    egl = ctypes.CDLL(name)
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    pointers = ctypes.POINTER(ctypes.c_void_p)
    prototypes = {
        b"eglQueryDevicesEXT": ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, pointers, ctypes.POINTER(ctypes.c_int)),
        b"eglGetPlatformDisplayEXT": ctypes.CFUNCTYPE(
            ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int)
        ),
    }
    addresses = {function: egl.eglGetProcAddress(function) for function in prototypes}
    if not all(addresses.values()):
        raise OSError("EGL cannot name its devices: install libgl1-mesa-dri, or set MUJOCO_GL=osmesa")
    query, display_of = (prototype(addresses[function]) for function, prototype in prototypes.items())
    devices, count = (ctypes.c_void_p * _MOST_DEVICES)(), ctypes.c_int(0)
    query(_MOST_DEVICES, devices, ctypes.byref(count))
    egl.eglInitialize.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int)]
    version = ctypes.c_int(0), ctypes.c_int(0)
    for device in devices[: count.value]:
        display = display_of(_PLATFORM_DEVICE, device, None)
        if display and egl.eglInitialize(display, *map(ctypes.byref, version)):
            return
    raise OSError(f"none of the {count.value} devices of EGL opens: install libgl1-mesa-dri, or set MUJOCO_GL=osmesa")
