"""A checkpoint is one file: a TorchScript module and its specification. The only file that uses torch.jit.

Nodes need a path and a device; no class of ours and no pickle. Loading runs the module once on made-up input and
refuses, in one line, whatever does not fit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from diffusion_ros.atomic_file import atomic_write
from diffusion_ros.spec import GUARD_KIND, IMAGE_KIND, REACTIVE_KINDS, CheckpointSpec, SpecError

if TYPE_CHECKING:
    import torch

P = ParamSpec("P")
R = TypeVar("R")
SPEC_FILE = "spec.json"
ENTRY_POINTS = {
    "policy": ("encode", "sample"),
    "planner": ("noised", "step", "weighted_return"),
    "discrete policy": ("values",),
    IMAGE_KIND: ("sample", "denoised"),
    GUARD_KIND: ("score",),
}
"""The methods, by kind, that a module has besides forward.

A discrete policy's forward takes observation (B, n) float32 and gives action (B,) int64; its values(observation) are
(B, actions) float32. A continuous policy's forward gives action (B, m) float32 within the environment's limits.
An image model's sample(seed, count, steps) is uint8 (count, H, W, C), its denoised(seed, count, steps) uint8
(steps + 1, count, H, W, C): noise first, the images last.
A camera guard's score(images (B, H, W, 3) uint8, camera), camera a place among its inputs, gives scores (B,) float32,
above 1 for what that camera should not show, and where, (B, h, w) float32.
"""


class CheckpointError(ValueError):
    """A file that is no usable checkpoint: one line with the file and the reason."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint."""

    module: Any
    """The TorchScript module, frozen, in float32, on `device`."""
    spec: CheckpointSpec
    sha256: str
    """Of the file."""
    device: torch.device


@contextmanager
def _quiet() -> Iterator[None]:
    """torch 2.13 deprecates TorchScript but has nothing else that a node could load without our classes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated", category=DeprecationWarning)
        yield


def exported(method: Callable[P, R]) -> Callable[P, R]:
    """Marks a method other than forward as part of what a module's TorchScript form can be asked for."""
    import torch

    with _quiet():
        return torch.jit.export(method)


def script(module: torch.nn.Module) -> Any:
    """The TorchScript form of a module."""
    import torch

    with _quiet():
        return torch.jit.script(module)


def foreign(path: Path | str) -> Any:
    """A TorchScript module that is none of our checkpoints. Raises CheckpointError, in one line."""
    import torch

    with _quiet():
        try:
            return torch.jit.load(str(path), map_location="cpu").eval()
        except (RuntimeError, ValueError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise CheckpointError(f"{path}: truncated, or not a TorchScript file ({reason})") from None


def save(module: torch.nn.Module, spec: CheckpointSpec, path: Path | str, half: bool = False) -> None:
    """Scripts `module` and writes it with `spec`; the file appears only when it is whole.

    half: weights are stored in half precision, in half the space, and computed with in single precision after loading.
    Raises CheckpointError for weights that are not finite, OSError where the file cannot be written.
    """
    import copy

    path = Path(path)
    problem = _bad_weights(module)
    if problem:
        raise CheckpointError(f"{path}: not written: {problem}")
    scripted = script(copy.deepcopy(module).eval().cpu())
    if half:
        for parameter in scripted.parameters():
            parameter.data = parameter.data.half()
    _write(scripted, spec, path)


def _write(scripted: Any, spec: CheckpointSpec, path: Path) -> None:
    """Writes the file without the debug records: they name the folders of the machine that the sources lay on."""
    import torch

    buffer = io.BytesIO()
    with _quiet():
        torch.jit.save(scripted, buffer, _extra_files={SPEC_FILE: spec.to_json().encode()})
    with (
        atomic_write(path) as temporary,
        zipfile.ZipFile(buffer) as source,
        zipfile.ZipFile(temporary, "w") as archive,
    ):
        for entry in source.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                archive.writestr(entry, source.read(entry), entry.compress_type)


def read_spec(path: Path | str) -> CheckpointSpec:
    """The specification alone, without torch. Raises CheckpointError."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        with zipfile.ZipFile(path) as archive:
            # The archive's folder has the name of the file that was first written.
            names = [name for name in archive.namelist() if name.endswith(f"/extra/{SPEC_FILE}")]
            if len(names) != 1:
                raise CheckpointError(f"{path}: not a checkpoint of diffusion_ros: it has no {SPEC_FILE}")
            return CheckpointSpec.from_json(archive.read(names[0]))
    except zipfile.BadZipFile:
        raise CheckpointError(f"{path}: truncated, or not a TorchScript file") from None
    except SpecError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None


def replace_spec(path: Path | str, spec: CheckpointSpec) -> None:
    """Writes another specification into the file; the module stays as it is. Raises CheckpointError."""
    path = Path(path)
    _write(foreign(path), spec, path)


def record_scores(path: Path | str, scores: Mapping[str, Any]) -> None:
    """Adds measured scores to the specification in the file. Raises CheckpointError."""
    spec = read_spec(path)
    replace_spec(path, dataclasses.replace(spec, scores={**spec.scores, **scores}))


def weights(path: Path | str) -> dict[str, torch.Tensor]:
    """All parameters and buffers by name, in single precision. Raises CheckpointError as `load` does."""
    import torch

    load(path)
    with _quiet():
        module = torch.jit.load(str(path), map_location="cpu")
    return {name: value.float() if value.is_floating_point() else value for name, value in module.state_dict().items()}


def file_sha256(path: Path | str) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def load(
    path: Path | str,
    device: torch.device | str = "cpu",
    kind: str | tuple[str, ...] | None = None,
    task: str | None = None,
    sampler: str | None = None,
    sampler_steps: int | None = None,
) -> Checkpoint:
    """Loads and tries a checkpoint; `sampler` and `sampler_steps` replace the exported ones.

    Raises CheckpointError, in one line, for a missing, truncated or foreign file, another kind or task than expected,
    weights or statistics that are not finite or degenerate, a specification that the module does not fulfil.
    """
    import torch

    path = Path(path)
    spec = read_spec(path)
    kinds = (kind,) if isinstance(kind, str) else kind
    if kinds is not None and spec.kind not in kinds:
        raise CheckpointError(
            f"{path}: is {with_article(spec.kind)}, {' or '.join(map(with_article, kinds))} is needed"
        )
    if task is not None and spec.task != task:
        raise CheckpointError(f"{path}: was trained on the task {spec.task}, {task} is needed")
    changes: dict[str, Any] = {}
    if sampler is not None:
        changes["sampler"] = sampler
    if sampler_steps is not None:
        changes["sampler_steps"] = sampler_steps
    try:
        spec = dataclasses.replace(spec, **changes)
    except SpecError as error:
        raise CheckpointError(f"{path}: {error}") from None
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"device {str(device)!r}: cannot be used: {reason}") from None
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()  # torch does not compare checksums
    if damaged:
        raise CheckpointError(f"{path}: damaged: the checksum of {damaged} does not match")
    with _quiet():
        try:
            module = torch.jit.load(str(path), map_location=device)
        except (RuntimeError, ValueError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise CheckpointError(f"{path}: truncated, or not a TorchScript file ({reason})") from None
        module = module.eval().float()
        problem = _bad_weights(module)
        if problem:
            raise CheckpointError(f"{path}: {problem}")
        entries = ENTRY_POINTS.get(spec.kind, ())
        missing = [name for name in entries if not hasattr(module, name)]
        if missing:
            raise CheckpointError(f"{path}: the module has no {' and no '.join(missing)}, as a {spec.kind} must")
        if hasattr(module, "sampler"):
            module.sampler = spec.sampler
        module = torch.jit.freeze(module, preserved_attrs=list(entries))
    checkpoint = Checkpoint(module, spec, file_sha256(path), device)
    try:
        problem = _dry_run(checkpoint)
    except RuntimeError as error:
        problem = f"the module does not run on its own specification: {str(error).strip().splitlines()[-1]}"
    if problem:
        raise CheckpointError(f"{path}: {problem}")
    return checkpoint


def with_article(kind: str) -> str:
    """A kind as it stands in a sentence."""
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _bad_weights(module: Any) -> str:
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if not value.is_floating_point():
            continue
        if not bool(value.isfinite().all()):
            return f"{name} has values that are NaN or infinite"
        if name.endswith("scale") and not bool((value > 0).all()):
            return f"the statistics {name} are degenerate: a scale is not positive"
    return ""


def _dry_run(checkpoint: Checkpoint) -> str:
    """Runs the module on made-up input; returns what is wrong with its answer, or ''."""
    if checkpoint.spec.kind == "policy":
        return _dry_run_policy(checkpoint)
    if checkpoint.spec.kind == "planner":
        return _dry_run_planner(checkpoint)
    if checkpoint.spec.kind in REACTIVE_KINDS:
        return _dry_run_reactive(checkpoint)
    if checkpoint.spec.kind == GUARD_KIND:
        return _dry_run_guard(checkpoint)
    if checkpoint.spec.kind == IMAGE_KIND:
        return _dry_run_images(checkpoint)
    return ""


def _dry_run_guard(checkpoint: Checkpoint) -> str:
    import torch

    poses = torch.tensor([[0.0, 0, 0, 0, 0, 0, 1]], device=checkpoint.device).repeat(2, 1)
    for camera, tensor in enumerate(checkpoint.spec.inputs[: len(checkpoint.spec.cameras)]):
        images = torch.zeros((2, *tensor.shape), dtype=torch.uint8, device=checkpoint.device)
        images[1] = 255
        with torch.inference_mode():
            score, heat = checkpoint.module.score(images, poses, camera)
        if tuple(score.shape) != (2,) or heat.ndim != 3 or len(heat) != 2:
            return f"gives scores {tuple(score.shape)} and heat {tuple(heat.shape)}, (2,) and (2, h, w) expected"
        if not bool(score.isfinite().all()) or not bool(heat.isfinite().all()):
            return f"gives scores of {tensor.name} that are NaN or infinite"
    return ""


def _dry_run_images(checkpoint: Checkpoint) -> str:
    import torch

    spec = checkpoint.spec
    steps = min(2, spec.num_train_timesteps)
    expected = (steps + 1, 1, *spec.outputs[0].shape)
    with torch.inference_mode():
        images, path = checkpoint.module.sample(0, 1, steps), checkpoint.module.denoised(0, 1, steps)
    for answer, shape in ((images, expected[1:]), (path, expected)):
        if answer.dtype != torch.uint8 or tuple(answer.shape) != shape:
            found = f"{str(answer.dtype).removeprefix('torch.')} {tuple(answer.shape)}"
            return f"gives images {found}, its specification says uint8 {shape}"
    return ""


def _dry_run_reactive(checkpoint: Checkpoint) -> str:
    import torch

    spec = checkpoint.spec
    discrete = spec.kind == "discrete policy"
    # Far from what any task shows, too: the limits must hold everywhere.
    levels = torch.tensor([0.0, 1.0, -1.0, 100.0, -100.0], device=checkpoint.device)
    observation = levels[:, None].repeat(1, spec.inputs[0].shape[0])
    with torch.inference_mode():
        answers = {"actions": checkpoint.module(observation)}
        if discrete:
            answers["values"] = checkpoint.module.values(observation)
    n = len(levels)
    expected = {"actions": (torch.float32, (n, *spec.outputs[0].shape))}
    if discrete:
        expected = {
            "actions": (torch.int64, (n,)),
            "values": (torch.float32, (n, int(spec.action_high[0]) + 1)),
        }
    for name, answer in answers.items():
        dtype, shape = expected[name]
        if answer.dtype != dtype or tuple(answer.shape) != shape:
            return (
                f"gives {name} {str(answer.dtype).removeprefix('torch.')} {tuple(answer.shape)},"
                f" its specification says {str(dtype).removeprefix('torch.')} {shape}"
            )
        if not bool(answer.isfinite().all()):
            return f"gives {name} that are NaN or infinite"
    low, high = (torch.tensor(limits, device=checkpoint.device) for limits in (spec.action_low, spec.action_high))
    actions = answers["actions"].reshape(n, -1)
    if bool((actions < low).any()) or bool((actions > high).any()):
        return f"gives actions beyond its limits, {list(spec.action_low)} to {list(spec.action_high)}"
    return ""


def _dry_run_planner(checkpoint: Checkpoint) -> str:
    import torch

    spec = checkpoint.spec
    shape = (1, spec.horizon, sum(tensor.shape[0] for tensor in spec.outputs))
    zeros = torch.zeros(shape, device=checkpoint.device)
    with torch.no_grad():
        x = checkpoint.module.noised(zeros, zeros, spec.num_train_timesteps - 1)
        x, plan = checkpoint.module.step(x, zeros, zeros > 0, zeros[:0], spec.num_train_timesteps - 1, -1, {})
    if tuple(plan.shape) != shape:
        return f"gives plans of shape {tuple(plan.shape)}, its specification says {shape}"
    if not bool(plan.isfinite().all()):
        return "gives plans that are NaN or infinite"
    return ""


def _dry_run_policy(checkpoint: Checkpoint) -> str:
    import torch

    spec = checkpoint.spec
    frame = {}
    for tensor in spec.inputs:
        dtype = torch.uint8 if tensor.dtype == "uint8" else torch.float32
        value = torch.zeros((1, *tensor.shape), dtype=dtype, device=checkpoint.device)
        if tensor.name.endswith("_quat"):
            value[:, 3] = 1
        frame[tensor.name] = value
    with torch.inference_mode():
        features = checkpoint.module.encode(frame)
        rows = checkpoint.module.sample(features[:, None].repeat(1, spec.n_obs_steps, 1), 0, spec.sampler_steps)
    expected = (1, spec.n_rows, 7)
    if tuple(rows.shape) != expected:
        return f"gives chunks of shape {tuple(rows.shape)}, its specification says {expected}"
    if not bool(rows.isfinite().all()):
        return "gives actions that are NaN or infinite"
    return ""
