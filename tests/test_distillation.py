"""A student of one step: what it is taught, judged by teachers whose samples are known."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.diffusion.distillation import SMOOTH, DistillationLoss, ddim_samples, go_on_as
from training.diffusion.noise_schedule import NoiseSchedule
from training.diffusion.normalizer import LimitsNormalizer
from training.diffusion.policy import DiffusionPolicy, ObservationEncoder, make_denoiser

ROWS, WIDTH, FEATURES = 5, 2, 3
WAY = torch.linspace(0.2, 0.8, ROWS * WIDTH).reshape(ROWS, WIDTH)
"""One of two ways, normalised; the other is -WAY."""


def make_policy(
    conditioning: str = "observation",
    prediction: str = "sample",
    spacing: str = "trailing",
    sampler: str = "ddim",
    rows: int = ROWS,
    denoiser: nn.Module | None = None,
    max_delay: int = 0,
) -> DiffusionPolicy:
    torch.manual_seed(0)
    unit = LimitsNormalizer(-np.ones(FEATURES), np.ones(FEATURES))
    pose = LimitsNormalizer(-np.ones(12), np.ones(12))
    encoder = ObservationEncoder((), False, unit, pose, numbers={"felt": FEATURES})
    inpainting = conditioning == "inpainting"
    if denoiser is None:
        width = WIDTH + (FEATURES if inpainting else 0)
        seen = width + (1 if max_delay else 0)
        frames = 0 if inpainting else 2
        denoiser = make_denoiser("unet", seen, rows, frames, FEATURES, widths=(8, 16), out_dim=width)
    schedule = NoiseSchedule(100, "squaredcos_cap_v2", prediction, spacing)
    limits = LimitsNormalizer(-np.full(WIDTH, 0.1), np.full(WIDTH, 0.1))
    policy = DiffusionPolicy(encoder, denoiser, schedule, limits, 2, rows, conditioning, False, sampler, max_delay)
    return policy.eval()


class TwoWays(nn.Module):
    """The best denoiser for data that are WAY or -WAY, each half of the time: their mean, given x."""

    def __init__(self) -> None:
        super().__init__()
        self.alphas_cumprod = nn.Buffer(NoiseSchedule().alphas_cumprod)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        alpha_bar = self.alphas_cumprod[t][:, None, None]
        along = (x * WAY).sum(dim=(1, 2), keepdim=True)
        return torch.tanh(alpha_bar.sqrt() * along / (1 - alpha_bar)) * WAY


class OneOf(nn.Module):
    """The map that the teacher's DDIM steps are: the way that noise points to."""

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return torch.sign((x * WAY).sum(dim=(1, 2), keepdim=True)) * WAY


class Always(nn.Module):
    """The same answer to all noise, which can be trained."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = nn.Parameter(answer.clone())

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        assert (t == 99).all()
        return self.answer.expand(x.shape)


def draws(width: int = WIDTH, n: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn((n, 2, FEATURES), generator=generator), torch.randn((2, n, ROWS, width), generator=generator)


def test_one_step_of_the_teacher_is_the_mean_and_one_of_the_right_student_a_way() -> None:
    features, _ = draws()
    teacher, student = make_policy(denoiser=TwoWays()), make_policy(denoiser=OneOf())
    limit = 0.1 * WAY[1:]
    assert teacher.sample(features, 5, 1).abs().max() < 0.01 * limit.max()
    many, one = teacher.sample(features, 5, 100), student.sample(features, 5, 1)
    torch.testing.assert_close(many.abs(), limit.expand_as(many), rtol=0.02, atol=0)
    torch.testing.assert_close(one, many, rtol=0.02, atol=0)
    left = float((one[:, 0, 0] > 0).float().mean())
    assert 0.3 < left < 0.7


def test_loss_is_zero_for_the_teachers_map_and_the_distance_for_its_mean() -> None:
    features, noise = draws()
    teacher = make_policy(denoiser=TwoWays())
    assert DistillationLoss(make_policy(denoiser=OneOf()), teacher, 100)(features, noise) < 1e-3
    mean = DistillationLoss(make_policy(denoiser=Always(torch.zeros(ROWS, WIDTH))), teacher, 100)(features, noise)
    distance = float((WAY**2).mean().sqrt())
    assert mean.item() == pytest.approx((distance**2 + SMOOTH**2) ** 0.5 - SMOOTH, rel=0.01)


def test_who_cannot_tell_the_ways_apart_learns_the_more_frequent_and_not_their_mean() -> None:
    features, noise = draws()
    along = (noise[0] * WAY).sum(dim=(1, 2))
    left, right = noise[0][along > 0], noise[0][along < 0]
    noise = torch.cat([left[:18], right[:12]])[None]
    always = Always(torch.zeros(ROWS, WIDTH))
    loss = DistillationLoss(make_policy(denoiser=always), make_policy(denoiser=TwoWays()), 20)
    optimizer = torch.optim.Adam(always.parameters(), 0.02)
    for _ in range(200):
        optimizer.zero_grad()
        loss(features[:30], noise).backward()
        optimizer.step()
    torch.testing.assert_close(always.answer.detach(), WAY, rtol=0, atol=0.05)  # the mean is 0.2 WAY


@pytest.mark.parametrize("prediction", ["sample", "epsilon"])
@pytest.mark.parametrize("conditioning", ["observation", "inpainting"])
def test_the_teachers_samples_are_the_samplers(conditioning: str, prediction: str) -> None:
    policy = make_policy(conditioning, prediction)
    features, _ = draws()
    noise = torch.randn((64, ROWS, policy.width), generator=torch.Generator().manual_seed(7))
    rows = ddim_samples(policy, features, noise, 6)
    assert rows.shape == noise.shape
    with torch.no_grad():
        sampled = policy.sample(features, 7, 6)
    assert torch.equal(policy.action_limits.unnormalize(rows[:, 1:, :WIDTH]), sampled)


@pytest.mark.parametrize("conditioning", ["observation", "inpainting"])
def test_the_teachers_samples_go_on_from_rows_as_the_samplers_do(conditioning: str) -> None:
    policy = make_policy(conditioning, max_delay=2)
    features, _ = draws()
    executed = 0.1 * torch.randn((64, ROWS, WIDTH), generator=torch.Generator().manual_seed(8))
    known = torch.arange(64) % 4  # the row of the older frame and at most two more
    noise = torch.randn((64, ROWS, policy.width), generator=torch.Generator().manual_seed(7))
    rows = ddim_samples(policy, features, noise, 6, executed, known)
    with torch.no_grad():
        sampled = policy.sample_after(features, executed, (torch.arange(ROWS) < known[:, None]).float(), 7, 6)
        alone = policy.sample(features, 7, 6)
    made = policy.action_limits.unnormalize(rows[..., :WIDTH])
    assert torch.equal(made[:, 1:], sampled)
    assert not torch.allclose(made[3, 1:], alone[3])
    torch.testing.assert_close(made[3, :3], executed[3, :3])


def test_rows_that_are_known_do_not_count_and_student_and_teacher_go_on_from_the_same() -> None:
    teacher = make_policy(max_delay=2)
    features, noise = draws(n=8)
    executed = 0.05 * torch.ones(8, ROWS, WIDTH)
    known = torch.full((8,), 3)
    target = torch.cat([ddim_samples(teacher, features, part, 4, executed, known) for part in noise])
    wrong = target.clone()
    wrong[:, :3] += 1.0
    seen: list[Tensor] = []

    class Answer(nn.Module):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            seen.append(x)
            return wrong

    loss = DistillationLoss(make_policy(denoiser=Answer(), max_delay=2), teacher, 4)
    assert loss(features, noise, executed, known) == 0
    (x,) = seen
    torch.testing.assert_close(x[:, :3, :WIDTH], torch.full((16, 3, WIDTH), 0.5))  # of 0.1
    assert torch.equal(x[..., WIDTH], (torch.arange(ROWS) < 3).float().expand(16, -1))
    wrong[:, 3] += 1.0
    assert loss(features, noise, executed, known) > 0.1
    assert loss(features, noise) > 0.1


def test_inpainted_observations_do_not_count() -> None:
    teacher = make_policy("inpainting")
    features, noise = draws(teacher.width, 8)
    target = ddim_samples(teacher, features, noise[0], 4)
    wrong = target.clone()
    wrong[:, :2, WIDTH:] += 1.0

    class Answer(nn.Module):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            return wrong

    loss = DistillationLoss(make_policy("inpainting", denoiser=Answer()), teacher, 4)
    assert loss(features, noise[:1]) == 0
    wrong[:, 2, WIDTH:] += 1.0
    assert loss(features, noise[:1]) > 0.1


def test_only_the_student_is_trained() -> None:
    teacher = make_policy()
    student = copy.deepcopy(teacher)
    before = copy.deepcopy(teacher.state_dict())
    loss = DistillationLoss(student, teacher, 3)
    features, noise = draws()
    features.requires_grad_(True)
    assert {id(p) for p in loss.parameters()} == {id(p) for p in student.parameters()}
    optimizer = torch.optim.SGD(student.denoiser.parameters(), 0.01)
    first = loss(features, noise)
    first.backward()
    optimizer.step()
    assert loss(features, noise) < first
    assert features.grad is None and all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_a_student_goes_on_only_where_it_sees_and_scales_as_its_teacher() -> None:
    student, before = make_policy(), make_policy()
    with torch.no_grad():
        for parameter in before.denoiser.parameters():
            parameter += 1.0
    go_on_as(student, before, Path("before.pt"))
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in student.state_dict().items())
    before.action_limits.scale *= 2.0
    for other in (before, make_policy(rows=7, max_delay=2)):
        with pytest.raises(ValueError, match=r"start_from: other\.pt is no student of this teacher"):
            go_on_as(student, other, Path("other.pt"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prediction": "epsilon"}, "prediction_type is 'epsilon': a student's must be 'sample'"),
        ({"sampler": "ddpm"}, "sampler is 'ddpm': a student's must be 'ddim'"),
        ({"spacing": "leading"}, "timestep_spacing is 'leading': a student's must be 'trailing'"),
        ({"rows": 6}, r"is \(2, 6, 2, 0\): a student's must be the teacher's, \(2, 5, 2, 0\)"),
        ({"max_delay": 2}, r"is \(2, 5, 2, 2\): a student's must be the teacher's, \(2, 5, 2, 0\)"),
    ],
)
def test_a_student_whose_step_would_be_another_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DistillationLoss(make_policy(**change), make_policy(), 4)


def test_steps_that_the_teacher_has_not_are_refused() -> None:
    with pytest.raises(ValueError, match="sampling steps are 101: they must be 1 to 100"):
        DistillationLoss(make_policy(), make_policy(), 101)
