"""Injects every kind of fault and prints what came of each: `python -m tests.faults [--markdown] [words of a name]`."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("ROS_PYTHON_CHECK_FIELDS", "1")
sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "src")]

import rclpy  # noqa: E402
import ros_graph  # noqa: E402
from rclpy.logging import LoggingSeverity, set_logger_level  # noqa: E402

from . import others, processes  # noqa: E402, F401
from .driven import DRIVEN, DrivenFault, Outcome, table_row  # noqa: E402
from .kinds import FAULTS, Fault, Verdict  # noqa: E402


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


def check_driven(chosen: list[DrivenFault], markdown: bool) -> int:
    """Prints what came of each fault with each output; returns how many were bad."""
    bad = 0
    if markdown:
        print("\n| fault | injected | pose | twist | joint_trajectory | joint_positions | what is said |")
        print("|---|---|---|---|---|---|---|")
    for fault in chosen:
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
        bad += bool(problem)
        row = table_row(fault, outcomes)
        if markdown:
            print(row, flush=True)
        else:
            print(f"{'BAD ' if problem else 'ok  '} {problem or row}", flush=True)
    return bad


def main() -> int:
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    markdown = "--markdown" in sys.argv
    chosen = [fault for fault in FAULTS if all(word in fault.name for word in words)]
    driven = [fault for fault in DRIVEN if all(word in fault.name for word in words)]
    bad = 0
    began = time.monotonic()
    print("| fault | injected | wrong motion | what is said | goes on after |" if markdown else f"{len(chosen)} kinds")
    if markdown:
        print("|---|---|---|---|---|")
    with ros_graph.own_domain():
        rclpy.init()
        for name in ("policy", "executor", "planner", "follower", "maze", "rl_policy", "simulation", "camera_guard"):
            set_logger_level(name, LoggingSeverity.FATAL)
        for fault in chosen:
            verdict, problem = check(fault)
            moved = "-" if verdict is None else f"{verdict.moved:g}"
            bad += verdict is None or verdict.moved > 0
            said = problem if verdict is None else reason(verdict)
            after = "" if verdict is None else "told to" if verdict.recovered is None else f"{verdict.recovered:.2f} s"
            said = said if len(said) <= 110 else f"{said[:106]} ..."
            if markdown:
                cells = [fault.name, fault.what, moved, said or "goes on", after]
                print(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |", flush=True)
            else:
                mark = "ok  " if verdict is not None and verdict.moved == 0 else "BAD "
                print(f"{mark} {fault.name:42} {after:8} {said or 'goes on'}", flush=True)
        worse = check_driven(driven, markdown)
        rclpy.try_shutdown()
    print(
        f"{'' if markdown else ' ' * 4}{len(chosen) - bad} of {len(chosen)} kinds, and"
        f" {len(driven) - worse} of {len(driven)} with each output of a driven robot: no wrong motion,"
        f" {time.monotonic() - began:.0f} s",
        file=sys.stderr if markdown else sys.stdout,
    )
    return int(bad + worse > 0)


if __name__ == "__main__":
    raise SystemExit(main())
