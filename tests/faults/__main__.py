"""Injects every kind of fault and prints what came of each: `python -m tests.faults [--markdown] [words of a name]`.

`--workers 2` or `--cluster tcp://host:8786`: several kinds at once, in processes of their own; the same table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("ROS_PYTHON_CHECK_FIELDS", "1")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

import rclpy  # noqa: E402
import ros_graph  # noqa: E402
from rclpy.logging import LoggingSeverity, set_logger_level  # noqa: E402

from training.parallel import Workers, each, ordered  # noqa: E402

from . import others, processes  # noqa: E402, F401
from .driven import DRIVEN, DrivenFault, Outcome, table_row  # noqa: E402
from .kinds import FAULTS, Fault, Verdict  # noqa: E402

ALL: tuple[Fault | DrivenFault, ...] = (*FAULTS, *DRIVEN)
Row = tuple[str, bool]
"""A line, and whether it is about wrong motion, or a check that failed."""
BATCH = 12
"""Kinds that a process of its own judges: it has much to import."""


def check(fault: Fault) -> tuple[Verdict | None, str]:
    """The verdict, or why there is none."""
    with tempfile.TemporaryDirectory() as name:
        try:
            return fault.check(Path(name)), ""
        except AssertionError as error:
            return None, " ".join(str(error).split())[:400]


def reason(verdict: Verdict) -> str:
    """What the executor says, or the policy where the executor only says that there is no chunk."""
    executor, _, policy = verdict.says.partition("; policy: ")
    said = (
        policy if policy and executor.startswith(("holding: no chunk", "holding: action_chunk", "acting")) else executor
    )
    return said.removeprefix("holding: ")


def row(fault: Fault, markdown: bool) -> Row:
    """What came of it."""
    verdict, problem = check(fault)
    moved = "-" if verdict is None else f"{verdict.moved:g}"
    bad = verdict is None or verdict.moved > 0
    said = problem if verdict is None else reason(verdict)
    after = "" if verdict is None else "told to" if verdict.recovered is None else f"{verdict.recovered:.2f} s"
    said = said if len(said) <= 110 else f"{said[:106]} ..."
    if markdown:
        cells = [fault.name, fault.what, moved, said or "goes on", after]
        return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |", bad
    return f"{'BAD ' if bad else 'ok  '} {fault.name:42} {after:8} {said or 'goes on'}", bad


def driven_row(fault: DrivenFault, markdown: bool) -> Row:
    """The same with each output of a robot that its YAML describes."""
    outcomes: dict[str, Outcome | None] = {}
    problem = ""
    for output in fault.only:
        with tempfile.TemporaryDirectory() as name:
            try:
                outcomes[output] = outcome = fault.check(Path(name), output)
                problem = problem or (f"{output}: {outcome.moved:g} m of wrong motion" if outcome.moved else "")
            except AssertionError as error:
                outcomes[output] = None
                problem = problem or f"{output}: {' '.join(str(error).split())[:400]}"
    found = table_row(fault, outcomes)
    return found if markdown else f"{'BAD ' if problem else 'ok  '} {problem or found}", bool(problem)


def rows(faults: Sequence[Fault | DrivenFault], markdown: bool) -> Iterator[Row]:
    """In this process, one after the other."""
    with ros_graph.own_domain():
        rclpy.init()
        for name in ("policy", "executor", "planner", "follower", "maze", "rl_policy", "simulation", "camera_guard"):
            set_logger_level(name, LoggingSeverity.FATAL)
        for fault in faults:
            yield driven_row(fault, markdown) if isinstance(fault, DrivenFault) else row(fault, markdown)
        rclpy.try_shutdown()


def judge(markdown: bool) -> Callable[[tuple[int, ...]], list[Row]]:
    """For parallel.each: faults turn the time of their process, so they have one of their own."""
    return partial(_judge, markdown)


def _judge(markdown: bool, numbers: tuple[int, ...]) -> list[Row]:
    command = [sys.executable, "-m", "tests.faults", "--these", json.dumps(numbers), *["--markdown"] * markdown]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("[")]
    if len(lines) != len(numbers):
        raise RuntimeError(
            f"{', '.join(ALL[i].name for i in numbers)}: ended with status {run.returncode}: {run.stderr[-300:]}"
        )
    return [(line, bad) for line, bad in lines]


def at_once(faults: Sequence[Fault | DrivenFault], markdown: bool, workers: Workers) -> Iterator[Row]:
    """The same lines in the same order."""
    numbers = [i for i, fault in enumerate(ALL) if fault in faults]
    jobs = [tuple(numbers[i : i + BATCH]) for i in range(0, len(numbers), BATCH)]
    from tests.faults.__main__ import judge  # as workers find it

    for lines in ordered(jobs, each(partial(judge, markdown), jobs, workers, "faults")):
        yield from lines


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Injects every kind of fault.")
    parser.add_argument("words", nargs="*", help="of a name")
    parser.add_argument("--markdown", action="store_true", help="the tables of docs/faults.md")
    parser.add_argument("--workers", type=int, default=1, help="number of processes")
    parser.add_argument("--cluster", help="the address of a Dask scheduler, instead")
    parser.add_argument("--these", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    markdown = given.markdown
    if given.these is not None:
        for found in rows([ALL[i] for i in given.these], markdown):
            print(json.dumps(found), flush=True)
        return 0
    try:
        workers = Workers(given.workers, given.cluster)
    except ValueError as error:
        parser.error(str(error))
    chosen = [fault for fault in FAULTS if all(word in fault.name for word in given.words)]
    driven = [fault for fault in DRIVEN if all(word in fault.name for word in given.words)]
    alone = workers.count == 1 and workers.cluster is None
    faults = (*chosen, *driven)
    began = time.monotonic()
    print("| fault | injected | wrong motion | what is said | goes on after |" if markdown else f"{len(chosen)} kinds")
    if markdown:
        print("|---|---|---|---|---|")
    bad = [0, 0]
    for number, (line, wrong) in enumerate(rows(faults, markdown) if alone else at_once(faults, markdown, workers)):
        if markdown and number == len(chosen):
            print("\n| fault | injected | pose | twist | joint_trajectory | joint_positions | what is said |")
            print("|---|---|---|---|---|---|---|")
        print(line, flush=True)
        bad[number >= len(chosen)] += wrong
    print(
        f"{'' if markdown else ' ' * 4}{len(chosen) - bad[0]} of {len(chosen)} kinds, and"
        f" {len(driven) - bad[1]} of {len(driven)} with each output of a driven robot: no wrong motion,"
        f" {time.monotonic() - began:.0f} s",
        file=sys.stderr if markdown else sys.stdout,
    )
    return int(sum(bad) > 0)


if __name__ == "__main__":
    raise SystemExit(main())
