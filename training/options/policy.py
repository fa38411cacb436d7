"""What the training of a diffusion policy is told."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffusion_ros.robot import CAMERAS, EEF_POS, EEF_QUAT
from training.command_line import width_and_height
from training.data.demonstrations import HAND, JOINT_POSITIONS, OBJECT
from training.options.shared import SamplerOptions


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
    """A checkpoint whose image encoders and pose head the training begins with. With --distil: a student that goes on
    learning; without it the student begins as the teacher."""
    distil: Path | None = None
    """A policy of the same network, whose samples of --distil-steps are learnt in one step: so it keeps the ways that
    the teacher knows, where one step of the teacher would be their mean. The data are what it observes, and with
    --max-delay, which must be the teacher's, the rows that both go on from."""
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
        if self.pose_points and not self.encoder_iterations and self.distil is None:
            raise ValueError("pose_points needs --encoder-iterations: key-points are taught in the first phase")
        if self.distil is not None and self.encoder_iterations:
            raise ValueError("distil: its encoders are taken as they are, without --encoder-iterations")
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
