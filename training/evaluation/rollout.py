"""A policy drives the simulator, without ROS: the same controller and executor as the nodes, in one loop."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from diffusion_ros.control.action_chunk import ActionChunk
from diffusion_ros.control.chunk_executor import ChunkExecutor, Command, ExecutorLimits
from diffusion_ros.control.delay import ChunkDelay, LateStrategy
from diffusion_ros.control.observation import Frame
from diffusion_ros.control.pictures import fit
from diffusion_ros.control.policy_controller import PolicyController
from diffusion_ros.models.policy import Policy, RangeError
from diffusion_ros.robot import EEF_POS, EEF_QUAT
from diffusion_ros.simulators.arm import Simulation
from diffusion_ros.simulators.episode import episode_stamp_ns
from diffusion_ros.spec import IMAGE_SUFFIX

BLEND_ROWS = 4
"""In which one chunk goes over into the next, with the strategy 'blend'."""


@dataclass(frozen=True)
class RolloutResult:
    """What became of one episode."""

    index: int
    seed: int
    success: bool
    steps: int
    actions_sha256: str
    """Over all executed rows, float64."""
    state_sha256: str
    """Of the simulator's final state."""


@dataclass(frozen=True)
class LateResult(RolloutResult):
    """What became of one in which chunks came late."""

    held: int
    """Steps without a row."""
    jump: float
    """The greatest change of the commanded velocity where one chunk follows another [m/s]."""
    jerk: float
    """Of the commanded motion from standing on, root mean square [m/s^3]."""


@dataclass(frozen=True)
class Late:
    """Chunks come late: by `delay` seconds, and by up to `jitter` more, drawn anew for each."""

    delay: float
    jitter: float = 0.0
    strategy: LateStrategy = "rtc"

    def __post_init__(self) -> None:
        if self.strategy not in get_args(LateStrategy):
            raise ValueError(f"strategy {self.strategy!r}: one of {', '.join(get_args(LateStrategy))} expected")
        if not (self.delay >= 0 and self.jitter >= 0):
            raise ValueError(f"delay {self.delay}, jitter {self.jitter}: at least 0 expected")

    def controller(self, policy: Policy, seed: int) -> PolicyController:
        """The policy's part."""
        controller = PolicyController(policy, seed, rtc=self.strategy == "rtc")
        worst = math.ceil((self.delay + self.jitter) / policy.spec.period_ns * 1e9 - 1e-6)
        # Where one chunk is to go over into the next, both have rows for a while.
        lasts = max(1, policy.spec.n_rows - worst - (BLEND_ROWS if self.strategy == "blend" else 0))
        controller.interval_steps = min(policy.spec.n_action_steps, lasts)
        if self.strategy == "ensemble":
            controller.interval_steps = 1
        if self.strategy == "wait":
            controller.interval_steps = policy.spec.n_action_steps
        return controller

    def executor(self, policy: Policy) -> ChunkExecutor:
        """The robot's part."""
        join = {"blend": "blend", "ensemble": "ensemble"}.get(self.strategy, "latest")
        executor = make_executor(policy, join)
        executor.max_ahead_ns = policy.spec.period_ns  # on a running clock: who asks for a hold means now
        if self.strategy != "wait":
            executor.max_rows = None
        return executor


def make_executor(policy: Policy, join: str = "latest") -> ChunkExecutor:
    """The executor as it runs in lockstep."""
    spec = policy.spec
    limits = ExecutorLimits(spec.action_low, spec.action_high, spec.workspace_low, spec.workspace_high)
    return ChunkExecutor(
        limits,
        spec.period_ns,
        spec.period_ns,
        join=join,
        blend_rows=BLEND_ROWS,
        max_rows=spec.n_action_steps,
        position_range=spec.range_of(EEF_POS),
    )


def roll_out(
    policy: Policy,
    simulation: Simulation,
    episodes: int,
    seed: int,
    max_steps: int | None = None,
    policy_seed: int = 0,
    first: int = 0,
    watch: Callable[[int], None] = lambda step: None,
    picture_size: tuple[int, int] | None = None,
    late: Late | None = None,
) -> Iterator[RolloutResult]:
    """Episodes `first` to `episodes` - 1, each until success or `max_steps`; episode i resets with seed + i.

    Frames that no chunk is made from are not rendered: it changes nothing but the time. `watch` is called before each
    step with its number. picture_size: width and height of larger pictures that the cameras make [px]; they are fitted
    to the policy's size as a robot's are. late: chunks come late and the robot does not wait; None: it does. Raises
    ValueError for a policy that sees what the simulator does not show.
    """
    shown = simulation.observe(images=False)
    if hidden := [name for name in policy.spec.input_names if name not in shown and not name.endswith(IMAGE_SUFFIX)]:
        raise ValueError(f"inputs {', '.join(hidden)}: the simulator shows {', '.join(shown)} and pictures")
    usual = (simulation.image_size, simulation.image_size)
    drawn = picture_size is not None or any(
        tensor.shape[:2] != usual for tensor in policy.spec.inputs if tensor.name.endswith(IMAGE_SUFFIX)
    )
    limit = simulation.task.max_steps if max_steps is None else max_steps
    for index in range(first, episodes):
        driver = Driver(policy, policy_seed, late, seed + index)
        simulation.reset(seed + index)
        digest = hashlib.sha256()
        commands: list[Command] = []
        steps = 0
        while steps < limit and not simulation.success:
            watch(steps)
            stamp = episode_stamp_ns(index, steps)
            used = driver.uses(stamp)
            frame = simulation.observe(images=used and bool(policy.spec.cameras) and not drawn)
            if used and drawn:
                frame |= _pictures(policy, simulation, picture_size)
            command = driver.command(stamp, frame)
            driver.executed(stamp, command)
            if late is not None:
                commands.append(command)
            digest.update(np.ascontiguousarray(command.row).tobytes())
            simulation.step(command.row)
            steps += 1
        result = RolloutResult(
            index, seed + index, simulation.success, steps, digest.hexdigest(), simulation.state_hash()
        )
        yield result if late is None else _late_result(result, commands, policy.spec.rate)


class Driver:
    """A policy and a robot's executor, step by step in one loop.

    late: chunks come late and the robot does not wait, jitter from `seed`; None: it does.
    """

    def __init__(self, policy: Policy, policy_seed: int, late: Late | None, seed: int) -> None:
        self.policy = policy
        self._late = late
        self._controller = (
            PolicyController(policy, policy_seed) if late is None else late.controller(policy, policy_seed)
        )
        self._executor = late.executor(policy) if late else make_executor(policy)
        self._post = _Post(late, policy, seed)

    def uses(self, stamp_ns: int) -> bool:
        """Whether a frame stamped so is part of a chunk: else its pictures are not looked at."""
        return self._controller.needs_frame(stamp_ns)

    def command(self, stamp_ns: int, frame: Mapping[str, NDArray[Any]]) -> Command:
        """What is to be executed in the step that begins now. Raises RuntimeError where a chunk in step is refused."""
        policy, controller, executor, post = self.policy, self._controller, self._executor, self._post
        used = self.uses(stamp_ns)
        executor.observe(stamp_ns, frame[EEF_POS], frame[EEF_QUAT])
        chunk = None
        try:
            policy.check_ranges(frame)
            if used:
                controller.push(Frame(stamp_ns, {name: frame[name] for name in policy.spec.input_names}))
            if not post.waits and controller.needs_chunk(stamp_ns):
                chunk = controller.chunk()
        except RangeError:
            chunk = controller.distrust(stamp_ns)
        if chunk is not None:
            post.send(chunk)
        for arrived in post.delivered(stamp_ns):
            if post.restamps:
                controller.last_chunk = arrived
            refused = executor.add_chunk(arrived)
            if refused and self._late is None:  # of late ones some are of no use any more
                raise RuntimeError(f"{stamp_ns / 1e9:.2f} s: {refused}")
        return executor.command(stamp_ns)

    def executed(self, stamp_ns: int, command: Command) -> None:
        """Its row is executed."""
        if self._late is not None:
            self._post.executed(command)
            self._controller.delay_rows = self._post.delay.rows
            if command.acting:
                self._controller.executed(stamp_ns, command.row, command.key)


class _Post:
    """Chunks under way from the policy to the robot."""

    def __init__(self, late: Late | None, policy: Policy, seed: int) -> None:
        self.late = late
        self.period_ns = policy.spec.period_ns
        self.delay = ChunkDelay(policy.spec.n_rows, self.period_ns)
        self.restamps = late is not None and late.strategy == "wait"
        self._random = np.random.default_rng(seed)
        self._chunks: list[tuple[int, ActionChunk]] = []

    @property
    def waits(self) -> bool:
        """Whether no chunk may be asked for, because the robot stands until the one under way comes."""
        return self.restamps and bool(self._chunks)

    def send(self, chunk: ActionChunk) -> None:
        seconds = 0.0
        if self.late is not None:
            seconds = self.late.delay + self.late.jitter * float(self._random.random())
        # One at a time: what was asked for later does not come earlier.
        comes = max([chunk.stamp_ns + round(1e9 * seconds), *(at for at, _ in self._chunks)])
        self._chunks.append((comes, chunk))

    def delivered(self, stamp_ns: int) -> list[ActionChunk]:
        """What has come by now, the oldest first."""
        here = [chunk for at, chunk in self._chunks if at <= stamp_ns]
        self._chunks = [(at, chunk) for at, chunk in self._chunks if at > stamp_ns]
        return [replace(chunk, stamp_ns=stamp_ns) for chunk in here] if self.restamps else here

    def executed(self, command: Command) -> None:
        if command.key is not None:
            self.delay.executed(*command.key, command.stamp_ns)


def _late_result(result: RolloutResult, commands: list[Command], rate: float) -> LateResult:
    rows = np.array([command.row for command in commands])
    chunks = [None if command.key is None else command.key[0] for command in commands]
    jump, jerk = smoothness(rows, chunks, rate)
    held = sum(not command.acting for command in commands)
    return LateResult(**dataclasses.asdict(result), held=held, jump=jump, jerk=jerk)


def smoothness(rows: NDArray[np.float64], chunks: Sequence[int | None], rate: float) -> tuple[float, float]:
    """`jump` [m/s] and `jerk` [m/s^3], as LateResult has them, of the rows (N, 7) that were commanded at a rate [Hz].

    chunks (N): which chunk each is of; None: a hold. The jerk counts from the first row of a chunk on, and the robot
    stands before it: setting off is part of the motion, however long the robot waited for its first chunk.
    """
    first = next((i for i, chunk in enumerate(chunks) if chunk is not None), len(rows))
    velocities = np.concatenate([np.zeros((2, 3)), rows[first:, :3] * rate])
    changes = np.linalg.norm(np.diff(velocities[2:], axis=0), axis=1)
    pairs = enumerate(itertools.pairwise(chunks[first:]))
    joins = [i for i, (one, two) in pairs if None not in (one, two) and one != two]
    bends = np.linalg.norm(np.diff(velocities, 2, axis=0), axis=1) * rate**2
    jump = float(changes[joins].max()) if joins else 0.0
    return jump, float(np.sqrt(np.mean(bends**2))) if len(bends) else 0.0


def late_figures(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means of what LateResults have beside RolloutResults."""
    own = [field.name for field in dataclasses.fields(LateResult) if field.name not in RolloutResult.__annotations__]
    return {name: float(np.mean([result[name] for result in results])) for name in own}


def _pictures(policy: Policy, simulation: Simulation, size: tuple[int, int] | None) -> dict[str, NDArray[Any]]:
    """In the policy's size; made in that width and height, None: in the policy's."""
    pictures = {}
    for tensor in policy.spec.inputs:
        if tensor.name.endswith(IMAGE_SUFFIX):
            rows, columns = tensor.shape[:2]
            width, height = (columns, rows) if size is None else size
            picture = simulation.render(tensor.name.removesuffix(IMAGE_SUFFIX), height, width)
            pictures[tensor.name] = fit(picture, rows, columns)
    return pictures
