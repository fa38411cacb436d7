"""CameraGuard: a guard checkpoint behind numpy, and Judgement: when its scores are an alarm. No ROS."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffusion_ros.models.kind import Checkpoint, Kind, check_single
from diffusion_ros.models.policy import FrameError
from diffusion_ros.robot import EEF_POS, EEF_QUAT
from diffusion_ros.spec import CheckpointSpec, SpecError

GUARD_KIND = "camera guard"


@dataclass(frozen=True)
class CameraScore:
    """The guard's score of one picture."""

    score: float
    """In parts of the threshold that was calibrated at export: above 1 the camera does not show what it should."""
    heat: NDArray[np.float32]
    """(h, w), at least 0: where it does not, in the same parts."""


class CameraGuard:
    """Scores pictures by how far partial noising and denoising by a model of good ones leads away from them, beside how
    far it does so for good ones when the hand is where it is."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.spec: CheckpointSpec = checkpoint.spec
        self._shapes = {tensor.name: tensor.shape for tensor in self.spec.inputs}

    @property
    def cameras(self) -> tuple[str, ...]:
        """Those that it knows."""
        return self.spec.cameras

    def shape(self, camera: str) -> tuple[int, ...]:
        """(H, W, 3) of the pictures that it knows of a camera."""
        return self._shapes[f"{camera}_image"]

    def look(self, camera: str, image: NDArray[Any], pose: NDArray[np.float64]) -> CameraScore:
        """Scores image (H, W, 3) uint8, taken while the hand was at pose (7): position [m], quaternion xyzw.

        Raises FrameError for an image or a pose of another shape or type, ValueError for another camera.
        """
        import torch

        if camera not in self.cameras:
            raise ValueError(f"camera {camera!r}: the guard knows {', '.join(self.cameras)}")
        shape = self._shapes[f"{camera}_image"]
        if image.shape != shape or image.dtype != np.uint8:
            raise FrameError(f"{camera}: {image.dtype} {image.shape}, the guard expects uint8 {shape}")
        if pose.shape != (7,) or not np.isfinite(pose).all():
            raise FrameError(f"pose {pose.tolist()}: 7 finite numbers expected")
        device = self.checkpoint.device
        batch = torch.from_numpy(np.array(image))[None].to(device)
        poses = torch.from_numpy(pose.astype(np.float32))[None].to(device)
        with torch.inference_mode():
            score, heat = self.checkpoint.module.score(batch, poses, self.cameras.index(camera))
        return CameraScore(float(score[0]), heat[0].float().cpu().numpy())


@dataclass
class Judgement:
    """An alarm from the scores of one camera: one picture that is far beyond, or two of the last three above 1.

    It ends after `good_frames` pictures in a row of at most 1: a robot that goes on at the first good one would do so
    in between two bad ones.
    """

    good_frames: int = 3
    far: float = 3.0
    """Parts of the threshold beyond which one picture is enough."""
    alarm: bool = False
    score: float = float("nan")
    """The last."""
    _bad: deque[bool] = field(default_factory=lambda: deque(maxlen=3))
    _good: int = 0

    def add(self, score: float) -> bool:
        """Takes the score of the next picture in; whether there is an alarm. A score that is NaN is bad."""
        self.score = score
        self._bad.append(not score <= 1.0)
        self._good = self._good + 1 if score <= 1.0 else 0
        if sum(self._bad) >= 2 or not score <= self.far:
            self.alarm = True
        elif self._good >= self.good_frames:
            self.alarm = False
        return self.alarm

    def distrust(self) -> None:
        """An alarm for another reason than a score, as a camera that was silent: it ends as all do."""
        self.alarm, self._good = True, 0


def _check(spec: CheckpointSpec) -> None:
    """What holds for a guard of cameras."""
    check_single(spec, ("action_low", "action_high", "workspace_low", "workspace_high"))
    others = [(tensor.name, tensor.shape) for tensor in spec.inputs[len(spec.cameras) :]]
    if not spec.cameras or others != [(EEF_POS, (3,)), (EEF_QUAT, (4,))]:
        raise SpecError(
            f"spec: inputs {', '.join(spec.input_names)}, images, robot0_eef_pos (3) and robot0_eef_quat (4)"
            f" expected in a {spec.kind}"
        )
    if [(tensor.name, tensor.shape) for tensor in spec.outputs] != [("score", (1,))]:
        raise SpecError(f"spec: outputs {', '.join(t.name for t in spec.outputs)}, score (1) alone expected")


def _dry_run(checkpoint: Checkpoint) -> str:
    import torch

    poses = torch.tensor([[0.0, 0, 0, 0, 0, 0, 1]], device=checkpoint.device).repeat(2, 1)
    for camera, tensor in enumerate(checkpoint.spec.inputs[: len(checkpoint.spec.cameras)]):
        images = torch.zeros((2, *tensor.shape), dtype=torch.uint8, device=checkpoint.device)
        images[1] = 255
        with torch.inference_mode():
            score, heat = checkpoint.module.score(images, poses, camera)
        if tuple(score.shape) != (2,) or heat.ndim != 3 or len(heat) != 2:
            return f"gives scores {tuple(score.shape)} and heat {tuple(heat.shape)}, (2,) and (2, h, w) expected"
        if not bool(score.isfinite().all()) or not bool(heat.isfinite().all()):
            return f"gives scores of {tensor.name} that are NaN or infinite"
    return ""


KIND = Kind(GUARD_KIND, _check, ("score",), _dry_run)
"""score(images (B, H, W, 3) uint8, poses (B, 7), camera), camera a place among the inputs, gives scores (B,) float32,
above 1 for what that camera should not show, and where, (B, h, w) float32."""
