"""tf2_msgs is not on PyPI: a stand-in that goes over the bus as a text, and is read as TFMessage is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from geometry_msgs.msg import TransformStamped
from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import String


class TFMessage(String):
    """A String of the transforms' bytes."""

    def __init__(self, transforms: Sequence[TransformStamped] = (), **fields: Any) -> None:
        super().__init__(**fields)
        if transforms:
            self.data = " ".join(serialize_message(transform).hex() for transform in transforms)


def transforms_of(msg: String) -> list[TransformStamped]:
    """What was put into it; it comes as a String."""
    return [deserialize_message(bytes.fromhex(word), TransformStamped) for word in msg.data.split()]


# What rclpy converts goes by its class's name.
TFMessage.__module__, TFMessage.__name__ = String.__module__, String.__name__
