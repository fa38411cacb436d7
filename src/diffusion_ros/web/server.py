"""The page's server: viser's, with a gate before it, the page itself, and a channel for what is not three-dimensional.

    /                 the page
    /view/<token>/    viser's own page, which the page has in a frame; 'look' in the token's place
    /live             a WebSocket: JSON and pictures out, commands in

One port for all. A thread of its own serves it; what comes in is handed to `command` there, and must not wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import viser
import websockets.asyncio.server
from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from diffusion_ros.web.gate import LOOK, Gate, Role, is_loopback, key

_PERIOD = 0.02
"""Between two messages to a page, at least: what comes meanwhile goes together [s]."""
_MAX_BYTES = 65_536
"""Of a message from a browser."""
_MAX_PAGES = 16
_UNSEEN_SECONDS = 5.0
"""A page that has not said so long that it has seen what was sent gets the next all the same."""
_SEEN = json.dumps({"kind": "seen?"})
"""Asks for an answer: a page that is busy gets no more than it can show."""
_TRIES = 20
"""Ports, from the one that was asked for on."""
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # In a frame of another page somebody could be made to click on Enable.
    "Content-Security-Policy": "frame-ancestors 'self'",
}


class PortError(OSError):
    """No port to listen on; one line."""


@dataclass
class Page:
    """Somebody who looks."""

    role: Role
    number: int
    outbox: list[str] = field(default_factory=list)
    """Answers that wait."""
    state: int = -1
    """Of the state that it has had last."""
    pictures: dict[str, int] = field(default_factory=dict)
    """By name, the number of the picture that it has had last."""
    sent: float = 0.0
    waits: bool = False
    """Whether something is on its way that it has not seen yet."""
    wake: Callable[[], None] = lambda: None
    """Says that there is something to send; from any thread."""

    def answer(self, message: Mapping[str, Any]) -> None:
        """Tells this page alone. From any thread."""
        self.outbox.append(json.dumps(message))
        self.wake()


@dataclass(frozen=True)
class Picture:
    """A JPEG, and when it was taken [ms since 1970]."""

    number: int
    taken_ms: float
    jpeg: bytes


class _Viser(viser.ViserServer):
    """Never asks an outside host for an address by which others could look, whatever a browser asks for."""

    def request_share_url(self, verbose: bool = True) -> str | None:
        return None

    def disconnect_share_url(self) -> None:
        return


class PageServer:
    """Serves from the moment that it is made. Raises PortError."""

    def __init__(self, host: str, port: int, gate: Gate) -> None:
        self._gate, self._host = gate, host
        self._html = Path(__file__).with_name("page.html").read_bytes()
        self._pages: dict[int, Page] = {}
        self._count = 0
        self._state: tuple[int, str] = (0, "")
        self._pictures: dict[str, Picture] = {}
        self._roles: dict[int, Role] = {}
        self.command: Callable[[Page, Mapping[str, Any]], None] = lambda page, message: None
        """Called with what a page sends, also where it may not steer."""
        self.came: Callable[[Page], None] = lambda page: None
        self.left: Callable[[Page], None] = lambda page: None
        port = _free_port(host, port)
        with self._before_viser():
            self.viser = _Viser(host=host, port=port, verbose=False)
        self.port: int = self.viser.get_port()

    @property
    def address(self) -> str:
        """What to open, with the token."""
        host = self._host if is_loopback(self._host) and ":" not in self._host else socket.gethostname()
        token = f"?token={self._gate.token}" if self._gate.token else ""
        return f"http://{host}:{self.port}/{token}"

    @property
    def pages(self) -> int:
        """How many look."""
        return len(self._pages)

    def tell(self, state: Mapping[str, Any]) -> None:
        """What all pages show; from any thread."""
        self._state = self._state[0] + 1, json.dumps(state)
        self._wake()

    def answer(self, message: Mapping[str, Any]) -> None:
        """Tells all pages that may steer; from any thread."""
        for page in list(self._pages.values()):
            if page.role == Role.STEER:
                page.answer(message)

    def show(self, name: str, jpeg: bytes, taken_ms: float) -> None:
        """A picture, in place of the last of that name; from any thread."""
        before = self._pictures.get(name)
        self._pictures[name] = Picture(before.number + 1 if before else 1, taken_ms, jpeg)
        self._wake()

    def _wake(self) -> None:
        for page in list(self._pages.values()):
            page.wake()

    def drop(self, name: str) -> None:
        """A camera is gone."""
        self._pictures.pop(name, None)

    def may_steer(self, client_id: int) -> bool:
        """Whether one of viser's clients came with the token."""
        connection = self.viser._websock_server._live_connections.get(client_id)
        if connection is None or connection.request is None:
            return False
        return self._role(connection.request, True) == Role.STEER

    def close(self) -> None:
        self.viser.stop()

    # The gate

    @contextlib.contextmanager
    def _before_viser(self) -> Iterator[None]:
        """viser has no place for a gate: what it serves with is wrapped while it starts."""
        serve = websockets.asyncio.server.serve

        def gated(handler: Any, host: str, port: int, **options: Any) -> Any:
            behind = options["process_request"]
            options["process_request"] = lambda connection, request: self._answer(behind, connection, request)
            options["max_size"] = _MAX_BYTES
            # A browser that draws in software may not answer for long.
            options["ping_timeout"] = 60
            return serve(lambda connection: self._handle(handler, connection), host, port, **options)

        websockets.asyncio.server.serve = gated  # type: ignore[misc,assignment]
        try:
            yield
        finally:
            websockets.asyncio.server.serve = serve  # type: ignore[misc]

    def _role(self, request: Request, websocket: bool) -> Role:
        if len(request.headers.get_all("Host")) != 1 or len(request.headers.get_all("Origin")) > 1:
            return Role.NOTHING
        return self._gate.role(request.path, request.headers, websocket)

    def _answer(self, behind: Any, connection: ServerConnection, request: Request) -> Response | None:
        websocket = request.headers.get("Upgrade", "").lower() == "websocket"
        if self._role(request, websocket) == Role.NOTHING:
            return _response(HTTPStatus.FORBIDDEN, b"This address, or its token, is not the page's.\n", "text/plain")
        path = request.path.partition("?")[0]
        if websocket:
            return None
        if path == "/":
            return _response(HTTPStatus.OK, self._html, "text/html; charset=utf-8")
        if path.startswith("/view/") and path.count("/") == 3 and path.endswith("/"):
            request.path = "/"  # of viser's own folder
            response: Response = behind(connection, request)
            for name, value in _HEADERS.items():
                response.headers[name] = value
            return response
        return _response(HTTPStatus.NOT_FOUND, b"There is no such page.\n", "text/plain")

    async def _handle(self, viser_handler: Any, connection: ServerConnection) -> None:
        path = connection.request.path if connection.request is not None else ""
        if path.startswith("/view/"):
            await viser_handler(connection)
        elif path.partition("?")[0] == "/live":
            await self._live(connection)

    # The channel

    async def _live(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        if len(self._pages) >= _MAX_PAGES:
            await connection.close(1013, f"{_MAX_PAGES} pages look already")
            return
        self._count += 1
        page, news = Page(self._role(connection.request, True), self._count), asyncio.Event()
        loop = asyncio.get_running_loop()

        def wake() -> None:
            if not news.is_set():
                with contextlib.suppress(RuntimeError):  # the server has just ended
                    loop.call_soon_threadsafe(news.set)

        page.wake = wake
        token = key(connection.request.path) or LOOK
        page.answer({"kind": "hello", "steer": page.role == Role.STEER, "view": f"/view/{token}/"})
        self._pages[page.number] = page
        self.came(page)
        sending = asyncio.create_task(self._send(connection, page, news))
        try:
            async for text in connection:
                message = _read(text)
                if message is None:
                    continue
                if "seen" in message:
                    page.waits = False
                    news.set()
                else:
                    self.command(page, message)
        except ConnectionClosed:
            pass
        finally:
            sending.cancel()
            self._pages.pop(page.number, None)
            self.left(page)

    async def _send(self, connection: ServerConnection, page: Page, news: asyncio.Event) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(news.wait(), _UNSEEN_SECONDS)
                news.clear()
                while page.outbox:
                    await connection.send(page.outbox.pop(0))
                if not page.waits or time.monotonic() - page.sent > _UNSEEN_SECONDS:
                    await self._send_newest(connection, page)
                await asyncio.sleep(_PERIOD)

    async def _send_newest(self, connection: ServerConnection, page: Page) -> None:
        """State and pictures that it has not had. What comes before it has seen them waits: of that, the newest."""
        number, text = self._state
        new: list[str | bytes] = [text] if number != page.state and text else []
        page.state = number
        for name, picture in list(self._pictures.items()):
            if page.pictures.get(name) != picture.number:
                page.pictures[name] = picture.number
                new.append(packed(name, picture))
        if new:
            page.sent, page.waits = time.monotonic(), True
            for message in [*new, _SEEN]:
                await connection.send(message)


def packed(name: str, picture: Picture) -> bytes:
    """A picture as a page takes it: the length of a header in JSON, 4 bytes, least first; the header; the JPEG."""
    header = json.dumps({"name": name, "taken": picture.taken_ms}).encode()
    return struct.pack("<I", len(header)) + header + picture.jpeg


def _read(text: str | bytes) -> dict[str, Any] | None:
    """What a page sent, None for what is none of ours."""
    if not isinstance(text, str):
        return None
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def _response(status: HTTPStatus, body: bytes, kind: str) -> Response:
    headers = Headers({"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close", **_HEADERS})
    return Response(status.value, status.phrase, headers, body)


def _free_port(host: str, port: int) -> int:
    """The first from `port` on that nobody listens on; viser itself would try for ever."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    reason = ""
    for candidate in range(port, min(port + _TRIES, 65536)):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
            except OSError as error:
                reason = str(error.strerror)
                continue
            return int(probe.getsockname()[1])
    raise PortError(f"web_port {port}: none of {_TRIES} ports from it on can be listened on at {host}: {reason}")
