"""The node of training.drive: it hears what a person would see, and says what their hands would."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rclpy.parameter import Parameter
from sensor_msgs.msg import Joy
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros.control.observation import Frame
from diffusion_ros.control.teleoperation import SILENT_SECONDS
from diffusion_ros.robot import ACTION_SCALE, ACTION_SIZE, FINGERS, RATE, WORLD_FRAME
from diffusion_ros.robot_file import RobotFile
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.frame_source import FrameRules, FrameSource
from diffusion_ros.ros.runner import RunnableNode
from diffusion_ros.spec import CheckpointSpec
from training.data.gamepad import Driver, Sticks

Array = NDArray[np.float64]

_AWAY_SECONDS = 1.0
"""Without a frame, after which what was going on is over."""
_UP_SECONDS = 1.0
"""For which nothing is pressed once somebody listens."""
_RULES = FrameRules(
    realtime=True,
    sync_tolerance=0.025,
    max_input_age=1.0,
    min_frame_rate=0.0,
    good_frames=1,
    max_frozen=0.0,
    gripper_joints=FINGERS,
    gripper_signs=(1.0, 1.0),
    frame_id=WORLD_FRAME,
)


class _Nobody:
    """Who keeps no notes."""

    def value(self, name: str, value: object) -> None:
        pass

    def tick(self, name: str) -> None:
        pass


class Hands(Protocol):
    """What the expert's wishes become."""

    def hold(self, row: Array, noise: Array) -> None:
        """A row (7) in metres and radians a step, and noise (6) in parts of full deflection."""

    def rest(self) -> None:
        """Nothing is held."""

    def is_heard(self) -> bool:
        """Whether anybody listens."""


class GamepadHands:
    """Axes and buttons of sensor_msgs/Joy."""

    def __init__(self, node: RunnableNode, topic: str, sticks: Sticks) -> None:
        self._node, self._sticks = node, sticks
        self._publisher = node.create_publisher(Joy, topic, topics.SENSOR_QOS)
        self._said = -math.inf

    def hold(self, row: Array, noise: Array) -> None:
        if self._node.seconds() - self._said > SILENT_SECONDS / 2:
            self.rest()  # the dead-man must be seen up after a silence, and whoever listens may see a longer one
        self._say(*self._sticks.held(row, noise))

    def rest(self) -> None:
        self._say(*self._sticks.rest())

    def is_heard(self) -> bool:
        return int(self._publisher.get_subscription_count()) > 0

    def _say(self, axes: list[float], buttons: list[bool]) -> None:
        self._said = self._node.seconds()
        self._publisher.publish(messages.joy_to_msg(axes, buttons, self._node.now_ns()))


class RowHands:
    """Rows of teleop_action, as they are, for the simulator that the expert was made for."""

    def __init__(self, node: RunnableNode) -> None:
        self._node = node
        self._publisher = node.create_publisher(JointTrajectory, topics.TELEOP_ACTION, topics.COMMAND_QOS)
        self._holds = False

    def hold(self, row: Array, noise: Array) -> None:
        self._holds = True
        self._say(row + np.append(noise, 0.0) * ACTION_SCALE, True)

    def rest(self) -> None:
        if self._holds:
            self._holds = False
            self._say(np.zeros(ACTION_SIZE), False)

    def is_heard(self) -> bool:
        return int(self._publisher.get_subscription_count()) > 0

    def _say(self, row: Array, held: bool) -> None:
        now_ns = self._node.now_ns()
        self._publisher.publish(messages.teleop_to_msg(row, held, now_ns, round(1e9 / RATE), WORLD_FRAME))


class ExpertNode(RunnableNode):
    """Subscribes to what the robot's file names, or the simulator publishes, and to `episode`."""

    def __init__(
        self,
        robot: RobotFile | None,
        spec: CheckpointSpec,
        driver: Driver,
        hands: Callable[[RunnableNode], Hands],
        sim_time: bool,
    ) -> None:
        super().__init__("expert", [Parameter("use_sim_time", value=sim_time)])
        self._driver, self._hands = driver, hands(self)
        self._heard: float | None = None
        self._listened: float | None = None
        """Since when somebody listens."""
        self._drives = False
        self.create_subscription(String, topics.EPISODE, self._on_episode, topics.EPISODE_QOS)
        self.frames = FrameSource(self, spec, robot, _RULES, self._on_frame, lambda: None, _Nobody())
        self.every(0.1, self._idle)

    def _on_episode(self, msg: String) -> None:
        news = messages.episode_from_msg(msg)
        if self._driver.episode(int(news.get("index", 0)), news.get("event") != "end"):
            self._drives = False
            self._hands.rest()

    def _on_frame(self, frame: Frame) -> None:
        self._heard = self.seconds()
        if not self._ready():
            self._drives = False
            return
        wanted = self._driver.step(frame, self._heard)
        if wanted is not None:
            self._hands.hold(*wanted)
            self._drives = True

    def _ready(self) -> bool:
        """Whether the dead-man has been seen up: until then who listens believes no gamepad."""
        if not self._hands.is_heard():
            self._listened = None
        elif self._listened is None:
            self._listened = self.seconds()
        return self._listened is not None and self.seconds() - self._listened > _UP_SECONDS

    def _idle(self) -> None:
        if self._heard is not None and self.seconds() - self._heard > _AWAY_SECONDS:
            self._driver.away()
            self._drives = False
        if not self._drives:
            self._hands.rest()
