"""A process whose home cannot be written: its libraries get folders that can be."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from diffusion_ros.cache_folders import VARIABLES, use_cache_folders

ROOT = Path(__file__).parents[1]


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No home, no user name, a temporary folder of the test's own, and nothing chosen; root can write everywhere."""
    for name in (*VARIABLES, "ROS_HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "")  # so that monkeypatch removes what is set here
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_all_get_a_folder_of_their_own(homeless: Path) -> None:
    use_cache_folders()
    mine = homeless / f"diffusion_ros-caches-{os.getuid()}"
    assert {os.environ[name] for name in VARIABLES} == {str(mine / folder) for folder in VARIABLES.values()}
    assert mine.stat().st_mode & 0o777 == 0o700
    assert getpass.getuser() == str(os.getuid())  # asks no list of users
    before = dict(os.environ)
    use_cache_folders()  # the next process
    assert dict(os.environ) == before
    for name in VARIABLES:
        del os.environ[name]
    use_cache_folders()
    assert os.environ["NUMBA_CACHE_DIR"] == str(mine / "numba")


def test_what_is_chosen_stays(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/chosen")
    monkeypatch.setenv("ROS_HOME", "/chosen")
    monkeypatch.setenv("USER", "somebody")
    use_cache_folders()
    assert os.environ["NUMBA_CACHE_DIR"] == "/chosen" and "ROS_LOG_DIR" not in os.environ
    assert os.environ["USER"] == "somebody" and "MPLCONFIGDIR" in os.environ


def test_a_home_that_can_be_written_is_used(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(homeless))
    use_cache_folders()
    assert not any(name in os.environ for name in VARIABLES)
    assert list(homeless.iterdir()) == []


@pytest.mark.parametrize("trap", ["link", "open to all", "file"])
def test_a_folder_that_others_may_have_filled_is_not_used(homeless: Path, trap: str) -> None:
    """Caches of compiled code: whoever can write there runs what they like."""
    mine = homeless / f"diffusion_ros-caches-{os.getuid()}"
    if trap == "link":
        (homeless / "theirs").mkdir()
        mine.symlink_to(homeless / "theirs")
    elif trap == "file":
        mine.touch()
    else:
        mine.mkdir()
        mine.chmod(0o777)
    use_cache_folders()
    used = Path(os.environ["NUMBA_CACHE_DIR"]).parent
    assert used.parent == homeless and used.name.startswith("diffusion_ros-caches-")
    assert used != mine and used.stat().st_mode & 0o777 == 0o700


def test_a_node_and_a_trainer_begin_with_it(homeless: Path) -> None:
    environment = os.environ | {"TMPDIR": str(homeless), "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    bad = ["--ros-args", "-p", "max_observation_age:=-1"]
    for module, arguments in (("diffusion_ros.nodes.executor_node", bad), ("training.collect_maze", [])):
        command = [sys.executable, "-m", module, *arguments]
        result = subprocess.run(command, cwd=homeless, env=environment, capture_output=True, text=True)
        assert result.returncode == 2 and "Traceback" not in result.stderr
        (made,) = homeless.iterdir()
        assert made.name == f"diffusion_ros-caches-{os.getuid()}"
        if module.endswith("_node"):
            assert list((made / "ros").iterdir())  # the node's log
            for path in sorted(made.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            made.rmdir()
