"""Recorded sessions as episodes: frames equal the live ones bit for bit, and each row has the frame of its time."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fake_bag
import fake_policy
import numpy as np
import pytest
import ros_graph
import yaml
from fake_bag import Sent
from geometry_msgs.msg import PoseStamped
from rclpy.serialization import deserialize_message
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import JointState
from test_robot_observations import (
    CAMERA,
    WRIST,
    Bench,
    encoded,
    picture,
    policy_node,
    robot_yaml,
    tool_at,
    written,
)

from diffusion_ros.control.observation import Frame
from diffusion_ros.control.pictures import fit
from diffusion_ros.nodes.policy_node import PolicyNode
from diffusion_ros.robot import EEF_POS, EEF_QUAT, FINGERS, GRIPPER_QPOS
from diffusion_ros.ros import messages
from training.data import replayed_frames
from training.data.bags import Bag
from training.data.episodes import Episode
from training.data.row_frames import match
from training.data.session import Session

MS = 1_000_000
SECOND = 1000 * MS
START = 1_700_000_000 * SECOND
STEP = fake_bag.STEP_NS
ARM_LATENCY = 60 * MS
"""Of robot_yaml."""
SCENE, GRIP = f"{CAMERA}_image", f"{WRIST}_image"


@pytest.fixture
def graph() -> Iterator[ros_graph.Graph]:
    with ros_graph.graph() as made:
        yield made


def live(node: PolicyNode, sent: Iterable[Sent]) -> list[Frame]:
    """The frames that a policy node makes of messages, each heard when it came."""
    frames: list[Frame] = []
    node._observe = lambda frame: frames.append(frame)
    listening: dict[str, list[Any]] = {}
    for subscription in node.subscriptions:
        listening.setdefault(subscription.topic_name, []).append(subscription)
    info = {"publisher_gid": {"data": b"one"}}
    for one in sent:
        node.now_ns = lambda came=one.came_ns: came
        for subscription in listening.get(one.topic, ()):
            msg = one.content if subscription.raw else deserialize_message(one.content, type(one.msg))
            subscription.callback(msg, info)
    return frames


def same(frame: Frame, other: Frame) -> bool:
    """Bit for bit."""
    return frame.stamp_ns == other.stamp_ns and all(
        frame.values[name].dtype == other.values[name].dtype
        and frame.values[name].tobytes() == other.values[name].tobytes()
        for name in frame.values
    )


# -- a robot's file ---------------------------------------------------------------------------------------------------


def drivers(seconds: float, seed: int = 0, pictures: bool = True, start: int = START) -> list[Sent]:
    """What drivers send: poses at 100 Hz, fingers at 15 Hz, two cameras of 640 x 480 at 30 Hz, one of them compressed;
    late by some time and some jitter, and now and then nothing at all."""
    rng = np.random.default_rng(seed)
    sent = []

    def stream(rate: float, late_ms: float, jitter_ms: float, lost: float) -> Iterator[tuple[int, int, int]]:
        for k in range(int(seconds * rate)):
            stamp = start + round(k / rate * 1e9) + int(rng.integers(0, 2 * MS))
            late = round((late_ms + jitter_ms * rng.random()) * MS)
            if rng.random() >= lost:
                yield k, stamp, stamp + late

    for _, stamp, came in stream(100.0, 2.0, 12.0, 0.03):
        sent.append(Sent(came, "/tcp/pose", messages.pose_to_msg(*tool_at(stamp), stamp, "base")))
    for k, stamp, came in stream(15.0, 5.0, 5.0, 0.03):
        knuckle = messages.joint_state_to_msg(("knuckle",), (0.4 + 0.01 * (k % 7),), (0.0,), stamp)
        sent.append(Sent(came, "/joint_states", knuckle))
        others = messages.joint_state_to_msg(("shoulder", "elbow"), (0.1, 0.2), (0.0, 0.0), stamp)
        sent.append(Sent(came + 1, "/joint_states", others))
    if pictures:
        for k, stamp, came in stream(30.0, 40.0, 15.0, 0.02):
            sent.append(Sent(came, "/scene/image_raw/compressed", encoded(picture(k % 8), "jpeg", stamp)))
        for k, stamp, came in stream(30.0, 30.0, 15.0, 0.02):
            size = (240, 320) if k % 50 == 49 else (480, 640)  # which the crop does not fit into
            sent.append(Sent(came, "/wrist/image_raw", encoded(picture(k % 8 + 10, *size), "rgb8", stamp)))
    return sorted(sent, key=lambda one: one.came_ns)


def executor(begin: int, rows: int, seed: int = 0, first: int = 0, person: bool = True) -> list[Sent]:
    """An executor at 50 Hz: rows begin at its first tick after they are due."""
    rng = np.random.default_rng(seed)
    sent = []
    for k in range(rows):
        stamp = begin + k * STEP + int(rng.integers(0, 20 * MS))
        sent.append(fake_bag.executed(stamp + 2 * MS, stamp, fake_bag.row(first + k), person))
    return sent


def robot_contract(**changes: Any) -> dict[str, Any]:
    content = changes.pop("content", driven())
    named = {"executed_action": "/executed_action", "hand": "/tcp/pose", SCENE: "/scene/image_raw/compressed"}
    return fake_bag.contract(robot=yaml.safe_dump(content), robot_name="mine", topics=named, **changes)


def driven(**changes: Any) -> dict[str, Any]:
    return robot_yaml(
        observations__agentview_image={"topic": "/scene/image_raw/compressed", "crop": [80, 0, 480, 480]},
        observations__hand__latency=0.004,
        observations__robot0_eye_in_hand_image__latency=0.007,
        **changes,
    )


def in_order(*parts: Iterable[Sent]) -> list[Sent]:
    return sorted((one for part in parts for one in part), key=lambda one: one.came_ns)


def check_against(live_frames: Sequence[Frame], episode: Episode) -> None:
    """Every step is one of the live frames, bit for bit."""
    by_stamp = {frame.stamp_ns: frame for frame in live_frames}
    made = {name: list(call()) for name, call in episode.pictures.items()}
    for k, stamp in enumerate(episode.stamps.tolist()):
        values = {name: array[k] for name, array in episode.numbers.items()}
        assert same(Frame(stamp, {**values, **{name: images[k] for name, images in made.items()}}), by_stamp[stamp])
    assert all(len(images) == len(episode) for images in made.values())


@pytest.mark.parametrize("many", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_episodes_of_a_driven_robot_equal_the_live_frames_bit_for_bit(many: int, graph, tmp_path: Path) -> None:
    path, file = written(tmp_path, driven())
    stream = drivers(0.5 + 1.4 * many)
    node = graph.add(policy_node(path, file))
    frames = live(node, stream)
    assert len(frames) > 24 * many
    begins = [START + SECOND // 2 + round(1.4 * k * SECOND) for k in range(many)]
    said: list[Sent] = []
    for number, begin in enumerate(begins):
        said += [fake_bag.event(begin - 5 * MS, "start", number)]
        said += executor(begin, 20, number, 100 * number)
        said += [fake_bag.event(begin + SECOND, ("success", "failure", "end")[number % 3], number)]
    spec = json.loads(node.policy.spec.to_json())
    bag = fake_bag.write(tmp_path / "bag", robot_contract(spec=spec), in_order(stream, said))

    found = Bag(Session(bag, size=(84, 84)))
    assert all(same(a, b) for a, b in zip(replayed_frames.frames(found.session), frames, strict=True)), (
        "all of them, in their order"
    )
    episodes = list(found.episodes())
    assert [episode.success for episode in episodes] == [True, False, None, True, False][:many]
    for number, episode in enumerate(episodes):
        check_against(frames, episode)
        rows = [fake_bag.row(100 * number + k) for k in range(20)]
        assert [row for row in episode.actions.tolist() if row in rows] == episode.actions.tolist()
        assert len(episode) >= 15 and episode.person is not None and episode.person.all()
        np.testing.assert_array_equal(episode.executed, episode.actions)
        np.testing.assert_array_equal(np.diff(episode.stamps) >= 0, True)
    assert found.layout.pictures == {SCENE: (84, 84), GRIP: (84, 84)}
    assert found.layout.numbers == {EEF_POS: 3, EEF_QUAT: 4, GRIPPER_QPOS: 2} and found.layout.executed
    assert (found.layout.rate, found.layout.robot, found.layout.scale) == (
        20.0,
        "mine",
        (0.05,) * 3 + (0.5,) * 3 + (1,),
    )
    # A bag can be read again, and so can an episode's pictures.
    first = next(found.episodes())
    again = [image.tobytes() for image in first.pictures[SCENE]()]
    assert again == [image.tobytes() for image in first.pictures[SCENE]()]


@pytest.mark.slow  # in real time, with pictures of 640 x 480
def test_what_a_policy_node_heard_on_a_bus_gives_its_frames_again_bit_for_bit(graph, tmp_path: Path) -> None:
    bench = Bench(graph, tmp_path, robot_yaml())
    heard: list[Sent] = []

    def noted(topic: str, take: Any) -> Any:
        def taken(msg: Any, info: Any) -> None:
            sent = deserialize_message(msg, JointState) if isinstance(msg, bytes) else msg
            heard.append(Sent(bench.node.now_ns(), topic, sent))
            take(msg, info)

        return taken

    for subscription in bench.node.subscriptions:
        subscription.callback = noted(subscription.topic_name, subscription.callback)
    bench.run(lambda: len(bench.frames) > 100)
    begin = heard[0].came_ns
    said = [fake_bag.event(begin, "start", 0), *executor(begin + SECOND, 20)]
    spec = json.loads(bench.node.policy.spec.to_json())
    named = {"executed_action": "/executed_action"}
    contract = fake_bag.contract(robot=yaml.safe_dump(robot_yaml()), spec=spec, topics=named)
    found = Bag(Session(fake_bag.write(tmp_path / "bag", contract, in_order(heard, said)), size=(84, 84)))
    assert all(same(a, b) for a, b in zip(replayed_frames.frames(found.session), bench.frames, strict=True))
    (episode,) = found.episodes()
    assert len(episode) == 20
    check_against(bench.frames, episode)


def test_pictures_as_recorded_are_cropped_and_no_smaller(tmp_path: Path) -> None:
    said = [fake_bag.event(START + SECOND, "start", 0), *executor(START + SECOND, 8)]
    bag = fake_bag.write(tmp_path / "bag", robot_contract(), in_order(drivers(2.0), said))
    found = Bag(Session(bag, (GRIP, EEF_POS)))
    assert found.layout.pictures == {GRIP: (480, 480)} and found.layout.numbers == {EEF_POS: 3}
    (episode,) = found.episodes()
    images = list(episode.pictures[GRIP]())
    assert {image.shape for image in images} == {(480, 480, 3)}
    assert any(np.array_equal(images[0], picture(k + 10)[:, 80:560]) for k in range(8))


def by_hand(tmp_path: Path, rows: Iterable[Sent], *events: Sent, seconds: float = 4.0, **options: Any) -> list[Episode]:
    """Episodes of a robot that is seen by its hand alone, at 100 Hz."""
    stream = drivers(seconds, pictures=False)
    said = robot_contract(content=options.pop("content", driven()))
    bag = fake_bag.write(tmp_path / "bag", said, in_order(stream, rows, events))
    return list(Bag(Session(bag, (EEF_POS, EEF_QUAT), **options)).episodes())


BEGIN = START + SECOND
WHOLE = (fake_bag.event(BEGIN - 1, "start", 0), fake_bag.event(BEGIN + 3 * SECOND, "success", 0))


def test_a_row_is_due_when_the_arm_shows_it_and_numbers_alone_are_in_the_base_frame(tmp_path: Path) -> None:
    rows = executor(BEGIN, 30)
    (episode,) = by_hand(tmp_path, rows, *WHOLE)
    due = np.array([messages.stamp_ns(one.msg.header.stamp) for one in rows]) + ARM_LATENCY
    assert np.abs(episode.stamps - due).max() <= 15 * MS, "the nearest of poses at 100 Hz, some of which are lost"
    np.testing.assert_array_equal(episode.actions, [fake_bag.row(k) for k in range(30)])
    # robot_yaml's base is turned by half a turn; without a checkpoint the policy's frame is the training base.
    for stamp, position in zip(episode.stamps.tolist(), episode.numbers[EEF_POS], strict=True):
        tool, quaternion = tool_at(stamp + 4 * MS)
        hand = tool + Rotation.from_quat(quaternion).apply([0, 0, 0.16])
        np.testing.assert_allclose(position, hand * [-1, -1, 1], atol=1e-12)


def test_a_hold_leaves_no_steps_and_the_episode_goes_on_behind_it(tmp_path: Path) -> None:
    rows = [*executor(BEGIN, 10), *executor(BEGIN + SECOND, 10, first=10)]
    (episode,) = by_hand(tmp_path, rows, *WHOLE)
    np.testing.assert_array_equal(episode.actions, [fake_bag.row(k) for k in range(20)])
    gaps = np.diff(episode.stamps)
    assert np.argmax(gaps) == 9 and gaps.max() > 0.45 * SECOND and np.sort(gaps)[-2] < 80 * MS


def test_a_row_that_is_replaced_at_once_is_left_out(tmp_path: Path) -> None:
    rows = executor(BEGIN, 10)
    stamp = messages.stamp_ns(rows[4].msg.header.stamp) + 10 * MS
    rows.append(fake_bag.executed(stamp + 2 * MS, stamp, fake_bag.row(77), person=False))
    (episode,) = by_hand(tmp_path, rows, *WHOLE)
    expected = [fake_bag.row(k) for k in (0, 1, 2, 3, 77, 5, 6, 7, 8, 9)]
    np.testing.assert_array_equal(episode.actions, expected)
    assert abs(episode.stamps[4] - (stamp + ARM_LATENCY)) <= 15 * MS
    assert episode.person is not None and episode.person.tolist() == [k != 4 for k in range(10)]


TAKEN_OVER = (
    50, 50, 40, 40, 50, 50, 50, 50, 40, 50, 50, 50, 50, 10, 20, 50, 50, 50, 50, 10, 25, 45, 50, 50, 50, 40, 50,
    50, 50, 45, 15, 20, 50, 50, 50, 50, 10, 20, 50, 50, 50, 50, 40, 50, 50, 45, 50, 15, 20, 50, 50, 50, 50, 10,
    20, 55, 50, 55, 40,
)  # fmt: skip
"""ms between rows of a rehearsal: a chunk comes each 233 ms, and its rows begin at other times than the last one's."""


def test_chunks_that_take_over_leave_about_as_many_rows_as_there_was_time_for(tmp_path: Path) -> None:
    begins = (BEGIN + np.cumsum([0, *TAKEN_OVER]) * MS).tolist()
    rows = [fake_bag.executed(t + 2 * MS, t, fake_bag.row(k)) for k, t in enumerate(begins)]
    (episode,) = by_hand(tmp_path, rows, *WHOLE)
    left = [k for k, gap in enumerate((*TAKEN_OVER, 50)) if gap >= 25]
    np.testing.assert_array_equal(episode.actions[:, 0], [fake_bag.row(k)[0] for k in left])
    assert 50 <= sum(TAKEN_OVER) / (len(left) - 1) < 53


def test_what_a_person_did_is_marked_and_what_was_discarded_is_not_there(tmp_path: Path) -> None:
    rows = [*executor(BEGIN, 6, person=False), *executor(BEGIN + 6 * STEP, 6, first=6)]
    later = BEGIN + SECOND
    events = [
        fake_bag.event(BEGIN - 1, "start", 0),
        fake_bag.event(BEGIN + 13 * STEP, "success", 0),
        fake_bag.event(later - 1, "start", 1),
        fake_bag.event(later + SECOND // 2, "discard", 1),
        fake_bag.event(later + SECOND, "start", 2),
        fake_bag.event(later + SECOND + 11 * STEP, "failure", 2),
        fake_bag.event(later + SECOND + 12 * STEP, "start", 3),
        fake_bag.event(later + SECOND + 20 * STEP, "success", 3),
        fake_bag.event(later + SECOND + 21 * STEP, "discard", 3),  # thrown away after it ended
    ]
    rows += [*executor(later, 10, first=20), *executor(later + SECOND, 10, first=40)]
    rows += executor(later + SECOND + 12 * STEP, 6, first=60)
    first, second = by_hand(tmp_path, rows, *events)
    assert first.person is not None and first.person.tolist() == [False] * 6 + [True] * 6
    assert (first.success, second.success) == (True, False)
    np.testing.assert_array_equal(second.actions, [fake_bag.row(40 + k) for k in range(10)])


def test_the_start_may_be_said_after_the_first_rows_and_the_end_before_the_last(tmp_path: Path) -> None:
    """Who follows a simulator's news hears of them late; the stamps say what belongs together."""
    rows = executor(BEGIN, 20)
    last = messages.stamp_ns(rows[-1].msg.header.stamp)
    said = fake_bag.event(BEGIN + 150 * MS, "start", 0, BEGIN), fake_bag.event(last - 1, "success", 0, last)
    before = executor(BEGIN - SECOND, 3, first=900)
    (episode,) = by_hand(tmp_path, [*before, *rows], *said)
    np.testing.assert_array_equal(episode.actions, [fake_bag.row(k) for k in range(20)])


def test_at_half_the_rate_two_rows_become_one_that_goes_as_far(tmp_path: Path) -> None:
    rows = [*executor(BEGIN, 9), *executor(BEGIN + SECOND, 4, first=10)]
    turned = [[0.01, 0.0, 0.0, 0.3, 0.1, -0.2, -1.0], [0.0, 0.02, 0.0, -0.1, 0.4, 0.1, 1.0]]
    for k, values in enumerate(turned):
        rows[k] = fake_bag.executed(rows[k].came_ns, messages.stamp_ns(rows[k].msg.header.stamp), values, k == 1)
    (episode,) = by_hand(tmp_path, rows, *WHOLE, rate=10.0)
    assert len(episode) == 6, "the ninth is alone before the hold"
    np.testing.assert_allclose(episode.actions[0, :3], [0.01, 0.02, 0.0])
    turn = Rotation.from_rotvec(turned[1][3:6]) * Rotation.from_rotvec(turned[0][3:6])
    np.testing.assert_allclose(episode.actions[0, 3:6], turn.as_rotvec())
    assert episode.actions[0, 6] == 1.0 and episode.person is not None and episode.person[0]
    np.testing.assert_allclose(episode.actions[4, :3], np.add(fake_bag.row(10), fake_bag.row(11))[:3])
    with pytest.raises(ValueError, match=r"rate 15 Hz, the session's 20 or a whole fraction of it expected"):
        Bag(Session(tmp_path / "bag", rate=15.0))
    assert Bag(Session(tmp_path / "bag", (EEF_POS,), rate=10.0)).layout.scale[:4] == (0.1, 0.1, 0.1, 1.0)


def test_another_yaml_has_the_latencies_that_were_measured_later(tmp_path: Path) -> None:
    by_hand(tmp_path, executor(BEGIN, 10), *WHOLE)
    file = tmp_path / "measured.yaml"
    file.write_text(yaml.safe_dump(driven(action__latency=0.2)))
    (early,) = Bag(Session(tmp_path / "bag", (EEF_POS,))).episodes()
    (late,) = Bag(Session(tmp_path / "bag", (EEF_POS,), robot=file)).episodes()
    np.testing.assert_allclose(late.stamps - early.stamps, 140 * MS, atol=15 * MS)


# -- which frame a row has --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [0, 7, 16, 33, 49])
def test_rows_at_20_hz_and_pictures_at_30_each_row_has_the_nearest_picture_of_its_own(phase: int) -> None:
    stamps = [k * 1000 // 30 for k in range(300)]
    due = [1000 + phase + 50 * k for k in range(100)]
    found = [stamps[k] for k in match(due, stamps, 50) if k is not None]
    assert len(set(found)) == 100
    assert max(abs(a - b) for a, b in zip(found, due, strict=True)) <= 17
    # Of two that are as near the older one, as SpacedWindow has it: an eighth of a step decides.
    assert all(stamp - time <= 50 // 2 - 50 // 16 for stamp, time in zip(found, due, strict=True))


def test_a_picture_that_was_lost_makes_its_neighbour_count_twice_and_shifts_no_other_row() -> None:
    stamps = [50 * k for k in range(40) if k != 20]
    due = [50 * k + 10 for k in range(40)]
    found = [stamps[k] for k in match(due, stamps, 50) if k is not None]
    assert found[:20] == stamps[:20] and found[21:] == stamps[20:]
    assert found[20] in (950, 1050)


def test_in_between_two_pictures_jitter_makes_no_picture_count_twice() -> None:
    rng = np.random.default_rng(3)
    stamps = [50 * k for k in range(200)]
    due = (np.arange(2, 190) * 50 + 25 + rng.integers(-6, 7, 188)).tolist()
    found = match(due, stamps, 50)
    assert len(set(found)) == len(due)


def test_a_hole_in_the_pictures_leaves_rows_without_a_frame() -> None:
    stamps = [*range(0, 500, 33), *range(1000, 1500, 33)]
    found = match(list(range(0, 1500, 50)), stamps, 50)
    assert [k * 50 for k, place in enumerate(found) if place is None] == list(range(550, 950, 50))
    assert match([], stamps, 50) == [] and match([5], [], 50) == [None]


# -- the simulator ----------------------------------------------------------------------------------------------------


def simulated(stamp: int, number: int, came: int, namespace: str = "") -> list[Sent]:
    """An observation: three topics, in an order that differs from step to step."""
    rng = np.random.default_rng(number)
    image = rng.integers(0, 256, (84, 84, 3), np.uint8)
    turn = Rotation.from_rotvec(rng.normal(size=3)).as_quat()
    pose = messages.pose_to_msg(rng.normal(size=3), turn, stamp, "world")
    joints = messages.joint_state_to_msg((*FINGERS, "arm"), (0.01 * number, -0.02, 7.0), (0.0,) * 3, stamp)
    parts = [("/agentview/image_raw", messages.image_to_msg(image, stamp, "")), ("/eef_pose", pose)]
    parts += [("/joint_states", joints)]
    return [Sent(came + k, f"{namespace}{parts[i][0]}", parts[i][1]) for k, i in enumerate(rng.permutation(3))]


LOCKSTEP_TOPICS = {
    "executed_action": "/executed_action",
    SCENE: "/agentview/image_raw",
    EEF_POS: "/eef_pose",
    EEF_QUAT: "/eef_pose",
    GRIPPER_QPOS: "/joint_states",
}


def lockstep(episodes: int, steps: int, repeated: int = -1) -> list[Sent]:
    """A simulator that waits: its stamps are its own, and the last observation of an episode has no answer."""
    sent: list[Sent] = []
    came = START
    for number in range(episodes):
        first = (1 + number) * 100 * SECOND
        for step in range(steps + 1):
            stamp = first + step * STEP
            for _ in range(2 if step == repeated else 1):
                came += 3 * MS
                sent += simulated(stamp, 100 * number + step, came)
            if step == 0:
                sent.append(fake_bag.event(came + 10, "start", number, stamp))
            if step < steps:
                sent.append(fake_bag.executed(came + 20, stamp, fake_bag.row(100 * number + step), person=False))
        sent.append(fake_bag.event(came + 30, "success", number, first + steps * STEP))
    return sent


def test_lockstep_equals_the_live_frames_bit_for_bit(graph, tmp_path: Path) -> None:
    inputs = (fake_policy.images()[0], *fake_policy.LOW_DIM)
    path = fake_policy.save(tmp_path / "policy.pt", fake_policy.spec(inputs))
    sent = lockstep(5, 12, repeated=4)
    node = graph.add(policy_node(path, "", mode="lockstep"))
    frames = live(node, sent)
    spec = json.loads(node.policy.spec.to_json())
    found = Bag(Session(fake_bag.write(tmp_path / "bag", fake_bag.contract(spec=spec, topics=LOCKSTEP_TOPICS), sent)))
    assert len(frames) == 5 * 14, "one of them twice"
    assert all(same(a, b) for a, b in zip(replayed_frames.frames(found.session), frames, strict=True))
    episodes = list(found.episodes())
    assert [len(episode) for episode in episodes] == [12] * 5
    for number, episode in enumerate(episodes):
        check_against(frames, episode)
        np.testing.assert_array_equal(episode.actions, [fake_bag.row(100 * number + k) for k in range(12)])
        np.testing.assert_array_equal(np.diff(episode.stamps), STEP)
        assert episode.stamps[0] == (1 + number) * 100 * SECOND
    assert found.layout.environment == "PickPlaceCan" and found.layout.pictures == {SCENE: (84, 84)}


def test_without_a_checkpoint_all_that_was_recorded_is_there_and_pictures_can_be_smaller(tmp_path: Path) -> None:
    sent = lockstep(1, 5)
    bag = fake_bag.write(tmp_path / "bag", fake_bag.contract(topics=LOCKSTEP_TOPICS), sent)
    assert set(Bag(Session(bag)).layout.numbers) == {EEF_POS, EEF_QUAT, GRIPPER_QPOS}
    small = Bag(Session(bag, (SCENE,), size=(42, 42)))
    (episode,) = small.episodes()
    images = [messages.image_from_msg(one.msg)[1] for one in sent if one.topic.endswith("image_raw")]
    for image, found in zip(images[:5], episode.pictures[SCENE](), strict=True):
        np.testing.assert_array_equal(found, fit(image, 42, 42))
    with pytest.raises(ValueError, match=r"observation agentview_image: picture of 84 x 84, at least 96 x 96 expected"):
        Bag(Session(bag, (SCENE,), size=(96, 96)))


def test_an_episode_that_begins_again_at_the_same_stamps_is_not_taken_for_the_one_before(tmp_path: Path) -> None:
    """A simulator that is reset repeats its stamps; the first attempt is discarded."""
    first = lockstep(1, 6)
    moved = first[-1].came_ns - START + SECOND
    again = [dataclasses.replace(one, came_ns=one.came_ns + moved) for one in lockstep(1, 6)]
    changed = []
    for one in again:
        if one.topic == "/recording_event":
            fields = {**json.loads(one.msg.data), "episode": 1}
            one = fake_bag.event(one.came_ns, fields["event"], 1, fields["stamp_ns"])
        elif one.topic == "/eef_pose":
            pose = messages.pose_to_msg((5.0, 5.0, 5.0), (0, 0, 0, 1), messages.stamp_ns(one.msg.header.stamp), "world")
            one = dataclasses.replace(one, msg=pose)
        changed.append(one)
    first[-1] = fake_bag.event(first[-1].came_ns, "discard", 0, 0)
    bag = fake_bag.write(tmp_path / "bag", fake_bag.contract(topics=LOCKSTEP_TOPICS), [*first, *changed])
    (episode,) = Bag(Session(bag, (EEF_POS,))).episodes()
    np.testing.assert_array_equal(episode.numbers[EEF_POS], np.full((6, 3), 5.0))


def test_commands_stand_in_for_rows_that_nobody_said_and_their_zeros_are_holds(tmp_path: Path) -> None:
    sent = []
    for one in lockstep(1, 6):
        if one.topic == "/executed_action":
            stamp = messages.stamp_ns(one.msg.header.stamp)
            values = [0.0] * 7 if stamp == 100 * SECOND + 2 * STEP else one.msg.points[0].positions[:7]
            one = Sent(one.came_ns, "/eef_command", messages.command_to_msg(values, stamp, STEP, "world"))
        sent.append(one)
    bag = fake_bag.write(tmp_path / "bag", fake_bag.contract(topics=LOCKSTEP_TOPICS), sent)
    (episode,) = Bag(Session(bag, (EEF_POS,))).episodes()
    np.testing.assert_array_equal(episode.actions, [fake_bag.row(k) for k in (0, 1, 3, 4, 5)])
    assert episode.person is None


def test_a_namespace_and_pictures_that_the_recorder_compressed(tmp_path: Path) -> None:
    sent = []
    for one in lockstep(1, 4):
        msg, topic = one.msg, f"/left{one.topic}"
        if topic.endswith("image_raw"):
            stamp, image = messages.image_from_msg(msg)
            msg, topic = encoded(image, "png", stamp), f"{topic}/compressed"
        sent.append(Sent(one.came_ns, topic, msg))
    names = {name: f"/left{topic}" for name, topic in LOCKSTEP_TOPICS.items()}
    names[SCENE] += "/compressed"
    bag = fake_bag.write(tmp_path / "bag", fake_bag.contract(topics=names), sent, "/left")
    (episode,) = Bag(Session(bag)).episodes()
    images = [messages.image_from_msg(one.msg)[1] for one in lockstep(1, 4) if one.topic.endswith("image_raw")]
    for image, found in zip(images[:4], episode.pictures[SCENE](), strict=True):
        np.testing.assert_array_equal(found, image)


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0.45, 0.6, 0.93])
def test_a_bag_that_was_cut_is_read_as_far_as_it_goes(kept: float, tmp_path: Path) -> None:
    sent = lockstep(3, 40)  # 0.9 MB each; rosbags writes 1 MB at a time
    bag = fake_bag.write(tmp_path / "bag", fake_bag.contract(topics=LOCKSTEP_TOPICS), sent)
    whole = list(Bag(Session(bag)).episodes())
    seen = [[image.tobytes() for image in episode.pictures[SCENE]()] for episode in whole]
    found = Bag(Session(fake_bag.cut(bag, kept)))
    assert found.session.file.cut
    episodes = list(found.episodes())
    steps = sum(map(len, episodes))
    assert 0.5 * kept * 120 < steps < 120
    assert [episode.success for episode in episodes[:-1]] == [True] * (len(episodes) - 1)
    for episode, other, images in zip(episodes, whole, seen, strict=False):
        many = len(episode)
        np.testing.assert_array_equal(episode.actions, other.actions[:many])
        np.testing.assert_array_equal(episode.numbers[EEF_POS], other.numbers[EEF_POS][:many])
        assert [image.tobytes() for image in episode.pictures[SCENE]()] == images[:many]


def test_of_a_bag_that_was_cut_before_its_first_episode_that_is_said(tmp_path: Path) -> None:
    bag = fake_bag.write(tmp_path / "bag", fake_bag.contract(topics=LOCKSTEP_TOPICS), lockstep(3, 40))
    fake_bag.cut(bag, 0.2)
    with pytest.raises(ValueError, match="its topic /eef_pose is not in the bag"):
        Bag(Session(bag, (EEF_POS,)))


def test_bad_bags_are_refused_in_one_line(tmp_path: Path) -> None:
    sent = lockstep(1, 3)
    said = fake_bag.contract(topics=LOCKSTEP_TOPICS)
    count = iter(range(100))

    def refused(rule: str, path: Path | None = None, messages: Iterable[Sent] = sent, **options: Any) -> None:
        contract = options.pop("contract", said)
        path = path or fake_bag.write(tmp_path / f"bag{next(count)}", contract, messages)
        with pytest.raises(ValueError, match=rule) as caught:
            list(Bag(Session(path, **options)).episodes())
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)

    def without(*topics: str) -> list[Sent]:
        return [one for one in sent if one.topic not in topics]

    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mcap").write_text("no bag")
    (tmp_path / "text.txt").write_text("no bag")
    (tmp_path / "nothing.mcap").touch()
    refused("no such file or folder", tmp_path / "absent")
    refused("not a bag of one session: 0 .mcap files in it, one expected", tmp_path / "empty")
    refused("not a bag: no MCAP file, or nothing was written to it", tmp_path / "text.mcap")
    refused("not a bag: no MCAP file, or nothing was written to it", tmp_path / "nothing.mcap")
    refused("not a bag: a session's folder, or its .mcap file, expected", tmp_path / "text.txt")
    refused("no recording_contract in it, a session of recorder_node expected", contract=None)
    refused("recording_contract: version 2, 1 expected", contract={**said, "version": 2})
    refused("recording_contract: rate 0, more than 0 Hz expected", contract={**said, "rate": 0})
    refused(r"recording_contract: action_low \[1\], 7 numbers expected", contract={**said, "action_low": [1]})
    refused("recording_contract: actions: kind 'jump', one of", contract={**said, "action": {"kind": "jump"}})
    refused("recording_contract: spec: kind, .* missing", contract={**said, "spec": {}})
    refused("no episode in it but such as were discarded, at least one", messages=without("/recording_event"))
    refused("no /executed_action nor /eef_command in the bag", messages=without("/executed_action"))
    refused("observation robot0_eef_pos: its topic /eef_pose is not in the bag", messages=without("/eef_pose"),
        observations=(EEF_POS,))  # fmt: skip
    refused("observation front_image: the session has none of that name, it has robot0_eef_pos, robot0_eef_quat",
        observations=("front_image",))  # fmt: skip
    refused("observations robot0_eef_pos, robot0_eef_pos: each once expected", observations=(EEF_POS, EEF_POS))
    late = [dataclasses.replace(one, msg=fake_bag.executed(0, 7, [0.1] * 7).msg) if "executed" in one.topic else one
        for one in sent]  # fmt: skip
    refused("no episode has a step", messages=late)
    wrong = [one if one.topic != "/eef_pose" else Sent(one.came_ns, one.topic, PoseStamped()) for one in sent]
    rule = r"no episode has a step: \d+ messages: /?eef_pose: frame '', 'world' expected; 3 rows"
    refused(rule, messages=wrong, observations=(EEF_POS,))


def test_bad_robots_are_refused_in_one_line(tmp_path: Path) -> None:
    sent = in_order(drivers(1.0, pictures=False), executor(START, 10), WHOLE)

    def refused(rule: str, name: str, content: dict[str, Any], **options: Any) -> None:
        bag = fake_bag.write(tmp_path / name, robot_contract(content=content), sent)
        with pytest.raises(ValueError, match=rule) as caught:
            Bag(Session(bag, **options))
        assert "\n" not in str(caught.value)
        assert re.match(str(bag), str(caught.value)), caught.value

    refused("observation front_image: the robot's YAML has none of that name, it has robot0_eef_pos", "a", driven(),
        observations=("front_image",))  # fmt: skip
    refused("observation agentview_image: its topic /scene/image_raw/compressed is not in the bag", "b", driven())
    refused("the robot's YAML: action.rate: ", "c", driven(action__rate=5.0))
    described = driven(
        joints=["a"],
        description={"topic": "/robot_description"},
        observations__hand={"source": "fk", "topic": "/joint_states"},
    )
    refused("observation hand: the description /robot_description is not in the bag", "d", described,
        observations=(EEF_POS,))  # fmt: skip
