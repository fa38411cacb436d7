"""What a running system says of itself: a progress line, and what its results come to."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
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
_HOLDING = "holding: "
_STRIP = 20_000
"""Stretches that are kept of a run."""
_LOADS = {
    "simulation": "building the scene",
    "rehearsal": "building the scene",
    "maze": "building the maze",
    "policy": "loading the checkpoint",
    "rl_policy": "loading the checkpoint",
    "planner": "loading the checkpoint",
    "camera_guard": "loading the checkpoint",
}
"""What a node does between its libraries and its first word."""

_IMPORTS, _STARTS = "importing libraries", "starting"


@dataclass
class Stretch:
    """Steps of an episode in which the robot did one thing for one reason, as far as it was seen."""

    index: int
    first: int
    last: int
    state: str
    """acting or holding."""
    reason: str
    """Of a hold, '' where none was heard."""


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
    nodes: Sequence[str] = ()
    """Names of those that are started."""
    strip: list[Stretch] = field(default_factory=list)
    """What the robot did, in order."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Of holds: how often each was seen."""
    _said: set[str] = field(default_factory=set)
    """Nodes that have said something: they are ready."""
    _node: Node | None = None
    _began: float = field(default_factory=time.monotonic)
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
        self._node = node
        node.create_subscription(String, topics.EPISODE, self._on_episode, topics.EPISODE_QOS)
        node.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, topics.DIAGNOSTICS_QOS)

    def _on_episode(self, msg: String) -> None:
        try:
            news = messages.episode_from_msg(msg)
        except messages.MessageError:
            return
        if all(_fits(news.get(name), types) for name, types in self.expected.items()):
            self.news = news
            self._note()

    def _note(self) -> None:
        """Adds what the robot does to the strip."""
        news = self.news
        if news["event"] != "running" or "acting" not in news or not news["step"]:
            return
        reason = "" if news["acting"] else self._why()
        state = "acting" if news["acting"] else "holding"
        if state == "holding":
            self.reasons[reason or "no reason was heard"] += 1
        last = self.strip[-1] if self.strip else None
        if last is not None and (last.index, last.state, last.reason) == (news["index"], state, reason):
            last.last = max(last.last, news["step"])
        elif len(self.strip) < _STRIP:
            begins = last.last if last is not None and last.index == news["index"] else 0
            self.strip.append(Stretch(news["index"], begins, news["step"], state, reason))

    def read(self) -> None:
        """Brings the results up to date."""
        size = self.file.stat().st_size if self.file.exists() else 0
        if size != self._size:
            self._size = size
            for result in read_lines(self.file):
                self.results[int(result["index"])] = result

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in messages.diagnostics_from_msg(msg):
            space, _, name = status.name.rpartition("/")
            if space == self.namespace:
                self._said.add(name)
            if status.name == f"{self.namespace}/{self.actor}".strip("/"):
                self.executor = status.summary
            self.heard(status)

    def heard(self, status: messages.Status) -> None:
        """A node says something of itself; /diagnostics is everybody's."""

    def line(self) -> str:
        """The progress, in one line."""
        return messages.printable("  ".join(self.parts()))

    def parts(self) -> list[str]:
        """The progress: state and reason first, then what may be left out where there is no room for it."""
        waits = not self.news or self.news["event"] in ("checking", "waiting")
        starting = self._starting() if waits else []
        said = starting or (self._parts() if self.news else [self.executor, self.task])
        return [messages.printable(part) for part in said if part]

    def _starting(self) -> list[str]:
        """What each node that is not ready does; [] when all are."""
        if not set(self.nodes) - self._said:
            return []
        space = f"/{self.namespace}" if self.namespace else "/"
        there = set()
        if self._node is not None:
            there = {name for name, where in self._node.get_node_names_and_namespaces() if where == space}
        doing: dict[str, list[str]] = {}
        for name in self.nodes:
            if name not in self._said:
                doing.setdefault(_LOADS.get(name, _STARTS) if name in there else _IMPORTS, []).append(name)
        parts = [f"{', '.join(names)}: {what}" for what, names in doing.items()]
        return [f"starting, {time.monotonic() - self._began:.0f} s", *parts, self.task]

    def _why(self) -> str:
        """Why the robot holds, '' where nobody has said it. What the executor says comes only once a second, so that it
        may still be about the time before."""
        said = self.executor.removeprefix(_HOLDING) if self.executor.startswith(_HOLDING) else ""
        return str(self.news["fault"]) or said

    def _state(self) -> str:
        """What the robot does, and why."""
        news = self.news
        if news["event"] == "running":
            why = self._why()
            return "acting" if news["acting"] else f"{_HOLDING}{why}" if why else "holding"
        why = self.executor.removeprefix(_HOLDING) if self.executor.startswith((_HOLDING, "waiting")) else ""
        said: dict[str, str] = {
            "checking": "looking for another simulator",
            "waiting": f"waiting for the policy: {why}" if why else "waiting for the policy",
            "drawing": "drawing the video",
            "pausing": "next episode",
            "end": "success" if news["success"] else "no success",
            "done": "done",
        }
        return said.get(news["event"], str(news["event"]))

    def _parts(self) -> list[str]:
        news = self.news
        pace = []
        if news["event"] == "running":
            latency = f"latency {news['latency_ms']:.0f} ms" if news["latency_ms"] is not None else ""
            pace = [f"{news['rate']:4.1f} Hz", latency, f"missed {news['missed']}"]
        return [
            self._state(),
            f"{self.task} {news['index'] + 1}/{self.episodes}",
            f"step {news['step']:3d}/{news['max_steps']}",
            self._score(),
            *pace,
        ]

    def _score(self) -> str:
        done = [result["success"] for result in self.results.values()]
        return f"{sum(done)} of {len(done)} succeeded" if done else ""

    @property
    def finished(self) -> list[dict[str, Any]]:
        """The results that there are, in order."""
        return [self.results[i] for i in sorted(self.results) if i < self.episodes]

    def summary(self) -> dict[str, Any]:
        """What the results come to."""
        results = self.finished
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
        return f"{self.task}: {summary['successes']} of {len(self.finished)} succeeded"


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
