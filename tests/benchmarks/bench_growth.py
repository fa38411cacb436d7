"""How cost grows, as curves from 1 to 1,000: episodes, seeds, cameras, demonstrations.

`python tests/benchmarks/bench_growth.py`. Demonstrations are one and the same, linked as often as is asked for: what is
measured is the loading. Memory is the most that a process of its own had beyond what it began with.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1]), str(HERE.parents[1] / "src")]

import fake_rl  # noqa: E402
import h5py  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from training import command_line, train_rainbow  # noqa: E402
from training.data import demonstrations  # noqa: E402
from training.data.resident import Resident  # noqa: E402
from training.evaluate import Options as EvaluateOptions  # noqa: E402
from training.evaluate import evaluate  # noqa: E402

What = Literal["episodes", "seeds", "cameras", "demonstrations"]
STEPS, SIZE = 40, 32
WIDTH = 40
"""Characters of a curve."""


@dataclass(frozen=True)
class Options:
    """Prints how cost grows with each of these."""

    what: tuple[What, ...] = get_args(What)
    """What grows."""
    counts: tuple[int, ...] = (1, 3, 10, 32, 100, 316, 1000)
    """Up to where. Seeds and cameras stop at 32: a seed is a training, and cameras are a robot's."""


def of_its_own(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds and MB of what is done in a copy of this process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.dup2(nowhere, 1)
            before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            began = time.monotonic()
            work()
            seconds = time.monotonic() - began
            peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
            os.write(writing, json.dumps([seconds, (int(peak.split()[1]) * 1024 - before) / 1e6]).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    said = os.read(reading, 1000)
    os.close(reading)
    if os.waitpid(child, 0)[1] or not said:
        raise RuntimeError("a measurement ended by itself")
    seconds, megabytes = json.loads(said)
    return seconds, megabytes


def write(path: Path, count: int, cameras: int = 1) -> Path:
    """Demonstrations of `cameras`, in this many pictures' room."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {}})
        demo = data.create_group("demo_0")
        demo["actions"] = rng.uniform(-1, 1, (STEPS, 7))
        demo["obs/robot0_eef_pos"] = rng.uniform(-1, 1, (STEPS, 3))
        demo["obs/robot0_eef_quat"] = np.tile([1.0, 0, 0, 0], (STEPS, 1))
        demo["obs/robot0_gripper_qpos"] = rng.uniform(0, 0.04, (STEPS, 2))
        for i in range(cameras):
            demo[f"obs/camera{i}_image"] = rng.integers(0, 255, (STEPS, SIZE, SIZE, 3), np.uint8)
        for i in range(1, count):
            data[f"demo_{i}"] = demo
    return path


def load(path: Path, cameras: int, on_disk: bool) -> None:
    """And 20 batches of 64 steps."""
    if on_disk:
        demonstrations.IN_MEMORY = 0.0
    names = tuple(f"camera{i}" for i in range(cameras))
    data = demonstrations.load_demonstrations(path, names, use_object=False, picture_size=(SIZE, SIZE))
    resident = Resident(data, torch.device("cpu"))
    rng = np.random.default_rng(0)
    for _ in range(20):
        steps = torch.from_numpy(rng.integers(0, len(data), 64))
        resident.frames(steps, tuple(f"{name}_image" for name in names))


def episodes(count: int, folder: Path) -> list[tuple[str, Callable[[], object]]]:
    path = fake_rl.save(folder / "c.pt", fake_rl.EveryBitDiscrete(), fake_rl.spec())
    options = EvaluateOptions(path, episodes=count, max_steps=50, json=folder / "s.json")
    return [("evaluate CartPole, 50 steps", lambda: evaluate(options))]


def seeds(count: int, folder: Path) -> list[tuple[str, Callable[[], object]]]:
    small = train_rainbow.Options(
        out=folder / "p.pt", seeds=tuple(range(count)), workers=1, total_timesteps=200, learning_starts=64, widths=(8,),
        batch_size=16, validate_every=100, validation_episodes=2, evaluation_episodes=0)  # fmt: skip
    return [("train_rainbow, 200 steps", lambda: train_rainbow.train(small))]


def cameras(count: int, folder: Path) -> list[tuple[str, Callable[[], object]]]:
    path = write(folder / "demos.hdf5", 10, count)
    return [("load 10 demonstrations", lambda: load(path, count, False))]


def many_demonstrations(count: int, folder: Path) -> list[tuple[str, Callable[[], object]]]:
    path = write(folder / "demos.hdf5", count)
    return [
        ("load, in memory", lambda: load(path, 1, False)),
        ("load, on the disk", lambda: load(path, 1, True)),
    ]


GROWS: dict[str, tuple[Callable[[int, Path], list[tuple[str, Callable[[], object]]]], int]] = {
    "episodes": (episodes, 1000),
    "seeds": (seeds, 32),
    "cameras": (cameras, 32),
    "demonstrations": (many_demonstrations, 1000),
}


def curve(values: Sequence[float], unit: str) -> list[str]:
    """A bar for each, of a logarithmic scale."""
    shown = np.log10(np.maximum(np.array(values), 1e-3))
    low, high = shown.min(), max(shown.max(), shown.min() + 1e-9)
    bars = [1 + round((WIDTH - 1) * (value - low) / (high - low)) for value in shown]
    return [f"{value:10.2f} {unit:3} {'#' * bar}" for value, bar in zip(values, bars, strict=True)]


def bench(options: Options) -> None:
    for what in options.what:
        make, most = GROWS[what]
        counts = [count for count in options.counts if count <= most]
        found: dict[str, list[tuple[float, float]]] = {}
        for count in counts:
            with tempfile.TemporaryDirectory(dir=".") as name:
                for label, work in make(count, Path(name).resolve()):
                    found.setdefault(label, []).append(of_its_own(work))
        for label, measured in found.items():
            for i, unit in enumerate(("s", "MB")):
                print(f"\n{what}: {label} [{unit}]")
                for count, line in zip(counts, curve([one[i] for one in measured], unit), strict=True):
                    print(f"{count:6d} {line}")
        sys.stdout.flush()


if __name__ == "__main__":
    command_line.run(Options, bench, __doc__)
