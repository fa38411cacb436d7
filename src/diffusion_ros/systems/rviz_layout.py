"""What RViz shows of a system: a layout of config/, with the frames and topics that the system has here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from diffusion_ros import robot_file
from diffusion_ros.robot import prefixed
from diffusion_ros.robot_file import RobotFile
from diffusion_ros.systems.startup import Startup

TEMPLATES = {
    "simulation": "simulation",
    "rehearsal": "simulation",
    "teleoperate": "simulation",
    "real_robot": "simulation",
    "maze": "maze",
    "cartpole": "rl",
    "double_pendulum": "rl",
    "images": "images",
}
"""System -> its layout in config/."""
FRAMES = tuple(name for name in TEMPLATES if name != "images")
"""Systems that have a prefix before their frames."""
ARMS = ("simulation", "rehearsal", "teleoperate", "real_robot")
_IMAGE, _SCENE, _MODEL, _HEAT = "image_raw", "scene", "RobotModel", "guard_heat"
_PICTURES, _JPEG = "/Image", "/compressed"
"""RViz's displays of pictures, which take a topic of that ending as image_transport's of this name."""
_NEAR = {"Distance": 2.0, "Focal Point": {"X": 0.4, "Y": 0.0, "Z": 0.2}}
"""A view in the frame of a robot's base [m]."""


def of_startup(startup: Startup, resources: Path) -> Path:
    """Writes the layout of a system that is started into its output folder."""
    values, name = startup.values, startup.system.name
    path = startup.output_dir / f"{name}.rviz"
    path.parent.mkdir(parents=True, exist_ok=True)
    own = next((p["frame_id"] for p in startup.parameters.values() if p.get("frame_id")), "")
    made = layout(
        resources,
        name,
        robot=str(values.get("robot", "")),
        prefix=str(values.get("frame_prefix", "")),
        fixed_frame="" if values.get("robot") else str(own),
        topics=dict(startup.remappings),
        guard=bool(values.get("guard")),
        compressed=bool(values.get("compressed_pictures")),
    )
    path.write_text(made)
    return path


def layout(
    resources: Path,
    system: str,
    robot: str = "",
    prefix: str = "",
    fixed_frame: str = "",
    topics: Mapping[str, str] | None = None,
    guard: bool = False,
    compressed: bool = False,
) -> str:
    """The text of a layout (.rviz). resources: the folder that holds config/.

    robot: a YAML file, or a shipped one's name. prefix: before the simulator's frames. fixed_frame: in place of the
    layout's; ''. topics: that are called otherwise here. guard: whether a camera guard's pictures are shown.
    compressed: whether the simulator's are taken as JPEG. Raises RobotFileError.
    """
    content: dict[str, Any] = yaml.safe_load((resources / "config" / f"{TEMPLATES[system]}.rviz").read_text())
    manager = content["Visualization Manager"]
    found = robot_file.read(robot_file.find(robot)) if robot else None
    real = system == "real_robot"
    options = manager["Global Options"]
    if system in FRAMES:
        options["Fixed Frame"] = fixed_frame or prefixed(prefix, options["Fixed Frame"])
    if real and found is not None:
        options["Fixed Frame"] = found.base.frame
    if real:
        manager["Views"]["Current"].update(_NEAR)
    for display in manager["Displays"]:
        topic = display.get("Topic", display.get("Description Topic"))
        if topic is None:
            continue
        name = topic["Value"]
        topic["Value"] = (topics or {}).get(name, name)
        if name.endswith(_HEAT):
            _show(display, guard)
        elif real and name == _SCENE:
            _show(display, False)  # it is the simulator's
        elif display["Class"].endswith(_MODEL):
            _model(display, topic, found, real)
        elif name.endswith(f"/{_IMAGE}") and system in ARMS:
            _picture(display, topic, name.removesuffix(f"/{_IMAGE}"), found, real)
        if compressed and found is None and display["Class"].endswith(_PICTURES) and name.endswith(_IMAGE):
            topic["Value"] += _JPEG
    text: str = yaml.safe_dump(content, sort_keys=False, width=10_000)
    return text


def _show(display: dict[str, Any], shown: bool) -> None:
    display["Enabled"] = display["Value"] = shown


def _model(display: dict[str, Any], topic: dict[str, Any], robot: RobotFile | None, real: bool) -> None:
    """The arm. A simulator publishes its description; a robot's file says where a robot's is."""
    if not real:
        return
    described = robot.description if robot is not None else None
    _show(display, described is not None)
    if described is not None and described.file:
        display["Description Source"], display["Description File"] = "File", described.file
    elif described is not None:
        topic["Value"] = described.topic


def _picture(display: dict[str, Any], topic: dict[str, Any], camera: str, robot: RobotFile | None, real: bool) -> None:
    """A camera's picture, by the topic and the reliability of its driver."""
    if robot is None:
        if real:
            topic["Reliability Policy"] = "Best Effort"  # which hears both kinds of publishers
        return
    source = robot.pictures.get(camera)
    _show(display, source is not None)
    if source is not None:
        topic["Value"] = source.topic
        topic["Reliability Policy"] = "Reliable" if source.reliable else "Best Effort"
