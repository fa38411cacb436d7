"""What an arm's simulator shows: shapes once, and where they are a few times a second.

Shapes are markers in the frames of the bodies that they move with. Those frames go out as `scene_poses`, and on /tf
where tf2_msgs is installed; elsewhere scene_frames_node makes /tf of them for RViz.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import ArrayLike
from sensor_msgs.msg import MultiDOFJointState
from visualization_msgs.msg import MarkerArray

from diffusion_ros.robot import WORLD_FRAME
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.runner import RunnableNode
from diffusion_ros.ros.transform_broadcaster import TransformBroadcaster
from diffusion_ros.simulators.scene import SceneGeom


class ScenePublisher:
    """Publishes scene, scene_poses, and the frames of the bodies."""

    def __init__(
        self,
        node: RunnableNode,
        shapes: Callable[[], Sequence[SceneGeom]],
        poses: Callable[[], Mapping[str, tuple[ArrayLike, ArrayLike]]],
        transforms: TransformBroadcaster,
        prefix: str = "",
    ) -> None:
        """shapes: in the frames of their bodies; poses: of the bodies in the world, by name; prefix: of all frames."""
        self._shapes, self._poses = shapes, poses
        self._world = f"{prefix}{WORLD_FRAME}"
        self.frames = {name: f"{prefix}scene/{name}" for name in poses()}
        self._scene = node.create_publisher(MarkerArray, topics.SCENE, topics.DESCRIPTION_QOS)
        self._moving = node.create_publisher(MultiDOFJointState, topics.SCENE_POSES, topics.COMMAND_QOS)
        self._transforms = transforms
        self._said: list[tuple[Any, ...]] = []
        self.begin()

    def begin(self) -> None:
        """An episode begins: says what is there, if it is not where it was."""
        shapes = self._shapes()
        told = [(geom.name, *geom.position, *geom.quaternion, *geom.size, *geom.rgba) for geom in shapes]
        if told != self._said:
            self._said = told
            # Stamp 0: the newest transform there is.
            self._scene.publish(messages.scene_to_msg(shapes, 0, self._world, self.frames))

    def publish(self, stamp_ns: int) -> None:
        """Where the bodies are, if somebody looks."""
        if not self._transforms.heard and not self._moving.get_subscription_count():
            return
        poses = {self.frames[name]: pose for name, pose in self._poses().items()}
        self._moving.publish(messages.poses_to_msg(poses, stamp_ns, self._world))
        self._transforms.send([(*pose, self._world, name) for name, pose in poses.items()], stamp_ns)
