"""Pictures as a node publishes them: as they are, and if wanted as JPEG beside it, by image_transport's names."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image

from diffusion_ros.control.pictures import encode
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.runner import RunnableNode

COMPRESSED = "true: pictures also as JPEG, on <topic>/compressed, for viewers on slow networks"
"""What the parameter compressed_pictures is."""


class PicturePublisher:
    """Publishes rgb (H, W, 3) on a topic. A JPEG is made only while somebody listens to it."""

    def __init__(
        self, node: RunnableNode, topic: str, compressed: bool = False, qos: QoSProfile = topics.SENSOR_QOS
    ) -> None:
        self._plain = node.create_publisher(Image, topic, qos)
        self._jpeg: Any = node.create_publisher(CompressedImage, topics.compressed(topic), qos) if compressed else None

    def get_subscription_count(self) -> int:
        """How many listen."""
        return int(self._plain.get_subscription_count()) + self._jpegs

    @property
    def _jpegs(self) -> int:
        return 0 if self._jpeg is None else int(self._jpeg.get_subscription_count())

    def publish(self, image: NDArray[np.uint8], time_ns: int, frame_id: str) -> None:
        self._plain.publish(messages.image_to_msg(image, time_ns, frame_id))
        if self._jpegs:
            self._jpeg.publish(messages.jpeg_to_msg(encode(image, "jpeg"), time_ns, frame_id))
