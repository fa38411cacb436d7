"""What stands against letting a checkpoint's policy drive a robot, and what is worth knowing. No ROS here.

`compare` asks the robot's file and the checkpoint's specification alone; the other functions judge what was heard of
the robot's drivers. Each thing is said in one line.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from diffusion_ros.control.frames import RobotFrames
from diffusion_ros.control.pictures import PictureError, fit
from diffusion_ros.ranges import outside
from diffusion_ros.robot import EEF_POS, EEF_QUAT, OBJECT_POS, OBJECT_QUAT
from diffusion_ros.robot_file import HAND, OBJECT, RobotFile
from diffusion_ros.spec import IMAGE_SUFFIX, TYPICAL_SIZE, CheckpointSpec

Array = NDArray[np.float64]
Level = Literal["problem", "warning", "note"]

POSES = {HAND: (EEF_POS, EEF_QUAT), OBJECT: (OBJECT_POS, OBJECT_QUAT)}
"""Observation -> the two inputs that it gives."""
_FAR_BELOW = 0.5
"""Of what the policy commands at most; a limit below that is said."""
_SLIVER = 0.2
"""Of the place where the hand was in training; a box that leaves less of it is said."""
_ANGLE_MARGIN = 0.2
"""rad beyond the largest angle in training that count as the same way of holding the hand."""
_LIKER = 0.5
"""By how much a picture must resemble another camera's more than its own. In twelve episodes of the shipped policies it
was 0.25 at most (226 pictures of each camera); with the two exchanged, at least 0.93 for one of them."""
_DARK = 2.0
"""Standard deviation of a picture's values, of 255, below which it shows nothing."""
_METRE = 1.0
"""No finger is farther out."""


@dataclass(frozen=True)
class Finding:
    """Something that was found out, in one line."""

    level: Level
    """problem: it stands against enabling the robot; warning: it may; note: it is only said."""
    what: str
    rule: str = ""
    """What was expected instead, or a question that leads there; '' where that is plain."""

    def __str__(self) -> str:
        if not self.rule:
            return self.what
        return f"{self.what}{': ' if self.rule.endswith('?') else ', '}{self.rule}"


def problem(what: str, rule: str = "") -> Finding:
    return Finding("problem", what, rule)


def warning(what: str, rule: str = "") -> Finding:
    return Finding("warning", what, rule)


def note(what: str, rule: str = "") -> Finding:
    return Finding("note", what, rule)


def problems(findings: Iterable[Finding]) -> list[Finding]:
    """Those that stand against enabling."""
    return [finding for finding in findings if finding.level == "problem"]


# -- the robot's file beside the checkpoint's specification -----------------------------------------------------------


def compare(robot: RobotFile, spec: CheckpointSpec) -> list[Finding]:
    """What can be known before anything is started, the problems first."""
    if spec.kind != "policy":
        return [problem(f"the checkpoint's kind is {spec.kind!r}", "'policy' expected")]
    found = [
        *compare_inputs(robot, spec),
        *_unused(robot, spec),
        *_rate(robot, spec),
        *_silent_spec(spec),
        *_box(robot, spec),
        *_speed(robot, spec),
    ]
    if robot.gripper is None:
        found.append(note("the file has no gripper: the policy opens and closes nothing"))
    order: tuple[Level, ...] = ("problem", "warning", "note")
    return sorted(found, key=lambda finding: order.index(finding.level))


def compare_inputs(robot: RobotFile, spec: CheckpointSpec) -> list[Finding]:
    """Whether every input has a source that gives as many values. Problems only."""
    found = []
    offered = [f"{camera}{IMAGE_SUFFIX}" for camera in robot.pictures] + list(robot.numbers)
    of_poses = {name: pose for pose, names in POSES.items() for name in names}
    for tensor in spec.inputs:
        name = tensor.name
        if name in of_poses:
            pose = of_poses[name]
            if pose not in robot.poses:
                # One line for both of its inputs.
                first = next(n for n in POSES[pose] if n in spec.input_names)
                if name == first:
                    found.append(
                        problem(
                            f"the checkpoint was trained with the input {name}, and observations has no {pose!r}",
                            "a source of that pose, or a checkpoint trained without it, expected",
                        )
                    )
        elif name.endswith(IMAGE_SUFFIX):
            picture = robot.pictures.get(name.removesuffix(IMAGE_SUFFIX))
            if picture is None:
                found.append(_missing(name, offered, spec))
            elif picture.crop and (picture.crop[2] < tensor.shape[1] or picture.crop[3] < tensor.shape[0]):
                found.append(
                    problem(
                        f"observations.{name}.crop: {picture.crop[2]} x {picture.crop[3]}",
                        f"at least the checkpoint's {tensor.shape[1]} x {tensor.shape[0]} expected: none is enlarged",
                    )
                )
        elif name not in robot.numbers:
            found.append(_missing(name, offered, spec))
        elif len(robot.numbers[name].joints) != tensor.shape[0]:
            joints = robot.numbers[name].joints
            found.append(
                problem(
                    f"observations.{name}.joints: {len(joints)} ({', '.join(joints)})",
                    f"{tensor.shape[0]} expected, as many as the checkpoint's input has values",
                )
            )
    if OBJECT in robot.poses and set(POSES[OBJECT]) & set(spec.input_names):
        source = robot.poses[OBJECT].source
        if source != "pose":
            found.append(problem(f"observations.{OBJECT}.source: {source!r}", "'pose' expected"))
    return found


def _missing(name: str, offered: Sequence[str], spec: CheckpointSpec) -> Finding:
    meant = difflib.get_close_matches(name, [other for other in offered if other not in spec.input_names], 1)
    near = f" ({meant[0]!r} is none of its inputs)" if meant else ""
    return problem(f"the checkpoint was trained with the input {name}", f"observations.{name} expected{near}")


def _unused(robot: RobotFile, spec: CheckpointSpec) -> list[Finding]:
    offered = [f"{camera}{IMAGE_SUFFIX}" for camera in robot.pictures] + list(robot.numbers)
    unused = [name for name in offered if name not in spec.input_names]
    unused += [
        name for name, inputs in POSES.items() if name in robot.poses and not set(inputs) & set(spec.input_names)
    ]
    # The hand is asked for by the target in any case.
    names = [name for name in unused if name != HAND]
    return [note(f"observations.{name}: not used by this checkpoint") for name in names]


def _rate(robot: RobotFile, spec: CheckpointSpec) -> list[Finding]:
    if robot.action.rate < spec.rate:
        return [
            problem(
                f"action.rate: {robot.action.rate:g} Hz",
                f"at least the policy's {spec.rate:g} Hz expected: rows would be left out",
            )
        ]
    return []


def _silent_spec(spec: CheckpointSpec) -> list[Finding]:
    """What checkpoints of before do not say, and what is assumed then."""
    found = []
    if not spec.base_pose:
        found.append(
            warning(
                "the checkpoint does not say where the base of its robot stood (base_pose)",
                f"the origin of its frame {spec.frame or '?'!r} is taken for it",
            )
        )
    if not spec.response:
        found.append(
            warning(
                "the checkpoint does not say how its arm followed (response)",
                "each row is gone through evenly within its step, which is faster than robosuite's arm",
            )
        )
    return found


def _box(robot: RobotFile, spec: CheckpointSpec) -> list[Finding]:
    """The box that the hand may be in, beside where it was in training."""
    low, high = RobotFrames(robot, spec.base_pose).box_to_base(spec.workspace_low, spec.workspace_high)
    limits = robot.limits
    shared = np.minimum(high, limits.high) - np.maximum(low, limits.low)
    here = f"limits.low {_numbers(limits.low)} to high {_numbers(limits.high)}"
    there = f"training's hand was in {_numbers(low)} to {_numbers(high)} of {robot.base.frame}"
    if not np.all(shared > 0):
        axes = " and ".join("xyz"[i] for i in np.flatnonzero(shared <= 0))
        return [problem(f"{here}: beside it in {axes}", f"{there}: a box around that, or another base.xyz, expected")]
    share = float(np.prod(shared / (high - low)))
    if share < _SLIVER:
        return [warning(f"{here}: holds {100 * share:.0f} % of where the hand was", there)]
    return []


def _speed(robot: RobotFile, spec: CheckpointSpec) -> list[Finding]:
    """Limits that the policy would run into most of the time."""
    found = []
    greatest = np.maximum(np.abs(spec.action_low), np.abs(spec.action_high))
    for name, limit, row, response, unit in (
        ("linear", robot.limits.linear, float(greatest[:3].max()), spec.response[:2], "m/s"),
        ("angular", robot.limits.angular, float(greatest[3:6].max()), spec.response[-2:], "rad/s"),
    ):
        speed = steady_speed(row, spec.period_ns / 1e9, response)
        if limit < _FAR_BELOW * speed:
            found.append(
                note(
                    f"limits.{name}: {limit:g} {unit}",
                    f"the policy commands up to {speed:.2g} {unit} along an axis: it will be slower than in training",
                )
            )
    return found


def steady_speed(row: float, seconds: float, response: Sequence[float]) -> float:
    """How fast an arm goes that is told the same row in every control step: m/s or rad/s.

    In the steady state of x'' = k (goal - x) - 2 d w x', w = sqrt(k), the goal is on average row - v seconds / 2 ahead.
    """
    if not response:
        return row / seconds
    w, d = math.sqrt(response[0]), response[1]
    return w * row / (2 * d + w * seconds / 2)


# -- what was heard -------------------------------------------------------------------------------------------------


def check_hand(robot: RobotFile, spec: CheckpointSpec, position: Array, quaternion: Array) -> list[Finding]:
    """Of the tool's pose as the driver says it, in its base frame: (3) m, (4) xyzw."""
    frames = RobotFrames(robot, spec.base_pose)
    hand, hand_quaternion = frames.hand(position, quaternion)
    there, turned = frames.to_policy(hand, hand_quaternion)
    if wrong := _outside(spec, EEF_POS, there):
        scaled, _ = frames.to_policy(*frames.hand(np.asarray(position) / 1000, quaternion))
        if np.linalg.norm(position) > 10 or not _outside(spec, EEF_POS, scaled):
            return [problem(f"hand: {_numbers(position)}", "metres expected: these look like millimetres")]
        axes = f"at {_numbers(position)} of {robot.base.frame}"
        return [problem(f"hand: {axes}: {wrong}", "the tool's or the base's xyz, or the arm's posture?")]
    found = []
    typical = spec.typical.get(EEF_QUAT)
    if typical:
        angle = float((Rotation.from_quat(turned) * Rotation.from_quat(typical["mean"]).inv()).magnitude())
        if angle > typical["angle"] + _ANGLE_MARGIN:
            found.append(
                problem(
                    f"hand: it is turned {angle:.2f} rad from where training's was, at most"
                    f" {typical['angle'] + _ANGLE_MARGIN:.2f} expected",
                    "the tool's rpy, or the arm's posture?",
                )
            )
    low, high = robot.limits.low, robot.limits.high
    if not (np.all(hand >= low) and np.all(hand <= high)):
        found.append(
            warning(
                f"hand: it is at {_numbers(hand)}, outside of limits.low to high", "a start inside of the box expected"
            )
        )
    return found


def check_numbers(robot: RobotFile, spec: CheckpointSpec, name: str, positions: Array) -> list[Finding]:
    """Of the joints' positions (n) as they come."""
    source = robot.numbers[name]
    scale, offset = np.array(source.scale), np.array(source.offset)
    value = scale * positions + offset
    # With the sign of one joint's scale the other way round, (n, n).
    flipped = (scale * (1 - 2 * np.eye(len(scale)))) * positions + offset
    wrong = _outside(spec, name, value)
    if not wrong:
        both = [joint for joint, other in zip(source.joints, flipped, strict=True) if not _outside(spec, name, other)]
        if both and not np.any(offset) and spec.range_of(name):
            rule = f"whether the sign of {both[0]}'s scale is right can only be told of an open gripper"
            return [note(f"{name}: {_numbers(value)}", rule)]
        return []
    rule = "the scale or the offset?"
    for joint, other in zip(source.joints, flipped, strict=True):
        if not _outside(spec, name, other):
            rule = f"the sign of {joint}'s scale?"
            break
    else:
        if np.any(np.abs(positions) > _METRE) and not _outside(spec, name, scale * positions / 1000 + offset):
            rule = "the driver's numbers look like millimetres: a scale of 0.001 expected"
    return [problem(f"{wrong} (from {', '.join(source.joints)} at {_numbers(positions)})", rule)]


def _outside(spec: CheckpointSpec, name: str, value: Array) -> str:
    """'' or what of an input's value is not within its range."""
    known = spec.range_of(name)
    tensor = next((tensor for tensor in spec.inputs if tensor.name == name), None)
    return outside(name, value, *known, tensor.unit) if known and tensor is not None else ""


def check_picture(robot: RobotFile, spec: CheckpointSpec, camera: str, image: NDArray[np.uint8]) -> list[Finding]:
    """Of a camera's picture (H, W, 3) as it comes."""
    name = f"{camera}{IMAGE_SUFFIX}"
    try:
        seen = fitted(robot, spec, camera, image)
    except PictureError as error:
        return [problem(f"{name}: {error}")]
    if float(seen.std()) < _DARK:
        return [warning(f"{name}: one colour throughout", "a picture expected: a cap on the lens?")]
    return []


def fitted(robot: RobotFile, spec: CheckpointSpec, camera: str, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture as the policy is shown it, or as it is where the policy has no such input. Raises PictureError."""
    tensor = next((t for t in spec.inputs if t.name == f"{camera}{IMAGE_SUFFIX}"), None)
    if tensor is None:
        return image
    return fit(image, tensor.shape[0], tensor.shape[1], robot.pictures[camera].crop)


def check_cameras(spec: CheckpointSpec, pictures: Mapping[str, NDArray[np.uint8]]) -> list[Finding]:
    """Whether each of the pictures, by input and as the policy sees them, looks like its own camera's in training."""
    known = {name: np.array(value) for name, value in spec.typical.items() if name.endswith(IMAGE_SUFFIX)}
    liker: dict[str, str] = {}
    """Picture -> the input that it looks like instead."""
    for name, picture in pictures.items():
        if name not in known or len(known) < 2 or float(picture.std()) < _DARK:
            continue
        small = fit(picture, TYPICAL_SIZE, TYPICAL_SIZE)
        alike = {other: likeness(small, mean) for other, mean in known.items()}
        best = max(alike, key=alike.__getitem__)
        if alike[best] > alike[name] + _LIKER:
            liker[name] = best
    found = []
    for name, best in liker.items():
        if liker.get(best) != name:
            found.append(problem(f"{name} looks like {best}", "swapped?"))
        elif name < best:
            found.append(problem(f"{name} looks like {best}, and {best} like {name}", "swapped?"))
    return found


def likeness(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Of two pictures of one size, -1 to 1: the correlation of their values, so that brightness does not count."""
    one, other = (np.asarray(x, np.float64).ravel() for x in (a, b))
    one, other = one - one.mean(), other - other.mean()
    norms = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / norms if norms > 0 else 0.0


def _numbers(values: Iterable[float]) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values) + "]"
