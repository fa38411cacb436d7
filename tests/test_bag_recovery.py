"""What is left of a bag that was cut."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore
from test_bags import CONTRACT, IMAGE, ROOT, content, events, read, read_file, record

from diffusion_ros import bag_recovery, bringup
from diffusion_ros.bag_recovery import recover
from diffusion_ros.bags import BagError, json_of


def test_whatever_was_flushed_before_a_kill_is_recovered(tmp_path: Path) -> None:
    """And a bag that somebody writes is not recovered."""
    folder = tmp_path / "session"
    script = f"""
import sys, time
from pathlib import Path
sys.path[:0] = [{str(ROOT / "tests")!r}]
import test_bags
writer = test_bags.record(Path({str(folder)!r}))
print("written", flush=True)
for i in range(60, 10_000):
    writer.write("/camera/image_raw", 100 + i, test_bags.content(i))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment)
    assert child.stdout is not None and child.stdout.readline() == b"written\n"
    with pytest.raises(BagError, match=r"session: is being recorded, a bag that nobody writes expected$"):
        recover(folder)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not (folder / "metadata.yaml").exists()
    made = recover(folder)
    assert not made.whole and str(made).startswith(f"{folder}: recovered {made.messages} messages, ")
    found = read(folder)
    assert len(found) == made.messages
    images = [data for topic, _, data in found if topic == "/camera/image_raw"]
    assert len(images) >= 60 and images == [content(i) for i in range(len(images))]
    assert [e["event"] for e in events(folder)] == ["start", "success", "start", "end"]
    assert events(folder)[-1] == {
        "event": "end",
        "episode": 1,
        "reason": "the recording was cut",
        "stamp_ns": 59 * 10**9,  # of the last action
    }
    with Reader(folder) as reader:
        assert json.loads(reader.storage.metadata.custom["recording_contract"]) == CONTRACT
        camera = next(c for c in reader.connections if c.topic == "/camera/image_raw")
        assert camera.ext.offered_qos_profiles[0].reliability.name == "BEST_EFFORT"
        assert camera.digest == get_typestore(Stores.ROS2_JAZZY).hash_rihs01(IMAGE)


def test_a_file_that_ends_anywhere_is_recovered_up_to_there(tmp_path: Path) -> None:
    """Every state that a killed writer, or a machine that stopped, can leave behind."""
    whole = tmp_path / "whole"
    record(whole, 20, 2000).close()
    written, data = read(whole), (whole / "whole.mcap").read_bytes()
    lengths = [*range(0, len(data), 1999), *range(len(data) - 60, len(data) + 1, 6)]
    first = data.index(b"\x07" + struct.pack("<Q", 22))  # the index behind the first chunk
    most = 0
    for length in lengths:
        folder = tmp_path / f"cut{length}"
        folder.mkdir()
        (folder / "cut.mcap").write_bytes(data[:length])
        if length < first:
            with pytest.raises(BagError, match="nothing was written to it"):
                recover(folder)
            continue
        made = recover(folder)
        found = read(folder)
        running = len(found) and json_of(found[-1][2])["event"] == "end" if len(found) > 1 else False
        kept = found[:-1] if running else found
        assert kept == written[: len(kept)] and made.messages == len(found), length
        assert len(kept) >= most  # the longer the file, the more
        most = len(kept)
        assert not list(tmp_path.glob(".*"))
        shutil.rmtree(folder)
    assert most == len(written)


def test_zeros_at_the_end_are_not_taken_for_messages(tmp_path: Path) -> None:
    """What a file system may leave where the machine stopped."""
    folder = tmp_path / "session"
    writer = record(folder, 20, 2000)
    before = (folder / "session.mcap").stat().st_size
    for i in range(20, 30):
        writer.write("/camera/image_raw", 100 + i, content(i))
    writer.flush()
    writer.abandon()
    path = folder / "session.mcap"
    data = bytearray(path.read_bytes())
    data[before + 200 :] = bytes(len(data) - before - 200)
    path.write_bytes(data)
    recover(folder)
    assert [d for t, _, d in read(folder) if t == "/camera/image_raw"] == [content(i, 2000) for i in range(20)]


def test_a_recovery_that_is_stopped_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "session"
    record(folder, 20, 2000).abandon()
    cut = (folder / "session.mcap").read_bytes()
    monkeypatch.setattr(bag_recovery, "_copy", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        recover(folder)
    assert (folder / "session.mcap").read_bytes() == cut and len(list(tmp_path.iterdir())) == 1
    monkeypatch.undo()
    # After the file, and before metadata.yaml.

    def replace(source: Path, target: Path) -> None:
        if Path(target) == folder / "metadata.yaml":
            raise OSError(28, "No space left on device")
        Path(source).rename(target)

    monkeypatch.setattr(bag_recovery.os, "replace", replace)
    with pytest.raises(OSError, match="No space left"):
        recover(folder)
    monkeypatch.undo()
    assert not (folder / "metadata.yaml").exists()
    assert recover(folder) == bag_recovery.Recovered(folder, False, 45, 0)
    assert recover(folder).whole
    assert [e["event"] for e in events(folder)] == ["start", "success", "start", "end"]


def test_the_command_says_in_one_line_what_it_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "session"
    record(folder, 20, 2000).abandon()
    assert bringup.main(["recover", str(folder)]) == 0
    assert capsys.readouterr().out.startswith(f"{folder}: recovered 45 messages, ")
    assert bringup.main(["recover", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}: is whole, 45 messages\n"
    for bad, said in (
        (tmp_path / "none", "none: no such folder, the folder of a bag expected"),
        (tmp_path, f"{tmp_path}: 0 files *.mcap, one expected"),
    ):
        assert bringup.main(["recover", str(bad)]) == 2
        assert capsys.readouterr().err.strip().endswith(said)
    assert bringup.main(["recover"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    (folder / "metadata.yaml").unlink()
    monkeypatch.setattr(bag_recovery.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert bringup.main(["recover", str(folder)]) == 2
    assert "0.00 GB free, 0.00 expected to write it again" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", [0.0, 0.03, 0.11])
def test_a_killed_file_is_read_as_it_is_and_recovered(tmp_path: Path, seconds: float) -> None:
    """Whatever was flushed is read without `recover`, which gives the file its index and the episode its end."""
    path = tmp_path / "session.mcap"
    script = f"""
import sys
import time
from pathlib import Path
sys.path[:0] = [{str(ROOT / "tests")!r}]
import test_bags
writer = test_bags.record(Path({str(path)!r}), 60, 4000)
print("written", flush=True)
for i in range(60, 100_000):
    writer.write("/camera/image_raw", 100 + i, test_bags.content(i))
"""
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment)
    assert child.stdout is not None and child.stdout.readline() == b"written\n"
    with pytest.raises(BagError, match=r"session.mcap: is being recorded, a bag that nobody writes expected$"):
        recover(path)
    time.sleep(seconds)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    before = read_file(path)
    images = [data for topic, _, data in before if topic == "/camera/image_raw"]
    assert len(images) >= 60 and images[:60] == [content(i, 4000) for i in range(60)]
    assert images[60:] == [content(i) for i in range(60, len(images))]
    made = recover(path)
    after = read_file(path)
    assert not made.whole and made.messages == len(after)
    assert after[:-1] == before and json_of(after[-1][2])["reason"] == "the recording was cut"
    assert recover(path).whole and [p.name for p in tmp_path.iterdir()] == ["session.mcap"]


def test_the_file_in_a_folder_that_is_recorded_is_not_recovered(tmp_path: Path) -> None:
    writer = record(tmp_path / "session", 20, 2000)
    with pytest.raises(BagError, match="is being recorded"):
        recover(tmp_path / "session/session.mcap")
    writer.close()
    assert recover(tmp_path / "session/session.mcap").whole


def test_the_command_recovers_a_file_that_ends_anywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "session.mcap"
    record(path, 20, 2000).abandon()
    path.write_bytes(path.read_bytes()[:-1000])
    assert bringup.main(["recover", str(path)]) == 0
    assert f"{path}: recovered " in capsys.readouterr().out
    assert bringup.main(["recover", str(path)]) == 0
    assert capsys.readouterr().out.startswith(f"{path}: is whole, ")
