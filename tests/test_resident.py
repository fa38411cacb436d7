"""A training step on a GPU: everything is there, and nothing is asked back. Without a GPU the meta device stands in."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from training import run
from training.captured_step import adamw, unchanged
from training.data.demonstrations import Demonstrations
from training.data.recorded_with import RecordedWith
from training.data.resident import Resident, ResidentWindows
from training.diffusion.pose_points import CameraView, point_loss, project
from training.options.policy import Options
from training.run import ExponentialMovingAverage, set_rates
from training.trainers.policy import Trainer, _Objective, _PoseObjective

META = torch.device("meta")


class OneDevice(TorchDispatchMode):
    """Fails for tensors that are left on another device, and for what is copied from one to the other."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        flat: list[Any] = [*args, *(kwargs or {}).values(), result]
        while any(isinstance(item, (list, tuple)) for item in flat):
            flat = [x for item in flat for x in (item if isinstance(item, (list, tuple)) else [item])]
        # Numbers that the host knows anyway, such as how many steps the optimiser has taken, may lie there.
        devices = {t.device.type for t in flat if isinstance(t, Tensor) and t.dim() > 0}
        if len(devices) > 1 or "cpu" in devices:
            raise RuntimeError(f"{func}: tensors on {', '.join(sorted(devices))}, meta alone expected")
        return result


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainers take the meta device for the one to train on."""

    class Accelerator(SimpleNamespace):
        def __init__(self, **options: Any) -> None:
            super().__init__(device=META, is_main_process=True, scaler=None)

    monkeypatch.setattr(run, "Accelerator", Accelerator)
    monkeypatch.setattr("training.trainers.policy.checkpoint.script", lambda module: module)
    return


def demonstrations(pictures: bool = True) -> Demonstrations:
    rng = np.random.default_rng(0)
    steps = 24
    observations: dict[str, Any] = {
        "robot0_eef_pos": rng.normal(size=(steps, 3)).astype(np.float32),
        "robot0_eef_quat": np.tile(np.float32([1, 0, 0, 0]), (steps, 1)),
        "robot0_gripper_qpos": rng.normal(size=(steps, 2)).astype(np.float32),
        "object_pos": rng.normal(size=(steps, 3)).astype(np.float32),
        "object_quat": np.tile(np.float32([1, 0, 0, 0]), (steps, 1)),
    }
    for camera in ("agentview", "robot0_eye_in_hand") if pictures else ():
        observations[f"{camera}_image"] = rng.integers(0, 256, (steps, 84, 84, 3), np.uint8)
    actions = rng.uniform(-0.05, 0.05, (steps, 7)).astype(np.float32)
    return Demonstrations("lift", observations, actions, np.array([0, 8, 16, 24]), "0" * 64, RecordedWith("Lift"))


def to_meta(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.to(META) for name, value in batch.items()}


PUBLISHED: dict[str, Any] = {}
VARIANTS: dict[str, dict[str, Any]] = {
    "published, from pixels": PUBLISHED,
    "published, from state": {"observations": "state"},
    "inpainting": {"observations": "state", "denoiser": "unet", "conditioning": "inpainting", "horizon": 16},
    "small, with a pose head": {"denoiser": "unet", "vision": "small", "pose_head": True, "observations": "both"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_leaves_nothing_on_the_host(
    variant: str, gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"batch_size": 2, "num_train_timesteps": 10, **VARIANTS[variant]}
    options = Options(data=(tmp_path / "x",), out=tmp_path / "x.pt", **changes)
    monkeypatch.setattr("training.trainers.policy.load_files", lambda *given: [demonstrations()])
    trainer = Trainer(options)
    # Drawn by a generator of the host, as the meta device has none.
    host = SimpleNamespace(device=torch.device("cpu"))
    drawn = Trainer.draw(
        SimpleNamespace(options=options, policy=trainer.policy, features=None, train=None, **vars(host)),
        trainer.train,
        torch.Generator().manual_seed(0),
        2,
        crops=True,
    )
    groups = [{"params": list(trainer.policy.parameters())}]
    optimizer, ema = adamw(groups, 1e-4, options.betas, META), ExponentialMovingAverage(trainer.policy, 0.99)
    objectives: list[tuple[torch.nn.Module, dict[str, Tensor]]] = [(_Objective(trainer, trainer.train), drawn)]
    if trainer.policy.encoder.has_pose_head:
        offset = torch.zeros((4, 2), dtype=torch.int64)
        objectives.append((_PoseObjective(trainer), {"steps": torch.arange(4), "offset": offset}))
    for objective, batch in objectives:
        batch = to_meta(batch)
        with OneDevice():
            for _ in range(2):
                set_rates(optimizer, [1e-4], 0.5)
                optimizer.zero_grad(set_to_none=True)
                loss = objective(batch)
                loss.backward()
                optimizer.step()
                ema.update()
    assert loss.device == META and loss.shape == ()


@pytest.mark.parametrize("left", ["the windows", "the actions", "the crops"])
def test_what_is_left_on_the_host_is_found(
    left: str, gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.trainers.policy.load_files", lambda *given: [demonstrations()])
    trainer = Trainer(Options(data=(tmp_path / "x",), out=tmp_path / "x.pt", vision="small", denoiser="unet"))
    objective = _Objective(trainer, trainer.train)
    batch = to_meta(
        {
            "chosen": torch.arange(2),
            "noise": torch.zeros(1, 2, 10, 7),
            "t": torch.zeros(1, 2, dtype=torch.int64),
            "crops": torch.zeros(2, 2, dtype=torch.int64),
        }
    )
    if left == "the windows":
        objective._windows = ResidentWindows.of(trainer.train, torch.device("cpu"))
    elif left == "the actions":
        trainer.resident.actions = torch.from_numpy(trainer.data.actions)
    else:
        batch["crops"] = torch.zeros(2, 2, dtype=torch.int64)
    with pytest.raises((RuntimeError, NotImplementedError), match=r"(?i)\bmeta\b"), OneDevice():
        objective(batch)


def test_points_are_taught_on_the_device() -> None:
    view = CameraView(True, torch.eye(3), torch.zeros(3), torch.eye(3)).to(META)
    numbers = Resident(demonstrations(pictures=False), META).numbers(torch.arange(3).to(META))
    with OneDevice():
        pixels = project(numbers, view)
        offset = torch.zeros((3, 2), dtype=torch.int64, device=META)
        point_loss(torch.zeros((3, 12, 19, 19), device=META), pixels, offset, 4)


def test_steps_to_warm_up_change_nothing() -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
    x = torch.randn(8, 3)

    def step(optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()

    start = {name: value.clone() for name, value in module.state_dict().items()}
    optimizer = torch.optim.AdamW(module.parameters(), 0.1)
    for _ in range(3):
        step(optimizer)
    expected = {name: value.clone() for name, value in module.state_dict().items()}
    module.load_state_dict(start)
    optimizer = torch.optim.AdamW(module.parameters(), 0.1)
    for taken in range(3):
        at = [value.data_ptr() for value in module.parameters()]
        with unchanged(module, optimizer):
            step(optimizer)
            step(optimizer)
        assert at == [value.data_ptr() for value in module.parameters()], taken
        step(optimizer)
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)
