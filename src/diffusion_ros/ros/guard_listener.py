"""The camera guard's word, as whoever obeys it hears it."""

from __future__ import annotations

from collections.abc import Callable

from diagnostic_msgs.msg import DiagnosticStatus

from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.diagnostics import ERROR, OK
from diffusion_ros.ros.listener import MAX_BYTES, Listener
from diffusion_ros.ros.runner import RunnableNode


class GuardListener:
    """Subscribes to camera_guard. Silence, and what cannot be read, are no good word."""

    def __init__(self, node: RunnableNode, max_age: float, tick: Callable[[str], object]) -> None:
        """max_age: for how long a verdict counts [s]; tick: called with the topic, for each that can be read."""
        self._node, self._max_age, self._tick = node, max_age, tick
        self._verdict: tuple[float, messages.Status] | None = None
        """The last, and when it came."""
        self._listener = Listener(
            node,
            DiagnosticStatus,
            topics.CAMERA_GUARD,
            self._on_verdict,
            self._on_bad_verdict,
            topics.WATCHED_QOS,
            max_bytes=MAX_BYTES,
        )

    def _on_verdict(self, msg: DiagnosticStatus) -> None:
        self._verdict = self._node.seconds(), messages.status_from_msg(msg)
        self._tick(topics.CAMERA_GUARD)

    def _on_bad_verdict(self, error: messages.MessageError, msg: DiagnosticStatus | None) -> None:
        self._verdict = self._node.seconds(), messages.Status("", "", ERROR, str(error), {})

    def reason(self) -> str:
        """Why nothing may move, or ''."""
        if self._verdict is None:
            return "no word from the camera guard"
        came, verdict = self._verdict
        silent = self._node.seconds() - came
        if silent > self._max_age:
            return f"{topics.shown(self._node, topics.CAMERA_GUARD)}: silent for {silent:.2f} s"
        if verdict.level != OK:
            return f"{topics.shown(self._node, topics.CAMERA_GUARD)}: {verdict.summary}"
        return self._listener.conflict()
