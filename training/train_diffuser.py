"""Trains a Diffuser (Janner et al. 2022, arXiv 2205.09991) on a maze's stream, or on an arm's demonstrations."""

from __future__ import annotations

from training import command_line
from training.options.planner import Options


def train(options: Options) -> None:
    """Trains and exports. ValueError, in one line, for data or options that do not fit."""
    from training.run import train_timed
    from training.trainers.planner import Trainer

    train_timed(Trainer, options)


def main() -> None:
    command_line.run(Options, train, __doc__, command_line.BEFORE_TRAINING)


if __name__ == "__main__":
    main()
