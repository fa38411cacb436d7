"""A policy drives the simulator, without ROS: the same controller and executor as the nodes, in one loop."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffusion_ros.control.action_chunk import ChunkExecutor, ExecutorLimits
from diffusion_ros.control.observation import Frame
from diffusion_ros.control.pictures import fit
from diffusion_ros.control.policy_controller import PolicyController
from diffusion_ros.models.policy import Policy, RangeError
from diffusion_ros.robot import EEF_POS, EEF_QUAT
from diffusion_ros.simulators.arm import Simulation
from diffusion_ros.simulators.episode import episode_stamp_ns
from diffusion_ros.spec import IMAGE_SUFFIX


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


def make_executor(policy: Policy) -> ChunkExecutor:
    """The executor as it runs in lockstep."""
    spec = policy.spec
    limits = ExecutorLimits(spec.action_low, spec.action_high, spec.workspace_low, spec.workspace_high)
    return ChunkExecutor(
        limits,
        spec.period_ns,
        spec.period_ns,
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
) -> Iterator[RolloutResult]:
    """Episodes `first` to `episodes` - 1, each until success or `max_steps`; episode i resets with seed + i.

    Frames that no chunk is made from are not rendered: it changes nothing but the time. `watch` is called before each
    step with its number. picture_size: width and height of larger pictures that the cameras make [px]; they are fitted
    to the policy's size as a robot's are. Raises ValueError for a policy that sees what the simulator does not show.
    """
    shown = simulation.observe(images=False)
    if hidden := [name for name in policy.spec.input_names if name not in shown and not name.endswith(IMAGE_SUFFIX)]:
        raise ValueError(f"inputs {', '.join(hidden)}: the simulator shows {', '.join(shown)} and pictures")
    usual = (simulation.image_size, simulation.image_size)
    drawn = picture_size is not None or any(
        tensor.shape[:2] != usual for tensor in policy.spec.inputs if tensor.name.endswith(IMAGE_SUFFIX)
    )
    limit = simulation.task.max_steps if max_steps is None else max_steps
    controller = PolicyController(policy, policy_seed)
    executor = make_executor(policy)
    for index in range(first, episodes):
        simulation.reset(seed + index)
        digest = hashlib.sha256()
        steps = 0
        while steps < limit and not simulation.success:
            watch(steps)
            stamp = episode_stamp_ns(index, steps)
            used = controller.needs_frame(stamp)
            frame = simulation.observe(images=used and bool(policy.spec.cameras) and not drawn)
            if used and drawn:
                frame |= _pictures(policy, simulation, picture_size)
            executor.observe(stamp, frame[EEF_POS], frame[EEF_QUAT])
            chunk = None
            try:
                policy.check_ranges(frame)
                if used:
                    controller.push(Frame(stamp, {name: frame[name] for name in policy.spec.input_names}))
                if controller.needs_chunk(stamp):
                    chunk = controller.chunk()
            except RangeError:
                chunk = controller.distrust(stamp)
            refused = executor.add_chunk(chunk) if chunk is not None else ""
            if refused:
                raise RuntimeError(f"episode {index}, step {steps}: {refused}")
            command = executor.command(stamp)
            digest.update(np.ascontiguousarray(command.row).tobytes())
            simulation.step(command.row)
            steps += 1
        yield RolloutResult(index, seed + index, simulation.success, steps, digest.hexdigest(), simulation.state_hash())


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
