"""The rehearsal node on a real bus, with a robot's other half of a few lines: is it what each file says?"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ros_graph
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, Twist, TwistStamped
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_msgs.msg import Bool, Float64, Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from diffusion_ros import bringup, robot_file
from diffusion_ros.nodes.rehearsal_node import RehearsalNode
from diffusion_ros.robot import GRIPPER_QPOS
from diffusion_ros.robot_file import HAND, RobotFile
from diffusion_ros.ros import gripper_actions, messages, sole_simulator, topics
from diffusion_ros.ros.gripper_actions import GripperActions, GripperState
from diffusion_ros.simulators import driven_arm
from diffusion_ros.simulators.arm import Simulation

Array = NDArray[np.float64]
SEED = 100_007
STEP = np.array((0.0, 0.03, 0.02))
"""Where the arm is told to go, in the driver's base frame [m]."""
SECONDS = 0.4
ROBOTS = sorted(robot_file.shipped())
QUICK = ("franka_crisp", "kortex_twist", "ur_jtc")
"""A pose, a twist in the tool's axes and a trajectory; hands by a pose and by joints. The others are slow tests."""


class Client(Node):
    """Hears what a robot's file names, with the least that every publisher fits, and commands by it."""

    def __init__(self, robot: RobotFile, pictures: bool = True) -> None:
        super().__init__("client")
        self.robot = robot
        self.heard: dict[str, list[Any]] = {}
        self.keep(String, topics.EPISODE, topics.EPISODE_QOS)
        self.keep(DiagnosticArray, topics.DIAGNOSTICS, topics.DIAGNOSTICS_QOS)
        hand = robot.poses[HAND]
        if hand.source == "pose":
            self.keep(PoseStamped, hand.topic)
        for topic in {hand.topic for _ in [0] if hand.source == "fk"} | {n.topic for n in robot.numbers.values()}:
            self.keep(JointState, topic)
        for picture in robot.pictures.values() if pictures else ():
            self.keep(CompressedImage if picture.compressed else Image, picture.topic)
        if robot.description is not None:
            self.keep(String, robot.description.topic, topics.DESCRIPTION_QOS)
        kinds = {"PoseStamped": PoseStamped, "TwistStamped": TwistStamped, "Twist": Twist}
        kinds |= {"JointTrajectory": JointTrajectory, "Float64MultiArray": Float64MultiArray}
        self.command = self.create_publisher(kinds[robot.action.type], robot.action.topic, topics.COMMAND_QOS)
        assert robot.gripper is not None
        name = robot.gripper.name if robot.gripper.output == "positions" else f"{robot.gripper.name}/commands"
        self.gripper = self.create_publisher(Float64MultiArray, name, topics.COMMAND_QOS)

    def keep(self, kind: type, topic: str, qos: Any = topics.BEST_EFFORT_QOS) -> list[Any]:
        kept = self.heard.setdefault(topic, [])
        self.create_subscription(kind, topic, kept.append, qos)
        return kept

    def episodes(self) -> list[dict[str, Any]]:
        return [messages.episode_from_msg(msg) for msg in self.heard[topics.EPISODE]]

    def results(self) -> list[dict[str, Any]]:
        return [news["result"] for news in self.episodes() if news["event"] == "end"]

    def joints(self, names: tuple[str, ...]) -> Array | None:
        """The newest positions of joints, whoever publishes them."""
        for topic, kept in self.heard.items():
            for msg in reversed(kept):
                if isinstance(msg, JointState) and set(names) <= set(msg.name):
                    assert topic
                    return messages.joint_state_from_msg(msg, names)[1]
        return None

    def hand(self) -> tuple[Array, Array] | None:
        """The tool in the base frame as the drivers say it: their pose, or their joints in their description."""
        source = self.robot.poses[HAND]
        if source.source == "pose":
            kept = self.heard[source.topic]
            return messages.pose_from_msg(kept[-1])[1:] if kept else None
        joints = self.joints(self.robot.joints)
        assert self.robot.description is not None
        texts = self.heard[self.robot.description.topic]
        return forward(texts[0].data, self.robot, joints) if texts and joints is not None else None


@functools.cache
def description(text: str) -> Any:
    import mujoco  # once the simulator has chosen how to draw

    # MuJoCo joins fixed links into one unless told otherwise.
    return mujoco.MjModel.from_xml_string(
        text.replace("</robot>", '<mujoco><compiler fusestatic="false"/></mujoco></robot>')
    )


def forward(text: str, robot: RobotFile, joints: Array) -> tuple[Array, Array]:
    import mujoco

    model = description(text)
    data = mujoco.MjData(model)
    for name, position in zip(robot.joints, joints, strict=True):
        data.joint(name).qpos[0] = position
    mujoco.mj_kinematics(model, data)
    tool = data.body(robot.tool.frame)
    return tool.xpos.copy(), tool.xquat[[1, 2, 3, 0]].copy()


@pytest.fixture
def graph() -> Iterator[ros_graph.Graph]:
    with ros_graph.graph() as made:
        yield made


@functools.cache
def can() -> Simulation:
    """Making one takes seconds, and an arm sets all of it that it changes."""
    return Simulation("can")


@pytest.fixture(autouse=True)
def one_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driven_arm, "Simulation", lambda task, *cameras: can())
    monkeypatch.setattr(Simulation, "close", lambda simulation: None)
    monkeypatch.setattr(sole_simulator, "_DISCOVERY_SECONDS", 0.3)  # nobody else is in this domain


def rehearsal(graph: ros_graph.Graph, robot: str | Path, **parameters: Any) -> RehearsalNode:
    chosen = {"robot": str(robot), "seed": SEED, "episodes": 1, "max_steps": 400, "speed": 0.9, "scene": False}
    # A kilohertz of poses and 30 pictures a second are more than a busy core takes in such a time.
    rates = {"pose_rate": 100.0, "picture_rate": 5.0}
    given = [Parameter(name, value=value) for name, value in {**chosen, **rates, **parameters}.items()]
    node: RehearsalNode = graph.add(RehearsalNode(given))
    return node


def pair(
    graph: ros_graph.Graph, robot: str | Path, pictures: bool = False, **parameters: Any
) -> tuple[RehearsalNode, Client]:
    """A rehearsal and a client that know each other and where the hand is."""
    node = rehearsal(graph, robot, **parameters)
    client: Client = graph.add(Client(node.robot, pictures))
    graph.spin_until(lambda: client.hand() is not None and client.command.get_subscription_count())
    graph.spin_until(client.gripper.get_subscription_count)
    return node, client


def for_seconds(graph: ros_graph.Graph, node: RehearsalNode, seconds: float, send: Callable[[float], None]) -> None:
    """Sends at the file's rate, told the seconds since it began; in simulated time."""
    began, sent = node.now_ns(), 0

    def go() -> bool:
        nonlocal sent
        now = (node.now_ns() - began) * 1e-9
        if now * node.robot.action.rate >= sent:
            sent += 1
            send(now)
        return now >= seconds

    graph.spin_until(go, 60.0)


def joint_goal(node: RehearsalNode, step: Array) -> tuple[Array, Array]:
    """Joint positions now, and those that move the tool by a step (3) m in the base frame."""
    arm = node.arm
    start = at = arm.joint_positions()
    goal = arm.pose_of(at)
    for _ in range(8):
        position, quaternion = arm.pose_of(at)
        turn = (Rotation.from_quat(goal[1]) * Rotation.from_quat(quaternion).inv()).as_rotvec()
        at = at + np.linalg.pinv(arm.jacobian_of(at)) @ np.concatenate((goal[0] + step - position, turn))
    return start, at


def commander(node: RehearsalNode, client: Client, hand: tuple[Array, Array]) -> Callable[[float], None]:
    """Commands that take the hand by STEP within SECONDS, as this robot takes them."""
    robot, action = node.robot, node.robot.action
    start, goal = joint_goal(node, STEP)

    def send(now: float) -> None:
        share = min(1.0, (now + 1.0 / action.rate) / SECONDS)
        if action.output == "pose":
            msg: Any = messages.pose_to_msg(hand[0] + share * STEP, hand[1], node.now_ns(), robot.base.frame)
        elif action.output == "twist":
            velocity = STEP / SECONDS if now < SECONDS else np.zeros(3)
            if action.axes == "tool":
                velocity = Rotation.from_quat(hand[1]).inv().apply(velocity)
            twist = Twist()
            twist.linear.x, twist.linear.y, twist.linear.z = velocity.tolist()
            msg = twist
            if action.type == "TwistStamped":
                msg = TwistStamped(twist=twist)
                msg.header.frame_id = robot.base.frame
                msg.header.stamp = messages.stamp_to_msg(node.now_ns())
        elif action.output == "joint_positions":
            msg = Float64MultiArray(data=(start + share * (goal - start)).tolist())
        else:
            if now >= SECONDS:
                return
            msg = JointTrajectory(joint_names=list(robot.joints))
            ahead = np.arange(share, 1.0001, 1.0 / action.rate / SECONDS)
            for i, point in enumerate(ahead):
                positions = (start + point * (goal - start)).tolist()
                due = messages.duration_to_msg(round(1e9 * (i + 1) / action.rate))
                msg.points.append(JointTrajectoryPoint(positions=positions, time_from_start=due))
        client.command.publish(msg)

    return send


# What is published


def endpoints(client: Client, topic: str) -> list[tuple[str, str, bool]]:
    """Type, reliability and whether latched, of who publishes a topic."""
    found = []
    for info in client.get_publishers_info_by_topic(topic):
        qos = info.qos_profile
        reliable = "reliable" if qos.reliability == ReliabilityPolicy.RELIABLE else "best effort"
        found.append((info.topic_type, reliable, qos.durability == DurabilityPolicy.TRANSIENT_LOCAL))
    return sorted(found)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in ROBOTS]
)
def test_it_is_what_the_file_says_and_moves_as_it_is_told(graph: ros_graph.Graph, name: str) -> None:
    node, client = pair(graph, name, pictures=True, max_steps=40)
    robot = node.robot
    assert robot.gripper is not None
    hand = robot.poses[HAND]
    # Topics, types, qualities.
    franka = robot.driver in ("crisp", "fci")
    if hand.source == "pose":
        quality = "best effort" if franka else "reliable"
        assert endpoints(client, hand.topic) == [("geometry_msgs/msg/PoseStamped", quality, False)]
    joints = endpoints(client, robot.numbers[GRIPPER_QPOS].topic)
    assert joints == [("sensor_msgs/msg/JointState", "reliable", False)] * 2, "arm and gripper are two drivers"
    for picture in robot.pictures.values():
        assert endpoints(client, picture.topic) == [("sensor_msgs/msg/Image", "best effort", False)]
    for condition in robot.ready:
        if not condition.optional:
            kind = condition.type.replace("/", "/msg/")
            assert endpoints(client, condition.topic) == [(kind, "reliable", condition.latched)]
    # Encodings, sizes and frames; the picture is later than its stamp by what its driver takes.
    graph.spin_until(lambda: all(client.heard[picture.topic] for picture in robot.pictures.values()))
    for camera, picture in robot.pictures.items():
        image = client.heard[picture.topic][-1]
        usb = picture.latency > 0
        assert (image.encoding, image.width, image.height) == ("yuv422_yuy2" if usb else "rgb8", 640, 480)
        assert image.header.frame_id == f"{camera}_optical_frame"
        assert len(set(bytes(image.data[::997]))) > 10, "something is seen"
    # The hand where the simulator has it: base, tool and hand of the file in between.
    start = client.hand()
    assert start is not None
    rotation = robot.base.rotation * Rotation.from_quat(node.arm.hand_in_world()[1])
    base = robot.base.position + robot.base.rotation.apply(node.arm.hand_in_world()[0] - can().base_position())
    tool = Rotation.from_quat(start[1])
    np.testing.assert_allclose(start[0] + tool.apply(robot.tool.position), base, atol=0.002)
    assert ((tool * robot.tool.rotation) * rotation.inv()).magnitude() < 0.005
    world = node.arm.hand_in_world()[0]
    # The gripper's joints are what the policy knows, by the file's scale and offset.
    source = robot.numbers[GRIPPER_QPOS]

    def fingers() -> Array:
        positions = client.joints(source.joints)
        assert positions is not None
        return np.array(source.scale) * positions + np.array(source.offset)

    assert node.phase == "waiting"
    graph.spin_until(lambda: client.joints(source.joints) is not None)
    np.testing.assert_allclose(fingers(), node.arm.finger_positions(), atol=0.002)
    # It moves.
    client.gripper.publish(Float64MultiArray(data=[robot.gripper.closed]))
    for_seconds(graph, node, SECONDS + 0.5, commander(node, client, start))
    assert node.phase == "running"
    after = client.hand()
    assert after is not None
    np.testing.assert_allclose(after[0] - start[0], STEP, atol=0.005)
    expected = robot.base.rotation.inv().apply(STEP)
    np.testing.assert_allclose(node.arm.hand_in_world()[0] - world, expected, atol=0.005)
    graph.spin_until(lambda: abs(fingers()).max() < 0.005)
    client.gripper.publish(Float64MultiArray(data=[robot.gripper.open]))
    graph.spin_until(lambda: abs(fingers()).min() > 0.035)
    # And says what it was told.
    (result,) = graph.spin_until(client.results)
    assert result["steps"] == 40 and result["driver"] == robot.driver and result["refused"] == {}
    speed = float(np.linalg.norm(STEP)) / SECONDS
    assert result["commanded"]["max_linear_speed"] == pytest.approx(speed, rel=0.1)
    assert result["rate"] == pytest.approx(20.0, rel=0.01), "of simulated time"
    assert 0.0 < result["achieved_speed"] < 0.95
    assert 0.0 < result["lag_rms"] < 0.03


def test_stamps_are_the_drivers_clock_and_pictures_come_late(graph: ros_graph.Graph) -> None:
    """At a tenth of the speed, so that what is late is so by the delay and not by this machine."""
    parameters = {"clock_offset": 100.0, "picture_delay": 0.08, "picture_jitter": 0.0, "picture_rate": 10.0}
    node, client = pair(graph, "xarm_jtc", pictures=True, speed=0.1, pose_rate=0.0, **parameters)
    robot, ages = node.robot, []
    picture = robot.pictures["agentview"]
    client.create_subscription(
        Image,
        picture.topic,
        lambda msg: ages.append((node.now_ns() - messages.stamp_ns(msg.header.stamp)) * 1e-9),
        topics.BEST_EFFORT_QOS,
    )
    graph.spin_until(lambda: len(ages) > 1)
    # Exposed 0.08 s before, and stamped `latency` after that by a clock that is 100 s ahead.
    np.testing.assert_allclose(ages, 0.08 - picture.latency - 100.0, atol=0.03)
    stamps = [messages.stamp_ns(m.header.stamp) for m in client.heard["/joint_states"] if robot.joints[0] in m.name]
    assert min(np.diff(stamps)) >= 19_000_000, "50 Hz, as xArm's driver"
    assert abs((stamps[-1] - node.now_ns()) * 1e-9 - 100.0) < 0.1


def test_the_newest_pose_at_a_thousand_hertz(graph: ros_graph.Graph) -> None:
    node, client = pair(graph, "franka_crisp", speed=0.1, pose_rate=0.0)
    for_seconds(graph, node, 0.1, lambda now: None)
    stamps = np.array([messages.stamp_ns(msg.header.stamp) for msg in client.heard["/current_pose"]])
    assert len(stamps) > 50
    assert set(np.diff(stamps) % 1_000_000) == {0}
    assert np.median(np.diff(stamps)) == 1_000_000


def test_compressed_pictures(graph: ros_graph.Graph, tmp_path: Path) -> None:
    text = robot_file.find("ur_servo").read_text()
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("/scene/camera/color/image_raw", "/scene/camera/color/image_raw/compressed"))
    node = rehearsal(graph, path)
    client: Client = graph.add(Client(node.robot))
    infos = client.keep(CameraInfo, "/scene/camera/color/camera_info")
    (image, *_) = graph.spin_until(lambda: client.heard["/scene/camera/color/image_raw/compressed"])
    assert image.format == "rgb8; jpeg compressed bgr8"
    assert bytes(image.data[:2]) == b"\xff\xd8"
    graph.spin_until(lambda: infos)
    assert (infos[0].width, infos[0].height) == (640, 480)


def test_readiness_is_said(graph: ros_graph.Graph) -> None:
    _, client = pair(graph, "ur_servo")
    running = client.keep(Bool, "/io_and_status_controller/robot_program_running", topics.DESCRIPTION_QOS)
    scaling = client.keep(Float64, "/speed_scaling_state_broadcaster/speed_scaling")
    graph.spin_until(lambda: running and len(scaling) > 1)
    assert running[0].data is True
    assert scaling[0].data == 100.0


# What is refused


def test_crisp_drops_everything_where_two_publish(graph: ros_graph.Graph) -> None:
    node, client = pair(graph, "franka_crisp")
    second = client.create_publisher(PoseStamped, "/target_pose", topics.COMMAND_QOS)
    graph.spin_until(lambda: client.count_publishers("/target_pose") == 2)
    start = client.hand()
    assert start is not None
    for_seconds(graph, node, 0.3, commander(node, client, start))
    assert node.phase == "waiting", "nothing began"
    np.testing.assert_allclose(node.arm.measured_pose()[0], start[0], atol=0.002)
    ((reason, count),) = node.driver.refused.items()
    assert reason.startswith("crisp: 2 publishers on /target_pose") and count > 5
    assert "2 publishers" in client.episodes()[-1]["fault"] or graph.spin_until(
        lambda: "2 publishers" in client.episodes()[-1]["fault"]
    )
    client.destroy_publisher(second)
    graph.spin_until(lambda: client.count_publishers("/target_pose") == 1)
    for_seconds(graph, node, 0.3, commander(node, client, start))
    assert node.phase == "running"


def test_refusals_are_counted_and_said(graph: ros_graph.Graph) -> None:
    """A twist whose stamp is a second old never moves a Servo."""
    node, client = pair(graph, "ur_servo", max_steps=20)

    def old(now: float) -> None:
        msg = TwistStamped()
        msg.header.stamp = messages.stamp_to_msg(node.now_ns() - 1_000_000_000)
        msg.header.frame_id, msg.twist.linear.x = "base", 0.1
        client.command.publish(msg)
        client.gripper.publish(Float64MultiArray(data=[0.1, 0.2]))

    for_seconds(graph, node, 0.3, old)
    assert node.phase == "waiting"
    graph.spin_until(lambda: "stale" in client.episodes()[-1]["fault"] or "gripper" in client.episodes()[-1]["fault"])
    start = client.hand()
    assert start is not None
    for_seconds(graph, node, 1.2, commander(node, client, start))
    (result,) = graph.spin_until(client.results)
    (stale,) = [text for text in result["refused"] if "stale" in text]
    assert stale.startswith("servo: command is ") and result["refused"][stale] > 5
    assert result["refused"]["gripper: 2 numbers, one expected"] > 5
    said = [status for msg in client.heard[topics.DIAGNOSTICS] for status in messages.diagnostics_from_msg(msg)]
    assert any(f"refused: {stale}" in status.values for status in said)


# Episodes


def test_between_episodes_the_drivers_are_silent_and_the_arm_starts_anew(
    graph: ros_graph.Graph, tmp_path: Path
) -> None:
    results = tmp_path / "results.jsonl"
    parameters = {"episodes": 2, "max_steps": 5, "results": str(results), "view": "frontview"}
    node, client = pair(graph, "ur_servo", output_dir=str(tmp_path), **parameters)
    moves = client.heard["/tcp_pose_broadcaster/pose"]
    for episode in range(2):
        graph.spin_until(lambda: node.phase == "waiting")
        before = len(moves)
        graph.spin_until(lambda before=before: len(moves) > before + 20)
        start = client.hand()
        assert start is not None
        fresh = driven_arm.DrivenArm("can", locked=(2,), base=node.arm.base, tool=node.arm.tool)
        fresh.reset(SEED + episode)
        np.testing.assert_allclose(start[0], fresh.measured_pose()[0], atol=0.002)
        node.arm.reset(SEED + episode)  # both have the same simulation here
        send = commander(node, client, start)
        for_seconds(graph, node, 0.25, send)
        graph.spin_until(lambda episode=episode: len(client.results()) > episode, 60.0)
    graph.spin_until(lambda: node.exit_status == 0)
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line["seed"] for line in lines] == [SEED, SEED + 1]
    assert all(line["steps"] == 5 and Path(line["video"]).stat().st_size > 1000 for line in lines)
    stamps = np.array([messages.stamp_ns(msg.header.stamp) for msg in moves])
    assert np.diff(stamps).max() >= 1_000_000_000


def test_at_full_speed_time_is_the_walls(graph: ros_graph.Graph) -> None:
    node, client = pair(graph, "ur_servo", speed=1.0, max_steps=30)
    assert not client.get_publishers_info_by_topic(topics.CLOCK)
    start = client.hand()
    assert start is not None
    assert abs(node.now_ns() - client.get_clock().now().nanoseconds) < 500_000_000
    for_seconds(graph, node, 0.6, commander(node, client, start))
    (result,) = graph.spin_until(client.results)
    # What a busy machine makes up for, a quarter of a second at most, looks like haste in so short an episode.
    assert 0.1 < result["achieved_speed"] < 1.4


# The gripper's actions


class Goal:
    """A goal handle of rclpy's, as far as it is used."""

    def __init__(self, actions: GripperActions, goal: Any, result: Any) -> None:
        self.actions, self.result, self.status = actions, result, ""
        self.is_cancel_requested = False
        assert actions.asked(goal) == gripper_actions.GoalResponse.ACCEPT
        actions.accepted(self)

    def execute(self) -> None:
        self.actions._result(self, self.result)

    def succeed(self) -> None:
        self.status = "succeeded"

    def abort(self) -> None:
        self.status = "aborted"

    def canceled(self) -> None:
        self.status = "cancelled"


class Fields:
    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


def test_a_grippers_goal_ends_when_it_is_there_stopped_or_replaced() -> None:
    state = GripperState(0.0, False, False)
    told: list[tuple[float, float]] = []

    def command(position: float, effort: float) -> None:
        if not np.isfinite(position):
            raise ValueError("nan")
        told.append((position, effort))

    def goal(position: float) -> Any:
        return Fields(command=Fields(position=position, max_effort=5.0))

    thick = GripperActions(command, lambda: state, parallel=False, stalling_fails=True)
    first, second = Goal(thick, goal(0.04), Fields()), Goal(thick, goal(0.0), Fields())
    thick.check()
    assert (first.status, second.status) == ("aborted", "")
    state = GripperState(0.02, False, True)
    thick.check()
    assert second.status == "aborted"
    assert (second.result.position, second.result.stalled, second.result.reached_goal) == (0.02, True, False)
    assert told == [(0.04, 5.0), (0.0, 5.0)]
    assert thick.asked(goal(float("nan"))) == gripper_actions.GoalResponse.REJECT
    # robotiq's: joint names and positions; it may stop on the way.
    robotiq = GripperActions(command, lambda: state, parallel=True, stalling_fails=False)
    result = Fields(state=Fields(position=[]))
    third = Goal(robotiq, Fields(command=Fields(name=["knuckle"], position=[0.7], effort=[])), result)
    robotiq.check()
    assert third.status == "succeeded" and result.state.position == [0.02]
    assert told[-1] == (0.7, 0.0)
    assert robotiq.asked(Fields(command=Fields(name=[], position=[], effort=[]))) == gripper_actions.GoalResponse.REJECT
    fourth = Goal(robotiq, Fields(command=Fields(name=["knuckle"], position=[0.7], effort=[])), Fields(state=Fields()))
    fourth.is_cancel_requested = True
    robotiq.check()
    assert fourth.status == "cancelled"


# Bad input


@pytest.mark.parametrize(
    ("replaced", "by", "expected"),
    [
        ("description: {topic: /robot_description}", "description: {file: mine.urdf}", "description.file: "),
        (", fr3_joint6, fr3_joint7]", "]", "joints: 5, 6 or 7 expected in rehearsal"),
        (
            "robot0_gripper_qpos:",
            "width: {topic: /fingers, joints: [a]}\n  robot0_gripper_qpos:",
            "observations.width: only robot0_gripper_qpos expected",
        ),
        ("scale: [1.0, -1.0]", "scale: [1.0, 0.0]", "scale: [1.0, 0.0], other numbers than 0 expected"),
        (
            "agentview_image: {",
            "above_image: {topic: /above}\n  agentview_image: {",
            "observations.above_image: one of the simulator's cameras expected",
        ),
        ("agentview_image: {", "agentview_image: {crop: [200, 0, 480, 480], ", "inside of 640 x 480 expected"),
        ("linear: 0.8", "liner: 0.8", "limits.linear: missing ('liner' is not known)"),
    ],
)
def test_a_robot_that_cannot_be_rehearsed_is_one_line_and_starts_nothing(
    replaced: str,
    by: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("subprocess.Popen", None)
    text = robot_file.find("franka_crisp").read_text()
    assert replaced in text
    Path("mine.yaml").write_text(text.replace(replaced, by, 1))
    Path("mine.urdf").write_text("<robot/>")
    assert bringup.main(["rehearsal", "--robot", "mine.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "mine.yaml") in line and expected in line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--robot", "panda"], "robot 'panda': expected a YAML file, or one of franka_crisp"),
        (["--robot", "nowhere.yaml"], "nowhere.yaml: No such file or directory"),
        (["--robot", "ur_servo", "--speed", "2"], "--speed 2.0: expected at most 1"),
        (["--params-file", "size.yaml"], "picture_size '640': one like 640x480 expected"),
    ],
)
def test_bad_arguments_are_one_line(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("subprocess.Popen", None)
    Path("size.yaml").write_text("/**/rehearsal:\n  ros__parameters:\n    picture_size: '640'\n")
    assert bringup.main(["rehearsal", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
