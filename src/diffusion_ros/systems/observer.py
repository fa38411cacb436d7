"""What a running system says of itself: a progress line, and what its results come to."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from std_msgs.msg import String

from diffusion_ros.atomic_file import read_lines
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.chunk_budget import PARTS, WHOLE
from diffusion_ros.ros.diagnostics import median_key

_SHOWN = 1e9
"""Numbers of a progress line are smaller."""


@dataclass
class Observer:
    """What the system says of itself: episodes and what the executor does, for the progress line; and the results.

    Anybody can publish on a topic: what is heard there is for the eye, and does not change the outcome. Results are
    read from the file that the simulator adds them to.
    """

    task: str
    episodes: int
    file: Path
    """Of the results, a line of JSON each."""
    results: dict[int, dict[str, Any]] = field(default_factory=dict)
    news: dict[str, Any] = field(default_factory=dict)
    executor: str = "starting"
    """What the node that acts says of itself."""
    _size: int = 0
    namespace: str = ""
    """Of the system: /diagnostics is everybody's."""
    actor: ClassVar[str] = "executor"
    """Its name."""
    expected: ClassVar[Mapping[str, tuple[type, ...]]] = {
        "event": (str,),
        "index": (int,),
        "step": (int,),
        "max_steps": (int,),
        "missed": (int,),
        "success": (bool,),
        "fault": (str,),
        "rate": (int, float),
        "acting": (bool,),
        "latency_ms": (int, float, NoneType),
    }
    """What news of an episode must say."""

    def subscribe(self, node: Node) -> None:
        node.create_subscription(String, topics.EPISODE, self._on_episode, topics.EPISODE_QOS)
        node.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, topics.DIAGNOSTICS_QOS)

    def _on_episode(self, msg: String) -> None:
        try:
            news = messages.episode_from_msg(msg)
        except messages.MessageError:
            return
        if all(_fits(news.get(name), types) for name, types in self.expected.items()):
            self.news = news

    def read(self) -> None:
        """Brings the results up to date."""
        size = self.file.stat().st_size if self.file.exists() else 0
        if size != self._size:
            self._size = size
            for result in read_lines(self.file):
                self.results[int(result["index"])] = result

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in messages.diagnostics_from_msg(msg):
            if status.name == f"{self.namespace}/{self.actor}".strip("/"):
                self.executor = status.summary
            self.heard(status)

    def heard(self, status: messages.Status) -> None:
        """A node says something of itself; /diagnostics is everybody's."""

    def line(self) -> str:
        """The progress, in one line."""
        return messages.printable(self._line() if self.news else f"{self.task}  starting")

    def _line(self) -> str:
        news = self.news
        phase, pace = news["event"], ""
        if phase == "running":
            latency = f"  latency {news['latency_ms']:.0f} ms" if news["latency_ms"] is not None else ""
            pace = f"  {news['rate']:4.1f} Hz{latency}  missed {news['missed']}"
            # What the executor says of itself comes only once a second.
            why = news["fault"] or self.executor.removeprefix("holding: ")
            state = "acting" if news["acting"] else f"holding: {why}"
        else:
            state = {
                "waiting": f"waiting for the policy ({self.executor})",
                "drawing": "drawing the video",
                "pausing": "next episode",
                "end": "success" if news["success"] else "no success",
                "done": "done",
            }.get(phase, phase)
        return (
            f"{self.task}  episode {news['index'] + 1}/{self.episodes}  step {news['step']:3d}/{news['max_steps']}"
            f"{pace}  {state}{self._score()}"
        )

    def _score(self) -> str:
        done = [result["success"] for result in self.results.values()]
        return f"  {sum(done)} of {len(done)} succeeded" if done else ""

    def summary(self) -> dict[str, Any]:
        """What the results come to."""
        results = [self.results[i] for i in range(self.episodes)]
        successes = sum(bool(result["success"]) for result in results)
        latency_ms = {}
        for name in ("stamp to command", "publication to command"):
            medians = [timing["median"] for result in results if (timing := result["timings_ms"].get(name))]
            latency_ms[name] = round(statistics.median(medians), 3) if medians else None
        return {
            "success_rate": successes / len(results),
            "successes": successes,
            "missed": sum(result["missed"] for result in results),
            "held": sum(result["held"] for result in results),
            "overruns": sum(result["overruns"] for result in results),
            "mean_length": sum(result["steps"] for result in results) / len(results),
            "latency_ms": latency_ms,
            "results": results,
        }

    def remark(self) -> str:
        """What else a person may want to know at the end; '': nothing."""
        return ""

    def outcome(self, summary: Mapping[str, Any]) -> str:
        """The summary in one line."""
        return f"{self.task}: {summary['successes']} of {self.episodes} succeeded"


@dataclass
class PolicyObserver(Observer):
    """And what the time of a policy's chunks went into, as the policy says it."""

    chunk_ms: dict[str, float] = field(default_factory=dict)
    """Medians of the last chunks; {}: it has not said any."""

    def heard(self, status: messages.Status) -> None:
        if status.name != f"{self.namespace}/policy".strip("/"):
            return
        try:
            found = {name: float(status.values[median_key(name)]) for name in (*PARTS, WHOLE)}
        except (KeyError, ValueError):
            return
        if all(_fits(value, (float,)) for value in found.values()):
            self.chunk_ms = found

    def summary(self) -> dict[str, Any]:
        return {**super().summary(), "chunk_ms": self.chunk_ms}

    def remark(self) -> str:
        if not self.chunk_ms:
            return ""
        parts = ", ".join(f"{name} {self.chunk_ms[name]:.1f}" for name in PARTS)
        return f"a chunk {self.chunk_ms[WHOLE]:.1f} ms after its picture: {parts} (medians)"


def _fits(value: Any, types: tuple[type, ...]) -> bool:
    """Whether it is of exactly these types (True is an int, too) and, if a number, one that can be shown."""
    return type(value) in types and (not isinstance(value, (int, float)) or -_SHOWN < value < _SHOWN)
