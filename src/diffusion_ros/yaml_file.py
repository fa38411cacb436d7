"""YAML as ROS reads it: numbers like 1e3 are numbers, and a key that stands twice is an error."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

_FLOAT = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
"""Numbers of ROS's YAML that are strings in PyYAML's."""


class Loader(yaml.SafeLoader):  # type: ignore[misc]
    """As ROS reads numbers; a key that stands twice, of which one would be lost, is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for place, key in enumerate(keys) if key in keys[:place]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"{twice!r} stands there twice", node.start_mark)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def read_as_ros(cls: Any) -> None:
    """Teaches a loader or dumper of PyYAML which words are numbers."""
    cls.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


read_as_ros(Loader)


def load(path: Path) -> Any:
    """What a file says. Raises ValueError, one line with the path."""
    try:
        return yaml.load(path.read_text(), Loader)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: is no YAML that can be read: {' '.join(str(error).split())}") from None
