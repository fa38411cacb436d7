"""Diffuser (Janner et al. 2022, arXiv 2205.09991): a diffusion model of whole trajectories, which plans by sampling.

A trajectory is a row per time step, action and state side by side, (B, H, D). Planning is sampling from
p(tau) h(tau): known states are written back after each denoising step (h a Dirac delta), and guides, sums of weighted
returns, push each estimate of the clean plan along their gradient (h an exponential of the return). Inside, rows are in
[-1, 1] by the limits of the data; what enters and leaves is in the data's units.

Guides act on the estimate of the clean plan, not on the noisy plan as in the paper's algorithm 1. Only a clean position
can be compared with an obstacle, so a few steps suffice.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from diffusion_ros.checkpoint import exported
from training.diffusion.noise_schedule import NoiseSchedule
from training.diffusion.normalizer import LimitsNormalizer
from training.networks.unet1d import ConditionalUnet1d

FREQUENCIES = (1.0, 2.0, 3.0, 4.5, 6.0, 8.0)
"""Of the waves that positions are seen in, in periods over the limits: up to about 1.5 cells of the largest maze."""


class Diffuser(nn.Module):
    """Denoiser, limits, schedule and guides.

    Args:
        limits: of a row (D).
        action_dim: the first so many columns are the action.
        position_dim: the next so many are the position, which the waves and the guides are about.
        waves: whether the noisy positions, and start and goal, are also seen as sines and cosines.
        endpoints: whether the denoiser is told the known start and goal beside their being written back.
        widths: of the U-Net.
    """

    def __init__(
        self,
        limits: LimitsNormalizer,
        action_dim: int,
        position_dim: int,
        schedule: NoiseSchedule,
        widths: tuple[int, ...] = (32, 64, 128, 256),
        waves: bool = True,
        endpoints: bool = True,
        value: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.limits = limits
        self.schedule = schedule
        self.action_dim = action_dim
        self.position_dim = position_dim
        self.row_dim = int(limits.scale.shape[0])
        self.endpoints = endpoints
        frequencies = FREQUENCIES if waves else ()
        self.frequencies = nn.Buffer(math.pi * torch.tensor(frequencies, dtype=torch.float32))
        seen = 2 * position_dim * len(frequencies)
        state = self.row_dim - action_dim
        self.describe: nn.Module = nn.Identity()
        if endpoints:
            self.describe = nn.Sequential(nn.Linear(2 * (2 * state + seen), 128), nn.SiLU(), nn.Linear(128, 64))
        self.denoiser = ConditionalUnet1d(
            self.row_dim + seen, 64 if endpoints else 0, widths, time_dim=64, out_dim=self.row_dim
        )
        self.has_value = value is not None
        self.value = nn.Identity() if value is None else value

    def forward(self, x: Tensor, t: Tensor, known: Tensor, mask: Tensor) -> Tensor:
        """What the network predicts for noisy trajectories x (B, H, D) at t (B,) int64, all in [-1, 1].

        known (B, H, D) holds the values that are given where mask (B, H, D) bool is True.
        """
        x = torch.where(mask, known, x)
        ends = x[:, :0, 0]
        if self.endpoints:
            first, last = self.end(known[:, 0], mask[:, 0]), self.end(known[:, -1], mask[:, -1])
            ends = self.describe(torch.cat([first, last], dim=1))
        seen = torch.cat([x, self.see(x[..., self.action_dim : self.action_dim + self.position_dim])], dim=-1)
        y: Tensor = self.denoiser(seen, t, ends)
        return y

    def see(self, position: Tensor) -> Tensor:
        """Waves (..., 2 P F) of positions (..., P) in [-1, 1]."""
        angles = (position.unsqueeze(-1) * self.frequencies).flatten(-2)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def end(self, row: Tensor, given: Tensor) -> Tensor:
        """What is known of a row (B, D), as (B, E): the state, what of it is given, and its position's waves."""
        state, given = row[:, self.action_dim :], given[:, self.action_dim :].float()
        state = state * given
        waves = self.see(state[:, : self.position_dim]) * given[:, :1]
        return torch.cat([state, given, waves], dim=1)

    @exported
    def noised(self, plan: Tensor, noise: Tensor, t: int) -> Tensor:
        """Trajectories x_t (B, H, D) of plans (B, H, D) in the data's units, to begin sampling at step t."""
        steps = torch.full([plan.shape[0]], t, dtype=torch.int64, device=plan.device)
        return self.schedule.q_sample(self.limits.normalize(plan), noise, steps)

    @exported
    def step(
        self,
        x: Tensor,
        known: Tensor,
        mask: Tensor,
        noise: Tensor,
        t: int,
        previous: int,
        guides: dict[str, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """One step from t to `previous` (-1: the last). Returns x there and the plan that it makes for.

        Args:
            x: (B, H, D) noisy trajectories, in [-1, 1].
            known: (B, H, D) what is given, in the data's units.
            mask: (B, H, D) bool, where it is.
            noise: (B, H, D) standard normal, for an ancestral (DDPM) step; empty (0) for a DDIM step.
            guides: see `guide`; empty for none.

        Returns:
            x at `previous` (B, H, D), and the estimate of the clean plan (B, H, D) in the data's units.
        """
        given = self.limits.normalize(known)
        steps = torch.full([x.shape[0]], t, dtype=torch.int64, device=x.device)
        x = torch.where(mask, given, x)
        x0 = self.schedule.predict_x0(self(x, steps, given, mask), x, steps).clamp(-1.0, 1.0)
        if len(guides) > 0:
            x0 = self.limits.normalize(self.guide(self.limits.unnormalize(x0), mask, guides))
        x0 = torch.where(mask, given, x0)
        output = x0
        if self.schedule.prediction_type == "epsilon":
            alpha_bar = self.schedule.alphas_cumprod[t]
            output = (x - alpha_bar.sqrt() * x0) / (1.0 - alpha_bar).sqrt()
        if noise.numel() > 0:
            x = self.schedule.ddpm_step(output, x, t, previous, noise)
        else:
            x = self.schedule.ddim_step(output, x, t, previous)
        return torch.where(mask, given, x), self.limits.unnormalize(x0)

    def guide(self, plan: Tensor, mask: Tensor, guides: dict[str, Tensor]) -> Tensor:
        """A plan (B, H, D) in the data's units, moved along the gradient of the sum of weighted returns.

        Keys of `guides`, all weights >= 0; whatever the mask holds does not move:

        ============= ====================================================================================
        obstacles     (N, P + 2): centre, radius, weight of each ball that no position should be in [m]
        goal          (P + 1): a position to be near to all the time, and the weight
        smoothness    (1): weight of small second differences of the positions
        value         (1): weight of the learned value function
        iterations    (1): steps along the gradient, 1 where it is missing
        ============= ====================================================================================

        Steps are in the data's units for the first three, which are about metres; along the value function, which
        sees normalised rows, they are in those: a column that hardly varies in the data would be thrown far out.
        """
        iterations = 1
        if "iterations" in guides:
            iterations = int(guides["iterations"].item())
        free = torch.logical_not(mask)
        for _ in range(iterations):
            moved = plan.detach().requires_grad_(True)
            gradient = torch.autograd.grad([self.analytic_return(moved, guides).sum()], [moved])[0]
            if gradient is not None:
                plan = plan + torch.where(free, gradient, torch.zeros_like(gradient))
            if "value" in guides and self.has_value:
                rows = self.limits.normalize(plan).detach().requires_grad_(True)
                gradient = torch.autograd.grad([(guides["value"][0] * self.value(rows)).sum()], [rows])[0]
                if gradient is not None:
                    plan = torch.where(free, self.limits.unnormalize(rows + gradient), plan)
        return plan.detach()

    @exported
    def weighted_return(self, plan: Tensor, guides: dict[str, Tensor]) -> Tensor:
        """The sum (B,) of the weighted returns of plans (B, H, D); see `guide`."""
        total = self.analytic_return(plan, guides)
        if "value" in guides and self.has_value:
            total = total + guides["value"][0] * self.value(self.limits.normalize(plan))
        return total

    def analytic_return(self, plan: Tensor, guides: dict[str, Tensor]) -> Tensor:
        """The part (B,) of it that needs no learning."""
        position = plan[:, :, self.action_dim : self.action_dim + self.position_dim]
        total = 0.0 * position.sum(dim=[1, 2])
        if "obstacles" in guides:
            balls = guides["obstacles"]
            away = position[:, :, None] - balls[:, : self.position_dim]
            depth = torch.relu(balls[:, self.position_dim] - torch.sqrt((away**2).sum(-1) + 1e-12))
            total = total - 0.5 * (balls[:, self.position_dim + 1] * depth**2).sum(dim=[1, 2])
        if "goal" in guides:
            off = position - guides["goal"][: self.position_dim]
            total = total - 0.5 * guides["goal"][self.position_dim] * (off**2).sum(dim=[1, 2])
        if "smoothness" in guides:
            bend = position[:, 2:] - 2 * position[:, 1:-1] + position[:, :-2]
            total = total - 0.5 * guides["smoothness"][0] * (bend**2).sum(dim=[1, 2])
        return total


class DiffuserLoss(nn.Module):
    """The training objective, as a module so that several processes share its gradients."""

    def __init__(self, diffuser: Diffuser, weights: Tensor) -> None:
        """weights (H, D): of each entry of a trajectory."""
        super().__init__()
        self.diffuser = diffuser
        self.weights = nn.Buffer(weights)

    def forward(self, rows: Tensor, mask: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Weighted mean squared error of the prediction, known entries left out (Janner et al. 2022, section 3.1).

        rows (B, H, D) in the data's units, mask (B, H, D) bool, noise (B, H, D), t (B,) int64; returns a scalar.
        """
        diffuser = self.diffuser
        x0 = diffuser.limits.normalize(rows)
        x = diffuser.schedule.q_sample(x0, noise, t)
        error = (diffuser(x, t, x0, mask) - diffuser.schedule.target(x0, noise)) ** 2
        weight = self.weights * torch.logical_not(mask)
        loss: Tensor = (error * weight).sum() / weight.sum()
        return loss


def loss_weights(horizon: int, row_dim: int, action_dim: int, action_weight: float, discount: float) -> Tensor:
    """(H, D): `discount` to the power of the row, and the first row's action `action_weight` times that."""
    weights = (discount ** torch.arange(horizon))[:, None].repeat(1, row_dim)
    weights[0, :action_dim] *= action_weight
    return weights
