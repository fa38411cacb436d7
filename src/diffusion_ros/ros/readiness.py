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
    """Calls back when a button goes down; `reason` while `stop` is down or unknown, or `hold` is not held.

    Whoever publishes joy may stop the robot. Enable it, or keep it going, may one alone: of two nobody can tell whose
    button it is that is down. Silence after the first message is no reason by itself, but for `hold`: some drivers of
    joysticks publish only what changes.
    """

    def __init__(
        self,
        node: RunnableNode,
        buttons: Buttons,
        enable: Callable[[], object],
        stop: Callable[[], object],
        awaited: bool = True,
    ) -> None:
        """awaited: whether nothing may move before the buttons were heard of; a rehearsal does without a joystick."""
        self._node, self._buttons = node, buttons
        self._stop, self._enable = stop, enable
        self._awaited = awaited
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
        self._held = self._node.seconds() if _is_down(now, self._buttons.hold) else None
        # What nothing was known of before may have gone down unheard: enough for a stop, not for moving on.
        if _is_down(now, self._buttons.stop) and not (before and _is_down(before, self._buttons.stop)):
            self._stop()
        enable = self._buttons.enable
        if _is_down(now, enable) and before and _is_up(before, enable) and not self._listener.conflict():
            self._enable()

    def reason(self) -> str:
        """Why the robot may not move, or ''."""
        if self._pressed is None and not self._awaited:
            return ""
        buttons, name = self._buttons, topics.shown(self._node, self._buttons.topic)
        if buttons.stop is not None:
            needed = max(buttons.stop, buttons.enable or 0)
            if self._pressed is None:
                return f"{name}: nothing received, the button to stop expected"
            if needed >= len(self._pressed):
                return f"{name}: {len(self._pressed)} buttons, a button {needed} expected"
            if self._pressed[buttons.stop]:
                return f"{name}: button {buttons.stop}, to stop, is pressed"
        if buttons.hold is None:
            return ""
        if conflict := self._listener.conflict():
            return conflict
        if self._held is None or self._node.seconds() - self._held > _HELD_SECONDS:
            return f"{name}: button {buttons.hold} is not held"
        return ""


def _is_down(pressed: list[bool], number: int | None) -> bool:
    return number is not None and number < len(pressed) and pressed[number]


def _is_up(pressed: list[bool], number: int | None) -> bool:
    return number is not None and number < len(pressed) and not pressed[number]
