"""A scheduler and its workers, in processes of their own on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
Worker = subprocess.Popen[bytes]


@contextmanager
def dask(folder: Path, workers: int) -> Iterator[tuple[str, list[Worker], Callable[[], Worker]]]:
    """The address of a scheduler, its workers, and what starts another one. All are gone at the end."""
    paths = (ROOT / "src", ROOT, ROOT / "tests")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, paths))}
    at = folder / "scheduler.json"
    scheduler = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", at)
    worker = ("--scheduler-file", at, "--nthreads", 1, "--no-nanny", "--no-dashboard",
        "--local-directory", folder)  # fmt: skip
    with ExitStack() as stack:
        log = stack.enter_context((folder / "dask.log").open("wb"))

        def start(kind: str, *words: object) -> Worker:
            command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *map(str, words)]
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        start("scheduler", *scheduler)
        yield _address(at), [start("worker", *worker) for _ in range(workers)], lambda: start("worker", *worker)


def _address(file: Path) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if file.exists() and file.read_text().endswith("}"):
            return str(json.loads(file.read_text())["address"])
        time.sleep(0.05)
    raise AssertionError("no scheduler")
