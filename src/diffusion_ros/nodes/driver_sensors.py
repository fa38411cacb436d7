"""What a robot's drivers measure, for the rehearsal: each stream of the robot's file with its rate, name and delay.

Times are int ns of the simulated arm. What is published gets stamps of the driver's clock.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_msgs.msg import Bool, Float64, Int32

from diffusion_ros.robot import IMAGE_SIZE, OBJECT_POS, OBJECT_QUAT, optical_frame
from diffusion_ros.robot_file import HAND, OBJECT, PoseSource, ReadyCondition, RobotFile, RobotFileError
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.runner import RunnableNode
from diffusion_ros.simulators import driver_streams
from diffusion_ros.simulators.arm_driver import ArmDriver
from diffusion_ros.simulators.driven_arm import Pose, compose, invert
from diffusion_ros.simulators.driver_streams import CameraStream, Schedule, Streams

try:
    from moveit_msgs.msg import ServoStatus  # where MoveIt is, but not on PyPI
except ImportError:
    ServoStatus = None

Array = NDArray[np.float64]

DRIVER_QOS = topics.WATCHED_QOS
"""As most drivers publish and subscribe: rclcpp's system default."""
_NEWEST_QOS = QoSProfile(
    history=topics.BEST_EFFORT_QOS.history,
    depth=1,
    reliability=topics.BEST_EFFORT_QOS.reliability,
    durability=topics.BEST_EFFORT_QOS.durability,
)
_OBJECT_RATE = 30.0
_READY = {"std_msgs/Bool": Bool, "std_msgs/Float64": Float64, "std_msgs/Int32": Int32}


class DriverSensors:
    """The publishers of one robot's drivers.

    size: width and height of pictures [px]; rate: of each camera [Hz]; delay: from exposure to publication, and by
    which that is more or less [s]. stamp: what the driver's clock says at a time of the arm. took: is told how long
    something took [s]; published: the topic of each picture. Raises RobotFileError for what is not installed.
    """

    def __init__(
        self,
        node: RunnableNode,
        robot: RobotFile,
        streams: Streams,
        driver: ArmDriver,
        size: tuple[int, int],
        rate: float,
        delay: tuple[float, float],
        stamp: Callable[[int], int],
        took: Callable[[str, float], object],
        published: Callable[[str], object],
        prefix: str = "",
    ) -> None:
        for name, source in robot.poses.items():
            if source.source == "tf" and messages.TFMessage is None:
                raise RobotFileError(f"{robot.path}: observations.{name}.source: tf, which needs tf2_msgs installed")
        self._node, self._robot, self.streams, self._driver = node, robot, streams, driver
        self._arm, self._simulation = driver.arm, driver.arm.simulation
        self._joints = list(driver.joints)
        self._size, (self._delay, self._jitter) = size, delay
        self._stamp_of, self._took, self._published = stamp, took, published
        self._prefix = prefix
        """Of the cameras' frames."""
        arm = self._arm
        self.world = compose(compose(arm.measured_pose(), arm.tool), invert(arm.hand_in_world()))
        """The scene in the driver's base frame."""
        self.records = False
        """Whether pictures are drawn that nobody subscribes to."""
        self._last: tuple[int, Array, Array] | None = None
        """The state of 2 ms before: time, positions, velocities."""
        self._pictures: dict[str, NDArray[np.uint8]] = {}
        self._outbox: list[tuple[int, int, Callable[[], None]]] = []
        """When something is to be published [ns of the arm], a number, and how."""
        self._numbers = itertools.count()
        many = max(1, len(streams.cameras))
        self._pose_times = Schedule(streams.pose_rate)
        self._joint_times = Schedule(streams.joints_rate)
        self._gripper_times = Schedule(streams.gripper_rate)
        self._object_times = Schedule(_OBJECT_RATE)
        # Cameras know nothing of each other: their exposures are apart.
        self._camera_times = [Schedule(rate, i / many) for i in range(many)]
        width, height = size
        for camera in streams.cameras:  # the first picture makes the OpenGL context, which takes a second
            self._simulation.render(camera.name, height, width)

    def advertise(self) -> None:
        """The drivers start."""
        node, robot, streams = self._node, self._robot, self.streams
        pose_qos = _NEWEST_QOS if streams.unreliable_pose else DRIVER_QOS
        self._pose_publishers: dict[str, Any] = {}
        for name, source in robot.poses.items():
            if source.source == "pose":
                self._pose_publishers[name] = node.create_publisher(PoseStamped, source.topic, pose_qos)
            elif source.source == "tf":
                self._pose_publishers[name] = node.create_publisher(messages.TFMessage, source.topic, DRIVER_QOS)
        self._joint_publisher = (
            node.create_publisher(JointState, streams.joints_topic, DRIVER_QOS) if streams.joints_topic else None
        )
        # Of a driver of its own.
        self._finger_publisher = (
            node.create_publisher(JointState, streams.fingers.topic, DRIVER_QOS) if streams.fingers else None
        )
        self._picture_publishers: dict[str, Any] = {}
        self._info_publishers: dict[str, Any] = {}
        for camera in streams.cameras:
            qos = topics.SENSOR_QOS if camera.reliable else topics.BEST_EFFORT_QOS
            kind = CompressedImage if camera.compressed else Image
            self._picture_publishers[camera.name] = node.create_publisher(kind, camera.topic, qos)
            self._info_publishers[camera.name] = node.create_publisher(CameraInfo, camera.info_topic, qos)
        self._make_ready()

    def restart(self, random: np.random.Generator) -> None:
        """The arm was set somewhere else, and its drivers have been switched on again. random: of the jitter."""
        self._random = random
        for schedule in (self._pose_times, self._joint_times, self._gripper_times, self._object_times):
            schedule.restart()
        for schedule in self._camera_times:
            schedule.restart()
        self._outbox.clear()
        self._last = None

    def _make_ready(self) -> None:
        """What the robot says when it is ready: all is well, for as long as its drivers run."""
        self._ready: list[tuple[Any, Callable[[], Any]]] = []
        for condition in self._robot.ready:
            kind = ServoStatus if condition.type == "moveit_msgs/ServoStatus" else _READY[condition.type]
            if kind is None:
                continue
            qos = topics.DESCRIPTION_QOS if condition.latched else DRIVER_QOS
            publisher = self._node.create_publisher(kind, condition.topic, qos)
            make = self._readiness(condition)
            if condition.latched:
                publisher.publish(make())
            else:
                self._ready.append((publisher, make))

    def _readiness(self, condition: ReadyCondition) -> Callable[[], Any]:
        """Makes the message by which a condition is met."""
        if condition.type == "moveit_msgs/ServoStatus":
            return lambda: ServoStatus(code=self._driver.status or 0)
        if condition.type == "std_msgs/Bool":
            return lambda: Bool(data=bool(condition.value))
        if condition.type == "std_msgs/Int32":
            return lambda: Int32(data=int(condition.values[0]))
        low = -np.inf if condition.low is None else condition.low
        high = np.inf if condition.high is None else condition.high
        return lambda: Float64(data=float(min(max(100.0, low), high)))  # a speed scaling of 100 %, if that will do

    def sense(self) -> None:
        """Publishes what is due, 2 ms of physics after the last time."""
        arm, now = self._arm, self._arm.time_ns
        positions, velocities = arm.joint_positions(), arm.joint_velocities()
        last = self._last
        self._last = now, positions, velocities
        hand, streams = self._robot.poses[HAND], self.streams

        def between(at: int) -> tuple[Array, Array]:
            """Positions and velocities at a time that may be between two steps."""
            if last is None or at >= now:
                return positions, velocities
            share = (at - last[0]) / (now - last[0])
            return last[1] + share * (positions - last[1]), last[2] + share * (velocities - last[2])

        if hand.source != "fk":
            for at in self._pose_times.due(now):
                self._publish_pose(HAND, hand, arm.pose_of(between(at)[0]), at)
        if self._joint_publisher is not None:
            for at in self._joint_times.due(now):
                self._publish_joints(*between(at), at, hand.latency if hand.source == "fk" else 0.0)
        if self._finger_publisher is not None:
            for at in self._gripper_times.due(now):
                self._publish_fingers(at)
        if OBJECT in self._robot.poses:
            for at in self._object_times.due(now):
                frame = self._simulation.observe(images=False)
                pose = compose(self.world, (frame[OBJECT_POS], frame[OBJECT_QUAT]))
                self._publish_pose(OBJECT, self._robot.poses[OBJECT], pose, at)
        for camera, times in zip(streams.cameras, self._camera_times, strict=False):
            for at in times.due(now):
                self._expose(camera, at)

    def _publish_pose(self, name: str, source: PoseSource, pose: Pose, at: int) -> None:
        publisher, frame = self._pose_publishers[name], self._robot.base.frame
        stamp = self._stamp(at, source.latency)
        if source.source == "tf":
            transform = messages.transform_to_msg(*pose, stamp, source.parent, source.child)
            msg = messages.TFMessage(transforms=[transform])
        else:
            msg = messages.pose_to_msg(*pose, stamp, frame)
        self._send(publisher, msg, at, source.latency)

    def _publish_joints(self, positions: Array, velocities: Array, at: int, latency: float) -> None:
        msg = messages.joint_state_to_msg(self._joints, positions, velocities, self._stamp(at, latency))
        self._send(self._joint_publisher, msg, at, latency)

    def _publish_fingers(self, at: int) -> None:
        fingers = self.streams.fingers
        assert fingers is not None
        names, positions = self.streams.gripper_joints(self._arm.finger_positions())
        stamp = self._stamp(at, fingers.latency)
        msg = messages.joint_state_to_msg(names, positions, [0.0] * len(names), stamp)
        self._send(self._finger_publisher, msg, at, fingers.latency)

    def _send(self, publisher: Any, msg: Any, at: int, latency: float) -> None:
        """At once, or as late as its stamp says."""
        if latency > 0:
            self._later(at + round(1e9 * latency), lambda: publisher.publish(msg))
        else:
            publisher.publish(msg)

    def _expose(self, camera: CameraStream, at: int) -> None:
        """Draws a picture now, and sends it when a camera's driver would have it. Unseen ones are not drawn."""
        publisher = self._picture_publishers[camera.name]
        if not (publisher.get_subscription_count() or self.records):
            return
        began = time.monotonic()
        width, height = self._size
        self._pictures[camera.name] = image = self._simulation.render(camera.name, height, width)
        self._took("drawing", time.monotonic() - began)
        stamp, frame = self._stamp(at, camera.latency), f"{self._prefix}{optical_frame(camera.name)}"
        jitter = self._jitter * self._random.uniform(-1.0, 1.0)
        delay = max(self._delay + jitter, camera.latency, 0.0)

        def publish() -> None:
            if camera.compressed:
                publisher.publish(messages.jpeg_to_msg(driver_streams.jpeg(image), stamp, frame))
            else:
                pixels = driver_streams.encoded(image, camera.encoding)
                publisher.publish(messages.encoded_image_to_msg(pixels, camera.encoding, stamp, frame))
            matrix = self._simulation.camera_matrix(camera.name, height, width)
            info = messages.camera_info_to_msg(matrix, height, width, stamp, frame)
            self._info_publishers[camera.name].publish(info)
            self._published(camera.topic)

        self._later(at + round(1e9 * delay), publish)

    def _stamp(self, time_ns: int, latency: float) -> int:
        """What the driver stamps a value of that time [ns]; it counts as of stamp - latency."""
        return self._stamp_of(time_ns) + round(1e9 * latency)

    def _later(self, time_ns: int, publish: Callable[[], None]) -> None:
        heapq.heappush(self._outbox, (time_ns, next(self._numbers), publish))

    def deliver(self, time_ns: int) -> None:
        """Publishes what comes late, and is due at a time."""
        while self._outbox and self._outbox[0][0] <= time_ns:
            heapq.heappop(self._outbox)[2]()

    def say_ready(self) -> None:
        """What the robot says when it is ready: all is well."""
        for publisher, make in self._ready:
            publisher.publish(make())

    def seen(self, camera: CameraStream) -> NDArray[np.uint8]:
        """The last picture, of the policy's part and size (IMAGE_SIZE, IMAGE_SIZE, 3)."""
        image = self._pictures.get(camera.name)
        if image is None:
            return self._simulation.render(camera.name, IMAGE_SIZE, IMAGE_SIZE)
        return driver_streams.part(image, camera.crop, IMAGE_SIZE)
