"""Systems of an arm with a diffusion policy: in robosuite, and on a robot with drivers of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_ros import robot_file
from diffusion_ros.control.teleoperation import DEVICES
from diffusion_ros.robot import CAMERAS
from diffusion_ros.ros import topics
from diffusion_ros.ros.messages import printable
from diffusion_ros.simulators import driver_streams
from diffusion_ros.simulators.tasks import ARM_TASKS
from diffusion_ros.systems.observer import Observer, PolicyObserver
from diffusion_ros.systems.system import (
    FRAME_PREFIX,
    SPEED,
    WEB,
    Argument,
    NodeDescription,
    System,
    Value,
    same_names,
    web_node,
)

VIEWS = ("frontview", "agentview", "birdview", "robot0_robotview", "robot0_eye_in_hand")
"""Cameras that all tasks have."""


class RehearsalObserver(PolicyObserver):
    """And what a robot's driver would have said."""

    def summary(self) -> dict[str, Any]:
        summary = super().summary()
        results = summary["results"]
        refused: dict[str, int] = {}
        for result in results:
            for reason, count in result["refused"].items():
                refused[reason] = refused.get(reason, 0) + count
        commanded = [result["commanded"] for result in results]
        greatest = ("max_linear_speed", "max_angular_speed", "largest_step", "largest_jump")
        return {
            **{name: max(one[name] for one in commanded) for name in greatest},
            "lag_rms": max(result["lag_rms"] for result in results),
            "achieved_speed": min((r["achieved_speed"] for r in results if "achieved_speed" in r), default=None),
            "refused": refused,
            **summary,
        }

    def outcome(self, summary: Mapping[str, Any]) -> str:
        refused = sum(summary["refused"].values())
        return (
            f"{super().outcome(summary)}, at most {summary['max_linear_speed']:.2f} m/s and"
            f" {summary['max_angular_speed']:.2f} rad/s, {refused} commands refused"
        )


class TeleoperateObserver(Observer):
    """The same for a person, whom nobody waits for: what the executor says until they move."""

    def _state(self) -> str:
        if self.news["event"] == "waiting":
            return f"waiting for a person: {self.executor.removeprefix('holding: ')}"
        return super()._state()


class RobotObserver(Observer):
    """The same for a robot, which has no episodes: what its executor says."""

    def parts(self) -> list[str]:
        said = self._starting() or [self.executor, self.task or "robot"]
        return [printable(part) for part in said if part]


_DEVICE = Argument("device", "torch device that the policy runs on")
_SAMPLER_STEPS = Argument("sampler_steps", "denoising steps of a chunk; 0: the checkpoint's own", minimum=0)
_LATE = Argument(
    "late",
    "what is done about chunks that come late in real time; '': rtc where the policy was trained for it",
    choices=("", "rtc", "latest"),
)
_OUTPUT_DIR = Argument(
    "output_dir", "folder for logs, parameters and videos; default: runs/<task>-<time>", "", path=True
)
_GUARD = Argument(
    "guard", "checkpoint (.pt) of a camera guard that the robot obeys in real time; '': no guard", "", path=True
)
_TELEOP = Argument(
    "teleop",
    "what a person takes over with; topic: another sender of teleop_action; '': nobody does",
    "",
    choices=("", *DEVICES, "topic"),
)
_COMPRESSED = Argument("compressed_pictures", "true: pictures also as JPEG, on <topic>/compressed", False)
_POLICY = Argument("policy", "false: a person drives alone (teleop)", True)


def _teleop_node(config: str = "teleop.yaml", *names: str) -> NodeDescription:
    return NodeDescription(
        "teleop",
        "diffusion_ros.nodes.teleop_node",
        config,
        {"device": "teleop", **same_names("checkpoint", "frame_prefix", *names)},
        restarts=3,
        needs="teleop",
        unless="topic",
        terminal=True,
    )


_GUARD_NODE = NodeDescription(
    "camera_guard",
    "diffusion_ros.nodes.camera_guard_node",
    "camera_guard.yaml",
    {"checkpoint": "guard", "device": "device"},
    restarts=3,
    needs="guard",
    managed=1,
)

_RECORD = Argument("record", "folder of the bag that is recorded, a new one; '': none", "", path=True)
_COMPRESS = Argument("compress", "how the bag has pictures; '': as they come", choices=("", "jpeg", "png"))


def _recorder(*arguments: str, **given: Value) -> NodeDescription:
    """The node that writes the bag. Not started again: its bag is there, and whoever records should know that it
    ends."""
    names = {"bag": _RECORD.name, **same_names("compress", "frame_prefix", *arguments)}
    return NodeDescription(
        "recorder", "diffusion_ros.nodes.recorder_node", "recorder.yaml", names, given=given, needs=_RECORD.name
    )


def _check_record(parameters: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ValueError for a bag that is there already."""
    if "recorder" not in parameters:
        return
    bag = Path(parameters["recorder"]["bag"])
    if bag.exists() and (not bag.is_dir() or any(bag.iterdir())):
        raise ValueError(f"record {bag}: exists already, a new folder expected")


SIMULATION = System(
    name="simulation",
    description="Lift, Can or Square in robosuite, with a diffusion policy",
    observer=PolicyObserver,
    subject="task",
    checkpoint="{}_pixels.pt",
    arguments=(
        Argument("task", "the task of the robot", choices=tuple(ARM_TASKS)),
        Argument("checkpoint", "the policy (.pt); default: checkpoints/<task>_pixels.pt", "", path=True),
        Argument("episodes", "number of episodes; episode i is drawn from seed + i", minimum=1),
        Argument("seed", "seed of the first episode (evaluation: 100000 to 199999)", minimum=0),
        Argument(
            "mode",
            "realtime: 20 Hz, however long the policy takes; lockstep: the simulator waits, so that results repeat",
            choices=("lockstep", "realtime"),
        ),
        SPEED,
        Argument("max_steps", "length of an episode; 0: the task's own (lift 200, can and square 400)", minimum=0),
        Argument("stop_after_success", "steps that an episode goes on after its success", minimum=0),
        Argument("view", "camera of the larger view in the videos; '': no videos", choices=("", *VIEWS)),
        _OUTPUT_DIR,
        Argument("policy_seed", "seed of the sampling noise", minimum=0),
        _GUARD,
        _RECORD,
        _COMPRESS,
        _COMPRESSED,
        FRAME_PREFIX,
        _TELEOP,
        _SAMPLER_STEPS,
        _LATE,
        _DEVICE,
        *WEB,
    ),
    nodes=(
        NodeDescription(
            "simulation",
            "diffusion_ros.nodes.simulation_node",
            "simulation.yaml",
            same_names(
                "task",
                "mode",
                "speed",
                "episodes",
                "seed",
                "max_steps",
                "stop_after_success",
                "view",
                "output_dir",
                "frame_prefix",
                "compressed_pictures",
            ),
            required=True,
        ),
        NodeDescription(
            "policy",
            "diffusion_ros.nodes.policy_node",
            "policy.yaml",
            same_names("checkpoint", "mode", "policy_seed", "sampler_steps", "late", "device", "frame_prefix"),
            restarts=3,
            managed=1,
        ),
        NodeDescription(
            "executor",
            "diffusion_ros.nodes.executor_node",
            "executor.yaml",
            same_names("checkpoint", "mode", "guard", "teleop", "frame_prefix"),
            restarts=3,
            managed=2,
        ),
        _GUARD_NODE,
        _recorder("checkpoint", "task", "mode"),
        _teleop_node(),
        web_node("simulation", "checkpoint", "episodes"),
    ),
    check=_check_record,
)

_ROBOT = Argument("robot", "the robot: a YAML file, or the name of one that comes with the package", "", robot=True)


def _check_rehearsal(parameters: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ValueError for a robot that cannot be rehearsed, or a bag that is there already."""
    _check_record(parameters)
    own = parameters["rehearsal"]
    size = driver_streams.picture_size(own["picture_size"])
    robot = robot_file.read(Path(own["robot"]))
    driver_streams.streams(robot, CAMERAS, own["encoding"], *size, float(own["pose_rate"]))


REHEARSAL = System(
    name="rehearsal",
    description="real_robot with a simulator in the place of its drivers",
    observer=RehearsalObserver,
    subject="task",
    checkpoint="{}_pixels.pt",
    arguments=(
        Argument(_ROBOT.name, _ROBOT.description, robot=True),
        Argument("task", "the task of the robot", choices=tuple(ARM_TASKS)),
        Argument("checkpoint", "the policy (.pt); default: checkpoints/<task>_pixels.pt", "", path=True),
        Argument("episodes", "number of episodes; episode i is drawn from seed + i", minimum=1),
        Argument("seed", "seed of the first episode (evaluation: 100000 to 199999)", minimum=0),
        SPEED,
        Argument("max_steps", "length of an episode; 0: the task's own (lift 200, can and square 400)", minimum=0),
        Argument("stop_after_success", "steps that an episode goes on after its success", minimum=0),
        Argument("view", "camera of the larger view in the videos; '': no videos", choices=("", *VIEWS)),
        _OUTPUT_DIR,
        Argument("policy_seed", "seed of the sampling noise", 0, minimum=0),
        _RECORD,
        _COMPRESS,
        FRAME_PREFIX,
        _TELEOP,
        _POLICY,
        _SAMPLER_STEPS,
        _LATE,
        _DEVICE,
        *WEB,
    ),
    nodes=(
        NodeDescription(
            "rehearsal",
            "diffusion_ros.nodes.rehearsal_node",
            "rehearsal.yaml",
            same_names(
                "robot",
                "task",
                "speed",
                "episodes",
                "seed",
                "max_steps",
                "stop_after_success",
                "view",
                "output_dir",
                "frame_prefix",
            ),
            required=True,
        ),
        NodeDescription(
            "policy",
            "diffusion_ros.nodes.policy_node",
            "real_robot.yaml",
            same_names("checkpoint", "robot", "policy_seed", "sampler_steps", "late", "device", "frame_prefix"),
            given={"mode": "realtime"},
            restarts=3,
            needs="policy",
            managed=1,
        ),
        # Limits and box are the robot's file's, as on the robot.
        NodeDescription(
            "executor",
            "diffusion_ros.nodes.executor_node",
            "real_robot.yaml",
            same_names("checkpoint", "robot", "teleop", "frame_prefix"),
            given={"mode": "realtime", "rehearsal": True, "enabled": True, "checkpoint_limits": False},
            restarts=3,
            managed=2,
        ),
        _recorder("checkpoint", "robot", "task", mode="realtime"),
        _teleop_node("teleop.yaml", "robot"),
        web_node("rehearsal", "checkpoint", "robot", "episodes"),
    ),
    check=_check_rehearsal,
)

_ROBOT_TOPICS = {
    topic: Argument(name, description, topic)
    for topic, name, description in (
        (topics.image("agentview"), "agentview_image", "topic of the camera that sees the scene"),
        (topics.image("robot0_eye_in_hand"), "eye_in_hand_image", "topic of the camera at the wrist"),
        (topics.JOINT_STATES, "joint_states", "topic of the arm's and the gripper's joints"),
        (topics.EEF_POSE, "eef_pose", "topic of the hand's pose"),
        (topics.EEF_COMMAND, "eef_command", "topic that the robot's driver takes commands from"),
    )
}

REAL_ROBOT = System(
    name="real_robot",
    description="a diffusion policy for an arm with drivers of its own",
    observer=RobotObserver,
    simulated=False,
    arguments=(
        Argument(_ROBOT.name, f"{_ROBOT.description}; without it a driver that takes eef_command", "", robot=True),
        Argument("checkpoint", "the policy (.pt)", "", path=True),
        Argument("enabled", "true: the robot moves at once; false: after the service executor/set_enabled"),
        _GUARD,
        _RECORD,
        _COMPRESS,
        FRAME_PREFIX,
        _TELEOP,
        _POLICY,
        _SAMPLER_STEPS,
        _LATE,
        _DEVICE,
        Argument("output_dir", "folder for logs and parameters; default: runs/real_robot-<time>", "", path=True),
        *WEB,
        *_ROBOT_TOPICS.values(),
    ),
    nodes=(
        NodeDescription(
            "policy",
            "diffusion_ros.nodes.policy_node",
            "real_robot.yaml",
            same_names("checkpoint", "robot", "sampler_steps", "late", "device", "frame_prefix"),
            given={"mode": "realtime"},
            restarts=3,
            needs="policy",
            managed=1,
        ),
        # Not started again: a robot that has stopped since its executor failed is for a person to set going.
        NodeDescription(
            "executor",
            "diffusion_ros.nodes.executor_node",
            "real_robot.yaml",
            same_names("checkpoint", "robot", "enabled", "guard", "teleop", "frame_prefix"),
            # A robot does not wait, and what it may do is not a checkpoint's to say.
            given={"mode": "realtime", "checkpoint_limits": False},
            managed=2,
        ),
        _GUARD_NODE,
        _recorder("checkpoint", "robot", mode="realtime"),
        _teleop_node("teleop.yaml", "robot"),
        web_node("real_robot", "checkpoint", "robot"),
    ),
    check=_check_record,
    topics={topic: argument.name for topic, argument in _ROBOT_TOPICS.items()},
)

TELEOPERATE = System(
    name="teleoperate",
    description="a person drives the arm: in robosuite, or a robot (--robot)",
    observer=TeleoperateObserver,
    subject="task",
    needs_checkpoint=False,
    arguments=(
        Argument("task", "the task of the robot", choices=tuple(ARM_TASKS)),
        Argument("teleop", "what the person has in their hands", "keyboard", choices=(*DEVICES, "topic")),
        Argument("checkpoint", "a policy (.pt) whose rows the person's are to be like; '': none", "", path=True),
        Argument("episodes", "number of episodes; episode i is drawn from seed + i", minimum=1),
        Argument("seed", "seed of the first episode (demonstrations: below 100000)", minimum=0),
        SPEED,
        Argument("max_steps", "length of an episode, 20 a second; 0: the task's own", minimum=0),
        Argument("stop_after_success", "steps that an episode goes on after its success", minimum=0),
        Argument("view", "camera of the larger view in the videos; '': no videos", choices=("", *VIEWS)),
        _OUTPUT_DIR,
        _RECORD,
        _COMPRESS,
        _COMPRESSED,
        FRAME_PREFIX,
        *WEB,
    ),
    nodes=(
        NodeDescription(
            "simulation",
            "diffusion_ros.nodes.simulation_node",
            "teleoperate.yaml",
            same_names(
                "task",
                "speed",
                "episodes",
                "seed",
                "max_steps",
                "stop_after_success",
                "view",
                "output_dir",
                "frame_prefix",
                "compressed_pictures",
            ),
            given={"mode": "realtime"},
            required=True,
        ),
        NodeDescription(
            "executor",
            "diffusion_ros.nodes.executor_node",
            "teleoperate.yaml",
            same_names("checkpoint", "teleop", "frame_prefix"),
            given={"mode": "realtime"},
            restarts=3,
            managed=2,
        ),
        _teleop_node("teleoperate.yaml"),
        _recorder("checkpoint", "task", mode="realtime"),
        web_node("teleoperate", "checkpoint", "episodes"),
    ),
    check=_check_record,
)
