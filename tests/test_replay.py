"""The sum tree against brute force, n-step returns against episodes worked out by hand, what replay draws."""

from __future__ import annotations

import numpy as np
import pytest

from training.rl.replay import NStepReturns, Replay, SumTree, Transitions


@pytest.mark.parametrize("capacity", [1, 2, 5, 64, 1000])
def test_tree_is_a_cumulative_sum(capacity: int) -> None:
    rng = np.random.default_rng(capacity)
    tree, numbers = SumTree(capacity), np.zeros(capacity)
    for _ in range(20):
        indices = rng.integers(capacity, size=7)
        values = rng.integers(0, 5, size=7).astype(float)  # whole numbers: sums are exact in any order
        tree.set(indices, values)
        for i, value in zip(indices, values, strict=True):
            numbers[i] = value
    if numbers.sum() == 0:
        numbers[0] = 1
        tree.set(np.array([0]), 1.0)
    assert tree.total == numbers.sum()
    mass = rng.random(500) * tree.total
    assert np.array_equal(tree.find(mass), np.searchsorted(np.cumsum(numbers), mass, side="right"))
    assert np.array_equal(tree.get(np.arange(capacity)), numbers)


def test_tree_never_finds_what_has_no_mass() -> None:
    tree = SumTree(8)
    tree.set(np.array([2]), 0.1)
    # Rounding can bring a mass up to the total; it must not fall off the end.
    assert tree.find(np.array([0.0, 0.1, 0.1 + 1e-17])).tolist() == [2, 2, 2]


def test_sampling_follows_the_priorities() -> None:
    replay = Replay(4, 1, alpha=0.5)
    replay.add(transitions(4))
    replay.set_priorities(np.arange(4), np.array([1.0, 4.0, 9.0, 16.0]) - Replay.PRIORITY_FLOOR)
    batches = replay.sample(100, 100, beta=1.0, rng=np.random.default_rng(0))
    shares = np.bincount(batches.indices.reshape(-1), minlength=4) / 10_000
    assert np.allclose(shares, [0.1, 0.2, 0.3, 0.4], atol=0.002)
    # With beta 1 the weights take the bias back: every transition counts as under uniform sampling.
    weights, rarest = batches.weights.numpy(), batches.indices == 0
    assert np.allclose(weights[rarest], 1.0) and np.allclose(weights[batches.indices == 3], 0.25)
    half = replay.sample(100, 100, beta=0.5, rng=np.random.default_rng(0)).weights.numpy()
    assert np.allclose(half[batches.indices == 3], 0.5)


def test_each_minibatch_is_drawn_from_all_over_the_mass() -> None:
    replay = Replay(64, 1, alpha=1.0)
    replay.add(transitions(64))
    for row in replay.sample(4, 16, beta=0.4, rng=np.random.default_rng(1)).indices:
        assert np.array_equal(np.sort(row) // 4, np.arange(16))


def test_new_transitions_have_the_largest_priority() -> None:
    replay = Replay(4, 1, alpha=1.0)
    replay.add(transitions(3))
    replay.set_priorities(np.arange(3), np.array([0.0, 7.0, 0.0]))
    replay.add(transitions(1))
    indices = replay.sample(100, 100, beta=0.4, rng=np.random.default_rng(2)).indices
    assert np.allclose(np.bincount(indices.reshape(-1))[[1, 3]], 5000, atol=10)


def test_uniform_sampling_is_uniform_and_has_no_weights() -> None:
    replay = Replay(8, 1, alpha=None)
    replay.add(transitions(5))
    replay.set_priorities(np.arange(5), np.array([100.0, 1, 1, 1, 1]))
    batches = replay.sample(100, 100, beta=0.4, rng=np.random.default_rng(3))
    assert np.allclose(np.bincount(batches.indices.reshape(-1), minlength=8)[:5], 2000, atol=150)
    assert (batches.weights == 1).all()


def test_the_oldest_go_when_it_is_full() -> None:
    replay = Replay(4, 1, alpha=1.0)
    replay.add(transitions(3))
    replay.add(transitions(3, first=3))
    assert len(replay) == 4
    seen = replay.sample(10, 10, beta=0.4, rng=np.random.default_rng(4)).action.numpy()
    assert sorted(set(seen.reshape(-1))) == [2, 3, 4, 5]


def test_state_goes_on_where_it_was() -> None:
    first = Replay(4, 1, alpha=0.6)
    first.add(transitions(4))
    first.add(transitions(2, first=4))
    first.set_priorities(np.arange(4), np.array([0.3, 0.1, 5.0, 2.0]))
    second = Replay(4, 1, alpha=0.6)
    second.restore(first.state())
    for replay in (first, second):
        replay.add(transitions(1, first=9))
    draws = [replay.sample(3, 5, 0.4, np.random.default_rng(5)) for replay in (first, second)]
    assert np.array_equal(draws[0].indices, draws[1].indices)
    assert (draws[0].action == draws[1].action).all() and (draws[0].weights == draws[1].weights).all()


def transitions(count: int, first: int = 0) -> Transitions:
    numbers = np.arange(first, first + count)
    column = numbers[:, None].astype(np.float32)
    return Transitions(column, numbers, column[:, 0], np.ones(count, np.float32), column + 1)


def rows(found: list[Transitions]) -> list[tuple[float, ...]]:
    """(observation, action, returns, discount, next observation) of each, by observation."""
    result = []
    for t in found:
        columns = (t.observation[:, 0], t.action, t.returns, t.discount, t.next_observation[:, 0])
        result += [tuple(float(x) for x in row) for row in zip(*columns, strict=True)]
    return sorted(result)


def test_n_step_returns_by_hand() -> None:
    """Two environments, gamma 1/2, n 3. The first terminates after its step 4 and starts again, the second is
    truncated after its step 2. Observation 10 e + t, reward t + 1, action t; the step after an end is none."""
    returns = NStepReturns(3, 0.5, 2, 1)
    found = []
    observations = np.array([[0, 1, 2, 3, 4, 5, 6], [10, 11, 12, 13, 14, 15, 16]], np.float32).T
    for t in range(6):
        found.append(
            returns.add(
                observations[t][:, None],
                np.full(2, t),
                np.full(2, t + 1.0),
                observations[t + 1][:, None],
                terminated=np.array([t == 3, False]),
                truncated=np.array([False, t == 1]),
                valid=np.array([t != 4, t != 2]),
            )
        )
    assert rows(found) == [
        (0, 0, 1 + 2 / 2 + 3 / 4, 1 / 8, 3),  # a whole window
        (1, 1, 2 + 3 / 2 + 4 / 4, 0, 4),  # it ends in a terminal step
        (2, 2, 3 + 4 / 2, 0, 4),  # shorter, and nothing follows
        (3, 3, 4, 0, 4),
        (10, 0, 1 + 2 / 2, 1 / 4, 12),  # shorter, and the value of 12 follows
        (11, 1, 2, 1 / 2, 12),
        (13, 3, 4 + 5 / 2 + 6 / 4, 1 / 8, 16),  # the next episode begins at 13: step 2 was none
    ]
    # What is open when a segment ends is cut there, as by truncation.
    assert rows([returns.cut(observations[6][:, None])]) == [
        (5, 5, 6, 1 / 2, 6),
        (14, 4, 5 + 6 / 2, 1 / 4, 16),
        (15, 5, 6, 1 / 2, 16),
    ]
    assert rows([returns.cut(observations[6][:, None])]) == []


def test_truncation_taken_for_termination_would_show() -> None:
    for terminated, discount in ((True, 0.0), (False, 0.9)):
        returns = NStepReturns(1, 0.9, 1, 1)
        one = returns.add(
            np.zeros((1, 1)), np.zeros(1), np.ones(1), np.ones((1, 1)),
            np.array([terminated]), np.array([not terminated]), np.array([True]),
        )  # fmt: skip
        assert one.discount[0] == np.float32(discount)
