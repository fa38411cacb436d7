"""A minute of `make sim` with the page and without it, in turns: missed periods, the page's share of a core, and how
old a picture is that somebody sees.

The reference is the same minute without the page. Somebody looks from elsewhere: a client that takes all that the
page's server sends, the three-dimensional view too, and draws nothing. It is on this machine, so its own time counts
against the page. Stamps and their reading are by one clock.
"""

from __future__ import annotations

import itertools
import json
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psutil
import viser
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from diffusion_ros.web.gate import LOOK
from training import command_line

CHECKPOINT = Path(__file__).resolve().parents[2] / "checkpoints" / "can_pixels.pt"
EPISODES, STEPS = 3, 400  # 60 s
STARTING = 60.0
"""Seconds until there is an address, at most."""


@dataclass(frozen=True)
class Options:
    """Compares a minute of Can from pixels, in real time, with the page and without it."""

    rounds: int = 3
    """Minutes of each."""


@dataclass
class Looker:
    """Somebody who looks at a page; from threads of its own."""

    ages: list[float] = field(default_factory=list)
    """Of each picture, from its stamp to here [ms]."""
    received: int = 0
    """Bytes, of pictures and of the view."""

    def look(self, address: str) -> None:
        parts = urlsplit(address)
        token = parse_qs(parts.query).get("token", [LOOK])[0]
        socket = f"ws://{parts.netloc}"
        live, view = f"{socket}/live" + (f"?{parts.query}" if parts.query else ""), f"{socket}/view/{token}/"
        origin: Any = f"http://{parts.netloc}"
        for target, arguments in (
            (self._live, {"uri": live, "origin": origin}),
            (self._view, {"uri": view, "origin": origin, "subprotocols": [f"viser-v{viser.__version__}"]}),
        ):
            threading.Thread(target=target, args=(arguments,), daemon=True).start()

    def _live(self, arguments: dict[str, Any]) -> None:
        with suppress(ConnectionClosed), connect(max_size=None, **arguments) as page:
            for message in page:
                if isinstance(message, bytes):
                    (length,) = struct.unpack_from("<I", message)
                    self.ages.append(1000 * time.time() - json.loads(message[4 : 4 + length])["taken"])
                    self.received += len(message)
                elif json.loads(message).get("kind") == "seen?":
                    page.send(json.dumps({"seen": True}))

    def _view(self, arguments: dict[str, Any]) -> None:
        with suppress(ConnectionClosed), connect(max_size=None, **arguments) as page:
            for message in page:
                self.received += len(message)


@dataclass(frozen=True)
class Minute:
    periods: int
    missed: int
    core: float = 0.0
    """The page's share of a core, while it was looked at."""
    ages: Sequence[float] = ()
    received: int = 0


def minute(folder: Path, web: bool) -> Minute:
    path, run = folder / "summary.json", folder / "run"
    words = ["--task", "can", "--checkpoint", CHECKPOINT, "--mode", "realtime", "--episodes", EPISODES]
    words += ["--max-steps", STEPS, "--stop-after-success", STEPS, "--json", path, "--output-dir", run, "--no-video"]
    words += ["--web"] if web else []
    command = [sys.executable, "-m", "diffusion_ros.bringup", "simulation", *map(str, words)]
    looker, shares = Looker(), []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        if web:
            end = time.monotonic() + STARTING
            while not (run / "web_address").exists() and time.monotonic() < end and process.poll() is None:
                time.sleep(0.1)
            looker.look((run / "web_address").read_text().strip())
            children = psutil.Process(process.pid).children(True)
            (node,) = (child for child in children if "web_node" in " ".join(child.cmdline()))
            time.sleep(10.0)  # what starts is not what runs
            with suppress(psutil.NoSuchProcess):
                times = [(time.monotonic(), sum(node.cpu_times()[:2]))]
                while process.poll() is None:
                    time.sleep(1.0)
                    times.append((time.monotonic(), sum(node.cpu_times()[:2])))
            pairs = itertools.pairwise(times[:-5])  # nor what ends
            shares = [(spent - before) / (now - then) for (then, before), (now, spent) in pairs]
        process.wait()
    results = json.loads(path.read_text())["results"]
    return Minute(
        sum(result["steps"] for result in results),
        sum(result["missed"] for result in results),
        statistics.mean(shares) if shares else 0.0,
        looker.ages,
        looker.received,
    )


def report(options: Options) -> None:
    found: dict[bool, list[Minute]] = {False: [], True: []}
    for _ in range(options.rounds):
        for web, minutes in found.items():
            with tempfile.TemporaryDirectory() as name:
                minutes.append(minute(Path(name), web))
    for web, minutes in found.items():
        each = ", ".join(f"{one.missed} of {one.periods}" for one in minutes)
        print(f"web: {'with' if web else 'without'} the page: {each} periods without a command in time")
    ages = [age for one in found[True] for age in one.ages]
    core = statistics.mean(one.core for one in found[True])
    received = sum(one.received for one in found[True]) / 1e6 / options.rounds
    late = sorted(ages)[len(ages) * 99 // 100]
    print(
        f"web: the page takes {100 * core:.1f} % of a core (at most 12); a picture is {statistics.median(ages):.0f} ms"
        f" old, 99 % at most {late:.0f} ms (at most 200); {received:.1f} MB a minute"
    )


if __name__ == "__main__":
    command_line.run(Options, report, __doc__)
