"""robosuite's manipulation tasks behind reset / step / observe: the only file that imports robosuite.

Usable without ROS, as the plain class :class:`Simulation` or as the Gymnasium environment :class:`SimulationEnv`.
World axes equal the robot's base axes (the base is not rotated), so a delta means the same in both.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import warnings
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from diffusion_ros.robot import (
    ACTION_SCALE,
    CAMERAS,
    EEF_POS,
    EEF_QUAT,
    GRIPPER_QPOS,
    IMAGE_SIZE,
    OBJECT_POS,
    OBJECT_QUAT,
    RATE,
)
from diffusion_ros.simulators.render_backend import choose_render_backend
from diffusion_ros.simulators.scene import SceneGeom
from diffusion_ros.simulators.tasks import arm_task

if TYPE_CHECKING:
    import mujoco

Array = NDArray[np.float64]
Image = NDArray[np.uint8]

MESH_CELL = 0.006
"""Metres: detail of the robot's meshes that the cameras are shown; see :func:`_thin_out_meshes`."""
_SCENE_CELL = 0.012
"""Metres: the same of what viewers are told."""
_SCENE_SHARE = 0.03
"""Or so much of the mesh's own size."""
_VIEW_SETTINGS = (
    "cam_quat",
    *(f"light_{part}" for part in ("ambient", "diffuse", "specular")),
    *(f"vis.headlight.{part}" for part in ("ambient", "diffuse", "specular")),
)
"""Of the model: where cameras look, and what their pictures are lit by."""


def _make_robosuite(environment: str) -> Any:
    """robosuite's environment without its own rendering and observables; episodes never end by themselves."""
    choose_render_backend()
    # robosuite reports absent optional parts (its models package, mink, arms a Panda lacks) at every start, and sets
    # its logger's level when imported: a filter stays.
    logging.getLogger("robosuite_logs").addFilter(_is_error)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import robosuite
        from robosuite.controllers import load_composite_controller_config

        env = robosuite.make(
            environment,
            robots="Panda",
            controller_configs=load_composite_controller_config(controller="BASIC", robot="Panda"),
            has_renderer=False,
            has_offscreen_renderer=False,
            use_camera_obs=False,
            control_freq=RATE,
            ignore_done=True,
            hard_reset=False,
            renderer="mujoco",
            seed=0,  # Lift draws the cube's size when the model is loaded: alike in every process
        )
    # We observe the final state ourselves; robosuite's sensors cost time and lag by a substep.
    env._update_observables = lambda force=False: None
    env._get_observations = lambda force_update=False: {}
    return env


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _close_all(renderers: dict[tuple[int, int], mujoco.Renderer]) -> None:
    for renderer in renderers.values():
        renderer.close()
    renderers.clear()


def _thin_out_meshes(model: mujoco.MjModel, cell: float) -> None:
    """Drops faces smaller than `cell` metres from the large meshes that are only drawn, in place.

    The arm's meshes have 168,000 faces, and on a CPU drawing them is nearly all a frame costs. Vertices that share a
    cell of a grid become one (Rossignac and Borrel 1993) and the faces that collapse go. At 84 x 84 pixels the mean
    difference is 0.2 of 255 levels. Meshes of anything that collides stay as they are, so the physics does too.
    """
    mesh_geoms = model.geom_type == 7  # mjGEOM_MESH
    collides = (model.geom_contype | model.geom_conaffinity) != 0
    colliding = set(model.geom_dataid[mesh_geoms & collides].tolist())
    for mesh in range(model.nmesh):
        if mesh in colliding or model.mesh_facenum[mesh] < 1000:
            continue
        start = int(model.mesh_faceadr[mesh])
        faces, keep = _cluster(model, mesh, cell)
        kept = slice(start, start + int(keep.sum()))
        whole = slice(start, start + len(keep))
        model.mesh_face[kept] = faces[keep]
        model.mesh_facenormal[kept] = model.mesh_facenormal[whole][keep]
        model.mesh_facetexcoord[kept] = model.mesh_facetexcoord[whole][keep]
        model.mesh_facenum[mesh] = int(keep.sum())


def _cluster(model: mujoco.MjModel, mesh: int, cell: float) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Faces (F, 3) of a mesh with the vertices of a cell made one, and which of them (F,) still are faces."""
    vertex, face = int(model.mesh_vertadr[mesh]), int(model.mesh_faceadr[mesh])
    vertices = model.mesh_vert[vertex : vertex + model.mesh_vertnum[mesh]]
    faces = model.mesh_face[face : face + model.mesh_facenum[mesh]]
    # One number for each cell and each face: rows (unique's axis=0) take ten times as long to sort.
    cells = np.floor(vertices / cell).astype(np.int64)
    cells -= cells.min(axis=0)
    numbers = np.ravel_multi_index(tuple(cells.T), tuple(cells.max(axis=0) + 1))
    _, first, cluster = np.unique(numbers, return_index=True, return_inverse=True)
    merged = first[cluster.ravel()][faces].astype(np.int32)
    a, b, c = merged.T
    keep = (a != b) & (b != c) & (a != c)
    corners = np.sort(merged, axis=1).astype(np.int64)
    _, unique = np.unique(np.ravel_multi_index(tuple(corners.T), (len(vertices),) * 3), return_index=True)
    once = np.zeros_like(keep)
    once[unique] = True
    return merged, keep & once


def _three(values: Array) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def _xyzw(wxyz: Array) -> Array:
    return np.asarray(wxyz, dtype=np.float64)[[1, 2, 3, 0]]


class Simulation:
    """One robosuite task with a Panda arm, controlled at 20 Hz by end-effector deltas.

    A command row is (7,): translation in metres and rotation vector in radians per control step, base axes, then the
    gripper, -1 open to +1 closed and 0 to leave it as it is. Observations use robomimic's names; see :meth:`observe`.
    """

    def __init__(
        self,
        task: str,
        cameras: tuple[str, ...] = CAMERAS,
        image_size: int = IMAGE_SIZE,
        mesh_cell: float = MESH_CELL,
    ) -> None:
        """Raises ValueError for an unknown task or camera. `mesh_cell` 0 draws every face of every mesh."""
        self.task = arm_task(task)
        self.task_name = task
        self.env = _make_robosuite(self.task.environment)
        import mujoco

        self._mj = mujoco
        self.model: mujoco.MjModel = self.env.sim.model._model
        self.data: mujoco.MjData = self.env.sim.data._data
        known = [self.model.camera(i).name for i in range(self.model.ncam)]
        for camera in cameras:
            if camera not in known:
                raise ValueError(f"unknown camera {camera!r}: {task} has {', '.join(known)}")
        self.known_cameras = tuple(known)
        self.cameras = cameras
        self.image_size = image_size
        self.seed = 0
        self._scene_triangles: dict[int, NDArray[np.float32]] = {}
        self._colours: dict[int, tuple[float, float, float, float]] = {}
        shown = self.model.geom_bodyid[self.model.geom_group == 1]
        self._moving = {self.model.body(i).name: int(i) for i in np.unique(self.model.body_weldid[shown]) if i}
        """Bodies that move and are seen, by name."""
        if mesh_cell > 0:
            _thin_out_meshes(self.model, mesh_cell)
        self.model.vis.quality.offsamples = 0
        # Everything that is looked at is computed in a second MjData from the final positions. So nothing that is
        # drawn or measured can touch the physics, and observations do not lag by a substep.
        self._view = mujoco.MjData(self.model)
        self._renderers: dict[tuple[int, int], mujoco.Renderer] = {}
        self._finalizer = weakref.finalize(self, _close_all, self._renderers)
        self._options = mujoco.MjvOption()
        self._options.geomgroup[0] = 0  # collision geometry
        self._undisturbed = {name: np.array(self._view_setting(name)) for name in _VIEW_SETTINGS}
        self._shapes: tuple[SceneGeom, ...] = ()
        self._body = self.model.body(self.task.body).id
        robot = self.env.robots[0]
        self._grip_site = int(robot.eef_site_id["right"])
        self._hand_body = self.model.body(robot.robot_model.eef_name["right"]).id
        self._held: tuple[Array, Array] | None = None
        """Where the hand was when it was told to stay, None while it moves: position (3) m and rotation (3, 3)."""
        self.joint_names = [*robot.robot_model.joints, *robot.gripper["right"].joints]
        joints = [self.model.joint(name) for name in self.joint_names]
        self._qpos = np.array([joint.qposadr[0] for joint in joints])
        self._qvel = np.array([joint.dofadr[0] for joint in joints])
        self.qpos_indices, self.qvel_indices = self._qpos, self._qvel
        """(9,) each: where the joints of `joint_names` stand in MuJoCo's own arrays."""
        self.grip_site, self.hand_body = self._grip_site, self._hand_body
        self.reset(0)
        # robosuite's first step compiles what numba has not kept yet, which takes seconds: now, and not in an episode.
        self.step(np.zeros(7))
        self.reset(0)

    # -- control ----------------------------------------------------------------------------------------------------

    def reset(self, seed: int) -> None:
        """Draws robot and object poses from `seed`: the same seed gives the same state, bit for bit."""
        self.seed = seed
        # In place: the placement samplers hold the generator itself.
        self.env.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
        self.env.reset()
        self._held = None

    def step(self, row: Array) -> None:
        """Executes one command row (7,) for a control period of 50 ms; values beyond full scale are clipped.

        Rows without motion keep the hand where the first of them found it. robosuite's controller by itself starts from
        where the hand has got to in each step, so that a load or a push would carry it away.
        """
        row = np.array(row, dtype=np.float64)
        if row.shape != (7,) or not np.isfinite(row).all():
            raise ValueError(f"command {row.tolist()}: expected 7 finite numbers")
        if row[:6].any():
            self._held = None
        else:
            view = self._look(self.data.qpos)
            position = view.site_xpos[self._grip_site].copy()
            rotation = view.site_xmat[self._grip_site].reshape(3, 3).copy()
            if self._held is None:
                self._held = position, rotation
            row[:3] = self._held[0] - position
            row[3:6] = Rotation.from_matrix(self._held[1] @ rotation.T).as_rotvec()
        self.env.step(np.clip(row / ACTION_SCALE, -1.0, 1.0))

    @property
    def success(self) -> bool:
        """robosuite's own test of success."""
        return bool(self.env._check_success())

    # -- observation ------------------------------------------------------------------------------------------------

    def observe(self, images: bool = True) -> dict[str, NDArray[Any]]:
        """One frame of observations of the current state.

        ======================= ================= ======= ======================================
        name                    shape, type       unit    frame
        ======================= ================= ======= ======================================
        <camera>_image          (S, S, 3) uint8   rgb     upright
        robot0_eef_pos          (3) float64       m       grip site in the world
        robot0_eef_quat         (4) float64 xyzw          hand body in the world, as robomimic
        robot0_gripper_qpos     (2) float64       m       both fingers
        object_pos              (3) float64       m       world (privileged)
        object_quat             (4) float64 xyzw          world (privileged)
        ======================= ================= ======= ======================================
        """
        view = self._look(self.data.qpos)
        frame: dict[str, NDArray[Any]] = {}
        if images:
            for camera in self.cameras:
                frame[f"{camera}_image"] = self._draw(view, camera, self.image_size, self.image_size)
        frame[EEF_POS] = view.site_xpos[self._grip_site].copy()
        frame[EEF_QUAT] = _xyzw(view.xquat[self._hand_body])
        frame[GRIPPER_QPOS] = self.data.qpos[self._qpos[-2:]].copy()
        frame[OBJECT_POS] = view.xpos[self._body].copy()
        frame[OBJECT_QUAT] = _xyzw(view.xquat[self._body])
        return frame

    def grip_matrix(self) -> Array:
        """Rotation (3, 3) of the grip site in the world: x is the closing axis, z the approach."""
        return np.array(self._look(self.data.qpos).site_xmat[self._grip_site]).reshape(3, 3)

    def hand_at(self, joints: Array) -> tuple[Array, Array]:
        """The hand in the world, as in `observe`, at joint positions (7) [rad]: position (3) m, quaternion xyzw."""
        qpos = self.data.qpos.copy()
        qpos[self._qpos[:-2]] = joints
        view = self._look(qpos)
        return view.site_xpos[self._grip_site].copy(), _xyzw(view.xquat[self._hand_body])

    def base_position(self) -> Array:
        """Where the robot stands in the world (3) m."""
        return np.array(self._look(self.data.qpos).xpos[self.model.body("robot0_base").id])

    def joint_positions(self) -> Array:
        """(9,) radians for the arm, metres for the fingers, in the order of `joint_names`."""
        return np.array(self.data.qpos[self._qpos])

    def joint_velocities(self) -> Array:
        """(9,) radians and metres per second."""
        return np.array(self.data.qvel[self._qvel])

    def disturb_view(
        self, turned: Mapping[str, Array] | None = None, brightness: float = 1.0, shapes: Sequence[SceneGeom] = ()
    ) -> None:
        """Changes what the cameras see, and nothing else; each call takes the place of the one before.

        turned: camera -> rotation vector (3) rad in the camera's own axes (x right, y up, looking along -z).
        brightness: of all lights, 1 as they are. shapes: spheres, boxes, cylinders that are only seen.
        """
        for name, values in self._undisturbed.items():
            self._view_setting(name)[...] = values if name == "cam_quat" else brightness * values
        for camera, vector in (turned or {}).items():
            index = self.model.camera(camera).id
            turn, turned_quaternion = np.zeros(4), np.zeros(4)
            angle = float(np.linalg.norm(vector))
            self._mj.mju_axisAngle2Quat(turn, np.asarray(vector, np.float64) / max(angle, 1e-12), angle)
            self._mj.mju_mulQuat(turned_quaternion, self._undisturbed["cam_quat"][index], turn)
            self.model.cam_quat[index] = turned_quaternion
        self._shapes = tuple(shapes)

    def _view_setting(self, name: str) -> Array:
        values: Array = self.model
        for part in name.split("."):
            values = getattr(values, part)
        return values

    def render(self, camera: str, height: int, width: int, qpos: Array | None = None) -> Image:
        """(height, width, 3) rgb of the current state, or of the positions `qpos` recorded from `data.qpos`."""
        return self._draw(self._look(self.data.qpos if qpos is None else qpos), camera, height, width)

    def camera_matrix(self, camera: str, height: int, width: int) -> Array:
        """Intrinsics K (3, 3) in pixels; pixel (0, 0) is the centre of the upper left one."""
        focal = 0.5 * height / np.tan(0.5 * np.deg2rad(self.model.camera(camera).fovy[0]))
        return np.array([[focal, 0.0, (width - 1) / 2], [0.0, focal, (height - 1) / 2], [0.0, 0.0, 1.0]])

    def camera_pose(self, camera: str, qpos: Array | None = None) -> tuple[Array, Array]:
        """Position (3) and quaternion (4) xyzw of a camera's optical frame (x right, y down, z ahead) in the world."""
        view = self._look(self.data.qpos if qpos is None else qpos)
        index = self.model.camera(camera).id
        optical = view.cam_xmat[index].reshape(3, 3) @ np.diag([1.0, -1.0, -1.0])  # MuJoCo's looks along -z, y up
        quaternion = np.zeros(4)
        self._mj.mju_mat2Quat(quaternion, optical.ravel())
        return view.cam_xpos[index].copy(), _xyzw(quaternion)

    def scene(self) -> list[SceneGeom]:
        """What a viewer needs to draw the scene, once: shapes in the frames of the bodies that they move with, whose
        poses are `body_poses`. Meshes with a tenth of their faces."""
        model, view = self.model, self._look(self.data.qpos)
        names = {2: "sphere", 3: "capsule", 4: "ellipsoid", 5: "cylinder", 6: "box", 7: "mesh"}
        geoms = []
        for i in range(model.ngeom):
            kind = int(model.geom_type[i])
            if model.geom_group[i] != 1 or kind not in names:  # what collides, and the floor
                continue
            position, rotation = view.geom_xpos[i], view.geom_xmat[i].reshape(3, 3)
            body = int(model.body_weldid[model.geom_bodyid[i]])
            if body:
                turned = view.xmat[body].reshape(3, 3).T
                position, rotation = turned @ (position - view.xpos[body]), turned @ rotation
            quaternion = np.zeros(4)
            self._mj.mju_mat2Quat(quaternion, np.ascontiguousarray(rotation).ravel())
            geoms.append(
                SceneGeom(
                    name=model.geom(i).name or f"geom{i}",
                    type=names[kind],
                    size=_three(model.geom_size[i]),
                    position=np.array(position),
                    quaternion=_xyzw(quaternion),
                    rgba=self._colour(i),
                    triangles=self._triangles(int(model.geom_dataid[i])) if kind == 7 else None,
                    body=model.body(body).name if body else "",
                )
            )
        return geoms

    def body_poses(self) -> dict[str, tuple[Array, Array]]:
        """Of the bodies that move, in the world: position (3) m and quaternion (4) xyzw. `scene` has their shapes."""
        view = self._look(self.data.qpos)
        return {name: (view.xpos[i].copy(), _xyzw(view.xquat[i])) for name, i in self._moving.items()}

    def _colour(self, geom: int) -> tuple[float, float, float, float]:
        """rgba of a geometry: its material's, times the mean of its texture where that is seen."""
        if geom not in self._colours:
            self._colours[geom] = self._seen_colour(geom)
        return self._colours[geom]

    def _seen_colour(self, geom: int) -> tuple[float, float, float, float]:
        model, material = self.model, int(self.model.geom_matid[geom])
        if material < 0:
            red, green, blue, alpha = (float(x) for x in model.geom_rgba[geom])
            return red, green, blue, alpha
        rgba = np.array(model.mat_rgba[material], dtype=np.float64)
        texture = int(model.mat_texid[material][1])  # mjTEXROLE_RGB
        if texture >= 0:
            channels, width = int(model.tex_nchannel[texture]), int(model.tex_width[texture])
            height, start = int(model.tex_height[texture]), int(model.tex_adr[texture])
            pixels = np.asarray(model.tex_data[start : start + height * width * channels])
            pixels = pixels.reshape(height, width, channels)[..., :3]
            seen = pixels.reshape(-1, 3)
            mesh = int(model.geom_dataid[geom])
            if int(model.geom_type[geom]) == 7 and model.mesh_texcoordadr[mesh] >= 0:
                first = int(model.mesh_texcoordadr[mesh])
                u, v = (model.mesh_texcoord[first : first + int(model.mesh_texcoordnum[mesh])] % 1.0).T
                seen = pixels[(v * (height - 1)).astype(int), (u * (width - 1)).astype(int)]
            rgba[:3] *= seen.mean(axis=0) / 255.0
        return (*_three(rgba), float(rgba[3]))

    def _triangles(self, mesh: int) -> NDArray[np.float32]:
        if mesh not in self._scene_triangles:
            start = int(self.model.mesh_vertadr[mesh])
            vertices = self.model.mesh_vert[start : start + self.model.mesh_vertnum[mesh]]
            cell = max(_SCENE_CELL, _SCENE_SHARE * float(np.ptp(vertices, axis=0).max()))
            faces, keep = _cluster(self.model, mesh, cell if self.model.mesh_facenum[mesh] > 400 else 1e-6)
            self._scene_triangles[mesh] = np.asarray(vertices[faces[keep]], dtype=np.float32)
        return self._scene_triangles[mesh]

    def mesh_triangles(self, mesh: int) -> NDArray[np.float32]:
        """(N, 3, 3) m of a mesh of the model, in its own frame; large ones have fewer faces."""
        return self._triangles(mesh)

    # -- state ------------------------------------------------------------------------------------------------------

    def state(self) -> Array:
        """MuJoCo's full integration state. (The controllers' own state is not part of it.)"""
        kind = self._mj.mjtState.mjSTATE_INTEGRATION
        state = np.zeros(self._mj.mj_stateSize(self.model, kind))
        self._mj.mj_getState(self.model, self.data, state, kind)
        return state

    def state_hash(self) -> str:
        """SHA-256 of :meth:`state`: equal exactly when two simulators are in the same state, bit for bit."""
        return hashlib.sha256(self.state().tobytes()).hexdigest()

    def flat_state(self) -> Array:
        """robosuite's flattened state (time, qpos, qvel), as robomimic's files store it."""
        return np.asarray(self.env.sim.get_state().flatten(), dtype=np.float64)

    def xml(self) -> str:
        """The MuJoCo model, as robomimic's files store it."""
        return str(self.env.sim.model.get_xml())

    def close(self) -> None:
        """Frees the OpenGL contexts."""
        self._finalizer()

    # -- drawing ----------------------------------------------------------------------------------------------------

    def _look(self, qpos: Array) -> mujoco.MjData:
        view = self._view
        view.qpos[:] = qpos
        self._mj.mj_kinematics(self.model, view)
        self._mj.mj_comPos(self.model, view)  # cameras and lights may track a centre of mass
        self._mj.mj_camlight(self.model, view)
        return view

    def _draw(self, view: mujoco.MjData, camera: str, height: int, width: int) -> Image:
        if camera not in self.known_cameras:
            raise ValueError(f"unknown camera {camera!r}: {self.task_name} has {', '.join(self.known_cameras)}")
        renderer = self._renderers.get((height, width))
        if renderer is None:
            self.model.vis.global_.offheight = max(height, self.model.vis.global_.offheight)
            self.model.vis.global_.offwidth = max(width, self.model.vis.global_.offwidth)
            renderer = self._renderers[height, width] = self._mj.Renderer(self.model, height, width)
            # Contexts must go before MuJoCo's own exit hook ends EGL: it was registered by the line above.
            atexit.register(self._finalizer)
            for flag in ("REFLECTION", "SKYBOX", "SHADOW", "HAZE", "FOG"):  # all dear on a CPU
                renderer.scene.flags[getattr(self._mj.mjtRndFlag, f"mjRND_{flag}")] = 0
        renderer.update_scene(view, camera, self._options)
        for shape in self._shapes:
            scene = renderer.scene
            kind = getattr(self._mj.mjtGeom, f"mjGEOM_{shape.type.upper()}")
            matrix = np.zeros(9)
            self._mj.mju_quat2Mat(matrix, shape.quaternion[[3, 0, 1, 2]])
            rgba = np.array(shape.rgba, np.float32)
            self._mj.mjv_initGeom(scene.geoms[scene.ngeom], kind, np.array(shape.size), shape.position, matrix, rgba)
            scene.ngeom += 1
        return np.ascontiguousarray(renderer.render())
