"""Planner, follower and maze as nodes: plans arrive, bad input is refused with its reason, nobody drives by a guess."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_planner import HORIZON, STRIDE, fake_planner
from geometry_msgs.msg import PoseStamped, WrenchStamped
from nav_msgs.msg import OccupancyGrid, Odometry
from nav_msgs.msg import Path as PathMsg
from nav_msgs.srv import GetPlan
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros_graph import Graph, graph
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from diffusion_ros.nodes.follower_node import FollowerNode
from diffusion_ros.nodes.maze_node import MazeNode
from diffusion_ros.nodes.planner_node import PlannerNode
from diffusion_ros.ros import messages, topics
from diffusion_ros.simulators.maze import FRAME, load_map
from diffusion_ros.simulators.tasks import maze_task

WALLS = load_map(maze_task("umaze")).walls
START, GOAL = np.array([-1.0, -1.0]), np.array([1.0, -1.0])
UPRIGHT = (0.0, 0.0, 0.0, 1.0)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_planner(tmp_path_factory.mktemp("planner") / "planner.pt")


@pytest.fixture
def ros() -> Iterator[Graph]:
    with graph() as made:
        yield made


class Robot(Node):
    """The other side: publishes what the test wants and keeps what comes."""

    def __init__(self) -> None:
        super().__init__("robot")
        self.map = self.create_publisher(OccupancyGrid, topics.MAP, topics.DESCRIPTION_QOS)
        self.odometry = self.create_publisher(Odometry, topics.ODOMETRY, topics.SENSOR_QOS)
        self.goal = self.create_publisher(PoseStamped, topics.GOAL, topics.COMMAND_QOS)
        self.obstacles = self.create_publisher(MarkerArray, topics.OBSTACLES, topics.COMMAND_QOS)
        self.trajectory = self.create_publisher(JointTrajectory, topics.PLANNED_TRAJECTORY, topics.COMMAND_QOS)
        self.plans: list[PathMsg] = []
        self.trajectories: list[JointTrajectory] = []
        self.candidates: list[MarkerArray] = []
        self.denoising: list[MarkerArray] = []
        self.forces: list[WrenchStamped] = []
        self.episodes: list[dict[str, Any]] = []
        keep = (
            (PathMsg, topics.PLAN, topics.DESCRIPTION_QOS, self.plans),
            (JointTrajectory, topics.PLANNED_TRAJECTORY, topics.COMMAND_QOS, self.trajectories),
            (MarkerArray, topics.CANDIDATES, topics.DESCRIPTION_QOS, self.candidates),
            (MarkerArray, topics.DENOISING, topics.DESCRIPTION_QOS, self.denoising),
            (WrenchStamped, topics.FORCE_COMMAND, topics.COMMAND_QOS, self.forces),
        )
        for kind, topic, qos, kept in keep:
            self.create_subscription(kind, topic, kept.append, qos)
        self.create_subscription(
            String, topics.EPISODE, lambda m: self.episodes.append(messages.episode_from_msg(m)), topics.EPISODE_QOS
        )

    def show(self, position: np.ndarray = START, velocity: Any = (0.0, 0.0), stamp_ns: int = 1_000_000_000) -> None:
        self.odometry.publish(messages.odometry_to_msg(position, velocity, stamp_ns, FRAME))

    def ask(self, goal: Any, frame: str = FRAME) -> None:
        self.goal.publish(messages.pose_to_msg((*goal, 0.0), UPRIGHT, 0, frame))


def make(ros: Graph, straight: Path, **parameters: Any) -> tuple[PlannerNode, Robot]:
    given = {"checkpoint": str(straight), **parameters}
    planner = ros.add(PlannerNode([Parameter(name, value=value) for name, value in given.items()]))
    robot = ros.add(Robot())
    robot.map.publish(messages.grid_to_msg(WALLS, 0, FRAME))
    robot.show()
    ros.spin_until(lambda: not planner.domain.missing() and planner.domain.state())
    return planner, robot


def test_a_goal_is_planned_to_and_published(ros: Graph, straight: Path) -> None:
    planner, robot = make(ros, straight)
    ros.spin_until(lambda: planner._denoising_publisher.get_subscription_count() > 0)
    robot.ask(GOAL)
    ros.spin_until(lambda: robot.plans and robot.trajectories and robot.candidates and robot.denoising)
    positions, stamps = messages.path_from_msg(robot.plans[-1])
    np.testing.assert_allclose(positions[[0, -1], :2], [START, GOAL], atol=1e-6)
    assert stamps == [1_000_000_000 + i * STRIDE * 10_000_000 for i in range(HORIZON)]
    stamp_ns, period_ns, states = messages.trajectory_from_msg(robot.trajectories[-1])
    assert (stamp_ns, period_ns, len(states)) == (1_000_000_000, 10_000_000, (HORIZON - 1) * STRIDE + 1)
    np.testing.assert_allclose(states[-1, :2], GOAL, atol=1e-6)
    assert len(robot.candidates[-1].markers) == 1 + 4
    assert len(robot.denoising[-1].markers) == 1 + 2
    planner._refresh()
    assert planner.diagnostics.summary == "planned"


@pytest.mark.parametrize(
    ("goal", "frame", "reason"),
    [
        ((0.0, 0.0), FRAME, r"goal (0.00, 0.00) is in a wall"),
        ((1.45, -1.0), FRAME, "0.05 m from a wall, less than 0.1 m"),
        ((9.0, 0.0), FRAME, "lies outside the map of 5 x 5 m"),
        ((float("nan"), 0.0), FRAME, "is not finite"),
        ((1.0, -1.0), "base", "goal in frame 'base': expected 'map'"),
    ],
)
def test_goals_that_are_refused(ros: Graph, straight: Path, goal: Any, frame: str, reason: str) -> None:
    planner, robot = make(ros, straight)
    robot.ask(GOAL)
    ros.spin_until(lambda: robot.plans)
    robot.ask(goal, frame)
    ros.spin_until(lambda: planner._refused)
    assert reason in planner.diagnostics.summary
    assert planner.diagnostics.summary.endswith("the last valid plan stays")
    assert len(robot.plans) == 1


def test_a_plan_through_a_wall_is_not_published(ros: Graph, straight: Path) -> None:
    planner, robot = make(ros, straight)
    robot.ask((-1.0, 1.0))  # straight there is the wall of the U
    ros.spin_until(lambda: planner._refused)
    assert planner._refused == "none of 4 plans can be driven: through a wall"
    assert not robot.plans


def test_the_service_plans_refuses_and_is_busy_in_turn(ros: Graph, straight: Path) -> None:
    planner, robot = make(ros, straight)

    def request(goal: Any, start: Any = None) -> GetPlan.Request:
        asked = GetPlan.Request()
        asked.goal = messages.pose_to_msg((*goal, 0.0), UPRIGHT, 0, FRAME)
        if start is not None:
            asked.start = messages.pose_to_msg((*start, 0.0), UPRIGHT, 0, FRAME)
        return asked

    plan = ros.call(robot, GetPlan, "planner/plan", request(GOAL)).plan
    np.testing.assert_allclose(messages.path_from_msg(plan)[0][[0, -1], :2], [START, GOAL], atol=1e-6)
    plan = ros.call(robot, GetPlan, "planner/plan", request((1.0, 1.0), GOAL)).plan
    np.testing.assert_allclose(messages.path_from_msg(plan)[0][[0, -1], :2], [GOAL, [1.0, 1.0]], atol=1e-6)
    assert not robot.plans  # nobody is to follow what was only asked about
    assert not ros.call(robot, GetPlan, "planner/plan", request((0.0, 0.0))).plan.poses
    assert "in a wall" in planner.diagnostics.summary
    # While one is made the node hears its sensors, and says to others that it is busy.
    plan_slowly, hold = planner.planner.plan, threading.Event()

    def slow(*arguments: Any, **options: Any) -> Any:
        hold.wait(20.0)
        return plan_slowly(*arguments, **options)

    planner.planner.plan = slow
    client = robot.create_client(GetPlan, "planner/plan")
    ros.spin_until(client.service_is_ready)
    first = client.call_async(request(GOAL))
    ros.spin_until(lambda: planner._busy)
    assert not ros.call(robot, GetPlan, "planner/plan", request(GOAL)).plan.poses
    assert "another plan is being made" in planner.diagnostics.summary
    robot.show(START, stamp_ns=7)
    ros.spin_until(lambda: planner.domain.state()[0] == 7)
    assert not first.done()
    hold.set()
    ros.spin_until(first.done)
    assert first.result().plan.poses


def test_before_the_map_and_from_old_odometry_nothing_is_planned(ros: Graph, straight: Path) -> None:
    planner = ros.add(
        PlannerNode([Parameter("checkpoint", value=str(straight)), Parameter("max_state_age", value=0.05)])
    )
    robot = ros.add(Robot())
    ros.spin_until(lambda: robot.goal.get_subscription_count())
    robot.ask(GOAL)
    ros.spin_until(lambda: planner._refused)
    assert planner._refused == "goal: there is no map yet"
    robot.map.publish(messages.grid_to_msg(WALLS, 0, FRAME))
    ros.spin_until(lambda: not planner.domain.missing())
    robot.ask(GOAL)
    ros.spin_until(lambda: planner._refused == "no odom to plan from")
    robot.show()
    ros.spin_until(planner.domain.state)
    time.sleep(0.1)
    robot.ask(GOAL)
    ros.spin_until(lambda: "s old, at most 0.05 s expected" in planner._refused)
    robot.show((float("nan"), 0.0))
    ros.spin_until(lambda: "odom: position" in planner._refused)
    assert planner.domain.state() is None
    assert not robot.plans


def test_a_budget_that_is_too_short_is_refused(ros: Graph, straight: Path) -> None:
    planner, robot = make(ros, straight, budget=0.001)
    planner.planner._step_seconds = 0.5
    robot.ask(GOAL)
    ros.spin_until(lambda: planner._refused)
    assert "budget 1 ms: shorter than one denoising step" in planner._refused


def test_it_plans_again_at_its_rate_from_where_the_robot_is(ros: Graph, straight: Path) -> None:
    planner, robot = make(ros, straight, replan_rate=20.0, max_state_age=5.0)
    robot.ask(GOAL)
    ros.spin_until(lambda: robot.plans)
    for x in np.linspace(START[0], 0.0, 16):  # as far at a time as a ball may roll: a jump would end the goal
        robot.show(np.array([x, -1.0]), stamp_ns=2_000_000_000)
        ros.spin_until(lambda x=x: planner.domain.state()[1][0] == x)

    def begins() -> np.ndarray:
        positions, stamps = messages.path_from_msg(robot.plans[-1])
        return np.append(positions[0, :2], stamps[0])

    ros.spin_until(lambda: np.allclose(begins(), [0.0, -1.0, 2_000_000_000], atol=1e-6))


def test_obstacles_become_guides_and_no_plan_leads_through_one(ros: Graph, straight: Path) -> None:
    planner, robot = make(ros, straight)
    robot.obstacles.publish(messages.balls_to_msg([[0.0, -1.0, 0.2, 0.2]], (1.0, 0.0, 0.0, 1.0), "obstacles", FRAME))
    ros.spin_until(lambda: len(planner.obstacles))
    robot.ask(GOAL)
    ros.spin_until(lambda: planner._refused)
    assert planner._refused == "none of 4 plans can be driven: through an obstacle"


def ball(robot: Robot, x: float, frame: str = FRAME) -> None:
    robot.obstacles.publish(messages.balls_to_msg([[x, -1.0, 0.2, 0.2]], (1.0, 0.0, 0.0, 1.0), "obstacles", frame))


def test_a_goal_that_cannot_be_planned_to_now_is_tried_again(ros: Graph, straight: Path) -> None:
    planner, robot = make(ros, straight, replan_rate=20.0, max_state_age=30.0)
    ball(robot, 0.0)
    ros.spin_until(lambda: len(planner.obstacles))
    robot.ask(GOAL)
    ros.spin_until(lambda: planner._refused)
    assert not robot.plans
    ball(robot, 9.0)
    ros.spin_until(lambda: robot.plans)


def test_a_robot_is_stopped_where_an_obstacle_comes_in_its_way(ros: Graph, straight: Path) -> None:
    planner, robot = make(ros, straight)
    robot.ask(GOAL)
    ros.spin_until(lambda: robot.trajectories)
    ball(robot, 0.6)  # farther ahead than it looks, at the speed of this plan
    ros.spin_until(lambda: len(planner.obstacles))
    robot.show(START + [0.05, 0.0])
    ros.spin(0.1)
    assert len(robot.trajectories) == 1
    ball(robot, START[0] + 0.6)
    ros.spin_until(lambda: len(robot.trajectories) == 2)
    _, _, stay = messages.trajectory_from_msg(robot.trajectories[-1])
    np.testing.assert_allclose(stay, np.tile([START[0] + 0.05, START[1], 0.0, 0.0], (2, 1)))
    assert "an obstacle has come in the way of the plan" in planner.diagnostics.summary


def test_what_comes_in_another_frame_is_not_used(ros: Graph, straight: Path) -> None:
    planner, robot = make(ros, straight)
    ball(robot, 0.0, "camera")
    ros.spin_until(lambda: "obstacles: frame 'camera', 'map' expected" in planner.diagnostics.summary)
    assert not len(planner.obstacles)
    robot.odometry.publish(messages.odometry_to_msg(START, (0.0, 0.0), 0, "odom"))
    ros.spin_until(lambda: "odom: frame 'odom', 'map' expected" in planner.diagnostics.summary)
    robot.map.publish(messages.grid_to_msg(WALLS, 0, "odom"))
    ros.spin_until(lambda: "map: frame 'odom', 'map' expected" in planner.diagnostics.summary)
    robot.ask(GOAL)
    ros.spin_until(lambda: "no odom to plan from" in planner.diagnostics.summary)


def test_a_robot_in_a_wall_is_not_planned_for(ros: Graph, straight: Path) -> None:
    planner, robot = make(ros, straight)
    robot.show(np.array([-0.9, -0.45]))
    ros.spin_until(lambda: planner.domain.state()[1][1] == -0.45)
    robot.ask(GOAL)
    ros.spin_until(lambda: planner._refused)
    assert planner._refused == "the robot at (-0.90, -0.45) is in a wall"


def states(start: Any, goal: Any, n: int = 50) -> np.ndarray:
    along = np.linspace(0, 1, n)[:, None]
    position = np.asarray(start) + along * (np.asarray(goal) - np.asarray(start))
    return np.hstack([position, np.tile((np.asarray(goal) - np.asarray(start)) * 100 / (n - 1), (n, 1))])


@pytest.mark.parametrize("follow", ["pursuit", "time"])
def test_the_follower_drives_and_brakes(ros: Graph, follow: str) -> None:
    follower = ros.add(FollowerNode([Parameter("follow", value=follow)]))
    robot = ros.add(Robot())
    ros.spin_until(lambda: robot.odometry.get_subscription_count() and follower._publisher.get_subscription_count())
    robot.show(START, (0.5, -2.0))
    ros.spin_until(lambda: robot.forces)
    _, force = messages.force_from_msg(robot.forces[-1])
    np.testing.assert_allclose(force, [-0.5, 1.0])
    assert follower._reason == "no plan yet"
    robot.trajectory.publish(messages.trajectory_to_msg(states(START, GOAL), 10_000_000, 1_000_000_000, FRAME))
    ros.spin_until(lambda: follower._follower is not None)
    robot.show(START, stamp_ns=1_010_000_000)
    ros.spin_until(lambda: messages.force_from_msg(robot.forces[-1])[0] == 1_010_000_000)
    _, force = messages.force_from_msg(robot.forces[-1])
    assert force[0] > 0.5
    assert abs(force[1]) < 1e-6
    time.sleep(0.3)  # longer than the odometry may be silent
    robot.show(START, (1.0, 0.0), stamp_ns=1_400_000_000)
    ros.spin_until(lambda: messages.force_from_msg(robot.forces[-1])[0] == 1_400_000_000)
    np.testing.assert_allclose(messages.force_from_msg(robot.forces[-1])[1], [-1.0, 0.0])
    assert "the plan is dropped" in follower._reason


@pytest.mark.parametrize(
    ("trajectory", "frame", "reason"),
    [
        (states((9.0, 9.0), (9.0, 8.0)), FRAME, "m away, at most 1 m expected"),
        (states(START, GOAL), "base", "frame 'base', 'map' expected"),
        (states(START, (np.nan, 0.0)), FRAME, "NaN or infinite values"),
    ],
)
def test_plans_that_are_not_followed(ros: Graph, trajectory: np.ndarray, frame: str, reason: str) -> None:
    follower = ros.add(FollowerNode())
    robot = ros.add(Robot())
    ros.spin_until(lambda: robot.odometry.get_subscription_count() and robot.trajectory.get_subscription_count())
    robot.show()
    ros.spin_until(lambda: follower._position is not None)
    robot.trajectory.publish(messages.trajectory_to_msg(trajectory, 10_000_000, 0, frame))
    ros.spin_until(lambda: reason in follower._reason)
    assert follower._follower is None
    assert follower._fault


def test_a_robot_that_was_set_somewhere_else_has_no_plan(ros: Graph, straight: Path) -> None:
    planner, robot = make(ros, straight, replan_rate=10.0)
    follower = ros.add(FollowerNode())
    ros.spin_until(lambda: robot.odometry.get_subscription_count() > 1)
    robot.show()
    robot.ask(GOAL)
    ros.spin_until(lambda: follower._follower is not None)
    robot.show(np.array([1.0, 1.0]))
    ros.spin_until(lambda: follower._follower is None and planner._goal is None)
    assert follower._reason == "the robot was set somewhere else: the plan is dropped"
    plans = len(robot.plans)
    ros.spin(0.3)
    assert len(robot.plans) == plans


def test_the_whole_graph_drives_a_maze_to_its_goal(ros: Graph, straight: Path) -> None:
    maze = ros.add(MazeNode([Parameter("size", value="umaze"), Parameter("episodes", value=1)]))
    maze.simulation.reset(0, start=GOAL, goal=START)
    ros.add(PlannerNode([Parameter("checkpoint", value=str(straight))]))
    ros.add(FollowerNode())
    robot = ros.add(Robot())
    ros.spin_until(lambda: maze.exit_status == 0)
    end = next(news["result"] for news in robot.episodes if news["event"] == "end")
    assert end["reached"]
    assert end["return"] > 150
    assert end["steps"] == 300


def test_the_maze_brakes_without_a_force(ros: Graph) -> None:
    maze = ros.add(MazeNode([Parameter("size", value="umaze")]))
    robot = ros.add(Robot())
    publisher = robot.create_publisher(WrenchStamped, topics.FORCE_COMMAND, topics.COMMAND_QOS)
    seen: list[Odometry] = []
    robot.create_subscription(Odometry, topics.ODOMETRY, seen.append, topics.SENSOR_QOS)
    maze.simulation.reset(0, start=START)
    ros.spin_until(lambda: seen and publisher.get_subscription_count())

    def push(force: Any) -> None:
        publisher.publish(messages.force_to_msg(force, messages.odometry_from_msg(seen[-1])[0], FRAME))
        ros.spin(0.02)

    ros.spin_until(lambda: push((0.5, 0.0)) or maze.simulation.velocity[0] > 0.3)
    ros.spin(1.0)
    assert np.linalg.norm(maze.simulation.velocity) < 0.05
    assert maze.missed > 10
    stale = messages.odometry_from_msg(seen[-50])[0]
    publisher.publish(messages.force_to_msg((1.0, 0.0), stale, FRAME))
    ros.spin(0.2)
    assert np.linalg.norm(maze.simulation.velocity) < 0.05
    bad = messages.force_to_msg((1.0, 0.0), 0, FRAME)
    bad.wrench.force.x = float("nan")
    publisher.publish(bad)
    ros.spin_until(lambda: "refused: force [nan" in maze._fault)
