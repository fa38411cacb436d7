"""What a node says on /tf and /tf_static of where frames are in each other, where tf2_msgs is installed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from numpy.typing import ArrayLike

from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.runner import RunnableNode

Placed = tuple[ArrayLike, ArrayLike, str, str]
"""Position (3) [m] and quaternion (4) xyzw of the child in the parent; parent, child."""


class TransformBroadcaster:
    """Without tf2_msgs, or where nobody wants it, it says nothing."""

    def __init__(self, node: RunnableNode, wanted: bool = True) -> None:
        self._node, self._wanted = node, wanted and messages.TFMessage is not None
        self._moving: Any = (
            node.create_publisher(messages.TFMessage, topics.TF, topics.TF_QOS) if self._wanted else None
        )
        self._fixed: Any = None
        self._always: dict[str, Any] = {}
        """By child: what has been said on /tf_static, where one message has to hold all of a node's."""

    @property
    def heard(self) -> bool:
        """Whether somebody listens to what moves."""
        return self._moving is not None and bool(self._moving.get_subscription_count())

    def send(self, placed: Iterable[Placed], stamp_ns: int) -> None:
        """Frames that move."""
        if self.heard:
            self._moving.publish(messages.TFMessage(transforms=_all(placed, stamp_ns)))

    def send_always(self, placed: Iterable[Placed]) -> None:
        """Frames that stay where they are in each other, together with those of before."""
        if not self._wanted:
            return
        if self._fixed is None:
            self._fixed = self._node.create_publisher(messages.TFMessage, topics.TF_STATIC, topics.DESCRIPTION_QOS)
        self._always.update({transform.child_frame_id: transform for transform in _all(placed, 0)})
        self._fixed.publish(messages.TFMessage(transforms=list(self._always.values())))


def _all(placed: Iterable[Placed], stamp_ns: int) -> list[Any]:
    return [
        messages.transform_to_msg(position, quaternion, stamp_ns, parent, child)
        for position, quaternion, parent, child in placed
    ]
