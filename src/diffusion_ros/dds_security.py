"""What a process needs to take part where SROS 2 is on, and what its errors mean."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping

PREFIX = "/diffusion_ros"
"""Of the names of the enclaves that `diffusion_ros enclaves` makes."""
NODES = f"{PREFIX}/nodes"
"""That of the nodes of this project."""


def quiet() -> None:
    """rclpy warns of something else beside the error that it raises where a node cannot be made."""
    warnings.filterwarnings("ignore", "Failed to fini rosout publisher", RuntimeWarning)


def enclave_arguments(environment: Mapping[str, str]) -> list[str]:
    """What a node's command line needs where ROS_SECURITY_ENABLE says true: its enclave, after --ros-args."""
    enabled = environment.get("ROS_SECURITY_ENABLE", "") == "true"
    if enabled:
        quiet()
    return ["--enclave", NODES] if enabled else []


def explain_security(error: RuntimeError) -> str:
    """Why a node could not be made, in one line, where that is about security; '' where it is about anything else."""
    text = " ".join(str(error).split())
    if os.environ.get("ROS_SECURITY_ENABLE", "") != "true" or "securi" not in text.lower():
        return ""
    if "security libraries" in text or "SECURITY=ON" in text:
        return (
            "ROS_SECURITY_ENABLE true: this ROS 2 cannot do that, its Fast DDS was built without security (as that of "
            "pip's packages); expected one of a ROS installation"
        )
    return f"ROS_SECURITY_ENABLE true: {text.removeprefix('failed to initialize rcl: ')}"
