"""Numbers against their range, said in one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def outside(name: str, value: NDArray[Any], low: Sequence[float], high: Sequence[float], unit: str = "") -> str:
    """'' when value (n) lies from low (n) to high (n), else a line that says what does not."""
    wrong = np.flatnonzero(~((value >= np.asarray(low)) & (value <= np.asarray(high))))  # so written for NaN
    if not wrong.size:
        return ""
    i = int(wrong[0])
    of = f"{name}[{i}]" if len(value) > 1 else name
    return f"{of} is {float(value[i]):.6g} {unit}".rstrip() + f", {low[i]:.4g} to {high[i]:.4g} expected"
