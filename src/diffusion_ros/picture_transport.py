"""Room for pictures in Fast DDS, which otherwise loses most of those of 640 x 480 that are published best effort.

Whoever publishes them needs it: a system's nodes get it from here, a camera's driver that runs by itself from whoever
starts it.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

_NEW, _OLD = "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"
"""From version 3 on (Kilted), which warns of the old one; up to 2 (Jazzy), which does not know the new one."""


def environment(resources: Path) -> dict[str, str]:
    """The variable that tells Fast DDS where config/fastdds.xml is; nothing where its user has a file of their own."""
    if _NEW in os.environ or _OLD in os.environ:
        return {}
    return {_NEW if _version_3() else _OLD: str(resources / "config" / "fastdds.xml")}


def _version_3() -> bool:
    """By what the package is called: from PyPI among Python's, in a ROS installation among ament's. Up to version 2 it
    is fastrtps."""
    prefixes = filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))
    return find_spec("fastdds") is not None or any((Path(prefix) / "share/fastdds").is_dir() for prefix in prefixes)
