"""Random calls, messages and streams: nothing out of limits, in the wrong frame, after a stop, and no exception.

A few thousand of each in `make test`, a million of each in `make test-slow`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
import ros_graph
from rclpy.logging import LoggingSeverity, set_logger_level
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String

from diffusion_ros.control.action_chunk import ActionChunk
from diffusion_ros.control.chunk_executor import ChunkExecutor, Command, ExecutorLimits
from diffusion_ros.robot import WORLD_FRAME
from diffusion_ros.ros import messages

from .bench import PERIOD_NS, Bench
from .kinds import _call, chunk_msg

LOW = np.array([-0.05, -0.05, -0.05, -0.5, -0.5, -0.5, -1.0])
HIGH = -LOW
BOX = np.array([0.5, 0.4, 0.3])
WEIRD = (float("nan"), float("inf"), -float("inf"), 1e300, -1e6, 1e6, 0.0, -0.0, 5e-324)

amounts = pytest.mark.parametrize(
    "count", [3000, pytest.param(1_000_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)


def number(rng: np.random.Generator, scale: float = 1.0) -> float:
    """Mostly an ordinary one."""
    return float(rng.choice(WEIRD)) if rng.random() < 0.02 else float(rng.normal() * scale)


def within(command: Command, position: np.ndarray) -> None:
    """What every command must be, whatever came before it."""
    assert np.all(np.isfinite(command.row)), command
    assert np.all(command.row >= LOW) and np.all(command.row <= HIGH), command
    assert command.acting or not command.row.any(), command
    after = position + command.row[:3]
    # Inside of the box, or not farther outside than before.
    assert np.all(np.abs(after) <= np.maximum(BOX, np.abs(position)) + 1e-12), (command, position)


@amounts
def test_the_executor_alone(count: int) -> None:
    rng = np.random.default_rng(count)
    limits = ExecutorLimits(tuple(LOW), tuple(HIGH), tuple(-BOX), tuple(BOX))
    stamp, position, enabled, stopped = 10**18, np.zeros(3), True, False

    def new(realtime: bool) -> ChunkExecutor:
        ahead = {"max_ahead_ns": 250_000_000, "max_speed": 3.0} if realtime else {"max_rows": 8}
        join = {"join": "blend", "blend_rows": 2} if rng.random() < 0.5 else {}
        known = ((-2.0,) * 3, (2.0,) * 3)
        return ChunkExecutor(limits, PERIOD_NS, 250_000_000, position_range=known, **ahead, **join)

    executor = new(True)
    acted = 0
    for i in range(count):
        if i % 500 == 499:
            executor, enabled, stopped = new(bool(rng.random() < 0.5)), True, False
        what = rng.random()
        if what < 0.35:
            stamp += int(rng.choice([0, 1_000_000, PERIOD_NS, -PERIOD_NS * 20, 10**9], p=[0.1, 0.2, 0.66, 0.02, 0.02]))
            position = np.clip(position + rng.normal(size=3) * 0.01, -0.6, 0.6)
            executor.observe(stamp, position if rng.random() < 0.95 else np.array([number(rng) for _ in range(3)]))
        elif what < 0.6:
            rows = rng.normal(size=(int(rng.integers(1, 40)), 7)) * HIGH
            if rng.random() < 0.1:
                rows[rng.integers(len(rows)), rng.integers(7)] = number(rng, 100)
            if rng.random() < 0.05:
                rows[:] = 0.0
            made = stamp + int(rng.choice([0, 0, 0, 0, 0, 0, -PERIOD_NS, PERIOD_NS, 4 * 10**9, -(10**18)]))
            executor.add_chunk(ActionChunk(max(made, 0), rows, PERIOD_NS if rng.random() < 0.95 else 10**8))
        elif what < 0.95:
            now = None if rng.random() < 0.3 else stamp + int(rng.choice([0, 10_000_000, 300_000_000, -(10**9)]))
            command = executor.command(stamp + int(rng.integers(-PERIOD_NS, PERIOD_NS)), now)
            within(command, executor._position + executor._since)
            assert not command.acting or (enabled and not stopped), "motion after a stop"
            acted += command.acting
            if rng.random() < 0.5:
                executor.sent(command)
        elif what < 0.953:
            executor.estop()
            stopped, enabled = True, False
        elif what < 0.975:
            executor.estop_reset()
            stopped = False
        else:
            wanted = bool(rng.random() < 0.8)
            if executor.set_enabled(wanted):
                enabled = wanted
            assert not (wanted and stopped and executor.enabled), "enabled under a stop"
    assert acted > count / 50, "an executor that never acts proves nothing"


def _strings(rng: np.random.Generator) -> str:
    return str(rng.choice(["", "world", "map", "a\n\x1b[31m", "x" * 2000, "eef_dx"]))


def mutated(rng: np.random.Generator, thing: Any, depth: int = 0) -> Any:
    """A copy of a message in which a few things are others, of the types that fields can have."""
    made = copy.deepcopy(thing) if depth == 0 else thing
    for name, kind in made.get_fields_and_field_types().items():
        value = getattr(made, name)
        if hasattr(value, "get_fields_and_field_types"):
            mutated(rng, value, depth + 1)
        elif rng.random() > 0.15:
            continue
        elif kind == "string":
            setattr(made, name, _strings(rng))
        elif kind in ("double", "float"):
            setattr(made, name, float(np.clip(number(rng), -3e38, 3e38)) if kind == "float" else number(rng))
        elif kind in ("int32", "int64"):
            setattr(made, name, int(rng.choice([0, -1, 5, 2**31 - 1, -(2**31)])))
        elif kind in ("uint32", "uint8"):
            setattr(
                made, name, int(rng.choice([0, 1, 84, 255]) if kind == "uint8" else rng.choice([0, 1, 84, 2**32 - 1]))
            )
        elif kind.startswith("sequence<string"):
            setattr(made, name, [_strings(rng) for _ in range(rng.integers(0, 9))])
        elif kind.startswith("sequence<double"):
            setattr(made, name, [number(rng) for _ in range(rng.integers(0, 9))])
        elif kind.startswith(("sequence<uint8", "sequence<int8")):
            low, high = (0, 256) if "uint8" in kind else (-128, 128)
            setattr(made, name, rng.integers(low, high, rng.integers(0, 300)).tolist())
        elif kind.startswith("sequence<") and len(value):
            items = [mutated(rng, copy.deepcopy(item), depth + 1) for item in value]
            setattr(made, name, items[: rng.integers(0, len(items) + 1)])
    return made


def readers() -> list[tuple[Any, Callable[[Any], Any]]]:
    """A good message of each kind that moves something, and who reads it."""
    rows = np.full((9, 7), 0.01)
    world = WORLD_FRAME
    image = messages.image_to_msg(np.zeros((4, 4, 3), np.uint8), 5, "camera")
    fingers = ("a", "b")
    joints = messages.joint_state_to_msg(fingers, (0.0, 0.0), (0.0, 0.0), 5, efforts=(0.0, 0.0))
    states = np.zeros((5, 4))
    return [
        (messages.chunk_to_msg(ActionChunk(10**18, rows, PERIOD_NS), world), messages.chunk_from_msg),
        (messages.command_to_msg(rows[0], 10**18, PERIOD_NS, world), messages.command_from_msg),
        (messages.teleop_to_msg(rows[0], True, 10**18, PERIOD_NS, world), messages.teleop_from_msg),
        (messages.pose_to_msg((0, 0, 0), (0, 0, 0, 1), 10**18, world), messages.pose_from_msg),
        (image, messages.image_from_msg),
        (joints, lambda msg: messages.joint_state_from_msg(msg, fingers)[:2]),
        (joints, lambda msg: messages.joint_motion_from_msg(msg, fingers, True)),
        (messages.joint_command_to_msg("a", 1.0, 5), lambda msg: messages.joint_command_from_msg(msg, "a")),
        (messages.odometry_to_msg((0, 0), (0, 0), 5, "map"), messages.odometry_from_msg),
        (messages.force_to_msg((0.5, 0.5), 5, "map"), messages.force_from_msg),
        (messages.trajectory_to_msg(states, 10_000_000, 5, "map"), messages.trajectory_from_msg),
        (messages.grid_to_msg(np.ones((3, 3), bool), 0, "map"), messages.grid_from_msg),
        (
            messages.balls_to_msg([[0, 0, 1, 0.1]] * 3, (1, 0, 0, 1), "x", world),
            lambda msg: messages.balls_from_msg(msg, world),
        ),
        (
            CompressedImage(format="jpeg", data=cv2.imencode(".jpg", np.zeros((4, 4, 3), np.uint8))[1].tolist()),
            messages.compressed_image_from_msg,
        ),
    ]


def _finite(read: Any) -> bool:
    if isinstance(read, ActionChunk):
        return bool(np.all(np.isfinite(read.rows))) and 0 <= read.stamp_ns <= messages.MAX_SECONDS * 10**9 + 10**9
    parts = read if isinstance(read, tuple) else (read,)
    return all(bool(np.all(np.isfinite(np.asarray(part, np.float64)))) for part in parts)


@amounts
def test_the_messages(count: int) -> None:
    """Every message is read to finite numbers, or refused in one line."""
    rng = np.random.default_rng(count)
    known = readers()
    read, refused = 0, 0
    for i in range(count):
        good, reader = known[i % len(known)]
        if i % (20 * len(known)) < len(known):
            assert _finite(reader(good)), "a good one is read"
        msg = mutated(rng, good)
        said = ""
        try:
            values = reader(msg)
        except messages.MessageError as error:
            said = str(error)
        assert said.isprintable() and len(said) <= 300
        if said:
            refused += 1
        else:
            read += 1
            # Velocities of joints that have none are NaN by contract.
            assert _finite(values[:2] if i % len(known) == 4 else values), (msg, values)
        if i % 50 == 0:
            try:
                messages.episode_from_msg(String(data=_strings(rng) + '{"index": 1e999}'[: rng.integers(0, 17)]))
            except messages.MessageError:
                pass
    assert read > count / 20 and refused > count / 20, (read, refused)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with ros_graph.own_domain():
        rclpy.init()
        set_logger_level("executor", LoggingSeverity.FATAL)
        made = Bench(tmp_path, executor_only=True)
        made.robot.silent = {"pose", "joints", "object"}
        try:
            yield made
        finally:
            made.close()
            rclpy.try_shutdown()


@amounts
def test_the_executor_node(bench: Bench, count: int) -> None:
    """Real messages through its callbacks, its timer and its services, in a time of its own."""
    rng = np.random.default_rng(count)
    executor = bench.executor
    sent: list[Any] = []
    executor._command_publisher.publish = sent.append
    position = np.zeros(3)
    acted = 0
    box = np.array(executor.executor_logic.limits.workspace_high)
    for _ in range(count):
        bench.clock.seconds += float(
            rng.choice([0.0, 0.001, 0.01, 0.01, 0.05, 0.3], p=[0.1, 0.3, 0.2, 0.2, 0.18, 0.02])
        )
        what = rng.random()
        sender = b"robot" if rng.random() > 0.003 else b"stranger"
        if what < 0.45:
            position = np.clip(position + rng.normal(size=3) * 0.004, -0.5, 0.5)
            msg = bench.pose_msg(position)
            if rng.random() < 0.02:
                msg = mutated(rng, msg)
            bench.send("pose", msg, sender)
        elif what < 0.6:
            rows = rng.normal(size=(9, 7)) * HIGH
            msg = chunk_msg(bench, rows, ahead=float(rng.choice([0.0, 0.0, 0.0, -0.1, 0.3])))
            if rng.random() < 0.05:
                msg = mutated(rng, msg)
            bench.send_chunk(msg, sender)
        elif what < 0.99:
            executor._tick()
        elif what < 0.993:
            _call(bench, "estop")
        elif what < 0.996:
            _call(bench, "estop_reset")
        else:
            _call(bench, "set_enabled", bool(rng.random() < 0.9))
        for command in sent:
            assert command.header.frame_id == WORLD_FRAME
            _, row = messages.command_from_msg(command)
            assert np.all(row >= LOW) and np.all(row <= HIGH)
            logic = executor.executor_logic
            assert not row.any() or (logic.enabled and not logic.estop_reason), "motion after a stop"
            assert np.all(np.abs(logic._position + row[:3]) <= np.maximum(box, np.abs(logic._position)) + 1e-9)
            acted += bool(row.any())
        sent.clear()
        if rng.random() < 0.002:
            executor._refresh()
            summary = executor.diagnostics.summary
            assert "\n" not in summary and len(summary) <= 1000
    assert acted > count / 100, "an executor that never acts proves nothing"
