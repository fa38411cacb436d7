"""Bags whose writer was killed, or whose machine stopped: a whole bag of what is left, up to the last whole chunk."""

from __future__ import annotations

import json
import os
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from diffusion_ros.bags import CONTRACT, EVENT, FILE, METADATA, BagError, MessageTypes, claimed, json_of, stamp_ns, sync

_MAGIC = b"\x89MCAP0\r\n"
_HEADER, _FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _INDEX, _DATA_END = 1, 2, 3, 4, 5, 6, 7, 15
"""Records of MCAP."""
_CHUNK_START = 28
"""Bytes of a chunk before the name of its compression: times, size, checksum."""
_SPARE = 1.1
"""Free space that a recovery needs, as a part of the bag: it is written again, with an index."""


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
            sync(copy / path.name)
            sync(copy / METADATA)
            os.replace(copy / path.name, path)
            if not alone:
                os.replace(copy / METADATA, folder / METADATA)
            sync(path.parent)
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
