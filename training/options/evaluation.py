"""What an evaluation is told beside what all of them share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class PlannerOptions:
    """How a planner is evaluated."""

    follow: Literal["pursuit", "time", "actions"] = "pursuit"
    """pursuit: a way-point controller pursues the plan's path; time: it keeps to the plan's points in time; actions:
    the plan's own actions are executed."""
    goals: Literal["single", "multi"] = "single"
    """single: the goal is always the maze's goal cell, as in D4RL; multi: it is anywhere."""
    replan: int = 0
    """Control steps between two plans; 0: the planner plans once."""
    warm: bool = True
    """Start each new plan from the plan before."""
    value: float = 0.0
    """Weight of the planner's learned value function."""
