"""Checkpoints from reinforcement learning: the contract of one action for one observation, and what breaks it."""

from __future__ import annotations

from pathlib import Path

import fake_policy
import fake_rl
import pytest
import torch
from torch import Tensor, nn

from diffusion_ros import checkpoint
from diffusion_ros.checkpoint import CheckpointError, exported
from diffusion_ros.models.rl_policy import REACTIVE_KINDS
from diffusion_ros.spec import CheckpointSpec, SpecError, TensorSpec


@pytest.mark.parametrize("task", ["cartpole", "double_pendulum"])
def test_a_checkpoint_survives_and_answers(task: str, tmp_path: Path) -> None:
    path = fake_rl.save(tmp_path / "policy.pt", spec_=fake_rl.spec(task))
    assert checkpoint.read_spec(path) == fake_rl.spec(task)
    loaded = checkpoint.load(path, kind=REACTIVE_KINDS, task=task)
    assert loaded.spec == fake_rl.spec(task)
    assert (loaded.spec.n_rows, loaded.spec.workspace_low, loaded.spec.sampler) == (1, (), "")
    observation = torch.ones(3, loaded.spec.inputs[0].shape[0])
    action = loaded.module(observation)
    if task == "cartpole":
        assert action.tolist() == [1, 1, 1] and action.dtype == torch.int64
        assert loaded.module.values(observation).argmax(1).tolist() == [1, 1, 1]
    else:
        assert action.shape == (3, 1) and action.dtype == torch.float32


def test_kind_and_task_must_fit(tmp_path: Path) -> None:
    discrete = fake_rl.save(tmp_path / "cartpole.pt")
    arm = fake_policy.save(tmp_path / "arm.pt")
    with pytest.raises(CheckpointError, match="is a discrete policy, a continuous policy is needed"):
        checkpoint.load(discrete, kind="continuous policy")
    with pytest.raises(CheckpointError, match="is a policy, a discrete policy or a continuous policy is needed"):
        checkpoint.load(arm, kind=REACTIVE_KINDS)
    with pytest.raises(CheckpointError, match="was trained on the task cartpole, double_pendulum is needed"):
        checkpoint.load(discrete, task="double_pendulum")


@pytest.mark.parametrize(
    ("task", "change", "expected"),
    [
        ("cartpole", {"horizon": 2}, "horizon 2, 1 expected"),
        ("cartpole", {"stride": 2}, "stride 2, 1 expected"),
        ("cartpole", {"sampler": "ddim"}, "sampler 'ddim', none expected"),
        ("cartpole", {"sampler_steps": 3}, "sampler_steps 3, 0 expected"),
        ("cartpole", {"workspace_low": (0.0,) * 3}, "workspace_low"),
        ("cartpole", {"action_high": (1.5,)}, "whole number"),
        ("cartpole", {"action_low": (-1.0,)}, "whole number"),
        ("cartpole", {"action_low": (0.0, 0.0), "action_high": (1.0, 1.0)}, "1 finite numbers expected"),
        ("cartpole", {"outputs": (TensorSpec("action", (1,), "float32", "", ""),)}, "int64 of one axis expected"),
        ("cartpole", {"outputs": ()}, "action alone expected"),
        ("cartpole", {"inputs": (TensorSpec("state", (4,), "float32", "", ""),)}, "inputs state, observation alone"),
        ("cartpole", {"inputs": (TensorSpec("observation", (4, 1), "float32", "", ""),)}, "float32 of one axis"),
        ("cartpole", {"rate": 0.0}, "rate 0.0"),
        ("double_pendulum", {"action_high": (float("inf"),)}, "action_high"),
        ("double_pendulum", {"outputs": (TensorSpec("action", (2,), "float32", "", ""),)}, "2 finite numbers expected"),
    ],
)
def test_specs_that_make_no_sense(task: str, change: dict[str, object], expected: str) -> None:
    with pytest.raises(SpecError, match=expected) as error:
        fake_rl.spec(task, **change)
    assert "\n" not in str(error.value)


def test_spec_json() -> None:
    spec = fake_rl.spec("double_pendulum", scores={"mean_return": 9350.0})
    assert CheckpointSpec.from_json(spec.to_json()) == spec
    # Without what such a policy has not got.
    text = spec.to_json().replace(' "sampler": "",\n', "").replace(' "workspace_low": [],\n', "")
    assert "sampler_steps" in text and '"sampler"' not in text
    assert CheckpointSpec.from_json(text) == spec
    # An arm's policy still needs it.
    with pytest.raises(SpecError, match="sampler ''"):
        checkpoint.checked(CheckpointSpec.from_json(fake_policy.spec().to_json().replace(' "sampler": "ddim",\n', "")))
    with pytest.raises(SpecError, match="int64"):
        fake_policy.spec(outputs=(TensorSpec("actions", (9, 7), "int64", "", ""),))


class Answers(nn.Module):
    """A discrete policy that answers by constants."""

    def __init__(self, action: Tensor, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("action", action)
        self.register_buffer("numbers", values)

    def forward(self, observation: Tensor) -> Tensor:
        return self.action.expand(observation.shape[0], -1)[:, 0] + 0 * observation[:, 0].to(self.action.dtype)

    @exported
    def values(self, observation: Tensor) -> Tensor:
        return self.numbers.expand(observation.shape[0], -1)


class Wide(nn.Module):
    """A continuous policy that does not know its limits, or its size."""

    def __init__(self, size: int, gain: float) -> None:
        super().__init__()
        self.size, self.gain = size, gain

    def forward(self, observation: Tensor) -> Tensor:
        return self.gain * observation[:, : self.size]


class NotANumber(Wide):
    def forward(self, observation: Tensor) -> Tensor:
        return 0.0 * torch.log(observation[:, : self.size])


@pytest.mark.parametrize(
    ("module", "task", "expected"),
    [
        (Wide(1, 1.0), "cartpole", "has no values, as a discrete policy must"),
        (Answers(torch.tensor([0]), torch.zeros(3)), "cartpole", r"values float32 \(5, 3\), .* says float32 \(5, 2\)"),
        (Answers(torch.tensor([0.0]), torch.zeros(2)), "cartpole", r"actions float32 \(5,\), .* says int64 \(5,\)"),
        (Answers(torch.tensor([2]), torch.zeros(2)), "cartpole", r"beyond its limits, \[0.0\] to \[1.0\]"),
        (Wide(2, 0.0), "double_pendulum", r"actions float32 \(5, 2\), its specification says float32 \(5, 1\)"),
        (Wide(1, 1.0), "double_pendulum", r"beyond its limits, \[-1.0\] to \[1.0\]"),
        (NotANumber(1, 1.0), "double_pendulum", "actions that are NaN or infinite"),
        (nn.Linear(3, 1), "double_pendulum", "does not run on its own specification"),
    ],
)
def test_a_module_must_do_what_its_spec_says(module: nn.Module, task: str, expected: str, tmp_path: Path) -> None:
    path = fake_rl.save(tmp_path / "policy.pt", module, fake_rl.spec(task))
    with pytest.raises(CheckpointError, match=expected) as error:
        checkpoint.load(path)
    assert "\n" not in str(error.value)


def test_made_up_policies_see_the_last_bits() -> None:
    """What the tests of ROS against no ROS rely on."""
    observation = torch.linspace(0.1, 0.9, 9)
    for i in range(9):
        other = observation.clone()
        other[i] = torch.nextafter(other[i], torch.tensor(1.0))
        bits = fake_rl.last_bits(torch.stack([observation, other]))
        assert abs(bits[0] - bits[1]) > 1e-5
