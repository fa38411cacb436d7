"""A planner checkpoint behind plan(): known states in, ranked candidate plans out. No ROS.

The checkpoint does one denoising step, and the loop over the steps is here. So a time budget can end the loop with the
best plan so far, and the denoising can be watched.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffusion_ros.models.kind import SAMPLERS, Checkpoint, Kind, check_rows, check_steps
from diffusion_ros.models.timesteps import timesteps
from diffusion_ros.spec import CheckpointSpec, SpecError

if TYPE_CHECKING:
    import torch

Array = NDArray[np.float64]


HAND_STATE = ("position", "rotation", "gripper")
BALL_STATE = ("position", "velocity")
"""What is planned beside the action, of a hand or of a ball in a maze."""


class PlanError(ValueError):
    """There is no plan for this request; one line with the value and the rule."""


@dataclass(frozen=True)
class Plan:
    """A trajectory (H, D), a row every `stride` control steps; a row is an action and a state, position first."""

    rows: Array
    stride: int
    columns: Mapping[str, slice]

    def part(self, name: str) -> Array:
        """The columns (H, n) of 'action', 'position', ..."""
        return self.rows[:, self.columns[name]]

    def dense(self, rate: float) -> tuple[Array, Array]:
        """Positions (T, P) and velocities (T, P) at every control step of `rate` Hz, T = (H - 1) stride + 1.

        Cubic Hermite between rows, from the planned positions and velocities; where a plan has no velocities, from
        central differences of the positions.
        """
        position = self.part("position")
        duration = self.stride / rate
        velocity = self.part("velocity") if "velocity" in self.columns else np.gradient(position, duration, axis=0)
        u = np.arange(self.stride)[None, :, None] / self.stride
        p0, p1 = position[:-1, None], position[1:, None]
        m0, m1 = velocity[:-1, None] * duration, velocity[1:, None] * duration
        curve = (
            (2 * u**3 - 3 * u**2 + 1) * p0
            + (u**3 - 2 * u**2 + u) * m0
            + (3 * u**2 - 2 * u**3) * p1
            + (u**3 - u**2) * m1
        )
        slope = (
            (6 * u**2 - 6 * u) * p0 + (3 * u**2 - 4 * u + 1) * m0 + (6 * u - 6 * u**2) * p1 + (3 * u**2 - 2 * u) * m1
        ) / duration
        width = position.shape[1]
        return (
            np.concatenate([curve.reshape(-1, width), position[-1:]]),
            np.concatenate([slope.reshape(-1, width), velocity[-1:]]),
        )


@dataclass(frozen=True)
class Plans:
    """The result of one call: candidates, the best first."""

    candidates: list[Plan]
    costs: list[float]
    """Of each candidate, by which they are ranked: metres of way, less the weighted returns of the guides."""
    steps: int
    """Denoising steps that were made."""
    seconds: float
    denoising: list[Array] = field(default_factory=list)
    """The estimate of the clean plans after each step, (K, H, D) each, where it was asked for."""

    @property
    def best(self) -> Plan:
        """The candidate of least cost."""
        return self.candidates[0]


def clearance(positions: Array, balls: Array, radius: float) -> Array:
    """Metres (T) between something of `radius` at positions (T, P) and balls (N, 4: centre, radius).

    Negative: contact. Infinite where there are no balls. On the ground (P = 2) the centres' heights do not count.
    """
    away = np.linalg.norm(positions[:, None] - balls[:, : positions.shape[1]], axis=2) - balls[:, 3] - radius
    return np.asarray(away.min(axis=1, initial=np.inf))


def leads_into(clear: Array) -> bool:
    """Whether a way whose clearance (T) is given touches a ball. One that begins in a ball may lead out of it."""
    return float(clear.min()) < min(0.0, float(clear[0]))


def obstacle_guides(balls: Array, position_dim: int, margin: float, weight: float = 1.0) -> dict[str, Array]:
    """Guides that keep positions (P) `margin` metres away from the surfaces of balls (N, 4: centre, radius)."""
    if not len(balls):
        return {}
    weights = np.full((len(balls), 1), weight)
    return {
        "obstacles": np.hstack([balls[:, :position_dim], balls[:, 3:] + margin, weights]),
        "iterations": np.array([10.0]),
    }


class Planner:
    """Plans from a checkpoint of kind 'planner'."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.spec = checkpoint.spec
        self.columns: dict[str, slice] = {}
        start = 0
        for tensor in self.spec.outputs:
            self.columns[tensor.name] = slice(start, start + tensor.shape[0])
            start += tensor.shape[0]
        self.row_dim = start
        self.state = slice(self.columns["action"].stop, start)
        """Where a row's state is: everything but the action."""
        self._step_seconds: float | None = None
        """Of the quickest denoising step so far."""

    def plan(
        self,
        start: Array,
        goal: Array | None = None,
        *,
        way_points: Mapping[int, Array] | None = None,
        guides: Mapping[str, Array] | None = None,
        candidates: int = 1,
        seed: int = 0,
        steps: int | None = None,
        sampler: str | None = None,
        horizon: int | None = None,
        warm: Plan | None = None,
        warm_part: float = 0.25,
        budget: float | None = None,
        watch: bool = False,
    ) -> Plans:
        """Plans from a state to a state; states are (S), position first, NaN where an entry is not given.

        Args:
            start: known at row 0.
            goal: known at the last row; None leaves the end open.
            way_points: row -> state, for rows between the first and the last.
            guides: weighted returns to follow, see training/diffusion/diffuser.py.
            candidates: how many plans to sample.
            seed: of the noise.
            steps: denoising steps, the checkpoint's own by default.
            sampler: 'ddim' or 'ddpm', the checkpoint's own by default.
            horizon: rows, the checkpoint's own by default.
            warm: a plan to start from, noised `warm_part` of the way; all candidates start from it.
            budget: seconds after which no step is begun any more.
            watch: keep the noise, and the estimate after each step.

        Raises PlanError for what does not fit.
        """
        import torch

        began = time.monotonic()
        spec = self.spec
        rows = spec.horizon if horizon is None else horizon
        if (sampler or spec.sampler) not in SAMPLERS:
            raise PlanError(f"sampler {sampler!r}: expected one of {', '.join(SAMPLERS)}")
        known, mask = self.known(rows, start, goal, way_points or {})
        n_steps = spec.sampler_steps if steps is None else steps
        if candidates < 1 or n_steps < 1 or n_steps > spec.num_train_timesteps:
            raise PlanError(
                f"candidates {candidates}, steps {n_steps}: at least 1, and at most {spec.num_train_timesteps} steps"
            )
        if budget is not None and self._step_seconds is not None:
            self._check_budget(budget, self._step_seconds)
        self.check_guides(guides or {})
        device = self.checkpoint.device
        tensors = {
            name: torch.tensor(np.asarray(value), dtype=torch.float32, device=device)
            for name, value in (guides or {}).items()
        }
        generator = torch.Generator().manual_seed(seed)

        def draw() -> torch.Tensor:
            return torch.randn((candidates, rows, self.row_dim), generator=generator).to(device)

        first = spec.num_train_timesteps - 1
        x = draw()
        if warm is not None:
            if warm.rows.shape != (rows, self.row_dim):
                raise PlanError(f"warm start has rows {warm.rows.shape}, expected {(rows, self.row_dim)}")
            first = max(0, min(first, round(warm_part * spec.num_train_timesteps) - 1))
            n_steps = min(n_steps, first + 1)
            plan = torch.tensor(warm.rows, dtype=torch.float32, device=device).expand(candidates, -1, -1)
            x = self.checkpoint.module.noised(plan, x, first)
        ancestral = (sampler or spec.sampler) == "ddpm"
        known_t = torch.tensor(known, dtype=torch.float32, device=device).expand(candidates, -1, -1)
        mask_t = torch.tensor(mask, device=device).expand(candidates, -1, -1)
        # A plan that is noised again begins where it was noised to.
        spacing = "trailing" if warm is not None and spec.timestep_spacing == "leading" else spec.timestep_spacing
        visited = timesteps(spacing, first, n_steps)
        seen: list[Array] = []
        if watch:
            seen.append(self._in_units(x, known_t, mask_t).cpu().numpy().astype(np.float64))
        clean = x
        done = 0
        for t, previous in zip(visited, [*visited[1:], -1], strict=True):
            step_began = time.monotonic()
            noise = draw() if ancestral else torch.empty(0, device=device)
            # Guides need gradients. The network itself is frozen and takes none.
            with torch.inference_mode(not tensors):
                x, clean = self.checkpoint.module.step(x, known_t, mask_t, noise, t, previous, tensors)
            x, clean = x.detach(), clean.detach()
            done += 1
            if watch:
                seen.append(clean.cpu().numpy().astype(np.float64))
            now = time.monotonic()
            took = now - step_began
            if budget is not None and self._step_seconds is None:
                self._check_budget(budget, took)
            self._step_seconds = min(took, self._step_seconds or took)
            if budget is not None and now + took > began + budget:
                break
        plans = clean.cpu().numpy().astype(np.float64)
        if not np.isfinite(plans).all():
            raise PlanError("the planner's plan has NaN or infinite values")
        costs = self._costs(plans)
        if tensors:
            costs = costs - self.checkpoint.module.weighted_return(clean, tensors).detach().cpu().numpy()
        order = np.argsort(costs, kind="stable")
        return Plans(
            [Plan(plans[i], spec.stride, self.columns) for i in order],
            [float(costs[i]) for i in order],
            done,
            time.monotonic() - began,
            [estimate[order] for estimate in seen],
        )

    def _in_units(self, x: torch.Tensor, known: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What the checkpoint begins with, in the data's units: `noised` scales each column linearly."""
        import torch

        nothing = torch.zeros_like(x)
        offset = self.checkpoint.module.noised(nothing, nothing, 0)
        scale = self.checkpoint.module.noised(nothing + 1.0, nothing, 0) - offset
        rows = (x - offset) / torch.where(scale == 0, torch.ones_like(scale), scale)
        return torch.where(mask, known, rows)

    def shifted(self, plan: Plan, progress: int, horizon: int | None = None) -> Plan:
        """The rest of a plan after `progress` rows, its last row repeated: what a warm start begins from."""
        rows = len(plan.rows) if horizon is None else horizon
        index = np.minimum(np.arange(rows) + progress, len(plan.rows) - 1)
        moved = plan.rows[index].copy()
        moved[np.arange(rows) + progress > len(plan.rows) - 1, self.columns["action"]] = 0.0
        return Plan(moved, plan.stride, plan.columns)

    def known(
        self, rows: int, start: Array, goal: Array | None, way_points: Mapping[int, Array]
    ) -> tuple[Array, NDArray[np.bool_]]:
        """What `plan` writes back, (rows, D), and where, (rows, D). Raises PlanError for states that do not fit."""
        if rows < 2:
            raise PlanError(f"horizon {rows}: at least 2 rows expected")
        between = {row: np.asarray(state, dtype=np.float64) for row, state in way_points.items()}
        for row in between:
            if not 0 < row < rows - 1:
                raise PlanError(f"way-point in row {row}: expected 1 to {rows - 2}")
        given = {0: np.asarray(start, dtype=np.float64), **between}
        if goal is not None:
            given[rows - 1] = np.asarray(goal, dtype=np.float64)
        known = np.zeros((rows, self.row_dim))
        mask = np.zeros((rows, self.row_dim), dtype=bool)
        width = self.state.stop - self.state.start
        for row, state in given.items():
            name = {0: "start", rows - 1: "goal"}.get(row, f"way-point {row}")
            if state.shape != (width,):
                raise PlanError(f"{name} has shape {state.shape}, expected ({width},)")
            if np.isinf(state).any() or np.isnan(state[: self.position_dim]).any():
                raise PlanError(f"{name} {state.tolist()}: its position must be finite")
            there = ~np.isnan(state)
            known[row, self.state][there] = state[there]
            mask[row, self.state] = there
        return known, mask

    @property
    def position_dim(self) -> int:
        """Numbers in a position."""
        column = self.columns["position"]
        return int(column.stop - column.start)

    @staticmethod
    def _check_budget(budget: float, step_seconds: float) -> None:
        if budget < step_seconds:
            raise PlanError(
                f"budget {1000 * budget:g} ms: shorter than one denoising step, which took {1000 * step_seconds:.1f} ms"
            )

    def check_guides(self, guides: Mapping[str, Array]) -> None:
        """Raises PlanError for guides that `plan` does not know, of another shape, or not finite."""
        p = self.position_dim
        expected = {"goal": (p + 1,), "smoothness": (1,), "value": (1,), "iterations": (1,)}
        for name, value in guides.items():
            shape = np.shape(value)
            if name == "obstacles":
                if len(shape) != 2 or shape[1] != p + 2:
                    raise PlanError(f"guide obstacles has shape {shape}, expected (N, {p + 2})")
            elif name not in expected:
                raise PlanError(f"unknown guide {name!r}: expected one of obstacles, {', '.join(expected)}")
            elif shape != expected[name]:
                raise PlanError(f"guide {name} has shape {shape}, expected {expected[name]}")
            if name == "value" and not self.spec.training.get("value_iterations"):
                raise PlanError("guide value: this planner was trained without a value function")
            if not np.isfinite(value).all():
                raise PlanError(f"guide {name} has NaN or infinite values")

    def _costs(self, plans: Array) -> Array:
        """Metres of way (K) of plans (K, H, D)."""
        position = plans[:, :, self.columns["position"]]
        lengths: Array = np.linalg.norm(np.diff(position, axis=1), axis=2).sum(axis=1)
        return lengths


def state_names(spec: CheckpointSpec) -> tuple[str, ...]:
    """The columns of a planned row, beside its action."""
    return tuple(tensor.name for tensor in spec.outputs if tensor.name != "action")


def _check(spec: CheckpointSpec) -> None:
    action = next((tensor.shape[0] for tensor in spec.outputs if tensor.name == "action"), 0)
    if not action:
        raise SpecError(f"spec: outputs {', '.join(tensor.name for tensor in spec.outputs)}: an action expected")
    if (state := state_names(spec)) not in (HAND_STATE, BALL_STATE):
        raise SpecError(
            f"spec: outputs action, {', '.join(state) or 'nothing'}: {', '.join(HAND_STATE)} (a hand's) or"
            f" {', '.join(BALL_STATE)} (a ball's) expected beside the action"
        )
    check_rows(spec, action)
    if state == HAND_STATE:
        check_steps(spec)


def _dry_run(checkpoint: Checkpoint) -> str:
    import torch

    spec = checkpoint.spec
    shape = (1, spec.horizon, sum(tensor.shape[0] for tensor in spec.outputs))
    zeros = torch.zeros(shape, device=checkpoint.device)
    with torch.no_grad():
        x = checkpoint.module.noised(zeros, zeros, spec.num_train_timesteps - 1)
        x, plan = checkpoint.module.step(x, zeros, zeros > 0, zeros[:0], spec.num_train_timesteps - 1, -1, {})
    if tuple(plan.shape) != shape:
        return f"gives plans of shape {tuple(plan.shape)}, its specification says {shape}"
    if not bool(plan.isfinite().all()):
        return "gives plans that are NaN or infinite"
    return ""


KIND = Kind("planner", _check, ("noised", "step", "weighted_return"), _dry_run)
"""noised(plan, noise, t) and step(...) denoise, weighted_return(plan, guides) ranks plans; `Planner` calls them."""
