"""What nodes say of themselves: episodes and diagnostics."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from std_msgs.msg import String

from diffusion_ros.ros.messages.fields import MessageError, header_to_msg

OK, WARN, ERROR, STALE = 0, 1, 2, 3


def episode_to_msg(episode: Mapping[str, Any]) -> String:
    """index, seed, step, reward, success, and what else the simulator has to say."""
    return String(data=json.dumps(dict(episode), allow_nan=False))


def episode_from_msg(msg: String) -> dict[str, Any]:
    try:
        episode = json.loads(msg.data)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"not JSON: {error}") from None
    if not isinstance(episode, dict):
        raise MessageError(f"{type(episode).__name__}, a JSON object expected")
    return episode


@dataclass(frozen=True)
class Status:
    """One DiagnosticStatus."""

    name: str
    hardware_id: str
    level: int
    """OK, WARN, ERROR or STALE."""
    summary: str
    values: Mapping[str, str]


def status_to_msg(status: Status) -> DiagnosticStatus:
    return DiagnosticStatus(
        level=bytes([status.level]),  # a byte in Python, not an int
        name=status.name,
        message=status.summary,
        hardware_id=status.hardware_id,
        values=[KeyValue(key=str(k), value=str(v)) for k, v in status.values.items()],
    )


def status_from_msg(msg: DiagnosticStatus) -> Status:
    level = msg.level[0] if isinstance(msg.level, bytes) else int(msg.level)
    return Status(msg.name, msg.hardware_id, level, msg.message, {pair.key: pair.value for pair in msg.values})


def diagnostics_to_msg(statuses: Sequence[Status], time_ns: int) -> DiagnosticArray:
    return DiagnosticArray(header=header_to_msg(time_ns, ""), status=[status_to_msg(status) for status in statuses])


def diagnostics_from_msg(msg: DiagnosticArray) -> list[Status]:
    return [status_from_msg(status) for status in msg.status]
