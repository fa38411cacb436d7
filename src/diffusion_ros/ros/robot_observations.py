"""What a policy observes of a robot of its own: the sources of the robot's file, as the checkpoint's inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image, JointState

from diffusion_ros.control.frames import RobotFrames
from diffusion_ros.control.pictures import Picture, PictureError, fit
from diffusion_ros.robot import EEF_QUAT, HAND_DOWN, OBJECT_QUAT
from diffusion_ros.robot_check import POSES, compare_inputs
from diffusion_ros.robot_file import HAND, OBJECT, JointsSource, PictureSource, PoseSource, RobotFile
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.hand_source import DescribedArm, HandSource
from diffusion_ros.ros.listener import MAX_BYTES, JointFilter, Listener
from diffusion_ros.ros.runner import RunnableNode
from diffusion_ros.spec import FITTED, IMAGE_SUFFIX, CheckpointSpec

Array = NDArray[np.float64]

_MIN_POSE_GAP_NS = 4_000_000
"""Poses at 250 Hz are enough to interpolate between: at 8 m/s2 what lies between two is off by 0.02 mm."""
_UPRIGHT = (0.0, 0.0, 0.0, 1.0)
_FOLLOW_NS = 500_000_000
"""How long a quaternion goes on on the side where the last one was."""


class Receiver(Protocol):
    """Who is given what is observed. Each call names the source by its key; methods raise MessageError for what must
    not be used."""

    def values(self, key: str, stamp_ns: int, values: Mapping[str, Array]) -> object:
        """Numbers by the checkpoint's inputs, in its units and frame."""

    def picture(self, key: str, camera: str, read: Callable[[], tuple[int, Picture]]) -> object:
        """read: gives stamp [ns] and picture in the checkpoint's size, or raises MessageError."""

    def refused(self, key: str, error: ValueError) -> object:
        """A message came that is not used."""


@dataclass(frozen=True)
class Source:
    """One stream of observations."""

    observation: str
    """Its key in the robot's file."""
    name: str
    """Of its topic, for messages to people; with the observation's where several are from the same topic."""
    inputs: tuple[str, ...]
    """Of the checkpoint, that it gives; () for a hand that is only watched."""
    latency: float
    is_picture: bool
    conflict: Callable[[], str]
    missing: Callable[[], str]
    """What to say while nothing has come."""


class RobotObservations:
    """Subscribes to what `spec` needs of `robot`, and to its hand in any case."""

    def __init__(self, node: RunnableNode, robot: RobotFile, spec: CheckpointSpec, receiver: Receiver) -> None:
        """Raises ValueError, one line, for a robot that lacks what the checkpoint needs."""
        if wrong := compare_inputs(robot, spec):
            raise ValueError(f"{robot.path}: {wrong[0]}")
        self._node, self._robot, self._spec, self._receiver = node, robot, spec, receiver
        self.frames = RobotFrames(robot, spec.base_pose)
        self.sources: dict[str, Source] = {}
        """By key: the topic, or, where several observations are from it, the observation."""
        self._sides = {EEF_QUAT: _Side(HAND_DOWN), OBJECT_QUAT: _Side(_UPRIGHT)}
        used: dict[str, PoseSource | JointsSource | PictureSource] = {HAND: robot.poses[HAND]}
        for name in spec.input_names:
            if name in POSES[OBJECT]:
                used[OBJECT] = robot.poses[OBJECT]
            elif name.endswith(IMAGE_SUFFIX):
                used[name] = robot.pictures[name.removesuffix(IMAGE_SUFFIX)]
            elif name not in POSES[HAND]:
                used[name] = robot.numbers[name]
        self._of_topic = Counter(source.topic for source in used.values())
        for observation, source in used.items():
            if isinstance(source, PictureSource):
                self._listen_to_camera(observation, source)
            elif isinstance(source, JointsSource):
                self._listen_to_joints(observation, source)
            elif observation == HAND:
                self._follow_hand(source)
            else:
                self._listen_to_object(source)
        if spec.cameras and spec.pictures != FITTED:
            node.get_logger().warning(
                f"the {spec.task} checkpoint learnt from pictures that were made in its size: nobody has tried others"
            )

    def _key(self, observation: str, topic: str) -> tuple[str, str]:
        """Key, and the name for messages."""
        shown = topics.shown(self._node, topic)
        return (topic, shown) if self._of_topic[topic] == 1 else (observation, f"{shown} ({observation})")

    def _listen(
        self,
        kind: type[Any],
        observation: str,
        source: PoseSource | JointsSource | PictureSource,
        callback: Callable[[Any], object],
        inputs: tuple[str, ...],
        missing: Callable[[], str] = lambda: "nothing received",
        **options: Any,
    ) -> None:
        key, name = self._key(observation, source.topic)
        listener: Listener[Any] = Listener(
            self._node,
            kind,
            source.topic,
            callback,
            lambda error, msg: self._receiver.refused(key, error),
            topics.sensor_qos(source.reliable),
            **options,
        )
        self.sources[key] = Source(
            observation, name, inputs, source.latency, kind in (Image, CompressedImage), listener.conflict, missing
        )

    # Poses

    def _follow_hand(self, source: PoseSource) -> None:
        key, name = self._key(HAND, source.topic)
        described = DescribedArm(self._node, self._robot) if source.source == "fk" else None
        hand = HandSource(
            self._node,
            self._robot,
            self.frames,
            partial(self._on_pose, key, POSES[HAND]),
            lambda error: self._receiver.refused(key, error),
            described,
            _MIN_POSE_GAP_NS,
        )
        inputs = tuple(name for name in POSES[HAND] if name in self._spec.input_names)
        # What it says names the topic itself.
        missing = lambda: hand.missing().removeprefix(f"{hand.name}: ")  # noqa: E731
        self.sources[key] = Source(HAND, name, inputs, source.latency, False, hand.conflict, missing)

    def _listen_to_object(self, source: PoseSource) -> None:
        key, _ = self._key(OBJECT, source.topic)
        latency_ns = round(source.latency * 1e9)

        def on_pose(msg: PoseStamped) -> None:
            stamp_ns, position, quaternion = messages.pose_from_msg(msg)
            messages.check_frame(msg.header, self._robot.base.frame)
            self._on_pose(key, POSES[OBJECT], stamp_ns - latency_ns, position, quaternion)

        inputs = tuple(name for name in POSES[OBJECT] if name in self._spec.input_names)
        self._listen(PoseStamped, OBJECT, source, on_pose, inputs)

    def _on_pose(self, key: str, names: tuple[str, str], stamp_ns: int, position: Array, quaternion: Array) -> None:
        """In the base frame."""
        position, quaternion = self.frames.to_policy(position, quaternion)
        quaternion = self._sides[names[1]].of(stamp_ns, quaternion)
        self._receiver.values(key, stamp_ns, {names[0]: position, names[1]: quaternion})

    # Joints

    def _listen_to_joints(self, observation: str, source: JointsSource) -> None:
        key, _ = self._key(observation, source.topic)
        scale, offset = np.array(source.scale), np.array(source.offset)
        latency_ns = round(source.latency * 1e9)
        concerns = JointFilter(source.joints, whole=True)

        def on_joints(msg: JointState) -> None:
            stamp_ns, positions, _ = messages.joint_state_from_msg(msg, source.joints)
            self._receiver.values(key, stamp_ns - latency_ns, {observation: scale * positions + offset})

        self._listen(
            JointState,
            observation,
            source,
            on_joints,
            (observation,),
            concerns.nothing,
            max_bytes=MAX_BYTES,
            concerns=concerns,
        )

    # Pictures

    def _listen_to_camera(self, observation: str, source: PictureSource) -> None:
        key, _ = self._key(observation, source.topic)
        height, width = next(tensor.shape[:2] for tensor in self._spec.inputs if tensor.name == observation)
        latency_ns = round(source.latency * 1e9)
        camera = observation.removesuffix(IMAGE_SUFFIX)

        def read(msg: Any) -> tuple[int, Picture]:
            if source.compressed:
                stamp_ns, image = messages.compressed_image_from_msg(msg)
            else:
                stamp_ns, image = messages.image_from_msg(msg)
            try:
                return stamp_ns - latency_ns, fit(image, height, width, source.crop)
            except PictureError as error:
                raise messages.MessageError(str(error)) from None

        self._listen(
            CompressedImage if source.compressed else Image,
            observation,
            source,
            lambda msg: self._receiver.picture(key, camera, partial(read, msg)),
            (observation,),
        )


class _Side:
    """Which of the two quaternions of an orientation is meant: the one on the side where the last one was, so that the
    numbers do not jump; of the first one that nearer to where training's were."""

    def __init__(self, first: tuple[float, float, float, float]) -> None:
        self._first = np.array(first)
        self._last = self._first
        self._last_ns: int | None = None

    def of(self, stamp_ns: int, quaternion: Array) -> Array:
        known = self._last_ns is not None and abs(stamp_ns - self._last_ns) < _FOLLOW_NS
        if float(quaternion @ (self._last if known else self._first)) < 0:
            quaternion = -quaternion
        self._last, self._last_ns = quaternion, stamp_ns
        return quaternion
