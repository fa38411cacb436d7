"""What the policy node observes of a robot of its own, whose drivers speak as real ones do: on a real bus."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import fake_policy
import numpy as np
import pytest
import ros_graph
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rclpy.parameter import Parameter
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros.control.action_chunk import ActionChunk
from diffusion_ros.control.observation import Frame
from diffusion_ros.nodes.policy_node import PolicyNode
from diffusion_ros.robot import EEF_POS, EEF_QUAT, GRIPPER_QPOS
from diffusion_ros.ros import messages, topics
from diffusion_ros.spec import FITTED

MS = 1_000_000
BASE_POSE = (-0.5, -0.1, 0.9, 0.0, 0.0, 0.0, 1.0)
"""Of the training robot's base in the policy's frame."""
DOWN = Rotation.from_quat([1.0, 0.0, 0.0, 0.0])
CAMERA, WRIST = fake_policy.CAMERAS


def robot_yaml(**changes: Any) -> dict[str, Any]:
    """Its base is turned by half a turn, its tool 0.16 m above the hand, and its fingers are one joint."""
    content: dict[str, Any] = {
        "driver": "crisp",
        "base": {"frame": "base", "rpy": [0.0, 0.0, np.pi]},
        "tool": {"frame": "tool0", "xyz": [0.0, 0.0, 0.16]},
        "observations": {
            "hand": {"source": "pose", "topic": "/tcp/pose"},
            "robot0_gripper_qpos": {
                "topic": "/joint_states",
                "joints": ["knuckle", "knuckle"],
                "scale": [-0.05, 0.05],
                "offset": [0.04, -0.04],
            },
            "agentview_image": {"topic": "/scene/image_raw", "crop": [80, 0, 480, 480]},
            "robot0_eye_in_hand_image": {"topic": "/wrist/image_raw", "crop": [80, 0, 480, 480]},
        },
        "action": {"output": "pose", "topic": "/target_pose", "rate": 50.0, "latency": 0.06},
        "limits": {
            "linear": 0.5,
            "angular": 1.5,
            "linear_acceleration": 8.0,
            "angular_acceleration": 20.0,
            "low": [-1.0, -1.0, -1.0],
            "high": [1.0, 1.0, 1.0],
        },
    }
    for name, value in changes.items():
        where = content
        *path, last = name.split("__")
        for key in path:
            where = where[key]
        if value is None:
            del where[last]
        else:
            where[last] = value
    return content


class Drivers(Node):
    """Publishes as drivers do, when asked; keeps what the policy says."""

    def __init__(self) -> None:
        super().__init__("drivers")
        best = topics.BEST_EFFORT_QOS
        self.pose = self.create_publisher(PoseStamped, "/tcp/pose", best)
        self.object = self.create_publisher(PoseStamped, "/object/pose", best)
        self.joints = self.create_publisher(JointState, "/joint_states", best)
        self.cameras = {
            camera: self.create_publisher(Image, f"/{name}/image_raw", best)
            for camera, name in ((CAMERA, "scene"), (WRIST, "wrist"))
        }
        self.chunks: list[ActionChunk] = []
        self.frame_ids: set[str] = set()
        self.status: dict[str, messages.Status] = {}
        self.create_subscription(JointTrajectory, topics.ACTION_CHUNK, self._on_chunk, topics.WATCHED_QOS)
        self.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, topics.DIAGNOSTICS_QOS)

    def _on_chunk(self, msg: JointTrajectory) -> None:
        self.frame_ids.add(msg.header.frame_id)
        self.chunks.append(messages.chunk_from_msg(msg))

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        self.status.update({status.name: status for status in messages.diagnostics_from_msg(msg)})

    def now(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def send_pose(self, stamp: int, position: Any, quaternion: Any, frame: str = "base") -> None:
        self.pose.publish(messages.pose_to_msg(position, quaternion, stamp, frame))

    def send_joints(self, stamp: int, names: tuple[str, ...], positions: tuple[float, ...]) -> None:
        self.joints.publish(messages.joint_state_to_msg(names, positions, [0.0] * len(names), stamp))


def picture(seed: int, height: int = 480, width: int = 640) -> np.ndarray:
    """Coarse, so that encodings which halve or compress colours change it little."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


class Bench:
    """A policy node with its drivers; frames are kept as the worker is given them."""

    def __init__(self, graph: ros_graph.Graph, folder: Path, content: dict[str, Any], **spec: Any) -> None:
        self.graph = graph
        inputs = spec.pop("inputs", (*fake_policy.images(), *fake_policy.LOW_DIM))
        path = fake_policy.save(folder / "policy.pt", fake_policy.spec(inputs, base_pose=BASE_POSE, **spec))
        file = folder / "robot.yaml"
        file.write_text(yaml.safe_dump(content))
        self.drivers = graph.add(Drivers())
        parameters = {"checkpoint": str(path), "robot": str(file)}
        self.node = graph.add(PolicyNode([Parameter(k, value=v) for k, v in parameters.items()]))
        self.frames: list[Frame] = []
        observe = self.node._observe
        self.node._observe = lambda frame: (self.frames.append(frame), observe(frame))
        graph.spin_until(lambda: self.drivers.count_subscribers("/tcp/pose"))
        graph.spin(0.3)

    def run(self, until: Callable[[], Any], moved: Callable[[int], None] | None = None) -> Any:
        """Drives it in real time with poses at 100, a gripper at 15, pictures at 30 Hz, until something is so."""
        start = time.monotonic()
        done = {"pose": 0, "joints": 0, "picture": 0}

        def tick() -> Any:
            elapsed = time.monotonic() - start
            for name, rate in (("pose", 100.0), ("joints", 15.0), ("picture", 30.0)):
                while done[name] < elapsed * rate:
                    done[name] += 1
                    getattr(self, f"send_{name}")(done[name])
            return until()

        return self.graph.spin_until(tick, 20.0)

    def send_pose(self, count: int) -> None:
        now = self.drivers.now()
        self.drivers.send_pose(now, *tool_at(now))

    def send_joints(self, count: int) -> None:
        self.drivers.send_joints(self.drivers.now(), ("shoulder", "elbow"), (0.1, 0.2))
        self.drivers.send_joints(self.drivers.now(), ("knuckle",), (0.4,))

    def send_picture(self, count: int) -> None:
        # Late, as pictures are.
        stamp = self.drivers.now() - 40 * MS
        for shade, publisher in enumerate(self.drivers.cameras.values()):
            publisher.publish(messages.image_to_msg(picture(10 * count + shade), stamp, "optical"))


def tool_at(stamp: int) -> tuple[np.ndarray, np.ndarray]:
    """The tool in the driver's base frame: it goes about, hand down as in training."""
    t = stamp / 1e9 % 100.0
    turn = Rotation.from_euler("z", np.pi + 0.3 * np.sin(2 * t)) * DOWN
    return np.array([-0.5 + 0.05 * np.sin(2 * t), 0.1 * np.cos(2 * t), 0.3]), turn.as_quat()


def hand_in_policy_frame(stamp: int) -> tuple[np.ndarray, Rotation]:
    """By matrices, as the frames are drawn in docs: policy <- training base <- driver's base <- tool <- hand."""

    def matrix(position: Any, turn: Rotation) -> np.ndarray:
        m = np.eye(4)
        m[:3, :3], m[:3, 3] = turn.as_matrix(), position
        return m

    position, quaternion = tool_at(stamp)
    base_in_driver = matrix((0, 0, 0), Rotation.from_euler("z", np.pi))
    m = (
        matrix(BASE_POSE[:3], Rotation.identity())
        @ np.linalg.inv(base_in_driver)
        @ matrix(position, Rotation.from_quat(quaternion))
        @ matrix((0, 0, 0.16), Rotation.identity())
    )
    return m[:3, 3], Rotation.from_matrix(m[:3, :3])


@pytest.fixture
def graph() -> Iterator[ros_graph.Graph]:
    with ros_graph.graph() as made:
        yield made


def test_a_robot_with_streams_of_its_own_rates_is_seen_in_the_policys_frame_at_the_pictures_time(graph, tmp_path):
    bench = Bench(graph, tmp_path, robot_yaml(), pictures=FITTED)
    bench.run(lambda: len(bench.drivers.chunks) >= 4 and len(bench.frames) > 40)
    assert bench.drivers.frame_ids == {"world"}, "the policy's, not the driver's"
    made = {chunk.stamp_ns for chunk in bench.drivers.chunks if np.any(chunk.rows)}
    assert made and made <= {frame.stamp_ns for frame in bench.frames}
    for frame in bench.frames[5:]:
        position, turn = hand_in_policy_frame(frame.stamp_ns)
        np.testing.assert_allclose(frame.values[EEF_POS], position, atol=2e-4)
        assert (Rotation.from_quat(frame.values[EEF_QUAT]) * turn.inv()).magnitude() < 2e-3
        assert frame.values[EEF_QUAT][0] > 0.5, "on the side where training's were"
        np.testing.assert_allclose(frame.values[GRIPPER_QPOS], [0.02, -0.02], atol=1e-12)
        assert frame.values["agentview_image"].shape == (84, 84, 3)
    stamps = np.array([frame.stamp_ns for frame in bench.frames])
    assert np.all(np.diff(stamps) > 0)
    assert bench.node.diagnostics.summary == "publishing chunks"
