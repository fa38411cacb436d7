"""Experts solve their tasks; collecting is exact, resumable and never takes a half-written file for a whole one."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import fake_policy
import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from workers_that_end import killed_part, unable

from diffusion_ros import checkpoint
from diffusion_ros.control.pictures import fit
from diffusion_ros.models.policy import Policy
from diffusion_ros.robot import ACTION_SCALE
from diffusion_ros.simulators.arm import Simulation
from training import collect_demos
from training.collect_demos import Options, collect, record_episode
from training.data.demonstrations import load_demonstrations, make_windows, split_episodes
from training.data.experts import BURST, EXPERTS, REST, ExpertView
from training.data.parts import parts
from training.evaluation import rollout
from training.evaluation.rollout import Late
from training.parallel import Workers

MadeHere = Callable[[], AbstractContextManager[pytest.MonkeyPatch]]
RunCommand = Callable[..., tuple[object, str]]


@pytest.mark.parametrize("task", ["lift", "can", "square"])
def test_expert_solves_its_task(task: str) -> None:
    simulation = Simulation(task, cameras=())
    solved = 0
    for seed in range(2):
        simulation.reset(seed)
        view = ExpertView.of(simulation)
        expert = EXPERTS[task](view)
        for _ in range(250):
            simulation.step(next(expert))
            view.look(simulation)
            if simulation.success:
                solved += 1
                break
    assert solved == 2


def small(path: Path, **changes: object) -> Options:
    return Options(**{"task": "lift", "out": path, "episodes": 3, "workers": 1, **changes})


@pytest.fixture(scope="module")
def lift_file(tmp_path_factory: pytest.TempPathFactory, parts_made_here: MadeHere) -> Path:
    path = tmp_path_factory.mktemp("demos") / "lift.hdf5"
    with parts_made_here():
        collect(small(path))
    return path


def test_file_is_robomimics(lift_file: Path) -> None:
    with h5py.File(lift_file, "r") as file:
        data = file["data"]
        assert json.loads(data.attrs["env_args"])["env_name"] == "Lift"
        assert sorted(data) == ["demo_0", "demo_1", "demo_2"]
        assert data.attrs["total"] == sum(len(data[name]["actions"]) for name in data)
        demo = data["demo_1"]
        n = int(demo.attrs["num_samples"])
        assert "<mujoco" in demo.attrs["model_file"]
        assert demo["obs/agentview_image"].shape == (n, 84, 84, 3)
        assert demo["obs/agentview_image"].dtype == np.uint8
        assert demo["obs/robot0_eef_quat"].shape == (n, 4)
        assert demo["actions"].shape == (n, 7)
        assert np.abs(demo["actions"][:]).max() <= 1
        assert demo["executed_actions"].shape == (n, 7) and np.abs(demo["executed_actions"][:]).max() <= 1
        assert not np.array_equal(demo["executed_actions"][:], demo["actions"][:])
        assert demo["dones"][-1] == 1 and demo["dones"][:-1].sum() == 0
        assert demo["rewards"][-10:].min() == 1 and demo["rewards"][0] == 0
        assert demo["states"].shape[0] == n
    assert not lift_file.with_name("lift.hdf5.parts").exists()


def test_episode_depends_on_its_seed_alone(lift_file: Path) -> None:
    simulation = Simulation("lift")
    again = record_episode(simulation, small(lift_file), 1)
    with h5py.File(lift_file, "r") as file:
        for key in ("actions", "executed_actions"):
            np.testing.assert_array_equal(file[f"data/demo_1/{key}"][:], again[key])
        np.testing.assert_array_equal(file["data/demo_1/obs/agentview_image"][:], again["obs"]["agentview_image"])


def acted(episode: dict[str, Any], key: str) -> float:
    """The farthest that the arm is from the recorded states, where it is told `key` instead: rad, m."""
    simulation = Simulation("lift", ())
    simulation.reset(4)
    assert np.array_equal(simulation.flat_state(), episode["states"][0])
    apart = []
    for row, state in zip(episode[key][:-1], episode["states"][1:], strict=True):
        simulation.step(row * ACTION_SCALE)
        apart.append(np.abs(simulation.flat_state() - state).max())
    return float(max(apart))


@pytest.mark.parametrize(
    ("noise", "wander"), [pytest.param(0.5, 0, id="noise", marks=pytest.mark.slow), pytest.param(0.0, 30, id="wander")]
)
def test_what_acted_stands_beside_the_label(noise: float, wander: int, tmp_path: Path) -> None:
    """Executed again it makes the recorded states; the label does not."""
    options = small(tmp_path / "x", images=False, noise=noise, wander=wander)
    episode = record_episode(Simulation("lift", ()), options, 4)
    rows = episode["executed_actions"]
    assert rows.shape == episode["actions"].shape and np.abs(rows).max() <= 1
    assert acted(episode, "executed_actions") < 1e-6 < 0.01 < acted(episode, "actions")


def disturbed(episode: dict[str, Any]) -> NDArray[np.bool_]:
    """Steps (N) in which something else than the label was executed."""
    return np.any(episode["executed_actions"] != episode["actions"], axis=1)


def test_disturbances_are_short_and_apart_where_they_are_asked_for(tmp_path: Path) -> None:
    options = small(tmp_path / "x", images=False, noise=1.0, quiet=12)
    episodes = [record_episode(Simulation("lift", ()), options, seed) for seed in (4, 5)]
    runs = [(kind, len(list(steps))) for e in episodes for kind, steps in itertools.groupby(disturbed(e).tolist())]
    bursts, pauses = ([length for kind, length in runs if kind == wanted] for wanted in (True, False))
    assert len(bursts) > 4 and max(bursts) <= BURST
    assert REST <= sorted(pauses)[len(pauses) // 2] <= 12
    other = [np.sign(e["executed_actions"][:, 6]) != np.sign(e["actions"][:, 6]) for e in episodes]
    assert 0 < np.concatenate(other).mean() < 0.3, "now and then the gripper does the opposite"


def test_a_late_policy_drives_in_disturbances_and_the_expert_says_what_is_right(tmp_path: Path) -> None:
    state = (*fake_policy.LOW_DIM, *fake_policy.OBJECT)
    path = fake_policy.save(tmp_path / "p.pt", fake_policy.spec(state, task="lift", max_delay=3))
    policy = Policy(checkpoint.load(path, kind="policy"))
    options = small(tmp_path / "x", images=False, noise=0.0, quiet=12, late_policy=path)
    made: list[NDArray[np.float64]] = []
    sample = policy.sample

    def remembered(*given: Any, **more: Any) -> NDArray[np.float64]:
        made.append(sample(*given, **more))
        return made[-1]

    policy.sample = remembered
    episode = record_episode(Simulation("lift", ()), options, 4, policy)
    rows, foreign = episode["executed_actions"] * ACTION_SCALE, disturbed(episode)
    known = np.concatenate(made)
    its = [np.abs(known - row).max(axis=1).min() < 1e-6 for row in rows]
    assert sum(its) > 8, "rows of the policy were executed"
    assert not np.any(np.array(its) & ~foreign), "and they stand beside what the expert would have done"


def test_late_policy_goes_with_quiet(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="late_policy goes with --quiet"):
        small(tmp_path / "x", late_policy=tmp_path / "p.pt")
    with pytest.raises(ValueError, match=r"late_policy b\.pt: with policy a\.pt the same file is expected"):
        small(tmp_path / "x", quiet=12, policy=Path("a.pt"), late_policy=Path("b.pt"))


def test_episodes_of_an_older_file_stay_without_what_acted(
    lift_file: Path, tmp_path: Path, parts_made_here: MadeHere
) -> None:
    older = tmp_path / "older.hdf5"
    older.write_bytes(lift_file.read_bytes())
    with h5py.File(older, "r+") as file:
        for demo in file["data"].values():
            del demo["executed_actions"]
    out = tmp_path / "x.hdf5"
    with parts_made_here():
        collect(small(out, episodes=1, include=older, images=False))
    with h5py.File(out, "r") as file:
        assert ["executed_actions" in file[f"data/demo_{i}"] for i in range(4)] == [False, False, False, True]
    data = load_demonstrations(out, ())
    assert data.executed is None and data.executed_missing.startswith(f"{out}: demo_0 has no executed_actions: ")
    assert load_demonstrations(lift_file, ()).executed is not None


def test_parts_without_what_acted_are_not_taken(tmp_path: Path) -> None:
    """Of a collection that an earlier version began."""
    out = tmp_path / "x.hdf5"
    settings = {k: v for k, v in vars(small(out)).items() if k not in ("out", "workers", "episodes")}
    begun = tmp_path / "x.hdf5.parts/settings.json"
    begun.parent.mkdir()
    begun.write_text(json.dumps(settings, default=str))
    with pytest.raises(ValueError, match=r"x\.hdf5\.parts: begun with other settings .*; remove it or use those"):
        collect(small(out))


def test_wandering_hand_is_told_the_way_of_the_expert(tmp_path: Path) -> None:
    simulation = Simulation("lift", ())
    plain, wandered = (
        record_episode(simulation, small(tmp_path / "x", images=False, noise=0.0, wander=wander), 4)
        for wander in (0, 80)
    )
    np.testing.assert_array_equal(wandered["actions"][0], plain["actions"][0])
    assert not np.array_equal(wandered["states"][1], plain["states"][1])
    assert len(wandered["actions"]) > len(plain["actions"])
    assert wandered["rewards"][-1] == 1


def test_expert_takes_over_where_the_policy_has_not_succeeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drove: list[tuple[int, int]] = []
    delays: list[float] = []

    def roll_out(
        policy: object, simulation: Simulation, *_: object, max_steps: int, first: int, late: Late, **__: object
    ) -> list[int]:
        drove.append((first, max_steps))
        delays.append(late.delay)
        if len(drove) < 3:  # this policy solves the first two scenes
            view = ExpertView.of(simulation)
            expert = EXPERTS["lift"](view)
            while not simulation.success:
                simulation.step(next(expert))
                view.look(simulation)
        return []

    monkeypatch.setattr(rollout, "roll_out", roll_out)
    options = small(tmp_path / "x", images=False, policy=Path("policy.pt"), lead=50, takeover=80)
    late_by_up_to_12 = SimpleNamespace(spec=SimpleNamespace(max_delay=12, period_ns=50_000_000))
    episode = record_episode(Simulation("lift", ()), options, 4, cast(Policy, late_by_up_to_12))
    scenes = [scene for scene, _ in drove]
    assert scenes[0] == 4 and len(set(scenes)) == 3 and all(50 <= steps < 80 for _, steps in drove)
    assert len(set(delays)) > 1 and min(delays) >= 0 and max(delays) <= 0.6
    assert episode["rewards"][0] == 0 and episode["rewards"][-1] == 1
    with pytest.raises(ValueError, match="lead 80, takeover 80: 0 <= lead < takeover is expected"):
        small(tmp_path / "x", policy=Path("policy.pt"), lead=80, takeover=80)


def test_loading(lift_file: Path) -> None:
    data = load_demonstrations(lift_file, ("agentview",))
    assert data.task == "lift" and data.episodes == 3
    with h5py.File(lift_file, "r") as file:
        actions = file["data/demo_0/actions"][:]
        np.testing.assert_allclose(data.actions[: len(actions)], actions * ACTION_SCALE, rtol=1e-6)
        np.testing.assert_allclose(
            data.observations["object_pos"][: len(actions)], file["data/demo_0/obs/object"][:, :3], rtol=1e-6
        )


def test_windows_know_where_episodes_begin_and_end(lift_file: Path) -> None:
    data = load_demonstrations(lift_file, (), False)
    windows = make_windows(data, np.array([1]), n_obs_steps=2, rows=10, action_steps_only=False)
    start, end = data.starts[1], data.starts[2]
    assert len(windows) == end - start
    np.testing.assert_array_equal(windows.observed[0], [start, start])
    np.testing.assert_array_equal(windows.observed[3], [start + 2, start + 3])
    np.testing.assert_array_equal(windows.acted[0][:3], [start, start, start + 1])
    np.testing.assert_array_equal(windows.acted[3], np.arange(start + 2, start + 12))
    assert windows.valid[0].all()
    np.testing.assert_array_equal(windows.valid[-1], [True, True] + [False] * 8)
    assert windows.acted.max() == end - 1
    only = make_windows(data, np.array([1]), n_obs_steps=2, rows=8, action_steps_only=True)
    np.testing.assert_array_equal(only.acted[3], np.arange(start + 3, start + 11))


def test_split_leaves_no_episode_in_both() -> None:
    train, held = split_episodes(100, 0.04, 0)
    assert len(held) == 4 and not set(train) & set(held) and len(train) == 96
    with pytest.raises(ValueError, match="at least 2"):
        split_episodes(1, 0.1, 0)


def cut_short(path: Path) -> str:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return "cut short"


def test_larger_pictures_are_fitted_as_a_robot_s_are(lift_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "large.hdf5"
    path.write_bytes(lift_file.read_bytes())
    rng = np.random.default_rng(0)
    with h5py.File(path, "r+") as file:
        n = len(file["data/demo_1/actions"])
        large = rng.integers(0, 256, (n, 120, 160, 3), np.uint8)
        del file["data/demo_1/obs/agentview_image"]
        file["data/demo_1/obs/agentview_image"] = large
    cameras = ("agentview", "robot0_eye_in_hand")
    data, before = load_demonstrations(path, cameras), load_demonstrations(lift_file, cameras)
    start, end = data.starts[1:3]
    images = data.observations["agentview_image"]
    assert images.shape == (len(data), 84, 84, 3) and images.dtype == np.uint8
    assert np.array_equal(images[start:end], [fit(image, 84, 84) for image in large])
    assert np.array_equal(images[:start], before.observations["agentview_image"][:start])
    wrist = [d.observations["robot0_eye_in_hand_image"] for d in (data, before)]
    assert np.array_equal(*wrist) and data.data_hash != before.data_hash


def too_small(path: Path) -> str:
    return _other_images(path, (60, 84, 3), np.uint8, "picture of 84 x 60, at least 84 x 84 expected: none is enlarged")


def of_floats(path: Path) -> str:
    return _other_images(path, (84, 84, 3), np.float32, r"is float32 \(.*\), expected uint8 \(N, H, W, 3\)")


def _other_images(path: Path, shape: tuple[int, ...], dtype: type, rule: str) -> str:
    with h5py.File(path, "r+") as file:
        n = len(file["data/demo_1/actions"])
        del file["data/demo_1/obs/agentview_image"]
        file["data/demo_1/obs/agentview_image"] = np.zeros((n, *shape), dtype)
    return f"demo_1/obs/agentview_image.*{rule}"


def without_images(path: Path) -> str:
    with h5py.File(path, "r+") as file:
        del file["data/demo_1/obs/agentview_image"]
    return "demo_1/obs has no agentview_image"


def with_nan(path: Path) -> str:
    with h5py.File(path, "r+") as file:
        file["data/demo_2/actions"][3, 1] = np.nan
    return "demo_2/actions has values that are NaN"


def out_of_range(path: Path) -> str:
    with h5py.File(path, "r+") as file:
        file["data/demo_0/actions"][0, 0] = 3.0
    return "an action of 3, expected -1 to 1"


def not_hdf5(path: Path) -> str:
    path.write_text("hello")
    return "not HDF5"


@pytest.mark.parametrize(
    "damage",
    [cut_short, without_images, too_small, of_floats, with_nan, out_of_range, not_hdf5],
    ids=lambda f: f.__name__,
)
def test_damaged_files_are_named_in_one_line(lift_file: Path, tmp_path: Path, damage) -> None:
    path = tmp_path / "bad.hdf5"
    path.write_bytes(lift_file.read_bytes())
    expected = damage(path)
    with pytest.raises(ValueError, match=expected) as caught:
        load_demonstrations(path, ("agentview",))
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "training.collect_demos", *map(str, words)]


ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(["src", "."])}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--task", "stack"), "unknown task 'stack'"),
        (("--task", "lift", "--seed", 99_999, "--episodes", 2), "must lie in 0 to 99999"),
        (("--task", "lift", "--episodes", 0), "must be at least 1"),
    ],
)
def test_bad_options_are_one_line_and_status_2(
    tmp_path: Path, words: tuple[object, ...], expected: str, run_command: RunCommand
) -> None:
    status, said = run_command(collect_demos.main, *words, "--out", tmp_path / "x.hdf5")
    assert status == 2
    assert expected in said and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(lift_file: Path, run_command: RunCommand) -> None:
    before = lift_file.read_bytes()
    status, said = run_command(collect_demos.main, "--task", "lift", "--episodes", 1, "--out", lift_file)
    assert status == 2 and "exists already" in said
    assert lift_file.read_bytes() == before


@pytest.mark.slow  # test_maze has the same of the same code
def test_interrupted_collection_goes_on_to_the_same_file(
    lift_file: Path, tmp_path: Path, parts_made_here: MadeHere
) -> None:
    path = tmp_path / "lift.hdf5"
    words = ("--task", "lift", "--episodes", 3, "--workers", 1, "--out", path)
    process = subprocess.Popen(command(*words), stderr=subprocess.PIPE, env=ENVIRONMENT)
    parts = path.with_name("lift.hdf5.parts")
    while not list(parts.glob("*.hdf5")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert not path.exists()
    with parts_made_here():
        collect(small(path))
    ours, theirs = load_demonstrations(path, ()), load_demonstrations(lift_file, ())
    assert ours.data_hash == theirs.data_hash


@pytest.mark.parametrize("kills", [1, 3])
def test_a_killed_worker_is_replaced_and_one_that_always_dies_is_a_line(tmp_path: Path, kills: int) -> None:
    out = tmp_path / "x.hdf5"
    folder = tmp_path / "x.hdf5.parts"
    with ExitStack() as stack:
        if kills == 3:
            said = (
                r"3 worker processes ended before they had done episode \d.*; \d episodes are kept in .*x\.hdf5\.parts"
            )
            stack.enter_context(pytest.raises(RuntimeError, match=said))
        with parts(out, [0, 1, 2, 3], {}, partial(killed_part, kills), Workers(2), "can", "episode") as files:
            assert [read_seed(file) for file in files] == [0, 1, 2, 3]
    if kills == 3:
        assert all(read_seed(path) == int(path.stem) for path in folder.glob("*.hdf5"))
    assert not multiprocessing.active_children()


def read_seed(path: Path) -> int:
    with h5py.File(path) as file:
        return int(file["seed"][()])


def test_a_part_that_is_cut_short_is_named_and_made_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "x.hdf5.parts"
    make, seeds = partial(killed_part, 0), [0, 1, 2]
    arguments = ({}, make, Workers(), "can", "episode")
    with pytest.raises(ZeroDivisionError), parts(tmp_path / "x.hdf5", seeds, *arguments) as files:
        raise ZeroDivisionError
    whole = files[1].read_bytes()
    files[1].write_bytes(whole[:-100])
    files[2].write_bytes(b"")
    with parts(tmp_path / "x.hdf5", seeds, *arguments) as files:
        assert [read_seed(file) for file in files] == seeds
    said = capfd.readouterr().err
    assert f"{folder}/000001.hdf5: damaged or cut short" in said and f"{folder}/000002.hdf5: damaged" in said


def test_what_a_worker_cannot_begin_with_is_said(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="no such checkpoint"),
        parts(tmp_path / "x.hdf5", [0, 1], {}, unable, Workers(2), "can", "episode"),
    ):
        pass
    assert not multiprocessing.active_children()


def test_full_disk_is_said_and_nothing_half_written(
    tmp_path: Path, parts_made_here: MadeHere, run_command: RunCommand
) -> None:
    """A file size limit stands in for the disk: writing fails in the middle of an episode."""
    path = tmp_path / "lift.hdf5"
    words = ("--task", "lift", "--out", path, "--episodes", 2, "--workers", 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with parts_made_here():
        resource.setrlimit(resource.RLIMIT_FSIZE, (400 * 1024, before[1]))
        try:
            status, said = run_command(collect_demos.main, *words)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 1, said
    assert "run again to go on" in said.splitlines()[-1]
    assert not path.exists()
    assert not list(path.with_name("lift.hdf5.parts").glob("*.hdf5"))
    assert not list(path.with_name("lift.hdf5.parts").glob("*.tmp"))
