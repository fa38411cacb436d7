"""A policy of one step that keeps the ways of a policy of many steps.

At T - 1 there is noise alone, so one step of a diffusion policy is the mean of what was demonstrated. Where there are
two ways, the mean is neither. All steps of DDIM (Song et al. 2020, arXiv 2010.02502, equation 12 with sigma 0) are a
map from noise to samples without any further chance: each noise belongs to one way. The student learns this map from
pairs of noise and sample (Luhman and Luhman 2021, arXiv 2101.02388). So its one step has the teacher's ways, each as
often as the teacher.
"""

from __future__ import annotations

from pathlib import Path

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from training.diffusion.diffuser import Diffuser
from training.diffusion.noise_schedule import NoiseSchedule
from training.diffusion.policy import DiffusionPolicy, first_rows

SMOOTH = 0.03
"""Of normalised rows: a chunk whose root mean square error is less counts by its square."""


class DistillationLoss(nn.Module):
    """What `PolicyLoss` is for a policy that learns from data, for one that learns from a teacher.

    Args:
        student: predicts the clean sample, and the first step that it visits is T - 1 (trailing). It begins best with
            the teacher's weights. What is trained is one DDIM step, so that the sampler needs nothing new.
        teacher: a trained policy with chunks and features like the student's. It stays as it is.
        steps: DDIM steps of the teacher, by its own schedule.

    Raises:
        ValueError: a student whose one step would not be what is trained here.
    """

    def __init__(self, student: DiffusionPolicy, teacher: DiffusionPolicy, steps: int) -> None:
        super().__init__()
        if student.sampler != "ddim":
            raise ValueError(f"sampler is {student.sampler!r}: a student's must be 'ddim'")
        self.first = _only_step(student.schedule)
        mine, theirs = ((p.n_obs_steps, p.rows, p.width, p.max_delay) for p in (student, teacher))
        if mine != theirs:
            of = "(n_obs_steps, rows, width, max_delay)"
            raise ValueError(f"{of} is {mine}: a student's must be the teacher's, {theirs}")
        teacher.schedule.timesteps(steps)  # ValueError for steps that it has not
        self.student = student
        self.steps = steps
        self._teacher = [teacher.requires_grad_(False).eval()]  # in a list: no submodule, it is not trained

    def forward(
        self, features: Tensor, noise: Tensor, executed: Tensor | None = None, known: Tensor | None = None
    ) -> Tensor:
        """Distance between the student's one step and the teacher's samples from the same noise; a scalar.

        features (B, n_obs_steps, F), which are not trained; noise (D, B, rows, width) standard normal, D draws for each
        sample as in `PolicyLoss`. Both go on from the first known (B) of the rows that were executed (B, rows, A), in
        metres and radians, if any. Inpainted observations and known rows do not count.

        The distance of whole chunks is a pseudo-Huber one (Song and Dhariwal 2023, arXiv 2310.14189). The squared error
        would again make the mean of both ways wherever the network cannot tell which of them a noise belongs to. The
        distance itself makes the median, which is one of them.
        """
        student = self.student
        features = repeat(features.detach(), "b t f -> (draws b) t f", draws=len(noise))
        noise = rearrange(noise, "draws b rows f -> (draws b) rows f")
        if executed is not None and known is not None:
            executed = repeat(executed, "b rows f -> (draws b) rows f", draws=len(features) // len(executed))
            known = repeat(known, "b -> (draws b)", draws=len(features) // len(known))
        target = ddim_samples(self._teacher[0], features, noise, self.steps, executed, known)
        given, mask = _given(student, features, noise, executed, known)
        cond = features[:, :0] if student.inpainting else features
        t = torch.full([len(noise)], self.first, dtype=torch.int64, device=noise.device)
        output = student.predict(torch.where(mask, given, noise), t, cond, mask)
        return _distance(torch.where(mask, given, output), target)


class PlanDistillationLoss(nn.Module):
    """The same of planners; what `DiffuserLoss` is for one that learns from data.

    Args:
        student: see DistillationLoss.
        teacher: a trained planner of rows like the student's. It stays as it is.
        steps: DDIM steps of the teacher, by its own schedule.

    Raises:
        ValueError: a student whose one step would not be what is trained here.
    """

    def __init__(self, student: Diffuser, teacher: Diffuser, steps: int) -> None:
        super().__init__()
        self.first = _only_step(student.schedule)
        self.visited = teacher.schedule.timesteps(steps)
        self.student = student
        self._teacher = [teacher.requires_grad_(False).eval()]

    def forward(self, rows: Tensor, mask: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Distance between the student's one step and the teacher's plans from the same noise; a scalar.

        rows (B, H, D) in the data's units, of which the teacher is told what mask (B, H, D) bool holds; noise
        (B, H, D); t is not needed.
        """
        teacher, student = self._teacher[0], self.student
        x = noise
        with torch.no_grad():
            for step, previous in zip(self.visited, [*self.visited[1:], -1], strict=True):
                x, _ = teacher.step(x, rows, mask, noise[:0], step, previous, {})
        known = student.limits.normalize(rows)
        first = torch.full([len(noise)], self.first, dtype=torch.int64, device=noise.device)
        return _distance(torch.where(mask, known, student(noise, first, known, mask)), x)


def begin_as(student: nn.Module, teacher: nn.Module, path: Path) -> None:
    """Gives the student all that the teacher has learnt, limits too. ValueError, in one line, for another network than
    the one from the file at path."""
    try:
        student.load_state_dict(teacher.state_dict())
    except RuntimeError:
        raise ValueError(f"distil: the network of {path} is another than these options make") from None


def go_on_as(student: DiffusionPolicy, before: DiffusionPolicy, path: Path) -> None:
    """Gives a student that has begun as its teacher the denoiser of `before`, from the file at path. ValueError, in one
    line, where that sees or scales otherwise than the teacher: it would be taught on what it does not know."""
    mine = student.state_dict()
    theirs = before.state_dict()
    alike = mine.keys() == theirs.keys() and all(value.shape == mine[name].shape for name, value in theirs.items())
    if not alike or any(
        not torch.equal(value, mine[name]) for name, value in theirs.items() if not name.startswith("denoiser.")
    ):
        raise ValueError(
            f"start_from: {path} is no student of this teacher: its network, encoders or limits are others"
        )
    student.load_state_dict(theirs)


def _only_step(schedule: NoiseSchedule) -> int:
    if schedule.prediction_type != "sample":
        raise ValueError(f"prediction_type is {schedule.prediction_type!r}: a student's must be 'sample'")
    first = schedule.timesteps(1)[0]
    if first != schedule.num_train_timesteps - 1:
        raise ValueError(f"timestep_spacing is {schedule.timestep_spacing!r}: a student's must be 'trailing'")
    return first


def _distance(made: Tensor, target: Tensor) -> Tensor:
    """Pseudo-Huber, of whole trajectories (B, rows, width); a scalar."""
    squared = ((made - target) ** 2).mean(dim=(1, 2))
    distance: Tensor = ((squared + SMOOTH**2).sqrt() - SMOOTH).mean()
    return distance


@torch.no_grad()
def ddim_samples(
    policy: DiffusionPolicy,
    features: Tensor,
    noise: Tensor,
    steps: int,
    executed: Tensor | None = None,
    known: Tensor | None = None,
) -> Tensor:
    """All rows, still normalised, (B, rows, width), that DDIM makes of noise like them in so many steps.

    features (B, n_obs_steps, F); known (B): how many of the rows executed (B, rows, A), in metres and radians, it goes
    on from. `DiffusionPolicy.sample_after` does the same with noise of its own.
    """
    x = noise
    cond = features[:, :0] if policy.inpainting else features
    given, mask = _given(policy, features, noise, executed, known)
    visited = policy.schedule.timesteps(steps)
    for t, previous in zip(visited, [*visited[1:], -1], strict=True):
        x = torch.where(mask, given, x)
        output = policy.predict(x, torch.full([len(x)], t, dtype=torch.int64, device=x.device), cond, mask)
        x = policy.schedule.ddim_step(output, x, t, previous)
    return torch.where(mask, given, x)


def _given(
    policy: DiffusionPolicy, features: Tensor, noise: Tensor, executed: Tensor | None, known: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What of chunks like noise is given, normalised, and where, (B, rows, width) both."""
    if executed is None or known is None:
        nothing = torch.zeros_like(noise[..., : policy.action_dim])
        return policy.known(features, nothing, nothing[..., 0])
    return policy.known(features, policy.action_limits.normalize(executed), first_rows(known, policy.rows))
