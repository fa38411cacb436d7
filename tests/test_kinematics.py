"""Forward and inverse kinematics of arms given by their URDF."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from diffusion_ros.control.kinematics import MARGIN, SINGULAR, Arm
from diffusion_ros.control.urdf import MAX_CHARACTERS

HALF = np.pi / 2
Row = tuple[Sequence[float], Sequence[float], float, float, float]


def words(numbers: Sequence[float]) -> str:
    return " ".join(repr(float(x)) for x in numbers)


def joint(name: str, parent: str, child: str, xyz: Sequence[float], rpy: Sequence[float], rest: str, kind: str) -> str:
    origin = f'<origin xyz="{words(xyz)}" rpy="{words(rpy)}"/>'
    links = f'<parent link="{parent}"/><child link="{child}"/>'
    return f'<link name="{child}"/><joint name="{name}" type="{kind}">{links}{origin}{rest}</joint>'


def urdf(rows: Sequence[Row], tool: Sequence[float]) -> str:
    """Joints joint1.. about z, each by origin xyz, rpy, lower, upper, velocity; links link0.. and tool. Around them
    what drivers' descriptions have."""
    text = ['<?xml version="1.0"?><robot name="arm"><link name="world"/>']
    text += [joint("mount", "world", "link0", (0.3, 0, 0.5), (0, 0, 1), "", "fixed")]
    text += [joint("table_mount", "world", "table", (0.2, -0.1, 0.4), (0.3, -0.2, 0.1), "", "fixed")]
    text += [joint("turned", "link0", "base", (0, 0, 0), (0, 0, np.pi), "", "fixed")]
    for i, (xyz, rpy, low, high, speed) in enumerate(rows, 1):
        limit = f'<axis xyz="0 0 1"/><limit lower="{low}" upper="{high}" effort="80" velocity="{speed}"/>'
        text += [joint(f"joint{i}", f"link{i - 1}", f"link{i}", xyz, rpy, limit, "revolute")]
    last = f"link{len(rows)}"
    text += [joint("flange", last, "tool", tool, (0, 0, -np.pi / 4), "", "fixed")]
    limit = '<axis xyz="0 1 0"/><limit lower="0" upper="0.04" effort="20" velocity="0.2"/>'
    text += [joint("finger1", "tool", "left", (0, 0, 0.06), (0, 0, 0), limit, "prismatic")]
    # Limits of zeros, as drivers' descriptions have for what is not moved by itself.
    mimic = '<axis xyz="0 1 0"/><limit lower="0" upper="0" effort="0" velocity="0"/><mimic joint="finger1"/>'
    text += [joint("finger2", "tool", "right", (0, 0, 0.06), (0, 0, np.pi), mimic, "prismatic")]
    text += [
        joint("bracket", "tool", "bracket", (0.05, 0, 0), (0, 0, 0), "", "fixed"),
        joint("lens", "bracket", "camera", (0.01, 0, 0), (0, 0, 0), "", "fixed").replace(
            '<link name="camera"/>',
            '<link name="camera"><visual><geometry><mesh filename="package://none/camera.dae"/></geometry></visual>'
            '<collision><geometry><mesh filename="/etc/passwd"/></geometry></collision>'
            '<inertial><mass value="0"/><inertia ixx="0" ixy="0" ixz="0" iyy="0" iyz="0" izz="-1"/></inertial></link>',
        ),
        '<transmission name="t"><type>x</type><joint name="joint1"><hardwareInterface>y</hardwareInterface></joint>'
        '</transmission><ros2_control name="c" type="system"><hardware><plugin>none/None</plugin></hardware>'
        '<joint name="joint1"><command_interface name="position"/></joint></ros2_control>'
        '<gazebo><plugin filename="libnone.so"/></gazebo><include filename="file:///etc/passwd"/>'
        '<mujoco><compiler meshdir="/"/><include file="/etc/passwd"/></mujoco></robot>',
    ]
    return "".join(text)


def six() -> str:
    """An arm of the kind of Universal Robots' UR5e, by its Denavit-Hartenberg numbers."""
    places = [(0, 0, 0), (0, 0, 0.1625), (-0.425, 0, 0), (-0.3922, 0, 0), (0, 0, 0.1333), (0, 0, 0.0997)]
    turns = [0, HALF, 0, 0, HALF, -HALF]
    ends = [2 * np.pi, 2 * np.pi, np.pi, 2 * np.pi, 2 * np.pi, 2 * np.pi]
    rows = [(xyz, (a, 0, 0), -end, end, np.pi) for xyz, a, end in zip(places, turns, ends, strict=True)]
    return urdf(rows, (0, 0, 0.0996))


def seven() -> str:
    """An arm of the kind of Franka's FR3, by its (modified) Denavit-Hartenberg numbers and limits."""
    numbers = [
        *((0, 0.333, 0), (0, 0, -HALF), (0, 0.316, HALF), (0.0825, 0, HALF)),
        *((-0.0825, 0.384, -HALF), (0, 0, HALF), (0.088, 0, HALF)),
    ]
    low = [-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159]
    high = [2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159]
    speed = [2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26]
    rows = [
        ((a, -d * np.sin(alpha), d * np.cos(alpha)), (alpha, 0, 0), *ends)
        for (a, d, alpha), *ends in zip(numbers, low, high, speed, strict=True)
    ]
    return urdf(rows, (0, 0, 0.2104))


def odd() -> str:
    """A slide, a joint without an end and one about an axis of no unit length, turned every way."""
    parts = [
        joint("a", "root", "A", (0.1, -0.2, 0.3), (0.4, -0.5, 0.6), '<axis xyz="0.6 -0.8 0"/>', "continuous"),
        joint("fixed", "A", "B", (0, 0.1, 0), (-1, 2, -3), "", "fixed"),
        joint(
            *("b", "B", "C", (0.2, 0, 0.1), (0.1, 0.2, 0.3)),
            *('<axis xyz="1 2 3"/><limit lower="-0.5" upper="0.5" effort="1"/>', "prismatic"),
        ),
        joint("c", "C", "D", (0, 0, 0.2), (1, 1, 1), '<limit lower="-1" upper="2"/>', "revolute"),
    ]
    return '<robot name="odd"><link name="root"/>' + "".join(parts) + "</robot>"


NAMES = {6: [f"joint{i}" for i in range(1, 7)], 7: [f"joint{i}" for i in range(1, 8)], 3: ["a", "b", "c"]}
TEXTS = {6: six(), 7: seven(), 3: odd()}
HOME = {6: np.array([0.0, -1.2, 1.6, -1.9, -1.5, 0.3]), 7: np.array([0.0, -0.5, 0.0, -2.2, 0.0, 1.8, 0.8])}


def arm(n: int, base: str = "base", tool: str = "tool") -> Arm:
    return Arm.from_urdf(TEXTS[n], NAMES[n], *(("", "D") if n == 3 else (base, tool)))


def within(of: Arm, rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.uniform(np.maximum(of.low, -np.pi) + 2 * MARGIN, np.minimum(of.high, np.pi) - 2 * MARGIN)


def about(axis: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    """Rodrigues' formula."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def placed(text: str, q: dict[str, float], link: str) -> NDArray[np.float64]:
    """(4, 4): a link in the URDF's root, as a product of its joints' matrices."""
    joints = {element.find("child").attrib["link"]: element for element in ET.fromstring(text).findall("joint")}
    result = np.eye(4)
    while link in joints:
        element = joints[link]
        origin = element.find("origin").attrib
        roll, pitch, yaw = map(float, origin["rpy"].split())
        x, y, z = np.eye(3)
        here = np.eye(4)
        here[:3, :3] = about(z, yaw) @ about(y, pitch) @ about(x, roll)
        here[:3, 3] = [float(v) for v in origin["xyz"].split()]
        moved = np.eye(4)
        axis = element.find("axis")
        along = np.array([float(v) for v in (axis.attrib["xyz"] if axis is not None else "1 0 0").split()])
        value = q.get(element.attrib["name"], 0.0)
        if element.attrib["type"] == "prismatic":
            moved[:3, 3] = value * along / np.linalg.norm(along)
        elif element.attrib["type"] != "fixed":
            moved[:3, :3] = about(along, value)
        result = here @ moved @ result
        link = element.find("parent").attrib["link"]
    return result


def differ(of: Arm, q: NDArray[np.float64], position: NDArray[np.float64], quaternion: NDArray[np.float64]) -> tuple:
    """Metres and radians between the tool at q and a pose."""
    at, turned = of.forward(q)
    angle = (Rotation.from_quat(quaternion) * Rotation.from_quat(turned).inv()).magnitude()
    return np.linalg.norm(position - at), angle


@pytest.mark.parametrize("n", [3, 6, 7])
def test_forward_is_the_product_of_the_joints_matrices(n: int) -> None:
    of = arm(n)
    base, tool = ("root", "D") if n == 3 else ("base", "tool")
    rng = np.random.default_rng(n)
    for _ in range(50):
        q = within(of, rng)
        named = dict(zip(NAMES[n], q, strict=True))
        expected = np.linalg.inv(placed(TEXTS[n], named, base)) @ placed(TEXTS[n], named, tool)
        position, quaternion = of.forward(q)
        np.testing.assert_allclose(position, expected[:3, 3], atol=1e-12)
        np.testing.assert_allclose(Rotation.from_quat(quaternion).as_matrix(), expected[:3, :3], atol=1e-12)


def test_base_and_tool_are_any_links_and_joints_in_any_order() -> None:
    q = HOME[7]
    named = dict(zip(NAMES[7], q, strict=True))
    with pytest.raises(ValueError, match=r"joint 'finger1' is between 'base' and 'left', and not among the joints"):
        Arm.from_urdf(TEXTS[7], NAMES[7], "base", "left")
    # The right finger's joint mimics that of the left.
    for base, tool in (("", "bracket"), ("world", "link7"), ("link0", "right"), ("table", "tool")):
        expected = np.linalg.inv(placed(TEXTS[7], named, base or "world")) @ placed(TEXTS[7], named, tool)
        np.testing.assert_allclose(arm(7, base, tool).forward(q)[0], expected[:3, 3], atol=1e-12)
    back = Arm.from_urdf(TEXTS[7], NAMES[7][::-1], "base", "tool")
    assert back.joints == tuple(NAMES[7][::-1])
    for mine, other in zip(back.forward(q[::-1]), arm(7).forward(q), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-15)
    np.testing.assert_allclose(back.jacobian(q[::-1]), arm(7).jacobian(q)[:, ::-1], atol=1e-15)
    np.testing.assert_array_equal(back.low, arm(7).low[::-1])


@pytest.mark.parametrize("n", [3, 6, 7])
def test_the_jacobian_is_that_of_small_differences(n: int) -> None:
    of = arm(n)
    rng = np.random.default_rng(10 + n)
    for _ in range(20):
        q = within(of, rng)
        columns = []
        for step in 1e-6 * np.eye(n):
            (before, turned), (after, to) = of.forward(q - step), of.forward(q + step)
            turn = (Rotation.from_quat(to) * Rotation.from_quat(turned).inv()).as_rotvec()
            columns.append(np.concatenate([after - before, turn]) / 2e-6)
        np.testing.assert_allclose(of.jacobian(q), np.transpose(columns), atol=1e-8)
    np.testing.assert_allclose(of.singular_values(q), np.linalg.svd(np.transpose(columns))[1], atol=1e-8)


def test_limits_and_speeds_are_the_urdfs() -> None:
    of = arm(3)
    np.testing.assert_array_equal(of.low, [-np.inf, -0.5, -1])
    np.testing.assert_array_equal(of.high, [np.inf, 0.5, 2])
    np.testing.assert_array_equal(of.rest, [0, 0, 0.5])
    assert np.isinf(of.speeds).all() and arm(7).speeds[5] == 4.18
    assert of.outside([100, 0.5, 2]) == ""
    assert of.outside([100, 0.5, 2.1]) == "joint 'c' is at 2.1, -1 to 2 expected"


@pytest.mark.parametrize("n", [6, 7])
def test_solve_finds_poses_from_near_and_far(n: int) -> None:
    of = arm(n)
    rng = np.random.default_rng(20 + n)
    missed = {0.1: 0, 0.3: 0, 1.0: 0}
    for off in missed:
        for _ in range(100):
            q = within(of, rng)
            target = of.forward(q)
            q0 = np.clip(q + rng.uniform(-off, off, n), of.low, of.high)
            found = of.solve(*target, q0)
            assert of.outside(found.q) == ""
            position, angle = differ(of, found.q, *target)
            assert position == pytest.approx(found.position_error, abs=1e-9)
            assert angle == pytest.approx(found.angle_error, abs=1e-6)
            assert (found.reason == "") == (found.cause == "") == (position <= 1e-4 and angle <= 1e-3)
            missed[off] += found.reason != ""
    assert missed[0.1] == missed[0.3] == 0
    assert missed[1.0] <= 15, "of 100 from a radian away, without another start"


def test_a_redundant_arm_goes_to_its_rest_without_moving_the_tool() -> None:
    of = arm(7)
    of.rest = HOME[7] + [0.6, 0, 0, 0, 0, 0, 0]
    target = of.forward(HOME[7])
    q = HOME[7]
    for _ in range(400):
        found = of.track(*target, q, 0.02)
        assert found.reason == "" and found.position_error < 1e-5
        q = found.q
    assert np.linalg.norm(q - of.rest) < np.linalg.norm(HOME[7] - of.rest) - 0.05
    # What is left of the way would move the tool.
    free = np.linalg.svd(of.jacobian(q))[2][6]
    assert abs(free @ (of.rest - q)) < 0.02


@pytest.mark.parametrize("n", [6, 7])
def test_a_few_millimetres_are_tracked_in_a_step(n: int) -> None:
    of = arm(n)
    rng = np.random.default_rng(30 + n)
    for _ in range(200):
        q = within(of, rng)
        if of.singular_values(q)[-1] < 2 * SINGULAR:
            continue
        position, quaternion = of.forward(q)
        way = rng.normal(size=3)
        found = of.track(position + 0.003 * way / np.linalg.norm(way), quaternion, q, 0.02, 5.0)
        assert found.position_error < 5e-4 or found.cause == "speed"
        assert found.position_error < 3e-3


@pytest.mark.parametrize("n", [pytest.param(6, marks=pytest.mark.slow), 7])  # 6 joints: every other test
def test_a_long_stream_is_smooth_and_exact(n: int) -> None:
    of = arm(n)
    home, quaternion = of.forward(HOME[n])
    q = HOME[n]
    most = 0.02 * 1.0
    worst = 0.0
    for i in range(3000):
        t = 0.02 * i
        part = min(1.0, t / 3)
        position = home + part * np.array([0.1 * np.sin(0.5 * t), 0.12 * np.sin(0.8 * t), 0.08 * np.sin(0.3 * t)])
        turn = Rotation.from_rotvec(part * np.array([0.2 * np.sin(0.4 * t), 0.3 * np.sin(0.6 * t), 0.0]))
        target = position, (turn * Rotation.from_quat(quaternion)).as_quat()
        found = of.track(*target, q, 0.02, 1.0)
        assert found.reason == "" and (abs(found.q - q) <= most + 1e-12).all() and of.outside(found.q) == ""
        worst = max(worst, differ(of, found.q, *target)[0])
        q = found.q
    assert worst < 1e-4


def test_a_jump_of_the_target_is_followed_at_the_joints_speeds() -> None:
    of = arm(7)
    position, quaternion = of.forward(HOME[7])
    target = position + [0.1, 0.1, -0.1]
    q = HOME[7]
    causes = []
    for _ in range(500):
        found = of.track(target, quaternion, q, 0.02, [0.5] * 6 + [0.1])
        assert (abs(found.q - q) <= 0.02 * np.array([0.5] * 6 + [0.1]) + 1e-12).all()
        causes.append(found.cause)
        q = found.q
    assert causes[0] == "speed" and causes[-1] == ""
    # All slow down together, so that the tool goes straight.
    of.rest = HOME[7]
    first = of.track(target, quaternion, HOME[7], 0.02, [0.5] * 6 + [0.05])
    way, aim = of.forward(first.q)[0] - position, target - position
    assert way @ aim > 0.999 * np.linalg.norm(way) * np.linalg.norm(aim) > 0
    assert re.fullmatch(
        r"0\.\d{4} m and \d\.\d{3} rad off the target: joint 'joint\d' is at its speed limit", first.reason
    )


@pytest.mark.parametrize("stretched", [[0.0, -1.2, 0.0, 0.5, -1.5, 0.3], [0.3, -1.2, 1.6, -1.9, 0.0, 0.3]])
def test_through_a_singular_posture_joints_keep_their_speeds(stretched: list[float]) -> None:
    """A UR's elbow stretched, and its wrist with axes 4 and 6 in line."""
    of = arm(6)
    start = np.array(stretched) + [0, 0, 0.4 * (stretched[2] == 0), 0, 0.3 * (stretched[4] == 0), 0]
    assert of.singular_values(stretched)[-1] < 1e-3 < SINGULAR < 2 * of.singular_values(start)[-1]
    ends = of.forward(start), of.forward(np.array(stretched) * 2 - start)
    beyond = 0.1 * (of.forward(stretched)[0] - of.forward(start)[0]) / 0.1
    turns = Rotation.from_quat(ends[0][1]), Rotation.from_quat(ends[1][1])
    q = start
    speeds, smallest = [], []
    for part in np.linspace(0, 1, 200):
        if stretched[2] == 0:  # straight on, out of reach
            target = ends[0][0] + part * 3 * beyond, ends[0][1]
        else:
            turn = turns[0] * Rotation.from_rotvec(part * (turns[0].inv() * turns[1]).as_rotvec())
            target = ends[0][0] + part * (ends[1][0] - ends[0][0]), turn.as_quat()
        found = of.track(*target, q, 0.02, 1.5)
        speeds.append(abs(found.q - q).max() / 0.02)
        smallest.append(found.smallest_singular_value)
        assert found.condition == pytest.approx(of.singular_values(found.q)[0] / smallest[-1])
        q = found.q
    assert min(smallest) < SINGULAR
    assert max(speeds) <= 1.5 + 1e-9
    if stretched[2] == 0:
        assert found.cause == "singular" and "smallest singular value" in found.reason
        assert max(speeds[-20:]) < 0.2, "it rests where the arm ends"
    else:
        assert found.position_error < 5e-3


def test_from_a_singular_posture_nothing_jumps() -> None:
    of = arm(6)
    q = np.array([0.0, -1.2, 0.0, 0.5, -1.5, 0.3])
    position, quaternion = of.forward(q)
    towards = -position / np.linalg.norm(position)
    for _ in range(100):
        found = of.track(position + 0.1 * towards, quaternion, q, 0.02, 1.0)
        assert (abs(found.q - q) <= 0.02 + 1e-12).all()
        q = found.q


@pytest.mark.parametrize("dt", [0.01, 0.05])
def test_an_elbow_that_was_stretched_bends_the_way_that_it_came(dt: float) -> None:
    """Beyond its singular posture a Panda's elbow has some 20 degrees left, and there it would stay at its limit. With
    joint 3 fixed, as a redundant arm finds its way round."""
    text = TEXTS[7].replace('<joint name="joint3" type="revolute">', '<joint name="joint3" type="fixed">')
    of = Arm.from_urdf(text, [name for name in NAMES[7] if name != "joint3"], "base", "tool")
    q = of.rest = np.delete(HOME[7], 2)
    home, quaternion = of.forward(q)
    rng = np.random.default_rng(0)
    at = home
    for _ in range(8):
        # Out of reach, to and fro there, and back.
        for goal in (*(home + rng.uniform(-1, 1, (3, 3)) * [0.1, 0.4, 0.2] - [0.4, 0, 0]), home):
            for point in np.linspace(at, goal, 1 + int(np.linalg.norm(goal - at) / (0.4 * dt))):
                q = of.track(point, quaternion, q, dt, 2.0).q
                assert q[2] < -0.3, "stretched at -0.47"
            at = goal
        for _ in range(int(1 / dt)):
            found = of.track(home, quaternion, q, dt, 2.0)
            q = found.q
        assert found.position_error < 1e-4


@pytest.mark.parametrize("n", [6, 7])
def test_a_target_out_of_reach_is_said_to_be(n: int) -> None:
    of = arm(n)
    quaternion = of.forward(HOME[n])[1]
    far = of.solve([2.0, 0.5, 0.5], quaternion, HOME[n])
    assert far.cause in ("singular", "limit") and of.outside(far.q) == "" and far.position_error > 0.9
    assert re.match(r"\d\.\d{4} m and \d\.\d{3} rad off the target: ", far.reason) and "\n" not in far.reason


def test_a_joint_at_its_limit_is_named() -> None:
    of = arm(3)
    wide = Arm.from_urdf(TEXTS[3].replace('upper="0.5"', 'upper="1"'), NAMES[3], "", "D")
    start = np.array([0.3, 0.2, 0.1])
    target = wide.forward([0.3, 0.8, 0.1])
    found = of.solve(*target, start)
    assert found.cause == "limit" and found.reason.endswith("joint 'b' is at its limit of 0.5")
    assert of.high[1] - MARGIN <= found.q[1] <= of.high[1]
    assert wide.solve(*target, start).reason == ""
    q = start
    for _ in range(100):
        found = of.track(*target, q, 0.02, 1.0)
        assert of.outside(found.q) == "" and (abs(found.q - q) <= 0.02 + 1e-12).all()
        q = found.q
    assert found.cause == "limit" and found.reason.endswith("joint 'b' is at its limit of 0.5")


def test_a_stream_against_the_limits_never_leaves_them() -> None:
    of = arm(7)
    position, quaternion = of.forward(HOME[7])
    q = HOME[7]
    causes = set()
    for i in range(800):
        turned = Rotation.from_quat(quaternion) * Rotation.from_rotvec([0.01 * i, 0, min(4.0, 0.02 * i)])
        found = of.track(position, turned.as_quat(), q, 0.02, 1.5)
        assert of.outside(found.q) == "" and (abs(found.q - q) <= 0.03 + 1e-12).all()
        causes.add(found.cause)
        q = found.q
    assert "limit" in causes


def test_an_arm_beyond_its_limit_comes_back_at_its_speed() -> None:
    of = arm(7)
    q = HOME[7].copy()
    q[3] = of.high[3] + 0.1
    target = of.forward(HOME[7])
    assert of.outside(of.solve(*target, q).q) == ""
    for _ in range(100):
        found = of.track(*target, q, 0.02, 0.5)
        assert (abs(found.q - q) <= 0.01 + 1e-12).all()
        q = found.q
    assert of.outside(q) == ""


def test_a_target_that_is_no_pose_moves_nothing() -> None:
    of = arm(7)
    position, quaternion = of.forward(HOME[7])
    for wrong, line in (
        ((position * np.nan, quaternion), "finite numbers expected"),
        ((position, quaternion * np.inf), "finite numbers expected"),
        ((position, quaternion * 2), "has length 2, 1 expected"),
        ((position, quaternion * 0), "has length 0, 1 expected"),
    ):
        for found in (of.solve(*wrong, HOME[7]), of.track(*wrong, HOME[7], 0.02)):
            assert found.cause == "target" and line in found.reason and np.isnan(found.position_error)
            np.testing.assert_array_equal(found.q, HOME[7])


def test_wrong_arguments_are_refused() -> None:
    of = arm(7)
    pose = of.forward(HOME[7])
    with pytest.raises(ValueError, match=r"q has shape \(6,\), \(7,\) expected: joint1, joint2"):
        of.forward(HOME[7][:6])
    with pytest.raises(ValueError, match=r"q_last is \[nan, .*finite numbers expected"):
        of.track(*pose, np.full(7, np.nan), 0.02)
    with pytest.raises(ValueError, match=r"dt is 0\.0, more than 0 s expected"):
        of.track(*pose, HOME[7], 0.0)
    with pytest.raises(ValueError, match=r"max_joint_speed is -1\.0, one or 7 above 0 expected"):
        of.track(*pose, HOME[7], 0.02, -1.0)
    with pytest.raises(ValueError, match=r"a target of shapes \(2,\) and \(4,\), \(3,\) and \(4,\) expected"):
        of.solve(pose[0][:2], pose[1], HOME[7])
    with pytest.raises(ValueError, match="joint 'a' has no speed limit in the URDF: max_joint_speed expected"):
        arm(3).track(*arm(3).forward([0, 0, 0]), [0, 0, 0], 0.02)


@pytest.mark.parametrize(
    ("joints", "base", "tool", "line"),
    [
        ([], "base", "tool", "joints is empty, names among bracket, finger1"),
        (
            [*NAMES[7], "elbow"],
            "base",
            "tool",
            "joint 'elbow': the robot has bracket, finger1, finger2, flange, joint1",
        ),
        ([*NAMES[7], "joint1"], "base", "tool", "joint 'joint1' is named twice"),
        (NAMES[7], "pedestal", "tool", "link 'pedestal': the robot has base, bracket, camera, left, link0"),
        (NAMES[7], "base", "", "link '': the robot has base"),
        ([*NAMES[7], "flange"], "base", "tool", "joint 'flange' is 'fixed', revolute, continuous, prismatic expected"),
        ([*NAMES[7], "finger1"], "base", "tool", "joint 'finger1' is not between 'base' and 'tool': there are joint1,"),
        ([*NAMES[7], "finger2"], "base", "tool", "joint 'finger2' mimics 'finger1': it has no position of its own"),
        (NAMES[7], "link1", "tool", "joint 'joint1' is not between 'link1' and 'tool': there are joint2"),
        (NAMES[7][:3] + NAMES[7][4:], "base", "tool", "joint 'joint4' is between 'base' and 'tool', and not among the"),
        (NAMES[7], "tool", "base", "joint 'joint1' moves the base 'tool', fixed joints expected"),
    ],
)
def test_wrong_names_are_refused(joints: list[str], base: str, tool: str, line: str) -> None:
    with pytest.raises(ValueError, match=re.escape(line)) as error:
        Arm.from_urdf(TEXTS[7], joints, base, tool)
    assert "\n" not in str(error.value)


def two_links(inner: str) -> str:
    return f'<robot name="r"><link name="a"/><link name="b"/>{inner}</robot>'


LINKS = '<parent link="a"/><child link="b"/>'
ENDS = '<limit lower="-1" upper="1"/>'
BILLION = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "a URDF that is not XML: no element found"),
        ("panda.urdf", "a URDF that is not XML: syntax error"),
        ("<robot><link></robot>", "a URDF that is not XML: mismatched tag"),
        ("<robot>\ud800</robot>", "a URDF that is not XML"),
        ("<robot>\0</robot>", "a URDF that is not XML"),
        ("<mujoco/>", "a description whose root is 'mujoco', 'robot' expected: is it a URDF?"),
        (f"<{'x' * 5000}/>", f"a description whose root is '{'x' * 60}...', 'robot' expected"),
        (" " * 10_000_000, f"a URDF of 10000000 characters, at most {MAX_CHARACTERS} expected"),
        ('<!DOCTYPE robot [<!ENTITY x SYSTEM "file:///etc/passwd">]><robot>&x;</robot>', "a URDF with <!DOCTYPE, one"),
        (f'<!DOCTYPE r [<!ENTITY l0 "ha">{BILLION}]><robot>&l9;</robot>', "a URDF with <!DOCTYPE, one without"),
        ("<robot>&x;</robot>", "a URDF that is not XML: undefined entity"),
        (two_links(f'<joint type="revolute">{LINKS}{ENDS}</joint>'), "the URDF has a joint without a name"),
        (two_links(f'<joint name="j" type="revolute">{LINKS}</joint>'), "joint 'j': limits 0 to 0, lower below upper"),
        (
            two_links(f'<joint name="j" type="revolute">{LINKS}<limit lower="-1" upper="${{pi}}"/></joint>'),
            "joint 'j': upper limit is '${pi}', 1 finite number expected",
        ),
        (
            two_links(f'<joint name="j" type="revolute">{LINKS}{ENDS}<origin xyz="0 0 nan"/></joint>'),
            "joint 'j': origin xyz is '0 0 nan', 3 finite numbers expected",
        ),
        (
            two_links(f'<joint name="j" type="revolute">{LINKS}{ENDS}<origin rpy="0 0"/></joint>'),
            "joint 'j': origin rpy is '0 0', 3 finite numbers expected",
        ),
        (
            two_links(f'<joint name="j" type="revolute">{LINKS}{ENDS}<axis xyz="0 0 0"/></joint>'),
            "joint 'j': axis xyz is [0.0, 0.0, 0.0], a direction expected",
        ),
        (
            two_links(f'<joint name="j" type="revolute">{LINKS}<limit lower="0" upper="1" velocity="0"/></joint>'),
            "joint 'j': velocity limit is 0, more than 0 expected",
        ),
        (two_links(f'<joint name="j" type="floating">{LINKS}</joint>'), "joint 'j' is 'floating', revolute, contin"),
        (
            two_links('<joint name="j" type="fixed"><parent link="a"/><child link="z\nz"/></joint>'),
            "joint 'j' names link 'z z', which the URDF has not",
        ),
        (two_links(f'<joint name="j" type="fixed">{LINKS}</joint>' * 2), "the URDF has two joints 'j'"),
        (
            two_links(f'<joint name="j" type="fixed">{LINKS}</joint><joint name="k" type="fixed">{LINKS}</joint>'),
            "link 'b' is moved by two joints",
        ),
        (
            two_links(
                f'<joint name="j" type="continuous">{LINKS}</joint>'
                '<joint name="k" type="fixed"><parent link="b"/><child link="a"/></joint>'
            ),
            "the URDF has 0 root links (none), one expected, or base",
        ),
    ],
)
def test_hostile_and_broken_urdfs_are_refused(text: str, line: str) -> None:
    with pytest.raises(ValueError, match=re.escape(line)) as error:
        Arm.from_urdf(text, ["j"], "", "b")
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_links_in_a_circle_are_refused() -> None:
    circle = f'<joint name="j" type="continuous">{LINKS}</joint>'
    circle += '<joint name="k" type="fixed"><parent link="b"/><child link="a"/></joint>'
    with pytest.raises(ValueError, match=r"the URDF's links go round in a circle at '[ab]'"):
        Arm.from_urdf(two_links(circle), ["j"], "a", "b")


def test_what_a_urdf_names_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meshes of links on the way too, a package of no meaning and names that would break XML."""
    opened: list[str] = []
    monkeypatch.setattr("builtins.open", lambda *a, **k: opened.append(str(a)))
    text = TEXTS[7].replace(
        '<link name="link3"/>',
        '<link name="link3"><collision><geometry><mesh filename="package://none/l.stl"/></geometry></collision></link>',
    )
    assert text != TEXTS[7]
    text = text.replace('"joint3"', '"joint &lt;3&quot;"')
    names = [name.replace("joint3", 'joint <3"') for name in NAMES[7]]
    of = Arm.from_urdf(text, names, "base", "tool")
    np.testing.assert_array_equal(of.forward(HOME[7])[0], arm(7).forward(HOME[7])[0])
    assert opened == []


def test_a_deep_description_is_read() -> None:
    """Of a chain of many fixed links MuJoCo sees one placement."""
    text = '<robot name="r"><link name="0"/>'
    for i in range(2000):
        text += joint(f"f{i}", f"{i}", f"{i + 1}", (0, 0, 0.001), (0, 0, 0), "", "fixed")
    text += joint("j", "2000", "b", (0, 0, 0), (0, 0, 0), "", "continuous") + "</robot>"
    np.testing.assert_allclose(Arm.from_urdf(text, ["j"], "", "b").forward([1.0])[0], [0, 0, 2], atol=1e-9)
