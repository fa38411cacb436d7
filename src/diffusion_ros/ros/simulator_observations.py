"""What a policy observes of the simulator: its topics, as the checkpoint's inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from sensor_msgs.msg import Image, JointState

from diffusion_ros.robot import EEF_POS, EEF_QUAT, GRIPPER_QPOS, OBJECT_POS, OBJECT_QUAT
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.listener import MAX_BYTES, JointFilter, Listener
from diffusion_ros.ros.robot_observations import Receiver
from diffusion_ros.ros.runner import RunnableNode
from diffusion_ros.spec import IMAGE_SUFFIX, CheckpointSpec


class SimulatorObservations:
    """Subscribes to what `spec` needs. The keys that the receiver is given are the topics' relative names."""

    def __init__(
        self,
        node: RunnableNode,
        spec: CheckpointSpec,
        receiver: Receiver,
        frame_id: str,
        gripper_joints: Sequence[str],
        gripper_signs: Sequence[float],
        reliable: bool,
    ) -> None:
        """frame_id: of the poses. gripper_joints, gripper_signs: the fingers' names in joint_states, and factors to the
        policy's finger positions. Raises ValueError for an input that no topic carries."""
        self._node, self._receiver, self._reliable = node, receiver, reliable
        self._shapes = {tensor.name: tensor.shape for tensor in spec.inputs}
        self._frame_id = frame_id
        self._gripper_joints, self._gripper_signs = tuple(gripper_joints), np.array(gripper_signs)
        self.topics: tuple[str, ...] = topics.sources(spec.input_names)
        """Those that inputs come from."""
        self.fingers = JointFilter(gripper_joints)
        self.listeners: dict[str, Listener[Any]] = {}
        """By topic."""
        for camera in spec.cameras:
            self._listen(Image, topics.image(camera), partial(self._on_image, camera))
        # The rest is wanted by some checkpoints only; with cameras the pose also tells whether one of them is frozen.
        if topics.EEF_POSE in self.topics or spec.cameras:
            self._listen(PoseStamped, topics.EEF_POSE, partial(self._on_pose, topics.EEF_POSE, EEF_POS, EEF_QUAT))
        if topics.OBJECT_POSE in self.topics:
            on_pose = partial(self._on_pose, topics.OBJECT_POSE, OBJECT_POS, OBJECT_QUAT)
            self._listen(PoseStamped, topics.OBJECT_POSE, on_pose)
        if topics.JOINT_STATES in self.topics:
            self._listen(JointState, topics.JOINT_STATES, self._on_joint_states, MAX_BYTES, self.fingers)

    def _listen(
        self,
        kind: type[Any],
        topic: str,
        callback: Callable[[Any], None],
        max_bytes: int | None = None,
        concerns: Callable[[Any], bool] | None = None,
    ) -> None:
        self.listeners[topic] = Listener(
            self._node,
            kind,
            topic,
            callback,
            lambda error, msg: self._receiver.refused(topic, error),
            topics.sensor_qos(self._reliable),
            max_bytes=max_bytes,
            concerns=concerns,
        )

    def _on_image(self, camera: str, msg: Image) -> None:
        self._receiver.picture(topics.image(camera), camera, partial(self._read_image, f"{camera}{IMAGE_SUFFIX}", msg))

    def _read_image(self, name: str, msg: Image) -> tuple[int, NDArray[np.uint8]]:
        stamp_ns, image = messages.image_from_msg(msg)
        height, width = self._shapes[name][:2]
        if image.shape[:2] != (height, width):
            raise messages.MessageError(
                f"{image.shape[1]} x {image.shape[0]} pixels, the checkpoint expects {width} x {height}"
            )
        return stamp_ns, image

    def _on_pose(self, topic: str, position_name: str, quaternion_name: str, msg: PoseStamped) -> None:
        stamp_ns, position, quaternion = messages.pose_from_msg(msg)
        messages.check_frame(msg.header, self._frame_id)
        self._receiver.values(topic, stamp_ns, {position_name: position, quaternion_name: quaternion})

    def _on_joint_states(self, msg: JointState) -> None:
        stamp_ns, positions, _ = messages.joint_state_from_msg(msg, self._gripper_joints)
        self._receiver.values(topics.JOINT_STATES, stamp_ns, {GRIPPER_QPOS: positions * self._gripper_signs})
