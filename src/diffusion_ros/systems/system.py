"""Which nodes make up which system, and what can be chosen when it is started.

The one description of each: bringup and the launch files both read it, so that neither can drift.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import diffusion_ros

Value = bool | int | float | str

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "0"}
"""What nodes are started with, where it is not set: one thread each. Those of torch wait by spinning, those of Mesa's
software rasteriser (0: none beside the caller's) are woken for each part of a picture; both keep the other nodes from
their cores. Pictures are the same, bit for bit."""


@dataclass(frozen=True)
class Argument:
    """Something to choose at the start: `--name` of bringup, `name:=` of a launch file. Its type is the default's."""

    name: str
    default: Value
    description: str
    choices: tuple[str, ...] = ()
    minimum: int | None = None

    def parse(self, text: str) -> Value:
        """The value written as `text`. Raises ValueError, one line with the value and what was expected."""
        if isinstance(self.default, bool):
            if text.lower() not in ("true", "false"):
                raise ValueError(f"{self.name} {text!r}: expected true or false")
            return text.lower() == "true"
        try:
            value = type(self.default)(text)
        except ValueError:
            raise ValueError(f"{self.name} {text!r}: expected a number") from None
        if self.choices and value not in self.choices:
            raise ValueError(f"{self.name} {text!r}: expected one of {', '.join(filter(None, self.choices))}")
        if self.minimum is not None and isinstance(value, int) and value < self.minimum:
            raise ValueError(f"{self.name} {value}: expected at least {self.minimum}")
        return value


@dataclass(frozen=True)
class NodeDescription:
    """A node: `python -m <module>` with the parameters of config/<config> and, over them, those chosen."""

    name: str
    module: str
    config: str
    arguments: Mapping[str, str]
    """Parameter of the node -> name of the argument that gives it."""
    given: Mapping[str, Value] = field(default_factory=dict)
    """Parameters of the node that make it this system's, whatever is chosen."""
    restarts: int = 0
    """How often it is started again when it ends before the system does."""
    required: bool = False
    """Whether the system ends when it does."""
    needs: str = ""
    """An argument without which it is not started, '' for none."""


@dataclass(frozen=True)
class System:
    """Nodes that work together."""

    name: str
    arguments: tuple[Argument, ...]
    nodes: tuple[NodeDescription, ...]
    kind: str = "policy"
    """Of the checkpoint."""
    subject: str = ""
    """The argument that names what the checkpoint must have been trained on, '' for none."""
    task: str = ""
    """What it must have been trained on where no argument names it."""
    checkpoint: str = ""
    """The shipped checkpoint, with the task in place of {}."""
    topics: Mapping[str, str] = field(default_factory=dict)
    """Topic of the nodes -> name of the argument that says what it is called here."""

    def parameters(self, node: NodeDescription, values: Mapping[str, Value]) -> dict[str, Value]:
        """The parameters that `values` (all arguments by name) give to a node, by the node's names for them."""
        return {**node.given, **{parameter: values[argument] for parameter, argument in node.arguments.items()}}

    def trained_on(self, values: Mapping[str, Value]) -> str:
        """What the checkpoint must have been trained on, '' for anything."""
        return str(values[self.subject]) if self.subject else self.task

    def started(self, values: Mapping[str, Value]) -> tuple[NodeDescription, ...]:
        """The nodes that these arguments call for."""
        return tuple(node for node in self.nodes if not node.needs or values[node.needs])

    def default_checkpoint(self, values: Mapping[str, Value], resources: Path) -> Path:
        """The shipped checkpoint. Raises ValueError where there is none."""
        if not self.checkpoint:
            raise ValueError(f"checkpoint '': expected the path of a {self.kind} (.pt)")
        return resources / "checkpoints" / self.checkpoint.format(self.trained_on(values))


VIEWS = ("frontview", "agentview", "birdview", "robot0_robotview", "robot0_eye_in_hand")
"""Cameras that all tasks have."""

_CHECKPOINT = Argument("checkpoint", "", "the policy (.pt); default: checkpoints/<task>_pixels.pt")
_DEVICE = Argument("device", "cpu", "torch device of the policy")
_SAMPLER_STEPS = Argument("sampler_steps", 0, "denoising steps of a chunk; 0: the checkpoint's own", minimum=0)

_GUARD = Argument("guard", "", "a camera guard's checkpoint (.pt) that the robot obeys in real time; none: no guard")
_GUARD_NODE = NodeDescription(
    "camera_guard",
    "diffusion_ros.nodes.camera_guard_node",
    "camera_guard.yaml",
    {"checkpoint": "guard", "device": "device"},
    restarts=3,
    needs="guard",
)

SIMULATION = System(
    name="simulation",
    subject="task",
    checkpoint="{}_pixels.pt",
    arguments=(
        Argument("task", "can", "what the robot is to do", choices=("lift", "can", "square")),
        _CHECKPOINT,
        Argument("episodes", 3, "how many; episode i is drawn from seed + i", minimum=1),
        Argument("seed", 100_000, "of the first episode (evaluation: 100000 to 199999)", minimum=0),
        Argument(
            "mode",
            "realtime",
            "realtime: 20 Hz whatever the policy does; lockstep: the simulator waits, and results can be repeated",
            choices=("lockstep", "realtime"),
        ),
        Argument("max_steps", 0, "length of an episode; 0: the task's own (lift 200, can and square 400)", minimum=0),
        Argument("stop_after_success", 0, "steps that an episode goes on after its success", minimum=0),
        Argument("view", "", "camera of the larger view of a video; none: no video", choices=("", *VIEWS)),
        Argument("output_dir", "", "folder for logs and videos; default: runs/<task>-<time>"),
        Argument("policy_seed", 0, "of the sampling noise", minimum=0),
        _GUARD,
        _SAMPLER_STEPS,
        _DEVICE,
    ),
    nodes=(
        NodeDescription(
            "simulation",
            "diffusion_ros.nodes.simulation_node",
            "simulation.yaml",
            {
                name: name
                for name in (
                    "task",
                    "mode",
                    "episodes",
                    "seed",
                    "max_steps",
                    "stop_after_success",
                    "view",
                    "output_dir",
                )
            },
            required=True,
        ),
        NodeDescription(
            "policy",
            "diffusion_ros.nodes.policy_node",
            "policy.yaml",
            {name: name for name in ("checkpoint", "mode", "policy_seed", "sampler_steps", "device")},
            restarts=3,
        ),
        NodeDescription(
            "executor",
            "diffusion_ros.nodes.executor_node",
            "executor.yaml",
            {"checkpoint": "checkpoint", "mode": "mode", "guard": "guard"},
            restarts=3,
        ),
        _GUARD_NODE,
    ),
)

REAL_ROBOT = System(
    name="real_robot",
    arguments=(
        Argument("checkpoint", "", "the policy (.pt)"),
        Argument("params_file", "", "your YAML, over config/real_robot.yaml: the robot's limits and box, at least"),
        Argument("enabled", False, "whether the robot moves at once, or only after the service executor/set_enabled"),
        _GUARD,
        _SAMPLER_STEPS,
        _DEVICE,
        Argument("agentview_image", "agentview/image_raw", "topic of the camera that sees the scene"),
        Argument("eye_in_hand_image", "robot0_eye_in_hand/image_raw", "topic of the camera at the wrist"),
        Argument("joint_states", "joint_states", "topic of the arm's and the gripper's joints"),
        Argument("eef_pose", "eef_pose", "topic of the hand's pose"),
        Argument("eef_command", "eef_command", "topic that the robot's driver takes commands from"),
    ),
    nodes=(
        NodeDescription(
            "policy",
            "diffusion_ros.nodes.policy_node",
            "real_robot.yaml",
            {"checkpoint": "checkpoint", "sampler_steps": "sampler_steps", "device": "device"},
            restarts=3,
        ),
        # Not started again: a robot that has stopped since its executor failed is for a person to set going.
        NodeDescription(
            "executor",
            "diffusion_ros.nodes.executor_node",
            "real_robot.yaml",
            {"checkpoint": "checkpoint", "enabled": "enabled", "guard": "guard"},
        ),
        _GUARD_NODE,
    ),
    topics={
        "agentview/image_raw": "agentview_image",
        "robot0_eye_in_hand/image_raw": "eye_in_hand_image",
        "joint_states": "joint_states",
        "eef_pose": "eef_pose",
        "eef_command": "eef_command",
    },
)


MAZE = System(
    name="maze",
    kind="planner",
    subject="size",
    checkpoint="maze_{}.pt",
    arguments=(
        Argument("size", "large", "which maze", choices=("umaze", "medium", "large")),
        Argument("checkpoint", "", "the planner (.pt); default: checkpoints/maze_<size>.pt"),
        Argument("episodes", 3, "how many; start and goal of episode i are drawn from seed + i", minimum=1),
        Argument("seed", 100_000, "of the first episode (evaluation: 100000 to 199999)", minimum=0),
        Argument("follow", "pursuit", "pursuit of the plan's path, or its points in time", choices=("pursuit", "time")),
        Argument("replan_rate", 0.0, "plans a second, each from the one before; 0: planned once [Hz]"),
        Argument("candidates", 4, "plans that are sampled for each that is driven", minimum=1),
        Argument("obstacle_radius", 0.0, "of a ball that moves in the way; 0: none [m]"),
        Argument("video", True, "whether each episode becomes an MP4: how its plan was denoised, and the drive"),
        Argument("output_dir", "", "folder for logs and videos; default: runs/<size>-<time>"),
        _SAMPLER_STEPS,
        _DEVICE,
    ),
    nodes=(
        NodeDescription(
            "maze",
            "diffusion_ros.nodes.maze_node",
            "maze.yaml",
            {name: name for name in ("size", "episodes", "seed", "obstacle_radius", "video", "output_dir")},
            required=True,
        ),
        NodeDescription(
            "planner",
            "diffusion_ros.nodes.planner_node",
            "planner.yaml",
            {name: name for name in ("checkpoint", "replan_rate", "candidates", "sampler_steps", "device")},
            restarts=3,
        ),
        NodeDescription(
            "follower", "diffusion_ros.nodes.follower_node", "follower.yaml", {"follow": "follow"}, restarts=3
        ),
    ),
)


def _balancing(task: str, kind: str, checkpoint: str) -> System:
    """A Gymnasium task and a policy from reinforcement learning."""
    return System(
        name=task,
        kind=kind,
        task=task,
        checkpoint=checkpoint,
        arguments=(
            Argument("checkpoint", "", f"the policy (.pt); default: checkpoints/{checkpoint.format('<task>')}"),
            Argument("episodes", 3, "how many; episode i is drawn from seed + i", minimum=1),
            Argument("seed", 100_000, "of the first episode (evaluation: 100000 to 199999)", minimum=0),
            Argument(
                "mode",
                "realtime",
                "realtime: the task's rate whatever the policy does; lockstep: the simulator waits, and results can be"
                " repeated",
                choices=("lockstep", "realtime"),
            ),
            Argument("max_steps", 0, "length of an episode; 0: Gymnasium's time limit", minimum=0),
            Argument("video", False, "whether each episode becomes an MP4"),
            Argument("output_dir", "", "folder for logs and videos; default: runs/<task>-<time>"),
            _DEVICE,
        ),
        nodes=(
            NodeDescription(
                "gym_simulation",
                "diffusion_ros.nodes.gym_simulation_node",
                "gym_simulation.yaml",
                {name: name for name in ("mode", "episodes", "seed", "max_steps", "video", "output_dir")},
                given={"task": task},
                required=True,
            ),
            NodeDescription(
                "rl_policy",
                "diffusion_ros.nodes.rl_policy_node",
                "rl_policy.yaml",
                {name: name for name in ("checkpoint", "mode", "device")},
                given={"task": task},
                restarts=3,
            ),
        ),
    )


CARTPOLE = _balancing("cartpole", "discrete policy", "{}_rainbow.pt")
DOUBLE_PENDULUM = _balancing("double_pendulum", "continuous policy", "{}_ppo.pt")

SYSTEMS = {system.name: system for system in (SIMULATION, MAZE, CARTPOLE, DOUBLE_PENDULUM)}
"""Those that bringup starts; a real robot is for launch files."""


def resource_folder() -> Path:
    """Where config/, launch/ and checkpoints/ are: the source tree, or share/diffusion_ros of an installation.

    Raises FileNotFoundError where there is neither.
    """
    package = Path(diffusion_ros.__file__).resolve().parent
    prefixes = [Path(prefix) for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    shares = [prefix / "share" / diffusion_ros.__name__ for prefix in (*package.parents, *prefixes)]
    # The source tree first: in an editable installation there is no other, and with both it is what runs.
    for folder in (package.parents[1], *shares):
        if (folder / "config" / "simulation.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no config/simulation.yaml found for {package}: is diffusion_ros installed completely?")
