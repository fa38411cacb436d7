"""A driven robot through its executor: what each output tells a driver, and that holding means what it is to mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_policy
import numpy as np
import pytest
import ros_graph
from gantry import JOINTS, gantry
from geometry_msgs.msg import PoseStamped, Twist, TwistStamped
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from ros_graph import Graph
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Bool, Float64MultiArray, String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros import robot_file
from diffusion_ros.control.action_chunk import ActionChunk
from diffusion_ros.control.kinematics import Arm
from diffusion_ros.control.targets import TargetGenerator
from diffusion_ros.nodes.executor_node import ExecutorNode
from diffusion_ros.robot_file import Limits
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.robot_outputs import _Lead, _Pace
from diffusion_ros.ros.runner import RunnableNode

PERIOD_NS = 50_000_000
TYPES: dict[str, Any] = {
    "pose": PoseStamped,
    "twist": TwistStamped,
    "joint_trajectory": JointTrajectory,
    "joint_positions": Float64MultiArray,
}
DRIVERS = {"pose": "crisp", "twist": "servo", "joint_trajectory": "jtc", "joint_positions": "forward"}
HOME = np.array([0.5, 0.1, 0.3])
TURN = Rotation.from_euler("xyz", [3.0, 0.1, 0.2])


class Bench:
    """An executor with a robot's file, and the driver and policy in one node of the test's."""

    def __init__(
        self,
        graph: Graph,
        folder: Path,
        output: str,
        extra: str = "",
        action: str = "",
        gripper: str = "",
        low: float = -1.0,
        **parameters: Any,
    ) -> None:
        self.graph, self.output = graph, output
        robot = folder / "robot.yaml"
        robot.write_text(
            f"driver: {DRIVERS[output]}\n"
            "base: {frame: base, rpy: [0.0, 0.0, 3.141592653589793]}\n"
            "tool: {frame: tool, xyz: [0.0, 0.0, 0.1]}\n"
            f"joints: [{', '.join(JOINTS)}]\n"
            + ("joint_states: joint_states\n" if output.startswith("joint_") else "")
            + "description: {topic: robot_description}\n"
            "observations:\n"
            "  hand: {source: pose, topic: tool_pose}\n"
            f"action: {{output: {output}, topic: command, rate: 50{action}}}\n"
            f"gripper: {{output: positions, name: gripper, open: 0.08, closed: 0.0, interval: 0.1{gripper}}}\n"
            "limits: {linear: 0.5, angular: 2.0, linear_acceleration: 10.0, angular_acceleration: 20.0,"
            f" low: [-1.0, -1.0, {low}], high: [1.0, 1.0, 1.0]}}\n" + extra
        )
        checkpoint = fake_policy.save(folder / "policy.pt")
        values = {"robot": str(robot), "checkpoint": str(checkpoint), "enabled": True, **parameters}
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        self.node = Node("driver")
        self.poses = self.node.create_publisher(PoseStamped, "tool_pose", qos_profile_sensor_data)
        self.joints = self.node.create_publisher(JointState, "joint_states", qos_profile_sensor_data)
        self.chunks = self.node.create_publisher(JointTrajectory, topics.ACTION_CHUNK, topics.COMMAND_QOS)
        self.received: list[Any] = []
        self.gripper: list[float] = []
        self.node.create_subscription(TYPES[output], "command", self.received.append, 50)
        self.fingers = self.node.create_subscription(
            Float64MultiArray, "gripper", lambda msg: self.gripper.append(msg.data[0]), 10
        )
        description = self.node.create_publisher(String, "robot_description", topics.DESCRIPTION_QOS)
        description.publish(String(data=gantry()))
        self.place = [HOME.copy(), TURN]
        self.joint_offset = 0.0
        """m that the first joint reports too much."""
        self.rows: np.ndarray | None = None
        self.kind = "delta"
        self.silent = False
        self.node.create_timer(0.01, self._pose)
        self.node.create_timer(0.1, self._chunk)
        graph.add(self.node)
        self.executor: ExecutorNode = graph.add(ExecutorNode(overrides))
        self.arm = Arm.from_urdf(gantry(), JOINTS, "base", "tool")

    def _now(self) -> int:
        return int(self.node.get_clock().now().nanoseconds)

    def _pose(self) -> None:
        if self.silent:
            return
        (position, turn), stamp = self.place, self._now()
        self.poses.publish(messages.pose_to_msg(position, turn.as_quat(), stamp, "base"))
        angles = turn.as_euler("XYZ")
        values = [position[0] + self.joint_offset, *position[1:], *angles]
        self.joints.publish(messages.joint_state_to_msg(JOINTS, values, np.zeros(6), stamp))

    def _chunk(self) -> None:
        if self.rows is not None:
            frame = self.executor.frame_id
            self.chunks.publish(messages.chunk_to_msg(ActionChunk(self._now(), self.rows, PERIOD_NS, self.kind), frame))

    def tool(self, msg: Any) -> np.ndarray:
        """Where a command wants the tool (3); a trajectory at its end; a twist: how fast."""
        if self.output == "pose":
            return messages.pose_from_msg(msg)[1]
        if self.output == "twist":
            v = msg.twist.linear
            return np.array([v.x, v.y, v.z])
        joints = msg.data if self.output == "joint_positions" else msg.points[-1].positions
        return self.arm.forward(np.array(joints))[0]

    def moving(self) -> bool:
        return bool(self.received) and not np.allclose(
            self.tool(self.received[-1]), np.zeros(3) if self.output == "twist" else HOME, atol=0.01
        )

    def act(self, *values: float) -> None:
        """The policy asks for this row from now on."""
        self.rows = np.tile([*values, *[0.0] * (7 - len(values))], (9, 1)).astype(float)

    def still_within(self, seconds: float) -> None:
        """Nothing more is asked of the arm: after `seconds` for the rest of a second."""
        self.graph.spin(seconds)
        self.received.clear()
        self.graph.spin(0.6)
        if self.output == "joint_trajectory":
            assert not self.received
            return
        wanted = [self.tool(msg) for msg in self.received]
        if self.output == "twist":
            assert wanted and np.allclose(wanted, 0.0)
        else:
            assert wanted and np.allclose(wanted, wanted[0], atol=1e-6), "the same target"


@pytest.fixture
def graph() -> Iterator[Graph]:
    with ros_graph.graph() as made:
        yield made


def test_a_pose_is_a_place_in_the_drivers_base(graph: Graph, tmp_path: Path) -> None:
    """However often its chunks come, and whatever the way there: the target stops where they say."""
    bench = Bench(graph, tmp_path, "pose")
    graph.spin_until(lambda: bench.executor._robot.hand is not None)
    at = bench.executor.executor_logic._position
    there = (bench.executor.executor_logic._rotation, at + [0.04, 0.0, 0.03])
    bench.kind = "pose"
    bench.rows = np.tile([*there[1], *there[0].as_rotvec(), -1.0], (9, 1))
    wanted = HOME + [-0.04, 0.0, 0.03]
    graph.spin_until(lambda: bool(bench.received) and np.allclose(bench.tool(bench.received[-1]), wanted, atol=2e-3))
    graph.spin(0.3)
    assert bench.tool(bench.received[-1]) == pytest.approx(wanted, abs=2e-3), "and goes no further"


def test_a_gripper_that_follows_goes_to_the_place_that_a_row_says(graph: Graph, tmp_path: Path) -> None:
    bench = Bench(graph, tmp_path, "pose", gripper=", proportional: true")
    bench.act(0.001, 0, 0, 0, 0, 0, 0.5)
    graph.spin_until(lambda: bench.gripper)
    assert bench.gripper[-1] == pytest.approx(0.02)
    bench.act(0.001, 0, 0, 0, 0, 0, -0.25)
    graph.spin_until(lambda: bench.gripper[-1] != pytest.approx(0.02))
    assert bench.gripper[-1] == pytest.approx(0.05)


def test_a_person_who_knows_nothing_of_a_gripper_that_follows_leaves_it_where_it_is(
    graph: Graph, tmp_path: Path
) -> None:
    bench = Bench(graph, tmp_path, "pose", "teleop: {type: twist}\n", gripper=", proportional: true")
    person = bench.node.create_publisher(JointTrajectory, topics.TELEOP_ACTION, topics.COMMAND_QOS)
    value = [0.0]

    def say() -> None:
        row = [0.001, 0, 0, 0, 0, 0, value[0]]
        person.publish(messages.teleop_to_msg(row, True, bench._now(), PERIOD_NS, bench.executor.frame_id))

    bench.node.create_timer(0.05, say)
    graph.spin_until(lambda: len(bench.received) > 20)
    assert not bench.gripper
    value[0] = 0.5
    graph.spin_until(lambda: bench.gripper)
    assert bench.gripper[-1] == pytest.approx(0.02)
    value[0] = 0.0
    graph.spin(0.3)
    assert bench.gripper[-1] == pytest.approx(0.02)


@pytest.mark.parametrize("output", TYPES)
def test_it_moves_as_asked_and_holds_when_told(graph: Graph, tmp_path: Path, output: str) -> None:
    bench = Bench(graph, tmp_path, output)
    graph.spin(0.5)
    assert not bench.received, "nothing before the first chunk"
    bench.act(0.02, 0.0, 0.01, 0, 0, 0, 1.0)
    graph.spin_until(bench.moving)
    graph.spin_until(lambda: bench.gripper)
    assert bench.gripper[0] == 0.0
    moved = bench.tool(bench.received[-1]) - (0 if output == "twist" else HOME)
    # The policy's x is the other way round in a base that is turned by half a turn.
    assert moved[0] < 0 and moved[2] > 0 and abs(moved[1]) < 0.2 * abs(moved[0])
    if output in ("pose", "twist"):
        frame, stamp = bench.received[-1].header.frame_id, messages.stamp_ns(bench.received[-1].header.stamp)
        assert frame == "base" and abs(bench._now() - stamp) < 500_000_000
    if output == "joint_trajectory":
        points = bench.received[-1].points
        times = [messages.stamp_ns(point.time_from_start) for point in points]
        assert list(bench.received[-1].joint_names) == list(JOINTS)
        assert times == sorted(set(times)) and times[0] > 0
        assert not np.any(points[-1].velocities)
    bench.rows = np.zeros((1, 7))
    graph.spin(0.2)
    bench.rows = None
    bench.still_within(0.8)


def test_a_target_is_not_taken_anew_from_a_hand_that_was_seen_while_it_moved(graph: Graph, tmp_path: Path) -> None:
    bench = Bench(graph, tmp_path, "joint_positions")
    bench.act(0.02, 0.0, 0.01)
    graph.spin_until(bench.moving)
    bench.rows = np.zeros((1, 7))
    graph.spin(0.2)
    bench.rows = None
    bench.still_within(0.8)
    stood = bench.tool(bench.received[-1])
    robot = bench.executor._robot
    assert robot is not None and robot._still_ns < bench._now() - 500_000_000
    robot._still_ns = bench._now() + 1_000_000_000  # as if all that was heard since had waited
    bench.act(0.02, 0.0, 0.01)
    graph.spin_until(lambda: "not seen since it stopped" in bench.executor._answered.reason)
    assert np.allclose(bench.tool(bench.received[-1]), stood, atol=1e-6)
    graph.spin_until(lambda: not np.allclose(bench.tool(bench.received[-1]), stood, atol=1e-6))
    assert bench._now() > robot._still_ns


FAULTS: dict[str, Callable[[Bench], None]] = {
    "the hand is not heard": lambda bench: setattr(bench, "silent", True),
    "the hand jumps": lambda bench: setattr(bench, "place", [HOME + [0.0, 0.5, 0.0], TURN]),
    "a hand that is not finite": lambda bench: setattr(bench, "place", [HOME * np.nan, TURN]),
    "no chunk any more": lambda bench: setattr(bench, "rows", None),
    "a gross chunk": lambda bench: bench.act(10.0),
    "disabled": lambda bench: bench.graph.call(
        bench.node, SetBool, "/executor/set_enabled", SetBool.Request(data=False)
    ),
    "emergency stop": lambda bench: bench.graph.call(bench.node, Trigger, "/executor/estop", Trigger.Request()),
}


# Each fault with one output, in turn with the one and the other kind of hold; the rest is slow. What arms do with each
# output is in faults/test_driven.py, without a bus and its waiting.
QUICK = {(fault, ("pose", "twist")[i % 2]) for i, fault in enumerate(FAULTS)}


@pytest.mark.parametrize(
    ("fault", "output"),
    [
        pytest.param(fault, output, marks=[] if (fault, output) in QUICK else pytest.mark.slow)
        for fault in FAULTS
        for output in TYPES
    ],
)
def test_never_moved_by_a_guess(graph: Graph, tmp_path: Path, fault: str, output: str) -> None:
    bench = Bench(graph, tmp_path, output)
    bench.act(0.02, 0.0, 0.01)
    graph.spin_until(bench.moving)
    bench.received.clear()
    FAULTS[fault](bench)
    # A hand that has jumped is believed after half a second of standing where it is now.
    jumps = fault == "the hand jumps"
    graph.spin(0.25 if jumps else 1.2)
    # Whoever does not know where the hand is says no more after a while, but never without a last word, which holds.
    assert bench.received
    last = bench.received[-1]
    bench.received.clear()
    graph.spin(0.15 if jumps else 0.5)
    if output == "joint_trajectory":
        assert not bench.received and not np.any(last.points[-1].velocities)
        return
    wanted = [bench.tool(msg) for msg in (last, *bench.received)]
    assert np.allclose(wanted, 0.0 if output == "twist" else wanted[0], atol=1e-6)


def test_a_second_commander_stops_it(graph: Graph, tmp_path: Path) -> None:
    bench = Bench(graph, tmp_path, "pose")
    bench.act(0.02)
    graph.spin_until(bench.moving)
    other = bench.node.create_publisher(PoseStamped, "command", 1)
    bench.node.create_timer(
        0.05, lambda: other.publish(messages.pose_to_msg(HOME, TURN.as_quat(), bench._now(), "base"))
    )
    graph.spin_until(lambda: "publishers on /command" in bench.executor._stop_reason())
    graph.spin(0.5)
    bench.received.clear()
    graph.spin(0.5)
    assert bench.received and np.allclose([bench.tool(msg) for msg in bench.received], HOME), "it does not answer back"


def test_somebody_else_commands_before_its_own_first_word(graph: Graph, tmp_path: Path) -> None:
    bench = Bench(graph, tmp_path, "joint_positions")
    other = bench.node.create_publisher(Float64MultiArray, "command", 1)
    bench.node.create_timer(0.05, lambda: other.publish(Float64MultiArray(data=[0.0] * 6)))
    graph.spin_until(lambda: "publishers on /command" in bench.executor._stop_reason())
    bench.act(0.02)
    graph.spin(0.5)
    assert bench.received and not any(any(msg.data) for msg in bench.received)


def test_joints_that_put_the_hand_elsewhere_are_no_place_to_begin(graph: Graph, tmp_path: Path) -> None:
    """Such as those of a driver that publishes zeros as it starts."""
    bench = Bench(graph, tmp_path, "joint_positions")
    bench.joint_offset = 0.1
    bench.act(0.02)
    graph.spin_until(lambda: bench.executor._answered and "the hand is 0.100 m" in bench.executor._answered.reason)
    assert not bench.received
    bench.joint_offset = 0.0
    graph.spin_until(bench.moving)


def test_a_pose_that_is_sent_ahead_stays_within_the_box(graph: Graph, tmp_path: Path) -> None:
    bench = Bench(graph, tmp_path, "pose", action=", lag: 0.3", low=float(HOME[2]) - 0.15)
    bench.act(0.0, 0.0, -0.05)

    def hand(msg: PoseStamped) -> np.ndarray:
        """It is 0.1 m along the tool's z from the tool's frame."""
        return bench.tool(msg) + TURN.apply([0.0, 0.0, 0.1])

    low = HOME[2] - 0.15
    graph.spin_until(lambda: bench.received and hand(bench.received[-1])[2] < low + 0.02)
    graph.spin(0.3)
    assert min(hand(msg)[2] for msg in bench.received) >= low - 1e-9


def test_a_gripper_that_nobody_drives_is_a_reason_to_hold(graph: Graph, tmp_path: Path) -> None:
    bench = Bench(graph, tmp_path, "twist")
    bench.act(0.02)
    graph.spin_until(bench.moving)
    bench.node.destroy_subscription(bench.fingers)
    graph.spin_until(lambda: "gripper: nobody listens" in bench.executor._stop_reason())


def test_readiness_and_the_operators_buttons(graph: Graph, tmp_path: Path) -> None:
    extra = (
        "ready: [{topic: running, type: std_msgs/Bool, value: true, latched: true}]\n"
        "buttons: {topic: joy, enable: 0, stop: 1, hold: 2}\n"
    )
    bench = Bench(graph, tmp_path, "pose", extra)
    running = bench.node.create_publisher(Bool, "running", topics.DESCRIPTION_QOS)
    joy = bench.node.create_publisher(Joy, "joy", 10)
    pressed = [0, 0, 1]
    bench.node.create_timer(0.05, lambda: joy.publish(Joy(buttons=pressed)))
    bench.act(0.02)
    graph.spin(0.7)
    assert not bench.received and "running: nothing received" in bench.executor._stop_reason()
    running.publish(Bool(data=True))
    graph.spin_until(bench.moving)
    pressed[2] = 0
    graph.spin_until(lambda: "button 2 is not held" in bench.executor._stop_reason())
    pressed[2] = 1
    graph.spin_until(lambda: not bench.executor._stop_reason())
    running.publish(Bool(data=False))
    graph.spin_until(lambda: "running: false, true expected" in bench.executor._stop_reason())
    running.publish(Bool(data=True))
    pressed[1] = 1
    graph.spin_until(lambda: "emergency stop" in bench.executor._stop_reason())
    bench.graph.call(bench.node, Trigger, "/executor/estop_reset", Trigger.Request())
    pressed[1] = 0
    graph.spin(0.2)
    pressed[0] = 1
    graph.spin_until(lambda: not bench.executor._stop_reason())


def test_an_arm_on_a_spring_is_where_its_target_is() -> None:
    """By its lag alone it goes past where it is to stop."""
    limits = Limits(0.8, 2.0, 8.0, 20.0, (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
    rows = [row for row in ([0.04, 0.0, 0.0], [0.0, -0.04, 0.02], [0.0, 0.0, 0.0]) for _ in range(8)]

    def errors(lag: float, inertia: float) -> np.ndarray:
        """(N) m between the target and an arm with a lag of 0.11 s and an inertia of 0.075 s."""
        targets, lead = TargetGenerator(limits, 0.05, (88.0, 0.8)), _Lead(lag, inertia)
        targets.start(np.zeros(3), Rotation.identity())
        hand, velocity, off = np.zeros(3), np.zeros(3), []
        for number, row in enumerate(rows):
            for _ in range(5):
                target = targets.advance(0.01, np.array([*row, 0, 0, 0, 0]), number, hand, Rotation.identity())
                sent, _turned = lead.ahead(target, 0.01)
                for _ in range(10):
                    velocity = velocity + 0.001 * (sent - hand - 0.11 * velocity) / 0.075**2
                    hand = hand + 0.001 * velocity
                off.append(np.linalg.norm(hand - target.position))
        return np.array(off)

    late, ahead, whole = (np.sqrt(np.mean(errors(*of) ** 2)) for of in ((0.0, 0.0), (0.11, 0.0), (0.11, 0.075)))
    assert whole < 0.35 * ahead and whole < 0.15 * late, (late, ahead, whole)
    assert errors(0.11, 0.075).max() < 0.01


@pytest.mark.parametrize("stamped", [True, False])
def test_a_target_that_is_gone_to_at_once_goes_no_farther_than_in_two_periods(stamped: bool) -> None:
    """Nor in more than one where a driver sees only when it came: one that is late is soon followed by the next."""
    robot = robot_file.read(robot_file.find("ur_forward"))
    pace = _Pace(robot, stamped)
    assert robot.action.rate == 100.0 and robot.limits.linear == 0.5
    start = 0.5 * (np.array(robot.limits.low) + robot.limits.high)
    pace.begin(start, Rotation.identity())
    way, goal = [start], start + [0.05, 0.0, 0.0]
    for _ in range(2):
        assert (pace.step(goal, Rotation.identity(), 0.01)[0] == start).all(), "it begins at rest"
    # Periods of every length: a busy machine's.
    for seconds in (0.01, 0.002, 0.03, 0.0, *[0.01] * 30):
        before = way[-1]
        position, turned = pace.step(goal, Rotation.from_rotvec([0.0, 0.0, 0.1]), seconds)
        way.append(position)
        assert np.linalg.norm(way[-1] - before) <= 0.5 * min(seconds, 0.02 if stamped else 0.01) + 1e-12
    assert np.linalg.norm(way[1] - start) <= 0.004 + 1e-12, "from rest"
    assert np.allclose(position, goal) and np.allclose(turned.as_rotvec(), [0.0, 0.0, 0.1])
    assert max(x for x, _, _ in way) < goal[0] + 0.004


def test_of_two_joysticks_each_may_stop_and_none_may_enable(graph: Graph, tmp_path: Path) -> None:
    bench = Bench(graph, tmp_path, "pose", "buttons: {topic: joy, enable: 0, stop: 1}\n")
    logic = bench.executor.executor_logic
    joys = [bench.node.create_publisher(Joy, "joy", 10) for _ in range(2)]
    pressed = [[1, 0], [0, 0]]  # one with a button that is stuck
    bench.node.create_timer(0.05, lambda: joys[0].publish(Joy(buttons=pressed[0])))
    graph.spin(0.3)
    other = bench.node.create_timer(0.05, lambda: joys[1].publish(Joy(buttons=pressed[1])))
    pressed[1] = [0, 1]
    graph.spin_until(lambda: logic.estop_reason)
    pressed[1] = [0, 0]
    graph.spin(0.2)
    bench.graph.call(bench.node, Trigger, "/executor/estop_reset", Trigger.Request())
    graph.spin(0.5)
    assert not logic.estop_reason and not logic.enabled
    other.cancel()
    graph.spin_until(lambda: bench.executor._robot.buttons._listener.conflict() == "")
    pressed[0] = [0, 0]
    graph.spin(0.2)
    pressed[0] = [1, 0]
    graph.spin_until(lambda: logic.enabled)


STOP = "buttons: {topic: joy, enable: 0, stop: 1}\n"


def test_a_stop_that_is_down_in_the_first_message_stops_and_holds_while_it_is_down(
    graph: Graph, tmp_path: Path
) -> None:
    bench = Bench(graph, tmp_path, "pose", STOP)
    logic = bench.executor.executor_logic
    joy, pressed = bench.node.create_publisher(Joy, "joy", 10), [1, 1]
    bench.node.create_timer(0.05, lambda: joy.publish(Joy(buttons=pressed)))
    bench.act(0.02)
    graph.spin_until(lambda: logic.estop_reason)
    graph.call(bench.node, Trigger, "/executor/estop_reset", Trigger.Request())
    graph.call(bench.node, SetBool, "/executor/set_enabled", SetBool.Request(data=True))
    graph.spin(0.5)
    assert logic.enabled and not bench.moving()
    assert bench.executor._stop_reason() == "joy: button 1, to stop, is pressed"
    pressed[1] = 0
    graph.spin_until(bench.moving)


def test_nothing_moves_before_the_button_to_stop_was_heard_of(graph: Graph, tmp_path: Path) -> None:
    bench = Bench(graph, tmp_path, "pose", STOP)
    joy = bench.node.create_publisher(Joy, "joy", 10)
    bench.act(0.02)
    graph.spin_until(lambda: "joy: nothing received, the button to stop" in bench.executor._stop_reason())
    graph.spin_until(joy.get_subscription_count)
    joy.publish(Joy(buttons=[0]))
    graph.spin_until(lambda: bench.executor._stop_reason() == "joy: 1 buttons, a button 1 expected")
    assert not bench.received
    joy.publish(Joy(buttons=[0, 0]))
    graph.spin_until(bench.moving)
    graph.spin(0.7)  # a joystick that nobody touches may be silent
    assert not bench.executor._stop_reason()
    joy.publish(Joy(buttons=[0]))
    graph.spin_until(lambda: bench.executor._stop_reason())
    joy.publish(Joy(buttons=[0, 1]))  # after a message that said nothing of it
    graph.spin_until(lambda: bench.executor.executor_logic.estop_reason)


@pytest.mark.parametrize("hold", ["", ", hold: 2"])
def test_a_rehearsal_needs_no_joystick_and_obeys_one(hold: str, graph: Graph, tmp_path: Path) -> None:
    bench = Bench(graph, tmp_path, "pose", STOP.replace("}", f"{hold}}}"), rehearsal=True)
    bench.act(0.02)
    graph.spin_until(bench.moving)
    joy = bench.node.create_publisher(Joy, "joy", 10)
    graph.spin_until(joy.get_subscription_count)
    joy.publish(Joy(buttons=[0, 1, 0]))
    graph.spin_until(lambda: bench.executor.executor_logic.estop_reason)


def test_another_one_that_commands_the_gripper_is_a_conflict(graph: Graph, tmp_path: Path) -> None:
    bench = Bench(graph, tmp_path, "pose")
    bench.act(0.02, 0.0, 0.01, 0, 0, 0, 1.0)
    graph.spin_until(lambda: bench.gripper)
    other = bench.node.create_publisher(Float64MultiArray, "gripper", 10)
    bench.node.create_timer(0.05, lambda: other.publish(Float64MultiArray(data=[0.08])))
    toggle = [1.0]

    def again() -> None:  # so that our own is heard, too
        toggle[0] = -toggle[0]
        bench.act(0.001, 0.0, 0.0, 0, 0, 0, toggle[0])

    bench.node.create_timer(0.4, again)
    graph.spin_until(lambda: "publishers on /gripper" in bench.executor._stop_reason())


@pytest.mark.parametrize("output", ["pose", "joint_positions"])
def test_a_driver_that_was_not_ready_finds_no_old_target(graph: Graph, tmp_path: Path, output: str) -> None:
    """An arm that stopped by itself stands beside its target, and would go there once a person has made it ready."""
    bench = Bench(graph, tmp_path, output, "ready: [{topic: running, type: std_msgs/Bool, value: true}]\n")
    running = bench.node.create_publisher(Bool, "running", 10)
    ready = [True]
    bench.node.create_timer(0.05, lambda: running.publish(Bool(data=ready[0])))
    bench.act(0.02)
    graph.spin_until(bench.moving)
    ready[0] = False
    graph.spin_until(lambda: "running: false" in bench.executor._stop_reason())
    graph.spin(0.5)
    bench.received.clear()
    graph.spin(0.3)
    assert not bench.received
    jogged = bench.place[0] = HOME + [0.0, 0.08, 0.0]
    graph.spin(0.2)
    ready[0] = True
    graph.spin_until(lambda: bench.received)
    assert np.linalg.norm(bench.tool(bench.received[0]) - jogged) < 0.005


def test_a_hand_that_does_not_follow_is_for_a_person_to_look_at(graph: Graph, tmp_path: Path) -> None:
    bench = Bench(graph, tmp_path, "pose")
    bench.act(0.02)
    graph.spin_until(bench.moving)
    for away in np.arange(0.01, 0.14, 0.01):  # somebody pulls it, no faster than a hand can go
        bench.place = [HOME + [0.0, 0.0, away], TURN]
        graph.spin(0.03)
    graph.spin_until(lambda: "from its target" in bench.executor._stop_reason())
    assert not bench.executor.executor_logic.enabled
    bench.graph.call(bench.node, SetBool, "/executor/set_enabled", SetBool.Request(data=True))
    bench.received.clear()
    graph.spin_until(lambda: bench.received)
    # Anew from where the hand is.
    assert np.linalg.norm(bench.tool(bench.received[0]) - bench.place[0]) < 0.02


def test_twists_in_the_tools_axes(graph: Graph, tmp_path: Path) -> None:
    bench = Bench(graph, tmp_path, "twist")
    robot = (tmp_path / "robot.yaml").read_text()
    assert isinstance(bench.executor, RunnableNode)
    graph.remove(bench.executor)
    (tmp_path / "robot.yaml").write_text(
        robot.replace("driver: servo", "driver: kortex").replace(
            "output: twist,", "output: twist, type: Twist, axes: tool,"
        )
    )
    found: list[Twist] = []
    bench.node.create_subscription(Twist, "twists", found.append, 10)
    (tmp_path / "robot.yaml").write_text(
        (tmp_path / "robot.yaml").read_text().replace("topic: command", "topic: twists")
    )
    overrides = {"robot": str(tmp_path / "robot.yaml"), "checkpoint": str(tmp_path / "policy.pt"), "enabled": True}
    bench.executor = graph.add(ExecutorNode([Parameter(k, value=v) for k, v in overrides.items()]))
    bench.act(0.02)
    graph.spin_until(lambda: found and abs(found[-1].linear.x) > 0.01)
    v = found[-1].linear
    in_base = TURN.apply([v.x, v.y, v.z])
    assert in_base[0] < 0 and np.abs(in_base[1:]).max() < 0.2 * abs(in_base[0])


def test_each_row_that_begins_is_said_once_and_none_while_it_holds(graph: Graph, tmp_path: Path) -> None:
    bench = Bench(graph, tmp_path, "pose")
    executed: list[messages.Executed] = []
    bench.node.create_subscription(
        JointTrajectory,
        topics.EXECUTED_ACTION,
        lambda msg: executed.append(messages.executed_from_msg(msg)),
        topics.WATCHED_QOS,
    )
    graph.spin(0.5)
    bench.node.destroy_timer(next(timer for timer in bench.node.timers if timer.callback == bench._chunk))
    bench.rows = 0.001 * np.arange(1, 10)[:, None] * np.ones(7)
    bench._chunk()
    graph.spin_until(lambda: len(executed) == 9, 5.0)
    graph.spin(0.3)
    assert np.array_equal([one.row for one in executed], bench.rows), "one chunk alone: its rows in their order"
    stamps = np.array([stamp for stamp, *_ in executed]) / 1e9
    assert np.all(np.diff(stamps) > 0.005) and 0.3 < stamps[-1] - stamps[0] < 0.6, "rows of 50 ms, told every 20 ms"
    assert not any(one.person for one in executed)
    assert [one.place for one in executed] == list(range(9))
