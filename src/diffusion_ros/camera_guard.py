"""CameraGuard: a guard checkpoint behind numpy, and what its scores come to. No ROS."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion_ros.policy import FrameError
from diffusion_ros.spec import CheckpointSpec

if TYPE_CHECKING:
    from diffusion_ros.checkpoint import Checkpoint


@dataclass(frozen=True)
class View:
    """What a guard makes of one picture."""

    score: float
    """In parts of the threshold that was calibrated at export: above 1 the camera does not show what it should."""
    heat: NDArray[np.float32]
    """(h, w), at least 0: where it does not, in the same parts."""


class CameraGuard:
    """Scores pictures by how far partial noising and denoising by a model of good ones leads away from them."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.spec: CheckpointSpec = checkpoint.spec
        self._shapes = {tensor.name: tensor.shape for tensor in self.spec.inputs}

    @property
    def cameras(self) -> tuple[str, ...]:
        """Those that it knows."""
        return self.spec.cameras

    def look(self, camera: str, image: NDArray[Any]) -> View:
        """Scores image (H, W, 3) uint8. Raises FrameError for another shape or type, ValueError for another camera."""
        if camera not in self.cameras:
            raise ValueError(f"camera {camera!r}: the guard knows {', '.join(self.cameras)}")
        shape = self._shapes[f"{camera}_image"]
        if image.shape != shape or image.dtype != np.uint8:
            raise FrameError(f"{camera}: {image.dtype} {image.shape}, the guard expects uint8 {shape}")
        batch = torch.from_numpy(np.array(image))[None].to(self.checkpoint.device)
        with torch.inference_mode():
            score, heat = self.checkpoint.module.score(batch, self.cameras.index(camera))
        return View(float(score[0]), heat[0].float().cpu().numpy())


@dataclass
class Judgement:
    """An alarm from the scores of one camera: strong evidence at once, weak evidence if it lasts while the robot moves.

    Strong is one picture that is far beyond, or two of the last three above 1. Weak is LASTING pictures in a row above
    `suspicious`, the hand at least MOVED from one to the next: single good pictures come there, and a robot that stands
    there shows the same picture again and again.

    It ends after `good_frames` pictures in a row of at most 1, of at most `suspicious` if the evidence was weak: a
    robot that goes on at the first good one would do so in between two bad ones.
    """

    LASTING: ClassVar[int] = 4
    MOVED: ClassVar[float] = 0.005
    """Metres."""

    good_frames: int = 3
    far: float = 3.0
    """Parts of the threshold beyond which one picture is enough."""
    suspicious: float = 0.7
    """Parts of the threshold that hardly any good picture exceeds."""
    alarm: bool = False
    score: float = float("nan")
    """The last."""
    _bad: deque[bool] = field(default_factory=lambda: deque(maxlen=3))
    _suspicious_at: list[NDArray[np.float64]] = field(default_factory=list)
    """Where the hand was at the pictures of weak evidence."""
    _limit: float = 1.0
    """That the scores have to come below for the alarm to end."""
    _good: int = 0

    def add(self, score: float, hand: NDArray[np.float64] | None = None) -> bool:
        """Takes the score of the next picture in; whether there is an alarm. A score that is NaN is bad.

        hand: its position (3) [m] then; without it, nothing counts as weak evidence.
        """
        self.score = score
        self._bad.append(not score <= 1.0)
        if score <= self.suspicious:
            self._suspicious_at = []
        elif hand is not None:
            at = self._suspicious_at
            if not at or np.linalg.norm(hand - at[-1]) >= self.MOVED:
                self._suspicious_at = [*at, hand.copy()][-self.LASTING :]
        lasting = len(self._suspicious_at) == self.LASTING
        if lasting:
            self._limit = self.suspicious
        self._good = self._good + 1 if score <= self._limit else 0
        if lasting or sum(self._bad) >= 2 or not score <= self.far:
            self.alarm = True
        elif self._good >= self.good_frames:
            self.alarm, self._limit = False, 1.0
        return self.alarm

    def distrust(self) -> None:
        """An alarm for another reason than a score, as a camera that was silent: it ends as all do."""
        self.alarm, self._good = True, 0
