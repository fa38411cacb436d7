"""Trains a continuous Gymnasium task's policy by PPO (Schulman et al. 2017, arXiv 1707.06347)."""

from __future__ import annotations

from training import command_line
from training.options.ppo import Options


def train(options: Options) -> None:
    """Trains and exports. ValueError, in one line, for a task or options that do not fit."""
    from training.rl.gymnasium_task import continuous_task
    from training.rl.side_by_side import train_seeds
    from training.trainers.ppo import train_one

    continuous_task(options.env_id)  # before any process is started
    train_seeds(train_one, options)


def main() -> None:
    command_line.run(Options, train, __doc__, command_line.BEFORE_TRAINING)


if __name__ == "__main__":
    main()
