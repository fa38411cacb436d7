"""Every hostile input is refused in one line; what a hostile checkpoint would do without the list, it can do."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from some_slow import one_in

from diffusion_ros import checkpoint
from tests.hostile.__main__ import all_cases
from tests.hostile.case import CANARY, Hostile, judged
from tests.hostile.checkpoints import OPERATORS, honest, line, write

CASES = all_cases()


@pytest.mark.parametrize("case", one_in(3, CASES), ids=[f"{case.kind}: {case.name}"[:70] for case in CASES])
def test_it_is_refused_in_one_line_and_does_nothing_else(case: Hostile) -> None:
    good, what = judged(case)
    assert good, what


def test_there_are_enough_and_no_two_are_called_alike() -> None:
    assert len(CASES) >= 60
    assert len({(case.kind, case.name) for case in CASES}) == len(CASES)


def test_the_honest_one_that_all_are_made_of_is_used(tmp_path: Path) -> None:
    assert checkpoint.load(write(tmp_path / "policy.pt", honest())).spec.task == "can"


def test_a_hostile_one_would_write_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason for all this: without the list it does."""
    monkeypatch.chdir(tmp_path)
    entries = line(OPERATORS["torch.from_file writes"])(dict(honest()))
    path = write(tmp_path / "policy.pt", entries)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.load(str(path)).sample(torch.zeros(1, 2, 6), 0, 1)
    assert (tmp_path / CANARY).exists()
