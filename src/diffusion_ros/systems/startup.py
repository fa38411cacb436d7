"""From what a user gave to what each node is started with; the same for bringup and `ros2 launch`.

Everything is checked here, before a process starts or a file is written.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_ros.checkpoint import read_spec, with_article
from diffusion_ros.models.camera_guard import GUARD_KIND
from diffusion_ros.systems import parameter_files
from diffusion_ros.systems.parameter_files import ParameterFile
from diffusion_ros.systems.system import Argument, NodeDescription, System, Value


class UsageError(ValueError):
    """Bad input; one line with the value and what was expected."""


@dataclass(frozen=True)
class Startup:
    """A system with all its settings decided."""

    system: System
    values: Mapping[str, Value]
    """All arguments, by name."""
    parameters: Mapping[str, Mapping[str, Any]]
    """By node: every parameter that something was said of."""
    output_dir: Path
    results: Path
    """Where the simulator writes each episode's result, a line of JSON each."""

    @property
    def namespace(self) -> str:
        """Of all nodes, without the slash at its front."""
        return str(self.values["namespace"])

    @property
    def task(self) -> str:
        """What the checkpoint was trained on."""
        return self.system.trained_on(self.values)

    @property
    def nodes(self) -> tuple[NodeDescription, ...]:
        """Those that are started."""
        return self.system.started(self.values)

    @property
    def remappings(self) -> list[tuple[str, str]]:
        """Topics that are called otherwise here."""
        names = ((topic, str(self.values[argument])) for topic, argument in self.system.topics.items())
        return [(topic, name) for topic, name in names if topic != name]

    def write_parameters(self, node: NodeDescription) -> Path:
        """Writes a node's parameters into the output folder, where they stay, as a record of what was in force."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        path = self.output_dir / f"{node.name}.yaml"
        parameter_files.write(path, self.parameters[node.name])
        return path


def defaults(system: System, resources: Path) -> dict[str, Value]:
    """What the arguments are where a user says nothing: config/'s values, or the argument's own.

    Raises KeyError for an argument that has neither.
    """
    found = _said(system, {node.name: _layers(node, [], "", resources) for node in system.nodes})
    return {a.name: a.default if a.default is not None else found[a.name] for a in system.all_arguments}


def decide(system: System, given: Mapping[str, str], resources: Path, spelled: Callable[[str], str]) -> Startup:
    """Settles all settings.

    given: arguments by name, as they were written; resources: the folder that holds config/ and checkpoints/; spelled:
    how an argument of a name is written, for messages. Raises UsageError or CheckpointError.
    """
    usual = defaults(system, resources)
    arguments = {a.name: a for a in system.all_arguments}
    chosen: dict[str, Value] = {}
    try:
        for name, text in given.items():
            try:
                chosen[name] = arguments[name].parse(text, usual[name])
            except ValueError as error:
                raise ValueError(f"{spelled(name)} {error}") from None
        common = {**usual, **chosen}
        namespace = _namespace(str(common["namespace"]), spelled("namespace"))
        files = [parameter_files.read(Path(str(common["params_file"])))] if common["params_file"] else []
        layers = {node.name: _layers(node, files, namespace, resources) for node in system.nodes}
        _check_own(system, layers)
        values = {**usual, **_agreed(system, layers, usual, chosen), **chosen, "namespace": namespace}
        if not values["checkpoint"]:
            values["checkpoint"] = str(system.default_checkpoint(values, resources))
    except ValueError as error:
        raise UsageError(str(error)) from None
    for argument in system.all_arguments:
        if argument.path and values[argument.name]:
            values[argument.name] = str(Path(str(values[argument.name])).absolute())
    _check_checkpoints(system, values)
    if not values["output_dir"]:
        name = f"{system.trained_on(values) or system.name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        values["output_dir"] = str(Path("runs", name).absolute())
    output_dir = Path(str(values["output_dir"]))
    check_writable(output_dir)
    results = output_dir / "results.jsonl"
    parameters: dict[str, dict[str, Any]] = {}
    for node in system.started(values):
        chosen_for = {parameter: values[argument] for parameter, argument in node.arguments.items()}
        parameters[node.name] = {**layers[node.name], **chosen_for, **node.given}
        if node.required:
            results = Path(layers[node.name].get("results") or results).absolute()
            parameters[node.name]["results"] = str(results)
        if values["use_sim_time"]:
            parameters[node.name]["use_sim_time"] = True
    return Startup(system, values, parameters, output_dir, results)


def foreign_sections(startup: Startup) -> list[str]:
    """Sections of the user's file that are for no node of this system: a misspelt name, or another system's."""
    if not startup.values["params_file"]:
        return []
    names = [_full_name(startup.namespace, node.name) for node in startup.system.nodes]
    return parameter_files.read(Path(str(startup.values["params_file"]))).foreign(names)


def check_writable(folder: Path) -> None:
    """Tries the nearest folder that there is; permissions alone do not tell (root, read-only file systems).

    Raises UsageError.
    """
    nearest = folder
    while not nearest.exists():
        nearest = nearest.parent
    try:
        with tempfile.NamedTemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written: {error.strerror}") from None


def _namespace(text: str, name: str) -> str:
    if text and not re.fullmatch(r"/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*/?", text):
        raise ValueError(f"{name} {text!r}: expected names of letters, digits and _ between slashes")
    return text.strip("/")


def _full_name(namespace: str, node: str) -> str:
    return f"/{namespace}/{node}" if namespace else f"/{node}"


def _layers(node: NodeDescription, files: list[ParameterFile], namespace: str, resources: Path) -> dict[str, Any]:
    """A node's parameters from config/ and, over them, from the user's files."""
    own = parameter_files.read(resources / "config" / node.config)
    values: dict[str, Any] = {}
    for file in (own, *files):
        values.update(file.of(_full_name(namespace, node.name)))
    return values


def _said(system: System, layers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the files say of arguments, by name; of several nodes the first one's."""
    found: dict[str, Any] = {}
    for node in system.nodes:
        for parameter, argument in node.arguments.items():
            if parameter in layers[node.name]:
                found.setdefault(argument, layers[node.name][parameter])
    return found


def _agreed(
    system: System,
    layers: Mapping[str, Mapping[str, Any]],
    usual: Mapping[str, Value],
    chosen: Mapping[str, Value],
) -> dict[str, Value]:
    """What the files say of arguments that were not given. Raises ValueError where they say two things of one, or what
    the argument may not be."""
    arguments: dict[str, Argument] = {a.name: a for a in system.arguments}
    found: dict[str, tuple[str, Any]] = {}
    for node in system.nodes:
        for parameter, name in node.arguments.items():
            # A guard's checkpoint is the executor's `guard`: one for all nodes below '/**' is the policy's.
            if name in chosen or name == node.needs or parameter not in layers[node.name]:
                continue
            value = layers[node.name][parameter]
            if isinstance(usual[name], float) and type(value) is int:
                value = float(value)
            if type(value) is not type(usual[name]):
                raise ValueError(f"{node.name}: {parameter} {value!r}: expected one like {usual[name]!r}")
            try:
                arguments[name].check(value)
            except ValueError as error:
                raise ValueError(f"{node.name}: {parameter} {error}") from None
            before, said = found.setdefault(name, (node.name, value))
            if said != value:
                raise ValueError(
                    f"{name}: {before} says {said!r} and {node.name} {value!r}; expected one value for both:"
                    f" write it below '/**', or give {name}"
                )
    return {name: value for name, (_, value) in found.items()}


def _check_own(system: System, layers: Mapping[str, Mapping[str, Any]]) -> None:
    for node in system.nodes:
        for name, value in node.given.items():
            if (other := layers[node.name].get(name, value)) not in (value, ""):
                raise ValueError(f"{node.name}: {name} {other!r}: expected {value!r} in the system {system.name}")


def _check_checkpoints(system: System, values: Mapping[str, Value]) -> None:
    path = Path(str(values["checkpoint"]))
    spec = read_spec(path)
    if spec.kind != system.kind:
        raise UsageError(f"{path}: is {with_article(spec.kind)}, {with_article(system.kind)} is needed")
    task = system.trained_on(values)
    if task and spec.task != task:
        raise UsageError(f"{path}: was trained on the {system.subject or 'task'} {spec.task}, {task} is needed")
    if values.get("guard"):
        guard = Path(str(values["guard"]))
        kind = read_spec(guard).kind
        if kind != GUARD_KIND:
            raise UsageError(f"{guard}: is {with_article(kind)}, {with_article(GUARD_KIND)} is needed")
        if values.get("mode") == "lockstep":
            raise UsageError("guard: for mode realtime; in lockstep no result may depend on the time that it takes")
