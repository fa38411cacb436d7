"""maze: PointMaze as a robot driver. Odometry, map and score out, forces in, 100 steps a second.

A force answers an odometry and counts for the step after it, and for the two after that where no newer one comes;
without one the ball brakes. There is no lockstep: a planner takes its time, and nobody but the follower answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped, WrenchStamped
from nav_msgs.msg import OccupancyGrid, Odometry
from numpy.typing import NDArray
from rclpy.parameter import Parameter
from visualization_msgs.msg import MarkerArray

from diffusion_ros.control.path_follower import brake
from diffusion_ros.robot import FRAME_PREFIX
from diffusion_ros.ros import messages, simulator_parameters, topics
from diffusion_ros.ros.listener import Listener
from diffusion_ros.ros.params import parameter
from diffusion_ros.ros.runner import run
from diffusion_ros.ros.simulator_node import SimulatorNode
from diffusion_ros.ros.transform_broadcaster import TransformBroadcaster
from diffusion_ros.simulators import maze_video
from diffusion_ros.simulators.episode import MazeEpisode
from diffusion_ros.simulators.maze import BALL_FRAME, BALL_RADIUS, FRAME, GOAL_RADIUS, MAX_FORCE, RATE, MazeSimulation
from diffusion_ros.simulators.scene import SceneGeom
from diffusion_ros.simulators.tasks import MAZE_TASKS

Array = NDArray[np.float64]

_OBSTACLES_SECONDS = 0.2
_TRANSFORM_SECONDS = 0.03
"""Between two transforms of the ball: a third of its rate."""
_GOAL_SECONDS = 1.0
"""Between two times that the goal is said, until somebody drives there."""
_GOAL_DELAY = 0.1
"""After the first odometry, which says that there is a new episode."""
_LINES_BYTES = 2_000_000
"""Of plans as lines: some 80,000 points."""


@dataclass(frozen=True)
class MazeParameters(simulator_parameters.SimulatorParameters):
    """Parameters of the maze node."""

    size: str = parameter("large", "which maze", choices=tuple(MAZE_TASKS))
    episodes: int = parameter(0, "number of episodes, after which the node ends; 0: one episode without end", low=0)
    obstacle_radius: float = parameter(
        0.0, "radius of a ball that moves to and fro in the way [m]; 0: no ball", low=0.0, high=0.4
    )
    frame_prefix: str = parameter("", FRAME_PREFIX)
    video: bool = parameter(
        False, "true: write an MP4 of each episode that ends, with the denoising of its plan and the drive"
    )


class MazeNode(SimulatorNode):
    """Publishes odom, map, goal_pose at the start of an episode, obstacles, scene and episode; takes force_command."""

    rate = RATE
    repeats = True
    replayed_as = "maze"
    video_rate = maze_video.FPS
    parameters: MazeParameters
    episode: MazeEpisode

    def __init__(self, parameter_overrides: Sequence[Parameter[Any]] = ()) -> None:
        """Raises ValueError (parameters) or OSError (no folder) in one line."""
        super().__init__("maze", MazeParameters, parameter_overrides)
        p = self.parameters
        self.simulation = MazeSimulation(p.size)
        self.frame, self.ball_frame = f"{p.frame_prefix}{FRAME}", f"{p.frame_prefix}{BALL_FRAME}"
        self.task_name = p.size
        self.records = p.video and p.episodes > 0
        self._next_goal = 0.0
        self._next_obstacles = self._next_transform = 0.0
        # For the video.
        self._shown, self._first = maze_video.Shown(), maze_video.Shown()
        self._moments: list[maze_video.Moment] = []
        self.take_commands({topics.FORCE_COMMAND: (WrenchStamped, self._on_force)})
        self.create_subscription(PoseStamped, topics.GOAL, self._on_goal, topics.COMMAND_QOS)
        if self.records:
            self._hear_lines(topics.CANDIDATES, self._on_candidates)
            self._hear_lines(topics.DENOISING, self._on_denoising)
        self.start("maze", (Odometry, topics.ODOMETRY))

    def _hear_lines(self, topic: str, callback: Any) -> None:
        qos = topics.DESCRIPTION_QOS
        Listener(self, MarkerArray, topic, callback, lambda error, msg: None, qos, max_bytes=_LINES_BYTES)

    def advertise(self) -> None:
        self._odometry = self.create_publisher(Odometry, topics.ODOMETRY, topics.SENSOR_QOS)
        self._map = self.create_publisher(OccupancyGrid, topics.MAP, topics.DESCRIPTION_QOS)
        self._goal = self.create_publisher(PoseStamped, topics.GOAL, topics.COMMAND_QOS)
        self._obstacles = self.create_publisher(MarkerArray, topics.OBSTACLES, topics.COMMAND_QOS)
        self._scene = self.create_publisher(MarkerArray, topics.SCENE, topics.COMMAND_QOS)
        self._transforms = TransformBroadcaster(self, self.parameters.transforms)
        self._map.publish(messages.grid_to_msg(self.simulation.map.walls, 0, self.frame))

    # What comes in

    def _on_force(self, msg: WrenchStamped) -> None:
        messages.check_frame(msg.header, self.frame)
        stamp_ns, force = messages.force_from_msg(msg)
        if (np.abs(force) > MAX_FORCE).any():
            raise ValueError(f"force {force.tolist()}, {-MAX_FORCE:g} to {MAX_FORCE:g} N expected")
        self.commanded(stamp_ns, force / MAX_FORCE)

    def starts(self, row: Array) -> bool:
        """No force is no command of no motion for a ball that rolls."""
        return bool(np.any(row) or np.any(self.simulation.velocity))

    def _on_goal(self, msg: PoseStamped) -> None:
        """What the score is about; a goal that no ball can reach is the planner's to refuse."""
        if msg.header.frame_id not in ("", self.frame):
            return
        goal = np.array([msg.pose.position.x, msg.pose.position.y])
        if not self.simulation.map.problem(goal):
            self.simulation.goal = goal

    def _on_candidates(self, msg: MarkerArray) -> None:
        self._shown.candidates = messages.lines_from_msg(msg)

    def _on_denoising(self, msg: MarkerArray) -> None:
        self._shown.denoising = messages.lines_from_msg(msg)
        if not self._first.denoising:
            self._first = maze_video.Shown(denoising=self._shown.denoising)

    # Episodes

    def _new_episode(self, index: int) -> MazeEpisode:
        p = self.parameters
        task = self.simulation.task
        return MazeEpisode(
            index, p.seed + index, p.max_steps or task.max_steps, task=task, endless=not p.episodes and not p.max_steps
        )

    def reset_simulator(self) -> None:
        self.simulation.reset(self.episode.seed)
        self._next_goal = 0.0
        self._shown, self._first, self._moments = maze_video.Shown(), maze_video.Shown(), []

    def hold(self) -> Array:
        return brake(self.simulation.velocity)

    def execute(self, row: Array, missed: bool) -> None:
        simulation = self.simulation
        reward = simulation.step(row)
        there = bool(np.linalg.norm(simulation.position - simulation.goal) <= GOAL_RADIUS)
        self.episode.executed(row, there, missed)
        self.episode.total += reward

    def result(self) -> dict[str, Any]:
        return self.episode.result()

    def news(self) -> dict[str, Any]:
        return {"reward": self.episode.total}

    # What goes out

    def publish_observation(self, stamp_ns: int) -> None:
        simulation, now = self.simulation, self.seconds()
        if self.parameters.obstacle_radius > 0 and now >= self._next_obstacles:
            self._next_obstacles = now + _OBSTACLES_SECONDS
            self._obstacles.publish(
                messages.balls_to_msg(self.obstacle(now), (0.8, 0.1, 0.1, 0.9), "obstacles", self.frame)
            )
        if self._transforms.heard and now >= self._next_transform:
            self._next_transform = now + _TRANSFORM_SECONDS
            place = np.append(simulation.position, 0.0)
            self._transforms.send([(place, (0.0, 0.0, 0.0, 1.0), self.frame, self.ball_frame)], stamp_ns)
        # Last, because the follower answers it at once.
        state = messages.odometry_to_msg(
            simulation.position, simulation.velocity, stamp_ns, self.frame, self.ball_frame
        )
        self._odometry.publish(state)
        if self.phase == "waiting":
            self._say_goal(stamp_ns, now)

    def _say_goal(self, stamp_ns: int, now: float) -> None:
        """Again and again until somebody plans. Our own subscription does not count."""
        if self._next_goal == 0.0:
            self._next_goal = now + _GOAL_DELAY
        if now >= self._next_goal and self._goal.get_subscription_count() > 1:
            self._next_goal = now + _GOAL_SECONDS
            place = np.append(self.simulation.goal, 0.0)
            self._goal.publish(messages.pose_to_msg(place, (0.0, 0.0, 0.0, 1.0), stamp_ns, self.frame))

    def obstacle(self, now: float) -> Array:
        """Centre and radius (1, 4) m of the ball that moves to and fro about the middle of the free cells."""
        cells = self.simulation.map.free_cells
        middle = self.simulation.map.centre(cells[len(cells) // 2])
        radius = self.parameters.obstacle_radius
        return np.array([[*(middle + [0.3 * np.sin(now), 0.0]), radius, radius]])

    def publish_scene(self) -> None:
        if self._scene.get_subscription_count() > 0:
            robot = np.append(self.simulation.position, [BALL_RADIUS, BALL_RADIUS])[None]
            self._scene.publish(messages.balls_to_msg(robot, (0.1, 0.3, 0.9, 1.0), "robot", self.frame))

    # The replay and the video

    def shapes(self) -> Sequence[SceneGeom]:
        """The maze's cells a metre wide about the origin, the ball, and the goal of the episode."""
        walls = self.simulation.map.walls
        rows, columns = walls.shape
        upright = np.array([0.0, 0.0, 0.0, 1.0])
        floor = SceneGeom(
            *("floor", "box", (columns / 2, rows / 2, 0.01), np.array([0.0, 0.0, -0.02]), upright),
            (0.14, 0.16, 0.21, 1.0),
        )
        cells = [
            SceneGeom(
                *(f"cell{row}_{column}", "box", (0.5, 0.5, 0.2)),
                *(np.array([column - columns / 2 + 0.5, rows / 2 - 0.5 - row, 0.2]), upright),
                (0.38, 0.42, 0.5, 1.0),
            )
            for row, column in np.argwhere(walls)
        ]
        size = BALL_RADIUS, BALL_RADIUS, BALL_RADIUS
        centre = np.array([0.0, 0.0, BALL_RADIUS])
        return [
            *(floor, *cells),
            SceneGeom("ball", "sphere", size, centre, upright, (0.1, 0.3, 0.9, 1.0), body="ball"),
            SceneGeom("goal", "sphere", size, centre, upright, (0.2, 0.8, 0.35, 0.7), body="goal"),
        ]

    def bodies(self) -> Mapping[str, tuple[Array, Array]]:
        upright = np.array([0.0, 0.0, 0.0, 1.0])
        simulation = self.simulation
        places = {"ball": simulation.position, "goal": simulation.goal}
        return {name: (np.append(place, 0.0), upright) for name, place in places.items()}

    def record(self, row: Array | None, missed: bool) -> None:
        if row is None:
            return
        obstacles = self.obstacle(self.seconds()) if self.parameters.obstacle_radius > 0 else np.zeros((0, 4))
        candidates = self._shown.candidates
        self._moments.append(maze_video.Moment(self.simulation.position, obstacles, candidates, self.episode.total))

    def pictures(self) -> Iterator[NDArray[np.uint8]]:
        title = f"{self.parameters.size}, episode {self.episode.index + 1}, seed {self.episode.seed}"
        simulation = self.simulation
        return maze_video.pictures(simulation.map, simulation.goal, self._first, self._moments, title)

    def close(self) -> None:
        super().close()
        self.simulation.close()


def main() -> int:
    return run(MazeNode)


if __name__ == "__main__":
    raise SystemExit(main())
