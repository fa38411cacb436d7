"""What ships loads, says where it comes from, fits its task, and is small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffusion_ros import checkpoint
from diffusion_ros.policy import Policy
from diffusion_ros.simulation import TASKS, Simulation

CHECKPOINTS = sorted((Path(__file__).resolve().parents[1] / "checkpoints").glob("*.pt"))


def test_the_default_of_make_sim_ships() -> None:
    assert "can_pixels.pt" in [path.name for path in CHECKPOINTS]


def test_all_together_are_small() -> None:
    sizes = {path.name: path.stat().st_size for path in CHECKPOINTS}
    assert max(sizes.values()) < 20e6
    assert sum(sizes.values()) < 60e6


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.stem)
def test_checkpoint_fits_its_task(path: Path) -> None:
    task, inputs = path.stem.split("_")[:2]
    policy = Policy(checkpoint.load(path, kind="policy", task=task))
    spec = policy.spec
    assert spec.environment == TASKS[task].environment
    assert spec.cameras == (() if inputs == "state" else ("agentview", "robot0_eye_in_hand"))
    assert ("object_pos" in spec.input_names) == (inputs == "state")
    assert spec.training["out"].endswith(path.name) and len(spec.data_hash) == 64 and spec.git_commit
    simulation = Simulation(task, spec.cameras)
    simulation.reset(1)
    frame = simulation.observe(images=bool(spec.cameras))
    simulation.close()
    rows = policy.sample([policy.encode(frame)] * spec.n_obs_steps, seed=0)
    # From the start pose every task begins with a hand that is open and goes down.
    assert np.all(rows[:4, 2] < 0) and np.all(rows[:4, 6] < -0.5)
    low, high = np.array(spec.workspace_low), np.array(spec.workspace_high)
    assert np.all(frame["robot0_eef_pos"] > low) and np.all(frame["robot0_eef_pos"] < high)
