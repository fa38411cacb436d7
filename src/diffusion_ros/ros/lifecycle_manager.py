"""Brings managed nodes to life and keeps them so, as Nav2's lifecycle manager does: all are configured, then they are
activated one after the other. A node that was started again is brought to life again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.node import Node
from rclpy.task import Future

_LOOK_SECONDS = 1.0
"""Between two looks at a node that lives: so long it takes to notice that it was started again."""
_ANSWER_SECONDS = 2.0
"""For the answer to a look; then it is asked again, as a node that ended never answers."""
_CONFIGURE_SECONDS = 120.0
"""For loading."""
_UNKNOWN = State.PRIMARY_STATE_UNKNOWN


@dataclass
class _Managed:
    name: str
    look: Any
    """Client of its get_state."""
    change: Any
    """Client of its change_state."""
    state: int = _UNKNOWN
    asked: Future[Any] | None = None
    deadline: float = 0.0
    next_look: float = 0.0
    forgotten: bool = False
    """Whether it was started again while it was asked something."""


class LifecycleManager:
    """names: of nodes in `node`'s namespace, in the order in which they are activated. said: is told what fails, a line
    each. Whoever has it spins `node` and calls `poll`, some times a second."""

    def __init__(self, node: Node, names: Sequence[str], said: Callable[[str], object]) -> None:
        self._said = said
        self._nodes = [
            _Managed(
                name,
                node.create_client(GetState, f"{name}/get_state"),
                node.create_client(ChangeState, f"{name}/change_state"),
            )
            for name in names
        ]

    @property
    def states(self) -> dict[str, int]:
        """By name, lifecycle_msgs/State's numbers; 0: not known."""
        return {one.name: one.state for one in self._nodes}

    @property
    def active(self) -> bool:
        """Whether all are."""
        return all(one.state == State.PRIMARY_STATE_ACTIVE for one in self._nodes)

    def forget(self, name: str) -> None:
        """A node was started again."""
        for one in self._nodes:
            if one.name == name:
                one.state, one.next_look, one.forgotten = _UNKNOWN, 0.0, one.asked is not None

    def poll(self) -> None:
        """Takes the answers that have come, and asks for the next step of each node."""
        now = time.monotonic()
        for one in self._nodes:
            self._hear(one, now)
        configured = all(one.state in (State.PRIMARY_STATE_INACTIVE, State.PRIMARY_STATE_ACTIVE) for one in self._nodes)
        before_active = True
        for one in self._nodes:
            if one.asked is None:
                if one.state == State.PRIMARY_STATE_UNCONFIGURED:
                    self._change(one, Transition.TRANSITION_CONFIGURE, now + _CONFIGURE_SECONDS)
                elif one.state == State.PRIMARY_STATE_INACTIVE and configured and before_active:
                    self._change(one, Transition.TRANSITION_ACTIVATE, now + _ANSWER_SECONDS)
                elif now >= one.next_look and one.look.service_is_ready():
                    one.asked = one.look.call_async(GetState.Request())
                    one.deadline = now + _ANSWER_SECONDS
            before_active &= one.state == State.PRIMARY_STATE_ACTIVE

    def _change(self, one: _Managed, transition: int, deadline: float) -> None:
        if one.change.service_is_ready():
            request = ChangeState.Request(transition=Transition(id=transition))
            one.asked, one.deadline = one.change.call_async(request), deadline

    def _hear(self, one: _Managed, now: float) -> None:
        asked = one.asked
        if asked is None:
            return
        if not asked.done():
            # Whoever was started again does not know what its predecessor was asked.
            if now > one.deadline or one.forgotten:
                asked.cancel()
                one.asked, one.state, one.next_look, one.forgotten = None, _UNKNOWN, 0.0, False
            return
        one.asked, one.forgotten = None, False
        answer = asked.result()
        if isinstance(answer, GetState.Response):
            one.state, one.next_look = int(answer.current_state.id), now + _LOOK_SECONDS
        else:
            # What has become of it is asked at once.
            one.state, one.next_look = _UNKNOWN, 0.0
            if answer is None or not answer.success:
                self._said(f"{one.name} could not be brought to life")

    def release(self, spin: Callable[[float], object], seconds: float = 0.5) -> None:
        """At the end: deactivates those that are active, the last first; what does not answer within `seconds` is left
        to whoever ends it. spin: spins the node for so long [s] at most."""
        deadline = time.monotonic() + seconds
        for one in reversed(self._nodes):
            if one.state != State.PRIMARY_STATE_ACTIVE or not one.change.service_is_ready():
                continue
            if one.asked is not None:
                one.asked.cancel()
            request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_DEACTIVATE))
            one.asked = one.change.call_async(request)
            while not one.asked.done() and time.monotonic() < deadline:
                spin(0.02)
            one.state = _UNKNOWN
