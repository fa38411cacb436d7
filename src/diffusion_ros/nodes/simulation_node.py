"""simulation: a robosuite task as a robot driver. Sensors out, commands in, episodes one after the other.

lockstep: the simulator publishes an observation and waits for the command that carries its stamp. realtime: it ticks at
20 Hz of wall time whatever the others do; at a tick it executes the newest command of the period that ends there, or
holds, then observes and publishes. So a command has the rest of the period to arrive.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from rclpy.clock import Clock as RosClock
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.parameter import Parameter
from rclpy.subscription import MessageInfo
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from diffusion_ros import messages, topics
from diffusion_ros.action_chunk import ACTION_SIZE, ActionChunk
from diffusion_ros.diagnostics import ERROR, OK, WARN, Diagnostics
from diffusion_ros.episode import Episode, RecordedStep, pictures
from diffusion_ros.nodes.runner import RunnableNode, run
from diffusion_ros.params import declare, parameter
from diffusion_ros.simulation import RATE, TASKS, Simulation, episode_stamp_ns
from diffusion_ros.sources import SourceWatch
from diffusion_ros.video import Mp4Writer

Array = NDArray[np.float64]

PERIOD = 1.0 / RATE
HOLD: Array = np.zeros(ACTION_SIZE)
_DISCOVERY_SECONDS = 1.5
_LEASE_SECONDS = 21.0
"""A process that was killed stays in the graph for FastDDS's lease of 20 s; who is still there after that lives."""
_REPEAT_SECONDS = 1.0
_SCENE_SECONDS = 0.1
_NEWS_SECONDS = 0.2
_DRAWING_SECONDS = 0.04
"""Share of a tick that goes into the video, so that services and signals are answered meanwhile."""


@dataclass(frozen=True)
class SimulationParameters:
    """Parameters of the simulation node."""

    task: str = parameter("can", "what the robot is to do", choices=tuple(TASKS))
    mode: str = parameter(
        "realtime",
        "lockstep: waits for the command to each observation; realtime: 20 Hz of wall time",
        choices=("realtime", "lockstep"),
    )
    episodes: int = parameter(0, "how many, then the node ends; 0: without end", low=0)
    seed: int = parameter(100_000, "episode i is drawn from seed + i", low=0)
    max_steps: int = parameter(0, "length of an episode; 0: the task's own", low=0)
    stop_after_success: int = parameter(0, "steps that an episode goes on after its success", low=0)
    pause: float = parameter(
        1.0, "realtime: silence between episodes [s], by which the others know a new one", low=1.0, high=60.0
    )
    scene: bool = parameter(True, "publish the scene as markers")
    transforms: bool = parameter(True, "publish /tf where tf2_msgs is installed")
    view: str = parameter("", "camera of the video's larger view, '' for no video")
    output_dir: str = parameter("", "folder of the videos, '' for the current one")


class SimulationNode(RunnableNode):
    """Publishes what a robot's drivers would, and the episode; subscribes to eef_command.

    Phases: checking (is there another simulator?), waiting (lockstep: for policy and executor; realtime: for the first
    command that moves the robot), running, drawing (the video), pausing (realtime: between episodes), done.
    """

    def __init__(self, parameter_overrides: Sequence[Parameter[Any]] = ()) -> None:
        """Raises ValueError (parameters) or OSError (no OpenGL, no folder) in one line."""
        super().__init__("simulation", parameter_overrides)
        made = time.monotonic()
        self.parameters = p = declare(self, SimulationParameters)
        self._lockstep = p.mode == "lockstep"
        self.simulation = Simulation(p.task)
        if p.view and p.view not in self.simulation.known_cameras:
            raise ValueError(f"view {p.view!r}: expected one of {', '.join(self.simulation.known_cameras)}")
        if p.view:
            Path(p.output_dir).mkdir(parents=True, exist_ok=True)
        self.simulation.observe()  # the first picture makes the OpenGL context, which takes a second
        self.phase = "checking"
        self._phase_began = made
        self._last_tick = made
        self._next_news = 0.0
        self._next_scene = 0.0
        self._fault = ""
        """Why the simulator holds by itself, '' when it does not."""
        self.episode = self._new_episode(0)
        # The observation that is out, and what came back.
        self._stamp_ns = 0
        self._stamped_at = 0.0
        self._published_at = 0.0
        self._frame: dict[str, NDArray[Any]] = {}
        self._command: Array | None = None
        self._answered_at: float | None = None
        self._acting = False
        # For the video.
        self._chunk: ActionChunk | None = None
        self._executor_says = ""
        self._recorded: list[RecordedStep] = []
        self._drawing: Generator[None, None, None] | None = None

        self.diagnostics = Diagnostics(self, "robosuite", self._refresh)
        self._commands = self.create_subscription(
            JointTrajectory, topics.EEF_COMMAND, self._on_command, topics.COMMAND_QOS
        )
        chunk = self.create_subscription(JointTrajectory, topics.ACTION_CHUNK, self._on_chunk, topics.COMMAND_QOS)
        pose = self.create_subscription(PoseStamped, topics.EEF_POSE, self._on_pose, topics.SENSOR_QOS)
        self.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, topics.DIAGNOSTICS_QOS)
        # As they are called after remapping, which questions about the graph do not follow.
        self._command_topic, self._chunk_topic = self._commands.topic_name, chunk.topic_name
        self._pose_topic = pose.topic_name
        self._sources = SourceWatch(self, self._pose_topic)
        self._heard_pose = False
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_timer(PERIOD, self._tick, clock=RosClock(clock_type=ClockType.STEADY_TIME))

    def _advertise(self) -> None:
        """Publishers, once it is known that we are alone."""
        self._episode_publisher = self.create_publisher(String, topics.EPISODE, topics.EPISODE_QOS)
        self._pose_publisher = self.create_publisher(PoseStamped, topics.EEF_POSE, topics.SENSOR_QOS)
        self._object_publisher = self.create_publisher(PoseStamped, topics.OBJECT_POSE, topics.SENSOR_QOS)
        self._joint_publisher = self.create_publisher(JointState, topics.JOINT_STATES, topics.SENSOR_QOS)
        cameras = self.simulation.cameras
        self._image_publishers = {
            camera: self.create_publisher(Image, topics.image(camera), topics.SENSOR_QOS) for camera in cameras
        }
        self._info_publishers = {
            camera: self.create_publisher(CameraInfo, topics.camera_info(camera), topics.DESCRIPTION_QOS)
            for camera in cameras
        }
        self._scene_publisher = self.create_publisher(MarkerArray, topics.SCENE, topics.DESCRIPTION_QOS)
        # Stamp 0: the newest transform there is.
        self._scene = messages.SerializedScene(self.simulation.scene(), 0, topics.WORLD_FRAME)
        self._clock_publisher = (
            self.create_publisher(Clock, topics.CLOCK, topics.SENSOR_QOS) if self._lockstep else None
        )
        wants_transforms = self.parameters.transforms and messages.TFMessage is not None
        self._transform_publisher = (
            self.create_publisher(messages.TFMessage, topics.TF, topics.SENSOR_QOS) if wants_transforms else None
        )

    # What comes in

    def _on_command(self, msg: JointTrajectory) -> None:
        if self.phase not in ("waiting", "running"):
            return
        try:
            stamp_ns, row = messages.command_from_msg(msg)
        except messages.MessageError as error:
            self._fault = f"{topics.EEF_COMMAND} refused: {error}"
            return
        self.diagnostics.tick(topics.EEF_COMMAND)
        if stamp_ns == self._stamp_ns:
            # In real time the executor's hold may be followed by the row of a chunk that came late: the last counts.
            self._answered_at = time.monotonic()
        if not self._lockstep:
            self._command = row
        elif self.phase == "running" and stamp_ns == self._stamp_ns and not self._conflict():
            self._fault = ""
            self._step(row)
            self._go_on(episode_stamp_ns(self.episode.index, self.episode.steps))

    def _on_pose(self, msg: PoseStamped, info: MessageInfo) -> None:
        """Our own, or that of another simulator or robot."""
        self._heard_pose = True
        self._sources.heard(info)

    def _on_chunk(self, msg: JointTrajectory) -> None:
        try:
            self._chunk = messages.chunk_from_msg(msg)
        except messages.MessageError:
            self._chunk = None  # the executor says what is wrong with it

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in messages.diagnostics_from_msg(msg):
            if status.hardware_id == "executor":
                self._executor_says = status.summary

    def _on_reset(self, request: Any, response: Any) -> Any:
        """Begins the current episode again, from the same seed."""
        response.success = self.phase in ("waiting", "running", "pausing")
        if response.success:
            self._begin(self.episode.index)
            response.message = f"episode {self.episode.index} begins again"
        else:
            response.message = f"not while {self.phase}"
        return response

    # Phases

    def _tick(self) -> None:
        now = time.monotonic()
        late = now - self._last_tick > 1.5 * PERIOD
        self._last_tick = now
        if self.phase == "checking":
            self._check(now)
        elif self.phase == "drawing":
            self._draw(now)
        elif self.phase == "pausing":
            if now - self._phase_began >= self.parameters.pause:
                self._enter("waiting")
        elif self.phase == "done":
            # A message that is still under way would be lost with the process.
            self._episode_publisher.wait_for_all_acked(Duration(seconds=2))
            self.exit_status = 0
        elif self._lockstep:
            self._tick_lockstep(now)
        else:
            self._tick_realtime(now, late)
        if self.phase not in ("checking", "done"):
            self._publish_scene(now)
            self._tell(now)

    def _check(self, now: float) -> None:
        """Two simulators on the same topics would move each other's robots: the second one must not start."""
        if now - self._phase_began < _DISCOVERY_SECONDS:
            return
        others = self.get_publishers_info_by_topic(self._pose_topic)
        if not others:
            self._advertise()
            self._begin(0)
        elif self._heard_pose or now - self._phase_began > _LEASE_SECONDS:
            name = f"{others[0].node_namespace.rstrip('/')}/{others[0].node_name}"
            print(
                f"{self._pose_topic} has a publisher already, {name} in ROS domain {self.context.get_domain_id()}:"
                " stop it, or choose another ROS_DOMAIN_ID or namespace",
                file=sys.stderr,
            )
            self.exit_status = 2
        else:
            self.diagnostics.report(WARN, f"{self._pose_topic} has a silent publisher: waiting for it to go away")

    def _begin(self, index: int) -> None:
        """Draws episode `index`.

        Nothing of the last one may reach it. In lockstep the stamps tell the others, in real time the pause does: it is
        a gap in the observations and longer than a chunk.
        """
        again = self.phase != "checking"
        self.episode = self._new_episode(index)
        self.simulation.reset(self.episode.seed)
        self._recorded = []
        self._chunk = None
        self._command = None
        self._fault = ""
        self._stamp_ns = episode_stamp_ns(index, 0)
        self._enter("pausing" if again and not self._lockstep else "waiting")
        if self._lockstep:
            self._tick_lockstep(self._phase_began)

    def _tick_lockstep(self, now: float) -> None:
        if self.phase == "waiting" and self._peers():
            self._enter("running")
            self._observe(self._stamp_ns, now)
        elif self.phase == "running" and now - self._published_at > _REPEAT_SECONDS:
            # Somebody has missed it, or was started again.
            self._observe(self._stamp_ns, now)

    def _tick_realtime(self, now: float, late: bool) -> None:
        stamp_ns = self.get_clock().now().nanoseconds
        self._take_waiting_command()
        command, self._command = self._command, None
        if self.phase == "waiting" and command is not None and np.any(command) and not self._conflict():
            self._enter("running")  # nothing is lost while the policy starts
        if self.phase == "running":
            self.episode.overruns += late
            self._fault = "no command in this period" if command is None else ""
            self._step(HOLD if command is None or self._conflict() else command, missed=command is None)
        self._go_on(stamp_ns, now)

    def _take_waiting_command(self) -> None:
        """rclpy runs timers first: on a busy machine a command that came in time may still be in the queue."""
        with self._commands.handle:
            waiting = self._commands.handle.take_message(self._commands.msg_type, False)
        if waiting is not None:
            self._on_command(waiting[0])

    def _go_on(self, stamp_ns: int, now: float | None = None) -> None:
        """Observes, or ends the episode."""
        if self.episode.over:
            self._finish()
        else:
            self._observe(stamp_ns, time.monotonic() if now is None else now)

    def _step(self, row: Array, missed: bool = False) -> None:
        episode = self.episode
        if self.parameters.view:
            self._record(self._why_held(row, missed))
        if self._answered_at is not None:
            episode.took("stamp to command", self._answered_at - self._stamped_at)
            episode.took("publication to command", self._answered_at - self._published_at)
            self.diagnostics.latency("publication to command", self._answered_at - self._published_at)
        began = time.monotonic()
        self.simulation.step(row)
        episode.took("physics", time.monotonic() - began)
        episode.executed(row, self.simulation.success, missed)
        self._acting = bool(np.any(row))
        self.diagnostics.tick("step")

    def _finish(self) -> None:
        """The episode is over: report it, at once or with its video."""
        result = self.episode.result(self.simulation.state_hash())
        if self.parameters.view:
            self._frame = self.simulation.observe()
            self._record("" if self.episode.success else "the episode is over")
            name = f"episode_{self.episode.index:03d}_seed_{self.episode.seed}.mp4"
            self._drawing = self._write_video(Path(self.parameters.output_dir) / name, result)
            self._enter("drawing")
        else:
            self._end(result)

    def _write_video(self, path: Path, result: dict[str, Any]) -> Generator[None, None, None]:
        """Draws a picture each time it is asked; ends the episode when the file is whole, or says why it is not."""
        try:
            with Mp4Writer(path, RATE) as writer:
                for picture in pictures(self.simulation, self.parameters.view, self.episode, self._recorded):
                    writer.write(picture)
                    yield
            result["video"] = str(path)
        except OSError as error:
            self.get_logger().error(f"no video of episode {self.episode.index}: {error}")
        self._end(result)

    def _draw(self, began: float) -> None:
        while self.phase == "drawing" and time.monotonic() - began < _DRAWING_SECONDS:
            assert self._drawing is not None
            next(self._drawing, None)

    def _end(self, result: dict[str, Any]) -> None:
        self._publish_episode({"event": "end", "result": result})
        following = self.episode.index + 1
        if 0 < self.parameters.episodes <= following:
            self._enter("done")
        else:
            self._begin(following)

    def _enter(self, phase: str) -> None:
        self.phase = phase
        self._phase_began = time.monotonic()

    # What goes out

    def _observe(self, stamp_ns: int, now: float) -> None:
        """Publishes the present state, all of it with one stamp. Pictures that nobody looks at are not drawn."""
        simulation = self.simulation
        watched = bool(self.parameters.view) or any(
            publisher.get_subscription_count() for publisher in self._image_publishers.values()
        )
        began = time.monotonic()
        frame = simulation.observe(images=watched)
        drawn = time.monotonic()
        self._frame = frame
        self._stamp_ns = stamp_ns
        self._stamped_at = now
        self._answered_at = None
        if self._clock_publisher is not None:
            self._clock_publisher.publish(messages.clock_to_msg(stamp_ns))
        for camera in simulation.cameras if watched else ():
            optical, size = topics.optical_frame(camera), simulation.image_size
            image = messages.image_to_msg(frame[f"{camera}_image"], stamp_ns, optical)
            self._image_publishers[camera].publish(image)
            matrix = simulation.camera_matrix(camera, size, size)
            info = messages.camera_info_to_msg(matrix, size, size, stamp_ns, optical)
            self._info_publishers[camera].publish(info)
        self._joint_publisher.publish(
            messages.joint_state_to_msg(
                simulation.joint_names, simulation.joint_positions(), simulation.joint_velocities(), stamp_ns
            )
        )
        world = topics.WORLD_FRAME
        object_pose = messages.pose_to_msg(frame["object_pos"], frame["object_quat"], stamp_ns, world)
        self._object_publisher.publish(object_pose)
        # Last, because the executor answers it at once.
        eef_pose = messages.pose_to_msg(frame["robot0_eef_pos"], frame["robot0_eef_quat"], stamp_ns, world)
        self._pose_publisher.publish(eef_pose)
        self._published_at = time.monotonic()
        self.diagnostics.tick(topics.EEF_POSE)
        if self.phase == "running":
            self.episode.took("observation", drawn - began)
            self.episode.took("publication", self._published_at - drawn)
        if self._transform_publisher is not None:
            moving = messages.TFMessage(transforms=transforms(simulation, frame, stamp_ns))
            self._transform_publisher.publish(moving)

    def _publish_scene(self, now: float) -> None:
        """The scene for RViz, while somebody looks."""
        if self.parameters.scene and now >= self._next_scene and self._scene_publisher.get_subscription_count() > 0:
            self._next_scene = now + _SCENE_SECONDS
            self._scene_publisher.publish(self._scene.moved(self.simulation.scene()))

    def _tell(self, now: float) -> None:
        """Where the episode is, a few times a second."""
        if now >= self._next_news:
            self._next_news = now + _NEWS_SECONDS
            self._publish_episode({"event": self.phase})

    def _publish_episode(self, news: dict[str, Any]) -> None:
        episode = self.episode
        answers = episode.timings_s.get("stamp to command", [])
        self._episode_publisher.publish(
            messages.episode_to_msg(
                {
                    "index": episode.index,
                    "seed": episode.seed,
                    "step": episode.steps,
                    "reward": float(self.simulation.success),
                    "success": episode.success,
                    "max_steps": episode.max_steps,
                    "held": episode.held,
                    "missed": episode.missed,
                    "rate": round(self.diagnostics.rate("step"), 2),
                    "acting": self._acting,
                    "latency_ms": round(1e3 * answers[-1], 2) if answers else None,
                    "fault": self._conflict() or self._fault,
                    **news,
                }
            )
        )

    # Parts

    def _new_episode(self, index: int) -> Episode:
        p = self.parameters
        return Episode(index, p.seed + index, p.max_steps or self.simulation.task.max_steps, p.stop_after_success)

    def _conflict(self) -> str:
        return self._sources.reason()

    def _peers(self) -> bool:
        """Whether policy and executor are there. Our own subscription to eef_pose does not count."""
        return (
            self.count_subscribers(self._pose_topic) > 1
            and self.count_publishers(self._command_topic) > 0
            and self.count_publishers(self._chunk_topic) > 0
        )

    def _why_held(self, row: Array, missed: bool) -> str:
        if missed:
            return self._fault
        if np.any(row):
            return ""
        says = self._executor_says
        return says.removeprefix("holding: ") if says.startswith("holding: ") else "told to"

    def _record(self, reason: str) -> None:
        """Keeps the observation that is out for the video; `reason`: why the robot holds after it, or ''."""
        rows = np.zeros((0, ACTION_SIZE))
        if self._chunk is not None:
            rows = self._chunk.rows[max(0, self._chunk.index_at(self._stamp_ns)) :]
        self._recorded.append(
            RecordedStep(
                qpos=self.simulation.data.qpos.copy(),
                images=tuple(self._frame[f"{camera}_image"] for camera in self.simulation.cameras),
                eef_pos=self._frame["robot0_eef_pos"],
                chunk_rows=rows,
                step=self.episode.steps,
                reason=reason,
                success=self.episode.success,
            )
        )

    def _refresh(self) -> None:
        for name in ("task", "mode"):
            self.diagnostics.value(name, getattr(self.parameters, name))
        for name in ("index", "seed", "steps", "held", "missed", "overruns"):
            self.diagnostics.value(f"episode {name}", getattr(self.episode, name))
        self.diagnostics.value("phase", self.phase)
        if self._conflict():
            self.diagnostics.report(ERROR, f"holding: {self._conflict()}")
        elif self._fault:
            self.diagnostics.report(WARN, f"holding: {self._fault}")
        elif self.phase != "checking":
            self.diagnostics.report(OK, self.phase)

    def close(self) -> None:
        if self._drawing is not None:
            self._drawing.close()
        self.simulation.close()


def transforms(simulation: Simulation, frame: dict[str, NDArray[Any]], stamp_ns: int) -> list[Any]:
    """geometry_msgs/TransformStamped of the hand and of the cameras' optical frames in the world."""
    poses = [(frame["robot0_eef_pos"], frame["robot0_eef_quat"], "robot0_eef")]
    poses += [(*simulation.camera_pose(camera), topics.optical_frame(camera)) for camera in simulation.cameras]
    return [
        messages.transform_to_msg(position, quaternion, stamp_ns, topics.WORLD_FRAME, name)
        for position, quaternion, name in poses
    ]


def main() -> int:
    return run(SimulationNode)


if __name__ == "__main__":
    raise SystemExit(main())
