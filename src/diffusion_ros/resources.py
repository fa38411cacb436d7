"""Where the files are that come with the package."""

from __future__ import annotations

import os
from pathlib import Path


def resource_folder() -> Path:
    """Where config/, launch/ and checkpoints/ are: the source tree, or share/diffusion_ros of an installation.

    Raises FileNotFoundError where there is neither.
    """
    package = Path(__file__).resolve().parent
    prefixes = [Path(prefix) for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    shares = [prefix / "share" / package.name for prefix in (*package.parents, *prefixes)]
    # The source tree first: in an editable installation there is no other, and with both it is what runs.
    for folder in (package.parents[1], *shares):
        if (folder / "config" / "simulation.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no config/simulation.yaml found for {package}: is diffusion_ros installed completely?")
