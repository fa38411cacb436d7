"""The noise of a diffusion model: the forward process, and the DDPM and DDIM steps back.

Names: betas is beta_t, alphas_cumprod is abar_t = prod_s<=t (1 - beta_s), x is x_t, epsilon is the noise. DDPM is
Ho et al. 2020 (arXiv 2006.11239), DDIM is Song et al. 2020 (arXiv 2010.02502). The numbers equal those of diffusers
0.42.1, which the tests use as an oracle.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion_ros.models.timesteps import TIMESTEP_SPACINGS, timesteps

BETA_SCHEDULES = ("linear", "quadratic", "sigmoid", "squaredcos_cap_v2")
PREDICTION_TYPES = ("epsilon", "sample")
LOSSES = ("l1", "l2", "huber")
BETA_START, BETA_END = 1e-4, 0.02
"""The first beta and the last, but for the cosine schedule (Ho et al. 2020, section 4)."""
MAX_BETA = 0.999
"""Cap of the cosine schedule, whose last beta would be 1."""


def make_betas(schedule: str, num_train_timesteps: int) -> Tensor:
    """The variances beta_t (num_train_timesteps,) float32 of the noise added at each step.

    Args:
        schedule: "linear" (Ho et al. 2020); "quadratic", linear in the square root; "sigmoid"; or "squaredcos_cap_v2",
            for which abar_t is cos^2((t / T + s) / (1 + s) * pi / 2), s = 0.008 (Nichol and Dhariwal 2021, eq. 17).
        num_train_timesteps: T.

    Raises:
        ValueError: an unknown schedule, or no steps.
    """
    if num_train_timesteps < 1:
        raise ValueError(f"num_train_timesteps is {num_train_timesteps}: it must be at least 1")
    if schedule == "linear":
        return torch.linspace(BETA_START, BETA_END, num_train_timesteps)
    if schedule == "quadratic":
        return torch.linspace(BETA_START**0.5, BETA_END**0.5, num_train_timesteps) ** 2
    if schedule == "sigmoid":
        return torch.sigmoid(torch.linspace(-6, 6, num_train_timesteps)) * (BETA_END - BETA_START) + BETA_START
    if schedule == "squaredcos_cap_v2":
        edges = [i / num_train_timesteps for i in range(num_train_timesteps + 1)]
        alpha_bar = [math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2 for u in edges]
        return torch.tensor([min(1 - after / before, MAX_BETA) for before, after in itertools.pairwise(alpha_bar)])
    raise ValueError(f"beta schedule is {schedule!r}: it must be one of {', '.join(BETA_SCHEDULES)}")


def denoising_loss(output: Tensor, target: Tensor, loss: str) -> Tensor:
    """The mean () error of what the network predicts (B, ...) against its target (B, ...).

    Args:
        loss: "l1"; "l2", the squared error of Ho et al. 2020; or "huber", half the squared error below 1 and the
            absolute error less a half above.

    Raises:
        ValueError: an unknown loss.
    """
    if loss == "l1":
        return F.l1_loss(output, target)
    if loss == "l2":
        return F.mse_loss(output, target)
    if loss == "huber":
        return F.huber_loss(output, target)
    raise ValueError(f"loss is {loss!r}: it must be one of {', '.join(LOSSES)}")


class NoiseSchedule(nn.Module):
    """How much noise each step has, and how to take a step back.

    Sampling starts from standard normal x at the first of `timesteps(n)`; each step goes to the next of them, and the
    last to -1, where abar is 1 and the sample is clean. Predicted clean samples are clipped to [-1, 1], as data are.

    Args:
        num_train_timesteps: steps of the forward process.
        beta_schedule: see `make_betas`.
        prediction_type: what the network predicts, "epsilon" (the noise) or "sample" (the clean sample).
        timestep_spacing: which steps sampling visits, "leading" or "trailing": see
            :func:`diffusion_ros.models.timesteps.timesteps`.
    """

    def __init__(
        self,
        num_train_timesteps: int = 100,
        beta_schedule: str = "squaredcos_cap_v2",
        prediction_type: str = "epsilon",
        timestep_spacing: str = "trailing",
    ) -> None:
        super().__init__()
        if prediction_type not in PREDICTION_TYPES:
            raise ValueError(f"prediction_type is {prediction_type!r}: it must be one of {', '.join(PREDICTION_TYPES)}")
        if timestep_spacing not in TIMESTEP_SPACINGS:
            raise ValueError(
                f"timestep_spacing is {timestep_spacing!r}: it must be one of {', '.join(TIMESTEP_SPACINGS)}"
            )
        betas = make_betas(beta_schedule, num_train_timesteps)
        self.alphas_cumprod = nn.Buffer(torch.cumprod(1.0 - betas, dim=0))
        self.num_train_timesteps = num_train_timesteps
        self.prediction_type = prediction_type
        self.timestep_spacing = timestep_spacing

    def timesteps(self, n: int) -> list[int]:
        """The n steps that sampling visits, in falling order."""
        if n < 1 or n > self.num_train_timesteps:
            raise ValueError(f"sampling steps are {n}: they must be 1 to {self.num_train_timesteps}")
        return timesteps(self.timestep_spacing, self.num_train_timesteps - 1, n)

    def q_sample(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Noise clean samples: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) epsilon (DDPM, equation 4).

        Args:
            x0: clean samples (B, ...).
            noise: standard normal, like x0.
            t: (B,) int64.
        """
        alpha_bar = self._alpha_bar(t, x0)
        return alpha_bar.sqrt() * x0 + (1.0 - alpha_bar).sqrt() * noise

    def target(self, x0: Tensor, noise: Tensor) -> Tensor:
        """What the network is to predict: the noise or the clean sample."""
        return noise if self.prediction_type == "epsilon" else x0

    def predict_x0(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The clean sample (B, ...), not clipped, that the network's output at x (B, ...) and t (B,) int64 implies."""
        return self._x0(output, x, self._alpha_bar(t, x))

    def ddim_step(self, output: Tensor, x: Tensor, t: int, t_previous: int, rederive_epsilon: bool = False) -> Tensor:
        """One deterministic step (DDIM, equation 12 with sigma 0) from t to t_previous, -1 for the last.

        Args:
            output: what the network predicts at x and t, (B, ...).
            x: noisy samples (B, ...).
            t: the step of x.
            t_previous: the step to go to, less than t.
            rederive_epsilon: take the noise from the clipped clean sample. By default, as in diffusers, the noise stays
                the one predicted although the clean sample is clipped.
        """
        alpha_bar, alpha_bar_previous = self._alpha_bars(t, t_previous)
        x0 = self._x0(output, x, alpha_bar).clamp(-1.0, 1.0)
        if rederive_epsilon:
            epsilon = (x - alpha_bar.sqrt() * x0) / (1.0 - alpha_bar).sqrt()
        else:
            epsilon = self._epsilon(output, x, alpha_bar)
        return alpha_bar_previous.sqrt() * x0 + (1.0 - alpha_bar_previous).sqrt() * epsilon

    def posterior(self, output: Tensor, x: Tensor, t: int, t_previous: int) -> tuple[Tensor, Tensor]:
        """Mean (B, ...) and variance () of the step from t to t_previous (DDPM, equations 6 and 7).

        The variance is the smaller of the paper's two, beta tilde; diffusers calls it fixed_small.
        """
        alpha_bar, alpha_bar_previous = self._alpha_bars(t, t_previous)
        x0 = self._x0(output, x, alpha_bar).clamp(-1.0, 1.0)
        alpha = alpha_bar / alpha_bar_previous
        weight_x0 = alpha_bar_previous.sqrt() * (1.0 - alpha) / (1.0 - alpha_bar)
        weight_x = alpha.sqrt() * (1.0 - alpha_bar_previous) / (1.0 - alpha_bar)
        variance = (1.0 - alpha_bar_previous) / (1.0 - alpha_bar) * (1.0 - alpha)
        return weight_x0 * x0 + weight_x * x, variance

    def ddpm_step(self, output: Tensor, x: Tensor, t: int, t_previous: int, noise: Tensor) -> Tensor:
        """One ancestral step (DDPM, algorithm 2) from t to t_previous, -1 for the last, which adds no noise.

        Args:
            output: what the network predicts at x and t, (B, ...).
            x: noisy samples (B, ...).
            t: the step of x.
            t_previous: the step to go to, less than t.
            noise: standard normal, like x.
        """
        mean, variance = self.posterior(output, x, t, t_previous)
        if t_previous < 0:
            return mean
        return mean + variance.clamp(min=1e-20).sqrt() * noise

    def _alpha_bar(self, t: Tensor, like: Tensor) -> Tensor:
        """abar at t (B,), shaped (B, 1, ...) to go with `like`."""
        return self.alphas_cumprod[t].reshape([t.shape[0]] + [1] * (like.dim() - 1))

    def _alpha_bars(self, t: int, t_previous: int) -> tuple[Tensor, Tensor]:
        """abar at t and at t_previous, each of shape (); 1 before the first step."""
        alpha_bar = self.alphas_cumprod[t]
        return alpha_bar, self.alphas_cumprod[t_previous] if t_previous >= 0 else torch.ones_like(alpha_bar)

    def _x0(self, output: Tensor, x: Tensor, alpha_bar: Tensor) -> Tensor:
        if self.prediction_type == "sample":
            return output
        return (x - (1.0 - alpha_bar).sqrt() * output) / alpha_bar.sqrt()

    def _epsilon(self, output: Tensor, x: Tensor, alpha_bar: Tensor) -> Tensor:
        if self.prediction_type == "epsilon":
            return output
        return (x - alpha_bar.sqrt() * output) / (1.0 - alpha_bar).sqrt()
