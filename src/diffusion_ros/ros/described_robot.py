"""A simulated arm as RViz's RobotModel wants it: its description, once, and where its links are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from numpy.typing import ArrayLike
from std_msgs.msg import String

from diffusion_ros.cache_folders import cache_folder
from diffusion_ros.ros import topics
from diffusion_ros.ros.runner import RunnableNode
from diffusion_ros.ros.transform_broadcaster import TransformBroadcaster
from diffusion_ros.simulators.arm_links import Link, description


class DescribedRobot:
    """Publishes the URDF of `links` on `robot_description` and on `also`, and their transforms.

    without: links whose place somebody else says. Meshes go as files into the user's cache, for a viewer on this
    machine; where that cannot be written, each is the box that holds it.
    """

    def __init__(
        self,
        node: RunnableNode,
        links: Sequence[Link],
        broadcaster: TransformBroadcaster,
        also: str = "",
        without: Collection[str] = (),
    ) -> None:
        self._broadcaster = broadcaster
        try:
            text = description(links, meshes=cache_folder("meshes"))
        except OSError as error:
            node.get_logger().warning(f"the arm's meshes are shown as boxes: {error}")
            text = description(links)
        names = {node.resolve_topic_name(topic): topic for topic in (topics.ROBOT_DESCRIPTION, also) if topic}
        self._publishers: list[Any] = []
        """Kept, as what they have said is theirs."""
        for topic in names.values():
            publisher = node.create_publisher(String, topic, topics.DESCRIPTION_QOS)
            publisher.publish(String(data=text))
            self._publishers.append(publisher)
        known = [link for link in links if link.parent and link.name not in without]
        self._moving = [link for link in known if link.address >= 0]
        broadcaster.send_always((*link.pose(()), link.parent, link.name) for link in known if link.address < 0)

    def send(self, qpos: ArrayLike, stamp_ns: int) -> None:
        """Where the links are, at MuJoCo's positions."""
        self._broadcaster.send(((*link.pose(qpos), link.parent, link.name) for link in self._moving), stamp_ns)
