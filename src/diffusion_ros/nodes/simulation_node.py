"""simulation: a robosuite task as a robot driver. Sensors out, commands in, episodes one after the other.

Its two clocks, lockstep and real time, are those of ros/simulator_node.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros.nodes.arm_recorder import ArmRecorder
from diffusion_ros.robot import (
    ACTION_SIZE,
    EEF_POS,
    EEF_QUAT,
    FRAME_PREFIX,
    HAND_FRAME,
    OBJECT_POS,
    OBJECT_QUAT,
    RATE,
    WORLD_FRAME,
    optical_frame,
)
from diffusion_ros.ros import messages, simulator_parameters, topics
from diffusion_ros.ros.described_robot import DescribedRobot
from diffusion_ros.ros.params import parameter
from diffusion_ros.ros.picture_publisher import COMPRESSED, PicturePublisher
from diffusion_ros.ros.runner import run
from diffusion_ros.ros.scene_publisher import ScenePublisher
from diffusion_ros.ros.simulator_node import SimulatorNode
from diffusion_ros.ros.transform_broadcaster import Placed, TransformBroadcaster
from diffusion_ros.simulators.arm import Simulation
from diffusion_ros.simulators.arm_links import arm_links
from diffusion_ros.simulators.camera_faults import CameraFault
from diffusion_ros.simulators.episode import Episode
from diffusion_ros.simulators.scene import SceneGeom
from diffusion_ros.simulators.tasks import ARM_TASKS

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SimulationParameters(simulator_parameters.TwoClocksParameters):
    """Parameters of the simulation node."""

    task: str = parameter("can", "the robot's task", choices=tuple(ARM_TASKS))
    stop_after_success: int = parameter(0, "steps for which an episode goes on after its success", low=0)
    compressed_pictures: bool = parameter(False, COMPRESSED)
    frame_prefix: str = parameter("", FRAME_PREFIX)
    view: str = parameter("", "camera of the larger view in the videos; '': no videos")


class SimulationNode(SimulatorNode):
    """Publishes what a robot's drivers would, and the episode; subscribes to eef_command."""

    rate = RATE
    replayed_as = "arm"
    parameters: SimulationParameters

    def __init__(self, parameter_overrides: Sequence[Parameter[Any]] = ()) -> None:
        """Raises ValueError (parameters) or OSError (no OpenGL, no folder) in one line."""
        super().__init__("simulation", SimulationParameters, parameter_overrides)
        p = self.parameters
        self.simulation = Simulation(p.task)
        self.task_name = p.task
        self.world = f"{p.frame_prefix}{WORLD_FRAME}"
        """The frame of all poses."""
        self._recorder = ArmRecorder(self, self.simulation, p.view)
        self.records = bool(p.view)
        self.simulation.observe()  # the first picture makes the OpenGL context, which takes a second
        self._frame: dict[str, NDArray[Any]] = {}
        self._camera_fault: CameraFault | None = None
        # As they are called after remapping, which questions about the graph do not follow.
        (self._command_topic,) = self.take_commands({topics.EEF_COMMAND: (JointTrajectory, self._on_eef_command)})
        self.create_subscription(String, topics.CAMERA_FAULT, self._on_camera_fault, topics.COMMAND_QOS)
        self.start("robosuite", (PoseStamped, topics.EEF_POSE))

    def advertise(self) -> None:
        self._pose_publisher = self.create_publisher(PoseStamped, topics.EEF_POSE, topics.SENSOR_QOS)
        self._object_publisher = self.create_publisher(PoseStamped, topics.OBJECT_POSE, topics.SENSOR_QOS)
        self._joint_publisher = self.create_publisher(JointState, topics.JOINT_STATES, topics.SENSOR_QOS)
        cameras = self.simulation.cameras
        self._image_publishers = {
            camera: PicturePublisher(self, topics.image(camera), self.parameters.compressed_pictures)
            for camera in cameras
        }
        self._info_publishers = {
            camera: self.create_publisher(CameraInfo, topics.camera_info(camera), topics.DESCRIPTION_QOS)
            for camera in cameras
        }
        simulation, prefix = self.simulation, self.parameters.frame_prefix
        self._transforms = TransformBroadcaster(self, self.parameters.transforms)
        if self.parameters.scene:
            self._scene = ScenePublisher(self, simulation.scene, simulation.body_poses, self._transforms, prefix)
        base = simulation.base_position(), np.array((0.0, 0.0, 0.0, 1.0))
        self._described = DescribedRobot(self, arm_links(simulation, self.world, base, prefix=prefix), self._transforms)

    # What comes in

    def _on_eef_command(self, msg: JointTrajectory) -> None:
        messages.check_frame(msg.header, self.world)
        self.commanded(*messages.command_from_msg(msg))

    def _on_camera_fault(self, msg: String) -> None:
        """Lets a camera fail from now on, '<fault> <camera>', or ends that, ''."""
        fault, _, camera = msg.data.rpartition(" ")
        try:
            if msg.data and camera not in self.simulation.cameras:
                raise ValueError(f"camera {camera!r}: expected one of {', '.join(self.simulation.cameras)}")
            self._camera_fault = CameraFault(fault, camera, self.episode.seed) if msg.data else None
        except ValueError as error:
            name = topics.shown(self, topics.CAMERA_FAULT)
            self.get_logger().error(f"{name} {messages.printable(msg.data, 60)!r}: {error}")
            return
        if self._camera_fault is None:
            self.simulation.disturb_view()
        else:
            self._camera_fault.set_scene(self.simulation)

    def peers(self) -> bool:
        """Policy and executor. Our own subscription to eef_pose does not count."""
        return (
            self.count_subscribers(self._sole.topic) > 1
            and self.count_publishers(self._command_topic) > 0
            and self.count_publishers(self._recorder.chunk_topic) > 0
        )

    # Episodes

    def _new_episode(self, index: int) -> Episode:
        p = self.parameters
        return Episode(index, p.seed + index, p.max_steps or self.simulation.task.max_steps, p.stop_after_success)

    def reset_simulator(self) -> None:
        self.simulation.reset(self.episode.seed)
        self._recorder.begin()
        if self.parameters.scene:
            self._scene.begin()

    def hold(self) -> Array:
        return np.zeros(ACTION_SIZE)

    def execute(self, row: Array, missed: bool) -> None:
        self.simulation.step(row)
        self.episode.executed(row, self.simulation.success, missed)

    def result(self) -> dict[str, Any]:
        return self.episode.result(self.simulation.state_hash())

    def news(self) -> dict[str, Any]:
        return {"reward": float(self.simulation.success)}

    # What goes out

    def publish_observation(self, stamp_ns: int) -> None:
        """Pictures that nobody looks at are not drawn."""
        simulation = self.simulation
        watched = self.records or any(
            publisher.get_subscription_count() for publisher in self._image_publishers.values()
        )
        began = time.monotonic()
        frame = simulation.observe(images=watched)
        fault = self._camera_fault
        if fault is not None and watched:
            frame[f"{fault.camera}_image"] = fault.picture(frame[f"{fault.camera}_image"])
        drawn = time.monotonic()
        self._frame = frame
        optical = {c: f"{self.parameters.frame_prefix}{optical_frame(c)}" for c in simulation.cameras if watched}
        eef_pose = messages.pose_to_msg(frame[EEF_POS], frame[EEF_QUAT], stamp_ns, self.world)
        self._joint_publisher.publish(
            messages.joint_state_to_msg(
                simulation.joint_names, simulation.joint_positions(), simulation.joint_velocities(), stamp_ns
            )
        )
        object_pose = messages.pose_to_msg(frame[OBJECT_POS], frame[OBJECT_QUAT], stamp_ns, self.world)
        self._object_publisher.publish(object_pose)
        # Close together: whoever has the pictures waits for what is left of the observation.
        for camera, frame_id in optical.items():
            self._image_publishers[camera].publish(frame[f"{camera}_image"], stamp_ns, frame_id)
        # Last, because the executor answers it at once.
        self._pose_publisher.publish(eef_pose)
        for camera, frame_id in optical.items():
            size = simulation.image_size
            matrix = simulation.camera_matrix(camera, size, size)
            self._info_publishers[camera].publish(messages.camera_info_to_msg(matrix, size, size, stamp_ns, frame_id))
        self.diagnostics.tick(topics.EEF_POSE)
        if self.phase == "running":
            self.episode.took("observation", drawn - began)
            self.episode.took("publication", time.monotonic() - drawn)
        if self._transforms.heard:
            self._transforms.send(placed(simulation, frame, self.parameters.frame_prefix), stamp_ns)
            self._described.send(simulation.data.qpos, stamp_ns)

    def publish_scene(self) -> None:
        self._scene.publish(self._stamp_ns)

    # The replay and the video

    def shapes(self) -> Sequence[SceneGeom]:
        return self.simulation.scene()

    def bodies(self) -> Mapping[str, tuple[Array, Array]]:
        return self.simulation.body_poses()

    def record(self, row: Array | None, missed: bool) -> None:
        if row is None:
            self._frame = self.simulation.observe()
            reason = "" if self.episode.success else "the episode is over"
        else:
            reason = self._recorder.why_held(row, self._fault if missed else "")
        images = [self._frame[f"{camera}_image"] for camera in self.simulation.cameras]
        self._recorder.keep(self.episode, self._stamp_ns, images, self._frame[EEF_POS], reason)

    def pictures(self) -> Iterator[NDArray[np.uint8]]:
        return self._recorder.pictures(self.episode)

    def close(self) -> None:
        super().close()
        self.simulation.close()


def placed(simulation: Simulation, frame: dict[str, NDArray[Any]], prefix: str = "") -> list[Placed]:
    """The hand and the cameras' optical frames in the world."""
    poses = {HAND_FRAME: (frame[EEF_POS], frame[EEF_QUAT])}
    poses.update({optical_frame(camera): simulation.camera_pose(camera) for camera in simulation.cameras})
    return [(*pose, f"{prefix}{WORLD_FRAME}", f"{prefix}{name}") for name, pose in poses.items()]


def main() -> int:
    return run(SimulationNode)


if __name__ == "__main__":
    raise SystemExit(main())
