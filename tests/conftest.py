"""What all tests share."""

import os

# Before anything imports torch: one thread, as nodes have it. Two wait for each other by spinning.
os.environ["OMP_NUM_THREADS"] = "1"

import atexit
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from diffusion_ros.simulators.render_backend import choose_render_backend

# What checkpoints were tried is remembered for this run of the tests alone, by all of its processes.
if "DIFFUSION_ROS_TRIED" not in os.environ:
    os.environ["DIFFUSION_ROS_TRIED"] = tempfile.mkdtemp(prefix="diffusion_ros-tried-")
    atexit.register(shutil.rmtree, os.environ["DIFFUSION_ROS_TRIED"], ignore_errors=True)

# A shell's background jobs are started without it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Before anything imports MuJoCo, which reads once how to draw. Who cannot draw may still run what does not.
with suppress(OSError):
    choose_render_backend()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A graph in real time fails where its machine stands still for a second. So a test of one has a second try, which
    the closing lines name."""
    real_time: dict[ModuleType, bool] = {}
    for item in items:
        assert isinstance(item, pytest.Function)
        if (module := item.module) not in real_time:
            used = (getattr(value, "__module__", getattr(value, "__name__", "")) for value in vars(module).values())
            real_time[module] = any(str(name).endswith("ros_graph") for name in used)
        if real_time[module]:
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture
def fresh_accelerate() -> None:
    """Accelerate keeps the precision of a process's first run; with this a test is a run of its own."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def scripted_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainers script what they train at their start as well, so that it fails then: half a second each, in vain here.

    Each of them has a test that they do, which makes their `checkpoint.script` fail.
    """
    from diffusion_ros import checkpoint

    for name in ("images", "planner", "policy", "guard"):
        if trainer := sys.modules.get(f"training.trainers.{name}"):
            late = SimpleNamespace(**{**vars(checkpoint), "script": lambda module: module})
            monkeypatch.setattr(trainer, "checkpoint", late)


@pytest.fixture
def run_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[object, str]]:
    """A command's main() with these words, in this process: its exit status, and what it says on stderr.

    A process of its own would take seconds to import what is imported here already.
    """

    def run(main: Callable[[], None], *words: object) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, words)])
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        capsys.readouterr()
        status: object = 0
        try:
            main()
        except SystemExit as end:
            status = end.code
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return status, capsys.readouterr().err

    return run


def _made_here(make: Callable[[], Callable[[Any], Any]], jobs: list[Any], *_: object) -> Iterator[tuple[Any, Any]]:
    work = make()
    for job in jobs:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # robosuite leaves the closing of a file to Python
            result = work(job)
        yield job, result


@contextmanager
def _parts_made_here() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.data.parts.each", _made_here)
        yield patch


@pytest.fixture(scope="session")
def parts_made_here() -> Callable[[], AbstractContextManager[pytest.MonkeyPatch]]:
    """In this context parts are made in this process, and not by workers, which have everything to import."""
    return _parts_made_here
