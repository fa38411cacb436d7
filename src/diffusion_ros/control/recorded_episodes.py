"""Which parts of a recording are episodes: what a person says of them, and what a simulator's news say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VERDICTS = ("success", "failure", "end")
_RESTS = ("end", "drawing", "pausing", "checking", "done")
"""What a simulator says between two episodes."""


class EpisodeError(ValueError):
    """What cannot be done with the episode now; one line."""


class RecordedEpisodes:
    """Each method that changes something returns the event to be written: `event` and `episode`, and perhaps more.

    An episode runs from `start` to `success`, `failure`, or `end` where nobody has said how it went. One that is
    discarded does not count.
    """

    def __init__(self) -> None:
        self.running = False
        self.number = -1
        """Of the episode that runs, or ran last; the first is 0."""
        self.counts = {"success": 0, "failure": 0, "end": 0, "discard": 0}
        self._last = ""
        """How the last one ended, '' where there is none that could be thrown away."""
        self._rests = True
        """Whether no simulator has said that an episode may run: a robot of its own has none that says so."""
        self._moved = False
        """Whether a simulator has said that the one that runs does."""

    def start(self) -> dict[str, Any]:
        if self.running:
            raise EpisodeError(f"episode {self.number} runs already, none expected")
        self.running, self.number, self._last, self._moved = True, self.number + 1, "", False
        return {"event": "start", "episode": self.number}

    def finish(self, verdict: str, reason: str = "") -> dict[str, Any]:
        """verdict: one of VERDICTS."""
        if not self.running:
            raise EpisodeError(f"no episode runs, one expected for {verdict}")
        self.running, self._last = False, verdict
        self.counts[verdict] += 1
        return {"event": verdict, "episode": self.number, **({"reason": reason} if reason else {})}

    def discard(self, reason: str = "") -> dict[str, Any]:
        """Throws away the episode that runs, or the last one."""
        if not self.running and not self._last:
            raise EpisodeError("no episode to discard, one that runs or has just ended expected")
        if not self.running:
            self.counts[self._last] -= 1
        self.running, self._last = False, ""
        self.counts["discard"] += 1
        return {"event": "discard", "episode": self.number, **({"reason": reason} if reason else {})}

    # What a simulator or a rehearsal does

    def acted(self, lockstep: bool) -> dict[str, Any] | None:
        """A row was executed, which begins an episode, but for one that was still under way when the last one ended.
        In lockstep there is none: the simulator waits for each."""
        return self.start() if not self.running and (lockstep or not self._rests) else None

    def heard(self, news: Mapping[str, Any]) -> dict[str, Any] | None:
        """The topic `episode` said this."""
        event = str(news.get("event", ""))
        result = news.get("result")
        self._rests = event in _RESTS
        if event == "running" and not self.running and news.get("acting"):
            started = self.start()
            self._moved = True
            return started
        if not self.running:
            return None
        if event == "running":
            self._moved = True
        elif event in ("end", "drawing"):
            outcome = result if isinstance(result, Mapping) else news
            known = {name: news[name] for name in ("index", "seed") if name in news}
            return {**self.finish("success" if outcome.get("success") else "failure"), **known}
        elif self._moved and event in ("waiting", "pausing"):
            return self.discard("the simulator began it again")
        return None
