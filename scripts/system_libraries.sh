#!/bin/sh
# Finds what MuJoCo renders off-screen with, and installs it from the distribution where that is allowed.
#   usage: scripts/system_libraries.sh [python]      any Python 3; the default is python3
# Prints `egl` or `osmesa` (a value for MUJOCO_GL) on stdout and whatever else it has to say on stderr.
# Exit status 1, with one line that names the packages, where there is neither.
set -u
python=${1:-python3}

# EGL by doing what MuJoCo will do: a display on any device that can be initialised. That libEGL loads does not suffice,
# because it comes without a driver (libgl1-mesa-dri).
has_egl() {
    "$python" - 2>/dev/null <<'EOF'
import ctypes
import sys

PLATFORM_DEVICE_EXT = 0x313F
egl = ctypes.CDLL("libEGL.so.1")
egl.eglGetProcAddress.restype = ctypes.c_void_p
egl.eglInitialize.argtypes = [ctypes.c_void_p] * 3


def extension(name, restype, *argtypes):
    return ctypes.CFUNCTYPE(restype, *argtypes)(egl.eglGetProcAddress(name))


query_devices = extension(b"eglQueryDevicesEXT", ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
platform_display = extension(b"eglGetPlatformDisplayEXT", ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p)
devices, count = (ctypes.c_void_p * 16)(), ctypes.c_int()
query_devices(len(devices), devices, ctypes.byref(count))
displays = (platform_display(PLATFORM_DEVICE_EXT, device, None) for device in devices[: count.value])
sys.exit(not any(display and egl.eglInitialize(display, None, None) for display in displays))
EOF
}

# MuJoCo takes OSMesa through PyOpenGL, which asks the loader for it by these names.
has_osmesa() {
    "$python" - 2>/dev/null <<'EOF'
import ctypes
import ctypes.util

ctypes.CDLL(ctypes.util.find_library("OSMesa") or "libOSMesa.so")
EOF
}

backend() {
    if has_egl; then echo egl; elif has_osmesa; then echo osmesa; else return 1; fi
}

install() {
    echo "installing $* from the distribution" >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" </dev/null >&2
}

if [ -n "${MUJOCO_GL:-}" ]; then # the caller has decided
    echo "$MUJOCO_GL"
    exit 0
fi
backend && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update </dev/null >&2
    install libegl1 libgl1-mesa-dri
    backend && exit 0
    install libosmesa6
    backend && exit 0
fi
echo "no off-screen OpenGL: install libegl1 and libgl1-mesa-dri (or libosmesa6) from your distribution" >&2
exit 1
