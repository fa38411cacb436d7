"""Options from the command line, and one line on stderr with exit status 2 for what does not fit."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn, TypeVar

import tyro

from diffusion_ros.cache_folders import use_cache_folders
from diffusion_ros.installation import explain
from diffusion_ros.stop_signals import ended_by_signal
from training.interruption import Interrupted

T = TypeVar("T")
BEFORE_TRAINING = "stopped before the training began: nothing new was saved, nothing was lost"
"""What a trainer says after Ctrl-C where no run had begun that could tell more."""


def run(options: type[T], job: Callable[[T], None], description: str | None, after_interrupt: str = "stopped") -> None:
    """Parses `options` (a dataclass) and does the job.

    Exit status 2 after one line for options that do not fit and for ValueErrors of the job, which are about what it was
    given, or where a library is not installed; 1 after one line where the job could not be done (OSError,
    RuntimeError); 130 after Ctrl-C, 143 after SIGTERM, of which the third ends it at
    once.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started without it
    try:
        use_cache_folders()
        options, job = _as_others_see_it(options), _as_others_see_it(job)
        with ended_by_signal(3):
            job(_parse(options, description))
    except Interrupted as interrupted:
        print(interrupted, file=sys.stderr)
        sys.exit(128 + interrupted.number)
    except KeyboardInterrupt:
        print(after_interrupt, file=sys.stderr)
        sys.exit(130)
    except ModuleNotFoundError as error:
        print(explain(error), file=sys.stderr)
        sys.exit(2)
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except (OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)


def _as_others_see_it(thing: T) -> T:
    """What `python -m training.x` has defined in __main__, from training.x: workers look it up there."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if getattr(thing, "__module__", "") != "__main__" or spec is None:
        return thing
    found: T = getattr(importlib.import_module(spec.name), thing.__qualname__)  # type: ignore[attr-defined]
    return found


def width_and_height(text: str) -> tuple[int, int]:
    """Of a picture_size such as 640x480 [px]. ValueError, in one line, for what is none."""
    if not re.fullmatch(r"[1-9]\d{0,3}x[1-9]\d{0,3}", text):
        raise ValueError(f"picture_size {text!r}: width and height are expected, as in 640x480")
    width, height = map(int, text.split("x"))
    return width, height


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """Ends by an exception, so that worker processes and temporary files go too."""
    sys.exit(128 + number)


def _parse(options: type[T], description: str | None) -> T:
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(options, description=description)
    except SystemExit as end:
        if end.code != 2:
            raise
    # tyro draws a box of several lines: what is wrong, a rule, and where help is.
    lines = [line.strip("│╭╮╰╯ \n") for line in box.getvalue().splitlines()]
    said = []
    for line in lines[1:]:
        if line.startswith(("Argument helptext", "For full helptext")):
            break
        if line and not line.startswith("─"):
            said.append(line)
    raise ValueError(" ".join(said).replace("Error parsing Options: ", "") + " (--help lists the options)")
