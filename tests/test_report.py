"""report.html: one file that says how a run went, and needs no network."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from diffusion_ros import report
from diffusion_ros.systems.observer import Stretch

TIMES = {"stamp to command": {"median": 21.0, "p99": 40.0, "max": 55.0}}


def result(folder: Path, **changes: Any) -> dict[str, Any]:
    episodes = []
    for index in range(2):
        video = folder / f"episode_{index + 1:03d}.mp4"
        video.write_bytes(b"film" * 100)
        episodes.append(
            {"index": index, "seed": 100 + index, "steps": 60, "success": index == 0, "held": 7, "missed": 2}
            | {"timings_ms": TIMES, "video": str(video)}
        )
    outcome = {
        "outcome": "can: 1 of 2 succeeded",
        "task": "can",
        "mode": "realtime",
        "episodes": 3,
        "results": episodes,
    }
    return {**outcome, "explanations": ["4 of 120 periods had no command: this machine is too slow"], **changes}


STRIP = [
    Stretch(0, 0, 40, "acting", ""),
    Stretch(0, 40, 47, "holding", "camera_guard: agentview <covered>"),
    Stretch(1, 0, 60, "acting", ""),
]


class Tags(HTMLParser):
    """Every tag is closed, and what is named from elsewhere is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.named: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.named += [value for name, value in attrs if name in ("src", "href") and value]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Closed where it begins."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_it_says_how_a_run_went_without_a_network(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    report.write_report(path, "simulation: can", result(tmp_path), STRIP)
    text = path.read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert len(tags.named) == 2 and all(name.startswith("data:video/mp4;base64,") for name in tags.named)
    assert "http" not in text
    for said in (
        "can: 1 of 2 succeeded",
        "4 of 120 periods had no command: this machine is too slow.",
        '<span class="good">success</span>',
        '<span class="bad">failed</span>',
        "steps 40 to 47: holding: camera_guard: agentview &lt;covered&gt;",
        "episode 2, seed 101",
        "<code>realtime</code>",
    ):
        assert said in text, said


def test_an_interrupted_run_says_so(tmp_path: Path) -> None:
    text = report.page("x", result(tmp_path, interrupted="SIGINT", finished=2), STRIP, tmp_path)
    assert "Interrupted after 2 of 3 episodes." in text


def test_large_videos_are_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MOST_BYTES", 500)
    text = report.page("x", result(tmp_path), [], tmp_path)
    assert text.count("data:video/mp4") == 1
    assert '<a href="episode_002.mp4">' in text


def test_mazes_and_carts_have_no_success(tmp_path: Path) -> None:
    for numbers, said in (({"score": 210.4, "return": 31.0}, "score 210"), ({"return": 480.0}, "return 480")):
        episode = {"index": 0, "seed": 1, "steps": 10, **numbers}
        assert said in report.page("x", {"outcome": "x", "results": [episode]}, [], tmp_path)
