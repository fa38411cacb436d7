"""The node of training.drive: it hears what a person would see, and says what a gamepad would."""

from __future__ import annotations

from rclpy.parameter import Parameter
from sensor_msgs.msg import Joy
from std_msgs.msg import String

from diffusion_ros.control.observation import Frame
from diffusion_ros.robot import FINGERS, WORLD_FRAME
from diffusion_ros.robot_file import RobotFile
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.frame_source import FrameRules, FrameSource
from diffusion_ros.ros.runner import RunnableNode
from diffusion_ros.spec import CheckpointSpec
from training.data.gamepad import Driver, Sticks

_AWAY_SECONDS = 1.0
"""Without a frame, after which what was going on is over."""
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


class GamepadNode(RunnableNode):
    """Subscribes to what the robot's file names and to `episode`; publishes sensor_msgs/Joy."""

    def __init__(
        self, robot: RobotFile, topic: str, spec: CheckpointSpec, driver: Driver, sticks: Sticks, sim_time: bool
    ) -> None:
        super().__init__("expert", [Parameter("use_sim_time", value=sim_time)])
        self._driver, self._sticks = driver, sticks
        self._heard: float | None = None
        self._drives = False
        self._publisher = self.create_publisher(Joy, topic, topics.SENSOR_QOS)
        self.create_subscription(String, topics.EPISODE, self._on_episode, topics.EPISODE_QOS)
        self.frames = FrameSource(self, spec, robot, _RULES, self._on_frame, lambda: None, _Nobody())
        self.every(0.1, self._idle)

    def _on_episode(self, msg: String) -> None:
        news = messages.episode_from_msg(msg)
        if self._driver.episode(int(news.get("index", 0)), news.get("event") != "end"):
            self._drives = False
            self._say(*self._sticks.rest())

    def _on_frame(self, frame: Frame) -> None:
        self._heard = self.seconds()
        wanted = self._driver.step(frame, self._heard)
        if wanted is not None:
            self._say(*self._sticks.held(*wanted))
            self._drives = True

    def _idle(self) -> None:
        if self._heard is not None and self.seconds() - self._heard > _AWAY_SECONDS:
            self._driver.away()
            self._drives = False
        if not self._drives:
            self._say(*self._sticks.rest())

    def _say(self, axes: list[float], buttons: list[bool]) -> None:
        self._publisher.publish(messages.joy_to_msg(axes, buttons, self.now_ns()))
