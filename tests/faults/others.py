"""The kinds that are not about a policy and its executor: simulators, followers, planners, guards, and bringup."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fake_guard
import fake_rl
import numpy as np
from fake_planner import fake_arm_planner, fake_planner
from nav_msgs.msg import OccupancyGrid
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
from visualization_msgs.msg import MarkerArray

from diffusion_ros.nodes import simulation_node
from diffusion_ros.nodes.camera_guard_node import CameraGuardNode
from diffusion_ros.nodes.follower_node import FollowerNode
from diffusion_ros.nodes.maze_node import MazeNode
from diffusion_ros.nodes.planner_node import PlannerNode
from diffusion_ros.nodes.rl_policy_node import RlPolicyNode
from diffusion_ros.robot import FINGERS, WORLD_FRAME
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.runner import RunnableNode
from diffusion_ros.simulators.arm import Simulation
from diffusion_ros.simulators.maze import FRAME, load_map
from diffusion_ros.simulators.tasks import GYM_TASKS, maze_task
from diffusion_ros.systems.observer import Observer

from .bench import CAMERAS, PERIOD_NS, Bench, Clock, deliver, own_time, parameters
from .kinds import STRANGER, Verdict, acts, fault, held, recovery

NAN = float("nan")
DOWN = (1.0, 0.0, 0.0, 0.0)


@contextmanager
def timed(make: Callable[[], RunnableNode]) -> Iterator[tuple[Any, Clock]]:
    """A node and the clock that it lives by."""
    clock = Clock()
    with own_time(clock):
        node = make()
        node.get_clock = lambda: clock
        try:
            yield node, clock
        finally:
            node.close()
            node.destroy_node()


# The simulator, when somebody else commands


@functools.cache
def _lift() -> Simulation:
    """Making one takes seconds; each node resets it."""
    return Simulation("lift")


@contextmanager
def simulator() -> Iterator[tuple[Any, Clock]]:
    """Lift in real time, with an executor's first command done: it runs."""
    real, simulation_node.Simulation = simulation_node.Simulation, lambda task: _lift()
    closed, Simulation.close = Simulation.close, lambda self: None
    try:
        with timed(
            lambda: simulation_node.SimulationNode(parameters(task="lift", mode="realtime", seed=7, scene=False))
        ) as (node, clock):
            node.advertise()
            node._begin(0)
            node._tick_realtime(clock.seconds, False)
            command(node, np.array([0.0, 0.0, 0.01, 0, 0, 0, 0]), b"executor")
            tick(node, clock)
            assert node.phase == "running"
            yield node, clock
    finally:
        simulation_node.Simulation, Simulation.close = real, closed


def tick(node: Any, clock: Clock) -> None:
    clock.seconds += 0.05
    node._tick_realtime(clock.seconds, False)


def command(node: Any, row: np.ndarray, sender: bytes, stamp_ns: int | None = None, frame: str = WORLD_FRAME) -> None:
    stamp_ns = node._stamp_ns if stamp_ns is None else stamp_ns
    deliver(node._commands[0], messages.command_to_msg(row, stamp_ns, PERIOD_NS, frame), sender)


PUSH = np.array([0.05, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
HOLD = np.zeros(7)


def _simulator(name: str, what: str, says: str, foreign: Callable[[Any], None], held: bool = False) -> None:
    """The hand must stay where it is, though somebody sends commands."""

    @fault(name, what)
    def check(folder: Path) -> Verdict:
        with simulator() as (node, clock):
            for _ in range(10):
                command(node, HOLD, b"executor")
                tick(node, clock)
            before = node.simulation.observe(images=False)["robot0_eef_pos"]
            for _ in range(20):
                if held:
                    command(node, HOLD, b"executor")
                foreign(node)
                tick(node, clock)
            after = node.simulation.observe(images=False)["robot0_eef_pos"]
            said = node.conflict() or node._fault
            moved = float(np.linalg.norm(after - before))
            assert says in said, f"{says!r} expected, it says {said!r}"
            clock.seconds += 2.5  # the stranger is forgotten
            for _ in range(3):
                command(node, PUSH, b"executor")
                tick(node, clock)
            recovered = node.simulation.observe(images=False)["robot0_eef_pos"]
            assert np.linalg.norm(recovered - after) > 0.005, "it goes on"
            # A held hand settles by some tenths of a millimetre.
            return Verdict(moved if moved > 1e-3 else 0.0, said, 0.05)


def _many_points(node: Any) -> None:
    msg = messages.command_to_msg(PUSH, node._stamp_ns, PERIOD_NS, WORLD_FRAME)
    msg.points = [JointTrajectoryPoint(positions=PUSH.tolist())] * 20_000
    deliver(node._commands[0], msg, b"executor")


_simulator(
    "command: beside a stopped executor's", "a stranger's eef_command with the right stamp, while the executor holds",
    "2 publishers on /eef_command", lambda n: command(n, PUSH, STRANGER), held=True,
)  # fmt: skip
_simulator(
    "command: of another time", "a stranger's alone, stamped 10 s ago", "answers an observation of 1",
    lambda n: command(n, PUSH, b"executor", n._stamp_ns - 10_000_000_000),
)  # fmt: skip
_simulator(
    "command: another frame", "eef_command in the camera's frame", "frame 'camera', 'world' expected",
    lambda n: command(n, PUSH, b"executor", frame="camera"),
)  # fmt: skip
_simulator(
    "command: NaN", "in one number", "a finite number expected",
    lambda n: command(n, PUSH * np.array([1, NAN, 1, 1, 1, 1, 1]), b"executor"),
)  # fmt: skip
_simulator("command: 20,000 points", "where one is expected", "bytes, at most 65536 expected", _many_points)
_simulator(
    "a second simulator", "another publisher of eef_pose", "2 publishers on /eef_pose",
    lambda n: (
        deliver(n._sole.listener, messages.pose_to_msg((0, 0, 1), DOWN, 5, "world"), STRANGER),
        deliver(n._sole.listener, messages.pose_to_msg((0, 0, 1), DOWN, 5, "world"), b"itself"),
        command(n, PUSH, b"executor"),
    ),
)  # fmt: skip


# Mazes


def _maze(name: str, what: str, says: str, foreign: Callable[[Any, int], None]) -> None:
    """A ball that rests must not be pushed."""

    @fault(name, what)
    def check(folder: Path) -> Verdict:
        with timed(lambda: MazeNode(parameters(size="umaze"))) as (node, clock):

            def step(sender: bytes, force: Any) -> None:
                clock.seconds += 0.01
                deliver(node._commands[0], messages.force_to_msg(force, node._stamp_ns, FRAME), sender)
                node._tick_realtime(clock.seconds, False)

            node.advertise()
            node._begin(0)
            node._tick_realtime(clock.seconds, False)
            for _ in range(30):
                step(b"follower", (2.0, 0.0))
            for _ in range(200):
                step(b"follower", -50.0 * node.simulation.velocity)
            before = node.simulation.position.copy()
            for _ in range(200):
                foreign(node, node._stamp_ns)
                clock.seconds += 0.01
                node._tick_realtime(clock.seconds, False)
            moved, said = float(np.linalg.norm(node.simulation.position - before)), node._fault
            assert says in said, f"{says!r} expected, it says {said!r}"
            clock.seconds += 2.5
            node._tick_realtime(clock.seconds, False)
            resting = node.simulation.position.copy()
            for _ in range(50):
                step(b"follower", (50.0, 50.0))
            assert np.linalg.norm(node.simulation.position - resting) > 0.005, "it goes on"
            return Verdict(moved if moved > 5e-3 else 0.0, said, 0.5)


def _push(node: Any, stamp_ns: int, sender: bytes = b"follower", frame: str = FRAME, x: float = 100.0) -> None:
    deliver(node._commands[0], messages.force_to_msg((x, 0.0), stamp_ns, frame), sender)


def _push_beside(node: Any, stamp_ns: int) -> None:
    _push(node, stamp_ns, b"follower", x=0.0)
    _push(node, stamp_ns, STRANGER)


_maze("force: beside the follower's", "a stranger's force_command", "2 publishers on /force_command", _push_beside)
_maze("force: another frame", "base instead of map", "frame 'base', 'map'", lambda n, t: _push(n, t, frame="base"))
_maze("force: too great", "3 times the largest", "-100 to 100 N expected", lambda n, t: _push(n, t, x=300.0))
_maze("force: NaN", "in x", "finite numbers expected", lambda n, t: _push(n, t, x=NAN))


def plan_msg(states: np.ndarray, frame: str = FRAME, stamp_ns: int = 1_000_000_000) -> JointTrajectory:
    return messages.trajectory_to_msg(states, 10_000_000, stamp_ns, frame)


def _follower(name: str, what: str, says: str, foreign: Callable[[Any, int], None]) -> None:
    """Without a plan that can be trusted the follower brakes: no force for a ball that rests."""

    @fault(name, what)
    def check(folder: Path) -> Verdict:
        with timed(lambda: FollowerNode(parameters())) as (node, clock):
            forces: list[float] = []

            def publish(msg: Any) -> None:
                _, force = messages.force_from_msg(msg)
                forces.append(float(np.abs(force).max()))

            node._publisher.publish = publish
            way = np.hstack([np.linspace([-1, -1], [1, -1], 200), np.zeros((200, 2))])

            def odometry(x: float = -1.0, sender: bytes = b"maze", frame: str = FRAME) -> None:
                clock.seconds += 0.01
                msg = messages.odometry_to_msg((x, -1.0), (0.0, 0.0), clock.ns, frame)
                deliver(node._odometry, msg, sender)

            def follows() -> None:
                for _ in range(10):
                    odometry()
                deliver(node._plans, plan_msg(way), b"planner")
                for _ in range(10):
                    odometry()
                assert forces[-1] > 50, node.diagnostics.summary

            follows()
            forces.clear()
            for _ in range(50):
                foreign(node, clock.ns)
                odometry()
            moved = max(forces[5:], default=0.0)
            node._refresh()
            said = node.diagnostics.summary
            assert says in said, f"{says!r} expected, it says {said!r}"
            clock.seconds += 2.5
            follows()
            return Verdict(moved, said, 0.2)


_WAY = np.hstack([np.linspace([-1, -1], [1, -1], 200), np.zeros((200, 2))])
_follower(
    "plan: a second planner's", "planned_trajectory of a stranger", "2 publishers on /planned_trajectory",
    lambda n, t: (deliver(n._plans, plan_msg(_WAY), b"planner"), deliver(n._plans, plan_msg(_WAY), STRANGER)),
)  # fmt: skip
_follower(
    "plan: another frame", "base instead of map", "frame 'base', 'map' expected",
    lambda n, t: deliver(n._plans, plan_msg(_WAY, "base"), b"planner"),
)  # fmt: skip
_follower(
    "plan: NaN", "in one point", "finite numbers expected",
    lambda n, t: deliver(n._plans, plan_msg(np.where(np.arange(4) == 1, NAN, _WAY)), b"planner"),
)  # fmt: skip
_follower(
    "plan: elsewhere", "4 m away from the ball", "m away, at most 1 m expected",
    lambda n, t: deliver(n._plans, plan_msg(_WAY + [4.0, 0, 0, 0]), b"planner"),
)  # fmt: skip
_follower(
    "odometry: a stranger's", "beside the true one", "2 publishers on /odom",
    lambda n, t: deliver(n._odometry, messages.odometry_to_msg((0.9, -1), (0, 0), t, FRAME), STRANGER),
)  # fmt: skip
_follower(
    "odometry: another frame", "base instead of map", "odom",
    lambda n, t: deliver(n._odometry, messages.odometry_to_msg((-1, -1), (0, 0), t, "base"), b"maze"),
)  # fmt: skip


# Planners: obstacles that cannot be read


def balls(frame: str = "world", z: float = 1.4) -> MarkerArray:
    return messages.balls_to_msg([[0.4, 0.4, z, 0.03]], (1.0, 0.0, 0.0, 1.0), "obstacles", frame)


def _obstacles(name: str, what: str, says: str, foreign: Callable[[Any], None]) -> None:
    """An arm under way along a plan stops: it would drive blind."""

    @fault(name, what)
    def check(folder: Path) -> Verdict:
        path = fake_arm_planner(folder / "arm.pt")
        with timed(lambda: PlannerNode(parameters(checkpoint=str(path), budget=0.0))) as (node, clock):
            chunks: list[np.ndarray] = []
            node.domain._chunks.publish = lambda msg: chunks.append(messages.chunk_from_msg(msg).rows)
            place = np.array([0.0, 0.0, 1.0])

            def step(obstacles: bool = True) -> None:
                clock.seconds += 0.05
                joints = messages.joint_state_to_msg(FINGERS, (0.02, -0.02), (0.0, 0.0), clock.ns)
                deliver(node.domain._joints, joints, b"robot")
                deliver(node.domain._poses, messages.pose_to_msg(place, DOWN, clock.ns, "world"), b"robot")
                if obstacles:
                    deliver(node._obstacle_listener, balls(), b"camera")
                node._watch_obstacles()
                for _ in range(200):
                    if not node._busy and node._request is None:
                        break
                    time.sleep(0.001)
                node._deliver()

            def goes() -> bool:
                count = len(chunks)
                step()
                return len(chunks) > count and bool(chunks[-1].any())

            for _ in range(5):
                step()
            node._on_goal(messages.pose_to_msg([0.3, 0.0, 1.0], DOWN, 0, "world"))
            assert any(goes() for _ in range(10)), node.diagnostics.summary
            for _ in range(25):  # long enough for silence
                step(obstacles=False)
                foreign(node)
            last = chunks[-1]
            count = len(chunks)
            for _ in range(20):
                step(obstacles=False)
                foreign(node)
            moved = float(sum(np.abs(rows[:, :3]).sum() for rows in chunks[count:]) + np.abs(last[:, :3]).sum())
            node._refresh()
            said = node.diagnostics.summary
            assert says in said, f"{says!r} expected, it says {said!r}"
            # A second publisher is forgotten after two seconds; the goal still stands.
            assert any(goes() for _ in range(60)), f"it does not go on: {node.diagnostics.summary}"
            return Verdict(moved, said, 0.5)


_obstacles("obstacles: silent", "after some that were readable", "obstacles: silent for", lambda n: None)
_obstacles(
    "obstacles: NaN", "the height of a ball", "finite places",
    lambda n: deliver(n._obstacle_listener, balls(z=NAN), b"camera"),
)  # fmt: skip
_obstacles(
    "obstacles: another frame", "the camera's", "frame 'camera'",
    lambda n: deliver(n._obstacle_listener, balls("camera"), b"camera"),
)  # fmt: skip
_obstacles(
    "obstacles: of two publishers", "each with one ball", "2 publishers on /obstacles",
    lambda n: (deliver(n._obstacle_listener, balls(), b"camera"), deliver(n._obstacle_listener, balls(), STRANGER)),
)  # fmt: skip


@fault("map: NaN as its resolution", "no plan is made on it")
def map_resolution(folder: Path) -> Verdict:
    path = fake_planner(folder / "maze.pt")
    with timed(lambda: PlannerNode(parameters(checkpoint=str(path)))) as (node, _):
        grid: OccupancyGrid = messages.grid_to_msg(load_map(maze_task("umaze")).walls, 0, FRAME)
        grid.info.resolution = NAN
        deliver(node.domain._maps, grid, b"maze")
        said = node.diagnostics.summary
        assert "resolution nan m" in said and node.domain.map is None, said
        grid.info.resolution = 1.0
        deliver(node.domain._maps, grid, b"maze")
        assert node.domain.map is not None
        return Verdict(0.0, said, 0.0)


# Policies of reinforcement learning


def _joints(name: str, what: str, says: str, foreign: Callable[[Any, Any, int], None]) -> None:
    @fault(name, what)
    def check(folder: Path) -> Verdict:
        path = fake_rl.save(folder / "cartpole.pt")
        task = GYM_TASKS["cartpole"]
        with timed(lambda: RlPolicyNode(parameters(checkpoint=str(path)))) as (node, clock):
            commands: list[Any] = []
            node._publisher.publish = commands.append

            def state(positions: Any = (0.0, 0.01), stamp_ns: int | None = None) -> Any:
                when = clock.ns if stamp_ns is None else stamp_ns
                return messages.joint_state_to_msg(task.joints, positions, (0.0, 0.0), when)

            deliver(node._states, state(), b"robot")
            assert len(commands) == 1, node.diagnostics.summary
            for _ in range(20):
                clock.seconds += 0.02
                foreign(node, state, clock.ns)
            node._refresh()
            said = node.diagnostics.summary
            assert says in said, f"{says!r} expected, it says {said!r}"
            moved = float(len(commands) - 1)
            clock.seconds += 2.5
            deliver(node._states, state(), b"robot")
            assert len(commands) == 2, node.diagnostics.summary
            return Verdict(moved, said, 0.02)


_joints(
    "joints: NaN", "of a cart", "a finite number expected",
    lambda n, s, t: deliver(n._states, s((NAN, 0.0)), b"robot"),
)  # fmt: skip
_joints(
    "joints: far away", "a cart at 1,000,000 m", "joint positions[0] is 1e+06",
    lambda n, s, t: deliver(n._states, s((1e6, 0.0)), b"robot"),
)  # fmt: skip
_joints(
    "joints: a stranger's", "the same joints of a second publisher", "2 publishers on /joint_states",
    lambda n, s, t: (deliver(n._states, s(), STRANGER), deliver(n._states, s(), b"robot")),
)  # fmt: skip
_joints(
    "joints: old", "stamped 1 s ago", "s old, at most 0.1 s",
    lambda n, s, t: deliver(n._states, s(stamp_ns=t - 10**9), b"robot"),
)  # fmt: skip


# The camera guard


@fault("guard: sizes in turn", "a camera's pictures of 96 pixels between good ones: no trust in between")
def guard_sizes(folder: Path) -> Verdict:
    path = fake_guard.save(folder / "guard.pt")
    with timed(lambda: CameraGuardNode(parameters(checkpoint=str(path), rate=20.0, max_frozen=0.0))) as (node, clock):
        verdicts: list[messages.Status] = []
        node._publisher.publish = lambda msg: verdicts.append(messages.status_from_msg(msg))

        def show(wrong: bool) -> None:
            clock.seconds += 0.05
            deliver(node._poses_listener, messages.pose_to_msg((0, 0, 0), DOWN, clock.ns, "world"), b"robot")
            for camera in CAMERAS:
                size = 96 if wrong and camera == CAMERAS[0] else 84
                image = np.full((size, size, 3), 150, np.uint8)
                deliver(node._listeners[camera], messages.image_to_msg(image, clock.ns, ""), b"camera")
            node._on_timer()
            for _ in range(100):
                time.sleep(0.001)
                with node._worker.condition:
                    if not node._due and not node._newest:
                        break
            node._tell()

        for _ in range(10):
            show(False)
        assert verdicts[-1].level == messages.OK, verdicts[-1].summary
        verdicts.clear()
        for i in range(30):
            show(i % 3 == 0)
        trusted = [verdict for verdict in verdicts[1:] if verdict.level == messages.OK]
        said = next(v.summary for v in verdicts if "96 x 96" in v.summary)
        for _ in range(10):
            show(False)
        assert verdicts[-1].level == messages.OK, verdicts[-1].summary
        return Verdict(float(len(trusted)), said, 0.5)


# What is shown of it


@fault("episode: junk", "no JSON, other types, numbers without end, nests without end, a forged result")
def episode_junk(folder: Path) -> Verdict:
    observer = Observer("can", 1, folder / "results.jsonl")
    good = {"event": "running", "index": 0, "step": 7, "max_steps": 400, "missed": 0, "success": False, "fault": ""}
    good |= {"rate": 20.0, "acting": True, "latency_ms": None}
    junk = [
        "{",
        "[]",
        "{}",
        '{"event": "end"}',
        '{"event": "end", "result": {"index": "x"}}',
        json.dumps({**good, "event": "end", "result": {"index": 0, "success": True}}),
        json.dumps({**good, "rate": "fast"}),
        json.dumps({**good, "rate": 10**400}),
        json.dumps({**good, "latency_ms": float("nan")}),
        json.dumps(good).replace('"index": 0', '"index": ' + "9" * 4300),
        json.dumps({**good, "event": 3}),
        json.dumps({**good, "success": None}),
        '{"index": ' + "9" * 5000 + "}",
        "[" * 100_000,
        json.dumps({**good, "event": "a\n\x1b[31mb" * 1000}),
    ]
    for text in junk:
        observer._on_episode(String(data=text))
        line = observer.line()
        assert "\n" not in line and "\x1b" not in line and len(line) <= 300, line
    observer.read()
    assert observer.results == {}, "a result comes from the simulator's file, whoever says what"
    observer._on_episode(String(data=json.dumps(good)))
    assert "step   7/400" in observer.line()
    return Verdict(0.0, "junk is not shown, and changes no result", 0.0)


@fault("bytes that are no message", "on a topic of the executor, who must live")
def undecodable(folder: Path) -> Verdict:
    bench = Bench(folder)
    try:
        acts(bench)
        for listener in (bench.executor._chunks, bench.executor._commands):
            listener.take(b"\x00\x01\x00\x00\x00\x00", {"publisher_gid": {"data": b"policy"}})
        said = bench.executor._refused
        assert "cannot be read" in said, said
        return Verdict(0.0, said, recovery(bench))
    finally:
        bench.close()


@fault("pictures 60 ms late, then fingers in millimetres", "the policy's hold answers an old observation, and counts")
def late_hold(folder: Path) -> Verdict:
    bench = Bench(folder, pixels=True)
    robot = bench.robot
    for name in ("pose", "joints", *CAMERAS):
        robot.offset[name] = -0.06
    robot.change["pose"] = lambda msg: None
    wrong = [False]

    def beside(msg: Any) -> Any:
        # The executor has a pose of its own, of now.
        now = bench.pose_msg(stamp_ns=bench.clock.ns)
        deliver(bench.executor._poses, now, b"the robot")
        assert bench.policy is not None and bench.policy._source.simulator is not None
        deliver(bench.policy._source.simulator.listeners[topics.EEF_POSE], msg, b"the robot")

    robot.change["pose"] = beside
    robot.change["joints"] = lambda msg: (
        messages.joint_state_to_msg(FINGERS, (20.0, -20.0), (0, 0), messages.stamp_ns(msg.header.stamp))
        if wrong[0]
        else msg
    )
    try:
        return held(
            bench,
            "robot0_gripper_qpos[0] is 20 m",
            lambda b: wrong.__setitem__(0, True),
            lambda b: wrong.__setitem__(0, False),
        )
    finally:
        bench.close()
