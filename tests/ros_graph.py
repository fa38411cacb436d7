"""A ROS graph of a test's own: a domain that nobody shares, nodes spun in this process, and nothing left behind."""

from __future__ import annotations

import fcntl
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import rclpy
from rclpy.node import Node

from diffusion_ros.ros.message_executor import MessageExecutor

with warnings.catch_warnings():
    # rclpy imports this at its first publisher; its parser uses modules that Python 3.11 deprecates.
    warnings.simplefilter("ignore", DeprecationWarning)
    import rosidl_generator_py  # noqa: F401

ROOT = Path(__file__).parents[1]


@contextmanager
def own_domain() -> Iterator[int]:
    """A domain id that no other test process on this machine has meanwhile; set in the environment, local host only."""
    for domain in range(1, 101):  # above 101 its ports meet those that the system gives to others
        lock = os.open(Path(gettempdir()) / f"ros_domain_{domain}.lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            continue
        changes = {
            "ROS_DOMAIN_ID": str(domain),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "ROS_PYTHON_CHECK_FIELDS": "1",
        }
        before = {name: os.environ.get(name) for name in changes}
        os.environ.update(changes)
        try:
            yield domain
        finally:
            for name, old in before.items():
                if old is None:
                    del os.environ[name]
                else:
                    os.environ[name] = old
            os.close(lock)
        return
    raise RuntimeError("all ROS domains are in use by other tests")


class Graph:
    """Nodes in this process, driven by the test: `spin_until` runs their callbacks."""

    def __init__(self) -> None:
        self._executor = MessageExecutor()
        self._nodes: list[Any] = []

    def add(self, node: Any) -> Any:
        self._nodes.append(node)
        self._executor.add_node(node)
        return node

    def remove(self, node: Any) -> None:
        self._nodes.remove(node)
        self._executor.remove_node(node)
        if hasattr(node, "close"):
            node.close()
        node.destroy_node()

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._executor.spin_once(timeout_sec=0.01)

    def spin_until(self, condition: Callable[[], Any], timeout: float = 30.0) -> Any:
        """The condition's value once it is true; fails after the timeout."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            result = condition()
            if result:
                return result
            self._executor.spin_once(timeout_sec=0.01)
        raise AssertionError(f"not within {timeout} s")

    def call(self, node: Node, service_type: Any, name: str, request: Any) -> Any:
        client = node.create_client(service_type, name)
        self.spin_until(client.service_is_ready)
        future = client.call_async(request)
        self.spin_until(future.done)
        node.destroy_client(client)
        return future.result()

    def close(self) -> None:
        for node in list(self._nodes):
            self.remove(node)
        self._executor.shutdown()


@contextmanager
def nodes() -> Iterator[Graph]:
    """Nodes in the domain that the environment names."""
    rclpy.init()
    made = Graph()
    try:
        yield made
    finally:
        made.close()
        rclpy.try_shutdown()


@contextmanager
def graph() -> Iterator[Graph]:
    with own_domain(), nodes() as made:
        yield made
