"""The page without ROS and without a browser: who may do what, what it says, and what its server lets through."""

from __future__ import annotations

import json
import stat
import struct
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from diffusion_ros.atomic_file import write_secret
from diffusion_ros.control.pictures import reduced
from diffusion_ros.web.gate import Gate, Role, is_loopback, key, new_token
from diffusion_ros.web.status import NodeStatus, SystemStatus

pytest.importorskip("viser", reason="the extra [web]")

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from diffusion_ros.web import server as web_server
from diffusion_ros.web.server import Page, PageServer, PortError
from diffusion_ros.web.view import View, cylinder, pointed_at

TOKEN = "right-token"


def headers(host: str = "127.0.0.1:8080", origin: str = "") -> dict[str, str]:
    return {"Host": host, **({"Origin": origin} if origin else {})}


# The gate


@pytest.mark.parametrize(
    ("path", "sent", "websocket", "role"),
    [
        ("/", headers(), False, Role.LOOK),
        (f"/?token={TOKEN}", headers(), False, Role.STEER),
        (f"/?token={TOKEN}", headers("localhost:9000"), False, Role.STEER),  # through ssh -L
        (f"/?token={TOKEN}", headers("[::1]:8080"), False, Role.STEER),
        ("/?token=wrong", headers(), False, Role.NOTHING),
        ("/?token=", headers(), False, Role.LOOK),
        (f"/?token={TOKEN}x", headers(), False, Role.NOTHING),
        ("/?token=%C3%A9", headers(), False, Role.NOTHING),
        (f"/?token={TOKEN}", headers("evil.example"), False, Role.NOTHING),  # a name that resolves to 127.0.0.1
        (f"/?token={TOKEN}", headers("127.0.0.1:8080@evil.example"), False, Role.NOTHING),
        (f"/?token={TOKEN}", headers("[evil"), False, Role.NOTHING),
        (f"/?token={TOKEN}", {}, False, Role.NOTHING),
        (f"/live?token={TOKEN}", headers(origin="http://127.0.0.1:8080"), True, Role.STEER),
        (f"/live?token={TOKEN}", headers(), True, Role.NOTHING),
        (f"/live?token={TOKEN}", headers(origin="http://evil.example"), True, Role.NOTHING),
        (f"/live?token={TOKEN}", headers(origin="http://127.0.0.1:8081"), True, Role.NOTHING),
        (f"/live?token={TOKEN}", headers(origin="https://127.0.0.1:8080"), True, Role.NOTHING),
        (f"/live?token={TOKEN}", headers(origin="null"), True, Role.NOTHING),
        ("/live", headers(origin="http://127.0.0.1:8080"), True, Role.LOOK),
        (f"/view/{TOKEN}/", headers(origin="http://127.0.0.1:8080"), True, Role.STEER),
        ("/view/look/", headers(), False, Role.LOOK),
        ("/view/wrong/", headers(), False, Role.NOTHING),
        ("/view/", headers(), False, Role.LOOK),
    ],
)
def test_who_may_do_what(path: str, sent: dict[str, str], websocket: bool, role: Role) -> None:
    assert Gate("127.0.0.1", TOKEN, True).role(path, sent, websocket) == role


def test_without_control_nobody_steers_and_no_token_is_right() -> None:
    gate = Gate("127.0.0.1", "", False)
    assert gate.role("/", headers(), False) == Role.LOOK
    assert gate.role("/?token=", headers(), False) == Role.LOOK
    assert gate.role("/?token=x", headers(), False) == Role.NOTHING


def test_who_comes_from_elsewhere_needs_the_token_to_look() -> None:
    gate = Gate("0.0.0.0", TOKEN, False, ("robot.local",))
    assert gate.role("/", headers("robot.local:8080"), False) == Role.NOTHING
    assert gate.role(f"/?token={TOKEN}", headers("robot.local:8080"), False) == Role.LOOK
    assert gate.role(f"/?token={TOKEN}", headers("other.local:8080"), False) == Role.NOTHING


def test_addresses() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "robot.local")] == [
        *(True, True, True),
        *(False, False),
    ]
    assert key("/view/abc/x?token=b") == "abc" and key("/live?a=1&token=b") == "b" and key("/") == ""
    assert len({new_token() for _ in range(8)}) == 8 and len(new_token()) >= 32


def test_what_has_the_token_is_for_its_owner_alone(tmp_path: Path) -> None:
    write_secret(tmp_path / "new" / "address", "secret\n")
    file = tmp_path / "new" / "address"
    assert file.read_text() == "secret\n" and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(file.parent.iterdir()) == [file]


# What it says

ACTING = NodeStatus(0, "acting", {"estop": "released", "enabled": "True"})


def holding(summary: str, **values: str) -> NodeStatus:
    return NodeStatus(1, summary, {"estop": "released", "enabled": "True", **values})


def system(status: NodeStatus | None, event: str = "running", **news: Any) -> SystemStatus:
    """At 10 s; the simulator and the executor have just spoken."""
    made = SystemStatus()
    if event:
        made.heard_episode({"event": event, "index": 0, "missed": 0, "fault": "", **news}, 10.0)
    if status is not None:
        made.heard("executor", status, 10.0)
    return made


@pytest.mark.parametrize(
    ("made", "word", "reason"),
    [
        (system(None, ""), "WAITING", "the system starts"),
        (system(None, "waiting"), "WAITING", "nothing heard of a policy yet"),
        (system(holding("holding: no chunk yet"), "waiting"), "WAITING", "no chunk yet"),
        (system(holding("holding: no chunk yet")), "HOLDING", "no chunk yet"),
        (system(holding("holding: old"), fault="no command in this period"), "HOLDING", "no command in this period"),
        (system(ACTING), "HOLDING", "no row is due"),  # and no contradiction
        (system(holding("holding: emergency stop: requested", estop="requested")), "STOPPED", "software stop"),
        (system(holding("holding: not enabled", enabled="False")), "HOLDING", "Enable"),
        (system(ACTING, "drawing"), "WAITING", "video"),
        (system(ACTING, "done"), "DONE", ""),
        (system(ACTING, ""), "HOLDING", "no row is due"),  # a robot without episodes
    ],
)
def test_the_large_word(made: SystemStatus, word: str, reason: str) -> None:
    banner = made.banner(10.1)
    assert banner.word == word and reason in banner.reason


def test_rows_that_are_executed_say_that_it_acts_and_their_end_that_it_does_not() -> None:
    made = system(ACTING)
    made.acted(10.0)
    assert made.banner(10.2).word == "ACTING"
    assert made.banner(10.4).word == "HOLDING"
    made.heard("executor", NodeStatus(0, "acting for a person", {**ACTING.values, "decides": "a person"}), 10.4)
    made.acted(10.4)
    assert made.banner(10.5).reason == "a person drives"


def test_a_stop_counts_though_a_row_was_executed_just_now() -> None:
    made = system(holding("holding: emergency stop: requested", estop="requested"))
    made.acted(10.0)
    assert made.banner(10.01).word == "STOPPED"


def test_who_is_silent_is_said() -> None:
    made = system(ACTING)
    assert made.banner(13.5).word == "SILENT" and "executor" in made.banner(13.5).reason
    made.heard("executor", ACTING, 14.0)
    assert "simulator" in made.banner(14.5).reason
    # The graph is there again.
    made.heard_episode({"event": "running", "index": 0, "fault": "x"}, 15.0)
    assert made.banner(15.1).word == "HOLDING"


def test_a_maze_acts_by_its_follower() -> None:
    made = SystemStatus()
    made.heard_episode({"event": "running", "index": 0}, 1.0)
    made.heard("follower", NodeStatus(0, "following"), 1.0)
    assert made.banner(1.1).word == "ACTING"
    made.heard("follower", NodeStatus(1, "holding: no plan"), 1.0)
    assert made.banner(1.1) == type(made.banner(1.1))("HOLDING", "no plan")


def test_scores_and_results() -> None:
    made = SystemStatus()
    for i, success in enumerate((True, False, True)):
        result = {"seed": 7 + i, "steps": 100, "success": success}
        made.heard_episode({"event": "end", "index": i, "result": result}, float(i))
    assert made.score() == "2 of 3 succeeded"
    assert [r["success"] for r in made.facts(3.0)["results"]] == [True, False, True]
    made.heard_episode({"event": "running", "index": 0}, 4.0)
    assert made.score() == "" and made.facts(4.0)["results"] == []
    made.heard_episode({"event": "end", "index": 0, "result": {"return": 4.0, "score": 80.0}}, 5.0)
    assert made.score() == "score 80, mean of 1"


def test_nonsense_in_news_is_left_out() -> None:
    made = SystemStatus()
    made.heard_episode({"event": "running", "index": "zero"}, 1.0)
    assert made.news == {}
    made.heard_episode({"event": "running", "index": 0, "rate": "fast", "step": 1e300, "seed": True}, 1.0)
    facts = made.facts(1.0)
    assert "rate" not in facts and "step" not in facts and "seed" not in facts
    json.dumps(facts, allow_nan=False)


def test_the_strip_counts_periods_that_were_missed_between_its_moments() -> None:
    made = SystemStatus()
    for i, missed in enumerate((0, 2, 2, 5, 0)):
        made.heard_episode({"event": "running", "index": 0, "missed": missed, "rate": 20.0}, float(i))
        made.sample(float(i))
    assert [moment["missed"] for moment in made.strip()] == [0, 2, 0, 3, 0]
    for i in range(400):
        made.sample(10.0 + i)
    assert len(made.strip()) == 150  # 30 s


def test_pictures_are_reduced_but_not_enlarged() -> None:
    large = np.zeros((480, 640, 3), np.uint8)
    assert reduced(large, 320).shape == (240, 320, 3)
    assert reduced(large, 640) is large


def test_a_cylinder_is_closed_and_faces_outwards() -> None:
    corners, faces = cylinder(0.5, 1.0, 12)
    a, b, c = (corners[faces[:, i]] for i in range(3))
    volume = float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)
    assert volume == pytest.approx(12 / 2 * 0.25 * np.sin(2 * np.pi / 12) * 2.0)


@pytest.mark.parametrize(
    ("pointer", "flat", "place"),
    [
        # From 2 m above x = -2 one looks at the level of 0.1 m: halfway down, and at twice and half that steepness.
        ([-1.05, 0.0, 1.05], True, [-0.1, 0.0, 0.1]),
        ([-1.0, 0.0, 0.1], True, [-1.0, 0.0, 0.1]),
        ([0.0, 0.5, 1.05], True, [2.0, 1.0, 0.1]),
        ([0.0, 0.5, 1.05], False, [0.0, 0.5, 1.05]),
        ([0.0, 0.0, 2.0], True, None),
        ([0.0, 0.0, 2.5], True, None),
    ],
)
def test_what_a_mouse_points_at(pointer: list[float], flat: bool, place: list[float] | None) -> None:
    found = pointed_at((-2.0, 0.0, 2.0), pointer, np.array([0.3, 0.2, 0.1]), flat)
    if place is None:
        assert found is None
    else:
        np.testing.assert_allclose(found, place, atol=1e-12)


# The server


class Pages:
    """A server, and what pages sent to it."""

    def __init__(self, gate: Gate) -> None:
        self.server = PageServer("127.0.0.1", 18080, gate)
        self.heard: list[tuple[Page, Mapping[str, Any]]] = []
        self.server.command = lambda page, message: self.heard.append((page, message))
        self.host = f"127.0.0.1:{self.server.port}"

    def get(self, path: str, **extra: str) -> tuple[int, bytes, Mapping[str, str]]:
        request = urllib.request.Request(f"http://{self.host}{path}", headers=extra)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, response.read(), dict(response.headers)
        except urllib.error.HTTPError as error:
            return error.code, error.read(), dict(error.headers)

    def live(self, token: str = "", origin: str | None = None) -> ClientConnection:
        query = f"?token={token}" if token else ""
        return connect(f"ws://{self.host}/live{query}", origin=origin or f"http://{self.host}")  # type: ignore[arg-type]

    def wait(self, condition: Callable[[], Any]) -> Any:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if value := condition():
                return value
            time.sleep(0.01)
        raise AssertionError("not within 20 s")


def messages_until(page: ClientConnection, kind: str) -> list[str | bytes]:
    """What comes, up to the message of that kind."""
    got: list[str | bytes] = []
    while True:
        message = page.recv(10)
        if isinstance(message, str) and json.loads(message)["kind"] == kind:
            return got
        got.append(message)


def drained(page: ClientConnection) -> None:
    while True:
        page.recv(10)


@pytest.fixture(scope="module")
def pages() -> Iterator[Pages]:
    made = Pages(Gate("127.0.0.1", TOKEN, True))
    yield made
    made.server.close()


def test_the_page_and_its_view_are_served(pages: Pages) -> None:
    status, body, sent = pages.get(f"/?token={TOKEN}")
    assert status == 200 and b"<title>diffusion_ros</title>" in body and TOKEN.encode() not in body
    assert sent["Content-Security-Policy"] == "frame-ancestors 'self'" and sent["Referrer-Policy"] == "no-referrer"
    status, view, sent = pages.get(f"/view/{TOKEN}/")
    assert status == 200 and len(view) > 1_000_000 and sent["Content-Security-Policy"] == "frame-ancestors 'self'"
    for path in ("/index.html", "/view/look/../x/", "/view/look/a", "/live", "/%2e%2e/etc/passwd"):
        assert pages.get(path)[0] == 404, path


def test_the_page_asks_nobody_else() -> None:
    text = Path(web_server.__file__).with_name("page.html").read_text()
    assert "http://" not in text.replace("http://${", "") and "https://" not in text and "//cdn" not in text


@pytest.mark.parametrize("path", ["/?token=wrong", "/view/wrong/", "/live?token=wrong", "/x?token=wrong"])
def test_a_wrong_token_gets_nothing(pages: Pages, path: str) -> None:
    status, body, _ = pages.get(path)
    assert status == 403 and len(body) < 100
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://{pages.host}{path}", origin=f"http://{pages.host}")  # type: ignore[arg-type]
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize("path", [f"/live?token={TOKEN}", f"/view/{TOKEN}/", "/live"])
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
def test_other_pages_get_nothing_though_they_know_the_token(pages: Pages, path: str, origin: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://{pages.host}{path}", origin=origin)  # type: ignore[arg-type]
    assert refused.value.response.status_code == 403


def test_other_hosts_get_nothing(pages: Pages) -> None:
    assert pages.get(f"/?token={TOKEN}", Host="evil.example")[0] == 403


def test_who_looks_and_who_steers_is_known_by_the_token(pages: Pages) -> None:
    with pages.live() as looks, pages.live(TOKEN) as steers:
        assert json.loads(looks.recv(10)) == {"kind": "hello", "steer": False, "view": "/view/look/"}
        assert json.loads(steers.recv(10)) == {"kind": "hello", "steer": True, "view": f"/view/{TOKEN}/"}
        pages.heard.clear()
        looks.send(json.dumps({"do": "enable"}))
        steers.send(json.dumps({"do": "stop"}))
        pages.wait(lambda: len(pages.heard) == 2)
        assert {(page.role, message["do"]) for page, message in pages.heard} == {
            (Role.LOOK, "enable"),
            (Role.STEER, "stop"),
        }
        pages.heard[0][0].answer({"kind": "answer", "text": "yours alone"})
        told = json.loads((looks if pages.heard[0][0].role == Role.LOOK else steers).recv(10))
        assert told["text"] == "yours alone"
    pages.wait(lambda: pages.server.pages == 0)


def test_all_who_steer_are_told_of_a_goal_that_was_dragged(pages: Pages) -> None:
    with pages.live() as looks, pages.live(TOKEN) as steers:
        messages_until(looks, "hello")
        messages_until(steers, "hello")
        pages.server.answer({"kind": "answer", "text": "is in a wall"})
        pages.server.tell({"kind": "state"})
        told = messages_until(steers, "state")
        assert [json.loads(message)["text"] for message in told] == ["is in a wall"]
        assert messages_until(looks, "state") == []
    pages.wait(lambda: pages.server.pages == 0)


def test_lines_have_the_colours_of_their_legend(pages: Pages) -> None:
    """A browser makes sRGB of viser's numbers: 0 and 1 stay, and 188 of 255 is half the light."""
    view = View(pages.server.viser)
    view.lines("plan", [np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])], [(255, 188, 0)])
    handle = pages.server.viser.scene.get_handle_by_name("/lines/plan")
    np.testing.assert_allclose(np.asarray(handle.colors)[0], [[255, 128, 0]] * 2, atol=1)


@pytest.mark.parametrize("sent", ["not json", "[1]", "7", "[" * 30_000, b"\x00\x01"])
def test_what_is_no_command_is_not_passed_on(pages: Pages, sent: str | bytes) -> None:
    with pages.live(TOKEN) as page:
        pages.heard.clear()
        page.send(sent)
        page.send(json.dumps({"do": "stop"}))
        pages.wait(lambda: pages.heard)
        assert [message for _, message in pages.heard] == [{"do": "stop"}]


def test_a_message_that_is_too_long_ends_the_page_and_no_other(pages: Pages) -> None:
    with pages.live(TOKEN) as other, pages.live(TOKEN) as page:
        page.recv(10)
        page.send("x" * 70_000)
        with pytest.raises(ConnectionClosed):
            drained(page)
        pages.heard.clear()
        other.send(json.dumps({"do": "stop"}))
        pages.wait(lambda: pages.heard)


def test_state_and_pictures_reach_all_pages_and_a_slow_one_gets_the_newest(pages: Pages) -> None:
    jpeg = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    with pages.live() as one, pages.live(TOKEN) as two:
        pages.server.tell({"kind": "state", "number": 1})
        pages.server.show("agentview", jpeg, 123.0)
        for page in (one, two):
            got = messages_until(page, "seen?")
            while not any(isinstance(message, bytes) for message in got):
                page.send(json.dumps({"seen": True}))
                got += messages_until(page, "seen?")
            assert {"kind": "state", "number": 1} in [json.loads(x) for x in got if isinstance(x, str)]
            (picture,) = [x for x in got if isinstance(x, bytes)]
            (length,) = struct.unpack("<I", picture[:4])
            assert json.loads(picture[4 : 4 + length]) == {"name": "agentview", "taken": 123.0}
            assert picture[4 + length :] == jpeg
        # One says that it has seen it, the other does not: it gets no more, and then the newest alone.
        one.send(json.dumps({"seen": True}))
        pages.wait(lambda: sum(page.waits for page in pages.server._pages.values()) == 1)
        for i in range(5):
            pages.server.show("agentview", jpeg, 200.0 + i)
        assert isinstance(one.recv(2), bytes)
        with pytest.raises(TimeoutError):
            two.recv(0.5)
        two.send(json.dumps({"seen": True}))
        (picture,) = [x for x in messages_until(two, "seen?") if isinstance(x, bytes)]
        assert b'"taken": 204.0' in picture
    pages.server.drop("agentview")


def test_so_many_pages_and_no_more(pages: Pages) -> None:
    pages.wait(lambda: pages.server.pages == 0)
    made = [pages.live() for _ in range(16)]
    try:
        pages.wait(lambda: pages.server.pages == 16)
        with pages.live() as late, pytest.raises(ConnectionClosed):
            late.recv(10)
    finally:
        for page in made:
            page.close()
    pages.wait(lambda: pages.server.pages == 0)


def test_nobody_outside_is_asked_to_share_the_page(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    def outside(*_: object, **__: object) -> None:
        raise AssertionError("an outside host was asked")

    monkeypatch.setattr("viser._viser.ViserTunnel", outside)
    assert pages.server.viser.request_share_url() is None
    pages.server.viser.disconnect_share_url()


def test_two_servers_take_two_ports(pages: Pages) -> None:
    other = PageServer("127.0.0.1", pages.server.port, Gate("127.0.0.1", "", False))
    try:
        assert other.port == pages.server.port + 1
        assert other.address == f"http://127.0.0.1:{other.port}/"
        assert pages.server.address == f"http://{pages.host}/?token={TOKEN}"
    finally:
        other.close()


def test_a_host_that_is_not_ours_is_one_line() -> None:
    with pytest.raises(PortError, match=r"web_port 8080: none of 20 ports .* 192\.0\.2\.1"):
        PageServer("192.0.2.1", 8080, Gate("192.0.2.1", TOKEN, False))
