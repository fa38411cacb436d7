"""The three-dimensional part of the page: what viser shows of a scene, lines, walls and balls.

Called from any thread. Everybody who looks sees the same, except for the goal, which only those have who may steer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import viser
from numpy.typing import ArrayLike, NDArray

from diffusion_ros.simulators.scene import SceneGeom
from diffusion_ros.web.status import GROUPS

Array = NDArray[np.float64]
_PLACES = {
    "arm": ((1.05, -0.95, 1.6), (-0.1, 0.05, 1.0)),
    "maze": ((0.0, -5.5, 10.5), (0.0, -0.4, 0.0)),
    "cart": ((0.0, -4.2, 1.0), (0.0, 0.0, 0.3)),
}
"""Where one looks from at first, and where to [m]."""
_STILL = 5e-5
"""Changes of a pose below it are not told."""


@dataclass
class _Shape:
    signature: tuple[Any, ...]
    handle: Any
    pose: Array


@dataclass
class _Body:
    handle: Any
    pose: Array = field(default_factory=lambda: np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]))


class View:
    """What is seen of one system."""

    def __init__(self, server: viser.ViserServer) -> None:
        self._server, self._lock = server, threading.Lock()
        self._shapes: dict[str, _Shape] = {}
        self._bodies: dict[str, _Body] = {}
        self._lines: dict[str, Any] = {}
        self._balls: dict[str, list[Any]] = {}
        self.visible = dict(GROUPS)
        """What is shown."""
        self._goals: dict[int, Any] = {}
        self._goal: Array | None = None
        self.on_goal: Callable[[Array], None] = lambda position: None
        """Called with where somebody who may steer has dragged the goal to (3) [m]."""
        server.gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False)
        server.scene.set_up_direction("+z")
        server.scene.configure_default_lights(True, cast_shadow=False)
        server.scene.world_axes.visible = False
        for group, visible in GROUPS.items():
            server.scene.add_frame(f"/{group}", show_axes=False, visible=visible)
        self._walls: Any = None
        self._looked = self._flat = False

    # The scene

    def look(self, kind: str, size: float = 1.0) -> None:
        """Where one looks from, once it is known what there is: arm, maze, cart. size: of a maze, the large one's is 1.

        A maze's goal is dragged on its floor.
        """
        if not self._looked:
            self._looked = True
            place, at = (size * np.array(point) for point in _PLACES[kind])
            self._server.initial_camera.position, self._server.initial_camera.look_at = place, at
            self._flat = kind == "maze"
            with self._lock:
                for handle in self._goals.values():
                    handle.active_axes = (True, True, not self._flat)
            if kind == "arm":
                self._server.scene.add_grid(
                    "/scene/ground",
                    6.0,
                    6.0,
                    cell_size=0.25,
                    section_size=1.0,
                    cell_color=(34, 42, 56),
                    section_color=(46, 58, 78),
                    position=(0.0, 0.0, 0.0),
                )

    def scene(self, geoms: Sequence[SceneGeom]) -> None:
        """All shapes; those of a body are in its frame. Shapes that are there already are moved."""
        with self._lock, self._server.atomic():
            for name in set(self._shapes) - {geom.name for geom in geoms}:
                self._shapes.pop(name).handle.remove()
            for geom in geoms:
                self._show(geom)

    def _show(self, geom: SceneGeom) -> None:
        count = 0 if geom.triangles is None else len(geom.triangles)
        signature = geom.type, geom.size, geom.rgba, geom.body, count
        pose = np.append(geom.position, geom.quaternion)
        shape = self._shapes.get(geom.name)
        if shape is not None and shape.signature == signature:
            if np.abs(shape.pose - pose).max() > _STILL:
                shape.pose = pose
                shape.handle.position, shape.handle.wxyz = tuple(pose[:3]), _wxyz(pose)
            return
        group = "/walls" if geom.name.startswith("walls/") else "/scene"
        if geom.body:
            body = self._body(geom.body)
            group = body.handle.name
        name = f"{group}/{geom.name.replace('/', '_')}"
        handle = self._draw(geom, name, tuple(pose[:3]), _wxyz(pose))
        self._shapes[geom.name] = _Shape(signature, handle, pose)

    def _draw(self, geom: SceneGeom, name: str, position: Any, wxyz: Any) -> Any:
        scene = self._server.scene
        red, green, blue = (round(255 * min(max(x, 0.0), 1.0)) for x in geom.rgba[:3])
        colour = red, green, blue
        a, b, c = geom.size
        options: dict[str, Any] = {"position": position, "wxyz": wxyz, "side": "double", "cast_shadow": False}
        options["opacity"] = None if geom.rgba[3] >= 1.0 else geom.rgba[3]
        if geom.type == "mesh" and geom.triangles is not None:
            corners, faces = np.unique(geom.triangles.reshape(-1, 3), axis=0, return_inverse=True)
            return scene.add_mesh_simple(name, corners, faces.reshape(-1, 3), color=colour, **options)
        if geom.type == "cylinder":
            round_corners, round_faces = cylinder(a, b)
            return scene.add_mesh_simple(name, round_corners, round_faces, color=colour, **options)
        if geom.type in ("ellipsoid", "sphere"):
            return scene.add_icosphere(name, 1.0, colour, subdivisions=2, scale=(a, b or a, c or a), **options)
        return scene.add_box(name, colour, (2 * a, 2 * b, 2 * c), **options)

    def _body(self, name: str) -> _Body:
        if name not in self._bodies:
            handle = self._server.scene.add_frame(self.node(name), show_axes=False)
            self._bodies[name] = _Body(handle)
        return self._bodies[name]

    def node(self, body: str) -> str:
        """What viser calls a body, whether it has a shape or not."""
        return f"/scene/{body.replace('/', '_')}"

    def poses(self, poses: Mapping[str, tuple[Array, Array]]) -> None:
        """Where bodies are, by name: position (3) [m], quaternion (4) xyzw. Those that have no shape do not count."""
        with self._lock, self._server.atomic():
            for name, (position, quaternion) in poses.items():
                body = self._bodies.get(name)
                pose = np.append(position, quaternion)
                if body is None or np.abs(body.pose - pose).max() < _STILL:
                    continue
                if np.abs(body.pose[3:] - pose[3:]).max() > _STILL:
                    body.handle.wxyz = _wxyz(pose)
                if np.abs(body.pose[:3] - pose[:3]).max() > _STILL:
                    body.handle.position = tuple(position)
                body.pose = pose

    def set_visible(self, group: str, visible: bool) -> None:
        """Shows or hides one of GROUPS."""
        with self._lock:
            self.visible[group] = visible
            handle = self._server.scene.get_handle_by_name(f"/{group}")
            if handle is not None:
                handle.visible = visible

    # Lines, walls, balls

    def lines(
        self, name: str, lines: Sequence[Array], colours: Sequence[tuple[int, int, int]], width: float = 2.5
    ) -> None:
        """Lines (N, 3) [m] that take the place of those of that name; colours: of each, or of all; width in pixels."""
        long = [np.asarray(line, np.float32) for line in lines if len(line) > 1]
        with self._lock:
            handle = self._lines.get(name)
            if not long:
                if handle is not None:
                    handle.visible = False
                return
            points = np.concatenate([np.stack([line[:-1], line[1:]], axis=1) for line in long])
            every = list(colours) if len(colours) == len(long) else [colours[0]] * len(long)
            shades = np.concatenate(
                [np.tile(_linear(c), (len(line) - 1, 2, 1)) for line, c in zip(long, every, strict=True)]
            )
            if handle is None:
                self._lines[name] = self._server.scene.add_line_segments(
                    f"/{name if name in GROUPS else 'lines'}/{name}",
                    points,
                    shades,
                    thickness=width,
                    thickness_units="screen",
                )
                return
            with self._server.atomic():
                handle.points, handle.colors, handle.visible = points, shades, True

    def grid(self, walls: NDArray[np.bool_]) -> None:
        """A maze's walls (rows, columns), row 0 at the top, cells of a square metre about the origin."""
        rows, columns = walls.shape
        places = np.argwhere(walls)
        x, y = places[:, 1] - columns / 2 + 0.5, rows / 2 - 0.5 - places[:, 0]
        with self._lock:
            corners, faces = [], []
            for i, (cx, cy) in enumerate(zip(x, y, strict=True)):
                corners.append(_CUBE * [0.5, 0.5, 0.2] + [cx, cy, 0.2])
                faces.append(_CUBE_FACES + 8 * i)
            self._walls = self._server.scene.add_mesh_simple(
                "/scene/maze", np.concatenate(corners), np.concatenate(faces), color=(96, 108, 128), flat_shading=True
            )
            self._server.scene.add_box("/scene/floor", (36, 42, 54), (columns, rows, 0.02), position=(0.0, 0.0, -0.02))

    def balls(self, name: str, balls: Array, colour: tuple[int, int, int]) -> None:
        """Balls (N, 4): centre and radius [m]; they take the place of those of that name."""
        with self._lock, self._server.atomic():
            have = self._balls.setdefault(name, [])
            while len(have) > len(balls):
                have.pop().remove()
            for i, (x, y, z, radius) in enumerate(np.asarray(balls, np.float64)):
                if i == len(have):
                    label = f"/scene/{name}_{i}"
                    have.append(self._server.scene.add_icosphere(label, 1.0, colour, opacity=0.8, subdivisions=2))
                have[i].position, have[i].scale = (x, y, z), (radius, radius, radius)

    # The goal

    def goal(self, position: Array | None) -> None:
        """Where the goal is (3) [m]; None: there is none to drag."""
        with self._lock:
            self._goal = position
            for handle in self._goals.values():
                handle.visible = position is not None
                if position is not None:
                    handle.position = tuple(position)

    def may_drag(self, client: viser.ClientHandle) -> None:
        """Gives somebody who may steer a goal to drag."""
        with self._lock:
            place = (0.0, 0.0, 0.0) if self._goal is None else tuple(self._goal)
            handle = client.scene.add_transform_controls(
                "/goal",
                scale=0.8,
                disable_rotations=True,
                depth_test=False,
                position=place,
                active_axes=(True, True, not self._flat),
            )
            handle.visible = self._goal is not None
            ball = client.scene.add_icosphere("/goal/ball", 0.15, (80, 220, 120), opacity=0.8)
            self._goals[client.client_id] = handle

        def dragged(event: Any) -> None:
            if event.phase == "end":
                self.on_goal(np.array(handle.position, np.float64))

        handle.on_update(dragged)
        grabbed: list[Array] = []  # where the ball was taken, and where the goal was then

        async def pulled(event: Any) -> None:  # in order, as it waits for nothing
            if event.phase == "start":
                grabbed[:] = np.array(event.start_position), np.array(handle.position, np.float64)
            if not grabbed:
                return
            taken, goal = grabbed
            place = pointed_at(client.camera.position, event.end_position, taken, self._flat)
            if place is not None:
                handle.position = tuple(goal + place - taken)
            dragged(event)

        ball.on_drag("left")(pulled)

    def gone(self, client: viser.ClientHandle) -> None:
        """Somebody does not look any more."""
        with self._lock:
            self._goals.pop(client.client_id, None)


def pointed_at(camera: ArrayLike, pointer: ArrayLike, taken: Array, flat: bool) -> Array | None:
    """Where somebody pulls what they have taken at a place (3) to, with all in metres.

    camera: where they look from; pointer: what they point at, (3) each. flat: on the level of the place; None: they
    point at no such place, as above the horizon.
    """
    eye, seen = np.asarray(camera, np.float64), np.asarray(pointer, np.float64)
    if not flat:
        return seen
    ray = seen - eye
    fall = taken[2] - eye[2]
    if ray[2] * fall <= 0.0:
        return None
    on_level: Array = eye + fall / ray[2] * ray
    return on_level


_CUBE = np.array([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])
_CUBE_FACES = np.array(
    [
        *([0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1]),
        *([2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]),
    ]
)


def cylinder(radius: float, half: float, sides: int = 24) -> tuple[Array, NDArray[np.int64]]:
    """Corners (2 sides, 3) [m] and faces of a cylinder about z, from -half to half."""
    angles = np.linspace(0.0, 2.0 * np.pi, sides, endpoint=False)
    ring = np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)
    corners = np.concatenate([np.insert(ring, 2, -half, axis=1), np.insert(ring, 2, half, axis=1)])
    i = np.arange(sides)
    j = (i + 1) % sides
    around = np.concatenate([np.stack([i, j, j + sides], 1), np.stack([i, j + sides, i + sides], 1)])
    caps = np.stack([np.zeros(sides - 2, int), i[2:], i[1:-1]], 1)
    return corners, np.concatenate([around, caps, caps[:, ::-1] + sides])


def _linear(colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A colour (3) of sRGB as viser takes a line's: it reads its numbers as linear light, and draws them paler.

    The transfer function is that of IEC 61966-2-1.
    """
    parts = np.array(colour) / 255.0
    light = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return np.round(255.0 * light).astype(np.uint8)


def _wxyz(pose: Array) -> tuple[float, float, float, float]:
    x, y, z, w = (float(value) for value in pose[3:])
    return w, x, y, z
