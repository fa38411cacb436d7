"""Compares DQN, DQN with each of the six additions, Rainbow, and Rainbow without each one, over several seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_ros.atomic_file import atomic_write
from training import command_line
from training.options.rainbow import SWITCHES
from training.options.rainbow import Options as RainbowOptions
from training.options.shared import current_options, of_seed, options_json
from training.parallel import Workers

THRESHOLD = 475
"""Return at which CartPole-v1 counts as solved."""


@dataclass(frozen=True)
class Options:
    """Trains the missing runs of the 14 variants and draws them. If it was stopped, start it again: it goes on."""

    folder: Path = Path("runs/ablation")
    """Folder of the runs. Finished runs in it are not trained again."""
    figure: Path = Path("docs/media/rainbow_ablation.png")
    """The figure to write: learning curves and steps to 475, with medians and quartiles."""
    table: Path = Path("runs/ablation/table.md")
    """The Markdown table to write, with the same numbers."""
    env_id: str = "CartPole-v1"
    """A Gymnasium task with discrete actions."""
    total_timesteps: int = 15_000
    """Number of environment steps of each run."""
    validate_every: int = 500
    """Environment steps after which a validation runs. The mean returns are the learning curve."""
    seeds: tuple[int, ...] = tuple(range(10))
    """Training seeds of each variant."""
    workers: int = 2
    """Number of processes."""
    cluster: str | None = None
    """The address of a Dask scheduler, as tcp://host:8786: its workers do the work instead. They must see the same
    folders."""

    def __post_init__(self) -> None:
        Workers(self.workers, self.cluster)
        if not self.seeds:
            raise ValueError(f"seeds {self.seeds}: at least one is needed")


def variants() -> dict[str, dict[str, bool]]:
    """The switches of each variant by its name."""
    none, every = dict.fromkeys(SWITCHES, False), dict.fromkeys(SWITCHES, True)
    return {
        "DQN": none,
        **{f"DQN + {_label(name)}": {**none, name: True} for name in SWITCHES},
        "Rainbow": every,
        **{f"Rainbow - {_label(name)}": {**every, name: False} for name in SWITCHES},
    }


def _label(switch: str) -> str:
    return switch.replace("_", "-")


def run_options(options: Options, variant: str, seed: int) -> RainbowOptions:
    """The run of a variant with a seed."""
    base = RainbowOptions(
        out=options.folder / f"{variant.lower().replace(' ', '')}.pt",
        env_id=options.env_id,
        total_timesteps=options.total_timesteps,
        validate_every=options.validate_every,
        **variants()[variant],  # type: ignore[arg-type]
    )
    return of_seed(base, seed)


def finished(run: RainbowOptions) -> dict[str, Any] | None:
    """What a run has left, None if it is still to be trained. ValueError if it was made with other options."""
    path = run.run_folder / "result.json"
    if not path.exists():
        return None
    result: dict[str, Any] = json.loads(path.read_text())
    saved = current_options(RainbowOptions, result["options"])
    then, now = ({n: v for n, v in o.items() if n not in run.free} for o in (saved, options_json(run)))
    if then != now:
        raise ValueError(f"{path}: was made with other options than these; --folder names another place")
    return result


def ablate(options: Options) -> None:
    """Trains what is missing, then writes the figure and the table."""
    from training.rl.gymnasium_task import discrete_task
    from training.rl.side_by_side import side_by_side
    from training.trainers.rainbow import train_one

    discrete_task(options.env_id)
    runs = {(name, seed): run_options(options, name, seed) for seed in options.seeds for name in variants()}
    missing = [run for run in runs.values() if finished(run) is None]
    for _ in side_by_side(train_one, missing, Workers(options.workers, options.cluster), "ablation"):
        pass
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in variants()}
    for (name, _), run in runs.items():
        result = finished(run)
        assert result is not None
        results[name].append(result)
    text = table(results, options.total_timesteps)
    with atomic_write(options.table) as temporary:
        temporary.write_text(text)
    draw(results, options)
    print(text)


def curves(results: Sequence[Mapping[str, Any]], steps: int, every: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps (T,) and the validation returns of all runs at them (runs, T)."""
    grid = np.arange(every, steps + 1, every)
    rows = [np.interp(grid, *np.array(result["curve"], float).T) for result in results]
    return grid, np.array(rows)


def quartiles_to_threshold(results: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """First quartile, median and third (3,) of the steps to 475; infinite where that many runs have not got there.

    Each is one of the runs' own (the nearest above), so that runs without an answer can be counted in.
    """
    steps = [math.inf if result["steps_to_475"] is None else float(result["steps_to_475"]) for result in results]
    return np.quantile(steps, (0.25, 0.5, 0.75), method="higher")


def table(results: Mapping[str, Sequence[Mapping[str, Any]]], budget: int) -> str:
    """Markdown: for each variant how soon and how surely it balances."""

    def show(value: float) -> str:
        return f"{value:,.0f}" if math.isfinite(value) else f"> {budget:,}"

    lines = [
        "| variant | steps to 475: median | quartiles | seeds at 475 | evaluation, mean | 500 in all episodes |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in results.items():
        low, median, high = quartiles_to_threshold(runs)
        reached = sum(run["steps_to_475"] is not None for run in runs)
        evaluations = [run["evaluation"] for run in runs]
        mean = float(np.mean([evaluation["mean_return"] for evaluation in evaluations]))
        perfect = sum(evaluation["min_return"] >= 500 for evaluation in evaluations)
        lines.append(
            f"| {name} | {show(median)} | {show(low)} to {show(high)} | {reached} of {len(runs)} | {mean:.1f}"
            f" | {perfect} of {len(runs)} |"
        )
    return "\n".join(lines) + "\n"


def draw(results: Mapping[str, Sequence[Mapping[str, Any]]], options: Options) -> None:
    """Learning curves of the additions and of the removals, and steps to 475 of all."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(14, 4.4), layout="constrained", width_ratios=(1, 1, 0.9))
    colours = ["black", *(f"C{i}" for i in range(len(SWITCHES)))]
    names = list(results)
    half = len(names) // 2
    for axis, group in ((axes[0], names[:half]), (axes[1], names[half:])):
        for name, colour in zip(group, colours, strict=True):
            grid, rows = curves(results[name], options.total_timesteps, options.validate_every)
            low, median, high = np.quantile(rows, (0.25, 0.5, 0.75), axis=0)
            axis.plot(grid, median, color=colour, label=name, linewidth=2 if name in ("DQN", "Rainbow") else 1.3)
            axis.fill_between(grid, low, high, color=colour, alpha=0.1, linewidth=0)
        axis.set(xlabel="environment steps", ylabel="return of 100 validation episodes", ylim=(0, 515))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    for row, name in enumerate(names):
        low, median, high = np.minimum(quartiles_to_threshold(results[name]), 1.05 * options.total_timesteps)
        colour = colours[row % half]
        axes[2].plot([low, high], [row, row], color=colour, linewidth=3, alpha=0.4)
        axes[2].plot(median, row, "o", color=colour)
    axes[2].axvline(options.total_timesteps, color="grey", linestyle=":")
    axes[2].set_yticks(range(len(names)), names, fontsize=8)
    axes[2].invert_yaxis()
    axes[2].set(xlabel=f"environment steps to {THRESHOLD} (dotted: the end)")
    axes[2].grid(alpha=0.3)
    seeds = len(options.seeds)
    figure.suptitle(f"{options.env_id}: medians and quartiles of {seeds} seeds")
    with atomic_write(options.figure) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    pyplot.close(figure)


def main() -> None:
    command_line.run(Options, ablate, __doc__, "stopped; started again it goes on with the runs that are missing")


if __name__ == "__main__":
    main()
