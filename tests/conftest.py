"""What all tests share."""

import os

# Before anything imports torch: one thread, as nodes have it. Two wait for each other by spinning.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest


@pytest.fixture
def fresh_accelerate() -> None:
    """Accelerate keeps the precision of a process's first run; with this a test is a run of its own."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
