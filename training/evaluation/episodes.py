"""Episodes that score a checkpoint: by workers, each result on the disk as soon as there is one, the summary made of
all."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from diffusion_ros.atomic_file import add_line, atomic_write, named_errors, read_lines
from diffusion_ros.checkpoint import Checkpoint
from training.parallel import Prepared, Workers, each

Result = dict[str, Any]
"""Of an episode, as JSON has it; its `index` is that of the episode."""
Job = tuple[int, int]
"""Which evaluation, and which of its episodes."""
SHOWN_EVERY = 1.0
"""Seconds between scores in the progress bar."""
FREE = ("path", "policy", "episodes")
"""Of an evaluation: what its episodes do not depend on. Checkpoints go by their hashes."""


class Evaluation(Protocol):
    """How a checkpoint is scored: a frozen dataclass, so that it can be sent to workers and compared with another."""

    @property
    def path(self) -> Path:
        """Of the checkpoint."""

    @property
    def sha256(self) -> str:
        """Of the checkpoint."""

    @property
    def episodes(self) -> int:
        """How many there are."""

    @property
    def name(self) -> str:
        """Of the progress bar."""

    def worker(self) -> Callable[[int], Result]:
        """Loads what is needed; what it returns does the episode of an index, whatever was done before."""

    def score(self, results: Sequence[Result]) -> str:
        """Of the episodes so far, for the progress bar."""


class Lines:
    """Results in a file of JSON lines: first what they are of, then an episode each.

    A file of an earlier run is replaced when the first episode of this one has ended.
    """

    def __init__(self, path: Path, evaluations: Sequence[Evaluation], resume: bool) -> None:
        """Raises ValueError where there is nothing to resume, or results of something else."""
        self.path = path
        self._head = {"evaluates": [identity(evaluation) for evaluation in evaluations]}
        self.found: dict[Job, Result] = {}
        self._begun = resume
        if not resume:
            return
        lines = read_lines(path)
        if not lines:
            raise ValueError(f"{path}: nothing to resume from")
        head, *results = lines
        if head != self._head:
            raise ValueError(f"{path}: has results of something else: {_difference(head, self._head)}")
        for result in results:
            which = result.pop("evaluation", 0)
            if not (type(which) is int and type(result.get("index")) is int):
                raise ValueError(f"{path}: a result without an index")
            self.found[which, result["index"]] = result

    def add(self, job: Job, result: Result) -> None:
        """Returns when it is on the disk."""
        if not self._begun:
            with named_errors(self.path), atomic_write(self.path) as temporary:
                temporary.write_text(json.dumps(self._head) + "\n")
            self._begun = True
        add_line(self.path, result | ({"evaluation": job[0]} if job[0] else {}))


MakeLines = Callable[[Sequence[Evaluation]], Lines | None]
"""Where the results of these evaluations go."""


def no_lines(evaluations: Sequence[Evaluation]) -> None:
    """Nowhere."""


def identity(evaluation: Evaluation) -> dict[str, Any]:
    """All that decides the results, as JSON has it."""
    assert dataclasses.is_dataclass(evaluation)
    values = {name: value for name, value in dataclasses.asdict(evaluation).items() if name not in FREE}
    found: dict[str, Any] = json.loads(json.dumps({"kind": type(evaluation).__name__, **values}, default=str))
    return found


def _difference(head: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    theirs = head.get("evaluates")
    if not isinstance(theirs, list) or len(theirs) != len(mine["evaluates"]):
        return "another number of evaluations"
    for one, other in zip(theirs, mine["evaluates"], strict=True):
        for name in {**one, **other}:
            if one.get(name) != other.get(name):
                return f"{name} {one.get(name)!r}, now {other.get(name)!r}"
    return "it cannot be read"


def run_episodes(
    evaluations: Sequence[Evaluation],
    workers: Workers | None = None,
    lines: Lines | None = None,
    quiet: bool = False,
) -> list[list[Result]]:
    """The results of each evaluation, in the order of its episodes; those that `lines` has found are not done again.

    workers: None for this process.
    """
    found = dict(lines.found) if lines is not None else {}
    wanted = [(which, i) for which, evaluation in enumerate(evaluations) for i in range(evaluation.episodes)]
    missing = [job for job in wanted if job not in found]
    name = evaluations[0].name if len(evaluations) == 1 else evaluations[0].name.partition(",")[0]
    done, shown = len(wanted) - len(missing), 0.0
    with tqdm(total=len(wanted), initial=done, unit="episode", desc=name, disable=quiet) as bar:
        make = partial(_worker, tuple(evaluations))
        for job, result in each(make, missing, workers or Workers(), "episode"):
            if lines is not None:
                lines.add(job, result)
            found[job] = result
            bar.update()
            if not quiet and time.monotonic() - shown > SHOWN_EVERY:
                shown = time.monotonic()
                here = [result for (which, _), result in found.items() if which == job[0]]
                bar.set_postfix_str(evaluations[job[0]].score(here), refresh=False)
    return [[found[which, i] for i in range(one.episodes)] for which, one in enumerate(evaluations)]


def _worker(evaluations: tuple[Evaluation, ...]) -> Callable[[Job], Result]:
    """Prepares a worker, for the evaluation of its first job, and anew for that of each next."""
    held: dict[int, Callable[[int], Result]] = {}

    def close() -> None:
        for episode in held.values():
            if isinstance(episode, Prepared):
                episode.close()
        held.clear()

    def do(job: Job) -> Result:
        which, index = job
        if which not in held:
            close()
            held[which] = evaluations[which].worker()
        return json_result(held[which](index))

    return Prepared(do, close)


def json_result(result: Result) -> Result:
    """As it comes out of a file: numbers in a summary are the same whether an episode was run now or before."""
    try:
        found: Result = json.loads(json.dumps(result, allow_nan=False))
    except ValueError:
        bad = [name for name, value in result.items() if value != value or value in (math.inf, -math.inf)]
        raise ValueError(f"episode {result['index']}: {', '.join(bad) or 'a result'} is no finite number") from None
    return found


def check_same(evaluation: Evaluation, loaded: Checkpoint) -> None:
    """RuntimeError where a worker has loaded another file than the one that is scored."""
    if loaded.sha256 != evaluation.sha256:
        raise RuntimeError(
            f"{evaluation.path}: SHA-256 {loaded.sha256[:16]} where a worker sees it, {evaluation.sha256[:16]} here"
        )
