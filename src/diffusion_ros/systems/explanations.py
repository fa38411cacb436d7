"""What a person should know of an outcome that its numbers alone do not tell: a line for each thing, and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_MANY = 0.02
"""Share of the periods from which on it is worth a line."""
_SLOW = 0.9
"""Share of the speed that was asked for, below which it is."""


def explanations(
    results: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    restarted: Mapping[str, int],
    reasons: Mapping[str, int],
) -> list[str]:
    """results: of the episodes; options: of the run; restarted: how often each node was started again; reasons: how
    often each reason for holding was seen."""
    said = []
    steps = sum(int(result.get("steps", 0)) for result in results)
    missed = sum(int(result.get("missed", 0)) for result in results)
    held = sum(int(result.get("held", 0)) for result in results) - missed
    overruns = sum(int(result.get("overruns", 0)) for result in results)
    for name, times in restarted.items():
        often = f"{times} time{'s' * (times != 1)}"
        said.append(f"{name} ended and was started again {often}: {name}.log says why")
    slower = "--mode lockstep or --speed 0.5" if "mode" in options else "--speed 0.5"
    if steps and missed > _MANY * steps:
        why = "" if restarted else f": this machine is too slow, try {slower}"
        said.append(f"{missed} of {steps} periods had no command{why}")
    elif steps and overruns > _MANY * steps:
        said.append(f"{overruns} of {steps} periods began late: this machine is too slow, try {slower}")
    if steps and held > _MANY * steps and reasons:
        reason = max(reasons, key=lambda name: reasons[name])
        said.append(f"the robot held in {held} of {steps} periods, mostly because of: {reason}")
    speed = float(options.get("speed", 1.0))
    reached = [float(result["achieved_speed"]) for result in results if "achieved_speed" in result]
    if speed < 1.0 and reached and min(reached) < _SLOW * speed:
        said.append(
            f"it ran at speed {min(reached):.2g} instead of {speed:g}: this machine is too slow for that, try --speed"
            f" {max(0.05, min(reached) * _SLOW):.2f}"
        )
    return said
