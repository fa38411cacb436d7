"""The executor against rclpy's: everything that a node can have is called back, and what comes and goes is noticed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import rclpy
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.executors import ExternalShutdownException
from rclpy.guard_condition import GuardCondition
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from rclpy.waitable import NumberOfEntities, Waitable
from ros_graph import own_domain
from std_msgs.msg import String
from std_srvs.srv import Trigger

from diffusion_ros.ros import message_executor
from diffusion_ros.ros.message_executor import MessageExecutor


@pytest.fixture
def made() -> Iterator[tuple[MessageExecutor, Node]]:
    with own_domain():
        rclpy.init()
        node = rclpy.create_node("one")
        executor = MessageExecutor()
        executor.add_node(node)
        yield executor, node
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()


def until(executor: MessageExecutor, condition: Callable[[], Any], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        executor.spin_once(timeout_sec=0.05)


def texts(node: Node, topic: str) -> list[str]:
    """What comes there from now on."""
    heard: list[str] = []
    node.create_subscription(String, topic, lambda msg: heard.append(msg.data), 10)
    return heard


def patient_service(node: Node) -> tuple[list[int], Future[str]]:
    """One, /patient, that answers what it awaits; and how often it was asked."""
    began: list[int] = []
    wait: Future[str] = Future()

    async def patient(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        began.append(1)
        response.message = await wait
        return response

    node.create_service(Trigger, "patient", patient)
    return began, wait


def test_all_messages_that_have_come_are_handed_over_at_once_and_in_order(
    made: tuple[MessageExecutor, Node],
) -> None:
    executor, node = made
    publishers = [node.create_publisher(String, f"topic_{i}", 10) for i in range(5)]
    heard = [texts(node, f"topic_{i}") for i in range(5)]
    until(executor, lambda: all(one.get_subscription_count() for one in publishers))
    for text in ("first", "second"):
        for publisher in publishers:
            publisher.publish(String(data=text))
    time.sleep(0.2)
    for _ in range(2):  # one message of each topic for each
        executor.spin_once(timeout_sec=1.0)
    assert heard == 5 * [["first", "second"]]


def test_a_callback_may_ask_when_its_message_came(made: tuple[MessageExecutor, Node]) -> None:
    executor, node = made
    infos: list[Any] = []
    node.create_subscription(String, "text", lambda msg, info: infos.append(info), 10)
    publisher = node.create_publisher(String, "text", 10)
    until(executor, publisher.get_subscription_count)
    before = time.time_ns()
    publisher.publish(String())
    until(executor, lambda: infos)
    assert before <= infos[0]["received_timestamp"] <= time.time_ns()


def test_what_is_made_or_destroyed_in_a_callback_counts_from_then_on(made: tuple[MessageExecutor, Node]) -> None:
    executor, node = made
    publisher = node.create_publisher(String, "text", 10)
    later: list[str] = []
    subscriptions: list[Any] = []

    def first(msg: String) -> None:
        node.destroy_subscription(subscriptions.pop())
        node.create_subscription(String, "text", lambda msg: later.append(msg.data), 10)

    subscriptions.append(node.create_subscription(String, "text", first, 10))
    until(executor, publisher.get_subscription_count)
    publisher.publish(String(data="to the first"))
    until(executor, lambda: not subscriptions)
    while not later:
        publisher.publish(String(data="to the second"))
        executor.spin_once(timeout_sec=0.05)
    assert later[0] == "to the second"


def test_what_is_destroyed_is_not_called_though_it_was_ready(made: tuple[MessageExecutor, Node]) -> None:
    executor, node = made
    called: list[str] = []
    subscriptions: dict[str, Any] = {}
    timers: dict[str, Any] = {}

    def destroy_the_other(of: dict[str, Any], name: str, destroy: Callable[[Any], bool], *message: String) -> None:
        called.append(name)
        other = next((one for one in of if one != name), None)
        if other is not None:
            destroy(of.pop(other))

    for name in ("one", "two"):
        call = partial(destroy_the_other, subscriptions, name, node.destroy_subscription)
        subscriptions[name] = node.create_subscription(String, "text", call, 10)
    publisher = node.create_publisher(String, "text", 10)
    until(executor, lambda: publisher.get_subscription_count() == 2)
    while executor._events_due < time.monotonic() + 0.08:  # until rclpy has just had its turn
        executor.spin_once(timeout_sec=0.0)
    called.clear()
    for name in ("ring one", "ring two"):
        timers[name] = node.create_timer(0.02, partial(destroy_the_other, timers, name, node.destroy_timer))
    publisher.publish(String())
    time.sleep(0.05)
    for _ in range(5):
        executor.spin_once(timeout_sec=0.01)
    assert len({name for name in called if "ring" not in name}) == 1
    assert len({name for name in called if "ring" in name}) == 1


def test_what_another_thread_makes_is_noticed_while_it_waits(made: tuple[MessageExecutor, Node]) -> None:
    executor, node = made
    executor.spin_once(timeout_sec=0.0)
    rang: list[float] = []
    began = time.monotonic()
    maker = threading.Timer(0.2, lambda: node.create_timer(0.05, lambda: rang.append(time.monotonic())))
    maker.start()
    while not rang and time.monotonic() < began + 20:
        executor.spin_once(timeout_sec=10.0)
    maker.join()
    assert rang and rang[0] - began < 5


def test_a_timer_rings_and_a_cancelled_one_does_not(made: tuple[MessageExecutor, Node]) -> None:
    executor, node = made
    rang = {"on": 0, "off": 0}

    def ring(name: str) -> None:
        rang[name] += 1

    node.create_timer(0.01, lambda: ring("on"))
    off = node.create_timer(0.01, lambda: ring("off"))
    off.cancel()
    until(executor, lambda: rang["on"] >= 5)
    assert rang["off"] == 0
    off.reset()
    until(executor, lambda: rang["off"] >= 2)


def test_services_answer_and_clients_hear_it(made: tuple[MessageExecutor, Node]) -> None:
    executor, node = made
    wait: Future[str] = Future()

    async def patient(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.message = await wait
        return response

    def quick(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.message = "at once"
        return response

    node.create_service(Trigger, "patient", patient, callback_group=ReentrantCallbackGroup())
    node.create_service(Trigger, "quick", quick)
    clients = {name: node.create_client(Trigger, name) for name in ("patient", "quick")}
    until(executor, lambda: all(client.service_is_ready() for client in clients.values()))
    answers = {name: client.call_async(Trigger.Request()) for name, client in clients.items()}
    until(executor, answers["quick"].done)
    assert answers["quick"].result().message == "at once"
    executor.spin_once(timeout_sec=0.05)
    assert not answers["patient"].done()
    wait.set_result("at last")
    until(executor, answers["patient"].done)
    assert answers["patient"].result().message == "at last"


class Bell(Waitable):
    """A waitable, as rclpy's action clients and servers are."""

    def __init__(self, node: Node) -> None:
        super().__init__(node.default_callback_group)
        self.bell = GuardCondition(None, None, context=node.context)
        self.rang = 0
        self._ready = False

    def add_to_wait_set(self, wait_set: Any) -> None:
        wait_set.add_guard_condition(self.bell.handle)

    def get_num_entities(self) -> NumberOfEntities:
        return NumberOfEntities(0, 1)

    def is_ready(self, wait_set: Any) -> bool:
        self._ready |= self.bell.handle.pointer in wait_set.get_ready_entities("guard_condition")
        return self._ready

    def take_data(self) -> None:
        self._ready = False

    async def execute(self, taken_data: None) -> None:
        self.rang += 1

    def has_rung(self, times: int) -> bool:
        return self.rang == times

    def __enter__(self) -> None:
        self.bell.handle.__enter__()

    def __exit__(self, *of: Any) -> None:
        self.bell.handle.__exit__(*of)


def test_waitables_are_served(made: tuple[MessageExecutor, Node]) -> None:
    executor, node = made
    bell = Bell(node)
    node.add_waitable(bell)
    executor.spin_once(timeout_sec=0.0)
    for count in (1, 2):
        bell.bell.trigger()
        until(executor, partial(bell.has_rung, count), 5.0)
    node.remove_waitable(bell)
    executor.spin_once(timeout_sec=0.0)
    bell.bell.destroy()


def test_a_guard_condition_is_not_lost(made: tuple[MessageExecutor, Node]) -> None:
    executor, node = made
    called: list[int] = []
    guard = node.create_guard_condition(lambda: called.append(1))
    executor.spin_once(timeout_sec=0.0)
    guard.trigger()
    until(executor, lambda: called, 5.0)
    executor.spin_once(timeout_sec=0.05)
    assert called == [1]


def test_who_cannot_be_heard_is_said(made: tuple[MessageExecutor, Node]) -> None:
    executor, node = made
    said: list[int] = []
    events = SubscriptionEventCallbacks(incompatible_qos=lambda info: said.append(info.total_count))
    node.create_subscription(String, "text", lambda msg: None, 10, event_callbacks=events)
    quiet = PublisherEventCallbacks(use_default_callbacks=False)  # the default of rclpy 9.1 warns of itself
    best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    node.create_publisher(String, "text", best_effort, event_callbacks=quiet)
    until(executor, lambda: said)
    assert said == [1]


def test_a_group_that_excludes_others_does_so_while_it_awaits(made: tuple[MessageExecutor, Node]) -> None:
    executor, node = made
    began, wait = patient_service(node)
    client = node.create_client(Trigger, "patient", callback_group=ReentrantCallbackGroup())
    heard = texts(node, "text")
    publisher = node.create_publisher(String, "text", 10)
    until(executor, lambda: publisher.get_subscription_count() and client.service_is_ready())
    answer = client.call_async(Trigger.Request())
    until(executor, lambda: began)
    publisher.publish(String(data="later"))
    for _ in range(20):
        executor.spin_once(timeout_sec=0.01)
    assert not heard
    wait.set_result("")
    until(executor, lambda: answer.done() and heard)


def test_who_comes_and_goes_with_each_message_keeps_nobody_waiting(made: tuple[MessageExecutor, Node]) -> None:
    executor, node = made
    rang: list[int] = []

    def come_and_go(msg: String) -> None:
        node.destroy_publisher(node.create_publisher(String, "short", 1))

    node.create_subscription(String, "text", come_and_go, 10)
    heard = texts(node, "other")
    publishers = [node.create_publisher(String, name, 10) for name in ("text", "other")]
    until(executor, lambda: all(one.get_subscription_count() for one in publishers))
    node.create_timer(0.001, lambda: rang.append(1))
    for _ in range(20):
        for publisher in publishers:
            publisher.publish(String())
        time.sleep(0.002)
        executor.spin_once(timeout_sec=0.05)
    until(executor, lambda: len(heard) == 20)
    assert len(rang) >= 18


@pytest.mark.parametrize("how", ["shutdown", "remove"])
def test_another_thread_may_end_it_while_it_waits(made: tuple[MessageExecutor, Node], how: str) -> None:
    executor, _ = made
    other = rclpy.create_node("other")
    heard = texts(other, "text")
    executor.add_node(other)

    def end() -> None:
        if how == "shutdown":
            executor.shutdown()
        else:
            executor.remove_node(other)
        other.destroy_node()

    for _ in range(5):
        executor.spin_once(timeout_sec=0.0)
    ending = threading.Timer(0.05, end)
    ending.start()
    began = time.monotonic()
    while ending.is_alive() and time.monotonic() < began + 20:
        executor.spin_once(timeout_sec=0.3)
    ending.join()
    executor.spin_once(timeout_sec=0.0)
    assert not heard


def test_a_task_of_a_node_that_left_is_not_asked_for_ever(made: tuple[MessageExecutor, Node]) -> None:
    executor, node = made
    other = rclpy.create_node("other")
    executor.add_node(other)
    began, _ = patient_service(other)
    client = node.create_client(Trigger, "patient")
    until(executor, client.service_is_ready)
    client.call_async(Trigger.Request())
    until(executor, lambda: began)
    executor.remove_node(other)
    for _ in range(3):
        executor.spin_once(timeout_sec=0.0)
    assert not executor._going()[0]
    other.destroy_node()


def test_an_rclpy_that_lacks_what_it_uses_runs_as_it_is(
    made: tuple[MessageExecutor, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, node = made
    monkeypatch.setattr(message_executor, "_USED", ("no_such_name",))
    executor = MessageExecutor()
    monkeypatch.setattr(MessageExecutor, "_spin", None)
    executor.add_node(node)
    heard = texts(node, "text")
    publisher = node.create_publisher(String, "text", 10)
    until(executor, publisher.get_subscription_count)
    publisher.publish(String(data="one"))
    until(executor, lambda: heard)
    executor.shutdown()


@pytest.mark.parametrize("where", ["subscription", "timer"])
def test_what_a_callback_raises_ends_the_spin(made: tuple[MessageExecutor, Node], where: str) -> None:
    executor, node = made

    def fail(*of: Any) -> None:
        raise LookupError("no such thing")

    publisher = node.create_publisher(String, "text", 10)
    if where == "timer":
        node.create_timer(0.01, fail)
    else:
        node.create_subscription(String, "text", fail, 10)

    def go_on() -> bool:
        publisher.publish(String())
        return False

    with pytest.raises(LookupError, match="no such thing"):
        until(executor, go_on)


def test_it_waits_no_longer_than_it_is_told(made: tuple[MessageExecutor, Node]) -> None:
    executor, _ = made
    for _ in range(20):  # what has only begun: discovery, and its own guard conditions
        executor.spin_once(timeout_sec=0.0)
    began = time.monotonic()
    executor.spin_once(timeout_sec=0.3)
    assert 0.25 < time.monotonic() - began < 3


def test_the_end_of_the_context_ends_the_spin(made: tuple[MessageExecutor, Node]) -> None:
    executor, _ = made
    rclpy.shutdown()
    with pytest.raises(ExternalShutdownException):
        executor.spin_once(timeout_sec=1.0)


def test_a_node_that_left_is_not_called(made: tuple[MessageExecutor, Node]) -> None:
    executor, node = made
    other = rclpy.create_node("other")
    executor.add_node(other)
    heard, still = texts(other, "text"), texts(node, "text")
    publisher = node.create_publisher(String, "text", 10)
    until(executor, lambda: publisher.get_subscription_count() == 2)
    publisher.publish(String(data="one"))
    until(executor, lambda: heard and still)
    executor.remove_node(other)
    publisher.publish(String(data="two"))
    until(executor, lambda: len(still) == 2)
    other.destroy_node()
    assert heard == ["one"]
