"""What simulators have in common as nodes: their clocks, episodes one after the other, videos, no second simulator.

lockstep: the simulator publishes an observation and waits for the command that carries its stamp. realtime: it ticks at
its rate of wall time whatever the others do; at a tick it executes the newest command of the period that ends there, or
holds, then observes and publishes. So a command has the rest of the period to arrive.
Below `speed` 1 the same happens in simulated time, which the simulator publishes on /clock for all nodes.
"""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rclpy.clock import Clock as RosClock
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from std_msgs.msg import String
from std_srvs.srv import Trigger

from diffusion_ros.atomic_file import add_line
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.diagnostics import ERROR, OK, WARN, Diagnostics
from diffusion_ros.ros.listener import MAX_BYTES, Listener
from diffusion_ros.ros.params import declare
from diffusion_ros.ros.publisher_monitor import PublisherMonitor
from diffusion_ros.ros.runner import RunnableNode
from diffusion_ros.ros.sim_clock import SimClock
from diffusion_ros.ros.simulator_parameters import SimulatorParameters
from diffusion_ros.ros.sole_simulator import SoleSimulator, TopicTaken
from diffusion_ros.simulators.episode import Episode, episode_stamp_ns
from diffusion_ros.simulators.scene import SceneGeom
from diffusion_ros.simulators.scene_replay import ReplayWriter
from diffusion_ros.simulators.video import write_episode

Array = NDArray[np.float64]
Image = NDArray[np.uint8]
P = TypeVar("P", bound=SimulatorParameters)

_FAREWELL_SECONDS = 5.0
"""How long a simulator that is done stays where nobody listens to its results yet."""
_STAMPS = 8
_REPEAT_SECONDS = 1.0
_NEWS_SECONDS = 0.2
_SCENE_SECONDS = 0.045
"""At 20 Hz each control step's."""
_CLOCK_STEP_NS = 5_000_000
"""Of simulated time, at most: the other nodes wait by it."""
_CLOCK_STEPS = 5
"""In a control period, at least."""
_OF_THE_WALL = ("checking", "drawing", "done")
"""Phases that have nothing to do with the robot's time."""
_DRAWING_SECONDS = 0.04
"""Share of a tick that goes into the video, so that services and signals are answered meanwhile."""


class SimulatorNode(RunnableNode, ABC):
    """A simulator's clockwork; what it simulates, publishes and understands is a subclass's.

    Phases: checking (is there another simulator?), waiting (lockstep: for those who answer; realtime: for the first
    command that starts an episode), running, drawing (the video), pausing (realtime: between episodes), done.
    """

    task_name: str
    """What is simulated, for diagnostics."""
    rate: float
    """Control steps a second [Hz]."""
    answer_steps: int = 3
    """Real time: a command that answers an observation older than so many steps comes too late to be one."""
    repeats: bool = False
    """Real time: whether a command counts again where no newer one has come, as long as it is not too late."""
    records: bool = False
    """Whether episodes become videos."""
    video_rate: float = 0.0
    """Pictures a second of the video; 0: one each control step."""
    replayed_as: str = ""
    """arm, maze or cart: what a replay in 3D shows; '': there is none."""
    parameters: SimulatorParameters

    def __init__(self, name: str, kind: type[P], parameter_overrides: Sequence[Parameter[Any]]) -> None:
        """Raises ValueError (parameters) in one line. A subclass makes its simulator and then calls `start`."""
        super().__init__(name, parameter_overrides)
        made = time.monotonic()
        self.parameters = declare(self, kind)
        self._lockstep = self.parameters.lockstep
        self.follows_clock &= not self._lockstep
        self.phase = "checking"
        self._phase_began = made
        self._paused = 0.0
        """When a phase began in the robot's time [s]."""
        self._last_tick = made
        self._next_news = 0.0
        self._next_scene = 0.0
        self._fault = ""
        """Why the simulator holds by itself, '' when it does not."""
        self._refused = ""
        """Why the last command of this period cannot be used."""
        # The observation that is out, and what came back.
        self._stamp_ns = 0
        self._stamped_at = 0.0
        self._published_at = 0.0
        self._command: tuple[int, Array] | None = None
        """Stamp of the observation that it answers [ns], and the row."""
        self._answered_at: float | None = None
        self._acting = False
        self._drawing: Generator[None, None, None] | None = None
        self._replay: ReplayWriter | None = None
        self._stamps: deque[int] = deque(maxlen=_STAMPS)
        """Of the last observations."""
        self._commands: list[Listener[Any]] = []
        self._command_monitor: PublisherMonitor | None = None
        self._clock_publisher: Any = None
        """In lockstep."""
        self._sim_clock: SimClock | None = None
        """In real time below speed 1: the robot's time is what this one says."""
        self._steps_left = 1
        """Of the simulated time, to the end of the control period."""
        self._ran = 0.0, 0.0
        """When the first step of the episode was done: wall time and simulated time [s]."""

    def start(self, hardware_id: str, sensor: tuple[type, str], sensor_qos: QoSProfile = topics.SENSOR_QOS) -> None:
        """The rest, once there is a simulator. sensor: type and topic by which another simulator would be noticed;
        sensor_qos: how its messages are heard."""
        if self.records:
            Path(self.parameters.output_dir).mkdir(parents=True, exist_ok=True)
        if self.replayed_as and self.parameters.replay and self.parameters.results:
            self._replay = ReplayWriter(Path(self.parameters.results).parent, self.replayed_as, self.rate)
        self._period = 1.0 / self.rate
        speed = self.parameters.speed
        if speed != 1.0:
            self._steps = max(_CLOCK_STEPS, round(self._period * 1e9 / _CLOCK_STEP_NS))
            self._sim_clock = SimClock(self, speed, round(self._period * 1e9 / self._steps))
            self.follows_clock = False
        self.episode = self._new_episode(self.parameters.first_episode)
        # At once, so that who wants the results is known before the first: in lockstep an episode may take 0.1 s.
        self._episode_publisher = self.create_publisher(String, topics.EPISODE, topics.EPISODE_QOS)
        self.diagnostics = Diagnostics(self, hardware_id, self._refresh)
        self._sole = SoleSimulator(self, *sensor, sensor_qos, clock=self._sim_clock is not None)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(Trigger, "~/next", self._on_next)
        self.start_time()

    def start_time(self) -> None:
        """From now on time goes on."""
        if self._sim_clock is None:
            self.every(self._period, self._tick)
        else:
            steady = RosClock(clock_type=ClockType.STEADY_TIME)
            self.create_timer(self._sim_clock.step_seconds, self._go_slowly, clock=steady)

    def seconds(self) -> float:
        return super().seconds() if self._sim_clock is None else self._sim_clock.seconds

    def now_ns(self) -> int:
        return super().now_ns() if self._sim_clock is None else self._sim_clock.now_ns

    def take_commands(
        self,
        callbacks: Mapping[str, tuple[type[Any], Callable[[Any], None]]],
        qos: QoSProfile = topics.WATCHED_QOS,
    ) -> tuple[str, ...]:
        """Subscribes to commands, by topic: type and callback, which calls `commanded` for those that can be used and
        raises ValueError for others. One publisher must have all of the topics alone. Returns their resolved names."""
        names = tuple(self.resolve_topic_name(topic) for topic in callbacks)
        self._command_monitor = monitor = PublisherMonitor(self, *names)
        for topic, (kind, callback) in callbacks.items():
            self._commands.append(
                Listener(
                    self,
                    kind,
                    topic,
                    partial(self._on_command, topic, callback),
                    partial(self._on_bad_command, topic),
                    qos,
                    max_bytes=MAX_BYTES,
                    monitor=monitor,
                )
            )
        return names

    def _on_command(self, topic: str, callback: Callable[[Any], None], msg: Any) -> None:
        if self.phase not in ("waiting", "running"):
            return
        try:
            callback(msg)
        except ValueError as error:
            raise messages.MessageError(str(error)) from None
        self.diagnostics.tick(topic)

    def _on_bad_command(self, topic: str, error: messages.MessageError, msg: Any) -> None:
        self._command = None  # nor one that came before it
        self._fault = self._refused = f"{topics.shown(self, topic)} refused: {error}"

    # What a subclass fills in

    @abstractmethod
    def advertise(self) -> None:
        """Makes the publishers of sensors, once it is known that we are alone."""

    @abstractmethod
    def _new_episode(self, index: int) -> Episode:
        """The episode of that number, not begun yet."""

    @abstractmethod
    def reset_simulator(self) -> None:
        """Draws `episode`; forgets what belongs to the last one."""

    @abstractmethod
    def hold(self) -> Array:
        """The command of no motion, executed where there is none."""

    @abstractmethod
    def execute(self, row: Array, missed: bool) -> None:
        """Does a control step with a command and counts it."""

    @abstractmethod
    def publish_observation(self, stamp_ns: int) -> None:
        """Publishes the present state, all of it with one stamp; last what is answered at once."""

    def peers(self) -> bool:
        """Lockstep: whether those who answer are there."""
        return True

    @abstractmethod
    def result(self) -> dict[str, Any]:
        """What is reported of `episode`, which is over."""

    def starts(self, row: Array) -> bool:
        """Real time: whether a command begins the episode that waits for one, and counts as acting.

        One that does not asks for no motion, and may answer any observation.
        """
        return bool(np.any(row))

    @abstractmethod
    def publish_scene(self) -> None:
        """The scene for RViz, if somebody looks."""

    def shapes(self) -> Sequence[SceneGeom]:
        """What there is, for a replay in 3D: in the frames of the bodies that move."""
        return ()

    def bodies(self) -> Mapping[str, tuple[Array, Array]]:
        """Where those bodies are, by name: position (3) m and quaternion (4) xyzw in the world."""
        return {}

    @abstractmethod
    def record(self, row: Array | None, missed: bool) -> None:
        """Keeps the observation that is out for the video, before its command is executed; None at the end."""

    @abstractmethod
    def pictures(self) -> Iterator[Image]:
        """Of the video, from what was recorded."""

    @abstractmethod
    def news(self) -> dict[str, Any]:
        """What `episode` says besides what all simulators say: reward and the like."""

    # What comes in

    def commanded(self, stamp_ns: int, row: Array) -> None:
        """A command that can be used, with the stamp of the observation that it answers."""
        if not self._lockstep and self.starts(row) and not self._in_time(stamp_ns):
            off = (self._stamp_ns - stamp_ns) / 1e6
            self._fault = self._refused = (
                f"command refused: it answers an observation of {off:.0f} ms before the newest"
            )
            return
        if stamp_ns == self._stamp_ns:
            # In real time the executor's hold may be followed by the row of a chunk that came late: the last counts.
            self._answered_at = time.monotonic()
        if not self._lockstep:
            self._command = stamp_ns, row
        elif self.phase == "running" and stamp_ns == self._stamp_ns and not self.conflict():
            self._fault = ""
            self._step(row)
            self._go_on(episode_stamp_ns(self.episode.index, self.episode.steps, self.rate))

    def _in_time(self, stamp_ns: int) -> bool:
        """Whether an observation is new enough to be answered."""
        return stamp_ns in list(self._stamps)[-self.answer_steps :]

    def _on_reset(self, request: Any, response: Any) -> Any:
        """Begins the current episode again, from the same seed."""
        response.success = self.phase in ("waiting", "running", "pausing")
        if response.success:
            self._begin(self.episode.index)
            response.message = f"episode {self.episode.index} begins again"
        else:
            response.message = f"not while {self.phase}"
        return response

    def _on_next(self, request: Any, response: Any) -> Any:
        """Ends the current episode as it is; the next one begins."""
        response.success = self.phase in ("waiting", "running")
        if response.success:
            response.message = f"episode {self.episode.index} was ended"
            self._finish()
        else:
            response.message = f"not while {self.phase}"
        return response

    # Phases

    def _go_slowly(self) -> None:
        """Simulated time goes on, if it is due; each control period of it has a tick at its end."""
        assert self._sim_clock is not None
        period_over = False
        if self._sim_clock.due():
            self._sim_clock.advance()
            self._steps_left -= 1
            period_over = self._steps_left == 0
        if period_over:
            self._steps_left = self._steps
        if period_over or self.phase in _OF_THE_WALL:
            self._tick()

    def _tick(self) -> None:
        now = time.monotonic()
        late = now - self._last_tick > 1.5 * self._period / self.parameters.speed
        self._last_tick = now
        if self.phase == "checking":
            self._check(now)
        elif self.phase == "drawing":
            self._draw(now)
        elif self.phase == "pausing":
            if self.seconds() - self._paused >= self.parameters.pause:
                self._enter("waiting")
        elif self.phase == "done":
            # A message that is still under way would be lost with the process, and so would all that are kept for one
            # who listens but has not been found yet.
            if self._episode_publisher.get_subscription_count() or now - self._phase_began > _FAREWELL_SECONDS:
                self._episode_publisher.wait_for_all_acked(Duration(seconds=2))
                self.exit_status = 0
        elif self._lockstep:
            self._tick_lockstep(now)
        else:
            self._tick_realtime(now, late)
        if self.phase not in ("checking", "done"):
            if self.parameters.scene and now >= self._next_scene:
                self._next_scene = now + _SCENE_SECONDS
                self.publish_scene()
            self._tell(now)

    def _check(self, now: float) -> None:
        """Begins once it is known that we are alone."""
        try:
            alone = self._sole.alone(now - self._phase_began)
        except TopicTaken as error:
            print(error, file=sys.stderr)
            self.exit_status = 2
            return
        if alone:
            if self._sim_clock is not None:
                self._sim_clock.publish()
            if self._lockstep:
                self._clock_publisher = self.create_publisher(Clock, topics.CLOCK, topics.SENSOR_QOS)
            self.advertise()
            self._begin(self.parameters.first_episode)
        elif self._sole.silent:
            self.diagnostics.report(WARN, self._sole.silent)

    def _begin(self, index: int) -> None:
        """Draws episode `index`.

        Nothing of the last one may reach it. In lockstep the stamps tell the others, in real time the pause does: it is
        a gap in the observations and longer than a chunk.
        """
        again = self.phase != "checking"
        self.episode = self._new_episode(index)
        self.reset_simulator()
        if self._replay is not None:
            self._replay.begin(self.shapes())
        self._command = None
        self._fault = ""
        self._stamps.clear()
        self._stamp_ns = episode_stamp_ns(index, 0, self.rate)
        self._enter("pausing" if again and not self._lockstep else "waiting")
        if self._lockstep:
            self._tick_lockstep(self._phase_began)

    def _tick_lockstep(self, now: float) -> None:
        if self.phase == "waiting" and self.peers():
            self._enter("running")
            self._observe(self._stamp_ns, now)
        elif self.phase == "running" and now - self._published_at > _REPEAT_SECONDS:
            # Somebody has missed it, or was started again.
            self._observe(self._stamp_ns, now)

    def _tick_realtime(self, now: float, late: bool) -> None:
        stamp_ns = self.now_ns()
        for listener in self._commands:
            # rclpy runs timers first: on a busy machine a command that came in time may still be in the queue.
            listener.take_waiting()
        if self._command is not None and (conflict := self.conflict()):
            self._command, self._refused = None, conflict
        command = None if self._command is None else self._command[1]
        if self.phase == "waiting" and command is not None and self.starts(command):
            self._enter("running")  # nothing is lost while the policy starts
            self._ran = now, self.seconds()
        if self.phase == "running":
            self.episode.overruns += late
            self._fault = (self._refused or "no command in this period") if command is None else ""
            self._step(self.hold() if command is None else command, missed=command is None)
        self._refused = ""
        self._go_on(stamp_ns, now)
        if self._command is not None and not (self.repeats and self._in_time(self._command[0])):
            self._command = None

    def _go_on(self, stamp_ns: int, now: float | None = None) -> None:
        """Observes, or ends the episode."""
        if self.episode.over:
            self._finish()
        else:
            self._observe(stamp_ns, time.monotonic() if now is None else now)

    def _step(self, row: Array, missed: bool = False) -> None:
        episode = self.episode
        if self.records:
            self.record(row, missed)
        if self._replay is not None and self._replay.due():
            self._replay.add(self.bodies())
        if self._answered_at is not None:
            episode.took("stamp to command", self._answered_at - self._stamped_at)
            episode.took("publication to command", self._answered_at - self._published_at)
            self.diagnostics.latency("publication to command", self._answered_at - self._published_at)
        began = time.monotonic()
        self.execute(row, missed)
        episode.took("physics", time.monotonic() - began)
        self._acting = not missed and self.starts(row)
        self.diagnostics.tick("step")

    def _observe(self, stamp_ns: int, now: float) -> None:
        self._stamp_ns = stamp_ns
        self._stamps.append(stamp_ns)
        self._stamped_at = now
        self._answered_at = None
        if self._clock_publisher is not None:
            self._clock_publisher.publish(messages.clock_to_msg(stamp_ns))
        self.publish_observation(stamp_ns)
        self._published_at = time.monotonic()

    def _finish(self) -> None:
        """The episode is over: report it, at once or with its video."""
        result = {**self.result(), **self._pace()}
        if self._replay is not None:
            self._save_replay(self._replay)
        if self.records:
            self.record(None, False)
            name = f"episode_{self.episode.index + 1:03d}_seed_{self.episode.seed}.mp4"
            self._drawing = self._write_video(Path(self.parameters.output_dir) / name, result)
            self._enter("drawing")
        else:
            self._end(result)

    def _pace(self) -> dict[str, float]:
        """Below speed 1, of an episode of several steps: control steps a second of simulated time [Hz], and simulated
        seconds in a second of wall time, which are fewer than `speed` where the machine does not keep up."""
        wall, began = time.monotonic() - self._ran[0], self._ran[1]
        if self._sim_clock is None or self.episode.steps < 2:
            return {}
        simulated = self._sim_clock.seconds - began
        return {"rate": round((self.episode.steps - 1) / simulated, 3), "achieved_speed": round(simulated / wall, 3)}

    def _save_replay(self, replay: ReplayWriter) -> None:
        replay.add(self.bodies())
        try:
            replay.save(self.episode.index, self.episode.seed)
        except OSError as error:
            self.get_logger().error(f"no replay of episode {self.episode.index}: {error}")

    def _write_video(self, path: Path, result: dict[str, Any]) -> Generator[None, None, None]:
        """Draws a picture each time it is asked; ends the episode when the file is whole, or says why it is not."""
        try:
            yield from write_episode(path, self.video_rate or self.rate, self.pictures(), self.episode.success)
            result["video"] = str(path)
        except OSError as error:
            self.get_logger().error(f"no video of episode {self.episode.index}: {error}")
        self._end(result)

    def _draw(self, began: float) -> None:
        while self.phase == "drawing" and time.monotonic() - began < _DRAWING_SECONDS:
            assert self._drawing is not None
            next(self._drawing, None)

    def _end(self, result: dict[str, Any]) -> None:
        if self.parameters.results:
            add_line(Path(self.parameters.results), result)
        self._publish_episode({"event": "end", "result": result})
        following = self.episode.index + 1
        if 0 < self.parameters.episodes <= following:
            self._enter("done")
        else:
            self._begin(following)

    def _enter(self, phase: str) -> None:
        self.phase = phase
        self._phase_began, self._paused = time.monotonic(), self.seconds()

    # What it says of itself

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
                    "success": episode.success,
                    "max_steps": episode.max_steps,
                    "held": episode.held,
                    "missed": episode.missed,
                    "rate": round(self.diagnostics.rate("step"), 2),
                    "acting": self._acting,
                    "latency_ms": round(1e3 * answers[-1], 2) if answers else None,
                    "fault": self.conflict() or self._fault,
                    **self.news(),
                    **news,
                }
            )
        )

    def conflict(self) -> str:
        """'' or who else publishes what only one may: sensors, or commands."""
        commands = self._command_monitor.reason() if self._command_monitor is not None else ""
        return self._sole.conflict() or commands

    def _refresh(self) -> None:
        self.diagnostics.value("task", self.task_name)
        self.diagnostics.value("mode", "lockstep" if self._lockstep else "realtime")
        if self._sim_clock is not None:
            self.diagnostics.value("speed", self.parameters.speed)
        for name in ("index", "seed", "steps", "held", "missed", "overruns"):
            self.diagnostics.value(f"episode {name}", getattr(self.episode, name))
        for name, value in self.news().items():
            self.diagnostics.value(f"episode {name}", value)
        self.diagnostics.value("phase", self.phase)
        if self.conflict():
            self.diagnostics.report(ERROR, f"holding: {self.conflict()}")
        elif self._fault:
            self.diagnostics.report(WARN, f"holding: {self._fault}")
        elif self.phase != "checking":
            self.diagnostics.report(OK, self.phase)

    def close(self) -> None:
        if self._drawing is not None:
            self._drawing.close()
