"""Trains DQN with any of the six additions of Rainbow (Hessel et al. 2018, arXiv 1710.02298) on a Gymnasium task."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from diffusion_ros import checkpoint
from diffusion_ros.atomic_file import write_json
from training import command_line
from training.evaluation.gym import evaluate_and_record
from training.networks.mlp import QNetwork
from training.rl.gymnasium_task import EpisodeLog, discrete_task, first_episodes, policy_spec, training_seed
from training.rl.rainbow import DiscretePolicy, Learner
from training.rl.replay import NStepReturns, Replay
from training.rl.side_by_side import SeedOptions, train_seeds
from training.run import FIRST_VALIDATION_SEED, Run, options_json, step_generator

Array = NDArray[Any]
SWITCHES = ("double", "prioritised", "dueling", "noisy", "categorical", "n_step")
"""The additions to DQN."""


@dataclass(frozen=True, kw_only=True)
class Options(SeedOptions):
    """Trains a policy, keeps the weights that do best on validation episodes, exports and evaluates them."""

    env_id: str = "CartPole-v1"
    """A Gymnasium task with discrete actions."""
    total_timesteps: int = 15_000
    double: bool = True
    """Double DQN: the network chooses the next action, and the target network evaluates it."""
    prioritised: bool = True
    """Prioritised replay."""
    dueling: bool = True
    """Dueling network."""
    noisy: bool = True
    """Explore with noisy layers. Without them, exploration is epsilon-greedy."""
    categorical: bool = True
    """C51: predict distributions of the return instead of its mean."""
    n_step: bool = True
    """Returns over --n-steps steps instead of one."""
    widths: tuple[int, ...] = (128, 128)
    num_envs: int = 8
    gamma: float = 0.995
    learning_rate: float = 2e-3
    batch_size: int = 64
    """Transitions in a batch."""
    updates_per_step: float = 1.0
    """Number of updates for each environment step."""
    learning_starts: int = 1000
    """Environment steps before the first update, with random actions. With noisy weights alone all environments would
    go the same way at first, and some seeds would never learn another."""
    buffer_size: int = 8000
    """Number of transitions that the replay keeps. Old ones have returns of an old policy, so keep it small with
    --n-step."""
    target_every: int = 50
    """Updates after which the network is copied to the target network."""
    end_e: float = 0.04
    """Without noisy: last share of random actions. The first is 1."""
    exploration_fraction: float = 0.2
    """Without noisy: share of all steps in which the random actions fall from 1 to --end-e."""
    prioritized_replay_alpha: float = 0.5
    """With prioritised: how much the priorities count. 0: not at all."""
    prioritized_replay_beta: float = 0.4
    """With prioritised: share of the bias that the importance weights correct at the start. At the end it is all."""
    n_atoms: int = 51
    """With categorical: number of atoms of the distributions."""
    v_min: float = 0.0
    """With categorical: least return of the distributions."""
    v_max: float = 200.0
    """With categorical: greatest return of the distributions. CartPole's is 1 / (1 - gamma)."""
    n_steps: int = 10
    """With n_step: number of steps of the returns."""
    validate_every: int = 500
    """Environment steps after which a validation runs."""
    validation_episodes: int = 100
    """Episodes in each validation."""
    save_every: int = 5000
    """Environment steps after which the run is saved for --resume. Episodes are cut there, as by a time limit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "batch_size", "buffer_size", "target_every", "n_steps")
        self.check_at_least(1, "validate_every", "validation_episodes", "save_every")
        self.check_shares("end_e", "exploration_fraction", "prioritized_replay_alpha", "prioritized_replay_beta")
        self.check_positive("updates_per_step")
        for name in ("learning_starts", "buffer_size"):
            if getattr(self, name) < self.batch_size:
                raise ValueError(f"{name} {getattr(self, name)}: at least a batch, {self.batch_size}, is needed")
        for name in ("learning_starts", "validate_every"):
            if getattr(self, name) > self.total_timesteps:
                raise ValueError(
                    f"{name} {getattr(self, name)}: must be at most total_timesteps, {self.total_timesteps}"
                )
        if self.categorical and (self.n_atoms < 2 or not self.v_min < self.v_max):
            raise ValueError(
                f"n_atoms {self.n_atoms} from v_min {self.v_min} to v_max {self.v_max}: at least two, ascending, are"
                " needed"
            )


class Trainer:
    """One run. It consists of segments of save_every steps; each starts new episodes and streams of random numbers
    from its own number, so that a resumed run needs neither the environments' state nor the generators'."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.task = discrete_task(options.env_id)
        self.bookkeeping = Run(options)
        self.network = QNetwork(
            self.task.observation_size,
            self.task.n_actions,
            options.widths,
            options.noisy,
            options.dueling,
            options.n_atoms if options.categorical else 1,
            options.v_min,
            options.v_max,
        )
        checkpoint.script(DiscretePolicy(self.network))  # what cannot be exported must fail now
        self.learner = Learner(self.network, options.double, options.learning_rate, options.target_every)
        alpha = options.prioritized_replay_alpha if options.prioritised else None
        self.replay = Replay(options.buffer_size, self.task.observation_size, alpha)
        self.environments = self.task.environments(options.num_envs)
        self.validation = self.task.environments(options.validation_episodes)
        self.steps = 0
        self.curve: list[tuple[int, float]] = []
        """(steps, mean return) of the validations."""
        self.best_return = -math.inf
        self.best = self._weights()

    @property
    def done(self) -> int:
        return self.steps

    @property
    def total(self) -> int:
        return self.options.total_timesteps

    def run(self) -> None:
        """Trains from where it is to the end and exports the best."""
        self.bookkeeping.segments(self.task.name, self)
        self.environments.close()
        self.validation.close()
        self.network.load_state_dict(self.best)
        spec = policy_spec(self.task, options_json(self.options), {"validation_return": self.best_return})
        checkpoint.save(DiscretePolicy(self.network), spec, self.options.out)

    def segment(self, bar: tqdm[Any]) -> None:
        """The steps up to the next save."""
        options = self.options
        segment = self.steps // options.save_every
        end = min((segment + 1) * options.save_every, options.total_timesteps)
        generator, rng = step_generator(options.seed, 1, segment), np.random.default_rng([options.seed, 2, segment])
        returns = NStepReturns(
            options.n_steps if options.n_step else 1, options.gamma, options.num_envs, self.task.observation_size
        )
        episodes = EpisodeLog(options.num_envs)
        observation = self._reset(segment)
        valid = np.ones(options.num_envs, np.bool_)
        while self.steps < end:
            action = self._explore(observation, generator, rng)
            next_observation, reward, terminated, truncated, _ = self.environments.step(action)
            next_observation = next_observation.astype(np.float32, copy=False)
            made = returns.add(observation, action, reward, next_observation, terminated, truncated, valid)
            self._check_support(made.returns)
            self.replay.add(made)
            episodes.add(reward, terminated | truncated, valid)
            taken, before = int(valid.sum()), self.steps
            self.steps += taken
            observation, valid = next_observation, ~(terminated | truncated)
            self._learn(generator, rng)
            if self.steps // options.validate_every > before // options.validate_every:
                self._validate(*episodes.take())
                bar.set_postfix(validation=f"{self.curve[-1][1]:.1f}", best=f"{self.best_return:.1f}", refresh=False)
            bar.update(taken)
        self.replay.add(returns.cut(observation))

    def _check_support(self, returns: Array) -> None:
        """Returns that the distributions cannot show would be learnt as their ends, and all actions become alike."""
        options = self.options
        if not options.categorical:
            return
        outside = returns[(returns < options.v_min) | (returns > options.v_max)]
        if len(outside):
            raise ValueError(
                f"{options.env_id}: has a return of {float(outside[0]):g}, v_min {options.v_min:g} to v_max"
                f" {options.v_max:g} must hold all"
            )

    def _reset(self, segment: int) -> Array:
        observation, _ = self.environments.reset(seed=training_seed(self.options.seed, segment))
        return observation.astype(np.float32, copy=False)

    def _explore(self, observation: Array, generator: torch.Generator, rng: np.random.Generator) -> Array:
        """Actions (E,) int64 at observations (E, n): random at first, then by noisy weights, or greedy but for some."""
        random = rng.integers(self.task.n_actions, size=len(observation))
        if self.steps < self.options.learning_starts:
            return random
        action = self.learner.act(torch.from_numpy(observation), generator).numpy()
        if self.options.noisy:
            return action
        progress = self.steps / (self.options.exploration_fraction * self.options.total_timesteps + 1e-9)
        epsilon = max(self.options.end_e, 1 - progress * (1 - self.options.end_e))
        return np.where(rng.random(len(action)) < epsilon, random, action)

    def _learn(self, generator: torch.Generator, rng: np.random.Generator) -> None:
        """The updates that are due; their minibatches are drawn together, their priorities written together."""
        options = self.options
        due = int((self.steps - options.learning_starts) * options.updates_per_step) - self.learner.updates
        if due < 1 or len(self.replay) < options.batch_size:
            return
        beta = options.prioritized_replay_beta + (1 - options.prioritized_replay_beta) * min(
            1.0, self.steps / options.total_timesteps
        )
        batches = self.replay.sample(due, options.batch_size, beta, rng)
        before = self.learner.updates
        losses, priorities = self.learner.learn(batches, generator)
        self.replay.set_priorities(batches.indices, priorities.numpy())
        if self.learner.updates // 500 > before // 500:
            self.bookkeeping.record("train/loss", float((losses * batches.weights).mean()), self.steps)

    def _validate(self, train_return: float, train_length: float) -> None:
        """Greedy episodes with the mean weights; of equals the later counts as better."""
        self.network.eval()
        seed = FIRST_VALIDATION_SEED + 1000 * (len(self.curve) % 10)
        episodes = first_episodes(self.validation, self._greedy, seed, max_steps=10_000)
        self.network.train()
        mean = float(episodes.returns.mean())
        self.curve.append((self.steps, mean))
        self.bookkeeping.record("validation/return", mean, self.steps)
        if not math.isnan(train_return):
            self.bookkeeping.record("train/return", train_return, self.steps)
            self.bookkeeping.record("train/length", train_length, self.steps)
        if mean >= self.best_return:
            self.best_return, self.best = mean, self._weights()

    @torch.no_grad()
    def _greedy(self, observation: Array) -> Array:
        outputs = self.network(torch.from_numpy(observation.astype(np.float32, copy=False)))
        action: Array = self.network.expectation(outputs).argmax(dim=1).numpy()
        return action

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.network.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """For run.save_state."""
        return {
            "steps": self.steps,
            "learner": self.learner.state(),
            "replay": self.replay.state(),
            "curve": self.curve,
            "best": self.best,
            "best_return": self.best_return,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """The opposite of :meth:`state`."""
        self.steps = int(state["steps"])
        self.learner.restore(state["learner"])
        self.replay.restore(state["replay"])
        self.curve = [(int(step), float(mean)) for step, mean in state["curve"]]
        self.best, self.best_return = state["best"], float(state["best_return"])


def steps_to(curve: list[tuple[int, float]], threshold: float) -> int | None:
    """Environment steps until the first validation of at least `threshold`, None where there is none."""
    return next((step for step, mean in curve if mean >= threshold), None)


def train_one(options: Options) -> dict[str, Any]:
    """Trains, exports and evaluates one seed; returns what result.json in the run's folder has then."""
    torch.set_num_threads(options.threads)
    trainer = Trainer(options)
    trainer.run()
    result: dict[str, Any] = {
        "out": str(options.out),
        "options": options_json(options),
        "curve": trainer.curve,
        "validation_return": trainer.best_return,
        "steps_to_475": steps_to(trainer.curve, 475),
    }
    if options.evaluation_episodes:
        result["evaluation"] = evaluate_and_record(options.out, options.evaluation_episodes)
    write_json(options.run_folder / "result.json", result)
    return result


def train(options: Options) -> None:
    """Trains and exports. ValueError, in one line, for a task or options that do not fit."""
    discrete_task(options.env_id)  # before any process is started
    train_seeds(train_one, options)


def main() -> None:
    command_line.run(Options, train, __doc__, command_line.BEFORE_TRAINING)


if __name__ == "__main__":
    main()
