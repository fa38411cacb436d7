"""PolicyController: when a chunk is due and what it is made from; the same in the policy node and in evaluation.

With n_action_steps 8 and lead_steps 1 (x: the observation that a chunk is made from, =: its rows in use):

    step     0   1   2   3   4   5   6   7   8   9  10  11  12  13  14
    first    x=  =   =   =   =   =   =   =
    second                               x   =   =   =   =   =   =   =

With a lead the policy computes while the last rows of the chunk before are executed. In lockstep the lead is 0, because
the robot waits.

A chunk that comes d rows late is made to go on from the d rows of the chunk before that are executed until it comes,
and from the row that was executed last (., real-time chunking; Black et al. 2025, arXiv 2506.07339 and 2512.05964).
With d = 3, asked for every 5 steps:

    step     0   1   2   3   4   5   6   7   8   9  10  11  12  13  14
    first    x           =   =   =   =   =
    second                       .   x.  .   .   =   =   =   =   =
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion_ros.control.action_chunk import ActionChunk, hold_chunk
from diffusion_ros.control.delay import soft_weights
from diffusion_ros.control.history import History
from diffusion_ros.control.observation import Frame, ObservationWindow, SpacedWindow
from diffusion_ros.models.policy import Policy, chunk_seed

_COUNTED = 5
"""Rows by which it is told which of them a robot executes when. Their stamps are a little early and late."""
MAX_GAP_STEPS = 3
"""A hole of more steps than this in the observations starts a new history."""


@dataclass
class _Observed:
    values: Mapping[str, NDArray[Any]]
    features: torch.Tensor | None = None


class PolicyController:
    """One policy on one robot. Frames in by `push`; `needs_chunk` says when; `chunk` makes and remembers it.

    Frames are encoded once each, when a chunk needs them, or before (`encode_ahead`). Not thread-safe: one thread owns
    it.

    spaced: frames come at a rate of their own, and a chunk's are chosen from all of them (SpacedWindow).
    rtc: chunks go on from rows that are executed before they come; `delay_rows` says how many, `executed` which.
    """

    def __init__(
        self, policy: Policy, policy_seed: int, lead_steps: int = 0, spaced: bool = False, rtc: bool = False
    ) -> None:
        spec = policy.spec
        if not 0 <= lead_steps < spec.n_action_steps:
            raise ValueError(f"lead_steps {lead_steps}, from 0 to below n_action_steps {spec.n_action_steps} expected")
        if policy_seed < 0:
            raise ValueError(f"policy_seed {policy_seed}, at least 0 expected")
        self.policy = policy
        self.policy_seed = policy_seed
        self.interval_steps = spec.n_action_steps - lead_steps
        """Steps from the observation of one chunk to that of the next."""
        if rtc and not policy.goes_on:
            raise ValueError(
                "the checkpoint's policy cannot go on from rows that are executed: it was exported before there was"
                " such a thing; `python -m training.export_again` mends that"
            )
        self.rtc = rtc
        self._spaced = spaced
        self.delay_rows = 0
        """Rows after the newest observation that are executed before the next chunk comes."""
        self.last_chunk: ActionChunk | None = None
        self._sampled: tuple[NDArray[np.float64], Mapping[str, NDArray[Any]]] | None = None
        """Of the last chunk: its rows as the policy gave them, and the newest frame that it was made from."""
        self._executed: History[NDArray[np.float64]] = History(2 * spec.horizon * spec.period_ns)
        """Rows (7) that were executed."""
        self._counted: deque[tuple[int, int, int]] = deque(maxlen=_COUNTED)
        """Of the rows that were executed last: the time [ns], the chunk's stamp, and the place there."""
        self.min_gap_ns = 0 if spaced else spec.period_ns * 3 // 4
        """Frames that come sooner after the last one are not used."""
        max_gap_ns = MAX_GAP_STEPS * spec.period_ns
        self._window: ObservationWindow[_Observed] | SpacedWindow[_Observed] = (
            SpacedWindow(spec.n_obs_steps, spec.period_ns, max_gap_ns)
            if spaced
            else ObservationWindow(spec.n_obs_steps, max_gap_ns, self.min_gap_ns)
        )

    def push(self, frame: Frame) -> bool:
        """Adds the newest frame; False when it is a repetition or comes too soon after the last (faster sensors).

        Raises policy.FrameError, and takes nothing, for a frame that does not fit the checkpoint. `hold` answers it.
        """
        self.policy.check(frame.values)
        if frame.stamp_ns == self._window.newest_stamp_ns:
            newest = self._window.items()[-1].values
            if any(not np.array_equal(newest[name], frame.values[name]) for name in self.policy.spec.input_names):
                # Not a repetition: another run that happens to be at the same time.
                self.reset()
        return self._window.push(frame.stamp_ns, _Observed(frame.values))

    def executed(self, stamp_ns: int, row: NDArray[np.float64], key: tuple[int, int] | None = None) -> None:
        """A row (7) of motions that is due at this time is executed, as it was after all limits; of the policy's, no
        person's. key: its chunk's stamp and its place there, None where that is not known."""
        self._executed.add(stamp_ns, row)
        if key is None:
            return
        self._counted.append((stamp_ns, *key))
        last, period = self.last_chunk, self.policy.spec.period_ns
        if last is not None and last.stamp_ns == key[0]:
            begins = stamp_ns - key[1] * period
            if abs(begins - last.first_ns) > 3 * period // 4:  # the robot stood still until it came
                self.last_chunk = replace(last, begins_ns=begins)

    def needs_chunk(self, stamp_ns: int) -> bool:
        """Whether a chunk should be made from the observation stamped so.

        Yes for the first one, interval_steps after the last chunk's, and when time went back; the stamps of another
        episode lie far ahead or behind, so that they need no case of their own.
        """
        if self.last_chunk is None or stamp_ns < self.last_chunk.stamp_ns:
            return True
        steps = self.interval_steps
        if self.rtc:
            # The rows have to last until the next one comes.
            rows = self.policy.spec.n_rows
            steps = max(1, min(steps, rows - self.delay_rows)) if self._moves(stamp_ns) else rows
        return self.last_chunk.index_at(stamp_ns) >= steps

    def _moves(self, stamp_ns: int) -> bool:
        """Whether rows were executed lately. Where the robot stands, it begins with the first row of the chunk that is
        under way, whenever that comes, and another one would not know of it."""
        executed = self._executed.stamps
        return bool(executed) and abs(stamp_ns - executed[-1]) <= MAX_GAP_STEPS * self.policy.spec.period_ns

    def needs_frame(self, stamp_ns: int) -> bool:
        """Whether an observation stamped so can be part of a chunk: who renders on demand may leave out the others."""
        spec = self.policy.spec
        return any(self.needs_chunk(stamp_ns + k * spec.period_ns) for k in range(spec.n_obs_steps))

    def encode_ahead(self) -> None:
        """Encodes the newest frame now if the next chunk will be made from it too, so that it need not be then.

        Of frames at a rate of their own nobody knows yet which: those are encoded that may be.
        """
        stamp_ns, spec = self._window.newest_stamp_ns, self.policy.spec
        if stamp_ns is None:
            return
        soon = self._spaced and self.needs_chunk(stamp_ns + spec.n_obs_steps * spec.period_ns)
        if soon or self.needs_frame(stamp_ns):
            self._encode(self._window.items()[-1:])

    def _encode(self, observed: Sequence[_Observed]) -> None:
        for item in observed:
            if item.features is None:
                item.features = self.policy.encode_checked(item.values)

    def chunk(self, lap: Callable[[str], None] = lambda part: None) -> ActionChunk:
        """The chunk of the window as it is. Raises ValueError without any frame.

        lap: called with what has just been done, "encode" or "denoise"; "convert" is what was done before.
        """
        observed = self._window.items()
        lap("convert")
        self._encode(observed)
        lap("encode")
        stamp_ns = self._window.newest_stamp_ns
        assert stamp_ns is not None
        known, weights = self._known(stamp_ns, observed[-1].values) if self.rtc else (None, None)
        sampled = self.policy.sample(
            [item.features for item in observed if item.features is not None],
            chunk_seed(self.policy_seed, stamp_ns),
            executed=known,
            weights=weights,
        )
        self._sampled = sampled, observed[-1].values
        rows = self.policy.executable(sampled, observed[-1].values)
        lap("denoise")
        self.last_chunk = ActionChunk(stamp_ns, rows, self.policy.spec.period_ns, self.policy.row_kind)
        return self.last_chunk

    def _known(
        self, stamp_ns: int, now: Mapping[str, NDArray[Any]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]] | tuple[None, None]:
        """Rows (horizon, n) that are executed before the chunk can be, and how certain each is (horizon); None where no
        chunk is under way."""
        spec, last = self.policy.spec, self.last_chunk
        if last is None or self._sampled is None or stamp_ns <= last.stamp_ns:
            return None, None
        if self._executed_at(stamp_ns - spec.period_ns) is None:
            return None, None  # the robot holds, or a person drives it: what is under way is not executed
        begun = self._begun(last, stamp_ns)
        under_way = self.policy.restated(*self._sampled, now)
        if begun + self.delay_rows > len(under_way):
            return None, None  # it ends before, so that nobody knows what is executed then
        before = spec.n_obs_steps - 1
        rows = np.zeros((spec.horizon, under_way.shape[1]))
        weights = np.zeros(spec.horizon)
        left = under_way[begun:]
        rows[before : before + len(left)] = left
        if spec.max_delay:
            weights[before : before + min(self.delay_rows, spec.max_delay)] = 1.0
        else:
            weights[before:] = soft_weights(spec.n_rows, self.delay_rows, len(left))
        for i in range(before):
            row = self._past(stamp_ns - (before - i) * spec.period_ns, begun - (before - i), under_way)
            if row is None:
                return None, None  # the network was trained on rows that are known from the first on
            rows[i], weights[i] = row, 1.0
        return rows, weights

    def _begun(self, last: ActionChunk, stamp_ns: int) -> int:
        """How many rows of the last chunk are over where the first one of a chunk stamped so would be due.

        A robot that takes rows as they are executes both chunks' in steps of its own, so its rows are counted: between
        two chunks there may be one more or less of them than their stamps let expect.
        """
        begun, next_ = last.index_at(stamp_ns), replace(last, stamp_ns=stamp_ns, begins_ns=None)
        counted = [place - next_.index_at(at) for at, chunk, place in self._counted if chunk == last.stamp_ns]
        if self._spaced or not counted:
            return begun
        most = sorted(counted)[len(counted) // 2]
        return max(0, most) if abs(most - begun) <= 1 else begun

    def _past(self, t_ns: int, place: int, under_way: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """The row that was executed at t_ns: as it was, or as the chunk under way has it at that place."""
        if self.policy.row_kind == "delta":
            return self._executed_at(t_ns)
        return under_way[place] if 0 <= place < len(under_way) else None

    def _executed_at(self, t_ns: int) -> NDArray[np.float64] | None:
        near = self._executed.nearest(t_ns)
        return None if near is None or 4 * abs(near[0] - t_ns) > 3 * self.policy.spec.period_ns else near[1]

    def hold(self, stamp_ns: int) -> ActionChunk:
        """The answer to an observation that is not to be trusted. The next one that is, is answered at once."""
        self.reset()
        return hold_chunk(stamp_ns, self.policy.spec.period_ns)

    def distrust(self, stamp_ns: int) -> ActionChunk | None:
        """Lockstep: the observation stamped so is not to be trusted, nor a history that it is part of.

        Returns the hold that answers it where a chunk is due. Else None: the robot has its row of the last chunk
        already, and no result may depend on which of the two comes first.
        """
        if self.needs_chunk(stamp_ns):
            return self.hold(stamp_ns)
        self._window.clear()
        return None

    @property
    def newest_stamp_ns(self) -> int | None:
        return self._window.newest_stamp_ns

    def reset(self) -> None:
        """Forgets frames and chunk."""
        self._window.clear()
        self.last_chunk = None
        self._sampled = None
        self._executed.clear()
        self._counted.clear()
