"""lifecycle_manager: brings the managed nodes of a system to life, and those that were started again. For `ros2
launch`; `diffusion_ros` does the same by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lifecycle_msgs.msg import State
from rclpy.parameter import Parameter

from diffusion_ros.ros.diagnostics import OK, WARN, Diagnostics
from diffusion_ros.ros.lifecycle_manager import LifecycleManager
from diffusion_ros.ros.params import declare, parameter
from diffusion_ros.ros.runner import RunnableNode, run

_POLL_SECONDS = 0.05
_STATES = {
    State.PRIMARY_STATE_UNKNOWN: "not there",
    State.PRIMARY_STATE_UNCONFIGURED: "unconfigured",
    State.PRIMARY_STATE_INACTIVE: "inactive",
    State.PRIMARY_STATE_ACTIVE: "active",
}


@dataclass(frozen=True)
class LifecycleManagerParameters:
    """Parameters of the lifecycle_manager node."""

    node_names: tuple[str, ...] = parameter(
        description="the nodes that it manages, in the order in which they are activated"
    )


class LifecycleManagerNode(RunnableNode):
    """Asks each node for its state, and for its transitions."""

    def __init__(self, parameter_overrides: Sequence[Parameter[Any]] = ()) -> None:
        """Raises ValueError (parameters) in one line."""
        super().__init__("lifecycle_manager", parameter_overrides)
        self.follows_clock = False  # as time may stand still until they live
        self.parameters = declare(self, LifecycleManagerParameters)
        self.manager = LifecycleManager(self, self.parameters.node_names, self.get_logger().error)
        self.diagnostics = Diagnostics(self, "lifecycle manager", self._refresh)
        self.every(_POLL_SECONDS, self.manager.poll)

    def _refresh(self) -> None:
        states = {name: _STATES.get(state, "changing") for name, state in self.manager.states.items()}
        for name, state in states.items():
            self.diagnostics.value(name, state)
        others = [f"{name} is {state}" for name, state in states.items() if state != "active"]
        self.diagnostics.report(WARN if others else OK, "; ".join(others) or "all are active")


def main() -> int:
    return run(LifecycleManagerNode)


if __name__ == "__main__":
    raise SystemExit(main())
