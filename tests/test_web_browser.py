"""The page in a real browser, beside a simulation that runs: slow, as Chromium draws in software here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.browser import CHROMIUM, Browser, browser, end_with_the_tests
from tests.ros_graph import ROOT, own_domain

pytest.importorskip("viser", reason="the extra [web]")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]
WORD = "document.getElementById('word').textContent"


@contextmanager
def running(folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The Lift task from state at half speed, for as long as needed, and the page's address."""
    command = [
        *(sys.executable, "-m", "diffusion_ros.bringup", "simulation", "--task", "lift", "--episodes", "500"),
        *("--checkpoint", str(ROOT / "checkpoints/lift_state.pt"), "--speed", "0.5", "--view", ""),
        *("--output-dir", str(folder), "--web-port", "18280", *words),
    ]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}/src"}
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=end_with_the_tests,
    )
    try:
        file = folder / "web_address"
        end = time.monotonic() + 120
        while not file.exists():
            assert process.poll() is None, "the system has ended"
            assert time.monotonic() < end, "no address"
            time.sleep(0.1)
        yield process, file.read_text().strip()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile"), (1000, 640)) as made:
        yield made


@pytest.fixture(scope="module")
def steered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    folder = tmp_path_factory.mktemp("run") / "out"
    with own_domain(), running(folder, "--web-control") as (_, address):
        yield folder, address


def click(name: str) -> str:
    return f"document.querySelector('[data-do={name}]').click()"


def test_a_running_episode_its_stop_and_a_second_page(chromium: Browser, steered: tuple[Path, str]) -> None:
    _, address = steered
    one, two, wrong = chromium.tab(), chromium.tab(), chromium.tab()
    one.open(f"{address}&light")
    two.open(f"{address.partition('?')[0]}?light")
    one.wait(f"typeof state === 'object' && {WORD} === 'ACTING'", 120)
    one.wait("state.facts.step > 5 && document.querySelectorAll('#facts div').length >= 6")
    one.wait("strip.length > 20 && strip.some(s => s.word === 'ACTING')")
    two.wait(f"{WORD} === 'ACTING'", 60)
    assert two.run("document.querySelectorAll('#buttons button').length") == 0
    # Who only looks stops nothing.
    two.key(" ", "Space")
    two.run("socket.send(JSON.stringify({do: 'stop'}))")
    two.wait("document.getElementById('answer').textContent.includes('only to look')")
    assert one.run("state.banner.word") != "STOPPED"
    # Nor does who has a wrong token.
    wrong.open(f"{address}x")
    wrong.wait("document.body && document.body.innerText.includes('not the page')")
    # The space bar, wherever the focus is.
    one.run("document.querySelector('[data-do=enable]').focus()")
    one.key(" ", "Space")
    one.wait(f"{WORD} === 'STOPPED'")
    two.wait(f"{WORD} === 'STOPPED'")
    held = one.run("state.facts.held")
    # It holds, or, between two episodes, none begins.
    still = "state.facts.step === 0 && strip.slice(-15).every(s => s.word === 'STOPPED')"
    one.wait(f"state.facts.held > {held} + 10 || ({still})")
    assert one.run("state.banner.word") == "STOPPED"
    # Enable alone does not undo it.
    one.run(click("enable"))
    one.wait("document.getElementById('answer').textContent.includes('latched')")
    assert one.run("state.banner.word") == "STOPPED"
    one.run(click("release"))
    one.wait(f"{WORD} === 'HOLDING' && document.getElementById('reason').textContent.includes('Enable')")
    one.run(click("enable"))
    one.wait(f"{WORD} === 'ACTING' || state.facts.index > 0", 60)
    before = one.run("state.facts.index")
    one.run(click("next"))
    one.wait(f"state.facts.index > {before}", 60)
    for tab in (one, two):
        assert tab.problems == []
        host = address.partition("?")[0]
        assert [
            url for url in tab.requests if not url.startswith((host, "data:", "blob:", host.replace("http", "ws")))
        ] == []
        tab.close()
    wrong.close()


def test_a_person_drives_by_the_page(chromium: Browser, steered: tuple[Path, str]) -> None:
    tab = chromium.tab()
    tab.open(f"{steered[1]}&light")
    tab.wait("typeof state === 'object' && state.can && state.can.includes('drive')", 60)
    tab.call("Page.bringToFront")
    tab.key("Shift", "ShiftLeft", "rawKeyDown", 8)
    tab.key("R", "KeyR", "rawKeyDown", 8)
    tab.wait("state.driven", 60)
    tab.key("R", "KeyR", "keyUp", 8)
    tab.key("Shift", "ShiftLeft", "keyUp")
    tab.wait("!state.driven", 60)
    assert tab.problems == []
    tab.close()


def test_an_executor_that_dies_comes_back_on_the_page(chromium: Browser, steered: tuple[Path, str]) -> None:
    folder, address = steered
    tab = chromium.tab()
    tab.open(f"{address}&light")
    tab.wait(f"typeof state === 'object' && {WORD} === 'ACTING'", 120)
    log = folder / "executor.log"
    (process,) = (
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if f"{folder}/parameters/executor.yaml".encode() in _read(path)
    )
    os.kill(process, signal.SIGKILL)
    tab.wait(f"{WORD} !== 'ACTING'")
    assert log.exists()
    tab.wait(f"{WORD} === 'ACTING'", 120)
    tab.close()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_the_arm_is_drawn(chromium: Browser, steered: tuple[Path, str], tmp_path: Path) -> None:
    tab = chromium.tab()
    tab.open(f"{steered[1]}&full")
    tab.wait("Boolean(document.getElementById('view')?.contentDocument?.querySelector('canvas'))", 120)
    end = time.monotonic() + 120
    share = 0.0
    while share < 0.02 and time.monotonic() < end:
        time.sleep(3)
        tab.picture(tmp_path / "page.png")
        view = cv2.imread(str(tmp_path / "page.png"))[60:560, 20:540]
        share = float(np.mean(view.min(axis=2) > 150))  # the arm is white
    assert share >= 0.02
    # Of viser's own panel nothing is seen, and its space bar is the page's.
    inside = "document.getElementById('view').contentDocument"
    assert tab.run(f"[...{inside}.querySelectorAll('.mantine-Paper-root')].every(e => !e.offsetParent)")
    tab.run("document.getElementById('view').contentWindow.focus()")
    tab.key(" ", "Space")
    tab.wait(f"{WORD} === 'STOPPED'")
    tab.run(click("release"))
    tab.run(click("enable"))
    tab.close()


def test_the_system_dies_and_comes_back_on_the_same_page(chromium: Browser, tmp_path: Path) -> None:
    tab = chromium.tab()
    with own_domain():
        with running(tmp_path / "first", "--web") as (_, address):
            tab.open(f"{address}?light")
            tab.wait(f"typeof state === 'object' && {WORD} === 'ACTING'", 120)
        tab.wait(f"{WORD} === 'NO CONNECTION'")
        with running(tmp_path / "second", "--web") as (_, again):
            assert again == address
            tab.wait(f"{WORD} === 'ACTING'", 120)
    tab.close()
