"""The planner: sampling is diffusers', what is known holds, guides follow their gradient, a tiny one learns to plan."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from scipy.spatial.transform import Rotation
from some_slow import but

from diffusion_ros import checkpoint
from diffusion_ros.control.hand_follower import arm_state
from diffusion_ros.control.path_follower import FOLLOWERS, PursuitFollower, make_follower
from diffusion_ros.models.hand_planner import HandPlanner
from diffusion_ros.models.planner import Plan, PlanError, Planner, obstacle_guides
from diffusion_ros.models.timesteps import timesteps
from diffusion_ros.simulators.tasks import maze_task
from diffusion_ros.spec import CheckpointSpec, TensorSpec
from training.data.trajectories import load_trajectories
from training.diffusion.diffuser import Diffuser, DiffuserLoss, loss_weights
from training.diffusion.noise_schedule import NoiseSchedule
from training.diffusion.normalizer import LimitsNormalizer
from training.options.planner import Options
from training.trainers import planner as planner_trainer
from training.trainers.planner import Trainer

pytestmark = pytest.mark.usefixtures("fresh_accelerate", "scripted_at_the_end")

LIMITS = np.array([1.0, 1.0, 5.0, 4.0, 2.0, 2.0])
START, GOAL = np.array([-3.0, 1.0, 0.0, 0.0]), np.array([2.0, -2.0, 0.0, 0.0])


def make_diffuser(prediction: str = "sample", **options: Any) -> Diffuser:
    torch.manual_seed(0)
    limits = LimitsNormalizer(-LIMITS, LIMITS * 1.1)
    schedule = NoiseSchedule(64, "squaredcos_cap_v2", prediction)
    return Diffuser(limits, 2, 2, schedule, widths=(8, 16), **options).eval()


def make_spec(**changes: Any) -> CheckpointSpec:
    task = maze_task("umaze")
    columns = tuple(TensorSpec(n, (2,), "float32", "m", "map") for n in ("action", "position", "velocity"))
    fields: dict[str, Any] = {
        "kind": "planner",
        "task": task.name,
        "environment": task.environment,
        "inputs": columns[1:],
        "outputs": columns,
        "rate": 100.0,
        "horizon": 16,
        "n_obs_steps": 1,
        "n_action_steps": 16,
        "action_low": (-1.0, -1.0),
        "action_high": (1.0, 1.0),
        "workspace_low": (-2.5, -2.5, -1.0),
        "workspace_high": (2.5, 2.5, 1.0),
        "sampler": "ddim",
        "sampler_steps": 4,
        "num_train_timesteps": 64,
        "stride": 2,
    }
    return checkpoint.checked(CheckpointSpec(**{**fields, **changes}))


def make_planner(folder: Path, **options: Any) -> Planner:
    path = folder / "planner.pt"
    checkpoint.save(make_diffuser(**options), make_spec(), path)
    return Planner(checkpoint.load(path, kind="planner"))


@pytest.fixture(scope="module")
def planner(tmp_path_factory: pytest.TempPathFactory) -> Planner:
    return make_planner(tmp_path_factory.mktemp("planner"))


@pytest.mark.parametrize("options", [{}, {"waves": False}, {"endpoints": False}, {"prediction": "epsilon"}], ids=str)
def test_eager_equals_scripted_bit_for_bit(options: dict[str, Any]) -> None:
    diffuser = make_diffuser(**options)
    scripted = checkpoint.script(diffuser)
    x, known, noise = torch.randn((3, 3, 16, 6), generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(3, 16, 6, dtype=torch.bool)
    mask[:, 0, 2:] = True
    guides = {"obstacles": torch.tensor([[0.0, 0.0, 1.0, 0.5]]), "smoothness": torch.tensor([0.1])}
    for which in ({}, guides):
        for draw in (noise, noise[:0]):
            for mine, theirs in zip(
                diffuser.step(x, known, mask, draw, 40, 20, which),
                scripted.step(x, known, mask, draw, 40, 20, which),
                strict=True,
            ):
                assert torch.equal(mine, theirs)
                assert torch.isfinite(mine).all()


@pytest.mark.parametrize("n", [1, 2, 5, 16, 64])
def test_timesteps_are_diffusers_trailing_ones(n: int) -> None:
    scheduler = DDIMScheduler(64, timestep_spacing="trailing")
    scheduler.set_timesteps(n)
    assert timesteps("trailing", 63, n) == scheduler.timesteps.tolist()


@pytest.mark.parametrize("prediction", ["sample", "epsilon"])
@pytest.mark.parametrize(("sampler", "steps"), but([("ddim", 16)], [("ddim", 4), ("ddim", 16), ("ddpm", 64)]))
def test_sampling_is_diffusers(sampler: str, steps: int, prediction: str, tmp_path: Path) -> None:
    planner = make_planner(tmp_path, prediction=prediction)
    eager = make_diffuser(prediction)
    kind = DDIMScheduler if sampler == "ddim" else DDPMScheduler
    scheduler = kind(64, beta_schedule="squaredcos_cap_v2", prediction_type=prediction, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(7)
    x = torch.randn((1, 16, 6), generator=generator)
    known = torch.zeros(1, 16, 6)
    known[:, 0, 2:] = eager.limits.normalize(torch.tensor([0, 0, *START], dtype=torch.float32))[2:]
    mask = torch.zeros(1, 16, 6, dtype=torch.bool)
    mask[:, 0, 2:] = True
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = torch.where(mask, known, x)
            output = eager(x, torch.tensor([int(t)]), known, mask)
            if prediction == "sample":
                output = torch.where(mask, known, output.clamp(-1, 1))
            else:
                bar = scheduler.alphas_cumprod[int(t)]
                clean = ((x - (1 - bar).sqrt() * output) / bar.sqrt()).clamp(-1, 1)
                output = (x - bar.sqrt() * torch.where(mask, known, clean)) / (1 - bar).sqrt()
            if sampler == "ddim":
                x = scheduler.step(output, t, x).prev_sample
            else:
                noise = torch.randn((1, 16, 6), generator=generator)
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, n=noise, **k: n)
                    x = scheduler.step(output, t, x).prev_sample
    plan = planner.plan(START, seed=7, steps=steps, sampler=sampler).best
    expected = eager.limits.unnormalize(torch.where(mask, known, x))[0]
    np.testing.assert_allclose(plan.rows, expected.numpy(), rtol=1e-4, atol=1e-4)


def test_what_is_known_holds_exactly(planner: Planner) -> None:
    way = np.array([0.5, 0.25, np.nan, np.nan])
    plans = planner.plan(START, GOAL, way_points={5: way}, candidates=3, watch=True)
    assert len(plans.candidates) == 3
    assert len(plans.denoising) - 1 == plans.steps == 4
    # It begins with noise, in the data's units: far apart from row to row, and only the given rows where they are.
    noise = planner.plan(START, GOAL, way_points={5: way}, watch=True).denoising[0][0][:, 2:4]
    assert np.linalg.norm(np.diff(noise, axis=0), axis=1).mean() > 0.5
    np.testing.assert_allclose(noise[[0, -1]], [START[:2], GOAL[:2]], atol=1e-6)
    for plan in plans.candidates:
        np.testing.assert_allclose(plan.rows[0, 2:], START, atol=1e-6)
        np.testing.assert_allclose(plan.rows[-1, 2:], GOAL, atol=1e-6)
        np.testing.assert_allclose(plan.rows[5, 2:4], way[:2], atol=1e-6)
    assert plans.costs == sorted(plans.costs)
    lengths = [np.linalg.norm(np.diff(plan.part("position"), axis=0), axis=1).sum() for plan in plans.candidates]
    np.testing.assert_allclose(plans.costs, lengths)


def test_the_seed_decides_and_the_horizon_is_free(planner: Planner) -> None:
    first = planner.plan(START, GOAL, seed=1).best.rows
    np.testing.assert_array_equal(first, planner.plan(START, GOAL, seed=1).best.rows)
    assert not np.array_equal(first, planner.plan(START, GOAL, seed=2).best.rows)
    assert planner.plan(START, GOAL, horizon=40).best.rows.shape == (40, 6)


def test_guides_follow_the_gradient_of_their_sum() -> None:
    diffuser = make_diffuser()
    generator = torch.Generator().manual_seed(2)
    plan = torch.randn((2, 16, 6), generator=generator)
    mask = torch.rand((2, 16, 6), generator=generator) < 0.3
    guides = {
        "obstacles": torch.tensor([[0.0, 0.0, 1.5, 0.5], [1.0, 1.0, 0.5, 2.0]]),
        "goal": torch.tensor([2.0, 1.0, 0.3]),
        "smoothness": torch.tensor([0.2]),
    }
    moved = diffuser.guide(plan, mask, guides)
    wanted = plan.double().requires_grad_(True)
    position = wanted[:, :, 2:4]
    returns = 0
    for ball in guides["obstacles"].double():
        depth = (ball[2] - (position - ball[:2]).norm(dim=-1)).clamp(min=0)
        returns = returns - 0.5 * ball[3] * depth.square().sum()
    returns = returns - 0.15 * (position - guides["goal"][:2].double()).square().sum()
    returns = returns - 0.1 * (position[:, 2:] - 2 * position[:, 1:-1] + position[:, :-2]).square().sum()
    returns.backward()
    torch.testing.assert_close(moved, plan + torch.where(mask, 0.0, wanted.grad.float()), rtol=1e-4, atol=1e-5)
    several = diffuser.guide(plan, mask, {**guides, "iterations": torch.tensor([3.0])})
    once_more = diffuser.guide(diffuser.guide(moved, mask, guides), mask, guides)
    torch.testing.assert_close(several, once_more)


def test_an_obstacle_pushes_the_plan_out(planner: Planner) -> None:
    ball = np.array([[0.0, 0.0, 1.5, 1.0]])
    free = planner.plan(START, GOAL, seed=3).best.part("position")
    guided = planner.plan(START, GOAL, seed=3, guides={"obstacles": ball, "iterations": np.array([5])}).best
    assert (np.linalg.norm(free, axis=1) < 1.4).any()
    assert (np.linalg.norm(guided.part("position"), axis=1) > 1.49).all()


def test_a_warm_start_stays_near_the_plan_before(planner: Planner) -> None:
    plan = planner.plan(START, GOAL, seed=1).best
    shifted = planner.shifted(plan, 3)
    np.testing.assert_array_equal(shifted.rows[:13], plan.rows[3:])
    np.testing.assert_array_equal(shifted.rows[13:, 2:], np.tile(plan.rows[-1, 2:], (3, 1)))
    assert not shifted.rows[13:, :2].any()
    assert planner.plan(START, GOAL, warm=shifted, steps=10, warm_part=1 / 64).steps == 1


def test_a_budget_ends_it_with_the_plan_so_far(planner: Planner) -> None:
    planner._step_seconds = 0.0
    assert planner.plan(START, GOAL, steps=64, budget=1e-9).steps == 1
    planner._step_seconds = 0.5
    with pytest.raises(PlanError, match=r"budget 100 ms: shorter than one denoising step, which took 500\.0 ms"):
        planner.plan(START, GOAL, budget=0.1)
    fresh = Planner(planner.checkpoint)
    with pytest.raises(PlanError, match="shorter than one denoising step"):
        fresh.plan(START, GOAL, budget=1e-9)
    assert fresh.plan(START, GOAL).steps and planner.plan(START, GOAL).steps


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"start": np.zeros(3)}, r"start has shape \(3,\), expected \(4,\)"),
        ({"start": np.full(4, np.nan)}, "position must be finite"),
        ({"goal": np.array([np.inf, 0, 0, 0])}, "goal .* position must be finite"),
        ({"way_points": {16: START}}, "row 16: expected 1 to 14"),
        ({"way_points": {0: START}}, "row 0: expected 1 to 14"),
        ({"horizon": 1}, "horizon 1: at least 2"),
        ({"sampler": "dpm"}, "sampler 'dpm': expected one of ddim, ddpm"),
        ({"candidates": 0}, "candidates 0"),
        ({"steps": 65}, "steps 65"),
        ({"guides": {"obstacles": np.zeros((1, 5))}}, r"shape \(1, 5\), expected \(N, 4\)"),
        ({"guides": {"goal": np.zeros(2)}}, r"shape \(2,\), expected \(3,\)"),
        ({"guides": {"smoothness": np.array([np.nan])}}, "smoothness has NaN"),
        ({"guides": {"speed": np.zeros(1)}}, "unknown guide 'speed'"),
        ({"warm": Plan(np.zeros((3, 6)), 2, {})}, "warm start has rows"),
    ],
)
def test_what_cannot_be_planned(planner: Planner, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(PlanError, match=expected):
        planner.plan(**{"start": START, "goal": GOAL, **changes})


def test_dense_plans_pass_through_their_rows() -> None:
    t = np.arange(8) * 0.04
    position = np.stack([t**3, 2 * t**2], axis=1)
    velocity = np.stack([3 * t**2, 4 * t], axis=1)
    columns = {"action": slice(0, 2), "position": slice(2, 4), "velocity": slice(4, 6)}
    plan = Plan(np.hstack([np.zeros((8, 2)), position, velocity]), 4, columns)
    fine = np.arange(29) * 0.01
    dense, slope = plan.dense(100.0)  # a cubic is its own Hermite interpolation
    np.testing.assert_allclose(dense, np.stack([fine**3, 2 * fine**2], axis=1), atol=1e-12)
    np.testing.assert_allclose(slope, np.stack([3 * fine**2, 4 * fine], axis=1), atol=1e-12)


@pytest.mark.parametrize("name", FOLLOWERS)
def test_followers_push_within_the_limits_and_end(name: str) -> None:
    columns = {"action": slice(0, 2), "position": slice(2, 4), "velocity": slice(4, 6)}
    rows = np.zeros((4, 6))
    rows[:, 0], rows[:, 2] = 3.0, np.arange(4)
    follower = make_follower(name, Plan(rows, 2, columns), 100.0)
    forces = [follower.force(np.zeros(2), np.zeros(2)) for _ in range(12)]
    assert forces[0].tolist() == [1.0, 0.0]
    assert np.abs(forces).max() <= 1
    if name == "actions":
        assert not np.any(forces[8:])


def test_pursuit_begins_beside_a_robot_that_has_moved_on() -> None:
    follower = PursuitFollower(np.stack([np.linspace(0, 5, 101), np.zeros(101)], axis=1), reach=0.3)
    assert follower.force(np.array([0.7, 0.0]), np.array([2.0, 0.0]))[0] > 0.9


def test_time_follower_aims_at_the_next_point() -> None:
    columns = {"action": slice(0, 2), "position": slice(2, 4), "velocity": slice(4, 6)}
    rows = np.zeros((3, 6))
    rows[:, 2], rows[:, 4] = [0.0, 0.02, 0.04], 1.0
    follower = make_follower("time", Plan(rows, 2, columns), 100.0)
    np.testing.assert_allclose(follower.force(np.zeros(2), np.array([0.95, 0.0])), [10 * 0.01 + 0.05, 0.0], atol=1e-9)


def test_loss_leaves_out_what_is_known_and_weighs_the_rest() -> None:
    diffuser = make_diffuser()
    weights = loss_weights(16, 6, 2, action_weight=5.0, discount=0.5)
    assert weights[0, 0] == 5
    assert weights[0, 2] == 1
    assert weights[3, 0] == 0.125
    rows = torch.randn((2, 16, 6), generator=torch.Generator().manual_seed(0))
    x0 = diffuser.limits.normalize(rows)
    wrong = torch.zeros_like(rows)
    wrong[:, 0, 2:] = 7.0  # where it is known, an error costs nothing
    wrong[:, 1, 3] = 2.0
    mask = torch.zeros(2, 16, 6, dtype=torch.bool)
    mask[:, 0, 2:] = True
    diffuser.forward = lambda x, t, known, mask: x0 + wrong  # type: ignore[method-assign]
    loss = DiffuserLoss(diffuser, weights)(rows, mask, torch.zeros_like(rows), torch.zeros(2, dtype=torch.int64))
    total = weights.sum() - weights[0, 2:].sum()
    torch.testing.assert_close(loss, 4.0 * weights[1, 3] / total)


@pytest.fixture(scope="module")
def straight_lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Legs on straight lines in 20 steps, at rest at both ends."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (200, 2))
    u = np.linspace(0, 1, 20)[:, None]
    ease, slope = 3 * u**2 - 2 * u**3, 6 * u - 6 * u**2
    positions = np.concatenate([a + ease * (b - a) for a, b in itertools.pairwise(points)])
    velocities = np.concatenate([slope * (b - a) for a, b in itertools.pairwise(points)])
    path = tmp_path_factory.mktemp("lines") / "lines.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"] = np.hstack([positions, velocities])
        file["actions"] = np.zeros_like(positions)
        file["infos/goal"] = np.repeat(points[1:], 20, axis=0)
        file["timeouts"] = np.arange(len(positions)) == len(positions) - 1
        file["terminals"] = np.zeros(len(positions), dtype=bool)
        file.attrs["maze"] = "umaze"
    return path


def options(data: Path, out: Path, **changes: Any) -> Options:
    small = {"horizon": 8, "stride": 3, "widths": (16, 32), "iterations": 20, "save_every": 10, "validation": 0.1}
    return Options(data=(data,), out=out, **{**small, **changes})


@pytest.mark.slow
def test_a_tiny_planner_learns_straight_lines(straight_lines: Path, tmp_path: Path) -> None:
    out = tmp_path / "planner.pt"
    Trainer(
        options(straight_lines, out, iterations=200, learning_rate=2e-3, mixed_precision="no", ema_decay=0.98)
    ).run()
    planner = Planner(checkpoint.load(out, kind="planner", task="umaze"))
    rng = np.random.default_rng(1)
    errors = []
    for _ in range(20):
        a, b = rng.uniform(-0.8, 0.8, (2, 2))
        position = planner.plan(np.append(a, [0, 0]), np.append(b, [0, 0])).best.part("position")
        along = (b - a) / np.linalg.norm(b - a)
        off = position - a
        errors.append(np.abs(off[:, 0] * along[1] - off[:, 1] * along[0]).mean())
    assert np.mean(errors) < 0.08


@pytest.mark.slow
def test_a_student_plans_in_one_step_what_its_teacher_does_in_many(straight_lines: Path, tmp_path: Path) -> None:
    teacher, student = tmp_path / "teacher.pt", tmp_path / "student.pt"
    changes: dict[str, object] = {"learning_rate": 2e-3, "mixed_precision": "no", "ema_decay": 0.98}
    Trainer(options(straight_lines, teacher, **changes, iterations=60, num_inference_steps=8)).run()
    distilled = {**changes, "distil": teacher, "num_inference_steps": 1}
    Trainer(options(straight_lines, student, **distilled, iterations=150)).run()
    one, other = (Planner(checkpoint.load(path)) for path in (teacher, student))
    assert other.spec.sampler_steps == 1 and other.spec.data_hash != one.spec.data_hash
    off: dict[str, list[float]] = {"teacher": [], "student": []}
    for seed in range(10):
        ends = np.array([-0.6, -0.5, 0, 0]), np.array([0.6, 0.1 * seed - 0.5, 0, 0])
        wanted = one.plan(*ends, seed=seed).best.rows
        for name, planner in (("teacher", one), ("student", other)):
            off[name].append(float(np.linalg.norm(planner.plan(*ends, seed=seed, steps=1).best.rows - wanted)))
    assert np.mean(off["student"]) < 0.7 * np.mean(off["teacher"])
    with pytest.raises(ValueError, match=r"distil: the network of .*teacher\.pt is another"):
        Trainer(options(straight_lines, student, **{**distilled, "waves": False}))
    with pytest.raises(ValueError, match="distil: num_inference_steps 5, 1 is what is learnt"):
        options(straight_lines, student, **{**distilled, "num_inference_steps": 5})


def test_what_cannot_be_exported_fails_at_once(
    straight_lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(module: torch.nn.Module) -> None:
        raise RuntimeError("not TorchScript")

    monkeypatch.setattr(planner_trainer.checkpoint, "script", script)
    with pytest.raises(RuntimeError, match="not TorchScript"):
        Trainer(options(straight_lines, tmp_path / "x.pt"))


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_weights(straight_lines: Path, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "a.pt", tmp_path / "b.pt"
    Trainer(options(straight_lines, whole)).run()
    trainer = Trainer(options(straight_lines, stopped))
    save = trainer.bookkeeping.save

    def save_and_stop(**state: Any) -> None:
        save(**state)
        raise KeyboardInterrupt

    trainer.bookkeeping.save = save_and_stop  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    Trainer(options(straight_lines, stopped, resume=True)).run()
    mine, theirs = checkpoint.weights(whole), checkpoint.weights(stopped)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert torch.equal(value, theirs[name])
    with pytest.raises(ValueError, match="other options"):
        Trainer(options(straight_lines, stopped, resume=True, seed=1)).run()


@pytest.mark.slow
def test_resume_goes_on_with_the_same_data_wherever_they_lie(straight_lines: Path, tmp_path: Path) -> None:
    here, there, out = tmp_path / "here.hdf5", tmp_path / "there.hdf5", tmp_path / "planner.pt"
    here.write_bytes(straight_lines.read_bytes())
    Trainer(options(here, out, iterations=2)).run()
    before = checkpoint.weights(out)
    here.rename(there)
    Trainer(options(there, out, iterations=2, resume=True)).run()
    assert all(torch.equal(value, before[name]) for name, value in checkpoint.weights(out).items())
    written = out.read_bytes()
    for name in ("observations", "actions", "infos/goal", "timeouts"):  # the last two say where legs end
        kept = there.read_bytes()
        with h5py.File(there, "r+") as file:
            values = file[name][:]
            values[7] = ~values[7] if values.dtype == bool else values[7] + 0.125
            file[name][:] = values
        with pytest.raises(
            ValueError, match=r"begun with data of SHA-256 \w{16}, .*there.hdf5 has \w{16} now"
        ) as error:
            Trainer(options(there, out, iterations=2, resume=True)).run()
        assert "\n" not in str(error.value) and out.read_bytes() == written
        there.write_bytes(kept)


@pytest.mark.parametrize(
    "changes",
    [
        {"windows": "stream", "waves": False, "endpoints": False, "prediction_type": "epsilon"},
        {"action_weight": 10.0, "discount": 0.99, "mixed_precision": "no", "half_weights": False},
    ],
    ids=["as in the paper", "weighted"],
)
def test_options_train_export_and_load(straight_lines: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    out = tmp_path / "planner.pt"
    Trainer(options(straight_lines, out, iterations=3, **changes)).run()
    planner = Planner(checkpoint.load(out, kind="planner"))
    assert planner.plan(np.zeros(4), np.ones(4) * 0.1).best.rows.shape == (8, 6)
    with pytest.raises(checkpoint.CheckpointError, match="is a planner, a policy is needed"):
        checkpoint.load(out, kind="policy")


def write_demonstrations(path: Path, task: str, lengths: tuple[int, ...]) -> Path:
    """Episodes in robomimic's format: a hand that goes along -y, a millimetre a step, on from the one before."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": task})
        at = 0
        for i, length in enumerate(lengths):
            x = 0.001 * (at + np.arange(length))
            at += length
            obs = data.create_group(f"demo_{i}/obs")
            obs["robot0_eef_pos"] = np.stack([0 * x, -x, 1 + 0 * x], axis=1)
            obs["robot0_eef_quat"] = np.tile([1.0, 0, 0, 0], (length, 1))
            obs["robot0_gripper_qpos"] = np.tile([0.02, -0.03], (length, 1))
            data[f"demo_{i}/actions"] = np.tile([0, -0.1, 0, 0, 0, 0, -1], (length, 1))
    return path


def test_an_arms_windows_end_anywhere_and_hold_there(tmp_path: Path) -> None:
    can = write_demonstrations(tmp_path / "can.hdf5", "PickPlaceCan", (40, 60))
    square = write_demonstrations(tmp_path / "square.hdf5", "NutAssemblySquare", (50,))
    data = load_trajectories([can, square])
    assert (data.task, data.environment, len(data)) == ("arm", "PickPlaceCan, NutAssemblySquare", 150)
    assert data.leg_starts[[0, 39, 40, 99, 100, 149]].tolist() == [0, 0, 40, 40, 100, 100]
    assert data.leg_ends[[0, 39, 40, 99, 100, 149]].tolist() == [39, 39, 99, 99, 149, 149]
    generator = torch.Generator().manual_seed(0)
    batch = data.draw(np.arange(150), 200, generator, horizon=16, stride=2, hold=True).numpy()
    # In the frame of its way: from its start, along x, whichever way the hand went in the world.
    way, action, gripper = batch[:, :, 7:9], batch[:, :, 0:2], batch[:, :, 16]
    np.testing.assert_allclose(batch[:, 0, 7:10], 0, atol=1e-9)
    assert way[:, -1, 0].min() >= 0 and np.median(way[:, -1, 0]) > 0.009
    far = way[:, -1, 0] > 0  # where it goes nowhere, its frame is the world's
    np.testing.assert_allclose(way[:, :, 1], 0, atol=1e-6)
    np.testing.assert_allclose(action[far][:, :, 1], 0, atol=1e-6)
    steps = np.linalg.norm(np.diff(way, axis=1), axis=2) * 1000
    assert steps.max() < 2 + 1e-3
    x = np.linalg.norm(way - way[:, :1], axis=2)
    np.testing.assert_allclose(gripper, 0.05, atol=1e-6)  # held, not zeroed as a velocity is
    held = steps < 0.5
    assert (np.diff(held.astype(int), axis=1) >= 0).all()  # once it holds it holds on
    ends = {round(float(value)) for value in (x[:, -1] - x[:, 0]) * 1000}
    assert len(ends) > 15
    assert np.linalg.norm(action[:, 0], axis=1) == pytest.approx(0.005)
    np.testing.assert_allclose(action[:, 1:][held], 0.0, atol=0.0051)
    with pytest.raises(ValueError, match="expected one maze, or demonstrations of an arm"):
        _mixed(can, tmp_path)
    with pytest.raises(ValueError, match="no such file"):
        load_trajectories([tmp_path / "nothing.hdf5"])


def _mixed(can: Path, folder: Path) -> None:
    maze = folder / "maze.hdf5"
    with h5py.File(maze, "w") as file:
        file["observations"], file["actions"] = np.zeros((9, 4)), np.zeros((9, 2))
        file["infos/goal"] = np.zeros((9, 2))
        file["timeouts"], file["terminals"] = np.zeros(9, bool), np.zeros(9, bool)
        file.attrs["maze"] = "umaze"
    load_trajectories([can, maze])


def test_an_arm_trains_exports_and_plans(tmp_path: Path) -> None:
    can = write_demonstrations(tmp_path / "can.hdf5", "PickPlaceCan", (40, 60))
    out = tmp_path / "arm.pt"
    Trainer(options(can, out, iterations=3)).run()
    planner = HandPlanner(checkpoint.load(out, kind="planner", task="arm"))
    assert planner.spec.rate == 20.0
    assert planner.spec.workspace_low[1] == pytest.approx(-0.099 - 0.05)
    start, goal = np.full(10, np.nan), np.full(10, np.nan)
    start[:3], goal[:3] = [0, 0, 1], [0.05, 0, 1]
    rows = planner.plan(start, goal).best.rows
    assert rows.shape == (8, 17)
    np.testing.assert_allclose(rows[[0, -1], 7:10], [[0, 0, 1], [0.05, 0, 1]], atol=1e-6)

    # Ways that differ in where they are and where to have plans that differ in nothing else.
    turn, shift = Rotation.from_rotvec([0, 0, 2.1]), np.array([0.3, -0.2, 0.1])
    start, goal = arm_state([0, 0, 1], [1, 0, 0, 0], 0.05), arm_state([0.05, 0.02, 1.01], [0.8, 0.6, 0, 0])
    balls = np.array([[0.02, 0.03, 1.0, 0.01]])

    def moved(state: np.ndarray) -> np.ndarray:
        vectors = turn.apply(state[:9].reshape(3, 3))
        return np.concatenate([vectors[0] + shift, vectors[1], vectors[2], state[9:]])

    def plan(start: np.ndarray, goal: np.ndarray, balls: np.ndarray, warm: Any = None) -> Any:
        return planner.plan(start, goal, guides=obstacle_guides(balls, 3, 0.05), warm=warm, watch=True, seed=3)

    there = np.hstack([turn.apply(balls[:, :3]) + shift, balls[:, 3:]])
    here = plan(start, goal, balls)
    away = plan(moved(start), moved(goal), there)
    for _ in range(2):
        vectors = turn.apply(here.best.rows[:, [*range(6), *range(7, 16)]].reshape(-1, 3)).reshape(-1, 15)
        vectors[:, 6:9] += shift
        np.testing.assert_allclose(away.best.rows[:, [*range(6), *range(7, 16)]], vectors, atol=1e-5)
        np.testing.assert_allclose(away.best.rows[:, [6, 16]], here.best.rows[:, [6, 16]], atol=1e-5)
        np.testing.assert_allclose(away.denoising[-1][0], away.best.rows, atol=1e-5)
        warm = here.best, away.best
        here, away = plan(start, goal, balls, warm[0]), plan(moved(start), moved(goal), there, warm[1])
    with pytest.raises(PlanError, match="goal: a hand's plan needs one"):
        planner.plan(start)


@pytest.mark.slow
def test_a_value_function_is_learned_and_guides(straight_lines: Path, tmp_path: Path) -> None:
    out = tmp_path / "planner.pt"
    changes = {"value_iterations": 400, "batch_size": 128, "mixed_precision": "no", "iterations": 20}
    trainer = Trainer(options(straight_lines, out, **changes))
    rows, *_ = trainer.batch(trainer.held_steps, torch.Generator().manual_seed(0), 256)
    returns = trainer.returns(rows)
    # By hand: the share of rows within 0.45 m of where the window ends, each worth 0.99 to the power of its row.
    by_hand = [
        np.mean([0.99**i * (np.linalg.norm(row[2:4] - window[-1, 2:4]) < 0.45) for i, row in enumerate(window)])
        for window in rows.numpy()
    ]
    np.testing.assert_allclose(returns, by_hand, atol=1e-6)
    trainer.run()
    with torch.no_grad():
        estimates = trainer.diffuser.value(trainer.diffuser.limits.normalize(rows))
    assert float((estimates - returns).square().mean()) < 0.2 * float(returns.var())
    # The guide goes up the estimate, with what is known left alone; the exported planner takes it too.
    mask = torch.zeros_like(rows, dtype=torch.bool)
    mask[:, [0, -1]] = True
    guides = {"value": torch.tensor([0.02])}
    moved = trainer.diffuser.guide(rows, mask, guides)
    gained = trainer.diffuser.weighted_return(moved, guides) - trainer.diffuser.weighted_return(rows, guides)
    assert float((gained > 0).float().mean()) > 0.9
    assert torch.equal(moved[mask], rows[mask])
    planner = Planner(checkpoint.load(out, kind="planner"))
    start, goal = np.array([-0.8, 0, 0, 0]), np.array([0.8, 0, 0, 0])
    with_value = planner.plan(start, goal, guides={"value": np.array([0.02])}).best.rows
    assert not np.array_equal(with_value, planner.plan(start, goal).best.rows)


def test_a_planner_without_a_value_function_says_so(straight_lines: Path, tmp_path: Path) -> None:
    out = tmp_path / "planner.pt"
    Trainer(options(straight_lines, out, iterations=2)).run()
    planner = Planner(checkpoint.load(out, kind="planner"))
    with pytest.raises(PlanError, match="guide value: this planner was trained without a value function"):
        planner.plan(np.zeros(4), guides={"value": np.ones(1)})


def test_bad_values(straight_lines: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a window of the stream has no goal"):
        options(straight_lines, tmp_path / "x.pt", value_iterations=5, windows="stream")
    with pytest.raises(ValueError, match="value_discount 0"):
        options(straight_lines, tmp_path / "x.pt", value_iterations=5, value_discount=0.0)
