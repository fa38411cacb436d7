"""executor: chunks in, one command for each observation out. It alone decides what the robot does.

Everything it decides is in action_chunk.ChunkExecutor; this node converts, asks, and publishes. In lockstep the robot
waits, so the executor waits for the chunk that it needs; in real time the due row or a hold goes out at once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Path
from numpy.typing import NDArray
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.parameter import Parameter
from rclpy.subscription import MessageInfo
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros import checkpoint, messages, topics
from diffusion_ros.action_chunk import ChunkExecutor, Command, ExecutorLimits
from diffusion_ros.diagnostics import ERROR, OK, WARN, Diagnostics
from diffusion_ros.nodes.runner import RunnableNode, run
from diffusion_ros.params import ParameterError, declare, parameter
from diffusion_ros.sources import SourceWatch

_PATH_POINTS = 600
_PATH_GAP_NS = 1_000_000_000
"""A hole of more than this in the poses: another episode, another path."""


@dataclass(frozen=True)
class ExecutorParameters:
    """Parameters of the executor node. What is left empty or 0 comes from the checkpoint."""

    checkpoint: str = parameter("", "path of the policy checkpoint (.pt) whose spec gives rate, limits and box")
    mode: str = parameter(
        "realtime",
        "lockstep: the robot waits for each command; realtime: it does not",
        choices=("realtime", "lockstep"),
    )
    enabled: bool = parameter(False, "whether it acts from the start; otherwise after ~/set_enabled")
    rate: float = parameter(0.0, "control steps a second [Hz]", low=0.0, high=1000.0)
    n_action_steps: int = parameter(0, "lockstep: rows of a chunk that are executed", low=0)
    action_low: tuple[float, ...] = parameter((), "least command of a step (7): m, rad, gripper")
    action_high: tuple[float, ...] = parameter((), "greatest command of a step (7): m, rad, gripper")
    workspace_low: tuple[float, ...] = parameter(
        (), "corner of the box that the hand stays in (3) [m], eef_pose's frame"
    )
    workspace_high: tuple[float, ...] = parameter((), "the opposite corner (3) [m]")
    join: str = parameter(
        "latest", "how chunks join: the latest decides, or its first rows blend in", choices=("latest", "blend")
    )
    blend_rows: int = parameter(2, "join blend: rows over which the old chunk fades out", low=1)
    max_observation_age: float = parameter(
        0.25, "realtime: eef_pose older than this, or silent for longer, is a reason to hold [s]", low=0.01
    )
    guard: str = parameter("", "realtime: the camera guard's checkpoint; '': none. With one, its verdict is obeyed")
    max_guard_age: float = parameter(1.0, "a camera guard that is silent for longer is a reason to hold [s]", low=0.05)

    def __post_init__(self) -> None:
        if self.guard and self.mode == "lockstep":
            raise ValueError(
                "parameter guard: expected '' in lockstep, where no result may depend on the time it takes"
            )


class ExecutorNode(RunnableNode):
    """Subscribes to eef_pose and action_chunk; publishes eef_command, eef_path and diagnostics; serves the switches."""

    def __init__(self, parameter_overrides: Sequence[Parameter[Any]] = ()) -> None:
        """Raises ValueError (parameters, checkpoint) in one line."""
        super().__init__("executor", parameter_overrides)
        self.parameters = declare(self, ExecutorParameters)
        self._lockstep = self.parameters.mode == "lockstep"
        self.executor_logic = _make_executor(self.get_name(), self.parameters)
        self._pending_ns: int | None = None
        """The observation that has no answer, or only a hold that a chunk may still replace."""
        self._received = 0.0
        self._answered: Command | None = None
        self._frame_id = topics.WORLD_FRAME
        self._fault = ""
        """What was wrong with the last eef_pose message."""
        self._refused = ""
        """Why the last chunk was refused."""
        self._guard: tuple[float, messages.Status] | None = None
        """The camera guard's last verdict, and when it came."""
        self._path: deque[tuple[int, NDArray[np.float64]]] = deque(maxlen=_PATH_POINTS)
        self._counts = {"acted": 0, "held": 0, "clipped": 0, "chunks refused": 0}

        self._command_publisher = self.create_publisher(JointTrajectory, topics.EEF_COMMAND, topics.COMMAND_QOS)
        self._path_publisher = self.create_publisher(Path, topics.EEF_PATH, topics.COMMAND_QOS)
        pose = self.create_subscription(PoseStamped, topics.EEF_POSE, self._on_pose, topics.SENSOR_QOS)
        chunk = self.create_subscription(JointTrajectory, topics.ACTION_CHUNK, self._on_chunk, topics.COMMAND_QOS)
        if self.parameters.guard:
            guard = self.create_subscription(DiagnosticStatus, topics.CAMERA_GUARD, self._on_guard, topics.COMMAND_QOS)
            self._guard_sources = SourceWatch(self, guard.topic_name)
        self._pose_sources = SourceWatch(self, pose.topic_name)
        self._chunk_sources = SourceWatch(self, chunk.topic_name)
        self.create_service(SetBool, "~/set_enabled", self._on_set_enabled)
        self.create_service(Trigger, "~/estop", self._on_estop)
        self.create_service(Trigger, "~/estop_reset", self._on_estop_reset)
        self.diagnostics = Diagnostics(self, "executor", self._refresh)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(0.1, self._watch, clock=steady)
        self.create_timer(0.5, self._publish_path, clock=steady)

    # What comes in

    def _on_pose(self, msg: PoseStamped, info: MessageInfo) -> None:
        self._pose_sources.heard(info)
        self._received = time.monotonic()
        stamp_ns = messages.stamp_ns(msg.header.stamp)
        repeated = False
        try:
            _, position, _ = messages.pose_from_msg(msg)
            self._fault = ""
        except messages.MessageError as error:
            self._fault = f"{topics.EEF_POSE}: {error}"
        else:
            repeated = self.executor_logic.observed(stamp_ns, position)
            self.executor_logic.observe(stamp_ns, position)
            self._frame_id = msg.header.frame_id
            self._trace(stamp_ns, position)
        self.diagnostics.tick(topics.EEF_POSE)
        if self._lockstep and repeated and self._answered is not None and self._answered.stamp_ns == stamp_ns:
            # The same observation again: our answer was lost. Not computed anew, as it was executed as it was.
            self._send(self._answered)
            return
        self._pending_ns = stamp_ns
        self._answer()

    def _on_chunk(self, msg: JointTrajectory, info: MessageInfo) -> None:
        self._chunk_sources.heard(info)
        self.diagnostics.tick(topics.ACTION_CHUNK)
        try:
            if msg.header.frame_id != self._frame_id:
                raise messages.MessageError(
                    f"deltas in the frame {msg.header.frame_id!r}, {self._frame_id!r} (eef_pose's) expected"
                )
            self._refused = self.executor_logic.add_chunk(messages.chunk_from_msg(msg))
        except messages.MessageError as error:
            self._refused = f"chunk refused: {error}"
        if self._refused:
            self._counts["chunks refused"] += 1
        if self._pending_ns is not None:
            self._answer(chunk_came=True)

    def _on_guard(self, msg: DiagnosticStatus, info: MessageInfo) -> None:
        self._guard_sources.heard(info)
        self._guard = time.monotonic(), messages.status_from_msg(msg)
        self.diagnostics.tick(topics.CAMERA_GUARD)

    def _answer(self, chunk_came: bool = False) -> None:
        """Answers the pending observation, as far as that can be done now."""
        stamp_ns = self._pending_ns
        if stamp_ns is None:
            return
        stop = self._stop_reason()
        if stop:
            self._publish(self.executor_logic.hold(stamp_ns, stop), final=True)
        elif self.executor_logic.covers(stamp_ns):
            now_ns = None if self._lockstep else self.get_clock().now().nanoseconds
            self._publish(self.executor_logic.command(stamp_ns, now_ns), final=True)
        elif not self._lockstep and not chunk_came:
            # The hold goes out at once; a chunk that comes within the step may still replace it.
            self._publish(self.executor_logic.command(stamp_ns, self.get_clock().now().nanoseconds), final=False)

    def _stop_reason(self) -> str:
        """Why nothing may move whatever chunk comes, or ''."""
        if self.executor_logic.estop_reason or not self.executor_logic.enabled:
            return self.executor_logic.stopped()
        return (
            self._pose_sources.reason()
            or self._chunk_sources.reason()
            or self._fault
            or self._guard_reason()
            or self.executor_logic.stopped()
        )

    def _guard_reason(self) -> str:
        if not self.parameters.guard:
            return ""
        if self._guard is None:
            return "no word from the camera guard"
        came, verdict = self._guard
        silent = time.monotonic() - came
        if silent > self.parameters.max_guard_age:
            return f"{topics.CAMERA_GUARD}: silent for {silent:.2f} s"
        if verdict.level != OK:
            return f"{topics.CAMERA_GUARD}: {verdict.summary}"
        return self._guard_sources.reason()

    def _watch(self) -> None:
        """Realtime: a robot whose pose is not heard any more is told to hold; none ever heard is told nothing."""
        silent = time.monotonic() - self._received
        if self._lockstep or not self._received or silent <= self.parameters.max_observation_age:
            return
        self._pending_ns = None
        reason = self._stop_reason() or f"{topics.EEF_POSE}: silent for {silent:.2f} s"
        self._publish(self.executor_logic.hold(self.get_clock().now().nanoseconds, reason), final=False)

    # What goes out

    def _publish(self, command: Command, final: bool) -> None:
        if final:
            self._pending_ns = None
        self._answered = command
        self._counts["acted" if command.acting else "held"] += 1
        self._counts["clipped"] += bool(command.clipped)
        self._send(command)
        self.diagnostics.latency("observation to command", time.monotonic() - self._received)
        self._refresh()

    def _send(self, command: Command) -> None:
        period_ns = self.executor_logic.period_ns
        self._command_publisher.publish(
            messages.command_to_msg(command.row, command.stamp_ns, period_ns, self._frame_id)
        )
        self.diagnostics.tick(topics.EEF_COMMAND)

    def _trace(self, stamp_ns: int, position: NDArray[np.float64]) -> None:
        if self._path and not 0 <= stamp_ns - self._path[-1][0] <= _PATH_GAP_NS:
            self._path.clear()
        if not self._path or stamp_ns > self._path[-1][0]:
            self._path.append((stamp_ns, position))

    def _publish_path(self) -> None:
        if self._path and self._path_publisher.get_subscription_count() > 0:
            stamps, positions = zip(*self._path, strict=True)
            self._path_publisher.publish(messages.path_to_msg(np.array(positions), stamps, stamps[-1], self._frame_id))

    # Services

    def _on_set_enabled(self, request: Any, response: Any) -> Any:
        self.executor_logic.set_enabled(bool(request.data))
        self._answer()
        self._refresh()
        response.success = True
        response.message = "enabled" if request.data else "not enabled"
        if request.data and self.executor_logic.estop_reason:
            response.message = "enabled, but the emergency stop is latched"
        return response

    def _on_estop(self, request: Any, response: Any) -> Any:
        self.executor_logic.estop("requested")
        if self._lockstep:
            self._answer()
        elif self._received:
            now_ns = self.get_clock().now().nanoseconds
            self._publish(self.executor_logic.hold(now_ns, self.executor_logic.stopped()), final=True)
        self._refresh()
        response.success = True
        response.message = "stopped; latched until ~/estop_reset"
        return response

    def _on_estop_reset(self, request: Any, response: Any) -> Any:
        self.executor_logic.estop_reset()
        self._refresh()
        response.success = True
        response.message = "enabled" if self.executor_logic.enabled else "released, but not enabled"
        return response

    # Diagnostics

    def _refresh(self) -> None:
        logic = self.executor_logic
        self.diagnostics.value("enabled", logic.enabled)
        self.diagnostics.value("estop", logic.estop_reason or "released")
        self.diagnostics.value("last chunk", self._refused or "accepted")
        for name, count in self._counts.items():
            self.diagnostics.value(name, count)
        stop = self._stop_reason()
        refused = f" ({self._refused})" if self._refused else ""
        if stop:
            self.diagnostics.report(ERROR if logic.estop_reason else WARN, f"holding: {stop}")
        elif self._lockstep and self._pending_ns is not None:
            waited = time.monotonic() - self._received
            if waited > 1.0:
                self.diagnostics.report(WARN, f"waiting for a chunk for {waited:.1f} s{refused}")
        elif self._answered is not None and not self._answered.acting:
            self.diagnostics.report(WARN, f"holding: {self._answered.reason}{refused}")
        elif self._answered is not None:
            clipped = self._answered.clipped
            self.diagnostics.report(OK, f"acting, clipped to {clipped}" if clipped else "acting")

    def close(self) -> None:
        """The last word to a robot that does not wait: hold."""
        if not self._lockstep and self._received:
            now_ns = self.get_clock().now().nanoseconds
            self._send(self.executor_logic.hold(now_ns, "the executor ends"))


def _make_executor(owner: str, p: ExecutorParameters) -> ChunkExecutor:
    """Parameters first, then the checkpoint's spec. Raises ParameterError for what neither gives."""
    spec = checkpoint.read_spec(p.checkpoint) if p.checkpoint else None
    names = ("rate", "n_action_steps", "action_low", "action_high", "workspace_low", "workspace_high")
    values: dict[str, Any] = {name: getattr(p, name) or getattr(spec, name, None) for name in names}
    missing = [name for name, value in values.items() if not value]
    if missing:
        raise ParameterError(f"{owner}: parameter {', '.join(missing)} is required where no checkpoint is given")
    try:
        return ChunkExecutor(
            ExecutorLimits(
                values["action_low"], values["action_high"], values["workspace_low"], values["workspace_high"]
            ),
            period_ns=round(1e9 / values["rate"]),
            max_observation_age_ns=round(p.max_observation_age * 1e9),
            join=p.join,
            blend_rows=p.blend_rows,
            # In lockstep the next chunk is waited for; else the rows beyond bridge one that is late.
            max_rows=values["n_action_steps"] if p.mode == "lockstep" else None,
            enabled=p.enabled,
        )
    except ValueError as error:
        raise ParameterError(f"{owner}: {error}") from None


def main() -> int:
    return run(ExecutorNode)


if __name__ == "__main__":
    raise SystemExit(main())
