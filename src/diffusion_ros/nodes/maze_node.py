"""maze: PointMaze as a robot driver. Odometry, map and score out, forces in, 100 steps a second of wall time.

A force answers an odometry and counts for the step after it; without one in time the ball brakes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped, WrenchStamped
from nav_msgs.msg import OccupancyGrid, Odometry
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.parameter import Parameter
from std_msgs.msg import String
from std_srvs.srv import Trigger
from visualization_msgs.msg import MarkerArray

from diffusion_ros.atomic_file import add_line
from diffusion_ros.control.path_follower import brake
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.diagnostics import OK, WARN, Diagnostics
from diffusion_ros.ros.listener import Listener
from diffusion_ros.ros.params import declare, parameter
from diffusion_ros.ros.runner import RunnableNode, run
from diffusion_ros.simulators.maze import BALL_RADIUS, FRAME, GOAL_RADIUS, RATE, MazeSimulation
from diffusion_ros.simulators.maze_video import Moment, Shown, write_video
from diffusion_ros.simulators.tasks import MAZE_TASKS

_NEWS_SECONDS = 0.2
_PAUSE_SECONDS = 1.0
"""Silence between episodes, by which the others know a new one."""
_LINES_BYTES = 2_000_000
"""Of plans as lines: some 80,000 points."""
_FORCE_STEPS = 3
"""A force that answers an odometry older than so many steps comes too late."""


@dataclass(frozen=True)
class MazeParameters:
    """Parameters of the maze node."""

    size: str = parameter("large", "which maze", choices=tuple(MAZE_TASKS))
    episodes: int = parameter(0, "how many, then the node ends; 0: one without end", low=0)
    seed: int = parameter(100_000, "start and goal of episode i are drawn from seed + i", low=0)
    obstacle_radius: float = parameter(
        0.0, "of a ball that moves to and fro in the way; 0: none [m]", low=0.0, high=0.4
    )
    video: bool = parameter(False, "whether every episode becomes an MP4: how its plan was denoised, and the drive")
    output_dir: str = parameter("", "folder of the videos, '' for the current one")
    results: str = parameter("", "file to which the result of each episode is added when it ends, a line of JSON each")


class MazeNode(RunnableNode):
    """Publishes odom, map, goal_pose at the start of an episode, obstacles, scene and episode; takes force_command.

    Phases: waiting (for the first force that moves the ball), running, pausing (between episodes), done.
    """

    def __init__(self, parameter_overrides: Sequence[Parameter[Any]] = ()) -> None:
        """Raises ValueError (parameters) in one line."""
        super().__init__("maze", parameter_overrides)
        self.parameters = p = declare(self, MazeParameters)
        self.simulation = MazeSimulation(p.size)
        self.phase = "waiting"
        self._phase_began = 0.0
        self.index = 0
        self.step = 0
        self.score = 0.0
        self.missed = 0
        self.reached = -1
        self._command: tuple[int, np.ndarray] | None = None
        self._fault = ""
        self._next_news = 0.0
        self._next_goal = 0.0
        self._stamps: list[int] = []
        self._shown = Shown()
        self._first = Shown()
        self._moments: list[Moment] = []
        self._odometry = self.create_publisher(Odometry, topics.ODOMETRY, topics.SENSOR_QOS)
        self._map = self.create_publisher(OccupancyGrid, topics.MAP, topics.DESCRIPTION_QOS)
        self._goal = self.create_publisher(PoseStamped, topics.GOAL, topics.COMMAND_QOS)
        self._obstacles = self.create_publisher(MarkerArray, topics.OBSTACLES, topics.COMMAND_QOS)
        self._scene = self.create_publisher(MarkerArray, topics.SCENE, topics.COMMAND_QOS)
        self._episode = self.create_publisher(String, topics.EPISODE, topics.EPISODE_QOS)
        self.diagnostics = Diagnostics(self, "maze", self._refresh)
        self._forces = Listener(
            self, WrenchStamped, topics.FORCE_COMMAND, self._on_force, self._on_bad_force, topics.WATCHED_QOS
        )
        # Our own among them: a second maze is a second publisher.
        self._sensors = Listener.of_publishers(self, Odometry, topics.ODOMETRY, topics.SENSOR_QOS)
        self.create_subscription(PoseStamped, topics.GOAL, self._on_goal, topics.COMMAND_QOS)
        self.create_service(Trigger, "~/reset", self._on_reset)
        if p.video:
            Path(p.output_dir).mkdir(parents=True, exist_ok=True)
            for topic, callback in (
                (topics.CANDIDATES, self._on_candidates),
                (topics.DENOISING, self._on_denoising),
            ):
                Listener(
                    self,
                    MarkerArray,
                    topic,
                    callback,
                    lambda error, msg: None,
                    topics.DESCRIPTION_QOS,
                    max_bytes=_LINES_BYTES,
                )
        self._begin(0)
        self._map.publish(messages.grid_to_msg(self.simulation.map.walls, 0, FRAME))
        self.create_timer(1.0 / RATE, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_force(self, msg: WrenchStamped) -> None:
        messages.check_frame(msg.header, FRAME)
        self._command = messages.force_from_msg(msg)
        self._fault = ""

    def _on_bad_force(self, error: messages.MessageError, msg: WrenchStamped | None) -> None:
        self._command = None
        self._fault = f"{topics.FORCE_COMMAND} refused: {error}"

    def _on_goal(self, msg: PoseStamped) -> None:
        """What the score is about; a goal that no ball can reach is the planner's to refuse."""
        if msg.header.frame_id not in ("", FRAME):
            return
        goal = np.array([msg.pose.position.x, msg.pose.position.y])
        if not self.simulation.map.problem(goal):
            self.simulation.goal = goal

    def _on_candidates(self, msg: MarkerArray) -> None:
        self._shown.candidates = messages.lines_from_msg(msg)

    def _on_denoising(self, msg: MarkerArray) -> None:
        self._shown.denoising = messages.lines_from_msg(msg)
        if not self._first.denoising:
            self._first = Shown(denoising=self._shown.denoising)

    def _on_reset(self, request: Any, response: Any) -> Any:
        """Begins the current episode again, from the same seed."""
        self._begin(self.index, pause=True)
        response.success, response.message = True, f"episode {self.index} begins again"
        return response

    def _begin(self, index: int, pause: bool = False) -> None:
        self.index, self.step, self.score, self.missed, self.reached = index, 0, 0.0, 0, -1
        self.simulation.reset(self.parameters.seed + index)
        self._command = None
        self._stamps = []
        self._shown, self._first, self._moments = Shown(), Shown(), []
        self._next_goal = time.monotonic() + (_PAUSE_SECONDS if pause else 0.0) + 0.1  # the odometry first
        self.phase = "pausing" if pause else "waiting"
        self._phase_began = time.monotonic()

    def _tick(self) -> None:
        now, stamp_ns = time.monotonic(), self.get_clock().now().nanoseconds
        simulation = self.simulation
        if self.phase == "done":
            self._episode.wait_for_all_acked(Duration(seconds=2))
            self.exit_status = 0
            return
        if self.phase == "pausing":
            if now - self._phase_began < _PAUSE_SECONDS:
                return
            self.phase = "waiting"
        force, answered = brake(simulation.velocity), False
        conflict = self._forces.conflict() or self._sensors.conflict()
        if conflict:
            self._command, self._fault = None, conflict
        if self._command is not None and self._command[0] in self._stamps:
            force, answered = self._command[1], True
        if self.phase == "waiting":
            # The episode begins with the first force that moves the ball: nothing is lost while the planner starts.
            if answered and np.any(force):
                self.phase = "running"
            elif self._stamps and now >= self._next_goal and self._goal.get_subscription_count() > 1:
                self._next_goal = now + 1.0  # again, until somebody plans
                place = np.append(simulation.goal, 0.0)
                self._goal.publish(messages.pose_to_msg(place, (0.0, 0.0, 0.0, 1.0), stamp_ns, FRAME))
        if self.phase == "running":
            if self.parameters.video and self.parameters.episodes:
                obstacles = self.obstacle(now) if self.parameters.obstacle_radius > 0 else np.zeros((0, 4))
                self._moments.append(Moment(simulation.position, obstacles, self._shown.candidates, self.score))
            self.missed += not answered
            self.score += simulation.step(force)
            self.step += 1
            if self.reached < 0 and np.linalg.norm(simulation.position - simulation.goal) <= GOAL_RADIUS:
                self.reached = self.step
            self.diagnostics.tick("step")
            if self.parameters.episodes and self.step >= simulation.task.max_steps:
                self._end()
                return
        self._publish(stamp_ns, now)

    def _end(self) -> None:
        task = self.simulation.task
        result: dict[str, Any] = {
            "index": self.index,
            "seed": self.parameters.seed + self.index,
            "return": self.score,
            "score": task.score(self.score),
            "reached": self.reached >= 0,
            "steps_to_goal": self.reached,
            "missed": self.missed,
            "steps": self.step,
        }
        if self.parameters.video:
            path = Path(self.parameters.output_dir) / f"episode_{self.index:03d}_seed_{result['seed']}.mp4"
            try:
                title = f"{task.name}, seed {result['seed']}"
                write_video(path, self.simulation.map, self.simulation.goal, self._first, self._moments, title)
                result["video"] = str(path)
            except OSError as error:
                self.get_logger().error(f"no video of episode {self.index}: {error}")
        if self.parameters.results:
            add_line(Path(self.parameters.results), result)
        self._tell({"event": "end", "result": result})
        if self.index + 1 >= self.parameters.episodes:
            self.phase = "done"
        else:
            self._begin(self.index + 1, pause=True)

    def _publish(self, stamp_ns: int, now: float) -> None:
        simulation = self.simulation
        self._stamps = [*self._stamps[-_FORCE_STEPS + 1 :], stamp_ns]
        state = messages.odometry_to_msg(simulation.position, simulation.velocity, stamp_ns, FRAME)
        self._odometry.publish(state)
        if now < self._next_news:
            return
        self._next_news = now + _NEWS_SECONDS
        self._tell({"event": self.phase})
        if self.parameters.obstacle_radius > 0:
            self._obstacles.publish(messages.balls_to_msg(self.obstacle(now), (0.8, 0.1, 0.1, 0.9), "obstacles", FRAME))
        if self._scene.get_subscription_count():
            robot = np.append(simulation.position, [BALL_RADIUS, BALL_RADIUS])[None]
            self._scene.publish(messages.balls_to_msg(robot, (0.1, 0.3, 0.9, 1.0), "robot", FRAME))

    def obstacle(self, now: float) -> np.ndarray:
        """Centre and radius (1, 4) m of the ball that moves to and fro about the middle of the free cells."""
        cells = self.simulation.map.free_cells
        middle = self.simulation.map.centre(cells[len(cells) // 2])
        radius = self.parameters.obstacle_radius
        return np.array([[*(middle + [0.3 * np.sin(now), 0.0]), radius, radius]])

    def _tell(self, news: dict[str, Any]) -> None:
        self._episode.publish(
            messages.episode_to_msg(
                {
                    "index": self.index,
                    "seed": self.parameters.seed + self.index,
                    "step": self.step,
                    "reward": self.score,
                    "success": self.reached >= 0,
                    "max_steps": self.simulation.task.max_steps,
                    "missed": self.missed,
                    "rate": round(self.diagnostics.rate("step"), 2),
                    "fault": self._fault,
                    **news,
                }
            )
        )

    def _refresh(self) -> None:
        for name in ("index", "step", "score", "missed"):
            self.diagnostics.value(f"episode {name}", getattr(self, name))
        if self._fault:
            self.diagnostics.report(WARN, f"braking: {self._fault}")
        else:
            self.diagnostics.report(OK, self.phase)

    def close(self) -> None:
        self.simulation.close()


def main() -> int:
    return run(MazeNode)


if __name__ == "__main__":
    raise SystemExit(main())
