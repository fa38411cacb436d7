"""The Franka's driver against an arm of the tests: what is published, what is refused, and that nothing moves after a
fault until a person says so. tests/test_franka.py has the real protocol."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_franka import DOWN, HOME, FakeFranka, FakeHand
from geometry_msgs.msg import PoseStamped
from rclpy.action.server import GoalResponse
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros_graph import Graph, graph
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float64MultiArray
from std_srvs.srv import Trigger

from diffusion_ros import franka_arm
from diffusion_ros.franka_arm import Franka
from diffusion_ros.franka_hand import Hand, HandLimits
from diffusion_ros.nodes.franka_driver_node import FrankaDriverNode
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.diagnostics import ERROR, OK, WARN
from diffusion_ros.ros.params import ParameterError


class Bench:
    """The driver, its arm, and a client that publishes targets."""

    def __init__(self, ros: Graph, **parameters: Any) -> None:
        self.ros, self.arm = ros, FakeFranka()
        overrides = [Parameter(k, value=v) for k, v in {"host": "10.0.0.1", **parameters}.items()]
        self.driver = ros.add(FrankaDriverNode(overrides, self.arm.connect))
        self.client = ros.add(Node("client"))
        self.targets = self.client.create_publisher(PoseStamped, topics.TARGET_POSE, topics.COMMAND_QOS)
        self.widths = self.client.create_publisher(Float64MultiArray, topics.GRIPPER_COMMANDS, topics.COMMAND_QOS)
        ros.spin_until(lambda: self.driver.franka.ready and self.targets.get_subscription_count())

    def target(self, offset: Any = (0, 0, 0), turn: Any = (0, 0, 0), frame: str = "base", age: float = 0.0) -> Any:
        """A target so far from home."""
        quaternion = (Rotation.from_rotvec(turn) * Rotation.from_quat(DOWN)).as_quat()
        stamp = self.client.get_clock().now().nanoseconds - round(1e9 * age)
        return messages.pose_to_msg(HOME + offset, quaternion, stamp, frame)

    def send(self, msg: Any, done: Callable[[], Any]) -> Any:
        """Publishes a target until something is so: one may be lost before it is heard."""

        def step() -> Any:
            msg.header.stamp = self.client.get_clock().now().to_msg()
            self.targets.publish(msg)
            self.ros.spin(0.02)
            return done()

        return self.ros.spin_until(step)

    def at(self, offset: Any) -> Callable[[], bool]:
        return lambda: bool(np.allclose(self.arm.now.position, HOME + np.asarray(offset)))

    def call(self, name: str) -> Trigger.Response:
        return self.ros.call(self.client, Trigger, f"franka_driver/{name}", Trigger.Request())

    @property
    def said(self) -> str:
        self.driver._refresh()
        return str(self.driver.diagnostics.summary)

    @property
    def level(self) -> int:
        self.driver._refresh()
        return int(self.driver.diagnostics.level)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with graph() as ros:
        yield Bench(ros)


def test_what_the_arm_says(bench: Bench) -> None:
    poses: list[PoseStamped] = []
    states: list[JointState] = []
    bench.client.create_subscription(PoseStamped, topics.CURRENT_POSE, poses.append, 5)
    bench.client.create_subscription(JointState, topics.JOINT_STATES, states.append, 5)
    bench.arm.now = replace(bench.arm.now, velocities=np.arange(7) / 10)
    # What was read of the arm before may still come.
    bench.ros.spin_until(lambda: poses and states and len(states[-1].name) == 9 and states[-1].velocity[6] > 0)
    _, position, quaternion = messages.pose_from_msg(poses[-1])
    assert poses[-1].header.frame_id == "base"
    np.testing.assert_allclose(position, HOME)
    np.testing.assert_allclose(quaternion, DOWN)
    names = [*(f"fr3_joint{i}" for i in range(1, 8)), "fr3_finger_joint1", "fr3_finger_joint2"]
    assert list(states[-1].name) == names
    np.testing.assert_allclose(states[-1].position, [*np.linspace(-0.3, 0.3, 7), 0.04, 0.04])
    np.testing.assert_allclose(states[-1].velocity, [*np.arange(7) / 10, 0, 0], atol=1e-9)


def test_ready_is_latched_and_the_arm_stands_until_there_is_a_target(bench: Bench) -> None:
    heard: list[bool] = []
    bench.client.create_subscription(
        Bool, "franka_driver/ready", lambda msg: heard.append(msg.data), topics.DESCRIPTION_QOS
    )
    bench.ros.spin_until(lambda: heard[-1:] == [True])
    assert bench.level == WARN and bench.said == "standing: no target_pose"
    assert bench.arm.begun == 0
    bench.send(bench.target((0, 0.02, 0)), bench.at((0, 0.02, 0)))
    assert bench.level == OK and bench.said == "following targets"


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"offset": (0.16, 0, 0)}, "0.160 m from the hand, at most 0.15 m expected"),
        ({"turn": (0, 0, 0.9)}, "0.90 rad from the hand, at most 0.8 rad expected"),
        ({"offset": (math.nan, 0, 0)}, "finite numbers expected"),
        ({"frame": "world"}, "frame 'world', 'base' expected"),
        ({"age": 0.5}, "s old, at most 0.2 s before or after now expected"),
        ({"age": -0.5}, "s old, at most 0.2 s before or after now expected"),
        ({"age": 1e9}, "s old, at most 0.2 s before or after now expected"),
    ],
)
def test_a_target_that_is_refused_moves_nothing(bench: Bench, wrong: dict[str, Any], rule: str) -> None:
    def refused() -> bool:
        bench.targets.publish(bench.target(**wrong))
        bench.ros.spin(0.02)
        return "target_pose refused" in bench.said

    bench.ros.spin_until(refused)
    assert bench.level == ERROR and rule in bench.said and "\n" not in bench.said
    assert bench.arm.begun == 0 and not bench.arm.moves
    # Within the rules it moves, and the complaint is gone.
    bench.send(bench.target((0.14, 0, 0), (0, 0, 0.7)), bench.at((0.14, 0, 0)))
    assert bench.level == OK


def test_a_quaternion_that_is_none_is_refused(bench: Bench) -> None:
    msg = bench.target()
    msg.pose.orientation.w = 1.0
    bench.send(msg, lambda: "unit length expected" in bench.said)
    assert not bench.arm.moves


def test_the_last_target_stays_while_others_are_refused(bench: Bench) -> None:
    bench.send(bench.target((0, 0.05, 0)), bench.at((0, 0.05, 0)))
    bench.send(bench.target((0.3, 0, 0)), lambda: "target_pose refused" in bench.said)
    assert bench.at((0, 0.05, 0))()


def test_a_second_publisher_is_refused(bench: Bench) -> None:
    bench.send(bench.target(), lambda: bench.arm.moves)
    other = bench.ros.add(Node("other")).create_publisher(PoseStamped, topics.TARGET_POSE, topics.COMMAND_QOS)

    def both() -> bool:
        other.publish(bench.target((0, 0.1, 0)))
        bench.targets.publish(bench.target())
        bench.ros.spin(0.02)
        return "2 publishers on /target_pose, one expected" in bench.said

    bench.ros.spin_until(both)
    before = len(bench.arm.moves)
    other.publish(bench.target((0, 0.1, 0)))
    bench.ros.spin(0.1)
    assert len(bench.arm.moves) == before


def test_silence_ends_a_motion_and_a_target_begins_the_next() -> None:
    with graph() as ros:
        bench = Bench(ros, silence=0.2)
        bench.send(bench.target((0, 0.05, 0)), bench.at((0, 0.05, 0)))
        ros.spin_until(lambda: bench.arm.ended == 1 and not bench.driver.franka.moving)
        assert bench.at((0, 0.05, 0))() and bench.driver.franka.ready
        bench.send(bench.target((0, 0.06, 0)), bench.at((0, 0.06, 0)))
        assert bench.arm.begun == 2


def test_after_a_reflex_nothing_moves_until_a_person_asks(bench: Bench) -> None:
    bench.send(bench.target((0, 0.05, 0)), bench.at((0, 0.05, 0)))
    bench.arm.reflex("cartesian_reflex")
    bench.ros.spin_until(lambda: bench.level == ERROR)
    bench.ros.spin(0.1)
    assert "reflex" in bench.said and "~/recover" in bench.said
    before = len(bench.arm.moves), bench.arm.begun
    for _ in range(10):
        bench.targets.publish(bench.target((0, 0.07, 0)))
        bench.ros.spin(0.02)
    assert (len(bench.arm.moves), bench.arm.begun, bench.arm.recovered) == (*before, 0)
    assert bench.at((0, 0.05, 0))()

    answer = bench.call("recover")
    assert answer.success and bench.arm.recovered == 1
    # An old target is not taken up again.
    bench.ros.spin(0.1)
    assert bench.arm.begun == before[1]
    bench.send(bench.target((0, 0.08, 0)), bench.at((0, 0.08, 0)))


def test_an_arm_that_cannot_be_recovered_says_so(bench: Bench) -> None:
    bench.arm.locked = True
    bench.arm.now = replace(bench.arm.now, mode="user_stopped")
    bench.ros.spin_until(lambda: not bench.driver.franka.ready)
    answer = bench.call("recover")
    assert not answer.success and answer.message == "the arm's user stop is pressed; not lifted"
    # Released, it does not move by itself either.
    bench.arm.now = replace(bench.arm.now, mode="idle")
    bench.ros.spin(0.1)
    bench.targets.publish(bench.target((0, 0.05, 0)))
    bench.ros.spin(0.1)
    assert not bench.arm.moves and "user stop" in bench.said
    assert bench.call("recover").success


@pytest.mark.parametrize("fault", ["aborts", "refuses"])
def test_a_motion_that_ends_or_cannot_begin_is_a_fault(bench: Bench, fault: str) -> None:
    if fault == "aborts":
        bench.send(bench.target(), lambda: bench.arm.moves)
    setattr(bench.arm, fault, "strayed further than max_deviation")
    bench.send(bench.target(), lambda: bench.driver.franka.blocked)
    assert "strayed further than max_deviation" in bench.said
    begun = bench.arm.begun
    bench.targets.publish(bench.target())
    bench.ros.spin(0.1)
    assert bench.arm.begun == begun and not bench.driver.franka.moving


def test_stop_brakes_where_the_arm_is(bench: Bench) -> None:
    bench.send(bench.target((0, 0.05, 0)), bench.at((0, 0.05, 0)))
    assert bench.call("stop").success
    bench.ros.spin_until(lambda: bench.arm.ended == 1)
    np.testing.assert_allclose(bench.arm.moves[-1][0], HOME + [0, 0.05, 0])
    assert bench.said.startswith("stopped by ~/stop")
    bench.targets.publish(bench.target((0, 0.06, 0)))
    bench.ros.spin(0.1)
    assert bench.arm.begun == 1
    assert bench.call("recover").success
    assert bench.arm.recovered == 0, "there was no reflex to recover from"
    bench.send(bench.target((0, 0.06, 0)), bench.at((0, 0.06, 0)))


def test_a_connection_that_was_lost_comes_back_but_does_not_move(bench: Bench) -> None:
    bench.arm.gone = "network: timeout"
    bench.ros.spin_until(lambda: bench.driver.franka.problem)
    assert not bench.call("recover").success
    bench.arm.gone = ""
    bench.ros.spin_until(lambda: not bench.driver.franka.problem)
    assert bench.said.startswith("the connection was lost: network: timeout")
    bench.targets.publish(bench.target())
    bench.ros.spin(0.1)
    assert bench.arm.begun == 0
    assert bench.call("recover").success
    bench.send(bench.target(), lambda: bench.arm.moves)


def test_an_arm_that_is_not_there_is_said_in_one_line() -> None:
    with graph() as ros:
        arm = FakeFranka()
        arm.gone = "Connection to FCI refused."
        driver = ros.add(FrankaDriverNode([Parameter("host", value="10.0.0.1")], arm.connect))
        ros.spin_until(lambda: driver.franka.problem == arm.gone)
        driver._refresh()
        assert (driver.diagnostics.level, driver.diagnostics.summary) == (ERROR, "no arm: Connection to FCI refused.")


def test_the_hand_follows_widths_one_after_the_other(bench: Bench) -> None:
    fingers = bench.arm.fingers
    bench.ros.spin_until(lambda: bench.widths.get_subscription_count() and bench.driver.hand.state is not None)
    fingers.held = True
    bench.widths.publish(messages.gripper_width_to_msg(0.0))
    bench.ros.spin_until(lambda: fingers.calls == [("grasp", 0.0)])
    for width in (0.0, 0.03, 0.05):
        bench.widths.publish(messages.gripper_width_to_msg(width))
        bench.ros.spin(0.05)
    assert fingers.calls == [("grasp", 0.0)], "one goal at a time"
    fingers.held = False
    bench.ros.spin_until(lambda: fingers.at == 0.05)
    assert fingers.calls == [("grasp", 0.0), ("move", 0.05)], "only the newest of those that waited"


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        ([0.1], "width 0.1 m, 0 to 0.08 m expected"),
        ([math.nan], "width nan m, 0 to 0.08 m expected"),
        ([0.02, 0.02], "2 numbers, one expected"),
    ],
)
def test_a_width_that_is_refused(bench: Bench, data: list[float], rule: str) -> None:
    def refused() -> bool:
        bench.widths.publish(Float64MultiArray(data=data))
        bench.ros.spin(0.02)
        return "gripper/commands refused" in bench.said

    bench.ros.spin_until(refused)
    assert rule in bench.said and not bench.arm.fingers.calls


def test_a_goal_of_the_hands_action_is_half_the_width(bench: Bench) -> None:
    """control_msgs is no wheel: the callbacks are called as rclpy's action server calls them."""
    driver, fingers = bench.driver, bench.arm.fingers
    bench.ros.spin_until(lambda: driver.hand.state is not None)

    def request(position: float) -> Any:
        return SimpleNamespace(command=SimpleNamespace(position=position, max_effort=20.0))

    ended: list[Any] = []
    goal = SimpleNamespace(request=request(0.015), execute=lambda: ended.append("executed"))
    assert driver._on_goal(request(0.05)) == GoalResponse.REJECT
    assert "width 0.1 m, 0 to 0.08 m expected" in bench.said
    assert driver._on_goal(goal.request) == GoalResponse.ACCEPT
    fingers.held = True
    driver._on_accepted(goal)
    assert driver._on_goal(request(0.0)) == GoalResponse.REJECT, "one goal at a time"
    bench.ros.spin_until(lambda: fingers.calls == [("move", 0.03)])
    assert not ended
    fingers.held = False
    bench.ros.spin_until(lambda: ended)
    driver._action = SimpleNamespace(_action_type=SimpleNamespace(Result=SimpleNamespace))
    verdicts: list[str] = []
    goal = SimpleNamespace(
        is_cancel_requested=False, succeed=lambda: verdicts.append("yes"), abort=lambda: verdicts.append("no")
    )
    bench.ros.spin_until(lambda: driver.hand.state.width == pytest.approx(0.03))
    result = driver._finish(goal)
    assert verdicts == ["yes"] and result.reached_goal and result.position == pytest.approx(0.015)


def test_a_hand_that_fails_is_tried_again_when_asked_again() -> None:
    fingers = FakeHand()
    hand = Hand(lambda: fingers, HandLimits())
    hand.start()
    try:
        fingers.fails = "command aborted"
        end = time.monotonic() + 30
        while not hand.result and time.monotonic() < end:
            hand.move(0.0)
            time.sleep(0.01)
        assert hand.result in ("command aborted", "no connection to the hand: not connected yet")
        fingers.fails = ""
        while fingers.at != 0.0 and time.monotonic() < end:
            hand.move(0.0)
            time.sleep(0.01)
        assert fingers.at == 0.0
    finally:
        hand.close()


@contextmanager
def franka(arm: FakeFranka, **options: Any) -> Iterator[Franka]:
    """Without ROS, connected."""
    made = Franka(arm.connect, **options)
    made.start()
    try:
        until(lambda: made.ready)
        yield made
    finally:
        made.close()


@contextmanager
def hand(fingers: FakeHand) -> Iterator[Hand]:
    """Likewise, the hand."""
    made = Hand(lambda: fingers, HandLimits())
    made.start()
    try:
        until(lambda: made.state is not None)
        yield made
    finally:
        fingers.held = fingers.late = False
        made.close()


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


class Held:
    """A call that waits to be let go."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call, self.begun, self.let_go = call, threading.Event(), threading.Event()

    def __call__(self) -> Any:
        self.begun.set()
        assert self.let_go.wait(30)
        return self._call()


def recovered(made: Franka) -> str:
    """What becomes of a person's wish."""
    asked = made.ask_to_recover()
    until(lambda: made.answer_to(asked) is not None)
    return str(made.answer_to(asked))


def test_a_stop_is_heard_while_the_arm_recovers(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    call = Held(bench.arm.recover)
    monkeypatch.setattr(bench.arm, "recover", call)
    bench.arm.reflex("cartesian_reflex")
    bench.ros.spin_until(lambda: bench.driver.franka.blocked)
    person = bench.client.create_client(Trigger, "franka_driver/recover")
    bench.ros.spin_until(person.service_is_ready)
    answer = person.call_async(Trigger.Request())
    bench.ros.spin_until(call.begun.is_set)
    try:
        assert bench.call("stop").success and not call.let_go.is_set()
        bench.ros.spin_until(answer.done)
        assert answer.result().message == "not recovered: stopped by ~/stop"
    finally:
        call.let_go.set()
    bench.ros.spin_until(lambda: bench.driver.franka.state.mode == "idle")
    assert bench.driver.franka.blocked and not bench.driver.franka.ready


@pytest.mark.parametrize("held", ["connect", "recover"])
def test_a_recovery_that_was_given_up_lifts_nothing_later(held: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it still waited for the connection, or the arm was about it."""
    monkeypatch.setattr(franka_arm, "_REQUEST_SECONDS", 0.2)
    monkeypatch.setattr(franka_arm, "_RETRY_SECONDS", 0.01)
    arm = FakeFranka()
    call = Held(getattr(arm, held))
    made = Franka(lambda: arm.connect())
    made.start()
    try:
        until(lambda: made.ready)
        monkeypatch.setattr(arm, held, call)
        if held == "connect":
            arm.gone = "the cable is out"
            assert call.begun.wait(30)
            arm.gone = ""
        else:
            arm.reflex("cartesian_reflex")
            until(lambda: made.blocked)
        blocked = made.blocked
        assert recovered(made) == "no answer from the arm within 0.2 s; nothing is lifted"
        assert call.begun.is_set()
        call.let_go.set()
        until(lambda: made.state is not None and made.state.mode == "idle" and not made.problem)
        came = made.state.time
        until(lambda: made.state.time > came + 0.1)
        assert made.blocked == blocked and not made.ready
        made.target(HOME, DOWN)
        assert recovered(made) == "" and made.ready
        assert arm.begun == 0
    finally:
        call.let_go.set()
        made.close()


def test_a_stop_outlasts_a_recovery_that_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    arm = FakeFranka()
    call = Held(arm.recover)
    monkeypatch.setattr(arm, "recover", call)
    with franka(arm) as made:
        arm.reflex("cartesian_reflex")
        until(lambda: made.blocked)
        asked = made.ask_to_recover()
        assert call.begun.wait(30)
        made.stop("stopped by somebody else")
        assert made.answer_to(asked) == "not recovered: stopped by somebody else"
        call.let_go.set()
        until(lambda: made.state.mode == "idle")
        came = made.state.time
        until(lambda: made.state.time > came + 0.1)
        assert made.blocked and not made.ready


def test_a_stop_while_a_motion_begins_brakes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    arm = FakeFranka()
    with franka(arm, silence=60.0) as made:
        call = Held(arm.begin)
        monkeypatch.setattr(arm, "begin", call)
        made.target(HOME + [0, 0.05, 0], DOWN)
        assert call.begun.wait(30)
        made.stop("stopped by a test")
        call.let_go.set()
        until(lambda: arm.ended == 1 and not made.moving)
        assert [position.tolist() for position, _ in arm.moves] == [HOME.tolist()], "it braked where it was"


@pytest.mark.parametrize("stop", [False, True])
def test_a_target_while_a_motion_ends_is_for_the_next(stop: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """franka-rs goes to the last target before it ends, and a stop could not keep it from that."""
    arm = FakeFranka()
    with franka(arm, silence=0.1) as made:
        call = Held(arm.end)
        monkeypatch.setattr(arm, "end", call)
        made.target(HOME + [0, 0.01, 0], DOWN)
        assert call.begun.wait(30)
        moves = len(arm.moves)
        until(lambda: made.ready)
        made.target(HOME + [0, 0.1, 0], DOWN)
        assert len(arm.moves) == moves
        if stop:
            made.stop("stopped by a test")
        call.let_go.set()
        until(lambda: arm.ended == 1)
        if stop:
            came = arm.now.time
            until(lambda: arm.now.time > came + 0.1)
            assert len(arm.moves) == moves and arm.begun == 1
        else:
            until(lambda: arm.begun == 2 and len(arm.moves) > moves)
            np.testing.assert_allclose(arm.moves[-1][0], HOME + [0, 0.1, 0])


def test_stop_drops_the_width_that_waits_and_stops_the_fingers(bench: Bench) -> None:
    fingers = bench.arm.fingers
    bench.ros.spin_until(lambda: bench.widths.get_subscription_count() and bench.driver.hand.state is not None)
    fingers.held = True
    bench.widths.publish(messages.gripper_width_to_msg(0.0))
    bench.ros.spin_until(lambda: fingers.calls == [("grasp", 0.0)])
    bench.widths.publish(messages.gripper_width_to_msg(0.05))
    bench.ros.spin_until(lambda: bench.driver.hand._goal == 0.05)
    assert bench.call("stop").success
    bench.ros.spin_until(lambda: not bench.driver.hand.busy)
    assert fingers.held and fingers.at == 0.08, "they did not wait for the end of the way"
    assert bench.driver.hand.result == "stopped by ~/stop"
    fingers.held = False
    assert bench.call("recover").success
    bench.ros.spin(0.1)
    assert [name for name, _ in fingers.calls if name != "stop"] == ["grasp"]
    # The same width, asked for again, is a new goal.
    bench.widths.publish(messages.gripper_width_to_msg(0.0))
    bench.ros.spin_until(lambda: fingers.at == 0.0)


@pytest.mark.parametrize("recovered", [False, True])
def test_a_width_that_waits_is_not_for_after_a_reflex(bench: Bench, recovered: bool) -> None:
    """The fingers come to the end of their way, and that is all."""
    driver, fingers = bench.driver, bench.arm.fingers
    bench.ros.spin_until(lambda: driver.hand.state is not None)
    fingers.held = True
    driver.hand.move(0.03)
    until(lambda: fingers.calls == [("move", 0.03)])
    verdicts: list[str] = []
    goal = SimpleNamespace(
        request=SimpleNamespace(command=SimpleNamespace(position=0.025, max_effort=20.0)),
        is_cancel_requested=False,
        execute=lambda: verdicts.append("executed"),
        succeed=lambda: verdicts.append("yes"),
        abort=lambda: verdicts.append("no"),
    )
    driver._on_accepted(goal)
    bench.arm.reflex("cartesian_reflex")
    bench.ros.spin_until(lambda: driver.franka.blocked)
    if recovered:
        assert bench.call("recover").success
    fingers.held = False
    bench.ros.spin_until(lambda: verdicts)
    assert fingers.calls == [("move", 0.03)] and fingers.at == 0.03
    driver._action = SimpleNamespace(_action_type=SimpleNamespace(Result=SimpleNamespace))
    assert not driver._finish(goal).reached_goal and verdicts == ["executed", "no"]
    assert "reflex" in driver.hand.result


def test_a_stop_that_overtakes_a_goal_on_its_way_to_the_hand() -> None:
    fingers = FakeHand()
    with hand(fingers) as made:
        fingers.late = fingers.held = True
        made.move(0.03)
        until(lambda: made._busy)
        made.stop("stopped by a test")
        until(lambda: ("stop", 0.08) in fingers.calls)
        fingers.late = False
        until(lambda: not made.busy)
        assert fingers.at == 0.08 and made.result == "stopped"


def test_a_hand_that_holds_something_is_not_told_to_stop(bench: Bench) -> None:
    """It would let go."""
    fingers = bench.arm.fingers
    bench.ros.spin_until(lambda: bench.driver.hand.state is not None)
    bench.driver.hand.move(0.0)
    bench.ros.spin_until(lambda: fingers.at == 0.0 and not bench.driver.hand.busy)
    assert bench.call("stop").success
    bench.ros.spin(0.1)
    assert fingers.calls == [("grasp", 0.0)]


def test_a_connection_to_the_hand_may_go_at_any_moment() -> None:
    """It is another thread that takes it away: here, each time it has been looked at."""

    class Flickering(Hand):
        @property
        def _connection(self) -> Any:
            connection, self._kept = self._kept, None
            return connection

        @_connection.setter
        def _connection(self, connection: Any) -> None:
            self._kept = connection

    fingers = FakeHand()
    made = Flickering(lambda: fingers, HandLimits())
    made._connection = fingers
    assert made._command(lambda connection: connection.move(0.03, 0.1)) == ""
    assert fingers.at == 0.03
    assert made._command(lambda connection: connection.move(0.05, 0.1)).startswith("no connection to the hand")


def test_the_arm_stands_before_the_fingers_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with graph() as ros:
        bench = Bench(ros)
        ended: list[int] = []
        close = bench.driver.hand.close

        def close_hand() -> None:
            ended.append(bench.arm.ended)
            close()

        monkeypatch.setattr(bench.driver.hand, "close", close_hand)
        bench.send(bench.target((0, 0.05, 0)), bench.at((0, 0.05, 0)))
        ros.remove(bench.driver)
        assert ended == [1]


def test_parameters_are_needed() -> None:
    with graph() as ros:
        with pytest.raises(ParameterError, match="parameter host is required"):
            ros.add(FrankaDriverNode())
        with pytest.raises(ValueError, match="parameter host is ''"):
            ros.add(FrankaDriverNode([Parameter("host", value="")]))
