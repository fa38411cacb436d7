"""The web node in a graph: what its buttons do, what it says of a system, and that it is silent while nobody looks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image, MultiDOFJointState
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.diagnostics import DiagnosticArray
from diffusion_ros.ros.messages import Status
from diffusion_ros.simulators.scene import SceneGeom
from tests import ros_graph

pytest.importorskip("viser", reason="the extra [web]")

from websockets.sync.client import ClientConnection, connect

from diffusion_ros.nodes.web_node import WebNode

UPRIGHT = np.array([0.0, 0.0, 0.0, 1.0])


@pytest.fixture
def graph() -> Iterator[ros_graph.Graph]:
    with ros_graph.graph() as made:
        yield made


def row_of(msg: JointTrajectory) -> Any:
    """A person's row, None where they let go."""
    return messages.teleop_from_msg(msg)[1]


class Robot(Node):
    """What a page needs of executor and simulator, under the executor's name."""

    def __init__(self) -> None:
        super().__init__("executor")
        self.called: list[str] = []
        self.people: list[JointTrajectory] = []
        self.goals: list[PoseStamped] = []
        self.create_service(SetBool, "~/set_enabled", self._on_enabled)
        self.create_service(Trigger, "~/estop", lambda q, a: self._on("stop", a))
        self.create_service(Trigger, "~/estop_reset", lambda q, a: self._on("release", a))
        self.create_service(Trigger, "simulation/reset", lambda q, a: self._on("reset", a))
        self._status = self.create_publisher(DiagnosticArray, topics.DIAGNOSTICS, topics.DIAGNOSTICS_QOS)
        self._episode = self.create_publisher(String, topics.EPISODE, topics.EPISODE_QOS)
        self.create_subscription(JointTrajectory, topics.TELEOP_ACTION, self.people.append, topics.WATCHED_QOS)
        self.create_subscription(PoseStamped, topics.GOAL, self.goals.append, topics.COMMAND_QOS)
        self.images = self.create_publisher(Image, topics.image("agentview"), topics.SENSOR_QOS)

    def _on(self, name: str, response: Any) -> Any:
        self.called.append(name)
        response.success, response.message = name != "reset", f"{name} done"
        return response

    def _on_enabled(self, request: Any, response: Any) -> Any:
        return self._on("enable" if request.data else "hold", response)

    def say(self, summary: str, **values: str) -> None:
        said = {"estop": "released", "enabled": "True", **values}
        statuses = [Status("executor", "", 0, summary, said), Status("other/executor", "", 2, "another robot's", {})]
        self._status.publish(messages.diagnostics_to_msg(statuses, 0))

    def tell(self, **news: Any) -> None:
        self._episode.publish(messages.episode_to_msg({"event": "running", "index": 0, "seed": 5, **news}))


class Page:
    """A page, as a browser has it."""

    def __init__(self, graph: ros_graph.Graph, node: WebNode, steers: bool = True) -> None:
        self._graph = graph
        host = f"127.0.0.1:{node.server.port}"
        query = f"?token={node.server.address.split('=')[1]}" if steers else ""
        self.socket: ClientConnection = connect(f"ws://{host}/live{query}", origin=f"http://{host}")  # type: ignore[arg-type]
        self.state: dict[str, Any] = {}
        self.answers: list[dict[str, Any]] = []
        self.pictures: list[bytes] = []

    def send(self, **message: Any) -> None:
        self.socket.send(json.dumps(message))

    def read(self) -> None:
        while True:
            try:
                got = self.socket.recv(0)
            except TimeoutError:
                return
            if isinstance(got, bytes):
                self.pictures.append(got)
                continue
            message = json.loads(got)
            if message["kind"] == "seen?":
                self.send(seen=True)
            if message["kind"] == "state":
                self.state = message
            elif message["kind"] == "answer":
                self.answers.append(message)

    def until(self, condition: Callable[[], Any]) -> Any:
        def ready() -> Any:
            self.read()
            return condition()

        return self._graph.spin_until(ready, 30)


def web(graph: ros_graph.Graph, **values: Any) -> WebNode:
    given = {"port": 18180, "control": True, **values}
    node = graph.add(WebNode([Parameter(name, value=value) for name, value in given.items()]))
    assert isinstance(node, WebNode)
    return node


@pytest.fixture
def steering(graph: ros_graph.Graph) -> Iterator[tuple[Robot, WebNode, Page]]:
    robot, node = graph.add(Robot()), web(graph)
    page = Page(graph, node)
    page.until(lambda: "stop" in page.state.get("can", ()))
    yield robot, node, page
    page.socket.close()


def test_buttons_call_their_services_and_say_what_was_answered(steering: tuple[Robot, WebNode, Page]) -> None:
    robot, _, page = steering
    assert page.state["can"] == ["stop", "enable", "hold", "release", "reset"]
    for name in ("stop", "release", "enable", "hold", "reset"):
        page.answers.clear()
        page.send(do=name)
        page.until(lambda: page.answers)
        assert robot.called[-1] == name
        assert page.answers == [{"kind": "answer", "ok": name != "reset", "text": f"{name} done"}]
    page.answers.clear()
    page.send(do="generate")
    page.until(lambda: page.answers)
    assert not page.answers[0]["ok"] and "image_generator/generate" in page.answers[0]["text"]
    assert len(robot.called) == 5


@pytest.mark.parametrize(
    "message",
    [{"do": "enable"}, {"do": "stop"}, {"goal": [1, 1, 0]}, {"drive": {"twist": [1, 0, 0, 0, 0, 0], "grip": ""}}],
)
def test_who_only_looks_changes_nothing(
    graph: ros_graph.Graph, steering: tuple[Robot, WebNode, Page], message: Mapping[str, Any]
) -> None:
    robot, node, _ = steering
    looks = Page(graph, node, steers=False)
    looks.send(**message)
    looks.until(lambda: looks.answers)
    assert "only to look" in looks.answers[0]["text"] and not looks.answers[0]["ok"]
    graph.spin(0.5)
    assert robot.called == [] and robot.people == [] and robot.goals == []
    looks.socket.close()


def test_without_control_there_is_no_token_and_nothing_is_published(graph: ros_graph.Graph, tmp_path: Path) -> None:
    robot = graph.add(Robot())
    node = web(graph, control=False, address_file=str(tmp_path / "address"))
    assert (tmp_path / "address").read_text() == f"http://127.0.0.1:{node.server.port}/\n"
    page = Page(graph, node, steers=False)
    page.send(do="enable")
    page.until(lambda: page.answers)
    assert not page.answers[0]["ok"] and robot.called == []
    assert node.count_publishers("/teleop_action") == node.count_publishers("/goal_pose") == 0
    page.socket.close()


def test_what_the_robot_does_is_on_the_page(graph: ros_graph.Graph, steering: tuple[Robot, WebNode, Page]) -> None:
    robot, _, page = steering

    def said(word: str, reason: str) -> bool:
        banner = page.state.get("banner", {})
        return bool(banner.get("word") == word and reason in banner["reason"])

    def keeps_saying(summary: str, **values: str) -> Callable[[], bool]:
        robot.say(summary, **values)
        robot.tell()
        return lambda: True

    keeps_saying("holding: no chunk yet")
    page.until(lambda: said("HOLDING", "no chunk yet"))
    assert page.state["facts"]["seed"] == 5
    keeps_saying("holding: emergency stop: requested", estop="requested")
    page.until(lambda: said("STOPPED", "software stop"))
    assert [node["name"] for node in page.state["facts"]["nodes"]] == ["executor"]
    # The graph dies, and comes back.
    page.until(lambda: said("SILENT", "has said nothing"))
    keeps_saying("holding: no chunk yet")
    page.until(lambda: said("HOLDING", "no chunk yet"))


def test_a_second_page_sees_the_same_and_the_last_half_minute(
    graph: ros_graph.Graph, steering: tuple[Robot, WebNode, Page]
) -> None:
    robot, node, page = steering
    robot.say("holding: no chunk yet")
    robot.tell()
    page.until(lambda: page.state["banner"]["word"] == "HOLDING")
    second = Page(graph, node, steers=False)
    second.until(lambda: second.state)
    assert second.state["banner"] == page.state["banner"] and node.server.pages == 2
    second.socket.close()
    page.until(lambda: node.server.pages == 1)


def test_the_dead_man_gives_back_when_it_is_let_go_and_when_the_page_is_gone(
    graph: ros_graph.Graph, steering: tuple[Robot, WebNode, Page]
) -> None:
    robot, node, page = steering

    def drive(by: Page) -> Callable[[], bool]:
        def again() -> bool:
            by.send(drive={"twist": [1, 0, 0, 0, 0, 0], "grip": "close"})
            time.sleep(0.02)
            return any(row_of(msg) is not None for msg in robot.people)

        return again

    page.until(drive(page))
    row = next(row for row in (row_of(msg) for msg in robot.people) if row is not None)
    assert row[0] == pytest.approx(0.1 / 20) and row[6] == 1.0  # 0.1 m/s at 20 Hz
    # Another page may not while this one does.
    other = Page(graph, node)
    other.send(drive={"twist": [0, 1, 0, 0, 0, 0], "grip": ""})
    page.send(drive={"twist": [1, 0, 0, 0, 0, 0], "grip": ""})
    other.until(lambda: other.answers)
    assert "another page drives" in other.answers[0]["text"]
    page.send(drive=None)
    graph.spin_until(lambda: row_of(robot.people[-1]) is None, 10)
    count = len(robot.people)
    graph.spin(0.5)
    assert len(robot.people) == count
    # A page that is gone without a word.
    robot.people.clear()
    other.until(drive(other))
    other.socket.close()
    graph.spin_until(lambda: row_of(robot.people[-1]) is None, 10)
    # And one that is silent.
    robot.people.clear()
    page.until(drive(page))
    graph.spin_until(lambda: row_of(robot.people[-1]) is None, 10)


@pytest.mark.parametrize(
    "wanted", [{"twist": [1, 0, 0]}, {"twist": [float("nan")] * 6}, {"twist": ["1"] * 6}, {"twist": [True] * 6}, 7, {}]
)
def test_a_twist_that_is_none_lets_go(steering: tuple[Robot, WebNode, Page], wanted: object) -> None:
    robot, _, page = steering
    page.send(drive=wanted)
    page.until(lambda: page.answers)
    assert "six numbers" in page.answers[0]["text"] and robot.people == []


@pytest.mark.parametrize("place", [[1.0, 2.0], ["a", 0, 0], [1e9, 0, 0], None, {"x": 1}, [[1, 2, 3]]])
def test_a_goal_that_is_no_place_is_refused(steering: tuple[Robot, WebNode, Page], place: object) -> None:
    robot, _, page = steering
    page.send(goal=place)
    page.until(lambda: page.answers)
    assert not page.answers[0]["ok"] and robot.goals == []


def test_a_goal_is_told_to_the_planner(steering: tuple[Robot, WebNode, Page]) -> None:
    robot, _, page = steering
    page.send(goal=[1.0, -2.0, 0.0])
    page.until(lambda: robot.goals)
    p = robot.goals[0].pose.position
    assert (p.x, p.y, p.z) == (1.0, -2.0, 0.0) and robot.goals[0].header.frame_id == ""


@pytest.mark.parametrize(("place", "free"), [
    ([-1.0, 1.0, 0.0], True), ([0.4, 1.4, 0.0], True), ([0.6, 1.0, 0.0], False), ([-1.0, 0.4, 0.0], False),
    ([-1.0, 9.0, 0.0], False), ([-9.0, 1.0, 0.0], False),
])  # fmt: skip
def test_a_goal_in_a_mazes_wall_is_refused_on_the_page(
    steering: tuple[Robot, WebNode, Page], place: list[float], free: bool
) -> None:
    """The goal that there is stays the one that is shown."""
    robot, node, page = steering
    walls = [[1, 1, 1, 1, 1], [1, 0, 0, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]]
    node._watch.map |= {"walls": walls, "rows": 5, "columns": 5, "goal": [-1.0, 1.2, 0.0]}
    page.send(goal=place)
    page.until(lambda: page.answers)
    assert page.answers[0]["ok"] == free
    if free:
        page.until(lambda: robot.goals)
    else:
        assert "in a wall, or outside" in page.answers[0]["text"] and robot.goals == []
        np.testing.assert_allclose(node.view._goal, [-1.0, 1.2, 0.0])


def test_pictures_are_heard_while_somebody_looks(graph: ros_graph.Graph) -> None:
    robot, node = graph.add(Robot()), web(graph)
    graph.spin(1.5)
    assert robot.images.get_subscription_count() == 0
    page = Page(graph, node)
    picture = np.full((40, 60, 3), 200, np.uint8)

    def publish() -> bool:
        robot.images.publish(messages.image_to_msg(picture, time.time_ns(), "camera"))
        return bool(page.pictures)

    page.until(publish)
    assert b'"agentview/image_raw"' in page.pictures[0] and page.pictures[0].endswith(b"\xff\xd9")
    page.socket.close()
    graph.spin_until(lambda: robot.images.get_subscription_count() == 0, 10)


def test_the_scene_is_drawn_and_moved(graph: ros_graph.Graph) -> None:
    node = web(graph)
    source = graph.add(Node("simulation"))
    scene = source.create_publisher(MarkerArray, topics.SCENE, topics.DESCRIPTION_QOS)
    poses = source.create_publisher(MultiDOFJointState, topics.SCENE_POSES, topics.COMMAND_QOS)
    geoms = [
        SceneGeom("wall", "box", (1.0, 1.0, 0.1), np.zeros(3), UPRIGHT, (1.0, 1.0, 1.0, 1.0)),
        SceneGeom("can", "cylinder", (0.03, 0.06, 0.0), np.zeros(3), UPRIGHT, (1.0, 0.0, 0.0, 1.0), body="can"),
    ]
    scene.publish(messages.scene_to_msg(geoms, 0, "world", {"can": "scene/can"}))
    page = Page(graph, node)
    place = np.array([0.1, 0.2, 0.3])

    def moved() -> bool:
        poses.publish(messages.poses_to_msg({"scene/can": (place, UPRIGHT)}, 0, "world"))
        handle = node.server.viser.scene.get_handle_by_name("/scene/scene_can")
        return handle is not None and bool(np.allclose(handle.position, place))

    page.until(moved)
    assert node.server.viser.scene.get_handle_by_name("/scene/scene_can/scene_1") is not None
    walls = node.server.viser.scene.get_handle_by_name("/walls")
    assert walls is not None and not walls.visible
    page.send(show="walls", visible=True)
    page.until(lambda: walls.visible)
    page.send(show="nothing", visible=True)
    page.send(show="walls", visible="yes")
    page.until(lambda: page.state.get("visible", {}).get("walls") is True)
    page.socket.close()


def test_a_node_that_is_started_again_keeps_its_token(graph: ros_graph.Graph, tmp_path: Path) -> None:
    file = tmp_path / "address"
    first = web(graph, address_file=str(file))
    address = first.server.address
    assert file.read_text().strip() == address and "?token=" in address
    graph.remove(first)
    assert web(graph, address_file=str(file)).server.address == address
