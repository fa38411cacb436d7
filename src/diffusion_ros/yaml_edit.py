"""Sets numbers in the text of a YAML file; comments, order and everything else stay as they are."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import yaml

from diffusion_ros.yaml_file import Loader


def with_number(text: str, keys: Sequence[str], value: float) -> str:
    """The text with another number at a path of keys, the last of which may be new there. value: written in three
    digits behind the point. Raises ValueError, one line that says what to write by hand."""
    path, number = ".".join(keys), f"{value:.3f}"

    def error(why: str) -> ValueError:
        return ValueError(f"{path}: {why}: write `{keys[-1]}: {number}` by hand")

    try:
        root = yaml.compose(text, Loader)
        content = yaml.load(text, Loader)
    except yaml.YAMLError as problem:
        raise error(f"no YAML that can be read ({' '.join(str(problem).split())})") from None
    node = root
    for key in keys[:-1]:
        node = _value(node, key)
        if not isinstance(node, yaml.MappingNode) or not node.value:
            raise error("there are no keys and values above it")
    if _uses(root, node) > 1:
        raise error("what is written there counts elsewhere as well (a YAML anchor)")
    old = _value(node, keys[-1])
    if old is None:
        changed = _added(text, node, f"{keys[-1]}: {number}")
    elif isinstance(old, yaml.ScalarNode) and _uses(root, old) == 1:
        changed = text[: old.start_mark.index] + number + text[old.end_mark.index :]
    else:
        raise error("it is no number of its own")
    wanted = copy.deepcopy(content)
    section: Any = wanted
    for key in keys[:-1]:
        section = section[key]
    section[keys[-1]] = float(number)
    try:
        same = yaml.load(changed, Loader) == wanted
    except yaml.YAMLError:
        same = False
    if not same:
        raise error("the place for it was not found")
    return changed


def _value(node: Any, key: str) -> Any:
    """None where there is no such key."""
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)


def _uses(root: Any, node: Any) -> int:
    """How often a node is reached: more than once through aliases."""
    if root is node:
        return 1
    if isinstance(root, yaml.MappingNode):
        return sum(_uses(value, node) for _, value in root.value)
    return sum(_uses(value, node) for value in root.value) if isinstance(root, yaml.SequenceNode) else 0


def _added(text: str, mapping: yaml.MappingNode, pair: str) -> str:
    """With a pair behind the others of a mapping."""
    if mapping.flow_style:
        at = mapping.value[-1][1].end_mark.index
        return f"{text[:at]}, {pair}{text[at:]}"
    # Behind a value that ends in its line; where a block ends, comments that follow it count to it.
    ends = [
        value.end_mark.index
        for _, value in mapping.value
        if (isinstance(value, yaml.ScalarNode) and value.style not in ("|", ">")) or getattr(value, "flow_style", False)
    ]
    column = mapping.value[0][0].start_mark.column
    newline = "\r\n" if "\r\n" in text else "\n"
    if not ends:
        at = mapping.value[0][0].start_mark.index
        return f"{text[:at]}{pair}{newline}{' ' * column}{text[at:]}"
    at = text.find("\n", ends[-1])
    if at < 0:
        return f"{text}{newline}{' ' * column}{pair}{newline}"
    return f"{text[: at + 1]}{' ' * column}{pair}{newline}{text[at + 1 :]}"
