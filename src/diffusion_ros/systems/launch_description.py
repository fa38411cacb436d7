"""A system as a launch description, for the files in launch/. The only file that imports launch and launch_ros.

Nodes are started as `python -m <module>`, which works in every kind of installation: launch_ros looks for a package's
executables in lib/<package>, where pip puts none.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch.launch_context import LaunchContext
from launch.launch_description import LaunchDescription
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from diffusion_ros.systems.system import ENVIRONMENT, System


def describe(system: System, resources: Path) -> LaunchDescription:
    """The system with its arguments, and `namespace`; `resources` is the folder that holds config/ and checkpoints/."""
    return LaunchDescription([*_declared(system), OpaqueFunction(function=partial(_nodes, system, resources))])


def describe_one_of(systems: Sequence[System], resources: Path) -> LaunchDescription:
    """The system that the argument `system` names, the first by default; all have the same arguments."""
    by_name = {system.name: system for system in systems}
    chosen = DeclareLaunchArgument(
        "system", default_value=systems[0].name, description="what is started", choices=list(by_name)
    )

    def nodes(context: LaunchContext) -> list[Any]:
        return _nodes(by_name[LaunchConfiguration("system").perform(context)], resources, context)

    return LaunchDescription([chosen, *_declared(systems[0]), OpaqueFunction(function=nodes)])


def _declared(system: System) -> list[DeclareLaunchArgument]:
    declared = [
        DeclareLaunchArgument(
            argument.name,
            default_value=str(argument.default),
            description=argument.description,
            choices=argument.choices or None,
        )
        for argument in system.arguments
    ]
    return [*declared, DeclareLaunchArgument("namespace", default_value="", description="of all nodes and topics")]


def _nodes(system: System, resources: Path, context: LaunchContext) -> list[Any]:
    """Raises ValueError for an argument that cannot be used."""
    texts = {a.name: LaunchConfiguration(a.name).perform(context) for a in system.arguments}
    values = {a.name: a.parse(texts[a.name]) for a in system.arguments}
    checkpoint = Path(texts["checkpoint"] or system.default_checkpoint(values, resources))
    values["checkpoint"] = str(checkpoint.absolute())
    for name in ("guard", "params_file"):
        if values.get(name):
            values[name] = str(Path(texts[name]).absolute())
    own = [str(values["params_file"])] if values.get("params_file") else []
    return [
        Node(
            executable=sys.executable,
            arguments=["-m", node.module],
            name=node.name,
            namespace=LaunchConfiguration("namespace").perform(context),
            parameters=[
                str(resources / "config" / node.config),
                *own,
                {
                    name: ParameterValue(value, value_type=type(value))
                    for name, value in system.parameters(node, values).items()
                },
            ],
            remappings=[(topic, texts[argument]) for topic, argument in system.topics.items()],
            additional_env={name: value for name, value in ENVIRONMENT.items() if name not in os.environ},
            output="screen",
            respawn=node.restarts > 0,
            respawn_delay=1.0,
            respawn_max_retries=node.restarts,
            on_exit=Shutdown() if node.required else None,
        )
        for node in system.started(values)
    ]
