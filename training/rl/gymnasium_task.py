"""A Gymnasium task by its id: what its spaces are, parallel environments of it, episodes of a policy in them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from diffusion_ros.spec import CheckpointSpec, TensorSpec
from training.run import FIRST_VALIDATION_SEED, git_commit

Array = NDArray[Any]

NAMES = {"CartPole-v1": "cartpole", "InvertedDoublePendulum-v5": "double_pendulum"}
"""What this package calls its own tasks; any other goes by its Gymnasium id."""
USUAL = 50
"""Control steps a second [Hz] of a task that does not say."""
TRIED = 20
"""Steps of an environment before it is trained in."""
LONGEST = 10_000
"""Steps of an episode in a task that has no limit of its own."""


@dataclass(frozen=True)
class GymnasiumTask:
    """A task with observations in a box of one axis and either discrete or continuous actions."""

    environment: str
    """The Gymnasium id."""
    observation_size: int
    n_actions: int
    """Discrete actions, counted from 0; 0 for a continuous task."""
    action_low: tuple[float, ...]
    """Continuous: the limits (m) of an action. Discrete: 0."""
    action_high: tuple[float, ...]
    """Discrete: the last action."""
    rate: float
    """Control steps a second [Hz]."""
    pictures: bool = True
    """Whether it can be shown."""

    @property
    def name(self) -> str:
        return NAMES.get(self.environment, self.environment)

    def environments(self, count: int, max_steps: int | None = None) -> VectorEnv[Array, Array, Any]:
        """`count` of them as one. An environment that is done is reset in its next step, whose action is ignored.

        So the observation after the last step of an episode is that episode's own, and the step that follows is none.
        max_steps: after which an episode is truncated, if the task does not end it sooner; None: as the task says.
        """
        spec = copy.deepcopy(gymnasium.spec(self.environment.rpartition(":")[2]))  # make() has imported its module
        if max_steps is not None:
            spec.max_episode_steps = min(max_steps, spec.max_episode_steps or max_steps)
        own = spec.vector_entry_point is not None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of what a task of one's own does not say about pictures
            environments = gymnasium.make_vec(spec, count, vectorization_mode="vector_entry_point" if own else "sync")
        if environments.metadata.get("autoreset_mode") != AutoresetMode.NEXT_STEP:
            raise ValueError(f"{self.environment}: does not reset its environments in the next step, as it should")
        return environments


def discrete_task(environment: str) -> GymnasiumTask:
    """The task of this id. ValueError, in one line, for an id that is none or another kind of task."""
    task = _task(environment)
    if not task.n_actions:
        raise ValueError(f"{environment}: its actions are continuous, a task with discrete actions is needed")
    return task


def continuous_task(environment: str) -> GymnasiumTask:
    """The task of this id. ValueError, in one line, for an id that is none or another kind of task."""
    task = _task(environment)
    if task.n_actions:
        raise ValueError(f"{environment}: its actions are discrete, a task with continuous actions is needed")
    return task


def make(environment: str, **options: Any) -> gymnasium.Env[Any, Any]:
    """One environment, `module:Name-v0` of a module that registers it. ValueError, in one line, for an id that is none,
    for what is not installed, and for a module or an environment of somebody's own that raises anything."""
    try:
        return gymnasium.make(environment, **options)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        if not isinstance(error, (gymnasium.error.Error, ImportError)):
            reason = f"{type(error).__name__}: {reason}"
        raise ValueError(f"environment {environment!r}: no Gymnasium task that can be made: {reason}") from None


def _task(environment: str) -> GymnasiumTask:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name without a version: the latest is taken, and written down
        example = make(environment)
    name = example.spec.id if example.spec is not None else environment
    module = environment.rpartition(":")[0]
    environment = f"{module}:{name}" if module else name
    observations, actions = example.observation_space, example.action_space
    physics: Any = example.unwrapped
    # The control period [s] has a name in MuJoCo's and in the classic tasks; others say how fast they are to be shown.
    metadata = example.metadata or {}
    period = getattr(physics, "dt", None) or getattr(physics, "tau", None) or 1 / (metadata.get("render_fps") or USUAL)
    pictures = "rgb_array" in (metadata.get("render_modes") or ())
    if not isinstance(observations, gymnasium.spaces.Box) or len(observations.shape) != 1:
        raise ValueError(f"{environment}: its observations are {observations}, a Box of one axis is needed")
    if isinstance(actions, gymnasium.spaces.Discrete) and actions.start == 0:
        n_actions, low, high = int(actions.n), np.zeros(1), np.array([actions.n - 1])
    elif isinstance(actions, gymnasium.spaces.Box) and len(actions.shape) == 1 and actions.is_bounded():
        n_actions, low, high = 0, actions.low, actions.high
    else:
        raise ValueError(f"{environment}: its actions are {actions}, Discrete or a bounded Box of one axis is needed")
    _try_out(environment, example)
    return GymnasiumTask(
        environment,
        observations.shape[0],
        n_actions,
        tuple(float(x) for x in low),
        tuple(float(x) for x in high),
        round(1 / period, 6),
        pictures,
    )


def _try_out(environment: str, example: gymnasium.Env[Any, Any]) -> None:
    """A few steps, so that nothing is trained first and lost afterwards. ValueError, in one line, for what goes wrong,
    and for observations and rewards that do not fit. Closes it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            observation, _ = example.reset(seed=FIRST_VALIDATION_SEED)
            example.action_space.seed(0)
            for _ in range(TRIED):
                shape = np.shape(observation)
                if shape != example.observation_space.shape or not np.isfinite(observation).all():
                    raise ValueError(
                        f"an observation of shape {shape}, numbers in {example.observation_space} expected"
                    )
                observation, reward, terminated, truncated, _ = example.step(example.action_space.sample())
                if not np.isfinite(float(reward)):
                    raise ValueError(f"a reward of {reward}, a number expected")
                if terminated or truncated:
                    observation, _ = example.reset()
            example.close()
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ValueError(f"{environment}: cannot be stepped: {type(error).__name__}: {reason}") from None


@dataclass(frozen=True)
class Episodes:
    """Of parallel environments, the first of each."""

    returns: NDArray[np.float64]
    """(N,)."""
    lengths: NDArray[np.int64]
    """(N,) steps."""


def first_episodes(
    environments: VectorEnv[Array, Array, Any], act: Callable[[Array], Array], seed: int, max_steps: int
) -> Episodes:
    """Runs one episode in each environment at once, of at most `max_steps`; `act` maps observations to actions.

    Quicker than one by one, for choosing among checkpoints; what is reported comes from training.evaluate.
    """
    observation, _ = environments.reset(seed=seed)
    returns = np.zeros(environments.num_envs)
    lengths = np.zeros(environments.num_envs, np.int64)
    running = np.ones(environments.num_envs, np.bool_)
    for _ in range(max_steps):
        observation, reward, terminated, truncated, _ = environments.step(act(observation))
        returns += reward * running
        lengths += running
        running &= ~(terminated | truncated)
        if not running.any():
            break
    return Episodes(returns, lengths)


class EpisodeLog:
    """Returns and lengths of the episodes that end while parallel environments are stepped."""

    def __init__(self, count: int) -> None:
        self._return, self._length = np.zeros(count), np.zeros(count, np.int64)
        self.finished: list[tuple[float, int]] = []
        """(return, length) of each, until :meth:`take`."""

    def add(self, reward: Array, done: Array, valid: Array) -> None:
        """One step: reward, done and valid (N,); valid as in replay.NStepReturns.add."""
        self._return += reward * valid
        self._length += valid
        for i in np.flatnonzero(done):
            self.finished.append((float(self._return[i]), int(self._length[i])))
            self._return[i] = self._length[i] = 0

    def take(self) -> tuple[float, float]:
        """Mean return and length of the episodes that ended since the last call, NaN where none did."""
        finished, self.finished = self.finished, []
        if not finished:
            return float("nan"), float("nan")
        return float(np.mean([f[0] for f in finished])), float(np.mean([f[1] for f in finished]))


def policy_spec(task: GymnasiumTask, training: dict[str, Any], scores: dict[str, Any]) -> CheckpointSpec:
    """What a robot has to know of a policy of `task`."""
    discrete = task.n_actions > 0
    action = TensorSpec("action", (len(task.action_low),), "int64" if discrete else "float32", "1", "")
    return CheckpointSpec(
        kind="discrete policy" if discrete else "continuous policy",
        task=task.name,
        environment=task.environment,
        inputs=(TensorSpec("observation", (task.observation_size,), "float32", "", ""),),
        outputs=(action,),
        rate=task.rate,
        horizon=1,
        n_obs_steps=1,
        n_action_steps=1,
        action_low=task.action_low,
        action_high=task.action_high,
        git_commit=git_commit(),
        training=training,
        scores=scores,
    )


def training_seed(seed: int, segment: int) -> int:
    """Where a segment of a run starts its episodes: a seed below FIRST_VALIDATION_SEED - 1,000."""
    return int(np.random.SeedSequence([seed, segment]).generate_state(1)[0]) % (FIRST_VALIDATION_SEED - 1000)
