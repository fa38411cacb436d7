"""What Fast DDS is told: room for pictures, and to whom it listens.

Without the room it loses most pictures of 640 x 480 that are published best effort. Whoever publishes them needs it: a
system's nodes get it from here, a camera's driver that runs by itself from whoever starts it.

ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST alone is no wall: the process still listens on every interface.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

_NEW, _OLD = "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"
"""From version 3 on (Kilted), which warns of the old one; up to 2 (Jazzy), which does not know the new one."""


_RANGE = "ROS_AUTOMATIC_DISCOVERY_RANGE"


def environment(resources: Path, simulated: bool = False) -> dict[str, str]:
    """What is to be added to the environment of nodes.

    simulated: nothing outside this machine has to be reached; then that is so where the user does not say otherwise
    (ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET). A profiles file of the user's own stays.
    """
    chosen = {_RANGE: "LOCALHOST"} if simulated and _RANGE not in os.environ else {}
    if _NEW not in os.environ and _OLD not in os.environ:
        here = chosen.get(_RANGE, os.environ.get(_RANGE)) in ("LOCALHOST", "OFF")
        name = "fastdds_loopback.xml" if here else "fastdds.xml"
        chosen[_NEW if _version_3() else _OLD] = str(resources / "config" / name)
    return chosen


def _version_3() -> bool:
    """By what the package is called: from PyPI among Python's, in a ROS installation among ament's. Up to version 2 it
    is fastrtps."""
    prefixes = filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))
    return find_spec("fastdds") is not None or any((Path(prefix) / "share/fastdds").is_dir() for prefix in prefixes)
