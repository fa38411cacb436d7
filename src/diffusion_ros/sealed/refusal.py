"""Why a file is refused, in one line, whatever is in the file."""

from __future__ import annotations


class Refusal(ValueError):
    """A file that is not used: one printable line with the value and the rule."""


def shown(text: object, length: int = 80) -> str:
    """What a file says, as one short line: printable characters alone, cut in the middle where there are more."""
    line = "".join(c if c.isprintable() else " " for c in str(text))
    line = " ".join(line.split())
    return line if len(line) <= length else f"{line[: length // 2]}...{line[-length // 3 :]}"
