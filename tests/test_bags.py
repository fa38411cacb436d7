"""Bags as files: what is in them, what is left of one that was cut, and that nothing of ROS is needed for it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Reader
from rosbags.rosbag2.storage_mcap import McapReader
from rosbags.typesys import Stores, get_typestore

from diffusion_ros import bags, bringup
from diffusion_ros.bags import BagError, BagWriter, OfferedQos, recover

ROOT = Path(__file__).parents[1]
CONTRACT = {"version": 1, "task": "can", "topics": {"executed_action": "/executed_action"}, "robot": "base: ü\n"}
IMAGE = "sensor_msgs/msg/Image"
SENSOR = OfferedQos("best_effort", "volatile", "keep_last", 5)


def content(i: int, size: int = 40_000) -> bytes:
    """Of an Image's length, numbered; what is in it concerns nobody here."""
    return b"\x00\x01\x00\x00" + struct.pack("<iI", i, 0) + bytes([i % 256]) * size


def record(folder: Path, messages: int = 60, size: int = 40_000) -> BagWriter:
    """A bag that is still written: an episode that was a success, and one that runs."""
    writer = BagWriter(folder, CONTRACT)
    writer.add("/camera/image_raw", IMAGE, SENSOR)
    writer.add("/executed_action", "trajectory_msgs/msg/JointTrajectory", OfferedQos("reliable"))
    for i in range(messages):
        if i in (0, messages // 2):
            writer.event(100 + i, {"event": "start", "episode": int(i > 0), "stamp_ns": i})
        writer.write("/camera/image_raw", 100 + i, content(i, size))
        writer.write("/executed_action", 100 + i, content(i, 100))
        if i == messages // 2 - 1:
            writer.event(100 + i, {"event": "success", "episode": 0, "stamp_ns": i})
        if i % 10 == 9:
            writer.flush()
    return writer


def read(folder: Path) -> list[tuple[str, int, bytes]]:
    with Reader(folder) as reader:
        found = [(connection.topic, received_ns, data) for connection, received_ns, data in reader.messages()]
        assert reader.message_count == len(found)
    return found


def events(folder: Path) -> list[dict]:
    return [bags.json_of(data) for topic, _, data in read(folder) if topic == "/recording_event"]


def test_a_bag_has_what_was_written_with_types_and_qualities(tmp_path: Path) -> None:
    folder = tmp_path / "session"
    record(folder).close()
    assert sorted(path.name for path in folder.iterdir()) == ["metadata.yaml", "session.mcap"]
    found = read(folder)
    assert found[0][:2] == ("/recording_contract", 100) and bags.json_of(found[0][2]) == CONTRACT
    images = [message for message in found if message[0] == "/camera/image_raw"]
    assert images == [("/camera/image_raw", 100 + i, content(i)) for i in range(60)]
    assert [e["event"] for e in events(folder)] == ["start", "success", "start"]
    with AnyReader([folder]) as reader:
        said = reader.typestore.deserialize_cdr(found[0][2], "std_msgs/msg/String")
        assert json.loads(said.data) == CONTRACT
    store = get_typestore(Stores.ROS2_JAZZY)
    with Reader(folder) as reader:
        assert json.loads(reader.storage.metadata.custom["recording_contract"]) == CONTRACT
        for connection in reader.connections:
            assert connection.digest == store.hash_rihs01(connection.msgtype)
            assert connection.msgdef.data
        (camera,) = (c for c in reader.connections if c.topic == "/camera/image_raw")
        (qos,) = camera.ext.offered_qos_profiles
        assert (qos.reliability.name, qos.durability.name, qos.depth) == ("BEST_EFFORT", "VOLATILE", 5)


def test_types_of_installed_packages_are_found_with_those_of_their_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package, name, text in (
        ("arm_msgs", "Arm", "std_msgs/Header header\nTool[] tools\nother_msgs/Grip grip\n"),
        ("arm_msgs", "Tool", "float64 mass\n"),
        ("other_msgs", "Grip", "bool closed\n"),
    ):
        path = tmp_path / "share" / package / "msg" / f"{name}.msg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path / 'none'}:{tmp_path}")
    definition, digest = bags.MessageTypes("jazzy").find("arm_msgs/msg/Arm")
    assert "float64 mass" in definition and "bool closed" in definition and digest.startswith("RIHS01_")
    monkeypatch.setenv("AMENT_PREFIX_PATH", "")
    with pytest.raises(BagError, match=r"^arm_msgs/msg/Arm: no definition of arm_msgs/msg/Arm in rosbags or on"):
        bags.MessageTypes("jazzy").find("arm_msgs/msg/Arm")


@pytest.mark.parametrize(
    ("variable", "version", "expected"),
    [("kilted", "7.1.0", "kilted"), ("", "7.1.6", "jazzy"), ("", "9.1.2", "kilted"), ("humble", "9.1", "humble")],
)
def test_the_distribution_is_that_which_runs(
    monkeypatch: pytest.MonkeyPatch, variable: str, version: str, expected: str
) -> None:
    monkeypatch.setenv("ROS_DISTRO", variable)
    monkeypatch.setattr(bags.importlib.metadata, "version", lambda name: version)
    assert bags.distribution() == expected
    assert bags.MessageTypes(expected).find(bags.STRING)[1].startswith("RIHS01_")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    record(tmp_path / "session").close()
    with pytest.raises(BagError, match=r"session: exists already, a new folder expected$"):
        BagWriter(tmp_path / "session", CONTRACT)
    (tmp_path / "empty").mkdir()
    BagWriter(tmp_path / "empty", CONTRACT).close()
    assert [name for name, _, _ in read(tmp_path / "empty")] == ["/recording_contract", "/recording_event"]


# -- bags that were cut -----------------------------------------------------------------------------------------------


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
        running = len(found) and bags.json_of(found[-1][2])["event"] == "end" if len(found) > 1 else False
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
    monkeypatch.setattr(bags, "_copy", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        recover(folder)
    assert (folder / "session.mcap").read_bytes() == cut and len(list(tmp_path.iterdir())) == 1
    monkeypatch.undo()
    # After the file, and before metadata.yaml.

    def replace(source: Path, target: Path) -> None:
        if Path(target) == folder / "metadata.yaml":
            raise OSError(28, "No space left on device")
        Path(source).rename(target)

    monkeypatch.setattr(bags.os, "replace", replace)
    with pytest.raises(OSError, match="No space left"):
        recover(folder)
    monkeypatch.undo()
    assert not (folder / "metadata.yaml").exists()
    assert recover(folder) == bags.Recovered(folder, False, 45, 0)
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
    monkeypatch.setattr(bags.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert bringup.main(["recover", str(folder)]) == 2
    assert "0.00 GB free, 0.00 expected to write it again" in capsys.readouterr().err


def test_a_bag_needs_no_ros(tmp_path: Path) -> None:
    """Who trains has none."""
    record(tmp_path / "session").abandon()
    script = f"""
import sys
import time
sys.modules["rclpy"] = None
from pathlib import Path
from diffusion_ros.bags import recover
print(recover(Path({str(tmp_path / "session")!r})).messages)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert int(run.stdout) == 125


# -- a bag that is one file -------------------------------------------------------------------------------------------


def read_file(path: Path) -> list[tuple[str, int, bytes]]:
    """As training reads it, from the beginning on."""
    from training.data.bag_file import BagFile

    file = BagFile(path)
    return list(file.messages(list(file.topics)))


def test_a_file_has_what_the_folder_has(tmp_path: Path) -> None:
    path, folder = tmp_path / "monday.1.mcap", tmp_path / "session"
    for place in (path, folder):
        record(place).close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["monday.1.mcap", "session"]
    assert read_file(path) == read_file(folder) and len(read_file(path)) == 124
    reader = McapReader(path)
    reader.open()
    assert reader.metadata.message_count == 124
    reader.close()
    # And who has rosbag2 finds all of it in the file itself.
    assert b"serialized_metadata" in path.read_bytes() and b"custom_data" in path.read_bytes()
    assert recover(path) == bags.Recovered(path, True, 124, 0)
    BagWriter(tmp_path / "nothing.mcap", CONTRACT).close()
    assert [topic for topic, _, _ in read_file(tmp_path / "nothing.mcap")] == [
        "/recording_contract",
        "/recording_event",
    ]


def test_where_no_new_bag_can_be(tmp_path: Path) -> None:
    (tmp_path / "there.mcap").touch()
    (tmp_path / "folder.mcap").mkdir()
    (tmp_path / "link.mcap").symlink_to(tmp_path / "nowhere")
    for name, rule in (
        ("there.mcap", "exists already, a new file expected"),
        ("folder.mcap", "exists already, a new file expected"),
        ("link.mcap", "exists already, a new file expected"),
        ("no/such/x.mcap", f"no folder {tmp_path / 'no/such'}"),
        ("x.bag", "a folder, or a file named *.mcap, expected"),
        ("x.MCAP", "a folder, or a file named *.mcap, expected"),
        ("x.mcap.zst", "a folder, or a file named *.mcap, expected"),
    ):
        said = f"bag {tmp_path / name}: {rule}"
        with pytest.raises(BagError, match=f"^{re.escape(said)}$"):
            BagWriter(tmp_path / name, CONTRACT)
    assert len(list(tmp_path.iterdir())) == 3 and (tmp_path / "there.mcap").stat().st_size == 0
    (tmp_path / "text.txt").touch()
    with pytest.raises(BagError, match=r"text.txt: the folder of a bag, or a file named \*.mcap, expected$"):
        recover(tmp_path / "text.txt")


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
    assert after[:-1] == before and bags.json_of(after[-1][2])["reason"] == "the recording was cut"
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
