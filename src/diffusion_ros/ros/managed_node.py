"""Nodes with ROS's managed life: unconfigured, inactive, active (design.ros2.org/articles/node_lifecycle.html).

Parameters are checked when the node is made. `configure` loads what takes time and makes topics and services,
`activate` lets it act, `deactivate` has it hold, `cleanup` frees what configure made. By itself a node does the first
two at its start (`autostart`). With `autostart` false a manager asks for them: ours (lifecycle_manager.py), or Nav2's.
"""

from __future__ import annotations

import gc
import sys
import traceback
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from rclpy.lifecycle import LifecycleNodeMixin, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from diffusion_ros.ros.runner import RunnableNode

AUTOSTART = "true: it configures and activates itself at its start; false: a lifecycle manager does"
"""What the parameter autostart is."""
_DONE, _FAILED = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
_ENTITIES = ("_publishers", "_subscriptions", "_clients", "_services", "_timers", "_guards")


class ManagedNode(LifecycleNodeMixin, RunnableNode):
    """A subclass declares its parameters in its constructor, and calls `start` at the constructor's end."""

    def __init__(self, name: str, parameter_overrides: Sequence[Parameter[Any]] = (), **options: Any) -> None:
        RunnableNode.__init__(self, name, parameter_overrides, **options)
        LifecycleNodeMixin.__init__(self)
        # rclpy's own raises for a transition that this state has not: anybody's wrong word would end the node.
        self._change_state = self._service_change_state.callback
        self._service_change_state.callback = self._on_change_state
        self.configured = False
        self.active = False
        """Whether it may act. Read by any thread."""
        self._started = False
        self._before: dict[str, list[Any]] = {}
        """The entities that were there before `configure`."""

    def start(self, autostart: bool) -> None:
        """Raises what `configure` raises."""
        if autostart:
            # Straight through, so that an error reaches whoever makes the node as it is.
            self._configure()
            self.trigger_configure()
            self.trigger_activate()
        self._started = True

    # What a subclass fills in

    @abstractmethod
    def configure(self) -> None:
        """Loads, and makes topics and services; nothing acts yet. Raises ValueError, OSError or ModuleNotFoundError."""

    def activate(self) -> None:
        """From now on it acts."""

    def deactivate(self) -> None:
        """It has just become inactive: what it has begun is to end."""

    def cleanup(self) -> None:
        """Threads and files of `configure` end; topics and services go by themselves."""

    # The transitions, as rclpy calls them

    def _on_change_state(self, request: Any, response: Any) -> Any:
        try:
            return self._change_state(request, response)
        except RuntimeError as error:  # rclpy's RCLError
            reason = str(error).removeprefix("Failed to trigger lifecycle state machine transition: ")
            self.get_logger().warning(f"transition {request.transition.id} refused: {reason.split(', at ')[0]}")
            response.success = False
            return response

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        if self.configured:  # by start
            return _DONE
        try:
            self._configure()
        except (ValueError, OSError, ModuleNotFoundError) as error:
            # As at a start by itself: what cannot be loaded now cannot be loaded by trying again.
            print(" ".join(str(error).split()), file=sys.stderr, flush=True)
            self.exit_status = 2
            return _FAILED
        except Exception:
            self.get_logger().error(traceback.format_exc())
            self.exit_status = 1
            return _FAILED
        # As the runner does before the first callback: nothing of what was loaded is looked through again and again.
        gc.collect()
        gc.freeze()
        return _DONE

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.active = True
        self.activate()
        return _DONE

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.active = False
        self.deactivate()
        return _DONE

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._cleanup()
        return _DONE

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        if self.active:
            self.active = False
            self.deactivate()
        self._cleanup()
        self.exit_status = 0
        return _DONE

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Nobody expected it: the node ends, and whoever started it starts it again."""
        self.active = False
        self.exit_status = 1
        return _FAILED

    def _configure(self) -> None:
        self._before = {name: list(getattr(self, name)) for name in _ENTITIES}
        try:
            self.configure()
        except BaseException:
            self._destroy_new()
            raise
        self.configured = True

    def _cleanup(self) -> None:
        if not self.configured:
            return
        self.configured = False
        self.cleanup()
        self._destroy_new()

    def _destroy_new(self) -> None:
        """Topics, services and timers since `configure`."""
        destroy: dict[str, Callable[[Any], object]] = {
            "_publishers": self.destroy_publisher,
            "_subscriptions": self.destroy_subscription,
            "_clients": self.destroy_client,
            "_services": self.destroy_service,
            "_timers": self.destroy_timer,
            "_guards": self.destroy_guard_condition,
        }
        for name, destroyed in destroy.items():
            for entity in [one for one in getattr(self, name) if one not in self._before[name]]:
                destroyed(entity)

    def close(self) -> None:
        if self.configured:
            self.end()

    def end(self) -> None:
        """The last word of a configured node, before it is destroyed."""
        self.cleanup()
