"""Gymnasium tasks of one's own are trained, or refused in one line before anything is trained."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from diffusion_ros import checkpoint
from training import train_ppo, train_rainbow
from training.evaluation.gym import evaluate_gym
from training.rl.gymnasium_task import continuous_task, discrete_task
from training.trainers import ppo as ppo_trainer
from training.trainers import rainbow as rainbow_trainer

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def rainbow(out: Path, env_id: str, **changes: Any) -> train_rainbow.Options:
    small: dict[str, Any] = {"total_timesteps": 200, "learning_starts": 64, "validate_every": 100, "widths": (8,),
        "validation_episodes": 2, "evaluation_episodes": 2, "batch_size": 16, "save_every": 100,
        "v_min": -100.0}  # fmt: skip
    return train_rainbow.Options(out=out, env_id=env_id, **{**small, **changes})


def ppo(out: Path, env_id: str, **changes: Any) -> train_ppo.Options:
    small: dict[str, Any] = {"total_timesteps": 128, "num_envs": 2, "num_steps": 32, "minibatch_size": 16,
        "widths": (8,), "test_episodes": 2, "evaluation_episodes": 2, "checkpoint_every": 1,
        "update_epochs": 1}  # fmt: skip
    return train_ppo.Options(out=out, env_id=env_id, **{**small, **changes})


@pytest.mark.parametrize(
    ("name", "full"),
    [("own_tasks:Own-v0", "own_tasks:Own-v0"), ("own_tasks:Own", "own_tasks:Own-v3"), ("CartPole", "CartPole-v1")],
)
def test_a_task_has_its_whole_name(name: str, full: str) -> None:
    task = discrete_task(name)
    assert task.environment == full and task.rate == 50
    environments = task.environments(2)
    assert environments.num_envs == 2
    environments.close()


def test_a_discrete_one_is_trained_and_evaluated_by_its_name(tmp_path: Path) -> None:
    out = tmp_path / "p.pt"
    result = rainbow_trainer.train_one(rainbow(out, "own_tasks:Own"))
    assert result["evaluation"]["mean_length"] == 30
    assert checkpoint.read_spec(out).environment == "own_tasks:Own-v3"
    assert evaluate_gym(out, 2, 100_000)["mean_return"] == result["evaluation"]["mean_return"]


@pytest.mark.parametrize("name", ["own_tasks:OwnForce-v0", "own_tasks:OwnShown-v0"])
def test_a_continuous_one_without_pictures_loses_nothing(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "p.pt"
    ppo_trainer.train_one(ppo(out, name))
    assert out.exists() and json.loads((tmp_path / "p.pt.run/result.json").read_text())["evaluation"]
    said = [line for line in capsys.readouterr().err.splitlines() if "no video" in line]
    assert len(said) == (2 if "Shown" in name else 0)
    assert all(line.endswith("no video: NotImplementedError: nobody has drawn it") for line in said)
    assert not list(tmp_path.rglob("*.mp4"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("own_tasks:OwnBroken-v0", "own_tasks:OwnBroken-v0: cannot be stepped: KeyError: 'my own mistake'"),
        ("own_tasks:OwnNan-v0", "own_tasks:OwnNan-v0: cannot be stepped: ValueError: an observation of shape"),
        ("own_tasks:None-v0", "environment 'own_tasks:None-v0': no Gymnasium task that can be made: "),
        ("no_such_module:Own-v0", "environment 'no_such_module:Own-v0': no Gymnasium task that can be made: No module"),
        ("own_tasks:OwnForce-v0", "own_tasks:OwnForce-v0: its actions are continuous"),
        ("a:b:c", "environment 'a:b:c': no Gymnasium task that can be made: "),
    ],
)
def test_what_cannot_be_trained_is_a_line_before_anything_is(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^" + said.replace("(", r"\(")) as raised:
        train_rainbow.train(rainbow(tmp_path / "p.pt", name))
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_seeds_in_workers_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]))
    train_rainbow.train(rainbow(tmp_path / "p.pt", "own_tasks:Own-v0", seeds=(1, 2), workers=2))
    assert capsys.readouterr().out.count("wrote") == 2
    assert {path.name for path in tmp_path.glob("*.pt")} == {"p_seed1.pt", "p_seed2.pt"}
    assert continuous_task("own_tasks:OwnForce-v0").pictures is False
