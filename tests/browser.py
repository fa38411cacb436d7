"""Debian's chromium without a window, driven over its debugging port; `websockets` comes with viser."""

from __future__ import annotations

import base64
import ctypes
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def end_with_the_tests() -> None:
    """For `preexec_fn`: the process gets SIGTERM when the tests are killed, and leaves nothing behind either."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Tab:
    """A page that is open. Raises AssertionError for what its scripts throw."""

    def __init__(self, address: str) -> None:
        from websockets.sync.client import connect

        self._socket = connect(address, max_size=None, open_timeout=30, ping_interval=None)
        self._number = 0
        self.problems: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.requests: list[str] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=300))
            if message.get("id") == self._number:
                assert "error" not in message, message["error"]
                return dict(message["result"])
            self._event(message)

    def _event(self, message: dict[str, Any]) -> None:
        if message.get("method") == "Runtime.exceptionThrown":
            details = message["params"]["exceptionDetails"]
            self.problems.append(str(details.get("exception", {}).get("description") or details["text"]))
        elif message.get("method") == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])

    def open(self, address: str) -> None:
        self.requests = []
        self.call("Page.navigate", url=address)

    def run(self, script: str) -> Any:
        """The value of an expression in the page; promises are waited for."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, script: str, seconds: float = 90.0) -> Any:
        """The value once it is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := self.run(script):
                return value
            time.sleep(0.1)
        word = self.run("document.body ? document.body.innerText.slice(0, 600) : ''")
        raise AssertionError(f"not within {seconds} s: {script}\n{word}\n{self.problems}")

    def key(self, key: str, code: str, kind: str = "", modifiers: int = 0) -> None:
        """A key goes down and up; kind: keyDown or keyUp alone."""
        text = {"text": key} if len(key) == 1 and not modifiers else {}
        for each in [kind] if kind else ["keyDown", "keyUp"]:
            down = text if each == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=each, key=key, code=code, modifiers=modifiers, **down)

    def drag(self, begin: tuple[float, float], end: tuple[float, float], steps: int = 8) -> None:
        """The mouse's left button goes down at a place of the window [pixels], and up at another."""
        self._mouse("mouseMoved", begin, "none")
        self._mouse("mousePressed", begin)
        for i in range(1, steps + 1):
            time.sleep(0.1)  # as a hand does; what comes at once is one motion for a page
            self._mouse("mouseMoved", tuple(a + (b - a) * i / steps for a, b in zip(begin, end, strict=True)))
        self._mouse("mouseReleased", end)

    def _mouse(self, kind: str, place: tuple[float, ...], button: str = "left") -> None:
        down = int(button == "left" and kind != "mouseReleased")
        clicks = int(kind != "mouseMoved")
        x, y = place
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, buttons=down, clickCount=clicks)

    def picture(self, path: Path) -> None:
        """A PNG of what is seen."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        self._socket.close()


class Browser:
    def __init__(self, port: int) -> None:
        self._port = port

    def tab(self) -> Tab:
        import urllib.request

        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/json/new?about:blank", method="PUT")
        with urllib.request.urlopen(request, timeout=30) as response:
            return Tab(json.load(response)["webSocketDebuggerUrl"])


@contextmanager
def browser(folder: Path, size: tuple[int, int] = (1440, 900)) -> Iterator[Browser]:
    """A browser with a profile of its own in `folder`; it leaves no process."""
    assert CHROMIUM is not None
    words = [
        *(CHROMIUM, "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={folder}"),
        *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--no-default-browser-check", "--hide-scrollbars", f"--window-size={size[0]},{size[1]}"),
        *("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--mute-audio"),
        # Pages behind others are to be as quick.
        *("--disable-background-timer-throttling", "--disable-renderer-backgrounding"),
        "--disable-backgrounding-occluded-windows",
        *(("--no-sandbox",) if os.geteuid() == 0 else ()),
        "about:blank",
    ]
    process = subprocess.Popen(
        words,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=end_with_the_tests,
    )
    try:
        port_file = folder / "DevToolsActivePort"
        end = time.monotonic() + 60
        while not (port_file.exists() and port_file.read_text().strip()):
            assert process.poll() is None, f"{CHROMIUM} ended with status {process.returncode}"
            assert time.monotonic() < end, f"{CHROMIUM} has not started"
            time.sleep(0.05)
        yield Browser(int(port_file.read_text().split()[0]))
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
