"""Training steps a second of Rainbow and of PPO, against Stable-Baselines3's DQN and PPO.

The same widths, batch, updates a step and number of environments, one thread, in turns, in this process; the figures
to look at are the ratios. Rainbow has all of its additions, which DQN has not.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium
import torch

from training import train_ppo, train_rainbow
from training.trainers import ppo as ppo_trainer
from training.trainers import rainbow as rainbow_trainer

ROUNDS = 3
RAINBOW_STEPS = 4000
PPO_STEPS = 16_384


def steps_per_second(steps: int, ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[float, float]:
    """Medians of both, run in turns so that a busy moment hits both."""
    rates: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for found, run in zip(rates, (ours, theirs), strict=True):
            begin = time.perf_counter()
            run()
            found.append(steps / (time.perf_counter() - begin))
    return statistics.median(rates[0]), statistics.median(rates[1])


def rainbow(folder: Path) -> None:
    from stable_baselines3 import DQN
    from stable_baselines3.common.env_util import make_vec_env

    options = train_rainbow.Options(
        out=folder / "rainbow.pt",
        total_timesteps=10 * RAINBOW_STEPS,  # of which the first segment is timed, without validations
        learning_starts=100,
        validate_every=10 * RAINBOW_STEPS,
        save_every=RAINBOW_STEPS,
    )

    def ours() -> None:
        trainer = rainbow_trainer.Trainer(options)
        trainer.segment(trainer.bookkeeping.bar("", 0, RAINBOW_STEPS))

    def theirs() -> None:
        # One call of train_freq steps each of 8 environments.
        model = DQN(
            "MlpPolicy",
            make_vec_env(options.env_id, options.num_envs, seed=0),
            learning_rate=options.learning_rate,
            batch_size=options.batch_size,
            train_freq=1,
            gradient_steps=round(options.num_envs * options.updates_per_step),
            learning_starts=options.learning_starts,
            target_update_interval=200,
            policy_kwargs={"net_arch": list(options.widths)},
            device="cpu",
            seed=0,
        )
        model.learn(RAINBOW_STEPS)

    fast, reference = steps_per_second(RAINBOW_STEPS, ours, theirs)
    print(
        f"Rainbow on {options.env_id}: {fast:.0f} steps/s, Stable-Baselines3's DQN {reference:.0f};"
        f" ratio {fast / reference:.2f} (at least 1)"
    )


def ppo(folder: Path) -> None:
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    options = train_ppo.Options(
        out=folder / "ppo.pt", total_timesteps=PPO_STEPS, checkpoint_every=PPO_STEPS, test_episodes=1, videos=False
    )

    def ours() -> None:
        trainer = ppo_trainer.Trainer(options)
        trainer._iterate(trainer.bookkeeping.bar("", 0, options.iterations))

    def theirs() -> None:
        model = PPO(
            "MlpPolicy",
            VecNormalize(make_vec_env(options.env_id, options.num_envs, seed=0)),
            learning_rate=options.learning_rate,
            n_steps=options.num_steps,
            batch_size=options.minibatch_size,
            n_epochs=options.update_epochs,
            policy_kwargs={"net_arch": list(options.widths)},
            device="cpu",
            seed=0,
        )
        model.learn(PPO_STEPS)

    fast, reference = steps_per_second(PPO_STEPS, ours, theirs)
    print(
        f"PPO on {options.env_id}: {fast:.0f} steps/s, Stable-Baselines3's {reference:.0f};"
        f" ratio {fast / reference:.2f} (at least 1.5)"
    )


def main() -> None:
    torch.set_num_threads(1)
    gymnasium.logger.min_level = gymnasium.logger.ERROR
    try:
        import stable_baselines3  # noqa: F401
    except ImportError:
        print("Rainbow and PPO: skipped, stable_baselines3 cannot be imported (a peer to time against, no dependency)")
        return
    with tempfile.TemporaryDirectory() as folder:
        rainbow(Path(folder))
        ppo(Path(folder))


if __name__ == "__main__":
    main()
