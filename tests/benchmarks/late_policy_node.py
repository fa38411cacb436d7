"""The policy node, whose chunks come as late as bench_delay.py says; it is started in the policy node's place.

A chunk leaves so long after the stamp of its observation, or when it is ready, whichever is later. Meanwhile the policy
goes on, but with the strategy 'wait'.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from rclpy.parameter import Parameter

from diffusion_ros.control.action_chunk import ActionChunk
from diffusion_ros.control.observation import Frame
from diffusion_ros.nodes.policy_node import PolicyNode
from diffusion_ros.nodes.policy_parameters import PolicyParameters as PolicyParameters
from diffusion_ros.ros.chunk_budget import ChunkBudget
from diffusion_ros.ros.runner import run
from training.evaluation.rollout import Late

VARIABLE = "BENCH_LATE"
"""Of the environment: Late's fields, as JSON."""


class LatePolicyNode(PolicyNode):
    """Real time only."""

    def __init__(self, parameter_overrides: Sequence[Parameter[Any]] = ()) -> None:
        super().__init__(parameter_overrides)
        self._late = Late(**json.loads(os.environ[VARIABLE]))
        self._controller.interval_steps = self._late.controller(self.policy, 0).interval_steps
        self._random = np.random.default_rng(0)
        self._under_way: queue.SimpleQueue[tuple[int, ActionChunk, Frame, ChunkBudget | None] | None]
        self._under_way = queue.SimpleQueue()
        self._post = threading.Thread(target=self._deliver, name="late chunks", daemon=True)
        self._post.start()

    def _publish(self, chunk: ActionChunk, frame: Frame, budget: ChunkBudget | None = None) -> None:
        seconds = self._late.delay + self._late.jitter * float(self._random.random())
        due_ns = chunk.stamp_ns + round(1e9 * seconds)
        if self._late.strategy != "wait":
            self._under_way.put((due_ns, chunk, frame, budget))
            return
        self._sleep(due_ns)
        with self._worker.condition:
            newest_ns = max([frame.stamp_ns, *(waiting.stamp_ns for waiting, _ in self._frames)])
        # The robot has stood since the last row, so the chunk is as if it had been made now.
        chunk = replace(chunk, stamp_ns=newest_ns, rows=chunk.rows[: self.policy.spec.n_action_steps])
        self._controller.last_chunk = chunk
        super()._publish(chunk, frame, budget)

    def _deliver(self) -> None:
        """One at a time: what was made later does not come earlier."""
        while (sent := self._under_way.get()) is not None:
            due_ns, chunk, frame, budget = sent
            self._sleep(due_ns)
            super()._publish(chunk, frame, budget)

    def _sleep(self, until_ns: int) -> None:
        time.sleep(max(0.0, (until_ns - self.now_ns()) / 1e9))

    def close(self) -> None:
        super().close()
        self._under_way.put(None)
        self._post.join(5.0)


if __name__ == "__main__":
    raise SystemExit(run(LatePolicyNode))
