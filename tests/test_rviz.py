"""Every layout of RViz against the nodes that it shows: nothing red, no warning, and something to see."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_guard
import fake_policy
import fake_rl
import mujoco
import numpy as np
import pytest
import ros_graph
import test_image_generator
import yaml
from fake_planner import fake_planner
from fake_transforms import TFMessage
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.parameter import Parameter
from rviz_viewer import KINDS, WITHOUT_TOPIC, Viewer, markers_fault
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CompressedImage, Image
from some_slow import one_in
from visualization_msgs.msg import Marker, MarkerArray

from diffusion_ros import checkpoint, robot_file
from diffusion_ros.control import kinematics
from diffusion_ros.nodes.camera_guard_node import CameraGuardNode
from diffusion_ros.nodes.executor_node import ExecutorNode
from diffusion_ros.nodes.follower_node import FollowerNode
from diffusion_ros.nodes.gym_simulation_node import GymSimulationNode
from diffusion_ros.nodes.image_generator_node import ImageGeneratorNode
from diffusion_ros.nodes.maze_node import MazeNode
from diffusion_ros.nodes.planner_node import PlannerNode
from diffusion_ros.nodes.policy_node import PolicyNode
from diffusion_ros.nodes.rehearsal_node import RehearsalNode
from diffusion_ros.nodes.rl_policy_node import RlPolicyNode
from diffusion_ros.nodes.simulation_node import SimulationNode
from diffusion_ros.robot_file import RobotFileError
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.transforms import Transforms
from diffusion_ros.simulators.arm import Simulation
from diffusion_ros.simulators.arm_links import arm_links, description
from diffusion_ros.simulators.gym import link_poses
from diffusion_ros.simulators.maze import BALL_FRAME, FRAME
from diffusion_ros.simulators.tasks import GYM_TASKS, gym_task
from diffusion_ros.systems import SYSTEMS
from diffusion_ros.systems.rviz_layout import TEMPLATES, layout
from diffusion_ros.systems.system import System

ROOT = Path(__file__).parents[1]
SEED = 100_007


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """tf2_msgs, and a cache of the test's own."""
    monkeypatch.setattr(messages, "TFMessage", TFMessage)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def graph() -> Iterator[ros_graph.Graph]:
    with ros_graph.graph() as made:
        yield made


def make(graph: ros_graph.Graph, kind: Callable[..., Any], **parameters: Any) -> Any:
    return graph.add(kind([Parameter(name, value=value) for name, value in parameters.items()]))


def see(graph: ros_graph.Graph, viewer: Viewer, timeout: float = 40.0) -> None:
    """Runs the graph until every display has something and its frames have come, and a little on: nothing must be wrong
    then."""
    deadline = time.monotonic() + timeout
    while viewer.silent() or viewer.complaints():
        said = f"nothing on {viewer.silent()}; {viewer.complaints()}; frames {sorted(viewer.frames)}"
        assert time.monotonic() < deadline, said
        graph.spin(0.1)
    graph.spin(0.5)
    assert viewer.complaints() == []


def test_maze(graph: ros_graph.Graph, tmp_path: Path) -> None:
    viewer = graph.add(Viewer(layout(ROOT, "maze")))
    make(graph, MazeNode, size="umaze", seed=100_001, obstacle_radius=0.1)
    make(graph, PlannerNode, checkpoint=str(fake_planner(tmp_path / "planner.pt")))
    make(graph, FollowerNode)
    see(graph, viewer)
    assert viewer.fixed_frame == FRAME and viewer.frames == {FRAME, BALL_FRAME}
    assert viewer.tools["SetGoal"]["Topic"]["Value"] == topics.GOAL


def test_maze_with_a_prefix(graph: ros_graph.Graph, tmp_path: Path) -> None:
    """All three nodes take each other's frames, a goal of RViz too."""
    own = {"frame_prefix": "left/"}
    viewer = graph.add(Viewer(layout(ROOT, "maze", prefix="left/")))
    maze = make(graph, MazeNode, size="umaze", seed=100_001, obstacle_radius=0.1, **own)
    planner = make(graph, PlannerNode, checkpoint=str(fake_planner(tmp_path / "planner.pt")), **own)
    make(graph, FollowerNode, **own)
    see(graph, viewer)
    assert viewer.fixed_frame == f"left/{FRAME}" and viewer.frames == {f"left/{FRAME}", f"left/{BALL_FRAME}"}
    graph.spin_until(lambda: maze.phase == "running", 40.0)
    goal, place = viewer.create_publisher(PoseStamped, topics.GOAL, topics.COMMAND_QOS), maze.simulation.position
    graph.spin_until(lambda: goal.get_subscription_count() == 2)
    for frame in (FRAME, f"left/{FRAME}"):  # the first is somebody else's
        assert not np.allclose(maze.simulation.goal, place)
        place = maze.simulation.position
        goal.publish(messages.pose_to_msg((*place, 0.0), (0.0, 0.0, 0.0, 1.0), 0, frame))
        graph.spin(0.5)
    graph.spin_until(lambda: np.allclose(maze.simulation.goal, place))
    assert planner.domain.frame == f"left/{FRAME}"


def test_odometry_is_of_the_ball_and_so_is_the_transform(graph: ros_graph.Graph) -> None:
    """REP 105: a body, and not the frame that it is in."""
    viewer = graph.add(Viewer(layout(ROOT, "maze")))
    heard: list[Odometry] = []
    viewer.create_subscription(Odometry, topics.ODOMETRY, heard.append, topics.SENSOR_QOS)
    maze = make(graph, MazeNode, size="umaze", seed=100_001)
    graph.spin_until(lambda: heard and BALL_FRAME in viewer.frames)
    assert (heard[-1].header.frame_id, heard[-1].child_frame_id) == (FRAME, BALL_FRAME)
    _, position, _ = viewer.transforms.pose(FRAME, BALL_FRAME)
    np.testing.assert_allclose(position[:2], maze.simulation.position, atol=1e-9)


@pytest.mark.parametrize("task", GYM_TASKS)
def test_balancing(graph: ros_graph.Graph, tmp_path: Path, task: str) -> None:
    viewer = graph.add(Viewer(layout(ROOT, task)))
    make(graph, GymSimulationNode, task=task, mode="lockstep", seed=SEED)
    path = fake_rl.save(tmp_path / "rl.pt", spec_=fake_rl.spec(task))
    make(graph, RlPolicyNode, task=task, mode="lockstep", checkpoint=str(path))
    see(graph, viewer)
    assert viewer.frames == {"world", *gym_task(task).joints}


def test_a_cart_with_a_prefix_and_jpegs(graph: ros_graph.Graph, tmp_path: Path) -> None:
    viewer = graph.add(Viewer(layout(ROOT, "cartpole", prefix="left/", compressed=True)))
    own = {"frame_prefix": "left/", "compressed_pictures": True}
    make(graph, GymSimulationNode, task="cartpole", mode="lockstep", seed=SEED, **own)
    path = fake_rl.save(tmp_path / "rl.pt", spec_=fake_rl.spec("cartpole"))
    make(graph, RlPolicyNode, task="cartpole", mode="lockstep", checkpoint=str(path))
    see(graph, viewer)
    assert viewer.fixed_frame == "left/world"
    assert viewer.frames == {"left/world", *(f"left/{joint}" for joint in gym_task("cartpole").joints)}


def test_links_of_a_cart_are_where_the_picture_has_them() -> None:
    task, positions = gym_task("double_pendulum"), np.array([0.3, 0.4, -1.1])
    known = Transforms()
    known.take(
        [messages.transform_to_msg(p, q, 1, parent, child) for p, q, parent, child in link_poses(task, positions, "w")]
    )
    ends = task.ends(positions)
    for joint, start, end, length in zip(task.joints[1:], ends, ends[1:], task.links, strict=False):
        _, at, turned = known.pose("w", joint)
        np.testing.assert_allclose(at[[0, 2]], start, atol=1e-12)
        tip = at + Rotation.from_quat(turned).apply([0.0, 0.0, length])
        np.testing.assert_allclose(tip[[0, 2]], end, atol=1e-12)


def test_images(graph: ros_graph.Graph, tmp_path: Path) -> None:
    path = tmp_path / "images.pt"
    checkpoint.save(test_image_generator.Fade(), test_image_generator.spec(), path)
    viewer = graph.add(Viewer(layout(ROOT, "images")))
    make(graph, ImageGeneratorNode, checkpoint=str(path), at_start=True)
    see(graph, viewer)


@pytest.mark.slow
def test_simulation_with_two_arms(graph: ros_graph.Graph, tmp_path: Path) -> None:
    """Each has its frames, topics and description; the layout finds them by namespace and prefix."""
    path, guard = fake_policy.save(tmp_path / "policy.pt"), fake_guard.save(tmp_path / "guard.pt")
    viewers = []
    for side in ("left", "right"):
        own = {"mode": "realtime", "frame_prefix": f"{side}/"}
        named = lambda kind, side=side: lambda p: _in_namespace(kind, side, p)  # noqa: E731
        viewers.append(graph.add(Viewer(layout(ROOT, "simulation", prefix=f"{side}/", guard=True), side)))
        make(graph, named(SimulationNode), task="lift", seed=SEED, **own)
        make(graph, named(PolicyNode), checkpoint=str(path), min_frame_rate=0.0, max_input_age=30.0, **own)
        limits = {"enabled": True, "checkpoint_limits": True, "max_observation_age": 30.0}
        make(graph, named(ExecutorNode), checkpoint=str(path), **limits, **own)
        make(graph, named(CameraGuardNode), checkpoint=str(guard), max_image_age=30.0, max_pose_gap=30.0)
    for side, viewer in zip(("left", "right"), viewers, strict=True):
        see(graph, viewer, 90.0)
        assert viewer.fixed_frame == f"{side}/world"
        mine = {frame for frame in viewer.frames if frame.startswith(f"{side}/")}
        assert {f"{side}/robot0_link7", f"{side}/robot0_eef", f"{side}/agentview_optical_frame"} <= mine
    assert not any("/" not in frame for frame in viewers[0].frames), "what has no prefix would be of both"


def _in_namespace(kind: Callable[..., Any], namespace: str, overrides: list[Parameter[Any]]) -> Any:
    """rclpy takes a node's namespace from its arguments, which all of a process share."""
    before = Node.__init__

    def with_namespace(self: Any, name: str, *args: Any, **options: Any) -> None:
        before(self, name, *args, **{"namespace": namespace, **options})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Node, "__init__", with_namespace)
        return kind(overrides)


@pytest.mark.parametrize("robot", one_in(2, ["franka_crisp", "ur_jtc"]))
def test_rehearsal(graph: ros_graph.Graph, tmp_path: Path, robot: str) -> None:
    """By the robot's own topics, qualities of service and frames, with the scene beside it."""
    path = fake_policy.save(tmp_path / "policy.pt")
    viewer = graph.add(Viewer(layout(ROOT, "rehearsal", robot=robot)))
    made = make(graph, RehearsalNode, robot=robot, task="lift", seed=SEED, pose_rate=20.0, picture_rate=2.0)
    own = {"checkpoint": str(path), "robot": robot, "mode": "realtime"}
    make(graph, PolicyNode, min_frame_rate=0.0, max_input_age=30.0, sync_tolerance=1.0, **own)
    make(graph, ExecutorNode, enabled=True, rehearsal=True, max_observation_age=30.0, **own)
    deadline = time.monotonic() + 60.0
    quiet = {"Predicted chunk"}  # whether a policy that knows nothing makes chunks here is not the point
    while set(viewer.silent()) - quiet:
        assert time.monotonic() < deadline, f"nothing on {viewer.silent()}; {viewer.complaints()}"
        graph.spin(0.1)
    graph.spin(1.0)
    assert viewer.complaints() == []
    # The tool by TF is the driver's.
    _, position, _ = viewer.transforms.pose(made.robot.base.frame, made.robot.tool.frame)
    assert np.linalg.norm(position - made.arm.measured_pose()[0]) < 0.05


@pytest.mark.parametrize("robot", sorted(path.stem for path in (ROOT / "config/robots").glob("*.yaml")))
def test_a_robots_layout_has_its_topics_and_frame(robot: str) -> None:
    found = robot_file.read(robot_file.find(robot))
    content = yaml.safe_load(layout(ROOT, "real_robot", robot=robot))
    manager = content["Visualization Manager"]
    assert manager["Global Options"]["Fixed Frame"] == found.base.frame
    displays = {display["Name"]: display for display in manager["Displays"]}
    shown = {
        d["Topic"]["Value"]: d["Topic"]["Reliability Policy"]
        for d in displays.values()
        if d["Class"].endswith("/Image") and d["Enabled"]
    }
    assert shown == {p.topic: "Reliable" if p.reliable else "Best Effort" for p in found.pictures.values()}
    assert not displays["Scene"]["Enabled"]
    assert displays["Robot"]["Enabled"] == (found.description is not None)
    if found.description is not None:
        assert displays["Robot"]["Description Topic"]["Value"] == found.description.topic


def test_a_robot_without_a_file_keeps_the_topics_that_were_given() -> None:
    given = {topics.image("agentview"): "/camera/color/image_raw"}
    text = layout(ROOT, "real_robot", fixed_frame="panda_link0", topics=given)
    manager = yaml.safe_load(text)["Visualization Manager"]
    assert manager["Global Options"]["Fixed Frame"] == "panda_link0"
    displays = {display["Name"]: display for display in manager["Displays"]}
    assert displays["Agent view"]["Topic"]["Value"] == "/camera/color/image_raw"
    assert displays["Agent view"]["Topic"]["Reliability Policy"] == "Best Effort"
    with pytest.raises(RobotFileError):
        layout(ROOT, "real_robot", robot="nobody")


# The layouts themselves


@pytest.mark.parametrize("system", ["simulation", "teleoperate", "cartpole", "double_pendulum"])
def test_a_layout_takes_jpegs_where_the_simulator_has_them(system: str) -> None:
    assert {argument.name for argument in SYSTEMS[system].arguments} >= {"compressed_pictures"}
    for compressed in (False, True):
        shown = _pictures(layout(ROOT, system, compressed=compressed, guard=True))
        ending = "/image_raw/compressed" if compressed else "/image_raw"
        assert shown and all(f"/{topic}".endswith((ending, "guard_heat")) for topic in shown)


def test_a_robots_pictures_are_as_its_drivers_have_them() -> None:
    for system in ("rehearsal", "real_robot"):
        plain = layout(ROOT, system, robot="franka_crisp")
        assert _pictures(layout(ROOT, system, robot="franka_crisp", compressed=True)) == _pictures(plain)


def _pictures(text: str) -> list[str]:
    displays = yaml.safe_load(text)["Visualization Manager"]["Displays"]
    return [d["Topic"]["Value"] for d in displays if d["Class"].endswith("/Image")]


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=lambda system: system.name)
def test_every_system_has_a_layout(system: System) -> None:
    content = yaml.safe_load(layout(ROOT, system.name, robot="franka_crisp" if "robot" in _arguments(system) else ""))
    displays = content["Visualization Manager"]["Displays"]
    for display in displays:
        kind = display["Class"].split("/")[1]
        assert kind in KINDS or kind in WITHOUT_TOPIC
        assert display["Enabled"] == display["Value"]
    # Pictures are docks; the window's state, as Qt writes it, places each by its name.
    geometry = content["Window Geometry"]
    state = bytes.fromhex(geometry["QMainWindow State"])
    docks = {d["Name"] for d in displays if d["Class"].endswith("/Image")} | {p["Name"] for p in content["Panels"]}
    assert docks - {"Views"} <= set(geometry)
    assert all(name.encode("utf-16-be") in state for name in docks - {"Views"})
    assert state[:4] + state[8:9] == bytes.fromhex("000000fffd"), "which is how QMainWindow::saveState begins"


def _arguments(system: System) -> set[str]:
    return {argument.name for argument in system.arguments}


def test_every_layout_is_of_a_system() -> None:
    assert set(TEMPLATES) == set(SYSTEMS)
    assert {path.stem for path in (ROOT / "config").glob("*.rviz")} == set(TEMPLATES.values())


def test_what_rviz_refuses_is_found() -> None:
    """Else nothing above would prove anything."""
    add, clear = Marker(ns="plan", id=0, action=Marker.ADD), Marker(ns="plan", id=0, action=Marker.DELETEALL)
    add.scale.x = add.scale.y = add.scale.z = add.color.a = 1.0
    assert markers_fault(MarkerArray(markers=[add])) == ""
    assert markers_fault(MarkerArray(markers=[clear, add])) == "Duplicate Marker Check: ('plan', 0)"
    add.color.a = 0.0
    assert "cannot be seen" in markers_fault(MarkerArray(markers=[add]))
    add.pose.orientation.w = 0.0
    assert "a quaternion of norm 0" in markers_fault(MarkerArray(markers=[add]))


# The arm


@pytest.fixture(scope="module")
def can() -> Iterator[Simulation]:
    simulation = Simulation("can")
    yield simulation
    simulation.close()


def test_the_description_is_the_simulators_arm(can: Simulation, tmp_path: Path) -> None:
    """Its links are where MuJoCo has the bodies, by TF and by the URDF, and its meshes are those of the scene."""
    can.reset(SEED)
    for _ in range(5):
        can.step(np.array([0.03, 0.02, -0.03, 0.1, 0.0, 0.2, 1.0]))
    base = can.base_position(), np.array([0.0, 0.0, 0.0, 1.0])
    links = arm_links(can, "world", base, prefix="left/")
    known = Transforms()
    for link in links:
        if link.parent:
            known.put(1, link.parent, link.name, *link.pose(can.data.qpos))
    data = mujoco.MjData(can.model)
    data.qpos[:] = can.data.qpos
    mujoco.mj_kinematics(can.model, data)
    for link in links[1:]:
        _, position, quaternion = known.pose("world", link.name)
        body = data.body(link.name.removeprefix("left/"))
        np.testing.assert_allclose(position, body.xpos, atol=1e-9)
        assert abs(abs(quaternion @ np.array(body.xquat)[[1, 2, 3, 0]]) - 1.0) < 1e-9
    text = description(links, meshes=tmp_path / "meshes")
    joints = can.joint_names[:7]
    arm = kinematics.Arm.from_urdf(text, joints, "world", "left/robot0_right_hand")
    position, _ = arm.forward(can.joint_positions()[:7])
    np.testing.assert_allclose(position, data.body("robot0_right_hand").xpos, atol=1e-6)
    files = sorted((tmp_path / "meshes").glob("*.stl"))
    assert len(files) == 10, "a mesh for each link that has one, the fingers' shared"
    assert text.count("file://") == 11 and description(links, meshes=tmp_path / "meshes") == text
    triangles = sum(int.from_bytes(path.read_bytes()[80:84], "little") for path in files)
    assert all(path.stat().st_size == 84 + 50 * int.from_bytes(path.read_bytes()[80:84], "little") for path in files)
    assert 1000 < triangles < 5000
    assert "file://" not in description(links), "without a folder there are boxes"
    kept = text.replace("<link", '<mujoco><compiler strippath="false" discardvisual="false"/></mujoco><link', 1)
    model = mujoco.MjModel.from_xml_string(kept.replace("file://", ""))  # which reads the meshes as well
    assert model.nmesh >= 10


def test_transforms_say_nothing_without_tf2_msgs(graph: ros_graph.Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "TFMessage", None)
    make(graph, MazeNode, size="umaze", seed=100_001)
    viewer = graph.add(Viewer(layout(ROOT, "maze")))
    graph.spin_until(lambda: "Maze" in viewer.heard)
    assert viewer.frames == set() and viewer.complaints()[0] == "Global Status: frame [map] does not exist"


def test_pictures_are_also_jpegs_if_wanted_and_only_while_somebody_looks(graph: ros_graph.Graph) -> None:
    make(graph, GymSimulationNode, task="cartpole", seed=SEED, compressed_pictures=True)
    viewer, plain, packed = graph.add(Node("far_away")), [], []
    topic = topics.compressed(topics.IMAGE)
    viewer.create_subscription(CompressedImage, topic, packed.append, topics.BEST_EFFORT_QOS)
    graph.spin_until(lambda: packed)
    assert packed[0].format == "rgb8; jpeg compressed bgr8"
    _, picture = messages.compressed_image_from_msg(packed[0])
    viewer.create_subscription(Image, topics.IMAGE, plain.append, topics.BEST_EFFORT_QOS)
    graph.spin_until(lambda: plain)
    assert picture.shape == messages.image_from_msg(plain[0])[1].shape
    other = make(graph, GymSimulationNode, task="cartpole", seed=SEED)
    assert not any(publisher.topic_name.endswith("/compressed") for publisher in other.publishers)
