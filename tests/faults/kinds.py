"""The kinds of fault, each as a function that injects it into a bench, and what has to come of it."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from diffusion_ros.control.action_chunk import ActionChunk
from diffusion_ros.robot import ACTION_NAMES, FINGERS, WORLD_FRAME
from diffusion_ros.ros import messages

from .bench import CAMERAS, PERIOD, PERIOD_NS, Bench

NAN, INF = float("nan"), float("inf")
GRACE = 0.1
"""Two control periods: one in which the fault comes, one for the command that was under way."""
STRANGER = b"a stranger"


@dataclass(frozen=True)
class Verdict:
    """What came of a fault."""

    moved: float
    """Metres that were commanded although nothing should have moved, or in a wrong frame."""
    says: str
    """The reason, as the nodes say it; '' where the fault is none and all goes on."""
    recovered: float | None
    """Seconds after its end until the robot acts again; None where it has to be told to."""


@dataclass(frozen=True)
class Fault:
    """One kind of fault."""

    name: str
    what: str
    """How it is injected, for the table."""
    check: Callable[[Path], Verdict]


FAULTS: list[Fault] = []


def acts(bench: Bench) -> None:
    """The robot acts, so that a hold is one."""
    bench.run(1.5)
    assert bench.moved(0.3) > 0, bench.says()


def recovery(bench: Bench, limit: float = 5.0) -> float:
    """Seconds until it acts again."""
    began = bench.clock.seconds
    while bench.moved(0.06) == 0:
        bench.run(PERIOD)
        assert bench.clock.seconds - began < limit, f"it does not go on: {bench.says()}"
    return bench.clock.seconds - began


def held(
    bench: Bench,
    says: str,
    begin: Callable[[Bench], None],
    end: Callable[[Bench], None] | None,
    seconds: float = 2.0,
    grace: float = GRACE,
) -> Verdict:
    """A fault that must mean a hold, with this reason, and nothing once it is over."""
    acts(bench)
    begin(bench)
    bench.run(grace)
    bench.run(seconds)
    moved = bench.moved(seconds)
    said = bench.says()
    assert says in said, f"{says!r} expected, it says {said!r}"
    assert bench.since(seconds), "a hold is said, not kept silent"
    if end is None:
        return Verdict(moved, said, None)
    end(bench)
    return Verdict(moved, said, recovery(bench))


def fault(name: str, what: str) -> Callable[[Callable[[Path], Verdict]], Callable[[Path], Verdict]]:
    """Adds a function to the kinds."""

    def add(check: Callable[[Path], Verdict]) -> Callable[[Path], Verdict]:
        FAULTS.append(Fault(name, what, check))
        return check

    return add


def _changed(
    name: str, what: str, source: str, change: Callable[[Any], Any], says: str, grace: float = GRACE, **bench: Any
) -> None:
    """A kind that changes every message of one sensor, for a while."""

    @fault(name, what)
    def check(folder: Path) -> Verdict:
        made = Bench(folder, **bench)
        try:
            return held(
                made,
                says,
                lambda b: b.robot.change.update({source: change}),
                lambda b: b.robot.change.pop(source),
                grace=grace,
            )
        finally:
            made.close()


def _set(msg: Any, **values: Any) -> Any:
    """A copy with other values: fields by their paths, written with `__`."""
    made = copy.deepcopy(msg)
    for path, value in values.items():
        *way, last = path.split("__")
        thing = made
        for step in way:
            thing = getattr(thing, step)
        setattr(thing, last, value)
    return made


def _moved(msg: Any, offset: float) -> Any:
    """A copy whose stamp is off by so many seconds."""
    stamp_ns = messages.stamp_ns(msg.header.stamp) + round(offset * 1e9)
    return _set(msg, header__stamp=messages.stamp_to_msg(stamp_ns))


# The hand's pose

_changed("pose: NaN", "y of every pose", "pose", lambda m: _set(m, pose__position__y=NAN), "finite numbers expected")
_changed("pose: infinite", "z of every pose", "pose", lambda m: _set(m, pose__position__z=INF), "finite numbers")
_changed(
    "pose: no rotation", "a quaternion of zeros", "pose", lambda m: _set(m, pose__orientation__w=0.0), "unit length"
)
_changed(
    "pose: another frame",
    "frame panda_link0 where world is the checkpoint's",
    "pose",
    lambda m: _set(m, header__frame_id="panda_link0"),
    "frame 'panda_link0', 'world' expected",
)
_changed("pose: no frame", "an empty frame", "pose", lambda m: _set(m, header__frame_id=""), "frame '', 'world'")
_changed(
    "pose: a frame that never ends",
    "a megabyte of escapes as its frame",
    "pose",
    lambda m: _set(m, header__frame_id="\x1b[31m" * 100_000),
    "world",
)
_changed("pose: stamp of 0", "0 s, 0 ns", "pose", lambda m: _set(m, header__stamp=Time()), "behind the clock")
_changed(
    "pose: no time",
    "nanoseconds of three seconds",
    "pose",
    lambda m: _set(m, header__stamp=Time(sec=5, nanosec=3_000_000_000)),
    "below 1 s expected",
)
_changed(
    "pose: before 1970", "a negative stamp", "pose", lambda m: _set(m, header__stamp=Time(sec=-5)), "stamp of -5 s"
)
_changed(
    "pose: the end of time",
    "2^31 - 1 s",
    "pose",
    lambda m: _set(m, header__stamp=Time(sec=2**31 - 1)),
    "2147397247 s",
)
_changed("pose: late", "stamps 0.4 s ago", "pose", lambda m: _moved(m, -0.4), "eef_pose is 0.4", grace=0.4)
_changed("pose: early", "stamps 0.7 s ahead", "pose", lambda m: _moved(m, 0.7), "ahead of the clock", grace=0.4)
_changed(
    "pose: far away",
    "x of 1,000,000 m",
    "pose",
    lambda m: _set(m, pose__position__x=1e6),
    "eef_pose[0] is 1e+06 m, -2 to 2 expected",
)
_changed(
    "pose: millimetres",
    "metres times 1,000",
    "pose",
    lambda m: _set(m, pose__position__z=1000 * m.pose.position.z),
    "m, -2 to 2 expected",
)
_changed("pose: silent", "none comes", "pose", lambda m: None, "eef_pose: silent for", grace=0.35)


@fault("pose: jumps", "0.8 m within a period, once")
def pose_jumps(folder: Path) -> Verdict:
    bench = Bench(folder)

    def jump(b: Bench) -> None:
        b.robot.position = b.robot.position + np.array([0.8, 0.0, 0.0])

    try:
        acts(bench)
        jump(bench)
        bench.run(GRACE)
        bench.run(0.3)
        moved, said = bench.moved(0.3), bench.says()
        assert "eef_pose jumped by 0.7" in said or "eef_pose jumped by 0.8" in said, said
        return Verdict(moved, said, recovery(bench))
    finally:
        bench.close()


@fault("pose: jumps to and fro", "every other pose 0.8 m aside")
def pose_alternates(folder: Path) -> Verdict:
    bench = Bench(folder)
    count = [0]

    def aside(msg: Any) -> Any:
        count[0] += 1
        return _set(msg, pose__position__x=msg.pose.position.x + 0.8 * (count[0] % 2))

    try:
        return held(
            bench,
            "eef_pose jumped by",
            lambda b: b.robot.change.update(pose=aside),
            lambda b: b.robot.change.pop("pose"),
        )
    finally:
        bench.close()


@fault("pose: stamps stand still", "poses go on, with the stamp of the first")
def pose_frozen_stamp(folder: Path) -> Verdict:
    bench = Bench(folder)
    try:
        return held(
            bench,
            "eef_pose is",
            lambda b: setattr(b.robot, "frozen_stamp", True),
            lambda b: setattr(b.robot, "frozen_stamp", False),
            grace=0.4,
        )
    finally:
        bench.close()


def _stranger(name: str, what: str, source: str, says: str, make: Callable[[Bench], Any], **changes: Any) -> None:
    """A second publisher of a sensor beside the true one."""

    @fault(name, what)
    def check(folder: Path) -> Verdict:
        bench = Bench(folder, **changes)
        on = [False]

        def beside(msg: Any) -> Any:
            if on[0]:
                bench.robot.change.pop(source)
                bench.send(source, make(bench), STRANGER)
                bench.robot.change[source] = beside
            return msg

        bench.robot.change[source] = beside
        try:
            return held(bench, says, lambda b: on.__setitem__(0, True), lambda b: on.__setitem__(0, False))
        finally:
            bench.close()


_stranger(
    "pose: a stranger's", "poses of a second publisher", "pose", "2 publishers on /eef_pose", lambda b: b.pose_msg()
)
_stranger(
    "fingers: a stranger's",
    "joint_states of a second publisher, with the same fingers",
    "joints",
    "2 publishers on /joint_states",
    lambda b: b.joints_msg((0.01, -0.01)),
)
_stranger(
    "object: a stranger's", "a second object_pose", "object", "2 publishers on /object_pose", lambda b: b.object_msg()
)
_stranger(
    "camera: a stranger's",
    "a second publisher of pictures of the same size",
    CAMERAS[0],
    "2 publishers on /agentview/image_raw",
    lambda b: b.picture_msg(CAMERAS[0]),
    pixels=True,
)
_stranger(
    "camera: a stranger's of another size",
    "a second publisher of pictures of 96 pixels",
    CAMERAS[0],
    "agentview/image_raw",
    lambda b: b.picture_msg(CAMERAS[0], 96),
    pixels=True,
)


# Motion a second, whatever the rate


def _speed(name: str, what: str, **robot: Any) -> None:
    @fault(name, what)
    def check(folder: Path) -> Verdict:
        speeds = []
        for changes in ({}, robot):
            bench = Bench(folder, executor_only=True)
            bench.robot.moves = False
            for key, value in changes.items():
                setattr(bench.robot, key, value)
            try:
                for _ in range(40):
                    rows = np.zeros((9, 7))
                    rows[:, 0] = 0.02
                    bench.send_chunk(chunk_msg(bench, rows))
                    bench.run(0.25)
                speeds.append((bench.moved(8.0) / 8.0, len(bench.since(8.0)) / 8.0))
            finally:
                bench.close()
        (wanted, _), (speed, commands) = speeds
        assert abs(wanted - 0.4) < 0.02, f"{wanted} m/s at 20 Hz, 0.4 expected"
        assert abs(speed / wanted - 1) < 0.05, f"{speed:.3f} m/s, {wanted:.3f} at 20 Hz"
        assert commands < 21, f"{commands} commands a second"
        return Verdict(0.0, f"{speed:.3f} m/s, {wanted:.3f} m/s at 20 Hz", 0.0)

    check.__name__ = name


def chunk_msg(bench: Bench, rows: np.ndarray, ahead: float = 0.0, frame: str = WORLD_FRAME) -> JointTrajectory:
    """A chunk of one's own, made from the observation of now."""
    return messages.chunk_to_msg(ActionChunk(bench.clock.ns + round(ahead * 1e9), rows, PERIOD_NS), frame)


for _hz in (30.0, 50.0, 137.0, 500.0, 1000.0):
    _speed(f"pose: {_hz:g} Hz", "the same metres a second as at 20 Hz, within 5 %", pose_hz=_hz)
_speed("pose: jitter", "20 Hz, each up to 10 ms early or late: the same motion", jitter=0.01)
_speed("pose: bursts", "100 Hz, ten at once: the same motion", pose_hz=100.0, burst=10)
_speed("pose: slower than the control rate", "10 Hz: the same motion, by the executor's clock", pose_hz=10.0)


# Fingers and object

_changed(
    "fingers: missing",
    "one of the two",
    "joints",
    lambda m: _set(m, name=[FINGERS[0]], position=[0.02], velocity=[]),
    f"joint {FINGERS[1]} missing",
)
_changed("fingers: NaN", "of one", "joints", lambda m: _set(m, position=[0.02, NAN]), "a finite number expected")
_changed(
    "fingers: millimetres",
    "20 and -20",
    "joints",
    lambda m: _set(m, position=[20.0, -20.0]),
    "robot0_gripper_qpos[0] is 20 m",
)
_changed(
    "fingers: the wrong sign",
    "both positive, as a real hand's driver says",
    "joints",
    lambda m: _set(m, position=[0.03, 0.03]),
    "robot0_gripper_qpos[1] is 0.03 m",
)
_changed(
    "fingers: too few numbers",
    "two names, one position",
    "joints",
    lambda m: _set(m, position=[0.02], velocity=[]),
    "1 positions for 2 joints",
)
_changed(
    "fingers: names with escapes",
    "newlines and colours in a third joint, a finger missing",
    "joints",
    lambda m: _set(m, name=[FINGERS[0], "a\n\x1b[31mb" * 1000], velocity=[]),
    "the message has",
)
_changed("fingers: silent", "none come", "joints", lambda m: None, "joint_states: silent for", grace=0.7)
_changed(
    "fingers: 10 ms beside", "stamps 10 ms beside the pose's, no tolerance", "joints", lambda m: _moved(m, 0.01),
    "the stamps of the inputs differ", grace=1.2,
)  # fmt: skip
_changed("object: far away", "x of 1,000,000 m", "object", lambda m: _set(m, pose__position__x=1e6), "object_pos[0] is")
_changed("object: NaN", "x", "object", lambda m: _set(m, pose__position__x=NAN), "object_pose: position")
_changed("object: another frame", "camera's", "object", lambda m: _set(m, header__frame_id="camera"), "frame 'camera'")
_changed("object: silent", "none comes", "object", lambda m: None, "object_pose: silent for", grace=0.7)


@fault("joint_states of two drivers", "the arm's at 200 Hz beside the fingers': goes on")
def split_joints(folder: Path) -> Verdict:
    bench = Bench(folder)

    def beside(msg: Any) -> Any:
        bench.robot.change.pop("joints")
        for _ in range(10):
            names = tuple(f"joint{i}" for i in range(7))
            bench.send("joints", bench.joints_msg(np.zeros(7), names), b"the arm's driver")
        bench.robot.change["joints"] = beside
        return msg

    bench.robot.change["joints"] = beside
    try:
        acts(bench)
        bench.run(2.0)
        holds = [sent for sent in bench.since(2.0) if not sent.row.any()]
        said = bench.says()
        assert not holds and "policy: publishing chunks" in said, said
        return Verdict(0.0, "", 0.0)
    finally:
        bench.close()


# Cameras

_pixels: dict[str, Any] = {"pixels": True}
_wrist = CAMERAS[1]
_changed("camera: silent", "no pictures", _wrist, lambda m: None, f"{_wrist}/image_raw: silent", grace=0.7, **_pixels)
_changed(
    "camera: another encoding", "mono16", _wrist, lambda m: _set(m, encoding="mono16"), "encoding 'mono16'", **_pixels
)
_changed(
    "camera: bytes missing", "half of them", _wrist, lambda m: _set(m, data=m.data[: len(m.data) // 2]),
    "bytes in rows of", **_pixels,
)  # fmt: skip
_changed("camera: no size", "0 x 0", _wrist, lambda m: _set(m, width=0, height=0), "at least 1 x 1", **_pixels)
_changed("camera: stamps ahead", "by 3 s", _wrist, lambda m: _moved(m, 3.0), "3.000 s ahead of the clock", **_pixels)
_changed("camera: stamps stepped back", "by 0.9 s", _wrist, lambda m: _moved(m, -0.9), "behind the clock", **_pixels)
_changed("camera: stamps of 0", "0 s", _wrist, lambda m: _set(m, header__stamp=Time()), "behind the clock", **_pixels)


@fault("camera: frozen", "the same picture while the hand moves")
def camera_frozen(folder: Path) -> Verdict:
    bench = Bench(folder, pixels=True)
    count = [0]

    def wander(msg: Any) -> Any:
        count[0] += 1
        return _set(msg, pose__position__x=0.05 * np.sin(0.1 * count[0]))

    bench.robot.change["pose"] = wander
    bench.robot.moves = False
    try:
        return held(
            bench,
            "is frozen: the same image",
            lambda b: setattr(b.robot, "frozen_camera", True),
            lambda b: setattr(b.robot, "frozen_camera", False),
            grace=1.4,
        )
    finally:
        bench.close()


@fault("camera: sizes in turn", "of one publisher, every third picture of 96 pixels")
def camera_sizes(folder: Path) -> Verdict:
    bench = Bench(folder, pixels=True)
    count = [0]

    def third(msg: Any) -> Any:
        count[0] += 1
        return bench.picture_msg(_wrist, 96) if count[0] % 3 == 0 else msg

    try:
        return held(
            bench,
            f"{_wrist}/image_raw",
            lambda b: b.robot.change.update({_wrist: third}),
            lambda b: b.robot.change.pop(_wrist),
            grace=GRACE + 3 * PERIOD,
        )
    finally:
        bench.close()


def _slow(hz: float) -> None:
    @fault(f"sensors at {hz:g} Hz", "all of them, where the policy was trained at 20 Hz")
    def check(folder: Path) -> Verdict:
        def rate(b: Bench, to: float) -> None:
            b.robot.pose_hz = b.robot.joints_hz = b.robot.object_hz = b.robot.camera_hz = to

        bench = Bench(folder, pixels=True)
        try:
            return held(
                bench,
                f"comes at {hz:.1f} Hz, at least 12 of 20 Hz expected",
                lambda b: rate(b, hz),
                lambda b: rate(b, 20.0),
                seconds=3.0,
                # Until three intervals are known to be long.
                grace=GRACE + 3.5 / hz,
            )
        finally:
            bench.close()


for _hz in (10.0, 6.0, 3.0):
    _slow(_hz)


@fault("sensors at 14 Hz", "acts, and says that the policy was trained at 20 Hz")
def rather_slow(folder: Path) -> Verdict:
    bench = Bench(folder, pixels=True)
    robot = bench.robot
    robot.pose_hz = robot.joints_hz = robot.camera_hz = 14.0
    try:
        acts(bench)
        said = bench.says()
        assert "comes at 14" in said, said
        return Verdict(0.0, said, 0.0)
    finally:
        bench.close()


@fault("poses at 1 kHz, pictures 60 ms late", "no frame is lost for want of history")
def late_pictures(folder: Path) -> Verdict:
    bench = Bench(folder, pixels=True, policy_sync_tolerance=0.025)
    bench.robot.pose_hz = bench.robot.joints_hz = 1000.0
    waiting: list[tuple[float, str, Any]] = []

    def later(camera: str) -> Callable[[Any], Any]:
        def change(msg: Any) -> Any:
            waiting.append((bench.clock.seconds + 0.06, camera, msg))
            due = [entry for entry in waiting if entry[1] == camera and entry[0] <= bench.clock.seconds + 1e-9]
            for entry in due:
                waiting.remove(entry)
            return [entry[2] for entry in due]

        return change

    for camera in CAMERAS:
        bench.robot.change[camera] = later(camera)
    try:
        acts(bench)
        bench.run(2.0)
        assert sum(sent.row.any() for sent in bench.since(2.0)) >= 38, bench.says()
        return Verdict(0.0, "", 0.0)
    finally:
        bench.close()


# Chunks


def _chunk(name: str, what: str, says: str, change: Callable[[JointTrajectory], Any], grace: float = GRACE) -> None:
    """A policy whose chunks are wrong from now on; what it sent before must not go on either."""

    @fault(name, what)
    def check(folder: Path) -> Verdict:
        bench = Bench(folder)
        try:
            return held(
                bench,
                says,
                lambda b: setattr(b, "tamper", change),
                lambda b: setattr(b, "tamper", None),
                # The next chunk is due within seven steps; until then rows of a good one are executed.
                grace=grace + 7 * PERIOD,
            )
        finally:
            bench.close()


def _points(msg: JointTrajectory, change: Callable[[int, JointTrajectoryPoint], None]) -> JointTrajectory:
    made = copy.deepcopy(msg)
    for i, point in enumerate(made.points):
        change(i, point)
    return made


def _value(row: int, column: int, value: float) -> Callable[[JointTrajectory], JointTrajectory]:
    def change(i: int, point: JointTrajectoryPoint) -> None:
        if i == row % 9:
            point.positions[column] = value

    return lambda msg: _points(msg, change)


def _long(rows: int) -> Callable[[JointTrajectory], JointTrajectory]:
    def change(msg: JointTrajectory) -> JointTrajectory:
        point = JointTrajectoryPoint(positions=[0.01] * 7)
        made = copy.deepcopy(msg)
        made.points = [point] * rows
        return made

    return change


_chunk("chunk: NaN", "in its last row", "eef_dry of point 8 is nan", _value(-1, 4, NAN))
_chunk("chunk: infinite", "in its first row", "eef_dx of point 0 is inf", _value(0, 0, INF))
_chunk("chunk: far beyond the limits", "0.3 m a step", "eef_dx of row 3 is 0.3, at most 0.25", _value(3, 0, 0.3))
_chunk(
    "chunk: other joints", "reordered names", "joint names",
    lambda m: _set(m, joint_names=list(reversed(ACTION_NAMES))),
)  # fmt: skip
_chunk("chunk: another frame", "panda_link0", "frame 'panda_link0'", lambda m: _set(m, header__frame_id="panda_link0"))
_chunk(
    "chunk: another rate", "rows 100 ms apart", "rows 100000000 ns apart",
    lambda m: _points(m, lambda i, p: setattr(p, "time_from_start", messages.duration_to_msg((i + 1) * 100_000_000))),
)  # fmt: skip
_chunk(
    "chunk: uneven times", "the third row 1 ms late", "point 2 is done after",
    lambda m: _points(
        m,
        lambda i, p: setattr(
            p, "time_from_start", messages.duration_to_msg((i + 1) * PERIOD_NS + (1_000_000 if i == 2 else 0))
        ),
    ),
)  # fmt: skip
_chunk("chunk: empty", "no rows", "0 points", lambda m: _set(m, points=[]))
_chunk("chunk: stamped 4 s ahead", "of the pose", "s ahead of eef_pose", lambda m: _moved(m, 4.0))
_chunk(
    "chunk: stamped 2038", "the end of 32 bits", "2147397247 s",
    lambda m: _set(m, header__stamp=Time(sec=2**31 - 2)),
)  # fmt: skip
_chunk("chunk: 200 rows", "of a policy that has 9", "200 rows, at most 9 expected", lambda m: _rows(m, 200))
_chunk("chunk: late as a whole", "stamped 0.6 s ago", "all rows late", lambda m: _moved(m, -0.6), grace=0.3)
_chunk("chunk: its sender is gone", "no more chunks", "no chunk covers the present", lambda m: None, grace=0.3)


def _rows(msg: JointTrajectory, count: int) -> JointTrajectory:
    rows = np.full((count, 7), 0.01)
    return messages.chunk_to_msg(ActionChunk(messages.stamp_ns(msg.header.stamp), rows, PERIOD_NS), WORLD_FRAME)


def _blinding(rows: int) -> None:
    @fault(f"chunk: {rows:,} rows", "beside the policy's own; the executor is not kept busy by it")
    def check(folder: Path) -> Verdict:
        bench = Bench(folder)
        try:
            acts(bench)
            msg = _long(rows)(chunk_msg(bench, np.zeros((1, 7))))
            from rclpy.serialization import serialize_message

            raw = serialize_message(msg)
            began = time.perf_counter()
            bench.executor._chunks.take(raw, {"publisher_gid": {"data": b"policy"}})
            took = time.perf_counter() - began
            assert took < 0.05, f"{took:.3f} s"
            said = bench.executor._refused
            bench.run(GRACE)
            assert "bytes, at most 65536 expected" in said, said
            return Verdict(0.0, said, recovery(bench))
        finally:
            bench.close()


_blinding(20_000)
_blinding(60_000)


@fault("chunk: two policies", "a second one's chunks, the first stamped 4 s ahead")
def two_policies(folder: Path) -> Verdict:
    bench = Bench(folder)
    on = [False]

    def beside(msg: JointTrajectory) -> JointTrajectory:
        if on[0]:
            bench.send_chunk(_moved(_rows(msg, 9), 4.0), STRANGER)
        return msg

    bench.tamper = beside
    try:
        verdict = held(
            bench,
            "2 publishers on /action_chunk",
            lambda b: on.__setitem__(0, True),
            lambda b: on.__setitem__(0, False),
            grace=GRACE + 7 * PERIOD,
        )
        return verdict
    finally:
        bench.close()


@fault("chunk: of a stranger, once", "stamped 4 s ahead, beside the policy's; nothing of it is executed later")
def chunk_outlives(folder: Path) -> Verdict:
    bench = Bench(folder)
    try:
        acts(bench)
        rows = np.full((9, 7), 0.0)
        rows[:, 2] = 0.049
        bench.send_chunk(chunk_msg(bench, rows, ahead=4.0), STRANGER)
        bench.run(GRACE)
        bench.run(6.0)
        strange = [sent for sent in bench.since(6.0) if sent.row[2] == 0.049]
        return Verdict(0.049 * len(strange), "2 publishers on /action_chunk, one expected", recovery(bench))
    finally:
        bench.close()


# The policy itself


@fault("policy: an inference that never returns", "in its thread")
def policy_hangs(folder: Path) -> Verdict:
    import threading

    bench = Bench(folder)
    assert bench.policy is not None
    entered, go_on = threading.Event(), threading.Event()
    sample = bench.policy.policy.sample

    def stopped(*arguments: Any, **more: Any) -> Any:
        entered.set()
        go_on.wait(60)
        return sample(*arguments, **more)

    def begin(b: Bench) -> None:
        assert b.policy is not None
        b.hangs = True
        b.policy.policy.sample = stopped
        for _ in range(20):
            b.run(PERIOD)
            if entered.wait(0.02):  # its thread lives in the machine's time
                return
        raise AssertionError("no inference began")

    def end(b: Bench) -> None:
        assert b.policy is not None
        b.policy.policy.sample = sample
        go_on.set()
        b.hangs = False

    try:
        return held(bench, "has not returned", begin, end, seconds=3.0, grace=0.8)
    finally:
        go_on.set()
        bench.close()


@fault("policy: an inference that fails", "an exception in every call")
def policy_fails(folder: Path) -> Verdict:
    bench = Bench(folder)
    assert bench.policy is not None
    sample = bench.policy.policy.sample

    def failing(*arguments: Any, **more: Any) -> Any:
        raise RuntimeError("no memory\nat all")

    def put(b: Bench, what: Any) -> None:
        assert b.policy is not None
        b.policy.policy.sample = what

    try:
        return held(
            bench, "inference failed: no memory at all", lambda b: put(b, failing), lambda b: put(b, sample), grace=0.6
        )
    finally:
        bench.close()


@fault("policy: answers NaN", "for every observation")
def policy_nan(folder: Path) -> Verdict:
    bench = Bench(folder)
    assert bench.policy is not None
    sample = bench.policy.policy.sample

    def put(b: Bench, what: Any) -> None:
        assert b.policy is not None
        b.policy.policy.sample = what

    try:
        return held(
            bench,
            "NaN or infinite values",
            lambda b: put(b, lambda *arguments, **more: np.full((9, 7), NAN)),
            lambda b: put(b, sample),
            grace=0.6,
        )
    finally:
        bench.close()


# Commands and stops


@fault("command: a second executor", "another publisher of eef_command")
def second_executor(folder: Path) -> Verdict:
    bench = Bench(folder)
    from .bench import deliver

    on = [False]

    def beside(msg: Any) -> Any:
        if on[0]:
            row = np.full(7, 0.01)
            deliver(
                bench.executor._commands,
                messages.command_to_msg(row, bench.clock.ns, PERIOD_NS, WORLD_FRAME),
                STRANGER,
            )
        return msg

    bench.robot.change["pose"] = beside
    try:
        return held(
            bench,
            "2 publishers on /eef_command",
            lambda b: on.__setitem__(0, True),
            lambda b: on.__setitem__(0, False),
        )
    finally:
        bench.close()


def _call(bench: Bench, name: str, data: bool | None = None) -> Any:
    from std_srvs.srv import SetBool, Trigger

    kind = Trigger if data is None else SetBool
    request = Trigger.Request() if data is None else SetBool.Request(data=data)
    return getattr(bench.executor, f"_on_{name}")(request, kind.Response())


@fault("stop: emergency stop", "latched; a reset moves nothing, and enabling does not release it")
def emergency_stop(folder: Path) -> Verdict:
    bench = Bench(folder)
    try:
        acts(bench)
        _call(bench, "estop")
        bench.run(1.0)
        said, moved = bench.says(), bench.moved(1.0)
        assert "emergency stop: requested" in said, said
        assert not _call(bench, "set_enabled", True).success
        bench.run(1.0)
        moved += bench.moved(1.0)
        _call(bench, "estop_reset")
        bench.run(1.0)
        moved += bench.moved(1.0)
        assert "not enabled" in bench.says(), bench.says()
        assert _call(bench, "set_enabled", True).success
        return Verdict(moved, said, recovery(bench))
    finally:
        bench.close()


@fault("stop: the executor dies under it", "and is started again, enabled by its parameters")
def stop_survives(folder: Path) -> Verdict:
    bench = Bench(folder)
    try:
        with tempfile.TemporaryDirectory() as name:
            bench.executor.destroy_node()
            bench.new_executor(Path(name))
            acts(bench)
            _call(bench, "estop")
            bench.executor.destroy_node()
            bench.new_executor(Path(name))
            bench.run(2.0)
            said, moved = bench.says(), bench.moved(2.0)
            assert "not enabled (an emergency stop was latched" in said, said
            assert _call(bench, "set_enabled", True).success
            recovered = recovery(bench)
            bench.executor.destroy_node()
            bench.new_executor(Path(name))
            bench.run(1.0)
            assert bench.moved(0.5) > 0, "without a stop it comes back as it was"
        return Verdict(moved, said, recovered)
    finally:
        bench.close()


@fault("stop: the executor ends", "its last word is a hold")
def last_word(folder: Path) -> Verdict:
    bench = Bench(folder)
    try:
        acts(bench)
        bench.executor._command_publisher.wait_for_all_acked = lambda timeout: True
        bench.executor.close()
        assert not bench.commands[-1].row.any()
        return Verdict(0.0, "the executor ends", None)
    finally:
        bench.close()
