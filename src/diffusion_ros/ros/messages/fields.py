"""Fields that several messages have (stamps, poses, frames), and the checks of all reading."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Pose
from numpy.typing import ArrayLike, NDArray
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Header

Array = NDArray[np.float64]


MAX_LINE = 300
"""Characters of what is said of a message: who names a joint by a megabyte shall not fill logs with it."""
FAR = 1e9
"""Metres, and metres a second: beyond it nothing is, and squares of it overflow sooner or later."""
MAX_NAME = 60
"""Characters of a name from outside, so that the rule behind it is still said."""
MAX_SECONDS = 2**31 - 1 - 86_400
"""Stamps are 32 bits of seconds; a day before their end, so that what is reckoned from one is a stamp as well."""


def message_type(name: str) -> Any:
    """The class of "package/Type" or "package/msg/Type", None where it is not installed."""
    package, kind = name.split("/")[0], name.split("/")[-1]
    try:
        return getattr(importlib.import_module(f"{package}.msg"), kind, None)
    except ModuleNotFoundError:
        return None


def printable(text: str, limit: int = MAX_LINE) -> str:
    """Text from outside as one line for logs and terminals: no control characters, and not longer than `limit`."""
    line = "".join(c if c.isprintable() else "?" for c in text[: 4 * limit])
    return line if len(line) <= limit else f"{line[: limit - 4]} ..."


class MessageError(ValueError):
    """A message that must not be used; one line with the value and the rule."""

    def __init__(self, reason: str) -> None:
        super().__init__(printable(reason))


def stamp_to_msg(stamp_ns: int) -> Time:
    return Time(sec=int(stamp_ns // 1_000_000_000), nanosec=int(stamp_ns % 1_000_000_000))


def stamp_ns(stamp: Time | Duration) -> int:
    """Raises MessageError for one that is no time: before 1970, at the end of its 32 bits, a second of nanoseconds."""
    seconds, nanoseconds = int(stamp.sec), int(stamp.nanosec)
    if not 0 <= seconds <= MAX_SECONDS or nanoseconds >= 1_000_000_000:
        raise MessageError(f"stamp of {seconds} s and {nanoseconds} ns, 0 to {MAX_SECONDS} s and below 1 s expected")
    return seconds * 1_000_000_000 + nanoseconds


def duration_to_msg(duration_ns: int) -> Duration:
    return Duration(sec=int(duration_ns // 1_000_000_000), nanosec=int(duration_ns % 1_000_000_000))


def clock_to_msg(time_ns: int) -> Clock:
    return Clock(clock=stamp_to_msg(time_ns))


def header_to_msg(time_ns: int, frame_id: str) -> Header:
    return Header(stamp=stamp_to_msg(time_ns), frame_id=frame_id)


def finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise MessageError(f"{name} {value}, a finite number expected")
    return float(value)


def short(values: Array) -> list[float]:
    """As it stands in a reason."""
    rounded: list[float] = np.round(values, 4).tolist()
    return rounded


def pose_fields(position: ArrayLike, quaternion: ArrayLike) -> Pose:
    pose = Pose()
    p, q = pose.position, pose.orientation
    p.x, p.y, p.z = floats(position, 3, "position")
    q.x, q.y, q.z, q.w = floats(quaternion, 4, "quaternion")
    return pose


def floats(values: ArrayLike, size: int, name: str) -> list[float]:
    floats: list[float] = np.asarray(values, np.float64).ravel().tolist()
    if len(floats) != size:
        raise MessageError(f"{len(floats)} {name}, {size} expected")
    return floats


def check_frame(header: Header, frame_id: str) -> None:
    """Raises MessageError for another frame: its numbers mean something else."""
    if header.frame_id != frame_id:
        raise MessageError(f"frame {printable(header.frame_id, MAX_NAME)!r}, {frame_id!r} expected")
