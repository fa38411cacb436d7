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
        made = json.loads(
            text, parse_constant=_constant, parse_int=_integer, parse_float=_number, object_pairs_hook=_object
        )
    except Refusal:
        raise
    except RecursionError:
        raise Refusal(f"nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:
        raise Refusal(f"not JSON: {shown(error)}") from None
    _check(made)
    return made


def _constant(text: str) -> float:
    raise Refusal(f"{text}, finite numbers expected")


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > MAX_DIGITS:
        raise Refusal(f"an integer of {len(text)} digits, at most {MAX_DIGITS} expected")
    return int(text)


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise Refusal(f"{shown(text)}, finite numbers expected")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        raise Refusal(f"{shown(next(name for name in names if names.count(name) > 1))} is there twice")
    return made


def _check(made: Any) -> None:
    waiting = [(made, 1)]
    while waiting:
        thing, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise Refusal(f"nested deeper than {MAX_DEPTH}")
        if isinstance(thing, dict):
            waiting.extend((part, depth + 1) for pair in thing.items() for part in pair)
        elif isinstance(thing, list):
            waiting.extend((part, depth + 1) for part in thing)
        elif isinstance(thing, str) and any("\ud800" <= c <= "\udfff" for c in thing):
            raise Refusal(f"a text with half a character, {ascii(thing)[:80]}")
