"""Faults of a robot of its own, with each of the outputs that drive one: what the arm does, not what it is told.

As in `bench.py` the executor is the real one, in a time of its own, and nobody spins it. The driver here is the least
careful one there is: it goes on with its last word for ever. So a hold that is not said is motion that is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_policy
import numpy as np
from gantry import JOINTS, gantry
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import Joy
from std_msgs.msg import Bool
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros.control.action_chunk import ActionChunk
from diffusion_ros.nodes.executor_node import ExecutorNode
from diffusion_ros.ros import messages

from .bench import PERIOD_NS, Clock, deliver, info, own_time, parameters
from .kinds import GRACE, NAN, STRANGER, _call, _moved, _set

Array = NDArray[np.float64]

OUTPUTS = ("pose", "twist", "joint_trajectory", "joint_positions")
_DRIVERS = {"pose": "crisp", "twist": "servo", "joint_trajectory": "jtc", "joint_positions": "forward"}
HOME = np.array([0.1, 0.2, 0.5])
TURN = Rotation.from_euler("XYZ", [0.3, -0.2, 0.4])
SPEED = 0.2
"""m/s at which the hand goes round in a circle."""
BRAKE = 0.25
"""s in which an arm at that speed stands still, whatever the output: the brake, and a trajectory's last points."""
_AGE = 0.25
"""s: the executor's max_observation_age."""
_ROWS = 9
_STEP = 0.005
"""s of one step of the time: what comes, comes in multiples of it; so fine is what is known of when the arm stood."""


class DrivenBench:
    """An executor, a policy whose chunks send the hand round in a circle, and a driver. `run` lets time pass."""

    def __init__(self, folder: Path, output: str, extra: str = "", **changes: Any) -> None:
        """changes: parameters of the executor. rclpy must have been initialised."""
        self.clock = Clock()
        self._stack = ExitStack()
        self._stack.enter_context(own_time(self.clock))
        self.output = output
        folder.mkdir(exist_ok=True)
        (folder / "arm.urdf").write_text(gantry())
        robot = folder / "robot.yaml"
        robot.write_text(
            f"driver: {_DRIVERS[output]}\n"
            "base: {frame: base, rpy: [0.0, 0.0, 3.141592653589793]}\n"
            "tool: {frame: tool, xyz: [0.0, 0.0, 0.1]}\n"
            f"joints: [{', '.join(JOINTS)}]\n"
            "description: {file: arm.urdf}\n"
            "observations:\n  hand: {source: pose, topic: tool_pose}\n"
            f"action: {{output: {output}, topic: command, rate: 50}}\n"
            "limits: {linear: 0.5, angular: 2.0, linear_acceleration: 10.0, angular_acceleration: 20.0,"
            " low: [-1.0, -1.0, -1.0], high: [1.0, 1.0, 1.0]}\n" + extra
        )
        checkpoint = fake_policy.save(folder / "policy.pt")
        values = {"robot": str(robot), "checkpoint": str(checkpoint), "enabled": True, **changes}
        self.executor = ExecutorNode(parameters(**values))
        self.executor.get_clock = lambda: self.clock
        driven = self.executor._robot
        assert driven is not None
        self.driven = driven
        self.driven.output.deaf = lambda: ""  # nobody listens on the bus
        self.driven.output.publisher._publisher = SimpleNamespace(
            publish=self._hear, wait_for_all_acked=lambda timeout: True
        )
        self.place, self.turn = HOME.copy(), TURN
        """Of the tool, in the base frame."""
        self.shown = np.zeros(3)
        """m: how far from there the driver says it is."""
        self.change: Callable[[PoseStamped], Any] = lambda msg: msg
        """What becomes of a pose before it is sent; None: nothing is sent."""
        self.tamper: Callable[[JointTrajectory], JointTrajectory | None] = lambda msg: msg
        self.chunk_hz = 10.0
        self.delay: Callable[[], float] = lambda: 0.0
        """s that the next chunk is under way."""
        self._under_way: list[tuple[float, JointTrajectory, bytes]] = []
        """Chunks, and when each comes."""
        self.joints_come = True
        self.second: Callable[[], object] = lambda: None
        """Called 20 times in a second: what somebody else does."""
        self.way: list[tuple[float, Array, Rotation]] = []
        self.ended = False
        """Whether the executor is no more."""
        self._goes: Callable[[float], None] = lambda dt: None
        """The driver: what it does in dt, by its last word."""
        self._due = dict.fromkeys(("pose", "chunk", "tick", "second"), 0.0)

    def close(self) -> None:
        """The time is the machine's again."""
        self._stack.close()
        self.executor.destroy_node()

    # The driver

    def _hear(self, msg: Any) -> None:
        deliver(self.driven.output.publisher._heard, msg, b"executor")
        if self.output == "pose":
            _, place, quaternion = messages.pose_from_msg(msg)
            self._goes = lambda dt: self._go(place, Rotation.from_quat(quaternion))
        elif self.output == "twist":
            v, w = msg.twist.linear, msg.twist.angular
            linear, spin = np.array([v.x, v.y, v.z]), np.array([w.x, w.y, w.z])
            self._goes = lambda dt: self._go(self.place + linear * dt, Rotation.from_rotvec(spin * dt) * self.turn)
        elif self.output == "joint_positions":
            joints = np.array(msg.data)
            self._goes = lambda dt: self._go(joints[:3], Rotation.from_euler("XYZ", joints[3:]))
        else:
            began, start = self.clock.seconds, self._joints()
            times = [0.0, *(messages.stamp_ns(point.time_from_start) / 1e9 for point in msg.points)]
            ways = np.array([start, *(point.positions for point in msg.points)])
            assert np.all(np.diff(times) > 0) and not np.any(msg.points[-1].velocities)

            def along(dt: float) -> None:
                now = self.clock.seconds - began
                joints = np.array([np.interp(now, times, way) for way in ways.T])
                self._go(joints[:3], Rotation.from_euler("XYZ", joints[3:]))

            self._goes = along

    def _go(self, place: Array, turn: Rotation) -> None:
        self.place, self.turn = np.array(place), turn

    def _joints(self) -> Array:
        return np.array([*self.place, *self.turn.as_euler("XYZ")])

    # What comes in

    def pose_msg(self) -> PoseStamped:
        return messages.pose_to_msg(self.place + self.shown, self.turn.as_quat(), self.clock.ns, "base")

    def send_pose(self, msg: PoseStamped | None, sender: bytes = b"driver") -> None:
        if msg is not None:
            self.driven.source._listeners[0].take(msg, info(sender))

    def send_chunk(self, rows: Array, sender: bytes = b"policy") -> None:
        msg = self.tamper(messages.chunk_to_msg(ActionChunk(self.clock.ns, rows, PERIOD_NS), self.executor.frame_id))
        if msg is not None:
            self._under_way.append((self.clock.seconds + self.delay(), msg, sender))

    def rows(self) -> Array:
        angles = 2.0 * (self.clock.seconds + 0.05 * np.arange(_ROWS))
        rows = np.zeros((_ROWS, 7))
        rows[:, 0], rows[:, 1] = 0.05 * SPEED * np.cos(angles), 0.05 * SPEED * np.sin(angles)
        return rows

    def joy(self, *buttons: int) -> None:
        assert self.driven.buttons is not None
        deliver(self.driven.buttons._listener, Joy(buttons=list(buttons)), b"joy")

    def ready(self, value: bool) -> None:
        self.driven.readiness._on_message(0, Bool(data=value))

    # Time

    def run(self, seconds: float) -> None:
        """Lets time pass."""
        for _ in range(round(seconds / _STEP)):
            self.clock.seconds += _STEP
            self._goes(_STEP)
            self.way.append((self.clock.seconds, self.place, self.turn))
            if self._is_due("pose", 100.0):
                self.send_pose(self.change(self.pose_msg()))
                if self.output.startswith("joint_") and self.joints_come:
                    joints = messages.joint_state_to_msg(JOINTS, self._joints(), np.zeros(6), self.clock.ns)
                    deliver(self.driven._joint_listener, joints, b"joints")
            if self._is_due("second", 20.0):
                self.second()
            if self._is_due("chunk", self.chunk_hz):
                self.send_chunk(self.rows())
            self._deliver_chunks()
            if self._is_due("tick", 50.0) and not self.ended:
                self.executor._drive_on()

    def _deliver_chunks(self) -> None:
        here = sorted((one for one in self._under_way if one[0] <= self.clock.seconds + 1e-9), key=lambda one: one[0])
        for one in here:
            self._under_way.remove(one)
            deliver(self.executor._chunks, *one[1:])

    def _is_due(self, what: str, hz: float) -> bool:
        if self.clock.seconds < self._due[what]:
            return False
        self._due[what] = max(self._due[what] + 1 / hz, self.clock.seconds)
        return True

    # What came of it

    def moved(self, seconds: float) -> float:
        """Metres that the arm has gone in the last so many seconds."""
        places = np.array([place for at, place, _ in self.way if at > self.clock.seconds - seconds])
        return float(np.linalg.norm(np.diff(places, axis=0), axis=1).sum())

    def moves_within(self, seconds: float) -> bool:
        """Whether it goes at half its speed at least, for 0.3 s on end."""
        for _ in range(round(seconds / 0.3)):
            self.run(0.3)
            if self.moved(0.3) > 0.3 * 0.5 * SPEED:
                return True
        return False

    def stood_since(self, began: float) -> float:
        """Seconds after `began` from which on it stands still."""
        for at, place, turn in reversed(self.way):
            if np.linalg.norm(place - self.place) > 1e-5 or (turn * self.turn.inv()).magnitude() > 1e-4:
                return max(0.0, at - began)
        return 0.0

    def says(self) -> str:
        if self.ended:
            return "the executor ends"
        self.executor._refresh()
        return self.executor.diagnostics.summary


@dataclass(frozen=True)
class Outcome:
    """What came of a fault with one output."""

    moved: float
    """Metres that the arm went after the time in which it had to stand."""
    stood: float
    """Seconds after which it stood."""
    says: str


@dataclass(frozen=True)
class DrivenFault:
    """One kind of fault. `begin` and `end` are given the bench; end None: it goes on only when told to, if ever."""

    name: str
    what: str
    begin: Callable[[DrivenBench], object]
    end: Callable[[DrivenBench], object] | None
    says: str
    after: float = 0.0
    """s that nobody can know of it."""
    extra: str = ""
    """Of the robot's file."""
    only: tuple[str, ...] = OUTPUTS

    def check(self, folder: Path, output: str, seconds: float = 1.2) -> Outcome:
        bench = DrivenBench(folder / output, output, self.extra)
        try:
            if "ready:" in self.extra:
                bench.ready(True)
            if "buttons:" in self.extra:
                bench.joy(0, 0, 1)
                bench.second = lambda: bench.joy(0, 0, 1)
            bench.run(0.3)
            bench.run(1.0)
            assert abs(bench.moved(0.5) / 0.5 - SPEED) < 0.2 * SPEED, f"{bench.moved(0.5)} m; {bench.says()}"
            began, grace = bench.clock.seconds, self.after + BRAKE
            self.begin(bench)
            bench.run(grace)
            bench.run(seconds)
            outcome = Outcome(round(bench.moved(seconds), 6), bench.stood_since(began), bench.says())
            assert self.says in outcome.says, f"{self.says!r} expected, it says {outcome.says!r}"
            if self.end is not None:
                self.end(bench)
                assert bench.moves_within(3.0), f"it does not go on: {bench.says()}"
            return outcome
        finally:
            bench.close()


def _pose(change: Callable[[PoseStamped], Any]) -> Callable[[DrivenBench], object]:
    return lambda bench: setattr(bench, "change", change)


def _chunks(change: Callable[[JointTrajectory], Any]) -> Callable[[DrivenBench], object]:
    return lambda bench: setattr(bench, "tamper", change)


def _value(value: float) -> Callable[[JointTrajectory], JointTrajectory]:
    def change(msg: JointTrajectory) -> JointTrajectory:
        msg.points[3].positions[1] = value
        return msg

    return change


def _drifts(bench: DrivenBench) -> None:
    """Up to 0.13 m in 0.65 s, as an arm does that is pulled."""
    bench.second = lambda: setattr(bench, "shown", np.minimum(bench.shown + [0, 0, 0.01], [0, 0, 0.13]))


def _to_and_fro(bench: DrivenBench) -> None:
    count = [0]

    def aside(msg: PoseStamped) -> PoseStamped:
        count[0] += 1
        return _set(msg, pose__position__x=msg.pose.position.x + 0.8 * (count[0] % 2))

    bench.change = aside


def _other_pose(bench: DrivenBench) -> None:
    bench.second = lambda: bench.send_pose(bench.pose_msg(), STRANGER)


def _other_policy(bench: DrivenBench) -> None:
    bench.second = lambda: bench.send_chunk(np.full((_ROWS, 7), 0.02), STRANGER)


def _other_commander(bench: DrivenBench) -> None:
    bench.second = lambda: bench.driven.output.publisher._heard.take(b"", info(STRANGER))


def _person(row: float = 0.005, ago: float = 0.0, *senders: bytes) -> Callable[[DrivenBench], None]:
    """A person says a row along x, so many seconds ago."""

    def say(bench: DrivenBench) -> None:
        for sender in senders or (b"person",):
            stamp = bench.clock.ns - round(ago * 1e9)
            msg = messages.command_to_msg([row, 0, 0, 0, 0, 0, 0], stamp, PERIOD_NS, bench.executor.frame_id)
            assert bench.executor._person is not None
            deliver(bench.executor._person.listener, msg, sender)

    def begin(bench: DrivenBench) -> None:
        bench.second = lambda: say(bench)

    return begin


def _alone(bench: DrivenBench) -> None:
    bench.second = lambda: None


def _released(bench: DrivenBench) -> None:
    bench.second = lambda: bench.joy(0, 0, 0)


def _held(bench: DrivenBench) -> None:
    bench.second = lambda: bench.joy(0, 0, 1)


def _ends(bench: DrivenBench) -> None:
    bench.executor.close()
    bench.ended = True


_BUTTONS = "buttons: {topic: joy, enable: 0, stop: 1, hold: 2}\n"
_READY = "ready: [{topic: running, type: std_msgs/Bool, value: true}]\n"
_PERSON = "teleop: {type: twist}\n"
_SILENCE = _AGE + GRACE
_CHUNK = 0.1 + GRACE
"""s until the next chunk, which is the wrong one."""
_REST = 0.05 * _ROWS + GRACE
"""s that the rest of a chunk lasts."""

DRIVEN: list[DrivenFault] = [
    DrivenFault("pose: silent", "none comes", _pose(lambda m: None), _pose(lambda m: m), "silent for", _SILENCE),
    DrivenFault(
        "pose: late", "stamps 0.4 s ago", _pose(lambda m: _moved(m, -0.4)), _pose(lambda m: m), "eef_pose is 0.4", GRACE
    ),
    DrivenFault(
        "pose: NaN", "y of every pose", _pose(lambda m: _set(m, pose__position__y=NAN)), _pose(lambda m: m),
        "finite numbers expected", GRACE,
    ),
    DrivenFault(
        "pose: another frame", "frame world where base is the file's",
        _pose(lambda m: _set(m, header__frame_id="world")), _pose(lambda m: m), "frame 'world', 'base' expected", GRACE,
    ),
    DrivenFault("pose: jumps to and fro", "every other pose 0.8 m aside", _to_and_fro, _pose(lambda m: m), "jumped by",
                GRACE),
    DrivenFault("pose: a stranger's", "poses of a second publisher", _other_pose, _alone, "2 publishers on", GRACE),
    DrivenFault("chunk: NaN", "in one row", _chunks(_value(NAN)), _chunks(lambda m: m), "is nan", _CHUNK),
    DrivenFault(
        "chunk: far beyond the limits", "0.3 m a step", _chunks(_value(0.3)), _chunks(lambda m: m),
        "is 0.3, at most 0.25", _CHUNK,
    ),
    DrivenFault(
        "chunk: another frame", "panda_link0", _chunks(lambda m: _set(m, header__frame_id="panda_link0")),
        _chunks(lambda m: m), "frame 'panda_link0'", _CHUNK,
    ),
    DrivenFault(
        "chunk: late as a whole", "stamped 0.6 s ago", _chunks(lambda m: _moved(m, -0.6)), _chunks(lambda m: m),
        "no chunk covers the present", _REST,
    ),
    DrivenFault(
        "chunk: its sender is gone", "no more chunks", _chunks(lambda m: None), _chunks(lambda m: m),
        "no chunk covers the present", _REST,
    ),
    DrivenFault("chunk: two policies", "a second one's chunks", _other_policy, _alone, "2 publishers on", GRACE),
    DrivenFault(
        "command: a second commander", "another publisher on the driver's topic", _other_commander, _alone,
        "2 publishers on", GRACE,
    ),
    DrivenFault(
        "person: NaN", "a person takes over with NaN", _person(NAN), _alone, "is nan, a finite number expected", GRACE,
        _PERSON,
    ),
    DrivenFault(
        "person: late", "a person's rows of 0.4 s ago", _person(0.005, 0.4), _alone,
        "teleop_action refused: 0.40 s old", GRACE, _PERSON,
    ),
    DrivenFault(
        "person: two of them", "two take over", _person(0.005, 0.0, b"person", STRANGER), _alone,
        "2 publishers on", GRACE, _PERSON,
    ),
    DrivenFault(
        "stop: emergency stop", "latched until it is reset and the robot enabled",
        lambda b: _call(b, "estop"), lambda b: (_call(b, "estop_reset"), _call(b, "set_enabled", True)),
        "emergency stop: requested",
    ),
    DrivenFault(
        "stop: the operator's button", "pressed once", lambda b: (b.joy(0, 0, 1), b.joy(0, 1, 1)),
        lambda b: (_call(b, "estop_reset"), b.joy(0, 0, 1), b.joy(1, 0, 1)), "the operator's button",
        GRACE, _BUTTONS,
    ),
    DrivenFault("stop: the button to hold", "released", _released, _held, "button 2 is not held", GRACE, _BUTTONS),
    DrivenFault(
        "stop: disabled", "~/set_enabled false", lambda b: _call(b, "set_enabled", False),
        lambda b: _call(b, "set_enabled", True), "not enabled", GRACE,
    ),
    DrivenFault(
        "driver: not ready", "its program stops", lambda b: b.ready(False), lambda b: b.ready(True),
        "running: false, true expected", GRACE, _READY,
    ),
    DrivenFault(
        "joints: silent", "no joint_states", lambda b: setattr(b, "joints_come", False),
        lambda b: setattr(b, "joints_come", True), "joint_states: silent for", 0.5 + GRACE,
        only=("joint_trajectory", "joint_positions"),
    ),
    DrivenFault(
        "the arm does not follow", "it is pulled 0.13 m away from its target", _drifts,
        None, "from its target", 0.65 + GRACE,
        only=("pose", "joint_trajectory", "joint_positions"),
    ),
    DrivenFault("stop: the executor ends", "its last word is a hold", _ends, None, ""),
]  # fmt: skip


def table_row(fault: DrivenFault, outcomes: Mapping[str, Outcome | None]) -> str:
    """Of docs/faults.md: seconds until the arm stands, by output; then what is said."""
    cells = [fault.name, fault.what]
    for output in OUTPUTS:
        outcome = outcomes.get(output)
        known = f"{outcome.stood:.2f} s" if outcome is not None else "?"
        cells.append(known if output in fault.only else "-")
    says = next((outcome.says for outcome in outcomes.values() if outcome is not None), "")
    holds, _, refused = says.removeprefix("holding: ").partition(" (chunk refused: ")
    said = refused.removesuffix(")") if holds == "no chunk yet" else holds
    cells.append(said if len(said) <= 80 else f"{said[:76]} ...")
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
