"""What RViz and the page show: scenes and lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from geometry_msgs.msg import Point, Transform
from numpy.typing import ArrayLike, NDArray
from sensor_msgs.msg import MultiDOFJointState
from visualization_msgs.msg import Marker, MarkerArray

from diffusion_ros.ros.messages.fields import (
    FAR,
    MessageError,
    floats,
    header_to_msg,
    pose_fields,
    printable,
    short,
    stamp_ns,
)
from diffusion_ros.simulators.scene import SceneGeom

Array = NDArray[np.float64]

_MARKERS = {
    "box": Marker.CUBE,
    "plane": Marker.CUBE,
    "sphere": Marker.SPHERE,
    "ellipsoid": Marker.SPHERE,
    "cylinder": Marker.CYLINDER,
    "capsule": Marker.CYLINDER,
    "mesh": Marker.TRIANGLE_LIST,
}
_SHAPES = {
    Marker.CUBE: "box",
    Marker.SPHERE: "ellipsoid",
    Marker.CYLINDER: "cylinder",
    Marker.TRIANGLE_LIST: "mesh",
}
_PLANE = 5.0
"""Half the side of what stands for an infinite plane [m]."""


def scene_to_msg(
    geoms: Sequence[SceneGeom], time_ns: int, frame_id: str, frames: Mapping[str, str] | None = None
) -> MarkerArray:
    """One marker a geom, in MuJoCo's conventions for sizes (half extents; radius and half length).

    frames: of the bodies that move, by the bodies' names; viewers follow them (`frame_locked`).
    """
    bodies = frames or {}
    return MarkerArray(
        markers=[_marker(i, geom, time_ns, bodies.get(geom.body, frame_id)) for i, geom in enumerate(geoms)]
    )


def scene_from_msg(msg: MarkerArray) -> list[SceneGeom]:
    """The shapes, with sizes in MuJoCo's conventions; the frame of each as `body`, and its namespace before its name.

    Raises MessageError for one that is no shape, or not finite.
    """
    geoms = []
    for marker in msg.markers:
        if marker.action != Marker.ADD:
            continue
        kind = _SHAPES.get(int(marker.type))
        if kind is None:
            raise MessageError(f"marker {marker.ns}/{marker.id}: type {marker.type}, a shape expected")
        p, q, scale = marker.pose.position, marker.pose.orientation, marker.scale
        numbers = np.array([p.x, p.y, p.z, q.x, q.y, q.z, q.w, scale.x, scale.y, scale.z], np.float64)
        triangles = None
        if kind == "mesh":
            corners = np.array([(point.x, point.y, point.z) for point in marker.points], np.float32)
            if not len(corners) or len(corners) % 3:
                raise MessageError(f"marker {marker.ns}/{marker.id}: {len(corners)} corners of triangles")
            triangles = corners.reshape(-1, 3, 3)
        if not np.all(np.abs(numbers) <= FAR) or (triangles is not None and not np.all(np.abs(triangles) <= FAR)):
            raise MessageError(f"marker {marker.ns}/{marker.id}: finite numbers expected, at most {FAR:g}")
        c, size = marker.color, (scale.x / 2, scale.y / 2, scale.z / 2)
        geoms.append(
            SceneGeom(
                name=printable(f"{marker.ns}/{marker.id}"),
                type=kind,
                size=(size[0], size[2], 0.0) if kind == "cylinder" else size,
                position=numbers[:3],
                quaternion=numbers[3:7],
                rgba=(float(c.r), float(c.g), float(c.b), float(c.a)),
                triangles=triangles,
                body=printable(marker.header.frame_id),
            )
        )
    return geoms


def poses_to_msg(poses: Mapping[str, tuple[ArrayLike, ArrayLike]], time_ns: int, frame_id: str) -> MultiDOFJointState:
    """Poses by name: position (3) [m] and quaternion (4) xyzw in frame_id."""
    msg = MultiDOFJointState(header=header_to_msg(time_ns, frame_id), joint_names=list(poses))
    for position, quaternion in poses.values():
        transform = Transform()
        t, r = transform.translation, transform.rotation
        t.x, t.y, t.z = floats(position, 3, "position")
        r.x, r.y, r.z, r.w = floats(quaternion, 4, "quaternion")
        msg.transforms.append(transform)
    return msg


def poses_from_msg(msg: MultiDOFJointState) -> tuple[int, dict[str, tuple[Array, Array]]]:
    """Stamp [ns] and poses by name: position (3) [m], quaternion (4) xyzw. Raises MessageError."""
    if len(msg.joint_names) != len(msg.transforms):
        raise MessageError(f"{len(msg.transforms)} transforms for {len(msg.joint_names)} names")
    poses = {}
    for name, transform in zip(msg.joint_names, msg.transforms, strict=True):
        t, r = transform.translation, transform.rotation
        numbers = np.array([t.x, t.y, t.z, r.x, r.y, r.z, r.w], np.float64)
        if not np.all(np.abs(numbers) <= FAR):
            raise MessageError(f"{printable(name)}: {short(numbers)}, finite numbers expected")
        poses[printable(name)] = numbers[:3], numbers[3:]
    return stamp_ns(msg.header.stamp), poses


def _marker(index: int, geom: SceneGeom, time_ns: int, frame_id: str) -> Marker:
    if geom.type not in _MARKERS:
        raise MessageError(f"geom {geom.name!r}: type {geom.type!r}, one of {', '.join(_MARKERS)} expected")
    a, b, c = (float(x) for x in geom.size)
    if geom.type == "sphere":
        a = b = c = a
    elif geom.type == "plane":
        a, b, c = a or _PLANE, b or _PLANE, 0.0005
    elif geom.type == "cylinder":
        a, b, c = a, a, b
    elif geom.type == "capsule":
        a, b, c = a, a, a + b
    namespace = "walls" if geom.name.startswith("wall") else "scene"
    marker = Marker(header=header_to_msg(time_ns, frame_id), ns=namespace, id=index, type=_MARKERS[geom.type])
    marker.action, marker.frame_locked = Marker.ADD, bool(geom.body)
    marker.pose = pose_fields(geom.position, geom.quaternion)
    marker.color.r, marker.color.g, marker.color.b, marker.color.a = (float(x) for x in geom.rgba)
    if geom.type == "mesh":
        if geom.triangles is None:
            raise MessageError(f"geom {geom.name!r}: a mesh without triangles")
        marker.points = [Point(x=x, y=y, z=z) for x, y, z in geom.triangles.reshape(-1, 3).astype(np.float64).tolist()]
        a = b = c = 0.5
    marker.scale.x, marker.scale.y, marker.scale.z = 2.0 * a, 2.0 * b, 2.0 * c
    return marker


def clearing(namespace: str, frame_id: str) -> Marker:
    """What takes away the markers of before. Its id is its own: RViz refuses a message in which two have the same."""
    return Marker(header=header_to_msg(0, frame_id), ns=namespace, id=-1, action=Marker.DELETEALL)


def lines_to_msg(
    lines: Sequence[ArrayLike],
    colours: Sequence[tuple[float, float, float, float]],
    namespace: str,
    frame_id: str,
    width: float = 0.04,
) -> MarkerArray:
    """Each line (N, 3) [m] as a strip of its colour rgba and `width` [m]; older ones of the namespace go."""
    markers = [clearing(namespace, frame_id)]
    for i, (line, colour) in enumerate(zip(lines, colours, strict=True)):
        marker = Marker(
            header=header_to_msg(0, frame_id), ns=namespace, id=i, type=Marker.LINE_STRIP, action=Marker.ADD
        )
        marker.pose = pose_fields((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))
        marker.scale.x = width
        marker.color.r, marker.color.g, marker.color.b, marker.color.a = (float(c) for c in colour)
        marker.points = [Point(x=x, y=y, z=z) for x, y, z in np.asarray(line, np.float64).reshape(-1, 3).tolist()]
        markers.append(marker)
    return MarkerArray(markers=markers)


def lines_from_msg(msg: MarkerArray) -> list[Array]:
    """The points (N, 3) [m] of every strip."""
    return [
        np.array([[p.x, p.y, p.z] for p in marker.points], np.float64).reshape(-1, 3)
        for marker in msg.markers
        if marker.type == Marker.LINE_STRIP and marker.action == Marker.ADD
    ]
