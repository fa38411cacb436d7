"""The task with two ways: its rules, its expert, and which samplers keep both."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from training.evaluation import two_ways
from training.evaluation.two_ways import GOAL, MAX_STEP, MAX_STEPS, Array
from training.options.two_ways import Options
from training.trainers.two_ways import N_ACTION_STEPS, ROWS, drive, make_policy, make_windows, table

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("left", "side"), [(True, 1.0), (False, -1.0)])
def test_the_expert_goes_where_it_is_told_and_never_into_the_disc(left: bool, side: float) -> None:
    start = two_ways.starts(100, 100_000)
    episodes = two_ways.run(start, lambda positions, step: two_ways.expert(positions[:, -1], np.full(100, left)))
    assert episodes.success.all()
    assert (episodes.left == left).all()
    assert np.linalg.norm(episodes.positions, axis=2).min() > two_ways.DISC_RADIUS
    beside = np.abs(episodes.positions[:, :, 0]) < 0.5 * MAX_STEP
    assert (side * episodes.positions[beside][:, 1] > two_ways.DISC_RADIUS).all()
    # Shorter is impossible: round the disc, in steps of that length.
    straight = np.linalg.norm(start - GOAL, axis=1) - two_ways.GOAL_RADIUS
    assert (episodes.steps > straight / MAX_STEP).all() and (episodes.steps < MAX_STEPS).all()


def test_straight_ahead_is_the_disc_and_standing_still_is_no_success() -> None:
    start = np.array([[-1.0, 0.0], [-1.0, 0.0], [-0.7, 0.0]])
    step_x = np.array([MAX_STEP, 0.0, 10.0])  # the last is shortened

    episodes = two_ways.run(start, lambda positions, step: np.stack([step_x, np.zeros(3)], axis=1))
    assert not episodes.success.any()
    assert episodes.steps.tolist() == [9, MAX_STEPS, 6]  # 0.7 m and 0.4 m to the disc, in steps of 0.08 m
    np.testing.assert_allclose(episodes.positions[0, 9:, 0], -1.0 + 9 * MAX_STEP)  # it stays where it ended
    np.testing.assert_allclose(episodes.positions[2, 1] - episodes.positions[2, 0], [MAX_STEP, 0.0])


def test_demonstrations_go_both_ways_and_the_start_does_not_say_which() -> None:
    episodes, labels = two_ways.demonstrations(500, 0)
    assert episodes.success.all()
    assert 0.45 < episodes.left.mean() < 0.55
    start = episodes.positions[:, 0]
    deviation = start.std(axis=0) * np.sqrt(4 / 500)  # of the difference of two means of 250
    assert (np.abs(start[episodes.left].mean(axis=0) - start[~episodes.left].mean(axis=0)) < 3 * deviation).all()
    np.testing.assert_allclose(np.linalg.norm(labels[:, 0], axis=1), MAX_STEP)
    again, _ = two_ways.demonstrations(500, 0)
    assert np.array_equal(again.positions, episodes.positions)
    assert not np.array_equal(two_ways.demonstrations(500, 1)[0].positions, episodes.positions)
    assert np.array_equal(two_ways.starts(3, 7)[1:], two_ways.starts(2, 8))


def test_windows_are_what_a_policy_sees_and_then_does() -> None:
    episodes, labels = two_ways.demonstrations(3, 0)
    windows = make_windows(episodes, labels)
    assert windows.observed.shape == (episodes.steps.sum(), 2, 2) and windows.actions.shape[1:] == (ROWS, 2)
    first = torch.from_numpy(labels[0].astype(np.float32))
    positions = torch.from_numpy(episodes.positions[0].astype(np.float32))
    assert torch.equal(windows.observed[0], positions[[0, 0]])
    assert torch.equal(windows.actions[0, 1:], first[: ROWS - 1])
    assert windows.valid[0].tolist() == [False] + [True] * (ROWS - 1)
    assert torch.equal(windows.observed[5], positions[4:6])
    assert torch.equal(windows.actions[5], first[4 : 4 + ROWS]) and windows.valid[5].all()
    last = int(episodes.steps[0]) - 1
    assert windows.valid[last].tolist() == [True, True] + [False] * (ROWS - 2)
    assert torch.equal(windows.actions[last, 1], first[last])


def test_a_policy_drives_by_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy(make_windows(*two_ways.demonstrations(3, 0)), 0)
    asked: list[tuple[Array, int]] = []

    def forward(obs: dict[str, Tensor], seed: int, steps: int) -> Tensor:
        assert steps == 7 and policy.sampler == "ddpm"
        asked.append((obs["position"].numpy(), seed))
        return torch.tensor([[[0.001 * row, 0.05] for row in range(ROWS - 1)]] * 4)

    monkeypatch.setattr(policy, "forward", forward)
    episodes = drive(policy, 4, 100_000, "ddpm", 7)
    assert len(asked) == -(-MAX_STEPS // N_ACTION_STEPS)
    for i, (seen, _) in enumerate(asked):
        now = N_ACTION_STEPS * i
        np.testing.assert_allclose(seen, episodes.positions[:, [max(0, now - 1), now]].astype(np.float32))
    assert len({seed for _, seed in asked}) == len(asked)
    moved = np.diff(episodes.positions[:, : 2 * N_ACTION_STEPS + 1], axis=1)
    rows = [0.001 * (step % N_ACTION_STEPS) for step in range(2 * N_ACTION_STEPS)]
    np.testing.assert_allclose(moved[0], np.stack([rows, np.full(len(rows), 0.05)], axis=1), atol=1e-6)


def test_the_table_has_a_line_for_each_sampler() -> None:
    found = {
        "good": {"success_rate": 0.996, "left_share": 0.5, "mean_steps": 27.31},
        "none": {"success_rate": 0.0, "left_share": None, "mean_steps": None},
    }
    assert table(found).splitlines()[2:] == ["| good | 99.6 | 50.0 | 27.3 |", "| none | 0.0 | - | - |"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"teacher_steps": 101}, "teacher_steps 101: must be 1 to 100"),
        ({"episodes": 0}, "episodes 0: must be at least 1"),
        ({"picture": Path("nowhere/x.png")}, "nowhere/x.png: its folder does not exist"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(Options(json=Path("x.json")), **options)


def command(folder: Path, *words: str) -> tuple[dict[str, dict[str, float | None]], str]:
    """Summary's samplers, and what was printed."""
    paths = ("--json", str(folder / "found.json"), "--picture", str(folder / "ways.png"))
    run = subprocess.run(
        [sys.executable, "-m", "training.two_ways", *paths, *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads((folder / "found.json").read_text())["samplers"], run.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_distilled_step_keeps_both_ways_and_the_teachers_step_neither(tmp_path: Path) -> None:
    found, printed = command(tmp_path)
    assert table(found) in printed
    with Image.open(tmp_path / "ways.png") as picture:
        assert picture.width > 1000
    full, step, student = (found[name] for name in ("100 DDPM steps", "1 step", "1 step, distilled"))
    assert full["success_rate"] is not None and full["success_rate"] > 0.95
    assert step["success_rate"] is not None and step["success_rate"] < full["success_rate"] - 0.4
    assert student["success_rate"] is not None and student["success_rate"] >= full["success_rate"] - 0.03
    for sampler in (full, student):
        assert sampler["left_share"] is not None and 0.35 <= sampler["left_share"] <= 0.65
