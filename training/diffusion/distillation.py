"""A policy of one step that keeps the ways of a policy of many steps.

One step of a diffusion policy is the mean of what was demonstrated (DDPM, Ho et al. 2020: the clean sample that is
nearest to all of them, as x is noise alone at T - 1). Where there are two ways the mean is neither. DDIM (Song et al.
2020, arXiv 2010.02502, equation 12 with sigma 0) is a map from noise to samples without any further chance: each noise
belongs to one way. The student learns this map, pairs of noise and sample (Luhman and Luhman 2021, arXiv 2101.02388,
equation 5; rectified flow calls it distillation, Liu et al. 2022, arXiv 2209.03003, section 2.1). So its one step has
the teacher's ways, each as often.
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from training.diffusion.policy import DiffusionPolicy


class DistillationLoss(nn.Module):
    """What :class:`PolicyLoss` is for a policy that learns from data, for one that learns from a teacher.

    Args:
        student: predicts the clean sample, and its first step is T - 1 (trailing). It should begin with the teacher's
            weights. It is what the sampler makes of it with one DDIM step: nothing in it is new.
        teacher: a trained policy of the same shape. It stays as it is.
        steps: DDIM steps of the teacher, by its own schedule.

    Raises:
        ValueError: a student whose one step would not be what is trained here.
    """

    def __init__(self, student: DiffusionPolicy, teacher: DiffusionPolicy, steps: int, smooth: float = 0.03) -> None:
        super().__init__()
        schedule = student.schedule
        if schedule.prediction_type != "sample":
            raise ValueError(f"prediction_type is {schedule.prediction_type!r}: a student's must be 'sample'")
        if student.sampler != "ddim":
            raise ValueError(f"sampler is {student.sampler!r}: a student's must be 'ddim'")
        mine, theirs = ((policy.rows, policy.width) for policy in (student, teacher))
        if mine != theirs:
            raise ValueError(f"chunks are {mine}: a student's must be the teacher's, {theirs}")
        self.student = student
        self.steps = steps
        self.smooth = smooth
        self.first = schedule.timesteps(1)[0]
        if self.first != schedule.num_train_timesteps - 1:
            raise ValueError(f"timestep_spacing is {schedule.timestep_spacing!r}: a student's must be 'trailing'")
        teacher.requires_grad_(False).eval()
        self._teacher = [teacher]  # in a list: not a submodule, whose weights would be trained, saved and averaged

    def forward(self, features: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error between the student's one step and the teacher's samples from the same noise; a scalar.

        features (B, To, F); noise (D, B, rows, width) standard normal: D draws for each sample, as in `PolicyLoss`.
        Known entries of inpainted rows do not count.
        """
        student = self.student
        features = repeat(features.detach(), "b t f -> (draws b) t f", draws=len(noise))
        noise = rearrange(noise, "draws b rows f -> (draws b) rows f")
        target = ddim_samples(self._teacher[0], features, noise, self.steps)
        x = student.write_known(noise, features)
        cond = features[:, :0] if student.inpainting else features
        t = torch.full([len(x)], self.first, dtype=torch.int64, device=x.device)
        output = student.write_known(student.denoiser(x, t, cond), features)
        # The squared error would make the mean of both ways wherever the network cannot tell to which a noise belongs.
        # The distance makes the (geometric) median, which is one of them.
        squared = ((output - target) ** 2).mean(dim=(1, 2))
        loss: Tensor = ((squared + self.smooth**2).sqrt() - self.smooth).mean()
        return loss


@torch.no_grad()
def ddim_samples(policy: DiffusionPolicy, features: Tensor, noise: Tensor, steps: int) -> Tensor:
    """What DDIM makes of noise (B, rows, width) with features (B, n_obs_steps, F), in as many steps: all rows, still
    normalised, (B, rows, width). `DiffusionPolicy.sample` does the same with noise of its own."""
    x = noise
    cond = features[:, :0] if policy.inpainting else features
    visited = policy.schedule.timesteps(steps)
    for t, previous in zip(visited, [*visited[1:], -1], strict=True):
        x = policy.write_known(x, features)
        output = policy.denoiser(x, torch.full([len(x)], t, dtype=torch.int64, device=x.device), cond)
        x = policy.schedule.ddim_step(output, x, t, previous)
    return policy.write_known(x, features)
