"""Files appear whole, on the disk, with the user's modes, and nothing is left of who was killed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffusion_ros import atomic_file
from diffusion_ros.atomic_file import NamelessFile, add_line, atomic_folder, atomic_write, read_lines, write_json

ROOT = Path(__file__).resolve().parents[1]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0, 0o666, 0o777)])
def test_modes_are_what_the_umask_allows(tmp_path: Path, umask: int, file: int, folder: int) -> None:
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "a") as temporary:
            temporary.write_text("a")
        with atomic_folder(tmp_path / "b") as temporary:
            (temporary / "c").write_text("c")
        add_line(tmp_path / "d", {})
        nameless = NamelessFile(tmp_path / "e")
        nameless.name()
        nameless.close()
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in "abde"] == [file, folder, file, file]


def test_a_file_is_on_the_disk_before_it_has_its_name_and_then_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def replaced(path: Path, other: Path) -> Path:
        done.append("replace")
        return replace(path, other)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    with atomic_write(tmp_path / "a") as temporary:
        temporary.write_text("a")
    assert done == [temporary.name, "replace", tmp_path.name]
    done.clear()
    with atomic_folder(tmp_path / "b") as temporary:
        (temporary / "x").mkdir()
        (temporary / "x/y").write_text("y")
    assert done == [temporary.name, "y", "x", tmp_path.name] and (tmp_path / "b/x/y").exists()
    done.clear()
    add_line(tmp_path / "c", {})
    add_line(tmp_path / "c", {})
    assert done == ["c", tmp_path.name, "c"]


KILLED = """
import os, signal, sys
from pathlib import Path
from diffusion_ros.atomic_file import NamelessFile, atomic_folder, atomic_write
from diffusion_ros.simulators.video import Mp4Writer
import numpy as np
path = Path(sys.argv[2])
if sys.argv[1] == "video":
    writer = Mp4Writer(path, 20.0)
    for _ in range(50):
        writer.write(np.zeros((64, 64, 3), np.uint8))
    os.kill(os.getpid(), signal.SIGKILL)
with {"file": atomic_write, "folder": atomic_folder}[sys.argv[1]](path) as temporary:
    (temporary if sys.argv[1] == "file" else temporary / "x").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(kind: str, path: Path) -> None:
    """Somebody is killed while writing."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    run = subprocess.run([sys.executable, "-c", KILLED, kind, str(path)], env=environment, check=False)
    assert run.returncode == -signal.SIGKILL


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("before")
    (tmp_path / f".a.{os.uname().nodename}-1-00000000.part").write_text("of a process that runs")
    (tmp_path / ".a.another_host-999999999-00000000.part").write_text("may run there")
    killed("file", path)
    assert path.read_text() == "before" and len(names(tmp_path)) == 4
    with atomic_write(path) as temporary:
        temporary.write_text("after")
    assert path.read_text() == "after"
    assert len(names(tmp_path)) == 3 and not [name for name in names(tmp_path) if name.endswith(temporary.name)]


def test_a_folder_half_written_is_removed_and_one_half_changed_is_put_back(tmp_path: Path) -> None:
    path = tmp_path / "a"
    killed("folder", path)
    assert len(names(tmp_path)) == 1
    with atomic_folder(path) as temporary:
        (temporary / "x").write_text("whole")
    assert names(tmp_path) == ["a"]
    # Killed between the two names of a change.
    path.rename(tmp_path / f".a.{os.uname().nodename}-999999999-00000000.part.before")
    with pytest.raises(ZeroDivisionError), atomic_folder(path):
        raise ZeroDivisionError
    assert names(tmp_path) == ["a"] and (path / "x").read_text() == "whole"


def test_nothing_is_left_of_a_killed_video(tmp_path: Path) -> None:
    killed("video", tmp_path / "a.mp4")
    deadline = time.monotonic() + 20
    while names(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert names(tmp_path) == []


def test_where_no_file_can_be_nameless_it_is_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def unable(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no")
        return real(path, flags, mode)

    monkeypatch.setattr(atomic_file.os, "open", unable)
    for whole in (True, False):
        file = NamelessFile(tmp_path / str(whole))
        assert len(names(tmp_path)) == (1 if whole else 2)
        os.write(file.descriptor, b"x")
        if whole:
            file.name()
        file.close()
    assert names(tmp_path) == ["True"]


def test_lines_are_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert read_lines(path) == []
    for i in range(3):
        add_line(path, {"i": i})
    path.write_bytes(path.read_bytes() + b'{"i": ' + b"9" * 10_000)
    assert [line["i"] for line in read_lines(path)] == [0, 1, 2]
    add_line(path, {"i": 3})
    assert [line["i"] for line in read_lines(path)] == [0, 1, 2, 3]
    path.write_text('{"i": 0}\n[1]\n')
    with pytest.raises(ValueError, match=r"a\.jsonl: line 2 is damaged: an object of JSON expected$"):
        read_lines(path)
    path.write_text("[" * 100_000 + "\n")
    with pytest.raises(ValueError, match=r"a\.jsonl: line 1 is damaged: no JSON$"):
        read_lines(path)
    with pytest.raises(ValueError, match="Out of range"):
        add_line(path, {"i": float("nan")})


def test_a_full_disk_names_the_summary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/summary\.json'$"):
        write_json(tmp_path / "summary.json", {})
    assert names(tmp_path) == []
