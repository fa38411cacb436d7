"""The recorder: what it hears is in the bag as it came, with the contract and the episodes, whatever goes wrong."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_policy
import numpy as np
import pytest
import ros_graph
import yaml
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Reader
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState, Joy
from std_msgs.msg import Float64, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros import bag_recovery, bags, robot_file
from diffusion_ros.bags import BagWriter, OfferedQos
from diffusion_ros.control.recorded_episodes import EpisodeError, RecordedEpisodes
from diffusion_ros.control.stream_gaps import StreamGaps
from diffusion_ros.nodes.recorder_node import RecorderNode
from diffusion_ros.robot import ACTION_NAMES, CAMERAS
from diffusion_ros.ros import bag_thread, messages, topics
from diffusion_ros.ros.bag_thread import BagThread
from diffusion_ros.ros.runner import run
from diffusion_ros.systems.arm import REAL_ROBOT, REHEARSAL, SIMULATION
from diffusion_ros.systems.startup import UsageError, decide

ROOT = Path(__file__).parents[1]
PERIOD = 50_000_000


def read(folder: Path) -> dict[str, list[tuple[int, bytes]]]:
    found: dict[str, list[tuple[int, bytes]]] = {}
    with Reader(folder) as reader:
        for connection, received_ns, data in reader.messages():
            found.setdefault(connection.topic, []).append((received_ns, data))
    return found


def events(folder: Path) -> list[dict[str, Any]]:
    return [bags.json_of(data) for _, data in read(folder).get("/recording_event", [])]


# -- episodes ---------------------------------------------------------------------------------------------------------


def test_episodes_run_one_at_a_time_and_the_last_can_be_thrown_away() -> None:
    episodes = RecordedEpisodes()
    with pytest.raises(EpisodeError, match=r"^no episode runs, one expected for success$"):
        episodes.finish("success")
    with pytest.raises(EpisodeError, match=r"^no episode to discard"):
        episodes.discard()
    assert episodes.start() == {"event": "start", "episode": 0}
    with pytest.raises(EpisodeError, match=r"^episode 0 runs already, none expected$"):
        episodes.start()
    assert episodes.finish("failure", "dropped") == {"event": "failure", "episode": 0, "reason": "dropped"}
    assert episodes.discard() == {"event": "discard", "episode": 0}
    with pytest.raises(EpisodeError):
        episodes.discard()
    episodes.start()
    assert episodes.discard() == {"event": "discard", "episode": 1} and not episodes.running
    episodes.start()
    episodes.finish("success")
    assert episodes.counts == {"success": 1, "failure": 0, "end": 0, "discard": 2} and episodes.number == 2


def test_a_simulators_episodes_are_the_recordings() -> None:
    episodes = RecordedEpisodes()
    assert episodes.acted(lockstep=False) is None  # a robot of its own: a person says when
    assert episodes.heard({"event": "waiting", "acting": False}) is None
    assert episodes.acted(lockstep=False) == {"event": "start", "episode": 0}
    # News of before the action, which came after it.
    assert episodes.heard({"event": "waiting", "acting": False}) is None and episodes.running
    assert episodes.acted(lockstep=False) is None
    assert episodes.heard({"event": "running", "acting": True}) is None
    over = {"event": "drawing", "success": True, "index": 0, "seed": 7}
    assert episodes.heard(over) == {"event": "success", "episode": 0, "index": 0, "seed": 7}
    # The rest of a chunk that was under way begins no episode; nor does the result end another one.
    assert episodes.acted(lockstep=False) is None
    assert episodes.heard({"event": "end", "result": {"success": True}}) is None
    assert episodes.acted(lockstep=False) is None
    assert episodes.acted(lockstep=True) == {"event": "start", "episode": 1}
    assert episodes.heard({"event": "end", "success": True, "result": {"success": False}})["event"] == "failure"
    # Nobody says what is executed.
    assert episodes.heard({"event": "running", "acting": False}) is None
    assert episodes.heard({"event": "running", "acting": True}) == {"event": "start", "episode": 2}
    # Its service ~/reset.
    assert episodes.heard({"event": "pausing"})["event"] == "discard"


# -- gaps -------------------------------------------------------------------------------------------------------------


def test_what_is_missing_and_what_is_late_is_counted_by_stamps() -> None:
    gaps = StreamGaps(100_000_000)
    offset = 7_000_000_000  # the clock of the stamps is behind ours
    rng = np.random.default_rng(0)
    stamps = [i * 33_000_000 + int(rng.integers(-3_000_000, 3_000_000)) for i in range(100)]
    for i, stamp in enumerate(stamps):
        if i not in (40, 60, 61, 62):
            gaps.came(stamp, stamp + offset + int(rng.integers(0, 30_000_000)), counted=True)
    assert (gaps.missing, gaps.late) == (4, 0)
    gaps.came(stamps[-1] + 33_000_000, stamps[-1] + offset + 200_000_000, counted=True)
    assert (gaps.missing, gaps.late) == (4, 1)
    gaps.came(stamps[-1] + 9_000_000_000, stamps[-1] + 9_000_000_000 + offset, counted=False)  # between episodes
    gaps.came(3, offset + 3, counted=True)  # the clock was set back
    assert (gaps.missing, gaps.late) == (4, 1)


def test_jitter_of_a_fast_stream_is_no_gap() -> None:
    gaps = StreamGaps(100_000_000)
    for i in range(200):
        stamp = i * 1_000_000 + (i % 2) * 900_000
        gaps.came(stamp, stamp, counted=True)
    assert gaps.missing == 0


# -- the thread -------------------------------------------------------------------------------------------------------

POSES = ("geometry_msgs/msg/PoseStamped", OfferedQos("reliable"))


@pytest.fixture
def bag(tmp_path: Path) -> BagWriter:
    return BagWriter(tmp_path / "bag", {"version": 1, "topics": {}})


def test_what_comes_beyond_the_queue_is_dropped_and_counted_and_nobody_waits(
    bag: BagWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = threading.Event()
    write = bag.write
    monkeypatch.setattr(bag, "write", lambda *a: (stuck.wait(10), write(*a)))  # a disk that does not answer
    thread = BagThread(bag, 10_000, 0)
    size = 1000 - bag_thread._NOTHING
    taken = [thread.put("/pose", POSES, i, bytes([i]) * size) for i in range(30)]
    assert taken == [True] * 10 + [False] * 20 and thread.dropped == {"/pose": 20}
    thread.event(99, {"event": "start", "episode": 0})  # an event is never dropped
    stuck.set()
    thread.close()
    found = read(bag.folder)
    assert [data[:1] for _, data in found["/pose"]] == [bytes([i]) for i in range(10)]
    assert len(found["/recording_event"]) == 1 and thread.written == 10 and thread.stopped == "closed"


def test_a_disk_that_is_nearly_full_is_said_and_one_that_is_full_ends_the_bag(
    bag: BagWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    thread = BagThread(bag, 10_000, 1_000_000_000)
    thread.put("/pose", POSES, 1, b"1234")
    monkeypatch.setattr(bag_thread, "FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(bag_thread, "free_bytes", lambda path: 999_000_000)
    thread.tick()
    _until(lambda: thread.full)
    assert thread.full == f"{bag.folder}: 1.00 GB free, at least 1.00 GB expected" and not thread.stopped

    monkeypatch.setattr(bag, "write", _no_space)
    thread.put("/pose", POSES, 2, b"1234")
    _until(lambda: thread.stopped)
    assert thread.stopped == f"{bag.folder}: cannot be written: No space left on device"
    assert not thread.put("/pose", POSES, 3, b"1234") and not thread.dropped
    thread.close()
    assert read(bag.folder)["/pose"] == [(1, b"1234")]


def test_a_bag_that_cannot_be_closed_says_how_to_recover_it(bag: BagWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    thread = BagThread(bag, 10_000, 0)
    thread.put("/pose", POSES, 1, b"1234")

    _until(lambda: thread.written)
    bag.flush()
    monkeypatch.setattr(bag._writer, "close", _no_space)
    thread.close()
    assert thread.stopped.endswith(f"No space left on device: diffusion_ros recover {bag.folder}")
    assert not (bag.folder / "metadata.yaml").exists()
    assert bag_recovery.recover(bag.folder).messages == 2
    assert read(bag.folder)["/pose"] == [(1, b"1234")]


def test_a_type_that_nobody_defines_is_said_and_the_rest_is_recorded(bag: BagWriter) -> None:
    thread = BagThread(bag, 10_000, 0)
    thread.put("/state", ("arm_msgs/msg/State", OfferedQos()), 1, b"1234")
    thread.put("/pose", POSES, 1, b"1234")
    thread.close()
    assert thread.faults["/state"].startswith("arm_msgs/msg/State: no definition of")
    assert set(read(bag.folder)) == {"/recording_contract", "/pose"} and thread.stopped == "closed"


@pytest.mark.parametrize(("kind", "most"), [("jpeg", 12), ("png", 0)])
def test_pictures_are_compressed_as_image_transport_has_them(bag: BagWriter, kind: str, most: int) -> None:
    thread = BagThread(bag, 10_000_000, 0, kind)
    y, x = np.mgrid[:48, :64]
    image = np.stack((x * 3, y * 5, (x + y) * 2), axis=-1).astype(np.uint8)
    camera = ("sensor_msgs/msg/Image", OfferedQos("best_effort"))
    thread.put("/camera/image_raw", camera, 5, serialize_message(messages.image_to_msg(image, 123, "optical")))
    thread.put("/depth", camera, 6, serialize_message(Image(height=2, width=2, encoding="16UC1", step=4, data=[0] * 8)))
    thread.close()
    found = read(bag.folder)
    assert set(found) == {"/recording_contract", "/camera/image_raw/compressed"}
    ((received_ns, content),) = found["/camera/image_raw/compressed"]
    msg = deserialize_message(content, CompressedImage)
    stamp_ns, read_back = messages.compressed_image_from_msg(msg)
    assert (received_ns, stamp_ns, msg.header.frame_id) == (5, 123, "optical")
    assert np.abs(read_back.astype(int) - image).max() <= most and (kind == "png") == np.array_equal(read_back, image)
    assert "16UC1" in thread.refused["/depth"]


def test_a_picture_that_cannot_be_compressed_is_dropped_and_counted_and_the_next_one_is_recorded(
    bag: BagWriter,
) -> None:
    thread = BagThread(bag, 10_000_000, 0, "jpeg")
    camera = ("sensor_msgs/msg/Image", OfferedQos("best_effort"))
    good = bytes(serialize_message(messages.image_to_msg(np.zeros((8, 8, 3), np.uint8), 123, "optical")))
    wide = np.zeros((1, 70_000, 3), np.uint8)  # more than a JPEG can be
    cut = Image(height=8, width=8, encoding="rgb8", step=24, data=[0] * 9)
    bad = [serialize_message(cut), b"\0\1\0\0", serialize_message(messages.image_to_msg(wide, 124, "optical"))]
    for i, content in enumerate([good, *bad, good]):
        assert thread.put("/camera", camera, i, bytes(content))
        _until(lambda: not thread._bytes)
    assert thread.dropped == {"/camera": 3} and not thread.faults
    assert thread.refused == {"/camera": "picture of 70000 x 1: too large for a JPEG"}
    thread.close()
    assert [received_ns for received_ns, _ in read(bag.folder)["/camera/compressed"]] == [0, 4]
    assert thread.stopped == "closed"


def _until(condition: Any) -> None:
    for _ in range(500):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("not within 5 s")


# -- the node ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def graph() -> Iterator[ros_graph.Graph]:
    with ros_graph.graph() as made:
        yield made


class Robot(Node):
    """What a simulator and its executor say; keeps what it said, serialized."""

    def __init__(self) -> None:
        super().__init__("robot")
        kinds = {
            topics.EEF_POSE: (PoseStamped, topics.SENSOR_QOS),
            topics.JOINT_STATES: (JointState, topics.SENSOR_QOS),
            topics.EXECUTED_ACTION: (JointTrajectory, topics.COMMAND_QOS),
            topics.EPISODE: (String, topics.EPISODE_QOS),
            **{topics.image(camera): (Image, topics.SENSOR_QOS) for camera in CAMERAS},
        }
        self.publishers_by_topic = {t: self.create_publisher(kind, t, qos) for t, (kind, qos) in kinds.items()}
        self.said: dict[str, list[bytes]] = {}
        self.recording: list[dict[str, Any]] = []
        self.create_subscription(
            String, topics.RECORDING, lambda msg: self.recording.append(json.loads(msg.data)), topics.DIAGNOSTICS_QOS
        )

    def say(self, topic: str, msg: Any) -> None:
        """The very bytes: those that fill up to the next number are any."""
        self.said.setdefault(f"/{topic}", []).append(bytes(serialize_message(msg)))
        self.publishers_by_topic[topic].publish(self.said[f"/{topic}"][-1])

    def step(self, stamp: int) -> None:
        for i, camera in enumerate(CAMERAS):
            picture = np.full((8, 8, 3), (stamp // PERIOD + i) % 256, np.uint8)
            self.say(topics.image(camera), messages.image_to_msg(picture, stamp, camera))
        self.say(topics.JOINT_STATES, messages.joint_state_to_msg(("a", "b"), (0.1, 0.2), (0.0, 0.0), stamp))
        self.say(topics.EEF_POSE, messages.pose_to_msg((0.1, 0.2, stamp / 1e12), (0, 0, 0, 1), stamp, "world"))

    def act(self, stamp: int) -> None:
        msg = messages.command_to_msg(np.full(7, 0.01), stamp, PERIOD, "world")
        msg.joint_names = [*ACTION_NAMES, "person"]
        msg.points[0].positions = [*msg.points[0].positions, 1.0]
        self.say(topics.EXECUTED_ACTION, msg)

    def news(self, event: str, **more: Any) -> None:
        self.say(topics.EPISODE, messages.episode_to_msg({"event": event, "index": 3, "seed": 9, **more}))


def recorder(graph: ros_graph.Graph, bag: Path, **parameters: Any) -> RecorderNode:
    parameters = {"bag": str(bag), "min_free": 0.0, **parameters}
    node: RecorderNode = graph.add(RecorderNode([Parameter(name, value=value) for name, value in parameters.items()]))
    return node


def connect(graph: ros_graph.Graph, robot: Robot) -> None:
    made = robot.publishers_by_topic.values()
    graph.spin_until(lambda: all(publisher.get_subscription_count() for publisher in made))
    graph.spin(0.2)


def ask(graph: ros_graph.Graph, node: Node, what: str) -> tuple[bool, str]:
    answer = graph.call(node, Trigger, f"/recorder/{what}", Trigger.Request())
    return answer.success, answer.message


def test_what_was_said_is_in_the_bag_byte_for_byte(graph: ros_graph.Graph, tmp_path: Path) -> None:
    checkpoint = fake_policy.save(tmp_path / "policy.pt")
    node = recorder(
        graph, tmp_path / "bag", mode="lockstep", follow_episodes=False, checkpoint=str(checkpoint), topics=["force"]
    )
    robot = graph.add(Robot())
    force = robot.create_publisher(Float64, "force", topics.SENSOR_QOS)
    connect(graph, robot)
    graph.spin_until(force.get_subscription_count)
    graph.spin(0.2)
    force.publish(Float64(data=2.5))
    assert ask(graph, robot, "success") == (False, "no episode runs, one expected for success")
    robot.step(PERIOD)  # what comes before the episode is the first that it begins with
    graph.spin(0.2)
    assert ask(graph, robot, "start") == (True, "episode 0")
    for i in range(2, 12):
        robot.step(i * PERIOD)
        robot.act(i * PERIOD)
        graph.spin(0.02)
    graph.spin_until(lambda: node.state()["steps"] == 10)
    graph.spin_until(lambda: robot.recording and robot.recording[-1]["state"] == "recording")
    assert ask(graph, robot, "success") == (True, "episode 0; 1 success")
    assert ask(graph, robot, "start")[0]
    assert ask(graph, robot, "discard") == (True, "episode 1; 1 success, 1 discard")
    graph.spin_until(lambda: robot.recording[-1]["state"] == "idle")
    graph.remove(node)

    found = read(tmp_path / "bag")
    for topic, said in robot.said.items():
        assert [data for _, data in found[topic]] == said, topic
        received = [received_ns for received_ns, _ in found[topic]]
        assert received == sorted(received)
    assert [deserialize_message(data, Float64).data for _, data in found["/force"]] == [2.5]
    assert [(e["event"], e["episode"]) for e in events(tmp_path / "bag")] == [
        *(("start", 0), ("success", 0), ("start", 1), ("discard", 1))
    ]
    assert events(tmp_path / "bag")[1]["stamp_ns"] == 11 * PERIOD and events(tmp_path / "bag")[1]["steps"] == 10
    contract = bags.json_of(found["/recording_contract"][0][1])
    spec = fake_policy.spec()
    assert contract["spec"] == json.loads(spec.to_json()) and contract["task"] == spec.task
    assert (contract["rate"], contract["robot"], contract["robot_name"]) == (spec.rate, "", "simulation")
    assert contract["action_low"] == list(spec.action_low) and contract["action"] == {}
    for name in spec.input_names:
        assert contract["topics"][name] == f"/{topics.source(name)}"
    assert contract["topics"]["executed_action"] == "/executed_action"
    with AnyReader([tmp_path / "bag"]) as reader:
        (camera,) = (c for c in reader.connections if c.topic == "/agentview/image_raw")
        _, _, data = next(reader.messages([camera]))
        assert reader.deserialize(data, camera.msgtype).height == 8
        assert camera.ext.offered_qos_profiles[0].reliability.name == "RELIABLE"
    # The hashes of the types are those that are on the graph.
    infos = {topic: robot.get_publishers_info_by_topic(topic)[0] for topic in robot.said}
    with Reader(tmp_path / "bag") as reader:
        for connection in reader.connections:
            if connection.topic in infos:
                assert f"RIHS01_{bytes(infos[connection.topic].topic_type_hash.value).hex()}" == connection.digest


def test_a_simulators_episodes_are_followed_and_what_is_between_is_left_out(
    graph: ros_graph.Graph, tmp_path: Path
) -> None:
    node = recorder(graph, tmp_path / "bag", margin=0.2, task="can")
    robot = graph.add(Robot())
    connect(graph, robot)
    stamps: list[int] = []

    def step() -> None:
        stamps.append(robot.get_clock().now().nanoseconds)
        robot.step(stamps[-1])
        graph.spin(0.05)

    step()
    graph.spin(0.4)
    robot.news("waiting")
    for _ in range(2):
        step()
    acted = robot.get_clock().now().nanoseconds
    robot.act(acted)
    for _ in range(10):
        step()
    graph.spin(0.25)  # four pictures too few
    step()
    robot.news("running", acting=True, step=10)
    robot.news("end", result={"success": True, "index": 3, "seed": 9})
    graph.spin_until(lambda: not node.episodes.running and node.episodes.number == 0)
    graph.spin(0.3)
    step()
    dropped = node.dropped()
    graph.spin(0.1)
    node.diagnostics.publish()
    assert node.diagnostics.summary.startswith("messages dropped: ")
    graph.remove(node)
    assert all(3 <= dropped[topic] <= 5 for topic in (topics.image("agentview"), topics.JOINT_STATES))
    found = read(tmp_path / "bag")
    start, end = events(tmp_path / "bag")
    assert (start["event"], start["stamp_ns"]) == ("start", acted)
    assert (end["event"], end["steps"], end["index"], end["seed"]) == ("success", 1, 3, 9)
    assert [bags.stamp_ns(data) for _, data in found["/eef_pose"]] == stamps[1:-1]
    assert len(found["/episode"]) == 3  # these are always written


def test_what_the_middleware_loses_is_counted(graph: ros_graph.Graph, tmp_path: Path) -> None:
    node = recorder(graph, tmp_path / "bag")
    node._on_lost(topics.EXECUTED_ACTION, SimpleNamespace(total_count_change=2))
    node._on_lost(topics.EXECUTED_ACTION, SimpleNamespace(total_count_change=1))
    node._thread.dropped["/executed_action"] = 4
    assert node.dropped() == {topics.EXECUTED_ACTION: 7} and node.state()["dropped"] == 7
    heard = [subscription for subscription in node.subscriptions if subscription.topic_name == "/executed_action"]
    assert any(handler for subscription in heard for handler in subscription.event_handlers)


def test_pictures_that_cannot_be_compressed_are_said_to_be_dropped(graph: ros_graph.Graph, tmp_path: Path) -> None:
    node = recorder(graph, tmp_path / "bag", compress="jpeg", between_episodes=True)
    robot = graph.add(Robot())
    connect(graph, robot)
    name = topics.image(CAMERAS[0])
    robot.say(name, Image(height=2, width=2, encoding="16UC1", step=4, data=[0] * 8))
    graph.spin_until(lambda: node.state()["dropped"] == 1)
    assert node.dropped() == {name: 1}
    robot.say(name, messages.image_to_msg(np.zeros((8, 8, 3), np.uint8), PERIOD, "optical"))
    _until_written(graph, node, 1)
    graph.spin_until(
        lambda: node.diagnostics.summary.startswith(f"messages dropped: {name} 1; /{name}: encoding '16UC1'")
    )
    assert node.state()["dropped"] == 1


def test_a_fault_that_is_found_while_the_faults_are_said_harms_nobody(graph: ros_graph.Graph, tmp_path: Path) -> None:
    node = recorder(graph, tmp_path / "bag")

    class Reason(str):
        __slots__ = ()

        def __format__(self, how: str) -> str:  # what the thread may do at any moment
            node._thread.faults["/wrench"] = "no definition"
            return str(self)

    node._thread.faults["/state"] = Reason("no definition")
    node.diagnostics.publish()
    assert node.diagnostics.summary == "/state: no definition"
    node.diagnostics.publish()
    assert node.diagnostics.summary == "/state: no definition; /wrench: no definition"


def _until_written(graph: ros_graph.Graph, node: RecorderNode, many: int) -> None:
    graph.spin_until(lambda: node.state()["messages"] >= many)


def test_a_full_disk_ends_the_recording_and_the_reason_is_said(
    graph: ros_graph.Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = recorder(graph, tmp_path / "bag", mode="lockstep", min_free=0.001)
    robot = graph.add(Robot())
    connect(graph, robot)
    ask(graph, robot, "start")
    robot.step(PERIOD)
    _until_written(graph, node, 4)
    monkeypatch.setattr(bag_thread, "free_bytes", lambda path: 500_000)
    graph.spin_until(lambda: robot.recording and robot.recording[-1]["state"] == "stopped")
    assert robot.recording[-1]["reason"] == f"{tmp_path / 'bag'}: 0.00 GB free, at least 0.00 GB expected"
    assert ask(graph, robot, "start")[1].startswith("stopped: ")
    robot.step(2 * PERIOD)
    graph.spin(0.1)
    node.diagnostics.publish()
    assert node.diagnostics.summary.startswith("stopped: ") and "GB free" in node.diagnostics.summary
    # Before the node ends, and whole.
    assert [(e["event"], e["episode"]) for e in events(tmp_path / "bag")] == [("start", 0), ("end", 0)]
    assert "GB free" in events(tmp_path / "bag")[1]["reason"]
    assert len(read(tmp_path / "bag")["/eef_pose"]) == 1


def test_what_comes_before_the_time_is_known_is_bounded_and_what_is_said_once_is_kept(
    graph: ros_graph.Graph, tmp_path: Path
) -> None:
    node = recorder(graph, tmp_path / "bag", use_sim_time=True, max_queue=1, topics=["chatter"])
    robot = graph.add(Robot())
    chatter = robot.create_publisher(String, "chatter", topics.COMMAND_QOS)
    clock = robot.create_publisher(Clock, "/clock", topics.SENSOR_QOS)
    connect(graph, robot)
    graph.spin_until(lambda: chatter.get_subscription_count() and clock.get_subscription_count())
    robot.news("waiting")
    graph.spin_until(lambda: node._early_bytes)
    for i in range(20):  # half of max_queue holds four
        chatter.publish(String(data=f"{i:02}" + " " * 100_000))
        graph.spin(0.02)
    graph.spin_until(lambda: node.dropped().get("chatter"))
    graph.spin_until(lambda: node.dropped()["chatter"] == 16)
    assert 400_000 < node._early_bytes <= 500_000
    clock.publish(Clock(clock=Time(sec=7)))
    graph.spin_until(node.now_ns)
    chatter.publish(String(data="20"))
    _until_written(graph, node, 6)
    graph.remove(node)
    found = read(tmp_path / "bag")
    assert [bytes(data[8:10]) for _, data in found["/chatter"]] == [b"16", b"17", b"18", b"19", b"20"]
    assert [data for _, data in found["/episode"]] == robot.said["/episode"]
    assert {received_ns for received_ns, _ in found["/chatter"]} == {7 * 10**9}


def test_a_topic_that_is_named_twice_is_recorded_once(graph: ros_graph.Graph, tmp_path: Path) -> None:
    named = ["eef_pose", "/joint_states", "force", "/force", "force", "camera/camera_info"]
    pictures = {"top_image": {"topic": "camera/a"}, "side_image": {"topic": "camera/b"}}
    content = {**yaml.safe_load(ARM), "observations": {**yaml.safe_load(ARM)["observations"], **pictures}}
    (tmp_path / "arm.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "arm.urdf").write_text("<robot/>")
    node = recorder(
        graph, tmp_path / "bag", robot=str(tmp_path / "arm.yaml"), topics=[*named, "states"], between_episodes=True
    )
    robot = graph.add(Node("driver"))
    kinds = {"eef_pose": PoseStamped, "states": JointState, "joint_states": JointState, "force": Float64}
    made = {topic: robot.create_publisher(kind, topic, topics.SENSOR_QOS) for topic, kind in kinds.items()}
    made["camera/camera_info"] = robot.create_publisher(CameraInfo, "camera/camera_info", topics.SENSOR_QOS)
    graph.spin_until(lambda: all(publisher.get_subscription_count() for publisher in made.values()))
    graph.spin(1.5)  # and whatever looks around once more
    assert {topic: publisher.get_subscription_count() for topic, publisher in made.items()} == dict.fromkeys(made, 1)
    for i in range(20):
        made["states"].publish(messages.joint_state_to_msg(("j1", "j2", "finger"), (0, 0, 0), (0, 0, 0), i * PERIOD))
        made["force"].publish(Float64(data=float(i)))
        graph.spin(0.01)
    _until_written(graph, node, 40)
    graph.spin(0.2)
    graph.remove(node)
    found = read(tmp_path / "bag")
    assert (len(found["/states"]), len(found["/force"])) == (20, 20)


def test_no_episode_begins_once_the_recording_has_stopped(
    graph: ros_graph.Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = recorder(graph, tmp_path / "bag", mode="lockstep")
    robot = graph.add(Robot())
    connect(graph, robot)
    robot.act(PERIOD)
    graph.spin_until(lambda: node.episodes.running)
    monkeypatch.setattr(node._thread.bag, "write", _no_space)
    robot.step(PERIOD)
    graph.spin_until(lambda: node._thread.stopped and not node.episodes.running)
    for i in range(2, 5):
        robot.act(i * PERIOD)
        robot.news("running", acting=True)
        ticks = len(node.diagnostics._ticks[topics.EPISODE]) if topics.EPISODE in node.diagnostics._ticks else 0
        graph.spin_until(lambda many=ticks: len(node.diagnostics._ticks.get(topics.EPISODE, ())) > many)
        graph.spin(0.6)  # what it says, twice a second
    assert (node.episodes.number, node.episodes.counts["end"], node.episodes.running) == (0, 1, False)


NO_NEWS = (
    '{"event": "running", "acting": true, "step": [1]}',
    '{"event": "running", "acting": true, "step": {"a": 1}}',
    '{"event": "running", "acting": true, "step": "many"}',
    '{"event": "running", "acting": true, "step": 1e999}',
    '{"event": "running", "acting": true, "step": NaN}',
    '{"event": "running", "acting": true, "step": -1}',
    '{"event": "running", "acting": true, "step": 1' + "0" * 400 + "}",
    '{"event": "end", "index": NaN}',
    '["running"]',
    "[" * 100_000,
    "running",
    "",
)


def test_what_is_no_news_of_an_episode_is_ignored_and_counted(graph: ros_graph.Graph, tmp_path: Path) -> None:
    node = recorder(graph, tmp_path / "bag")
    robot = graph.add(Robot())
    connect(graph, robot)
    for i, text in enumerate(NO_NEWS):
        robot.say(topics.EPISODE, String(data=text))
        graph.spin_until(lambda many=i + 1: node.diagnostics.values().get("episode news ignored") == str(many))
    assert not node.episodes.running
    robot.publishers_by_topic[topics.EPISODE].publish(b"\0\1\0\0")  # not even a string
    graph.spin_until(lambda: node._ignored == len(NO_NEWS) + 1)
    robot.news("running", acting=True, step=2)
    graph.spin_until(lambda: node.episodes.running)
    robot.say(topics.EPISODE, String(data='{"event": "end", "result": {"success": true, "reward": NaN}}'))
    graph.spin_until(lambda: not node.episodes.running)
    graph.remove(node)
    start, end = events(tmp_path / "bag")
    assert (start["event"], end["event"], end["episode"]) == ("start", "success", 0)
    assert len(read(tmp_path / "bag")["/episode"]) == len(NO_NEWS) + 3  # as it came, whatever it is


def _no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("slow", [False, True])
def test_a_bag_that_is_not_whole_at_the_end_is_an_error_and_says_how_to_recover_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], slow: bool
) -> None:
    goes_on = threading.Event()
    monkeypatch.setattr(bag_thread, "_PATIENCE_SECONDS", 0.2)

    def make() -> RecorderNode:
        node = RecorderNode([Parameter("bag", value=str(tmp_path / "bag")), Parameter("min_free", value=0.0)])
        bag = node._thread.bag
        monkeypatch.setattr(bag._writer, "close", (lambda: goes_on.wait(10)) if slow else _no_space)
        node.create_timer(0.1, lambda: signal.raise_signal(signal.SIGINT))
        return node

    with ros_graph.own_domain():
        status = run(make, [])
    goes_on.set()
    why = "not closed within 0.2 s" if slow else "not closed: [Errno 28] No space left on device"
    said = capfd.readouterr().err
    assert "[ERROR]" in said and f"stopped: closed; {why}: diffusion_ros recover {tmp_path / 'bag'}" in said
    assert status == 1


def test_a_bag_that_is_whole_at_the_end_is_no_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def make() -> RecorderNode:
        node = RecorderNode([Parameter("bag", value=str(tmp_path / "bag")), Parameter("min_free", value=0.0)])
        node.create_timer(0.1, lambda: signal.raise_signal(signal.SIGINT))
        return node

    with ros_graph.own_domain():
        assert run(make, []) == 0
    assert "[ERROR]" not in capfd.readouterr().err
    assert [e["event"] for e in events(tmp_path / "bag")] == ["end"]


def test_the_bag_is_closed_whatever_the_last_messages_are(
    graph: ros_graph.Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = recorder(graph, tmp_path / "bag")

    def fail() -> None:
        raise RuntimeError("of a message")

    monkeypatch.setattr(node, "_take_what_waits", fail)
    with pytest.raises(RuntimeError, match="of a message"):
        node.close()
    assert node._thread.stopped == "closed" and read(tmp_path / "bag")


ARM = """
driver: crisp
base: {frame: base}
tool: {frame: tool}
joints: [j1, j2]
description: {file: arm.urdf}
observations:
  hand: {source: fk, topic: states, latency: 0.01}
  gripper: {topic: states, joints: [finger]}
  top_image: {topic: camera/compressed, qos: reliable}
  side_image: {topic: side/image_raw}
action: {output: pose, topic: target, rate: 50}
limits:
  {linear: 0.4, angular: 1.0, linear_acceleration: 2, angular_acceleration: 4, low: [0, 0, 0], high: [1, 1, 1]}
buttons: {topic: joy, enable: 0, stop: 1}
record: {start: 2, success: 3, failure: 4, discard: 5}
"""


@pytest.fixture
def arm(tmp_path: Path) -> Path:
    (tmp_path / "arm.urdf").write_text("<robot/>")
    path = tmp_path / "arm.yaml"
    path.write_text(ARM)
    return path


def test_a_robots_topics_are_recorded_and_its_buttons_say_what_is_an_episode(
    graph: ros_graph.Graph, tmp_path: Path, arm: Path
) -> None:
    node = recorder(graph, tmp_path / "bag", robot=str(arm), task="pick", rate=10.0, compress="png")
    robot = graph.add(Node("driver"))
    joy = robot.create_publisher(Joy, "joy", topics.COMMAND_QOS)
    states = robot.create_publisher(JointState, "states", topics.BEST_EFFORT_QOS)
    graph.spin_until(lambda: joy.get_subscription_count() and states.get_subscription_count())
    graph.spin(0.2)

    def press(*pressed: int) -> None:
        for held in (pressed, ()):
            joy.publish(Joy(buttons=[int(i in held) for i in range(7)]))
            graph.spin(0.1)

    press(2)  # which may be held since before: the first message only says what is
    assert node.episodes.number == -1
    press(2)
    states.publish(messages.joint_state_to_msg(("j1", "j2", "finger"), (0, 0, 0), (0, 0, 0), 10**9))
    graph.spin(0.1)
    press(3)
    press(2)
    press(2)  # one runs already: said, and nothing else
    press(4)
    press(2)
    press(5)
    assert node.episodes.counts == {"success": 1, "failure": 1, "end": 0, "discard": 1}
    press(2)
    graph.remove(node)
    said = events(tmp_path / "bag")
    assert [e["event"] for e in said] == ["start", "success", "start", "failure", "start", "discard", "start", "end"]
    assert said[-1]["reason"] == "the recorder was stopped"
    contract = bags.json_of(read(tmp_path / "bag")["/recording_contract"][0][1])
    assert (contract["robot"], contract["robot_name"], contract["description"]) == (ARM, "arm", "<robot/>")
    assert (contract["task"], contract["rate"], contract["spec"]) == ("pick", 10.0, None)
    assert contract["frame"] == "base" and contract["action_high"] == [0.04] * 3 + [0.1] * 3 + [1.0]
    assert (
        contract["topics"].items()
        >= {
            "hand": "/states",
            "gripper": "/states",
            "top_image": "/camera/compressed",
            "side_image": "/side/image_raw/compressed",
            "joint_states": "/joint_states",
            "command": "/target",
            "executed_action": "/executed_action",
        }.items()
    )
    assert len(read(tmp_path / "bag")["/states"]) == 1


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (
            {"record": {"start": 1}},
            r"record.start: start, success, failure and discard: a button to start expected, and",
        ),
        ({"record": {"success": 3}}, "record.start: start, success, failure and discard: a button to start expected"),
        ({"record": {"start": 2.5}}, "record.start: 2.5, the number of a button expected"),
        ({"record": {"start": 2, "sucess": 3}}, "record.sucess: unknown key, 'success' expected"),
        ({"record": {"start": 2}, "buttons": None}, "record.topic: missing, a string expected"),
    ],
)
def test_wrong_buttons_are_refused(arm: Path, change: dict[str, Any], rule: str) -> None:
    content = {**yaml.safe_load(ARM), **change}
    arm.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    with pytest.raises(robot_file.RobotFileError) as error:
        robot_file.read(arm)
    assert str(error.value).startswith(f"{arm}: {rule}")


def test_a_topic_of_buttons_of_ones_own_may_have_the_same_numbers(arm: Path) -> None:
    arm.write_text(ARM.replace("record: {start: 2,", "record: {topic: pedal, start: 1,"))
    record = robot_file.read(arm).record
    assert record == robot_file.RecordButtons("pedal", 1, 3, 4, 5)


def test_bad_parameters_are_one_line(graph: ros_graph.Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "x").touch()
    planner = tmp_path / "notes.pt"
    planner.write_text("none")
    for parameters, said in (
        ({"bag": str(tmp_path / "there")}, "there: exists already, a new folder expected"),
        ({"compress": "gif"}, "recorder: parameter compress is 'gif', one of , jpeg, png expected"),
        ({"rate": -1.0}, "recorder: parameter rate is -1.0, at least 0 expected"),
        ({"robot": "nobody"}, "robot 'nobody': expected a YAML file, or one of"),
        ({"checkpoint": str(planner)}, "notes.pt"),
        ({"min_free": 1e9}, "GB free, at least min_free 1e+09 GB expected"),
    ):
        with pytest.raises(ValueError, match=r".") as error:
            recorder(graph, **{"bag": tmp_path / "bag", **parameters})
        assert said in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "bag").exists()


def test_systems_record_where_a_folder_is_given(tmp_path: Path) -> None:
    lift = str(ROOT / "checkpoints/lift_pixels.pt")

    def settle(system: Any, **given: str) -> Any:
        given = {"checkpoint": lift, "output_dir": str(tmp_path / "run"), **given}
        return decide(system, given, ROOT, lambda name: f"--{name}")

    assert "recorder" not in [node.name for node in settle(SIMULATION, task="lift").nodes]
    startup = settle(SIMULATION, task="lift", mode="lockstep", record=str(tmp_path / "bag"), compress="jpeg")
    assert (
        startup.parameters["recorder"].items()
        >= {
            "bag": str(tmp_path / "bag"),
            "checkpoint": lift,
            "task": "lift",
            "mode": "lockstep",
            "compress": "jpeg",
            "follow_episodes": True,
        }.items()
    )
    startup = settle(REAL_ROBOT, robot="franka_crisp", record=str(tmp_path / "bag"))
    assert startup.parameters["recorder"]["robot"].endswith("franka_crisp.yaml")
    assert startup.parameters["recorder"]["mode"] == "realtime"
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "metadata.yaml").touch()
    with pytest.raises(UsageError, match=r"^record .*bag: exists already, a new folder expected$"):
        settle(SIMULATION, task="lift", record=str(tmp_path / "bag"))
    file = str(tmp_path / "bag.mcap")
    for system, given in ((SIMULATION, {"task": "lift"}), (REHEARSAL, {"robot": "franka_crisp", "task": "lift"})):
        assert settle(system, record=file, **given).parameters["recorder"]["bag"] == file
        for bad, said in (("no/x.mcap", "no folder"), ("x.db3", "a folder, or a file named")):
            with pytest.raises(UsageError, match=rf"^record {tmp_path}/{bad}: {said}"):
                settle(system, record=str(tmp_path / bad), **given)
    Path(file).touch()
    with pytest.raises(UsageError, match=r"^record .*bag.mcap: exists already, a new file expected$"):
        settle(REAL_ROBOT, robot="franka_crisp", record=file)
