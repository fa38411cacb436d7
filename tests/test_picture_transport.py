"""Fast DDS is told where its file is, by the variable that the installed version reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_ros import picture_transport

RESOURCES = Path(__file__).parents[1]
NAMES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
RANGE = "ROS_AUTOMATIC_DISCOVERY_RANGE"


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*NAMES, RANGE):
        monkeypatch.delenv(name, raising=False)


def said_by_a_node(environment: dict[str, str]) -> str:
    """What a process that makes a node writes with these variables."""
    script = "import rclpy; rclpy.init(); rclpy.create_node('x').destroy_node(); rclpy.shutdown()"
    local = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF", "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"}
    run = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **local, **environment}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout + run.stderr


@pytest.mark.parametrize(("simulated", "file"), [(False, "fastdds.xml"), (True, "fastdds_loopback.xml")])
def test_the_installed_version_reads_the_file_and_has_nothing_to_say(
    simulated: bool, file: str, tmp_path: Path
) -> None:
    environment = picture_transport.environment(RESOURCES, simulated)
    assert environment.pop(RANGE, "") == ("LOCALHOST" if simulated else "")
    assert [Path(path) for path in environment.values()] == [RESOURCES / "config" / file]
    assert said_by_a_node(environment) == ""
    (tmp_path / "wrong.xml").write_text("<dds><nonsense/></dds>")
    assert "nonsense" in said_by_a_node(dict.fromkeys(environment, str(tmp_path / "wrong.xml")))


@pytest.mark.parametrize(("share", "name"), [("fastdds", NAMES[0]), ("fastrtps", NAMES[1])])
def test_the_version_of_a_ros_installation(
    share: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_transport, "find_spec", lambda name: None)
    (tmp_path / "share" / share).mkdir(parents=True)
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"/nowhere:{tmp_path}")
    assert list(picture_transport.environment(RESOURCES)) == [name]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_the_users_own_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "/mine.xml")
    assert picture_transport.environment(RESOURCES) == {}


@pytest.mark.parametrize(
    ("said", "simulated", "file"),
    [
        ("SUBNET", True, "fastdds.xml"),
        ("SUBNET", False, "fastdds.xml"),
        ("LOCALHOST", True, "fastdds_loopback.xml"),
        ("LOCALHOST", False, "fastdds_loopback.xml"),
        ("OFF", False, "fastdds_loopback.xml"),
    ],
)
def test_whom_the_user_looks_for_decides_who_may_come(
    said: str, simulated: bool, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RANGE, said)
    (path,) = picture_transport.environment(RESOURCES, simulated).values()
    assert Path(path).name == file
