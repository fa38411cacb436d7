"""policy: observations in, action chunks out.

Callbacks only check and store. A worker thread encodes and samples, so that no sensor waits for an inference. It always
works on the newest frame. The executor decides what moves. When an input cannot be trusted any more, the policy sends
the executor a chunk that holds, so that the rest of the last chunk is not executed.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import torch
from nav_msgs.msg import Path
from numpy.typing import NDArray
from rclpy.parameter import Parameter
from scipy.spatial.transform import Rotation
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros import checkpoint, robot_file
from diffusion_ros.control.action_chunk import ActionChunk, chunk_positions, hold_chunk
from diffusion_ros.control.delay import ChunkDelay
from diffusion_ros.control.frames import RobotFrames
from diffusion_ros.control.observation import Frame
from diffusion_ros.control.policy_controller import PolicyController
from diffusion_ros.models.policy import FrameError, Policy, RangeError
from diffusion_ros.nodes.drawn_chunk import DrawnChunk
from diffusion_ros.nodes.policy_parameters import PolicyParameters, completed, frame_rules
from diffusion_ros.robot import EEF_POS, EEF_QUAT
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.chunk_budget import ChunkBudget
from diffusion_ros.ros.diagnostics import ERROR, OK, WARN, Diagnostics
from diffusion_ros.ros.frame_source import FrameSource
from diffusion_ros.ros.input_reasons import InputReasons
from diffusion_ros.ros.listener import MAX_BYTES, Listener
from diffusion_ros.ros.managed_node import ManagedNode
from diffusion_ros.ros.params import declare
from diffusion_ros.ros.runner import run
from diffusion_ros.ros.trusted_checkpoint import identity
from diffusion_ros.ros.worker import Worker, failure

_SLOW_INFERENCE_SECONDS = 2.0
_PATIENCE_SECONDS = 1.0
"""Without a complete frame, or beyond the time that chunks should take, before it is said."""
_REPEAT_SECONDS = 1.5
"""In lockstep, where a simulator that waits repeats its observation once a second, so much more."""


class PolicyNode(ManagedNode):
    """Subscribes to what the checkpoint's inputs name; publishes action_chunk, predicted_path and diagnostics."""

    def __init__(self, parameter_overrides: Sequence[Parameter[Any]] = ()) -> None:
        """Raises ValueError (parameters, checkpoint) in one line."""
        super().__init__("policy", parameter_overrides)
        self.parameters = declare(self, PolicyParameters, completed)
        p = self.parameters
        self._realtime = p.mode == "realtime"
        self.follows_clock &= self._realtime
        self.start(p.autostart)

    def configure(self) -> None:
        p = self.parameters
        torch.set_num_threads(p.threads)
        self.policy = Policy(
            checkpoint.load(
                p.checkpoint,
                p.device,
                kind="policy",
                sampler=p.sampler,
                sampler_steps=p.sampler_steps,
                **p.trust,
            )
        )
        loaded = self.policy.checkpoint
        self.get_logger().info(identity(p.checkpoint, loaded.sha256, loaded.signer))
        spec = self.policy.spec
        robot = robot_file.read(FilePath(p.robot)) if p.robot else None
        rtc = self._realtime and p.late == "rtc"
        if self._realtime:
            with suppress(Exception):  # what fails here fails, and is said, when a chunk is made
                self.policy.warm_up(rtc)
        self._controller = PolicyController(
            self.policy,
            p.policy_seed,
            lead_steps=p.lead_steps if self._realtime and not rtc else 0,
            spaced=robot is not None,
            rtc=rtc,
        )
        self._delay = ChunkDelay(spec.n_rows, spec.period_ns)
        self._latency_ns = round(robot.action.latency * 1e9) if robot is not None else 0
        """By which rows begin before they are due."""
        self._executed: deque[messages.Executed] = deque(maxlen=4 * spec.horizon)
        """What the worker has not heard of yet."""
        self._rtc = rtc
        self._executed_listener = Listener(
            self,
            JointTrajectory,
            topics.EXECUTED_ACTION,
            self._on_executed,
            lambda error, msg: self.get_logger().warning(f"executed_action: {error}", once=True),
            topics.WATCHED_QOS,
            max_bytes=MAX_BYTES,
        )
        self._frame_id = p.frame_id
        self._base_frame = robot.base.frame if robot is not None else ""
        self._frames_of_robot = RobotFrames(robot, spec.base_pose) if robot is not None else None
        self._framed: float | None = None
        """When the last complete frame came."""
        self._chunked = self.seconds()
        """When the last chunk went."""

        self._chunk_publisher = self.create_publisher(JointTrajectory, topics.ACTION_CHUNK, topics.COMMAND_QOS)
        self._path_publisher = self.create_publisher(Path, topics.PREDICTED_PATH, topics.COMMAND_QOS)
        self.diagnostics = Diagnostics(self, f"{spec.task} policy", self._refresh)
        for name, value in {
            "checkpoint": p.checkpoint,
            "sha256": self.policy.checkpoint.sha256,
            "task": spec.task,
            "mode": p.mode,
            **({"robot": p.robot, "lead_steps": p.lead_steps} if robot is not None else {}),
            "sampler": f"{spec.sampler} {spec.sampler_steps} {spec.timestep_spacing}",
            "late": p.late,
            "device": p.device,
            "threads": torch.get_num_threads(),
        }.items():
            self.diagnostics.value(name, value)
        self._drawn = DrawnChunk(self._draw, spec.period_ns)
        self._told_to_hold = False
        """Real time: whether the executor was told to hold since the last chunk."""
        self._began = 0.0
        """When the worker took what it is at [s], by the clock of `reading`."""
        rules = frame_rules(p)
        self._source = source = FrameSource(
            self,
            spec,
            robot,
            rules,
            lambda frame: self._observe(frame),  # as it is when a frame comes
            self._on_bad,
            self.diagnostics,
            self._controller.min_gap_ns,
        )
        self._inputs = InputReasons(source, rules, self.diagnostics.age)
        self._faults = source.faults
        """By topic, '' for the policy itself: what is wrong with the last that came."""

        self._worker = Worker("inference", self._take, self._work)
        self._frames: deque[tuple[Frame, ChunkBudget]] = deque(maxlen=4 * spec.n_obs_steps)
        self._stops = 0
        """How often the executor was told to hold; what is made from observations of before is not published."""
        self._stops_seen = 0
        """By the worker."""
        self._busy = False
        self._worker.start()

    def activate(self) -> None:
        """What was observed before does not count."""
        if self._started:
            self._forget()

    def deactivate(self) -> None:
        """No more chunks; what the last one has left is not to be executed."""
        self._stop()
        self._forget()
        self._drawn.gone(self.now_ns())

    def _forget(self) -> None:
        with self._worker.condition:
            self._stops += 1
            self._frames.clear()

    # What comes in: FrameSource's callbacks check and store

    def _on_bad(self) -> None:
        """A message came that is not used."""
        self._stop()
        self._refresh()

    def _stop(self) -> None:
        """Real time: what the last chunk has left is not to be executed."""
        if not self._realtime or not self._source.stamps:
            return
        with self._worker.condition:
            self._stops += 1
            self._frames.clear()
            said, self._told_to_hold = self._told_to_hold, True
        if not said:
            hold = hold_chunk(max(self._source.stamps.values()), self.policy.spec.period_ns)
            self._chunk_publisher.publish(messages.chunk_to_msg(hold, self._frame_id))
        self._drawn.gone(self.now_ns())

    def _observe(self, frame: Frame) -> None:
        if not self.active:
            return
        self._framed = self.seconds()
        self._drawn.observed(frame.stamp_ns)
        if self._source.sources:
            # What came last may have been waited for.
            self.diagnostics.latency("observed to frame", (self.now_ns() - frame.stamp_ns) / 1e9)
        if not self._source.trusted():
            self._stop()
            self._refresh()
            return
        with self._worker.condition:
            self._frames.append((frame, self._source.budget(frame)))
            self._worker.condition.notify()

    def _on_executed(self, msg: JointTrajectory) -> None:
        executed = messages.executed_from_msg(msg)
        if not executed.person:
            self._drawn.executed()
        if not self._rtc:
            return
        with self._worker.condition:
            self._executed.append(executed)

    # The worker thread

    def _take(self) -> list[tuple[Frame, ChunkBudget]] | None:
        frames = list(self._frames)
        self._frames.clear()
        self._busy = bool(frames)
        self._began = self.reading.seconds()
        if frames and self._stops_seen != self._stops:
            # What was observed before a stop is no history of what comes after it.
            self._stops_seen = self._stops
            self._controller.reset()
        return frames or None

    def _work(self, frames: list[tuple[Frame, ChunkBudget]]) -> None:
        try:
            self._think(frames)
            self._faults.pop("", None)
        except FrameError as error:
            self._faults[""] = str(error)
            stamp_ns = frames[-1][0].stamp_ns
            hold = None
            if self._realtime:
                hold = self._controller.hold(stamp_ns)
            elif isinstance(error, RangeError):
                # In lockstep a robot waits for ever for who says nothing: right for a fault, but not for a simulation
                # that has gone where no demonstration was.
                hold = self._controller.distrust(stamp_ns)
            if hold is not None:
                self._chunk_publisher.publish(messages.chunk_to_msg(hold, self._frame_id))
            self._drawn.gone(self.now_ns())
        except Exception as error:
            if "" not in self._faults:
                self.get_logger().error(traceback.format_exc())
            self._faults[""] = failure("inference", error)
            self._controller.reset()
        finally:
            self._busy = False

    @property
    def thinking(self) -> bool:
        """Whether a frame is being worked on, or waits."""
        with self._worker.condition:
            return self._busy or bool(self._frames)

    def _hear(self) -> None:
        """What was executed since the last frame."""
        with self._worker.condition:
            heard = list(self._executed)
            self._executed.clear()
        for executed in heard:
            if executed.person:
                continue  # what of a chunk is under way then is never executed
            key = (executed.chunk_ns, executed.place) if executed.place >= 0 else None
            due_ns = executed.stamp_ns + self._latency_ns
            self._controller.executed(due_ns, executed.row, key)
            if key is not None:
                self._delay.executed(*key, due_ns)
        self._controller.delay_rows = self._delay.rows

    def _think(self, frames: list[tuple[Frame, ChunkBudget]]) -> None:
        self._hear()
        current: tuple[Frame, ChunkBudget] | None = None
        repeated = False
        for frame, budget in frames:
            # The others come too soon after the last one: sensors that are faster than the control rate.
            if self._controller.push(frame):
                current, repeated = (frame, budget), False
            elif frame.stamp_ns == self._controller.newest_stamp_ns:
                current, repeated = (frame, budget), True
        if current is None:
            return
        frame, budget = current
        if self._controller.needs_chunk(frame.stamp_ns):
            budget.taken(self._began)
            chunk = self._controller.chunk(budget.lap)
            if not np.all(np.isfinite(chunk.rows)):
                self._controller.reset()
                raise FrameError("the policy's chunk has NaN or infinite values")
            self._publish(chunk, frame, budget)
        elif repeated and self._controller.last_chunk is not None:
            # The same observation again: somebody has not got our answer.
            self._publish(self._controller.last_chunk, frame)
        self._controller.encode_ahead()

    def _publish(self, chunk: ActionChunk, frame: Frame, budget: ChunkBudget | None = None) -> None:
        """budget: of a chunk that is new."""
        with self._worker.condition:
            if self._stops_seen != self._stops:
                return
            self._told_to_hold = False
            self._chunk_publisher.publish(messages.chunk_to_msg(chunk, self._frame_id))
        if budget is not None:
            budget.lap("publish")
            self.diagnostics.latencies(budget.latencies())
        self._chunked = self.seconds()
        self.diagnostics.tick(topics.ACTION_CHUNK)
        position = frame.values.get(EEF_POS)
        if position is not None and self._path_publisher.get_subscription_count() > 0:
            # Where the hand would go if each delta were reached within its step.
            turned = Rotation.from_quat(frame.values[EEF_QUAT]) if EEF_QUAT in frame.values else None
            way = chunk_positions(position, chunk.rows, chunk.kind, turned)
            stamps = [frame.stamp_ns + i * chunk.period_ns for i in range(len(way))]
            self._drawn.made(way, stamps, frame.stamp_ns)

    def _draw(self, way: NDArray[np.float64], stamps_ns: Sequence[int], time_ns: int) -> None:
        """A way (N, 3) [m] in the policy's frame: a robot's viewers know its base, and not that frame."""
        frame_id = self._frame_id
        if self._frames_of_robot is not None:
            way, frame_id = self._frames_of_robot.points_to_base(way), self._base_frame
        self._path_publisher.publish(messages.path_to_msg(way, stamps_ns, time_ns, frame_id))

    # Diagnostics

    def _refresh(self) -> None:
        reasons = self.reasons()
        if reasons:
            self._drawn.gone(self.now_ns())
            bad = any(self._faults.values()) or self._source.frozen_reasons
            self.diagnostics.report(ERROR if bad else WARN, "; ".join(reasons))
        elif slow := self._inputs.slow():
            self.diagnostics.report(WARN, f"publishing chunks, though {slow}")
        else:
            self.diagnostics.report(OK, "publishing chunks")

    def reasons(self) -> list[str]:
        """Why no chunk is being made, a line each; empty when chunks leave as often as they should."""
        if not self.active:
            return ["not active"]
        return self._inputs.reasons() or self._why_late()

    def _why_late(self) -> list[str]:
        """Why chunks do not leave as often as they should though all inputs are good."""
        if self._busy and (took := self.reading.seconds() - self._began) > _SLOW_INFERENCE_SECONDS:
            return [f"the inference that began {took:.1f} s ago has not returned"]
        now = self.seconds()
        patience = _PATIENCE_SECONDS + (0.0 if self._realtime else _REPEAT_SECONDS)
        if self._framed is None or now - self._framed > patience:
            return [f"no complete frame {'yet' if self._framed is None else 'any more'}: {self._inputs.apart()}"]
        if self.diagnostics.age(topics.ACTION_CHUNK) is None:
            return ["the first chunk is being made"]
        interval = self._controller.interval_steps * self.policy.spec.period_ns / 1e9
        if self._realtime and now - self._chunked > 2 * interval + _PATIENCE_SECONDS:
            return [f"no chunk for {now - self._chunked:.1f} s, one in {interval:g} s expected"]
        return []

    def cleanup(self) -> None:
        self._worker.close()
        self._drawn.gone(self.now_ns())


def main() -> int:
    return run(PolicyNode)


if __name__ == "__main__":
    raise SystemExit(main())
