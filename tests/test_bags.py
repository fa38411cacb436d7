"""Bags as files: what is in them, and that nothing of ROS is needed for it."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Reader
from rosbags.rosbag2.storage_mcap import McapReader
from rosbags.typesys import Stores, get_typestore

from diffusion_ros import bags
from diffusion_ros.bag_recovery import Recovered, recover
from diffusion_ros.bags import BagError, BagWriter, OfferedQos

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


def test_a_bag_needs_no_ros(tmp_path: Path) -> None:
    """Who trains has none."""
    record(tmp_path / "session").abandon()
    script = f"""
import sys
import time
sys.modules["rclpy"] = None
from pathlib import Path
from diffusion_ros.bag_recovery import recover
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
    assert recover(path) == Recovered(path, True, 124, 0)
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
