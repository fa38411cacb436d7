"""Trains DQN with any of the six additions of Rainbow (Hessel et al. 2018, arXiv 1710.02298) on a Gymnasium task."""

from __future__ import annotations

from training import command_line
from training.options.rainbow import Options


def train(options: Options) -> None:
    """Trains and exports. ValueError, in one line, for a task or options that do not fit."""
    from training.rl.gymnasium_task import discrete_task
    from training.rl.side_by_side import train_seeds
    from training.trainers.rainbow import train_one

    discrete_task(options.env_id)  # before any process is started
    train_seeds(train_one, options)


def main() -> None:
    command_line.run(Options, train, __doc__, command_line.BEFORE_TRAINING)


if __name__ == "__main__":
    main()
