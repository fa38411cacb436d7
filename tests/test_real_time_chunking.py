"""Chunks that come late: how late, what they go on from, and what else can be done."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fake_policy
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from diffusion_ros import checkpoint
from diffusion_ros.control.action_chunk import ActionChunk
from diffusion_ros.control.chunk_executor import ChunkExecutor, ExecutorLimits
from diffusion_ros.control.delay import ChunkDelay, soft_weights
from diffusion_ros.control.observation import Frame
from diffusion_ros.control.policy_controller import PolicyController
from diffusion_ros.models.policy import Policy
from diffusion_ros.simulators.arm import Simulation
from diffusion_ros.spec import CheckpointSpec
from training.evaluation.rollout import Driver, Late, roll_out, smoothness

PERIOD = 50_000_000
STATE = (*fake_policy.LOW_DIM, *fake_policy.OBJECT)


def executed(delay: ChunkDelay, chunk: int, first: int, last: int) -> None:
    """Rows first to last of the chunk that was observed at step `chunk`."""
    for row in range(first, last + 1):
        delay.executed(10**9 + chunk * PERIOD, row)


def test_a_delay_is_the_first_row_of_a_chunk_that_was_executed_the_worst_of_the_last_ten() -> None:
    delay = ChunkDelay(16, PERIOD)
    executed(delay, 0, 7, 10)  # nothing was executed before the first chunk, whenever it came
    assert delay.rows == 7, "better than nothing"
    executed(delay, 8, 3, 12)
    assert delay.rows == 3, "and forgotten as soon as one counts"
    executed(delay, 16, 5, 11)
    executed(delay, 24, 4, 9)
    assert delay.rows == 5
    for chunk in range(32, 112, 8):
        executed(delay, chunk, 2, 9)
    assert delay.rows == 2, "the slow ones are long ago"


@pytest.mark.parametrize(
    ("last", "chunk", "first"),
    [
        pytest.param(10, 24, 9, id="a hold, and a chunk that was under way meanwhile"),
        pytest.param(10, 16, 4, id="a hold of one step"),
        pytest.param(15, 60, 9, id="another episode, after the rows had run out"),
        pytest.param(10, 40, 9, id="a person took over meanwhile"),
        pytest.param(10, -9000, 9, id="a time that begins again"),
    ],
)
def test_a_chunk_after_a_hold_says_nothing_of_the_delay(last: int, chunk: int, first: int) -> None:
    delay = ChunkDelay(16, PERIOD)
    executed(delay, 0, 0, 9)
    executed(delay, 8, 2, last)
    assert delay.rows == 2
    executed(delay, chunk, first, 10)
    assert delay.rows == 2
    executed(delay, chunk + 8, 3, 9)
    assert delay.rows == 3, "the next one counts"


def test_a_chunk_that_comes_after_the_rows_ran_out_is_late_indeed() -> None:
    """Else nobody would ever ask for the next one earlier."""
    delay = ChunkDelay(11, PERIOD)
    executed(delay, 0, 5, 10)
    executed(delay, 8, 5, 10)  # two steps held
    assert delay.rows == 5


def test_rows_beside_those_of_the_chunk_before_follow_them() -> None:
    """Pictures come when they come: a chunk is stamped up to half a period beside the rows before it."""
    for beside in (-0.49, -0.2, 0.2, 0.49):
        delay = ChunkDelay(16, PERIOD)
        executed(delay, 0, 0, 10)
        delay.executed(10**9 + round((8 + beside) * PERIOD), 3)
        assert delay.rows == 3


def test_certain_rows_weigh_1_and_likely_ones_less_and_less() -> None:
    weights = soft_weights(9, 3, 7)
    left = [4 / 5, 3 / 5, 2 / 5, 1 / 5]
    expected = [1, 1, 1, *(c * (math.exp(c) - 1) / (math.e - 1) for c in left), 0, 0]
    np.testing.assert_allclose(weights, expected, rtol=1e-12)
    assert soft_weights(3, 5, 9).tolist() == [1, 1, 1] and soft_weights(4, 0, 0).tolist() == [0, 0, 0, 0]


class Recorded:
    """A policy whose k-th chunk has rows of k.0, k.1, ..., and that remembers what it was given."""

    row_kind = "delta"
    goes_on = True

    def __init__(self, **changes: Any) -> None:
        self.spec: CheckpointSpec = fake_policy.spec(STATE, horizon=12, **changes)
        self.given: list[tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]] = []

    def check(self, frame: Mapping[str, Any]) -> None:
        pass

    def encode_checked(self, frame: Mapping[str, Any]) -> torch.Tensor:
        return torch.zeros(1)

    def sample(
        self,
        features: Sequence[torch.Tensor],
        seed: int,
        executed: NDArray[np.float64] | None = None,
        weights: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        self.given.append((executed, weights))
        return np.tile(len(self.given) + 0.1 * np.arange(self.spec.n_rows)[:, None], (1, 7))

    def executable(self, rows: NDArray[np.float64], observed: Mapping[str, Any]) -> NDArray[np.float64]:
        return rows

    def restated(self, rows: NDArray[np.float64], *frames: Mapping[str, Any]) -> NDArray[np.float64]:
        return rows


def frame(step: int) -> Frame:
    values = {"robot0_eef_pos": np.zeros(3), "robot0_eef_quat": np.array([0.0, 0.0, 0.0, 1.0])}
    values |= {"robot0_gripper_qpos": np.zeros(2), "object_pos": np.zeros(3), "object_quat": np.array([0, 0, 0, 1.0])}
    return Frame(10**9 + step * PERIOD, values)


def driven(policy: Any, steps: Iterator[int] | range, delay: int, holds: tuple[int, ...] = ()) -> list[int]:
    """Steps at which chunks were made; each comes `delay` rows late. What is executed at step s is -s."""
    controller = PolicyController(policy, 0, rtc=True)
    made = []
    for step in steps:
        controller.delay_rows = delay
        stamp = 10**9 + step * PERIOD
        controller.push(frame(step))
        if controller.needs_chunk(stamp):
            controller.chunk()
            made.append(step)
        if step not in holds:
            controller.executed(stamp + 3, np.full(7, -float(step)))
    return made


def test_a_chunk_goes_on_from_what_was_executed_and_from_the_rows_of_the_one_before() -> None:
    policy = Recorded(max_delay=4)
    assert driven(policy, range(20), 3) == [0, 8, 16]
    assert policy.given[0] == (None, None), "nothing was executed before the first"
    executed, weights = policy.given[1]
    assert executed is not None and weights is not None
    # The row of the step before, and the first chunk's of steps 8, 9 and 10.
    np.testing.assert_allclose(executed[:4, 0], [-7, 1.8, 1.9, 2.0])
    assert weights.tolist() == [1, 1, 1, 1, *8 * [0]]


def test_a_robot_that_stands_gets_one_chunk_and_the_next_goes_on_from_where_that_began() -> None:
    policy = Recorded(max_delay=4)
    controller = PolicyController(policy, 0, rtc=True)
    controller.delay_rows = 3
    made = []
    for step in range(16):
        stamp = 10**9 + step * PERIOD
        controller.push(frame(step))
        if controller.needs_chunk(stamp):
            controller.chunk()
            made.append(step)
        if step >= 3:  # it came then, and the robot began with its first row
            controller.executed(stamp, np.full(7, -float(step)), (10**9, step - 3))
    assert made == [0, 11], "eight rows after it began"
    executed, weights = policy.given[1]
    assert executed is not None and weights is not None
    np.testing.assert_allclose(executed[:4, 0], [-10, 1.8, 1.9, 2.0])
    assert weights.tolist() == [1, 1, 1, 1, *8 * [0]]


def test_a_chunk_that_a_standing_robot_does_not_take_is_followed_by_another() -> None:
    assert driven(Recorded(max_delay=4), range(30), 3, holds=tuple(range(30))) == [0, 11, 22]


@pytest.mark.parametrize("delay", [0.1, 0.3])
def test_a_late_policy_begins_with_its_first_row_and_leaves_none_out(tmp_path: Path, delay: float) -> None:
    path = fake_policy.save(tmp_path / "p.pt", fake_policy.spec(STATE, horizon=16, max_delay=8))
    late_policy = Policy(checkpoint.load(path))
    done: list[tuple[int, int]] = []
    driver = Driver(late_policy, 0, Late(delay), 0)
    simulation = Simulation("can", cameras=())
    simulation.reset(0)
    for step in range(40):
        stamp = 10**9 + step * PERIOD
        command = driver.command(stamp, simulation.observe(images=False))
        driver.executed(stamp, command)
        if command.key is not None:
            done.append(((command.key[0] - 10**9) // PERIOD, command.key[1]))
    late = round(delay / 0.05)
    assert len(done) == 40 - late and done[0] == (0, 0)
    firsts = [place for i, (made, place) in enumerate(done) if i and done[i - 1][0] != made]
    assert firsts and set(firsts) == {late}, "each of the others is late by as much"


def test_more_rows_than_it_was_trained_for_are_not_given_and_chunks_are_asked_for_before_rows_run_out() -> None:
    policy = Recorded(max_delay=4)
    assert driven(policy, range(20), 6) == [0, 5, 10, 15], "11 rows less 6"
    assert policy.given[1][1].tolist() == [1, 1, 1, 1, 1, *7 * [0]]


def test_without_training_the_rest_of_the_last_chunk_is_likely() -> None:
    policy = Recorded()
    driven(policy, range(9), 2)
    executed, weights = policy.given[1]
    assert executed is not None and weights is not None
    np.testing.assert_allclose(executed[:4, 0], [-7, 1.8, 1.9, 2.0])
    assert weights[:3].tolist() == [1, 1, 1] and 0 < weights[3] < 1 and not weights[4:].any()


@pytest.mark.parametrize("n_obs_steps", [1, 2])
@pytest.mark.parametrize("kind", ["delta", "pose"])
def test_after_a_hold_a_chunk_is_made_from_what_is_seen_alone(kind: str, n_obs_steps: int) -> None:
    policy = Recorded(max_delay=4, n_obs_steps=n_obs_steps)
    policy.row_kind = kind
    driven(policy, range(9), 3, holds=(7,))
    assert policy.given == [(None, None), (None, None)]
    driven(policy, range(100, 109), 3)
    assert policy.given[3][0] is not None


def test_an_old_checkpoint_says_what_mends_it(tmp_path: Any) -> None:
    policy = Policy(checkpoint.load(fake_policy.save(tmp_path / "old.pt")))
    with pytest.raises(ValueError, match="export_again"):
        PolicyController(policy, 0, rtc=True)


def test_poses_seen_from_the_hand_are_restated_for_where_it_is_now(tmp_path: Any) -> None:
    policy = Policy(checkpoint.load(fake_policy.save(tmp_path / "p.pt", fake_policy.relative(fake_policy.LOW_DIM))))
    rng = np.random.default_rng(0)
    then, now = (
        {"robot0_eef_pos": rng.normal(size=3), "robot0_eef_quat": Rotation.random(rng=rng).as_quat()} for _ in range(2)
    )
    turns = Rotation.random(5, rng=rng).as_matrix()[:, :, :2].transpose(0, 2, 1).reshape(5, 6)
    rows = np.hstack([rng.normal(size=(5, 3)), turns, rng.uniform(-1, 1, (5, 1))])
    again = policy.restated(rows, then, now)
    one, two = policy.executable(rows, then), policy.executable(again, now)
    np.testing.assert_allclose(two[:, [0, 1, 2, 6]], one[:, [0, 1, 2, 6]], atol=1e-12)
    apart = Rotation.from_rotvec(one[:, 3:6]).inv() * Rotation.from_rotvec(two[:, 3:6])
    assert apart.magnitude().max() < 1e-7


def test_an_ensemble_is_the_mean_of_all_chunks_and_the_newests_gripper() -> None:
    limits = ExecutorLimits((-1.0,) * 7, (1.0,) * 7)
    executor = ChunkExecutor(limits, PERIOD, PERIOD, join="ensemble", max_chunk_rows=6)
    for step in range(8):
        stamp = step * PERIOD
        executor.observe(stamp, np.zeros(3))
        executor.add_chunk(ActionChunk(stamp, np.full((6, 7), 0.1 * step), PERIOD))
        command = executor.command(stamp)
        covering = np.arange(max(0, step - 5), step + 1)  # chunks of six rows
        weights = np.exp(-0.01 * np.arange(len(covering)))
        np.testing.assert_allclose(command.row[:6], 0.1 * (weights @ covering) / weights.sum(), atol=1e-12)
        assert command.row[6] == pytest.approx(0.1 * step)


@pytest.fixture(scope="module")
def lift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Policy, Simulation]]:
    path = fake_policy.save(
        tmp_path_factory.mktemp("p") / "lift.pt", fake_policy.spec(STATE, task="lift", environment="Lift")
    )
    simulation = Simulation("lift", ())
    yield Policy(checkpoint.load(path)), simulation
    simulation.close()


def late(lift: tuple[Policy, Simulation], late: Late | None) -> dict[str, Any]:
    (result,) = roll_out(*lift, 1, 100_000, 30, late=late)
    return dataclasses.asdict(result)


def test_a_chunk_that_is_not_late_is_as_in_lockstep(lift: tuple[Policy, Simulation]) -> None:
    now = late(lift, None)
    for strategy in ("latest", "wait"):
        soon = late(lift, Late(0.0, strategy=strategy))
        assert {name: soon[name] for name in now} == now and soon["held"] == 0


def test_late_chunks_are_the_same_again_and_strategies_differ(lift: tuple[Policy, Simulation]) -> None:
    strategies = ("latest", "blend", "ensemble", "wait")
    results = [late(lift, Late(0.1, 0.05, strategy)) for strategy in strategies]
    assert late(lift, Late(0.1, 0.05, "latest")) == results[0]
    assert len({result["actions_sha256"] for result in results}) == len(strategies)
    held = dict(zip(strategies, (result["held"] for result in results), strict=True))
    # The first chunk comes after two or three steps; only who waits stands again before each of the others.
    assert held["latest"] in (2, 3) and held["wait"] > 6
    assert all(result["jerk"] > 0 for result in results)


def test_how_smoothly_a_robot_was_driven() -> None:
    rows = np.zeros((6, 7))
    rows[:, 0] = [0.0, 0.01, 0.01, 0.03, 0.03, 0.03]  # m per step: 0, 0.2, 0.2, 0.6, 0.6, 0.6 m/s at 20 Hz
    rows[:, 6] = [1, -1, 1, -1, 1, -1]  # the gripper does not count
    jump, jerk = smoothness(rows, [None, 1, 1, 2, 2, 3], 20.0)
    assert jump == pytest.approx(0.4), "from chunk 1 to 2; the first motion follows a hold"
    # m/s in a step: 0, 0.2, 0, 0.4, 0, 0, so that accelerations change by 4, -4, 8, -8, 0 m/s2 in 1/20 s.
    assert jerk == pytest.approx(20.0 * np.sqrt(np.mean([4.0**2, 4.0**2, 8.0**2, 8.0**2, 0.0])))
    assert smoothness(rows, [None] * 6, 20.0) == (0.0, 0.0)
    # It is the same motion, whether the robot waited for it or not.
    assert smoothness(rows[1:], [1, 1, 2, 2, 3], 20.0) == (jump, jerk)
    assert smoothness(rows[:2], [1, 2], 20.0) == (pytest.approx(0.2), pytest.approx(80.0 / np.sqrt(2)))
    assert smoothness(rows[:0], [], 20.0) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"delay": -0.1}, "at least 0"),
        ({"delay": math.nan}, "at least 0"),
        ({"delay": 0.1, "strategy": "hope"}, "'hope': one of rtc, latest"),
    ],
)
def test_what_makes_no_sense_is_said_in_a_line(values: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        Late(**values)
