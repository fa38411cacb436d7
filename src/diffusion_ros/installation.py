"""What has to be installed for what, and the one line that says what is not.

A robot's computer has what the nodes need (`pip install diffusion_ros`, or ROS's packages); simulators and trainers
need the extras of pyproject.toml, which lists the same.
"""

from __future__ import annotations

import importlib.util
import os
import sys

SCRIPTS = {"diffusion_ros": "diffusion_ros.bringup", "diffusion_ros_training": "training"}
"""Console script -> the module that it starts."""
BASE = ("numpy", "scipy", "torch", "cv2", "yaml")
"""Modules without which no node runs."""
EXTRAS = {
    "sim": ("mujoco", "gymnasium", "gymnasium_robotics", "imageio_ffmpeg", "numba", "PIL", "termcolor", "tqdm"),
    "record": ("rosbags",),
    "web": ("viser", "websockets"),
    "train": (
        *("accelerate", "diffusers", "einops", "gymnasium", "h5py", "imageio_ffmpeg", "matplotlib", "PIL", "psutil"),
        *("pyarrow", "rosbags", "sklearn", "tensorboard", "tqdm", "tyro"),
    ),
    "franka": ("franka",),
    "security": ("cryptography",),
    "cluster": ("distributed",),
}
"""Extra -> the modules that it brings."""
DISTRIBUTIONS = {
    "cv2": "opencv-python-headless",
    "franka": "franka-rs",
    "gymnasium_robotics": "gymnasium-robotics",
    "imageio_ffmpeg": "imageio-ffmpeg",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "yaml": "PyYAML",
}
"""Module -> what pip calls it, where the names differ."""


def explain(error: ModuleNotFoundError) -> str:
    """The error as one line that says how to get the library; raised again where it is about none of those above."""
    module = (error.name or "").partition(".")[0]
    if not _remedy(module):
        raise error
    return _lines([module], "sim")


def require(*modules: str) -> None:
    """Raises ModuleNotFoundError for the first that is not installed: for libraries that say so in a way of their own,
    and before worker processes are started that would not find it."""
    for module in modules:
        if not _is_installed(module):
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)


def exit_where_missing(package: str) -> None:
    """Ends the process with a line on stderr and exit status 2 if it is a command of that package of ours, and cannot
    run here.

    For the package's __init__: trainers and nodes import their libraries before their main() could catch anything. With
    its own name, as a user may have a package called training.
    """
    if _started().partition(".")[0] != package:
        return
    needed = ("rclpy", *BASE) if package == "diffusion_ros" else (*BASE, *EXTRAS["train"])
    missing = [name for name in needed if not _is_installed(name)]
    if missing:
        print(_lines(missing, "train"), file=sys.stderr)
        sys.exit(2)


def _started() -> str:
    """The module that this process is being started as, '' where it only imports us."""
    first = sys.argv[0] if sys.argv else ""
    # What `python -m` leaves there while it looks for the module.
    if first != "-m":
        return SCRIPTS.get(os.path.basename(first), "")
    words = sys.orig_argv
    return words[words.index("-m") + 1] if "-m" in words[:-1] else ""


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _remedy(module: str, extra: str = "sim") -> str:
    """How to get the library that `module` is of, by `extra` if that brings it; '' for one that is not ours to know."""
    if module == "robosuite":
        return "pip install --no-deps robosuite==1.5.2"
    if module == "rclpy":
        return "source ROS 2's setup file, or pip install 'diffusion_ros[jazzy]'"
    for name in (extra, *EXTRAS):
        if module in EXTRAS[name]:
            return f"pip install 'diffusion_ros[{name}]'"
    return f"pip install {DISTRIBUTIONS.get(module, module)}" if module in BASE else ""


def _lines(modules: list[str], extra: str) -> str:
    """`h5py, tyro: not installed (pip install 'diffusion_ros[train]')`, and so on for other remedies, in one line."""
    by_remedy: dict[str, list[str]] = {}
    for module in modules:
        by_remedy.setdefault(_remedy(module, extra), []).append(DISTRIBUTIONS.get(module, module))
    return "; ".join(f"{', '.join(names)}: not installed ({remedy})" for remedy, names in by_remedy.items())
