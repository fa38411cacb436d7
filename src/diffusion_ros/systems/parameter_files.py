"""YAML files of ROS parameters: which of their values are a node's.

rclpy alone could read several files, but then a section that names a node wins over `/**` of a later file and over the
command line: an argument could lose against a file. Here the later file always wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from diffusion_ros.yaml_file import load, read_as_ros

_KEY = "ros__parameters"


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Quotes strings that ROS would read as numbers."""


read_as_ros(_Dumper)


class ParameterFileError(ValueError):
    """A file that cannot be used; one line with its path and the rule."""


@dataclass(frozen=True)
class ParameterFile:
    """Sections of a file, in order: the pattern of node names that each is for, and its values by parameter."""

    path: Path
    sections: tuple[tuple[str, Mapping[str, Any]], ...]

    def of(self, node: str) -> dict[str, Any]:
        """Values for the node of that full name (`/left/policy`); of several sections the later one counts."""
        values: dict[str, Any] = {}
        for pattern, parameters in self.sections:
            if _matches(pattern, node):
                values.update(parameters)
        return values

    def of_all(self, node: str) -> set[str]:
        """Names that it has for that node only from sections which are not for it by name (`/**`)."""
        mine = [values for pattern, values in self.sections if _matches(pattern, node) and _is_one_name(pattern)]
        return set(self.of(node)).difference(*mine)

    def foreign(self, nodes: Sequence[str]) -> list[str]:
        """Patterns that are for none of these nodes."""
        return [pattern for pattern, _ in self.sections if not any(_matches(pattern, node) for node in nodes)]


def read(path: Path) -> ParameterFile:
    """Raises ParameterFileError for what is no such file."""
    try:
        content = load(path)
        sections = tuple(_sections(path, content, "")) if content is not None else ()
    except RecursionError:
        raise ParameterFileError(f"{path}: is no YAML that can be read: it is nested too deeply") from None
    except ParameterFileError:
        raise
    except ValueError as error:
        raise ParameterFileError(str(error)) from None
    return ParameterFile(path, sections)


def write(path: Path, parameters: Mapping[str, Any]) -> None:
    """A file with these parameters for the node that reads it."""
    values = {name: _alike(value) for name, value in parameters.items()}
    path.write_text(yaml.dump({"/**": {_KEY: values}}, Dumper=_Dumper, sort_keys=False))


def _alike(value: Any) -> Any:
    """ROS wants lists of one type: [0.5, 1] is one of floats."""
    numbers = isinstance(value, list) and all(type(item) in (int, float) for item in value)
    return [float(item) for item in value] if numbers and not all(type(item) is int for item in value) else value


def _sections(path: Path, content: object, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    where = f"{path}: {name!r}" if name else f"{path}"
    if not isinstance(content, Mapping) or not content:
        raise ParameterFileError(f"{where}: expected a node's name with {_KEY} below it, as in config/")
    for key, below in content.items():
        if key != _KEY:
            yield from _sections(path, below, f"{name}/{str(key).strip('/')}")
        elif not name:
            raise ParameterFileError(f"{path}: {_KEY} stands below no node's name; '/**' is for all")
        elif not isinstance(below, Mapping | None):
            raise ParameterFileError(f"{where}: expected parameters below {_KEY}")
        else:
            yield name, dict(_flat(below or {}, ""))


def _flat(values: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Nested names as ROS calls them: with points between."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _is_one_name(pattern: str) -> bool:
    """Whether a section is for nodes of one name."""
    return "*" not in pattern.rpartition("/")[2]


def _matches(pattern: str, node: str) -> bool:
    """`*` stands for one name between slashes, `**` for any number of them."""
    words = {"*": "/[^/]+", "**": "(/[^/]+)*"}
    return bool(re.fullmatch("".join(words.get(word, f"/{re.escape(word)}") for word in pattern.split("/")[1:]), node))
