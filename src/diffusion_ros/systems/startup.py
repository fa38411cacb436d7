"""From what a user gave to what each node is started with; the same for bringup and `ros2 launch`.

What can be known without a node is checked here, before a process starts or a file is written.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_ros import robot_file
from diffusion_ros.checkpoint import file_sha256, read_spec, with_article
from diffusion_ros.models.camera_guard import GUARD_KIND
from diffusion_ros.ros.params import QOS_OVERRIDES, ROS_OWN, ParameterError, from_values
from diffusion_ros.spec import CheckpointSpec
from diffusion_ros.systems import parameter_files
from diffusion_ros.systems.parameter_files import ParameterFile
from diffusion_ros.systems.system import WEB_ADDRESS, Argument, NodeDescription, System, Value

_WORD = "[A-Za-z_][A-Za-z0-9_]*"
_TOPIC = rf"(~?/)?{_WORD}(/{_WORD})*"
"""Names that ROS has for topics, without substitutions."""


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
    checkpoint_sha256: str
    """Of the policy's or planner's file, which no node takes another in the place of; '' without one."""

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
        """Writes what a node is given into the output folder, where it stays as a record."""
        path = self.output_dir / "parameters" / f"{node.name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        parameter_files.write(path, self.parameters[node.name])
        return path

    @contextmanager
    def claimed(self, keep: bool = False) -> Iterator[None]:
        """Holds the output folder, which is made: a second run there would mix results, and hand its parameters to
        nodes of ours that are started again. keep: results of a run before stay. Raises UsageError where another run
        has it."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.output_dir, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(folder)
            raise UsageError(f"output_dir {self.output_dir}: in use by another run, another folder expected") from None
        try:
            if not keep:
                self.results.unlink(missing_ok=True)
            yield
        finally:
            os.close(folder)


def defaults(system: System, resources: Path) -> dict[str, Value]:
    """What the arguments are where a user says nothing: config/'s values, or the argument's own.

    Raises KeyError for an argument that has neither.
    """
    found: dict[str, Any] = {}
    for node in system.nodes:
        values = _config(node, "", resources)
        for parameter, argument in node.arguments.items():
            if parameter in values:
                found.setdefault(argument, values[parameter])
    return {a.name: a.default if a.default is not None else found[a.name] for a in system.all_arguments}


def decide(
    system: System,
    given: Mapping[str, str],
    resources: Path,
    spelled: Callable[[str], str],
    preferred: Mapping[str, Value] | None = None,
) -> Startup:
    """Settles all settings.

    given: arguments by name, as they were written; resources: the folder that holds config/ and checkpoints/; spelled:
    how an argument of a name is written, for messages; preferred: what stands above config/ where a user says nothing.
    Raises UsageError or CheckpointError.
    """
    usual = {**defaults(system, resources), **(preferred or {})}
    try:
        chosen = _parsed(system, given, usual, spelled)
        common = {**usual, **chosen}
        namespace = namespace_of(str(common["namespace"]), spelled("namespace"))
        file = parameter_files.read(Path(str(common["params_file"]))) if common["params_file"] else None
        said = {node.name: _said(node, file, namespace) for node in system.nodes}
        _check_prefix(str(common.get("frame_prefix", "")), spelled("frame_prefix"))
        for name in system.topics.values():
            _check_topic(str(common[name]), spelled(name))
        # Which nodes start depends on an argument, and what is said to those that do not start does not count.
        always = [node for node in system.nodes if not node.needs]
        values = {**usual, **_agreed(system, always, said, usual, chosen), **_implied(chosen, usual), **chosen}
        started = system.started(values)
        values |= {**_agreed(system, started, said, usual, chosen), **chosen, "namespace": namespace}
        values |= _implied(values, usual)
        for node in system.nodes:
            _check_own(system, node, said[node.name], values, file)
        slow = _slow(values, chosen, spelled)
        if file is not None:
            _check_declared(file, started, said, namespace)
        if not values.get("policy", True) and not values["teleop"]:
            raise ValueError(f"{spelled('policy')} false: expected with {spelled('teleop')} only: nobody would drive")
        if not values["checkpoint"] and system.asks_for_checkpoint(values):
            values["checkpoint"] = str(system.default_checkpoint(values, resources))
    except ValueError as error:
        raise UsageError(str(error)) from None
    for argument in system.all_arguments:
        if argument.path and values[argument.name]:
            values[argument.name] = str(Path(str(values[argument.name])).absolute())
        if argument.robot and values[argument.name]:
            values[argument.name] = str(_robot(str(values[argument.name])))
    _check_checkpoints(system, values)
    if not values["output_dir"]:
        name = f"{system.trained_on(values) or system.name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        values["output_dir"] = str(Path("runs", name).absolute())
    output_dir = Path(str(values["output_dir"]))
    check_writable(output_dir)
    results = output_dir / "results.jsonl"
    parameters: dict[str, dict[str, Any]] = {}
    sha256 = file_sha256(str(values["checkpoint"])) if values["checkpoint"] else ""
    for node in started:
        argued = {parameter: values[argument] for parameter, argument in node.arguments.items()}
        own = {"results": str(results)} if node.required else {}
        if node.name == "web":
            own["address_file"] = str(output_dir / WEB_ADDRESS)
        parameters[node.name] = {
            **_config(node, namespace, resources),
            **said[node.name],
            **argued,
            **node.given,
            **own,
        }
        if node.arguments.get("checkpoint") == "checkpoint":
            # So that all have the file that the summary names, whatever is put in its place meanwhile.
            parameters[node.name].setdefault("checkpoint_sha256", sha256)
        if node.managed:
            parameters[node.name].setdefault("autostart", False)
        if "use_sim_time" in chosen or values["use_sim_time"]:
            parameters[node.name]["use_sim_time"] = values["use_sim_time"]
        if slow and not node.required:  # which makes the time
            parameters[node.name]["use_sim_time"] = True
        if file is not None:
            _check_values(node, parameters[node.name])
    if system.check is not None:
        try:
            system.check(parameters)
        except ValueError as error:
            raise UsageError(str(error)) from None
    return Startup(system, values, parameters, output_dir, results, sha256)


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
    try:
        while not nearest.exists():
            nearest = nearest.parent
        with tempfile.NamedTemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written: {error.strerror}") from None


def _robot(text: str) -> Path:
    """The file of a robot, which was read and is one. Raises UsageError."""
    try:
        path = robot_file.find(text)
        robot_file.read(path)
    except robot_file.RobotFileError as error:
        raise UsageError(str(error)) from None
    return path


def namespace_of(text: str, name: str) -> str:
    if text and (not re.fullmatch(rf"/?{_WORD}(/{_WORD})*/?", text) or "__" in text):
        raise ValueError(f"{name} {text!r}: expected names of letters, digits and _ between slashes")
    return text.strip("/")


def _check_topic(text: str, name: str) -> None:
    if not re.fullmatch(_TOPIC, text) or "__" in text:
        raise ValueError(f"{name} {text!r}: expected the name of a topic")


def _check_prefix(text: str, name: str) -> None:
    if text and not re.fullmatch(rf"{_WORD}(/{_WORD})*/?", text):
        raise ValueError(f"{name} {text!r}: expected names of letters, digits and _ with slashes between, like left/")


def _full_name(namespace: str, node: str) -> str:
    return f"/{namespace}/{node}" if namespace else f"/{node}"


def _config(node: NodeDescription, namespace: str, resources: Path) -> dict[str, Any]:
    """What config/ says to a node."""
    return parameter_files.read(resources / "config" / node.config).of(_full_name(namespace, node.name))


def _said(node: NodeDescription, file: ParameterFile | None, namespace: str) -> dict[str, Any]:
    """What the user's file says to a node. Where it says it to several (`/**`), only what this one declares."""
    if file is None:
        return {}
    name = _full_name(namespace, node.name)
    values, cls = file.of(name), _parameters_class(node)
    if cls is None:
        return values
    foreign = {n for n in file.of_all(name) if n not in cls.__dataclass_fields__ and not _is_ros(n)}
    return {n: value for n, value in values.items() if n not in foreign}


def _parameters_class(node: NodeDescription) -> Any:
    """The dataclass of a node's parameters; None where its libraries are not installed here, as where `ros2 launch`
    runs on another Python than the nodes."""
    try:
        module = importlib.import_module(node.module)
    except ModuleNotFoundError:
        return None
    (cls,) = (value for name, value in vars(module).items() if name.endswith("Parameters"))
    return cls


def _is_ros(name: str) -> bool:
    """Whether a parameter is ROS's own."""
    return name in ROS_OWN or name.startswith(QOS_OVERRIDES)


def _parsed(
    system: System, given: Mapping[str, str], usual: Mapping[str, Value], spelled: Callable[[str], str]
) -> dict[str, Value]:
    """The arguments that were given. Raises ValueError."""
    arguments = {a.name: a for a in system.all_arguments}
    chosen: dict[str, Value] = {}
    for name, text in given.items():
        try:
            chosen[name] = arguments[name].parse(text, usual[name])
        except ValueError as error:
            raise ValueError(f"{spelled(name)} {error}") from None
    return chosen


def _implied(values: Mapping[str, Value], usual: Mapping[str, Value]) -> dict[str, Value]:
    """What a page that steers needs: the page, and an executor that listens to a person; in lockstep nobody drives."""
    if not values.get("web_control"):
        return {}
    listens = values.get("teleop", usual.get("teleop")) == "" and values.get("mode", usual.get("mode")) != "lockstep"
    return {"web": True, **({"teleop": "topic"} if listens else {})}


def _agreed(
    system: System,
    nodes: Sequence[NodeDescription],
    said: Mapping[str, Mapping[str, Any]],
    usual: Mapping[str, Value],
    chosen: Mapping[str, Value],
) -> dict[str, Value]:
    """What the user's file says of arguments that were not given. Raises ValueError where it says two things of one, or
    what the argument may not be."""
    arguments: dict[str, Argument] = {a.name: a for a in system.arguments}
    found: dict[str, tuple[str, Any]] = {}
    for node in nodes:
        for parameter, name in node.arguments.items():
            # A guard's checkpoint is the executor's `guard`: one for all nodes below '/**' is the policy's.
            if name in chosen or name == node.needs or parameter not in said[node.name]:
                continue
            value = said[node.name][parameter]
            if isinstance(usual[name], float) and type(value) is int:
                value = float(value)
            if type(value) is not type(usual[name]):
                raise ValueError(f"{node.name}: {parameter} {value!r}: expected one like {usual[name]!r}")
            try:
                arguments[name].check(value)
            except ValueError as error:
                raise ValueError(f"{node.name}: {parameter} {error}") from None
            before, first = found.setdefault(name, (node.name, value))
            if first != value:
                raise ValueError(
                    f"{name}: {before} says {first!r} and {node.name} {value!r}; expected one value for both:"
                    f" write it below '/**', or give {name}"
                )
    return {name: value for name, (_, value) in found.items()}


def _check_own(
    system: System,
    node: NodeDescription,
    said: Mapping[str, Any],
    values: Mapping[str, Value],
    file: ParameterFile | None,
) -> None:
    """Raises ValueError for what a user's file cannot say to a node of this system."""
    for name, value in node.given.items():
        if (other := said.get(name, value)) not in (value, ""):
            raise ValueError(f"{node.name}: {name} {other!r}: expected {value!r} in the system {system.name}")
    parameter = next((p for p, argument in node.arguments.items() if argument == node.needs), None)
    if parameter is not None and file is not None:
        wide = file.of_all(_full_name(str(values["namespace"]), node.name))
        if parameter in said and parameter not in wide and said[parameter] != values[node.needs]:
            raise ValueError(
                f"{node.name}: {parameter} {said[parameter]!r}: expected {values[node.needs]!r}, which is what the"
                f" argument {node.needs}, or the executor's {node.needs}, says"
            )


def _slow(values: Mapping[str, Value], chosen: Mapping[str, Value], spelled: Callable[[str], str]) -> bool:
    """Whether the simulator gives the time, slower than the wall's. Raises ValueError for what does not go with it."""
    speed = values.get("speed", 1.0)
    if speed == 1.0:
        return False
    if values.get("mode") == "lockstep":
        raise ValueError(f"{spelled('speed')} {speed}: expected 1 in lockstep, which waits for each command")
    if not chosen.get("use_sim_time", True):
        raise ValueError(f"{spelled('use_sim_time')} false: expected true with {spelled('speed')} {speed}")
    return True


def _check_declared(
    file: ParameterFile, nodes: Sequence[NodeDescription], said: Mapping[str, Mapping[str, Any]], namespace: str
) -> None:
    """Raises ValueError for a name that a file says to all nodes, and none has."""
    for node in nodes:
        for name in sorted(file.of_all(_full_name(namespace, node.name))):
            if not any(name in said[other.name] for other in nodes):
                raise ValueError(f"{file.path}: {name}: no node has a parameter of that name")


def _check_values(node: NodeDescription, values: Mapping[str, Any]) -> None:
    """Raises UsageError for a parameter that the node would refuse."""
    if not isinstance(values.get("use_sim_time", False), bool):
        raise UsageError(f"{node.name}: parameter use_sim_time is {values['use_sim_time']!r}, true or false expected")
    cls = _parameters_class(node)
    if cls is None:
        return
    try:
        from_values(cls, {name: value for name, value in values.items() if not _is_ros(name)}, node.name)
    except ParameterError as error:
        raise UsageError(str(error)) from None


def _check_checkpoints(system: System, values: Mapping[str, Value]) -> None:
    if not values["checkpoint"]:
        return
    path = Path(str(values["checkpoint"]))
    spec = read_spec(path)
    if spec.kind != system.kind:
        raise UsageError(f"{path}: is {with_article(spec.kind)}, {with_article(system.kind)} is needed")
    task = system.trained_on(values)
    if task and spec.task != task:
        raise UsageError(f"{path}: was trained on the {system.subject or 'task'} {spec.task}, {task} is needed")
    if values.get("robot"):
        _check_robot(str(values["robot"]), path, spec)
    if values.get("guard"):
        guard = Path(str(values["guard"]))
        watched = read_spec(guard)
        if watched.kind != GUARD_KIND:
            raise UsageError(f"{guard}: is {with_article(watched.kind)}, {with_article(GUARD_KIND)} is needed")
        if watched.task != spec.task:
            raise UsageError(f"{guard}: was trained on the task {watched.task}, the policy on {spec.task}")
        if values.get("mode") == "lockstep":
            raise UsageError("guard: for mode realtime; in lockstep no result may depend on the time that it takes")


def _check_robot(name: str, checkpoint: Path, spec: CheckpointSpec) -> None:
    """Raises UsageError for a robot's file that is wrong, or does not fit the checkpoint."""
    # Here: `ros2 launch` may run on a Python without the libraries of these.
    from diffusion_ros import robot_file
    from diffusion_ros.robot_check import compare, problems

    try:
        robot = robot_file.read(robot_file.find(name))
    except robot_file.RobotFileError as error:
        raise UsageError(str(error)) from None
    if wrong := problems(compare(robot, spec)):
        raise UsageError(f"{robot.path}, {checkpoint}: {wrong[0]}")
