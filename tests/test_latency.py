"""diffusion_ros latency: known delays are found, the file is edited and nothing else, and nothing moves unasked."""

from __future__ import annotations

import dataclasses
import math
import os
import pty
import shutil
import threading
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
import ros_graph
import yaml
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, Float64MultiArray

from diffusion_ros import bringup, latency, robot_file, yaml_edit
from diffusion_ros.control.latency import Delay, arm_delay, arm_response, lagging, onset, stream_delay
from diffusion_ros.control.picture_motion import PictureMotion
from diffusion_ros.control.small_motion import SmallMotion, sideways, small_motion
from diffusion_ros.ros import latency_probe, messages, topics
from diffusion_ros.systems.startup import UsageError
from diffusion_ros.yaml_file import load

LIMITS = robot_file.Limits(0.5, 1.5, 8.0, 20.0, (0.3, -0.45, -0.13), (0.85, 0.6, 0.25))
MOTION = SmallMotion(0.02, 12.0)
COMMAND_TIMES = np.arange(0.0, 12.0, 0.01)
HAND_TIMES = np.arange(-0.5, 13.2, 0.004)
FINE = np.arange(-1.0, 14.0, 0.001)

# -- the motion -------------------------------------------------------------------------------------------------------


def test_the_motion_begins_and_ends_at_rest_and_keeps_to_its_amplitude() -> None:
    path = MOTION.positions(FINE)
    assert np.all(np.abs(path) <= 0.02) and np.max(np.abs(path)) > 0.015
    assert path[FINE <= 0].tolist() == [0.0] * int(np.sum(FINE <= 0)) and MOTION.position(12.5) == 0.0
    assert abs(MOTION.velocity(0.0)) < 1e-3 and abs(MOTION.velocity(12.0)) < 1e-3
    speeds = np.abs(np.gradient(path, 0.001))
    assert MOTION.speed == pytest.approx(np.max(speeds), rel=0.01)
    assert MOTION.velocity(3.21) == pytest.approx((MOTION.position(3.211) - MOTION.position(3.209)) / 0.002, abs=1e-4)


@pytest.mark.parametrize(("linear", "acceleration"), [(0.5, 8.0), (0.1, 8.0), (0.5, 0.5), (0.03, 0.2)])
def test_the_motion_takes_half_of_the_limits_at_most(linear: float, acceleration: float) -> None:
    limits = dataclasses.replace(LIMITS, linear=linear, linear_acceleration=acceleration)
    motion = small_motion(0.02, 12.0, limits)
    assert motion.speed <= 0.5 * linear * 1.001 and motion.acceleration <= 0.5 * acceleration * 1.001
    assert 0.005 <= motion.amplitude <= 0.02 and 0.5 <= motion.pace <= 1.0
    assert (motion.pace, motion.amplitude) == (1.0, 0.02) or linear < 0.5 or acceleration < 8.0


def test_limits_that_leave_no_motion_are_refused() -> None:
    with pytest.raises(ValueError, match=r"0.01 m/s and 8 m/s\^2 let the hand move by 2.. mm only, 5 mm at least"):
        small_motion(0.02, 12.0, dataclasses.replace(LIMITS, linear=0.01))


def test_sideways_is_across_the_way_to_the_hand_where_the_box_has_room() -> None:
    assert sideways([0.5, 0.0, 0.1], 0.02, LIMITS) == 1
    assert sideways([0.31, 0.59, 0.1], 0.005, LIMITS) == 0
    assert sideways([0.5, 0.59, 0.1], 0.02, LIMITS) == 0
    with pytest.raises(ValueError, match=r"25 mm from the limits .* expected along x or y"):
        sideways([0.84, 0.59, 0.1], 0.02, LIMITS)
    with pytest.raises(ValueError, match=r"the hand is at \[0.500, 0.000, 0.300\] m, inside the limits"):
        sideways([0.5, 0.0, 0.3], 0.02, LIMITS)


# -- estimates --------------------------------------------------------------------------------------------------------


def arm(
    dead: float, lag: float, inertia: float = 0.0, gain: float = 0.9, noise: float = 2e-4, seed: int = 0
) -> np.ndarray[Any, Any]:
    """The hand at HAND_TIMES, of an arm that is so late; it drifts by a millimetre meanwhile."""
    late = np.interp(HAND_TIMES - dead, FINE, lagging(MOTION.positions(FINE), lag, 0.001, inertia))
    drift = 0.001 * HAND_TIMES / HAND_TIMES[-1]
    return gain * late + drift + np.random.default_rng(seed).normal(0.0, noise, len(HAND_TIMES))


@pytest.mark.parametrize(
    ("dead", "lag", "inertia"),
    [
        (0.03, 0.15, 0.0),
        (0.1, 0.05, 0.0),
        (0.2, 0.1, 0.0),
        (0.02, 0.25, 0.0),
        (0.08, 0.0, 0.0),
        (0.02, 0.11, 0.075),
        (0.08, 0.1, 0.1),
    ],
)
def test_dead_time_lag_and_inertia_are_told_apart(dead: float, lag: float, inertia: float) -> None:
    told = MOTION.positions(COMMAND_TIMES)
    for seed in range(2):
        hand = arm(dead, lag, inertia, seed=seed)
        found = arm_response(COMMAND_TIMES, told, HAND_TIMES, hand, 0.5, 0.3, 0.2)
        assert found.dead == pytest.approx(dead, rel=0.15, abs=0.01), seed
        assert found.lag == pytest.approx(lag, rel=0.15, abs=0.006)
        assert found.inertia == pytest.approx(inertia, rel=0.1)
        assert found.gain == pytest.approx(0.9, abs=0.02) and found.correlation > 0.995


def test_a_lag_is_no_dead_time() -> None:
    """A fit without the one or the other is worse: they are not the same."""
    hand, told = arm(0.03, 0.15), MOTION.positions(COMMAND_TIMES)
    right = arm_response(COMMAND_TIMES, told, HAND_TIMES, hand, 0.5, 0.3)
    no_lag = arm_response(COMMAND_TIMES, told, HAND_TIMES, hand, 0.5, 0.0)
    no_dead = arm_response(COMMAND_TIMES, told, HAND_TIMES, hand, 0.0, 0.3)
    assert no_lag.correlation < right.correlation - 0.005 and no_dead.correlation < right.correlation - 0.0005


@pytest.mark.parametrize("delay", [-0.02, 0.0, 0.0437, 0.12, 0.5])
def test_the_delay_of_an_arm(delay: float) -> None:
    found = arm_delay(COMMAND_TIMES, MOTION.positions(COMMAND_TIMES), HAND_TIMES, arm(delay, 0.0))
    assert found.seconds == pytest.approx(delay, abs=0.002) and found.correlation > 0.99


def test_an_arm_that_goes_the_other_way_has_a_correlation_below_0() -> None:
    found = arm_delay(COMMAND_TIMES, MOTION.positions(COMMAND_TIMES), HAND_TIMES, -arm(0.1, 0.0))
    assert found.correlation < -0.99 and found.seconds == pytest.approx(0.1, abs=0.002)


def test_a_lag_is_that_of_its_equation() -> None:
    """A step has come to 1 - 1/e after the lag, a ramp stays behind by slope * lag."""
    step = lagging(np.concatenate([np.zeros(1), np.ones(1000)]), 0.2, 0.001)
    assert step[201] == pytest.approx(1 - math.exp(-1), abs=0.002)
    times = np.arange(0.0, 3.0, 0.01)
    assert (times - lagging(times, 0.2, 0.01))[-1] == pytest.approx(0.2, abs=1e-4)


def test_an_inertia_is_that_of_its_equation() -> None:
    """A step overshoots by exp(-pi d / sqrt(1 - d^2)) of damping ratio d = lag / (2 inertia); a ramp stays behind by
    the lag alone."""
    step = lagging(np.concatenate([np.zeros(1), np.ones(2000)]), 0.1, 0.001, 0.1)
    assert step.max() == pytest.approx(1 + math.exp(-math.pi * 0.5 / math.sqrt(0.75)), abs=0.001)
    times = np.arange(0.0, 3.0, 0.01)
    assert (times - lagging(times, 0.1, 0.01, 0.1))[-1] == pytest.approx(0.1, abs=1e-4)


def steps_seen(latency_: float, noise: float, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Stamps of 30 Hz pictures, some of which are lost, and what moved between them in 4 places, of which 2 see it."""
    random = np.random.default_rng(seed)
    exposed = np.arange(0.013, 13.0, 1 / 30)
    exposed = exposed[random.random(len(exposed)) > 0.1]
    places = np.interp(exposed, HAND_TIMES, arm(0.1, 0.1, noise=0.0))
    seen = 150.0 * np.diff(places)[:, None] * np.array([1.0, -0.6, 0.0, 0.0])
    return exposed + latency_, seen + random.normal(0.0, noise, seen.shape)


@pytest.mark.parametrize("latency_", [-0.1, 0.0, 0.0331, 0.05, 0.2])
def test_the_latency_of_pictures_is_found_within_5_ms(latency_: float) -> None:
    hand = arm(0.1, 0.1)
    for seed in range(5):
        # The motion goes through 0.2 px from picture to picture at most.
        stamps, steps = steps_seen(latency_, 0.05, seed)
        found = stream_delay(stamps, steps, HAND_TIMES, hand)
        assert found is not None and found.correlation > 0.8
        assert found.seconds == pytest.approx(latency_, abs=0.005), seed


def test_what_does_not_see_the_motion_has_a_weak_correlation() -> None:
    hand = arm(0.1, 0.1)
    for seed in range(5):
        stamps, _ = steps_seen(0.05, 0.05, seed)
        noise = np.random.default_rng(seed).normal(0.0, 1.0, (len(stamps) - 1, 96))
        found = stream_delay(stamps, noise, HAND_TIMES, hand)
        assert found is not None and found.correlation < latency.STREAM_SURE
    assert stream_delay(stamps[:20], noise[:19], HAND_TIMES, hand) is None
    assert stream_delay(stamps, np.zeros_like(noise), HAND_TIMES, hand) is None
    assert stream_delay([], np.zeros((0, 0)), HAND_TIMES, hand) is None
    with pytest.raises(ValueError, match="3 steps between 3 stamps"):
        stream_delay([0.0, 1.0, 2.0], np.zeros((3, 2)), HAND_TIMES, hand)


def picture(place: float, random: np.random.Generator, moving: float = 1.0, light: float = 1.0) -> np.ndarray[Any, Any]:
    """(120, 160, 3) of a smooth wall, in front of whose left part something goes sideways by pixels."""
    x, y = np.arange(160, dtype=np.float32), np.arange(120, dtype=np.float32)[:, None]
    wall = 120 + 40 * np.sin(x / 9) + 30 * np.cos(y / 7)
    thing = 120 + 60 * np.sin((x - np.float32(place)) / 6) * np.cos(y / 8)
    grey = np.where((x < 70) & (y > 40), moving * thing + (1 - moving) * wall, wall)
    noise = 3 * random.standard_normal((120, 160, 3), np.float32)
    return np.clip(np.float32(light) * (grey[..., None] + noise), 0, 255).astype(np.uint8)


def seen(latency_: float, moving: float = 1.0) -> Delay | None:
    random, motion = np.random.default_rng(1), PictureMotion()
    hand = arm(0.1, 0.1)
    for at in np.arange(0.02, 12.9, 1 / 30):
        place = 400.0 * float(np.interp(at, HAND_TIMES, hand))
        motion.add(round(1e9 * (at + latency_)), picture(place, random, moving, 1.0 + 0.02 * math.sin(at)))
    return stream_delay(np.array(motion.stamps) / 1e9, motion.steps, HAND_TIMES, hand)


def test_pictures_of_a_moving_hand_tell_their_latency() -> None:
    found = seen(0.05)
    assert found is not None and found.correlation > 0.9
    assert found.seconds == pytest.approx(0.05, abs=0.005)
    nothing = seen(0.05, moving=0.0)
    assert nothing is not None and nothing.correlation < latency.STREAM_SURE


def test_pictures_of_another_size_begin_anew() -> None:
    motion, random = PictureMotion(), np.random.default_rng(0)
    for stamp in (1, 2, 3):
        motion.add(stamp, picture(0.0, random))
    assert motion.steps.shape == (2, 2 * 6 * 8)
    motion.add(4, picture(0.0, random)[:50, :80])
    assert motion.stamps == [4] and motion.steps.shape == (0, 0)
    motion.add(4, picture(0.0, random)[:50, :80])
    assert motion.stamps == [4]


def test_when_fingers_began_to_move() -> None:
    times = np.arange(0.0, 3.0, 1 / 15)
    values = 0.04 - 0.04 * np.clip((times - 1.13) / 0.5, 0, 1)
    began = onset(1.0, times, values, 0.002)
    assert began == pytest.approx(0.13, abs=0.02)
    assert onset(1.0, times, np.full(len(times), 0.04), 0.002) is None
    assert onset(5.0, times, values, 0.002) is None and onset(-1.0, times, values, 0.002) is None


# -- the file ---------------------------------------------------------------------------------------------------------

TEXT = """# a robot
action: # how
  output: pose
  latency: 0.05  # s

  nested: {a: 1}
observations:
  hand: {source: pose, topic: /x}   # here
  robot0_gripper_qpos:
    topic: /joint_states
    scale: [1.0,
      -1.0]  # signs
    # the end
  wrist_image: {camera: usb_cam, latency: 1e-1, topic: /y}
limits: &box {low: 1}
other: *box
more:
  - latency: 3
deep:
  below:
    x: 1
"""


@pytest.mark.parametrize(
    ("keys", "old", "new"),
    [
        ("action.latency", "latency: 0.05  # s", "latency: 0.123  # s"),
        ("action.lag", "  nested: {a: 1}\n", "  nested: {a: 1}\n  lag: 0.123\n"),
        ("action.nested.latency", "{a: 1}", "{a: 1, latency: 0.123}"),
        ("observations.hand.latency", "topic: /x}   # here", "topic: /x, latency: 0.123}   # here"),
        ("observations.robot0_gripper_qpos.latency", "# signs\n", "# signs\n    latency: 0.123\n"),
        ("observations.wrist_image.latency", "latency: 1e-1, ", "latency: 0.123, "),
        ("deep.latency", "deep:\n", "deep:\n  latency: 0.123\n"),
        ("latency", "# a robot\n", "# a robot\n"),
    ],
)
def test_a_number_is_set_and_all_else_stays(keys: str, old: str, new: str) -> None:
    changed = yaml_edit.with_number(TEXT, keys.split("."), 0.1234)
    if keys == "latency":  # at the top: behind the last line that holds a value of its own
        assert yaml.safe_load(changed)["latency"] == 0.123
        assert sorted([*TEXT.splitlines(), "latency: 0.123"]) == sorted(changed.splitlines())
        return
    assert changed == TEXT.replace(old, new, 1)
    windows = TEXT.replace("\n", "\r\n")
    assert yaml_edit.with_number(windows, keys.split("."), 0.1234) == changed.replace("\n", "\r\n")


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ("limits.latency", "what is written there counts elsewhere as well"),
        ("nowhere.latency", "there are no keys and values above it"),
        ("more.latency", "there are no keys and values above it"),
        ("action.nested", "it is no number of its own"),
    ],
)
def test_what_cannot_be_set_is_said_in_one_line(keys: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"^{keys}: {why}.*: write `{keys.split('.')[-1]}: 0.123` by hand$"):
        yaml_edit.with_number(TEXT, keys.split("."), 0.123)


@pytest.mark.parametrize("name", sorted(robot_file.shipped()))
def test_every_latency_of_every_shipped_robot_can_be_set(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    shutil.copy(robot_file.shipped()[name], path)
    robot = robot_file.read(path)
    names = [robot_file.HAND, *robot.numbers, *(f"{camera}_image" for camera in robot.pictures)]
    keys = [("action", "latency"), ("gripper", "latency"), *(("observations", name, "latency") for name in names)]
    keys += [("action", "lag"), ("action", "inertia")] if robot.action.output == "pose" else []
    rows = [latency.Row(key, 0.0, 0.011 + 0.01 * i, 1.0, "") for i, key in enumerate(keys)]
    before = path.read_text()
    said = latency.write(robot, rows)
    assert said[-1] == f"written: {path}; before: {path}.bak"
    assert (tmp_path / "mine.yaml.bak").read_text() == before
    content = load(path)
    for i, key in enumerate(keys):
        section = content
        for part in key:
            section = section[part]
        assert section == pytest.approx(0.011 + 0.01 * i)
    comments = [line.partition("#")[2] for line in before.splitlines() if "#" in line]
    assert comments == [line.partition("#")[2] for line in path.read_text().splitlines() if "#" in line]
    assert robot_file.read(path).action.latency == pytest.approx(0.011)


def test_a_value_that_the_file_may_not_have_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    shutil.copy(robot_file.shipped()["ur_jtc"], path)
    before = path.read_text()
    (line,) = latency.write(robot_file.read(path), [latency.Row(("action", "latency"), 0.0, 0.7, 1.0, "")])
    assert line.startswith("not written: ") and "action.latency: 0.7, at least 0 and at most 0.5 s expected" in line
    assert path.read_text() == before


# -- a robot ----------------------------------------------------------------------------------------------------------

DEAD, LAG, PICTURE = 0.06, 0.12, 0.08
HOME = np.array([0.5, 0.1, 0.3])
ROBOT: dict[str, Any] = {
    "driver": "crisp",
    "base": {"frame": "base"},
    "tool": {"frame": "tool", "xyz": [0.0, 0.0, 0.1]},
    "observations": {
        "hand": {"source": "pose", "topic": "current_pose"},
        "robot0_gripper_qpos": {"topic": "joint_states", "joints": ["left", "right"], "scale": [1.0, -1.0]},
        "agentview_image": {"topic": "scene/image_raw"},
        "robot0_eye_in_hand_image": {"topic": "wrist/image_raw"},
    },
    "action": {"output": "pose", "topic": "target_pose", "rate": 50, "latency": 0.01, "lag": 0.02},
    "gripper": {"output": "positions", "name": "gripper/commands", "open": 0.04, "closed": 0.0},
    "limits": {
        "linear": 0.5,
        "angular": 1.0,
        "linear_acceleration": 5.0,
        "angular_acceleration": 6.0,
        "low": [0.3, -0.4, 0.0],
        "high": [0.8, 0.4, 0.5],
    },
    "ready": [{"topic": "running", "type": "std_msgs/Bool", "value": True, "max_age": 0.5}],
}


def robot(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """The file with other values at keys with dots."""
    content = yaml.safe_load(yaml.safe_dump(ROBOT))
    for key, value in (changes or {}).items():
        *way, last = key.split(".")
        section = content
        for name in way:
            section = section[name]
        section[last] = value
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


class Drivers:
    """An arm that is late by DEAD and LAG, its fingers and its cameras, in a thread and a context of their own."""

    def __init__(self, domain: int) -> None:
        self.context = Context()
        rclpy.init(args=[], context=self.context, domain_id=domain)
        self.node = Node("driver", context=self.context, use_global_arguments=False)
        self.pose = self.node.create_publisher(PoseStamped, "current_pose", topics.BEST_EFFORT_QOS)
        self.joints = self.node.create_publisher(JointState, "joint_states", 10)
        self.running = self.node.create_publisher(Bool, "running", 10)
        self.cameras = [self.node.create_publisher(Image, f"{name}/image_raw", 5) for name in ("scene", "wrist")]
        self.node.create_subscription(PoseStamped, "target_pose", self.on_target, topics.COMMAND_QOS)
        self.node.create_subscription(TwistStamped, "target_twist", lambda msg: None, 10)
        self.node.create_subscription(Float64MultiArray, "gripper/commands", self.on_gripper, 10)
        self.targets: deque[tuple[float, np.ndarray[Any, Any]]] = deque()
        self.received: list[np.ndarray[Any, Any]] = []
        self.goals: list[float] = []
        self.hand = HOME.copy()
        self.fingers, self.opening = 0.02, (0.0, 0.02)
        self.ahead = 0.0
        self.direction = 1.0
        self.silent_after = math.inf
        self.ready = True
        self.random = np.random.default_rng(0)
        self.drawn: dict[int, np.ndarray[Any, Any]] = {}
        self.time = self.now()
        self.next_picture = 0.0
        self.waiting: deque[tuple[float, Image]] = deque()
        self.node.create_timer(0.02, self.step)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self.executor.spin, daemon=True)
        self.thread.start()

    def now(self) -> float:
        return self.node.get_clock().now().nanoseconds / 1e9

    def on_target(self, msg: PoseStamped) -> None:
        stamp_ns, position, _ = messages.pose_from_msg(msg)
        self.received.append(position)
        self.targets.append((stamp_ns / 1e9, position + [0.0, 0.0, 0.1]))

    def on_gripper(self, msg: Float64MultiArray) -> None:
        self.goals.append(float(msg.data[0]))
        self.opening = self.now() + 0.1, self.goals[-1]

    def step(self) -> None:
        """In steps of their own, whenever this thread has its turn."""
        now = self.now()
        while self.time + 0.004 <= now:
            self.time += 0.004
            goal = next((at for sent, at in reversed(self.targets) if sent <= self.time - DEAD), None)
            if goal is not None:
                wanted = HOME + self.direction * (goal - HOME)
                self.hand = self.hand + (1 - math.exp(-0.004 / LAG)) * (wanted - self.hand)
            if self.time >= self.opening[0]:
                self.fingers += float(np.clip(self.opening[1] - self.fingers, -0.0004, 0.0004))
        stamp = round(1e9 * (self.time + self.ahead))
        self.running.publish(Bool(data=self.ready))
        if len(self.received) < self.silent_after:
            # The tool points up, the hand is 0.1 m above it.
            tool = self.hand - [0.0, 0.0, 0.1]
            self.pose.publish(messages.pose_to_msg(tool, [0.0, 0.0, 0.0, 1.0], stamp, "base"))
        sides = [self.fingers, self.fingers]
        self.joints.publish(messages.joint_state_to_msg(["left", "right"], sides, [0.0, 0.0], stamp))
        if now >= self.next_picture:
            self.next_picture = now + 0.04
            late = stamp + round(1e9 * PICTURE)
            place = round(1600.0 * (self.hand[1] - HOME[1]))
            if place not in self.drawn:
                self.drawn[place] = picture(place / 4, self.random)
            blank = np.full((24, 32, 3), 90, np.uint8)
            self.waiting.append((now + PICTURE, messages.image_to_msg(self.drawn[place], late, "camera")))
            self.cameras[1].publish(messages.image_to_msg(blank, late, "camera"))
        while self.waiting and self.waiting[0][0] <= now:
            self.cameras[0].publish(self.waiting.popleft()[1])

    def close(self) -> None:
        self.executor.shutdown()
        self.thread.join(10)
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.fixture
def drivers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Drivers and tool share a process and its cores with other tests: what is silent for a second is no fault."""
    monkeypatch.setattr(latency_probe, "_SILENT", 1.5)
    with ros_graph.own_domain() as domain:
        made = Drivers(domain)
        yield made
        made.close()


def run(path: Path, *more: str) -> int:
    return bringup.main(["latency", "--robot", str(path), "--seconds", "6", *more])


def table(text: str) -> dict[str, list[str]]:
    """By key: the rest of its line."""
    return {
        line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith(("action", "obs", "grip"))
    }


@pytest.mark.slow
def test_it_measures_what_the_drivers_do_and_writes_it(
    drivers: Drivers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = robot(tmp_path)
    before = path.read_text()
    assert run(path, "--yes", "--write", "--gripper") == 0, capsys.readouterr()
    out, err = capsys.readouterr()
    assert "It moves the hand by up to 20 mm to each side along y of base" in err and "opens, closes and opens" in err
    found = table(out)
    # What was sent holds for a period: half of one comes on top, and more on a machine with other work.
    dead, lag = (float(found[f"action.{name}"][1]) / 1000 for name in ("latency", "lag"))
    assert DEAD - 0.015 < dead < DEAD + 0.04 and LAG - 0.03 < lag < LAG + 0.03
    seen = float(found["observations.agentview_image.latency"][1]) / 1000
    assert PICTURE - 0.02 < seen < PICTURE + 0.02
    assert "nothing moves in them" in " ".join(found["observations.robot0_eye_in_hand_image.latency"])
    assert 0.08 < float(found["gripper.latency"][1]) / 1000 < 0.25
    assert drivers.goals == [0.04, 0.0, 0.04]
    # Sideways only, no farther than asked, and back.
    way = np.array(drivers.received) - [0.5, 0.1, 0.2]
    assert np.max(np.abs(way[:, 1])) < 0.0201 and np.max(np.abs(way[:, [0, 2]])) < 1e-3
    assert abs(way[-1, 1]) < 1e-3
    assert np.max(np.abs(np.diff(way[:, 1]))) < 0.5 * 0.06
    changed = robot_file.read(path)
    assert changed.action.latency == pytest.approx(dead, abs=6e-4)
    assert changed.action.lag == pytest.approx(lag, abs=6e-4)
    assert changed.pictures["agentview"].latency == pytest.approx(seen, abs=6e-4)
    assert changed.pictures["robot0_eye_in_hand"].latency == 0.0
    assert path.with_name("mine.yaml.bak").read_text() == before
    assert f"+  latency: {changed.action.latency:.3f}" in out and f"written: {path}" in out


def recording(motion: np.ndarray[Any, Any], ahead: float = 0.0) -> latency_probe.Recording:
    """As the probe makes one: MOTION along y is sent, the hand's (n) at HAND_TIMES comes with stamps that are ahead."""
    made = latency_probe.Recording(np.array([0.0, 1.0, 0.0]))
    made.command_stamps = [round(1e9 * at) for at in COMMAND_TIMES]
    made.commands = [HOME + [0.0, y, 0.0] for y in MOTION.positions(COMMAND_TIMES)]
    stamps = [round(1e9 * (at + ahead)) for at in HAND_TIMES]
    made.hand = latency_probe.Stream(stamps, [HOME + [0.0, y, 0.0] for y in motion], [0.001 - ahead] * len(stamps))
    fingers = [np.array([0.02, -0.02])] * len(stamps)
    made.numbers = {"robot0_gripper_qpos": latency_probe.Stream(stamps, fingers, made.hand.ages)}
    made.pictures = {"agentview": PictureMotion(), "robot0_eye_in_hand": PictureMotion()}
    return made


@pytest.mark.parametrize("ahead", [0.0, 0.7])
def test_stamps_that_are_ahead_are_no_latency_of_the_arm(ahead: float, tmp_path: Path) -> None:
    rows = latency.evaluate(robot_file.read(robot(tmp_path)), recording(arm(DEAD, LAG), ahead))
    found = {".".join(row.keys): row for row in rows}
    assert found["action.latency"].measured == pytest.approx(DEAD, abs=0.01)
    assert found["action.lag"].measured == pytest.approx(LAG, abs=0.02)
    for name in ("hand", "robot0_gripper_qpos"):
        value = found[f"observations.{name}.latency"].value
        assert value == (pytest.approx(ahead - 0.001, abs=1e-3) if ahead else None)


def test_a_hand_that_goes_the_other_way_is_no_latency(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "measure", lambda *_: recording(-arm(DEAD, LAG)))
    path = robot(tmp_path)
    before = path.read_text()
    assert run(path, "--yes", "--write") == 1
    out, err = capsys.readouterr()
    assert "the other way: base.rpy?" in out and "action.lag" not in out
    assert "nothing is written: the arm's own latency was not measured" in err
    assert path.read_text() == before


@pytest.mark.slow  # on the bus; what is made of such a recording is above
def test_a_clock_that_is_ahead_is_told_from_an_arm_that_is_late(
    drivers: Drivers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drivers.ahead = 0.7
    assert run(robot(tmp_path), "--yes") == 0, capsys.readouterr()
    found = table(capsys.readouterr().out)
    assert 0.65 < float(found["observations.hand.latency"][1]) / 1000 < 0.71
    assert 0.65 < float(found["observations.robot0_gripper_qpos.latency"][1]) / 1000 < 0.71
    assert DEAD - 0.03 < float(found["action.latency"][1]) / 1000 < DEAD + 0.05


@pytest.mark.slow  # on the bus; what is made of such a recording is above
def test_an_arm_that_goes_the_other_way_is_not_measured(
    drivers: Drivers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drivers.direction = -1.0
    path = robot(tmp_path, {"action.leash": [0.08, 0.3]})
    before = path.read_text()
    assert run(path, "--yes", "--write") == 1
    out, err = capsys.readouterr()
    assert "the other way: base.rpy?" in out
    assert "nothing is written: the arm's own latency was not measured" in err
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("wrong", "changes", "expected"),
    [
        pytest.param({"ready": False}, {}, "not moved: running: false, true expected", id="not ready"),
        pytest.param({}, {"action.topic": "nobody"}, "not moved: nobody: nobody listens, the driver crisp", id="deaf"),
        pytest.param({"silent_after": 0}, {}, "not moved: current_pose: nothing received", id="silent"),
        pytest.param({}, {"limits.low": [0.3, -0.4, 0.4]}, "m, inside the limits [0.3, -0.4, 0.4] to", id="box"),
        pytest.param(
            {"silent_after": 100}, {}, "the arm holds, nothing was measured: current_pose: silent for ", id="falls"
        ),
        pytest.param(
            {"direction": -1.0},
            {"action.leash": [0.01, 0.3]},
            "m from its target, at most 0.01 m expected (leash)",
            id="leash",
        ),
    ],
)
def test_what_is_wrong_ends_it(
    drivers: Drivers,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    wrong: dict[str, Any],
    changes: dict[str, Any],
    expected: str,
) -> None:
    monkeypatch.setattr(latency, "_WAIT", 2.5)
    vars(drivers).update(wrong)
    assert run(robot(tmp_path, changes), "--yes") == 1
    assert expected in capsys.readouterr().err
    if "holds" not in expected and "leash" not in expected:
        assert not drivers.received
        return
    # It has braked: its last words are one place.
    assert drivers.received[-1] == pytest.approx(drivers.received[-2], abs=1e-3)


def test_another_commander_ends_it_even_if_it_is_silent(
    drivers: Drivers, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "_WAIT", 2.5)
    other = Node("executor", context=drivers.context, use_global_arguments=False)
    other.create_publisher(PoseStamped, "target_pose", 1)
    assert run(robot(tmp_path), "--yes") == 1
    assert "target_pose: /executor publishes there too, no other commander expected" in capsys.readouterr().err
    assert not drivers.received
    other.destroy_node()


def test_ctrl_c_brakes(drivers: Drivers, tmp_path: Path) -> None:
    request = latency.parse(["--robot", str(robot(tmp_path)), "--seconds", "6", "--yes"])
    with pytest.raises(latency.Refused, match="the arm holds, nothing was measured: stopped by a signal"):
        latency.measure(request, lambda text, meanwhile: True, lambda: len(drivers.received) > 60)
    steps = np.abs(np.diff(np.array(drivers.received)[:, 1]))
    assert steps[-1] < 1e-3 and len(drivers.received) < 200


# -- asking -----------------------------------------------------------------------------------------------------------


def test_without_a_terminal_it_wants_yes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(robot(tmp_path)) == 2
    assert "--yes expected where there is no terminal to ask on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "agreed"), [("y", True), ("yes", True), ("n", False), ("", False), ("yellow", False)]
)
def test_only_yes_is_yes(answer: str, agreed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    keyboard, terminal = pty.openpty()
    with os.fdopen(terminal) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        os.write(keyboard, f"{answer}\n".encode())
        assert latency._asked(lambda: None, lambda: False) is agreed
        assert latency._asked(lambda: None, lambda: True) is False  # a signal
    os.close(keyboard)


def test_a_no_moves_nothing(drivers: Drivers, tmp_path: Path) -> None:
    said: list[str] = []

    def no(text: str, meanwhile: Any) -> bool:
        said.append(text)
        return False

    request = latency.parse(["--robot", str(robot(tmp_path)), "--yes"])
    with pytest.raises(latency.Refused, match="not moved: it was not agreed to"):
        latency.measure(request, no, lambda: False)
    assert "for 12 s, at 0.09 m/s at most, and back" in said[0] and not drivers.received


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--amplitude", "0.2"], "--amplitude 0.2: expected 0.005 to 0.05"),
        (["--amplitude", "much"], "--amplitude 'much': expected a number"),
        (["--seconds", "2"], "--seconds 2: expected 6 to 60"),
        (["--domain-id", "233"], "ROS_DOMAIN_ID '233': expected 0 to 232"),
        (["--namespace", "a b"], "--namespace 'a b': expected names"),
        (["--robot", "nobody"], "robot 'nobody': expected a YAML file, or one of"),
        (["--robot", "ur_jtc", "--write"], "ur_jtc.yaml: comes with the package; copy it to a file of your own"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], expected: str, tmp_path: Path) -> None:
    given = ["--yes", *arguments]
    if "--robot" not in arguments:
        given = ["--robot", str(robot(tmp_path)), *given]
    with pytest.raises(UsageError) as error:
        latency.parse(given)
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_limits_and_a_gripper_are_asked_of_the_file(tmp_path: Path) -> None:
    slow = robot(tmp_path, {"limits.linear": 0.005})
    with pytest.raises(UsageError, match=r"mine.yaml: limits: 0.005 m/s .* 5 mm at least expected"):
        latency.parse(["--robot", str(slow), "--yes"])
    content = yaml.safe_load(robot(tmp_path).read_text())
    del content["gripper"]
    slow.write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match=r"gripper: missing, expected for --gripper"):
        latency.parse(["--robot", str(slow), "--yes", "--gripper"])


def test_help_lists_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bringup.main(["--help"])
    assert "latency" in capsys.readouterr().out
