"""The simulated arm under laws that drivers have, and what those drivers make of their inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.interpolate import BPoly, CubicHermiteSpline
from scipy.spatial.transform import Rotation

from diffusion_ros.robot import ACTION_SCALE, EEF_POS, EEF_QUAT
from diffusion_ros.simulators import driver_rules
from diffusion_ros.simulators.arm import Simulation
from diffusion_ros.simulators.arm_description import arm_description
from diffusion_ros.simulators.driven_arm import STEP_NS, CartesianImpedance, DrivenArm, JointTracking
from diffusion_ros.simulators.joint_setpoints import (
    HALT_SINGULARITY,
    JOINT_BOUND,
    OK,
    ForwardPositions,
    ServoLoop,
    TrajectoryInterpolator,
)

Array = NDArray[np.float64]
TURNED = (np.array((0.1, -0.2, 0.3)), Rotation.from_euler("z", 180, degrees=True).as_quat())
TOOL = (np.array((0.02, -0.01, 0.05)), Rotation.from_euler("xyz", (0.3, -0.2, 0.7)).as_quat())
UR_JOINTS = [f"{part}_joint" for part in ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")]


@pytest.fixture(scope="module")
def seven() -> Iterator[DrivenArm]:
    arm = DrivenArm("can", cameras=())
    yield arm
    arm.close()


@pytest.fixture(scope="module")
def six() -> Iterator[DrivenArm]:
    """Joint 3 locked, the base turned as a UR's, the tool turned against the hand."""
    arm = DrivenArm("can", locked=(2,), base=TURNED, tool=TOOL, cameras=())
    yield arm
    arm.close()


def angle(a: Array, b: Array) -> float:
    return float((Rotation.from_quat(a) * Rotation.from_quat(b).inv()).magnitude())


def lag(times: Array, wanted: Array, got: Array) -> float:
    """Seconds by which a signal comes late where it moves steadily."""
    return float(np.mean((wanted - got) / np.gradient(wanted, times)))


# -- the arm ----------------------------------------------------------------------------------------------------------


def test_resets_are_the_simulators(seven: DrivenArm) -> None:
    plain = Simulation("can", ())
    for seed in (3, 100_007, 3):
        plain.reset(seed)
        seven.reset(seed)
        np.testing.assert_array_equal(seven.data.qpos, plain.data.qpos)
        np.testing.assert_array_equal(seven.data.qvel, plain.data.qvel)
        frame = plain.observe(images=False)
        position, quaternion = seven.hand_in_world()
        np.testing.assert_allclose(position, frame[EEF_POS], atol=1e-12)
        np.testing.assert_allclose(quaternion, frame[EEF_QUAT], atol=1e-12)
        # The base stands unturned in the scene.
        np.testing.assert_allclose(seven.measured_pose()[0], frame[EEF_POS] - plain.base_position(), atol=1e-12)
    plain.close()


def test_the_same_commands_give_the_same_state(seven: DrivenArm) -> None:
    states = []
    for _ in range(2):
        seven.reset(5)
        seven.controller = law = CartesianImpedance()
        position, quaternion = seven.measured_pose()
        law.set_target(position + (0.05, 0.02, 0.03), quaternion)
        seven.gripper.command(0.0)
        seven.advance(200)
        states.append(seven.data.qpos.copy())
    np.testing.assert_array_equal(*states)


def test_time_is_the_physics_own(seven: DrivenArm) -> None:
    before, physics = seven.time_ns, seven.data.time
    seven.advance(25)
    assert seven.time_ns - before == 25 * STEP_NS
    assert seven.data.time - physics == pytest.approx(0.05)


def test_poses_are_in_the_drivers_frames(seven: DrivenArm, six: DrivenArm) -> None:
    """base <- tool <- hand gives the hand of an arm whose base and tool are its own."""
    six.reset(1)
    seven.reset(1)
    seven.data.qpos[2] = six.posture[2]
    position, quaternion = six.measured_pose()
    tool = Rotation.from_quat(quaternion)
    hand_position = position + tool.apply(TOOL[0])
    plain_position, plain_quaternion = seven.measured_pose()
    np.testing.assert_allclose(hand_position, TURNED[0] + plain_position * (-1, -1, 1), atol=1e-9)
    expected = Rotation.from_quat(TURNED[1]) * Rotation.from_quat(plain_quaternion)
    assert angle((tool * Rotation.from_quat(TOOL[1])).as_quat(), expected.as_quat()) < 1e-9


@pytest.mark.parametrize("which", ["seven", "six"])
def test_the_jacobian_is_the_poses_derivative(which: str, request: pytest.FixtureRequest) -> None:
    arm = request.getfixturevalue(which)
    arm.reset(2)
    at = arm.joint_positions()
    jacobian = arm.jacobian_of(at)
    for joint, step in enumerate(1e-6 * np.eye(len(at))):
        (before, turned_before), (after, turned_after) = arm.pose_of(at - step), arm.pose_of(at + step)
        turned = (Rotation.from_quat(turned_after) * Rotation.from_quat(turned_before).inv()).as_rotvec()
        np.testing.assert_allclose(jacobian[:, joint], np.concatenate((after - before, turned)) / 2e-6, atol=1e-6)


def test_a_wrong_arm_is_refused() -> None:
    with pytest.raises(ValueError, match=r"locked joints \[7\]: expected at most one, 0 to 6"):
        DrivenArm("can", locked=(7,))


# -- impedance --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["seven", "six"])
def test_impedance_follows_behind_a_lag_and_arrives(which: str, request: pytest.FixtureRequest) -> None:
    """0.2 m/s sideways, speed taken up and given back over 0.2 s; then half a second to arrive."""
    arm = request.getfixturevalue(which)
    arm.reset(1)
    arm.controller = law = CartesianImpedance()
    (start, quaternion), direction = arm.measured_pose(), np.array((0.0, 1.0, 0.0))
    times = np.arange(0.0, 0.8, 0.002)
    speed = 0.2 * np.clip(np.minimum(times, 0.8 - times) / 0.2, 0.0, 1.0)
    wanted, got = np.cumsum(speed) * 0.002, np.zeros_like(times)
    for i, distance in enumerate(wanted):
        law.set_target(start + distance * direction, quaternion)
        arm.step()
        got[i] = (arm.measured_pose()[0] - start) @ direction
    steady = slice(250, 300)
    assert 0.10 < lag(times[steady], wanted[steady], got[steady]) < 0.25
    arm.advance(750)
    position, turned = arm.measured_pose()
    np.testing.assert_allclose(position, start + wanted[-1] * direction, atol=0.003)
    assert angle(turned, quaternion) < 0.02


def test_impedance_keeps_its_target_and_its_error_is_clipped(seven: DrivenArm) -> None:
    seven.reset(1)
    seven.controller = law = CartesianImpedance()
    start, quaternion = seven.measured_pose()
    seven.advance(500)
    np.testing.assert_allclose(seven.measured_pose()[0], start, atol=1e-4)
    far, near = [], []
    for offset, speeds in ((1.0, far), (0.1, near)):
        seven.reset(1)
        law.set_target(start + (0.0, offset, 0.0), quaternion)
        for _ in range(25):
            seven.step()
            speeds.append(float(np.linalg.norm(seven.tool_jacobian()[:3] @ seven.arm_velocities())))
    # Ten times as far pulls no harder once the error is beyond 0.1 m, but it is there ten times sooner.
    assert max(far) < 4 * max(near)


@pytest.mark.parametrize(
    ("position", "quaternion", "message"),
    [
        ((np.nan, 0, 0), (0, 0, 0, 1), "position"),
        ((0, 0), (0, 0, 0, 1), "position"),
        ((0, 0, 0), (0, 0, 0, np.inf), "orientation"),
        ((0, 0, 0), (0, 0, 0, 0), "its norm is 0.000, expected 1"),
    ],
)
def test_a_target_that_is_none_is_refused_and_the_last_kept(
    seven: DrivenArm, position: tuple[float, ...], quaternion: tuple[float, ...], message: str
) -> None:
    seven.reset(1)
    seven.controller = law = CartesianImpedance()
    start = seven.measured_pose()[0]
    with pytest.raises(ValueError, match=message):
        law.set_target(position, quaternion)
    seven.advance(50)
    np.testing.assert_allclose(seven.measured_pose()[0], start, atol=1e-4)


# -- position-controlled ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["seven", "six"])
def test_joints_are_tracked_within_milliradians(which: str, request: pytest.FixtureRequest) -> None:
    arm = request.getfixturevalue(which)
    arm.reset(1)
    trajectory = TrajectoryInterpolator()
    arm.controller = JointTracking(trajectory)
    start = arm.joint_positions()
    wave = 0.15 * np.sin(np.linspace(0.5, 2.5, len(start)))
    times = np.linspace(0.1, 1.0, 10)
    points = start + wave * (1 - np.cos(2 * np.pi * times[:, None])) / 2
    velocities = wave * np.pi * np.sin(2 * np.pi * times[:, None])
    trajectory.command(arm.time_ns, (times * 1e9).astype(np.int64), points, velocities)
    worst, held = 0.0, 0.0
    for _ in range(500):
        arm.step()
        worst = max(worst, float(np.abs(trajectory.sample(arm.time_ns)[0] - arm.joint_positions()).max()))
        held = max(held, float(np.abs(arm.arm_positions() - arm.posture)[list(arm.locked)].max(initial=0.0)))
    # Stands for 5 ms of lag at the fastest joint's 0.47 rad/s.
    assert worst < 0.0025
    assert held < 1e-5
    arm.advance(100)
    np.testing.assert_allclose(arm.joint_positions(), points[-1], atol=1e-3)


def test_a_locked_joint_is_nobodys_business(six: DrivenArm) -> None:
    six.reset(4)
    assert len(six.joint_names) == len(six.joint_positions()) == len(six.limits) == 6
    assert not any("joint3" in name for name in six.joint_names)
    forward = ForwardPositions()
    six.controller = JointTracking(forward)
    target = six.joint_positions() + 0.02
    forward.command(target)
    six.advance(200)
    np.testing.assert_allclose(six.joint_positions(), target, atol=1e-3)
    assert abs(six.arm_positions()[2] - six.posture[2]) < 1e-5
    with pytest.raises(ValueError, match="expected 6 finite numbers"):
        forward.command(np.zeros(7))
    with pytest.raises(ValueError, match="expected 6 finite numbers"):
        forward.command(np.full(6, np.nan))


def test_trajectories_are_scipys_splines() -> None:
    rng = np.random.default_rng(0)
    times = np.array((0.3, 0.5, 1.1))
    states = rng.normal(size=(4, 3, 2))
    states[0, 1:] = 0.0
    knots = np.concatenate(([0.0], times))
    after = np.linspace(0.0, 1.0999, 50)
    oracles: list[Callable[[Array], Array]] = [
        lambda t: np.stack([np.interp(t, knots, states[:, 0, j]) for j in range(2)], axis=1),
        CubicHermiteSpline(knots, states[:, 0], states[:, 1]),
        BPoly.from_derivatives(knots, states),
    ]
    for order, oracle in enumerate(oracles):
        trajectory = TrajectoryInterpolator()
        trajectory.restart(states[0, 0], 1000)
        given = [states[1:, i] if i <= order else None for i in (1, 2)]
        trajectory.command(1000, (times * 1e9).astype(np.int64), states[1:, 0], *given)
        samples = [trajectory.sample(1000 + int(t * 1e9)) for t in after]
        np.testing.assert_allclose([s[0] for s in samples], oracle(after), atol=1e-6)
        step = np.diff([trajectory.sample(1000 + int(t * 1e9) + d)[0] for t in after for d in (0, 1000)], axis=0)[::2]
        np.testing.assert_allclose([s[1] for s in samples], step / 1e-6, atol=1e-3)
        position, velocity, _ = trajectory.sample(trajectory.end_ns + 1)
        np.testing.assert_array_equal(position, states[-1, 0])
        assert not velocity.any()


def test_a_new_trajectory_goes_on_from_the_desired_state() -> None:
    trajectory = TrajectoryInterpolator()
    trajectory.restart(np.zeros(1), 0)
    trajectory.command(0, [1_000_000_000], [[1.0]], [[0.0]])
    before = trajectory.sample(400_000_000)
    trajectory.command(400_000_000, [500_000_000, 700_000_000], [[0.2], [0.1]], [[-0.1], [0.0]])
    after = trajectory.sample(400_000_001)
    np.testing.assert_allclose(after[0], before[0], atol=1e-8)
    np.testing.assert_allclose(after[1], before[1], atol=1e-6)
    with pytest.raises(ValueError, match="positions"):
        trajectory.command(500_000_000, [1], [[np.nan]])
    with pytest.raises(ValueError, match="expected rising ones"):
        trajectory.command(500_000_000, [2, 2], [[0.0], [1.0]])
    np.testing.assert_allclose(trajectory.sample(2_000_000_000)[0], 0.1)


# -- Servo ------------------------------------------------------------------------------------------------------------


def drive(arm: DrivenArm, servo: ServoLoop, command: Callable[[int], None], steps: int) -> None:
    """`command` at 100 Hz."""
    for i in range(steps):
        if i % 5 == 0:
            command(arm.time_ns)
        arm.step()


def test_servo_moves_as_told_and_stops_when_commands_grow_old(six: DrivenArm) -> None:
    six.reset(1)
    servo = ServoLoop(six, singularity=(100.0, 200.0))
    six.controller = JointTracking(servo)
    start, quaternion = six.measured_pose()
    drive(six, servo, lambda now: servo.twist((0, 0.1, 0.05, 0, 0, 0.2), now), 250)
    position, turned = six.measured_pose()
    np.testing.assert_allclose(position - start, (0, 0.05, 0.025), atol=0.004)
    np.testing.assert_allclose(
        (Rotation.from_quat(turned) * Rotation.from_quat(quaternion).inv()).as_rotvec(), (0, 0, 0.1), atol=0.01
    )
    six.advance(60)  # 0.12 s without a command
    stopped = six.measured_pose()[0]
    six.advance(100)
    np.testing.assert_allclose(six.measured_pose()[0], stopped, atol=5e-4)
    with pytest.raises(ValueError, match="twist"):
        servo.twist((np.nan, 0, 0, 0, 0, 0), six.time_ns)


def test_servo_turns_a_twist_of_the_tool(six: DrivenArm) -> None:
    six.reset(1)
    servo = ServoLoop(six, singularity=(100.0, 200.0))
    six.controller = JointTracking(servo)
    start, quaternion = six.measured_pose()
    drive(six, servo, lambda now: servo.twist((0, 0.1, 0, 0, 0, 0), now, in_tool=True), 150)
    moved = Rotation.from_quat(quaternion).inv().apply(six.measured_pose()[0] - start)
    np.testing.assert_allclose(moved, (0, 0.03, 0), atol=0.003)


@pytest.mark.parametrize(("part", "cap"), [(slice(0, 3), 0.4), (slice(3, 6), 0.8)])
def test_servo_caps_speeds_silently(six: DrivenArm, part: slice, cap: float) -> None:
    six.reset(1)
    servo = ServoLoop(six, singularity=(1000.0, 2000.0), timeout_ns=None)
    servo.restart(six.joint_positions(), 0)
    twist = np.zeros(6)
    twist[part] = (0, 0, 1.5)
    servo.twist(twist, 0)
    positions, velocities, _ = servo.sample(10_000_000)
    speed = float(np.linalg.norm((six.jacobian_of(positions) @ velocities)[part]))
    assert servo.status == OK
    assert cap * 0.9 < speed < cap * 1.001


def test_servo_reaches_a_pose(six: DrivenArm) -> None:
    six.reset(1)
    servo = ServoLoop(six, singularity=(100.0, 200.0))
    six.controller = JointTracking(servo)
    start, quaternion = six.measured_pose()
    goal = start + (0.03, 0.04, -0.02)
    turned = (Rotation.from_euler("z", 0.15) * Rotation.from_quat(quaternion)).as_quat()
    drive(six, servo, lambda now: servo.pose(goal, turned, now), 500)
    np.testing.assert_allclose(six.measured_pose()[0], goal, atol=0.002)
    assert angle(six.measured_pose()[1], turned) < 0.01


def test_servo_slows_down_and_halts_at_a_singularity_and_can_leave_it(seven: DrivenArm) -> None:
    """Stretching the arm out: the condition number grows without bound."""
    seven.reset(1)
    servo = ServoLoop(seven, timeout_ns=None)
    servo.restart(seven.joint_positions(), 0)
    servo.twist((0.2, 0, 0.1, 0, 0, 0), 0)
    seen, speeds = [], []
    for now in range(0, 12_000_000_000, 10_000_000):
        velocities = servo.sample(now)[1]
        seen.append(servo.status)
        speeds.append(float(np.abs(velocities).max()))
        if servo.status in (HALT_SINGULARITY, JOINT_BOUND):
            break
    assert 1 in seen
    assert servo.condition <= 30.5
    slowed = [speed for speed, status in zip(speeds, seen, strict=True) if status == 1]
    assert slowed[-1] < 0.5 * max(speeds)
    servo.twist((-0.2, 0, -0.1, 0, 0, 0), 0)
    assert servo.sample(now + 20_000_000)[1].any()


def test_servo_halts_before_a_joints_bound(seven: DrivenArm) -> None:
    seven.reset(1)
    servo = ServoLoop(seven, timeout_ns=None, singularity=(1e6, 2e6))
    positions = seven.joint_positions()
    positions[6] = seven.limits[6, 1] - 0.15
    servo.restart(positions, 0)
    servo.twist((0, 0, 0, 0, 0, -0.8), 0)
    for now in range(0, 1_000_000_000, 10_000_000):
        reached = servo.sample(now)[0]
    assert servo.status == JOINT_BOUND
    assert seven.limits[6, 1] - 0.11 < reached[6] < seven.limits[6, 1] - 0.0999


# -- the gripper ------------------------------------------------------------------------------------------------------


def test_the_gripper_takes_its_time(seven: DrivenArm) -> None:
    seven.reset(1)
    seven.controller = CartesianImpedance()
    gripper = seven.gripper
    gripper.command(0.08)
    seven.advance(500)
    assert gripper.reached
    widths = []
    gripper.command(0.0)
    for _ in range(400):
        seven.step()
        widths.append(gripper.width)
    times = 0.002 * np.arange(400)
    # 0.08 m at 0.2 m/s, and 0.1 s that the fingers are behind.
    assert 0.35 < times[np.argmax(np.array(widths) < 0.004)] < 0.7
    assert float(-np.diff(widths).min()) / 0.002 < 0.22
    assert gripper.reached and not gripper.stalled
    np.testing.assert_allclose(seven.finger_positions(), 0.0, atol=0.0015)
    gripper.command(0.04, speed=0.05)
    seven.advance(200)
    assert gripper.width < 0.022
    for wrong in (np.nan, np.inf):
        with pytest.raises(ValueError, match="gripper's width"):
            gripper.command(wrong)


def test_the_gripper_stops_at_an_object() -> None:
    """Lift's cube, about 4 cm wide, between the fingers of an arm that carries its own weight."""
    arm = DrivenArm("lift", cameras=())
    arm.gripper.command(0.08)
    arm.controller = law = CartesianImpedance()
    arm.advance(300)
    base, cube = arm.simulation.base_position(), arm.simulation.observe(images=False)["object_pos"]
    down = Rotation.from_matrix(((0, 1, 0), (1, 0, 0), (0, 0, -1)))
    cube_yaw = float(Rotation.from_quat(arm.simulation.observe(images=False)["object_quat"]).as_euler("xyz")[2])
    cube_yaw = (cube_yaw + np.pi / 4) % (np.pi / 2) - np.pi / 4
    site_to_hand = Rotation.from_matrix(arm.simulation.grip_matrix()).inv() * Rotation.from_quat(arm.hand_in_world()[1])
    orientation = (Rotation.from_euler("z", cube_yaw) * down * site_to_hand).as_quat()
    for height in (0.1, 0.0):
        law.set_target(cube - base + (0, 0, height), orientation)
        arm.advance(750)
    arm.gripper.command(0.0)
    arm.advance(500)
    assert arm.gripper.stalled and not arm.gripper.reached
    assert 0.03 < arm.gripper.width < 0.06
    law.set_target(cube - base + (0, 0, 0.1), orientation)
    arm.advance(750)
    assert arm.success
    arm.close()


# -- what targets are made by ------------------------------------------------------------------------------------------

# What a row of the simulator does to its hand in free space: x'' = k (goal - x) - 2 sqrt(k) x', goal = x at the row's
# start + row. robosuite sets k = 150 / s2; the arm behaves as with 115 (rms over a second 4 mm, with 150 it is 10 mm).
STIFFNESS = 115.0


def critically_damped(rows: Array, start: Array, stiffness: float) -> Array:
    """Position (N + 1, 3) after each of N rows of 50 ms from rest, in closed form."""
    rate, position, velocity = float(np.sqrt(stiffness)), start.copy(), np.zeros(3)
    path = [start]
    decay = np.exp(-rate * 0.05)
    for row in rows:
        error = -row
        drift = velocity + rate * error
        goal, position = position + row, position + row + (error + drift * 0.05) * decay
        velocity = drift * decay - rate * (position - goal)
        path.append(position)
    return np.array(path)


def test_rows_move_the_simulators_hand_as_a_critically_damped_point() -> None:
    """Translations up to full scale. Open loop each row starts where the one before ended, so errors add up."""
    simulation, rng = Simulation("can", ()), np.random.default_rng(1)
    for seed in range(4):
        steady = np.repeat(rng.uniform(-1, 1, (4, 3)), 5, axis=0)
        wave = np.sin(2 * np.pi * 0.05 * np.arange(20)[:, None] * rng.uniform(0.3, 1, 3) + rng.uniform(0, 6, 3))
        rows = ACTION_SCALE[0] * (steady if seed % 2 else wave) * (1.0, 1.0, 0.5)
        rows[:, [0, 2]] = np.abs(rows[:, [0, 2]])  # away from the elbow's limit
        simulation.reset(seed)
        path = [simulation.observe(images=False)[EEF_POS]]
        for row in rows:
            simulation.step(np.concatenate((row, np.zeros(4))))
            path.append(simulation.observe(images=False)[EEF_POS])
        model = critically_damped(rows, path[0], STIFFNESS)
        errors = np.linalg.norm(model - path, axis=1)
        length = float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())
        assert length > 0.1
        assert errors.max() < 0.075 * length
        assert np.linalg.norm(np.diff(model - path, axis=0), axis=1).max() < 0.003
        wrong = critically_damped(rows, path[0], 0.5 * STIFFNESS)
        assert np.linalg.norm(wrong - path, axis=1).max() > 0.12 * length
    simulation.close()


# -- its description --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["seven", "six"])
def test_the_description_has_the_simulators_kinematics(which: str, request: pytest.FixtureRequest) -> None:
    arm = request.getfixturevalue(which)
    import mujoco  # once the arm has chosen how to draw

    names = UR_JOINTS if which == "six" else [f"fr3_joint{i}" for i in range(1, 8)]
    text = arm_description(arm, names, base="base", tool="tcp")
    # MuJoCo joins fixed links into one unless told otherwise.
    kept = text.replace("<link", '<mujoco><compiler fusestatic="false" discardvisual="false"/></mujoco><link', 1)
    model = mujoco.MjModel.from_xml_string(kept)
    data = mujoco.MjData(model)
    fingers = list(arm.simulation.joint_names[7:])
    assert [model.joint(i).name for i in range(model.njnt)] == [*names, *fingers]
    count = len(names)
    np.testing.assert_allclose(model.jnt_range[:count], arm.limits, atol=1e-9)
    rng = np.random.default_rng(0)
    for _ in range(20):
        positions = rng.uniform(*arm.limits.T)
        data.qpos[:count] = positions
        mujoco.mj_kinematics(model, data)
        position, quaternion = arm.pose_of(positions)
        np.testing.assert_allclose(data.body("tcp").xpos, position, atol=1e-6)
        assert angle(np.array(data.body("tcp").xquat)[[1, 2, 3, 0]], quaternion) < 1e-6
    with pytest.raises(ValueError, match="joint names a: expected"):
        arm_description(arm, ["a"])


# -- what drivers refuse ----------------------------------------------------------------------------------------------


def test_drivers_refuse_in_their_words() -> None:
    rules = driver_rules
    assert not rules.one_publisher("target_pose", 1)
    assert "2 publishers on target_pose" in rules.one_publisher("target_pose", 2)
    assert not rules.frame("base", "base")
    assert "expected 'base'" in rules.frame("/base", "base")
    assert not rules.numbers("target", [0.0, 1.0])
    assert "nan or inf" in rules.numbers("target", [0.0, np.nan])
    assert not rules.forward_command([0.0] * 6, 6)
    assert "(7) does not match number of joints (6)" in rules.forward_command([0.0] * 7, 6)


def test_servo_refuses_in_its_words() -> None:
    now, rule = 10_000_000_000, driver_rules.servo
    assert not rule(driver_rules.TWIST, driver_rules.TWIST, "base", now - 99_999_999, now)
    assert "stale" in rule(driver_rules.TWIST, driver_rules.TWIST, "base", now - 100_000_000, now)
    assert "stale" in rule(driver_rules.TWIST, driver_rules.TWIST, "base", 0, now)
    assert "has not been set" in rule(driver_rules.TWIST, None, "base", now, now)
    assert "switch_command_type" in rule(driver_rules.TWIST, driver_rules.POSE, "base", now, now)
    assert "frame_id" in rule(driver_rules.POSE, driver_rules.POSE, "", now, now)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, ""),
        ({"names": ["b", "a"]}, ""),
        ({"names": ["a"]}, "expected a, b"),
        ({"names": ["a", "c"]}, "expected a, b"),
        ({"times_ns": [], "lengths": []}, "empty trajectory"),
        ({"times_ns": [2, 2]}, "not strictly increasing"),
        ({"lengths": [(2, 2, 0, 0), (1, 2, 0, 0)]}, "point 1 has 1 positions"),
        ({"lengths": [(2, 1, 0, 0), (2, 2, 0, 0)]}, "point 0 has 1 velocities"),
        ({"lengths": [(2, 2, 0, 2), (2, 2, 0, 2)]}, "effort"),
        ({"last_velocities": [0.0, 0.1]}, "velocity of the last trajectory point is not zero"),
        ({"last_velocities": [0.0, 0.1], "allow_nonzero_velocity_at_end": True}, ""),
        ({"start_ns": 500, "now_ns": 503}, "in the past"),
        ({"start_ns": 500, "now_ns": 502}, ""),
    ],
)
def test_a_trajectory_controller_refuses_in_its_words(change: dict[str, object], message: str) -> None:
    good: dict[str, object] = {
        "names": ["a", "b"],
        "joints": ["a", "b"],
        "times_ns": [1, 2],
        "lengths": [(2, 2, 0, 0), (2, 2, 0, 0)],
        "last_velocities": [0.0, 0.0],
        "start_ns": 0,
        "now_ns": 1000,
    }
    reason = driver_rules.trajectory(**{**good, **change})  # type: ignore[arg-type]
    assert message in reason and bool(reason) == bool(message)
