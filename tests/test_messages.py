"""numpy -> message -> bytes -> message -> numpy gives back what went in, and what is wrong is refused in one line."""

from __future__ import annotations

import array
import os
from dataclasses import replace

import cv2
import numpy as np
import pytest

os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"

import ros_graph  # noqa: F401  (imports rclpy without its warnings)
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectoryPoint
from visualization_msgs.msg import Marker

from diffusion_ros.control.action_chunk import ActionChunk
from diffusion_ros.robot import ACTION_NAMES
from diffusion_ros.ros import messages
from diffusion_ros.ros.messages import MessageError
from diffusion_ros.simulators.scene import SceneGeom

STAMP = 1_700_000_000_123_456_789
PERIOD = 50_000_000


def wire(message):
    """Through the middleware's encoding and back."""
    return deserialize_message(serialize_message(message), type(message))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("ns", [0, 1, 999_999_999, 1_000_000_000, STAMP, messages.MAX_SECONDS * 10**9])
def test_stamps_are_exact(ns):
    assert messages.stamp_ns(wire(messages.stamp_to_msg(ns))) == ns
    assert messages.stamp_ns(messages.clock_to_msg(ns).clock) == ns
    assert messages.stamp_ns(messages.duration_to_msg(ns)) == ns


def test_images_are_exact_upright_and_of_any_size(rng):
    for shape in ((84, 84, 3), (1, 5, 3), (480, 640, 3)):
        image = rng.integers(0, 256, shape, np.uint8)
        message = wire(messages.image_to_msg(image, STAMP, "camera"))
        assert (message.height, message.width, message.step, message.encoding) == (*shape[:2], 3 * shape[1], "rgb8")
        assert message.header.frame_id == "camera" and bytes(message.data[:3]) == image[0, 0].tobytes()
        stamp, back = messages.image_from_msg(message)
        assert stamp == STAMP and np.array_equal(back, image)
    flipped = image[::-1]  # not contiguous
    assert np.array_equal(messages.image_from_msg(messages.image_to_msg(flipped, 0, ""))[1], flipped)


def test_bgr_and_padded_rows_are_understood(rng):
    image = rng.integers(0, 256, (4, 5, 3), np.uint8)
    message = messages.image_to_msg(image[..., ::-1], STAMP, "")
    message.encoding = "bgr8"
    assert np.array_equal(messages.image_from_msg(message)[1], image)
    padded = np.zeros((4, 16), np.uint8)
    padded[:, :15] = image.reshape(4, 15)
    message = messages.image_to_msg(image, STAMP, "")
    message.step, message.data = 16, padded.ravel().tolist()
    assert np.array_equal(messages.image_from_msg(message)[1], image)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        (
            "encoding",
            "32FC1",
            "encoding '32FC1', one of rgb8, bgr8, rgba8, bgra8, mono8, yuv422, uyvy, yuv422_yuy2, yuyv",
        ),
        ("encoding", "x" * 5000, "encoding 'x{1,60} ...', one of rgb8,"),
        ("encoding", "rgba8", "60 bytes in rows of 15 for 5 x 4 rgba8, 80 expected"),
        ("encoding", "yuyv", "width 5 of yuyv, in which two pixels share a colour: an even one expected"),
        ("data", [0] * 59, "59 bytes in rows of 15 for 5 x 4 rgb8, 60 expected"),
        ("height", 5, "60 bytes in rows of 15 for 5 x 5 rgb8, 75 expected"),
        ("width", 0, "size 0 x 4"),
        ("step", 3, "60 bytes in rows of 3 for 5 x 4"),
    ],
)
def test_an_image_that_is_none_is_refused(rng, field, value, expected):
    message = messages.image_to_msg(rng.integers(0, 256, (4, 5, 3), np.uint8), STAMP, "")
    setattr(message, field, value)
    with pytest.raises(MessageError, match=expected):
        messages.image_from_msg(message)
    with pytest.raises(MessageError, match="float64"):
        messages.image_to_msg(np.zeros((4, 5, 3)), 0, "")


def raw(pixels, encoding, padding=0):
    """An Image of pixels (H, W, bytes), with bytes of no meaning at the end of each row."""
    height, width, size = pixels.shape
    rows = np.full((height, size * width + padding), 201, np.uint8)
    rows[:, : size * width] = pixels.reshape(height, -1)
    message = messages.image_to_msg(np.zeros((height, width, 3), np.uint8), STAMP, "camera")
    message.encoding, message.step, message.data = encoding, rows.shape[1], array.array("B", rows.tobytes())
    return message


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("size", [(1, 1), (3, 7), (48, 64)])
@pytest.mark.parametrize(
    ("encoding", "order"), [("rgb8", "012"), ("bgr8", "210"), ("rgba8", "0123"), ("bgra8", "2103")]
)
def test_colours_of_every_order_are_rgb(rng, encoding, order, size, padding):
    image = rng.integers(0, 256, (*size, 4), np.uint8)
    message = wire(raw(image[..., [int(i) for i in order]], encoding, padding))
    message.is_bigendian = 1  # means nothing of single bytes
    stamp, read = messages.image_from_msg(message)
    assert stamp == STAMP and np.array_equal(read, image[..., :3])
    assert np.shares_memory(read, np.frombuffer(message.data, np.uint8)), "nothing is copied"


def test_grey_is_grey(rng):
    grey = rng.integers(0, 256, (5, 7, 1), np.uint8)
    read = messages.image_from_msg(wire(raw(grey, "mono8", 3)))[1]
    assert read.shape == (5, 7, 3) and all(np.array_equal(read[..., i], grey[..., 0]) for i in range(3))


def of_yuv(y, u, v):
    """ITU-R BT.601, y from 16 to 235 (blacker is black), u and v from 16 to 240: rgb (..., 3), not rounded."""
    y, u, v = 255 / 219 * np.maximum(y - 16.0, 0), 255 / 224 * (u - 128.0), 255 / 224 * (v - 128.0)
    rgb = np.stack([y + 1.402 * v, y - 0.344136 * u - 0.714136 * v, y + 1.772 * u], axis=-1)
    return np.clip(rgb, 0, 255)


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize(
    ("encoding", "order"), [("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv")]
)
def test_yuv_of_both_orders_is_rgb(rng, encoding, order, padding):
    """Of random bytes, to one level: the library's arithmetic is in integers."""
    bytes_ = rng.integers(0, 256, (6, 10, 4), np.uint8)  # of two pixels each
    at = [i for i, name in enumerate(order) if name == "y"]
    u, v = bytes_[..., order.index("u")], bytes_[..., order.index("v")]
    wanted = np.stack([of_yuv(bytes_[..., i], u, v) for i in at], axis=2).reshape(6, 20, 3)
    read = messages.image_from_msg(wire(raw(bytes_.reshape(6, 20, 2), encoding, padding)))[1]
    assert np.abs(read - wanted).max() <= 1.0


@pytest.mark.parametrize(
    ("order", "red"), [("yuv422", (90, 81, 240, 81)), ("yuv422_yuy2", (81, 90, 81, 240))], ids=["yuv422", "yuy2"]
)
def test_red_is_red_in_yuv(order, red):
    """As the standard's bars have it."""
    read = messages.image_from_msg(raw(np.array(red, np.uint8).reshape(1, 2, 2), order))[1]
    assert np.abs(read[0, 1].astype(int) - (255, 0, 0)).max() <= 1


def compressed(content, form="jpeg"):
    message = CompressedImage(header=messages.image_to_msg(np.zeros((1, 1, 3), np.uint8), STAMP, "camera").header)
    message.format, message.data = form, array.array("B", content)
    return message


@pytest.mark.parametrize(
    ("suffix", "form"),
    [
        (".png", "png"),
        (".png", "rgb8; png compressed bgr8"),
        (".png", "PNG"),
        (".jpg", "jpeg"),
        (".jpg", "jpg"),
        (".jpg", "rgb8; jpeg compressed bgr8"),
        (".jpg", "yuv422_yuy2; jpeg compressed bgr8"),
        (".jpg", "bgr8; jpeg compressed "),
    ],
)
def test_compressed_pictures_are_rgb(suffix, form):
    image = np.zeros((16, 32, 3), np.uint8)
    image[:, :16], image[:, 16:] = (200, 40, 10), (10, 40, 200)
    content = cv2.imencode(suffix, image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    stamp, read = messages.compressed_image_from_msg(wire(compressed(content, form)))
    assert stamp == STAMP and read.shape == (16, 32, 3)
    # JPEG shares colours between neighbours: not where two meet.
    columns = slice(None) if suffix == ".png" else [*range(12), *range(20, 32)]
    assert np.abs(read.astype(int) - image)[:, columns].max() <= (0 if suffix == ".png" else 6)
    grey = cv2.imencode(suffix, image[..., 0])[1].tobytes()
    read = messages.compressed_image_from_msg(compressed(grey, "mono8; jpeg compressed "))[1]
    assert read.shape == (16, 32, 3) and np.array_equal(read[..., 0], read[..., 2])


@pytest.mark.parametrize(
    ("form", "content", "expected"),
    [
        ("16UC1; compressedDepth png", b"", "format '16UC1; compressedDepth png', jpeg or png expected"),
        ("", b"", "format '', jpeg or png expected"),
        ("tiff\n", b"", r"format 'tiff\?', jpeg or png expected"),
        ("rgb8; jpeg compressed rgb8", b"", "'compressed bgr8' expected: red and blue may be exchanged"),
        ("jpeg", b"", "0 bytes that begin with nothing, JPEG or PNG expected"),
        ("png", b"\x89PNG\r\n\x1a\n", "PNG of 8 bytes without a header: cut short or damaged"),
        ("jpeg", b"\xff\xd8\xff\xda\0\2", "JPEG of 6 bytes without a header: cut short or damaged"),
    ],
)
def test_a_compressed_picture_that_is_none_is_refused(form, content, expected):
    with pytest.raises(MessageError, match=expected) as error:
        messages.compressed_image_from_msg(compressed(content, form))
    assert "\n" not in str(error.value)


def test_16_bits_are_refused():
    content = cv2.imencode(".png", np.zeros((4, 4), np.uint16))[1].tobytes()
    with pytest.raises(MessageError, match="PNG of 16 bits, 8 expected"):
        messages.compressed_image_from_msg(compressed(content, "16UC1; png compressed "))


def test_camera_info_carries_the_matrix():
    matrix = np.array([[101.4, 0.0, 41.5], [0.0, 101.4, 41.5], [0.0, 0.0, 1.0]])
    message = wire(messages.camera_info_to_msg(matrix, 84, 96, STAMP, "camera"))
    stamp, back, height, width = messages.camera_info_from_msg(message)
    assert (stamp, height, width) == (STAMP, 84, 96) and np.array_equal(back, matrix)
    assert np.array_equal(np.array(message.p).reshape(3, 4)[:, :3], matrix)
    with pytest.raises(MessageError, match="focal"):
        messages.camera_info_from_msg(messages.camera_info_to_msg(np.zeros((3, 3)), 84, 84, 0, ""))


def test_joint_states_are_exact_and_read_by_name(rng):
    names = [f"joint{i}" for i in range(9)]
    positions, velocities = rng.normal(size=9), rng.normal(size=9)
    message = wire(messages.joint_state_to_msg(names, positions, velocities, STAMP))
    stamp, back, speeds = messages.joint_state_from_msg(message)
    assert stamp == STAMP and np.array_equal(back, positions) and np.array_equal(speeds, velocities)
    # By name, not by place: drivers order their joints as they like.
    _, two, _ = messages.joint_state_from_msg(message, ["joint8", "joint0"])
    assert np.array_equal(two, positions[[8, 0]])
    message.velocity = []
    assert np.isnan(messages.joint_state_from_msg(message)[2]).all()


def test_joint_motion_is_exact_and_complete(rng):
    names, values = ["slider", "hinge", "hinge2"], rng.standard_normal((3, 3))
    message = wire(messages.joint_state_to_msg(names, values[0], values[1], STAMP, efforts=values[2]))
    stamp, *back = messages.joint_motion_from_msg(message, names[::-1], efforts=True)
    assert stamp == STAMP and np.stack(back).tobytes() == values[:, ::-1].tobytes()
    assert messages.joint_motion_from_msg(message, names, efforts=False)[3].shape == (0,)
    with pytest.raises(MessageError, match="2 efforts, 3 expected"):
        messages.joint_state_to_msg(names, values[0], values[1], STAMP, efforts=values[2, :2])
    message.velocity[1] = float("nan")
    with pytest.raises(MessageError, match=r"velocity \[.*nan.*\] of slider, hinge, hinge2, finite numbers expected"):
        messages.joint_motion_from_msg(message, names, efforts=False)


def test_joint_commands_carry_the_stamp_that_they_answer():
    effort = float(np.float32(0.1))
    message = wire(messages.joint_command_to_msg("slider", effort, STAMP))
    assert messages.joint_command_from_msg(message, "slider") == (STAMP, effort)
    with pytest.raises(MessageError, match="1 efforts, 0 positions and 0 velocities for slider, one effort for cart"):
        messages.joint_command_from_msg(message, "cart")
    message.effort[0] = float("inf")
    with pytest.raises(MessageError, match="effort inf, a finite number expected"):
        messages.joint_command_from_msg(message, "slider")
    assert messages.effort_from_msg(wire(messages.effort_to_msg(np.float32(0.1)))) == effort
    assert messages.discrete_action_from_msg(wire(messages.discrete_action_to_msg(np.int64(1)))) == 1


def test_joint_states_with_holes_are_refused():
    message = messages.joint_state_to_msg(["a", "b"], [0.0, np.nan], [0.0, 0.0], STAMP)
    with pytest.raises(MessageError, match="joint b at nan"):
        messages.joint_state_from_msg(message)
    assert messages.joint_state_from_msg(message, ["a"])[1] == 0.0, "a joint that is not asked for does not matter"
    with pytest.raises(MessageError, match="joint c missing, the message has a, b"):
        messages.joint_state_from_msg(message, ["a", "c"])
    message.position = [0.0]
    with pytest.raises(MessageError, match="1 positions for 2 joints"):
        messages.joint_state_from_msg(message, ["a"])


def test_poses_are_exact_and_cast(rng):
    position, quaternion = rng.normal(size=3), rng.normal(size=4)
    quaternion /= np.linalg.norm(quaternion)
    stamp, p, q = messages.pose_from_msg(wire(messages.pose_to_msg(position, quaternion, STAMP, "world")))
    assert stamp == STAMP and np.array_equal(p, position) and np.array_equal(q, quaternion)
    # float32 scalars and ints are what corrupts a message silently.
    message = wire(messages.pose_to_msg(np.array([1, 2, 3], np.float32), (0, 0, 0, 1), STAMP, "world"))
    assert (message.pose.position.x, message.pose.position.z, message.pose.orientation.w) == (1.0, 3.0, 1.0)


@pytest.mark.parametrize(
    ("position", "quaternion", "expected"),
    [
        ((0, np.nan, 0), (0, 0, 0, 1), "position .*nan.*finite"),
        ((0, 0, np.inf), (0, 0, 0, 1), "position .*inf.*finite"),
        ((0, 0, 0), (0, 0, 0, np.nan), "quaternion .*unit length"),
        ((0, 0, 0), (0, 0, 0, 0), "quaternion .*unit length"),
    ],
)
def test_a_pose_that_is_none_is_refused(position, quaternion, expected):
    with pytest.raises(MessageError, match=expected):
        messages.pose_from_msg(messages.pose_to_msg(position, quaternion, STAMP, "world"))


def chunk(rng: np.random.Generator, n: int = 9) -> ActionChunk:
    return ActionChunk(STAMP, rng.normal(size=(n, 7)), PERIOD)


def test_chunks_and_commands_are_exact(rng):
    sent = chunk(rng)
    message = wire(messages.chunk_to_msg(sent, "world"))
    assert tuple(message.joint_names) == ACTION_NAMES and message.header.frame_id == "world"
    assert messages.stamp_ns(message.points[0].time_from_start) == PERIOD, "done after one period"
    back = messages.chunk_from_msg(message)
    assert (back.stamp_ns, back.period_ns) == (STAMP, PERIOD) and np.array_equal(back.rows, sent.rows)
    stamp, row = messages.command_from_msg(wire(messages.command_to_msg(sent.rows[3], STAMP, PERIOD, "world")))
    assert stamp == STAMP and np.array_equal(row, sent.rows[3])
    with pytest.raises(MessageError, match="9 points, one expected"):
        messages.command_from_msg(message)


def test_an_executed_action_says_whose_it_is(rng):
    row = rng.normal(size=7)

    def message(row, person=True, place=3):
        return messages.executed_to_msg(
            messages.Executed(10**18 + 3, row, person, place, 10**18 - 250_000_000), PERIOD, "world"
        )

    for person, place in ((False, 5), (True, -1)):
        msg = message(row, person, place)
        assert (msg.joint_names[-3:], msg.header.frame_id) == (["row", "age", "person"], "world")
        assert messages.stamp_ns(msg.points[0].time_from_start) == PERIOD
        stamp, again, whose, *chunk = messages.executed_from_msg(msg)
        assert (stamp, whose, *chunk) == (10**18 + 3, person, place, 10**18 - 250_000_000) and np.array_equal(
            again, row
        )
    # As the first bags have it.
    del msg.joint_names[-3:-1]
    msg.points[0].positions = [*row, 1.0]
    assert messages.executed_from_msg(msg)[2:] == (True, -1, 10**18 + 3)
    for wrong, why in (
        (messages.command_to_msg(row, 1, PERIOD, "world"), "joint names"),
        (message(np.full(7, np.nan)), "finite"),
        (message(row[:6]), "one of 10 positions expected"),
        (message(row, place=0.5), r"row 0\.5, an integer from -1 to 255 expected"),
        (message(row, place=256), "row 256, an integer"),
    ):
        with pytest.raises(messages.MessageError, match=why):
            messages.executed_from_msg(wrong)
    msg.points[0].positions[-1] = 0.5
    with pytest.raises(messages.MessageError, match=r"person 0\.5, 0 or 1 expected"):
        messages.executed_from_msg(msg)


def test_a_persons_row_says_whether_they_hold_the_dead_man(rng):
    row = rng.normal(size=7)
    for sent in (row, np.zeros(7)):
        msg = wire(messages.teleop_to_msg(sent, True, STAMP, PERIOD, "world"))
        stamp, back, period = messages.teleop_from_msg(msg)
        assert (stamp, period, msg.joint_names[-1]) == (STAMP, PERIOD, "held") and np.array_equal(back, sent)
        assert messages.teleop_from_msg(messages.teleop_to_msg(sent, False, STAMP, PERIOD, "world"))[1] is None
    plain = messages.teleop_from_msg(messages.command_to_msg(row, STAMP, PERIOD, "world"))
    assert np.array_equal(plain[1], row) and (plain[0], plain[2]) == (STAMP, PERIOD)
    assert messages.teleop_from_msg(messages.command_to_msg(np.zeros(7), STAMP, PERIOD, "world"))[1] is None
    for wrong, why in (
        (messages.executed_to_msg(messages.Executed(STAMP, row, True, -1, STAMP), PERIOD, "world"), "joint names"),
        (messages.teleop_to_msg(np.full(7, np.nan), True, STAMP, PERIOD, "world"), "eef_dx of point 0 is nan"),
        (messages.teleop_to_msg(row, 0.5, STAMP, PERIOD, "world"), r"held 0\.5, 0 or 1 expected"),
    ):
        with pytest.raises(MessageError, match=why):
            messages.teleop_from_msg(wrong)


def test_a_chunk_that_is_none_is_refused(rng):
    def refused(change, expected):
        message = messages.chunk_to_msg(chunk(rng), "world")
        change(message)
        with pytest.raises(MessageError, match=expected) as error:
            messages.chunk_from_msg(message)
        assert "\n" not in str(error.value)

    def reorder(message):
        message.joint_names = [*ACTION_NAMES[::-1]]

    def nan(message):
        message.points[2].positions = [0.0, 0.0, float("nan"), 0.0, 0.0, 0.0, 0.0]

    def short(message):
        message.points[8].positions = [0.0] * 6

    def late(message):
        message.points[4].time_from_start.nanosec += 1

    def none(message):
        message.points = []

    def timeless(message):
        message.points = [JointTrajectoryPoint(positions=[0.0] * 7)]

    refused(reorder, "joint names gripper, eef_drz.* expected")
    refused(nan, "eef_dz of point 2 is nan")
    refused(short, "point 8 has 6 positions, 7 expected")
    refused(late, "point 4 is done after 250000001 ns, 250000000 expected")
    refused(none, "0 points, 1 to 256 expected")
    refused(timeless, "0 ns, more than 0")


def test_episodes_are_json():
    episode = {"index": 3, "seed": 100003, "step": 17, "reward": 1.0, "success": True}
    assert messages.episode_from_msg(wire(messages.episode_to_msg(episode))) == episode
    for text in ("", "[1]", "{"):
        with pytest.raises(MessageError):
            messages.episode_from_msg(String(data=text))


def test_diagnostics_keep_their_level_which_is_a_byte():
    sent = [
        messages.Status("executor", "arm", level, "holding: no chunk yet", {"held": "3"})
        for level in (messages.OK, messages.WARN, messages.ERROR, messages.STALE)
    ]
    message = wire(messages.diagnostics_to_msg(sent, STAMP))
    assert message.status[1].level == b"\x01"
    assert messages.diagnostics_from_msg(message) == sent


def test_paths_keep_points_and_times(rng):
    points = rng.normal(size=(4, 3))
    stamps = [STAMP + i for i in range(4)]
    back, times = messages.path_from_msg(wire(messages.path_to_msg(points, stamps, STAMP, "world")))
    assert np.array_equal(back, points) and times == stamps
    assert messages.path_from_msg(messages.path_to_msg(np.zeros((0, 3)), [], STAMP, "world"))[0].shape == (0, 3)


def geom(kind: str, size: tuple[float, float, float], triangles=None, body: str = "") -> SceneGeom:
    pose = np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.0, 0.0, 1.0])
    return SceneGeom(kind, kind, size, *pose, (0.1, 0.2, 0.3, 1.0), triangles, body)


def test_geoms_become_markers_of_their_full_size():
    triangles = np.arange(18, dtype=np.float32).reshape(2, 3, 3)
    geoms = [
        geom("box", (0.1, 0.2, 0.3)),
        geom("sphere", (0.1, 0.0, 0.0)),
        geom("cylinder", (0.1, 0.4, 0.0)),
        geom("capsule", (0.1, 0.4, 0.0)),
        geom("ellipsoid", (0.1, 0.2, 0.3)),
        geom("mesh", (0.0, 0.0, 0.0), triangles),
    ]
    markers = wire(messages.scene_to_msg(geoms, STAMP, "world")).markers
    scales = [(m.scale.x, m.scale.y, m.scale.z) for m in markers]
    np.testing.assert_allclose(
        scales,
        [(0.2, 0.4, 0.6), (0.2, 0.2, 0.2), (0.2, 0.2, 0.8), (0.2, 0.2, 1.0), (0.2, 0.4, 0.6), (1, 1, 1)],
        atol=1e-12,
    )
    assert [m.type for m in markers] == [
        Marker.CUBE,
        Marker.SPHERE,
        Marker.CYLINDER,
        Marker.CYLINDER,
        Marker.SPHERE,
        Marker.TRIANGLE_LIST,
    ]
    assert len({m.id for m in markers}) == 6 and markers[0].pose.position.z == 3.0
    assert [(p.x, p.y, p.z) for p in markers[5].points] == [tuple(p) for p in triangles.reshape(-1, 3).tolist()]
    with pytest.raises(MessageError, match="'torus'"):
        messages.scene_to_msg([geom("torus", (1, 1, 1))], STAMP, "world")


def test_a_scene_is_read_as_it_was_written():
    triangles = np.arange(18, dtype=np.float32).reshape(2, 3, 3)
    geoms = [
        geom("box", (0.1, 0.2, 0.3)),
        geom("cylinder", (0.1, 0.4, 0.0), body="hand"),
        geom("ellipsoid", (0.1, 0.2, 0.3)),
        geom("mesh", (0.5, 0.5, 0.5), triangles, "hand"),
    ]
    msg = wire(messages.scene_to_msg(geoms, STAMP, "world", {"hand": "left/scene/hand"}))
    assert [m.frame_locked for m in msg.markers] == [False, True, False, True]
    read = messages.scene_from_msg(msg)
    assert [g.body for g in read] == ["world", "left/scene/hand", "world", "left/scene/hand"]
    for was, now in zip(geoms, read, strict=True):
        assert now.type == was.type and now.size == pytest.approx(was.size)
        assert now.rgba == pytest.approx(was.rgba)
        np.testing.assert_array_equal(now.position, was.position)
        np.testing.assert_array_equal(now.quaternion, was.quaternion)
    np.testing.assert_array_equal(read[3].triangles, triangles)
    wall = geom("box", (1.0, 1.0, 0.1))
    markers = messages.scene_to_msg([replace(wall, name="wall_left"), wall], STAMP, "world").markers
    assert [m.ns for m in markers] == ["walls", "scene"]
    for change, match in (
        (lambda m: setattr(m.pose.position, "x", float("nan")), "finite numbers"),
        (lambda m: setattr(m, "type", Marker.TEXT_VIEW_FACING), "a shape expected"),
        (lambda m: m.points.pop(), "corners of triangles"),
    ):
        broken = wire(msg)
        change(broken.markers[3])
        with pytest.raises(MessageError, match=match):
            messages.scene_from_msg(broken)


def test_poses_by_name():
    poses = {"hand": ((1.0, 2.0, 3.0), (0.0, 0.0, 0.0, 1.0)), "can": ((4.0, 5.0, 6.0), (1.0, 0.0, 0.0, 0.0))}
    stamp, read = messages.poses_from_msg(wire(messages.poses_to_msg(poses, STAMP, "world")))
    assert stamp == STAMP and list(read) == ["hand", "can"]
    for name, (position, quaternion) in poses.items():
        np.testing.assert_array_equal(read[name][0], position)
        np.testing.assert_array_equal(read[name][1], quaternion)
    msg = messages.poses_to_msg(poses, STAMP, "world")
    msg.transforms.pop()
    with pytest.raises(MessageError, match="1 transforms for 2 names"):
        messages.poses_from_msg(msg)
    msg = messages.poses_to_msg({"hand": ((float("inf"), 0, 0), (0, 0, 0, 1))}, STAMP, "world")
    with pytest.raises(MessageError, match=r"hand: .*finite numbers"):
        messages.poses_from_msg(msg)


def test_transforms_carry_pose_and_frames():
    message = wire(messages.transform_to_msg((1, 2, 3), (0, 0, 0, 1), STAMP, "world", "camera"))
    assert (message.header.frame_id, message.child_frame_id) == ("world", "camera")
    assert (message.transform.translation.y, message.transform.rotation.w) == (2.0, 1.0)


@pytest.mark.parametrize("kind", ["delta", "tool_delta", "pose"])
def test_the_columns_names_say_what_a_chunks_rows_are(kind: str) -> None:
    rows = np.random.default_rng(0).normal(size=(3, 7))
    chunk = ActionChunk(5_000_000_000, rows, 50_000_000, kind)
    msg = messages.chunk_to_msg(chunk, "world")
    read = messages.chunk_from_msg(msg)
    assert read.kind == kind
    np.testing.assert_array_equal(read.rows, rows)
    if kind != "delta":
        # The simulator and drivers of its kind understand motions alone.
        msg.points = msg.points[:1]
        with pytest.raises(messages.MessageError, match="eef_dx"):
            messages.command_from_msg(msg)


def test_no_two_markers_of_a_message_have_the_same_name() -> None:
    """RViz refuses the whole message else ("Duplicate Marker Check"), what deletes the others included."""
    line, red = [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], (1.0, 0.0, 0.0, 1.0)
    for msg in (
        messages.lines_to_msg([line] * 3, [red] * 3, "candidates", "map"),
        messages.balls_to_msg([[0.0, 0.0, 0.0, 0.1]] * 3, red, "obstacles", "map"),
    ):
        names = [(marker.ns, marker.id) for marker in msg.markers]
        assert len(set(names)) == len(names) == 4
        assert msg.markers[0].action == Marker.DELETEALL and msg.markers[0].ns == msg.markers[1].ns
