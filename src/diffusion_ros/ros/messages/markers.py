"""What RViz shows: scenes and lines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from geometry_msgs.msg import Point
from numpy.typing import ArrayLike, NDArray
from rclpy.serialization import serialize_message
from visualization_msgs.msg import Marker, MarkerArray

from diffusion_ros.ros.messages.fields import MessageError, header_to_msg, pose_fields
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
_PLANE = 5.0
"""Half the side of what stands for an infinite plane [m]."""


def scene_to_msg(geoms: Sequence[SceneGeom], time_ns: int, frame_id: str) -> MarkerArray:
    """One marker a geom, in MuJoCo's conventions for sizes (half extents; radius and half length)."""
    return MarkerArray(markers=[_marker(i, geom, time_ns, frame_id) for i, geom in enumerate(geoms)])


class SerializedScene:
    """scene_to_msg in its serialized form, which publishers take as well, with poses that can be replaced.

    A mesh is thousands of points, and rclpy serializes them one by one: 40 ms for a scene, most of a control period.
    """

    def __init__(self, geoms: Sequence[SceneGeom], time_ns: int, frame_id: str) -> None:
        msg = scene_to_msg(geoms, time_ns, frame_id)
        # Poses that occur nowhere else, to find out where each is: seven numbers, one after the other.
        marks = [np.array([-1.5e300, i, 0.0, 0.0, 0.0, 0.0, 1.0]) for i in range(len(geoms))]
        for marker, mark in zip(msg.markers, marks, strict=True):
            marker.pose = pose_fields(mark[:3], mark[3:])
        self._data = bytearray(serialize_message(msg))
        self._offsets = [self._data.find(mark.tobytes()) for mark in marks]
        assert min(self._offsets, default=0) >= 0

    def moved(self, geoms: Sequence[SceneGeom]) -> bytes:
        """The message with the poses of `geoms`, the same ones again."""
        for offset, geom in zip(self._offsets, geoms, strict=True):
            pose = np.array([*geom.position, *geom.quaternion], np.float64).tobytes()
            self._data[offset : offset + len(pose)] = pose
        return bytes(self._data)


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
    marker = Marker(header=header_to_msg(time_ns, frame_id), ns="scene", id=index, type=_MARKERS[geom.type])
    marker.action = Marker.ADD
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
