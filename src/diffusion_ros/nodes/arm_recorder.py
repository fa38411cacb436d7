"""What an arm's simulators keep for the videos of their episodes: pictures, the newest chunk, and why the arm holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros.control.action_chunk import ActionChunk, chunk_positions
from diffusion_ros.robot import EEF_QUAT
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.listener import MAX_BYTES, Listener
from diffusion_ros.ros.runner import RunnableNode
from diffusion_ros.simulators.arm import Simulation
from diffusion_ros.simulators.arm_video import ArmStep, pictures
from diffusion_ros.simulators.episode import Episode

Array = NDArray[np.float64]
Image = NDArray[np.uint8]


class ArmRecorder:
    """Hears what policy and executor say, and keeps a step at a time."""

    def __init__(self, node: RunnableNode, simulation: Simulation, view: str) -> None:
        """view: camera of the larger view, '' for no videos. Raises ValueError for one that there is not."""
        if view and view not in simulation.known_cameras:
            raise ValueError(f"view {view!r}: expected one of {', '.join(simulation.known_cameras)}")
        self._simulation, self._view = simulation, view
        self._chunk: ActionChunk | None = None
        self._executor_says = ""
        self._recorded: list[ArmStep] = []
        chunks: Listener[Any] = Listener(
            node,
            JointTrajectory,
            topics.ACTION_CHUNK,
            self._on_chunk,
            self._on_bad_chunk,
            topics.COMMAND_QOS,
            max_bytes=MAX_BYTES,
        )
        node.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, topics.DIAGNOSTICS_QOS)
        self.chunk_topic = chunks.topic_name

    def _on_chunk(self, msg: JointTrajectory) -> None:
        self._chunk = messages.chunk_from_msg(msg)

    def _on_bad_chunk(self, error: messages.MessageError, msg: JointTrajectory | None) -> None:
        self._chunk = None  # the executor says what is wrong with it

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in messages.diagnostics_from_msg(msg):
            if status.hardware_id == "executor":
                self._executor_says = status.summary

    def begin(self) -> None:
        """Another episode."""
        self._recorded = []
        self._chunk = None

    def why_held(self, row: Array, fault: str) -> str:
        """'' or why the arm holds; fault: the simulator's own reason."""
        if fault:
            return fault
        if np.any(row):
            return ""
        says = self._executor_says
        return says.removeprefix("holding: ") if says.startswith("holding: ") else "told to"

    def keep(self, episode: Episode, stamp_ns: int, images: Sequence[Image], eef_pos: Array, reason: str) -> None:
        """The present state. images: as the policy sees them; eef_pos (3) m in the world; stamp_ns: of what the chunk's
        rows are reckoned by; reason: why it held, ''."""
        way = eef_pos[None]
        if self._chunk is not None:
            rows = self._chunk.rows[max(0, self._chunk.index_at(stamp_ns)) :]
            turned = None
            if self._chunk.kind == "tool_delta":
                turned = Rotation.from_quat(self._simulation.observe(images=False)[EEF_QUAT])
            way = chunk_positions(eef_pos, rows, self._chunk.kind, turned)
        self._recorded.append(
            ArmStep(
                qpos=self._simulation.data.qpos.copy(),
                images=tuple(images),
                way=way,
                step=episode.steps,
                reason=reason,
                success=episode.success,
            )
        )

    def pictures(self, episode: Episode) -> Iterator[Image]:
        """Of the video."""
        return pictures(self._simulation, self._view, episode, self._recorded)
