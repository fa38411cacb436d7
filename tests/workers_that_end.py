"""What workers do in a test, in a module of its own: a worker imports all of it, and this is little."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py

from training.data.parts import Job


def squares() -> Callable[[int], int]:
    return lambda number: number * number


def sums() -> Callable[[int], int]:
    """Who does a job may have work of its own."""
    from training.parallel import Workers, each

    return lambda number: sum(result for _, result in each(squares, range(number), Workers(), "number"))


def killed_once(folder: Path) -> Callable[[int], tuple[int, int]]:
    """The square of a number and who made it; whoever gets 3 first is killed in the middle of it."""
    return partial(_killed_once, folder)


def _killed_once(folder: Path, number: int) -> tuple[int, int]:
    time.sleep(0.02)
    if number == 3:
        try:
            (folder / "killed").touch(exist_ok=False)
        except FileExistsError:
            pass
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    return number * number, os.getpid()


def killed_part(kills: int) -> Callable[[Job], None]:
    """Writes parts; as by the system when memory runs out, seed 1 kills its worker so many times."""
    return partial(_killed_part, kills)


def _killed_part(kills: int, job: Job) -> None:
    seed, path = job
    if seed == 1:
        for i in range(kills):
            mark = path.with_name(f"killed{i}")
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
    with h5py.File(path, "w") as file:
        file["seed"] = seed


def deadly() -> Callable[[int], int]:
    """Cannot start."""
    os._exit(3)


def sleepy(folder: Path) -> Callable[[int], int]:
    """Takes for ever, with a file that is half written."""

    def sleep(number: int) -> int:
        part = folder / f"{number}.part"
        try:
            part.touch()
            time.sleep(600)
        finally:
            part.unlink()
        return number

    return sleep


def unable(*_: object) -> Callable[[Job], None]:
    raise ValueError("no such checkpoint")


def early(number: int) -> int:
    """Always ends before its work is done, with 1."""
    if number == 1:
        os._exit(3)
    return number
