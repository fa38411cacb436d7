"""The maze, its planner and the follower that drives along its plans."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from diffusion_ros.simulators.tasks import MAZE_TASKS
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


class MazeObserver(Observer):
    """The same for a maze, whose episodes have a score."""

    expected = {
        **{name: types for name, types in Observer.expected.items() if name not in ("acting", "latency_ms")},
        "reward": (int, float),
    }

    def _parts(self) -> list[str]:
        news = self.news
        done = [result["score"] for result in self.results.values()]
        running = news["event"] == "running"
        phase = {"waiting": "waiting for a plan", "running": "driving"}
        state = phase.get(news["event"]) or self._state()
        return [
            f"holding: {news['fault']}" if running and news["fault"] else state,
            f"{self.task} {news['index'] + 1}/{self.episodes}",
            f"step {news['step']:3d}/{news['max_steps']}",
            f"score {sum(done) / len(done):.0f} of {len(done)}" if done else "",
            f"return {news['reward']:.0f}",
            *([f"{news['rate']:5.1f} Hz", f"missed {news['missed']}"] if running else []),
        ]

    def summary(self) -> dict[str, Any]:
        results = self.finished
        return {
            "score": statistics.mean(result["score"] for result in results),
            "mean_return": statistics.mean(result["return"] for result in results),
            "reached": sum(bool(result["reached"]) for result in results) / len(results),
            "missed": sum(result["missed"] for result in results),
            "results": results,
        }

    def outcome(self, summary: Mapping[str, Any]) -> str:
        return f"{self.task}: score {summary['score']:.1f}, mean of {len(self.finished)}"


MAZE = System(
    name="maze",
    description="a ball in a maze, with a Diffuser planner",
    observer=MazeObserver,
    kind="planner",
    subject="size",
    checkpoint="maze_{}.pt",
    arguments=(
        Argument("size", "size of the maze", choices=tuple(MAZE_TASKS)),
        Argument("checkpoint", "the planner (.pt); default: checkpoints/maze_<size>.pt", "", path=True),
        Argument("episodes", "number of episodes; start and goal of episode i are drawn from seed + i", minimum=1),
        Argument("seed", "seed of the first episode (evaluation: 100000 to 199999)", minimum=0),
        SPEED,
        Argument(
            "follow",
            "pursuit: along the plan's path at the ball's own pace; time: to each point when it is due",
            choices=("pursuit", "time"),
        ),
        Argument("replan_rate", "plans a second, each from the one before [Hz]; 0: one plan for each goal", minimum=0),
        Argument("candidates", "plans that are sampled, of which the best is driven", minimum=1),
        Argument("obstacle_radius", "radius of a ball that moves in the way [m]; 0: none", minimum=0),
        Argument("video", "true: each episode becomes an MP4 of its plan's denoising and its drive"),
        Argument("output_dir", "folder for logs, parameters and videos; default: runs/<size>-<time>", "", path=True),
        Argument("sampler_steps", "denoising steps of a plan; 0: the checkpoint's own", minimum=0),
        FRAME_PREFIX,
        Argument("device", "torch device that the planner runs on"),
        *WEB,
    ),
    nodes=(
        NodeDescription(
            "maze",
            "diffusion_ros.nodes.maze_node",
            "maze.yaml",
            same_names("size", "speed", "episodes", "seed", "obstacle_radius", "video", "output_dir", "frame_prefix"),
            required=True,
        ),
        NodeDescription(
            "planner",
            "diffusion_ros.nodes.planner_node",
            "planner.yaml",
            same_names("checkpoint", "replan_rate", "candidates", "sampler_steps", "device", "frame_prefix"),
            restarts=3,
            managed=1,
        ),
        NodeDescription(
            "follower",
            "diffusion_ros.nodes.follower_node",
            "follower.yaml",
            same_names("follow", "frame_prefix"),
            restarts=3,
        ),
        web_node("maze", "episodes"),
    ),
)
