"""The simulated arm as links and joints, as a URDF has them: from MuJoCo's model, for a robot description and for TF.

Each of MuJoCo's bodies is a link of its name, in its parent's frame. Lengths are metres, angles radians, quaternions
(4) xyzw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from diffusion_ros.atomic_file import atomic_write
from diffusion_ros.simulators.arm import Simulation
from diffusion_ros.simulators.driven_arm import VELOCITY_LIMITS

Array = NDArray[np.float64]
Pose = tuple[Array, Array]

_HINGE = 3
"""MuJoCo's mjJNT_HINGE; the arm's other joints slide."""
_MOUNT = "fixed_mount0_"
"""What robosuite's arm stands on is of the scene."""
_FINGER_SPEED, _FINGER_EFFORT = 0.2, 20.0
"""m/s, N."""
_COLOUR = "0.85 0.85 0.88 1"


@dataclass(frozen=True)
class Shape:
    """What is seen of a link, in its frame."""

    position: Array
    quaternion: Array
    half_extents: Array
    """(3) of the box that holds it."""
    triangles: NDArray[np.float32] | None = None
    """(N, 3, 3) in the shape's own frame; None: it is the box."""


@dataclass(frozen=True)
class Link:
    """A link, and the joint that moves it in its parent."""

    name: str
    parent: str
    """'' for the root, which has no joint."""
    joint: str = ""
    kind: str = "fixed"
    """As in URDF: fixed, revolute or prismatic."""
    position: Array | None = None
    """Of the joint at 0 in the parent (3); None: there."""
    rotation: Rotation | None = None
    axis: Array | None = None
    """(3) in the link's own frame."""
    limits: tuple[float, float] = (0.0, 0.0)
    speed: float = 0.0
    effort: float = 0.0
    address: int = -1
    """Of the joint's position in MuJoCo's qpos; -1: it does not move."""
    shapes: tuple[Shape, ...] = ()

    def pose(self, qpos: ArrayLike) -> Pose:
        """In the parent, at MuJoCo's positions."""
        position = np.zeros(3) if self.position is None else self.position
        rotation = Rotation.identity() if self.rotation is None else self.rotation
        if self.axis is not None:
            at = float(np.asarray(qpos)[self.address])
            if self.kind == "prismatic":
                position = position + rotation.apply(at * self.axis)
            else:
                rotation = rotation * Rotation.from_rotvec(at * self.axis)
        return position, np.asarray(rotation.as_quat())


def arm_links(
    simulation: Simulation,
    root: str,
    base: Pose,
    *,
    prefix: str = "",
    names: Mapping[str, str] | None = None,
    locked: Mapping[str, float] | None = None,
    tool: tuple[str, Pose] | None = None,
) -> list[Link]:
    """The arm with its gripper, parents first.

    root: a link of its own, in which the arm's base stands at `base`. prefix: before MuJoCo's names of bodies. names:
    MuJoCo's joint -> the name it has here. locked: joints that do not move, with their positions [rad]. tool: a link
    more by its name, and its pose in the hand: the grip site, turned as the hand body.
    """
    model = simulation.model
    names, locked = names or {}, locked or {}
    effort = {int(model.actuator_trnid[i, 0]): float(model.actuator_ctrlrange[i, 1]) for i in range(model.nu)}
    first = model.body("robot0_base").id
    found = [Link(root, "", shapes=())]
    kept: dict[int, str] = {}
    for body in range(first, model.nbody):  # MuJoCo has parents first
        name = model.body(body).name
        parent = int(model.body_parentid[body])
        if name.startswith(_MOUNT) or (body != first and parent not in kept):
            continue
        kept[body] = own = f"{prefix}{name}"
        if body == first:
            position, rotation, above = np.asarray(base[0]), Rotation.from_quat(base[1]), root
        else:
            position = np.array(model.body_pos[body])
            rotation, above = Rotation.from_quat(model.body_quat[body], scalar_first=True), kept[parent]
        joint = int(model.body_jntadr[body])
        shapes = _shapes(simulation, body)
        if joint < 0 or model.joint(joint).name in locked:
            if joint >= 0:
                angle = locked[model.joint(joint).name]
                rotation = rotation * Rotation.from_rotvec(angle * np.array(model.jnt_axis[joint]))
            found.append(Link(own, above, f"{own}_joint", "fixed", position, rotation, shapes=shapes))
            continue
        hinge = int(model.jnt_type[joint]) == _HINGE
        known = model.joint(joint).name
        low, high = (float(limit) for limit in model.jnt_range[joint])
        found.append(
            Link(
                own,
                above,
                names.get(known, known),
                "revolute" if hinge else "prismatic",
                position,
                rotation,
                np.array(model.jnt_axis[joint]),
                (low, high),
                VELOCITY_LIMITS[simulation.joint_names.index(known)] if hinge else _FINGER_SPEED,
                effort.get(joint, 0.0) if hinge else _FINGER_EFFORT,
                int(model.jnt_qposadr[joint]),
                shapes,
            )
        )
    if tool is not None:
        name, (place, turned) = tool
        hand, site = simulation.hand_body, simulation.grip_site
        # The grip site lies in a body that is fixed to the hand.
        offset, turn = np.array(model.site_pos[site]), Rotation.identity()
        body = int(model.site_bodyid[site])
        while body != hand:
            turn = Rotation.from_quat(model.body_quat[body], scalar_first=True)
            offset = np.array(model.body_pos[body]) + turn.apply(offset)
            body = int(model.body_parentid[body])
        at = offset + np.asarray(place)
        found.append(Link(name, kept[hand], f"{name}_joint", "fixed", at, Rotation.from_quat(turned)))
    return found


def _shapes(simulation: Simulation, body: int) -> tuple[Shape, ...]:
    """A body's collision geometry."""
    model, shapes = simulation.model, []
    for geom in range(model.body_geomadr[body], model.body_geomadr[body] + model.body_geomnum[body]):
        mesh = int(model.geom_dataid[geom])
        if model.geom_group[geom] != 0:
            continue
        shapes.append(
            Shape(
                np.array(model.geom_pos[geom]),
                np.array(model.geom_quat[geom])[[1, 2, 3, 0]],
                np.array(model.geom_size[geom]),
                simulation.mesh_triangles(mesh) if mesh >= 0 else None,
            )
        )
    return tuple(shapes)


def description(links: Sequence[Link], name: str = "arm", meshes: Path | None = None) -> str:
    """URDF text. meshes: a folder to which meshes are written as STL, for viewers on this machine; None: each is the
    box that holds it, which needs no file. Inertias are placeholders. Raises OSError where it cannot be written."""
    robot = ElementTree.Element("robot", name=name)
    for link in links:
        element = ElementTree.SubElement(robot, "link", name=link.name)
        if link.parent:
            inertial = ElementTree.SubElement(element, "inertial")
            ElementTree.SubElement(inertial, "mass", value="1")
            ElementTree.SubElement(inertial, "inertia", ixx="0.01", iyy="0.01", izz="0.01", ixy="0", ixz="0", iyz="0")
        for shape in link.shapes:
            visual = ElementTree.SubElement(element, "visual")
            _origin(visual, shape.position, Rotation.from_quat(shape.quaternion))
            geometry = ElementTree.SubElement(visual, "geometry")
            if meshes is not None and shape.triangles is not None:
                ElementTree.SubElement(geometry, "mesh", filename=_write_mesh(shape.triangles, meshes).as_uri())
            else:
                ElementTree.SubElement(geometry, "box", size=_text(2 * shape.half_extents))
            material = ElementTree.SubElement(visual, "material", name="arm")
            ElementTree.SubElement(material, "color", rgba=_COLOUR)
        if not link.parent:
            continue
        joint = ElementTree.SubElement(robot, "joint", name=link.joint, type=link.kind)
        ElementTree.SubElement(joint, "parent", link=link.parent)
        ElementTree.SubElement(joint, "child", link=link.name)
        assert link.position is not None and link.rotation is not None
        _origin(joint, link.position, link.rotation)
        if link.axis is not None:
            ElementTree.SubElement(joint, "axis", xyz=_text(link.axis))
            low, high = link.limits
            ElementTree.SubElement(
                joint,
                "limit",
                lower=_text([low]),
                upper=_text([high]),
                velocity=_text([link.speed]),
                effort=_text([link.effort]),
            )
    ElementTree.indent(robot)
    return '<?xml version="1.0"?>\n' + ElementTree.tostring(robot, encoding="unicode") + "\n"


def _write_mesh(triangles: NDArray[np.float32], folder: Path) -> Path:
    """The STL of triangles (N, 3, 3), called after its content, so that all runs share it."""
    edges = triangles[:, 1:] - triangles[:, :1]
    normals = np.cross(edges[:, 0], edges[:, 1])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    facets = np.zeros(len(triangles), [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    facets["normal"] = normals / np.maximum(lengths, 1e-12)
    facets["corners"] = triangles
    data = b"diffusion_ros".ljust(80) + np.uint32(len(triangles)).tobytes() + facets.tobytes()
    path = folder.absolute() / f"{hashlib.sha256(data).hexdigest()[:16]}.stl"
    if not path.exists():
        with atomic_write(path) as temporary:
            temporary.write_bytes(data)
    return path


def _origin(element: ElementTree.Element, position: Array, rotation: Rotation) -> None:
    # URDF's rpy turns about fixed axes: x, then y, then z.
    ElementTree.SubElement(element, "origin", xyz=_text(position), rpy=_text(rotation.as_euler("xyz")))


def _text(values: Sequence[float] | Array) -> str:
    return " ".join(f"{value:.12g}" for value in np.asarray(values, dtype=np.float64).tolist())
