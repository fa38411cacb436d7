"""The services that a page's buttons call, and what they answered."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from std_srvs.srv import SetBool, Trigger

Answer = Callable[[bool, str], None]
"""Takes whether it was done, and what was said."""

SERVICES: dict[str, tuple[tuple[str, ...], bool | None]] = {
    "stop": (("executor/estop",), None),
    "enable": (("executor/set_enabled",), True),
    "hold": (("executor/set_enabled",), False),
    "release": (("executor/estop_reset",), None),
    "reset": (("simulation/reset", "rehearsal/reset", "maze/reset", "gym_simulation/reset"), None),
    "next": (("simulation/next", "rehearsal/next", "maze/next", "gym_simulation/next"), None),
    "generate": (("image_generator/generate",), None),
    "record_start": (("recorder/start",), None),
    "success": (("recorder/success",), None),
    "failure": (("recorder/failure",), None),
    "discard": (("recorder/discard",), None),
}
"""Button -> the services of which one is there, and what SetBool is given; None: a Trigger."""
_PATIENCE = 3.0
"""Seconds in which a service is to answer."""


class Services:
    """Clients of those that are there."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._clients: dict[str, Any] = {}
        self._pending: dict[Any, tuple[float, str, Answer]] = {}
        self.can: list[str] = []
        """Buttons that something stands behind."""

    def survey(self) -> None:
        """Looks which are there; once a second."""
        there = {name for name, _ in self._node.get_service_names_and_types()}
        can = []
        for button, (names, value) in SERVICES.items():
            for name in names:
                full = self._node.resolve_service_name(name)
                if full in there:
                    can.append(button)
                    if full not in self._clients:
                        kind = Trigger if value is None else SetBool
                        self._clients[full] = self._node.create_client(kind, name)
                    break
        self.can = can

    def call(self, button: str, answer: Answer) -> None:
        """Asks, and passes on what was answered."""
        names, value = SERVICES[button]
        for name in names:
            client = self._clients.get(self._node.resolve_service_name(name))
            if client is not None and client.service_is_ready():
                request = Trigger.Request() if value is None else SetBool.Request(data=value)
                future = client.call_async(request)
                self._pending[future] = time.monotonic(), name, answer
                future.add_done_callback(self._done)
                return
        answer(False, f"{button}: {' or '.join(names)} is not there")

    def _done(self, future: Any) -> None:
        _, name, answer = self._pending.pop(future, (0.0, "", None))
        if answer is None:
            return
        response = future.result()
        if response is None:
            answer(False, f"{name}: no answer")
        else:
            answer(bool(response.success), str(response.message) or name)

    def expire(self) -> None:
        """Says of those that do not answer that they do not."""
        now = time.monotonic()
        for future, (asked, name, answer) in list(self._pending.items()):
            if now - asked > _PATIENCE:
                del self._pending[future]
                future.cancel()
                answer(False, f"{name} has not answered for {_PATIENCE:.0f} s")
