"""What must be so before a robot may move, and the operator's buttons."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from sensor_msgs.msg import Joy

from diffusion_ros.robot_file import Buttons, ReadyCondition, RobotFile
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.listener import MAX_BYTES, Listener
from diffusion_ros.ros.runner import RunnableNode

_HELD_SECONDS = 0.5
"""A button that was pressed so long ago and of which nothing was heard since is not pressed. (joy's autorepeat: 20 Hz.)
"""


class Readiness:
    """Listens to the robot's conditions; `reason` says which of them is not so.

    Raises ValueError where a message type that is not optional is not installed.
    """

    def __init__(self, node: RunnableNode, robot: RobotFile) -> None:
        self._node = node
        self.conditions: list[ReadyCondition] = []
        self._last: dict[int, tuple[float, str]] = {}
        """By condition: when something came, and what is wrong with it."""
        for condition in robot.ready:
            kind = messages.message_type(condition.type)
            if kind is None:
                if condition.optional:
                    node.get_logger().info(f"{condition.topic} is not waited for: {condition.type} is not installed")
                    continue
                raise ValueError(f"{robot.path}: ready: {condition.topic}: {condition.type} is not installed")
            number = len(self.conditions)
            self.conditions.append(condition)
            qos = topics.DESCRIPTION_QOS if condition.latched else topics.BEST_EFFORT_QOS
            node.create_subscription(kind, condition.topic, partial(self._on_message, number), qos)

    def _on_message(self, number: int, msg: Any) -> None:
        condition = self.conditions[number]
        self._last[number] = self._node.seconds(), wrong(condition, msg)

    def reason(self) -> str:
        """Why the robot may not move, or ''."""
        for number, condition in enumerate(self.conditions):
            name = topics.shown(self._node, condition.topic)
            if number not in self._last:
                return f"{name}: nothing received"
            came, fault = self._last[number]
            silent = self._node.seconds() - came
            if condition.max_age and silent > condition.max_age:
                return f"{name}: silent for {silent:.2f} s"
            if fault:
                return f"{name}: {fault}"
        return ""


def wrong(condition: ReadyCondition, msg: Any) -> str:
    """'' or why a message's value will not do."""
    value = msg.code if hasattr(msg, "code") else msg.data
    return condition.wrong(value, messages.printable(getattr(msg, "message", ""), 80))


class OperatorButtons:
    """Calls back when a button goes down; `reason` while the one that must be held is not.

    Whoever publishes joy may stop the robot. Enable it, or keep it going, may one alone: of two nobody can tell whose
    button it is that is down.
    """

    def __init__(
        self, node: RunnableNode, buttons: Buttons, enable: Callable[[], object], stop: Callable[[], object]
    ) -> None:
        self._node, self._buttons = node, buttons
        self._stop, self._enable = stop, enable
        self._pressed: list[bool] | None = None
        self._held: float | None = None
        """When the button that must be held was seen pressed last."""
        self._listener = Listener(
            node,
            Joy,
            buttons.topic,
            self._on_joy,
            lambda error, msg: None,
            topics.BEST_EFFORT_QOS,
            max_bytes=MAX_BYTES,
        )

    def _on_joy(self, msg: Joy) -> None:
        before, now = self._pressed, messages.buttons_from_msg(msg)
        self._pressed = now
        hold = self._buttons.hold
        self._held = self._node.seconds() if hold is not None and hold < len(now) and now[hold] else None
        if before is None:
            return  # a button that is stuck is not one that was pressed

        def went_down(number: int | None) -> bool:
            return number is not None and number < min(len(now), len(before)) and now[number] and not before[number]

        if went_down(self._buttons.stop):
            self._stop()
        if went_down(self._buttons.enable) and not self._listener.conflict():
            self._enable()

    def reason(self) -> str:
        """Why the robot may not move, or ''."""
        if self._buttons.hold is None:
            return ""
        if conflict := self._listener.conflict():
            return conflict
        if self._held is None or self._node.seconds() - self._held > _HELD_SECONDS:
            return f"{topics.shown(self._node, self._buttons.topic)}: button {self._buttons.hold} is not held"
        return ""
