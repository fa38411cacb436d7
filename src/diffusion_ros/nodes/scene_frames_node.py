"""scene_frames: makes /tf of scene_poses, for RViz, where the simulator's own environment has no tf2_msgs.

RViz's has it. Beside a simulator that publishes /tf by itself it says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.parameter import Parameter
from sensor_msgs.msg import MultiDOFJointState

from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.params import declare
from diffusion_ros.ros.runner import RunnableNode, run


@dataclass(frozen=True)
class SceneFramesParameters:
    """Parameters of the scene frames node: none."""


class SceneFramesNode(RunnableNode):
    """Subscribes to scene_poses; publishes /tf."""

    def __init__(self, parameter_overrides: Sequence[Parameter[Any]] = ()) -> None:
        """Raises ValueError in one line where tf2_msgs is not installed."""
        super().__init__("scene_frames", parameter_overrides)
        declare(self, SceneFramesParameters)
        if messages.TFMessage is None:
            raise ValueError("tf2_msgs: not installed; it comes with ROS 2")
        self._publisher = self.create_publisher(messages.TFMessage, topics.TF, topics.TF_QOS)
        self._poses = self.create_subscription(
            MultiDOFJointState, topics.SCENE_POSES, self._on_poses, topics.COMMAND_QOS
        )
        self._needed = False
        self.create_timer(1.0, self._look)

    def _look(self) -> None:
        """Whether the simulator leaves /tf to us."""
        said = {(i.node_namespace, i.node_name) for i in self.get_publishers_info_by_topic(self._poses.topic_name)}
        own = {(i.node_namespace, i.node_name) for i in self.get_publishers_info_by_topic(topics.TF)}
        self._needed = bool(said - own)

    def _on_poses(self, msg: MultiDOFJointState) -> None:
        if not self._needed:
            return
        try:
            stamp_ns, poses = messages.poses_from_msg(msg)
        except messages.MessageError as error:
            self.get_logger().error(f"{topics.SCENE_POSES}: {error}", throttle_duration_sec=5.0)
            return
        world = messages.printable(msg.header.frame_id)
        moving = [messages.transform_to_msg(*pose, stamp_ns, world, name) for name, pose in poses.items()]
        self._publisher.publish(messages.TFMessage(transforms=moving))


def main() -> int:
    return run(SceneFramesNode)


if __name__ == "__main__":
    raise SystemExit(main())
