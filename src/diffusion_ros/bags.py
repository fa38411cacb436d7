"""Bags: a session as rosbag2 has it, a folder with one MCAP file and metadata.yaml; or that file alone, named *.mcap.

Written through rosbags, which needs no ROS; of src only this file knows it, and only once a bag is opened. Two topics
are the recorder's own, std_msgs/String with JSON: `recording_contract`, the first message, says what was recorded, and
`recording_event` where episodes begin and end. A bag whose writer was killed has neither index nor metadata.yaml:
`recover` makes a whole one of it. Who reads from the beginning to the end, as training does, needs neither.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import shutil
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

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

_MAGIC = b"\x89MCAP0\r\n"
_HEADER, _FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _INDEX, _DATA_END = 1, 2, 3, 4, 5, 6, 7, 15
"""Records of MCAP."""
_CHUNK_START = 28
"""Bytes of a chunk before the name of its compression: times, size, checksum."""
_FOREVER_NS = 2**63 - 1
_SPARE = 1.1
"""Free space that a recovery needs, as a part of the bag: it is written again, with an index."""


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
            _sync(self._file if self._alone else self.folder / METADATA)
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


# -- bags that were cut -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recovered:
    """What a recovery made of a bag."""

    folder: Path
    whole: bool
    """Whether it was whole already; then nothing was changed."""
    messages: int
    cut_bytes: int
    """At the end of the file, of what was not whole."""

    def __str__(self) -> str:
        if self.whole:
            return f"{self.folder}: is whole, {self.messages} messages"
        return f"{self.folder}: recovered {self.messages} messages, {self.cut_bytes} bytes at the end were not whole"


def recover(folder: Path) -> Recovered:
    """Makes a whole bag of one whose writer was killed, a folder or a file; a whole one is left alone.

    The new file takes the place of the old one when it is complete, and metadata.yaml comes after it: whatever stops
    the recovery, the next one goes on from what there is. An episode that was running gets its event `end`. Raises
    BagError, one line, for what is no bag, is being recorded, or does not fit on the disk a second time; OSError.
    """
    alone = folder.is_file()
    if alone and folder.suffix != FILE:
        raise BagError(f"{folder}: the folder of a bag, or a file named *{FILE}, expected")
    if not alone and not folder.is_dir():
        raise BagError(f"{folder}: no such folder, the folder of a bag expected")
    with claimed(folder):
        whole = _count(folder)
        if whole is not None:
            return Recovered(folder, True, whole, 0)
        path = folder if alone else _file(folder)
        size = path.stat().st_size
        free = shutil.disk_usage(folder).free
        if free < _SPARE * size:
            raise BagError(f"{folder}: {free / 1e9:.2f} GB free, {_SPARE * size / 1e9:.2f} expected to write it again")
        home = folder.resolve()
        beside = home.parent / f".{home.name}.recovering"
        shutil.rmtree(beside, ignore_errors=True)
        try:
            copy = beside / path.stem
            with path.open("rb") as file:
                end = _end(file, path)
                file.seek(-len(_MAGIC), os.SEEK_END)
                complete = file.read() == _MAGIC  # but for metadata.yaml
                messages = _copy(file, path, end, copy)
            _sync(copy / path.name)
            _sync(copy / METADATA)
            os.replace(copy / path.name, path)
            if not alone:
                os.replace(copy / METADATA, folder / METADATA)
            _sync(path.parent)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        return Recovered(folder, False, messages, 0 if complete else size - end)


def _count(folder: Path) -> int | None:
    """Messages of a bag that is whole, None for one that is not."""
    from rosbags.rosbag2 import Reader, ReaderError
    from rosbags.rosbag2.storage_mcap import McapReader

    if folder.is_file():
        storage: Any = McapReader(folder)
        try:
            storage.open()
        except (ReaderError, OSError, struct.error, TypeError, ValueError, EOFError):
            return None
        count = int(storage.metadata.message_count)
        storage.close()
        return count
    if not (folder / METADATA).is_file():
        return None
    try:
        with Reader(folder) as reader:
            return int(reader.message_count)
    except (ReaderError, OSError, struct.error, TypeError):  # what rosbags raises for a file that is cut
        return None


def _file(folder: Path) -> Path:
    found = sorted(folder.glob("*.mcap"))
    if len(found) != 1:
        raise BagError(f"{folder}: {len(found)} files *.mcap, one expected")
    return found[0]


def _end(file: BinaryIO, path: Path) -> int:
    """Where the last whole chunk, or the data, end."""
    size = os.fstat(file.fileno()).st_size
    if file.read(len(_MAGIC)) != _MAGIC:
        raise BagError(f"{path}: no MCAP file, or nothing was written to it")
    end = at = len(_MAGIC)
    chunks = 0
    while at + 9 <= size:
        file.seek(at)
        kind, length = struct.unpack("<BQ", file.read(9))
        following = at + 9 + length
        if following > size or kind not in (_HEADER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _INDEX):
            break
        if kind == _CHUNK and not _is_chunk(file, length):
            break
        chunks += kind == _CHUNK
        end = at = following
    if not chunks:
        raise BagError(f"{path}: nothing was written to it")
    return end


def _is_chunk(file: BinaryIO, length: int) -> bool:
    """Whether the records of a chunk fill it: a machine that stopped may leave zeros behind."""
    start = file.tell()
    if length < _CHUNK_START + 12:
        return False
    (name,) = struct.unpack_from("<I", file.read(_CHUNK_START + 4), _CHUNK_START)
    if name > 16:
        return False
    compression = file.read(name)
    (size,) = struct.unpack("<Q", file.read(8))
    at, end = file.tell(), start + length
    if at + size != end:
        return False
    while not compression and at < end:
        file.seek(at)
        kind, inner = struct.unpack("<BQ", file.read(9).ljust(9, b"\0"))
        if kind not in (_SCHEMA, _CHANNEL, _MESSAGE):
            return False
        at += 9 + inner
    return bool(compression) or at == end


def _copy(file: BinaryIO, path: Path, end: int, copy: Path) -> int:
    """Writes what `file` has up to `end` into a new bag; returns the number of messages."""
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.rosbag2.storage_mcap import McapReader
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    reader: Any = McapReader(path)
    # What its open() does, but for the footer, which there is none of.
    file.seek(len(_MAGIC))
    _, length = struct.unpack("<BQ", file.read(9))
    reader.bio, reader.data_start, reader.data_end = file, len(_MAGIC) + 9 + length, end
    reader.meta_scan()
    copy.parent.mkdir(parents=True)
    types = MessageTypes()
    count, last_ns, prefix, running = 0, 0, "/", None
    actions, acted_ns = "", 0
    with Writer(copy, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections: dict[int, Any] = {}
        for connection in reader.connections:
            store = get_typestore(Stores.EMPTY)
            store.register(get_types_from_msg(connection.msgdef.data, connection.msgtype))
            connections[connection.id] = writer.add_connection(
                connection.topic,
                connection.msgtype,
                msgdef=connection.msgdef.data,
                rihs01=store.hash_rihs01(connection.msgtype),
                offered_qos_profiles=connection.ext.offered_qos_profiles,
            )
        for connection, received_ns, content in reader.messages_scan(reader.connections):
            writer.write(connections[connection.id], received_ns, content)
            count, last_ns = count + 1, max(last_ns, received_ns)
            if connection.topic.endswith(f"/{CONTRACT}"):
                prefix = connection.topic.removesuffix(CONTRACT)
                contract = json_of(content)
                writer.set_custom_data(CONTRACT, json.dumps(contract))
                actions = contract.get("topics", {}).get("executed_action", "")
            elif connection.topic == actions:
                acted_ns = stamp_ns(content)
            elif connection.topic == f"{prefix}{EVENT}":
                event = json_of(content)
                running = (connection, event) if event["event"] == "start" else None
        if running is not None:
            connection, event = running
            cut = {"event": "end", "episode": event["episode"], "reason": "the recording was cut"}
            cut["stamp_ns"] = max(acted_ns, event["stamp_ns"])
            writer.write(connections[connection.id], last_ns, types.text(cut))
            count += 1
    return count


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


def _sync(path: Path) -> None:
    """Returns when a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
