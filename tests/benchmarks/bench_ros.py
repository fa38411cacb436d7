"""The graph of `make sim` for a minute of real time: what of the 50 ms period goes where, and how many were missed.

The reference is the period. In most steps no chunk is due, so the medians of publication (conversion, serialisation)
and of the way from there to the command (transport, executor, transport) are what ROS itself takes.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from diffusion_ros.robot import RATE
from diffusion_ros.ros.chunk_budget import PARTS, WHOLE

CHECKPOINT = Path(__file__).resolve().parents[2] / "checkpoints" / "can_pixels.pt"
PERIOD_MS = 1000 / RATE
EPISODES, STEPS = 3, 400  # 60 s


def bringup(folder: Path) -> dict[str, Any]:
    """The summary of episodes that go on after their success, to the last step."""
    path = folder / "summary.json"
    words = ["--task", "can", "--checkpoint", CHECKPOINT, "--mode", "realtime", "--episodes", EPISODES]
    words += ["--max-steps", STEPS, "--stop-after-success", STEPS, "--json", path, "--output-dir", folder / "run"]
    command = [sys.executable, "-m", "diffusion_ros.bringup", "simulation", *map(str, words)]
    subprocess.run(command, check=True, capture_output=True)
    summary: dict[str, Any] = json.loads(path.read_text())
    return summary


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        summary = bringup(Path(name))
    results = summary["results"]

    def median(timing: str, kind: str = "median") -> float:
        return statistics.median(result["timings_ms"][timing][kind] for result in results)

    ros = median("publication") + median("publication to command")
    print(
        f"ros: publication to command {median('publication to command'):.1f} ms median,"
        f" {median('publication to command', 'p99'):.1f} ms p99 (with inference);"
        f" publication {median('publication'):.1f} ms;"
        f" together {100 * ros / PERIOD_MS:.1f} % of the {PERIOD_MS:.0f} ms period (below 10 %)"
    )
    print(
        f"ros: observation stamp to command at the simulator {median('stamp to command'):.1f} ms median, of which"
        f" two cameras {median('observation'):.1f} ms; physics {median('physics'):.1f} ms"
    )
    whole, *parts = (f"{name} {summary['chunk_ms'][name]:.1f} ms" for name in (WHOLE, *PARTS))
    print(f"ros: {whole} (at most 5): {', '.join(parts)}")
    steps = sum(result["steps"] for result in results)
    print(
        f"real time: {steps} periods ({steps / RATE:.0f} s), {sum(r['missed'] for r in results)} without a command in"
        f" time, {sum(r['overruns'] for r in results)} begun late by the simulator"
    )


if __name__ == "__main__":
    main()
