"""The table of hostile input: `python -m tests.hostile [WORD ...]`, all whose kind or name has one of the words.

Exit status 1 where one of them did anything but a refusal of one line.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "src")]

from tests.hostile import checkpoints, files, specifications  # noqa: E402
from tests.hostile.case import Hostile, judged  # noqa: E402

ROOMS = (checkpoints, specifications, files)
"""Modules with `cases()`."""


def all_cases() -> list[Hostile]:
    return [case for room in ROOMS for case in room.cases()]


def main() -> int:
    words = sys.argv[1:]
    chosen = [case for case in all_cases() if not words or any(w in f"{case.kind} {case.name}" for w in words)]
    bad = 0
    for case in chosen:
        good, what = judged(case)
        bad += not good
        print(f"{'refused' if good else 'FAILED '}  {case.kind:<14} {case.name:<44} {what}", flush=True)
    print(f"{len(chosen) - bad} of {len(chosen)} refused in one line, {bad} did anything else")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
