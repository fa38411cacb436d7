"""Two ways round a disc: teacher and student, how they drive, and what is said of it (`training.two_ways`)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from diffusion_ros.atomic_file import atomic_write
from training.diffusion.distillation import DistillationLoss
from training.diffusion.noise_schedule import NoiseSchedule
from training.diffusion.normalizer import LimitsNormalizer
from training.diffusion.policy import POSE_DIM, DiffusionPolicy, ObservationEncoder, PolicyLoss, make_denoiser
from training.evaluation import two_ways
from training.evaluation.two_ways import Array, Episodes
from training.options.two_ways import NUM_TRAIN_TIMESTEPS, Options
from training.run import ExponentialMovingAverage, set_rates, step_generator, warm_cosine

N_OBS_STEPS = 2
"""Frames that the policy sees."""
ROWS = 9
"""Of a chunk: that of the older frame, which is over, and those that are executed."""
N_ACTION_STEPS = 8
"""Rows that are executed before the next chunk."""
WARM_UP = 100
"""Iterations until the learning rate is at its highest."""
EMA_DECAY = 0.995
DRAWN = 100
"""Ways in a picture."""


@dataclass(frozen=True)
class Windows:
    """All that is learnt from, N windows of demonstrations."""

    observed: Tensor
    """(N, N_OBS_STEPS, 2) positions [m], the newest last."""
    actions: Tensor
    """(N, ROWS, 2) [m]; row 0 is that of the oldest position."""
    valid: Tensor
    """(N, ROWS) bool, False where the episode was over."""


def make_windows(episodes: Episodes, labels: Array) -> Windows:
    """One of each step before the goal; before the first step the point was where it is, and did nothing."""
    observed, actions, valid = [], [], []
    before = N_OBS_STEPS - 1
    for positions, rows, length in zip(episodes.positions, labels, episodes.steps, strict=True):
        seen = np.concatenate([np.repeat(positions[:1], before, axis=0), positions])
        done = np.concatenate([np.zeros((before, 2)), rows[:length], np.zeros((ROWS, 2))])
        is_row = np.arange(len(done)) < before + length
        is_row[:before] = False
        for step in range(length):
            observed.append(seen[step : step + N_OBS_STEPS])
            actions.append(done[step : step + ROWS])
            valid.append(is_row[step : step + ROWS])
    return Windows(
        torch.from_numpy(np.array(observed, np.float32)),
        torch.from_numpy(np.array(actions, np.float32)),
        torch.from_numpy(np.array(valid)),
    )


def make_policy(windows: Windows, seed: int) -> DiffusionPolicy:
    """An untrained policy, the same classes as an arm's."""
    torch.manual_seed(seed)
    position = LimitsNormalizer.from_data(windows.observed.numpy())
    unused = LimitsNormalizer(-np.ones(POSE_DIM), np.ones(POSE_DIM))
    encoder = ObservationEncoder((), False, position, unused, numbers={two_ways.POSITION: 2})
    denoiser = make_denoiser("unet", 2, ROWS, N_OBS_STEPS, encoder.out_dim, widths=(32,))
    limits = LimitsNormalizer.from_data(windows.actions.numpy())
    schedule = NoiseSchedule(NUM_TRAIN_TIMESTEPS, prediction_type="sample", timestep_spacing="trailing")
    return DiffusionPolicy(encoder, denoiser, schedule, limits, N_OBS_STEPS, ROWS).eval()


def fit(
    policy: DiffusionPolicy,
    loss: Callable[[torch.Generator], Tensor],
    iterations: int,
    options: Options,
    stream: int,
    name: str,
) -> None:
    """Trains the denoiser; what is left in it are the averaged weights."""
    weights = list(policy.denoiser.parameters())
    optimizer = torch.optim.AdamW(weights, options.learning_rate, weight_decay=1e-4)
    ema = ExponentialMovingAverage(policy.denoiser, EMA_DECAY)
    with tqdm(total=iterations, desc=name, unit="it", mininterval=2.0) as bar:
        for iteration in range(iterations):
            set_rates(optimizer, [options.learning_rate], warm_cosine(iteration, iterations, WARM_UP))
            error = loss(step_generator(options.training_seed, stream, iteration))
            optimizer.zero_grad(set_to_none=True)
            error.backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            ema.update()
            bar.update()
            if iteration % 100 == 99:
                bar.set_postfix(loss=f"{error.item():.4f}", refresh=False)
    with torch.no_grad():
        for weight, average in zip(weights, ema.average, strict=True):
            weight.copy_(average)


def learn(policy: DiffusionPolicy, windows: Windows, options: Options) -> None:
    """Trains on demonstrations of both ways."""
    features = seen_as(policy, windows)
    objective = PolicyLoss(policy)
    size = options.batch_size

    def loss(generator: torch.Generator) -> Tensor:
        chosen = torch.randint(0, len(features), (size,), generator=generator)
        noise = torch.randn((1, size, ROWS, policy.width), generator=generator)
        t = torch.randint(0, NUM_TRAIN_TIMESTEPS, (1, size), generator=generator)
        error: Tensor = objective(features[chosen], windows.actions[chosen], windows.valid[chosen], noise, t)
        return error

    fit(policy, loss, options.iterations, options, 3, "teacher")


def distil(teacher: DiffusionPolicy, windows: Windows, options: Options) -> DiffusionPolicy:
    """A student whose one step has learnt what the teacher makes of the same noise."""
    student = copy.deepcopy(teacher)
    features = seen_as(teacher, windows)
    objective = DistillationLoss(student, teacher, options.teacher_steps)
    size = options.batch_size

    def loss(generator: torch.Generator) -> Tensor:
        chosen = torch.randint(0, len(features), (size,), generator=generator)
        error: Tensor = objective(features[chosen], torch.randn((1, size, ROWS, student.width), generator=generator))
        return error

    fit(student, loss, options.distil_iterations, options, 5, "student")
    return student


@torch.no_grad()
def seen_as(policy: DiffusionPolicy, windows: Windows) -> Tensor:
    """Features (N, N_OBS_STEPS, F) of all windows."""
    frames = [policy.encode({two_ways.POSITION: windows.observed[:, i]}) for i in range(N_OBS_STEPS)]
    return torch.stack(frames, dim=1)


def drive(policy: DiffusionPolicy, episodes: int, seed: int, sampler: str, steps: int) -> Episodes:
    """Closed loop: a chunk of the two newest positions, N_ACTION_STEPS rows of it, the next chunk."""
    chunk = np.empty(0)
    policy.sampler = sampler

    def act(positions: Array, step: int) -> Array:
        nonlocal chunk
        if step % N_ACTION_STEPS == 0:
            seen = positions[:, [max(0, step - back) for back in range(N_OBS_STEPS - 1, -1, -1)]]
            with torch.inference_mode():
                rows = policy({two_ways.POSITION: torch.from_numpy(seen.astype(np.float32))}, seed + step, steps)
            chunk = rows.numpy().astype(np.float64)
        row: Array = chunk[:, step % N_ACTION_STEPS]
        return row

    return two_ways.run(two_ways.starts(episodes, seed), act)


def compare(options: Options) -> dict[str, Any]:
    """Trains, drives and draws; the summary."""
    torch.set_num_threads(options.threads)
    windows = make_windows(*two_ways.demonstrations(options.demonstrations, options.training_seed))
    teacher = make_policy(windows, options.training_seed)
    learn(teacher, windows, options)
    student = distil(teacher, windows, options)
    samplers = {
        "100 DDPM steps": (teacher, "ddpm", NUM_TRAIN_TIMESTEPS),
        "8 DDIM steps": (teacher, "ddim", 8),
        "1 step": (teacher, "ddim", 1),
        "1 step, distilled": (student, "ddim", 1),
    }
    driven = {}
    with tqdm(samplers.items(), desc="driving", unit="sampler") as bar:
        for name, (policy, sampler, steps) in bar:
            driven[name] = drive(policy, options.episodes, options.seed, sampler, steps)
    if options.picture is not None:
        draw(driven, options.picture)
    return {
        **{name: value for name, value in dataclasses.asdict(options).items() if name not in ("json", "picture")},
        "samplers": {name: _figures(episodes) for name, episodes in driven.items()},
    }


def _figures(episodes: Episodes) -> dict[str, Any]:
    successes = int(episodes.success.sum())
    return {
        "success_rate": episodes.success_rate,
        "left_share": float(episodes.left[episodes.success].mean()) if successes else None,
        "mean_steps": float(episodes.steps[episodes.success].mean()) if successes else None,
    }


def table(samplers: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown, of a summary's samplers."""
    lines = ["| sampler | success, % | of these left, % | mean steps |", "|---|---|---|---|"]
    for name, found in samplers.items():
        left = "-" if found["left_share"] is None else f"{100 * found['left_share']:.1f}"
        steps = "-" if found["mean_steps"] is None else f"{found['mean_steps']:.1f}"
        lines.append(f"| {name} | {100 * found['success_rate']:.1f} | {left} | {steps} |")
    return "\n".join(lines)


def draw(driven: Mapping[str, Episodes], path: Path) -> None:
    """The first ways of each sampler, side by side: left, right, and those that failed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Circle

    figure, axes = pyplot.subplots(1, len(driven), figsize=(4 * len(driven), 3.4), layout="constrained", sharey=True)
    for axis, (name, episodes) in zip(np.atleast_1d(axes), driven.items(), strict=True):
        axis.add_patch(Circle((0, 0), two_ways.DISC_RADIUS, color="0.8"))
        axis.add_patch(Circle(tuple(two_ways.GOAL), two_ways.GOAL_RADIUS, color="C2", alpha=0.3))
        for i in range(min(DRAWN, len(episodes.success))):
            colour = ("C0" if episodes.left[i] else "C1") if episodes.success[i] else "C3"
            way = episodes.positions[i, : episodes.steps[i] + 1]
            axis.plot(*way.T, color=colour, linewidth=0.7, alpha=0.5)
        axis.set(title=f"{name}: {100 * episodes.success_rate:.1f} % succeed", xlabel="x [m]", xlim=(-1.2, 1.2))
        axis.set_aspect("equal")
    np.atleast_1d(axes)[0].set(ylabel="y [m]", ylim=(-0.8, 0.8))
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=90, format="png")
    pyplot.close(figure)
