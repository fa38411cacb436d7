"""Pictures of a maze from above, and the video of an episode: how the plan was denoised, then how it was driven.

No ROS and no simulator here: positions in metres in, pictures out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from diffusion_ros.simulators.maze import BALL_RADIUS, GOAL_RADIUS, RATE, MazeMap
from diffusion_ros.simulators.video import Image, draw_legend

Array = NDArray[np.float64]
Colour = tuple[int, int, int]

FPS = 25
_EVERY = round(RATE / FPS)
"""Control steps a frame."""
_DENOISING_FRAMES = 12
"""Frames that each step of the denoising is shown."""
_SIZE = 640
"""Pixels of the longer side, at most."""
_TEXT_HEIGHT = 64
_FLOOR, _WALL, _TEXT = (245, 245, 240), (70, 75, 85), (30, 30, 30)
_PLAN, _OTHER, _DENOISING = (25, 170, 60), (170, 175, 215), (235, 140, 40)
_BALL, _GOAL, _OBSTACLE = (40, 80, 220), (190, 235, 190), (200, 40, 40)
_GOAL_EDGE = (120, 200, 120)
"""The goal's colour in the legend, which is on white."""


@dataclass
class Shown:
    """What the planner last published: lines (N, 2) m, the best candidate first, denoising from noise to plan."""

    candidates: list[Array] = field(default_factory=list)
    denoising: list[Array] = field(default_factory=list)


@dataclass(frozen=True)
class Moment:
    """One control step: position (2) m, obstacles (N, 4) centre and radius m, the plan that was driven, the return."""

    position: Array
    obstacles: Array
    candidates: list[Array]
    total: float


class MazePicture:
    """Draws a maze from above; the y axis points up."""

    def __init__(self, maze: MazeMap) -> None:
        rows, columns = maze.walls.shape
        self.scale = 16 * max(1, _SIZE // (16 * max(rows, columns)))  # whole macroblocks a cell, as encoders like
        self._offset = np.array([columns / 2, rows / 2])
        cells = np.where(maze.walls[:, :, None], np.array(_WALL, np.uint8), np.array(_FLOOR, np.uint8))
        self._background: Image = cells.repeat(self.scale, axis=0).repeat(self.scale, axis=1)

    def draw(
        self,
        goal: Array,
        text: str,
        lines: Sequence[tuple[Array, Colour, int]] = (),
        balls: Sequence[tuple[Array, float, Colour]] = (),
        legend: Sequence[tuple[str, Colour]] = (),
    ) -> Image:
        """Lines (N, 2) m with colour and width in pixels, balls (2) m with radius in metres, over the goal's area; the
        text and what the colours mean are below."""
        picture = self._background.copy()
        self._ball(picture, goal, GOAL_RADIUS, _GOAL)
        for line, colour, width in lines:
            points = np.rint(16 * self._pixels(line)).astype(np.int32)
            cv2.polylines(picture, [points], False, colour, width, cv2.LINE_AA, shift=4)
        for centre, radius, colour in balls:
            self._ball(picture, centre, radius, colour)
        frame = np.full((picture.shape[0] + _TEXT_HEIGHT, picture.shape[1], 3), 255, dtype=np.uint8)
        frame[: picture.shape[0]] = picture
        origin = (8, picture.shape[0] + 21)
        cv2.putText(frame, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.5, _TEXT, 1, cv2.LINE_AA)
        draw_legend(frame, legend, (8, picture.shape[0] + 48), _TEXT)
        return frame

    def _pixels(self, positions: Array) -> Array:
        """(N, 2) columns and rows of positions (N, 2) m."""
        across = np.asarray(positions, np.float64)[:, :2] * [1.0, -1.0] + self._offset
        return np.asarray(np.clip(across, -1.0, 99.0) * self.scale - 0.5)

    def _ball(self, picture: Image, centre: Array, radius: float, colour: Colour) -> None:
        x, y = np.rint(16 * self._pixels(np.asarray(centre)[None])[0]).astype(int).tolist()
        cv2.circle(picture, (x, y), round(16 * radius * self.scale), colour, -1, cv2.LINE_AA, shift=4)


def pictures(maze: MazeMap, goal: Array, first: Shown, moments: Sequence[Moment], title: str) -> Iterator[Image]:
    """Of the video: the denoising of the first plan, then every fourth control step."""
    picture = MazePicture(maze)
    start = moments[0].position if moments else goal
    for i, estimate in enumerate(first.denoising):
        steps = len(first.denoising) - 1
        text = f"{title}  " + (f"denoising, step {i} of {steps}" if i else "pure noise")
        frame = picture.draw(
            goal, text, [(estimate, _DENOISING, 2)], [(start, BALL_RADIUS, _BALL)], [("the plan so far", _DENOISING)]
        )
        for _ in range(_DENOISING_FRAMES):
            yield frame
    trail = np.array([moment.position for moment in moments])
    for step in range(0, len(moments), _EVERY):
        moment = moments[step]
        lines = [(line, _OTHER, 1) for line in moment.candidates[1:]]
        lines += [(line, _PLAN, 2) for line in moment.candidates[:1]]
        lines.append((trail[: step + 1], _BALL, 1))
        balls = [(ball[:2], float(ball[3]), _OBSTACLE) for ball in moment.obstacles]
        balls.append((moment.position, BALL_RADIUS, _BALL))
        legend = [("plan", _PLAN), ("way so far", _BALL), ("goal", _GOAL_EDGE)]
        legend += [("other plans", _OTHER)] * (len(moment.candidates) > 1)
        legend += [("obstacle", _OBSTACLE)] * bool(len(moment.obstacles))
        yield picture.draw(goal, f"{title}  step {step}  return {moment.total:.0f}", lines, balls, legend)
