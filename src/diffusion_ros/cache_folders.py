"""Where libraries keep what they remember, for a process whose home cannot be written (`docker run --user`, HOME=/)."""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
from pathlib import Path

VARIABLES = {
    "NUMBA_CACHE_DIR": "numba",  # robosuite cannot be imported without one
    "ROS_LOG_DIR": "ros",  # nor rclpy be initialised
    "MPLCONFIGDIR": "matplotlib",
    "TORCHINDUCTOR_CACHE_DIR": "torch",
    "XDG_CACHE_HOME": "cache",  # Mesa's shaders, and whatever follows the standard
    "HF_HOME": "huggingface",
}
"""Environment variable -> its folder in ours."""


def use_cache_folders() -> None:
    """Gives libraries a folder of the temporary one, in this process and its children, if the home cannot be written.

    For the start of a process, before they are imported. What is set already stays. Raises OSError where the temporary
    folder cannot be written either.
    """
    home = os.path.expanduser("~")  # stays as it is for a user without a home
    if os.path.isdir(home) and os.access(home, os.W_OK | os.X_OK):
        return
    missing = {name: folder for name, folder in VARIABLES.items() if name not in os.environ}
    if "ROS_HOME" in os.environ:  # rcl's other way to say where logs go
        missing.pop("ROS_LOG_DIR", None)
    if missing:
        root = _own_folder()
        os.environ.update({name: str(root / folder) for name, folder in missing.items()})
    # For getpass, which else looks for a user id in the list of users.
    if not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        os.environ["USER"] = str(os.getuid())


def cache_folder(name: str) -> Path:
    """The folder `name` of ours among a user's caches, which need not be there yet: XDG's rule, so that it follows
    `use_cache_folders`."""
    root = os.environ.get("XDG_CACHE_HOME", "") or os.path.expanduser("~/.cache")
    return Path(root).absolute() / "diffusion_ros" / name


def _own_folder() -> Path:
    """A folder that is ours alone, as some caches are code; the same for all processes of a user, if it can be."""
    folder = Path(tempfile.gettempdir()) / f"diffusion_ros-caches-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.lstat()
        ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
        if not ours:
            own = tempfile.mkdtemp(prefix="diffusion_ros-caches-")
            atexit.register(shutil.rmtree, own, ignore_errors=True)
            return Path(own)
    return folder
