"""What ships loads, says where it comes from, fits its task, and is small."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation
from sklearn.cluster import KMeans
from some_slow import one_in

from diffusion_ros import checkpoint
from diffusion_ros.control.hand_follower import arm_state
from diffusion_ros.models.camera_guard import CameraGuard, CameraScore
from diffusion_ros.models.hand_planner import make_planner
from diffusion_ros.models.image_generator import ImageGenerator
from diffusion_ros.models.planner import Planner
from diffusion_ros.models.policy import Policy
from diffusion_ros.robot import CAMERAS
from diffusion_ros.robot_check import check_cameras
from diffusion_ros.simulators.arm import Simulation
from diffusion_ros.simulators.camera_faults import FAULTS, CameraFault
from diffusion_ros.simulators.maze import load_map
from diffusion_ros.simulators.tasks import ARM_RESPONSE, ARM_TASKS, maze_task
from diffusion_ros.spec import FITTED, IMAGE_SUFFIX
from training import export_again
from training.data.images import load_images
from training.evaluation.arm import least, plan_clear
from training.evaluation.guard import evaluate_guard, hand_pose, watch_policy

CHECKPOINTS = sorted((Path(__file__).resolve().parents[1] / "checkpoints").glob("*.pt"))
PLANNERS = [path for path in CHECKPOINTS if path.stem.startswith("maze_")]
POLICIES = [path for path in CHECKPOINTS if path.stem.endswith(("_state", "_pixels"))]


@pytest.mark.slow
def test_written_anew_a_policy_answers_as_before_and_can_do_more(tmp_path: Path) -> None:
    (old,) = [path for path in POLICIES if path.stem == "lift_state"]
    new, leading = tmp_path / "new.pt", tmp_path / "leading.pt"
    export_again.export_again(export_again.Options(old, new))
    export_again.export_again(export_again.Options(new, leading, "leading", 2))
    one, two, three = (Policy(checkpoint.load(path)) for path in (old, new, leading))
    simulation = Simulation("lift", ())
    features = [one.encode(simulation.observe())] * 2
    simulation.close()
    assert np.array_equal(two.sample(features, 5), one.sample(features, 5))
    assert not np.array_equal(three.sample(features, 5), two.sample(features, 5, 2))
    assert (three.spec.timestep_spacing, three.spec.sampler_steps) == ("leading", 2) and three.goes_on
    chosen = Policy(checkpoint.load(new, timestep_spacing="leading", sampler_steps=2))
    assert np.array_equal(three.sample(features, 5), chosen.sample(features, 5))


@pytest.mark.slow
def test_written_anew_a_planner_plans_as_before_and_in_other_steps(tmp_path: Path) -> None:
    (old,) = [path for path in PLANNERS if path.stem == "maze_umaze"]
    new, cubic = tmp_path / "new.pt", tmp_path / "cubic.pt"
    export_again.export_again(export_again.Options(old, new))
    export_again.export_again(export_again.Options(new, cubic, "cubic", 2))
    one, two, three = (Planner(checkpoint.load(path)) for path in (old, new, cubic))
    start, goal = np.array([-1.0, -1.0, 0.0, 0.0]), np.array([-1.0, 1.0, 0.0, 0.0])
    assert np.array_equal(two.plan(start, goal).best.rows, one.plan(start, goal).best.rows)
    assert three.plan(start, goal).steps == 2
    chosen = Planner(checkpoint.load(old, timestep_spacing="cubic", sampler_steps=2))
    assert np.array_equal(three.plan(start, goal).best.rows, chosen.plan(start, goal).best.rows)
    trailing = Planner(checkpoint.load(old, sampler_steps=2))
    assert not np.array_equal(three.plan(start, goal).best.rows, trailing.plan(start, goal).best.rows)


def test_the_default_of_make_sim_ships() -> None:
    assert "can_pixels.pt" in [path.name for path in CHECKPOINTS]


def test_all_together_are_small() -> None:
    sizes = {path.name: path.stat().st_size for path in CHECKPOINTS}
    assert max(sizes.values()) < 20e6
    assert sum(sizes.values()) < 60e6


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.stem)
def test_checkpoint_names_no_folder_of_the_machine_that_made_it(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".debug_pkl")]


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_checkpoint_fits_its_task(path: Path) -> None:
    task, inputs = path.stem.split("_")[:2]
    policy = Policy(checkpoint.load(path, kind="policy", task=task))
    spec = policy.spec
    assert spec.environment == ARM_TASKS[task].environment
    assert spec.cameras == (() if inputs == "state" else ("agentview", "robot0_eye_in_hand"))
    assert ("object_pos" in spec.input_names) == (inputs == "state")
    assert spec.training["out"].endswith(path.name) and len(spec.data_hash) == 64 and spec.git_commit
    assert spec.pictures == (FITTED if spec.cameras else {})
    assert (spec.base_pose, spec.response) == (ARM_TASKS[task].base_pose, ARM_RESPONSE)
    simulation = Simulation(task, spec.cameras)
    simulation.reset(1)
    frame = simulation.observe(images=bool(spec.cameras))
    simulation.close()
    pictures = {name: frame[name] for name in spec.typical if name.endswith(IMAGE_SUFFIX)}
    assert len(pictures) == len(spec.cameras) and check_cameras(spec, pictures) == []
    if pictures:
        exchanged = dict(zip(pictures, reversed(list(pictures.values())), strict=True))
        assert "looks like" in str(check_cameras(spec, exchanged)[0])
    turned = Rotation.from_quat(spec.typical["robot0_eef_quat"]["mean"]).inv() * Rotation.from_quat(
        frame["robot0_eef_quat"]
    )
    assert turned.magnitude() <= spec.typical["robot0_eef_quat"]["angle"]
    rows = policy.sample([policy.encode(frame)] * spec.n_obs_steps, seed=0)
    # From the start pose every task begins with a hand that is open and goes down.
    assert np.all(rows[:4, 2] < 0) and np.all(rows[:4, 6] < -0.5)
    low, high = np.array(spec.workspace_low), np.array(spec.workspace_high)
    assert np.all(frame["robot0_eef_pos"] > low) and np.all(frame["robot0_eef_pos"] < high)


def test_generated_digits_are_like_real_ones() -> None:
    """By the nearest real neighbour: of all kinds, and hardly farther from it than real digits are from another."""
    path = next(path for path in CHECKPOINTS if path.name == "ddpm_digits.pt")
    model = checkpoint.load(path, kind="image model", sampler="ddim", sampler_steps=25)
    generated = ImageGenerator(model).denoised(seed=5, count=100)[-1]
    data = load_images("digits")

    def nearest(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        distances = cdist(images.reshape(len(images), -1).astype(float), data.train.reshape(len(data.train), -1))
        return distances.min(1), distances.argmin(1)

    labels = KMeans(10, n_init=1, random_state=0).fit_predict(data.train.reshape(len(data.train), -1))
    distance, neighbour = nearest(generated)
    assert len(set(labels[neighbour])) >= 9
    assert np.median(distance) < 1.3 * np.median(nearest(data.test)[0])


def test_the_arms_planner_goes_where_it_is_asked_and_past_a_ball() -> None:
    path = next(path for path in CHECKPOINTS if path.name == "arm_planner.pt")
    planner = make_planner(checkpoint.load(path, kind="planner", task="arm"))
    assert set(planner.spec.environment.split(", ")) == {"PickPlaceCan", "NutAssemblySquare"}
    assert (planner.spec.base_pose, planner.spec.response) == (ARM_TASKS["can"].base_pose, ARM_RESPONSE)
    start = arm_state([-0.1, -0.1, 1.0], [1, 0, 0, 0], 0.08)
    goal = arm_state([0.1, 0.3, 1.05], [1, 0, 0, 0])
    free = planner.plan(start, goal, seed=0).best.dense(planner.spec.rate)[0]
    np.testing.assert_allclose(free[[0, -1]], [[-0.1, -0.1, 1.0], [0.1, 0.3, 1.05]], atol=1e-5)
    balls = np.append(free[len(free) // 2], 0.06)[None]
    plan = plan_clear(planner, start, goal, balls, seed=0)
    assert least(free, balls) < 0 and plan is not None and least(plan.dense(planner.spec.rate)[0], balls) > 0


@pytest.mark.slow
def test_the_guard_lets_good_pictures_pass_and_stops_dark_ones() -> None:
    path = next(path for path in CHECKPOINTS if path.name == "guard_can.pt")
    guard = CameraGuard(checkpoint.load(path, kind="camera guard", task="can"))
    simulation = Simulation("can", guard.cameras)
    simulation.reset(1)
    frame = simulation.observe()
    for camera in guard.cameras:
        fault = CameraFault("dark", camera, seed=1)
        fault.set_scene(simulation)
        dark = fault.picture(simulation.observe()[f"{camera}_image"])
        pose = hand_pose(simulation)
        assert guard.look(camera, frame[f"{camera}_image"], pose).score < 1 < guard.look(camera, dark, pose).score
    simulation.close()


@pytest.mark.slow  # every fault of every camera; what the shipped guards see is above, and what they stop below
def test_the_guard_s_evaluation_and_what_it_makes_of_a_policy() -> None:
    guard, policy = (next(p for p in CHECKPOINTS if p.name == name) for name in ("guard_can.pt", "can_state.pt"))
    summary = evaluate_guard(guard, 1, 95_000)
    for camera in CAMERAS:
        found = summary["cameras"][camera]
        assert found["good_frames"] > 10 and found["false_alarms"] == found["frames_under_alarm"] == 0
        assert set(found["faults"]) == set(FAULTS) and all(f["spells"] == 2 for f in found["faults"].values())
        assert all(found["faults"][name]["caught"] == 1 for name in ("covered", "dark", "frozen"))
    assert summary["results"][0]["steps"] > 40
    watched = watch_policy(guard, policy, 1, 95_000)
    assert watched == {"checkpoint": str(policy), "episodes": 1, "succeeded": 1, "stopped": []}


@pytest.mark.slow
def test_a_guard_that_sees_nothing_good_stops_a_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        CameraGuard, "look", lambda self, camera, image, pose: CameraScore(1.5, np.zeros((7, 7), np.float32))
    )
    guard, policy = (next(p for p in CHECKPOINTS if p.name == name) for name in ("guard_can.pt", "can_state.pt"))
    (stopped,) = watch_policy(guard, policy, 1, 95_000)["stopped"]
    assert stopped == {"seed": 95_000, "success": True, "camera": "agentview", "step": 4}  # the second picture


@pytest.mark.parametrize("path", one_in(3, PLANNERS), ids=lambda path: path.stem)
def test_planner_fits_its_maze(path: Path) -> None:
    planner = Planner(checkpoint.load(path, kind="planner", task=path.stem.split("_")[1]))
    spec = planner.spec
    assert spec.training["out"].endswith(path.name) and len(spec.data_hash) == 64 and spec.git_commit
    task = maze_task(spec.task)
    assert spec.environment == task.environment
    maze = load_map(task)
    start, goal = maze.centre(maze.free_cells[0]), maze.centre(task.goal_cell)
    plans = planner.plan(np.append(start, [0, 0]), np.append(goal, [0, 0]), candidates=4, seed=0)
    positions = [plan.part("position") for plan in plans.candidates]
    assert all(np.allclose(position[[0, -1]], [start, goal], atol=1e-5) for position in positions)
    assert max(float(maze.wall_distance(position).min()) for position in positions) > 0
