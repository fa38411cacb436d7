"""Draws what delay does to policies: success, steps, jumps and jerk over the delay, from summaries of
`training.evaluate --delay-ms ... --json F`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_ros.atomic_file import atomic_write
from training import command_line

PANELS = (
    ("success_rate", 100.0, "success [%]"),
    ("mean_length", 1.0, "mean steps"),
    ("jump", 1.0, "greatest jump where chunks join [m/s]"),
    ("jerk", 1.0, "jerk, root mean square [m/s³]"),
)
"""Of each panel: the figure of a summary, its factor, what stands above it."""


@dataclass(frozen=True)
class Options:
    """Draws what delay does to policies."""

    json: tuple[Path, ...]
    """Summaries of `training.evaluate --delay-ms` or tests/benchmarks/bench_delay.py. Figures of the same checkpoint,
    strategy and jitter make one curve."""
    out: Path
    """The picture (PNG) to write."""


def curves(files: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    """What was measured, name of a curve -> its summaries by delay. Raises ValueError for a file without delays."""
    found: dict[str, list[dict[str, Any]]] = {}
    for file in files:
        try:
            content = json.loads(file.read_text())
        except ValueError as error:
            raise ValueError(f"{file}: not JSON: {error}") from None
        for summary in content.get("delays", [content]) if isinstance(content, dict) else [None]:
            if not isinstance(summary, dict) or any(name not in summary for name in ("delay_ms", "late", "checkpoint")):
                raise ValueError(f"{file}: expected a summary of `training.evaluate --delay-ms ... --json`")
            name = f"{Path(summary['checkpoint']).stem}, {summary['late']}"
            if summary["jitter_ms"]:
                name += f", up to {summary['jitter_ms']:g} ms later"
            found.setdefault(name, []).append(summary)
    return {name: sorted(found[name], key=lambda summary: summary["delay_ms"]) for name in sorted(found)}


def draw(options: Options) -> None:
    """Writes the picture."""
    of_each = curves(options.json)
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(PANELS), figsize=(4 * len(PANELS), 4.2), layout="constrained")
    for axis, (key, factor, title) in zip(axes, PANELS, strict=True):
        for name, summaries in of_each.items():
            known = [s for s in summaries if s.get(key) is not None]
            axis.plot([s["delay_ms"] for s in known], [factor * s[key] for s in known], "o-", label=name)
        axis.set(title=title, xlabel="delay [ms]", ylim=(0, 103 if key == "success_rate" else None))
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    with atomic_write(options.out) as temporary:
        figure.savefig(temporary, format="png", dpi=80)
    plt.close(figure)
    print(options.out)


def main() -> None:
    command_line.run(Options, draw, __doc__)


if __name__ == "__main__":
    main()
