"""What the policy node is told, and what a checkpoint and a robot's file add."""

from __future__ import annotations

from dataclasses import dataclass, replace

from diffusion_ros import checkpoint, robot_file
from diffusion_ros.models.kind import SAMPLERS
from diffusion_ros.robot import FINGERS, FRAME_PREFIX, WORLD_FRAME, prefixed
from diffusion_ros.ros.frame_source import FrameRules
from diffusion_ros.ros.managed_node import AUTOSTART
from diffusion_ros.ros.params import parameter
from diffusion_ros.ros.trusted_checkpoint import TrustedCheckpoint
from diffusion_ros.spec import CheckpointSpec

_LOOK_AND_THINK_SECONDS = 0.1
"""Allowance for a picture's age when it comes (40 to 60 ms are usual) and for the inference."""


@dataclass(frozen=True)
class PolicyParameters(TrustedCheckpoint):
    """Parameters of the policy node."""

    checkpoint: str = parameter(description="path of a policy checkpoint (.pt)")
    device: str = parameter("cpu", "torch device that the policy runs on")
    mode: str = parameter(
        "realtime",
        "lockstep: the robot waits for each chunk; realtime: it does not, and chunks are made lead_steps early",
        choices=("realtime", "lockstep"),
    )
    policy_seed: int = parameter(
        0, "seed of the sampling noise; each chunk also mixes in the stamp of its observation", low=0
    )
    sampler: str = parameter("", "sampler; '': the checkpoint's own", choices=("", *SAMPLERS))
    sampler_steps: int = parameter(0, "denoising steps; 0: the checkpoint's own", low=0)
    lead_steps: int = parameter(
        -1,
        "realtime: control steps before the end of a chunk at which the next one is begun; -1: 1, with a robot as many"
        " as its latency needs and 0.1 s for picture and inference",
        low=-1,
    )
    late: str = parameter(
        "",
        "realtime: what is done about a chunk that comes after its observation. rtc: it goes on from the rows that are"
        " executed until it comes (real-time chunking); latest: the robot changes over to it; '': rtc where the"
        " checkpoint was trained for it (max_delay), else latest",
        choices=("", "rtc", "latest"),
    )
    robot: str = parameter(
        "",
        "realtime: YAML of a robot with drivers of its own, or a shipped one's name: where observations come from;"
        " '': the simulator's topics",
    )
    threads: int = parameter(1, "torch threads; more than one take time from the other nodes", low=1)
    sync_tolerance: float = parameter(
        0.0,
        "how far the stamps of one frame may differ [s]; 0: not at all (simulation). With a robot: of two cameras'"
        " pictures; 0: half a control step",
        low=0.0,
        high=1.0,
    )
    max_input_age: float = parameter(
        0.5,
        "realtime: an input that is silent for longer is reported; one whose stamps are farther from the clock is not"
        " used [s]",
        low=0.0,
    )
    min_frame_rate: float = parameter(
        0.6,
        "realtime: least rate of an input, as a part of the checkpoint's rate. Slower ones are not used; 0: any are."
        " With a robot: of pictures; what is interpolated between them has to come at 5 Hz",
        low=0.0,
        high=1.0,
    )
    good_frames: int = parameter(
        3, "good pictures in a row after which a camera that sent a bad one is trusted again", low=1
    )
    max_frozen: float = parameter(
        1.0, "how long a camera may show the same picture while the robot moves [s]; 0: not checked", low=0.0
    )
    gripper_joints: tuple[str, ...] = parameter(FINGERS, "the fingers' names in joint_states")
    gripper_signs: tuple[float, ...] = parameter(
        (1.0, 1.0), "factors from joint_states to the policy's finger positions (training: one positive, one negative)"
    )
    frame_id: str = parameter(
        "",
        "frame of poses and of the chunks' deltas; '', and with a robot: the checkpoint's",
    )
    frame_prefix: str = parameter("", FRAME_PREFIX)
    autostart: bool = parameter(True, AUTOSTART)

    def __post_init__(self) -> None:
        if len(self.gripper_joints) != len(self.gripper_signs):
            raise ValueError(
                f"parameter gripper_signs has {len(self.gripper_signs)} values,"
                f" {len(self.gripper_joints)} expected (one for each of gripper_joints)"
            )
        if self.robot and self.mode == "lockstep":
            raise ValueError(f"parameter robot is {self.robot!r}, '' expected in lockstep: no real robot waits")


def frame_rules(p: PolicyParameters) -> FrameRules:
    """What is asked of observations."""
    return FrameRules(
        realtime=p.mode == "realtime",
        sync_tolerance=p.sync_tolerance,
        max_input_age=p.max_input_age,
        min_frame_rate=p.min_frame_rate,
        good_frames=p.good_frames,
        max_frozen=p.max_frozen,
        gripper_joints=p.gripper_joints,
        gripper_signs=p.gripper_signs,
        frame_id=p.frame_id,
    )


def completed(p: PolicyParameters) -> PolicyParameters:
    """What was given, and the checkpoint's where nothing was."""
    spec = checkpoint.read_spec(p.checkpoint, **p.trust)
    p = replace(
        p,
        late=p.late or ("rtc" if spec.max_delay and p.mode == "realtime" else "latest"),
        sampler=p.sampler or spec.sampler,
        sampler_steps=p.sampler_steps or spec.sampler_steps,
        # With a robot its file says how the policy's frame lies to the driver's.
        frame_id=("" if p.robot else p.frame_id) or prefixed(p.frame_prefix, spec.frame or WORLD_FRAME),
    )
    if not p.robot:
        return replace(p, lead_steps=1 if p.lead_steps < 0 else p.lead_steps)
    path = robot_file.find(p.robot)
    return replace(
        p,
        robot=str(path),
        lead_steps=_lead_steps(robot_file.read(path), spec) if p.lead_steps < 0 else p.lead_steps,
        sync_tolerance=p.sync_tolerance or spec.period_ns / 2e9,
    )


def _lead_steps(robot: robot_file.RobotFile, spec: CheckpointSpec) -> int:
    """So many that the executor, which sends rows early by the arm's latency, does not come to the end of a chunk
    before the next one is there."""
    latencies = [robot.pictures[camera].latency for camera in spec.cameras[:1] if camera in robot.pictures]
    # Where pictures are stamped when they come, their latency is their age.
    allowance = max(_LOOK_AND_THINK_SECONDS, *(latency + _LOOK_AND_THINK_SECONDS / 2 for latency in latencies), 0.0)
    steps = -(-round((robot.action.latency + allowance) * 1e9) // spec.period_ns)
    return max(0, min(steps, spec.n_action_steps - 1))
