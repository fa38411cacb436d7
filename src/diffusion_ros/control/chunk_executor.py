"""From chunks to commands: which row is due, what is late, how chunks join, and what a robot must never be sent.

No ROS here and no clock: time is an argument, so that the executor node and training.evaluate run the same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from diffusion_ros.action_kinds import delta_to
from diffusion_ros.control.action_chunk import MAX_ROWS, ROW_NAMES, ActionChunk
from diffusion_ros.ranges import outside
from diffusion_ros.robot import ACTION_NAMES, ACTION_SIZE, POSE_NAMES

GROSS = 5.0
"""A value beyond this many times its limit is a fault of whoever made the chunk, not something to clip."""
JOINS = ("latest", "blend", "ensemble")
"""How one chunk follows another: see ChunkExecutor."""
_KEPT_CHUNKS = 3
_ENSEMBLE_DECAY = 0.01
"""m of Zhao et al. 2023 (arXiv 2304.13705, section IV-B): the i-th chunk, from the oldest on, weighs exp(-m i)."""
_JUMP_M = 0.05
"""What a pose may differ from the last one however short the time: noise, and stamps that are not quite true."""
_SETTLED_NS = 500_000_000
"""After a jump poses must have been consistent for so long before one of them is believed."""


@dataclass(frozen=True)
class ExecutorLimits:
    """Limits of one control step (7: m, rad, gripper), and the box that the end effector must stay in (3: m).

    Without a box, (): it is somebody else's to keep (targets.TargetGenerator).
    """

    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    workspace_low: tuple[float, ...] = ()
    workspace_high: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name, low, high, size in (
            ("action", self.action_low, self.action_high, ACTION_SIZE),
            ("workspace", self.workspace_low, self.workspace_high, 3),
        ):
            if name == "workspace" and not low and not high:
                continue
            for end, values in (("low", low), ("high", high)):
                if len(values) != size or not np.all(np.isfinite(values)):
                    raise ValueError(f"{name}_{end} {list(values)}, {size} finite numbers expected")
            if any(a >= b for a, b in zip(low, high, strict=True)):
                raise ValueError(f"{name}_low {list(low)}, below {name}_high {list(high)} in every component expected")
        if any(x > 0 for x in self.action_low) or any(x < 0 for x in self.action_high):
            raise ValueError(f"action limits {list(self.action_low)} to {list(self.action_high)}, 0 inside expected")


@dataclass(frozen=True)
class Command:
    """What the robot is to do now."""

    stamp_ns: int
    row: NDArray[np.float64]
    """(7) as in ActionChunk; all zero is a hold: no motion, the gripper as it is."""
    acting: bool
    reason: str = ""
    """Why it holds; '' when acting."""
    clipped: str = ""
    """What was taken back: 'limits', 'workspace', 'limits and workspace', or ''."""
    pose: NDArray[np.float64] | None = None
    """(7) where the hand is to be, of a chunk of poses; `row` then is the way there from where it was seen."""
    key: tuple[int, int] | None = None
    """Which row it is, when acting: its chunk's stamp and its place there."""
    person: bool = False
    """Whether a person decided, and not a policy."""


class ChunkExecutor:
    """Decides what the robot does: the row that is due, clipped to limits and box, or a hold with its reason.

    join 'latest': the newest chunk that covers the time decides. 'blend': over the first blend_rows rows that are used
    of a new chunk, translation and rotation go over linearly from the previous chunk; the gripper switches at once.
    'ensemble': the mean of all chunks that cover the time, the older ones a little more (Zhao et al. 2023); the gripper
    is the newest's.
    max_rows: rows of a chunk that may be executed; None: all. In lockstep n_action_steps, since there the next chunk
    is waited for; on a running clock all, since the rows beyond n_action_steps bridge a chunk that is late.
    max_chunk_rows: a chunk of more rows would drive on long after its sender is gone, and is refused.
    max_ahead_ns: on a running clock, how far ahead of the newest observation a chunk may be stamped. None, in lockstep,
    where the next episode's stamps lie far ahead: such a chunk is kept apart until an observation reaches it, so that
    it stops none of the present.
    max_speed: on a running clock, a pose that moved faster since the last one [m/s] is a fault; None: not looked at.
    position_range: least and greatest position (3 each) [m] of the hand that can be true; None: not looked at.

    Rows of motions in the hand's axes and of poses become motions in the frame's axes when they are due, from where
    the hand was seen last; the limits of a step apply to those.

    If all rows of a chunk of motions are zero, its sender asks for a hold: nothing that it sent before is executed. The
    same happens when a chunk is refused for its values: whom one cannot trust now was not to be trusted before.
    """

    def __init__(
        self,
        limits: ExecutorLimits,
        period_ns: int,
        max_observation_age_ns: int,
        join: str = "latest",
        blend_rows: int = 0,
        max_rows: int | None = None,
        enabled: bool = True,
        max_chunk_rows: int = MAX_ROWS,
        max_ahead_ns: int | None = None,
        max_speed: float | None = None,
        position_range: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> None:
        if period_ns < 1:
            raise ValueError(f"period {period_ns} ns, more than 0 expected")
        if max_observation_age_ns < 0:
            raise ValueError(f"max_observation_age {max_observation_age_ns} ns, at least 0 expected")
        if join not in JOINS:
            raise ValueError(f"join {join!r}, one of {', '.join(JOINS)} expected")
        if join == "blend" and blend_rows < 1:
            raise ValueError(f"blend_rows {blend_rows}, at least 1 expected with join 'blend'")
        if max_rows is not None and max_rows < 1:
            raise ValueError(f"max_rows {max_rows}, at least 1 expected")
        if max_chunk_rows < 1:
            raise ValueError(f"max_chunk_rows {max_chunk_rows}, at least 1 expected")
        self.limits = limits
        self.period_ns = period_ns
        self.max_observation_age_ns = max_observation_age_ns
        self.blend_rows = blend_rows if join == "blend" else 0
        self.ensemble = join == "ensemble"
        self._kept_chunks = max_chunk_rows if self.ensemble else _KEPT_CHUNKS
        self.max_rows = max_rows
        self.max_chunk_rows = max_chunk_rows
        self.max_ahead_ns = max_ahead_ns
        self.max_speed = max_speed
        self.position_range = position_range
        self.enabled = enabled
        self.estop_reason = ""
        """Why the emergency stop is latched; '' when it is not."""
        self._low = np.array(limits.action_low)
        self._high = np.array(limits.action_high)
        self._gross = GROSS * np.maximum(np.abs(self._low), np.abs(self._high))
        self._box_low = np.array(limits.workspace_low or (-np.inf,) * 3)
        self._box_high = np.array(limits.workspace_high or (np.inf,) * 3)
        self._chunks: list[ActionChunk] = []
        self._far: ActionChunk | None = None
        """Lockstep: a chunk that is stamped too far ahead to have to do with the present."""
        self._used: dict[int, int] = {}
        """By a chunk's stamp, when its first row was used [ns]."""
        self._still_ns: int | None = None
        """Since when no row was executed; None while rows are."""
        self._observed_ns: int | None = None
        self._position = np.zeros(3)
        self._rotation: Rotation | None = None
        self._since = np.zeros(3)
        """What was commanded since the last observation (3) [m]."""
        self._since_turn = Rotation.identity()
        """And by how much it was turned."""
        self._observation_fault = "no observation yet"
        self._jumped = ""
        self._jumped_ns = 0

    # What comes in

    def add_chunk(self, chunk: ActionChunk) -> str:
        """Returns '' when accepted, else why it was refused. The newest chunk's stamp again replaces it."""
        reason = self._distrusted(chunk)
        if reason:
            self.clear()
            return reason
        if self.max_ahead_ns is not None and chunk.is_hold:
            # However old the observation is that it answers: who asks for a hold means now.
            self._keep(chunk)
            return ""
        reason = self._late(chunk)
        if reason:
            return reason
        if self._is_far(chunk):
            self._far = chunk
        else:
            self._keep(chunk)
        return ""

    def _keep(self, chunk: ActionChunk) -> None:
        if chunk.is_hold:
            self._chunks = [chunk]
        elif self._chunks and chunk.stamp_ns == self._chunks[-1].stamp_ns:
            self._chunks[-1] = replace(chunk, begins_ns=self._chunks[-1].begins_ns)
        else:
            self._chunks = [*self._chunks[1 - self._kept_chunks :], chunk]
        self._used = {c.stamp_ns: self._used[c.stamp_ns] for c in self._chunks if c.stamp_ns in self._used}

    def _is_far(self, chunk: ActionChunk) -> bool:
        return self._observed_ns is not None and chunk.stamp_ns - self._observed_ns > len(chunk.rows) * self.period_ns

    def _distrusted(self, chunk: ActionChunk) -> str:
        """Why no sender that is to be trusted makes such a chunk, or ''."""
        if chunk.period_ns != self.period_ns:
            return f"chunk refused: rows {chunk.period_ns} ns apart, {self.period_ns} ns expected"
        if len(chunk.rows) > self.max_chunk_rows:
            return f"chunk refused: {len(chunk.rows)} rows, at most {self.max_chunk_rows} expected"
        if not np.all(np.isfinite(chunk.rows)):
            return "chunk refused: NaN or infinite values"
        if wrong := self._too_large(chunk):
            return f"chunk refused: {wrong}"
        if self.max_ahead_ns is not None:
            if self._observed_ns is None:
                return "chunk refused: there is no eef_pose yet to tell its time by"
            ahead_ns = chunk.stamp_ns - self._observed_ns
            if ahead_ns > self.max_ahead_ns:
                return (
                    f"chunk refused: stamped {ahead_ns / 1e9:.3f} s ahead of eef_pose,"
                    f" at most {self.max_ahead_ns / 1e9:g} s expected"
                )
        return ""

    def _too_large(self, chunk: ActionChunk) -> str:
        """What of a chunk's rows nothing that is sound would say, or ''."""
        names = ROW_NAMES[chunk.kind]
        values = chunk.rows
        if chunk.kind == "pose":
            # From row to row: whether the first is near the hand is seen when it is due.
            turns = Rotation.from_rotvec(values[:, 3:6])
            steps = np.zeros_like(values)
            steps[1:, :3] = np.diff(values[:, :3], axis=0)
            if len(values) > 1:
                steps[1:, 3:6] = (turns[1:] * turns[:-1].inv()).as_rotvec()
            steps[:, 6] = values[:, 6]
            values = steps
        excess = np.abs(values) > self._gross
        if not np.any(excess):
            return ""
        i, j = (int(k) for k in np.argwhere(excess)[0])
        how = "changes by" if chunk.kind == "pose" and j < 6 else "is"
        return f"{names[j]} of row {i} {how} {values[i, j]:.4g}, at most {self._gross[j]:.4g} expected"

    def _late(self, chunk: ActionChunk) -> str:
        """Why a chunk comes too late to be of use, or ''."""
        if self._chunks and chunk.stamp_ns < self._chunks[-1].stamp_ns:
            late = (self._chunks[-1].stamp_ns - chunk.stamp_ns) / 1e9
            return f"chunk refused: {late:.3f} s older than the newest"
        if self._observed_ns is not None and chunk.index_at(self._observed_ns) >= len(chunk.rows):
            late = (self._observed_ns - chunk.stamp_ns) / 1e9
            return f"chunk refused: all rows late, made from an observation {late:.3f} s old"
        return ""

    def observe(self, stamp_ns: int, eef_pos: NDArray[np.float64], eef_quat: NDArray[np.float64] | None = None) -> str:
        """The end effector was at eef_pos (3) [m]. Returns '' or why that is refused (then commands hold).

        eef_quat (4) xyzw: how it was turned, which motions in its own axes and poses need.

        A stamp before the last one, or in lockstep the same with another position, means that another run began: the
        chunks are dropped.
        """
        position = np.asarray(eef_pos, np.float64)
        self._observation_fault = self._position_fault(position)
        if self._observation_fault:
            return self._observation_fault
        if self._observed_ns is not None and not self.observed(stamp_ns, position):
            lockstep = self.max_ahead_ns is None
            if stamp_ns < self._observed_ns or (lockstep and stamp_ns == self._observed_ns):
                self.clear()
            self._notice_jump(stamp_ns, position)
        self._observed_ns = stamp_ns
        self._position = position
        self._rotation = None if eef_quat is None else Rotation.from_quat(eef_quat)
        self._since, self._since_turn = np.zeros(3), Rotation.identity()
        for chunk in [chunk for chunk in self._chunks if self._is_far(chunk)]:
            # It came before the first observation, when nobody could tell.
            self._chunks.remove(chunk)
            self._far = chunk
        if self._far is not None and not self._is_far(self._far):
            far, self._far = self._far, None
            if not self._late(far):
                self._keep(far)
        if self._jumped and not 0 <= stamp_ns - self._jumped_ns < _SETTLED_NS:
            self._jumped = ""
        self._observation_fault = self._jumped
        return self._observation_fault

    def _position_fault(self, position: NDArray[np.float64]) -> str:
        if position.shape != (3,) or not np.all(np.isfinite(position)):
            return f"eef_pose refused: position {position.tolist()}, 3 finite numbers expected"
        if self.position_range is not None:
            return outside("eef_pose", position, *self.position_range, "m")
        return ""

    def _notice_jump(self, stamp_ns: int, position: NDArray[np.float64]) -> None:
        """A hand that is suddenly elsewhere: one of the two poses is not true, and chunks were made from either."""
        assert self._observed_ns is not None
        seconds = max(0, stamp_ns - self._observed_ns) / 1e9
        moved = float(np.linalg.norm(position - self._position))
        if self.max_speed is not None and moved > _JUMP_M + self.max_speed * seconds:
            self._jumped = f"eef_pose jumped by {moved:.3f} m within {seconds:.3f} s"
            self._jumped_ns = stamp_ns
            self.clear()

    def observed(self, stamp_ns: int, eef_pos: NDArray[np.float64]) -> bool:
        """Whether this is the last observation again."""
        return stamp_ns == self._observed_ns and np.array_equal(eef_pos, self._position)

    def clear(self) -> None:
        """Forgets the chunks."""
        self._chunks = []
        self._far = None
        self._used = {}

    def set_enabled(self, enabled: bool) -> bool:
        """Chunks from before do not count afterwards: their earlier rows were never executed.

        False, and nothing is changed, where an emergency stop is latched that enabling would outlive.
        """
        if enabled and self.estop_reason:
            return False
        if enabled and not self.enabled:
            self.clear()
        self.enabled = enabled
        return True

    def estop(self, reason: str = "requested") -> None:
        """Latches the emergency stop: commands hold until estop_reset, and then until somebody enables them again.

        The first reason stays.
        """
        self.estop_reason = self.estop_reason or reason or "requested"
        self.enabled = False
        self.clear()

    def estop_reset(self) -> None:
        """Releases the emergency stop. Nothing moves yet: somebody has to enable it."""
        self.estop_reason = ""
        self.clear()

    # What goes out

    def covers(self, t_ns: int) -> bool:
        """Whether a chunk has an executable row for t_ns."""
        return self._due(t_ns) is not None

    def stopped(self) -> str:
        """Why every command would be a hold whatever chunk came, or ''."""
        if self.estop_reason:
            return f"emergency stop: {self.estop_reason}"
        if not self.enabled:
            return "not enabled"
        return self._observation_fault

    def command(self, t_ns: int, now_ns: int | None = None) -> Command:
        """The command for the observation stamped t_ns. Asking again gives the same answer.

        now_ns: the present in the clock of the stamps, where one runs; the newest observation must not be older than
        max_observation_age_ns by it. Without it t_ns is the present.

        A chunk whose observation is of a robot that stood still, and has not moved since, begins with its first row:
        what it says of the time until it came was not done.
        """
        command = self._command(t_ns, now_ns)
        if command.acting:
            self._still_ns = None
        elif self._still_ns is None or t_ns < self._still_ns:
            self._still_ns = t_ns
        return command

    def _command(self, t_ns: int, now_ns: int | None) -> Command:
        reason = self.stopped()
        if reason:
            return self.hold(t_ns, reason)
        if untimely := self._untimely(t_ns, now_ns):
            return self.hold(t_ns, untimely)
        due = self._due(t_ns)
        if due is None:
            return self.hold(t_ns, self._why_not_covered(t_ns))
        chunk = self._chunks[due]
        if chunk.is_hold:
            return self.hold(t_ns, "action_chunk's sender asks for it")
        if self._still_ns is not None and self._still_ns <= chunk.stamp_ns < t_ns and chunk.begins_ns is None:
            chunk = self._chunks[due] = replace(chunk, begins_ns=t_ns)
        self._used.setdefault(chunk.stamp_ns, t_ns)
        row = self._row(due, t_ns)
        pose = row if chunk.kind == "pose" else None
        if chunk.kind != "delta":
            if self._rotation is None:
                return self.hold(t_ns, f"nobody says how the hand is turned, which a chunk of {chunk.kind}s needs")
            row = self._as_delta(chunk.kind, row)
            if pose is not None and np.any(np.abs(row) > self._gross):
                j = int(np.argmax(np.abs(row) > self._gross))
                away = f"the row that is due is {row[j]:.4g} away in {POSE_NAMES[j]}"
                return self.hold(t_ns, f"{away}, at most {self._gross[j]:.4g} expected")
        return replace(self._limited(t_ns, row, (chunk.stamp_ns, chunk.index_at(t_ns))), pose=pose)

    def person_command(
        self, t_ns: int, row: NDArray[np.float64], now_ns: int, key: tuple[int, int] | None = None
    ) -> Command:
        """The command for a person's row (7), held and limited as a chunk's; key: which of their rows it is."""
        reason = self.stopped() or self._untimely(t_ns, now_ns)
        if not reason and not np.all(modest := np.abs(row) <= self._gross):  # so written for NaN
            j = int(np.argmin(modest))
            reason = f"{ACTION_NAMES[j]} of a person is {row[j]:.4g}, at most {self._gross[j]:.4g} expected"
        if reason:
            return self.hold(t_ns, reason)
        self._still_ns = None
        return replace(self._limited(t_ns, row, key), person=True)

    def _untimely(self, t_ns: int, now_ns: int | None) -> str:
        """Why the newest observation is of another time, or ''."""
        assert self._observed_ns is not None
        age_ns = (t_ns if now_ns is None else now_ns) - self._observed_ns
        if age_ns > self.max_observation_age_ns:
            return f"eef_pose is {age_ns / 1e9:.3f} s old"
        if now_ns is not None and -age_ns > self.max_observation_age_ns:
            return f"eef_pose is stamped {-age_ns / 1e9:.3f} s ahead of the clock"
        return ""

    def _limited(self, t_ns: int, row: NDArray[np.float64], key: tuple[int, int] | None) -> Command:
        """Within the limits of a step and the box."""
        clipped = []
        limited = np.clip(row, self._low, self._high)
        if not np.array_equal(limited, row):
            clipped.append("limits")
        boxed = limited.copy()
        # Inside the box up to its walls; outside only inwards. Between two observations it is where it was sent to.
        position = self._position + self._since
        boxed[:3] = np.clip(
            limited[:3],
            np.minimum(self._box_low - position, 0.0),
            np.maximum(self._box_high - position, 0.0),
        )
        if not np.array_equal(boxed, limited):
            clipped.append("workspace")
        return Command(t_ns, boxed, True, clipped=" and ".join(clipped), key=key)

    def _as_delta(self, kind: str, row: NDArray[np.float64]) -> NDArray[np.float64]:
        """A row (7) of a kind as a motion in the frame's axes, from where the hand was seen last."""
        assert self._rotation is not None
        turned = self._since_turn * self._rotation
        if kind == "pose":
            return delta_to(row, self._position + self._since, turned)
        return np.concatenate((turned.apply(row[:3]), turned.apply(row[3:6]), row[6:]))

    def rest(self, t_ns: int) -> NDArray[np.float64]:
        """Rows (N, 7) of the chunk that decides at t_ns, from the one that is due on, joined with other chunks' as in
        commands: motions in the frame's axes, within the limits of a step, or poses (Command.pose). No row where none
        is due."""
        k = self._due(t_ns)
        if k is None:
            return np.zeros((0, ACTION_SIZE))
        due, end = self._chunks[k].index_at(t_ns), len(self._chunks[k].rows[: self.max_rows])
        times = [t_ns, *(self._begins(k, i) for i in range(due + 1, end))]
        return self._stated(k, [self._row(k, t) for t in times])

    def begun(self, t_ns: int) -> NDArray[np.float64]:
        """Rows (N, 7) of that chunk up to the one that is due, as they would be executed had it come at once; with join
        'ensemble' the means that it is part of."""
        k = self._due(t_ns)
        if k is None:
            return np.zeros((0, ACTION_SIZE))
        rows = self._chunks[k].rows[: self._chunks[k].index_at(t_ns) + 1]
        return self._stated(k, [self._row(k, self._begins(k, i)) for i in range(len(rows))] if self.ensemble else rows)

    def _begins(self, k: int, i: int) -> int:
        """The first time [ns] at which row i of chunk k is the nearest one."""
        return self._chunks[k].first_ns + i * self.period_ns - self.period_ns // 2

    def sent(self, command: Command) -> None:
        """A command went out, and there may be another one before the next observation."""
        self._since = self._since + command.row[:3]
        self._since_turn = Rotation.from_rotvec(command.row[3:6]) * self._since_turn

    def hold(self, t_ns: int, reason: str) -> Command:
        return Command(t_ns, np.zeros(ACTION_SIZE), False, reason)

    def _due(self, t_ns: int) -> int | None:
        """Which chunk decides at t_ns: the newest that has an executable row for it."""
        for k in range(len(self._chunks) - 1, -1, -1):
            chunk = self._chunks[k]
            rows = len(chunk.rows) if self.max_rows is None else min(self.max_rows, len(chunk.rows))
            if 0 <= chunk.index_at(t_ns) < rows:
                return k
        return None

    def _stated(self, k: int, rows: ArrayLike) -> NDArray[np.float64]:
        """Rows (N, 7) of chunk k's kind as motions in the frame's axes, within the limits of a step; poses as they
        are."""
        kind, stated = self._chunks[k].kind, np.array(rows, np.float64)
        if kind == "pose" or (kind != "delta" and self._rotation is None):
            return stated
        if kind == "tool_delta":
            stated = np.array([self._as_delta(kind, row) for row in stated])
        return np.clip(stated, self._low, self._high)

    def _row(self, k: int, t_ns: int) -> NDArray[np.float64]:
        """The row (7) of chunk k for t_ns, joined with those of the chunks before it."""
        chunk = self._chunks[k]
        row: NDArray[np.float64] = chunk.rows[chunk.index_at(t_ns)].copy()
        if self.ensemble:
            return self._mean(row, [c for c in self._chunks[: k + 1] if c.kind == chunk.kind], t_ns)
        if self.blend_rows == 0:
            return row
        used = max(0, chunk.index_at(t_ns) - chunk.index_at(self._used.get(chunk.stamp_ns, t_ns)))
        before = self._chunks[k - 1].row(t_ns) if k > 0 and self._chunks[k - 1].kind == chunk.kind else None
        if before is None or used >= self.blend_rows:
            return row
        weight = (used + 1) / (self.blend_rows + 1)
        if chunk.kind == "pose":
            old, new = Rotation.from_rotvec(before[3:6]), Rotation.from_rotvec(row[3:6])
            row[:3] = (1.0 - weight) * before[:3] + weight * row[:3]
            row[3:6] = (Rotation.from_rotvec(weight * (new * old.inv()).as_rotvec()) * old).as_rotvec()
            return row
        row[:6] = (1.0 - weight) * before[:6] + weight * row[:6]
        return row

    def _mean(self, newest: NDArray[np.float64], chunks: list[ActionChunk], t_ns: int) -> NDArray[np.float64]:
        """Of what chunks, the oldest first, say of t_ns."""
        rows = np.array([row for row in (chunk.row(t_ns) for chunk in chunks) if row is not None])
        weights = np.exp(-_ENSEMBLE_DECAY * np.arange(len(rows)))
        mean: NDArray[np.float64] = weights @ rows / weights.sum()
        if chunks[-1].kind == "pose":
            mean[3:6] = Rotation.from_rotvec(rows[:, 3:6]).mean(weights).as_rotvec()
        mean[6] = newest[6]
        return mean

    def _why_not_covered(self, t_ns: int) -> str:
        if not self._chunks:
            return "no chunk yet"
        newest = self._chunks[-1]
        if newest.is_hold:
            return f"action_chunk's sender asked for it {(t_ns - newest.stamp_ns) / 1e9:.3f} s ago"
        if newest.index_at(t_ns) < 0:
            return f"the newest chunk begins in {(newest.stamp_ns - t_ns) / 1e9:.3f} s"
        return f"no chunk covers the present: the newest is {(t_ns - newest.stamp_ns) / 1e9:.3f} s old"
