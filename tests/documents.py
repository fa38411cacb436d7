"""Writes docs/topics.md and docs/parameters.md from the code: `python -m tests.documents`. With --check it compares.

Every node is made, with the small checkpoints of the tests, and asked which topics and services it has and with which
quality of service. Descriptions are the docstrings in ros/topics.py and those of the services' callbacks. Parameters
come from each node's dataclass, with the value that config/ gives.
"""

# ruff: noqa: E402  (as `python -m` our modules are found only after the path is set)

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import os
import re
import sys
import tempfile
import typing
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

import fake_guard
import fake_planner
import fake_policy
import fake_rl
import ros_graph
import yaml
from rclpy.logging import LoggingSeverity, set_logger_level
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from diffusion_ros.ros import topics
from diffusion_ros.ros.listener import Listener
from diffusion_ros.ros.runner import RunnableNode

NODES: dict[str, tuple[Callable[[Path], dict[str, Any]], ...]] = {
    "policy_node": (
        lambda folder: {"checkpoint": str(fake_policy.save(folder / "policy.pt"))},
        lambda folder: {"checkpoint": str(fake_policy.save(folder / "state.pt", _STATE))},
    ),
    "executor_node": (
        lambda folder: {
            "checkpoint": str(fake_policy.save(folder / "policy.pt")),
            "checkpoint_limits": True,
            "guard": str(fake_guard.save(folder / "guard.pt")),
            "teleop": "joy",
        },
    ),
    "planner_node": (
        lambda folder: {"checkpoint": str(fake_planner.fake_planner(folder / "maze.pt"))},
        lambda folder: {"checkpoint": str(fake_planner.fake_arm_planner(folder / "arm.pt"))},
    ),
    "follower_node": (lambda folder: {},),
    "rl_policy_node": (lambda folder: {"checkpoint": str(fake_rl.save(folder / "rl.pt"))},),
    "teleop_node": (
        lambda folder: {"device": "joy"},
        lambda folder: {"device": "twist"},
    ),
    # Nobody is there: it says so, and has the same topics.
    "franka_driver_node": (lambda folder: {"host": "127.0.0.1"},),
    "camera_guard_node": (lambda folder: {"checkpoint": str(fake_guard.save(folder / "guard.pt"))},),
    "lifecycle_manager_node": (lambda folder: {"node_names": ["policy"]},),
    "recorder_node": (lambda folder: {"bag": str(folder / "bag"), "min_free": 0.0},),
    "image_generator_node": (lambda folder: {"checkpoint": str(ROOT / "checkpoints/ddpm_digits.pt")},),
    "simulation_node": (lambda folder: {"mode": "lockstep"},),
    "rehearsal_node": (lambda folder: {"robot": "franka_crisp", "speed": 0.5},),
    "maze_node": (
        lambda folder: {
            "size": "umaze",
            "episodes": 1,
            "video": True,
            "output_dir": str(folder),
            "obstacle_radius": 0.1,
        },
    ),
    # It cannot be made where there is no tf2_msgs; `look` knows what it publishes.
    "scene_frames_node": (),
    "web_node": (lambda folder: {"control": True},),
    "gym_simulation_node": (
        lambda folder: {"task": "cartpole", "mode": "lockstep"},
        lambda folder: {"task": "double_pendulum", "mode": "lockstep"},
    ),
}
"""Executable -> the parameters with which it is made; several where they decide about topics."""
_STATE = fake_policy.spec((*fake_policy.LOW_DIM, *fake_policy.OBJECT))
_TOPICS_HEAD = """\
# Topics and services

`python -m tests.documents` writes this page from the code, and a test checks that it is up to date.

Names are relative: a namespace or a remapping moves a whole robot. The number after the reliability is the depth of the
queue. *Latched* means transient local: a late subscriber still gets the last message. The two cameras are those of the
shipped policies.

The table shows how topics are heard in real time. In lockstep the policy and the executor hear sensors reliably, so
that none is lost. ROS's parameters `qos_overrides.<topic>.subscription.reliability`, `.depth` and `.history` change
what a node asks for. Nodes also listen to what they publish themselves, to notice a second publisher. The table leaves
that out. It also leaves out the services that all [managed nodes](lifecycle.md) have.
"""
_PARAMETERS_HEAD = """\
# Parameters

`python -m tests.documents` writes this page from the code, and a test checks that it is up to date.

A parameter is fixed when its node starts. Afterwards `ros2 param get` reads it, and nothing sets it. The first of these
that says something gives its value:

1. an argument of `diffusion_ros` or of a launch file that you gave;
2. your own YAML: `--params-file FILE` or `params_file:=FILE`;
3. the file in `config/`;
4. the default.

A name that a node does not know, or a value outside of its range, stops the node with one line and exit status 2.

Every system and launch file also takes `namespace`, `log_level` and `use_sim_time`.

In your YAML a section is for the nodes whose names it fits, as in ROS: `/**/executor`, `/left/executor`, `/**`. The
later section counts. What stands below `/**` goes to the nodes that have a parameter of that name. The folder of a run
keeps what each node was given, in `parameters/`.

Where the executor's rate, limits, box and rows come from the checkpoint, you can read the values in force like any
parameter. The node also logs them once.
"""
_ABSOLUTE = (topics.CLOCK, topics.TF, topics.TF_STATIC, topics.DIAGNOSTICS, topics.JOY, topics.CMD_VEL)
_OF_EVERY_NODE = ("/rosout", "/parameter_events")


@dataclasses.dataclass
class Topic:
    """What the nodes say of a topic; QoS by node."""

    type: str
    publishers: dict[str, str] = dataclasses.field(default_factory=dict)
    listeners: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Found:
    """What the nodes say of themselves."""

    topics: dict[str, Topic] = dataclasses.field(default_factory=dict)
    services: dict[tuple[str, str], tuple[str, str]] = dataclasses.field(default_factory=dict)
    """Node and service -> type and description."""
    in_force: dict[str, dict[str, tuple[str, str]]] = dataclasses.field(default_factory=lambda: defaultdict(dict))
    """Node -> parameter that is none of its dataclass -> type and description."""


def executables() -> list[str]:
    """The modules in nodes/ that can be started."""
    folder = ROOT / "src/diffusion_ros/nodes"
    return sorted(path.stem for path in folder.glob("*.py") if "\ndef main(" in path.read_text())


def node_class(executable: str) -> type[RunnableNode]:
    """The node that the executable runs."""
    module = importlib.import_module(f"diffusion_ros.nodes.{executable}")
    (found,) = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, RunnableNode) and value.__module__ == module.__name__
    ]
    return found


_NODES = "diffusion_ros.nodes."


def parameters_class(executable: str) -> type[Any]:
    """The dataclass of its parameters."""
    module = importlib.import_module(f"diffusion_ros.nodes.{executable}")
    (found,) = [
        value
        for name, value in vars(module).items()
        if inspect.isclass(value) and name.endswith("Parameters") and value.__module__.startswith(_NODES)
    ]
    return found


def look() -> Found:
    """Makes every node and writes down what it has."""
    # Its messages are not on every ROS 2 that the tests run on.
    kind = "tf2_msgs/TFMessage"
    moving, fixed = (
        ("gym_simulation", "maze", "rehearsal", "scene_frames", "simulation"),
        ("image_generator", "rehearsal", "simulation"),
    )
    found = Found(
        {
            topics.TF: Topic(kind, dict.fromkeys(moving, _qos(topics.TF_QOS))),
            topics.TF_STATIC: Topic(kind, dict.fromkeys(fixed, _qos(topics.DESCRIPTION_QOS))),
        }
    )
    for executable in executables():
        for parameters in NODES[executable]:
            with ros_graph.graph() as graph, tempfile.TemporaryDirectory() as folder:
                values = parameters(Path(folder))
                node = node_class(executable)([Parameter(name, value=value) for name, value in values.items()])
                graph.add(node)
                # A simulator publishes its sensors once it knows that there is no other one.
                graph.spin_until(lambda node=node: getattr(node, "phase", "") != "checking")
                _note(node, executable, found)
    return found


def _of_the_robot(node: Any) -> set[str]:
    """Topics and services that a robot's file names, or that its drivers have beside: they are the robot's."""
    robot = getattr(node, "robot", None)
    if robot is None:
        return set()
    said = set(re.findall(r"[\w/]+", robot.path.read_text()))
    names = [*(p.topic_name for p in node.publishers), *(s.topic_name for s in node.subscriptions)]
    return {name for name in names if name.removesuffix("/commands") in said or name.endswith("/camera_info")}


def _note(node: Any, executable: str, found: Found) -> None:
    name = node.get_name()
    robots = _of_the_robot(node)
    published = set()
    for publisher in node.publishers:
        if publisher.topic_name in (*_OF_EVERY_NODE, topics.TF, *robots):
            continue
        published.add(publisher.topic_name)
        topic = found.topics.setdefault(_relative(publisher.topic_name), Topic(_type(publisher.msg_type)))
        topic.publishers[name] = _qos(publisher.qos_profile)
    for subscription in node.subscriptions:
        if subscription.topic_name in (*_OF_EVERY_NODE, *robots):
            continue
        topic = found.topics.setdefault(_relative(subscription.topic_name), Topic(_type(subscription.msg_type)))
        own = isinstance(getattr(subscription.callback, "__self__", None), Listener)
        if own and subscription.topic_name in published:
            continue  # only to notice a second publisher
        topic.listeners[name] = _qos(subscription.qos_profile)
    for service in node.services:
        if service.srv_type.__module__.startswith("lifecycle_msgs."):
            continue  # of every managed node: docs/lifecycle.md
        if any(part in service.srv_name for part in ("parameter", "type_description")):
            continue
        said = _first_sentence(service.callback.__doc__ or "")
        found.services[name, service.srv_name.removeprefix(f"/{name}/").removeprefix("~/")] = (
            _type(service.srv_type),
            said,
        )
    fields = {field.name for field in dataclasses.fields(parameters_class(executable))}
    for parameter in node.list_parameters([], 0).names:
        if parameter in fields or parameter.startswith("qos_overrides.") or parameter in _ROS_OWN:
            continue
        said = node.describe_parameter(parameter)
        found.in_force[name][parameter] = Parameter.Type(said.type).name.lower(), said.description


_ROS_OWN = ("use_sim_time", "start_type_description_service")


def _relative(topic: str) -> str:
    return topic if topic in _ABSOLUTE else topic.removeprefix("/")


def _type(message: Any) -> str:
    return f"{message.__module__.partition('.')[0]}/{message.__name__}"


def _qos(profile: QoSProfile) -> str:
    reliability = "reliable" if profile.reliability == ReliabilityPolicy.RELIABLE else "best effort"
    latched = ", latched" if profile.durability == DurabilityPolicy.TRANSIENT_LOCAL else ""
    return f"{reliability} {profile.depth}{latched}"


def _first_sentence(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())


def described() -> dict[str, str]:
    """Topic -> the docstring after its constant in ros/topics.py; <camera> for functions of a camera."""
    module = ast.parse((ROOT / "src/diffusion_ros/ros/topics.py").read_text())
    texts: dict[str, str] = {}
    for statement, following in zip(module.body, [*module.body[1:], None], strict=True):
        if isinstance(statement, ast.Assign) and isinstance(following, ast.Expr):
            (target,) = statement.targets
            assert isinstance(target, ast.Name) and isinstance(following.value, ast.Constant)
            value = getattr(topics, target.id)
            if isinstance(value, str):
                texts[value] = _first_sentence(str(following.value.value))
    for function in (topics.image, topics.camera_info, topics.guard_heat):
        texts[function("<camera>")] = _first_sentence(function.__doc__ or "")
    return texts


def topics_page(found: Found) -> str:
    """docs/topics.md."""
    texts = described()
    lines = [_TOPICS_HEAD, "| topic | type | what it carries | published by | heard by |", "|---|---|---|---|---|"]
    for name, topic in sorted(found.topics.items(), key=lambda item: (item[0].startswith("/"), item[0])):
        of_node, camera = (f"{whose}/{name.partition('/')[2]}" for whose in ("~", "<camera>"))
        text = (texts.get(name) or texts.get(of_node) or texts[camera]).replace("<", "&lt;")
        publishers, listeners = _by_qos(topic.publishers), _by_qos(topic.listeners)
        lines.append(f"| `{name}` | {topic.type} | {text} | {publishers} | {listeners} |")
    lines += [
        "",
        "`diffusion_ros <system>` itself hears `episode` and `/diagnostics` for its progress line.",
        "",
        "## Services",
        "",
        "| service | type | what it does |",
        "|---|---|---|",
    ]
    for (node, service), (kind, text) in sorted(found.services.items()):
        lines.append(f"| `{node}/{service}` | {kind} | {text} |")
    return "\n".join([*lines, ""])


def _by_qos(nodes: dict[str, str]) -> str:
    """`a, b (reliable 5); c (best effort 5)`, or a dash."""
    by_qos: dict[str, list[str]] = defaultdict(list)
    for node, qos in sorted(nodes.items()):
        by_qos[qos].append(node)
    return "; ".join(f"{', '.join(names)} ({qos})" for qos, names in by_qos.items()) or "-"


def configured() -> dict[str, dict[str, dict[str, Any]]]:
    """Node -> file in config/ -> its values."""
    values: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for path in sorted((ROOT / "config").glob("*.yaml")):
        for section, content in yaml.safe_load(path.read_text()).items():
            name = section.rpartition("/")[2]
            values[path.stem if name == "**" else name][path.name] = content["ros__parameters"]
    return values


def parameters_page(found: Found) -> str:
    """docs/parameters.md."""
    files = configured()
    lines = [_PARAMETERS_HEAD]
    for executable in executables():
        name = executable.removesuffix("_node")
        lines += [f"## {name}", ""]
        own = files.get(name, {})
        lines += [f"`{executable}`" + (f"; {' and '.join(f'`config/{file}`' for file in own)}" if own else ""), ""]
        heads = [f"in {file}" for file in own]
        lines.append(f"| {' | '.join(['parameter', 'type', 'default', *heads, 'what it does'])} |")
        lines.append("|" + "---|" * (4 + len(heads)))
        cls = parameters_class(executable)
        hints = typing.get_type_hints(cls)
        if not dataclasses.fields(cls):
            lines[-2:] = ["It has none."]
        for field in dataclasses.fields(cls):
            default = "required" if field.default is dataclasses.MISSING else _value(field.default)
            text = _sentence(field.metadata["description"]) + _range(field)
            given = [_value(values[field.name]) if field.name in values else "" for values in own.values()]
            cells = [f"`{field.name}`", _hint(hints[field.name]), default, *given, text]
            lines.append(f"| {' | '.join(cells)} |")
        if found.in_force.get(name):
            lines += [
                "",
                "To be read only, what is in force:",
                "",
                "| parameter | type | what it is |",
                "|---|---|---|",
            ]
            for parameter, (kind, text) in sorted(found.in_force[name].items()):
                lines.append(f"| `{parameter}` | {kind} | {_sentence(text)} |")
        lines.append("")
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "`[" + ", ".join(str(item) for item in value) + "]`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return '`""`' if value == "" else f"`{value}`"


def _hint(hint: Any) -> str:
    items = typing.get_args(hint)
    return f"list of {items[0].__name__}" if items else str(hint.__name__)


def _sentence(text: str) -> str:
    text = text.replace("<", "&lt;").replace("|", "/").strip()
    return (text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")) if text else ""


def _range(field: dataclasses.Field[Any]) -> str:
    low, high, choices = (field.metadata[key] for key in ("low", "high", "choices"))
    if choices:
        return " One of " + ", ".join(f"`{choice or chr(34) * 2}`" for choice in choices) + "."
    if low is not None and high is not None:
        return f" From {low:g} to {high:g}."
    if low is not None:
        return f" At least {low:g}."
    return "" if high is None else f" At most {high:g}."


def pages() -> Iterator[tuple[Path, str]]:
    """File -> what it has to say."""
    found = look()
    yield ROOT / "docs/topics.md", topics_page(found)
    yield ROOT / "docs/parameters.md", parameters_page(found)


def main() -> int:
    compare = "--check" in sys.argv[1:]
    set_logger_level("", LoggingSeverity.FATAL)
    old = 0
    for path, text in pages():
        name = path.relative_to(ROOT)
        if not compare:
            path.write_text(text)
            print(name)
        elif path.read_text() != text:
            print(f"{name} is older than the code: python -m tests.documents writes it", file=sys.stderr)
            old = 1
    return old


if __name__ == "__main__":
    raise SystemExit(main())
