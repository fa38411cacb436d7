"""A checkpoint's file as entries by name, read once; and the same entries as an archive of our own making.

torch reads zip files with another library than Python, and two libraries can see two different things in one file. So
torch is never given the file: it is given what was checked, written anew.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from diffusion_ros.sealed.refusal import Refusal, shown

SPEC = "extra/spec.json"
SIGNATURE = "extra/signature.json"
MAX_FILE = 2 << 30
"""Bytes of a file."""
MAX_ENTRIES = 20_000
MAX_SPEC = 1 << 20
"""Bytes of a specification."""
MAX_CODE = 8 << 20
"""Bytes of all code together."""
MAX_PICKLE = 2 << 20
"""Bytes of data.pkl, which has names, shapes and numbers, but no weights."""
MAX_SMALL = 4096
"""Bytes of what says a version or an order of bytes."""
SPARE = 64 << 20
"""Bytes that may be unpacked, beside four times the file's own: weights are not packed, and code is small."""
_KNOWN = re.compile(
    r"data\.pkl|constants\.pkl|version|byteorder|\.format_version|\.storage_alignment"
    r"|\.data/(version|serialization_id)|extra/[A-Za-z0-9_.-]{1,80}|(data|constants)/[0-9]{1,6}"
    r"|code/__torch__(/[A-Za-z0-9_]+)*\.py(\.debug_pkl)?"
)
NO_SPEC = "not a checkpoint of diffusion_ros: it has no spec.json"
_BROKEN = "truncated, or not a TorchScript file"


@dataclass(frozen=True)
class Archive:
    """A checkpoint's entries, by name without the archive's folder."""

    entries: dict[str, bytes]
    sha256: str
    """Of the file's bytes."""

    @property
    def code(self) -> dict[str, bytes]:
        """Sources by dotted name, as `__torch__.training.networks.unet1d`."""
        return {
            name.removeprefix("code/").removesuffix(".py").replace("/", "."): content
            for name, content in self.entries.items()
            if name.startswith("code/") and name.endswith(".py")
        }

    def for_torch(self, code: Mapping[str, bytes]) -> bytes:
        """An archive for torch: what is loaded of this one, with its sources as given here by dotted name."""
        kept = {
            name: content
            for name, content in self.entries.items()
            if not name.startswith(("code/", "extra/")) and name != ".data/serialization_id"
        }
        kept |= {f"code/{name.replace('.', '/')}.py": content for name, content in code.items()}
        return packed(kept)

    def digest(self) -> bytes:
        """SHA-256 of all entries but the signature and what was written for debugging: what a signature is of."""
        made = hashlib.sha256(b"diffusion_ros checkpoint 1\n")
        for name in sorted(self.entries):
            if name != SIGNATURE and not name.endswith(".debug_pkl"):
                made.update(f"{len(name)} {name} {hashlib.sha256(self.entries[name]).hexdigest()}\n".encode())
        return made.digest()


def packed(entries: Mapping[str, bytes]) -> bytes:
    """A file of these entries, without what was written for debugging: it names folders of the machine that the sources
    lay on. The same entries make the same file."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as target:
        for name, content in entries.items():
            if not name.endswith(".debug_pkl"):
                kind = zipfile.ZIP_DEFLATED if name.startswith("code/") else zipfile.ZIP_STORED
                target.writestr(zipfile.ZipInfo(f"archive/{name}"), content, kind)
    return made.getvalue()


def bytes_of(path: Path) -> bytes:
    """A file's bytes. Raises Refusal for what is no file, or too large; OSError where it cannot be read."""
    # Not to wait for a pipe's other end; what it is decides what was opened, not a name that may be another's by then.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise Refusal("no such checkpoint") from None
    except ValueError:  # a null character
        raise Refusal("no name of a file") from None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise Refusal("no such checkpoint: it is no file")
        if found.st_size > MAX_FILE:
            raise Refusal(f"{found.st_size} bytes, at most {MAX_FILE} expected")
        return file.read(MAX_FILE)


def read(content: bytes) -> Archive:
    """The entries of a checkpoint. Raises Refusal for what is damaged, too large or none of a checkpoint's."""
    with _unbroken(), zipfile.ZipFile(io.BytesIO(content)) as archive:
        found = _named(archive)
        entries = {name: _content(archive, name, info) for name, info in found.items()}
    return Archive(entries, hashlib.sha256(content).hexdigest())


@contextmanager
def _unbroken() -> Iterator[None]:
    """Refusal for all that zipfile raises for what is damaged, cut short, encrypted or packed in an unknown way."""
    try:
        yield
    except Refusal:
        raise
    except (
        *(zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ArithmeticError),
        *(ValueError, LookupError, MemoryError, TypeError, struct.error),
    ):
        raise Refusal(_BROKEN) from None


def spec_of(content: bytes) -> bytes:
    """The specification alone. Raises Refusal."""
    with _unbroken(), zipfile.ZipFile(io.BytesIO(content)) as archive:
        found = _named(archive)
        if SPEC not in found:
            raise Refusal(NO_SPEC)
        return _content(archive, SPEC, found[SPEC])


def _named(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Entries by name, without the archive's folder, whose sizes are as they may be."""
    infos = archive.infolist()
    if not infos:
        raise Refusal(_BROKEN)
    if len(infos) > MAX_ENTRIES:
        raise Refusal(f"{len(infos)} entries, at most {MAX_ENTRIES} expected")
    # The folder has the name of the file that was first written.
    folders = {info.filename.partition("/")[0] for info in infos}
    if len(folders) != 1:
        raise Refusal(f"entries in {len(folders)} folders, one expected in a TorchScript file")
    folder = folders.pop()
    named: dict[str, zipfile.ZipInfo] = {}
    taken = max(info.header_offset + info.compress_size for info in infos)
    for info in infos:
        name = info.filename.removeprefix(f"{folder}/")
        if name in named:
            raise Refusal(f"the entry {shown(name)} is there twice")
        named[name] = info
    if not {"data.pkl", "version", ".data/version", SPEC} & set(named):
        raise Refusal(_BROKEN)
    unpacked = sum(info.file_size for info in infos)
    if unpacked > SPARE + 4 * taken:
        raise Refusal(f"{unpacked} bytes unpacked from {taken}: more than a checkpoint's weights and code can be")
    limits = {"spec.json": MAX_SPEC, "data.pkl": MAX_PICKLE, "constants.pkl": MAX_PICKLE}
    code = 0
    for name, info in named.items():
        code += info.file_size if name.startswith("code/") else 0
        most = limits.get(name.rpartition("/")[2], MAX_SMALL if "/" not in name else MAX_FILE)
        if info.file_size > most:
            raise Refusal(f"{shown(name)} of {info.file_size} bytes, at most {most} expected")
    if code > MAX_CODE:
        raise Refusal(f"code of {code} bytes, at most {MAX_CODE} expected")
    return named


def _content(archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo) -> bytes:
    if not _KNOWN.fullmatch(name):
        raise Refusal(f"the entry {shown(name)!r}, none of a TorchScript file's")
    try:
        content = archive.read(info)
    except zipfile.BadZipFile as error:
        if "CRC" in str(error):
            raise Refusal(f"damaged: the checksum of {shown(name)} does not match") from None
        raise
    if len(content) != info.file_size:
        raise Refusal(_BROKEN)
    if name == "byteorder" and content != b"little":
        raise Refusal(f"numbers in the order {shown(content)}, little expected")
    return content
