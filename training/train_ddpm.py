"""Trains a diffusion model of images (Ho et al. 2020, arXiv 2006.11239) and shows what it has learnt.

Data are scikit-learn's digits, which come with it, or files that you have: Fashion-MNIST, CIFAR-10, any folder of
images, the cameras of demonstrations. The run's folder holds the log, samples while training, and the figures.
"""

from __future__ import annotations

from training import command_line
from training.options.images import Options


def train(options: Options) -> None:
    """Trains and exports. ValueError, in one line, for data or options that do not fit."""
    from training.run import train_timed
    from training.trainers.images import Trainer

    train_timed(Trainer, options)


def main() -> None:
    command_line.run(Options, train, __doc__, command_line.BEFORE_TRAINING)


if __name__ == "__main__":
    main()
