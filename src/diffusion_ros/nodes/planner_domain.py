"""What a planner's node and what it plans for know of each other.

Whence the state comes, what may be asked for and who follows a plan is a `Domain`'s: a ball in a maze, an arm's hand.
All the rest is the node's, of which a domain knows no more than a `PlannerHost`.
"""

from __future__ import annotations

from typing import Protocol

from geometry_msgs.msg import PoseStamped

from diffusion_ros.models.planner import Array, Plan, Planner
from diffusion_ros.ros.diagnostics import Diagnostics

IN_THE_WAY = "an obstacle has come in the way of the plan"


class DomainParameters(Protocol):
    """Those of the node's parameters that a domain reads."""

    @property
    def max_state_age(self) -> float:
        """Seconds of silence after which a robot is taken to be somewhere else."""

    @property
    def frame_prefix(self) -> str:
        """Before the names of frames."""

    @property
    def gripper_joints(self) -> tuple[str, ...]:
        """The fingers' names in joint_states."""


class PlannerHost(Protocol):
    """What a domain is given of the node that plans, and tells it."""

    @property
    def parameters(self) -> DomainParameters: ...

    @property
    def planner(self) -> Planner: ...

    @property
    def diagnostics(self) -> Diagnostics: ...

    @property
    def obstacles(self) -> Array:
        """Centres and radii (N, 4) m."""

    def forget(self) -> None:
        """The goal was for a robot that is somewhere else now."""

    def interrupt(self, reason: str) -> None:
        """Stops the robot on its way; `resume` goes on to the goal that it was under way to."""

    def resume(self) -> None:
        """Plans anew from where the robot is, once what has interrupted it is over."""

    def refuse(self, reason: str) -> None:
        """Says why something was not done; the last valid plan stays."""


class Domain(Protocol):
    """All run on the node's thread, `state`, `unready` and `unfit` on the worker's too."""

    frame: str
    state_topic: str
    """As it is called after remapping."""
    radius: float
    """Metres of what moves, about its position."""
    stray: float
    """Metres that it may be off its way: plans keep as far from obstacles."""
    line_width: float
    """Metres, of plans in RViz."""

    def missing(self) -> str:
        """What has not come yet and must, '' when all is there."""

    def state(self) -> tuple[int, Array, float] | None:
        """Stamp [ns], state (S) and when it came, of the newest; None before the first."""

    def state_at(self, pose: PoseStamped, name: str) -> Array:
        """State (S) of something at rest in a pose. Raises PlanError for where nothing can be."""

    def unready(self, state: Array) -> str:
        """Why no plan can begin in this state (S) of the robot, '' where one can."""

    def unfit(self, positions: Array) -> str:
        """Why positions (T, P) cannot be gone through, obstacles apart; '' where they can."""

    def heed(self) -> None:
        """The obstacles are others now: stops a robot that one has come in the way of."""

    def halt(self) -> bool:
        """Stops the robot where it is; whether it was following a plan."""

    def conflict(self) -> str:
        """'' or who else publishes what the state is made from."""

    def follow(self, plan: Plan, stamp_ns: int) -> None:
        """Passes a new plan on to who drives."""
