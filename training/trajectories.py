"""Trajectory windows for the planner: from a maze's stream, or from demonstrations of an arm."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion_ros.maze import GOAL_RADIUS, maze_named
from diffusion_ros.simulation import TASKS
from diffusion_ros.spec import TensorSpec
from training.datasets import LOW_DIM_SHAPES, load_demonstrations
from training.diffusion_policy import rotation_6d

START_STEPS = 10
"""Steps from a leg's first that count as its start."""

_ARM_POSITION = 7
_ARM_VECTORS = (0, 3, _ARM_POSITION, _ARM_POSITION + 3, _ARM_POSITION + 6)
"""Where vectors of three begin in an arm's rows: translation, rotation vector, position, the rotation's two columns."""


@dataclass(frozen=True)
class Trajectories:
    """A stream of steps (N, D), cut into legs that each end at rest at a goal.

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
    """(N): the last step of the leg that a step belongs to."""
    leg_starts: NDArray[np.int64]
    """(N)."""
    stream_ends: NDArray[np.int64]
    """(N): the last step before the recording breaks."""
    position_dim: int
    columns: tuple[TensorSpec, ...]
    data_hash: str
    goal_radius: float
    """Metres from where a leg ends within which a position counts as there."""
    any_goal: bool = False
    """Whether a leg may end anywhere, as an arm's may: then `draw` cuts it at a random step, holds the state from there
    on, and moves the whole of it."""

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

    def extremes(self) -> NDArray[np.float64]:
        """Rows (N, D) that span all values that a window can have."""
        rows = np.concatenate([self.actions, self.states], axis=1).astype(np.float64)
        if not self.any_goal:
            return rows
        corners = np.repeat(rows[:1], 2, axis=0)
        corners[0], corners[1] = rows.min(axis=0), rows.max(axis=0)
        for first in _ARM_VECTORS:
            reach = np.linalg.norm(rows[:, first : first + 2], axis=1).max()
            corners[0, first : first + 2], corners[1, first : first + 2] = -reach, reach
        return corners

    def _moved(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Windows (B, H, D) of an arm, each turned about the vertical and put somewhere in the box of all positions.

        How a hand moves does not depend on where, but demonstrations of a task always go the same way: without this, a
        plan to anywhere else goes that way too, and jumps to the goal in its last row.
        """
        angle = 2 * torch.pi * torch.rand(len(rows), 1, generator=generator)
        cosine, sine = angle.cos(), angle.sin()
        rows = rows.clone()
        for first in _ARM_VECTORS:
            x, y = rows[:, :, first].clone(), rows[:, :, first + 1].clone()
            rows[:, :, first] = cosine * x - sine * y
            rows[:, :, first + 1] = sine * x + cosine * y
        columns = slice(_ARM_POSITION, _ARM_POSITION + 3)
        position = rows[:, :, columns]
        low = torch.from_numpy(self.states[:, :3].min(axis=0)) - position.amin(1)
        high = torch.from_numpy(self.states[:, :3].max(axis=0)) - position.amax(1)
        part = torch.rand((len(rows), 3), generator=generator)
        # What is longer than the box cannot lie in it: it is put in its middle.
        shift = torch.where(low <= high, low + part * (high - low), (low + high) / 2)
        rows[:, :, columns] = position + shift[:, None]
        return rows

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
                return self._moved(torch.from_numpy(self.windows(chosen, horizon, stride, hold, ends)), generator)
        else:
            chosen = np.minimum(chosen, np.maximum(self.stream_ends[chosen] - stride * (horizon - 1), 0))
        return torch.from_numpy(self.windows(chosen, horizon, stride, hold))


def load_maze(path: Path) -> Trajectories:
    """A maze's stream from an HDF5 file in D4RL's format. Raises ValueError, in one line, for what does not fit."""
    try:
        with h5py.File(path, "r") as file:
            missing = [n for n in ("observations", "actions", "infos/goal", "timeouts") if n not in file]
            if missing:
                raise ValueError(f"{path}: has no {', '.join(missing)}, expected D4RL's maze format")
            task = str(file.attrs.get("maze", ""))
            states, actions, goals = (
                np.asarray(file[name], dtype=np.float32) for name in ("observations", "actions", "infos/goal")
            )
            breaks = np.asarray(file["timeouts"]) | np.asarray(file["terminals"])
    except OSError as error:
        raise ValueError(f"{path}: {error}") from None
    maze_named(task)  # a file of another origin ends here
    for name, value, width in (("observations", states, 4), ("actions", actions, 2)):
        if value.ndim != 2 or value.shape != (len(states), width) or not np.isfinite(value).all():
            raise ValueError(f"{path}: {name} is {value.shape}, expected finite (N, {width})")
    n = len(states)
    last = np.flatnonzero(breaks | np.append((goals[1:] != goals[:-1]).any(axis=1), True))
    # A leg that the recording breaks off does not end at its goal: nothing in it may be held.
    complete = ~breaks[last]
    leg = np.searchsorted(last, np.arange(n))
    ends, starts = last[leg], np.concatenate([[0], last[:-1] + 1])[leg]
    breaks[-1] = True
    stops = np.flatnonzero(breaks)
    keep = complete[leg]
    return Trajectories(
        task,
        maze_named(task).environment,
        states,
        actions,
        np.where(keep, ends, -1),
        starts,
        stops[np.searchsorted(stops, np.arange(n))],
        2,
        (
            TensorSpec("action", (2,), "float32", "1", "map"),
            TensorSpec("position", (2,), "float32", "m", "map"),
            TensorSpec("velocity", (2,), "float32", "m/s", "map"),
        ),
        hashlib.sha256(states.tobytes() + actions.tobytes()).hexdigest(),
        GOAL_RADIUS,
    )


def load_arm(path: Path) -> Trajectories:
    """Demonstrations of an arm from a robomimic-format HDF5 file; an episode is a leg, and a stream of its own.

    The state is the hand's position, its rotation as the first two columns of the matrix, and the gripper's opening.
    """
    data = load_demonstrations(path, (), use_object=False)
    observed = {name: torch.from_numpy(data.observations[name]) for name in LOW_DIM_SHAPES}
    fingers = observed["robot0_gripper_qpos"]
    opening = fingers[:, :1] - fingers[:, 1:]
    rotation = rotation_6d(observed["robot0_eef_quat"])
    states = torch.cat([observed["robot0_eef_pos"], rotation, opening], dim=1).numpy()
    lengths = np.diff(data.starts)
    ends = np.repeat(data.starts[1:] - 1, lengths)
    return Trajectories(
        "arm",
        TASKS[data.task].environment,
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
    try:
        with h5py.File(path, "r") as file:
            arm = "data" in file
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except OSError as error:
        raise ValueError(f"{path}: {error}") from None
    return load_arm(path) if arm else load_maze(path)
