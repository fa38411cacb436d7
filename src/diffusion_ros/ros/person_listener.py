"""A person's rows (teleop_action) as whoever executes them hears them. Whether the person decides is Takeover's."""

from __future__ import annotations

from collections.abc import Callable

from trajectory_msgs.msg import JointTrajectory

from diffusion_ros.control.teleoperation import Takeover
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.listener import MAX_BYTES, Listener
from diffusion_ros.ros.runner import RunnableNode


class PersonListener:
    """Subscribes to teleop_action and tells `takeover` what comes."""

    def __init__(
        self,
        node: RunnableNode,
        period_ns: int,
        frame_id: str,
        heard: Callable[[], object],
        tick: Callable[[str], object],
    ) -> None:
        """period_ns: of a row; frame_id: of its motion. heard: called when `takeover` was told something; tick: with
        the topic, for each message that can be read."""
        self._node, self._period_ns, self._frame_id = node, period_ns, frame_id
        self._heard, self._tick = heard, tick
        self.takeover = Takeover(period_ns)
        self.listener = Listener(
            node,
            JointTrajectory,
            topics.TELEOP_ACTION,
            self._on_row,
            self._on_bad_row,
            topics.WATCHED_QOS,
            max_bytes=MAX_BYTES,
        )

    def _on_row(self, msg: JointTrajectory) -> None:
        self._tick(topics.TELEOP_ACTION)
        messages.check_frame(msg.header, self._frame_id)
        stamp_ns, row, period_ns = messages.teleop_from_msg(msg)
        if period_ns != self._period_ns:
            raise messages.MessageError(f"a row of {period_ns} ns, one of {self._period_ns} ns expected")
        try:
            self.takeover.say(row, stamp_ns, self._node.now_ns(), self._node.seconds())
        except ValueError as error:
            raise messages.MessageError(str(error)) from None
        self._heard()

    def _on_bad_row(self, error: messages.MessageError, msg: JointTrajectory | None) -> None:
        """Somebody wants something, and it is not known what: that is a hold."""
        name = topics.shown(self._node, topics.TELEOP_ACTION)
        self.takeover.refuse(f"{name} refused: {error}", self._node.now_ns(), self._node.seconds())
        self._heard()

    def conflict(self) -> str:
        """'' or who else says rows."""
        return self.listener.conflict()
