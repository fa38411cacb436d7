"""Steers a system that runs: `diffusion_ros stop`, `enable`, `hold`, `release`, `reset`, `fault`, `generate`, `status`.

    diffusion_ros stop
    diffusion_ros reset --domain-id 12 --namespace left

It needs no ros2. A system that `diffusion_ros` started on this machine is found by itself; one of `ros2 launch`, or of
another machine, by --domain-id and --namespace. Exit status: 0 when it was done, 1 after one line where the system
refuses or does not answer, 2 after one line for bad input.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffusion_ros import robot_command
from diffusion_ros.robot_command import Graph
from diffusion_ros.running import RunningSystem, running
from diffusion_ros.systems.startup import UsageError

FAULTS = ("covered", "half covered", "turned", "dark", "swapped", "frozen", "noise", "blur", "object")
"""Of simulated cameras; those of simulators/camera_faults.py, which needs MuJoCo."""
NO_FAULT = "none"
_DISCOVERY_SECONDS = 6.0
_ANSWER_SECONDS = 5.0
_STATUS_SECONDS = 1.2
_LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Word:
    """A command."""

    description: str
    """For the help."""
    service: str = ""
    """Last part of the service's name, '' where there is none."""
    nodes: tuple[str, ...] = ("executor",)
    """Nodes of which one has it."""
    data: bool | None = None
    """What a SetBool says; None: it is a Trigger."""
    done: str = ""
    """What is said then."""
    refused: str = ""
    """What is said instead of the node's own words; '': those."""
    every: bool = False
    """Whether it is for all systems where several run and none was named."""
    absent: str = ""
    """What a system without such a node is told."""


_SIMULATORS = ("simulation", "rehearsal", "maze", "gym_simulation")
_NO_EXECUTOR = "it has no executor; Ctrl-C where it was started ends it"
_THEN = "it moves again after `diffusion_ros release` and `diffusion_ros enable`"
WORDS = {
    "stop": Word(
        "stops the robot at once and keeps it stopped; without --domain-id all systems of this machine",
        "estop",
        done=f"stopped; {_THEN}",
        every=True,
        absent=_NO_EXECUTOR,
    ),
    "hold": Word(
        "lets the robot stay where it is until it is enabled; without --domain-id all systems of this machine",
        "set_enabled",
        data=False,
        done="holds; `diffusion_ros enable` lets it go on",
        every=True,
        absent=_NO_EXECUTOR,
    ),
    "enable": Word(
        "lets the robot move",
        "set_enabled",
        data=True,
        done="enabled: the robot may move",
        refused="is stopped: `diffusion_ros release` first, then `diffusion_ros enable`",
        absent=_NO_EXECUTOR,
    ),
    "release": Word(
        "ends a stop; the robot holds until it is enabled",
        "estop_reset",
        done="released; `diffusion_ros enable` lets it move",
        absent=_NO_EXECUTOR,
    ),
    "reset": Word(
        "begins the episode of a simulation again, from the same seed",
        "reset",
        _SIMULATORS,
        absent="it has no simulator: only simulated episodes can be begun again",
    ),
    "fault": Word("makes a camera of a simulation fail, or ends that", nodes=("simulation",)),
    "generate": Word(
        "lets the image generator draw new images",
        "generate",
        ("image_generator",),
        absent="it has no image generator; `python -m diffusion_ros.nodes.image_generator_node` starts one",
    ),
    "status": Word("says what runs on this machine, and what it does"),
}


class Refused(Exception):
    """The system does not do it; one line."""


@dataclass(frozen=True)
class Target:
    """A system to steer."""

    graph: Graph
    name: str
    """For people."""
    process: int = 0
    """Of who started it; 0: it is not known that it runs, nor by what namespace."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Without which it is not heard."""

    @property
    def named(self) -> bool:
        return self.process > 0


def usage(word: str) -> str:
    """The options of a command, in one line."""
    first = "FAULT CAMERA | none " if word == "fault" else ""
    return f"{first}[--domain-id N] [--namespace NS]"


def _parser(word: str) -> robot_command.Parser:
    description = WORDS[word].description
    parser = robot_command.Parser(word, usage(word), f"{description[0].upper()}{description[1:]}.")
    if word == "fault":
        kinds = ", ".join(FAULTS)
        parser.add_argument("words", nargs="+", metavar="FAULT CAMERA", help=f"one of {kinds}, and a camera; or none")
    parser.add_argument(
        "--domain-id", default="", help="ROS_DOMAIN_ID of the system; default: that of the one that runs"
    )
    parser.add_argument("--namespace", default="", help="its namespace; default: that of the one that runs")
    parser.add_argument("--process", type=int, default=0, help=argparse.SUPPRESS)  # of the one that is meant
    return parser


def targets(word: str, domain_id: str, namespace: str, process: int = 0) -> list[Target]:
    """The systems that are meant: those of this machine that fit, or the one that was named. Raises UsageError where
    several fit and one has to be chosen."""
    found = [
        system
        for system in running()
        if (not process or system.process == process)
        and (not domain_id or str(system.domain_id) == domain_id)
        and (not namespace or system.namespace == namespace)
    ]
    every = WORDS[word].every or word == "status"
    usual = os.environ.get("ROS_DOMAIN_ID", "")
    if not every and not domain_id and any(str(system.domain_id) == usual for system in found):
        found = [system for system in found if str(system.domain_id) == usual]
    if len(found) > 1 and not every:
        several = "; ".join(str(system) for system in found)
        raise UsageError(f"{word}: {len(found)} systems run: {several}: choose one by --domain-id or --namespace")
    if found:
        return [_of(system) for system in found]
    domain = domain_id or usual or "0"
    space = f", namespace {namespace}" if namespace else ""
    return [Target(Graph(int(domain), namespace, False), f"domain {domain}{space}")]


def _of(system: RunningSystem) -> Target:
    graph = Graph(system.domain_id, system.namespace, False)
    return Target(graph, str(system), system.process, system.environment)


def _checked(given: Any) -> tuple[str, str]:
    """Domain and namespace as they were given. Raises UsageError."""
    if given.domain_id or given.namespace:
        graph = robot_command.graph(given)
        return (str(graph.domain_id) if given.domain_id else ""), graph.namespace
    return "", ""


def _fault(words: Sequence[str]) -> str:
    """What is said on camera_fault. Raises UsageError."""
    text = " ".join(words)
    if text == NO_FAULT:
        return ""
    from diffusion_ros.robot import CAMERAS

    fault, _, camera = text.rpartition(" ")
    if fault not in FAULTS:
        named = fault if fault else text
        raise UsageError(f"fault {named!r}: expected one of {', '.join(FAULTS)}, and a camera; or {NO_FAULT}")
    if camera not in CAMERAS:
        raise UsageError(f"camera {camera!r}: expected one of {', '.join(CAMERAS)}")
    return text


def main(word: str, arguments: Sequence[str], stop: Sequence[int] = ()) -> int:
    """Raises UsageError for bad input; stop: filled by a signal. Prints what was done, a line for each system."""
    given = _parser(word).parse_args(arguments)
    given.use_sim_time = False
    fault = _fault(given.words) if word == "fault" else ""
    domain_id, namespace = _checked(given)
    meant = targets(word, domain_id, namespace, given.process)
    if len(meant) > 1:
        return _each(word, meant)
    (target,) = meant
    os.environ.update(target.environment)
    try:
        print(f"{target.name}: {_do(word, target, fault, lambda: bool(stop))}", flush=True)
    except Refused as error:
        print(f"{target.name}: {error}", flush=True)
        return 128 + stop[0] if stop else 1
    return 128 + stop[0] if stop else 0


def _each(word: str, meant: Sequence[Target]) -> int:
    """All at the same time, each by a process of its own: whom one can hear is settled once in a process."""
    command = [sys.executable, "-m", "diffusion_ros", word, "--process"]
    processes = [subprocess.Popen([*command, str(target.process)]) for target in meant]
    return max(process.wait() for process in processes)


def _do(word: str, target: Target, fault: str, stopped: Callable[[], bool]) -> str:
    """Raises Refused."""
    with robot_command.node("steer", target.graph) as node, _Spinning(node, stopped) as spinning:
        if word == "status":
            return _status(spinning, target)
        if word == "fault":
            return _let_fail(spinning, target, fault)
        return _call(spinning, target, WORDS[word])


class _Spinning:
    """Runs a node's callbacks until something is so. A context manager."""

    def __init__(self, node: Any, stopped: Callable[[], bool]) -> None:
        from rclpy.executors import SingleThreadedExecutor

        self.node, self._stopped = node, stopped
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(node)

    def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Whether it became so in time. Raises Refused after a signal."""
        end = time.monotonic() + seconds
        while not condition():
            if self._stopped():
                raise Refused("interrupted: it is not known whether it was done")
            if time.monotonic() > end:
                return False
            self._executor.spin_once(timeout_sec=_LOOK_SECONDS)
        return True

    def __enter__(self) -> _Spinning:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()


def _nobody(target: Target) -> str:
    if target.named:
        return "does not answer yet: it still starts, or it ends; try again"
    if others := running():
        return f"no system of diffusion_ros is heard there; here runs {'; '.join(map(str, others))}"
    return "no system of diffusion_ros is heard there; --domain-id and --namespace name one that `ros2 launch` started"


def _services(spinning: _Spinning, target: Target, word: Word) -> list[str]:
    """Full names of the services that are meant, as many as there are."""
    wanted = tuple(f"/{node}/{word.service}" for node in word.nodes)
    space = f"/{target.graph.namespace}" if target.graph.namespace else ""
    names = [name for name, _ in spinning.node.get_service_names_and_types()]
    if target.named or space:
        return [name for name in names if name in tuple(f"{space}{one}" for one in wanted)]
    return sorted(name for name in names if name.endswith(wanted))


def _others(spinning: _Spinning) -> list[str]:
    """Nodes that are ours to speak of: not this one."""
    own = spinning.node.get_name()
    return [name for name in spinning.node.get_node_names() if name != own and not name.startswith("_")]


def _call(spinning: _Spinning, target: Target, word: Word) -> str:
    from std_srvs.srv import SetBool, Trigger

    found: list[str] = []

    def some() -> bool:
        found[:] = _services(spinning, target, word)
        return bool(found)

    if not spinning.until(some, _DISCOVERY_SECONDS):
        known = {"executor", *_SIMULATORS, "planner", "policy", "rl_policy"} & set(_others(spinning))
        raise Refused(word.absent if known and not set(word.nodes) & known else _nobody(target))
    if len(found) > 1:
        spaces = ", ".join(name.rsplit("/", 2)[0].strip("/") or "''" for name in found)
        raise Refused(f"{len(found)} systems are there, in the namespaces {spaces}: choose one by --namespace")
    kind = Trigger if word.data is None else SetBool
    client = spinning.node.create_client(kind, found[0])
    if not spinning.until(client.service_is_ready, _ANSWER_SECONDS):
        raise Refused(_nobody(target))
    request = kind.Request()
    if word.data is not None:
        request.data = word.data
    future = client.call_async(request)
    if not spinning.until(future.done, _ANSWER_SECONDS):
        raise Refused(f"{found[0]} has not answered within {_ANSWER_SECONDS:g} s: it is not known whether it was done")
    answer = future.result()
    if not answer.success:
        raise Refused(word.refused or f"refused: {answer.message}")
    return word.done or str(answer.message)


def _let_fail(spinning: _Spinning, target: Target, fault: str) -> str:
    from rclpy.duration import Duration
    from std_msgs.msg import String

    from diffusion_ros.ros import topics

    publisher = spinning.node.create_publisher(String, topics.CAMERA_FAULT, topics.COMMAND_QOS)
    if not spinning.until(lambda: publisher.get_subscription_count() > 0, _DISCOVERY_SECONDS):
        there = bool({"executor", "policy", "maze", "rl_policy"} & set(_others(spinning)))
        raise Refused("it has no simulated cameras" if there else _nobody(target))
    publisher.publish(String(data=fault))
    publisher.wait_for_all_acked(Duration(seconds=_ANSWER_SECONDS))
    return f"from now on {fault}; `diffusion_ros fault none` ends it" if fault else "the cameras are good again"


def _status(spinning: _Spinning, target: Target) -> str:
    """What executor and simulator say."""
    from diagnostic_msgs.msg import DiagnosticArray

    from diffusion_ros.ros import messages, topics

    said: dict[str, str] = {}

    def heard(msg: DiagnosticArray) -> None:
        for status in messages.diagnostics_from_msg(msg):
            space, _, name = status.name.rpartition("/")
            if space == target.graph.namespace or not target.named:
                said[name] = messages.printable(status.summary, 200)

    spinning.node.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, heard, topics.DIAGNOSTICS_QOS)
    if not spinning.until(lambda: bool(said), _DISCOVERY_SECONDS):
        raise Refused(_nobody(target))
    spinning.until(lambda: False, _STATUS_SECONDS)  # each of them says it once a second
    first = [name for name in ("executor", "rl_policy", "follower") if name in said]
    return "; ".join(f"{name} {said[name]}" for name in (*first, *sorted(set(said) - set(first))))
