"""The YAML of a robot: the shipped ones are complete, a short one will do, and each mistake is one line."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from rclpy.validate_topic_name import validate_topic_name

from diffusion_ros import robot_file
from diffusion_ros.robot_file import RobotFileError, Teleop

KINOVA = """\
# A Kinova Gen3 in twist mode, its own gripper, one USB camera at the scene.
driver: kortex
base: {frame: base_link}
tool: {frame: end_effector_link, xyz: [0.0, 0.0, 0.12]}
joints: [joint_1, joint_2, joint_3, joint_4, joint_5, joint_6, joint_7]
description: {topic: /robot_description}
observations:
  hand: {source: fk, topic: /joint_states}
  robot0_gripper_qpos:
    topic: /joint_states
    joints: [finger_joint, finger_joint]
    scale: [-0.05, 0.05]
    offset: [0.04, -0.04]
  agentview_image: {camera: usb_cam}
action: {output: twist, type: Twist, topic: /twist_controller/commands, rate: 40, axes: tool}
gripper: {output: gripper_command, name: /robotiq_gripper_controller/gripper_cmd, open: 0.0, closed: 0.8}
limits:
  linear: 0.2
  angular: 0.6
  linear_acceleration: 2.0
  angular_acceleration: 6.0
  low: [0.3, -0.3, 0.02]
  high: [0.7, 0.3, 0.5]
"""

GOOD: dict[str, Any] = {
    "driver": "servo",
    "base": {"frame": "base"},
    "tool": {"frame": "tool0"},
    "joints": ["a", "b"],
    "description": {"topic": "/robot_description"},
    "observations": {
        "hand": {"source": "fk", "topic": "/joint_states"},
        "robot0_gripper_qpos": {"topic": "/joint_states", "joints": ["left", "right"]},
        "agentview_image": {"topic": "/scene/image_raw"},
        "robot0_eye_in_hand_image": {"camera": "usb_cam", "topic": "/wrist/image_raw"},
    },
    "action": {"output": "twist", "topic": "/servo_node/delta_twist_cmds", "rate": 50},
    "gripper": {"output": "gripper_command", "name": "/gripper", "open": 0.04, "closed": 0.0},
    "limits": {
        "linear": 0.3,
        "angular": 1.0,
        "linear_acceleration": 2.0,
        "angular_acceleration": 6.0,
        "low": [0.3, -0.3, 0.0],
        "high": [0.7, 0.3, 0.5],
    },
    "ready": [{"topic": "/running", "type": "std_msgs/Bool", "value": True}],
    "buttons": {"topic": "/joy", "enable": 7, "stop": 1},
}
GONE = object()


def changed(key: str, value: Any) -> dict[str, Any]:
    """GOOD with another value at a key; GONE takes it away."""
    content = copy.deepcopy(GOOD)
    *way, last = key.split(".")
    section: Any = content
    for name in way:
        section = section[int(name) if isinstance(section, list) else name]
    if value is GONE:
        del section[last]
    elif isinstance(section, list):
        section[int(last)] = value
    else:
        section[last] = value
    return content


def written(folder: Path, content: Any) -> Path:
    path = folder / "mine.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def refusal(path: Path) -> str:
    """The one line, without the file's name at its front."""
    with pytest.raises(RobotFileError) as error:
        robot_file.read(path)
    line = str(error.value)
    assert "\n" not in line and line.startswith(f"{path}: ")
    return line.removeprefix(f"{path}: ")


@pytest.mark.parametrize("name", robot_file.shipped())
def test_shipped_robots_are_complete(name: str) -> None:
    robot = robot_file.read(robot_file.find(name))
    assert robot.path.stem == name
    assert set(robot.pictures) == {"agentview", "robot0_eye_in_hand"}
    assert robot.gripper is not None
    assert robot.action.output in robot_file.OUTPUTS


def test_each_output_has_a_shipped_robot() -> None:
    robots = [robot_file.read(path) for path in robot_file.shipped().values()]
    assert {robot.action.output for robot in robots} == set(robot_file.OUTPUTS)


def test_a_robot_that_does_not_ship_takes_less_than_forty_lines(tmp_path: Path) -> None:
    assert len(KINOVA.splitlines()) < 40
    robot = robot_file.read(written(tmp_path, KINOVA))
    assert (robot.driver, robot.action.axes, robot.action.type) == ("kortex", "tool", "Twist")
    camera = robot.pictures["agentview"]
    # What cameras/usb_cam.yaml says of them.
    assert (camera.topic, camera.crop, camera.latency, camera.reliable) == (
        "/image_raw",
        (80, 0, 480, 480),
        0.05,
        False,
    )
    assert robot.ready == () and robot.buttons is None
    assert robot.numbers["robot0_gripper_qpos"].offset == (0.04, -0.04)


def test_a_name_is_a_shipped_robot_or_a_file(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    assert robot_file.find(str(path)) == path
    assert robot_file.find("ur_servo").name == "ur_servo.yaml"
    with pytest.raises(
        RobotFileError, match=r"^robot 'ur_5': expected a YAML file, or one of franka_crisp, .*xarm_jtc$"
    ):
        robot_file.find("ur_5")


def test_what_keys_mean_where_they_are_not_given(tmp_path: Path) -> None:
    robot = robot_file.read(written(tmp_path, GOOD))
    assert robot.base.xyz == robot.tool.rpy == (0.0, 0.0, 0.0)
    assert robot.numbers["robot0_gripper_qpos"].scale == (1.0, 1.0)
    assert robot.action.reference == "commanded" and robot.action.leash == (0.05, 0.3) and robot.action.gain == 2.0
    assert robot.ready[0].value is True and not robot.ready[0].latched
    assert robot.buttons is not None and robot.buttons.hold is None
    assert robot.teleop is None


def test_a_persons_device_has_the_axes_and_buttons_that_are_given(tmp_path: Path) -> None:
    section = {"topic": "/pad", "dead_man": 4, "axes": {"z": [3, -0.5]}, "close": 0, "linear": 0.2}
    teleop = robot_file.read(written(tmp_path, {**GOOD, "teleop": section})).teleop
    assert teleop == Teleop(
        topic="/pad", dead_man=4, axes={"z": (3, -0.5)}, gripper=None, close=0, slow=None, linear=0.2
    ), "the usual button to go slowly is the dead-man here"
    twist = robot_file.read(written(tmp_path, {**GOOD, "teleop": {"type": "twist"}})).teleop
    assert twist is not None and (twist.topic, twist.linear) == ("/cmd_vel", 0.1)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "empty, keys expected"),
        ("- a", "['a'], keys and values expected"),
        ("driver: [", "is no YAML that can be read"),
        ("driver: servo\ndriver: jtc", "'driver' stands there twice"),
    ],
)
def test_a_file_that_is_no_robot_is_refused(content: str, expected: str, tmp_path: Path) -> None:
    assert expected in refusal(written(tmp_path, content))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.yaml") == "No such file or directory"


TF = {"source": "tf", "parent": "map", "child": "tool0"}


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        # Keys
        ("limit", {"linear": 0.3}, "limit: unknown key, 'limits' expected"),
        ("base.frame_id", "base", "base.frame_id: unknown key, 'frame' expected"),
        ("observations.hand.latencey", 0.1, "observations.hand.latencey: unknown key, 'latency' expected"),
        ("action.gain", "2", "action.gain: '2', a finite number of 1/s expected"),
        ("driver", GONE, "driver: missing, one of crisp, fci, servo, jtc, kortex, forward expected"),
        ("driver", "moveit", "driver: 'moveit', one of crisp, fci"),
        ("base", GONE, "base: missing, keys below it expected"),
        ("base", "base", "base: 'base', keys and values expected"),
        ("tool", {}, "tool: empty, keys expected"),
        # Placements
        ("base.frame", GONE, "base: empty, keys expected"),
        ("tool", {"xyz": [0, 0, 0]}, "tool.frame: missing, a string expected"),
        ("tool.frame", 3, "tool.frame: 3, a string expected"),
        ("tool.xyz", [0, 0], "tool.xyz: [0, 0], 3 numbers of m expected"),
        ("tool.xyz", [0, 0, 160], "tool.xyz: 160, at least -10 and at most 10 m expected"),
        ("tool.rpy", [0, 0, 180], "tool.rpy: 180, at least -6.28319 and at most 6.28319 rad expected"),
        ("tool.rpy", [0, 0, float("nan")], "tool.rpy: nan, a finite number of rad expected"),
        # Joints and description
        ("joints", GONE, "joints: missing, the arm's joints expected as observations.hand needs them"),
        ("joints", "a, b", "joints: 'a, b', a list of names expected"),
        ("joints", ["a", "a"], "joints: a, a: each once expected"),
        ("description", GONE, "description: missing, a topic or a file with the URDF expected as observations.hand"),
        ("description", {"topic": "/d", "file": "x"}, "description: one of topic and file expected"),
        ("description", {"file": "none.urdf"}, "none.urdf: no such file"),
        ("joint_states", "/joint_states", "joint_states: nothing reads it, a joint output and a hand whose source is"),
        # Observations
        ("observations.hand", GONE, "observations.hand: missing: where the hand is has to be known"),
        ("observations.hand.source", "joints", "observations.hand.source: 'joints', one of pose, tf, fk expected"),
        ("observations.hand.topic", GONE, "observations.hand.topic: missing, a string expected"),
        ("observations.hand.topic", "/a b", "observations.hand.topic: '/a b', the name of a topic expected"),
        ("observations.hand.topic", "/a//b", "observations.hand.topic: '/a//b', the name of a topic expected"),
        *[
            ("observations.hand.topic", name, f"observations.hand.topic: {name!r}, the name of a topic expected")
            for name in ("/2f85/pose", "2cam", "/a/2b", "a~b", "~a", "/~/a", "/a/")
        ],
        ("observations.hand.topic", "a" * 300, "observations.hand.topic: 300 characters, at most 200 expected"),
        ("observations.hand", TF, "observations.hand.parent: 'map', the base frame 'base' expected"),
        (
            "observations.hand",
            TF | {"parent": "base", "child": "flange"},
            "hand.child: 'flange', the tool's frame 'tool0'",
        ),
        (
            "observations.hand",
            {"source": "tf", "parent": "base"},
            "observations.hand.child: missing, a string expected",
        ),
        ("observations.hand.latency", 50, "observations.hand.latency: 50, at least -10 and at most 10 s expected"),
        ("observations.hand.qos", "sensor", "observations.hand.qos: 'sensor', one of best_effort, reliable expected"),
        ("observations.robot0_gripper_qpos.joints", GONE, "qpos.joints: missing, a list of names expected"),
        ("observations.robot0_gripper_qpos.scale", [1.0], "qpos.scale: [1.0], 2 numbers expected"),
        ("observations.robot0_gripper_qpos.scale", 0, "qpos.scale: 0, 2 numbers expected"),
        ("observations.robot0_gripper_qpos.scale", [0.0, 0.0], "qpos.scale: [0.0, 0.0], other numbers than 0 expected"),
        ("observations.robot0_gripper_qpos.offset", "0", "qpos.offset: '0', 2 numbers expected"),
        ("observations.robot0_gripper_qpos.source", "topic", "qpos.source: 'topic', one of joints expected"),
        ("observations.agentview_image.camera", "zed", "agentview_image.camera: 'zed', one of realsense, usb_cam"),
        (
            "observations.agentview_image.crop",
            [0, 0, 480],
            "agentview_image.crop: [0, 0, 480], 4 numbers of px expected",
        ),
        ("observations.agentview_image.crop", [0, 0, 0, 9], "crop: [0.0, 0.0, 0.0, 9.0], whole pixels x, y, width"),
        ("observations.agentview_image.crop", [0.5, 0, 9, 9], "crop: [0.5, 0.0, 9.0, 9.0], whole pixels"),
        ("observations.agentview_image.topic", "/wrist/image_raw", "one camera each expected"),
        # Action
        ("action.output", "pose_target", "action.output: 'pose_target', one of pose, twist"),
        ("action.output", "joint_positions", "which the driver servo does not take: pose or twist expected"),
        ("action.type", "Twist", "action.type: Twist, TwistStamped expected: Servo drops what has no stamp"),
        ("action.type", "Pose", "action.type: 'Pose', one of TwistStamped, Twist expected"),
        ("action.rate", GONE, "action.rate: missing, a number of Hz expected"),
        ("action.rate", 10, "action.rate: 10, at least 20 and at most 100 Hz expected"),
        ("action.rate", True, "action.rate: True, a finite number of Hz expected"),
        ("action.axes", "hand", "action.axes: 'hand', one of base, tool expected"),
        ("action.reference", "goal", "action.reference: 'goal', one of commanded, measured expected"),
        ("action.leash", [50, 0.3], "action.leash: 50, at least 0.005 and at most 1.5 expected"),
        ("action.latency", -0.1, "action.latency: -0.1, at least 0 and at most 0.5 s expected"),
        (
            "action",
            GOOD["action"] | {"gain": 4.0, "latency": 0.3},
            "action.gain: 4 1/s, with latency 0.3 s it makes 1.2, at most 1 expected",
        ),
        # Gripper
        ("gripper.output", "action", "gripper.output: 'action', one of gripper_command"),
        ("gripper.output", "joint_trajectory", "gripper.joints: missing, a list of names expected"),
        ("gripper.joints", ["a"], "gripper.joints: unknown key"),
        ("gripper.name", GONE, "gripper.name: missing"),
        ("gripper.closed", 0.04, "gripper.closed: 0.04, another value than open's expected"),
        ("gripper.open", 85, "gripper.open: 85, at least -10 and at most 10 expected"),
        ("gripper.name", "/2f85/gripper_cmd", "gripper.name: '/2f85/gripper_cmd', the name of a topic expected"),
        *[
            ("gripper", GOOD["gripper"] | {"output": "positions", name: 5.0}, f"gripper.{name}: not known to positions")
            for name in ("effort", "timeout")
        ],
        (
            "gripper",
            GOOD["gripper"] | {"output": "joint_trajectory", "joints": ["a"], "effort": 5.0},
            "gripper.effort: not known to joint_trajectory, only to gripper_command and parallel_gripper_command",
        ),
        ("gripper.effort", -1, "gripper.effort: -1, at least 0 and at most 1000 N expected"),
        # Limits: none has a default
        *[
            (f"limits.{name}", GONE, f"limits.{name}: missing, ")
            for name in ("linear", "angular", "linear_acceleration", "angular_acceleration", "low", "high")
        ],
        ("limits", GONE, "limits: missing, keys below it expected"),
        ("limits.linear", 300, "limits.linear: 300, more than 0 and at most 2 m/s expected"),
        ("limits.linear", 10**400, "limits.linear: too large, a finite number of m/s expected"),
        ("limits.linear", 0, "limits.linear: 0, more than 0 and at most 2 m/s expected"),
        ("limits.angular", "fast", "limits.angular: 'fast', a finite number of rad/s expected"),
        ("limits.linear_acceleration", 14, "limits.linear_acceleration: 14, more than 0 and at most 13 m/s^2 expected"),
        ("limits.low", [300, -300, 0], "limits.low: 300, at least -10 and at most 10 m expected"),
        ("limits.low", [0.3, 0.4, 0.0], "limits.low: [0.3, 0.4, 0.0], below high [0.7, 0.3, 0.5] in every component"),
        # Readiness
        ("ready", {"topic": "/running"}, "ready: {'topic': '/running'}, a list expected"),
        ("ready", None, "ready: empty, a list expected"),
        ("ready.0", GOOD["ready"][0] | {"latched": True, "max_age": 1.0}, "ready[0].max_age: 1 s, none expected with"),
        ("ready.0.type", "std_msgs/String", "ready[0].type: 'std_msgs/String', one of std_msgs/Bool"),
        ("ready.0.value", GONE, "ready[0].value: missing, true or false expected"),
        ("ready.0.value", "yes", "ready[0].value: 'yes', true or false expected"),
        ("ready.0.max_age", 100, "ready[0].max_age: 100, at least 0 and at most 60 s expected"),
        ("ready.0", {"topic": "/s", "type": "std_msgs/Float64"}, "ready[0].low: missing, low or high expected"),
        ("ready.0", {"topic": "/s", "type": "std_msgs/Int32"}, "ready[0].values: missing, a list of numbers expected"),
        ("ready.0", {"topic": "/s", "type": "std_msgs/Int32", "values": [0.5]}, "[0.5], integers expected"),
        # Buttons
        ("buttons", {"topic": "/joy"}, "buttons.enable: enable, stop and hold: one of them at least"),
        ("buttons.stop", 7, "buttons.enable: enable, stop and hold: one of them at least, and each another button"),
        ("buttons.stop", 1.5, "buttons.stop: 1.5, the number of a button expected"),
        ("buttons.stop", 64, "buttons.stop: 64, at least 0 and at most 63 expected"),
        # Teleoperation
        ("teleop", {"type": "keyboard"}, "teleop.type: 'keyboard', one of joy, twist, twist_stamped expected"),
        ("teleop", {"dead_man": 0.5}, "teleop.dead_man: 0.5, the number of a button expected"),
        ("teleop", {"dead_man": 0}, "teleop.dead_man: buttons 0, 0, 4: another button each expected"),
        ("teleop", {"open": 3, "close": 3}, "teleop.dead_man: buttons 5, 3, 3, 4: another button each"),
        (
            "teleop",
            {"dead_man": 1},
            "teleop: button 1 is buttons.stop and teleop.dead_man: another one expected for each",
        ),
        ("teleop", {"gripper": 7}, "teleop: button 7 is buttons.enable and teleop.gripper: another one expected"),
        ("teleop", {"axes": {"x": [1, 0.0]}}, "teleop.axes.x: [1.0, 0.0], the number of an axis and a factor"),
        ("teleop", {"axes": {"x": [-1, 1.0]}}, "teleop.axes.x: [-1.0, 1.0], the number of an axis and a factor"),
        ("teleop", {"axes": {"yaw": [1, 1.0]}}, "teleop.axes.yaw: unknown key"),
        ("teleop", {"linear": 0}, "teleop.linear: 0, more than 0 and at most 2 m/s expected"),
        ("teleop", {"type": "twist", "dead_man": 3}, "teleop.dead_man: unknown key"),
    ],
)
def test_a_mistake_is_one_line_with_the_key_the_value_and_the_rule(
    key: str, value: Any, expected: str, tmp_path: Path
) -> None:
    line = refusal(written(tmp_path, changed(key, value)))
    assert expected in line
    assert key.split(".")[0].rstrip("s") in line


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"teleop": {}, "record": {"start": 5}}, "teleop: button 5 is record.start and teleop.dead_man: another one"),
        ({"teleop": {}, "record": {"start": 8, "discard": 4}}, "teleop: button 4 is record.discard and teleop.slow"),
        ({"buttons": {"topic": "/joy", "enable": 0}, "teleop": {}}, "teleop: button 0 is buttons.enable and teleop.gr"),
        ({"buttons": {"topic": "/joy", "hold": 0}, "teleop": {}}, "teleop: button 0 is buttons.hold and teleop.grip"),
        ({"buttons": {"topic": "/joy", "hold": 5}, "teleop": {}}, ""),
        ({"teleop": {"topic": "/pad"}, "record": {"start": 5}}, ""),
        ({"teleop": {"type": "twist"}, "record": {"start": 5}}, ""),
        ({"record": {"start": 5}}, ""),
    ],
)
def test_a_button_means_one_thing(sections: dict[str, Any], expected: str, tmp_path: Path) -> None:
    content = {**changed("limits.linear", 0.3), **sections}
    if not content.get("teleop", True):
        content["teleop"] = {"dead_man": 5}
    path = written(tmp_path, content)
    if expected:
        assert refusal(path).startswith(expected)
    else:
        robot_file.read(path)


def test_names_that_are_taken_are_names_to_ros(tmp_path: Path) -> None:
    for name in ("/a", "a", "a_2/b2", "_a", "~/a/b"):
        robot = robot_file.read(written(tmp_path, changed("observations.hand.topic", name)))
        assert robot.poses["hand"].topic == name
        validate_topic_name(name)


def test_kortex_takes_twists_without_a_stamp_in_the_tools_axes(tmp_path: Path) -> None:
    short = KINOVA.replace(" type: Twist,", "").replace(", axes: tool", "")
    action = robot_file.read(written(tmp_path, short)).action
    assert (action.type, action.axes) == ("Twist", "tool")
    for key, value, right in (("type", "TwistStamped", "Twist"), ("axes", "base", "tool")):
        line = refusal(written(tmp_path, short.replace("rate: 40", f"rate: 40, {key}: {value}")))
        assert line == f"action.{key}: {value}, {right} expected: the driver kortex takes nothing else"


def test_joint_states_are_for_joint_outputs_whose_hand_is_told_otherwise(tmp_path: Path) -> None:
    content = changed("action", {"output": "joint_positions", "topic": "/commands", "rate": 100})
    content |= {"driver": "forward", "joint_states": "/arm/joint_states"}
    assert refusal(written(tmp_path, content)).startswith("joint_states: nothing reads it")
    content["observations"]["hand"] = {"source": "pose", "topic": "/pose"}
    assert robot_file.read(written(tmp_path, content)).joint_states == "/arm/joint_states"


def test_a_misspelt_key_is_named_with_the_one_that_is_missing(tmp_path: Path) -> None:
    content = changed("limits.linear", GONE)
    content["limits"]["liner"] = 0.3
    line = refusal(written(tmp_path, content))
    assert line == "limits.linear: missing ('liner' is not known), a number of m/s expected"


def test_cameras_of_ones_own_lie_beside_the_robot(tmp_path: Path) -> None:
    (tmp_path / "cameras").mkdir()
    (tmp_path / "cameras" / "zed.yaml").write_text("topic: /zed/image_raw\ncrop: [0, 0, 376, 376]\n")
    content = changed("observations.agentview_image", {"camera": "zed", "latency": 0.03})
    camera = robot_file.read(written(tmp_path, content)).pictures["agentview"]
    assert (camera.topic, camera.crop, camera.latency) == ("/zed/image_raw", (0, 0, 376, 376), 0.03)
    (tmp_path / "cameras" / "zed.yaml").write_text("tpic: /zed/image_raw\n")
    assert refusal(written(tmp_path, content)) == (
        "observations.agentview_image.topic: missing ('tpic' is not known), a string expected"
    )
