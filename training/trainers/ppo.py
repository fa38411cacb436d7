"""The training of PPO: what `python -m training.train_ppo` does once its options are read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from diffusion_ros import checkpoint
from diffusion_ros.atomic_file import atomic_write, write_json
from training.evaluation.gym import evaluate_and_record, record_video
from training.networks.mlp import ActorCritic
from training.options.ppo import Options
from training.options.shared import options_json
from training.parallel import say
from training.rl.gymnasium_task import EpisodeLog, continuous_task, first_episodes, policy_spec, training_seed
from training.rl.ppo import ContinuousPolicy, RewardScaler, RunningStatistics, advantages, clipped_loss
from training.run import FIRST_VALIDATION_SEED, Run, set_rates, step_generator

Array = NDArray[Any]


MAX_STEPS = 1000
"""Of an episode in a test."""


@dataclass(frozen=True)
class Rollout:
    """What an iteration learns from: steps (N), those in which environments are reset left out."""

    observation: Tensor
    """(N, n) as the network sees it."""
    action: Tensor
    """(N, m) as the network draws it."""
    log_prob: Tensor
    """(N,)."""
    advantage: Tensor
    """(N,)."""
    returns: Tensor
    """(N,) what the critic is to say."""


class Trainer:
    """One run. It consists of segments of checkpoint_every iterations; each starts new episodes and streams of random
    numbers from its own number, so that a resumed run needs neither the environments' state nor the generators'."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.task = continuous_task(options.env_id)
        self.bookkeeping = Run(options)
        self.network = ActorCritic(
            self.task.observation_size, len(self.task.action_low), options.widths, options.log_std
        )
        self.statistics = RunningStatistics(self.task.observation_size)
        self.rewards = RewardScaler(options.gamma, options.num_envs)
        self.policy = self._policy()
        checkpoint.script(self.policy)  # what cannot be exported must fail now
        self.optimizer = torch.optim.Adam(self.network.parameters(), options.learning_rate, eps=1e-5, fused=True)
        self.environments = self.task.environments(options.num_envs, options.episode_steps)
        self.tests = self.task.environments(options.test_episodes)
        self.iteration = 0
        self.episodes = EpisodeLog(options.num_envs)
        self.train_curve: list[tuple[int, float, float]] = []
        """(steps, mean return, mean length) of the training episodes that ended in an iteration."""
        self.test_curve: list[tuple[int, float, float]] = []
        """(steps, mean return, mean length) of the checkpoints' tests."""

    @property
    def steps(self) -> int:
        return self.iteration * self.options.num_envs * self.options.num_steps

    @property
    def done(self) -> int:
        return self.iteration

    @property
    def total(self) -> int:
        return self.options.iterations

    def run(self) -> None:
        """Trains from where it is to the end; exports the checkpoint that did best in its test, of equals the last."""
        self.bookkeeping.segments(self.task.name, self)
        self.environments.close()
        self.tests.close()
        best = max(range(len(self.test_curve)), key=lambda i: (self.test_curve[i][1], i))
        with atomic_write(self.options.out) as temporary:
            temporary.write_bytes(self.checkpoint_path(self.test_curve[best][0]).read_bytes())

    def checkpoint_path(self, steps: int) -> Path:
        """Of the checkpoint after so many steps."""
        return self.options.run_folder / f"{steps:08d}.pt"

    def segment(self, bar: tqdm[Any]) -> None:
        """The iterations up to the next checkpoint, and its test."""
        self._iterate(bar)
        self._test()
        bar.set_postfix(test=f"{self.test_curve[-1][1]:.0f}", length=f"{self.test_curve[-1][2]:.0f}")

    def _iterate(self, bar: tqdm[Any]) -> None:
        options = self.options
        segment = self.iteration // options.checkpoint_every
        generator = step_generator(options.seed, 1, segment)
        observation, _ = self.environments.reset(seed=training_seed(options.seed, segment))
        valid = np.ones(options.num_envs, np.bool_)
        self.rewards.restart()
        self.episodes = EpisodeLog(options.num_envs)
        for _ in range(min(options.checkpoint_every, options.iterations - self.iteration)):
            rollout, observation, valid = self._roll_out(observation, valid, generator)
            set_rates(self.optimizer, [options.learning_rate], 1 - self.iteration / options.iterations)
            losses = self._learn(rollout, generator)
            self.iteration += 1
            self._log(losses)
            bar.update()

    @torch.no_grad()
    def _roll_out(self, observation: Array, valid: Array, generator: torch.Generator) -> tuple[Rollout, Array, Array]:
        """One iteration's steps from `observation` (E, n); returns also the last observation, and where it is none."""
        options = self.options
        shape = (options.num_steps, options.num_envs)
        observations = torch.empty((options.num_steps + 1, options.num_envs, self.task.observation_size))
        actions = torch.randn((*shape, len(self.task.action_low)), generator=generator) * self.network.log_std.exp()
        means = torch.empty_like(actions)
        raw, reward = np.empty((*shape, self.task.observation_size)), np.empty(shape)
        terminated, truncated = np.empty(shape, np.bool_), np.empty(shape, np.bool_)
        valids = np.empty(shape, np.bool_)
        for t in range(options.num_steps):
            raw[t], valids[t] = observation, valid
            observations[t] = self.policy.normalize(torch.from_numpy(observation.astype(np.float32, copy=False)))
            means[t] = self.network.mean(observations[t])
            actions[t] += means[t]
            action = self.policy.scale_action(actions[t]).numpy()
            observation, reward[t], terminated[t], truncated[t], _ = self.environments.step(action)
            valid = ~(terminated[t] | truncated[t])
            self.episodes.add(reward[t], ~valid, valids[t])
        observations[-1] = self.policy.normalize(torch.from_numpy(observation.astype(np.float32, copy=False)))
        log_prob = self.network.log_prob(means.flatten(0, 1), actions.flatten(0, 1))
        value = self.network.value(observations.flatten(0, 1)).view(options.num_steps + 1, -1).double().numpy()
        scaled = self.rewards.scale(reward, terminated | truncated, valids)
        advantage = advantages(scaled, value, terminated, truncated, options.gamma, options.gae_lambda)
        if self.steps < options.statistics_steps:
            self.statistics.update(raw[valids])
        keep = torch.from_numpy(valids.reshape(-1))
        rollout = Rollout(
            observations[:-1].flatten(0, 1)[keep],
            actions.flatten(0, 1)[keep],
            log_prob[keep],
            torch.from_numpy(advantage.reshape(-1)).float()[keep],
            torch.from_numpy((advantage + value[:-1]).reshape(-1)).float()[keep],
        )
        return rollout, observation, valid

    def _learn(self, rollout: Rollout, generator: torch.Generator) -> dict[str, float]:
        """The epochs of minibatches; returns the losses of the last one. Then the network sees by newer statistics."""
        options = self.options
        count = len(rollout.advantage)
        batches = max(1, count // options.minibatch_size)
        weights = list(self.network.parameters())
        for _ in range(options.update_epochs):
            order = torch.randperm(count, generator=generator)
            for rows in order.tensor_split(batches):
                observation, advantage = rollout.observation[rows], rollout.advantage[rows]
                log_prob = self.network.log_prob(self.network.mean(observation), rollout.action[rows])
                log_ratio = log_prob - rollout.log_prob[rows]
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                policy_loss = clipped_loss(log_ratio, advantage, options.clip_coef)
                value_loss = (self.network.value(observation) - rollout.returns[rows]).square().mean()
                loss = policy_loss + options.vf_coef * value_loss
                if options.ent_coef:
                    loss = loss - options.ent_coef * self.network.entropy()
                self.optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(weights, options.max_grad_norm)
                self.optimizer.step()
        self.policy = self._policy()
        return {
            "policy": policy_loss.item(),
            "value": value_loss.item(),
            "divergence": -log_ratio.mean().item(),
            "std": self.network.log_std.exp().mean().item(),
        }

    def _policy(self) -> ContinuousPolicy:
        """The network with the statistics as they are now."""
        return ContinuousPolicy(
            self.network,
            self.statistics,
            self.rewards.statistics,
            np.array(self.task.action_low),
            np.array(self.task.action_high),
        )

    def _log(self, losses: dict[str, float]) -> None:
        for name, value in losses.items():
            self.bookkeeping.record(f"train/{name}", value, self.steps)
        mean_return, mean_length = self.episodes.take()
        if not math.isnan(mean_return):
            self.train_curve.append((self.steps, mean_return, mean_length))
            self.bookkeeping.record("train/return", mean_return, self.steps)
            self.bookkeeping.record("train/length", mean_length, self.steps)

    @torch.no_grad()
    def _test(self) -> None:
        """Writes a checkpoint and tests its mean actions on validation episodes."""

        def act(observation: Array) -> Array:
            action: Array = self.policy(torch.from_numpy(observation.astype(np.float32, copy=False))).numpy()
            return action

        episodes = first_episodes(self.tests, act, FIRST_VALIDATION_SEED, MAX_STEPS)
        mean_return, mean_length = float(episodes.returns.mean()), float(episodes.lengths.mean())
        self.test_curve.append((self.steps, mean_return, mean_length))
        self.bookkeeping.record("test/return", mean_return, self.steps)
        self.bookkeeping.record("test/length", mean_length, self.steps)
        scores = {"steps": self.steps, "validation_return": mean_return, "validation_length": mean_length}
        spec = policy_spec(self.task, options_json(self.options), scores)
        checkpoint.save(self.policy, spec, self.checkpoint_path(self.steps))

    def state(self) -> dict[str, Any]:
        """For run.save_state."""
        return {
            "iteration": self.iteration,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "observations": self.statistics.state(),
            "returns": self.rewards.statistics.state(),
            "train_curve": self.train_curve,
            "test_curve": self.test_curve,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """The opposite of :meth:`state`."""
        self.iteration = int(state["iteration"])
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.statistics.restore(state["observations"])
        self.rewards.statistics.restore(state["returns"])
        self.policy = self._policy()
        self.train_curve, self.test_curve = list(state["train_curve"]), list(state["test_curve"])


def plot_curves(trainer: Trainer, path: Path) -> None:
    """Return and length against steps, in training and in testing."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for column, (axis, label) in enumerate(zip(axes, ("return", "length [steps]"), strict=True)):
        for curve, name in ((trainer.train_curve, "training"), (trainer.test_curve, "testing")):
            axis.plot([row[0] for row in curve], [row[1 + column] for row in curve], label=name)
        axis.set_xlabel("environment steps")
        axis.set_ylabel(f"mean {label}")
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.suptitle(f"PPO on {trainer.task.environment}, seed {trainer.options.seed}")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def train_one(options: Options) -> dict[str, Any]:
    """Trains, exports and evaluates one seed; returns what result.json in the run's folder has then."""
    torch.set_num_threads(options.threads)
    trainer = Trainer(options)
    trainer.run()
    plot_curves(trainer, options.run_folder / "curves.png")
    result: dict[str, Any] = {
        "out": str(options.out),
        "options": options_json(options),
        "train_curve": trainer.train_curve,
        "test_curve": trainer.test_curve,
        **checkpoint.read_spec(options.out).scores,
    }
    if options.evaluation_episodes:
        result["evaluation"] = evaluate_and_record(options.out, options.evaluation_episodes, MAX_STEPS)
    write_json(options.run_folder / "result.json", result)
    if options.videos and trainer.task.pictures:
        first = trainer.checkpoint_path(trainer.test_curve[0][0])
        for path, name in ((first, "first.mp4"), (options.out, "best.mp4")):
            try:
                record_video(path, options.run_folder / name, FIRST_VALIDATION_SEED, MAX_STEPS)
            except Exception as error:  # of a task's own drawing: all else is there
                say(f"{options.run_folder / name}: no video: {type(error).__name__}: {' '.join(str(error).split())}")
    return result
