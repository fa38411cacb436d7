"""Damaged checkpoints, at random: each is refused in one line, or is what it was. No exception but CheckpointError.

A few hundred in `make test`, thousands in `make test-slow`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffusion_ros import checkpoint
from diffusion_ros.checkpoint import CheckpointError
from diffusion_ros.models.kind import Checkpoint
from diffusion_ros.nodes.executor_parameters import ExecutorParameters, completed, make_executor
from diffusion_ros.ros.params import ParameterError
from diffusion_ros.sealed import trial
from diffusion_ros.spec import CheckpointSpec, SpecError
from tests.hostile.checkpoints import CODE, honest, write

amounts = pytest.mark.parametrize(
    "count", [120, pytest.param(2100, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
WEIRD: tuple[Any, ...] = (
    *(0, -1, 1e-300, 1e300, -0.0, 2**63, 10**30, True, None, "", "x", "\n", "\ud800", [], {}, [[]], {"a": 1}),
    *([None] * 7, [1e308] * 7, ["x"] * 7, 0.5, 3, 10**6),
)


def damaged(rng: np.random.Generator, content: bytes) -> bytes:
    """Bytes of which some are others, are missing, or are there twice."""
    made = bytearray(content)
    what = rng.integers(6)
    at = int(rng.integers(len(made)))
    length = int(rng.integers(1, 1 + min(64, len(made))))
    if what == 0:
        for _ in range(rng.integers(1, 4)):
            made[rng.integers(len(made))] ^= 1 << int(rng.integers(8))
    elif what == 1:
        made[at : at + length] = rng.integers(0, 256, length, np.uint8).tobytes()
    elif what == 2:
        made[at : at + length] = bytes(length)
    elif what == 3:
        del made[at : at + length]
    elif what == 4:
        made[at:at] = made[rng.integers(len(made)) :][:length]
    else:
        del made[at:]
    return bytes(made)


def outcome(path: Path) -> Checkpoint | None:
    """What is loaded, None for a refusal: one printable line."""
    refused("read", lambda: checkpoint.read_spec(path))
    loaded: list[Checkpoint] = []
    refused("load", lambda: loaded.append(checkpoint.load(path)))
    return loaded[0] if loaded else None


def refused(what: str, use: Callable[[], object]) -> bool:
    """Whether it is, in one printable line."""
    said = ""
    try:
        use()
    except (CheckpointError, SpecError, ParameterError) as error:
        said = str(error) or "nothing"
    assert said.isprintable() and len(said) < 900, f"{what}: {said!r}"
    return said != ""


@pytest.fixture(autouse=True)
def _short_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial.trial, "__defaults__", (5.0, 1 << 30))


@amounts
def test_of_a_damaged_file_nothing_is_used_but_what_was_written(count: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(count)
    path = write(tmp_path / "policy.pt", honest())
    whole = path.read_bytes()
    spec = checkpoint.read_spec(path)
    gain = checkpoint.weights(path)["gain"]
    bad = 0
    for _ in range(count):
        path.write_bytes(damaged(rng, whole))
        loaded = outcome(path)
        bad += loaded is None
        if loaded is not None:
            assert loaded.spec == spec
            assert torch.equal(checkpoint.weights(path)["gain"], gain)
    assert bad > count / 2


@pytest.mark.parametrize("entry", ["data.pkl", "constants.pkl", CODE, "extra/spec.json", "data/0", "version"])
@amounts
def test_what_was_damaged_before_it_was_packed_ends_nothing(count: int, entry: str, tmp_path: Path) -> None:
    """All checksums are right, so all that reads an entry sees it."""
    rng = np.random.default_rng(count)
    entries, path = dict(honest()), tmp_path / "policy.pt"
    bad = 0
    for _ in range(count // 6):
        content = damaged(rng, entries[entry])
        bad += outcome(write(path, entries | {entry: content})) is None
    assert bad or entry == "data/0"


def changed(rng: np.random.Generator, fields: Any) -> Any:
    """A specification in which something is another thing, at any depth."""
    if isinstance(fields, dict) and fields and rng.random() < 0.9:
        name = str(rng.choice(sorted(fields)))
        return {**fields, name: changed(rng, fields[name])}
    if isinstance(fields, list) and fields and rng.random() < 0.7:
        at = int(rng.integers(len(fields)))
        return [*fields[:at], changed(rng, fields[at]), *fields[at + 1 :]]
    return WEIRD[rng.integers(len(WEIRD))]


def _executor(spec: CheckpointSpec) -> None:
    """What an executor makes of one that is accepted."""
    p = ExecutorParameters(checkpoint_limits=True)
    make_executor("executor", completed("executor", p, spec), spec)


def _used(use: Callable[[CheckpointSpec], object], text: str) -> None:
    use(checkpoint.checked(CheckpointSpec.from_json(text)))


@pytest.mark.parametrize("use", [_executor, lambda spec: (spec.period_ns, spec.n_rows, spec.to_json())])
@pytest.mark.parametrize("count", [4000, pytest.param(200_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_a_changed_specification_is_refused_or_can_be_used(count: int, use: Callable[[CheckpointSpec], object]) -> None:
    rng = np.random.default_rng(count)
    fields = json.loads(honest()["extra/spec.json"])
    fields |= {
        "typical": {"robot0_eef_quat": {"mean": [0.0, 0.0, 0.0, 1.0], "angle": 0.5}},
        "base_pose": [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        "response": [100.0, 1.0],
        "actions": {"kind": "delta", "axes": "base"},
    }
    bad = 0
    for _ in range(count):
        made = changed(rng, fields)
        if rng.random() < 0.3:
            made = changed(rng, made)
        text = json.dumps(made)
        bad += refused(text, functools.partial(_used, use, text))
    assert count / 5 < bad < count
