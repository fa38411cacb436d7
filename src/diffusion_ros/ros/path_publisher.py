"""The way that the hand has come, for viewers (eef_path)."""

from __future__ import annotations

from collections import deque

import numpy as np
from nav_msgs.msg import Path
from numpy.typing import NDArray

from diffusion_ros.control.frames import RobotFrames
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.runner import RunnableNode

_POINTS = 600
_GAP_NS = 1_000_000_000
"""A hole of more than this in the poses: another episode, another path."""


class PathPublisher:
    """Publishes the last points."""

    def __init__(self, node: RunnableNode, period_ns: int, frame_id: str, robot: RobotFrames | None) -> None:
        """period_ns: a control step; points are about as far apart. frame_id: of what is published: without a robot
        that of the points, with one its base."""
        self._period_ns, self._frame_id, self._robot = period_ns, frame_id, robot
        self._points: deque[tuple[int, NDArray[np.float64]]] = deque(maxlen=_POINTS)
        self._publisher = node.create_publisher(Path, topics.EEF_PATH, topics.COMMAND_QOS)

    def add(self, stamp_ns: int, position: NDArray[np.float64]) -> None:
        """The hand was there: (3) m in the policy's frame."""
        if self._points and not 0 <= stamp_ns - self._points[-1][0] <= _GAP_NS:
            self._points.clear()
        if not self._points or stamp_ns - self._points[-1][0] > self._period_ns // 2:
            self._points.append((stamp_ns, position))

    def publish(self) -> None:
        """If somebody listens."""
        if self._points and self._publisher.get_subscription_count() > 0:
            stamps, positions = zip(*self._points, strict=True)
            way = np.array(positions)
            if self._robot is not None:  # whose viewers know its base, and not the policy's frame
                way = self._robot.points_to_base(way)
            self._publisher.publish(messages.path_to_msg(way, stamps, stamps[-1], self._frame_id))
