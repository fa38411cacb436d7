"""Experience replay: a sum tree, n-step returns, and a buffer that is sampled uniformly or by priority."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]


class SumTree:
    """Numbers that are not negative, and what it takes to draw one in proportion to them, for many draws at once.

    A heap: node i is the sum of nodes 2 i and 2 i + 1, the root is node 1, the numbers are the leaves.

    Args:
        capacity: how many numbers.
    """

    def __init__(self, capacity: int) -> None:
        self.levels = max(1, (capacity - 1).bit_length())
        self.leaves = 1 << self.levels
        self.sums = np.zeros(2 * self.leaves)

    @property
    def total(self) -> float:
        return float(self.sums[1])

    def get(self, indices: Array) -> Array:
        """The numbers (N,) at indices (N,)."""
        numbers: Array = self.sums[indices + self.leaves]
        return numbers

    def set(self, indices: Array, values: Array | float) -> None:
        """Writes values (N,) at indices (N,); of an index that comes twice the last counts."""
        nodes = indices + self.leaves
        self.sums[nodes] = values
        for _ in range(self.levels):
            nodes >>= 1  # a parent that comes twice is written twice, with the same sum
            self.sums[nodes] = self.sums[2 * nodes] + self.sums[2 * nodes + 1]

    def find(self, mass: Array) -> Array:
        """The indices (N,) at which the running sum of the numbers first exceeds mass (N,), each in [0, total)."""
        mass = mass.copy()
        nodes = np.ones(len(mass), np.int64)
        for _ in range(self.levels):
            nodes *= 2
            left = self.sums[nodes]
            # Rounding may leave a mass above everything to the right: what cannot be drawn is not.
            right = (mass >= left) & (self.sums[nodes + 1] > 0)
            mass -= left * right
            nodes += right
        return nodes - self.leaves


class Transitions(NamedTuple):
    """N transitions over up to n steps."""

    observation: Array
    """(N, D) float32."""
    action: Array
    """(N,) int64."""
    returns: Array
    """(N,) float32: r_0 + gamma r_1 + ..., over k <= n steps."""
    discount: Array
    """(N,) float32: gamma^k, what the value of next_observation counts; 0 after a terminal step."""
    next_observation: Array
    """(N, D) float32, k steps later."""


class NStepReturns:
    """Cuts the steps of parallel environments into transitions over n steps (Sutton 1988; Rainbow, eq. 1).

    A window that meets the end of its episode is shorter: after termination nothing follows, so it does not bootstrap;
    after truncation (a time limit) the episode would have gone on, so it bootstraps from the last observation.

    Args:
        n_steps: n.
        gamma: discount of a step.
        n_environments: E.
        observation_size: D.
    """

    def __init__(self, n_steps: int, gamma: float, n_environments: int, observation_size: int) -> None:
        self.n_steps = n_steps
        self._powers = (gamma ** np.arange(n_steps + 1)).astype(np.float32)
        shape = (n_steps, n_environments)  # a window for each of the last n starting steps
        self._observation = np.zeros((*shape, observation_size), np.float32)
        self._action = np.zeros(shape, np.int64)
        self._returns = np.zeros(shape, np.float32)
        self._length = np.zeros(shape, np.int64)
        self._open = np.zeros(shape, np.bool_)
        self._step = 0

    def add(
        self,
        observation: Array,
        action: Array,
        reward: Array,
        next_observation: Array,
        terminated: Array,
        truncated: Array,
        valid: Array,
    ) -> Transitions:
        """Takes one step of each environment in; returns the transitions that it completes.

        observation, next_observation (E, D); action, reward, terminated, truncated (E,). valid (E,) is False where the
        step was none: the one in which Gymnasium's vectors reset an environment.
        """
        slot = self._step % self.n_steps
        self._step += 1
        self._observation[slot] = observation
        self._action[slot] = action
        self._returns[slot] = 0
        self._length[slot] = 0
        self._open[slot] = valid
        self._returns += self._powers[self._length] * reward * self._open
        self._length += self._open
        done = (self._length == self.n_steps) | (terminated | truncated)
        return self._close(self._open & done, next_observation, terminated)

    def cut(self, next_observation: Array) -> Transitions:
        """Ends every episode here, as a time limit would: the windows still open, bootstrapped from (E, D)."""
        return self._close(self._open.copy(), next_observation, np.zeros(len(next_observation), np.bool_))

    def _close(self, which: Array, next_observation: Array, terminated: Array) -> Transitions:
        slots, environments = np.nonzero(which)
        self._open[slots, environments] = False
        discount = self._powers[self._length[slots, environments]] * ~terminated[environments]
        return Transitions(
            self._observation[slots, environments],
            self._action[slots, environments],
            self._returns[slots, environments],
            discount,
            next_observation[environments],
        )


@dataclass(frozen=True)
class Minibatches:
    """K minibatches of B transitions; see Transitions."""

    observation: Tensor
    """(K, B, D) float32."""
    action: Tensor
    """(K, B) int64."""
    returns: Tensor
    """(K, B) float32."""
    discount: Tensor
    """(K, B) float32."""
    next_observation: Tensor
    """(K, B, D) float32."""
    weights: Tensor
    """(K, B) float32: of importance sampling, at most 1 in each minibatch; all 1 where sampling is uniform."""
    indices: Array
    """(K, B) int64: where the transitions are, for set_priorities."""


class Replay:
    """The last `capacity` transitions.

    Args:
        capacity: the oldest go when it is full.
        observation_size: D.
        alpha: how much priorities count, P(i) ~ p_i^alpha (Schaul et al. 2016, arXiv 1511.05952, eq. 1); None: uniform.
    """

    PRIORITY_FLOOR = 1e-3
    """Added to each priority, so that no transition is lost: epsilon of section 3.3."""

    def __init__(self, capacity: int, observation_size: int, alpha: float | None) -> None:
        self.capacity, self.alpha = capacity, alpha
        self.size = 0
        self._next = 0
        self._observation = np.zeros((capacity, observation_size), np.float32)
        self._action = np.zeros(capacity, np.int64)
        self._returns = np.zeros(capacity, np.float32)
        self._discount = np.zeros(capacity, np.float32)
        self._next_observation = np.zeros((capacity, observation_size), np.float32)
        self._tree = SumTree(capacity)
        self._largest = 1.0

    def __len__(self) -> int:
        return self.size

    def add(self, transitions: Transitions) -> None:
        """Appends; new transitions have the largest priority so far, so that each is learnt from at least once."""
        count = len(transitions.action)
        indices = (self._next + np.arange(count)) % self.capacity
        self._observation[indices] = transitions.observation
        self._action[indices] = transitions.action
        self._returns[indices] = transitions.returns
        self._discount[indices] = transitions.discount
        self._next_observation[indices] = transitions.next_observation
        if self.alpha is not None and count:
            self._tree.set(indices, self._largest)
        self._next = int((self._next + count) % self.capacity)
        self.size = min(self.size + count, self.capacity)

    def sample(self, batches: int, batch_size: int, beta: float, rng: np.random.Generator) -> Minibatches:
        """Draws `batches` minibatches at once, which costs little more than one.

        beta: how much of the bias of prioritised sampling the weights take back (section 3.4), 1: all of it.
        """
        count = batches * batch_size
        weights = np.ones((batches, batch_size), np.float32)
        if self.alpha is None:
            indices = rng.integers(self.size, size=(batches, batch_size))
        else:
            # One draw from each of `count` equal shares of the mass; each minibatch has shares from all over it.
            mass = (np.arange(count) + rng.random(count)) * (self._tree.total / count)
            indices = self._tree.find(mass).reshape(batch_size, batches).T
            weights = (self._tree.get(indices) ** -beta).astype(np.float64)
            weights = (weights / weights.max(axis=1, keepdims=True)).astype(np.float32)
        return Minibatches(
            torch.from_numpy(self._observation[indices]),
            torch.from_numpy(self._action[indices]),
            torch.from_numpy(self._returns[indices]),
            torch.from_numpy(self._discount[indices]),
            torch.from_numpy(self._next_observation[indices]),
            torch.from_numpy(weights),
            indices,
        )

    def set_priorities(self, indices: Array, priorities: Array) -> None:
        """What was learnt: priorities (...), not negative, of the transitions at indices (...). Nothing if uniform."""
        if self.alpha is None:
            return
        values = (priorities.reshape(-1).astype(np.float64) + self.PRIORITY_FLOOR) ** self.alpha
        self._tree.set(indices.reshape(-1), values)
        self._largest = max(self._largest, float(values.max()))

    def state(self) -> dict[str, Any]:
        """For run.save_state."""
        filled = slice(0, self.size)
        return {
            "next": self._next,
            "largest": self._largest,
            "observation": torch.from_numpy(self._observation[filled]),
            "action": torch.from_numpy(self._action[filled]),
            "returns": torch.from_numpy(self._returns[filled]),
            "discount": torch.from_numpy(self._discount[filled]),
            "next_observation": torch.from_numpy(self._next_observation[filled]),
            "priorities": torch.from_numpy(self._tree.get(np.arange(self.size))),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """The opposite of :meth:`state`."""
        self.size, self._next, self._largest = len(state["action"]), int(state["next"]), float(state["largest"])
        filled = slice(0, self.size)
        self._observation[filled] = state["observation"].numpy()
        self._action[filled] = state["action"].numpy()
        self._returns[filled] = state["returns"].numpy()
        self._discount[filled] = state["discount"].numpy()
        self._next_observation[filled] = state["next_observation"].numpy()
        self._tree.set(np.arange(self.size), state["priorities"].numpy())
