"""What follows from the options of a diffusion policy's training and the data.

The network's inputs and rows, their limits, and the specification that a robot reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion_ros import checkpoint, robot_file
from diffusion_ros.action_kinds import ActionFormat, chain_of, forward
from diffusion_ros.control.frames import RobotFrames
from diffusion_ros.control.kinematics import Arm
from diffusion_ros.models.timesteps import TimestepSpacing
from diffusion_ros.robot import EEF_POS, EEF_QUAT, IMAGE_SIZE
from diffusion_ros.simulators.arm import Simulation
from diffusion_ros.simulators.tasks import ARM_RESPONSE, ARM_TASKS
from diffusion_ros.spec import FITTED, IMAGE_SUFFIX, CheckpointSpec, TensorSpec
from training.data.action_rows import row_limits
from training.data.demonstrations import Demonstrations
from training.diffusion.noise_schedule import NoiseSchedule
from training.diffusion.normalizer import LimitsNormalizer
from training.diffusion.policy import (
    POSE_DIM,
    DiffusionPolicy,
    ObservationEncoder,
    make_denoiser,
    number_vector,
    object_vector,
    vector_width,
)
from training.options.policy import Options
from training.options.shared import current_options, options_json
from training.ranges import with_ranges
from training.run import git_commit
from training.typical import typical

WORKSPACE_MARGIN = 0.05
"""Metres beyond where demonstrations have been that a robot may go."""
PANDA_JOINTS = tuple(f"joint{i}" for i in range(1, 8))
"""What data of joint positions of the simulator's arm call its joints."""
CROP = 76 / 84
"""Of a picture's sides: what the published policy sees of its pictures."""


@dataclass(frozen=True)
class Inputs:
    """What a network is made for."""

    numbers: Mapping[str, int]
    """Low-dimensional inputs, in order -> how many numbers."""
    picture_size: tuple[int, int]
    """Height and width [px]."""
    crop_size: tuple[int, int]

    @staticmethod
    def of(options: Options, data: Demonstrations) -> Inputs:
        """Raises ValueError for a crop larger than the pictures."""
        size = (IMAGE_SIZE, IMAGE_SIZE)
        if options.cameras:
            height, width = data.observations[f"{options.cameras[0]}{IMAGE_SUFFIX}"].shape[1:3]
            size = height, width
        return Inputs._made({name: data.observations[name].shape[1] for name in options.inputs}, size, options)

    @staticmethod
    def of_spec(options: Options, spec: CheckpointSpec) -> Inputs:
        """Those of a checkpoint that was trained with these options."""
        shapes = {tensor.name: tensor.shape for tensor in spec.inputs}
        pictures = [shape[:2] for name, shape in shapes.items() if name.endswith(IMAGE_SUFFIX)]
        height, width = pictures[0] if pictures else (IMAGE_SIZE, IMAGE_SIZE)
        return Inputs._made({name: shapes[name][0] for name in options.inputs}, (height, width), options)

    @staticmethod
    def _made(numbers: Mapping[str, int], size: tuple[int, int], options: Options) -> Inputs:
        part = options.crop / min(size) if options.crop else CROP
        if part > 1:
            raise ValueError(f"crop {options.crop}: pictures of {size[1]}x{size[0]} pixels are smaller")
        if options.pose_points and size[0] != size[1]:
            raise ValueError(f"pose_points: pictures of {size[1]}x{size[0]} pixels, square ones expected")
        return Inputs(numbers, size, (round(part * size[0]), round(part * size[1])))


@dataclass(frozen=True)
class Limits:
    """Normalisers fitted to demonstrations."""

    hand: LimitsNormalizer
    """Of all low-dimensional inputs."""
    object: LimitsNormalizer
    action: LimitsNormalizer

    @staticmethod
    def of(options: Options, data: Demonstrations, actions: ActionFormat, rows: NDArray[np.float32]) -> Limits:
        """Limits of hand and object vectors (see :mod:`training.diffusion.policy`) and of rows (n, A)."""
        low_dim = {name: torch.from_numpy(v) for name, v in data.observations.items() if v.dtype != np.uint8}
        pose = unit_limits(POSE_DIM)
        if "object_pos" in low_dim:
            pose = LimitsNormalizer.from_data(object_vector(low_dim).numpy(), min_range=1e-2)
        hand = LimitsNormalizer.from_data(number_vector(low_dim, list(options.inputs)).numpy(), min_range=1e-2)
        return Limits(hand, pose, row_limits(data, actions, rows))


def unit_limits(size: int) -> LimitsNormalizer:
    """Limits that change nothing."""
    return LimitsNormalizer(-np.ones(size), np.ones(size))


def arm_chain(options: Options, data: Demonstrations) -> ActionFormat | None:
    """The arm of the data, where that is known: the robot's file's, or the simulator's own. ValueError for a file that
    does not say."""
    if options.robot is not None:
        robot = robot_file.read(robot_file.find(str(options.robot)))
        if robot.description is None or not robot.description.file:
            raise ValueError(
                f"{robot.path}: description: a file expected (description: {{file: ...}}), to know the arm"
            )
        text = Path(robot.description.file).read_text()
        arm, frames = (
            Arm.from_urdf(text, robot.joints, robot.base.frame, robot.tool.frame),
            RobotFrames(robot, data.recorded.base_pose),
        )
        return chain_of(robot.joints, lambda joints: frames.to_policy(*frames.hand(*arm.forward(joints))))
    kinds = options.action_kind, data.recorded.actions.kind
    if "joint_positions" not in kinds or data.task not in ARM_TASKS or not data.recorded.own:
        return None
    simulation = Simulation(data.task, ())
    chain = chain_of(PANDA_JOINTS, simulation.hand_at)
    simulation.close()
    return chain


def build_policy(options: Options, limits: Limits, inputs: Inputs) -> DiffusionPolicy:
    """An untrained policy."""
    encoder = ObservationEncoder(
        options.cameras,
        options.use_object,
        limits.hand,
        limits.object,
        options.vision,
        options.pose_head,
        options.pose_points,
        inputs.picture_size,
        inputs.crop_size,
        inputs.numbers,
    )
    encoder.reduced = options.mixed_precision == "bf16"
    inpainting = options.conditioning == "inpainting"
    width = int(limits.action.scale.shape[0]) + (encoder.out_dim if inpainting else 0)
    n_conditions = 0 if inpainting else options.n_obs_steps
    extra: dict[str, Any] = {"widths": options.unet_widths}
    if options.denoiser == "transformer":
        extra = {
            "n_layers": options.layers,
            "n_heads": options.heads,
            "width": options.width,
            "attention_dropout": options.attention_dropout,
            "n_cond_layers": options.condition_layers,
            # Where the first row is that of the newest observation, every row may see every observation.
            "causal": not options.action_steps_only,
        }
    extra["out_dim"] = width
    seen = width + (1 if options.max_delay else 0)  # a channel that says which rows are known
    denoiser = make_denoiser(options.denoiser, seen, options.rows, n_conditions, encoder.out_dim, **extra)
    return DiffusionPolicy(
        encoder,
        denoiser,
        NoiseSchedule(
            options.num_train_timesteps, options.beta_schedule, options.prediction_type, options.timestep_spacing
        ),
        limits.action,
        options.n_obs_steps,
        options.rows,
        options.conditioning,
        options.action_steps_only,
        options.sampler,
        options.max_delay,
    )


def options_of(spec: CheckpointSpec) -> Options:
    """Those that a policy was trained with."""
    values = current_options(Options, spec.training) | {"data": (), "data_weights": ()}
    for name in ("unet_widths", "betas", "inputs", "camera_names", "gripper_width"):
        values[name] = tuple(values[name]) if values[name] is not None else None
    known = {field.name for field in dataclasses.fields(Options)}
    return Options(**{name: value for name, value in values.items() if name in known})


def restore_policy(path: Path) -> DiffusionPolicy:
    """The eager module of an exported checkpoint, for comparisons and for training on. Raises CheckpointError."""
    spec = checkpoint.read_spec(path)
    options = options_of(spec)
    inputs = Inputs.of_spec(options, spec)
    rows = unit_limits(spec.action_format.checkpoint_width)
    limits = Limits(unit_limits(vector_width(inputs.numbers)), unit_limits(POSE_DIM), rows)
    policy = build_policy(options, limits, inputs)
    policy.load_state_dict(checkpoint.weights(path))
    policy.sampler = spec.sampler
    policy.schedule.timestep_spacing = cast(TimestepSpacing, spec.timestep_spacing)
    return policy.eval()


def make_spec(options: Options, data: Demonstrations, actions: ActionFormat) -> CheckpointSpec:
    """What a robot has to know of the policy."""
    frame = "world"
    units = {"_pos": "m", "_qpos": "m", "_quat": "1"}
    inputs = []
    for camera in options.cameras:
        name = f"{camera}{IMAGE_SUFFIX}"
        inputs.append(TensorSpec(name, data.observations[name].shape[1:], "uint8", "rgb", camera))
    for name in options.inputs:
        unit = next((unit for end, unit in units.items() if name.endswith(end)), "")
        inputs.append(
            TensorSpec(
                name, data.observations[name].shape[1:], "float32", unit, frame if name in (EEF_POS, EEF_QUAT) else ""
            )
        )
    if options.use_object:
        inputs.append(TensorSpec("object_pos", (3,), "float32", "m", frame))
        inputs.append(TensorSpec("object_quat", (4,), "float32", "1", frame))
    low, high = _visited(data, actions)
    horizon = options.n_obs_steps - 1 + options.rows if options.action_steps_only else options.horizon
    scale, own = data.recorded.scale, data.recorded.own and data.task in ARM_TASKS
    meaning = "m, rad per control step; gripper" if actions.kind == "delta" else "m, rad; gripper"
    return CheckpointSpec(
        kind="policy",
        task=data.task,
        environment=data.recorded.environment,
        inputs=with_ranges(tuple(inputs), data.observations),
        outputs=(TensorSpec("action", (actions.checkpoint_width,), "float32", meaning, frame),),
        rate=data.recorded.rate,
        horizon=horizon,
        n_obs_steps=options.n_obs_steps,
        n_action_steps=options.n_action_steps,
        action_low=tuple(-value for value in scale),
        action_high=scale,
        workspace_low=tuple((low - WORKSPACE_MARGIN).tolist()),
        workspace_high=tuple((high + WORKSPACE_MARGIN).tolist()),
        actions=actions.to_json(),
        pictures=FITTED if options.cameras else {},
        # Of another robot what its recording says: where it stood, and how its arm followed.
        base_pose=ARM_TASKS[data.task].base_pose if own else data.recorded.base_pose,
        response=ARM_RESPONSE if own else data.recorded.response,
        sampler=options.sampler,
        sampler_steps=options.steps,
        timestep_spacing=options.timestep_spacing,
        max_delay=options.max_delay,
        num_train_timesteps=options.num_train_timesteps,
        git_commit=git_commit(),
        data_hash=data.data_hash,
        training=options_json(options),
        typical=typical(tuple(tensor.name for tensor in inputs), data.observations),
    )


def _visited(data: Demonstrations, actions: ActionFormat) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Corners (3) of the box that the hand has been in [m], or that it was told to be in. ValueError where nothing says
    where it was."""
    if EEF_POS in data.observations:
        visited = data.observations[EEF_POS]
    elif actions.kind == "joint_positions":
        visited = forward(actions, data.actions[:, :-1].astype(np.float64))[0]
    else:
        raise ValueError(f"inputs: without {EEF_POS} nothing says where the hand may go")
    return visited.min(axis=0).astype(float), visited.max(axis=0).astype(float)
