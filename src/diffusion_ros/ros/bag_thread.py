"""The thread that writes a bag: callbacks only hand over, and no disk and no compression keeps a node waiting."""

from __future__ import annotations

import shutil
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image

from diffusion_ros.bags import BagError, BagWriter, OfferedQos
from diffusion_ros.control.pictures import encode
from diffusion_ros.ros import messages
from diffusion_ros.ros.worker import Worker, failure

FLUSH_SECONDS = 0.5
"""What is written is in the file so soon: a process that is killed loses no more."""
CLOSED = "closed"
"""Why nothing is written any more, where that was asked for and the bag is whole."""
_NOTHING = 200
"""Bytes that a message counts beside its own, so that a flood of empty ones fills the queue, too."""
_PATIENCE_SECONDS = 4.0
"""Of closing, for what is in the queue: whoever stops a system waits for 5 s."""
_RECOVER = "diffusion_ros recover"
Kind = tuple[str, OfferedQos]
"""Type of a topic's messages as "package/msg/Type", and what its publisher offers."""


def size(content: bytes) -> int:
    """Bytes that a serialized message counts while it waits."""
    return len(content) + _NOTHING


def free_bytes(path: Any) -> int:
    """On the disk of a folder."""
    return shutil.disk_usage(path).free


class BagThread:
    """Takes messages from a node's thread; none waits.

    Args:
        max_bytes: what may wait to be written; what comes beyond it is dropped and counted.
        min_free: bytes on the disk below which `full` says so, and the node should close.
        compress: '', 'jpeg' or 'png': how sensor_msgs/Image are stored, as sensor_msgs/CompressedImage under the
            topic's name with /compressed behind it.
        quality: of a JPEG, 1 to 100.
    """

    def __init__(self, bag: BagWriter, max_bytes: int, min_free: int, compress: str = "", quality: int = 95) -> None:
        self.bag = bag
        self.stopped = ""
        """Why nothing is written any more; '' while it is."""
        self.full = ""
        """Why it should be closed now, '' as long as there is room."""
        self.written = 0
        """Messages."""
        self.dropped: Counter[str] = Counter()
        """By topic: messages that were dropped because too many waited, or as pictures that cannot be compressed."""
        self.refused: dict[str, str] = {}
        """By topic: why the last picture that was dropped could not be compressed."""
        self.faults: dict[str, str] = {}
        """By topic: why none of its messages is written."""
        self.free = free_bytes(bag.folder)
        self._max_bytes, self._min_free = max_bytes, min_free
        self._compress, self._quality = compress, quality
        self._queue: deque[tuple[int, Callable[[], None]]] = deque()
        self._bytes = 0
        self._flushed = time.monotonic()
        self._closed = False
        self._ended = threading.Event()
        self._worker = Worker("bag", self._take, self._work)
        self._worker.start()

    # The node's thread

    def put(self, topic: str, kind: Kind, received_ns: int, content: bytes) -> bool:
        """A serialized message of a topic; whether it will be written."""
        if self.stopped or self._closed or topic in self.faults:
            return False
        counts = size(content)
        with self._worker.condition:
            fits = self._bytes + counts <= self._max_bytes
            if fits:
                self._hand_over(counts, partial(self._write, topic, kind, received_ns, content))
            else:
                self.dropped[topic] += 1
        return fits

    def event(self, received_ns: int, content: Mapping[str, Any]) -> None:
        """Of an episode; never dropped. At its end what was recorded is on the disk before it goes on."""
        if not self.stopped and not self._closed:
            with self._worker.condition:
                self._hand_over(_NOTHING, partial(self._write_event, received_ns, dict(content)))

    def tick(self) -> None:
        """To be called about twice a second: nothing stays unwritten because no message follows it."""
        if not self.stopped and not self._closed:
            with self._worker.condition:
                self._hand_over(0, lambda: None)

    def close(self, reason: str = CLOSED) -> None:
        """Writes what waits and makes the bag whole; `stopped` is the reason then."""
        if self._closed:
            return
        self._closed = True
        with self._worker.condition:
            self._hand_over(0, partial(self._finish, reason))
        if not self._ended.wait(_PATIENCE_SECONDS):
            self.stopped = f"{reason}; not closed within {_PATIENCE_SECONDS:g} s: {_RECOVER} {self.bag.folder}"
        self._worker.close(0.0)

    # Both

    def _hand_over(self, size: int, work: Callable[[], None]) -> None:
        """With the condition held."""
        self._queue.append((size, work))
        self._bytes += size
        self._worker.condition.notify()

    def _take(self) -> tuple[int, Callable[[], None]] | None:
        """With the condition held."""
        return self._queue.popleft() if self._queue else None

    # The thread

    def _work(self, due: tuple[int, Callable[[], None]]) -> None:
        size, work = due
        try:
            if not self.stopped:
                work()
                self._look_after()
        except OSError as error:
            self._finish(f"{self.bag.folder}: cannot be written: {error.strerror or error}")
        except Exception as error:  # a thread that dies silently looks like one that works
            traceback.print_exc()
            self._finish(failure("recording", error))
        with self._worker.condition:
            self._bytes -= size

    def _look_after(self) -> None:
        now = time.monotonic()
        if self.stopped or now - self._flushed < FLUSH_SECONDS:
            return
        self._flushed = now
        self.bag.flush()
        self.free = free_bytes(self.bag.folder)
        if self.free < self._min_free and not self.full:
            self.full = (
                f"{self.bag.folder}: {self.free / 1e9:.2f} GB free, at least {self._min_free / 1e9:.2f} GB expected"
            )

    def _write(self, topic: str, kind: Kind, received_ns: int, content: bytes) -> None:
        name, qos = kind
        if self._compress and name == "sensor_msgs/msg/Image":
            try:
                content = self._compressed(content)
            except (
                Exception
            ) as error:  # cv2's and rclpy's own, too: this picture is lost, and the next may be a good one
                with self._worker.condition:
                    self.dropped[topic] += 1
                    self.refused[topic] = " ".join(str(error).split())
                return
            topic, name = f"{topic}/compressed", "sensor_msgs/msg/CompressedImage"
        if topic not in self.bag:
            try:
                self.bag.add(topic, name, qos)
            except BagError as error:
                self.faults[topic] = str(error)
                return
        self.bag.write(topic, received_ns, content)
        self.written += 1

    def _compressed(self, content: bytes) -> bytes:
        msg: Image = deserialize_message(content, Image)
        stamp_ns, image = messages.image_from_msg(msg)
        packed = encode(image, self._compress, self._quality)
        picture: CompressedImage = messages.jpeg_to_msg(packed, stamp_ns, msg.header.frame_id, self._compress)
        return bytes(serialize_message(picture))

    def _write_event(self, received_ns: int, content: Mapping[str, Any]) -> None:
        self.bag.event(received_ns, content)
        self.bag.flush(sync=content["event"] != "start")
        self._flushed = time.monotonic()

    def _finish(self, reason: str) -> None:
        """Makes the bag whole, or leaves it to be recovered."""
        if not self.stopped:
            try:
                self.bag.close()
            except Exception as error:
                reason = f"{reason}; not closed: {error}: {_RECOVER} {self.bag.folder}"
            self.stopped = reason
        self._ended.set()
