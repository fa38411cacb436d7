"""A frozen dataclass -> declared, typed ROS parameters, fixed once the node runs, and back.

    @dataclass(frozen=True)
    class PolicyParameters:
        rate: float = parameter(20.0, "control steps a second [Hz]", low=1.0, high=1000.0)

    parameters = declare(node, PolicyParameters)

Once the node runs they are read-only, and say what is in force: also what a checkpoint gave where nothing was given.

Types: bool, int, float, str, tuple[float, ...], tuple[str, ...]. An integer is taken where a float is declared (rclpy
alone would refuse it). Whatever does not fit raises ParameterError, one line that names node, parameter and rule.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

P = TypeVar("P")

_TYPES: dict[Any, tuple[Parameter.Type, str]] = {
    bool: (Parameter.Type.BOOL, "true or false"),
    int: (Parameter.Type.INTEGER, "an integer"),
    float: (Parameter.Type.DOUBLE, "a number"),
    str: (Parameter.Type.STRING, "a string"),
    tuple[float, ...]: (Parameter.Type.DOUBLE_ARRAY, "a list of numbers"),
    tuple[str, ...]: (Parameter.Type.STRING_ARRAY, "a list of strings"),
}
ROS_OWN = ("use_sim_time", "start_type_description_service")
"""Parameters that every ROS node has."""
QOS_OVERRIDES = "qos_overrides."
_FLOAT_MAX = 1.7976931348623157e308
_INT_MAX = 2**63 - 1


class ParameterError(ValueError):
    """A parameter that cannot be used; one line."""


def parameter(
    default: Any = dataclasses.MISSING,
    description: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """A field of a parameter dataclass, required without a default.

    low, high: inclusive, for numbers and each of a list of them; choices: for strings.
    """
    metadata = {"description": description, "low": low, "high": high, "choices": tuple(choices)}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def from_values(cls: type[P], values: Mapping[str, Any], owner: str) -> P:
    """An instance of cls from values by name, checked; owner: the node's name, for the message."""
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ParameterError(f"{owner}: unknown parameter {', '.join(unknown)}; it has {', '.join(sorted(fields))}")
    hints = typing.get_type_hints(cls)
    checked = {name: _check(owner, fields[name], hints[name], value) for name, value in values.items()}
    missing = [n for n, f in fields.items() if n not in checked and f.default is dataclasses.MISSING]
    if missing:
        raise ParameterError(f"{owner}: parameter {', '.join(missing)} is required")
    try:
        return cls(**checked)
    except ValueError as error:
        raise ParameterError(f"{owner}: {error}") from None


def declare(node: Node, cls: type[P], complete: Callable[[P], P] | None = None) -> P:
    """Declares cls's fields on the node, read-only, and returns what is in force.

    complete: fills in what was left open, from a checkpoint; what it adds is logged once. Raises ParameterError, also
    for names that were given and that nobody declares, which are misspellings.
    """
    owner = node.get_name()
    hints = typing.get_type_hints(cls)
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(cls)  # type: ignore[arg-type]
    given = _given(node)
    for field in fields:
        # An empty list in a file has no type, and rclpy gives it no value.
        if field.name in given and given[field.name] is None and typing.get_origin(hints[field.name]) is tuple:
            given[field.name] = ()
    asked = from_values(cls, given, owner)
    instance = complete(asked) if complete is not None else asked
    for field in fields:
        value = getattr(instance, field.name)
        ros_type = _TYPES[hints[field.name]][0]
        # Not by the value alone: an empty list would be taken for an array of bytes.
        node.declare_parameter(field.name, ros_type, _descriptor(field, hints[field.name]), ignore_override=True)
        result = node.set_parameters(
            [Parameter(field.name, ros_type, list(value) if isinstance(value, tuple) else value)]
        )[0]
        if not result.successful:
            raise ParameterError(f"{owner}: parameter {field.name}: {result.reason}")
        # Only now: what is read-only cannot be set, and rclpy keeps the descriptor that it was given.
        fixed = _descriptor(field, hints[field.name])
        fixed.name, fixed.type, fixed.read_only = field.name, ros_type.value, True
        node.set_descriptor(field.name, fixed)
    added = [field.name for field in fields if getattr(instance, field.name) != getattr(asked, field.name)]
    if added:
        values = ", ".join(f"{name} {_shown(getattr(instance, name))}" for name in added)
        node.get_logger().info(f"in force, as nothing was given: {values}")
    return instance


def _given(node: Node) -> dict[str, Any]:
    """By name, what command line and files say. rclpy tells it otherwise only by declaring it all, which fails for an
    empty list."""
    overrides: Mapping[str, Parameter[Any]] = node._parameter_overrides
    return {
        name: parameter.value
        for name, parameter in overrides.items()
        if name not in ROS_OWN and not name.startswith(QOS_OVERRIDES)
    }


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _descriptor(field: dataclasses.Field[Any], hint: Any) -> ParameterDescriptor:
    low, high = field.metadata["low"], field.metadata["high"]
    choices = field.metadata["choices"]
    descriptor = ParameterDescriptor(
        description=field.metadata["description"],
        additional_constraints=f"one of {', '.join(choices)}" if choices else "",
    )
    if low is not None or high is not None:
        if hint is int:
            descriptor.integer_range = [
                IntegerRange(
                    from_value=int(low) if low is not None else -_INT_MAX,
                    to_value=int(high) if high is not None else _INT_MAX,
                )
            ]
        elif hint is float:
            descriptor.floating_point_range = [
                FloatingPointRange(
                    from_value=float(low) if low is not None else -_FLOAT_MAX,
                    to_value=float(high) if high is not None else _FLOAT_MAX,
                )
            ]
    return descriptor


def _check(owner: str, field: dataclasses.Field[Any], hint: Any, value: Any) -> Any:
    where = f"{owner}: parameter {field.name}"
    converted = _convert(hint, value)
    if converted is None:
        raise ParameterError(f"{where} is {value!r}, {_TYPES[hint][1]} expected")
    numbers = converted if isinstance(converted, tuple) else (converted,)
    low, high = field.metadata["low"], field.metadata["high"]
    for number in numbers:
        if isinstance(number, float) and not math.isfinite(number):
            raise ParameterError(f"{where} is {value!r}, finite numbers expected")
        if (low is not None and number < low) or (high is not None and number > high):
            bounds = " and ".join([f"at least {low}"] * (low is not None) + [f"at most {high}"] * (high is not None))
            raise ParameterError(f"{where} is {number}, {bounds} expected")
    choices = field.metadata["choices"]
    if choices and converted not in choices:
        raise ParameterError(f"{where} is {value!r}, one of {', '.join(choices)} expected")
    return converted


def _convert(hint: Any, value: Any) -> Any:
    """The value in the declared type, or None where it is of another."""
    if hint is bool:
        return value if isinstance(value, bool) else None
    if hint is int:
        return value if isinstance(value, int) and not isinstance(value, bool) else None
    if hint is float:
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    if hint is str:
        return value if isinstance(value, str) else None
    item = typing.get_args(hint)[0]
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        return None
    items = [_convert(item, x) for x in value]
    return None if any(x is None for x in items) else tuple(items)
