"""What the executor node is told, what a checkpoint and a robot's file add, and the logic that is made of that."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from diffusion_ros import robot_file
from diffusion_ros.control.chunk_executor import JOINS, ChunkExecutor, ExecutorLimits
from diffusion_ros.control.teleoperation import DEVICES
from diffusion_ros.robot import ACTION_SCALE, ACTION_SIZE, EEF_POS, FRAME_PREFIX, RATE, WORLD_FRAME, prefixed
from diffusion_ros.ros.managed_node import AUTOSTART
from diffusion_ros.ros.params import ParameterError, parameter
from diffusion_ros.ros.trusted_checkpoint import TrustedCheckpoint
from diffusion_ros.spec import CheckpointSpec, TensorSpec

_CHUNK_ROWS = 16
"""Rows of a chunk at most, where no policy's checkpoint says how many there are."""
_FULL_SCALE = tuple(ACTION_SCALE.tolist())
"""What the simulated arm does in a step at most: a checkpoint's limits are obeyed only below it. A robot's own are in
its YAML."""


@dataclass(frozen=True)
class ExecutorParameters(TrustedCheckpoint):
    """Parameters of the executor node. What is left empty or 0 comes from the checkpoint, limits and box only where
    checkpoint_limits says so."""

    checkpoint: str = parameter("", "path of the policy checkpoint (.pt) whose spec gives rate, frame and ranges")
    robot: str = parameter(
        "", "path of a robot's YAML (docs/robot.md): its limits, and how it is told to move; '': by eef_command"
    )
    rehearsal: bool = parameter(False, "true: a simulator stands in for the robot's drivers")
    mode: str = parameter(
        "realtime",
        "lockstep: the robot waits for each command; realtime: it does not",
        choices=("realtime", "lockstep"),
    )
    enabled: bool = parameter(False, "true: it acts from the start; false: after ~/set_enabled")
    rate: float = parameter(0.0, "control steps in a second [Hz]; 0: the checkpoint's", low=0.0, high=1000.0)
    n_action_steps: int = parameter(0, "lockstep: rows of a chunk that are executed; 0: the checkpoint's", low=0)
    max_chunk_rows: int = parameter(
        0,
        "a chunk of more rows is refused; 0: as many as the checkpoint's chunks have, 16 without one",
        low=0,
        high=256,
    )
    frame_id: str = parameter("", "frame of eef_pose, chunks, commands and box; '', and with a robot: the checkpoint's")
    frame_prefix: str = parameter("", FRAME_PREFIX)
    autostart: bool = parameter(True, AUTOSTART)
    checkpoint_limits: bool = parameter(
        False,
        "true: limits and box that are not given are the checkpoint's. Only for the simulator that it was trained in",
    )
    action_low: tuple[float, ...] = parameter((), "least command of one control step (7): m, rad, gripper")
    action_high: tuple[float, ...] = parameter((), "greatest command of one control step (7): m, rad, gripper")
    workspace_low: tuple[float, ...] = parameter(
        (), "lower corner of the box that the hand stays in (3) [m], in the frame of eef_pose"
    )
    workspace_high: tuple[float, ...] = parameter((), "upper corner of that box (3) [m]")
    join: str = parameter(
        "latest",
        "latest: the newest chunk decides; blend: its first rows are blended with the chunk before;"
        " ensemble: the mean of all chunks",
        choices=JOINS,
    )
    blend_rows: int = parameter(2, "join blend: rows over which the old chunk fades out", low=1)
    max_observation_age: float = parameter(
        0.25,
        "realtime: eef_pose older than this, or silent for longer, is a reason to hold; a chunk stamped farther ahead"
        " of it is refused [s]",
        low=0.01,
    )
    max_pose_speed: float = parameter(
        3.0, "realtime: an eef_pose that moved faster since the last one is a fault [m/s]", low=0.1
    )
    guard: str = parameter("", "realtime: checkpoint of the camera guard whose verdict is obeyed; '': no guard")
    teleop: str = parameter(
        "",
        "realtime: by what a person takes over: joy, twist, twist_stamped, keyboard, or topic for other senders of"
        " teleop_action; '': nobody does, but on a robot whose YAML has `teleop`",
        choices=("", *DEVICES, "topic"),
    )
    max_guard_age: float = parameter(1.0, "a camera guard that is silent for longer is a reason to hold [s]", low=0.05)

    def __post_init__(self) -> None:
        if self.guard and self.mode == "lockstep":
            raise ValueError(
                "parameter guard: expected '' in lockstep, where no result may depend on the time it takes"
            )
        if self.robot and self.mode == "lockstep":
            raise ValueError("parameter robot: expected '' in lockstep: a robot does not wait")
        if self.teleop and self.mode == "lockstep":
            raise ValueError(
                f"parameter teleop is {self.teleop!r}, '' expected in lockstep, where time stands still for a person"
            )
        if self.robot and (self.workspace_low or self.workspace_high):
            raise ValueError(f"parameter workspace_low and workspace_high: {self.robot} says where its box is")


def alone(owner: str, p: ExecutorParameters) -> ExecutorParameters:
    """What a robot's file says where no checkpoint does: a person's rows are motions along its base's axes, reached
    within their steps. Raises ParameterError where no person may drive: then the rows have no meaning."""
    if not p.robot:
        return p
    robot = robot_file.read(robot_file.find(p.robot))
    if not p.teleop and robot.teleop is None:
        raise ParameterError(
            f"{owner}: parameter checkpoint is required with a robot's YAML: it says what the rows mean"
        )
    rate = p.rate or RATE
    steps = (*(3 * [robot.limits.linear / rate]), *(3 * [robot.limits.angular / rate]), 1.0)
    low, high = p.action_low or tuple(-step for step in steps), p.action_high or steps
    # The frame's name is the person's: nobody else says one.
    return replace(p, rate=rate, n_action_steps=1, action_low=low, action_high=high, frame_id=robot.base.frame)


def spec_of_person(p: ExecutorParameters) -> CheckpointSpec:
    """What the rows of a person alone mean."""
    outputs = (TensorSpec("action", (ACTION_SIZE,), "float32", "m, rad", p.frame_id),)
    rows = p.rate, 1, 1, 1, p.action_low, p.action_high
    return CheckpointSpec("teleoperation", "", "", (), outputs, *rows)


def completed(owner: str, p: ExecutorParameters, spec: CheckpointSpec | None) -> ExecutorParameters:
    """Parameters first, then the checkpoint's spec. Raises ParameterError for what neither gives."""
    own = prefixed(p.frame_prefix, (spec.frame if spec is not None else "") or WORLD_FRAME)
    frame_id = ("" if p.robot and spec is not None else p.frame_id) or own
    limits: tuple[str, ...] = ("action_low", "action_high", "workspace_low", "workspace_high")
    if p.robot:
        # Its YAML has the robot's own; a step's are what the checkpoint commands, and only guard against nonsense.
        limits = ("action_low", "action_high")
    names = ("rate", "n_action_steps", *limits)
    values: dict[str, Any] = {name: getattr(p, name) or getattr(spec, name, None) for name in names}
    missing = [name for name, value in values.items() if not value]
    if missing:
        raise ParameterError(f"{owner}: parameter {', '.join(missing)} is required where no checkpoint is given")
    unset = [name for name in limits if not getattr(p, name)]
    if unset and not p.checkpoint_limits and not p.robot:
        raise ParameterError(
            f"{owner}: parameter {', '.join(unset)} is required: a robot's limits and box are not a checkpoint's,"
            " except in the simulator that it was trained in (checkpoint_limits)"
        )
    same_frame = spec is not None and (not spec.frame or frame_id in (spec.frame, own))
    if not same_frame and (boxes := [name for name in unset if name.startswith("workspace")]):
        raise ParameterError(
            f"{owner}: parameter {', '.join(boxes)} is required: the checkpoint's box is in its frame"
            f" {spec.frame if spec is not None else ''!r}, not in {frame_id!r}"
        )
    if "action_low" in unset and not p.robot:
        values["action_low"] = tuple(map(max, values["action_low"], (-x for x in _FULL_SCALE)))
    if "action_high" in unset and not p.robot:
        values["action_high"] = tuple(map(min, values["action_high"], _FULL_SCALE))
    rows = spec.n_rows if spec is not None and spec.kind == "policy" else _CHUNK_ROWS
    return replace(p, **values, frame_id=frame_id, max_chunk_rows=p.max_chunk_rows or rows)


def make_executor(owner: str, p: ExecutorParameters, spec: CheckpointSpec | None) -> ChunkExecutor:
    realtime = p.mode == "realtime"
    try:
        return ChunkExecutor(
            ExecutorLimits(p.action_low, p.action_high, p.workspace_low, p.workspace_high),
            period_ns=round(1e9 / p.rate),
            max_observation_age_ns=round(p.max_observation_age * 1e9),
            join=p.join,
            blend_rows=p.blend_rows,
            # In lockstep the next chunk is waited for; else the rows beyond bridge one that is late.
            max_rows=None if realtime else p.n_action_steps,
            enabled=p.enabled,
            max_chunk_rows=p.max_chunk_rows,
            max_ahead_ns=round(p.max_observation_age * 1e9) if realtime else None,
            max_speed=p.max_pose_speed if realtime else None,
            position_range=spec.range_of(EEF_POS) if spec is not None else None,
        )
    except ValueError as error:
        raise ParameterError(f"{owner}: {error}") from None
