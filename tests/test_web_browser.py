"""The page in a real browser, beside a simulation that runs: slow, as Chromium draws in software here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Path as NavPath
from numpy.typing import NDArray
from rclpy.node import Node
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros.ros import messages, topics
from tests.browser import CHROMIUM, Browser, Tab, browser, end_with_the_tests
from tests.ros_graph import ROOT, Graph, nodes, own_domain

pytest.importorskip("viser", reason="the extra [web]")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]
WORD = "document.getElementById('word').textContent"


LIFT = (
    *("simulation", "--task", "lift", "--checkpoint", str(ROOT / "checkpoints/lift_state.pt")),
    *("--speed", "0.5", "--view", ""),
)
"""The Lift task from state at half speed."""
HANDS = ("teleoperate", "--task", "lift", "--teleop", "topic", "--speed", "0.5", "--no-video")
"""The same arm, which moves only by a person."""

MAZE = (
    *("maze", "--size", "umaze", "--checkpoint", str(ROOT / "checkpoints/maze_umaze.pt")),
    *("--speed", "0.1", "--no-video"),
)
"""A maze, whose episodes last at least half a minute."""


@contextmanager
def running(folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A system, for as long as needed, and the page's address."""
    command = [
        *(sys.executable, "-m", "diffusion_ros.bringup", *words, "--episodes", "500"),
        *("--output-dir", str(folder), "--web-port", "18280"),
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
        end = time.monotonic() + 300
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
    with own_domain(), running(folder, *LIFT, "--web-control") as (_, address):
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


PERSON = "document.getElementById('reason').textContent === 'a person drives'"


@contextmanager
def steering(chromium: Browser, address: str) -> Iterator[Tab]:
    """A page in front, of an arm that may be driven."""
    tab = chromium.tab()
    tab.open(f"{address}&light")
    tab.wait("typeof state === 'object' && state.can && state.can.includes('drive')", 180)
    tab.call("Page.bringToFront")
    tab.wait("state.can.includes('reset') && state.facts.step !== undefined", 180)  # the simulator is there, too
    yield tab
    assert tab.problems == []
    tab.close()


def a_person_drives(tab: Tab) -> None:
    tab.wait(f"state.driven && {WORD} === 'ACTING' && {PERSON}")


def nobody_drives(tab: Tab) -> None:
    tab.wait(f"!state.driven && !({PERSON})")


def test_a_person_takes_over_by_the_keys(chromium: Browser, steered: tuple[Path, str]) -> None:
    with steering(chromium, steered[1]) as tab:
        tab.key("Shift", "ShiftLeft", "rawKeyDown", 8)
        tab.key("R", "KeyR", "rawKeyDown", 8)
        a_person_drives(tab)
        tab.key("R", "KeyR", "keyUp", 8)
        tab.key("Shift", "ShiftLeft", "keyUp")
        nobody_drives(tab)
        tab.wait(f"{WORD} === 'ACTING' && !({PERSON})")


class Arm(Node):
    """Where the hand is, and what moves it."""

    def __init__(self) -> None:
        super().__init__("onlooker")
        self.hand: list[NDArray[np.float64]] = []
        """Its positions (3) [m]."""
        self.asked: list[JointTrajectory] = []
        """What a person's device says."""
        self.grip = 0.0
        """Of the row that was executed last."""
        self.create_subscription(PoseStamped, topics.EEF_POSE, self._on_pose, topics.BEST_EFFORT_QOS)
        self.create_subscription(JointTrajectory, topics.EXECUTED_ACTION, self._on_executed, topics.WATCHED_QOS)
        self.create_subscription(JointTrajectory, topics.TELEOP_ACTION, self.asked.append, topics.WATCHED_QOS)

    def _on_pose(self, msg: PoseStamped) -> None:
        self.hand.append(messages.pose_from_msg(msg)[1])

    def _on_executed(self, msg: JointTrajectory) -> None:
        self.grip = messages.executed_from_msg(msg)[1][6]

    def moved(self, poses: int) -> NDArray[np.float64]:
        """How far the hand came (3) [m], from so many poses ago."""
        return self.hand[-1] - self.hand[-poses]


def goes(ros: Graph, arm: Arm, way: tuple[int, int, int]) -> None:
    """The hand goes that way, once what it did before has died away."""
    before = len(arm.hand)
    ros.spin_until(lambda: len(arm.hand) > before + 20, 120)
    begin = arm.hand[-1]
    ros.spin_until(lambda: np.linalg.norm(arm.hand[-1] - begin) > 0.03, 120)
    moved = arm.hand[-1] - begin
    assert moved @ way > 0.9 * np.linalg.norm(moved), moved


def rests(tab: Tab, ros: Graph, arm: Arm) -> None:
    """Nobody drives, neither now nor a while later, and the hand stays where it is."""
    nobody_drives(tab)
    before = len(arm.hand)
    ros.spin_until(lambda: len(arm.hand) > before + 20, 120)  # what was under way
    arm.asked.clear()
    ros.spin_until(lambda: len(arm.hand) > before + 40, 120)
    assert arm.asked == [] and not tab.run("state.driven")
    assert np.linalg.norm(arm.moved(20)) < 0.001


@pytest.fixture(scope="module")
def handed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with own_domain(), running(tmp_path_factory.mktemp("hands") / "out", *HANDS, "--web-control") as (_, address):
        yield address


A, SHOULDER = 0, 5
GAMEPAD = "window.pad = null; window.looked = 0; navigator.getGamepads = () => { looked += 1; return [pad]; }; 0"


def gamepad(tab: Tab, *pressed: int, axes: Mapping[int, float] | None = None, mapping: str = "standard") -> None:
    """What the page's gamepad is like from now on, and the page has seen it."""
    values = [(axes or {}).get(number, 0.0) for number in range(4)]
    buttons = [{"pressed": number in pressed} for number in range(17)]
    made = {"index": 0, "id": "Test pad", "connected": True, "mapping": mapping, "axes": values, "buttons": buttons}
    _plugged(tab, json.dumps(made))


def _plugged(tab: Tab, made: str) -> None:
    before = tab.run(f"window.pad = {made}; looked")
    tab.wait(f"looked > {before}")


def test_a_person_drives_by_a_gamepad(chromium: Browser, handed: str) -> None:
    with steering(chromium, handed) as tab, nodes() as ros:
        arm = ros.add(Arm())
        tab.run(GAMEPAD)
        # A shoulder that is down at first, and sticks without the shoulder.
        gamepad(tab, SHOULDER, axes={1: -1.0})
        rests(tab, ros, arm)
        gamepad(tab, axes={1: -1.0, 3: -1.0})
        rests(tab, ros, arm)
        # Of a stick that is pushed away or to the left the numbers are negative.
        for axis, value, way in (
            (3, -1.0, (0, 0, 1)),
            (1, -1.0, (1, 0, 0)),
            (0, -1.0, (0, 1, 0)),
            (0, 1.0, (0, -1, 0)),
        ):
            gamepad(tab, SHOULDER, axes={axis: value})
            goes(ros, arm, way)
            a_person_drives(tab)
        # A turns the gripper around, once.
        grips = []
        for _ in range(2):
            gamepad(tab, SHOULDER, A)
            ros.spin(1.0)
            grips.append(ros.spin_until(lambda: arm.grip))
            gamepad(tab, SHOULDER)
            ros.spin(1.0)
            assert arm.grip == grips[-1]
        assert grips[0] == -grips[1]
        # It lets go with the stick still pushed.
        gamepad(tab, axes={3: -1.0})
        rests(tab, ros, arm)
        # A gamepad that vanishes lets go, and has to be seen up when it comes back.
        gamepad(tab, SHOULDER, axes={3: -1.0})
        a_person_drives(tab)
        _plugged(tab, "null")
        rests(tab, ros, arm)
        gamepad(tab, SHOULDER, axes={3: -1.0})
        rests(tab, ros, arm)
        # Of a layout that the browser does not know nothing is guessed.
        gamepad(tab, mapping="")
        gamepad(tab, SHOULDER, axes={3: -1.0}, mapping="")
        rests(tab, ros, arm)
        assert "does not know its layout" in tab.run("document.getElementById('pad').textContent")


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
    end = time.monotonic() + 300
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


class Planned(Node):
    """Goals that are asked for, and plans' ends."""

    def __init__(self) -> None:
        super().__init__("onlooker")
        self.goals: list[NDArray[np.float64]] = []
        """Places (2) [m]."""
        self.ends: list[NDArray[np.float64]] = []
        self.create_subscription(PoseStamped, topics.GOAL, self._on_goal, topics.COMMAND_QOS)
        self.create_subscription(NavPath, topics.PLAN, self._on_plan, topics.DESCRIPTION_QOS)

    def _on_goal(self, msg: PoseStamped) -> None:
        self.goals.append(messages.pose_from_msg(msg)[1][:2])

    def _on_plan(self, msg: NavPath) -> None:
        self.ends.append(messages.path_from_msg(msg)[0][-1, :2])


INSIDE = "document.getElementById('view').contentWindow.__viserMutable"
"""What viser keeps for tests of its own."""
READY = "Boolean(document.getElementById('view')?.contentWindow?.__viserMutable?.nodeRefFromName?.['/goal/ball'])"


def on_screen(tab: Tab, place: Iterable[float]) -> tuple[float, float]:
    """Where a place of the scene [m] is in the window [pixels]."""
    x, y = tab.run(
        f"(() => {{ const m = {INSIDE}, box = document.getElementById('view').getBoundingClientRect();"
        " m.scene.updateMatrixWorld(true); const root = m.nodeRefFromName['/scene'];"
        f" const v = root.localToWorld(root.position.clone().set({', '.join(str(float(x)) for x in place)}));"
        " v.project(m.camera);"
        " return [box.x + box.width * (v.x + 1) / 2, box.y + box.height * (1 - v.y) / 2]; })()"
    )
    return x, y


def shown_goal(tab: Tab) -> NDArray[np.float64]:
    """Where the ball that is dragged is drawn (3) [m]."""
    place = tab.run(
        f"(() => {{ const m = {INSIDE}, ball = m.nodeRefFromName['/goal/ball']; m.scene.updateMatrixWorld(true);"
        " return m.nodeRefFromName['/scene'].worldToLocal(ball.getWorldPosition(ball.position.clone())).toArray(); })()"
    )
    return np.array(place)


def test_a_goal_is_dragged_in_three_dimensions(chromium: Browser, tmp_path: Path) -> None:
    tab = chromium.tab()
    corners = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    with own_domain(), running(tmp_path / "out", *MAZE, "--web-control") as (_, address), nodes() as ros:
        heard = ros.add(Planned())
        tab.open(f"{address}&full")
        tab.call("Page.bringToFront")
        tab.wait(f"{READY} && state.map && state.map.goal && state.map.walls", 300)
        ros.spin_until(lambda: heard.goals and heard.ends, 120)

        def dragged(begin: Iterable[float], end: Iterable[float]) -> None:
            ros.spin(0.2)
            heard.goals.clear()
            heard.ends.clear()
            tab.run("document.getElementById('answer').textContent = ''")
            tab.drag(on_screen(tab, begin), on_screen(tab, end))
            tab.wait("document.getElementById('answer').textContent.startsWith('goal [')")

        def planned_to(place: NDArray[np.float64]) -> None:
            """A goal there was asked for, and there is a plan to it."""
            goal = ros.spin_until(lambda: [g for g in heard.goals if np.linalg.norm(g - place) < 0.1], 60)[0]
            ros.spin_until(lambda: any(np.allclose(end, goal, atol=1e-3) for end in heard.ends), 120)

        eye = tab.run(f"{INSIDE}.camera.position.toArray()")
        # The ball, to the corner that is the farthest away.
        before = shown_goal(tab)
        target = max(corners, key=lambda corner: float(np.linalg.norm(corner - before[:2])))
        dragged(before, np.append(target, 0.0))
        planned_to(target)
        # Its arrow moves it along the arrow only; all corners are free towards the middle of their side.
        before = shown_goal(tab)
        way = -np.sign(before[0]) * 0.3
        dragged(before + [0.6, 0.0, 0.0], before + [0.6 + way, 0.0, 0.0])
        planned_to(before[:2] + [way, 0.0])
        # In a wall nothing is planned, and the ball is back.
        before = shown_goal(tab)
        dragged(before, np.array([-1.0, 0.0, 0.0]))
        assert "in a wall" in tab.run("document.getElementById('answer').textContent")
        ros.spin(1.0)
        assert not any(np.linalg.norm(goal - [-1.0, 0.0]) < 0.5 for goal in heard.goals)
        assert np.linalg.norm(shown_goal(tab) - [-1.0, 0.0, 0.0]) > 0.4
        # The view did not turn meanwhile.
        np.testing.assert_allclose(tab.run(f"{INSIDE}.camera.position.toArray()"), eye, atol=1e-6)
    assert tab.problems == []
    tab.close()


def test_the_system_dies_and_comes_back_on_the_same_page(chromium: Browser, tmp_path: Path) -> None:
    tab = chromium.tab()
    with own_domain():
        with running(tmp_path / "first", *LIFT, "--web") as (_, address):
            tab.open(f"{address}?light")
            tab.wait(f"typeof state === 'object' && {WORD} === 'ACTING'", 120)
        tab.wait(f"{WORD} === 'NO CONNECTION'")
        with running(tmp_path / "second", *LIFT, "--web") as (_, again):
            assert again == address
            tab.wait(f"{WORD} === 'ACTING'", 120)
    tab.close()
