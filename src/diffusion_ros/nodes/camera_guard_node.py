"""camera_guard: tells the executor to hold while a camera does not show what the policy was trained on.

Callbacks only check and store. A worker thread scores the newest picture of each camera in turn, so that no sensor
waits for it. All pictures are compared to find a frozen camera; other faults are found in the pictures that are scored.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image

from diffusion_ros import checkpoint
from diffusion_ros.control.frozen_cameras import FrozenCameras
from diffusion_ros.control.history import History
from diffusion_ros.models.camera_guard import GUARD_KIND, CameraGuard, CameraScore, Judgement
from diffusion_ros.models.policy import FrameError
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.diagnostics import ERROR, OK, WARN, Diagnostics
from diffusion_ros.ros.listener import Listener
from diffusion_ros.ros.managed_node import AUTOSTART, ManagedNode
from diffusion_ros.ros.params import declare, parameter
from diffusion_ros.ros.picture_publisher import COMPRESSED, PicturePublisher
from diffusion_ros.ros.runner import run
from diffusion_ros.ros.trusted_checkpoint import TrustedCheckpoint, identity
from diffusion_ros.ros.worker import Worker, failure


@dataclass(frozen=True)
class CameraGuardParameters(TrustedCheckpoint):
    """Parameters of the camera guard node."""

    checkpoint: str = parameter(description="path of a guard checkpoint (.pt)")
    device: str = parameter("cpu", "torch device that the guard runs on")
    threads: int = parameter(1, "torch threads; more than one take time from the other nodes", low=1)
    rate: float = parameter(5.0, "pictures of each camera that are scored in a second [Hz]", low=0.1, high=100.0)
    good_frames: int = parameter(3, "good pictures in a row after which an alarm ends", low=1)
    max_frozen: float = parameter(
        0.25, "how long a camera may show the same picture while the robot moves [s]; 0: not checked", low=0.0
    )
    max_image_age: float = parameter(0.5, "a camera that is silent for longer is an alarm [s]", low=0.05)
    max_pose_gap: float = parameter(
        0.1, "longest time from a picture to the eef_pose that it is seen with [s]", low=0.0
    )
    compressed_pictures: bool = parameter(False, COMPRESSED)
    autostart: bool = parameter(True, AUTOSTART)


POSES_NS = 2_000_000_000
"""How long poses of the hand are kept, however many come."""


@dataclass(frozen=True)
class Picture:
    """What is to be scored."""

    camera: str
    came: float
    """In the robot's time [s]."""
    stamp_ns: int
    image: NDArray[np.uint8]
    """(H, W, 3)."""
    frame_id: str = ""


class CameraGuardNode(ManagedNode):
    """Subscribes to eef_pose and to the cameras of its checkpoint.

    Publishes camera_guard (a DiagnosticStatus with the verdict and the scores), <camera>/guard_heat (the picture, with
    red where something is wrong) and diagnostics.
    """

    def __init__(self, parameter_overrides: Sequence[Parameter[Any]] = ()) -> None:
        """Raises ValueError (parameters, checkpoint) in one line."""
        super().__init__("camera_guard", parameter_overrides)
        self.parameters = p = declare(self, CameraGuardParameters)
        self.start(p.autostart)

    def configure(self) -> None:
        p = self.parameters
        torch.set_num_threads(p.threads)
        loaded = checkpoint.load(p.checkpoint, p.device, kind=GUARD_KIND, **p.trust)
        self.get_logger().info(identity(p.checkpoint, loaded.sha256, loaded.signer))
        self.guard = CameraGuard(loaded)
        self._judgements = {camera: Judgement(p.good_frames) for camera in self.guard.cameras}
        self._faults: dict[str, str] = {}
        """By camera: why its last picture could not be used."""
        self._scored: dict[str, float] = {}
        """By camera: when the picture came that was scored last."""
        self._frozen = FrozenCameras(round(p.max_frozen * 1e9))
        self._frozen_reasons: list[str] = []
        """Found out on the node's thread, read on both."""
        self._poses: History[NDArray[np.float64]] = History(POSES_NS)
        """The hand's position [m] and quaternion xyzw (7). With the worker's condition held."""

        self._publisher = self.create_publisher(DiagnosticStatus, topics.CAMERA_GUARD, topics.COMMAND_QOS)
        self._heat_publishers = {
            camera: PicturePublisher(self, topics.guard_heat(camera), p.compressed_pictures)
            for camera in self.guard.cameras
        }
        self.diagnostics = Diagnostics(self, "camera guard", self._refresh)
        self.diagnostics.value("checkpoint", p.checkpoint)
        self.diagnostics.value("sha256", self.guard.checkpoint.sha256)
        self._listeners: dict[str, Listener[Image]] = {
            camera: Listener(
                self,
                Image,
                topics.image(camera),
                partial(self._on_image, camera),
                partial(self._on_bad_image, camera),
                topics.BEST_EFFORT_QOS,
            )
            for camera in self.guard.cameras
        }
        self._poses_listener = Listener(
            self, PoseStamped, topics.EEF_POSE, self._on_pose, lambda error, msg: None, topics.BEST_EFFORT_QOS
        )

        self._worker = Worker("scoring", self._take, self._work)
        self._newest: dict[str, Picture] = {}
        self._due: list[str] = []
        self._worker.start()
        self.every(1.0 / p.rate, self._on_timer)

    def activate(self) -> None:
        """No view is trusted before it was good for a while."""
        if self._started:
            with self._worker.condition:
                for judgement in self._judgements.values():
                    judgement.distrust()

    # Callbacks: check and store

    def _on_image(self, camera: str, msg: Image) -> None:
        if conflict := self._listeners[camera].conflict():
            raise messages.MessageError(conflict)
        stamp_ns, image = messages.image_from_msg(msg)
        expected = self.guard.shape(camera)
        if image.shape != expected:
            raise messages.MessageError(
                f"{image.shape[1]} x {image.shape[0]} pixels, the guard expects {expected[1]} x {expected[0]}"
            )
        silent = self.diagnostics.age(topics.image(camera))
        self.diagnostics.tick(topics.image(camera))
        self._frozen.image(camera, stamp_ns, image)
        with self._worker.condition:
            if silent is not None and silent > self.parameters.max_image_age:
                self._judgements[camera].distrust()
            self._newest[camera] = Picture(camera, self.seconds(), stamp_ns, image, msg.header.frame_id)
        self._frozen_reasons = self._frozen.reasons()
        if self._frozen_reasons:
            self._tell()

    def _on_bad_image(self, camera: str, error: messages.MessageError, msg: Image | None) -> None:
        with self._worker.condition:
            self._newest.pop(camera, None)
            self._judgements[camera].distrust()
            self._faults[camera] = f"{topics.shown(self, topics.image(camera))}: {error}"

    def _on_pose(self, msg: PoseStamped) -> None:
        """The executor says what is wrong with one that cannot be used."""
        if self._poses_listener.conflict():
            return
        stamp_ns, position, quaternion = messages.pose_from_msg(msg)
        self._frozen.position(stamp_ns, position)
        with self._worker.condition:
            self._poses.add(stamp_ns, np.concatenate([position, quaternion]))

    def _on_timer(self) -> None:
        """Asks for the newest picture of each camera to be scored; where none came since, the verdict says so."""
        if not self.active:
            return  # and the executor holds, as it hears nothing
        with self._worker.condition:
            # To those that still wait: where scoring is slow, all cameras have their turn.
            self._due += [camera for camera in self.guard.cameras if camera in self._newest and camera not in self._due]
            self._worker.condition.notify()
            none = not self._due
        if none:
            self._tell()

    # The worker thread

    def _take(self) -> Picture | None:
        while self._due:
            picture = self._newest.pop(self._due.pop(0), None)
            if picture is not None:  # and not dropped by a message that could not be used
                return picture
        return None

    def _pose_at(self, picture: Picture) -> NDArray[np.float64]:
        """The hand's (7) whose stamp is nearest. Raises FrameError where none is near."""
        with self._worker.condition:
            found = self._poses.nearest(picture.stamp_ns)
        if found is None or abs(found[0] - picture.stamp_ns) / 1e9 > self.parameters.max_pose_gap:
            near = f"within {self.parameters.max_pose_gap} s of the picture of {picture.camera}"
            raise FrameError(f"{topics.shown(self, topics.EEF_POSE)}: none {near}")
        return found[1]

    def _work(self, picture: Picture) -> None:
        camera = picture.camera
        try:
            pose = self._pose_at(picture)
            began = time.monotonic()
            found = self.guard.look(camera, picture.image, pose)
            self.diagnostics.latency(f"{camera} scoring", time.monotonic() - began)
            with self._worker.condition:
                self._faults.pop(camera, None)
                self._judgements[camera].add(found.score)
                self._scored[camera] = picture.came
            self._show(picture, found)
        except FrameError as error:
            self._faults[camera] = str(error)
        except Exception as error:
            if camera not in self._faults:
                self.get_logger().error(traceback.format_exc())
            self._faults[camera] = f"{camera}: {failure('scoring', error)}"
        self._tell()

    def _show(self, scored: Picture, found: CameraScore) -> None:
        publisher = self._heat_publishers[scored.camera]
        if publisher.get_subscription_count() == 0:
            return
        image = scored.image
        height, width = image.shape[:2]
        heat = np.clip(cv2.resize(found.heat, (width, height), interpolation=cv2.INTER_LINEAR) / 2, 0, 1)[..., None]
        red = np.array([255, 0, 0])
        picture = ((1 - heat) * image + heat * red).astype(np.uint8)
        publisher.publish(picture, scored.stamp_ns, scored.frame_id)

    # The verdict

    def reasons(self) -> tuple[int, list[str]]:
        """Level, and why the robot should hold, a line each; none when all is well."""
        p = self.parameters
        reasons = list(self._faults.values())
        waits = []
        for camera, judgement in self._judgements.items():
            age = self.diagnostics.age(topics.image(camera))
            scored = self._scored.get(camera)
            if age is None:
                waits.append(f"{topics.shown(self, topics.image(camera))}: nothing received")
            elif age > p.max_image_age:
                reasons.append(f"{topics.shown(self, topics.image(camera))}: silent for {age:.2f} s")
            elif scored is None:
                if camera not in self._faults:
                    waits.append(f"{camera}: not scored yet")
            elif (late := self.seconds() - scored) > p.max_image_age + 1.0 / p.rate:
                reasons.append(f"{camera}: the last picture that was scored is {late:.2f} s old")
            elif judgement.alarm and judgement.score <= 1.0:
                reasons.append(f"{camera} is good again, but not for {p.good_frames} pictures yet")
            elif judgement.alarm:
                reasons.append(f"{camera} does not show what it was trained on, score {judgement.score:.2f} of 1")
        reasons += self._frozen_reasons
        return (ERROR if reasons else WARN if waits else OK), reasons + waits

    def _tell(self) -> None:
        if not self.active:
            return
        level, reasons = self.reasons()
        name = self.get_fully_qualified_name().removeprefix("/")
        scores = {f"{camera} score": f"{judgement.score:.4f}" for camera, judgement in self._judgements.items()}
        status = messages.Status(name, "camera guard", level, "; ".join(reasons) or "views are good", scores)
        self._publisher.publish(messages.status_to_msg(status))
        self.diagnostics.tick(topics.CAMERA_GUARD)

    def _refresh(self) -> None:
        level, reasons = self.reasons()
        for camera, judgement in self._judgements.items():
            self.diagnostics.value(f"{camera} score", f"{judgement.score:.4f}")
        if not self.active:
            level, reasons = WARN, ["not active"]
        self.diagnostics.report(level, "; ".join(reasons) or "views are good")

    def cleanup(self) -> None:
        self._worker.close()


def main() -> int:
    return run(CameraGuardNode)


if __name__ == "__main__":
    raise SystemExit(main())
