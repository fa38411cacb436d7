"""Who may see the page and who may steer, by the address and the headers of a request.

A browser sends requests to this machine for any page that it shows. So a host that is not ours is refused (a foreign
name that resolves to 127.0.0.1), and a WebSocket from another origin. What steers needs the token besides.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Mapping
from enum import IntEnum
from urllib.parse import parse_qs, urlsplit

LOOK = "look"
"""In the place of the token, in addresses of those who have none."""


class Role(IntEnum):
    """What somebody may do."""

    NOTHING = 0
    LOOK = 1
    STEER = 2


def new_token() -> str:
    return secrets.token_urlsafe(24)


def is_loopback(host: str) -> bool:
    """Whether only processes of this machine reach an address to listen on."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Gate:
    """token: '' where nobody may steer and all may look. host: what the server listens on; names: what else it is
    called by those who look from elsewhere."""

    def __init__(self, host: str, token: str, steering: bool, names: tuple[str, ...] = ()) -> None:
        self.token, self.steering = token, steering
        self._open = is_loopback(host)
        self._names = {"127.0.0.1", "localhost", "::1", host, *names}

    def role(self, path: str, headers: Mapping[str, str], websocket: bool) -> Role:
        """Of a request for `path`, which has the token as `?token=` or as the folder behind /view/."""
        host = headers.get("Host", "")
        try:
            if urlsplit(f"//{host}").hostname not in self._names:
                return Role.NOTHING
        except ValueError:
            return Role.NOTHING
        if websocket and headers.get("Origin", "") != f"http://{host}":
            return Role.NOTHING
        given = key(path)
        if given and given != LOOK:
            # Bytes: of other characters compare_digest takes no strings.
            right = bool(self.token) and hmac.compare_digest(given.encode(), self.token.encode())
            return (Role.STEER if self.steering else Role.LOOK) if right else Role.NOTHING
        return Role.LOOK if self._open else Role.NOTHING


def key(path: str) -> str:
    """The token that an address has, '' for none."""
    parts = urlsplit(path)
    folders = parts.path.split("/")
    if folders[1:2] == ["view"]:
        return folders[2] if len(folders) > 2 else LOOK
    return parse_qs(parts.query).get("token", [""])[0]
