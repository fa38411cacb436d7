"""From messages to frames: the same in the policy node and where a recording is read again, so that a policy learns
from the very frames that it will be given.

    topics -> RobotObservations (a robot's file) -> FrameSource -> InterpolatingAssembler -> frames
    topics -> SimulatorObservations              -> FrameSource -> FrameAssembler         -> frames
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from diffusion_ros.control.frozen_cameras import FrozenCameras
from diffusion_ros.control.observation import LATE_NS, Frame, FrameAssembler, FrameRate, InterpolatingAssembler
from diffusion_ros.robot import EEF_POS, EEF_QUAT, OBJECT_QUAT
from diffusion_ros.robot_file import RobotFile
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.chunk_budget import Begun, ChunkBudget
from diffusion_ros.ros.robot_observations import RobotObservations, Source
from diffusion_ros.ros.runner import RunnableNode
from diffusion_ros.ros.simulator_observations import SimulatorObservations
from diffusion_ros.spec import IMAGE_SUFFIX, CheckpointSpec

_LEAST_NUMBERS_HZ = 5.0
"""Of what is interpolated between pictures: a gripper that opens within half a second is still followed."""
_PICTURES = 32
"""Of which is known when they came."""


@dataclass(frozen=True)
class FrameRules:
    """What is asked of observations: the policy node's parameters of the same names."""

    realtime: bool
    """Whether stamps are compared with the clock, and rates with the checkpoint's; the simulator waits in lockstep."""
    sync_tolerance: float
    """s; with a robot more than 0."""
    max_input_age: float
    """s"""
    min_frame_rate: float
    """A part of the checkpoint's rate."""
    good_frames: int
    max_frozen: float
    """s"""
    gripper_joints: tuple[str, ...]
    gripper_signs: tuple[float, ...]
    frame_id: str
    """Of the simulator's poses."""


class Notes(Protocol):
    """Who keeps what is known of the inputs: ros/diagnostics.py, or nobody."""

    def value(self, name: str, value: object) -> None: ...

    def tick(self, name: str) -> None: ...


class FrameSource:
    """Subscribes to what `spec` needs, checks what comes, and joins it to frames.

    A message that must not be used clears the frames that are incomplete: parts that were good before must not become a
    frame with what comes later.
    """

    def __init__(
        self,
        node: RunnableNode,
        spec: CheckpointSpec,
        robot: RobotFile | None,
        rules: FrameRules,
        observe: Callable[[Frame], None],
        refused: Callable[[], None],
        notes: Notes,
        min_gap_ns: int = 0,
    ) -> None:
        """robot: None for the simulator. observe: takes each frame; `trusted` says whether to use it. refused: called
        after a message that must not be used. min_gap_ns: the simulator's frames that come sooner after one another do
        not count for the rate. Raises ValueError, one line, for a robot that lacks what the checkpoint needs."""
        self._node, self._spec, self._rules = node, spec, rules
        self._observed, self._refused, self._notes, self._min_gap_ns = observe, refused, notes, min_gap_ns
        self._names = frozenset(spec.input_names)
        self._frozen = FrozenCameras(round(rules.max_frozen * 1e9))
        self.frozen_reasons: list[str] = []
        """Of the last frame."""
        self.stamps: dict[str, int] = {}
        """By key, as in RobotObservations.sources, or by the simulator's topic: the last that could be used [ns]."""
        self.faults: dict[str, str] = {}
        """By key: what is wrong with the last that came."""
        self.distrusted: dict[str, int] = {}
        """By key: good pictures that are still wanted from a camera that sent a bad one."""
        self._pictures: deque[tuple[int, Begun]] = deque(maxlen=_PICTURES)
        """By stamp [ns], when the last of them came."""
        self.sources: Mapping[str, Source] = {}
        """With a robot, by key."""
        self.simulator: SimulatorObservations | None = None
        self.assembler: FrameAssembler | InterpolatingAssembler
        if robot is None:
            self.assembler = FrameAssembler(spec.input_names, round(rules.sync_tolerance * 1e9))
            self.simulator = SimulatorObservations(
                node, spec, self, rules.frame_id, rules.gripper_joints, rules.gripper_signs, not rules.realtime
            )
            self.topics = self.simulator.topics
            """Keys of what inputs come from."""
        else:
            self.assembler = _interpolating(spec, rules.sync_tolerance)
            self.sources = RobotObservations(node, robot, spec, self).sources
            self.topics = tuple(key for key, source in self.sources.items() if source.inputs)
        self.rates = {key: self._rate(key) for key in self.topics}

    def name(self, key: str) -> str:
        """For messages to people."""
        return self.sources[key].name if key in self.sources else topics.shown(self._node, key)

    def _rate(self, key: str) -> FrameRate:
        spec = self._spec
        least = self._rules.min_frame_rate if self._rules.realtime else 0.0
        if key not in self.sources:
            return FrameRate(self.name(key), spec.period_ns, least, self._min_gap_ns)
        if least > 0 and not self.sources[key].is_picture:
            least = min(least, _LEAST_NUMBERS_HZ / spec.rate)
        return FrameRate(self.name(key), spec.period_ns, least, late_ns=LATE_NS)

    # A Receiver

    def picture(self, key: str, camera: str, read: Callable[[], tuple[int, NDArray[np.uint8]]]) -> None:
        """A camera's picture came; read: gives stamp and picture in the checkpoint's size, or raises MessageError."""
        try:
            stamp_ns, image = read()
        except messages.MessageError:
            self.distrusted[key] = self._rules.good_frames
            raise
        wanted = self.distrusted.get(key, 0) - 1
        if wanted > 0:
            self.distrusted[key] = wanted
            self.faults.pop(key, None)
            self.assembler.clear()
            return
        self.distrusted.pop(key, None)
        self._frozen.image(camera, stamp_ns, image)
        self._pictures.append((stamp_ns, self._node.reading.begun))
        self._good(key, stamp_ns, {f"{camera}{IMAGE_SUFFIX}": self.part(image)})

    def part(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        """What stands for a picture in frames: itself. Whoever reads a recording keeps less."""
        return image

    def values(self, key: str, stamp_ns: int, values: Mapping[str, NDArray[np.float64]]) -> None:
        """Numbers came, in the policy's units and frame."""
        overtaken = key in self.sources and key in self.stamps and 0 < self.stamps[key] - stamp_ns <= LATE_NS
        if EEF_POS in values and not overtaken:
            self._frozen.position(stamp_ns, values[EEF_POS])
        self._good(key, stamp_ns, values)

    def refused(self, key: str, error: ValueError) -> None:
        """A message came that is not used."""
        self.faults[key] = f"{self.name(key)}: {error}"
        self.assembler.clear()
        self._refused()

    def _good(self, key: str, stamp_ns: int, values: Mapping[str, NDArray[Any]]) -> None:
        """Raises MessageError for what must not be used though it can be read."""
        if conflict := (self.sources if self.simulator is None else self.simulator.listeners)[key].conflict():
            raise messages.MessageError(conflict)
        if self._rules.realtime:
            offset = (stamp_ns - self._node.now_ns()) / 1e9
            self._notes.value(f"{self.name(key)} offset [s]", f"{offset:.3f}")
            limit = self._rules.max_input_age
            if abs(offset) > limit:
                side = "ahead of" if offset > 0 else "behind"
                raise messages.MessageError(
                    f"stamped {abs(offset):.3f} s {side} the clock, at most {limit:g} s expected"
                )
        self.faults.pop(key, None)
        self.stamps[key] = stamp_ns
        if key in self.rates:
            self.rates[key].add(stamp_ns)
        self._notes.tick(key)
        wanted = {name: value for name, value in values.items() if name in self._names}
        if isinstance(self.assembler, InterpolatingAssembler):
            frames = [self.assembler.put(stamp_ns, wanted)]
        else:
            frames = [self.assembler.put(name, stamp_ns, value) for name, value in wanted.items()]
        for frame in frames:
            if frame is not None:
                self._observed(frame)

    def budget(self, frame: Frame) -> ChunkBudget:
        """Of a frame that has just become complete; it begins with the arrival of its last picture."""
        reading, begun = self._node.reading, self._node.reading.begun
        if self._pictures:
            _, begun = min(reversed(self._pictures), key=lambda picture: abs(picture[0] - frame.stamp_ns))
        return ChunkBudget(begun, reading)

    # Whether a frame is to be used

    def trusted(self) -> bool:
        """Whether the newest frame is: no camera is frozen, and all inputs come often enough."""
        self.frozen_reasons = self._frozen.reasons()
        return not self.frozen_reasons and not self.too_slow()

    def too_slow(self) -> str:
        """'' or which input does not come often enough."""
        return next(filter(None, (rate.reason() for rate in self.rates.values())), "")


def _interpolating(spec: CheckpointSpec, sync_tolerance: float) -> InterpolatingAssembler:
    """With a robot; the hand is the reference where there is no camera."""
    pictures = [f"{camera}{IMAGE_SUFFIX}" for camera in spec.cameras]
    names = sorted(spec.input_names, key=lambda name: name not in (EEF_POS, EEF_QUAT))
    quaternions = {EEF_QUAT, OBJECT_QUAT} & set(names)
    return InterpolatingAssembler(names, spec.period_ns, round(sync_tolerance * 1e9), pictures, quaternions)
