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
from dataclasses import dataclass, replace
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
from diffusion_ros.control.observation import Frame, InterpolatingAssembler
from diffusion_ros.control.policy_controller import PolicyController
from diffusion_ros.models.kind import SAMPLERS
from diffusion_ros.models.policy import FrameError, Policy, RangeError
from diffusion_ros.nodes.drawn_chunk import DrawnChunk
from diffusion_ros.robot import EEF_POS, EEF_QUAT, FINGERS, FRAME_PREFIX, WORLD_FRAME, prefixed
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.chunk_budget import ChunkBudget
from diffusion_ros.ros.diagnostics import ERROR, OK, WARN, Diagnostics
from diffusion_ros.ros.frame_source import FrameRules, FrameSource
from diffusion_ros.ros.listener import MAX_BYTES, Listener
from diffusion_ros.ros.managed_node import AUTOSTART, ManagedNode
from diffusion_ros.ros.params import declare, parameter
from diffusion_ros.ros.runner import run
from diffusion_ros.ros.trusted_checkpoint import TrustedCheckpoint, identity
from diffusion_ros.ros.worker import Worker, failure
from diffusion_ros.spec import CheckpointSpec

_SLOW_INFERENCE_SECONDS = 2.0
_PATIENCE_SECONDS = 1.0
"""Without a complete frame, or beyond the time that chunks should take, before it is said."""
_REPEAT_SECONDS = 1.5
"""In lockstep, where a simulator that waits repeats its observation once a second, so much more."""
_LOOK_AND_THINK_SECONDS = 0.1
"""Allowance for a picture's age when it comes (40 to 60 ms are usual) and for the inference."""


@dataclass(frozen=True)
class PolicyParameters(TrustedCheckpoint):
    """Parameters of the policy node."""

    checkpoint: str = parameter(description="path of a policy checkpoint (.pt)")
    device: str = parameter("cpu", "torch device that the policy runs on")
    mode: str = parameter(
        "realtime",
        "lockstep: the robot waits for each chunk; realtime: it does not, and chunks are made lead_steps early",
        choices=("realtime", "lockstep"),
    )
    policy_seed: int = parameter(
        0, "seed of the sampling noise; each chunk also mixes in the stamp of its observation", low=0
    )
    sampler: str = parameter("", "sampler; '': the checkpoint's own", choices=("", *SAMPLERS))
    sampler_steps: int = parameter(0, "denoising steps; 0: the checkpoint's own", low=0)
    lead_steps: int = parameter(
        -1,
        "realtime: control steps before the end of a chunk at which the next one is begun; -1: 1, with a robot as many"
        " as its latency needs and 0.1 s for picture and inference",
        low=-1,
    )
    late: str = parameter(
        "",
        "realtime: what is done about a chunk that comes after its observation. rtc: it goes on from the rows that are"
        " executed until it comes (real-time chunking); latest: the robot changes over to it; '': rtc where the"
        " checkpoint was trained for it (max_delay), else latest",
        choices=("", "rtc", "latest"),
    )
    robot: str = parameter(
        "",
        "realtime: YAML of a robot with drivers of its own, or a shipped one's name: where observations come from;"
        " '': the simulator's topics",
    )
    threads: int = parameter(1, "torch threads; more than one take time from the other nodes", low=1)
    sync_tolerance: float = parameter(
        0.0,
        "how far the stamps of one frame may differ [s]; 0: not at all (simulation). With a robot: of two cameras'"
        " pictures; 0: half a control step",
        low=0.0,
        high=1.0,
    )
    max_input_age: float = parameter(
        0.5,
        "realtime: an input that is silent for longer is reported; one whose stamps are farther from the clock is not"
        " used [s]",
        low=0.0,
    )
    min_frame_rate: float = parameter(
        0.6,
        "realtime: least rate of an input, as a part of the checkpoint's rate. Slower ones are not used; 0: any are."
        " With a robot: of pictures; what is interpolated between them has to come at 5 Hz",
        low=0.0,
        high=1.0,
    )
    good_frames: int = parameter(
        3, "good pictures in a row after which a camera that sent a bad one is trusted again", low=1
    )
    max_frozen: float = parameter(
        1.0, "how long a camera may show the same picture while the robot moves [s]; 0: not checked", low=0.0
    )
    gripper_joints: tuple[str, ...] = parameter(FINGERS, "the fingers' names in joint_states")
    gripper_signs: tuple[float, ...] = parameter(
        (1.0, 1.0), "factors from joint_states to the policy's finger positions (training: one positive, one negative)"
    )
    frame_id: str = parameter(
        "",
        "frame of poses and of the chunks' deltas; '', and with a robot: the checkpoint's",
    )
    frame_prefix: str = parameter("", FRAME_PREFIX)
    autostart: bool = parameter(True, AUTOSTART)

    def __post_init__(self) -> None:
        if len(self.gripper_joints) != len(self.gripper_signs):
            raise ValueError(
                f"parameter gripper_signs has {len(self.gripper_signs)} values,"
                f" {len(self.gripper_joints)} expected (one for each of gripper_joints)"
            )
        if self.robot and self.mode == "lockstep":
            raise ValueError(f"parameter robot is {self.robot!r}, '' expected in lockstep: no real robot waits")


class PolicyNode(ManagedNode):
    """Subscribes to what the checkpoint's inputs name; publishes action_chunk, predicted_path and diagnostics."""

    def __init__(self, parameter_overrides: Sequence[Parameter[Any]] = ()) -> None:
        """Raises ValueError (parameters, checkpoint) in one line."""
        super().__init__("policy", parameter_overrides)
        self.parameters = declare(self, PolicyParameters, _completed)
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
        self._source = source = FrameSource(
            self,
            spec,
            robot,
            frame_rules(p),
            lambda frame: self._observe(frame),  # as it is when a frame comes
            self._on_bad,
            self.diagnostics,
            self._controller.min_gap_ns,
        )
        self._assembler, self._rates, self._topics = source.assembler, source.rates, source.topics
        self._stamps, self._distrusted = source.stamps, source.distrusted
        self._faults = source.faults
        """By topic, '' for the policy itself: what is wrong with the last that came."""
        self._sources, self._name = source.sources, source.name
        """With a robot: by topic, or by observation where several are from one topic, what is subscribed to."""
        self._listeners = source.simulator.listeners if source.simulator is not None else {}

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
        if not self._realtime or not self._stamps:
            return
        with self._worker.condition:
            self._stops += 1
            self._frames.clear()
            said, self._told_to_hold = self._told_to_hold, True
        if not said:
            hold = hold_chunk(max(self._stamps.values()), self.policy.spec.period_ns)
            self._chunk_publisher.publish(messages.chunk_to_msg(hold, self._frame_id))
        self._drawn.gone(self.now_ns())

    def _observe(self, frame: Frame) -> None:
        if not self.active:
            return
        self._framed = self.seconds()
        self._drawn.observed(frame.stamp_ns)
        if self._sources:
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
        elif slow := self._slow():
            self.diagnostics.report(WARN, f"publishing chunks, though {slow}")
        else:
            self.diagnostics.report(OK, "publishing chunks")

    def _slow(self) -> str:
        """'' or which input comes less often than in training; what is interpolated may."""
        watched = (topic for topic in self._topics if topic not in self._sources or self._sources[topic].is_picture)
        return next(filter(None, (self._rates[topic].slow() for topic in watched)), "")

    def reasons(self) -> list[str]:
        """Why no chunk is being made, a line each; empty when chunks leave as often as they should."""
        p = self.parameters
        if not self.active:
            return ["not active"]
        reasons = list(self._faults.values())
        newest_ns = max(self._stamps.values(), default=0)
        for topic in self._topics:
            if topic in self._faults:
                continue
            age, name = self.diagnostics.age(topic), self._name(topic)
            if topic in self._distrusted:
                reasons.append(f"{name}: good again, but not for {p.good_frames} pictures yet")
            elif age is None:
                reasons.append(f"{name}: {self._nothing(topic)}")
            elif self._realtime and age > p.max_input_age:
                reasons.append(f"{name}: silent for {age:.2f} s")
            elif p.max_frozen > 0 and (newest_ns - self._stamps[topic]) / 1e9 > p.max_frozen:
                lag = (newest_ns - self._stamps[topic]) / 1e9
                reasons.append(f"{name}: its stamps stand still, {lag:.2f} s behind the other inputs")
        reasons += self._source.frozen_reasons
        if not reasons and (slow := self._source.too_slow()):
            reasons.append(slow)
        return reasons or self._why_late()

    def _nothing(self, topic: str) -> str:
        """What to say of an input of which nothing has come."""
        if topic in self._sources:
            return self._sources[topic].missing()
        simulator = self._source.simulator
        assert simulator is not None
        return simulator.fingers.nothing() if topic == topics.JOINT_STATES else "nothing received"

    def _why_late(self) -> list[str]:
        """Why chunks do not leave as often as they should though all inputs are good."""
        if self._busy and (took := self.reading.seconds() - self._began) > _SLOW_INFERENCE_SECONDS:
            return [f"the inference that began {took:.1f} s ago has not returned"]
        now = self.seconds()
        patience = _PATIENCE_SECONDS + (0.0 if self._realtime else _REPEAT_SECONDS)
        if self._framed is None or now - self._framed > patience:
            return [f"no complete frame {'yet' if self._framed is None else 'any more'}: {self._why_apart()}"]
        if self.diagnostics.age(topics.ACTION_CHUNK) is None:
            return ["the first chunk is being made"]
        interval = self._controller.interval_steps * self.policy.spec.period_ns / 1e9
        if self._realtime and now - self._chunked > 2 * interval + _PATIENCE_SECONDS:
            return [f"no chunk for {now - self._chunked:.1f} s, one in {interval:g} s expected"]
        return []

    def _why_apart(self) -> str:
        """Why all inputs come, and do not make a frame."""
        p = self.parameters
        if isinstance(self._assembler, InterpolatingAssembler):
            if (found := self._assembler.missing()) is None:
                return "the inputs have not come together"
            name, behind_ns = found
            source = next(source for source in self._sources.values() if name in source.inputs)
            reference = next(source for source in self._sources.values() if self._assembler.reference in source.inputs)
            side = "behind" if behind_ns >= 0 else "ahead of"
            apart = f"{source.name} is {abs(behind_ns) / 1e9:.2g} s {side} {reference.name}"
            limit = self._assembler.tolerance_ns / 1e9
            rule = f"at most {limit:g} s expected (sync_tolerance)" if source.is_picture else "its latency, or a hole?"
            return f"{apart}, {rule}"
        newest = {topic: self._stamps[topic] for topic in self._topics}
        first, last = min(newest, key=newest.__getitem__), max(newest, key=newest.__getitem__)
        apart = f"{self._name(first)} is {(newest[last] - newest[first]) / 1e9:.2g} s behind {self._name(last)}"
        return f"the stamps of the inputs differ, {apart}, at most {p.sync_tolerance:g} s expected (sync_tolerance)"

    def cleanup(self) -> None:
        self._worker.close()
        self._drawn.gone(self.now_ns())


def frame_rules(p: PolicyParameters) -> FrameRules:
    """What is asked of observations."""
    return FrameRules(
        realtime=p.mode == "realtime",
        sync_tolerance=p.sync_tolerance,
        max_input_age=p.max_input_age,
        min_frame_rate=p.min_frame_rate,
        good_frames=p.good_frames,
        max_frozen=p.max_frozen,
        gripper_joints=p.gripper_joints,
        gripper_signs=p.gripper_signs,
        frame_id=p.frame_id,
    )


def _completed(p: PolicyParameters) -> PolicyParameters:
    """What was given, and the checkpoint's where nothing was."""
    spec = checkpoint.read_spec(p.checkpoint, **p.trust)
    p = replace(
        p,
        late=p.late or ("rtc" if spec.max_delay and p.mode == "realtime" else "latest"),
        sampler=p.sampler or spec.sampler,
        sampler_steps=p.sampler_steps or spec.sampler_steps,
        # With a robot its file says how the policy's frame lies to the driver's.
        frame_id=("" if p.robot else p.frame_id) or prefixed(p.frame_prefix, spec.frame or WORLD_FRAME),
    )
    if not p.robot:
        return replace(p, lead_steps=1 if p.lead_steps < 0 else p.lead_steps)
    path = robot_file.find(p.robot)
    return replace(
        p,
        robot=str(path),
        lead_steps=_lead_steps(robot_file.read(path), spec) if p.lead_steps < 0 else p.lead_steps,
        sync_tolerance=p.sync_tolerance or spec.period_ns / 2e9,
    )


def _lead_steps(robot: robot_file.RobotFile, spec: CheckpointSpec) -> int:
    """So many that the executor, which sends rows early by the arm's latency, does not come to the end of a chunk
    before the next one is there."""
    latencies = [robot.pictures[camera].latency for camera in spec.cameras[:1] if camera in robot.pictures]
    # Where pictures are stamped when they come, their latency is their age.
    allowance = max(_LOOK_AND_THINK_SECONDS, *(latency + _LOOK_AND_THINK_SECONDS / 2 for latency in latencies), 0.0)
    steps = -(-round((robot.action.latency + allowance) * 1e9) // spec.period_ns)
    return max(0, min(steps, spec.n_action_steps - 1))


def main() -> int:
    return run(PolicyNode)


if __name__ == "__main__":
    raise SystemExit(main())
