"""What the page says of a system: what the robot does now and why, and the last 30 s of it. No ROS and no clock."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SILENT_SECONDS = 3.0
"""Who speaks once a second and has not for so long is gone."""
ACTING_SECONDS = 0.25
"""A row that was executed says that the robot acts for so long."""
STRIP_SECONDS = 30.0
SAMPLES_A_SECOND = 5
ACTORS = ("executor", "follower", "rl_policy", "image_generator")
"""Nodes that act, the most telling first."""
_GREATEST = 1e9
GROUPS = {"walls": False, "scene": True, "lines": True, "candidates": False, "denoising": False}
"""What can be shown and hidden, and whether it is shown at first."""


@dataclass(frozen=True)
class NodeStatus:
    """What a node says of itself once a second."""

    level: int
    """0 well, 1 a warning, 2 an error."""
    summary: str
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Banner:
    """The large word, and why."""

    word: str
    """ACTING, HOLDING, STOPPED, WAITING, DONE, READY, SILENT."""
    reason: str = ""


class SystemStatus:
    """Collects what nodes and simulator say; `now` are seconds of any steady clock."""

    def __init__(self) -> None:
        self.nodes: dict[str, tuple[float, NodeStatus]] = {}
        self.news: dict[str, Any] = {}
        """The newest of `episode`."""
        self._news_came = -math.inf
        self._acted = -math.inf
        self.results: dict[int, dict[str, Any]] = {}
        self._strip: deque[dict[str, Any]] = deque(maxlen=round(STRIP_SECONDS * SAMPLES_A_SECOND))
        self._missed = 0

    # What comes in

    def heard(self, name: str, status: NodeStatus, now: float) -> None:
        """A node's, by its name without the namespace."""
        self.nodes[name] = now, status

    def heard_episode(self, news: Mapping[str, Any], now: float) -> None:
        """What a simulator says; results count once, those of a run that begins again anew."""
        index = news.get("index")
        if not isinstance(index, int):
            return
        if index < (self.news.get("index") or 0):
            self.results.clear()
        self.news, self._news_came = dict(news), now
        result = news.get("result")
        if news.get("event") == "end" and isinstance(result, Mapping):
            self.results[index] = dict(result)

    def acted(self, now: float) -> None:
        """A row was executed."""
        self._acted = now

    # What goes out

    def actor(self) -> tuple[str, float, NodeStatus] | None:
        """The node that acts, when it spoke last, and what it said."""
        for name in ACTORS:
            if name in self.nodes:
                return name, *self.nodes[name]
        return None

    def banner(self, now: float) -> Banner:
        """What the robot does now."""
        actor = self.actor()
        event = str(self.news.get("event", "")) if now - self._news_came < SILENT_SECONDS else ""
        if event == "done" or (self.news.get("event") in ("done", "end") and actor is None):
            return Banner("DONE", self.score())
        if actor is None:
            return Banner("WAITING", f"{event}: nothing heard of a policy yet" if event else "the system starts")
        name, came, status = actor
        if now - came > SILENT_SECONDS:
            return Banner("SILENT", f"{name} has said nothing for {now - came:.0f} s")
        if self.news and not event:
            return Banner("SILENT", f"the simulator has said nothing for {now - self._news_came:.0f} s")
        stopped = status.values.get("estop", "released")
        if stopped != "released":
            return Banner("STOPPED", f"software stop ({stopped}): Release, then Enable")
        if status.values.get("enabled") == "False":
            return Banner("HOLDING", f"{_why(status.summary) or 'not enabled'}: Enable lets it move")
        if name == "image_generator":
            return Banner("READY", status.summary)
        if event in ("drawing", "pausing", "checking", "end"):
            said = {
                "drawing": "the video is drawn",
                "pausing": "the next episode begins",
                "checking": "is another simulator there?",
                "end": "the episode is over",
            }
            return Banner("WAITING", said[event])
        if event == "waiting":
            return Banner("WAITING", _why(status.summary) or "for the first command")
        if self._acts(name, status, now):
            whose = "a person drives" if status.values.get("decides") == "a person" else ""
            return Banner("ACTING", whose)
        fault = str(self.news.get("fault") or "") if event else ""
        return Banner("HOLDING", fault or _why(status.summary) or "no row is due")

    def _acts(self, name: str, status: NodeStatus, now: float) -> bool:
        if name == "executor":
            # A hold is seen as soon as rows stop; what a node says of itself comes once a second.
            return now - self._acted < ACTING_SECONDS
        if status.summary.startswith("holding"):
            return False
        return bool(self.news.get("acting", True))

    def score(self) -> str:
        """What the episodes came to."""
        if not self.results:
            return ""
        results = list(self.results.values())
        if all("score" in result for result in results):
            return f"score {sum(float(r['score']) for r in results) / len(results):.0f}, mean of {len(results)}"
        if all("return" in result for result in results):
            return f"return {sum(float(r['return']) for r in results) / len(results):.1f}, mean of {len(results)}"
        return f"{sum(bool(result.get('success')) for result in results)} of {len(results)} succeeded"

    def facts(self, now: float) -> dict[str, Any]:
        """Numbers for the page, by name; what is not known is not there."""
        news, found = self.news, dict[str, Any]()
        for name in ("index", "seed", "step", "max_steps", "missed", "held", "rate", "latency_ms", "reward"):
            value = news.get(name)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _GREATEST:
                found[name] = value
        found["success"] = bool(news.get("success"))
        found["score"] = self.score()
        found["results"] = [
            {
                "index": i,
                "seed": r.get("seed"),
                "success": _succeeded(r),
                "steps": r.get("steps"),
            }
            for i, r in sorted(self.results.items())[-200:]
        ]
        for name in ("policy", "executor", "simulation", "rehearsal", "maze", "gym_simulation"):
            if name in self.nodes and "task" in (values := self.nodes[name][1].values):
                found["task"] = values["task"]
        policy = next((self.nodes[n][1].values for n in ("policy", "planner", "rl_policy") if n in self.nodes), None)
        if policy is not None and "checkpoint" in policy:
            found["checkpoint"] = policy["checkpoint"].rsplit("/", 1)[-1]
        found["nodes"] = [
            {"name": name, "level": 3 if now - came > SILENT_SECONDS else s.level, "summary": s.summary}
            for name, (came, s) in sorted(self.nodes.items())
        ]
        return found

    def sample(self, now: float) -> dict[str, Any]:
        """A moment of the strip, which is added to it."""
        news = self.news if now - self._news_came < SILENT_SECONDS else {}
        missed = news.get("missed") or 0
        moment = {
            "t": round(now, 2),
            "word": self.banner(now).word,
            "latency": news.get("latency_ms"),
            "rate": news.get("rate"),
            "missed": max(0, missed - self._missed) if isinstance(missed, int) else 0,
        }
        self._missed = missed if isinstance(missed, int) else 0
        self._strip.append(moment)
        return moment

    def strip(self) -> list[dict[str, Any]]:
        """The last 30 s."""
        return list(self._strip)


def _succeeded(result: Mapping[str, Any]) -> bool:
    return bool(result.get("success", result.get("reached")))


def _why(summary: str) -> str:
    """The reason in a summary, '' where it gives none."""
    text = summary.removeprefix("holding: ")
    return "" if text.startswith("acting") else text
