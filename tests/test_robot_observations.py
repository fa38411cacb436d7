"""What the policy node observes of a robot of its own, whose drivers speak as real ones do: on a real bus."""

from __future__ import annotations

import array
import functools
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import fake_policy
import numpy as np
import pytest
import ros_graph
import test_kinematics
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rclpy.parameter import Parameter
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros import robot_file
from diffusion_ros.control.action_chunk import ActionChunk
from diffusion_ros.control.frames import RobotFrames
from diffusion_ros.control.observation import Frame
from diffusion_ros.nodes.policy_node import PolicyNode
from diffusion_ros.robot import EEF_POS, EEF_QUAT, GRIPPER_QPOS, OBJECT_POS, OBJECT_QUAT
from diffusion_ros.ros import hand_source, messages, topics
from diffusion_ros.ros.hand_source import DescribedArm, HandSource
from diffusion_ros.ros.messages.fields import header_to_msg
from diffusion_ros.ros.runner import RunnableNode
from diffusion_ros.spec import FITTED, TensorSpec

MS = 1_000_000
BASE_POSE = (-0.5, -0.1, 0.9, 0.0, 0.0, 0.0, 1.0)
"""Of the training robot's base in the policy's frame."""
DOWN = Rotation.from_quat([1.0, 0.0, 0.0, 0.0])
CAMERA, WRIST = fake_policy.CAMERAS
INPUTS = (*fake_policy.images(), *fake_policy.LOW_DIM)


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

    def __init__(self, name: str = "drivers") -> None:
        super().__init__(name)
        best = topics.BEST_EFFORT_QOS
        self.pose = self.create_publisher(PoseStamped, "/tcp/pose", best)
        self.object = self.create_publisher(PoseStamped, "/object/pose", best)
        self.joints = self.create_publisher(JointState, "/joint_states", best)
        self.cameras = {
            camera: self.create_publisher(Image, f"/{name}/image_raw", best)
            for camera, name in ((CAMERA, "scene"), (WRIST, "wrist"))
        }
        self.compressed = self.create_publisher(CompressedImage, "/scene/image_raw/compressed", best)
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


@functools.cache
def picture(number: int, height: int = 480, width: int = 640) -> np.ndarray:
    """(height, width, 3) of soft colours, so that encodings which halve or compress them change it little."""
    small = np.random.default_rng(number).integers(40, 200, (4, 5, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def encoded(rgb: np.ndarray, encoding: str, stamp: int) -> Any:
    """As a camera's driver sends it."""
    msg = _encoded(rgb.tobytes(), rgb.shape, encoding)
    msg.header = header_to_msg(stamp, "optical")
    return msg


@functools.cache
def _encoded(content: bytes, shape: tuple[int, ...], encoding: str) -> Any:
    """Once each: a test that encodes for 100 ms sends no poses meanwhile."""
    rgb = np.frombuffer(content, np.uint8).reshape(shape)
    if encoding in ("jpeg", "png"):
        ok, data = cv2.imencode(f".{encoding}", rgb[..., ::-1])
        assert ok
        return CompressedImage(format=f"rgb8; {encoding} compressed bgr8", data=sent(data))
    pixels = {
        "rgb8": lambda: rgb,
        "bgr8": lambda: rgb[..., ::-1],
        "rgba8": lambda: np.dstack([rgb, np.full(rgb.shape[:2], 7, np.uint8)]),
        "mono8": lambda: cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None],
        "yuv422_yuy2": lambda: yuyv(rgb),
        "yuv422": lambda: yuyv(rgb)[..., ::-1],
    }[encoding]()
    height, width, size = pixels.shape
    padded = np.zeros((height, width * size + 12), np.uint8)  # rows that end in nothing
    padded[:, : width * size] = pixels.reshape(height, -1)
    return Image(
        height=height,
        width=width,
        encoding=encoding,
        step=padded.shape[1],
        data=sent(padded),
    )


def sent(values: np.ndarray) -> array.array:
    """The only type whose bytes the checked setter does not look at one by one."""
    return array.array("B", values.tobytes())


def yuyv(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 2): ITU-R BT.601, 16 to 235, of two pixels the mean colour."""
    r, g, b = np.moveaxis(rgb.astype(float), 2, 0)
    y = 16 + 0.257 * r + 0.504 * g + 0.098 * b
    u = (128 - 0.148 * r - 0.291 * g + 0.439 * b).reshape(len(rgb), -1, 2).mean(2)
    v = (128 + 0.439 * r - 0.368 * g - 0.071 * b).reshape(len(rgb), -1, 2).mean(2)
    colour = np.stack([u, v], 2).reshape(len(rgb), -1)
    return np.rint(np.stack([y, colour], 2)).astype(np.uint8)


class Bench:
    """A policy node with its drivers; frames are kept as the worker is given them."""

    def __init__(self, graph: ros_graph.Graph, folder: Path, content: dict[str, Any], **options: Any) -> None:
        self.graph = graph
        path, file = written(folder, content, **options)
        self.drivers = graph.add(Drivers())
        self.node = graph.add(policy_node(path, file))
        self.frames: list[Frame] = []
        observe = self.node._observe
        self.node._observe = lambda frame: (self.frames.append(frame), observe(frame))
        self.pose_rate, self.joints_rate, self.picture_rate = 100.0, 15.0, 30.0
        self.pose_shift = self.joints_shift = 0
        """ns: stamps of another clock."""
        self.send: Callable[[Drivers, int, int], None] = send_pictures
        graph.spin_until(lambda: self.drivers.count_subscribers("/joint_states"))
        graph.spin(0.3)

    def run(self, until: Callable[[], Any], timeout: float = 20.0) -> Any:
        """Drives it in real time until something is so."""
        start = time.monotonic()
        done = {"pose": 0, "joints": 0, "picture": 0}

        def tick() -> Any:
            elapsed = time.monotonic() - start
            for name, count in done.items():
                if count < elapsed * getattr(self, f"{name}_rate"):
                    done[name] += 1
                    getattr(self, f"send_{name}")(count)
            return until()

        return self.graph.spin_until(tick, timeout)

    def send_pose(self, count: int) -> None:
        now = self.drivers.now()
        self.drivers.send_pose(now + self.pose_shift, *tool_at(now))

    def send_joints(self, count: int) -> None:
        stamp = self.drivers.now() + self.joints_shift
        self.drivers.send_joints(stamp, ("shoulder", "elbow"), (0.1, 0.2))
        self.drivers.send_joints(stamp, ("knuckle",), (0.4,))

    def send_picture(self, count: int) -> None:
        # Late, as pictures are.
        self.send(self.drivers, count, self.drivers.now() - 40 * MS)

    def said(self, text: str) -> Any:
        return self.run(lambda: text in self.node.diagnostics.summary)


def send_pictures(drivers: Drivers, count: int, stamp: int) -> None:
    for k, publisher in enumerate(drivers.cameras.values()):
        publisher.publish(encoded(picture(count % 8 + 10 * k), "rgb8", stamp))


def written(folder: Path, content: dict[str, Any], inputs: Any = INPUTS, **spec: Any) -> tuple[Path, Path]:
    """A checkpoint and a robot's file."""
    spec = {"base_pose": BASE_POSE, "pictures": FITTED, **spec}
    path, file = fake_policy.save(folder / "policy.pt", fake_policy.spec(inputs, **spec)), folder / "robot.yaml"
    file.write_text(yaml.safe_dump(content))
    return path, file


def policy_node(path: Path, robot: object, **parameters: Any) -> PolicyNode:
    given = {"checkpoint": str(path), "robot": str(robot), **parameters}
    return PolicyNode([Parameter(name, value=value) for name, value in given.items()])


def tool_at(stamp: int) -> tuple[np.ndarray, np.ndarray]:
    """The tool in the driver's base frame: it goes about, hand down as in training. Of the two quaternions of an
    orientation drivers send either."""
    t = stamp / 1e9 % 100.0
    turn = Rotation.from_euler("z", np.pi + 0.3 * np.sin(2 * t)) * DOWN
    either = 1 if stamp // 64 % 2 else -1
    return np.array([-0.5 + 0.05 * np.sin(2 * t), 0.1 * np.cos(2 * t), 0.3]), either * turn.as_quat()


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


def check_frames(frames: list[Frame]) -> None:
    """Each has the hand where it was at its time, in the policy's frame: within what a straight line over 0.1 s, the
    longest hole that is bridged, is off by at 0.4 m/s2."""
    for frame in frames:
        position, turn = hand_in_policy_frame(frame.stamp_ns)
        np.testing.assert_allclose(frame.values[EEF_POS], position, atol=6e-4)
        assert (Rotation.from_quat(frame.values[EEF_QUAT]) * turn.inv()).magnitude() < 3e-3
        np.testing.assert_allclose(frame.values[GRIPPER_QPOS], [0.02, -0.02], atol=1e-12)
    assert np.all(np.diff([frame.stamp_ns for frame in frames]) > 0)


@pytest.mark.slow  # 1 kHz of poses beside other tests on two cores come too seldom
def test_a_robot_with_streams_of_their_own_rates_is_seen_in_the_policys_frame_at_the_pictures_time(graph, tmp_path):
    bench = Bench(graph, tmp_path, robot_yaml())
    summary = "publishing chunks"  # and not a word of a gripper at 15 Hz
    bench.run(lambda: len(bench.frames) > 60 and bench.node.diagnostics.summary == summary)
    assert bench.drivers.frame_ids == {"world"}, "the policy's, not the driver's"
    made = [chunk.stamp_ns for chunk in bench.drivers.chunks if np.any(chunk.rows)]
    assert made and set(made) <= {frame.stamp_ns for frame in bench.frames}
    assert np.median(np.diff(made)) >= 3.5 * 50 * MS, "four steps of eight: the lead is four"
    check_frames(bench.frames)
    for frame in bench.frames:
        assert frame.values[EEF_QUAT][0] > 0.5, "on the side where training's were"
        assert frame.values[f"{CAMERA}_image"].shape == (84, 84, 3)
    values = bench.node.diagnostics.values()
    assert {f"{topic} rate [Hz]" for topic in ("tcp/pose", "joint_states", "scene/image_raw")} <= set(values)
    assert float(values["scene/image_raw offset [s]"]) < -0.03 and values["lead_steps"] == "4"


def test_a_streams_latency_or_another_clock_is_taken_out_of_its_stamps(graph, tmp_path):
    """The arm's clock is 3 s behind; a pose is stamped 40 ms, and a picture 30 ms, after it was so."""
    content = robot_yaml(
        observations__hand__latency=-2.96,
        observations__robot0_gripper_qpos__latency=3.0,
        observations__agentview_image__latency=0.03,
        observations__robot0_eye_in_hand_image__latency=0.03,
    )
    bench = Bench(graph, tmp_path, content)
    bench.pose_shift, bench.joints_shift = (40 - 3000) * MS, 3000 * MS

    def send(drivers: Drivers, count: int, stamp: int) -> None:
        send_pictures(drivers, count, stamp + 30 * MS)

    bench.send = send
    bench.run(lambda: len(bench.frames) > 10 and bench.node.diagnostics.summary == "publishing chunks")
    check_frames(bench.frames)
    bench.pose_shift = 0
    bench.said("tcp/pose: stamped 2.9")


ENCODINGS = ("bgr8", "rgba8", "mono8", "yuv422", "yuv422_yuy2", "jpeg", "png")
QUICK = ("bgr8", "yuv422_yuy2", "jpeg")
"""Of the others the messages are in test_messages.py."""


@pytest.mark.parametrize(
    "encoding", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ENCODINGS]
)
def test_pictures_of_every_encoding_are_cropped_and_scaled_as_in_training(graph, tmp_path, encoding):
    compressed = encoding in ("jpeg", "png")
    topic = "/scene/image_raw/compressed" if compressed else "/scene/image_raw"
    bench = Bench(graph, tmp_path, robot_yaml(observations__agentview_image__topic=topic))
    scene = bench.drivers.compressed if compressed else bench.drivers.cameras[CAMERA]
    taken: dict[int, np.ndarray] = {}

    def send(drivers: Drivers, count: int, stamp: int) -> None:
        taken[stamp] = picture(count % 8)
        scene.publish(encoded(taken[stamp], encoding, stamp))
        drivers.cameras[WRIST].publish(encoded(picture(count % 8 + 10), "rgb8", stamp))

    for number in range(8):
        encoded(picture(number), encoding, 0)
    bench.send, bench.picture_rate = send, 20.0
    bench.run(lambda: len(bench.frames) > 5)
    for frame in bench.frames:
        rgb = taken[frame.stamp_ns]
        if encoding == "mono8":
            rgb = np.repeat(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
        expected = cv2.resize(rgb[:, 80:560], (84, 84), interpolation=cv2.INTER_AREA).astype(int)
        off = np.abs(frame.values[f"{CAMERA}_image"].astype(int) - expected).max()
        exact = encoding in ("bgr8", "rgba8", "mono8", "png")
        assert off <= (0 if exact else 8), "colours in their places, and the same crop"


def test_a_picture_that_cannot_be_used_is_refused_in_one_line_and_its_camera_trusted_after_good_ones(graph, tmp_path):
    bench = Bench(graph, tmp_path, robot_yaml())
    bench.run(lambda: bench.node.diagnostics.summary == "publishing chunks")
    bad: list[Any] = []

    def send(drivers: Drivers, count: int, stamp: int) -> None:
        wrist = bad[0](stamp) if bad else encoded(picture(count % 8 + 10), "rgb8", stamp)
        drivers.cameras[CAMERA].publish(encoded(picture(count % 8), "rgb8", stamp))
        drivers.cameras[WRIST].publish(wrist)

    bench.send = send
    for make, reason in (
        (
            lambda stamp: encoded(picture(0, 240, 320), "rgb8", stamp),
            "wrist/image_raw: crop [80, 0, 480, 480] (x, y, width, height), inside of a picture of 320 x 240 expected",
        ),
        (
            lambda stamp: Image(encoding="bayer_rggb8", height=1, width=1, step=1, data=b"0"),
            "wrist/image_raw: encoding 'bayer_rggb8', one of rgb8, bgr8",
        ),
    ):
        bench.drivers.chunks.clear()
        bad[:] = [make]
        bench.said(reason)
        bench.run(lambda: bench.drivers.chunks and not np.any(bench.drivers.chunks[-1].rows)), "it is told to hold"
        assert bench.node._source.distrusted == {"/wrist/image_raw": 3}
        bad.clear()
        bench.said("publishing chunks")


def test_a_frozen_camera_is_noticed(graph, tmp_path):
    bench = Bench(graph, tmp_path, robot_yaml())
    still = picture(1)

    def send(drivers: Drivers, count: int, stamp: int) -> None:
        drivers.cameras[CAMERA].publish(encoded(still, "rgb8", stamp))
        drivers.cameras[WRIST].publish(encoded(picture(count % 8), "rgb8", stamp))

    bench.send = send
    bench.said("agentview is frozen: the same image for 1.")


def test_arm_and_gripper_publish_their_joints_apart_and_a_second_gripper_is_noticed(graph, tmp_path):
    content = robot_yaml(
        observations__robot0_gripper_qpos={"topic": "/joint_states", "joints": ["right", "left"], "scale": [1.0, -1.0]}
    )
    bench = Bench(graph, tmp_path, content)
    arm, gripper = bench.drivers, graph.add(Drivers("gripper"))
    joints = ["right"]

    def send_joints(count: int) -> None:
        for _ in range(4):
            arm.send_joints(arm.now(), ("elbow", "shoulder"), (float("nan"), 9.0))
        gripper.send_joints(gripper.now(), tuple(joints), (0.03, 0.01)[: len(joints)])

    bench.send_joints = send_joints
    bench.said("joint_states: nothing received of right, left, but of ")
    joints[:] = ["left", "right"]
    bench.said("publishing chunks")
    np.testing.assert_allclose(bench.frames[-1].values[GRIPPER_QPOS], [0.01, -0.03])
    second = graph.add(Drivers("second"))

    def two(count: int) -> None:
        send_joints(count)
        second.send_joints(second.now(), ("left", "right"), (0.0, 0.0))

    bench.send_joints = two
    bench.said("joint_states: 2 publishers on /joint_states, one expected")


def test_the_object_and_a_robot_without_cameras(graph, tmp_path):
    content = robot_yaml(observations__object={"source": "pose", "topic": "/object/pose"})
    bench = Bench(graph, tmp_path, content, inputs=(*fake_policy.LOW_DIM, *fake_policy.OBJECT))
    send_pose = bench.send_pose

    def send_poses(count: int) -> None:
        send_pose(count)
        turn = Rotation.from_euler("z", np.pi - 0.2)
        pose = messages.pose_to_msg((-0.6, 0.1, 0.02), turn.as_quat(), bench.drivers.now(), "base")
        bench.drivers.object.publish(pose)

    bench.send_pose = send_poses
    bench.send = lambda drivers, count, stamp: None
    bench.run(lambda: len(bench.drivers.chunks) > 3 and bench.node.diagnostics.summary == "publishing chunks")
    check_frames(bench.frames)
    for frame in bench.frames:
        # No tool there: the base of training is turned by half a turn, and stands where the checkpoint says.
        np.testing.assert_allclose(frame.values[OBJECT_POS], [0.1, -0.2, 0.92], atol=1e-9)
        turn = Rotation.from_quat(frame.values[OBJECT_QUAT])
        np.testing.assert_allclose(turn.as_rotvec(), [0, 0, -0.2], atol=1e-9)
        assert frame.values[OBJECT_QUAT][3] > 0


def by_joints(folder: Path) -> robot_file.RobotFile:
    """A robot that needs the description of test_kinematics' arm of 7 joints."""
    content = robot_yaml(
        base={"frame": "base"},
        tool={"frame": "tool"},
        joints=test_kinematics.NAMES[7],
        description={"topic": "/robot_description"},
        observations__hand={"source": "fk", "topic": "/joint_states"},
    )
    return robot_file.read(written(folder, content)[1])


OTHERS = '<robot name="gripper"><link name="palm"/></robot>'


def test_of_descriptions_that_were_there_before_the_one_that_fits_counts(graph, tmp_path):
    """Whichever comes last: they wait in the queue together."""
    drivers = graph.add(Drivers())
    kept = []
    for text in (OTHERS, OTHERS, test_kinematics.TEXTS[7], OTHERS, OTHERS):
        kept.append(drivers.create_publisher(String, "/robot_description", topics.DESCRIPTION_QOS))
        kept[-1].publish(String(data=text))
    heard: list[str] = []
    node = graph.add(RunnableNode("executor"))
    described = DescribedArm(node, by_joints(tmp_path))
    take = described._take
    described._take = lambda text: (heard.append(text), take(text))
    time.sleep(1.0)
    graph.spin_until(lambda: len(heard) == 5)
    assert described.arm is not None and described.missing() == ""


def test_a_description_that_does_not_fit_holds_the_arm_and_does_not_take_it_away(monkeypatch, graph, tmp_path):
    monkeypatch.setattr(hand_source, "_SETTLING", 0.0)
    described = DescribedArm(graph.add(RunnableNode("executor")), by_joints(tmp_path))
    assert described.missing() == "robot_description: no robot description received"
    described._take(OTHERS)
    assert described.missing().startswith("robot_description: joint 'joint1'") and described.arm is None
    described._take(test_kinematics.TEXTS[7])
    arm = described.arm
    assert arm is not None and described.missing() == ""
    described._take(OTHERS)
    assert described.arm is arm
    assert described.missing().startswith("robot_description: another came, which does not fit: joint 'joint1'")
    described._take(test_kinematics.TEXTS[7])
    assert described.arm is not None and described.missing() == ""


def test_the_hand_by_forward_kinematics_as_soon_as_the_description_has_come(monkeypatch, graph, tmp_path):
    monkeypatch.setattr(hand_source, "_SETTLING", 0.0)
    names = test_kinematics.NAMES[7]
    content = robot_yaml(
        base={"frame": "base"},
        tool={"frame": "tool"},
        joints=names,
        description={"topic": "/robot_description"},
        observations__hand={"source": "fk", "topic": "/joint_states"},
    )
    bench = Bench(graph, tmp_path, content)
    arm, home = test_kinematics.arm(7), test_kinematics.HOME[7]

    def joints_at(stamp: int) -> np.ndarray:
        return home + 0.2 * np.sin(stamp / 1e9 % 100.0 + np.arange(7))

    bench.joints_rate = 100.0
    odd = [0.0]

    def send_joints(count: int) -> None:
        stamp = bench.drivers.now()
        bench.drivers.send_joints(stamp, tuple(names), tuple(joints_at(stamp) + odd[0]))
        if count % 6 == 0:
            bench.drivers.send_joints(stamp, ("knuckle",), (0.4,))

    bench.send_joints = send_joints
    bench.said("joint_states (hand): robot_description: no robot description received")
    description = bench.drivers.create_publisher(String, "/robot_description", topics.DESCRIPTION_QOS)
    description.publish(String(data="<robot"))
    bench.said("joint_states (hand): robot_description: ")
    description.publish(String(data=test_kinematics.TEXTS[7]))
    bench.run(lambda: len(bench.frames) > 10 and bench.node.diagnostics.summary == "publishing chunks")
    for frame in bench.frames:
        position, quaternion = arm.forward(joints_at(frame.stamp_ns))
        np.testing.assert_allclose(frame.values[EEF_POS], position + BASE_POSE[:3], atol=6e-4)
        turn = Rotation.from_quat(frame.values[EEF_QUAT]) * Rotation.from_quat(quaternion).inv()
        assert turn.magnitude() < 3e-3
    description.publish(String(data=OTHERS))
    bench.said("joint_states (hand): robot_description: another came, which does not fit: ")
    description.publish(String(data=test_kinematics.TEXTS[7]))
    bench.said("publishing chunks")
    odd[0] = 5.0
    bench.said("joint_states (hand): joint 'joint1' is at ")


def test_the_hand_by_transforms(monkeypatch, tmp_path):
    """tf2_msgs is not on every machine; what HandSource makes of its messages is."""
    _, file = written(tmp_path, robot_yaml(observations__hand={"source": "tf", "parent": "base", "child": "tool0"}))
    robot = robot_file.read(file)
    monkeypatch.setattr(messages, "TFMessage", None)
    given: list[tuple[int, np.ndarray, np.ndarray]] = []
    refused: list[str] = []

    class Bus:
        def __init__(self) -> None:
            self.take: dict[str, Any] = {}

        def create_subscription(self, kind: Any, topic: str, callback: Any, qos: Any, **options: Any) -> None:
            self.take[topic] = callback

    def source(bus: Bus) -> HandSource:
        take = lambda *moved: given.append(moved)  # noqa: E731
        return HandSource(bus, robot, RobotFrames(robot, BASE_POSE), take, lambda error: refused.append(str(error)))

    with pytest.raises(ValueError, match="tf needs tf2_msgs, which is not installed"):
        source(Bus())
    monkeypatch.setattr(messages, "TFMessage", object)
    bus = Bus()
    source(bus)
    turn = Rotation.from_euler("z", 0.4)

    def hear(*links: tuple[int, str, str, tuple[float, float, float], Rotation], topic: str = "/tf") -> None:
        transforms = [
            messages.transform_to_msg(position, turned.as_quat(), stamp, parent, child)
            for stamp, parent, child, position, turned in links
        ]
        bus.take[topic](SimpleNamespace(transforms=transforms))

    hear((5, "flange", "tool0", (0.0, 0.0, 0.1), Rotation.identity()), topic="/tf_static")
    hear((5, "wheel", "odom", (1, 2, 3), turn))
    assert not given, "the rest of the way is not known yet"
    hear((9, "base", "flange", (0.4, 0.0, 0.3), turn * DOWN))
    ((stamp, position, quaternion),) = given
    assert stamp == 9
    np.testing.assert_allclose(position, [0.4, 0.0, 0.3 - 0.1 - 0.16], atol=1e-12)
    assert (Rotation.from_quat(quaternion) * (turn * DOWN).inv()).magnitude() < 1e-9
    hear((11, "wheel", "odom", (1, 2, 4), turn))
    assert len(given) == 1, "nothing new of the hand"
    hear((12, "base", "flange", (0.5, 0.0, 0.3), DOWN))
    assert given[-1][0] == 12 and given[-1][1][0] == 0.5
    hear((13, "base", "flange", (float("nan"), 0.0, 0.3), DOWN))
    assert len(given) == 2 and len(refused) == 1 and "position [nan, 0.0, 0.3]" in refused[0]
    # What of others is wrong is not the hand's, whatever else is in the message.
    nowhere = messages.transform_to_msg((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0), 13, "odom", "wheel")
    nowhere.transform.rotation.w = 0.0
    arm = messages.transform_to_msg((0.6, 0.0, 0.3), DOWN.as_quat(), 13, "base", "flange")
    bus.take["/tf"](SimpleNamespace(transforms=[nowhere, arm]))
    assert given.pop()[1][0] == 0.6 and len(given) == 2 and len(refused) == 1
    # A hand is as old as the oldest part of its way: a wrist that moves on tells nothing of an arm that is silent.
    hear((14, "flange", "tool0", (0.0, 0.0, 0.2), Rotation.identity()))
    assert len(given) == 2, "the arm was heard at 13"
    hear((15, "base", "flange", (0.5, 0.0, 0.3), DOWN))
    assert given[-1][0] == 14
    many = len(given), len(refused)
    hear((16, "map", "flange", (float("nan"), 0.0, 0.3), DOWN))
    hear((17, "flange", "tool0", (0.0, 0.0, 0.2), Rotation.identity()))
    assert len(given) == many[0] and len(refused) > many[1] and "'flange' in 'base': position [nan" in refused[-1]
    hear((17, "base", "flange", (0.5, 0.0, 0.3), DOWN))
    assert given[-1][0] == 17, "good again"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"frame": "base_link"}, "tcp/pose: frame 'base_link', 'base' expected"),
        ({"position": (float("nan"), 0.0, 0.0)}, "tcp/pose: position [nan, 0.0, 0.0], finite numbers expected"),
        ({"position": (500.0, 0.0, 300.0)}, "robot0_eef_pos[0] is -500.5 m, -2 to 2 expected"),
        ({"ahead": 700 * MS}, "s ahead of the clock, at most 0.5 s expected"),
        ({"ahead": 150 * MS, "rate": 3.0}, "tcp/pose: comes at 3.0 Hz, at least 5 of 20 Hz expected"),
    ],
)
def test_a_hand_that_cannot_be_used_holds_and_says_why(graph, tmp_path, change, reason):
    position = TensorSpec("robot0_eef_pos", (3,), "float32", "m", "world", (-2.0, -2.0, 0.0), (2.0, 2.0, 2.0))
    inputs = (*fake_policy.images(), position, *fake_policy.LOW_DIM[1:])
    bench = Bench(graph, tmp_path, robot_yaml(), inputs=inputs)
    bench.said("publishing chunks")
    bench.drivers.chunks.clear()

    def send_pose(count: int) -> None:
        stamp = bench.drivers.now()
        at, turn = tool_at(stamp)
        at = np.array(change.get("position", at))
        bench.drivers.send_pose(stamp + change.get("ahead", 0), at, turn, change.get("frame", "base"))

    bench.send_pose, bench.pose_rate = send_pose, change.get("rate", 100.0)
    bench.said(reason)
    if "stamp" not in reason:
        bench.run(lambda: bench.drivers.chunks and not np.any(bench.drivers.chunks[-1].rows))


def test_what_keeps_frames_from_being_complete_is_named(graph, tmp_path):
    path, file = written(tmp_path, robot_yaml())
    node = graph.add(policy_node(path, file))
    assembler = node._source.assembler
    for stamp in range(0, 1000, 10):
        assembler.put(stamp * MS, {EEF_POS: np.zeros(3), EEF_QUAT: DOWN.as_quat()})
    assembler.put(500 * MS, {f"{WRIST}_image": np.zeros(1)})
    assembler.put(600 * MS, {f"{CAMERA}_image": np.zeros(1)})
    there = "wrist/image_raw is 0.1 s behind scene/image_raw, at most 0.025 s expected (sync_tolerance)"
    assert node._inputs.apart() == there
    assembler.put(1200 * MS, {f"{WRIST}_image": np.zeros(1)})
    assembler.put(1200 * MS, {f"{CAMERA}_image": np.zeros(1)})
    assert node._inputs.apart() == "tcp/pose is 0.21 s behind scene/image_raw, its latency, or a hole?"


# What is refused before anything is subscribed to


@pytest.mark.parametrize(
    ("changes", "inputs", "reason"),
    [
        (
            {"observations__agentview_image": None},
            (),
            "the input agentview_image, observations.agentview_image expected",
        ),
        (
            {"observations__robot0_gripper_qpos": None},
            (),
            "robot0_gripper_qpos, observations.robot0_gripper_qpos expected",
        ),
        (
            {
                "observations__robot0_gripper_qpos__joints": ["a"],
                "observations__robot0_gripper_qpos__scale": [1.0],
                "observations__robot0_gripper_qpos__offset": [0.0],
            },
            (),
            "observations.robot0_gripper_qpos.joints: 1 (a), 2 expected, as many as the checkpoint's input has values",
        ),
        (
            {"observations__agentview_image__crop": [0, 0, 83, 200]},
            (),
            "observations.agentview_image.crop: 83 x 200, at least the checkpoint's 84 x 84 expected: none is enlarged",
        ),
        ({}, fake_policy.OBJECT, "trained with the input object_pos, and observations has no 'object', a source"),
        (
            {"observations__object": {"source": "tf", "parent": "base", "child": "can"}},
            fake_policy.OBJECT,
            "observations.object.source: 'tf', 'pose' expected",
        ),
        ({"limits": None}, (), "robot.yaml: limits: missing"),
    ],
)
def test_a_robot_that_does_not_give_what_the_checkpoint_needs_is_refused_at_once(
    graph, tmp_path, changes, inputs, reason
):
    path, file = written(tmp_path, robot_yaml(**changes), (*INPUTS, *inputs))
    with pytest.raises(ValueError, match=re.escape(reason)) as caught:
        policy_node(path, file)
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)


def test_a_robot_that_is_none_and_one_in_lockstep_are_refused(graph, tmp_path):
    path, file = written(tmp_path, robot_yaml())
    with pytest.raises(ValueError, match="robot 'nobody': expected a YAML file, or one of franka_crisp"):
        policy_node(path, "nobody")
    with pytest.raises(ValueError, match=r"parameter robot is '.*', '' expected in lockstep: no real robot waits"):
        policy_node(path, file, mode="lockstep")


@pytest.mark.parametrize(
    ("action", "picture", "n_action_steps", "lead"),
    [
        (0.0, 0.0, 8, 2),
        (0.06, 0.0, 8, 4),
        (0.05, 0.05, 8, 3),
        (0.2, 0.0, 8, 6),
        (0.06, 0.2, 8, 7),
        (0.5, 0.0, 8, 7),
        (0.2, 0.0, 5, 4),
    ],
)
def test_chunks_are_begun_early_enough_for_the_arms_latency(graph, tmp_path, action, picture, n_action_steps, lead):
    content = robot_yaml(action__latency=action, observations__agentview_image__latency=picture)
    path, file = written(tmp_path, content, n_action_steps=n_action_steps)
    node = graph.add(policy_node(path, file))
    assert node.parameters.lead_steps == lead
    assert node.get_parameter("lead_steps").value == lead and node.get_parameter("sync_tolerance").value == 0.025
    graph.remove(node)
    assert graph.add(policy_node(path, file, lead_steps=2)).parameters.lead_steps == 2
    assert graph.add(policy_node(path, "")).parameters.lead_steps == 1, "the simulator's"
