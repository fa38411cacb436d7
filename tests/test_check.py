"""diffusion_ros check: a good robot passes, and each planted mistake is found in one line."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import fake_policy
import numpy as np
import pytest
import rclpy
import ros_graph
import yaml
from geometry_msgs.msg import PoseStamped, Quaternion, TransformStamped, TwistStamped
from rclpy.context import Context
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message, serialize_message
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import Image, JointState, Joy
from std_msgs.msg import Bool, Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros import bringup, check, robot_check, robot_file
from diffusion_ros.control.frames import RobotFrames
from diffusion_ros.control.pictures import fit
from diffusion_ros.robot_check import compare, problems
from diffusion_ros.ros import messages, robot_survey, topics
from diffusion_ros.ros.robot_survey import RobotSurvey
from diffusion_ros.ros.runner import RunnableNode
from diffusion_ros.ros.transforms import Transforms
from diffusion_ros.spec import CheckpointSpec, SpecError
from diffusion_ros.systems import startup
from diffusion_ros.systems.arm import REAL_ROBOT
from diffusion_ros.systems.system import Argument
from training.typical import typical

DOWN = Rotation.from_quat([1.0, 0.0, 0.0, 0.0])
BASE = Rotation.from_euler("z", math.pi)
"""UR's base, against that of the robot in training."""
BASE_POSE = (-0.5, -0.1, 0.9, 0.0, 0.0, 0.0, 1.0)
HAND = np.array([0.05, 0.1, 1.0])
"""In the policy's frame."""
TOOL_TO_HAND = 0.16
SECONDS = "0.9"


def scene(side: int, flip: bool) -> np.ndarray[Any, Any]:
    """A picture (3/4 side, side, 3) that is bright on the left, or at the bottom."""
    height = 3 * side // 4
    x = np.broadcast_to(np.linspace(255, 0, side), (height, side))
    y = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, side))
    return np.stack([y if flip else x] * 3, axis=-1).astype(np.uint8)


def spec(**changes: Any) -> CheckpointSpec:
    ranges = {
        "robot0_eef_pos": ((-0.3, -0.8, 0.7), (0.4, 0.8, 1.2)),
        "robot0_gripper_qpos": ((-0.02, -0.06), (0.06, 0.02)),
    }
    inputs = tuple(
        dataclasses.replace(t, low=ranges[t.name][0], high=ranges[t.name][1]) if t.name in ranges else t
        for t in (*fake_policy.images(), *fake_policy.LOW_DIM)
    )
    pictures = {
        f"{camera}_image": fit(scene(112, flip), 8, 8, (14, 0, 84, 84)).tolist()
        for camera, flip in zip(fake_policy.CAMERAS, (False, True), strict=True)
    }
    return fake_policy.spec(
        **{
            "inputs": inputs,
            "workspace_low": (-0.15, -0.4, 0.8),
            "workspace_high": (0.3, 0.4, 1.1),
            "base_pose": BASE_POSE,
            "response": (150.0, 1.0),
            "typical": {**pictures, "robot0_eef_quat": {"mean": [1.0, 0.0, 0.0, 0.0], "angle": 0.4}},
            **changes,
        }
    )


ROBOT: dict[str, Any] = {
    "driver": "servo",
    "base": {"frame": "base", "rpy": [0.0, 0.0, math.pi]},
    "tool": {"frame": "tool0", "xyz": [0.0, 0.0, TOOL_TO_HAND]},
    "observations": {
        "hand": {"source": "pose", "topic": "/tcp_pose"},
        "robot0_gripper_qpos": {"topic": "/joint_states", "joints": ["left", "right"], "scale": [1.0, -1.0]},
        "agentview_image": {"topic": "/scene/image_raw", "crop": [21, 0, 126, 126]},
        "robot0_eye_in_hand_image": {"topic": "/wrist/image_raw", "crop": [21, 0, 126, 126]},
    },
    "action": {"output": "twist", "topic": "/delta_twist_cmds", "rate": 50},
    "gripper": {"output": "positions", "name": "/gripper/commands", "open": 0.04, "closed": 0.0},
    "limits": {
        "linear": 0.3,
        "angular": 2.0,
        "linear_acceleration": 2.0,
        "angular_acceleration": 6.0,
        "low": [-0.8, -0.6, -0.1],
        "high": [-0.35, 0.4, 0.25],
    },
    "ready": [{"topic": "/robot_program_running", "type": "std_msgs/Bool", "value": True, "latched": True}],
    "buttons": {"topic": "/joy", "enable": 7, "stop": 1},
}


def robot(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """The file with other values at keys with dots; None takes one away."""
    content = copy.deepcopy(ROBOT)
    for key, value in (changes or {}).items():
        *way, last = key.split(".")
        section: Any = content
        for name in way:
            section = section[name]
        if value is None:
            del section[last]
        else:
            section[last] = value
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


class Drivers:
    """All drivers of a robot, in a thread and a ROS context of their own. What they do wrong is set from outside."""

    RIGHT: dict[str, Any] = {
        "frame": "base",
        "unit": 1.0,
        "turn": 0.0,
        "ahead": 0.0,
        "fingers": 0.03,
        "swapped": False,
        "silent": "",
        "running": True,
        "also": lambda msg: None,
    }

    def __init__(self, domain: int) -> None:
        self.context = Context()
        rclpy.init(args=[], context=self.context, domain_id=domain)
        self.node = Node("driver", context=self.context, use_global_arguments=False)
        self.hand_node = Node("gripper_driver", context=self.context, use_global_arguments=False)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.pose = self.node.create_publisher(PoseStamped, "/tcp_pose", topics.BEST_EFFORT_QOS)
        self.joints = self.node.create_publisher(JointState, "/joint_states", 10)
        self.fingers_ = self.hand_node.create_publisher(JointState, "/joint_states", 10)
        quiet = PublisherEventCallbacks(use_default_callbacks=False)
        self.cameras = [
            # A test asks for reliable ones, of which Kilted's rclpy would warn by what it deprecates.
            self.node.create_publisher(Image, topic, topics.BEST_EFFORT_QOS, event_callbacks=quiet)
            for topic in ("/scene/image_raw", "/wrist/image_raw")
        ]
        self.program = self.node.create_publisher(Bool, "/robot_program_running", latched)
        self.joy = self.node.create_publisher(Joy, "/joy", 10)
        self.node.create_subscription(TwistStamped, "/delta_twist_cmds", lambda msg: self.commands.append(msg), 10)
        self.hand_node.create_subscription(Float64MultiArray, "/gripper/commands", self.commands_append, 10)
        self.commands: list[Any] = []
        self.pictures = [scene(168, False), scene(168, True)]
        self.set()
        self.node.create_timer(0.02, self.publish)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.executor.add_node(self.hand_node)
        self.thread = threading.Thread(target=self.executor.spin, daemon=True)
        self.thread.start()

    def in_its_thread(self, do: Callable[[Any], Any], what: Any) -> None:
        """What is destroyed while the thread that spins collects what it waits for, ends it: so that thread does it."""
        task = self.executor.create_task(do, what)
        while not task.done():
            time.sleep(0.01)

    def commands_append(self, msg: Any) -> None:
        self.commands.append(msg)

    def set(self, **wrong: Any) -> None:
        vars(self).update({**self.RIGHT, **wrong})
        self.program.publish(Bool(data=self.running))

    def publish(self) -> None:
        now = self.node.get_clock().now().nanoseconds + round(1e9 * self.ahead)
        # Where the tool of this robot is: the hand, less the tool's transform, in the base that is turned.
        base = np.array(BASE_POSE[:3])
        turned = BASE.inv() * DOWN
        tool = BASE.inv().apply(HAND - base) - turned.apply([0.0, 0.0, TOOL_TO_HAND])
        turned = turned * Rotation.from_euler("z", self.turn)
        if self.silent != "pose":
            msg = messages.pose_to_msg(self.unit * tool, turned.as_quat(), now, self.frame)
            self.pose.publish(msg)
            self.also(msg)
        names, zeros = [f"joint_{i}" for i in range(6)], np.zeros(6)
        if self.silent != "joints":
            self.joints.publish(messages.joint_state_to_msg(names, zeros, zeros, now))
        self.fingers_.publish(messages.joint_state_to_msg(["right", "left"], [self.fingers] * 2, np.zeros(2), now))
        for camera, picture in zip(self.cameras, self.pictures[:: -1 if self.swapped else 1], strict=True):
            if self.silent != "cameras":
                camera.publish(messages.image_to_msg(picture, now, "camera"))
        self.joy.publish(Joy(buttons=[0] * 11))

    @contextmanager
    def other(self, kind: Any, topic: str) -> Iterator[Any]:
        """Somebody else who publishes."""
        node = Node("teleop", context=self.context, use_global_arguments=False)
        try:
            yield node.create_publisher(kind, topic, 10)
        finally:
            node.destroy_node()

    def close(self) -> None:
        self.executor.shutdown()
        self.thread.join(10)
        self.node.destroy_node()
        self.hand_node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.fixture(scope="module")
def drivers() -> Iterator[Drivers]:
    with ros_graph.own_domain() as domain:
        made = Drivers(domain)
        yield made
        made.close()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return fake_policy.save(tmp_path / "policy.pt", spec())


def found(folder: Path, checkpoint: Path, changes: dict[str, Any] | None = None, *more: str) -> check.Report:
    arguments = ["--robot", str(robot(folder, changes)), "--checkpoint", str(checkpoint), "--seconds", SECONDS, *more]
    return check.run(check.parse(arguments))


def test_a_good_robot_is_ready(
    drivers: Drivers, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drivers.set()
    result = tmp_path / "check.json"
    arguments = ["check", "--robot", str(robot(tmp_path)), "--checkpoint", str(checkpoint), "--seconds", SECONDS]
    assert bringup.main([*arguments, "--json", str(result)]) == 0, capsys.readouterr()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("robot mine (driver servo, output twist), policy.pt (can, 20 Hz)")
    assert lines[-1] == "ready: nothing stands against enabling it"
    table = {line.split()[0]: line for line in lines if line}
    assert "/tcp_pose" in table["hand"] and "PoseStamped in base" in table["hand"]
    assert "driver (best effort)" in table["hand"]
    assert "JointState of left, right" in table["robot0_gripper_qpos"]
    # Two publishers of joint_states are right where each has other joints.
    assert "/driver" in table["robot0_gripper_qpos"] and "/gripper_driver" in table["robot0_gripper_qpos"]
    assert "rgb8 168 x 126 in camera" in table["agentview_image"]
    assert "Bool true" in table["ready[0]"] and "Joy of 11 buttons" in table["buttons"]
    assert "TwistStamped" in table["action"] and "/driver" in table["action"]
    assert "/gripper_driver" in table["gripper"]
    content = json.loads(result.read_text())
    assert content["ready"] is True and content["findings"] == []
    hand = next(row for row in content["inputs"] if row["name"] == "hand")
    # Published every 20 ms by this process, which other tests keep from its cores.
    assert 15 < hand["rate"] < 60 and 0 <= hand["age"] < 0.5
    assert drivers.commands == []


@pytest.mark.parametrize(
    ("wrong", "changes", "expected"),
    [
        pytest.param({"unit": 1000.0}, {}, "metres expected: these look like millimetres", id="unit"),
        pytest.param(
            {"frame": "base_link"}, {}, "hand: /tcp_pose: frame 'base_link', base.frame 'base' expected", id="frame"
        ),
        pytest.param(
            {},
            {"observations.robot0_gripper_qpos.joints": ["left", "rigth"]},
            "robot0_gripper_qpos: /joint_states has no joint rigth, it has left, right",
            id="joint",
        ),
        pytest.param(
            {},
            {"observations.robot0_gripper_qpos.joints": ["finger_1", "finger_2"]},
            "has no joint finger_1, finger_2, it has joint_0, joint_1, joint_2, joint_3, joint_4, joint_5, left, right",
            id="joints",
        ),
        pytest.param(
            {},
            {"observations.robot0_gripper_qpos.scale": [1.0, 1.0]},
            "0.02 expected (from left, right at [0.03, 0.03]): the sign of right's scale?",
            id="sign",
        ),
        pytest.param({"fingers": 30.0}, {}, "look like millimetres: a scale of 0.001 expected", id="gripper unit"),
        pytest.param(
            {"swapped": True},
            {},
            "agentview_image looks like robot0_eye_in_hand_image, and robot0_eye_in_hand_image like agentview_image:"
            " swapped?",
            id="swapped",
        ),
        pytest.param(
            {"silent": "pose"},
            {},
            "hand: /tcp_pose: nothing received, /driver publishes it, but is silent",
            id="silent",
        ),
        pytest.param(
            {"running": False},
            {},
            "ready[0]: /robot_program_running: false, true expected, the driver is not ready",
            id="not ready",
        ),
        pytest.param(
            {"turn": math.pi / 2},
            {},
            "hand: it is turned 1.57 rad from where training's was, at most 0.60",
            id="turned",
        ),
        pytest.param(
            {},
            {"tool.rpy": [0.0, 0.0, -0.785]},
            "hand: it is turned 0.79 rad from where training's was, at most 0.60 expected: the tool's rpy",
            id="tool",
        ),
        pytest.param(
            {},
            {"observations.agentview_image.qos": "reliable"},
            "agentview_image: /scene/image_raw: /driver publishes best effort, qos: best_effort expected, not reliable",
            id="reliable",
        ),
        pytest.param(
            {},
            {"observations.hand.topic": "/tcp_poses"},
            "hand: /tcp_poses: nobody publishes it (there is /tcp_pose): is the driver running",
            id="topic",
        ),
        pytest.param(
            {},
            {"observations.agentview_image.topic": "/scene/image_raw/compressed"},
            "agentview_image: /scene/image_raw/compressed: nobody publishes it",
            id="compressed",
        ),
        pytest.param(
            {},
            {"observations.agentview_image.crop": [80, 0, 126, 126]},
            "crop [80, 0, 126, 126] (x, y, width, height), inside of a picture of 168 x 126 expected",
            id="crop",
        ),
        pytest.param({"ahead": 0.8}, {}, "s ahead of the clock, latency 0 s, at most 0.5 s expected", id="clock"),
        pytest.param({}, {"buttons.stop": 11}, "buttons.stop: 11, /joy has 11", id="button"),
        pytest.param(
            {}, {"action.topic": "/twist_cmds"}, "action: nobody listens to /twist_cmds: is the controller", id="output"
        ),
        pytest.param(
            {}, {"action.type": "Twist", "driver": "kortex"}, "takes geometry_msgs/msg/TwistStamped", id="output type"
        ),
    ],
)
def test_a_mistake_is_found_in_one_line(
    wrong: dict[str, Any], changes: dict[str, Any], expected: str, drivers: Drivers, checkpoint: Path, tmp_path: Path
) -> None:
    drivers.set(**wrong)
    report = found(tmp_path, checkpoint, changes)
    lines = [str(finding) for finding in problems(report.findings)]
    # A clock is that of each input; all else is one mistake and one line.
    assert len(lines) == (4 if "clock" in expected else 1) and all(expected in line for line in lines), lines
    assert report.verdict == f"not ready: {len(lines)} {'thing' if len(lines) == 1 else 'things'}"
    assert not report.ready


def test_other_commanders_and_a_clock_that_is_ahead(drivers: Drivers, checkpoint: Path, tmp_path: Path) -> None:
    drivers.set(ahead=0.2)
    with drivers.other(TwistStamped, "/delta_twist_cmds"):
        report = found(tmp_path, checkpoint)
    (line,) = problems(report.findings)
    assert str(line) == "action: /teleop publishes /delta_twist_cmds already, one commander expected, this executor"
    warned = [str(finding) for finding in report.findings if finding.level == "warning"]
    assert len(warned) == 4 and all("ms ahead of ours, synchronised clocks" in line for line in warned)
    assert all(row.ahead > 0.05 for row in report.inputs if row.name in ("hand", "agentview_image"))


def test_two_drivers_of_the_same_pose(drivers: Drivers, checkpoint: Path, tmp_path: Path) -> None:
    drivers.set()
    with drivers.other(PoseStamped, "/tcp_pose") as second:
        drivers.also = second.publish
        (line,) = problems(found(tmp_path, checkpoint).findings)
        drivers.set()
    assert str(line) == "hand: 2 publishers on /tcp_pose, one expected: /driver and /teleop"


def test_a_gripper_action_needs_control_msgs_and_a_server(
    drivers: Drivers, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drivers.set()
    monkeypatch.setitem(sys.modules, "control_msgs", None)
    monkeypatch.setitem(sys.modules, "control_msgs.msg", None)
    gripper = {"output": "gripper_command", "name": "/gripper_action", "open": 0.04, "closed": 0.0}
    lines = [str(one) for one in problems(found(tmp_path, checkpoint, {"gripper": gripper}).findings)]
    assert lines == [
        "gripper: control_msgs is not installed here, it is needed for the action GripperCommand",
        "gripper: there is no action /gripper_action: is the gripper's driver running?",
    ]


URDF = """<robot name="two"><link name="base"/><link name="upper"/><link name="tool0"/>
<joint name="joint_0" type="revolute"><parent link="base"/><child link="upper"/><origin xyz="0 0 0.3"/>
<axis xyz="0 0 1"/><limit lower="-3" upper="3" velocity="1" effort="1"/></joint>
<joint name="joint_1" type="revolute"><parent link="upper"/><child link="tool0"/><origin xyz="-0.55 -0.2 0"/>
<axis xyz="0 0 1"/><limit lower="-3" upper="3" velocity="1" effort="1"/></joint></robot>"""


@contextmanager
def descriptions(drivers: Drivers, *texts: str) -> Iterator[None]:
    """Each by a publisher of its own, in this order."""
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    publishers = []
    for text in texts:
        publishers.append(drivers.node.create_publisher(String, "/robot_description", latched))
        publishers[-1].publish(String(data=text))
    try:
        yield
    finally:
        for publisher in publishers:
            drivers.in_its_thread(drivers.node.destroy_publisher, publisher)


def test_the_hand_by_forward_kinematics(drivers: Drivers, checkpoint: Path, tmp_path: Path) -> None:
    drivers.set()
    changes: dict[str, Any] = {
        "joints": ["joint_0", "joint_1"],
        "description": {"topic": "/robot_description"},
        "observations.hand": {"source": "fk", "topic": "/joint_states"},
        # With both joints at 0 the tool is as the base is; the hand points down, in the axes of the base in training.
        "tool": {"frame": "tool0", "rpy": [math.pi, 0.0, math.pi]},
    }
    with descriptions(drivers, URDF):
        report = found(tmp_path, checkpoint, changes)
        assert problems(report.findings) == []
        assert next(row.what for row in report.inputs if row.name == "hand") == "JointState 2 joints"
        changes["joints"] = ["joint_0", "joint_2"]
        (line,) = problems(found(tmp_path, checkpoint, changes).findings)
        assert str(line).startswith("description: /robot_description: joint 'joint_2'")
        changes["joints"] = ["joint_0", "joint_1"]
    with descriptions(drivers, URDF.replace('lower="-3"', 'lower="0.5"', 1)):
        (line,) = problems(found(tmp_path, checkpoint, changes).findings)
        assert str(line) == "hand: /joint_states: joint 'joint_0' is at 0, 0.4 to 3.1 expected"


JOINTS_OUT: dict[str, Any] = {
    "driver": "jtc",
    "joints": ["joint_0", "joint_1"],
    "description": {"topic": "/robot_description"},
    "action": {"output": "joint_trajectory", "topic": "/jtc/joint_trajectory", "rate": 50},
}
"""The hand's pose is a driver's own."""
GRIPPER = '<robot name="gripper"><link name="palm"/></robot>'


@pytest.fixture
def controller(drivers: Drivers) -> Iterator[None]:
    """Takes trajectories."""
    drivers.set()
    taken = drivers.node.create_subscription(JointTrajectory, "/jtc/joint_trajectory", drivers.commands_append, 10)
    yield
    drivers.in_its_thread(drivers.node.destroy_subscription, taken)


@pytest.mark.parametrize(
    ("urdf", "changes", "expected"),
    [
        pytest.param(URDF, {}, [], id="good"),
        pytest.param(
            URDF,
            {"joints": ["joint_0", "joint_9"]},
            [
                "description: /robot_description: joint 'joint_9': the robot has joint_0, joint_1",
                "arm joints: /joint_states has no joint joint_9, it has joint_0, joint_1,",
            ],
            id="joint",
        ),
        pytest.param(
            URDF,
            {"joint_states": "/joint_statse"},
            ["arm joints: /joint_statse: nobody publishes it (there is /joint_states)"],
            id="topic",
        ),
        pytest.param(
            URDF.replace("joint_1", "left"),
            {"joints": ["joint_0", "left"]},
            ["arm joints: /joint_states: no message has all of joint_0, left, one driver for all of them expected"],
            id="in parts",
        ),
        pytest.param(URDF, {"tool.frame": "tool"}, ["description: /robot_description: link 'tool': "], id="tool"),
        pytest.param(
            "", {}, ["description: /robot_description: nobody publishes it: is the driver running"], id="no URDF"
        ),
    ],
)
def test_a_joint_output_needs_joints_and_a_description_that_fits(
    urdf: str,
    changes: dict[str, Any],
    expected: list[str],
    drivers: Drivers,
    controller: None,
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    with descriptions(drivers, *([urdf] if urdf else [])):
        report = found(tmp_path, checkpoint, {**JOINTS_OUT, **changes})
    lines = [str(finding) for finding in problems(report.findings)]
    assert len(lines) == len(expected), lines
    assert all(line.startswith(start) for line, start in zip(lines, expected, strict=True)), lines
    assert "arm joints" in [row.name for row in report.inputs]


def test_a_joint_output_needs_mujoco_and_an_arm_that_is_heard(
    drivers: Drivers, controller: None, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    drivers.set(silent="joints")
    file = tmp_path / "arm.urdf"
    file.write_text(URDF)
    lines = [
        str(finding)
        for finding in problems(
            found(tmp_path, checkpoint, {**JOINTS_OUT, "description": {"file": "arm.urdf"}}).findings
        )
    ]
    assert len(lines) == 2 and lines[0].startswith(f"description: {file}: ") and "mujoco" in lines[0], lines
    assert lines[1].startswith("arm joints: /joint_states has no joint joint_0, joint_1, it has left, right"), lines


@pytest.mark.parametrize("texts", [(GRIPPER, URDF), (URDF, GRIPPER)], ids=["last", "first"])
def test_of_two_descriptions_the_one_that_fits_counts(
    texts: tuple[str, str], drivers: Drivers, controller: None, checkpoint: Path, tmp_path: Path
) -> None:
    with descriptions(drivers, *texts):
        report = found(tmp_path, checkpoint, JOINTS_OUT)
    assert problems(report.findings) == []
    (line,) = [str(finding) for finding in report.findings if finding.level == "warning"]
    assert line.startswith("description: /robot_description: another one does not fit: joint 'joint_0'"), line


class TFMessage(String):
    """tf2_msgs is not on every machine: its transforms go as a text."""

    @classmethod
    def of(cls, *transforms: TransformStamped) -> String:
        return String(data=" ".join(serialize_message(one).hex() for one in transforms))


def read_transforms(raw: bytes, kind: Any) -> Any:
    if kind is not TFMessage:
        return deserialize_message(raw, kind)
    words = deserialize_message(raw, String).data.split()
    return SimpleNamespace(transforms=[deserialize_message(bytes.fromhex(word), TransformStamped) for word in words])


@pytest.fixture
def transforms(drivers: Drivers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """/tf_static has the tool's place in the wrist. Gives what publishes on /tf, by `teleop` or by `driver`."""
    kind = "std_msgs/msg/String"
    monkeypatch.setattr(robot_survey, "TF_KIND", kind)
    known = robot_survey.message_type
    monkeypatch.setattr(robot_survey, "message_type", lambda name: TFMessage if name == kind else known(name))
    monkeypatch.setattr(robot_survey, "deserialize_message", read_transforms)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    node = Node("teleop", context=drivers.context, use_global_arguments=False)
    static = node.create_publisher(String, "/tf_static", latched)
    moving = {owner.get_name(): owner.create_publisher(String, "/tf", 10) for owner in (node, drivers.node)}
    static.publish(TFMessage.of(messages.transform_to_msg((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0), 0, "wrist", "tool0")))
    yield lambda *those, by="teleop": moving[by].publish(TFMessage.of(*those))
    drivers.set()
    time.sleep(0.1)  # until the drivers' thread has done with them
    drivers.in_its_thread(drivers.node.destroy_publisher, moving["driver"])
    node.destroy_node()


TF_HAND: dict[str, Any] = {"observations.hand": {"source": "tf", "parent": "base", "child": "tool0"}}


def as_transform(msg: PoseStamped, child: str = "wrist") -> TransformStamped:
    stamp, position, quaternion = messages.pose_from_msg(msg)
    return messages.transform_to_msg(position, quaternion, stamp, msg.header.frame_id, child)


def test_the_hand_by_transforms_with_what_others_publish_on_tf(
    drivers: Drivers, transforms: Callable[..., None], checkpoint: Path, tmp_path: Path
) -> None:
    """Two broadcasters are right there, and a quaternion of another's that is none is not the hand's."""

    def publish(msg: PoseStamped) -> None:
        bad = as_transform(msg, "wheel")
        bad.transform.rotation = Quaternion(x=0.0, y=0.0, z=0.0, w=0.0)
        transforms(bad, by="driver")
        transforms(bad, as_transform(msg))

    drivers.set(also=publish)
    report = found(tmp_path, checkpoint, TF_HAND)
    assert [str(finding) for finding in report.findings] == []
    hand = next(row for row in report.inputs if row.name == "hand")
    # Half of the messages on /tf say nothing of the hand.
    assert hand.rate is not None and 15 < hand.rate < 60 and hand.age is not None and 0 <= hand.age < 0.5
    assert {one.node for one in hand.publishers} == {"/driver", "/teleop"}


def spoilt(msg: PoseStamped) -> list[TransformStamped]:
    bad = as_transform(msg)
    bad.transform.rotation.w = math.nan
    return [bad]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        pytest.param(
            lambda msg, count: [as_transform(msg, "wheel")],
            "'tool0' in 'base': the two are not connected",
            id="of others only",
        ),
        pytest.param(lambda msg, count: [], "'tool0' in 'base': no frame 'base'", id="empty"),
        pytest.param(
            lambda msg, count: [as_transform(msg) if count == 20 else as_transform(msg, "wheel")],
            "1 message, about 20 a second expected",
            id="once",
        ),
        pytest.param(lambda msg, count: spoilt(msg), "'wrist' in 'base': quaternion [", id="spoilt"),
    ],
)
def test_a_hand_that_tf_does_not_give_is_no_hand(
    sent: Callable[[PoseStamped, int], list[TransformStamped]],
    expected: str,
    drivers: Drivers,
    transforms: Callable[..., None],
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    heard = 0
    """Messages since somebody listens."""

    def publish(msg: PoseStamped) -> None:
        nonlocal heard
        heard += drivers.node.count_subscribers("/tf")
        transforms(*sent(msg, heard))

    drivers.set(also=publish)
    (line,) = problems(found(tmp_path, checkpoint, TF_HAND).findings)
    assert str(line).startswith("hand: /tf: ") and expected in str(line)


# Without drivers


def compared(folder: Path, changes: dict[str, Any] | None = None, **of_spec: Any) -> list[str]:
    read = robot_file.read(robot(folder, changes))
    return [f"{finding.level}: {finding}" for finding in compare(read, spec(**of_spec))]


def test_what_fits_is_not_talked_about(tmp_path: Path) -> None:
    assert compared(tmp_path) == []


OBJECT_INPUTS = (*fake_policy.LOW_DIM, *fake_policy.OBJECT)


@pytest.mark.parametrize(
    ("changes", "of_spec", "expected"),
    [
        (
            {},
            {"inputs": OBJECT_INPUTS, "typical": {}},
            "problem: the checkpoint was trained with the input object_pos, and observations has no 'object', a source",
        ),
        (
            {"observations.agentview_image": None, "observations.agent_view_image": {"topic": "/scene/image_raw"}},
            {},
            "problem: the checkpoint was trained with the input agentview_image, observations.agentview_image expected"
            " ('agent_view_image' is none of its inputs)",
        ),
        (
            {"observations.robot0_gripper_qpos": {"topic": "/joint_states", "joints": ["left"]}},
            {},
            "problem: observations.robot0_gripper_qpos.joints: 1 (left), 2 expected, as many as the checkpoint's input",
        ),
        (
            {"observations.agentview_image.crop": [0, 0, 80, 126]},
            {},
            "problem: observations.agentview_image.crop: 80 x 126, at least the checkpoint's 84 x 84 expected",
        ),
        ({"action.rate": 20}, {"rate": 30.0}, "problem: action.rate: 20 Hz, at least the policy's 30 Hz expected"),
        (
            {"base.rpy": [0.0, 0.0, 0.0]},
            {},
            "problem: limits.low [-0.8, -0.6, -0.1] to high [-0.35, 0.4, 0.25]: beside it in x, training's hand was in"
            " [0.35, -0.3, -0.1] to [0.8, 0.5, 0.2] of base",
        ),
        (
            {"limits.low": [-0.4, 0.0, -0.1]},
            {},
            "warning: limits.low [-0.4, 0, -0.1] to high [-0.35, 0.4, 0.25]: holds 4 % of where the hand was",
        ),
        ({"limits.linear": 0.1}, {}, "note: limits.linear: 0.1 m/s, the policy commands up to 0.27 m/s along an axis"),
        ({"gripper": None}, {}, "note: the file has no gripper"),
        (
            {},
            {"base_pose": (), "workspace_low": (0.4, -0.4, 0.0), "workspace_high": (0.8, 0.4, 0.2)},
            "warning: the checkpoint does not say where",
        ),
        ({"limits.linear": 0.6, "limits.angular": 4.0}, {"response": ()}, "warning: the checkpoint does not say how"),
        ({"observations.third_image": {"topic": "/x"}}, {}, "note: observations.third_image: not used"),
    ],
)
def test_file_and_checkpoint_are_compared(
    changes: dict[str, Any], of_spec: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    lines = compared(tmp_path, changes, **of_spec)
    assert sum(line.startswith(expected) for line in lines) == 1, lines
    assert sum(line.startswith("problem") for line in lines) == expected.startswith("problem"), lines


def test_a_box_is_where_the_base_is_put() -> None:
    """The corners of training's box, turned by half a turn and shifted by where its base stood."""
    robot = cast(
        robot_file.RobotFile,
        SimpleNamespace(
            base=robot_file.Placement("base", (0.0, 0.0, 0.0), (0.0, 0.0, math.pi)),
            tool=robot_file.Placement("tool0", (0.0, 0.0, 0.1), (0.0, 0.0, 0.0)),
        ),
    )
    frames = RobotFrames(robot, BASE_POSE)
    low, high = frames.box_to_base((0.0, 0.0, 1.0), (0.1, 0.2, 1.1))
    np.testing.assert_allclose(low, [-0.6, -0.3, 0.1], atol=1e-12)
    np.testing.assert_allclose(high, [-0.5, -0.1, 0.2], atol=1e-12)
    position, rotation = np.array([-0.55, -0.2, 0.15]), Rotation.from_rotvec([0.1, 0.2, 0.3])
    there = frames.to_policy(position, rotation.as_quat())
    np.testing.assert_allclose(there[0], [0.05, 0.1, 1.05], atol=1e-12)
    back = frames.to_base(*there)
    np.testing.assert_allclose(back[0], position, atol=1e-12)
    assert (Rotation.from_quat(back[1]) * rotation.inv()).magnitude() < 1e-12
    hand, turned = frames.hand(position, DOWN.as_quat())
    np.testing.assert_allclose(hand, [-0.55, -0.2, 0.05], atol=1e-12)
    np.testing.assert_allclose(frames.tool(hand, turned)[0], position, atol=1e-12)


@pytest.mark.parametrize(("fingers", "level"), [(0.001, "note"), (0.015, "note"), (0.03, "problem")])
def test_a_wrong_sign_is_told_of_an_open_gripper_and_of_others_it_is_said_that_it_cannot(
    fingers: float, level: str, tmp_path: Path
) -> None:
    name = "robot0_gripper_qpos"
    right = robot_file.read(robot(tmp_path))
    wrong = robot_file.read(robot(tmp_path, {f"observations.{name}.scale": [1.0, 1.0]}))
    positions = np.full(2, fingers)
    (finding,) = robot_check.check_numbers(wrong, spec(), name, positions)
    assert finding.level == level and "the sign of " in str(finding)
    assert [f.level for f in robot_check.check_numbers(right, spec(), name, positions)] == ["note"] * (level == "note")


def test_the_greatest_speed_is_that_of_the_modelled_arm() -> None:
    """The goal is 0.05 m ahead at each step's start; the arm is integrated until it goes steadily."""
    k, d, row, step, dt = 150.0, 1.0, 0.05, 0.05, 1e-4
    x = v = 0.0
    for _ in range(100):
        before, goal = x, x + row
        for _ in range(round(step / dt)):
            v += dt * (k * (goal - x) - 2 * d * math.sqrt(k) * v)
            x += dt * v
    assert robot_check.steady_speed(row, step, (k, d)) == pytest.approx((x - before) / step, rel=0.02)
    assert robot_check.steady_speed(row, step, ()) == pytest.approx(1.0)


def test_real_robot_refuses_before_a_process_starts(tmp_path: Path, checkpoint: Path) -> None:
    system = (
        dataclasses.replace(REAL_ROBOT, arguments=(*REAL_ROBOT.arguments, Argument("robot", "its YAML", "", path=True)))
        if "robot" not in {a.name for a in REAL_ROBOT.arguments}
        else REAL_ROBOT
    )

    def start(path: Path) -> None:
        given = {"checkpoint": str(checkpoint), "robot": str(path), "output_dir": str(tmp_path / "run")}
        startup.decide(system, given, ros_graph.ROOT, str)

    start(robot(tmp_path))
    fake_policy.save(checkpoint, spec(rate=30.0))
    with pytest.raises(startup.UsageError, match=r"action\.rate: 20 Hz, at least the policy's 30 Hz expected"):
        start(robot(tmp_path, {"action.rate": 20}))
    with pytest.raises(startup.UsageError, match=r"limits.linear: missing"):
        start(robot(tmp_path, {"limits.linear": None}))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--robot", "robbie"], "robot 'robbie': expected a YAML file, or one of franka_crisp"),
        (["--checkpoint", "none.pt"], "none.pt: no such checkpoint"),
        (["--guard", "none.pt"], "none.pt: no such checkpoint"),
        (["--seconds", "long"], "--seconds 'long': expected a number"),
        (["--seconds", "0"], "--seconds 0: expected 0.5 to 600"),
        (["--domain-id", "300"], "ROS_DOMAIN_ID '300': expected 0 to 232"),
        (["--namespace", "a-b"], "--namespace 'a-b': expected names"),
        (["--json", "."], ": is a folder, a file name is expected"),
        (["--enable"], "unrecognized arguments: --enable"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], expected: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = {"--robot": str(robot(tmp_path)), "--checkpoint": str(checkpoint)}
    usual.update(dict([arguments]) if len(arguments) == 2 else {})
    words = [word for pair in usual.items() for word in pair] + (arguments if len(arguments) == 1 else [])
    assert bringup.main(["check", *words]) == 2
    output = capsys.readouterr()
    assert output.out == "" and len(output.err.splitlines()) == 1 and expected in output.err


def test_a_missing_limit_is_one_line(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = robot(tmp_path, {"limits.angular": None})
    assert bringup.main(["check", "--robot", str(path), "--checkpoint", str(checkpoint)]) == 2
    assert capsys.readouterr().err == f"{path}: limits.angular: missing, a number of rad/s expected\n"


def test_help_names_check(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bringup.main(["--help"])
    assert "    check  " in capsys.readouterr().out


# What is typical of training


def test_what_is_typical_goes_through_json_and_may_be_missing() -> None:
    made = spec()
    assert CheckpointSpec.from_json(made.to_json()) == made
    old = json.loads(made.to_json())
    del old["typical"]
    assert CheckpointSpec.from_json(json.dumps(old)).typical == {}


@pytest.mark.parametrize(
    "value",
    [
        {"agentview_image": [[[0, 0, 0]]]},
        {"agentview_image": [[[0, 0, 256]] * 8] * 8},
        {"agentview_image": [[[0, 0, 0.5]] * 8] * 8},
        {"robot0_eef_quat": {"mean": [1.0, 0.0, 0.0, 1.0], "angle": 0.1}},
        {"robot0_eef_quat": {"mean": [1.0, 0.0, 0.0, 0.0]}},
        {"robot0_eef_quat": [1.0, 0.0, 0.0, 0.0]},
        {"object_quat": {"mean": [1.0, 0.0, 0.0, 0.0], "angle": 0.1}},
    ],
)
def test_what_cannot_be_typical_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=f"^spec: typical {next(iter(value))}[,:] .*expected$"):
        spec(typical=value)


def test_typical_is_the_mean_picture_and_the_mean_turn() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2500, 16, 16, 3)).astype(np.uint8)
    angles = np.array([-0.1, 0.3, 0.1])
    quaternions = (Rotation.from_rotvec(angles[:, None] * [0, 0, 1]) * DOWN).as_quat() * [[1], [-1], [1]]
    found = typical(
        ("agentview_image", "robot0_eef_pos", "robot0_eef_quat"),
        {"agentview_image": pictures, "robot0_eef_quat": quaternions},
    )
    mean = pictures.astype(float).mean(axis=0).reshape(8, 2, 8, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(found["agentview_image"], mean, atol=1.01)
    turned = Rotation.from_quat(found["robot0_eef_quat"]["mean"])
    assert (turned * DOWN.inv()).as_rotvec() == pytest.approx([0, 0, 0.1])
    assert found["robot0_eef_quat"]["angle"] == pytest.approx(0.2)
    assert set(found) == {"agentview_image", "robot0_eef_quat"}
    spec(typical=found)


def test_transforms_are_chained_up_and_down() -> None:
    tf = Transforms()
    tf.put(5, "world", "base", [1, 0, 0], Rotation.from_euler("z", math.pi / 2).as_quat())
    tf.put(5, "base", "arm", [0, 0, 1], [0, 0, 0, 1])
    tf.put(5, "arm", "tool", [0, 2, 0], [0, 0, 0, 1])
    tf.put(5, "world", "camera", [0, 0, 3], [0, 0, 0, 1])
    np.testing.assert_allclose(tf.pose("base", "tool")[1], [0, 2, 1])
    np.testing.assert_allclose(tf.pose("world", "tool")[1], [-1, 0, 1], atol=1e-12)
    np.testing.assert_allclose(tf.pose("tool", "camera")[1], tf.pose("base", "camera")[1] - [0, 2, 1], atol=1e-12)
    for parent, child, expected in (
        ("base", "flange", "'flange' in 'base': no frame 'flange'"),
        ("odom", "tool", "no frame 'odom'"),
    ):
        with pytest.raises(ValueError, match=expected):
            tf.pose(parent, child)
    tf.put(5, "map", "odom", [0, 0, 0], [0, 0, 0, 1])
    with pytest.raises(ValueError, match="the two are not connected"):
        tf.pose("odom", "tool")
    tf.put(5, "camera", "world", [0, 0, 0], [0, 0, 0, 1])  # a circle, which ends as well
    with pytest.raises(ValueError, match="not connected"):
        tf.pose("odom", "tool")


def test_with_simulated_time_rates_are_those_of_the_clock(tmp_path: Path) -> None:
    """However long that takes; before there is a time nothing counts."""
    now = 0
    with ros_graph.graph() as graph:
        node = graph.add(RunnableNode("listener"))
        survey = RobotSurvey(node, robot_file.read(robot(tmp_path)), lambda: now)
        stream = survey.streams["hand"]
        raw = serialize_message(messages.pose_to_msg(np.zeros(3), (0.0, 0.0, 0.0, 1.0), 0, "base"))
        for now in (0, 0, *range(10**9, 2 * 10**9 + 1, 50_000_000)):
            survey._take([stream], PoseStamped, True, raw, {"publication_sequence_number": 1 + now // 50_000_000})
    assert stream.count == 21 and stream.rate == pytest.approx(20.0)
