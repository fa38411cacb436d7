"""A guard's scores, alarms and verdicts, the faults it is there for, and an executor that obeys it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_guard
import fake_policy
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros_graph import Graph, graph
from sensor_msgs.msg import Image
from std_msgs.msg import String
from torch import Tensor
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros import checkpoint
from diffusion_ros.checkpoint import CheckpointError
from diffusion_ros.control.action_chunk import ActionChunk
from diffusion_ros.models.camera_guard import CameraGuard, CameraScore, Judgement
from diffusion_ros.models.policy import FrameError
from diffusion_ros.nodes.camera_guard_node import CameraGuardNode, Picture
from diffusion_ros.nodes.executor_node import ExecutorNode
from diffusion_ros.nodes.simulation_node import SimulationNode
from diffusion_ros.robot import CAMERAS, WORLD_FRAME
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.diagnostics import ERROR, OK
from diffusion_ros.simulators.arm import Simulation
from diffusion_ros.simulators.camera_faults import FAULTS, CameraFault
from diffusion_ros.spec import SpecError

STATE = (*fake_policy.LOW_DIM, *fake_policy.OBJECT)


@pytest.fixture(scope="module")
def guard_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_guard.save(tmp_path_factory.mktemp("guard") / "guard.pt")


@pytest.fixture
def ros() -> Iterator[Graph]:
    with graph() as made:
        yield made


POSE = np.array([0.0, 0, 1, 0, 0, 0, 1])


def grey(level: int) -> np.ndarray:
    return np.full((84, 84, 3), level, np.uint8)


# Without ROS


def test_an_alarm_needs_two_bad_pictures_of_three_or_one_far_beyond() -> None:
    judgement = Judgement(good_frames=3)
    assert [judgement.add(score) for score in (0.5, 1.5, 0.5, 0.9, 1.5, 0.5, 1.2)] == [False] * 6 + [True]
    assert [judgement.add(score) for score in (0.5, 0.5, 1.1, 0.5, 0.5, 0.5)] == [True] * 5 + [False]
    assert judgement.add(3.5) and not Judgement().add(2.9)
    assert Judgement().add(float("nan"))


def test_scores_are_of_the_camera_and_bad_pictures_are_refused(guard_path: Path) -> None:
    guard = CameraGuard(checkpoint.load(guard_path, kind="camera guard", task="can"))
    assert guard.cameras == CAMERAS
    scores = [guard.look(camera, grey(100), POSE).score for camera in CAMERAS]
    np.testing.assert_allclose(scores, [0.5, 1.0], rtol=1e-6)
    assert guard.look("agentview", grey(100), np.array([0, 0, -2, 0, 0, 0, 1.0])).score == pytest.approx(2.5)
    assert guard.look("agentview", grey(0), POSE).heat.shape == (21, 21)
    with pytest.raises(FrameError, match=r"agentview: uint8 \(42, 84, 3\), the guard expects uint8 \(84, 84, 3\)"):
        guard.look("agentview", grey(0)[:42], POSE)
    for bad in (POSE[:3], np.append(POSE[:6], np.nan)):
        with pytest.raises(FrameError, match=r"pose \[0\.0, .*\]: 7 finite numbers expected"):
            guard.look("agentview", grey(0), bad)
    with pytest.raises(ValueError, match="camera 'front': the guard knows agentview, robot0_eye_in_hand"):
        guard.look("front", grey(0), POSE)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"inputs": STATE}, r"images, robot0_eef_pos \(3\) and robot0_eef_quat \(4\) expected in a camera guard"),
        ({"inputs": fake_policy.images()}, "inputs agentview_image, robot0_eye_in_hand_image, images, robot0_eef_pos"),
        ({"outputs": ()}, r"score \(1\) alone expected"),
        ({"sampler": "ddim"}, "sampler 'ddim', none expected in a camera guard"),
        ({"action_low": (0.0,), "action_high": (1.0,)}, "action_low .* none expected"),
    ],
)
def test_specs_that_are_no_guards(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(SpecError, match=expected):
        fake_guard.spec(**changes)


def test_a_guard_that_gives_nan_is_refused(tmp_path: Path) -> None:
    class Broken(fake_guard.Brightness):
        @checkpoint.exported
        def score(self, images: Tensor, poses: Tensor, camera: int) -> tuple[Tensor, Tensor]:
            heat = images.float().mean(3) / 0.0
            return heat.mean((1, 2)), heat

    checkpoint.save(Broken(), fake_guard.spec(), tmp_path / "broken.pt")
    with pytest.raises(CheckpointError, match="gives scores of agentview_image that are NaN or infinite"):
        checkpoint.load(tmp_path / "broken.pt")


def test_faults_change_the_pictures_of_their_camera_and_no_physics() -> None:
    simulation = Simulation("can")
    simulation.reset(3)
    state = simulation.state_hash()
    good = {camera: simulation.observe()[f"{camera}_image"] for camera in CAMERAS}
    for fault in FAULTS:
        made = CameraFault(fault, "agentview", seed=1)
        made.set_scene(simulation)
        frame = simulation.observe()
        bad = made.picture(frame["agentview_image"])
        assert bad.shape == good["agentview"].shape and bad.dtype == np.uint8
        changed = float(np.abs(bad.astype(int) - good["agentview"]).mean())
        assert changed == 0 if fault == "frozen" else changed > 0.1, fault
        if fault not in ("dark", "object"):  # those are in the scene, for all to see
            np.testing.assert_array_equal(frame["robot0_eye_in_hand_image"], good["robot0_eye_in_hand"])
    frozen = CameraFault("frozen", "agentview")
    np.testing.assert_array_equal(frozen.picture(grey(1)), frozen.picture(grey(2)))
    simulation.disturb_view()
    np.testing.assert_array_equal(simulation.observe()["agentview_image"], good["agentview"])
    assert simulation.state_hash() == state
    simulation.close()
    with pytest.raises(ValueError, match="fault 'rain': expected one of covered, "):
        CameraFault("rain", "agentview")


# On the bus


class Robot(Node):
    """Cameras and the hand, and what the guard says of them."""

    def __init__(self) -> None:
        super().__init__("robot")
        self.images = {c: self.create_publisher(Image, topics.image(c), topics.SENSOR_QOS) for c in CAMERAS}
        self.pose = self.create_publisher(PoseStamped, topics.EEF_POSE, topics.SENSOR_QOS)
        self.verdicts: list[messages.Status] = []
        self.create_subscription(
            DiagnosticStatus,
            topics.CAMERA_GUARD,
            lambda msg: self.verdicts.append(messages.status_from_msg(msg)),
            topics.COMMAND_QOS,
        )
        self.x = 0.0

    def show(self, agentview: np.ndarray, wrist: np.ndarray, moves: float = 0.0, pose_late_ns: int = 0) -> None:
        stamp = int(self.get_clock().now().nanoseconds)
        self.x += moves
        self.pose.publish(messages.pose_to_msg((self.x, 0, 0), (0, 0, 0, 1), stamp - pose_late_ns, WORLD_FRAME))
        for camera, image in zip(CAMERAS, (agentview, wrist), strict=True):
            self.images[camera].publish(messages.image_to_msg(image, stamp, ""))


def guard_node(path: Path, **parameters: Any) -> CameraGuardNode:
    values = {"checkpoint": str(path), "rate": 20.0, "max_frozen": 0.0, **parameters}
    return CameraGuardNode([Parameter(name, value=value) for name, value in values.items()])


def watched(ros: Graph, robot: Robot, shows: Any, says: str, level: int) -> None:
    """Shows it again and again until the guard's verdict has these words."""

    def said() -> bool:
        shows()
        return bool(robot.verdicts) and robot.verdicts[-1].level == level and says in robot.verdicts[-1].summary

    ros.spin_until(said)


def test_verdicts_follow_what_the_cameras_show(ros: Graph, guard_path: Path) -> None:
    robot, node = ros.add(Robot()), ros.add(guard_node(guard_path, good_frames=2))
    ros.spin_until(lambda: robot.images["agentview"].get_subscription_count() and robot.verdicts)
    assert "agentview/image_raw: nothing received" in robot.verdicts[-1].summary and robot.verdicts[-1].level != OK
    watched(ros, robot, lambda: robot.show(grey(100), grey(150)), "views are good", OK)
    assert robot.verdicts[-1].values["agentview score"] == "0.5000"
    watched(ros, robot, lambda: robot.show(grey(10), grey(150)), "agentview does not show what it was trained", ERROR)
    watched(ros, robot, lambda: robot.show(grey(100), grey(150)), "views are good", OK)
    small = np.full((42, 42, 3), 100, np.uint8)
    watched(ros, robot, lambda: robot.show(grey(100), small), "the guard expects 84 x 84", ERROR)
    watched(ros, robot, lambda: robot.show(grey(100), grey(150)), "views are good", OK)
    watched(ros, robot, lambda: None, "silent for", ERROR)
    ros.spin_until(lambda: node.diagnostics.level == ERROR and "silent for" in node.diagnostics.summary)
    scored = dict(node._scored)
    robot.show(grey(100), grey(150))
    ros.spin_until(lambda: all(node._scored[camera] > scored[camera] for camera in CAMERAS))
    assert all(node._judgements[camera].alarm for camera in CAMERAS)  # one good picture after a silence is not enough
    watched(ros, robot, lambda: robot.show(grey(100), grey(150)), "views are good", OK)


def test_slow_scoring_serves_all_cameras_and_old_scores_do_not_count(
    ros: Graph, guard_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot, node = ros.add(Robot()), ros.add(guard_node(guard_path, max_image_age=0.1))
    look, looked = node.guard.look, []

    def slow_look(camera: str, image: np.ndarray, pose: np.ndarray) -> CameraScore:
        time.sleep(0.2)
        looked.append(camera)
        return look(camera, image, pose)

    monkeypatch.setattr(node.guard, "look", slow_look)
    ros.spin_until(lambda: robot.images["agentview"].get_subscription_count())
    watched(ros, robot, lambda: robot.show(grey(100), grey(150)), "the last picture that was scored is", ERROR)
    ros.spin_until(lambda: robot.show(grey(100), grey(150)) or len(looked) >= 4)
    assert set(looked[:2]) == set(looked[2:4]) == set(CAMERAS)
    assert not any(verdict.level == OK for verdict in robot.verdicts)


def test_a_picture_is_seen_with_the_pose_of_its_time(ros: Graph, guard_path: Path) -> None:
    robot, node = ros.add(Robot()), ros.add(guard_node(guard_path))
    ros.spin_until(lambda: robot.images["agentview"].get_subscription_count() and robot.pose.get_subscription_count())
    far = "eef_pose: none within 0.1 s of the picture of agentview"
    watched(ros, robot, lambda: robot.show(grey(100), grey(150), pose_late_ns=300_000_000), far, ERROR)
    watched(ros, robot, lambda: robot.show(grey(100), grey(150)), "views are good", OK)

    ms = 1_000_000

    def pose_at(stamp_ns: int) -> list[float]:
        return node._pose_at(Picture("agentview", 0.0, stamp_ns, grey(0))).tolist()

    def passes(*stamps: int) -> None:
        for stamp in stamps:
            node._on_pose(messages.pose_to_msg((stamp, 2, 3), (0, 0, 0.6, 0.8), stamp * ms, WORLD_FRAME))

    later = 10_000_000
    passes(later, later + 50, later + 100)
    assert pose_at((later + 60) * ms) == [later + 50, 2, 3, 0, 0, 0.6, 0.8]
    assert pose_at((later + 190) * ms)[0] == later + 100
    with pytest.raises(FrameError, match="none within"):
        pose_at((later + 210) * ms)
    passes(5, 55)  # another run: its clock began again
    assert pose_at(60 * ms)[0] == 55
    with pytest.raises(FrameError, match="none within"):
        pose_at(later * ms)


def test_a_camera_that_stands_still_while_the_robot_moves_is_frozen(ros: Graph, guard_path: Path) -> None:
    robot, _ = ros.add(Robot()), ros.add(guard_node(guard_path, max_frozen=0.1))
    ros.spin_until(lambda: robot.images["agentview"].get_subscription_count())
    watched(ros, robot, lambda: robot.show(grey(100), grey(150)), "views are good", OK)
    watched(ros, robot, lambda: robot.show(grey(100), grey(150), 0.002), "is frozen", ERROR)


class Chunker(Node):
    """A policy that always goes ahead, the poses it answers, and a guard's word."""

    def __init__(self, name: str = "chunker") -> None:
        super().__init__(name)
        self.pose = self.create_publisher(PoseStamped, topics.EEF_POSE, topics.SENSOR_QOS)
        self.chunk = self.create_publisher(JointTrajectory, topics.ACTION_CHUNK, topics.COMMAND_QOS)
        self.guard = self.create_publisher(DiagnosticStatus, topics.CAMERA_GUARD, topics.COMMAND_QOS)
        self.rows: list[np.ndarray] = []
        self.create_subscription(
            JointTrajectory,
            topics.EEF_COMMAND,
            lambda msg: self.rows.append(messages.command_from_msg(msg)[1]),
            topics.COMMAND_QOS,
        )

    def go_on(self) -> None:
        stamp = int(self.get_clock().now().nanoseconds)
        self.pose.publish(messages.pose_to_msg((0, 0, 0), (0, 0, 0, 1), stamp, WORLD_FRAME))
        rows = np.full((9, 7), 0.01)
        self.chunk.publish(messages.chunk_to_msg(ActionChunk(stamp, rows, 50_000_000), WORLD_FRAME))

    def say(self, level: int, summary: str) -> None:
        self.guard.publish(messages.status_to_msg(messages.Status("camera_guard", "camera guard", level, summary, {})))


def test_the_executor_obeys_a_guard_it_was_told_of(ros: Graph, guard_path: Path, tmp_path: Path) -> None:
    policy = fake_policy.save(tmp_path / "state.pt", fake_policy.spec(STATE))
    values = {"checkpoint": str(policy), "enabled": True, "checkpoint_limits": True, "guard": str(guard_path)}
    values["max_guard_age"] = 0.5
    executor = ros.add(ExecutorNode([Parameter(name, value=value) for name, value in values.items()]))
    chunker = ros.add(Chunker())
    ros.spin_until(lambda: chunker.chunk.get_subscription_count() and chunker.guard.get_subscription_count())

    def until(summary: str, moves: bool, level: int | None = None, word: str = "") -> None:
        def there() -> bool:
            if level is not None:
                chunker.say(level, word)
            chunker.go_on()
            return summary in executor.diagnostics.summary and bool(chunker.rows) and chunker.rows[-1].any() == moves

        ros.spin_until(there)

    until("holding: no word from the camera guard", moves=False)
    until("acting", moves=True, level=OK, word="views are good")
    until("holding: camera_guard: agentview is covered", moves=False, level=ERROR, word="agentview is covered")
    until("acting", moves=True, level=OK, word="views are good")
    until("holding: camera_guard: silent for", moves=False)
    second = ros.add(Chunker("second"))

    def both_say_so() -> bool:
        for one in (chunker, second):
            one.say(OK, "views are good")
        chunker.go_on()
        ros.spin(0.02)
        return "holding: 2 publishers on /camera_guard" in executor.diagnostics.summary

    ros.spin_until(both_say_so)


def test_lockstep_has_no_guard(ros: Graph, guard_path: Path) -> None:
    with pytest.raises(ValueError, match="guard: expected '' in lockstep"):
        ExecutorNode([Parameter("mode", value="lockstep"), Parameter("guard", value=str(guard_path))])


def test_the_simulator_lets_a_camera_fail_and_the_guard_sees_it(ros: Graph, guard_path: Path) -> None:
    simulation = ros.add(SimulationNode([Parameter("task", value="lift"), Parameter("seed", value=5)]))
    ros.add(guard_node(guard_path))
    robot = ros.add(Node("person"))
    verdicts: list[messages.Status] = []
    robot.create_subscription(
        DiagnosticStatus,
        topics.CAMERA_GUARD,
        lambda msg: verdicts.append(messages.status_from_msg(msg)),
        topics.COMMAND_QOS,
    )
    fault = robot.create_publisher(String, topics.CAMERA_FAULT, topics.COMMAND_QOS)
    ros.spin_until(lambda: verdicts and verdicts[-1].level == OK and fault.get_subscription_count())
    fault.publish(String(data="half covered robot0_eye_in_hand"))
    ros.spin_until(lambda: verdicts[-1].level == ERROR and "robot0_eye_in_hand does not show" in verdicts[-1].summary)
    fault.publish(String(data="rain agentview"))  # refused: all stays as it is
    fault.publish(String(data=""))
    ros.spin_until(lambda: verdicts[-1].level == OK)
    assert simulation.phase == "waiting"
