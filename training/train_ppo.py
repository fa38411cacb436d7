"""Trains a continuous Gymnasium task's policy by PPO (Schulman et al. 2017, arXiv 1707.06347)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion_ros import checkpoint
from diffusion_ros.atomic_file import atomic_write, write_json
from training import command_line
from training.evaluation.gym import evaluate_and_record, record_video
from training.networks.mlp import ActorCritic
from training.rl.gymnasium_task import EpisodeLog, continuous_task, first_episodes, policy_spec, training_seed
from training.rl.ppo import ContinuousPolicy, RewardScaler, RunningStatistics, advantages, clipped_loss
from training.rl.side_by_side import train_seeds
from training.run import FIRST_VALIDATION_SEED, Run, options_json, set_rates, step_generator

Array = NDArray[Any]
FREE = ("seeds", "workers", "evaluation_episodes", "videos")
"""Options that do not change the weights."""


@dataclass(frozen=True)
class Options:
    """Trains a policy with a tested checkpoint every few iterations, exports the best and evaluates it."""

    out: Path
    """The checkpoint to write. The run's folder beside it, <out>.run, holds the others, plots, videos, the log and what
    --resume needs."""
    environment: str = "InvertedDoublePendulum-v5"
    """A Gymnasium task with continuous actions."""
    steps: int = 400_000
    """Environment steps, of all environments together; rounded up to whole iterations."""
    environments: int = 16
    """Stepped as one."""
    rollout: int = 256
    """Steps of each environment in an iteration."""
    episode_steps: int | None = 80
    """Training episodes are truncated after so many steps, if the task does not end them sooner: of long ones that go
    well, the rare starts would be forgotten. None: as the task says."""
    epochs: int = 10
    """Passes over an iteration's steps."""
    batch_size: int = 256
    """Steps an update."""
    widths: tuple[int, ...] = (64, 64)
    """Hidden layers of actor and critic."""
    log_std: float = -0.5
    """Start of the actor's log standard deviation, in units of half an action's range."""
    statistics_steps: int = 100_000
    """Environment steps after which the statistics that normalise observations stay as they are."""
    learning_rate: float = 5e-4
    """Adam, falling to 0 along a line."""
    gamma: float = 0.99
    """Discount of a step."""
    gae_lambda: float = 0.95
    """Of the advantages."""
    clip: float = 0.2
    """Of the ratio of probabilities."""
    value_weight: float = 0.5
    """Of the critic's squared error in the loss."""
    entropy_weight: float = 0.0
    """Of the entropy in the loss."""
    max_grad_norm: float = 0.5
    """Longer gradients are shortened to it."""
    checkpoint_every: int = 10
    """Iterations between checkpoints, each of which is tested. Training episodes are cut there, as by a time limit."""
    test_episodes: int = 100
    """Of each test, at most 1,000 steps long."""
    evaluation_episodes: int = 100
    """Of the exported checkpoint, from seed 100,000 on; 0 for none."""
    videos: bool = True
    """Record the first checkpoint and the exported one."""
    resume: bool = False
    """Go on with the run of the same --out, to the same weights as if it had not been stopped."""
    seed: int = 0
    """Of everything random."""
    seeds: tuple[int, ...] = ()
    """Train with each of these, side by side; the checkpoints are <out>_seed<n>.pt."""
    workers: int = 2
    """Processes (with --seeds)."""
    threads: int = 1
    """CPU threads of torch."""

    def __post_init__(self) -> None:
        for name in (
            *("steps", "environments", "rollout", "epochs", "batch_size", "checkpoint_every", "test_episodes"),
            *("statistics_steps", "workers"),
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least 1")
        if self.batch_size < 2:
            raise ValueError(f"batch_size {self.batch_size}: at least 2 are needed, whose advantages are compared")
        if self.evaluation_episodes < 0:
            raise ValueError(f"evaluation_episodes {self.evaluation_episodes}: must be at least 0")
        if self.episode_steps is not None and self.episode_steps < 1:
            raise ValueError(f"episode_steps {self.episode_steps}: must be at least 1")
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths {self.widths}: at least one hidden layer, each at least 1 wide, is needed")
        for name in ("gamma", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)}: must lie between 0 and 1")
        for name in ("learning_rate", "clip", "max_grad_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name)}: must be above 0")

    @property
    def run_folder(self) -> Path:
        return self.out.with_name(self.out.name + ".run")

    @property
    def iterations(self) -> int:
        return math.ceil(self.steps / (self.environments * self.rollout))

    @property
    def mixed_precision(self) -> str:
        """Networks this small gain nothing from it."""
        return "no"


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
        self.task = continuous_task(options.environment)
        self.bookkeeping = Run(options, Options(options.out), FREE)
        self.network = ActorCritic(
            self.task.observation_size, len(self.task.action_low), options.widths, options.log_std
        )
        self.statistics = RunningStatistics(self.task.observation_size)
        self.rewards = RewardScaler(options.gamma, options.environments)
        self.policy = self._policy()
        checkpoint.script(self.policy)  # what cannot be exported must fail now
        self.optimizer = torch.optim.Adam(self.network.parameters(), options.learning_rate, eps=1e-5, fused=True)
        self.environments = self.task.environments(options.environments, options.episode_steps)
        self.tests = self.task.environments(options.test_episodes)
        self.iteration = 0
        self.episodes = EpisodeLog(options.environments)
        self.train_curve: list[tuple[int, float, float]] = []
        """(steps, mean return, mean length) of the training episodes that ended in an iteration."""
        self.test_curve: list[tuple[int, float, float]] = []
        """(steps, mean return, mean length) of the checkpoints' tests."""

    @property
    def steps(self) -> int:
        return self.iteration * self.options.environments * self.options.rollout

    def run(self) -> None:
        """Trains from where it is to the end; exports the checkpoint that did best in its test, of equals the last."""
        options = self.options
        state = self.bookkeeping.saved()
        if state is None:
            self._save()
        else:
            self._restore(state)
        bar = self.bookkeeping.bar(self.task.name, self.iteration, options.iterations)
        while self.iteration < options.iterations:
            self._segment(bar)
            self._test()
            self._save()
            bar.set_postfix(test=f"{self.test_curve[-1][1]:.0f}", length=f"{self.test_curve[-1][2]:.0f}")
        bar.close()
        self.environments.close()
        self.tests.close()
        best = max(range(len(self.test_curve)), key=lambda i: (self.test_curve[i][1], i))
        with atomic_write(options.out) as temporary:
            temporary.write_bytes(self.checkpoint_path(self.test_curve[best][0]).read_bytes())

    def checkpoint_path(self, steps: int) -> Path:
        """Of the checkpoint after so many steps."""
        return self.options.run_folder / f"{steps:08d}.pt"

    def _segment(self, bar: Any) -> None:
        options = self.options
        segment = self.iteration // options.checkpoint_every
        generator = step_generator(options.seed, 1, segment)
        observation, _ = self.environments.reset(seed=training_seed(options.seed, segment))
        valid = np.ones(options.environments, np.bool_)
        self.rewards.restart()
        self.episodes = EpisodeLog(options.environments)
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
        shape = (options.rollout, options.environments)
        observations = torch.empty((options.rollout + 1, options.environments, self.task.observation_size))
        actions = torch.randn((*shape, len(self.task.action_low)), generator=generator) * self.network.log_std.exp()
        means = torch.empty_like(actions)
        raw, reward = np.empty((*shape, self.task.observation_size)), np.empty(shape)
        terminated, truncated = np.empty(shape, np.bool_), np.empty(shape, np.bool_)
        valids = np.empty(shape, np.bool_)
        for t in range(options.rollout):
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
        value = self.network.value(observations.flatten(0, 1)).view(options.rollout + 1, -1).double().numpy()
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
        batches = max(1, count // options.batch_size)
        weights = list(self.network.parameters())
        for _ in range(options.epochs):
            order = torch.randperm(count, generator=generator)
            for rows in order.tensor_split(batches):
                observation, advantage = rollout.observation[rows], rollout.advantage[rows]
                log_prob = self.network.log_prob(self.network.mean(observation), rollout.action[rows])
                log_ratio = log_prob - rollout.log_prob[rows]
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                policy_loss = clipped_loss(log_ratio, advantage, options.clip)
                value_loss = (self.network.value(observation) - rollout.returns[rows]).square().mean()
                loss = policy_loss + options.value_weight * value_loss
                if options.entropy_weight:
                    loss = loss - options.entropy_weight * self.network.entropy()
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

    def _save(self) -> None:
        self.bookkeeping.save(
            iteration=self.iteration,
            network=self.network.state_dict(),
            optimizer=self.optimizer.state_dict(),
            observations=self.statistics.state(),
            returns=self.rewards.statistics.state(),
            train_curve=self.train_curve,
            test_curve=self.test_curve,
        )

    def _restore(self, state: dict[str, Any]) -> None:
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
    if options.videos:
        first = trainer.checkpoint_path(trainer.test_curve[0][0])
        for path, name in ((first, "first.mp4"), (options.out, "best.mp4")):
            record_video(path, options.run_folder / name, FIRST_VALIDATION_SEED, MAX_STEPS)
    write_json(options.run_folder / "result.json", result)
    return result


def train(options: Options) -> None:
    """Trains and exports. ValueError, in one line, for a task or options that do not fit."""
    continuous_task(options.environment)  # before any process is started
    train_seeds(train_one, options)


def main() -> None:
    command_line.run(Options, train, __doc__, "stopped; --resume goes on from the last save")


if __name__ == "__main__":
    main()
