"""No checkpoint is written whose sampler is not what diffusers makes of its network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import fake_policy
import numpy as np
import pytest
import torch
from some_slow import but
from test_train_ddpm import image_spec

from diffusion_ros import checkpoint
from diffusion_ros.checkpoint import CheckpointError
from diffusion_ros.simulators.tasks import maze_task
from diffusion_ros.spec import CheckpointSpec, TensorSpec
from training import policy_setup
from training.diffusion.diffuser import Diffuser
from training.diffusion.export_proof import TOLERANCE, export
from training.diffusion.images import ImageDiffusion
from training.diffusion.noise_schedule import NoiseSchedule
from training.diffusion.normalizer import LimitsNormalizer
from training.diffusion.policy import POSE_DIM, DiffusionPolicy
from training.options.images import Options as ImageOptions
from training.options.planner import Options as PlannerOptions
from training.options.policy import Options as PolicyOptions
from training.options.shared import SamplerOptions
from training.policy_setup import Limits, unit_limits
from training.trainers import images as images_trainer
from training.trainers import planner as planner_trainer


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


Made = tuple[torch.nn.Module, CheckpointSpec, SamplerOptions]


def policy(**changes: Any) -> Made:
    small = {"observations": "state", "denoiser": "unet", "unet_widths": (16, 32), "num_inference_steps": 7}
    options = PolicyOptions(data=Path("x"), out=Path("x.pt"), **{**small, **changes})
    span = np.array([0.05, 0.05, 0.05, 0.5, 0.5, 0.5, 1.0])
    limits = Limits(unit_limits(11), unit_limits(POSE_DIM), LimitsNormalizer(-0.7 * span, span))
    spec = fake_policy.spec(
        (*fake_policy.LOW_DIM, *fake_policy.OBJECT),
        sampler=options.sampler,
        sampler_steps=options.steps,
        timestep_spacing=options.timestep_spacing,
        max_delay=options.max_delay,
    )
    inputs = policy_setup.Inputs.of_spec(options, spec)
    return policy_setup.build_policy(options, limits, inputs), spec, options


def planner(**changes: Any) -> Made:
    options = PlannerOptions(data=(), out=Path("x.pt"), horizon=16, widths=(8, 16), **changes)
    limits = LimitsNormalizer(-np.array([1.0, 1, 5, 4, 2, 2]), np.array([1.0, 1, 4, 5, 2, 2]))
    columns = tuple(TensorSpec(n, (2,), "float32", "m", "map") for n in ("action", "position", "velocity"))
    spec = CheckpointSpec(
        kind="planner",
        task="umaze",
        environment=maze_task("umaze").environment,
        inputs=columns[1:],
        outputs=columns,
        rate=100.0,
        horizon=16,
        n_obs_steps=1,
        n_action_steps=16,
        action_low=(-1.0, -1.0),
        action_high=(1.0, 1.0),
        workspace_low=(-2.5, -2.5, -1.0),
        workspace_high=(2.5, 2.5, 1.0),
        sampler=options.sampler,
        sampler_steps=options.steps,
        timestep_spacing=options.timestep_spacing,
        num_train_timesteps=options.num_train_timesteps,
    )
    return planner_trainer.build_diffuser(options, limits, 2, 2), spec, options


def images(**changes: Any) -> Made:
    small = {"dim": 8, "dim_mults": (1, 2), "heads": 1, "head_dim": 8, "num_train_timesteps": 20}
    options = ImageOptions(data="digits", out=Path("x.pt"), **{**small, **changes})
    model = images_trainer.build_diffusion(options, (8, 8, 1))
    for layer in (model.denoiser.head, model.denoiser.film):  # which begin by answering 0
        layer.reset_parameters()
    return model, image_spec(sampler=options.sampler, sampler_steps=options.steps), options


GOOD = {
    "policy": (policy, {}),
    "policy, ddpm, clean actions": (policy, {"sampler": "ddpm", "prediction_type": "sample"}),
    "policy, inpainting": (policy, {"conditioning": "inpainting", "beta_schedule": "linear"}),
    "policy, late": (policy, {"max_delay": 3, "prediction_type": "sample"}),
    "policy, late, inpainting": (policy, {"max_delay": 3, "conditioning": "inpainting"}),
    "policy, cubic": (policy, {"timestep_spacing": "cubic", "num_inference_steps": 3}),
    "policy, transformer": (policy, {"denoiser": "transformer", "layers": 1, "width": 32, "heads": 2}),
    "planner": (planner, {}),  # 5 of 64 steps, which diffusers' DDIM would not take as they come
    "planner, noise": (planner, {"prediction_type": "epsilon", "endpoints": False}),
    "planner, cubic": (planner, {"timestep_spacing": "cubic", "num_inference_steps": 2}),
    "planner, ddpm, cubic": (planner, {"sampler": "ddpm", "timestep_spacing": "cubic"}),
    "planner, ddpm": (planner, {"sampler": "ddpm", "num_inference_steps": 64}),
    "images": (images, {}),
    "images, ddim": (images, {"sampler": "ddim", "num_inference_steps": 7, "beta_schedule": "cosine"}),
    "images, sigmoid": (images, {"sampler": "ddim", "num_inference_steps": 4, "beta_schedule": "sigmoid"}),
    "images, self-conditioning": (images, {"self_conditioning": True, "prediction_type": "sample"}),
}


SLOW = (
    *("images", "images, ddim", "images, sigmoid", "images, self-conditioning"),
    *("policy, ddpm, clean actions", "policy, cubic", "policy, late", "policy, inpainting", "policy, transformer"),
    *("planner, noise", "planner, ddpm"),
)
"""Another image model and, with the planners, other noise schedules and both samplers are in make test."""


@pytest.mark.parametrize("name", but(SLOW, GOOD))
def test_what_diffusers_makes_too_is_written(name: str, tmp_path: Path) -> None:
    make, changes = GOOD[name]
    module, spec, options = make(**changes)
    export(module, spec, tmp_path / "x.pt", options, half="," not in name)
    assert checkpoint.load(tmp_path / "x.pt").spec == spec
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


def other_schedule(module: torch.nn.Module, options: SamplerOptions) -> SamplerOptions:
    return dataclasses.replace(options, beta_schedule="linear" if options.beta_schedule != "linear" else "quadratic")


def other_prediction(module: torch.nn.Module, options: SamplerOptions) -> SamplerOptions:
    return dataclasses.replace(options, prediction_type="sample" if options.prediction_type == "epsilon" else "epsilon")


def other_spacing(module: Any, options: SamplerOptions) -> SamplerOptions:
    return dataclasses.replace(options, timestep_spacing="leading")


def without_clipping(module: Any, options: SamplerOptions) -> SamplerOptions:
    module.schedule = Unclipped(options.num_train_timesteps, "squaredcos_cap_v2", options.prediction_type)
    return options


class Unclipped(NoiseSchedule):
    """A schedule that lets clean samples be what they are."""

    def ddim_step(
        self, output: torch.Tensor, x: torch.Tensor, t: int, t_previous: int, rederive_epsilon: bool = False
    ) -> torch.Tensor:
        alpha_bar, alpha_bar_previous = self._alpha_bars(t, t_previous)
        x0, epsilon = self._x0(output, x, alpha_bar), self._epsilon(output, x, alpha_bar)
        return alpha_bar_previous.sqrt() * x0 + (1.0 - alpha_bar_previous).sqrt() * epsilon


class Forgetful(DiffusionPolicy):
    """Writes nothing known back."""

    def known(
        self, features: torch.Tensor, executed: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        empty = torch.zeros([executed.shape[0], self.rows, self.width])
        return empty, torch.zeros_like(empty, dtype=torch.bool)


class Free(Diffuser):
    """A planner whose plans begin and end anywhere."""

    @checkpoint.exported
    def step(
        self,
        x: torch.Tensor,
        known: torch.Tensor,
        mask: torch.Tensor,
        noise: torch.Tensor,
        t: int,
        previous: int,
        guides: dict[str, torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        steps = torch.full([x.shape[0]], t, dtype=torch.int64)
        output = self(x, steps, self.limits.normalize(known), mask)
        x = self.schedule.ddim_step(output, x, t, previous, True)
        return x, self.limits.unnormalize(x)


class Dark(ImageDiffusion):
    """An image model whose images are a grey level too dark on the way."""

    @checkpoint.exported
    def denoised(self, seed: int, count: int, steps: int) -> torch.Tensor:
        return torch.stack(self.trajectory(seed, count, steps, True)) // 2 * 2 - 2


def of_class(kind: type[torch.nn.Module]) -> Any:
    def change(module: Any, options: SamplerOptions) -> SamplerOptions:
        module.__class__ = kind
        return options

    return change


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        *((name, other_schedule) for name in ("policy", "planner")),
        *((name, other_prediction) for name in ("policy, inpainting", "planner, noise")),
        pytest.param("policy", other_spacing, marks=pytest.mark.slow),
        ("policy", without_clipping),
        # The same faults as above, in models that take longest; Dark is theirs.
        pytest.param("images", other_schedule, marks=pytest.mark.slow),
        pytest.param("images, self-conditioning", other_prediction, marks=pytest.mark.slow),
        pytest.param("images", other_spacing, marks=pytest.mark.slow),
        ("policy, inpainting", of_class(Forgetful)),
        ("planner", of_class(Free)),
        ("images", of_class(Dark)),
    ],
)
def test_what_diffusers_makes_otherwise_is_not_written(name: str, fault: Any, tmp_path: Path) -> None:
    make, changes = GOOD[name]
    if fault is other_spacing:
        changes = {**changes, "sampler": "ddim", "num_inference_steps": 4}
    module, spec, options = make(**changes)
    out = tmp_path / "x.pt"
    out.write_text("what was there before")
    with pytest.raises(
        RuntimeError, match=r"x\.pt: not written: its DDI?[MP]?M samples are .* off what diffusers"
    ) as error:
        export(module, spec, out, fault(module, options), half=False)
    assert "\n" not in str(error.value)
    assert out.read_text() == "what was there before" and [path.name for path in tmp_path.iterdir()] == ["x.pt"]


def test_a_small_error_is_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of twice the tolerance, in the units of what is normalised, in every action."""
    module, spec, options = policy()
    sample = DiffusionPolicy.sample_after
    assert isinstance(module, DiffusionPolicy)
    scale = module.action_limits.scale

    def off(by: float) -> Any:
        class Off:
            def sample_after(self, *arguments: Any) -> torch.Tensor:
                return sample(module, *arguments) + by * scale

        return Off()

    load = checkpoint.load
    for by, fits in ((0.5 * TOLERANCE, True), (2 * TOLERANCE, False)):
        monkeypatch.setattr(checkpoint, "load", lambda path, by=by: dataclasses.replace(load(path), module=off(by)))
        out = tmp_path / f"{by}.pt"
        if fits:
            export(module, spec, out, options, False)
        else:
            with pytest.raises(RuntimeError, match="not written"):
                export(module, spec, out, options, False)
        assert out.exists() == fits


def test_what_cannot_be_loaded_is_not_written(tmp_path: Path) -> None:
    module, spec, options = policy()
    other = dataclasses.replace(spec, horizon=9, n_action_steps=8)
    with pytest.raises(CheckpointError, match=r"x\.pt: gives chunks of shape \(1, 9, 7\)"):
        export(module, other, tmp_path / "x.pt", options, False)
    next(module.parameters()).data.fill_(float("nan"))
    with pytest.raises(CheckpointError, match=r"x\.pt: not written: .* has values that are NaN"):
        export(module, spec, tmp_path / "x.pt", options, False)
    assert list(tmp_path.iterdir()) == []
