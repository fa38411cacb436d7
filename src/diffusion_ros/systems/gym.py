"""Gymnasium's CartPole and inverted double pendulum with policies from reinforcement learning."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from diffusion_ros.systems.observer import Observer
from diffusion_ros.systems.system import (
    FRAME_PREFIX,
    SPEED,
    WEB,
    Argument,
    NodeDescription,
    System,
    same_names,
    web_node,
)


class BalanceObserver(Observer):
    """The same for a Gymnasium task, whose episodes have a return."""

    actor = "rl_policy"

    def _score(self) -> str:
        returns = [result["return"] for result in self.results.values()]
        return f"return {statistics.mean(returns):.1f} in {len(returns)}" if returns else ""

    def summary(self) -> dict[str, Any]:
        summary = super().summary()
        returns = [result["return"] for result in summary["results"]]
        return {"mean_return": statistics.mean(returns), "std_return": statistics.pstdev(returns), **summary}

    def outcome(self, summary: Mapping[str, Any]) -> str:
        return (
            f"{self.task}: return {summary['mean_return']:.1f} +- {summary['std_return']:.1f},"
            f" length {summary['mean_length']:.1f}, mean of {len(self.finished)}"
        )


def _balancing(task: str, description: str, kind: str, checkpoint: str) -> System:
    """A Gymnasium task and its policy."""
    return System(
        name=task,
        description=description,
        observer=BalanceObserver,
        kind=kind,
        task=task,
        checkpoint=checkpoint,
        arguments=(
            Argument("checkpoint", f"the policy (.pt); default: checkpoints/{checkpoint}", "", path=True),
            Argument("episodes", "number of episodes; episode i is drawn from seed + i", minimum=1),
            Argument("seed", "seed of the first episode (evaluation: 100000 to 199999)", minimum=0),
            Argument(
                "mode",
                "realtime: at the task's rate, however long the policy takes; lockstep: the simulator waits, so that"
                " results repeat",
                choices=("lockstep", "realtime"),
            ),
            SPEED,
            Argument("max_steps", "length of an episode; 0: Gymnasium's time limit", minimum=0),
            Argument("video", "true: each episode becomes an MP4"),
            Argument("compressed_pictures", "true: pictures also as JPEG, on image_raw/compressed", False),
            Argument(
                "output_dir", f"folder for logs, parameters and videos; default: runs/{task}-<time>", "", path=True
            ),
            FRAME_PREFIX,
            Argument("device", "torch device that the policy runs on"),
            *WEB,
        ),
        nodes=(
            NodeDescription(
                "gym_simulation",
                "diffusion_ros.nodes.gym_simulation_node",
                "gym_simulation.yaml",
                same_names(
                    "mode",
                    "speed",
                    "episodes",
                    "seed",
                    "max_steps",
                    "video",
                    "output_dir",
                    "compressed_pictures",
                    "frame_prefix",
                ),
                given={"task": task},
                required=True,
            ),
            NodeDescription(
                "rl_policy",
                "diffusion_ros.nodes.rl_policy_node",
                "rl_policy.yaml",
                same_names("checkpoint", "mode", "device"),
                given={"task": task},
                restarts=3,
            ),
            web_node(task, "episodes"),
        ),
    )


CARTPOLE = _balancing("cartpole", "CartPole, with a Rainbow policy", "discrete policy", "cartpole_rainbow.pt")
DOUBLE_PENDULUM = _balancing(
    "double_pendulum",
    "an inverted double pendulum, with a PPO policy",
    "continuous policy",
    "double_pendulum_ppo.pt",
)
GYM_SYSTEMS = (CARTPOLE, DOUBLE_PENDULUM)
"""All of them; their arguments have the same names, so that one launch file can start each."""
