"""The MCAP file of a recorded session: its messages in the order in which they were written, and its contract.

A session is a folder with one .mcap (or that file), as the recorder writes it. The order in the file is that of
arrival, whatever the clock did meanwhile; other readers sort by time. One whose recorder was killed has no index at its
end: it is read as far as its chunks are whole.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rclpy.serialization import deserialize_message
from rosbags.rosbag2 import ReaderError
from rosbags.rosbag2.storage_mcap import McapReader
from std_msgs.msg import String

from diffusion_ros.action_kinds import ActionFormat
from diffusion_ros.bags import CONTRACT
from diffusion_ros.spec import CheckpointSpec

VERSION = 1
_MAGIC = b"\x89MCAP0\r\n"
_HEADER = 1
"""The first record."""
_CUT = (ReaderError, struct.error, TypeError, ValueError, EOFError, RuntimeError)
"""What rosbags, and the libraries that decompress for it, raise for records that are not whole."""


class BagFile:
    """One bag. Each call of `messages` reads the file anew."""

    def __init__(self, path: Path) -> None:
        """path: the session's folder, or the file in it. Raises ValueError, one line, for what is no bag."""
        self.path = path
        self._file = _mcap(path)
        self.cut = False
        """Whether its end is missing."""
        self._find()
        self.topics: dict[str, str] = {connection.topic: connection.msgtype for connection in self._connections}
        """Full name -> type of the messages, as "std_msgs/msg/String"."""

    def messages(
        self, topics: Collection[str], start_ns: int | None = None, end_ns: int | None = None
    ) -> Iterator[tuple[str, int, bytes]]:
        """Topic, time of arrival [ns] and serialized message of all of `topics` that came from start to end, both
        included. Raises ValueError for a file that is damaged before its end."""
        reader = McapReader(self._file)
        wanted = [connection for connection in self._connections if connection.topic in topics]
        end = None if end_ns is None else end_ns + 1
        with self._file.open("rb") as file:
            reader.bio, reader.data_start, reader.data_end = file, *self._data
            found = reader.messages_scan(wanted, start_ns, end)
            while True:
                try:
                    connection, time_ns, content = next(found)
                except StopIteration:
                    return
                except _CUT as error:
                    if self.cut:
                        return
                    raise ValueError(f"{self._file}: damaged: {' '.join(str(error).split())}") from None
                yield connection.topic, time_ns, bytes(content)

    def _find(self) -> None:
        """Where the messages are, and of which topics."""
        reader: Any = McapReader(self._file)
        try:
            reader.open()
        except OSError as error:
            raise ValueError(f"{self._file}: {error.strerror}") from None
        except _CUT:
            self.cut = True
        else:
            with closing(reader):
                self._data, self._connections = (reader.data_start, reader.data_end), list(reader.connections)
            return
        with self._file.open("rb") as file:
            head = file.read(len(_MAGIC) + 9)
            kind, length = struct.unpack("<BQ", head[len(_MAGIC) :]) if len(head) == len(_MAGIC) + 9 else (0, 0)
            if not head.startswith(_MAGIC) or kind != _HEADER:
                raise ValueError(f"{self._file}: not a bag: no MCAP file, or nothing was written to it")
            self._data = len(head) + length, self._file.stat().st_size
            reader = McapReader(self._file)
            reader.bio, reader.data_start, reader.data_end = file, *self._data
            try:
                reader.meta_scan()
            except _CUT:
                pass  # what it found until there, it keeps
            self._connections = list(reader.connections)


def _mcap(path: Path) -> Path:
    if path.is_file():
        if path.suffix != ".mcap":
            raise ValueError(f"{path}: not a bag: a session's folder, or its .mcap file, expected")
        return path
    if not path.is_dir():
        raise ValueError(f"{path}: no such file or folder")
    found = sorted(path.glob("*.mcap"))
    if len(found) != 1:
        raise ValueError(f"{path}: not a bag of one session: {len(found)} .mcap files in it, one expected")
    return found[0]


def text_of(content: bytes) -> Any:
    """The JSON of a serialized std_msgs/String. Raises ValueError."""
    try:
        return json.loads(deserialize_message(content, String).data)
    except RuntimeError as error:  # the middleware's own
        raise ValueError(f"no message that can be read: {' '.join(str(error).split())}") from None


@dataclass(frozen=True)
class Contract:
    """What a session says of itself."""

    robot: str
    """The text of the robot's YAML; '' for the simulator."""
    description: str
    """The robot's URDF, where its YAML names a file; else ''."""
    robot_name: str
    spec: CheckpointSpec | None
    task: str
    rate: float
    """Control steps a second [Hz]."""
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    frame: str
    """Of the actions."""
    action: ActionFormat
    topics: Mapping[str, str]
    """executed_action, and observations by their key or by the checkpoint's input -> full name."""
    namespace: str
    """Of the recorder, '' or '/left'."""


def read_contract(file: BagFile) -> Contract:
    """Raises ValueError, one line, where there is none or it cannot be used."""
    named = [topic for topic in file.topics if topic.rpartition("/")[2] == CONTRACT]
    content = next(file.messages(named), None) if named else None
    if content is None:
        raise ValueError(f"{file.path}: no {CONTRACT} in it, a session of recorder_node expected")
    try:
        return _contract(text_of(content[2]), content[0].rpartition("/")[0])
    except ValueError as error:
        raise ValueError(f"{file.path}: {CONTRACT}: {error}") from None


def _contract(fields: Any, namespace: str) -> Contract:
    version = fields.get("version") if isinstance(fields, dict) else fields
    if version != VERSION:
        raise ValueError(f"version {version!r}, {VERSION} expected")

    def text(name: str) -> str:
        value = fields.get(name)
        if not isinstance(value, str):
            raise ValueError(f"{name} {value!r}, a text expected")
        return value

    def numbers(name: str, many: int) -> tuple[float, ...]:
        value = fields.get(name)
        if not isinstance(value, list) or len(value) != many or any(type(x) not in (int, float) for x in value):
            raise ValueError(f"{name} {value!r}, {many} numbers expected")
        return tuple(map(float, value))

    rate: Any = fields.get("rate")
    if type(rate) not in (int, float) or not 0 < rate < math.inf:
        raise ValueError(f"rate {rate!r}, more than 0 Hz expected")
    action, topics = fields.get("action") or {}, fields.get("topics")
    if not isinstance(action, dict):
        raise ValueError(f"action {action!r}, an object expected")
    if not isinstance(topics, dict) or not all(isinstance(name, str) for name in topics.values()):
        raise ValueError(f"topics {topics!r}, names by observation expected")
    kind = ActionFormat.from_json(action)
    return Contract(
        robot=text("robot"),
        description=text("description") if "description" in fields else "",
        robot_name=text("robot_name"),
        spec=None if fields.get("spec") is None else CheckpointSpec.from_json(json.dumps(fields["spec"])),
        task=text("task"),
        rate=float(rate),
        action_low=numbers("action_low", kind.width),
        action_high=numbers("action_high", kind.width),
        frame=text("frame"),
        action=kind,
        topics=topics,
        namespace=namespace,
    )
