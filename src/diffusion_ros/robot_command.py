"""What the commands that ask a robot's drivers have in common: `check` and `latency`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import rclpy
from rclpy.context import Context
from rclpy.parameter import Parameter

from diffusion_ros import robot_file
from diffusion_ros.dds_security import enclave_arguments
from diffusion_ros.robot_file import RobotFile
from diffusion_ros.ros.runner import RunnableNode
from diffusion_ros.systems.startup import UsageError, namespace_of


@dataclass(frozen=True)
class Graph:
    """Where the drivers are."""

    domain_id: int
    namespace: str
    use_sim_time: bool


class Parser(argparse.ArgumentParser):
    """Of one of these commands. Raises UsageError."""

    def __init__(self, name: str, usage: str, description: str) -> None:
        name = f"diffusion_ros {name}"
        super().__init__(prog=name, usage=f"{name} {usage}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}")

    def add_graph(self) -> None:
        self.add_argument("--namespace", default="", help="namespace of relative topics")
        self.add_argument("--domain-id", default="", help="ROS_DOMAIN_ID; default: the environment's, or 0")
        self.add_argument("--use-sim-time", action="store_true", help="stamps are of the topic /clock")


def graph(given: argparse.Namespace) -> Graph:
    """Raises UsageError."""
    domain = given.domain_id or os.environ.get("ROS_DOMAIN_ID", "") or "0"
    if not (domain.isdecimal() and int(domain) <= 232):
        raise UsageError(f"ROS_DOMAIN_ID {domain!r}: expected 0 to 232")
    try:
        namespace = namespace_of(given.namespace, "--namespace")
    except ValueError as error:
        raise UsageError(str(error)) from None
    return Graph(int(domain), namespace, given.use_sim_time)


def robot(given: argparse.Namespace) -> RobotFile:
    """Raises UsageError."""
    try:
        return robot_file.read(robot_file.find(given.robot))
    except robot_file.RobotFileError as error:
        raise UsageError(str(error)) from None


def number(given: argparse.Namespace, name: str, low: float, high: float) -> float:
    """The value of --name. Raises UsageError."""
    text = getattr(given, name)
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"--{name} {text!r}: expected a number") from None
    if not low <= value <= high:
        raise UsageError(f"--{name} {text}: expected {low:g} to {high:g}")
    return value


@contextmanager
def node(name: str, where: Graph) -> Iterator[RunnableNode]:
    """A node for as long as the command listens."""
    context = Context()
    security = ["--ros-args", *own] if (own := enclave_arguments(os.environ)) else []
    rclpy.init(args=security, context=context, domain_id=where.domain_id)
    try:
        made = RunnableNode(
            f"{name}_{os.getpid()}",
            context=context,
            namespace=where.namespace,
            use_global_arguments=False,
            enable_rosout=False,
            start_parameter_services=False,
            parameter_overrides=[Parameter("use_sim_time", value=where.use_sim_time)],
        )
        try:
            yield made
        finally:
            made.destroy_node()
    finally:
        rclpy.try_shutdown(context=context)
