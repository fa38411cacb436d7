"""What every node's main() does: init, executor, signals, shutdown, exit status."""

from __future__ import annotations

import copy
import dataclasses
import gc
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import rclpy
from rclpy.clock import Clock, JumpThreshold, TimeJump
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.impl.logging_severity import LoggingSeverity
from rclpy.logging import set_logger_level
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import InvalidQoSProfileException, QoSProfile
from rclpy.qos_overriding_options import InvalidQosOverridesError, QoSOverridingOptions
from rclpy.signals import SignalHandlerOptions
from rclpy.timer import Timer

from diffusion_ros.cache_folders import use_cache_folders
from diffusion_ros.dds_security import explain_security, quiet
from diffusion_ros.installation import explain
from diffusion_ros.ros import topics
from diffusion_ros.ros.chunk_budget import Reading
from diffusion_ros.ros.message_executor import MessageExecutor
from diffusion_ros.stop_signals import ended_by_signal

_BAD_PARAMETERS = (ParameterException, InvalidQosOverridesError, InvalidQoSProfileException)
"""What rclpy raises for values of its own parameters (use_sim_time, qos_overrides)."""
_WAKE_SECONDS = 0.1
"""Longest wait in rclpy: Python's signal handlers run only between waits."""

_STILL_SECONDS = 2.0
"""Wall time after which a /clock that has not moved is no time to act by. A simulator that begins an episode, or draws
large pictures on a slow machine, moves it less often than once a second."""
_NEW_RUN_SECONDS = 60.0
"""By so much `seconds` goes on where /clock goes back: whatever was heard before is old then, by any limit."""


class RunnableNode(Node):
    """A node that `run` can run: it may end by itself, and is told before it is destroyed.

    It measures how long ago something was in the robot's time, which is /clock's where `use_sim_time` says so:
    `seconds` and `every`. How long something took to compute is time.monotonic's, whatever the robot's time is.
    """

    def __init__(self, name: str, parameter_overrides: Sequence[Parameter[Any]] = (), **options: Any) -> None:
        super().__init__(name, parameter_overrides=list(parameter_overrides), **options)
        self.exit_status: int | None = None
        """Set by the node when its work is done: `run` then ends with this status."""
        self.follows_clock = bool(self.get_parameter("use_sim_time").value)
        """Whether the robot's time is /clock's. In lockstep a node sets it to False before it makes anything else: that
        time stands still while one node waits for another, and then nothing would ever be too old."""
        self.reading = Reading()
        self._clock_moved: float | None = None
        """When /clock moved last, in wall time [s]."""
        self._ahead = 0.0
        """What `seconds` is ahead of /clock, which went back [s]."""
        if self.follows_clock:
            nanosecond = Duration(nanoseconds=1)
            threshold = JumpThreshold(min_forward=nanosecond, min_backward=Duration(nanoseconds=-1))
            self._jumps = self.get_clock().create_jump_callback(threshold, post_callback=self._on_clock)

    def _on_clock(self, jump: TimeJump) -> None:
        """/clock has moved."""
        self._clock_moved = time.monotonic()
        if jump.delta.nanoseconds < 0:
            self._ahead += _NEW_RUN_SECONDS - jump.delta.nanoseconds / 1e9

    def seconds(self) -> float:
        """The robot's time [s] from some moment on; it never goes back. Any thread may ask.

        It stands still with /clock and is 0 before the first. Where /clock goes back, because a simulator was started
        again, a minute passes at once.
        """
        return self.now_ns() / 1e9 + self._ahead if self.follows_clock else time.monotonic()

    def now_ns(self) -> int:
        """The time of stamps [ns]: the system's, or /clock's."""
        return int(self.get_clock().now().nanoseconds)

    def every(self, period: float, callback: Callable[[], None]) -> Timer:
        """Calls back each `period` seconds of the robot's time; what a busy node has missed is not made up for."""
        clock = self.get_clock() if self.follows_clock else Clock(clock_type=ClockType.STEADY_TIME)
        return self.create_timer(period, callback, clock=clock)

    def without_time(self) -> str:
        """'' or why it is not known how old anything is; nothing may move then."""
        if not self.follows_clock:
            return ""
        if self._clock_moved is None:
            return f"no {topics.CLOCK} yet"
        still = time.monotonic() - self._clock_moved
        return f"{topics.CLOCK} stands still for {still:.1f} s" if still > _STILL_SECONDS else ""

    def create_subscription(self, msg_type: Any, topic: str, callback: Any, qos_profile: Any, **options: Any) -> Any:
        """As Node's, with ROS's parameters qos_overrides.<topic>.subscription.* for relative topics."""
        return super().create_subscription(
            msg_type, topic, callback, *self._overridable(topic, qos_profile, options), **options
        )

    def create_publisher(self, msg_type: Any, topic: str, qos_profile: Any, **options: Any) -> Any:
        """As Node's, with ROS's parameters qos_overrides.<topic>.publisher.* for relative topics."""
        return super().create_publisher(msg_type, topic, *self._overridable(topic, qos_profile, options), **options)

    def _overridable(self, topic: str, qos: Any, options: dict[str, Any]) -> tuple[Any]:
        """The profile to be used; ROS writes the parameters' values into it, and ours are shared."""
        if topic.startswith("/") or not isinstance(qos, QoSProfile):
            return (qos,)
        options.setdefault("qos_overriding_options", QoSOverridingOptions.with_default_policies())
        return (copy.copy(qos),)

    def close(self) -> None:
        """Called once before the node is destroyed, while it can still publish: stop threads, say the last word. It may
        set exit_status."""


def _init(args: Sequence[str] | None) -> None:
    """rclpy.init; ValueError for arguments and parameter files that it cannot use."""
    # rcl logs these errors as well as raising them; one line is enough.
    set_logger_level("rcl", LoggingSeverity.FATAL)
    try:
        # Our signal handlers and not rclpy's: those shut the context down at once, and a node could not say its last.
        rclpy.init(args=None if args is None else list(args), signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # RCLError and its kin
        raise ValueError(str(error).removeprefix("failed to initialize rcl: ")) from None
    finally:
        set_logger_level("rcl", LoggingSeverity.UNSET)


def node_help(module: ModuleType) -> str:
    """What a node does, and its parameters: read from the module that it is in."""
    name = Path(module.__file__ or "node").stem
    lines = [
        f"usage: {name} [--ros-args -p PARAMETER:=VALUE ... --params-file FILE -r TOPIC:=OTHER]",
        "",
        (module.__doc__ or "").strip(),
        "",
    ]
    for kind in (value for known, value in vars(module).items() if known.endswith("Parameters")):
        lines.append("parameters:")
        for field in dataclasses.fields(kind):
            required = field.default is dataclasses.MISSING
            lines.append(f"  {field.name} [{'required' if required else _written(field.default)}]")
            said = str(field.metadata.get("description", ""))
            if choices := field.metadata.get("choices"):
                said += f" ({', '.join(filter(None, choices))})"
            lines.append(textwrap.fill(said, 100, initial_indent=" " * 6, subsequent_indent=" " * 6))
    return "\n".join(lines)


def _written(value: object) -> str:
    """As it is written on a command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def run(make_node: Callable[[], RunnableNode], args: Sequence[str] | None = None) -> int:
    """Runs one node until it ends itself or SIGINT or SIGTERM arrives; returns the exit status. With --help it only
    says what the node does and which parameters it has.

    Status 0 after a signal (a stop that was asked for), or the node's own exit_status, and 2 after one line on stderr
    where arguments, parameters or files given to it are bad (a ValueError or OSError while it is made) or a library is
    not installed.
    """
    words = sys.argv[1:] if args is None else list(args)
    if {"-h", "--help"} & set(words[: words.index("--ros-args")] if "--ros-args" in words else words):
        print(node_help(sys.modules[make_node.__module__]))
        return 0
    stop_signal: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stop_signal.append(number)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    node: RunnableNode | None = None
    executor: MessageExecutor | None = None
    at_once = ExitStack()
    try:
        # The second one does not wait for a callback, or a module, that hangs.
        at_once.enter_context(ended_by_signal(2))
        try:
            use_cache_folders()
            _init(args)
            quiet()
            node = make_node()
        except ModuleNotFoundError as error:
            print(explain(error), file=sys.stderr)
            return 2
        except (ValueError, OSError, *_BAD_PARAMETERS) as error:
            print(" ".join(str(error).split()), file=sys.stderr)
            return 2
        except RuntimeError as error:  # rclpy's
            if not (why := explain_security(error)):
                raise
            print(why, file=sys.stderr)
            return 2
        # A full collection of all that robosuite or torch have made takes 150 ms, three control periods: leave it out.
        gc.collect()
        gc.freeze()
        executor = MessageExecutor()
        executor.add_node(node)
        # spin() sometimes sleeps through a signal; spin_once with a time limit cannot.
        while not stop_signal and node.exit_status is None:
            executor.spin_once(timeout_sec=_WAKE_SECONDS)
    finally:
        if node is not None:
            node.close()
        if executor is not None:
            executor.shutdown()
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
        at_once.close()
        for number, handler in previous.items():
            signal.signal(number, handler)
    return node.exit_status or 0  # which closing it may have set
