"""What each driver makes of commands: where the arm goes, what is refused and counted, what was commanded."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from diffusion_ros.simulators.arm_driver import ArmDriver, CommandedMotion, Refused
from diffusion_ros.simulators.driven_arm import DrivenArm, Pose

Array = NDArray[np.float64]
JOINTS = [f"joint{i}" for i in range(7)]
OUTPUTS = {
    "crisp": "pose",
    "fci": "pose",
    "servo": "twist",
    "jtc": "joint_trajectory",
    "forward": "joint_positions",
    "kortex": "twist",
}
TURNED = (np.array((0.1, 0.0, 0.0)), Rotation.from_euler("z", 90, degrees=True).as_quat())


@pytest.fixture(scope="module")
def arm() -> Iterator[DrivenArm]:
    """Its base is turned by a quarter, so that no axis stands for another."""
    made = DrivenArm("can", base=TURNED, cameras=())
    yield made
    made.close()


def driver(arm: DrivenArm, name: str, output: str = "") -> ArmDriver:
    arm.reset(3)
    made = ArmDriver(arm, name, output or OUTPUTS[name], "base", "tool", JOINTS, 50.0)
    arm.advance(50)
    made.restart()
    return made


def moved(arm: DrivenArm, start: Pose) -> Array:
    return np.asarray(arm.measured_pose()[0] - start[0])


def solved(arm: DrivenArm, step: Array) -> Array:
    """Joint positions (n,) that move the tool by a step (3) m, by Newton's method."""
    at = arm.joint_positions()
    goal = arm.pose_of(at)
    for _ in range(8):
        position, quaternion = arm.pose_of(at)
        turn = (Rotation.from_quat(goal[1]) * Rotation.from_quat(quaternion).inv()).as_rotvec()
        error = np.concatenate((goal[0] + step - position, turn))
        at = at + np.linalg.pinv(arm.jacobian_of(at)) @ error
    return at


STEP = np.array((0.0, 0.04, 0.02))


@pytest.mark.parametrize("name", ["crisp", "fci"])
def test_pose_targets_are_reached(arm: DrivenArm, name: str) -> None:
    made, start = driver(arm, name), arm.measured_pose()
    for i in range(25):
        made.pose("base", arm.time_ns, (start[0] + STEP * (i + 1) / 25).tolist(), start[1].tolist())
        arm.advance(10)
    arm.advance(500)
    np.testing.assert_allclose(moved(arm, start), STEP, atol=0.002)
    np.testing.assert_allclose(made.setpoint()[0], start[0] + STEP)
    report = made.motion.report()
    speed = float(np.linalg.norm(STEP)) / 0.5
    assert report["commands"] == 25
    assert report["max_linear_speed"] == pytest.approx(speed, rel=0.01)
    assert report["largest_step"] == pytest.approx(speed * 0.02, rel=0.01)
    assert report["largest_jump"] == pytest.approx(speed * 0.02, rel=0.01)  # from rest, at once
    # A target that is told again is no motion.
    made.pose("base", arm.time_ns, (start[0] + STEP).tolist(), start[1].tolist())
    assert made.motion.report()["largest_step"] == report["largest_step"]


def test_servo_moves_by_twists_in_the_frame_that_they_name(arm: DrivenArm) -> None:
    made, start = driver(arm, "servo"), arm.measured_pose()
    for frame, sign in (("base", 1.0), ("tool", -1.0)):
        velocity = sign * 2.0 * STEP
        if frame == "tool":
            velocity = Rotation.from_quat(arm.measured_pose()[1]).inv().apply(velocity)
        for _ in range(25):
            made.twist(frame, arm.time_ns, [*velocity, 0.0, 0.0, 0.0])
            arm.advance(10)
        arm.advance(150)
        # Back where it was after the second one; a command is obeyed for 0.1 s after the last.
        wanted = 1.2 * STEP if frame == "base" else 0.0 * STEP
        np.testing.assert_allclose(moved(arm, start), wanted, atol=0.004)
    assert made.motion.linear == pytest.approx(2.0 * np.linalg.norm(STEP))
    assert made.status == 0


def test_servo_refuses_what_is_old_or_has_no_frame(arm: DrivenArm) -> None:
    made, start = driver(arm, "servo"), arm.measured_pose()
    twist = [0.1, 0.0, 0.0, 0.0, 0.0, 0.0]
    for _ in range(10):
        with pytest.raises(Refused, match=r"command is 0\.100 s old: at 0\.1 s it is stale"):
            made.twist("base", arm.time_ns - 100_000_000, twist)
        with pytest.raises(Refused, match="stale"):
            made.twist("base", 0, twist)
        arm.advance(10)
    for frame, reason in (("", "without frame_id"), ("camera", "frame 'camera': no transform to 'base'")):
        with pytest.raises(Refused, match=reason):
            made.twist(frame, arm.time_ns, twist)
    with pytest.raises(Refused, match="nan or inf"):
        made.twist("base", arm.time_ns, [float("nan"), *twist[1:]])
    with pytest.raises(Refused, match="a command of type 2 came while 1 is active"):
        made.pose("base", arm.time_ns, start[0].tolist(), start[1].tolist())
    np.testing.assert_allclose(moved(arm, start), 0.0, atol=1e-4)
    assert sum(made.refused.values()) == 24
    assert made.refused["servo: command is 0.100 s old: at 0.1 s it is stale, halting"] == 20, "with its first reason"
    made.restart()
    assert made.refused == {}


def test_servo_goes_to_poses_no_faster_than_its_cap(arm: DrivenArm) -> None:
    made, start = driver(arm, "servo", "pose"), arm.measured_pose()
    goal = start[0] + (0.0, 0.2, 0.0)
    for i in range(60):
        made.pose("base", arm.time_ns, goal.tolist(), start[1].tolist())
        arm.advance(10)
        if i == 14:
            assert moved(arm, start)[1] < 0.4 * 0.3
    np.testing.assert_allclose(moved(arm, start), (0.0, 0.2, 0.0), atol=0.003)


def test_servo_slows_down_towards_a_singularity_as_it_is_configured(arm: DrivenArm) -> None:
    """Straight out, until the elbow is stretched."""
    reached = []
    for limits in (None, (100.0, 200.0)):
        arm.reset(3)
        made = ArmDriver(arm, "servo", "twist", "base", "tool", JOINTS, 50.0, servo_singularity=limits)
        start = arm.measured_pose()
        out = start[0] / np.linalg.norm(start[0])
        seen = set()
        for _ in range(150):
            made.twist("base", arm.time_ns, [*(0.15 * out), 0.0, 0.0, 0.0])
            arm.advance(10)
            seen.add(made.status)
        assert 1 in seen
        reached.append(float(moved(arm, start) @ out))
    assert reached[0] < reached[1] - 0.01


def test_kortex_moves_in_the_tools_axes_until_it_is_told_otherwise(arm: DrivenArm) -> None:
    made, start = driver(arm, "kortex"), arm.measured_pose()
    velocity = Rotation.from_quat(start[1]).inv().apply(0.1 * STEP)
    made.twist("", 0, [*velocity, 0.0, 0.0, 0.0])
    arm.advance(1000)
    made.twist("", 0, [0.0] * 6)
    arm.advance(100)
    np.testing.assert_allclose(moved(arm, start), 0.2 * STEP, atol=0.001)


def trajectory(made: ArmDriver, rows: Array, **changes: object) -> None:
    """A row each 20 ms from now on."""
    many = len(rows)
    still: list[list[float]] = [[]] * many
    values: dict[str, object] = {
        "names": JOINTS,
        "start_ns": 0,
        "times_ns": [20_000_000 * (i + 1) for i in range(many)],
        "positions": rows.tolist(),
        "velocities": still,
        "accelerations": still,
        "efforts": still,
        **changes,
    }
    made.trajectory(**values)  # type: ignore[arg-type]


def watched(made: ArmDriver, steps: int) -> None:
    for _ in range(steps):
        made.arm.step()
        made.watch()


def test_trajectories_are_followed_by_the_joints_names(arm: DrivenArm) -> None:
    made, start = driver(arm, "jtc"), arm.measured_pose()
    at, goal = arm.joint_positions(), solved(arm, STEP)
    rows = at + (goal - at) * np.linspace(0.04, 1.0, 25)[:, None]
    watched(made, 5)
    trajectory(made, rows[:, ::-1], names=JOINTS[::-1])
    watched(made, 10)
    # From rest to its speed at once, as there are no velocities in it; seen each 10 ms.
    speed = 2 * float(np.linalg.norm(STEP))
    assert made.motion.jump == pytest.approx(0.01 * speed, rel=0.05)
    made.motion.jump = 0.0
    trajectory(made, rows[1:])  # a new one, that goes on where the first would
    watched(made, 200)
    assert made.motion.jump < 1e-4
    watched(made, 150)
    np.testing.assert_allclose(moved(arm, start), STEP, atol=0.002)
    assert made.motion.report()["max_linear_speed"] == pytest.approx(speed, rel=0.05)
    trajectory(made, solved(arm, 0.5 * STEP)[None])
    watched(made, 20)
    assert made.motion.report()["largest_jump"] == pytest.approx(0.25 * np.linalg.norm(STEP), rel=0.01)


def test_what_a_trajectory_controller_refuses(arm: DrivenArm) -> None:
    made, start = driver(arm, "jtc"), arm.measured_pose()
    rows = np.repeat(solved(arm, STEP)[None], 2, axis=0)
    for changes, reason in (
        ({"names": [*JOINTS[:6], "eef_dx"]}, "expected joint0, joint1"),
        ({"times_ns": [20_000_000, 20_000_000]}, "not strictly increasing"),
        ({"start_ns": arm.time_ns - 1_000_000_000}, r"trajectory ended 0\.960 s in the past"),
        ({"velocities": [[0.0] * 7, [0.1] * 7]}, "velocity of the last trajectory point is not zero"),
        ({"positions": [[float("inf")] * 7] * 2}, "nan or inf"),
        ({"positions": [[0.0] * 6] * 2}, "point 0 has 6 positions: expected 7"),
    ):
        with pytest.raises(Refused, match=reason):
            trajectory(made, rows, **changes)
    arm.advance(100)
    np.testing.assert_allclose(moved(arm, start), 0.0, atol=1e-4)
    assert len(made.refused) == 6


def test_joint_positions_are_taken_as_they_come(arm: DrivenArm) -> None:
    made, start = driver(arm, "forward"), arm.measured_pose()
    at, goal = arm.joint_positions(), solved(arm, STEP)
    for i in range(25):
        made.positions((at + (goal - at) * (i + 1) / 25).tolist())
        arm.advance(10)
    arm.advance(100)
    np.testing.assert_allclose(moved(arm, start), STEP, atol=0.001)
    assert made.motion.linear == pytest.approx(2 * np.linalg.norm(STEP), rel=0.05)
    with pytest.raises(Refused, match=r"command size \(6\) does not match number of joints \(7\)"):
        made.positions([0.0] * 6)
    assert made.refused == {"forward: command size (6) does not match number of joints (7)": 1}


def test_a_foreign_frame_is_crisps_own_and_fcis_no_more(arm: DrivenArm) -> None:
    for name in ("crisp", "fci"):
        made, start = driver(arm, name), arm.measured_pose()
        target = (start[0] + STEP).tolist(), start[1].tolist()
        if name == "crisp":
            made.pose("anything", arm.time_ns, *target)
            continue
        with pytest.raises(Refused, match="target in frame 'anything': expected 'base'"):
            made.pose("anything", arm.time_ns, *target)
        with pytest.raises(Refused, match="norm is 2"):
            made.pose("base", arm.time_ns, target[0], [0.0, 0.0, 0.0, 2.0])


STILL = np.array((0.0, 0.0, 0.0, 1.0))


def test_a_jump_is_what_a_target_leaves_its_course_by() -> None:
    motion = CommandedMotion(0.02)
    motion.restart((np.zeros(3), STILL), 0.0)
    for i in range(1, 5):  # 0.1 m/s, with a clock that trembles
        motion.target((np.array((0.002 * i, 0.0, 0.0)), STILL), 0.02 * i + 0.001 * (-1) ** i, stamped=False)
    assert motion.step == pytest.approx(0.002)
    assert motion.linear == pytest.approx(0.1)
    motion.jump = 0.0
    motion.target((np.array((0.010, 0.007, 0.0)), Rotation.from_euler("z", 0.01).as_quat()), 0.1, stamped=False)
    assert motion.jump == pytest.approx(0.007, rel=0.05)
    assert motion.jump_at == 0.1
    assert motion.angular == pytest.approx(0.5, rel=0.05)


def test_a_speed_is_by_the_targets_own_stamps_and_what_is_late_may_have_waited() -> None:
    motion = CommandedMotion(0.02)
    motion.restart((np.zeros(3), STILL), 0.0)
    for at in (0.001, 0.005, 0.005, 0.025):  # 0.1 m/s, whenever they are from; two at once
        motion.target((np.array((0.1 * at, 0.0, 0.0)), STILL), at)
    assert motion.linear == pytest.approx(0.1)
    assert motion.jump == pytest.approx(0.0001)  # at the start
    for at, x in ((0.065, 0.0045), (0.105, 0.0085)):  # two periods later as far as in one, and as far as in two
        motion.target((np.array((x, 0.0, 0.0)), STILL), at)
        assert motion.linear == pytest.approx(0.1) and motion.jump == pytest.approx(0.0001)
    motion.target((np.array((0.0145, 0.0, 0.0)), STILL), 0.145)  # and as in three
    assert motion.linear == pytest.approx(0.15)
    assert motion.jump == pytest.approx(0.002)
