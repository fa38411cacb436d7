"""Plans of an arm's hand: what they are made of, who follows them, and the whole way through the executor node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_planner import fake_arm_planner
from geometry_msgs.msg import PoseStamped
from nav_msgs.srv import GetPlan
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros_graph import Graph, graph
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from diffusion_ros import checkpoint
from diffusion_ros.control.hand_follower import (
    HAND_RADIUS,
    REMAINS,
    STEP_LENGTH,
    STRAY,
    ArmFollower,
    arm_state,
    rotation_of,
)
from diffusion_ros.models.hand_planner import make_planner, smoothed
from diffusion_ros.models.planner import Plan, PlanError, clearance, leads_into
from diffusion_ros.nodes.executor_node import ExecutorNode
from diffusion_ros.nodes.planner_node import PlannerNode
from diffusion_ros.nodes.simulation_node import SimulationNode
from diffusion_ros.robot import FINGERS
from diffusion_ros.ros import messages, topics
from diffusion_ros.simulators.arm import Simulation

COLUMNS = {"action": slice(0, 7), "position": slice(7, 10), "rotation": slice(10, 16), "gripper": slice(16, 17)}
DOWN = np.array([1.0, 0.0, 0.0, 0.0])
PATIENT = Parameter("max_state_age", value=30.0)


@pytest.fixture(scope="module")
def planner_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_arm_planner(tmp_path_factory.mktemp("arm") / "arm.pt")


@pytest.fixture
def parameters(planner_path: Path) -> list[Parameter[Any]]:
    return [Parameter("checkpoint", value=str(planner_path))]


def straight(rows: int = 5, stride: int = 2) -> Plan:
    """0.012 m along x a row, turning 0.1 rad about z a row."""
    turns = Rotation.from_rotvec([[0, 0, 0.1 * i] for i in range(rows)])
    values = np.zeros((rows, 17))
    values[:, 0], values[:, 6] = 0.01, -1.0
    values[:, 7] = 0.012 * np.arange(rows)
    values[:, 10:16] = turns.as_matrix()[:, :, :2].transpose(0, 2, 1).reshape(rows, 6)
    return Plan(values, stride, COLUMNS)


def test_planned_rotations_are_the_nearest() -> None:
    turns = Rotation.random(5, rng=0)
    columns = turns.as_matrix()[:, :, :2].transpose(0, 2, 1).reshape(5, 6)
    rough = columns * np.repeat([[1.3, 0.8]], 3, axis=1).reshape(1, 6)
    np.testing.assert_allclose((rotation_of(rough) * turns.inv()).magnitude(), 0, atol=1e-6)
    assert arm_state([1, 2, 3], DOWN).tolist()[:9] == [1, 2, 3, 1, 0, 0, 0, -1, 0]
    assert np.isnan(arm_state([1, 2, 3], DOWN)[9])


def test_a_follower_on_its_plan_commands_what_takes_an_arm_along_it() -> None:
    follower = ArmFollower(straight(), 20.0)
    assert follower.steps == 8
    rows = follower.rows(2, np.array([0.012, 0.0, 0.0]), Rotation.from_rotvec([0, 0, 0.1]).as_quat(), 4)
    onward = np.array([0.006, 0, 0, 0, 0, 0.05]) / (1 - REMAINS)
    np.testing.assert_allclose(rows, [[*onward, -1]] * 4, atol=1e-9)
    # A controller that goes part of what it is told stays on the plan.
    x = 0.0
    for step in range(follower.steps):
        np.testing.assert_allclose(x, follower.positions[step, 0], atol=1e-9)
        quaternion = Rotation.from_rotvec([0, 0, 0.05 * step]).as_quat()
        x += (1 - REMAINS) * follower.rows(step, np.array([x, 0, 0]), quaternion, 1)[0, 0]
    np.testing.assert_allclose(x, 0.048, atol=1e-9)


def test_a_follower_makes_up_for_part_of_what_is_off_and_holds_at_the_end() -> None:
    follower = ArmFollower(straight(), 20.0)
    rows = follower.rows(2, np.array([0.012, 0.03, 0.0]), Rotation.identity().as_quat(), 2)
    x, turn = 0.006 / (1 - REMAINS), 0.05 / (1 - REMAINS)
    np.testing.assert_allclose(rows[0], [x, -0.03, 0, 0, 0, turn + 0.1, -1], atol=1e-9)
    np.testing.assert_allclose(rows[1], [x, -0.03 * REMAINS, 0, 0, 0, turn + 0.1 * REMAINS, -1], atol=1e-9)
    rows = follower.rows(50, np.array([0.048, 0.0, 0.02]), Rotation.from_rotvec([0, 0, 0.4]).as_quat(), 3)
    np.testing.assert_allclose(rows[:, 2], [-0.02, -0.02 * REMAINS, -0.02 * REMAINS**2], atol=1e-9)
    np.testing.assert_allclose(rows[:, [0, 1, 3, 4, 5, 6]], [[0, 0, 0, 0, 0, -1]] * 3, atol=1e-9)


def test_a_plan_that_is_too_fast_for_an_arm_takes_longer_on_the_same_way() -> None:
    plan = straight()
    fast = Plan(plan.rows * np.where(np.arange(17) == 7, 10.0, 1.0), plan.stride, plan.columns)
    follower = ArmFollower(fast, 20.0)
    lengths = np.linalg.norm(np.diff(follower.positions, axis=0), axis=1)
    assert lengths.max() <= STEP_LENGTH + 1e-9 and follower.steps == 8 * 9
    np.testing.assert_allclose(follower.positions[[0, -1], 0], [0, 0.48], atol=1e-9)
    np.testing.assert_allclose(follower.rotations[-1].as_rotvec(), [0, 0, 0.4], atol=1e-9)


def test_one_pose_that_is_none_stops_the_hand_and_the_next_one_takes_it_on(
    ros: Graph, parameters: list[Parameter[Any]]
) -> None:
    planner, robot = ros.add(PlannerNode([*parameters, PATIENT])), ros.add(Robot())
    ros.spin_until(lambda: robot.heard())
    robot.show([0.0, 0.0, 1.0])
    ros.spin_until(lambda: ready(planner))
    robot.ask([0.3, 0.0, 1.0])
    ros.spin_until(lambda: robot.trajectories)
    robot.show([0.0, float("nan"), 1.0], 1_050_000_000)
    ros.spin_until(lambda: "finite numbers expected" in planner.diagnostics.summary and robot.chunks)
    assert not messages.chunk_from_msg(robot.chunks[-1]).rows.any()
    robot.trajectories.clear()
    robot.show([0.0, 0.0, 1.0], 1_100_000_000)
    ros.spin_until(lambda: robot.trajectories)
    robot.show([0.0, 0.0, 1.0], 1_150_000_000)
    ros.spin_until(lambda: messages.chunk_from_msg(robot.chunks[-1]).rows.any())


def test_a_goal_that_was_reached_is_not_gone_to_again_when_obstacles_come_back(
    ros: Graph, parameters: list[Parameter[Any]]
) -> None:
    planner, robot = ros.add(PlannerNode([*parameters, PATIENT])), ros.add(Robot())
    ros.spin_until(lambda: robot.heard())
    robot.show([0.0, 0.0, 1.0])
    ros.spin_until(lambda: ready(planner))
    robot.ask([0.3, 0.0, 1.0])
    ros.spin_until(lambda: robot.trajectories)
    planner.domain._followed = None  # as after the plan's end and its second to settle
    bad = messages.balls_to_msg([[0.2, 0.4, float("nan"), 0.03]], (1.0, 0.0, 0.0, 1.0), "x", "world")
    robot.obstacles.publish(bad)
    ros.spin_until(lambda: planner._obstacle_fault)
    robot.trajectories.clear()
    robot.obstacles.publish(messages.balls_to_msg([[0.2, 0.4, 1.0, 0.03]], (1.0, 0.0, 0.0, 1.0), "x", "world"))
    ros.spin_until(lambda: not planner._obstacle_fault)
    robot.show([0.0, 0.0, 1.0], 1_100_000_000)
    ros.spin(0.5)
    assert not robot.trajectories


def test_a_hand_that_is_held_up_is_not_pushed_on() -> None:
    follower = ArmFollower(straight(), 20.0)
    assert follower.strayed(4, np.array([0.02, 0.0, 0.01])) == ""
    assert "0.080 m off its way, at most 0.05 m expected" in follower.strayed(4, np.array([0.024, 0.08, 0.0]))
    long = straight(41)
    assert "m from where it is to be by now" in ArmFollower(long, 20.0).strayed(60, np.zeros(3))


def test_smoothing_keeps_the_ends_and_takes_noise_away() -> None:
    plan = straight(40)
    noisy = plan.rows.copy()
    noisy[:, 7:10] += 0.01 * np.random.default_rng(0).standard_normal((40, 3))
    smooth = smoothed(noisy)
    np.testing.assert_allclose(smooth[[0, -1], 7:10], noisy[[0, -1], 7:10], atol=1e-12)
    np.testing.assert_array_equal(np.delete(smooth, [7, 8, 9], 1), np.delete(noisy, [7, 8, 9], 1))
    before, after = (np.abs(np.diff(rows[:, 7:10], 2, axis=0)).mean() for rows in (noisy, smooth))
    assert after < 0.2 * before
    np.testing.assert_allclose(smoothed(plan.rows), plan.rows, atol=1e-9)
    np.testing.assert_allclose(
        smoothed(noisy, [13, 24])[[0, 13, 24, -1], 7:10], noisy[[0, 13, 24, -1], 7:10], atol=1e-12
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"guides": {"obstacles": np.zeros((1, 2))}}, r"guide obstacles has shape \(1, 2\), expected \(N, 5\)"),
        ({"goal": np.zeros(4)}, r"goal has shape \(4,\), expected \(10,\)"),
        ({"goal": np.full(10, np.nan)}, "goal .* its position must be finite"),
        ({"way_points": {3: np.zeros(2)}}, r"way-point 3 has shape \(2,\)"),
        ({"goal": None}, "a hand's plan needs one"),
    ],
)
def test_what_a_hand_cannot_plan(planner_path: Path, changes: dict[str, Any], expected: str) -> None:
    planner = make_planner(checkpoint.load(planner_path))
    options: dict[str, Any] = {"start": arm_state([0, 0, 1], DOWN), "goal": arm_state([0.3, 0, 1], DOWN), **changes}
    with pytest.raises(PlanError, match=expected):
        planner.plan(**options)


def test_clearance_is_from_the_hands_surface() -> None:
    balls = np.array([[0.0, 0.0, 0.0, 0.06]])
    way = np.array([[0.3, 0.0, 0.0], [0.2, 0.0, 0.0]])
    np.testing.assert_allclose(clearance(way, balls, HAND_RADIUS), [0.24 - HAND_RADIUS, 0.14 - HAND_RADIUS])
    np.testing.assert_allclose(clearance(way[:, :2], balls, 0.0), [0.24, 0.14])
    assert clearance(np.zeros((2, 3)), np.zeros((0, 4)), 0.1).tolist() == [np.inf, np.inf]
    assert not leads_into(clearance(way, balls, HAND_RADIUS))
    assert leads_into(np.array([0.1, -0.01]))
    assert leads_into(np.array([-0.01, -0.02]))
    assert not leads_into(np.array([-0.02, -0.01, 0.1]))  # out of a ball
    assert not leads_into(np.full(3, np.inf))


@pytest.fixture
def ros() -> Any:
    with graph() as made:
        yield made


def ready(planner: PlannerNode) -> bool:
    state = planner.domain.state()
    return state is not None and bool(np.isfinite(state[1]).all())


class Robot(Node):
    """The rest of the graph."""

    def __init__(self, moves: bool = True) -> None:
        """moves: whether it is the robot as well, which may be there only once."""
        super().__init__("robot")
        if moves:
            self.pose = self.create_publisher(PoseStamped, topics.EEF_POSE, topics.SENSOR_QOS)
            self.joints = self.create_publisher(JointState, topics.JOINT_STATES, topics.SENSOR_QOS)
        self.goal = self.create_publisher(PoseStamped, topics.GOAL, topics.COMMAND_QOS)
        self.obstacles = self.create_publisher(MarkerArray, topics.OBSTACLES, topics.COMMAND_QOS)
        self.chunks: list[JointTrajectory] = []
        self.poses: list[PoseStamped] = []
        self.trajectories: list[JointTrajectory] = []
        self.create_subscription(JointTrajectory, topics.ACTION_CHUNK, self.chunks.append, topics.COMMAND_QOS)
        self.create_subscription(PoseStamped, topics.EEF_POSE, self.poses.append, topics.SENSOR_QOS)
        self.create_subscription(
            JointTrajectory, topics.PLANNED_TRAJECTORY, self.trajectories.append, topics.COMMAND_QOS
        )

    def heard(self) -> bool:
        """Whether the planner is there."""
        return bool(
            self.goal.get_subscription_count()
            and self.joints.get_subscription_count()
            and self.pose.get_subscription_count() > 1
        )

    def show(self, position: Any, stamp_ns: int = 1_000_000_000, fingers: bool = True) -> None:
        """The fingers first, so that they are known when the pose comes."""
        if fingers:
            self.joints.publish(messages.joint_state_to_msg(FINGERS, (0.02, -0.02), (0.0, 0.0), stamp_ns))
        self.pose.publish(messages.pose_to_msg(position, DOWN, stamp_ns, "world"))

    def ask(self, position: Any, frame: str = "world") -> None:
        self.goal.publish(messages.pose_to_msg(position, DOWN, 0, frame))


def test_a_goal_becomes_chunks_that_answer_every_pose(ros: Graph, parameters: list[Parameter[Any]]) -> None:
    planner, robot = ros.add(PlannerNode([*parameters, PATIENT])), ros.add(Robot())
    ros.spin_until(lambda: robot.heard())
    robot.show([0.0, 0.0, 1.0])
    ros.spin_until(lambda: ready(planner))
    robot.ask([0.3, 0.0, 1.0])
    ros.spin_until(lambda: robot.trajectories)
    robot.show([0.0, 0.0, 1.0], 1_050_000_000)
    ros.spin_until(lambda: robot.chunks)
    chunk = messages.chunk_from_msg(robot.chunks[-1])
    assert (chunk.stamp_ns, chunk.period_ns) == (1_050_000_000, 50_000_000)
    expected = 0.005 / (1 - REMAINS) + 0.005 * REMAINS ** np.arange(10)
    np.testing.assert_allclose(chunk.rows[:, 0], expected, atol=1e-4)
    np.testing.assert_allclose(chunk.rows[:, 1:3], 0, atol=1e-6)
    # Something comes in the way: no more chunks, and the reason is told.
    robot.obstacles.publish(messages.balls_to_msg([[0.2, 0.0, 1.0, 0.03]], (1.0, 0.0, 0.0, 1.0), "x", "world"))
    ros.spin_until(lambda: len(planner.obstacles))
    robot.chunks.clear()
    robot.show([0.01, 0.0, 1.0], 1_100_000_000)
    ros.spin_until(lambda: "in the way" in planner.diagnostics.summary)
    ros.spin_until(lambda: robot.chunks)
    assert not any(messages.chunk_from_msg(msg).rows.any() for msg in robot.chunks), "a hold, and nothing else"
    robot.ask([0.3, 0.0, 1.0])
    ros.spin_until(lambda: "through an obstacle" in planner.diagnostics.summary)


def test_a_hand_that_is_held_up_is_not_pushed_on_by_new_plans(ros: Graph, parameters: list[Parameter[Any]]) -> None:
    given = [*parameters, PATIENT, Parameter("replan_rate", value=20.0)]
    planner, robot = ros.add(PlannerNode(given)), ros.add(Robot())
    ros.spin_until(lambda: robot.heard())
    robot.show([0.0, 0.0, 1.0])
    ros.spin_until(lambda: ready(planner))
    robot.ask([0.3, 0.0, 1.0])
    ros.spin_until(lambda: robot.trajectories)
    stamp_ns = 1_000_000_000

    def still() -> bool:
        nonlocal stamp_ns
        stamp_ns += 50_000_000
        robot.show([0.0, 0.0, 1.0], stamp_ns)
        ros.spin(0.06)  # a plan comes in between
        return "the hand has moved 0.000 m in 4 s" in planner.diagnostics.summary

    ros.spin_until(still)
    assert 4.0 <= (stamp_ns - 1_000_000_000) / 1e9 < 6.0
    assert planner._goal is None


@pytest.mark.parametrize(("gap", "planned"), [(STRAY - 0.01, False), (STRAY + 0.01, True)])
def test_a_plan_keeps_as_far_from_obstacles_as_an_arm_may_be_off_it(
    ros: Graph, parameters: list[Parameter[Any]], gap: float, planned: bool
) -> None:
    planner, robot = ros.add(PlannerNode([*parameters, PATIENT])), ros.add(Robot())
    ros.spin_until(lambda: robot.heard())
    ball = [0.15, HAND_RADIUS + 0.03 + gap, 1.0, 0.03]
    robot.obstacles.publish(messages.balls_to_msg([ball], (1.0, 0.0, 0.0, 1.0), "x", "world"))
    robot.show([0.0, 0.0, 1.0])
    ros.spin_until(lambda: ready(planner) and len(planner.obstacles))
    robot.ask([0.3, 0.0, 1.0])
    ros.spin_until(lambda: robot.trajectories if planned else "through an obstacle" in planner.diagnostics.summary)
    assert bool(robot.trajectories) == planned


@pytest.mark.parametrize(
    ("goal", "frame", "reason"),
    [
        ([0.9, 0.0, 1.0], "world", "lies outside the box that the planner knows"),
        ([0.1, float("nan"), 1.0], "world", "finite numbers expected"),
        ([0.1, 0.0, 1.0], "map", "goal in frame 'map': expected 'world'"),
    ],
)
def test_goals_that_are_refused(
    ros: Graph, parameters: list[Parameter[Any]], goal: Any, frame: str, reason: str
) -> None:
    planner, robot = ros.add(PlannerNode([*parameters, PATIENT])), ros.add(Robot())
    ros.spin_until(lambda: robot.heard())
    robot.ask([0.1, 0.0, 1.0])
    ros.spin_until(lambda: "no eef_pose to plan from" in planner.diagnostics.summary)
    robot.show([0.0, 0.0, 1.0], fingers=False)
    ros.spin_until(planner.domain.state)
    robot.ask([0.1, 0.0, 1.0])
    ros.spin_until(lambda: "in joint_states, or old ones" in planner.diagnostics.summary)
    robot.show([0.0, 0.0, 1.0])
    ros.spin_until(lambda: ready(planner))
    robot.ask(goal, frame)
    ros.spin_until(lambda: reason in planner.diagnostics.summary)
    request = GetPlan.Request()
    request.goal = messages.pose_to_msg([0.2, 0.0, 1.0], DOWN, 0, "world")
    positions, _ = messages.path_from_msg(ros.call(robot, GetPlan, "planner/plan", request).plan)
    np.testing.assert_allclose(positions[[0, -1]], [[0, 0, 1], [0.2, 0, 1]], atol=1e-6)
    assert not robot.trajectories


def test_the_executor_takes_the_simulated_hand_to_the_goal(
    ros: Graph, parameters: list[Parameter[Any]], planner_path: Path
) -> None:
    # Its first step compiles for seconds on a fresh machine; all nodes share this process, and nobody waits for that.
    first = Simulation("lift")
    first.step(np.zeros(7))
    first.close()
    simulation = ros.add(SimulationNode([Parameter("task", value="lift"), Parameter("seed", value=5)]))
    planner = ros.add(PlannerNode([*parameters, PATIENT]))
    executor = ros.add(
        ExecutorNode([*parameters, *(Parameter(name, value=True) for name in ("enabled", "checkpoint_limits"))])
    )
    robot = ros.add(Robot(moves=False))
    ros.spin_until(lambda: robot.poses and ready(planner))
    start = messages.pose_from_msg(robot.poses[-1])
    goal = start[1] + [0.05, 0.08, 0.03]
    robot.goal.publish(messages.pose_to_msg(goal, start[2], 0, "world"))

    def there() -> bool:
        return bool(np.linalg.norm(messages.pose_from_msg(robot.poses[-1])[1] - goal) < 0.01)

    ros.spin_until(there, 30.0)
    assert simulation.phase == "running"
    # The plan ends, and with it the chunks: the executor holds and says so.
    ros.spin_until(lambda: "holding" in executor.diagnostics.summary, 30.0)
    assert there()


def test_plans_without_velocities_are_dense_too(planner_path: Path) -> None:
    from diffusion_ros import checkpoint

    planner = make_planner(checkpoint.load(planner_path, kind="planner", task="arm"))
    plan = planner.plan(arm_state([0, 0, 1], DOWN, 0.08), arm_state([0.3, 0, 1], DOWN)).best
    positions, _ = plan.dense(20.0)
    assert positions.shape == (31, 3)
    np.testing.assert_allclose(positions[:, 0], np.linspace(0, 0.3, 31), atol=1e-6)
