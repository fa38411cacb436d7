"""Parameters of tests of which `make test` runs some, and `make test-slow` the others: there are many, and alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def one_in(n: int, values: Iterable[Any]) -> list[Any]:
    """The first of every n always, the others in slow tests."""
    return [_param(value, i % n > 0) for i, value in enumerate(values)]


def but(slow: Iterable[Any], values: Iterable[Any]) -> list[Any]:
    """All but these, which are in slow tests."""
    slow = tuple(slow)
    return [_param(value, value in slow) for value in values]


def _param(value: Any, slow: bool) -> Any:
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow if slow else ())
