"""Managed lives: what each state does and does not, who brings nodes to life, and that a stop outlives all of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_guard
import fake_policy
import numpy as np
import pytest
import ros_graph
from fake_planner import fake_planner
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from nav_msgs.srv import GetPlan
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros import checkpoint
from diffusion_ros.nodes.camera_guard_node import CameraGuardNode
from diffusion_ros.nodes.executor_node import ExecutorNode
from diffusion_ros.nodes.lifecycle_manager_node import LifecycleManagerNode
from diffusion_ros.nodes.planner_node import PlannerNode
from diffusion_ros.nodes.policy_node import PolicyNode
from diffusion_ros.robot import WORLD_FRAME
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.lifecycle_manager import LifecycleManager
from diffusion_ros.systems import SYSTEMS

UNCONFIGURED, INACTIVE, ACTIVE = (
    State.PRIMARY_STATE_UNCONFIGURED,
    State.PRIMARY_STATE_INACTIVE,
    State.PRIMARY_STATE_ACTIVE,
)
CONFIGURE, ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE
DEACTIVATE, CLEANUP = Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP


@pytest.fixture
def graph() -> Iterator[ros_graph.Graph]:
    with ros_graph.graph() as made:
        yield made


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    state = fake_policy.spec((*fake_policy.LOW_DIM, *fake_policy.OBJECT))
    return {
        "policy": fake_policy.save(folder / "policy.pt", state),
        "camera_guard": fake_guard.save(folder / "guard.pt"),
        "planner": fake_planner(folder / "planner.pt"),
    }


def make(kind: Callable[..., Any], path: Path, **parameters: Any) -> Any:
    chosen = {"checkpoint": str(path), "autostart": False, **parameters}
    return kind([Parameter(name, value=value) for name, value in chosen.items()])


MADE: dict[str, Callable[[dict[str, Path]], Any]] = {
    "policy": lambda files: make(PolicyNode, files["policy"]),
    "executor": lambda files: make(ExecutorNode, files["policy"], checkpoint_limits=True),
    "planner": lambda files: make(PlannerNode, files["planner"]),
    "camera_guard": lambda files: make(CameraGuardNode, files["camera_guard"]),
}


def change(graph: ros_graph.Graph, peer: Node, name: str, transition: int) -> bool:
    request = ChangeState.Request(transition=Transition(id=transition))
    return bool(graph.call(peer, ChangeState, f"{name}/change_state", request).success)


def state(graph: ros_graph.Graph, peer: Node, name: str) -> int:
    return int(graph.call(peer, GetState, f"{name}/get_state", GetState.Request()).current_state.id)


def topics_of(node: Node) -> set[str]:
    return {entity.topic_name for entity in (*node.publishers, *node.subscriptions)}


@pytest.mark.parametrize("name", MADE)
def test_each_state_can_be_entered_and_left_again(graph: ros_graph.Graph, files: dict[str, Path], name: str) -> None:
    peer, node = graph.add(Node("peer")), graph.add(MADE[name](files))
    before = topics_of(node)
    assert "/diagnostics" not in before and state(graph, peer, name) == UNCONFIGURED
    for _ in range(2):
        assert not change(graph, peer, name, ACTIVATE), "not before it is configured"
        assert change(graph, peer, name, CONFIGURE)
        full = topics_of(node)
        assert "/diagnostics" in full and not node.active
        assert change(graph, peer, name, ACTIVATE) and node.active
        assert change(graph, peer, name, DEACTIVATE) and not node.active
        assert change(graph, peer, name, CLEANUP)
        assert topics_of(node) == before and state(graph, peer, name) == UNCONFIGURED
    assert change(graph, peer, name, CONFIGURE) and topics_of(node) == full


@pytest.mark.parametrize("name", MADE)
def test_by_itself_a_node_is_active_at_once(graph: ros_graph.Graph, files: dict[str, Path], name: str) -> None:
    kinds = {"policy": PolicyNode, "executor": ExecutorNode, "planner": PlannerNode, "camera_guard": CameraGuardNode}
    own = {"checkpoint_limits": True} if name == "executor" else {}
    node = graph.add(make(kinds[name], files.get(name, files["policy"]), autostart=True, **own))
    assert node.active and state(graph, graph.add(Node("peer")), name) == ACTIVE


def test_what_cannot_be_loaded_ends_the_node_as_at_its_start(
    graph: ros_graph.Graph, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peer, path = graph.add(Node("peer")), tmp_path / "policy.pt"
    path.write_bytes(files["policy"].read_bytes())
    node = graph.add(make(PolicyNode, path))
    path.unlink()  # between the look at its specification and its loading
    assert not change(graph, peer, "policy", CONFIGURE)
    assert node.exit_status == 2 and str(path) in capsys.readouterr().err
    assert state(graph, peer, "policy") == UNCONFIGURED
    with pytest.raises(checkpoint.CheckpointError):
        make(PolicyNode, path, autostart=True)


class Robot(Node):
    """Says where its hand is, and keeps what it is told."""

    def __init__(self) -> None:
        super().__init__("robot")
        self.pose = self.create_publisher(PoseStamped, topics.EEF_POSE, topics.SENSOR_QOS)
        self.chunks = self.create_publisher(JointTrajectory, topics.ACTION_CHUNK, topics.COMMAND_QOS)
        self.rows: list[np.ndarray] = []
        self.create_subscription(
            JointTrajectory,
            topics.EEF_COMMAND,
            lambda msg: self.rows.append(messages.command_from_msg(msg)[1]),
            topics.COMMAND_QOS,
        )

    def act(self, period_ns: int = 50_000_000) -> bool:
        """A pose and a chunk of now; whether the newest command moves it."""
        now = int(self.get_clock().now().nanoseconds)
        self.pose.publish(messages.pose_to_msg((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0), now, WORLD_FRAME))
        rows = np.tile([0.01, 0, 0, 0, 0, 0, 0], (9, 1)).astype(float)
        self.chunks.publish(messages.chunk_to_msg(messages_chunk(now, rows, period_ns), WORLD_FRAME))
        return bool(self.rows) and bool(self.rows[-1].any())


def messages_chunk(stamp_ns: int, rows: np.ndarray, period_ns: int) -> Any:
    from diffusion_ros.control.action_chunk import ActionChunk

    return ActionChunk(stamp_ns, rows, period_ns)


def test_an_executor_acts_only_while_it_is_active_and_enabled(graph: ros_graph.Graph, files: dict[str, Path]) -> None:
    robot = graph.add(Robot())
    limits = {"mode": "realtime", "enabled": True, "checkpoint_limits": True, "max_observation_age": 30.0}
    executor = graph.add(make(ExecutorNode, files["policy"], **limits))
    assert change(graph, robot, "executor", CONFIGURE)

    def told(wanted: Callable[[], bool]) -> None:
        def again() -> bool:
            robot.act()
            graph.spin(0.03)
            return wanted()

        graph.spin_until(again)

    told(lambda: len(robot.rows) > 5)
    assert not any(row.any() for row in robot.rows), "an inactive one says hold, and nothing else"
    assert "not active" in executor.diagnostics.summary
    assert change(graph, robot, "executor", ACTIVATE)
    told(lambda: robot.rows[-1].any())
    # At once, in one period or less, and for good.
    assert change(graph, robot, "executor", DEACTIVATE)
    graph.spin(0.1)
    robot.rows.clear()
    told(lambda: len(robot.rows) > 5)
    assert not any(row.any() for row in robot.rows)
    # A stop outlives a whole life.
    assert graph.call(robot, Trigger, "executor/estop", Trigger.Request()).success
    assert change(graph, robot, "executor", CLEANUP)
    assert change(graph, robot, "executor", CONFIGURE) and change(graph, robot, "executor", ACTIVATE)
    robot.rows.clear()
    told(lambda: len(robot.rows) > 5)
    assert not any(row.any() for row in robot.rows) and "emergency stop" in executor.diagnostics.summary


def test_in_lockstep_a_robot_waits_for_an_executor_that_is_not_active(
    graph: ros_graph.Graph, files: dict[str, Path]
) -> None:
    """Else an episode would begin with holds, and its result would hang on how fast things start."""
    robot = graph.add(Robot())
    graph.add(make(ExecutorNode, files["policy"], mode="lockstep", enabled=True, checkpoint_limits=True))
    assert change(graph, robot, "executor", CONFIGURE)
    graph.spin_until(lambda: robot.count_subscribers(topics.EEF_POSE) and robot.count_publishers(topics.EEF_COMMAND))
    graph.spin(0.2)
    robot.act()
    graph.spin(0.5)
    assert not robot.rows
    assert change(graph, robot, "executor", ACTIVATE)

    def moved() -> bool:
        return robot.act() or bool(robot.rows)

    graph.spin_until(moved)
    assert robot.rows[0].any()


def test_a_planner_that_is_not_active_refuses(graph: ros_graph.Graph, files: dict[str, Path]) -> None:
    peer = graph.add(Node("peer"))
    graph.add(make(PlannerNode, files["planner"]))
    assert change(graph, peer, "planner", CONFIGURE)
    plan = graph.call(peer, GetPlan, "planner/plan", GetPlan.Request()).plan
    assert not plan.poses and plan.header.frame_id.startswith("refused: ")


# The manager


def test_the_manager_configures_all_and_activates_in_order(graph: ros_graph.Graph, files: dict[str, Path]) -> None:
    nodes = {name: graph.add(MADE[name](files)) for name in ("executor", "policy")}
    order: list[str] = []
    for name, node in nodes.items():
        activate = node.activate
        node.activate = lambda name=name, activate=activate: (
            order.append(f"{name} of {sum(n.configured for n in nodes.values())}"),
            activate(),
        )
    manager = graph.add(LifecycleManagerNode([Parameter("node_names", value=["policy", "executor"])]))
    graph.spin_until(lambda: manager.manager.active, 20.0)
    assert order == ["policy of 2", "executor of 2"]
    graph.spin_until(lambda: manager.diagnostics.summary == "all are active")
    # One that is started again is brought to life again.
    graph.remove(nodes["policy"])
    again = graph.add(MADE["policy"](files))
    graph.spin_until(lambda: again.active, 20.0)
    assert nodes["executor"].active


def test_at_the_end_the_one_that_acts_is_deactivated_first(graph: ros_graph.Graph, files: dict[str, Path]) -> None:
    nodes = {name: graph.add(MADE[name](files)) for name in ("policy", "executor")}
    order: list[str] = []
    for name, node in nodes.items():
        node.deactivate = lambda name=name: order.append(name)
    peer = graph.add(Node("peer"))
    said: list[str] = []
    manager = LifecycleManager(peer, ["policy", "executor"], said.append)

    def alive() -> bool:
        manager.poll()
        return manager.active

    graph.spin_until(alive, 20.0)
    manager.release(graph.spin, 10.0)
    assert order == ["executor", "policy"] and not said


def test_who_fails_is_named(graph: ros_graph.Graph, files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "policy.pt"
    path.write_bytes(files["policy"].read_bytes())
    graph.add(make(PolicyNode, path))
    path.unlink()
    said: list[str] = []
    manager = LifecycleManager(graph.add(Node("peer")), ["policy"], said.append)

    def failed() -> bool:
        manager.poll()
        return bool(said)

    graph.spin_until(failed, 20.0)
    assert said[0] == "policy could not be brought to life"


def test_systems_manage_what_has_a_managed_life() -> None:
    managed = {"policy", "executor", "planner", "camera_guard"}
    for system in SYSTEMS.values():
        for node in system.nodes:
            assert bool(node.managed) == (node.name in managed)
            assert (node.managed == 2) == (node.name == "executor"), "it acts, so it is the last"
    assert "managed" in {field.name for field in dataclasses.fields(system.nodes[0])}
