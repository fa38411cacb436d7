"""Which frame each executed row of a recorded session answers. Times are ns of the stamps' clock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from diffusion_ros.action_kinds import ActionFormat
from diffusion_ros.control.observation import Frame

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """What was executed in one control step."""

    stamp_ns: int
    due_ns: int
    """The time of the frame that it answers."""
    values: Array
    person: bool | None
    place: int
    """Among all messages, in their order of arrival."""


@dataclass(frozen=True)
class Kept:
    """A frame, in place of each picture where it is in the bag: time of arrival and which of those that came then."""

    frame: Frame
    place: int
    time_ns: int


def folded(rows: Sequence[Row], fold: int, row_ns: int, actions: ActionFormat) -> Iterator[Row]:
    """One row for each `fold` that follow each other without a hold."""
    run: list[Row] = []
    for row in rows:
        if run and not 0 < row.due_ns - run[-1].due_ns <= 2 * row_ns:
            run = []
        run.append(row)
        if len(run) == fold:
            person = None if run[0].person is None else any(row.person for row in run)
            yield replace(run[0], values=_together([row.values for row in run], actions), person=person)
            run = []


def _together(rows: Sequence[Array], actions: ActionFormat) -> Array:
    """One row that goes as far as several one after the other; the gripper's is the last one's."""
    whole = rows[-1].copy()
    if actions.kind == "delta":
        turn = Rotation.identity()
        for row in rows:
            turn = Rotation.from_rotvec(row[3:6]) * turn
        whole[:3], whole[3:6] = np.sum([row[:3] for row in rows], axis=0), turn.as_rotvec()
    return whole


def same_stamps(rows: Sequence[Row], frames: Iterable[Kept]) -> list[Kept | None]:
    """To each row the frame of its stamp; of several, as a simulation that begins again has them, the one that came
    nearest to it."""
    by_stamp: dict[int, list[Kept]] = {}
    for kept in frames:
        by_stamp.setdefault(kept.frame.stamp_ns, []).append(kept)
    return [
        min(by_stamp.get(row.due_ns, ()), key=lambda kept: abs(kept.place - row.place), default=None) for row in rows
    ]


def nearest(rows: Sequence[Row], frames: Iterable[Kept], period_ns: int) -> list[Kept | None]:
    """To each row the frame that shows what it answers (`match`)."""
    if not rows:
        return []
    first, last = rows[0].due_ns - period_ns, rows[-1].due_ns + period_ns
    near = sorted((k for k in frames if first <= k.frame.stamp_ns <= last), key=lambda kept: kept.frame.stamp_ns)
    found = match([row.due_ns for row in rows], [kept.frame.stamp_ns for kept in near], period_ns)
    return [None if k is None else near[k] for k in found]


def match(due: Sequence[int], stamps: Sequence[int], period_ns: int) -> list[int | None]:
    """To each time [ns] the place of its frame among stamps [ns], both rising; None where none is within a period.

    Places never fall. Of all such ways the one with the least cost: how far a frame is from its time, an eighth of a
    period more for one after it, and half a period for a frame that is used again (Viterbi 1967).
    """
    found: list[int | None] = []
    # Of the time before: place -> least cost, and the places that led there, as (place, those before).
    costs: dict[int, tuple[int, Any]] = {}
    lowest = 0
    for time_ns in due:
        while lowest < len(stamps) and stamps[lowest] < time_ns - period_ns:
            lowest += 1
        here: dict[int, tuple[int, Any]] = {}
        k = lowest
        while k < len(stamps) and stamps[k] <= time_ns + period_ns:
            off = stamps[k] - time_ns
            off = -off if off <= 0 else off + period_ns // 8
            before = ((cost + (period_ns // 2 if j == k else 0), j) for j, (cost, _) in costs.items() if j <= k)
            cost, j = min(before, default=(0, -1))
            here[k] = off + cost, (k, costs[j][1] if j >= 0 else None)
            k += 1
        if not here:
            found += [*_way(costs), None]
        costs = here
    return found + _way(costs)


def _way(costs: Mapping[int, tuple[int, Any]]) -> list[int | None]:
    """The places on the way of least cost."""
    way: list[int | None] = []
    link = min(((cost, k, link) for k, (cost, link) in costs.items()), default=(0, 0, None), key=lambda c: c[:2])[2]
    while link is not None:
        way.append(link[0])
        link = link[1]
    return way[::-1]
