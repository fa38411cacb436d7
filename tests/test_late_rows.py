"""Chunks that come late, at the robot: which row is executed, and what a driver's targets are made from.

The nodes are the real ones, in a time of their own (faults/bench.py): nothing depends on how busy the machine is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_policy
import numpy as np
import pytest
import rclpy
import ros_graph
from faults.bench import PERIOD, PERIOD_NS, Bench, deliver
from faults.driven import OUTPUTS, DrivenBench
from numpy.typing import NDArray
from some_slow import one_in
from test_robot_observations import policy_node, robot_yaml, written
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros.nodes.executor_node import ExecutorNode
from diffusion_ros.nodes.policy_node import PolicyNode
from diffusion_ros.robot import WORLD_FRAME
from diffusion_ros.ros import messages

Array = NDArray[np.float64]
STATE = (*fake_policy.LOW_DIM, *fake_policy.OBJECT)


@pytest.fixture(scope="module", autouse=True)
def ros() -> Iterator[None]:
    with ros_graph.own_domain():
        rclpy.init()
        yield
        rclpy.try_shutdown()


# A robot that takes rows as they are


class LateBench(Bench):
    """A policy whose rows are numbers that go on by one, an executor, and chunks that are under way for a while: the
    numbers that are executed tell whether a row is left out or given twice."""

    def __init__(
        self,
        folder: Path,
        hz: float = 20.0,
        jitter: float = 0.0,
        delay: tuple[float, float] = (0.1, 0.2),
        clock_offset: float = 0.0,
        seed: int = 0,
        **changes: Any,
    ) -> None:
        """hz, jitter [s]: of the observations; some are later than they should be. delay [s]: of chunks, between these
        two. clock_offset [s]: what the policy's clock is ahead of the robot's."""
        self.hz, self.jitter, self.delay, self.clock_offset = hz, jitter, delay, clock_offset
        self.rng = np.random.default_rng(seed)
        self.executed: list[messages.Executed] = []
        self.newest: list[int] = []
        """Stamp of the newest chunk that had come, of each row that was executed."""
        self.stamps: list[int] = []
        self._arrived: list[int] = []
        self._under_way: list[tuple[float, JointTrajectory]] = []
        self._observes = 0.0
        spec = fake_policy.spec(STATE, horizon=30, max_delay=12)
        checkpoint = fake_policy.save(folder / "counting.pt", spec, fake_policy.CountingPolicy)
        super().__init__(folder, checkpoint=checkpoint, policy_min_frame_rate=0.0, **changes)
        self.robot.moves = False

    def _policy(self) -> PolicyNode:
        node = super()._policy()
        ahead_ns = round(self.clock_offset * 1e9)
        node.get_clock = lambda: SimpleNamespace(
            now=lambda: SimpleNamespace(nanoseconds=self.clock.ns + ahead_ns),
        )
        return node

    def new_executor(self, stops: Path | None = None) -> ExecutorNode:
        node = super().new_executor(stops)
        node._executed_publisher.publish = self._say
        return node

    def _say(self, msg: JointTrajectory) -> None:
        self.executed.append(messages.executed_from_msg(msg))
        self.newest.append(max(self._arrived))
        deliver(self.policy._executed_listener, msg, b"executor")

    def _sense(self) -> None:
        if self.clock.seconds < self._observes:
            return
        self._observes = 1000.0 + (len(self.stamps) + 1) / self.hz + self.rng.uniform(0, self.jitter)
        self.stamps.append(self.stamp("pose"))
        for name, msg in (("joints", self.joints_msg), ("object", self.object_msg), ("pose", self.pose_msg)):
            self.send(name, msg())

    def send_chunk(self, msg: JointTrajectory, sender: bytes = b"policy") -> None:
        self._under_way.append((self.clock.seconds + self.rng.uniform(*self.delay), msg))

    def _think(self) -> None:
        super()._think()
        for one in sorted((one for one in self._under_way if one[0] <= self.clock.seconds), key=lambda one: one[0]):
            self._under_way.remove(one)
            self._arrived.append(messages.chunk_from_msg(one[1]).stamp_ns)
            super().send_chunk(one[1])

    def numbers(self) -> list[int]:
        return [round(one.row[0] / fake_policy.COUNT) for one in self.executed]


def teleop_row(bench: LateBench) -> JointTrajectory:
    return messages.teleop_to_msg([0.001, 0, 0, 0, 0, 0, 0], True, bench.clock.ns, PERIOD_NS, WORLD_FRAME)


@pytest.fixture
def late(tmp_path: Path) -> Iterator[Any]:
    made: list[LateBench] = []

    def bench(**changes: Any) -> LateBench:
        made.append(LateBench(tmp_path, **changes))
        return made[-1]

    yield bench
    for one in made:
        one.close()


@pytest.mark.parametrize("seed", one_in(3, range(3)))
@pytest.mark.parametrize(
    ("jitter", "delay"),
    [(0.0, (0.0, 0.0)), (0.002, (0.1, 0.2)), (0.024, (0.0, 0.4)), (0.01, (0.0, 1.0))],
    ids=["in time", "late", "with jitter", "out of order"],
)
def test_every_row_is_the_newest_chunks_and_each_comes_once(
    late: Any, jitter: float, delay: tuple[float, float], seed: int
) -> None:
    bench = late(jitter=jitter, delay=delay, seed=seed)
    bench.run(8.0)
    assert len(bench.executed) > 110
    assert np.diff(bench.numbers()).tolist() == [1] * (len(bench.executed) - 1), "none left out, none twice"
    assert [one.chunk_ns for one in bench.executed] == pytest.approx(bench.newest, abs=10)
    steps = [bench.stamps.index(one.stamp_ns) for one in bench.executed]
    assert np.diff(steps).tolist() == [1] * (len(steps) - 1), "each observation is answered"
    observed = [int(np.argmin(np.abs(np.subtract(bench.stamps, one.chunk_ns)))) for one in bench.executed]
    first = [one.chunk_ns == bench.executed[0].chunk_ns for one in bench.executed].index(False)
    places = [one.place for one in bench.executed]
    assert places[:first] == list(range(first)), "a robot that stands begins with the first row"
    assert places[first:] == np.subtract(steps, observed)[first:].tolist(), "then the row of its step"
    if delay[1] > 0.5:
        assert bench.executor._counts["chunks refused"] > 0, "an older one came after a newer one"


def test_a_policy_on_another_machine_counts_rows_whatever_its_clock_says(tmp_path: Path) -> None:
    executed = {}
    for ahead in (0.0, 3.0, -3.0):
        with closing(LateBench(tmp_path, jitter=0.01, clock_offset=ahead, policy_max_input_age=4.0)) as bench:
            bench.run(4.0)
            executed[ahead] = [(one.stamp_ns, one.chunk_ns, one.place, *one.row) for one in bench.executed]
            assert len(bench.executed) > 60 and bench.policy._delay.rows >= 3
    assert executed[3.0] == executed[-3.0] == executed[0.0]


def test_clocks_that_differ_by_more_than_an_input_may_be_old_are_said_and_nothing_moves(late: Any) -> None:
    bench = late(clock_offset=3.0)
    bench.run(1.0)
    assert not bench.executed
    assert "eef_pose: stamped 3.000 s behind the clock, at most 0.5 s expected" in bench.says()


def test_what_was_under_way_while_a_person_drove_is_nothing_to_go_on_from(late: Any) -> None:
    """Rows that were set aside were never executed, and say nothing of the delay."""
    bench = late(delay=(0.1, 0.1), executor_teleop="topic")
    bench.run(3.0)
    before = bench.policy._delay.rows
    for _ in range(20):
        deliver(bench.executor._person.listener, teleop_row(bench), b"person")
        bench.run(0.05)
    assert bench.executed[-1].person
    sampled = bench.policy.policy.sample
    given: list[Array | None] = []
    bench.policy.policy.sample = lambda *args, **more: (given.append(more["executed"]), sampled(*args, **more))[1]
    bench.run(3.0)
    assert not bench.executed[-1].person and bench.policy._delay.rows == before
    assert given[0] is None and given[-1] is not None
    alone = [executed is None for executed in given]
    assert alone == sorted(alone, reverse=True), "until rows of the policy's are executed again"


def test_a_row_that_no_observation_came_for_is_said_with_its_own_time(late: Any) -> None:
    bench = late(hz=10.0, jitter=0.002)
    bench.run(6.0)
    later = [one for one in bench.executed if one.chunk_ns != bench.executed[0].chunk_ns]
    beside = [one.chunk_ns + one.place * PERIOD_NS - one.stamp_ns for one in later]
    assert len(beside) > 80 and max(map(abs, beside)) < 0.7 * PERIOD_NS
    assert np.diff([one.stamp_ns for one in bench.executed]).min() > 0.3 * PERIOD_NS


@pytest.mark.parametrize(("hz", "jitter"), one_in(2, [(10.0, 0.002), (25.0, 0.002), (125.0, 0.004), (1000.0, 0.0)]))
def test_a_chunk_goes_on_from_the_rows_that_a_robot_counts_whenever_it_is_observed(
    late: Any, hz: float, jitter: float
) -> None:
    """A driver's poses come beside the executor's steps, so that stamps do not tell how many rows are over."""
    bench = late(hz=hz, jitter=jitter, delay=(0.1, 0.2), seed=3)
    bench.run(4.0 if hz == 1000.0 else 8.0)
    # Until the first chunk has been followed by another one nobody knows how late they are.
    following = np.diff(bench.numbers()[20:])
    assert len(following) > 50 and (following != 1).sum() <= 2, following.tolist()


# A robot with drivers of its own


def test_a_row_that_an_executor_sends_early_is_that_of_the_time_when_it_is_due(tmp_path: Path) -> None:
    """As in a recording that a policy learns from: by the arm's latency after it began."""
    node = policy_node(*written(tmp_path, robot_yaml(), horizon=13, max_delay=4))
    begins, rows = 10**18, 0.001 * np.arange(1, 8)
    for step in range(2):
        one = messages.Executed(begins + step * PERIOD_NS, rows + step, False, step, begins + 60_000_000)
        deliver(node._executed_listener, messages.executed_to_msg(one, PERIOD_NS, "world"), b"executor")
    node._hear()
    due = node._controller._executed
    assert due.stamps == [begins + 60_000_000, begins + 60_000_000 + PERIOD_NS]
    np.testing.assert_array_equal(due.values, [rows, rows + 1])
    node.close()
    node.destroy_node()


@pytest.fixture
def arms(tmp_path: Path) -> Iterator[Any]:
    made: list[DrivenBench] = []

    def arm(output: str, **parameters: Any) -> DrivenBench:
        made.append(DrivenBench(tmp_path, output, **parameters))
        return made[-1]

    yield arm
    for one in made:
        one.close()


@pytest.mark.parametrize("seed", one_in(3, range(3)))
def test_a_drivers_row_is_the_newest_chunks_too(arms: Any, seed: int) -> None:
    """Whenever it comes, also after a newer one, the row goes on that is due in it."""
    bench, rng = arms("pose"), np.random.default_rng(seed)
    bench.delay = lambda: float(rng.uniform(0.0, 0.3))
    sent: list[int] = []
    executed: list[tuple[messages.Executed, int]] = []
    executor, add = bench.executor, bench.executor.executor_logic.add_chunk
    executor.executor_logic.add_chunk = lambda chunk: (sent.append(chunk.stamp_ns), add(chunk))[1]
    executor._executed_publisher.publish = lambda msg: executed.append((messages.executed_from_msg(msg), max(sent)))
    bench.run(5.0)
    assert len(executed) > 90 and executor._counts["chunks refused"] > 0
    begun = executed[0][0].stamp_ns - executed[0][1]
    for one, newest in executed:
        assert one.chunk_ns == pytest.approx(newest, abs=10)
        beside = begun - PERIOD_NS // 2 if newest == executed[0][1] else 0  # a robot that stands begins with row 0
        assert one.place == (one.stamp_ns - newest - beside) // PERIOD_NS
    rows = [(newest, one.place) for one, newest in executed]
    assert len(set(rows)) == len(rows)
    further = [after - before for (one, before), (two, after) in itertools.pairwise(rows) if one == two]
    assert further == [1] * len(further) and len(further) > 20


def of_two_minds(bench: DrivenBench) -> None:
    """Chunks in turn say 0.26 m/s one way and 0.06 m/s the other, 0.1 m/s in the mean."""
    count = [0]

    def rows() -> Array:
        count[0] += 1
        values = np.zeros((9, 7))
        values[:, 0] = PERIOD * (0.1 + 0.16 * (-1) ** count[0])
        return values

    bench.rows = rows


@pytest.mark.parametrize("output", OUTPUTS)
def test_an_ensemble_goes_the_way_of_the_mean_however_late_its_chunks_are(arms: Any, output: str) -> None:
    """And not after each newest one alone, to make up for what that would have done so far."""
    bench = arms(output, join="ensemble")
    of_two_minds(bench)
    bench.chunk_hz, bench.delay = 20.0, lambda: 0.225
    bench.run(3.0)
    places = np.array([place[0] for at, place, _ in bench.way if at > bench.clock.seconds - 2.0])
    speeds = np.diff(places[::10]) / 0.05
    assert -np.mean(speeds) == pytest.approx(0.1, rel=0.06)
    assert np.std(speeds) < 0.04


@pytest.mark.parametrize(
    "parameters", [{"join": "blend", "blend_rows": 4}, {"join": "ensemble"}], ids=lambda p: p["join"]
)
def test_a_trajectory_goes_through_the_joined_rows_that_are_to_come(arms: Any, parameters: dict[str, Any]) -> None:
    bench = arms("joint_trajectory", **parameters)
    of_two_minds(bench)
    seen: list[tuple[float, Array, list[Array]]] = []
    send = bench.driven.output.send

    def watch(target: Any, seconds: float, hand: Any, lagged: Any, preview: Any) -> None:
        ahead = [one.position for one in preview(0.02)] if len(seen) == 0 else []
        seen.append((bench.clock.seconds, target.position, ahead))
        send(target, seconds, hand, lagged, preview)

    bench.run(0.75)
    bench.tamper = lambda msg: None  # no other chunk comes: what is seen ahead is what happens
    bench.driven.output.send = watch
    bench.run(0.3)
    (_, _, ahead), *following = seen
    assert len(following) > 10
    for expected, (_, position, _) in zip(ahead, following, strict=False):
        np.testing.assert_allclose(position, expected, atol=2e-3)
