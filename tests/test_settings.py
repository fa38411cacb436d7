"""Settings: one way from defaults, config/, a user's YAML and arguments to the nodes, and back."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import itertools
import os
import subprocess
import sys
import typing
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fake_guard
import fake_policy
import fake_rl
import pytest
import rclpy
import ros_graph
import yaml
from fake_planner import fake_planner
from rclpy.parameter import Parameter

from diffusion_ros import bringup
from diffusion_ros.checkpoint import CheckpointError
from diffusion_ros.nodes.executor_node import ExecutorNode
from diffusion_ros.nodes.policy_node import PolicyNode
from diffusion_ros.ros.params import from_values
from diffusion_ros.systems import CARTPOLE, MAZE, REAL_ROBOT, SIMULATION, SYSTEMS, TELEOPERATE, parameter_files
from diffusion_ros.systems.parameter_files import ParameterFileError
from diffusion_ros.systems.startup import Startup, UsageError, decide, defaults, foreign_sections
from diffusion_ros.systems.system import NodeDescription, System

ROOT = Path(__file__).parents[1]
ROBOT = {
    "action_low": [-0.02] * 7,
    "action_high": [0.02] * 7,
    "workspace_low": [-0.1, -0.2, 0.8],
    "workspace_high": [0.2, 0.2, 1.0],
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By what they were trained on, and the guard's."""
    folder = tmp_path_factory.mktemp("checkpoints")
    made = {task: fake_policy.save(folder / f"{task}.pt", fake_policy.spec(task=task)) for task in ("lift", "can")}
    made |= {t: fake_rl.save(folder / f"{t}.pt", spec_=fake_rl.spec(t)) for t in ("cartpole", "double_pendulum")}
    made |= {"umaze": fake_planner(folder / "umaze.pt"), "guard": fake_guard.save(folder / "guard.pt")}
    return made | {"images": ROOT / "checkpoints/ddpm_digits.pt"}


def usual(system: System, checkpoints: dict[str, Path]) -> dict[str, str]:
    """Arguments with which a system can be started here."""
    if system is TELEOPERATE:
        return {"task": "can"}
    task = {"simulation": "can", "rehearsal": "can", "real_robot": "can", "maze": "umaze"}.get(system.name, system.name)
    return {"checkpoint": str(checkpoints[task]), **({system.subject: task} if system.subject else {})}


LIMITS_OF: dict[str, dict[str, Any]] = {"rehearsal": {}, "teleoperate": {}}
"""A robot's file has its own, and the arm that a person drives."""


def settle(system: System, given: dict[str, str]) -> Startup:
    return decide(system, given, ROOT, str)


def parameters_class(node: NodeDescription) -> Any:
    module = importlib.import_module(node.module)
    (cls,) = (value for name, value in vars(module).items() if name.endswith("Parameters"))
    return cls


def keys(node: NodeDescription) -> dict[str, Any]:
    return parameter_files.read(ROOT / "config" / node.config).of(f"/{node.name}")


def changed(cls: Any, name: str, value: Any) -> Any:
    """Another value that the parameter may have."""
    field = cls.__dataclass_fields__[name]
    if field.metadata["choices"]:
        return next(choice for choice in field.metadata["choices"] if choice not in (value, ""))
    if isinstance(value, list):
        return list(reversed(value)) if value != list(reversed(value)) else [2 * x for x in value]
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return f"{value}_changed"
    if isinstance(value, int):
        return value + 1
    high = field.metadata["high"]
    return value + 0.25 if high is None or value + 0.25 <= high else value - 0.25


REAL = {
    "host": "localhost",
    "view": "birdview",
    "robot": str(ROOT / "config/robots/xarm_jtc.yaml"),
    "picture_size": "1280x720",
    "servo_caps": [0.3, 0.7],
    "servo_singularity": [20.0, 40.0],
}
"""Other values of what must be something that there is."""
EVERY_KEY = [
    pytest.param(system, node, name, id=f"{system.name}-{node.name}-{name}")
    for system in SYSTEMS.values()
    for node in system.nodes
    for name in keys(node)
]


@pytest.mark.parametrize(("system", "node", "name"), EVERY_KEY)
def test_every_key_of_every_yaml_reaches_its_node_from_a_users_file(
    system: System, node: NodeDescription, name: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    cls = parameters_class(node)
    # These must be something that there is.
    new = REAL.get(name) or changed(cls, name, keys(node)[name])
    given = usual(system, checkpoints)
    if name in ("output_dir", "results"):
        new = str(tmp_path / name)
    if name == "guard":
        new = str(checkpoints["guard"])
    if name == system.subject:
        new = {"task": "lift", "size": "umaze"}[name]
        given = {"checkpoint": str(checkpoints[new])} if system is not TELEOPERATE else {}
    if node.needs:
        needed = {"guard": str(checkpoints["guard"]), "teleop": "joy", "policy": "true", "web": "true"}
        given[node.needs] = needed.get(node.needs, str(tmp_path / node.needs))
    # What one argument sets in several nodes must agree in all of them.
    argument = node.arguments.get(name)
    places = [
        (other.name, parameter)
        for other in system.nodes
        for parameter, setter in other.arguments.items()
        if argument is not None and setter == argument and name != "guard"
    ]
    sections: dict[str, Any] = {f"/**/{node.name}": {"ros__parameters": {name: new}}}
    for other, parameter in places:
        sections[f"/**/{other}"] = {"ros__parameters": {parameter: new}}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(sections))
    if name != "output_dir":
        given["output_dir"] = str(tmp_path / "run")
    startup = settle(system, {**given, "params_file": str(file)})
    written = parameter_files.read(startup.write_parameters(node)).of(f"/{node.name}")
    found = getattr(
        from_values(
            cls, {**written, **(LIMITS_OF.get(system.name, ROBOT) if node.name == "executor" else {})}, node.name
        ),
        name,
    )
    assert (list(found) if isinstance(found, tuple) else found) == new
    assert new != keys(node)[name] or name == system.subject


@pytest.mark.parametrize(
    ("system", "node"),
    {node.module: (system, node) for system in SYSTEMS.values() for node in system.nodes}.values(),
    ids=lambda part: part.name,
)
def test_a_node_has_what_a_users_file_says(
    system: System, node: NodeDescription, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """All keys of its YAML at once, in the node itself."""
    cls = parameters_class(node)
    # What the checkpoint must fit, or what a node cannot be made with.
    fixed = ("mode", "task", "size", "device", "guard", "output_dir", "frame_id", "sampler", "sampler_steps", "late")
    new = {name: changed(cls, name, value) for name, value in keys(node).items() if name not in fixed}
    new |= {name: value for name, value in REAL.items() if name in new}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({node.name: {"ros__parameters": new}}))
    given = {**usual(system, checkpoints), "params_file": str(file), "output_dir": str(tmp_path / "run")}
    if node.needs:
        needed = {"guard": str(checkpoints["guard"]), "teleop": "joy", "policy": "true", "web": "true"}
        given[node.needs] = needed.get(node.needs, str(tmp_path / node.needs))
    startup = settle(system, given)
    module = importlib.import_module(node.module)
    (make,) = (v for n, v in vars(module).items() if n.endswith("Node") and getattr(v, "__module__", "") == node.module)
    limits = LIMITS_OF.get(system.name, ROBOT) if node.name == "executor" else {}
    said = {**startup.parameters[node.name], **limits}
    with ros_graph.graph() as graph:
        made = graph.add(make([Parameter(name, value=value) for name, value in said.items()]))
        found = {name: made.get_parameter(name).value for name in new}
    assert {name: list(v) if hasattr(v, "tolist") else v for name, v in found.items()} == new


def is_parameters(expression: ast.expr) -> bool:
    """`p`, `parameters`, `self.parameters` and the like; `self` of a class of parameters."""
    if isinstance(expression, ast.Name):
        return expression.id in ("p", "parameters")
    return isinstance(expression, ast.Attribute) and expression.attr == "parameters"


@pytest.mark.parametrize(
    "node", {node.module: node for system in SYSTEMS.values() for node in system.nodes}.values(), ids=lambda n: n.name
)
def test_every_parameter_is_read_by_its_node(node: NodeDescription) -> None:
    """A parameter that no code reads would have no effect."""
    cls, module = parameters_class(node), importlib.import_module(node.module)
    (made,) = (v for n, v in vars(module).items() if n.endswith("Node") and getattr(v, "__module__", "") == node.module)
    bases = [c for c in (*cls.__mro__, *made.__mro__) if c.__module__.startswith("diffusion_ros.")]
    sources = [Path(str(importlib.import_module(c.__module__).__file__)) for c in bases]
    sources += (ROOT / "src/diffusion_ros/nodes").glob("*_domain.py")
    read = {
        part.attr
        for path in sources
        for part in ast.walk(ast.parse(path.read_text()))
        if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Load) and is_parameters(part.value)
    }
    if hasattr(cls, "lockstep") and "lockstep" in read:
        read.add("mode")
    if hasattr(cls, "size") and "size" in read:
        read.add("picture_size")
    if hasattr(cls, "trust") and "trust" in read:
        read |= {"trusted_keys", "checkpoint_sha256"}
    assert {field.name for field in dataclasses.fields(cls)} <= read


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=lambda system: system.name)
def test_config_says_the_defaults_of_the_nodes(system: System) -> None:
    """Where config/ deviates from a node's own default, it is for the system."""
    deviations: dict[str, dict[str, Any]] = {
        "simulation": {"episodes": 3},
        "maze": {"episodes": 3, "video": True},
        "cartpole": {"episodes": 3},
        "double_pendulum": {"episodes": 3},
        "images": {"at_start": True},
        "real_robot": {
            "sync_tolerance": 0.025,
            "gripper_joints": ["panda_finger_joint1", "panda_finger_joint2"],
            "gripper_signs": [1.0, -1.0],
            "frame_id": "panda_link0",
            "join": "blend",
        },
    }
    deviations["rehearsal"] = {**deviations["real_robot"], "episodes": 3}
    deviations["teleoperate"] = {
        "episodes": 1,
        "seed": 0,
        "max_steps": 2400,
        "stop_after_success": 20,
        "view": "frontview",
        "enabled": True,
        "rate": 20.0,
        "n_action_steps": 8,
        "action_low": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5, -1.0],
        "action_high": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5, 1.0],
        "workspace_low": [-0.5, -0.6, 0.79],
        "workspace_high": [0.5, 0.6, 1.4],
        "linear": 0.2,
        "angular": 0.8,
        "response": [88.2, 0.803, 34.2, 0.82],
        "picture": "agentview/image_raw",
    }
    found = {}
    for node in system.nodes:
        cls = parameters_class(node)
        own = {field.name: field.default for field in dataclasses.fields(cls)}
        for name, value in keys(node).items():
            if value != (list(own[name]) if isinstance(own[name], tuple) else own[name]):
                found[name] = value
    if system is SIMULATION:
        assert found.pop("enabled") and found.pop("checkpoint_limits"), "the simulator is free to move, robots are not"
    assert found == deviations[system.name]


def test_arguments_win_over_a_file_and_a_file_over_config(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    # rclpy itself would let the section that names the node win over what comes later.
    file.write_text(
        yaml.safe_dump(
            {
                "/**": {"ros__parameters": {"seed": 5, "pause": 2.5}},
                "simulation": {"ros__parameters": {"seed": 7, "max_steps": 30}},
                "drivers": {"camera": {"ros__parameters": {"rate": 30}}},
            }
        )
    )
    given = {**usual(SIMULATION, checkpoints), "params_file": str(file), "output_dir": str(tmp_path)}
    startup = settle(SIMULATION, {**given, "max_steps": "12"})
    parameters = startup.parameters["simulation"]
    assert (parameters["seed"], parameters["pause"], parameters["max_steps"]) == (7, 2.5, 12)
    assert startup.values["seed"] == 7 and startup.values["max_steps"] == 12
    assert parameters["stop_after_success"] == 0, "config/'s, of which nothing was said"
    assert foreign_sections(startup) == ["/drivers/camera"]
    assert settle(SIMULATION, {**given, "namespace": "left"}).parameters["simulation"]["seed"] == 5


@pytest.mark.parametrize(
    ("pattern", "node", "fits"),
    [
        ("/**", "/left/policy", True),
        ("/**/policy", "/policy", True),
        ("/**/policy", "/left/arm/policy", True),
        ("/*/policy", "/left/policy", True),
        ("/*/policy", "/policy", False),
        ("/*/policy", "/left/arm/policy", False),
        ("/policy", "/left/policy", False),
        ("/poli.y", "/policy", False),
    ],
)
def test_sections_are_for_the_nodes_whose_names_they_fit(pattern: str, node: str, fits: bool, tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(yaml.safe_dump({pattern: {"ros__parameters": {"a": {"b": 1}}}}))
    assert parameter_files.read(path).of(node) == ({"a.b": 1} if fits else {})


def test_numbers_are_read_as_ros_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("/**: {ros__parameters: {a: 1e-3, b: 2E5, c: [.5e1], d: 1.0, e: 1, f: 1e, g: on}}")
    values = parameter_files.read(path).of("/node")
    assert values == {"a": 1e-3, "b": 2e5, "c": [5.0], "d": 1.0, "e": 1, "f": "1e", "g": True}
    assert type(values["d"]) is float and type(values["e"]) is int


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("a: [", "is no YAML"),
        ("3", "expected a node's name with ros__parameters below it"),
        ("policy: {device: cpu}", "'/policy/device': expected a node's name with ros__parameters below it"),
        ("ros__parameters: {device: cpu}", "ros__parameters stands below no node's name"),
        ("policy: {ros__parameters: 3}", "'/policy': expected parameters below ros__parameters"),
        (
            "{policy: {ros__parameters: {mode: realtime}}, executor: {ros__parameters: {mode: lockstep}}}",
            "policy says 'realtime' and executor 'lockstep'",
        ),
        ("a: {ros__parameters: {x: 1}}\na: {ros__parameters: {x: 2}}", "'a' stands there twice"),
        ("policy: {ros__parameters: {threads: 1, threads: 2}}", "'threads' stands there twice"),
        ("a: &a {b: *a}", "is no YAML that can be read"),
        ("/**: {ros__parameters: {treads: 2}}", "treads: no node has a parameter of that name"),
        ("policy: {ros__parameters: {treads: 2}}", "policy: unknown parameter treads"),
        ("policy: {ros__parameters: {threads: two}}", "policy: parameter threads is 'two', an integer expected"),
        ("policy: {ros__parameters: {use_sim_time: 'yes'}}", "parameter use_sim_time is 'yes', true or false expected"),
        ("camera_guard: {ros__parameters: {checkpoint: g.pt}}", "checkpoint 'g.pt': expected '', which is what the"),
        ("simulation: {ros__parameters: {episodes: 0}}", "simulation: episodes 0: expected at least 1"),
        ("simulation: {ros__parameters: {episodes: two}}", "simulation: episodes 'two': expected one like 3"),
        ("simulation: {ros__parameters: {task: fly}}", "simulation: task 'fly': expected one of lift, can, square"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(
    content: str, line: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(UsageError) as error:
        settle(SIMULATION, {"checkpoint": str(checkpoints["can"]), "params_file": str(file)})
    assert line in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ParameterFileError, match=r"none\.yaml: No such file"):
        parameter_files.read(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("system", "content", "line"),
    [
        (CARTPOLE, "gym_simulation: {ros__parameters: {task: double_pendulum}}", "task 'double_pendulum': expected"),
        # A robot does not wait for its commands, and what it may do is not a checkpoint's to say.
        (REAL_ROBOT, "/**: {ros__parameters: {mode: lockstep}}", "policy: mode 'lockstep': expected 'realtime'"),
        (REAL_ROBOT, "executor: {ros__parameters: {mode: lockstep}}", "executor: mode 'lockstep': expected 'realtime'"),
        (
            REAL_ROBOT,
            "executor: {ros__parameters: {checkpoint_limits: true}}",
            "checkpoint_limits True: expected False",
        ),
    ],
)
def test_what_makes_a_system_is_not_a_files(
    system: System, content: str, line: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(UsageError, match=line):
        settle(system, {**usual(system, checkpoints), "params_file": str(file)})


def test_a_file_may_name_the_checkpoint_and_the_task(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    sections = {
        "/**": {"ros__parameters": {"checkpoint": str(checkpoints["lift"]), "threads": 2}},
        "simulation": {"ros__parameters": {"task": "lift"}},
    }
    file.write_text(yaml.safe_dump(sections))
    startup = settle(SIMULATION, {"params_file": str(file), "output_dir": str(tmp_path)})
    assert startup.task == "lift"
    assert startup.parameters["executor"]["checkpoint"] == str(checkpoints["lift"])
    # What is said to all is for those that know it.
    assert startup.parameters["policy"]["threads"] == 2
    assert "threads" not in startup.parameters["executor"] and "checkpoint" not in startup.parameters["simulation"]


def test_what_a_file_says_to_one_node_goes_for_all_that_share_the_argument(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """A guard that does not start has no say, and config/ none against a user."""
    file = tmp_path / "mine.yaml"
    sections = {"policy": {"device": "meta"}, "executor": {"guard": str(checkpoints["guard"])}}
    file.write_text(yaml.safe_dump({name: {"ros__parameters": said} for name, said in sections.items()}))
    startup = settle(REAL_ROBOT, {**usual(REAL_ROBOT, checkpoints), "params_file": str(file)})
    assert startup.parameters["policy"]["device"] == startup.parameters["camera_guard"]["device"] == "meta"
    assert startup.parameters["camera_guard"]["checkpoint"] == str(checkpoints["guard"])
    file.write_text("policy: {ros__parameters: {device: meta}}")
    startup = settle(REAL_ROBOT, {**usual(REAL_ROBOT, checkpoints), "params_file": str(file)})
    assert [node.name for node in startup.nodes] == ["policy", "executor"]
    with pytest.raises(UsageError, match="was trained on the task can, the policy on lift"):
        settle(REAL_ROBOT, {"checkpoint": str(checkpoints["lift"]), "guard": str(checkpoints["guard"])})


def test_an_argument_that_is_given_wins_even_if_it_is_the_default(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("/**: {ros__parameters: {use_sim_time: true, seed: 7}}")
    given = {**usual(SIMULATION, checkpoints), "params_file": str(file)}
    assert settle(SIMULATION, given).parameters["policy"]["use_sim_time"] is True
    startup = settle(SIMULATION, {**given, "use_sim_time": "false", "seed": "100000"})
    assert startup.parameters["policy"]["use_sim_time"] is False
    assert startup.parameters["simulation"]["seed"] == 100_000


def test_what_is_written_for_a_node_is_read_as_it_was_said(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    said = {"a": [0.5, 1], "b": [1, 2], "c": "1e5", "d": "true", "e": ["x"], "f": []}
    parameter_files.write(path, said)
    values = parameter_files.read(path).of("/node")
    assert values == {**said, "a": [0.5, 1.0]} and type(values["a"][1]) is float and type(values["b"][0]) is int


def test_an_output_folder_is_one_runs(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    given = {**usual(CARTPOLE, checkpoints), "output_dir": str(tmp_path / "run")}
    startup = settle(CARTPOLE, given)
    with startup.claimed():
        startup.results.write_text("kept")
        with pytest.raises(UsageError, match="in use by another run"), settle(CARTPOLE, given).claimed():
            pass
        assert startup.results.read_text() == "kept"
    with settle(CARTPOLE, given).claimed():
        assert not startup.results.exists(), "those of the run before"


def test_a_checkpoint_that_cannot_be_used_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        settle(REAL_ROBOT, {"checkpoint": "nowhere.pt"})
    with pytest.raises(UsageError, match="is a discrete policy, a policy is needed"):
        settle(REAL_ROBOT, {"checkpoint": str(checkpoints["cartpole"])})
    with pytest.raises(UsageError, match="was trained on the size umaze, large is needed"):
        settle(MAZE, {"checkpoint": str(checkpoints["umaze"])})
    with pytest.raises(UsageError, match="checkpoint '': expected the path of a policy"):
        settle(REAL_ROBOT, {})
    for name, text in (("eef_pose", ""), ("eef_pose", "a b"), ("eef_pose", "/x__y"), ("namespace", "a__b")):
        with pytest.raises(UsageError, match=f"{name} '{text}': expected"):
            settle(REAL_ROBOT, {**usual(REAL_ROBOT, checkpoints), name: text})


def test_defaults_are_those_of_config() -> None:
    simulation = parameter_files.read(ROOT / "config/simulation.yaml").of("/simulation")
    found = defaults(SIMULATION, ROOT)
    assert {name: found[name] for name in simulation if name in found} == {
        name: value for name, value in simulation.items() if name in found
    }
    for system in SYSTEMS.values():
        assert set(defaults(system, ROOT)) == {argument.name for argument in system.all_arguments}


def test_what_all_nodes_share_reaches_them(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    given = {"namespace": "/left/", "log_level": "warn", "use_sim_time": "true", "output_dir": str(tmp_path / "run")}
    startup = settle(REAL_ROBOT, {**usual(REAL_ROBOT, checkpoints), **given, "eef_pose": "/franka/pose"})
    for node in startup.nodes:
        command = bringup.command(startup, node)
        text = " ".join(command)
        assert f"-r __node:={node.name}" in text and "-r __ns:=/left" in text and "--log-level warn" in text
        assert "-r eef_pose:=/franka/pose" in text and "joint_states:=" not in text
        assert startup.parameters[node.name]["use_sim_time"] is True


@pytest.mark.parametrize("system", [s for s in SYSTEMS.values() if any(node.required for node in s.nodes)])
def test_below_real_time_all_nodes_follow_the_simulator(
    system: System, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    given = {**usual(system, checkpoints), "output_dir": str(tmp_path / "run")}
    for speed, follows in (("1", None), ("0.5", True)):
        startup = settle(system, {**given, "speed": speed})
        for node in startup.nodes:
            said = startup.parameters[node.name].get("use_sim_time")
            assert said is (None if node.required else follows)
            assert not node.required or startup.parameters[node.name]["speed"] == float(speed)
    file = tmp_path / "slow.yaml"
    simulator = next(node.name for node in system.nodes if node.required)
    file.write_text(f"{simulator}: {{ros__parameters: {{speed: 0.25}}}}")
    startup = settle(system, {**given, "params_file": str(file)})
    assert all(startup.parameters[node.name]["use_sim_time"] for node in startup.nodes if not node.required)


# What is in force


@pytest.fixture
def graph() -> Iterator[ros_graph.Graph]:
    with ros_graph.graph() as made:
        yield made


def overrides(parameters: dict[str, Any]) -> list[Parameter[Any]]:
    return [Parameter(name, value=value) for name, value in parameters.items()]


def dump(node: Any) -> dict[str, Any]:
    """As `ros2 param dump` has them: every parameter by its parts between points, empty lists as []."""
    nested: dict[str, Any] = {}
    for name, parameter in node.get_parameters_by_prefix("").items():
        value = parameter.value
        *parts, last = name.split(".")
        inner = nested
        for part in parts:
            inner = inner.setdefault(part, {})
        inner[last] = list(value) if hasattr(value, "__len__") and not isinstance(value, str) else value
    return nested


def test_what_the_checkpoint_gives_can_be_read(graph: ros_graph.Graph, checkpoints: dict[str, Path]) -> None:
    spec = fake_policy.spec(task="lift")
    node = graph.add(ExecutorNode(overrides({"checkpoint": str(checkpoints["lift"]), "checkpoint_limits": True})))
    assert node.get_parameter("rate").value == spec.rate
    assert node.get_parameter("n_action_steps").value == spec.n_action_steps
    for name in ("action_low", "action_high", "workspace_low", "workspace_high"):
        assert tuple(node.get_parameter(name).value) == getattr(spec, name) == getattr(node.parameters, name)
    policy = graph.add(PolicyNode(overrides({"checkpoint": str(checkpoints["lift"])})))
    assert policy.get_parameter("sampler").value == spec.sampler
    assert policy.get_parameter("sampler_steps").value == spec.sampler_steps
    for other in (node, policy):
        for field in dataclasses.fields(other.parameters):
            assert other.describe_parameter(field.name).read_only
            result = other.set_parameters([other.get_parameter(field.name)])[0]
            assert not result.successful and "read-only" in result.reason


def test_what_was_given_stays_what_it_is(graph: ros_graph.Graph, checkpoints: dict[str, Path]) -> None:
    given = {"checkpoint": str(checkpoints["lift"]), "rate": 10.0, "n_action_steps": 4, **ROBOT}
    node = graph.add(ExecutorNode(overrides(given)))
    assert {name: dump(node)[name] for name in given} == given


@pytest.mark.parametrize("kind", ["executor", "executor without checkpoint", "policy"])
def test_a_dump_can_be_loaded_again(kind: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Through rclpy's own reading of the file."""
    path = str(checkpoints["lift"])
    first: dict[str, Any] = {"checkpoint": path, "checkpoint_limits": True}
    if kind == "executor without checkpoint":
        first = {"rate": 20.0, "n_action_steps": 8, **ROBOT}
    if kind == "policy":
        first = {"checkpoint": path}
    make = PolicyNode if kind == "policy" else ExecutorNode
    name = "policy" if kind == "policy" else "executor"
    with ros_graph.graph() as graph:
        before = dump(graph.add(make(overrides(first))))
    file = tmp_path / "dump.yaml"
    file.write_text(yaml.dump({f"/{name}": {"ros__parameters": before}}))
    with ros_graph.own_domain(), ExitStack() as stack:
        rclpy.init(args=["--ros-args", "--params-file", str(file)])
        stack.callback(rclpy.try_shutdown)
        node: Any = make()
        stack.callback(node.destroy_node)
        stack.callback(node.close)
        assert dump(node) == before


def test_an_empty_list_in_a_file_is_an_empty_list(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "empty.yaml"
    empty: dict[str, Any] = {"checkpoint": str(checkpoints["lift"]), "checkpoint_limits": True, "action_low": []}
    file.write_text(yaml.safe_dump({"/**": {"ros__parameters": empty}}))
    with ros_graph.own_domain(), ExitStack() as stack:
        rclpy.init(args=["--ros-args", "--params-file", str(file)])
        stack.callback(rclpy.try_shutdown)
        node = ExecutorNode()
        stack.callback(node.destroy_node)
        stack.callback(node.close)
        assert node.parameters.action_low == fake_policy.spec().action_low


def test_messages_name_topics_as_they_are_called_here(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with ros_graph.own_domain(), ExitStack() as stack:
        remaps = ["eef_pose:=/franka/pose", "joint_states:=grip", "__ns:=/left"]
        rclpy.init(args=["--ros-args", *itertools.chain(*(("-r", remap) for remap in remaps))])
        stack.callback(rclpy.try_shutdown)
        node = PolicyNode(overrides({"checkpoint": str(checkpoints["lift"])}))
        stack.callback(node.destroy_node)
        stack.callback(node.close)
        reasons = node.reasons()
    assert "/franka/pose: nothing received" in reasons
    assert "grip: nothing received" in reasons
    assert "agentview/image_raw: nothing received" in reasons


# The command


def test_the_command_lists_the_systems_and_their_options() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "100"}

    def run(*words: str) -> str:
        command = [sys.executable, "-m", "diffusion_ros", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    overview = run("--help")
    for system in SYSTEMS.values():
        assert system.name in overview and system.description in overview
        assert len(system.description) < 70
    options = run("cartpole", "--help")
    for argument in CARTPOLE.all_arguments:
        assert f"--{argument.name.replace('_', '-')}" in options
    assert "cartpole_rainbow.pt" in options and "<task>" not in options


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=lambda system: system.name)
def test_help_says_of_each_argument_what_it_is(system: System) -> None:
    names = [argument.name for argument in system.all_arguments]
    assert len(set(names)) == len(names)
    for argument in system.all_arguments:
        assert argument.description and not argument.description.startswith(("of ", "whether ", "how many"))


def test_hints_of_parameters_can_be_resolved() -> None:
    for node in itertools.chain(*(system.nodes for system in SYSTEMS.values())):
        assert typing.get_type_hints(parameters_class(node))


# A person


def test_a_policy_is_left_out_for_a_person_alone(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    given = {"robot": "franka_crisp", "task": "can", "output_dir": str(tmp_path / "run")}
    rehearsal = SYSTEMS["rehearsal"]
    both = settle(rehearsal, {**given, "checkpoint": str(checkpoints["can"]), "teleop": "joy"})
    assert [node.name for node in both.nodes] == ["rehearsal", "policy", "executor", "teleop"]
    assert both.parameters["teleop"]["checkpoint"] == both.parameters["executor"]["checkpoint"] != ""
    assert (both.parameters["teleop"]["device"], both.parameters["executor"]["teleop"]) == ("joy", "joy")
    alone = settle(rehearsal, {**given, "policy": "false", "teleop": "topic"})
    assert [node.name for node in alone.nodes] == ["rehearsal", "executor"]
    assert alone.parameters["executor"]["checkpoint"] == "", "then the rows are the person's"
    with pytest.raises(UsageError, match="policy false: expected with teleop only: nobody would drive"):
        settle(rehearsal, {**given, "policy": "false"})


def test_teleoperate_on_a_robot_is_real_robot_without_a_policy(tmp_path: Path) -> None:
    words = ["teleoperate", "--robot", "franka_crisp", "--output-dir", str(tmp_path / "run")]
    request = bringup.parse(words)
    assert request.system is REAL_ROBOT and request.startup.checkpoint_sha256 == ""
    assert [node.name for node in request.startup.nodes] == ["executor", "teleop"]
    said = request.startup.parameters
    assert said["teleop"]["device"] == "keyboard" and not said["executor"]["enabled"]
    assert bringup.parse([*words, "--teleop", "joy"]).startup.parameters["teleop"]["device"] == "joy"
    with pytest.raises(UsageError, match="--episodes: expected without --robot only: it is the simulator's"):
        bringup.parse([*words, "--episodes", "3"])
    simulated = bringup.parse(["teleoperate", "--task", "lift", "--output-dir", str(tmp_path / "run")])
    assert [node.name for node in simulated.startup.nodes] == ["simulation", "executor", "teleop"]
    assert [node.name for node in simulated.startup.nodes if node.terminal] == ["teleop"]


def test_a_page_that_steers_brings_the_page_and_an_executor_that_listens(checkpoints: dict[str, Path]) -> None:
    def started(**given: str) -> tuple[set[str], Any]:
        startup = settle(SIMULATION, {**usual(SIMULATION, checkpoints), **given})
        return {node.name for node in startup.nodes}, startup

    assert "web" not in started()[0]
    nodes, startup = started(web="true")
    assert "web" in nodes and startup.values["teleop"] == "" and startup.parameters["web"]["control"] is False
    nodes, startup = started(web_control="true")
    assert "web" in nodes and "teleop" not in nodes
    assert startup.parameters["executor"]["teleop"] == "topic" and startup.parameters["web"]["control"] is True
    assert startup.parameters["web"]["address_file"] == str(startup.output_dir / "web_address")
    assert started(web_control="true", teleop="joy")[1].parameters["executor"]["teleop"] == "joy"
    # In lockstep nobody drives.
    assert started(web_control="true", mode="lockstep")[1].parameters["executor"]["teleop"] == ""
    page = next(node for node in SIMULATION.nodes if node.name == "web")
    assert page.dispensable and not page.required
