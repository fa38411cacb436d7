"""The training of Rainbow: what `python -m training.train_rainbow` does once its options are read."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from diffusion_ros import checkpoint
from diffusion_ros.atomic_file import write_json
from training.evaluation.gym import evaluate_and_record
from training.networks.mlp import QNetwork
from training.options.rainbow import Options
from training.options.shared import options_json
from training.rl.gymnasium_task import EpisodeLog, discrete_task, first_episodes, policy_spec, training_seed
from training.rl.rainbow import DiscretePolicy, Learner
from training.rl.replay import NStepReturns, Replay
from training.run import FIRST_VALIDATION_SEED, Run, step_generator

Array = NDArray[Any]


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
