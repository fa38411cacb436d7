"""How late are a robot's streams? Moves its hand a little, correlates, and writes what it found into the robot's file.

    diffusion_ros latency --robot mine.yaml --write

It asks before it moves. Exit status: 0 when the arm's latency was measured, 1 when it was not, whatever the reason, 2
after one line on stderr for bad input.
"""

from __future__ import annotations

import difflib
import itertools
import os
import select
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffusion_ros import robot_command, robot_file, yaml_edit
from diffusion_ros.atomic_file import atomic_write
from diffusion_ros.control import latency
from diffusion_ros.control.small_motion import SmallMotion, small_motion
from diffusion_ros.resources import resource_folder
from diffusion_ros.robot_file import HAND, RobotFile
from diffusion_ros.ros.latency_probe import LatencyProbe, Recording, Stream
from diffusion_ros.spec import IMAGE_SUFFIX
from diffusion_ros.systems.startup import UsageError, check_writable
from diffusion_ros.systems.system import node_environment

Array = NDArray[np.float64]

ARM_SURE, STREAM_SURE = 0.9, 0.6
"""Correlations from which on an arm's delay, and a stream's, are believed. Noise alone comes to 0.4 in 12 s."""
_STREAM_WITHIN = 0.01
"""s: a soft arm also tilts as it moves, which its camera sees as if it had moved sooner or later; 8 ms in rehearsal."""
_LEAST_GAIN = 0.2
"""Of the commanded motion, that a hand which answers makes at least."""
_AHEAD = 0.02
"""s by which stamps must be ahead of our clock to be corrected: less may be a clock that is being set."""
_MOVED = 0.002
"""m by which fingers must move to tell when they began."""
_WAIT, _LONGEST_WAIT = 10.0, 40.0
"""s of the robot's time, and of the wall's, in which it must be heard and ready."""
_DISCOVERY = 1.5
"""s of the wall's time after which ROS has told who is there."""
_MAX_DEAD, _MAX_LAG, _MAX_INERTIA = 0.5, 0.3, 0.2
"""s that action.latency, action.lag and action.inertia may be."""


@dataclass(frozen=True)
class Request:
    """What was asked for, checked."""

    robot: RobotFile
    motion: SmallMotion
    gripper: bool
    yes: bool
    write: bool
    graph: robot_command.Graph


@dataclass(frozen=True)
class Row:
    """A line of the table: one number of the robot's file."""

    keys: tuple[str, ...]
    """Where it stands."""
    now: float
    """s"""
    measured: float | None
    """s; None where it could not be measured, or there is nothing to be said."""
    correlation: float | None
    note: str
    usable: bool = True
    """Whether what was measured is sure enough to be written."""
    within: float = 0.001
    """s by which what was measured may be off: what differs by less is not written."""

    @property
    def value(self) -> float | None:
        """What would be written: to the millisecond; None where nothing would change."""
        if self.measured is None or not self.usable or abs(self.measured - self.now) < self.within:
            return None
        return round(self.measured, 3)


# -- command line -----------------------------------------------------------------------------------------------------


def _add_arguments(parser: robot_command.Parser) -> None:
    parser.add_argument("--robot", required=True, help="the robot's YAML")
    parser.add_argument("--amplitude", default="0.02", help="how far the hand goes to each side [m] [0.02]")
    parser.add_argument("--seconds", default="12", help="for how long [12]")
    parser.add_argument("--gripper", action="store_true", help="opens, closes and opens the gripper, too")
    parser.add_argument("--yes", action="store_true", help="moves without asking")
    parser.add_argument("--write", action="store_true", help="writes what is measured into the robot's file")
    parser.add_graph()


def parse(arguments: Sequence[str], asks: bool = True) -> Request:
    """asks: whether there is a terminal to ask on. Raises UsageError, one line, before anything is started."""
    parser = robot_command.Parser(
        "latency",
        "--robot ROBOT [options]",
        "Moves a robot's hand a little and says how late its commands and streams are. Asks first.",
    )
    _add_arguments(parser)
    given = parser.parse_args(arguments)
    robot = robot_command.robot(given)
    amplitude = robot_command.number(given, "amplitude", 0.005, 0.05)
    seconds = robot_command.number(given, "seconds", 6, 60)
    try:
        motion = small_motion(amplitude, seconds, robot.limits)
    except ValueError as error:
        raise UsageError(f"{robot.path}: limits: {error}") from None
    if given.gripper and robot.gripper is None:
        raise UsageError(f"{robot.path}: gripper: missing, expected for --gripper")
    if given.write:
        if robot.path.resolve() in {path.resolve() for path in robot_file.shipped().values()}:
            raise UsageError(
                f"--write {robot.path}: comes with the package; copy it to a file of your own and give that one"
            )
        check_writable(robot.path.resolve().parent)
    if not (given.yes or asks):
        raise UsageError("--yes expected where there is no terminal to ask on: the robot will move")
    return Request(
        robot=robot,
        motion=motion,
        gripper=given.gripper,
        yes=given.yes,
        write=given.write,
        graph=robot_command.graph(given),
    )


class Refused(Exception):
    """Nothing was measured: one line."""


def measure(request: Request, agree: Callable[[str, Callable[[], None]], bool], stop: Callable[[], bool]) -> Recording:
    """Waits for the robot, asks, and moves it.

    agree: takes what will be done, in plain words, and what is to be called while it waits for an answer; returns
    whether it may be done. Raises Refused when the robot is not ready, must not be moved, or was stopped, and
    UsageError for what its file asks for and is not installed.
    """
    with robot_command.node("latency", request.graph) as node:
        try:
            probe = LatencyProbe(node, request.robot, request.gripper)
        except ValueError as error:
            raise UsageError(str(error)) from None
        try:
            return _measured(request, probe, agree, stop)
        finally:
            probe.close()


def _measured(
    request: Request, probe: LatencyProbe, agree: Callable[[str, Callable[[], None]], bool], stop: Callable[[], bool]
) -> Recording:
    began, since = time.monotonic(), None
    # Who else commands the arm is known only after a while.
    while (time.monotonic() - began < _DISCOVERY or probe.blocked() or probe.restless()) and not stop():
        probe.spin(0.05)
        if since is None and probe.has_time():
            since = probe.seconds()
        late = since is not None and probe.seconds() - since > _WAIT
        if late or time.monotonic() - began > _LONGEST_WAIT:
            break
    motion = request.motion

    def checked() -> int:
        if stop():
            raise Refused("stopped before it moved")
        if why := probe.blocked() or probe.restless():
            raise Refused(f"not moved: {why}")
        try:
            return probe.axis(motion.amplitude)
        except ValueError as error:
            raise Refused(f"not moved: {error}") from None

    axis = checked()
    if not agree(announcement(request, axis, probe.position), lambda: probe.spin(0.02)):
        raise Refused("not moved: it was not agreed to")
    if why := probe.run(motion, checked(), stop):
        raise Refused(f"the arm holds, nothing was measured: {why}")
    return probe.recording


def announcement(request: Request, axis: int, position: Array) -> str:
    """What will be done, in plain words."""
    robot, motion = request.robot, request.motion
    where = ", ".join(f"{x:.3f}" for x in position)
    lines = [
        f"robot {robot.path.stem} (driver {robot.driver}, output {robot.action.output} on {robot.action.topic}), domain"
        f" {request.graph.domain_id}",
        f"It moves the hand by up to {1000 * motion.amplitude:.0f} mm to each side along {'xy'[axis]} of"
        f" {robot.base.frame}, from where it stands ([{where}] m), for {motion.seconds:g} s, at"
        f" {motion.speed:.2f} m/s at most, and back.",
    ]
    if request.gripper:
        lines.append("Then it opens, closes and opens the gripper: nothing may be in it that must not fall.")
    return "\n".join([*lines, "Keep everybody out of the arm's reach and a hand on its emergency stop."])


def main(arguments: Sequence[str], stop: Sequence[int] = ()) -> int:
    """Raises UsageError for bad input, OSError where the file cannot be written; stop: filled by a signal."""
    request = parse(arguments, sys.stdin.isatty())
    for name, value in node_environment(resource_folder()).items():
        os.environ.setdefault(name, value)

    def agree(text: str, meanwhile: Callable[[], None]) -> bool:
        print(text, file=sys.stderr, flush=True)
        return request.yes or _asked(meanwhile, lambda: bool(stop))

    try:
        recording = measure(request, agree, lambda: bool(stop))
    except Refused as refused:
        print(refused, file=sys.stderr)
        return 1
    rows = evaluate(request.robot, recording)
    print("\n".join(lines(rows)))
    measured = rows[0].measured is not None and rows[0].usable
    changes = [row for row in rows if row.value is not None]
    if not measured:
        print("nothing is written: the arm's own latency was not measured", file=sys.stderr)
    elif request.write and changes:
        print("\n".join(write(request.robot, changes)))
    elif changes:
        print("--write writes what differs into the robot's file")
    return 0 if measured else 1


def _asked(meanwhile: Callable[[], None], stop: Callable[[], bool]) -> bool:
    """y or yes on the terminal; input() would not end by a signal."""
    print("Move it now? [y/N] ", end="", file=sys.stderr, flush=True)
    while not stop():
        meanwhile()
        if select.select([sys.stdin], [], [], 0.0)[0]:
            return sys.stdin.readline().strip().lower() in ("y", "yes")
    print(file=sys.stderr)
    return False


# -- what was measured ------------------------------------------------------------------------------------------------


def evaluate(robot: RobotFile, recording: Recording) -> list[Row]:
    """The action's latency first."""
    axis = recording.axis
    ahead = _ahead(recording.hand)
    # A driver whose clock is ahead of ours: all is told by ours.
    hand_times = np.array(recording.hand.stamps) / 1e9 - ahead
    hand = np.array(recording.hand.values) @ axis
    rows = _action(robot, recording, hand_times, hand)
    rows.append(_clock(("observations", HAND, "latency"), robot.poses[HAND].latency, recording.hand))
    for camera, picture in robot.pictures.items():
        keys = ("observations", f"{camera}{IMAGE_SUFFIX}", "latency")
        motion = recording.pictures[camera]
        if not motion.stamps:
            why = recording.refused.get(camera) or "nothing received"
            rows.append(Row(keys, picture.latency, None, None, why))
            continue
        found = latency.stream_delay(np.array(motion.stamps) / 1e9, motion.steps, hand_times, hand)
        arrived = 1000 * float(np.median(recording.picture_ages[camera]))
        note = f"{len(motion.stamps)} pictures, which arrive {arrived:.0f} ms after their stamps"
        rows.append(_stream(keys, picture.latency, found, note))
    for name, source in robot.numbers.items():
        keys, stream = ("observations", name, "latency"), recording.numbers[name]
        if stream.stamps and set(source.joints) <= set(robot.joints):
            stamps = np.array(stream.stamps) / 1e9 + source.latency
            found = latency.stream_delay(stamps, np.diff(np.array(stream.values), axis=0), hand_times, hand)
            rows.append(_stream(keys, source.latency, found, f"{len(stamps)} messages"))
        else:
            rows.append(_clock(keys, source.latency, stream))
    if recording.goals:
        rows.append(_gripper(robot, recording))
    return rows


def _action(robot: RobotFile, recording: Recording, hand_times: Array, hand: Array) -> list[Row]:
    action = robot.action
    sent = np.array(recording.command_stamps) / 1e9
    told = np.array(recording.commands) @ recording.axis
    key = ("action", "latency")
    whole = latency.arm_delay(sent, told, hand_times, hand)
    moved, asked = float(np.ptp(hand)), float(np.ptp(told))
    way = f"the hand went {1000 * moved:.1f} mm of {1000 * asked:.1f}"
    if moved < _LEAST_GAIN * asked:
        return [Row(key, action.latency, None, None, f"{way}: the arm does not follow")]
    if whole.correlation < 0:
        return [Row(key, action.latency, None, whole.correlation, f"{way}, the other way: base.rpy?", usable=False)]
    if action.output != "pose":
        # What an arm is late by, to whoever only sends its rows earlier.
        return [_arm_row(key, action.latency, whole.seconds, whole.correlation, way, _MAX_DEAD)]
    found = latency.arm_response(sent, told, hand_times, hand, _MAX_DEAD, _MAX_LAG, _MAX_INERTIA)
    note = f"{way}; {1000 * whole.seconds:.0f} ms behind on the whole"
    return [
        _arm_row(key, action.latency, found.dead, found.correlation, note, _MAX_DEAD),
        _arm_row(("action", "lag"), action.lag, found.lag, found.correlation, "", _MAX_LAG),
        _arm_row(("action", "inertia"), action.inertia, found.inertia, found.correlation, "", _MAX_INERTIA),
    ]


def _arm_row(keys: tuple[str, ...], now: float, seconds: float, correlation: float, note: str, most: float) -> Row:
    sure = correlation >= ARM_SURE
    if not sure:
        note = f"{note}; too weak a correlation, {ARM_SURE:g} expected"
    elif -0.01 < seconds < 0:
        seconds = 0.0  # what the hand's stamps are off by
    elif not 0 <= seconds <= most:
        sure, note = False, f"{note}; 0 to {most:g} s expected: another clock?"
    return Row(keys, now, seconds, correlation, note, usable=sure)


def _stream(keys: tuple[str, ...], now: float, found: latency.Delay | None, note: str) -> Row:
    if found is None:
        return Row(keys, now, None, None, f"{note}: too few, or nothing moves in them")
    sure = found.correlation >= STREAM_SURE
    if not sure:
        note = f"{note}; too weak a correlation, {STREAM_SURE:g} expected: does it see the motion?"
    return Row(keys, now, found.seconds, found.correlation, note, usable=sure, within=_STREAM_WITHIN)


def _ahead(stream: Stream) -> float:
    """s by which a driver's clock is ahead at least, 0 where nothing shows that it is."""
    # Of most messages: of a simulator's /clock we hear late now and then.
    ahead = -float(np.median(stream.ages)) if stream.ages else 0.0
    return ahead if ahead > _AHEAD else 0.0


def _clock(keys: tuple[str, ...], now: float, stream: Stream) -> Row:
    """Of a stream that nothing can be compared with but our clock: only stamps of the future say anything for sure,
    as late ones may have been on their way."""
    if not stream.ages:
        return Row(keys, now, None, None, stream.refused or "nothing received")
    ahead, median = _ahead(stream), float(np.median(stream.ages))
    if ahead:
        return Row(keys, now, now + ahead, None, f"its clock is {1000 * ahead:.0f} ms ahead of ours")
    return Row(keys, now, None, None, f"read {1000 * median:.1f} ms after its stamp")


def _gripper(robot: RobotFile, recording: Recording) -> Row:
    assert robot.gripper is not None
    key, now = ("gripper", "latency"), robot.gripper.latency
    name = next((name for name, source in robot.numbers.items() if not set(source.joints) <= set(robot.joints)), "")
    if not name or not recording.numbers[name].stamps:
        return Row(key, now, None, None, "none of the observations tells of its fingers")
    stream = recording.numbers[name]
    times, values = np.array(stream.stamps) / 1e9 - _ahead(stream), np.array(stream.values)[:, 0]
    goals = [*recording.goals, recording.goals[-1] + 10_000_000_000]
    found = []
    for at, following in itertools.pairwise(goals):
        part = (times > at / 1e9 - 0.5) & (times < following / 1e9)
        began = latency.onset(at / 1e9, times[part], values[part], _MOVED)
        found += [] if began is None else [began]
    if not found:
        return Row(key, now, None, None, f"{name} did not move")
    note = f"fingers began {', '.join(f'{1000 * began:.0f}' for began in found)} ms after their goals"
    return Row(key, now, float(np.mean(found)), None, note, usable=max(found) <= _MAX_DEAD)


def lines(rows: Sequence[Row]) -> list[str]:
    """The table."""

    def ms(seconds: float | None) -> str:
        return "-" if seconds is None else f"{1000 * seconds:.1f}"

    cells = [("key in the robot's file", "now ms", "measured", "correlation", "")]
    for row in rows:
        sure = "-" if row.correlation is None else f"{row.correlation:.3f}"
        said = (
            ""
            if row.measured is None or row.value is not None
            else "as the file says"
            if row.usable
            else "left as it is"
        )
        cells.append(
            (".".join(row.keys), ms(row.now), ms(row.measured), sure, "; ".join(filter(None, (said, row.note))))
        )
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells]


# -- the robot's file -------------------------------------------------------------------------------------------------


def write(robot: RobotFile, rows: Sequence[Row]) -> list[str]:
    """Writes each row's value into the robot's file, whose old text stays beside it as .bak. Returns what has changed,
    line by line, and in one line each what has to be written by hand. Raises OSError."""
    path = robot.path.resolve()
    old = path.read_bytes().decode()
    new, by_hand = old, []
    for row in rows:
        assert row.value is not None
        try:
            new = yaml_edit.with_number(new, row.keys, row.value)
        except ValueError as error:
            by_hand.append(f"{path}: {error}")
    if new == old:
        return by_hand
    backup = path.with_name(f"{path.name}.bak")
    with atomic_write(backup) as temporary:
        temporary.write_bytes(old.encode())
    try:
        with atomic_write(path) as temporary:
            temporary.write_bytes(new.encode())
            robot_file.read(temporary)
    except robot_file.RobotFileError as error:
        return [f"not written: {error}"]
    names = backup.name, path.name
    changed = difflib.unified_diff(old.splitlines(), new.splitlines(), *names, n=0, lineterm="")
    return [*changed, f"written: {path}; before: {backup}", *by_hand]
