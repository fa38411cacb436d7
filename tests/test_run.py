"""What a resumed run may go on with, by what the run before has saved of its data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.options.images import Options
from training.options.shared import options_json
from training.run import Run, save_state


@pytest.mark.parametrize("name", ["data_sha256", "data_hash"])  # now, and in 0.1
def test_only_the_same_data_are_gone_on_with(name: str, tmp_path: Path, fresh_accelerate: None) -> None:
    options = Options(data="digits", out=tmp_path / "digits.pt", resume=True, iterations=10)
    options.run_folder.mkdir()
    save_state(options.run_folder / "state.pt", {"options": json.dumps(options_json(options)), name: "a" * 64})
    assert Run(options, "a" * 64).saved() is not None
    with pytest.raises(
        ValueError, match="was begun with data of SHA-256 aaaaaaaaaaaaaaaa, digits has bbbbbbbbbbbbbbbb"
    ):
        Run(options, "b" * 64).saved()
