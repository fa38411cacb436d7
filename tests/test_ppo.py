"""PPO's parts against slow, obvious ones; normalisation, the trainer's resuming and what it refuses."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from diffusion_ros import checkpoint
from training import command_line, train_ppo
from training.evaluation.gym import evaluate_gym, record_video
from training.networks.mlp import ActorCritic
from training.options.ppo import Options
from training.rl.ppo import CLIP, ContinuousPolicy, RewardScaler, RunningStatistics, advantages, clipped_loss
from training.trainers import ppo as ppo_trainer
from training.trainers.ppo import Trainer

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def slow_advantages(
    reward: np.ndarray, value: np.ndarray, terminated: np.ndarray, truncated: np.ndarray, gamma: float, lam: float
) -> np.ndarray:
    """The weighted sum of k-step advantages of one environment, from its definition (GAE, eq. 14 to 16)."""
    steps = len(reward)
    result = np.zeros(steps)
    for t in range(steps):
        weight, k = 1.0, t
        while True:
            following = 0.0 if terminated[k] else value[k + 1]
            result[t] += weight * (reward[k] + gamma * following - value[k])
            weight *= gamma * lam
            if terminated[k] or truncated[k] or k == steps - 1:
                break
            k += 1
    return result


def test_advantages_are_the_slow_ones() -> None:
    rng = np.random.default_rng(0)
    shape = (40, 5)
    reward, value = rng.normal(size=shape), rng.normal(size=(41, 5))
    terminated, truncated = rng.random(shape) < 0.1, rng.random(shape) < 0.1
    found = advantages(reward, value, terminated, truncated, 0.9, 0.8)
    for e in range(5):
        columns = (reward[:, e], value[:, e], terminated[:, e], truncated[:, e])
        assert np.allclose(found[:, e], slow_advantages(*columns, 0.9, 0.8))


def test_termination_and_truncation_by_hand() -> None:
    """Reward 1, value 10 everywhere, gamma 1/2, lambda 1: the last step is worth 1 - 10 or 1 + 5 - 10."""
    reward, value, no = np.ones((2, 1)), np.full((3, 1), 10.0), np.zeros((2, 1), np.bool_)
    yes = np.array([[False], [True]])
    assert advantages(reward, value, yes, no, 0.5, 1.0).ravel().tolist() == [-4 - 4.5, -9]
    assert advantages(reward, value, no, yes, 0.5, 1.0).ravel().tolist() == [-4 - 2, -4]
    # After an end nothing of the next episode comes through.
    first = np.array([[True], [False]])
    assert advantages(reward, value, first, no, 0.5, 1.0)[0, 0] == -9


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "learns"),
    [
        (1.1, 2.0, -2.2, True),
        (1.5, 2.0, -2.4, False),  # far enough up already
        (0.5, 2.0, -1.0, True),
        (0.5, -2.0, 1.6, False),  # far enough down already
        (1.5, -2.0, 3.0, True),
    ],
)
def test_clipping(ratio: float, advantage: float, loss: float, learns: bool) -> None:
    log_ratio = torch.tensor([ratio]).log().requires_grad_()
    found = clipped_loss(log_ratio, torch.tensor([advantage]), 0.2)
    found.backward()
    assert found.item() == pytest.approx(loss)
    assert log_ratio.grad is not None and (log_ratio.grad.item() != 0) == learns


def test_running_statistics_are_those_of_all_rows() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal([5.0, -100.0], [2.0, 0.01], (1000, 2))
    statistics = RunningStatistics(2)
    for part in np.split(rows, [1, 7, 400]):
        statistics.update(part)
    statistics.update(rows[:0])
    assert np.allclose(statistics.mean, rows.mean(axis=0)) and np.allclose(statistics.variance, rows.var(axis=0))
    assert statistics.count == 1000


def test_rewards_are_scaled_by_the_discounted_return() -> None:
    scaler = RewardScaler(0.5, 1)
    reward = np.array([[1.0], [1.0], [0.0], [4.0]])
    done, valid = np.array([[False], [True], [False], [False]]), np.array([[True], [True], [False], [True]])
    # Returns 1, 1.5 | none | 4: the third step is the one in which the environment is reset.
    assert np.allclose(scaler.scale(reward, done, valid), reward / np.std([1, 1.5, 4]))


def test_log_prob_and_entropy_are_torchs() -> None:
    torch.manual_seed(0)
    network = ActorCritic(3, 2)
    with torch.no_grad():
        network.log_std.copy_(torch.tensor([-0.5, 0.3]))
    mean, action = torch.randn(6, 2), torch.randn(6, 2)
    normal = torch.distributions.Normal(mean, network.log_std.exp())
    assert torch.allclose(network.log_prob(mean, action), normal.log_prob(action).sum(1), atol=1e-5)
    assert torch.allclose(network.entropy(), normal.entropy().sum(1)[0], atol=1e-6)


def test_exported_policy_normalises_scales_and_clips() -> None:
    torch.manual_seed(0)
    network, observations, returns = ActorCritic(2, 1), RunningStatistics(2), RunningStatistics(1)
    observations.mean, observations.variance = np.array([1.0, 2.0]), np.array([4.0, 9.0])
    returns.variance = np.array([25.0])
    policy = checkpoint.script(ContinuousPolicy(network, observations, returns, np.array([-1.0]), np.array([3.0])))
    seen = torch.tensor([[0.5, -CLIP]])
    raw = torch.tensor([[2.0, -1e6]])
    assert torch.allclose(policy(raw), 1 + 2 * network.mean(seen), atol=1e-6)
    assert torch.allclose(policy.value(raw), 5 * network.value(seen), atol=1e-5)
    with torch.no_grad():
        network.actor[-1].bias.fill_(100.0)
    assert policy(raw).item() == 3.0


class Target(gymnasium.Env[np.ndarray, np.ndarray]):
    """Episodes of ten steps; a step costs the squared distance of the action from what the observation asks for."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)
    metadata = {"render_modes": [], "render_fps": 25}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        cost = float((action[0] - self.wanted) ** 2)
        self.steps += 1
        return self._observe(), -cost, False, self.steps == 10, {}

    def _observe(self) -> np.ndarray:
        self.wanted = self.np_random.uniform(-1, 1)
        return np.array([100 + 10 * self.wanted, 3.0])


@pytest.fixture
def target_task() -> Any:
    gymnasium.register("Target-v0", Target)
    yield "Target-v0"
    del gymnasium.registry["Target-v0"]


def small(out: Path, **changes: Any) -> Options:
    options = Options(
        out=out,
        env_id="Target-v0",
        total_timesteps=4 * 2 * 32,
        num_envs=2,
        num_steps=32,
        update_epochs=2,
        minibatch_size=16,
        widths=(16,),
        checkpoint_every=2,
        test_episodes=3,
        evaluation_episodes=0,
        videos=False,
        seed=3,
    )
    return dataclasses.replace(options, **changes)


def test_learns_what_can_be_learnt(target_task: str, tmp_path: Path) -> None:
    options = small(
        tmp_path / "p.pt", total_timesteps=4000, num_envs=4, num_steps=50, update_epochs=10, minibatch_size=50,
        learning_rate=1e-2, gamma=0.5, log_std=-1.0, checkpoint_every=10, evaluation_episodes=3,
    )  # fmt: skip
    result = ppo_trainer.train_one(options)
    # Doing nothing costs E u^2 = 1/3 a step.
    assert result["evaluation"]["mean_return"] > -0.5
    policy = checkpoint.load(options.out, kind="continuous policy", task="Target-v0")
    assert policy.spec.rate == 25.0 and policy.spec.action_high == (2.0,)
    wanted = torch.linspace(-0.8, 0.8, 5)
    observation = torch.stack([100 + 10 * wanted, torch.full((5,), 3.0)], dim=1)
    assert torch.allclose(policy.module(observation)[:, 0], wanted, atol=0.3)
    assert (options.run_folder / "curves.png").stat().st_size > 10_000


def test_checkpoint_answers_as_in_training(target_task: str, tmp_path: Path) -> None:
    trainer = Trainer(small(tmp_path / "p.pt"))
    trainer.run()
    observation = torch.tensor([[95.0, 3.0], [108.0, 3.0]])
    statistics = trainer.statistics
    rows = torch.from_numpy((observation.numpy() - statistics.mean) / statistics.std).float().clamp(-CLIP, CLIP)
    loaded = checkpoint.load(trainer.checkpoint_path(trainer.steps))
    expected = (2 * trainer.network.mean(rows)).clamp(-2, 2)
    assert torch.allclose(loaded.module(observation), expected, atol=1e-5)


def test_training_episodes_are_as_long_as_asked(target_task: str, tmp_path: Path) -> None:
    """Truncated, as by a time limit; tests have the task's own."""
    trainer = Trainer(small(tmp_path / "p.pt", episode_steps=7))
    trainer.run()
    assert {length for _, _, length in trainer.train_curve} == {7.0}
    assert {length for _, _, length in trainer.test_curve} == {10.0}


def test_statistics_of_observations_stay_as_they_are_after_a_while(target_task: str, tmp_path: Path) -> None:
    counts = []
    for steps in (64, 65, 10_000):
        trainer = Trainer(small(tmp_path / f"{steps}.pt", statistics_steps=steps))
        trainer.run()
        counts.append(trainer.statistics.count)
    assert counts[0] < counts[1] < counts[2]


def test_a_checkpoint_every_few_iterations_and_the_best_is_exported(target_task: str, tmp_path: Path) -> None:
    trainer = Trainer(small(tmp_path / "p.pt", total_timesteps=5 * 64))
    trainer.run()
    assert [row[0] for row in trainer.test_curve] == [128, 256, 320]
    best = max(trainer.test_curve, key=lambda row: row[1])
    assert checkpoint.file_sha256(tmp_path / "p.pt") == checkpoint.file_sha256(trainer.checkpoint_path(best[0]))


@pytest.mark.parametrize(
    "changes",
    [{"gae_lambda": 0.5}, {"clip_coef": 0.01}, {"vf_coef": 0.1}, {"ent_coef": 0.1}, {"max_grad_norm": 0.01}],
    ids=lambda changes: next(iter(changes)),
)
def test_every_coefficient_has_an_effect(changes: dict[str, float], target_task: str, tmp_path: Path) -> None:
    runs = [Trainer(small(tmp_path / "a.pt")), Trainer(small(tmp_path / "b.pt", **changes))]
    for trainer in runs:
        trainer._iterate(trainer.bookkeeping.bar("", 0, 2))
    one, other = (torch.cat([p.flatten() for p in trainer.network.parameters()]) for trainer in runs)
    assert not torch.equal(one, other)


def test_resumed_run_is_the_uninterrupted_one_bit_for_bit(target_task: str, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.pt", tmp_path / "parts.pt"
    one = Trainer(small(whole))
    one.run()
    stopped = Trainer(small(parts))
    learn, learnt = stopped._learn, []

    def learn_and_stop(*arguments: Any) -> Any:
        learnt.append(1)
        if len(learnt) == 4:  # after the first save, in the middle of a segment
            raise KeyboardInterrupt
        return learn(*arguments)

    stopped._learn = learn_and_stop  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    other = Trainer(small(parts, resume=True))
    other.run()
    for name, value in one.network.state_dict().items():
        assert torch.equal(value, other.network.state_dict()[name]), name
    assert np.array_equal(one.statistics.mean, other.statistics.mean)
    assert one.test_curve == other.test_curve and one.train_curve == other.train_curve
    first, second = checkpoint.weights(whole), checkpoint.weights(parts)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--env-id", "CartPole-v1"], "its actions are discrete"),
        (["--env-id", "NoSuchTask-v0"], "NoSuchTask"),
        (["--gamma", "1.5"], "gamma 1.5"),
        (["--threads", "0"], "threads 0: must be at least 1"),
        (["--episode-steps", "0"], "episode_steps 0"),
        (["--resume"], "nothing to resume from"),
    ],
)
def test_bad_options_are_one_line(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "p.pt"
    monkeypatch.setattr(sys, "argv", ["train_ppo", "--out", str(out), *arguments])
    with pytest.raises(SystemExit) as end:
        command_line.run(Options, train_ppo.train, None)
    lines = capsys.readouterr().err.strip().splitlines()
    assert end.value.code == 2 and len(lines) == 1 and said in lines[0]
    assert not out.exists()


def test_double_pendulum_is_evaluated_by_episode_and_filmed(tmp_path: Path) -> None:
    options = small(tmp_path / "p.pt", env_id="InvertedDoublePendulum-v5", total_timesteps=64, checkpoint_every=1)
    trainer = Trainer(options)
    trainer.run()
    spec = checkpoint.read_spec(options.out)
    assert (spec.task, spec.rate, spec.inputs[0].shape) == ("double_pendulum", 20.0, (9,))
    three, last = evaluate_gym(options.out, 3, 100_000, 50), evaluate_gym(options.out, 1, 100_002, 50)
    assert three["results"][2]["return"] == last["results"][0]["return"]
    assert [row["seed"] for row in three["results"]] == [100_000, 100_001, 100_002]
    assert three["mean_return"] == pytest.approx(np.mean([row["return"] for row in three["results"]]))
    video = tmp_path / "fall.mp4"
    assert record_video(options.out, video, 90_000, 5) == 5 and video.stat().st_size > 1000
