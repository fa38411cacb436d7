"""Planner, follower and maze as nodes: plans arrive, bad input is refused with its reason, nobody drives by a guess."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
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
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from diffusion_ros.nodes.follower_node import FollowerNode
from diffusion_ros.nodes.maze_node import MazeNode
from diffusion_ros.nodes.planner_node import PlannerNode
from diffusion_ros.ros import messages, topics
from diffusion_ros.simulators.maze import FRAME, MazeSimulation, load_map
from diffusion_ros.simulators.maze_video import FPS
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
    """The other side: publishes what the test wants and keeps what comes. Without sensors it only looks on."""

    def __init__(self, sensors: bool = True) -> None:
        super().__init__("robot")
        if sensors:
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
    # What has come counts as fresh, however slow the machine is, unless a test is about that.
    given = {"checkpoint": str(straight), "max_state_age": 30.0, "max_obstacle_age": 30.0, **parameters}
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
    assert len(robot.denoising[-1].markers) == 1 + 3
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
    refused = ros.call(robot, GetPlan, "planner/plan", request((0.0, 0.0))).plan
    assert not refused.poses and refused.header.frame_id.startswith("refused: goal (0.00, 0.00) is in a wall")
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
    refused = ros.call(robot, GetPlan, "planner/plan", request(GOAL)).plan
    assert not refused.poses and refused.header.frame_id.startswith("refused: another plan is being made")
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
    planner, robot = make(ros, straight, replan_rate=20.0)
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
    np.testing.assert_allclose(force, [-50.0, 100.0])  # N
    assert follower._reason == "no plan yet"
    robot.trajectory.publish(messages.trajectory_to_msg(states(START, GOAL), 10_000_000, 1_000_000_000, FRAME))
    ros.spin_until(lambda: follower._follower is not None)
    robot.show(START, stamp_ns=1_010_000_000)
    ros.spin_until(lambda: messages.force_from_msg(robot.forces[-1])[0] == 1_010_000_000)
    _, force = messages.force_from_msg(robot.forces[-1])
    assert force[0] > 50
    assert abs(force[1]) < 1e-4
    time.sleep(0.3)  # longer than the odometry may be silent
    robot.show(START, (1.0, 0.0), stamp_ns=1_400_000_000)
    ros.spin_until(lambda: messages.force_from_msg(robot.forces[-1])[0] == 1_400_000_000)
    np.testing.assert_allclose(messages.force_from_msg(robot.forces[-1])[1], [-100.0, 0.0])
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


# The maze


def a_maze(ros: Graph, **parameters: Any) -> MazeNode:
    """A U maze whose first episode waits, with the ball at rest in a corner."""
    given = {"size": "umaze", **parameters}
    maze: MazeNode = ros.add(MazeNode([Parameter(name, value=value) for name, value in given.items()]))
    ros.spin_until(lambda: maze.phase == "waiting" and maze._stamps)
    maze.simulation.reset(0, start=START, goal=GOAL)
    return maze


def ends(robot: Robot) -> list[dict[str, Any]]:
    return [news["result"] for news in robot.episodes if news["event"] == "end"]


class Driver(Node):
    """Answers every odometry with a force, in newtons, or with none."""

    def __init__(self, force: Any = (50.0, 0.0)) -> None:
        super().__init__("driver")
        self.force = force
        self.seen: list[Odometry] = []
        self.publisher = self.create_publisher(WrenchStamped, topics.FORCE_COMMAND, topics.COMMAND_QOS)
        self.create_subscription(Odometry, topics.ODOMETRY, self._on_odometry, topics.SENSOR_QOS)

    def _on_odometry(self, msg: Odometry) -> None:
        self.seen.append(msg)
        if self.force is not None:
            self.push(self.force, messages.odometry_from_msg(msg)[0])

    def push(self, force: Any, stamp_ns: int) -> None:
        self.publisher.publish(messages.force_to_msg(force, stamp_ns, FRAME))


def test_the_whole_graph_drives_a_maze_to_its_goal(ros: Graph, straight: Path) -> None:
    maze = a_maze(ros, episodes=1)
    maze.simulation.reset(0, start=GOAL, goal=START)
    ros.add(PlannerNode([Parameter("checkpoint", value=str(straight))]))
    ros.add(FollowerNode())
    robot = ros.add(Robot(sensors=False))
    ros.spin_until(lambda: maze.exit_status == 0 and ends(robot))
    (end,) = ends(robot)
    assert end["reached"]
    assert end["return"] > 150
    assert end["steps"] == 300
    assert list(end) == ["index", "seed", "return", "score", "reached", "steps_to_goal", "missed", "overruns", "steps"]
    assert end["score"] == maze_task("umaze").score(end["return"])
    assert 0 < end["steps_to_goal"] <= 300 - end["return"] + 1


def test_the_maze_brakes_without_a_force(ros: Graph) -> None:
    maze = a_maze(ros)
    driver = ros.add(Driver())
    ros.spin_until(lambda: maze.simulation.velocity[0] > 0.3)
    driver.force = None
    ros.spin(1.0)
    assert np.linalg.norm(maze.simulation.velocity) < 0.05
    assert maze.episode.missed > 10
    assert maze._fault == "no command in this period"
    stale = messages.odometry_from_msg(driver.seen[-50])[0]
    driver.push((100.0, 0.0), stale)
    ros.spin_until(lambda: "command refused: it answers an observation of" in maze._fault)
    ros.spin(0.2)
    assert np.linalg.norm(maze.simulation.velocity) < 0.05
    driver.force = (float("nan"), 0.0)
    ros.spin_until(lambda: maze._fault == "force_command refused: force [nan, 0.0], finite numbers expected")
    driver.force = (0.0, -101.0)
    ros.spin_until(lambda: maze._fault == "force_command refused: force [0.0, -101.0], -100 to 100 N expected")
    assert np.linalg.norm(maze.simulation.velocity) < 0.05


def test_a_force_counts_again_for_two_steps(ros: Graph) -> None:
    """At 100 Hz one is easily late; after three steps the ball brakes."""
    maze = a_maze(ros)
    stamp_ns = maze._stamp_ns
    maze._on_force(messages.force_to_msg((10.0, 0.0), stamp_ns, FRAME))
    speeds = []
    for _ in range(5):
        maze._tick_realtime(time.monotonic(), False)
        speeds.append(maze.simulation.velocity[0])
    assert 0 < speeds[0] < speeds[1] < speeds[2] > speeds[3] > speeds[4]
    assert (maze.episode.steps, maze.episode.missed) == (5, 2)


def test_a_zero_force_that_is_stale_does_not_keep_a_ball_from_braking(ros: Graph) -> None:
    maze = a_maze(ros)
    first = maze._stamp_ns
    maze._on_force(messages.force_to_msg((0.0, 0.0), first, FRAME))
    maze._tick_realtime(time.monotonic(), False)
    assert maze.phase == "waiting"  # a ball that rests is told to rest
    maze._on_force(messages.force_to_msg((100.0, 0.0), maze._stamp_ns, FRAME))
    for _ in range(5):
        maze._tick_realtime(time.monotonic(), False)
    speed, missed = maze.simulation.velocity[0], maze.episode.missed
    maze._on_force(messages.force_to_msg((0.0, 0.0), first, FRAME))
    assert "command refused" in maze._fault
    maze._tick_realtime(time.monotonic(), False)
    assert maze.episode.missed == missed + 1
    assert maze.simulation.velocity[0] < speed


def test_a_second_maze_does_not_start(ros: Graph, capsys: pytest.CaptureFixture[str]) -> None:
    a_maze(ros)
    second = ros.add(MazeNode([Parameter("size", value="umaze")]))
    ros.spin_until(lambda: second.exit_status is not None)
    assert second.exit_status == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "/odom has a publisher already, /maze in ROS domain" in line


def test_the_mazes_results_reach_one_who_was_found_when_all_was_over(ros: Graph) -> None:
    maze = a_maze(ros, episodes=1, max_steps=5)
    ros.add(Driver())
    ros.spin_until(lambda: maze.phase == "done")
    ros.spin(0.3)
    assert maze.exit_status is None, "gone before anybody could hear the results"
    late = ros.add(Robot(sensors=False))
    ros.spin_until(lambda: maze.exit_status == 0 and ends(late))
    assert ends(late)[0]["steps"] == 5


def test_the_mazes_video_is_drawn_between_ticks(ros: Graph, tmp_path: Path) -> None:
    maze = a_maze(ros, episodes=1, max_steps=40, video=True, output_dir=str(tmp_path / "made"))
    robot = ros.add(Robot(sensors=False))
    lines = robot.create_publisher(MarkerArray, topics.DENOISING, topics.DESCRIPTION_QOS)
    way = np.array([[-1.0, -1.0, 0.0], [1.0, -1.0, 0.0]])
    lines.publish(messages.lines_to_msg([way, way], [(1.0, 0.0, 0.0, 1.0)] * 2, "denoising", FRAME, 0.04))
    ros.spin_until(lambda: maze._first.denoising)
    drawn_at: list[tuple[str, int]] = []
    draw, tick, ticks = maze.pictures, maze._draw, [0]

    def pictures() -> Iterator[Any]:
        for picture in draw():
            drawn_at.append((maze.phase, ticks[0]))
            time.sleep(0.01)
            yield picture

    def drawing(began: float) -> None:
        ticks[0] += 1
        tick(began)

    maze.pictures, maze._draw = pictures, drawing
    ros.add(Driver())
    ros.spin_until(lambda: maze.exit_status == 0 and ends(robot))
    assert {phase for phase, _ in drawn_at} == {"drawing"}
    assert len(drawn_at) == 2 * 12 + 10
    assert len({number for _, number in drawn_at}) > 3, "all at once: nothing is answered meanwhile"
    (end,) = ends(robot)
    assert end["video"] == str(tmp_path / "made/episode_001_seed_100000.mp4")
    video, frames = cv2.VideoCapture(end["video"]), []
    while (read := video.read())[0]:
        frames.append(read[1])
    assert video.get(cv2.CAP_PROP_FPS) == FPS
    video.release()
    assert len(frames) == len(drawn_at) + FPS  # and a second that says how it ended


def test_reset_of_a_maze_begins_again(ros: Graph) -> None:
    maze = a_maze(ros, episodes=1)
    driver = ros.add(Driver())
    ros.spin_until(lambda: maze.episode.steps > 20)
    driver.force = None
    assert ros.call(driver, Trigger, "maze/reset", Trigger.Request()).success
    assert maze.phase == "pausing" and maze.episode.steps == 0
    seen = len(driver.seen)
    ros.spin(0.5)
    assert len(driver.seen) <= seen + 1, "no gap by which the others know a new episode"
    ros.spin_until(lambda: maze.phase == "waiting" and len(driver.seen) > seen + 5)
    again = MazeSimulation("umaze")
    again.reset(100_000)
    np.testing.assert_array_equal(maze.simulation.position, again.position)
    again.close()
