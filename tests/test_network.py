"""Who reaches the nodes of a simulation: this machine, and not another one that knows its address."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from ros_graph import own_domain

from diffusion_ros import picture_transport

RESOURCES = Path(__file__).parents[1]
HERE, THERE = "10.231.7.1", "10.231.7.2"
NAMES = ("ROS_AUTOMATIC_DISCOVERY_RANGE", "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")

SERVER = """
import rclpy
from std_srvs.srv import Trigger

def stop(request, response):
    response.success = True
    response.message = "stopped"
    return response

rclpy.init()
node = rclpy.create_node("server")
node.create_service(Trigger, "executor/estop", stop)
print("ready", flush=True)
rclpy.spin(node)
"""
CLIENT = """
import sys, time
import rclpy
from std_srvs.srv import Trigger

rclpy.init()
node = rclpy.create_node("client")
client = node.create_client(Trigger, "executor/estop")
said = "nobody"
if client.wait_for_service(timeout_sec=float(sys.argv[1])):
    answer = client.call_async(Trigger.Request())
    rclpy.spin_until_future_complete(node, answer, timeout_sec=5.0)
    said = answer.result().message if answer.done() else "no answer"
print(said)
"""


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


@pytest.fixture
def other_machine() -> Iterator[list[str]]:
    """The first words of a command that runs on another machine: a network namespace, and shared memory of its own."""
    name, near, far = f"dros{os.getpid()}", f"n{os.getpid()}", f"f{os.getpid()}"
    try:
        _run("ip", "netns", "add", name)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs root and iproute2, for a network namespace")
    try:
        _run("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", name)
        _run("ip", "address", "add", f"{HERE}/24", "dev", near)
        _run("ip", "link", "set", near, "up")
        _run("ip", "-n", name, "address", "add", f"{THERE}/24", "dev", far)
        _run("ip", "-n", name, "link", "set", far, "up")
        _run("ip", "-n", name, "link", "set", "lo", "up")
        own_memory = 'mount -t tmpfs none /dev/shm && exec "$@"'
        yield ["ip", "netns", "exec", name, "unshare", "--mount", "sh", "-c", own_memory, "sh"]
    finally:
        _run("ip", "netns", "delete", name)


def _call(environment: Mapping[str, str], prefix: list[str], seconds: float) -> str:
    words = [*prefix, sys.executable, "-c", CLIENT, str(seconds)]
    run = subprocess.run(words, env=dict(environment), capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.mark.parametrize(("chosen", "from_there"), [("", "nobody"), ("SUBNET", "stopped")])
def test_another_machine_that_knows_the_address_calls_nothing(
    chosen: str, from_there: str, other_machine: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """chosen: what the user says of whom to look for; '': nothing."""
    with own_domain(), monkeypatch.context() as patch:
        for name in NAMES:
            patch.delenv(name, raising=False)
        patch.setenv("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")
        plain = dict(os.environ)
        if chosen:
            patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", chosen)
        nodes = {**os.environ, **picture_transport.environment(RESOURCES, simulated=True)}
        server = subprocess.Popen([sys.executable, "-c", SERVER], env=nodes, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None and server.stdout.readline() == "ready\n"
            # Of the same domain, told where to look, and from here as well as from there.
            assert _call(plain, [], 20.0) == "stopped"
            there = {**plain, "ROS_STATIC_PEERS": HERE}
            assert _call(there, other_machine, 20.0 if chosen else 4.0) == from_there
        finally:
            server.kill()
            server.communicate()
