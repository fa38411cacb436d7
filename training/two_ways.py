"""Measures which samplers keep both ways of a task that can be done in two: a point goes round a disc, left or right.

    python -m training.two_ways --json runs/two_ways.json --picture runs/two_ways.png

Trains a diffusion policy on demonstrations of both ways, distils a student of one step from it
(training/diffusion/distillation.py), and lets both drive, with several samplers.
"""

from __future__ import annotations

from diffusion_ros.atomic_file import write_json
from training import command_line
from training.options.two_ways import Options


def main() -> None:
    command_line.run(Options, _report, __doc__)


def _report(options: Options) -> None:
    from training.trainers.two_ways import compare, table

    summary = compare(options)
    write_json(options.json, summary)
    print(table(summary["samplers"]))


if __name__ == "__main__":
    main()
