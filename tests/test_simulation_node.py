"""The simulation node on a real bus, with a policy and an executor of a few lines at the other end."""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ros_graph
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, Image, JointState, MultiDOFJointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from diffusion_ros.nodes import scene_frames_node, simulation_node
from diffusion_ros.nodes.simulation_node import SimulationNode
from diffusion_ros.robot import CAMERAS, WORLD_FRAME, optical_frame
from diffusion_ros.ros import messages, sole_simulator, topics
from diffusion_ros.simulators.arm import Simulation
from diffusion_ros.simulators.episode import Episode, episode_stamp_ns

SEED = 100_007
PERIOD_NS = 50_000_000


class Peer(Node):
    """Policy and executor in one: keeps all that it hears and answers each eef_pose by `rows`, when it has any."""

    def __init__(self, cameras: Iterable[str] = CAMERAS) -> None:
        super().__init__("peer")
        self.heard: dict[str, list[Any]] = {}
        self.rows: list[np.ndarray] | None = None
        """What it answers, the last one again and again; None: nothing."""
        self.answered: list[int] = []
        self.chunk = self.create_publisher(JointTrajectory, topics.ACTION_CHUNK, topics.COMMAND_QOS)
        self.command = self.create_publisher(JointTrajectory, topics.EEF_COMMAND, topics.COMMAND_QOS)
        for camera in cameras:
            self.keep(Image, topics.image(camera))
            self.keep(CameraInfo, topics.camera_info(camera))
        self.keep(JointState, topics.JOINT_STATES)
        self.keep(PoseStamped, topics.OBJECT_POSE)
        self.keep(Clock, topics.CLOCK)
        self.keep(String, topics.EPISODE, topics.EPISODE_QOS)
        self.keep(DiagnosticArray, topics.DIAGNOSTICS, topics.DIAGNOSTICS_QOS)
        self.heard[topics.EEF_POSE] = []
        self.create_subscription(PoseStamped, topics.EEF_POSE, self.on_pose, topics.SENSOR_QOS)

    def keep(self, kind: type, topic: str, qos: Any = topics.SENSOR_QOS) -> None:
        self.create_subscription(kind, topic, self.heard.setdefault(topic, []).append, qos)

    def on_pose(self, msg: PoseStamped) -> None:
        self.heard[topics.EEF_POSE].append(msg)
        if self.rows is not None:
            row = self.rows[min(len(self.answered), len(self.rows) - 1)]
            self.answer(messages.stamp_ns(msg.header.stamp), row)

    def answer(self, stamp_ns: int, row: np.ndarray) -> None:
        self.answered.append(stamp_ns)
        self.command.publish(messages.command_to_msg(row, stamp_ns, PERIOD_NS, WORLD_FRAME))

    def stamps(self, topic: str) -> list[int]:
        return [messages.stamp_ns(msg.header.stamp) for msg in self.heard[topic]]

    def episodes(self) -> list[dict[str, Any]]:
        return [messages.episode_from_msg(msg) for msg in self.heard[topics.EPISODE]]

    def results(self) -> list[dict[str, Any]]:
        return [news["result"] for news in self.episodes() if news["event"] == "end"]

    def status(self) -> messages.Status | None:
        said = [s for msg in self.heard[topics.DIAGNOSTICS] for s in messages.diagnostics_from_msg(msg)]
        return said[-1] if said else None


@pytest.fixture
def graph() -> Iterator[ros_graph.Graph]:
    with ros_graph.graph() as made:
        yield made


@functools.cache
def lift() -> Simulation:
    """Making one takes seconds; reset() makes it as new."""
    return Simulation("lift")


@pytest.fixture(autouse=True)
def one_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation_node, "Simulation", lambda task: lift())
    monkeypatch.setattr(Simulation, "close", lambda simulation: None)


def simulator(graph: ros_graph.Graph, **parameters: Any) -> SimulationNode:
    chosen = {"task": "lift", "mode": "lockstep", "seed": SEED, **parameters}
    node: SimulationNode = graph.add(SimulationNode([Parameter(name, value=value) for name, value in chosen.items()]))
    return node


def random_rows(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    scale = np.array([0.03, 0.03, 0.03, 0.1, 0.1, 0.1, 1.0])
    return [row * scale for row in rng.uniform(-1, 1, (count, 7))]


def test_lockstep_equals_the_simulator_without_ros(graph: ros_graph.Graph) -> None:
    """Same seed, same rows: all that is published, and the final state, bit for bit."""
    rows = random_rows(6)
    node = simulator(graph, episodes=2, max_steps=3)
    graph.spin(2.0)
    assert node.phase == "waiting"
    peer = graph.add(Peer())
    peer.rows = rows
    graph.spin_until(lambda: node.exit_status is not None, 60)
    assert node.exit_status == 0
    graph.spin_until(lambda: len(peer.results()) == 2)

    # One observation a step, all parts with one stamp; the two episodes' stamps lie far apart.
    expected = [episode_stamp_ns(i, k) for i in range(2) for k in range(3)]
    for topic in (*map(topics.image, CAMERAS), *map(topics.camera_info, CAMERAS), topics.JOINT_STATES):
        assert peer.stamps(topic) == expected
    assert peer.stamps(topics.EEF_POSE) == peer.stamps(topics.OBJECT_POSE) == expected
    assert [messages.stamp_ns(msg.clock) for msg in peer.heard[topics.CLOCK]] == expected

    reference = Simulation("lift")
    for i in range(2):
        reference.reset(SEED + i)
        for k in range(3):
            n = 3 * i + k
            frame = reference.observe()
            for camera in CAMERAS:
                _, image = messages.image_from_msg(peer.heard[topics.image(camera)][n])
                np.testing.assert_array_equal(image, frame[f"{camera}_image"])
                _, matrix, height, width = messages.camera_info_from_msg(peer.heard[topics.camera_info(camera)][n])
                np.testing.assert_array_equal(matrix, reference.camera_matrix(camera, 84, 84))
                assert (height, width) == (84, 84)
            for topic, name in ((topics.EEF_POSE, "robot0_eef"), (topics.OBJECT_POSE, "object")):
                _, position, quaternion = messages.pose_from_msg(peer.heard[topic][n])
                np.testing.assert_array_equal(position, frame[f"{name}_pos"])
                np.testing.assert_array_equal(quaternion, frame[f"{name}_quat"])
            _, positions, velocities = messages.joint_state_from_msg(peer.heard[topics.JOINT_STATES][n])
            np.testing.assert_array_equal(positions, reference.joint_positions())
            np.testing.assert_array_equal(velocities, reference.joint_velocities())
            np.testing.assert_array_equal(positions[-2:], frame["robot0_gripper_qpos"])
            reference.step(rows[n])
        result = peer.results()[i]
        assert (result["index"], result["seed"], result["steps"]) == (i, SEED + i, 3)
        assert (result["success"], result["held"], result["missed"]) == (False, 0, 0)
        assert result["state_sha256"] == reference.state_hash()
        digest = hashlib.sha256(np.array(rows[3 * i : 3 * i + 3]).tobytes())
        assert result["actions_sha256"] == digest.hexdigest()
    reference.close()


def test_lockstep_waits_repeats_and_takes_only_its_answer(graph: ros_graph.Graph) -> None:
    node = simulator(graph, max_steps=50)
    peer = graph.add(Peer())
    graph.spin_until(lambda: len(peer.heard[topics.EEF_POSE]) >= 3, 30)
    first = episode_stamp_ns(0, 0)
    # Nobody answers: the same observation again, once a second.
    assert set(peer.stamps(topics.EEF_POSE)) == {first}
    row = np.array([0.02, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    peer.answer(first - PERIOD_NS, row)
    peer.answer(first + PERIOD_NS, row)
    graph.spin(0.3)
    assert node.episode.steps == 0
    bad = messages.command_to_msg(row, first, PERIOD_NS, WORLD_FRAME)
    bad.points[0].positions[2] = float("nan")
    peer.command.publish(bad)
    graph.spin_until(lambda: peer.status() and "refused" in peer.status().summary)
    assert node.episode.steps == 0
    peer.answer(first, row)
    graph.spin_until(lambda: node.episode.steps == 1)
    graph.spin_until(lambda: peer.stamps(topics.EEF_POSE)[-1] == first + PERIOD_NS)
    # Twice the same answer is one step.
    peer.answer(first, row)
    graph.spin(0.3)
    assert node.episode.steps == 1
    assert graph.call(peer, Trigger, "simulation/reset", Trigger.Request()).success
    assert node.episode.steps == 0
    graph.spin_until(lambda: peer.stamps(topics.EEF_POSE)[-1] == first)


def test_late_subscribers_get_descriptions(graph: ros_graph.Graph) -> None:
    node = simulator(graph)
    graph.add(Peer())
    graph.spin_until(lambda: node.phase == "running", 30)
    late = graph.add(Node("late"))
    heard: dict[str, list[Any]] = {"info": [], "scene": [], "episode": []}
    info = topics.camera_info(CAMERAS[0])
    late.create_subscription(CameraInfo, info, heard["info"].append, topics.DESCRIPTION_QOS)
    late.create_subscription(String, topics.EPISODE, heard["episode"].append, topics.EPISODE_QOS)
    graph.spin_until(lambda: heard["info"] and heard["episode"], 5)
    late.create_subscription(MarkerArray, topics.SCENE, heard["scene"].append, topics.DESCRIPTION_QOS)
    graph.spin_until(lambda: heard["scene"], 10)
    markers = heard["scene"][0].markers
    geoms = node.simulation.scene()
    assert len(markers) == len(geoms)
    for marker, geom in zip(markers, geoms, strict=True):
        p = marker.pose.position
        np.testing.assert_allclose([p.x, p.y, p.z], geom.position, atol=1e-9)
        assert marker.header.frame_id == (f"scene/{geom.body}" if geom.body else WORLD_FRAME)
        assert marker.frame_locked == bool(geom.body)
    assert {marker.ns for marker in markers} == {"scene", "walls"}
    # Once; where the bodies are comes again and again.
    poses: list[MultiDOFJointState] = []
    late.create_subscription(MultiDOFJointState, topics.SCENE_POSES, poses.append, topics.COMMAND_QOS)
    graph.spin_until(lambda: len(poses) > 5, 10)
    assert len(heard["scene"]) == 1
    _, places = messages.poses_from_msg(poses[-1])
    assert set(places) == {f"scene/{name}" for name in node.simulation.body_poses()}
    frames = {marker.header.frame_id for marker in markers} - {WORLD_FRAME}
    assert frames == set(places)


def test_realtime_begins_with_motion_and_holds_without_commands(graph: ros_graph.Graph) -> None:
    node = simulator(graph, mode="realtime", max_steps=60, episodes=2)
    peer = graph.add(Peer())
    graph.spin_until(lambda: len(peer.heard[topics.EEF_POSE]) > 10, 30)
    # It observes, but time does not pass in the task before the first command that moves.
    assert node.phase == "waiting" and node.episode.steps == 0
    peer.rows = [np.zeros(7)]
    graph.spin(0.5)
    assert node.phase == "waiting"
    peer.rows = [np.array([0.0, 0.0, 0.02, 0.0, 0.0, 0.0, 0.0])]
    graph.spin_until(lambda: node.episode.steps >= 10, 30)
    assert node.episode.held < 10
    # The policy dies: hold, and go on at 20 Hz.
    peer.rows = None
    missed, steps = node.episode.missed, node.episode.steps
    graph.spin_until(lambda: node.episode.missed >= missed + 10, 10)
    assert node.episode.steps - steps <= 14
    height = node.simulation.observe(False)["robot0_eef_pos"][2]
    graph.spin_until(lambda: peer.status() and "no command in this period" in peer.status().summary, 5)
    assert abs(node.simulation.observe(False)["robot0_eef_pos"][2] - height) < 2e-3
    # It is back: so is the motion.
    peer.rows = [np.array([0.0, 0.0, 0.03, 0.0, 0.0, 0.0, 0.0])]
    graph.spin_until(lambda: node.simulation.observe(False)["robot0_eef_pos"][2] > height + 0.02, 10)
    graph.spin_until(peer.results, 20)
    (result,) = peer.results()
    assert result["steps"] == 60 and result["held"] == result["missed"] >= 10
    # The next episode begins after a silence, so that nobody takes it for a continuation.
    graph.spin_until(lambda: node.episode.index == 1 and node.phase == "running", 10)
    stamps = np.array(peer.stamps(topics.EEF_POSE))
    assert np.diff(stamps).max() >= 1_000_000_000
    assert node.count_publishers(topics.CLOCK) == 0


@pytest.mark.slow
def test_below_real_time_no_step_is_left_out_however_slow_the_machine_is(
    graph: ros_graph.Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A simulator that needs twice the wall time that a period has: simulated time waits for it."""
    step = Simulation.step

    def slowly(simulation: Simulation, row: np.ndarray) -> None:
        time.sleep(0.2)
        step(simulation, row)

    monkeypatch.setattr(Simulation, "step", slowly)
    node = simulator(graph, mode="realtime", speed=0.5, episodes=2, max_steps=8)
    peer = graph.add(Peer(cameras=()))
    graph.spin_until(lambda: len(peer.heard[topics.EEF_POSE]) > 3, 30)
    peer.rows = [np.array([0.0, 0.0, 0.01, 0.0, 0.0, 0.0, 0.0])]
    graph.spin_until(lambda: len(peer.results()) == 2, 60)
    for result in peer.results():
        assert (result["steps"], result["rate"], result["missed"]) == (8, 20.0, 0)
        assert result["overruns"] > 0 and result["achieved_speed"] < 0.25
    stamps = np.array(peer.stamps(topics.EEF_POSE))
    assert stamps[0] > 1_000 * 10**9
    gaps = np.diff(stamps)
    pause = gaps.argmax()
    assert set(np.delete(gaps, pause)) == {PERIOD_NS}
    assert gaps[pause] >= 10**9  # of simulated time
    times = np.array([messages.stamp_ns(msg.clock) for msg in peer.heard[topics.CLOCK]])
    assert np.median(np.diff(times)) == 5_000_000 and set(stamps[len(stamps) // 2 :]) <= set(times) | {stamps[-1]}
    assert node.seconds() == pytest.approx(times[-1] / 1e9, abs=0.05)


def test_a_second_clock_is_refused(
    graph: ros_graph.Graph, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sole_simulator, "_LEASE_SECONDS", 1.0)
    graph.add(Node("other")).create_publisher(Clock, topics.CLOCK, topics.SENSOR_QOS)
    node = simulator(graph, mode="realtime", speed=0.5)
    graph.spin_until(lambda: node.exit_status == 2, 10)
    assert capsys.readouterr().err.startswith("/clock has a publisher already, /other in ROS domain")


def test_lockstep_has_no_speed(graph: ros_graph.Graph) -> None:
    with pytest.raises(ValueError, match=r"parameter speed is 0\.5, 1 expected in lockstep"):
        simulator(graph, speed=0.5)


def test_realtime_keeps_its_rate(graph: ros_graph.Graph) -> None:
    """By the median, and without pictures, which nobody draws if nobody looks."""
    if os.getloadavg()[0] > 2 * (os.cpu_count() or 1):
        pytest.skip("the machine is too busy to measure a rate")
    simulator(graph, mode="realtime")
    peer = graph.add(Peer(cameras=()))
    peer.rows = [np.array([0.0, 0.0, 0.01, 0.0, 0.0, 0.0, 0.0])]
    graph.spin_until(lambda: len(peer.heard[topics.EEF_POSE]) > 60, 60)
    periods = np.diff(peer.stamps(topics.EEF_POSE)[10:])
    assert abs(np.median(periods) - PERIOD_NS) < 0.2 * PERIOD_NS


def test_second_simulator_is_refused(graph: ros_graph.Graph, capsys: pytest.CaptureFixture[str]) -> None:
    first = simulator(graph, mode="realtime")
    graph.spin_until(lambda: first.phase == "waiting", 10)
    second = simulator(graph)
    graph.spin_until(lambda: second.exit_status is not None, 10)
    assert second.exit_status == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("/eef_pose has a publisher already, /simulation in ROS domain")
    assert first.exit_status is None


def test_publisher_that_was_killed_does_not_count(graph: ros_graph.Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays in the graph for a while, silently: wait for it to go; if it does not, it lives."""
    other = graph.add(Node("other"))
    publisher = other.create_publisher(PoseStamped, topics.EEF_POSE, topics.SENSOR_QOS)
    node = simulator(graph)
    graph.spin(2.0)
    assert node.phase == "checking" and node.exit_status is None
    other.destroy_publisher(publisher)
    graph.spin_until(lambda: node.phase == "waiting", 10)
    graph.remove(node)
    monkeypatch.setattr(sole_simulator, "_LEASE_SECONDS", 1.0)
    other.create_publisher(PoseStamped, topics.EEF_POSE, topics.SENSOR_QOS)
    node = simulator(graph)
    graph.spin_until(lambda: node.exit_status == 2, 10)


@pytest.mark.parametrize("mode", ["lockstep", pytest.param("realtime", marks=pytest.mark.slow)])
def test_second_simulator_that_appears_later_is_an_error(graph: ros_graph.Graph, mode: str) -> None:
    node = simulator(graph, mode=mode)
    peer = graph.add(Peer())
    peer.rows = [np.array([0.0, 0.0, 0.01, 0.0, 0.0, 0.0, 0.0])]
    graph.spin_until(lambda: node.episode.steps >= 3, 30)
    publisher = graph.add(Node("other")).create_publisher(PoseStamped, topics.EEF_POSE, topics.SENSOR_QOS)
    pose = messages.pose_to_msg((0.0, 0.0, 1.0), (0.0, 0.0, 0.0, 1.0), 5, WORLD_FRAME)
    seen = []

    def disturbed() -> bool:
        publisher.publish(pose)
        graph.spin(0.02)  # not as fast as this process can: the queues keep five
        status = peer.status()
        if status and status.level == messages.ERROR:
            seen.append(status.summary)
        return bool(seen)

    graph.spin_until(disturbed, 20)
    assert seen[0] == "holding: 2 publishers on /eef_pose, one expected: /other and /simulation"
    steps, held = node.episode.steps, node.episode.held
    graph.spin(0.5)
    if mode == "lockstep":
        assert node.episode.steps == steps
    else:
        assert node.episode.held - held == node.episode.steps - steps > 0
    # It goes away: so does the hold.
    graph.spin_until(lambda: node.episode.steps - node.episode.held > steps - held + 5, 20)


def test_video_of_an_episode(graph: ros_graph.Graph, tmp_path: Path) -> None:
    from test_video import decode

    node = simulator(graph, episodes=1, max_steps=5, view="frontview", output_dir=str(tmp_path / "videos"))
    peer = graph.add(Peer())
    peer.rows = random_rows(5)
    graph.spin_until(lambda: node.phase == "drawing", 60)
    state = node.simulation.state_hash()
    graph.spin_until(lambda: node.exit_status is not None, 60)
    assert node.simulation.state_hash() == state
    (result,) = graph.spin_until(peer.results)
    assert result["state_sha256"] == state
    path = tmp_path / "videos" / f"episode_001_seed_{SEED}.mp4"
    assert result["video"] == str(path)
    frames = decode(path, 432, 576)
    assert len(frames) == 6 + 20  # each observation that was answered, the last, and a second that says how it ended
    assert np.abs(frames[0].astype(int) - frames[5]).mean() > 0.1
    assert frames[-1].mean() < 0.7 * frames[5].mean()


def test_stopping_while_a_video_is_drawn_leaves_nothing(graph: ros_graph.Graph, tmp_path: Path) -> None:
    node = simulator(graph, episodes=1, max_steps=30, view="agentview", output_dir=str(tmp_path))
    peer = graph.add(Peer())
    peer.rows = random_rows(30)

    def drawing() -> bool:
        """Until it is whole the file has no name; ffmpeg's process tells that it has begun."""
        return any("ffmpeg" in child.name() for child in psutil.Process().children())

    graph.spin_until(lambda: node.phase == "drawing" and drawing(), 60)
    graph.remove(node)
    assert not drawing()
    assert list(tmp_path.iterdir()) == []


def test_video_that_cannot_be_written_is_reported(graph: ros_graph.Graph, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    node = simulator(graph, episodes=1, max_steps=2, view="frontview", output_dir=str(folder))
    folder.rmdir()
    peer = graph.add(Peer())
    peer.rows = random_rows(2)
    graph.spin_until(lambda: node.exit_status is not None, 60)
    assert node.exit_status == 0
    (result,) = graph.spin_until(peer.results)
    assert "video" not in result


def test_bad_parameters_are_one_line(graph: ros_graph.Graph, tmp_path: Path) -> None:
    for parameters, expected in (
        ({"task": "walk"}, "parameter task is 'walk', one of lift, can, square expected"),
        ({"view": "nowhere"}, "view 'nowhere': expected one of frontview"),
        ({"episodes": -1}, "parameter episodes is -1, at least 0 expected"),
    ):
        with pytest.raises(ValueError, match=expected) as failure:
            simulator(graph, **parameters)
        assert "\n" not in str(failure.value)


def test_transforms_are_the_poses(graph: ros_graph.Graph) -> None:
    simulation = Simulation("lift")
    frame = simulation.observe(images=False)
    placed = simulation_node.placed(simulation, frame)
    moving = {child: messages.transform_to_msg(p, q, 7, parent, child) for p, q, parent, child in placed}
    assert set(moving) == {"robot0_eef", *map(optical_frame, CAMERAS)}
    eef = moving["robot0_eef"].transform.translation
    np.testing.assert_array_equal([eef.x, eef.y, eef.z], frame["robot0_eef_pos"])
    for camera in CAMERAS:
        transform = moving[optical_frame(camera)].transform
        q = transform.rotation
        ahead = Rotation.from_quat([q.x, q.y, q.z, q.w]).apply([0.0, 0.0, 1.0])
        assert ahead[2] < -0.3  # both look down
    simulation.close()


def test_episode_ends_with_success_or_at_its_length() -> None:
    row = np.ones(7)
    for after, steps in ((0, 3), (2, 5)):
        episode = Episode(0, 1, max_steps=100, stop_after_success=after)
        while not episode.over:
            episode.executed(row, success=episode.steps == 2)  # and it does not last
        assert (episode.steps, episode.success) == (steps, True)
    episode = Episode(0, 1, max_steps=4)
    while not episode.over:
        episode.executed(np.zeros(7), success=False, missed=episode.steps == 1)
    result = episode.result("state")
    assert (result["steps"], result["success"], result["held"], result["missed"]) == (4, False, 4, 1)


class Transforms(MultiDOFJointState):
    """tf2_msgs is not on every machine: its transforms go as places by name."""

    def __init__(self, transforms: Iterable[Any]) -> None:
        said = list(transforms)
        super().__init__(joint_names=[f"{t.header.frame_id} {t.child_frame_id}" for t in said])
        self.transforms = [t.transform for t in said]


def test_scene_frames_are_said_on_tf_where_the_simulator_does_not(
    graph: ros_graph.Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "TFMessage", Transforms)
    source = graph.add(Node("simulator"))
    node = graph.add(scene_frames_node.SceneFramesNode())
    said: list[MultiDOFJointState] = []
    viewer = graph.add(Node("viewer"))
    viewer.create_subscription(MultiDOFJointState, topics.TF, said.append, topics.SENSOR_QOS)
    poses = source.create_publisher(MultiDOFJointState, topics.SCENE_POSES, topics.COMMAND_QOS)
    place = np.array([1.0, 2.0, 3.0])
    pose = messages.poses_to_msg({"scene/can": (place, np.array([0.0, 0.0, 0.0, 1.0]))}, 7, "world")

    def heard() -> bool:
        poses.publish(pose)
        return bool(said)

    graph.spin_until(heard, 10)
    assert said[0].joint_names == ["world scene/can"] and said[0].transforms[0].translation.y == 2.0
    # A simulator that says it by itself is not spoken over.
    source.create_publisher(MultiDOFJointState, topics.TF, topics.SENSOR_QOS)
    graph.spin_until(lambda: not node._needed, 10)
    graph.spin(0.3)
    said.clear()
    for _ in range(10):
        poses.publish(pose)
        graph.spin(0.05)
    assert said == []


def test_scene_frames_need_tf2_msgs(graph: ros_graph.Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "TFMessage", None)
    with pytest.raises(ValueError, match="tf2_msgs: not installed"):
        scene_frames_node.SceneFramesNode()
