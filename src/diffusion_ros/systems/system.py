"""What a system is: nodes that work together, and what can be chosen when they are started.

One description of each system is read by bringup and by the launch files, so that neither can drift. Where a setting
comes from, weakest first: the node's own default, the system's YAML in config/, the user's YAML (`params_file`), an
argument. An argument that is not given writes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusion_ros import picture_transport

if TYPE_CHECKING:
    from diffusion_ros.systems.observer import Observer

Value = bool | int | float | str


def node_environment(resources: Path, simulated: bool = False) -> dict[str, str]:
    """Environment of the nodes, where it is not set: one thread each, room for pictures, and for a simulated system
    nobody beyond this machine.

    torch's threads wait by spinning, and those of Mesa's software rasteriser (0: none beside the caller's) are woken
    for each part of a picture; both keep the other nodes from their cores. Pictures are the same, bit for bit.
    """
    return {"OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "0", **picture_transport.environment(resources, simulated)}


@dataclass(frozen=True)
class Argument:
    """Something to choose at the start: `--name` of bringup, `name:=` of a launch file."""

    name: str
    description: str
    default: Value | None = None
    """None: what config/ says of the parameter that it sets. Its type is the argument's."""
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    path: bool = False
    """Whether it names a file or folder: a relative one is taken from the current folder."""
    robot: bool = False
    """Whether it names a robot: a YAML file, or one that comes with the package."""

    def parse(self, text: str, default: Value) -> Value:
        """The value written as `text`, of the default's type. Raises ValueError: the value and the rule, one line."""
        if isinstance(default, bool):
            if text.lower() not in ("true", "false"):
                raise ValueError(f"{text!r}: expected true or false")
            return text.lower() == "true"
        try:
            value = type(default)(text)
        except ValueError:
            raise ValueError(f"{text!r}: expected a number") from None
        self.check(value)
        return value

    def check(self, value: Value) -> None:
        """Raises ValueError, one line, for a value that may not be chosen."""
        if self.choices and value not in self.choices:
            raise ValueError(f"{value!r}: expected one of {', '.join(filter(None, self.choices))}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{value}: expected a finite number")
        if self.minimum is not None and isinstance(value, (int, float)) and value < self.minimum:
            raise ValueError(f"{value}: expected at least {self.minimum}")
        if self.maximum is not None and isinstance(value, (int, float)) and value > self.maximum:
            raise ValueError(f"{value}: expected at most {self.maximum}")


COMMON = (
    Argument("params_file", "your YAML of ROS parameters; it overrides config/", "", path=True),
    Argument("namespace", "namespace of all nodes and topics", ""),
    Argument(
        "log_level", "least severe log messages that are shown", "info", ("debug", "info", "warn", "error", "fatal")
    ),
    Argument("use_sim_time", "true: the nodes read the time from the topic /clock", False),
)
"""Arguments of every system."""
FRAME_PREFIX = Argument("frame_prefix", "before frames that no robot's YAML names, for several robots: 'left/'", "")
SPEED = Argument(
    "speed",
    "in real time: simulated seconds in a second; below 1 all nodes follow /clock, for machines that cannot keep up",
    minimum=0.05,
    maximum=1.0,
)
"""Of every simulation."""


@dataclass(frozen=True)
class NodeDescription:
    """A node: `python -m <module>` with the parameters of config/<config>, the user's, and those chosen."""

    name: str
    module: str
    config: str
    arguments: Mapping[str, str]
    """Parameter of the node -> name of the argument that gives it."""
    given: Mapping[str, Value] = field(default_factory=dict)
    """Parameters of the node that make it this system's, whatever is chosen."""
    restarts: int = 0
    """How often it is started again when it ends before the system does."""
    required: bool = False
    """Whether the system ends when it does. It is the node that writes `results`."""
    needs: str = ""
    """An argument without which it is not started, '' for none."""
    unless: str = ""
    """A value of that argument with which it is not started either."""
    terminal: bool = False
    """Whether it reads the terminal that the system was started in."""
    managed: int = 0
    """When a lifecycle manager activates it: first those of 1, then those of 2; 0: it has no managed life."""
    dispensable: bool = False
    """Whether the system goes on without it."""


@dataclass(frozen=True)
class System:
    """Nodes that work together."""

    name: str
    description: str
    """One line, for the list of systems."""
    arguments: tuple[Argument, ...]
    """Its own, beside COMMON."""
    nodes: tuple[NodeDescription, ...]
    observer: type[Observer]
    """Makes the progress line and the summary."""
    kind: str = "policy"
    """Of the checkpoint."""
    subject: str = ""
    """The argument that names what the checkpoint must have been trained on, '' for none."""
    task: str = ""
    """What it must have been trained on where no argument names it."""
    checkpoint: str = ""
    """The shipped checkpoint, with the task in place of {}."""
    simulated: bool = True
    """Whether the robot is one of its nodes: then nothing outside this machine has to be reached."""
    check: Callable[[Mapping[str, Mapping[str, Any]]], None] | None = None
    """Raises ValueError, one line, for parameters by node that do not go together."""
    needs_checkpoint: bool = True
    """Whether it cannot do without one, unless `policy` is false."""
    topics: Mapping[str, str] = field(default_factory=dict)
    """Topic of the nodes -> name of the argument that says what it is called here."""

    @property
    def all_arguments(self) -> tuple[Argument, ...]:
        return (*self.arguments, *COMMON)

    def trained_on(self, values: Mapping[str, Value]) -> str:
        """What the checkpoint must have been trained on, '' for anything."""
        return str(values[self.subject]) if self.subject else self.task

    def started(self, values: Mapping[str, Value]) -> tuple[NodeDescription, ...]:
        """The nodes that these arguments call for."""
        return tuple(
            node
            for node in self.nodes
            if not node.needs or (values[node.needs] and (not node.unless or values[node.needs] != node.unless))
        )

    def managed(self, values: Mapping[str, Value]) -> tuple[str, ...]:
        """Names of those that a lifecycle manager brings to life, in the order in which they are activated."""
        nodes = [node for node in self.started(values) if node.managed]
        return tuple(node.name for node in sorted(nodes, key=lambda node: node.managed))

    def asks_for_checkpoint(self, values: Mapping[str, Value]) -> bool:
        """Whether it needs one with these arguments."""
        return self.needs_checkpoint and bool(values.get("policy", True))

    def default_checkpoint(self, values: Mapping[str, Value], resources: Path) -> Path:
        """The shipped checkpoint. Raises ValueError where there is none."""
        if not self.checkpoint:
            raise ValueError(f"checkpoint '': expected the path of a {self.kind} (.pt)")
        return resources / "checkpoints" / self.checkpoint.format(self.trained_on(values))


WEB = (
    Argument("web", "true: a page in the browser shows the system; its address is printed", False),
    Argument("web_control", "true: the page can stop, enable, reset and drive; with a token in its address", False),
    Argument("web_port", "port of the page, or the next that is free", minimum=1, maximum=65535),
)
"""Of every system that has a page."""
WEB_ADDRESS = "web_address"
"""File in the output folder that has the page's address."""


def web_node(system: str, *arguments: str) -> NodeDescription:
    """The page of a system; arguments: of its parameters that are called as the system's own."""
    return NodeDescription(
        "web",
        "diffusion_ros.nodes.web_node",
        "web.yaml",
        {"control": "web_control", "port": "web_port", **same_names(*arguments)},
        given={"system": system},
        restarts=3,
        needs="web",
        dispensable=True,
    )


def same_names(*names: str) -> dict[str, str]:
    """Parameters of a node that are called as the arguments that give them."""
    return {name: name for name in names}
