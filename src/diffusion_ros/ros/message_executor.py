"""An executor that hands over what has come on all topics after one wait.

rclpy's single-threaded executor gathers all entities of a node, makes a wait set of them, waits, and calls back one;
each callback also wakes the next wait twice. tests/benchmarks/bench_executor.py says what that costs.

Here the gathered entities and their wait set are kept until an entity comes or goes. One message of each topic that has
any is handed over, then timers ring, and whatever else is ready is left to rclpy: services, clients, actions, guard
conditions, coroutines, and ten times a second events, as that QoS is incompatible.

It uses what rclpy keeps for itself. An rclpy that lacks it runs as it is, without this.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from threading import RLock
from typing import Any, NamedTuple

from rclpy.event_handler import EventHandler
from rclpy.executors import ExternalShutdownException, ShutdownException, SingleThreadedExecutor, TimeoutException
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.subscription import Subscription
from rclpy.waitable import NumberOfEntities

_EVENTS_SECONDS = 0.1
"""How often events of publishers and subscriptions are looked for."""
_POLL_SECONDS = 0.001
"""Between two looks at a coroutine that awaits something: an older rclpy only asks again."""
_USED = ("can_execute", "wait_for_ready_callbacks", "_take_timer", "_guard", "_sigint_gc", "_is_shutdown", "_context")
"""Of rclpy's Executor."""


class MessageExecutor(SingleThreadedExecutor):
    """As rclpy's SingleThreadedExecutor, only quicker; one `spin_once` calls back all that is ready.

    Callbacks of subscriptions and timers must be functions, no coroutines. A waitable must stay ready until it is
    taken, as rclpy's actions do.
    """

    def __init__(self, **options: Any) -> None:
        self._kept: _Kept | None = None
        self._stale = False
        """Whether an entity has come or gone since `_kept` was made. Any thread may say so."""
        self._spinning = False
        """Whether `_kept` is in use: then only who spins lets go of it."""
        self._keeping = RLock()
        self._events_due = 0.0
        super().__init__(**options)
        tasks = hasattr(self, "_tasks") or (hasattr(self, "_ready_tasks") and hasattr(self, "_pending_tasks"))
        known = hasattr(rclpy_implementation, "WaitSet") and hasattr(Subscription, "CallbackType")
        self._fits = tasks and known and all(hasattr(self, name) for name in _USED)

    def wake(self) -> None:
        self._forget()
        super().wake()

    def add_node(self, node: Node) -> bool:
        added = super().add_node(node)
        self.wake()  # only now: said earlier, it may be used up before the node is there
        return added

    def remove_node(self, node: Node) -> None:
        super().remove_node(node)
        if hasattr(self, "_tasks"):
            with self._tasks_lock:  # nobody would go on with them
                self._tasks = [task for task in self._tasks if task[2] is not node]
        self._forget()

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        done = super().shutdown(timeout_sec)
        self._forget()
        return done

    def _forget(self) -> None:
        """Lets go of all entities; while one spins, that one does it when it has done with them."""
        with self._keeping:
            self._stale = True
            if not self._spinning and self._kept is not None:
                self._kept.release.close()
                self._kept = None

    def _going(self) -> tuple[Any, Any]:
        """Tasks to be gone on with, and all tasks. rclpy tells them apart since 7.1.9 (Jazzy) and 10.0.3."""
        own = vars(self)
        return (own["_ready_tasks"], own["_pending_tasks"]) if "_ready_tasks" in own else (own["_tasks"], own["_tasks"])

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Waits until something is ready, or for timeout_sec [s], and calls back all that is. None: until events are
        looked for."""
        if not self._fits:
            super().spin_once(timeout_sec)
            return
        with self._keeping:
            nested, self._spinning = self._spinning, True
        try:
            self._spin(timeout_sec)
        finally:
            with self._keeping:
                self._spinning = nested
                if self._stale:
                    self._forget()

    def _spin(self, timeout_sec: float | None) -> None:
        if self._is_shutdown:
            return
        self._check()
        now = time.monotonic()
        if self._going()[0] or now >= self._events_due:
            self._events_due = now + _EVENTS_SECONDS
            self._others()
            if self._is_shutdown:
                return
            self._check()
        if self._kept is None or self._stale:
            self._stale = False  # first: what comes or goes meanwhile counts for the next time
            if self._kept is not None:
                self._kept.release.close()
            self._kept = None
            self._kept = _Kept(self)
        kept = self._kept
        limit = _EVENTS_SECONDS if timeout_sec is None or timeout_sec < 0 else timeout_sec
        going, tasks = self._going()
        ready = kept.wait(min(_POLL_SECONDS, limit) if going else limit, self.can_execute if tasks else None)
        if self._is_shutdown:
            return
        self._check()
        for subscription in filter(self.can_execute, ready.messages):
            if self._stale or self._kept is not kept:  # it may be gone
                break
            message = subscription.handle.take_message(subscription.msg_type, subscription.raw)
            if message is None:
                continue
            if subscription._callback_type is Subscription.CallbackType.MessageOnly:
                subscription.callback(message[0])
            else:
                subscription.callback(*message)
        for timer in ready.timers:
            if self._stale or self._kept is not kept:
                break
            if timer.handle.is_timer_ready() and self.can_execute(timer):  # a cancelled one is not
                _ring(self._take_timer(timer))
        if ready.others or self._stale:  # then those that were left out are rclpy's
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
        except (TimeoutException, ShutdownException):
            pass
        finally:
            self._cb_iter = None  # where a callback has raised, it holds entities, and what it found is old next time
        if hasattr(self, "_tasks"):
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
        self.release = ExitStack()
        """Until it is closed, none of them is destroyed."""
        try:
            self._gather(executor)
        except BaseException:
            self.release.close()
            raise

    def _gather(self, executor: MessageExecutor) -> None:
        nodes, enter = executor.get_nodes(), self._enter
        own = [one for one in (executor._guard, executor._sigint_gc) if one is not None]
        self.subscriptions = enter([one for node in nodes for one in node.subscriptions])
        self.timers = enter([one for node in nodes for one in node.timers])
        self.clients = enter([one for node in nodes for one in node.clients])
        self.services = enter([one for node in nodes for one in node.services])
        self.guards = enter([*(one for node in nodes for one in node.guards), *own])
        self.own_guards = {one.handle.pointer for one in own}
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

    def wait(self, seconds: float, can_execute: Callable[[Any], bool] | None) -> _Ready:
        """What is ready by then, of what can be executed: what cannot would end each wait at once."""
        wait_set = self.wait_set
        kinds = [self.subscriptions, self.clients, self.services, self.timers, self.waitables]
        if can_execute is not None:
            kinds = [list(filter(can_execute, kind)) for kind in kinds]
        subscriptions, clients, services, timers, waitables = kinds
        wait_set.clear_entities()
        for subscription in subscriptions:
            wait_set.add_subscription(subscription.handle)
        for client in clients:
            wait_set.add_client(client.handle)
        for service in services:
            wait_set.add_service(service.handle)
        for timer in timers:
            wait_set.add_timer(timer.handle)
        for guard in self.guards:
            wait_set.add_guard_condition(guard.handle)
        for waitable in waitables:
            waitable.add_to_wait_set(wait_set)
        wait_set.wait(round(seconds * 1e9))
        ready = wait_set.get_ready_entities
        others = bool(ready("service") or ready("client"))
        for waitable in waitables:
            others |= bool(waitable.is_ready(wait_set))
        pointers = ready("guard_condition")
        for guard in self.guards:
            if guard.handle.pointer in pointers and guard.handle.pointer not in self.own_guards:
                guard._executor_triggered = others = True  # waiting has taken it: rclpy's next wait triggers it again
        messages, rings = ready("subscription"), ready("timer")
        return _Ready(
            [one for one in subscriptions if one.handle.pointer in messages],
            [one for one in timers if one.handle.pointer in rings],
            others,
        )
