"""What a robot's drivers publish and how often, as its file says it: what a rehearsal has to stand in for. No ROS.

A simulated arm can stand in for a robot only within what it is: a Panda, or a Panda whose third joint is locked, with a
gripper of two fingers. :func:`streams` refuses, in one line, what a file asks for beyond that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffusion_ros import yaml_file
from diffusion_ros.control.pictures import encode
from diffusion_ros.robot import GRIPPER_QPOS
from diffusion_ros.robot_file import HAND, JointsSource, RobotFile, RobotFileError
from diffusion_ros.spec import IMAGE_SUFFIX

Array = NDArray[np.float64]

ENCODINGS = ("rgb8", "bgr8", "yuv422_yuy2")
LOCKED = 2
"""Joint of the Panda that is locked to make it an arm of six."""
_PRESET_ENCODINGS = {"usb_cam": "yuv422_yuy2"}
"""By camera preset; rgb8 of others."""
_FRANKAS = ("crisp", "fci")
_FRANKA_GRIPPER_RATE = 15.0
_GRIPPER_RATE = 50.0
_RATES = {"crisp": 1000.0, "fci": 100.0, "servo": 500.0, "forward": 500.0, "kortex": 1000.0}
"""Of poses and joints [Hz]. jtc: that of UR's driver with six joints, of xArm's with seven."""
_CRISP_JOINTS_RATE = 30.0
"""franka_ros2's joint_state_publisher."""


@dataclass(frozen=True)
class CameraStream:
    """A camera of the robot's file."""

    name: str
    """The simulator's camera."""
    topic: str
    encoding: str
    latency: float
    reliable: bool
    crop: tuple[int, int, int, int] | None

    @property
    def compressed(self) -> bool:
        return self.topic.endswith("/compressed")

    @property
    def info_topic(self) -> str:
        return f"{self.topic.removesuffix('/compressed').rpartition('/')[0]}/camera_info"


@dataclass(frozen=True)
class Streams:
    """What is published."""

    pose_rate: float
    """Of the hand's pose [Hz]."""
    joints_rate: float
    """Of the arm's joints."""
    gripper_rate: float
    unreliable_pose: bool
    """Best effort, of which only the newest counts, as franka_ros2's broadcaster has it."""
    joints_topic: str
    """Of the arm; '' where nobody reads them."""
    fingers: JointsSource | None
    cameras: tuple[CameraStream, ...]
    locked: tuple[int, ...]

    def gripper_joints(self, fingers: Array) -> tuple[list[str], list[float]]:
        """Names and positions of the driver's joints for both fingers (2) [m], as the policies know them."""
        source = self.fingers
        if source is None:
            return [], []
        said: dict[str, list[float]] = {}
        for joint, scale, offset, finger in zip(
            source.joints, source.scale, source.offset, fingers.tolist(), strict=True
        ):
            said.setdefault(joint, []).append((finger - offset) / scale)
        return list(said), [float(np.mean(values)) for values in said.values()]


def picture_size(text: str) -> tuple[int, int]:
    """Width and height of '640x480' [px]. Raises ValueError."""
    if not re.fullmatch(r"[1-9]\d{1,3}x[1-9]\d{1,3}", text):
        raise ValueError(f"picture_size {text!r}: one like 640x480 expected")
    width, height = text.split("x")
    return int(width), int(height)


def streams(robot: RobotFile, cameras: Sequence[str], encoding: str, width: int, height: int, rate: float) -> Streams:
    """cameras: the simulator's; encoding: of all pictures, '' for the presets'; rate: of poses and joints, 0 for the
    driver's own. Raises RobotFileError."""

    def error(key: str, rule: str) -> RobotFileError:
        return RobotFileError(f"{robot.path}: {key}: {rule}")

    if robot.description is not None and robot.description.file:
        raise error(
            "description.file", f"{robot.description.file}: a topic expected in rehearsal, whose arm is another"
        )
    if len(robot.joints) not in (0, 6, 7):
        raise error("joints", f"{len(robot.joints)}, 6 or 7 expected in rehearsal")
    for name in robot.numbers:
        if name != GRIPPER_QPOS:
            raise error(f"observations.{name}", f"only {GRIPPER_QPOS} expected in rehearsal: nothing else is simulated")
    fingers = robot.numbers.get(GRIPPER_QPOS)
    if fingers is not None and len(fingers.joints) != 2:
        raise error(f"observations.{GRIPPER_QPOS}", f"{len(fingers.joints)} joints, two expected in rehearsal")
    hand = robot.poses[HAND]
    joints_topic = ""
    if robot.joints:
        joints_topic = hand.topic if hand.source == "fk" else fingers.topic if fingers is not None else ""
    presets = _presets(robot)
    found = []
    for name, picture in robot.pictures.items():
        key = f"observations.{name}{IMAGE_SUFFIX}"
        if name not in cameras:
            raise error(key, f"one of the simulator's cameras expected: {', '.join(cameras)}")
        if picture.crop is not None:
            x, y, w, h = picture.crop
            if x + w > width or y + h > height:
                raise error(f"{key}.crop", f"{list(picture.crop)}, inside of {width} x {height} expected")
        own = encoding or _PRESET_ENCODINGS.get(presets.get(name, ""), "rgb8")
        found.append(CameraStream(name, picture.topic, own, picture.latency, picture.reliable, picture.crop))
    own_rate = rate or _RATES.get(robot.driver, 500.0 if len(robot.joints) == 6 else 50.0)
    return Streams(
        pose_rate=own_rate,
        joints_rate=_CRISP_JOINTS_RATE if robot.driver == "crisp" and hand.source != "fk" else own_rate,
        gripper_rate=_FRANKA_GRIPPER_RATE if robot.driver in _FRANKAS else _GRIPPER_RATE,
        unreliable_pose=robot.driver in _FRANKAS,
        joints_topic=joints_topic,
        fingers=fingers,
        cameras=tuple(found),
        locked=(LOCKED,) if len(robot.joints) == 6 else (),
    )


def _presets(robot: RobotFile) -> Mapping[str, str]:
    """What the file names as each camera's driver."""
    content = yaml_file.load(robot.path)
    return {
        name.removesuffix(IMAGE_SUFFIX): str(source.get("camera", ""))
        for name, source in content["observations"].items()
        if name.endswith(IMAGE_SUFFIX)
    }


class Schedule:
    """Times at which a stream of `rate` [Hz] is due. After a gap it begins anew, as a driver that was switched on."""

    def __init__(self, rate: float, phase: float = 0.0) -> None:
        """phase: of a period, by which it comes later than another one of the same rate."""
        self.period_ns = round(1e9 / rate)
        self._phase_ns = round(phase * self.period_ns)
        self._next: int | None = None

    def restart(self) -> None:
        self._next = None

    def due(self, now_ns: int) -> Sequence[int]:
        """Those up to now, in order, that were not given before [ns]."""
        if self._next is None:
            self._next = now_ns + self._phase_ns
        if self._next > now_ns:
            return ()
        times = range(self._next, now_ns + 1, self.period_ns)
        self._next = times[-1] + self.period_ns
        return times


def encoded(image: NDArray[np.uint8], encoding: str) -> NDArray[np.uint8]:
    """(H, W, bytes of a pixel) of rgb (H, W, 3), in one of ENCODINGS."""
    import cv2

    if encoding == "bgr8":
        return image[..., ::-1]
    if encoding == "yuv422_yuy2":
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2YUV_YUY2), np.uint8)
    return image


def jpeg(image: NDArray[np.uint8]) -> bytes:
    """Of rgb (H, W, 3), as image_transport's `compressed` makes it."""
    return encode(image, "jpeg")


def part(image: NDArray[np.uint8], crop: Sequence[int] | None, size: int) -> NDArray[np.uint8]:
    """(size, size, 3) of a crop, or of the square in the middle, for a video."""
    import cv2

    height, width = image.shape[:2]
    side = min(height, width)
    x, y, w, h = crop if crop is not None else ((width - side) // 2, (height - side) // 2, side, side)
    return np.asarray(cv2.resize(image[y : y + h, x : x + w], (size, size), interpolation=cv2.INTER_AREA), np.uint8)
