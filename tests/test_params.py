"""A dataclass becomes declared, typed, read-only parameters; what does not fit is one line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import ros_graph
import yaml
from rclpy.parameter import Parameter

from diffusion_ros.nodes.executor_node import ExecutorParameters
from diffusion_ros.nodes.policy_parameters import PolicyParameters
from diffusion_ros.ros.params import ParameterError, declare, from_values, parameter
from diffusion_ros.ros.runner import RunnableNode


@dataclass(frozen=True)
class Options:
    path: str = parameter(description="a path that has no default")
    rate: float = parameter(20.0, "Hz", low=1.0, high=100.0)
    count: int = parameter(3, "how many", low=0)
    on: bool = parameter(False, "whether")
    mode: str = parameter("slow", "how", choices=("slow", "fast"))
    corner: tuple[float, ...] = parameter((), "m")
    names: tuple[str, ...] = parameter(("a",), "names")

    def __post_init__(self) -> None:
        if self.count > 10 and self.mode == "slow":
            raise ValueError(f"count {self.count}, at most 10 expected with mode slow")


def test_values_are_converted_and_defaults_stay():
    options = from_values(Options, {"path": "x", "rate": 30, "corner": [1, 2.5], "names": ["b", "c"]}, "node")
    assert options == Options(path="x", rate=30.0, corner=(1.0, 2.5), names=("b", "c"))
    assert type(options.rate) is float and type(options.corner[0]) is float


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"rate": "fast"}, "node: parameter rate is 'fast', a number expected"),
        ({"rate": True}, "node: parameter rate is True, a number expected"),
        ({"rate": 0.5}, "node: parameter rate is 0.5, at least 1.0 and at most 100.0 expected"),
        ({"rate": float("nan")}, "node: parameter rate is nan, finite numbers expected"),
        ({"count": 1.0}, "node: parameter count is 1.0, an integer expected"),
        ({"count": -1}, "node: parameter count is -1, at least 0 expected"),
        ({"on": 1}, "node: parameter on is 1, true or false expected"),
        ({"mode": "medium"}, "node: parameter mode is 'medium', one of slow, fast expected"),
        ({"corner": 1.0}, "node: parameter corner is 1.0, a list of numbers expected"),
        ({"corner": ["a"]}, "node: parameter corner is ['a'], a list of numbers expected"),
        ({"names": "abc"}, "node: parameter names is 'abc', a list of strings expected"),
        ({"count": 11}, "node: count 11, at most 10 expected with mode slow"),
        (
            {"rat": 1.0},
            "node: unknown parameter rat; it has corner, count, mode, names, on, path, rate",
        ),
    ],
)
def test_what_does_not_fit_is_one_line_with_the_value_and_the_rule(values, line):
    with pytest.raises(ParameterError) as error:
        from_values(Options, {"path": "x", **values}, "node")
    assert str(error.value) == line


def test_what_is_required_is_asked_for():
    with pytest.raises(ParameterError, match=r"^node: parameter path is required$"):
        from_values(Options, {}, "node")


def test_a_node_declares_them_typed_described_and_read_only():
    with ros_graph.graph() as graph:
        overrides = [Parameter("path", value="x"), Parameter("rate", value=30), Parameter("corner", value=[1, 2, 3])]
        node = graph.add(RunnableNode("options", overrides))
        options = declare(node, Options)
        assert options == Options(path="x", rate=30.0, corner=(1.0, 2.0, 3.0))
        assert node.get_parameter("rate").type_ == Parameter.Type.DOUBLE
        assert node.get_parameter("corner").type_ == Parameter.Type.DOUBLE_ARRAY
        assert node.get_parameter("names").value == ["a"] and node.get_parameter("on").value is False
        descriptor = node.describe_parameter("rate")
        assert descriptor.description == "Hz" and descriptor.floating_point_range[0].to_value == 100.0
        assert node.describe_parameter("count").integer_range[0].from_value == 0
        for name in ("rate", "path"):
            result = node.set_parameters([node.get_parameter(name)])[0]
            assert not result.successful, "a change that nobody would notice is refused"


def test_an_empty_list_is_a_list_of_its_type():
    with ros_graph.graph() as graph:
        node = graph.add(RunnableNode("options", [Parameter("path", value="x")]))
        declare(node, Options)
        assert node.get_parameter("corner").type_ == Parameter.Type.DOUBLE_ARRAY


def test_an_unknown_parameter_of_a_node_is_named():
    with ros_graph.graph() as graph:
        node = graph.add(RunnableNode("options", [Parameter("pahts", value="x")]))
        with pytest.raises(ParameterError, match="options: unknown parameter pahts"):
            declare(node, Options)


@pytest.mark.parametrize(("name", "cls"), [("policy", PolicyParameters), ("executor", ExecutorParameters)])
def test_the_files_in_config_fit_their_nodes_and_name_the_defaults(name, cls):
    path = Path(__file__).parents[1] / "config" / f"{name}.yaml"
    values = yaml.safe_load(path.read_text())["/**"]["ros__parameters"]
    given = from_values(cls, {"checkpoint": "x.pt", **values}, name)
    changed = {field: value for field, value in values.items() if value != _plain(getattr(cls, field, None))}
    simulator = {"enabled": True, "checkpoint_limits": True}
    assert changed == (simulator if name == "executor" else {}), "the simulator is free to move, robots are not"
    assert given.mode == "realtime"


def _plain(value):
    return list(value) if isinstance(value, tuple) else value
