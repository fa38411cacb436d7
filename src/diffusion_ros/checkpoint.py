"""A checkpoint is one file: a TorchScript module and its specification. The only file that uses torch.jit.

Nodes need a path and a device; no class of ours and no pickle. A file is read once. Before anything in it runs, its
operators are compared with a list (sealed/operators.py); then the module runs once on made-up input, in a process with
limits. Whatever does not fit is refused in one line.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from diffusion_ros.atomic_file import atomic_write
from diffusion_ros.models import KINDS
from diffusion_ros.models.kind import Checkpoint as Checkpoint
from diffusion_ros.models.timesteps import timesteps
from diffusion_ros.sealed import archive as archives
from diffusion_ros.sealed import code, graphs, operators, pickled, signatures
from diffusion_ros.sealed.archive import Archive
from diffusion_ros.sealed.refusal import Refusal, shown
from diffusion_ros.sealed.trial import remembered
from diffusion_ros.spec import CheckpointSpec, SpecError

if TYPE_CHECKING:
    import torch

P = ParamSpec("P")
R = TypeVar("R")


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
    """The TorchScript form of a module. Raises CheckpointError for one that no node would load."""
    import torch

    with _quiet():
        made = torch.jit.script(module)
        buffer = io.BytesIO()
        torch.jit.save(made, buffer)
    try:
        _for_torch(archives.read(buffer.getvalue()))
    except Refusal as error:
        raise CheckpointError(f"{type(module).__name__}: {error}") from None
    return made


def foreign(path: Path | str) -> Any:
    """A TorchScript module that is none of our checkpoints. Raises CheckpointError, in one line."""
    with _refused(path):
        return _compiled(_for_torch(archives.read(archives.bytes_of(Path(path)))), "cpu").eval()


@contextmanager
def _refused(path: Path | str) -> Iterator[None]:
    """Refusals name the file."""
    try:
        yield
    except (Refusal, SpecError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None


def _for_torch(archive: Archive) -> bytes:
    """What torch may have of an archive. Raises Refusal for an operator, a class or a tensor that is not allowed."""
    if "data.pkl" not in archive.entries or "constants.pkl" not in archive.entries:
        raise Refusal("truncated, or not a TorchScript file (it has no data.pkl and constants.pkl)")
    classes = pickled.check(archive.entries, "data.pkl", "data")
    classes |= pickled.check(archive.entries, "constants.pkl", "constants")
    return archive.for_torch(code.check(archive.code, classes))


def _compiled(content: bytes, device: torch.device | str) -> Any:
    """The module of a checked archive; nothing of it has run. Raises Refusal."""
    import torch
    from torch.jit._recursive import wrap_cpp_module

    with _quiet():
        try:
            # What torch.jit.load does, with a hand on all that was compiled.
            library: Any = torch._C
            unit = library.CompilationUnit()
            made = library.import_ir_module_from_buffer(unit, content, torch.device(device), {}, False)
            graphs.check(unit.get_functions())
            return wrap_cpp_module(made)
        except Refusal:
            raise
        except Exception as error:  # whatever torch makes of it
            raise Refusal(f"truncated, or not a TorchScript file ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return shown(lines[0] if lines else type(error).__name__, 200)


def checked(spec: CheckpointSpec) -> CheckpointSpec:
    """The specification, if it is one of its kind. Raises SpecError, one line with the value and the rule."""
    if spec.kind not in KINDS:
        raise SpecError(f"spec: kind {spec.kind!r}, one of {', '.join(KINDS)} expected")
    KINDS[spec.kind].check(spec)
    return spec


def save(
    module: torch.nn.Module, spec: CheckpointSpec, path: Path | str, half: bool = False, key: Path | str | None = None
) -> None:
    """Scripts `module` and writes it with `spec`; the file appears only when it is whole.

    half: weights are stored in half precision, in half the space, and computed with in single precision after loading.
    key: file of the private key (Ed25519, PEM) that the checkpoint is signed with, None for the one that
    DIFFUSION_ROS_SIGNING_KEY names, if it names any.
    Raises CheckpointError for weights that are not finite or a module that no node would load, SpecError for a
    specification that is none of its kind, OSError where the file cannot be written.
    """
    import copy

    import torch

    path = Path(path)
    checked(spec)
    problem = _bad_weights(module)
    if problem:
        raise CheckpointError(f"{path}: not written: {problem}")
    scripted = script(copy.deepcopy(module).eval().cpu())
    if half:
        for parameter in scripted.parameters():
            parameter.data = parameter.data.half()
    buffer = io.BytesIO()
    with _quiet():
        torch.jit.save(scripted, buffer)
    _write(archives.read(buffer.getvalue()), spec, path, key)


def _write(archive: Archive, spec: CheckpointSpec, path: Path, key: Path | str | None) -> None:
    entries = {archives.SPEC: spec.to_json().encode(), **archive.entries}
    entries[archives.SPEC] = spec.to_json().encode()
    try:
        content = archives.packed(signatures.signed(dataclasses.replace(archive, entries=entries), key))
    except Refusal as error:
        raise CheckpointError(f"{path}: not written: {error}") from None
    with atomic_write(path) as temporary:
        Path(temporary).write_bytes(content)


def read_spec(path: Path | str, trusted_keys: Sequence[str] = (), sha256: str = "") -> CheckpointSpec:
    """The specification alone, without torch. Raises CheckpointError; `load` has the arguments."""
    with _refused(path):
        content = archives.bytes_of(Path(path))
        if trusted_keys or sha256:
            _trusted(archives.read(content), trusted_keys, sha256)
        return checked(CheckpointSpec.from_json(archives.spec_of(content)))


def _trusted(archive: Archive, trusted_keys: Sequence[str], sha256: str) -> str:
    """The key that it is signed with. Raises Refusal for another file than the one meant, or nobody's."""
    if sha256 and archive.sha256 != sha256.lower():
        raise Refusal(f"has the SHA-256 {archive.sha256}, {shown(sha256)} expected: it is another file")
    return signatures.verified(archive, [key for key in trusted_keys if key])


def replace_spec(path: Path | str, spec: CheckpointSpec, key: Path | str | None = None) -> None:
    """Writes another specification into the file; the module stays as it is. Raises CheckpointError.

    A signature is made anew by `key`, or lost.
    """
    path = Path(path)
    with _refused(path):
        checked(spec)
        archive = archives.read(archives.bytes_of(path))
    _write(archive, spec, path, key)


def sign(path: Path | str, key: Path | str) -> None:
    """Signs a checkpoint as it is. Raises CheckpointError."""
    replace_spec(path, read_spec(path), key)


def record_scores(path: Path | str, scores: Mapping[str, Any]) -> None:
    """Adds measured scores to the specification in the file. Raises CheckpointError."""
    spec = read_spec(path)
    replace_spec(path, dataclasses.replace(spec, scores={**spec.scores, **scores}))


def weights(path: Path | str) -> dict[str, torch.Tensor]:
    """All parameters and buffers by name, in single precision. Raises CheckpointError as `load` does."""
    load(path)
    values = foreign(path).state_dict()
    return {name: value.float() if value.is_floating_point() else value for name, value in values.items()}


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
    trusted_keys: Sequence[str] = (),
    sha256: str = "",
) -> Checkpoint:
    """Loads and tries a checkpoint; `sampler`, `sampler_steps` and `timestep_spacing` replace the exported ones.

    trusted_keys: public keys, of which one must have signed the file (sealed/signatures.py); none: nobody need have.
    sha256: of the file that is meant; '': whatever is there.

    Raises CheckpointError, in one line, for a missing, truncated or foreign file, another kind or task than expected,
    an operator that is not allowed, weights or statistics that are not finite or degenerate, a specification that the
    module does not fulfil, and one that takes too much time or memory.
    """
    import torch

    path = Path(path)
    with _refused(path):
        archive = archives.read(archives.bytes_of(path))
        signer = _trusted(archive, trusted_keys, sha256)
        if archives.SPEC not in archive.entries:
            raise Refusal(archives.NO_SPEC)
        exported_spec = spec = checked(CheckpointSpec.from_json(archive.entries[archives.SPEC]))
        kinds = (kind,) if isinstance(kind, str) else kind
        if kinds is not None and spec.kind not in kinds:
            raise Refusal(f"is {with_article(spec.kind)}, {' or '.join(map(with_article, kinds))} is needed")
        if task is not None and spec.task != task:
            raise Refusal(f"was trained on the task {shown(spec.task)}, {task} is needed")
        chosen = {"sampler": sampler, "sampler_steps": sampler_steps, "timestep_spacing": timestep_spacing}
        changes: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
        spec = checked(dataclasses.replace(spec, **changes))
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"device {str(device)!r}: cannot be used: {reason}") from None

    def made(where: torch.device) -> Checkpoint:
        fixed = timestep_spacing not in (None, exported_spec.timestep_spacing)
        return Checkpoint(_frozen(_compiled(content, where), spec, where, fixed), spec, archive.sha256, where, signer)

    def tried() -> str:
        # One thread, as the others did not come along.
        torch.set_num_threads(1)
        return _problem(made(torch.device("cpu")))

    with _refused(path):
        content = _for_torch(archive)
        what = (archive.sha256, *map(str, changes.items()), torch.__version__, operators.version())
        if problem := remembered("\n".join(what), tried):
            raise Refusal(problem)
        checkpoint = made(device)
        if problem := _problem(checkpoint):
            raise Refusal(problem)
    return checkpoint


def _frozen(module: Any, spec: CheckpointSpec, device: torch.device, other_spacing: bool) -> Any:
    """The module as it is used. Raises Refusal for one that is none of its kind.

    other_spacing: whether a timestep_spacing is wanted that is not the exported one.
    """
    import torch

    module = module.eval().float()
    problem = _bad_weights(module)
    if problem:
        raise Refusal(problem)
    kind_of = KINDS[spec.kind]
    entries = kind_of.entry_points
    missing = [name for name in entries if not hasattr(module, name)]
    if missing:
        raise Refusal(f"the module has no {' and no '.join(missing)}, as a {spec.kind} must")
    if hasattr(module, "sampler"):
        module.sampler = spec.sampler
    if hasattr(module, "schedule") and hasattr(module.schedule, "timestep_spacing"):
        module.schedule.timestep_spacing = spec.timestep_spacing
    if other_spacing and not _visits(module, spec):
        raise Refusal(
            f"timestep_spacing {spec.timestep_spacing!r}: it is of a time when it could not be chosen;"
            " `python -m training.export_again` mends that"
        )
    if hasattr(module, "layers_side_by_side"):
        try:
            module.encoder.joined = module.layers_side_by_side(quick_in_bfloat16(device))
        except (RuntimeError, TypeError, AttributeError) as error:
            reason = shown(str(error).strip().splitlines()[-1], 200)
            raise Refusal(f"its encoders' layers cannot be put side by side: {reason}") from None
    entries += tuple(name for name in kind_of.optional if hasattr(module, name))
    with _quiet():
        return torch.jit.freeze(module, preserved_attrs=list(entries))


def _problem(checkpoint: Checkpoint) -> str:
    """What is wrong with its answer to made-up input, or ''."""
    try:
        return KINDS[checkpoint.spec.kind].dry_run(checkpoint)
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        lines = str(error).strip().splitlines()
        reason = shown(lines[-1] if lines else type(error).__name__, 200)
        return f"the module does not run on its own specification: {reason}"


def quick_in_bfloat16(device: torch.device) -> bool:
    """Whether it has instructions for convolutions in bfloat16. Elsewhere they are slower than in single precision."""
    import torch

    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


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
