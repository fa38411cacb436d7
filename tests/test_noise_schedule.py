"""The noise schedule against diffusers' schedulers and against closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler as _DDIMScheduler
from diffusers import DDPMScheduler as _DDPMScheduler
from torch import Tensor, nn

from diffusion_ros.checkpoint import script
from training.diffusion.noise_schedule import BETA_SCHEDULES, LOSSES, NoiseSchedule, denoising_loss, make_betas

# diffusers has no types.
DDIMScheduler: Any = _DDIMScheduler
DDPMScheduler: Any = _DDPMScheduler

DIFFUSERS_NAME = {"quadratic": "scaled_linear"}
SHAPE = (3, 10, 7)


def arguments(schedule: str, prediction: str) -> dict[str, Any]:
    """The arguments that make a diffusers scheduler ours."""
    return {
        "num_train_timesteps": 100,
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "beta_schedule": DIFFUSERS_NAME.get(schedule, schedule),
        "prediction_type": prediction,
        "clip_sample": True,
        "clip_sample_range": 1.0,
    }


def network(x: Tensor, t: int) -> Tensor:
    """Stands for a denoiser: any function of x and t will do. Large enough that the clipping matters."""
    return torch.tanh(1.7 * x.roll(1, dims=1) + 0.01 * t) * 1.5


def noises(n: int) -> Tensor:
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("schedule", BETA_SCHEDULES)
@pytest.mark.parametrize("n", [50, 100, 1000])
def test_betas_equal_diffusers(schedule: str, n: int) -> None:
    oracle = DDPMScheduler(**{**arguments(schedule, "epsilon"), "num_train_timesteps": n})
    assert torch.equal(make_betas(schedule, n), oracle.betas)
    assert torch.equal(NoiseSchedule(n, schedule).alphas_cumprod, oracle.alphas_cumprod)


def test_cosine_schedule_closed_form() -> None:
    alphas_cumprod = NoiseSchedule(100, "squaredcos_cap_v2").alphas_cumprod
    start = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    for t in (0, 13, 50, 98):  # the last beta is capped
        expected = math.cos(((t + 1) / 100 + 0.008) / 1.008 * math.pi / 2) ** 2 / start
        assert float(alphas_cumprod[t]) == pytest.approx(expected, rel=1e-4)
    assert float(make_betas("squaredcos_cap_v2", 100)[-1]) == pytest.approx(0.999)


def test_q_sample_equals_diffusers() -> None:
    x0, noise = noises(2)
    t = torch.tensor([0, 42, 99])
    schedule = NoiseSchedule()
    x = schedule.q_sample(x0, noise, t)
    assert torch.equal(x, DDPMScheduler(**arguments("squaredcos_cap_v2", "epsilon")).add_noise(x0, noise, t))
    assert schedule.target(x0, noise) is noise
    assert NoiseSchedule(prediction_type="sample").target(x0, noise) is x0


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_conversions_recover_what_was_mixed(prediction: str) -> None:
    x0, noise = noises(2)
    t = torch.tensor([0, 42, 90])
    schedule = NoiseSchedule(prediction_type=prediction)
    x = schedule.q_sample(x0, noise, t)
    output = schedule.target(x0, noise)
    torch.testing.assert_close(schedule.predict_x0(output, x, t), x0, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 7, 10, 33, 100])
def test_timesteps_equal_diffusers(n: int) -> None:
    oracle = DDIMScheduler(**arguments("linear", "epsilon"))
    oracle.set_timesteps(n)
    assert NoiseSchedule(timestep_spacing="leading").timesteps(n) == oracle.timesteps.tolist()


@pytest.mark.parametrize("rederive", [False, True])
@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
@pytest.mark.parametrize("name", BETA_SCHEDULES[:1] + BETA_SCHEDULES[3:])
@pytest.mark.parametrize("n", [10, 33, 100])
def test_ddim_equals_diffusers(name: str, prediction: str, n: int, rederive: bool) -> None:
    oracle = DDIMScheduler(**arguments(name, prediction), set_alpha_to_one=True)
    oracle.set_timesteps(n)
    schedule = NoiseSchedule(100, name, prediction, "leading")
    steps = schedule.timesteps(n)
    ours = theirs = noises(1)[0]
    for t, t_previous in zip(steps, [*steps[1:], -1], strict=True):
        ours = schedule.ddim_step(network(ours, t), ours, t, t_previous, rederive)
        theirs = oracle.step(network(theirs, t), t, theirs, use_clipped_model_output=rederive).prev_sample
        assert torch.equal(ours, theirs), t


@pytest.mark.parametrize("n", [1, 2, 10, 25, 50, 300])
def test_trailing_timesteps_equal_diffusers(n: int) -> None:
    oracle = DDIMScheduler(num_train_timesteps=300, timestep_spacing="trailing")
    oracle.set_timesteps(n)
    assert NoiseSchedule(300, "linear", timestep_spacing="trailing").timesteps(n) == oracle.timesteps.tolist()


@pytest.mark.parametrize(
    ("t", "n", "expected"), [(64, 1, [63]), (64, 2, [63, 8]), (64, 3, [63, 19, 2]), (100, 4, [99, 42, 12, 2])]
)
def test_cubic_timesteps(t: int, n: int, expected: list[int]) -> None:
    assert NoiseSchedule(t, timestep_spacing="cubic").timesteps(n) == expected


@pytest.mark.parametrize("t", [1, 20, 64, 300])
def test_cubic_timesteps_fall_and_fit(t: int) -> None:
    schedule = NoiseSchedule(t, timestep_spacing="cubic")
    for n in range(1, t + 1):
        steps = schedule.timesteps(n)
        assert steps[0] == t - 1 and steps[-1] >= 0 and steps == sorted(set(steps), reverse=True), n


@pytest.mark.parametrize("name", ["linear", "quadratic", "squaredcos_cap_v2"])  # its DDIM has no sigmoid
@pytest.mark.parametrize("n", [10, 25, 50])
def test_trailing_ddim_of_300_steps_equals_diffusers(name: str, n: int) -> None:
    settings = {**arguments(name, "epsilon"), "num_train_timesteps": 300, "timestep_spacing": "trailing"}
    oracle = DDIMScheduler(**settings, set_alpha_to_one=True)
    oracle.set_timesteps(n)
    schedule = NoiseSchedule(300, name, timestep_spacing="trailing")
    steps = schedule.timesteps(n)
    ours = theirs = noises(1)[0]
    for t, t_previous in zip(steps, [*steps[1:], -1], strict=True):
        ours = schedule.ddim_step(network(ours, t), ours, t, t_previous, True)
        theirs = oracle.step(network(theirs, t), t, theirs, use_clipped_model_output=True).prev_sample
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", BETA_SCHEDULES)
def test_forward_process_is_its_steps_one_after_the_other(name: str) -> None:
    """x_t = sqrt(1 - beta_t) x_(t-1) + sqrt(beta_t) epsilon, t times, has the mean and variance of equation 4."""
    mean, variance = 1.0, 0.0
    schedule = NoiseSchedule(300, name)
    for t, beta in enumerate(make_betas(name, 300).double().tolist()):
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        if t in (0, 100, 200, 299):
            one, step = torch.ones(1, 1), torch.tensor([t])
            assert float(schedule.q_sample(one, torch.zeros(1, 1), step)) == pytest.approx(mean, abs=1e-4)
            assert float(schedule.q_sample(0 * one, one, step)) == pytest.approx(math.sqrt(variance), abs=1e-4)


@pytest.mark.parametrize(("t", "t_previous"), [(299, 298), (299, 200), (150, 149), (1, 0)])
def test_posterior_is_the_product_of_its_two_gaussians(t: int, t_previous: int) -> None:
    """q(x_s | x_t, x_0) by Bayes: x_s given x_0, times x_t given x_s."""
    schedule = NoiseSchedule(300, "linear", "sample")
    now, before = (float(schedule.alphas_cumprod.double()[i]) for i in (t, t_previous))
    x0, x = 0.4, -0.9
    alpha = now / before
    precision = 1 / (1 - before) + alpha / (1 - alpha)
    mean = (math.sqrt(before) * x0 / (1 - before) + math.sqrt(alpha) * x / (1 - alpha)) / precision
    ours, variance = schedule.posterior(torch.full((1, 1), x0), torch.full((1, 1), x), t, t_previous)
    assert float(ours) == pytest.approx(mean, rel=2e-3)
    assert float(variance) == pytest.approx(1 / precision, rel=2e-3)


def test_losses_closed_form() -> None:
    output, target = torch.tensor([0.5, -2.0]), torch.zeros(2)
    expected = {"l1": 1.25, "l2": (0.25 + 4) / 2, "huber": (0.125 + 1.5) / 2}
    assert set(expected) == set(LOSSES)
    for name, value in expected.items():
        assert float(denoising_loss(output, target, name)) == pytest.approx(value)
    with pytest.raises(ValueError, match="'l3'"):
        denoising_loss(output, target, "l3")


def test_rederived_noise_differs_when_clipped() -> None:
    schedule = NoiseSchedule()
    x = noises(1)[0]
    kept, rederived = (schedule.ddim_step(network(x, 50), x, 50, 40, flag) for flag in (False, True))
    assert not torch.allclose(kept, rederived, atol=1e-2)


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
@pytest.mark.parametrize("n", [10, 100])
def test_ddpm_equals_diffusers(prediction: str, n: int) -> None:
    oracle = DDPMScheduler(**arguments("squaredcos_cap_v2", prediction), variance_type="fixed_small")
    oracle.set_timesteps(n)
    schedule = NoiseSchedule(prediction_type=prediction, timestep_spacing="leading")
    steps = schedule.timesteps(n)
    ours = theirs = noises(1)[0]
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    for t, t_previous in zip(steps, [*steps[1:], -1], strict=True):
        noise = torch.randn(SHAPE, generator=generators[0]) if t > 0 else torch.full(SHAPE, torch.nan)
        ours = schedule.ddpm_step(network(ours, t), ours, t, t_previous, noise)
        theirs = oracle.step(network(theirs, t), t, theirs, generator=generators[1]).prev_sample
        assert torch.equal(ours, theirs), t


def test_clean_samples_are_clipped() -> None:
    x = noises(1)[0]
    last = NoiseSchedule(prediction_type="sample").ddim_step(3.0 * x, x, 0, -1)
    assert torch.equal(last, (3.0 * x).clamp(-1.0, 1.0))


class Sampler(nn.Module):
    """A sampling loop as a policy has it."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.schedule = schedule

    def forward(self, x: Tensor, noise: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        y = x
        timesteps = self.schedule.timesteps(steps)
        for i in range(steps):
            t, t_previous = timesteps[i], timesteps[i + 1] if i + 1 < steps else -1
            x = self.schedule.ddim_step(torch.tanh(x), x, t, t_previous)
            y = self.schedule.ddpm_step(torch.tanh(y), y, t, t_previous, noise)
        return x, self.schedule.q_sample(y, noise, torch.full((x.shape[0],), 3))


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_eager_equals_script(prediction: str) -> None:
    sampler = Sampler(NoiseSchedule(prediction_type=prediction))
    scripted = script(sampler)
    x, noise = noises(2)
    for eager, jit in zip(sampler(x, noise, 10), scripted(x, noise, 10), strict=True):
        assert torch.equal(eager, jit)


def test_perfect_denoiser_returns_the_data() -> None:
    """With the exact posterior mean of a one-point data set, both samplers end at the point."""
    point = torch.tensor([0.3, -0.7])
    schedule = NoiseSchedule(prediction_type="sample")
    x = y = noises(1)[0].flatten()[:2]
    steps = schedule.timesteps(100)
    for t, t_previous in zip(steps, [*steps[1:], -1], strict=True):
        x = schedule.ddim_step(point, x, t, t_previous)
        y = schedule.ddpm_step(point, y, t, t_previous, torch.ones(2))
    torch.testing.assert_close(x, point)
    torch.testing.assert_close(y, point)


@pytest.mark.parametrize(
    ("keywords", "value"),
    [
        ({"beta_schedule": "cosine"}, "'cosine'"),
        ({"prediction_type": "v"}, "'v'"),
        ({"timestep_spacing": "linspace"}, "'linspace'"),
        ({"num_train_timesteps": 0}, "0"),
    ],
)
def test_bad_configuration_names_the_value(keywords: dict[str, Any], value: str) -> None:
    with pytest.raises(ValueError, match=value):
        NoiseSchedule(**keywords)


@pytest.mark.parametrize("n", [0, 101])
def test_impossible_number_of_steps(n: int) -> None:
    for spacing in ("leading", "trailing"):
        with pytest.raises(ValueError, match=str(n)):
            NoiseSchedule(timestep_spacing=spacing).timesteps(n)
