"""JSON that a stranger wrote, as Python's objects, within limits of length, depth and numbers."""

from __future__ import annotations

import json
import math
from typing import Any

from diffusion_ros.sealed.refusal import Refusal, shown

MAX_DEPTH = 20
MAX_DIGITS = 19
"""Of an integer: those beyond are no number that 64 bits hold."""
MAX_BYTES = 1 << 20


def parse(text: str | bytes) -> Any:
    """Raises Refusal for what is no JSON, too long or too deep, has a name twice, or a number that is not finite."""
    if len(text) > MAX_BYTES:
        raise Refusal(f"{len(text)} bytes, at most {MAX_BYTES} expected")
    try:
        made = json.loads(text, parse_int=_integer, object_pairs_hook=_object)
    except Refusal:
        raise
    except RecursionError:
        raise Refusal(f"nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:
        raise Refusal(f"not JSON: {shown(error)}") from None
    _check(made)
    return made


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > MAX_DIGITS:
        raise Refusal(f"an integer of {len(text)} digits, at most {MAX_DIGITS} expected")
    return int(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        raise Refusal(f"{shown(next(name for name in names if names.count(name) > 1))} is there twice")
    return made


def _check(made: Any) -> None:
    """Without calling itself: how deep it is was the stranger's choice."""
    waiting: list[tuple[str, Any, int]] = [("", made, 1)]
    while waiting:
        name, thing, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise Refusal(f"nested deeper than {MAX_DEPTH}")
        if isinstance(thing, dict):
            waiting.extend(("a name", key, depth + 1) for key in thing)
            waiting.extend((shown(key), value, depth + 1) for key, value in thing.items())
        elif isinstance(thing, list):
            waiting.extend((name, part, depth + 1) for part in thing)
        elif isinstance(thing, float) and not math.isfinite(thing):
            raise Refusal(f"{name} {thing}, finite numbers expected")
        elif isinstance(thing, str) and any("\ud800" <= c <= "\udfff" for c in thing):
            raise Refusal(f"{name} {ascii(thing)[:80]}, whole characters expected")
