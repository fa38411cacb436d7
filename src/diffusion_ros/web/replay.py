"""Episodes as viser plays them without a server: its page, which plays what is written into it, and the recordings.

viser records only what a server of its own would send. That one listens on this machine for the time, and refuses
everybody. Poses go into the recording without it, which is many times as fast.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace

import numpy as np
from viser import _messages

from diffusion_ros.simulators.scene_replay import SceneReplay
from diffusion_ros.web.gate import Gate, Role
from diffusion_ros.web.server import PageServer
from diffusion_ros.web.view import View

_GRAIN = 2.0**-14
"""To what poses are rounded [m]: numbers with few digits need a third of the room."""
_LAST_SECONDS = 1.0
"""How long the last pose is seen before it begins again."""
_PORT = 8380
_MARKER = '__VISER_EMBED_DATA__="'


@dataclass(frozen=True)
class Player:
    """viser's page around a recording."""

    before: str
    after: str


class _Closed(Gate):
    def role(self, path: str, headers: Mapping[str, str], websocket: bool) -> Role:
        return Role.NOTHING


class Recorder:
    """Makes recordings of episodes."""

    def __init__(self, server: PageServer) -> None:
        self._viser = server.viser
        self._view = View(server.viser)
        self.player: Player | None = None
        """Known once there is a recording."""

    def record(self, replay: SceneReplay) -> str:
        """An episode as the page takes it, in base64. Raises ValueError where viser's page is another one than it was
        when this was written."""
        view = self._view
        view.look(replay.kind)
        # Walls would hide the arm.
        shapes = [shape for shape in replay.shapes if shape.body or not shape.name.startswith("wall")]
        view.scene([replace(one, type="cylinder") if one.type == "capsule" else one for one in shapes])
        poses = np.round(replay.poses.astype(np.float64) / _GRAIN) * _GRAIN
        if len(poses):
            view.poses({name: (pose[:3], pose[3:]) for name, pose in zip(replay.bodies, poses[0], strict=True)})
        serializer = self._viser.get_scene_serializer()  # which begins with all that is there now
        seen = {shape.body for shape in shapes}
        nodes = [view.node(name) if name in seen else "" for name in replay.bodies]
        for before, now in itertools.pairwise(poses):
            serializer.insert_sleep(1.0 / replay.rate)
            for i in np.flatnonzero((before != now).any(axis=1)):
                if not nodes[i]:
                    continue
                x, y, z, qx, qy, qz, qw = now[i].tolist()
                serializer._insert_message(_messages.SetPositionMessage(nodes[i], (x, y, z)))
                serializer._insert_message(_messages.SetOrientationMessage(nodes[i], (qw, qx, qy, qz)))
        serializer.insert_sleep(_LAST_SECONDS)
        before, marker, rest = serializer.as_html(dark_mode=True).partition(_MARKER)
        data, quote, after = rest.partition('"')
        if not (marker and quote):
            raise ValueError(f"viser's page has no {_MARKER}")
        self.player = Player(before + marker, quote + after)
        return data


@contextmanager
def recorder() -> Iterator[Recorder]:
    """Raises PortError."""
    with redirect_stdout(io.StringIO()):  # viser says there where it listens, and when it stops
        server = PageServer("127.0.0.1", _PORT, _Closed("127.0.0.1", "", False))
        try:
            yield Recorder(server)
        finally:
            server.close()


def recordings(replays: Iterable[SceneReplay], most_bytes: int) -> tuple[Player | None, list[str]]:
    """viser's page, and of the first replays so many recordings as have room, in base64; None where not even one has.

    Raises PortError, ValueError.
    """
    made: list[str] = []
    with recorder() as one:
        for replay in replays:
            made.append(one.record(replay))
            if sum(map(len, made)) > most_bytes:
                made.pop()
                break
        return (one.player if made else None), made
