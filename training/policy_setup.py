"""What the training of a diffusion policy is told, and what follows from it and the data.

The network's inputs and rows, their limits, and the specification that a robot reads.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion_ros import checkpoint, robot_file
from diffusion_ros.action_kinds import ActionFormat, chain_of, forward
from diffusion_ros.control.frames import RobotFrames
from diffusion_ros.control.kinematics import Arm
from diffusion_ros.models.timesteps import TimestepSpacing
from diffusion_ros.robot import CAMERAS, EEF_POS, EEF_QUAT, IMAGE_SIZE
from diffusion_ros.simulators.arm import Simulation
from diffusion_ros.simulators.tasks import ARM_RESPONSE, ARM_TASKS
from diffusion_ros.spec import FITTED, IMAGE_SUFFIX, CheckpointSpec, TensorSpec
from training.command_line import width_and_height
from training.data.action_rows import JOINT_POSITIONS, row_limits
from training.data.demonstrations import HAND, OBJECT, Demonstrations
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
from training.ranges import with_ranges
from training.run import SamplerOptions, current_options, git_commit, options_json
from training.typical import typical

WORKSPACE_MARGIN = 0.05
"""Metres beyond where demonstrations have been that a robot may go."""
PANDA_JOINTS = tuple(f"joint{i}" for i in range(1, 8))
"""What data of joint positions of the simulator's arm call its joints."""
CROP = 76 / 84
"""Of a picture's sides: what the published policy sees of its pictures."""


@dataclass(frozen=True, kw_only=True)
class Options(SamplerOptions):
    """Trains a diffusion policy and exports it as a checkpoint."""

    data: tuple[Path, ...]
    """Demonstrations in robomimic's HDF5 format, one file or several."""
    data_weights: tuple[float, ...] = ()
    """How often each file is drawn from, in relation to the others; none given: all steps alike."""
    filter_key: str = ""
    """Only the demonstrations that this list below `mask` in the file names. Without it mask/train and mask/valid
    decide, where a file has them."""
    observations: Literal["state", "pixels", "both", "inputs"] = "pixels"
    """What the policy sees beside --inputs. state: the object's pose; pixels: the cameras; both: all; inputs: nothing
    else."""
    inputs: tuple[str, ...] = HAND
    """Low-dimensional observations in the data, of any length; names that end with _quat are quaternions x, y, z, w."""
    camera_names: tuple[str, ...] = CAMERAS
    """Cameras, as many as you like: <name>_image in the data."""
    picture_size: str = ""
    """Width and height that pictures are brought to, as in 128x96; '': their own where they are no larger than 128
    pixels, else 84x84."""
    certain_rows: bool = False
    """With max_delay: rows after one that was executed otherwise than its label, unknown to the policy, do not count.
    For data with noise in bursts (collect_demos --quiet)."""
    action_kind: Literal["", "delta", "pose", "relative_pose", "joint_positions"] = ""
    """What the policy's rows say. delta: how the hand moves; pose: where it is to be; relative_pose: the same, seen
    from the observed hand; joint_positions: where the joints are to be. '': as in the data."""
    gripper_width: tuple[float, float] | None = None
    """Where the gripper's column of the data is a width: of the closed and of the open gripper, as in 0 0.08 [m]. The
    robot's YAML then needs `gripper.proportional`."""
    robot: Path | None = None
    """For joint positions of another arm than the simulator's: its YAML, whose description is a file."""
    learn_from: Literal["person", "all"] = "person"
    """Where data tell a person's steps from a policy's (corrections): whose are learnt."""
    denoiser: Literal["transformer", "unet"] = "transformer"
    """The network that denoises."""
    conditioning: Literal["observation", "inpainting"] = "observation"
    """observation: the observations are the network's condition; inpainting: they are denoised together with the
    actions."""
    action_steps_only: bool = False
    """Generate no actions before the newest observation, and only n_action_steps from there on."""
    horizon: int = 10
    """Rows of a generated chunk."""
    n_obs_steps: int = 2
    """Number of frames that the policy sees."""
    n_action_steps: int = 8
    """Rows that are executed before the next chunk. --resume can change it afterwards."""
    max_delay: int = 0
    """Rows after the newest observation that may be decided already when a chunk is made, because it comes late: the
    policy learns to go on from them. Such a chunk needs a horizon with room for that. The data must say what was
    executed (executed_actions)."""
    layers: int = 8
    """Transformer: decoder layers."""
    heads: int = 4
    """Transformer: attention heads."""
    width: int = 256
    """Transformer: features of a token."""
    condition_layers: int = 0
    """Transformer: encoder layers over [time step, observations]; 0: an MLP."""
    attention_dropout: float = 0.3
    """Transformer: dropout in attention."""
    unet_widths: tuple[int, ...] = (64, 128)
    """U-Net: channels at each temporal resolution."""
    vision: Literal["resnet18", "small"] = "resnet18"
    """Image encoder: ResNet-18 with group norm and spatial softmax, or a small one for CPUs."""
    crop: int = 0
    """Shorter side of the crop of a picture in pixels; 0: 76 of 84, of other sizes as large a part. It is random in
    training and centred in use."""
    pose_head: bool = False
    """From pixels: estimate the object's pose too, and give it to the denoiser. The data must contain poses; a running
    policy needs none."""
    pose_points: bool = False
    """With pose_head: key-points learn where the cameras see the object's frame, and the pose is estimated from
    them."""
    rotation_weight: float = 1.0
    """With pose_head: weight of the rotation in the loss of the pose. Make it small for an object that looks alike from
    all sides."""
    encoder_iterations: int = 0
    """Iterations of a first phase, which trains only the image encoders and the pose head. 0: one phase, end to end."""
    start_from: Path | None = None
    """A checkpoint whose image encoders and pose head the training begins with."""
    distil: Path | None = None
    """A policy of the same network, whose samples of --distil-steps are learnt in one step: so it keeps the ways that
    the teacher knows, where one step of the teacher would be their mean. The data are what it observes."""
    distil_steps: int = 8
    """Denoising steps of that policy."""
    cached_crops: int = 4
    """In the second phase: random crops of each image whose features are computed once."""
    num_inference_steps: int = 10
    iterations: int = 20_000
    batch_size: int = 64
    """Windows in a batch, for each process."""
    noise_draws: int = 1
    """Draws of noise and diffusion step for each window. More pay off when the encoding of an image is slow."""
    learning_rate: float = 1e-4
    encoder_learning_rate: float = 1e-4
    """Learning rate of the image encoders."""
    betas: tuple[float, float] = (0.9, 0.95)
    """The two betas of AdamW."""
    weight_decay: float = 1e-3
    ema_decay: float = 0.9999
    half_weights: bool = False
    validation: float = 0.04
    """Share of the demonstrations that is kept for the validation loss."""
    validate_every: int = 2000
    rollouts: int = 20
    """Episodes in the simulator at the end, with validation seeds; 0: none."""
    save_every: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "noise_draws", "cached_crops")
        if self.data_weights and len(self.data_weights) != len(self.data):
            raise ValueError(f"data_weights: {len(self.data_weights)} of them for {len(self.data)} files of data")
        if any(not 0 < weight < math.inf for weight in self.data_weights):
            raise ValueError(f"data_weights {list(self.data_weights)}: must be above 0")
        if self.n_action_steps > self.horizon - self.n_obs_steps + 1:
            raise ValueError(
                f"n_action_steps {self.n_action_steps}: at most horizon - n_obs_steps + 1 ="
                f" {self.horizon - self.n_obs_steps + 1} rows lie in the future"
            )
        if not 0 <= self.max_delay < self.horizon - self.n_obs_steps + 1:
            raise ValueError(
                f"max_delay {self.max_delay}: from 0 to below horizon - n_obs_steps + 1 ="
                f" {self.horizon - self.n_obs_steps + 1}, the rows that lie in the future"
            )
        if self.max_delay and self.action_steps_only:
            raise ValueError("max_delay and action_steps_only exclude each other: what was executed is part of a chunk")
        if self.gripper_width is not None and not 0 <= self.gripper_width[0] < self.gripper_width[1]:
            raise ValueError(
                f"gripper_width {self.gripper_width}: the closed one's, and the open one's above it, expected"
            )
        if self.picture_size:
            width_and_height(self.picture_size)
        if self.crop and self.crop < 8:
            raise ValueError(f"crop {self.crop}: must be 0, or 8 at least")
        if not self.inputs or len(set(self.inputs)) != len(self.inputs):
            raise ValueError(f"inputs {', '.join(self.inputs) or 'none'}: at least one, each once")
        if self.needs_object and (twice := [name for name in self.inputs if name in OBJECT]):
            raise ValueError(f"inputs {', '.join(twice)}: read already, with the object's pose")
        if self.needs_object and self.inputs[:2] != HAND[:2]:
            raise ValueError(
                f"inputs {', '.join(self.inputs)}: with the object's pose {', '.join(HAND[:2])} come first"
            )
        if not self.camera_names or len(set(self.camera_names)) != len(self.camera_names):
            raise ValueError(f"camera_names {', '.join(self.camera_names) or 'none'}: at least one, each once")
        if self.observations in ("state", "inputs") and (self.pose_head or self.encoder_iterations):
            raise ValueError(f"pose_head and encoder_iterations are for images, observations is {self.observations!r}")
        if self.encoder_iterations and not self.pose_head:
            raise ValueError("encoder_iterations needs --pose-head: the encoders learn from the pose")
        if self.pose_points and not (self.pose_head and self.vision == "small"):
            raise ValueError("pose_points needs --pose-head and --vision small: it says how the pose is estimated")
        if self.pose_points and not self.encoder_iterations:
            raise ValueError("pose_points needs --encoder-iterations: key-points are taught in the first phase")
        if self.distil is not None and (self.encoder_iterations or self.start_from or self.max_delay):
            raise ValueError(
                "distil: its encoders are taken as they are, without --encoder-iterations and --start-from,"
                " and without --max-delay"
            )
        if self.distil is not None and self.steps != 1:
            raise ValueError(f"distil: num_inference_steps {self.steps}, 1 is what is learnt")
        if self.action_steps_only and self.conditioning == "inpainting":
            raise ValueError("action_steps_only and inpainting exclude each other: observed rows must be generated")

    @property
    def free(self) -> frozenset[str]:
        # Where whole chunks are generated it does not matter how much of them is executed.
        return super().free | {"rollouts"} | (set() if self.action_steps_only else {"n_action_steps"})

    @property
    def rows(self) -> int:
        """Rows that the network generates."""
        return self.n_action_steps if self.action_steps_only else self.horizon

    @property
    def cameras(self) -> tuple[str, ...]:
        """The cameras that the policy sees."""
        return () if self.observations in ("state", "inputs") else self.camera_names

    @property
    def use_object(self) -> bool:
        """Whether the policy is given the object's pose."""
        return self.observations in ("state", "both")

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """Height and width of pictures; None: the data's."""
        if not self.picture_size:
            return None
        width, height = width_and_height(self.picture_size)
        return height, width

    @property
    def needs_object(self) -> bool:
        """Whether the data must have the object's pose."""
        return self.use_object or self.pose_head

    @property
    def read_numbers(self) -> tuple[str, ...]:
        """Low-dimensional observations that are read: what is needed for the rows is not always an input."""
        also = (EEF_POS, EEF_QUAT) if self.action_kind else ()
        joints = (JOINT_POSITIONS,) if self.action_kind == "joint_positions" else ()
        return tuple(dict.fromkeys((*self.inputs, *also, *joints)))


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
