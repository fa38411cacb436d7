"""The curves of what delay does to a policy."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from training.draw_delays import Options, curves, draw


def _summary(delay: float, late: str = "rtc", jitter: float = 0.0, **others: Any) -> dict[str, Any]:
    figures = {"success_rate": 0.9, "mean_length": 100.0, "jump": 0.5, "jerk": None}
    return {"checkpoint": "a/can.pt", "delay_ms": delay, "late": late, "jitter_ms": jitter} | figures | others


def _write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_figures_of_one_checkpoint_strategy_and_jitter_make_a_curve_by_delay(tmp_path: Path) -> None:
    many = _write(tmp_path / "many.json", {"delays": [_summary(300), _summary(0), _summary(300, "wait")]})
    one = _write(tmp_path / "one.json", _summary(100))
    other = _write(tmp_path / "other.json", _summary(100, jitter=50.0))
    found = curves([many, one, other])
    assert {name: [s["delay_ms"] for s in found[name]] for name in found} == {
        "can, rtc": [0, 100, 300],
        "can, rtc, up to 50 ms later": [100],
        "can, wait": [300],
    }
    draw(Options((many, one, other), tmp_path / "curves.png"))
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 3 * picture.height > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "many.json", "one.json", "other.json"]


@pytest.mark.parametrize("content", ["{", "[]", "3", '{"delays": [3]}', '{"success_rate": 1.0}'])
def test_other_files_are_refused_in_one_line_that_names_them(tmp_path: Path, content: str) -> None:
    file = _write(tmp_path / "other.json", content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(file))}: [^\n]+$"):
        curves([file])
