"""Bags: a session as rosbag2 has it, a folder with one MCAP file and metadata.yaml; or that file alone, named *.mcap.

Written through rosbags, which needs no ROS; of src only this file and bag_recovery.py know it, and only once a bag is
opened. Two topics are the recorder's own, std_msgs/String with JSON: `recording_contract`, the first message, says what
was recorded, and `recording_event` where episodes begin and end. A bag whose writer was killed has neither index nor
metadata.yaml: bag_recovery.py makes a whole one of it. Who reads from the beginning to the end, as training does, needs
neither.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONTRACT = "recording_contract"
"""Topic, and key in metadata.yaml's custom data: what was recorded, of which robot, for which checkpoint."""
EVENT = "recording_event"
"""Topic: start, success, failure, discard or end of an episode. Its `stamp_ns` is in the clock of the stamps."""
STRING = "std_msgs/msg/String"
METADATA = "metadata.yaml"
FILE = ".mcap"
"""A bag with a name that ends so is a file, and no folder."""
_OTHERS = (".bag", ".db3", ".sqlite3", ".mcap.zst", ".mcap.lz4", ".mcap.gz")
"""Endings of files that a bag cannot be written as."""

_FOREVER_NS = 2**63 - 1


class BagError(ValueError):
    """A bag that cannot be written or read; one line with the value and the rule."""


@dataclass(frozen=True)
class OfferedQos:
    """What a publisher offers, by ROS's names in lower case; times in ns, _FOREVER_NS for none."""

    reliability: str = "unknown"
    durability: str = "unknown"
    history: str = "unknown"
    depth: int = 0
    deadline_ns: int = _FOREVER_NS
    lifespan_ns: int = _FOREVER_NS
    liveliness: str = "unknown"
    lease_ns: int = _FOREVER_NS


def distribution() -> str:
    """The ROS distribution that runs here: ROS's own variable says it, or the version of rclpy; without either the
    newest that we know."""
    if named := os.environ.get("ROS_DISTRO", ""):
        return named
    for package in ("ros-rclpy", "rclpy"):
        with suppress(importlib.metadata.PackageNotFoundError, ValueError):
            return "kilted" if int(importlib.metadata.version(package).partition(".")[0]) >= 9 else "jazzy"
    return "kilted"


class MessageTypes:
    """Definitions and hashes of message types: rosbags' of the distribution, and those of installed packages."""

    def __init__(self, distro: str = "") -> None:
        """distro: '': the one that runs here; one that rosbags does not know has the newest's types."""
        from rosbags.typesys import Stores, get_typestore

        name = f"ros2_{distro or distribution()}"
        self._store = get_typestore(Stores(name) if name in {store.value for store in Stores} else Stores.LATEST)

    def find(self, kind: str) -> tuple[str, str]:
        """Definition and hash (RIHS01) of "package/msg/Type". Raises BagError for a type that nobody defines here."""
        self._learn(kind, kind)
        return self._store.generate_msgdef(kind, ros_version=2)[0], self._store.hash_rihs01(kind)

    def text(self, content: Mapping[str, Any]) -> bytes:
        """A serialized std_msgs/String of JSON. Raises ValueError for NaN."""
        string = self._store.types[STRING](data=json.dumps(dict(content), allow_nan=False))
        return bytes(self._store.serialize_cdr(string, STRING))

    def _learn(self, kind: str, of: str) -> None:
        """Reads a type, and those of its fields, from the packages of the installation where rosbags has none."""
        from rosbags.typesys import get_types_from_msg

        if kind in self._store.fielddefs:
            return
        package, _, name = kind.partition("/msg/")
        prefixes = filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))
        for prefix in prefixes:
            path = Path(prefix, "share", package, "msg", f"{name}.msg")
            if path.is_file():
                self._store.register(get_types_from_msg(path.read_text(), kind))
                for field in _names(self._store.fielddefs[kind]):
                    self._learn(field, of)
                return
        raise BagError(f"{of}: no definition of {kind} in rosbags or on AMENT_PREFIX_PATH")


def _names(definition: Any) -> set[str]:
    """Types of messages that a definition names, however deep in arrays."""
    if isinstance(definition, str):
        return {definition} if "/msg/" in definition else set()
    if isinstance(definition, (tuple, list)):
        return set().union(*map(_names, definition)) if definition else set()
    return set()


def check_new(path: Path) -> None:
    """Raises BagError, in one line, where no new bag can be: something is there, or a file's folder is not, or the name
    is that of another kind of file."""
    if path.name.lower().endswith((*_OTHERS, FILE)) and path.suffix != FILE:
        raise BagError(f"{path}: a folder, or a file named *{FILE}, expected")
    if path.suffix == FILE:
        if path.exists() or path.is_symlink():
            raise BagError(f"{path}: exists already, a new file expected")
        if not path.parent.is_dir():
            raise BagError(f"{path}: no folder {path.parent}")
    elif path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise BagError(f"{path}: exists already, a new folder expected")


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Holds a bag's folder, or its file. Raises BagError where another process writes it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BagError(f"{folder}: is being recorded, a bag that nobody writes expected") from None
        yield
    finally:
        os.close(descriptor)


class BagWriter:
    """Writes a new bag. One thread at a time."""

    def __init__(self, folder: Path, contract: Mapping[str, Any], prefix: str = "/", distro: str = "") -> None:
        """folder: or the file, named *.mcap. prefix: of the recorder's own topics, its namespace with slashes around.
        Raises BagError for one that `check_new` refuses, OSError where it cannot be written."""
        from rosbags.rosbag2 import StoragePlugin, Writer

        try:
            check_new(folder)
        except BagError as error:
            raise BagError(f"bag {error}") from None
        self.folder = folder
        self._file = folder if folder.suffix == FILE else folder / f"{folder.name}{FILE}"
        self._types = MessageTypes(distro)
        self._event = f"{prefix}{EVENT}"
        self._connections: dict[str, Any] = {}
        if not self._alone:
            with suppress(OSError):
                folder.rmdir()  # an empty one, which rosbags would refuse
        self._writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.set_custom_data(CONTRACT, json.dumps(dict(contract), allow_nan=False))
        if self._alone:
            _open_alone(self._writer, folder)
        else:
            self._writer.open()
        self._claim = ExitStack()
        for path in {folder, self._file}:  # the file in a folder is one that could be recovered by itself
            self._claim.enter_context(claimed(path))
        self._contract = f"{prefix}{CONTRACT}"
        self._said = self._types.text(contract)

    def __contains__(self, topic: str) -> bool:
        return topic in self._connections

    @property
    def _alone(self) -> bool:
        """Whether it is a file without a folder of its own."""
        return self._file == self.folder

    def add(self, topic: str, kind: str, qos: OfferedQos) -> None:
        """kind: "package/msg/Type". Raises BagError for a type that nobody defines."""
        definition, digest = self._types.find(kind)
        self._connections[topic] = self._writer.add_connection(
            topic, kind, msgdef=definition, rihs01=digest, offered_qos_profiles=[_qos(qos)]
        )

    def write(self, topic: str, received_ns: int, content: bytes) -> None:
        """A serialized message, when it was received. The contract goes before the first. Raises OSError."""
        if self._said:
            self.add(self._contract, STRING, OfferedQos("reliable", "transient_local", "keep_last", 1))
            self._writer.write(self._connections[self._contract], received_ns, self._said)
            self._said = b""
        self._writer.write(self._connections[topic], received_ns, content)

    def event(self, received_ns: int, content: Mapping[str, Any]) -> None:
        if self._event not in self:
            self.add(self._event, STRING, OfferedQos("reliable", "volatile", "keep_last", 100))
        self.write(self._event, received_ns, self._types.text(content))

    def flush(self, sync: bool = False) -> None:
        """Whatever kills the process afterwards, what came until now is in the file; with sync, whatever stops the
        machine. Raises OSError."""
        storage: Any = self._writer.storage
        if storage.chunk.bio.tell():
            storage.close_chunk()
        storage.bio.flush()
        if sync:
            os.fsync(storage.bio.fileno())

    def close(self) -> None:
        """Makes it whole. Raises OSError; then it can be recovered."""
        try:
            if self._said:  # nothing came at all
                self.event(0, {"event": "end", "episode": -1, "stamp_ns": 0, "reason": "nothing was recorded"})
            self.flush(sync=True)
            self._writer.close()
            sync(self._file if self._alone else self.folder / METADATA)
        except BaseException:
            self.abandon()
            raise
        self._claim.close()

    def abandon(self) -> None:
        """Leaves the file as it is, to be recovered."""
        with suppress(OSError):
            self._writer.abort()
        self._claim.close()


class _Alone:
    """What rosbags takes for a bag's folder, and for its metadata.yaml: the file of that name in it is `path`, and what
    is written into metadata.yaml goes nowhere, as the file has it too."""

    def __init__(self, path: Path) -> None:
        self._path, self.name = path, path.stem

    def __truediv__(self, name: str) -> Path:
        return self._path

    def with_suffix(self, suffix: str) -> _Alone:
        return self

    def write_text(self, text: str, encoding: str) -> int:
        return len(text)

    def replace(self, target: object) -> object:
        return target


def _open_alone(writer: Any, path: Path) -> None:
    """Writer.open(), for a file without a folder. Raises OSError."""
    from rosbags.rosbag2.enums import CompressionMode
    from rosbags.rosbag2.storage_mcap import McapWriter

    place: Any = _Alone(path)
    writer.storage, writer.metapath = McapWriter(place, CompressionMode.NONE), place


def _qos(offered: OfferedQos) -> Any:
    from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

    def of(names: Any, name: str) -> Any:
        return names.__members__.get(name.upper(), names.UNKNOWN)

    return Qos(
        of(QosHistory, offered.history),
        offered.depth,
        of(QosReliability, offered.reliability),
        of(QosDurability, offered.durability),
        QosTime(*divmod(offered.deadline_ns, 10**9)),
        QosTime(*divmod(offered.lifespan_ns, 10**9)),
        of(QosLiveliness, offered.liveliness),
        QosTime(*divmod(offered.lease_ns, 10**9)),
        False,
    )


def json_of(content: bytes) -> dict[str, Any]:
    """Of a serialized std_msgs/String: 4 bytes of header, its length with a zero at the end, its characters."""
    (length,) = struct.unpack_from(f"{_order(content)}I", content, 4)
    fields: dict[str, Any] = json.loads(content[8 : 8 + length - 1])
    return fields


def stamp_ns(content: bytes) -> int:
    """Of a serialized message that begins with a std_msgs/Header."""
    seconds, nanoseconds = struct.unpack_from(f"{_order(content)}iI", content, 4)
    return int(seconds) * 10**9 + int(nanoseconds)


def _order(content: bytes) -> str:
    """Of the bytes of numbers in CDR."""
    return "<" if content[1] & 1 else ">"


def sync(path: Path) -> None:
    """Returns when a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
