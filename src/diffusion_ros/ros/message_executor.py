"""An executor that hands over all messages that have come after one wait.

rclpy's single-threaded executor gathers all entities of a node, makes a wait set of them, waits, and calls back one;
each callback also wakes the next wait twice. For a node with six small topics at 20 Hz that is most of what ROS costs.
Here the gathered entities and their wait set are kept until an entity comes or goes. All messages that are there are
handed over, then timers ring, and whatever else is ready is left to rclpy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Any, NamedTuple

from rclpy.event_handler import EventHandler
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor, TimeoutException
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.subscription import Subscription
from rclpy.waitable import NumberOfEntities

_EVENTS_SECONDS = 0.1
"""How often events of publishers and subscriptions are looked for, as that their QoS is incompatible."""
_POLL_SECONDS = 0.001
"""Between two looks at a coroutine that awaits something: rclpy only asks again."""


class MessageExecutor(SingleThreadedExecutor):
    """As rclpy's SingleThreadedExecutor, only quicker; `spin_once` calls back all that is ready.

    Callbacks of subscriptions and timers must be functions, no coroutines.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._kept: _Kept | None = None
        self._stale = False
        """Whether an entity has come or gone since `_kept` was made. Any thread may say so."""
        self._events_due = 0.0

    def wake(self) -> None:
        self._stale = True
        super().wake()

    def add_node(self, node: Node) -> bool:
        self._stale = True
        return super().add_node(node)

    def remove_node(self, node: Node) -> None:
        super().remove_node(node)
        self._forget()

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        self._forget()
        return super().shutdown(timeout_sec)

    def _forget(self) -> None:
        if self._kept is not None:
            self._kept.release.close()
            self._kept = None

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Waits until something is ready, or for timeout_sec [s] (None: for ever), and calls back all that is."""
        self._check()
        now = time.monotonic()
        if self._tasks or now >= self._events_due:
            self._events_due = now + _EVENTS_SECONDS
            self._others()
        if self._kept is None or self._stale:
            self._stale = False  # first: what comes or goes meanwhile counts for the next time
            self._forget()
            self._kept = _Kept(self)
        limit = _EVENTS_SECONDS if timeout_sec is None or timeout_sec < 0 else timeout_sec
        ready = self._kept.wait(_POLL_SECONDS if self._tasks else limit)
        self._check()
        for subscription in filter(self.can_execute, ready.messages):
            message = subscription.handle.take_message(subscription.msg_type, subscription.raw)
            if message is None:
                continue
            if subscription._callback_type is Subscription.CallbackType.MessageOnly:
                subscription.callback(message[0])
            else:
                subscription.callback(*message)
            if self._stale:  # one of the others may be gone
                break
        for timer in ready.timers:
            if self._stale:
                break
            if timer.handle.is_timer_ready() and self.can_execute(timer):  # a cancelled one is not
                _ring(self._take_timer(timer))
        if ready.others:
            self._others()

    def _check(self) -> None:
        if not self._context.ok():
            raise ExternalShutdownException

    def _others(self) -> None:
        """All that is ready, as rclpy does it."""
        try:
            while True:
                handler, _, _ = self.wait_for_ready_callbacks(0)
                handler()
                if handler.done():
                    handler.result()  # raises what the callback raised
        except TimeoutException:
            pass
        with self._tasks_lock:
            self._tasks = [task for task in self._tasks if not task[0].done()]


def _ring(called: Callable[[], Coroutine[Any, Any, None]] | None) -> None:
    """What rclpy makes of a timer's callback is a coroutine, which ends without waiting for anything."""
    if called is None:
        return
    running = called()
    try:
        running.send(None)
    except StopIteration:
        return
    running.close()
    raise TypeError("a timer's callback is a coroutine: a function is expected")


class _Ready(NamedTuple):
    messages: list[Any]
    """Subscriptions."""
    timers: list[Any]
    others: bool
    """Whether anything else is."""


class _Kept:
    """All entities of an executor's nodes but events, and a wait set with room for them."""

    def __init__(self, executor: MessageExecutor) -> None:
        nodes = executor.get_nodes()
        self.release = ExitStack()
        """Until it is closed, none of them is destroyed."""
        enter = self._enter
        self.subscriptions = enter([one for node in nodes for one in node.subscriptions])
        self.timers = enter([one for node in nodes for one in node.timers])
        self.clients = enter([one for node in nodes for one in node.clients])
        self.services = enter([one for node in nodes for one in node.services])
        self.guards = enter([*(one for node in nodes for one in node.guards), executor._guard, executor._sigint_gc])
        self.own_guards = {one.handle.pointer for one in self.guards[-2:]}
        self.waitables = [one for node in nodes for one in node.waitables if not isinstance(one, EventHandler)]
        for waitable in self.waitables:
            self.release.enter_context(waitable)
        context = executor.context.handle
        assert context is not None  # it was ok
        self.release.enter_context(context)
        room = NumberOfEntities(
            len(self.subscriptions), len(self.guards), len(self.timers), len(self.clients), len(self.services)
        )
        for waitable in self.waitables:
            room += waitable.get_num_entities()
        self.wait_set = rclpy_implementation.WaitSet(
            room.num_subscriptions,
            room.num_guard_conditions,
            room.num_timers,
            room.num_clients,
            room.num_services,
            room.num_events,
            context,
        )

    def _enter(self, entities: list[Any]) -> list[Any]:
        entered = []
        for entity in entities:
            try:
                self.release.enter_context(entity.handle)
            except rclpy_implementation.InvalidHandle:
                continue  # it has just been destroyed
            entered.append(entity)
        return entered

    def wait(self, seconds: float) -> _Ready:
        """What is ready by then."""
        wait_set = self.wait_set
        wait_set.clear_entities()
        for subscription in self.subscriptions:
            wait_set.add_subscription(subscription.handle)
        for client in self.clients:
            wait_set.add_client(client.handle)
        for service in self.services:
            wait_set.add_service(service.handle)
        for timer in self.timers:
            wait_set.add_timer(timer.handle)
        for guard in self.guards:
            wait_set.add_guard_condition(guard.handle)
        for waitable in self.waitables:
            waitable.add_to_wait_set(wait_set)
        wait_set.wait(round(seconds * 1e9))
        ready = wait_set.get_ready_entities
        others = bool(ready("service") or ready("client"))
        for waitable in self.waitables:
            others |= waitable.is_ready(wait_set)
        pointers = ready("guard_condition")
        for guard in self.guards:
            if guard.handle.pointer in pointers and guard.handle.pointer not in self.own_guards:
                guard._executor_triggered = others = True  # waiting has taken it: rclpy's next wait triggers it again
        messages, rings = ready("subscription"), ready("timer")
        return _Ready(
            [one for one in self.subscriptions if one.handle.pointer in messages],
            [one for one in self.timers if one.handle.pointer in rings],
            others,
        )
