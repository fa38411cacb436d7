"""CONTRIBUTING's "Adding things", followed for a toy robot, a toy task and a toy kind of checkpoint.

What is written into a file there is put in its place here for the length of a test.
"""

from __future__ import annotations

from pathlib import Path

import fake_policy
import numpy as np
import pytest
import ros_graph
import torch
import yaml
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image, JointState
from torch import Tensor, nn
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros import checkpoint, models
from diffusion_ros.checkpoint import CheckpointError, exported
from diffusion_ros.models.kind import Checkpoint, Kind, check_single
from diffusion_ros.nodes.executor_node import ExecutorNode
from diffusion_ros.nodes.policy_node import PolicyNode
from diffusion_ros.ros import messages, topics
from diffusion_ros.simulators import tasks
from diffusion_ros.simulators.arm import Simulation
from diffusion_ros.spec import CheckpointSpec, SpecError, TensorSpec
from diffusion_ros.systems import REAL_ROBOT
from diffusion_ros.systems.startup import decide
from training.data import experts
from training.data.experts import Expert, ExpertView, Servo

ROOT = Path(__file__).parents[1]


# A robot: a YAML of one's own


def test_a_robot_is_a_yaml(tmp_path: Path) -> None:
    limits = [0.011, 0.012, 0.013, 0.11, 0.12, 0.13, 1.0]
    sections = {
        "policy": {"frame_id": "toy_base", "gripper_joints": ["toy_l", "toy_r"], "gripper_signs": [1.0, 1.0]},
        "executor": {
            "frame_id": "toy_base",
            "action_low": [-x for x in limits],
            "action_high": limits,
            "workspace_low": [-0.5, -0.5, 0.0],
            "workspace_high": [0.5, 0.5, 0.5],
        },
    }
    file = tmp_path / "toy.yaml"
    file.write_text(yaml.safe_dump({name: {"ros__parameters": values} for name, values in sections.items()}))
    path = str(fake_policy.save(tmp_path / "policy.pt"))
    given = {"checkpoint": path, "params_file": str(file), "enabled": "true", "output_dir": str(tmp_path / "run")}
    startup = decide(REAL_ROBOT, given, ROOT, str)
    with ros_graph.graph() as graph:
        for node, make in (("policy", PolicyNode), ("executor", ExecutorNode)):
            values = {**startup.parameters[node], "autostart": True}  # nobody manages their lives here
            graph.add(make([Parameter(name, value=value) for name, value in values.items()]))
        robot = graph.add(Node("toy"))
        rows: list[np.ndarray] = []
        robot.create_subscription(
            JointTrajectory,
            topics.EEF_COMMAND,
            lambda msg: rows.append(messages.command_from_msg(msg)[1]),
            topics.COMMAND_QOS,
        )
        poses = robot.create_publisher(PoseStamped, topics.EEF_POSE, topics.SENSOR_QOS)
        joints = robot.create_publisher(JointState, topics.JOINT_STATES, topics.SENSOR_QOS)
        cameras = ("agentview", "robot0_eye_in_hand")
        images = {c: robot.create_publisher(Image, topics.image(c), topics.SENSOR_QOS) for c in cameras}
        picture = np.zeros((84, 84, 3), np.uint8)

        def publish() -> None:
            stamp = robot.get_clock().now().nanoseconds
            for camera, publisher in images.items():
                publisher.publish(messages.image_to_msg(picture, stamp, camera))
            joints.publish(messages.joint_state_to_msg(["toy_l", "toy_r"], [0.02, -0.02], [0.0, 0.0], stamp))
            poses.publish(messages.pose_to_msg((0.1, 0.0, 0.2), (1.0, 0.0, 0.0, 0.0), stamp, "toy_base"))

        robot.create_timer(0.05, publish)
        graph.spin_until(lambda: any(np.any(row[:6]) for row in rows))
    assert all(np.all(np.abs(row) <= np.array(limits) + 1e-12) for row in rows)


# A task for the arm: an entry in simulators/tasks.py, an expert in training/data/experts.py


def hover(view: ExpertView) -> Expert:
    """Half of a stacking expert: above the first cube, the hand open."""
    servo = Servo(view)
    while True:
        yield servo.to(view.object + np.array([0.0, 0.0, 0.1]), 0.0, experts.OPEN)


def test_a_task_is_an_entry_and_an_expert(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tasks.ARM_TASKS, "stack", tasks.ArmTask("Stack", "cubeA_main", 200))
    monkeypatch.setitem(experts.EXPERTS, "stack", hover)
    simulation = Simulation("stack")
    try:
        simulation.reset(100_000)
        view = ExpertView.of(simulation)
        expert = experts.EXPERTS["stack"](view)
        for _ in range(60):
            simulation.step(next(expert))
            view.look(simulation)
        assert np.linalg.norm(view.hand - view.object - [0.0, 0.0, 0.1]) < 0.02
        frame = simulation.observe(images=True)
        assert frame["agentview_image"].shape == (84, 84, 3)
    finally:
        simulation.close()


# A kind of checkpoint: a file in models/, its name in models/__init__.py


def check(spec: CheckpointSpec) -> None:
    check_single(spec, ("action_low", "action_high", "workspace_low", "workspace_high"))
    if [(tensor.name, tensor.shape) for tensor in spec.outputs] != [("point", (2,))]:
        raise SpecError("spec: outputs: point (2) alone expected in a pointer")


def dry_run(loaded: Checkpoint) -> str:
    image = torch.zeros((1, *loaded.spec.inputs[0].shape), dtype=torch.uint8)
    point = loaded.module.point(image)
    return "" if tuple(point.shape) == (1, 2) else f"gives a point of shape {tuple(point.shape)}, (1, 2) expected"


POINTER = Kind("pointer", check, ("point",), dry_run)
"""Where the brightest pixel of a picture is."""


class Pointer(nn.Module):
    def __init__(self, size: int = 2) -> None:
        super().__init__()
        self.size = size

    def forward(self, image: Tensor) -> Tensor:
        return self.point(image)

    @exported
    def point(self, image: Tensor) -> Tensor:
        place = image.float().sum(3).flatten(1).argmax(1)
        return torch.stack([place // image.shape[2], place % image.shape[2]], 1)[:, : self.size].float()


def pointer_spec(**changes: object) -> CheckpointSpec:
    fields: dict[str, object] = {
        "kind": "pointer",
        "task": "lamp",
        "environment": "",
        "inputs": (TensorSpec("agentview_image", (8, 9, 3), "uint8", "rgb", ""),),
        "outputs": (TensorSpec("point", (2,), "float32", "px", ""),),
        "rate": 10.0,
        "horizon": 1,
        "n_obs_steps": 1,
        "n_action_steps": 1,
        "action_low": (),
        "action_high": (),
    }
    return CheckpointSpec(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_kind_of_checkpoint_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match="kind 'pointer', one of policy, planner"):
        checkpoint.save(Pointer(), pointer_spec(), tmp_path / "unknown.pt")
    monkeypatch.setitem(models.KINDS, "pointer", POINTER)
    checkpoint.save(Pointer(), pointer_spec(), tmp_path / "pointer.pt")
    loaded = checkpoint.load(tmp_path / "pointer.pt", kind="pointer")
    image = torch.zeros((1, 8, 9, 3), dtype=torch.uint8)
    image[0, 5, 7] = 200
    assert loaded.module.point(image).tolist() == [[5.0, 7.0]]
    with pytest.raises(SpecError, match="point \\(2\\) alone expected"):
        checkpoint.save(Pointer(), pointer_spec(outputs=()), tmp_path / "other.pt")
    checkpoint.save(Pointer(1), pointer_spec(), tmp_path / "short.pt")
    with pytest.raises(CheckpointError, match=r"gives a point of shape \(1, 1\)"):
        checkpoint.load(tmp_path / "short.pt")
    with pytest.raises(CheckpointError, match="is a pointer, a policy is needed"):
        checkpoint.load(tmp_path / "pointer.pt", kind="policy")
