"""A policy whose chunks come late, through ROS in real time: what each strategy makes of it.

The processes are those of `diffusion_ros simulation`; late_policy_node.py stands in for the policy node.
`python -m training.evaluate --delay-ms` has the same figures without ROS, the same again each time.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import late_policy_node
import numpy as np
import yaml
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from rclpy.node import Node
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros import bringup
from diffusion_ros.atomic_file import write_json
from diffusion_ros.checkpoint import read_spec
from diffusion_ros.control.delay import LateStrategy
from diffusion_ros.resources import resource_folder
from diffusion_ros.robot import RATE
from diffusion_ros.ros import messages, topics
from diffusion_ros.simulators.tasks import ARM_TASKS
from diffusion_ros.systems.arm import SIMULATION
from diffusion_ros.systems.observer import PolicyObserver
from diffusion_ros.systems.startup import decide
from training import command_line
from training.evaluation.rollout import BLEND_ROWS, Late, late_figures, smoothness
from training.parallel import Workers, each, ordered

HERE = Path(__file__).resolve().parent
_ALLOWED = {300.0: (" (at most 5)", " (at most 1.5)"), 500.0: (" (at most 15)", "")}
"""Of real-time chunking, by delay [ms]: points of success that are lost, and the ratio of the jerks."""
_START_SECONDS, _PAUSE_SECONDS = 60.0, 5.0
"""That processes may take to start, and an episode beside its steps. A robot that never moves would be waited for."""
_SILENCE_NS = 950_000_000
"""Between episodes the simulator is silent for more than a second."""


@dataclass(frozen=True)
class Options:
    """Runs a policy whose chunks come late through ROS, in real time, with each strategy."""

    checkpoint: Path = HERE.parents[1] / "checkpoints" / "lift_pixels.pt"
    """The checkpoint (.pt) of a policy."""
    delay_ms: tuple[float, ...] = ()
    """How long after its observation a chunk leaves [ms]. Without it 0, 300 with each strategy, and 500 with rtc."""
    jitter_ms: float = 20.0
    """And up to so much later, drawn anew for each chunk."""
    strategies: tuple[LateStrategy, ...] = get_args(LateStrategy)
    """What is done about it; see `python -m training.evaluate --help`."""
    episodes: int = 1
    """Of each strategy; episode i is drawn from seed + i."""
    seed: int = 100_000
    """Of the first episode."""
    sampler_steps: int = 0
    """Denoising steps; 0: the checkpoint's."""
    json: Path | None = None
    """File for all results."""
    workers: int = 1
    """Number of runs at once. Each is a graph in real time: more than the machine has room for would be late."""
    cluster: str | None = None
    """The address of a Dask scheduler, as tcp://host:8786: its workers do the runs instead, a machine each."""

    def __post_init__(self) -> None:
        Workers(self.workers, self.cluster)


@dataclass
class LateObserver(PolicyObserver):
    """And how smoothly the robot was driven: what it was told, by the stamp of the observation that was answered."""

    observed: list[int] = field(default_factory=list)
    """Stamps of observations."""
    rows: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    """The last command to each."""
    chunks: dict[int, int] = field(default_factory=dict)
    """Of those that are no holds, the stamp of the chunk."""

    def subscribe(self, node: Node) -> None:
        super().subscribe(node)
        node.create_subscription(PoseStamped, topics.EEF_POSE, self._on_pose, topics.SENSOR_QOS)
        node.create_subscription(JointTrajectory, topics.EEF_COMMAND, self._on_command, topics.COMMAND_QOS)
        node.create_subscription(JointTrajectory, topics.EXECUTED_ACTION, self._on_executed, topics.WATCHED_QOS)

    def _on_pose(self, msg: PoseStamped) -> None:
        self.observed.append(messages.stamp_ns(msg.header.stamp))

    def _on_command(self, msg: JointTrajectory) -> None:
        stamp_ns, row = messages.command_from_msg(msg)
        self.rows[stamp_ns] = row

    def _on_executed(self, msg: JointTrajectory) -> None:
        executed = messages.executed_from_msg(msg)
        self.chunks[executed.stamp_ns] = executed.chunk_ns

    def summary(self) -> dict[str, Any]:
        starts = [0, *(np.flatnonzero(np.diff(self.observed) > _SILENCE_NS) + 1).tolist(), len(self.observed)]
        episodes = [self.observed[one:two] for one, two in itertools.pairwise(starts)]
        if len(episodes) != self.episodes:
            said = f"observations of {len(episodes)} episodes were heard, of {self.episodes} expected"
            raise bringup.Failed(f"{said}: is the machine busy?", 1)
        self.results = {i: {**self.results[i], **self.smooth(stamps)} for i, stamps in enumerate(episodes)}
        return super().summary()

    def smooth(self, stamps: list[int]) -> dict[str, float]:
        """Jump and jerk. What is told after the last observation answers none."""
        stamps = stamps[:-1]
        # A period without a command in time is a hold.
        rows = np.array([self.rows.get(stamp, np.zeros(7)) for stamp in stamps]).reshape(-1, 7)
        jump, jerk = smoothness(rows, [self.chunks.get(stamp) for stamp in stamps], RATE)
        return {"jump": jump, "jerk": jerk}


def runs(options: Options) -> list[tuple[float, LateStrategy]]:
    """Delays [ms] and strategies. Where no chunk is late, one says it all."""
    if not options.delay_ms:
        return [(0.0, "latest"), *((300.0, strategy) for strategy in options.strategies), (500.0, "rtc")]
    found: list[tuple[float, LateStrategy]] = []
    for delay in options.delay_ms:
        found += [(delay, strategy) for strategy in options.strategies] if delay else [(delay, "latest")]
    return found


def against_no_delay(result: dict[str, Any], usual: dict[str, Any]) -> str:
    """What a delay costs; usual: without one."""
    points = 100 * (usual["success_rate"] - result["success_rate"])
    times = result["jerk"] / usual["jerk"]
    most_points, most_times = _ALLOWED.get(result["delay_ms"], ("", "")) if result["late"] == "rtc" else ("", "")
    return f"  against no delay: success {points:g} points less{most_points}, jerk {times:.2f} times{most_times}"


class _Quiet(bringup.Screen):
    def progress(self, line: str) -> None:
        pass

    def show(self, line: str) -> None:
        pass


def drive(options: Options, late: Late, folder: Path) -> dict[str, Any]:
    """All episodes with one strategy. Raises bringup.Failed."""
    spec = read_spec(options.checkpoint)
    lasts = spec.n_rows * spec.period_ns / 1e9
    if late.strategy != "wait" and late.delay + 0.5 / spec.rate >= lasts:
        raise bringup.Failed(f"all {spec.n_rows} rows of a chunk ({1000 * lasts:g} ms) are late when it comes", 1)
    nodes = tuple(
        replace(node, module=late_policy_node.__name__) if node.name == "policy" else node for node in SIMULATION.nodes
    )
    system = replace(SIMULATION, nodes=nodes, observer=LateObserver)
    join = late.strategy if late.strategy in ("blend", "ensemble") else "latest"
    parameters = folder / f"{late.strategy}.yaml"
    executor = {"join": join, "blend_rows": BLEND_ROWS}
    parameters.write_text(yaml.safe_dump({"executor": {"ros__parameters": executor}}))
    given = {
        "task": spec.task,
        "checkpoint": str(options.checkpoint),
        "mode": "realtime",
        "episodes": str(options.episodes),
        "seed": str(options.seed),
        "view": "",
        "sampler_steps": str(options.sampler_steps),
        "late": "rtc" if late.strategy == "rtc" else "latest",
        "output_dir": str(folder / late.strategy),
        "params_file": str(parameters),
    }
    startup = decide(system, given, resource_folder(), lambda name: f"--{name}")
    os.environ[late_policy_node.VARIABLE] = json.dumps(dataclasses.asdict(late))
    request = bringup.Request(startup, folder / "summary.json", bringup.free_domain_id(), "")
    stop: list[int] = []
    limit = _START_SECONDS + options.episodes * (ARM_TASKS[spec.task].max_steps / RATE + _PAUSE_SECONDS)
    watch = threading.Timer(limit, stop.append, [signal.SIGTERM])
    watch.start()
    try:
        result = bringup.run_system(request, _Quiet(), stop)
    finally:
        watch.cancel()
    if not result:
        raise bringup.Failed(f"not over after {limit:g} s", 1)
    return {
        **result,
        "late": late.strategy,
        "delay_ms": 1000 * late.delay,
        "jitter_ms": 1000 * late.jitter,
        **late_figures(result["results"]),
    }


def worker(options: Options) -> Callable[[tuple[float, LateStrategy]], dict[str, Any] | str]:
    """For parallel.each: what it returns does a delay [ms] and a strategy, or says why it cannot."""
    return partial(attempt, options)


def attempt(options: Options, run: tuple[float, LateStrategy]) -> dict[str, Any] | str:
    delay, strategy = run
    paths = [str(HERE), str(HERE.parents[1]), str(HERE.parents[1] / "src")]
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as name:
        try:
            os.environ["PYTHONPATH"] = os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])
            os.environ["ROS_LOG_DIR"] = name
            return drive(options, Late(delay / 1000, options.jitter_ms / 1000 if delay else 0.0, strategy), Path(name))
        except bringup.Failed as error:
            return f"late: {delay:g} ms, {strategy}: {error}"
        finally:
            os.environ.clear()
            os.environ.update(before)


def bench(options: Options) -> None:
    found: list[dict[str, Any]] = []
    jobs = runs(options)
    workers = Workers(options.workers, options.cluster)
    for (delay, strategy), result in zip(
        jobs, ordered(jobs, each(partial(worker, options), jobs, workers, "delay")), strict=True
    ):
        if isinstance(result, str):
            print(result, flush=True)
            continue
        found.append(result)
        print(
            f"late: {delay:g} ms, {strategy}: {result['outcome']}, mean length {result['mean_length']:.1f}, held"
            f" {result['held']:.1f}, jump {result['jump']:.3f} m/s, jerk {result['jerk']:.1f} m/s3"
            f" ({result['missed']} periods without a command in time, {result['overruns']} begun late)",
            flush=True,
        )
        usual = next((one for one in found if one["delay_ms"] == 0), None)
        if delay and usual is not None:
            print(against_no_delay(result, usual), flush=True)
    if options.json is not None:
        write_json(options.json, {"delays": found})


if __name__ == "__main__":
    command_line.run(Options, bench, __doc__)
