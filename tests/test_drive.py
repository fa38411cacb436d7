"""The scripted expert at a gamepad: what it presses means what it wants, and it drives when it is its turn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import Joy

from diffusion_ros import robot_file
from diffusion_ros.control.observation import Frame
from diffusion_ros.control.teleoperation import Gamepad
from diffusion_ros.robot import ACTION_SCALE, HAND_DOWN
from diffusion_ros.robot_file import Teleop
from diffusion_ros.simulators.arm import Simulation
from training.data.experts import POINTING_DOWN, ExpertView
from training.data.gamepad import Driver, Sticks, view_of
from training.data.gamepad_node import GamepadHands
from training.drive import Options

ROOT = Path(__file__).resolve().parents[1]
PRACTICE = robot_file.read(ROOT / "examples/practice_robot.yaml")
STEP_NS = 50_000_000


def practice() -> Teleop:
    assert PRACTICE.teleop is not None
    return PRACTICE.teleop


@pytest.mark.parametrize(("dead_zone", "expo", "factor"), [(0.0, 0.0, 1.0), (0.1, 0.3, 1.0), (0.2, 1.0, -0.5)])
def test_the_teleop_node_reads_from_the_sticks_what_the_expert_wants(
    dead_zone: float, expo: float, factor: float
) -> None:
    axes = {name: (number, factor) for name, (number, _) in practice().axes.items()}
    teleop = replace(practice(), dead_zone=dead_zone, expo=expo, axes=axes)
    gamepad, sticks = Gamepad(teleop), Sticks(teleop, 0.5)
    gamepad.heard(*sticks.rest(), 0.0)
    assert gamepad.asked(0.0) is None
    row = np.array([0.05, -0.02, 0.0, 0.1, -0.5, 0.01, 1.0])
    gamepad.heard(*sticks.held(row, np.zeros(6)), 0.05)
    asked = gamepad.asked(0.05)
    assert asked is not None and asked.grip == "close"
    most = abs(factor)
    expected = np.clip(0.5 * row[:6] / ACTION_SCALE[:6], -most, most) * np.repeat([teleop.linear, teleop.angular], 3)
    np.testing.assert_allclose(asked.twist, expected, atol=1e-9)
    gamepad.heard(*sticks.held(row, np.zeros(6)), 0.1)
    assert gamepad.asked(0.1).grip == "", "pressed once"
    gamepad.heard(*sticks.held(-row, np.zeros(6)), 0.15)
    assert gamepad.asked(0.15).grip == "open"


@pytest.mark.parametrize(
    ("changes", "lacks"),
    [({"axes": {"x": (0, 1.0)}}, "axes y, z, rx, ry, rz"), ({"open": None}, "buttons"), ({"type": "twist"}, "twist")],
)
def test_a_gamepad_that_cannot_say_it_all_is_refused(changes: dict, lacks: str) -> None:
    with pytest.raises(ValueError, match=lacks):
        Sticks(replace(practice(), **changes), 0.5)


class Clocked:
    """A node of a gamepad, and what it said."""

    def __init__(self) -> None:
        self.now, self.said = 0.0, []

    def create_publisher(self, *_: object) -> Clocked:
        return self

    def publish(self, msg: Joy) -> None:
        self.said.append(bool(msg.buttons[practice().dead_man]))

    def seconds(self) -> float:
        return self.now

    def now_ns(self) -> int:
        return round(1e9 * self.now)


def test_the_experts_dead_man_is_seen_up_after_a_silence() -> None:
    node = Clocked()
    hands = GamepadHands(node, "/joy", Sticks(practice(), 0.5))
    for node.now in (1.0, 1.05, 1.1, 1.5, 1.55):
        hands.hold(np.zeros(7), np.zeros(6))
    assert node.said == [False, True, True, True, False, True, True]


def frame(step: int, can: Simulation) -> Frame:
    return Frame(step * STEP_NS, can.observe(images=False))


def test_it_sees_what_the_simulators_expert_sees() -> None:
    can = Simulation("can", ())
    theirs, mine = ExpertView.of(can), view_of(can.observe(images=False))
    np.testing.assert_allclose(mine.hand_rotation, theirs.hand_rotation, atol=1e-6)
    for name in ("hand", "object", "object_rotation", "width"):
        np.testing.assert_allclose(getattr(mine, name), getattr(theirs, name))
    down = view_of({**can.observe(images=False), "robot0_eef_quat": np.array(HAND_DOWN)})
    np.testing.assert_allclose(down.hand_rotation, POINTING_DOWN, atol=1e-9)
    assert Rotation.from_matrix(down.hand_rotation).magnitude() == pytest.approx(np.pi)


def test_it_drives_from_the_beginning_or_when_it_takes_over() -> None:
    can = Simulation("can", ())
    always, later = (Driver("can", seconds, 0.0, 0) for seconds in (0.0, 0.2))
    turns = []
    for step in range(8):
        now = frame(step, can)
        assert always.step(now, 0.05 * step) is not None
        assert always.step(Frame(now.stamp_ns + 10_000_000, now.values), 0.05 * step + 0.01) is None, "once a step"
        turns.append(later.step(now, 0.05 * step) is not None)
    assert turns == [False] * 4 + [True] * 4
    # Another episode begins anew; the same said again does not.
    assert later.episode(1, True) and not later.episode(1, True)
    assert later.step(frame(100, can), 5.0) is None
    assert always.episode(0, True) and always.episode(0, False)


def test_noise_is_on_the_sticks_and_its_seed_decides_it() -> None:
    can = Simulation("can", ())
    said = [Driver("can", 0.0, 0.5, seed).step(frame(0, can), 0.0) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(said[0][1], said[1][1])
    assert np.any(said[0][1]) and not np.array_equal(said[0][1], said[2][1])
    row = np.zeros(7)
    axes, _ = Sticks(practice(), 1.0).held(row, np.full(6, 3.0))
    assert max(axes) == 1.0, "no stick goes further"


@pytest.mark.parametrize(
    ("changes", "rule"), [({"gain": 3.0}, "gain 3"), ({"noise": 2.0}, "noise 2"), ({"domain_id": 999}, "domain_id 999")]
)
def test_bad_options(changes: dict, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        Options(robot=Path("x"), **changes)
