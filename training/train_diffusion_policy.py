"""Trains a diffusion policy (Chi et al. 2023, arXiv 2303.04137) on robomimic-format demonstrations.

The defaults are those of the published transformer. On a CPU use `--denoiser unet --vision small`. From pixels, also
use the two phases of `--encoder-iterations`. In the first phase the image encoders alone learn where the object is. In
the second they stay as they are, and the denoiser trains on their features, which are computed once for a few random
crops of every image.
"""

from __future__ import annotations

from training import command_line
from training.options.policy import Options


def train(options: Options) -> None:
    """Trains and exports. ValueError, in one line, for data or options that do not fit."""
    from training.run import train_timed
    from training.trainers.policy import Trainer

    train_timed(Trainer, options)


def main() -> None:
    command_line.run(Options, train, __doc__, command_line.BEFORE_TRAINING)


if __name__ == "__main__":
    main()
