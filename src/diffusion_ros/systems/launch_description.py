"""A system as a launch description, for the files in launch/. The only file that imports launch and launch_ros.

Nodes are started as `python -m <module>`, which works in every kind of installation: launch_ros looks for a package's
executables in lib/<package>, where pip puts none.
"""

from __future__ import annotations

import atexit
import difflib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, RegisterEventHandler, Shutdown
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch.launch_context import LaunchContext
from launch.launch_description import LaunchDescription
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from diffusion_ros import picture_transport
from diffusion_ros.dds_security import PREFIX, enclave_arguments
from diffusion_ros.resources import resource_folder
from diffusion_ros.systems import parameter_files, rviz_layout
from diffusion_ros.systems.startup import Startup, decide, defaults, foreign_sections
from diffusion_ros.systems.supervisor import describe_status
from diffusion_ros.systems.system import Argument, NodeDescription, System, Value, node_environment

_CLAIMS = ExitStack()
"""Of output folders: they end with this process."""
_BAD_INPUT = 2
"""Exit status of a node that trying again would not help."""


def describe(system: System, resources: Path) -> LaunchDescription:
    """The system with its arguments; `resources` is the folder that holds config/ and checkpoints/."""
    return describe_one_of((system,), resources)


def describe_one_of(systems: Sequence[System], resources: Path) -> LaunchDescription:
    """The system that the argument `system` names, the first by default; all have arguments of the same names."""
    by_name = {system.name: system for system in systems}
    arguments: list[DeclareLaunchArgument] = []
    if len(systems) > 1:
        lines = "; ".join(f"{system.name}: {system.description}" for system in systems)
        arguments.append(
            DeclareLaunchArgument("system", default_value=systems[0].name, description=lines, choices=list(by_name))
        )
    usual = {system.name: defaults(system, resources) for system in systems}
    arguments += [_declared(argument, systems, usual) for argument in systems[0].all_arguments]
    arguments += [
        DeclareLaunchArgument(name, default_value="false", description=f"true: {text}", choices=["true", "false"])
        for name, text in _BESIDE.items()
    ]
    given: set[str] = set()

    def note(context: LaunchContext) -> None:
        # Before the defaults are filled in: what is known now was given.
        given.clear()
        given.update(context.launch_configurations)

    def nodes(context: LaunchContext) -> list[Any]:
        system = by_name[LaunchConfiguration("system").perform(context)] if len(systems) > 1 else systems[0]
        wanted = {name for name in _BESIDE if LaunchConfiguration(name).perform(context) == "true"}
        texts = {a.name: LaunchConfiguration(a.name).perform(context) for a in system.all_arguments if a.name in given}
        for argument in arguments:
            # Else they would be there, as if given, when another file of ours is included after this one.
            if argument.name not in given:
                del context.launch_configurations[argument.name]
        startup = decide(system, texts, resources, str)
        beside = []
        if "rviz" in wanted:
            beside.append(_rviz(rviz_layout.of_startup(startup, resources), startup.namespace, system.simulated))
        if "diagnostics" in wanted:
            beside.append(_aggregator(resources, startup.namespace, system.simulated))
        return [*_misspelt(system, given), *_start(startup), *beside]

    return LaunchDescription([OpaqueFunction(function=note), *arguments, OpaqueFunction(function=nodes)])


def describe_rviz(resources: Path) -> LaunchDescription:
    """RViz alone, for a system that runs already."""
    names = {"planner": "maze", "rl": "cartpole"}
    """Older ones."""

    def start(context: LaunchContext) -> list[Any]:
        values = {name: LaunchConfiguration(name).perform(context) for name in ("system", "namespace", *_LAYOUT)}
        path = values["config"]
        system = names.get(values["system"], values["system"])
        if not path:
            text = rviz_layout.layout(
                resources,
                system,
                values["robot"],
                values["frame_prefix"],
                values["fixed_frame"],
                compressed=values["compressed_pictures"] == "true",
            )
            folder = Path(tempfile.mkdtemp(prefix="diffusion_ros-rviz-"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            path = folder / f"{system}.rviz"
            path.write_text(text)
        shown = _rviz(path, values["namespace"], system != "real_robot")
        if system not in _WITH_SCENE_POSES or find_spec("tf2_msgs") is None:
            return [shown]
        ends = RegisterEventHandler(OnProcessExit(target_action=shown, on_exit=[Shutdown(reason="RViz was closed")]))
        return [shown, _scene_frames(values["namespace"]), ends]

    return LaunchDescription(
        [
            DeclareLaunchArgument("namespace", default_value="", description="of the system to look at"),
            DeclareLaunchArgument(
                "system",
                default_value="simulation",
                description="what runs",
                choices=[*rviz_layout.TEMPLATES, *names],
            ),
            *(DeclareLaunchArgument(name, default_value="", description=text) for name, text in _LAYOUT.items()),
            OpaqueFunction(function=start),
        ]
    )


_LAYOUT = {
    "config": "what to show instead (.rviz)",
    "robot": "the robot's YAML file, or the name of a shipped one, for rehearsal and real_robot",
    "frame_prefix": "what the system was started with",
    "fixed_frame": "in place of the layout's",
    "compressed_pictures": "true: pictures as JPEG, of a system that was started with it",
}
"""Further arguments of RViz alone."""


_BESIDE = {
    "rviz": "RViz shows it",
    "diagnostics": "diagnostic_aggregator sorts /diagnostics into /diagnostics_agg, for rqt_robot_monitor",
}
"""What may be started beside a system."""


_WITH_SCENE_POSES = ("simulation", "rehearsal", "teleoperate")
"""Systems whose simulator may run where there is no tf2_msgs: RViz's environment has it."""


def _scene_frames(namespace: str) -> Node:
    """Says nothing beside a simulator that publishes /tf by itself."""
    return Node(
        executable=_python(),
        exec_name="scene_frames",
        arguments=["-m", "diffusion_ros.nodes.scene_frames_node"],
        name="scene_frames",
        namespace=namespace,
        ros_arguments=enclave_arguments(os.environ) or None,
        additional_env=picture_transport.environment(resource_folder(), True),
        output="screen",
    )


def _aggregator(resources: Path, namespace: str, simulated: bool) -> Node:
    return Node(
        package="diagnostic_aggregator",
        executable="aggregator_node",
        name="diagnostic_aggregator",
        namespace=namespace,
        parameters=[str(resources / "config" / "diagnostics.yaml")],
        ros_arguments=enclave_arguments(os.environ) or None,
        additional_env=picture_transport.environment(resources, simulated),
        output="screen",
    )


def _rviz(layout: Path | str, namespace: str, simulated: bool) -> Node:
    # The topics in a layout are relative: they are looked for in RViz's own namespace. It talks to the system's nodes
    # as they do to each other.
    return Node(
        package="rviz2",
        executable="rviz2",
        name="rviz",
        namespace=namespace,
        arguments=["-d", str(layout)],
        ros_arguments=["--enclave", f"{PREFIX}/viewer"] if enclave_arguments(os.environ) else None,
        additional_env=picture_transport.environment(resource_folder(), simulated),
        output="screen",
    )


def _declared(
    argument: Argument, systems: Sequence[System], usual: dict[str, dict[str, Value]]
) -> DeclareLaunchArgument:
    """With what each system says of it, where they differ."""
    descriptions = {s.name: next(a.description for a in s.all_arguments if a.name == argument.name) for s in systems}
    different = len(set(descriptions.values())) > 1
    default = usual[systems[0].name][argument.name]
    return DeclareLaunchArgument(
        argument.name,
        default_value=str(default).lower() if isinstance(default, bool) else str(default),
        description=" ".join(f"[{name}] {text}" for name, text in descriptions.items())
        if different
        else argument.description,
        choices=argument.choices or None,
    )


def _python() -> str:
    """That of the virtual environment, which has torch, where `ros2 launch` itself runs on the system's."""
    environment = os.environ.get("VIRTUAL_ENV", "")
    python = Path(environment, "bin", "python3")
    return str(python) if environment and python.exists() else sys.executable


def _misspelt(system: System, given: Collection[str]) -> list[LogInfo]:
    """Warnings: launch itself takes any name, and there may be others that belong to another file."""
    known = [argument.name for argument in system.all_arguments]
    close = {name: difflib.get_close_matches(name, known, 1, 0.75) for name in given if name not in known}
    return [LogInfo(msg=f"{n}:= is no argument of {system.name}; is {c[0]}:= meant?") for n, c in close.items() if c]


def _ended(node: NodeDescription) -> Callable[[ProcessExited, LaunchContext], list[Any] | None]:
    """What happens when a node's process has ended: the system ends when its work is done, and when a node is gone for
    good. Raises RuntimeError then, which ends the launch with status 1, as bringup's would not be 0 either."""
    left = node.restarts

    def on_exit(event: ProcessExited, context: LaunchContext) -> list[Any] | None:
        nonlocal left
        if context.is_shutdown:
            return None
        if node.required and event.returncode == 0:
            return [Shutdown(reason=f"{node.name} has finished")]
        if event.returncode != _BAD_INPUT and left > 0:
            left -= 1
            return None
        if node.dispensable:
            return [LogInfo(msg=f"{node.name} {describe_status(event.returncode)}; the rest goes on")]
        raise RuntimeError(f"{node.name} {describe_status(event.returncode)}, and is not started again")

    return on_exit


def _manager(startup: Startup, managed: Sequence[str], environment: dict[str, str]) -> Node:
    """Who brings the managed nodes to life, as bringup does by itself."""
    name = "lifecycle_manager"
    path = startup.output_dir / "parameters" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    parameter_files.write(path, {"node_names": list(managed)})
    return Node(
        executable=_python(),
        exec_name=name,
        arguments=["-m", "diffusion_ros.nodes.lifecycle_manager_node"],
        name=name,
        namespace=startup.namespace,
        parameters=[str(path)],
        ros_arguments=[*enclave_arguments(os.environ), "--log-level", str(startup.values["log_level"])],
        additional_env=environment,
        output="screen",
        respawn=True,
        respawn_delay=1.0,
    )


def _start(startup: Startup) -> list[Any]:
    _CLAIMS.enter_context(startup.claimed())
    output_dir = str(startup.output_dir)
    own = {**node_environment(resource_folder(), startup.system.simulated), "ROS_LOG_DIR": f"{output_dir}/ros"}
    said = [LogInfo(msg=f"logs and results: {output_dir}")]
    file = startup.values["params_file"]
    said += [LogInfo(msg=f"{file}: {s} is no node of {startup.system.name}") for s in foreign_sections(startup)]
    environment = {name: value for name, value in own.items() if name not in os.environ}
    managed = startup.system.managed(startup.values)
    managers = [_manager(startup, managed, environment)] if managed else []
    nodes = [
        Node(
            executable=_python(),
            exec_name=node.name,
            arguments=["-m", node.module],
            name=node.name,
            namespace=startup.namespace,
            parameters=[str(startup.write_parameters(node))],
            remappings=startup.remappings,
            ros_arguments=[*enclave_arguments(os.environ), "--log-level", str(startup.values["log_level"])],
            additional_env=environment,
            output="screen",
            respawn=node.restarts > 0,
            respawn_delay=1.0,
            respawn_max_retries=node.restarts,
            on_exit=_ended(node),
        )
        for node in startup.nodes
    ]
    return [*said, *nodes, *managers]
