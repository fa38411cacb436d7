"""Who may import whom: no circles, and each room knows only those before it. Read from the sources, with what is
imported for type checking only.

    robot, installation, cache_folders, stop_signals, ranges, atomic_file, yaml_file, resources, picture_transport,
    dds_security, bags, bag_recovery
    franka_connection, franka_arm, franka_hand;
    sealed; spec; robot_file; models; checkpoint; control; robot_check; simulators; web; ros; nodes; systems

What a policy or a planner learnt and how it is asked is models'; how a robot is driven by it is control's, which asks
models and not the other way round. simulators draw what control makes of a chunk. Of them models read one file, the
table of tasks, which is as light as spec.
"""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from diffusion_ros import robot

ROOT = Path(__file__).parents[1]
PACKAGE = "diffusion_ros"

ROOMS: dict[str, tuple[str, ...]] = {
    "robot": (),
    "installation": (),
    "cache_folders": (),
    "stop_signals": (),
    "ranges": (),
    "action_kinds": (),
    "atomic_file": (),
    "yaml_file": (),
    "yaml_edit": ("yaml_file",),
    "resources": (),
    "picture_transport": (),
    "dds_security": (),
    "bags": (),
    "bag_recovery": ("bags",),
    "franka_connection": ("installation",),
    "franka_arm": ("franka_connection",),
    "franka_hand": ("franka_connection",),
    "sealed": (),
    "spec": ("robot", "ranges", "action_kinds", "sealed"),
    "models": ("robot", "ranges", "action_kinds", "sealed", "spec", "simulators.tasks"),
    "checkpoint": ("spec", "models", "atomic_file", "sealed"),
    "robot_section": (),
    "robot_person": ("robot_section",),
    "robot_output": ("robot_section",),
    "robot_file": ("yaml_file", "resources", "spec", "robot_section", "robot_person", "robot_output"),
    "control": ("robot", "ranges", "action_kinds", "atomic_file", "spec", "models", "robot_file"),
    "running": ("control",),
    "robot_check": ("robot", "ranges", "spec", "robot_file", "control"),
    "simulators": ("robot", "installation", "ranges", "atomic_file", "yaml_file", "spec", "robot_file", "control"),
    "web": ("simulators",),
    "ros": (
        "robot",
        "installation",
        "dds_security",
        "cache_folders",
        "stop_signals",
        "ranges",
        "action_kinds",
        "atomic_file",
        "spec",
        "robot_file",
        "control",
        "robot_check",
        "simulators",
        "bags",
    ),
    "nodes": (
        "robot",
        "ranges",
        "action_kinds",
        "atomic_file",
        "franka_connection",
        "franka_arm",
        "franka_hand",
        "resources",
        "picture_transport",
        "bags",
        "spec",
        "robot_file",
        "robot_check",
        "checkpoint",
        "models",
        "control",
        "simulators",
        "web",
        "ros",
    ),
}
"""Of src, and what each may import beside itself. Nobody imports those that are not here: they start things."""
WITHOUT: dict[str, tuple[str, ...]] = {
    "robot": ("rclpy", "torch", "cv2", "mujoco", "robosuite", "gymnasium"),
    "franka_connection": ("rclpy", "torch", "cv2", "mujoco", "robosuite", "gymnasium"),
    "franka_arm": ("rclpy", "torch", "cv2", "mujoco", "robosuite", "gymnasium"),
    "spec": ("rclpy", "torch", "cv2", "mujoco", "robosuite", "gymnasium"),
    "checkpoint": ("rclpy", "cv2", "mujoco", "robosuite", "gymnasium"),
    "sealed": ("rclpy", "torch", "cv2", "mujoco", "robosuite", "gymnasium"),
    "models": ("rclpy", "cv2", "mujoco", "robosuite", "gymnasium"),
    "control": ("rclpy", "robosuite", "gymnasium"),
    "simulators": ("rclpy", "torch"),
    "bags": ("rclpy", "torch", "cv2", "mujoco", "robosuite", "gymnasium"),
    "bag_recovery": ("rclpy", "torch", "cv2", "mujoco", "robosuite", "gymnasium"),
    "robot_check": ("rclpy", "torch", "cv2", "mujoco", "robosuite", "gymnasium"),
    "web": ("rclpy", "torch", "cv2", "mujoco", "robosuite", "gymnasium"),
    "ros": ("torch", "cv2", "mujoco", "robosuite", "gymnasium"),
    "nodes": ("mujoco", "robosuite", "gymnasium"),
}
"""Libraries that a room does not know; with rclpy all messages are meant."""


def modules() -> dict[str, Path]:
    """All of src and training, by dotted name; a package by its own."""
    found = {}
    for base in (ROOT / "src", ROOT):
        for path in sorted((base / (PACKAGE if base.name == "src" else "training")).rglob("*.py")):
            found[".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


def imports(name: str, source: str, known: Collection[str], package: bool = False) -> set[str]:
    """Modules that a source names at any depth: ours by their dotted names, others as they stand there."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = name.split(".")[: len(name.split(".")) - node.level + package] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{origin}.{alias.name}"
                found.add(full if full in known else origin)
    return found - {name}


@functools.cache
def graph() -> dict[str, set[str]]:
    known = modules()
    return {n: imports(n, p.read_text(), known, p.name == "__init__.py") for n, p in known.items()}


def circles(edges: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Groups of nodes that can be reached from each other."""
    reached: dict[str, set[str]] = {}
    for start in edges:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for following in edges.get(waiting.pop(), ()):
                if following in edges and following not in seen:
                    seen.add(following)
                    waiting.append(following)
        reached[start] = seen
    groups = {frozenset(m for m in reached[n] if n in reached[m]) for n in edges if n in reached[n]}
    return sorted(sorted(group) for group in groups)


def test_circles_are_found() -> None:
    assert circles({"a": ["b"], "b": ["c"], "c": ["b", "d"], "d": []}) == [["b", "c"]]
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.q import r\ndef f():\n    import z.w\n"
    assert imports("p.x", source, {"p.q.r"}) == {"typing", "p.q.r", "z.w"}
    assert imports("p.q.x", "from . import r\nfrom ..s import T\n", {"p.q.r", "p.s"}) == {"p.q.r", "p.s"}
    assert imports("p.q", "from .r import T\n", {"p.q.r"}, package=True) == {"p.q.r"}


def test_no_circle_of_imports() -> None:
    edges = graph()
    assert len(edges) > 100
    assert circles(edges) == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_knows_only_those_before_it(room: str) -> None:
    own = f"{PACKAGE}.{room}"
    members = {name: named for name, named in graph().items() if f"{name}.".startswith(f"{own}.")}
    assert members, f"there is no {own}"
    allowed = [f"{PACKAGE}.{other}." for other in (room, *ROOMS[room])]
    for name, named in members.items():
        for other in sorted(named):
            if other.partition(".")[0] in (PACKAGE, "training"):
                assert f"{other}.".startswith(tuple(allowed)), f"{name} imports {other}"


@pytest.mark.parametrize("room", WITHOUT)
def test_a_room_does_without_what_is_not_its_business(room: str) -> None:
    own = f"{PACKAGE}.{room}"
    for name, named in graph().items():
        if not f"{name}.".startswith(f"{own}."):
            continue
        for library in {other.partition(".")[0] for other in named}:
            ros = library.endswith(("_msgs", "_srvs", "_interfaces"))
            assert ("rclpy" if ros else library) not in WITHOUT[room], f"{name} imports {library}"


def test_pictures_are_scaled_and_read_in_one_place() -> None:
    """Of control only this file knows OpenCV, and only its functions: most nodes never import it."""
    control = {name for name, named in graph().items() if name.startswith(f"{PACKAGE}.control") and "cv2" in named}
    assert control == {f"{PACKAGE}.control.pictures"}


def test_of_control_only_kinematics_knows_mujoco_and_not_before_it_has_an_arm() -> None:
    found = {name for name, named in graph().items() if name.startswith(f"{PACKAGE}.control.") and "mujoco" in named}
    assert found == {f"{PACKAGE}.control.kinematics"}
    script = f"import sys, {PACKAGE}.control.kinematics; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT / "src", capture_output=True, text=True, check=True)
    assert "mujoco" not in run.stdout.split()


def test_src_does_not_know_training() -> None:
    for name, named in graph().items():
        if name.startswith(PACKAGE):
            assert "training" not in {other.partition(".")[0] for other in named}, name


OBSERVATIONS = (robot.EEF_POS, robot.EEF_QUAT, robot.GRIPPER_QPOS, robot.OBJECT_POS, robot.OBJECT_QUAT)


@functools.cache
def constants() -> dict[str, list[Any]]:
    """What stands as a constant in each module of the package."""
    sources = {name: path.read_text() for name, path in modules().items() if name.startswith(PACKAGE)}
    trees = {name: ast.walk(ast.parse(source)) for name, source in sources.items()}
    return {name: [node.value for node in tree if isinstance(node, ast.Constant)] for name, tree in trees.items()}


@pytest.mark.parametrize(
    "name", [*robot.FINGERS, *OBSERVATIONS, *robot.ACTION_NAMES[:6], robot.WORLD_FRAME, robot.HAND_FRAME]
)
def test_what_a_robot_has_is_named_once(name: str) -> None:
    found = [module for module, values in constants().items() for value in values if value == name]
    assert found == [f"{PACKAGE}.robot"]


def test_all_tasks_can_be_named_without_a_simulator() -> None:
    script = f"""
import sys
from {PACKAGE}.simulators.tasks import ARM_TASKS, GYM_TASKS, MAZE_TASKS
print(len(ARM_TASKS), len(MAZE_TASKS), len(GYM_TASKS), *sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT / "src", capture_output=True, text=True, check=True)
    *counts, rest = run.stdout.split(maxsplit=3)
    assert [int(count) for count in counts] == [3, 3, 2]
    heavy = {"cv2", "scipy", "torch", "mujoco", "gymnasium", "robosuite", "rclpy"}
    assert not heavy & set(rest.split())


@pytest.mark.parametrize("node", ["maze", "follower", "web"])
def test_who_only_pushes_a_ball_or_looks_needs_no_torch(node: str) -> None:
    """Its nodes start sooner and are smaller for it."""
    script = f"import sys, {PACKAGE}.nodes.{node}_node; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT / "src", capture_output=True, text=True, check=True)
    assert f"{PACKAGE}.nodes.{node}_node" in run.stdout.split()
    assert "torch" not in run.stdout.split()
