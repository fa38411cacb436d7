"""The simulator: seeded, upright, consistent with its own cameras, untouched by being looked at."""

from __future__ import annotations

from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from scipy.spatial.transform import Rotation

from diffusion_ros.control.pictures import fit
from diffusion_ros.control.targets import TargetGenerator
from diffusion_ros.robot import ACTION_SCALE, CAMERAS, FINGERS
from diffusion_ros.robot_file import Limits
from diffusion_ros.simulators.arm import Simulation
from diffusion_ros.simulators.arm_env import SimulationEnv
from diffusion_ros.simulators.episode import episode_stamp_ns
from diffusion_ros.simulators.tasks import ARM_RESPONSE, ARM_TASKS
from training.data.experts import EXPERTS, ExpertView

FORWARD = np.array([0.02, 0.01, -0.02, 0.0, 0.0, 0.1, 1.0])


@pytest.fixture(scope="module")
def can() -> Iterator[Simulation]:
    simulation = Simulation("can")
    yield simulation
    simulation.close()


def test_the_robot_is_what_is_said_of_it(can: Simulation) -> None:
    assert can.cameras == CAMERAS
    assert tuple(can.joint_names[-2:]) == FINGERS
    can.reset(0)
    assert can.joint_positions()[-2] > 0 > can.joint_positions()[-1]


@pytest.mark.parametrize("task", ARM_TASKS)
def test_checkpoints_say_where_its_base_stands(task: str) -> None:
    simulation = Simulation(task, ())
    controller = simulation.env.robots[0].part_controllers["right"]
    base = simulation.model.body("robot0_base").id
    pose = [*simulation.base_position(), *simulation._look(simulation.data.qpos).xquat[base][[1, 2, 3, 0]]]
    simulation.close()
    np.testing.assert_allclose(pose, ARM_TASKS[task].base_pose, atol=1e-12)
    assert np.all(controller.kp == 150.0) and np.allclose(controller.kd, 2 * np.sqrt(150.0))
    assert (controller.impedance_mode, controller.input_type, controller.uncoupling) == ("fixed", "delta", True)


@pytest.mark.parametrize("axis", range(3))
def test_the_hand_follows_rows_as_the_response_says(can: Simulation, axis: int) -> None:
    """The model from rest, after 0.2 s: within a tenth of the way."""
    can.reset(2)
    for _ in range(20):
        can.step(np.zeros(7))
    start, row = can.observe(images=False)["robot0_eef_pos"], 0.03 * np.eye(7)[axis]
    free = Limits(10.0, 10.0, 1e4, 1e4, (-9.0,) * 3, (9.0,) * 3)
    model = TargetGenerator(free, 0.05, ARM_RESPONSE, leash=(9.0, 3.0))
    model.start(np.zeros(3), Rotation.identity())
    for step in range(4):
        can.step(row)
        now = model.target()
        model.advance(0.05, row, step, now.position, now.rotation)
    moved = (can.observe(images=False)["robot0_eef_pos"] - start)[axis]
    wanted = model.target().position[axis]
    assert 0.02 < wanted < 0.06
    assert abs(moved - wanted) < 0.1 * wanted


def test_same_seed_same_state_and_looking_changes_nothing(can: Simulation) -> None:
    can.reset(5)
    first = can.state_hash()
    for _ in range(10):
        can.step(FORWARD)
    there = can.state_hash()
    can.reset(6)
    assert can.state_hash() != first
    can.reset(5)
    assert can.state_hash() == first
    for _ in range(10):
        can.observe()
        can.render("frontview", 64, 64)
        can.scene()
        can.body_poses()
        can.step(FORWARD)
    assert can.state_hash() == there


def test_observation_is_of_the_present_state(can: Simulation) -> None:
    can.reset(1)
    can.step(FORWARD)
    frame = can.observe(images=False)
    can._mj.mj_forward(can.model, can.data)
    np.testing.assert_allclose(frame["robot0_eef_pos"], can.data.site_xpos[can._grip_site], atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(frame["robot0_eef_quat"]), 1.0, atol=1e-9)
    assert np.abs(can.joint_positions()[-2:] - frame["robot0_gripper_qpos"]).max() == 0


def test_a_hold_keeps_the_hand_where_it_was_told_to_stay(can: Simulation) -> None:
    """In the middle of lifting, with the can in the hand."""
    can.reset(90_001)
    view = ExpertView.of(can)
    expert = EXPERTS["can"](view)
    for _ in range(80):
        can.step(next(expert))
        view.look(can)
    told = can.observe(images=False)["robot0_eef_pos"], can.grip_matrix()
    assert abs(can.joint_velocities()).max() > 0.1
    for _ in range(100):
        can.step(np.zeros(7))
    assert np.linalg.norm(can.observe(images=False)["robot0_eef_pos"] - told[0]) < 1e-3
    assert np.linalg.norm(can.grip_matrix() - told[1]) < 0.01
    can.step(FORWARD)
    can.step(FORWARD)
    there = can.observe(images=False)["robot0_eef_pos"]
    for _ in range(60):
        can.step(np.zeros(7))
    np.testing.assert_allclose(can.observe(images=False)["robot0_eef_pos"], there, atol=1e-3)


def test_command_moves_the_hand_in_metres(can: Simulation) -> None:
    can.reset(2)
    start = can.observe(images=False)["robot0_eef_pos"]
    for _ in range(10):
        can.step(np.array([0.0, 0.03, 0.0, 0.0, 0.0, 0.0, 0.0]))
    for _ in range(15):
        can.step(np.zeros(7))
    moved = can.observe(images=False)["robot0_eef_pos"] - start
    # The goal is set relative to where the hand is, not to the last goal: it lags, so less than 10 * 3 cm.
    assert 0.05 < moved[1] < 0.30
    assert abs(moved[0]) < 0.03 and abs(moved[2]) < 0.03


def test_cameras_are_upright_and_intrinsics_right(can: Simulation) -> None:
    can.reset(3)
    frame = can.observe()
    image = frame["agentview_image"].astype(int)
    assert image.shape == (84, 84, 3) and image.dtype != np.uint8
    # The can is the only red thing: project its position and look there.
    position, quaternion = can.camera_pose("agentview")
    from scipy.spatial.transform import Rotation

    in_camera = Rotation.from_quat(quaternion).inv().apply(frame["object_pos"] - position)
    pixel = can.camera_matrix("agentview", 84, 84) @ in_camera
    u, v = pixel[:2] / pixel[2]
    red = (image[..., 0] > 100) & (image[..., 1] < 60) & (image[..., 2] < 60)
    assert red.sum() > 10
    rows, columns = np.nonzero(red)
    assert abs(columns.mean() - u) < 2.5
    assert abs(rows.mean() - v) < 3.5  # an upside-down image would be 40 away


@pytest.mark.parametrize("camera", CAMERAS)
def test_the_middle_of_a_wider_picture_scaled_down_is_the_picture(can: Simulation, camera: str) -> None:
    """The height is what a camera's field of view is told for. Scaled down it is smoother, so not the same."""
    can.reset(3)
    small = can.observe()[f"{camera}_image"].astype(int)
    wide = can.render(camera, 480, 640)

    def apart(crop: tuple[int, int, int, int]) -> float:
        return float(np.abs(fit(wide, 84, 84, crop) - small).mean())

    # Edges that fall between two pixels of the renderer may go either way.
    assert np.abs(wide[:, 80:560].astype(int) - can.render(camera, 480, 480)).mean() < 0.05
    here = apart((80, 0, 480, 480))
    assert np.array_equal(fit(wide, 84, 84), fit(wide, 84, 84, (80, 0, 480, 480)))
    assert here < 0.8 * min(apart((74, 0, 480, 480)), apart((86, 0, 480, 480)), apart((86, 6, 468, 468)))


def test_thinned_meshes_look_alike(can: Simulation) -> None:
    can.reset(4)
    thin = can.observe()
    whole = Simulation("can", mesh_cell=0.0)
    assert whole.model.mesh_facenum.sum() > 2 * can.model.mesh_facenum.sum()
    whole.reset(4)
    assert whole.state_hash() == can.state_hash()
    reference = whole.observe()
    whole.close()
    for camera in CAMERAS:
        difference = np.abs(thin[f"{camera}_image"].astype(int) - reference[f"{camera}_image"]).mean()
        assert difference < 1.0, camera


def test_scene_has_the_object_where_it_is(can: Simulation) -> None:
    can.reset(7)
    geoms, poses = {geom.name: geom for geom in can.scene()}, can.body_poses()
    visual = geoms["Can_g0_visual"]
    assert visual.body == "Can_main" and visual.triangles is not None and visual.triangles.shape[1:] == (3, 3)
    position, quaternion = poses["Can_main"]
    place = position + Rotation.from_quat(quaternion).apply(visual.position)
    np.testing.assert_allclose(place, can.data.geom_xpos[can.model.geom("Can_g0_visual").id], atol=1e-9)
    assert np.linalg.norm(place - can.observe(images=False)["object_pos"]) < 0.03
    # What moves has a body, the rest has none; and the red can is red.
    assert {geom.body for geom in geoms.values()} == {"", *poses}
    assert geoms["wall_rear_visual"].body == "" and "robot0_link7" in poses
    red, green, blue, _ = visual.rgba
    assert red > 0.8 and green < 0.3 and blue < 0.3
    # In each body's frame everything stays where it is.
    before = {name: geom.position for name, geom in geoms.items()}
    for _ in range(5):
        can.step(FORWARD)
    assert not np.allclose(can.body_poses()["robot0_link7"][0], poses["robot0_link7"][0])
    for geom in can.scene():
        np.testing.assert_allclose(geom.position, before[geom.name], atol=1e-9)


def test_bad_input_is_named(can: Simulation) -> None:
    with pytest.raises(ValueError, match=r"unknown task 'stack'.*lift, can, square"):
        Simulation("stack")
    with pytest.raises(ValueError, match="unknown camera 'sky'"):
        can.render("sky", 10, 10)
    with pytest.raises(ValueError, match="7 finite numbers"):
        can.step(np.full(7, np.nan))


def test_lockstep_stamps_of_episodes_do_not_meet() -> None:
    assert episode_stamp_ns(0, 0) == 1_000_000_000
    assert episode_stamp_ns(0, 3) - episode_stamp_ns(0, 2) == 50_000_000
    assert episode_stamp_ns(1, 0) - episode_stamp_ns(0, 2000) > 100 * 10**9


def test_gymnasium_environment() -> None:
    env: gymnasium.Env = SimulationEnv("lift", images=False, render_mode="rgb_array")
    with pytest.MonkeyPatch.context() as patch:
        # The checker warns of Box spaces without bounds, which positions in metres are.
        patch.setattr("gymnasium.logger.warn", lambda *args, **kwargs: None)
        check_env(env, skip_render_check=True)
    env.reset(seed=0)
    simulation = env.unwrapped.simulation
    view = ExpertView.of(simulation)
    expert = EXPERTS["lift"](view)
    for _ in range(60):
        _, reward, terminated, _, info = env.step(next(expert) / ACTION_SCALE)
        view.look(simulation)
        if terminated:
            break
    assert terminated and reward == 1.0 and info["success"]
    env.close()
