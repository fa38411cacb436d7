"""What stands below a key of a robot's file, value by value; what is wrong is one line: key, value, rule."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

_TOPIC = re.compile(r"(~/|/)?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")
"""What ROS takes as the name of a topic or an action."""
_TOPIC_LENGTH = 200
"""Characters at most; ROS takes about 250, with the namespace and what an action adds."""
KEYS = frozenset(
    (
        *("record", "start", "success", "failure", "discard"),
        *("driver", "base", "tool", "joints", "description", "observations", "action", "gripper", "limits", "ready"),
        *("buttons", "frame", "xyz", "rpy", "topic", "file", "source", "camera", "latency", "qos", "parent", "child"),
        *("scale", "offset", "crop", "output", "type", "rate", "reference", "leash", "axes", "gain", "name", "open"),
        *("closed", "effort", "interval", "timeout", "linear", "angular", "linear_acceleration"),
        *("angular_acceleration", "low", "high", "value", "values", "latched", "max_age", "optional", "enable"),
        *("stop", "hold", "lag", "inertia", "joint_states", "proportional"),
        *("teleop", "dead_man", "x", "y", "z", "rx", "ry", "rz", "close", "slow", "slow_factor", "dead_zone", "expo"),
    )
)
"""All that there are: none of them is another one misspelt."""


class RobotFileError(ValueError):
    """A robot's file that cannot be used; one line with the file, the key, the value and the rule."""


class Section:
    """Keys and values below a key. Each read takes one; `done` refuses those that nobody reads."""

    def __init__(self, path: str, content: object, where: str = "") -> None:
        self._path, self._where = path, where
        if not isinstance(content, Mapping) or not content:
            raise self.error("", f"{content!r}, keys and values expected" if content else "empty, keys expected")
        self._content: dict[str, Any] = {str(key): value for key, value in content.items()}
        self._read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        self._read.add(name)
        return name in self._content

    def error(self, name: str, rule: str) -> RobotFileError:
        key = ".".join(filter(None, (self._where, name)))
        return RobotFileError(f"{self._path}: {key}: {rule}" if key else f"{self._path}: {rule}")

    def names(self) -> list[str]:
        return list(self._content)

    def under(self, defaults: Mapping[str, Any]) -> None:
        """What holds where nothing else is said."""
        self._content = {**{str(key): value for key, value in defaults.items()}, **self._content}

    def _take(self, name: str, required: bool, rule: str) -> Any:
        self._read.add(name)
        if name not in self._content:
            if required:
                meant = difflib.get_close_matches(name, set(self._content) - self._read - KEYS, 1)
                near = f" ({meant[0]!r} is not known)" if meant else ""
                raise self.error(name, f"missing{near}, {rule} expected")
            return None
        return self._content[name]

    def section(self, name: str) -> Section:
        content = self._take(name, True, "keys below it")
        return Section(self._path, content, ".".join(filter(None, (self._where, name))))

    def sections(self, name: str) -> list[Section]:
        content = self._take(name, False, "")
        if name not in self._content:
            return []
        if not isinstance(content, list):
            raise self.error(name, f"{'empty' if content is None else repr(content)}, a list expected")
        return [Section(self._path, one, f"{name}[{i}]") for i, one in enumerate(content)]

    def text(self, name: str, default: str | None = None) -> str:
        value = self._take(name, default is None, "a string")
        if value is None and default is not None and name not in self._content:
            return default
        if not isinstance(value, str) or not value.strip():
            raise self.error(name, f"{value!r}, a string expected")
        return value

    def topic(self, name: str, default: str | None = None) -> str:
        text = self.text(name, default)
        if text and not _TOPIC.fullmatch(text):
            rule = "letters, digits and _ between slashes, and no digit first"
            raise self.error(name, f"{text!r}, the name of a topic expected: {rule}")
        if len(text) > _TOPIC_LENGTH:
            raise self.error(name, f"{len(text)} characters, at most {_TOPIC_LENGTH} expected")
        return text

    def texts(self, name: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        value = self._take(name, default is None, "a list of names")
        if name not in self._content and default is not None:
            return default
        if not isinstance(value, list) or not value or not all(isinstance(x, str) and x for x in value):
            raise self.error(name, f"{value!r}, a list of names expected")
        return tuple(value)

    def choice(self, name: str, choices: Sequence[str], default: str | None = None) -> str:
        value = self._take(name, default is None, f"one of {', '.join(choices)}")
        if name not in self._content and default is not None:
            return default
        if value not in choices:
            raise self.error(name, f"{value!r}, one of {', '.join(choices)} expected")
        return str(value)

    def boolean(self, name: str, default: bool | None = None) -> bool:
        value = self._take(name, default is None, "true or false")
        if name not in self._content and default is not None:
            return default
        if not isinstance(value, bool):
            raise self.error(name, f"{value!r}, true or false expected")
        return value

    def number(
        self,
        name: str,
        default: float | None = None,
        *,
        low: float | None = None,
        high: float | None = None,
        above: float | None = None,
        unit: str = "",
    ) -> float:
        value = self._take(name, default is None, f"a number{f' of {unit}' if unit else ''}")
        if name not in self._content and default is not None:
            return default
        return self._number(name, value, low, high, above, unit)

    def _number(
        self, name: str, value: Any, low: float | None, high: float | None, above: float | None, unit: str
    ) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not _is_finite(value):
            said = "too large" if isinstance(value, int) and not isinstance(value, bool) else repr(value)
            raise self.error(name, f"{said}, a finite number{f' of {unit}' if unit else ''} expected")
        wrong = (
            (low is not None and value < low)
            or (high is not None and value > high)
            or (above is not None and value <= above)
        )
        if wrong:
            ends = (("at least", low), ("more than", above), ("at most", high))
            bounds = [f"{words} {end:g}" for words, end in ends if end is not None]
            raise self.error(name, f"{value:g}, {' and '.join(bounds)}{f' {unit}' if unit else ''} expected")
        return float(value)

    def numbers(
        self,
        name: str,
        many: int | None,
        default: tuple[float, ...] | None = None,
        low: float | None = None,
        high: float | None = None,
        unit: str = "",
    ) -> tuple[float, ...]:
        rule = f"{'a list of' if many is None else many} numbers{f' of {unit}' if unit else ''}"
        value = self._take(name, default is None, rule)
        if name not in self._content and default is not None:
            return default
        if not isinstance(value, list) or not value or (many is not None and len(value) != many):
            raise self.error(name, f"{value!r}, {rule} expected")
        return tuple(self._number(name, one, low, high, None, unit) for one in value)

    def done(self) -> None:
        """Raises for keys that nobody has read: misspelt ones."""
        for name in self._content:
            if name not in self._read:
                meant = difflib.get_close_matches(name, self._read, 1)
                known = f"{meant[0]!r}" if meant else f"one of {', '.join(sorted(self._read))}"
                raise self.error(name, f"unknown key, {known} expected")


def _is_finite(value: float) -> bool:
    """Whether it is a number that a float can hold; whole ones may be too large."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
