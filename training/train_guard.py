"""Trains a camera guard on frames of demonstrations in robomimic's format, and calibrates it on held-out frames."""

from __future__ import annotations

from training import command_line
from training.options.guard import Options


def train(options: Options) -> None:
    """Trains, calibrates and exports. ValueError, in one line, for data or options that do not fit."""
    from training.run import train_timed
    from training.trainers.guard import Trainer

    train_timed(Trainer, options)


def main() -> None:
    command_line.run(Options, train, __doc__, command_line.BEFORE_TRAINING)


if __name__ == "__main__":
    main()
