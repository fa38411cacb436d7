"""Trajectory windows for the planner: from a maze's stream, or from demonstrations of an arm."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion_ros.action_kinds import ActionFormat
from diffusion_ros.models.hand_planner import in_way_frames
from diffusion_ros.simulators.maze import GOAL_RADIUS
from diffusion_ros.simulators.tasks import ARM_TASKS, maze_task
from diffusion_ros.spec import TensorSpec
from training.data.demonstrations import LOW_DIM_SHAPES, load_demonstrations
from training.data.hdf5_file import opened
from training.data.maze_streams import read_stream
from training.diffusion.policy import rotation_6d

START_STEPS = 10
"""Steps from a leg's first that count as its start."""


@dataclass(frozen=True)
class Trajectories:
    """A stream of steps (N, D), cut into legs that each end at a goal: at rest, but for what D4RL and Minari recorded.

    A row of a window is the mean action of the control steps up to the next row, and the state at the first of them.
    """

    task: str
    """A maze's name, or "arm"."""
    environment: str
    states: NDArray[np.float32]
    """(N, S), position first."""
    actions: NDArray[np.float32]
    """(N, A)."""
    leg_ends: NDArray[np.int64]
    """(N): the last step of the leg that a step belongs to; -1: a leg that ends at no goal."""
    leg_starts: NDArray[np.int64]
    """(N)."""
    stream_ends: NDArray[np.int64]
    """(N): the last step before the recording breaks."""
    position_dim: int
    columns: tuple[TensorSpec, ...]
    data_hash: str
    """SHA-256 over all that was read: states, actions, where legs begin and end."""
    goal_radius: float
    """Metres from where a leg ends within which a position counts as there."""
    any_goal: bool = False
    """Whether a leg may end anywhere, as an arm's may: then `draw` cuts it at a random step, holds the state from there
    on, and gives the window in the frame of its way."""

    def __len__(self) -> int:
        return len(self.states)

    def windows(
        self,
        starts: NDArray[np.int64],
        horizon: int,
        stride: int,
        hold: bool,
        ends: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32]:
        """Trajectories (B, H, D) from the steps `starts` (B) on.

        hold: after the leg's end, or that given as `ends` (B), the state stays as it is there, at rest, without action;
            otherwise the stream goes on.
        """
        if ends is None:
            ends = self.leg_ends[starts] if hold else self.stream_ends[starts]
        index = starts[:, None] + stride * np.arange(horizon)
        over = index > ends[:, None]
        index = np.minimum(index, ends[:, None])
        after = np.minimum(index + stride, ends[:, None] + 1)
        total = self._cumulated[after] - self._cumulated[index]
        rows = np.concatenate([total / np.maximum(after - index, 1)[..., None], self.states[index]], axis=2)
        width = self.actions.shape[1]
        rows[over, :width] = 0.0
        for column, name in enumerate(self._column_names):
            if name == "velocity":
                rows[over, column] = 0.0
        return rows.astype(np.float32)

    def extremes(self, horizon: int, stride: int) -> NDArray[np.float64]:
        """Rows (N, D) that span what windows have: all steps, or many windows where these are turned."""
        if not self.any_goal:
            return np.concatenate([self.actions, self.states], axis=1).astype(np.float64)
        generator = torch.Generator().manual_seed(0)
        windows = self.draw(np.arange(len(self)), 8192, generator, horizon, stride, hold=True)
        return windows.double().numpy().reshape(-1, windows.shape[2])

    @property
    def _column_names(self) -> list[str]:
        return [tensor.name for tensor in self.columns for _ in range(tensor.shape[0])]

    @property
    def _cumulated(self) -> NDArray[np.float64]:
        cached: NDArray[np.float64] | None = self.__dict__.get("_sum")
        if cached is None:
            cached = np.concatenate([np.zeros((1, self.actions.shape[1])), np.cumsum(self.actions, 0, np.float64)])
            self.__dict__["_sum"] = cached
        return cached

    def draw(
        self, steps: NDArray[np.int64], size: int, generator: torch.Generator, horizon: int, stride: int, hold: bool
    ) -> Tensor:
        """A random batch (B, H, D) of windows that begin in `steps`; with `hold` 3 of 10 begin where a leg does.

        A plan is asked for at rest, where a leg begins; among all steps such starts are rare. Where any goal will do,
        they end after a random time, at least START_STEPS and at most what the horizon holds.
        """
        chosen = steps[torch.randint(0, len(steps), (size,), generator=generator).numpy()]
        if hold:
            first = torch.rand(size, generator=generator).numpy() < 0.3
            offset = torch.randint(0, START_STEPS, (size,), generator=generator).numpy()
            beginning = np.minimum(self.leg_starts[chosen] + offset, self.leg_ends[chosen])
            chosen = np.where(first, beginning, chosen)
            if self.any_goal:
                most = np.minimum(self.leg_ends[chosen] - chosen, stride * (horizon - 1))
                part = torch.rand(size, generator=generator).numpy()
                length = np.minimum(START_STEPS, most) + np.floor(part * np.maximum(most - START_STEPS + 1, 1))
                ends = chosen + np.minimum(length, most).astype(np.int64)
                windows = self.windows(chosen, horizon, stride, hold, ends)
                return torch.from_numpy(in_way_frames(windows.astype(np.float64)).astype(np.float32))
        else:
            chosen = np.minimum(chosen, np.maximum(self.stream_ends[chosen] - stride * (horizon - 1), 0))
        return torch.from_numpy(self.windows(chosen, horizon, stride, hold))


def load_maze(path: Path) -> Trajectories:
    """A maze's stream from an HDF5 file of training.collect_maze, D4RL or Minari, whichever it is.

    A leg ends where the file says that a goal was reached; the stream goes on from there to the next, until the
    recording breaks. Raises ValueError, in one line, for what does not fit.
    """
    stream = read_stream(path)
    n = len(stream.states)
    last, stops = np.flatnonzero(stream.ends), np.flatnonzero(stream.breaks)
    leg = np.searchsorted(last, np.arange(n))
    # A leg that was broken off did not end at its goal: nothing in it may be held.
    keep = stream.arrived[last][leg]
    return Trajectories(
        stream.task,
        maze_task(stream.task).environment,
        stream.states,
        stream.actions,
        np.where(keep, last[leg], -1),
        np.concatenate([[0], last[:-1] + 1])[leg],
        stops[np.searchsorted(stops, np.arange(n))],
        2,
        (
            TensorSpec("action", (2,), "float32", "1", "map"),
            TensorSpec("position", (2,), "float32", "m", "map"),
            TensorSpec("velocity", (2,), "float32", "m/s", "map"),
        ),
        stream.data_hash,
        GOAL_RADIUS,
    )


def load_arm(path: Path) -> Trajectories:
    """Demonstrations of an arm from a robomimic-format HDF5 file; an episode is a leg, and a stream of its own.

    The state is the hand's position, its rotation as the first two columns of the matrix, and the gripper's opening.
    """
    data = load_demonstrations(path, (), use_object=False)
    if not data.recorded.own or data.recorded.actions != ActionFormat() or data.task not in ARM_TASKS:
        raise ValueError(
            f"{path}: {data.task} by {data.recorded}, expected the simulator's robot told by deltas: a planner's rate"
            " and scale are its"
        )
    observed = {name: torch.from_numpy(data.observations[name]) for name in LOW_DIM_SHAPES}
    fingers = observed["robot0_gripper_qpos"]
    opening = fingers[:, :1] - fingers[:, 1:]
    rotation = rotation_6d(observed["robot0_eef_quat"])
    states = torch.cat([observed["robot0_eef_pos"], rotation, opening], dim=1).numpy()
    lengths = np.diff(data.starts)
    ends = np.repeat(data.starts[1:] - 1, lengths)
    return Trajectories(
        "arm",
        ARM_TASKS[data.task].environment,
        states,
        data.actions,
        ends,
        np.repeat(data.starts[:-1], lengths),
        ends,
        3,
        (
            TensorSpec("action", (7,), "float32", "m, rad, 1", "world"),
            TensorSpec("position", (3,), "float32", "m", "world"),
            TensorSpec("rotation", (6,), "float32", "1", "world"),
            TensorSpec("gripper", (1,), "float32", "m", ""),
        ),
        data.data_hash,
        0.02,
        any_goal=True,
    )


def load_trajectories(paths: Sequence[Path]) -> Trajectories:
    """A maze's stream or an arm's demonstrations, whichever the files hold. Raises ValueError, in one line."""
    parts = [_load(path) for path in paths]
    if not parts:
        raise ValueError("data: at least one file is needed")
    if len(parts) > 1 and any(part.task != "arm" for part in parts):
        raise ValueError(f"data: {len(parts)} files, expected one maze, or demonstrations of an arm")
    first = parts[0]
    if len(parts) == 1:
        return first
    offsets = np.cumsum([0] + [len(part) for part in parts])[:-1]

    def joined(name: str, shift: bool = False) -> NDArray[Any]:
        return np.concatenate([getattr(p, name) + (at if shift else 0) for p, at in zip(parts, offsets, strict=True)])

    return replace(
        first,
        environment=", ".join(dict.fromkeys(part.environment for part in parts)),
        states=joined("states"),
        actions=joined("actions"),
        leg_ends=joined("leg_ends", shift=True),
        leg_starts=joined("leg_starts", shift=True),
        stream_ends=joined("stream_ends", shift=True),
        data_hash=hashlib.sha256("".join(part.data_hash for part in parts).encode()).hexdigest(),
    )


def _load(path: Path) -> Trajectories:
    with opened(path) as file:
        arm = "data" in file
    return load_arm(path) if arm else load_maze(path)
