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
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from diffusion_ros.atomic_file import atomic_write
from diffusion_ros.models import KINDS
from diffusion_ros.models.kind import Checkpoint as Checkpoint
from diffusion_ros.models.timesteps import timesteps
from diffusion_ros.spec import CheckpointSpec, SpecError

if TYPE_CHECKING:
    import torch

P = ParamSpec("P")
R = TypeVar("R")
SPEC_FILE = "spec.json"


class CheckpointError(ValueError):
    """A file that is no usable checkpoint: one line with the file and the reason."""


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


def checked(spec: CheckpointSpec) -> CheckpointSpec:
    """The specification, if it is one of its kind. Raises SpecError, one line with the value and the rule."""
    if spec.kind not in KINDS:
        raise SpecError(f"spec: kind {spec.kind!r}, one of {', '.join(KINDS)} expected")
    KINDS[spec.kind].check(spec)
    return spec


def save(module: torch.nn.Module, spec: CheckpointSpec, path: Path | str, half: bool = False) -> None:
    """Scripts `module` and writes it with `spec`; the file appears only when it is whole.

    half: weights are stored in half precision, in half the space, and computed with in single precision after loading.
    Raises CheckpointError for weights that are not finite, SpecError for a specification that is none of its kind,
    OSError where the file cannot be written.
    """
    import copy

    path = Path(path)
    checked(spec)
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
    try:
        if not path.is_file():
            raise CheckpointError(f"{path}: no such checkpoint")
        with zipfile.ZipFile(path) as archive:
            # The archive's folder has the name of the file that was first written.
            names = [name for name in archive.namelist() if name.endswith(f"/extra/{SPEC_FILE}")]
            if len(names) != 1:
                raise CheckpointError(f"{path}: not a checkpoint of diffusion_ros: it has no {SPEC_FILE}")
            return checked(CheckpointSpec.from_json(archive.read(names[0])))
    # All that zipfile raises for entries that are damaged, cut short, encrypted or packed in a way it does not know.
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
        raise CheckpointError(f"{path}: truncated, or not a TorchScript file") from None
    except SpecError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None


def replace_spec(path: Path | str, spec: CheckpointSpec) -> None:
    """Writes another specification into the file; the module stays as it is. Raises CheckpointError."""
    path = Path(path)
    try:
        checked(spec)
    except SpecError as error:
        raise CheckpointError(f"{path}: {error}") from None
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
    timestep_spacing: str | None = None,
) -> Checkpoint:
    """Loads and tries a checkpoint; `sampler`, `sampler_steps` and `timestep_spacing` replace the exported ones.

    Raises CheckpointError, in one line, for a missing, truncated or foreign file, another kind or task than expected,
    weights or statistics that are not finite or degenerate, a specification that the module does not fulfil.
    """
    import torch

    path = Path(path)
    exported_spec = spec = read_spec(path)
    kinds = (kind,) if isinstance(kind, str) else kind
    if kinds is not None and spec.kind not in kinds:
        raise CheckpointError(
            f"{path}: is {with_article(spec.kind)}, {' or '.join(map(with_article, kinds))} is needed"
        )
    if task is not None and spec.task != task:
        raise CheckpointError(f"{path}: was trained on the task {spec.task}, {task} is needed")
    chosen = {"sampler": sampler, "sampler_steps": sampler_steps, "timestep_spacing": timestep_spacing}
    changes: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    try:
        spec = checked(dataclasses.replace(spec, **changes))
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
        kind_of = KINDS[spec.kind]
        entries = kind_of.entry_points
        missing = [name for name in entries if not hasattr(module, name)]
        if missing:
            raise CheckpointError(f"{path}: the module has no {' and no '.join(missing)}, as a {spec.kind} must")
        if hasattr(module, "sampler"):
            module.sampler = spec.sampler
        if hasattr(module, "schedule") and hasattr(module.schedule, "timestep_spacing"):
            module.schedule.timestep_spacing = spec.timestep_spacing
        if timestep_spacing not in (None, exported_spec.timestep_spacing) and not _visits(module, spec):
            raise CheckpointError(
                f"{path}: timestep_spacing {timestep_spacing!r}: it is of a time when it could not be chosen;"
                " `python -m training.export_again` mends that"
            )
        entries += tuple(name for name in kind_of.optional if hasattr(module, name))
        module = torch.jit.freeze(module, preserved_attrs=list(entries))
    checkpoint = Checkpoint(module, spec, file_sha256(path), device)
    try:
        problem = KINDS[spec.kind].dry_run(checkpoint)
    except RuntimeError as error:
        problem = f"the module does not run on its own specification: {str(error).strip().splitlines()[-1]}"
    if problem:
        raise CheckpointError(f"{path}: {problem}")
    return checkpoint


def with_article(kind: str) -> str:
    """A kind as it stands in a sentence."""
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _visits(module: Any, spec: CheckpointSpec) -> bool:
    """Whether sampling visits the steps that the specification says."""
    if hasattr(module, "step"):
        return True  # who calls it chooses them, one after the other
    if not hasattr(module, "schedule") or not hasattr(module.schedule, "timestep_spacing"):
        return False
    expected = timesteps(spec.timestep_spacing, spec.num_train_timesteps - 1, spec.sampler_steps)
    return list(module.schedule.timesteps(spec.sampler_steps)) == expected


def _bad_weights(module: Any) -> str:
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if not value.is_floating_point():
            continue
        if not bool(value.isfinite().all()):
            return f"{name} has values that are NaN or infinite"
        if name.endswith("scale") and not bool((value > 0).all()):
            return f"the statistics {name} are degenerate: a scale is not positive"
    return ""
