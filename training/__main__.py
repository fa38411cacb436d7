"""The commands of training/ by their names: `diffusion_ros_training evaluate ...` is `python -m training.evaluate ...`.

`python -m` looks in the current folder first, where a folder of one's own called training/ hides this package. The
console script does not look there.
"""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

COMMANDS = (
    "collect_demos",
    "collect_maze",
    "drive",
    "convert",
    "train_diffusion_policy",
    "train_diffuser",
    "train_ddpm",
    "train_guard",
    "train_rainbow",
    "train_ppo",
    "ablate_rainbow",
    "evaluate",
    "export_again",
    "ranges",
    "response",
    "typical",
    "two_ways",
    "draw_delays",
)
"""In the order of the help."""


def overview() -> str:
    """A line for each command: its name and what its file says first."""
    lines = ["usage: diffusion_ros_training COMMAND ... (COMMAND --help: its options)", ""]
    for name in COMMANDS:
        text = ast.get_docstring(ast.parse(Path(__file__).with_name(f"{name}.py").read_text())) or ""
        lines.append(f"  {name:24}{text.splitlines()[0]}")
    return "\n".join(lines)


def main() -> None:
    """Runs the command that the first word names; exit status 2 after one line where there is none of that name."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(overview())
        return
    if name not in COMMANDS:
        print(f"command {name!r}: expected one of {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"diffusion_ros_training {name}", *sys.argv[2:]]
    importlib.import_module(f"training.{name}").main()


if __name__ == "__main__":
    main()
